/* slots.cuh: which parameter does an element of the arenas belong to, and how many blocks does a range of them take? */
#ifndef SLOTS_CUH
#define SLOTS_CUH

#include "types.cuh"

/* The last slot that starts at or before the element: slots are in order and without holes. */
static __device__ __forceinline__ int find_slot(const ParamSlot *__restrict__ slots, int n_slots, int64_t element) {
    int low = 0, high = n_slots - 1;
    while (low < high) {
        const int middle = low + (high - low + 1) / 2;
        if (slots[middle].offset <= element)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

static inline unsigned chunks_of(int64_t elements, int64_t chunk, const char *operation) {
    const int64_t chunks = ceil_div(elements, chunk);
    check(chunks <= INT32_MAX, "%s: %lld elements are more than a launch can hold", operation,
          (long long)elements);
    return (unsigned)chunks;
}

#endif
