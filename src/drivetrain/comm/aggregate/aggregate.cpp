// The passes of the aggregation rules over n float32 vectors of d coordinates (kernel.py has the entry points).
//
// All passes cut the coordinates into pieces that fit the first-level cache, copy the n rows of a piece into a buffer, and
// work there: rows that lie a power of two apart would otherwise evict each other. A piece with a missing value (NaN,
// infinity, or absent by the mask) takes a path of its own, so complete pieces pay nothing for it. Sums over rows are in
// double and in row order, so they equal the torch version's; sums over coordinates are in float inside a piece and in
// double above it, in order, so the number of threads changes nothing.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kCacheFloats = 8192;  // 32 KiB of the first-level cache
constexpr int64_t kPieceLimit = 512;  // coordinates
constexpr int64_t kTask = 1 << 15;  // coordinates of one unit of work and of one partial sum
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNothing = std::numeric_limits<float>::quiet_NaN();

enum Center : int64_t { kMean = 0, kLower = 1, kUpper = 2, kMiddle = 3, kTrimmed = 4 };

struct Input {
    const float* const* rows;
    const uint8_t* mask;  // n x d, 1 where present; null when everything is
    int64_t n, d;
};

int64_t piece_size(int64_t n) {
    const int64_t fitting = kCacheFloats / std::max<int64_t>(n, 1) / 16 * 16;
    return std::clamp<int64_t>(fitting, 16, kPieceLimit);
}

template <typename Work>
void for_each_task(int64_t d, int64_t threads, Work work) {
    const int64_t count = (d + kTask - 1) / kTask;
    threads = std::max<int64_t>(1, std::min(threads, count / 4));
    auto part = [&](int64_t t) {
        for (int64_t i = count * t / threads; i < count * (t + 1) / threads; ++i)
            work(i, i * kTask, std::min((i + 1) * kTask, d));
    };
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; ++t) others.emplace_back(part, t);
    part(0);
    for (auto& other : others) other.join();
}

// A piece of all rows, copied together: values[r * width + c].
struct Piece {
    int64_t n, width, size = 0;
    std::vector<float> values;
    std::vector<float> present;  // 1 or 0, valid only where `complete` is false
    bool complete = true;

    Piece(int64_t rows, int64_t columns)
        : n(rows), width(columns), values(rows * columns), present(rows * columns) {}
    float* row(int64_t r) { return values.data() + r * width; }
    float* here(int64_t r) { return present.data() + r * width; }

    // Missing values become `filler`; bad[r] is set where a present value of row r is not finite.
    void read(const Input& in, int64_t begin, int64_t end, float filler, uint8_t* bad) {
        size = end - begin;
        int any = 0;
        for (int64_t r = 0; r < n; ++r) {
            const float* from = in.rows[r] + begin;
            float* to = row(r);
            const int64_t ahead = std::min(end + width, in.d) - begin;
            for (int64_t c = size; c < ahead; c += 16) __builtin_prefetch(from + c, 0, 2);  // next piece
            int wrong = 0, absent = 0;
#pragma omp simd reduction(| : wrong)
            for (int64_t c = 0; c < size; ++c) {
                to[c] = from[c];
                wrong |= !(std::fabs(from[c]) <= kLargest);
            }
            if (in.mask) {
                const uint8_t* mask = in.mask + r * in.d + begin;
#pragma omp simd reduction(| : absent)
                for (int64_t c = 0; c < size; ++c) absent |= !mask[c];
            }
            any |= wrong | absent;
            if (wrong)
                for (int64_t c = 0; c < size; ++c)
                    if (!(std::fabs(from[c]) <= kLargest) && (!in.mask || in.mask[r * in.d + begin + c]))
                        __atomic_store_n(bad + r, 1, __ATOMIC_RELAXED);  // tasks share the flags
        }
        complete = !any;
        if (!complete) mark(in, begin, filler);
    }

    void mark(const Input& in, int64_t begin, float filler) {
        for (int64_t r = 0; r < n; ++r) {
            float *x = row(r), *p = here(r);
            const uint8_t* mask = in.mask ? in.mask + r * in.d + begin : nullptr;
            for (int64_t c = 0; c < size; ++c) {
                p[c] = std::fabs(x[c]) <= kLargest && (!mask || mask[c]) ? 1.0f : 0.0f;
                x[c] = p[c] != 0.0f ? x[c] : filler;
            }
        }
    }
};

void sort_rows(Piece& piece, const int32_t* pairs, int64_t count) {
    for (int64_t k = 0; k < count; ++k) {
        float *a = piece.row(pairs[2 * k]), *b = piece.row(pairs[2 * k + 1]);
#pragma omp simd
        for (int64_t c = 0; c < piece.size; ++c) {
            const float low = a[c] < b[c] ? a[c] : b[c], high = a[c] < b[c] ? b[c] : a[c];
            a[c] = low;
            b[c] = high;
        }
    }
}

// total = the sum of rows first .. last - 1 by weight (null: 1 each), in order; rows of weight 0 are left out. Four rows
// at a time, so that `total` is loaded and stored a quarter as often.
void weigh_rows(Piece& piece, int64_t first, int64_t last, const double* weights, double* total) {
    std::fill(total, total + piece.size, 0.0);
    const float* x[4];
    double w[4];
    int count = 0;
    auto flush = [&] {
        for (; count < 4; ++count) x[count] = x[0], w[count] = 0.0;  // + 0 changes nothing
        const float *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
        const double w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
#pragma omp simd
        for (int64_t c = 0; c < piece.size; ++c)
            total[c] = (((total[c] + w0 * x0[c]) + w1 * x1[c]) + w2 * x2[c]) + w3 * x3[c];
        count = 0;
    };
    for (int64_t r = first; r < last; ++r) {
        const double weight = weights ? weights[r] : 1.0;
        if (weight == 0) continue;
        x[count] = piece.row(r);
        w[count++] = weight;
        if (count == 4) flush();
    }
    if (count) flush();
}

void mean_of_rows(Piece& piece, int64_t first, int64_t last, double* out) {
    weigh_rows(piece, first, last, nullptr, out);
    const double count = static_cast<double>(last - first);
#pragma omp simd
    for (int64_t c = 0; c < piece.size; ++c) out[c] /= count;
}

// The mean of the n - drop sorted values nearest to the centre: a window that moves up past k while center - x[k] >
// x[k + keep] - center, which is true up to some k and false after it. Row k % keep is the window's place for k.
void mean_of_nearest(Piece& piece, int64_t drop, double* center) {
    const int64_t keep = piece.n - drop;
    for (int64_t k = 0; k < drop; ++k) {
        const float *low = piece.row(k), *high = piece.row(k + keep);
        float* slot = piece.row(k % keep);
#pragma omp simd
        for (int64_t c = 0; c < piece.size; ++c) {
            const double below = center[c] - low[c], above = high[c] - center[c];
            slot[c] = below > above ? high[c] : slot[c];
        }
    }
    mean_of_rows(piece, 0, keep, center);
}

void reduce_complete(Piece& piece, int64_t center, int64_t f, int64_t drop, double* middle, float* out) {
    const int64_t n = piece.n;
    if (center == kMean) mean_of_rows(piece, 0, n, middle);
    if (center == kTrimmed) mean_of_rows(piece, f, n - f, middle);
    if (center == kLower || center == kUpper || center == kMiddle) {
        const float* low = piece.row(center == kUpper ? n / 2 : (n - 1) / 2);
        const float* high = piece.row(center == kLower ? (n - 1) / 2 : n / 2);
#pragma omp simd
        for (int64_t c = 0; c < piece.size; ++c) middle[c] = (static_cast<double>(low[c]) + high[c]) / 2;
    }
    if (drop > 0) mean_of_nearest(piece, drop, middle);
#pragma omp simd
    for (int64_t c = 0; c < piece.size; ++c) out[c] = static_cast<float>(middle[c]);
}

// One coordinate whose `have` present values are sorted to the front.
double reduce_partial(Piece& piece, int64_t c, int64_t have, int64_t center, int64_t f, bool nearest) {
    const int64_t trim = std::min(f, (have - 1) / 2);
    auto x = [&](int64_t r) { return static_cast<double>(piece.row(r)[c]); };
    auto mean = [&](int64_t first, int64_t last) {
        double total = 0;
        for (int64_t r = first; r < last; ++r) total += x(r);
        return total / static_cast<double>(last - first);
    };
    double middle = 0;
    if (center == kMean) middle = mean(0, have);
    if (center == kTrimmed) middle = mean(trim, have - trim);
    if (center == kLower || center == kUpper || center == kMiddle)
        middle = (x((have - (center != kUpper)) / 2) + x((have - (center == kLower)) / 2)) / 2;
    if (!nearest) return middle;
    const int64_t keep = have - trim;
    int64_t start = 0;
    while (start < trim && middle - x(start) > x(start + keep) - middle) ++start;
    return mean(start, start + keep);
}

double weigh_presence(Piece& piece, const double* weights, double* share) {
    std::fill(share, share + piece.size, 0.0);
    double whole = 0;
    for (int64_t r = 0; r < piece.n; ++r) {
        if (weights[r] == 0) continue;
        whole += weights[r];
        const float* p = piece.here(r);
#pragma omp simd
        for (int64_t c = 0; c < piece.size; ++c) share[c] += weights[r] * p[c];
    }
    return whole;
}

template <typename Real>
void add_complete(Piece& piece, double* sums, double* common) {
    const int64_t n = piece.n;
    for (int64_t i = 0; i < n; ++i) {
        const float* a = piece.row(i);
        for (int64_t j = i + 1; j < n; j += 4) {  // four sums at once hide the latency of the additions
            const float* b[4];
            for (int64_t k = 0; k < 4; ++k) b[k] = piece.row(std::min(j + k, n - 1));
            const float *b0 = b[0], *b1 = b[1], *b2 = b[2], *b3 = b[3];
            Real s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
            for (int64_t c = 0; c < piece.size; ++c) {
                const Real v = a[c], d0 = v - b0[c], d1 = v - b1[c], d2 = v - b2[c], d3 = v - b3[c];
                s0 += d0 * d0;
                s1 += d1 * d1;
                s2 += d2 * d2;
                s3 += d3 * d3;
            }
            const Real s[4] = {s0, s1, s2, s3};
            for (int64_t k = 0; k < 4 && j + k < n; ++k) {
                sums[i * n + j + k] += s[k];
                common[i * n + j + k] += static_cast<double>(piece.size);
            }
        }
    }
}

template <typename Real>
void add_partial(Piece& piece, double* sums, double* common) {
    const int64_t n = piece.n;
    for (int64_t i = 0; i < n; ++i) {
        const float *a = piece.row(i), *p = piece.here(i);
        for (int64_t j = i + 1; j < n; ++j) {
            const float *b = piece.row(j), *q = piece.here(j);
            Real s = 0, count = 0;
#pragma omp simd reduction(+ : s, count)
            for (int64_t c = 0; c < piece.size; ++c) {
                const Real both = p[c] * q[c], difference = (static_cast<Real>(a[c]) - b[c]) * both;
                s += difference * difference;
                count += both;
            }
            sums[i * n + j] += s;
            common[i * n + j] += count;
        }
    }
}

template <typename Real>
void distances(const Input& in, int64_t threads, double* sums, double* common, uint8_t* bad) {
    const int64_t n = in.n, width = piece_size(n), tasks = (in.d + kTask - 1) / kTask;
    std::vector<double> parts(tasks * 2 * n * n, 0.0);
    for_each_task(in.d, threads, [&](int64_t task, int64_t begin, int64_t end) {
        Piece piece(n, width);
        double* mine = parts.data() + task * 2 * n * n;
        for (int64_t at = begin; at < end; at += width) {
            piece.read(in, at, std::min(at + width, end), 0.0f, bad);
            (piece.complete ? add_complete<Real> : add_partial<Real>)(piece, mine, mine + n * n);
        }
    });
    std::fill(sums, sums + n * n, 0.0);
    std::fill(common, common + n * n, 0.0);
    for (int64_t task = 0; task < tasks; ++task) {
        const double* part = parts.data() + task * 2 * n * n;
        for (int64_t k = 0; k < n * n; ++k) sums[k] += part[k], common[k] += part[n * n + k];
    }
}

}  // namespace

extern "C" {

// Coordinate rules: centre, then (drop > 0) the mean of the n - drop values nearest to it. `pruned` sorts what these need,
// `full` everything. Sets bad[n]; returns the number of coordinates that nobody sent, which get 0.
int64_t aggregate_coordinates(const float* const* rows, const uint8_t* mask, int64_t n, int64_t d,
                              const int32_t* pruned, int64_t pruned_count, const int32_t* full, int64_t full_count,
                              int64_t center, int64_t f, int64_t drop, int64_t threads, float* out, uint8_t* bad) {
    const Input in{rows, mask, n, d};
    const int64_t width = piece_size(n);
    int64_t nobody = 0;
    for_each_task(d, threads, [&](int64_t, int64_t begin, int64_t end) {
        Piece piece(n, width);
        std::vector<double> middle(width);
        std::vector<int64_t> have(width);
        for (int64_t at = begin; at < end; at += width) {
            piece.read(in, at, std::min(at + width, end), kInfinity, bad);
            if (piece.complete) {
                sort_rows(piece, pruned, pruned_count);
                reduce_complete(piece, center, f, drop, middle.data(), out + at);
                continue;
            }
            std::fill(have.begin(), have.end(), 0);
            for (int64_t r = 0; r < n; ++r)
                for (int64_t c = 0; c < piece.size; ++c) have[c] += piece.here(r)[c] != 0.0f;
            sort_rows(piece, full, full_count);
            for (int64_t c = 0; c < piece.size; ++c) {
                if (have[c] == 0) __atomic_fetch_add(&nobody, 1, __ATOMIC_RELAXED);
                const double value = have[c] ? reduce_partial(piece, c, have[c], center, f, drop > 0) : 0.0;
                out[at + c] = static_cast<float>(value);
            }
        }
    });
    return nobody;
}

// Upper triangles of the squared distances over the coordinates that both rows have, and of the numbers of these.
void aggregate_distances(const float* const* rows, const uint8_t* mask, int64_t n, int64_t d, int64_t threads,
                         int64_t exact, double* sums, double* common, uint8_t* bad) {
    const Input in{rows, mask, n, d};
    if (exact)
        distances<double>(in, threads, sums, common, bad);
    else
        distances<float>(in, threads, sums, common, bad);
}

// Squared distance of every row to `point` (null: the origin), over the coordinates that it has, and their number.
void aggregate_distances_to(const float* const* rows, const uint8_t* mask, int64_t n, int64_t d, const float* point,
                            int64_t threads, double* sums, double* common, uint8_t* bad) {
    const Input in{rows, mask, n, d};
    const int64_t width = piece_size(n), tasks = (d + kTask - 1) / kTask;
    std::vector<double> parts(tasks * 2 * n, 0.0);
    for_each_task(d, threads, [&](int64_t task, int64_t begin, int64_t end) {
        Piece piece(n, width);
        std::vector<double> center(width, 0.0);
        double* mine = parts.data() + task * 2 * n;
        for (int64_t at = begin; at < end; at += width) {
            piece.read(in, at, std::min(at + width, end), 0.0f, bad);
            if (point) std::copy(point + at, point + at + piece.size, center.begin());
            if (piece.complete) std::fill(piece.present.begin(), piece.present.end(), 1.0f);
            for (int64_t r = 0; r < n; ++r) {
                const float *x = piece.row(r), *p = piece.here(r);
                double sum = 0, count = 0;
#pragma omp simd reduction(+ : sum, count)
                for (int64_t c = 0; c < piece.size; ++c) {
                    const double difference = (x[c] - center[c]) * p[c];
                    sum += difference * difference;
                    count += p[c];
                }
                mine[r] += sum;
                mine[n + r] += count;
            }
        }
    });
    std::fill(sums, sums + n, 0.0);
    std::fill(common, common + n, 0.0);
    for (int64_t task = 0; task < tasks; ++task)
        for (int64_t r = 0; r < n; ++r) {
            sums[r] += parts[task * 2 * n + r];
            common[r] += parts[task * 2 * n + n + r];
        }
}

// out[k] = sum_r weights[k, r] * rows[r] for k < outputs; a coordinate some rows lack is divided by the weight that is
// there, and is NaN where none is (their number is returned). What rows of weight 0 hold does not matter.
int64_t aggregate_combine(const float* const* rows, const uint8_t* mask, int64_t n, int64_t d, const double* weights,
                          int64_t outputs, int64_t threads, float* out) {
    const Input in{rows, mask, n, d};
    const int64_t width = piece_size(n);
    std::vector<uint8_t> bad(n, 0);
    int64_t unfilled = 0;
    for_each_task(d, threads, [&](int64_t, int64_t begin, int64_t end) {
        Piece piece(n, width);
        std::vector<double> total(width), share(width);
        for (int64_t at = begin; at < end; at += width) {
            piece.read(in, at, std::min(at + width, end), 0.0f, bad.data());
            for (int64_t k = 0; k < outputs; ++k) {
                float* to = out + k * d + at;
                weigh_rows(piece, 0, n, weights + k * n, total.data());
                if (piece.complete) {
#pragma omp simd
                    for (int64_t c = 0; c < piece.size; ++c) to[c] = static_cast<float>(total[c]);
                    continue;
                }
                const double whole = weigh_presence(piece, weights + k * n, share.data());
                for (int64_t c = 0; c < piece.size; ++c) {
                    const bool some = share[c] > 0;
                    if (!some) __atomic_fetch_add(&unfilled, 1, __ATOMIC_RELAXED);
                    to[c] = some ? static_cast<float>(total[c] * (whole / share[c])) : kNothing;
                }
            }
        }
    });
    return unfilled;
}

}  // extern "C"
