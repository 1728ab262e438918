/*
 * canary.c: do the library's products come out whole and right here?
 *
 * Before a run's first product, one of each kind is compared with a plain loop: all elements are integers so small that
 * float holds every partial sum exactly, in whatever order it is added, so each must be equal. Twelve bits are more than
 * bf16 and TF32 have: a library that is told to round its factors to those is noticed, too. The rows are as many as
 * make every thread take part; a part that no thread came for holds the NaN that stood there.
 */
#include "cpu.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

enum { IN = 64, OUT = 128, THREAD_ROWS = 64, ROWS_MOST = 2048 /* · 4095 < 2^24 */ };

/* 12 bits and a sign, or one of −1, 0, 1; without a period that a block's size could share. */
static real many_bits(int64_t i, int64_t j) {
    return (real)((i * 7919 + j * 104729) % 8191 - 4095);
}
static real few_bits(int64_t i, int64_t j) {
    return (real)((i * 31 + j * 17) % 3 - 1);
}

static void fill(real *matrix, int64_t rows, int64_t columns, real (*value)(int64_t, int64_t)) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) matrix[i * columns + j] = value(i, j);
}

static real not_written(int64_t i, int64_t j) {
    (void)i, (void)j;
    return NAN;
}
static real zero(int64_t i, int64_t j) {
    (void)i, (void)j;
    return 0;
}

/* An operand: element (i, k) lies at i·by_row + k·by_depth. */
typedef struct Operand {
    const real *at;
    int64_t by_row, by_depth;
} Operand;

/* The first element of c[rows, columns] that is not Σ_k a(i,k)·b(j,k), or −1. */
static int64_t first_wrong(const real *c, int64_t rows, int64_t columns, int64_t depth, Operand a, Operand b) {
    int64_t wrong = rows * columns;
#pragma omp parallel for schedule(static) reduction(min : wrong)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            real sum = 0;
            for (int64_t k = 0; k < depth; k++)
                sum += a.at[i * a.by_row + k * a.by_depth] * b.at[j * b.by_row + k * b.by_depth];
            int64_t at = i * columns + j;
            if (!(c[at] == sum) && at < wrong) wrong = at; /* NaN is wrong as well */
        }
    return wrong < rows * columns ? wrong : -1;
}

/* The layer's three products into c, and the first wrong element of each. */
static const char *wrong_product(int64_t N, real *x, real *w, real *dy, real *c, int64_t *at) {
    fill(c, N, OUT, not_written);
    NAME(linear_forward)(NULL, &(Linear){.N = N, .in = IN, .out = OUT, .x = x, .w = w, .y = c});
    *at = first_wrong(c, N, OUT, IN, (Operand){x, IN, 1}, (Operand){w, IN, 1});
    if (*at >= 0) return "forward";
    LinearBackward backward = {.N = N, .in = IN, .out = OUT, .x = x, .w = w, .dy = dy, .dx = c, .dw = c};
    fill(c, N, IN, not_written);
    NAME(linear_backward_input)(NULL, &backward);
    *at = first_wrong(c, N, IN, OUT, (Operand){dy, OUT, 1}, (Operand){w, 1, IN});
    if (*at >= 0) return "backward to the input";
    fill(c, OUT, IN, zero); /* this one is added to */
    NAME(linear_backward_weight)(NULL, &backward);
    *at = first_wrong(c, OUT, IN, N, (Operand){dy, 1, OUT}, (Operand){x, 1, IN});
    return *at >= 0 ? "backward to the weights" : NULL;
}

bool NAME(canary)(char *text, size_t size) {
    int threads = omp_get_max_threads();
    int64_t N = threads < ROWS_MOST / THREAD_ROWS ? threads * THREAD_ROWS : ROWS_MOST, at = -1;
    size_t x_elements = (size_t)N * IN, w_elements = OUT * IN, y_elements = (size_t)N * OUT;
    real *x = must_malloc(x_elements * sizeof *x, "the first products");
    real *w = must_malloc(w_elements * sizeof *w, "the first products");
    real *dy = must_malloc(y_elements * sizeof *dy, "the first products");
    real *c = must_malloc(y_elements * sizeof *c, "the first products");
    fill(x, N, IN, many_bits);
    fill(w, OUT, IN, few_bits);
    fill(dy, N, OUT, few_bits);
    const char *wrong = wrong_product(N, x, w, dy, c, &at);
    if (wrong)
        snprintf(text, size, "the first product (%s, %d threads) is wrong from element %lld on: the matrix library or its "
                 "threads do not do what they say; --threads 1 may help", wrong, threads, (long long)at);
    free(x), free(w), free(dy), free(c);
    return !wrong;
}
