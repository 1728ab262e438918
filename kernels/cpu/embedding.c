/*
 * embedding.c: how do tokens become rows of the residual stream, and gradients return to the tables?
 *
 * Backward adds rows to wherever the tokens point. Each thread owns a range of columns and walks over all
 * tokens in order, so two tokens of the same id never meet, a sum's order is that of the tokens, and no more
 * of the table is touched than the tokens name. The scale's gradient is one number: pieces of tokens, added
 * in order.
 */
#include "rows.h"

static int64_t tokens_of(const Embedding *e) {
    return (int64_t)e->B * e->T;
}

static int64_t position_of(const Embedding *e, int64_t n) {
    return e->position ? e->position[n] : n % e->T;
}

static real scale_of(const Embedding *e) {
    return e->scale ? *(const real *)e->scale : 1;
}

size_t NAME(embedding_scratch)(const Limits *limits) {
    return (size_t)piece_count(limits->N) * sizeof(double);
}

static void check_tokens(const Embedding *e) {
    for (int64_t n = 0; n < tokens_of(e); n++)
        check(e->tokens[n] < (uint32_t)e->V, "embedding: token %lld is %u, the vocabulary has %d",
              (long long)n, e->tokens[n], e->V);
}

void NAME(embedding_forward)(Queue *queue, const Embedding *e) {
    (void)queue;
    check_tokens(e);
    int64_t N = tokens_of(e), ld = padded(e->C);
    const real *tokens = e->token_table, *positions = e->position_table;
    real scale = scale_of(e);
#pragma omp parallel for schedule(static) if (N * e->C > SERIAL_ELEMENTS)
    for (int64_t n = 0; n < N; n++) {
        const real *token = tokens + e->tokens[n] * ld;
        real *x = (real *)e->x + n * ld;
        if (positions) {
            const real *position = positions + position_of(e, n) * ld;
#pragma omp simd
            for (int c = 0; c < e->C; c++) x[c] = scale * token[c] + position[c];
        } else {
#pragma omp simd
            for (int c = 0; c < e->C; c++) x[c] = scale * token[c];
        }
    }
}

/* The tables' gradients in columns begin … end. */
static void add_columns(const EmbeddingBackward *b, int64_t begin, int64_t end) {
    const Embedding *e = b->forward;
    int64_t N = tokens_of(e), ld = padded(e->C);
    real scale = scale_of(e);
    real *tokens = b->dtoken_table, *positions = b->dposition_table;
    for (int64_t n = 0; n < N; n++) {
        const real *dx = (const real *)b->dx + n * ld;
        real *token = tokens + e->tokens[n] * ld;
#pragma omp simd
        for (int64_t c = begin; c < end; c++) token[c] += scale * dx[c];
        if (positions) row_add(positions + position_of(e, n) * ld + begin, dx + begin, end - begin);
    }
}

/* *dscale += Σ dx⊙token row */
static void add_scale(Queue *queue, const EmbeddingBackward *b) {
    const Embedding *e = b->forward;
    int64_t N = tokens_of(e), ld = padded(e->C), pieces = piece_count(N);
    double *partial = NAME(cpu_scratch)(queue, (size_t)pieces * sizeof(double), "embedding_backward");
#pragma omp parallel for schedule(static) if (N * e->C > SERIAL_ELEMENTS)
    for (int64_t p = 0; p < pieces; p++) {
        int64_t end = piece_begin(N, pieces, p + 1);
        double total = 0;
        for (int64_t n = piece_begin(N, pieces, p); n < end; n++) {
            const real *dx = (const real *)b->dx + n * ld;
            const real *token = (const real *)e->token_table + e->tokens[n] * ld;
            real sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int c = 0; c < e->C; c++) sum += dx[c] * token[c];
            total += (double)sum;
        }
        partial[p] = total;
    }
    double total = 0;
    for (int64_t p = 0; p < pieces; p++) total += partial[p];
    *(real *)b->dscale = (real)(*(real *)b->dscale + total);
}

void NAME(embedding_backward)(Queue *queue, const EmbeddingBackward *b) {
    const Embedding *e = b->forward;
    check_tokens(e);
    /* Ranges of whole 64-element blocks: two threads never write to the same cache line. */
    int64_t blocks = padded(e->C) / 64;
#pragma omp parallel if (tokens_of(e) * e->C > SERIAL_ELEMENTS)
    {
        int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        int64_t begin = blocks * thread / threads * 64,
                end = least(blocks * (thread + 1) / threads * 64, e->C);
        if (begin < end) add_columns(b, begin, end);
    }
    if (b->dscale) add_scale(queue, b);
}
