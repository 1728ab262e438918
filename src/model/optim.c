/* optim.c: see optim.h. */
#include "optim.h"

#include <stddef.h>
#include <stdlib.h>

_Static_assert(offsetof(StepState, loss_sum) == offsetof(StepInputs, stop) + sizeof(double) &&
                   offsetof(StepState, sum_squares) == offsetof(StepState, loss_sum) + sizeof(double),
               "what ranks reduce of the state stands together");

/* ------------------------------------------------------------------------------------------------------
 * Who does what
 * ---------------------------------------------------------------------------------------------------- */

size_t optimizer_moment_bytes(const Config *config, const Params *params, DType accum) {
    return (size_t)(params_shares(params, config, NULL) + params_second_moments(params, config, NULL)) * dtype_size(accum);
}

/* What bucket b's gradients travel in, and are summed over the ranks. */
static DType travel_type(const Config *c, const Params *params, int b, DType accum) {
    if (c->reduce_dtype == REDUCE_AUTO || params->bucket[b].begin >= params->vectors) return accum;
    return c->reduce_dtype == REDUCE_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

size_t optimizer_staging_bytes(const Config *config, const Params *params, DType accum) {
    size_t most = 0;
    for (int b = 0; config->ranks > 1 && b < params->buckets; b++) {
        DType type = travel_type(config, params, b, accum);
        size_t bytes = (size_t)(params->bucket[b].end - params->bucket[b].begin) * dtype_size(type);
        if (type != accum && bytes > most) most = bytes;
    }
    return most;
}

static bool is_sharded(const Optimizer *o, int b) {
    const Bucket *bucket = &o->model->params.bucket[b];
    return o->share[b].end - o->share[b].begin < bucket->end - bucket->begin;
}

/* Whether this rank updates everything. */
static bool holds_whole(const Optimizer *o) { return o->moments == o->model->params.elements; }

static size_t bytes_of(const Optimizer *o, int64_t elements) {
    return (size_t)elements * dtype_size(o->model->k->accum);
}

/* Where element 0 of the arenas would lie, were the share part of a whole arena: the update counts from there. */
static Accum *moments_base(const Optimizer *o, Accum *moments, const Share *share) {
    return element_of(moments, o->model->k->accum, share->moments - share->begin);
}

/* Whether bucket b's masters are in halves: all but the vectors'. */
static bool is_halved(const Model *model, int b) {
    return model->in_halves && model->params.bucket[b].begin < model->params.vectors;
}

/* ------------------------------------------------------------------------------------------------------ */

static size_t lost_bytes(const Optimizer *o) { return (size_t)o->model->config->ranks * sizeof *o->lost; }

static void lay_out(Optimizer *o, Arena *arena) {
    o->m = arena_take(arena, bytes_of(o, o->moments));
    o->v = arena_take(arena, bytes_of(o, o->second_moments));
    muon_lay_out(&o->muon, arena, o->model);
    o->slots = arena_take(arena, (size_t)o->model->params.count * sizeof *o->slots);
    o->state = arena_take(arena, sizeof *o->state);
    o->lost = arena_take(arena, lost_bytes(o));
    size_t staging = optimizer_staging_bytes(o->model->config, &o->model->params, o->model->k->accum);
    if (staging) o->staging = arena_take(arena, staging);
}

static void *host_memory(const Kernels *k, size_t bytes) {
    void *memory = k->host_alloc(bytes);
    require(memory, "out of memory: %zu bytes of host memory for the step's state", bytes);
    return memory;
}

/* An event a bucket that the ranks update a piece each. */
static Event **bucket_events(const Optimizer *o) {
    Event **events = must_calloc((size_t)o->model->params.buckets, sizeof *events, "the ranks' events");
    for (int b = 0; b < o->model->params.buckets; b++)
        if (is_sharded(o, b)) events[b] = o->model->k->event_create(EVENT_EXTERNAL);
    return events;
}

static void destroy_bucket_events(const Optimizer *o, Event **events) {
    for (int b = 0; events && b < o->model->params.buckets; b++)
        if (events[b]) o->model->k->event_destroy(events[b]);
    free(events);
}

/* What is reduced is waited for in one graph; what is gathered goes from graph to graph. */
static void open_exchange(Optimizer *o) {
    Model *model = o->model;
    const Kernels *k = model->k;
    o->exchange = k->queue_create(0);
    require(o->exchange, "out of memory for a queue");
    o->summed = k->event_create(EVENT_INTERNAL);
    o->reduced = k->event_create(EVENT_INTERNAL);
    if (holds_whole(o)) return;
    o->updated = bucket_events(o);
    model->arrived = bucket_events(o);
    model->exchanged = k->event_create(EVENT_EXTERNAL);
}

static void close_exchange(Optimizer *o) {
    Model *model = o->model;
    const Kernels *k = model->k;
    k->queue_wait(o->exchange);
    if (o->updated) {
        destroy_bucket_events(o, o->updated);
        destroy_bucket_events(o, model->arrived);
        k->event_destroy(model->exchanged);
        model->arrived = NULL;
        model->exchanged = NULL;
    }
    k->event_destroy(o->reduced);
    k->event_destroy(o->summed);
    k->queue_destroy(o->exchange);
}

void optimizer_create(Optimizer *o, Model *model) {
    const Kernels *k = model->k;
    *o = (Optimizer){.model = model};
    o->share = model->share;
    o->moments = model->owned;
    o->v_shift = must_calloc((size_t)model->params.count, sizeof *o->v_shift, "the optimizer's table");
    o->second_moments = params_second_moments(&model->params, model->config, o->v_shift);
    if (model->config->ranks > 1) open_exchange(o);
    Arena counted = {0}, placed = {0};
    lay_out(o, &counted);
    o->memory = placed.base = arena_memory(k, counted.used, "the optimizer's moments", "a smaller model takes less");
    lay_out(o, &placed);
    o->seen = host_memory(k, sizeof *o->seen);
    *o->seen = (StepState){0};
    for (int i = 0; i < STEPS_IN_FLIGHT; i++)
        o->report[i] = (StepReport){.inputs = host_memory(k, sizeof(StepInputs)),
                                    .seen = host_memory(k, sizeof(StepState)),
                                    .copied = k->event_create(EVENT_INTERNAL),
                                    .lost = o->updated ? host_memory(k, lost_bytes(o)) : NULL,
                                    .lost_copied = o->updated ? k->event_create(EVENT_INTERNAL) : NULL};

    ParamSlot *slots = params_slots(&model->params, model->config);
    k->copy(model->queue, o->slots, slots, (size_t)model->params.count * sizeof *slots, COPY_TO_DEVICE);
    k->queue_wait(model->queue);
    free(slots);
}

void optimizer_destroy(Optimizer *o) {
    const Kernels *k = o->model->k;
    k->queue_wait(o->model->queue);
    if (o->exchange) close_exchange(o);
    k->release(o->memory);
    k->host_release(o->seen);
    free(o->v_shift);
    for (int i = 0; i < STEPS_IN_FLIGHT; i++) {
        k->host_release(o->report[i].inputs);
        k->host_release(o->report[i].seen);
        k->event_destroy(o->report[i].copied);
        if (!o->report[i].lost) continue;
        k->host_release(o->report[i].lost);
        k->event_destroy(o->report[i].lost_copied);
    }
}

static Collective range(DType type, void *arena, const Bucket *bucket) {
    return (Collective){.type = type, .count = bucket->end - bucket->begin, .buffer = element_of(arena, type, bucket->begin)};
}

Accum *optimizer_masters(Optimizer *o) {
    const Model *model = o->model;
    const Kernels *k = model->k;
    model_await(model);
    if (!model->in_halves) return model->master;
    for (int b = 0; b < model->params.buckets; b++) {
        const Share *share = &o->share[b];
        const int64_t n = share->end - share->begin;
        Collective all = range(k->accum, model->grad, &model->params.bucket[b]);
        Accum *whole = element_of(model->grad, k->accum, share->begin);
        if (!is_halved(model, b)) k->copy(model->queue, whole, model_master(model, share->begin), bytes_of(o, n), COPY_ON_DEVICE);
        else k->halves(model->queue, &(Halves){.n = n,
                                               .join = true,
                                               .master = whole,
                                               .storage = element_of(model->storage, k->storage, share->begin),
                                               .lower = model_lower(model, share) + share->begin});
        if (is_sharded(o, b)) k->all_gather(model->queue, &all);
    }
    return model->grad;
}

void optimizer_gradients(Optimizer *o) {
    const Model *model = o->model;
    model_await(model);
    for (int b = 0; b < model->params.buckets; b++) {
        Collective all = range(model->k->accum, model->grad, &model->params.bucket[b]);
        if (is_sharded(o, b)) model->k->all_gather(model->queue, &all);
    }
}

void optimizer_begin(Optimizer *o, const StepInputs *inputs) {
    const Model *model = o->model;
    const Kernels *k = model->k;
    StepReport *report = &o->report[o->begun++ % STEPS_IN_FLIGHT];
    k->event_host_wait(report->copied);
    *report->inputs = *inputs;
    k->copy(model->queue, &o->state->in, report->inputs, sizeof *inputs, COPY_TO_DEVICE);
    k->event_record(model->queue, report->copied);
    k->step_begin(model->queue, &(StepBegin){.state = o->state});
    model_forget_gradients(o->model);
}

/* Element `begin` of the arena and what follows up to `end`, to the staging buffer of its bucket or from there. */
static void convert(const Optimizer *o, Queue *queue, const Bucket *bucket, int64_t begin, int64_t end, DType travels, bool out) {
    const Model *model = o->model;
    DType accum = model->k->accum;
    void *arena = element_of(model->grad, accum, begin), *staged = element_of(o->staging, travels, begin - bucket->begin);
    model->k->cast(queue, &(Cast){.n = end - begin,
                                  .from = out ? accum : travels,
                                  .to = out ? travels : accum,
                                  .src = out ? arena : staged,
                                  .dst = out ? staged : arena});
}

/* Sums bucket b over the ranks, in the queue. Who updates all of it needs all of it. */
static void reduce_bucket(const Optimizer *o, Queue *queue, int b) {
    const Model *model = o->model;
    const Bucket *bucket = &model->params.bucket[b];
    const DType accum = model->k->accum, travels = travel_type(model->config, &model->params, b, accum);
    const bool sharded = is_sharded(o, b);
    Collective gradients = range(accum, model->grad, bucket);
    if (travels != accum) {
        convert(o, queue, bucket, bucket->begin, bucket->end, travels, true);
        gradients.type = travels;
        gradients.buffer = o->staging;
    }
    model->k->reduce_scatter_sum(queue, &gradients);
    if (!sharded) model->k->all_gather(queue, &gradients);
    if (travels == accum) return;
    const Share *share = &o->share[b];
    convert(o, queue, bucket, sharded ? share->piece_begin : bucket->begin, sharded ? share->piece_end : bucket->end, travels,
            false);
}

void optimizer_reduce(Optimizer *o, int layer) {
    const Model *model = o->model;
    const Kernels *k = model->k;
    if (!o->exchange) return;
    bool begun = false;
    for (int b = model->params.buckets - 1; b >= 0; b--) {
        if (model->params.bucket[b].ready != layer) continue;
        if (!begun) {
            k->event_record(model->queue, o->summed);
            k->event_wait(o->exchange, o->summed);
            /* In a graph this is no part of that queue, and comes behind what was put there before all the same. */
            if (model->exchanged) k->event_wait(o->exchange, model->exchanged);
        }
        begun = true;
        reduce_bucket(o, o->exchange, b);
    }
    if (layer >= 0) return;
    k->event_record(o->exchange, o->reduced);
    k->event_wait(model->queue, o->reduced);
}

/* The state's sums: each rank's losses, squares of its pieces, and whether it wants to stop. */
static void reduce_sums(const Optimizer *o) {
    if (!o->exchange) return;
    o->model->k->all_reduce_sum(o->model->queue, &(Collective){.type = DTYPE_F64, .count = 2 + CLIP_GROUPS,
                                                              .buffer = &o->state->in.stop});
}

static void decide(const Optimizer *o) {
    const Model *model = o->model;
    const Config *c = model->config;
    for (int b = 0; b < model->params.buckets; b++)
        model->k->sum_squares(model->queue, &(SumSquares){
            .grad = model->grad,
            .begin = o->share[b].piece_begin,
            .end = o->share[b].piece_end,
            .slots = o->slots,
            .n_slots = model->params.count,
            .state = o->state,
        });
    reduce_sums(o);
    model->k->step_decide(model->queue, &(StepDecide){
        .state = o->state,
        .beta1 = c->beta1,
        .beta2 = c->beta2,
        .grad_clip = c->grad_clip,
        .gate_clip = c->gpas_clip,
        .clip_eps = c->clip_eps,
        .skip_sigma = c->skip_sigma,
    });
}

/* A run of parameters that are AdamW's, in the share of bucket b. */
static void update_run(const Optimizer *o, int b, int64_t begin, int64_t end, int64_t v_shift) {
    const Model *model = o->model;
    const Config *c = model->config;
    const bool halved = is_halved(model, b);
    if (begin == end) return;
    model->k->adamw(model->queue, &(AdamW){
        .master = halved ? NULL : model_master(model, 0),
        .storage = halved ? model->storage : NULL,
        .lower = halved ? model_lower(model, &o->share[b]) : NULL,
        .grad = model->grad,
        .m = moments_base(o, o->m, &o->share[b]),
        .v = element_of(o->v, model->k->accum, v_shift),
        .begin = begin,
        .end = end,
        .slots = o->slots,
        .n_slots = model->params.count,
        .state = o->state,
        .beta1 = c->beta1,
        .beta2 = c->beta2,
        .eps = c->adam_eps,
    });
}

/* All of the share at once, unless Muon's matrices stand between. */
static void update_share(const Optimizer *o, int b) {
    const Params *params = &o->model->params;
    const Share *share = &o->share[b];
    int64_t begin = share->begin, end = begin, v_shift = 0;
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        const int64_t first = p->offset > share->begin ? p->offset : share->begin;
        const int64_t last = p->offset + p->count < share->end ? p->offset + p->count : share->end;
        if (p->optimizer != OPTIMIZER_ADAMW || last <= first) continue;
        if (first > end) {
            update_run(o, b, begin, end, v_shift);
            begin = first;
        }
        end = last;
        v_shift = o->v_shift[i]; /* the same all along a run */
    }
    update_run(o, b, begin, end, v_shift);
}

/* Its collectives are in the model's queue, which the exchange has come to rest before: all of it goes before the first
 * weights are gathered. */
static void update_matrices(const Optimizer *o) {
    const Model *model = o->model;
    for (int b = 0; b < model->params.buckets; b++)
        if (muon_has(&model->params, b))
            muon_update(&o->muon, &(MuonBucket){
                .bucket = b,
                .share = &o->share[b],
                .sharded = is_sharded(o, b),
                .m = moments_base(o, o->m, &o->share[b]),
                .slots = o->slots,
                .state = o->state,
            });
}

/* What this rank's shares have lost is put aside, for all to know. The state then counts on in what all of them update
 * alike. */
static void put_aside_lost(const Optimizer *o) {
    const Model *model = o->model;
    const Kernels *k = model->k;
    k->copy(model->queue, &o->lost[model->config->rank], &o->state->non_finite, sizeof *o->lost, COPY_ON_DEVICE);
    k->zero(model->queue, &o->state->non_finite, sizeof o->state->non_finite);
}

/* Vectors come last, and are no rank's own. */
static bool is_last_share(const Optimizer *o, int b) { return b + 1 == o->model->params.buckets || !is_sharded(o, b + 1); }

void optimizer_update(Optimizer *o) {
    const Model *model = o->model;
    decide(o);
    update_matrices(o);
    for (int b = 0; b < model->params.buckets; b++) {
        if (!is_sharded(o, b)) continue;
        update_share(o, b);
        if (is_last_share(o, b)) put_aside_lost(o);
        model->k->event_record(model->queue, o->updated[b]);
    }
    for (int b = 0; b < model->params.buckets; b++)
        if (!is_sharded(o, b)) update_share(o, b);
}

void optimizer_gather(Optimizer *o) {
    const Model *model = o->model;
    const Kernels *k = model->k;
    for (int b = 0; b < model->params.buckets; b++) {
        if (!is_sharded(o, b)) continue;
        Collective weights = range(k->storage, model->storage, &model->params.bucket[b]);
        k->event_wait(o->exchange, o->updated[b]);
        k->all_gather(o->exchange, &weights);
        k->event_record(o->exchange, model->arrived[b]);
    }
    /* Bits are moved, whatever the type; the host adds them up. */
    k->all_gather(o->exchange, &(Collective){.type = DTYPE_F64, .count = model->config->ranks, .buffer = o->lost});
}

static int turn_of(const Optimizer *o) { return (int)((o->begun - 1) % STEPS_IN_FLIGHT); }

void optimizer_complete(Optimizer *o) {
    const Kernels *k = o->model->k;
    const StepReport *report = &o->report[turn_of(o)];
    if (!o->updated) return;
    k->copy(o->exchange, report->lost, o->lost, lost_bytes(o), COPY_TO_HOST);
    k->event_record(o->exchange, report->lost_copied);
    k->event_record(o->exchange, o->model->exchanged);
}

int optimizer_report(Optimizer *o) {
    const Model *model = o->model;
    int turn = turn_of(o);
    StepReport *report = &o->report[turn];
    model->k->copy(model->queue, report->seen, o->state, sizeof *report->seen, COPY_TO_HOST);
    model->k->event_record(model->queue, report->copied);
    return turn;
}

const StepState *optimizer_await(Optimizer *o, int turn) {
    StepReport *report = &o->report[turn];
    o->model->k->event_host_wait(report->copied);
    if (report->lost) o->model->k->event_host_wait(report->lost_copied);
    for (int r = 0; report->lost && r < o->model->config->ranks; r++) {
        report->seen->non_finite += report->lost[r];
        report->lost[r] = 0;
    }
    return report->seen;
}

const StepState *optimizer_read(Optimizer *o) {
    const Model *model = o->model;
    model->k->copy(model->queue, o->seen, o->state, sizeof *o->seen, COPY_TO_HOST);
    model->k->queue_wait(model->queue);
    return o->seen;
}

void optimizer_write(Optimizer *o, const StepState *state) {
    const Model *model = o->model;
    *o->seen = *state;
    model->k->copy(model->queue, o->state, o->seen, sizeof *state, COPY_TO_DEVICE);
    model->k->queue_wait(model->queue);
}
