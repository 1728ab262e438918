/*
 * aliases.h: what other programs call what this one has a flag for: nanoGPT, llm.c, transformers, torchtitan, LitGPT.
 *
 * Only for messages: a foreign name is refused, with ours beside it, because units and defaults differ.
 */
#ifndef ALIASES_H
#define ALIASES_H

typedef struct Alias {
    const char *name; /* foreign: small letters and digits, without dashes and underscores; "-b" for a short flag */
    const char *flag; /* ours, or NULL where there is none */
    const char *note; /* what differs, or why there is none; NULL: the same thing */
} Alias;

typedef struct WordAlias {
    const char *flag;  /* ours */
    const char *words; /* foreign values separated by '|', in small letters */
    const char *word;  /* our value; what follows after "; " is a note */
} WordAlias;

extern const Alias ALIASES[];
extern const WordAlias WORD_ALIASES[];
extern const int ALIAS_COUNT, WORD_ALIAS_COUNT;

/* The row of a foreign flag's name, however that writes its words (max_iters, --max-iters, MaxIters); or NULL. */
const Alias *alias_find(const char *name);

/* The row of a foreign value of one of our flags; or NULL. */
const WordAlias *word_alias_find(const char *flag, const char *value);

#endif
