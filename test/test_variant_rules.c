/*
 * test_variant_rules.c: which variants there are, and which are refused: every combination takes a step or
 * says in one line which flag is wrong and what is allowed; a checkpoint of another variant is refused with
 * the difference.
 */
#define _GNU_SOURCE
#include "../src/checkpoint/checkpoint.h"
#include "../src/settings/variant.h"
#include "../src/settings/flags.h"
#include "../src/settings/resolve.h"
#include "checkpoint_fixture.h"
#include "variant_cases.h"

#include <omp.h>
#include <sys/mman.h>

/* ------------------------------------------------------------------------------------------------------
 * Accepted or refused
 * ---------------------------------------------------------------------------------------------------- */

static void assert_takes_a_step(const char *settings) {
    Fixture f;
    uint32_t tokens[8] = {1, 5, 2, 18, 0, 7, 7, 3}, targets[8] = {5, 2, 18, 0, 7, 7, 3, 1};
    setup(&f, &kernels_cpu_f32, settings);
    Model *m = &f.model;
    void *arena = calloc((size_t)m->params.elements, dtype_size(m->k->accum));
    params_init(&m->params, &f.config, m->k->accum, arena);
    model_load(m, arena);
    model_refresh(m);
    optimizer_begin(&f.optimizer, &(StepInputs){.lr = 1e-3, .loss_scale = 0.125});
    model_feed(m, tokens, targets);
    model_forward(m, true);
    model_head(m, f.optimizer.state, true);
    model_backward(m, NULL, NULL);
    optimizer_update(&f.optimizer);
    const StepState *state = optimizer_read(&f.optimizer);
    if (state->skip || state->applied != 1 || !isfinite(state->loss_sum) || !(state->grad_norm > 0))
        fail_msg("%s: loss %g, gradient norm %g", settings, state->loss_sum, state->grad_norm);
    if (!memcmp(arena, m->master, (size_t)m->params.elements * sizeof(float)))
        fail_msg("%s: nothing moved", settings);
    free(arena);
    teardown(&f);
}

static void every_combination_takes_a_step_or_is_refused_by_name(void **state) {
    (void)state;
    static const char *const BHYT[] = {"--norm bhyt", "--placement must be pre or lns", "--norm bhyt-exact",
                                       NULL};
    static const char *const TWICE[] = {"--placement hybrid", "norms q, k and v already", NULL};
    static const char *const RELU[] = {"--gpas-act relu", "--gpas-init 0",
                                       "silu, identity, tanh or leaky-relu", NULL};
    enum { FACTORS = 5 }; /* norm, placement, gpas, sdd, arch */
    int accepted = 0, refused = 0, every = variants_every();
    for (long i = 0; i < variant_count(EVERYTHING, FACTORS); i += every) {
        char words[320], settings[384];
        VariantCase c = variant_case(EVERYTHING, FACTORS, i);
        variant_settings(EVERYTHING, FACTORS, &c, words, sizeof words);
        bool legal = variant_is_legal(words), relu = strstr(words, "gpas-act=relu"), gpt2 = c.word[4] == 0;
        snprintf(settings, sizeof settings, "%s gpas-init=%d", words, relu);
        if (legal)
            assert_takes_a_step(settings);
        else if (gpt2)
            assert_resolve_refuses(settings, strstr(words, "norm=bhyt ") ? BHYT : TWICE); /* a process each: one architecture will do */
        snprintf(settings, sizeof settings, "%s gpas-init=0", words);
        if (legal && relu && gpt2) assert_resolve_refuses(settings, RELU);
        accepted += legal;
        refused += gpt2 && (!legal || relu);
    }
    if (every > 1) return;
    /* 5 norms with 11 placements, and with 2 that go with neither SDD nor QK-norm, bhyt in two forms with 3; 11 forms of GPAS
     * (2 with relu), 3 of SDD and 2 of QK-norm, 3 architectures. */
    int pairs = (5 * 11 + 2 * 3) * 5 + 5 * 2; /* with SDD and QK-norm */
    assert_int_equal(accepted, pairs * 11 * 3);
    assert_int_equal(refused, (7 * 13 * 5 - pairs) * 11 + pairs * 2);
}

static void q_and_k_are_normed_once(void **state) {
    (void)state;
    static const char *const HEAD[] = {"--qk-norm head", "--sdd", NULL}, *const PROJECTION[] = {"--qk-norm projection", NULL};
    assert_resolve_refuses("qk-norm=head sdd=paper", HEAD);
    assert_resolve_refuses("qk-norm=projection sdd=released", PROJECTION);
    assert_resolves("qk-norm=head sdd=off");
    static const char *const HYBRID[] = {"--placement hybrid-first", "--sdd paper", NULL};
    static const char *const BOTH[] = {"--placement hybrid", "--qk-norm head", NULL};
    assert_resolve_refuses("placement=hybrid-first sdd=paper", HYBRID);
    assert_resolve_refuses("placement=hybrid qk-norm=head", BOTH);
}

static void post_layers_are_counted_where_there_are_some(void **state) {
    (void)state;
    static const char *const MIX[] = {"--mix-post-layers 3", "--n-layer 2", "--placement mix", NULL};
    assert_resolve_refuses("n-layer=2 placement=mix mix-post-layers=3", MIX);
    assert_resolves("n-layer=2 placement=mix mix-post-layers=2");
    assert_resolves("n-layer=2 placement=pre mix-post-layers=3");
}

/* ------------------------------------------------------------------------------------------------------
 * --list-variants
 * ---------------------------------------------------------------------------------------------------- */

static void the_list_has_every_word_of_the_flags_with_a_line_and_what_is_refused(void **state) {
    (void)state;
    static const char *const WORDS[] = {"layernorm",
                                        "rmsnorm",
                                        "dyt",
                                        "bhyt-exact",
                                        "bhyt",
                                        "derf",
                                        "pre",
                                        "post",
                                        "sandwich",
                                        "deepnorm",
                                        "mix",
                                        "lns",
                                        "keel",
                                        "hybrid",
                                        "hybrid-first",
                                        "layer",
                                        "sublayer",
                                        "silu",
                                        "identity",
                                        "relu",
                                        "tanh",
                                        "leaky-relu",
                                        "paper",
                                        "released",
                                        "--final-norm",
                                        "--embed-norm",
                                        "--embed-scale",
                                        "--qk-norm",
                                        "--mix-post-layers",
                                        "--lns-init",
                                        "--deepnorm-init",
                                        "--bhyt-gamma-var",
                                        "--bhyt-kappa",
                                        "--final-norm-eps",
                                        "--bhyt-lambda-final"};
    char text[1 << 14];
    int file = memfd_create("list", 0), out = dup(STDOUT_FILENO);
    fflush(stdout);
    dup2(file, STDOUT_FILENO);
    variant_print_table();
    fflush(stdout);
    dup2(out, STDOUT_FILENO);
    ssize_t size = pread(file, text, sizeof text - 1, 0);
    text[size > 0 ? size : 0] = '\0';
    close(file);
    close(out);
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) {
        char row[64];
        snprintf(row, sizeof row, "\n  %s ", WORDS[i]);
        if (!strstr(text, row)) fail_msg("%s has no row", WORDS[i]);
    }
    const char *choices[] = {NORM_CHOICES, PLACEMENT_CHOICES}; /* the flags' own words, but "auto" */
    for (int c = 0; c < 2; c++) {
        char copy[128], *next = NULL;
        strcpy(copy, choices[c]);
        for (char *word = strtok_r(copy, "|", &next); word; word = strtok_r(NULL, "|", &next)) {
            char row[64];
            snprintf(row, sizeof row, "\n  %s ", word);
            if (strcmp(word, "auto") && !strstr(text, row)) fail_msg("%s has no row", word);
        }
    }
    for (int i = 0; i < NORM_COUNT; i++) assert_true(NORMS[i].source[0] && strstr(text, NORMS[i].formula));
    for (int i = 0; i < PLACEMENT_COUNT; i++)
        assert_true(PLACEMENTS[i].source[0] && strstr(text, PLACEMENTS[i].formula));
    const char *refused = strstr(text, "\nrefused\n");
    assert_non_null(refused);
    assert_non_null(strstr(refused, "--norm bhyt with --placement post, sandwich, deepnorm, mix, res-post, keel, hybrid, hybrid-first"));
    assert_non_null(strstr(refused, "--gpas-act relu with --gpas-init 0"));
    assert_non_null(strstr(refused, "--qk-norm with --sdd"));
    assert_non_null(strstr(refused, "--placement mix with --mix-post-layers over --n-layer"));
}

/* ------------------------------------------------------------------------------------------------------
 * Checkpoints of other variants
 * ---------------------------------------------------------------------------------------------------- */

static void save_as(const char *settings, char path[CHECKPOINT_PATH]) {
    Fixture f;
    StepState filled;
    Progress progress = {.step = 40};
    Error error = {0};
    setup(&f, &kernels_cpu_f32, settings);
    fill_run(&f, &filled);
    model_refresh(&f.model);
    if (!checkpoint_save(&f.config, &f.model, &f.optimizer, &progress, path, &error))
        fail_msg("%s", error.text);
    teardown(&f);
}

/* Whether it loads; where not, what it says. */
static bool loads_as(const char *path, const char *settings, Error *error) {
    Fixture f;
    Progress progress;
    *error = (Error){0};
    setup(&f, &kernels_cpu_f32, settings);
    bool good = checkpoint_load(path, &f.config, &f.model, &f.optimizer, &progress, error);
    teardown(&f);
    return good;
}

static void name_of(const char *settings, char name[128]) {
    Config config;
    configure_raw(&config, settings);
    config_resolve(&config, 1);
    variant_describe(&config, name, 128);
}

/* Each of a cover of the variants against those with one word changed: both names are in the line. */
static void a_checkpoint_of_another_variant_is_refused_with_both_names(void **state) {
    (void)state;
    VariantCase *cases;
    int n = variant_cover(METHODS, METHOD_COUNT, &cases), refused = 0;
    for (int i = 0; i < n; i++) {
        char settings[256], path[CHECKPOINT_PATH], command[128], theirs[128];
        Error error;
        variant_settings(METHODS, METHOD_COUNT, &cases[i], settings, sizeof settings);
        save_as(settings, path);
        name_of(settings, theirs);
        if (!loads_as(path, settings, &error)) fail_msg("%s: %s", settings, error.text);
        for (int f = 0; f < METHOD_COUNT; f++) {
            VariantCase other = cases[i];
            char changed[256], ours[128];
            other.word[f] = (other.word[f] + 1) % METHODS[f].count;
            variant_settings(METHODS, METHOD_COUNT, &other, changed, sizeof changed);
            if (!variant_is_legal(changed)) continue;
            name_of(changed, ours);
            if (loads_as(path, changed, &error)) fail_msg("%s loaded as %s", settings, changed);
            if (!strstr(error.text, theirs) || !strstr(error.text, ours) || strchr(error.text, '\n'))
                fail_msg("%s as %s: %s", settings, changed, error.text);
            refused++;
        }
        snprintf(command, sizeof command, "rm -rf %s/step_*", folder);
        assert_int_equal(system(command), 0);
    }
    assert_true(n >= 26 && refused > 3 * n); /* 26 pairs of norm and placement */
    free(cases);
}

/* What no tensor's shape shows is compared flag by flag. */
static void a_checkpoint_with_another_option_is_refused_with_the_flag(void **state) {
    (void)state;
    static const struct {
        const char *base, *option, *there, *here;
    } OPTIONS[] = {
        {"placement=lns", "lns-init", "off", "on"},   {"placement=mix", "mix-post-layers", "1", "2"},
        {"norm=bhyt", "bhyt-gamma-var", "off", "on"}, {"norm=bhyt", "bhyt-refresh", "1", "10"},
        {"norm=rmsnorm", "norm-eps", "1e-6", "1e-5"}, {"sdd=paper", "sdd-eps", "1e-6", "1e-4"},
        {"placement=pre", "qk-norm", "head", "projection"}, {"n-head=1", "qk-norm", "head", "projection"},
        {"positions=rope", "rope-scaling", "none", "linear"}, {"positions=rope rope-scaling=linear", "rope-factor", "8", "2"},
        {"positions=rope", "rope-base", "10000", "500"}, {"positions=rope", "n-head", "2", "4"},
    };
    for (size_t i = 0; i < sizeof OPTIONS / sizeof *OPTIONS; i++) {
        char there[256], here[256], path[CHECKPOINT_PATH], command[128];
        Error error;
        snprintf(there, sizeof there, "%s %s=%s", OPTIONS[i].base, OPTIONS[i].option, OPTIONS[i].there);
        snprintf(here, sizeof here, "%s %s=%s", OPTIONS[i].base, OPTIONS[i].option, OPTIONS[i].here);
        save_as(there, path);
        if (!loads_as(path, there, &error)) fail_msg("%s: %s", there, error.text);
        if (loads_as(path, here, &error)) fail_msg("%s loaded as %s", there, here);
        if (!strstr(error.text, OPTIONS[i].option)) fail_msg("%s as %s: %s", there, here, error.text);
        snprintf(command, sizeof command, "rm -rf %s/step_*", folder);
        assert_int_equal(system(command), 0);
    }
    /* Other tensors: the first that is missing or too many is named. */
    static const char *const PAIRS[][3] = {
        {"embed-norm=off", "embed-norm=on", "embed_norm"},
        {"embed-scale=on", "embed-scale=off", "embed_scale"},
        {"final-norm=off", "final-norm=on", "ln_f"},
        {"norm=bhyt-exact bhyt-lambda-final=0", "norm=bhyt-exact bhyt-lambda-final=2", "ln_f.lambda"},
    };
    for (size_t i = 0; i < sizeof PAIRS / sizeof *PAIRS; i++) {
        char path[CHECKPOINT_PATH], command[128];
        Error error;
        save_as(PAIRS[i][0], path);
        if (loads_as(path, PAIRS[i][1], &error)) fail_msg("%s loaded as %s", PAIRS[i][0], PAIRS[i][1]);
        if (!strstr(error.text, PAIRS[i][2])) fail_msg("%s as %s: %s", PAIRS[i][0], PAIRS[i][1], error.text);
        snprintf(command, sizeof command, "rm -rf %s/step_*", folder);
        assert_int_equal(system(command), 0);
    }
}

int main(void) {
    omp_set_num_threads(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_combination_takes_a_step_or_is_refused_by_name),
        cmocka_unit_test(q_and_k_are_normed_once),
        cmocka_unit_test(post_layers_are_counted_where_there_are_some),
        cmocka_unit_test(the_list_has_every_word_of_the_flags_with_a_line_and_what_is_refused),
        cmocka_unit_test_setup_teardown(a_checkpoint_of_another_variant_is_refused_with_both_names,
                                        make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_checkpoint_with_another_option_is_refused_with_the_flag,
                                        make_folder, remove_folder),
    };
    return cmocka_run_group_tests_name("variant rules", tests, NULL, NULL);
}
