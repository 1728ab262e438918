/* slots.h: how is a range of the arenas cut into pieces for threads, which parameter is an element of, and how do masters become
 * the copy that products read? */
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

/* The copy in Storage of elements first … first + n − 1, whose masters are given, where there is one apart. Returns how many
 * finite numbers have none there: they are too large for it. */
static inline int storage_follow(Storage *storage, const Accum *masters, int64_t first, const real *master, int64_t n) {
    if (!storage || storage == masters) return 0;
    row_write(storage, first, master, n);
    int lost = 0;
#ifdef CPU_BF16
    const stored *copy = (const stored *)storage + first;
#pragma omp simd reduction(+ : lost)
    for (int64_t i = 0; i < n; i++) {
        real value = stored_get(copy[i]);
        lost += (value - value != 0) & (master[i] - master[i] == 0);
    }
#endif
    return lost;
}

#endif
