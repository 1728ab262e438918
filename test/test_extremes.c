/*
 * test_extremes.c: where the mathematics has no NaN, no model has one: rows of zeros, of 1e4 and of 1e-20,
 * gates from −20 to 20 with the scale passing through zero, λ and α of either sign and zero, the least
 * widths, 64 layers. Forward and backward, fp32 and fp64. (The operations by themselves:
 * ops_cases_junction.c.)
 */
#include "model_fixture.h"
#include "variant_cases.h"

#include <omp.h>

enum { VARIANTS = LEGAL_METHODS };

#define TINY "n-embd=8 n-head=2 n-ffn=5 seq-len=6 vocab-size=13 gpas-init=0.3 "

static const Kernels *const TYPES[] = {&kernels_cpu_f32, &kernels_cpu_f64};

static double gradient_squares; /* of the last check */

/* Loss and every gradient are finite. Returns the loss. */
static double assert_finite(Fixture *f, const char *settings, const char *what) {
    model_refresh(&f->model);
    double loss = loss_and_gradient(f, true);
    if (!isfinite(loss)) fail_msg("%s, %s, %s: the loss is %g", f->model.k->name, settings, what, loss);
    gradient_squares = 0;
    for (int i = 0; i < f->model.params.count; i++) {
        const Param *p = &f->model.params.list[i];
        for (Elements e = {.p = p}; element_next(&e);) {
            double g = element_get(&f->model, f->model.grad, e.at);
            if (!isfinite(g))
                fail_msg("%s, %s, %s: %s has a gradient of %g", f->model.k->name, settings, what,
                         p->piece[e.piece].key, g);
            gradient_squares += g * g;
        }
    }
    return loss;
}

/* Embedding rows as in ops_cases: zeros, 1e4, 1e-20 among usual ones; no position adds to them. */
static void set_rows(Fixture *f, double factor) {
    Model *m = &f->model;
    const Param *tokens = params_find(&m->params, PARAM_TOKENS, -1),
                *positions = params_find(&m->params, PARAM_POSITIONS, -1);
    for (Elements e = {.p = tokens}; element_next(&e);) {
        static const double SIZES[] = {0, 1e4, 1e-20, 1};
        element_set(m, m->master, e.at, factor * SIZES[e.r % 4] * element_get(m, m->master, e.at));
    }
    for (Elements e = {.p = positions}; positions && element_next(&e);) element_set(m, m->master, e.at, 0);
    for (int64_t i = 0; i < m->N; i++) f->tokens[i] = (uint32_t)(i % m->V); /* every kind of row is seen */
}

/* The derivative of a norm at a row of zeros is 1/√ε: with SDD under a sandwich a layer has eight in a row,
 * 1e22 in all, and two layers' product is beyond fp32's range. So fp32 has one layer, where the placement
 * lets it. */
static void rows(const char *settings) {
    for (int t = 0; t < 2; t++) {
        Fixture f;
        char all[768];
        bool one = TYPES[t]->accum == DTYPE_F32 && !strstr(settings, "placement=mix");
        snprintf(all, sizeof all, "%s n-layer=%d", settings, one ? 1 : 2);
        setup(&f, TYPES[t], all);
        set_rows(&f, 1);
        assert_finite(&f, all, "rows of 0, 1e4 and 1e-20");
        assert_true(gradient_squares > 0);
        set_rows(&f, 0);
        assert_finite(&f, all, "rows of zeros alone");
        teardown(&f);
    }
}

static void rows_of_zeros_and_of_extreme_size_give_finite_gradients(void **state) {
    (void)state;
    assert_int_equal(variant_for_each(TINY, rows), VARIANTS);
}

static void set_all(Fixture *f, ParamId id, double value) {
    for (int l = -1; l < f->model.L; l++) {
        const Param *p = params_find(&f->model.params, id, l);
        for (Elements e = {.p = p}; p && element_next(&e);)
            element_set(&f->model, f->model.master, e.at, value);
    }
}

/* Gates through the whole range; 1 is where identity, relu and leaky-relu make a scale of exactly 0, 1.2784…
 * where SiLU's is nearest to it. */
static void gates(const char *settings) {
    static const char *const ACTS[] = {"silu", "identity", "relu", "tanh", "leaky-relu"};
    static const double GATES[] = {-20, -5, -1.2784645427610738, 0, 0.5, 1, 1.2784645427610738, 5, 20};
    static int turn;
    if (strstr(settings, "gpas=off")) return;
    for (int t = 0; t < 2; t++) {
        Fixture f;
        char all[768], what[64];
        const char *act = ACTS[turn++ % 5];
        snprintf(all, sizeof all, "%s gpas-act=%s", settings, act);
        setup(&f, TYPES[t], all);
        for (size_t g = 0; g < sizeof GATES / sizeof *GATES; g++) {
            set_all(&f, PARAM_GATE, GATES[g]);
            snprintf(what, sizeof what, "gates of %.17g", GATES[g]);
            assert_finite(&f, all, what);
            assert_true(gradient_squares > 0);
            double scale = element_get(&f.model, f.model.gate_scale, 0);
            if (GATES[g] == 1 && strcmp(act, "silu") && strcmp(act, "tanh")) assert_true(scale == 0);
        }
        teardown(&f);
    }
}

static void gates_whose_scale_passes_through_zero_give_finite_gradients(void **state) {
    (void)state;
    assert_int_equal(variant_for_each(TINY, gates), VARIANTS);
}

static void scalars(const char *settings) {
    static const ParamId SCALARS[] = {PARAM_EMBED_NORM_SCALAR, PARAM_NORM1_SCALAR,  PARAM_INNER1_SCALAR,
                                      PARAM_NORM2_SCALAR,      PARAM_INNER2_SCALAR, PARAM_FINAL_SCALAR};
    static const double VALUES[] = {-1e4, -3, -1e-20, 0, 1e-20, 3, 1e4};
    if (!strstr(settings, "dyt") && !strstr(settings, "bhyt") && !strstr(settings, "derf")) return;
    for (int t = 0; t < 2; t++) {
        Fixture f;
        char all[768], what[64];
        snprintf(all, sizeof all, "%s embed-norm=on final-norm=on bhyt-lambda-final=2", settings);
        setup(&f, TYPES[t], all);
        for (size_t v = 0; v < sizeof VALUES / sizeof *VALUES; v++) {
            for (size_t s = 0; s < sizeof SCALARS / sizeof *SCALARS; s++)
                if (VALUES[v] != 0 || SCALARS[s] != PARAM_FINAL_SCALAR) set_all(&f, SCALARS[s], VALUES[v]);
            snprintf(what, sizeof what, "λ and α of %g", VALUES[v]);
            assert_finite(&f, all, what);
        }
        teardown(&f);
    }
}

static void lambda_and_alpha_of_either_sign_and_zero_give_finite_gradients(void **state) {
    (void)state;
    assert_int_equal(variant_for_each(TINY, scalars), VARIANTS);
}

/* The least that the flags allow: one channel with learned positions, two under RoPE. */
static void least(const char *settings) {
    for (int t = 0; t < 2; t++) {
        Fixture f;
        char all[768];
        bool gpt2 = strstr(settings, "arch=gpt2");
        const char *mix = strstr(settings, "mix-post-layers=1");
        snprintf(all, sizeof all, "%s n-embd=%d n-head=1 n-kv-head=1 n-layer=%d", settings, gpt2 ? 1 : 2,
                 mix ? 2 : 1);
        setup(&f, TYPES[t], all);
        assert_finite(&f, all, "least width");
        optimizer_update(&f.optimizer);
        assert_int_equal(optimizer_read(&f.optimizer)->skip, SKIP_NONE);
        teardown(&f);
    }
}

static void the_least_width_trains(void **state) {
    (void)state;
    assert_int_equal(variant_for_each("n-ffn=1 seq-len=1 batch-size=1 vocab-size=2 gpas-init=0.3", least),
                     VARIANTS);
}

/* From initial values as a run has them; a deviation that keeps a block's gain near 1 for so few channels.
 * fp32 is the narrow one: fp64 for every fifth variant. */
static void deep(const char *settings) {
    static int turn;
    for (int t = 0; t < (turn % 5 ? 1 : 2); t++) {
        Fixture f;
        setup_with(&f, TYPES[t], settings, 0);
        for (int step = 0; step < 2; step++) {
            double loss = assert_finite(&f, settings, "64 layers");
            assert_true(gradient_squares > 0);
            assert_true(fabs(loss - log(13)) <
                        3); /* it says something about the vocabulary, not about overflow */
            optimizer_update(&f.optimizer);
            assert_int_equal(optimizer_read(&f.optimizer)->skip, SKIP_NONE);
        }
        teardown(&f);
    }
    turn++;
}

static void sixty_four_layers_give_finite_gradients(void **state) {
    (void)state;
    int n = variant_for_each(
        "n-layer=64 n-embd=8 n-head=2 n-ffn=5 seq-len=3 batch-size=1 vocab-size=13 init-std=0.1 "
        "gpas-init=0.1 lr=1e-3 warmup-steps=1 steps=4",
        deep);
    assert_int_equal(n, VARIANTS);
}

int main(void) {
    omp_set_num_threads(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_zeros_and_of_extreme_size_give_finite_gradients),
        cmocka_unit_test(gates_whose_scale_passes_through_zero_give_finite_gradients),
        cmocka_unit_test(lambda_and_alpha_of_either_sign_and_zero_give_finite_gradients),
        cmocka_unit_test(the_least_width_trains),
        cmocka_unit_test(sixty_four_layers_give_finite_gradients),
    };
    return cmocka_run_group_tests_name("extremes", tests, NULL, NULL);
}
