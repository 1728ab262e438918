/*
 * resume.h: does a run that goes on go on as the run that it was?
 *
 * What differs is said in one line, and stands in the `resume` event of metrics.jsonl: flags (changes.h), what they do
 * to the learning rate, data (fingerprint.h). What can hardly have been meant, other data to train on at the same
 * position and another seed, is refused unless --allow-change says that it was. Validation data are only said: they
 * change no weight, and their losses begin to mean something else.
 */
#ifndef RESUME_H
#define RESUME_H

#include "../checkpoint/checkpoint.h"
#include "../data/shard.h"

#include <cjson/cJSON.h>

typedef struct Resume {
    const char *from;            /* the checkpoint */
    const Config *theirs, *ours; /* config_follow() has seen both */
    const Progress *then, *now;
    const ShardSet *train_set, *val_set; /* what now's fingerprints were taken from; NULL: no validation */
} Resume;

/* Adds "changes" {flag: [from, to]}, "train_data" and "val_data" (what differs) to the event where there are any. Returns
 * the line, for the caller to free, or NULL if nothing has changed. Exits 2 for what was not consented to, or a fingerprint that is none. */
char *resume_compare(const Resume *resume, cJSON *event);

#endif
