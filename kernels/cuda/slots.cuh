/* slots.cuh: which parameter does an element of the arenas belong to, how many blocks does a range of them take, and how are masters
 * held? */
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

/* --------------------------------------------------------------------------------------------------------
 * Masters, a pack at a time: whole, or in halves (kernels.h). Args: of an update.
 * ------------------------------------------------------------------------------------------------------ */

/* A NaN whose upper half is one, too: of others 0x8000 more may be none. */
static __device__ __forceinline__ float quiet(float master) {
    return isnan(master) ? __uint_as_float(0x7fc00000u) : master;
}

/* Two masters of the words that hold their halves, the first one's in the lower bits: with its sign turned, a lower half is what
 * 0x8000 more than the master has there. */
static __device__ __forceinline__ void join_pair(float &first, float &second, uint32_t upper, uint32_t lower) {
    lower ^= 0x80008000u;
    first = __uint_as_float((upper << 16 | (lower & 0xffffu)) - 0x8000u);
    second = __uint_as_float(((upper & 0xffff0000u) | lower >> 16) - 0x8000u);
}
static __device__ __forceinline__ uint32_t upper_pair(float first, float second) {
    return (__float_as_uint(first) + 0x8000u) >> 16 | ((__float_as_uint(second) + 0x8000u) & 0xffff0000u);
}
static __device__ __forceinline__ uint32_t lower_pair(float first, float second) {
    return (__float_as_uint(first) & 0xffffu) | __float_as_uint(second) << 16;
}

template <bool HALVES, typename Args> __device__ __forceinline__ void load_masters(float (&w)[PACK], const Args &args, int64_t i) {
    if constexpr (HALVES) {
        const uint4 upper = *reinterpret_cast<const uint4 *>(static_cast<const bf16 *>(args.storage) + i);
        const uint4 lower = *reinterpret_cast<const uint4 *>(args.lower + i);
        join_pair(w[0], w[1], upper.x, lower.x), join_pair(w[2], w[3], upper.y, lower.y);
        join_pair(w[4], w[5], upper.z, lower.z), join_pair(w[6], w[7], upper.w, lower.w);
    } else {
        load_pack(w, static_cast<const float *>(args.master) + i);
    }
}

/* Masters that are NaN must be quiet(). */
template <bool HALVES, typename Args> __device__ __forceinline__ void store_masters(const Args &args, int64_t i, const float (&w)[PACK]) {
    if constexpr (HALVES) {
        __stwb(reinterpret_cast<uint4 *>(static_cast<bf16 *>(args.storage) + i),
               make_uint4(upper_pair(w[0], w[1]), upper_pair(w[2], w[3]), upper_pair(w[4], w[5]), upper_pair(w[6], w[7])));
        __stwb(reinterpret_cast<uint4 *>(args.lower + i),
               make_uint4(lower_pair(w[0], w[1]), lower_pair(w[2], w[3]), lower_pair(w[4], w[5]), lower_pair(w[6], w[7])));
    } else {
        store_pack(static_cast<float *>(args.master) + i, w);
    }
}

/* Whether it is a finite number as it is held: from 0x1.ffp127 on the upper half is infinite. */
template <bool HALVES> __device__ __forceinline__ bool is_held(float master) {
    return HALVES ? fabsf(master) < 0x1.ffp127f : isfinite(master);
}

#endif
