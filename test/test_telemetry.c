/*
 * test_telemetry.c: does a stats line say what telemetry.h says it does? Its numbers are worked out again here, element
 * by element in the order of the formulas, from what the junctions of the watched forward pass were given and returned.
 */
#define _GNU_SOURCE
#include "model_fixture.h"
#include "../src/base/json.h"
#include "../src/run/telemetry.h"
#include "variant_cases.h"

#include <sys/mman.h>

/* Gates about where 1 − silu(g) changes its sign. */
#define TINY                                                                                                            \
    "n-embd=16 n-head=2 n-ffn=13 seq-len=9 vocab-size=31 batch-size=2 lr=0.01 warmup-steps=1 steps=4 gpas-init=1.3 "

enum { LAYERS = 2 };

/* What the junctions have shown. */
static struct Seen {
    const Model *model;
    int calls, sublayers; /* so far */
    int64_t count; /* N·C */
    struct SeenLayer {
        double added[2], sum[2]; /* Σ F̃², Σ u² of attention and MLP */
        double saturated[2];     /* share, of each norm */
        double vhat_ratio;
        double squares, most, dot, before; /* of the stream after the block, with the one before it */
    } layer[LAYERS];
    double stream[18 * 16]; /* after the block before */
} seen;

static bool saturates, turns; /* some |tanh| > 0.99 and some negative scale were among all variants */

static double or_one(const Accum *scalar) { return scalar ? *(const double *)scalar : 1; }

/* r(n, c) of kernels.h. */
static double normed(const Junction *j, int64_t n, int c) {
    const double *u = j->f ? j->u : j->x;
    return or_one(j->s_out) * u[n * padded(j->C) + c];
}

static double mean_square(const Junction *j, int64_t n) {
    double sum = 0;
    for (int c = 0; c < j->C; c++) sum += normed(j, n, c) * normed(j, n, c);
    return sum / j->C;
}

static void see_sublayer(const Junction *j) {
    struct SeenLayer *layer = &seen.layer[seen.sublayers / 2];
    double alpha = j->alpha != 0 ? j->alpha : 1, added = 0, sum = 0;
    for (int64_t n = 0; n < j->N; n++)
        for (int c = 0; c < j->C; c++) {
            int64_t at = n * padded(j->C) + c;
            double u = ((const double *)j->u)[at], f = u - alpha * or_one(j->s_in) * or_one(j->s_ride) * ((const double *)j->x)[at];
            added += f * f;
            sum += u * u;
        }
    layer->added[seen.sublayers % 2] = added;
    layer->sum[seen.sublayers % 2] = sum;
}

/* Which norm of a block this is, by its scalar; −1: none of these. */
static int site_of(const Norm *norm, int *layer) {
    const Model *m = seen.model;
    for (int i = 0; i < 2 * LAYERS; i++) {
        const Param *p = params_find(&m->params, i % 2 ? PARAM_NORM2_SCALAR : PARAM_NORM1_SCALAR, i / 2);
        if (!p || (const double *)norm->scalar != (const double *)m->master + p->offset) continue;
        *layer = i / 2;
        return i % 2;
    }
    return -1;
}

static void see_norm(const Junction *j) {
    int layer, site = site_of(&j->norm, &layer);
    if (site < 0) return;
    double saturated = 0, estimates = 0, exact = 0;
    for (int64_t n = 0; n < j->N; n++) {
        double v = mean_square(j, n), gain = *(const double *)j->norm.scalar;
        exact += v;
        if (j->mean_square_in) {
            const double *vhat = j->vhat;
            v = vhat[0] * ((const double *)j->mean_square_in)[n] + vhat[1];
        }
        estimates += v;
        if (j->norm.kind == NORM_BHYT) gain /= j->norm.kappa * sqrt(v + j->norm.eps);
        for (int c = 0; c < j->C; c++) {
            double r = normed(j, n, c);
            double squashed = j->norm.kind == NORM_DERF ? erf(gain * r + ((const double *)j->norm.scalar)[1]) : tanh(gain * r);
            saturated += fabs(squashed) > 0.99;
        }
    }
    seen.layer[layer].saturated[site] = saturated / (double)seen.count;
    if (j->mean_square_in) seen.layer[layer].vhat_ratio = estimates / exact;
}

/* The residual as the next block gets it: the norm's output after post-type, else r. */
static void see_stream(const Junction *j, struct SeenLayer *layer) {
    for (int64_t n = 0; n < j->N; n++)
        for (int c = 0; c < j->C; c++) {
            double *before = &seen.stream[n * j->C + c];
            double after = j->post ? ((const double *)j->y)[n * padded(j->C) + c] : normed(j, n, c);
            if (layer) {
                layer->squares += after * after;
                layer->most = fmax(layer->most, fabs(after));
                layer->dot += after * *before;
                layer->before += *before * *before;
            }
            *before = after;
        }
}

static void watched_junction(Queue *queue, const Junction *j) {
    kernels_cpu_f64.junction_forward(queue, j);
    if (!seen.model) return;
    if (seen.calls++ == 0) see_stream(j, NULL); /* the embedding */
    see_norm(j);
    if (!j->f) return;
    see_sublayer(j);
    if (seen.sublayers % 2) see_stream(j, &seen.layer[seen.sublayers / 2]);
    seen.sublayers++;
}

/* ------------------------------------------------------------------------------------------------------ */

/* Sums of some hundred rounded terms differ in another order by some 1e-14 of what their terms' sizes add up to: scale. */
static void assert_near(const char *what, int layer, double got, double want, double scale) {
    if (!(fabs(got - want) <= 1e-12 * scale)) fail_msg("layer %d: %s is %.17g, not %.17g", layer, what, got, want);
}

/* The root of a sum that came of larger ones, of size 1, by cancellation: the squares are near. */
static void assert_squares_near(const char *what, int layer, double got, double want) {
    assert_near(what, layer, got * got, want * want, 1);
}

static double field(const cJSON *o, const char *name, int i) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, name);
    if (i >= 0) item = cJSON_GetArrayItem(item, i);
    if (!cJSON_IsNumber(item)) fail_msg("no number %s", name);
    return item->valuedouble;
}

static void compare_activations(const cJSON *o, int l) {
    static const char *const RMS[] = {"attn_rms", "mlp_rms"}, *const SHARE[] = {"attn_share", "mlp_share"};
    const struct SeenLayer *s = &seen.layer[l];
    double count = (double)seen.count;
    assert_near("residual_rms", l, field(o, "residual_rms", -1), sqrt(s->squares / count), sqrt(s->squares / count));
    assert_near("residual_max", l, field(o, "residual_max", -1), s->most, s->most);
    assert_near("cosine", l, field(o, "cosine", -1), s->dot / sqrt(s->squares * s->before), 1);
    for (int i = 0; i < 2; i++) {
        /* Telemetry has ΣF̃² from Σu², Σu·x and Σx². */
        double share = sqrt(s->added[i] / s->sum[i]), size = sqrt(s->sum[i] / count);
        assert_squares_near(SHARE[i], l, field(o, SHARE[i], -1), share);
        assert_squares_near(RMS[i], l, field(o, RMS[i], -1) / size, share);
    }
}

static void compare_norms(const Model *m, const cJSON *o, int l) {
    const NormRow *norm = variant_norm(m->config);
    if (norm->kind != NORM_DYT && norm->kind != NORM_BHYT && norm->kind != NORM_DERF) return;
    for (int i = 0, at = 0; i < 2; i++) { /* those that are there, one after the other: hybrid's attention has none */
        const Param *p = params_find(&m->params, i ? PARAM_NORM2_SCALAR : PARAM_NORM1_SCALAR, l);
        bool stands_after = !p; /* res-post: norms of what a sublayer adds, which are not watched */
        if (stands_after) p = params_find(&m->params, i ? PARAM_INNER2_SCALAR : PARAM_INNER1_SCALAR, l);
        if (!p) continue;
        double scalar = element_get(m, m->master, p->offset);
        assert_near("a norm's scalar", l, field(o, norm->kind == NORM_BHYT ? "lambda" : "alpha", at), scalar, 1);
        if (norm->kind == NORM_DERF)
            assert_near("a shift", l, field(o, "shift", at), element_get(m, m->master, p->offset + 1), 1);
        at++;
        if (stands_after) continue;
        assert_near("saturated", l, field(o, "saturated", at - 1), seen.layer[l].saturated[i], 1);
        saturates = saturates || seen.layer[l].saturated[i] > 0;
    }
    if (norm->approximates) assert_near("vhat_ratio", l, field(o, "vhat_ratio", -1), seen.layer[l].vhat_ratio, 1);
}

static void compare_gates(const Model *m, const cJSON *o, int l) {
    const Param *p = params_find(&m->params, PARAM_GATE, l);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(o, "gate")), p ? p->rows : 0);
    for (int i = 0; p && i < p->rows; i++) {
        double gate = element_get(m, m->master, p->offset + i);
        assert_near("gate", l, field(o, "gate", i), gate, 1);
        assert_near("scale", l, field(o, "scale", i), 1 - gate / (1 + exp(-gate)), 1);
        turns = turns || field(o, "scale", i) < 0;
    }
}

static void compare_parameters(const Model *m, const double *before, const cJSON *o, int l) {
    double gradient = 0, weights = 0, update = 0;
    for (int i = 0; i < m->params.count; i++)
        for (Elements e = {.p = &m->params.list[i]}; e.p->layer == l && element_next(&e);) {
            double g = element_get(m, m->grad, e.at), w = element_get(m, m->master, e.at), step = w - before[e.at];
            gradient += g * g;
            weights += w * w;
            update += step * step;
        }
    assert_near("grad_norm", l, field(o, "grad_norm", -1), sqrt(gradient), sqrt(gradient));
    /* Telemetry has Σ(w − w₀)² from Σw², Σw·w₀ and Σw₀². */
    assert_squares_near("update_ratio", l, field(o, "update_ratio", -1), sqrt(update / weights));
    assert_true(update / weights > 1e-6);
}

static void compare(const char *settings) {
    static Kernels watched;
    Fixture f;
    char text[1 << 13];
    watched = kernels_cpu_f64;
    watched.junction_forward = watched_junction;
    setup(&f, &watched, settings);
    Model *m = &f.model;
    Telemetry *telemetry = telemetry_create(m);
    Log log = {.metrics = memfd_create("metrics", 0)};
    loss_and_gradient(&f, true);
    double *before = malloc((size_t)m->params.elements * sizeof *before);
    memcpy(before, m->master, (size_t)m->params.elements * sizeof *before);
    telemetry_before(telemetry, m->master);
    optimizer_update(&f.optimizer);
    telemetry_gradients(telemetry);
    telemetry_after(telemetry, m->master);
    seen = (struct Seen){.model = m, .count = m->N * m->C};
    telemetry_write(telemetry, &log, 1);
    assert_int_equal(seen.sublayers, 2 * LAYERS);

    ssize_t size = pread(log.metrics, text, sizeof text, 0);
    Error error = {0};
    cJSON *line = json_parse(text, (size_t)size, &error);
    if (!line) fail_msg("%s", error.text);
    for (int l = 0; l < LAYERS; l++) {
        const cJSON *o = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(line, "layers"), l);
        assert_near("layer", l, field(o, "layer", -1), l, 1);
        compare_activations(o, l);
        compare_norms(m, o, l);
        compare_gates(m, o, l);
        compare_parameters(m, before, o, l);
    }
    seen.model = NULL;
    close(log.metrics);
    cJSON_Delete(line);
    free(before);
    telemetry_destroy(telemetry);
    teardown(&f);
}

static void a_line_says_what_the_junctions_did(void **state) {
    (void)state;
    assert_int_equal(variant_for_each(TINY, compare), LEGAL_METHODS);
    assert_true(saturates && turns);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_line_says_what_the_junctions_did)};
    char text[256] = "";
    if (!kernels_cpu_f64.open(0, text, sizeof text)) return 1;
    return cmocka_run_group_tests_name("telemetry", tests, NULL, NULL);
}
