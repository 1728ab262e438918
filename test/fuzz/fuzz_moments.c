/*
 * fuzz_moments.c: do files of moments that are accepted have every element of every tensor once? (src/checkpoint/moments.h)
 *
 * A line of input is a tensor: the number of its file, its name, its shape: "1 m.transformer.wte.weight[0:40] 40".
 */
#define _GNU_SOURCE
#include "fuzz.h"
#include "../../src/checkpoint/moments.h"
#include "../../src/settings/config.h"
#include "../../src/settings/resolve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FILES = 3, MOST = 4096 };

/* A gpt2 with transposed matrices, of some hundred elements. */
static const FileTensor *tensors_of_model(int *count) {
    static Params params;
    static FileTensor *tensors;
    static int tensor_count;
    if (!tensors) {
        static Config config;
        Error error = {0};
        config_defaults(&config);
        PROMISE(config_set_all(&config, "n-layer=1 n-embd=8 n-head=1 n-ffn=3 vocab-size=5 seq-len=3 batch-size=1", &error));
        config_resolve(&config, 1);
        params_build(&params, &config);
        tensors = params_file_tensors(&params, &tensor_count);
    }
    *count = tensor_count;
    return tensors;
}

/* The files that the lines make; names are cut out of the text. */
static void read_lines(char *text, SafetensorsTensor tensors[FILES][MOST], size_t counts[FILES]) {
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        char *file = strsep(&line, " "), *name = strsep(&line, " ");
        if (!name || file[0] < '0' || file[0] >= '0' + FILES || file[1]) continue;
        const int f = file[0] - '0';
        if (counts[f] == MOST) continue;
        SafetensorsTensor *tensor = &tensors[f][counts[f]++];
        *tensor = (SafetensorsTensor){.name = name, .dtype = SAFETENSORS_F32, .n_elements = 1};
        for (char *dim; tensor->n_dims < SAFETENSORS_MAX_DIMS && (dim = strsep(&line, " "));) {
            if (strcmp(dim, "I32") == 0) tensor->dtype = SAFETENSORS_I32;
            else tensor->n_elements *= tensor->shape[tensor->n_dims++] = strtoull(dim, NULL, 10);
        }
    }
}

/* By other means than the parser's: "m.", the tensor's name, maybe ".T", maybe a range. */
static void check_piece(const MomentPiece *piece, const FileTensor *t) {
    char name[PARAM_NAME_SIZE + 128];
    const int64_t elements = t->shape[0] * t->shape[1];
    const char which = piece->which ? 'v' : 'm';
    PROMISE(piece->file >= 0 && piece->file < FILES && (piece->which == 0 || piece->which == 1));
    PROMISE(0 <= piece->begin && piece->begin < piece->end && piece->end <= elements);
    snprintf(name, sizeof name, "%c.%s", which, t->name);
    if (strcmp(name, piece->name) == 0) {
        PROMISE(piece->begin == 0 && piece->end == elements && piece->transposed == t->param->transposed);
        return;
    }
    snprintf(name, sizeof name, "%c.%s%s[%lld:%lld]", which, t->name, t->param->transposed ? ".T" : "", (long long)piece->begin,
             (long long)piece->end);
    PROMISE(strcmp(name, piece->name) == 0 && !piece->transposed);
}

static void check_cover(const MomentIndex *index) {
    for (int i = 0; i < 2 * index->tensor_count; i++) {
        const FileTensor *t = &index->tensors[i % index->tensor_count];
        const int64_t elements = t->shape[0] * t->shape[1];
        char *seen = calloc((size_t)elements, 1);
        for (size_t p = 0; p < index->count; p++) {
            const MomentPiece *piece = &index->list[p];
            if (piece->which != i / index->tensor_count || piece->tensor != i % index->tensor_count) continue;
            for (int64_t e = piece->begin; e < piece->end; e++) PROMISE(!seen[e]++);
        }
        for (int64_t e = 0; e < elements; e++) PROMISE(seen[e]);
        free(seen);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static SafetensorsTensor tensors[FILES][MOST];
    size_t counts[FILES] = {0};
    MomentIndex index = {.files = FILES};
    Error error = {0};
    char *text = calloc(size + 1, 1);
    memcpy(text, data, size);
    index.tensors = tensors_of_model(&index.tensor_count);
    read_lines(text, tensors, counts);
    bool good = true;
    for (int f = 0; good && f < FILES; f++) {
        const SafetensorsHeader header = {.tensors = tensors[f], .n_tensors = counts[f]};
        good = moments_index_add(&index, f, &header, &error);
    }
    for (size_t i = 0; i < index.count; i++) check_piece(&index.list[i], &index.tensors[index.list[i].tensor]);
    if (good) good = moments_index_check(&index, &error);
    if (good) check_cover(&index);
    else fuzz_check_error(&error);
    moments_index_free(&index);
    free(text);
    return 0;
}
