/* dnnl.h: the one product that this project takes from oneDNN, for machines without it (../../gemm.c). */
#ifndef STANDALONE_DNNL_H
#define STANDALONE_DNNL_H

#include <stdint.h>

typedef enum { dnnl_success = 0, dnnl_out_of_memory = 1 } dnnl_status_t;

/* Row-major C [M,N] = alpha·op(A)·op(B) + beta·C. */
dnnl_status_t dnnl_sgemm(char transpose_a, char transpose_b, int64_t M, int64_t N, int64_t K, float alpha, const float *A,
                         int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc);

#endif
