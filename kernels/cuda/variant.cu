/*
 * variant.cu: the small computations that some variants need once a step: GPAS' scales, BHyT's constant and
 * the terms of its estimate (MATH.md §1.2, §3).
 */
#include "types.cuh"

#include <math.h>

namespace {

constexpr int THREADS = 256;

/* --------------------------------------------------------------------------------------------------------
 * GPAS
 * ------------------------------------------------------------------------------------------------------ */

struct Act {
    float value, slope;
};

__device__ Act gpas_act(GpasActivation activation, float g) {
    const float leak = 0.01f;
    switch (activation) {
    case GPAS_SILU: {
        const float sigmoid = 1.0f / (1.0f + expf(-g));
        return {g * sigmoid, sigmoid * (1 + g * (1 - sigmoid))};
    }
    case GPAS_RELU: /* slope 0 at 0 */
        return {g > 0 ? g : 0, g > 0 ? 1.0f : 0.0f};
    case GPAS_TANH: {
        const float value = tanhf(g);
        return {value, (1 - value) * (1 + value)};
    }
    case GPAS_LEAKY_RELU:
        return {g > 0 ? g : leak * g, g > 0 ? 1.0f : leak};
    default:
        return {g, 1};
    }
}

__global__ void gpas_scales_kernel(GpasScales args) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= args.n) return;
    const Act act = gpas_act(args.activation, static_cast<const float *>(args.gate)[i]);
    static_cast<float *>(args.scale)[i] = 1 - act.value;
    static_cast<float *>(args.slope)[i] = act.slope;
}

/* --------------------------------------------------------------------------------------------------------
 * BHyT's constant
 * ------------------------------------------------------------------------------------------------------ */

/* A block computes a tile of TILE × TILE elements of W_O·W_V, TILE_K of the inner dimension at a time, a thread
 * THREAD_TILE × THREAD_TILE of them. */
constexpr int TILE = 64, TILE_K = 16, THREAD_TILE = 4;

typedef float TileRow[TILE];

/* W_O's columns that meet row k of W_V: query heads that share a key-value head are added up first. */
template <typename S> __device__ __forceinline__ float folded(const S *row, int k, int group, int D) {
    float sum = 0;
    for (int head = 0; head < group; head++)
        sum += to_float(row[(int64_t)(k / D * group + head) * D + k % D]);
    return sum;
}

/*
 * partial[tile] = Σ of the squares of one tile. C²·Hkv·D multiply-adds of fp32 a layer, once a step at most.
 */
template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    product_squares_kernel(const S *__restrict__ w_o, const S *__restrict__ w_v, float *__restrict__ partial,
                           int C, int H, int Hkv, int D) {
    SHARED_ARRAY(TileRow, left, TILE_K);
    SHARED_ARRAY(TileRow, right, TILE_K);
    SHARED_ARRAY(float, buffer, WARP);
    const int64_t stride_o = row_stride((int64_t)H * D), stride_v = row_stride(C);
    const int K = Hkv * D, first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const int x = threadIdx.x % (TILE / THREAD_TILE) * THREAD_TILE,
              y = threadIdx.x / (TILE / THREAD_TILE) * THREAD_TILE;
    float product[THREAD_TILE][THREAD_TILE] = {};
    for (int k0 = 0; k0 < K; k0 += TILE_K) {
        __syncthreads(); /* the tiles may still be read */
        for (int i = threadIdx.x; i < TILE_K * TILE; i += THREADS) {
            const int row = first_row + i / TILE_K, k = k0 + i % TILE_K;
            left[i % TILE_K][i / TILE_K] = row < C && k < K ? folded(w_o + row * stride_o, k, H / Hkv, D) : 0;
        }
        for (int i = threadIdx.x; i < TILE_K * TILE; i += THREADS) {
            const int k = k0 + i / TILE, column = first_column + i % TILE;
            right[i / TILE][i % TILE] = column < C && k < K ? to_float(w_v[k * stride_v + column]) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < TILE_K; k++)
#pragma unroll
            for (int i = 0; i < THREAD_TILE; i++)
#pragma unroll
                for (int j = 0; j < THREAD_TILE; j++) product[i][j] += left[k][y + i] * right[k][x + j];
    }
    float sum[1] = {0};
#pragma unroll
    for (int i = 0; i < THREAD_TILE; i++)
#pragma unroll
        for (int j = 0; j < THREAD_TILE; j++) sum[0] += product[i][j] * product[i][j];
    block_sum(sum, buffer);
    if (threadIdx.x == 0) partial[blockIdx.y * gridDim.x + blockIdx.x] = sum[0];
}

/* *out = Σ partial / divisor, by one block. */
__global__ void product_norm_kernel(const float *__restrict__ partial, int64_t tiles, double divisor,
                                    float *out) {
    SHARED_ARRAY(double, buffer, WARP);
    double sum[1] = {0};
    for (int64_t i = threadIdx.x; i < tiles; i += blockDim.x) sum[0] += (double)partial[i];
    block_sum(sum, buffer);
    if (threadIdx.x == 0) *out = (float)(sum[0] / divisor);
}

int64_t tiles_of(int64_t C) {
    return ceil_div(C, TILE);
}

/* --------------------------------------------------------------------------------------------------------
 * BHyT's estimate
 * ------------------------------------------------------------------------------------------------------ */

__global__ void bhyt_terms_kernel(BhytTerms args) {
    SHARED_ARRAY(double, buffer, WARP);
    const float *vector = static_cast<const float *>(args.alpha_o ? args.alpha_o : args.gamma);
    double sum[1] = {0};
    for (int c = threadIdx.x; vector && c < args.C; c += blockDim.x)
        sum[0] += (double)vector[c] * (double)vector[c];
    block_sum(sum, buffer);
    if (threadIdx.x != 0) return;
    double estimate = vector ? sum[0] / args.C : 1;
    if (!args.alpha_o) {
        const double ratio = (double)*static_cast<const float *>(args.lambda) / args.kappa;
        estimate *= (double)*static_cast<const float *>(args.c) * ratio * ratio;
    }
    const double s = args.s ? (double)*static_cast<const float *>(args.s) : 1;
    float *vhat = static_cast<float *>(args.vhat);
    vhat[0] = (float)(s * s);
    vhat[1] = (float)(s * s * args.factor * estimate);
}

} // namespace

void gpas_scales(Queue *queue, const GpasScales *args) {
    if (args->n <= 0) return;
    LAUNCH(gpas_scales_kernel, (unsigned)ceil_div(args->n, THREADS), THREADS, 0, queue->stream, *args);
}

template <typename S> void product_norm(Queue *queue, const ProductNorm *args) {
    check(args->Hkv >= 1 && args->H % args->Hkv == 0,
          "product_norm on cuda: %d heads are not a multiple of %d key-value heads", args->H, args->Hkv);
    const int64_t tiles = tiles_of(args->C);
    check(tiles <= 65535, "product_norm on cuda: %d channels are more than a launch can hold", args->C);
    const S *w_v =
        static_cast<const S *>(args->w_qkv) + (int64_t)(args->H + args->Hkv) * args->D * row_stride(args->C);
    float *partial = static_cast<float *>(cuda_scratch(queue, tiles * tiles * sizeof(float), "product_norm"));
    LAUNCH((product_squares_kernel<S>), dim3((unsigned)tiles, (unsigned)tiles), THREADS, 0, queue->stream,
           static_cast<const S *>(args->w_o), w_v, partial, args->C, args->H, args->Hkv, args->D);
    LAUNCH(product_norm_kernel, 1, THREADS, 0, queue->stream, partial, tiles * tiles,
           (double)args->T * args->C, static_cast<float *>(args->out));
}
INSTANTIATE(product_norm, ProductNorm);

void bhyt_terms(Queue *queue, const BhytTerms *args) {
    LAUNCH(bhyt_terms_kernel, 1, THREADS, 0, queue->stream, *args);
}

size_t variant_scratch(const Limits *limits) {
    return (size_t)(tiles_of(limits->C) * tiles_of(limits->C)) * sizeof(float);
}
