/* slots.h: how is a range of the arenas cut into pieces for threads, and which parameter is an element of? */
#ifndef SLOTS_H
#define SLOTS_H

#include "rows.h"

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

#endif
