/*
 * items.h: which questions does a file ask of a model?
 *
 * JSON lines, one item each, as data/README.md describes them; a file asks one kind of question:
 *
 *     choices     {"context_ids": […], "choice_ids": [[…], …], "answer": 0, "choice_chars": […], "choice_bytes": […]}
 *                 {"context": "…", "choices": ["…", …], "answer": 0, "delimiter": " "}
 *     last word   {"context_ids": […], "target_ids": […]}
 *                 {"context": "…", "target": " …"}
 *
 * and any of them may have an "id", a text that nobody reads. Text is for models of bytes, and becomes tokens as
 * lm_eval makes them: blanks at the context's end belong to what follows; in place of an empty context stands the token
 * that ends documents, or else byte 0. answer counts from 0. choice_chars and choice_bytes are the lengths of the
 * choices' texts, by which likelihoods are divided.
 */
#ifndef ITEMS_H
#define ITEMS_H

#include "../base/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ITEM_CHOICES_MOST = 4096, ITEM_ROW_MOST = 16 << 20 /* bytes of a line */ };

/* What a model can be asked. */
typedef struct ItemRules {
    uint32_t vocab; /* every id is below it */
    int longest;    /* tokens of one continuation, at most */
    const uint32_t *id_of_byte; /* [256] where its tokens are bytes, so that text can be asked: one beyond vocab where a
                                   byte has none; or NULL */
    uint32_t prefix; /* stands in the place of an empty context, of text */
} ItemRules;

typedef struct Item {
    bool last_word;  /* one continuation, which is the right one; else choices, of which one is */
    int choices, answer;
    int context;     /* tokens, at least one */
    int *length;     /* [choices] tokens, at least one each */
    uint32_t *tokens; /* the context's, then each choice's */
    int *chars, *bytes; /* [choices] at least 1; NULL: not given */
} Item;

/* One row. A pure function; false with *error set, and nothing to free, where it is none that the rules allow. */
bool item_parse(const char *json, size_t size, const ItemRules *rules, Item *item, Error *error);
void item_free(Item *item);

/* A file's rows, one after the other, in little memory; rows of blanks are passed over. */
typedef struct ItemReader ItemReader;

/* NULL with *error set where this is no regular file, or cannot be read. Path and rules must outlive the reader. */
ItemReader *item_reader_open(const char *path, const ItemRules *rules, Error *error);
void item_reader_close(ItemReader *reader);

/* After the first item: the sha256 of the tokenizer.json that made the ids, as the file's first row says it,
 * {"tokenizer_sha256": "…"}; "" where it does not. */
const char *item_reader_tokenizer(const ItemReader *reader);

/* How much of the file has been read, from 0 to 1. */
double item_reader_share(const ItemReader *reader);

/* The next item, which the caller frees, and the number of its row, from 1. False at the end of the file, and, with
 * *error set, which names file and row, where there is something else: no item, or one of another kind than the first.
 * */
bool item_next(ItemReader *reader, Item *item, int64_t *row, Error *error);

#endif
