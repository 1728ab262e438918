/*
 * attention_mma.cuh: what the tensor-core forward and backward of attention share: where rows lie, how tiles
 * come into shared memory, and the products of fragments with them.
 *
 * A block is four warps; a warp owns M_TILES m16 tiles of rows (queries, or in dK and dV keys). Its kernel is
 *
 *   prologue    those rows become A fragments in registers, by way of a stage, and stay there
 *   mainloop    over tiles of 64 rows of the other side (keys and values; queries and dO), in two stages of
 *               shared memory: cp.async fills one while the tensor cores use the other; a barrier a tile
 *   epilogue    accumulators are scaled, rounded and stored, by way of a stage again
 *
 * The mainloop has two products:
 *
 *     mma_abt     C [rows, 16] += A [rows, D] · X[16, D]ᵀ     X by ldmatrix          (Q·Kᵀ, dO·Vᵀ)
 *     mma_ab      C [rows, D] += A [rows, 16] · X[16, D]      X by ldmatrix.trans    (P·V, dS·K)
 *
 * and the accumulators of the first, rounded, already are the A fragment of the second (as_a_fragment): what is
 * computed between the two never leaves a thread, and warps never wait for each other's numbers.
 *
 * Rows in shared memory are D + 8 elements apart, an odd number of 16-byte units for every D here: the eight
 * rows of an 8×8 matrix start in eight different of the eight bank groups, so ldmatrix has no conflicts. A
 * swizzle (unit ^ row % 8) would do the same in D/(D + 8) of the space, but its addresses are no constant
 * distances from one another: D/16 registers more a tile, and registers are what these kernels are short of;
 * shared memory they have left.
 *
 * A warp with M_TILES = 2 uses each B fragment that it loads, 512 bytes, for four mma, which take longer than
 * shared memory takes to give it. With M_TILES = 1, where D leaves no registers for two, it is the other way
 * round: loads of shared memory bound the rate.
 */
#ifndef ATTENTION_MMA_CUH
#define ATTENTION_MMA_CUH

#include "elementary.cuh"

#include <math.h>

constexpr int ATTENTION_WARPS = 4, ATTENTION_THREADS = ATTENTION_WARPS * WARP;
constexpr int ATTENTION_TILE = 64; /* rows of a tile in shared memory */

/* What a block of head size D is: registers decide M_TILES (dispatch_head_size). */
template <int D, int M_TILES_> struct AttentionConfig {
    static constexpr int M_TILES = M_TILES_;
    static constexpr int ROWS = ATTENTION_WARPS * M_TILES * 16; /* that a block owns */
    static constexpr int STRIDE = D + 8;                        /* of a row in shared memory */
    static constexpr int TILE = ATTENTION_TILE * STRIDE;        /* elements */
    static constexpr int STAGE = 2 * TILE; /* keys and values, or queries and dO */
    static constexpr size_t STAGES_BYTES = 2 * STAGE * sizeof(bf16);
    static_assert(D % 16 == 0 && STRIDE / PACK % 2 == 1, "no bank conflicts");
    static_assert(ROWS * STRIDE <= STAGE, "a block's own rows pass through a stage");
};

/* What the kernels need of an Attention. */
struct AttentionMmaParams {
    int B, T, H, Hkv;
    int padded_T; /* of row statistics in scratch */
    int qkv_stride, out_stride;
    float scale;               /* 1/√D */
    int blocks;                /* of rows in a sequence */
    const uint32_t *doc_start; /* [B,T] or NULL */
    const uint32_t *only_new;  /* [B] or NULL: sequences of which this is not 0 are another kernel's (attention_decode.cu) */
};

static inline AttentionMmaParams mma_params(const Attention *args, int rows) {
    AttentionMmaParams params;
    params.B = args->B, params.T = args->T, params.H = args->H, params.Hkv = args->Hkv;
    params.padded_T = (int)row_stride(args->T);
    params.qkv_stride = (int)row_stride((int64_t)(args->H + 2 * args->Hkv) * args->D);
    params.out_stride = (int)row_stride((int64_t)args->H * args->D);
    params.scale = (float)(1.0 / sqrt((double)args->D));
    params.blocks = (int)ceil_div(args->T, rows);
    params.doc_start = args->doc_start;
    params.only_new = NULL;
    return params;
}

/* A value that all lanes hold alike: said so, the compiler keeps it in a uniform register. */
__device__ __forceinline__ int warp_uniform(int value) {
    return __shfl_sync(ALL_LANES, value, 0);
}

/* The first of a warp's rows, within its block. */
template <int M_TILES> __device__ __forceinline__ int first_row() {
    return warp_uniform(threadIdx.x / WARP) * (M_TILES * 16);
}

/* --------------------------------------------------------------------------------------------------------
 * Tiles
 * ------------------------------------------------------------------------------------------------------ */

/* Rows that all threads copy in one pass: the largest power of two, so that passes tile any ROWS. */
__host__ __device__ constexpr int rows_of_a_pass(int packs) {
    int rows = 1;
    while (2 * rows * packs <= ATTENTION_THREADS) rows *= 2;
    return rows;
}

/* One head's rows of a sequence. In 32-bit parts, which fit (check_attention) and of which uniform registers
 * hold most; a pointer of 64 bits would be kept a thread. */
struct HeadRows {
    const bf16 *tensor;
    int stride, token, column; /* of the tensor's rows; where the sequence and the head start */

    __device__ __forceinline__ const bf16 *at(int t, int d) const {
        return tensor + (int64_t)(token + t) * stride + (column + d);
    }
};

/* Rows of qkv: those of query head `head`, and of key-value head `kv_head` the keys and the values; `token` is the
 * sequence's first. */
template <int D>
__device__ __forceinline__ HeadRows query_rows(const bf16 *qkv, const AttentionMmaParams &params, int token,
                                               int head) {
    return {qkv, params.qkv_stride, token, head * D};
}
template <int D>
__device__ __forceinline__ HeadRows key_rows(const bf16 *qkv, const AttentionMmaParams &params, int token,
                                             int kv_head) {
    return {qkv, params.qkv_stride, token, (params.H + kv_head) * D};
}
template <int D>
__device__ __forceinline__ HeadRows value_rows(const bf16 *qkv, const AttentionMmaParams &params, int token,
                                               int kv_head) {
    return {qkv, params.qkv_stride, token, (params.H + params.Hkv + kv_head) * D};
}

/* Rows of a tensor laid out as out [N, H·D]. */
template <int D>
__device__ __forceinline__ HeadRows out_rows(const bf16 *out, const AttentionMmaParams &params, int token,
                                             int head) {
    return {out, params.out_stride, token, head * D};
}

/* Starts copying rows [first, first + ROWS) of a head into shared memory; rows at or past T, of which `first` is none, become
 * zero, and have the address of one that exists. */
template <int D, int ROWS>
__device__ __forceinline__ void copy_rows(bf16 *shared, const HeadRows &head, int first, int T) {
    constexpr int PACKS = D / PACK, PASS = rows_of_a_pass(PACKS);
    static_assert(ROWS % PASS == 0, "whole passes");
    const int row = threadIdx.x / PACKS, column = threadIdx.x % PACKS * PACK;
    if (PASS * PACKS < ATTENTION_THREADS && row >= PASS) return;
    bf16 *target = shared + row * (D + 8) + column;
    const bf16 *source = head.at(min(first + row, T - 1), column);
#pragma unroll
    for (int pass = 0; pass < ROWS; pass += PASS) {
        const bool exists = first + row + pass < T;
        cp_async_16(target + pass * (D + 8), source + (exists ? pass * head.stride : 0), exists);
    }
}

/* The address that a lane gives ldmatrix_x4 for a 16×16 tile: matrices in the order (row, column) of 8×8
 * blocks (0,0), (8,0), (0,8), (8,8), as A's fragment has them, and B's of two 8 columns when transposed. */
__device__ __forceinline__ int tile_offset(int stride) {
    const int lane = threadIdx.x % WARP;
    return lane % 16 * stride + lane / 16 * 8;
}

/* The same in the order (0,0), (0,8), (8,0), (8,8): B's fragments of rows 0…7 and of rows 8…15, each in neighbouring
 * registers, which mma wants; others cost it a move each. */
__device__ __forceinline__ int pair_offset(int stride) {
    const int lane = threadIdx.x % WARP;
    return (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8;
}

/* The A fragments of a warp's M_TILES · 16 rows. */
template <int D, int M_TILES>
__device__ __forceinline__ void load_a_fragments(uint32_t (&a)[M_TILES][D / 16][4], const bf16 *rows) {
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int d = 0; d < D / 16; d++)
            ldmatrix_x4(a[m][d], rows + m * 16 * (D + 8) + d * 16 + tile_offset(D + 8));
}

/* The prologue: a block's own rows of two tensors, each through a stage into registers, from `row` on, `row0` of them
 * before this warp's. Between the copy and the load other work fits; after the load the stages are free. All threads
 * call both. */
template <int D, int M_TILES>
__device__ __forceinline__ void prologue_copy(bf16 *stages, const HeadRows &a, const HeadRows &b, int row,
                                              int T) {
    typedef AttentionConfig<D, M_TILES> C;
    copy_rows<D, C::ROWS>(stages, a, row, T);
    copy_rows<D, C::ROWS>(stages + C::STAGE, b, row, T);
    cp_async_commit();
}
template <int D, int M_TILES>
__device__ __forceinline__ void prologue_load(uint32_t (&a)[M_TILES][D / 16][4],
                                              uint32_t (&b)[M_TILES][D / 16][4], const bf16 *stages,
                                              int row0) {
    typedef AttentionConfig<D, M_TILES> C;
    cp_async_wait<0>();
    __syncthreads();
    load_a_fragments<D, M_TILES>(a, stages + row0 * C::STRIDE);
    load_a_fragments<D, M_TILES>(b, stages + C::STAGE + row0 * C::STRIDE);
    __syncthreads();
}

/* --------------------------------------------------------------------------------------------------------
 * Products
 * ------------------------------------------------------------------------------------------------------ */

/* c[m][half] are the 16×8 accumulators of columns 8·half … 8·half + 7, which start as init[m][half]: the C operand of
 * the first mma, not a copy in the registers of its result. */
template <int D, int M_TILES>
__device__ __forceinline__ void mma_abt(float (&c)[M_TILES][2][4], const uint32_t (&a)[M_TILES][D / 16][4],
                                        const bf16 *rows, const float (&init)[M_TILES][2][4]) {
    typedef float Sums[2][4];
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        uint32_t x[4]; /* rows 0…7 at d and at d+8, rows 8…15 at d and at d+8 */
        ldmatrix_x4(x, rows + d * 16 + pair_offset(D + 8));
        const uint32_t low[2] = {x[0], x[1]}, high[2] = {x[2], x[3]};
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
            const Sums &sums = d == 0 ? init[m] : const_cast<const Sums &>(c[m]);
            mma_m16n8k16_bf16(c[m][0], a[m][d], low, sums[0]);
            mma_m16n8k16_bf16(c[m][1], a[m][d], high, sums[1]);
        }
    }
}

/* The same from zero. */
template <int D, int M_TILES>
__device__ __forceinline__ void mma_abt(float (&c)[M_TILES][2][4], const uint32_t (&a)[M_TILES][D / 16][4],
                                        const bf16 *rows) {
    const float zero[M_TILES][2][4] = {};
    mma_abt<D, M_TILES>(c, a, rows, zero);
}

template <int D, int M_TILES>
__device__ __forceinline__ void mma_ab(float (&c)[M_TILES][D / 8][4], const uint32_t (&a)[M_TILES][4],
                                       const bf16 *rows) {
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        uint32_t x[4]; /* d…d+7 of rows 0…7, of rows 8…15, then d+8…d+15 likewise */
        ldmatrix_x4_trans(x, rows + d * 16 + tile_offset(D + 8));
        const uint32_t low[2] = {x[0], x[1]}, high[2] = {x[2], x[3]};
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
            mma_m16n8k16_bf16(c[m][2 * d], a[m], low, c[m][2 * d]);
            mma_m16n8k16_bf16(c[m][2 * d + 1], a[m], high, c[m][2 * d + 1]);
        }
    }
}

/* Accumulators of 16 columns, rounded, as an A fragment of the next product. */
template <int M_TILES>
__device__ __forceinline__ void as_a_fragment(uint32_t (&a)[M_TILES][4], const float (&c)[M_TILES][2][4]) {
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) a[m][i] = pack_bf16(c[m][i / 2][i % 2 * 2], c[m][i / 2][i % 2 * 2 + 1]);
}

template <int M_TILES, int COLUMNS> __device__ __forceinline__ void clear(float (&c)[M_TILES][COLUMNS][4]) {
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) c[m][i][j] = 0;
}

/* The epilogue: stores a warp's rows, each times its factor (factor[m][0] for row g, [1] for row g + 8), rounded,
 * through the warp's own part of shared memory, so that 16 bytes go out at a time. `rows` of them exist. */
template <int D, int M_TILES>
__device__ __forceinline__ void epilogue_store(bf16 *head, int stride, int rows, bf16 *staged,
                                               const float (&c)[M_TILES][D / 8][4],
                                               const float (&factor)[M_TILES][2]) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            bf16 *row = staged + (m * 16 + lane / 4 + r * 8) * (D + 8) + lane % 4 * 2;
#pragma unroll
            for (int d = 0; d < D / 8; d++)
                *reinterpret_cast<uint32_t *>(row + d * 8) =
                    pack_bf16(c[m][d][2 * r] * factor[m][r], c[m][d][2 * r + 1] * factor[m][r]);
        }
    __syncwarp();
    constexpr int PACKS = D / PACK;
    for (int i = lane; i < M_TILES * 16 * PACKS; i += WARP) {
        const int row = i / PACKS, column = i % PACKS * PACK;
        if (row < rows)
            *reinterpret_cast<uint4 *>(head + (int64_t)row * stride + column) =
                *reinterpret_cast<const uint4 *>(staged + row * (D + 8) + column);
    }
}

/* The same with one factor for all. */
template <int D, int M_TILES>
__device__ __forceinline__ void epilogue_store(bf16 *head, int stride, int rows, bf16 *staged,
                                               const float (&c)[M_TILES][D / 8][4], float factor) {
    float factors[M_TILES][2];
#pragma unroll
    for (int m = 0; m < M_TILES; m++) factors[m][0] = factors[m][1] = factor;
    epilogue_store<D, M_TILES>(head, stride, rows, staged, c, factors);
}

/* Beside it, for a bias: the sums of a block's columns, each times the factor, to `out` [D], a warp's after the other's.
 * `sums` holds D floats a warp, which nobody uses. All threads call. */
template <int D, int M_TILES>
__device__ __forceinline__ void epilogue_column_sums(float *out, float *sums, const float (&c)[M_TILES][D / 8][4],
                                                     float factor) {
    float *own = sums + threadIdx.x / WARP * D + threadIdx.x % WARP * 2;
#pragma unroll
    for (int d = 0; d < D / 8; d++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float sum = 0;
#pragma unroll
            for (int m = 0; m < M_TILES; m++) sum += c[m][d][i] + c[m][d][2 + i];
#pragma unroll
            for (int distance = 4; distance < WARP; distance *= 2) sum += __shfl_xor_sync(ALL_LANES, sum, distance);
            if (threadIdx.x % WARP < 4) own[d * 8 + i] = sum * factor;
        }
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += ATTENTION_THREADS) {
        float sum = 0;
#pragma unroll
        for (int warp = 0; warp < ATTENTION_WARPS; warp++) sum += sums[warp * D + d];
        out[d] = sum;
    }
}

/* --------------------------------------------------------------------------------------------------------
 * Documents
 * ------------------------------------------------------------------------------------------------------ */

/* The first key that token t of the sequence whose doc_start this is may see. */
__device__ __forceinline__ int row_first_key(const uint32_t *doc_start, int t) {
    return doc_start ? (int)doc_start[t] : 0;
}

/* The smallest and the largest of a block's queries' first keys. All threads call; `buffer` holds two ints a
 * warp. */
struct KeyRange {
    int least, most;
};

__device__ inline KeyRange block_range(KeyRange range, int *buffer) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        range.least = min(range.least, __shfl_xor_sync(ALL_LANES, range.least, distance));
        range.most = max(range.most, __shfl_xor_sync(ALL_LANES, range.most, distance));
    }
    const int warp = threadIdx.x / WARP;
    if (threadIdx.x % WARP == 0) buffer[warp] = range.least, buffer[ATTENTION_WARPS + warp] = range.most;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ATTENTION_WARPS; i++) {
        range.least = min(range.least, buffer[i]);
        range.most = max(range.most, buffer[ATTENTION_WARPS + i]);
    }
    return range;
}

template <int ROWS> __device__ KeyRange first_keys(const uint32_t *doc_start, int q0, int T, int *buffer) {
    KeyRange range = {0, 0};
    if (!doc_start) return range;
    range.least = T;
    for (int t = q0 + threadIdx.x; t < min(q0 + ROWS, T); t += ATTENTION_THREADS) {
        range.least = min(range.least, (int)doc_start[t]);
        range.most = max(range.most, (int)doc_start[t]);
    }
    return block_range(range, buffer);
}

/* --------------------------------------------------------------------------------------------------------
 * Blocks of queries, with a mainloop over keys: the forward, and dQ
 * ------------------------------------------------------------------------------------------------------ */

/* A block's queries: from q0 on, of one head. */
struct QueryBlock {
    int b, head, kv_head, q0;
    int token; /* the sequence's first */

    /* The query that a thread holds a quarter of: of m16 tile `m` of the warp whose rows start at row0, row
     * lane / 4, or with r = 1 that and 8 more. */
    __device__ __forceinline__ int query_of(int row0, int m, int r) const {
        return q0 + row0 + m * 16 + (int)(threadIdx.x % WARP) / 4 + r * 8;
    }
};

/* Query blocks of a head are neighbours, so that its keys and values stay in L2; longest first. */
template <int ROWS> __device__ __forceinline__ QueryBlock query_block(const AttentionMmaParams &params) {
    QueryBlock block;
    block.q0 = (params.blocks - 1 - (int)(blockIdx.x % params.blocks)) * ROWS;
    block.head = (int)(blockIdx.x / params.blocks % params.H);
    block.kv_head = block.head / (params.H / params.Hkv);
    block.b = (int)(blockIdx.x / params.blocks / params.H);
    block.token = block.b * params.T;
    return block;
}

/* The tiles of keys and values that a block's mainloop goes over, in two stages: while one is used, the next is in flight. */
template <int D, int M_TILES> struct KeyPipeline {
    typedef AttentionConfig<D, M_TILES> C;
    HeadRows keys, values;
    int T, first, last; /* tiles */
    int all_see_from;   /* the first key that no document hides from a query of the block */

    /* All threads call; `buffer` holds two ints a warp. */
    __device__ __forceinline__ KeyPipeline(const bf16 *qkv, const AttentionMmaParams &params,
                                           const QueryBlock &block, const uint32_t *doc_start, int *buffer)
        : keys(key_rows<D>(qkv, params, block.token, block.kv_head)),
          values(value_rows<D>(qkv, params, block.token, block.kv_head)), T(params.T) {
        const KeyRange range = first_keys<C::ROWS>(doc_start, block.q0, T, buffer);
        first = range.least / ATTENTION_TILE;
        last = (min(block.q0 + C::ROWS, T) - 1) / ATTENTION_TILE;
        all_see_from = range.most;
    }

    __device__ __forceinline__ void prefetch(bf16 *stage, int tile) const {
        copy_rows<D, ATTENTION_TILE>(stage, keys, tile * ATTENTION_TILE, T);
        copy_rows<D, ATTENTION_TILE>(stage + C::TILE, values, tile * ATTENTION_TILE, T);
        cp_async_commit();
    }

    /* Waits for the tile, starts the next, and returns the tile's stage, keys before values. The barrier also says that
     * all warps are done with the stage that the next tile goes to. The first tile was prefetched to the first stage. */
    __device__ __forceinline__ const bf16 *advance(bf16 *stages, int tile) const {
        const int stage = (tile - first) & 1;
        cp_async_wait<0>();
        __syncthreads();
        if (tile < last) prefetch(stages + (1 - stage) * C::STAGE, tile + 1);
        return stages + stage * C::STAGE;
    }

    /* Whether a key of the tile is hidden from a query of the warp that starts at `query`. */
    __device__ __forceinline__ bool masked(int tile, int query) const {
        return tile * ATTENTION_TILE + ATTENTION_TILE - 1 > query || tile * ATTENTION_TILE < all_see_from;
    }
};

/* --------------------------------------------------------------------------------------------------------
 * Launches
 * ------------------------------------------------------------------------------------------------------ */

/* Calls launch(D, M_TILES), both constants, for the head sizes that have kernels; false for others. */
template <typename Launch> bool dispatch_head_size(int D, Launch launch) {
    switch (D) {
    case 32:
        return launch(Constant<32>(), Constant<2>()), true;
    case 48:
        return launch(Constant<48>(), Constant<2>()), true;
    case 64:
        return launch(Constant<64>(), Constant<2>()), true;
    case 96:
        return launch(Constant<96>(), Constant<1>()), true;
    case 128:
        return launch(Constant<128>(), Constant<1>()), true;
    default:
        return false;
    }
}

#endif
