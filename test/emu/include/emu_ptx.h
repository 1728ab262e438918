/*
 * emu_ptx.h: the twins of kernels/cuda/ptx.cuh, which is their manual.
 *
 * ldmatrix and mma are exchanges among the warp's fibers; a lane that is missing, elsewhere, or gives an
 * address outside shared memory or off alignment is a fault. cp.async poisons its destination at once and
 * copies only at the wait that covers its group: a read before that finds poison.
 */
#ifndef EMU_PTX_H
#define EMU_PTX_H

#include "emu.h"

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
static inline float exp2_approx(float x) {
    return exp2f(x);
}
static inline void cp_async_commit() {
    emu::async_copy_commit();
}
template <int pending> static inline void cp_async_wait() {
    emu::async_copy_wait(pending);
}

#endif
