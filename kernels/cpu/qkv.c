/*
 * qkv.c: what happens to Q, K and V between their product and attention? (kernels.h: Qkv)
 *
 * QK-norm, then RoPE, row by row; a row is read from memory once and written once. Backward turns back, then
 * goes through the norm, then sums the bias' gradient.
 */
#include "norm.h"

enum { D_ALPHA, D_BIAS, COLUMNS };
enum { BUFFER_IN, BUFFER_OUT, BUFFERS_ALL, BUFFERS = STORED_IS_REAL ? 0 : BUFFERS_ALL }; /* rows a thread */
enum { MAX_HALF = 128 }; /* half of the largest head */

/* A stretch of the row with one statistic. */
typedef struct Segment {
    int64_t begin, width;
    const real *alpha; /* NULL: copied as it is */
    int64_t sums;      /* where dα's sums begin in a piece's row */
} Segment;

static int64_t width_of(const Qkv *q) {
    return (int64_t)(q->H + 2 * q->Hkv) * q->D;
}

static int segment_count(const Qkv *q) {
    return q->norm == QKV_NORM_HEAD ? q->H + 2 * q->Hkv : q->norm == QKV_NORM_PROJECTION ? 3 : 0;
}

/* Where part 0, 1, 2 (Q, K, V) begins; part 3: the end. */
static int64_t part_begin(const Qkv *q, int part) {
    return (part == 0 ? 0 : (int64_t)q->H + (int64_t)(part - 1) * q->Hkv) * q->D;
}

static Segment segment_of(const Qkv *q, int i) {
    const real *alpha[3] = {q->alpha_q, q->alpha_k, q->alpha_v};
    if (q->norm == QKV_NORM_PROJECTION) {
        int64_t begin = part_begin(q, i);
        return (Segment){begin, part_begin(q, i + 1) - begin, alpha[i], begin};
    }
    int part = i < q->H ? 0 : i < q->H + q->Hkv ? 1 : 2;
    return (Segment){(int64_t)i * q->D, q->D, alpha[part], part_begin(q, part)};
}

static size_t workspace_bytes(int64_t N, int64_t width) {
    return (size_t)(COLUMNS * piece_count(N) + BUFFERS * thread_limit()) * (size_t)padded(width) * sizeof(real);
}

size_t NAME(qkv_scratch)(const Limits *limits) {
    return workspace_bytes(limits->N, (int64_t)(limits->H + 2 * limits->Hkv) * limits->D);
}

/* --- RoPE -------------------------------------------------------------------------------------------- */

/* Turns the heads of Q and K in place by the angles of token n's position; direction −1 turns back. */
static void rotate_row(const Qkv *q, int64_t n, real *row, real direction) {
    int half = q->D / 2;
    int64_t position = q->position ? q->position[n] : n % q->T;
    const real *table = (const real *)q->rope + position * q->D;
    real cosine[MAX_HALF], sine[MAX_HALF];
    for (int i = 0; i < half; i++) {
        cosine[i] = table[2 * i];
        sine[i] = direction * table[2 * i + 1];
    }
    for (int head = 0; head < q->H + q->Hkv; head++) {
        real *first = row + (int64_t)head * q->D, *second = first + half;
#pragma omp simd
        for (int i = 0; i < half; i++) {
            real a = first[i], b = second[i];
            first[i] = a * cosine[i] - b * sine[i];
            second[i] = b * cosine[i] + a * sine[i];
        }
    }
}

static void check_shape(const Qkv *q) {
    check(!q->rope || (q->D % 2 == 0 && q->D <= 2 * MAX_HALF),
          "qkv: RoPE turns pairs: a head size of %d is not an even number up to %d", q->D, 2 * MAX_HALF);
}

/* --- Operations -------------------------------------------------------------------------------------- */

/* buffers: those of a thread; buffer i begins at i·ld. */
static void forward_row(const Qkv *q, int64_t n, int64_t width, int64_t ld, real *buffers) {
    const real *raw = row_read(q->raw, n * ld, buffers + BUFFER_IN * ld, width);
    real *out = row_room(q->qkv, n * ld, buffers + BUFFER_OUT * ld);
    if (raw != out) memcpy(out, raw, (size_t)width * sizeof(real));
    int segments = segment_count(q);
    for (int i = 0; i < segments; i++) {
        Segment s = segment_of(q, i);
        real rstd = 1; /* of what is copied */
        if (s.alpha) {
            rstd = rstd_of(row_sum_squares(raw + s.begin, s.width) / s.width, q->eps);
            rms_apply(raw + s.begin, rstd, s.alpha, out + s.begin, s.width);
        }
        ((real *)q->rstd)[n * segments + i] = rstd;
    }
    if (q->rope) rotate_row(q, n, out, 1);
    row_write(q->qkv, n * ld, out, width);
}

void NAME(qkv_forward)(Queue *queue, const Qkv *q) {
    check_shape(q);
    int64_t N = (int64_t)q->B * q->T, width = width_of(q), ld = padded(width);
    real *buffers = NAME(cpu_scratch)(queue, workspace_bytes(N, width), "qkv_forward");
#pragma omp parallel for schedule(static) if (N * width > SERIAL_ELEMENTS)
    for (int64_t n = 0; n < N; n++)
        forward_row(q, n, width, ld, buffers + BUFFERS * omp_get_thread_num() * ld);
}

static void backward_row(const QkvBackward *b, int64_t n, int64_t width, int64_t ld, real *sums, real *buffers) {
    const Qkv *q = b->forward;
    const real *upstream = row_read(b->dqkv, n * ld, buffers + BUFFER_IN * ld, width);
    real *draw = row_room(b->draw, n * ld, buffers + BUFFER_OUT * ld);
    if (draw != upstream) memcpy(draw, upstream, (size_t)width * sizeof(real));
    if (q->rope) rotate_row(q, n, draw, -1);
    int segments = segment_count(q);
    for (int i = 0; i < segments; i++) {
        Segment s = segment_of(q, i);
        if (!s.alpha) continue;
        const real *raw = row_read(q->raw, n * ld + s.begin, buffers + BUFFER_IN * ld, s.width);
        real rstd = ((const real *)q->rstd)[n * segments + i], *d = draw + s.begin;
        real mean_dot = (real)(rms_dot(raw, rstd, s.alpha, d, s.width) / s.width);
        rms_backward(raw, rstd, s.alpha, d, mean_dot, d, sums + D_ALPHA * ld + s.sums, s.width);
    }
    if (b->dbias) row_add(sums + D_BIAS * ld, draw, width);
    row_write(b->draw, n * ld, draw, width);
}

void NAME(qkv_backward)(Queue *queue, const QkvBackward *b) {
    const Qkv *q = b->forward;
    check_shape(q);
    int64_t N = (int64_t)q->B * q->T, width = width_of(q), ld = padded(width), pieces = piece_count(N);
    real *columns = NAME(cpu_scratch)(queue, workspace_bytes(N, width), "qkv_backward");
    real *buffers = columns + COLUMNS * pieces * ld;
#pragma omp parallel for schedule(static) if (N * width > SERIAL_ELEMENTS)
    for (int64_t p = 0; p < pieces; p++) {
        real *sums = columns + p * COLUMNS * ld;
        row_fill(sums, 0, COLUMNS * ld);
        int64_t end = piece_begin(N, pieces, p + 1);
        for (int64_t n = piece_begin(N, pieces, p); n < end; n++)
            backward_row(b, n, width, ld, sums, buffers + BUFFERS * omp_get_thread_num() * ld);
    }

    Accum *dalpha[3] = {b->dalpha_q, b->dalpha_k, b->dalpha_v};
    for (int part = 0; part < 3 && q->norm != QKV_NORM_NONE; part++) {
        int64_t begin = part_begin(q, part);
        int64_t alphas = q->norm == QKV_NORM_HEAD ? q->D : part_begin(q, part + 1) - begin;
        if (dalpha[part]) columns_add(dalpha[part], columns + begin, pieces, COLUMNS * ld, alphas, 1);
    }
    if (b->dbias) columns_add(b->dbias, columns + D_BIAS * ld, pieces, COLUMNS * ld, width, 1);
}
