/* likelihood.c: see likelihood.h. */
#include "likelihood.h"
#include "../model/losses.h"

#include <stdlib.h>
#include <string.h>

enum { LENGTHS = 16 }; /* rows of a pass are as long as a multiple of it: fewer shapes to choose kernels for */

/* One row: a continuation after what is left of its context. */
typedef struct Unit {
    Answer *answer;
    int choice, skip;             /* tokens of the context that do not fit */
    int inputs;                   /* tokens that the model reads */
    const uint32_t *continuation;
} Unit;

struct Likelihood {
    Model *model;
    uint32_t *tokens, *targets; /* [N] */
    double *losses;             /* [N] */
    bool *likeliest;            /* [N] */
    Span *span;                 /* [N] */
    Unit *unit;                 /* of the call */
    size_t units, room;
};

Likelihood *likelihood_create(Model *model) {
    const size_t N = (size_t)model->N;
    Likelihood *l = must_calloc(1, sizeof *l, "an evaluation");
    *l = (Likelihood){.model = model,
                      .tokens = model->k->host_alloc(N * sizeof *l->tokens),
                      .targets = model->k->host_alloc(N * sizeof *l->targets),
                      .losses = must_malloc(N * sizeof *l->losses, "losses"),
                      .likeliest = must_malloc(N * sizeof *l->likeliest, "an evaluation"),
                      .span = must_malloc(N * sizeof *l->span, "an evaluation")};
    require(l->tokens && l->targets, "out of memory: %zu bytes of host memory for batches; lower --batch-size", 8 * N);
    return l;
}

void likelihood_destroy(Likelihood *l) {
    l->model->k->host_release(l->tokens);
    l->model->k->host_release(l->targets);
    free(l->losses), free(l->likeliest), free(l->span), free(l->unit);
    free(l);
}

/* Tokens of the context that one continuation leaves no room for: at least one stays. */
static int skip_of(const Item *item, int choice, int seq_len) {
    const int excess = item->context + item->length[choice] - (seq_len + 1);
    return excess > 0 ? excess : 0;
}

static int inputs_of(const Item *item, int choice, int seq_len) {
    return item->context + item->length[choice] - 1 - skip_of(item, choice, seq_len);
}

int64_t likelihood_tokens(const Item *item, int seq_len) {
    int64_t tokens = 0;
    for (int i = 0; i < item->choices; i++) tokens += inputs_of(item, i, seq_len);
    return tokens;
}

static void add_units(Likelihood *l, Answer *answer) {
    const Item *item = &answer->item;
    const int T = l->model->T;
    const uint32_t *continuation = item->tokens + item->context;
    if (l->room < l->units + (size_t)item->choices) {
        l->room = 2 * (l->units + (size_t)item->choices);
        l->unit = realloc(l->unit, l->room * sizeof *l->unit);
        require(l->unit, "out of memory: %zu continuations", l->room);
    }
    answer->likelihood = must_calloc((size_t)item->choices, sizeof *answer->likelihood, "answers");
    answer->cropped = 0;
    for (int i = 0; i < item->choices; i++) {
        const int skip = skip_of(item, i, T);
        l->unit[l->units++] = (Unit){answer, i, skip, inputs_of(item, i, T), continuation};
        answer->cropped += skip > 0;
        continuation += item->length[i];
    }
}

/* Longest first; rows as long as each other stay in their order. */
static int compare_units(const void *a, const void *b) {
    const Unit *x = a, *y = b;
    if (x->inputs != y->inputs) return x->inputs < y->inputs ? 1 : -1;
    if (x->answer != y->answer) return x->answer < y->answer ? -1 : 1;
    return x->choice - y->choice;
}

/* Lays one row out; returns how many targets it has. */
static int lay_row(const Unit *u, uint32_t *tokens, uint32_t *targets) {
    const Item *item = &u->answer->item;
    const int context = item->context - u->skip, length = item->length[u->choice];
    memcpy(tokens, item->tokens + u->skip, (size_t)context * sizeof *tokens);
    memcpy(tokens + context, u->continuation, (size_t)(length - 1) * sizeof *tokens);
    memcpy(targets, u->continuation, (size_t)length * sizeof *targets);
    return length;
}

static void read_row(const Unit *u, const double *losses, const bool *likeliest) {
    const int length = u->answer->item.length[u->choice];
    double sum = 0;
    bool all = u->answer->item.last_word;
    for (int i = 0; i < length; i++) {
        sum += losses[i];
        all = all && likeliest[i];
    }
    u->answer->likelihood[u->choice] = -sum;
    u->answer->likeliest = all;
}

/* One pass over the first of `left` units; returns how many it took. */
static int pass(Likelihood *l, const Unit *unit, size_t left, int64_t *read) {
    Model *m = l->model;
    int T = (unit->inputs + LENGTHS - 1) / LENGTHS * LENGTHS;
    if (T > m->T) T = m->T;
    const int room = (int)(m->N / T), B = left < (size_t)room ? (int)left : room;
    bool last_words = false;
    int64_t targets = 0;
    *read = 0;
    memset(l->tokens, 0, (size_t)B * (size_t)T * sizeof *l->tokens);
    for (int b = 0; b < B; b++) {
        const Unit *u = &unit[b];
        const int count = lay_row(u, l->tokens + (size_t)b * (size_t)T, l->targets + targets);
        l->span[b] = (Span){(int64_t)b * T + u->inputs - count, count};
        targets += count;
        *read += u->inputs;
        last_words = last_words || u->answer->item.last_word;
    }
    model_losses(m, &(Losses){.B = B, .T = T, .tokens = l->tokens, .spans = B, .span = l->span, .targets = l->targets,
                              .losses = l->losses, .likeliest = last_words ? l->likeliest : NULL});
    targets = 0;
    for (int b = 0; b < B; b++) {
        read_row(&unit[b], l->losses + targets, l->likeliest + targets);
        targets += l->span[b].count;
    }
    return B;
}

bool likelihood_of(Likelihood *l, Answer *answers, int count, bool (*go_on)(void *, int64_t), void *context) {
    l->units = 0;
    for (int i = 0; i < count; i++) add_units(l, &answers[i]);
    qsort(l->unit, l->units, sizeof *l->unit, compare_units);
    for (size_t done = 0; done < l->units;) {
        int64_t read;
        done += (size_t)pass(l, l->unit + done, l->units - done, &read);
        if (!go_on(context, read)) return false;
    }
    return true;
}
