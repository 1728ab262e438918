/*
 * bench.h: what the bench programs share: flags in, tokens in, one training step, the memory's rate, medians out.
 */
#ifndef BENCH_H
#define BENCH_H

#include "../src/run/log.h"
#include "../src/model/model.h"
#include "../src/model/optim.h"
#include "../src/base/philox.h"
#include "../src/base/threads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline void bench_set(Config *config, const char *settings) {
    Error error = {0};
    check(config_set_all(config, settings, &error), "%s", error.text);
}

/* Initial weights. On the CPU, so that they can be made in the model's own memory, and its peak is a run's. */
static inline void bench_weights(Model *model) {
    void *arena = !model->in_halves ? model->master
                  : model->train    ? model->grad
                                    : must_calloc((size_t)model->params.elements, dtype_size(model->k->accum), "weights");
    params_init(&model->params, model->config, model->k->accum, arena);
    if (model->in_halves) model_load(model, arena);
    if (model->in_halves && !model->train) free(arena);
    model_refresh(model);
}

/* Them and B·T random tokens: what a step costs does not hang on either. */
static inline void bench_fill(Model *model) {
    bench_weights(model);
    uint32_t *tokens = must_malloc((size_t)model->N * sizeof *tokens, "tokens");
    for (int64_t i = 0; i < model->N; i++)
        tokens[i] = (uint32_t)(philox_uniform(1, philox_name_hash("tokens"), (uint64_t)i) * model->V);
    model_feed(model, tokens, tokens);
    model->k->queue_wait(model->queue);
    free(tokens);
}

/* The work of a step as train_gpt.cu does it, with --bhyt-refresh 1 or 0. */
static inline void bench_step(Model *model, Optimizer *optimizer) {
    StepInputs inputs = {.lr = 1e-4, .loss_scale = 1 / (double)model->N};
    if (model->config->bhyt_refresh) model_refresh(model);
    optimizer_begin(optimizer, &inputs);
    model_forward(model, true);
    model_head(model, optimizer->state, true);
    model_backward(model, NULL, NULL);
    optimizer_update(optimizer);
    optimizer_read(optimizer);
}

/* Bytes a second that this machine's memory gives to all threads together: one reading of more than any cache holds. */
static inline double bench_read_rate(void) {
    enum { WORDS = 32 << 20, PIECE = 1 << 14 };
    static uint64_t *words, sum;
    if (!words) {
        words = kernels_cpu_f32.alloc(WORDS * sizeof *words);
        require(words, "out of memory");
        memset(words, 1, WORDS * sizeof *words); /* pages that nobody has written are all the same one */
    }
    const double begin = log_seconds();
#pragma omp parallel for schedule(static) reduction(+ : sum)
    for (int at = 0; at < WORDS; at += PIECE) {
        uint64_t piece = 0;
#pragma omp simd reduction(+ : piece)
        for (int i = at; i < at + PIECE; i++) piece += words[i];
        sum += piece;
    }
    return WORDS * sizeof *words / (log_seconds() - begin);
}

static inline int bench_ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the values. */
static inline double bench_median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, bench_ascending);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* The k for which the k-th smallest and the k-th largest of n values hold the median between them with at least
 * 95 % confidence: the largest with 2·P(Binomial(n, ½) < k) ≤ 5 %. 0: n is below 6, there is none. */
static inline int bench_interval_rank(int n) {
    double tail = 0, term = pow(0.5, n);
    for (int k = 0; k < n; k++) {
        tail += term; /* P(≤ k) */
        if (2 * tail > 0.05) return k;
        term *= (double)(n - k) / (k + 1);
    }
    return 0;
}

#endif
