/*
 * attention_decode.c: how do new tokens attend over the cache of keys and values in generation?
 *
 * Many new tokens (a prompt) go through the tiles of attention.c. A few go one by one: a row of scores over
 * 64 keys at a time, bound by reading the cache once per query head.
 */
#include "attention_tile.h"

enum { FEW = 8 }; /* below it a tile of 64 queries costs more than the queries one by one */

static void append(const AttentionDecode *args, int64_t ld, int64_t ld_cache) {
    int T = args->T, width = args->Hkv * args->D;
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < (int64_t)args->B * T; n++) {
        int64_t b = n / T, at = b * args->capacity + args->length[b] + n % T;
        const real *k = (const real *)args->qkv + n * ld + args->H * args->D;
        memcpy((real *)args->k_cache + at * ld_cache, k, (size_t)width * sizeof(real));
        memcpy((real *)args->v_cache + at * ld_cache, k + width, (size_t)width * sizeof(real));
    }
}

static real dot(const real *restrict a, const real *restrict b, int n) {
    real sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* One query of a head over all keys up to its time step. */
static void attend_one(const Head *head, int query) {
    int D = head->D, keys = head->time + query + 1;
    const real *q = head->q + query * head->ld_q;
    real gathered[HEAD_MAX] = {0}, scores[TILE], max = SCORE_HIDDEN, sum = 0;
    real scale = score_scale(D), rest = score_scale_rest(D);
    for (int first = 0; first < keys; first += TILE) {
        int count = min_int(TILE, keys - first);
        real old = max;
        for (int i = 0; i < count; i++) {
            real product = dot(q, head->k + (first + i) * head->ld_kv, D);
            scores[i] = scale * product + rest * product;
            max = scores[i] > max ? scores[i] : max;
        }
#pragma omp simd
        for (int i = 0; i < count; i++) scores[i] = exp_clamped(scores[i] - max);
        real factor = exp_clamped(old - max);
        sum *= factor;
        for (int d = 0; d < D; d++) gathered[d] *= factor;
        for (int i = 0; i < count; i++) {
            const real *v = head->v + (first + i) * head->ld_kv;
            sum += scores[i];
#pragma omp simd
            for (int d = 0; d < D; d++) gathered[d] += scores[i] * v[d];
        }
    }
    real *out = head->out + query * head->ld_out;
    for (int d = 0; d < D; d++) out[d] = gathered[d] / sum;
}

void NAME(attention_decode)(Queue *queue, const AttentionDecode *args) {
    int B = args->B, T = args->T, H = args->H, Hkv = args->Hkv, D = args->D;
    attention_check("attention_decode", B, T, H, Hkv, D);
    for (int b = 0; b < B; b++)
        check((int64_t)args->length[b] + T <= args->capacity,
              "attention_decode: sequence %d has %u time steps and %d new ones; the cache holds %d", b,
              (unsigned)args->length[b], T, args->capacity);
    int64_t ld = padded((int64_t)(H + 2 * Hkv) * D), ld_out = padded((int64_t)H * D);
    int64_t ld_cache = padded((int64_t)Hkv * D);
    append(args, ld, ld_cache);

    size_t each = NAME(attend_tile_scratch)(D);
    int threads;
    char *scratch = NAME(scratch_per_thread)(queue, each, "attention_decode", &threads);
    int pieces = T < FEW ? T : tiles_of(T);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < (int64_t)B * H * pieces; task++) {
        int piece = (int)(task / ((int64_t)B * H)), b = (int)(task / H % B), h = (int)(task % H);
        int hkv = h / (H / Hkv);
        int64_t cache = (int64_t)b * args->capacity * ld_cache + hkv * D;
        Head head = {.D = D,
                     .queries = T,
                     .time = (int)args->length[b],
                     .q = (const real *)args->qkv + (int64_t)b * T * ld + h * D,
                     .ld_q = ld,
                     .k = (const real *)args->k_cache + cache,
                     .v = (const real *)args->v_cache + cache,
                     .ld_kv = ld_cache,
                     .out = (real *)args->out + (int64_t)b * T * ld_out + h * D,
                     .ld_out = ld_out};
        if (T < FEW)
            attend_one(&head, piece);
        else
            NAME(attend_tile)(&head, piece, scratch + (size_t)omp_get_thread_num() * each);
    }
}
