/*
 * attention_operand.h: what does a product of tiles multiply, in each type?
 *
 * A product sums over k. An `operand` is what a row of A, or a lane of B, gives to one step of that sum: a `real`, of one k;
 * in bf16 a pair of Storage's numbers, of an even k and the next. AVX512-BF16 multiplies sixteen pairs by sixteen and
 * adds both products of each to a float, in the time of a multiplication in float (Zen 4); elsewhere pairs are widened.
 *
 * Tiles of operands come in two layouts, after where their k lies:
 *
 *   along    [row][k / PAIR]    a row is a row of Storage
 *   across   [k / PAIR][lane]   rows k and k + 1 are one, their numbers alternating
 *
 * Where PAIR is 1 the two are the same rows, read the one way or the other. An operand is as wide as a real.
 */
#ifndef ATTENTION_OPERAND_H
#define ATTENTION_OPERAND_H

#include "stored.h"
#include "vector.h"

#if defined(CPU_BF16) && defined(__AVX512BF16__)
#include <immintrin.h>
#define MULTIPLIES_PAIRS 1
#if defined(__AMX_BF16__) || defined(__AMXBF16__) /* gcc's name, clang's */
#define MULTIPLIES_TILES 1 /* where the processor and the system let it, too: multiplies_tiles (product.h) */
#endif
#endif

#ifdef CPU_BF16
typedef uint32_t operand __attribute__((may_alias)); /* the even k in the lower half, as it lies in memory */
enum { PAIR = 2 };
#else
typedef real operand;
enum { PAIR = 1 };
#endif

/* gcc would read a vector of B again for each row that uses it, and the loads would be the limit. */
#if defined(__AVX512F__)
#define KEEP_IN_REGISTER(vector) __asm__("" : "+v"(vector))
#elif defined(__x86_64__)
#define KEEP_IN_REGISTER(vector) __asm__("" : "+x"(vector))
#else
#define KEEP_IN_REGISTER(vector) (void)(vector)
#endif

/* --- Steps of a sum: lanes of operands, and sum += a·b for one operand or for lanes of them --------------------- */

#if !defined(CPU_BF16)
typedef Vector Lanes;

INLINE Lanes lanes_read(const operand *from) { return *(const Vector *)from; }
INLINE void lanes_keep(Lanes *lanes) { KEEP_IN_REGISTER(*lanes); }
INLINE void lanes_add_one(Vector *sum, operand a, const Lanes *b) { *sum += a * *b; }
INLINE void lanes_add(Vector *sum, const Lanes *a, const Lanes *b) { *sum += *a * *b; }

#elif defined(MULTIPLIES_PAIRS)
typedef __m512i Lanes;

INLINE Lanes lanes_read(const operand *from) { return _mm512_load_si512(from); }
INLINE void lanes_keep(Lanes *lanes) { KEEP_IN_REGISTER(*lanes); }
INLINE void lanes_add(Vector *sum, const Lanes *a, const Lanes *b) {
    *sum = (Vector)_mm512_dpbf16_ps((__m512)*sum, (__m512bh)*a, (__m512bh)*b);
}
INLINE void lanes_add_one(Vector *sum, operand a, const Lanes *b) {
    const Lanes all = _mm512_set1_epi32((int)a);
    lanes_add(sum, &all, b);
}

#else
typedef uint32_t Pairs __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef struct Lanes {
    Vector even, odd;
} Lanes;

INLINE Lanes lanes_read(const operand *from) {
    const Pairs pairs = *(const Pairs *)from;
    return (Lanes){(Vector)(pairs << 16), (Vector)(pairs & 0xffff0000)};
}
INLINE void lanes_keep(Lanes *lanes) {
    KEEP_IN_REGISTER(lanes->even);
    KEEP_IN_REGISTER(lanes->odd);
}
INLINE void lanes_add(Vector *sum, const Lanes *a, const Lanes *b) {
    *sum += a->even * b->even;
    *sum += a->odd * b->odd;
}
INLINE void lanes_add_one(Vector *sum, operand a, const Lanes *b) {
    *sum += stored_get((stored){(uint16_t)a}) * b->even;
    *sum += stored_get((stored){(uint16_t)(a >> 16)}) * b->odd;
}
#endif

/* --- Rounding to operands: rows of 32 of `real`, aligned; where PAIR is 1 they are what they are ------------------ */

#if !defined(CPU_BF16)
INLINE void operands_along(operand *to, const real *row) { (void)to, (void)row; }
INLINE void operands_across(operand *to, const real *even, const real *odd) { (void)to, (void)even, (void)odd; }

#elif defined(MULTIPLIES_PAIRS)
/* (The instruction takes subnormal numbers for zero, and so does the product.) */
INLINE void operands_along(operand *to, const real *row) {
    _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(row + 16), _mm512_load_ps(row)));
}
INLINE void operands_across(operand *to, const real *even, const real *odd) {
    __m512i order = _mm512_cvtepu16_epi32(_mm256_set_epi16(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    order = _mm512_or_si512(order, _mm512_slli_epi32(_mm512_add_epi32(order, _mm512_set1_epi32(16)), 16));
    for (int j = 0; j < 32; j += 16) {
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_load_ps(odd + j), _mm512_load_ps(even + j));
        _mm512_store_si512(to + j, _mm512_permutexvar_epi16(order, both));
    }
}

#else
INLINE void operands_along(operand *to, const real *row) { bf16_narrow((stored *)to, row, 32); }
INLINE void operands_across(operand *to, const real *even, const real *odd) {
#pragma omp simd
    for (int j = 0; j < 32; j++) to[j] = stored_of(even[j]).bits | (uint32_t)stored_of(odd[j]).bits << 16;
}
#endif

#endif
