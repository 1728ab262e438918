/*
 * attention_tile.c: products, transposition, packing, storing and masking of attention's tiles. See attention_tile.h.
 */
#include "attention_tile.h"
#include "attention_amx.h"

/* A block of ROWS rows by up to LANE_VECTORS vectors of C is held in registers: 16 accumulators of the 32
 * registers of AVX-512 and NEON, 8 of the 16 of AVX2 and SSE. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { LANE_VECTORS = 4 };
#else
enum { LANE_VECTORS = 2 };
#endif
enum { ROWS = 4 };

/* --------------------------------------------------------------------------------------------------------
 * Products
 * ------------------------------------------------------------------------------------------------------ */

INLINE void product_block(const TileProduct *p, int vectors, const operand *a, int a_row, int a_step,
                          const operand *b, real *c) {
    Vector sum[ROWS][LANE_VECTORS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = p->add ? *(const Vector *)(c + r * p->ldc + v * LANES) : (Vector){0};
    for (int k = 0; k < p->depth; k += PAIR, a += a_step, b += p->ldb) {
        Lanes lanes[LANE_VECTORS];
        for (int v = 0; v < vectors; v++) {
            lanes[v] = lanes_read(b + v * LANES);
            lanes_keep(&lanes[v]);
        }
        for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < vectors; v++) lanes_add_one(&sum[r][v], a[r * a_row], &lanes[v]);
    }
    real scale = p->add ? 1 : p->scale, rest = p->add ? 0 : p->scale_rest;
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < vectors; v++)
            *(Vector *)(c + r * p->ldc + v * LANES) = scale * sum[r][v] + rest * sum[r][v];
}

INLINE void product_strip(const TileProduct *p, int vectors, int lane, int a_row, int a_step) {
    for (int m = 0; m < p->rows; m += ROWS)
        product_block(p, vectors, p->a + (ptrdiff_t)m * a_row, a_row, a_step, p->b + lane,
                      p->c + (ptrdiff_t)m * p->ldc + lane);
}

INLINE void product_strips(const TileProduct *p, int a_row, int a_step) {
    int lane = 0;
    for (; lane + LANE_VECTORS * LANES <= p->lanes; lane += LANE_VECTORS * LANES)
        product_strip(p, LANE_VECTORS, lane, a_row, a_step);
    int rest = (p->lanes - lane) / LANES;
    if (rest == 3) product_strip(p, min_int(3, LANE_VECTORS), lane, a_row, a_step);
    if (rest == 2) product_strip(p, 2, lane, a_row, a_step);
    if (rest == 1) product_strip(p, 1, lane, a_row, a_step);
}

void NAME(products_begin)(void) {
    if (amx_is_here()) amx_begin();
}
void NAME(products_end)(void) {
    if (amx_is_here()) amx_end();
}

void NAME(product)(const TileProduct *p) {
    if (amx_is_here())
        amx_product(p, p->lda);
    else
        product_strips(p, p->lda, 1);
}
void NAME(product_of_columns)(const TileProduct *p) {
    if (amx_is_here())
        amx_product(p, TILE / PAIR);
    else
        product_strips(p, 1, p->lda);
}

void NAME(tile_dot)(real *sum, const operand *a, const operand *a_t, const operand *b_t, int D) {
    if (amx_is_here()) {
        amx_dot(sum, a, head_width(D) / PAIR, b_t, D);
        return;
    }
    for (int lane = 0; lane < TILE; lane += LANES) {
        Vector dot = {0};
        for (int k = 0; k < D; k += PAIR) {
            const Lanes x = lanes_read(a_t + k / PAIR * TILE + lane), y = lanes_read(b_t + k / PAIR * TILE + lane);
            lanes_add(&dot, &x, &y);
        }
        *(Vector *)(sum + lane) = dot;
    }
}

/* --------------------------------------------------------------------------------------------------------
 * Transposition, packing and storing
 * ------------------------------------------------------------------------------------------------------ */

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector) /* gcc 12, clang */
#define HAVE_SHUFFLE 1
#endif
#endif

typedef real Word __attribute__((may_alias)); /* real or operand: only moved */

#ifdef HAVE_SHUFFLE
typedef real Eight __attribute__((vector_size(8 * sizeof(real)), may_alias));

/* Eight rows by eight columns: three rounds of a perfect shuffle of the rows. */
INLINE void transpose_block(Word *restrict to, int ld_to, const Word *restrict from, int ld_from) {
    Eight row[8], next[8];
    for (int i = 0; i < 8; i++) row[i] = *(const Eight *)(from + i * ld_from);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++) {
            next[2 * i] = __builtin_shufflevector(row[i], row[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
            next[2 * i + 1] = __builtin_shufflevector(row[i], row[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
        }
        for (int i = 0; i < 8; i++) row[i] = next[i];
    }
    for (int i = 0; i < 8; i++) *(Eight *)(to + i * ld_to) = row[i];
}
#else
INLINE void transpose_block(Word *restrict to, int ld_to, const Word *restrict from, int ld_from) {
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) to[i * ld_to + j] = from[j * ld_from + i];
}
#endif

void NAME(tile_transpose)(void *to, int ld_to, const void *from, int ld_from, int rows, int columns) {
    for (int i = 0; i < rows; i += 8)
        for (int j = 0; j < columns; j += 8)
            transpose_block((Word *)to + j * ld_to + i, ld_to, (const Word *)from + i * ld_from + j, ld_from);
}

void NAME(pack_rows)(operand *restrict to, const stored *restrict from, int64_t ld, int count, int D) {
    int width = head_width(D);
    stored *restrict row = (stored *)to;
    for (int j = 0; j < count; j++, row += width, from += ld) {
        for (int d = 0; d < D; d++) row[d] = from[d];
        for (int d = D; d < width; d++) row[d] = stored_of(0);
    }
    memset(row, 0, (size_t)(TILE - count) * (size_t)width * sizeof(stored));
}

#ifdef CPU_BF16
void NAME(pack_pairs)(operand *restrict to, const stored *restrict from, int64_t ld, int count, int D) {
    int width = head_width(D), j = 0;
    for (; j < count; j += PAIR, to += width, from += PAIR * ld) {
        const stored *restrict next = j + 1 < count ? from + ld : from; /* or none */
        const uint32_t there = j + 1 < count ? 0xffff0000 : 0;
#pragma omp simd
        for (int d = 0; d < D; d++) to[d] = from[d].bits | ((uint32_t)next[d].bits << 16 & there);
        for (int d = D; d < width; d++) to[d] = 0;
    }
    memset(to, 0, (size_t)((TILE - j) / PAIR) * (size_t)width * sizeof(operand));
}
#else
void NAME(pack_pairs)(operand *to, const stored *from, int64_t ld, int count, int D) {
    NAME(pack_rows)(to, from, ld, count, D);
}
#endif

void NAME(pack_columns)(operand *to, const stored *from, int64_t ld, int count, int D) {
    if (!amx_is_here()) {
        NAME(pack_pairs)(to, from, ld, count, D);
        return;
    }
    _Alignas(64) operand pairs[TILE / PAIR * HEAD_MAX];
    NAME(pack_pairs)(pairs, from, ld, count, D);
    NAME(tile_transpose)(to, TILE / PAIR, pairs, head_width(D), TILE / PAIR, head_width(D));
}

void NAME(store_rows)(stored *to, int64_t ld, const real *from_t, int count, int D, real *room) {
    for (int first = 0; first < D; first += TILE) {
        int columns = min_int(TILE, head_width(D) - first);
        NAME(tile_transpose)(room, TILE, from_t + first * TILE, TILE, columns, TILE);
        for (int j = 0; j < count; j++) row_write(to, j * ld + first, room + j * TILE, min_int(TILE, D - first));
    }
}

char *NAME(scratch_per_thread)(Queue *queue, size_t each, const char *operation, int *threads) {
    int64_t room = (int64_t)(queue->scratch_bytes / each);
    *threads = room < omp_get_max_threads() ? (int)room : omp_get_max_threads();
    if (*threads < 1) *threads = 1;
    return NAME(cpu_scratch)(queue, (size_t)*threads * each, operation);
}

/* --------------------------------------------------------------------------------------------------------
 * Scores
 * ------------------------------------------------------------------------------------------------------ */

void NAME(view_fill)(View *view, int time, int count, const uint32_t *doc_start) {
    *view = (View){.time = time, .count = count};
    if (!doc_start) return;
    view->start_min = time;
    for (int j = 0; j < count; j++) {
        int start = doc_start[j] < (uint32_t)(time + j) ? (int)doc_start[j] : time + j;
        view->start[j] = start;
        view->start_min = min_int(view->start_min, start);
        view->start_max = max_int(view->start_max, start);
    }
}

static void mask(real *restrict scores, const View *restrict view, int first_key) {
    for (int i = 0; i < TILE; i++) {
        int key = first_key + i;
#pragma omp simd
        for (int j = 0; j < TILE; j++) {
            bool seen = key <= view->time + j && key >= view->start[j];
            scores[i * TILE + j] = seen ? scores[i * TILE + j] : (real)SCORE_HIDDEN;
        }
    }
}

void NAME(tile_scores)(real *scores, const operand *keys, const operand *queries_t, int D, const View *view,
                       int first_key) {
    int lanes = on_diagonal(view, first_key) ? HALF : TILE;
    for (int lane = 0; lane < TILE; lane += lanes)
        NAME(product)
        (&(TileProduct){.rows = keys_needed(view, first_key, lane),
                        .depth = D,
                        .lanes = lanes,
                        .a = keys,
                        .lda = head_width(D) / PAIR,
                        .b = queries_t + lane,
                        .ldb = TILE,
                        .c = scores + lane,
                        .ldc = TILE,
                        .scale = score_scale(D),
                        .scale_rest = score_scale_rest(D)});
    if (first_key + TILE - 1 > view->time || view->start_max > first_key) mask(scores, view, first_key);
}
