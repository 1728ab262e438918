/*
 * junction.cuh: what the junction's forward and backward share: which combinations there are, and the norms'
 * row arithmetic.
 *
 * A kernel is compiled for each norm (NormKind as a template argument) and each pair of storage and residual
 * type; scales, bias and optional outputs are tested at run time, since the tests are the same for all
 * threads and cost nothing beside the memory. A new norm is a case in the two kernels; SDD's and sandwich's
 * inner norms and post-type junctions will be template arguments beside the norm. What is not there yet is
 * refused by name.
 */
#ifndef JUNCTION_CUH
#define JUNCTION_CUH

#include "types.cuh"

/* Widest row: a block of 1,024 threads with one pack each. */
constexpr int JUNCTION_MAX_C = 1024 * PACK;

static inline void check_junction(const Junction *args) {
    check(args->norm.kind <= NORM_RMSNORM, "junction on cuda: norms dyt and bhyt are not there yet");
    check(!args->post, "junction on cuda: post-type placement is not there yet");
    check(args->sdd.kind == NORM_NONE, "junction on cuda: sdd is not there yet");
    check(args->inner.kind == NORM_NONE, "junction on cuda: sandwich's inner norm is not there yet");
    check(!args->mean_square_in, "junction on cuda: bhyt's passed-on statistic is not there yet");
    check(args->C >= 1 && args->C <= JUNCTION_MAX_C, "junction on cuda: rows of 1 to %d channels, not %d",
          JUNCTION_MAX_C, args->C);
    check(args->N >= 0 && args->N <= INT32_MAX, "junction on cuda: %lld rows are more than a launch can hold",
          (long long)args->N);
}

/* Calls run.template operator()<R, NORM>() for the residual type and norm of these arguments. */
template <typename S, typename Run> void dispatch_junction(const Junction *args, Run run) {
    const NormKind norm = args->norm.kind;
    if (args->residual_is_accum) {
        if (norm == NORM_LAYERNORM)
            run.template operator()<float, NORM_LAYERNORM>();
        else if (norm == NORM_RMSNORM)
            run.template operator()<float, NORM_RMSNORM>();
        else
            run.template operator()<float, NORM_NONE>();
    } else {
        if (norm == NORM_LAYERNORM)
            run.template operator()<S, NORM_LAYERNORM>();
        else if (norm == NORM_RMSNORM)
            run.template operator()<S, NORM_RMSNORM>();
        else
            run.template operator()<S, NORM_NONE>();
    }
}

__device__ __forceinline__ float scalar_or(const Accum *scalar, float otherwise) {
    return scalar ? *static_cast<const float *>(scalar) : otherwise;
}

/* Eight elements of a vector that may be absent. */
__device__ __forceinline__ void load_pack_or(float (&out)[PACK], const Accum *vector, int64_t column,
                                             float otherwise) {
    if (vector)
        load_pack(out, static_cast<const float *>(vector) + column);
    else
        fill_pack(out, otherwise);
}

__device__ __forceinline__ float output_scale_of(const Norm &norm) {
    return norm.output_scale == 0 ? 1.0f : (float)norm.output_scale;
}

#endif
