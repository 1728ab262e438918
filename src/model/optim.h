/*
 * optim.h: the update: gradients' norm, clipping, the skip decision, AdamW, and Muon for what is its own (muon.h).
 *
 * All of it happens on the device, from a StepState that lives there (kernels.h): the host only sends the
 * step's learning rate and reads what came of it.
 *
 * Several ranks share the work by the buckets of params.h. Each bucket's gradients are summed over the ranks, a piece a
 * rank, while the layers below are still in backward; the sums of squares are of the pieces, so that all ranks decide
 * alike. With --zero 1 a rank then updates its own piece, holds moments for that alone, and the weights are gathered
 * from all, a bucket at a time while the next one is updated, and while the next forward is in the layers before: it waits
 * where it first reads a bucket (model_await()). The lower halves of bf16's masters are held as moments are. With --zero 0 the
 * gradients are gathered instead and every rank updates everything. The bits are the same. Vectors are few: all ranks update
 * all of them.
 *
 * All this goes on in a queue of its own, the exchange; collectives in the model's queue come when that is at rest: the
 * state's sums, and Muon's, which all come before the first weights are gathered.
 *
 * With --reduce-dtype a bucket's gradients travel in a narrower type: rounded to nearest even into a staging buffer, summed
 * there (on a CPU in fp32 and rounded once, by NCCL rounded after each addition), gathered there if they are, and widened
 * back. So everything after the sum (norm, clipping, AdamW) is of the same rounded values on every rank, and an infinity or a
 * NaN stays one. One buffer, of the largest bucket, serves all: the exchange queue takes buckets one after the other.
 * Vectors are summed as they are accumulated: there are too few of them to save bytes, and each is a sum over all tokens, a
 * gate a single number, with no neighbour to make up for its error. (Megatron's gradients have their parameter's type as
 * well, where they are not all fp32; PyTorch's FSDP narrows all but those of modules that are named.)
 */
#ifndef OPTIM_H
#define OPTIM_H

#include "muon.h"

enum { STEPS_IN_FLIGHT = 2 }; /* in the queue at once: the host prepares one while the device works on the other */

/* What the host sends for a step and what it reads of it: pinned memory, and events after the latest copies. */
typedef struct StepReport {
    StepInputs *inputs;
    StepState *seen;
    Event *copied;
    uint64_t *lost; /* [ranks] elements that each rank's own shares lost; NULL: no rank has any of its own */
    Event *lost_copied;
} StepReport;

typedef struct Optimizer {
    Model *model;
    Accum *m, *v;         /* [moments], [second_moments] of what this rank updates */
    int64_t moments, second_moments; /* elements; of AdamW's parameters alone, the second */
    int64_t *v_shift;     /* [params.count] host: where they lie (params.h) */
    Muon muon;
    const Share *share;   /* [params.buckets] the model's */
    Queue *exchange;      /* where buckets are reduced and gathered; NULL: one rank */
    Event *summed, *reduced; /* gradients of a bucket are there; all buckets are reduced */
    Event **updated;      /* [params.buckets] this rank's piece of the weights is there, of the last with
                           * what all have lost; NULL: ranks share no update */
    void *staging;        /* a bucket's gradients in the type that they travel in; NULL where that is Accum */
    uint64_t *lost;       /* [ranks] device: as in StepReport */
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

/* In backward of the last micro-step, when the gradients of this layer and all above are there (L: of the head, −1: of the
 * embedding): has the ranks sum those that are complete. Nothing where there is one rank. */
void optimizer_reduce(Optimizer *optimizer, int layer);

/* After the last micro-step: decides and, unless the step is skipped, updates the weights. May be captured. */
void optimizer_update(Optimizer *optimizer);

/* After that, where updates are shared: has the ranks gather the weights. May be captured, as work of the exchange. */
void optimizer_gather(Optimizer *optimizer);

/* After that, not captured: ends what the ranks exchange in this step. */
void optimizer_complete(Optimizer *optimizer);

/* After that: has the state copied to the host. Returns what to ask optimizer_await() with. */
int optimizer_report(Optimizer *optimizer);

/* Waits until that step is done, and no longer, and returns the state after it, which is every rank's: valid until the
 * step after the next begins. */
const StepState *optimizer_await(Optimizer *optimizer, int report);

/* Waits for the queue and returns the state as it is now. */
const StepState *optimizer_read(Optimizer *optimizer);

/* Replaces the state on the device (resume). */
void optimizer_write(Optimizer *optimizer, const StepState *state);

/* All masters, whole, on every rank, between two steps, enqueued: all ranks ask for them. Where they are held in halves they are
 * put together in the arena of gradients, and lie there until the next step begins. */
Accum *optimizer_masters(Optimizer *optimizer);

/* After the update: the summed gradients on every rank, in their arena, enqueued; all ranks ask for them. */
void optimizer_gradients(Optimizer *optimizer);

/* Bytes of the moments of a rank. */
size_t optimizer_moment_bytes(const Config *config, const Params *params, DType accum);

/* Bytes of the buffer in which a rank's gradients travel, where that is not the arena itself. */
size_t optimizer_staging_bytes(const Config *config, const Params *params, DType accum);

#endif
