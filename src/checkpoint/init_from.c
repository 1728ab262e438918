/* init_from.c: see init_from.h. */
#define _GNU_SOURCE
#include "init_from.h"
#include "../base/file_kind.h"
#include "checkpoint.h"
#include "token_bytes.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WHOLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"

enum { CONFIG_LARGEST = 1 << 20 };

#define FROM_PYTORCH "; in Python, transformers makes safetensors of a model: " \
                     "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW, safe_serialization=True)"
#define FROM_ADAPTER "a LoRA adapter, which is no model by itself: merge it into its base with peft's " \
                     "merge_and_unload(), and save_pretrained() the result"

static bool there(const char *directory, const char *name) {
    char path[PATH_SIZE];
    struct stat status;
    Error ignored;
    return path_join(path, directory, name, &ignored) && lstat(path, &status) == 0;
}

/* ------------------------------------------------------------------------------------------------------
 * What else it may be
 * ---------------------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

bool init_from_is_safetensors(const char *path, Error *error) {
    const FileKind kind = file_kind_at(path);
    if (!kind.name || strcmp(kind.name, "a safetensors file") == 0) return true; /* its reader says what is wrong */
    const char *todo = "; weights are read from safetensors";
    if (strstr(kind.name, "pickle")) todo = FROM_PYTORCH;
    if (strstr(kind.name, "GGUF")) todo = ", llama.cpp's form; take the safetensors that it was made from";
    if (strcmp(kind.name, "JSON") == 0) todo = ": give the directory of the weights, or their .safetensors file";
    if (kind.holds == FILE_HOLDS_SHARD || kind.holds == FILE_HOLDS_TOKENS)
        todo = ": data for --train-data, where --init-from takes weights";
    return error_set(error, "%s: seems to be %s%s", path, kind.name, todo);
}

/* What a directory without weights of ours holds. */
static bool explain_directory(const char *directory, Error *error) {
    static const struct {
        const char *name, *what;
    } ROWS[] = {
        {"adapter_model.safetensors", FROM_ADAPTER},
        {"adapter_model.bin", FROM_ADAPTER},
        {"adapter_config.json", FROM_ADAPTER},
        {"pytorch_model.bin", "a PyTorch pickle" FROM_PYTORCH},
        {"pytorch_model.bin.index.json", "an index of PyTorch pickles" FROM_PYTORCH},
        {"consolidated.00.pth", "LLaMA as Meta has it; transformers' conversion makes safetensors of it"},
        {"consolidated.safetensors", "Mistral's own form, under other names; take model.safetensors"},
        {"tf_model.h5", "weights of TensorFlow; take the safetensors of the same model"},
        {"flax_model.msgpack", "weights of Flax; take the safetensors of the same model"},
        {"ckpt.pt", "a checkpoint of nanoGPT, a PyTorch pickle; --init-from takes safetensors under GPT-2's names"},
        {"metrics.jsonl", "a run's log, and no complete checkpoint"},
    };
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (there(directory, ROWS[i].name))
            return error_set(error, "%s: holds neither %s nor %s, but %s: %s", directory, WHOLE_NAME, INDEX_NAME,
                             ROWS[i].name, ROWS[i].what);
    DIR *entries = opendir(directory);
    struct dirent *entry = NULL;
    while (entries && (entry = readdir(entries)))
        if ((ends_with(entry->d_name, ".safetensors") && strcmp(entry->d_name, TOKEN_BYTES_FILE) &&
             strncmp(entry->d_name, "optimizer", strlen("optimizer"))) || ends_with(entry->d_name, ".gguf")) break;
    if (entry && ends_with(entry->d_name, ".gguf"))
        error_set(error, "%s: holds neither %s nor %s, but %.80s: a GGUF model, llama.cpp's form; take the safetensors "
                  "that it was made from", directory, WHOLE_NAME, INDEX_NAME, entry->d_name);
    else if (entry)
        error_set(error, "%s: holds neither %s nor %s, but %.80s; to read that, name the file itself", directory,
                  WHOLE_NAME, INDEX_NAME, entry->d_name);
    else error_set(error, "%s: holds neither %s nor %s, nor a run's checkpoints", directory, WHOLE_NAME, INDEX_NAME);
    if (entries) closedir(entries);
    return false;
}

/* ------------------------------------------------------------------------------------------------------
 * Finding
 * ---------------------------------------------------------------------------------------------------- */

static bool holds_weights(const char *directory) { return there(directory, WHOLE_NAME) || there(directory, INDEX_NAME); }

/* RUN/latest, a link to a directory beside it; where there is none, the newest checkpoint by name. */
static bool newest_of_run(char checkpoint[PATH_SIZE], const char *run, Error *error) {
    char link[PATH_SIZE], name[NAME_SIZE] = CHECKPOINT_LATEST;
    if (!path_join(link, run, CHECKPOINT_LATEST, error)) return false;
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length >= 0) name[length] = '\0';
    if (name_is_plain(name) && path_join(checkpoint, run, name, error) && holds_weights(checkpoint)) return true;
    int64_t step = checkpoint_newest_step(run);
    if (step < 0) return false;
    checkpoint_name(name, step);
    return path_join(checkpoint, run, name, error);
}

/* What a user names may be a link, and then what lies beside it may be one as well: Hugging Face's cache is made of
 * links. Inside a directory none is followed. */
static bool find_config(InitFrom *from, const char *directory, bool follow, Error *error) {
    char path[PATH_SIZE];
    if (!there(directory, CHECKPOINT_SHAPE)) return true;
    if (!path_join(path, directory, CHECKPOINT_SHAPE, error)) return false;
    strcpy(from->config, path);
    char *real = follow ? realpath(path, NULL) : NULL;
    size_t size;
    Error reason = {0};
    char *bytes = inner_file_read(real ? real : path, CONFIG_LARGEST, &size, error);
    free(real);
    bool good = bytes && (huggingface_parse(bytes, size, &from->model, &reason) ||
                          error_set(error, "%s: %s", path, reason.text));
    free(bytes);
    return good;
}

static bool open_directory(InitFrom *from, const char *path, Error *error) {
    if (!holds_weights(path)) {
        Error ignored = {0};
        if (!newest_of_run(from->weights, path, &ignored)) return explain_directory(path, error);
    }
    return find_config(from, from->weights, false, error);
}

static bool open_file(InitFrom *from, const char *path, bool is_link, Error *error) {
    char directory[PATH_SIZE];
    if (ends_with(path, "pytorch_model.bin.index.json"))
        return error_set(error, "%s: an index of PyTorch pickles%s", path, FROM_PYTORCH);
    if (!ends_with(path, ".index.json") && !init_from_is_safetensors(path, error)) return false;
    strcpy(directory, path);
    char *slash = strrchr(directory, '/');
    if (slash) slash[slash == directory] = '\0';
    return find_config(from, slash ? directory : ".", is_link, error);
}

bool init_from_open(InitFrom *from, const char *path, Error *error) {
    struct stat status, itself;
    *from = (InitFrom){0};
    if (snprintf(from->weights, sizeof from->weights, "%s", path) >= (int)sizeof from->weights)
        return error_set(error, "%.200s…: the path is too long", path);
    if (stat(path, &status) || lstat(path, &itself))
        return error_set(error, "%s: %s%s", path, strerror(errno),
                         errno == ENOENT ? "; it names a file or a directory, and nothing is downloaded" : "");
    if (S_ISDIR(status.st_mode)) return open_directory(from, path, error);
    return open_file(from, path, S_ISLNK(itself.st_mode), error);
}

bool init_from_notice(const InitFrom *from, char *text, size_t size) {
    if (!from->config[0])
        snprintf(text, size, "no config.json beside %.200s says its constants: epsilon, RoPE's base, heads and the rest "
                 "are as the flags have them", from->weights);
    else if (from->model.unknown[0])
        snprintf(text, size, "%.200s: unknown keys, taken to change nothing that is computed: %s", from->config,
                 from->model.unknown);
    return !from->config[0] || from->model.unknown[0];
}

const char *init_from_hint(const InitFrom *from) {
    return from->config[0] ? "" : "; no config.json beside it says which model this is: bring it from where the weights come from, "
                                  "or say by flags what it would (--arch, --n-layer, --n-head, --n-embd …)";
}
