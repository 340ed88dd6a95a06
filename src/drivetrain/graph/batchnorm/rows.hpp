// Features as matrices [rows, channels]: their parts, tiles of their rows, and what is summed up for each channel.
//
// Sums are in float over a tile of at most 252 rows, shifted by the tile's first row, and in double above it, merged by
// Chan's formula (spec 19, 2.5). What is summed up for a channel stays in the first-level cache.

#pragma once

#include "batchnorm.hpp"
#include "product.hpp"

#include <type_traits>

namespace {

constexpr int64_t kRows = 252;  // at most 256 values are summed in float; twelve rows are a block of the product

// Rows of a tile whose two scratch matrices fit the second-level cache.
int64_t tile_height(int64_t width) { return std::clamp<int64_t>((1 << 15) / width / kBlock * kBlock, 60, kRows); }

template <int N>
using Size = std::integral_constant<int, N>;

// Cuts [0, channels) into pieces of a length that the compiler knows, the largest of 32, 16 and 8 that is allowed.
template <typename Work>
inline void in_pieces(int64_t channels, const Work& work, int64_t widest = 32) {
    int64_t i = 0;
    for (; widest >= 32 && i + 32 <= channels; i += 32) work(i, Size<32>());
    for (; widest >= 16 && i + 16 <= channels; i += 16) work(i, Size<16>());
    for (; widest >= 8 && i + 8 <= channels; i += 8) work(i, Size<8>());
    for (; i < channels; ++i) work(i, Size<1>());
}

template <typename T>
struct Part {
    T* base;
    int64_t channels, step, first;

    T* row(int64_t r) const { return base + r * step; }
};

template <typename T>
std::vector<Part<T>> parts_of(T* const* bases, const int64_t* channels, const int64_t* steps, int64_t count) {
    std::vector<Part<T>> parts;
    int64_t first = 0;
    for (int64_t p = 0; p < count; first += channels[p], ++p) parts.push_back({bases[p], channels[p], steps[p], first});
    return parts;
}

template <typename T>
int64_t width_of(const std::vector<Part<T>>& parts) {
    return parts.back().first + parts.back().channels;
}

// Tiles of the rows, cut evenly; the cut depends on nothing but the number of threads.
template <typename Work>
void for_tiles(int64_t rows, int64_t height, int64_t threads, const Work& work) {
    const int64_t tiles = (rows + height - 1) / height;
    on_threads(threads, [&](int64_t thread) {
        for (int64_t tile = tiles * thread / threads; tile < tiles * (thread + 1) / threads; ++tile)
            work(thread, tile * height, std::min(height, rows - tile * height));
    });
}

// Moments of all channels: count, mean and sum of squared differences.
struct Moments {
    double count = 0;
    std::vector<double> mean, m2;

    explicit Moments(int64_t channels) : mean(channels, 0), m2(channels, 0) {}

    void add(const Moments& other) {
        if (other.count == 0) return;
        const double total = count + other.count, share = other.count / total, weight = count * share;
        for (size_t c = 0; c < mean.size(); ++c) {
            const double delta = other.mean[c] - mean[c];
            mean[c] += delta * share;
            m2[c] += other.m2[c] + delta * delta * weight;
        }
        count = total;
    }
};

// Adds tiles of at most kRows rows to moments.
struct Adder {
    std::vector<float> sum, square;

    explicit Adder(int64_t channels) : sum(channels), square(channels) {}

    void add(Moments& all, int64_t first, const float* x, int64_t step, int64_t rows, int64_t channels) {
        float* s = sum.data();
        float* q = square.data();
        std::fill(s, s + channels, 0.0f);
        std::fill(q, q + channels, 0.0f);
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4) {
            const float *a = x + r * step, *b = a + step, *c = b + step, *d = c + step;
            in_pieces(channels, [&](int64_t begin, auto n) {
#pragma omp simd
                for (int64_t i = begin; i < begin + n; ++i) {
                    const float shift = x[i], da = a[i] - shift, db = b[i] - shift, dc = c[i] - shift, dd = d[i] - shift;
                    s[i] += (da + db) + (dc + dd);
                    q[i] += (da * da + db * db) + (dc * dc + dd * dd);
                }
            });
        }
        for (; r < rows; ++r) {
            const float* a = x + r * step;
            in_pieces(channels, [&](int64_t begin, auto n) {
#pragma omp simd
                for (int64_t i = begin; i < begin + n; ++i) {
                    const float da = a[i] - x[i];
                    s[i] += da;
                    q[i] += da * da;
                }
            });
        }
        const double size = double(rows), total = all.count + size, share = size / total, weight = all.count * share;
        double* mean = all.mean.data() + first;
        double* m2 = all.m2.data() + first;
        in_pieces(channels, [&](int64_t begin, auto n) {
#pragma omp simd
            for (int64_t i = begin; i < begin + n; ++i) {
                const double moved = double(s[i]) / size, rest = double(q[i]) - moved * s[i];
                const double delta = x[i] + moved - mean[i];
                mean[i] += delta * share;
                m2[i] += (rest < 0 ? 0 : rest) + delta * delta * weight;  // a NaN stays
            }
        });
    }
};

void merge_to(const std::vector<Moments>& by_thread, double* mean, double* m2) {
    Moments all(int64_t(by_thread[0].mean.size()));
    for (const auto& one : by_thread) all.add(one);
    std::copy(all.mean.begin(), all.mean.end(), mean);
    std::copy(all.m2.begin(), all.m2.end(), m2);
}

// The sums of a batch norm's backward: of dz and of dz (x - mean), float over a tile, double above.
struct Sums {
    std::vector<double> total, against;
    std::vector<float> sum, product;

    explicit Sums(int64_t channels) : total(channels, 0), against(channels, 0), sum(channels), product(channels) {}

    void begin() {
        std::fill(sum.begin(), sum.end(), 0.0f);
        std::fill(product.begin(), product.end(), 0.0f);
    }
    void end() {
        for (size_t c = 0; c < sum.size(); ++c) total[c] += sum[c], against[c] += product[c];
    }
};

// dbeta, dgamma, and the mean of dz and the slope along x that the input's gradient takes off.
struct Slopes {
    std::vector<float> shift, slope;

    Slopes(const std::vector<Sums>& by_thread, const float* inv, double m, double* dgamma, double* dbeta)
        : shift(by_thread[0].total.size()), slope(shift.size()) {
        for (size_t c = 0; c < shift.size(); ++c) {
            double total = 0, against = 0;
            for (const auto& one : by_thread) total += one.total[c], against += one.against[c];
            dbeta[c] = total;
            dgamma[c] = against * inv[c];
            shift[c] = float(total / m);
            slope[c] = float(against * inv[c] * inv[c] / m);
        }
    }
};

}  // namespace
