/*
 * start.h: what a run is asked to be: by its command line, by what it goes on from, and by who started it.
 */
#ifndef START_H
#define START_H

#include "../../kernels/kernels.h"
#include "../checkpoint/checkpoint.h"
#include "../checkpoint/init_from.h"
#include "../ranks/launcher.h"
#include "../settings/config.h"

typedef struct Start {
    int argc;
    char **argv;
    Config config;                     /* resolved */
    Ranks ranks;
    char resume_from[CHECKPOINT_PATH]; /* a checkpoint's directory; "" for a fresh start */
    InitFrom init_from;                /* of a fresh start with --init-from */
    Config theirs;                     /* the flags of the run that is gone on with */
} Start;

/* Answers what asks for no run (--help), finds out the rest. Exits 2 on what cannot be. On all ranks but the first stdout
 * is gone afterwards. */
void start_read(Start *start, int argc, char **argv);

/* Opens what the ranks talk by, on the device that is open; waits for all of them. Exit 2 where they cannot, and where one has
 * another version of the program or other flags than rank 0, which are named: they would train something that nobody asked
 * for. *step is the number of finished steps, whenever a rank has to say where it waits. Nothing for one rank. */
void start_join(const Start *start, const Kernels *k, const int64_t *step);

/* The same of the step that they go on from, and of their data (fingerprints). */
void start_compare(const Start *start, const Kernels *k, int64_t step, const char *train_print, const char *val_print);

#endif
