/*
 * emu_ptx.h: the twins of kernels/cuda/ptx.cuh, which is their manual.
 *
 * ldmatrix and mma are exchanges among the warp's fibers; a lane that is missing, elsewhere, or gives an
 * address outside shared memory or off alignment is a fault. cp.async poisons its destination at once and
 * copies only at the wait that covers its group: a read before that finds poison. Approximations err as much as
 * they may.
 */
#ifndef EMU_PTX_H
#define EMU_PTX_H

#include "emu.h"

#include <float.h>
#include <math.h>
#include <string.h>

namespace emu {
void ldmatrix(uint32_t *registers, const void *shared_row, int matrices, bool transpose, Site site);
void mma_m16n8k16(float *d, const uint32_t *a, const uint32_t *b, const float *c, Site site);
} // namespace emu

static inline uint32_t shared_address(const void *shared) {
    return emu::shared_offset(shared, 1, "shared_address");
}

static inline void ldmatrix_x4(uint32_t (&r)[4], const void *shared_row, EMU_SITE) {
    emu::ldmatrix(r, shared_row, 4, false, {file, line});
}
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *shared_row, EMU_SITE) {
    emu::ldmatrix(r, shared_row, 4, true, {file, line});
}
static inline void ldmatrix_x2(uint32_t (&r)[2], const void *shared_row, EMU_SITE) {
    emu::ldmatrix(r, shared_row, 2, false, {file, line});
}
static inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void *shared_row, EMU_SITE) {
    emu::ldmatrix(r, shared_row, 2, true, {file, line});
}
static inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     const float (&c)[4], EMU_SITE) {
    emu::mma_m16n8k16(d, a, b, c, {file, line});
}
static inline void cp_async_16(void *shared, const void *global, bool copy = true) {
    emu::async_copy_start(shared, global, 16, copy);
}
static inline void cp_async_4(void *shared, const void *global) {
    emu::async_copy_start(shared, global, 4, true);
}

/* A result that is off by as much as the documentation lets an approximation be: up to `ulps`, up or down as the
 * argument's bits have it. Zero, infinite and NaN are exact; what is denormal, or would be, is zero. */
static inline float emu_approximate(float exact, float argument, int ulps) {
    int32_t bits;
    uint32_t hash;
    memcpy(&bits, &exact, sizeof bits);
    memcpy(&hash, &argument, sizeof hash);
    if (fabsf(exact) < FLT_MIN) return copysignf(0, exact);
    if (!isfinite(exact)) return exact;
    hash = (hash ^ hash >> 15) * 0x9e3779b1u;
    bits += (int)((hash >> 16) % (2 * (unsigned)ulps + 1)) - ulps;
    memcpy(&exact, &bits, sizeof exact);
    return exact;
}
static inline float exp2_approx(float x) {
    return x == 0 ? 1 : emu_approximate(exp2f(x), x, 2);
}
static inline float reciprocal_approx(float x) {
    return emu_approximate(1 / (fabsf(x) < FLT_MIN ? copysignf(0, x) : x), x, 1);
}
static inline void cp_async_commit() {
    emu::async_copy_commit();
}
template <int pending> static inline void cp_async_wait() {
    emu::async_copy_wait(pending);
}

#endif
