/*
 * optim.h: the update: gradients' norm, clipping, the skip decision, AdamW.
 *
 * All of it happens on the device, from a StepState that lives there (kernels.h): the host only sends the
 * step's learning rate and reads what came of it.
 */
#ifndef OPTIM_H
#define OPTIM_H

#include "model.h"

enum { STEPS_IN_FLIGHT = 2 }; /* in the queue at once: the host prepares one while the device works on the other */

/* What the host sends for a step and what it reads of it: pinned memory, and an event after the latest copy. */
typedef struct StepReport {
    StepInputs *inputs;
    StepState *seen;
    Event *copied;
} StepReport;

typedef struct Optimizer {
    Model *model;
    Accum *m, *v;         /* [elements] first and second moments */
    ParamSlot *slots;     /* [params.count] device */
    StepState *state;     /* device */
    StepReport report[STEPS_IN_FLIGHT];
    uint64_t begun;       /* steps */
    StepState *seen;      /* host: the state after the last optimizer_read() or optimizer_write() */
    void *memory;
} Optimizer;

/* Takes moments (zero) and the state. Exit 1 if memory is short. */
void optimizer_create(Optimizer *optimizer, Model *model);
void optimizer_destroy(Optimizer *optimizer);

/* Before the first micro-step: sends the inputs, zeroes gradients and sums. Waits for the step before the last to be
 * done, whose buffers it takes over. */
void optimizer_begin(Optimizer *optimizer, const StepInputs *inputs);

/* After the last micro-step: decides and, unless the step is skipped, updates the weights. */
void optimizer_update(const Optimizer *optimizer);

/* After that: has the state copied to the host. Returns what to ask optimizer_await() with. */
int optimizer_report(Optimizer *optimizer);

/* Waits until that step is done, and no longer, and returns the state after it: valid until the step after the next
 * begins. */
const StepState *optimizer_await(Optimizer *optimizer, int report);

/* Waits for the queue and returns the state as it is now. */
const StepState *optimizer_read(Optimizer *optimizer);

/* Replaces the state on the device (resume). */
void optimizer_write(Optimizer *optimizer, const StepState *state);

#endif
