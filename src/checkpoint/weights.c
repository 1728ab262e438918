/* weights.c: see weights.h. */
#include "weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

SafetensorsDtype weights_file_type(DType type) { return type == DTYPE_F64 ? SAFETENSORS_F64 : SAFETENSORS_F32; }

SafetensorsEntry *weights_entries(const Model *model, const char *prefix, int *count) {
    FileTensor *tensors = params_file_tensors(&model->params, count);
    SafetensorsEntry *entries = must_calloc((size_t)*count, sizeof *entries, "a file's entries");
    for (int i = 0; i < *count; i++) {
        size_t size = strlen(prefix) + strlen(tensors[i].name) + 1;
        char *name = must_malloc(size, "a tensor's name");
        snprintf(name, size, "%s%s", prefix, tensors[i].name);
        entries[i] = (SafetensorsEntry){.name = name, .dtype = weights_file_type(model->k->accum), .n_dims = (size_t)tensors[i].dims};
        for (int d = 0; d < tensors[i].dims; d++) entries[i].shape[d] = (uint64_t)tensors[i].shape[d];
    }
    free(tensors);
    return entries;
}

void weights_entries_free(SafetensorsEntry *entries, int count) {
    for (int i = 0; i < count; i++) free((char *)entries[i].name);
    free(entries);
}

/* A tensor's rows in pieces of about 16 MB; a transposed one whole (those are a layer's, never the vocabulary's). */
typedef struct Chunks {
    const FileTensor *tensor;
    int64_t stride, rows;           /* arena elements between rows; rows of a chunk */
    size_t element, arena_bytes, file_bytes;
    void *arena_rows, *file_values; /* host */
} Chunks;

static Chunks chunks_of(const FileTensor *tensor, DType type) {
    enum { ELEMENTS = 4 << 20 };
    Chunks c = {.tensor = tensor, .stride = params_row_stride(tensor->param), .element = dtype_size(type)};
    c.rows = tensor->param->transposed || tensor->gap || ELEMENTS / c.stride >= tensor->rows ? tensor->rows : ELEMENTS / c.stride;
    if (c.rows < 1) c.rows = 1;
    c.arena_bytes = (size_t)((c.rows + tensor->gap) * c.stride) * c.element;
    c.file_bytes = (size_t)(c.rows * tensor->param->cols) * c.element;
    c.arena_rows = must_calloc(1, c.arena_bytes, "rows of a tensor");
    c.file_values = must_malloc(c.file_bytes, "rows of a tensor");
    return c;
}

static void chunks_free(Chunks *c) {
    free(c->arena_rows);
    free(c->file_values);
}

static int64_t first_element(const Chunks *c, int64_t first) {
    return c->tensor->param->offset + (c->tensor->row0 + first) * c->stride;
}

static char *device_rows(const DeviceArena *arena, const Chunks *c, int64_t first) {
    return (char *)arena->base + (size_t)first_element(c, first) * c->element;
}

bool weights_all_finite(const void *values, DType type, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(type == DTYPE_F64 ? ((const double *)values)[i] : (double)((const float *)values)[i])) return false;
    return true;
}

static size_t arena_bytes(const Chunks *c, int64_t rows) {
    return (size_t)((rows + c->tensor->gap) * c->stride) * c->element;
}

static bool append_tensor(SafetensorsWriter *writer, size_t entry, const FileTensor *tensor,
                          const DeviceArena *arena, Error *error) {
    const Model *m = arena->model;
    Chunks c = chunks_of(tensor, m->k->accum);
    bool good = true;
    for (int64_t first = 0; good && first < tensor->rows; first += c.rows) {
        int64_t rows = tensor->rows - first < c.rows ? tensor->rows - first : c.rows;
        m->k->copy(m->queue, c.arena_rows, device_rows(arena, &c, first), arena_bytes(&c, rows), COPY_TO_HOST);
        m->k->queue_wait(m->queue);
        params_pack(tensor, m->k->accum, rows, c.arena_rows, c.file_values);
        int64_t numbers = rows * tensor->param->cols;
        if (!arena->may_be_infinite && !weights_all_finite(c.file_values, m->k->accum, numbers))
            good = error_set(error, "tensor %s holds a number that is not finite", tensor->name);
        else good = safetensors_writer_append(writer, entry, c.file_values, (size_t)numbers * c.element, error);
    }
    chunks_free(&c);
    return good;
}

/* Whether a tensor on the device is all finite. */
static bool tensor_is_finite(const FileTensor *tensor, const DeviceArena *arena) {
    const Model *m = arena->model;
    Chunks c = chunks_of(tensor, m->k->accum);
    bool finite = true;
    for (int64_t first = 0; finite && first < tensor->rows; first += c.rows) {
        int64_t rows = tensor->rows - first < c.rows ? tensor->rows - first : c.rows;
        m->k->copy(m->queue, c.arena_rows, device_rows(arena, &c, first), arena_bytes(&c, rows), COPY_TO_HOST);
        m->k->queue_wait(m->queue);
        params_pack(tensor, m->k->accum, rows, c.arena_rows, c.file_values);
        finite = weights_all_finite(c.file_values, m->k->accum, rows * tensor->param->cols);
    }
    chunks_free(&c);
    return finite;
}

bool weights_are_finite(const DeviceArena *arena, Error *error) {
    int count;
    FileTensor *tensors = params_file_tensors(&arena->model->params, &count);
    bool finite = true;
    for (int i = 0; finite && i < count; i++)
        if (!tensor_is_finite(&tensors[i], arena)) finite = error_set(error, "%s", tensors[i].name);
    free(tensors);
    return finite;
}

bool weights_append(SafetensorsWriter *writer, size_t first, const DeviceArena *arena, Error *error) {
    int count;
    FileTensor *tensors = params_file_tensors(&arena->model->params, &count);
    bool good = true;
    for (int i = 0; good && i < count; i++) good = append_tensor(writer, first + (size_t)i, &tensors[i], arena, error);
    free(tensors);
    return good;
}

bool weights_write(const char *path, const DeviceArena *arena, const SafetensorsPair *metadata,
                   size_t n_metadata, Error *error) {
    int count;
    SafetensorsEntry *entries = weights_entries(arena->model, "", &count);
    SafetensorsWriter *writer =
        safetensors_writer_begin(path, entries, (size_t)count, metadata, n_metadata, error);
    weights_entries_free(entries, count);
    if (!writer) return false;
    if (!weights_append(writer, 0, arena, error)) {
        safetensors_writer_abort(writer);
        return false;
    }
    return safetensors_writer_finish(writer, error);
}

const char *weights_shape_text(char *text, size_t size, size_t dims, const uint64_t *shape) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (size_t d = 0; d < dims && used < size; d++)
        used += (size_t)snprintf(text + used, size - used, "%s%llu", d ? ", " : "", (unsigned long long)shape[d]);
    if (used < size) snprintf(text + used, size - used, "]");
    return text;
}

bool weights_are_numbers(const SafetensorsTensor *tensor, Error *error) {
    const SafetensorsDtype type = tensor->dtype;
    return type == SAFETENSORS_F64 || type == SAFETENSORS_F32 || type == SAFETENSORS_BF16 || type == SAFETENSORS_F16 ||
           error_set(error, "tensor %s holds %s; weights are F64, F32, F16 or BF16", tensor->name, safetensors_dtype_name(type));
}

static bool check_tensor(const TensorPlace *place, const FileTensor *want, Error *error) {
    const SafetensorsTensor *have = place->tensor;
    const char *path = place->file->path;
    if (!have) return error_set(error, "%s: no tensor %s, which this model has", path, place->name);
    uint64_t shape[2] = {(uint64_t)want->shape[0], (uint64_t)want->shape[1]};
    size_t dims = (size_t)want->dims;
    char a[96], b[96];
    if (place->may_have_more && have->n_dims == dims && have->shape[0] > shape[0]) shape[0] = have->shape[0];
    if (have->n_dims != dims || memcmp(have->shape, shape, dims * sizeof *shape))
        return error_set(error, "%s: tensor %s is %s; this model's is %s", path, place->name,
                         weights_shape_text(a, sizeof a, have->n_dims, have->shape), weights_shape_text(b, sizeof b, dims, shape));
    Error reason;
    return weights_are_numbers(have, &reason) || error_set(error, "%s: %s", path, reason.text);
}

static bool check_no_extra(const SafetensorsFile *file, const SafetensorsEntry *entries, int count, Error *error) {
    for (size_t i = 0; i < file->header.n_tensors; i++) {
        const char *name = file->header.tensors[i].name;
        bool known = false;
        for (int j = 0; !known && j < count; j++) known = strcmp(entries[j].name, name) == 0;
        if (!known) return error_set(error, "%s: tensor %s, which this model does not have", file->path, name);
    }
    return true;
}

/* To the arena, or to where weights go. */
static void send(const DeviceArena *arena, const Chunks *c, int64_t first, int64_t rows) {
    const Model *m = arena->model;
    const size_t bytes = arena_bytes(c, rows);
    if (arena->base) m->k->copy(m->queue, device_rows(arena, c, first), c->arena_rows, bytes, COPY_TO_DEVICE);
    else model_put(m, first_element(c, first), c->arena_rows, (int64_t)(bytes / c->element));
    m->k->queue_wait(m->queue);
}

static bool read_tensor(const TensorPlace *place, const FileTensor *tensor, const DeviceArena *arena, Error *error) {
    const Model *m = arena->model;
    Chunks c = chunks_of(tensor, m->k->accum);
    bool good = true;
    for (int64_t first = 0; good && first < tensor->rows; first += c.rows) {
        int64_t rows = tensor->rows - first < c.rows ? tensor->rows - first : c.rows;
        uint64_t cols = (uint64_t)tensor->param->cols;
        good = safetensors_read(place->file, place->tensor, (uint64_t)first * cols, (uint64_t)rows * cols, weights_file_type(m->k->accum),
                                c.file_values, error);
        if (!good) break;
        params_unpack(tensor, m->k->accum, rows, c.arena_rows, c.file_values);
        send(arena, &c, first, rows);
    }
    chunks_free(&c);
    return good;
}

bool weights_read_places(const TensorPlace *places, const DeviceArena *arena, Error *error) {
    int count;
    FileTensor *tensors = params_file_tensors(&arena->model->params, &count);
    bool good = true;
    for (int i = 0; good && i < count; i++) good = check_tensor(&places[i], &tensors[i], error);
    for (int i = 0; good && i < count; i++) good = read_tensor(&places[i], &tensors[i], arena, error);
    free(tensors);
    return good;
}

/* Every parameter from a file of nothing else. */
static bool read_all(const SafetensorsFile *file, const DeviceArena *arena, Error *error) {
    int count;
    SafetensorsEntry *entries = weights_entries(arena->model, "", &count);
    TensorPlace *places = must_calloc((size_t)count, sizeof *places, "a file's tensors");
    for (int i = 0; i < count; i++)
        places[i] = (TensorPlace){entries[i].name, file, safetensors_find(&file->header, entries[i].name), false};
    bool good = check_no_extra(file, entries, count, error) && weights_read_places(places, arena, error);
    free(places);
    weights_entries_free(entries, count);
    return good;
}

bool weights_load(Model *model, const char *path, Error *error) {
    SafetensorsFile file;
    if (!safetensors_open(&file, path, error)) return false;
    bool good = read_all(&file, &(DeviceArena){.model = model}, error);
    safetensors_close(&file);
    return good;
}
