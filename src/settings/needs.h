/*
 * needs.h: which flags are without effect, or lose what they promise, unless another one stands beside them.
 *
 * Only the command line is held to this: a preset, a config file or a checkpoint sets flags for more than one run. (Of
 * a sweep's flags, which it gives to every variant, a line says that they do nothing; none is refused.)
 */
#ifndef NEEDS_H
#define NEEDS_H

#include "config.h"

/* Exit 2 where a flag asks for something that could then not be kept or done: --save-every without --out. The config is
 * resolved. */
void needs_check(const Config *config, int argc, char **argv);

/* Calls say() with a line for each flag that has a value of its own and no effect: --gpas-init without --gpas. The
 * device and its type are known. */
void needs_report(const Config *config, int argc, char **argv, void (*say)(void *context, const char *line),
                  void *context);

#endif
