/*
 * training.c: does a model that several ranks train come out as the one that a single rank trains? Started once a rank:
 *
 *     mpirun -n 2 build/training_cpu variants       a cover by pairs of norm × placement × GPAS × SDD, in fp64
 *     mpirun -n 2 build/training_cpu sync           a bit that flips, in each tensor in turn, is found and named
 *     mpirun -n 2 build/training_cpu reduce         what --reduce-dtype leaves of gradients, to the bit; training_emu as well
 *     mpirun -n 2 build/training_cpu beyond         gradients around the largest number of bf16; training_emu as well
 *     mpirun -n 2 build/training_emu wire           bytes that a rank sends in a step over those of a sum of all gradients in
 *                                                   fp32, with bf16's storage: --zero 0 and 1, --reduce-dtype fp32 and bf16
 *     mpirun -n 2 build/training_emu steps on       weights after three steps, as one line of hexadecimal digits (EMU_SEED);
 *                                                   --cuda-graph on or off
 *     mpirun -n 2 build/training_emu steps on WAIT  the same without a wait, one of WAITS
 *     mpirun -n 2 build/training_emu order on       reductions are put into their queue before the layers below are in
 *                                                   backward, and weights are waited for by the layers that read them
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
static const Kernels *genuine = &kernels_cpu_f64;
static const Kernels *const narrow = &kernels_cpu_f64;
#else
static const Kernels *genuine = &kernels_cuda_f32;
static const Kernels *const narrow = &kernels_cuda_bf16;
#endif

enum { SEQUENCES = 4, TIME = 6, VOCABULARY = 29 }; /* of a global batch */
static const int STEPS = 3;
static const double LR = 1e-3;

/* ---- a device that can be told to forget a wait ---- */

static Kernels kernels;
static const Optimizer *watched; /* NULL: its queues and events are not yet there */
static const char *forgotten = "";

typedef enum Wait { BACKWARD, REDUCTION, UPDATE, WEIGHTS, GATHERS, REST, WAIT_COUNT } Wait;
static const char *const WAITS[WAIT_COUNT] = {
    [BACKWARD] = "backward",   /* a reduction's, for the gradients */
    [REDUCTION] = "reduction", /* the update's, for all reductions */
    [UPDATE] = "update",       /* a gather's, for this rank's piece */
    [WEIGHTS] = "weights",     /* a layer's, for the gather of its weights */
    [GATHERS] = "gathers",     /* a graph's reductions', for the gathers of the step before */
    [REST] = "rest",           /* of what reads all weights, for all gathers */
};

static bool is_among(Event *const *events, const Event *event) {
    for (int b = 0; events && b < watched->model->params.buckets; b++)
        if (events[b] == event) return true;
    return false;
}

static Wait wait_of(const Queue *queue, const Event *event) {
    const Model *m = watched->model;
    return event == watched->summed         ? BACKWARD
           : event == watched->reduced      ? REDUCTION
           : is_among(watched->updated, event) ? UPDATE
           : is_among(m->arrived, event)    ? WEIGHTS
           : queue == watched->exchange     ? GATHERS
                                            : REST;
}

/* What was put into the queues after the first step, in that order; of graphs, when they were captured. 'w' a wait for
 * weights, 'v' a layer of forward, '^' one of backward, '-' a reduction, '+' a gather; '!' before one in the model's queue. */
static char order[512];
static size_t noted;

static void note(char what) {
    if (noted + 1 < sizeof order) order[noted++] = what;
    order[noted] = '\0';
}

static void event_wait(Queue *queue, Event *event) {
    const Wait wait = watched ? wait_of(queue, event) : WAIT_COUNT;
    if (wait == WEIGHTS) note('w');
    if (wait == WAIT_COUNT || strcmp(forgotten, WAITS[wait])) genuine->event_wait(queue, event);
}

static double handed_over; /* bytes that went through collectives of arenas: (ranks − 1) / ranks of them a rank sends */

static void note_collective(char what, const Queue *queue, const Collective *args) {
    if (watched && queue != watched->exchange) note('!');
    note(what);
    handed_over += (double)args->count * (double)dtype_size(args->type);
}

static void reduce_scatter_sum(Queue *queue, const Collective *args) {
    note_collective('-', queue, args);
    genuine->reduce_scatter_sum(queue, args);
}

static void all_gather(Queue *queue, const Collective *args) {
    note_collective('+', queue, args);
    genuine->all_gather(queue, args);
}

static void attention_forward(Queue *queue, const Attention *args) {
    note('v');
    genuine->attention_forward(queue, args);
}

static void attention_backward(Queue *queue, const AttentionBackward *args) {
    note('^');
    genuine->attention_backward(queue, args);
}

/* ---- a training ---- */

typedef struct Trained {
    Config config;
    Model model;
    Optimizer optimizer;
    Step step;
    int flight; /* the report of the last step, which nobody has waited for; −1: there is none */
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

/* Until the step in flight is done. Returns how many numbers were lost in it. */
static uint64_t land(Trained *t) {
    if (t->flight < 0) return 0;
    const StepState *state = optimizer_await(&t->optimizer, t->flight);
    require(state->skip == SKIP_NONE, "a step was no update");
    t->flight = -1;
    return state->non_finite;
}

/* As the program does it: the host waits for a step when the next one is in the queue. */
static uint64_t take_step(Trained *t, int step) {
    StepInputs inputs = {.lr = LR, .loss_scale = 1.0 / (SEQUENCES * TIME), .step = (uint64_t)step};
    model_refresh(&t->model);
    optimizer_begin(&t->optimizer, &inputs);
    feed(t, step);
    step_micro(&t->step, true);
    step_update(&t->step);
    int report = optimizer_report(&t->optimizer);
    kernels.queue_wait(t->model.queue); /* for no more of the exchange than the step needs */
    const uint64_t lost = land(t);
    t->flight = report;
    return lost;
}

static void start(Trained *t, const Ranks *ranks, const char *settings) {
    char all[1024];
    memset(t, 0, sizeof *t);
    t->flight = -1;
    snprintf(all, sizeof all, "n-layer=2 n-embd=24 n-head=3 seq-len=%d batch-size=%d vocab-size=%d init-std=0.3 %s", TIME,
             SEQUENCES / ranks->count, VOCABULARY, settings);
    configure_raw(&t->config, all);
    config_resolve(&t->config, ranks->count);
    t->config.rank = ranks->rank;
    model_create(&t->model, &t->config, &kernels, true);
    optimizer_create(&t->optimizer, &t->model);
    watched = t->optimizer.exchange ? &t->optimizer : NULL;
    void *arena = must_calloc((size_t)t->model.params.elements, dtype_size(kernels.accum), "weights");
    params_init(&t->model.params, &t->config, kernels.accum, arena);
    perturb(&t->model, arena, 0.2); /* gates and λ, too, are away from where they are alike */
    model_load(&t->model, arena);
    free(arena);
    step_create(&t->step, &t->optimizer);
}

static void train(Trained *t, const Ranks *ranks, const char *settings) {
    start(t, ranks, settings);
    for (int step = 0; step < STEPS; step++) {
        if (step == 1) noted = 0;
        require(take_step(t, step) == 0, "a number was lost in step %d", step);
    }
}

static void *weights(Trained *t) {
    size_t bytes = (size_t)t->model.params.elements * dtype_size(kernels.accum);
    void *host = must_malloc(bytes, "weights");
    kernels.copy(t->model.queue, host, optimizer_masters(&t->optimizer), bytes, COPY_TO_HOST);
    kernels.queue_wait(t->model.queue);
    return host;
}

static void end(Trained *t) {
    watched = NULL;
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
    char *base = vector ? model_master(m, p->offset) : (char *)m->storage + (size_t)p->offset * element;
    char *at = base + (size_t)p->count / 2 * element, byte;
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

/* ---- reduce ---- */

enum { BF16_BITS = 8, FP32_BITS = 24, FP64_BITS = 53 }; /* of a mantissa, the one before the point included */

/* To nearest even in a type with so many bits and fp32's exponents. */
static double rounded(double value, int bits) {
    int exponent;
    if (bits == FP64_BITS || value == 0 || !isfinite(value)) return value;
    double mantissa = frexp(value, &exponent), nearest = ldexp(nearbyint(ldexp(mantissa, bits)), exponent - bits);
    return fabs(nearest) < ldexp(1, 128) ? nearest : copysign(INFINITY, value);
}

/* Element i of a rank's gradients: any number of several magnitudes, or, of `odd` ones, now and then what rounding could lose. */
static double gradient(int rank, int64_t i, bool odd) {
    static const double ODD[] = {INFINITY, -INFINITY, NAN, 3.4e38, -0.0, 1 + 0x1p-8, 1 + 0x3p-8, 1 + 0x1p-8 + 0x1p-20};
    uint64_t at = (uint64_t)rank << 32 | (uint64_t)i;
    double value = (1 + philox_uniform(5, 1, at)) * ldexp(philox_uniform(5, 2, at) - 0.5, (int)(i % 23) - 17);
    if (odd && (i + rank) % 13 == 0) value = ODD[(i + rank) / 13 % 8];
    return kernels.accum == DTYPE_F32 ? (double)(float)value : value;
}

/* What the ranks' sum of element i is, sent in a type of so many bits: on the CPU bf16 is summed in fp32. */
static double summed(const Ranks *ranks, int64_t i, bool odd, int bits) {
    int between = bits == BF16_BITS && strcmp(kernels.device, "cpu") == 0 ? FP32_BITS : bits;
    double sum = rounded(gradient(0, i, odd), bits);
    for (int r = 1; r < ranks->count; r++) sum = rounded(sum + rounded(gradient(r, i, odd), bits), between);
    return rounded(sum, bits);
}

static int bits_of(const Trained *t, int64_t i) {
    int accum = kernels.accum == DTYPE_F64 ? FP64_BITS : FP32_BITS;
    if (i >= t->model.params.vectors || t->config.reduce_dtype == REDUCE_AUTO) return accum;
    return t->config.reduce_dtype == REDUCE_BF16 ? BF16_BITS : FP32_BITS;
}

/* Every element that this rank goes on with is the sum, and the norm is that of the sums. */
static void check_sums(Trained *t, const Ranks *ranks, const double *found, bool whole, bool odd, const char *what) {
    const Params *params = &t->model.params;
    double squares = 0;
    for (int b = 0; b < params->buckets; b++) {
        const Share *share = &t->optimizer.share[b];
        bool all = whole || t->config.zero == ZERO_0 || share->begin >= params->vectors;
        for (int64_t i = params->bucket[b].begin; i < params->bucket[b].end; i++) {
            double wanted = summed(ranks, i, odd, bits_of(t, i));
            squares += wanted * wanted;
            if (!all && (i < share->piece_begin || i >= share->piece_end)) continue;
            require(isnan(wanted) ? isnan(found[i]) : found[i] == wanted && signbit(found[i]) == signbit(wanted),
                    "%s: element %lld of bucket %d is %.17g on rank %d, not %.17g", what, (long long)i, b, found[i], ranks->rank,
                    wanted);
        }
    }
    step_update(&t->step);
    const StepState *state = optimizer_await(&t->optimizer, optimizer_report(&t->optimizer));
    const double near = kernels.accum == DTYPE_F64 ? 1e-9 : 1e-6;
    require(odd ? state->skip != 0 && !isfinite(state->grad_norm) : fabs(state->grad_norm / sqrt(squares) - 1) < near,
            "%s: the norm is %.17g, not %.17g", what, state->grad_norm, sqrt(squares));
}

static void reduce_once(const Ranks *ranks, const char *settings, bool whole, bool odd) {
    static Trained t;
    start(&t, ranks, settings);
    const Model *m = &t.model;
    int64_t n = m->params.elements;
    void *arena = must_malloc((size_t)n * sizeof(double), "gradients");
    double *found = must_malloc((size_t)n * sizeof *found, "gradients");
    optimizer_begin(&t.optimizer, &(StepInputs){.lr = LR, .loss_scale = 1});
    for (int64_t i = 0; i < n; i++) element_set(m, arena, i, gradient(ranks->rank, i, odd));
    kernels.copy(m->queue, m->grad, arena, (size_t)n * dtype_size(kernels.accum), COPY_TO_DEVICE);
    for (int layer = m->L; layer >= -1; layer--) optimizer_reduce(&t.optimizer, layer);
    if (whole) optimizer_gradients(&t.optimizer);
    kernels.copy(m->queue, arena, m->grad, (size_t)n * dtype_size(kernels.accum), COPY_TO_HOST);
    kernels.queue_wait(m->queue);
    for (int64_t i = 0; i < n; i++) found[i] = element_get(m, arena, i);
    check_sums(&t, ranks, found, whole, odd, settings);
    free(found);
    free(arena);
    end(&t);
}

static void reductions(const Ranks *ranks) {
    static const char *const TYPES[] = {"auto", "fp32", "bf16"};
    int count = 0;
    for (int i = 0; i < 24; i++, count++) {
        char settings[256];
        snprintf(settings, sizeof settings, "arch=llama gpas=layer cuda-graph=off bucket-mb=0 reduce-dtype=%s zero=%d",
                 TYPES[i / 8], i & 1);
        reduce_once(ranks, settings, i & 2, i & 4);
    }
    if (ranks->rank == 0) printf("%d reductions\n", count);
}

/* ---- beyond ---- */

/* What fp32 has and bf16 has not is an infinity when it is rounded, as in any sum that overflows: the step is skipped by all
 * ranks. Nothing is cut to the largest number: that would be another direction. */
static void beyond_bf16(const Ranks *ranks) {
    static const struct {
        double gradient;
        const char *travels;
        bool skipped;
    } CASES[] = {
        {0x1.fep127, "bf16", false},    /* the largest of bf16 */
        {0x1.fefffep127, "bf16", false}, /* the last number of fp32 that is nearer to it */
        {0x1.ffp127, "bf16", true},
        {0x1.fffffep127, "bf16", true}, /* the largest of fp32 */
        {0x1.fffffep127, "fp32", false},
    };
    for (size_t i = 0; i < 2 * sizeof CASES / sizeof *CASES; i++) {
        static Trained t;
        char settings[128];
        snprintf(settings, sizeof settings, "arch=llama cuda-graph=off bucket-mb=0 skip-sigma=0 reduce-dtype=%s zero=%d",
                 CASES[i / 2].travels, (int)(i & 1));
        start(&t, ranks, settings);
        const Model *m = &t.model;
        const size_t element = dtype_size(kernels.accum);
        const float one = (float)CASES[i / 2].gradient;
        const double wide = one;
        optimizer_begin(&t.optimizer, &(StepInputs){.lr = LR, .loss_scale = 1});
        if (ranks->rank == 1) kernels.copy(m->queue, m->grad, element == 8 ? (const void *)&wide : (const void *)&one, element, COPY_TO_DEVICE);
        kernels.queue_wait(m->queue);
        for (int layer = m->L; layer >= -1; layer--) optimizer_reduce(&t.optimizer, layer);
        step_update(&t.step);
        const StepState *state = optimizer_await(&t.optimizer, optimizer_report(&t.optimizer));
        require((state->skip != SKIP_NONE) == CASES[i / 2].skipped, "%s, %a: skip is %d, the norm %g", settings, CASES[i / 2].gradient,
                (int)state->skip, state->grad_norm);
        end(&t);
    }
    if (ranks->rank == 0) printf("%d gradients\n", (int)(sizeof CASES / sizeof *CASES));
}

/* ---- wire ---- */

static void print_wire(const Ranks *ranks) {
    static const char *const TYPES[] = {"fp32", "bf16"};
    for (int i = 0; i < 4; i++) {
        static Trained t;
        char settings[128];
        const int zero = i / 2, travels = i % 2 ? 2 : 4;
        snprintf(settings, sizeof settings, "arch=llama bucket-mb=0 cuda-graph=off zero=%d reduce-dtype=%s", zero, TYPES[i % 2]);
        start(&t, ranks, settings);
        const Params *params = &t.model.params;
        const double vectors = (double)(params->elements - params->vectors) * 2 * (double)dtype_size(kernels.accum);
        const double lost = zero ? (double)ranks->count * sizeof(uint64_t) : 0; /* how many numbers a rank has lost */
        handed_over = 0;
        take_step(&t, 0);
        land(&t);
        const double matrices = (double)params->vectors * (travels + (zero ? (int)dtype_size(kernels.storage) : travels));
        require(handed_over == matrices + vectors + lost, "%s: %.0f bytes, not %.0f", settings, handed_over,
                matrices + vectors + lost);
        if (ranks->rank == 0) printf("%.3f ", (handed_over - vectors - lost) / ((double)params->vectors * 2 * 4));
        end(&t);
    }
}

/* ---- steps ---- */

/* A second moment of rank 1's alone that has overflowed: all ranks must hear of it. Returns how many numbers were lost. */
static uint64_t lose_a_number(Trained *t) {
    const float none = INFINITY;
    if (t->config.rank == 1) kernels.copy(t->model.queue, t->optimizer.v, &none, sizeof none, COPY_TO_DEVICE);
    kernels.queue_wait(t->model.queue);
    require(take_step(t, STEPS) == 0, "a number was lost too early");
    return land(t);
}

static void print_steps(const Ranks *ranks, const char *graphs) {
    static Trained t;
    char settings[128];
    snprintf(settings, sizeof settings, "arch=llama bucket-mb=0 cuda-graph=%s", graphs);
    train(&t, ranks, settings);
    void *w = weights(&t);
    uint64_t digest = checksum(0, w, (size_t)t.model.params.elements * dtype_size(kernels.accum)), lost = lose_a_number(&t);
    if (ranks->rank == 0) printf("%016llx, then %llu lost\n", (unsigned long long)digest, (unsigned long long)lost);
    free(w);
    end(&t);
}

/* ---- order ---- */

static void print_order(const Ranks *ranks, const char *graphs) {
    static Trained t;
    char settings[128];
    snprintf(settings, sizeof settings, "arch=llama bucket-mb=0 cuda-graph=%s", graphs);
    train(&t, ranks, settings);
    if (ranks->rank == 0) printf("%s\n", order);
    end(&t);
}

int main(int argc, char **argv) {
    Ranks ranks;
    Error error = {0};
    char text[256] = "";
    const char *mode = argc > 1 ? argv[1] : "";
    const char *graphs = argc > 2 ? argv[2] : "off";
    if (argc > 3) forgotten = argv[3];
    if (strcmp(mode, "wire") == 0) genuine = narrow;
    kernels = *genuine;
    kernels.event_wait = event_wait;
    kernels.reduce_scatter_sum = reduce_scatter_sum;
    kernels.all_gather = all_gather;
    kernels.attention_forward = attention_forward;
    kernels.attention_backward = attention_backward;
    require(ranks_from_environment(&ranks, &error), "%s", error.text);
    require(kernels.open(0, text, sizeof text), "%s", text);
    require(ranks_open(&ranks, &kernels, &(Meeting){.timeout_s = 600}, &error), "%s", error.text);
    if (strcmp(mode, "variants") == 0) variants(&ranks);
    else if (strcmp(mode, "sync") == 0) sync_finds_every_bit(&ranks);
    else if (strcmp(mode, "reduce") == 0) reductions(&ranks);
    else if (strcmp(mode, "beyond") == 0) beyond_bf16(&ranks);
    else if (strcmp(mode, "wire") == 0) print_wire(&ranks);
    else if (strcmp(mode, "steps") == 0) print_steps(&ranks, graphs);
    else if (strcmp(mode, "order") == 0) print_order(&ranks, graphs);
    else fail(EXIT_USAGE, "variants, sync, reduce, beyond, wire, steps or order");
    fflush(stdout);
    kernels.close();
    ranks_close();
    return EXIT_DONE;
}
