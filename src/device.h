/*
 * device.h: which implementation of the contract a run uses.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include "../kernels/kernels.h"
#include "config.h"

/* The implementation for --device and --dtype, opened; auto values in *config are replaced by what was chosen.
 * Exit 2 where the pair does not exist or the build does not hold it, exit 1 where the device cannot serve;
 * --device auto falls back to the CPU, and says why if there is a GPU that it cannot use. */
const Kernels *device_open(Config *config);

#endif
