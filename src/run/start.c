/* start.c: see start.h. */
#include "start.h"
#include "../checkpoint/shared_check.h"
#include "../settings/changes.h"
#include "../settings/command_line.h"
#include "../settings/needs.h"
#include "../settings/resolve.h"
#include "../settings/usage.h"
#include "device.h"
#include "smoke.h"
#include "tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GENERATE_AT_ONCE = 8 }; /* texts: to the bit what each is alone (decode.h) */

/* Which checkpoint before this step --resume means; its config.ini lies under the other flags. Large files are read by all ranks
 * together, when they know each other. */
static void find_checkpoint(Start *start, int64_t before) {
    const char *resume = config_peek(start->argc, start->argv, "resume"), *out = config_peek(start->argc, start->argv, "out");
    const ManifestCheck how = start->ranks.count > 1 ? MANIFEST_SMALL : MANIFEST_CONTENTS;
    Error error = {0};
    if (!resume) return;
    check(out || strcmp(resume, "auto"), "--resume auto looks into --out, which is not given");
    if (!checkpoint_find_before(resume, out, before, how, start->resume_from, &error)) {
        check(!error.text[0], "%s", error.text);
        start->resume_from[0] = '\0'; /* auto, and nothing there yet: a fresh start */
    }
}

/* A resume without --out goes on where the checkpoint stands. Its config.ini names a directory too, but that may be
 * another one by now, or anybody's: a path in a file is no order to write there. */
static void stay_with_the_checkpoint(Start *start) {
    char out[CHECKPOINT_PATH];
    Error error = {0};
    bool good = checkpoint_parent(start->resume_from, out, &error) && config_set(&start->config, "out", out, &error);
    check(good, "--resume %s", error.text);
}

/* The model of --init-from's config.json lies under the flags, and they may not make another one of it. */
static void read_over_model(Start *start, const char *path, int argc, char **argv) {
    InitFrom *from = &start->init_from;
    Error error = {0};
    check(init_from_open(from, path, &error), "--init-from %s", error.text);
    config_defaults(&start->config);
    huggingface_apply(&from->model, &start->config);
    config_parse_over(&start->config, argc, argv);
    check(huggingface_agrees(&from->model, from->config, &start->config, &error), "%s", error.text);
}

/* Rank 0 speaks for all; what another one has to say goes to stderr, with its number. */
static void find_ranks(Start *start) {
    Error error = {0};
    check(ranks_from_environment(&start->ranks, &error), "%s", error.text);
    if (start->ranks.rank == 0) return;
    check_name_rank(start->ranks.rank);
    require(freopen("/dev/null", "w", stdout), "/dev/null: %s", strerror(errno));
}

/* The flags, with the checkpoint's under them. */
static void read_flags(Start *start) {
    char base[CHECKPOINT_PATH + 16];
    const int argc = start->argc;
    char **argv = start->argv;
    snprintf(base, sizeof base, "%s/config.ini", start->resume_from);
    const char *init_from = start->resume_from[0] ? NULL : config_peek(argc, argv, "init-from");
    if (init_from) read_over_model(start, init_from, argc, argv);
    else config_parse(&start->config, argc, argv, start->resume_from[0] ? base : NULL);
    Config *c = &start->config;
    if (start->resume_from[0] && !config_peek(argc, argv, "out")) stay_with_the_checkpoint(start);
    if (start->resume_from[0]) device_inherit_threads(c, argc, argv);
    if (c->smoke) smoke_prepare(c);
    if (c->generate_file && !config_asks(argc, argv, "batch-size")) c->batch_size = GENERATE_AT_ONCE;
    else if (config_generates(c) && !c->generate_file) c->batch_size = 1;
    /* A mode takes batches of its own, whatever its run's update was: before and after what follows from the run's flags. */
    const bool updates = !(config_generates(c) || c->eval || c->eval_only);
    if (!updates) c->total_batch_tokens = AUTO_INT;
    if (start->resume_from[0]) {
        config_read_base(&start->theirs, base);
        if (c->vocab_size == AUTO_INT) c->vocab_size = start->theirs.vocab_size; /* whatever the data are now */
        config_follow(c, &start->theirs);
    }
    if (!updates) c->total_batch_tokens = AUTO_INT;
    tokenizer_settle_vocabulary(c);
    config_resolve(c, c->plan_ranks ? (int)c->plan_ranks : start->ranks.count);
    c->rank = start->ranks.rank;
    c->local_rank = start->ranks.local_rank, c->local_ranks = start->ranks.local_count;
    needs_check(c, argc, argv);
}

/* What --version says beside the build. */
static void print_surroundings(void) {
    ranks_print_launchers();
    device_print_types();
}

void start_read(Start *start, int argc, char **argv) {
    start->argc = argc, start->argv = argv;
    usage_answer(argc, argv, print_surroundings);
    find_ranks(start);
    smoke_check(argc, argv);
    find_checkpoint(start, INT64_MAX);
    read_flags(start);
}

/* ------------------------------------------------------------------------------------------------------
 * Several ranks
 * ---------------------------------------------------------------------------------------------------- */

typedef struct Comparison {
    const Start *start;
    const Kernels *k;
} Comparison;

/* All ranks ask for the same, and end alike. */
static void must_be_everywhere(const Comparison *c, const char *what, const char *text) {
    const int other = ranks_find_difference(&c->start->ranks, c->k, text);
    if (other >= 0) ranks_end(&c->start->ranks, c->k, EXIT_USAGE, "rank %d has another %s than rank 0", other, what);
}

static void add_flag(const char *name, const char *value, bool is_number, void *text) {
    (void)is_number;
    if (strcmp(name, "threads")) fprintf(text, "%s = %s\n", name, value);
}

/* Threads are each machine's own. */
static void compare_flag(const char *name, const char *value, bool is_number, void *comparison) {
    char flag[80];
    (void)is_number;
    snprintf(flag, sizeof flag, "--%s", name);
    if (strcmp(name, "threads")) must_be_everywhere(comparison, flag, value);
}

/* All at once, for on many ranks each question takes time; one by one where that shows a difference. */
static void compare_flags(const Comparison *c) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    require(out, "out of memory for what the ranks compare");
    config_visit(&c->start->config, add_flag, out);
    require(fclose(out) == 0, "out of memory for what the ranks compare");
    Comparison again = *c;
    if (ranks_find_difference(&c->start->ranks, c->k, text) >= 0) config_visit(&c->start->config, compare_flag, &again);
    free(text);
}

/* Returns the checkpoint's step; −1: there is none to go on from. */
static int64_t compare_checkpoints(const Comparison *c) {
    int64_t step = -1;
    char *text = c->start->resume_from[0] ? checkpoint_identity(c->start->resume_from, &step) : NULL;
    must_be_everywhere(c, "checkpoint to go on from", text ? text : "");
    free(text);
    return step;
}

/* To a checkpoint before the one that is damaged. It has another config.ini, but the device is open by now. */
static void go_back(Start *start, const Kernels *k, int64_t step, const char *why) {
    const Config old = start->config, *c = &start->config;
    find_checkpoint(start, step);
    if (!start->resume_from[0])
        ranks_end(&start->ranks, k, EXIT_USAGE, "%s; there is no complete checkpoint before it to go on from", why);
    read_flags(start);
    if ((c->device != DEVICE_AUTO && c->device != old.device) || (c->dtype != DTYPE_FLAG_AUTO && c->dtype != old.dtype))
        ranks_end(&start->ranks, k, EXIT_USAGE, "%s; the one before it, %s, is of another --device or --dtype: --resume it by its name",
                  why, start->resume_from);
    start->config.device = old.device, start->config.dtype = old.dtype, start->config.threads = old.threads;
    warn_for_all("passing over an incomplete checkpoint: %s", why);
}

/* All ranks go on from one checkpoint, which is whole, and with the same flags. */
static void agree(Start *start, const Comparison *comparison) {
    for (;;) {
        Error why = {0};
        const int64_t step = compare_checkpoints(comparison);
        compare_flags(comparison);
        if (step < 0 || shared_check(start->resume_from, &start->ranks, comparison->k, start->config.timeout, &why)) return;
        go_back(start, comparison->k, step, why.text);
    }
}

/* Only training shares its work. */
void start_join(Start *start, const Kernels *k, const int64_t *step) {
    const Config *c = &start->config;
    const char *mode = config_mode(c);
    Error error = {0};
    if (start->ranks.count == 1) return;
    check(!mode, "%s started %d processes: only training runs on several; start --%s as one, ./train_gpt by itself%s",
          start->ranks.launcher->name, start->ranks.count, mode, c->dry_run ? " (--ranks N plans for several)" : "");
    const Meeting meeting = {.rendezvous = c->rendezvous, .timeout_s = c->timeout, .step = step};
    check(ranks_open(&start->ranks, k, &meeting, &error), "%s", error.text);
    Comparison comparison = {start, k};
    must_be_everywhere(&comparison, "version of the program", program_version());
    agree(start, &comparison);
    start->neighbours = neighbours_find(&start->ranks, k);
    start->config.local_ranks = start->neighbours.count;
    device_share_cpus(&start->config, &start->neighbours);
}

void start_compare(const Start *start, const Kernels *k, const char *train_print, const char *val_print) {
    if (start->ranks.count == 1) return;
    const Comparison comparison = {start, k};
    must_be_everywhere(&comparison, "training data", train_print);
    must_be_everywhere(&comparison, "validation data", val_print ? val_print : "");
}
