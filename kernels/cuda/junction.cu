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
template <NormKind KIND, typename R, typename Row>
__device__ void inner_norm(RowPacks<Row> &r, const Place<Row> &place, const Norm &norm) {
    const RowStatistics row = take_statistics<KIND, Row>(r, place, norm, false, 0, NULL);
    const float slope = slope_of<KIND>(norm, row);
#pragma unroll
    for (int p = 0; p < Row::PACKS; p++)
        if (place.column(p) < place.C) apply_norm<KIND, R>(r[p], norm, row, slope, place.column(p), place.C);
}

/* f̃ of a whole row: inner(sdd(f + bias)). */
template <typename S, typename R, typename Row>
__device__ void load_normed_branch(RowPacks<Row> &f, const Place<Row> &place, const Junction &args,
                                   int64_t start) {
#pragma unroll
    for (int p = 0; p < Row::PACKS; p++) {
        fill_pack(f[p], 0);
        if (place.column(p) < place.C) load_branch<S>(f[p], args, start + place.column(p), place.column(p));
    }
    if (args.sdd.kind != NORM_NONE) inner_norm<NORM_RMSNORM, R, Row>(f, place, args.sdd);
    switch (args.inner.kind) {
    case NORM_LAYERNORM:
        return inner_norm<NORM_LAYERNORM, R, Row>(f, place, args.inner);
    case NORM_RMSNORM:
        return inner_norm<NORM_RMSNORM, R, Row>(f, place, args.inner);
    case NORM_DYT:
        return inner_norm<NORM_DYT, R, Row>(f, place, args.inner);
    case NORM_BHYT:
        return inner_norm<NORM_BHYT, R, Row>(f, place, args.inner);
    case NORM_DERF:
        return inner_norm<NORM_DERF, R, Row>(f, place, args.inner);
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
 * (6·C) where f is NULL. gpt2-124m at 65,536 tokens in bf16: 0.40 GB, floor 0.084 ms at 4.8 TB/s on an H200.
 * Not yet measured.
 */
template <typename S, typename R, bool INNER, NormKind NORM, typename Row>
__global__ void __launch_bounds__(Row::THREADS, INNER ? 1 : Row::BLOCKS)
    junction_forward_kernel(Junction args) {
    SHARED_ARRAY(float, buffer, WARP);
    Place<Row> place;
    place.threads = Row::IS_WARP ? WARP : blockDim.x; /* that share a row */
    place.thread = threadIdx.x % place.threads;
    place.row = Row::IS_WARP ? (int64_t)blockIdx.x * ROW_WARPS + threadIdx.x / WARP : blockIdx.x;
    place.C = args.C;
    place.buffer = buffer;
    if (place.row >= args.N) return; /* a whole warp, and only where rows are warps */
    const int64_t start = place.row * row_stride(args.C);
    const float shortcut =
        scalar_or(args.s_in, 1) * scalar_or(args.s_ride, 1) * (args.alpha == 0 ? 1.0f : (float)args.alpha);
    const float scale_out = scalar_or(args.s_out, 1);

    RowPacks<Row> r, branch;
    if constexpr (INNER) load_normed_branch<S, R, Row>(branch, place, args, start);
#pragma unroll
    for (int p = 0; p < Row::PACKS; p++) {
        const int column = place.column(p);
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
        v = fmaf(vhat[0], static_cast<const float *>(args.mean_square_in)[place.row], vhat[1]);
    }
    const RowStatistics row = take_statistics<NORM, Row>(r, place, args.norm, given, v, args.mean_square_out);
    const float slope = slope_of<NORM>(args.norm, row);
    if (!args.y && !args.y_residual) return;
#pragma unroll
    for (int p = 0; p < Row::PACKS; p++) {
        const int column = place.column(p);
        if (column >= args.C) continue;
        apply_norm<NORM, R>(r[p], args.norm, row, slope, column, args.C);
        if (args.y) store_pack(static_cast<S *>(args.y) + start + column, r[p]);
        if (args.y_residual) store_pack(static_cast<R *>(args.y_residual) + start + column, r[p]);
    }
}

template <typename S> struct RunForward {
    Queue *queue;
    const Junction *args;

    template <typename R, bool INNER, NormKind NORM> void operator()() {
        const int64_t packs = row_stride(args->C) / PACK;
        if (packs <= WarpRow::PACKS * WARP) {
            LAUNCH((junction_forward_kernel<S, R, INNER, NORM, WarpRow>),
                   (unsigned)ceil_div(args->N, ROW_WARPS), WarpRow::THREADS, 0, queue->stream, *args);
        } else {
            LAUNCH((junction_forward_kernel<S, R, INNER, NORM, BlockRow>), (unsigned)args->N,
                   (unsigned)(ceil_div(packs, BlockRow::PACKS * WARP) * WARP), 0, queue->stream, *args);
        }
    }
};

} // namespace

template <typename S> void junction_forward(Queue *queue, const Junction *args) {
    check_junction(args);
    if (args->N == 0) return;
    dispatch_junction<S>(args, RunForward<S>{queue, args});
}
INSTANTIATE(junction_forward, Junction);
