/* checkpoint_save.c: how a run's state gets onto the disk, whole or not at all. See checkpoint.h. */
#define _GNU_SOURCE
#include "checkpoint.h"
#include "../base/json.h"
#include "../ranks/rendezvous.h"
#include "huggingface.h"
#include "manifest.h"
#include "../settings/usage.h"
#include "../settings/variant.h"
#include "weights.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------
 * What stands in the small files
 * ---------------------------------------------------------------------------------------------------- */

/* With all the digits that a double has: cJSON leaves out the last where it takes 15 for near enough. */
static cJSON *exact_list(const double *values, uint32_t count) {
    cJSON *list = cJSON_CreateArray();
    for (uint32_t i = 0; i < count; i++) {
        char text[32];
        snprintf(text, sizeof text, "%.17g", values[i]);
        cJSON_AddItemToArray(list, cJSON_CreateRaw(text));
    }
    return list;
}

/* BHyT's products of weights, which are older than the weights where --bhyt-refresh is not 1. */
static void add_bhyt(cJSON *o, const Model *model) {
    if (!variant_norm(model->config)->approximates) return;
    size_t bytes = (size_t)model->L * dtype_size(model->k->accum);
    void *raw = must_malloc(bytes, "BHyT's products");
    double *values = must_calloc((size_t)model->L, sizeof *values, "BHyT's products");
    model->k->copy(model->queue, raw, model->bhyt_c, bytes, COPY_TO_HOST);
    model->k->queue_wait(model->queue);
    for (int l = 0; l < model->L; l++)
        values[l] = model->k->accum == DTYPE_F64 ? ((double *)raw)[l] : (double)((float *)raw)[l];
    cJSON_AddItemToObject(o, "bhyt_c", exact_list(values, (uint32_t)model->L));
    free(values);
    free(raw);
}

static cJSON *shape_object(const Config *config, const Model *model) {
    cJSON *o = huggingface_config(config);
    add_bhyt(o, model);
    return o;
}

static cJSON *state_object(const Config *config, const Model *model, const StepState *state,
                           const Progress *progress) {
    cJSON *o = cJSON_CreateObject();
    char variant[128];
    variant_describe(config, variant, sizeof variant);
    cJSON_AddNumberToObject(o, "step", (double)progress->step);
    cJSON_AddNumberToObject(o, "applied", (double)state->applied);
    cJSON_AddNumberToObject(o, "skips_in_a_row", state->skips_in_a_row);
    cJSON_AddNumberToObject(o, "windows", (double)progress->windows);
    cJSON_AddNumberToObject(o, "epoch_windows", (double)progress->epoch_windows);
    cJSON_AddNumberToObject(o, "seed", (double)config->seed);
    cJSON_AddNumberToObject(o, "threads", (double)config->threads);
    cJSON_AddNumberToObject(o, "head_chunk", (double)model->head_chunk);
    cJSON_AddStringToObject(o, "kernels", model->k->name);
    cJSON_AddStringToObject(o, "variant", variant);
    cJSON_AddStringToObject(o, "version", program_version());
    DeviceInfo info = {0};
    model->k->describe(&info);
    cJSON_AddStringToObject(o, "device", info.name);
    if (progress->train_data) cJSON_AddStringToObject(o, "train_data", progress->train_data);
    if (progress->val_data) cJSON_AddStringToObject(o, "val_data", progress->val_data);
    add_bhyt(o, model);
    cJSON *window = cJSON_AddObjectToObject(o, "window");
    cJSON_AddNumberToObject(window, "next", state->window_next);
    cJSON_AddItemToObject(window, "loss", exact_list(state->loss_window, state->window_count));
    cJSON_AddItemToObject(window, "norm", exact_list(state->norm_window, state->window_count));
    return o;
}

/* The device keeps non-finite values out of its window; were one there, no run could go on from this. */
static bool window_is_finite(const StepState *state, Error *error) {
    for (uint32_t i = 0; i < state->window_count; i++)
        if (!isfinite(state->loss_window[i]) || !isfinite(state->norm_window[i]))
            return error_set(error, "the skip window holds a value that is not finite");
    return true;
}

/* ------------------------------------------------------------------------------------------------------
 * Files, one by one
 * ---------------------------------------------------------------------------------------------------- */

static bool write_text(const char *directory, const char *name, const char *text, Error *error) {
    char path[CHECKPOINT_PATH];
    return path_join(path, directory, name, error) && durable_write(path, text, strlen(text), error);
}

/* Takes over the object. */
static bool write_json(const char *directory, const char *name, cJSON *object, Error *error) {
    char *text = cJSON_Print(object);
    require(text, "out of memory for %s", name);
    bool good = write_text(directory, name, text, error);
    cJSON_free(text);
    cJSON_Delete(object);
    return good;
}

static bool write_flags(const char *directory, const Config *config, Error *error) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    require(out, "out of memory for %s", CHECKPOINT_FLAGS);
    config_write(config, out);
    require(fclose(out) == 0, "out of memory for %s", CHECKPOINT_FLAGS);
    bool good = write_text(directory, CHECKPOINT_FLAGS, text, error);
    free(text);
    return good;
}

/* Whole arenas come from all ranks, who expect to be asked for each of them once and in order, whether this rank can
 * write them or not. */
typedef struct Arenas {
    Optimizer *optimizer;
    int taken;
} Arenas;

static DeviceArena take_arena(Arenas *arenas, WholeArena which) {
    void *base = NULL;
    while (arenas->taken <= (int)which) base = optimizer_whole(arenas->optimizer, (WholeArena)arenas->taken++);
    return (DeviceArena){.model = arenas->optimizer->model, .base = base};
}

static bool save_model(const char *directory, Arenas *arenas, Error *error) {
    char path[CHECKPOINT_PATH];
    SafetensorsPair metadata = {"format", "pt"}; /* transformers asks for it */
    DeviceArena masters = take_arena(arenas, WHOLE_MASTERS);
    return path_join(path, directory, CHECKPOINT_MODEL, error) && weights_write(path, &masters, &metadata, 1, error);
}

/* The entries of both moments; *count is that of one. The caller frees. */
static SafetensorsWriter *begin_moments(const char *path, const Model *model, int *count, Error *error) {
    SafetensorsEntry *m = weights_entries(model, "m.", count), *v = weights_entries(model, "v.", count);
    SafetensorsEntry *both = must_malloc(2 * (size_t)*count * sizeof *both, "a file's entries");
    memcpy(both, m, (size_t)*count * sizeof *both);
    memcpy(both + *count, v, (size_t)*count * sizeof *both);
    SafetensorsWriter *writer = safetensors_writer_begin(path, both, 2 * (size_t)*count, NULL, 0, error);
    weights_entries_free(m, *count);
    weights_entries_free(v, *count);
    free(both);
    return writer;
}

static bool save_moments(const char *directory, Arenas *arenas, Error *error) {
    char path[CHECKPOINT_PATH];
    int count;
    if (!path_join(path, directory, CHECKPOINT_MOMENTS, error)) return false;
    SafetensorsWriter *writer = begin_moments(path, arenas->optimizer->model, &count, error);
    if (!writer) return false;
    for (int i = 0; i < 2; i++) {
        DeviceArena moments = take_arena(arenas, i ? WHOLE_V : WHOLE_M);
        if (weights_append(writer, (size_t)(i * count), &moments, error)) continue;
        safetensors_writer_abort(writer);
        return false;
    }
    return safetensors_writer_finish(writer, error);
}

/* The text of gemm.json; NULL where this device has no choices. */
static char *gemm_choices(const Model *model) {
    return model->k->gemm_choices_save ? model->k->gemm_choices_save() : NULL;
}

/* Everything into a directory that is there and empty, the manifest last; then read back. */
static bool fill(const char *directory, const Config *config, const Model *model, Arenas *arenas,
                 const Progress *progress, Error *error) {
    const char *names[] = {CHECKPOINT_MODEL, CHECKPOINT_MOMENTS, CHECKPOINT_SHAPE,
                           CHECKPOINT_FLAGS, CHECKPOINT_STATE,   CHECKPOINT_GEMM};
    const StepState *state = optimizer_read(arenas->optimizer);
    char *gemm = gemm_choices(model);
    bool good =
        window_is_finite(state, error) && save_model(directory, arenas, error) &&
        save_moments(directory, arenas, error) &&
        write_json(directory, CHECKPOINT_SHAPE, shape_object(config, model), error) &&
        write_flags(directory, config, error) &&
        write_json(directory, CHECKPOINT_STATE, state_object(config, model, state, progress), error) &&
        (!gemm || write_text(directory, CHECKPOINT_GEMM, gemm, error));
    int count = gemm ? 6 : 5;
    free(gemm);
    Manifest manifest = {0};
    good = good && manifest_write(directory, progress->step, names, count, error) &&
           directory_sync(directory, error) && manifest_read(directory, &manifest, error) &&
           manifest_check(directory, &manifest, MANIFEST_MEDIUM, error);
    manifest_free(&manifest);
    return good;
}

/* ------------------------------------------------------------------------------------------------------
 * Directories
 * ---------------------------------------------------------------------------------------------------- */

/* OUT/.step_00000100.partial, OUT/.step_00000100.old */
static bool hidden_path(char path[CHECKPOINT_PATH], const char *out, const char *name, const char *ending,
                        Error *error) {
    char hidden[96];
    snprintf(hidden, sizeof hidden, ".%s%s", name, ending);
    return path_join(path, out, hidden, error);
}

/* What interrupted saves and removals have left. */
static void remove_leftovers(const char *out) {
    DIR *entries = opendir(out);
    if (!entries) return;
    for (struct dirent *entry; (entry = readdir(entries));) {
        const char *ending = strrchr(entry->d_name, '.');
        char path[CHECKPOINT_PATH];
        Error ignored;
        bool ours = strncmp(entry->d_name, ".step_", 6) == 0 &&
                    (!strcmp(ending, ".partial") || !strcmp(ending, ".old"));
        if (ours && path_join(path, out, entry->d_name, &ignored)) directory_remove(path);
    }
    closedir(entries);
}

/* Removes a checkpoint that may be complete: it stops being one in a single moment. */
static void remove_checkpoint(const char *out, int64_t step) {
    char name[64], path[CHECKPOINT_PATH], old[CHECKPOINT_PATH];
    Error ignored;
    checkpoint_name(name, step);
    if (path_join(path, out, name, &ignored) && hidden_path(old, out, name, ".old", &ignored) &&
        rename(path, old) == 0)
        directory_remove(old);
}

/* OUT/latest, replaced in one moment; what stands there and is no link is let be. A file system may have no
 * links, and nothing depends on this one: failing is no error. */
static void point_latest(const char *out, const char *name) {
    char latest[CHECKPOINT_PATH], partial[CHECKPOINT_PATH];
    struct stat status;
    Error ignored;
    if (!path_join(latest, out, CHECKPOINT_LATEST, &ignored) ||
        !path_join(partial, out, "." CHECKPOINT_LATEST ".partial", &ignored))
        return;
    if (lstat(latest, &status) == 0 && !S_ISLNK(status.st_mode)) return;
    unlink(partial);
    if (symlink(name, partial) || rename(partial, latest)) unlink(partial);
}

/* Keeps the newest `keep` that have all their files, from this step back: a later one is damaged, or not
 * ours. */
static void drop_old(const char *out, int64_t step, int64_t keep) {
    int64_t *steps, kept = 0;
    Error ignored;
    int count = checkpoint_list(out, &steps, &ignored);
    for (int i = 0; i < count; i++) {
        char name[64], path[CHECKPOINT_PATH];
        checkpoint_name(name, steps[i]);
        if (steps[i] > step || !path_join(path, out, name, &ignored) ||
            !checkpoint_is_complete(path, steps[i], false, &ignored))
            continue;
        if (kept++ >= keep) remove_checkpoint(out, steps[i]);
    }
    free(steps);
}

bool checkpoint_is_finite(Optimizer *optimizer, Error *error) {
    static const char *const WHAT[WHOLE_COUNT] = {
        [WHOLE_MASTERS] = "weights", [WHOLE_M] = "first moments", [WHOLE_V] = "second moments"};
    Arenas arenas = {.optimizer = optimizer};
    Error name = {0};
    for (int which = 0; which < WHOLE_COUNT; which++) {
        DeviceArena whole = take_arena(&arenas, (WholeArena)which);
        if (!weights_are_finite(&whole, &name)) return error_set(error, "%s of %s", WHAT[which], name.text);
    }
    return true;
}

static bool save(const Config *config, const Model *model, Arenas *arenas, const Progress *progress, const char *name,
                 const char *path, Error *error) {
    char partial[CHECKPOINT_PATH];
    struct stat status;
    Error ignored;
    if (!hidden_path(partial, config->out, name, ".partial", error)) return false;
    bool there = lstat(path, &status) == 0;
    remove_leftovers(config->out);
    if (there && checkpoint_is_complete(path, progress->step, true, &ignored)) {
        point_latest(config->out, name);
        /* A save that was killed here had not come to it. */
        if (!progress->doubtful) drop_old(config->out, progress->step, config->keep);
        return true;
    }
    if (mkdir(partial, 0777)) return error_set(error, "%s: cannot create: %s", partial, strerror(errno));
    bool good = fill(partial, config, model, arenas, progress, error);
    if (good && there) remove_checkpoint(config->out, progress->step);
    if (good && rename(partial, path))
        good = error_set(error, "%s: cannot rename to it: %s", path, strerror(errno));
    if (!good) {
        directory_remove(partial);
        return false;
    }
    point_latest(config->out, name);
    if (!directory_sync(config->out, error)) return false;
    if (!progress->doubtful) drop_old(config->out, progress->step, config->keep);
    return true;
}

bool checkpoint_save(const Config *config, const Model *model, Optimizer *optimizer, const Progress *progress,
                     char path[CHECKPOINT_PATH], Error *error) {
    char name[64];
    Arenas arenas = {.optimizer = optimizer};
    Ranks ranks = {.rank = (int)config->rank, .count = (int)config->ranks};
    checkpoint_name(name, progress->step);
    bool good = path_join(path, config->out, name, error);
    if (good && ranks.rank == 0) good = save(config, model, &arenas, progress, name, path, error);
    if (ranks.count == 1) return good;
    take_arena(&arenas, WHOLE_V);
    bool all = ranks_agree(&ranks, model->k, good);
    return all || (good ? error_set(error, "rank 0 could not write it") : false);
}
