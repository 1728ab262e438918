/*
 * junction_backward.cu: the residual junction, backward: the gradient of the norms, the residual gradient,
 * the sublayer's output gradient, and the sums for γ, β, α, λ, the bias and the gate, in one pass over
 * memory.
 *
 * Column sums without atomics: the rows are split over at most 512 blocks, by their number alone; each block
 * adds up its own rows in registers (a thread owns eight columns) and leaves partial sums in scratch, which
 * columns.cuh adds in order.
 */
#include "junction.cuh"
#include "columns.cuh"

namespace {

enum { D_GAMMA, D_BETA, D_BIAS, D_INNER_GAMMA, D_INNER_BETA, D_SDD_GAMMA, COLUMN_SUMS };
enum { D_GATE, D_SCALAR, D_INNER_SCALAR, SCALAR_SUMS };

/* Rows that a block has in flight at once, by its width: narrow ones need two for enough loads under way. */
struct Narrow {
    static constexpr int THREADS = 256, BLOCKS = 2, ROWS = 2; /* up to 2,048 channels */
};
struct Middle {
    static constexpr int THREADS = 512, BLOCKS = 1, ROWS = 1;
};
struct Wide {
    static constexpr int THREADS = 1024, BLOCKS = 1, ROWS = 1;
};

/* [sums][blocks][row_stride(C)], then [SCALAR_SUMS][blocks]. */
struct Partials {
    float *columns, *scalars;
    int64_t stride;

    __device__ void store_columns(int which, int column, const float (&sum)[PACK]) const {
        store_pack(columns + ((int64_t)which * gridDim.x + blockIdx.x) * stride + column, sum);
    }
};

/* The thread's columns: 8 from `column` on, or none where that is past the row. */
struct Columns {
    int C, column;
    bool active;
    float *buffer; /* shared memory for block_sum */
};

/* The gradient at the input of a norm, of one row, in the place of the one at its output. */
template <NormKind KIND>
__device__ void norm_gradient(float (&g)[PACK], const float (&input)[PACK], const Norm &norm, int64_t row,
                              const Columns &place, NormSums &sums) {
    const RowStatistics statistics = kept_statistics<KIND>(norm, row);
    float gamma[PACK], sum[2];
    fill_pack(gamma, 0);
    if (place.active) load_pack_or(gamma, norm.gamma, place.column, 1);
    norm_gradient_begin<KIND>(g, input, gamma, norm, statistics, sums, sum[0], sum[1]);
    if constexpr (KIND != NORM_DYT) block_sum(sum, place.buffer);
    norm_gradient_finish<KIND>(g, input, norm, statistics, false, sum[0] / (float)place.C,
                               sum[1] / (float)place.C);
#pragma unroll
    for (int i = 0; i < PACK; i++)
        if (place.column + i >= place.C) g[i] = 0;
}

/* df from du, in its place: inner'(·), then sdd'(·). */
template <typename S>
__device__ void branch_gradient(float (&df)[PACK], const Junction &forward, int64_t row, const Columns &place,
                                NormSums &inner, NormSums &sdd) {
    float z[PACK], after_sdd[PACK]; /* f + bias, and what the inner norm was given */
    fill_pack(z, 0);
    if (place.active) {
        load_pack(z, static_cast<const S *>(forward.f) + row * row_stride(place.C) + place.column);
        if (forward.bias) {
            float bias[PACK];
            load_pack(bias, static_cast<const S *>(forward.bias) + place.column);
#pragma unroll
            for (int i = 0; i < PACK; i++) z[i] += bias[i];
        }
    }
#pragma unroll
    for (int i = 0; i < PACK; i++) after_sdd[i] = z[i];
    if (forward.sdd.kind != NORM_NONE && place.active)
        apply_norm<NORM_RMSNORM>(after_sdd, forward.sdd, kept_statistics<NORM_RMSNORM>(forward.sdd, row), 0,
                                 place.column, place.C);
    switch (forward.inner.kind) {
    case NORM_LAYERNORM:
        norm_gradient<NORM_LAYERNORM>(df, after_sdd, forward.inner, row, place, inner);
        break;
    case NORM_RMSNORM:
        norm_gradient<NORM_RMSNORM>(df, after_sdd, forward.inner, row, place, inner);
        break;
    case NORM_DYT:
        norm_gradient<NORM_DYT>(df, after_sdd, forward.inner, row, place, inner);
        break;
    case NORM_BHYT:
        norm_gradient<NORM_BHYT>(df, after_sdd, forward.inner, row, place, inner);
        break;
    default:
        break;
    }
    if (forward.sdd.kind != NORM_NONE) norm_gradient<NORM_RMSNORM>(df, z, forward.sdd, row, place, sdd);
}

/* One pack each of u, of the gradient at y, and of the stream's gradient that passes the norm by. A post-type
 * stream is y, so its gradient joins the one at y. */
template <typename S, typename R>
__device__ __forceinline__ void load_row(float (&u)[PACK], float (&g)[PACK], float (&shortcut)[PACK],
                                         const JunctionBackward &args, const Junction &forward, int64_t at) {
    load_pack(u, static_cast<const R *>(forward.f ? forward.u : forward.x) + at);
    if (args.dy) load_pack(g, static_cast<const S *>(args.dy) + at);
    if (!args.dresidual_in) return;
    load_pack(shortcut, static_cast<const R *>(args.dresidual_in) + at);
    if (!forward.post) return;
#pragma unroll
    for (int i = 0; i < PACK; i++) g[i] += shortcut[i];
    fill_pack(shortcut, 0);
}

/* What one block has summed. */
__device__ __forceinline__ void store_scalars(const Partials &partials, float gate, float scalar, float inner,
                                              float *buffer) {
    float sum[SCALAR_SUMS];
    sum[D_GATE] = gate, sum[D_SCALAR] = scalar, sum[D_INNER_SCALAR] = inner;
    block_sum(sum, buffer);
#pragma unroll
    for (int i = 0; i < SCALAR_SUMS; i++)
        if (threadIdx.x == 0) partials.scalars[i * gridDim.x + blockIdx.x] = sum[i];
}

/* The gradient at the mean square that BHyT was given: −½·rstd³·λ/κ·Σ h⊙r, through v̂ = vhat[0]·v + vhat[1].
 */
template <NormKind NORM>
__device__ __forceinline__ void store_dmean_square(const JunctionBackward &args, const Junction &forward,
                                                   int64_t row, RowStatistics statistics, bool given,
                                                   float dot) {
    const float slope = slope_of<NORM>(forward.norm, statistics);
    static_cast<float *>(args.dmean_square_out)[row] =
        given ? -0.5f * statistics.rstd * statistics.rstd * slope * dot * scalar_or(forward.vhat, 1) : 0;
}

/*
 * Bytes a row: reads u, dy and dresidual_in, writes dresidual_out (and df where it differs): 8·C in bf16, and
 * 16·C with fp32 residual and a bf16 df; inner norms read f too, a post-type gate x. gpt2-124m at 65,536
 * tokens in bf16: 0.40 GB, floor 0.084 ms at 4.8 TB/s on an H200; the partial sums add 2 %. Not yet measured.
 */
template <typename S, typename R, bool INNER, NormKind NORM, typename Width>
__global__ void __launch_bounds__(Width::THREADS, Width::BLOCKS)
    junction_backward_kernel(JunctionBackward args, Junction forward, int64_t rows_a_block,
                             Partials partials) {
    constexpr int ROWS = INNER ? 1 : Width::ROWS;
    SHARED_ARRAY(float, buffer, 4 * WARP);
    const int C = forward.C, column = threadIdx.x * PACK;
    const Columns place = {C, column, column < C, buffer};
    const int64_t first = blockIdx.x * rows_a_block, last = min(first + rows_a_block, forward.N);
    const float scale_out = scalar_or(forward.s_out, 1), channels = (float)C;
    const float alpha = forward.alpha != 0 ? (float)forward.alpha : 1.0f;
    const bool given = NORM == NORM_BHYT && forward.mean_square_in;

    NormSums norm, inner, sdd;
    norm.clear(), inner.clear(), sdd.clear();
    float gamma[PACK], dbias[PACK], dgate = 0;
    fill_pack(gamma, 0), fill_pack(dbias, 0);
    if (place.active) load_pack_or(gamma, NORM == NORM_NONE ? NULL : forward.norm.gamma, column, 1);

    for (int64_t row0 = first; row0 < last; row0 += ROWS) {
        float u[ROWS][PACK], g[ROWS][PACK], shortcut[ROWS][PACK], r[PACK];
        RowStatistics statistics[ROWS];
        float sums[2 * ROWS]; /* what the norm wants of each row */
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            const int64_t row = row0 + k;
            fill_pack(u[k], 0), fill_pack(g[k], 0), fill_pack(shortcut[k], 0);
            statistics[k] = {0, 1};
            if (row >= last) continue;
            statistics[k] = kept_statistics<NORM>(forward.norm, row);
            if (place.active)
                load_row<S, R>(u[k], g[k], shortcut[k], args, forward, row * row_stride(C) + column);
        }
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
#pragma unroll
            for (int i = 0; i < PACK; i++) r[i] = __fmul_rn(scale_out, u[k][i]);
            norm_gradient_begin<NORM>(g[k], r, gamma, forward.norm, statistics[k], norm, sums[2 * k],
                                      sums[2 * k + 1]);
        }
        if constexpr (NORM != NORM_NONE && NORM != NORM_DYT) block_sum(sums, buffer);
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            const int64_t row = row0 + k, at = row * row_stride(C) + column;
            if (row >= last) continue;
            if (args.dmean_square_out && threadIdx.x == 0)
                store_dmean_square<NORM>(args, forward, row, statistics[k], given, sums[2 * k + 1]);
            const float *dmean_square_in = static_cast<const float *>(args.dmean_square_in);
            const float square = dmean_square_in ? 2 * dmean_square_in[row] / channels : 0;
#pragma unroll
            for (int i = 0; i < PACK; i++) r[i] = __fmul_rn(scale_out, u[k][i]);
            norm_gradient_finish<NORM>(g[k], r, forward.norm, statistics[k], given, sums[2 * k] / channels,
                                       sums[2 * k + 1] / channels);
            if (args.dgate && forward.post && place.active)
                load_pack(u[k], static_cast<const R *>(forward.x) + at); /* what the gate's scale rides on */
#pragma unroll
            for (int i = 0; i < PACK; i++) {
                g[k][i] = column + i < C ? g[k][i] + shortcut[k][i] + square * r[i] : 0;
                dgate += g[k][i] * u[k][i];
                shortcut[k][i] = alpha * g[k][i];
            }
            if (args.dresidual_out && place.active)
                store_pack(static_cast<R *>(args.dresidual_out) + at, shortcut[k]);
            if constexpr (INNER) branch_gradient<S>(g[k], forward, row, place, inner, sdd);
#pragma unroll
            for (int i = 0; i < PACK; i++) dbias[i] += g[k][i];
            if (args.df && place.active) store_pack(static_cast<S *>(args.df) + at, g[k]);
        }
    }
    if (place.active) {
        if (args.norm.dgamma) partials.store_columns(D_GAMMA, column, norm.dgamma);
        if (args.norm.dbeta) partials.store_columns(D_BETA, column, norm.dbeta);
        if (args.dbias) partials.store_columns(D_BIAS, column, dbias);
        if (INNER && args.inner.dgamma) partials.store_columns(D_INNER_GAMMA, column, inner.dgamma);
        if (INNER && args.inner.dbeta) partials.store_columns(D_INNER_BETA, column, inner.dbeta);
        if (INNER && args.sdd.dgamma) partials.store_columns(D_SDD_GAMMA, column, sdd.dgamma);
    }
    store_scalars(partials, dgate, norm.dscalar, inner.dscalar, buffer);
}

/* One warp adds the blocks' sums of each scalar: dgate += −slope·α·Σ, the norms' own += Σ. */
__global__ void add_scalars(JunctionBackward args, Partials partials, int blocks, float alpha) {
    Accum *const outs[SCALAR_SUMS] = {args.dgate, args.norm.dscalar, args.inner.dscalar};
#pragma unroll
    for (int i = 0; i < SCALAR_SUMS; i++) {
        if (!outs[i]) continue;
        float sum = 0;
        for (int block = threadIdx.x; block < blocks; block += WARP)
            sum += partials.scalars[i * blocks + block];
        sum = warp_sum(sum);
        const float factor = i == D_GATE ? -scalar_or(args.gate_slope, 1) * alpha : 1.0f;
        if (threadIdx.x == 0) *static_cast<float *>(outs[i]) += factor * sum;
    }
}

size_t partial_bytes(int64_t C) {
    return (size_t)(COLUMN_SUMS * row_stride(C) + SCALAR_SUMS) * MAX_CHUNKS * sizeof(float);
}

/* The arguments without the pointer to the forward call, which is host memory: that goes beside them. */
JunctionBackward on_device(JunctionBackward args) {
    args.forward = NULL;
    return args;
}

template <typename S> struct RunBackward {
    Queue *queue;
    const JunctionBackward *args;

    template <typename R, bool INNER, NormKind NORM, typename Width>
    void launch(const Chunks &chunks, unsigned threads, const Partials &partials) {
        LAUNCH((junction_backward_kernel<S, R, INNER, NORM, Width>), chunks.count, threads, 0, queue->stream,
               on_device(*args), *args->forward, chunks.rows, partials);
    }

    template <typename R, bool INNER, NormKind NORM> void operator()() {
        const Junction &forward = *args->forward;
        const Chunks chunks = split_rows(forward.N, Narrow::ROWS);
        const int64_t stride = row_stride(forward.C);
        Partials partials;
        partials.columns =
            static_cast<float *>(cuda_scratch(queue, partial_bytes(forward.C), "junction_backward"));
        partials.stride = stride;
        partials.scalars = partials.columns + (int64_t)COLUMN_SUMS * chunks.count * stride;

        const unsigned threads = (unsigned)(ceil_div(stride / PACK, WARP) * WARP);
        if (threads <= Narrow::THREADS)
            launch<R, INNER, NORM, Narrow>(chunks, threads, partials);
        else if (threads <= Middle::THREADS)
            launch<R, INNER, NORM, Middle>(chunks, threads, partials);
        else
            launch<R, INNER, NORM, Wide>(chunks, threads, partials);
        Accum *const outs[COLUMN_SUMS] = {args->norm.dgamma,
                                          args->norm.dbeta,
                                          args->dbias,
                                          INNER ? args->inner.dgamma : NULL,
                                          INNER ? args->inner.dbeta : NULL,
                                          INNER ? args->sdd.dgamma : NULL};
        for (int i = 0; i < COLUMN_SUMS; i++)
            add_columns(queue, outs[i], partials.columns + i * (int64_t)chunks.count * stride,
                        (int)chunks.count, stride, forward.C);
        const float alpha = forward.post && forward.alpha != 0 ? (float)forward.alpha : 1.0f;
        if (args->dgate || args->norm.dscalar || args->inner.dscalar)
            LAUNCH(add_scalars, 1, WARP, 0, queue->stream, on_device(*args), partials, (int)chunks.count,
                   alpha);
    }
};

} // namespace

template <typename S> void junction_backward(Queue *queue, const JunctionBackward *args) {
    check_junction(args->forward);
    if (args->forward->N == 0) return;
    dispatch_junction<S>(args->forward, RunBackward<S>{queue, args});
}
INSTANTIATE(junction_backward, JunctionBackward);

size_t junction_scratch(const Limits *limits) {
    return partial_bytes(limits->C);
}
