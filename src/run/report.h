/*
 * report.h: what a run is, in words: parameters, memory, work.
 */
#ifndef REPORT_H
#define REPORT_H

#include "../model/model.h"

/* One line each on the model, the batch and the device, to stdout. */
void report_run(const Config *config, const Model *model);

/* --dry-run: the table of memory, nothing taken. Own arenas are exact; what the process needs besides them
 * (libraries, GEMM packing, buffers of data and files) is an estimate, and is called one. */
void report_plan(const Config *config, const Kernels *k);

#endif
