/*
 * smoke.h: `--smoke`, a whole training run of a few seconds that needs no data: for CI on any machine.
 *
 * The data are a shard of a repeating, slightly noisy sequence of bytes, made in $TMPDIR: a model that learns at
 * all halves its loss in 30 steps.
 */
#ifndef SMOKE_H
#define SMOKE_H

#include "../settings/config.h"

/* Exit 2 where the command line asks for --smoke and for what that would not do: another shape, other data, a start. */
void smoke_check(int argc, char **argv);

/* Writes the shard and points the config at it; shape, steps and data are set, the rest is the user's. */
void smoke_prepare(Config *config);

/* Removes the shard; exit 1 unless the loss fell as it must. */
void smoke_finish(const Config *config, double first_loss, double last_loss);

#endif
