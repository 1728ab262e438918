/* check.c: see check.h. */
#include "check.h"
#include "utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Names and values in a message come from outside: a message is one line of UTF-8, and moves no terminal's cursor,
   which U+0080 to U+009F do as well. */
static void make_printable(char *text) {
    size_t length;
    for (unsigned char *at = (unsigned char *)text; *at; at += length) {
        length = utf8_length(at, 4); /* the zero at the end ends it, too */
        if (length > 1 && !(at[0] == 0xc2 && at[1] < 0xa0)) continue;
        if (length == 1 && *at >= ' ' && *at != 0x7f) continue;
        length = length ? length : 1;
        memset(at, '?', length);
    }
}

static void print_line(const char *format, va_list args) {
    char line[2048];
    vsnprintf(line, sizeof line, format, args);
    make_printable(line);
    /* One write per message, so that lines of several threads or ranks do not mix. */
    fflush(stdout);
    fprintf(stderr, "train_gpt: %s\n", line);
}

bool error_set(Error *error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    make_printable(error->text);
    return false;
}

void fail(int exit_code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_line(format, args);
    va_end(args);
    exit(exit_code);
}

void warn(const char *format, ...) {
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
