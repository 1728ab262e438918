/*
 * junction.cu: the residual junction, forward: bias, inner norms, residual addition, the riding scale, the
 * next norm and its statistics, in one pass over memory.
 *
 * A row stays in registers from the first load to the last store: a warp holds a row of up to 1,024 channels,
 * a block a wider one.
 */
#include "junction.cuh"

namespace {

static_assert(BlockRow::THREADS * BlockRow::PACKS * PACK == JUNCTION_MAX_C, "the widest row");

/* f + bias of the pack at `column`. */
template <typename S>
__device__ __forceinline__ void load_branch(float (&f)[PACK], const Junction &args, int64_t at, int column) {
    float bias[PACK];
    load_pack(f, static_cast<const S *>(args.f) + at);
    if (!args.bias) return;
    load_pack(bias, static_cast<const S *>(args.bias) + column);
#pragma unroll
    for (int i = 0; i < PACK; i++) f[i] += bias[i];
}

/* y of a whole row in the place of r. */
template <NormKind KIND, typename R, typename Layout>
__device__ void inner_norm(RowFragment<Layout> &r, const RowSlice<Layout> &slice, const Norm &norm) {
    const RowStatistics row = compute_statistics<KIND, Layout>(r, slice, norm, false, 0, NULL);
    const float slope = slope_of<KIND>(norm, row);
#pragma unroll
    for (int p = 0; p < Layout::PACKS; p++)
        if (slice.column(p) < slice.C) apply_norm<KIND, R>(r[p], norm, row, slope, slice.column(p), slice.C);
}

/* f̃ of a whole row: inner(sdd(f + bias)). */
template <typename S, typename R, typename Layout>
__device__ void load_normed_branch(RowFragment<Layout> &f, const RowSlice<Layout> &slice,
                                   const Junction &args, int64_t start) {
#pragma unroll
    for (int p = 0; p < Layout::PACKS; p++) {
        fill_pack(f[p], 0);
        if (slice.column(p) < slice.C) load_branch<S>(f[p], args, start + slice.column(p), slice.column(p));
    }
    if (args.sdd.kind != NORM_NONE) inner_norm<NORM_RMSNORM, R, Layout>(f, slice, args.sdd);
    switch (args.inner.kind) {
    case NORM_LAYERNORM:
        return inner_norm<NORM_LAYERNORM, R, Layout>(f, slice, args.inner);
    case NORM_RMSNORM:
        return inner_norm<NORM_RMSNORM, R, Layout>(f, slice, args.inner);
    case NORM_DYT:
        return inner_norm<NORM_DYT, R, Layout>(f, slice, args.inner);
    case NORM_BHYT:
        return inner_norm<NORM_BHYT, R, Layout>(f, slice, args.inner);
    case NORM_DERF:
        return inner_norm<NORM_DERF, R, Layout>(f, slice, args.inner);
    default:
        return;
    }
}

/* u of one pack from its f̃, rounded as it is stored; stores it where f is there. */
template <typename R>
__device__ __forceinline__ void add_residual(float (&u)[PACK], const float (&f)[PACK], const Junction &args,
                                             int64_t at, float shortcut) {
    load_pack(u, static_cast<const R *>(args.x) + at);
    if (!args.f) return;
#pragma unroll
    for (int i = 0; i < PACK; i++) u[i] = fmaf(shortcut, u[i], f[i]);
    round_pack<R>(u);
    if (args.u) store_pack(static_cast<R *>(args.u) + at, u);
}

/*
 * Bytes a row: reads x and f, writes u and y, so 8·C in bf16 throughout, 12·C with an fp32 residual, and 4·C
 * (6·C) where f is NULL.
 */
template <typename S, typename R, bool INNER, NormKind NORM, typename Layout>
__global__ void __launch_bounds__(Layout::THREADS, INNER ? 1 : Layout::BLOCKS)
    junction_forward_kernel(Junction args) {
    SHARED_ARRAY(float, buffer, WARP);
    RowSlice<Layout> slice;
    slice.threads = Layout::IS_WARP ? WARP : blockDim.x; /* that share a row */
    slice.thread = threadIdx.x % slice.threads;
    slice.row = Layout::IS_WARP ? (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / WARP : blockIdx.x;
    slice.C = args.C;
    slice.buffer = buffer;
    if (slice.row >= args.N) return; /* a whole warp, and only where rows are warps */
    const int64_t start = slice.row * row_stride(args.C);
    const float shortcut =
        scalar_or(args.s_in, 1) * scalar_or(args.s_ride, 1) * (args.alpha == 0 ? 1.0f : (float)args.alpha);
    const float scale_out = scalar_or(args.s_out, 1);

    RowFragment<Layout> r, branch;
    if constexpr (INNER) load_normed_branch<S, R, Layout>(branch, slice, args, start);
#pragma unroll
    for (int p = 0; p < Layout::PACKS; p++) {
        const int column = slice.column(p);
        fill_pack(r[p], 0);
        if (column >= args.C) continue;
        if (!INNER && args.f) load_branch<S>(branch[p], args, start + column, column);
        add_residual<R>(r[p], branch[p], args, start + column, shortcut);
        multiply_pack(r[p], scale_out);
    }

    float v = 0;
    const bool given = NORM == NORM_BHYT && args.mean_square_in;
    if (given) {
        const float *vhat = static_cast<const float *>(args.vhat);
        v = fmaf(vhat[0], static_cast<const float *>(args.mean_square_in)[slice.row], vhat[1]);
    }
    const RowStatistics row =
        compute_statistics<NORM, Layout>(r, slice, args.norm, given, v, args.mean_square_out);
    const float slope = slope_of<NORM>(args.norm, row);
    if (!args.y && !args.y_residual) return;
#pragma unroll
    for (int p = 0; p < Layout::PACKS; p++) {
        const int column = slice.column(p);
        if (column >= args.C) continue;
        apply_norm<NORM, R>(r[p], args.norm, row, slope, column, args.C);
        if (args.y) store_pack(static_cast<S *>(args.y) + start + column, r[p]);
        if (args.y_residual) store_pack(static_cast<R *>(args.y_residual) + start + column, r[p]);
    }
}

template <typename S, typename R, bool INNER, NormKind NORM>
void run_forward(Queue *queue, const Junction *args) {
    const int64_t packs = row_stride(args->C) / PACK;
    if (packs <= WarpRow::PACKS * WARP) {
        LAUNCH((junction_forward_kernel<S, R, INNER, NORM, WarpRow>), (unsigned)ceil_div(args->N, ROW_WARPS),
               WarpRow::THREADS, 0, queue->stream, *args);
    } else {
        LAUNCH((junction_forward_kernel<S, R, INNER, NORM, BlockRow>), (unsigned)args->N,
               (unsigned)(ceil_div(packs, BlockRow::PACKS * WARP) * WARP), 0, queue->stream, *args);
    }
}

} // namespace

template <typename S> void junction_forward(Queue *queue, const Junction *args) {
    check_junction(args);
    if (args->N == 0) return;
    dispatch_junction<S>(args, [&](auto residual, auto inner, auto norm) {
        run_forward<S, typename decltype(residual)::type, inner(), norm()>(queue, args);
    });
}
INSTANTIATE(junction_forward, Junction);
