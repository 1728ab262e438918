/*
 * muon.c: what does Muon do around its matrix products? (kernels.h)
 *
 * All of it is bound by memory: momentum reads 12 bytes an element and writes 8 (cpu/f32), the update reads 8 and writes 4;
 * what Newton–Schulz copies and adds is a few passes over a matrix beside the 2·min(rows, cols) operations an element that
 * each of its products takes.
 */
#include "slots.h"

#include <math.h>

/* --- Over the arenas --------------------------------------------------------------------------------- */

/* The part of a slot that lies in [begin, end). */
typedef struct Stretch {
    int64_t first, count;
} Stretch;

static Stretch stretch_of(const ParamSlot *slot, int64_t begin, int64_t end) {
    int64_t first = slot->offset > begin ? slot->offset : begin;
    return (Stretch){first, least(slot->offset + slot->count, end) - first};
}

/* Returns how many m are no finite numbers now: x − x is 0 for those that are. */
static int momentum_stretch(real clip, double mu, const real *grad, real *m, real *out, int64_t n) {
    const real momentum = (real)mu, rest = (real)(1 - mu);
    int lost = 0;
#pragma omp simd reduction(+ : lost)
    for (int64_t i = 0; i < n; i++) {
        real g = clip * grad[i], m_new = m[i] + rest * (g - m[i]);
        m[i] = m_new;
        out[i] = g + momentum * (m_new - g);
        lost += m_new - m_new != 0;
    }
    return lost;
}

static int momentum_chunk(const MuonMomentum *a, int64_t begin, int64_t end) {
    int lost = 0;
    for (int i = slot_find(a->slots, a->n_slots, begin); i < a->n_slots && a->slots[i].offset < end; i++) {
        const ParamSlot *slot = &a->slots[i];
        const Stretch s = stretch_of(slot, begin, end);
        if (slot->optimizer != OPTIMIZER_MUON) {
            row_fill((real *)a->out + s.first, 0, s.count);
            continue;
        }
        lost += momentum_stretch((real)a->state->clip_scale[slot->clip_group], a->momentum, (const real *)a->grad + s.first,
                                 (real *)a->m + s.first, (real *)a->out + s.first, s.count);
    }
    return lost;
}

void NAME(muon_momentum)(Queue *queue, const MuonMomentum *a) {
    (void)queue;
    if (a->state->skip != SKIP_NONE) return;
    int64_t chunks = chunk_count(a->end - a->begin), lost = 0;
#pragma omp parallel for schedule(static) reduction(+ : lost) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t begin = a->begin + i * CHUNK;
        lost += momentum_chunk(a, begin, least(begin + CHUNK, a->end));
    }
    a->state->non_finite += (uint64_t)lost;
}

static int update_stretch(real lr, real weight_decay, real *master, const real *direction, int64_t n) {
    int lost = 0;
#pragma omp simd reduction(+ : lost)
    for (int64_t i = 0; i < n; i++) {
        real w = master[i] - lr * (direction[i] + weight_decay * master[i]);
        master[i] = w;
        lost += w - w != 0;
    }
    return lost;
}

static int update_masters(const MuonUpdate *a, const ParamSlot *slot, int64_t first, int64_t n) {
    const Masters masters = {a->master, a->storage, a->lower};
    real buffer[MASTERS], *w = masters_read(masters, first, buffer, n);
    const int lost = update_stretch((real)(a->state->in.lr * slot->lr_scale), (real)slot->weight_decay, w,
                                    (const real *)a->direction + first, n);
    return lost + masters_write(masters, first, w, n);
}

static int update_chunk(const MuonUpdate *a, int64_t begin, int64_t end) {
    int lost = 0;
    for (int i = slot_find(a->slots, a->n_slots, begin); i < a->n_slots && a->slots[i].offset < end; i++) {
        const ParamSlot *slot = &a->slots[i];
        const Stretch s = stretch_of(slot, begin, end);
        if (slot->optimizer != OPTIMIZER_MUON) continue;
        for (int64_t at = 0; at < s.count; at += MASTERS)
            lost += update_masters(a, slot, s.first + at, least(MASTERS, s.count - at));
    }
    return lost;
}

void NAME(muon_update)(Queue *queue, const MuonUpdate *a) {
    (void)queue;
    if (a->state->skip != SKIP_NONE) return;
    int64_t chunks = chunk_count(a->end - a->begin), lost = 0;
#pragma omp parallel for schedule(static) reduction(+ : lost) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t begin = a->begin + i * CHUNK;
        lost += update_chunk(a, begin, least(begin + CHUNK, a->end));
    }
    a->state->non_finite += (uint64_t)lost;
}

/* --- Into and out of Newton–Schulz ------------------------------------------------------------------- */

enum { TILE = 32 };

/* n ≤ TILE numbers of src, as `real`; the same way they go into dst. */
static const real *piece_read(const ScaledCopy *a, int64_t at, real buffer[TILE], int64_t n) {
    return residual_read(a->src, at, a->narrow, buffer, n);
}
static void piece_write(const ScaledCopy *a, int64_t at, const real *piece, int64_t n) {
    residual_write(a->dst, at, !a->narrow, piece, n);
}

static void copy_rows(const ScaledCopy *a, real factor) {
    const int64_t stride = padded(a->cols);
#pragma omp parallel for schedule(static) if ((int64_t)a->rows * a->cols > SERIAL_ELEMENTS)
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t column = 0; column < a->cols; column += TILE) {
            const int64_t at = r * stride + column, n = least(TILE, a->cols - column);
            real buffer[TILE], out[TILE];
            const real *src = piece_read(a, at, buffer, n);
#pragma omp simd
            for (int64_t i = 0; i < n; i++) out[i] = factor * src[i];
            piece_write(a, at, out, n);
        }
}

/* Tiles that fit into the first-level cache both ways; a thread has whole rows of the result. */
static void copy_columns(const ScaledCopy *a, real factor) {
    const int64_t src_stride = padded(a->cols), dst_stride = padded(a->rows);
#pragma omp parallel for schedule(static) if ((int64_t)a->rows * a->cols > SERIAL_ELEMENTS)
    for (int64_t column = 0; column < a->cols; column += TILE)
        for (int64_t row = 0; row < a->rows; row += TILE) {
            const int64_t columns = least(TILE, a->cols - column), rows = least(TILE, a->rows - row);
            real tile[TILE][TILE];
            for (int64_t r = 0; r < rows; r++) {
                real buffer[TILE];
                const real *src = piece_read(a, (row + r) * src_stride + column, buffer, columns);
                for (int64_t c = 0; c < columns; c++) tile[c][r] = factor * src[c];
            }
            for (int64_t c = 0; c < columns; c++) piece_write(a, (column + c) * dst_stride + row, tile[c], rows);
        }
}

void NAME(scaled_copy)(Queue *queue, const ScaledCopy *a) {
    (void)queue;
    double factor = a->scale;
    if (a->sum_squares) factor /= fmax(sqrt(*a->sum_squares), a->eps);
    if (a->transpose) copy_columns(a, (real)factor);
    else copy_rows(a, (real)factor);
}

void NAME(axpby)(Queue *queue, const Axpby *args) {
    (void)queue;
    const real a = (real)args->a, b = (real)args->b;
    const stored *x = args->x;
    stored *y = args->y;
#pragma omp parallel for simd schedule(static) if (args->n > SERIAL_ELEMENTS)
    for (int64_t i = 0; i < args->n; i++) y[i] = stored_of(a * stored_get(x[i]) + b * stored_get(y[i]));
}
