/*
 * cmocka.h: the part of cmocka's interface that the operation suite uses, for machines without it (README.md).
 * Prints TAP, one line a test, as each ends. One group a program: everything is in this header.
 */
#ifndef STANDALONE_CMOCKA_H
#define STANDALONE_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

struct CMUnitTest {
    const char *name;
    void (*test_func)(void **state);
    int (*setup_func)(void **state), (*teardown_func)(void **state);
    void *initial_state;
};

static jmp_buf cmocka_return;
static char cmocka_text[2048];

static inline void skip(void) { longjmp(cmocka_return, 2); }

__attribute__((format(printf, 1, 2), unused)) static void fail_msg(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(cmocka_text, sizeof cmocka_text, format, args);
    va_end(args);
    longjmp(cmocka_return, 1);
}

/* Returns how many failed. */
static inline int _cmocka_run_group_tests(const char *group, const struct CMUnitTest *tests, size_t count,
                                          int (*setup)(void **), int (*teardown)(void **)) {
    volatile int failed = 0;
    (void)setup, (void)teardown;
    printf("1..%zu\n# %s\n", count, group);
    for (volatile size_t i = 0; i < count; i++) {
        void *state = tests[i].initial_state;
        int outcome = setjmp(cmocka_return);
        if (outcome == 0) tests[i].test_func(&state);
        printf("%s %zu - %s%s\n", outcome == 1 ? "not ok" : "ok", (size_t)i + 1, tests[i].name,
               outcome == 2 ? " # SKIP" : "");
        if (outcome == 1) printf("# %s\n", cmocka_text), failed++;
        fflush(stdout);
    }
    return failed;
}

#endif
