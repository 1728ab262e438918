/* pretrained.c: see pretrained.h. */
#define _GNU_SOURCE
#include "pretrained.h"
#include "../base/directory.h"
#include "../base/json.h"
#include "init_from.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define WHOLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"

enum { INDEX_LARGEST = 64 << 20, SHARDS_MOST = 4096 };

/* All tensors of all files. */
typedef struct Source {
    const char *path; /* for messages: what the user named */
    SafetensorsFile *files;
    int n_files;
    bool **used; /* [n_files][tensors] */
} Source;

/* ------------------------------------------------------------------------------------------------------
 * The index
 * ---------------------------------------------------------------------------------------------------- */

static char *copy_text(const char *text) {
    return strcpy(must_malloc(strlen(text) + 1, "a name"), text);
}

static bool parse_map(const cJSON *map, ShardedTensor *list, int *count, Error *error) {
    const cJSON *item;
    cJSON_ArrayForEach(item, map) {
        if (!cJSON_IsString(item))
            return error_set(error, "the file of tensor %.100s must be a text", item->string);
        if (!name_is_plain(item->valuestring))
            return error_set(error, "tensor %.100s: '%.200s' is not the name of a file in this directory",
                             item->string, item->valuestring);
        list[*count] = (ShardedTensor){copy_text(item->string), copy_text(item->valuestring)};
        ++*count;
    }
    return *count > 0 || error_set(error, "field 'weight_map' is empty");
}

bool pretrained_index_parse(const char *bytes, size_t size, ShardedTensor **list, int *count, Error *error) {
    *count = 0;
    cJSON *object = json_parse(bytes, size, error);
    if (!object) return false;
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(object, "weight_map");
    *list = must_calloc((size_t)cJSON_GetArraySize(map), sizeof **list, "an index");
    bool good = cJSON_IsObject(map) ? parse_map(map, *list, count, error)
                                    : error_set(error, "field 'weight_map' must be an object");
    cJSON_Delete(object);
    if (!good) pretrained_index_free(*list, *count);
    return good;
}

void pretrained_index_free(ShardedTensor *list, int count) {
    for (int i = 0; i < count; i++) {
        free(list[i].name);
        free(list[i].file);
    }
    free(list);
}

/* ------------------------------------------------------------------------------------------------------
 * Opening
 * ---------------------------------------------------------------------------------------------------- */

static void source_close(Source *source) {
    for (int i = 0; i < source->n_files; i++) {
        safetensors_close(&source->files[i]);
        free(source->used[i]);
    }
    free(source->files);
    free(source->used);
}

static bool add_file(Source *source, const char *path, Error *error) {
    SafetensorsFile *file = &source->files[source->n_files];
    if (!init_from_is_safetensors(path, error) || !safetensors_open(file, path, error)) return false;
    source->used[source->n_files++] = must_calloc(file->header.n_tensors, sizeof(bool), "a file's tensors");
    return true;
}

static void make_room(Source *source, size_t files) {
    source->files = must_calloc(files, sizeof *source->files, "the files of --init-from");
    source->used = must_calloc(files, sizeof *source->used, "the files of --init-from");
}

/* Hugging Face's own hub cache is made of links: say how to read it. */
static bool no_link(const char *path, Error *error) {
    struct stat status;
    return lstat(path, &status) || !S_ISLNK(status.st_mode) ||
           error_set(
               error,
               "%s: a symbolic link; none inside a directory is followed (name the file itself, or copy "
               "with cp -L)",
               path);
}

static bool is_there(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

static bool is_whole(const Source *source, const char *path, Error *error) {
    return is_there(path) ||
           error_set(error, "%s: No such file, and %s names it: the download is not whole", path, source->path);
}

static int by_file(const void *a, const void *b) {
    const ShardedTensor *p = a, *q = b;
    int files = strcmp(p->file, q->file);
    return files ? files : strcmp(p->name, q->name);
}

/* Opens every shard once; each must hold exactly the tensors that the index gives it. Sorts the list by file. */
static bool open_shards(Source *source, const char *directory, ShardedTensor *list, int count, Error *error) {
    size_t held = 0;
    char path[PATH_SIZE];
    qsort(list, (size_t)count, sizeof *list, by_file);
    for (int i = 0; i < count; i++) {
        if (i == 0 || strcmp(list[i - 1].file, list[i].file)) {
            if (source->n_files == SHARDS_MOST)
                return error_set(error, "%s: over %d shards", source->path, SHARDS_MOST);
            if (!path_join(path, directory, list[i].file, error) || !is_whole(source, path, error) ||
                !no_link(path, error) || !add_file(source, path, error))
                return false;
            held += source->files[source->n_files - 1].header.n_tensors;
        }
        if (!safetensors_find(&source->files[source->n_files - 1].header, list[i].name))
            return error_set(error, "%s: no tensor %.100s, which the index says is there", path,
                             list[i].name);
    }
    return held == (size_t)count ||
           error_set(error, "%s: its shards hold %zu tensors, the index names %d", source->path, held, count);
}

static bool open_index(Source *source, const char *path, Error *error) {
    char *directory = copy_text(path), *slash = strrchr(directory, '/');
    if (slash) slash[slash == directory] = '\0';
    size_t size;
    ShardedTensor *list;
    int count;
    Error reason = {0};
    char *real = realpath(path, NULL); /* the index is what the user named: it may be a link */
    char *bytes = inner_file_read(real ? real : path, INDEX_LARGEST, &size, error);
    bool parsed = bytes && (pretrained_index_parse(bytes, size, &list, &count, &reason) ||
                            error_set(error, "%s: %s", path, reason.text));
    free(bytes);
    free(real);
    make_room(source, SHARDS_MOST);
    bool good = parsed && open_shards(source, slash ? directory : ".", list, count, error);
    if (parsed) pretrained_index_free(list, count);
    free(directory);
    return good;
}

static bool open_single(Source *source, const char *path, Error *error) {
    make_room(source, 1);
    return add_file(source, path, error);
}

static bool open_directory(Source *source, const char *directory, Error *error) {
    char whole[PATH_SIZE], index[PATH_SIZE];
    if (!path_join(whole, directory, WHOLE_NAME, error) || !path_join(index, directory, INDEX_NAME, error))
        return false;
    if (is_there(whole)) return no_link(whole, error) && open_single(source, whole, error);
    if (is_there(index)) return no_link(index, error) && open_index(source, index, error);
    return error_set(error, "%s: holds neither %s nor %s", directory, WHOLE_NAME, INDEX_NAME);
}

static bool source_open(Source *source, const char *path, Error *error) {
    static const char ending[] = ".index.json";
    struct stat status;
    size_t length = strlen(path);
    *source = (Source){.path = path};
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) return open_directory(source, path, error);
    if (length > strlen(ending) && strcmp(path + length - strlen(ending), ending) == 0)
        return open_index(source, path, error);
    return open_single(source, path, error);
}

/* ------------------------------------------------------------------------------------------------------
 * Matching
 * ---------------------------------------------------------------------------------------------------- */

/* Finds a tensor by its name, or without the name's first word if that is the model's; marks it as used. */
static TensorPlace find(Source *source, const char *name) {
    static const char *const PREFIXES[] = {"", "transformer.", "model."};
    for (size_t p = 0; p < sizeof PREFIXES / sizeof *PREFIXES; p++) {
        size_t length = strlen(PREFIXES[p]);
        if (strncmp(name, PREFIXES[p], length)) continue;
        for (int f = 0; f < source->n_files; f++) {
            const SafetensorsTensor *tensor = safetensors_find(&source->files[f].header, name + length);
            if (!tensor) continue;
            source->used[f][tensor - source->files[f].header.tensors] = true;
            return (TensorPlace){tensor->name, &source->files[f], tensor, false};
        }
    }
    return (TensorPlace){name, &source->files[0], NULL, false};
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Buffers that transformers has saved beside the parameters: they follow from the shape. */
static bool is_buffer(const Model *model, const char *name) {
    if (model->config->arch == ARCH_GPT2)
        return ends_with(name, ".attn.bias") || ends_with(name, ".attn.masked_bias");
    return ends_with(name, ".rotary_emb.inv_freq");
}

static bool same_values(const TensorPlace *a, const TensorPlace *b, bool *same, Error *error) {
    enum { PIECE = 8192 };
    double x[PIECE], y[PIECE];
    const SafetensorsTensor *t = a->tensor, *u = b->tensor;
    *same = t->n_dims == u->n_dims && memcmp(t->shape, u->shape, t->n_dims * sizeof *t->shape) == 0;
    for (uint64_t first = 0; *same && first < t->n_elements; first += PIECE) {
        size_t n = t->n_elements - first < PIECE ? (size_t)(t->n_elements - first) : PIECE;
        if (!safetensors_read(a->file, t, first, n, SAFETENSORS_F64, x, error) ||
            !safetensors_read(b->file, u, first, n, SAFETENSORS_F64, y, error))
            return false;
        *same = memcmp(x, y, n * sizeof *x) == 0;
    }
    return true;
}

/* The head of a file whose model ties it, as a copy of the embedding. */
static bool check_tied_head(const TensorPlace *head, const TensorPlace *embedding, Error *error) {
    bool same;
    if (!same_values(head, embedding, &same, error)) return false;
    return same || error_set(error,
                             "%s: tensor %s differs from %s, and this model ties them (--tie-embeddings off, "
                             "tie_word_embeddings false in config.json, does not)",
                             head->file->path, head->name, embedding->name);
}

static bool check_rest(const Source *source, const Model *model, const TensorPlace *embedding, Error *error) {
    for (int f = 0; f < source->n_files; f++) {
        const SafetensorsFile *file = &source->files[f];
        for (size_t i = 0; i < file->header.n_tensors; i++) {
            const SafetensorsTensor *tensor = &file->header.tensors[i];
            if (source->used[f][i] || is_buffer(model, tensor->name)) continue;
            bool tied_head =
                strcmp(tensor->name, "lm_head.weight") == 0 && model->config->tie_embeddings == SWITCH_ON;
            if (!tied_head)
                return error_set(error, "%s: tensor %.100s, which this model does not have", file->path,
                                 tensor->name);
            if (!check_tied_head(&(TensorPlace){tensor->name, file, tensor, false}, embedding, error)) return false;
        }
    }
    return true;
}

/* Files that hold tensors, and no model: by a part of a name that a model has not. */
static bool check_kind(const Source *source, Error *error) {
    static const struct {
        const char *part, *what;
    } ROWS[] = {
        {".lora_", "a LoRA adapter: merge it into its base with peft's merge_and_unload(), and save_pretrained() the result"},
        {".qweight", "quantized weights: take those that they were made from"},
        {".weight_scale", "quantized weights: take those that they were made from"},
        {".absmax", "quantized weights: take those that they were made from"},
    };
    for (int f = 0; f < source->n_files; f++)
        for (size_t i = 0; i < source->files[f].header.n_tensors; i++) {
            const char *name = source->files[f].header.tensors[i].name;
            for (size_t r = 0; r < sizeof ROWS / sizeof *ROWS; r++)
                if (strstr(name, ROWS[r].part))
                    return error_set(error, "%s: tensor %.100s is one of %s", source->files[f].path, name, ROWS[r].what);
        }
    return true;
}

/* What is missing, where the way on is known: the head of a tied model, the other files of a sharded one. */
static bool check_missing(const Source *source, const TensorPlace *place, ParamId id, Error *error) {
    if (place->tensor) return true;
    const char *path = place->file->path, *name = strrchr(path, '/');
    if (id == PARAM_HEAD)
        return error_set(error, "%s: no tensor %s; if the head is tied to the token embedding, --tie-embeddings on "
                         "(tie_word_embeddings true in config.json) says so", path, place->name);
    return source->n_files > 1 || !strstr(name ? name : path, "-of-") ||
           error_set(error, "%s: no tensor %s; it seems to be one file of several: give their directory or "
                     INDEX_NAME, path, place->name);
}

/* Finds each tensor of the model, holds the rest of the file to what it may be, and reads. */
static bool read_model(Model *model, Source *source, Error *error) {
    int count;
    bool good = true;
    FileTensor *tensors = params_file_tensors(&model->params, &count);
    TensorPlace *places = must_calloc((size_t)count, sizeof *places, "the tensors of --init-from"), *embedding = places;
    for (int i = 0; i < count; i++) {
        ParamId id = tensors[i].param->id;
        places[i] = find(source, tensors[i].name);
        places[i].may_have_more = id == PARAM_POSITIONS;
        if (id == PARAM_TOKENS) embedding = &places[i];
        good = good && check_missing(source, &places[i], id, error);
    }
    const DeviceArena weights = {.model = model};
    good = good && (!embedding->tensor || check_rest(source, model, embedding, error)) &&
           weights_read_places(places, &weights, error); /* which names what is missing */
    free(places);
    free(tensors);
    return good;
}

bool pretrained_load(Model *model, const char *path, const char *hint, Error *error) {
    Source source;
    Error reason = {0};
    const bool good = source_open(&source, path, error) && check_kind(&source, error) &&
                      (read_model(model, &source, &reason) || error_set(error, "%s%s", reason.text, hint));
    source_close(&source);
    return good;
}
