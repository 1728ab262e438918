/* report_data.c: what of the data is used and what is not, in words. See report.h; the counting is inventory.h's. */
#include "report.h"
#include "../base/printable.h"
#include "../data/inventory.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A line for people: on stdout, or, where that holds a mode's result, on stderr. */
static void say(bool aside, const char *format, ...) CHECK_PRINTF(2, 3);

static void say(bool aside, const char *format, ...) {
    char line[2 * PATH_SIZE];
    va_list args;
    va_start(args, format);
    printable_message(line, sizeof line, format, args);
    va_end(args);
    if (aside) warn("%s", line);
    else puts(line);
}

enum { DIGITS_SIZE = 32 };

/* 1234567 as 1,234,567; returns text. */
static const char *digits(uint64_t number, char text[DIGITS_SIZE]) {
    char plain[24];
    int length = snprintf(plain, sizeof plain, "%llu", (unsigned long long)number), end = 0;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) text[end++] = ',';
        text[end++] = plain[i];
    }
    text[end] = '\0';
    return text;
}

static void say_unused(const char *flag, const Inventory *v, int64_t T, bool aside) {
    enum { WORTH_SAYING = 100 }; /* leftovers of less than a hundredth of all tokens are what any set has */
    char part[DIGITS_SIZE], all[DIGITS_SIZE];
    if (v->short_shards)
        say(aside, "%s: %zu of %zu shards hold%s fewer than %lld tokens and %s not used (%s of %s tokens)", flag,
            v->short_shards, v->shards, v->short_shards == 1 ? "s" : "", (long long)T + 1,
            v->short_shards == 1 ? "is" : "are", digits(v->short_tokens, part), digits(v->tokens, all));
    if (v->leftover_tokens >= v->tokens / WORTH_SAYING + 1)
        say(aside, "%s: %.1f %% of the tokens, behind the last whole window of %lld in each shard, are not used (%s of %s)",
            flag, 100 * (double)v->leftover_tokens / (double)v->tokens, (long long)T, digits(v->leftover_tokens, part),
            digits(v->tokens, all));
}

static void say_unexpected(const char *flag, const ShardSet *set, const Inventory *v, bool aside) {
    if (v->missing)
        say(aside, "%s: %zu of %zu shards that %s lists %s missing: %s", flag, v->missing, v->listed, v->list_path,
            v->missing == 1 ? "is" : "are", v->missing_path);
    if (v->list_trouble[0]) say(aside, "%s: %s %s", flag, v->list_path, v->list_trouble);
    if (v->twice)
        say(aside, "%s: %zu of %zu shards %s there twice, and used twice: %s holds the same as %s", flag, v->twice, v->shards,
            v->twice == 1 ? "is" : "are", set->shards[v->twice_second].path, set->shards[v->twice_first].path);
}

static void say_overlap(const ShardSet *train, const ShardSet *val, const Overlap *o) {
    if (o->shared)
        say(false, "--train-data: %zu of %zu shards to validate on %s trained on as well, the validation loss will be too "
            "low: %s holds the same as %s", o->shared, val->n_shards, o->shared == 1 ? "is" : "are",
            train->shards[o->train].path, val->shards[o->val].path);
    else if (o->named)
        say(false, "--train-data: %zu of %zu shards %s called _val_: %s; '…_train_*.bin' leaves %s out", o->named,
            train->n_shards, o->named == 1 ? "is" : "are", train->shards[o->named_first].path, o->named == 1 ? "it" : "them");
}

static cJSON *fields(const Inventory *v) {
    cJSON *o = cJSON_CreateObject();
    const struct {
        const char *name;
        double value;
    } rows[] = {
        {"shards", (double)v->shards},           {"tokens", (double)v->tokens},
        {"windows", (double)v->windows},         {"shards_unused", (double)v->short_shards},
        {"tokens_unused", (double)(v->short_tokens + v->leftover_tokens)},
        {"shards_missing", (double)v->missing},  {"shards_twice", (double)v->twice},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) cJSON_AddNumberToObject(o, rows[i].name, rows[i].value);
    return o;
}

static cJSON *report_train(const Config *c, const ShardSet *train, const Validator *validator) {
    char tokens[DIGITS_SIZE], windows[DIGITS_SIZE];
    Inventory v;
    inventory_take(&v, train, (size_t)c->seq_len);
    double epochs = (double)c->total_batch_tokens * (double)c->steps / (double)c->seq_len / (double)v.windows;
    say(false, "data: %zu shard%s, %s tokens: %s windows of %lld; %.3g epochs", v.shards, v.shards == 1 ? "" : "s",
        digits(v.tokens, tokens), digits(v.windows, windows), (long long)c->seq_len, epochs);
    say_unused("--train-data", &v, c->seq_len, false);
    say_unexpected("--train-data", train, &v, false);
    cJSON *o = fields(&v);
    if (c->smoke) return o; /* one file for both */
    Overlap overlap;
    inventory_overlap(&overlap, train, validator ? &validator->set : NULL);
    say_overlap(train, validator ? &validator->set : NULL, &overlap);
    cJSON_AddNumberToObject(o, "shards_validated_on", (double)overlap.shared);
    return o;
}

static cJSON *report_val(const Config *c, const Validator *validator, bool aside) {
    char part[DIGITS_SIZE], all[DIGITS_SIZE];
    Inventory v;
    inventory_take(&v, &validator->set, (size_t)c->seq_len);
    if (validator->batches < validator->all_batches)
        say(aside, "--val-data: a validation reads %lld of %lld batches (%s of %s windows of %lld); --val-batches says how many",
            (long long)validator->batches, (long long)validator->all_batches, digits((uint64_t)validator->windows, part),
            digits(v.windows, all), (long long)c->seq_len);
    say_unused("--val-data", &v, c->seq_len, aside);
    say_unexpected("--val-data", &validator->set, &v, aside);
    cJSON *o = fields(&v);
    cJSON_AddNumberToObject(o, "batches", (double)validator->batches);
    cJSON_AddNumberToObject(o, "batches_of", (double)validator->all_batches);
    return o;
}

cJSON *report_data(const Config *c, const ShardSet *train, const Validator *validator, bool aside) {
    cJSON *o = cJSON_CreateObject();
    if (train) cJSON_AddItemToObject(o, "train", report_train(c, train, validator));
    if (validator) cJSON_AddItemToObject(o, "val", report_val(c, validator, aside));
    return o;
}
