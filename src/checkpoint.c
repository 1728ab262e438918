/* checkpoint.c: see checkpoint.h. */
#include "checkpoint.h"
#include "variant.h"
#include "weights.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP_FORMAT "step_%08lld"

static bool join(char path[CHECKPOINT_PATH], const char *directory, const char *name, Error *error) {
    int n = snprintf(path, CHECKPOINT_PATH, "%s/%s", directory, name);
    return (n > 0 && n < CHECKPOINT_PATH) || error_set(error, "%.200s…: the path is too long", directory);
}

/* ------------------------------------------------------------------------------------------------------
 * Small files
 * ---------------------------------------------------------------------------------------------------- */

static bool close_synced(FILE *file, const char *path, Error *error) {
    bool good = !ferror(file) && fflush(file) == 0 && fsync(fileno(file)) == 0;
    int reason = errno;
    if (fclose(file) && good) good = false, reason = errno;
    return good || error_set(error, "%s: %s", path, strerror(reason));
}

static bool write_json(const char *directory, const char *name, const cJSON *object, Error *error) {
    char path[CHECKPOINT_PATH];
    if (!join(path, directory, name, error)) return false;
    FILE *file = fopen(path, "wb");
    if (!file) return error_set(error, "%s: %s", path, strerror(errno));
    char *text = cJSON_Print(object);
    if (text) fprintf(file, "%s\n", text);
    cJSON_free(text);
    return close_synced(file, path, error);
}

static bool write_config_ini(const char *directory, const Config *config, Error *error) {
    char path[CHECKPOINT_PATH];
    if (!join(path, directory, "config.ini", error)) return false;
    FILE *file = fopen(path, "wb");
    if (!file) return error_set(error, "%s: %s", path, strerror(errno));
    config_write(config, file);
    return close_synced(file, path, error);
}

/* Reads and parses a JSON file of moderate size; NULL with *error set. */
static cJSON *read_json(const char *directory, const char *name, Error *error) {
    enum { LARGEST = 1 << 20 };
    char path[CHECKPOINT_PATH];
    if (!join(path, directory, name, error)) return NULL;
    FILE *file = fopen(path, "rb");
    if (!file) {
        error_set(error, "%s: %s", path, strerror(errno));
        return NULL;
    }
    char *bytes = must_malloc(LARGEST, path);
    size_t size = fread(bytes, 1, LARGEST, file);
    fclose(file);
    cJSON *object = size < LARGEST ? cJSON_ParseWithLength(bytes, size) : NULL;
    free(bytes);
    if (!cJSON_IsObject(object)) {
        cJSON_Delete(object);
        object = NULL;
        error_set(error, "%s: not a JSON object", path);
    }
    return object;
}

/* ------------------------------------------------------------------------------------------------------
 * Finding
 * ---------------------------------------------------------------------------------------------------- */

static bool is_complete(const char *path) {
    Error ignored;
    cJSON *state = read_json(path, "state.json", &ignored);
    bool complete = cJSON_IsNumber(cJSON_GetObjectItem(state, "step"));
    cJSON_Delete(state);
    return complete;
}

/* The step of a directory's name, or −1. */
static int64_t step_of(const char *name) {
    long long step;
    int used = 0;
    return sscanf(name, STEP_FORMAT "%n", &step, &used) == 1 && name[used] == '\0' ? step : -1;
}

/* Newest complete checkpoint in a run's directory that is older than step `below`. */
static bool newest(const char *directory, int64_t below, char path[CHECKPOINT_PATH]) {
    DIR *entries = opendir(directory);
    if (!entries) return false;
    int64_t best = -1;
    for (struct dirent *entry; (entry = readdir(entries));) {
        char candidate[CHECKPOINT_PATH];
        Error ignored;
        int64_t step = step_of(entry->d_name);
        if (step <= best || step >= below || !join(candidate, directory, entry->d_name, &ignored)) continue;
        if (!is_complete(candidate)) {
            warn("%s is not a complete checkpoint; passing it over", candidate);
            continue;
        }
        best = step;
        memcpy(path, candidate, sizeof candidate);
    }
    closedir(entries);
    return best >= 0;
}

bool checkpoint_find(const char *resume, const char *out, char path[CHECKPOINT_PATH], Error *error) {
    *error = (Error){0};
    if (strcmp(resume, "auto") == 0) return newest(out, INT64_MAX, path);
    if (newest(resume, INT64_MAX, path)) return true;
    if (!is_complete(resume)) return error_set(error, "--resume %s: no complete checkpoint there", resume);
    int n = snprintf(path, CHECKPOINT_PATH, "%s", resume);
    return n < CHECKPOINT_PATH || error_set(error, "--resume: the path is too long");
}

/* ------------------------------------------------------------------------------------------------------
 * Saving
 * ---------------------------------------------------------------------------------------------------- */

/* The model in Hugging Face's words, so that plain variants load there as they are. */
static cJSON *hugging_face_config(const Config *c) {
    cJSON *o = cJSON_CreateObject(), *architectures = cJSON_AddArrayToObject(o, "architectures");
    bool gpt2 = c->arch == ARCH_GPT2;
    char variant[128];
    variant_describe(c, variant, sizeof variant);
    cJSON_AddItemToArray(architectures, cJSON_CreateString(gpt2 ? "GPT2LMHeadModel" : "LlamaForCausalLM"));
    cJSON_AddStringToObject(o, "model_type", gpt2 ? "gpt2" : "llama");
    cJSON_AddStringToObject(o, "torch_dtype", "float32");
    cJSON_AddNumberToObject(o, "vocab_size", (double)c->vocab_size);
    cJSON_AddBoolToObject(o, "tie_word_embeddings", c->tie_embeddings == SWITCH_ON);
    const struct {
        const char *gpt2, *llama;
        double value;
    } numbers[] = {
        {"n_layer", "num_hidden_layers", (double)c->n_layer},
        {"n_head", "num_attention_heads", (double)c->n_head},
        {NULL, "num_key_value_heads", (double)c->n_kv_head},
        {"n_embd", "hidden_size", (double)c->n_embd},
        {"n_inner", "intermediate_size", (double)c->n_ffn},
        {"n_positions", "max_position_embeddings", (double)c->seq_len},
        {"layer_norm_epsilon", "rms_norm_eps", c->norm_eps},
        {NULL, "rope_theta", c->rope_base},
        {NULL, "head_dim", (double)c->head_size},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const char *name = gpt2 ? numbers[i].gpt2 : numbers[i].llama;
        if (name) cJSON_AddNumberToObject(o, name, numbers[i].value);
    }
    bool swiglu = c->activation == ACTIVATION_FLAG_SWIGLU;
    cJSON_AddStringToObject(o, gpt2 ? "activation_function" : "hidden_act", swiglu ? "silu" : "gelu_new");
    if (!gpt2) cJSON_AddBoolToObject(o, "attention_bias", c->bias == SWITCH_ON);
    if (!gpt2) cJSON_AddBoolToObject(o, "mlp_bias", c->bias == SWITCH_ON);
    cJSON_AddStringToObject(o, "train_gpt_variant", variant);
    return o;
}

static cJSON *state_object(const Config *config, const Model *model, const StepState *state, int64_t step) {
    cJSON *o = cJSON_CreateObject();
    char variant[128];
    variant_describe(config, variant, sizeof variant);
    cJSON_AddNumberToObject(o, "format", 1);
    cJSON_AddNumberToObject(o, "step", (double)step);
    cJSON_AddNumberToObject(o, "applied", (double)state->applied);
    cJSON_AddNumberToObject(o, "skips_in_a_row", state->skips_in_a_row);
    cJSON_AddNumberToObject(o, "seed", (double)config->seed);
    cJSON_AddNumberToObject(o, "threads", (double)config->threads);
    cJSON_AddNumberToObject(o, "head_chunk", (double)model->head_chunk);
    cJSON_AddStringToObject(o, "kernels", model->k->name);
    cJSON_AddStringToObject(o, "variant", variant);
    cJSON *window = cJSON_AddObjectToObject(o, "window");
    int count = (int)state->window_count;
    cJSON_AddNumberToObject(window, "next", state->window_next);
    cJSON_AddItemToObject(window, "loss", cJSON_CreateDoubleArray(state->loss_window, count));
    cJSON_AddItemToObject(window, "norm", cJSON_CreateDoubleArray(state->norm_window, count));
    return o;
}

static bool save_model(const char *directory, const Model *model, Error *error) {
    char path[CHECKPOINT_PATH];
    SafetensorsPair metadata = {"format", "pt"}; /* transformers asks for it */
    return join(path, directory, "model.safetensors", error) &&
           weights_write(path, &(DeviceArena){model, model->master}, &metadata, 1, error);
}

static bool save_moments(const char *directory, const Model *model, const Optimizer *optimizer, Error *error) {
    char path[CHECKPOINT_PATH];
    if (!join(path, directory, "optimizer-0-of-1.safetensors", error)) return false;
    int count;
    SafetensorsEntry *m = weights_entries(model, "m.", &count), *v = weights_entries(model, "v.", &count);
    SafetensorsEntry *both = must_malloc(2 * (size_t)count * sizeof *both, "a file's entries");
    memcpy(both, m, (size_t)count * sizeof *both);
    memcpy(both + count, v, (size_t)count * sizeof *both);
    SafetensorsWriter *writer = safetensors_writer_begin(path, both, 2 * (size_t)count, NULL, 0, error);
    weights_entries_free(m, count);
    weights_entries_free(v, count);
    free(both);
    if (!writer) return false;
    if (!weights_append(writer, 0, &(DeviceArena){model, optimizer->m}, error) ||
        !weights_append(writer, (size_t)count, &(DeviceArena){model, optimizer->v}, error)) {
        safetensors_writer_abort(writer);
        return false;
    }
    return safetensors_writer_finish(writer, error);
}

static bool save_small(const char *directory, const Config *config, const Model *model, Optimizer *optimizer,
                       int64_t step, Error *error) {
    cJSON *shape = hugging_face_config(config);
    cJSON *state = state_object(config, model, optimizer_read(optimizer), step);
    bool good = write_json(directory, "config.json", shape, error) && write_config_ini(directory, config, error) &&
                write_json(directory, "state.json", state, error);
    cJSON_Delete(shape);
    cJSON_Delete(state);
    return good;
}

/* A checkpoint is a flat directory of files. */
static void remove_checkpoint(const char *path) {
    DIR *entries = opendir(path);
    if (!entries) return;
    for (struct dirent *entry; (entry = readdir(entries));)
        if (entry->d_name[0] != '.') unlinkat(dirfd(entries), entry->d_name, 0);
    closedir(entries);
    rmdir(path);
}

static bool sync_directory(const char *path, Error *error) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = fd >= 0 && fsync(fd) == 0;
    int reason = errno;
    if (fd >= 0) close(fd);
    return good || error_set(error, "%s: %s", path, strerror(reason));
}

/* Keeps the newest `keep` that are complete. */
static void drop_old(const Config *config) {
    char path[CHECKPOINT_PATH];
    int64_t below = INT64_MAX;
    for (int64_t kept = 0; newest(config->out, below, path); kept++) {
        below = step_of(strrchr(path, '/') + 1);
        if (kept >= config->keep) remove_checkpoint(path);
    }
}

bool checkpoint_save(const Config *config, const Model *model, Optimizer *optimizer, int64_t step,
                     char path[CHECKPOINT_PATH], Error *error) {
    char name[64], partial[CHECKPOINT_PATH];
    snprintf(name, sizeof name, STEP_FORMAT, (long long)step);
    if (!join(path, config->out, name, error)) return false;
    if (is_complete(path)) return true;
    snprintf(name, sizeof name, "." STEP_FORMAT ".partial", (long long)step);
    if (!join(partial, config->out, name, error)) return false;
    remove_checkpoint(partial);
    if (mkdir(partial, 0777)) return error_set(error, "%s: %s", partial, strerror(errno));
    bool good = save_model(partial, model, error) && save_moments(partial, model, optimizer, error) &&
                save_small(partial, config, model, optimizer, step, error) && sync_directory(partial, error);
    if (good) remove_checkpoint(path); /* an incomplete one of the same step */
    if (good && rename(partial, path)) good = error_set(error, "%s: %s", path, strerror(errno));
    if (!good) {
        remove_checkpoint(partial);
        return false;
    }
    good = sync_directory(config->out, error);
    drop_old(config);
    return good;
}

/* ------------------------------------------------------------------------------------------------------
 * Loading
 * ---------------------------------------------------------------------------------------------------- */

static bool number(const cJSON *object, const char *name, double least, double most, double *value) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= least && item->valuedouble <= most)) return false;
    *value = item->valuedouble;
    return true;
}

static bool window_of(const cJSON *window, const char *name, double *values, uint32_t *count) {
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(window, name), *item;
    int n = cJSON_GetArraySize(array);
    if (!cJSON_IsArray(array) || n > SKIP_WINDOW) return false;
    cJSON_ArrayForEach(item, array) {
        if (!cJSON_IsNumber(item)) return false;
        *values++ = item->valuedouble;
    }
    *count = (uint32_t)n;
    return true;
}

static bool parse_state(const cJSON *o, StepState *state, double *step, double *threads) {
    const cJSON *window = cJSON_GetObjectItemCaseSensitive(o, "window");
    double applied, skips, next;
    uint32_t norms;
    bool good = number(o, "step", 0, 1e15, step) && number(o, "applied", 0, 1e15, &applied) &&
                number(o, "skips_in_a_row", 0, 1e9, &skips) && number(o, "threads", 1, 1e6, threads) &&
                number(window, "next", 0, SKIP_WINDOW - 1, &next) &&
                window_of(window, "loss", state->loss_window, &state->window_count) &&
                window_of(window, "norm", state->norm_window, &norms) && norms == state->window_count;
    if (!good) return false;
    state->applied = (uint64_t)applied;
    state->skips_in_a_row = (uint32_t)skips;
    state->window_next = (uint32_t)next;
    return true;
}

static bool load_moments(const char *directory, Model *model, Optimizer *optimizer, Error *error) {
    char path[CHECKPOINT_PATH];
    SafetensorsFile file;
    if (!join(path, directory, "optimizer-0-of-1.safetensors", error) || !safetensors_open(&file, path, error))
        return false;
    bool good = weights_read(&file, "m.", &(DeviceArena){model, optimizer->m}, error) &&
                weights_read(&file, "v.", &(DeviceArena){model, optimizer->v}, error);
    safetensors_close(&file);
    return good;
}

static bool load_state(const char *directory, const Config *config, StepState *state, int64_t *step, Error *error) {
    cJSON *object = read_json(directory, "state.json", error);
    if (!object) return false;
    double at = 0, threads = 0;
    char variant[128];
    variant_describe(config, variant, sizeof variant);
    const cJSON *theirs = cJSON_GetObjectItemCaseSensitive(object, "variant");
    bool good = true;
    if (!parse_state(object, state, &at, &threads))
        good = error_set(error, "%s/state.json: a field is missing or out of range", directory);
    else if (!cJSON_IsString(theirs) || strcmp(theirs->valuestring, variant))
        good = error_set(error, "%s is of variant '%s'; this run's is '%s'", directory,
                         cJSON_IsString(theirs) ? theirs->valuestring : "?", variant);
    cJSON_Delete(object);
    if (!good) return false;
    *step = (int64_t)at;
    if ((int64_t)threads != config->threads)
        warn("%s was written with %d threads, this run has %lld: the bits will differ", directory, (int)threads,
             (long long)config->threads);
    return true;
}

bool checkpoint_load(const char *path, const Config *config, Model *model, Optimizer *optimizer, int64_t *step,
                     Error *error) {
    StepState state = {0};
    char file[CHECKPOINT_PATH];
    if (!load_state(path, config, &state, step, error) || !join(file, path, "model.safetensors", error) ||
        !weights_load(model, file, error))
        return false;
    if (!optimizer) return true;
    if (!load_moments(path, model, optimizer, error)) return false;
    optimizer_write(optimizer, &state);
    return true;
}
