// 3LC over float32 on the CPU: quantise, residual, quartic and zero-run coding in chunks that stay in the L2 cache
// (quantize.py, quartic.py and zero_run.py say what each computes; bytes are identical).
//
// A chunk is kChunk quartic bytes, so 5 * kChunk values: the same stretch of each of the five parts. The byte is built by
// Horner's rule, one part at a time, so every inner loop runs over contiguous values under one scale. Scales are read and
// written by memcpy: a message may start at any address. q is -1, 0 or 1, so M * q is exact and no fused multiply-add can
// change a bit.

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t kChunk = 8192;
constexpr int64_t kRun = 14;
constexpr uint8_t kZero = 121;
constexpr uint8_t kFirstRun = 243;
constexpr uint64_t kZeros = 0x7979797979797979ull;  // kZero eight times
constexpr uint64_t kLow7 = 0x7f7f7f7f7f7f7f7full;

float load_float(const uint8_t* bytes, int64_t index) {
    float value;
    std::memcpy(&value, bytes + 4 * index, 4);
    return value;
}

// Calls work(begin, end, block number) for the pieces of [begin, end) that share a scale.
template <typename Work>
void by_block(int64_t begin, int64_t end, int64_t block, Work work) {
    while (begin < end) {
        const int64_t number = block ? begin / block : 0;
        const int64_t stop = block ? std::min(end, (number + 1) * block) : end;
        work(begin, stop, number);
        begin = stop;
    }
}

template <bool kResidual>
bool scales(const float* x, const float* residual, int64_t n, int64_t block, float s, uint8_t* out) {
    bool finite = true;
    by_block(0, n, block, [&](int64_t begin, int64_t end, int64_t number) {
        // |x| ordered as integers is |x| ordered as floats, and infinities and NaNs come last.
        int32_t largest = 0;
        for (int64_t i = begin; i < end; ++i) {
            const float v = kResidual ? x[i] + residual[i] : x[i];
            int32_t bits;
            std::memcpy(&bits, &v, 4);
            largest = std::max(largest, bits & 0x7fffffff);
        }
        finite = finite && largest < 0x7f800000;
        float m;
        std::memcpy(&m, &largest, 4);
        m = std::min(m * s, 3.40282346638528859812e+38f);
        std::memcpy(out + 4 * number, &m, 4);
    });
    return finite;
}

// Writes zero-run coded bytes; a run may go on from one chunk to the next.
struct RunWriter {
    uint8_t* out;
    int64_t run = 0;

    void end_run() {
        for (; run > kRun; run -= kRun) *out++ = 255;
        // Written without a branch: whether a run stands before a byte can't be predicted.
        *out = run == 1 ? kZero : static_cast<uint8_t>(kFirstRun - 2 + run);
        out += run > 0;
        run = 0;
    }

    void put(const uint8_t* bytes, int64_t count) {
        int64_t i = 0;
        for (; i + 8 <= count; i += 8) {
            uint64_t word;
            std::memcpy(&word, bytes + i, 8);
            word ^= kZeros;
            uint64_t marks = (((word & kLow7) + kLow7) | word) & ~kLow7;  // bit 7 of every byte that is not kZero
            int64_t last = 0;
            while (marks) {
                const int64_t at = __builtin_ctzll(marks) >> 3;
                run += at - last;
                end_run();
                *out++ = bytes[i + at];
                last = at + 1;
                marks &= marks - 1;
            }
            run += 8 - last;
        }
        for (; i < count; ++i) {
            if (bytes[i] == kZero) {
                ++run;
            } else {
                end_run();
                *out++ = bytes[i];
            }
        }
    }
};

template <bool kResidual, bool kValue>
int64_t pack(const float* x, float* residual, float* value, int64_t n, int64_t block, const uint8_t* scale,
             bool zero_run, uint8_t* payload) {
    const int64_t length = (n + 4) / 5;
    alignas(64) uint8_t chunk[kChunk];
    RunWriter runs{payload};
    for (int64_t start = 0; start < length; start += kChunk) {
        const int64_t count = std::min(kChunk, length - start);
        std::memset(chunk, 0, count);
        for (int64_t part = 0; part < 5; ++part) {
            const int64_t first = part * length + start;
            const int64_t last = std::max(first, std::min(first + count, n));
            by_block(first, last, block, [&](int64_t begin, int64_t end, int64_t number) {
                const float m = load_float(scale, number);
                uint8_t* bytes = chunk + (begin - first);
                const float* in = x + begin;
                float* rest = kResidual ? residual + begin : nullptr;
                float* seen = kValue ? value + begin : nullptr;
                for (int64_t i = 0; i < end - begin; ++i) {
                    const float v = kResidual ? in[i] + rest[i] : in[i];
                    const int32_t q = (2 * v > m) - (2 * v < -m);
                    if (kResidual) rest[i] = v - m * static_cast<float>(q);
                    if (kValue) seen[i] = m * static_cast<float>(q);
                    bytes[i] = static_cast<uint8_t>(3 * bytes[i] + q + 1);
                }
            });
            for (int64_t i = last - first; i < count; ++i) chunk[i] = static_cast<uint8_t>(3 * chunk[i] + 1);
        }
        if (zero_run) {
            runs.put(chunk, count);
        } else {
            std::memcpy(runs.out, chunk, count);
            runs.out += count;
        }
    }
    if (zero_run) runs.end_run();
    return runs.out - payload;
}

// How many quartic bytes a payload stands for; -1 if a byte is no quartic byte and runs are off.
int64_t expanded(const uint8_t* payload, int64_t size, bool zero_run) {
    int64_t extra = 0;
    for (int64_t i = 0; i < size; ++i) extra += payload[i] >= kFirstRun ? payload[i] - (kFirstRun - 1) : 0;
    if (zero_run) return size + extra;
    return extra ? -1 : size;
}

}  // namespace

extern "C" {

// Scales s * max|x + residual| of each block, at `out` (float32); 0 if all values are finite, else 1. No residual: null.
int64_t threelc_scales(const float* x, const float* residual, int64_t n, int64_t block, float s, uint8_t* out) {
    if (n == 0 && block == 0) std::memset(out, 0, 4);
    return residual ? !scales<true>(x, residual, n, block, s, out) : !scales<false>(x, residual, n, block, s, out);
}

// Writes the payload (room for ceil(n / 5) + 1 bytes) and returns its size. Where `residual` is not null, x + residual is
// coded and what is lost stays in it; where `value` is not null, it becomes what the receiver will see.
int64_t threelc_pack(const float* x, float* residual, float* value, int64_t n, int64_t block, const uint8_t* scale,
                     int64_t zero_run, uint8_t* payload) {
    if (residual) return value ? pack<true, true>(x, residual, value, n, block, scale, zero_run, payload)
                               : pack<true, false>(x, residual, value, n, block, scale, zero_run, payload);
    return value ? pack<false, true>(x, residual, value, n, block, scale, zero_run, payload)
                 : pack<false, false>(x, residual, value, n, block, scale, zero_run, payload);
}

// Decodes n values to `out`; returns 0, or 1 for a payload or scale that is not valid (nothing is written then).
int64_t threelc_unpack(const uint8_t* payload, int64_t size, int64_t zero_run, int64_t n, int64_t block,
                       const uint8_t* scale, float* out) {
    const int64_t length = (n + 4) / 5;
    const int64_t scale_count = block ? (n + block - 1) / block : 1;
    for (int64_t k = 0; k < scale_count; ++k)
        if (!(load_float(scale, k) >= 0) || load_float(scale, k) > 3.40282346638528859812e+38f) return 1;
    if (expanded(payload, size, zero_run) != length) return 1;
    alignas(64) uint8_t chunk[kChunk + 16];
    int64_t filled = 0;
    const uint8_t* const stop = payload + size;
    for (int64_t start = 0; start < length; start += kChunk) {
        const int64_t count = std::min(kChunk, length - start);
        while (filled < count) {
            const uint8_t byte = payload < stop ? *payload++ : kZero;
            const bool is_run = byte >= kFirstRun;
            std::memset(chunk + filled, is_run ? kZero : byte, 16);  // always 16, then step: no branch to predict
            filled += is_run ? byte - (kFirstRun - 2) : 1;
        }
        const int64_t over = filled - count;  // a run's end that belongs to the next chunk, at most 13 bytes of kZero
        for (int64_t part = 4; part >= 0; --part) {
            const int64_t first = part * length + start;
            const int64_t last = std::max(first, std::min(first + count, n));
            by_block(first, last, block, [&](int64_t begin, int64_t end, int64_t number) {
                const float m = load_float(scale, number);
                const uint8_t* bytes = chunk + (begin - first);
                float* seen = out + begin;
                for (int64_t i = 0; i < end - begin; ++i) {
                    const int32_t third = (bytes[i] * 171) >> 9;  // bytes[i] / 3, exact up to 255
                    seen[i] = m * static_cast<float>(bytes[i] - 3 * third - 1);
                }
            });
            for (int64_t i = 0; i < count; ++i) chunk[i] = static_cast<uint8_t>((chunk[i] * 171) >> 9);
        }
        std::memset(chunk, kZero, 16);
        filled = over;
    }
    return 0;
}

}  // extern "C"
