/*
 * fuzz_state.c: is what an accepted state.json says something that a run can have come to? (src/checkpoint/state.h)
 */
#include "fuzz.h"
#include "../../src/checkpoint/state.h"
#include "../../src/data/fingerprint.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void check_state(const StepState *state, const Progress *progress, const Written *written) {
    const int64_t big = INT64_C(1000000000000000);
    PROMISE(progress->step >= 0 && progress->step <= big);
    PROMISE(state->applied <= (uint64_t)progress->step);
    PROMISE(state->skips_in_a_row <= (uint64_t)progress->step - state->applied);
    PROMISE(progress->windows >= 0 && progress->windows <= big);
    PROMISE(progress->epoch_windows >= 0 && progress->epoch_windows <= big);
    PROMISE(written->threads >= 1 && written->head_chunk >= 1 && written->ranks >= 0);
    PROMISE(memchr(written->kernels, 0, sizeof written->kernels));
    PROMISE(memchr(written->variant, 0, sizeof written->variant));
    /* A ring that is not full yet has been filled from its beginning. */
    PROMISE(state->window_count <= SKIP_WINDOW && state->window_next < SKIP_WINDOW);
    PROMISE(state->window_count == SKIP_WINDOW || state->window_next == state->window_count);
    for (uint32_t i = 0; i < state->window_count; i++)
        PROMISE(isfinite(state->loss_window[i]) && isfinite(state->norm_window[i]));
}

/* Any text may stand there; it is a fingerprint only if it is the one text for what it says. */
static void check_data(const char *text) {
    Fingerprint print;
    Error error = {0};
    if (!text) return;
    if (!fingerprint_parse(text, &print, &error)) {
        fuzz_check_error(&error);
        return;
    }
    uint64_t tokens = 0;
    PROMISE(print.n_shards > 0 && (print.shards != NULL) == (print.n_shards <= FINGERPRINT_LISTED));
    for (uint64_t i = 0; print.shards && i < print.n_shards; i++) tokens += print.shards[i].n_tokens;
    PROMISE(!print.shards || tokens == print.n_tokens);
    char *again = fingerprint_text(&print);
    PROMISE(strcmp(again, text) == 0);
    free(again);
    fingerprint_free(&print);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    StepState *state = calloc(1, sizeof *state); /* on the heap: the sanitizer knows its end */
    Progress progress = {0};
    Written *written = calloc(1, sizeof *written);
    double products[3];
    uint32_t count;
    Error error = {0};
    cJSON *object = json_parse(fuzz_edge(data, size), size, &error);
    if (object && state_parse(object, state, &progress, written, &error))
        check_state(state, &progress, written);
    else
        fuzz_check_error(&error);
    if (object && state_values(object, "bhyt_c", 3, products, &count, &error))
        for (uint32_t i = 0; i < count; i++) PROMISE(count <= 3 && isfinite(products[i]));
    check_data(progress.train_data);
    check_data(progress.val_data);
    progress_free(&progress);
    cJSON_Delete(object);
    free(written);
    free(state);
    return 0;
}
