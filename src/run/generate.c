/* generate.c: see generate.h. */
#include "generate.h"
#include "../base/output.h"
#include "../base/philox.h"
#include "../base/printable.h"
#include "../model/fetch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BYTES = 256 };

bool generate_can(const Model *model) { return model->V <= BYTES; }

static int likeliest(const double *logits, int V) {
    int best = 0;
    for (int i = 1; i < V; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static int descending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* The k-th largest logit: what is below it is not sampled. */
static double threshold(const double *logits, int V, int64_t top_k) {
    if (top_k <= 0 || top_k >= V) return -INFINITY;
    double sorted[BYTES];
    memcpy(sorted, logits, (size_t)V * sizeof *sorted);
    qsort(sorted, (size_t)V, sizeof *sorted, descending);
    return sorted[top_k - 1];
}

static int sample(const double *logits, int V, const Config *c, double uniform) {
    int best = likeliest(logits, V);
    if (c->temperature == 0) return best;
    double weights[BYTES], total = 0, least = threshold(logits, V, c->top_k);
    for (int i = 0; i < V; i++) {
        weights[i] = logits[i] >= least ? exp((logits[i] - logits[best]) / c->temperature) : 0;
        total += weights[i];
    }
    double left = uniform * total;
    for (int i = 0; i < V; i++) {
        left -= weights[i];
        if (left < 0) return i;
    }
    return best;
}

/* Feeds tokens[from, count) and returns the logits after the last one; false if there is one that is not finite. */
static bool next_logits(Model *m, const uint32_t *tokens, int from, int count, double *logits) {
    model_decode(m, tokens + from, count - from, (uint32_t)from);
    fetch_rows(m, m->logits, m->k->storage, 0, 1, m->V, logits);
    for (int i = 0; i < m->V; i++)
        if (!isfinite(logits[i])) return false;
    return true;
}

/* Where a sample goes. */
typedef struct Page {
    bool terminal;
    Printable shown;
} Page;

static void put(Page *page, unsigned char byte) {
    char text[PRINTABLE_SIZE];
    if (!page->terminal) {
        putchar(byte);
        return;
    }
    printable_push(&page->shown, byte, text);
    fputs(text, stdout);
}

static void end(Page *page) {
    char text[PRINTABLE_SIZE];
    printable_end(&page->shown, text);
    puts(text);
}

bool generate(Model *m, const char *prompt, Error *error) {
    const Config *c = m->config;
    if (!m->cache.capacity) model_open_cache(m);
    int capacity = m->cache.capacity, count = 0, fed = 0;
    uint32_t *tokens = must_malloc((size_t)capacity * sizeof *tokens, "a sample");
    size_t length = strlen(prompt), skip = length > (size_t)capacity ? length - (size_t)capacity : 0;
    for (const char *at = prompt + skip; *at; at++) {
        check((unsigned char)*at < m->V, "--generate: the prompt's byte %u is not below --vocab-size %d",
              (unsigned)(unsigned char)*at, m->V);
        tokens[count++] = (unsigned char)*at;
    }
    if (count == 0) tokens[count++] = m->V > '\n' ? '\n' : 0; /* something to start from */
    Page page = {.terminal = isatty(STDOUT_FILENO)};
    for (const char *at = prompt; *at; at++) put(&page, (unsigned char)*at);

    double logits[BYTES];
    Error gone;
    bool finite = true;
    uint64_t stream = philox_name_hash("sample");
    for (int64_t i = 0; i < c->max_new_tokens; i++) {
        finite = next_logits(m, tokens, fed, count, logits);
        if (!finite) break;
        fed = count;
        int token = sample(logits, m->V, c, philox_uniform((uint64_t)c->seed, stream, (uint64_t)i));
        put(&page, (unsigned char)token);
        if (!output_flush(&gone)) break;
        if (count == capacity) { /* the window is full: go on from its second half */
            count = capacity / 2;
            memmove(tokens, tokens + capacity - count, (size_t)count * sizeof *tokens);
            fed = 0;
        }
        tokens[count++] = (uint32_t)token;
    }
    end(&page);
    free(tokens);
    return finite || error_set(error, "the model's logits are not finite: these weights have diverged");
}
