/*
 * frozen_kernels.h: cpu/f64 with stop-gradients that differences can see through (MATH.md §7).
 *
 * A stop-gradient is no derivative: its operand is a constant. So the base forward records the operand of
 * every one, and perturbed forwards take the recorded operand where the shipped kernels take the live one:
 *
 *   GPAS   r = u − act(g)·sg(u)    the whole of u is recorded, as s·u cannot say it; act(g) stays live: its
 *                                  gradient is g's
 *   bhyt   v̂ = sg(a)·v + sg(b)     both numbers (they hold s, λ₁, c, mean γ₁², mean α_O²); v stays live
 *
 * The model under test is the shipped one; it is only handed this table of kernels. Operations are known by
 * their order, which is that of the forward pass.
 */
#ifndef FROZEN_KERNELS_H
#define FROZEN_KERNELS_H

#include "../kernels/kernels.h"

typedef enum FrozenMode {
    FROZEN_OFF,    /* cpu/f64 as it is: for backward, and for the unfrozen check */
    FROZEN_RECORD, /* the same, and operands are noted */
    FROZEN_REPLAY, /* the noted operands are taken, in the order in which they were noted */
} FrozenMode;

/* The table; the mode is OFF at first. One model at a time. */
const Kernels *frozen_kernels(void);

/* From here on. RECORD forgets what was recorded, REPLAY starts from the first. */
void frozen_mode(FrozenMode mode);

/* Operands recorded, and frees them. */
int frozen_count(void);
void frozen_forget(void);

#endif
