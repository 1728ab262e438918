/*
 * pretrained.h: weights that others have written, and how --init-from reads them.
 *
 * The path is one of
 *   a .safetensors file;
 *   a model.safetensors.index.json, with the shards that it names in its own directory;
 *   a directory with model.safetensors, or else with model.safetensors.index.json.
 *
 * Names are Hugging Face's, with or without the first "transformer." (gpt2) or "model." (llama). What such
 * files hold beside the parameters is accepted where it says nothing: gpt2's attention masks (…attn.bias,
 * …attn.masked_bias), llama's RoPE frequencies (…rotary_emb.inv_freq), and, where the model ties its
 * embeddings, an lm_head.weight that equals the token embedding. Anything else that the model does not have
 * is an error, as is anything missing, of another shape, or not floating-point.
 *
 * Of learned positions a file may have more than the model (--seq-len is shorter), which takes the first.
 *
 * The path itself may be a symbolic link; inside the directory none is followed, and no name leads out of it.
 * What else a path may be, and which model it is: init_from.h.
 */
#ifndef PRETRAINED_H
#define PRETRAINED_H

#include "../model/model.h"

/* Reads the weights into the model. The error names file and tensor; where these are another model's, the
 * hint stands behind it. */
bool pretrained_load(Model *model, const char *path, const char *hint, Error *error);

/* One entry of an index: a tensor, and the file that holds it. */
typedef struct ShardedTensor {
    char *name, *file;
} ShardedTensor;

/* What an index says; a pure function. File names are plain. On success pretrained_index_free(). */
bool pretrained_index_parse(const char *bytes, size_t size, ShardedTensor **list, int *count, Error *error);
void pretrained_index_free(ShardedTensor *list, int count);

#endif
