/* sync.c: see sync.h. */
#include "sync.h"

#include <stdlib.h>

static size_t hashes_bytes(const Sync *s) {
    return (size_t)s->ranks->count * (size_t)s->model->params.count * sizeof *s->hashes;
}

void sync_create(Sync *s, const Model *model, const Ranks *ranks) {
    *s = (Sync){.model = model, .ranks = ranks};
    if (ranks->count == 1) return;
    s->hashes = arena_memory(model->k, hashes_bytes(s), "the weights' hashes", "--check-sync 0 takes none");
    s->seen = must_calloc(1, hashes_bytes(s), "the weights' hashes");
}

void sync_destroy(Sync *s) {
    if (s->hashes) s->model->k->release(s->hashes);
    free(s->seen);
}

/* What forward reads of it, padding too. */
static void hash(const Model *m, const Param *p, uint64_t *out) {
    bool vector = p->offset >= m->params.vectors;
    size_t element = dtype_size(vector ? m->k->accum : m->k->storage);
    m->k->hash(m->queue, &(Hash){.n = p->count * (int64_t)element / 4,
                                 .words = vector ? model_master(m, p->offset) : (char *)m->storage + (size_t)p->offset * element,
                                 .out = out});
}

static uint64_t of(const Sync *s, int rank, int tensor) { return s->seen[rank * s->model->params.count + tensor]; }

/* How many ranks hold of a tensor what this one does. */
static int holders(const Sync *s, int rank, int tensor) {
    int count = 0;
    for (int r = 0; r < s->ranks->count; r++) count += of(s, r, tensor) == of(s, rank, tensor);
    return count;
}

/* Finds a rank with another tensor than most, and one of those. */
static bool ranks_differ(const Sync *s, int tensor, int *odd, int *usual) {
    *usual = 0, *odd = -1;
    for (int r = 1; r < s->ranks->count; r++)
        if (holders(s, r, tensor) > holders(s, *usual, tensor)) *usual = r;
    for (int r = s->ranks->count - 1; r >= 0; r--)
        if (of(s, r, tensor) != of(s, *usual, tensor)) *odd = r;
    return *odd >= 0;
}

/* As files call it. Pieces that one product computes are one tensor here. */
static void name_of(const Param *p, char *text, size_t size) {
    size_t n = 0;
    for (int i = 0; i < p->pieces && n < size; i++)
        if (p->piece[i].name[0]) n += (size_t)snprintf(text + n, size - n, "%s%s", n ? " or " : "", p->piece[i].name);
}

bool sync_check(Sync *s, Error *error) {
    const Model *m = s->model;
    const int tensors = m->params.count;
    if (!s->hashes) return true;
    model_await(m);
    for (int t = 0; t < tensors; t++) hash(m, &m->params.list[t], s->hashes + s->ranks->rank * tensors + t);
    /* Their bits are moved, whatever the type. */
    m->k->all_gather(m->queue, &(Collective){.type = DTYPE_F64, .count = (int64_t)s->ranks->count * tensors,
                                             .buffer = s->hashes});
    m->k->copy(m->queue, s->seen, s->hashes, hashes_bytes(s), COPY_TO_HOST);
    m->k->queue_wait(m->queue);

    int first = -1, differ = 0, odd = 0, usual = 0;
    for (int t = tensors - 1; t >= 0; t--)
        if (ranks_differ(s, t, &odd, &usual)) first = t, differ++;
    if (first < 0) return true;
    char name[2 * PARAM_NAME_SIZE];
    ranks_differ(s, first, &odd, &usual);
    name_of(&m->params.list[first], name, sizeof name);
    return error_set(error, "rank %d holds another %s than rank %d (%d of %d tensors differ)", odd, name, usual, differ,
                     tensors);
}
