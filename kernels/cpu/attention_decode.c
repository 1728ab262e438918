/*
 * attention_decode.c: how do new tokens attend over the cache of keys and values in generation?
 *
 * Many new tokens (a prompt) go through the tiles of attention.c. A few go one by one: a row of scores over
 * 64 keys at a time, bound by reading the cache. One token of each sequence: its cache is cut into pieces as well, so that a
 * single sequence of few heads keeps every thread at work; what the pieces gathered is merged in their order.
 */
#include "attention_tile.h"

enum {
    FEW = 8,     /* below it a tile of 64 queries costs more than the queries one by one */
    PIECE = 256, /* keys of a piece, a multiple of TILE */
    AHEAD = 16   /* rows that are asked for before they are needed */
};

static void append(const AttentionDecode *args, int64_t ld, int64_t ld_cache) {
    int T = args->T, width = args->Hkv * args->D;
#pragma omp parallel for schedule(static) if ((int64_t)args->B * T * width > 16384)
    for (int64_t n = 0; n < (int64_t)args->B * T; n++) {
        int64_t b = n / T, at = b * args->capacity + args->length[b] + n % T;
        const stored *k = (const stored *)args->qkv + n * ld + args->H * args->D;
        memcpy((stored *)args->k_cache + at * ld_cache, k, (size_t)width * sizeof(stored));
        memcpy((stored *)args->v_cache + at * ld_cache, k + width, (size_t)width * sizeof(stored));
    }
}

/* Some rows of a head at work. */
typedef struct Rows {
    const stored *row[4];
} Rows;

/* They lie far apart, and no processor guesses where: those behind them are asked for before they are needed. 4 sequences
 * of 1024 keys, H=12, D=64 on one Zen 4 core: 2.9 ms without it in float and 3.7 in bf16, 2.1 with it in both. */
static inline Rows rows_at(const stored *first, int64_t ld, int count, int D) {
    Rows rows;
    for (int r = 0; r < count; r++) {
        rows.row[r] = first + r * ld;
        const stored *ahead = rows.row[r] + AHEAD * ld;
        for (int d = 0; d < D; d += (int)(64 / sizeof *ahead)) __builtin_prefetch(ahead + d);
    }
    return rows;
}

/* Four keys at a time: one sum alone waits for itself. */
static void scores_of(real *restrict scores, const real *restrict q, const Head *head, int first, int count) {
    int D = head->D, i = 0;
    const stored *keys = head->k + first * head->ld_kv;
    for (; i + 4 <= count; i += 4) {
        const Rows rows = rows_at(keys + i * head->ld_kv, head->ld_kv, 4, D);
        const stored *k0 = rows.row[0], *k1 = rows.row[1], *k2 = rows.row[2], *k3 = rows.row[3];
        real sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd simdlen(LANES) reduction(+ : sum0, sum1, sum2, sum3)
        for (int d = 0; d < D; d++) {
            sum0 += q[d] * stored_get(k0[d]);
            sum1 += q[d] * stored_get(k1[d]);
            sum2 += q[d] * stored_get(k2[d]);
            sum3 += q[d] * stored_get(k3[d]);
        }
        scores[i] = sum0, scores[i + 1] = sum1, scores[i + 2] = sum2, scores[i + 3] = sum3;
    }
    for (; i < count; i++) {
        const Rows rows = rows_at(keys + i * head->ld_kv, head->ld_kv, 1, D);
        const stored *k = rows.row[0];
        real sum = 0;
#pragma omp simd simdlen(LANES) reduction(+ : sum)
        for (int d = 0; d < D; d++) sum += q[d] * stored_get(k[d]);
        scores[i] = sum;
    }
}

/* value[d] += Σ_i weights[i]·v[first + i][d], key after key; four at a time, as each waits for the one before. */
static void add_values(real *restrict value, const real *restrict weights, const Head *head, int first, int count) {
    int D = head->D, i = 0;
    const stored *values = head->v + first * head->ld_kv;
    for (; i + 4 <= count; i += 4) {
        const Rows rows = rows_at(values + i * head->ld_kv, head->ld_kv, 4, D);
        const stored *v0 = rows.row[0], *v1 = rows.row[1], *v2 = rows.row[2], *v3 = rows.row[3];
        const real w0 = weights[i], w1 = weights[i + 1], w2 = weights[i + 2], w3 = weights[i + 3];
#pragma omp simd simdlen(LANES)
        for (int d = 0; d < D; d++) {
            real sum = value[d];
            sum += w0 * stored_get(v0[d]);
            sum += w1 * stored_get(v1[d]);
            sum += w2 * stored_get(v2[d]);
            sum += w3 * stored_get(v3[d]);
            value[d] = sum;
        }
    }
    for (; i < count; i++) {
        const Rows rows = rows_at(values + i * head->ld_kv, head->ld_kv, 1, D);
        const stored *v = rows.row[0];
#pragma omp simd simdlen(LANES)
        for (int d = 0; d < D; d++) value[d] += weights[i] * stored_get(v[d]);
    }
}

/* What a query has gathered over some of the keys. */
typedef struct Gathered {
    real max, sum;
    real value[HEAD_MAX]; /* of D; weights are exp(score − max) */
} Gathered;

/* One query over keys first … end − 1. */
static void gather(Gathered *g, const Head *head, int query, int first, int end) {
    int D = head->D;
    real buffer[HEAD_MAX], scores[TILE], scale = score_scale(D), rest = score_scale_rest(D);
    const real *q = row_read(head->q, query * head->ld_q, buffer, D);
    g->max = SCORE_HIDDEN, g->sum = 0;
    for (int d = 0; d < D; d++) g->value[d] = 0;
    for (; first < end; first += TILE) {
        int count = min_int(TILE, end - first);
        real old = g->max;
        scores_of(scores, q, head, first, count);
        for (int i = 0; i < count; i++) {
            scores[i] = scale * scores[i] + rest * scores[i];
            g->max = scores[i] > g->max ? scores[i] : g->max;
        }
#pragma omp simd
        for (int i = 0; i < count; i++) scores[i] = exp_clamped(scores[i] - g->max);
        real factor = exp_clamped(old - g->max);
        g->sum *= factor;
        for (int d = 0; d < D; d++) g->value[d] *= factor;
        for (int i = 0; i < count; i++) g->sum += scores[i];
        add_values(g->value, scores, head, first, count);
    }
}

static void store_one(const Head *head, int query, const Gathered *g) {
    int64_t at = query * head->ld_out;
    real buffer[HEAD_MAX], *out = row_room(head->out, at, buffer);
    for (int d = 0; d < head->D; d++) out[d] = g->value[d] / g->sum;
    row_write(head->out, at, out, head->D);
}

static void attend_one(const Head *head, int query) {
    Gathered g;
    gather(&g, head, query, 0, head->time + query + 1);
    store_one(head, query, &g);
}

/* The head's query, from what was gathered over its pieces, in their order. */
static void merge(const Head *head, const Gathered *pieces, int count) {
    Gathered all = pieces[0];
    for (int p = 1; p < count; p++) all.max = pieces[p].max > all.max ? pieces[p].max : all.max;
    real factor = exp_clamped(pieces[0].max - all.max);
    all.sum *= factor;
    for (int d = 0; d < head->D; d++) all.value[d] *= factor;
    for (int p = 1; p < count; p++) {
        factor = exp_clamped(pieces[p].max - all.max);
        all.sum += factor * pieces[p].sum;
        for (int d = 0; d < head->D; d++) all.value[d] += factor * pieces[p].value[d];
    }
    store_one(head, 0, &all);
}

static Head head_of(const AttentionDecode *args, int b, int h) {
    int T = args->T, D = args->D, hkv = h / (args->H / args->Hkv);
    int64_t ld = padded((int64_t)(args->H + 2 * args->Hkv) * D), ld_out = padded((int64_t)args->H * D);
    int64_t ld_cache = padded((int64_t)args->Hkv * D), cache = (int64_t)b * args->capacity * ld_cache + hkv * D;
    return (Head){.D = D,
                  .queries = T,
                  .time = (int)args->length[b],
                  .q = (const stored *)args->qkv + (int64_t)b * T * ld + h * D,
                  .ld_q = ld,
                  .k = (const stored *)args->k_cache + cache,
                  .v = (const stored *)args->v_cache + cache,
                  .ld_kv = ld_cache,
                  .out = (stored *)args->out + (int64_t)b * T * ld_out + h * D,
                  .ld_out = ld_out};
}

/* Pieces of a cache: by its length alone, so that threads and the other sequences change no bit. */
static int pieces_of(int keys) { return (keys + PIECE - 1) / PIECE; }

size_t NAME(attention_decode_scratch)(const Limits *limits) {
    return (size_t)limits->B * (size_t)limits->H * (size_t)pieces_of(limits->T) * sizeof(Gathered);
}

/* One token a sequence: heads and pieces of the cache side by side, heads fastest, as they share keys and values. */
static void decode_one(Queue *queue, const AttentionDecode *args) {
    int B = args->B, H = args->H, most = 1;
    for (int b = 0; b < B; b++) most = max_int(most, pieces_of((int)args->length[b] + 1));
    Gathered *gathered =
        NAME(cpu_scratch)(queue, (size_t)B * (size_t)H * (size_t)most * sizeof *gathered, "attention_decode");
#pragma omp parallel if ((int64_t)B * H * most > 1)
    {
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < (int64_t)B * most * H; task++) {
            int b = (int)(task / H / most), piece = (int)(task / H % most), h = (int)(task % H);
            int keys = (int)args->length[b] + 1, first = piece * PIECE;
            Head head = head_of(args, b, h);
            if (first >= keys) continue;
            gather(&gathered[((int64_t)b * H + h) * most + piece], &head, 0, first, min_int(first + PIECE, keys));
        }
#pragma omp for schedule(static)
        for (int64_t row = 0; row < (int64_t)B * H; row++) {
            Head head = head_of(args, (int)(row / H), (int)(row % H));
            merge(&head, &gathered[row * most], pieces_of(head.time + 1));
        }
    }
}

void NAME(attention_decode)(Queue *queue, const AttentionDecode *args) {
    int B = args->B, T = args->T, H = args->H, D = args->D;
    attention_check("attention_decode", B, T, H, args->Hkv, D);
    for (int b = 0; b < B; b++)
        check((int64_t)args->length[b] + T <= args->capacity,
              "attention_decode: sequence %d has %u time steps and %d new ones; the cache holds %d", b,
              (unsigned)args->length[b], T, args->capacity);
    append(args, padded((int64_t)(H + 2 * args->Hkv) * D), padded((int64_t)args->Hkv * D));
    if (T == 1) {
        decode_one(queue, args);
        return;
    }
    size_t each = NAME(attending_bytes)(D, args->capacity);
    int threads;
    char *scratch = NAME(scratch_per_thread)(queue, each, "attention_decode", &threads);
    /* Heads with the same keys follow one another. */
    int pieces = T < FEW ? T : tiles_of(T), group = H / args->Hkv;
#pragma omp parallel num_threads(threads)
    {
        Attending *work = NAME(attending_open)(scratch + (size_t)omp_get_thread_num() * each, D, args->capacity);
        NAME(products_begin)();
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < (int64_t)B * H * pieces; task++) {
            int64_t at = task / (group * pieces) * group + task % group;
            int piece = (int)(task / group % pieces);
            Head head = head_of(args, (int)(at / H), (int)(at % H));
            if (T < FEW)
                attend_one(&head, piece);
            else
                NAME(attend_tile)(work, &head, piece);
        }
        NAME(products_end)();
    }
}
