/*
 * junction.cuh: what the junction's forward and backward share: what they take, and the choice of a kernel.
 *
 * A kernel is compiled for each norm, for each pair of storage and residual type, and with and without inner
 * norms (SDD's and sandwich's second norm, whose kind is tested at run time). Scales, bias and optional
 * operands are tested at run time too, since the tests are the same for all threads and cost nothing beside
 * the memory. A new norm is a case in norm.cuh and in the two switches over NormKind.
 */
#ifndef JUNCTION_CUH
#define JUNCTION_CUH

#include "norm.cuh"

/* Widest row that a block's registers hold. */
constexpr int JUNCTION_MAX_C = 8192;

/* Most rows: their numbers, and those a block beyond them, fit in 32 bits. */
constexpr int64_t JUNCTION_MAX_N = 1 << 30;

static inline void check_junction(const Junction *args) {
    check(args->norm.kind < NORM_KIND_COUNT && args->inner.kind < NORM_KIND_COUNT,
          "junction on cuda: there is no norm %d", (int)args->norm.kind);
    check(args->sdd.kind == NORM_NONE || args->sdd.kind == NORM_RMSNORM,
          "junction on cuda: sdd is an rmsnorm, not norm %d", (int)args->sdd.kind);
    check(args->C >= 1 && args->C <= JUNCTION_MAX_C, "junction on cuda: rows of 1 to %d channels, not %d",
          JUNCTION_MAX_C, args->C);
    check(args->N >= 0 && args->N <= JUNCTION_MAX_N,
          "junction on cuda: %lld rows are more than a launch can hold", (long long)args->N);
}

/* Calls launch(R, INNER, NORM): the residual's type, whether there are inner norms, and the junction's own. */
template <typename R, bool INNER, typename Launch> void dispatch_norm(NormKind norm, Launch launch) {
    switch (norm) {
    case NORM_LAYERNORM:
        return launch(Type<R>(), Constant<INNER>(), Constant<NORM_LAYERNORM>());
    case NORM_RMSNORM:
        return launch(Type<R>(), Constant<INNER>(), Constant<NORM_RMSNORM>());
    case NORM_DYT:
        return launch(Type<R>(), Constant<INNER>(), Constant<NORM_DYT>());
    case NORM_BHYT:
        return launch(Type<R>(), Constant<INNER>(), Constant<NORM_BHYT>());
    case NORM_DERF:
        return launch(Type<R>(), Constant<INNER>(), Constant<NORM_DERF>());
    default:
        return launch(Type<R>(), Constant<INNER>(), Constant<NORM_NONE>());
    }
}

template <typename S, typename Launch> void dispatch_junction(const Junction *args, Launch launch) {
    const bool inner = args->f && (args->sdd.kind != NORM_NONE || args->inner.kind != NORM_NONE);
    if (args->residual_is_accum && inner)
        dispatch_norm<float, true>(args->norm.kind, launch);
    else if (args->residual_is_accum)
        dispatch_norm<float, false>(args->norm.kind, launch);
    else if (inner)
        dispatch_norm<S, true>(args->norm.kind, launch);
    else
        dispatch_norm<S, false>(args->norm.kind, launch);
}

#endif
