/*
 * eval_out.h: what did a model answer, item by item? --eval-out FILE, JSON lines, in the order of the files and their
 * rows:
 *
 *     {"file":"hellaswag.jsonl","row":1,"answer":2,"acc":2,"acc_norm":0,"loglikelihoods":[-31.5,…]}   the choices taken
 *     {"file":"lambada.jsonl","row":1,"greedy":true,"loglikelihoods":[-1.25]}
 *     {"type":"eval",…}                              behind a file's items: its result, as in metrics.jsonl
 *
 * FILE appears when all of it is there; until then it is FILE.partial.
 */
#ifndef EVAL_OUT_H
#define EVAL_OUT_H

#include "likelihood.h"

#include <cjson/cJSON.h>

typedef struct EvalOut EvalOut;

/* Exit 2 where nothing can be written there. NULL for a NULL path; all below take NULL and do nothing. */
EvalOut *eval_out_open(const char *path);

/* picks: the choice taken by likelihood, by likelihood a character, a byte; −1: not known. */
void eval_out_item(EvalOut *out, const char *file, const Answer *answer, const int picks[3]);
void eval_out_result(EvalOut *out, const cJSON *result);

/* Under its own name, and durable. Exit 1 where something of it could not be written. */
void eval_out_finish(EvalOut *out);
/* Leaves nothing. */
void eval_out_drop(EvalOut *out);

#endif
