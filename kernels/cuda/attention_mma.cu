/*
 * attention_mma.cu: the bf16 forward of attention on tensor cores (mma.sync m16n8k16, sm_80 and newer), for
 * head sizes 32, 48, 64, 96 and 128; others take attention.cu. attention_mma.cuh holds the machinery.
 *
 * The algorithm is FlashAttention-2's (Dao 2023): a block holds 64 or 128 queries in registers and walks over
 * the keys, 64 at a time, with an online softmax. Blocks of keys that no query of the block may see (later
 * ones, and those before every row's document) are never visited, a warp passes over a tile that lies above
 * its own diagonal, and masks are applied only where a tile crosses an edge.
 *
 * FLOPs: 4·T²·D/2 per head (half of the square is above the diagonal); bytes: q, k, v and out once. gpt2-124m
 * (H=12, D=64) at B=64, T=1024: 103 GFLOP and 0.40 GB, so floors of 0.10 ms at 990 TFLOP/s and 0.08 ms at
 * 4.8 TB/s on an H200; mma.sync reaches about 60 % of the rate that Hopper's wgmma has. What a score costs a
 * multiprocessor at D = 64, in cycles: products 256 FLOP / 2,500 = 0.10, exponentials 1/16 = 0.06, other
 * instructions 5/128 = 0.04. Two blocks run beside each other, so these overlap in part; added up they would
 * still be 290 TFLOP/s over visited tiles, of which 0.9 lie below the diagonal at T = 1024. Not yet measured.
 */
#include "attention_mma.cuh"

namespace {

constexpr int KEYS = ATTENTION_TILE;

/* The two rows of a 16-row tile that a thread holds a quarter of: g and g + 8 with g = lane / 4. */
struct RowState {
    int t, first_key;  /* keys first_key … t are visible */
    float most, total; /* of scores so far (unscaled), and this thread's part of Σ exp */
};

/* Online softmax of one 16-row tile: scores become probabilities, the running maximum and sum move on, and
 * `out` follows. */
template <int D, int TILES>
__device__ __forceinline__ void softmax_step(float (&scores)[KEYS / 16][TILES][2][4], int tile,
                                             float (&out)[D / 8][4], RowState (&rows)[2], int key0,
                                             bool masked, float scale_log2) {
    const int column = key0 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float most = rows[r].most;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &score = scores[n / 2][tile][n % 2][2 * r + i];
                const int key = column + n * 8 + i;
                if (masked && (key > rows[r].t || key < rows[r].first_key)) score = -INFINITY;
                most = fmaxf(most, score);
            }
        }
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
        most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
        const float base = most == -INFINITY ? 0 : most * scale_log2; /* −∞: nothing visible yet */
        const float correction = exp2_approx(rows[r].most * scale_log2 - base);
        rows[r].most = most;
        rows[r].total *= correction;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &score = scores[n / 2][tile][n % 2][2 * r + i];
                score = exp2_approx(score * scale_log2 - base);
                rows[r].total += score;
            }
        }
#pragma unroll
        for (int d = 0; d < D / 8; d++) out[d][2 * r] *= correction, out[d][2 * r + 1] *= correction;
    }
}

/* The log-sum-exp of a warp's rows, and the factors 1/Σ that their sums are still to be multiplied by. */
template <int TILES>
__device__ __forceinline__ void finish_rows(float (&factor)[TILES][2], float *lse,
                                            const RowState (&rows)[TILES][2], int T, float scale) {
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const RowState &row = rows[tile][r];
            float total = row.total;
            total += __shfl_xor_sync(ALL_LANES, total, 1);
            total += __shfl_xor_sync(ALL_LANES, total, 2);
            factor[tile][r] = 1.0f / total;
            if (threadIdx.x % 4 == 0 && row.t < T) lse[row.t] = row.most * scale + logf(total);
        }
}

template <int D, int TILES>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_forward_mma_kernel(const bf16 *__restrict__ qkv, bf16 *__restrict__ out,
                                 float *__restrict__ lse, AttentionShape shape) {
    typedef AttentionConfig<D, TILES> C;
    SHARED_MEMORY(bf16, shared);
    SHARED_ARRAY(int, range_buffer, 2 * ATTENTION_WARPS);
    const int T = shape.T;

    /* Query blocks of a head are neighbours, so that its keys and values stay in L2; longest first. */
    const int query_block = shape.blocks - 1 - (int)(blockIdx.x % shape.blocks);
    const int head = (int)(blockIdx.x / shape.blocks % shape.H);
    const int b = (int)(blockIdx.x / shape.blocks / shape.H);
    const int kv_head = head / (shape.H / shape.Hkv), q0 = query_block * C::ROWS;
    const int row0 = first_row<TILES>();
    const int n0 = b * T;
    const HeadRows queries = {qkv, shape.qkv_stride, n0, head * D};
    const HeadRows keys = {qkv, shape.qkv_stride, n0, (shape.H + kv_head) * D};
    const HeadRows values = {qkv, shape.qkv_stride, n0, (shape.H + shape.Hkv + kv_head) * D};
    const uint32_t *doc_start = shape.doc_start ? shape.doc_start + n0 : NULL;

    const KeyRange range = first_keys<C::ROWS>(doc_start, q0, T, range_buffer);
    const int first_tile = range.least / KEYS;
    const int last_tile = (min(q0 + C::ROWS, T) - 1) / KEYS;

    copy_rows<D, C::ROWS>(shared + C::STAGE, queries, q0, T); /* through stage 1 */
    cp_async_commit();
    copy_rows<D, KEYS>(shared, keys, first_tile * KEYS, T);
    copy_rows<D, KEYS>(shared + C::TILE, values, first_tile * KEYS, T);
    cp_async_commit();

    cp_async_wait<1>();
    __syncthreads();
    uint32_t q[TILES][D / 16][4];
    load_rows<D, TILES>(q, shared + C::STAGE + row0 * C::STRIDE);
    float sum[TILES][D / 8][4];
    clear(sum);
    RowState rows[TILES][2];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            RowState &row = rows[tile][r];
            row.t = q0 + row0 + tile * 16 + threadIdx.x % WARP / 4 + r * 8; /* from T on: never stored */
            row.first_key = row_first_key(doc_start, min(row.t, T - 1));
            row.most = -INFINITY, row.total = 0;
        }

    const float scale_log2 = shape.scale * LOG2_E;
    for (int tile = first_tile; tile <= last_tile; tile++) {
        const int stage = (tile - first_tile) & 1, key0 = tile * KEYS;
        bf16 *current = shared + stage * C::STAGE, *next = shared + (1 - stage) * C::STAGE;
        cp_async_wait<0>();
        __syncthreads(); /* this tile is there, and all warps are through with the one before it */
        if (tile < last_tile) {
            copy_rows<D, KEYS>(next, keys, key0 + KEYS, T);
            copy_rows<D, KEYS>(next + C::TILE, values, key0 + KEYS, T);
            cp_async_commit();
        }
        if (key0 > q0 + row0 + TILES * 16 - 1) continue; /* above this warp's diagonal */
        const bool masked = key0 + KEYS - 1 > q0 + row0 || key0 < range.most;
        float scores[KEYS / 16][TILES][2][4];
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            clear(scores[n]);
            multiply_rows<D, TILES>(scores[n], q, current + n * 16 * C::STRIDE);
        }
#pragma unroll
        for (int i = 0; i < TILES; i++)
            softmax_step<D, TILES>(scores, i, sum[i], rows[i], key0, masked, scale_log2);
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            uint32_t p[TILES][4];
            as_operand<TILES>(p, scores[n]);
            accumulate_rows<D, TILES>(sum, p, current + C::TILE + n * 16 * C::STRIDE);
        }
    }

    float factor[TILES][2];
    finish_rows<TILES>(factor, lse + (int64_t)(b * shape.H + head) * T, rows, T, shape.scale);
    __syncthreads(); /* the stages are free */
    const int64_t first = n0 + q0 + row0;
    store_rows<D, TILES>(out + first * shape.out_stride + (int64_t)head * D, shape.out_stride,
                         T - (q0 + row0), shared + row0 * C::STRIDE, sum, factor);
}

template <int D, int TILES> void run(Queue *queue, const Attention *args) {
    typedef AttentionConfig<D, TILES> C;
    static bool allowed = false;
    if (!allowed && C::STAGES_BYTES > 48 * 1024)
        ALLOW_SHARED_MEMORY((attention_forward_mma_kernel<D, TILES>), C::STAGES_BYTES);
    allowed = true;
    const AttentionShape shape = attention_shape(args, C::ROWS);
    LAUNCH((attention_forward_mma_kernel<D, TILES>), (unsigned)shape.blocks * args->H * args->B,
           ATTENTION_THREADS, C::STAGES_BYTES, queue->stream, static_cast<const bf16 *>(args->qkv),
           static_cast<bf16 *>(args->out), static_cast<float *>(args->lse), shape);
}

} // namespace

bool attention_forward_mma(Queue *queue, const Attention *args) {
    switch (args->D) {
    case 32:
        return run<32, 2>(queue, args), true;
    case 48:
        return run<48, 2>(queue, args), true;
    case 64:
        return run<64, 2>(queue, args), true;
    case 96:
        return run<96, 1>(queue, args), true;
    case 128:
        return run<128, 1>(queue, args), true;
    default:
        return false;
    }
}
