/*
 * step.h: a training step as work in the queue: operation by operation, or as graphs that were captured once.
 *
 * A graph is launched with one call where its operations take one each: a small model's step is shorter than the
 * host needs to launch its kernels. Captured are a micro-step and the update, the first micro-step apart,
 * which overwrites gradients, and with several ranks the last one, with the reductions beside backward, and the gather of
 * the weights, in the queue of the exchange, so that the next forward need not wait for all of it; what has its own rhythm (BHyT's refresh, telemetry, validation) stays
 * outside. Captured arguments are frozen, which nothing notices: all that changes from step to step is on the
 * device already (StepInputs in the StepState, tokens in their buffer).
 *
 * The first step runs operation by operation: GEMM algorithms are chosen then, and kernels loaded.
 */
#ifndef STEP_H
#define STEP_H

#include "optim.h"

typedef struct Step {
    Optimizer *optimizer;
    Graph *micro[2][2];      /* [first of an update][and the ranks reduce beside it]; NULL until captured, as all */
    Graph *update, *gather;
    bool graphs; /* --cuda-graph, decided */
    bool warm;   /* one step has run */
} Step;

/* Decides on graphs (exit 2 if they were asked for and the device has none) and, with --gemm-tune, has the first
 * step measure, on rank 0, whose choices are every rank's afterwards. */
void step_create(Step *step, Optimizer *optimizer);
void step_destroy(Step *step);

/* Forward, loss and backward of what was fed; in the last micro-step of an update the ranks sum their gradients. */
void step_micro(Step *step, bool last);

/* The decision and the update, after the last micro-step. */
void step_update(Step *step);

#endif
