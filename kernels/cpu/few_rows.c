/*
 * few_rows.c: how is y = x·Wᵀ + bias computed for the few rows of generation? (linear.c calls it)
 *
 * Such a product reads all of W to do two operations a weight and row: memory is its bound, and a library that first packs
 * W for its tiles moves it three times. Here each row of W passes once through one thread, against all rows of x.
 *
 * Every element of y is summed in the same order, whatever the number of rows and threads: a text decoded alone has the bits
 * of one decoded in a batch. Rows are read to the end of their padding, which is zero.
 */
#include "linear.h"
#include "stored.h"
#include "vector.h"

#include <string.h>
#ifdef __FMA__
#include <immintrin.h>
#endif

enum { SERIAL = 1 << 15 }; /* weights: below it waking the threads costs more */

#ifdef CPU_BF16
typedef uint32_t Group __attribute__((vector_size(VECTOR_BYTES), may_alias)); /* pairs, the first in the lower half */
#else
typedef Vector Group;
#endif
enum { GROUP = VECTOR_BYTES / sizeof(stored) }; /* elements of a row that are taken at once */

#if defined(CPU_BF16) && defined(__AVX512BF16__)
/* sum + both products of each pair of a and b. It takes subnormal numbers for zero, as the library's products here do. */
INLINE Vector accumulate(Group a, Group b, Vector sum) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#else
/* sum + a·b, rounded once where the processor can. Said by name: left to itself gcc fuses the two in one loop and not in
 * another (its -mtune avoids chains of fused ones), and the bits would hang on the number of rows. */
INLINE Vector multiply_add(Vector a, Vector b, Vector sum) {
#if defined(__AVX512F__) && defined(CPU_F64)
    return (Vector)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)sum);
#elif defined(__AVX512F__)
    return (Vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)sum);
#elif defined(__FMA__) && defined(CPU_F64)
    return (Vector)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)sum);
#elif defined(__FMA__)
    return (Vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)sum);
#else
    return sum + a * b;
#endif
}

/* In bf16 both products of each pair; its second number is a float once what lies below it is gone. */
INLINE Vector accumulate(Group a, Group b, Vector sum) {
#ifdef CPU_BF16
    sum = multiply_add((Vector)(a << 16), (Vector)(b << 16), sum);
    return multiply_add((Vector)(a & 0xffff0000), (Vector)(b & 0xffff0000), sum);
#else
    return multiply_add(a, b, sum);
#endif
}
#endif

/* Halves, quarters, …: pairs that lie LANES/2, LANES/4, … 1 apart. A loop of constant length is one addition of vectors. */
INLINE real sum_of(Vector vector) {
    real lane[16];
    for (int i = 0; i < LANES; i++) lane[i] = vector[i];
    for (int i = 0; i < 8 && LANES > 8; i++) lane[i] += lane[i + 8];
    for (int i = 0; i < 4 && LANES > 4; i++) lane[i] += lane[i + 4];
    for (int i = 0; i < 2 && LANES > 2; i++) lane[i] += lane[i + 2];
    return lane[0] + lane[1];
}

/* `outs` rows of W against N rows of x; both are constants where this is inlined. */
INLINE void block(const Linear *a, int64_t ldx, int64_t ldy, int64_t out, int outs, int N) {
    const stored *w = (const stored *)a->w + out * ldx, *x = a->x, *bias = a->bias;
    Vector sum[4][FEW_ROWS];
    for (int o = 0; o < outs; o++)
        for (int n = 0; n < N; n++) sum[o][n] = (Vector){0};
    for (int64_t i = 0; i < ldx; i += GROUP) {
        Group weight[4];
        for (int o = 0; o < outs; o++) weight[o] = *(const Group *)(w + o * ldx + i);
        for (int n = 0; n < N; n++) {
            const Group value = *(const Group *)(x + n * ldx + i);
            for (int o = 0; o < outs; o++) sum[o][n] = accumulate(weight[o], value, sum[o][n]);
        }
    }
    stored *y = (stored *)a->y + out;
    for (int o = 0; o < outs; o++)
        for (int n = 0; n < N; n++)
            y[n * ldy + o] = stored_of(sum_of(sum[o][n]) + (bias ? stored_get(bias[out + o]) : 0));
}

/* Rows of W from `out` to `end`. One after the other they are a single stream, which the processor fetches ahead: 31 GB/s on
 * one Zen 4 core at 768 columns, where four side by side come at 11 to 15 as each stream ends with its row. Where the rows of x
 * crowd the first-level cache it is they that are waited for, and as many rows of W share them as sums fit into registers. */
INLINE void stretch(const Linear *a, int64_t ldx, int64_t ldy, int64_t out, int64_t end, int N) {
    enum { ROOMY = 16 << 10 };
    const int outs = VECTOR_BYTES == 64 ? (N <= 4 ? 4 : 3) : N <= 2 ? 4 : N <= 4 ? 2 : 1;
    if (N * ldx * (int64_t)sizeof(stored) > ROOMY)
        for (; out + outs <= end; out += outs) block(a, ldx, ldy, out, outs, N);
    for (; out < end; out++) block(a, ldx, ldy, out, 1, N);
}

void NAME(linear_few_rows)(const Linear *a) {
    enum { STRETCH = 24 };
    const int64_t ldx = padded(a->in), ldy = padded(a->out);
    const int64_t stretches = (a->out + STRETCH - 1) / STRETCH;
#pragma omp parallel for schedule(static) if (a->out * ldx > SERIAL)
    for (int64_t s = 0; s < stretches; s++) {
        const int64_t out = s * STRETCH, end = out + STRETCH < a->out ? out + STRETCH : a->out;
        switch (a->N) {
        case 1: stretch(a, ldx, ldy, out, end, 1); break;
        case 2: stretch(a, ldx, ldy, out, end, 2); break;
        case 3: stretch(a, ldx, ldy, out, end, 3); break;
        case 4: stretch(a, ldx, ldy, out, end, 4); break;
        case 5: stretch(a, ldx, ldy, out, end, 5); break;
        case 6: stretch(a, ldx, ldy, out, end, 6); break;
        case 7: stretch(a, ldx, ldy, out, end, 7); break;
        default: stretch(a, ldx, ldy, out, end, 8); break;
        }
    }
}
