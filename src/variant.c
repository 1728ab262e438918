/* variant.c: see variant.h. */
#include "variant.h"

#include <stdio.h>

const NormRow NORMS[] = {
    {"layernorm", NORM_LAYERNORM, 1e-5, true, "γ ⊙ (x−μ)/√(var+ε) + β", "arXiv 1607.06450"},
    {"rmsnorm", NORM_RMSNORM, 1e-6, false, "γ ⊙ x/√(mean(x²)+ε)", "arXiv 1910.07467"},
};
const int NORM_COUNT = sizeof NORMS / sizeof *NORMS;

const PlacementRow PLACEMENTS[] = {
    {"pre", false, true, "x ← x + F(N(x)), final norm before the head", "arXiv 2002.04745"},
};
const int PLACEMENT_COUNT = sizeof PLACEMENTS / sizeof *PLACEMENTS;

/* --norm's first word is "auto", which config_resolve() has replaced. */
const NormRow *variant_norm(const Config *config) { return &NORMS[config->norm - 1]; }

const PlacementRow *variant_placement(const Config *config) { return &PLACEMENTS[config->placement]; }

void variant_describe(const Config *config, char *text, size_t size) {
    snprintf(text, size, "%s %s", variant_placement(config)->name, variant_norm(config)->name);
}

void variant_print_table(void) {
    printf("--norm\n");
    for (int i = 0; i < NORM_COUNT; i++)
        printf("  %-12s %-28s eps %g; %s\n", NORMS[i].name, NORMS[i].formula, NORMS[i].eps, NORMS[i].source);
    printf("--placement\n");
    for (int i = 0; i < PLACEMENT_COUNT; i++)
        printf("  %-12s %s; %s\n", PLACEMENTS[i].name, PLACEMENTS[i].formula, PLACEMENTS[i].source);
    printf("Every norm goes with every placement.\n");
}
