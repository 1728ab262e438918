/* optim.c: see optim.h. */
#include "optim.h"

#include <stdlib.h>

static size_t moment_bytes(const Optimizer *o) {
    return (size_t)o->model->params.elements * dtype_size(o->model->k->accum);
}

static void lay_out(Optimizer *o, Arena *arena) {
    o->m = arena_take(arena, moment_bytes(o));
    o->v = arena_take(arena, moment_bytes(o));
    o->slots = arena_take(arena, (size_t)o->model->params.count * sizeof *o->slots);
    o->state = arena_take(arena, sizeof *o->state);
}

static void *host_memory(const Kernels *k, size_t bytes) {
    void *memory = k->host_alloc(bytes);
    require(memory, "out of memory: %zu bytes of host memory for the step's state", bytes);
    return memory;
}

void optimizer_create(Optimizer *o, Model *model) {
    const Kernels *k = model->k;
    *o = (Optimizer){.model = model};
    Arena counted = {0}, placed = {0};
    lay_out(o, &counted);
    o->memory = placed.base = arena_memory(k, counted.used, "AdamW's moments", "a smaller model takes less");
    lay_out(o, &placed);
    o->seen = host_memory(k, sizeof *o->seen);
    *o->seen = (StepState){0};
    for (int i = 0; i < STEPS_IN_FLIGHT; i++)
        o->report[i] = (StepReport){.inputs = host_memory(k, sizeof(StepInputs)),
                                    .seen = host_memory(k, sizeof(StepState)),
                                    .copied = k->event_create()};

    ParamSlot *slots = params_slots(&model->params, model->config);
    k->copy(model->queue, o->slots, slots, (size_t)model->params.count * sizeof *slots, COPY_TO_DEVICE);
    k->queue_wait(model->queue);
    free(slots);
}

void optimizer_destroy(Optimizer *o) {
    const Kernels *k = o->model->k;
    k->queue_wait(o->model->queue);
    k->release(o->memory);
    k->host_release(o->seen);
    for (int i = 0; i < STEPS_IN_FLIGHT; i++) {
        k->host_release(o->report[i].inputs);
        k->host_release(o->report[i].seen);
        k->event_destroy(o->report[i].copied);
    }
}

void optimizer_begin(Optimizer *o, const StepInputs *inputs) {
    const Model *model = o->model;
    const Kernels *k = model->k;
    StepReport *report = &o->report[o->begun++ % STEPS_IN_FLIGHT];
    k->event_host_wait(report->copied);
    *report->inputs = *inputs;
    k->copy(model->queue, &o->state->in, report->inputs, sizeof *inputs, COPY_TO_DEVICE);
    k->event_record(model->queue, report->copied);
    k->step_begin(model->queue, &(StepBegin){.state = o->state});
    k->zero(model->queue, model->grad, moment_bytes(o));
}

void optimizer_update(const Optimizer *o) {
    const Model *model = o->model;
    const Config *c = model->config;
    const Kernels *k = model->k;
    k->sum_squares(model->queue, &(SumSquares){
        .grad = model->grad,
        .begin = 0,
        .end = model->params.elements,
        .slots = o->slots,
        .n_slots = model->params.count,
        .state = o->state,
    });
    k->step_decide(model->queue, &(StepDecide){
        .state = o->state,
        .beta1 = c->beta1,
        .beta2 = c->beta2,
        .grad_clip = c->grad_clip,
        .gate_clip = c->gpas_clip,
        .skip_sigma = c->skip_sigma,
    });
    k->adamw(model->queue, &(AdamW){
        .master = model->master,
        .storage = model->storage == model->master ? NULL : model->storage,
        .grad = model->grad,
        .m = o->m,
        .v = o->v,
        .begin = 0,
        .end = model->params.elements,
        .slots = o->slots,
        .n_slots = model->params.count,
        .state = o->state,
        .beta1 = c->beta1,
        .beta2 = c->beta2,
        .eps = c->adam_eps,
    });
}

int optimizer_report(Optimizer *o) {
    const Model *model = o->model;
    int turn = (int)((o->begun - 1) % STEPS_IN_FLIGHT);
    StepReport *report = &o->report[turn];
    model->k->copy(model->queue, report->seen, o->state, sizeof *report->seen, COPY_TO_HOST);
    model->k->event_record(model->queue, report->copied);
    return turn;
}

const StepState *optimizer_await(Optimizer *o, int report) {
    o->model->k->event_host_wait(o->report[report].copied);
    return o->report[report].seen;
}

const StepState *optimizer_read(Optimizer *o) {
    const Model *model = o->model;
    model->k->copy(model->queue, o->seen, o->state, sizeof *o->seen, COPY_TO_HOST);
    model->k->queue_wait(model->queue);
    return o->seen;
}

void optimizer_write(Optimizer *o, const StepState *state) {
    const Model *model = o->model;
    *o->seen = *state;
    model->k->copy(model->queue, o->state, o->seen, sizeof *state, COPY_TO_DEVICE);
    model->k->queue_wait(model->queue);
}
