/*
 * activation.c: what lies between the two products of the MLP? (kernels.h: Activation)
 *
 * GELU's tanh form is written as h·σ(2z), z = √(2/π)·(h + 0.044715·h³), the same function: ½(1 + tanh z) =
 * σ(2z). σ keeps its small values to full precision where 1 + tanh cancels. Forward reads h and writes y,
 * backward reads h and dy and writes dh: one exponential and one division an element, hidden behind memory.
 *
 * The GELU of the definition is h·½·erfc(−h/√2): erfc keeps its small values where ½(1 + erf) cancels.
 *
 * With SDD the row is normed into a buffer that stays in cache, and the plain loops work on that; without, on a few hundred
 * columns at a time.
 */
#include "norm.h"

static const real GELU_TWICE_ROOT = (real)1.5957691216057307117597842397375; /* 2·√(2/π) */
static const real GELU_CUBIC = (real)0.044715;
static const real GELU_SQUARE_CAP = 10000;
static const real ROOT_HALF = (real)0.70710678118654752440084436210485;
static const real NORMAL_DENSITY = (real)0.39894228040143267793994605993438; /* of 0: 1/√(2π) */

/* Rows a thread; all but the first stand for rows of tensors whose type is not `real`. */
enum { BUFFER_NORMED, BUFFER_H, BUFFER_Y, BUFFER_DH, BUFFERS_ALL, BUFFERS = STORED_IS_REAL ? 1 : BUFFERS_ALL };
enum { D_ALPHA, D_BIAS, COLUMNS };

/* The parts of a row of h: SwiGLU's gate and up, or the whole. */
typedef struct Shape {
    int parts;
    int F;
    int64_t part; /* distance of the parts */
    int64_t ldh, ldy;
    int statistics; /* rstd a row: one a part, or one for all */
} Shape;

static Shape shape_of(const Activation *a) {
    Shape s = {
        .parts = a->kind == ACTIVATION_SWIGLU ? 2 : 1, .F = a->F, .part = padded(a->F), .ldy = padded(a->F)};
    s.ldh = s.parts * s.part;
    s.statistics = a->norm == ACTIVATION_NORM_EACH ? s.parts : 1;
    return s;
}

static size_t workspace_bytes(int64_t N, int64_t ldh) {
    return (size_t)(BUFFERS * thread_limit() + COLUMNS * piece_count(N)) * (size_t)ldh * sizeof(real);
}

size_t NAME(activation_scratch)(const Limits *limits) {
    return workspace_bytes(limits->N, padded(limits->F));
}

/* --- Rows -------------------------------------------------------------------------------------------- */

/* σ(x) and 1−σ(x). The smaller one is a quotient, the larger one its difference from 1: both keep their last
 * bits, which the gradient's σ(1−σ) shows. */
static inline void sigmoid_both(real x, real *sigmoid, real *rest) {
    real e = exp_falling(-(real)fabs(x)), small = e / (1 + e), large = 1 - small;
    *sigmoid = x < 0 ? small : large;
    *rest = x < 0 ? large : small;
}

static inline real gelu_twice_z(real h) {
    return GELU_TWICE_ROOT * h * (1 + GELU_CUBIC * h * h);
}

static void gelu_row(real *y, const real *h, int F) {
#pragma omp simd
    for (int f = 0; f < F; f++) {
        real gate, rest;
        sigmoid_both(gelu_twice_z(h[f]), &gate, &rest);
        y[f] = h[f] * gate;
    }
}

/* d(h·σ(2z)) = σ + σ(1−σ)·h·2z′; dh may be h. Far out σ(1−σ) is 0 and must not meet an infinite z′: the cap
 * on h² is beyond where that begins, the order of the product is that of the line. */
static void gelu_row_backward(real *dh, const real *h, const real *dy, int F) {
#pragma omp simd
    for (int f = 0; f < F; f++) {
        real value = h[f], gate, rest, square = value * value;
        sigmoid_both(gelu_twice_z(value), &gate, &rest);
        real slope =
            GELU_TWICE_ROOT * (1 + 3 * GELU_CUBIC * (square < GELU_SQUARE_CAP ? square : GELU_SQUARE_CAP));
        dh[f] = dy[f] * (gate + gate * rest * value * slope);
    }
}

static inline real normal_share(real h) {
    return (real)0.5 * vm_erfc(-ROOT_HALF * h);
}

static void gelu_exact_row(real *y, const real *h, int F) {
#pragma omp simd
    for (int f = 0; f < F; f++) y[f] = h[f] * normal_share(h[f]);
}

/* d(h·Φ(h)) = Φ(h) + h·φ(h); where h² overflows the density is 0, as it should be. */
static void gelu_exact_row_backward(real *dh, const real *h, const real *dy, int F) {
#pragma omp simd
    for (int f = 0; f < F; f++) {
        real value = h[f], density = NORMAL_DENSITY * exp_falling((real)-0.5 * value * value);
        dh[f] = dy[f] * (normal_share(value) + value * density);
    }
}

static void swiglu_row(real *y, const real *gate, const real *up, int F) {
#pragma omp simd
    for (int f = 0; f < F; f++) {
        real s, rest;
        sigmoid_both(gate[f], &s, &rest);
        y[f] = gate[f] * s * up[f];
    }
}

/* dgate and dup may be gate and up. */
static void swiglu_row_backward(real *dgate, real *dup, const real *gate, const real *up, const real *dy,
                                int F) {
#pragma omp simd
    for (int f = 0; f < F; f++) {
        real g = gate[f], u = up[f], s, rest;
        sigmoid_both(g, &s, &rest);
        dup[f] = dy[f] * (g * s);
        dgate[f] = dy[f] * u * (s + s * rest * g);
    }
}

/* Of n columns; `up` is SwiGLU's. */
static void plain_row(ActivationKind kind, real *y, const real *h, const real *up, int n) {
    if (kind == ACTIVATION_SWIGLU)
        swiglu_row(y, h, up, n);
    else if (kind == ACTIVATION_GELU_EXACT)
        gelu_exact_row(y, h, n);
    else
        gelu_row(y, h, n);
}

static void plain_row_backward(ActivationKind kind, real *dh, real *dup, const real *h, const real *up, const real *dy, int n) {
    if (kind == ACTIVATION_SWIGLU)
        swiglu_row_backward(dh, dup, h, up, dy, n);
    else if (kind == ACTIVATION_GELU_EXACT)
        gelu_exact_row_backward(dh, h, dy, n);
    else
        gelu_row_backward(dh, h, dy, n);
}

/* --- SDD --------------------------------------------------------------------------------------------- */

/* rstd of each part; JOINT takes the mean over both. */
static void norm_rstd(const Activation *a, const Shape *s, const real *h, real *rstd) {
    double joint = 0;
    for (int i = 0; i < s->parts; i++) {
        double sum = row_sum_squares(h + i * s->part, s->F);
        joint += sum;
        if (s->statistics > 1) rstd[i] = rstd_of(sum / s->F, a->eps);
    }
    if (s->statistics == 1) rstd[0] = rstd_of(joint / s->parts / s->F, a->eps);
}

static void norm_row(const Activation *a, const Shape *s, const real *h, const real *rstd, real *out) {
    const real *alpha = a->alpha;
    for (int i = 0; i < s->parts; i++)
        rms_apply(h + i * s->part, rstd[i % s->statistics], alpha + i * s->part, out + i * s->part, s->F);
}

/* dh from the gradient at the normed row; dh may be h. */
static void norm_row_backward(const Activation *a, const Shape *s, const real *h, const real *rstd,
                              const real *upstream, real *dh, real *dalpha) {
    double dot[2] = {0, 0};
    for (int i = 0; i < s->parts; i++)
        dot[i % s->statistics] += rms_dot(h + i * s->part, rstd[i % s->statistics],
                                          (const real *)a->alpha + i * s->part, upstream + i * s->part, s->F);
    int64_t width = (int64_t)s->F * (s->parts / s->statistics);
    for (int i = 0; i < s->parts; i++) {
        int64_t at = i * s->part;
        rms_backward(h + at, rstd[i % s->statistics], (const real *)a->alpha + at, upstream + at,
                     (real)(dot[i % s->statistics] / width), dh + at, dalpha + at, s->F);
    }
}

/* --- Without SDD ------------------------------------------------------------------------------------- */

/* Columns that are worked on at a time: what stands for them in another type stays in the first-level cache. The order of what
 * is read and written there keeps a write from lying whole pages behind a read, for which processors wait as for one of the
 * same place: forward took twice as long so. */
enum { BLOCK = 512 };
typedef real Block[BLOCK] __attribute__((aligned(64)));
typedef struct Blocks {
    Block h, y, up, dh, dy, dup;
} Blocks;

static void plain_forward(const Activation *a, const Shape *s, int64_t n) {
    for (int f = 0; f < s->F; f += BLOCK) {
        Blocks own;
        const int count = (int)least(BLOCK, s->F - f);
        const int64_t at = n * s->ldh + f, to = n * s->ldy + f;
        const real *h = row_read(a->h, at, own.h, count);
        const real *up = s->parts > 1 ? row_read(a->h, at + s->part, own.up, count) : NULL;
        real *y = row_room(a->y, to, own.y);
        plain_row(a->kind, y, h, up, count);
        row_write(a->y, to, y, count);
    }
}

/* dbias: where a piece sums it. */
static void plain_backward(const ActivationBackward *b, const Shape *s, int64_t n, real *dbias) {
    const Activation *a = b->forward;
    for (int f = 0; f < s->F; f += BLOCK) {
        Blocks own;
        const int count = (int)least(BLOCK, s->F - f);
        const int64_t at = n * s->ldh + f;
        const real *h = row_read(a->h, at, own.h, count);
        const real *up = s->parts > 1 ? row_read(a->h, at + s->part, own.up, count) : NULL;
        const real *dy = row_read(b->dy, n * s->ldy + f, own.dy, count);
        real *dh[2] = {row_room(b->dh, at, own.dh), s->parts > 1 ? row_room(b->dh, at + s->part, own.dup) : NULL};
        plain_row_backward(a->kind, dh[0], dh[1], h, up, dy, count);
        for (int i = 0; i < s->parts; i++) {
            if (b->dbias) row_add(dbias + i * s->part + f, dh[i], count);
            row_write(b->dh, at + i * s->part, dh[i], count);
        }
    }
}

/* --- Operations -------------------------------------------------------------------------------------- */

/* buffers: those of a thread; buffer i begins at i·ldh. */
static void forward_row(const Activation *a, const Shape *s, int64_t n, real *buffers) {
    if (a->norm == ACTIVATION_NORM_NONE) {
        plain_forward(a, s, n);
        return;
    }
    const real *h = row_read(a->h, n * s->ldh, buffers + BUFFER_H * s->ldh, s->ldh);
    real *rstd = (real *)a->rstd + n * s->statistics, *normed = buffers + BUFFER_NORMED * s->ldh;
    norm_rstd(a, s, h, rstd);
    norm_row(a, s, h, rstd, normed);
    real *y = row_room(a->y, n * s->ldy, buffers + BUFFER_Y * s->ldh);
    plain_row(a->kind, y, normed, normed + s->part, s->F);
    row_write(a->y, n * s->ldy, y, s->F);
}

void NAME(activation_forward)(Queue *queue, const Activation *a) {
    Shape s = shape_of(a);
    real *buffers = NAME(cpu_scratch)(queue, workspace_bytes(a->N, s.ldh), "activation_forward");
#pragma omp parallel if (a->N * s.ldh > SERIAL_ELEMENTS)
    {
        real *own = buffers + BUFFERS * omp_get_thread_num() * s.ldh;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < a->N; n++) forward_row(a, &s, n, own);
    }
}

static void backward_row(const ActivationBackward *b, const Shape *s, int64_t n, real *buffers,
                         real *columns) {
    const Activation *a = b->forward;
    real *dbias = columns + D_BIAS * s->ldh;
    if (a->norm == ACTIVATION_NORM_NONE) {
        plain_backward(b, s, n, dbias);
        return;
    }
    const int64_t at = n * s->ldh;
    const real *h = row_read(a->h, at, buffers + BUFFER_H * s->ldh, s->ldh);
    const real *dy = row_read(b->dy, n * s->ldy, buffers + BUFFER_Y * s->ldh, s->F);
    const real *rstd = (const real *)a->rstd + n * s->statistics;
    real *dh = row_room(b->dh, at, buffers + BUFFER_DH * s->ldh), *normed = buffers + BUFFER_NORMED * s->ldh;
    norm_row(a, s, h, rstd, normed);
    plain_row_backward(a->kind, normed, normed + s->part, normed, normed + s->part, dy, s->F);
    norm_row_backward(a, s, h, rstd, normed, dh, columns + D_ALPHA * s->ldh);
    for (int i = 0; i < s->parts; i++) {
        row_write(b->dh, at + i * s->part, dh + i * s->part, s->F);
        if (b->dbias) row_add(dbias + i * s->part, dh + i * s->part, s->F);
    }
}

void NAME(activation_backward)(Queue *queue, const ActivationBackward *b) {
    const Activation *a = b->forward;
    Shape s = shape_of(a);
    int64_t pieces = piece_count(a->N);
    real *buffers = NAME(cpu_scratch)(queue, workspace_bytes(a->N, s.ldh), "activation_backward");
    real *columns = buffers + BUFFERS * thread_limit() * s.ldh;
#pragma omp parallel for schedule(static) if (a->N * s.ldh > SERIAL_ELEMENTS)
    for (int64_t p = 0; p < pieces; p++) {
        real *sums = columns + p * COLUMNS * s.ldh;
        row_fill(sums, 0, COLUMNS * s.ldh);
        int64_t end = piece_begin(a->N, pieces, p + 1);
        for (int64_t n = piece_begin(a->N, pieces, p); n < end; n++)
            backward_row(b, &s, n, buffers + BUFFERS * omp_get_thread_num() * s.ldh, sums);
    }
    for (int i = 0; i < s.parts; i++) {
        int64_t at = i * s.part;
        if (a->norm != ACTIVATION_NORM_NONE && b->dalpha)
            columns_add((real *)b->dalpha + at, columns + at, pieces, COLUMNS * s.ldh, s.F, 1);
        if (b->dbias)
            columns_add((real *)b->dbias + at, columns + D_BIAS * s.ldh + at, pieces, COLUMNS * s.ldh, s.F,
                        1);
    }
}
