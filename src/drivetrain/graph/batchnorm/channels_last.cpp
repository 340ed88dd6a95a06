// The sweeps of batchnorm.cpp for channels_last: a feature is a matrix [rows, channels], rows = N H W (channels_last.py).
//
// Everything runs along the rows as they lie in memory, vectorised over the channels. An input is a list of parts that
// stand for their concatenation: each has its own rows, nothing is copied together. Sums are those of rows.hpp, masks
// those of masks.hpp.

#include "masks.hpp"
#include "product.hpp"
#include "rows.hpp"

extern "C" {

// Mean and sum of squared differences of each channel, in one sweep.
void batchnorm_stats(const float* const* bases, const int64_t* channels, const int64_t* steps, int64_t count,
                     int64_t rows, int64_t threads, double* mean, double* m2) {
    const auto parts = parts_of(bases, channels, steps, count);
    const int64_t width = width_of(parts);
    std::vector<Moments> moments(threads, Moments(width));
    std::vector<Adder> adders(threads, Adder(width));
    for_tiles(rows, kRows, threads, [&](int64_t thread, int64_t start, int64_t size) {
        for (const auto& part : parts)
            adders[thread].add(moments[thread], part.first, part.row(start), part.step, size, part.channels);
        moments[thread].count += double(size);
    });
    merge_to(moments, mean, m2);
}

// a = max(s x + t + residual, 0), or without the maximum. bits: the mask of a joined one, channels / 8 bytes a row.
void batchnorm_apply(const float* const* bases, const int64_t* channels, const int64_t* steps, int64_t count,
                     int64_t rows, int64_t threads, const float* s, const float* t, const float* residual, int64_t relu,
                     float* out, uint8_t* bits) {
    const auto parts = parts_of(bases, channels, steps, count);
    const int64_t width = width_of(parts);
    for_tiles(rows, kRows, threads, [&](int64_t, int64_t start, int64_t size) {
        for (const auto& part : parts)
            for (int64_t r = start; r < start + size; ++r) {
                const float *x = part.row(r), *sc = s + part.first, *tc = t + part.first;
                const int64_t place = r * width + part.first;
                float* to = out + place;
                const float* with = residual == nullptr ? nullptr : residual + place;
                if (relu != 0 && with != nullptr)
                    activate_joined(x, sc, tc, with, to, bits == nullptr ? nullptr : bits + place / 8, part.channels);
                else if (relu != 0)
                    activate(x, sc, tc, to, part.channels);
                else if (with != nullptr)
                    in_pieces(part.channels, [&](int64_t begin, auto n) {
#pragma omp simd
                        for (int64_t i = begin; i < begin + n; ++i) {
                            to[i] = std::fma(sc[i], x[i], tc[i]) + with[i];
                        }
                    });
                else
                    in_pieces(part.channels, [&](int64_t begin, auto n) {
#pragma omp simd
                        for (int64_t i = begin; i < begin + n; ++i) {
                            to[i] = std::fma(sc[i], x[i], tc[i]);
                        }
                    });
            }
    });
}

// dz = da where the forward let through; dbeta = sum dz, dgamma = sum dz xhat, dx = s (dz - dbeta/m - xhat dgamma/m).
void batchnorm_backward(const float* const* bases, const int64_t* channels, const int64_t* steps, int64_t count,
                        int64_t rows, int64_t threads, const float* s, const float* t, const float* mean,
                        const float* inv, const float* residual, const uint8_t* bits, int64_t relu, const float* da,
                        float* const* dx_bases, const int64_t* dx_steps, float* dresidual, double* dgamma,
                        double* dbeta) {
    const auto x = parts_of(bases, channels, steps, count);
    const auto dx = parts_of(dx_bases, channels, dx_steps, count);
    const int64_t width = width_of(x);
    std::vector<Sums> sums(threads, Sums(width));
    for_tiles(rows, kRows, threads, [&](int64_t thread, int64_t start, int64_t size) {
        Sums& all = sums[thread];
        all.begin();
        for (const auto& part : x)
            for (int64_t r = start; r < start + size; ++r) {
                const int64_t place = r * width + part.first;
                const float *from = part.row(r), *grad = da + place;
                const float *sc = s + part.first, *tc = t + part.first, *mc = mean + part.first;
                float *sum = all.sum.data() + part.first, *product = all.product.data() + part.first;
                if (relu != 0 && dresidual == nullptr) {
                    in_pieces(part.channels, [&](int64_t begin, auto n) {
#pragma omp simd
                        for (int64_t i = begin; i < begin + n; ++i) {
                            const float dz = std::fma(sc[i], from[i], tc[i]) <= 0 ? 0 : grad[i];
                            sum[i] += dz;
                            product[i] += dz * (from[i] - mc[i]);
                        }
                    });
                    continue;
                }
                if (dresidual != nullptr) {
                    float* dz = dresidual + place;
                    if (relu == 0)
                        std::copy(grad, grad + part.channels, dz);
                    else if (bits != nullptr)
                        open_by_bits(grad, bits + place / 8, dz, part.channels);
                    else {
                        const float* with = residual + place;
                        in_pieces(part.channels, [&](int64_t begin, auto n) {
#pragma omp simd
                            for (int64_t i = begin; i < begin + n; ++i) {
                                dz[i] = std::fma(sc[i], from[i], tc[i]) + with[i] <= 0 ? 0 : grad[i];
                            }
                        });
                    }
                    grad = dz;
                }
                in_pieces(part.channels, [&](int64_t begin, auto n) {
#pragma omp simd
                    for (int64_t i = begin; i < begin + n; ++i) {
                        sum[i] += grad[i];
                        product[i] += grad[i] * (from[i] - mc[i]);
                    }
                });
            }
        all.end();
    });
    const Slopes slopes(sums, inv, double(rows), dgamma, dbeta);
    const float* above = dresidual == nullptr ? da : dresidual;
    const bool masked = relu != 0 && dresidual == nullptr;
    for_tiles(rows, kRows, threads, [&](int64_t, int64_t start, int64_t size) {
        for (size_t p = 0; p < x.size(); ++p)
            for (int64_t r = start; r < start + size; ++r) {
                const int64_t first = x[p].first, length = x[p].channels;
                const float *from = x[p].row(r), *grad = above + r * width + first;
                const float *sc = s + first, *tc = t + first, *mc = mean + first;
                const float *shift = slopes.shift.data() + first, *slope = slopes.slope.data() + first;
                float* to = dx[p].row(r);
                if (masked)
                    in_pieces(length, [&](int64_t begin, auto n) {
#pragma omp simd
                        for (int64_t i = begin; i < begin + n; ++i) {
                            const float dz = std::fma(sc[i], from[i], tc[i]) <= 0 ? 0 : grad[i];
                            to[i] = sc[i] * (dz - shift[i] - (from[i] - mc[i]) * slope[i]);
                        }
                    });
                else
                    in_pieces(length, [&](int64_t begin, auto n) {
#pragma omp simd
                        for (int64_t i = begin; i < begin + n; ++i) {
                            to[i] = sc[i] * (grad[i] - shift[i] - (from[i] - mc[i]) * slope[i]);
                        }
                    });
            }
    });
}

// y = max(s x + t, 0) W^T tile by tile, and the moments of y while the tile is in cache. s null: y = x W^T.
void batchnorm_conv1x1(const float* const* bases, const int64_t* channels, const int64_t* steps, int64_t count,
                       int64_t rows, int64_t threads, const float* s, const float* t, const float* weight,
                       int64_t out_channels, float* y, double* mean, double* m2) {
    const auto parts = parts_of(bases, channels, steps, count);
    const int64_t width = width_of(parts), wanted = mean == nullptr ? 0 : out_channels;
    std::vector<Moments> moments(threads, Moments(wanted));
    std::vector<Adder> adders(threads, Adder(wanted));
    const bool own = product_fits(out_channels);
    const auto panels = own ? packed(weight, width, out_channels, 1, width) : std::vector<float>();
    const int64_t height = tile_height(width);
    std::vector<std::vector<float>> scratch(threads, std::vector<float>(height * width));
    for_tiles(rows, height, threads, [&](int64_t thread, int64_t start, int64_t size) {
        const float* a = scratch[thread].data();
        int64_t step = width;
        if (s == nullptr && parts.size() == 1) {
            a = parts[0].row(start);
            step = parts[0].step;
        } else {
            for (const auto& part : parts)
                for (int64_t r = 0; r < size; ++r) {
                    const float* from = part.row(start + r);
                    float* to = scratch[thread].data() + r * width + part.first;
                    if (s == nullptr)
                        std::copy(from, from + part.channels, to);
                    else
                        activate(from, s + part.first, t + part.first, to, part.channels);
                }
        }
        float* out = y + start * out_channels;
        if (own)
            product<false>(size, out_channels, width, a, step, panels.data(), 0, out, out_channels, false);
        else
            gemm('T', 'N', out_channels, size, width, weight, width, a, step, 0, out, out_channels);
        if (mean != nullptr) {
            adders[thread].add(moments[thread], 0, out, out_channels, size, out_channels);
            moments[thread].count += double(size);
        }
    });
    if (mean != nullptr) merge_to(moments, mean, m2);
}

// The mirror: dz tile = mask (dy W) with its sums, dW += dy^T a with a computed again; then dx over dz in place.
void batchnorm_conv1x1_backward(const float* const* bases, const int64_t* channels, const int64_t* steps, int64_t count,
                                int64_t rows, int64_t threads, const float* s, const float* t, const float* mean,
                                const float* inv, const float* weight, int64_t out_channels, const float* dy,
                                float* const* dx_bases, const int64_t* dx_steps, float* dweight, double* dgamma,
                                double* dbeta) {
    const auto x = parts_of(bases, channels, steps, count);
    const auto dx = parts_of(dx_bases, channels, dx_steps, count);
    const int64_t width = width_of(x);
    std::vector<Sums> sums(threads, Sums(width));
    const bool own = product_fits(width);
    const auto panels = own ? packed(weight, out_channels, width, width, 1) : std::vector<float>();
    const int64_t height = tile_height(width);
    std::vector<std::vector<float>> das(threads, std::vector<float>(height * width)), as = das;
    std::vector<std::vector<float>> weights(threads);
    for (int64_t thread = 1; thread < threads; ++thread) weights[thread].assign(width * out_channels, 0);
    std::fill(dweight, dweight + width * out_channels, 0.0f);
    for_tiles(rows, height, threads, [&](int64_t thread, int64_t start, int64_t size) {
        const float* grad = dy + start * out_channels;
        float *da = das[thread].data(), *a = as[thread].data();
        Sums& all = sums[thread];
        if (own)
            product<false>(size, width, out_channels, grad, out_channels, panels.data(), 0, da, width, false);
        else
            gemm('N', 'N', width, size, out_channels, weight, width, grad, out_channels, 0, da, width);
        all.begin();
        for (size_t p = 0; p < x.size(); ++p)
            for (int64_t r = 0; r < size; ++r) {
                const int64_t first = x[p].first;
                const float *from = x[p].row(start + r), *above = da + r * width + first;
                const float *sc = s + first, *tc = t + first, *mc = mean + first;
                float *sum = all.sum.data() + first, *product = all.product.data() + first, *to = dx[p].row(start + r);
                in_pieces(x[p].channels, [&](int64_t begin, auto n) {
                    // For the weight's gradient the rows are the depth: panels of columns, as product() reads them.
                    const int64_t place = first + begin, column = place / kPanel * kPanel;
                    float* again = own ? a + column * size + r * std::min(kPanel, width - column) + place % kPanel
                                       : a + r * width + place;
#pragma omp simd
                    for (int64_t i = begin; i < begin + n; ++i) {
                        const float z = std::fma(sc[i], from[i], tc[i]);
                        again[i - begin] = z <= 0 ? 0 : z;
                        const float dz = z <= 0 ? 0 : above[i];
                        to[i] = dz;
                        sum[i] += dz;
                        product[i] += dz * (from[i] - mc[i]);
                    }
                }, !own ? 32 : first % kPanel == 0 ? kPanel : first % kLanes == 0 ? kLanes : 1);  // within a panel
            }
        all.end();
        float* dw = thread == 0 ? dweight : weights[thread].data();
        if (own)
            product<true>(out_channels, width, size, grad, out_channels, a, 0, dw, width, true);
        else
            gemm('N', 'T', width, out_channels, size, a, width, grad, out_channels, 1, dw, width);
    });
    for (int64_t thread = 1; thread < threads; ++thread)
        for (int64_t i = 0; i < width * out_channels; ++i) dweight[i] += weights[thread][i];
    const Slopes slopes(sums, inv, double(rows), dgamma, dbeta);
    for_tiles(rows, kRows, threads, [&](int64_t, int64_t start, int64_t size) {
        for (size_t p = 0; p < x.size(); ++p)
            for (int64_t r = start; r < start + size; ++r) {
                const int64_t first = x[p].first;
                const float *from = x[p].row(r), *sc = s + first, *mc = mean + first;
                const float *shift = slopes.shift.data() + first, *slope = slopes.slope.data() + first;
                float* to = dx[p].row(r);
                in_pieces(x[p].channels, [&](int64_t begin, auto n) {
#pragma omp simd
                    for (int64_t i = begin; i < begin + n; ++i) {
                        to[i] = sc[i] * (to[i] - shift[i] - (from[i] - mc[i]) * slope[i]);
                    }
                });
            }
    });
}

}  // extern "C"
