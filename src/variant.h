/*
 * variant.h: which normalizations there are, and what they mean for the model's wiring.
 *
 * A norm is a row in NORMS, a placement a row in PLACEMENTS; the model asks the rows, never the names.
 * Formulas and sources: MATH.md §1, §2; `train_gpt --list-variants` prints the tables.
 */
#ifndef VARIANT_H
#define VARIANT_H

#include "../kernels/kernels.h"
#include "config.h"

/* The words of --norm and --placement; "auto" first, then the rows of the tables in order. */
#define NORM_CHOICES      "auto|layernorm|rmsnorm"
#define PLACEMENT_CHOICES "pre"

typedef struct NormRow {
    const char *name;
    NormKind kind;
    double eps;        /* default of --norm-eps */
    bool has_beta;     /* in architectures whose norms have one */
    const char *formula, *source;
} NormRow;

typedef struct PlacementRow {
    const char *name;
    bool post;       /* Junction.post */
    bool final_norm; /* a norm of its own before the head */
    const char *formula, *source;
} PlacementRow;

extern const NormRow NORMS[];
extern const int NORM_COUNT;
extern const PlacementRow PLACEMENTS[];
extern const int PLACEMENT_COUNT;

/* The rows that a resolved config names. */
const NormRow *variant_norm(const Config *config);
const PlacementRow *variant_placement(const Config *config);

/* A line that names the variant, for checkpoints and logs: "pre layernorm". Writes at most size bytes. */
void variant_describe(const Config *config, char *text, size_t size);

/* --list-variants */
void variant_print_table(void);

#endif
