/*
 * muon.h: which way does Muon send a matrix?
 *
 * Muon (K. Jordan et al., "Muon: an optimizer for hidden layers", 2024; scaled as J. Liu et al., arXiv 2502.16982;
 * MATH.md §10) updates the matrices of blocks by the nearest half-orthogonal matrix to Nesterov's momentum, which five steps
 * of Newton–Schulz find, in the storage type. It is torch.optim.Muon with adjust_lr_fn="match_rms_adamw": the momentum is a
 * running mean, m += (1−μ)(g − m), whose factor 1−μ the division by the norm takes out again, and
 *
 *     w −= lr·(0.2·√max(out, in)·direction + weight_decay·w)
 *
 * --muon-split says what one matrix is: the parts of a product (q, k, v; gate, up), q, k and v head by head, or the product.
 * Matrices go one after another, in 28 calls each, of which 15 are products: heads are many and small (gpt2-124m: 468 matrices;
 * 72 with parts), and on a GPU it is launches that they cost. The contract's products have no batch; one product of a stack of
 * heads would take H times the operations, and an operation that clears what is not on its diagonal.
 *
 * Several ranks: the momentum is elementwise, of each rank's own share. Then a bucket at a time the ranks gather Nesterov's
 * gradients, the ranks orthogonalize a matrix each in turn, and the directions are summed, of which all but one rank's are
 * zero: every rank, or with --zero 1 every share, has the bits that one rank has computed. All of it is in the model's queue, before any
 * weight is gathered.
 */
#ifndef MUON_H
#define MUON_H

#include "model.h"

/* Device memory; all NULL where no parameter is Muon's. */
typedef struct Muon {
    const Model *model;
    Accum *direction;          /* of a bucket, as the arenas are laid out: first Nesterov's gradients */
    Storage *x, *y;            /* [min(out, in), max(out, in)] of the largest: what converges, and a product */
    Storage *gram, *square;    /* [min, min]: XXᵀ and what becomes of it; its square */
    double *stats;             /* [STAT_COUNT] of a matrix: its norm */
} Muon;

/* What of a bucket is updated: bases of arenas, as in AdamW. */
typedef struct MuonBucket {
    int bucket;
    const Share *share;
    bool sharded;              /* the share is not all of it */
    Accum *m;
    const ParamSlot *slots;    /* [params.count] device */
    StepState *state;
} MuonBucket;

/* Takes the memory from an arena, of the same sizes for the same config, params and types. */
void muon_lay_out(Muon *muon, Arena *arena, const Model *model);

/* The same to be counted alone: bytes. */
size_t muon_bytes(const Config *config, const Params *params, const Kernels *k);

/* Whether a bucket has matrices of Muon's. */
bool muon_has(const Params *params, int bucket);

/* Updates the bucket's matrices from its summed gradients, enqueued; all ranks ask for the same buckets in the same order.
 * Changes nothing in a skipped step. */
void muon_update(const Muon *muon, const MuonBucket *bucket);

/* How many matrices there are. */
int muon_matrices(const Config *config, const Params *params);

/* Floating-point operations of the products of one update of all matrices: five times 4·m²·n + 2·m³ for each [m, n], m ≤ n. */
double muon_flops(const Config *config, const Params *params);

#endif
