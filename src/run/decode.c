/* decode.c: see decode.h. */
#include "decode.h"
#include "../base/at_work.h"
#include "../model/fetch.h"
#include "log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A place in the batch. */
typedef struct Place {
    bool taken;
    size_t prompt;      /* its number */
    int64_t drawn;      /* new tokens so far */
    uint32_t *window;   /* [capacity] the tokens that the next one follows */
    int count, fed;     /* in the window; of these in the cache */
} Place;

typedef struct Decoder {
    const Decoding *d;
    const Prompts *prompts;
    size_t next;        /* the first prompt that waits */
    Place *places;      /* [d->batch] */
    int capacity;
    double *logits;     /* [batch, V] */
    char *rooms;        /* [batch] of the sampler's */
    uint32_t *tokens, *lengths; /* [batch] a step's */
    DecodeCost *cost;
    bool enough;
} Decoder;

/* ------------------------------------------------------------------------------------------------------
 * One text
 * ---------------------------------------------------------------------------------------------------- */

/* The last of a prompt that is longer than the window. */
static void take_place(Decoder *b, Place *place) {
    const Prompt *prompt = &b->prompts->list[b->next];
    const int64_t skip = prompt->count > b->capacity ? prompt->count - b->capacity : 0;
    place->taken = true;
    place->prompt = b->next++;
    place->drawn = 0;
    place->fed = 0;
    place->count = (int)(prompt->count - skip);
    memcpy(place->window, prompt->tokens + skip, (size_t)place->count * sizeof *place->window);
}

/* A full window goes on from its second half. */
static void append(Decoder *b, Place *place, uint32_t token) {
    if (place->count == b->capacity) {
        place->count = b->capacity / 2;
        memmove(place->window, place->window + b->capacity - place->count, (size_t)place->count * sizeof *place->window);
        place->fed = 0;
    }
    place->window[place->count++] = token;
}

static void deliver(Decoder *b, Place *place, uint32_t token) {
    const Decoding *d = b->d;
    const bool ends = token == d->end_token;
    place->drawn++;
    if (!ends) {
        append(b, place, token);
        b->enough |= !d->take(d->context, place->prompt, token, TEXT_GOES_ON);
    }
    if (!ends && place->drawn < d->most) return;
    place->taken = false;
    b->enough |= !d->take(d->context, place->prompt, 0, ends ? TEXT_DOCUMENT : TEXT_LENGTH);
}

static bool are_finite(const double *logits, int V) {
    for (int i = 0; i < V; i++)
        if (!isfinite(logits[i])) return false;
    return true;
}

/* Draws from the first `rows` rows of logits: those of the places in order, or of `only`. */
static bool draw(Decoder *b, int rows, Place *only) {
    Model *m = b->d->model;
    const size_t room = sampler_room_bytes(m->V);
    bool finite = true;
    fetch_rows(m, m->logits, m->k->storage, 0, rows, m->V, b->logits);
#pragma omp parallel for schedule(dynamic) reduction(&& : finite) if (rows > 1)
    for (int r = 0; r < rows; r++) {
        const Place *place = only ? only : &b->places[r];
        const double *logits = b->logits + (size_t)r * (size_t)m->V;
        if (!place->taken) continue;
        finite = finite && are_finite(logits, m->V);
        if (finite)
            b->tokens[r] = sampler_draw(&b->d->sampler, logits, m->V, b->prompts->list[place->prompt].seed,
                                        (uint64_t)place->drawn, b->rooms + (size_t)r * room);
    }
    return finite;
}

/* ------------------------------------------------------------------------------------------------------
 * The batch
 * ---------------------------------------------------------------------------------------------------- */

/* What is not in the cache yet goes through the model, but for a last token that a step can take. */
static bool feed_prompts(Decoder *b) {
    for (int i = 0; i < b->d->batch && !b->enough; i++) {
        Place *place = &b->places[i];
        while (!b->enough && (place->taken || b->next < b->prompts->count)) {
            if (!place->taken) take_place(b, place);
            if (place->fed && place->count - place->fed == 1) break;
            const double begin = log_seconds();
            model_prefill(b->d->model, i, place->window, place->count, 0);
            b->cost->prompt_tokens += place->count;
            b->cost->prompt_seconds += log_seconds() - begin;
            place->fed = place->count;
            if (!draw(b, 1, place)) return false;
            deliver(b, place, b->tokens[0]);
        }
    }
    return true;
}

/* A token for every text. A place that is free in the midst of others goes along, at length 0: its token is nobody's. */
static bool step(Decoder *b) {
    int rows = 0;
    for (int i = 0; i < b->d->batch; i++) {
        const Place *place = &b->places[i];
        b->tokens[i] = place->taken ? place->window[place->fed] : 0;
        b->lengths[i] = place->taken ? (uint32_t)place->fed : 0;
        if (place->taken) rows = i + 1;
    }
    if (rows == 0 || b->enough) return true;
    const double begin = log_seconds();
    model_decode(b->d->model, rows, b->tokens, b->lengths);
    if (!draw(b, rows, NULL)) return false;
    for (int i = 0; i < rows; i++) {
        Place *place = &b->places[i];
        if (!place->taken) continue;
        b->cost->new_tokens++;
        place->fed++;
        deliver(b, place, b->tokens[i]);
    }
    b->cost->new_seconds += log_seconds() - begin;
    return true;
}

static bool all_done(const Decoder *b) {
    for (int i = 0; i < b->d->batch; i++)
        if (b->places[i].taken) return false;
    return b->next == b->prompts->count;
}

static void open_batch(Decoder *b) {
    Model *m = b->d->model;
    const size_t places = (size_t)b->d->batch;
    if (!m->cache.capacity) model_open_cache(m, b->d->batch);
    b->capacity = m->cache.capacity;
    b->places = must_calloc(places, sizeof *b->places, "a sample");
    for (size_t i = 0; i < places; i++)
        b->places[i].window = must_malloc((size_t)b->capacity * sizeof *b->places[i].window, "a sample");
    b->logits = must_malloc(places * (size_t)m->V * sizeof *b->logits, "a sample");
    b->rooms = must_malloc(places * sampler_room_bytes(m->V), "a sample");
    b->tokens = must_malloc(places * sizeof *b->tokens, "a sample");
    b->lengths = must_malloc(places * sizeof *b->lengths, "a sample");
}

static void close_batch(Decoder *b) {
    for (int i = 0; i < b->d->batch; i++) free(b->places[i].window);
    free(b->places), free(b->logits), free(b->rooms), free(b->tokens), free(b->lengths);
}

bool decode_all(const Decoding *decoding, const Prompts *prompts, DecodeCost *cost, Error *error) {
    Decoder batch = {.d = decoding, .prompts = prompts, .cost = cost};
    bool finite = true;
    *cost = (DecodeCost){0};
    open_batch(&batch);
    while (finite && !batch.enough && !all_done(&batch)) {
        at_work();
        finite = feed_prompts(&batch) && step(&batch);
    }
    close_batch(&batch);
    return finite || error_set(error, "the model's logits are not finite: these weights have diverged");
}
