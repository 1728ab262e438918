/* loader.c: see loader.h. */
#define _GNU_SOURCE
#include "loader.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernels/kernels.h"

enum { DEFAULT_DEPTH = 8, MAX_AHEAD = 8 };

struct Loader {
    LoaderConfig config;
    Rows rows_of_documents; /* with documents.apart */
    WindowOrder order;
    ShardReader *reader;  /* the thread's while it runs */
    size_t ahead;         /* batches whose pages are asked for before they are read, 1 to MAX_AHEAD */
    WindowPlace *advised; /* [ahead, B]: the windows of batch k at k % ahead */
    uint32_t *rows;       /* [depth, B, T + 1]: batch k at k % depth */
    uint32_t *counts;     /* [depth, B] tokens in each */
    uint64_t first_batch; /* batches are counted from step 0 on: step × micro_steps + micro-step */
    uint64_t tokens_served;

    pthread_t thread;
    bool running;
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t ready, space;
    /* Batches, counted as first_batch is; the rows of [consumed, produced) are the consumer's. */
    uint64_t produced, consumed;
    bool stop, failed;
    Error error; /* valid once failed */
};

static uint64_t position_of(const LoaderConfig *config, uint64_t batch) {
    return (batch * config->n_ranks + config->rank) * config->B;
}

/* Finds a batch's windows and asks for their pages. */
static void advise_batch(Loader *loader, uint64_t batch) {
    const size_t B = loader->config.B;
    const uint64_t first = position_of(&loader->config, batch);
    WindowPlace *places = loader->advised + batch % loader->ahead * B;
    for (size_t b = 0; b < B; b++) {
        places[b] = order_at(&loader->order, first + b);
        shard_advise(loader->reader, places[b].shard, places[b].first_token, places[b].tokens);
    }
}

static bool read_batch(Loader *loader, uint64_t batch, Error *error) {
    const LoaderConfig *config = &loader->config;
    const WindowPlace *places = loader->advised + batch % loader->ahead * config->B;
    uint32_t *rows = loader->rows + batch % config->depth * config->B * (config->T + 1);
    uint32_t *counts = loader->counts + batch % config->depth * config->B;
    for (size_t b = 0; b < config->B; b++) {
        if (!shard_read(loader->reader, places[b].shard, places[b].first_token, places[b].tokens, config->vocab,
                        rows + b * (config->T + 1), error))
            return false;
        counts[b] = (uint32_t)places[b].tokens;
    }
    return true;
}

/* Waits until there is room for one more batch. False when it is time to end. */
static bool wait_for_space(Loader *loader) {
    pthread_mutex_lock(&loader->mutex);
    while (!loader->stop && loader->produced - loader->consumed == loader->config.depth)
        pthread_cond_wait(&loader->space, &loader->mutex);
    const bool go_on = !loader->stop;
    pthread_mutex_unlock(&loader->mutex);
    return go_on;
}

static void *prefetch(void *argument) {
    Loader *loader = argument;
    uint64_t batch = loader->first_batch;
    bool good = true;
    for (uint64_t k = 0; k < loader->ahead; k++) advise_batch(loader, batch + k);
    for (; good && wait_for_space(loader); batch++) {
        Error error;
        good = read_batch(loader, batch, &error);
        if (good) advise_batch(loader, batch + loader->ahead);
        pthread_mutex_lock(&loader->mutex);
        if (good)
            loader->produced++;
        else
            loader->failed = true, loader->error = error;
        pthread_cond_signal(&loader->ready);
        pthread_mutex_unlock(&loader->mutex);
    }
    return NULL;
}

static bool start(Loader *loader, uint64_t step, Error *error) {
    const LoaderConfig *config = &loader->config;
    uint64_t product;
    /* A run may then go on for 2^61 positions more before a number overflows. */
    if (__builtin_mul_overflow(step, config->micro_steps, &loader->first_batch) ||
        __builtin_mul_overflow(loader->first_batch, config->n_ranks, &product) ||
        __builtin_mul_overflow(product, config->B, &product) || product > UINT64_C(1) << 61)
        return error_set(error, "step %" PRIu64 " is beyond what the data order can count", step);
    loader->produced = loader->consumed = loader->first_batch;
    loader->stop = loader->failed = false;
    /* Signals are the main thread's: it decides between a checkpoint and an end. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int status = pthread_create(&loader->thread, NULL, prefetch, loader);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status != 0) return error_set(error, "cannot start the data thread: %s", strerror(status));
    loader->running = true;
    return true;
}

static void stop(Loader *loader) {
    if (!loader->running) return;
    pthread_mutex_lock(&loader->mutex);
    loader->stop = true;
    pthread_cond_signal(&loader->space);
    pthread_mutex_unlock(&loader->mutex);
    pthread_join(loader->thread, NULL);
    loader->running = false;
}

static bool config_valid(const LoaderConfig *config, Error *error) {
    size_t bytes;
    if (config->B == 0 || config->T == 0 || config->micro_steps == 0 || config->n_ranks == 0 ||
        config->vocab == 0)
        return error_set(error,
                         "batch %zu, sequence length %zu, micro-steps %" PRIu64 ", ranks %" PRIu64
                         ", vocabulary %" PRIu32 ": none may be 0",
                         config->B, config->T, config->micro_steps, config->n_ranks, config->vocab);
    if (config->rank >= config->n_ranks)
        return error_set(error, "rank %" PRIu64 " of %" PRIu64, config->rank, config->n_ranks);
    if (config->T == SIZE_MAX || __builtin_mul_overflow(config->T + 1, config->B, &bytes) ||
        __builtin_mul_overflow(bytes, config->depth, &bytes) ||
        __builtin_mul_overflow(bytes, sizeof(uint32_t), &bytes) ||
        __builtin_mul_overflow(config->B, MAX_AHEAD * sizeof(WindowPlace), &bytes))
        return error_set(error, "%zu batches of %zu × %zu tokens are beyond memory", config->depth, config->B,
                         config->T);
    return true;
}

/* A file opened for advice should still be open when its window is read: where a shuffled order meets more
   shards than may be open, opening each twice halves the rate. */
static size_t batches_ahead(const ShardReader *reader, const LoaderConfig *config) {
    const size_t open = shard_reader_max_open(reader), ahead = open / 2 / config->B;
    if (open == config->set->n_shards || ahead > MAX_AHEAD) return MAX_AHEAD;
    return ahead ? ahead : 1;
}

Loader *loader_create(const LoaderConfig *given, Error *error) {
    LoaderConfig config = *given;
    if (config.depth == 0) config.depth = DEFAULT_DEPTH;
    if (!config_valid(&config, error)) return NULL;
    Loader *loader = must_calloc(1, sizeof *loader, "the data loader");
    const Rows *rows = config.documents.apart ? &loader->rows_of_documents : NULL;
    if ((rows && !rows_find(&loader->rows_of_documents, config.set, config.T, &config.documents, config.vocab, config.tells, error)) ||
        !order_create(&loader->order, config.set, config.T, config.seed, config.shuffle, rows, error)) {
        rows_free(&loader->rows_of_documents);
        free(loader);
        return NULL;
    }
    loader->config = config;
    loader->reader = shard_reader_create(config.set);
    loader->ahead = batches_ahead(loader->reader, &config);
    loader->advised = must_calloc(loader->ahead * config.B, sizeof loader->advised[0], "the data loader");
    loader->rows =
        must_malloc(config.depth * config.B * (config.T + 1) * sizeof loader->rows[0], "prefetched batches");
    loader->counts = must_malloc(config.depth * config.B * sizeof loader->counts[0], "prefetched batches");
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->ready, NULL);
    pthread_cond_init(&loader->space, NULL);
    if (start(loader, config.first_step, error)) return loader;
    loader_destroy(loader);
    return NULL;
}

bool loader_seek(Loader *loader, uint64_t step, Error *error) {
    stop(loader);
    return start(loader, step, error);
}

void loader_destroy(Loader *loader) {
    if (!loader) return;
    stop(loader);
    pthread_cond_destroy(&loader->space);
    pthread_cond_destroy(&loader->ready);
    pthread_mutex_destroy(&loader->mutex);
    shard_reader_destroy(loader->reader);
    order_destroy(&loader->order);
    rows_free(&loader->rows_of_documents);
    free(loader->advised);
    free(loader->rows);
    free(loader->counts);
    free(loader);
}

/* True when a batch is there, false with the thread's error when none will come. */
static bool wait_for_batch(Loader *loader, Error *error) {
    pthread_mutex_lock(&loader->mutex);
    while (loader->produced == loader->consumed && !loader->failed)
        pthread_cond_wait(&loader->ready, &loader->mutex);
    const bool there = loader->produced != loader->consumed;
    if (!there) *error = loader->error;
    pthread_mutex_unlock(&loader->mutex);
    return there;
}

/* Row b of a batch from the tokens of its window. Of those that are fewer than T + 1, the last has no target. */
static void fill_row(const LoaderConfig *config, const uint32_t *row, size_t count, size_t b, Batch *batch) {
    const size_t T = config->T, inputs = count < T ? count : T;
    uint32_t *tokens = batch->tokens + b * T, *targets = batch->targets + b * T;
    memcpy(tokens, row, inputs * sizeof *row);
    memcpy(targets, row + 1, (count - 1) * sizeof *row);
    for (size_t t = inputs; t < T; t++) tokens[t] = config->documents.end;
    for (size_t t = count - 1; t < T; t++) targets[t] = TARGET_IGNORED;
    if (batch->position)
        documents_mark(tokens, T, config->documents.end, batch->document_start + b * T, batch->position + b * T);
}

bool loader_next(Loader *loader, Batch *batch, Error *error) {
    const LoaderConfig *config = &loader->config;
    const size_t B = config->B, T = config->T;
    if (!loader->running) return error_set(error, "the data loader is at no step");
    if (!batch->document_start != !batch->position || (batch->position && !config->documents.has_end))
        return error_set(error, "document starts and positions go together, and need a token that ends documents");
    if (!wait_for_batch(loader, error)) return false;
    /* Only this thread changes `consumed`, and the rows are its own until it does. */
    const uint64_t index = loader->consumed;
    const uint32_t *rows = loader->rows + index % config->depth * B * (T + 1);
    const uint32_t *counts = loader->counts + index % config->depth * B;
    for (size_t b = 0; b < B; b++) fill_row(config, rows + b * (T + 1), counts[b], b, batch);
    batch->step = index / config->micro_steps;
    batch->micro_step = index % config->micro_steps;
    batch->first_position = position_of(config, index);
    loader->tokens_served += (uint64_t)B * T;
    pthread_mutex_lock(&loader->mutex);
    loader->consumed++;
    pthread_cond_signal(&loader->space);
    pthread_mutex_unlock(&loader->mutex);
    return true;
}

uint64_t loader_targets(const Loader *loader, uint64_t first_position, uint64_t count) {
    return order_targets(&loader->order, first_position, count);
}
const Rows *loader_rows(const Loader *loader) {
    return loader->order.rows;
}
const Documents *loader_documents(const Loader *loader) {
    return &loader->config.documents;
}
const WindowOrder *loader_order(const Loader *loader) {
    return &loader->order;
}
uint64_t loader_tokens_served(const Loader *loader) {
    return loader->tokens_served;
}
uint64_t loader_windows_per_epoch(const Loader *loader) {
    return loader->order.n_windows;
}
uint64_t loader_tokens_dropped(const Loader *loader) {
    return loader->order.n_dropped_tokens;
}
