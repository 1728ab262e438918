/* cblas.h: the one product that this project takes from a BLAS, for machines without it (../gemm.c). */
#ifndef STANDALONE_CBLAS_H
#define STANDALONE_CBLAS_H

enum CBLAS_ORDER { CblasRowMajor = 101 };
enum CBLAS_TRANSPOSE { CblasNoTrans = 111, CblasTrans = 112 };

/* Row-major C [M,N] = alpha·op(A)·op(B) + beta·C. */
void cblas_dgemm(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE transpose_a, enum CBLAS_TRANSPOSE transpose_b, int M, int N,
                 int K, double alpha, const double *A, int lda, const double *B, int ldb, double beta, double *C, int ldc);

#endif
