/*
 * norm.h: what does one row of a norm compute, forward and backward? (MATH.md §1, kernels.h: Norm)
 *
 * To add a norm: a case in norm_statistics where it needs a statistic, one in norm_apply, one in
 * norm_backward. Each case is one or two plain loops over a row that lies in the first-level cache, so
 * further passes over it are nearly free; memory is passed over once. Sums of a row are double: the loops
 * wait for the latency of an addition, not for its width, so they cost the same.
 */
#ifndef NORM_H
#define NORM_H

#include "rows.h"
#include "stored.h"
#include "vmath.h"

/* A Norm made ready for its rows: nothing is NULL that a loop reads, output_scale is inside γ and β. */
typedef struct RowNorm {
    NormKind kind;
    int C;
    double eps;
    real output_scale;
    const real *gamma, *beta; /* [C] */
    double slope;             /* DYT, DERF: α; BHYT: λ/κ */
    double slope_unit;        /* its derivative by the parameter: 1; 1/κ */
    real shift;               /* DERF: s */
    real *mean, *rstd;        /* [N] kept, or NULL */
    const real *mean_square;  /* [N] given v, or NULL */
    real vhat[2];             /* with mean_square: v̂ = vhat[0]·v + vhat[1] */
} RowNorm;

typedef struct RowStatistics {
    real mean, rstd;
} RowStatistics;

/* Where a piece of rows sums the gradients of a norm's parameters, output_scale left out. */
typedef struct RowNormGradient {
    real *dgamma, *dbeta; /* [C] */
    double dscalar, dshift;
} RowNormGradient;

/* `vectors` has room for two rows of C. */
static inline RowNorm norm_prepare(const Norm *norm, int C, real *vectors, int64_t ld) {
    RowNorm n = {.kind = norm->kind, .C = C, .eps = norm->eps, .mean = norm->mean, .rstd = norm->rstd};
    n.output_scale = norm->output_scale == 0 ? 1 : (real)norm->output_scale;
    if (n.kind == NORM_NONE) return n;

    const real *gamma = norm->gamma, *beta = norm->beta;
    real *scaled_gamma = vectors, *scaled_beta = vectors + ld;
    n.gamma = gamma;
    n.beta = beta;
    if (!gamma || n.output_scale != 1) {
        for (int c = 0; c < C; c++) scaled_gamma[c] = n.output_scale * (gamma ? gamma[c] : 1);
        n.gamma = scaled_gamma;
    }
    if (!beta || n.output_scale != 1) {
        for (int c = 0; c < C; c++) scaled_beta[c] = beta ? n.output_scale * beta[c] : 0;
        n.beta = scaled_beta;
    }
    if (n.kind == NORM_DYT || n.kind == NORM_BHYT) {
        n.slope_unit = n.kind == NORM_BHYT ? 1 / norm->kappa : 1;
        n.slope = (double)*(const real *)norm->scalar * n.slope_unit;
    } else if (n.kind == NORM_DERF) {
        n.slope = (double)((const real *)norm->scalar)[0];
        n.shift = ((const real *)norm->scalar)[1];
    }
    return n;
}

/* --- Rows of RMSNorm: also SDD's norms inside qkv and activation ------------------------------------- */

static inline double row_sum_squares(const real *r, int64_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) sum += (double)r[c] * (double)r[c];
    return sum;
}

static inline real rstd_of(double mean_square, double eps) {
    return (real)(1 / sqrt(mean_square + eps));
}

/* y = γ ⊙ r·rstd */
static inline void rms_apply(const real *r, real rstd, const real *gamma, real *y, int64_t n) {
#pragma omp simd
    for (int64_t c = 0; c < n; c++) y[c] = gamma[c] * (r[c] * rstd);
}

/* Σ g⊙γ⊙x̂ with x̂ = r·rstd; over the true width it is C times what rms_backward wants. */
static inline double rms_dot(const real *r, real rstd, const real *gamma, const real *g, int64_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < n; c++) sum += (double)(gamma[c] * g[c]) * (double)(r[c] * rstd);
    return sum;
}

/* dr = rstd·(γ⊙g − x̂·mean_dot), dγ += g⊙x̂; dr may be g. */
static inline void rms_backward(const real *r, real rstd, const real *gamma, const real *g, real mean_dot,
                                real *dr, real *dgamma, int64_t n) {
#pragma omp simd
    for (int64_t c = 0; c < n; c++) {
        real normal = r[c] * rstd, upstream = g[c];
        dgamma[c] += upstream * normal;
        dr[c] = rstd * (gamma[c] * upstream - normal * mean_dot);
    }
}

/* --- Forward ----------------------------------------------------------------------------------------- */

/* Corrected two-pass: the second pass also sums the deviations, and takes what the first mean missed out of
 * both (Chan, Golub, LeVeque 1983, eq. 1.7). A constant row comes out as exactly its constant and variance 0.
 */
static inline RowStatistics layernorm_statistics(const real *r, int C, double eps) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int c = 0; c < C; c++) sum += (double)r[c];
    double mean = sum / C;

    double deviation = 0, squares = 0;
#pragma omp simd reduction(+ : deviation, squares)
    for (int c = 0; c < C; c++) {
        double d = (double)r[c] - mean;
        deviation += d;
        squares += d * d;
    }
    double correction = deviation / C;
    double variance = squares / C - correction * correction;
    return (RowStatistics){.mean = (real)(mean + correction),
                           .rstd = rstd_of(variance > 0 ? variance : 0, eps)};
}

/* Takes the row's statistics; *mean_square is set where the norm has it in hand: true is returned then. */
static inline bool norm_statistics(const RowNorm *n, int64_t row, const real *r, RowStatistics *out,
                                   double *mean_square) {
    *out = (RowStatistics){0, 1};
    switch (n->kind) {
    case NORM_LAYERNORM:
        *out = layernorm_statistics(r, n->C, n->eps);
        return false;
    case NORM_BHYT:
        if (n->mean_square) {
            out->rstd = rstd_of((double)n->vhat[0] * n->mean_square[row] + n->vhat[1], n->eps);
            return false;
        }
        /* fall through */
    case NORM_RMSNORM:
        *mean_square = row_sum_squares(r, n->C) / n->C;
        out->rstd = rstd_of(*mean_square, n->eps);
        return true;
    default:
        return false;
    }
}

static inline void tanh_apply(const real *r, real a, const real *gamma, const real *beta, real *y, int C) {
#pragma omp simd
    for (int c = 0; c < C; c++) y[c] = gamma[c] * vm_tanh(a * r[c]) + beta[c];
}

static inline void erf_apply(const real *r, real a, real s, const real *gamma, const real *beta, real *y, int C) {
#pragma omp simd
    for (int c = 0; c < C; c++) y[c] = gamma[c] * vm_erf(a * r[c] + s) + beta[c];
}

/* y = norm(r); y may be r. */
static inline void norm_apply(const RowNorm *n, RowStatistics statistics, const real *r, real *y) {
    const real *gamma = n->gamma, *beta = n->beta;
    real mean = statistics.mean, rstd = statistics.rstd;
    int C = n->C;
    switch (n->kind) {
    case NORM_LAYERNORM:
#pragma omp simd
        for (int c = 0; c < C; c++) y[c] = gamma[c] * ((r[c] - mean) * rstd) + beta[c];
        break;
    case NORM_RMSNORM:
        rms_apply(r, rstd, gamma, y, C);
        break;
    case NORM_DYT:
        tanh_apply(r, (real)n->slope, gamma, beta, y, C);
        break;
    case NORM_BHYT:
        tanh_apply(r, (real)(n->slope * rstd), gamma, beta, y, C);
        break;
    case NORM_DERF:
        erf_apply(r, (real)n->slope, n->shift, gamma, beta, y, C);
        break;
    default:
#pragma omp simd
        for (int c = 0; c < C; c++) y[c] = n->output_scale * r[c];
    }
}

/* Statistics, kept for backward where there is room for them, and y. Returns mean(r²) if `want` asks for it.
 */
static inline real norm_forward(const RowNorm *n, int64_t row, const real *r, real *y, bool want) {
    RowStatistics statistics;
    double mean_square = 0;
    bool known = norm_statistics(n, row, r, &statistics, &mean_square);
    if (n->mean) n->mean[row] = statistics.mean;
    if (n->rstd) n->rstd[row] = statistics.rstd;
    if (want && !known) mean_square = row_sum_squares(r, n->C) / n->C;
    if (y) norm_apply(n, statistics, r, y);
    return (real)mean_square;
}

static inline bool keeps_no_statistic(NormKind kind) {
    return kind == NORM_NONE || kind == NORM_DYT || kind == NORM_DERF;
}

/* The statistics that forward kept. */
static inline RowStatistics norm_kept(const RowNorm *n, int64_t row) {
    return (RowStatistics){.mean = n->kind == NORM_LAYERNORM ? n->mean[row] : 0,
                           .rstd = keeps_no_statistic(n->kind) ? 1 : n->rstd[row]};
}

/* --- Backward ---------------------------------------------------------------------------------------- */

static inline void layernorm_backward(const RowNorm *n, RowStatistics statistics, const real *r,
                                      const real *g, real *dr, RowNormGradient *out) {
    const real *gamma = n->gamma;
    real mean = statistics.mean, rstd = statistics.rstd;
    double sum = 0, dot = 0;
    int C = n->C;
#pragma omp simd reduction(+ : sum, dot)
    for (int c = 0; c < C; c++) {
        real scaled = gamma[c] * g[c];
        sum += (double)scaled;
        dot += (double)scaled * (double)((r[c] - mean) * rstd);
    }
    real mean_scaled = (real)(sum / C), mean_dot = (real)(dot / C);

    real *dgamma = out->dgamma, *dbeta = out->dbeta;
#pragma omp simd
    for (int c = 0; c < C; c++) {
        real normal = (r[c] - mean) * rstd, upstream = g[c];
        dgamma[c] += upstream * normal;
        dbeta[c] += upstream;
        dr[c] = rstd * (gamma[c] * upstream - mean_scaled - normal * mean_dot);
    }
}

/* y = γ⊙tanh(a·r) + β: dr = a·h with h = g⊙γ⊙(1−t²), and Σ h⊙r is returned. */
static inline double tanh_backward(const RowNorm *n, real a, const real *r, const real *g, real *dr,
                                   RowNormGradient *out) {
    const real *gamma = n->gamma;
    real *dgamma = out->dgamma, *dbeta = out->dbeta;
    double dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int c = 0; c < n->C; c++) {
        real upstream = g[c], t = vm_tanh(a * r[c]);
        real h = gamma[c] * upstream * ((1 - t) * (1 + t));
        dot += (double)h * (double)r[c];
        dgamma[c] += upstream * t;
        dbeta[c] += upstream;
        dr[c] = a * h;
    }
    return dot;
}

/* y = γ⊙erf(a·r + s) + β: dr = a·h with h = g⊙γ⊙(2/√π)·exp(−z²), z = a·r + s; Σ h⊙r and Σ h are added to *out. The cap
 * on z² keeps exp on its vector path; the slope there is nothing beside any other. */
static inline void erf_backward(const RowNorm *n, real a, const real *r, const real *g, real *dr, RowNormGradient *out) {
    const real *gamma = n->gamma, unit = (real)1.1283791670955125739; /* 2/√π */
    real *dgamma = out->dgamma, *dbeta = out->dbeta, shift = n->shift, cap = sizeof(real) == 4 ? 87 : 708;
    double dot = 0, sum = 0;
#pragma omp simd reduction(+ : dot, sum)
    for (int c = 0; c < n->C; c++) {
        real upstream = g[c], z = a * r[c] + shift, square = z * z;
        real h = gamma[c] * upstream * (unit * vm_exp(-(square > cap ? cap : square)));
        dot += (double)h * (double)r[c];
        sum += (double)h;
        dgamma[c] += upstream * vm_erf(z);
        dbeta[c] += upstream;
        dr[c] = a * h;
    }
    out->dscalar += dot;
    out->dshift += sum;
}

/* dr = norm'(g), the parameters' gradients added to *out; dr may be g. Returns the gradient at the mean
 * square that was given (BHYT with v̂), else 0. */
static inline real norm_backward(const RowNorm *n, int64_t row, const real *r, const real *g, real *dr,
                                 RowNormGradient *out) {
    RowStatistics statistics = norm_kept(n, row);
    real rstd = statistics.rstd;
    int C = n->C;
    switch (n->kind) {
    case NORM_LAYERNORM:
        layernorm_backward(n, statistics, r, g, dr, out);
        return 0;
    case NORM_RMSNORM: {
        real mean_dot = (real)(rms_dot(r, rstd, n->gamma, g, C) / C);
        rms_backward(r, rstd, n->gamma, g, mean_dot, dr, out->dgamma, C);
        return 0;
    }
    case NORM_DYT:
        out->dscalar += tanh_backward(n, (real)n->slope, r, g, dr, out);
        return 0;
    case NORM_DERF:
        erf_backward(n, (real)n->slope, r, g, dr, out);
        return 0;
    case NORM_BHYT: {
        double dot = tanh_backward(n, (real)(n->slope * rstd), r, g, dr, out);
        out->dscalar += dot * rstd * n->slope_unit;
        double cubed = (double)rstd * rstd * rstd * n->slope * dot; /* −2·dv̂ */
        if (n->mean_square) return (real)(-0.5 * cubed * n->vhat[0]);
        real k = (real)(cubed / C);
#pragma omp simd
        for (int c = 0; c < C; c++) dr[c] -= k * r[c];
        return 0;
    }
    default:
#pragma omp simd
        for (int c = 0; c < C; c++) dr[c] = n->output_scale * g[c];
        return 0;
    }
}

#endif
