/* check.c: see check.h. */
#define _GNU_SOURCE
#include "check.h"
#include "printable.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char name[40] = "train_gpt";
static bool is_numbered;

void check_name_rank(int rank) {
    snprintf(name, sizeof name, "train_gpt, rank %d", rank);
    is_numbered = true;
}

static void print_line(const char *format, va_list args) {
    char line[2048];
    printable_message(line, sizeof line, format, args);
    /* One write per message, so that lines of several threads or ranks do not mix. */
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", name, line);
}

bool error_set(Error *error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    printable_message(error->text, sizeof error->text, format, args);
    va_end(args);
    return false;
}

/* What a user has got wrong every rank finds by itself, and whoever started them ends the others when the first is gone. So
 * those with a number let the one without say it; a signal, while they do, is their end: mpirun's comes after a second. */
static bool is_said_already(void) {
    const struct timespec moment = {.tv_sec = 3};
    return is_numbered && nanosleep(&moment, NULL);
}

void fail(int exit_code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (!is_said_already()) print_line(format, args);
    va_end(args);
    exit(exit_code);
}

void warn(const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_line(format, args);
    va_end(args);
}

void warn_for_all(const char *format, ...) {
    if (is_numbered) return;
    va_list args;
    va_start(args, format);
    print_line(format, args);
    va_end(args);
}

void *must_malloc(size_t bytes, const char *purpose) {
    void *memory = malloc(bytes ? bytes : 1);
    require(memory, "out of memory: %zu bytes for %s", bytes, purpose);
    return memory;
}

void *must_calloc(size_t count, size_t size, const char *purpose) {
    void *memory = calloc(count ? count : 1, size ? size : 1);
    require(memory, "out of memory: %zu × %zu bytes for %s", count, size, purpose);
    return memory;
}
