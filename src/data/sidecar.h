/*
 * sidecar.h: which set is a shard a part of, and what does the file of that set say of its tokenizer?
 *
 * data/shards.py writes DIR/NAME_train_000000.bin and on, DIR/NAME_val_000000.bin and on, DIR/NAME.json, and the
 * tokenizer's files into DIR/NAME.tokenizer. A shard of another name is of no set. Of NAME.json:
 *
 *     "tokenizer": "gpt2", "tokenizer_sha256": "…" (of NAME.tokenizer/tokenizer.json), "vocab_size": 50257,
 *     "end_of_document": 50256 (the id that stands between documents) or null; in older ones "eot_token", where "separator"
 *     is "eot"
 *
 * Each may be missing, as in sets of older versions; what is there in another form than this is an error.
 */
#ifndef SIDECAR_H
#define SIDECAR_H

#include "../base/directory.h"
#include "shard.h"

#include <cjson/cJSON.h>

enum { TOKENIZER_NAME = 64, SHA256_HEX = 65 };

typedef struct SetPart {
    char stem[PATH_SIZE]; /* DIR/NAME */
    char split[8];        /* "train" or "val" */
} SetPart;

/* False for a name of another form; *part is then undefined. */
bool sidecar_part(const char *shard, SetPart *part);

/* DIR/NAME.json, DIR/NAME.tokenizer, whether or not they are there. False where the path is too long. */
bool sidecar_path(const SetPart *part, char path[PATH_SIZE]);
bool sidecar_tokenizer_path(const SetPart *part, char path[PATH_SIZE]);

/* NAME.json, for the caller to delete. NULL: none, or with *there one that cannot be read, and why. */
cJSON *sidecar_json(const char *path, bool *there, Error *error);

typedef struct SetFacts {
    char path[PATH_SIZE];              /* the NAME.json that says them; "": none that can be read */
    char tokenizer_directory[PATH_SIZE]; /* beside it, whether or not it is there */
    char tokenizer[TOKENIZER_NAME];    /* one word, whatever the file says; "?": not said */
    char tokenizer_sha256[SHA256_HEX]; /* "": not said */
    int64_t vocab_size;                /* 0: not said */
    int64_t end_of_document;           /* −1: none, or not said */
} SetFacts;

/* What a NAME.json says; a pure function, which leaves the paths alone. */
bool sidecar_parse(const cJSON *object, SetFacts *facts, Error *error);

/* What the shards' sets say. One without a NAME.json that can be read says nothing (inventory.h tells of it). False where
 * one has a wrong field, or two are of different tokenizers. */
bool sidecar_facts(const ShardSet *set, SetFacts *facts, Error *error);

/* Whether two sets are known to be of different tokenizers: by their hashes or, without, by their sizes. */
bool sidecar_differ(const SetFacts *a, const SetFacts *b);

#endif
