/*
 * rows.h: how are rows shared among threads, and how are columns summed so that threads do not matter?
 *
 * Backward sums over tokens (γ, β, biases, α, gates). The tokens are cut into pieces whose number depends on
 * N alone; a thread takes whole pieces, sums each into a row of its own in scratch, and the rows are then
 * added in the order of the pieces. Sixteen tokens a piece keep a piece's sums in cache and their extra
 * traffic small.
 */
#ifndef ROWS_H
#define ROWS_H

#include "cpu.h"

#include <omp.h>
#include <string.h>

enum {
    PIECE_ROWS = 16,
    PIECES_MAX = 128,
    COLUMN_BLOCK = 256,
    SERIAL_ELEMENTS = 8192 /* below this many elements, waking the threads costs more than the work */
};

static inline int64_t piece_count(int64_t N) {
    int64_t pieces = (N + PIECE_ROWS - 1) / PIECE_ROWS;
    return pieces < 1 ? 1 : pieces > PIECES_MAX ? PIECES_MAX : pieces;
}

/* First token of piece p; that of the piece after the last is N. */
static inline int64_t piece_begin(int64_t N, int64_t pieces, int64_t p) {
    int64_t rest = N % pieces;
    return N / pieces * p + (p < rest ? p : rest);
}

/* Threads that a parallel region may have: buffers of scratch are counted by it. It is not smaller than the
 * number of processors, so that a queue outlives a change of the number of threads. */
static inline int64_t thread_limit(void) {
    int threads = omp_get_max_threads(), processors = omp_get_num_procs();
    return threads > processors ? threads : processors;
}

static inline int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* sum[c] += Σ_p partial[p·stride + c] over 0 ≤ c < width, times factor, pieces in order. */
static inline void columns_add(real *sum, const real *partial, int64_t pieces, int64_t stride, int64_t width,
                               real factor) {
#pragma omp parallel for schedule(static) if (pieces * width > SERIAL_ELEMENTS)
    for (int64_t begin = 0; begin < width; begin += COLUMN_BLOCK) {
        int64_t n = least(COLUMN_BLOCK, width - begin);
        real block[COLUMN_BLOCK] = {0};
        for (int64_t p = 0; p < pieces; p++) {
            const real *row = partial + p * stride + begin;
#pragma omp simd
            for (int64_t c = 0; c < n; c++) block[c] += row[c];
        }
#pragma omp simd
        for (int64_t c = 0; c < n; c++) sum[begin + c] += factor * block[c];
    }
}

/* sum[c] += row[c] */
static inline void row_add(real *sum, const real *row, int64_t n) {
#pragma omp simd
    for (int64_t c = 0; c < n; c++) sum[c] += row[c];
}

static inline void row_fill(real *row, real value, int64_t n) {
#pragma omp simd
    for (int64_t c = 0; c < n; c++) row[c] = value;
}

#endif
