/* telemetry.c: see telemetry.h. */
#include "telemetry.h"
#include "../model/fetch.h"

#include <math.h>
#include <stdlib.h>

/* What is summed of each layer on the device: one TensorStats' output each. */
enum { STREAM, ATTN, MLP, NORM1, NORM2, GRADIENT, UPDATE, VECTORS_GRADIENT, VECTORS_UPDATE, SUMS };

struct Telemetry {
    Model *model;
    void *memory;
    Accum *weights;         /* [elements] before the update */
    Residual *stream;       /* [N, C] of the block before */
    double *sums;           /* device [L][SUMS][STAT_COUNT] */
    double *seen;           /* the same on the host */
    double *vhat_ratio;     /* [L] host, where the norm approximates */
    double *rstd;           /* [N] host, of one norm */
};

static size_t stream_bytes(const Model *m) {
    return (size_t)m->N * (size_t)padded(m->C) * dtype_size(m->residual_is_accum ? m->k->accum : m->k->storage);
}

static size_t weights_bytes(const Model *m) { return (size_t)m->params.elements * dtype_size(m->k->accum); }

static size_t sums_bytes(const Model *m) { return (size_t)m->L * SUMS * STAT_COUNT * sizeof(double); }

static void lay_out(Telemetry *t, Arena *arena) {
    t->weights = arena_take(arena, weights_bytes(t->model));
    t->stream = arena_take(arena, stream_bytes(t->model));
    t->sums = arena_take(arena, sums_bytes(t->model));
}

size_t telemetry_bytes(const Config *c, const Kernels *k) {
    Model m = {.k = k, .N = c->batch_size * c->seq_len, .C = (int)c->n_embd, .L = (int)c->n_layer,
               .residual_is_accum = c->residual_dtype == RESIDUAL_FP32 && k->storage != k->accum};
    Telemetry t = {.model = &m};
    Arena counted = {0};
    params_build(&m.params, c);
    lay_out(&t, &counted);
    params_free(&m.params);
    return counted.used;
}

Telemetry *telemetry_create(Model *model) {
    Telemetry *t = must_calloc(1, sizeof *t, "telemetry");
    Arena counted = {0}, placed = {0};
    t->model = model;
    lay_out(t, &counted);
    t->memory = placed.base = arena_memory(model->k, counted.used, "telemetry", "--stats-every 0 takes none");
    lay_out(t, &placed);
    t->seen = must_calloc(1, sums_bytes(model), "telemetry");
    t->vhat_ratio = must_calloc((size_t)model->L, sizeof *t->vhat_ratio, "telemetry");
    t->rstd = must_calloc((size_t)model->N, sizeof *t->rstd, "telemetry");
    return t;
}

void telemetry_destroy(Telemetry *t) {
    if (!t) return;
    t->model->k->release(t->memory);
    free(t->seen);
    free(t->vhat_ratio);
    free(t->rstd);
    free(t);
}

void telemetry_before(Telemetry *t, const Accum *masters) {
    const Model *m = t->model;
    m->k->copy(m->queue, t->weights, masters, weights_bytes(m), COPY_ON_DEVICE);
}

static double *device_sums(const Telemetry *t, int layer, int which) {
    return t->sums + (layer * SUMS + which) * STAT_COUNT;
}

static double seen(const Telemetry *t, int layer, int which, int stat) {
    return t->seen[(layer * SUMS + which) * STAT_COUNT + stat];
}

static TensorStats stream_stats(const Model *m, const void *a, const Accum *s, const void *b, double *out) {
    return (TensorStats){.N = m->N, .C = m->C, .type = m->residual_is_accum ? m->k->accum : m->k->storage, .a = a,
                         .s = s, .b = b, .out = out};
}

/* How far the norm's tanh or erf is saturated; Σ r² comes with it. */
static void watch_norm(const Telemetry *t, const NormPlan *plan, const Junction *args) {
    const Model *m = t->model;
    bool second = plan->family == PARAM_NORM2;
    if (!second && plan->family != PARAM_NORM1) return;
    TensorStats stats = stream_stats(m, args->u ? args->u : args->x, args->post ? NULL : args->s_out, NULL,
                                     device_sums(t, plan->layer, second ? NORM2 : NORM1));
    stats.gain = args->norm.scalar;
    stats.gain_factor = args->norm.kind == NORM_BHYT ? 1 / args->norm.kappa : 1;
    stats.row_gain = args->norm.kind == NORM_BHYT ? args->norm.rstd : NULL;
    if (args->norm.kind == NORM_DERF) stats.shift = (const char *)args->norm.scalar + dtype_size(m->k->accum);
    m->k->tensor_stats(m->queue, &stats);
}

/* mean of v̂ over mean(r²): rstd holds 1/√(v̂ + ε). */
static void watch_vhat(Telemetry *t, const NormPlan *plan, const Junction *args) {
    const Model *m = t->model;
    double sum = 0, exact[STAT_COUNT];
    fetch_rows(m, args->norm.rstd, m->k->accum, 0, 1, (int)m->N, t->rstd);
    for (int64_t n = 0; n < m->N; n++) sum += 1 / (t->rstd[n] * t->rstd[n]) - args->norm.eps;
    m->k->copy(m->queue, exact, device_sums(t, plan->layer, NORM2), sizeof exact, COPY_TO_HOST);
    m->k->queue_wait(m->queue);
    t->vhat_ratio[plan->layer] = sum * m->C / exact[STAT_SUM_SQUARES];
}

static void watch_stage(void *context, const Model *m, int i, const Junction *args) {
    Telemetry *t = context;
    const JunctionPlan *plan = &m->plan[i];
    int layer = plan->sublayer / 2;
    if (plan->sublayer >= 0) {
        TensorStats added = stream_stats(m, args->u, NULL, args->x, device_sums(t, layer, plan->sublayer % 2 ? MLP : ATTN));
        m->k->tensor_stats(m->queue, &added);
    }
    watch_norm(t, &plan->norm, args);
    if (plan->takes_mean_square) watch_vhat(t, &plan->norm, args);

    if (i % 4) return; /* main stages at the blocks' borders: the stream and its direction */
    const Residual *stream = m->passing.site[i].stream;
    if (i > 0) {
        TensorStats after = stream_stats(m, stream, args->post ? NULL : args->s_out, t->stream, device_sums(t, layer, STREAM));
        m->k->tensor_stats(m->queue, &after);
    }
    m->k->copy(m->queue, t->stream, stream, stream_bytes(m), COPY_ON_DEVICE);
}

/* Sums over a layer's part of an arena, and of another beside it: a block's parameters lie together, but for its vectors, which
 * do so elsewhere. Rows of 64. */
static void watch_parameters(const Telemetry *t, int layer, bool vectors, int which, const Accum *a, const Accum *beside) {
    const Model *m = t->model;
    int64_t begin = INT64_MAX, end = 0;
    for (int i = 0; i < m->params.count; i++) {
        const Param *p = &m->params.list[i];
        if (p->layer != layer || (p->offset >= m->params.vectors) != vectors) continue;
        if (p->offset < begin) begin = p->offset;
        if (p->offset + p->count > end) end = p->offset + p->count;
    }
    if (end == 0) begin = 0; /* a block without vectors: sums of nothing */
    size_t at = (size_t)begin * dtype_size(m->k->accum);
    m->k->tensor_stats(m->queue, &(TensorStats){.N = (end - begin) / 64, .C = 64, .type = m->k->accum,
                                                .a = (const char *)a + at, .b = beside ? (const char *)beside + at : NULL,
                                                .out = device_sums(t, layer, which)});
}

void telemetry_gradients(Telemetry *t) {
    for (int l = 0; l < t->model->L; l++) {
        watch_parameters(t, l, false, GRADIENT, t->model->grad, NULL);
        watch_parameters(t, l, true, VECTORS_GRADIENT, t->model->grad, NULL);
    }
}

void telemetry_after(Telemetry *t, const Accum *masters) {
    for (int l = 0; l < t->model->L; l++) {
        watch_parameters(t, l, false, UPDATE, masters, t->weights);
        watch_parameters(t, l, true, VECTORS_UPDATE, masters, t->weights);
    }
}

/* ------------------------------------------------------------------------------------------------------ */

static double scalar(const Model *m, const void *base, int64_t element) {
    double value;
    fetch_rows(m, (const char *)base + (size_t)element * dtype_size(m->k->accum), m->k->accum, 0, 1, 1, &value);
    return value;
}

static double gate_scale(const Model *m, int gate) { return gate < 0 ? 1 : scalar(m, m->gate_scale, gate); }

/* ‖u − a·x‖² from Σu², Σu·x, Σx². */
static double added_squares(const Telemetry *t, int layer, int which, double a) {
    double square = seen(t, layer, which, STAT_SUM_SQUARES) - 2 * a * seen(t, layer, which, STAT_DOT) +
                    a * a * seen(t, layer, which, STAT_OTHER_SUM_SQUARES);
    return square > 0 ? square : 0;
}

static void add_sublayer(const Telemetry *t, cJSON *o, int sublayer, const char *rms, const char *share) {
    const Model *m = t->model;
    const JunctionPlan *plan = &m->plan[2 * (sublayer + 1)];
    int which = sublayer % 2 ? MLP : ATTN;
    double a = plan->alpha * gate_scale(m, plan->gate_in) * (plan->post ? gate_scale(m, plan->gate) : 1), count = (double)m->N * m->C;
    double added = added_squares(t, sublayer / 2, which, a), u = seen(t, sublayer / 2, which, STAT_SUM_SQUARES);
    cJSON_AddNumberToObject(o, rms, sqrt(added / count));
    cJSON_AddNumberToObject(o, share, u > 0 ? sqrt(added / u) : 0);
}

static void add_gates(const Telemetry *t, cJSON *o, int layer) {
    const Model *m = t->model;
    int per_layer = m->gates / m->L;
    if (!per_layer) return;
    cJSON *gates = cJSON_AddArrayToObject(o, "gate"), *scales = cJSON_AddArrayToObject(o, "scale");
    int64_t offset = params_find(&m->params, PARAM_GATE, layer)->offset;
    for (int i = 0; i < per_layer; i++) {
        cJSON_AddItemToArray(gates, cJSON_CreateNumber(scalar(m, model_master(m, offset), i)));
        cJSON_AddItemToArray(scales, cJSON_CreateNumber(scalar(m, m->gate_scale, layer * per_layer + i)));
    }
}

static void add_squash(const Telemetry *t, cJSON *o, int layer) {
    const Model *m = t->model;
    NormKind kind = variant_norm(m->config)->kind;
    if (kind != NORM_DYT && kind != NORM_BHYT && kind != NORM_DERF) return;
    cJSON *scalars = cJSON_AddArrayToObject(o, kind == NORM_BHYT ? "lambda" : "alpha");
    cJSON *shifts = kind == NORM_DERF ? cJSON_AddArrayToObject(o, "shift") : NULL;
    bool watched = variant_placement(m->config)->norms != NORM_AFTER; /* norms of the stream are, those of outputs are not */
    cJSON *saturated = watched ? cJSON_AddArrayToObject(o, "saturated") : NULL;
    for (int i = 0; i < 2; i++) {
        const Param *p = params_find(&m->params, i ? PARAM_NORM2_SCALAR : PARAM_NORM1_SCALAR, layer);
        if (!p) p = params_find(&m->params, i ? PARAM_INNER2_SCALAR : PARAM_INNER1_SCALAR, layer);
        if (!p) continue; /* hybrid's attention has none */
        double share = seen(t, layer, i ? NORM2 : NORM1, STAT_SATURATED) / ((double)m->N * m->C);
        cJSON_AddItemToArray(scalars, cJSON_CreateNumber(scalar(m, model_master(m, p->offset), 0)));
        if (shifts) cJSON_AddItemToArray(shifts, cJSON_CreateNumber(scalar(m, model_master(m, p->offset), 1)));
        if (saturated) cJSON_AddItemToArray(saturated, cJSON_CreateNumber(share));
    }
    if (variant_norm(m->config)->approximates) cJSON_AddNumberToObject(o, "vhat_ratio", t->vhat_ratio[layer]);
}

static cJSON *layer_object(const Telemetry *t, int layer) {
    const Model *m = t->model;
    cJSON *o = cJSON_CreateObject();
    double count = (double)m->N * m->C, squares = seen(t, layer, STREAM, STAT_SUM_SQUARES);
    double before = seen(t, layer, STREAM, STAT_OTHER_SUM_SQUARES), gradient = 0, weights = 0, updates = 0;
    for (int vectors = 0; vectors < 2; vectors++) {
        int update = vectors ? VECTORS_UPDATE : UPDATE;
        gradient += seen(t, layer, vectors ? VECTORS_GRADIENT : GRADIENT, STAT_SUM_SQUARES);
        weights += seen(t, layer, update, STAT_SUM_SQUARES);
        updates += added_squares(t, layer, update, 1);
    }
    cJSON_AddNumberToObject(o, "layer", layer);
    cJSON_AddNumberToObject(o, "residual_rms", sqrt(squares / count));
    cJSON_AddNumberToObject(o, "residual_max", seen(t, layer, STREAM, STAT_MAX_ABS));
    /* The stream before the block is noted without its scale, which only a negative one would show here. */
    const JunctionPlan *plan = &m->plan[4 * layer];
    double sign = layer > 0 && !plan->post && plan->gate >= 0 && scalar(m, m->gate_scale, plan->gate) < 0 ? -1 : 1;
    cJSON_AddNumberToObject(o, "cosine", squares * before > 0 ? sign * seen(t, layer, STREAM, STAT_DOT) / sqrt(squares * before) : 0);
    add_sublayer(t, o, 2 * layer, "attn_rms", "attn_share");
    add_sublayer(t, o, 2 * layer + 1, "mlp_rms", "mlp_share");
    cJSON_AddNumberToObject(o, "grad_norm", sqrt(gradient));
    cJSON_AddNumberToObject(o, "update_ratio", weights > 0 ? sqrt(updates / weights) : 0);
    add_gates(t, o, layer);
    add_squash(t, o, layer);
    return o;
}

void telemetry_write(Telemetry *t, Log *log, int64_t step) {
    Model *m = t->model;
    model_observe(m, watch_stage, t);
    m->k->copy(m->queue, t->seen, t->sums, sums_bytes(m), COPY_TO_HOST);
    m->k->queue_wait(m->queue);
    cJSON *layers = cJSON_CreateArray();
    for (int l = 0; l < m->L; l++) cJSON_AddItemToArray(layers, layer_object(t, l));
    log_stats(log, step, layers);
}
