/*
 * attention_mma.cuh: what the tensor-core forward and backward of attention share: where rows lie, how tiles
 * come into shared memory, and the products of fragments with them.
 *
 * A block is four warps; a warp owns TILES · 16 rows (queries, or in dK and dV keys) from the first product
 * to the last store, as A fragments in registers. The rows of the other side (keys and values; queries and
 * dO) pass through shared memory 64 at a time, in two stages: the next tiles are on their way by cp.async
 * while the tensor cores use the present ones, and one barrier a tile hands both over. Two products exist:
 *
 *     multiply_rows        C [rows, 16] += A [rows, D] · X[16, D]ᵀ     X by ldmatrix          (Q·Kᵀ, dO·Vᵀ)
 *     accumulate_rows      C [rows, D] += A [rows, 16] · X[16, D]     X by ldmatrix.trans    (P·V, dS·K)
 *
 * and the result of the first, rounded, already lies as the A fragment of the second (as_operand): what is
 * computed between the two never leaves a thread, and warps never wait for each other's numbers.
 *
 * Rows in shared memory are D + 8 elements apart, an odd number of 16-byte units for every D here: the eight
 * rows of an 8×8 matrix start in eight different of the eight bank groups, so ldmatrix has no conflicts. A
 * swizzle (unit ^ row % 8) would do the same in D/(D + 8) of the space, but its addresses are no constant
 * distances from one another: D/16 registers more a tile, and registers are what these kernels are short of;
 * shared memory they have left.
 *
 * A warp with TILES = 2 uses each fragment of X that it loads (512 bytes, 4 cycles of the 128 bytes a cycle
 * of shared memory) for four mma; at the 2,500 FLOP a cycle and multiprocessor that mma.sync may reach on
 * Hopper that is 4 cycles of loads to 6.5 of products. With TILES = 1, where D leaves no registers for two,
 * loads bound the rate at 2,048 FLOP a cycle.
 */
#ifndef ATTENTION_MMA_CUH
#define ATTENTION_MMA_CUH

#include "elementary.cuh"

#include <math.h>

constexpr int ATTENTION_WARPS = 4, ATTENTION_THREADS = ATTENTION_WARPS * WARP;
constexpr int ATTENTION_TILE = 64; /* rows of a tile that passes through shared memory */

/* What a block of head size D is: registers decide TILES (dispatch_head_size). */
template <int D, int TILES_> struct AttentionConfig {
    static constexpr int TILES = TILES_;
    static constexpr int ROWS = ATTENTION_WARPS * TILES * 16; /* that a block owns */
    static constexpr int STRIDE = D + 8;                      /* of a row in shared memory */
    static constexpr int TILE = ATTENTION_TILE * STRIDE;
    static constexpr int STAGE = 2 * TILE; /* keys and values, or queries and dO */
    static constexpr size_t STAGES_BYTES = 2 * STAGE * sizeof(bf16);
    static_assert(D % 16 == 0 && STRIDE / PACK % 2 == 1, "no bank conflicts");
    static_assert(ROWS * STRIDE <= STAGE, "a block's own rows pass through a stage");
};

struct AttentionShape {
    int B, T, H, Hkv;
    int padded_T; /* of row statistics in scratch */
    int qkv_stride, out_stride;
    float scale;               /* 1/√D */
    int blocks;                /* of rows in a sequence */
    const uint32_t *doc_start; /* [B,T] or NULL */
    const uint32_t *only_new;  /* [B] or NULL: sequences of which this is not 0 are another kernel's (attention_decode.cu) */
};

static inline AttentionShape attention_shape(const Attention *args, int rows) {
    AttentionShape shape;
    shape.B = args->B, shape.T = args->T, shape.H = args->H, shape.Hkv = args->Hkv;
    shape.padded_T = (int)row_stride(args->T);
    shape.qkv_stride = (int)row_stride((int64_t)(args->H + 2 * args->Hkv) * args->D);
    shape.out_stride = (int)row_stride((int64_t)args->H * args->D);
    shape.scale = (float)(1.0 / sqrt((double)args->D));
    shape.blocks = (int)ceil_div(args->T, rows);
    shape.doc_start = args->doc_start;
    shape.only_new = NULL;
    return shape;
}

/* A value that all lanes hold alike: said so, the compiler keeps it in a uniform register. */
__device__ __forceinline__ int same_in_warp(int value) {
    return __shfl_sync(ALL_LANES, value, 0);
}

/* The first of a warp's rows, within its block. */
template <int TILES> __device__ __forceinline__ int first_row() {
    return same_in_warp(threadIdx.x / WARP) * (TILES * 16);
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
__device__ __forceinline__ HeadRows query_rows(const bf16 *qkv, const AttentionShape &shape, int token,
                                               int head) {
    return {qkv, shape.qkv_stride, token, head * D};
}
template <int D>
__device__ __forceinline__ HeadRows key_rows(const bf16 *qkv, const AttentionShape &shape, int token,
                                             int kv_head) {
    return {qkv, shape.qkv_stride, token, (shape.H + kv_head) * D};
}
template <int D>
__device__ __forceinline__ HeadRows value_rows(const bf16 *qkv, const AttentionShape &shape, int token,
                                               int kv_head) {
    return {qkv, shape.qkv_stride, token, (shape.H + shape.Hkv + kv_head) * D};
}

/* Rows of a tensor laid out as out [N, H·D]. */
template <int D>
__device__ __forceinline__ HeadRows out_rows(const bf16 *out, const AttentionShape &shape, int token,
                                             int head) {
    return {out, shape.out_stride, token, head * D};
}

/* Starts copying rows [first, first + ROWS) of a head into shared memory; rows at or past T become zero. */
template <int D, int ROWS>
__device__ __forceinline__ void copy_rows(bf16 *shared, const HeadRows &head, int first, int T) {
    constexpr int PACKS = D / PACK, PASS = rows_of_a_pass(PACKS);
    static_assert(ROWS % PASS == 0, "whole passes");
    const int row = threadIdx.x / PACKS, column = threadIdx.x % PACKS * PACK;
    if (PASS * PACKS < ATTENTION_THREADS && row >= PASS) return;
    const bf16 *source = head.at(first + row, column);
    bf16 *target = shared + row * (D + 8) + column;
#pragma unroll
    for (int pass = 0; pass < ROWS; pass += PASS)
        cp_async_16(target + pass * (D + 8), source + (int64_t)pass * head.stride, first + row + pass < T);
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

/* The A fragments of a warp's TILES · 16 rows. */
template <int D, int TILES>
__device__ __forceinline__ void load_rows(uint32_t (&a)[TILES][D / 16][4], const bf16 *rows) {
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int d = 0; d < D / 16; d++)
            ldmatrix_x4(a[tile][d], rows + tile * 16 * (D + 8) + d * 16 + tile_offset(D + 8));
}

/* A block's own rows of two tensors, each through a stage into registers: from `row` on, `row0` of them before this
 * warp's. Between the two calls other work fits; after the second the stages are free. All threads call. */
template <int D, int TILES>
__device__ __forceinline__ void start_own_rows(bf16 *stages, const HeadRows &a, const HeadRows &b, int row,
                                               int T) {
    typedef AttentionConfig<D, TILES> C;
    copy_rows<D, C::ROWS>(stages, a, row, T);
    copy_rows<D, C::ROWS>(stages + C::STAGE, b, row, T);
    cp_async_commit();
}
template <int D, int TILES>
__device__ __forceinline__ void finish_own_rows(uint32_t (&a)[TILES][D / 16][4],
                                                uint32_t (&b)[TILES][D / 16][4], const bf16 *stages,
                                                int row0) {
    typedef AttentionConfig<D, TILES> C;
    cp_async_wait<0>();
    __syncthreads();
    load_rows<D, TILES>(a, stages + row0 * C::STRIDE);
    load_rows<D, TILES>(b, stages + C::STAGE + row0 * C::STRIDE);
    __syncthreads();
}

/* --------------------------------------------------------------------------------------------------------
 * Products
 * ------------------------------------------------------------------------------------------------------ */

/* c[tile][half] are the 16×8 accumulators of columns 8·half … 8·half + 7, which start as start[tile][half]. What all
 * rounds start from is an operand of the first product, not a copy in its result's place. */
template <int D, int TILES>
__device__ __forceinline__ void multiply_rows(float (&c)[TILES][2][4], const uint32_t (&a)[TILES][D / 16][4],
                                              const bf16 *rows, const float (&start)[TILES][2][4]) {
    typedef float Sums[2][4];
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        uint32_t x[4]; /* rows 0…7 at d and at d+8, rows 8…15 at d and at d+8 */
        ldmatrix_x4(x, rows + d * 16 + pair_offset(D + 8));
        const uint32_t low[2] = {x[0], x[1]}, high[2] = {x[2], x[3]};
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            const Sums &sums = d == 0 ? start[tile] : const_cast<const Sums &>(c[tile]);
            mma_m16n8k16_bf16(c[tile][0], a[tile][d], low, sums[0]);
            mma_m16n8k16_bf16(c[tile][1], a[tile][d], high, sums[1]);
        }
    }
}

/* The same from zero. */
template <int D, int TILES>
__device__ __forceinline__ void multiply_rows(float (&c)[TILES][2][4], const uint32_t (&a)[TILES][D / 16][4],
                                              const bf16 *rows) {
    const float zero[TILES][2][4] = {};
    multiply_rows<D, TILES>(c, a, rows, zero);
}

template <int D, int TILES>
__device__ __forceinline__ void accumulate_rows(float (&c)[TILES][D / 8][4], const uint32_t (&a)[TILES][4],
                                                const bf16 *rows) {
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        uint32_t x[4]; /* d…d+7 of rows 0…7, of rows 8…15, then d+8…d+15 likewise */
        ldmatrix_x4_trans(x, rows + d * 16 + tile_offset(D + 8));
        const uint32_t low[2] = {x[0], x[1]}, high[2] = {x[2], x[3]};
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
            mma_m16n8k16_bf16(c[tile][2 * d], a[tile], low, c[tile][2 * d]);
            mma_m16n8k16_bf16(c[tile][2 * d + 1], a[tile], high, c[tile][2 * d + 1]);
        }
    }
}

/* Accumulators of 16 columns, rounded, as the A fragment of the next product. */
template <int TILES>
__device__ __forceinline__ void as_operand(uint32_t (&a)[TILES][4], const float (&c)[TILES][2][4]) {
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[tile][i] = pack_bf16(c[tile][i / 2][i % 2 * 2], c[tile][i / 2][i % 2 * 2 + 1]);
}

template <int TILES, int COLUMNS> __device__ __forceinline__ void clear(float (&c)[TILES][COLUMNS][4]) {
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) c[tile][i][j] = 0;
}

/* Stores a warp's rows: each times its factor (factor[tile][0] for row g, [1] for row g + 8), rounded,
 * through the warp's own part of shared memory, so that 16 bytes go out at a time. `rows` of them exist. */
template <int D, int TILES>
__device__ __forceinline__ void store_rows(bf16 *head, int stride, int rows, bf16 *staged,
                                           const float (&c)[TILES][D / 8][4],
                                           const float (&factor)[TILES][2]) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            bf16 *row = staged + (tile * 16 + lane / 4 + r * 8) * (D + 8) + lane % 4 * 2;
#pragma unroll
            for (int d = 0; d < D / 8; d++)
                *reinterpret_cast<uint32_t *>(row + d * 8) =
                    pack_bf16(c[tile][d][2 * r] * factor[tile][r], c[tile][d][2 * r + 1] * factor[tile][r]);
        }
    __syncwarp();
    constexpr int PACKS = D / PACK;
    for (int i = lane; i < TILES * 16 * PACKS; i += WARP) {
        const int row = i / PACKS, column = i % PACKS * PACK;
        if (row < rows)
            *reinterpret_cast<uint4 *>(head + (int64_t)row * stride + column) =
                *reinterpret_cast<const uint4 *>(staged + row * (D + 8) + column);
    }
}

/* The same with one factor for all. */
template <int D, int TILES>
__device__ __forceinline__ void store_rows(bf16 *head, int stride, int rows, bf16 *staged,
                                           const float (&c)[TILES][D / 8][4], float factor) {
    float factors[TILES][2];
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) factors[tile][0] = factors[tile][1] = factor;
    store_rows<D, TILES>(head, stride, rows, staged, c, factors);
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
 * Queries that walk over their keys: the forward, and dQ
 * ------------------------------------------------------------------------------------------------------ */

/* A block's queries: from q0 on, of one head. */
struct QueryBlock {
    int b, head, kv_head, q0;
    int token; /* the sequence's first */

    /* The query that a thread holds a quarter of: of 16-row tile `tile` of the warp whose rows start at row0, row
     * lane / 4, or with r = 1 that and 8 more. */
    __device__ __forceinline__ int query_of(int row0, int tile, int r) const {
        return q0 + row0 + tile * 16 + (int)(threadIdx.x % WARP) / 4 + r * 8;
    }
};

/* Query blocks of a head are neighbours, so that its keys and values stay in L2; longest first. */
template <int ROWS> __device__ __forceinline__ QueryBlock query_block(const AttentionShape &shape) {
    QueryBlock block;
    block.q0 = (shape.blocks - 1 - (int)(blockIdx.x % shape.blocks)) * ROWS;
    block.head = (int)(blockIdx.x / shape.blocks % shape.H);
    block.kv_head = block.head / (shape.H / shape.Hkv);
    block.b = (int)(blockIdx.x / shape.blocks / shape.H);
    block.token = block.b * shape.T;
    return block;
}

/* The tiles of keys and values that a block of queries visits, the next on its way while one is worked on. */
template <int D, int TILES> struct KeyWalk {
    typedef AttentionConfig<D, TILES> C;
    HeadRows keys, values;
    int T, first, last; /* tiles */
    int all_see_from;   /* the first key that no document hides from a query of the block */

    /* All threads call; `buffer` holds two ints a warp. */
    __device__ __forceinline__ KeyWalk(const bf16 *qkv, const AttentionShape &shape, const QueryBlock &block,
                                       const uint32_t *doc_start, int *buffer)
        : keys(key_rows<D>(qkv, shape, block.token, block.kv_head)),
          values(value_rows<D>(qkv, shape, block.token, block.kv_head)), T(shape.T) {
        const KeyRange range = first_keys<C::ROWS>(doc_start, block.q0, T, buffer);
        first = range.least / ATTENTION_TILE;
        last = (min(block.q0 + C::ROWS, T) - 1) / ATTENTION_TILE;
        all_see_from = range.most;
    }

    __device__ __forceinline__ void start(bf16 *stage, int tile) const {
        copy_rows<D, ATTENTION_TILE>(stage, keys, tile * ATTENTION_TILE, T);
        copy_rows<D, ATTENTION_TILE>(stage + C::TILE, values, tile * ATTENTION_TILE, T);
        cp_async_commit();
    }

    /* The stage where the tile now is, keys before values; all warps are through with the one before it. The first
     * tile was started in the first stage. */
    __device__ __forceinline__ const bf16 *hand_over(bf16 *stages, int tile) const {
        const int stage = (tile - first) & 1;
        cp_async_wait<0>();
        __syncthreads();
        if (tile < last) start(stages + (1 - stage) * C::STAGE, tile + 1);
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

/* Calls run.template operator()<D, TILES>() for the head sizes that have kernels; false for others. */
template <typename Run> bool dispatch_head_size(int D, Run run) {
    switch (D) {
    case 32:
        return run.template operator()<32, 2>(), true;
    case 48:
        return run.template operator()<48, 2>(), true;
    case 64:
        return run.template operator()<64, 2>(), true;
    case 96:
        return run.template operator()<96, 1>(), true;
    case 128:
        return run.template operator()<128, 1>(), true;
    default:
        return false;
    }
}

#endif
