/*
 * moments.h: the optimizer's moments as files, written by every rank that holds a share and read by any number of ranks.
 *
 * optimizer-RANK-of-COUNT.safetensors has what one of COUNT ranks holds; where every rank holds everything (one rank,
 * --zero 0) rank 0 writes optimizer-0-of-1.safetensors. Files hold the accumulate type, and no padding:
 *
 *   m.NAME, v.NAME              a tensor that lies in the rank's share as a whole, in its true shape
 *   m.NAME[BEGIN:END]           a part of one, [END − BEGIN]: elements BEGIN … END − 1 of the tensor, row by row
 *   m.NAME.T[BEGIN:END]         the same of a matrix that files hold transposed (gpt2's Conv1D): elements of its transpose,
 *                               whose rows are outputs
 *
 * m are first moments, of every tensor, v second ones, of those that are not Muon's.
 * Vectors, which every rank updates, are in rank 0's. Together the files of a checkpoint have every element of every tensor
 * of the model once. Each of them is looked at before anything changes; then only what this rank holds is read.
 */
#ifndef MOMENTS_H
#define MOMENTS_H

#include "../model/optim.h"
#include "manifest.h"
#include "safetensors.h"

/* How many files hold the moments of a run. Ranks from there on write none. */
int moments_files(const Optimizer *optimizer);

/* The file of one of so many. */
void moments_name(char name[NAME_SIZE], int file, int files);

/* Writes this rank's file into a directory, fsynced. All of it must be finite: an error names the tensor that is not. */
bool moments_write(const char *directory, const Optimizer *optimizer, Error *error);

/* The first tensor of which this rank's share holds a number that is not finite: its number among params_file_tensors(),
 * those of the first moments before those of the second. −1: none does. */
int moments_find_not_finite(const Optimizer *optimizer);

/* How many files of moments a manifest lists: each of so many, and no other; or *error says which is missing or too many. */
bool moments_listed(const Manifest *manifest, int *files, Error *error);

/* Reads what this rank holds from a checkpoint's directory. Files that are not those of this model, or that do not have
 * every element once, are refused by the name of file and tensor, and nothing was changed. */
bool moments_read(const char *directory, int files, Optimizer *optimizer, Error *error);

/* ---- what stands in the files (moments_index.c) ---- */

typedef struct MomentPiece {
    char *name;         /* in its file */
    int file;           /* of so many */
    int which;          /* 0: first moments, 1: second */
    int tensor;         /* among params_file_tensors() */
    int64_t begin, end; /* elements, row by row as the arenas have them; those of a transposed matrix's transpose */
    bool transposed;    /* in the file: a whole matrix in the shape that files hold */
} MomentPiece;

typedef struct MomentIndex {
    const FileTensor *tensors;
    int tensor_count, files;
    MomentPiece *list;
    size_t count, room;
} MomentIndex;

/* Adds what a file's header says. Refuses, without the path: a tensor that the model does not have, a shape that is not its
 * name's, a range beyond the tensor, what holds no floating-point numbers. */
bool moments_index_add(MomentIndex *index, int file, const SafetensorsHeader *header, Error *error);

/* Sorts by tensor and range; whether every element of every tensor is there once: else *error says what is missing, or what
 * stands twice and where. */
bool moments_index_check(MomentIndex *index, Error *error);
void moments_index_free(MomentIndex *index);

/* ---- where elements lie (moments.c) ---- */

/* Whether a tensor has first (0) or second moments (1). */
bool moments_there(const FileTensor *tensor, int which);

/* The part of a tensor's first (0) or second moments (1) that this rank holds. */
typedef struct MomentShare {
    const FileTensor *tensor;
    int which;
    int64_t begin, end; /* elements, row by row; none where the tensor has no such moments */
    void *base;         /* where element 0 of the arenas would lie, were these a part of whole ones */
} MomentShare;

/* With `written`, nothing of what another rank is the one to write. */
MomentShare moments_share(const Optimizer *optimizer, const FileTensor *tensor, int which, bool written);

/* Copies elements [begin, end) of a share between the device and values in host memory, without padding. At most
 * moments_chunk() at once; room is of moments_room() bytes. */
int64_t moments_chunk(const FileTensor *tensor);
size_t moments_room(const FileTensor *tensor, DType type);
void moments_move(const Model *model, const MomentShare *share, int64_t begin, int64_t end, CopyKind kind, void *room, void *values);

#endif
