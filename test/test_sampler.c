/*
 * test_sampler.c: is a token drawn from the distribution that sampler.h tells of?
 */
#include "../src/base/philox.h"
#include "../src/run/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { V_MOST = 300, DRAWS = 40000 };

/* Some are alike, so that only their ids order them. */
static void make_logits(double *logits, int V, uint64_t seed) {
    for (int i = 0; i < V; i++) logits[i] = floor(16 * philox_normal(seed, 7, (uint64_t)i)) / 8;
}

typedef struct Entry {
    double logit;
    int token;
} Entry;

static int likelier_first(const void *a, const void *b) {
    const Entry *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->token - y->token;
}

/* By sorting all of them. */
static void probabilities(const Sampler *s, const double *logits, int V, double *p) {
    Entry entries[V_MOST];
    double total = 0, share = 0, kept = 0;
    for (int i = 0; i < V; i++) entries[i] = (Entry){logits[i], i};
    qsort(entries, (size_t)V, sizeof *entries, likelier_first);
    const int most = s->top_k > 0 && s->top_k < V ? (int)s->top_k : V;
    memset(p, 0, (size_t)V * sizeof *p);
    for (int i = 0; i < most; i++) total += exp((entries[i].logit - entries[0].logit) / s->temperature);
    for (int i = 0; i < most && (i == 0 || share < s->top_p * total); i++) {
        const double weight = exp((entries[i].logit - entries[0].logit) / s->temperature);
        share += weight, kept += weight;
        p[entries[i].token] = weight;
    }
    for (int i = 0; i < V; i++) p[i] /= kept;
}

static const Sampler SAMPLERS[] = {
    {.temperature = 1, .top_p = 1},      {.temperature = 0.5, .top_p = 1, .top_k = 5}, {.temperature = 2, .top_p = 0.6},
    {.temperature = 1, .top_p = 0.3},    {.temperature = 1.3, .top_p = 0.9, .top_k = 20}, {.temperature = 1, .top_p = 1, .top_k = 1},
    {.temperature = 1, .top_p = 0},      {.temperature = 0.7, .top_p = 0.999, .top_k = 1000},
};
enum { SAMPLER_COUNT = sizeof SAMPLERS / sizeof *SAMPLERS };

/* What may not be drawn never is, and what may is drawn as often as it should be: within five standard deviations. */
static void draws_follow_the_distribution(void **state) {
    (void)state;
    static const int SIZES[] = {2, 3, 37, V_MOST};
    for (size_t i = 0; i < SAMPLER_COUNT * 4; i++) {
        const Sampler *s = &SAMPLERS[i / 4];
        const int V = SIZES[i % 4];
        double logits[V_MOST], p[V_MOST];
        int counts[V_MOST] = {0};
        void *room = malloc(sampler_room_bytes(V));
        make_logits(logits, V, i);
        probabilities(s, logits, V, p);
        for (int n = 0; n < DRAWS; n++) counts[sampler_draw(s, logits, V, i, (uint64_t)n, room)]++;
        for (int t = 0; t < V; t++) {
            const double expected = DRAWS * p[t], deviation = sqrt(expected * (1 - p[t]));
            if (fabs(counts[t] - expected) > 5 * deviation + (p[t] > 0) )
                fail_msg("sampler %zu, V=%d: token %d was drawn %d times, not %.1f ± %.1f", i / 4, V, t, counts[t], expected,
                         deviation);
        }
        free(room);
    }
}

static void temperature_zero_takes_the_first_of_the_likeliest(void **state) {
    (void)state;
    const double logits[] = {1, 3, 2, 3, -5};
    char room[5 * 32];
    for (uint64_t i = 0; i < 20; i++) assert_int_equal(sampler_draw(&(Sampler){.top_p = 1}, logits, 5, i, i, room), 1);
}

static void a_draw_hangs_on_seed_and_index_alone(void **state) {
    (void)state;
    double logits[V_MOST];
    void *room = malloc(sampler_room_bytes(V_MOST));
    int other_seed = 0, other_index = 0;
    make_logits(logits, V_MOST, 1);
    for (uint64_t n = 0; n < 200; n++) {
        const uint32_t first = sampler_draw(&SAMPLERS[2], logits, V_MOST, 5, n, room);
        memset(room, 0x55, sampler_room_bytes(V_MOST));
        assert_int_equal(sampler_draw(&SAMPLERS[2], logits, V_MOST, 5, n, room), first);
        other_seed += sampler_draw(&SAMPLERS[2], logits, V_MOST, 6, n, room) != first;
        other_index += sampler_draw(&SAMPLERS[2], logits, V_MOST, 5, n + 1, room) != first;
    }
    assert_true(other_seed > 100 && other_index > 100);
    free(room);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(temperature_zero_takes_the_first_of_the_likeliest),
        cmocka_unit_test(a_draw_hangs_on_seed_and_index_alone),
    };
    return cmocka_run_group_tests_name("sampler", tests, NULL, NULL);
}
