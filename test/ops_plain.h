/*
 * ops_plain.h: the number models of the plain versions.
 *
 * Each ops_plain*.c is the plainest loop for what kernels.h says, in natural order, and knows nothing of the
 * kernels. It is compiled four times; arithmetic is in `real`, and a number is rounded only where the
 * contract stores it:
 *
 *                storage   accum   real           serves as
 *   PLAIN_F32    fp32      fp32    float          error scale of fp32 implementations
 *   PLAIN_BF16   bf16      fp32    float          error scale of bf16 implementations
 *   PLAIN_F64    fp64      fp64    double         error scale of fp64 implementations
 *   PLAIN_LONG   fp64      fp64    long double    truth for fp64 implementations
 *
 * Compile with -ffp-contract=off: the error scale shall not depend on the compiler's taste.
 */
#ifndef OPS_PLAIN_H
#define OPS_PLAIN_H

#include "ops_list.h"

#include <stdlib.h>
#include <string.h>
#include <tgmath.h>

#if defined PLAIN_F32
#define PLAIN(symbol) plain_f32_##symbol
#define PLAIN_STORAGE DTYPE_F32
#define PLAIN_ACCUM   DTYPE_F32
typedef float real;
typedef double wide; /* what StepState is computed in */
#elif defined PLAIN_BF16
#define PLAIN(symbol) plain_bf16_##symbol
#define PLAIN_STORAGE DTYPE_BF16
#define PLAIN_ACCUM   DTYPE_F32
typedef float real;
typedef double wide;
#elif defined PLAIN_F64
#define PLAIN(symbol) plain_f64_##symbol
#define PLAIN_STORAGE DTYPE_F64
#define PLAIN_ACCUM   DTYPE_F64
typedef double real;
typedef double wide;
#elif defined PLAIN_LONG
#define PLAIN(symbol) plain_long_##symbol
#define PLAIN_STORAGE DTYPE_F64
#define PLAIN_ACCUM   DTYPE_F64
typedef long double real;
typedef long double wide;
#else
#error "compile with one of -DPLAIN_F32, -DPLAIN_BF16, -DPLAIN_F64, -DPLAIN_LONG"
#endif

static inline real plain_get(DType type, const void *p, int64_t i) {
    switch (type) {
    case DTYPE_F64:
        return (real)((const double *)p)[i];
    case DTYPE_BF16:
        return bf16_to_float(((const uint16_t *)p)[i]);
    default:
        return ((const float *)p)[i];
    }
}

static inline void plain_put(DType type, void *p, int64_t i, real value) {
    switch (type) {
    case DTYPE_F64:
        ((double *)p)[i] = (double)value;
        break;
    case DTYPE_BF16:
        ((uint16_t *)p)[i] = float_to_bf16((float)value);
        break;
    default:
        ((float *)p)[i] = (float)value;
        break;
    }
}

/* Element i of a Storage, Accum or Residual array. */
static inline real get_s(const Storage *p, int64_t i) {
    return plain_get(PLAIN_STORAGE, p, i);
}
static inline real get_a(const Accum *p, int64_t i) {
    return plain_get(PLAIN_ACCUM, p, i);
}
static inline real get_r(bool accum, const Residual *p, int64_t i) {
    return plain_get(accum ? PLAIN_ACCUM : PLAIN_STORAGE, p, i);
}
static inline void put_s(Storage *p, int64_t i, real value) {
    plain_put(PLAIN_STORAGE, p, i, value);
}
static inline void put_a(Accum *p, int64_t i, real value) {
    plain_put(PLAIN_ACCUM, p, i, value);
}
static inline void put_r(bool accum, Residual *p, int64_t i, real value) {
    plain_put(accum ? PLAIN_ACCUM : PLAIN_STORAGE, p, i, value);
}
/* Element i of masters, whole or in halves. */
static inline real get_master(const Accum *whole, const Storage *upper, const uint16_t *lower, int64_t i) {
    return lower ? joined_halves(((const uint16_t *)upper)[i], lower[i]) : get_a(whole, i);
}
/* Whether it, and its upper half, is a finite number then. */
static inline bool put_master(Accum *whole, Storage *upper, uint16_t *lower, int64_t i, real value) {
    if (!lower) {
        put_a(whole, i, value);
        return isfinite(get_a(whole, i));
    }
    ((uint16_t *)upper)[i] = upper_half((float)value);
    lower[i] = lower_half((float)value);
    return isfinite(bf16_to_float(((const uint16_t *)upper)[i]));
}
static inline void add_a(Accum *p, int64_t i, real value) {
    put_a(p, i, get_a(p, i) + value);
}

/* One scalar operand, 1 where it is NULL. */
static inline real scalar_or_one(const Accum *p) {
    return p ? get_a(p, 0) : (real)1;
}

/* n zeroed numbers for a loop's own use. */
static inline real *plain_array(int64_t n) {
    real *p = calloc((size_t)(n > 0 ? n : 1), sizeof(real));
    if (!p) abort();
    return p;
}

/* rms(z): out = z/√(mean(z²)+eps); returns 1/√(…). And its backward with weight already in g: dz. */
static inline real rms_row(int64_t n, const real *z, double eps, real *out) {
    real sum = 0;
    for (int64_t i = 0; i < n; i++) sum += z[i] * z[i];
    real rstd = 1 / sqrt(sum / (real)n + (real)eps);
    for (int64_t i = 0; i < n; i++) out[i] = z[i] * rstd;
    return rstd;
}

static inline void rms_row_backward(int64_t n, const real *z, real rstd, const real *g, real *dz) {
    real dot = 0;
    for (int64_t i = 0; i < n; i++) dot += g[i] * z[i] * rstd;
    for (int64_t i = 0; i < n; i++) dz[i] = rstd * (g[i] - z[i] * rstd * dot / (real)n);
}

#define PLAIN_DECLARE(name, Arguments) void PLAIN(name)(Queue *, const Arguments *);
OPERATIONS(PLAIN_DECLARE)
#undef PLAIN_DECLARE

#endif
