/*
 * stored.h: how do rows of Storage become rows of `real`, and back?
 *
 * A loop works on rows of `real` that lie in the first-level cache. A row is brought there by row_read, computed where row_room
 * says, and brought back by row_write:
 *
 *     const real *x = row_read(args->x, at, buffer_x, C);
 *     real *y = row_room(args->y, at, buffer_y);
 *     … y[c] = f(x[c]) …
 *     row_write(args->y, at, y, C);
 *
 * Where Storage is `real` the rows are the tensors' own and nothing is copied. In bf16 they are the buffers: sixteen bits are
 * widened as they come, and rounded to nearest even as they go. residual_… does the same for the Residual type. A row that is
 * written may be read on as it is, unrounded; row_round makes it what was stored.
 */
#ifndef STORED_H
#define STORED_H

#include "cpu.h"

#include <string.h>

/* --- bf16 as such ------------------------------------------------------------------------------------ */

static inline float bf16_get(Bf16 half) {
    uint32_t bits = (uint32_t)half.bits << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To nearest, ties to even; NaN stays NaN, quiet. (The processor's own instruction would take subnormal numbers for zero.) */
static inline Bf16 bf16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t quiet = bits >> 16 | 0x40, nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return (Bf16){(uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? quiet : nearest)};
}

static inline void bf16_widen(float *restrict to, const Bf16 *restrict from, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] = bf16_get(from[i]);
}

static inline void bf16_narrow(Bf16 *restrict to, const float *restrict from, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) to[i] = bf16_of(from[i]);
}

/* --- Storage ----------------------------------------------------------------------------------------- */

#ifdef CPU_BF16
enum { STORED_IS_REAL = 0 };

static inline real stored_get(stored s) { return bf16_get(s); }
static inline stored stored_of(real value) { return bf16_of(value); }
#else
enum { STORED_IS_REAL = 1 };

static inline real stored_get(stored s) { return s; }
static inline stored stored_of(real value) { return value; }
#endif

/* n elements of a tensor, from element `at` on, as `real`: there, or widened into buffer. */
static inline const real *row_read(const Storage *from, int64_t at, real *buffer, int64_t n) {
#ifdef CPU_BF16
    bf16_widen(buffer, (const stored *)from + at, n);
    return buffer;
#else
    (void)buffer, (void)n;
    return (const real *)from + at;
#endif
}

/* Where a row is computed that row_write then stores at `at`. */
static inline real *row_room(Storage *to, int64_t at, real *buffer) {
#ifdef CPU_BF16
    (void)to, (void)at;
    return buffer;
#else
    (void)buffer;
    return (real *)to + at;
#endif
}

/* Stores a row, which may be anywhere. */
static inline void row_write(Storage *to, int64_t at, const real *row, int64_t n) {
#ifdef CPU_BF16
    bf16_narrow((stored *)to + at, row, n);
#else
    if ((real *)to + at != row) memcpy((real *)to + at, row, (size_t)n * sizeof(real));
#endif
}

/* The row's numbers as Storage holds them. */
static inline void row_round(real *row, int64_t n) {
#ifdef CPU_BF16
#pragma omp simd
    for (int64_t i = 0; i < n; i++) row[i] = stored_get(stored_of(row[i]));
#else
    (void)row, (void)n;
#endif
}

/* The same for the residual stream, whose type is Accum where `accum` is set. */
static inline const real *residual_read(const Residual *from, int64_t at, bool accum, real *buffer, int64_t n) {
    return accum || STORED_IS_REAL ? (const real *)from + at : row_read(from, at, buffer, n);
}
static inline real *residual_room(Residual *to, int64_t at, bool accum, real *buffer) {
    return accum || STORED_IS_REAL ? (real *)to + at : row_room(to, at, buffer);
}
static inline void residual_write(Residual *to, int64_t at, bool accum, const real *row, int64_t n) {
    if (!accum && !STORED_IS_REAL) row_write(to, at, row, n);
    else if ((real *)to + at != row) memcpy((real *)to + at, row, (size_t)n * sizeof(real));
}

#endif
