/*
 * gemm.c: the products of the CPU backend without oneDNN and OpenBLAS: compiled once for float, once with -DCPU_F64.
 *
 * A block of op(B) is packed once and read by all threads; each thread owns rows of C, four at a time, and adds the
 * products in natural order of k: so the bits depend on neither threads nor shapes of blocks. The compiler makes vectors
 * of the innermost loop. Slower than a library by a factor, which the tests of a GPU can afford.
 */
#ifdef CPU_F64
#include <cblas.h>
typedef double real;
#else
#include <oneapi/dnnl/dnnl.h>
typedef float real;
#endif

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { ROWS = 4, WIDTH = 128, DEPTH = 256 };

typedef struct Operand {
    const real *base;
    int64_t ld;
    bool transposed;
} Operand;

static inline real element(const Operand *m, int64_t row, int64_t column) {
    return m->transposed ? m->base[column * m->ld + row] : m->base[row * m->ld + column];
}

/* Up to ROWS rows of C [.., columns] from i on: += op(A)[rows, k0 …]·packed. */
static void multiply_rows(const Operand *a, const real *packed, real *C, int64_t ldc, int64_t i, int rows, int64_t j,
                          int columns, int64_t k0, int depth, real alpha) {
    real sum[ROWS][WIDTH];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) sum[r][c] = C[(i + r) * ldc + j + c];
    for (int k = 0; k < depth; k++)
        for (int r = 0; r < rows; r++) {
            const real x = alpha * element(a, i + r, k0 + k), *b = packed + (size_t)k * WIDTH;
            for (int c = 0; c < columns; c++) sum[r][c] += x * b[c];
        }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) C[(i + r) * ldc + j + c] = sum[r][c];
}

static inline int least(int64_t a, int b) { return a < b ? (int)a : b; }

static bool multiply(Operand a, Operand b, int64_t M, int64_t N, int64_t K, real alpha, real beta, real *C, int64_t ldc) {
    real *packed = malloc(sizeof(real) * WIDTH * DEPTH);
    if (!packed) return false;
#pragma omp parallel
    {
#pragma omp for
        for (int64_t i = 0; i < M; i++)
            for (int64_t j = 0; j < N; j++) C[i * ldc + j] = beta == 0 ? 0 : beta * C[i * ldc + j];
        for (int64_t j = 0; j < N; j += WIDTH)
            for (int64_t k0 = 0; k0 < K; k0 += DEPTH) {
                const int columns = least(N - j, WIDTH), depth = least(K - k0, DEPTH);
#pragma omp for
                for (int k = 0; k < depth; k++)
                    for (int c = 0; c < columns; c++) packed[(size_t)k * WIDTH + c] = element(&b, k0 + k, j + c);
#pragma omp for
                for (int64_t i = 0; i < M; i += ROWS)
                    multiply_rows(&a, packed, C, ldc, i, least(M - i, ROWS), j, columns, k0, depth, alpha);
            }
    }
    free(packed);
    return true;
}

#ifdef CPU_F64
void cblas_dgemm(enum CBLAS_ORDER order, enum CBLAS_TRANSPOSE transpose_a, enum CBLAS_TRANSPOSE transpose_b, int M, int N,
                 int K, double alpha, const double *A, int lda, const double *B, int ldb, double beta, double *C, int ldc) {
    Operand a = {A, lda, transpose_a == CblasTrans}, b = {B, ldb, transpose_b == CblasTrans};
    if (order != CblasRowMajor || !multiply(a, b, M, N, K, alpha, beta, C, ldc)) abort();
}
#else
dnnl_status_t dnnl_sgemm(char transpose_a, char transpose_b, int64_t M, int64_t N, int64_t K, float alpha, const float *A,
                         int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc) {
    Operand a = {A, lda, transpose_a == 'T'}, b = {B, ldb, transpose_b == 'T'};
    return multiply(a, b, M, N, K, alpha, beta, C, ldc) ? dnnl_success : dnnl_out_of_memory;
}
#endif
