/*
 * device.h: which implementation of the contract a run uses.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include "../../kernels/kernels.h"
#include "../settings/config.h"

/* The implementation for --device and --dtype, opened; auto values in *config are replaced by what was chosen.
 * Exit 2 where the pair does not exist, the build does not hold it, or --device cuda cannot be served;
 * --device auto then falls back to the CPU. */
const Kernels *device_open(Config *config);

/* A line that says why --device auto took the CPU in a build that could use a GPU; NULL if it did not. */
const char *device_notice(void);

#endif
