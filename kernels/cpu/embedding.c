/*
 * embedding.c: how do tokens become rows of the residual stream, and gradients return to the tables?
 *
 * Backward adds rows to wherever the tokens point. Each thread owns a range of columns and walks over all
 * tokens in order, so two tokens of the same id never meet, a sum's order is that of the tokens, and no more
 * of the table is touched than the tokens name. The scale's gradient is one number: pieces of tokens, added
 * in order.
 */
#include "rows.h"
#include "stored.h"

enum { BUFFERS = STORED_IS_REAL ? 0 : 2 }; /* rows a thread */

static int64_t tokens_of(const Embedding *e) {
    return (int64_t)e->B * e->T;
}

static int64_t position_of(const Embedding *e, int64_t n) {
    return e->position ? e->position[n] : n % e->T;
}

static real scale_of(const Embedding *e) {
    return e->scale ? *(const real *)e->scale : 1;
}

typedef struct Workspace {
    real *buffers;    /* BUFFERS rows a thread */
    double *partial;  /* one a piece */
} Workspace;

static size_t workspace_bytes(int64_t N, int C) {
    return (size_t)(BUFFERS * thread_limit() * padded(C)) * sizeof(real) + (size_t)piece_count(N) * sizeof(double);
}

size_t NAME(embedding_scratch)(const Limits *limits) {
    return workspace_bytes(limits->N, limits->C);
}

static Workspace workspace_of(Queue *queue, const Embedding *e, const char *operation) {
    Workspace w = {.buffers = NAME(cpu_scratch)(queue, workspace_bytes(tokens_of(e), e->C), operation)};
    w.partial = (double *)(w.buffers + BUFFERS * thread_limit() * padded(e->C));
    return w;
}

static real *thread_buffers(const Workspace *w, int64_t ld) { return w->buffers + BUFFERS * omp_get_thread_num() * ld; }

static void check_tokens(const Embedding *e) {
    for (int64_t n = 0; n < tokens_of(e); n++)
        check(e->tokens[n] < (uint32_t)e->V, "embedding: token %lld is %u, the vocabulary has %d",
              (long long)n, e->tokens[n], e->V);
}

static void forward_row(const Embedding *e, int64_t n, real scale, real *buffer) {
    int64_t ld = padded(e->C), at = n * ld;
    const stored *token = (const stored *)e->token_table + e->tokens[n] * ld;
    real *x = residual_room(e->x, at, e->residual_is_accum, buffer);
    if (e->position_table) {
        const stored *position = (const stored *)e->position_table + position_of(e, n) * ld;
#pragma omp simd
        for (int c = 0; c < e->C; c++) x[c] = scale * stored_get(token[c]) + stored_get(position[c]);
    } else {
#pragma omp simd
        for (int c = 0; c < e->C; c++) x[c] = scale * stored_get(token[c]);
    }
    residual_write(e->x, at, e->residual_is_accum, x, e->C);
}

void NAME(embedding_forward)(Queue *queue, const Embedding *e) {
    check_tokens(e);
    Workspace w = workspace_of(queue, e, "embedding_forward");
    int64_t N = tokens_of(e), ld = padded(e->C);
    real scale = scale_of(e);
#pragma omp parallel for schedule(static) if (N * e->C > SERIAL_ELEMENTS)
    for (int64_t n = 0; n < N; n++) forward_row(e, n, scale, thread_buffers(&w, ld));
}

/* The tables' gradients in columns begin … end. */
static void add_columns(const EmbeddingBackward *b, int64_t begin, int64_t end, real *buffer) {
    const Embedding *e = b->forward;
    int64_t N = tokens_of(e), ld = padded(e->C), width = end - begin;
    real scale = scale_of(e);
    real *tokens = b->dtoken_table, *positions = b->dposition_table;
    for (int64_t n = 0; n < N; n++) {
        const real *dx = residual_read(b->dx, n * ld + begin, e->residual_is_accum, buffer, width);
        real *token = tokens + e->tokens[n] * ld + begin;
#pragma omp simd
        for (int64_t c = 0; c < width; c++) token[c] += scale * dx[c];
        if (positions) row_add(positions + position_of(e, n) * ld + begin, dx, width);
    }
}

static double scale_gradient(const EmbeddingBackward *b, int64_t n, real *buffers) {
    const Embedding *e = b->forward;
    int64_t ld = padded(e->C);
    const real *dx = residual_read(b->dx, n * ld, e->residual_is_accum, buffers, e->C);
    const real *token = row_read(e->token_table, e->tokens[n] * ld, buffers + ld, e->C);
    real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int c = 0; c < e->C; c++) sum += dx[c] * token[c];
    return (double)sum;
}

/* *dscale += Σ dx⊙token row */
static void add_scale(const EmbeddingBackward *b, const Workspace *w) {
    const Embedding *e = b->forward;
    int64_t N = tokens_of(e), ld = padded(e->C), pieces = piece_count(N);
#pragma omp parallel for schedule(static) if (N * e->C > SERIAL_ELEMENTS)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t end = piece_begin(N, pieces, p + 1);
        double total = 0;
        for (int64_t n = piece_begin(N, pieces, p); n < end; n++) total += scale_gradient(b, n, thread_buffers(w, ld));
        w->partial[p] = total;
    }
    double total = 0;
    for (int64_t p = 0; p < pieces; p++) total += w->partial[p];
    *(real *)b->dscale = (real)(*(real *)b->dscale + total);
}

void NAME(embedding_backward)(Queue *queue, const EmbeddingBackward *b) {
    const Embedding *e = b->forward;
    check_tokens(e);
    Workspace w = workspace_of(queue, e, "embedding_backward");
    /* Ranges of whole 64-element blocks: two threads never write to the same cache line. */
    int64_t ld = padded(e->C), blocks = ld / 64;
#pragma omp parallel if (tokens_of(e) * e->C > SERIAL_ELEMENTS)
    {
        int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        int64_t begin = blocks * thread / threads * 64,
                end = least(blocks * (thread + 1) / threads * 64, e->C);
        if (begin < end) add_columns(b, begin, end, thread_buffers(&w, ld));
    }
    if (b->dscale) add_scale(b, &w);
}
