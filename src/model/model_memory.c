/*
 * model_memory.c: which buffers a model has, and how large. See model.h.
 *
 * Four allocations: weights, gradients, what forward keeps, and the workspace. lay_out() runs once to count and
 * once to place, over the same code.
 */
#include "optim.h"
#include "rope.h"
#include "../settings/variant.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WEIGHTS, GRADIENTS, ACTIVATIONS, WORKSPACE, ARENAS };

static size_t rows_bytes(int64_t rows, int64_t width, DType type) {
    return (size_t)rows * (size_t)padded(width) * dtype_size(type);
}

/* Elements that pass through the room at once. */
static int64_t room(const Model *m) {
    enum { MOST = 1 << 16 };
    return m->params.vectors < MOST ? m->params.vectors : MOST;
}

static void lay_out_weights(Model *m, Arena *weights, Arena *gradients) {
    const size_t element = dtype_size(m->k->accum);
    const int64_t elements = m->params.elements, vectors = m->params.vectors;
    m->master = arena_take(weights, (size_t)(m->in_halves ? elements - vectors : elements) * element);
    m->storage = m->in_halves ? arena_take(weights, (size_t)vectors * dtype_size(m->k->storage)) : m->master;
    if (m->in_halves && m->train) m->lower = arena_take(weights, (size_t)m->owned * sizeof *m->lower);
    if (m->in_halves) m->room = arena_take(weights, (size_t)room(m) * element);
    if (m->train) m->grad = arena_take(gradients, (size_t)elements * element);
}

static DType residual_type(const Model *m) { return m->residual_is_accum ? m->k->accum : m->k->storage; }

/* A buffer that stages or blocks share where each need not have its own: taken once, in either pass. */
typedef struct Shared {
    bool taken;
    void *buffer;
} Shared;

static void *own_or_shared(Arena *arena, bool own, Shared *shared, size_t bytes) {
    if (own) return arena_take(arena, bytes);
    if (!shared->taken) *shared = (Shared){true, arena_take(arena, bytes)};
    return shared->buffer;
}

/* What outlives forward, by --recompute: `blocks` only the stream at the blocks' borders, `inner` the products
 * and the stream inside, `outputs` also what is cheap to compute again. */
typedef struct Keep {
    bool blocks, inner, outputs;
} Keep;

static Keep what_to_keep(const Model *m) {
    int64_t recompute = m->config->recompute;
    return (Keep){.blocks = m->train,
                  .inner = m->train && recompute != RECOMPUTE_BLOCK,
                  .outputs = m->train && recompute == RECOMPUTE_NONE};
}

/* Buffers that the stages of odd and of even junctions share: those of a block's two sublayers live together. */
typedef struct SharedStage {
    Shared u, y, second_y, y_residual, f, mean, rstd, inner_mean, inner_rstd, sdd_rstd, mean_square;
} SharedStage;

static void lay_out_stage(Model *m, Arena *arena, int i, Residual *x, SharedStage *shared) {
    const JunctionPlan *plan = &m->plan[i];
    Site *site = &m->kept.site[i];
    Keep keep = what_to_keep(m);
    bool border = i / 2 % 2 == 0, stream_own = keep.inner || (keep.blocks && border);
    size_t wide = rows_bytes(m->N, m->C, m->k->storage), column = (size_t)m->N * dtype_size(m->k->accum);
    size_t residual = rows_bytes(m->N, m->C, residual_type(m));

    site->u = plan->sublayer < 0 ? x : own_or_shared(arena, stream_own, &shared->u, residual);
    /* Post-type: y is the stream, and a gate's backward reads the one before. */
    bool y_own = keep.outputs || (keep.blocks && plan->post);
    site->y = own_or_shared(arena, y_own, i % 2 ? &shared->second_y : &shared->y, wide);
    if (plan->post && residual_type(m) != m->k->storage)
        site->y_residual = own_or_shared(arena, keep.blocks, &shared->y_residual, residual);
    site->stream = !plan->post ? site->u : site->y_residual ? site->y_residual : site->y;
    bool inner = plan->inner.kind != NORM_NONE, sdd = plan->sdd != PARAM_COUNT;
    if (inner || sdd) site->f = own_or_shared(arena, stream_own, &shared->f, wide);
    site->mean = own_or_shared(arena, keep.blocks, &shared->mean, column);
    site->rstd = own_or_shared(arena, keep.blocks, &shared->rstd, column);
    if (inner) site->inner_mean = own_or_shared(arena, keep.blocks, &shared->inner_mean, column);
    if (inner) site->inner_rstd = own_or_shared(arena, keep.blocks, &shared->inner_rstd, column);
    if (sdd) site->sdd_rstd = own_or_shared(arena, keep.blocks, &shared->sdd_rstd, column);
    if (plan->gives_mean_square) site->mean_square = own_or_shared(arena, keep.blocks, &shared->mean_square, column);
}

static void lay_out_stages(Model *m, Arena *arena) {
    SharedStage shared[2] = {0};
    m->kept.embedded = arena_take(arena, rows_bytes(m->N, m->C, residual_type(m)));
    Residual *stream = m->kept.embedded;
    for (int i = 0; i < 2 * (2 * m->L + 1); i++) {
        if (!m->plan[i].there) continue;
        lay_out_stage(m, arena, i, stream, &shared[i / 2 % 2]);
        stream = m->kept.site[i].stream;
    }
}

static void lay_out_block(Model *m, Arena *arena, int l, Shared *shared) {
    const Config *c = m->config;
    Block *block = &m->kept.block[l];
    Keep keep = what_to_keep(m);
    DType storage = m->k->storage;
    size_t column = (size_t)m->N * dtype_size(m->k->accum), qkv = rows_bytes(m->N, m->QKV, storage);
    size_t context = rows_bytes(m->N, m->H * m->D, storage);
    block->qkv = own_or_shared(arena, keep.inner, &shared[0], qkv);
    bool qk_norm = c->sdd != SDD_OFF || c->qk_norm != QK_NORM_OFF || variant_norms_qkv(c);
    block->raw = qk_norm ? own_or_shared(arena, keep.inner, &shared[1], qkv) : block->qkv;
    block->context = own_or_shared(arena, keep.inner, &shared[2], context);
    block->normed = c->sdd == SDD_RELEASED ? own_or_shared(arena, keep.inner, &shared[3], context) : block->context;
    block->lse = own_or_shared(arena, keep.inner, &shared[4], column * (size_t)m->H);
    block->h = own_or_shared(arena, keep.inner, &shared[5], rows_bytes(m->N, m->F_in, storage));
    block->act = own_or_shared(arena, keep.outputs, &shared[6], rows_bytes(m->N, m->F, storage));
    if (qk_norm) block->qkv_rstd = own_or_shared(arena, keep.inner, &shared[7], column * (size_t)(m->H + 2 * m->Hkv + 1));
    if (c->sdd == SDD_OFF) return;
    block->context_rstd = own_or_shared(arena, keep.inner, &shared[8], column);
    block->h_rstd = own_or_shared(arena, keep.inner, &shared[9], 2 * column);
}

static void lay_out_kept(Model *m, Arena *arena) {
    Shared shared[10] = {0};
    lay_out_stages(m, arena);
    for (int l = 0; l < m->L; l++) lay_out_block(m, arena, l, shared);
}

/* Whether a sublayer's output has another gradient than the stream (JunctionBackward.df). */
static bool needs_df(const Model *m) {
    for (int i = 0; i < 2 * (2 * m->L + 1); i++) {
        const JunctionPlan *plan = &m->plan[i];
        if (plan->there && (plan->alpha != 1 || plan->inner.kind != NORM_NONE || plan->sdd != PARAM_COUNT)) return true;
    }
    return residual_type(m) != m->k->storage;
}

static void lay_out_workspace(Model *m, Arena *arena) {
    DType storage = m->k->storage;
    m->tokens = arena_take(arena, (size_t)m->N * sizeof *m->tokens);
    m->targets = arena_take(arena, (size_t)m->N * sizeof *m->targets);
    if (m->config->doc_mask == FLAG_ON) {
        m->document_start = arena_take(arena, (size_t)m->N * sizeof *m->document_start);
        m->position = arena_take(arena, (size_t)m->N * sizeof *m->position);
    }
    m->losses = arena_take(arena, (size_t)m->N * dtype_size(m->k->accum));
    m->logits = arena_take(arena, rows_bytes(m->head_chunk, m->V, storage));
    m->narrow = arena_take(arena, rows_bytes(m->N, m->C, storage));
    if (m->config->positions == POSITIONS_ROPE)
        m->rope = arena_take(arena, (size_t)m->T * (size_t)m->D * dtype_size(m->k->accum));
    size_t scalars = (size_t)(m->gates + m->L) * dtype_size(m->k->accum);
    m->gate_scale = arena_take(arena, scalars);
    m->gate_slope = arena_take(arena, scalars);
    m->bhyt_c = arena_take(arena, scalars);
    m->vhat = arena_take(arena, 2 * scalars);
    if (!m->train) return;
    m->dmean_square = arena_take(arena, (size_t)m->N * dtype_size(m->k->accum));
    m->dheads = m->H * m->D == m->C ? m->narrow : arena_take(arena, rows_bytes(m->N, m->H * m->D, storage));
    if (m->config->sdd == SDD_RELEASED) m->dcontext = arena_take(arena, rows_bytes(m->N, m->H * m->D, storage));
    m->wide = arena_take(arena, rows_bytes(m->N, m->F > m->QKV ? m->F : m->QKV, storage));
    m->dqkv = padded(m->QKV) == m->QKV ? m->wide : arena_take(arena, rows_bytes(m->N, m->QKV, storage));
    m->dresidual = arena_take(arena, rows_bytes(m->N, m->C, residual_type(m)));
    if (needs_df(m)) m->df = arena_take(arena, rows_bytes(m->N, m->C, storage));
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
        .C = m->C > m->H * m->D ? m->C : m->H * m->D, /* SDD norms the context, too */
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
    m->share = must_calloc((size_t)m->params.buckets, sizeof *m->share, "the ranks' shares");
    m->owned = params_shares(&m->params, config, m->share);
    m->in_halves = k->storage != k->accum;
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
    m->gates = m->L * variant_gates_per_layer(config);
    m->plan = must_calloc(2 * (size_t)(2 * m->L + 1), sizeof *m->plan, "the model");
    variant_plan(config, m->plan);
    m->kept.site = must_calloc(2 * (size_t)(2 * m->L + 1), sizeof(Site), "the model");
    m->kept.block = must_calloc((size_t)m->L, sizeof(Block), "the model");
}

static void free_host(Model *m) {
    free(m->plan);
    free(m->kept.site);
    free(m->kept.block);
    free(m->passing.site);
    free(m->passing.block);
    free(m->share);
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
        .moments = train ? optimizer_moment_bytes(config, &m.params, k->accum) : 0,
        .activations = arena[ACTIVATIONS].used,
        .workspace = arena[WORKSPACE].used + m.scratch_bytes + (train ? optimizer_staging_bytes(config, &m.params, k->accum) + muon_bytes(config, &m.params, k) : 0),
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
            double angle = t * rope_rate(m->config, i);
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

/* The first junction whose buffers serve all of stage i's parity: one of post-type, which has more, if there is one. */
static const Site *passing_source(const Model *m, int i) {
    int first = i / 2 % 2 ? 2 : 4;
    for (int j = first; j <= 4 * m->L; j += 4)
        if (m->plan[j].post) return &m->kept.site[j];
    return &m->kept.site[first];
}

/* Validation and generation go through the buffers of junctions 1 and 2 in turn: post-type ones read the stream
 * before while they write their own. A second stage's output has a place of its own. */
static void make_passing(Model *m) {
    int stages = 2 * (2 * m->L + 1);
    m->passing.site = must_calloc((size_t)stages, sizeof(Site), "the model");
    m->passing.block = must_calloc((size_t)m->L, sizeof(Block), "the model");
    m->passing.embedded = m->kept.embedded;
    Residual *stream = m->passing.embedded;
    for (int i = 0; i < stages; i++) {
        if (!m->plan[i].there) continue;
        Site *site = &m->passing.site[i];
        const Site *from = i < 2 ? &m->kept.site[i] : passing_source(m, i);
        *site = *from;
        if (i % 2) site->y = m->kept.site[i].y;
        site->u = m->plan[i].sublayer < 0 ? stream : from->u;
        site->mean_square = m->kept.site[m->plan[1].there ? 1 : 0].mean_square;
        site->stream = !m->plan[i].post ? site->u : site->y_residual ? site->y_residual : site->y;
        stream = site->stream;
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
    require(m->queue, "out of memory: %.4g GB of scratch; lower --batch-size", (double)m->scratch_bytes / 1e9);
    fill_rope(m);
}

void model_open_cache(Model *m, int sequences) {
    Cache *cache = &m->cache;
    cache->capacity = m->T;
    cache->k = must_calloc((size_t)m->L, sizeof *cache->k, "the cache");
    cache->v = must_calloc((size_t)m->L, sizeof *cache->v, "the cache");
    size_t bytes = rows_bytes((int64_t)sequences * m->T, m->Hkv * m->D, m->k->storage);
    const char *remedy = "lower --batch-size or --seq-len";
    cache->length = arena_memory(m->k, (size_t)sequences * sizeof *cache->length, "the cache", remedy);
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

Accum *model_master(const Model *m, int64_t at) {
    return element_of(m->master, m->k->accum, m->in_halves ? at - m->params.vectors : at);
}

uint16_t *model_lower(const Model *m, const Share *share) { return m->lower ? m->lower + share->moments - share->begin : NULL; }

/* Halves of what lies in the room, n masters from element `at` on: upper ones, and lower ones of this rank's shares. */
static void halve(const Model *m, int64_t at, int64_t n) {
    m->k->halves(m->queue, &(Halves){.n = n, .master = m->room, .storage = element_of(m->storage, m->k->storage, at)});
    for (int b = 0; m->lower && b < m->params.buckets; b++) {
        const Share *share = &m->share[b];
        const int64_t first = share->begin > at ? share->begin : at, last = share->end < at + n ? share->end : at + n;
        if (first >= last) continue;
        m->k->halves(m->queue, &(Halves){.n = last - first,
                                         .master = element_of(m->room, m->k->accum, first - at),
                                         .storage = element_of(m->storage, m->k->storage, first),
                                         .lower = model_lower(m, share) + first});
    }
}

/* In pieces, each through the room when the one before has left it. */
static void put_halves(const Model *m, int64_t at, const char *host, int64_t count) {
    const size_t size = dtype_size(m->k->accum);
    for (int64_t done = 0, n; done < count; done += n) {
        n = count - done < room(m) ? count - done : room(m);
        m->k->copy(m->queue, m->room, host + (size_t)done * size, (size_t)n * size, COPY_TO_DEVICE);
        halve(m, at + done, n);
    }
}

void model_put(const Model *m, int64_t at, const void *host, int64_t count) {
    const size_t size = dtype_size(m->k->accum);
    const int64_t before = m->params.vectors - at, halved = !m->in_halves || before <= 0 ? 0 : before < count ? before : count;
    put_halves(m, at, host, halved);
    if (count > halved)
        m->k->copy(m->queue, model_master(m, at + halved), (const char *)host + (size_t)halved * size, (size_t)(count - halved) * size,
                   COPY_TO_DEVICE);
}

void model_load(Model *m, const void *host_arena) {
    model_put(m, 0, host_arena, m->params.elements);
    m->k->queue_wait(m->queue);
}
