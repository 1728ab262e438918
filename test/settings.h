/*
 * settings.h: a Config from "name=value name=value …", and what config_resolve() says to it.
 */
#ifndef SETTINGS_H
#define SETTINGS_H

#include "../src/settings/config.h"
#include "../src/settings/resolve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* On top of the defaults, not yet resolved. */
static inline void configure_raw(Config *config, const char *settings) {
    Error error = {0};
    config_defaults(config);
    if (!config_set_all(config, settings, &error)) fail_msg("%s", error.text);
}

typedef struct Outcome {
    int code;        /* of exit; −1: a signal */
    char text[4096]; /* what it wrote to stderr */
} Outcome;

/* config_resolve() in a process of its own, as it exits on what it refuses. */
static inline Outcome resolve_apart(const char *settings) {
    Outcome outcome = {.code = -1};
    Config config;
    configure_raw(&config, settings);
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        config_resolve(&config, 1);
        _exit(EXIT_DONE);
    }
    close(ends[1]);
    size_t used = 0;
    for (ssize_t n; used < sizeof outcome.text - 1; used += (size_t)n)
        if ((n = read(ends[0], outcome.text + used, sizeof outcome.text - 1 - used)) <= 0) break;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
    return outcome;
}

/* Exit 2, and one line with all of these words (NULL at their end). */
static inline void assert_resolve_refuses(const char *settings, const char *const *words) {
    Outcome outcome = resolve_apart(settings);
    if (outcome.code != EXIT_USAGE) fail_msg("%s: exit %d, %s", settings, outcome.code, outcome.text);
    const char *end = strchr(outcome.text, '\n');
    if (!end || end[1]) fail_msg("%s: not one line: %s", settings, outcome.text);
    for (; *words; words++)
        if (!strstr(outcome.text, *words)) fail_msg("%s: '%s' is not in: %s", settings, *words, outcome.text);
}

static inline void assert_resolves(const char *settings) {
    Outcome outcome = resolve_apart(settings);
    if (outcome.code != EXIT_DONE || outcome.text[0]) fail_msg("%s: exit %d, %s", settings, outcome.code, outcome.text);
}

#endif
