/*
 * columns.cuh: column sums over all rows of a tensor (gradients of biases, γ and β) in two passes without
 * atomics. First pass, inside the kernel that reads the tensor anyway: the rows are split into chunks by
 * their number alone, and each chunk leaves a row of partial sums. Second pass: add_columns, here.
 */
#ifndef COLUMNS_CUH
#define COLUMNS_CUH

#include "types.cuh"

/* Most chunks there can be: enough blocks to fill a GPU, few enough that partial sums stay small beside the
 * tensor. Never asked of the device, so that the bits do not depend on it. */
constexpr int MAX_CHUNKS = 512;

struct Chunks {
    int64_t rows; /* of a chunk */
    unsigned count;
};

/* Splits N rows into at most `most` chunks of a multiple of `unit` rows. */
static inline Chunks split_rows(int64_t N, int unit = 1, int most = MAX_CHUNKS) {
    Chunks chunks;
    chunks.rows = ceil_div(ceil_div(N, most), unit) * unit;
    chunks.count = (unsigned)ceil_div(N, chunks.rows);
    return chunks;
}

/* The partial sums that a norm before another operation leaves (qkv.cu, activation.cu): of α's and the bias's gradient,
 * [chunks][stride] each; NULL: not wanted. */
struct AlphaBiasPartials {
    float *alpha, *bias;
};

/* out[c] += Σ partial[chunk·stride + group·group_stride + c] over `chunks` rows of partial sums and `groups`
 * of columns in each (heads that share a parameter), for c < columns. NULL out: nothing. */
void add_columns(Queue *queue, Accum *out, const float *partial, int chunks, int64_t stride, int64_t columns,
                 int groups = 1, int64_t group_stride = 0);

#endif
