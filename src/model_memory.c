/*
 * model_memory.c: which buffers a model has, and how large. See model.h.
 *
 * Four allocations: weights, gradients, what forward keeps, and the workspace. lay_out() runs once to count and
 * once to place, over the same code.
 */
#include "model.h"
#include "variant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WEIGHTS, GRADIENTS, ACTIVATIONS, WORKSPACE, ARENAS };

static size_t rows_bytes(int64_t rows, int64_t width, DType type) {
    return (size_t)rows * (size_t)padded(width) * dtype_size(type);
}

static void lay_out_weights(Model *m, Arena *weights, Arena *gradients) {
    size_t accum = (size_t)m->params.elements * dtype_size(m->k->accum);
    m->master = arena_take(weights, accum);
    m->storage = m->k->storage == m->k->accum
                     ? m->master
                     : arena_take(weights, (size_t)m->params.elements * dtype_size(m->k->storage));
    if (m->train) m->grad = arena_take(gradients, accum);
}

static DType residual_type(const Model *m) { return m->residual_is_accum ? m->k->accum : m->k->storage; }

/* Row i has a buffer of its own if `own`, else that of row i − period. */
#define OWN_OR_SHARED(table, i, period, own, member, bytes) \
    ((table)[i].member = (own) || (i) < (period) ? arena_take(arena, bytes) : (table)[(i) - (period)].member)

/* A run that is never differentiated needs one of everything: model_create() makes `passing` of row 0. */
static void lay_out_kept(Model *m, Arena *arena) {
    bool keep = m->train;
    bool keep_act = keep && m->config->recompute == RECOMPUTE_NONE;
    bool keep_inner = keep && m->config->recompute != RECOMPUTE_BLOCK;
    int period = keep ? 2 : 1; /* a block's two norms' outputs are read together in its backward */
    size_t accum = dtype_size(m->k->accum);
    Site *site = m->kept.site;
    for (int j = 0; j <= 2 * m->L; j++) {
        /* Block recomputation keeps the stream at the blocks' borders, even j. */
        bool own = keep_inner || (keep && j % 2 == 0);
        OWN_OR_SHARED(site, j, period, own, residual, rows_bytes(m->N, m->C, residual_type(m)));
        OWN_OR_SHARED(site, j, period, keep_act, y, rows_bytes(m->N, m->C, m->k->storage));
        OWN_OR_SHARED(site, j, period, keep, mean, (size_t)m->N * accum);
        OWN_OR_SHARED(site, j, period, keep, rstd, (size_t)m->N * accum);
    }
    Block *block = m->kept.block;
    for (int l = 0; l < m->L; l++) {
        OWN_OR_SHARED(block, l, 1, keep_inner, qkv, rows_bytes(m->N, m->QKV, m->k->storage));
        OWN_OR_SHARED(block, l, 1, keep_inner, context, rows_bytes(m->N, m->H * m->D, m->k->storage));
        OWN_OR_SHARED(block, l, 1, keep_inner, lse, (size_t)m->N * (size_t)m->H * accum);
        OWN_OR_SHARED(block, l, 1, keep_inner, h, rows_bytes(m->N, m->F_in, m->k->storage));
        OWN_OR_SHARED(block, l, 1, keep_act, act, rows_bytes(m->N, m->F, m->k->storage));
    }
}

static void lay_out_workspace(Model *m, Arena *arena) {
    DType storage = m->k->storage;
    m->tokens = arena_take(arena, (size_t)m->N * sizeof *m->tokens);
    m->targets = arena_take(arena, (size_t)m->N * sizeof *m->targets);
    m->losses = arena_take(arena, (size_t)m->N * dtype_size(m->k->accum));
    m->logits = arena_take(arena, rows_bytes(m->head_chunk, m->V, storage));
    m->narrow = arena_take(arena, rows_bytes(m->N, m->C, storage));
    if (m->config->positions == POSITIONS_ROPE)
        m->rope = arena_take(arena, (size_t)m->T * (size_t)m->D * dtype_size(m->k->accum));
    if (!m->train) return;
    m->wide = arena_take(arena, rows_bytes(m->N, m->F > m->QKV ? m->F : m->QKV, storage));
    m->dresidual = arena_take(arena, rows_bytes(m->N, m->C, residual_type(m)));
    if (residual_type(m) != storage) m->df = arena_take(arena, rows_bytes(m->N, m->C, storage));
}

static void lay_out(Model *m, Arena arena[ARENAS]) {
    lay_out_weights(m, &arena[WEIGHTS], &arena[GRADIENTS]);
    lay_out_kept(m, &arena[ACTIVATIONS]);
    lay_out_workspace(m, &arena[WORKSPACE]);
}

static size_t model_scratch(const Model *m) {
    return m->k->scratch_bytes(&(Limits){
        .N = m->N,
        .B = m->B,
        .T = m->T,
        .C = m->C,
        .H = m->H,
        .Hkv = m->Hkv,
        .D = m->D,
        .F = m->F_in,
        .V = m->V,
        .head_chunk = m->head_chunk,
        .parameters = m->params.elements,
        .slots = m->params.count,
        .residual_is_accum = m->residual_is_accum,
    });
}

/* Everything that takes no device memory. */
static void set_shapes(Model *m, const Config *config, const Kernels *k, bool train) {
    enum { CHUNK_CPU = 1024, CHUNK_GPU = 8192 };
    *m = (Model){.k = k, .config = config, .train = train};
    params_build(&m->params, config);
    m->B = (int)config->batch_size;
    m->T = (int)config->seq_len;
    m->L = (int)config->n_layer;
    m->C = (int)config->n_embd;
    m->H = (int)config->n_head;
    m->Hkv = (int)config->n_kv_head;
    m->D = (int)config->head_size;
    m->F = (int)config->n_ffn;
    m->V = (int)config->vocab_size;
    m->F_in = config->activation == ACTIVATION_FLAG_SWIGLU ? 2 * (int)padded(m->F) : m->F;
    m->QKV = (m->H + 2 * m->Hkv) * m->D;
    m->N = (int64_t)m->B * m->T;
    int64_t chunk = strcmp(k->device, "cpu") ? CHUNK_GPU : CHUNK_CPU;
    m->head_chunk = m->N < chunk ? m->N : chunk;
    m->residual_is_accum = config->residual_dtype == RESIDUAL_FP32 && k->storage != k->accum;
    m->scratch_bytes = model_scratch(m);
    m->kept.site = must_calloc((size_t)(2 * m->L + 1), sizeof(Site), "the model");
    m->kept.block = must_calloc((size_t)m->L, sizeof(Block), "the model");
}

static void free_host(Model *m) {
    free(m->kept.site);
    free(m->kept.block);
    free(m->passing.site);
    free(m->passing.block);
    params_free(&m->params);
}

void model_plan(const Config *config, const Kernels *k, bool train, MemoryPlan *plan) {
    Model m;
    Arena arena[ARENAS] = {0};
    set_shapes(&m, config, k, train);
    lay_out(&m, arena);
    *plan = (MemoryPlan){
        .weights = arena[WEIGHTS].used,
        .gradients = arena[GRADIENTS].used,
        .moments = train ? 2 * (size_t)m.params.elements * dtype_size(k->accum) : 0,
        .activations = arena[ACTIVATIONS].used,
        .workspace = arena[WORKSPACE].used + m.scratch_bytes,
    };
    free_host(&m);
}

static void fill_rope(Model *m) {
    if (!m->rope) return;
    int half = m->D / 2;
    size_t count = (size_t)m->T * (size_t)m->D, bytes = count * dtype_size(m->k->accum);
    void *table = must_malloc(bytes, "RoPE's table");
    for (int t = 0; t < m->T; t++)
        for (int i = 0; i < half; i++) {
            double angle = t * pow(m->config->rope_base, -2.0 * i / m->D);
            size_t at = ((size_t)t * (size_t)half + (size_t)i) * 2;
            for (int part = 0; part < 2; part++) {
                double value = part ? sin(angle) : cos(angle);
                if (m->k->accum == DTYPE_F64) ((double *)table)[at + (size_t)part] = value;
                else ((float *)table)[at + (size_t)part] = (float)value;
            }
        }
    m->k->copy(m->queue, m->rope, table, bytes, COPY_TO_DEVICE);
    m->k->queue_wait(m->queue);
    free(table);
}

/* Validation and generation go through one set of buffers: row 0's, with the head reading site 2L's y. */
static void make_passing(Model *m) {
    m->passing.site = must_calloc((size_t)(2 * m->L + 1), sizeof(Site), "the model");
    m->passing.block = must_calloc((size_t)m->L, sizeof(Block), "the model");
    for (int j = 0; j <= 2 * m->L; j++) {
        m->passing.site[j] = m->kept.site[0];
        m->passing.site[j].y = m->kept.site[2 * m->L].y;
    }
    for (int l = 0; l < m->L; l++) m->passing.block[l] = m->kept.block[0];
}

void model_create(Model *m, const Config *config, const Kernels *k, bool train) {
    static const struct {
        const char *purpose, *remedy;
    } WORDS[ARENAS] = {
        [WEIGHTS] = {"weights", "a smaller model (--n-layer, --n-embd) takes less"},
        [GRADIENTS] = {"gradients", "a smaller model (--n-layer, --n-embd) takes less"},
        [ACTIVATIONS] = {"activations", "lower --batch-size, or use --recompute act or block"},
        [WORKSPACE] = {"the workspace", "lower --batch-size"},
    };
    Arena counted[ARENAS] = {0}, placed[ARENAS] = {0};
    set_shapes(m, config, k, train);
    lay_out(m, counted);
    for (int i = 0; i < ARENAS; i++) {
        if (!counted[i].used) continue;
        m->memory[i] = placed[i].base = arena_memory(k, counted[i].used, WORDS[i].purpose, WORDS[i].remedy);
    }
    lay_out(m, placed);
    make_passing(m);
    m->queue = k->queue_create(m->scratch_bytes);
    require(m->queue, "out of memory: %.2f GB of scratch; lower --batch-size", (double)m->scratch_bytes / 1e9);
    fill_rope(m);
}

void model_open_cache(Model *m) {
    Cache *cache = &m->cache;
    cache->capacity = m->T;
    cache->k = must_calloc((size_t)m->L, sizeof *cache->k, "the cache");
    cache->v = must_calloc((size_t)m->L, sizeof *cache->v, "the cache");
    size_t bytes = rows_bytes(m->T, m->Hkv * m->D, m->k->storage);
    const char *remedy = "lower --seq-len";
    cache->length = arena_memory(m->k, sizeof *cache->length, "the cache", remedy);
    for (int l = 0; l < m->L; l++) {
        cache->k[l] = arena_memory(m->k, bytes, "the cache of keys and values", remedy);
        cache->v[l] = arena_memory(m->k, bytes, "the cache of keys and values", remedy);
    }
}

static void close_cache(Model *m) {
    for (int l = 0; m->cache.capacity && l < m->L; l++) {
        m->k->release(m->cache.k[l]);
        m->k->release(m->cache.v[l]);
    }
    m->k->release(m->cache.length);
    free(m->cache.k);
    free(m->cache.v);
}

void model_destroy(Model *m) {
    m->k->queue_wait(m->queue);
    close_cache(m);
    m->k->queue_destroy(m->queue);
    for (int i = 0; i < ARENAS; i++) m->k->release(m->memory[i]);
    free_host(m);
}

void model_load(Model *m, const void *host_arena) {
    size_t bytes = (size_t)m->params.elements * dtype_size(m->k->accum);
    m->k->copy(m->queue, m->master, host_arena, bytes, COPY_TO_DEVICE);
    model_masters_changed(m);
}

void model_masters_changed(Model *m) {
    const Kernels *k = m->k;
    if (m->storage != m->master)
        k->cast(m->queue, &(Cast){.n = m->params.elements, .from = k->accum, .to = k->storage, .src = m->master,
                                  .dst = m->storage});
    k->queue_wait(m->queue);
}
