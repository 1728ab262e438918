/*
 * test_model.c: the whole model keeps its promises: its gradients are derivatives, recomputing changes no bit,
 * and a run repeats itself bit for bit.
 */
#include "../src/model.h"
#include "../src/optim.h"
#include "../src/philox.h"
#include "../src/schedule.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

typedef struct Fixture {
    Config config;
    Model model;
    Optimizer optimizer;
    uint32_t *tokens, *targets;
} Fixture;

/* "n-layer=2 n-embd=24": small shapes, then the case's own settings. */
static void configure(Config *config, const char *settings) {
    char all[512], *state = NULL;
    snprintf(all, sizeof all, "n-layer=2 n-embd=24 n-head=3 seq-len=7 batch-size=2 vocab-size=29 init-std=0.3 %s", settings);
    config_defaults(config);
    for (char *word = strtok_r(all, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
        char *equals = strchr(word, '=');
        Error error = {0};
        assert_non_null(equals);
        *equals = '\0';
        if (!config_set(config, word, equals + 1, &error)) fail_msg("%s", error.text);
    }
    config_resolve(config, 1);
}

/* Weights well away from their initial ones and zeros, so that no gradient is small by symmetry. */
static void perturb(const Fixture *f, void *arena) {
    const Params *params = &f->model.params;
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        int64_t stride = params_row_stride(p);
        for (int j = 0; j < p->pieces; j++)
            for (int64_t r = 0; r < p->piece[j].rows; r++)
                for (int64_t c = 0; c < p->cols; c++) {
                    int64_t at = p->offset + (p->piece[j].row0 + r) * stride + c;
                    double noise = 0.2 * philox_normal(7, philox_name_hash("perturb"), (uint64_t)at);
                    if (f->model.k->accum == DTYPE_F64) ((double *)arena)[at] += noise;
                    else ((float *)arena)[at] += (float)noise;
                }
    }
}

static void setup(Fixture *f, const Kernels *k, const char *settings) {
    memset(f, 0, sizeof *f);
    configure(&f->config, settings);
    model_create(&f->model, &f->config, k, true);
    optimizer_create(&f->optimizer, &f->model);
    void *arena = calloc((size_t)f->model.params.elements, dtype_size(k->accum));
    params_init(&f->model.params, &f->config, k->accum, arena);
    perturb(f, arena);
    model_load(&f->model, arena);
    free(arena);
    f->tokens = malloc((size_t)f->model.N * sizeof *f->tokens);
    f->targets = malloc((size_t)f->model.N * sizeof *f->targets);
    for (int64_t i = 0; i < f->model.N; i++) {
        f->tokens[i] = (uint32_t)(philox_uniform(3, philox_name_hash("tokens"), (uint64_t)i) * f->model.V);
        f->targets[i] = (uint32_t)(philox_uniform(3, philox_name_hash("targets"), (uint64_t)i) * f->model.V);
    }
    f->targets[1] = TARGET_IGNORED;
}

static void teardown(Fixture *f) {
    optimizer_destroy(&f->optimizer);
    model_destroy(&f->model);
    free(f->tokens);
    free(f->targets);
}

static void begin(Fixture *f, int64_t step) {
    StepInputs inputs = {.lr = schedule_lr(&f->config, step), .loss_scale = 1 / (double)f->model.N,
                         .step = (uint64_t)step};
    optimizer_begin(&f->optimizer, &inputs);
    model_feed(&f->model, f->tokens, f->targets);
}

static double loss_and_gradient(Fixture *f, bool gradient) {
    begin(f, 0);
    model_forward(&f->model, gradient);
    model_head(&f->model, f->optimizer.state, gradient);
    if (gradient) model_backward(&f->model);
    return optimizer_read(&f->optimizer)->loss_sum / (double)f->model.N;
}

/* Four-point central difference of the fp64 loss (MATH.md §7). */
static double difference(Fixture *f, double *weight) {
    static const double AT[] = {-2, -1, 1, 2}, FACTOR[] = {1, -8, 8, -1};
    const double h = 1e-6, saved = *weight;
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        *weight = saved + AT[i] * h;
        sum += FACTOR[i] * loss_and_gradient(f, false);
    }
    *weight = saved;
    return sum / (12 * h);
}

/* One that is there for true numbers only; padding is left out. */
static void check_param(Fixture *f, const Param *p, const double *analytic, double norm_all) {
    double *weights = f->model.master, error = 0, norm = 0;
    int64_t stride = params_row_stride(p);
    for (int j = 0; j < p->pieces; j++)
        for (int64_t r = 0; r < p->piece[j].rows; r++)
            for (int64_t c = 0; c < p->cols; c++) {
                int64_t at = p->offset + (p->piece[j].row0 + r) * stride + c;
                double delta = difference(f, &weights[at]) - analytic[at];
                error += delta * delta;
                norm += analytic[at] * analytic[at];
            }
    double relative = sqrt(error) / fmax(sqrt(norm), 1e-6 * norm_all);
    if (!(relative < 1e-6))
        fail_msg("%s: relative error %.3g of the gradient (norm %.3g)", p->piece[0].key, relative, sqrt(norm));
}

static void check_gradients(const char *settings) {
    Fixture f;
    setup(&f, &kernels_cpu_f64, settings);
    loss_and_gradient(&f, true);
    size_t bytes = (size_t)f.model.params.elements * sizeof(double);
    double *analytic = malloc(bytes), norm = 0;
    memcpy(analytic, f.model.grad, bytes);
    for (int64_t i = 0; i < f.model.params.elements; i++) norm += analytic[i] * analytic[i];
    for (int i = 0; i < f.model.params.count; i++) check_param(&f, &f.model.params.list[i], analytic, sqrt(norm));
    free(analytic);
    teardown(&f);
}

static void gradients_of_gpt2_are_derivatives(void **state) {
    (void)state;
    check_gradients("arch=gpt2");
}

static void gradients_of_llama_are_derivatives(void **state) {
    (void)state;
    check_gradients("arch=llama n-ffn=21");
}

static void gradients_of_grouped_query_are_derivatives(void **state) {
    (void)state;
    check_gradients("arch=llama n-head=6 n-kv-head=2 n-embd=24 n-ffn=21 recompute=block");
}

static void gradients_of_swapped_parts_are_derivatives(void **state) {
    (void)state;
    check_gradients("arch=gpt2 norm=rmsnorm positions=rope n-head=3 activation=swiglu n-ffn=13 bias=on "
                    "tie-embeddings=off recompute=act");
}

/* ------------------------------------------------------------------------------------------------------ */

/* Trains a few steps; returns the weights (caller frees) and the losses. */
static void *train(const Kernels *k, const char *settings, double losses[4], size_t *bytes) {
    Fixture f;
    setup(&f, k, settings);
    for (int step = 0; step < 4; step++) {
        begin(&f, step);
        model_forward(&f.model, true);
        model_head(&f.model, f.optimizer.state, true);
        model_backward(&f.model);
        optimizer_update(&f.optimizer);
        losses[step] = optimizer_read(&f.optimizer)->loss_sum;
    }
    *bytes = (size_t)f.model.params.elements * dtype_size(k->accum);
    void *weights = malloc(*bytes);
    memcpy(weights, f.model.master, *bytes);
    teardown(&f);
    return weights;
}

static void assert_same_training(const Kernels *k, const char *a, const char *b) {
    double losses_a[4], losses_b[4];
    size_t bytes;
    void *weights_a = train(k, a, losses_a, &bytes), *weights_b = train(k, b, losses_b, &bytes);
    assert_memory_equal(losses_a, losses_b, sizeof losses_a);
    assert_memory_equal(weights_a, weights_b, bytes);
    assert_true(losses_a[3] != losses_a[0]); /* it trained at all */
    free(weights_a);
    free(weights_b);
}

#define GPT2_RUN  "arch=gpt2 lr=0.01 warmup-steps=1 n-embd=72 seq-len=33 vocab-size=101 "
#define LLAMA_RUN "arch=llama lr=0.01 warmup-steps=1 n-embd=72 n-head=6 n-kv-head=2 n-ffn=101 seq-len=33 vocab-size=101 "

static void a_run_repeats_itself_bit_for_bit(void **state) {
    (void)state;
    assert_same_training(&kernels_cpu_f32, GPT2_RUN, GPT2_RUN);
    assert_same_training(&kernels_cpu_f32, LLAMA_RUN, LLAMA_RUN);
}

static void recomputing_changes_no_bit(void **state) {
    (void)state;
    assert_same_training(&kernels_cpu_f32, GPT2_RUN, GPT2_RUN "recompute=act");
    assert_same_training(&kernels_cpu_f32, GPT2_RUN, GPT2_RUN "recompute=block");
    assert_same_training(&kernels_cpu_f32, LLAMA_RUN, LLAMA_RUN "recompute=act");
    assert_same_training(&kernels_cpu_f32, LLAMA_RUN, LLAMA_RUN "recompute=block");
}

static void another_seed_is_another_run(void **state) {
    (void)state;
    double a[4], b[4];
    size_t bytes;
    free(train(&kernels_cpu_f32, GPT2_RUN "seed=1", a, &bytes));
    free(train(&kernels_cpu_f32, GPT2_RUN "seed=2", b, &bytes));
    assert_true(a[0] != b[0]);
}

static void padding_stays_zero(void **state) {
    (void)state;
    Fixture f;
    setup(&f, &kernels_cpu_f32, "arch=llama n-ffn=21 lr=0.01 warmup-steps=1");
    for (int step = 0; step < 2; step++) {
        loss_and_gradient(&f, true);
        optimizer_update(&f.optimizer);
    }
    const Params *params = &f.model.params;
    char *real = calloc((size_t)params->elements, 1);
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        for (int j = 0; j < p->pieces; j++)
            for (int64_t r = 0; r < p->piece[j].rows; r++)
                for (int64_t c = 0; c < p->cols; c++)
                    real[p->offset + (p->piece[j].row0 + r) * params_row_stride(p) + c] = 1;
    }
    int64_t padding = 0;
    for (int64_t i = 0; i < params->elements; i++) {
        if (real[i]) continue;
        padding++;
        assert_true(((float *)f.model.master)[i] == 0 && ((float *)f.optimizer.v)[i] == 0);
    }
    assert_true(padding > 0);
    assert_int_equal(params->elements - padding, params->true_elements);
    free(real);
    teardown(&f);
}

/* Greedy logits with the cache equal those of the whole prefix at once. */
static void the_cache_computes_what_training_computes(void **state) {
    (void)state;
    static const char *const CASES[] = {"arch=gpt2 batch-size=1", "arch=llama n-head=6 n-kv-head=2 n-ffn=21 batch-size=1"};
    for (int i = 0; i < 2; i++) {
        Fixture f;
        setup(&f, &kernels_cpu_f64, CASES[i]);
        model_open_cache(&f.model);
        int T = f.model.T, V = f.model.V;
        double *whole = malloc((size_t)(T * V) * sizeof *whole);
        model_feed(&f.model, f.tokens, f.targets);
        model_forward(&f.model, false);
        model_logits(&f.model, 0, T);
        for (int t = 0; t < T; t++)
            memcpy(whole + t * V, (double *)f.model.logits + t * padded(V), (size_t)V * sizeof *whole);
        for (int t = 0; t < T; t += t ? 1 : 3) { /* three tokens first, then one by one */
            int count = t ? 1 : 3;
            model_decode(&f.model, f.tokens + t, count, (uint32_t)t);
            for (int v = 0; v < V; v++) {
                double expected = whole[(t + count - 1) * V + v], got = ((double *)f.model.logits)[v];
                /* Sums in another order: some hundred roundings of 1e-16 in logits of order 1. */
                assert_true(fabs(got - expected) <= 1e-12 * (1 + fabs(expected)));
            }
        }
        free(whole);
        teardown(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_gpt2_are_derivatives),
        cmocka_unit_test(gradients_of_llama_are_derivatives),
        cmocka_unit_test(gradients_of_grouped_query_are_derivatives),
        cmocka_unit_test(gradients_of_swapped_parts_are_derivatives),
        cmocka_unit_test(a_run_repeats_itself_bit_for_bit),
        cmocka_unit_test(recomputing_changes_no_bit),
        cmocka_unit_test(another_seed_is_another_run),
        cmocka_unit_test(padding_stays_zero),
        cmocka_unit_test(the_cache_computes_what_training_computes),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
