// The ReLU of a row, and its mask as one bit a value where a residual is added: the backward needs neither the residual
// nor the result then. A NaN is let through, as torch's ReLU does.

#pragma once

#include "rows.hpp"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

// max(s x + t, 0) of a row.
inline void activate(const float* x, const float* s, const float* t, float* to, int64_t channels) {
    in_pieces(channels, [&](int64_t begin, auto n) {
#pragma omp simd
        for (int64_t i = begin; i < begin + n; ++i) {
            to[i] = activated(s[i], x[i], t[i]);
        }
    });
}

// max(s x + t + with, 0) of a row, one bit a value for those above zero; channels in sixteens if bits are wanted.
inline void activate_joined(const float* x, const float* s, const float* t, const float* with, float* to, uint8_t* bits,
                            int64_t channels) {
    if (bits == nullptr) {
        in_pieces(channels, [&](int64_t begin, auto n) {
#pragma omp simd
            for (int64_t i = begin; i < begin + n; ++i) {
                const float z = std::fma(s[i], x[i], t[i]) + with[i];
                to[i] = z <= 0 ? 0 : z;
            }
        });
        return;
    }
#if defined(__AVX512F__)
    for (int64_t i = 0; i < channels; i += 16) {
        const __m512 z = _mm512_add_ps(
            _mm512_fmadd_ps(_mm512_loadu_ps(s + i), _mm512_loadu_ps(x + i), _mm512_loadu_ps(t + i)),
            _mm512_loadu_ps(with + i));
        const __mmask16 open = _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_NLE_UQ);
        _mm512_storeu_ps(to + i, _mm512_maskz_mov_ps(open, z));
        bits[i / 8] = uint8_t(open);
        bits[i / 8 + 1] = uint8_t(open >> 8);
    }
#else
    for (int64_t i = 0; i < channels; i += 8) {
        unsigned open = 0;
        for (int64_t k = 0; k < 8; ++k) {
            const float z = std::fma(s[i + k], x[i + k], t[i + k]) + with[i + k];
            to[i + k] = z <= 0 ? 0 : z;
            open |= unsigned(!(z <= 0)) << k;
        }
        bits[i / 8] = uint8_t(open);
    }
#endif
}

// grad where the bits are set.
inline void open_by_bits(const float* grad, const uint8_t* bits, float* to, int64_t channels) {
#if defined(__AVX512F__)
    for (int64_t i = 0; i < channels; i += 16) {
        const __mmask16 open = __mmask16(bits[i / 8] | bits[i / 8 + 1] << 8);
        _mm512_storeu_ps(to + i, _mm512_maskz_loadu_ps(open, grad + i));
    }
#else
    for (int64_t i = 0; i < channels; ++i) to[i] = bits[i / 8] >> (i % 8) & 1 ? grad[i] : 0;
#endif
}
}  // namespace
