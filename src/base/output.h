/*
 * output.h: stdout as a place where results must arrive: a full disk, a closed descriptor, a reader that has gone.
 *
 * A write to stdout may fail when it is buffered, when it is flushed, or when the file is closed. Whoever promises
 * a result there ends with output_end(); a training run, whose results are elsewhere, asks output_flush() and goes on.
 */
#ifndef OUTPUT_H
#define OUTPUT_H

#include "check.h"

/* To be called first: gives descriptors 0, 1 and 2 a /dev/null where the caller had closed them. Without it the next
 * file that is opened, a checkpoint or a shard, would be descriptor 1, and printf would write into it. */
void output_open(void);

/* Flushes stdout. False with *error set from the first time on that something could not be written. */
bool output_flush(Error *error);

/* Flushes stdout and has the file system say what it would say at close. Exit 1 unless everything arrived. */
void output_end(void);

#endif
