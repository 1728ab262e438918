/*
 * junction_params.cuh: the backward of the junction that nearly every layer of nearly every run has, by a kernel that
 * asks for nothing else: pre-type, layernorm or rmsnorm with a γ, gradients at both its outputs, no gate, scale or
 * mean square, df in the stream's gradient's place. The same sums in the same order as junction_backward_kernel's.
 */
#ifndef JUNCTION_USUAL_CUH
#define JUNCTION_USUAL_CUH

#include "columns.cuh"
#include "junction_sums.cuh"

namespace {

constexpr int USUAL_ROWS = 2; /* in flight at once: Narrow's chunks are whole pairs */
constexpr int USUAL_WARPS = Narrow::THREADS / WARP;
static_assert(USUAL_WARPS == 8 && USUAL_ROWS == Narrow::ROWS,
              "block_sum_one_barrier adds eight, launch_usual takes pairs");

template <typename S, typename R, NormKind NORM>
constexpr bool may_be_usual = sizeof(S) == sizeof(R) && (NORM == NORM_LAYERNORM || NORM == NORM_RMSNORM);

inline bool is_one(double factor) {
    return factor == 0 || factor == 1; /* 0: not given */
}

inline bool is_usual(const JunctionBackward *args, const Chunks &chunks) {
    const Junction *forward = args->forward;
    const bool gradients = args->dy && args->dresidual_in && args->dresidual_out && !args->df;
    const bool extras = forward->post || args->dgate || args->dmean_square_in || args->dmean_square_out ||
                        forward->mean_square_in || forward->s_out;
    const bool factors = is_one(forward->alpha) && is_one(forward->norm.output_scale);
    const bool whole =
        forward->C % PACK == 0 && forward->N % USUAL_ROWS == 0 && chunks.rows % USUAL_ROWS == 0;
    return gradients && !extras && factors && forward->norm.gamma && whole;
}

/* [N,C] each; gamma [C]; mean and rstd [N], mean with layernorm. dresidual_out may be dresidual_in. */
template <typename S> struct UsualParams {
    const S *u, *dy, *dresidual_in;
    S *dresidual_out;
    const float *gamma, *mean, *rstd;
    int N, C;
    bool dbias; /* whether it is wanted */
};

/* block_sum of up to eight warps by one barrier: warps leave their sums in `buffer`, [COUNT][8] with zeros for warps that are
 * not there, and every thread adds them as block_sum's tree does. The caller has two buffers, for calls in turn: between
 * a read and the next write of the same one lies the other's barrier. */
template <int COUNT>
__device__ __forceinline__ void block_sum_one_barrier(float (&value)[COUNT], float *buffer) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) value[i] = warp_sum(value[i]);
    if (threadIdx.x % WARP == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) buffer[i * USUAL_WARPS + threadIdx.x / WARP] = value[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        float v[PACK];
        load_pack(v, buffer + i * USUAL_WARPS);
        value[i] = ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
    }
}

/* A thread owns a pack of columns and loops over its block's rows, two at a time. WHOLE: no thread lies past the row's end.
 * Bytes an element in bf16: 8. */
template <typename S, NormKind NORM, bool WHOLE>
__global__ void __launch_bounds__(Narrow::THREADS, Narrow::BLOCKS)
    junction_backward_usual_kernel(UsualParams<S> params, int rows_a_block, JunctionPartials partials) {
    constexpr int COUNT = 2 * USUAL_ROWS;
    SHARED_ARRAY(float, buffers, 2 * COUNT *USUAL_WARPS);
    const Norm norm = {}; /* of which nothing more is asked */
    const int column = (int)threadIdx.x * PACK, stride = (int)row_stride(params.C);
    const bool active = WHOLE || column < params.C;
    const int first = (int)blockIdx.x * rows_a_block, last = min(first + rows_a_block, params.N);
    const float of_channel = 1.0f / (float)params.C;
    float gamma[PACK], dbias[PACK];
    fill_pack(gamma, 0), fill_pack(dbias, 0);
    if (active) load_pack(gamma, params.gamma + column);
    NormSums sums;
    sums.clear();
    for (int i = threadIdx.x; i < 2 * COUNT * USUAL_WARPS; i += blockDim.x) buffers[i] = 0;
    __syncthreads();

    float *buffer = buffers, *other = buffers + COUNT * USUAL_WARPS;
    for (int row0 = first; row0 < last; row0 += USUAL_ROWS) {
        float u[USUAL_ROWS][PACK], g[USUAL_ROWS][PACK], shortcut[USUAL_ROWS][PACK], row_sums[COUNT];
        RowStatistics statistics[USUAL_ROWS];
#pragma unroll
        for (int k = 0; k < USUAL_ROWS; k++) {
            const int64_t at = (int64_t)(row0 + k) * stride + column;
            statistics[k] = {NORM == NORM_LAYERNORM ? params.mean[row0 + k] : 0, params.rstd[row0 + k]};
            if (!active) {
                fill_pack(u[k], 0), fill_pack(g[k], 0), fill_pack(shortcut[k], 0);
                continue;
            }
            load_pack(u[k], params.u + at);
            load_pack(g[k], params.dy + at);
            load_pack(shortcut[k], params.dresidual_in + at);
        }
#pragma unroll
        for (int k = 0; k < USUAL_ROWS; k++)
            norm_gradient_begin<NORM, S>(g[k], u[k], gamma, norm, statistics[k], sums, row_sums[2 * k],
                                         row_sums[2 * k + 1]);
        block_sum_one_barrier(row_sums, buffer);
        float *const swap = buffer;
        buffer = other, other = swap;
#pragma unroll
        for (int k = 0; k < USUAL_ROWS; k++) {
            norm_gradient_finish<NORM>(g[k], u[k], norm, statistics[k], false, row_sums[2 * k] * of_channel,
                                       row_sums[2 * k + 1] * of_channel);
#pragma unroll
            for (int i = 0; i < PACK; i++) g[k][i] += shortcut[k][i], dbias[i] += g[k][i];
            if (active) store_pack(params.dresidual_out + (int64_t)(row0 + k) * stride + column, g[k]);
        }
    }
    if (!active) return;
    partials.store_columns(D_GAMMA, column, sums.dgamma);
    if (NORM == NORM_LAYERNORM) partials.store_columns(D_BETA, column, sums.dbeta);
    if (params.dbias) partials.store_columns(D_BIAS, column, dbias);
}

template <typename S, NormKind NORM>
void launch_usual(Queue *queue, const JunctionBackward *args, const Chunks &chunks,
                  const JunctionPartials &partials) {
    const Junction *forward = args->forward;
    UsualParams<S> params;
    params.u = static_cast<const S *>(forward->f ? forward->u : forward->x);
    params.dy = static_cast<const S *>(args->dy);
    params.dresidual_in = static_cast<const S *>(args->dresidual_in);
    params.dresidual_out = static_cast<S *>(args->dresidual_out);
    params.gamma = static_cast<const float *>(forward->norm.gamma);
    params.mean = static_cast<const float *>(forward->norm.mean);
    params.rstd = static_cast<const float *>(forward->norm.rstd);
    params.N = (int)forward->N, params.C = forward->C, params.dbias = args->dbias != NULL;
    const unsigned packs = (unsigned)(forward->C / PACK), threads = (unsigned)ceil_div(packs, WARP) * WARP;
    if (packs == threads)
        LAUNCH((junction_backward_usual_kernel<S, NORM, true>), chunks.count, threads, 0, queue->stream,
               params, (int)chunks.rows, partials);
    else
        LAUNCH((junction_backward_usual_kernel<S, NORM, false>), chunks.count, threads, 0, queue->stream,
               params, (int)chunks.rows, partials);
}

} // namespace

#endif
