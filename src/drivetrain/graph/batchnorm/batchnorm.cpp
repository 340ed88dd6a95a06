// Sweeps over the feature maps around a batch normalisation, float32, NCHW (kernel.py has the entry points; spec 19, 2 and 4).
//
// An input is a list of parts that stand for their concatenation along the channels: nothing is copied together. Sums are
// in float inside a row of at most 4,096 values, shifted by its first value, and in double above it (section 2.5).
// What belongs to one channel is done in one visit: a channel of a mini-batch fits the second-level cache, so the second
// sweep over it does not reach memory. The mask of the ReLU is fma(s, x, t) <= 0 wherever it is asked for: the forward and
// the backward agree to the bit. Threads are those of torch (its own OpenMP), handed over by `batchnorm_setup`, as is sgemm.

#include "batchnorm.hpp"

namespace {

constexpr int64_t kRow = 4096;
constexpr int64_t kTileFloats = 1 << 18;  // 1 MiB: half of a second-level cache

// Cuts [0, count) evenly; the cut depends on nothing but the number of threads, so results do not either.
template <typename Work>
void for_each(int64_t count, int64_t threads, const Work& work) {
    threads = std::max<int64_t>(1, std::min(threads, count));
    on_threads(threads, [&](int64_t t) {
        for (int64_t i = count * t / threads; i < count * (t + 1) / threads; ++i) work(i);
    });
}

// The concatenation of parts: where the plane of image n, channel c begins.
template <typename T>
struct Channels {
    std::vector<T*> base;
    std::vector<int64_t> step;

    Channels(T* const* parts, const int64_t* channels, const int64_t* steps, int64_t count, int64_t hw) {
        for (int64_t p = 0; p < count; ++p)
            for (int64_t c = 0; c < channels[p]; ++c) {
                base.push_back(parts[p] + c * hw);
                step.push_back(steps[p]);
            }
    }
    int64_t size() const { return static_cast<int64_t>(base.size()); }
    T* plane(int64_t n, int64_t c) const { return base[c] + n * step[c]; }
};

// Count, mean and sum of squared differences, merged by Chan's formula.
struct Moments {
    double count = 0, mean = 0, m2 = 0;

    void add(double n, double other_mean, double other_m2) {
        if (n == 0) return;
        const double total = count + n, delta = other_mean - mean;
        mean += delta * (n / total);
        m2 += other_m2 + delta * delta * (count * n / total);
        count = total;
    }
    void add_values(const float* x, int64_t size) {
        for (int64_t start = 0; start < size; start += kRow) {
            const int64_t length = std::min(kRow, size - start);
            const float* row = x + start;
            const float shift = row[0];
            float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum, square)
            for (int64_t i = 0; i < length; ++i) {
                const float d = row[i] - shift;
                sum += d;
                square += d * d;
            }
            const double mean_d = double(sum) / length;
            const double rest = double(square) - mean_d * sum;
            add(double(length), shift + mean_d, rest < 0 ? 0 : rest);  // a NaN stays
        }
    }
};

struct Tiles {
    int64_t per_image, width;

    Tiles(int64_t channels, int64_t hw) {
        const int64_t widest = std::max<int64_t>(64, kTileFloats / std::max<int64_t>(channels, 1));
        per_image = std::max<int64_t>(1, (hw + widest - 1) / widest);
        width = (hw + per_image - 1) / per_image;
        if (per_image > 1) width = (width + 15) / 16 * 16;
        per_image = (hw + width - 1) / width;
    }
};

}  // namespace

extern "C" {

// Mean and sum of squared differences of each channel, in one sweep.
void batchnorm_stats(const float* const* parts, const int64_t* channels, const int64_t* steps, int64_t count, int64_t n,
                     int64_t hw, int64_t threads, double* mean, double* m2) {
    const Channels<const float> x(parts, channels, steps, count, hw);
    for_each(x.size(), threads, [&](int64_t c) {
        Moments moments;
        for (int64_t i = 0; i < n; ++i) moments.add_values(x.plane(i, c), hw);
        mean[c] = moments.mean;
        m2[c] = moments.m2;
    });
}

// a = max(s x + t + residual, 0), or without the maximum.
void batchnorm_apply(const float* const* parts, const int64_t* channels, const int64_t* steps, int64_t count, int64_t n,
                     int64_t hw, int64_t threads, const float* s, const float* t, const float* residual, int64_t relu,
                     float* out) {
    const Channels<const float> x(parts, channels, steps, count, hw);
    const int64_t width = x.size();
    for_each(n * width, threads, [&](int64_t i) {
        const int64_t c = i % width;
        const float* from = x.plane(i / width, c);
        float* to = out + i * hw;
        const float* with = residual == nullptr ? nullptr : residual + i * hw;
        const float sc = s[c], tc = t[c];
        if (with != nullptr && relu != 0) {
            for (int64_t j = 0; j < hw; ++j) {
                const float z = std::fma(sc, from[j], tc) + with[j];
                to[j] = z <= 0 ? 0 : z;
            }
        } else if (with != nullptr) {
            for (int64_t j = 0; j < hw; ++j) to[j] = std::fma(sc, from[j], tc) + with[j];
        } else if (relu != 0) {
            for (int64_t j = 0; j < hw; ++j) to[j] = activated(sc, from[j], tc);
        } else {
            for (int64_t j = 0; j < hw; ++j) to[j] = std::fma(sc, from[j], tc);
        }
    });
}

// dz = da where the forward let through; dbeta = sum dz, dgamma = sum dz xhat, dx = s (dz - dbeta/m - xhat dgamma/m).
void batchnorm_backward(const float* const* parts, const int64_t* channels, const int64_t* steps, int64_t count, int64_t n,
                        int64_t hw, int64_t threads, const float* s, const float* t, const float* mean, const float* inv,
                        const float* residual, int64_t relu, const float* da, float* const* dx_parts,
                        const int64_t* dx_steps, float* dresidual, double* dgamma, double* dbeta) {
    const Channels<const float> x(parts, channels, steps, count, hw);
    const Channels<float> dx(dx_parts, channels, dx_steps, count, hw);
    const int64_t width = x.size();
    for_each(width, threads, [&](int64_t c) {
        const float sc = s[c], tc = t[c], mc = mean[c], ic = inv[c];
        double total = 0, against = 0;
        for (int64_t i = 0; i < n; ++i) {
            const float* from = x.plane(i, c);
            const float* grad = da + (i * width + c) * hw;
            const float* with = residual == nullptr ? nullptr : residual + (i * width + c) * hw;
            float* to = dx.plane(i, c);
            for (int64_t start = 0; start < hw; start += kRow) {
                const int64_t end = std::min(start + kRow, hw);
                float sum = 0, product = 0;
                if (relu == 0) {
#pragma omp simd reduction(+ : sum, product)
                    for (int64_t j = start; j < end; ++j) {
                        const float dz = grad[j];
                        to[j] = dz;
                        sum += dz;
                        product += dz * (from[j] - mc);
                    }
                } else if (with != nullptr) {
#pragma omp simd reduction(+ : sum, product)
                    for (int64_t j = start; j < end; ++j) {
                        const float dz = std::fma(sc, from[j], tc) + with[j] <= 0 ? 0 : grad[j];
                        to[j] = dz;
                        sum += dz;
                        product += dz * (from[j] - mc);
                    }
                } else {
#pragma omp simd reduction(+ : sum, product)
                    for (int64_t j = start; j < end; ++j) {
                        const float dz = std::fma(sc, from[j], tc) <= 0 ? 0 : grad[j];
                        to[j] = dz;
                        sum += dz;
                        product += dz * (from[j] - mc);
                    }
                }
                total += sum;
                against += product;
            }
        }
        dbeta[c] = total;
        dgamma[c] = against * ic;
        const double m = double(n) * hw;
        const float shift = float(total / m), slope = float(against * ic * ic / m);
        for (int64_t i = 0; i < n; ++i) {
            const float* from = x.plane(i, c);
            float* to = dx.plane(i, c);
            if (dresidual != nullptr) {
                float* copy = dresidual + (i * width + c) * hw;
                for (int64_t j = 0; j < hw; ++j) copy[j] = to[j];
            }
            for (int64_t j = 0; j < hw; ++j) to[j] = sc * (to[j] - shift - (from[j] - mc) * slope);
        }
    });
}

// y = W max(s x + t, 0) tile by tile, and the moments of y while the tile is in cache. s null: y = W x.
void batchnorm_conv1x1(const float* const* parts, const int64_t* channels, const int64_t* steps, int64_t count, int64_t n,
                       int64_t hw, int64_t threads, const float* s, const float* t, const float* weight, int64_t out_channels,
                       float* y, double* mean, double* m2) {
    const Channels<const float> x(parts, channels, steps, count, hw);
    const int64_t width = x.size();
    const Tiles tiles(width, hw);
    const int64_t work = n * tiles.per_image;
    threads = std::max<int64_t>(1, std::min(threads, work));
    std::vector<std::vector<Moments>> moments(threads, std::vector<Moments>(mean == nullptr ? 0 : out_channels));
    on_threads(threads, [&](int64_t thread) {
        std::vector<float> scratch(width * tiles.width);
        for (int64_t item = work * thread / threads; item < work * (thread + 1) / threads; ++item) {
            const int64_t image = item / tiles.per_image, start = item % tiles.per_image * tiles.width;
            const int64_t size = std::min(tiles.width, hw - start);
            for (int64_t c = 0; c < width; ++c) {
                const float* from = x.plane(image, c) + start;
                float* to = scratch.data() + c * size;
                const float sc = s == nullptr ? 1 : s[c], tc = s == nullptr ? 0 : t[c];
                if (s == nullptr)
                    std::copy(from, from + size, to);
                else
                    for (int64_t j = 0; j < size; ++j) to[j] = activated(sc, from[j], tc);
            }
            float* out = y + image * out_channels * hw + start;
            gemm('N', 'N', size, out_channels, width, scratch.data(), size, weight, width, 0, out, hw);
            if (mean != nullptr)
                for (int64_t o = 0; o < out_channels; ++o) moments[thread][o].add_values(out + o * hw, size);
        }
    });
    if (mean == nullptr) return;
    for (int64_t o = 0; o < out_channels; ++o) {
        Moments all;
        for (const auto& part : moments) all.add(part[o].count, part[o].mean, part[o].m2);
        mean[o] = all.mean;
        m2[o] = all.m2;
    }
}

// The mirror: dz tile = mask (W^T dy) with its sums, dW += dy a^T with a computed again; then dx over dz in place.
void batchnorm_conv1x1_backward(const float* const* parts, const int64_t* channels, const int64_t* steps, int64_t count,
                                int64_t n, int64_t hw, int64_t threads, const float* s, const float* t, const float* mean,
                                const float* inv, const float* weight, int64_t out_channels, const float* dy,
                                float* const* dx_parts, const int64_t* dx_steps, float* dweight, double* dgamma,
                                double* dbeta) {
    const Channels<const float> x(parts, channels, steps, count, hw);
    const Channels<float> dx(dx_parts, channels, dx_steps, count, hw);
    const int64_t width = x.size();
    const Tiles tiles(2 * width, hw);
    const int64_t work = n * tiles.per_image, all_threads = threads;
    threads = std::max<int64_t>(1, std::min(threads, work));
    std::vector<std::vector<float>> weights(threads);
    std::vector<std::vector<double>> sums(threads);
    on_threads(threads, [&](int64_t thread) {
        std::vector<float> da(width * tiles.width), a(width * tiles.width);
        weights[thread].assign(width * out_channels, 0);
        sums[thread].assign(2 * width, 0);
        for (int64_t item = work * thread / threads; item < work * (thread + 1) / threads; ++item) {
            const int64_t image = item / tiles.per_image, start = item % tiles.per_image * tiles.width;
            const int64_t size = std::min(tiles.width, hw - start);
            const float* grad = dy + image * out_channels * hw + start;
            gemm('N', 'T', size, width, out_channels, grad, hw, weight, width, 0, da.data(), size);
            for (int64_t c = 0; c < width; ++c) {
                const float* from = x.plane(image, c) + start;
                const float* above = da.data() + c * size;
                float* again = a.data() + c * size;
                float* to = dx.plane(image, c) + start;
                const float sc = s[c], tc = t[c], mc = mean[c];
                for (int64_t first = 0; first < size; first += kRow) {
                    const int64_t end = std::min(first + kRow, size);
                    float sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
                    for (int64_t j = first; j < end; ++j) {
                        const float z = std::fma(sc, from[j], tc);
                        again[j] = z <= 0 ? 0 : z;
                        const float dz = z <= 0 ? 0 : above[j];
                        to[j] = dz;
                        sum += dz;
                        product += dz * (from[j] - mc);
                    }
                    sums[thread][c] += sum;
                    sums[thread][width + c] += product;
                }
            }
            gemm('T', 'N', width, out_channels, size, a.data(), size, grad, hw, 1, weights[thread].data(), width);
        }
    });
    for (int64_t i = 0; i < width * out_channels; ++i) {
        float sum = 0;
        for (const auto& part : weights) sum += part[i];
        dweight[i] = sum;
    }
    std::vector<float> shift(width), slope(width);
    const double m = double(n) * hw;
    for (int64_t c = 0; c < width; ++c) {
        double total = 0, against = 0;
        for (const auto& part : sums) total += part[c], against += part[width + c];
        dbeta[c] = total;
        dgamma[c] = against * inv[c];
        shift[c] = float(total / m);
        slope[c] = float(against * inv[c] * inv[c] / m);
    }
    for_each(n * width, all_threads, [&](int64_t i) {
        const int64_t c = i % width;
        const float* from = x.plane(i / width, c);
        float* to = dx.plane(i / width, c);
        const float sc = s[c], mc = mean[c], shift_c = shift[c], slope_c = slope[c];
        for (int64_t j = 0; j < hw; ++j) to[j] = sc * (to[j] - shift_c - (from[j] - mc) * slope_c);
    });
}

}  // extern "C"
