/*
 * implementations.h: which implementations of the contract this build holds, and what a test must know of
 * each.
 *
 * An implementation is one row. The suite runs every operation of it, holds the results to a plain version in
 * the same number model, and skips (never passes) an operation that is NULL.
 */
#ifndef IMPLEMENTATIONS_H
#define IMPLEMENTATIONS_H

#include "../kernels/kernels.h"

typedef struct Implementation {
    const Kernels *kernels;
    const Kernels *plain; /* plainest loops, same storage and accumulate types */
    bool slow;            /* emulated: few draws of each case */
    bool sampled;         /* some of the cases will do */
    bool host_memory;     /* device memory is host memory, so that a sanitizer can watch guard zones */
    bool openmp;          /* the number of OpenMP threads may change nothing (except in library GEMMs) */
    bool any_head_size;   /* false: head sizes are multiples of 8 */
    bool by_name_only;    /* runs only when asked for by name (the plain versions themselves) */
} Implementation;

extern const Implementation implementations[];
extern const int n_implementations;

/* The plain versions (ops_plain*.c). plain/long computes in long double and stores fp64: the truth for fp64.
 */
extern const Kernels kernels_plain_f32;
extern const Kernels kernels_plain_f64;
extern const Kernels kernels_plain_bf16;
extern const Kernels kernels_plain_long;

#endif
