/*
 * linear.c: which products does a linear layer take? (kernels.h: Linear)
 *
 * Those of few rows are few_rows.c's, all others a library's (product.h).
 */
#include "linear.h"
#include "product.h"

size_t NAME(linear_scratch)(const Limits *limits) {
    (void)limits;
    return 0;
}

void NAME(linear_forward)(Queue *queue, const Linear *args) {
    (void)queue;
    int64_t ldx = padded(args->in), ldy = padded(args->out);
    if (args->N >= 1 && args->N <= FEW_ROWS) {
        NAME(linear_few_rows)(args);
        return;
    }
    NAME(multiply)(&(Product){.operation = "linear_forward",
                              .M = args->N,
                              .N = args->out,
                              .K = args->in,
                              .transpose_b = true,
                              .a = args->x,
                              .lda = ldx,
                              .b = args->w,
                              .ldb = ldx,
                              .bias = args->bias,
                              .c = args->y,
                              .ldc = ldy});
}

void NAME(linear_backward_input)(Queue *queue, const LinearBackward *args) {
    (void)queue;
    int64_t ldx = padded(args->in), ldy = padded(args->out);
    NAME(multiply)(&(Product){.operation = "linear_backward_input",
                              .M = args->N,
                              .N = args->in,
                              .K = args->out,
                              .a = args->dy,
                              .lda = ldy,
                              .b = args->w,
                              .ldb = ldx,
                              .c = args->dx,
                              .ldc = ldx});
}

void NAME(linear_backward_weight)(Queue *queue, const LinearBackward *args) {
    (void)queue;
    int64_t ldx = padded(args->in), ldy = padded(args->out);
    NAME(multiply)(&(Product){.operation = "linear_backward_weight",
                              .M = args->out,
                              .N = args->in,
                              .K = args->N,
                              .transpose_a = true,
                              .a = args->dy,
                              .lda = ldy,
                              .b = args->x,
                              .ldb = ldx,
                              .accum = true,
                              .add = !args->overwrite,
                              .c = args->dw,
                              .ldc = ldx});
}
