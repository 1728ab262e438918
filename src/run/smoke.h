/*
 * smoke.h: `--smoke`, a whole training run of a few seconds that needs no data: for CI on any machine.
 *
 * The data are a shard of a repeating, slightly noisy sequence of bytes, made in $TMPDIR: a model that learns at
 * all halves its loss in 30 steps.
 */
#ifndef SMOKE_H
#define SMOKE_H

#include "../settings/config.h"

/* Writes the shard and points the config at it; shape, steps and data are set, the rest is the user's. Exit 2 where the
 * command line gives one of those that are set. */
void smoke_prepare(Config *config, int argc, char **argv);

/* Removes the shard; exit 1 unless the loss fell as it must. */
void smoke_finish(const Config *config, double first_loss, double last_loss);

#endif
