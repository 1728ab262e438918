/*
 * stats.c: what does telemetry want to know of a tensor, and how is one type converted into another?
 * (kernels.h)
 *
 * Both are off the hot path: values go through small tiles of doubles, so that one loop serves every type.
 * Sums are double, a row at a time, rows in pieces added in order.
 */
#include "slots.h"

#include <math.h>

enum { TILE = 512 };
static const double TANH_SATURATION = 2.6466524123622461977; /* atanh(0.99) */
static const double ERF_SATURATION = 1.821386367718448;        /* of which erf is 0.99 */

/* --- Types ------------------------------------------------------------------------------------------- */

/* To float by rounding to odd, then to bf16 by rounding to nearest even: the result is that of one rounding.
 */
static uint16_t double_to_bf16(double value) {
    float nearest = (float)value;
    uint32_t bits;
    memcpy(&bits, &nearest, sizeof bits);
    if (isnan(value)) return (uint16_t)((bits >> 16) | 0x40); /* quiet, whatever the payload */
    if (!isinf(value) && (double)nearest != value) {
        if (fabs((double)nearest) > fabs(value)) bits--; /* towards zero */
        bits |= 1;
    }
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static void tile_load(double *tile, const void *src, DType type, int64_t at, int64_t n) {
    switch (type) {
    case DTYPE_F32:
        for (int64_t i = 0; i < n; i++) tile[i] = (double)((const float *)src)[at + i];
        break;
    case DTYPE_F64:
        for (int64_t i = 0; i < n; i++) tile[i] = ((const double *)src)[at + i];
        break;
    default:
        for (int64_t i = 0; i < n; i++) tile[i] = (double)bf16_get(((const Bf16 *)src)[at + i]);
    }
}

static void tile_store(void *dst, DType type, int64_t at, const double *tile, int64_t n) {
    switch (type) {
    case DTYPE_F32:
        for (int64_t i = 0; i < n; i++) ((float *)dst)[at + i] = (float)tile[i];
        break;
    case DTYPE_F64:
        for (int64_t i = 0; i < n; i++) ((double *)dst)[at + i] = tile[i];
        break;
    default:
        for (int64_t i = 0; i < n; i++) ((uint16_t *)dst)[at + i] = double_to_bf16(tile[i]);
    }
}

static void check_type(DType type, const char *operation) {
    check(type < DTYPE_COUNT, "%s: there is no type %d", operation, (int)type);
}

/* Between fp32 and bf16 without a tile, as gradients travel (--reduce-dtype): six bytes an element, and little beside. */
static bool cast_directly(const Cast *args, int64_t at, int64_t n) {
    if (args->from == DTYPE_F32 && args->to == DTYPE_BF16)
        bf16_narrow((Bf16 *)args->dst + at, (const float *)args->src + at, n);
    else if (args->from == DTYPE_BF16 && args->to == DTYPE_F32)
        bf16_widen((float *)args->dst + at, (const Bf16 *)args->src + at, n);
    else return false;
    return true;
}

void NAME(cast)(Queue *queue, const Cast *args) {
    (void)queue;
    check_type(args->from, "cast");
    check_type(args->to, "cast");
    if (args->from == args->to) {
        if (args->n > 0) memmove(args->dst, args->src, (size_t)args->n * dtype_size(args->to));
        return;
    }
#pragma omp parallel for schedule(static) if (args->n > SERIAL_ELEMENTS)
    for (int64_t at = 0; at < args->n; at += TILE) {
        double tile[TILE];
        int64_t n = least(TILE, args->n - at);
        if (cast_directly(args, at, n)) continue;
        tile_load(tile, args->src, args->from, at, n);
        tile_store(args->dst, args->to, at, tile, n);
    }
}

/* --- Masters in halves ------------------------------------------------------------------------------- */

static void halves_piece(const Halves *h, int64_t first, int64_t n) {
#ifdef CPU_BF16
    uint16_t unwanted[MASTERS], *lower = h->lower ? h->lower + first : unwanted;
    if (h->join) halves_join((real *)h->master + first, (const Bf16 *)h->storage + first, lower, n);
    else halves_split((Bf16 *)h->storage + first, lower, (const real *)h->master + first, n);
#else
    const size_t bytes = (size_t)n * sizeof(real);
    if (h->join) memcpy((real *)h->master + first, (const real *)h->storage + first, bytes);
    else memcpy((real *)h->storage + first, (const real *)h->master + first, bytes);
#endif
}

void NAME(halves)(Queue *queue, const Halves *h) {
    (void)queue;
#pragma omp parallel for schedule(static) if (h->n > SERIAL_ELEMENTS)
    for (int64_t first = 0; first < h->n; first += MASTERS) halves_piece(h, first, least(MASTERS, h->n - first));
}

/* --- Statistics -------------------------------------------------------------------------------------- */

/* A squash of gain·value + shift is saturated where that is beyond the limit: no tanh is taken. */
typedef struct Squash {
    double gain, shift, limit;
} Squash;

static void stats_tile(double *out, const double *a, const double *b, double s, Squash squash, int64_t n) {
    double squares = 0, max = out[STAT_MAX_ABS], dot = 0, other = 0, saturated = 0;
#pragma omp simd reduction(+ : squares, dot, other, saturated)
    for (int64_t i = 0; i < n; i++) {
        double value = s * a[i];
        squares += value * value;
        dot += value * b[i];
        other += b[i] * b[i];
        saturated += fabs(squash.gain * value + squash.shift) > squash.limit ? 1 : 0;
    }
    for (int64_t i = 0; i < n; i++) max = fabs(s * a[i]) > max ? fabs(s * a[i]) : max;
    out[STAT_SUM_SQUARES] += squares;
    out[STAT_MAX_ABS] = max;
    out[STAT_DOT] += dot;
    out[STAT_OTHER_SUM_SQUARES] += other;
    out[STAT_SATURATED] += saturated;
}

static void stats_row(const TensorStats *args, int64_t n, double *out) {
    double s = args->s ? (double)*(const real *)args->s : 1;
    double gain = args->gain ? (double)*(const real *)args->gain * args->gain_factor : 0;
    if (args->row_gain) gain *= (double)((const real *)args->row_gain)[n];
    Squash squash = {gain, args->shift ? (double)*(const real *)args->shift : 0,
                     args->shift ? ERF_SATURATION : TANH_SATURATION};
    for (int c = 0; c < args->C; c += TILE) {
        double a[TILE], b[TILE] = {0};
        int64_t count = least(TILE, args->C - c), at = n * padded(args->C) + c;
        tile_load(a, args->a, args->type, at, count);
        if (args->b) tile_load(b, args->b, args->type, at, count);
        stats_tile(out, a, b, s, squash, count);
    }
}

void NAME(tensor_stats)(Queue *queue, const TensorStats *args) {
    check_type(args->type, "tensor_stats");
    int64_t pieces = piece_count(args->N);
    double *partial = NAME(cpu_scratch)(queue, (size_t)pieces * STAT_COUNT * sizeof(double), "tensor_stats");
#pragma omp parallel for schedule(static) if (args->N * args->C > SERIAL_ELEMENTS)
    for (int64_t p = 0; p < pieces; p++) {
        double out[STAT_COUNT] = {0};
        int64_t end = piece_begin(args->N, pieces, p + 1);
        for (int64_t n = piece_begin(args->N, pieces, p); n < end; n++) stats_row(args, n, out);
        memcpy(partial + p * STAT_COUNT, out, sizeof out);
    }
    for (int i = 0; i < STAT_COUNT; i++) args->out[i] = 0;
    for (int64_t p = 0; p < pieces; p++)
        for (int i = 0; i < STAT_COUNT; i++) {
            double value = partial[p * STAT_COUNT + i];
            if (i != STAT_MAX_ABS)
                args->out[i] += value;
            else if (value > args->out[i])
                args->out[i] = value;
        }
}
