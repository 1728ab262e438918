/*
 * attention.c: how is attention computed forward on the CPU, without a T×T matrix?
 *
 * Tile by tile with an online softmax (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv
 * 2205.14135): for 64 queries of a head, keys are swept in tiles of 64; a running maximum and sum per query
 * rescale what was gathered before. Tiles that no query of the 64 sees are skipped. Every tile of queries is
 * one piece of work, computed in the same order whatever the number of threads. In bf16 weights are rounded to it for their
 * product with the values; all else, and their sum, is float.
 *
 * B=4, H=12, D=64 on one Zen 4 core: at T=256 6.8 ms in float and 4.0 in bf16; at T=1024 83 and 44, three fifths of these
 * in the products.
 */
#include "attention_tile.h"

typedef struct Softmax {
    real max[TILE];    /* of the scores so far */
    real sum[TILE];    /* Σ exp(score − max) */
    real factor[TILE]; /* exp(old max − new max) */
} Softmax;

/* scores → exp(score − max), there and as operands, with max and sum brought up to date: queries lane … lane+31, `keys`
 * of the tile. */
static void softmax_update(Softmax *restrict softmax, real *restrict scores, operand *weights, int lane, int keys) {
    real max[HALF], sum[HALF] = {0};
    memcpy(max, softmax->max + lane, sizeof max);
    for (int i = 0; i < keys; i++)
#pragma omp simd
        for (int j = 0; j < HALF; j++) {
            real score = scores[i * TILE + lane + j];
            max[j] = score > max[j] ? score : max[j];
        }
    for (int i = 0; i < keys; i++) {
        real *row = scores + i * TILE + lane;
#pragma omp simd
        for (int j = 0; j < HALF; j++) {
            real score = row[j];
            real p = exp_clamped(score - max[j]) * seen(score);
            row[j] = p;
            sum[j] += p;
        }
        if (i % PAIR == PAIR - 1) operands_across(weights + i / PAIR * TILE + lane, row - (PAIR - 1) * TILE, row);
    }
#pragma omp simd
    for (int j = 0; j < HALF; j++) {
        real factor = exp_clamped(softmax->max[lane + j] - max[j]);
        softmax->sum[lane + j] = softmax->sum[lane + j] * factor + sum[j];
        softmax->factor[lane + j] = factor;
        softmax->max[lane + j] = max[j];
    }
}

/* out_t[width][TILE], columns times their factor. */
static void rescale(real *restrict out_t, const real *restrict factor, int width) {
    for (int d = 0; d < width; d++)
#pragma omp simd
        for (int j = 0; j < TILE; j++) out_t[d * TILE + j] *= factor[j];
}

/* One thread at work: a tile of queries, and the tiles of keys and values that it has packed for the head. */
struct Attending {
    operand *queries_t;      /* [width / PAIR][TILE] */
    real *out_t;             /* [width][TILE] */
    real *scores;            /* [TILE][TILE] */
    operand *weights;        /* [TILE / PAIR][TILE]; where PAIR is 1, scores */
    operand *keys, *values;  /* [tiles] of [TILE][width / PAIR] and [TILE / PAIR][width] */
    bool *packed;            /* [tiles] */
    const stored *packed_of; /* the head's k */
    int tiles;
    View view;
    Softmax softmax;
};

size_t NAME(attending_bytes)(int D, int keys) {
    size_t tile = (size_t)TILE * (size_t)head_width(D), weights = PAIR > 1 ? TILE * TILE / PAIR : 0;
    size_t tiles = (size_t)tiles_of(keys), words = tile / PAIR + tile + TILE * TILE + weights + 2 * tiles * tile / PAIR;
    return aligned_bytes(sizeof(Attending)) + words * sizeof(real) + aligned_bytes(tiles * sizeof(bool));
}

Attending *NAME(attending_open)(void *scratch, int D, int keys) {
    size_t tile = (size_t)TILE * (size_t)head_width(D);
    Attending *work = scratch;
    work->queries_t = (operand *)((char *)scratch + aligned_bytes(sizeof *work));
    work->out_t = (real *)(work->queries_t + tile / PAIR);
    work->scores = work->out_t + tile;
    work->weights = (operand *)(PAIR > 1 ? work->scores + TILE * TILE : work->scores);
    work->keys = work->weights + TILE * TILE / PAIR;
    work->values = work->keys + (size_t)tiles_of(keys) * tile / PAIR;
    work->packed = (bool *)(work->values + (size_t)tiles_of(keys) * tile / PAIR);
    work->packed_of = NULL;
    work->tiles = tiles_of(keys);
    return work;
}

static void start(Attending *work, const Head *head, int first) {
    int D = head->D, width = head_width(D), count = min_int(TILE, head->queries - first);
    operand *rows = (operand *)work->out_t; /* for a moment */
    NAME(view_fill)(&work->view, head->time + first, count, head->doc_start ? head->doc_start + first : NULL);
    NAME(pack_rows)(rows, head->q + first * head->ld_q, head->ld_q, count, D);
    NAME(tile_transpose)(work->queries_t, TILE, rows, width / PAIR, TILE, width / PAIR);
    memset(work->out_t, 0, (size_t)TILE * (size_t)width * sizeof(real));
    for (int j = 0; j < TILE; j++) work->softmax.max[j] = SCORE_HIDDEN;
    memset(work->softmax.sum, 0, sizeof work->softmax.sum);
}

/* Keys and values first_key … of a head, unless a tile of queries before this one had them packed. */
static void pack_keys(Attending *work, const Head *head, int first_key, operand *keys, operand *values) {
    int tile = first_key / TILE, count = min_int(TILE, head->time + head->queries - first_key);
    if (work->packed_of != head->k) memset(work->packed, 0, (size_t)work->tiles * sizeof(bool));
    work->packed_of = head->k;
    if (work->packed[tile]) return;
    NAME(pack_rows)(keys, head->k + first_key * head->ld_kv, head->ld_kv, count, head->D);
    NAME(pack_columns)(values, head->v + first_key * head->ld_kv, head->ld_kv, count, head->D);
    work->packed[tile] = true;
}

static void sweep_keys(Attending *work, const Head *head, int first_key, int key_count) {
    int D = head->D, width = head_width(D);
    const View *view = &work->view;
    const ptrdiff_t at = (ptrdiff_t)first_key * width / PAIR;
    pack_keys(work, head, first_key, work->keys + at, work->values + at);
    NAME(tile_scores)(work->scores, work->keys + at, work->queries_t, D, view, first_key);
    for (int lane = 0; lane < TILE; lane += HALF)
        softmax_update(&work->softmax, work->scores, work->weights, lane, keys_needed(view, first_key, lane));
    rescale(work->out_t, work->softmax.factor, width);
    int lanes = on_diagonal(view, first_key) ? HALF : TILE;
    for (int lane = 0; lane < TILE; lane += lanes)
        NAME(product_of_columns)
        (&(TileProduct){.rows = width,
                        .depth = min_int(key_count, keys_needed(view, first_key, lane)),
                        .lanes = lanes,
                        .a = work->values + at,
                        .lda = width,
                        .b = work->weights + lane,
                        .ldb = TILE,
                        .c = work->out_t + lane,
                        .ldc = TILE,
                        .add = true});
}

static void finish(Attending *work, const Head *head, int first) {
    const Softmax *softmax = &work->softmax;
    for (int d = 0; d < head->D; d++)
#pragma omp simd
        for (int j = 0; j < TILE; j++) work->out_t[d * TILE + j] /= softmax->sum[j];
    NAME(store_rows)
    (head->out + first * head->ld_out, head->ld_out, work->out_t, work->view.count, head->D, work->scores);
    for (int j = 0; head->lse && j < work->view.count; j++)
        head->lse[first + j] = softmax->max[j] + (real)log(softmax->sum[j]);
}

void NAME(attend_tile)(Attending *work, const Head *head, int tile) {
    int first = tile * TILE;
    start(work, head, first);
    int keys = work->view.time + work->view.count;
    for (int key = work->view.start_min / TILE * TILE; key < keys; key += TILE)
        sweep_keys(work, head, key, min_int(TILE, keys - key));
    finish(work, head, first);
}

size_t NAME(attention_scratch)(const Limits *limits) {
    size_t forward = (size_t)omp_get_max_threads() * NAME(attending_bytes)(limits->D, limits->T);
    size_t backward = NAME(attention_backward_scratch)(limits);
    size_t decode = NAME(attention_decode_scratch)(limits), most = forward > backward ? forward : backward;
    return most > decode ? most : decode;
}

static Head head_of(const Attention *args, int b, int h) {
    int T = args->T, H = args->H, Hkv = args->Hkv, D = args->D, hkv = h / (H / Hkv);
    int64_t ld = padded((int64_t)(H + 2 * Hkv) * D), ld_out = padded((int64_t)H * D);
    const stored *sequence = (const stored *)args->qkv + (int64_t)b * T * ld;
    return (Head){.D = D,
                  .queries = T,
                  .time = 0,
                  .q = sequence + h * D,
                  .ld_q = ld,
                  .k = sequence + (H + hkv) * D,
                  .v = sequence + (H + Hkv + hkv) * D,
                  .ld_kv = ld,
                  .doc_start = args->doc_start ? args->doc_start + (int64_t)b * T : NULL,
                  .out = (stored *)args->out + (int64_t)b * T * ld_out + h * D,
                  .ld_out = ld_out,
                  .lse = (real *)args->lse + ((int64_t)b * H + h) * T};
}

void NAME(attention_forward)(Queue *queue, const Attention *args) {
    int B = args->B, T = args->T, H = args->H, D = args->D, group = H / args->Hkv;
    attention_check("attention_forward", B, T, H, args->Hkv, D);
    size_t each = NAME(attending_bytes)(D, T);
    int threads;
    char *scratch = NAME(scratch_per_thread)(queue, each, "attention_forward", &threads);
    int64_t tiles = tiles_of(T), heads = (int64_t)B * H, tasks = heads * tiles;
    /* Heads by heads, so that a thread packs keys for many tiles; of few heads the longest tiles first. */
    bool by_heads = heads >= 4 * (int64_t)threads;
#pragma omp parallel num_threads(threads)
    {
        Attending *work = NAME(attending_open)(scratch + (size_t)omp_get_thread_num() * each, D, T);
        NAME(products_begin)();
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; task++) {
            int64_t past = by_heads ? task / group % tiles : task / heads;
            int64_t at = by_heads ? task / (group * tiles) * group + task % group : task % heads;
            Head head = head_of(args, (int)(at / H), (int)(at % H));
            NAME(attend_tile)(work, &head, (int)(tiles - 1 - past));
        }
        NAME(products_end)();
    }
}
