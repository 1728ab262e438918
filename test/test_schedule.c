/*
 * test_schedule.c: does each step get the learning rate that schedule.h describes, at the corners too?
 */
#include "../src/settings/schedule.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static Config settings(int64_t shape, int64_t steps, int64_t warmup) {
    Config config;
    config_defaults(&config);
    config.lr_schedule = shape, config.steps = steps, config.warmup_steps = warmup;
    config.lr = 0.5, config.lr_final_frac = 0.2, config.wsd_decay_frac = 0.25;
    return config;
}

/* A few roundings of numbers of that size. */
static void assert_near(double got, double want) {
    if (!(fabs(got - want) <= 8e-16 * fmax(fabs(want), 1e-300) * 4)) fail_msg("%.17g, not %.17g", got, want);
}

static void warmup_is_a_line_that_moves_at_once_and_ends_at_the_peak(void **state) {
    (void)state;
    for (int64_t shape = SCHEDULE_COSINE; shape <= SCHEDULE_CONSTANT; shape++) {
        Config config = settings(shape, 1000, 40);
        for (int64_t step = 0; step < 40; step++)
            assert_near(schedule_lr(&config, step), 0.5 * (double)(step + 1) / 40);
        assert_near(schedule_lr(&config, 40), 0.5);
    }
}

static void cosine_and_linear_go_from_peak_to_final_at_the_last_step(void **state) {
    (void)state;
    Config cosine = settings(SCHEDULE_COSINE, 141, 40), line = settings(SCHEDULE_LINEAR, 141, 40);
    assert_near(schedule_lr(&cosine, 140), 0.1);
    assert_near(schedule_lr(&line, 140), 0.1);
    assert_near(schedule_lr(&cosine, 90), 0.3); /* half way */
    assert_near(schedule_lr(&line, 90), 0.3);
    assert_near(schedule_lr(&cosine, 65), 0.1 + 0.4 * (0.5 + 0.5 * sqrt(0.5)));
    assert_near(schedule_lr(&line, 65), 0.4);
}

static void wsd_holds_and_decays_over_its_share_of_all_steps(void **state) {
    (void)state;
    Config config = settings(SCHEDULE_WSD, 401, 50); /* 401 · 0.25 = 100.25 steps of decay before the last */
    for (int64_t step = 50; step <= 299; step++) assert_near(schedule_lr(&config, step), 0.5);
    for (int64_t step = 300; step <= 400; step++) {
        double into = ((double)step - (400 - 100.25)) / 100.25;
        double want = 0.5 * (0.2 + 0.8 * (1 - sqrt(into)));
        /* The root of a difference of larger numbers: rounding of progress, 1e-16, over √into of at least
         * 0.05. */
        assert_true(fabs(schedule_lr(&config, step) - want) < 1e-13);
    }
    assert_true(fabs(schedule_lr(&config, 400) - 0.1) < 1e-13);
}

static void wsd_decays_at_most_after_the_warmup(void **state) {
    (void)state;
    Config config = settings(SCHEDULE_WSD, 100, 50);
    config.wsd_decay_frac = 1;
    assert_near(schedule_lr(&config, 50), 0.5);
    assert_true(fabs(schedule_lr(&config, 99) - 0.1) < 1e-13);
    config.wsd_decay_frac = 0; /* no decay at all */
    assert_near(schedule_lr(&config, 99), 0.5);
}

static void a_decay_of_its_own_ends_a_stable_part_at_any_step(void **state) {
    (void)state;
    Config stable = settings(SCHEDULE_WSD, 1000, 50), cooled = stable; /* resumed at step 600, for 100 steps more */
    cooled.steps = 700, cooled.wsd_decay_steps = 100;
    for (int64_t step = 50; step < 600; step++) assert_true(schedule_lr(&cooled, step) == schedule_lr(&stable, step));
    assert_true(schedule_lr(&cooled, 601) < 0.5);
    assert_true(fabs(schedule_lr(&cooled, 699) - 0.1) < 1e-13);
}

static void a_schedule_may_end_where_the_run_does_not(void **state) {
    (void)state;
    for (int64_t shape = SCHEDULE_COSINE; shape <= SCHEDULE_INVERSE_SQRT; shape++) {
        Config whole = settings(shape, 1000, 40), part = whole;
        part.steps = 200, part.schedule_steps = 1000;
        for (int64_t step = 0; step < 200; step++) assert_true(schedule_lr(&part, step) == schedule_lr(&whole, step));
    }
}

static void restarts_are_cosines_in_a_row(void **state) {
    (void)state;
    Config config = settings(SCHEDULE_COSINE_RESTARTS, 440, 40), one = settings(SCHEDULE_COSINE, 140, 40);
    for (int64_t step = 40; step < 440; step++)
        assert_near(schedule_lr(&config, step), schedule_lr(&one, 40 + (step - 40) % 100));
    config.restart_steps = 50;
    for (int64_t step = 40; step < 440; step += 50) assert_near(schedule_lr(&config, step), 0.5);
}

/* However many steps there are: none of the last is at a peak but a single one. */
static void restarts_by_themselves_end_with_the_schedule(void **state) {
    (void)state;
    for (int64_t after = 1; after < 300; after++) {
        Config config = settings(SCHEDULE_COSINE_RESTARTS, 40 + after, 40);
        int peaks = 0;
        for (int64_t step = 40; step < 40 + after; step++) peaks += schedule_lr(&config, step) == 0.5;
        assert_int_equal(peaks, after < 4 ? 1 : after < 6 ? 2 : after < 8 ? 3 : 4);
        assert_near(schedule_lr(&config, 40 + after - 1), after == 1 ? 0.5 : 0.1);
        assert_near(schedule_lr(&config, 40 + after), 0.1);
    }
}

static void inverse_sqrt_falls_to_the_final_rate_and_no_further(void **state) {
    (void)state;
    Config config = settings(SCHEDULE_INVERSE_SQRT, 10000, 40); /* the final rate: a fifth, at 25 · 40 steps */
    assert_near(schedule_lr(&config, 40), 0.5);
    assert_near(schedule_lr(&config, 160), 0.25);
    assert_near(schedule_lr(&config, 999), 0.5 * sqrt(40.0 / 999));
    for (int64_t step = 1000; step < 10100; step++) assert_near(schedule_lr(&config, step), 0.1);
    config.lr_final_frac = 1;
    assert_near(schedule_lr(&config, 500), 0.5);
}

static void a_lr_from_zero_is_one_step_behind(void **state) {
    (void)state;
    Config config = settings(SCHEDULE_COSINE, 1000, 40);
    config.lr_from_zero = FLAG_ON;
    assert_true(schedule_lr(&config, 0) == 0);
    for (int64_t step = 0; step < 40; step++) assert_near(schedule_lr(&config, step), 0.5 * (double)step / 40);
    assert_near(schedule_lr(&config, 40), 0.5);
}

static void constant_stays(void **state) {
    (void)state;
    Config config = settings(SCHEDULE_CONSTANT, 100, 10);
    for (int64_t step = 10; step < 200; step++) assert_near(schedule_lr(&config, step), 0.5);
}

static void after_warmup_it_never_rises_and_stays_between_final_and_peak(void **state) {
    (void)state;
    static const double FRACTIONS[] = {0, 0.1, 1};
    for (int64_t shape = SCHEDULE_COSINE; shape <= SCHEDULE_CONSTANT; shape++)
        for (int64_t steps = 1; steps < 40; steps++)
            for (int64_t warmup = 0; warmup <= steps; warmup++)
                for (int f = 0; f < 3; f++) {
                    Config config = settings(shape, steps, warmup);
                    config.lr_final_frac = FRACTIONS[f];
                    double before = INFINITY;
                    for (int64_t step = warmup; step < steps + 5; step++) {
                        double lr = schedule_lr(&config, step);
                        assert_true(lr >= 0.5 * FRACTIONS[f] * (1 - 1e-15) && lr <= 0.5 * (1 + 1e-15) &&
                                    lr <= before);
                        before = lr;
                    }
                }
}

static void a_single_step_after_the_warmup_takes_the_peak_and_no_step_behind_it(void **state) {
    (void)state;
    for (int64_t shape = SCHEDULE_COSINE; shape <= SCHEDULE_COSINE_RESTARTS; shape++)
        for (int64_t warmup = 0; warmup <= 10; warmup++)
            for (int64_t steps = warmup ? warmup : 1; steps <= warmup + 1; steps++) { /* nothing left after the warmup, or one step */
                Config config = settings(shape, steps, warmup);
                assert_true(schedule_lr(&config, steps - 1) == 0.5);
                for (int64_t step = steps; step < steps + 3; step++)
                    assert_near(schedule_lr(&config, step), shape == SCHEDULE_CONSTANT ? 0.5 : 0.1);
            }
}

static void steps_beyond_the_last_keep_its_rate(void **state) {
    (void)state;
    for (int64_t shape = SCHEDULE_COSINE; shape <= SCHEDULE_CONSTANT; shape++) {
        Config config = settings(shape, 100, 10);
        assert_true(schedule_lr(&config, 100) == schedule_lr(&config, 99));
        assert_true(schedule_lr(&config, 1000000) == schedule_lr(&config, 99));
    }
}

static void a_run_of_a_million_million_steps_counts_right(void **state) {
    (void)state;
    for (int64_t shape = SCHEDULE_COSINE; shape <= SCHEDULE_CONSTANT; shape++) {
        Config config = settings(shape, 1000000000000, 1000000);
        assert_near(schedule_lr(&config, 0), 0.5 / 1e6);
        assert_near(schedule_lr(&config, 1000000), 0.5);
        double last = shape == SCHEDULE_CONSTANT ? 0.5 : 0.1;
        assert_true(fabs(schedule_lr(&config, 999999999999) - last) < 1e-13);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warmup_is_a_line_that_moves_at_once_and_ends_at_the_peak),
        cmocka_unit_test(cosine_and_linear_go_from_peak_to_final_at_the_last_step),
        cmocka_unit_test(wsd_holds_and_decays_over_its_share_of_all_steps),
        cmocka_unit_test(wsd_decays_at_most_after_the_warmup),
        cmocka_unit_test(a_decay_of_its_own_ends_a_stable_part_at_any_step),
        cmocka_unit_test(a_schedule_may_end_where_the_run_does_not),
        cmocka_unit_test(restarts_are_cosines_in_a_row),
        cmocka_unit_test(restarts_by_themselves_end_with_the_schedule),
        cmocka_unit_test(inverse_sqrt_falls_to_the_final_rate_and_no_further),
        cmocka_unit_test(a_lr_from_zero_is_one_step_behind),
        cmocka_unit_test(constant_stays),
        cmocka_unit_test(after_warmup_it_never_rises_and_stays_between_final_and_peak),
        cmocka_unit_test(a_single_step_after_the_warmup_takes_the_peak_and_no_step_behind_it),
        cmocka_unit_test(steps_beyond_the_last_keep_its_rate),
        cmocka_unit_test(a_run_of_a_million_million_steps_counts_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
