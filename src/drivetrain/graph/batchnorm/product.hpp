// A matrix product for tiles that lie in cache: rows of twelve, panels of two vectors, all sums in registers.
//
// BLAS takes a tile apart and packs it before it multiplies; here the tile was just written by ourselves, and the weight
// is packed once for all tiles. Sizes that are no multiple of a vector are for BLAS (`product_fits`).

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kBlock = 12;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int kLanes = 8, kBlock = 6;
#else
constexpr int kLanes = 4, kBlock = 6;
#endif
constexpr int64_t kPanel = 2 * kLanes, kDepth = 512;

typedef float Vector __attribute__((vector_size(sizeof(float) * kLanes)));

inline Vector load(const float* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }

// c[R, V lanes] (+)= a[R, depth] b[depth, V lanes]; a transposed: a[depth, R].
template <int R, int V, bool Transposed>
void block(const float* __restrict a, int64_t lda, const float* __restrict b, int64_t ldb, int64_t depth,
           float* __restrict c, int64_t ldc, bool add) {
    Vector sums[R][V] = {};
    for (int64_t k = 0; k < depth; ++k) {
        Vector right[V];
        for (int v = 0; v < V; ++v) right[v] = load(b + k * ldb + v * kLanes);
        for (int i = 0; i < R; ++i) {
            const float left = Transposed ? a[k * lda + i] : a[i * lda + k];
            for (int v = 0; v < V; ++v) sums[i][v] += left * right[v];
        }
    }
    for (int i = 0; i < R; ++i)
        for (int v = 0; v < V; ++v) {
            float* to = c + i * ldc + v * kLanes;
            store(to, add ? load(to) + sums[i][v] : sums[i][v]);
        }
}

using Block = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t, bool);

template <int V, bool Transposed, size_t... I>
Block pick(int64_t rows, std::index_sequence<I...>) {
    static const Block all[] = {block<int(I) + 1, V, Transposed>...};
    return all[rows - 1];
}

// One panel of c: V vectors wide, all rows.
template <int V, bool Transposed>
void panel(int64_t rows, int64_t depth, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
           bool add) {
    for (int64_t i = 0; i < rows; i += kBlock) {
        const int64_t size = std::min<int64_t>(kBlock, rows - i);
        pick<V, Transposed>(size, std::make_index_sequence<kBlock>())(
            Transposed ? a + i : a + i * lda, lda, b, ldb, depth, c + i * ldc, ldc, add);
    }
}

inline bool product_fits(int64_t columns) { return columns % kLanes == 0; }

// b[depth, columns] (element (k, j) at b[k * row_step + j * column_step]) as panels, each [depth, its width].
inline std::vector<float> packed(const float* b, int64_t depth, int64_t columns, int64_t row_step, int64_t column_step) {
    std::vector<float> panels(depth * columns);
    float* to = panels.data();
    for (int64_t j = 0; j < columns; j += kPanel)
        for (int64_t k = 0; k < depth; ++k)
            for (int64_t i = j; i < std::min(j + kPanel, columns); ++i) *to++ = b[k * row_step + i * column_step];
    return panels;
}

// c[rows, columns] (+)= a b: b packed in panels, or (step > 0) with that many values from row to row.
template <bool Transposed>
void product(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t lda, const float* b, int64_t step,
             float* c, int64_t ldc, bool add) {
    for (int64_t k = 0; k < depth; k += kDepth) {
        const int64_t deep = std::min(kDepth, depth - k);
        const float* left = Transposed ? a + k * lda : a + k;
        for (int64_t j = 0; j < columns; j += kPanel) {
            const int64_t wide = std::min(kPanel, columns - j), ldb = step > 0 ? step : wide;
            const float* right = step > 0 ? b + k * step + j : b + j * depth + k * wide;
            if (wide == kPanel)
                panel<2, Transposed>(rows, deep, left, lda, right, ldb, c + j, ldc, add || k > 0);
            else
                panel<1, Transposed>(rows, deep, left, lda, right, ldb, c + j, ldc, add || k > 0);
        }
    }
}

}  // namespace
