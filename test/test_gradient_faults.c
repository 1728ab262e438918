/*
 * test_gradient_faults.c: the mistakes that stop-gradients invite are seen by the gradient check, each by as
 * much as the mathematics says (MATH.md §3, §5, §7; §1.2 for BHyT).
 */
#include "gradient_check.h"

#include <omp.h>

#define SHAPE                                                                                                \
    "arch=llama n-embd=16 n-head=2 n-ffn=9 seq-len=5 vocab-size=11 bhyt-lambda-attn=6 bhyt-lambda-mlp=5 "

static double check_with(const Kernels *k, const char *settings, char tensor[PARAM_NAME_SIZE]) {
    Fixture f;
    char all[512];
    snprintf(all, sizeof all, SHAPE "%s", settings);
    setup(&f, k, all);
    GradientReport report = gradient_check(&f, 2);
    teardown(&f);
    frozen_forget();
    strcpy(tensor, report.tensor);
    return report.worst;
}

/* Right kernels pass, broken ones fail by at least `least`, in a tensor of that name. */
static void assert_seen(const Kernels *broken, const char *settings, double least, const char *name) {
    char tensor[PARAM_NAME_SIZE];
    double right = check_with(frozen_kernels(), settings, tensor);
    if (!(right < GRADIENT_TOLERANCE)) fail_msg("%s: %.3g in %s without any fault", settings, right, tensor);
    double wrong = check_with(broken, settings, tensor);
    fprintf(stderr, "# %s: seen by %.3g in %s\n", settings, wrong, tensor);
    if (!(wrong > least)) fail_msg("%s: not seen: %.3g in %s", settings, wrong, tensor);
    if (!strstr(tensor, name)) fail_msg("%s: seen in %s, not in %s", settings, tensor, name);
}

/* ------------------------------------------------------------------------------------------------------
 * Unfrozen, a true derivative has the factor 1 − act(g) for every gate that lies between a parameter and the
 * loss
 * ---------------------------------------------------------------------------------------------------- */

/* The first sublayer whose sum has this parameter in it, or −1 for the embedding's. */
static int sublayer_of(const Param *p) {
    if (p->layer < 0) return -1;
    bool mlp = p->id >= PARAM_NORM2 && p->id != PARAM_GATE;
    return 2 * p->layer + mlp;
}

static double scales_from(const Fixture *f, int sublayer) {
    double product = 1;
    for (int j = sublayer < 0 ? 0 : sublayer; j < 2 * f->model.L; j++)
        product *= element_get(&f->model, f->model.gate_scale, j);
    return product;
}

/* Demands that the true derivative is `expected` times what backward gives, along backward's gradient of
 * elements [first, first + count) of a parameter; steps and scale of the error as in gradient_check.c. */
static void assert_ratio(Fixture *f, const Param *p, const double *analytic, int64_t first, int64_t count,
                         double expected) {
    static const double STEPS[] = {1e-4, 1e-3};
    double *direction = must_calloc((size_t)(p->rows * p->cols), sizeof *direction, "a direction"), norm = 0,
           all = 0;
    int64_t i = 0;
    for (Elements e = {.p = p}; element_next(&e); i++)
        if (i >= first && i < first + count)
            norm += analytic[e.at] * analytic[e.at], direction[i] = analytic[e.at];
    for (int64_t j = 0; j < f->model.params.elements; j++) all += analytic[j] * analytic[j];
    norm = sqrt(norm);
    for (int64_t j = 0; j < i; j++) direction[j] /= norm;
    double error = INFINITY, scale = fmax(norm, 1e-6 * sqrt(all)) * fmax(1, fabs(expected)), ratio = NAN;
    for (int s = 0; s < 2 && !(error < GRADIENT_TOLERANCE); s++) {
        ratio = gradient_along(f, p, direction, STEPS[s], FROZEN_OFF) / norm;
        error = fmin(error, fabs(ratio - expected) * norm / scale);
    }
    free(direction);
    if (!(error < GRADIENT_TOLERANCE))
        fail_msg("%s: the true derivative is %.9g of the gradient, not %.9g", p->piece[0].key, ratio,
                 expected);
}

static void unfrozen_gradients_are_off_by_the_product_of_the_scales_above(void **state) {
    (void)state;
    static const char *const CASES[] = {
        SHAPE "n-layer=3 gpas=sublayer placement=pre",
        SHAPE "n-layer=2 gpas=sublayer placement=sandwich norm=layernorm gpas-act=tanh",
        SHAPE "n-layer=2 gpas=sublayer placement=lns norm=dyt sdd=paper gpas-act=identity",
        SHAPE "n-layer=2 gpas=sublayer placement=pre norm=bhyt-exact sdd=released",
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Fixture f;
        setup(&f, frozen_kernels(), CASES[i]);
        double *analytic = gradient_analytic(&f);
        int off = 0;
        for (int q = 0; q < f.model.params.count; q++) {
            const Param *p = &f.model.params.list[q];
            bool above = p->id == PARAM_HEAD || (p->id >= PARAM_FINAL && p->id < PARAM_HEAD);
            if (p->id ==
                PARAM_GATE) { /* a gate's own scale is its derivative's place: those above it count */
                for (int g = 0; g < 2; g++)
                    assert_ratio(&f, p, analytic, g, 1, scales_from(&f, 2 * p->layer + g + 1));
                continue;
            }
            double expected = above ? 1 : scales_from(&f, sublayer_of(p));
            off += fabs(expected - 1) > 0.01;
            assert_ratio(&f, p, analytic, 0, (int64_t)p->rows * p->cols, expected);
        }
        assert_true(off > 10);
        free(analytic);
        frozen_forget();
        teardown(&f);
    }
}

/* Post-type gates are on the shortcut only: with sublayers that say nothing it is the only way. */
static void unfrozen_post_gradients_are_off_by_the_scales_on_the_shortcut(void **state) {
    (void)state;
    static const char *const CASES[] = {
        SHAPE "n-layer=2 gpas=sublayer placement=post final-norm=on",
        SHAPE "n-layer=2 gpas=sublayer placement=deepnorm norm=layernorm",
        SHAPE "n-layer=2 gpas=sublayer placement=keel norm=layernorm",
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Fixture f;
        setup(&f, frozen_kernels(), CASES[i]);
        for (int l = 0; l < f.model.L; l++)
            for (int mlp = 0; mlp < 2; mlp++) {
                const Param *p = params_find(&f.model.params, mlp ? PARAM_MLP_OUT : PARAM_ATTN_OUT, l);
                for (Elements e = {.p = p}; element_next(&e);) element_set(&f.model, f.model.master, e.at, 0);
            }
        double *analytic = gradient_analytic(&f), all = scales_from(&f, 0);
        assert_true(fabs(all - 1) > 0.01);
        assert_ratio(&f, params_find(&f.model.params, PARAM_TOKENS, -1), analytic, 0,
                     (int64_t)f.model.V * f.model.C, all);
        for (int l = 0; l < f.model.L; l++)
            for (int mlp = 0; mlp < 2; mlp++) { /* the norm after sublayer j: only later gates are above it */
                const Param *norm = params_find(&f.model.params, mlp ? PARAM_INNER2 : PARAM_INNER1, l); /* keel's */
                if (!norm) norm = params_find(&f.model.params, mlp ? PARAM_NORM2 : PARAM_NORM1, l);
                assert_ratio(&f, norm, analytic, 0, f.model.C, scales_from(&f, 2 * l + mlp + 1));
            }
        free(analytic);
        frozen_forget();
        teardown(&f);
    }
}

/* ------------------------------------------------------------------------------------------------------
 * Broken kernels
 * ---------------------------------------------------------------------------------------------------- */

static Kernels broken_by(void (*junction_backward)(Queue *, const JunctionBackward *)) {
    Kernels k = *frozen_kernels();
    k.junction_backward = junction_backward;
    return k;
}

/* The gate's gradient from Σ du⊙u: of post-type, x is read for nothing else. */
static void gate_from_u(Queue *queue, const JunctionBackward *args) {
    Junction forward = *args->forward;
    JunctionBackward wrong = *args;
    if (forward.post && args->dgate) forward.x = forward.u;
    wrong.forward = &forward;
    kernels_cpu_f64.junction_backward(queue, &wrong);
}

static void a_post_gate_whose_gradient_is_taken_from_u_is_seen(void **state) {
    (void)state;
    static Kernels broken;
    broken = broken_by(gate_from_u);
    assert_seen(&broken, "placement=post gpas=layer", 0.5, "gpas.gate");
    assert_seen(&broken, "placement=deepnorm norm=layernorm gpas=sublayer", 0.5, "gpas.gate");
    assert_seen(&broken, "placement=mix mix-post-layers=1 gpas=layer", 0.5, "layer.0.gpas.gate");
}

/* hybrid's attention adds to a stream on which the scale of the block before rides: its gate's gradient has that factor. */
static void no_ride(Queue *queue, const JunctionBackward *args) {
    Junction forward = *args->forward;
    JunctionBackward wrong = *args;
    forward.s_ride = NULL;
    wrong.forward = &forward;
    kernels_cpu_f64.junction_backward(queue, &wrong);
}

static void a_gate_that_forgets_the_scale_before_its_own_is_seen(void **state) {
    (void)state;
    static Kernels broken;
    broken = broken_by(no_ride);
    assert_seen(&broken, "placement=hybrid gpas=sublayer", 1e-2, "gpas.gate");
    assert_seen(&broken, "placement=hybrid-first gpas=layer", 1e-2, "gpas.gate");
}

static double gate_gradient(const Kernels *k, const char *settings) {
    Fixture f;
    setup(&f, k, settings);
    double *analytic = gradient_analytic(&f),
           gate = analytic[params_find(&f.model.params, PARAM_GATE, 0)->offset];
    free(analytic);
    frozen_forget();
    teardown(&f);
    return gate;
}

/* N(u) does not change with u's length but for ε: that gradient is some 1e-6 of the right one, and grows as ε
 * does. */
static void a_post_gate_taken_from_u_would_never_train(void **state) {
    (void)state;
    static Kernels broken;
    broken = broken_by(gate_from_u);
    double right = fabs(gate_gradient(frozen_kernels(), SHAPE "placement=post gpas=layer"));
    double wrong = fabs(gate_gradient(&broken, SHAPE "placement=post gpas=layer"));
    double with_eps = fabs(gate_gradient(&broken, SHAPE "placement=post gpas=layer norm-eps=1e-3"));
    assert_true(right > 1e-3);
    assert_true(wrong < 1e-4 * right);
    assert_true(with_eps > 100 * wrong);
}

/* BHyT without the gradient through the block's mean square. */
static void no_dv(Queue *queue, const JunctionBackward *args) {
    JunctionBackward wrong = *args;
    wrong.dmean_square_in = NULL;
    kernels_cpu_f64.junction_backward(queue, &wrong);
}

static void bhyt_without_the_gradient_through_v_is_seen(void **state) {
    (void)state;
    static Kernels broken;
    broken = broken_by(no_dv);
    assert_seen(&broken, "norm=bhyt", 1e-3, "");
    assert_seen(&broken, "norm=bhyt placement=lns gpas=sublayer", 1e-3, "");
    assert_seen(&broken, "norm=bhyt sdd=paper", 1e-3, "");
}

/* BHyT with v̂'s λ₁ taken for a live one: ∂v̂/∂λ₁ = 2·vhat[1]/λ₁, and dv̂ = dv/vhat[0]. */
static void live_lambda(Queue *queue, const JunctionBackward *args) {
    static const double *vhat; /* of the block, from its second norm, whose backward came before */
    kernels_cpu_f64.junction_backward(queue, args);
    if (args->dmean_square_out) vhat = args->forward->vhat;
    if (!args->dmean_square_in) return;
    const double *dv = args->dmean_square_in, *lambda = args->forward->norm.scalar;
    double sum = 0;
    for (int64_t n = 0; n < args->forward->N; n++) sum += dv[n] / vhat[0];
    *(double *)args->norm.dscalar += sum * 2 * vhat[1] / *lambda;
}

static void bhyt_with_a_gradient_into_lambda_is_seen(void **state) {
    (void)state;
    static Kernels broken;
    broken = broken_by(live_lambda);
    assert_seen(&broken, "norm=bhyt", 1e-3, "norm1.lambda");
    assert_seen(&broken, "norm=bhyt placement=lns gpas=layer", 1e-3, "norm1.lambda");
}

int main(void) {
    omp_set_num_threads(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unfrozen_gradients_are_off_by_the_product_of_the_scales_above),
        cmocka_unit_test(unfrozen_post_gradients_are_off_by_the_scales_on_the_shortcut),
        cmocka_unit_test(a_post_gate_whose_gradient_is_taken_from_u_is_seen),
        cmocka_unit_test(a_post_gate_taken_from_u_would_never_train),
        cmocka_unit_test(a_gate_that_forgets_the_scale_before_its_own_is_seen),
        cmocka_unit_test(bhyt_without_the_gradient_through_v_is_seen),
        cmocka_unit_test(bhyt_with_a_gradient_into_lambda_is_seen),
    };
    return cmocka_run_group_tests_name("gradient faults", tests, NULL, NULL);
}
