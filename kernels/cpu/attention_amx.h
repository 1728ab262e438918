/*
 * attention_amx.h: how do AMX's tile registers multiply attention's tiles?
 *
 * A register holds 16 rows of 64 bytes. TDPBF16PS adds to 16 × 16 floats the product of 16 rows of 16 pairs, as they lie
 * `along`, by 16 rows of 16 lanes of pairs, as they lie `across` (attention_operand.h): 32 numbers of k at a time, in 16
 * cycles. Even and odd k have sums of their own, which are added at the end of the 32. So a sum has the same bits
 * wherever in a product it stands, which is what tile_dot() needs, and other bits than with AVX512-BF16.
 *
 * What lies beyond `depth` in the last 32 of k is multiplied as well. It is zero in one of the factors and finite in the
 * other: packing fills up with zeros, and weights of keys and queries that are none are 0 or 1.
 *
 * The registers' shapes are a state of the thread, set once for an operation; oneDNN sets its own.
 */
#ifndef ATTENTION_AMX_H
#define ATTENTION_AMX_H

#include "attention_tile.h"

#ifdef MULTIPLIES_TILES
typedef struct RegisterShapes {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} RegisterShapes;

/* Eight registers, all whole. Not on the stack: gcc's intrinsic tells of its first eight bytes only. */
static const RegisterShapes WHOLE = {.palette = 1,
                                     .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                     .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

static inline bool amx_is_here(void) { return multiplies_tiles; }
INLINE void amx_begin(void) { _tile_loadconfig(&WHOLE); }
INLINE void amx_end(void) { _tile_release(); }

enum { SIDE = 16, BLOCK = 2 * SIDE, DEPTH = 2 * SIDE }; /* of a register; of a block of C; numbers of k in a step */

/* 32 × 32 of C in registers 0 to 3, by two of A, 4 and 5, and two of B, 6 and 7. */
INLINE void amx_block(const TileProduct *p, const operand *a, int lda, const operand *b, real *c) {
    const long row_a = lda * (long)sizeof *a, row_b = p->ldb * (long)sizeof *b, row_c = p->ldc * (long)sizeof *c;
    real *lower = c + SIDE * p->ldc;
    if (p->add) {
        _tile_loadd(0, c, row_c);
        _tile_loadd(1, c + SIDE, row_c);
        _tile_loadd(2, lower, row_c);
        _tile_loadd(3, lower + SIDE, row_c);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int k = 0; k < p->depth; k += DEPTH, a += DEPTH / PAIR, b += DEPTH / PAIR * p->ldb) {
        _tile_loadd(4, a, row_a);
        _tile_loadd(6, b, row_b);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + SIDE, row_b);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, a + SIDE * lda, row_a);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, row_c);
    _tile_stored(1, c + SIDE, row_c);
    _tile_stored(2, lower, row_c);
    _tile_stored(3, lower + SIDE, row_c);
}

/* The factors were written by loops that gcc could otherwise move behind its intrinsics' loads, and the other way. */
#define IN_MEMORY() __asm__ volatile("" ::: "memory")

static void amx_product(const TileProduct *p, int lda) {
    IN_MEMORY();
    for (int m = 0; m < p->rows; m += BLOCK)
        for (int lane = 0; lane < p->lanes; lane += BLOCK)
            amx_block(p, p->a + m * lda, lda, p->b + lane, p->c + m * p->ldc + lane);
    IN_MEMORY();
    for (int m = 0; !p->add && m < p->rows; m++)
        for (int lane = 0; lane < p->lanes; lane += LANES) {
            Vector *c = (Vector *)(p->c + m * p->ldc + lane);
            *c = p->scale * *c + p->scale_rest * *c;
        }
}

/* The diagonals of four products. */
static void amx_dot(real *sum, const operand *rows, int ld, const operand *b_t, int depth) {
    _Alignas(64) real c[SIDE][SIDE];
    IN_MEMORY();
    for (int lane = 0; lane < TILE; lane += SIDE) {
        _tile_zero(0);
        for (int k = 0; k < depth; k += DEPTH) {
            _tile_loadd(4, rows + lane * ld + k / PAIR, ld * (long)sizeof *rows);
            _tile_loadd(6, b_t + k / PAIR * TILE + lane, TILE * (long)sizeof *b_t);
            _tile_dpbf16ps(0, 4, 6);
        }
        _tile_stored(0, c, SIDE * (long)sizeof **c);
        IN_MEMORY();
        for (int j = 0; j < SIDE; j++) sum[lane + j] = c[j][j];
    }
}

#else /* never called */
static inline bool amx_is_here(void) { return false; }
static inline void amx_begin(void) {}
static inline void amx_end(void) {}
static inline void amx_product(const TileProduct *p, int lda) { (void)p, (void)lda; }
static inline void amx_dot(real *sum, const operand *rows, int ld, const operand *b_t, int depth) {
    (void)sum, (void)rows, (void)ld, (void)b_t, (void)depth;
}
#endif

#endif
