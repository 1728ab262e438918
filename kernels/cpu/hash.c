/*
 * hash.c: are these the bits that another rank has? (kernels.h)
 *
 * Off the hot path, bound by memory. A sum modulo 2^64 has no order, so threads may take whatever pieces.
 */
#include "rows.h"

/* Of word i: a bijection of the 64 bits that the word and its number make (splitmix64's last steps, Steele, Lea and Flood
 * 2014), so that one word that differs always shows. */
static uint64_t mix(uint32_t word, int64_t i) {
    uint64_t x = (uint64_t)i << 32 | word;
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

void NAME(hash)(Queue *queue, const Hash *args) {
    (void)queue;
    const uint32_t *words = args->words;
    uint64_t sum = 0;
#pragma omp parallel for schedule(static) reduction(+ : sum) if (args->n > 65536)
    for (int64_t i = 0; i < args->n; i++) sum += mix(words[i], i);
    *args->out = sum;
}
