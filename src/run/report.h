/*
 * report.h: what a run is, in words: parameters, memory, work.
 */
#ifndef REPORT_H
#define REPORT_H

#include "../model/model.h"
#include "eval.h"

#include <cjson/cJSON.h>

/* One line each on the model, the batch and the device, to stdout; and one where bf16 has no room for what a sublayer adds. */
void report_run(const Config *config, const Model *model);

/* The data of a run; train, with its loader, or validator may be NULL. */
typedef struct ReportedData {
    const ShardSet *train;
    const Loader *loader;
    const Validator *validator;
} ReportedData;

/* What the run will use of its data and what not, and what should not be among them.
 * To stdout, or, where that holds a mode's result, to stderr and then only what is unexpected. Returns the same as
 * numbers, for the start event; the caller cJSON_Delete()s or passes it on. */
cJSON *report_data(const Config *config, const ReportedData *data, bool aside);

/* --dry-run: the table of memory, nothing taken. Own arenas are exact; what the process needs besides them
 * (libraries, GEMM packing, buffers of data and files) is an estimate, and is called one. */
void report_plan(const Config *config, const Kernels *k);

#endif
