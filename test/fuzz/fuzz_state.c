/*
 * fuzz_state.c: is what an accepted state.json says something that a run can have come to? (src/checkpoint/state.h)
 */
#include "fuzz.h"
#include "../../src/checkpoint/state.h"

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
    PROMISE(written->threads >= 1 && written->head_chunk >= 1);
    PROMISE(memchr(written->kernels, 0, sizeof written->kernels));
    PROMISE(memchr(written->variant, 0, sizeof written->variant));
    /* A ring that is not full yet has been filled from its beginning. */
    PROMISE(state->window_count <= SKIP_WINDOW && state->window_next < SKIP_WINDOW);
    PROMISE(state->window_count == SKIP_WINDOW || state->window_next == state->window_count);
    for (uint32_t i = 0; i < state->window_count; i++)
        PROMISE(isfinite(state->loss_window[i]) && isfinite(state->norm_window[i]));
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
    cJSON_Delete(object);
    free(written);
    free(state);
    return 0;
}
