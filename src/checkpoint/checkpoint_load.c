/* checkpoint_load.c: how a run goes on from a checkpoint. See checkpoint.h. */
#define _GNU_SOURCE
#include "checkpoint.h"
#include "../settings/flags.h"
#include "../base/json.h"
#include "manifest.h"
#include "moments.h"
#include "state.h"
#include "../settings/usage.h"
#include "../settings/variant.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SMALL_FILE_MOST = 1 << 20 };

/* ------------------------------------------------------------------------------------------------------
 * state.json
 * ---------------------------------------------------------------------------------------------------- */

static bool check_variant(const char *directory, const Config *config, const Written *written, Error *error) {
    char variant[128];
    variant_describe(config, variant, sizeof variant);
    return strcmp(written->variant, variant) == 0 ||
           error_set(error, "%s is of variant '%s'; this run's is '%s'", directory, written->variant,
                     variant);
}

/* BHyT's products of weights as they were, not of the weights as they are. */
static bool load_bhyt(const cJSON *o, const Model *model, Error *error) {
    if (!variant_norm(model->config)->approximates) return true;
    size_t L = (size_t)model->L, element = dtype_size(model->k->accum);
    double *values = must_calloc(L, sizeof *values, "BHyT's products");
    float *narrow = must_calloc(L, sizeof *narrow, "BHyT's products");
    uint32_t count = 0;
    bool good = state_values(o, "bhyt_c", model->L, values, &count, error) &&
                (count == L || error_set(error, "field 'bhyt_c' must be a list of %d numbers", model->L));
    for (size_t l = 0; l < L; l++) narrow[l] = (float)values[l];
    const void *from = model->k->accum == DTYPE_F64 ? (const void *)values : (const void *)narrow;
    if (good) model->k->copy(model->queue, model->bhyt_c, from, L * element, COPY_TO_DEVICE);
    model->k->queue_wait(model->queue);
    free(values);
    free(narrow);
    return good;
}

void progress_free(Progress *progress) {
    free(progress->train_data);
    free(progress->val_data);
    progress->train_data = progress->val_data = NULL;
}

static bool read_state(const char *directory, const Model *model, StepState *state, Progress *progress,
                       Written *written, Error *error) {
    char path[CHECKPOINT_PATH];
    Error reason = {0};
    Manifest manifest;
    if (!path_join(path, directory, CHECKPOINT_STATE, error) || !manifest_read(directory, &manifest, error))
        return false;
    const int64_t step = manifest.step;
    manifest_free(&manifest);
    cJSON *object = json_read(path, SMALL_FILE_MOST, error);
    if (!object) return false;
    bool good = state_parse(object, state, progress, written, &reason) ||
                error_set(error, "%s: %s", path, reason.text);
    good = good && check_variant(directory, model->config, written, error) &&
           (load_bhyt(object, model, &reason) || error_set(error, "%s: %s", path, reason.text));
    if (good && progress->step != step)
        good = error_set(error, "%s: field 'step' is %lld; the manifest is one of step %lld", path,
                         (long long)progress->step, (long long)step);
    cJSON_Delete(object);
    return good;
}

/* ------------------------------------------------------------------------------------------------------
 * Whose checkpoint is it?
 * ---------------------------------------------------------------------------------------------------- */

/* Flags that make another model of tensors of the same shapes, with those of the group "variant". */
static bool makes_the_model(const char *name) {
    static const char *const FLAGS[] = {"n-head", "n-kv-head", "head-dim", "positions", "activation", "rope-base", "rope-scaling",
                                        "rope-factor", "rope-low-freq-factor", "rope-high-freq-factor", "rope-original-seq-len"};
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++)
        if (strcmp(FLAGS[i], name) == 0) return true;
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; strcmp(FLAG_GROUPS[g].title, "variant") == 0 && i < FLAG_GROUPS[g].count; i++)
            if (strcmp(FLAG_GROUPS[g].flags[i].name, name) == 0) return true;
    return false;
}

typedef struct Comparison {
    char *theirs; /* "name=value\n" of every flag that makes the model */
    size_t length;
    char difference[256]; /* the first: "--n-head is 2 there and 4 here"; "": none */
} Comparison;

static void collect(const char *name, const char *value, bool is_number, void *context) {
    Comparison *c = context;
    (void)is_number;
    if (!makes_the_model(name)) return;
    size_t more = strlen(name) + strlen(value) + 2;
    char *grown = realloc(c->theirs, c->length + more + 1);
    require(grown, "out of memory for a checkpoint's flags");
    c->theirs = grown;
    c->length += (size_t)sprintf(c->theirs + c->length, "%s=%s\n", name, value);
}

/* What an older build did not know, or left to "auto", is not compared. */
static void compare(const char *name, const char *value, bool is_number, void *context) {
    Comparison *c = context;
    (void)is_number;
    if (!makes_the_model(name) || c->difference[0] || !c->theirs) return;
    size_t length = strlen(name);
    for (char *line = c->theirs; *line; line = strchr(line, '\n') + 1) {
        if (strncmp(line, name, length) || line[length] != '=') continue;
        const char *theirs = line + length + 1;
        int size = (int)strcspn(theirs, "\n");
        if (strncmp(theirs, "auto\n", 5) &&
            ((int)strlen(value) != size || strncmp(theirs, value, (size_t)size)))
            snprintf(c->difference, sizeof c->difference, "--%s is %.*s there and %.80s here", name,
                     size < 80 ? size : 80, theirs, value);
    }
}

/* A checkpoint's config.ini against this run's flags; `trains`: its moments are wanted, too. */
static bool check_flags(const char *directory, const Config *config, bool trains, Error *error) {
    char path[CHECKPOINT_PATH];
    size_t size;
    Config theirs;
    Error reason = {0};
    if (!path_join(path, directory, CHECKPOINT_FLAGS, error)) return false;
    char *bytes = inner_file_read(path, SMALL_FILE_MOST, &size, error);
    if (!bytes) return false;
    config_defaults(&theirs);
    bool good =
        config_parse_lines(&theirs, bytes, size, &reason) || error_set(error, "%s: %s", path, reason.text);
    free(bytes);
    if (!good) return false;
    Comparison comparison = {0};
    config_visit(&theirs, collect, &comparison);
    config_visit(config, compare, &comparison);
    free(comparison.theirs);
    if (comparison.difference[0]) return error_set(error, "%s is of another model: %s", directory, comparison.difference);
    char before[32]; /* config_choice() has room for one word */
    snprintf(before, sizeof before, "%s", config_choice("optimizer", theirs.optimizer));
    return !trains || theirs.optimizer == config->optimizer ||
           error_set(error, "%s has moments of --optimizer %s, and this run's is %s: --init-from %s goes on from its weights alone",
                     directory, before, config_choice("optimizer", config->optimizer), directory);
}

/* Another build may add in another order, and libraries choose their code by the machine; neither must. */
static void say_who_wrote(const char *directory, const Model *model, const Written *written) {
    DeviceInfo info = {0};
    model->k->describe(&info);
    bool other_version = written->version[0] && strcmp(written->version, program_version());
    bool other_device = written->device[0] && strcmp(written->device, info.name);
    if (other_version || other_device)
        warn_for_all("%s was written by version %.60s on %.100s, this is %.60s on %.100s: the bits may differ", directory,
             written->version, written->device[0] ? written->device : "a device without a name", program_version(), info.name);
}

/* The same bits need the same of all these; one line says what is not. */
static void say_what_differs(const char *directory, const Config *config, const Model *model,
                             const Written *written) {
    char text[512] = "";
    size_t used = 0;
    if (written->ranks && written->ranks != config->ranks)
        used += (size_t)snprintf(text + used, sizeof text - used, "; %lld rank%s, here %lld", (long long)written->ranks,
                                 written->ranks > 1 ? "s" : "", (long long)config->ranks);
    if (written->threads != config->threads)
        used += (size_t)snprintf(text + used, sizeof text - used, "; %lld threads, here %lld",
                                 (long long)written->threads, (long long)config->threads);
    if (written->head_chunk != model->head_chunk)
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "; a head in chunks of %lld tokens, here %lld",
                             (long long)written->head_chunk, (long long)model->head_chunk);
    if (strcmp(written->kernels, model->k->name))
        snprintf(text + used, sizeof text - used, "; kernels %s, here %s", written->kernels, model->k->name);
    if (text[0]) warn_for_all("%s was written with %s: the bits will differ", directory, text + 2);
    else say_who_wrote(directory, model, written);
}

/* ------------------------------------------------------------------------------------------------------
 * Loading
 * ---------------------------------------------------------------------------------------------------- */

static bool load_moments(const char *directory, Optimizer *optimizer, Error *error) {
    Manifest manifest;
    Error reason = {0};
    int files;
    if (!manifest_read(directory, &manifest, error)) return false;
    const bool good = moments_listed(&manifest, &files, &reason) || error_set(error, "%s/%s: %s", directory, MANIFEST_NAME, reason.text);
    manifest_free(&manifest);
    return good && moments_read(directory, files, optimizer, error);
}

/* Choices of another GPU or library are no error: they are measured or guessed anew, and the bits differ. */
static void load_gemm_choices(const char *directory, const Model *model) {
    char path[CHECKPOINT_PATH], why[256] = "";
    size_t size;
    Error none; /* the device that wrote it had no choices to keep */
    if (!model->k->gemm_choices_load || !path_join(path, directory, CHECKPOINT_GEMM, &none)) return;
    char *text = inner_file_read(path, SMALL_FILE_MOST, &size, &none);
    if (text && !model->k->gemm_choices_load(text, why, sizeof why))
        warn_for_all("%s: %s: the bits will differ", path, why);
    free(text);
}

static bool load(const char *path, const Config *config, Model *model, Optimizer *optimizer, Progress *progress, Error *error) {
    StepState state = {0};
    Written written = {0};
    char file[CHECKPOINT_PATH];
    if (!read_state(path, model, &state, progress, &written, error) ||
        !path_join(file, path, CHECKPOINT_MODEL, error) || !weights_load(model, file, error) ||
        !check_flags(path, config, optimizer != NULL, error))
        return false;
    if (!optimizer) return true;
    say_what_differs(path, config, model, &written);
    if (!load_moments(path, optimizer, error)) return false;
    load_gemm_choices(path, model);
    optimizer_write(optimizer, &state);
    return true;
}

bool checkpoint_load(const char *path, const Config *config, Model *model, Optimizer *optimizer,
                     Progress *progress, Error *error) {
    *progress = (Progress){0};
    if (load(path, config, model, optimizer, progress, error)) return true;
    progress_free(progress);
    return false;
}
