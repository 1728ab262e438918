/*
 * weights.h: parameters between device arenas and safetensors files, under Hugging Face's names.
 *
 * Works in chunks of rows, so that it needs little memory beside the model's. Files hold the accumulate type
 * (fp32 masters; fp64 for cpu/f64); any floating-point type is read.
 */
#ifndef WEIGHTS_H
#define WEIGHTS_H

#include "../model/model.h"
#include "safetensors.h"

/* One arena of a model on its device, whole: masters or gradients. (Moments: moments.h.) */
typedef struct DeviceArena {
    const Model *model;
    void *base; /* NULL, to be read into: the masters, wherever the model keeps them (model_put()) */
    bool may_be_infinite; /* gradients; what a run goes on from is not written where it holds no numbers */
} DeviceArena;

/* The entries of a file for all parameters, their names behind a prefix ("", "grad."); *count is set.
 * Release with weights_entries_free(). */
SafetensorsEntry *weights_entries(const Model *model, const char *prefix, int *count);
void weights_entries_free(SafetensorsEntry *entries, int count);

/* Appends every parameter of an arena to a writer whose entries from `first` on are weights_entries(). What a run
 * goes on from (all but gradients) must be finite: an error names the tensor that is not. */
bool weights_append(SafetensorsWriter *writer, size_t first, const DeviceArena *arena, Error *error);

/* Whether all parameters of an arena are finite; if not, *error is the name of the first tensor that is not. */
bool weights_are_finite(const DeviceArena *arena, Error *error);

/* Writes a file of nothing but one arena's parameters. */
bool weights_write(const char *path, const DeviceArena *arena, const SafetensorsPair *metadata,
                   size_t n_metadata, Error *error);

/* Where the values of a file tensor stand. */
typedef struct TensorPlace {
    const char *name; /* under which it was looked for */
    const SafetensorsFile *file;
    const SafetensorsTensor *tensor; /* NULL: not there */
    bool may_have_more;              /* rows than the model, which takes the first */
} TensorPlace;

/* Reads every parameter into an arena from wherever it stands: places[i] belongs to params_file_tensors()[i]. A tensor that is
 * missing or misshapen is named by the error, and nothing was changed. */
bool weights_read_places(const TensorPlace *places, const DeviceArena *arena, Error *error);

/* Opens a file, and reads the weights into the model. The file must have exactly the names that the model
 * has, in their shapes. (--init-from: pretrained.h.) */
bool weights_load(Model *model, const char *path, Error *error);

/* ---- what other files of the same kind need: moments.h ---- */

/* The type of a file's tensors for an arena of this one. */
SafetensorsDtype weights_file_type(DType type);

bool weights_all_finite(const void *values, DType type, int64_t count);

/* "[3, 4]", into text; returns it. */
const char *weights_shape_text(char *text, size_t size, size_t dims, const uint64_t *shape);

/* Whether a tensor holds a type that weights can be read from; the error is without its file's path. */
bool weights_are_numbers(const SafetensorsTensor *tensor, Error *error);

#endif
