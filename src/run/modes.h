/*
 * modes.h: what one can do with a model beside training it. Each prints its result on stdout, and on stderr what else is to be
 * said; each needs weights, --resume or --init-from, but --probe, which may begin with new ones.
 */
#ifndef MODES_H
#define MODES_H

#include "run.h"

/* --dry-run: the plan of the run. */
void modes_plan(const Run *run);

/* --eval-only: the loss over --val-data. Exit 3 where it is no finite number. */
void modes_evaluate(Run *run);

/* --eval: questions of files. Their results also go to the metrics of an --out that the command line names. */
void modes_ask(Run *run);

/* --generate, --generate-tokens, --generate-file. Exit 3 where the model has no finite logits. */
void modes_generate(Run *run);

/* --probe: one batch, forward and backward. */
void modes_probe(Run *run);

#endif
