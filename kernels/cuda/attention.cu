/*
 * attention.cu: causal attention, forward and backward, for any head size that is a multiple of 8 up to 256:
 * a plain reference in fp32 arithmetic, a warp to each row. Only the log-sum-exp of a row is kept; backward
 * computes the probabilities again. bf16 goes to the tensor cores where attention_mma.cu and
 * attention_mma_backward.cu have a kernel.
 *
 * A warp loops over keys (or, for dK and dV, queries) 32 at a time: first a lane to each of them for the dot
 * products, then the 32 results are in shared memory and a lane owns the head's dimensions lane, lane + 32,
 * …. Nothing is shared between warps, so there is no order that could vary.
 */
#include "attention.cuh"

#include <math.h>

namespace {

constexpr int WARPS = HEAD_WARPS, THREADS = HEAD_THREADS, DIMS = HEAD_DIMS;

/* What the kernels need of an Attention: where rows are in qkv [N, (H+2·Hkv)·D] and out [N, H·D]. */
struct AttentionParams {
    int T, H, Hkv, D;
    int64_t qkv_stride, out_stride;
    float scale;
    const uint32_t *doc_start;

    __device__ int64_t q(int64_t n, int head) const { return n * qkv_stride + (int64_t)head * D; }
    __device__ int64_t k(int64_t n, int kv_head) const { return q(n, H + kv_head); }
    __device__ int64_t v(int64_t n, int kv_head) const { return q(n, H + Hkv + kv_head); }
    __device__ int64_t out(int64_t n, int head) const { return n * out_stride + (int64_t)head * D; }
    __device__ int kv_head(int head) const { return head / (H / Hkv); } /* a multiple (check_heads) */
    __device__ int first_key(int64_t n) const { return doc_start ? (int)doc_start[n] : 0; }
};

AttentionParams params_of(const Attention *args) {
    AttentionParams params;
    params.T = args->T, params.H = args->H, params.Hkv = args->Hkv, params.D = args->D;
    params.qkv_stride = row_stride((int64_t)(args->H + 2 * args->Hkv) * args->D);
    params.out_stride = row_stride((int64_t)args->H * args->D);
    params.scale = (float)(1.0 / sqrt((double)args->D));
    params.doc_start = args->doc_start;
    return params;
}

/* One query row: sequence, head and time step of the warp's row in [B,H,T]. Rows fit in 32 bits (check_heads), which
 * divide without a call. */
struct QueryRow {
    int64_t index, n; /* in [B,H,T], in [N] */
    int head, t;
};

__device__ __forceinline__ QueryRow query_row(uint32_t index, const AttentionParams &params) {
    const uint32_t T = params.T, b_head = index / T;
    QueryRow row;
    row.index = index;
    row.t = (int)(index % T);
    row.head = (int)(b_head % (uint32_t)params.H);
    row.n = (int64_t)(b_head / (uint32_t)params.H) * params.T + row.t;
    return row;
}

__device__ __forceinline__ uint32_t warp_index() {
    return blockIdx.x * WARPS + threadIdx.x / WARP;
}

/* Copies a head's row into shared memory; a __syncwarp() must follow before it is read. */
template <typename S> __device__ __forceinline__ void load_head(float *shared, const S *row, int D) {
    for (int d = threadIdx.x % WARP; d < D; d += WARP) shared[d] = to_float(row[d]);
}

/* sum[i] += weight · row[dimension i of this lane] */
template <typename S>
__device__ __forceinline__ void accumulate(float (&sum)[DIMS], float weight, const S *row, int D) {
#pragma unroll
    for (int i = 0; i < DIMS; i++) {
        const int d = threadIdx.x % WARP + i * WARP;
        if (d < D) sum[i] += weight * to_float(row[d]);
    }
}

template <typename S> __device__ __forceinline__ void store_head(S *row, const float (&value)[DIMS], int D) {
#pragma unroll
    for (int i = 0; i < DIMS; i++) {
        const int d = threadIdx.x % WARP + i * WARP;
        if (d < D) row[d] = from_float<S>(value[i]);
    }
}

/* --------------------------------------------------------------------------------------------------------
 * Forward
 * ------------------------------------------------------------------------------------------------------ */

template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    attention_forward_kernel(const S *__restrict__ qkv, S *__restrict__ out, float *__restrict__ lse,
                             AttentionParams params, int64_t rows) {
    SHARED_ARRAY(Head, queries, WARPS);
    SHARED_ARRAY(Lanes, probabilities, WARPS);
    const uint32_t index = warp_index();
    if (index >= rows) return;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const QueryRow row = query_row(index, params);
    const int kv_head = params.kv_head(row.head);
    const int64_t n0 = row.n - row.t; /* the sequence's first token */
    load_head(queries[warp], qkv + params.q(row.n, row.head), params.D);
    __syncwarp();

    float row_max = -INFINITY, row_sum = 0, sum[DIMS] = {0};
    for (int first = params.first_key(row.n); first <= row.t; first += WARP) {
        const int key = first + lane;
        float score = -INFINITY;
        if (key <= row.t)
            score = params.scale * dot(queries[warp], qkv + params.k(n0 + key, kv_head), params.D);
        const float new_max = fmaxf(row_max, warp_max(score));
        const float probability = expf(score - new_max), correction = expf(row_max - new_max);
        row_sum = row_sum * correction + warp_sum(probability);
        row_max = new_max;
        probabilities[warp][lane] = probability;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < DIMS; i++) sum[i] *= correction;
        const int count = min(WARP, row.t - first + 1);
        for (int j = 0; j < count; j++)
            accumulate(sum, probabilities[warp][j], qkv + params.v(n0 + first + j, kv_head), params.D);
        __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < DIMS; i++) sum[i] /= row_sum;
    store_head(out + params.out(row.n, row.head), sum, params.D);
    if (lane == 0) lse[row.index] = row_max + logf(row_sum);
}

/* --------------------------------------------------------------------------------------------------------
 * Backward: P = exp(S − lse), dP = dO·Vᵀ, dS = P ⊙ (dP − delta) with delta = Σ dO⊙O of the row
 * ------------------------------------------------------------------------------------------------------ */

template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    attention_delta_kernel(const S *__restrict__ out, const S *__restrict__ dout, float *__restrict__ delta,
                           AttentionParams params, int64_t rows) {
    const uint32_t index = warp_index();
    if (index >= rows) return;
    const QueryRow row = query_row(index, params);
    const int64_t at = params.out(row.n, row.head);
    float sum = 0;
    for (int d = threadIdx.x % WARP; d < params.D; d += WARP)
        sum += to_float(out[at + d]) * to_float(dout[at + d]);
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) delta[row.index] = sum;
}

/* dQ: a warp to each query row. */
template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    attention_dq_kernel(const S *__restrict__ qkv, const S *__restrict__ dout, const float *__restrict__ lse,
                        const float *__restrict__ delta, S *__restrict__ dqkv, AttentionParams params,
                        int64_t rows) {
    SHARED_ARRAY(Head, queries, WARPS);
    SHARED_ARRAY(Head, dout_rows, WARPS);
    SHARED_ARRAY(Lanes, dscores, WARPS);
    const uint32_t index = warp_index();
    if (index >= rows) return;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const QueryRow row = query_row(index, params);
    const int kv_head = params.kv_head(row.head);
    const int64_t n0 = row.n - row.t;
    load_head(queries[warp], qkv + params.q(row.n, row.head), params.D);
    load_head(dout_rows[warp], dout + params.out(row.n, row.head), params.D);
    __syncwarp();

    float dq[DIMS] = {0};
    for (int first = params.first_key(row.n); first <= row.t; first += WARP) {
        const int key = first + lane;
        float dscore = 0;
        if (key <= row.t) {
            const float score =
                params.scale * dot(queries[warp], qkv + params.k(n0 + key, kv_head), params.D);
            const float dprobability = dot(dout_rows[warp], qkv + params.v(n0 + key, kv_head), params.D);
            dscore = expf(score - lse[row.index]) * (dprobability - delta[row.index]) * params.scale;
        }
        dscores[warp][lane] = dscore;
        __syncwarp();
        const int count = min(WARP, row.t - first + 1);
        for (int j = 0; j < count; j++)
            accumulate(dq, dscores[warp][j], qkv + params.k(n0 + first + j, kv_head), params.D);
        __syncwarp();
    }
    store_head(dqkv + params.q(row.n, row.head), dq, params.D);
}

/* dK and dV: a warp to each key row sums over the query heads of its group and the queries that see it. */
template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    attention_dkv_kernel(const S *__restrict__ qkv, const S *__restrict__ dout, const float *__restrict__ lse,
                         const float *__restrict__ delta, S *__restrict__ dqkv, AttentionParams params,
                         int64_t rows) {
    SHARED_ARRAY(Head, keys, WARPS);
    SHARED_ARRAY(Head, values, WARPS);
    SHARED_ARRAY(Lanes, probabilities, WARPS);
    SHARED_ARRAY(Lanes, dscores, WARPS);
    const uint32_t index = warp_index(); /* in [B,Hkv,T] */
    if (index >= rows) return;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int T = params.T, D = params.D, key = (int)(index % (uint32_t)T);
    const uint32_t b_head = index / (uint32_t)T;
    const int kv_head = (int)(b_head % (uint32_t)params.Hkv);
    const int64_t b = b_head / (uint32_t)params.Hkv, n0 = b * T;
    load_head(keys[warp], qkv + params.k(n0 + key, kv_head), D);
    load_head(values[warp], qkv + params.v(n0 + key, kv_head), D);
    __syncwarp();

    const int group = params.H / params.Hkv;
    float dk[DIMS] = {0}, dv[DIMS] = {0};
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int first = key; first < T; first += WARP) {
            const int t = first + lane;
            const bool sees = t < T && params.first_key(n0 + t) <= key;
            if (!__any_sync(ALL_LANES, sees)) continue;
            float probability = 0, dscore = 0;
            if (sees) {
                const int64_t at = (b * params.H + head) * T + t;
                const float score = params.scale * dot(keys[warp], qkv + params.q(n0 + t, head), D);
                const float dprobability = dot(values[warp], dout + params.out(n0 + t, head), D);
                probability = expf(score - lse[at]);
                dscore = probability * (dprobability - delta[at]) * params.scale;
            }
            probabilities[warp][lane] = probability;
            dscores[warp][lane] = dscore;
            __syncwarp();
            const int count = min(WARP, T - first);
            for (int j = 0; j < count; j++) {
                accumulate(dv, probabilities[warp][j], dout + params.out(n0 + first + j, head), D);
                accumulate(dk, dscores[warp][j], qkv + params.q(n0 + first + j, head), D);
            }
            __syncwarp();
        }
    }
    store_head(dqkv + params.k(n0 + key, kv_head), dk, D);
    store_head(dqkv + params.v(n0 + key, kv_head), dv, D);
}

void check_attention(const Attention *args) {
    check_heads("attention", args->B, args->T, args->H, args->Hkv, args->D);
}

unsigned blocks_for(int64_t rows) {
    return (unsigned)ceil_div(rows, WARPS);
}

} // namespace

template <typename S> void attention_forward(Queue *queue, const Attention *args) {
    check_attention(args);
    if (args->B == 0 || args->T == 0) return;
    if (sizeof(S) == sizeof(bf16) && attention_forward_mma(queue, args, NULL)) return;
    const int64_t rows = (int64_t)args->B * args->T * args->H;
    LAUNCH((attention_forward_kernel<S>), blocks_for(rows), THREADS, 0, queue->stream,
           static_cast<const S *>(args->qkv), static_cast<S *>(args->out), static_cast<float *>(args->lse),
           params_of(args), rows);
}
INSTANTIATE(attention_forward, Attention);

template <typename S> void attention_backward(Queue *queue, const AttentionBackward *args) {
    const Attention *forward = args->forward;
    check_attention(forward);
    if (forward->B == 0 || forward->T == 0) return;
    if (sizeof(S) == sizeof(bf16) && attention_backward_mma(queue, args)) return;
    const int64_t tokens = (int64_t)forward->B * forward->T;
    const int64_t rows = tokens * forward->H, key_rows = tokens * forward->Hkv;
    float *delta = static_cast<float *>(cuda_scratch(queue, rows * sizeof(float), "attention_backward"));
    const AttentionParams params = params_of(forward);
    const S *qkv = static_cast<const S *>(forward->qkv), *out = static_cast<const S *>(forward->out);
    const S *dout = static_cast<const S *>(args->dout);
    const float *lse = static_cast<const float *>(forward->lse);
    S *dqkv = static_cast<S *>(args->dqkv);
    LAUNCH((attention_delta_kernel<S>), blocks_for(rows), THREADS, 0, queue->stream, out, dout, delta, params,
           rows);
    LAUNCH((attention_dq_kernel<S>), blocks_for(rows), THREADS, 0, queue->stream, qkv, dout, lse, delta, dqkv,
           params, rows);
    LAUNCH((attention_dkv_kernel<S>), blocks_for(key_rows), THREADS, 0, queue->stream, qkv, dout, lse, delta,
           dqkv, params, key_rows);
    if (!args->dbias) return;
    Qkv as_it_is = {};
    as_it_is.B = forward->B, as_it_is.T = forward->T;
    as_it_is.H = forward->H, as_it_is.Hkv = forward->Hkv, as_it_is.D = forward->D;
    QkvBackward bias = {};
    bias.forward = &as_it_is, bias.dqkv = bias.draw = args->dqkv, bias.dbias = args->dbias;
    qkv_backward<S>(queue, &bias);
}
INSTANTIATE(attention_backward, AttentionBackward);

size_t attention_scratch(const Limits *limits) {
    const size_t delta = (size_t)limits->N * limits->H * sizeof(float), mma = attention_mma_scratch(limits);
    const size_t splits = attention_decode_scratch(limits), most = delta > mma ? delta : mma;
    return most > splits ? most : splits;
}
