/*
 * shapes.cuh: the sizes of each operation's call, for messages (launch_log.cuh). One line an operation.
 */
#ifndef SHAPES_CUH
#define SHAPES_CUH

#include "launch_log.cuh"
#include "../kernels.h"

static inline Shape shape_of(const Embedding *a) {
    return {{{"B", a->B}, {"T", a->T}, {"C", a->C}, {"V", a->V}}};
}
static inline Shape shape_of(const EmbeddingBackward *a) {
    return shape_of(a->forward);
}
static inline Shape shape_of(const Linear *a) {
    return {{{"N", a->N}, {"in", a->in}, {"out", a->out}}};
}
static inline Shape shape_of(const LinearBackward *a) {
    return {{{"N", a->N}, {"in", a->in}, {"out", a->out}}};
}
static inline Shape shape_of(const Qkv *a) {
    return {{{"B", a->B}, {"T", a->T}, {"H", a->H}, {"Hkv", a->Hkv}, {"D", a->D}, {"norm", a->norm}}};
}
static inline Shape shape_of(const QkvBackward *a) {
    return shape_of(a->forward);
}
static inline Shape shape_of(const Attention *a) {
    return {{{"B", a->B}, {"T", a->T}, {"H", a->H}, {"Hkv", a->Hkv}, {"D", a->D}}};
}
static inline Shape shape_of(const AttentionBackward *a) {
    return shape_of(a->forward);
}
static inline Shape shape_of(const AttentionDecode *a) {
    return {{{"B", a->B}, {"T", a->T}, {"H", a->H}, {"Hkv", a->Hkv}, {"D", a->D}, {"capacity", a->capacity}}};
}
static inline Shape shape_of(const Activation *a) {
    return {{{"N", a->N}, {"F", a->F}, {"kind", a->kind}, {"norm", a->norm}}};
}
static inline Shape shape_of(const ActivationBackward *a) {
    return shape_of(a->forward);
}
static inline Shape shape_of(const Junction *a) {
    return {
        {{"N", a->N}, {"C", a->C}, {"norm", a->norm.kind}, {"inner", a->inner.kind}, {"sdd", a->sdd.kind}}};
}
static inline Shape shape_of(const JunctionBackward *a) {
    return shape_of(a->forward);
}
static inline Shape shape_of(const GpasScales *a) {
    return {{{"n", a->n}}};
}
static inline Shape shape_of(const ProductNorm *a) {
    return {{{"C", a->C}, {"H", a->H}, {"Hkv", a->Hkv}, {"D", a->D}}};
}
static inline Shape shape_of(const BhytTerms *a) {
    return {{{"C", a->C}}};
}
static inline Shape shape_of(const CrossEntropy *a) {
    return {{{"N", a->N}, {"V", a->V}, {"gradient", a->gradient}}};
}
static inline Shape shape_of(const StepBegin *) {
    return {};
}
static inline Shape shape_of(const LossReduce *a) {
    return {{{"N", a->N}}};
}
static inline Shape shape_of(const SumSquares *a) {
    return {{{"begin", a->begin}, {"end", a->end}, {"slots", a->n_slots}}};
}
static inline Shape shape_of(const StepDecide *) {
    return {};
}
static inline Shape shape_of(const AdamW *a) {
    return {{{"begin", a->begin}, {"end", a->end}, {"slots", a->n_slots}}};
}
static inline Shape shape_of(const MuonMomentum *a) {
    return {{{"begin", a->begin}, {"end", a->end}, {"slots", a->n_slots}}};
}
static inline Shape shape_of(const ScaledCopy *a) {
    return {{{"rows", a->rows}, {"cols", a->cols}, {"transpose", a->transpose}, {"narrow", a->narrow}}};
}
static inline Shape shape_of(const Axpby *a) {
    return {{{"n", a->n}}};
}
static inline Shape shape_of(const MuonUpdate *a) {
    return {{{"begin", a->begin}, {"end", a->end}, {"slots", a->n_slots}}};
}
static inline Shape shape_of(const TensorStats *a) {
    return {{{"N", a->N}, {"C", a->C}}};
}
static inline Shape shape_of(const Cast *a) {
    return {{{"n", a->n}}};
}
static inline Shape shape_of(const Halves *a) {
    return {{{"n", a->n}}};
}
static inline Shape shape_of(const Hash *a) {
    return {{{"n", a->n}}};
}
static inline Shape shape_of(const Collective *a) {
    return {{{"count", a->count}}};
}

#endif
