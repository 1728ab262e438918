/*
 * run.h: one run of the program, and what every thing that one can do with it begins with: weights, data, validation.
 *
 * train_gpt.cu trains it; modes.h holds the rest. What cannot be had ends the program, with one line, as everywhere where
 * nothing has begun yet: 2 for what a flag or a file has caused, 1 for the machine.
 */
#ifndef RUN_H
#define RUN_H

#include "../checkpoint/checkpoint.h"
#include "../data/feed.h"
#include "../data/loader.h"
#include "../model/optim.h"
#include "../model/step.h"
#include "eval.h"
#include "generate.h"
#include "log.h"
#include "start.h"
#include "summary.h"
#include "sync.h"
#include "telemetry.h"
#include "tokenizer.h"
#include "waiting.h"

/* A step that is in the device's queue, and whose outcome the host has not read yet. */
typedef struct Flight {
    bool there;
    double begun, lr;
    int64_t targets; /* that its loss is divided by */
    int report; /* for optimizer_await() */
} Flight;

typedef struct Run {
    Start start;
    const Kernels *k;
    Model model;
    Optimizer optimizer;
    ShardSet train_set;
    Loader *loader;
    Feed feed;
    Step stepper;
    bool validates;
    Validator validator;
    Tokenizer tokenizer;
    Telemetry *telemetry; /* NULL without --stats-every */
    Sync sync;
    TokenBytes table; /* of samples on the way */
    Log log;
    Summary summary;
    Waiting waiting;
    int64_t step;       /* finished updates, whose outcome has been read */
    Flight flight;      /* the one after them */
    double landed;      /* when the outcome of the last one was read */
    uint32_t skips_in_a_row;
    Progress resumed;   /* what the checkpoint said */
    char *train_print, *val_print; /* fingerprints of the data, as checkpoints keep them */
    char *changes;      /* what differs from its run, for people; NULL: nothing */
    double first_loss, last_loss;
    char last_checkpoint[CHECKPOINT_PATH];
    double started;
} Run;

/* The model with its weights: those of --resume, of --init-from, or new ones; for training, the optimizer too. Sets run->step.
 * Refuses what memory does not hold before it takes any. */
void run_open_model(Run *run, bool train);

/* --train-data, from the batches of step run->step on, and the buffers that carry them to the device. */
void run_open_training_data(Run *run);
void run_close_training_data(Run *run);

/* The next batch into a slot of run->feed. */
bool run_next_batch(Run *run, const struct FeedSlot *into, Error *error);

/* --val-data, with the bytes of its tokens where something tells them. */
void run_open_validation(Run *run);

/* What a checkpoint keeps of data; the caller frees it. `flag` is for messages: "train-data". */
char *run_print_of(const ShardSet *set, const char *flag);

/* Whether --out has room for this run's checkpoints; all ranks end where one of them says no. */
void run_check_out(const Run *run);

#endif
