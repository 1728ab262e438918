/*
 * variant_cases.h: all the variants there are, as settings for model_fixture.h.
 *
 * A variant is one word of each of a list of factors (norm, placement, GPAS, SDD, …). Case i of the product
 * stands for one choice of every word; what MATH.md §2 refuses is among them, and variant_is_legal() says so.
 */
#ifndef VARIANT_CASES_H
#define VARIANT_CASES_H

#include <stdbool.h>
#include <stddef.h>

enum { FACTORS_MOST = 10 };

typedef struct Factor {
    const char *name;
    int count;
    const char *const *words; /* settings: "placement=lns lns-init=on"; "" for none */
} Factor;

typedef struct VariantCase {
    int word[FACTORS_MOST]; /* of each factor */
} VariantCase;

/* norm × placement × gpas × sdd: 6 × 10 × 3 × 3, of which bhyt goes with two placements alone, and two with no SDD. */
enum { LEGAL_METHODS = ((5 * 8 + 2) * 3 + 5 * 2) * 3 };
extern const Factor METHODS[];
extern const int METHOD_COUNT;

/* The same with every option that changes the mathematics, architectures and depths. */
extern const Factor EVERYTHING[];
extern const int EVERYTHING_COUNT;

/* How many cases a product has, and case i of it. */
long variant_count(const Factor *factors, int count);
VariantCase variant_case(const Factor *factors, int count, long i);

/* Its words, one after the other. */
void variant_settings(const Factor *factors, int count, const VariantCase *c, char *text, size_t size);

/* VARIANTS_EVERY=N in the environment: every Nth variant will do, a sample for slow checkers. 7 is prime to the
 * numbers of words, so every word is in it. 1 where nothing is said. */
int variants_every(void);

/* Calls test(settings) for every legal case of METHODS (of those every variants_every()th), `shape` put before;
 * architectures take turns, such that every two words of METHODS meet in both. Returns how many are legal. */
int variant_for_each(const char *shape, void (*test)(const char *settings));

/* The rules: bhyt approximates within pre-norm blocks; q and k are normed once. */
bool variant_is_legal(const char *settings);

/* Pairwise cover: legal cases such that any two words of two factors that some legal case has together are
 * together in one of them. The same list every time. Returns how many; caller frees *cases. */
int variant_cover(const Factor *factors, int count, VariantCase **cases);

/* Whether a list of cases has words a of factor f and b of factor g together. */
bool variant_covers(const VariantCase *cases, int n, int f, int a, int g, int b);

/* Whether two words may meet at all. */
bool variant_may_meet(const Factor *factors, int count, int f, int a, int g, int b);

#endif
