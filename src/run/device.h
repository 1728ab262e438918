/*
 * device.h: which implementation of the contract a run uses.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include "../../kernels/kernels.h"
#include "../ranks/neighbours.h"
#include "../settings/config.h"

/* The implementation for --device and --dtype, opened; auto values in *config are replaced by what was chosen, and
 * config->threads by the number that threads_settle() gives.
 * Of several GPUs it is that of config->local_rank; more ranks on the machine than GPUs are refused.
 * Exit 2 where the pair does not exist, the build does not hold it, or --device cuda cannot be served;
 * --device auto then falls back to the CPU. */
const Kernels *device_open(Config *config);

/* Before device_open(), with flags that lie over a checkpoint's config.ini: its number of threads is wanted where its bits
 * are, in training, and if this machine has as many CPUs; device_open() then says so where the number would have been
 * another. Else it is this machine's own, unless the command line says. */
void device_inherit_threads(Config *config, int argc, char **argv);

/* When the ranks know of each other: where nobody has asked for a number of threads, a rank has no more than its share of the
 * machine's CPUs and of a quota of its container; who has asked for more hears of it once a machine. */
void device_share_cpus(Config *config, const Neighbours *neighbours);

/* What --version says of types: which there are on this machine's CPU, and which is taken. */
void device_print_types(void);

/* A line that says why --device auto took the CPU in a build that could use a GPU; NULL if it did not. */
const char *device_notice(void);

#endif
