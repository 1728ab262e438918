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
template <int D, int TILES, bool MASKED>
__device__ __forceinline__ void softmax_step(float (&scores)[KEYS / 16][TILES][2][4], int tile,
                                             float (&out)[D / 8][4], RowState (&rows)[2], int key0,
                                             float scale_log2) {
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
                if (MASKED && (key > rows[r].t || key < rows[r].first_key)) score = -INFINITY;
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

/* One tile of keys and values, both in `stage`: scores, softmax, and what the values add to `sum`. MASKED at compile
 * time: told at run time, the compiler puts the mask under a predicate, in every tile's way. */
template <int D, int TILES, bool MASKED>
__device__ __forceinline__ void visit_keys(float (&sum)[TILES][D / 8][4], RowState (&rows)[TILES][2],
                                           const uint32_t (&q)[TILES][D / 16][4], const bf16 *stage, int key0,
                                           float scale_log2) {
    typedef AttentionConfig<D, TILES> C;
    float scores[KEYS / 16][TILES][2][4];
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++)
        multiply_rows<D, TILES>(scores[n], q, stage + n * 16 * C::STRIDE);
#pragma unroll
    for (int i = 0; i < TILES; i++)
        softmax_step<D, TILES, MASKED>(scores, i, sum[i], rows[i], key0, scale_log2);
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
        uint32_t p[TILES][4];
        as_operand<TILES>(p, scores[n]);
        accumulate_rows<D, TILES>(sum, p, stage + C::TILE + n * 16 * C::STRIDE);
    }
}

template <int D, int TILES>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_forward_mma_kernel(const bf16 *__restrict__ qkv, bf16 *__restrict__ out,
                                 float *__restrict__ lse, AttentionShape shape) {
    typedef AttentionConfig<D, TILES> C;
    SHARED_MEMORY(bf16, shared);
    SHARED_ARRAY(int, range_buffer, 2 * ATTENTION_WARPS);
    const QueryBlock block = query_block<C::ROWS>(shape);
    if (shape.only_new && shape.only_new[block.b]) return;
    const int T = shape.T, row0 = first_row<TILES>(), query0 = block.q0 + row0; /* of this warp */
    const uint32_t *doc_start = shape.doc_start ? shape.doc_start + block.token : NULL;
    const KeyWalk<D, TILES> walk(qkv, shape, block, doc_start, range_buffer);

    copy_rows<D, C::ROWS>(shared + C::STAGE, query_rows<D>(qkv, shape, block.token, block.head), block.q0, T);
    cp_async_commit(); /* through stage 1 */
    walk.start(shared, walk.first);
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
            row.t = block.query_of(row0, tile, r); /* from T on: never stored */
            row.first_key = row_first_key(doc_start, min(row.t, T - 1));
            row.most = -INFINITY, row.total = 0;
        }

    const float scale_log2 = shape.scale * LOG2_E;
    for (int tile = walk.first; tile <= walk.last; tile++) {
        const bf16 *stage = walk.hand_over(shared, tile);
        if (tile * KEYS > query0 + TILES * 16 - 1) continue; /* above this warp's diagonal */
        if (walk.masked(tile, query0))
            visit_keys<D, TILES, true>(sum, rows, q, stage, tile * KEYS, scale_log2);
        else
            visit_keys<D, TILES, false>(sum, rows, q, stage, tile * KEYS, scale_log2);
    }

    float factor[TILES][2];
    finish_rows<TILES>(factor, lse + (int64_t)(block.b * shape.H + block.head) * T, rows, T, shape.scale);
    __syncthreads(); /* the stages are free */
    const int64_t first = block.token + query0;
    store_rows<D, TILES>(out + first * shape.out_stride + (int64_t)block.head * D, shape.out_stride,
                         T - query0, shared + row0 * C::STRIDE, sum, factor);
}

struct RunForward {
    Queue *queue;
    const Attention *args;
    const uint32_t *only_new;

    template <int D, int TILES> void operator()() {
        typedef AttentionConfig<D, TILES> C;
        ALLOW_SHARED_MEMORY((attention_forward_mma_kernel<D, TILES>), C::STAGES_BYTES);
        AttentionShape shape = attention_shape(args, C::ROWS);
        shape.only_new = only_new;
        LAUNCH((attention_forward_mma_kernel<D, TILES>), (unsigned)shape.blocks * args->H * args->B,
               ATTENTION_THREADS, C::STAGES_BYTES, queue->stream, static_cast<const bf16 *>(args->qkv),
               static_cast<bf16 *>(args->out), static_cast<float *>(args->lse), shape);
    }
};

} // namespace

bool attention_forward_mma(Queue *queue, const Attention *args, const uint32_t *only_new) {
    return dispatch_head_size(args->D, RunForward{queue, args, only_new});
}
