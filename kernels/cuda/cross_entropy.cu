/*
 * cross_entropy.cu: the loss of a chunk of logits, and its gradient in their place.
 *
 * A block has a row, and each of its threads the same packs of it from the first read to the last store. So the row
 * is staged in shared memory between the two, without a barrier: 100 KB for GPT-2's vocabulary in bf16, two blocks a
 * multiprocessor, one of which computes while the other's row arrives. Left to the caches it would be read twice: the
 * rows in flight are as large as the second level of a GPU. A row that is too long for shared memory is.
 *
 * Bytes in bf16: 4·V a token, 2·V without a gradient. And two exponentials an element: by expf they would be more
 * instructions than fit beside that traffic, by elementary.cuh they are not.
 */
#include "elementary.cuh"

#include <algorithm>

namespace {

constexpr int MAX_THREADS = 512, BLOCKS = 2; /* a multiprocessor */

/* Σ exp(x − max) over some logits. */
struct Softmax {
    float max, sum;
};

/* What is subtracted from exponents: nothing while all logits so far are −∞. */
__device__ __forceinline__ float base_of(float row_max) {
    return row_max == -INFINITY ? 0 : row_max;
}

/* The same bits for (a, b) and (b, a): no product is contracted with the sum. */
template <typename S> __device__ __forceinline__ Softmax combined(Softmax a, Softmax b) {
    const float row_max = fmaxf(a.max, b.max), base = base_of(row_max);
    const float sum_a = __fmul_rn(a.sum, exponential<S>(a.max - base));
    const float sum_b = __fmul_rn(b.sum, exponential<S>(b.max - base));
    return {row_max, sum_a + sum_b};
}

template <typename S> __device__ __forceinline__ Softmax warp_combined(Softmax value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        Softmax other;
        other.max = __shfl_xor_sync(ALL_LANES, value.max, distance);
        other.sum = __shfl_xor_sync(ALL_LANES, value.sum, distance);
        value = combined<S>(value, other);
    }
    return value;
}

/* Combines over the block in a fixed order; every thread gets the result. */
template <typename S> __device__ Softmax block_combined(Softmax value, Softmax *buffer) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const Softmax none = {-INFINITY, 0};
    value = warp_combined<S>(value);
    if (lane == 0) buffer[warp] = value;
    __syncthreads();
    return warp_combined<S>(lane < warps ? buffer[lane] : none);
}

/* Calls body(column, whole) for a thread's packs of a row, the (threadIdx.x + i·blockDim.x)-th: whether all of the
 * pack's elements are logits, which only the last one's may not be. */
template <typename Body> __device__ __forceinline__ void for_each_pack(int V, Body body) {
    const int step = blockDim.x * PACK, whole = V / PACK * PACK;
    int column = threadIdx.x * PACK;
#pragma unroll 2
    for (; column < whole; column += step) body(column, true);
    if (column < V) body(column, false);
}

template <typename S> __device__ __forceinline__ void stage_row(S *staged, const S *row, int V) {
    constexpr int UNIT = 16 / sizeof(S);
    for_each_pack(V, [&](int column, bool) {
#pragma unroll
        for (int i = 0; i < PACK; i += UNIT) cp_async_16(staged + column + i, row + column + i);
    });
    cp_async_commit();
    cp_async_wait<0>();
}

template <typename S> __device__ __forceinline__ Softmax thread_softmax(const S *logits, int V) {
    Softmax state = {-INFINITY, 0};
    for_each_pack(V, [&](int column, bool whole) {
        float x[PACK];
        load_pack(x, logits + column);
        float row_max = state.max;
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            if (!whole && column + i >= V) x[i] = -INFINITY;
            row_max = fmaxf(row_max, x[i]);
        }
        const float base = base_of(row_max);
        float sum = state.sum * exponential<S>(state.max - base);
#pragma unroll
        for (int i = 0; i < PACK; i++) sum += exponential<S>(x[i] - base);
        state = {row_max, sum};
    });
    return state;
}

/* The gradient, factor·exp(x − max) − scale·onehot, of a thread's packs. Padding becomes zero. */
template <typename S>
__device__ __forceinline__ void store_gradient(S *row, const S *logits, int V, int target, float row_max,
                                               float factor, float scale) {
    for_each_pack(V, [&](int column, bool whole) {
        float x[PACK];
        load_pack(x, logits + column);
#pragma unroll
        for (int i = 0; i < PACK; i++) x[i] = factor * exponential<S>(x[i] - row_max);
        if (target / PACK == column / PACK) {
#pragma unroll
            for (int i = 0; i < PACK; i++) x[i] -= column + i == target ? scale : 0;
        }
        if (!whole) clear_padding(x, column, V);
        store_pack(row + column, x);
    });
}

/* STAGED: the launch has shared memory for a row. */
template <typename S, bool STAGED>
__global__ void __launch_bounds__(MAX_THREADS, BLOCKS) cross_entropy_kernel(CrossEntropy args) {
    SHARED_MEMORY(S, staged);
    SHARED_ARRAY(Softmax, buffer, MAX_THREADS / WARP);
    const int V = args.V;
    S *row = static_cast<S *>(args.logits) + blockIdx.x * row_stride(V);
    float *loss = static_cast<float *>(args.losses) + blockIdx.x;

    if (args.targets[blockIdx.x] == TARGET_IGNORED) { /* the same for the whole block */
        const float zero[PACK] = {};
        if (threadIdx.x == 0) *loss = 0;
        if (args.gradient) for_each_pack(V, [&](int column, bool) { store_pack(row + column, zero); });
        return;
    }

    const int target = (int)args.targets[blockIdx.x];
    const S *logits = STAGED ? staged : row;
    if constexpr (STAGED) stage_row(staged, row, V);
    const Softmax softmax = block_combined<S>(thread_softmax(logits, V), buffer);
    const float log_sum = logf(softmax.sum);
    /* Who has the target tells the loss, before the gradient takes the target's place. */
    if ((int)threadIdx.x == target / PACK % (int)blockDim.x)
        *loss = log_sum + (softmax.max - to_float(logits[target]));
    if (!args.gradient) return;

    const double lse = (double)log_sum + (double)softmax.max, scale = args.state->in.loss_scale;
    const float factor = (float)(scale * (1 + 2 * args.z_loss * lse)) / softmax.sum;
    store_gradient(row, logits, V, target, softmax.max, factor, (float)scale);
}

/* Whether the device lets a block have so many bytes beside the kernel's own. */
bool has_shared_memory(size_t bytes) {
    int device, most;
    CUDA_CHECK(cudaGetDevice(&device), "asking for the shared memory of a block");
    CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
               "asking for the shared memory of a block");
    return bytes + sizeof(Softmax) * (MAX_THREADS / WARP) <= (size_t)most;
}

} // namespace

template <typename S> void cross_entropy(Queue *queue, const CrossEntropy *args) {
    if (args->N == 0) return;
    check(args->N <= INT32_MAX, "cross_entropy: %lld tokens are more than a launch can hold",
          (long long)args->N);
    const unsigned warps = (unsigned)ceil_div(args->V, PACK * WARP),
                   threads = std::min(warps * WARP, (unsigned)MAX_THREADS);
    const size_t bytes = row_stride(args->V) * sizeof(S);
    if (has_shared_memory(bytes)) {
        ALLOW_SHARED_MEMORY((cross_entropy_kernel<S, true>), bytes);
        PREFER_SHARED_MEMORY((cross_entropy_kernel<S, true>)); /* two blocks: one loads while the other computes */
        LAUNCH((cross_entropy_kernel<S, true>), (unsigned)args->N, threads, bytes, queue->stream, *args);
    } else {
        LAUNCH((cross_entropy_kernel<S, false>), (unsigned)args->N, threads, 0, queue->stream, *args);
    }
}
INSTANTIATE(cross_entropy, CrossEntropy);
