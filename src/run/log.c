/* log.c: see log.h. */
#define _GNU_SOURCE
#include "log.h"
#include "../base/directory.h"
#include "../base/file.h"
#include "../base/output.h"
#include "../base/printable.h"
#include "progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

double log_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* What a kill has left of a line goes: else the next one would be spoiled by it. */
static void drop_torn_line(int file) {
    char piece[4096];
    off_t end = lseek(file, 0, SEEK_END), at = end;
    while (at > 0) {
        size_t size = at < (off_t)sizeof piece ? (size_t)at : sizeof piece;
        if (file_read(file, piece, size, (uint64_t)at - size) != (ssize_t)size) return;
        const char *newline = memrchr(piece, '\n', size);
        at -= newline ? (off_t)(piece + size - 1 - newline) : (off_t)size;
        if (newline) break;
    }
    if (at < end && ftruncate(file, at)) return; /* who refuses that refuses the next line too, which is said */
}

/* No link is followed and no pipe waited for: the directory may be anybody's. */
static int open_metrics(const char *out) {
    char path[PATH_SIZE];
    struct stat status;
    Error error = {0};
    check(path_join(path, out, "metrics.jsonl", &error), "%s", error.text);
    int file = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    check(file >= 0, "%s: %s", path,
          errno == ELOOP ? "a symbolic link; none in a run's directory is followed" : strerror(errno));
    check(fstat(file, &status) == 0 && S_ISREG(status.st_mode), "%s: not a regular file", path);
    drop_torn_line(file);
    return file;
}

void log_open(Log *log, const Config *config, double flops_per_token, double peak_flops) {
    *log = (Log){.metrics = -1,
                 .terminal = terminal_rewrites(),
                 .steps = config->steps,
                 .log_every = config->log_every,
                 .flops_per_token = flops_per_token,
                 .peak_flops = peak_flops,
                 .last_val = NAN};
    if (!config->out || config->rank) return;
    log->metrics = open_metrics(config->out);
}

/* A terminal that was closed, or a full disk under a redirection, costs lines and not the run, where its results are in
 * --out. (Without one the program ends it: nobody would ever know of it.) */
static void flush(Log *log) {
    Error error;
    if (output_flush(&error) || log->mute) return;
    log->mute = true;
    if (log->metrics >= 0) warn("%s; the run goes on, its progress is in metrics.jsonl", error.text);
}

static void end_line(Log *log) {
    if (log->line_open) printf("\n");
    log->line_open = false;
    flush(log);
}

void log_close(Log *log) {
    end_line(log);
    if (log->metrics >= 0) close(log->metrics);
    log->metrics = -1;
}

/* One write a line; of a line that did not fit on the disk, nothing stays. */
static bool write_line(int file, const char *line, size_t length) {
    off_t end = lseek(file, 0, SEEK_END);
    ssize_t written = write(file, line, length);
    if (written == (ssize_t)length) return true;
    if (written >= 0) errno = ENOSPC; /* what a short write means */
    int reason = errno;
    if (written > 0 && ftruncate(file, end)) reason = errno;
    errno = reason;
    return false;
}

/* Writes and frees the object. A full disk costs lines, not the run: it is said when it begins and when it ends. */
static void write_object(Log *log, cJSON *object) {
    char *text = log->metrics >= 0 ? cJSON_PrintUnformatted(object) : NULL;
    if (text) {
        size_t length = strlen(text);
        text[length] = '\n'; /* in the place of the terminating zero */
        bool good = write_line(log->metrics, text, length + 1);
        if (!good && !log->lines_lost) warn("metrics.jsonl: %s; the run goes on, its lines are lost", strerror(errno));
        if (good && log->lines_lost) warn("metrics.jsonl: written again; %lld lines were lost", (long long)log->lines_lost);
        log->lines_lost = good ? 0 : log->lines_lost + 1;
        cJSON_free(text);
    }
    cJSON_Delete(object);
}

static cJSON *object_of(const char *type, int64_t step) {
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "type", type);
    cJSON_AddNumberToObject(object, "step", (double)step);
    return object;
}

static void write_train(Log *log, const TrainRecord *r, double tokens_per_s, double flops) {
    cJSON *object = object_of("train", r->step);
    cJSON_AddNumberToObject(object, "loss", r->loss);
    cJSON_AddNumberToObject(object, "lr", r->lr);
    cJSON_AddNumberToObject(object, "grad_norm", r->grad_norm);
    cJSON_AddNumberToObject(object, "tokens", (double)r->tokens);
    cJSON_AddNumberToObject(object, "tokens_per_s", tokens_per_s);
    cJSON_AddNumberToObject(object, "flops", flops);
    if (log->peak_flops > 0) cJSON_AddNumberToObject(object, "mfu", flops / log->peak_flops);
    else cJSON_AddNullToObject(object, "mfu");
    cJSON_AddNumberToObject(object, "ms", r->ms);
    write_object(log, object);
}

/* To the beginning of the progress line, to write over it. One that no longer fits into a row, as the terminal has become
 * narrower, stays: where its rows are by now is the terminal's affair. */
static void return_to_line(const Log *log, int columns) {
    bool wraps = log->line_open && log->line_columns >= columns;
    putchar(wraps ? '\n' : '\r');
}

static void print_progress(Log *log, const ProgressStep *s) {
    char text[PROGRESS_SIZE];
    if (!log->terminal) {
        progress_whole(s, text);
        puts(text);
        return;
    }
    int columns = terminal_columns(); /* asked at each line: it may have changed */
    progress_fit(s, columns, text);
    return_to_line(log, columns);
    printf("%s\033[K", text);
    log->line_columns = (int)strlen(text);
    log->line_open = true;
}

void log_train(Log *log, const TrainRecord *r) {
    double seconds = r->ms * 1e-3; /* a clock that stands or goes back gives no rate: null in JSON */
    double tokens_per_s = seconds > 0 ? (double)r->tokens / seconds : NAN;
    double flops = tokens_per_s * log->flops_per_token;
    write_train(log, r, tokens_per_s, flops);
    log->ms_smooth = log->ms_smooth > 0 ? 0.9 * log->ms_smooth + 0.1 * r->ms : r->ms;
    bool due = r->step % log->log_every == 0 || r->step == 1 || r->step == log->steps;
    if (!log->terminal && !due) return;
    print_progress(log, &(ProgressStep){.step = r->step,
                                        .steps = log->steps,
                                        .loss = r->loss,
                                        .val = log->last_val,
                                        .lr = r->lr,
                                        .grad_norm = r->grad_norm,
                                        .ms = r->ms,
                                        .tokens_per_s = tokens_per_s,
                                        .flops = flops,
                                        .peak_flops = log->peak_flops,
                                        .seconds_left = (double)(log->steps - r->step) * log->ms_smooth * 1e-3});
    flush(log);
}

void log_val(Log *log, int64_t step, const Validation *v) {
    const double perplexity = validation_perplexity(v), bits = validation_bits_per_byte(v);
    char rate[48] = "";
    cJSON *object = object_of("val", step);
    cJSON_AddNumberToObject(object, "loss", v->loss);
    cJSON_AddNumberToObject(object, "tokens", (double)v->tokens);
    cJSON_AddNumberToObject(object, "perplexity", perplexity);
    cJSON_AddNumberToObject(object, "bits_per_byte", bits);
    cJSON_AddNumberToObject(object, "bytes", v->bytes);
    write_object(log, object);
    log->last_val = v->loss;
    if (v->bytes > 0) snprintf(rate, sizeof rate, ", %.4f bits/byte", bits);
    log_print(log, "step %lld/%lld  val loss %.4f over %lld tokens: perplexity %.4g%s", (long long)step, (long long)log->steps,
              v->loss, (long long)v->tokens, perplexity, rate);
}

void log_stats(Log *log, int64_t step, cJSON *layers) {
    cJSON *object = object_of("stats", step);
    cJSON_AddItemToObject(object, "layers", layers);
    write_object(log, object);
}

void log_result(Log *log, const cJSON *object) {
    if (log) write_object(log, cJSON_Duplicate(object, true));
}

void log_event(Log *log, const char *event, int64_t step, cJSON *extra) {
    cJSON *object = object_of("event", step);
    cJSON_AddStringToObject(object, "event", event);
    while (extra && extra->child) {
        cJSON *item = cJSON_DetachItemViaPointer(extra, extra->child);
        cJSON_AddItemToObject(object, item->string, item);
    }
    cJSON_Delete(extra);
    write_object(log, object);
}

void log_print(Log *log, const char *format, ...) {
    if (log->line_open) return_to_line(log, terminal_columns()), printf("\033[K");
    log->line_open = false;
    char line[2 * PATH_SIZE];
    va_list args;
    va_start(args, format);
    printable_message(line, sizeof line, format, args);
    va_end(args);
    puts(line);
    flush(log);
}
