/*
 * prompts.h: which texts are to be continued?
 *
 * --generate TEXT           one, of a model whose tokens are bytes
 * --generate-tokens 1,2,3   one, of any model: ids between commas or blanks
 * --generate-file FILE      a prompt a line: text, or, where the file's name ends in .jsonl, objects with the field "ids"
 *                           (a list of token ids) or "prompt" (text, of byte models), and maybe "seed", in --seed's place; other
 *                           fields are not read
 *
 * Text of other models becomes tokens by their tokenizer, which is scripts/generate.py's business. An empty prompt begins
 * where a text begins: behind the end of a document; in a model of bytes, behind a newline.
 */
#ifndef PROMPTS_H
#define PROMPTS_H

#include "../checkpoint/token_bytes.h"
#include "../settings/config.h"

typedef struct Prompt {
    uint32_t *tokens; /* at least one */
    int64_t count;
    bool begins;      /* it was empty: its one token is no part of the text */
    uint64_t seed;
} Prompt;

typedef struct Prompts {
    Prompt *list;
    size_t count;
} Prompts;

/* Reads them all. False with *error set: flag or file, line, what is wrong, what would be right. */
bool prompts_read(Prompts *prompts, const Config *config, const TokenBytes *table, Error *error);
void prompts_free(Prompts *prompts);

/* An empty prompt. */
void prompts_empty(Prompts *prompts, const Config *config, const TokenBytes *table);

#endif
