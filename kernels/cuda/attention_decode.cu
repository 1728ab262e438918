/*
 * attention_decode.cu: attention of generation: new keys and values go into the cache, then each new query
 * attends over what its sequence has there. Any head size that is a multiple of 8 up to 256.
 *
 * A block to each query and head. Its warps take the keys 32 at a time in turn, each with a running maximum and sum of
 * its own: a lane to a key for the scores; for the values a lane to a pack of eight dimensions, and as many keys at once as
 * a warp has lanes for. They are merged at the end in the order of the warps.
 *
 * One new token of each sequence gives too few blocks for a GPU, so its cache is cut into pieces of SPLIT keys, a block
 * each; a second kernel merges what they have gathered, in the order of the pieces. Where the pieces begin hangs on nothing
 * but the key's time step, so neither the other sequences nor the capacity change a bit.
 *
 * A prompt in bf16 goes by attention_mma.cu, which reads its keys and values where the product left them; what is decoded
 * here are then the sequences that had something in the cache before.
 */
#include "attention.cuh"

#include <math.h>

namespace {

constexpr int WARPS = HEAD_WARPS, THREADS = HEAD_THREADS;
constexpr int SPLIT = 128; /* keys of a piece: 32 for each warp */
constexpr int GATHERED = 2 + MAX_D; /* floats that a piece leaves: maximum, Σ exp, Σ exp·value */

/* Where things lie. */
struct Layout {
    int B, T, H, Hkv, D, capacity;
    int pieces; /* of a cache, at most; 1: it is not cut */
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

Layout layout_of(const AttentionDecode *args) {
    Layout layout;
    layout.B = args->B, layout.T = args->T, layout.H = args->H, layout.Hkv = args->Hkv, layout.D = args->D;
    layout.capacity = args->capacity;
    layout.new_are_done = false;
    layout.pieces = args->T == 1 ? (int)ceil_div(args->capacity, SPLIT) : 1;
    layout.qkv_stride = row_stride((int64_t)(args->H + 2 * args->Hkv) * args->D);
    layout.out_stride = row_stride((int64_t)args->H * args->D);
    layout.cache_stride = row_stride((int64_t)args->Hkv * args->D);
    layout.scale = (float)(1.0 / sqrt((double)args->D));
    layout.length = args->length;
    return layout;
}

/* Keys and values of one new token a block. Packs: D is a multiple of 8. */
template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    append_kernel(const S *__restrict__ qkv, S *__restrict__ k_cache, S *__restrict__ v_cache,
                  Layout layout) {
    const uint32_t n = blockIdx.x;
    const int width = layout.Hkv * layout.D;
    const S *keys = qkv + n * layout.qkv_stride + (int64_t)layout.H * layout.D, *values = keys + width;
    const int64_t to = layout.cache(n / (uint32_t)layout.T, layout.time_of(n));
    for (int i = threadIdx.x * PACK; i < width; i += THREADS * PACK) {
        float pack[PACK]; /* there and back keeps the bits */
        load_pack(pack, keys + i);
        store_pack(k_cache + to + i, pack);
        load_pack(pack, values + i);
        store_pack(v_cache + to + i, pack);
    }
}

/* What a warp has gathered from the keys that it took: a pack of dimensions a lane, of each of the keys that lie side by
 * side in a warp. */
struct Partial {
    float most, total, sum[PACK];
};

/* Keys first … last, of which this warp takes every fourth 32. */
template <typename S>
__device__ __forceinline__ Partial gather(const float *query, const S *keys, const S *values, float *probabilities,
                                          const Layout &layout, int64_t first_key, int64_t last) {
    const int lane = threadIdx.x % WARP, packs = layout.D / PACK, side_by_side = WARP / packs;
    const int side = lane / packs, column = lane % packs * PACK; /* the last lanes may have none */
    Partial p;
    p.most = -INFINITY, p.total = 0;
    fill_pack(p.sum, 0);
    for (int64_t first = first_key + threadIdx.x / WARP * WARP; first <= last; first += THREADS) {
        const int64_t key = first + lane;
        float score = -INFINITY;
        if (key <= last) score = layout.scale * dot(query, keys + key * layout.cache_stride, layout.D);
        const float most = fmaxf(p.most, warp_max(score));
        const float probability = expf(score - most), correction = expf(p.most - most);
        p.total = p.total * correction + warp_sum(probability);
        p.most = most;
        probabilities[lane] = probability;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < PACK; i++) p.sum[i] *= correction;
        const int count = (int)min((int64_t)WARP, last - first + 1);
        for (int j = side; side < side_by_side && j < count; j += side_by_side) {
            float value[PACK];
            load_pack(value, values + (first + j) * layout.cache_stride + column);
#pragma unroll
            for (int i = 0; i < PACK; i++) p.sum[i] += probabilities[j] * value[i];
        }
        __syncwarp();
    }
    return p;
}

/* Bytes: the cache's keys and values up to the query, once a query head. Not yet measured. */
template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    decode_kernel(const S *__restrict__ qkv, const S *__restrict__ k_cache, const S *__restrict__ v_cache,
                  S *__restrict__ out, float *__restrict__ pieces, Layout layout) {
    SHARED_ARRAY(float, query, MAX_D);
    SHARED_ARRAY(Lanes, probabilities, WARPS);
    SHARED_ARRAY(Head, gathered, WARPS); /* lane by lane, a pack each */
    SHARED_ARRAY(float, maxima, WARPS);
    SHARED_ARRAY(float, totals, WARPS);
    const uint32_t row = blockIdx.x / (uint32_t)layout.pieces, n = row / (uint32_t)layout.H; /* 32 bits divide without a call */
    const int64_t b = n / (uint32_t)layout.T, time = layout.time_of(n);
    const int64_t first_key = (int64_t)(blockIdx.x % (uint32_t)layout.pieces) * SPLIT;
    const int64_t last = layout.pieces > 1 ? min(time, first_key + SPLIT - 1) : time;
    if (first_key > time || (layout.new_are_done && layout.length[b] == 0)) return;
    const int head = (int)(row % (uint32_t)layout.H), D = layout.D, kv_head = head / (layout.H / layout.Hkv);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int d = threadIdx.x; d < D; d += THREADS)
        query[d] = to_float(qkv[n * layout.qkv_stride + (int64_t)head * D + d]);
    __syncthreads();

    const int64_t start = layout.cache(b, 0) + (int64_t)kv_head * D;
    const Partial p = gather(query, k_cache + start, v_cache + start, probabilities[warp], layout, first_key, last);
#pragma unroll
    for (int i = 0; i < PACK; i++) gathered[warp][lane * PACK + i] = p.sum[i];
    if (lane == 0) maxima[warp] = p.most, totals[warp] = p.total;
    __syncthreads();

    float all_most = maxima[0], all_total = 0; /* the first warp has a key: all_most is a number */
    for (int i = 1; i < WARPS; i++) all_most = fmaxf(all_most, maxima[i]);
    for (int i = 0; i < WARPS; i++) all_total += expf(maxima[i] - all_most) * totals[i];
    float *piece = pieces + (int64_t)blockIdx.x * GATHERED;
    for (int d = threadIdx.x; d < D; d += THREADS) {
        float value = 0;
        for (int i = 0; i < WARPS; i++) {
            float sum = 0;
            for (int side = 0; side < WARP / (D / PACK); side++) sum += gathered[i][side * D + d];
            value += expf(maxima[i] - all_most) * sum;
        }
        if (layout.pieces > 1) piece[2 + d] = value;
        else out[n * layout.out_stride + (int64_t)head * D + d] = from_float<S>(value / all_total);
    }
    if (layout.pieces > 1 && threadIdx.x == 0) piece[0] = all_most, piece[1] = all_total;
}

/* A block to each query and head. */
template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    merge_kernel(const float *__restrict__ pieces, S *__restrict__ out, Layout layout) {
    const uint32_t row = blockIdx.x, n = row / (uint32_t)layout.H;
    const int head = (int)(row % (uint32_t)layout.H), count = (int)(layout.time_of(n) / SPLIT) + 1;
    const float *first = pieces + (int64_t)row * layout.pieces * GATHERED;
    float most = first[0], total = 0;
    for (int i = 1; i < count; i++) most = fmaxf(most, first[i * GATHERED]);
    for (int i = 0; i < count; i++) total += expf(first[i * GATHERED] - most) * first[i * GATHERED + 1];
    for (int d = threadIdx.x; d < layout.D; d += THREADS) {
        float value = 0;
        for (int i = 0; i < count; i++) value += expf(first[i * GATHERED] - most) * first[i * GATHERED + 2 + d];
        out[n * layout.out_stride + (int64_t)head * layout.D + d] = from_float<S>(value / total);
    }
}

/* A prompt, which has nothing before it, is attention as in training; only the device knows which sequences are new. */
template <typename S> bool take_prompts(Queue *queue, const AttentionDecode *args) {
    if (sizeof(S) != sizeof(bf16) || args->T < 2) return false;
    Attention prompts = {};
    prompts.B = args->B, prompts.T = args->T, prompts.H = args->H, prompts.Hkv = args->Hkv, prompts.D = args->D;
    prompts.qkv = args->qkv;
    prompts.out = args->out;
    prompts.lse = cuda_scratch(queue, (size_t)args->B * args->H * args->T * sizeof(float), "attention_decode");
    return attention_forward_mma(queue, &prompts, args->length);
}

size_t pieces_bytes(int B, int H, int64_t pieces) {
    return pieces > 1 ? (size_t)B * H * pieces * GATHERED * sizeof(float) : 0;
}

} // namespace

template <typename S> void attention_decode(Queue *queue, const AttentionDecode *args) {
    check_heads("attention_decode", args->B, args->T, args->H, args->Hkv, args->D);
    if (args->B == 0 || args->T == 0) return;
    Layout layout = layout_of(args);
    const unsigned tokens = (unsigned)(args->B * args->T), rows = tokens * (unsigned)args->H;
    check((int64_t)rows * layout.pieces <= INT32_MAX, "attention_decode on cuda: %d sequences, %d heads and a cache of %d are "
          "more than a launch can hold", args->B, args->H, args->capacity);
    const S *qkv = static_cast<const S *>(args->qkv);
    S *k_cache = static_cast<S *>(args->k_cache), *v_cache = static_cast<S *>(args->v_cache);
    S *out = static_cast<S *>(args->out);
    float *pieces = static_cast<float *>(
        cuda_scratch(queue, pieces_bytes(args->B, args->H, layout.pieces), "attention_decode"));
    LAUNCH((append_kernel<S>), tokens, THREADS, 0, queue->stream, qkv, k_cache, v_cache, layout);
    layout.new_are_done = take_prompts<S>(queue, args);
    LAUNCH((decode_kernel<S>), rows * (unsigned)layout.pieces, THREADS, 0, queue->stream, qkv, k_cache, v_cache, out, pieces,
           layout);
    if (layout.pieces > 1) LAUNCH((merge_kernel<S>), rows, THREADS, 0, queue->stream, pieces, out, layout);
}
INSTANTIATE(attention_decode, AttentionDecode);

size_t attention_decode_scratch(const Limits *limits) {
    const size_t pieces = pieces_bytes(limits->B, limits->H, ceil_div(limits->T, SPLIT));
    const size_t lse = (size_t)limits->N * limits->H * sizeof(float); /* of prompts */
    return pieces > lse ? pieces : lse;
}
