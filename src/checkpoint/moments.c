/* moments.c: where a rank's moments lie, and how they get into its file. See moments.h. */
#include "moments.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------------
 * Where elements lie
 * ---------------------------------------------------------------------------------------------------- */

static int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

/* Elements of a tensor, row by row, that come before this element of the arenas. */
static int64_t elements_before(const FileTensor *t, int64_t in_arenas) {
    const int64_t stride = params_row_stride(t->param), cols = t->param->cols, rows = t->rows;
    const int64_t at = in_arenas - t->param->offset - t->row0 * stride;
    if (at <= 0) return 0;
    int64_t row = at / stride, col = at % stride;
    if (t->gap && row >= t->split) {
        const int64_t beyond = row - t->gap;
        if (beyond < t->split) row = t->split, col = 0; /* in the gap */
        else row = beyond;
    }
    return clamp(row * cols + clamp(col, 0, cols), 0, rows * cols);
}

/* Where an element of the tensor lies in the arenas. */
static int64_t arena_element(const FileTensor *t, int64_t element) {
    int64_t row = element / t->param->cols, col = element % t->param->cols;
    if (t->gap && row >= t->split) row += t->gap;
    return t->param->offset + (t->row0 + row) * params_row_stride(t->param) + col;
}

static const Bucket *bucket_of(const Params *params, const Param *param) {
    const Bucket *bucket = params->bucket;
    while (bucket->end <= param->offset) bucket++;
    return bucket;
}

int moments_files(const Optimizer *o) {
    return o->moments == o->model->params.elements ? 1 : (int)o->model->config->ranks;
}

void moments_name(char name[NAME_SIZE], int file, int files) {
    snprintf(name, NAME_SIZE, "optimizer-%d-of-%d.safetensors", file, files);
}

bool moments_there(const FileTensor *tensor, int which) { return which == 0 || tensor->param->optimizer == OPTIMIZER_ADAMW; }

/* What all ranks hold, rank 0 writes. */
MomentShare moments_share(const Optimizer *o, const FileTensor *tensor, int which, bool written) {
    const Model *model = o->model;
    const Bucket *bucket = bucket_of(&model->params, tensor->param);
    const Share *share = &o->share[bucket - model->params.bucket];
    const bool whole = share->end - share->begin == bucket->end - bucket->begin;
    MomentShare s = {.tensor = tensor, .which = which};
    if (!moments_there(tensor, which) || (written && whole && model->config->rank)) return s;
    const int64_t shift = which ? o->v_shift[tensor->param - model->params.list] : share->moments - share->begin;
    s.begin = elements_before(tensor, share->begin);
    s.end = elements_before(tensor, share->end);
    s.base = (char *)(which ? o->v : o->m) + shift * (int64_t)dtype_size(model->k->accum);
    return s;
}

/* Whole rows of about 4 MB in fp32. */
static int64_t chunk_rows(const FileTensor *t) {
    enum { ELEMENTS = 1 << 20 };
    return clamp(ELEMENTS / params_row_stride(t->param), 1, t->rows);
}

int64_t moments_chunk(const FileTensor *t) { return chunk_rows(t) * t->param->cols; }

/* A chunk may begin in the middle of a row and end in that of another. */
size_t moments_room(const FileTensor *t, DType type) {
    return (size_t)((chunk_rows(t) + 1 + t->gap) * params_row_stride(t->param)) * dtype_size(type);
}

void moments_move(const Model *m, const MomentShare *share, int64_t begin, int64_t end, CopyKind kind, void *room, void *values) {
    const FileTensor *t = share->tensor;
    const int64_t size = (int64_t)dtype_size(m->k->accum), cols = t->param->cols;
    const int64_t first = arena_element(t, begin), last = arena_element(t, end - 1);
    char *device = (char *)share->base + first * size;
    const size_t bytes = (size_t)((last + 1 - first) * size);
    if (kind == COPY_TO_HOST) {
        m->k->copy(m->queue, room, device, bytes, kind);
        m->k->queue_wait(m->queue);
    }
    for (int64_t at = begin, next; at < end; at = next) {
        next = clamp((at / cols + 1) * cols, at, end);
        char *padded_values = (char *)room + (arena_element(t, at) - first) * size;
        char *plain_values = (char *)values + (at - begin) * size;
        if (kind == COPY_TO_HOST) memcpy(plain_values, padded_values, (size_t)((next - at) * size));
        else memcpy(padded_values, plain_values, (size_t)((next - at) * size));
    }
    if (kind == COPY_TO_HOST) return;
    m->k->copy(m->queue, device, room, bytes, kind);
    m->k->queue_wait(m->queue);
}

/* ------------------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------------------- */

static bool is_whole(const MomentShare *s) { return s->end - s->begin == s->tensor->rows * (int64_t)s->tensor->param->cols; }

/* A file's entry for what is held of a tensor; its name is the caller's to free. */
static SafetensorsEntry entry_of(const MomentShare *s, DType type) {
    const FileTensor *t = s->tensor;
    const size_t size = strlen(t->name) + 64;
    char *name = must_malloc(size, "a tensor's name");
    SafetensorsEntry entry = {.name = name, .dtype = weights_file_type(type), .n_dims = 1, .shape = {(uint64_t)(s->end - s->begin)}};
    if (!is_whole(s)) {
        snprintf(name, size, "%c.%s%s[%lld:%lld]", s->which ? 'v' : 'm', t->name, t->param->transposed ? ".T" : "",
                 (long long)s->begin, (long long)s->end);
        return entry;
    }
    snprintf(name, size, "%c.%s", s->which ? 'v' : 'm', t->name);
    entry.n_dims = (size_t)t->dims;
    for (int d = 0; d < t->dims; d++) entry.shape[d] = (uint64_t)t->shape[d];
    return entry;
}

/* Values of a share on their way to the host, a chunk at a time. */
typedef struct Passage {
    const Model *model;
    MomentShare share;
    void *room, *values;
} Passage;

static Passage passage_open(const Model *model, const MomentShare *share) {
    const FileTensor *t = share->tensor;
    const DType type = model->k->accum;
    return (Passage){.model = model, .share = *share,
                     .room = must_calloc(1, moments_room(t, type), "rows of a tensor"),
                     .values = must_calloc((size_t)moments_chunk(t), dtype_size(type), "rows of a tensor")};
}

static void passage_close(Passage *p) {
    free(p->room);
    free(p->values);
}

/* The chunk from this element on, at most to the share's end, into p->values; returns how many. */
static int64_t passage_take(const Passage *p, int64_t begin) {
    const int64_t chunk = moments_chunk(p->share.tensor), left = p->share.end - begin, count = left < chunk ? left : chunk;
    moments_move(p->model, &p->share, begin, begin + count, COPY_TO_HOST, p->room, p->values);
    return count;
}

static bool append(SafetensorsWriter *writer, size_t entry, const void *values, int64_t count, DType type, Error *error) {
    return safetensors_writer_append(writer, entry, values, (size_t)count * dtype_size(type), error);
}

/* A matrix whose rows are a file's columns: all of it to the host, and column by column from there. */
static bool append_transposed(SafetensorsWriter *writer, size_t entry, const Passage *p, Error *error) {
    const FileTensor *t = p->share.tensor;
    const DType type = p->model->k->accum;
    const size_t size = dtype_size(type);
    const int64_t cols = t->param->cols, columns = clamp(moments_chunk(t) / t->rows, 1, cols);
    char *all = must_malloc((size_t)p->share.end * size, "a matrix to transpose");
    char *some = must_malloc((size_t)(columns * t->rows) * size, "a matrix to transpose");
    for (int64_t at = 0, count; at < p->share.end; at += count) {
        count = passage_take(p, at);
        memcpy(all + (size_t)at * size, p->values, (size_t)count * size);
    }
    bool good = weights_all_finite(all, type, p->share.end) ||
                error_set(error, "tensor %s holds a number that is not finite", t->name);
    for (int64_t c = 0; good && c < cols; c += columns) {
        const int64_t count = cols - c < columns ? cols - c : columns;
        for (int64_t i = 0; i < count; i++)
            for (int64_t r = 0; r < t->rows; r++)
                memcpy(some + (size_t)(i * t->rows + r) * size, all + (size_t)(r * cols + c + i) * size, size);
        good = append(writer, entry, some, count * t->rows, type, error);
    }
    free(all);
    free(some);
    return good;
}

static bool append_share(SafetensorsWriter *writer, size_t entry, const Passage *p, Error *error) {
    const DType type = p->model->k->accum;
    if (is_whole(&p->share) && p->share.tensor->param->transposed) return append_transposed(writer, entry, p, error);
    for (int64_t at = p->share.begin, count; at < p->share.end; at += count) {
        count = passage_take(p, at);
        if (!weights_all_finite(p->values, type, count))
            return error_set(error, "tensor %s holds a number that is not finite", p->share.tensor->name);
        if (!append(writer, entry, p->values, count, type, error)) return false;
    }
    return true;
}

/* What this rank holds, or writes, of the first and then the second moments of every tensor of which that is something; the
 * caller frees. */
static MomentShare *all_shares(const Optimizer *o, const FileTensor *tensors, int tensor_count, bool written, int *count) {
    MomentShare *shares = must_calloc(2 * (size_t)tensor_count, sizeof *shares, "a rank's moments");
    *count = 0;
    for (int i = 0; i < 2 * tensor_count; i++) {
        const MomentShare share = moments_share(o, &tensors[i % tensor_count], i / tensor_count, written);
        if (share.end > share.begin) shares[(*count)++] = share;
    }
    return shares;
}

static SafetensorsWriter *begin_file(const char *path, const MomentShare *shares, int count, DType type, Error *error) {
    SafetensorsEntry *entries = must_calloc((size_t)count, sizeof *entries, "a file's entries");
    for (int i = 0; i < count; i++) entries[i] = entry_of(&shares[i], type);
    SafetensorsWriter *writer = safetensors_writer_begin(path, entries, (size_t)count, NULL, 0, error);
    weights_entries_free(entries, count);
    return writer;
}

static bool write_shares(const char *path, const Model *model, const MomentShare *shares, int count, Error *error) {
    SafetensorsWriter *writer = begin_file(path, shares, count, model->k->accum, error);
    if (!writer) return false;
    bool good = true;
    for (int i = 0; good && i < count; i++) {
        Passage passage = passage_open(model, &shares[i]);
        good = append_share(writer, (size_t)i, &passage, error);
        passage_close(&passage);
    }
    if (good) return safetensors_writer_finish(writer, error);
    safetensors_writer_abort(writer);
    return false;
}

bool moments_write(const char *directory, const Optimizer *o, Error *error) {
    char name[NAME_SIZE], path[PATH_SIZE];
    int tensor_count, count;
    moments_name(name, (int)o->model->config->rank, moments_files(o));
    if (!path_join(path, directory, name, error)) return false;
    FileTensor *tensors = params_file_tensors(&o->model->params, &tensor_count);
    MomentShare *shares = all_shares(o, tensors, tensor_count, true, &count);
    const bool good = write_shares(path, o->model, shares, count, error);
    free(shares);
    free(tensors);
    return good;
}

int moments_find_not_finite(const Optimizer *o) {
    const Model *model = o->model;
    int count, found = -1;
    FileTensor *tensors = params_file_tensors(&model->params, &count);
    for (int i = 0; found < 0 && i < 2 * count; i++) {
        const MomentShare share = moments_share(o, &tensors[i % count], i / count, false);
        Passage passage = passage_open(model, &share);
        for (int64_t at = share.begin, taken; found < 0 && at < share.end; at += taken) {
            taken = passage_take(&passage, at);
            if (!weights_all_finite(passage.values, model->k->accum, taken)) found = i;
        }
        passage_close(&passage);
    }
    free(tensors);
    return found;
}
