/*
 * product.c: which library multiplies matrices on the CPU? (product.h)
 *
 * In float oneDNN's dnnl_sgemm, in double cblas_dgemm (OpenBLAS); in bf16 product_bf16.c. They see row-major matrices of the
 * true shape with padded leading dimensions, so padding is neither read nor written.
 */
#include "product.h"

#ifndef CPU_BF16
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

const char *NAME(multiply_lacks)(void) { return NULL; }
const char *NAME(multiply_with)(void) { return ""; }

/* The bias is laid under the product: rows filled with it, then beta = 1. */
static void fill_rows(const Product *p) {
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < p->M; n++) memcpy((real *)p->c + n * p->ldc, p->bias, (size_t)p->N * sizeof(real));
}

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

static void gemm(const Product *p, real beta) {
    check(p->M <= INT_MAX && p->N <= INT_MAX && p->K <= INT_MAX && p->lda <= INT_MAX && p->ldb <= INT_MAX &&
              p->ldc <= INT_MAX,
          "%s: product of [%lld,%lld] by [%lld,%lld] is too large for BLAS: at most %d rows or columns",
          p->operation, (long long)p->M, (long long)p->K, (long long)p->K, (long long)p->N, INT_MAX);
    openblas_follow_openmp();
    cblas_dgemm(CblasRowMajor, p->transpose_a ? CblasTrans : CblasNoTrans, p->transpose_b ? CblasTrans : CblasNoTrans,
                (int)p->M, (int)p->N, (int)p->K, 1.0, p->a, (int)p->lda, p->b, (int)p->ldb, beta, p->c, (int)p->ldc);
}
#else
static void gemm(const Product *p, real beta) {
    dnnl_status_t status = dnnl_sgemm(p->transpose_a ? 'T' : 'N', p->transpose_b ? 'T' : 'N', p->M, p->N, p->K, 1.0f, p->a,
                                      p->lda, p->b, p->ldb, beta, p->c, p->ldc);
    require(status == dnnl_success, "%s: oneDNN refuses the product of [%lld,%lld] by [%lld,%lld]: %s",
            p->operation, (long long)p->M, (long long)p->K, (long long)p->K, (long long)p->N,
            dnnl_status2str(status));
}
#endif

void NAME(multiply)(const Product *p) {
    if (p->bias) fill_rows(p);
    if (p->M == 0 || p->N == 0 || p->K == 0) return;
    gemm(p, p->add || p->bias ? 1 : 0);
}
#endif
