/*
 * test_muon.c: is an update with --optimizer muon that of torch.optim.Muon, and of AdamW for the rest; and what do the
 * matrices that it takes apart, and those that have no direction, come to?
 */
#include "model_fixture.h"
#include "../src/checkpoint/weights.h"

/* ------------------------------------------------------------------------------------------------------
 * PyTorch's updates (reference/make_muon.py)
 * ---------------------------------------------------------------------------------------------------- */

enum { STEPS = 3 };
static const double LR[STEPS] = {1e-2, 2e-2, 5e-3};
#define AS_THERE " n-layer=1 n-embd=16 n-head=2 n-ffn=19 vocab-size=23 seq-len=6 weight-decay=0.3 beta1=0.8 adam-eps=1e-3" \
                 " grad-clip=9 optimizer=muon muon-momentum=0.9 muon-split="

/* The file's tensors behind a prefix into an arena. */
static void read_arena(const Fixture *f, const SafetensorsFile *file, const char *prefix, void *arena) {
    Error error = {0};
    int count;
    FileTensor *tensors = params_file_tensors(&f->model.params, &count);
    TensorPlace *places = calloc((size_t)count, sizeof *places);
    char (*names)[PARAM_NAME_SIZE + 8] = calloc((size_t)count, sizeof *names);
    assert_non_null(places);
    assert_non_null(names);
    for (int i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "%s.%s", prefix, tensors[i].name);
        places[i] = (TensorPlace){.name = names[i], .file = file, .tensor = safetensors_find(&file->header, names[i])};
    }
    if (!weights_read_places(places, &(DeviceArena){.model = &f->model, .base = arena}, &error)) fail_msg("%s", error.text);
    free(names), free(places), free(tensors);
}

/* The largest difference of a parameter, over its largest number. */
static double apart(const Model *m, const Param *p, const void *a, const void *b) {
    double worst = 0, largest = 0;
    for (Elements e = {.p = p}; element_next(&e);) {
        worst = fmax(worst, fabs(element_get(m, a, e.at) - element_get(m, b, e.at)));
        largest = fmax(largest, fabs(element_get(m, b, e.at)));
    }
    return worst / largest;
}

static void assert_pytorch(const char *name, const char *settings, const char *split) {
    Fixture f;
    char path[256], all[512], prefix[16];
    Error error = {0};
    SafetensorsFile file;
    snprintf(path, sizeof path, "test/reference/fixtures_muon/%s.safetensors", name);
    snprintf(all, sizeof all, "%s" AS_THERE "%s", settings, split);
    if (!safetensors_open(&file, path, &error)) fail_msg("%s", error.text);
    setup(&f, &kernels_cpu_f64, all);
    const Model *m = &f.model;
    void *expected = calloc((size_t)m->params.elements, sizeof(double));
    read_arena(&f, &file, "w0", m->master);
    for (int step = 0; step < STEPS; step++) {
        optimizer_begin(&f.optimizer, &(StepInputs){.lr = LR[step], .loss_scale = 1, .step = (uint64_t)step});
        snprintf(prefix, sizeof prefix, "g%d", step + 1);
        read_arena(&f, &file, prefix, m->grad);
        optimizer_update(&f.optimizer);
        snprintf(prefix, sizeof prefix, "w%d", step + 1);
        read_arena(&f, &file, prefix, expected);
        for (int i = 0; i < m->params.count; i++) {
            const Param *p = &m->params.list[i];
            const double error_of = apart(m, p, m->master, expected);
            if (!(error_of <= 1e-9)) fail_msg("%s, step %d: %s is off by %.1e", name, step + 1, p->piece[0].key, error_of);
        }
    }
    assert_int_equal(optimizer_read(&f.optimizer)->non_finite, 0);
    free(expected);
    safetensors_close(&file);
    teardown(&f);
}

/* Wide, tall and square matrices, of any rank and of none, momenta beneath the least norm, clipped gradients. Rounding in
 * fp64 is 1e-16, which Newton–Schulz makes up to 3.4445⁵ = 485 times as large. */
static void an_update_is_pytorchs(void **state) {
    (void)state;
    assert_pytorch("gpt2-parts", "arch=gpt2", "parts");
    assert_pytorch("gpt2-off", "arch=gpt2", "off");
    assert_pytorch("llama-parts", "arch=llama n-kv-head=1", "parts");
    assert_pytorch("llama-heads", "arch=llama n-kv-head=1", "heads");
    assert_pytorch("llama-off", "arch=llama n-kv-head=1", "off");
}

/* ------------------------------------------------------------------------------------------------------ */

static void train(Fixture *f, int steps) {
    for (int step = 0; step < steps; step++) {
        loss_and_gradient(f, true);
        optimizer_update(&f->optimizer);
    }
}

static void *copy_of(const Fixture *f, const void *arena) {
    const size_t bytes = (size_t)f->model.params.elements * dtype_size(f->model.k->accum);
    void *copy = malloc(bytes);
    assert_non_null(copy);
    return memcpy(copy, arena, bytes);
}

/* Without decay, and from a momentum of zero: w − w' is lr·0.2·√max(out, in)·U, and U has min(out, in) singular values of
 * about 1 (0.68 to 1.2 where the gradient's are no smaller than 1/500 of its norm; the rank of a gradient over 14 tokens is
 * at most 14). So the step's rms is at most 0.2·1.25·lr in any type, and not nothing. */
static void a_step_has_the_size_of_adamws(void **state) {
    (void)state;
    const Kernels *const types[] = {&kernels_cpu_f32, &kernels_cpu_f64};
    static const char *const SETTINGS[] = {"", "arch=llama n-ffn=50 n-kv-head=1 muon-split=heads",
                                           "arch=llama n-ffn=50 muon-split=off"};
    for (int i = 0; i < 6; i++) {
        Fixture f;
        char all[256];
        snprintf(all, sizeof all, "optimizer=muon lr=0.01 warmup-steps=0 lr-schedule=constant weight-decay=0 batch-size=8 %s",
                 SETTINGS[i / 2]);
        setup(&f, types[i % 2], all);
        const Model *m = &f.model;
        void *before = copy_of(&f, m->master);
        train(&f, 1);
        for (int j = 0; j < m->params.count; j++) {
            const Param *p = &m->params.list[j];
            double squares = 0, count = 0;
            for (Elements e = {.p = p}; element_next(&e); count++) {
                const double d = element_get(m, m->master, e.at) - element_get(m, before, e.at);
                squares += d * d;
            }
            const double rms = sqrt(squares / count) / 0.01;
            if (p->optimizer == OPTIMIZER_MUON && !(rms > 0.05 && rms < 0.25))
                fail_msg("%s: %s moves by %.3f", all, p->piece[0].key, rms);
        }
        free(before);
        teardown(&f);
    }
}

/* A gradient that is no number: neither weights nor momentum have seen the step. */
static void a_skipped_step_is_none(void **state) {
    (void)state;
    Fixture f;
    setup(&f, &kernels_cpu_f32, "optimizer=muon lr=0.01 warmup-steps=0");
    train(&f, 2);
    void *weights = copy_of(&f, f.model.master), *moments = copy_of(&f, f.optimizer.m);
    const size_t bytes = (size_t)f.model.params.elements * sizeof(float);
    loss_and_gradient(&f, true);
    ((float *)f.model.grad)[params_find(&f.model.params, PARAM_MLP_IN, 1)->offset] = NAN;
    optimizer_update(&f.optimizer);
    assert_int_equal(optimizer_read(&f.optimizer)->skip, SKIP_NON_FINITE);
    assert_memory_equal(weights, f.model.master, bytes);
    assert_memory_equal(moments, f.optimizer.m, bytes);
    train(&f, 1);
    assert_int_equal(optimizer_read(&f.optimizer)->applied, 3);
    assert_true(memcmp(weights, f.model.master, bytes) != 0);
    free(weights), free(moments);
    teardown(&f);
}

/* A momentum or a weight that is no number is counted in its step: all of the matrix goes with it. */
static void lost_numbers_are_counted(void **state) {
    (void)state;
    for (int moment = 0; moment < 2; moment++) {
        Fixture f;
        setup(&f, &kernels_cpu_f32, "optimizer=muon lr=0.01 warmup-steps=0");
        const Param *p = params_find(&f.model.params, PARAM_ATTN_OUT, 0);
        loss_and_gradient(&f, true);
        ((float *)(moment ? f.optimizer.m : f.model.master))[p->offset] = INFINITY;
        optimizer_update(&f.optimizer);
        const uint64_t lost = optimizer_read(&f.optimizer)->non_finite;
        assert_true(moment ? lost > 1 : lost == 1);
        teardown(&f);
    }
}

/* Matrices of blocks are Muon's, and nothing else is; it has no second moments, and they are no room's. */
static void moments_are_what_the_optimizers_need(void **state) {
    (void)state;
    Fixture muon, adamw;
    setup(&muon, &kernels_cpu_f32, "arch=llama n-ffn=50 optimizer=muon");
    setup(&adamw, &kernels_cpu_f32, "arch=llama n-ffn=50");
    const Params *params = &muon.model.params;
    int64_t matrices = 0;
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        const bool in_block = p->layer >= 0 && p->kind == PARAM_MATRIX;
        assert_int_equal(p->optimizer, in_block ? OPTIMIZER_MUON : OPTIMIZER_ADAMW);
        assert_int_equal(adamw.model.params.list[i].optimizer, OPTIMIZER_ADAMW);
        if (in_block) matrices += p->count;
    }
    assert_true(matrices > 0);
    assert_int_equal(muon.optimizer.moments, params->elements);
    assert_int_equal(muon.optimizer.second_moments, params->elements - matrices);
    assert_int_equal(adamw.optimizer.second_moments, params->elements);
    const size_t most = optimizer_moment_bytes(&adamw.config, &adamw.model.params, DTYPE_F32);
    assert_int_equal(most - optimizer_moment_bytes(&muon.config, params, DTYPE_F32), (size_t)matrices * sizeof(float));
    teardown(&muon);
    teardown(&adamw);
}

/* Heads of 8 and a width of 24, an MLP of 21: no side of a matrix is its padding's. */
static void padding_stays_zero(void **state) {
    (void)state;
    static const char *const SPLITS[] = {"parts", "heads", "off"};
    for (int s = 0; s < 3; s++) {
        Fixture f;
        char all[128];
        snprintf(all, sizeof all, "arch=llama n-ffn=21 optimizer=muon lr=0.01 warmup-steps=0 muon-split=%s", SPLITS[s]);
        setup(&f, &kernels_cpu_f32, all);
        train(&f, 2);
        const Params *params = &f.model.params;
        char *real = calloc((size_t)params->elements, 1);
        int64_t padding = 0;
        for (int i = 0; i < params->count; i++)
            for (Elements e = {.p = &params->list[i]}; element_next(&e);) real[e.at] = 1;
        for (int64_t i = 0; i < params->elements; i++) {
            if (real[i]) continue;
            padding++;
            assert_true(((float *)f.model.master)[i] == 0 && ((float *)f.optimizer.m)[i] == 0);
        }
        assert_true(padding > 0);
        free(real);
        teardown(&f);
    }
}

/* gpt2-124m at half a million tokens an update, counted by hand: four matrices of 768 × 768 and two of 768 × 3072 a layer, in
 * five steps of two products by the lesser side squared times the greater, and one by its cube. */
static void newton_schulz_is_little_beside_a_step(void **state) {
    (void)state;
    Config config;
    Params params;
    configure_raw(&config, "n-layer=12 n-embd=768 n-head=12 optimizer=muon");
    config_resolve(&config, 1);
    params_build(&params, &config);
    const double m = 768, square = 6 * m * m * m, wide = 4 * m * m * 4 * m + 2 * m * m * m;
    const double flops = muon_flops(&config, &params);
    assert_true(fabs(flops - 12 * 5 * (4 * square + 2 * wide)) <= 1e-12 * flops);
    const double share = flops / (model_flops_per_token(&config, &params) * 524288);
    assert_true(share < 0.05);
    params_free(&params);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_update_is_pytorchs),
        cmocka_unit_test(a_step_has_the_size_of_adamws),
        cmocka_unit_test(a_skipped_step_is_none),
        cmocka_unit_test(lost_numbers_are_counted),
        cmocka_unit_test(moments_are_what_the_optimizers_need),
        cmocka_unit_test(padding_stays_zero),
        cmocka_unit_test(newton_schulz_is_little_beside_a_step),
    };
    return cmocka_run_group_tests_name("muon", tests, NULL, NULL);
}
