/* probe.c: see probe.h. */
#include "probe.h"
#include "../base/directory.h"
#include "../model/fetch.h"
#include "../base/file.h"
#include "../checkpoint/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Probe {
    Model *model;
    SafetensorsDtype type;
    SafetensorsEntry *entries; /* fixed ones, then the gradients */
    size_t fixed, count;
    SafetensorsWriter *writer;
} Probe;

enum { TOKENS, TARGETS, LOSS, LOGITS, RESIDUALS };

static void describe(Probe *p) {
    const Model *m = p->model;
    uint64_t B = (uint64_t)m->B, T = (uint64_t)m->T;
    int gradients;
    SafetensorsEntry *grads = weights_entries(m, "grad.", &gradients);
    p->fixed = RESIDUALS + (size_t)m->L + 1;
    p->count = p->fixed + (size_t)gradients;
    p->entries = must_calloc(p->count, sizeof *p->entries, "the probe");
    p->entries[TOKENS] = (SafetensorsEntry){"tokens", SAFETENSORS_U32, 2, {B, T}};
    p->entries[TARGETS] = (SafetensorsEntry){"targets", SAFETENSORS_U32, 2, {B, T}};
    p->entries[LOSS] = (SafetensorsEntry){"loss", p->type, 1, {1}};
    p->entries[LOGITS] = (SafetensorsEntry){"logits", p->type, 3, {B, T, (uint64_t)m->V}};
    for (size_t i = RESIDUALS; i < p->fixed; i++) {
        char *name = must_malloc(32, "a tensor's name");
        snprintf(name, 32, "residual.%zu", i - RESIDUALS);
        p->entries[i] = (SafetensorsEntry){name, p->type, 3, {B, T, (uint64_t)m->C}};
    }
    memcpy(p->entries + p->fixed, grads, (size_t)gradients * sizeof *grads);
    free(grads); /* the names went along */
}

static void release(Probe *p) {
    for (size_t i = RESIDUALS; i < p->count; i++) free((char *)p->entries[i].name);
    free(p->entries);
}

static bool append(Probe *p, size_t entry, const double *values, size_t count, Error *error) {
    if (p->type == SAFETENSORS_F64)
        return safetensors_writer_append(p->writer, entry, values, count * sizeof *values, error);
    float *narrow = must_malloc(count * sizeof *narrow, "the probe");
    for (size_t i = 0; i < count; i++) narrow[i] = (float)values[i];
    bool good = safetensors_writer_append(p->writer, entry, narrow, count * sizeof *narrow, error);
    free(narrow);
    return good;
}

/* A [N, width] tensor of the device, row by row. */
static bool append_rows(Probe *p, size_t entry, const void *tensor, DType type, int64_t rows, int width,
                        Error *error) {
    double *row = must_malloc((size_t)width * sizeof *row, "the probe");
    bool good = true;
    for (int64_t r = 0; good && r < rows; r++) {
        fetch_rows(p->model, tensor, type, r, 1, width, row);
        good = append(p, entry, row, (size_t)width, error);
    }
    free(row);
    return good;
}

static bool append_logits(Probe *p, Error *error) {
    Model *m = p->model;
    bool good = true;
    for (int64_t first = 0; good && first < m->N; first += m->head_chunk) {
        int64_t count = m->N - first < m->head_chunk ? m->N - first : m->head_chunk;
        model_logits(m, first, count);
        good = append_rows(p, LOGITS, m->logits, m->k->storage, count, m->V, error);
    }
    return good;
}

/* The stream as its readers see it: GPAS's scale rides on what is stored. */
static bool append_stream(Probe *p, int l, Error *error) {
    Model *m = p->model;
    DType type = m->residual_is_accum ? m->k->accum : m->k->storage;
    const Accum *riding;
    const Residual *stream = model_stream(m, l, &riding);
    double scale = 1, *row = must_malloc((size_t)m->C * sizeof *row, "the probe");
    if (riding) fetch_rows(m, riding, m->k->accum, 0, 1, 1, &scale);
    bool good = true;
    for (int64_t r = 0; good && r < m->N; r++) {
        fetch_rows(m, stream, type, r, 1, m->C, row);
        for (int c = 0; c < m->C; c++) row[c] *= scale;
        good = append(p, RESIDUALS + (size_t)l, row, (size_t)m->C, error);
    }
    free(row);
    return good;
}

static bool append_residuals(Probe *p, Error *error) {
    bool good = true;
    for (int l = 0; good && l <= p->model->L; l++) good = append_stream(p, l, error);
    return good;
}

/* Those of padding do not count. */
static int64_t count_targets(const Model *m, const struct FeedSlot *batch) {
    int64_t count = 0;
    for (int64_t i = 0; i < m->N; i++) count += batch->targets[i] != TARGET_IGNORED;
    return count;
}

static bool run(Probe *p, Optimizer *optimizer, const struct FeedSlot *batch, Error *error) {
    Model *m = p->model;
    size_t bytes = (size_t)m->N * sizeof *batch->tokens;
    const double targets = (double)count_targets(m, batch);
    optimizer_begin(optimizer, &(StepInputs){.loss_scale = 1 / targets});
    model_feed(m, batch->tokens, batch->targets);
    if (batch->document_start) model_feed_documents(m, batch->document_start, batch->position);
    model_forward(m, true);
    /* The head writes its gradient over the logits, and backward may reuse the streams: those two first. */
    if (!append_logits(p, error) || !append_residuals(p, error)) return false;
    model_head(m, optimizer->state, true);
    model_backward(m, NULL, NULL);
    double loss = optimizer_read(optimizer)->loss_sum / targets;
    return safetensors_writer_append(p->writer, TOKENS, batch->tokens, bytes, error) &&
           safetensors_writer_append(p->writer, TARGETS, batch->targets, bytes, error) &&
           append(p, LOSS, &loss, 1, error) &&
           weights_append(p->writer, p->fixed, &(DeviceArena){.model = m, .base = m->grad, .may_be_infinite = true}, error);
}

bool probe_can_write(const char *path, Error *error) {
    char partial[PATH_SIZE]; /* what the writer fills first, and then renames */
    struct stat status;
    if (snprintf(partial, sizeof partial, "%s.partial", path) >= (int)sizeof partial)
        return error_set(error, "%.200s…: the path is too long", path);
    if (lstat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return error_set(error, "%s: there is something that is no file", path);
    int fd = open(partial, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (fd < 0) return error_set(error, "%s: cannot create: %s", partial, strerror(errno));
    close(fd);
    unlink(partial);
    return true;
}

bool probe_write(Optimizer *optimizer, const struct FeedSlot *batch, const char *path, Error *error) {
    Model *m = optimizer->model;
    Probe p = {.model = m, .type = m->k->accum == DTYPE_F64 ? SAFETENSORS_F64 : SAFETENSORS_F32};
    describe(&p);
    p.writer = safetensors_writer_begin(path, p.entries, p.count, NULL, 0, error);
    bool good = p.writer && run(&p, optimizer, batch, error);
    if (good) good = safetensors_writer_finish(p.writer, error);
    else safetensors_writer_abort(p.writer);
    release(&p);
    return good;
}
