/*
 * cpu.h: what every file of the CPU backend shares.
 *
 * Each C file of this folder is compiled three times, for cpu/f32, for cpu/f64 (-DCPU_F64) and for cpu/bf16 (-DCPU_BF16): it
 * writes `real` for the type that it computes in, which is Accum, `stored` for Storage, and NAME(f) for every symbol with
 * external linkage. In cpu/f32 and cpu/f64 the two are one type. stored.h brings a row from one to the other.
 * A queue runs its work at once, on OpenMP's threads.
 *
 * Reductions: work is split into pieces whose number depends on the shapes alone, never on the number of
 * threads, and pieces are added up in order; so results do not depend on threads or scheduling (GEMMs of a
 * library may depend on the number of threads).
 */
#ifndef CPU_H
#define CPU_H

#include "../kernels.h"
#include "../../src/base/check.h"

#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>

/* The upper half of a float; a struct, so that no arithmetic is done with it by mistake. */
typedef struct Bf16 {
    uint16_t bits;
} Bf16;

#if defined(CPU_F64)
typedef double real, stored;
#define NAME(symbol)  symbol##_f64
#define TYPE_NAME     "f64"
#define REAL_DTYPE    DTYPE_F64
#define STORED_DTYPE  DTYPE_F64
#elif defined(CPU_BF16)
typedef float real;
typedef Bf16 stored;
#define NAME(symbol)  symbol##_bf16
#define TYPE_NAME     "bf16"
#define REAL_DTYPE    DTYPE_F32
#define STORED_DTYPE  DTYPE_BF16
#else
typedef float real, stored;
#define NAME(symbol)  symbol##_f32
#define TYPE_NAME     "f32"
#define REAL_DTYPE    DTYPE_F32
#define STORED_DTYPE  DTYPE_F32
#endif

struct Queue {
    void *scratch; /* 256-byte aligned */
    size_t scratch_bytes;
};

/* The queue's scratch area, after checking that it holds as many bytes; `operation` is named if it does not. */
void *NAME(cpu_scratch)(Queue *queue, size_t bytes, const char *operation);

/* Whether the three products of a linear layer come out whole with this many threads; else false and what was wrong. */
bool NAME(canary)(char *text, size_t size);

/* What each file needs of scratch for the largest shapes of a run; scratch_bytes is their maximum. */
size_t NAME(attention_scratch)(const Limits *limits);
size_t NAME(linear_scratch)(const Limits *limits);
size_t NAME(junction_scratch)(const Limits *limits);
size_t NAME(qkv_scratch)(const Limits *limits);
size_t NAME(activation_scratch)(const Limits *limits);
size_t NAME(embedding_scratch)(const Limits *limits);
size_t NAME(cross_entropy_scratch)(const Limits *limits);
size_t NAME(step_scratch)(const Limits *limits);    /* sum_squares, loss_reduce, adamw, Muon, tensor_stats */
size_t NAME(variant_scratch)(const Limits *limits); /* gpas_scales, product_norm, bhyt_terms */

void NAME(embedding_forward)(Queue *, const Embedding *);
void NAME(embedding_backward)(Queue *, const EmbeddingBackward *);
void NAME(linear_forward)(Queue *, const Linear *);
void NAME(linear_backward_input)(Queue *, const LinearBackward *);
void NAME(linear_backward_weight)(Queue *, const LinearBackward *);
void NAME(qkv_forward)(Queue *, const Qkv *);
void NAME(qkv_backward)(Queue *, const QkvBackward *);
void NAME(attention_forward)(Queue *, const Attention *);
void NAME(attention_backward)(Queue *, const AttentionBackward *);
void NAME(attention_decode)(Queue *, const AttentionDecode *);
void NAME(activation_forward)(Queue *, const Activation *);
void NAME(activation_backward)(Queue *, const ActivationBackward *);
void NAME(junction_forward)(Queue *, const Junction *);
void NAME(junction_backward)(Queue *, const JunctionBackward *);
void NAME(gpas_scales)(Queue *, const GpasScales *);
void NAME(product_norm)(Queue *, const ProductNorm *);
void NAME(bhyt_terms)(Queue *, const BhytTerms *);
void NAME(cross_entropy)(Queue *, const CrossEntropy *);
void NAME(step_begin)(Queue *, const StepBegin *);
void NAME(loss_reduce)(Queue *, const LossReduce *);
void NAME(sum_squares)(Queue *, const SumSquares *);
void NAME(step_decide)(Queue *, const StepDecide *);
void NAME(adamw)(Queue *, const AdamW *);
void NAME(muon_momentum)(Queue *, const MuonMomentum *);
void NAME(scaled_copy)(Queue *, const ScaledCopy *);
void NAME(axpby)(Queue *, const Axpby *);
void NAME(muon_update)(Queue *, const MuonUpdate *);
void NAME(tensor_stats)(Queue *, const TensorStats *);
void NAME(cast)(Queue *, const Cast *);
void NAME(halves)(Queue *, const Halves *);
void NAME(hash)(Queue *, const Hash *);

#ifdef WITH_MPI
bool NAME(collective_open)(const CollectiveSetup *setup, char *text, size_t size);
void NAME(collective_close)(void);
size_t NAME(collective_unique_id)(const char *address, void *id, size_t size);
void NAME(all_reduce_sum)(Queue *, const Collective *);
void NAME(reduce_scatter_sum)(Queue *, const Collective *);
void NAME(all_gather)(Queue *, const Collective *);
void NAME(broadcast)(Queue *, const Collective *);
#endif

#endif
