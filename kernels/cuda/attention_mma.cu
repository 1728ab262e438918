/*
 * attention_mma.cu: the bf16 forward of attention on tensor cores (mma.sync m16n8k16, sm_80 and newer), for
 * head sizes 32, 48, 64, 96 and 128; others take attention.cu. attention_mma.cuh holds the machinery.
 *
 * The algorithm is FlashAttention-2's (Dao 2023): a block holds 64 or 128 queries in registers; its mainloop is
 * over the keys, a tile of 64 at a time, with an online softmax. Tiles that no query of the block may see (later
 * ones, and those before every row's document) are not in the loop, a warp skips a tile that lies above its
 * own diagonal, and masks are applied only where a tile crosses an edge.
 *
 * FLOPs: 4·T²·D/2 per head (half of the square is above the diagonal); bytes: q, k, v and out once. At the T of
 * training it is not bytes that bind: a score is 4·D FLOP of the tensor cores, one exponential and some five other
 * instructions, and only what another block issues meanwhile hides one behind the other. So two blocks fit a
 * multiprocessor.
 */
#include "attention_mma.cuh"

namespace {

constexpr int KEYS = ATTENTION_TILE;

/* The two rows of an m16 tile that a thread holds a quarter of: g and g + 8 with g = lane / 4. */
struct SoftmaxRow {
    int t, first_key;       /* keys first_key … t are visible */
    float row_max, row_sum; /* of scores so far (unscaled), and this thread's part of Σ exp */
};

/* Online softmax of one m16 tile: scores become probabilities, the running maximum and sum are updated, and `out` is
 * rescaled to the new maximum. */
template <int D, int M_TILES, bool MASKED>
__device__ __forceinline__ void softmax_step(float (&scores)[KEYS / 16][M_TILES][2][4], int m,
                                             float (&out)[D / 8][4], SoftmaxRow (&rows)[2], int key0,
                                             float scale_log2) {
    const int column = key0 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float row_max = rows[r].row_max;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &score = scores[n / 2][m][n % 2][2 * r + i];
                const int key = column + n * 8 + i;
                if (MASKED && (key > rows[r].t || key < rows[r].first_key)) score = -INFINITY;
                row_max = fmaxf(row_max, score);
            }
        }
        row_max = fmaxf(row_max, __shfl_xor_sync(ALL_LANES, row_max, 1));
        row_max = fmaxf(row_max, __shfl_xor_sync(ALL_LANES, row_max, 2));
        const float base = row_max == -INFINITY ? 0 : row_max * scale_log2; /* −∞: nothing visible yet */
        const float correction = exp2_approx(rows[r].row_max * scale_log2 - base);
        rows[r].row_max = row_max;
        rows[r].row_sum *= correction;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &score = scores[n / 2][m][n % 2][2 * r + i];
                score = exp2_approx(score * scale_log2 - base);
                rows[r].row_sum += score;
            }
        }
#pragma unroll
        for (int d = 0; d < D / 8; d++) out[d][2 * r] *= correction, out[d][2 * r + 1] *= correction;
    }
}

/* The log-sum-exp of a warp's rows, and the factors 1/Σ that the epilogue multiplies their sums by. */
template <int M_TILES>
__device__ __forceinline__ void finish_softmax(float (&factor)[M_TILES][2], float *lse,
                                               const SoftmaxRow (&rows)[M_TILES][2], int T, float scale) {
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const SoftmaxRow &row = rows[m][r];
            float row_sum = row.row_sum;
            row_sum += __shfl_xor_sync(ALL_LANES, row_sum, 1);
            row_sum += __shfl_xor_sync(ALL_LANES, row_sum, 2);
            factor[m][r] = 1.0f / row_sum;
            if (threadIdx.x % 4 == 0 && row.t < T) lse[row.t] = row.row_max * scale + logf(row_sum);
        }
}

/* One tile of keys and values, both in `stage`: scores, softmax, and what the values add to `sum`. MASKED at compile
 * time: told at run time, the compiler predicates the mask, and every tile issues it. */
template <int D, int M_TILES, bool MASKED>
__device__ __forceinline__ void mainloop_step(float (&sum)[M_TILES][D / 8][4], SoftmaxRow (&rows)[M_TILES][2],
                                              const uint32_t (&q)[M_TILES][D / 16][4], const bf16 *stage,
                                              int key0, float scale_log2) {
    typedef AttentionConfig<D, M_TILES> C;
    float scores[KEYS / 16][M_TILES][2][4];
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) mma_abt<D, M_TILES>(scores[n], q, stage + n * 16 * C::STRIDE);
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
        softmax_step<D, M_TILES, MASKED>(scores, m, sum[m], rows[m], key0, scale_log2);
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
        uint32_t p[M_TILES][4];
        as_a_fragment<M_TILES>(p, scores[n]);
        mma_ab<D, M_TILES>(sum, p, stage + C::TILE + n * 16 * C::STRIDE);
    }
}

template <int D, int M_TILES>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_forward_mma_kernel(const bf16 *__restrict__ qkv, bf16 *__restrict__ out,
                                 float *__restrict__ lse, AttentionMmaParams params) {
    typedef AttentionConfig<D, M_TILES> C;
    SHARED_MEMORY(bf16, shared);
    SHARED_ARRAY(int, range_buffer, 2 * ATTENTION_WARPS);
    const QueryBlock block = query_block<C::ROWS>(params);
    if (params.only_new && params.only_new[block.b]) return;
    const int T = params.T, row0 = first_row<M_TILES>(), query0 = block.q0 + row0; /* of this warp */
    const uint32_t *doc_start = params.doc_start ? params.doc_start + block.token : NULL;
    const KeyPipeline<D, M_TILES> pipeline(qkv, params, block, doc_start, range_buffer);

    copy_rows<D, C::ROWS>(shared + C::STAGE, query_rows<D>(qkv, params, block.token, block.head), block.q0,
                          T);
    cp_async_commit(); /* by way of stage 1 */
    pipeline.prefetch(shared, pipeline.first);
    cp_async_wait<1>();
    __syncthreads();
    uint32_t q[M_TILES][D / 16][4];
    load_a_fragments<D, M_TILES>(q, shared + C::STAGE + row0 * C::STRIDE);
    float sum[M_TILES][D / 8][4];
    clear(sum);
    SoftmaxRow rows[M_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            SoftmaxRow &row = rows[m][r];
            row.t = block.query_of(row0, m, r); /* from T on: never stored */
            row.first_key = row_first_key(doc_start, min(row.t, T - 1));
            row.row_max = -INFINITY, row.row_sum = 0;
        }

    const float scale_log2 = params.scale * LOG2_E;
    for (int tile = pipeline.first; tile <= pipeline.last; tile++) {
        const bf16 *stage = pipeline.advance(shared, tile);
        if (tile * KEYS > query0 + M_TILES * 16 - 1) continue; /* above this warp's diagonal */
        if (pipeline.masked(tile, query0))
            mainloop_step<D, M_TILES, true>(sum, rows, q, stage, tile * KEYS, scale_log2);
        else
            mainloop_step<D, M_TILES, false>(sum, rows, q, stage, tile * KEYS, scale_log2);
    }

    float factor[M_TILES][2];
    finish_softmax<M_TILES>(factor, lse + (int64_t)(block.b * params.H + block.head) * T, rows, T,
                            params.scale);
    __syncthreads(); /* the stages are free */
    const int64_t first = block.token + query0;
    epilogue_store<D, M_TILES>(out + first * params.out_stride + (int64_t)block.head * D, params.out_stride,
                               T - query0, shared + row0 * C::STRIDE, sum, factor);
}

template <int D, int M_TILES>
void run_forward(Queue *queue, const Attention *args, const uint32_t *only_new) {
    typedef AttentionConfig<D, M_TILES> C;
    ALLOW_SHARED_MEMORY((attention_forward_mma_kernel<D, M_TILES>), C::STAGES_BYTES);
    AttentionMmaParams params = mma_params(args, C::ROWS);
    params.only_new = only_new;
    LAUNCH((attention_forward_mma_kernel<D, M_TILES>), (unsigned)params.blocks * args->H * args->B,
           ATTENTION_THREADS, C::STAGES_BYTES, queue->stream, static_cast<const bf16 *>(args->qkv),
           static_cast<bf16 *>(args->out), static_cast<float *>(args->lse), params);
}

} // namespace

bool attention_forward_mma(Queue *queue, const Attention *args, const uint32_t *only_new) {
    return dispatch_head_size(
        args->D, [&](auto D, auto M_TILES) { run_forward<D(), M_TILES()>(queue, args, only_new); });
}
