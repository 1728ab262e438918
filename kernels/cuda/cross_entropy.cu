/*
 * cross_entropy.cu: the loss of a chunk of logits, and its gradient in their place.
 */
#include "types.cuh"

#include <math.h>

namespace {

constexpr int THREADS = 256;

/* Σ exp(x − most) over some logits. */
struct Softmax {
    float most, sum;
};

__device__ __forceinline__ Softmax merged(Softmax a, Softmax b) {
    const float most = fmaxf(a.most, b.most);
    if (most == -INFINITY) return a; /* no logits yet in either */
    Softmax both = {most, a.sum * expf(a.most - most) + b.sum * expf(b.most - most)};
    return both;
}

/* Merges over the block in a fixed order; every thread gets the result. */
__device__ Softmax block_merged(Softmax value, Softmax *buffer) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        Softmax other;
        other.most = __shfl_xor_sync(ALL_LANES, value.most, distance);
        other.sum = __shfl_xor_sync(ALL_LANES, value.sum, distance);
        value = merged(value, other);
    }
    if (lane == 0) buffer[warp] = value;
    __syncthreads();
    value = buffer[0];
    for (int i = 1; i < THREADS / WARP; i++) value = merged(value, buffer[i]);
    return value;
}

/* A thread's packs of one row, with an online maximum. */
template <typename S> __device__ __forceinline__ Softmax thread_softmax(const S *row, int V) {
    Softmax state = {-INFINITY, 0};
    for (int column = threadIdx.x * PACK; column < V; column += THREADS * PACK) {
        float x[PACK];
        load_pack(x, row + column);
        float most = state.most;
#pragma unroll
        for (int i = 0; i < PACK; i++)
            if (column + i < V) most = fmaxf(most, x[i]);
        if (most == -INFINITY) continue;
        float sum = state.sum * expf(state.most - most);
#pragma unroll
        for (int i = 0; i < PACK; i++)
            if (column + i < V) sum += expf(x[i] - most);
        state.most = most, state.sum = sum;
    }
    return state;
}

/*
 * A block a row. Bytes: the row is read for the sum, read again (from the second-level cache: a row is 100
 * KB) and written for the gradient: 4·V a token in bf16, 2·V without a gradient. 8,192 tokens of GPT-2's
 * vocabulary: 1.6 GB, floor 0.34 ms at 4.8 TB/s on an H200. Not yet measured.
 */
template <typename S> __global__ void __launch_bounds__(THREADS) cross_entropy_kernel(CrossEntropy args) {
    SHARED_ARRAY(Softmax, buffer, THREADS / WARP);
    const int V = args.V;
    const uint32_t target = args.targets[blockIdx.x];
    const bool ignored = target == TARGET_IGNORED;
    S *row = static_cast<S *>(args.logits) + blockIdx.x * row_stride(V);
    float *loss = static_cast<float *>(args.losses) + blockIdx.x;

    float scale = 0, factor = 0, most = 0; /* gradient = factor·exp(x − most) − scale·onehot */
    if (!ignored) {                        /* the same for the whole block */
        const Softmax softmax = block_merged(thread_softmax(row, V), buffer);
        const float log_sum = logf(softmax.sum);
        if (threadIdx.x == 0) *loss = log_sum + (softmax.most - to_float(row[target]));
        most = softmax.most;
        if (args.gradient) {
            const double lse = (double)log_sum + (double)most, loss_scale = args.state->in.loss_scale;
            scale = (float)loss_scale;
            factor = (float)(loss_scale * (1 + 2 * args.z_loss * lse) / (double)softmax.sum);
        }
    } else if (threadIdx.x == 0) {
        *loss = 0;
    }
    if (!args.gradient) return;

    __syncthreads(); /* the target's logit has been read */
    for (int column = threadIdx.x * PACK; column < V; column += THREADS * PACK) {
        float x[PACK];
        load_pack(x, row + column);
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            const float gradient = factor * expf(x[i] - most) - (column + i == (int)target ? scale : 0);
            x[i] = ignored || column + i >= V ? 0 : gradient;
        }
        store_pack(row + column, x);
    }
}

} // namespace

template <typename S> void cross_entropy(Queue *queue, const CrossEntropy *args) {
    if (args->N == 0) return;
    check(args->N <= INT32_MAX, "cross_entropy: %lld tokens are more than a launch can hold",
          (long long)args->N);
    LAUNCH((cross_entropy_kernel<S>), (unsigned)args->N, THREADS, 0, queue->stream, *args);
}
INSTANTIATE(cross_entropy, CrossEntropy);
