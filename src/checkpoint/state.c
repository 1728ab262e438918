/* state.c: see state.h. */
#include "state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool state_values(const cJSON *object, const char *name, int most, double *values, uint32_t *count,
                  Error *error) {
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(object, name), *item;
    int n = cJSON_GetArraySize(array);
    if (!cJSON_IsArray(array) || n > most)
        return error_set(error, "field '%s' must be a list of at most %d numbers", name, most);
    cJSON_ArrayForEach(item, array) {
        if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble))
            return error_set(error, "field '%s' holds something that is not a finite number", name);
        *values++ = item->valuedouble;
    }
    *count = (uint32_t)n;
    return true;
}

static bool parse_window(const cJSON *o, StepState *state, Error *error) {
    const cJSON *window = cJSON_GetObjectItemCaseSensitive(o, "window");
    int64_t next;
    uint32_t norms;
    Error reason = {0};
    if (!state_values(window, "loss", SKIP_WINDOW, state->loss_window, &state->window_count, &reason) ||
        !state_values(window, "norm", SKIP_WINDOW, state->norm_window, &norms, &reason) ||
        !json_integer(window, "next", 0, SKIP_WINDOW - 1, &next, &reason))
        return error_set(error, "field 'window': %s", reason.text);
    if (norms != state->window_count)
        return error_set(error, "field 'window': 'loss' and 'norm' differ in length");
    if (norms < SKIP_WINDOW && next != norms) /* a ring fills from its beginning */
        return error_set(error, "field 'window': 'next' is %d with %u entries", (int)next, norms);
    state->window_next = (uint32_t)next;
    return true;
}

static bool parse_name(const cJSON *o, const char *name, char *out, size_t size, Error *error) {
    const char *text = json_text(o, name, error);
    if (!text) return false;
    if (strlen(text) >= size) return error_set(error, "field '%s' is too long", name);
    strcpy(out, text);
    return true;
}

/* What older builds did not write is left as it is. */
static bool parse_new_name(const cJSON *o, const char *name, char *out, size_t size, Error *error) {
    return !cJSON_GetObjectItemCaseSensitive(o, name) || parse_name(o, name, out, size, error);
}

static bool parse_ranks(const cJSON *o, int64_t *ranks, Error *error) {
    *ranks = 0;
    return !cJSON_GetObjectItemCaseSensitive(o, "ranks") || json_integer(o, "ranks", 1, 1000000, ranks, error);
}

/* A text of any length for the caller to free; NULL where there is none. */
static bool parse_text(const cJSON *o, const char *name, char **out, Error *error) {
    *out = NULL;
    if (!cJSON_GetObjectItemCaseSensitive(o, name)) return true;
    const char *text = json_text(o, name, error);
    if (!text) return false;
    *out = strcpy(must_malloc(strlen(text) + 1, "a text of state.json"), text);
    return true;
}

static bool parse_data(const cJSON *o, Progress *progress, Error *error) {
    if (!parse_text(o, "train_data", &progress->train_data, error)) return false;
    if (parse_text(o, "val_data", &progress->val_data, error)) return true;
    free(progress->train_data);
    progress->train_data = NULL;
    return false;
}

bool state_parse(const cJSON *o, StepState *state, Progress *progress, Written *written, Error *error) {
    const int64_t big = INT64_C(1000000000000000);
    int64_t applied, skips;
    bool good = json_integer(o, "step", 0, big, &progress->step, error) &&
                json_integer(o, "applied", 0, progress->step, &applied, error) &&
                json_integer(o, "skips_in_a_row", 0, progress->step - applied, &skips, error) &&
                json_integer(o, "windows", 0, big, &progress->windows, error) &&
                json_integer(o, "epoch_windows", 0, big, &progress->epoch_windows, error) &&
                json_integer(o, "threads", 1, 1000000, &written->threads, error) &&
                parse_ranks(o, &written->ranks, error) &&
                json_integer(o, "head_chunk", 1, big, &written->head_chunk, error) &&
                parse_name(o, "kernels", written->kernels, sizeof written->kernels, error) &&
                parse_name(o, "variant", written->variant, sizeof written->variant, error) &&
                parse_new_name(o, "version", written->version, sizeof written->version, error) &&
                parse_new_name(o, "device", written->device, sizeof written->device, error) &&
                parse_window(o, state, error) && parse_data(o, progress, error);
    if (!good) return false;
    state->applied = (uint64_t)applied;
    state->skips_in_a_row = (uint32_t)skips;
    return true;
}
