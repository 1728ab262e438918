/*
 * attention_decode.cu: attention of generation: new keys and values go into the cache, then each new query
 * attends over what its sequence has there. Any head size that is a multiple of 8 up to 256.
 *
 * A block to each query and head. Its warps take the keys 32 at a time in turn, each with a running maximum
 * and sum of its own (a lane to a key for the scores, a lane to some dimensions for the values); they are
 * merged at the end in the order of the warps.
 */
#include "attention.cuh"

#include <math.h>

namespace {

constexpr int WARPS = HEAD_WARPS, THREADS = HEAD_THREADS, DIMS = HEAD_DIMS;

/* Where things lie. */
struct Layout {
    int B, T, H, Hkv, D, capacity;
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

/* Bytes: the cache's keys and values up to the query, once a query head. Not yet measured. */
template <typename S>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    decode_kernel(const S *__restrict__ qkv, const S *__restrict__ k_cache, const S *__restrict__ v_cache,
                  S *__restrict__ out, Layout layout) {
    SHARED_ARRAY(float, query, MAX_D);
    SHARED_ARRAY(Lanes, probabilities, WARPS);
    SHARED_ARRAY(Head, gathered, WARPS);
    SHARED_ARRAY(float, maxima, WARPS);
    SHARED_ARRAY(float, totals, WARPS);
    const uint32_t n = blockIdx.x / (uint32_t)layout.H; /* in 32 bits, which divide without a call */
    const int64_t b = n / (uint32_t)layout.T, last = layout.time_of(n);
    const int head = (int)(blockIdx.x % (uint32_t)layout.H), D = layout.D,
              kv_head = head / (layout.H / layout.Hkv);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int d = threadIdx.x; d < D; d += THREADS)
        query[d] = to_float(qkv[n * layout.qkv_stride + (int64_t)head * D + d]);
    __syncthreads();

    const int64_t start = layout.cache(b, 0) + (int64_t)kv_head * D;
    float most = -INFINITY, total = 0, sum[DIMS] = {0};
    for (int64_t first = warp * WARP; first <= last; first += THREADS) {
        const int64_t key = first + lane;
        float score = -INFINITY;
        if (key <= last) score = layout.scale * dot(query, k_cache + start + key * layout.cache_stride, D);
        const float new_most = fmaxf(most, warp_max(score));
        const float probability = expf(score - new_most), correction = expf(most - new_most);
        total = total * correction + warp_sum(probability);
        most = new_most;
        probabilities[warp][lane] = probability;
        __syncwarp();
        const int count = (int)min((int64_t)WARP, last - first + 1);
#pragma unroll
        for (int i = 0; i < DIMS; i++) {
            const int d = lane + i * WARP;
            sum[i] *= correction;
            const S *values = v_cache + start + first * layout.cache_stride + d;
            for (int j = 0; d < D && j < count; j++)
                sum[i] += probabilities[warp][j] * to_float(values[j * layout.cache_stride]);
        }
        __syncwarp();
    }
#pragma unroll
    for (int i = 0; i < DIMS; i++) gathered[warp][lane + i * WARP] = sum[i];
    if (lane == 0) maxima[warp] = most, totals[warp] = total;
    __syncthreads();

    float all_most = maxima[0], all_total = 0; /* the first warp has a key: all_most is a number */
    for (int i = 1; i < WARPS; i++) all_most = fmaxf(all_most, maxima[i]);
    for (int i = 0; i < WARPS; i++) all_total += expf(maxima[i] - all_most) * totals[i];
    for (int d = threadIdx.x; d < D; d += THREADS) {
        float value = 0;
        for (int i = 0; i < WARPS; i++) value += expf(maxima[i] - all_most) * gathered[i][d];
        out[n * layout.out_stride + (int64_t)head * D + d] = from_float<S>(value / all_total);
    }
}

} // namespace

template <typename S> void attention_decode(Queue *queue, const AttentionDecode *args) {
    check_heads("attention_decode", args->B, args->T, args->H, args->Hkv, args->D);
    if (args->B == 0 || args->T == 0) return;
    const Layout layout = layout_of(args);
    const unsigned tokens = (unsigned)(args->B * args->T);
    const S *qkv = static_cast<const S *>(args->qkv);
    S *k_cache = static_cast<S *>(args->k_cache), *v_cache = static_cast<S *>(args->v_cache);
    LAUNCH((append_kernel<S>), tokens, THREADS, 0, queue->stream, qkv, k_cache, v_cache, layout);
    LAUNCH((decode_kernel<S>), tokens * (unsigned)args->H, THREADS, 0, queue->stream, qkv, k_cache, v_cache,
           static_cast<S *>(args->out), layout);
}
INSTANTIATE(attention_decode, AttentionDecode);
