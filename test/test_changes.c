/*
 * test_changes.c: does a resume keep what "auto" came to, unless what it follows from has changed; and does it see what
 * has? (src/settings/changes.h)
 */
#include "../src/settings/changes.h"
#include "settings.h"

#include <stdlib.h>

/* What a run with these settings writes into config.ini, and reads back. */
static void checkpoint_of(Config *theirs, const char *settings) {
    Config config;
    Error error = {0};
    char *bytes = NULL;
    size_t size = 0;
    configure_raw(&config, settings);
    config_resolve(&config, 1);
    config.device = DEVICE_CPU, config.dtype = DTYPE_FLAG_FP32; /* as device_open() does */
    FILE *file = open_memstream(&bytes, &size);
    config_write(&config, file);
    fclose(file);
    config_defaults(theirs);
    if (!config_parse_lines(theirs, bytes, size, &error)) fail_msg("%s in\n%s", error.text, bytes);
    free(bytes);
}

/* A resume from it with more flags, as the program does it. */
static void resume(Config *ours, Config *theirs, const char *flags) {
    Error error = {0};
    *ours = *theirs;
    config_reopen(ours);
    if (!config_set_all(ours, flags, &error)) fail_msg("%s", error.text);
    config_follow(ours, theirs);
    config_resolve(ours, 1);
    if (ours->device == DEVICE_AUTO) ours->device = DEVICE_CPU;
    if (ours->dtype == DTYPE_FLAG_AUTO) ours->dtype = DTYPE_FLAG_FP32;
}

static const char *const SETTINGS[] = {
    "n-embd=64 n-head=2 seq-len=16 batch-size=4 steps=1000",
    "arch=llama n-embd=64 n-head=2 seq-len=16 batch-size=4 total-batch-tokens=128 steps=1000 norm-eps=1e-3",
    "n-embd=64 n-head=2 seq-len=16 placement=mix sdd=released warmup-steps=3",
};

static void without_other_flags_nothing_changes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof SETTINGS / sizeof *SETTINGS; i++) {
        Config theirs, ours, straight;
        Change changes[FLAGS_MOST];
        checkpoint_of(&theirs, SETTINGS[i]);
        resume(&ours, &theirs, "");
        configure_raw(&straight, SETTINGS[i]);
        config_resolve(&straight, 1);
        assert_int_equal(changes_find(&theirs, &ours, changes), 0);
        assert_int_equal(ours.warmup_steps, straight.warmup_steps);
        assert_int_equal(ours.total_batch_tokens, straight.total_batch_tokens);
        assert_memory_equal(ours.automatic, straight.automatic, sizeof ours.automatic);
        /* The same said again, as a job's script does. */
        resume(&ours, &theirs, SETTINGS[i]);
        assert_int_equal(changes_find(&theirs, &ours, changes), 0);
    }
}

static void assert_change(const Change *change, const char *name, const char *from, const char *to, bool follows) {
    assert_string_equal(change->flag->name, name);
    assert_string_equal(change->from, from);
    assert_string_equal(change->to, to);
    assert_int_equal(change->follows, follows);
}

static void what_was_auto_follows_what_it_was_worked_out_from(void **state) {
    (void)state;
    Config theirs, ours;
    Change changes[FLAGS_MOST];
    checkpoint_of(&theirs, SETTINGS[0]);
    resume(&ours, &theirs, "batch-size=8 steps=2000 lr=3e-4 keep=9 recompute=block");
    assert_int_equal(changes_find(&theirs, &ours, changes), 5);
    assert_change(&changes[0], "batch-size", "4", "8", false);
    assert_change(&changes[1], "total-batch-tokens", "64", "128", true);
    assert_change(&changes[2], "steps", "1000", "2000", false);
    assert_change(&changes[3], "lr", "0.0006", "0.0003", false);
    assert_change(&changes[4], "warmup-steps", "10", "20", true);
    assert_int_equal(ours.micro_steps, 1);
    for (int i = 0; i < 5; i++) assert_false(change_needs_consent(&changes[i]));
}

static void what_was_given_stays(void **state) {
    (void)state;
    Config theirs, ours;
    Change changes[FLAGS_MOST];
    checkpoint_of(&theirs, SETTINGS[1]);
    resume(&ours, &theirs, "batch-size=8 seed=3");
    assert_int_equal(changes_find(&theirs, &ours, changes), 2);
    assert_change(&changes[0], "seed", "1337", "3", false);
    assert_change(&changes[1], "batch-size", "4", "8", false);
    assert_true(change_needs_consent(&changes[0]) && !change_needs_consent(&changes[1]));
    assert_int_equal(ours.micro_steps, 1);
    assert_true(ours.norm_eps == 1e-3);
}

/* A checkpoint of a version where "auto" meant another number: its own number holds, until --steps is another. */
static void a_number_of_another_version_holds(void **state) {
    (void)state;
    Config theirs, ours;
    Error error = {0};
    checkpoint_of(&theirs, SETTINGS[0]);
    assert_true(config_set(&theirs, "warmup-steps", "auto (33)", &error));
    assert_true(config_set(&theirs, "norm-eps", "auto (0.25)", &error));
    resume(&ours, &theirs, "lr=1");
    assert_true(ours.warmup_steps == 33 && ours.norm_eps == 0.25);
    resume(&ours, &theirs, "steps=3000");
    assert_true(ours.warmup_steps == 30 && ours.norm_eps == 0.25);
    resume(&ours, &theirs, "warmup-steps=7");
    assert_true(ours.warmup_steps == 7);
}

/* A checkpoint from a GPU goes on where there is none, if nobody asked for the GPU. */
static void device_and_type_are_worked_out_for_this_machine(void **state) {
    (void)state;
    Config theirs, ours;
    Error error = {0};
    Change changes[FLAGS_MOST];
    checkpoint_of(&theirs, SETTINGS[0]);
    assert_true(config_set(&theirs, "device", "auto (cuda)", &error) && config_set(&theirs, "dtype", "auto (bf16)", &error));
    resume(&ours, &theirs, "");
    assert_true(ours.device == DEVICE_CPU && ours.dtype == DTYPE_FLAG_FP32);
    assert_int_equal(changes_find(&theirs, &ours, changes), 2);
    assert_change(&changes[0], "dtype", "bf16", "fp32", true);
    assert_change(&changes[1], "device", "cuda", "cpu", true);
    assert_true(config_set(&theirs, "device", "cuda", &error));
    ours = theirs;
    config_reopen(&ours);
    config_follow(&ours, &theirs);
    assert_int_equal(ours.device, DEVICE_CUDA);
}

/* Older builds wrote numbers, and knew not every flag. */
static void what_an_older_build_left_open_is_no_change(void **state) {
    (void)state;
    Config theirs, ours;
    Error error = {0};
    Change changes[FLAGS_MOST];
    checkpoint_of(&theirs, SETTINGS[0]);
    assert_true(config_set(&theirs, "n-ffn", "auto", &error) && config_set(&theirs, "positions", "auto", &error) &&
                config_set(&theirs, "total-batch-tokens", "64", &error));
    resume(&ours, &theirs, "");
    assert_int_equal(changes_find(&theirs, &ours, changes), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_other_flags_nothing_changes),
        cmocka_unit_test(what_was_auto_follows_what_it_was_worked_out_from),
        cmocka_unit_test(what_was_given_stays),
        cmocka_unit_test(a_number_of_another_version_holds),
        cmocka_unit_test(device_and_type_are_worked_out_for_this_machine),
        cmocka_unit_test(what_an_older_build_left_open_is_no_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
