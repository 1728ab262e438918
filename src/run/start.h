/*
 * start.h: what a run is asked to be: by its command line, by what it goes on from, and by who started it.
 */
#ifndef START_H
#define START_H

#include "../../kernels/kernels.h"
#include "../checkpoint/checkpoint.h"
#include "../checkpoint/init_from.h"
#include "../ranks/neighbours.h"
#include "../settings/config.h"

typedef struct Start {
    int argc;
    char **argv;
    Config config;                     /* resolved */
    Ranks ranks;
    Neighbours neighbours;             /* after start_join() */
    char resume_from[CHECKPOINT_PATH]; /* a checkpoint's directory; "" for a fresh start */
    InitFrom init_from;                /* of a fresh start with --init-from */
    Config theirs;                     /* the flags of the run that is gone on with */
} Start;

/* Answers what asks for no run (--help), finds out the rest. Exits 2 on what cannot be. On all ranks but the first stdout
 * is gone afterwards. */
void start_read(Start *start, int argc, char **argv);

/* Opens what the ranks talk by, on the device that is open; waits for all of them; shares out the machine's CPUs. Exit 2 where
 * they cannot, and where one has another version of the program, another checkpoint or other flags than rank 0, which are named:
 * they would train something that nobody asked for. Of a checkpoint each rank then reads a part of what start_read() has left
 * unread; where that is damaged, all go back to the one before. *step is the number of finished steps, whenever a rank has to say
 * where it waits. Nothing for one rank. */
void start_join(Start *start, const Kernels *k, const int64_t *step);

/* The same of their data (fingerprints). */
void start_compare(const Start *start, const Kernels *k, const char *train_print, const char *val_print);

#endif
