/*
 * test_doc_mask.c: with --doc-mask, are loss and gradients those of the documents run apart, for every norm, placement, GPAS
 * and SDD, with learned positions and RoPE, whatever is recomputed? And are the token that ends documents, and what follows from
 * it for each token of a row, found as documents.h says?
 */
#define _GNU_SOURCE
#include "model_fixture.h"
#include "../src/data/documents.h"
#include "variant_cases.h"

#include <omp.h>
#include <stdlib.h>

#define TINY                                                                                                 \
    "n-embd=16 n-head=2 n-ffn=13 seq-len=13 vocab-size=31 batch-size=2 gpas-init=0.3 doc-mask=on "

enum { END = 30, T = 13 };

/* Lengths of the documents of the two rows, with the tokens that end them; the last of each row is cut by its end. */
static const int LENGTHS[2][4] = {{1, 5, 4, 3}, {6, 2, 5, 0}};

static void place_ends(Fixture *f) {
    for (int row = 0; row < 2; row++) {
        for (int t = 0; t < T; t++) f->tokens[row * T + t] %= END;
        for (int d = 0, at = 0; d < 4 && LENGTHS[row][d]; d++) {
            at += LENGTHS[row][d];
            if (at < T) f->tokens[row * T + at - 1] = END;
        }
    }
}

static void pass(Fixture *f) {
    model_forward(&f->model, true);
    model_head(&f->model, f->optimizer.state, true);
    model_backward(&f->model, NULL, NULL);
}

/* Loss; the gradients are left in model.grad. */
static double run_masked(Fixture *f, bool masked) {
    uint32_t start[2 * T], position[2 * T];
    begin(f, 0);
    for (int row = 0; row < 2; row++) documents_mark(f->tokens + row * T, T, END, start + row * T, position + row * T);
    if (masked) model_feed_documents(&f->model, start, position);
    pass(f);
    return optimizer_read(&f->optimizer)->loss_sum;
}

/* Each document in a row of its own, from its first position on; the rest of both rows counts for nothing. */
static double run_apart(Fixture *f) {
    uint32_t tokens[2 * T], targets[2 * T];
    begin(f, 0);
    for (int row = 0; row < 2; row++)
        for (int d = 0, at = 0; d < 4 && LENGTHS[row][d]; at += LENGTHS[row][d++]) {
            for (int i = 0; i < 2 * T; i++) tokens[i] = 7, targets[i] = TARGET_IGNORED;
            for (int t = 0; t < LENGTHS[row][d]; t++) {
                tokens[t] = f->tokens[row * T + at + t];
                targets[t] = f->targets[row * T + at + t];
            }
            model_feed(&f->model, tokens, targets);
            pass(f);
        }
    return optimizer_read(&f->optimizer)->loss_sum;
}

/* Largest difference of two gradients, relative to the larger of the tensor's largest element and a thousandth of all. */
static double difference(const Model *m, const double *a, const double *b) {
    double all = 0, worst = 0;
    for (int64_t i = 0; i < m->params.elements; i++) all = fmax(all, fabs(b[i]));
    for (int i = 0; i < m->params.count; i++) {
        double largest = 1e-3 * all, apart = 0;
        for (Elements e = {.p = &m->params.list[i]}; element_next(&e);) {
            largest = fmax(largest, fabs(b[e.at]));
            apart = fmax(apart, fabs(a[e.at] - b[e.at]));
        }
        worst = fmax(worst, apart / largest);
    }
    return worst;
}

static double largest_difference, smallest_without = INFINITY;

static void assert_apart(const char *settings) {
    Fixture f;
    setup(&f, &kernels_cpu_f64, settings);
    place_ends(&f);
    const Model *m = &f.model;
    const size_t bytes = (size_t)m->params.elements * sizeof(double);
    double *masked = malloc(bytes), *unmasked = malloc(bytes);
    const double loss = run_masked(&f, true);
    memcpy(masked, m->grad, bytes);
    const double other = run_masked(&f, false);
    memcpy(unmasked, m->grad, bytes);
    const double apart = run_apart(&f), found = difference(m, masked, m->grad), without = difference(m, unmasked, m->grad);
    if (!(fabs(loss - apart) <= 1e-12 * apart)) fail_msg("%s: loss %.17g, apart %.17g", settings, loss, apart);
    if (!(found <= 1e-12)) fail_msg("%s: gradients differ by %.3g", settings, found);
    /* The whole row is something else, or nothing is tested. */
    if (!(fabs(other - apart) > 1e-6 * apart && without > 1e-4)) fail_msg("%s: the mask changes nothing", settings);
    largest_difference = fmax(largest_difference, found);
    smallest_without = fmin(smallest_without, without);
    free(masked), free(unmasked);
    teardown(&f);
}

static int turn;

static void assert_variant(const char *settings) {
    static const char *const RECOMPUTED[] = {"none", "act", "block"}, *const POSITIONS[] = {"learned", "rope"};
    char all[1024];
    snprintf(all, sizeof all, "%s recompute=%s positions=%s", settings, RECOMPUTED[turn % 3], POSITIONS[turn / 3 % 2]);
    turn++;
    assert_apart(all);
}

static void every_variant_computes_what_it_does_of_the_documents_apart(void **state) {
    (void)state;
    assert_true(variant_for_each(TINY, assert_variant) >= (4 * 6 + 2) * 3 * 3);
    fprintf(stderr, "# worst difference %.2g; without the mask at least %.2g\n", largest_difference, smallest_without);
}

static void grouped_queries_and_a_wide_residual_do_too(void **state) {
    (void)state;
    assert_apart(TINY "n-head=4 n-kv-head=2 arch=llama");
    assert_apart(TINY "n-head=4 n-kv-head=1 arch=gpt2 z-loss=1e-3");
}

/* Whoever feeds rows without documents, as an evaluation does, means whole rows. */
static void rows_that_are_fed_without_documents_are_whole(void **state) {
    (void)state;
    Fixture f, plain;
    setup(&f, &kernels_cpu_f64, TINY "arch=llama");
    setup(&plain, &kernels_cpu_f64, TINY "arch=llama doc-mask=off");
    place_ends(&f), place_ends(&plain);
    assert_null(plain.model.document_start);
    run_masked(&f, true);
    assert_true(run_masked(&f, false) / (double)f.model.N == loss_and_gradient(&plain, true));
    teardown(&f), teardown(&plain);
}

/* ------------------------------------------------------------------------------------------------------ */

static void a_token_that_ends_a_document_belongs_to_it(void **state) {
    (void)state;
    const uint32_t tokens[] = {5, 0, 7, 8, 0, 0, 9, 1}, starts[] = {0, 0, 2, 2, 2, 5, 6, 6}, at[] = {0, 1, 0, 1, 2, 0, 0, 1};
    uint32_t start[8], position[8];
    documents_mark(tokens, 8, 0, start, position);
    assert_memory_equal(start, starts, sizeof start);
    assert_memory_equal(position, at, sizeof at);
    documents_mark(tokens, 8, 99, start, position); /* none ends */
    for (uint32_t t = 0; t < 8; t++) assert_true(start[t] == 0 && position[t] == t);
}

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/test_doc_mask.XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static void write_file(const char *name, const void *bytes, size_t size) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fwrite(bytes, 1, size, file);
    assert_int_equal(fclose(file), 0);
}

/* What documents_of() makes of sets a and b, whose NAME.json hold these texts (NULL: there is none). */
static bool found(const char *settings, const char *a, const char *b, Documents *documents, Error *error) {
    static const int32_t EMPTY[256] = {20240520, 1, 0};
    char pattern[128], path[128];
    Config config;
    ShardSet set;
    const char *const TEXTS[] = {a, b};
    for (int i = 0; i < 2; i++) {
        char name[32];
        snprintf(name, sizeof name, "%c_train_000000.bin", 'a' + i), write_file(name, EMPTY, sizeof EMPTY);
        snprintf(name, sizeof name, "%c.json", 'a' + i);
        snprintf(path, sizeof path, "%s/%s", folder, name), unlink(path);
        if (TEXTS[i]) write_file(name, TEXTS[i], strlen(TEXTS[i]));
    }
    snprintf(pattern, sizeof pattern, "%s/*_train_*.bin", folder);
    *error = (Error){0};
    assert_true(shard_set_open(&set, pattern, error));
    configure(&config, settings);
    const bool good = documents_of(documents, &config, &set, error);
    shard_set_close(&set);
    return good;
}

#define ON "doc-mask=on vocab-size=256 "

static void the_end_of_documents_is_what_the_list_or_the_flag_says(void **state) {
    (void)state;
    Documents d;
    Error error;
    const char *six = "{\"end_of_document\": 6}", *old = "{\"separator\": \"eot\", \"eot_token\": 6}";
    assert_true(found(ON, six, NULL, &d, &error) && d.has_end && d.end == 6);
    assert_true(found(ON, old, six, &d, &error) && d.has_end && d.end == 6);
    assert_true(found(ON "end-of-document=9", six, NULL, &d, &error) && d.has_end && d.end == 9);
    assert_true(found("doc-mask=off", NULL, NULL, &d, &error) && !d.has_end);
    static const char *const NONE[] = {NULL, "{}", "{\"end_of_document\": null, \"separator\": \"newline\", \"eot_token\": 6}",
                                       "not JSON"};
    static const char *const WRONG[] = {"{\"end_of_document\": 6.5}", "{\"end_of_document\": -1}", "{\"end_of_document\": \"6\"}",
                                        "{\"end_of_document\": 1e99}"};
    for (size_t i = 0; i < sizeof NONE / sizeof *NONE; i++) {
        assert_false(found(ON, NONE[i], NULL, &d, &error));
        if (!strstr(error.text, "--doc-mask on: no NAME.json beside ") || !strstr(error.text, "--end-of-document ID"))
            fail_msg("%s: %s", NONE[i], error.text);
    }
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        assert_false(found(ON, WRONG[i], six, &d, &error));
        assert_non_null(strstr(error.text, "a.json: field 'end_of_document' "));
    }
    assert_false(found(ON, six, "{\"end_of_document\": 7}", &d, &error));
    assert_non_null(strstr(error.text, "a.json ends documents with token 6, "));
    assert_non_null(strstr(error.text, "b.json with 7"));
    assert_true(found(ON "end-of-document=6", six, "{\"end_of_document\": 7}", &d, &error) && d.end == 6);
    assert_false(found(ON "end-of-document=256", NULL, NULL, &d, &error));
    assert_non_null(strstr(error.text, "token 256 ends documents, the vocabulary has 256"));
}

int main(void) {
    omp_set_num_threads(1); /* these models are so small that threads only cost */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_computes_what_it_does_of_the_documents_apart),
        cmocka_unit_test(grouped_queries_and_a_wide_residual_do_too),
        cmocka_unit_test(rows_that_are_fed_without_documents_are_whole),
        cmocka_unit_test(a_token_that_ends_a_document_belongs_to_it),
        cmocka_unit_test_setup_teardown(the_end_of_documents_is_what_the_list_or_the_flag_says, make_folder, remove_folder),
    };
    return cmocka_run_group_tests_name("doc_mask", tests, NULL, NULL);
}
