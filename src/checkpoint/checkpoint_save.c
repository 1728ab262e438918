/* checkpoint_save.c: how a run's state gets onto the disk, whole or not at all. See checkpoint.h. */
#define _GNU_SOURCE
#include "checkpoint.h"
#include "../base/at_work.h"
#include "../base/json.h"
#include "../ranks/rendezvous.h"
#include "huggingface.h"
#include "huggingface_code.h"
#include "manifest.h"
#include "moments.h"
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
    cJSON_AddNumberToObject(o, "ranks", (double)config->ranks);
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

enum { SMALL_FILES_MOST = 8 };

/* What rank 0 writes beside weights and moments: where, and the names so far, in order, for the manifest. */
typedef struct SmallFiles {
    const char *directory;
    const char *names[SMALL_FILES_MOST];
    int count;
} SmallFiles;

static bool write_bytes(SmallFiles *files, const char *name, const char *bytes, size_t size, Error *error) {
    char path[CHECKPOINT_PATH];
    require(files->count < SMALL_FILES_MOST, "%s is one file more than a checkpoint has", name);
    files->names[files->count++] = name;
    return path_join(path, files->directory, name, error) && durable_write(path, bytes, size, error);
}

static bool write_text(SmallFiles *files, const char *name, const char *text, Error *error) {
    return write_bytes(files, name, text, strlen(text), error);
}

/* Takes over the object. */
static bool write_json(SmallFiles *files, const char *name, cJSON *object, Error *error) {
    char *text = cJSON_Print(object);
    require(text, "out of memory for %s", name);
    bool good = write_text(files, name, text, error);
    cJSON_free(text);
    cJSON_Delete(object);
    return good;
}

static bool write_flags(SmallFiles *files, const Config *config, Error *error) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    require(out, "out of memory for %s", CHECKPOINT_FLAGS);
    config_write(config, out);
    require(fclose(out) == 0, "out of memory for %s", CHECKPOINT_FLAGS);
    bool good = write_text(files, CHECKPOINT_FLAGS, text, error);
    free(text);
    return good;
}

/* For transformers, where none of its own classes computes the model. */
static bool write_code(SmallFiles *files, const Config *config, Error *error) {
    bool good = true;
    for (int i = 0; huggingface_class(config) == CLASS_OWN && i < HUGGINGFACE_CODE_FILES; i++) {
        const HuggingfaceCode *code = &HUGGINGFACE_CODE[i];
        good = good && write_bytes(files, code->name, code->text, (size_t)(code->end - code->text), error);
    }
    return good;
}

/* The text of gemm.json; NULL where this device has no choices. */
static char *gemm_choices(const Model *model) {
    return model->k->gemm_choices_save ? model->k->gemm_choices_save() : NULL;
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
            !checkpoint_is_complete(path, steps[i], MANIFEST_SIZES, &ignored))
            continue;
        if (kept++ >= keep) remove_checkpoint(out, steps[i]);
    }
    free(steps);
}

/* ------------------------------------------------------------------------------------------------------
 * What each rank writes, and tells
 * ---------------------------------------------------------------------------------------------------- */

/* What a rank tells the others of its part; words of 64 bits. */
typedef struct Report {
    uint64_t done;            /* rank 0: this step's checkpoint is there, and nothing is to do */
    uint64_t bytes, checksum; /* of its file of moments */
} Report;
_Static_assert(sizeof(Report) % 8 == 0, "as ranks_gather() wants it");

typedef struct Saving {
    const Config *config;
    const Model *model;
    Optimizer *optimizer;
    const Progress *progress;
    Ranks ranks;
    const char *path, *name;       /* OUT/step_00000100, step_00000100 */
    char partial[CHECKPOINT_PATH]; /* OUT/.step_00000100.partial */
    bool there;                    /* rank 0: something stands at the path, and is no complete checkpoint */
    SmallFiles small;              /* rank 0 */
    int moments;                   /* files of them */
    DeviceArena masters;           /* all of them, while the files are written */
    Report *report;                /* [ranks.count] */
} Saving;

/* All ranks ask for them. */
static DeviceArena whole_masters(Optimizer *optimizer) {
    DeviceArena masters = {.model = optimizer->model, .base = optimizer_masters(optimizer)};
    model_settle(optimizer->model);
    return masters;
}

/* A part of a save on this rank. */
typedef bool Work(Saving *s, Error *error);

typedef struct Errand {
    Saving *s;
    Work *work;
    bool good;
    Error *error;
} Errand;

static void run_errand(void *errand) {
    Errand *e = errand;
    e->good = e->work(e->s, e->error);
}

/* A part of a save that uses no device, and may hang in any call. */
static bool beside(Saving *s, Work *work, Error *error) {
    Errand errand = {.s = s, .work = work, .error = error};
    at_work_during(run_errand, &errand);
    return errand.good;
}

static bool save_model(const Saving *s, const DeviceArena *masters, Error *error) {
    char path[CHECKPOINT_PATH];
    SafetensorsPair metadata = {"format", "pt"}; /* transformers asks for it */
    return path_join(path, s->partial, CHECKPOINT_MODEL, error) && weights_write(path, masters, &metadata, 1, error);
}

/* This rank's file, and what the others are told of it. What other ranks have written, rank 0 does not read again. */
static bool save_moments(Saving *s, Error *error) {
    ManifestFile file;
    char name[NAME_SIZE];
    if (s->ranks.rank >= s->moments) return true;
    moments_name(name, s->ranks.rank, s->moments);
    if (!moments_write(s->partial, s->optimizer, error) || !manifest_measure(s->partial, name, &file, error)) return false;
    s->report[s->ranks.rank].bytes = file.bytes;
    s->report[s->ranks.rank].checksum = file.checksum;
    return s->ranks.rank == 0 || manifest_check_file(s->partial, &file, MANIFEST_MEDIUM, error);
}

static bool sees_the_directory(const Saving *s, Error *error) {
    struct stat status;
    if (s->ranks.rank >= s->moments || (stat(s->partial, &status) == 0 && S_ISDIR(status.st_mode))) return true;
    return error_set(error, "%s, which rank 0 has made, is not there for this one: --out must be on a file system that all ranks "
                     "share", s->partial);
}

/* Everything but the manifest into the directory that rank 0 has made. */
static bool fill(Saving *s, Error *error) {
    if (s->ranks.rank) return sees_the_directory(s, error) && save_moments(s, error);
    const StepState *state = optimizer_read(s->optimizer);
    char *gemm = gemm_choices(s->model);
    s->small.directory = s->partial;
    const bool good =
        window_is_finite(state, error) && save_model(s, &s->masters, error) && save_moments(s, error) &&
        write_json(&s->small, CHECKPOINT_SHAPE, shape_object(s->config, s->model), error) &&
        write_flags(&s->small, s->config, error) &&
        write_json(&s->small, CHECKPOINT_STATE, state_object(s->config, s->model, state, s->progress), error) &&
        (!gemm || write_text(&s->small, CHECKPOINT_GEMM, gemm, error)) && write_code(&s->small, s->config, error) &&
        (!s->progress->companions || companions_write(s->progress->companions, s->partial, error));
    free(gemm);
    return good;
}

/* ------------------------------------------------------------------------------------------------------
 * What rank 0 does before and after
 * ---------------------------------------------------------------------------------------------------- */

/* A rank's file, as it has told, if it is there. */
static bool list_moments(const Saving *s, int rank, ManifestFile *file, Error *error) {
    Error reason;
    *file = (ManifestFile){.bytes = s->report[rank].bytes, .checksum = s->report[rank].checksum};
    moments_name(file->name, rank, s->moments);
    return rank == 0 || manifest_check_file(s->partial, file, MANIFEST_SIZES, &reason) ||
           error_set(error, "rank %d has written its moments, but rank 0 does not see them (%s): --out must be on a file system "
                     "that all ranks share", rank, reason.text);
}

/* In the order of the files' names in checkpoint.h. */
static bool list_files(const Saving *s, Manifest *manifest, Error *error) {
    if (!manifest_measure(s->partial, CHECKPOINT_MODEL, &manifest->files[manifest->count++], error)) return false;
    for (int r = 0; r < s->moments; r++)
        if (!list_moments(s, r, &manifest->files[manifest->count++], error)) return false;
    for (int i = 0; i < s->small.count; i++)
        if (!manifest_measure(s->partial, s->small.names[i], &manifest->files[manifest->count++], error)) return false;
    for (int i = 0; s->progress->companions && i < COMPANION_COUNT; i++)
        if (s->progress->companions->files[i].bytes &&
            !manifest_measure(s->partial, COMPANION_NAMES[i], &manifest->files[manifest->count++], error))
            return false;
    return true;
}

enum { OTHER_FILES = 1 + SMALL_FILES_MOST + COMPANION_COUNT }; /* of those that a manifest lists, at most */

bool checkpoint_can_hold(const Optimizer *optimizer, Error *error) {
    const int files = moments_files(optimizer), most = MANIFEST_FILES_MOST - OTHER_FILES;
    return files <= most || error_set(error, "%d ranks would write a file of moments each, and a checkpoint has at most %d: --zero 0 "
                                      "writes one", files, most);
}

static bool write_manifest(const Saving *s, Error *error) {
    Manifest manifest = {.step = s->progress->step};
    manifest.files = must_calloc((size_t)s->moments + OTHER_FILES, sizeof *manifest.files, "a manifest");
    const bool good = list_files(s, &manifest, error) && manifest_write(s->partial, &manifest, error);
    manifest_free(&manifest);
    return good && directory_sync(s->partial, error);
}

/* What rank 0 has written, it reads back from the disk. */
static bool check_written(const Saving *s, Error *error) {
    Manifest manifest;
    char name[NAME_SIZE];
    if (!manifest_read(s->partial, &manifest, error)) return false;
    bool good = true;
    for (int i = 0; good && i < manifest.count; i++) {
        bool others = false;
        for (int r = 1; !others && r < s->moments; r++) {
            moments_name(name, r, s->moments);
            others = strcmp(name, manifest.files[i].name) == 0;
        }
        good = manifest_check_file(s->partial, &manifest.files[i], others ? MANIFEST_SIZES : MANIFEST_MEDIUM, error);
    }
    manifest_free(&manifest);
    return good;
}

/* Makes the directory, unless the step's checkpoint is there and complete. */
static bool begin(Saving *s, Error *error) {
    const char *out = s->config->out;
    struct stat status;
    Error ignored;
    s->there = lstat(s->path, &status) == 0;
    remove_leftovers(out);
    if (s->there && checkpoint_is_complete(s->path, s->progress->step, MANIFEST_CONTENTS, &ignored)) {
        point_latest(out, s->name);
        /* A save that was killed here had not come to it. */
        if (!s->progress->doubtful) drop_old(out, s->progress->step, s->config->keep);
        s->report[0].done = 1;
        return true;
    }
    return mkdir(s->partial, 0777) == 0 || error_set(error, "%s: cannot create: %s", s->partial, strerror(errno));
}

static bool commit(Saving *s, Error *error) {
    const char *out = s->config->out;
    bool good = write_manifest(s, error) && check_written(s, error);
    if (good && s->there) remove_checkpoint(out, s->progress->step);
    if (good && rename(s->partial, s->path))
        good = error_set(error, "%s: cannot rename to it: %s", s->path, strerror(errno));
    if (!good) {
        directory_remove(s->partial);
        return false;
    }
    point_latest(out, s->name);
    if (!directory_sync(out, error)) return false;
    if (!s->progress->doubtful) drop_old(out, s->progress->step, s->config->keep);
    return true;
}

/* All ranks wait for each other, however long their disks take, say how they have got on, and hear it of the others. If one has
 * failed, *error is what it says. */
static bool together(Saving *s, Work *work, Error *error) {
    const bool takes_part = s->ranks.rank == 0 || work == fill;
    ranks_work_begin(&s->ranks, s->model->k, s->config->timeout);
    const bool well = !takes_part || (work == fill ? work(s, error) : beside(s, work, error));
    ranks_work_end();
    ranks_gather(&s->ranks, s->model->k, s->report, sizeof *s->report);
    return ranks_well(&s->ranks, s->model->k, well, error);
}

/* Three times they do: until there is a directory, until it is full, until it has its name. */
static bool save(Saving *s, Error *error) {
    if (!hidden_path(s->partial, s->config->out, s->name, ".partial", error)) return false; /* on every rank */
    if (!together(s, begin, error)) return false;
    if (s->report[0].done) return true;
    s->masters = whole_masters(s->optimizer);
    if (together(s, fill, error)) return together(s, commit, error);
    if (s->ranks.rank == 0) directory_remove(s->partial);
    return false;
}

bool checkpoint_save(const Config *config, const Model *model, Optimizer *optimizer, const Progress *progress,
                     char path[CHECKPOINT_PATH], Error *error) {
    char name[64];
    checkpoint_name(name, progress->step);
    if (!path_join(path, config->out, name, error)) return false; /* on every rank */
    Saving s = {.config = config, .model = model, .optimizer = optimizer, .progress = progress, .path = path, .name = name,
                .ranks = {.rank = (int)config->rank, .count = (int)config->ranks}, .moments = moments_files(optimizer)};
    s.report = must_calloc((size_t)s.ranks.count, sizeof *s.report, "what the ranks say of a checkpoint");
    model_settle(model);
    const bool good = save(&s, error);
    free(s.report);
    return good;
}

/* ------------------------------------------------------------------------------------------------------
 * Why one cannot be made
 * ---------------------------------------------------------------------------------------------------- */

/* The first of what this rank holds that is not finite, among all tensors' weights, first moments, second moments; beyond
 * them if all is. */
static uint64_t find_not_finite(Optimizer *optimizer, const FileTensor *tensors, int count) {
    const DeviceArena masters = whole_masters(optimizer);
    Error name = {0};
    if (!weights_are_finite(&masters, &name))
        for (int i = 0; i < count; i++)
            if (strcmp(tensors[i].name, name.text) == 0) return (uint64_t)i;
    const int found = moments_find_not_finite(optimizer);
    return (uint64_t)(found < 0 ? 3 * count : count + found);
}

bool checkpoint_is_finite(Optimizer *optimizer, Error *error) {
    static const char *const WHAT[] = {"weights", "first moments", "second moments"};
    const Config *config = optimizer->model->config;
    const Ranks ranks = {.rank = (int)config->rank, .count = (int)config->ranks};
    int count;
    FileTensor *tensors = params_file_tensors(&optimizer->model->params, &count);
    uint64_t *found = must_calloc((size_t)ranks.count, sizeof *found, "what the ranks have found");
    found[ranks.rank] = find_not_finite(optimizer, tensors, count);
    ranks_gather(&ranks, optimizer->model->k, found, sizeof *found);
    uint64_t first = found[0];
    for (int r = 1; r < ranks.count; r++)
        if (found[r] < first) first = found[r];
    const bool finite = first >= 3 * (uint64_t)count;
    if (!finite) error_set(error, "%s of %s", WHAT[first / (uint64_t)count], tensors[first % (uint64_t)count].name);
    free(found);
    free(tensors);
    return finite;
}
