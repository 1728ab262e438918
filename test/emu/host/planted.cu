/* planted.cu: see planted.h. */
#include "planted.h"
#include "types.cuh"

double planted_lr;

static __global__ void write_lr(StepState *state, double lr) {
    if (threadIdx.x == 0) state->in.lr = lr;
}

void planted_adamw(Queue *queue, const AdamW *args) {
    LAUNCH(write_lr, 1, 32, 0, queue->stream, const_cast<StepState *>(args->state), planted_lr);
    kernels_cuda_f32.adamw(queue, args);
}
