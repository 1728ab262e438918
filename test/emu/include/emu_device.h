/*
 * emu_device.h: what CUDA C++ gives device code without an include: qualifiers, threadIdx, barriers,
 * shuffles, votes, atomics, intrinsics; of these what the kernels use. Left out on purpose, so that using it
 * does not compile: __shared__ (see cuda.cuh), atomics on floating point (their order is not fixed),
 * __activemask, __threadfence (blocks meet at the end of a kernel).
 */
#ifndef EMU_DEVICE_H
#define EMU_DEVICE_H

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <type_traits>

#include "emu.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n)    __attribute__((aligned(n)))
#define __launch_bounds__(...)

#define threadIdx (::emu::current->index)
#define blockIdx  (::emu::block_index)
#define blockDim  (::emu::block_size)
#define gridDim   (::emu::grid_size)
static const int warpSize = 32;

/* ---- barriers ---------------------------------------------------------------------------------------- */

static inline void __syncthreads(EMU_SITE) {
    emu::block_barrier(emu::Vote::NONE, 0, {file, line});
}
static inline int __syncthreads_or(int value, EMU_SITE) {
    return emu::block_barrier(emu::Vote::OR, value, {file, line});
}
static inline int __syncthreads_and(int value, EMU_SITE) {
    return emu::block_barrier(emu::Vote::AND, value, {file, line});
}
static inline int __syncthreads_count(int value, EMU_SITE) {
    return emu::block_barrier(emu::Vote::COUNT, value, {file, line});
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_SITE) {
    emu::warp_collective("__syncwarp", mask, nullptr, nullptr, {file, line});
}
[[noreturn]] static inline void __trap() {
    emu::fault("__trap()");
}

/* ---- shuffles ---------------------------------------------------------------------------------------- */

namespace emu {

enum class Shuffle { INDEX, UP, DOWN, XOR };

struct ShuffleLane {
    uint64_t bits;
    int argument, width;
    uint64_t result;
};

/* The lane that `lane` reads from; itself where the source lies outside its segment of `width` lanes. */
template <Shuffle kind> inline unsigned shuffle_source(unsigned lane, int argument, int width) {
    unsigned first = lane & ~(unsigned)(width - 1), last = first + (unsigned)width - 1;
    long source = kind == Shuffle::INDEX  ? (long)(first + ((unsigned)argument & (unsigned)(width - 1)))
                  : kind == Shuffle::UP   ? (long)lane - (unsigned)argument
                  : kind == Shuffle::DOWN ? (long)lane + (unsigned)argument
                                          : (long)(lane ^ (unsigned)argument);
    bool outside = kind == Shuffle::UP ? source < (long)first : source > (long)last;
    return outside ? lane : (unsigned)source;
}

template <Shuffle kind> void shuffle_complete(void *const *payloads, unsigned mask) {
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        ShuffleLane *self = static_cast<ShuffleLane *>(payloads[lane]);
        if (self->width < 1 || self->width > WARP || (self->width & (self->width - 1)))
            fault_lane(lane, "shuffle with width %d; it must be a power of two up to 32", self->width);
        unsigned source = shuffle_source<kind>(lane, self->argument, self->width);
        if (!(mask >> source & 1))
            fault_lane(lane, "shuffle reads lane %u, which mask 0x%08x leaves out", source, mask);
        self->result = static_cast<ShuffleLane *>(payloads[source])->bits;
    }
}

template <Shuffle kind, typename T>
inline T shuffle(const char *name, unsigned mask, T value, int argument, int width, Site site) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "a shuffle moves at most 8 bytes");
    ShuffleLane lane = {0, argument, width, 0};
    memcpy(&lane.bits, &value, sizeof value);
    warp_collective(name, mask, &lane, shuffle_complete<kind>, site);
    memcpy(&value, &lane.result, sizeof value);
    return value;
}

} // namespace emu

template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, EMU_SITE) {
    return emu::shuffle<emu::Shuffle::INDEX>("__shfl_sync", mask, value, lane, width, {file, line});
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_SITE) {
    return emu::shuffle<emu::Shuffle::UP>("__shfl_up_sync", mask, value, (int)delta, width, {file, line});
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_SITE) {
    return emu::shuffle<emu::Shuffle::DOWN>("__shfl_down_sync", mask, value, (int)delta, width, {file, line});
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMU_SITE) {
    return emu::shuffle<emu::Shuffle::XOR>("__shfl_xor_sync", mask, value, lanes, width, {file, line});
}

/* ---- votes and reductions ---------------------------------------------------------------------------- */

namespace emu {
enum class Reduce { ADD, MIN, MAX, AND, OR, BALLOT };
template <typename T> struct ReduceLane { T value, result; };
template <Reduce kind, typename T> T reduce_two(T a, T b) {
    return kind == Reduce::ADD   ? (T)(a + b)
           : kind == Reduce::MIN ? (b < a ? b : a)
           : kind == Reduce::MAX ? (a < b ? b : a)
           : kind == Reduce::AND ? (a & b)
                                 : (a | b);
}
template <Reduce kind, typename T> void reduce_complete(void *const *payloads, unsigned mask) {
    T total = T();
    bool first = true;
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        T value = static_cast<ReduceLane<T> *>(payloads[lane])->value;
        if (kind == Reduce::BALLOT) value = value ? (T)(1u << lane) : T();
        total = first ? value : reduce_two<kind>(total, value);
        first = false;
    }
    for (unsigned lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1) static_cast<ReduceLane<T> *>(payloads[lane])->result = total;
}
template <Reduce kind, typename T> inline T reduce(const char *name, unsigned mask, T value, Site site) {
    ReduceLane<T> lane = {value, T()};
    warp_collective(name, mask, &lane, reduce_complete<kind, T>, site);
    return lane.result;
}
} // namespace emu

static inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_SITE) {
    return emu::reduce<emu::Reduce::BALLOT>("__ballot_sync", mask, (unsigned)(predicate != 0), {file, line});
}
static inline int __any_sync(unsigned mask, int predicate, EMU_SITE) {
    return emu::reduce<emu::Reduce::OR>("__any_sync", mask, (int)(predicate != 0), {file, line});
}
static inline int __all_sync(unsigned mask, int predicate, EMU_SITE) {
    return emu::reduce<emu::Reduce::AND>("__all_sync", mask, (int)(predicate != 0), {file, line});
}
#define EMU_REDUCE(name, kind, type)                                                                         \
    static inline type name(unsigned mask, type value, EMU_SITE) {                                           \
        return emu::reduce<emu::Reduce::kind>(#name, mask, value, {file, line});                             \
    }
EMU_REDUCE(__reduce_add_sync, ADD, unsigned)
EMU_REDUCE(__reduce_add_sync, ADD, int)
EMU_REDUCE(__reduce_min_sync, MIN, unsigned)
EMU_REDUCE(__reduce_min_sync, MIN, int)
EMU_REDUCE(__reduce_max_sync, MAX, unsigned)
EMU_REDUCE(__reduce_max_sync, MAX, int)
#undef EMU_REDUCE

/* ---- atomics: on integers; each is one step, since a fiber yields only at barriers ------------------- */

/* The race checker is told of the access as a whole. */
#ifdef EMU_RACE
namespace emu {
void race_atomic(const void *memory, size_t bytes, const void *code);
}
#define EMU_ATOMICALLY __attribute__((no_sanitize("thread"), noinline))
#else
namespace emu {
inline void race_atomic(const void *, size_t, const void *) {}
} // namespace emu
#define EMU_ATOMICALLY inline
#endif

#define EMU_ATOMIC(name, expression)                                                                         \
    template <typename T, typename = std::enable_if_t<std::is_integral<T>::value>>                           \
    static EMU_ATOMICALLY T name(T *address, std::common_type_t<T> value) {                                  \
        emu::race_atomic(address, sizeof(T), __builtin_return_address(0));                                   \
        T old = *address;                                                                                    \
        *address = (T)(expression);                                                                          \
        return old;                                                                                          \
    }
EMU_ATOMIC(atomicAdd, old + value)
EMU_ATOMIC(atomicExch, value)
EMU_ATOMIC(atomicMin, value < old ? value : old)
EMU_ATOMIC(atomicMax, value > old ? value : old)
EMU_ATOMIC(atomicOr, old | value)
#undef EMU_ATOMIC
template <typename T, typename = std::enable_if_t<std::is_integral<T>::value>>
static EMU_ATOMICALLY T atomicCAS(T *address, std::common_type_t<T> compare, std::common_type_t<T> value) {
    emu::race_atomic(address, sizeof(T), __builtin_return_address(0));
    T old = *address;
    if (old == compare) *address = value;
    return old;
}

/* ---- a store with a cache hint -------------------------------------------------------------- */

template <typename T> static inline void __stwb(T *address, std::common_type_t<T> value) {
    *address = value;
}

#include "emu_math.h"

#endif
