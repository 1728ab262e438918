/*
 * test_variants.c: every norm, placement, GPAS and SDD form keeps what holds for all of them: what is
 * computed again has the same bits, being watched changes none, shut gates are the plain model, one variant
 * that is another's special case equals it, and generation computes what training does.
 */
#define _GNU_SOURCE
#include "model_fixture.h"
#include "../src/run/telemetry.h"
#include "variant_cases.h"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#define TINY                                                                                                 \
    "n-embd=16 n-head=2 n-ffn=13 seq-len=9 vocab-size=31 batch-size=2 lr=0.01 warmup-steps=1 steps=4 "       \
    "gpas-init=0.3 "

/* The parts of other families: heads that are not C / H wide, norms of q and k, some biases, other angles, another GELU. */
static const char *const FAMILIES[] = {
    TINY "arch=llama norm=rmsnorm placement=pre gpas=off sdd=off qk-norm=head head-dim=6 n-kv-head=1 bias=qkv",
    TINY "arch=llama norm=rmsnorm placement=res-post gpas=off sdd=off qk-norm=projection rope-scaling=llama3 "
         "rope-original-seq-len=5",
    TINY "arch=gpt2 norm=layernorm placement=pre gpas=layer sdd=off qk-norm=projection head-dim=2 activation=gelu-exact",
    TINY "arch=llama norm=rmsnorm placement=lns gpas=off sdd=released head-dim=10 rope-scaling=linear",
};

static void for_every_variant(void (*test)(const char *settings)) {
    assert_int_equal(variant_for_each(TINY, test), LEGAL_METHODS);
    for (size_t i = 0; i < sizeof FAMILIES / sizeof *FAMILIES; i++) test(FAMILIES[i]);
}

/* ------------------------------------------------------------------------------------------------------
 * Training, watched or not
 * ---------------------------------------------------------------------------------------------------- */

enum { STEPS = 3 };

typedef struct Run {
    Fixture f;
    double losses[STEPS];
} Run;

static const Kernels *usual = &kernels_cpu_f32;

typedef struct How {
    const Kernels *k; /* NULL: the usual one */
    bool shut_gates;  /* gates are 0 and stay so */
    int watch;        /* file descriptor that telemetry writes to; 0: none */
} How;

static void shut_gates(Fixture *f) {
    for (int i = 0; i < f->model.params.count; i++) {
        const Param *p = &f->model.params.list[i];
        if (p->id != PARAM_GATE) continue;
        for (Elements e = {.p = p}; element_next(&e);) element_set(&f->model, f->model.master, e.at, 0);
    }
}

static void train(Run *run, const char *settings, How how) {
    Fixture *f = &run->f;
    setup(f, how.k ? how.k : usual, settings);
    Telemetry *telemetry = how.watch ? telemetry_create(&f->model) : NULL;
    Log log = {.metrics = how.watch};
    if (how.shut_gates) shut_gates(f);
    for (int step = 0; step < STEPS; step++) {
        model_refresh(&f->model);
        begin(f, step);
        model_forward(&f->model, true);
        model_head(&f->model, f->optimizer.state, true);
        model_backward(&f->model, NULL, NULL);
        if (telemetry) telemetry_before(telemetry, f->model.master);
        optimizer_update(&f->optimizer);
        if (how.shut_gates) shut_gates(f);
        run->losses[step] = optimizer_read(&f->optimizer)->loss_sum;
        if (!telemetry) continue;
        telemetry_gradients(telemetry);
        telemetry_after(telemetry, f->model.master);
        telemetry_write(telemetry, &log, step + 1);
    }
    telemetry_destroy(telemetry);
}

static bool same_weights(const Fixture *a, const Fixture *b) {
    size_t element = dtype_size(a->model.k->accum);
    int compared = 0;
    for (int i = 0; i < a->model.params.count; i++) {
        const Param *p = &a->model.params.list[i], *q = params_find(&b->model.params, p->id, p->layer);
        if (p->id == PARAM_GATE) continue;
        if (!q || p->count != q->count ||
            memcmp((char *)a->model.master + (size_t)p->offset * element,
                   (char *)b->model.master + (size_t)q->offset * element, (size_t)p->count * element))
            return false;
        compared++;
    }
    return compared > 10;
}

/* Trains both and demands the same losses and weights, bit for bit; gates are left out. */
static void assert_alike(const char *a, How how_a, const char *b, How how_b) {
    static Run x, y;
    train(&x, a, how_a);
    train(&y, b, how_b);
    if (memcmp(x.losses, y.losses, sizeof x.losses) || !same_weights(&x.f, &y.f) ||
        !isfinite(x.losses[STEPS - 1]) || x.losses[0] == x.losses[STEPS - 1])
        fail_msg("losses %.17g %.17g %.17g of %s\nlosses %.17g %.17g %.17g of %s", x.losses[0], x.losses[1],
                 x.losses[2], a, y.losses[0], y.losses[1], y.losses[2], b);
    teardown(&x.f);
    teardown(&y.f);
}

/* In fp32, and in bf16 where this machine has it. */
static void for_every_variant_in_both_types(void (*promise)(const char *settings)) {
    const Kernels *types[3];
    for (int i = cpu_types(types) - 1; i >= 0; i--) {
        usual = types[i];
        if (usual->storage != DTYPE_F64) for_every_variant(promise);
    }
    usual = &kernels_cpu_f32;
}

static void recompute_as(const char *settings) {
    static const char *const WAYS[] = {"act", "block"};
    for (int w = 0; w < 2; w++) {
        char again[640];
        snprintf(again, sizeof again, "%s recompute=%s", settings, WAYS[w]);
        assert_alike(settings, (How){0}, again, (How){0});
    }
}

static void recomputing_changes_no_bit(void **state) {
    (void)state;
    for_every_variant_in_both_types(recompute_as);
}

/* What telemetry wrote has a line a step, and every number in it is one (JSON has no NaN: cJSON writes null).
 */
static void watch(const char *settings) {
    char text[1 << 15];
    int file = memfd_create("metrics", 0), lines = 0;
    assert_true(file > 0);
    assert_alike(settings, (How){0}, settings, (How){.watch = file});
    ssize_t size = pread(file, text, sizeof text - 1, 0);
    assert_true(size > 0 && size < (ssize_t)sizeof text - 1);
    text[size] = '\0';
    for (const char *at = text; (at = strchr(at, '\n')); at++) lines++;
    assert_int_equal(lines, STEPS);
    if (strstr(text, "null")) fail_msg("%s: %s", settings, text);
    static const char *const ALWAYS[] = {"residual_rms", "residual_max", "cosine",    "attn_rms",
                                         "attn_share",   "mlp_rms",      "grad_norm", "update_ratio"};
    for (size_t i = 0; i < sizeof ALWAYS / sizeof *ALWAYS; i++) assert_non_null(strstr(text, ALWAYS[i]));
    assert_int_equal(strstr(text, "\"gate\"") != NULL, strstr(settings, "gpas=off") == NULL);
    assert_int_equal(strstr(text, "\"lambda\"") != NULL, strstr(settings, "norm=bhyt") != NULL);
    assert_int_equal(strstr(text, "\"alpha\"") != NULL, strstr(settings, "norm=dyt") || strstr(settings, "norm=derf"));
    assert_int_equal(strstr(text, "\"shift\"") != NULL, strstr(settings, "norm=derf") != NULL);
    close(file);
}

static void telemetry_changes_no_bit(void **state) {
    (void)state;
    for_every_variant_in_both_types(watch);
}

static size_t allocated;

static void *counting_alloc(size_t bytes) {
    allocated += bytes;
    return kernels_cpu_f32.alloc(bytes);
}

static void count_telemetry(const char *settings) {
    static Kernels counting;
    Fixture f;
    counting = kernels_cpu_f32;
    counting.alloc = counting_alloc;
    setup(&f, &counting, settings);
    allocated = 0;
    Telemetry *telemetry = telemetry_create(&f.model);
    assert_int_equal(allocated, telemetry_bytes(&f.config, &counting));
    telemetry_destroy(telemetry);
    teardown(&f);
}

static void telemetry_takes_what_the_plan_says(void **state) {
    (void)state;
    for_every_variant(count_telemetry);
}

/* ------------------------------------------------------------------------------------------------------
 * One variant as another's special case
 * ---------------------------------------------------------------------------------------------------- */

static void replaced(char *out, size_t size, const char *text, const char *word, const char *by) {
    const char *at = strstr(text, word);
    assert_non_null(at);
    snprintf(out, size, "%.*s%s%s", (int)(at - text), text, by, at + strlen(word));
}

/* The gates' gradients would enter the clip by the global norm: none here. */
static void shut(const char *settings) {
    static const char *const ACTS[] = {"silu", "identity", "tanh", "leaky-relu", "relu"};
    static int turn;
    char gated[640], plain[640];
    if (strstr(settings, "gpas=off")) return;
    snprintf(gated, sizeof gated, "%s grad-clip=0 gpas-act=%s", settings, ACTS[turn++ % 5]);
    replaced(plain, sizeof plain, gated, strstr(gated, "gpas=layer") ? "gpas=layer" : "gpas=sublayer",
             "gpas=off");
    assert_alike(gated, (How){.shut_gates = true}, plain, (How){0});
}

static void shut_gates_are_the_plain_model_bit_for_bit(void **state) {
    (void)state;
    for_every_variant(shut);
}

/* --sdd released turns --embed-norm on for post alone. */
static void move_border(const char *settings) {
    char mix[640], bound[700], plain[640], pure[700];
    const char *mixed = "placement=mix mix-post-layers=1";
    if (!strstr(settings, mixed)) return;
    snprintf(mix, sizeof mix, "%s embed-norm=on final-norm=on", settings);
    replaced(plain, sizeof plain, mix, mixed, "placement=pre");
    snprintf(bound, sizeof bound, "%s mix-post-layers=0", mix);
    assert_alike(bound, (How){0}, plain, (How){0});
    replaced(pure, sizeof pure, mix, mixed, "placement=post");
    snprintf(bound, sizeof bound, "%s mix-post-layers=2", mix);
    assert_alike(bound, (How){0}, pure, (How){0});
}

static void mix_without_post_layers_is_pre_and_with_all_is_post(void **state) {
    (void)state;
    for_every_variant(move_border);
}

/* cpu/f64, but where an earlier mean square would come in, the exact one of this row does, and v̂ = 1·v + 0.
 */
static void exact_junction(Queue *queue, const Junction *args) {
    if (!args->mean_square_in) {
        kernels_cpu_f64.junction_forward(queue, args);
        return;
    }
    static const double identity[2] = {1, 0};
    double *exact = must_malloc((size_t)args->N * sizeof *exact, "mean squares");
    Junction sum = *args, norm = *args;
    sum.norm = (Norm){0};
    sum.mean_square_in = NULL;
    sum.mean_square_out = exact;
    sum.y = NULL;
    kernels_cpu_f64.junction_forward(queue, &sum);
    norm.x = args->u;
    norm.u = NULL;
    norm.f = norm.bias = NULL;
    norm.s_in = NULL;
    norm.sdd = norm.inner = (Norm){0};
    norm.mean_square_in = exact;
    norm.vhat = identity;
    kernels_cpu_f64.junction_forward(queue, &norm);
    free(exact);
}

static void feed_exactly(const char *settings) {
    static Kernels exact;
    char twin[640], *at = strstr(settings, "norm=bhyt ");
    if (!at) return;
    replaced(twin, sizeof twin, settings, "norm=bhyt ", "norm=bhyt-exact ");
    exact = kernels_cpu_f64;
    exact.junction_forward = exact_junction;
    Fixture f, g, plain;
    setup(&f, &exact, settings);
    setup(&g, &kernels_cpu_f64, twin);
    setup(&plain, &kernels_cpu_f64, settings);
    double fed = loss_and_gradient(&f, false), own = loss_and_gradient(&g, false),
           estimated = loss_and_gradient(&plain, false);
    if (fed != own)
        fail_msg("%s: %.17g fed with the exact statistic, %.17g as bhyt-exact", settings, fed, own);
    if (estimated == own) fail_msg("%s: the estimate is the exact statistic", settings);
    teardown(&f);
    teardown(&g);
    teardown(&plain);
}

static void bhyt_fed_the_exact_statistic_is_bhyt_exact(void **state) {
    (void)state;
    for_every_variant(feed_exactly);
}

/* ------------------------------------------------------------------------------------------------------
 * Generation
 * ---------------------------------------------------------------------------------------------------- */

static int likeliest(const double *logits, int V) {
    int best = 0;
    for (int v = 1; v < V; v++)
        if (logits[v] > logits[best]) best = v;
    return best;
}

/* Logits [V] after tokens[count − 1], from a pass over the whole window: what comes later is not seen. */
static void whole_prefix(Fixture *f, int count, double *logits) {
    Model *m = &f->model;
    model_feed(m, f->tokens, f->targets);
    model_forward(m, false);
    model_logits(m, count - 1, 1);
    memcpy(logits, m->logits, (size_t)m->V * sizeof *logits);
}

/* Sums in another order: some hundred roundings of 1e-16 in logits of order 1. */
#define CACHE_TOLERANCE 1e-12

static void generate_with_a_cache(const char *settings) {
    char one[640];
    Fixture f;
    snprintf(one, sizeof one, "%s batch-size=1 bhyt-lambda-attn=6 bhyt-lambda-mlp=5", settings);
    setup(&f, &kernels_cpu_f64, one);
    model_open_cache(&f.model, 1);
    int T = f.model.T, V = f.model.V, fed = 0;
    double *whole = malloc((size_t)V * sizeof *whole);
    for (int count = 3; count <= T; count++) { /* a prompt of three, then what is likeliest, one by one */
        whole_prefix(&f, count, whole);
        model_prefill(&f.model, 0, f.tokens + fed, count - fed, (uint32_t)fed);
        const double *cached = f.model.logits;
        fed = count;
        for (int v = 0; v < V; v++)
            if (!(fabs(cached[v] - whole[v]) <= CACHE_TOLERANCE * (1 + fabs(whole[v]))))
                fail_msg("%s: token %d, logit %d: %.17g with the cache, %.17g without", settings, count, v,
                         cached[v], whole[v]);
        assert_int_equal(likeliest(cached, V), likeliest(whole, V));
        if (count < T) f.tokens[count] = (uint32_t)likeliest(cached, V);
    }
    free(whole);
    teardown(&f);
}

static void greedy_generation_with_the_cache_is_the_whole_prefix_again(void **state) {
    (void)state;
    for_every_variant(generate_with_a_cache);
}

int main(void) {
    omp_set_num_threads(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recomputing_changes_no_bit),
        cmocka_unit_test(telemetry_changes_no_bit),
        cmocka_unit_test(telemetry_takes_what_the_plan_says),
        cmocka_unit_test(shut_gates_are_the_plain_model_bit_for_bit),
        cmocka_unit_test(mix_without_post_layers_is_pre_and_with_all_is_post),
        cmocka_unit_test(bhyt_fed_the_exact_statistic_is_bhyt_exact),
        cmocka_unit_test(greedy_generation_with_the_cache_is_the_whole_prefix_again),
    };
    return cmocka_run_group_tests_name("variants", tests, NULL, NULL);
}
