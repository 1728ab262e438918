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

/* What documents make of rows. */
static void say_rows(const char *flag, const Rows *rows, int64_t T, bool aside) {
    char documents[DIGITS_SIZE], count[DIGITS_SIZE], part[DIGITS_SIZE];
    const double places = (double)rows->n_rows * (double)T;
    say(aside, "%s: %s documents, one a row of %lld: %s rows, %.1f %% of them padding; %.3g MB tell where they are", flag,
        digits(rows->documents, documents), (long long)T, digits(rows->n_rows, count), 100 * (1 - (double)rows->targets / places),
        8e-6 * (double)rows->n_rows);
    if (rows->cut)
        say(aside, "%s: %s documents are longer than a row and are cut: %s tokens are not used (--pack-long split)", flag,
            digits(rows->cut, documents), digits(rows->cut_tokens, part));
    if (rows->too_short)
        say(aside, "%s: %s documents of fewer than two tokens are not used", flag, digits(rows->too_short, documents));
}

/* Sources, as many of the rows as their shares, and how often each of theirs is read. */
static cJSON *report_sources(const ShardSet *set, const WindowOrder *order, double rows_of_run) {
    char tokens[DIGITS_SIZE], windows[DIGITS_SIZE];
    cJSON *list = cJSON_CreateArray();
    double parts = 0;
    for (size_t i = 0; i < set->n_sources; i++) parts += set->sources[i].parts;
    for (size_t i = 0; i < set->n_sources; i++) {
        const ShardSource *source = &set->sources[i];
        const WindowSource *order_source = &order->sources[i];
        const double share = source->parts / parts, epochs = rows_of_run * share / (double)order_source->n_windows;
        say(false, "data: share %.6g of the rows: %.200s: %zu shard%s, %s tokens: %s %s; %.3g epochs", share, source->pattern,
            source->n_shards, source->n_shards == 1 ? "" : "s", digits(source->n_tokens, tokens),
            digits(order_source->n_windows, windows), order->rows ? "rows" : "windows", epochs);
        cJSON *o = cJSON_CreateObject();
        cJSON_AddStringToObject(o, "pattern", source->pattern);
        cJSON_AddNumberToObject(o, "share", share);
        cJSON_AddNumberToObject(o, "shards", (double)source->n_shards);
        cJSON_AddNumberToObject(o, "tokens", (double)source->n_tokens);
        cJSON_AddNumberToObject(o, "windows", (double)order_source->n_windows);
        cJSON_AddNumberToObject(o, "epochs", epochs);
        cJSON_AddItemToArray(list, o);
    }
    return list;
}

static void add_rows(cJSON *o, const Rows *rows) {
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {{"documents", rows->documents}, {"rows", rows->n_rows},           {"targets", rows->targets},
                  {"documents_cut", rows->cut},   {"tokens_cut", rows->cut_tokens}, {"documents_unused", rows->too_short}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) cJSON_AddNumberToObject(o, fields[i].name, (double)fields[i].value);
}

/* A mixture's epochs are its sources'. */
static void say_train(const Config *c, const Inventory *v, const Rows *rows, bool is_mixture, double epochs) {
    char tokens[DIGITS_SIZE], windows[DIGITS_SIZE], times[32] = "";
    if (!is_mixture) snprintf(times, sizeof times, "; %.3g epochs", epochs);
    say(false, "data: %zu shard%s, %s tokens: %s %s of %lld%s", v->shards, v->shards == 1 ? "" : "s", digits(v->tokens, tokens),
        digits(v->windows, windows), rows ? "rows" : "windows", (long long)c->seq_len, times);
    if (rows) say_rows("data", rows, c->seq_len, false);
    else say_unused("--train-data", v, c->seq_len, false);
}

/* A token that no document ends with makes one document of all. */
static void say_endless(const Config *c, const char *flag, const ShardSet *set, const Loader *loader, bool aside) {
    const Rows *rows = loader_rows(loader);
    const Documents *documents = loader_documents(loader);
    uint64_t looked;
    if (rows && rows->documents == set->n_shards && documents->has_end)
        say(aside, "%s: each shard is one document: is token %u what ends them?", flag, documents->end);
    if (!rows && c->doc_mask == FLAG_ON && !documents_end_somewhere(set, documents, (uint32_t)c->vocab_size, &looked))
        say(aside, "%s: token %u is not among the first %llu tokens: is it what ends documents?", flag, documents->end,
            (unsigned long long)looked);
}

/* What a run reads: of rows that documents make, those. */
static void take_inventory(Inventory *v, const ShardSet *set, const Loader *loader, int64_t T) {
    const Rows *rows = loader_rows(loader);
    inventory_take(v, set, (size_t)T);
    v->windows = loader_windows_per_epoch(loader);
    if (!rows) return;
    v->short_shards = 0;
    v->short_tokens = rows->too_short, v->leftover_tokens = rows->cut_tokens;
}

static cJSON *report_train(const Config *c, const ReportedData *data) {
    const ShardSet *train = data->train;
    const ShardSet *val = data->validator ? &data->validator->set : NULL;
    const Rows *rows = loader_rows(data->loader);
    Inventory v;
    take_inventory(&v, train, data->loader, c->seq_len);
    const double rows_of_run = (double)c->total_batch_tokens * (double)c->steps / (double)c->seq_len;
    say_train(c, &v, rows, train->n_sources > 0, rows_of_run / (double)loader_windows_per_epoch(data->loader));
    cJSON *o = fields(&v);
    if (rows) add_rows(o, rows);
    if (train->n_sources) cJSON_AddItemToObject(o, "sources", report_sources(train, loader_order(data->loader), rows_of_run));
    say_unexpected("--train-data", train, &v, false);
    say_endless(c, "--train-data", train, data->loader, false);
    if (c->smoke) return o; /* one file for both */
    Overlap overlap;
    inventory_overlap(&overlap, train, val);
    say_overlap(train, val, &overlap);
    cJSON_AddNumberToObject(o, "shards_validated_on", (double)overlap.shared);
    return o;
}

static cJSON *report_val(const Config *c, const Validator *validator, bool aside) {
    char part[DIGITS_SIZE], all[DIGITS_SIZE];
    Inventory v;
    take_inventory(&v, &validator->set, validator->loader, c->seq_len);
    if (validator->batches < validator->all_batches)
        say(aside, "--val-data: a validation reads %lld of %lld batches (%s of %s windows of %lld); --val-batches says how many",
            (long long)validator->batches, (long long)validator->all_batches, digits((uint64_t)validator->windows, part),
            digits(v.windows, all), (long long)c->seq_len);
    const Rows *rows = loader_rows(validator->loader);
    if (rows && !aside) say_rows("--val-data", rows, c->seq_len, aside);
    else if (!rows) say_unused("--val-data", &v, c->seq_len, aside);
    say_unexpected("--val-data", &validator->set, &v, aside);
    say_endless(c, "--val-data", &validator->set, validator->loader, aside);
    cJSON *o = fields(&v);
    if (rows) add_rows(o, rows);
    cJSON_AddNumberToObject(o, "batches", (double)validator->batches);
    cJSON_AddNumberToObject(o, "batches_of", (double)validator->all_batches);
    return o;
}

cJSON *report_data(const Config *c, const ReportedData *data, bool aside) {
    cJSON *o = cJSON_CreateObject();
    if (data->train) cJSON_AddItemToObject(o, "train", report_train(c, data));
    if (data->validator) cJSON_AddItemToObject(o, "val", report_val(c, data->validator, aside));
    return o;
}
