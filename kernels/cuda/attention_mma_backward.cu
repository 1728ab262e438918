/* clang-format off
 * attention_mma_backward.cu: the bf16 backward of attention on tensor cores, for the head sizes of
 * attention_mma.cu; others take attention.cu. attention_mma.cuh holds the machinery.
 *
 * With P = exp(S − lse), dP = dO·Vᵀ, dS = P ⊙ (dP − delta), delta = Σ dO⊙O of a row (FlashAttention-2, Dao 2023):
 *
 *     dV = Pᵀ·dO      dK = dSᵀ·Q / √D      dQ = dS·K / √D
 *
 *   terms   lse·log₂e and −delta of each row, for the other two
 *   dkv     a block a key-value head and 64 or 128 of its keys; the mainloop is over the heads of its group and, for
 *           each, over the queries that see a key of the block. A warp computes Sᵀ = K·Qᵀ and dPᵀ = V·dOᵀ, so that
 *           Pᵀ and dSᵀ come out as A fragments of the other two products
 *   dq      a block a head and 64 or 128 of its queries; the mainloop is over the keys that they see
 *
 * Either leaves the sums of its block's columns for the gradient of a bias, if one is wanted (columns.cuh).
 *
 * Every sum has one owner and one order; there are no atomics and no block waits for another.
 *
 * Why two kernels: they compute S and dP twice, 7 products where one kernel (a block a key-value head, owning dQ in
 * fp32) needs 5. That one would instead carry each dS through shared memory to other warps, with two more barriers
 * a tile, and read and write fp32 dQ through L2 for every pair of tiles: at D = 64 with tiles of 128, 64 KB for 10.5
 * MFLOP. Here nothing but the tiles passes through shared memory, and the number of blocks grows with T.
 *
 * FLOPs as usually counted (5 products): 10·T²·D/2 a head; done: 14·T²·D/2. Bytes, with L2 holding a head's tiles:
 * terms reads out and dO; dkv reads qkv and dO and writes dK and dV; dq reads qkv and dO and writes dQ.
 * clang-format on */
#include "attention_mma.cuh"
#include "columns.cuh"

namespace {

constexpr int TILE_ROWS = ATTENTION_TILE;

/* terms [B,H,padded T/64,2,64]: what the backward needs of a query row: lse·log₂e and −delta. exp2(score·scale·log₂e −
 * lse·log₂e) is its probability; rows from T on have lse = ∞: probability 0. A tile's lie in one piece. */
enum { LSE_LOG2, MINUS_DELTA, TERMS };

/* Where a head's first term of row t lies; the other is TILE_ROWS further. */
__device__ __forceinline__ uint32_t term_offset(uint32_t t) {
    return t / TILE_ROWS * (TERMS * TILE_ROWS) + t % TILE_ROWS;
}

/* Where the partial sums of a block's columns start, for a bias: a row of [B, blocks of a sequence] for each block's rows, as
 * long as dqkv's. Rows from T on have probabilities of 0, and add nothing. */
template <int ROWS>
__device__ __forceinline__ int64_t bias_row(const AttentionMmaParams &params, int b, int row) {
    return ((int64_t)b * params.blocks + row / ROWS) * params.qkv_stride;
}

/* --------------------------------------------------------------------------------------------------------
 * terms: a group of lanes to each row, 8 elements a lane
 * ------------------------------------------------------------------------------------------------------ */

__host__ __device__ constexpr int lanes_of_a_row(int packs) {
    return packs <= 4 ? 4 : packs <= 8 ? 8 : 16;
}

template <int D>
__global__ void __launch_bounds__(ATTENTION_THREADS)
    attention_terms_kernel(const bf16 *__restrict__ out, const bf16 *__restrict__ dout,
                           const float *__restrict__ lse, float *__restrict__ terms,
                           AttentionMmaParams params) {
    constexpr int LANES = lanes_of_a_row(D / PACK);
    const int lane = threadIdx.x % LANES, T = params.T, rows = params.padded_T;
    const int t = (int)(blockIdx.x % params.blocks) * (ATTENTION_THREADS / LANES) + threadIdx.x / LANES;
    const int64_t b_head = blockIdx.x / params.blocks, b = b_head / params.H, head = b_head % params.H;
    float delta = 0;
    if (t < T && lane < D / PACK) {
        const int64_t at = (b * T + t) * params.out_stride + head * D + lane * PACK;
        float o[PACK], d[PACK];
        load_pack(o, out + at);
        load_pack(d, dout + at);
#pragma unroll
        for (int i = 0; i < PACK; i++) delta += o[i] * d[i];
    }
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        delta += __shfl_xor_sync(ALL_LANES, delta, distance);
    if (lane == 0 && t < rows) {
        float *row = terms + b_head * TERMS * rows + term_offset(t);
        row[LSE_LOG2 * TILE_ROWS] = t < T ? lse[b_head * T + t] * LOG2_E : INFINITY;
        row[MINUS_DELTA * TILE_ROWS] = -delta;
    }
}

/* --------------------------------------------------------------------------------------------------------
 * dK and dV
 * ------------------------------------------------------------------------------------------------------ */

/* What a stage holds of 64 queries besides Q and dO. */
struct QueryStage {
    float terms[TERMS][TILE_ROWS];
    int first_key[TILE_ROWS]; /* with documents */
};

/* The last query that sees a key of [k0, k1), or −1. All threads call. */
__device__ inline int last_query(const uint32_t *doc_start, int k0, int k1, int T, int *buffer) {
    if (!doc_start) return T - 1;
    KeyRange range = {0, -1};
    for (int t = k0 + threadIdx.x; t < T; t += ATTENTION_THREADS)
        if ((int)doc_start[t] < k1) range.most = t;
    return block_range(range, buffer).most;
}

/* dPᵀ starts from −delta of its columns' queries: 16 from `n` on. */
template <int M_TILES>
__device__ __forceinline__ void init_columns(float (&init)[M_TILES][2][4], const QueryStage *rows, int n) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float *two = &rows->terms[MINUS_DELTA][n + half * 8 + threadIdx.x % 4 * 2];
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) init[m][half][i] = two[i % 2];
    }
}

/* Scores of keys that a query does not see become −∞. The warp's first key is `ahead` time steps after query
 * n of the tile that starts at q0. */
template <int M_TILES>
__device__ __forceinline__ void mask_columns(float (&s)[M_TILES][2][4], const QueryStage *rows, int n,
                                             int ahead, int q0, bool documents) {
    const int lane = threadIdx.x % WARP, column = n + lane % 4 * 2;
    ahead += lane / 4 - lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = half * 8 + i;
            const int behind = documents ? rows->first_key[column + row] - (q0 + column + row) : -INT32_MAX;
#pragma unroll
            for (int m = 0; m < M_TILES; m++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int offset = ahead + m * 16 + r * 8 - row; /* key − query */
                    if (offset > 0 || offset < behind) s[m][half][2 * r + i] = -INFINITY;
                }
        }
}

/* Sᵀ of a warp's keys and 16 queries from `n` on becomes Pᵀ, and dPᵀ − delta becomes dSᵀ. */
template <int M_TILES>
__device__ __forceinline__ void key_gradients(float (&s)[M_TILES][2][4], float (&dp)[M_TILES][2][4],
                                              const QueryStage *rows, int n, float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float *two = &rows->terms[LSE_LOG2][n + half * 8 + threadIdx.x % 4 * 2];
#pragma unroll
        for (int m = 0; m < M_TILES; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float p = exp2_approx(s[m][half][i] * scale_log2 - two[i % 2]);
                s[m][half][i] = p;
                dp[m][half][i] *= p;
            }
    }
}

/* Starts copying a tile of one head's queries into a stage. */
template <int D, int M_TILES>
__device__ __forceinline__ void prefetch_queries(bf16 *stage, QueryStage *rows, const HeadRows &queries,
                                                 const HeadRows &dout, const float *head_terms, int q0,
                                                 const AttentionMmaParams &params) {
    typedef AttentionConfig<D, M_TILES> C;
    const int T = params.T, i = threadIdx.x;
    copy_rows<D, TILE_ROWS>(stage, queries, q0, T);
    copy_rows<D, TILE_ROWS>(stage + C::TILE, dout, q0, T);
    if (i < TILE_ROWS / 2) /* four rows of one term a thread */
        cp_async_16(&rows->terms[0][0] + i * 4, head_terms + (q0 * TERMS + i * 4));
    else if (params.doc_start && i >= TILE_ROWS)
        cp_async_4(&rows->first_key[i - TILE_ROWS],
                   params.doc_start + queries.token + min(q0 + i - TILE_ROWS, T - 1));
    cp_async_commit();
}

/* What a tile of queries, from q0 on, adds to dK and dV of a warp's keys, which start at key0: 16 at a time, as
 * registers are full with these. MASKED at compile time: without a mask nothing lies above the diagonal either. */
template <int D, int M_TILES, bool MASKED>
__device__ __forceinline__ void
dkv_mainloop_step(float (&dk)[M_TILES][D / 8][4], float (&dv)[M_TILES][D / 8][4],
                  const uint32_t (&k)[M_TILES][D / 16][4], const uint32_t (&v)[M_TILES][D / 16][4],
                  const bf16 *stage, const QueryStage *rows, int q0, int key0,
                  const AttentionMmaParams &params) {
    typedef AttentionConfig<D, M_TILES> C;
#pragma unroll 1
    for (int n = 0; n < TILE_ROWS; n += 16) {
        if (MASKED && q0 + n + 15 < key0) continue; /* above this warp's diagonal */
        const bf16 *q_rows = stage + n * C::STRIDE, *dout_rows = q_rows + C::TILE;
        float s[M_TILES][2][4], dp[M_TILES][2][4], init[M_TILES][2][4];
        mma_abt<D, M_TILES>(s, k, q_rows);
        if constexpr (MASKED)
            mask_columns<M_TILES>(s, rows, n, key0 - (q0 + n), q0, params.doc_start != NULL);
        init_columns(init, rows, n);
        mma_abt<D, M_TILES>(dp, v, dout_rows, init);
        key_gradients<M_TILES>(s, dp, rows, n, params.scale * LOG2_E);
        uint32_t p[M_TILES][4], ds[M_TILES][4];
        as_a_fragment<M_TILES>(p, s);
        as_a_fragment<M_TILES>(ds, dp);
        mma_ab<D, M_TILES>(dv, p, dout_rows);
        mma_ab<D, M_TILES>(dk, ds, q_rows);
    }
}

/* Waits for the tile of queries from q0 on; all threads call, and may read its stage afterwards. Whether it needs a
 * mask, for keys from k0 on: the diagonal crosses it, or a document's start does. */
template <int ROWS>
__device__ __forceinline__ bool wait_queries(const QueryStage *rows, int q0, int k0, bool documents) {
    cp_async_wait<0>();
    const bool diagonal = q0 < k0 + ROWS;
    if (!documents) {
        __syncthreads();
        return diagonal;
    }
    const int i = (int)threadIdx.x - TILE_ROWS; /* the row that this thread has copied */
    return __syncthreads_or(i >= 0 && rows->first_key[i] > k0) != 0 || diagonal;
}

template <int D, int M_TILES>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_dkv_mma_kernel(const bf16 *__restrict__ qkv, const bf16 *__restrict__ dout,
                             const float *__restrict__ terms, bf16 *__restrict__ dqkv,
                             float *__restrict__ bias, AttentionMmaParams params) {
    typedef AttentionConfig<D, M_TILES> C;
    static_assert(ATTENTION_THREADS == 2 * TILE_ROWS && TERMS == 2, "how prefetch_queries shares the work");
    SHARED_MEMORY(bf16, shared);
    SHARED_ARRAY(QueryStage, rows, 2);
    SHARED_ARRAY(int, range_buffer, 2 * ATTENTION_WARPS);
    const int T = params.T, group = params.H / params.Hkv;

    /* Key blocks of a head are neighbours, so that its queries stay in L2; the first, which most queries see,
     * is the longest. */
    const int k0 = (int)(blockIdx.x % params.blocks) * C::ROWS;
    const int kv_head = (int)(blockIdx.x / params.blocks % params.Hkv);
    const int b = (int)(blockIdx.x / params.blocks / params.Hkv);
    const int row0 = first_row<M_TILES>(), key0 = k0 + row0; /* of this warp */
    const int n0 = b * T, end_head = (kv_head + 1) * group;
    const uint32_t *doc_start = params.doc_start ? params.doc_start + n0 : NULL;

    prologue_copy<D, M_TILES>(shared, key_rows<D>(qkv, params, n0, kv_head),
                              value_rows<D>(qkv, params, n0, kv_head), k0, T);
    const int first_tile = k0 / TILE_ROWS;
    const int last_tile = warp_uniform(last_query(doc_start, k0, k0 + C::ROWS, T, range_buffer)) / TILE_ROWS;
    uint32_t k[M_TILES][D / 16][4], v[M_TILES][D / 16][4];
    prologue_load<D, M_TILES>(k, v, shared, row0);
    float dk[M_TILES][D / 8][4], dv[M_TILES][D / 8][4];
    clear(dk);
    clear(dv);

    int head = kv_head * group, tile = first_tile;
    auto prefetch_next = [&](int stage) {
        const float *head_terms = terms + (int64_t)(b * params.H + head) * (TERMS * params.padded_T);
        prefetch_queries<D, M_TILES>(
            shared + stage * C::STAGE, &rows[stage], query_rows<D>(qkv, params, n0, head),
            out_rows<D>(dout, params, n0, head), head_terms, tile * TILE_ROWS, params);
    };
    prefetch_next(0);
    for (int stage = 0; head < end_head; stage ^= 1) {
        const int q0 = tile * TILE_ROWS;
        const bool masked = wait_queries<C::ROWS>(&rows[stage], q0, k0, params.doc_start != NULL);
        if (++tile > last_tile) tile = first_tile, head++;
        if (head < end_head) prefetch_next(1 - stage);
        if (masked)
            dkv_mainloop_step<D, M_TILES, true>(dk, dv, k, v, shared + stage * C::STAGE, &rows[stage], q0,
                                                key0, params);
        else
            dkv_mainloop_step<D, M_TILES, false>(dk, dv, k, v, shared + stage * C::STAGE, &rows[stage], q0,
                                                 key0, params);
    }

    __syncthreads(); /* the stages are free */
    const int column = (params.H + kv_head) * D, to_values = params.Hkv * D;
    bf16 *dkeys = dqkv + (int64_t)(n0 + key0) * params.qkv_stride + column;
    bf16 *staged = shared + row0 * C::STRIDE;
    epilogue_store<D, M_TILES>(dkeys, params.qkv_stride, T - key0, staged, dk, params.scale);
    epilogue_store<D, M_TILES>(dkeys + to_values, params.qkv_stride, T - key0, staged + C::STAGE, dv, 1);
    if (!bias) return;
    __syncthreads(); /* again */
    float *partial = bias + bias_row<C::ROWS>(params, b, k0) + column, *sums = reinterpret_cast<float *>(shared);
    epilogue_column_sums<D, M_TILES>(partial, sums, dk, params.scale);
    epilogue_column_sums<D, M_TILES>(partial + to_values, sums + ATTENTION_WARPS * D, dv, 1);
}

/* --------------------------------------------------------------------------------------------------------
 * dQ
 * ------------------------------------------------------------------------------------------------------ */

/* The two rows of an m16 tile that a thread holds a quarter of: g and g + 8 with g = lane / 4. */
struct DqRow {
    int t, first_key;
    float lse_log2, minus_delta;
};

/* dP starts from −delta of its rows. */
template <int M_TILES>
__device__ __forceinline__ void init_rows(float (&init)[M_TILES][2][4], const DqRow (&rows)[M_TILES][2]) {
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int i = 0; i < 8; i++) init[m][i / 4][i % 4] = rows[m][i % 4 / 2].minus_delta;
}

/* S and dP − delta of a warp's queries and 16 keys: the latter becomes dS. */
template <int M_TILES, bool MASKED>
__device__ __forceinline__ void query_gradients(const float (&s)[M_TILES][2][4], float (&dp)[M_TILES][2][4],
                                                const DqRow (&rows)[M_TILES][2], int key0, float scale_log2) {
    const int column = key0 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const DqRow &row = rows[m][i / 2];
                const int key = column + half * 8 + i % 2;
                float p = exp2_approx(s[m][half][i] * scale_log2 - row.lse_log2);
                if (MASKED && (key > row.t || key < row.first_key)) p = 0;
                dp[m][half][i] *= p;
            }
}

/* What a tile of keys, from tile0 on, adds to dQ of a warp's queries, which start at query0: 16 at a time, as registers
 * are full with these. `stage`: the keys' rows, then the values'. MASKED at compile time: without a mask nothing lies
 * above the diagonal either. */
template <int D, int M_TILES, bool MASKED>
__device__ __forceinline__ void
dq_mainloop_step(float (&dq)[M_TILES][D / 8][4], const uint32_t (&q)[M_TILES][D / 16][4],
                 const uint32_t (&dout)[M_TILES][D / 16][4], const bf16 *stage,
                 const DqRow (&rows)[M_TILES][2], int tile0, int query0, float scale_log2) {
    typedef AttentionConfig<D, M_TILES> C;
    float init[M_TILES][2][4];
    init_rows(init, rows);
#pragma unroll 1
    for (int n = 0; n < TILE_ROWS; n += 16) {
        if (MASKED && tile0 + n > query0 + M_TILES * 16 - 1) break; /* above this warp's diagonal */
        const bf16 *keys = stage + n * C::STRIDE;
        float s[M_TILES][2][4], dp[M_TILES][2][4];
        mma_abt<D, M_TILES>(s, q, keys);
        mma_abt<D, M_TILES>(dp, dout, keys + C::TILE, init);
        query_gradients<M_TILES, MASKED>(s, dp, rows, tile0 + n, scale_log2);
        uint32_t ds[M_TILES][4];
        as_a_fragment<M_TILES>(ds, dp);
        mma_ab<D, M_TILES>(dq, ds, keys);
    }
}

template <int D, int M_TILES>
__global__ void __launch_bounds__(ATTENTION_THREADS, 2)
    attention_dq_mma_kernel(const bf16 *__restrict__ qkv, const bf16 *__restrict__ dout,
                            const float *__restrict__ terms, bf16 *__restrict__ dqkv,
                            float *__restrict__ bias, AttentionMmaParams params) {
    typedef AttentionConfig<D, M_TILES> C;
    SHARED_MEMORY(bf16, shared);
    SHARED_ARRAY(int, range_buffer, 2 * ATTENTION_WARPS);
    const QueryBlock block = query_block<C::ROWS>(params);
    const int T = params.T, row0 = first_row<M_TILES>(), query0 = block.q0 + row0; /* of this warp */
    const uint32_t *doc_start = params.doc_start ? params.doc_start + block.token : NULL;

    prologue_copy<D, M_TILES>(shared, query_rows<D>(qkv, params, block.token, block.head),
                              out_rows<D>(dout, params, block.token, block.head), block.q0, T);
    const KeyPipeline<D, M_TILES> pipeline(qkv, params, block, doc_start, range_buffer);
    DqRow rows[M_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            DqRow &row = rows[m][r];
            row.t = block.query_of(row0, m, r);
            row.first_key = row_first_key(doc_start, min(row.t, T - 1));
            const float *term = terms +
                                (int64_t)(block.b * params.H + block.head) * (TERMS * params.padded_T) +
                                term_offset(row.t);
            const bool exists = row.t < T;
            row.lse_log2 = exists ? term[LSE_LOG2 * TILE_ROWS] : INFINITY;
            row.minus_delta = exists ? term[MINUS_DELTA * TILE_ROWS] : 0;
        }
    uint32_t q[M_TILES][D / 16][4], dout_rows[M_TILES][D / 16][4];
    prologue_load<D, M_TILES>(q, dout_rows, shared, row0);
    float dq[M_TILES][D / 8][4];
    clear(dq);

    const float scale_log2 = params.scale * LOG2_E;
    pipeline.prefetch(shared, pipeline.first);
    for (int tile = pipeline.first; tile <= pipeline.last; tile++) {
        const bf16 *stage = pipeline.advance(shared, tile);
        if (pipeline.masked(tile, query0))
            dq_mainloop_step<D, M_TILES, true>(dq, q, dout_rows, stage, rows, tile * TILE_ROWS, query0,
                                               scale_log2);
        else
            dq_mainloop_step<D, M_TILES, false>(dq, q, dout_rows, stage, rows, tile * TILE_ROWS, query0,
                                                scale_log2);
    }

    __syncthreads(); /* the stages are free */
    bf16 *dqueries = dqkv + (int64_t)(block.token + query0) * params.qkv_stride + (int64_t)block.head * D;
    epilogue_store<D, M_TILES>(dqueries, params.qkv_stride, T - query0, shared + row0 * C::STRIDE, dq,
                               params.scale);
    if (!bias) return;
    __syncthreads(); /* again */
    epilogue_column_sums<D, M_TILES>(bias + bias_row<C::ROWS>(params, block.b, block.q0) + block.head * D,
                                     reinterpret_cast<float *>(shared), dq, params.scale);
}

/* --------------------------------------------------------------------------------------------------------
 * Launches
 * ------------------------------------------------------------------------------------------------------ */

/* Scratch: the partial sums for a bias, as whole blocks of at least 64 rows, then the terms. */
size_t bias_bytes(int64_t sequences, int64_t tokens, int64_t width) {
    return (size_t)((tokens / TILE_ROWS + sequences) * row_stride(width)) * sizeof(float);
}
size_t terms_bytes(int64_t sequences, int64_t tokens, int64_t heads) {
    return (size_t)((tokens + sequences * (row_stride(1) - 1)) * heads * TERMS) * sizeof(float);
}

template <int D, int M_TILES> void run_backward(Queue *queue, const AttentionBackward *args) {
    typedef AttentionConfig<D, M_TILES> C;
    ALLOW_SHARED_MEMORY((attention_dkv_mma_kernel<D, M_TILES>), C::STAGES_BYTES);
    ALLOW_SHARED_MEMORY((attention_dq_mma_kernel<D, M_TILES>), C::STAGES_BYTES);
    const Attention *forward = args->forward;
    const int B = forward->B, T = forward->T, H = forward->H, Hkv = forward->Hkv;
    const int64_t N = (int64_t)B * T, width = (int64_t)(H + 2 * Hkv) * D;
    const size_t before = args->dbias ? bias_bytes(B, N, width) : 0;
    char *scratch = static_cast<char *>(cuda_scratch(queue, before + terms_bytes(B, N, H), "attention_backward"));
    float *bias = args->dbias ? reinterpret_cast<float *>(scratch) : NULL;
    float *terms = reinterpret_cast<float *>(scratch + before);
    const bf16 *qkv = static_cast<const bf16 *>(forward->qkv), *out = static_cast<const bf16 *>(forward->out);
    const bf16 *dout = static_cast<const bf16 *>(args->dout);
    const float *lse = static_cast<const float *>(forward->lse);
    bf16 *dqkv = static_cast<bf16 *>(args->dqkv);

    AttentionMmaParams params = mma_params(forward, ATTENTION_THREADS / lanes_of_a_row(D / PACK));
    params.blocks = (int)ceil_div(params.padded_T, ATTENTION_THREADS / lanes_of_a_row(D / PACK));
    LAUNCH((attention_terms_kernel<D>), (unsigned)params.blocks * H * B, ATTENTION_THREADS, 0, queue->stream,
           out, dout, lse, terms, params);
    params = mma_params(forward, C::ROWS);
    LAUNCH((attention_dkv_mma_kernel<D, M_TILES>), (unsigned)params.blocks * Hkv * B, ATTENTION_THREADS,
           C::STAGES_BYTES, queue->stream, qkv, dout, terms, dqkv, bias, params);
    LAUNCH((attention_dq_mma_kernel<D, M_TILES>), (unsigned)params.blocks * H * B, ATTENTION_THREADS,
           C::STAGES_BYTES, queue->stream, qkv, dout, terms, dqkv, bias, params);
    add_columns(queue, args->dbias, bias, params.blocks * B, params.qkv_stride, width);
}

} // namespace

bool attention_backward_mma(Queue *queue, const AttentionBackward *args) {
    return dispatch_head_size(args->forward->D,
                              [&](auto D, auto M_TILES) { run_backward<D(), M_TILES()>(queue, args); });
}

size_t attention_mma_scratch(const Limits *limits) {
    const int64_t width = (int64_t)(limits->H + 2 * limits->Hkv) * limits->D;
    return bias_bytes(limits->B, limits->N, width) + terms_bytes(limits->B, limits->N, limits->H);
}
