/* eval.c: see eval.h. */
#include "eval.h"
#include "../data/mixture.h"

#include <stdlib.h>

void validator_know_bytes(Validator *v, const TokenBytes *table) {
    const int V = v->model->V;
    if (!table->count) return;
    v->length = must_malloc((size_t)V * sizeof *v->length, "the tokens' lengths");
    for (int i = 0; i < V; i++) {
        uint64_t length;
        token_bytes_of(table, (uint32_t)i, &length);
        v->length[i] = i < table->count ? (double)length : (double)NAN;
    }
}

void validator_create(Validator *v, Model *model) {
    enum { BATCHES_AUTO = 40, SEED = 0 };
    const Config *c = model->config;
    Error error = {0};
    *v = (Validator){.model = model};
    check(!mixture_is_meant(c->val_data), "--val-data %s: weights are for --train-data; here one pattern names all files, those of several "
          "sets too ('data/*_val_*.bin'), or each set has a run of its own (--eval-only)", c->val_data);
    check(shard_set_open(&v->set, c->val_data, &error), "--val-data: %s", error.text);
    LoaderConfig config = {.set = &v->set, .B = (size_t)model->B, .T = (size_t)model->T, .micro_steps = 1,
                           .rank = (uint64_t)c->rank, .n_ranks = (uint64_t)c->ranks, .seed = SEED, .vocab = (uint32_t)model->V, .shuffle = true,
                           .tells = c->rank == 0};
    check(documents_of(&config.documents, c, &v->set, &error), "--val-data: %s", error.text);
    v->loader = loader_create(&config, &error);
    check(v->loader, "--val-data: %s", error.text);

    int64_t all = (int64_t)loader_windows_per_epoch(v->loader), batches = (all + model->B - 1) / model->B;
    int64_t asked = (c->val_tokens + model->T - 1) / model->T; /* windows */
    int64_t most = asked ? (asked + model->B - 1) / model->B : c->val_batches == AUTO_INT ? BATCHES_AUTO : c->val_batches;
    v->batches = batches < most ? batches : most;
    if (asked && asked < all) all = asked;
    v->all_batches = batches;
    v->windows = all < v->batches * model->B ? all : v->batches * model->B;
    v->state = arena_memory(model->k, sizeof *v->state, "validation", "free some memory");
    v->bytes = arena_memory(model->k, sizeof *v->bytes, "validation", "free some memory");
    feed_create(&v->feed, model);
}

void validator_destroy(Validator *v) {
    loader_destroy(v->loader);
    shard_set_close(&v->set);
    v->model->k->release(v->state);
    v->model->k->release(v->bytes);
    free(v->length);
    feed_destroy(&v->feed);
}

static double bytes_of(const Validator *v, const uint32_t *targets, int64_t count) {
    double bytes = 0;
    for (int64_t i = 0; v->length && i < count; i++) bytes += targets[i] == TARGET_IGNORED ? 0 : v->length[targets[i]];
    return bytes;
}

bool validator_run(Validator *v, Validation *out, Error *error) {
    Model *m = v->model;
    if (!loader_seek(v->loader, 0, error)) return false;
    m->k->step_begin(m->queue, &(StepBegin){.state = v->state});
    int64_t ranks = m->config->ranks;
    double bytes = 0; /* of this rank's */
    for (int64_t batch = m->config->rank; batch < (v->batches + ranks - 1) / ranks * ranks; batch += ranks) {
        struct FeedSlot *slot = feed_open(&v->feed);
        Batch into = {.tokens = slot->tokens, .targets = slot->targets, .document_start = slot->document_start,
                      .position = slot->position};
        if (!loader_next(v->loader, &into, error)) return false;
        int64_t rows = v->windows - batch * m->B; /* that count */
        const int64_t counts = rows <= 0 ? 0 : rows < m->B ? rows * m->T : m->N;
        bytes += bytes_of(v, slot->targets, counts);
        for (int64_t i = counts; i < m->N; i++) slot->targets[i] = TARGET_IGNORED;
        feed_send(&v->feed);
        model_forward(m, false);
        model_head(m, v->state, false);
    }
    model_await(m);
    m->k->copy(m->queue, v->bytes, &bytes, sizeof bytes, COPY_TO_DEVICE);
    double *sums[] = {&v->state->loss_sum, v->bytes};
    for (int i = 0; ranks > 1 && i < 2; i++)
        m->k->all_reduce_sum(m->queue, &(Collective){.type = DTYPE_F64, .count = 1, .buffer = sums[i]});
    StepState seen;
    m->k->copy(m->queue, &seen, v->state, sizeof seen, COPY_TO_HOST);
    m->k->copy(m->queue, &out->bytes, v->bytes, sizeof out->bytes, COPY_TO_HOST);
    m->k->queue_wait(m->queue);
    out->tokens = (int64_t)loader_targets(v->loader, 0, (uint64_t)v->windows);
    out->loss = seen.loss_sum / (double)out->tokens;
    return true;
}
