/* muon.c: see muon.h. */
#include "muon.h"

#include <math.h>

enum { NEWTON_SCHULZ_STEPS = 5 };
/* X ← aX + (bA + cA²)X with A = XXᵀ (Jordan et al.): singular values from about 0.002 on end between 0.68 and 1.2. */
static const double A = 3.4445, B = -4.7750, C = 2.0315;
static const double LEAST_NORM = 1e-7; /* what is divided by is no less: a gradient of zero is a direction of zero */
static const double RMS_OF_ADAMW = 0.2; /* of the elements of its usual update (Liu et al., §2.2) */

/* ------------------------------------------------------------------------------------------------------
 * What one matrix is
 * ---------------------------------------------------------------------------------------------------- */

/* Rows [row0, row0 + rows) of a parameter, of which so many are no gap between pieces. */
typedef struct Part {
    int row0, rows, true_rows;
} Part;

typedef void Visit(void *context, const Param *p, const Part *part);

static void visit_product(const Param *p, Visit *each, void *context) {
    const ParamPiece *last = &p->piece[p->pieces - 1];
    Part part = {.rows = last->row0 + last->rows};
    for (int i = 0; i < p->pieces; i++) part.true_rows += p->piece[i].rows;
    each(context, p, &part);
}

static void visit_pieces(const Config *c, const Param *p, Visit *each, void *context) {
    const bool heads = c->muon_split == MUON_SPLIT_HEADS && p->id == PARAM_QKV;
    for (int i = 0; i < p->pieces; i++) {
        const int rows = heads ? (int)c->head_size : p->piece[i].rows;
        for (int row = 0; row < p->piece[i].rows; row += rows)
            each(context, p, &(Part){.row0 = p->piece[i].row0 + row, .rows = rows, .true_rows = rows});
    }
}

/* Calls each(context, p, part) for all of Muon's matrices, in order. */
static void visit_parts(const Config *c, const Params *params, Visit *each, void *context) {
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        if (p->optimizer != OPTIMIZER_MUON) continue;
        if (c->muon_split == MUON_SPLIT_OFF) visit_product(p, each, context);
        else visit_pieces(c, p, each, context);
    }
}

static int lesser(const Param *p, const Part *part) { return part->rows < p->cols ? part->rows : p->cols; }
static int greater(const Param *p, const Part *part) { return part->rows < p->cols ? p->cols : part->rows; }

bool muon_has(const Params *params, int bucket) {
    const Bucket *b = &params->bucket[bucket];
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        if (p->optimizer == OPTIMIZER_MUON && p->offset >= b->begin && p->offset < b->end) return true;
    }
    return false;
}

static void count_one(void *count, const Param *p, const Part *part) {
    (void)p, (void)part;
    ++*(int *)count;
}

int muon_matrices(const Config *config, const Params *params) {
    int count = 0;
    visit_parts(config, params, count_one, &count);
    return count;
}

static void add_flops(void *flops, const Param *p, const Part *part) {
    const double m = lesser(p, part), n = greater(p, part);
    *(double *)flops += NEWTON_SCHULZ_STEPS * (4 * m * m * n + 2 * m * m * m);
}

double muon_flops(const Config *config, const Params *params) {
    double flops = 0;
    visit_parts(config, params, add_flops, &flops);
    return flops;
}

/* ------------------------------------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------------------------------- */

typedef struct Largest {
    int64_t matrix, square; /* elements, padded */
} Largest;

static void look_for_largest(void *context, const Param *p, const Part *part) {
    Largest *largest = context;
    const int64_t m = padded(lesser(p, part)), n = padded(greater(p, part));
    if (m * n > largest->matrix) largest->matrix = m * n;
    if (m * m > largest->square) largest->square = m * m;
}

static void lay_out(Muon *muon, Arena *arena, const Config *c, const Params *params, const Kernels *k) {
    Largest largest = {0};
    int64_t bucket = 0;
    visit_parts(c, params, look_for_largest, &largest);
    if (!largest.matrix) return;
    for (int b = 0; b < params->buckets; b++) {
        const int64_t elements = params->bucket[b].end - params->bucket[b].begin;
        if (muon_has(params, b) && elements > bucket) bucket = elements;
    }
    muon->direction = arena_take(arena, (size_t)bucket * dtype_size(k->accum));
    muon->x = arena_take(arena, (size_t)largest.matrix * dtype_size(k->storage));
    muon->y = arena_take(arena, (size_t)largest.matrix * dtype_size(k->storage));
    muon->gram = arena_take(arena, (size_t)largest.square * dtype_size(k->storage));
    muon->square = arena_take(arena, (size_t)largest.square * dtype_size(k->storage));
    muon->stats = arena_take(arena, STAT_COUNT * sizeof *muon->stats);
}

void muon_lay_out(Muon *muon, Arena *arena, const Model *model) {
    *muon = (Muon){.model = model};
    lay_out(muon, arena, model->config, &model->params, model->k);
}

size_t muon_bytes(const Config *config, const Params *params, const Kernels *k) {
    Muon muon;
    Arena counted = {0};
    lay_out(&muon, &counted, config, params, k);
    return counted.used;
}

/* ------------------------------------------------------------------------------------------------------
 * Newton–Schulz
 * ---------------------------------------------------------------------------------------------------- */

/* Products read whole padded operands, so what an earlier matrix of another shape has left there must go. */
static void clear(const Muon *muon, int m, int n) {
    const Model *model = muon->model;
    const size_t size = dtype_size(model->k->storage);
    const size_t matrix = (size_t)(padded(m) * padded(n)) * size, square = (size_t)(padded(m) * padded(m)) * size;
    if (m == padded(m) && n == padded(n)) return;
    model->k->zero(model->queue, muon->x, matrix);
    model->k->zero(model->queue, muon->y, matrix);
    model->k->zero(model->queue, muon->gram, square);
    model->k->zero(model->queue, muon->square, square);
}

/* One step on x [m, n], m ≤ n. */
static void step(const Muon *muon, int m, int n) {
    const Kernels *k = muon->model->k;
    Queue *queue = muon->model->queue;
    k->linear_forward(queue, &(Linear){.N = m, .in = n, .out = m, .x = muon->x, .w = muon->x, .y = muon->gram});
    k->linear_backward_input(queue, &(LinearBackward){.N = m, .in = m, .out = m, .dy = muon->gram, .w = muon->gram,
                                                      .dx = muon->square});
    k->axpby(queue, &(Axpby){.n = m * padded(m), .a = C, .x = muon->square, .b = B, .y = muon->gram});
    k->linear_backward_input(queue, &(LinearBackward){.N = m, .in = n, .out = m, .dy = muon->gram, .w = muon->x, .dx = muon->y});
    k->axpby(queue, &(Axpby){.n = m * padded(n), .a = 1, .x = muon->y, .b = A, .y = muon->x});
}

/* A gradient [rows, cols] becomes a direction, in place, as long as the update has it. */
static void orthogonalize(const Muon *muon, Accum *gradient, const Param *p, const Part *part) {
    const Kernels *k = muon->model->k;
    Queue *queue = muon->model->queue;
    const int m = lesser(p, part), n = greater(p, part), longest = part->true_rows > p->cols ? part->true_rows : p->cols;
    const bool tall = part->rows > p->cols; /* then its transpose is what converges: the products of the lesser side are small */
    clear(muon, m, n);
    k->tensor_stats(queue, &(TensorStats){.N = part->rows, .C = p->cols, .type = k->accum, .a = gradient, .out = muon->stats});
    k->scaled_copy(queue, &(ScaledCopy){.rows = part->rows, .cols = p->cols, .transpose = tall, .narrow = true, .src = gradient,
                                        .dst = muon->x, .scale = 1, .sum_squares = &muon->stats[STAT_SUM_SQUARES],
                                        .eps = LEAST_NORM});
    for (int i = 0; i < NEWTON_SCHULZ_STEPS; i++) step(muon, m, n);
    k->scaled_copy(queue, &(ScaledCopy){.rows = tall ? p->cols : part->rows, .cols = tall ? part->rows : p->cols,
                                        .transpose = tall, .src = muon->x, .dst = gradient,
                                        .scale = RMS_OF_ADAMW * sqrt(longest)});
}

/* ------------------------------------------------------------------------------------------------------
 * The update
 * ---------------------------------------------------------------------------------------------------- */

/* On the way through the model's matrices: whose turn it is. */
typedef struct Turns {
    const Muon *muon;
    const Bucket *bucket;
    int64_t turn;
} Turns;

static void take_turn(void *context, const Param *p, const Part *part) {
    Turns *turns = context;
    const Model *model = turns->muon->model;
    const Config *c = model->config;
    const int64_t rank = turns->turn++ % c->ranks, stride = padded(p->cols);
    if (p->offset < turns->bucket->begin || p->offset >= turns->bucket->end) return;
    Accum *gradient = element_of(turns->muon->direction, model->k->accum,
                                 p->offset - turns->bucket->begin + part->row0 * stride);
    if (rank == c->rank) orthogonalize(turns->muon, gradient, p, part);
    else model->k->zero(model->queue, gradient, (size_t)(part->rows * stride) * dtype_size(model->k->accum));
}

static void find_directions(const Muon *muon, const MuonBucket *b) {
    const Model *model = muon->model;
    const Kernels *k = model->k;
    const Bucket *bucket = &model->params.bucket[b->bucket];
    const Collective all = {.type = k->accum, .count = bucket->end - bucket->begin, .buffer = muon->direction};
    Turns turns = {.muon = muon, .bucket = bucket};
    if (b->sharded) k->all_gather(model->queue, &all);
    visit_parts(model->config, &model->params, take_turn, &turns);
    if (b->sharded) k->reduce_scatter_sum(model->queue, &all);
    else if (model->config->ranks > 1) k->all_reduce_sum(model->queue, &all);
}

void muon_update(const Muon *muon, const MuonBucket *b) {
    const Model *model = muon->model;
    const Kernels *k = model->k;
    const int64_t begin = model->params.bucket[b->bucket].begin;
    Accum *base = element_of(muon->direction, k->accum, -begin);
    k->muon_momentum(model->queue, &(MuonMomentum){.grad = model->grad, .m = b->m, .out = base, .begin = b->share->begin,
                                                   .end = b->share->end, .slots = b->slots, .n_slots = model->params.count,
                                                   .state = b->state, .momentum = model->config->muon_momentum});
    find_directions(muon, b);
    const bool halved = model->in_halves; /* matrices are, all of them */
    k->muon_update(model->queue, &(MuonUpdate){.master = halved ? NULL : model->master,
                                               .storage = halved ? model->storage : NULL,
                                               .lower = model_lower(model, b->share),
                                               .direction = base, .begin = b->share->begin, .end = b->share->end,
                                               .slots = b->slots, .n_slots = model->params.count, .state = b->state});
}
