/*
 * mixture.h: which sources does --train-data name, and in which shares?
 *
 *     'data/books_train_*.bin'                      one source
 *     'web_train_*.bin:0.7,books_train_*.bin:0.3'   two; the weights are positive decimal numbers, and only their ratios count
 *
 * A text of the first form is all that is no mixture, and what exists under that very name. A colon with a number behind it,
 * at the end or before a comma, ends a source of a mixture; other colons and commas are letters of names.
 *
 * The sources' shards stand in one ShardSet, one source after the other, each sorted; set->sources says which are whose. The
 * share of a source is parts / Σ parts, the weights' ratio exactly, as long as that takes no more than TURNS_MOST parts in all
 * (weights of up to six digits do not); else the nearest, of 2^20 parts.
 */
#ifndef MIXTURE_H
#define MIXTURE_H

#include "shard.h"
#include "turns.h"

typedef struct MixtureText {
    size_t sources; /* 0: no mixture */
    char *pattern[TURNS_SOURCES_MOST];
    uint32_t parts[TURNS_SOURCES_MOST];
} MixtureText;

/* Reads a text; looks at no file. False with *error set for a mixture that is none. On success mixture_text_free(). */
bool mixture_parse(const char *text, MixtureText *mixture, Error *error);
void mixture_text_free(MixtureText *mixture);

/* Whether a text is a mixture, or would be one but for what is wrong with it; false for what exists under that name. */
bool mixture_is_meant(const char *text);

/* Opens what a text names (shard_set_open(), for each source); on success shard_set_close(). False, too, where two
 * sources are known to be of different tokenizers (sidecar.h). */
bool mixture_open(ShardSet *set, const char *text, Error *error);

#endif
