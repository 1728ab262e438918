/*
 * test_progress.c: does the line of a step fit into every width, with what matters most in it, whatever the numbers?
 */
#include "../src/run/progress.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static const ProgressStep USUAL = {.step = 123, .steps = 1000, .loss = 4.7383, .val = 4.9, .lr = 6e-4, .grad_norm = 1.5,
                                   .ms = 58.9, .tokens_per_s = 34567, .flops = 2e11, .seconds_left = 7449};

static void usual_widths_hold_what_matters_most(void **state) {
    (void)state;
    static const struct {
        int columns;
        const char *line;
    } WANTED[] = {
        {200, "step 123/1000  loss 4.7383  val 4.9000  lr 6.00e-04  norm 1.50  58.9 ms  34567 tok/s  200 GFLOP/s  ETA 2:04:09"},
        {80, "step 123/1000  loss 4.7383  val 4.9000  58.9 ms  34567 tok/s  ETA 2:04:09"},
        {60, "step 123/1000  loss 4.7383  34567 tok/s  ETA 2:04:09"},
        {42, "step 123/1000  loss 4.7383  34567 tok/s"},
        {40, "step 123/1000  loss 4.7383  34567 tok/s"},
        {39, "step 123/1000  loss 4.7383"},
        {20, "123/1000 4.7383"},
        {15, "123 4.7383"},
        {8, "123 4.7"},
        {1, ""},
        {0, ""},
        {-1, ""},
    };
    for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++) {
        char text[PROGRESS_SIZE];
        progress_fit(&USUAL, WANTED[i].columns, text);
        assert_string_equal(text, WANTED[i].line);
    }
}

static void every_width_holds_its_line_whatever_the_numbers(void **state) {
    (void)state;
    const ProgressStep steps[] = {
        USUAL,
        {.step = 1, .steps = 1, .val = NAN},
        {.step = INT64_MAX, .steps = INT64_MAX, .loss = NAN, .val = INFINITY, .lr = -1e300, .grad_norm = 1e300,
         .ms = 1e300, .tokens_per_s = 1e308, .flops = -INFINITY, .seconds_left = NAN},
        {.step = -5, .steps = 0, .loss = -1e9, .val = -1e300, .lr = 0, .grad_norm = NAN, .ms = -1, .tokens_per_s = NAN,
         .flops = 1e30, .peak_flops = 1e-30, .seconds_left = 1e300},
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        char whole[PROGRESS_SIZE], text[PROGRESS_SIZE];
        size_t before = 0;
        progress_whole(&steps[i], whole);
        for (int columns = 0; columns < 2 * PROGRESS_SIZE; columns++) {
            progress_fit(&steps[i], columns, text);
            if (columns > 0) assert_true((int)strlen(text) < columns);
            for (const char *at = text; *at; at++) assert_true(*at >= ' ' && *at <= '~'); /* a byte is a column */
            if (strstr(text, "step ")) assert_true(strlen(text) >= before); /* wider never holds less */
            before = strlen(text);
        }
        assert_string_equal(text, whole);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(usual_widths_hold_what_matters_most),
        cmocka_unit_test(every_width_holds_its_line_whatever_the_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
