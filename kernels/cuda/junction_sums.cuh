/*
 * junction_sums.cuh: how the junction's backward lays rows over a block, and what it sums over them: γ's, β's and
 * the bias's gradients by column, the gate's and the learned scalars' by number. junction_backward.cu's alone.
 */
#ifndef JUNCTION_SUMS_CUH
#define JUNCTION_SUMS_CUH

#include "junction.cuh"

namespace {

enum { D_GAMMA, D_BETA, D_BIAS, D_INNER_GAMMA, D_INNER_BETA, D_SDD_GAMMA, COLUMN_SUMS };
enum { D_GATE, D_SCALAR, D_SHIFT, D_INNER_SCALAR, D_INNER_SHIFT, SCALAR_SUMS };

/* How rows lie over a block, by their width: packs that a thread holds of one, rows in flight at once (narrow ones
 * need two for enough loads in flight), blocks a multiprocessor. They leave 128 registers a thread; wide rows have 255, as
 * few threads with many packs have less to keep beside the row than many with few. */
struct Narrow {
    static constexpr int THREADS = 256, PACKS = 1, ROWS = 2, BLOCKS = 2; /* up to 2,048 channels */
};
struct Middle {
    static constexpr int THREADS = 512, PACKS = 1, ROWS = 1, BLOCKS = 1; /* up to 4,096 */
};
struct Wide {
    static constexpr int THREADS = 256, PACKS = 4, ROWS = 1, BLOCKS = 1;
};
static_assert(Wide::THREADS * Wide::PACKS * PACK == JUNCTION_MAX_C, "the widest row");

/* [sums][blocks][row_stride(C)], then [SCALAR_SUMS][blocks]. */
struct JunctionPartials {
    float *columns, *scalars;
    int64_t stride;

    __device__ void store_columns(int which, int column, const float (&sum)[PACK]) const {
        store_pack(columns + ((int64_t)which * gridDim.x + blockIdx.x) * stride + column, sum);
    }
};

/* A thread's columns of a row: packs of 8, each a widest block's width after the one before, so that their distances are
 * constants. */
template <typename Layout> struct ColumnSlice {
    int C, stride;     /* of a row */
    float *buffer;     /* shared memory for block_sum */
    float *inner_sums; /* and for SharedPack */

    __device__ __forceinline__ int column(int pack) const {
        return ((int)threadIdx.x + pack * Layout::THREADS) * PACK;
    }
    __device__ __forceinline__ bool active(int pack) const { return column(pack) < C; }
};

/* A thread's sums over its rows for an inner norm and a pack of columns. They lie in shared memory: registers are full
 * with what the junction's own norm sums. The halves of a pack lie apart, [2][THREADS][4], so that eight neighbours'
 * 16 bytes are in different banks. No other thread touches a thread's own. */
template <typename Layout> struct SharedPack {
    float4 *low, *high;

    __device__ __forceinline__ SharedPack(float *packs, int which)
        : low(reinterpret_cast<float4 *>(packs) + 2 * which * Layout::THREADS + threadIdx.x),
          high(low + Layout::THREADS) {}

    __device__ __forceinline__ void load(float (&out)[PACK]) const {
        const float4 a = *low, b = *high;
        out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
        out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
    }
    __device__ __forceinline__ void store(const float (&in)[PACK]) const {
        *low = make_float4(in[0], in[1], in[2], in[3]);
        *high = make_float4(in[4], in[5], in[6], in[7]);
    }
    __device__ __forceinline__ void add(const float (&more)[PACK]) const {
        float sum[PACK];
        load(sum);
#pragma unroll
        for (int i = 0; i < PACK; i++) sum[i] += more[i];
        store(sum);
    }
};

/* The inner norms' sums of columns: γ and β of the inner norm, γ of SDD's. */
enum { INNER_GAMMA, INNER_BETA, SDD_GAMMA, INNER_PACKS };

template <typename Layout>
constexpr size_t INNER_SUMS_BYTES = sizeof(float) * INNER_PACKS *Layout::PACKS *Layout::THREADS *PACK;

template <typename Layout> struct InnerSums {
    SharedPack<Layout> dgamma, dbeta;

    __device__ __forceinline__ void add_gamma(const float (&more)[PACK]) { dgamma.add(more); }
    __device__ __forceinline__ void add_beta(const float (&more)[PACK]) { dbeta.add(more); }
};

/* What a thread sums over its rows in registers. */
template <int PACKS> struct BlockSums {
    NormSums norm[PACKS];
    float dbias[PACKS][PACK], dgate, dscalar, dshift, inner_dscalar, inner_dshift; /* SDD's rmsnorm has no scalar */

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int p = 0; p < PACKS; p++) norm[p].clear(), fill_pack(dbias[p], 0);
        dgate = dscalar = dshift = inner_dscalar = inner_dshift = 0;
    }
};

} // namespace

#endif
