/*
 * checkpoint.h: a run's state on disk, and going on from it.
 *
 * OUT/step_00000100/
 *   model.safetensors              masters, under Hugging Face's names
 *   config.json                    the model's shape, in Hugging Face's words
 *   optimizer-0-of-1.safetensors   AdamW's moments: m.NAME, v.NAME
 *   config.ini                     every flag, as --config reads it
 *   state.json                     step, updates, skip window, threads, variant, version; written last
 *
 * It is written as OUT/.step_00000100.partial, each file fsynced, then renamed, and the parent fsynced; older
 * ones beyond --keep go after that.
 */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "optim.h"

enum { CHECKPOINT_PATH = 4096 };

/* Finds the checkpoint that --resume names: "auto" is the newest complete one in `out` (none: false, with an
 * empty error), a run's directory the newest complete one in it, a checkpoint's directory itself. */
bool checkpoint_find(const char *resume, const char *out, char path[CHECKPOINT_PATH], Error *error);

/* Saves after `step` updates into config->out; path is filled in. A checkpoint of that step that is already
 * there is kept. On failure nothing is left behind but what was there before. */
bool checkpoint_save(const Config *config, const Model *model, Optimizer *optimizer, int64_t step,
                     char path[CHECKPOINT_PATH], Error *error);

/* Loads weights, and with an optimizer its moments and state; *step is set. Refuses another variant or shape,
 * naming what differs. Says on stderr where the thread count differs, for then the bits will. */
bool checkpoint_load(const char *path, const Config *config, Model *model, Optimizer *optimizer, int64_t *step,
                     Error *error);

#endif
