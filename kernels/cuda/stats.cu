/*
 * stats.cu: what telemetry wants to know of a tensor, in two passes without atomics: a block sums a chunk of
 * rows, one block the chunks. Values are double: it is off the hot path, and reading the tensor is what it
 * costs.
 */
#include "columns.cuh"

#include <math.h>

namespace {

constexpr int THREADS = 256;
constexpr double TANH_SATURATION = 2.6466524123622461977; /* atanh(0.99) */
constexpr double ERF_SATURATION = 1.821386367718448;        /* of which erf is 0.99 */

template <typename T> __device__ __forceinline__ double to_double(T value) {
    return (double)to_float(value);
}
template <> __device__ __forceinline__ double to_double<double>(double value) {
    return value;
}

/* Adds up a block's statistics: four sums and a maximum. Thread 0 has them. `buffer`: STAT_COUNT · 32. */
__device__ void block_stats(double (&stats)[STAT_COUNT], double *buffer) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    double most = stats[STAT_MAX_ABS];
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        most = fmax(most, __shfl_xor_sync(ALL_LANES, most, distance));
    block_sum(stats, buffer); /* the maximum's sum is not used */
    __syncthreads();
    if (lane == 0) buffer[warp] = most;
    __syncthreads();
    for (int i = 0; i < warps; i++) most = fmax(most, buffer[i]);
    stats[STAT_MAX_ABS] = most;
}

/* A thread takes every THREADS-th column of the chunk's rows. */
template <typename T>
__global__ void __launch_bounds__(THREADS)
    stats_chunks_kernel(TensorStats args, int64_t rows, double *__restrict__ partial) {
    SHARED_ARRAY(double, buffer, STAT_COUNT *WARP);
    const T *a = static_cast<const T *>(args.a), *b = static_cast<const T *>(args.b);
    const double s = args.s ? (double)*static_cast<const float *>(args.s) : 1;
    const double gain = args.gain ? (double)*static_cast<const float *>(args.gain) * args.gain_factor : 0;
    const double shift = args.shift ? (double)*static_cast<const float *>(args.shift) : 0;
    const double limit = args.shift ? ERF_SATURATION : TANH_SATURATION;
    const int64_t first = blockIdx.x * rows, last = min(first + rows, args.N), stride = row_stride(args.C);
    double stats[STAT_COUNT] = {};
    for (int64_t n = first; n < last; n++) {
        const double slope =
            args.row_gain ? gain * (double)static_cast<const float *>(args.row_gain)[n] : gain;
        for (int c = threadIdx.x; c < args.C; c += THREADS) {
            const double value = s * to_double(a[n * stride + c]);
            const double other = b ? to_double(b[n * stride + c]) : 0;
            stats[STAT_SUM_SQUARES] += value * value;
            stats[STAT_MAX_ABS] = fmax(stats[STAT_MAX_ABS], fabs(value));
            stats[STAT_DOT] += value * other;
            stats[STAT_OTHER_SUM_SQUARES] += other * other;
            stats[STAT_SATURATED] += fabs(slope * value + shift) > limit ? 1 : 0;
        }
    }
    block_stats(stats, buffer);
    for (int i = 0; threadIdx.x == 0 && i < STAT_COUNT; i++) partial[blockIdx.x * STAT_COUNT + i] = stats[i];
}

__global__ void __launch_bounds__(THREADS)
    stats_finish_kernel(const double *__restrict__ partial, int chunks, double *out) {
    SHARED_ARRAY(double, buffer, STAT_COUNT *WARP);
    double stats[STAT_COUNT] = {};
    for (int chunk = threadIdx.x; chunk < chunks; chunk += THREADS)
        for (int i = 0; i < STAT_COUNT; i++) {
            const double value = partial[chunk * STAT_COUNT + i];
            stats[i] = i == STAT_MAX_ABS ? fmax(stats[i], value) : stats[i] + value;
        }
    block_stats(stats, buffer);
    for (int i = 0; threadIdx.x == 0 && i < STAT_COUNT; i++) out[i] = stats[i];
}

template <typename T> void run_stats(Queue *queue, const TensorStats *args) {
    double *partial =
        static_cast<double *>(cuda_scratch(queue, MAX_CHUNKS * STAT_COUNT * sizeof(double), "tensor_stats"));
    Chunks chunks = {0, 0};
    if (args->N > 0) {
        chunks = split_rows(args->N);
        LAUNCH((stats_chunks_kernel<T>), chunks.count, THREADS, 0, queue->stream, *args, chunks.rows,
               partial);
    }
    LAUNCH(stats_finish_kernel, 1, THREADS, 0, queue->stream, partial, (int)chunks.count, args->out);
}

} // namespace

void tensor_stats(Queue *queue, const TensorStats *args) {
    if (args->type == DTYPE_F32)
        run_stats<float>(queue, args);
    else if (args->type == DTYPE_BF16)
        run_stats<bf16>(queue, args);
    else
        run_stats<double>(queue, args);
}

size_t stats_scratch(const Limits *) {
    return MAX_CHUNKS * STAT_COUNT * sizeof(double);
}
