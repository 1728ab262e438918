/*
 * attention_tile.h: the pieces that attention forward, backward and decode are built of: tiles of 64 queries
 * by 64 keys, products of tiles, packing, masking.
 *
 * Scores are kept transposed, [key][query], a query to a vector lane: maxima and sums over keys are then
 * plain vector operations, and every product has the form C[m][lane] += Σ_k A(m, k)·B[k][lane] with B and C
 * contiguous along the lanes and A broadcast, read along its rows or along its columns.
 *
 * Tiles are packed into scratch: a head takes `head_width` lanes, filled up with zeros, and so do missing
 * queries and keys of the last tile. So no product has a remainder in m or in the lanes.
 *
 * In bf16 on a processor with AMX products are its tile registers' (attention_amx.h).
 */
#ifndef ATTENTION_TILE_H
#define ATTENTION_TILE_H

#include "attention_operand.h"
#include "product.h"
#include "vmath.h"

#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

enum { TILE = 64, HALF = TILE / 2, HEAD_MAX = 256 };

#ifdef CPU_F64
#define SCORE_HIDDEN (-DBL_MAX) /* the score of a key that a query does not see */
#else
#define SCORE_HIDDEN (-FLT_MAX)
#endif

/* exp for softmax, from EXP_LOWEST on. In bf16 forward takes 44 ms at T=1024 by the short one, 51 by the library's (attention.c). */
static inline real exp_clamped(real x) {
    return vm_exp_falling(x < EXP_LOWEST ? EXP_LOWEST : x);
}

/* 0 for a hidden score, else 1. exp is multiplied by it, as a choice would be turned into a branch around
 * exp. */
static inline real seen(real score) {
    return score <= (real)SCORE_HIDDEN ? 0 : 1;
}

/* 1/√D to twice the precision of real, as scale + rest: a score is then as good as its sum. The rounding of
 * 1/√D alone would be an error common to all scores, of some units in the last place of the largest. */
static inline real score_scale(int D) {
    return (real)(1 / sqrtl(D));
}
static inline real score_scale_rest(int D) {
    return (real)(1 / sqrtl(D) - (long double)score_scale(D));
}

static inline int tiles_of(int T) {
    return (T + TILE - 1) / TILE;
}
static inline int min_int(int a, int b) {
    return a < b ? a : b;
}
static inline int max_int(int a, int b) {
    return a > b ? a : b;
}

/* Lanes that a packed row of a head takes: a whole number of the widest vectors, or of a block of tile registers. */
#ifdef MULTIPLIES_TILES
enum { WIDTH_UNIT = 32 };
#else
enum { WIDTH_UNIT = 16 };
#endif
static inline int head_width(int D) {
    return (D + WIDTH_UNIT - 1) / WIDTH_UNIT * WIDTH_UNIT;
}

/* Bytes, rounded up so that what follows is aligned as scratch is. */
static inline size_t aligned_bytes(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

static inline void attention_check(const char *operation, int B, int T, int H, int Hkv, int D) {
    check(B >= 0 && T >= 0 && Hkv >= 1 && H >= 1 && H % Hkv == 0 && D >= 1 && D <= HEAD_MAX,
          "%s: B=%d T=%d H=%d Hkv=%d D=%d; H must be a multiple of Hkv, D 1 to %d", operation, B, T, H, Hkv,
          D, HEAD_MAX);
}

/* --------------------------------------------------------------------------------------------------------
 * Tiles (attention_tile.c)
 * ------------------------------------------------------------------------------------------------------ */

/* Around what a thread does with those below: AMX's registers are made ready, and given back. */
void NAME(products_begin)(void);
void NAME(products_end)(void);

typedef struct TileProduct {
    int rows;         /* of C; a multiple of 32 */
    int depth;        /* k runs over 0 … depth−1, and on to a whole pair, or step of AMX; 0 and less: over none */
    int lanes;        /* of B and C; a multiple of 16, or of 32 where head_width is */
    const operand *a; /* A(m, k) = a[m·lda + k / PAIR]; for product_of_columns what pack_columns() made of A's columns */
    int lda;          /* for product_of_columns the width of a row of what was packed */
    const operand *b; /* [depth / PAIR][ldb], 64-byte aligned, ldb a multiple of 16 */
    int ldb;
    real *c; /* [rows][ldc], likewise */
    int ldc;
    bool add; /* C += A·B; otherwise C = (scale + scale_rest)·A·B */
    real scale, scale_rest;
} TileProduct;

void NAME(product)(const TileProduct *p);
void NAME(product_of_columns)(const TileProduct *p);

/* sum[lane] = Σ_k a(lane, k)·b(k, lane), rounded as product() rounds such a sum: a as rows, [TILE][head_width / PAIR], and
 * across them, [head_width / PAIR][TILE], as b is. */
void NAME(tile_dot)(real *sum, const operand *a, const operand *a_t, const operand *b_t, int D);

/* to[columns][ld_to] = from[rows][ld_from] transposed, of real or of operand; all four multiples of 8, 64-byte
 * aligned. */
void NAME(tile_transpose)(void *to, int ld_to, const void *from, int ld_from, int rows, int columns);

/* `count` rows of a head as operands, the rest of 64 rows zero: k along them, to[TILE][head_width(D) / PAIR], or across
 * them, to[TILE / PAIR][head_width(D)]. */
void NAME(pack_rows)(operand *to, const stored *from, int64_t ld, int count, int D);
void NAME(pack_pairs)(operand *to, const stored *from, int64_t ld, int count, int D);

/* The same rows as the columns of product_of_columns()'s A, which needs as much room. */
void NAME(pack_columns)(operand *to, const stored *from, int64_t ld, int count, int D);

/* `count` rows of a head from from_t[head_width(D)][TILE], by way of room[TILE][TILE]. */
void NAME(store_rows)(stored *to, int64_t ld, const real *from_t, int count, int D, real *room);

/* threads: as many of OpenMP's as the queue's scratch has room for at `each` bytes; at least one. Results do
 * not depend on it. */
char *NAME(scratch_per_thread)(Queue *queue, size_t each, const char *operation, int *threads);

/* What the queries of a tile see: query j the keys start[j] … time + j. */
typedef struct View {
    int time;                 /* time step of the first query */
    int count;                /* queries that exist */
    int start_min, start_max; /* of start[] */
    int start[TILE];
} View;

/* doc_start: of these queries, or NULL. A token sees itself, whatever its doc_start says. */
void NAME(view_fill)(View *view, int time, int count, const uint32_t *doc_start);

/* The keys are those of the same time steps: the half tile of keys 32 … 63 and queries 0 … 31 is hidden, and
 * neither computed nor read. */
static inline bool on_diagonal(const View *view, int first_key) {
    return view->time == first_key;
}

/* How many of the tile's keys queries `lane` … lane+31 need. */
static inline int keys_needed(const View *view, int first_key, int lane) {
    return on_diagonal(view, first_key) ? lane + HALF : TILE;
}

/* scores[key][query] = K·Qᵀ/√D, SCORE_HIDDEN where a key is hidden; keys [TILE][head_width / PAIR], queries_t
 * [head_width / PAIR][TILE]. A score is rounded before lse is taken from it, in backward as in forward, so that the
 * two cancel exactly where one key has all the weight. */
void NAME(tile_scores)(real *scores, const operand *keys, const operand *queries_t, int D, const View *view,
                       int first_key);

/* --------------------------------------------------------------------------------------------------------
 * Forward over one tile of queries (attention.c), for attention_forward and for a prompt in attention_decode
 * ------------------------------------------------------------------------------------------------------ */

/* One query head of one sequence. */
typedef struct Head {
    int D;
    int queries; /* rows of q and out */
    int time;    /* time step of the first query; keys 0 … time + queries − 1 exist */
    const stored *q;
    int64_t ld_q;
    const stored *k, *v;
    int64_t ld_kv;
    const uint32_t *doc_start; /* [queries], or NULL */
    stored *out;
    int64_t ld_out;
    real *lse; /* [queries], or NULL */
} Head;

/* What a thread needs for it, in scratch: bytes for heads of up to so many keys; to be opened before an operation's
 * first tile. */
typedef struct Attending Attending;
size_t NAME(attending_bytes)(int D, int keys);
Attending *NAME(attending_open)(void *scratch, int D, int keys);

/* out and lse of queries 64·tile … of a head. Tiles of heads with the same keys pack these once if they follow one
 * another. */
void NAME(attend_tile)(Attending *work, const Head *head, int tile);

/* Bytes of scratch that attention_decode needs for one new token of each sequence. */
size_t NAME(attention_decode_scratch)(const Limits *limits);

/* Bytes of scratch that attention_backward needs. */
size_t NAME(attention_backward_scratch)(const Limits *limits);

#endif
