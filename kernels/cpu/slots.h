/* slots.h: how is a range of the arenas cut into pieces for threads, which parameter is an element of, and how are masters held? */
#ifndef SLOTS_H
#define SLOTS_H

#include "rows.h"
#include "stored.h"

enum { CHUNK = 1 << 15 }; /* elements; a multiple of 64 */

static inline int64_t chunk_count(int64_t elements) { return (elements + CHUNK - 1) / CHUNK; }

/* The slot that holds element `at`, or the first one after it; n_slots where there is none. */
static inline int slot_find(const ParamSlot *slots, int n_slots, int64_t at) {
    int low = 0, high = n_slots;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (slots[middle].offset + slots[middle].count <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Masters of a range of the arenas: whole or, where `lower` is given, in halves (kernels.h). */
typedef struct Masters {
    Accum *whole;
    Storage *upper;
    uint16_t *lower;
} Masters;

enum { MASTERS = 2048 }; /* at once: as many as the buffers hold */

#ifdef CPU_BF16
static inline void halves_join(float *restrict to, const Bf16 *restrict upper, const uint16_t *restrict lower, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits = ((uint32_t)upper[i].bits << 16) + (uint32_t)(int32_t)(int16_t)lower[i];
        memcpy(&to[i], &bits, sizeof bits);
    }
}

/* A finite number may round to infinity. Returns how many do. */
static inline int halves_split(Bf16 *restrict upper, uint16_t *restrict lower, const float *restrict from, int64_t n) {
    int lost = 0;
#pragma omp simd reduction(+ : lost)
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &from[i], sizeof bits);
        const uint32_t size = bits & 0x7fffffff, nearest = (bits + 0x8000) >> 16;
        upper[i].bits = (uint16_t)(size > 0x7f800000 ? bits >> 16 | 0x40 : nearest);
        lower[i] = (uint16_t)bits;
        lost += (size < 0x7f800000) & ((nearest & 0x7fff) == 0x7f80);
    }
    return lost;
}
#endif

/* n masters from element `first` on, to be changed: there, or joined in the buffer. */
static inline real *masters_read(Masters m, int64_t first, real buffer[MASTERS], int64_t n) {
#ifdef CPU_BF16
    if (m.lower) {
        halves_join(buffer, (const Bf16 *)m.upper + first, m.lower + first, n);
        return buffer;
    }
#endif
    (void)buffer, (void)n;
    return (real *)m.whole + first;
}

/* Puts back what masters_read() gave. Returns how many finite numbers have no upper half: they are too large for it. */
static inline int masters_write(Masters m, int64_t first, const real *masters, int64_t n) {
#ifdef CPU_BF16
    if (m.lower) return halves_split((Bf16 *)m.upper + first, m.lower + first, masters, n);
#endif
    (void)m, (void)first, (void)masters, (void)n;
    return 0;
}

#endif
