/*
 * cuda_bf16.h: __nv_bfloat16 and its conversions. Arithmetic on bf16 is deleted on purpose: a kernel computes
 * in float and says where it rounds. Converting a value that nobody wrote (emu::POISON) is a fault.
 */
#ifndef EMU_CUDA_BF16_H
#define EMU_CUDA_BF16_H

#include <string.h>

#include "emu.h"

namespace emu {
inline float bf16_to_float(uint16_t bits) {
    if (__builtin_expect(bits == POISON_BF16, 0)) poison_fault("bf16");
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}
/* To nearest, ties to even; every NaN becomes 0x7fff, as on the device. */
inline uint16_t float_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (__builtin_expect((bits & 0x7fffffffu) > 0x7f800000u, 0)) {
        if (bits == POISON) poison_fault("float");
        return 0x7fff;
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
/* Rounded once: the float in between is rounded to odd, which keeps the second rounding honest. */
inline uint16_t double_to_bf16(double value) {
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, 4);
    bool inexact = (double)narrow != value && value == value;
    if (inexact && !(bits & 1)) {
        /* The odd neighbour on value's side: one step in magnitude. */
        bool too_far = (narrow < 0 ? -(double)narrow : (double)narrow) > (value < 0 ? -value : value);
        bits += too_far ? -1 : 1;
        memcpy(&narrow, &bits, 4);
    }
    return float_to_bf16(narrow);
}
} // namespace emu

struct __nv_bfloat16_raw {
    unsigned short x;
};

struct __nv_bfloat16 {
    unsigned short __x;
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) : __x(emu::float_to_bf16(value)) {}
    __nv_bfloat16(__nv_bfloat16_raw raw) : __x(raw.x) {}
    explicit __nv_bfloat16(double value) : __x(emu::double_to_bf16(value)) {}
    explicit __nv_bfloat16(int value) : __x(emu::double_to_bf16(value)) {}
    operator float() const { return emu::bf16_to_float(__x); }
};
typedef __nv_bfloat16 nv_bfloat16;

struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
    __nv_bfloat162() = default;
    __nv_bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) : x(low), y(high) {}
};

#define EMU_NO_BF16(op)                                                                                      \
    __nv_bfloat16 operator op(__nv_bfloat16, __nv_bfloat16) = delete;                                        \
    __nv_bfloat162 operator op(__nv_bfloat162, __nv_bfloat162) = delete;
EMU_NO_BF16(+)
EMU_NO_BF16(-)
EMU_NO_BF16(*)
EMU_NO_BF16(/)
#undef EMU_NO_BF16

static inline __nv_bfloat16 __float2bfloat16(float v) {
    return __nv_bfloat16(v);
}
static inline __nv_bfloat16 __double2bfloat16(double v) {
    return __nv_bfloat16(v);
}
static inline float __bfloat162float(__nv_bfloat16 v) {
    return emu::bf16_to_float(v.__x);
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short v) {
    return __nv_bfloat16(__nv_bfloat16_raw{v});
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) {
    return v.__x;
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) {
    return {__nv_bfloat16(low), __nv_bfloat16(high)};
}

#endif
