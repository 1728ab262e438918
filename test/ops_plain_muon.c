/* ops_plain_muon.c: Muon's operations around its products as plain loops. */
#include "ops_plain.h"

/* The slot that holds element i. */
static const ParamSlot *slot_of(const ParamSlot *slots, int n_slots, int64_t i) {
    for (int s = 0; s < n_slots; s++)
        if (i >= slots[s].offset && i < slots[s].offset + slots[s].count) return &slots[s];
    abort();
}

void PLAIN(muon_momentum)(Queue *queue, const MuonMomentum *a) {
    (void)queue;
    if (a->state->skip != SKIP_NONE) return;
    for (int64_t i = a->begin; i < a->end; i++) {
        const ParamSlot *slot = slot_of(a->slots, a->n_slots, i);
        put_a(a->out, i, 0);
        if (slot->optimizer != OPTIMIZER_MUON) continue;
        real g = (real)a->state->clip_scale[slot->clip_group] * get_a(a->grad, i);
        real m = get_a(a->m, i) + (real)(1 - a->momentum) * (g - get_a(a->m, i));
        put_a(a->m, i, m);
        put_a(a->out, i, g + (real)a->momentum * (m - g));
        if (!isfinite(get_a(a->m, i))) a->state->non_finite++;
    }
}

void PLAIN(scaled_copy)(Queue *queue, const ScaledCopy *a) {
    (void)queue;
    DType from = a->narrow ? PLAIN_ACCUM : PLAIN_STORAGE, to = a->narrow ? PLAIN_STORAGE : PLAIN_ACCUM;
    wide factor = (wide)a->scale, norm = a->sum_squares ? sqrt((wide)*a->sum_squares) : 1;
    if (a->sum_squares) factor /= norm > (wide)a->eps ? norm : (wide)a->eps;
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t c = 0; c < a->cols; c++) {
            real value = (real)factor * plain_get(from, a->src, r * padded(a->cols) + c);
            plain_put(to, a->dst, a->transpose ? c * padded(a->rows) + r : r * padded(a->cols) + c, value);
        }
}

void PLAIN(axpby)(Queue *queue, const Axpby *a) {
    (void)queue;
    for (int64_t i = 0; i < a->n; i++) put_s(a->y, i, (real)a->a * get_s(a->x, i) + (real)a->b * get_s(a->y, i));
}

void PLAIN(muon_update)(Queue *queue, const MuonUpdate *a) {
    (void)queue;
    if (a->state->skip != SKIP_NONE) return;
    for (int64_t i = a->begin; i < a->end; i++) {
        const ParamSlot *slot = slot_of(a->slots, a->n_slots, i);
        if (slot->optimizer != OPTIMIZER_MUON) continue;
        real w = get_master(a->master, a->storage, a->lower, i), rate = (real)(a->state->in.lr * slot->lr_scale);
        real updated = w - rate * (get_a(a->direction, i) + (real)slot->weight_decay * w);
        if (!put_master(a->master, a->storage, a->lower, i, updated)) a->state->non_finite++;
    }
}
