/*
 * junction.c: what happens between two sublayers? (MATH.md §5, kernels.h: Junction)
 *
 * One pass over memory in each direction: a row comes into the first-level cache once, every step works on it
 * there, and it is written once (stored.h). Forward of the plain case reads x and f and writes u and y; backward reads
 * dy, dresidual_in and u and writes dresidual_out. The norms themselves are in norm.h.
 */
#include "norm.h"

/* Columns and scalars that backward sums, one row of each a piece. */
enum { D_GAMMA, D_BETA, D_BIAS, D_INNER_GAMMA, D_INNER_BETA, D_SDD_GAMMA, D_SDD_BETA, COLUMNS };
enum { D_SCALAR, D_SHIFT, D_INNER_SCALAR, D_INNER_SHIFT, D_SDD_SCALAR, D_GATE, SCALARS };
enum { ZEROS = 6, BIAS, VECTORS };
/* The last ones stand for rows of tensors whose type is another than `real`. */
enum { BUFFER_DR, BUFFER_INPUT, BUFFER_DF, BUFFER_Z, BUFFER_R, BUFFER_X, BUFFER_F, BUFFER_U, BUFFER_Y, BUFFERS_ALL };
enum { BUFFERS = STORED_IS_REAL ? BUFFER_X : BUFFERS_ALL };

typedef struct Workspace {
    real *vectors;   /* VECTORS rows: prepared γ and β of three norms, a row of zeros, and the bias */
    real *buffers;   /* BUFFERS rows a thread */
    real *columns;   /* COLUMNS rows a piece */
    double *scalars; /* SCALARS a piece */
} Workspace;

static size_t workspace_bytes(int64_t N, int C) {
    size_t rows = (size_t)(VECTORS + BUFFERS * thread_limit() + COLUMNS * piece_count(N));
    return rows * (size_t)padded(C) * sizeof(real) + (size_t)(SCALARS * piece_count(N)) * sizeof(double);
}

static Workspace workspace_of(Queue *queue, int64_t N, int C, const char *operation) {
    int64_t ld = padded(C);
    Workspace w = {.vectors = NAME(cpu_scratch)(queue, workspace_bytes(N, C), operation)};
    w.buffers = w.vectors + VECTORS * ld;
    w.columns = w.buffers + BUFFERS * thread_limit() * ld;
    w.scalars = (double *)(w.columns + COLUMNS * piece_count(N) * ld);
    return w;
}

size_t NAME(junction_scratch)(const Limits *limits) {
    return workspace_bytes(limits->N, limits->C);
}

/* A junction made ready for its rows. */
typedef struct Context {
    const Junction *j;
    int C;
    int64_t ld;
    real s_in, s_out; /* s_in: alpha and s_ride too */
    const real *bias; /* zeros where there is none */
    const real *zeros;
    RowNorm norm, inner, sdd;
} Context;

static double scale_or_one(const Accum *scale) {
    return scale ? (double)*(const real *)scale : 1;
}

static Context context_of(const Junction *j, const Workspace *w) {
    int64_t ld = padded(j->C);
    real *zeros = w->vectors + ZEROS * ld;
    row_fill(zeros, 0, ld);
    double alpha = j->alpha == 0 ? 1 : j->alpha;
    Context c = {
        .j = j,
        .C = j->C,
        .ld = ld,
        .s_in = (real)(alpha * scale_or_one(j->s_in) * scale_or_one(j->s_ride)),
        .s_out = (real)scale_or_one(j->s_out),
        .bias = j->bias ? row_read(j->bias, 0, w->vectors + BIAS * ld, j->C) : zeros,
        .zeros = zeros,
        .norm = norm_prepare(&j->norm, j->C, w->vectors, ld),
        .inner = norm_prepare(&j->inner, j->C, w->vectors + 2 * ld, ld),
        .sdd = norm_prepare(&j->sdd, j->C, w->vectors + 4 * ld, ld),
    };
    if (j->mean_square_in) {
        const real *vhat = j->vhat;
        c.norm.mean_square = j->mean_square_in;
        c.norm.vhat[0] = vhat[0];
        c.norm.vhat[1] = vhat[1];
    }
    return c;
}

static bool has_inner(const Junction *j) {
    return j->sdd.kind != NORM_NONE || j->inner.kind != NORM_NONE;
}

/* out = a·x + b + c; out may be x. */
static void row_combine(real *out, real a, const real *x, const real *b, const real *c, int C) {
#pragma omp simd
    for (int i = 0; i < C; i++) out[i] = a * x[i] + (b[i] + c[i]);
}

/* r = s_out·u, written out unless it is u: the compiler must not fuse the product into r−μ, whose small
 * differences want the r that μ is the mean of. */
static const real *row_scaled(const Context *c, const real *u, real *buffer) {
    if (c->s_out == 1) return u;
#pragma omp simd
    for (int i = 0; i < c->C; i++) buffer[i] = c->s_out * u[i];
    return buffer;
}

/* --- Forward ----------------------------------------------------------------------------------------- */

/* buffers: those of a thread; buffer i begins at i·ld. */
static void forward_row(const Context *c, int64_t n, real *buffers) {
    const Junction *j = c->j;
    const int C = c->C;
    const bool accum = j->residual_is_accum;
    const int64_t at = n * c->ld, ld = c->ld;
    const real *u = residual_read(j->x, at, accum, buffers + BUFFER_X * ld, C);
    if (j->f) {
        const real *f = row_read(j->f, at, buffers + BUFFER_F * ld, C), *bias = c->bias;
        if (has_inner(j)) {
            real *input = buffers + BUFFER_INPUT * ld;
            row_combine(input, 1, f, bias, c->zeros, C);
            if (c->sdd.kind != NORM_NONE) norm_forward(&c->sdd, n, input, input, false);
            if (c->inner.kind != NORM_NONE) norm_forward(&c->inner, n, input, input, false);
            f = input;
            bias = c->zeros;
        }
        real *sum = residual_room(j->u, at, accum, buffers + BUFFER_U * ld);
        row_combine(sum, c->s_in, u, f, bias, C);
        residual_write(j->u, at, accum, sum, C);
        if (!accum) row_round(sum, C);
        u = sum;
    }

    real *y = j->y            ? row_room(j->y, at, buffers + BUFFER_Y * ld)
              : j->y_residual ? residual_room(j->y_residual, at, accum, buffers + BUFFER_Y * ld)
                              : NULL;
    real *mean_square_out = j->mean_square_out;
    const real *r = row_scaled(c, u, buffers + BUFFER_R * ld);
    real mean_square = norm_forward(&c->norm, n, r, y, mean_square_out);
    if (mean_square_out) mean_square_out[n] = mean_square;
    if (j->y) row_write(j->y, at, y, C);
    if (j->y_residual) residual_write(j->y_residual, at, accum, y, C);
}

void NAME(junction_forward)(Queue *queue, const Junction *j) {
    Workspace w = workspace_of(queue, j->N, j->C, "junction_forward");
    Context c = context_of(j, &w);
#pragma omp parallel if (j->N * j->C > SERIAL_ELEMENTS)
    {
        real *buffers = w.buffers + BUFFERS * omp_get_thread_num() * c.ld;
#pragma omp for schedule(static)
        for (int64_t n = 0; n < j->N; n++) forward_row(&c, n, buffers);
    }
}

/* --- Backward ---------------------------------------------------------------------------------------- */

/* The sums of one piece, and the rows its thread may write. */
typedef struct Piece {
    RowNormGradient norm, inner, sdd;
    double dgate;
    real *dbias;
    real *buffer[BUFFERS_ALL]; /* NULL from BUFFERS on */
} Piece;

/* du = dr + shortcut + k·r */
static void row_finish(real *du, const real *dr, const real *shortcut, real k, const real *r, int C) {
#pragma omp simd
    for (int i = 0; i < C; i++) du[i] = dr[i] + shortcut[i] + k * r[i];
}

static double row_dot(const real *a, const real *b, int C) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < C; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* df = sdd'(inner'(du)) of one row; returns where it lies: du itself without inner norms. */
static const real *branch_backward(const Context *c, int64_t n, const real *du, Piece *piece) {
    const Junction *j = c->j;
    if (!has_inner(j)) return du;

    real *input = piece->buffer[BUFFER_INPUT], *df = piece->buffer[BUFFER_DF];
    row_combine(input, 1, row_read(j->f, n * c->ld, piece->buffer[BUFFER_F], c->C), c->bias, c->zeros, c->C);
    if (c->inner.kind != NORM_NONE) {
        const real *z = input;
        if (c->sdd.kind != NORM_NONE) {
            norm_apply(&c->sdd, norm_kept(&c->sdd, n), input, piece->buffer[BUFFER_Z]);
            z = piece->buffer[BUFFER_Z];
        }
        norm_backward(&c->inner, n, z, du, df, &piece->inner);
        du = df;
    }
    if (c->sdd.kind != NORM_NONE) norm_backward(&c->sdd, n, input, du, df, &piece->sdd);
    return df;
}

/* The gradient at r through the norm; zeros where nothing arrives at y. `dresidual` is the stream's after this junction, or
 * NULL. */
static const real *norm_path(const Context *c, const JunctionBackward *b, int64_t n, const real *r, const real *dresidual,
                             Piece *piece) {
    const real *dy = b->dy ? row_read(b->dy, n * c->ld, piece->buffer[BUFFER_Y], c->C) : NULL;
    real *dr = piece->buffer[BUFFER_DR], *dmean_square_out = b->dmean_square_out;
    if (c->j->post && dresidual) {
        row_combine(dr, 1, dresidual, dy ? dy : c->zeros, c->zeros, c->C);
        dy = dr;
    }
    if (!dy) {
        if (dmean_square_out) dmean_square_out[n] = 0;
        return c->zeros;
    }
    real dmean_square = norm_backward(&c->norm, n, r, dy, dr, &piece->norm);
    if (dmean_square_out) dmean_square_out[n] = dmean_square;
    return dr;
}

static void backward_row(const Context *c, const JunctionBackward *b, int64_t n, Piece *piece) {
    const Junction *j = c->j;
    const int C = c->C;
    const bool accum = j->residual_is_accum;
    const int64_t at = n * c->ld;
    const real *u = residual_read(j->f ? j->u : j->x, at, accum, piece->buffer[BUFFER_U], C);
    const real *dresidual =
        b->dresidual_in ? residual_read(b->dresidual_in, at, accum, piece->buffer[BUFFER_X], C) : NULL;
    const real *r = row_scaled(c, u, piece->buffer[BUFFER_R]), *dr = norm_path(c, b, n, r, dresidual, piece);

    const real *dmean_square_in = b->dmean_square_in;
    real k = dmean_square_in ? 2 * dmean_square_in[n] / C : 0; /* d(mean r²)/dr = 2r/C */
    real *dresidual_out = residual_room(b->dresidual_out, at, accum, piece->buffer[BUFFER_Y]);
    real alpha = j->alpha == 0 ? 1 : (real)j->alpha;
    real *du = alpha == 1 ? dresidual_out : piece->buffer[BUFFER_DR];
    row_finish(du, dr, dresidual && !j->post ? dresidual : c->zeros, k, r, C);

    if (b->dgate)
        piece->dgate += row_dot(du, j->post ? residual_read(j->x, at, accum, piece->buffer[BUFFER_X], C) : u, C);
    if (alpha != 1) {
#pragma omp simd
        for (int i = 0; i < C; i++) dresidual_out[i] = alpha * du[i];
    }
    residual_write(b->dresidual_out, at, accum, dresidual_out, C);
    if (!j->f) return;
    const real *df = branch_backward(c, n, du, piece);
    if (b->dbias) row_add(piece->dbias, df, C);
    if (b->df) row_write(b->df, at, df, C);
}

/* Rows of one piece; its sums go to its rows of the workspace. */
static void backward_piece(const Context *c, const JunctionBackward *b, const Workspace *w, int64_t pieces,
                           int64_t p) {
    real *columns = w->columns + p * COLUMNS * c->ld;
    real *buffers = w->buffers + BUFFERS * omp_get_thread_num() * c->ld;
    int used = has_inner(c->j) ? COLUMNS : D_BIAS + 1;
    row_fill(columns, 0, used * c->ld);
    Piece piece = {
        .norm = {columns + D_GAMMA * c->ld, columns + D_BETA * c->ld, 0, 0},
        .inner = {columns + D_INNER_GAMMA * c->ld, columns + D_INNER_BETA * c->ld, 0, 0},
        .sdd = {columns + D_SDD_GAMMA * c->ld, columns + D_SDD_BETA * c->ld, 0, 0},
        .dbias = columns + D_BIAS * c->ld,
    };
    for (int i = 0; i < BUFFERS; i++) piece.buffer[i] = buffers + i * c->ld;

    int64_t end = piece_begin(c->j->N, pieces, p + 1);
    for (int64_t n = piece_begin(c->j->N, pieces, p); n < end; n++) backward_row(c, b, n, &piece);

    double *scalars = w->scalars + p * SCALARS;
    scalars[D_SCALAR] = piece.norm.dscalar;
    scalars[D_SHIFT] = piece.norm.dshift;
    scalars[D_INNER_SCALAR] = piece.inner.dscalar;
    scalars[D_INNER_SHIFT] = piece.inner.dshift;
    scalars[D_SDD_SCALAR] = piece.sdd.dscalar;
    scalars[D_GATE] = piece.dgate;
}

/* *sum += factor·Σ_p of one scalar */
static void scalar_add(Accum *sum, const Workspace *w, int64_t pieces, int which, double factor) {
    if (!sum) return;
    double total = 0;
    for (int64_t p = 0; p < pieces; p++) total += w->scalars[p * SCALARS + which];
    *(real *)sum = (real)(*(real *)sum + factor * total);
}

/* Adds the pieces' sums of one norm; `gamma` and `scalar` say which are its; DERF's shift is behind its scalar. */
static void norm_gradient_add(const NormGradient *out, const RowNorm *norm, const Workspace *w,
                              int64_t pieces, int64_t ld, int gamma, int scalar) {
    if (norm->kind == NORM_NONE) return;
    const real *first = w->columns + gamma * ld;
    if (out->dgamma) columns_add(out->dgamma, first, pieces, COLUMNS * ld, norm->C, norm->output_scale);
    if (out->dbeta) columns_add(out->dbeta, first + ld, pieces, COLUMNS * ld, norm->C, norm->output_scale);
    scalar_add(out->dscalar, w, pieces, scalar, 1);
    if (norm->kind == NORM_DERF && out->dscalar) scalar_add((real *)out->dscalar + 1, w, pieces, scalar + 1, 1);
}

void NAME(junction_backward)(Queue *queue, const JunctionBackward *b) {
    const Junction *j = b->forward;
    Workspace w = workspace_of(queue, j->N, j->C, "junction_backward");
    Context c = context_of(j, &w);
    int64_t pieces = piece_count(j->N);
#pragma omp parallel for schedule(static) if (j->N * j->C > SERIAL_ELEMENTS)
    for (int64_t p = 0; p < pieces; p++) backward_piece(&c, b, &w, pieces, p);

    norm_gradient_add(&b->norm, &c.norm, &w, pieces, c.ld, D_GAMMA, D_SCALAR);
    norm_gradient_add(&b->inner, &c.inner, &w, pieces, c.ld, D_INNER_GAMMA, D_INNER_SCALAR);
    norm_gradient_add(&b->sdd, &c.sdd, &w, pieces, c.ld, D_SDD_GAMMA, D_SDD_SCALAR);
    if (b->dbias) columns_add(b->dbias, w.columns + D_BIAS * c.ld, pieces, COLUMNS * c.ld, j->C, 1);
    if (b->dgate) {
        double slope = *(const real *)b->gate_slope, alpha = j->post && j->alpha != 0 ? j->alpha : 1;
        scalar_add(b->dgate, &w, pieces, D_GATE, -slope * alpha * scale_or_one(j->s_ride));
    }
}
