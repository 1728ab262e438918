/*
 * attention_decode.cu: attention of generation: new keys and values go into the cache, then each new query
 * attends over what its sequence has there. Any head size that is a multiple of 8 up to 256.
 *
 * A block to each query and head. Its warps take the keys 32 at a time in turn, each with a running maximum and sum of
 * its own: a lane to a key for the scores; for the values a lane to a pack of eight dimensions, and as many keys at once as
 * a warp has lanes for. They are combined at the end in the order of the warps.
 *
 * One new token of each sequence gives too few blocks for a GPU, so keys and values are split (split-KV, as in
 * Flash-Decoding): SPLIT_KEYS keys a block; a second kernel combines the splits' partial results, in their order. Where
 * splits begin depends on nothing but the key's time step, so neither the other sequences nor the capacity change a bit.
 *
 * A prompt in bf16 goes by attention_mma.cu, which reads its keys and values where the product left them; what is decoded
 * here are then the sequences that had something in the cache before.
 */
#include "attention.cuh"

#include <math.h>

namespace {

constexpr int WARPS = HEAD_WARPS, THREADS = HEAD_THREADS;
constexpr int SPLIT_KEYS = 128;         /* keys of a split: 32 for each warp */
constexpr int SPLIT_FLOATS = 2 + MAX_D; /* of a split's partial result: maximum, Σ exp, Σ exp·value */

/* What the kernels need of an AttentionDecode. */
struct DecodeParams {
    int B, T, H, Hkv, D, capacity;
    int splits;        /* of a cache, at most; 1: it is not split */
    bool new_are_done; /* sequences that had nothing in the cache: tensor cores have taken them */
    int64_t qkv_stride, out_stride, cache_stride;
    float scale;
    const uint32_t *length;

    /* The time step of new token n. An invalid call, whose cache is full, must not write past it. */
    __device__ int64_t time_of(uint32_t n) const {
        const int64_t time = (int64_t)length[n / (uint32_t)T] + n % (uint32_t)T;
        if (time >= capacity) __trap();
        return time;
    }
    __device__ int64_t cache(int64_t b, int64_t time) const { return (b * capacity + time) * cache_stride; }
};

DecodeParams params_of(const AttentionDecode *args) {
    DecodeParams params;
    params.B = args->B, params.T = args->T, params.H = args->H, params.Hkv = args->Hkv, params.D = args->D;
    params.capacity = args->capacity;
    params.new_are_done = false;
    params.splits = args->T == 1 ? (int)ceil_div(args->capacity, SPLIT_KEYS) : 1;
    params.qkv_stride = row_stride((int64_t)(args->H + 2 * args->Hkv) * args->D);
    params.out_stride = row_stride((int64_t)args->H * args->D);
    params.cache_stride = row_stride((int64_t)args->Hkv * args->D);
    params.scale = (float)(1.0 / sqrt((double)args->D));
    params.length = args->length;
    return params;
}

/* Keys and values of one new token a block. Packs: D is a multiple of 8. */
template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    append_kernel(const S *__restrict__ qkv, S *__restrict__ k_cache, S *__restrict__ v_cache,
                  DecodeParams params) {
    const uint32_t n = blockIdx.x;
    const int width = params.Hkv * params.D;
    const S *keys = qkv + n * params.qkv_stride + (int64_t)params.H * params.D, *values = keys + width;
    const int64_t to = params.cache(n / (uint32_t)params.T, params.time_of(n));
    for (int i = threadIdx.x * PACK; i < width; i += THREADS * PACK) {
        float pack[PACK]; /* there and back keeps the bits */
        load_pack(pack, keys + i);
        store_pack(k_cache + to + i, pack);
        load_pack(pack, values + i);
        store_pack(v_cache + to + i, pack);
    }
}

/* What a warp has summed over its keys: a pack of dimensions a lane, of each of the keys that lie side by side in a
 * warp. */
struct WarpPartial {
    float row_max, row_sum, sum[PACK];
};

/* Keys first … last, of which this warp takes every fourth 32. */
template <typename S>
__device__ __forceinline__ WarpPartial warp_mainloop(const float *query, const S *keys, const S *values,
                                                     float *probabilities, const DecodeParams &params,
                                                     int64_t first_key, int64_t last) {
    const int lane = threadIdx.x % WARP, packs = params.D / PACK, side_by_side = WARP / packs;
    const int side = lane / packs, column = lane % packs * PACK; /* the last lanes may have none */
    WarpPartial p;
    p.row_max = -INFINITY, p.row_sum = 0;
    fill_pack(p.sum, 0);
    for (int64_t first = first_key + threadIdx.x / WARP * WARP; first <= last; first += THREADS) {
        const int64_t key = first + lane;
        float score = -INFINITY;
        if (key <= last) score = params.scale * dot(query, keys + key * params.cache_stride, params.D);
        const float row_max = fmaxf(p.row_max, warp_max(score));
        const float probability = expf(score - row_max), correction = expf(p.row_max - row_max);
        p.row_sum = p.row_sum * correction + warp_sum(probability);
        p.row_max = row_max;
        probabilities[lane] = probability;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < PACK; i++) p.sum[i] *= correction;
        const int count = (int)min((int64_t)WARP, last - first + 1);
        for (int j = side; side < side_by_side && j < count; j += side_by_side) {
            float value[PACK];
            load_pack(value, values + (first + j) * params.cache_stride + column);
#pragma unroll
            for (int i = 0; i < PACK; i++) p.sum[i] += probabilities[j] * value[i];
        }
        __syncwarp();
    }
    return p;
}

/* Bytes: the cache's keys and values up to the query, once a query head. */
template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    decode_kernel(const S *__restrict__ qkv, const S *__restrict__ k_cache, const S *__restrict__ v_cache,
                  S *__restrict__ out, float *__restrict__ splits, DecodeParams params) {
    SHARED_ARRAY(float, query, MAX_D);
    SHARED_ARRAY(Lanes, probabilities, WARPS);
    SHARED_ARRAY(Head, outs, WARPS); /* lane by lane, a pack each */
    SHARED_ARRAY(float, maxima, WARPS);
    SHARED_ARRAY(float, sums, WARPS);
    const uint32_t row = blockIdx.x / (uint32_t)params.splits,
                   n = row / (uint32_t)params.H; /* 32 bits divide without a call */
    const int64_t b = n / (uint32_t)params.T, time = params.time_of(n);
    const int64_t first_key = (int64_t)(blockIdx.x % (uint32_t)params.splits) * SPLIT_KEYS;
    const int64_t last = params.splits > 1 ? min(time, first_key + SPLIT_KEYS - 1) : time;
    if (first_key > time || (params.new_are_done && params.length[b] == 0)) return;
    const int head = (int)(row % (uint32_t)params.H), D = params.D, kv_head = head / (params.H / params.Hkv);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int d = threadIdx.x; d < D; d += THREADS)
        query[d] = to_float(qkv[n * params.qkv_stride + (int64_t)head * D + d]);
    __syncthreads();

    const int64_t start = params.cache(b, 0) + (int64_t)kv_head * D;
    const WarpPartial p =
        warp_mainloop(query, k_cache + start, v_cache + start, probabilities[warp], params, first_key, last);
#pragma unroll
    for (int i = 0; i < PACK; i++) outs[warp][lane * PACK + i] = p.sum[i];
    if (lane == 0) maxima[warp] = p.row_max, sums[warp] = p.row_sum;
    __syncthreads();

    float row_max = maxima[0], row_sum = 0; /* the first warp has a key: row_max is a number */
    for (int i = 1; i < WARPS; i++) row_max = fmaxf(row_max, maxima[i]);
    for (int i = 0; i < WARPS; i++) row_sum += expf(maxima[i] - row_max) * sums[i];
    float *split = splits + (int64_t)blockIdx.x * SPLIT_FLOATS;
    for (int d = threadIdx.x; d < D; d += THREADS) {
        float value = 0;
        for (int i = 0; i < WARPS; i++) {
            float sum = 0;
            for (int side = 0; side < WARP / (D / PACK); side++) sum += outs[i][side * D + d];
            value += expf(maxima[i] - row_max) * sum;
        }
        if (params.splits > 1)
            split[2 + d] = value;
        else
            out[n * params.out_stride + (int64_t)head * D + d] = from_float<S>(value / row_sum);
    }
    if (params.splits > 1 && threadIdx.x == 0) split[0] = row_max, split[1] = row_sum;
}

/* A block to each query and head. */
template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    combine_kernel(const float *__restrict__ splits, S *__restrict__ out, DecodeParams params) {
    const uint32_t row = blockIdx.x, n = row / (uint32_t)params.H;
    const int head = (int)(row % (uint32_t)params.H), count = (int)(params.time_of(n) / SPLIT_KEYS) + 1;
    const float *first = splits + (int64_t)row * params.splits * SPLIT_FLOATS;
    float row_max = first[0], row_sum = 0;
    for (int i = 1; i < count; i++) row_max = fmaxf(row_max, first[i * SPLIT_FLOATS]);
    for (int i = 0; i < count; i++)
        row_sum += expf(first[i * SPLIT_FLOATS] - row_max) * first[i * SPLIT_FLOATS + 1];
    for (int d = threadIdx.x; d < params.D; d += THREADS) {
        float value = 0;
        for (int i = 0; i < count; i++)
            value += expf(first[i * SPLIT_FLOATS] - row_max) * first[i * SPLIT_FLOATS + 2 + d];
        out[n * params.out_stride + (int64_t)head * params.D + d] = from_float<S>(value / row_sum);
    }
}

/* A prompt, which has nothing before it, is attention as in training; only the device knows which sequences are new. */
template <typename S> bool launch_prompts(Queue *queue, const AttentionDecode *args) {
    if (sizeof(S) != sizeof(bf16) || args->T < 2) return false;
    Attention prompts = {};
    prompts.B = args->B, prompts.T = args->T, prompts.H = args->H, prompts.Hkv = args->Hkv, prompts.D = args->D;
    prompts.qkv = args->qkv;
    prompts.out = args->out;
    prompts.lse = cuda_scratch(queue, (size_t)args->B * args->H * args->T * sizeof(float), "attention_decode");
    return attention_forward_mma(queue, &prompts, args->length);
}

size_t splits_bytes(int B, int H, int64_t splits) {
    return splits > 1 ? (size_t)B * H * splits * SPLIT_FLOATS * sizeof(float) : 0;
}

} // namespace

template <typename S> void attention_decode(Queue *queue, const AttentionDecode *args) {
    check_heads("attention_decode", args->B, args->T, args->H, args->Hkv, args->D);
    if (args->B == 0 || args->T == 0) return;
    DecodeParams params = params_of(args);
    const unsigned tokens = (unsigned)(args->B * args->T), rows = tokens * (unsigned)args->H;
    check((int64_t)rows * params.splits <= INT32_MAX,
          "attention_decode on cuda: %d sequences, %d heads and a cache of %d are "
          "more than a launch can hold",
          args->B, args->H, args->capacity);
    const S *qkv = static_cast<const S *>(args->qkv);
    S *k_cache = static_cast<S *>(args->k_cache), *v_cache = static_cast<S *>(args->v_cache);
    S *out = static_cast<S *>(args->out);
    float *splits = static_cast<float *>(
        cuda_scratch(queue, splits_bytes(args->B, args->H, params.splits), "attention_decode"));
    LAUNCH((append_kernel<S>), tokens, THREADS, 0, queue->stream, qkv, k_cache, v_cache, params);
    params.new_are_done = launch_prompts<S>(queue, args);
    LAUNCH((decode_kernel<S>), rows * (unsigned)params.splits, THREADS, 0, queue->stream, qkv, k_cache,
           v_cache, out, splits, params);
    if (params.splits > 1) LAUNCH((combine_kernel<S>), rows, THREADS, 0, queue->stream, splits, out, params);
}
INSTANTIATE(attention_decode, AttentionDecode);

size_t attention_decode_scratch(const Limits *limits) {
    const size_t splits = splits_bytes(limits->B, limits->H, ceil_div(limits->T, SPLIT_KEYS));
    const size_t lse = (size_t)limits->N * limits->H * sizeof(float); /* of prompts */
    return splits > lse ? splits : lse;
}
