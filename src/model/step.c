/* step.c: see step.h. */
#include "step.h"

#include <stdlib.h>
#include <string.h>

static void forward_and_head(Optimizer *optimizer) {
    model_forward(optimizer->model, true);
    model_head(optimizer->model, optimizer->state, true);
}

static void micro(Optimizer *optimizer) {
    forward_and_head(optimizer);
    model_backward(optimizer->model, NULL, NULL);
}

static void reduce_layer(void *optimizer, int layer) { optimizer_reduce(optimizer, layer); }

/* The ranks sum gradients while the layers below are in backward. */
static void last_micro(Optimizer *optimizer) {
    forward_and_head(optimizer);
    model_backward(optimizer->model, reduce_layer, optimizer);
}

/* Estimates, none of them measured yet: a block is some 32 kernels forward and backward, the host launches one in
 * 5 µs, matrix products reach half of what the data sheet says. Below ten times the launches' time the queue can
 * run dry, and what is left between kernels counts. */
static bool graphs_help(const Model *model) {
    enum { KERNELS_A_BLOCK = 32, MARGIN = 10 };
    DeviceInfo info = {0};
    model->k->describe(&info);
    double launches = 5e-6 * KERNELS_A_BLOCK * model->L;
    double flops = model_flops_per_token(model->config, &model->params) * (double)model->N;
    return info.peak_flops <= 0 || flops / (0.5 * info.peak_flops) < MARGIN * launches;
}

static bool wants_graphs(const Model *model) {
    int64_t asked = model->config->cuda_graph;
    bool has_them = model->k->capture_begin != NULL;
    check(has_them || asked != SWITCH_ON, "--cuda-graph on: %s has no graphs; auto uses them where there are some",
          model->k->name);
    return has_them && (asked == SWITCH_ON || (asked == SWITCH_AUTO && graphs_help(model)));
}

void step_create(Step *step, Optimizer *optimizer) {
    const Model *model = optimizer->model;
    *step = (Step){.optimizer = optimizer, .graphs = wants_graphs(model)};
    if (model->config->gemm_tune && model->k->gemm_tune && model->config->rank == 0) model->k->gemm_tune(true);
}

/* Rank 0's, on every rank; [count]. */
static void broadcast(const Model *model, double *numbers, int64_t count) {
    const Kernels *k = model->k;
    const size_t bytes = (size_t)count * sizeof *numbers;
    double *device = k->alloc(bytes);
    require(device, "out of memory for what rank 0 tells the others");
    k->copy(model->queue, device, numbers, bytes, COPY_TO_DEVICE);
    k->broadcast(model->queue, &(Collective){.type = DTYPE_F64, .count = count, .buffer = device});
    k->copy(model->queue, numbers, device, bytes, COPY_TO_HOST);
    k->queue_wait(model->queue);
    k->release(device);
}

/* What rank 0 has measured becomes every rank's choice, as it will be after a resume: else each would take what was fastest
 * with it, and its gradients' bits would be another run's. */
static void share_choices(const Model *model) {
    const Kernels *k = model->k;
    const bool measured = model->config->rank == 0;
    char *json = measured ? k->gemm_choices_save() : NULL, why[320];
    model_await(model);
    double words = json ? (double)(strlen(json) / sizeof(double) + 1) : 0; /* with a zero at the end */
    broadcast(model, &words, 1);
    if (words == 0) return;
    double *text = must_calloc((size_t)words, sizeof *text, "the choice of GEMM algorithms");
    if (json) memcpy(text, json, strlen(json));
    broadcast(model, text, (int64_t)words);
    require(measured || k->gemm_choices_load((const char *)text, why, sizeof why),
            "--gemm-tune on: rank %lld cannot take what rank 0 has measured: %s", (long long)model->config->rank, why);
    free(text), free(json);
}

void step_destroy(Step *step) {
    if (!step->optimizer) return;
    const Model *model = step->optimizer->model;
    Graph *const all[] = {step->micro[0][0], step->micro[0][1], step->micro[1][0], step->micro[1][1], step->update, step->gather};
    model->k->queue_wait(model->queue);
    if (step->optimizer->exchange) model->k->queue_wait(step->optimizer->exchange);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]) model->k->graph_destroy(all[i]);
}

/* The work, all of which the queue waits for, or its graph. */
static void run(Step *step, Graph **graph, Queue *queue, void (*work)(Optimizer *)) {
    const Kernels *k = step->optimizer->model->k;
    if (!step->graphs || !step->warm) {
        work(step->optimizer);
        return;
    }
    if (!*graph) {
        k->capture_begin(queue);
        work(step->optimizer);
        *graph = k->capture_end(queue);
    }
    k->graph_launch(queue, *graph);
}

void step_micro(Step *step, bool last) {
    Optimizer *o = step->optimizer;
    Model *model = o->model;
    const bool reduces = last && o->exchange;
    run(step, &step->micro[model->grad_is_fresh][reduces], model->queue, reduces ? last_micro : micro);
    model->grad_is_fresh = false; /* a graph does not say so */
}

void step_update(Step *step) {
    Optimizer *o = step->optimizer;
    const Kernels *k = o->model->k;
    run(step, &step->update, o->model->queue, optimizer_update);
    if (o->updated) run(step, &step->gather, o->exchange, optimizer_gather);
    optimizer_complete(o);
    if (!step->warm && k->gemm_tune) k->gemm_tune(false);
    if (!step->warm && k->gemm_tune && o->model->config->gemm_tune && o->model->config->ranks > 1) share_choices(o->model);
    step->warm = true;
}
