/*
 * norm.cuh: the row arithmetic of the norms (MATH.md §1), in registers: what a thread does with its
 * packs of a row, forward and backward.
 *
 * A norm's kind is a template argument here; inner norms, which are rare, are chosen by a switch in the
 * kernel, the junction's own norm when the kernel is launched. Products that another product or sum follows
 * are written with __fmul_rn or fmaf where two kernels must agree to the bit (forward and its recomputation):
 * the compiler is then not free to contract them differently.
 */
#ifndef NORM_CUH
#define NORM_CUH

#include "elementary.cuh"

/* Kinds that squash slope·r (+ shift) element by element, that do nothing else, that have a β, that keep the row's mean, and
 * that keep its rstd. */
template <NormKind KIND> constexpr bool is_squash = KIND == NORM_DYT || KIND == NORM_BHYT || KIND == NORM_DERF;
template <NormKind KIND> constexpr bool is_pointwise = KIND == NORM_DYT || KIND == NORM_DERF;
template <NormKind KIND> constexpr bool has_beta = KIND == NORM_LAYERNORM || is_pointwise<KIND>;
template <NormKind KIND> constexpr bool keeps_mean = KIND == NORM_LAYERNORM;
template <NormKind KIND>
constexpr bool keeps_rstd = KIND == NORM_LAYERNORM || KIND == NORM_RMSNORM || KIND == NORM_BHYT;

struct RowStatistics {
    float mean, rstd;
};

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

/* What is a factor of 1 in most runs costs a test that is the same for all threads, not a product an element. */
__device__ __forceinline__ void multiply_pack(float (&pack)[PACK], float factor) {
    if (factor == 1) return;
#pragma unroll
    for (int i = 0; i < PACK; i++) pack[i] = __fmul_rn(factor, pack[i]);
}

__device__ __forceinline__ float output_scale_of(const Norm &norm) {
    return norm.output_scale == 0 ? 1.0f : (float)norm.output_scale;
}

/* What the learned scalar is multiplied by, and with it the slope inside the squash: DyT's and DERF's α, BHyT's λ/κ·rstd;
 * DERF's shift there. */
template <NormKind KIND> __device__ __forceinline__ float slope_unit(const Norm &norm, RowStatistics row) {
    return KIND == NORM_BHYT ? row.rstd * (float)(1.0 / norm.kappa) : 1.0f;
}
template <NormKind KIND> __device__ __forceinline__ float slope_of(const Norm &norm, RowStatistics row) {
    return is_squash<KIND> ? scalar_or(norm.scalar, 0) * slope_unit<KIND>(norm, row) : 0;
}
template <NormKind KIND> __device__ __forceinline__ float shift_of(const Norm &norm) {
    return KIND == NORM_DERF ? static_cast<const float *>(norm.scalar)[1] : 0;
}

/* The squash of r, as exactly as T keeps it. */
template <NormKind KIND, typename T>
__device__ __forceinline__ Squash squash(float slope, float shift, float r) {
    if constexpr (KIND == NORM_DERF) return error_function<T>(fmaf(slope, r, shift));
    else return hyperbolic_tangent<T>(__fmul_rn(slope, r));
}

/* --------------------------------------------------------------------------------------------------------
 * Forward
 * ------------------------------------------------------------------------------------------------------ */

/* How a row lies over threads: PACKS packs a thread, over a warp or over a block of at most THREADS; BLOCKS
 * is how many a multiprocessor should hold, for enough loads in flight. Both come to 64 registers a thread. */
constexpr int ROW_WARPS = 4; /* rows of a block where a warp holds a row */
struct WarpRow {
    static constexpr int PACKS = 4, THREADS = ROW_WARPS * WARP, BLOCKS = 8;
    static constexpr bool IS_WARP = true;
};
struct BlockRow {
    static constexpr int PACKS = 2, THREADS = 512, BLOCKS = 2;
    static constexpr bool IS_WARP = false;
};

/* A thread's slice of its row: packs `threads` apart. */
template <typename Layout> struct RowSlice {
    int64_t row;
    int C, thread, threads;
    float *buffer; /* shared memory for block_sum */

    __device__ int column(int pack) const { return (thread + pack * threads) * PACK; }
    __device__ float sum(float value) const {
        if constexpr (Layout::IS_WARP) return warp_sum(value);
        float values[1] = {value};
        block_sum(values, buffer);
        return values[0];
    }
};

/* A thread's fragment of a row, in registers. */
template <typename Layout> using RowFragment = float[Layout::PACKS][PACK];

template <typename Layout>
__device__ float row_mean_square(const RowFragment<Layout> &r, const RowSlice<Layout> &slice) {
    float sum = 0; /* padding is zero */
#pragma unroll
    for (int p = 0; p < Layout::PACKS; p++)
#pragma unroll
        for (int i = 0; i < PACK; i++) sum = fmaf(r[p][i], r[p][i], sum);
    return slice.sum(sum) / (float)slice.C;
}

/* mean, and Σ (r − mean)² in a second pass over registers: no cancellation. */
template <typename Layout>
__device__ RowStatistics layernorm_statistics(const RowFragment<Layout> &r, const RowSlice<Layout> &slice,
                                              float eps) {
    float sum = 0, deviation = 0;
#pragma unroll
    for (int p = 0; p < Layout::PACKS; p++)
#pragma unroll
        for (int i = 0; i < PACK; i++) sum += r[p][i];
    const float mean = slice.sum(sum) / (float)slice.C;
#pragma unroll
    for (int p = 0; p < Layout::PACKS; p++) {
        const int left = slice.C - slice.column(p); /* of the row from here on */
        if (left >= PACK) {
#pragma unroll
            for (int i = 0; i < PACK; i++) deviation = fmaf(r[p][i] - mean, r[p][i] - mean, deviation);
        } else {
#pragma unroll
            for (int i = 0; i < PACK; i++)
                if (i < left) deviation = fmaf(r[p][i] - mean, r[p][i] - mean, deviation);
        }
    }
    return {mean, 1.0f / sqrtf(slice.sum(deviation) / (float)slice.C + eps)};
}

/* The statistics of a row, kept for backward where the norm has room for them. `given`: BHyT takes v as its
 * mean square and none of its own. mean_square_out [N] or NULL. */
template <NormKind KIND, typename Layout>
__device__ RowStatistics compute_statistics(const RowFragment<Layout> &r, const RowSlice<Layout> &slice,
                                            const Norm &norm, bool given, float v, Accum *mean_square_out) {
    const bool own = KIND == NORM_RMSNORM || (KIND == NORM_BHYT && !given);
    RowStatistics row = {0, 1};
    if (own || mean_square_out) {
        const float mean_square = row_mean_square<Layout>(r, slice);
        if (mean_square_out && slice.thread == 0)
            static_cast<float *>(mean_square_out)[slice.row] = mean_square;
        if (own) v = mean_square;
    }
    if (KIND == NORM_RMSNORM || KIND == NORM_BHYT) row.rstd = 1.0f / sqrtf(v + (float)norm.eps);
    if constexpr (KIND == NORM_LAYERNORM) row = layernorm_statistics<Layout>(r, slice, (float)norm.eps);
    if (keeps_mean<KIND> && norm.mean && slice.thread == 0)
        static_cast<float *>(norm.mean)[slice.row] = row.mean;
    if (keeps_rstd<KIND> && norm.rstd && slice.thread == 0)
        static_cast<float *>(norm.rstd)[slice.row] = row.rstd;
    return row;
}

/* y of the pack at `column`, in the place of r, as exactly as T keeps it. Padding becomes zero. */
template <NormKind KIND, typename T>
__device__ __forceinline__ void apply_norm(float (&r)[PACK], const Norm &norm, RowStatistics row, float slope,
                                           int column, int C) {
    float gamma[PACK], beta[PACK];
    load_pack_or(gamma, KIND == NORM_NONE ? NULL : norm.gamma, column, 1);
    load_pack_or(beta, has_beta<KIND> ? norm.beta : NULL, column, 0);
    const float shift = shift_of<KIND>(norm);
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        float hat = r[i];
        if constexpr (is_squash<KIND>)
            hat = squash<KIND, T>(slope, shift, r[i]).value;
        else if constexpr (KIND != NORM_NONE)
            hat = __fmul_rn(r[i] - row.mean, row.rstd);
        r[i] = fmaf(gamma[i], hat, beta[i]);
    }
    multiply_pack(r, output_scale_of(norm));
    clear_padding(r, column, C);
}

/* --------------------------------------------------------------------------------------------------------
 * Backward: a thread has one pack of columns. The first half turns the gradient at y into the gradient at the
 * normalized (or squashed) value and takes the parameters' sums; `sum` and `dot` must then be added up over
 * the row; the second half turns it into the gradient at r.
 * ------------------------------------------------------------------------------------------------------ */

/* What a thread sums over its rows for a pack of columns. */
struct NormSums {
    float dgamma[PACK], dbeta[PACK];

    __device__ void clear() { fill_pack(dgamma, 0), fill_pack(dbeta, 0); }
    __device__ void add_gamma(const float (&more)[PACK]) {
#pragma unroll
        for (int i = 0; i < PACK; i++) dgamma[i] += more[i];
    }
    __device__ void add_beta(const float (&more)[PACK]) {
#pragma unroll
        for (int i = 0; i < PACK; i++) dbeta[i] += more[i];
    }
};

template <NormKind KIND>
__device__ __forceinline__ RowStatistics kept_statistics(const Norm &norm, int64_t row) {
    return {keeps_mean<KIND> ? static_cast<const float *>(norm.mean)[row] : 0,
            keeps_rstd<KIND> ? static_cast<const float *>(norm.rstd)[row] : 1};
}

/* LAYERNORM: sum = Σ h, dot = Σ h⊙x̂. RMSNORM: dot = Σ h⊙x̂. DYT, BHYT, DERF: dot = Σ h⊙r, of which the learned scalar's
 * gradient is slope_unit times; sum = Σ h, DERF's shift's. `Sums` takes what a pack adds to γ's and β's gradients. T as in apply_norm. */
template <NormKind KIND, typename T, typename Sums>
__device__ __forceinline__ void norm_gradient_begin(float (&g)[PACK], const float (&r)[PACK],
                                                    const float (&gamma)[PACK], const Norm &norm,
                                                    RowStatistics row, Sums &sums, float &sum, float &dot) {
    const float slope = slope_of<KIND>(norm, row), shift = shift_of<KIND>(norm);
    float dgamma[PACK], dbeta[PACK];
    sum = dot = 0;
    multiply_pack(g, output_scale_of(norm));
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        const float upstream = g[i];
        g[i] *= gamma[i];
        if constexpr (KIND != NORM_NONE) {
            float hat = (r[i] - row.mean) * row.rstd;
            if constexpr (is_squash<KIND>) {
                const Squash squashed = squash<KIND, T>(slope, shift, r[i]);
                hat = squashed.value, g[i] *= squashed.slope;
            }
            dgamma[i] = upstream * hat;
            dbeta[i] = upstream;
            sum += g[i];
            dot += g[i] * (is_squash<KIND> ? r[i] : hat);
        }
    }
    if constexpr (KIND != NORM_NONE) sums.add_gamma(dgamma);
    if constexpr (has_beta<KIND>) sums.add_beta(dbeta);
}

/* `given`: BHyT's mean square is not of r, so nothing flows through it. */
template <NormKind KIND>
__device__ __forceinline__ void norm_gradient_finish(float (&g)[PACK], const float (&r)[PACK],
                                                     const Norm &norm, RowStatistics row, bool given,
                                                     float mean_sum, float mean_dot) {
    const float slope = slope_of<KIND>(norm, row);
    const float along = -row.rstd * mean_dot, across = -row.rstd * mean_sum;
    const float through = KIND == NORM_BHYT && !given ? slope * row.rstd * row.rstd * mean_dot : 0;
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        if constexpr (KIND == NORM_LAYERNORM)
            g[i] = fmaf(row.rstd, g[i], fmaf((r[i] - row.mean) * row.rstd, along, across));
        if constexpr (KIND == NORM_RMSNORM) g[i] = fmaf(row.rstd, g[i], r[i] * row.rstd * along);
        if constexpr (is_pointwise<KIND>) g[i] *= slope;
        if constexpr (KIND == NORM_BHYT) g[i] = slope * g[i] - through * r[i];
    }
}

#endif
