/*
 * canary.c: do the library's products come out whole and right here?
 *
 * Before a run's first product, one of each kind is compared with a plain loop: all elements are integers so small that
 * float holds every partial sum exactly, in whatever order it is added, so each must be equal. Twelve bits are more than
 * bf16 and TF32 have: a library that is told to round its factors to those is noticed, too. (In bf16 they are eight, and a
 * product is equal to the sum as Storage holds it.) The rows are as many as make every thread take part; a part that no
 * thread came for holds the NaN that stood there.
 */
#include "stored.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

enum { IN = 64, OUT = 128, THREAD_ROWS = 64, ROWS_MOST = 2048 /* · 4095 < 2^24 */ };

/* As many bits as Storage keeps and a sign, or one of −1, 0, 1; without a period that a block's size could share. */
static real many_bits(int64_t i, int64_t j) {
    const int64_t most = STORED_DTYPE == DTYPE_BF16 ? 255 : 4095;
    return (real)((i * 7919 + j * 104729) % (2 * most + 1) - most);
}
static real few_bits(int64_t i, int64_t j) {
    return (real)((i * 31 + j * 17) % 3 - 1);
}
static real not_written(int64_t i, int64_t j) {
    (void)i, (void)j;
    return NAN;
}

static void fill(stored *matrix, int64_t rows, int64_t columns, real (*value)(int64_t, int64_t)) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) matrix[i * columns + j] = stored_of(value(i, j));
}

/* An operand: element (i, k) lies at i·by_row + k·by_depth. */
typedef struct Operand {
    const stored *at;
    int64_t by_row, by_depth;
} Operand;

/* A result: of Storage, or of Accum. */
typedef struct Result {
    const void *at;
    int64_t rows, columns;
    bool accum;
} Result;

/* NaN is wrong as well. */
static bool is_right(const Result *c, int64_t at, real sum) {
    if (c->accum) return ((const real *)c->at)[at] == sum;
    return stored_get(((const stored *)c->at)[at]) == stored_get(stored_of(sum));
}

/* The first element of c that is not Σ_k a(i,k)·b(j,k), or −1. */
static int64_t first_wrong(Result c, int64_t depth, Operand a, Operand b) {
    int64_t wrong = c.rows * c.columns;
#pragma omp parallel for schedule(static) reduction(min : wrong)
    for (int64_t i = 0; i < c.rows; i++)
        for (int64_t j = 0; j < c.columns; j++) {
            real sum = 0;
            for (int64_t k = 0; k < depth; k++)
                sum += stored_get(a.at[i * a.by_row + k * a.by_depth]) * stored_get(b.at[j * b.by_row + k * b.by_depth]);
            int64_t at = i * c.columns + j;
            if (!is_right(&c, at, sum) && at < wrong) wrong = at;
        }
    return wrong < c.rows * c.columns ? wrong : -1;
}

/* The layer's three products into y, and into dw, which is zero, and the first wrong element of each. */
static const char *wrong_product(int64_t N, stored *x, stored *w, stored *dy, stored *y, real *dw, int64_t *at) {
    fill(y, N, OUT, not_written);
    NAME(linear_forward)(NULL, &(Linear){.N = N, .in = IN, .out = OUT, .x = x, .w = w, .y = y});
    *at = first_wrong((Result){y, N, OUT, false}, IN, (Operand){x, IN, 1}, (Operand){w, IN, 1});
    if (*at >= 0) return "forward";
    LinearBackward backward = {.N = N, .in = IN, .out = OUT, .x = x, .w = w, .dy = dy, .dx = y, .dw = dw};
    fill(y, N, IN, not_written);
    NAME(linear_backward_input)(NULL, &backward);
    *at = first_wrong((Result){y, N, IN, false}, OUT, (Operand){dy, OUT, 1}, (Operand){w, 1, IN});
    if (*at >= 0) return "backward to the input";
    NAME(linear_backward_weight)(NULL, &backward);
    *at = first_wrong((Result){dw, OUT, IN, true}, N, (Operand){dy, 1, OUT}, (Operand){x, 1, IN});
    return *at >= 0 ? "backward to the weights" : NULL;
}

bool NAME(canary)(char *text, size_t size) {
    int threads = omp_get_max_threads();
    int64_t N = threads < ROWS_MOST / THREAD_ROWS ? threads * THREAD_ROWS : ROWS_MOST, at = -1;
    stored *x = must_malloc((size_t)N * IN * sizeof *x, "the first products");
    stored *w = must_malloc(OUT * IN * sizeof *w, "the first products");
    stored *dy = must_malloc((size_t)N * OUT * sizeof *dy, "the first products");
    stored *y = must_malloc((size_t)N * OUT * sizeof *y, "the first products");
    real *dw = must_calloc(OUT * IN, sizeof *dw, "the first products");
    fill(x, N, IN, many_bits);
    fill(w, OUT, IN, few_bits);
    fill(dy, N, OUT, few_bits);
    const char *wrong = wrong_product(N, x, w, dy, y, dw, &at);
    if (wrong)
        snprintf(text, size, "the first product (%s, %d threads) is wrong from element %lld on: the matrix library or its "
                 "threads do not do what they say; --threads 1 may help", wrong, threads, (long long)at);
    free(x), free(w), free(dy), free(y), free(dw);
    return !wrong;
}
