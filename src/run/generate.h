/*
 * generate.h: text out of a model: one that is streamed, or many from a file.
 *
 * One text goes to stdout as it grows, its prompt first: to a terminal with control bytes escaped (printable.h), elsewhere as
 * the bytes are. Where nothing says which bytes the tokens stand for (token_bytes.h), ids between commas come in their
 * place. Of --generate-file each prompt gives a line of JSON, in the file's order:
 *
 *     {"prompt":"Once","text":" upon a time","ids":[2402,257,640],"end":"length"}
 *
 * `end` is "document" where the end of a document was drawn, which is in neither text nor ids (--stop-at-end off: it is, and
 * the text goes on). Bytes that are no UTF-8 become U+FFFD there. Without a table: "prompt_ids" in the place of both texts.
 *
 * All end early where nothing more can be written (output.h); the functions return false, with *error set, where the model's
 * logits are no finite numbers.
 */
#ifndef GENERATE_H
#define GENERATE_H

#include "../checkpoint/token_bytes.h"
#include "../data/shard.h"
#include "../model/model.h"
#include "decode.h"
#include "start.h"

/* Which bytes this run's tokens stand for: by the tokenizer of its training data, of the checkpoint that it goes on with, or
 * beside the weights of --init-from, whichever is there first; else, of a model of at most 256 tokens and no tokenizer.json
 * in any of these places, bytes. Where there is nothing, count is 0. `train` or NULL. */
bool generate_table(TokenBytes *table, const Start *start, const ShardSet *train, Error *error);

/* Whether that table says that a text's bytes are tokens; false where it cannot be read. */
bool generate_takes_bytes(const Start *start, const ShardSet *train);

/* What to say where there is no table. */
#define GENERATE_NO_TABLE "no " TOKEN_BYTES_FILE " says what the tokens stand for (data/token_bytes.py makes it): ids, not text"

/* A text from the beginning, as training prints it on the way. */
bool generate_sample(Model *model, const TokenBytes *table, Error *error);

/* --generate and --generate-tokens: the first prompt. */
bool generate_text(Model *model, const TokenBytes *table, const Prompts *prompts, Error *error);

/* --generate-file; *cost says what it took. */
bool generate_lines(Model *model, const TokenBytes *table, const Prompts *prompts, DecodeCost *cost, Error *error);

#endif
