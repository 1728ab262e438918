/*
 * attention_mma.cu: the bf16 forward of attention on tensor cores (mma.sync m16n8k16, sm_80 and newer), for
 * head sizes 32, 48, 64, 96 and 128; others take attention.cu.
 *
 * The algorithm is FlashAttention-2's (Dao 2023): a block holds 64 or 128 queries in registers and walks over
 * the keys, 64 at a time, with an online softmax. Four warps; a warp owns TILES · 16 query rows from the
 * first product to the last store, so warps meet only to hand over key and value tiles. Those arrive by
 * cp.async in two stages: the next pair is on its way while the tensor cores use this one. Blocks of keys
 * that no query of the block may see (later ones, and those before every row's document) are never visited;
 * masks are applied only where a tile crosses an edge.
 *
 * Rows in shared memory are D + 8 elements apart: an odd number of 16-byte units, so that the eight rows of
 * an ldmatrix hit all banks once.
 *
 * FLOPs: 4·T²·D/2 per head (half of the square is above the diagonal); bytes: q, k, v and out once. gpt2-124m
 * (H=12, D=64) at B=64, T=1024: 103 GFLOP and 0.40 GB, so floors of 0.10 ms at 990 TFLOP/s and 0.08 ms at
 * 4.8 TB/s on an H200; mma.sync reaches about 60 % of the rate that Hopper's wgmma has. Not yet measured.
 */
#include "types.cuh"
#include "ptx.cuh"

#include <math.h>

namespace {

constexpr int WARPS = 4, THREADS = WARPS * WARP;
constexpr int KEYS = 64; /* of a tile */

struct Shape {
    int B, T, H, Hkv;
    int64_t qkv_stride, out_stride;
    float scale; /* 1/√D */
    int query_blocks;
};

template <int D, int TILES> struct Config {
    static constexpr int QUERIES = WARPS * TILES * 16;
    static constexpr int STRIDE = D + 8; /* of a row in shared memory */
    static constexpr int TILE = KEYS * STRIDE;
    static constexpr int STAGE = 2 * TILE; /* keys, then values */
    static constexpr size_t SHARED_BYTES = 2 * STAGE * sizeof(bf16);
    static_assert(QUERIES * STRIDE <= STAGE, "queries pass through a stage");
};

/* Copies rows [first, first + ROWS) of a head into shared memory; rows at or past T become zero. */
template <int D, int ROWS>
__device__ __forceinline__ void copy_rows(bf16 *shared, const bf16 *head, int64_t stride, int first, int T) {
    constexpr int PACKS = D / PACK;
#pragma unroll 1 /* unrolled, the addresses of all its rows would sit in registers */
    for (int i = threadIdx.x; i < ROWS * PACKS; i += THREADS) {
        const int row = i / PACKS, column = i % PACKS * PACK, t = first + row;
        cp_async_16(shared + row * (D + 8) + column, head + min(t, T - 1) * stride + column, t < T);
    }
}

/* The address that a lane gives ldmatrix_x4 for a 16×16 tile: matrices in the order (row, column) of 8×8
 * blocks (0,0), (8,0), (0,8), (8,8). */
__device__ __forceinline__ int tile_offset(int stride) {
    const int lane = threadIdx.x % WARP;
    return lane % 16 * stride + lane / 16 * 8;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

/* The smallest and the largest of the block's rows' first keys. */
struct KeyRange {
    int least, most;
};

__device__ __forceinline__ int row_first_key(const uint32_t *doc_start, int t) {
    return doc_start ? (int)doc_start[t] : 0;
}

template <int QUERIES> __device__ KeyRange first_keys(const uint32_t *doc_start, int q0, int T, int *buffer) {
    KeyRange range = {0, 0};
    if (!doc_start) return range;
    range.least = T, range.most = 0;
    for (int t = q0 + threadIdx.x; t < min(q0 + QUERIES, T); t += THREADS) {
        range.least = min(range.least, (int)doc_start[t]);
        range.most = max(range.most, (int)doc_start[t]);
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        range.least = min(range.least, __shfl_xor_sync(ALL_LANES, range.least, distance));
        range.most = max(range.most, __shfl_xor_sync(ALL_LANES, range.most, distance));
    }
    const int warp = threadIdx.x / WARP;
    if (threadIdx.x % WARP == 0) buffer[warp] = range.least, buffer[WARPS + warp] = range.most;
    __syncthreads();
    for (int i = 0; i < WARPS; i++) {
        range.least = min(range.least, buffer[i]);
        range.most = max(range.most, buffer[WARPS + i]);
    }
    return range;
}

/* S [TILES · 16, KEYS] = Q·Kᵀ of one warp's rows; a fragment of K is loaded once for all of them. */
template <int D, int TILES>
__device__ __forceinline__ void multiply_qk(float (&scores)[TILES][KEYS / 8][4],
                                            const uint32_t (&q)[TILES][D / 16][4], const bf16 *keys) {
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < 4; i++) scores[tile][2 * n][i] = scores[tile][2 * n + 1][i] = 0;
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            uint32_t k[4]; /* keys 0…7 at d, keys 8…15 at d, keys 0…7 at d+8, keys 8…15 at d+8 */
            ldmatrix_x4(k, keys + n * 16 * (D + 8) + d * 16 + tile_offset(D + 8));
            const uint32_t low[2] = {k[0], k[2]}, high[2] = {k[1], k[3]};
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                mma_m16n8k16_bf16(scores[tile][2 * n], q[tile][d], low, scores[tile][2 * n]);
                mma_m16n8k16_bf16(scores[tile][2 * n + 1], q[tile][d], high, scores[tile][2 * n + 1]);
            }
        }
    }
}

/* O [TILES · 16, D] += P·V. The accumulators of S, rounded, are already laid out as the A fragments of P. */
template <int D, int TILES>
__device__ __forceinline__ void multiply_pv(float (&out)[TILES][D / 8][4],
                                            const float (&p)[TILES][KEYS / 8][4], const bf16 *values) {
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
        uint32_t a[TILES][4];
#pragma unroll
        for (int tile = 0; tile < TILES; tile++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[tile][i] =
                    pack_bf16(p[tile][2 * n + i / 2][i % 2 * 2], p[tile][2 * n + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int d = 0; d < D / 16; d++) {
            uint32_t v[4]; /* d…d+7 of values 0…7, of values 8…15, then d+8…d+15 likewise */
            ldmatrix_x4_trans(v, values + n * 16 * (D + 8) + d * 16 + tile_offset(D + 8));
            const uint32_t low[2] = {v[0], v[1]}, high[2] = {v[2], v[3]};
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                mma_m16n8k16_bf16(out[tile][2 * d], a[tile], low, out[tile][2 * d]);
                mma_m16n8k16_bf16(out[tile][2 * d + 1], a[tile], high, out[tile][2 * d + 1]);
            }
        }
    }
}

/* The two rows of a 16-row tile that a thread holds a quarter of: g and g + 8 with g = lane / 4. */
struct RowState {
    int t, first_key;  /* keys first_key … t are visible */
    float most, total; /* of scores so far (unscaled), and this thread's part of Σ exp */
};

/* Online softmax: scores become probabilities, the running maximum and sum move on, and `out` follows. */
template <int D>
__device__ __forceinline__ void softmax_step(float (&scores)[KEYS / 8][4], float (&out)[D / 8][4],
                                             RowState (&rows)[2], int key0, bool masked, float scale_log2) {
    const int column = key0 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most = rows[r].most;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &score = scores[n][2 * r + i];
                const int key = column + n * 8 + i;
                if (masked && (key > rows[r].t || key < rows[r].first_key)) score = -INFINITY;
                most = fmaxf(most, score);
            }
        }
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
        const float base = most == -INFINITY ? 0 : most * scale_log2; /* −∞: nothing visible yet */
        const float correction = exp2f(rows[r].most * scale_log2 - base);
        rows[r].most = most;
        rows[r].total *= correction;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &score = scores[n][2 * r + i];
                score = exp2f(score * scale_log2 - base);
                rows[r].total += score;
            }
        }
#pragma unroll
        for (int d = 0; d < D / 8; d++) out[d][2 * r] *= correction, out[d][2 * r + 1] *= correction;
    }
}

/* Normalises a warp's 16 rows and leaves them in its own part of shared memory; writes their log-sum-exp. */
template <int D>
__device__ __forceinline__ void finish_rows(bf16 *staged, float *lse, float (&out)[D / 8][4],
                                            RowState (&rows)[2], int T, float scale) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float total = rows[r].total;
        total += __shfl_xor_sync(ALL_LANES, total, 1);
        total += __shfl_xor_sync(ALL_LANES, total, 2);
        const float inverse = 1.0f / total;
        bf16 *row = staged + (lane / 4 + r * 8) * (D + 8) + lane % 4 * 2;
#pragma unroll
        for (int d = 0; d < D / 8; d++)
            *reinterpret_cast<uint32_t *>(row + d * 8) =
                pack_bf16(out[d][2 * r] * inverse, out[d][2 * r + 1] * inverse);
        if (lane % 4 == 0 && rows[r].t < T) lse[rows[r].t] = rows[r].most * scale + logf(total);
    }
}

template <int D, int TILES>
__global__ void __launch_bounds__(THREADS, 2)
    attention_forward_mma_kernel(const bf16 *__restrict__ qkv, const uint32_t *__restrict__ doc_start,
                                 bf16 *__restrict__ out, float *__restrict__ lse, Shape shape) {
    typedef Config<D, TILES> C;
    SHARED_MEMORY(bf16, shared);
    SHARED_ARRAY(int, range_buffer, 2 * WARPS);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, T = shape.T;

    /* Query blocks of a head are neighbours, so that its keys and values stay in L2; longest first. */
    const int query_block = shape.query_blocks - 1 - (int)(blockIdx.x % shape.query_blocks);
    const int head = (int)(blockIdx.x / shape.query_blocks % shape.H);
    const int64_t b = blockIdx.x / shape.query_blocks / shape.H;
    const int kv_head = head / (shape.H / shape.Hkv), q0 = query_block * C::QUERIES;
    const int64_t n0 = b * T;
    const bf16 *queries = qkv + n0 * shape.qkv_stride + (int64_t)head * D;
    const bf16 *keys = qkv + n0 * shape.qkv_stride + (int64_t)(shape.H + kv_head) * D;
    const bf16 *values = keys + (int64_t)shape.Hkv * D;
    if (doc_start) doc_start += n0;

    const KeyRange range = first_keys<C::QUERIES>(doc_start, q0, T, range_buffer);
    const int first_tile = range.least / KEYS;
    const int last_tile = (min(q0 + C::QUERIES, T) - 1) / KEYS;

    copy_rows<D, C::QUERIES>(shared + C::STAGE, queries, shape.qkv_stride, q0, T); /* through stage 1 */
    cp_async_commit();
    copy_rows<D, KEYS>(shared, keys, shape.qkv_stride, first_tile * KEYS, T);
    copy_rows<D, KEYS>(shared + C::TILE, values, shape.qkv_stride, first_tile * KEYS, T);
    cp_async_commit();

    cp_async_wait<1>();
    __syncthreads();
    uint32_t q[TILES][D / 16][4];
    float sum[TILES][D / 8][4];
    RowState rows[TILES][2];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
        const int row0 = (warp * TILES + tile) * 16;
#pragma unroll
        for (int d = 0; d < D / 16; d++)
            ldmatrix_x4(q[tile][d], shared + C::STAGE + row0 * C::STRIDE + d * 16 + tile_offset(C::STRIDE));
#pragma unroll
        for (int d = 0; d < D / 8; d++)
#pragma unroll
            for (int i = 0; i < 4; i++) sum[tile][d][i] = 0;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            RowState &row = rows[tile][r];
            row.t = q0 + row0 + lane / 4 + r * 8; /* may lie past T: computed like the others, never stored */
            row.first_key = row_first_key(doc_start, min(row.t, T - 1));
            row.most = -INFINITY, row.total = 0;
        }
    }
    __syncthreads(); /* stage 1 is free */

    const float scale_log2 = shape.scale * 1.4426950408889634f;
    for (int tile = first_tile; tile <= last_tile; tile++) {
        const int stage = (tile - first_tile) & 1, key0 = tile * KEYS;
        bf16 *current = shared + stage * C::STAGE, *next = shared + (1 - stage) * C::STAGE;
        if (tile < last_tile) {
            copy_rows<D, KEYS>(next, keys, shape.qkv_stride, key0 + KEYS, T);
            copy_rows<D, KEYS>(next + C::TILE, values, shape.qkv_stride, key0 + KEYS, T);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        const bool masked = key0 + KEYS - 1 > q0 || key0 < range.most;
        float scores[TILES][KEYS / 8][4];
        multiply_qk<D, TILES>(scores, q, current);
#pragma unroll
        for (int i = 0; i < TILES; i++) softmax_step<D>(scores[i], sum[i], rows[i], key0, masked, scale_log2);
        multiply_pv<D, TILES>(sum, scores, current + C::TILE);
        __syncthreads(); /* all warps are through with this stage before it is overwritten */
    }

    float *lse_row = lse + (b * shape.H + head) * T;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        bf16 *staged = shared + (warp * TILES + i) * 16 * C::STRIDE;
        finish_rows<D>(staged, lse_row, sum[i], rows[i], T, shape.scale);
    }
    __syncwarp();
    bf16 *out_head = out + n0 * shape.out_stride + (int64_t)head * D;
    const int row0 = warp * TILES * 16;
    for (int i = lane; i < TILES * 16 * (D / PACK); i += WARP) {
        const int row = row0 + i / (D / PACK), column = i % (D / PACK) * PACK;
        if (q0 + row < T)
            *reinterpret_cast<uint4 *>(out_head + (q0 + row) * shape.out_stride + column) =
                *reinterpret_cast<const uint4 *>(shared + row * C::STRIDE + column);
    }
}

template <int D, int TILES> void run(Queue *queue, const Attention *args) {
    typedef Config<D, TILES> C;
    static bool allowed = false;
    if (!allowed && C::SHARED_BYTES > 48 * 1024)
        ALLOW_SHARED_MEMORY((attention_forward_mma_kernel<D, TILES>), C::SHARED_BYTES);
    allowed = true;
    Shape shape;
    shape.B = args->B, shape.T = args->T, shape.H = args->H, shape.Hkv = args->Hkv;
    shape.qkv_stride = row_stride((int64_t)(args->H + 2 * args->Hkv) * D);
    shape.out_stride = row_stride((int64_t)args->H * D);
    shape.scale = (float)(1.0 / sqrt((double)D));
    shape.query_blocks = (int)ceil_div(args->T, C::QUERIES);
    LAUNCH((attention_forward_mma_kernel<D, TILES>), (unsigned)shape.query_blocks * args->H * args->B,
           THREADS, C::SHARED_BYTES, queue->stream, static_cast<const bf16 *>(args->qkv), args->doc_start,
           static_cast<bf16 *>(args->out), static_cast<float *>(args->lse), shape);
}

} // namespace

bool attention_forward_mma(Queue *queue, const Attention *args) {
    switch (args->D) {
    case 32:
        run<32, 2>(queue, args);
        return true;
    case 48:
        run<48, 2>(queue, args);
        return true;
    case 64:
        run<64, 2>(queue, args);
        return true;
    case 96:
        run<96, 1>(queue, args);
        return true;
    case 128:
        run<128, 1>(queue, args);
        return true;
    default:
        return false;
    }
}
