/*
 * attention_backward.c: how are the gradients of attention computed on the CPU, without a T×T matrix and in a
 * fixed order?
 *
 * From the kept log-sum-exp, tile by tile (Dao et al. 2022, arXiv 2205.14135, algorithm 4): P = exp(S − lse),
 * dP = dO·Vᵀ, dS = P ⊙ (dP − rowsum(dO ⊙ O)); dV += Pᵀ·dO, dK += dSᵀ·Q, dQ += dS·K. Tiles are 64×64 and
 * transposed, [key][query]. In bf16 P and dS are rounded to it for their products; sums are float, those over a group's
 * heads too, until they are stored.
 *
 * A tile of dK and dV gathers query heads, then tiles of queries, in ascending order; a tile of dQ gathers
 * tiles of keys in ascending order. Two ways to go through them keep to that order, and so give the same
 * bits:
 *   - joint: one thread owns a (sequence, key-value head) and computes P and dS once: 5 products a pair of
 * tiles;
 *   - split: threads own tiles of keys, then tiles of queries, and P and dS are computed twice: 7 products.
 * Split is taken where there are too few (sequence, key-value head) to keep the threads busy.
 *
 * B=4, H=12, D=64 on one Zen 4 core: at T=256 14.1 ms in float and 8.1 in bf16, at T=1024 185 and 99.
 */
#include "attention_tile.h"

/* Everything about 64 queries of one head. */
typedef struct QueryTile {
    operand *q_t, *dout_t; /* [width / PAIR][TILE] */
    operand *q, *dout;     /* [TILE / PAIR][width] */
    real *dq_t;            /* [width][TILE] */
    real *lse, *delta;     /* [TILE] */
    View view;
} QueryTile;

/* Everything about 64 keys, and a pair of tiles at work. Where PAIR is 1, what has two layouts has one place. */
typedef struct KeyTile {
    operand *k, *v;              /* [TILE][width / PAIR] */
    operand *k_columns;          /* of pack_columns() */
    real *dk, *dv;               /* [TILE][width] */
    real *p, *ds;                /* [TILE][TILE] of the pair (keys, queries) */
    operand *p_along, *ds_along; /* [TILE][TILE / PAIR] */
    operand *ds_across;          /* [TILE / PAIR][TILE] */
    int first, count;
} KeyTile;

/* One query head of one sequence, inside the arguments. */
typedef struct Slice {
    int T, D;
    int64_t ld, ld_out;
    const stored *q, *k, *v, *out, *dout;
    const real *lse;
    stored *dq, *dk, *dv;
    const uint32_t *doc_start;          /* or NULL */
    bool first_of_group, last_of_group; /* the sums of dk and dv start from zero; are stored */
} Slice;

static Slice slice_of(const AttentionBackward *args, int b, int h) {
    const Attention *forward = args->forward;
    int H = forward->H, Hkv = forward->Hkv, D = forward->D, hkv = h / (H / Hkv);
    int64_t ld = padded((int64_t)(H + 2 * Hkv) * D), ld_out = padded((int64_t)H * D);
    int64_t row = (int64_t)b * forward->T;
    const stored *qkv = (const stored *)forward->qkv + row * ld;
    stored *dqkv = (stored *)args->dqkv + row * ld;
    int q = h * D, k = (H + hkv) * D, v = (H + Hkv + hkv) * D;
    return (Slice){.T = forward->T,
                   .D = D,
                   .ld = ld,
                   .ld_out = ld_out,
                   .q = qkv + q,
                   .k = qkv + k,
                   .v = qkv + v,
                   .dq = dqkv + q,
                   .dk = dqkv + k,
                   .dv = dqkv + v,
                   .out = (const stored *)forward->out + row * ld_out + q,
                   .dout = (const stored *)args->dout + row * ld_out + q,
                   .lse = (const real *)forward->lse + ((int64_t)b * H + h) * forward->T,
                   .doc_start = forward->doc_start ? forward->doc_start + row : NULL,
                   .first_of_group = h % (H / Hkv) == 0,
                   .last_of_group = h % (H / Hkv) == H / Hkv - 1};
}

/* --------------------------------------------------------------------------------------------------------
 * Scratch: each thread has one KeyTile and, for the joint way, all QueryTiles of a head. The sums of a group's
 * heads for dK and dV are kept there for all tiles of keys; without groups those of one tile are enough.
 * ------------------------------------------------------------------------------------------------------ */

static size_t query_tile_bytes(int D) {
    size_t tile = (size_t)TILE * (size_t)head_width(D);
    return (4 * tile / PAIR + tile + 2 * TILE) * sizeof(real);
}
static size_t key_tile_bytes(int D) {
    size_t tile = (size_t)TILE * (size_t)head_width(D);
    return (2 * tile + 2 * TILE * TILE + (PAIR > 1 ? (tile + 3 * TILE * TILE) / PAIR : 0)) * sizeof(real);
}
static size_t sums_bytes(int T, int D, bool groups) {
    return 2 * (size_t)(groups ? tiles_of(T) : 1) * TILE * (size_t)head_width(D) * sizeof(real);
}
static size_t tile_structs_bytes(int T) {
    return aligned_bytes((size_t)tiles_of(T) * sizeof(QueryTile));
}

static size_t thread_bytes(int T, int D, bool groups) {
    return aligned_bytes(key_tile_bytes(D) + (size_t)tiles_of(T) * query_tile_bytes(D) + tile_structs_bytes(T) +
                         sums_bytes(T, D, groups));
}

size_t NAME(attention_backward_scratch)(const Limits *limits) {
    return (size_t)omp_get_max_threads() * thread_bytes(limits->T, limits->D, limits->H > limits->Hkv);
}

typedef struct Workspace {
    KeyTile key;
    QueryTile *queries; /* [tiles_of(T)] */
    real *sums;         /* dk and dv of a tile of keys, of all of them where there are groups */
} Workspace;

/* Words of scratch, all as wide as a real. */
static void *take(real **next, size_t words) {
    real *taken = *next;
    *next += words;
    return taken;
}

static void carve_key_tile(KeyTile *key, real **next, size_t tile) {
    key->k = take(next, tile / PAIR), key->v = take(next, tile / PAIR);
    key->p = take(next, TILE * TILE), key->ds = take(next, TILE * TILE);
    if (PAIR > 1) {
        key->k_columns = take(next, tile / PAIR);
        key->p_along = take(next, TILE * TILE / PAIR);
        key->ds_along = take(next, TILE * TILE / PAIR), key->ds_across = take(next, TILE * TILE / PAIR);
    } else {
        key->k_columns = key->k;
        key->p_along = (operand *)key->p, key->ds_along = key->ds_across = (operand *)key->ds;
    }
}

static Workspace carve(char *scratch, int T, int D) {
    size_t tile = (size_t)TILE * (size_t)head_width(D);
    Workspace work = {.queries = (QueryTile *)scratch};
    real *next = (real *)(scratch + tile_structs_bytes(T));
    carve_key_tile(&work.key, &next, tile);
    for (int i = 0; i < tiles_of(T); i++) {
        QueryTile *query = &work.queries[i];
        query->q_t = take(&next, tile / PAIR), query->dout_t = take(&next, tile / PAIR);
        query->q = take(&next, tile / PAIR), query->dout = take(&next, tile / PAIR);
        query->dq_t = take(&next, tile);
        query->lse = take(&next, TILE), query->delta = take(&next, TILE);
    }
    work.sums = next;
    return work;
}

/* --------------------------------------------------------------------------------------------------------
 * Loading and storing tiles
 * ------------------------------------------------------------------------------------------------------ */

/* delta[j] = Σ_d out·dout is summed as product() sums dP: where a query sees one key, out is that key's value,
 * and dP − delta is exactly zero. */
static void query_load(QueryTile *tile, const Slice *slice, int index) {
    int D = slice->D, steps = head_width(D) / PAIR, first = index * TILE, count = min_int(TILE, slice->T - first);
    const stored *q = slice->q + first * slice->ld, *dout = slice->dout + first * slice->ld_out;
    operand *rows = tile->q, *out_t = (operand *)tile->dq_t; /* for a moment */
    NAME(view_fill)(&tile->view, first, count, slice->doc_start ? slice->doc_start + first : NULL);
    NAME(pack_rows)(tile->dout, dout, slice->ld_out, count, D);
    NAME(tile_transpose)(tile->dout_t, TILE, tile->dout, steps, TILE, steps);
    NAME(pack_rows)(rows, slice->out + first * slice->ld_out, slice->ld_out, count, D);
    NAME(tile_transpose)(out_t, TILE, rows, steps, TILE, steps);
    NAME(tile_dot)(tile->delta, rows, out_t, tile->dout_t, D);
    NAME(pack_rows)(rows, q, slice->ld, count, D);
    NAME(tile_transpose)(tile->q_t, TILE, rows, steps, TILE, steps);
    if (PAIR > 1) {
        NAME(pack_pairs)(tile->q, q, slice->ld, count, D);
        NAME(pack_pairs)(tile->dout, dout, slice->ld_out, count, D);
    }
    memset(tile->dq_t, 0, (size_t)TILE * (size_t)head_width(D) * sizeof(real));
    memset(tile->lse, 0, TILE * sizeof(real));
    memcpy(tile->lse, slice->lse + first, (size_t)count * sizeof(real));
}

static void query_store(const QueryTile *tile, const Slice *slice, int index, real *room) {
    NAME(store_rows)
    (slice->dq + index * TILE * slice->ld, slice->ld, tile->dq_t, tile->view.count, slice->D, room);
}

static void key_load(KeyTile *tile, const Slice *slice, int index) {
    tile->first = index * TILE;
    tile->count = min_int(TILE, slice->T - tile->first);
    const stored *k = slice->k + tile->first * slice->ld, *v = slice->v + tile->first * slice->ld;
    NAME(pack_rows)(tile->k, k, slice->ld, tile->count, slice->D);
    NAME(pack_rows)(tile->v, v, slice->ld, tile->count, slice->D);
    if (PAIR > 1) NAME(pack_columns)(tile->k_columns, k, slice->ld, tile->count, slice->D);
}

/* Puts the tile's gradients where its group's sums are kept: zero, or those of the heads before this one. */
static void key_gradient_start(KeyTile *tile, const Slice *slice, real *sums) {
    size_t size = (size_t)TILE * (size_t)head_width(slice->D);
    tile->dk = sums, tile->dv = sums + size;
    if (slice->first_of_group) memset(sums, 0, 2 * size * sizeof(real));
}

static void key_gradient_store(const KeyTile *tile, const Slice *slice) {
    int width = head_width(slice->D);
    for (int i = 0; slice->last_of_group && i < tile->count; i++) {
        row_write(slice->dk, (tile->first + i) * slice->ld, tile->dk + i * width, slice->D);
        row_write(slice->dv, (tile->first + i) * slice->ld, tile->dv + i * width, slice->D);
    }
}

/* --------------------------------------------------------------------------------------------------------
 * One pair of tiles
 * ------------------------------------------------------------------------------------------------------ */

static bool sees(const QueryTile *query, const KeyTile *key) {
    return key->first + TILE > query->view.start_min && key->first < query->view.time + query->view.count;
}

/* p: scores → P; ds: dP → dS times the scores' scale, so that dQ = dS·K and dK = dSᵀ·Q; both as operands too. For
 * queries lane … lane+31 and `keys` of the tile. */
static void softmax_backward(const KeyTile *key, const QueryTile *restrict query, real scale, int lane, int keys) {
    real lse[HALF], delta[HALF];
    memcpy(lse, query->lse + lane, sizeof lse);
    memcpy(delta, query->delta + lane, sizeof delta);
    for (int i = 0; i < keys; i++) {
        int at = i * TILE + lane;
        real *restrict p = key->p + at, *restrict ds = key->ds + at;
#pragma omp simd
        for (int j = 0; j < HALF; j++) {
            real score = p[j], probability = exp_clamped(score - lse[j]) * seen(score);
            p[j] = probability;
            ds[j] = scale * probability * (ds[j] - delta[j]);
        }
        operands_along(key->p_along + at / PAIR, p);
        operands_along(key->ds_along + at / PAIR, ds);
        if (i % PAIR == PAIR - 1) operands_across(key->ds_across + i / PAIR * TILE + lane, ds - (PAIR - 1) * TILE, ds);
    }
}

static void pair_compute(KeyTile *key, const QueryTile *query, int D) {
    const View *view = &query->view;
    NAME(tile_scores)(key->p, key->k, query->q_t, D, view, key->first);
    int lanes = on_diagonal(view, key->first) ? HALF : TILE;
    for (int lane = 0; lane < TILE; lane += lanes) NAME(product)
    (&(TileProduct){.rows = keys_needed(view, key->first, lane),
                    .depth = D,
                    .lanes = lanes,
                    .a = key->v,
                    .lda = head_width(D) / PAIR,
                    .b = query->dout_t + lane,
                    .ldb = TILE,
                    .c = key->ds + lane,
                    .ldc = TILE,
                    .scale = 1});
    for (int lane = 0; lane < TILE; lane += HALF)
        softmax_backward(key, query, score_scale(D), lane, keys_needed(view, key->first, lane));
}

/* to[key][d] += weights[key][query]·from[query][d]; on the diagonal keys 32 … 63 start at query 32. */
static void add_key_gradient(real *to, const operand *weights, const operand *from, const View *view, int first_key,
                             int D) {
    int width = head_width(D), rows = on_diagonal(view, first_key) ? HALF : TILE;
    for (int row = 0; row < TILE; row += rows) NAME(product)
    (&(TileProduct){.rows = rows,
                    .depth = view->count - row,
                    .lanes = width,
                    .a = weights + (row * TILE + row) / PAIR,
                    .lda = TILE / PAIR,
                    .b = from + row / PAIR * width,
                    .ldb = width,
                    .c = to + row * width,
                    .ldc = width,
                    .add = true});
}

static void pair_add_key_gradient(KeyTile *key, const QueryTile *query, int D) {
    add_key_gradient(key->dv, key->p_along, query->dout, &query->view, key->first, D);
    add_key_gradient(key->dk, key->ds_along, query->q, &query->view, key->first, D);
}

static void pair_add_query_gradient(const KeyTile *key, QueryTile *query, int D) {
    int width = head_width(D), lanes = on_diagonal(&query->view, key->first) ? HALF : TILE;
    for (int lane = 0; lane < TILE; lane += lanes) NAME(product_of_columns)
    (&(TileProduct){.rows = width,
                    .depth = min_int(key->count, keys_needed(&query->view, key->first, lane)),
                    .lanes = lanes,
                    .a = key->k_columns,
                    .lda = width,
                    .b = key->ds_across + lane,
                    .ldb = TILE,
                    .c = query->dq_t + lane,
                    .ldc = TILE,
                    .add = true});
}

/* --------------------------------------------------------------------------------------------------------
 * The two ways through all pairs
 * ------------------------------------------------------------------------------------------------------ */

static void joint(const Slice *slice, Workspace *work) {
    int tiles = tiles_of(slice->T), D = slice->D;
    bool groups = !(slice->first_of_group && slice->last_of_group);
    for (int i = 0; i < tiles; i++) query_load(&work->queries[i], slice, i);
    for (int j = 0; j < tiles; j++) {
        key_load(&work->key, slice, j);
        key_gradient_start(&work->key, slice, work->sums + (groups ? j : 0) * (ptrdiff_t)(2 * TILE) * head_width(D));
        for (int i = j; i < tiles; i++) {
            if (!sees(&work->queries[i], &work->key)) continue;
            pair_compute(&work->key, &work->queries[i], D);
            pair_add_key_gradient(&work->key, &work->queries[i], D);
            pair_add_query_gradient(&work->key, &work->queries[i], D);
        }
        key_gradient_store(&work->key, slice);
    }
    for (int i = 0; i < tiles; i++) query_store(&work->queries[i], slice, i, work->key.p);
}

static void split_keys(const Slice *slice, int index, Workspace *work) {
    QueryTile *query = &work->queries[0];
    key_load(&work->key, slice, index);
    key_gradient_start(&work->key, slice, work->sums);
    for (int i = index; i < tiles_of(slice->T); i++) {
        query_load(query, slice, i);
        if (!sees(query, &work->key)) continue;
        pair_compute(&work->key, query, slice->D);
        pair_add_key_gradient(&work->key, query, slice->D);
    }
    key_gradient_store(&work->key, slice);
}

static void split_queries(const Slice *slice, int index, Workspace *work) {
    QueryTile *query = &work->queries[0];
    query_load(query, slice, index);
    for (int j = query->view.start_min / TILE; j <= index; j++) {
        key_load(&work->key, slice, j);
        pair_compute(&work->key, query, slice->D);
        pair_add_query_gradient(&work->key, query, slice->D);
    }
    query_store(query, slice, index, work->key.p);
}

/* Whether `owners` equal pieces leave more than 2 in 7 of the threads' time unused, so that 7 products shared
 * evenly beat 5. It changes the time, never the result. */
static bool too_few(int64_t owners, int64_t threads) {
    int64_t rounds = (owners + threads - 1) / threads;
    return 7 * owners < 5 * rounds * threads;
}

void NAME(attention_backward)(Queue *queue, const AttentionBackward *args) {
    const Attention *forward = args->forward;
    int B = forward->B, T = forward->T, H = forward->H, Hkv = forward->Hkv, D = forward->D, group = H / Hkv;
    attention_check("attention_backward", B, T, H, Hkv, D);
    if (B == 0 || T == 0) return;
    size_t each = thread_bytes(T, D, group > 1);
    int threads;
    char *scratch = NAME(scratch_per_thread)(queue, each, "attention_backward", &threads);
    int64_t owners = (int64_t)B * Hkv, tiles = tiles_of(T);
    bool split = too_few(owners, threads);
#pragma omp parallel num_threads(threads)
    {
        Workspace work = carve(scratch + (size_t)omp_get_thread_num() * each, T, D);
        NAME(products_begin)();
        if (!split) {
#pragma omp for schedule(dynamic)
            for (int64_t owner = 0; owner < owners; owner++)
                for (int g = 0; g < group; g++) {
                    Slice slice = slice_of(args, (int)(owner / Hkv), (int)(owner % Hkv) * group + g);
                    joint(&slice, &work);
                }
        } else {
#pragma omp for schedule(dynamic) nowait
            for (int64_t task = 0; task < owners * tiles; task++)
                for (int g = 0; g < group; g++) {
                    int64_t owner = task % owners;
                    Slice slice = slice_of(args, (int)(owner / Hkv), (int)(owner % Hkv) * group + g);
                    split_keys(&slice, (int)(task / owners), &work);
                }
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < owners * group * tiles; task++) {
                int64_t head = task % (owners * group);
                Slice slice = slice_of(args, (int)(head / H), (int)(head % H));
                split_queries(&slice, (int)(tiles - 1 - task / (owners * group)), &work);
            }
        }
        NAME(products_end)();
    }
    if (!args->dbias) return;
    const Qkv as_it_is = {.B = B, .T = T, .H = H, .Hkv = Hkv, .D = D};
    NAME(qkv_backward)(queue, &(QkvBackward){.forward = &as_it_is, .dqkv = args->dqkv, .draw = args->dqkv, .dbias = args->dbias});
}
