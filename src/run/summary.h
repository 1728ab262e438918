/*
 * summary.h: what came of a run, when it ends: how good it is, what it took, where its things are, what goes on with it.
 *
 * The loss, the best validation and the skipped steps are the run's own; tokens and time are this process's. A run that
 * goes on finds what was validated and skipped before in OUT/metrics.jsonl, where lines after the step that it goes on
 * from do not count.
 */
#ifndef SUMMARY_H
#define SUMMARY_H

#include "log.h"

#include <stddef.h>
#include <stdint.h>

/* One validation, or one skipped step. */
typedef struct SummaryNote {
    int64_t step;
    double loss; /* of the validation */
    bool skip;
} SummaryNote;

typedef struct Summary {
    SummaryNote *notes; /* in the order of their steps */
    size_t count, room;
    int64_t first_step; /* finished updates when this process took the run up */
    int64_t tokens;     /* of its steps */
    double seconds;     /* that they took */
    double last_loss;   /* NaN before the first step */
} Summary;

/* A run that begins at `step`; with one that goes on in its own directory, `metrics` is the path of its metrics.jsonl,
 * else NULL. A file that cannot be read, and lines that are none, are as if they were not there. other_val_data: the
 * losses validated before are of other data than those to come, and are left out. */
void summary_begin(Summary *summary, int64_t step, const char *metrics, bool other_val_data);
void summary_free(Summary *summary);

void summary_step(Summary *summary, const TrainRecord *record, bool skipped);
void summary_val(Summary *summary, int64_t step, double loss);

/* The step of the best validation and its loss; −1 without one. */
int64_t summary_best(const Summary *summary, double *loss);

/* What the end is told with. */
typedef struct SummaryEnd {
    const Config *config;
    const char *program;    /* argv[0], for the commands */
    const char *reason;     /* why the run ends; NULL: all steps are done */
    const char *checkpoint; /* the last one; NULL: none */
    int64_t step;           /* finished updates */
    double seconds;         /* since the process began */
    bool bytes;             /* it is a model of bytes, whose prompts need no tokenizer */
} SummaryEnd;

/* Fields for the `end` event. */
void summary_event(const Summary *summary, const SummaryEnd *end, cJSON *event);

/* The lines for people. They keep to 80 columns but where a path is longer. */
void summary_print(const Summary *summary, const SummaryEnd *end, Log *log);

#endif
