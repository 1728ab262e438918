/* run.c: see run.h. */
#include "run.h"
#include "../checkpoint/pretrained.h"
#include "../data/documents.h"
#include "../data/fingerprint.h"
#include "../data/mixture.h"
#include "../ranks/rendezvous.h"
#include "capacity.h"

#include <stdlib.h>
#include <string.h>

static void load_weights(Run *run) {
    const Config *c = &run->start.config;
    Model *model = &run->model;
    Error error = {0};
    if (run->start.resume_from[0]) {
        Optimizer *optimizer = model->train && !c->probe ? &run->optimizer : NULL;
        check(checkpoint_load(run->start.resume_from, c, model, optimizer, &run->resumed, &error), "%s", error.text);
        run->step = run->resumed.step;
    } else if (c->init_from) {
        const InitFrom *from = &run->start.init_from;
        check(pretrained_load(model, from->weights, init_from_hint(from), &error), "--init-from %s", error.text);
        model_refresh(model);
    } else {
        size_t bytes = (size_t)model->params.elements * dtype_size(model->k->accum);
        void *arena = must_calloc(1, bytes, "initial weights");
        params_init(&model->params, c, model->k->accum, arena);
        model_load(model, arena);
        model_refresh(model);
        free(arena);
    }
}

/* A checkpoint beyond this run's step would be taken for its own: --keep and --resume auto go by the step. (What
 * --resume auto has passed over is no checkpoint.) */
static bool fits_into_out(const Run *run, Error *error) {
    const char *out = run->start.config.out, *resume = run->start.config.resume;
    if (resume && strcmp(resume, "auto") == 0) return true;
    const int64_t step = out ? checkpoint_newest_step(out) : -1;
    if (step > run->step)
        return error_set(error, "--out %s holds step_%08lld already, and this run is at step %lld: --resume auto goes on from it; else "
                         "remove it, or take another directory", out, (long long)step, (long long)run->step);
    return step < 0 || run->start.config.allow_change || checkpoint_stands_in(run->start.resume_from, out) ||
           error_set(error, "--out %s holds checkpoints of a run of its own, and %s is none of them: --keep would drop them for this "
                     "run's; take another directory, or give --allow-change", out, run->start.resume_from);
}

void run_check_out(const Run *run) {
    Error why;
    if (!ranks_well(&run->start.ranks, run->k, fits_into_out(run, &why), &why))
        ranks_end(&run->start.ranks, run->k, EXIT_USAGE, "%s", why.text);
}

void run_open_model(Run *run, bool train) {
    capacity_check(&run->start.config, run->k, &run->start.ranks, train);
    model_create(&run->model, &run->start.config, run->k, train);
    if (train) optimizer_create(&run->optimizer, &run->model);
    ranks_work_begin(&run->start.ranks, run->k, run->start.config.timeout);
    load_weights(run);
    ranks_work_end();
}

void run_open_training_data(Run *run) {
    const Config *c = &run->start.config;
    const Model *model = &run->model;
    Error error = {0};
    check(c->train_data, "--train-data is missing: shards to train on, as data/prepare.py writes them; "
                         "`make demo` makes some, --smoke needs none");
    check(mixture_open(&run->train_set, c->train_data, &error), "--train-data: %s", error.text);
    LoaderConfig config = {.set = &run->train_set,
                           .B = (size_t)model->B,
                           .T = (size_t)model->T,
                           .micro_steps = (uint64_t)c->micro_steps,
                           .rank = (uint64_t)c->rank,
                           .n_ranks = (uint64_t)c->ranks,
                           .seed = (uint64_t)c->seed,
                           .first_step = (uint64_t)run->step,
                           .vocab = (uint32_t)model->V,
                           .shuffle = true,
                           .tells = c->rank == 0};
    check(documents_of(&config.documents, c, &run->train_set, &error), "--train-data: %s", error.text);
    run->loader = loader_create(&config, &error);
    check(run->loader, "--train-data: %s", error.text);
    feed_create(&run->feed, &run->model);
}

void run_close_training_data(Run *run) {
    loader_destroy(run->loader);
    shard_set_close(&run->train_set);
    feed_destroy(&run->feed);
}

bool run_next_batch(Run *run, const struct FeedSlot *into, Error *error) {
    return loader_next(run->loader, &(Batch){.tokens = into->tokens, .targets = into->targets,
                                             .document_start = into->document_start, .position = into->position}, error);
}

/* The bytes of tokens as their set, or else the weights', have them. */
void run_open_validation(Run *run) {
    TokenBytes table;
    Error error = {0};
    validator_create(&run->validator, &run->model);
    check(generate_table(&table, &run->start, &run->validator.set, &error), "--val-data: %s", error.text);
    validator_know_bytes(&run->validator, &table);
    token_bytes_free(&table);
}

char *run_print_of(const ShardSet *set, const char *flag) {
    Fingerprint print;
    Error error = {0};
    check(fingerprint_take(set, &print, &error), "--%s: %s", flag, error.text);
    char *text = fingerprint_text(&print);
    fingerprint_free(&print);
    return text;
}
