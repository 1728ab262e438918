/*
 * junction_backward.cu: the residual junction, backward: the gradient of the norms, the residual gradient,
 * the sublayer's output gradient, and the sums for γ, β, α, λ, the bias and the gate, in one pass over
 * memory.
 *
 * Column sums without atomics: the rows are split over at most 512 blocks, by their number alone; each block
 * adds up its own rows in registers (a thread owns eight columns) and leaves partial sums in scratch, which
 * columns.cuh adds in order.
 */
#include "columns.cuh"
#include "junction_usual.cuh"

#include <algorithm>

namespace {

/* f + bias of one pack, and after SDD's norm if that comes `after` it: what an inner norm was given. A row is read anew
 * for each half of each norm, from cache: registers would not hold it beside the sums. */
template <typename S, typename Layout>
__device__ __forceinline__ void load_branch(float (&z)[PACK], const Junction &forward, int row,
                                            const ColumnSlice<Layout> &slice, int pack, bool after_sdd) {
    fill_pack(z, 0);
    if (!slice.active(pack)) return;
    const int column = slice.column(pack);
    load_pack(z, static_cast<const S *>(forward.f) + (int64_t)row * slice.stride + column);
    if (forward.bias) {
        float bias[PACK];
        load_pack(bias, static_cast<const S *>(forward.bias) + column);
#pragma unroll
        for (int i = 0; i < PACK; i++) z[i] += bias[i];
    }
    if (after_sdd)
        apply_norm<NORM_RMSNORM, S>(z, forward.sdd, kept_statistics<NORM_RMSNORM>(forward.sdd, row), 0,
                                    column, slice.C);
}

/* The gradient at the input of an inner norm, of one row, in the place of the one at its output. */
template <typename S, NormKind KIND, int PACKS, typename Layout>
__device__ void norm_gradient(float (&g)[PACKS][PACK], const Junction &forward, bool is_sdd, int row,
                              const ColumnSlice<Layout> &slice, BlockSums<PACKS> &block_sums) {
    const Norm &norm = is_sdd ? forward.sdd : forward.inner;
    const bool after_sdd = !is_sdd && forward.sdd.kind != NORM_NONE;
    const RowStatistics statistics = kept_statistics<KIND>(norm, row);
    float input[PACK], sum[2] = {0, 0};
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        float gamma[PACK], pack_sum, pack_dot;
        fill_pack(gamma, 0);
        if (slice.active(p)) load_pack_or(gamma, norm.gamma, slice.column(p), 1);
        load_branch<S>(input, forward, row, slice, p, after_sdd);
        InnerSums<Layout> sums = {
            SharedPack<Layout>(slice.inner_sums, (is_sdd ? SDD_GAMMA : INNER_GAMMA) * PACKS + p),
            SharedPack<Layout>(slice.inner_sums, INNER_BETA * PACKS + p)};
        norm_gradient_begin<KIND, S>(g[p], input, gamma, norm, statistics, sums, pack_sum, pack_dot);
        sum[0] += pack_sum, sum[1] += pack_dot;
    }
    if constexpr (is_squash<KIND>) block_sums.inner_dscalar += slope_unit<KIND>(norm, statistics) * sum[1];
    if constexpr (KIND == NORM_DERF) block_sums.inner_dshift += sum[0];
    if constexpr (!is_pointwise<KIND>) block_sum(sum, slice.buffer);
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        load_branch<S>(input, forward, row, slice, p, after_sdd);
        norm_gradient_finish<KIND>(g[p], input, norm, statistics, false, sum[0] / (float)slice.C,
                                   sum[1] / (float)slice.C);
        clear_padding(g[p], slice.column(p), slice.C);
    }
}

/* df from du, in its place: inner'(·), then sdd'(·). */
template <typename S, int PACKS, typename Layout>
__device__ void branch_gradient(float (&df)[PACKS][PACK], const Junction &forward, int row,
                                const ColumnSlice<Layout> &slice, BlockSums<PACKS> &sums) {
    switch (forward.inner.kind) {
    case NORM_LAYERNORM:
        norm_gradient<S, NORM_LAYERNORM>(df, forward, false, row, slice, sums);
        break;
    case NORM_RMSNORM:
        norm_gradient<S, NORM_RMSNORM>(df, forward, false, row, slice, sums);
        break;
    case NORM_DYT:
        norm_gradient<S, NORM_DYT>(df, forward, false, row, slice, sums);
        break;
    case NORM_BHYT:
        norm_gradient<S, NORM_BHYT>(df, forward, false, row, slice, sums);
        break;
    case NORM_DERF:
        norm_gradient<S, NORM_DERF>(df, forward, false, row, slice, sums);
        break;
    default:
        break;
    }
    if (forward.sdd.kind != NORM_NONE) norm_gradient<S, NORM_RMSNORM>(df, forward, true, row, slice, sums);
}

/* One row in flight: the stream u, the gradient at y, and the stream's gradient that passes the norm by. */
template <int PACKS> struct RowGradient {
    float u[PACKS][PACK], g[PACKS][PACK], shortcut[PACKS][PACK];
    RowStatistics statistics;
};

/* Whether a thread loads its part of a row at once and keeps it. With one pack it does, for enough loads in flight; four
 * have enough without, and lack the registers: each half of the work loads a pack at a time, u twice. */
template <int PACKS> constexpr bool holds_row = PACKS == 1;

/* u of one pack; zero where there is none. */
template <typename R>
__device__ __forceinline__ void load_stream(float (&u)[PACK], const Junction &forward, int64_t at,
                                            bool there) {
    fill_pack(u, 0);
    if (there) load_pack(u, static_cast<const R *>(forward.f ? forward.u : forward.x) + at);
}

/* The gradient that passes the norm by; with a post-type stream, which is y, none does. */
template <typename R>
__device__ __forceinline__ void load_shortcut(float (&shortcut)[PACK], const JunctionBackward &args,
                                              const Junction &forward, int64_t at, bool there) {
    fill_pack(shortcut, 0);
    if (there && args.dresidual_in && !forward.post)
        load_pack(shortcut, static_cast<const R *>(args.dresidual_in) + at);
}

/* The gradient at y. A post-type stream's joins it. */
template <typename S, typename R>
__device__ __forceinline__ void load_gradient(float (&g)[PACK], const JunctionBackward &args,
                                              const Junction &forward, int64_t at, bool there) {
    fill_pack(g, 0);
    if (!there) return;
    if (args.dy) load_pack(g, static_cast<const S *>(args.dy) + at);
    if (!args.dresidual_in || !forward.post) return;
    float joins[PACK];
    load_pack(joins, static_cast<const R *>(args.dresidual_in) + at);
#pragma unroll
    for (int i = 0; i < PACK; i++) g[i] += joins[i];
}

/* What the first half of the work needs of a pack: zero where the row is past `last`, or the pack past its end. */
template <typename S, typename R, int PACKS, typename Layout>
__device__ __forceinline__ void load_first(RowGradient<PACKS> &it, int p, const JunctionBackward &args,
                                           const Junction &forward, const ColumnSlice<Layout> &slice, int row,
                                           int last) {
    const bool there = row < last && slice.active(p);
    const int64_t at = (int64_t)row * slice.stride + slice.column(p);
    load_stream<R>(it.u[p], forward, at, there);
    load_gradient<S, R>(it.g[p], args, forward, at, there);
    if constexpr (holds_row<PACKS>) load_shortcut<R>(it.shortcut[p], args, forward, at, there);
}

/* And the second half. */
template <typename R, int PACKS, typename Layout>
__device__ __forceinline__ void load_second(RowGradient<PACKS> &it, int p, const JunctionBackward &args,
                                            const Junction &forward, const ColumnSlice<Layout> &slice,
                                            int row) {
    if constexpr (holds_row<PACKS>) return;
    const int64_t at = (int64_t)row * slice.stride + slice.column(p);
    load_stream<R>(it.u[p], forward, at, slice.active(p));
    load_shortcut<R>(it.shortcut[p], args, forward, at, slice.active(p));
}

/* The same for all rows. */
struct Factors {
    float alpha, scale_out, of_channel; /* 1/C */

    __device__ __forceinline__ explicit Factors(const Junction &forward)
        : alpha(forward.alpha != 0 ? (float)forward.alpha : 1.0f), scale_out(scalar_or(forward.s_out, 1)),
          of_channel(1.0f / (float)forward.C) {}
};

/* The norm's input r = s_out·u, as the forward rounded it. */
__device__ __forceinline__ void scale_stream(float (&r)[PACK], const float (&u)[PACK], float scale_out) {
#pragma unroll
    for (int i = 0; i < PACK; i++) r[i] = u[i];
    multiply_pack(r, scale_out);
}

/* to += factor·from */
__device__ __forceinline__ void add_multiple(float (&to)[PACK], float factor, const float (&from)[PACK]) {
#pragma unroll
    for (int i = 0; i < PACK; i++) to[i] = fmaf(factor, from[i], to[i]);
}

/* The thread's part of the row's two sums (norm_gradient_begin). */
template <typename S, typename R, NormKind NORM, int PACKS, typename Layout>
__device__ __forceinline__ void begin_row(RowGradient<PACKS> &it, const JunctionBackward &args,
                                          const Junction &forward, const ColumnSlice<Layout> &slice, int row,
                                          int last, float scale_out, BlockSums<PACKS> &sums, float &sum,
                                          float &dot) {
    sum = dot = 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        if constexpr (!holds_row<PACKS>) load_first<S, R>(it, p, args, forward, slice, row, last);
        float r[PACK], gamma[PACK], pack_sum, pack_dot;
        fill_pack(gamma, 0);
        if (slice.active(p))
            load_pack_or(gamma, NORM == NORM_NONE ? NULL : forward.norm.gamma, slice.column(p), 1);
        scale_stream(r, it.u[p], scale_out);
        norm_gradient_begin<NORM, R>(it.g[p], r, gamma, forward.norm, it.statistics, sums.norm[p], pack_sum,
                                     pack_dot);
        sum += pack_sum, dot += pack_dot;
    }
    if constexpr (is_squash<NORM>) sums.dscalar += slope_unit<NORM>(forward.norm, it.statistics) * dot;
    if constexpr (NORM == NORM_DERF) sums.dshift += sum;
}

/* The gradient at the mean square that BHyT was given: −½·rstd³·λ/κ·Σ h⊙r, through v̂ = vhat[0]·v + vhat[1].
 */
template <NormKind NORM>
__device__ __forceinline__ void store_dmean_square(const JunctionBackward &args, const Junction &forward,
                                                   int row, RowStatistics statistics, bool given, float dot) {
    const float slope = slope_of<NORM>(forward.norm, statistics);
    static_cast<float *>(args.dmean_square_out)[row] =
        given ? -0.5f * statistics.rstd * statistics.rstd * slope * dot * scalar_or(forward.vhat, 1) : 0;
}

/* From the row's sums to its gradients: dresidual_out is stored, and df is left in it.g. */
template <typename R, NormKind NORM, int PACKS, typename Layout>
__device__ __forceinline__ void finish_row(RowGradient<PACKS> &it, const JunctionBackward &args,
                                           const Junction &forward, const ColumnSlice<Layout> &slice, int row,
                                           const Factors &factors, BlockSums<PACKS> &sums, float sum,
                                           float dot) {
    const bool given = NORM == NORM_BHYT && forward.mean_square_in;
    if (args.dmean_square_out && threadIdx.x == 0)
        store_dmean_square<NORM>(args, forward, row, it.statistics, given, dot);
    const float *dmean_square_in = static_cast<const float *>(args.dmean_square_in);
    const float square = dmean_square_in ? 2 * dmean_square_in[row] * factors.of_channel : 0;
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        const int column = slice.column(p);
        const int64_t at = (int64_t)row * slice.stride + column;
        float r[PACK];
        load_second<R>(it, p, args, forward, slice, row);
        scale_stream(r, it.u[p], factors.scale_out);
        norm_gradient_finish<NORM>(it.g[p], r, forward.norm, it.statistics, given, sum * factors.of_channel,
                                   dot * factors.of_channel);
        if (args.dgate && forward.post && slice.active(p))
            load_pack(it.u[p], static_cast<const R *>(forward.x) + at); /* what the gate's scale rides on */
#pragma unroll
        for (int i = 0; i < PACK; i++) it.g[p][i] += it.shortcut[p][i];
        if (dmean_square_in) add_multiple(it.g[p], square, r);
        clear_padding(it.g[p], column, forward.C);
        if (args.dgate) {
#pragma unroll
            for (int i = 0; i < PACK; i++) sums.dgate += it.g[p][i] * it.u[p][i];
        }
        if (!args.dresidual_out || !slice.active(p)) continue;
#pragma unroll
        for (int i = 0; i < PACK; i++) it.shortcut[p][i] = it.g[p][i];
        multiply_pack(it.shortcut[p], factors.alpha);
        store_pack(static_cast<R *>(args.dresidual_out) + at, it.shortcut[p]);
    }
}

/* What one block has summed, for the second pass. */
template <bool INNER, int PACKS, typename Layout>
__device__ __forceinline__ void store_sums(const JunctionBackward &args, const JunctionPartials &partials,
                                           const ColumnSlice<Layout> &slice, const BlockSums<PACKS> &sums) {
    const bool wanted[INNER_PACKS] = {args.inner.dgamma != NULL, args.inner.dbeta != NULL,
                                      args.sdd.dgamma != NULL};
    float sum[SCALAR_SUMS] = {};
#pragma unroll
    for (int p = 0; p < PACKS; p++) {
        if (!slice.active(p)) continue;
        if (args.norm.dgamma) partials.store_columns(D_GAMMA, slice.column(p), sums.norm[p].dgamma);
        if (args.norm.dbeta) partials.store_columns(D_BETA, slice.column(p), sums.norm[p].dbeta);
        if (args.dbias) partials.store_columns(D_BIAS, slice.column(p), sums.dbias[p]);
#pragma unroll
        for (int which = 0; INNER && which < INNER_PACKS; which++) {
            float inner[PACK];
            SharedPack<Layout>(slice.inner_sums, which * PACKS + p).load(inner);
            if (wanted[which]) partials.store_columns(D_INNER_GAMMA + which, slice.column(p), inner);
        }
    }
    sum[D_GATE] = sums.dgate, sum[D_SCALAR] = sums.dscalar, sum[D_SHIFT] = sums.dshift;
    sum[D_INNER_SCALAR] = sums.inner_dscalar, sum[D_INNER_SHIFT] = sums.inner_dshift;
    block_sum(sum, slice.buffer);
#pragma unroll
    for (int i = 0; i < SCALAR_SUMS; i++)
        if (threadIdx.x == 0) partials.scalars[i * gridDim.x + blockIdx.x] = sum[i];
}

/*
 * Bytes a row: reads u, dy and dresidual_in, writes dresidual_out (and df where it differs): 8·C in bf16, and
 * 16·C with fp32 residual and a bf16 df; inner norms read f too, a post-type gate x. The partial sums are small
 * beside that, and what wide rows and inner norms read twice comes from cache.
 */
template <typename S, typename R, bool INNER, NormKind NORM, typename Layout>
__global__ void __launch_bounds__(Layout::THREADS, Layout::BLOCKS)
    junction_backward_kernel(JunctionBackward args, Junction forward, int rows_a_block,
                             JunctionPartials partials) {
    constexpr int ROWS = INNER ? 1 : Layout::ROWS, PACKS = Layout::PACKS;
    SHARED_ARRAY(float, buffer, SCALAR_SUMS *WARP); /* of the largest block_sum here */
    SHARED_MEMORY(float, inner_sums);
    const ColumnSlice<Layout> slice = {forward.C, (int)row_stride(forward.C), buffer, inner_sums};
    const int first = (int)blockIdx.x * rows_a_block, last = min(first + rows_a_block, (int)forward.N);

    const Factors factors(forward);
    BlockSums<PACKS> sums;
    sums.clear();
    if constexpr (INNER) {
        float zero[PACK];
        fill_pack(zero, 0);
#pragma unroll
        for (int i = 0; i < INNER_PACKS * PACKS; i++) SharedPack<Layout>(inner_sums, i).store(zero);
    }
    for (int row0 = first; row0 < last; row0 += ROWS) {
        RowGradient<PACKS> rows[ROWS];
        float row_sums[2 * ROWS]; /* what the norm wants of each row */
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            rows[k].statistics = {0, 1};
            if (row0 + k < last) rows[k].statistics = kept_statistics<NORM>(forward.norm, row0 + k);
            if constexpr (holds_row<PACKS>)
                load_first<S, R>(rows[k], 0, args, forward, slice, row0 + k, last);
        }
#pragma unroll
        for (int k = 0; k < ROWS; k++)
            begin_row<S, R, NORM>(rows[k], args, forward, slice, row0 + k, last, factors.scale_out, sums,
                                  row_sums[2 * k], row_sums[2 * k + 1]);
        if constexpr (NORM != NORM_NONE && !is_pointwise<NORM>) block_sum(row_sums, buffer);
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            const int row = row0 + k;
            if (row >= last) continue;
            finish_row<R, NORM>(rows[k], args, forward, slice, row, factors, sums, row_sums[2 * k],
                                row_sums[2 * k + 1]);
            if constexpr (INNER) branch_gradient<S>(rows[k].g, forward, row, slice, sums);
#pragma unroll
            for (int p = 0; p < PACKS; p++) {
#pragma unroll
                for (int i = 0; i < PACK; i++) sums.dbias[p][i] += rows[k].g[p][i];
                if (args.df && slice.active(p))
                    store_pack(static_cast<S *>(args.df) + (int64_t)row * slice.stride + slice.column(p),
                               rows[k].g[p]);
            }
        }
    }
    store_sums<INNER>(args, partials, slice, sums);
}

/* Where the sums of scalars go, or NULL; DERF's shift stands behind its α. */
struct ScalarOuts {
    float *out[SCALAR_SUMS];

    explicit ScalarOuts(const JunctionBackward &args) : out() {
        const Junction &forward = *args.forward;
        out[D_GATE] = static_cast<float *>(args.dgate);
        out[D_SCALAR] = static_cast<float *>(args.norm.dscalar);
        out[D_INNER_SCALAR] = static_cast<float *>(args.inner.dscalar);
        if (forward.norm.kind == NORM_DERF && out[D_SCALAR]) out[D_SHIFT] = out[D_SCALAR] + 1;
        if (forward.inner.kind == NORM_DERF && out[D_INNER_SCALAR]) out[D_INNER_SHIFT] = out[D_INNER_SCALAR] + 1;
    }
};

/* One warp adds the blocks' sums of each scalar: dgate += −slope·α·s_ride·Σ, the norms' own += Σ. */
__global__ void add_scalars(ScalarOuts outs, const Accum *gate_slope, const Accum *s_ride,
                            JunctionPartials partials, int blocks, float alpha) {
#pragma unroll
    for (int i = 0; i < SCALAR_SUMS; i++) {
        if (!outs.out[i]) continue;
        float sum = 0;
        for (int block = threadIdx.x; block < blocks; block += WARP)
            sum += partials.scalars[i * blocks + block];
        sum = warp_sum(sum);
        const float factor = i == D_GATE ? -scalar_or(gate_slope, 1) * scalar_or(s_ride, 1) * alpha : 1.0f;
        if (threadIdx.x == 0) *outs.out[i] += factor * sum;
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

template <typename S, typename R, bool INNER, NormKind NORM, typename Layout>
void launch_backward(Queue *queue, const JunctionBackward *args, const Chunks &chunks,
                     const JunctionPartials &partials) {
    const int64_t packs = row_stride(args->forward->C) / PACK;
    const unsigned threads = (unsigned)std::min<int64_t>(ceil_div(packs, WARP) * WARP, Layout::THREADS);
    const size_t shared = INNER ? INNER_SUMS_BYTES<Layout> : 0;
    ALLOW_SHARED_MEMORY((junction_backward_kernel<S, R, INNER, NORM, Layout>), shared);
    LAUNCH((junction_backward_kernel<S, R, INNER, NORM, Layout>), chunks.count, threads, shared,
           queue->stream, on_device(*args), *args->forward, (int)chunks.rows, partials);
}

template <typename S, typename R, bool INNER, NormKind NORM>
void launch_narrow(Queue *queue, const JunctionBackward *args, const Chunks &chunks,
                   const JunctionPartials &partials) {
    if constexpr (!INNER && may_be_usual<S, R, NORM>) {
        if (is_usual(args, chunks)) return launch_usual<S, NORM>(queue, args, chunks, partials);
    }
    launch_backward<S, R, INNER, NORM, Narrow>(queue, args, chunks, partials);
}

template <typename S, typename R, bool INNER, NormKind NORM>
void run_backward(Queue *queue, const JunctionBackward *args) {
    const Junction &forward = *args->forward;
    const Chunks chunks = split_rows(forward.N, Narrow::ROWS);
    const int64_t stride = row_stride(forward.C);
    JunctionPartials partials;
    partials.columns =
        static_cast<float *>(cuda_scratch(queue, partial_bytes(forward.C), "junction_backward"));
    partials.stride = stride;
    partials.scalars = partials.columns + (int64_t)COLUMN_SUMS * chunks.count * stride;

    if (stride <= Narrow::THREADS * PACK)
        launch_narrow<S, R, INNER, NORM>(queue, args, chunks, partials);
    else if (stride <= Middle::THREADS * PACK)
        launch_backward<S, R, INNER, NORM, Middle>(queue, args, chunks, partials);
    else
        launch_backward<S, R, INNER, NORM, Wide>(queue, args, chunks, partials);
    Accum *const outs[COLUMN_SUMS] = {args->norm.dgamma,
                                      args->norm.dbeta,
                                      args->dbias,
                                      INNER ? args->inner.dgamma : NULL,
                                      INNER ? args->inner.dbeta : NULL,
                                      INNER ? args->sdd.dgamma : NULL};
    for (int i = 0; i < COLUMN_SUMS; i++)
        add_columns(queue, outs[i], partials.columns + i * (int64_t)chunks.count * stride, (int)chunks.count,
                    stride, forward.C);
    const float alpha = forward.post && forward.alpha != 0 ? (float)forward.alpha : 1.0f;
    if (args->dgate || args->norm.dscalar || args->inner.dscalar)
        LAUNCH(add_scalars, 1, WARP, 0, queue->stream, ScalarOuts(*args), args->gate_slope, forward.s_ride,
               partials, (int)chunks.count, alpha);
}

} // namespace

template <typename S> void junction_backward(Queue *queue, const JunctionBackward *args) {
    check_junction(args->forward);
    if (args->forward->N == 0) return;
    dispatch_junction<S>(args->forward, [&](auto residual, auto inner, auto norm) {
        run_backward<S, typename decltype(residual)::type, inner(), norm()>(queue, args);
    });
}
INSTANTIATE(junction_backward, JunctionBackward);

size_t junction_scratch(const Limits *limits) {
    return partial_bytes(limits->C);
}
