/* product.h: a matrix product of a library's, apart from what a linear layer makes of it. */
#ifndef PRODUCT_H
#define PRODUCT_H

#include "cpu.h"

/* C[M,N] = op(A)·op(B) + bias, or C += op(A)·op(B), with op(A) [M,K] and op(B) [K,N] row-major; op transposes. Sums are Accum;
 * an element is rounded to C's type once. The same shapes and number of threads give the same bits. */
typedef struct Product {
    const char *operation; /* for messages */
    int64_t M, N, K;
    bool transpose_a, transpose_b;
    const Storage *a, *b;
    int64_t lda, ldb, ldc;
    const Storage *bias; /* [N], or NULL; not with add */
    bool accum;         /* C is Accum, else Storage; not with bias */
    bool add;           /* to C, which is Accum */
    void *c;
} Product;

void NAME(multiply)(const Product *p);
void multiply_f32(const Product *p); /* in cpu/bf16 for factors that are rounded nowhere: A, B and C in fp32 */

/* NULL where the library multiplies Storage at least as fast here as any wider type; else what it lacks for that. */
const char *NAME(multiply_lacks)(void);

/* Where that is NULL: the instructions that Storage has of its own here, or "". */
const char *NAME(multiply_with)(void);

#ifdef CPU_BF16
extern bool multiplies_tiles; /* whether AMX's tile registers are to be had here, as multiply_lacks() has found out */
#endif

#endif
