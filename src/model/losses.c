/* losses.c: see losses.h. */
#include "losses.h"
#include "fetch.h"

#include <stdlib.h>

/* The head's input of the rows that are asked goes to the front of `narrow`, which nobody reads after the blocks. */
static int64_t gather(Model *m, const Losses *args) {
    const size_t row = (size_t)padded(m->C) * dtype_size(m->k->storage);
    int64_t rows = 0;
    for (int i = 0; i < args->spans; i++) {
        const Span *span = &args->span[i];
        m->k->copy(m->queue, (char *)m->narrow + (size_t)rows * row, (char *)m->head_rows + (size_t)span->first * row,
                   (size_t)span->count * row, COPY_ON_DEVICE);
        rows += span->count;
    }
    m->head_rows = m->narrow;
    return rows;
}

static bool is_likeliest(const double *logits, int V, uint32_t target) {
    uint32_t best = 0;
    for (int i = 1; i < V; i++)
        if (logits[i] > logits[best]) best = (uint32_t)i;
    return best == target;
}

static void find_likeliest(Model *m, const Losses *args, int64_t first, int64_t count) {
    double *logits = must_malloc((size_t)m->V * sizeof *logits, "logits");
    for (int64_t i = 0; i < count; i++) {
        fetch_rows(m, m->logits, m->k->storage, i, 1, m->V, logits);
        args->likeliest[first + i] = is_likeliest(logits, m->V, args->targets[first + i]);
    }
    free(logits);
}

static void read_losses(Model *m, double *losses, int64_t rows) {
    const size_t bytes = (size_t)rows * dtype_size(m->k->accum);
    void *raw = must_malloc(bytes + 1, "losses");
    m->k->copy(m->queue, raw, m->losses, bytes, COPY_TO_HOST);
    m->k->queue_wait(m->queue);
    for (int64_t i = 0; i < rows; i++)
        losses[i] = m->k->accum == DTYPE_F64 ? ((double *)raw)[i] : (double)((float *)raw)[i];
    free(raw);
}

void model_losses(Model *m, const Losses *args) {
    const size_t accum = dtype_size(m->k->accum);
    m->k->copy(m->queue, m->tokens, args->tokens, (size_t)args->B * (size_t)args->T * sizeof *args->tokens,
               COPY_TO_DEVICE);
    model_forward_rows(m, args->B, args->T);
    const int64_t rows = gather(m, args);
    m->k->copy(m->queue, m->targets, args->targets, (size_t)rows * sizeof *args->targets, COPY_TO_DEVICE);
    for (int64_t first = 0; first < rows; first += m->head_chunk) {
        const int64_t count = rows - first < m->head_chunk ? rows - first : m->head_chunk;
        model_logits(m, first, count);
        m->k->cross_entropy(m->queue, &(CrossEntropy){.N = count,
                                                      .V = m->V,
                                                      .logits = m->logits,
                                                      .targets = m->targets + first,
                                                      .losses = (char *)m->losses + (size_t)first * accum});
        if (args->likeliest) find_likeliest(m, args, first, count);
    }
    read_losses(m, args->losses, rows);
}
