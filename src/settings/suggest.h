/*
 * suggest.h: what was a wrong name or value probably meant to be? A wrong suggestion is worse than none: it is another
 * program's word for one of ours (aliases.h), or the same words in another order, or near by a third of its letters.
 *
 * All three set *error to one line and return false.
 */
#ifndef SUGGEST_H
#define SUGGEST_H

#include "flags.h"

/* A flag that there is not: its name without the two dashes. */
bool refuse_name(const char *name, Error *error);

/* An argument that does not begin with two dashes, where a flag should be. `before`: the flag whose value came just
 * before it, and that value; or NULL. */
bool refuse_word(const char *word, const Flag *before, const char *value, Error *error);

/* A value that is not among a flag's choices, words separated by `separator`. */
bool refuse_choice(const char *flag, const char *value, const char *choices, char separator, Error *error);

#endif
