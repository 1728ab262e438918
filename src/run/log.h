/*
 * log.h: what a run says: a progress line for people, metrics.jsonl for programs.
 *
 * On a terminal one line is rewritten in place, clipped to its width (progress.h); elsewhere every log_every-th step is a
 * line of its own. Both go to stdout. metrics.jsonl gets one JSON object a line, each in one write:
 *
 *   {"type":"train","step":…,"loss":…,"lr":…,"grad_norm":…,"tokens":…,"tokens_per_s":…,"flops":…,"mfu":…,"ms":…}
 *   {"type":"val","step":…,"loss":…,"tokens":…,"perplexity":…,"bits_per_byte":…,"bytes":…}     null, and 0, where bytes are not known
 *   {"type":"eval","step":…,"file":…,"items":…,"acc":…,"acc_stderr":…, …}     eval_items.h
 *   {"type":"stats","step":…,"layers":[…]}     telemetry.h
 *   {"type":"event","event":"start|resume|skip|checkpoint|diverged|end|…","step":…, …}     start: flags, and data (report.h);
 *                                                              resume: these, and what changes (resume.h);
 *                                                              end: what came of it (summary.h)
 *
 * `step` counts finished updates; losses are nats per token; mfu is null where the device's peak is not known.
 */
#ifndef LOG_H
#define LOG_H

#include "../settings/config.h"
#include "eval.h"

#include <cjson/cJSON.h>

typedef struct Log {
    int metrics;         /* file descriptor, −1: none */
    int64_t lines_lost;  /* of metrics, since the disk is full */
    bool terminal;       /* stdout is one, and can rewrite a line */
    bool line_open;      /* the progress line stands unfinished */
    int line_columns;    /* how long it is */
    bool mute;           /* stdout could not be written, which has been said: the run goes on */
    int64_t steps, log_every;
    double flops_per_token, peak_flops;
    double last_val;     /* NaN before the first */
    double ms_smooth;    /* recent milliseconds a step, for the ETA */
} Log;

typedef struct TrainRecord {
    int64_t step;   /* finished updates */
    double loss, lr, grad_norm, ms;
    int64_t tokens; /* of this step */
} TrainRecord;

/* Seconds of a clock that never goes back. */
double log_seconds(void);

/* Opens OUT/metrics.jsonl for appending where there is an --out, which checkpoint_claim() has made. */
void log_open(Log *log, const Config *config, double flops_per_token, double peak_flops);
void log_close(Log *log);

void log_train(Log *log, const TrainRecord *record);
void log_val(Log *log, int64_t step, const Validation *validation);

/* An event: takes over `object` (a cJSON object with the event's own fields, or NULL). */
void log_event(Log *log, const char *event, int64_t step, cJSON *object);

/* A whole object of its own type, as an evaluation's; copied. NULL log: nothing. */
void log_result(Log *log, const cJSON *object);

/* A line of telemetry: takes over `layers` (a cJSON array). */
void log_stats(Log *log, int64_t step, cJSON *layers);

/* A line for people, above the progress line; names in it come from outside, control characters become '?'. */
void log_print(Log *log, const char *format, ...) CHECK_PRINTF(2, 3);

#endif
