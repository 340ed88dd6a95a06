// What the kernels of both layouts share: torch's threads and matrix product, Chan's formula, the rule of the ReLU.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*,
                      const int*, const float*, const int*, const float*, float*, const int*);
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);

Gemm g_gemm = nullptr;
Team g_team = nullptr;

template <typename Work>
void on_threads(int64_t threads, const Work& work) {
    if (threads <= 1) return work(0);
    if (g_team != nullptr) {
        // A nested or shrunken team is smaller than asked for: shares are taken in turn, none is left out.
        struct Shares {
            const Work& work;
            int64_t count;
            std::atomic<int64_t> next{0};
        } shares{work, threads};
        auto call = [](void* data) {
            auto& all = *static_cast<Shares*>(data);
            for (int64_t t; (t = all.next++) < all.count;) all.work(t);
        };
        g_team(call, &shares, static_cast<unsigned>(threads), 0);
        return;
    }
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; ++t) others.emplace_back([&, t] { work(t); });
    work(0);
    for (auto& other : others) other.join();
}

// c = op(a) op(b) + beta c, column by column as BLAS counts.
inline void gemm(char a_op, char b_op, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                 int64_t ldb, float beta, float* c, int64_t ldc) {
    const int sizes[6] = {int(m), int(n), int(k), int(lda), int(ldb), int(ldc)};
    const float one = 1;
    g_gemm(&a_op, &b_op, sizes, sizes + 1, sizes + 2, &one, a, sizes + 3, b, sizes + 4, &beta, c, sizes + 5);
}

inline float activated(float s, float x, float t) {
    const float z = std::fma(s, x, t);
    return z <= 0 ? 0 : z;  // a NaN stays
}

}  // namespace

extern "C" void batchnorm_setup(void* sgemm, void* team) {
    g_gemm = reinterpret_cast<Gemm>(sgemm);
    g_team = reinterpret_cast<Team>(team);
}
