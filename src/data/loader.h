/*
 * loader.h: batches of tokens, read ahead by a thread of its own.
 *
 * One step of training takes G = n_ranks × micro_steps × B windows from the endless sequence of order.h: step
 * s takes positions [s·G, (s+1)·G). Within it, row b of rank r in micro-step m is position
 *
 *     s·G + (m·n_ranks + r)·B + b
 *
 * so ranks never share a window, and the windows of a step, and their order, depend on G and not on how
 * ranks and micro-steps share it. The step number alone says where to go on.
 *
 * With one document a row (documents.apart; rows.h) a row that is shorter than T is filled up: with the token that ends documents
 * (0 where none does), and TARGET_IGNORED. Then a step's targets, which its loss is divided by, are loader_targets().
 *
 * The thread keeps `depth` batches ready and has the kernel read further ahead of that. What it delivers is a
 * function of the configuration alone. An error that it meets (a file truncated, a token ≥ vocab) waits its
 * turn: the batches before it are delivered, then loader_next returns it, every time.
 */
#ifndef LOADER_H
#define LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/check.h"
#include "documents.h"
#include "order.h"
#include "shard.h"

typedef struct LoaderConfig {
    const ShardSet *set; /* must outlive the loader; several loaders may share one */
    size_t B, T;         /* rows per micro-step and rank; tokens per row */
    uint64_t micro_steps, rank, n_ranks;
    uint64_t seed, first_step;
    uint32_t vocab; /* every token must be below it */
    bool shuffle;   /* false: natural order, for validation */
    Documents documents;
    bool tells; /* on stderr how far it is, where looking for documents takes long */
    size_t depth;   /* batches held ready; 0 for the default of 8 */
} LoaderConfig;

/* Where loader_next writes: buffers of the caller's, [B, T] each. */
typedef struct Batch {
    uint32_t *tokens, *targets;
    /* For document masking: per token the position in its row where its document starts, and its position within that
       document (documents.h). Both or neither; NULL where config.documents knows no end of documents. */
    uint32_t *document_start, *position;
    /* Set by loader_next. */
    uint64_t step, micro_step;
    uint64_t first_position; /* of row 0 in the endless sequence */
} Batch;

typedef struct Loader Loader;

/* NULL, with *error set, if a number is out of range or no shard holds a window. Takes all its memory here:
   about 4·depth·B·(T+1) bytes. */
Loader *loader_create(const LoaderConfig *config, Error *error);

/* Copies the next batch out, waiting for it if need be. */
bool loader_next(Loader *loader, Batch *batch, Error *error);

/* Goes on at a step, any step: what was read ahead is thrown away. This also clears an error. */
bool loader_seek(Loader *loader, uint64_t step, Error *error);

/* Stops the thread, wherever it is; waits at most for the read it is in. NULL is fine. */
void loader_destroy(Loader *loader);

/* Targets that count in `count` rows from a position of the endless sequence on, whichever ranks they are for. A pure function
 * of the order. */
uint64_t loader_targets(const Loader *loader, uint64_t first_position, uint64_t count);

/* The rows that documents make, or NULL where they make none; and where they come. */
const Rows *loader_rows(const Loader *loader);
const Documents *loader_documents(const Loader *loader);
const WindowOrder *loader_order(const Loader *loader);

/* Tokens delivered by this loader since it was created, on this rank: B × T for each batch. */
uint64_t loader_tokens_served(const Loader *loader);
/* Of one epoch: windows in it, over all ranks, and tokens in no window. */
uint64_t loader_windows_per_epoch(const Loader *loader);
uint64_t loader_tokens_dropped(const Loader *loader);

#endif
