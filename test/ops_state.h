/* ops_state.h: the state of a step in the middle of a training, for cases of operations that read or write it. */
#ifndef OPS_STATE_H
#define OPS_STATE_H

#include "ops_harness.h"

#include <stddef.h>

#define MEMBER(c, state, name, role, n) inside(c, state, #name, role, offsetof(StepState, name), n)

/* The count of lost elements: exact, and 3 before the call. */
static inline void count_lost(Case *c, Tensor *state, Role role) {
    Tensor *count = constant(MEMBER(c, state, non_finite, role, 1), 3);
    count->integer = count->exact = true;
}

static inline StepState some_state(void) {
    return (StepState){.in = {.lr = 1e-3, .loss_scale = 1.0 / 17, .step = 4},
                       .loss_sum = 2.5,
                       .sum_squares = {0.75, 0.25},
                       .clip_scale = {0.6, 0.35},
                       .bias_correction = {1 - 0.9 * 0.9 * 0.9, 1 - 0.95 * 0.95 * 0.95},
                       .applied = 3};
}

#endif
