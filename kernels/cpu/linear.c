/*
 * linear.c: how are the products of activations and weights computed on the CPU? (kernels.h: Linear)
 *
 * Few rows by few_rows.c; else in float by oneDNN's dnnl_sgemm, in double by cblas_dgemm (OpenBLAS). Both see row-major matrices of the
 * true shape with padded leading dimensions, so padding is neither read nor written. The same shapes and
 * number of threads give the same bits.
 */
#include "linear.h"
#include "../../src/base/blas_room.h"

#include <omp.h>
#include <string.h>

#ifdef CPU_F64
#include <cblas.h>
#include <limits.h>
#else
#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_debug.h>
#endif

/* C[M,N] = op(A)·op(B) + beta·C with op(A) [M,K] and op(B) [K,N]; op transposes where its flag is 'T'. */
typedef struct Product {
    const char *operation; /* for messages */
    int64_t M, N, K;
    char transpose_a, transpose_b;
    const real *a, *b;
    int64_t lda, ldb, ldc;
    real beta;
    real *c;
} Product;

#ifdef CPU_F64
/* OpenBLAS keeps the number of threads it used last, and once that was one, it stays there. */
static void openblas_follow_openmp(void) {
#ifdef OPENBLAS_VERSION
    static int most; /* that it has had room for */
    int threads = omp_get_max_threads(), has = openblas_get_num_threads();
    if (has == threads) return;
    if (most < has) most = has;
    blas_room_require(threads - most, threads);
    openblas_set_num_threads(threads);
    if (most < threads) most = threads;
#endif
}

static void multiply(const Product *p) {
    if (p->M == 0 || p->N == 0 || p->K == 0) return;
    check(p->M <= INT_MAX && p->N <= INT_MAX && p->K <= INT_MAX && p->lda <= INT_MAX && p->ldb <= INT_MAX &&
              p->ldc <= INT_MAX,
          "%s: product of [%lld,%lld] by [%lld,%lld] is too large for BLAS: at most %d rows or columns",
          p->operation, (long long)p->M, (long long)p->K, (long long)p->K, (long long)p->N, INT_MAX);
    openblas_follow_openmp();
    cblas_dgemm(CblasRowMajor, p->transpose_a == 'T' ? CblasTrans : CblasNoTrans,
                p->transpose_b == 'T' ? CblasTrans : CblasNoTrans, (int)p->M, (int)p->N, (int)p->K, 1.0, p->a,
                (int)p->lda, p->b, (int)p->ldb, p->beta, p->c, (int)p->ldc);
}
#else
static void multiply(const Product *p) {
    if (p->M == 0 || p->N == 0 || p->K == 0) return;
    dnnl_status_t status = dnnl_sgemm(p->transpose_a, p->transpose_b, p->M, p->N, p->K, 1.0f, p->a, p->lda,
                                      p->b, p->ldb, p->beta, p->c, p->ldc);
    require(status == dnnl_success, "%s: oneDNN refuses the product of [%lld,%lld] by [%lld,%lld]: %s",
            p->operation, (long long)p->M, (long long)p->K, (long long)p->K, (long long)p->N,
            dnnl_status2str(status));
}
#endif

size_t NAME(linear_scratch)(const Limits *limits) {
    (void)limits;
    return 0;
}

/* The bias is laid under the product: rows filled with it, then beta = 1. */
static void fill_rows(real *y, int64_t ldy, const real *bias, int64_t rows, int columns) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < rows; n++) memcpy(y + n * ldy, bias, (size_t)columns * sizeof(real));
}

void NAME(linear_forward)(Queue *queue, const Linear *args) {
    (void)queue;
    int64_t ldx = padded(args->in), ldy = padded(args->out);
    if (args->N >= 1 && args->N <= FEW_ROWS) {
        NAME(linear_few_rows)(args);
        return;
    }
    if (args->bias) fill_rows(args->y, ldy, args->bias, args->N, args->out);
    multiply(&(Product){.operation = "linear_forward",
                        .M = args->N,
                        .N = args->out,
                        .K = args->in,
                        .transpose_a = 'N',
                        .transpose_b = 'T',
                        .a = args->x,
                        .lda = ldx,
                        .b = args->w,
                        .ldb = ldx,
                        .c = args->y,
                        .ldc = ldy,
                        .beta = args->bias ? 1 : 0});
}

void NAME(linear_backward_input)(Queue *queue, const LinearBackward *args) {
    (void)queue;
    int64_t ldx = padded(args->in), ldy = padded(args->out);
    multiply(&(Product){.operation = "linear_backward_input",
                        .M = args->N,
                        .N = args->in,
                        .K = args->out,
                        .transpose_a = 'N',
                        .transpose_b = 'N',
                        .a = args->dy,
                        .lda = ldy,
                        .b = args->w,
                        .ldb = ldx,
                        .c = args->dx,
                        .ldc = ldx,
                        .beta = 0});
}

void NAME(linear_backward_weight)(Queue *queue, const LinearBackward *args) {
    (void)queue;
    int64_t ldx = padded(args->in), ldy = padded(args->out);
    multiply(&(Product){.operation = "linear_backward_weight",
                        .M = args->out,
                        .N = args->in,
                        .K = args->N,
                        .transpose_a = 'T',
                        .transpose_b = 'N',
                        .a = args->dy,
                        .lda = ldy,
                        .b = args->x,
                        .ldb = ldx,
                        .c = args->dw,
                        .ldc = ldx,
                        .beta = 1});
}
