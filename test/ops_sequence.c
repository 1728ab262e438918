/*
 * ops_sequence.c: what no single call shows: memory, queues and events of an implementation, and a training's
 * worth of steps, in which the step's state decides what is clipped, skipped and applied.
 */
#include "ops_harness.h"

#include <stdio.h>

/* ------------------------------------------------------------------------------ memory, queues, events */

static void expect(Report *report, const Kernels *k, bool condition, const char *what) {
    report->cases++;
    if (!condition) report_failure(report, "%s: %s", k->name, what);
}

static bool all_bytes(const unsigned char *bytes, size_t n, unsigned char value) {
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != value) return false;
    return true;
}

static void test_alloc(const Kernels *k, Queue *queue, Report *report) {
    static const size_t sizes[] = {1, 255, 4096, 100003, (size_t)3 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i];
        unsigned char *device = k->alloc(n), *other = k->alloc(n), *host = k->host_alloc(n),
                      *back = malloc(n);
        if (!device || !other || !host || !back) abort();
        expect(report, k, (uintptr_t)device % 256 == 0 && (uintptr_t)other % 256 == 0,
               "alloc is 256-byte aligned");
        k->copy(queue, back, device, n, COPY_TO_HOST);
        k->queue_wait(queue);
        expect(report, k, all_bytes(back, n, 0), "alloc is zeroed");
        for (size_t b = 0; b < n; b++) host[b] = (unsigned char)(b * 31 + 7);
        k->copy(queue, device, host, n, COPY_TO_DEVICE);
        k->copy(queue, other, device, n, COPY_ON_DEVICE);
        k->copy(queue, back, other, n, COPY_TO_HOST);
        k->queue_wait(queue);
        expect(report, k, memcmp(host, back, n) == 0, "a copy to, on and from the device keeps the bytes");
        k->zero(queue, other, n / 2);
        k->copy(queue, back, other, n, COPY_TO_HOST);
        k->queue_wait(queue);
        expect(report, k, all_bytes(back, n / 2, 0) && memcmp(host + n / 2, back + n / 2, n - n / 2) == 0,
               "zero zeroes so many bytes and no more");
        k->release(device), k->release(other), k->host_release(host), free(back);
    }
}

void test_memory(const Implementation *implementation, Report *report) {
    const Kernels *k = implementation->kernels;
    Limits limits = {.N = 64,
                     .B = 2,
                     .T = 32,
                     .C = 64,
                     .H = 4,
                     .Hkv = 2,
                     .D = 16,
                     .F = 256,
                     .V = 257,
                     .head_chunk = 64,
                     .parameters = 65536,
                     .slots = 8};
    size_t bytes = k->scratch_bytes(&limits);
    expect(report, k, bytes == k->scratch_bytes(&limits), "scratch_bytes is a pure function");
    Queue *queue = k->queue_create(bytes), *second = k->queue_create(bytes);
    if (!queue || !second) abort();
    test_alloc(k, queue, report);
    Event *from = k->event_create(EVENT_INTERNAL), *to = k->event_create(EVENT_INTERNAL);
    k->event_record(queue, from);
    k->event_wait(second, from);
    k->event_record(second, to);
    k->event_host_wait(to);
    k->queue_wait(queue);
    double seconds = k->event_elapsed(from, to);
    expect(report, k, isfinite(seconds) && seconds >= 0, "time runs forwards between events");
    k->event_destroy(from), k->event_destroy(to);
    DeviceInfo info;
    k->describe(&info);
    expect(report, k, memchr(info.name, 0, sizeof info.name) != NULL, "the device's name ends");
    k->queue_destroy(queue), k->queue_destroy(second);
}

/* ------------------------------------------------------------------------------------------ many steps */

enum { STEPS = 230, N_SLOTS = 3, ELEMENTS = 64 * 3, N_LOSSES = 7 };

static const ParamSlot sequence_slots[N_SLOTS] = {
    {.offset = 0, .count = 64, .rows = 1, .cols = 50, .weight_decay = 0.1, .lr_scale = 1},
    {.offset = 64, .count = 64, .rows = 1, .cols = 5, .clip_group = CLIP_GATES, .lr_scale = 2},
    {.offset = 128, .count = 64, .rows = 1, .cols = 64, .lr_scale = 0.5}};

/* One version of the run: a small arena and the state, on a device. */
typedef struct Runner {
    const Kernels *k;
    Queue *queue;
    void *master, *storage, *grad, *m, *v, *losses;
    uint16_t *lower;
    ParamSlot *slots;
    StepState *state;
    StepState seen; /* after the last step */
    double grad_clip, clip_eps;
} Runner;

static void runner_open(Runner *r, const Kernels *k) {
    Limits limits = {.N = N_LOSSES,
                     .B = 1,
                     .T = N_LOSSES,
                     .C = 1,
                     .H = 1,
                     .Hkv = 1,
                     .D = 8,
                     .F = 1,
                     .V = 1,
                     .head_chunk = N_LOSSES,
                     .parameters = ELEMENTS,
                     .slots = N_SLOTS};
    size_t element = dtype_size(k->accum);
    *r = (Runner){.k = k, .queue = k->queue_create(k->scratch_bytes(&limits)), .grad_clip = 1};
    void **arrays[] = {&r->master, &r->grad, &r->m, &r->v, &r->losses};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) *arrays[i] = k->alloc(ELEMENTS * element);
    if (k->storage != k->accum) { /* masters are in halves, but where they are put and seen */
        r->storage = k->alloc(ELEMENTS * dtype_size(k->storage));
        r->lower = k->alloc(ELEMENTS * sizeof *r->lower);
    }
    r->slots = k->alloc(sizeof sequence_slots);
    r->state = k->alloc(sizeof *r->state);
    k->copy(r->queue, r->slots, sequence_slots, sizeof sequence_slots, COPY_TO_DEVICE);
    k->queue_wait(r->queue);
}

static void runner_close(Runner *r) {
    void *all[] = {r->master, r->storage, r->lower, r->grad, r->m, r->v, r->losses, r->slots, r->state};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i]) r->k->release(all[i]);
    r->k->queue_destroy(r->queue);
}

static void put_numbers(const Runner *r, void *device, const double *value, int n) {
    double wide[ELEMENTS];
    float narrow[ELEMENTS];
    for (int i = 0; i < n; i++) wide[i] = value[i], narrow[i] = (float)value[i];
    bool f64 = r->k->accum == DTYPE_F64;
    r->k->copy(r->queue, device, f64 ? (void *)wide : (void *)narrow, (size_t)n * (f64 ? 8 : 4),
               COPY_TO_DEVICE);
    r->k->queue_wait(r->queue);
}

static void get_numbers(const Runner *r, const void *device, double *value) {
    float narrow[ELEMENTS];
    bool f64 = r->k->accum == DTYPE_F64;
    r->k->copy(r->queue, f64 ? (void *)value : (void *)narrow, device, ELEMENTS * (size_t)(f64 ? 8 : 4),
               COPY_TO_HOST);
    r->k->queue_wait(r->queue);
    for (int i = 0; !f64 && i < ELEMENTS; i++) value[i] = (double)narrow[i];
}

static void runner_step(Runner *r, const StepInputs *in, const double *grad, const double *losses,
                        double skip_sigma) {
    const Kernels *k = r->k;
    put_numbers(r, r->grad, grad, ELEMENTS);
    put_numbers(r, r->losses, losses, N_LOSSES);
    k->copy(r->queue, r->state, in, sizeof *in, COPY_TO_DEVICE);
    k->step_begin(r->queue, &(StepBegin){.state = r->state});
    k->loss_reduce(r->queue, &(LossReduce){.N = N_LOSSES, .losses = r->losses, .state = r->state});
    k->sum_squares(r->queue, &(SumSquares){.grad = r->grad,
                                           .begin = 0,
                                           .end = ELEMENTS,
                                           .slots = r->slots,
                                           .n_slots = N_SLOTS,
                                           .state = r->state});
    k->step_decide(r->queue, &(StepDecide){.state = r->state,
                                           .beta1 = 0.9,
                                           .beta2 = 0.95,
                                           .grad_clip = r->grad_clip,
                                           .gate_clip = 0.1,
                                           .clip_eps = r->clip_eps,
                                           .skip_sigma = skip_sigma});
    Halves masters = {.n = ELEMENTS, .master = r->master, .storage = r->storage, .lower = r->lower};
    if (r->lower) k->halves(r->queue, &masters);
    k->adamw(r->queue, &(AdamW){.master = r->lower ? NULL : r->master,
                                .storage = r->storage,
                                .lower = r->lower,
                                .grad = r->grad,
                                .m = r->m,
                                .v = r->v,
                                .begin = 0,
                                .end = ELEMENTS,
                                .slots = r->slots,
                                .n_slots = N_SLOTS,
                                .state = r->state,
                                .beta1 = 0.9,
                                .beta2 = 0.95,
                                .eps = 1e-8});
    masters.join = true;
    if (r->lower) k->halves(r->queue, &masters);
    k->copy(r->queue, &r->seen, r->state, sizeof r->seen, COPY_TO_HOST);
    k->queue_wait(r->queue);
}

/* What happens in a step of the script, and what has to come of it. */
typedef struct Event_ {
    int step;
    double loss_factor, grad_factor;
    SkipReason reason;
    unsigned in_a_row;
} Event_;

static const Event_ script[] = {{3, NAN, 1, SKIP_NON_FINITE, 1},
                                {4, 1, INFINITY, SKIP_NON_FINITE, 2},
                                {5, INFINITY, NAN, SKIP_NON_FINITE, 3},
                                {9, 1, NAN, SKIP_NON_FINITE, 1},
                                {20, 9, 1, SKIP_NONE, 0}, /* the window is not full: no spike yet */
                                {150, 40, 1, SKIP_LOSS_SPIKE, 0},
                                {152, 1, 90, SKIP_NORM_SPIKE, 0},
                                {160, -1, 1, SKIP_NONE, 0}, /* far below the mean is no spike */
                                {161, 1, -INFINITY, SKIP_NON_FINITE, 1},
                                {162, NAN, 1, SKIP_NON_FINITE, 2},
                                {163, 40, 1, SKIP_LOSS_SPIKE, 0}, /* a spike is finite: the row ends */
                                {164, 1, NAN, SKIP_NON_FINITE, 1},
                                {165, 1, 90, SKIP_NORM_SPIKE, 0}};

static const Event_ *event_at(int step) {
    for (size_t i = 0; i < sizeof script / sizeof script[0]; i++)
        if (script[i].step == step) return &script[i];
    return NULL;
}

typedef struct Error_ {
    double error, plain_error, squares;
    int64_t count;
} Error_;

static void error_add(Error_ *e, double got, double plain, double truth) {
    e->error = fmax(e->error, isfinite(got) ? fabs(got - truth) : INFINITY);
    e->plain_error = fmax(e->plain_error, fabs(plain - truth));
    e->squares += truth * truth;
    e->count++;
}

static void error_judge(const Error_ *e, DType type, const char *name, const char *implementation,
                        Report *report) {
    double rms = sqrt(e->squares / (double)(e->count ? e->count : 1));
    double ulp = rms > 0 ? ldexp(1, ilogb(rms) - (type == DTYPE_F64 ? 52 : 23)) : 0,
           allowed = 2 * e->plain_error + 4 * ulp;
    report->cases++;
    if (!(e->error <= allowed))
        report_failure(report, "%s many steps: %s: error %.3g, allowed %.3g", implementation, name, e->error,
                       allowed);
}

/* The members of the state in the order in which their errors are kept. */
enum {
    GRAD_NORM,
    GATE_NORM,
    CLIP,
    GATE_CLIP,
    CORRECTION_1,
    CORRECTION_2,
    LOSS_WINDOW,
    NORM_WINDOW,
    N_MEMBERS
};
static const char *const member_names[N_MEMBERS] = {
    "grad_norm",          "gate_norm",          "clip_scale[ALL]", "clip_scale[GATES]",
    "bias_correction[0]", "bias_correction[1]", "loss_window",     "norm_window"};

static double member(const StepState *s, int i) {
    uint32_t last = (s->window_next + SKIP_WINDOW - 1) % SKIP_WINDOW;
    const double value[N_MEMBERS] = {s->grad_norm,         s->gate_norm,          s->clip_scale[0],
                                     s->clip_scale[1],     s->bias_correction[0], s->bias_correction[1],
                                     s->loss_window[last], s->norm_window[last]};
    return value[i];
}

static void check_decision(const Runner *r, const Runner *truth, const StepState *before, int step,
                           Report *report) {
    const Event_ *event = event_at(step);
    const StepState *s = &r->seen, *t = &truth->seen;
    unsigned reason = event ? event->reason : SKIP_NONE, in_a_row = event ? event->in_a_row : 0;
    bool windows_kept = memcmp(before->loss_window, s->loss_window, sizeof s->loss_window) == 0 &&
                        memcmp(before->norm_window, s->norm_window, sizeof s->norm_window) == 0;
    report->cases++;
    if (s->skip != reason || s->skips_in_a_row != in_a_row)
        report_failure(report, "%s step %d: skip %u, %u in a row; right is %u, %u", r->k->name, step, s->skip,
                       s->skips_in_a_row, reason, in_a_row);
    if (s->applied != t->applied || s->window_count != t->window_count || s->window_next != t->window_next)
        report_failure(report, "%s step %d: applied %llu, window of %u at %u; right is %llu, %u, %u",
                       r->k->name, step, (unsigned long long)s->applied, s->window_count, s->window_next,
                       (unsigned long long)t->applied, t->window_count, t->window_next);
    if (reason != SKIP_NONE && !windows_kept)
        report_failure(report, "%s step %d: a skipped step entered a window", r->k->name, step);
}

/* Losses of 3 ± 0.3 and gradients whose norm is sometimes clipped and sometimes not. */
static void step_numbers(Case *random, int step, double *grad, double *losses) {
    const Event_ *event = event_at(step);
    double size = 0.05 + 0.1 * uniform(random), level = 3 + 0.3 * centred(random);
    for (int i = 0; i < ELEMENTS; i++) {
        bool counts = i % 64 < sequence_slots[i / 64].cols;
        grad[i] = counts ? (double)(float)(size * centred(random) * (i / 64 == 1 ? 1.5 : 1)) : 0;
    }
    for (int i = 0; i < N_LOSSES; i++) losses[i] = (double)(float)(level * (event ? event->loss_factor : 1));
    if (event) {
        grad[130] *= event->grad_factor;
        if (isfinite(event->grad_factor) && event->grad_factor != 1)
            for (int i = 0; i < ELEMENTS; i++) grad[i] = (double)(float)(grad[i] * event->grad_factor);
    }
}

/* 128 equal steps, then one more: nothing is above the mean, whatever the mean's rounding. */
static void test_constant_window(const Kernels *k, Report *report) {
    Runner r;
    double grad[ELEMENTS] = {0}, losses[N_LOSSES];
    StepInputs in = {.lr = 1e-3, .loss_scale = 1.0 / N_LOSSES};
    for (int i = 0; i < N_LOSSES; i++) losses[i] = (double)(float)3.1;
    for (int i = 0; i < ELEMENTS; i++)
        grad[i] = i % 64 < sequence_slots[i / 64].cols ? (double)(float)0.0123 : 0;
    runner_open(&r, k);
    for (int step = 0; step < SKIP_WINDOW + 3; step++, in.step++) {
        runner_step(&r, &in, grad, losses, 3);
        expect(report, k, r.seen.skip == SKIP_NONE, "a step equal to all in the window is no spike");
    }
    runner_close(&r);
}

/* A finite gradient whose square is no number of the moments' type. In fp64 its norm is none either. */
static void test_lost_moments(const Kernels *k, Report *report) {
    double grad[ELEMENTS] = {0}, losses[N_LOSSES] = {1};
    StepInputs in = {.lr = 1e-3, .loss_scale = 1.0 / N_LOSSES};
    Runner r;
    if (k->accum == DTYPE_F64) return;
    runner_open(&r, k);
    r.grad_clip = 0;
    grad[3] = grad[130] = 1e30;
    runner_step(&r, &in, grad, losses, 0);
    expect(report, k, r.seen.skip == SKIP_NONE && isfinite(r.seen.grad_norm), "a norm of finite gradients is finite");
    expect(report, k, r.seen.non_finite == 2, "two second moments that overflow are counted");
    grad[3] = grad[130] = 0.1, grad[140] = NAN;
    runner_step(&r, &in, grad, losses, 0);
    expect(report, k, r.seen.skip == SKIP_NON_FINITE && r.seen.non_finite == 0, "a skipped step loses no numbers");
    runner_close(&r);
}

/* Weights at the type's end: weight decay, which slot 0 has, throws them beyond it; bf16 rounds them to infinity. */
static void test_lost_weights(const Kernels *k, Report *report) {
    bool narrow = k->storage == DTYPE_BF16;
    const double largest = k->accum == DTYPE_F64 ? 1e308 : 3.4e38;
    double grad[ELEMENTS] = {0}, weights[ELEMENTS] = {0}, losses[N_LOSSES] = {1};
    StepInputs in = {.loss_scale = 1.0 / N_LOSSES};
    Runner r;
    runner_open(&r, k);
    weights[0] = weights[70] = largest, weights[71] = -largest;
    put_numbers(&r, r.master, weights, ELEMENTS);
    runner_step(&r, &in, grad, losses, 0);
    expect(report, k, r.seen.non_finite == (narrow ? 3 : 0), "upper halves that Storage has no room for are counted");
    in.lr = largest / 4;
    runner_step(&r, &in, grad, losses, 0);
    expect(report, k, r.seen.non_finite == (narrow ? 3 : 1), "weights that overflow are counted");
    runner_close(&r);
}

static void test_many_steps(const Implementation *implementation, uint64_t seed, double clip_eps, Report *report) {
    const Kernels *k = implementation->kernels, *kernels[3] = {k, implementation->plain, &kernels_plain_long};
    Runner runner[3]; /* the implementation, the plain version, the truth */
    Case random = {.rng = seed * 77 + 5};
    double start[ELEMENTS], grad[ELEMENTS], losses[N_LOSSES];
    Error_ members[N_MEMBERS] = {{0}}, arrays[3] = {{0}};
    for (int i = 0; i < ELEMENTS; i++)
        start[i] = i % 64 < sequence_slots[i / 64].cols ? (double)(float)centred(&random) : 0;
    for (int i = 0; i < 3; i++) {
        runner_open(&runner[i], kernels[i]);
        runner[i].clip_eps = clip_eps;
        put_numbers(&runner[i], runner[i].master, start, ELEMENTS);
    }
    StepInputs in = {.lr = 1e-2, .loss_scale = 1.0 / N_LOSSES};
    for (in.step = 0; in.step < STEPS; in.step++) {
        StepState before = runner[0].seen;
        double kept[3][ELEMENTS], now[3][ELEMENTS];
        const void *changing[3] = {runner[0].master, runner[0].m, runner[0].v};
        step_numbers(&random, (int)in.step, grad, losses);
        for (int a = 0; a < 3; a++) get_numbers(&runner[0], changing[a], kept[a]);
        for (int i = 0; i < 3; i++) runner_step(&runner[i], &in, grad, losses, 6);
        check_decision(&runner[0], &runner[2], &before, (int)in.step, report);
        for (int a = 0; a < 3; a++) get_numbers(&runner[0], changing[a], now[a]);
        bool same = memcmp(kept, now, sizeof kept) == 0, skipped = runner[2].seen.skip != SKIP_NONE;
        if (same != skipped)
            report_failure(report, "%s step %d: %s", k->name, (int)in.step,
                           same ? "changed nothing" : "a skipped step changed a weight or a moment");
        for (int m = 0; m < N_MEMBERS && !skipped; m++)
            error_add(&members[m], member(&runner[0].seen, m), member(&runner[1].seen, m),
                      member(&runner[2].seen, m));
    }
    for (int m = 0; m < N_MEMBERS; m++) error_judge(&members[m], DTYPE_F64, member_names[m], k->name, report);
    static const char *const names[3] = {"master", "m", "v"};
    for (int a = 0; a < 3; a++) {
        double value[3][ELEMENTS];
        for (int i = 0; i < 3; i++) {
            const void *arrays_of[3] = {runner[i].master, runner[i].m, runner[i].v};
            get_numbers(&runner[i], arrays_of[a], value[i]);
        }
        for (int i = 0; i < ELEMENTS; i++) error_add(&arrays[a], value[0][i], value[1][i], value[2][i]);
        error_judge(&arrays[a], k->accum, names[a], k->name, report);
    }
    for (int i = 0; i < 3; i++) runner_close(&runner[i]);
}

void test_step_sequence(const Implementation *implementation, uint64_t seed, Report *report) {
    const Kernels *k = implementation->kernels;
    test_many_steps(implementation, seed, 0, report);
    test_many_steps(implementation, seed, 0.05, report); /* so large that norms beneath a clip are clipped, too */
    test_constant_window(k, report);
    test_lost_moments(k, report);
    test_lost_weights(k, report);
}
