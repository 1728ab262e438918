/*
 * checkpoint.h: a run's state on disk, and going on from it.
 *
 * OUT/step_00000100/
 *   model.safetensors              masters, under Hugging Face's names
 *   config.json                    the model's shape, in Hugging Face's words
 *   optimizer-RANK-of-COUNT.safetensors   the optimizer's moments, from every rank that holds a share: moments.h
 *   config.ini                     every flag, as --config reads it
 *   state.json                     step, updates, place in the data and their fingerprint, skip window, BHyT's products,
 *                                  threads, ranks, version, device, …
 *   gemm.json                      the choice of GEMM algorithms, where the device has one
 *   tokenizer.json, …              the tokenizer's files, where the run has them: companions.h
 *   configuration_train_gpt.py, modeling_train_gpt.py   the model for transformers, where it is none of its own:
 *                                  huggingface_code.h
 *   manifest.json                  sizes and checksums of all these: manifest.h
 *
 * Saving: all of it goes into OUT/.step_00000100.partial, each file fsynced, the manifest last; it is read
 * back from the disk and checked; then the directory is renamed and OUT fsynced, and only then go the older
 * ones beyond --keep, by way of OUT/.step_00000001.old. So OUT/step_* holds complete checkpoints and nothing
 * else, whenever the machine stops; the next save removes what it left under a leading dot.
 *
 * Of several ranks, rank 0 makes the directory; then each writes its moments into it, and reads them back, while rank 0
 * writes all the rest; then rank 0, who knows sizes and checksums from them and sees the files there, writes the manifest and
 * renames. What fails on one rank is every rank's failure. No rank looks for a name before it is there: a network file
 * system might remember that it was not.
 * OUT/latest is a link to the newest, for people and other programs; nothing here reads it.
 *
 * A checkpoint is complete if its manifest says so, file by file. Loading refuses whatever is not, with a
 * line that names the file, and never changes anything on disk.
 */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "../base/directory.h"
#include "../model/optim.h"
#include "companions.h"
#include "manifest.h"

enum { CHECKPOINT_PATH = PATH_SIZE };

#define CHECKPOINT_MODEL   "model.safetensors"
#define CHECKPOINT_SHAPE   "config.json"
#define CHECKPOINT_FLAGS   "config.ini"
#define CHECKPOINT_STATE   "state.json"
#define CHECKPOINT_GEMM    "gemm.json"
#define CHECKPOINT_LATEST  "latest" /* beside the checkpoints */

/* How far a run has come. */
typedef struct Progress {
    int64_t step;          /* finished updates */
    int64_t windows;       /* windows of the data order that they used up */
    int64_t epoch_windows; /* windows in an epoch of the training data */
    char *train_data, *val_data; /* texts that tell these data from others (src/data/fingerprint.h); NULL: none */
    const Companions *companions; /* for saving: the tokenizer's files; NULL: none */
    bool doubtful;         /* for saving: the last step gave no finite loss, so older checkpoints all stay */
} Progress;

/* Frees the texts of what checkpoint_load() has set. */
void progress_free(Progress *progress);

/* Finds the checkpoint that --resume names: "auto" is the newest complete one in `out` (no checkpoint there
 * at all: false, with an empty error), a run's directory the newest complete one in it, a checkpoint's
 * directory itself, which must be complete. Says on stderr which newer ones it passed over and why. */
bool checkpoint_find(const char *resume, const char *out, char path[CHECKPOINT_PATH], Error *error);

/* The same of those before a step, of which no more than that is looked at. False with an empty error also where --resume names one
 * that is not before it. */
bool checkpoint_find_before(const char *resume, const char *out, int64_t step, ManifestCheck how, char path[CHECKPOINT_PATH],
                            Error *error);

/* A checkpoint's step, and a text that no other one has; NULL if its manifest cannot be read. The caller frees. */
char *checkpoint_identity(const char *path, int64_t *step);

/* The directory that a checkpoint stands in, with no link in its path. */
bool checkpoint_parent(const char *path, char parent[CHECKPOINT_PATH], Error *error);

/* Whether it stands in this directory, whatever links lead there. */
bool checkpoint_stands_in(const char *path, const char *directory);

/* The newest checkpoint in a run's directory by name and sizes alone; −1: none. */
int64_t checkpoint_newest_step(const char *out);

/* Makes `out` if need be, sees that it can be written to, and keeps it for this process until that ends:
 * false if another run has it. */
bool checkpoint_claim(const char *out, Error *error);

/* Whether the files of so many ranks are no more than a checkpoint can have. */
bool checkpoint_can_hold(const Optimizer *optimizer, Error *error);

/* Saves into config->out, which all ranks must see, and all of them call this; path is filled in. A checkpoint of that step
 * that is there and complete is kept. On failure older ones are all there, and nothing new is unless only the last fsync
 * failed; every rank gets the same line, with the number of the rank that it was. */
bool checkpoint_save(const Config *config, const Model *model, Optimizer *optimizer, const Progress *progress,
                     char path[CHECKPOINT_PATH], Error *error);

/* Whether all that a checkpoint would hold of tensors is finite, for a run that could not save; if not, *error says which
 * numbers of which tensor are not: "second moments of model.norm.weight". All ranks ask, and hear the same. */
bool checkpoint_is_finite(Optimizer *optimizer, Error *error);

/* Loads weights, and with an optimizer its moments and state, from what checkpoint_find() has found;
 * *progress is set, and its texts are the caller's to free. Refuses another variant or shape, naming tensor or flag. Says
 * on stderr, to a run that goes on, where the thread count, the device, the head's chunks or the version differ, for then
 * the bits will, or may. */
bool checkpoint_load(const char *path, const Config *config, Model *model, Optimizer *optimizer,
                     Progress *progress, Error *error);

/* ---- between checkpoint.c and checkpoint_save.c ---- */

/* The steps of the checkpoints in a directory by their names, newest first; the caller frees. −1 with *error
 * set, and errno, if it cannot be read. */
int checkpoint_list(const char *directory, int64_t **steps, Error *error);

/* Whether a directory is a complete checkpoint: of a step and no link, if that is not −1. */
bool checkpoint_is_complete(const char *path, int64_t step, ManifestCheck how, Error *error);

/* The name of a step's directory. */
void checkpoint_name(char name[64], int64_t step);

#endif
