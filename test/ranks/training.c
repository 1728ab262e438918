/*
 * training.c: does a model that several ranks train come out as the one that a single rank trains? Started once a rank:
 *
 *     mpirun -n 2 build/training_cpu variants       a cover by pairs of norm × placement × GPAS × SDD, in fp64
 *     mpirun -n 2 build/training_cpu sync           a bit that flips, in each tensor in turn, is found and named
 *     mpirun -n 2 build/training_emu steps          weights after three steps, as one line of hexadecimal digits (EMU_SEED)
 *     mpirun -n 2 build/training_emu steps WAIT     the same without a wait: backward or reduction
 *
 * Exit 0, or a line and another code. A single rank trains in the same process: it needs no collective.
 */
#include "../../src/base/checksum.h"
#include "../../src/model/step.h"
#include "../../src/ranks/rendezvous.h"
#include "../../src/run/sync.h"
#include "../model_fixture.h"
#include "../variant_cases.h"

#undef fail

#ifdef RANKS_CPU
static const Kernels *const genuine = &kernels_cpu_f64;
#else
static const Kernels *const genuine = &kernels_cuda_f32;
#endif

enum { SEQUENCES = 4, TIME = 6, VOCABULARY = 29 }; /* of a global batch */
static const int STEPS = 3;
static const double LR = 1e-3;

/* ---- a device that can be told to forget a wait ---- */

static Kernels kernels;
static const char *forgotten = ""; /* "backward": what is reduced is not waited for; "reduction": what is updated from */
static const Queue *exchange;

static void event_wait(Queue *queue, Event *event) {
    if (strcmp(forgotten, queue == exchange ? "backward" : "reduction") == 0) return;
    genuine->event_wait(queue, event);
}

/* ---- a training ---- */

typedef struct Trained {
    Config config;
    Model model;
    Optimizer optimizer;
    Step step;
} Trained;

static void feed(Trained *t, int step) {
    const Model *m = &t->model;
    uint32_t tokens[SEQUENCES * TIME], targets[SEQUENCES * TIME];
    for (int i = 0; i < m->N; i++) { /* the rank's part of what all read */
        uint64_t at = (uint64_t)(step * SEQUENCES * TIME + t->config.rank * m->N + i);
        tokens[i] = (uint32_t)(philox_uniform(3, 1, at) * VOCABULARY);
        targets[i] = (uint32_t)(philox_uniform(3, 2, at) * VOCABULARY);
    }
    model_feed(&t->model, tokens, targets);
    m->k->queue_wait(m->queue);
}

static void take_step(Trained *t, int step) {
    StepInputs inputs = {.lr = LR, .loss_scale = 1.0 / (SEQUENCES * TIME), .step = (uint64_t)step};
    model_refresh(&t->model);
    optimizer_begin(&t->optimizer, &inputs);
    feed(t, step);
    step_micro(&t->step, true);
    step_update(&t->step);
    int report = optimizer_report(&t->optimizer);
    const StepState *state = optimizer_await(&t->optimizer, report);
    require(state->applied == (uint64_t)step + 1 && state->non_finite == 0, "step %d was no update", step);
}

static void train(Trained *t, const Ranks *ranks, const char *settings) {
    char all[1024];
    memset(t, 0, sizeof *t);
    snprintf(all, sizeof all, "n-layer=2 n-embd=24 n-head=3 seq-len=%d batch-size=%d vocab-size=%d init-std=0.3 %s", TIME,
             SEQUENCES / ranks->count, VOCABULARY, settings);
    configure_raw(&t->config, all);
    config_resolve(&t->config, ranks->count);
    t->config.rank = ranks->rank;
    model_create(&t->model, &t->config, &kernels, true);
    optimizer_create(&t->optimizer, &t->model);
    exchange = t->optimizer.exchange;
    void *arena = must_calloc((size_t)t->model.params.elements, dtype_size(kernels.accum), "weights");
    params_init(&t->model.params, &t->config, kernels.accum, arena);
    perturb(&t->model, arena, 0.2); /* gates and λ, too, are away from where they are alike */
    model_load(&t->model, arena);
    free(arena);
    step_create(&t->step, &t->optimizer);
    for (int step = 0; step < STEPS; step++) take_step(t, step);
}

static void *weights(Trained *t) {
    size_t bytes = (size_t)t->model.params.elements * dtype_size(kernels.accum);
    void *host = must_malloc(bytes, "weights");
    kernels.copy(t->model.queue, host, optimizer_whole(&t->optimizer, WHOLE_MASTERS), bytes, COPY_TO_HOST);
    kernels.queue_wait(t->model.queue);
    return host;
}

static void end(Trained *t) {
    step_destroy(&t->step);
    optimizer_destroy(&t->optimizer);
    model_destroy(&t->model);
}

/* ---- variants ---- */

/* Arenas differ in the padding between buckets alone. */
static double largest_difference(const Trained *a, const double *wa, const Trained *b, const double *wb) {
    double largest = 0;
    for (int i = 0; i < a->model.params.count; i++) {
        const Param *p = &a->model.params.list[i], *q = params_find(&b->model.params, p->id, p->layer);
        for (Elements e = {.p = p}; element_next(&e);) {
            double difference = fabs(wa[e.at] - wb[q->offset + e.at - p->offset]);
            if (!(difference <= largest)) largest = difference;
        }
    }
    return largest;
}

/* How far the ranks' weights are from one's. */
static double distance(const Ranks *ranks, const char *settings) {
    static Trained alone, together;
    Ranks one = {.count = 1};
    train(&alone, &one, settings);
    train(&together, ranks, settings);
    double *wa = weights(&alone), *wt = weights(&together), largest = largest_difference(&alone, wa, &together, wt);
    free(wa);
    free(wt);
    end(&together);
    end(&alone);
    return largest;
}

static void sums_nothing(Queue *queue, const Collective *c) { (void)queue, (void)c; }

/* A sum over ranks has another order than one over a batch: gradients differ by some 2^-53 of the largest of their terms,
 * a step by lr/ε of that where a gradient is next to nothing: 1e-3/1e-8 · 1e-15. What is not reduced, or not gathered, is
 * off by lr. */
static void variants(const Ranks *ranks) {
    const double allowed = 1e-9;
    VariantCase *cases;
    int count = variant_cover(METHODS, METHOD_COUNT, &cases);
    double largest = 0;
    for (int i = 0; i < count; i++) {
        char methods[256], settings[512];
        variant_settings(METHODS, METHOD_COUNT, &cases[i], methods, sizeof methods);
        snprintf(settings, sizeof settings, "arch=%s zero=%d bucket-mb=%d %s", i % 2 ? "gpt2" : "llama n-kv-head=1", i / 2 % 2,
                 i / 4 % 2, methods);
        double off = distance(ranks, settings);
        require(off <= allowed, "%s: a weight is off by %g", settings, off);
        if (off > largest) largest = off;
    }
    free(cases);
    kernels.reduce_scatter_sum = sums_nothing; /* a comparison that finds no difference has to find this one */
    double off = distance(ranks, "arch=gpt2 bucket-mb=0");
    require(off > 1e-5, "gradients that nobody sums move no weight by more than %g", off);
    if (ranks->rank == 0) printf("%d variants, a weight is off by at most %g\n", count, largest);
}

/* ---- sync ---- */

static void flip(const Model *m, const Param *p) {
    bool vector = p->offset >= m->params.vectors;
    size_t element = dtype_size(vector ? m->k->accum : m->k->storage);
    char *at = (char *)(vector ? m->master : m->storage) + ((size_t)p->offset + (size_t)p->count / 2) * element, byte;
    m->k->copy(m->queue, &byte, at, 1, COPY_TO_HOST);
    m->k->queue_wait(m->queue);
    byte ^= 1;
    m->k->copy(m->queue, at, &byte, 1, COPY_TO_DEVICE);
    m->k->queue_wait(m->queue);
}

static void sync_finds_every_bit(const Ranks *ranks) {
    static Trained t;
    Sync sync;
    train(&t, ranks, "arch=gpt2 bucket-mb=0");
    sync_create(&sync, &t.model, ranks);
    for (int i = 0; i < t.model.params.count; i++) {
        const Param *p = &t.model.params.list[i];
        Error error = {0};
        char who[32];
        int odd = i % ranks->count;
        require(sync_check(&sync, &error), "ranks that are alike: %s", error.text);
        if (ranks->rank == odd) flip(&t.model, p);
        require(!sync_check(&sync, &error), "a bit of %s on rank %d went unseen", p->piece[0].name, odd);
        snprintf(who, sizeof who, "rank %d holds another ", ranks->count == 2 ? 1 : odd);
        require(strstr(error.text, who) && strstr(error.text, p->piece[0].name) && strstr(error.text, "(1 of "),
                "%s on rank %d: %s", p->piece[0].name, odd, error.text);
        if (ranks->rank == odd) flip(&t.model, p);
    }
    if (ranks->rank == 0) printf("%d tensors\n", t.model.params.count);
    sync_destroy(&sync);
    end(&t);
}

/* ---- steps ---- */

static void print_steps(const Ranks *ranks) {
    static Trained t;
    train(&t, ranks, "arch=llama bucket-mb=0 cuda-graph=off");
    void *w = weights(&t);
    uint64_t digest = checksum(0, w, (size_t)t.model.params.elements * dtype_size(kernels.accum));
    if (ranks->rank == 0) printf("%016llx\n", (unsigned long long)digest);
    free(w);
    end(&t);
}

int main(int argc, char **argv) {
    Ranks ranks;
    Error error = {0};
    char text[256] = "";
    const char *mode = argc > 1 ? argv[1] : "";
    if (argc > 2) forgotten = argv[2];
    kernels = *genuine;
    kernels.event_wait = event_wait;
    require(ranks_from_environment(&ranks, &error), "%s", error.text);
    require(kernels.open(0, text, sizeof text), "%s", text);
    require(ranks_open(&ranks, &kernels, &(Meeting){.timeout_s = 600}, &error), "%s", error.text);
    if (strcmp(mode, "variants") == 0) variants(&ranks);
    else if (strcmp(mode, "sync") == 0) sync_finds_every_bit(&ranks);
    else if (strcmp(mode, "steps") == 0) print_steps(&ranks);
    else fail(EXIT_USAGE, "variants, sync or steps");
    fflush(stdout);
    kernels.close();
    ranks_close();
    return EXIT_DONE;
}
