/* resume.c: see resume.h. */
#define _GNU_SOURCE
#include "resume.h"
#include "../data/fingerprint.h"
#include "../settings/changes.h"
#include "../settings/schedule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Parts that are put together with a word between them. */
typedef struct Parts {
    char *text;
    size_t size;
    FILE *file;
} Parts;

static void open_parts(Parts *parts) {
    *parts = (Parts){0};
    parts->file = open_memstream(&parts->text, &parts->size);
    require(parts->file, "out of memory for what a resume changes");
}

/* Where the next part goes. */
static FILE *next_part(Parts *parts, const char *between) {
    require(fflush(parts->file) == 0, "out of memory for what a resume changes");
    if (parts->size) fputs(between, parts->file);
    return parts->file;
}

/* The text, for the caller to free, or NULL for none. */
static char *close_parts(Parts *parts) {
    require(fclose(parts->file) == 0, "out of memory for what a resume changes");
    if (parts->size) return parts->text;
    free(parts->text);
    return NULL;
}

/* The flags that make the learning rate of a step. */
static bool makes_the_rate(const char *name) {
    static const char *const NAMES[] = {"lr", "lr-schedule", "lr-final-frac", "warmup-steps", "wsd-decay-frac", "steps",
                                        "schedule-steps", "wsd-decay-steps", "restart-steps", "lr-from-zero"};
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (strcmp(NAMES[i], name) == 0) return true;
    return false;
}

static void say_flag(const Resume *r, const Change *change, FILE *out) {
    fprintf(out, "--%s %s → %s", change->flag->name, change->from, change->to);
    if (change->follows) fputs(" (auto)", out);
    bool ends_it = schedule_end(r->ours) == r->ours->steps && r->ours->lr_schedule != SCHEDULE_CONSTANT;
    if (strcmp(change->flag->name, "steps") == 0 && ends_it)
        fprintf(out, " (the %s now ends there)", config_choice("lr-schedule", r->ours->lr_schedule));
}

static void compare_flags(const Resume *r, cJSON *event, Parts *said, Parts *refused) {
    Change changes[FLAGS_MOST];
    const int count = changes_find(r->theirs, r->ours, changes);
    const double before = schedule_lr(r->theirs, r->now->step), after = schedule_lr(r->ours, r->now->step);
    bool rate = false;
    cJSON *object = count ? cJSON_AddObjectToObject(event, "changes") : NULL;
    for (int i = 0; i < count; i++) {
        const Change *change = &changes[i];
        const char *both[] = {change->from, change->to};
        rate = rate || makes_the_rate(change->flag->name);
        say_flag(r, change, next_part(said, ", "));
        if (change_needs_consent(change))
            fprintf(next_part(refused, "; "), "--%s %s → %s", change->flag->name, change->from, change->to);
        cJSON_AddItemToObject(object, change->flag->name, cJSON_CreateStringArray(both, 2));
    }
    if (rate && before != after) fprintf(next_part(said, "; "), "lr at this step %.3g → %.3g", before, after);
    const char *init = r->ours->init_from, *first = r->theirs->init_from;
    if (init && (!first || strcmp(init, first)))
        fprintf(next_part(said, "; "), "--init-from is not read: the run goes on from its checkpoint");
}

static void parse_print(const Resume *r, const char *field, const char *text, Fingerprint *print) {
    Error error = {0};
    check(fingerprint_parse(text, print, &error), "%s/%s: field '%s': %s", r->from, CHECKPOINT_STATE, field, error.text);
}

/* Whether the data of a field of state.json differ, and how. */
static bool data_differ(const Resume *r, const char *field, const char *then, const char *now, const ShardSet *set,
                        char *text, size_t size) {
    Fingerprint before, after;
    parse_print(r, field, then, &before);
    parse_print(r, field, now, &after);
    bool differ = fingerprint_differs(&before, &after, set, text, size);
    fingerprint_free(&before);
    fingerprint_free(&after);
    return differ;
}

static void compare_data(const Resume *r, cJSON *event, Parts *said, Parts *refused) {
    const Progress *then = r->then, *now = r->now;
    char text[1024];
    if (!then->train_data) {
        if (r->theirs->seq_len == r->ours->seq_len && then->epoch_windows != now->epoch_windows)
            fprintf(next_part(refused, "; "), "--train-data has %lld windows in an epoch, and had %lld",
                    (long long)now->epoch_windows, (long long)then->epoch_windows);
    } else if (data_differ(r, "train_data", then->train_data, now->train_data, r->train_set, text, sizeof text)) {
        cJSON_AddStringToObject(event, "train_data", text);
        fprintf(next_part(said, "; "), "--train-data: %s", text);
        fprintf(next_part(refused, "; "), "--train-data is not what it was: %s", text);
    }
    if (then->train_data && !then->val_data && now->val_data)
        fprintf(next_part(said, "; "), "--val-data none → %.200s", r->ours->val_data);
    if (then->val_data && now->val_data &&
        data_differ(r, "val_data", then->val_data, now->val_data, r->val_set, text, sizeof text)) {
        cJSON_AddStringToObject(event, "val_data", text);
        fprintf(next_part(said, "; "), "--val-data: %s; losses before and after do not compare", text);
    }
}

char *resume_compare(const Resume *r, cJSON *event) {
    Parts said, refused;
    open_parts(&said);
    open_parts(&refused);
    compare_flags(r, event, &said, &refused);
    compare_data(r, event, &said, &refused);
    char *wrong = close_parts(&refused);
    check(!wrong || r->ours->allow_change, "--resume %s would go on as another run: %s; --allow-change says that this is meant",
          r->from, wrong);
    free(wrong);
    Parts lines;
    open_parts(&lines);
    char *changes = close_parts(&said);
    if (changes) fprintf(next_part(&lines, "\n"), "resume changes: %s", changes);
    if (!r->then->train_data)
        fprintf(next_part(&lines, "\n"), "%s was written by an older version, without a fingerprint of its data: that these "
                "are the same is not checked", r->from);
    free(changes);
    return close_parts(&lines);
}
