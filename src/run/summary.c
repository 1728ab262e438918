/* summary.c: see summary.h. */
#include "summary.h"
#include "../base/directory.h"
#include "../base/json.h"
#include "../checkpoint/checkpoint.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------
 * What was noted
 * ---------------------------------------------------------------------------------------------------- */

/* What stands there from `step` on was of a way that the run has left. */
static void forget_from(Summary *s, int64_t step) {
    while (s->count && s->notes[s->count - 1].step >= step) s->count--;
}

static void forget_validations(Summary *s) {
    size_t kept = 0;
    for (size_t i = 0; i < s->count; i++)
        if (s->notes[i].skip) s->notes[kept++] = s->notes[i];
    s->count = kept;
}

static void note(Summary *s, SummaryNote what) {
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 64;
        s->notes = realloc(s->notes, s->room * sizeof *s->notes);
        require(s->notes, "out of memory for %zu validations and skipped steps", s->room);
    }
    s->notes[s->count++] = what;
}

static bool is_event(const cJSON *line, const char *name) {
    const cJSON *event = cJSON_GetObjectItemCaseSensitive(line, "event");
    return cJSON_IsString(event) && strcmp(event->valuestring, name) == 0;
}

static void recall_line(Summary *s, const char *text) {
    static const char VAL[] = "{\"type\":\"val\"", EVENT[] = "{\"type\":\"event\"";
    bool val = strncmp(text, VAL, sizeof VAL - 1) == 0, event = strncmp(text, EVENT, sizeof EVENT - 1) == 0;
    if (!val && !event) return;
    Error error;
    int64_t step;
    cJSON *line = json_parse(text, strlen(text), &error);
    if (line && json_integer(line, "step", 0, INT64_MAX / 1024, &step, &error)) {
        const cJSON *loss = cJSON_GetObjectItemCaseSensitive(line, "loss");
        if (val && cJSON_IsNumber(loss)) note(s, (SummaryNote){.step = step, .loss = loss->valuedouble});
        if (event && is_event(line, "skip")) note(s, (SummaryNote){.step = step, .skip = true});
        if (event && is_event(line, "start")) s->count = 0;
        if (event && is_event(line, "resume")) {
            forget_from(s, step + 1);
            if (cJSON_GetObjectItemCaseSensitive(line, "val_data")) forget_validations(s);
        }
    }
    cJSON_Delete(line);
}

/* The file may be anybody's, and gigabytes: a line at a time, and what is longer than any of these is none of them. */
static void recall(Summary *s, const char *path) {
    enum { LINE_SIZE = 1 << 16 };
    Error error;
    uint64_t size;
    int fd = inner_file_open(path, &size, &error);
    FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
    if (!file) {
        if (fd >= 0) close(fd);
        return;
    }
    char line[LINE_SIZE];
    for (bool begins = true; fgets(line, sizeof line, file);) {
        char *end = strchr(line, '\n');
        if (begins && end) recall_line(s, line);
        begins = end != NULL;
    }
    fclose(file);
}

void summary_begin(Summary *s, int64_t step, const char *metrics, bool other_val_data) {
    *s = (Summary){.first_step = step, .last_loss = NAN};
    if (metrics) recall(s, metrics);
    forget_from(s, step + 1);
    if (other_val_data) forget_validations(s);
}

void summary_free(Summary *s) { free(s->notes); }

void summary_step(Summary *s, const TrainRecord *record, bool skipped) {
    s->last_loss = record->loss;
    s->tokens += record->tokens;
    s->seconds += record->ms * 1e-3;
    if (skipped) note(s, (SummaryNote){.step = record->step, .skip = true});
}

void summary_val(Summary *s, int64_t step, double loss) { note(s, (SummaryNote){.step = step, .loss = loss}); }

int64_t summary_best(const Summary *s, double *loss) {
    int64_t step = -1;
    for (size_t i = 0; i < s->count; i++) {
        if (s->notes[i].skip || !isfinite(s->notes[i].loss) || (step >= 0 && s->notes[i].loss > *loss)) continue;
        *loss = s->notes[i].loss;
        step = s->notes[i].step;
    }
    return step;
}

static int64_t skips(const Summary *s) {
    int64_t count = 0;
    for (size_t i = 0; i < s->count; i++) count += s->notes[i].skip;
    return count;
}

/* ------------------------------------------------------------------------------------------------------
 * Telling
 * ---------------------------------------------------------------------------------------------------- */

/* The checkpoint of a step, if it is there still. */
static bool kept(const Config *c, int64_t step, char path[PATH_SIZE]) {
    char name[64];
    Error error;
    if (!c->out || step < 0) return false;
    checkpoint_name(name, step);
    return path_join(path, c->out, name, &error) && checkpoint_is_complete(path, step, false, &error);
}

static double tokens_per_s(const Summary *s) { return s->seconds > 0 ? (double)s->tokens / s->seconds : NAN; }

void summary_event(const Summary *s, const SummaryEnd *end, cJSON *event) {
    char path[PATH_SIZE];
    double best = NAN;
    int64_t at = summary_best(s, &best);
    if (at >= 0) {
        cJSON_AddNumberToObject(event, "best_val", best);
        cJSON_AddNumberToObject(event, "best_val_step", (double)at);
        if (kept(end->config, at, path)) cJSON_AddStringToObject(event, "best_checkpoint", path);
    }
    if (end->checkpoint) cJSON_AddStringToObject(event, "checkpoint", end->checkpoint);
    const struct {
        const char *name;
        double value;
    } rows[] = {
        {"loss", s->last_loss},         {"from_step", (double)s->first_step}, {"tokens", (double)s->tokens},
        {"seconds", end->seconds},      {"tokens_per_s", tokens_per_s(s)},    {"skipped", (double)skips(s)},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) cJSON_AddNumberToObject(event, rows[i].name, rows[i].value);
}

enum { AMOUNT_SIZE = 48 };

/* 8191999 as "8.19 M". */
static const char *amount(double number, char text[AMOUNT_SIZE]) {
    static const char *const UNITS[] = {"", " k", " M", " G", " T"};
    size_t unit = 0;
    while (number >= 999.5 && unit + 1 < sizeof UNITS / sizeof *UNITS) number /= 1000, unit++;
    const int digits = unit == 0 || number >= 99.95 ? 0 : number >= 9.995 ? 1 : 2;
    snprintf(text, AMOUNT_SIZE, "%.*f%s", digits, number, UNITS[unit]);
    return text;
}

/* 192.3 as "3 min 12 s". */
static const char *duration(double seconds, char text[AMOUNT_SIZE]) {
    const long long all = seconds > 0 && seconds < 1e12 ? (long long)(seconds + 0.5) : 0;
    if (all < 60) snprintf(text, AMOUNT_SIZE, "%.3g s", seconds);
    else if (all < 3600) snprintf(text, AMOUNT_SIZE, "%lld min %lld s", all / 60, all % 60);
    else snprintf(text, AMOUNT_SIZE, "%lld h %lld min", all / 3600, all % 3600 / 60);
    return text;
}

enum { QUOTED_SIZE = 4 * PATH_SIZE + 3 };

/* A word as a shell reads it. */
static const char *quoted(const char *word, char text[QUOTED_SIZE]) {
    size_t to = 0;
    bool plain = word[0] != '\0';
    for (const char *at = word; *at; at++) plain = plain && (isalnum((unsigned char)*at) || strchr("_./:=+,@%-", *at));
    if (!plain) text[to++] = '\'';
    for (const char *at = word; *at && to + 6 < QUOTED_SIZE; at++) {
        if (*at == '\'') memcpy(text + to, "'\\''", 4), to += 4;
        else text[to++] = *at;
    }
    if (!plain) text[to++] = '\'';
    text[to] = '\0';
    return text;
}

static void print_where(const SummaryEnd *end, int64_t best, Log *log) {
    char path[PATH_SIZE];
    if (!end->config->out) {
        log_print(log, "  kept: nothing (no --out)");
        return;
    }
    if (end->checkpoint) log_print(log, "  last checkpoint: %s", end->checkpoint);
    if (best < 0 || best == end->step) return;
    if (kept(end->config, best, path)) log_print(log, "  best checkpoint: %s", path);
    else log_print(log, "  no checkpoint of step %lld is there (--save-every, --keep)", (long long)best);
}

/* Whether text can be given to the model: it takes bytes, or its checkpoint carries a tokenizer. */
static bool takes_text(const SummaryEnd *end) {
    char path[PATH_SIZE];
    Error error;
    if (end->bytes) return true;
    return end->checkpoint && path_join(path, end->checkpoint, "tokenizer.json", &error) && access(path, R_OK) == 0;
}

static void print_next(const SummaryEnd *end, Log *log) {
    static char out[QUOTED_SIZE], program[QUOTED_SIZE];
    const Config *c = end->config;
    const bool over = end->step >= c->steps, talks = over && takes_text(end);
    if (!c->out) return;
    quoted(c->out, out);
    quoted(end->program, program);
    if (!over && c->ranks > 1) log_print(log, "  next: started as it was, with --resume auto, it goes on");
    else if (!over) log_print(log, "  next: %s --resume %s", program, out);
    else if (talks && end->bytes) log_print(log, "  next: %s --resume %s --generate 'The '", program, out);
    else if (talks) log_print(log, "  next: scripts/generate.py %s 'The '", out);
    log_print(log, "  %s scripts/plot.py %s", over && !talks ? "next:" : "     ", out);
}

void summary_print(const Summary *s, const SummaryEnd *end, Log *log) {
    const Config *c = end->config;
    char tokens[AMOUNT_SIZE], rate[AMOUNT_SIZE], time[AMOUNT_SIZE], last[AMOUNT_SIZE];
    char since[AMOUNT_SIZE] = "", skipped[AMOUNT_SIZE] = "";
    double best = NAN;
    int64_t at = summary_best(s, &best), all_skips = skips(s);
    const char *how = end->reason ? "stopped" : "done", *why = end->reason ? end->reason : "all steps done";
    log_print(log, "%s: step %lld of %lld, %s", how, (long long)end->step, (long long)c->steps, why);
    if (s->tokens) snprintf(last, sizeof last, "loss %.4f", s->last_loss);
    else snprintf(last, sizeof last, "no step was left to do");
    if (at >= 0) log_print(log, "  %s; best validation %.4f, at step %lld", last, best, (long long)at);
    else log_print(log, "  %s; no validation", last);
    if (s->first_step) snprintf(since, sizeof since, " since step %lld", (long long)s->first_step);
    if (all_skips) snprintf(skipped, sizeof skipped, "; skipped steps: %lld", (long long)all_skips);
    if (s->tokens)
        log_print(log, "  %s tokens in %s%s, %s tokens/s%s", amount((double)s->tokens, tokens), duration(end->seconds, time),
                  since, isfinite(tokens_per_s(s)) ? amount(tokens_per_s(s), rate) : "?", skipped);
    print_where(end, at, log);
    print_next(end, log);
}
