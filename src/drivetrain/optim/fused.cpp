// The three passes of a YellowFin step over float32 tensors on the CPU (see foreach.py for what each computes).
//
// Every pass runs over blocks of kBlock elements. A block's sum is kept apart and the sums are added in order, so the result
// does not depend on how many threads shared the blocks. Inside a block, runs of kRun elements are summed in float (a few
// dozen additions a lane) and the runs in double.

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kBlock = 1 << 16;
constexpr int64_t kRun = 1024;
constexpr int64_t kBlocksForThreads = 8;  // below half a million elements a thread costs more than it saves

struct Block {
    int64_t tensor, begin, end;
};

std::vector<Block> cut(const int64_t* sizes, int64_t count) {
    std::vector<Block> blocks;
    for (int64_t i = 0; i < count; ++i)
        for (int64_t begin = 0; begin < sizes[i]; begin += kBlock)
            blocks.push_back({i, begin, std::min(begin + kBlock, sizes[i])});
    return blocks;
}

template <typename Work>
void for_each_block(const std::vector<Block>& blocks, int64_t threads, Work work) {
    const int64_t count = static_cast<int64_t>(blocks.size());
    threads = count < kBlocksForThreads ? 1 : std::min(threads, count);
    auto part = [&](int64_t t) {
        for (int64_t b = count * t / threads; b < count * (t + 1) / threads; ++b) work(b);
    };
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; ++t) others.emplace_back(part, t);
    part(0);
    for (auto& other : others) other.join();
}

void sum_by_tensor(const std::vector<Block>& blocks, const std::vector<double>& sums, int64_t count, double* out) {
    std::fill(out, out + count, 0.0);
    for (size_t b = 0; b < blocks.size(); ++b) out[blocks[b].tensor] += sums[b];
}

}  // namespace

extern "C" {

void yellowfin_squares(const float* const* grads, const int64_t* sizes, int64_t count, int64_t threads, double* out) {
    const auto blocks = cut(sizes, count);
    std::vector<double> sums(blocks.size());
    for_each_block(blocks, threads, [=, &blocks, &sums](int64_t b) {
        const float* __restrict g = grads[blocks[b].tensor];
        double sum = 0;
        for (int64_t begin = blocks[b].begin; begin < blocks[b].end; begin += kRun) {
            const int64_t end = std::min(begin + kRun, blocks[b].end);
            float run = 0;
#pragma omp simd reduction(+ : run)
            for (int64_t i = begin; i < end; ++i) run += g[i] * g[i];
            sum += run;
        }
        sums[b] = sum;
    });
    sum_by_tensor(blocks, sums, count, out);
}

void yellowfin_fold(float* const* averages, const float* const* grads, const int64_t* sizes, int64_t count,
                    int64_t threads, float decay, float weight, double* out) {
    const auto blocks = cut(sizes, count);
    std::vector<double> sums(blocks.size());
    for_each_block(blocks, threads, [=, &blocks, &sums](int64_t b) {
        float* __restrict m = averages[blocks[b].tensor];
        const float* __restrict g = grads[blocks[b].tensor];
        double sum = 0;
        for (int64_t begin = blocks[b].begin; begin < blocks[b].end; begin += kRun) {
            const int64_t end = std::min(begin + kRun, blocks[b].end);
            float run = 0;
#pragma omp simd reduction(+ : run)
            for (int64_t i = begin; i < end; ++i) {
                const float folded = decay * m[i] + weight * g[i];
                m[i] = folded;
                run += folded * folded;
            }
            sum += run;
        }
        sums[b] = sum;
    });
    sum_by_tensor(blocks, sums, count, out);
}

void yellowfin_move(float* const* params, float* const* buffers, const float* const* grads, const int64_t* sizes,
                    int64_t count, int64_t threads, float mu, float scale, float rate, float keep, int64_t nesterov) {
    const auto blocks = cut(sizes, count);
    for_each_block(blocks, threads, [=, &blocks](int64_t b) {
        float* __restrict x = params[blocks[b].tensor];
        float* __restrict v = buffers[blocks[b].tensor];
        const float* __restrict g = grads[blocks[b].tensor];
        const int64_t begin = blocks[b].begin, end = blocks[b].end;
        if (nesterov) {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) {
                const float scaled = scale * g[i];
                v[i] = mu * v[i] + scaled;
                x[i] = keep * x[i] - rate * (scaled + mu * v[i]);
            }
        } else {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) {
                v[i] = mu * v[i] + scale * g[i];
                x[i] = keep * x[i] - rate * v[i];
            }
        }
    });
}

}  // extern "C"
