/* moments_read.c: how a rank gets its moments from files that any number of ranks have written. See moments.h. */
#include "moments.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------
 * Which files there are
 * ---------------------------------------------------------------------------------------------------- */

#define PREFIX "optimizer-"

/* Whether it is the name of a file of moments, and of how many. */
static bool parse_name(const char *name, int *files) {
    char again[NAME_SIZE];
    int file;
    if (sscanf(name, PREFIX "%9d-of-%9d.safetensors", &file, files) != 2 || file < 0 || file >= *files) return false;
    moments_name(again, file, *files);
    return strcmp(again, name) == 0;
}

bool moments_listed(const Manifest *manifest, int *files, Error *error) {
    const char *first = NULL;
    *files = 1;
    for (int i = 0; i < manifest->count; i++) {
        const char *name = manifest->files[i].name;
        int count;
        if (strncmp(name, PREFIX, strlen(PREFIX))) continue;
        if (!parse_name(name, &count)) return error_set(error, "lists %s, which is no file of a rank's moments", name);
        if (first && count != *files) return error_set(error, "lists %s and %s: of one checkpoint only one can be", first, name);
        first = name, *files = count;
    }
    for (int i = 0; i < *files; i++) {
        char name[NAME_SIZE];
        moments_name(name, i, *files);
        if (!manifest_lists(manifest, name)) return error_set(error, "does not list %s", name);
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------------
 * Reading a share
 * ---------------------------------------------------------------------------------------------------- */

typedef struct Reading {
    const Optimizer *optimizer;
    const char *directory;
    MomentIndex index;
} Reading;

/* The part of a piece that a share wants. */
typedef struct Wanted {
    const SafetensorsFile *file;
    const SafetensorsTensor *tensor;
    const MomentPiece *piece;
    MomentShare share;
    int64_t begin, end; /* begin ≥ end: nothing */
} Wanted;

static bool open_file(const Reading *r, int number, SafetensorsFile *file, Error *error) {
    char name[NAME_SIZE], path[PATH_SIZE];
    moments_name(name, number, r->index.files);
    return path_join(path, r->directory, name, error) && safetensors_open(file, path, error);
}

static bool index_all(Reading *r, Error *error) {
    Error reason = {0};
    for (int i = 0; i < r->index.files; i++) {
        SafetensorsFile file;
        if (!open_file(r, i, &file, error)) return false;
        const bool good = moments_index_add(&r->index, i, &file.header, &reason) || error_set(error, "%s: %s", file.path, reason.text);
        safetensors_close(&file);
        if (!good) return false;
    }
    return moments_index_check(&r->index, &reason) || error_set(error, "%s: %s", r->directory, reason.text);
}

static Wanted wanted_of(const Reading *r, const MomentPiece *piece) {
    const MomentShare share = moments_share(r->optimizer, &r->index.tensors[piece->tensor], piece->which, false);
    return (Wanted){.piece = piece, .share = share,
                    .begin = piece->begin > share.begin ? piece->begin : share.begin,
                    .end = piece->end < share.end ? piece->end : share.end};
}

/* A file's elements in the order of the arenas, a chunk at a time. */
static bool read_rows(const Model *model, const Wanted *w, Error *error) {
    const FileTensor *t = w->share.tensor;
    const DType type = model->k->accum;
    const int64_t chunk = moments_chunk(t);
    void *room = must_calloc(1, moments_room(t, type), "rows of a tensor");
    void *values = must_calloc((size_t)chunk, dtype_size(type), "rows of a tensor");
    bool good = true;
    for (int64_t at = w->begin, next; good && at < w->end; at = next) {
        next = w->end - at < chunk ? w->end : at + chunk;
        good = safetensors_read(w->file, w->tensor, (uint64_t)(at - w->piece->begin), (uint64_t)(next - at),
                                weights_file_type(type), values, error);
        memset(room, 0, moments_room(t, type)); /* padding is zero */
        if (good) moments_move(model, &w->share, at, next, COPY_TO_DEVICE, room, values);
    }
    free(room);
    free(values);
    return good;
}

/* A whole matrix of which the file has the transpose: column by column to what is wanted of it, and that to the device. */
static bool turn(const Model *model, const Wanted *w, char *wanted, Error *error) {
    const FileTensor *t = w->share.tensor;
    const DType type = model->k->accum;
    const size_t size = dtype_size(type);
    const int64_t cols = t->param->cols;
    int64_t columns = moments_chunk(t) / t->rows;
    if (columns < 1) columns = 1;
    char *some = must_malloc((size_t)(columns * t->rows) * size, "a matrix to transpose");
    bool good = true;
    for (int64_t c = 0; good && c < cols; c += columns) {
        const int64_t count = cols - c < columns ? cols - c : columns;
        good = safetensors_read(w->file, w->tensor, (uint64_t)(c * t->rows), (uint64_t)(count * t->rows), weights_file_type(type),
                                some, error);
        for (int64_t i = 0; good && i < count; i++)
            for (int64_t r = w->begin / cols; r <= (w->end - 1) / cols; r++) {
                const int64_t element = r * cols + c + i;
                if (element < w->begin || element >= w->end) continue;
                memcpy(wanted + (size_t)(element - w->begin) * size, some + (size_t)(i * t->rows + r) * size, size);
            }
    }
    free(some);
    return good;
}

static bool read_transposed(const Model *model, const Wanted *w, Error *error) {
    const FileTensor *t = w->share.tensor;
    const DType type = model->k->accum;
    const size_t size = dtype_size(type);
    const int64_t chunk = moments_chunk(t);
    char *wanted = must_malloc((size_t)(w->end - w->begin) * size, "a matrix to transpose");
    void *room = must_calloc(1, moments_room(t, type), "rows of a tensor");
    const bool good = turn(model, w, wanted, error);
    for (int64_t at = w->begin, next; good && at < w->end; at = next) {
        next = w->end - at < chunk ? w->end : at + chunk;
        memset(room, 0, moments_room(t, type));
        moments_move(model, &w->share, at, next, COPY_TO_DEVICE, room, wanted + (size_t)(at - w->begin) * size);
    }
    free(room);
    free(wanted);
    return good;
}

static bool read_wanted(const Model *model, const Wanted *w, Error *error) {
    if (!w->tensor || w->tensor->n_elements != (uint64_t)(w->piece->end - w->piece->begin))
        return error_set(error, "%s: tensor %s has changed while it was read", w->file->path, w->piece->name);
    return w->piece->transposed ? read_transposed(model, w, error) : read_rows(model, w, error);
}

/* Everything wanted of one file, which is not opened where that is nothing. */
static bool read_file(const Reading *r, int number, Error *error) {
    SafetensorsFile file;
    bool good = true, open = false;
    for (size_t i = 0; good && i < r->index.count; i++) {
        if (r->index.list[i].file != number) continue;
        Wanted w = wanted_of(r, &r->index.list[i]);
        if (w.begin >= w.end) continue;
        if (!open && !open_file(r, number, &file, error)) return false;
        open = true;
        w.file = &file;
        w.tensor = safetensors_find(&file.header, w.piece->name);
        good = read_wanted(r->optimizer->model, &w, error);
    }
    if (open) safetensors_close(&file);
    return good;
}

bool moments_read(const char *directory, int files, Optimizer *optimizer, Error *error) {
    Reading r = {.optimizer = optimizer, .directory = directory, .index.files = files};
    FileTensor *tensors = params_file_tensors(&optimizer->model->params, &r.index.tensor_count);
    r.index.tensors = tensors;
    bool good = index_all(&r, error);
    for (int i = 0; good && i < files; i++) good = read_file(&r, i, error);
    moments_index_free(&r.index);
    free(tensors);
    return good;
}
