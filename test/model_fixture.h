/*
 * model_fixture.h: what the tests of whole models share: a tiny model with weights away from their initial
 * values, and a batch for it.
 */
#ifndef MODEL_FIXTURE_H
#define MODEL_FIXTURE_H

#include "../src/model/model.h"
#include "../src/model/optim.h"
#include "../src/base/philox.h"
#include "../src/settings/schedule.h"
#include "../src/settings/resolve.h"
#include "settings.h"

#include <math.h>
#include <stdlib.h>

typedef struct Fixture {
    Config config;
    Model model;
    Optimizer optimizer;
    uint32_t *tokens, *targets;
} Fixture;

/* Small shapes, then the case's own settings. */
static inline void configure(Config *config, const char *settings) {
    char all[1024];
    snprintf(all, sizeof all,
             "n-layer=2 n-embd=24 n-head=3 seq-len=7 batch-size=2 vocab-size=29 init-std=0.3 %s", settings);
    configure_raw(config, all);
    config_resolve(config, 1);
}

static inline double element_get(const Model *m, const void *arena, int64_t i) {
    return m->k->accum == DTYPE_F64 ? ((const double *)arena)[i] : (double)((const float *)arena)[i];
}

static inline void element_set(const Model *m, void *arena, int64_t i, double value) {
    if (m->k->accum == DTYPE_F64)
        ((double *)arena)[i] = value;
    else
        ((float *)arena)[i] = (float)value;
}

/* Elements of an arena that are a parameter's true numbers: for (Elements e = {.p = p}; element_next(&e);) …
 * e.at … */
typedef struct Elements {
    const Param *p;
    int piece;
    int64_t r, c, at; /* c is one too far */
    int64_t index;    /* r·cols + c in the piece */
} Elements;

static inline bool element_next(Elements *e) {
    const Param *p = e->p;
    if (e->c == p->cols) e->c = 0, e->r++;
    while (e->piece < p->pieces && e->r == p->piece[e->piece].rows) e->r = 0, e->piece++;
    if (e->piece == p->pieces) return false;
    e->index = e->r * p->cols + e->c;
    e->at = p->offset + (p->piece[e->piece].row0 + e->r) * params_row_stride(p) + e->c++;
    return true;
}

/* Adds normal numbers of this deviation to everything. */
static inline void perturb(const Model *m, void *arena, double noise) {
    for (int i = 0; i < m->params.count; i++) {
        const Param *p = &m->params.list[i];
        for (Elements e = {.p = p}; element_next(&e);) {
            uint64_t key = philox_name_hash(p->piece[e.piece].key);
            double more = noise * philox_normal(7, key, (uint64_t)e.index);
            element_set(m, arena, e.at, element_get(m, arena, e.at) + more);
        }
    }
}

static inline void setup_with(Fixture *f, const Kernels *k, const char *settings, double noise) {
    memset(f, 0, sizeof *f);
    configure(&f->config, settings);
    model_create(&f->model, &f->config, k, true);
    optimizer_create(&f->optimizer, &f->model);
    void *arena = calloc((size_t)f->model.params.elements, dtype_size(k->accum));
    params_init(&f->model.params, &f->config, k->accum, arena);
    perturb(&f->model, arena, noise);
    model_load(&f->model, arena);
    model_refresh(&f->model);
    free(arena);
    f->tokens = malloc((size_t)f->model.N * sizeof *f->tokens);
    f->targets = malloc((size_t)f->model.N * sizeof *f->targets);
    for (int64_t i = 0; i < f->model.N; i++) {
        f->tokens[i] = (uint32_t)(philox_uniform(3, philox_name_hash("tokens"), (uint64_t)i) * f->model.V);
        f->targets[i] = (uint32_t)(philox_uniform(3, philox_name_hash("targets"), (uint64_t)i) * f->model.V);
    }
    if (f->model.N > 1) f->targets[1] = TARGET_IGNORED;
}

/* Weights well away from their initial ones and from zero, so that no gradient is small by symmetry. */
static inline void setup(Fixture *f, const Kernels *k, const char *settings) {
    setup_with(f, k, settings, 0.2);
}

/* The CPU's implementations of the contract that this machine can run, fp32 first. Returns how many. */
static inline int cpu_types(const Kernels *types[3]) {
    const Kernels *const all[] = {&kernels_cpu_f32, &kernels_cpu_f64, &kernels_cpu_bf16};
    int count = 0;
    char why[256];
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]->open(0, why, sizeof why)) types[count++] = all[i];
        else printf("# %s is left out: %s\n", all[i]->name, why);
    return count;
}

static inline void teardown(Fixture *f) {
    optimizer_destroy(&f->optimizer);
    model_destroy(&f->model);
    free(f->tokens);
    free(f->targets);
}

static inline void begin(Fixture *f, int64_t step) {
    StepInputs inputs = {
        .lr = schedule_lr(&f->config, step), .loss_scale = 1 / (double)f->model.N, .step = (uint64_t)step};
    optimizer_begin(&f->optimizer, &inputs);
    model_feed(&f->model, f->tokens, f->targets);
}

static inline double loss_and_gradient(Fixture *f, bool gradient) {
    begin(f, 0);
    model_forward(&f->model, gradient);
    model_head(&f->model, f->optimizer.state, gradient);
    if (gradient) model_backward(&f->model, NULL, NULL);
    return optimizer_read(&f->optimizer)->loss_sum / (double)f->model.N;
}

#endif
