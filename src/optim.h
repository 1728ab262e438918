/*
 * optim.h: the update: gradients' norm, clipping, the skip decision, AdamW.
 *
 * All of it happens on the device, from a StepState that lives there (kernels.h): the host only sends the
 * step's learning rate and reads what came of it.
 */
#ifndef OPTIM_H
#define OPTIM_H

#include "model.h"

typedef struct Optimizer {
    Model *model;
    Accum *m, *v;         /* [elements] first and second moments */
    ParamSlot *slots;     /* [params.count] device */
    StepState *state;     /* device */
    StepInputs *inputs;   /* host, read by an asynchronous copy: written only after the queue was waited for */
    StepState *seen;      /* host: the state after the last optimizer_read() */
    void *memory;
} Optimizer;

/* Takes moments (zero) and the state. Exit 1 if memory is short. */
void optimizer_create(Optimizer *optimizer, Model *model);
void optimizer_destroy(Optimizer *optimizer);

/* Before the first micro-step: sends the inputs, zeroes gradients and sums. */
void optimizer_begin(Optimizer *optimizer, const StepInputs *inputs);

/* After the last micro-step: decides and, unless the step is skipped, updates the weights. */
void optimizer_update(Optimizer *optimizer);

/* Waits for the queue and returns the state as it is now. */
const StepState *optimizer_read(Optimizer *optimizer);

/* Replaces the state on the device (resume). */
void optimizer_write(Optimizer *optimizer, const StepState *state);

#endif
