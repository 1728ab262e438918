/*
 * test_gradients.c: the gradients of every variant are the derivatives of its loss, its stop-gradients
 * frozen; and the check that says so sees the mistakes that are easily made.
 *
 * The default suite runs a pairwise cover of the variants; with TEST_QUICK=1 every tenth of it, and some elements. With TEST_ALL=1 every
 * norm, placement, GPAS form and SDD form runs with every other, both architectures, 2 and 5 layers.
 */
#include "gradient_check.h"
#include "variant_cases.h"

#include <omp.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------
 * The base models: every element of every parameter, head sizes of 4 and more
 * ---------------------------------------------------------------------------------------------------- */

static void check_gradients(const char *settings) {
    Fixture f;
    setup(&f, frozen_kernels(), settings);
    GradientReport report = gradient_check(&f, getenv("TEST_QUICK") ? 5 : GRADIENT_ALL_ELEMENTS);
    if (!(report.worst < GRADIENT_TOLERANCE))
        fail_msg("%s: relative error %.3g of the gradient of %s", settings, report.worst, report.tensor);
    teardown(&f);
}

static void gradients_of_gpt2_are_derivatives(void **state) {
    (void)state;
    check_gradients("arch=gpt2 n-embd=12 n-ffn=17 vocab-size=13");
}

static void gradients_of_llama_are_derivatives(void **state) {
    (void)state;
    check_gradients("arch=llama n-embd=12 n-ffn=17 vocab-size=13");
}

static void gradients_of_grouped_query_are_derivatives(void **state) {
    (void)state;
    check_gradients("arch=llama n-head=6 n-kv-head=2 n-embd=12 n-ffn=11 vocab-size=13 recompute=block");
}

static void gradients_of_swapped_parts_are_derivatives(void **state) {
    (void)state;
    check_gradients("arch=gpt2 norm=rmsnorm positions=rope n-embd=18 activation=swiglu n-ffn=7 bias=on "
                    "tie-embeddings=off vocab-size=13 recompute=act");
}

/* Qwen2's, Qwen3's and OLMo 2's parts: heads that are not C / H channels, norms of q and k, biases of q, k and v alone. */
static void gradients_of_other_families_parts_are_derivatives(void **state) {
    (void)state;
    check_gradients("arch=llama n-embd=10 n-head=2 head-dim=8 n-kv-head=1 n-ffn=7 bias=qkv qk-norm=head vocab-size=13 recompute=act");
    check_gradients("arch=llama n-embd=12 n-head=3 head-dim=6 n-ffn=7 qk-norm=projection placement=res-post vocab-size=13 "
                    "rope-scaling=llama3 rope-original-seq-len=4 recompute=block");
    check_gradients("arch=gpt2 n-embd=12 n-head=2 head-dim=4 n-ffn=17 activation=gelu-exact bias=qkv qk-norm=head vocab-size=13");
    check_gradients("arch=llama n-embd=12 n-head=2 head-dim=10 n-kv-head=1 n-ffn=7 sdd=released activation=gelu-exact vocab-size=13");
    check_gradients("arch=llama norm=bhyt n-embd=12 n-head=3 head-dim=6 n-kv-head=1 n-ffn=7 vocab-size=13");
}

/* ------------------------------------------------------------------------------------------------------
 * Every variant
 * ---------------------------------------------------------------------------------------------------- */

/* λ and α so large that tanh bends, and that no α comes near 0, where the loss would be flat to its last bits; relu's
 * gates must not start at 0; padding and heads of 4. */
#define TINY                                                                                                 \
    "n-embd=8 n-head=2 seq-len=3 vocab-size=11 n-ffn=5 gpas-init=0.3 "                                       \
    "bhyt-lambda-attn=6 bhyt-lambda-mlp=5 dyt-alpha-attn=0.9 dyt-alpha-other=0.9 derf-alpha-attn=0.9 derf-alpha-other=0.9 "

static bool gates_are_off_the_kink(const Fixture *f) {
    for (int i = 0; i < f->model.params.count; i++) {
        const Param *p = &f->model.params.list[i];
        if (p->id != PARAM_GATE) continue;
        for (Elements e = {.p = p}; element_next(&e);)
            if (fabs(element_get(&f->model, f->model.master, e.at)) < 0.01) return false;
    }
    return true;
}

static GradientReport check_case(const char *settings, int samples) {
    Fixture f;
    char all[768];
    snprintf(all, sizeof all, TINY "%s", settings);
    setup(&f, frozen_kernels(), all);
    GradientReport report = gradient_check(&f, samples);
    if (!gates_are_off_the_kink(&f)) report.worst = INFINITY;
    teardown(&f);
    frozen_forget();
    return report;
}

typedef struct Result {
    bool done;
    GradientReport report;
} Result;

/* Half of the cases in a process of its own: two cores. Depths take turns in the list, so pairs of cases do here. */
static pid_t start_worker(char (*settings)[512], Result *results, int half, int n, int samples) {
    fflush(NULL);
    pid_t child = fork();
    if (child) return child;
    for (int i = 0; i < n; i++)
        if (i / 2 % 2 == half) results[i] = (Result){true, check_case(settings[i], samples)};
    _exit(0);
}

static void check_cases(const char *what, char (*settings)[512], int n, int samples) {
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    size_t bytes = (size_t)n * sizeof(Result);
    Result *results = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(results != MAP_FAILED);
    pid_t workers[2];
    for (int w = 0; w < 2; w++) workers[w] = start_worker(settings, results, w, n, samples);
    for (int w = 0; w < 2; w++) {
        int status = -1;
        assert_true(workers[w] > 0 && waitpid(workers[w], &status, 0) == workers[w]);
        assert_int_equal(status, 0);
    }
    int worst = 0, failed = 0;
    int64_t differences = 0, tensors = 0;
    for (int i = 0; i < n; i++) {
        assert_true(results[i].done && results[i].report.tensors > 0);
        differences += results[i].report.differences;
        tensors += results[i].report.tensors;
        if (results[i].report.worst > results[worst].report.worst) worst = i;
        if (results[i].report.worst < GRADIENT_TOLERANCE) continue;
        if (failed++ < 20)
            fprintf(stderr, "# %s: %.3g in %s\n", settings[i], results[i].report.worst,
                    results[i].report.tensor);
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    fprintf(stderr, "# %s: %d variants, %lld tensors, %lld differences, worst %.2g (%s of %s), %.1f s\n",
            what, n, (long long)tensors, (long long)differences, results[worst].report.worst,
            results[worst].report.tensor, settings[worst],
            (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
    munmap(results, bytes);
    if (failed) fail_msg("%d of %d variants have gradients that are no derivatives", failed, n);
}

static void gradients_of_a_pairwise_cover_are_derivatives(void **state) {
    (void)state;
    VariantCase *cases;
    int n = variant_cover(EVERYTHING, EVERYTHING_COUNT, &cases), pairs = 0;
    char(*settings)[512] = malloc((size_t)n * sizeof *settings);
    for (int i = 0; i < n; i++) {
        variant_settings(EVERYTHING, EVERYTHING_COUNT, &cases[i], settings[i], sizeof *settings);
        assert_true(variant_is_legal(settings[i]));
    }
    for (int f = 0; f < EVERYTHING_COUNT; f++)
        for (int g = f + 1; g < EVERYTHING_COUNT; g++)
            for (int a = 0; a < EVERYTHING[f].count; a++)
                for (int b = 0; b < EVERYTHING[g].count; b++, pairs++)
                    if (!variant_covers(cases, n, f, a, g, b))
                        assert_false(variant_may_meet(EVERYTHING, EVERYTHING_COUNT, f, a, g, b));
    assert_true(pairs > 500 && n < 200);
    int apart = getenv("TEST_QUICK") ? 10 : 1;
    for (int i = 0; i * apart < n; i++) memmove(settings[i], settings[i * apart], sizeof settings[i]);
    n = (n + apart - 1) / apart;
    check_cases("pairwise cover", settings, n, 3);
    free(settings);
    free(cases);
}

/* norm × placement × gpas × sdd × architecture × depth in full. The four switches beyond take turns, so that
 * each word of theirs meets each word of all others. */
static void gradients_of_every_combination_are_derivatives(void **state) {
    (void)state;
    if (!getenv("TEST_ALL")) skip();
    const int core = 6, switches = EVERYTHING_COUNT - core;
    long count = variant_count(EVERYTHING, core);
    char(*settings)[512] = malloc((size_t)count * sizeof *settings);
    int n = 0;
    for (long i = 0; i < count; i++) {
        VariantCase c = variant_case(EVERYTHING, core, i);
        uint64_t turn = (uint64_t)(philox_uniform(17, 0, (uint64_t)i) * (double)(1 << switches));
        for (int s = 0; s < switches; s++) c.word[core + s] = (int)(turn >> s & 1);
        variant_settings(EVERYTHING, EVERYTHING_COUNT, &c, settings[n], sizeof *settings);
        n += variant_is_legal(settings[n]);
    }
    check_cases("every combination", settings, n, 1);
    free(settings);
}

int main(void) {
    omp_set_num_threads(1); /* these models are so small that threads only cost */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_gpt2_are_derivatives),
        cmocka_unit_test(gradients_of_llama_are_derivatives),
        cmocka_unit_test(gradients_of_grouped_query_are_derivatives),
        cmocka_unit_test(gradients_of_swapped_parts_are_derivatives),
        cmocka_unit_test(gradients_of_other_families_parts_are_derivatives),
        cmocka_unit_test(gradients_of_a_pairwise_cover_are_derivatives),
        cmocka_unit_test(gradients_of_every_combination_are_derivatives),
    };
    return cmocka_run_group_tests_name("gradients", tests, NULL, NULL);
}
