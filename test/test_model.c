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
static void perturb(const Fixture *f, void *arena, bool gates) {
    const Params *params = &f->model.params;
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        if (p->id == PARAM_GATE && !gates) continue;
        int64_t stride = params_row_stride(p);
        for (int j = 0; j < p->pieces; j++)
            for (int64_t r = 0; r < p->piece[j].rows; r++)
                for (int64_t c = 0; c < p->cols; c++) {
                    int64_t at = p->offset + (p->piece[j].row0 + r) * stride + c;
                    double noise = 0.2 * philox_normal(7, philox_name_hash(p->piece[j].key), (uint64_t)(r * p->cols + c));
                    if (f->model.k->accum == DTYPE_F64) ((double *)arena)[at] += noise;
                    else ((float *)arena)[at] += (float)noise;
                }
    }
}

static void setup_with(Fixture *f, const Kernels *k, const char *settings, bool gates) {
    memset(f, 0, sizeof *f);
    configure(&f->config, settings);
    model_create(&f->model, &f->config, k, true);
    optimizer_create(&f->optimizer, &f->model);
    void *arena = calloc((size_t)f->model.params.elements, dtype_size(k->accum));
    params_init(&f->model.params, &f->config, k->accum, arena);
    perturb(f, arena, gates);
    model_load(&f->model, arena);
    model_refresh(&f->model);
    free(arena);
    f->tokens = malloc((size_t)f->model.N * sizeof *f->tokens);
    f->targets = malloc((size_t)f->model.N * sizeof *f->targets);
    for (int64_t i = 0; i < f->model.N; i++) {
        f->tokens[i] = (uint32_t)(philox_uniform(3, philox_name_hash("tokens"), (uint64_t)i) * f->model.V);
        f->targets[i] = (uint32_t)(philox_uniform(3, philox_name_hash("targets"), (uint64_t)i) * f->model.V);
    }
    f->targets[1] = TARGET_IGNORED;
}

static void setup(Fixture *f, const Kernels *k, const char *settings) { setup_with(f, k, settings, true); }

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

/* Four-point central difference of the fp64 loss (MATH.md §7). Its truncation is h⁴ times a fifth derivative, its
 * rounding 1e-16 of the loss over h: 1e-4 balances the two, so that small gradients can be judged as well. */
static double difference(Fixture *f, double *weight) {
    static const double AT[] = {-2, -1, 1, 2}, FACTOR[] = {1, -8, 8, -1};
    const double h = 1e-4, saved = *weight;
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

/* Variants without a stop-gradient; those with one (GPAS, bhyt) are held to the JAX reference instead. */
static void gradients_of_every_norm_and_placement_are_derivatives(void **state) {
    (void)state;
    static const char *const NORMS_[] = {"layernorm", "rmsnorm", "dyt", "bhyt-exact"};
    static const char *const PLACEMENTS_[] = {"pre", "post", "sandwich", "deepnorm", "mix mix-post-layers=1", "lns"};
    static const char *const REST[] = {"arch=llama n-ffn=9", "arch=llama n-ffn=9 sdd=paper n-kv-head=1 recompute=act",
                                       "arch=gpt2 n-ffn=9 sdd=released embed-norm=on recompute=block",
                                       "arch=llama n-ffn=9 sdd=released lns-init=on final-norm=on"};
    int n = 0;
    for (int norm = 0; norm < 4; norm++)
        for (int placement = 0; placement < 6; placement++, n++) {
            char settings[256];
            snprintf(settings, sizeof settings, "n-embd=8 n-head=2 seq-len=4 vocab-size=11 norm=%s placement=%s %s",
                     NORMS_[norm], PLACEMENTS_[placement], REST[(n + norm) % 4]);
            check_gradients(settings);
        }
}

/* ------------------------------------------------------------------------------------------------------ */

/* Trains a few steps; returns the weights (caller frees) and the losses. */
static void *train_with(const Kernels *k, const char *settings, bool gates, double losses[4], size_t *bytes) {
    Fixture f;
    setup_with(&f, k, settings, gates);
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

static void *train(const Kernels *k, const char *settings, double losses[4], size_t *bytes) {
    return train_with(k, settings, true, losses, bytes);
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

static void recomputing_changes_no_bit_of_any_variant(void **state) {
    (void)state;
    static const char *const VARIANTS[] = {
        "placement=post gpas=sublayer",         "placement=deepnorm gpas=layer sdd=released",
        "placement=sandwich norm=bhyt-exact",   "placement=mix mix-post-layers=1 gpas=layer",
        "placement=lns norm=bhyt gpas=sublayer", "norm=dyt embed-scale=on sdd=paper",
        "placement=post sdd=released final-norm=on",
    };
    for (size_t i = 0; i < sizeof VARIANTS / sizeof *VARIANTS; i++) {
        char none[512], act[512], block[512];
        snprintf(none, sizeof none, LLAMA_RUN "%s", VARIANTS[i]);
        snprintf(act, sizeof act, LLAMA_RUN "%s recompute=act", VARIANTS[i]);
        snprintf(block, sizeof block, LLAMA_RUN "%s recompute=block", VARIANTS[i]);
        assert_same_training(&kernels_cpu_f32, none, act);
        assert_same_training(&kernels_cpu_f32, none, block);
    }
}

/* Gates whose scale is 1 take no part in the forward pass; the first step's loss is the plain model's. */
static void zero_gates_are_the_plain_model(void **state) {
    (void)state;
    static const char *const PLACEMENTS_[] = {"pre", "post", "sandwich", "deepnorm", "lns"};
    for (int i = 0; i < 5; i++) {
        double plain[4], gated[4];
        size_t bytes;
        char a[256], b[256];
        snprintf(a, sizeof a, LLAMA_RUN "placement=%s lr=0", PLACEMENTS_[i]);
        snprintf(b, sizeof b, LLAMA_RUN "placement=%s lr=0 gpas=sublayer", PLACEMENTS_[i]);
        free(train_with(&kernels_cpu_f32, a, false, plain, &bytes));
        free(train_with(&kernels_cpu_f32, b, false, gated, &bytes));
        assert_memory_equal(plain, gated, sizeof plain);
    }
}

/* mix with no post layer is pre, with all of them post (the same final norm). */
static void mix_lies_between_pre_and_post(void **state) {
    (void)state;
    assert_same_training(&kernels_cpu_f32, LLAMA_RUN "placement=pre", LLAMA_RUN "placement=mix mix-post-layers=0");
    assert_same_training(&kernels_cpu_f32, LLAMA_RUN "placement=post final-norm=on",
                         LLAMA_RUN "placement=mix mix-post-layers=2");
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
    static const char *const CASES[] = {
        "arch=gpt2 batch-size=1",
        "arch=llama n-head=6 n-kv-head=2 n-ffn=21 batch-size=1",
        "arch=llama n-ffn=21 batch-size=1 placement=lns norm=bhyt gpas=sublayer",
        "arch=llama n-ffn=21 batch-size=1 placement=post gpas=layer sdd=released",
        "arch=llama n-ffn=21 batch-size=1 placement=mix mix-post-layers=1 gpas=layer sdd=paper",
        "arch=gpt2 batch-size=1 placement=sandwich norm=dyt gpas=sublayer",
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
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
        cmocka_unit_test(gradients_of_every_norm_and_placement_are_derivatives),
        cmocka_unit_test(recomputing_changes_no_bit_of_any_variant),
        cmocka_unit_test(zero_gates_are_the_plain_model),
        cmocka_unit_test(mix_lies_between_pre_and_post),
        cmocka_unit_test(another_seed_is_another_run),
        cmocka_unit_test(padding_stays_zero),
        cmocka_unit_test(the_cache_computes_what_training_computes),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
