/*
 * gemm.cuh: a matrix product as linear.cu asks for it, and the algorithms that were measured to be the fastest
 * for it (--gemm-tune, kept in a checkpoint's gemm.json).
 */
#ifndef GEMM_CUH
#define GEMM_CUH

#include "cublaslt.cuh"
#include "types.cuh"

const uint32_t GEMM_ALIGNMENT = 256; /* bytes: of a tensor's start, and the most that cuBLASLt asks for */

/* D [m,n] = op(A) [m,k] · op(B) [k,n] (+ D if accumulate) (+ bias), by columns. Two products with equal
   members share a plan. */
struct Product {
    int64_t m, n, k;
    cudaDataType_t type, out_type; /* of A, B and bias; of D */
    bool transpose_a, transpose_b, bias, accumulate;
    uint32_t align[3]; /* bytes that A, B and D are aligned to: powers of two, at most GEMM_ALIGNMENT */

    bool operator==(const Product &other) const {
        return m == other.m && n == other.n && k == other.k && type == other.type &&
               out_type == other.out_type && transpose_a == other.transpose_a &&
               transpose_b == other.transpose_b && bias == other.bias && accumulate == other.accumulate &&
               align[0] == other.align[0] && align[1] == other.align[1] && align[2] == other.align[2];
    }
};

/* The algorithm that was chosen for this product, or NULL. */
const cublasLtMatmulAlgo_t *gemm_choice(const Product &product);

/* Keeps a choice; NULL forgets it. */
void gemm_choose(const Product &product, const cublasLtMatmulAlgo_t *algorithm);
void gemm_forget_all(void);

/* The contract's pair (kernels.h). */
bool gemm_choices_load(const char *json, char *text, size_t size);
char *gemm_choices_save(void);

#endif
