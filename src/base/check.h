/*
 * check.h: how this program reports what is wrong, and how it stops.
 *
 * Two kinds of functions meet errors:
 *  - the program itself (flags, loop, files opened on a user's behalf) calls check() or fail(): one line to
 *    stderr that says what was wrong, where, and what would be right; then an exit code of the table below;
 *  - parsers of bytes that someone else wrote (shards, safetensors, JSON, config files) are pure functions:
 *    they fill a struct Error and return false, so that a fuzzer or a test can call them with anything.
 *
 * Compiles as C11 and as C++17: the kernels' backends use it too.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum ExitCode {
    EXIT_DONE = 0,     /* what was asked for is done */
    EXIT_RUNTIME = 1,  /* the machine failed: memory, disk, device */
    EXIT_USAGE = 2,    /* bad usage or bad input: a flag, a config file, a shard, a checkpoint */
    EXIT_DIVERGED = 3, /* weights, moments or losses are no finite numbers any more */
    EXIT_RANKS = 4,    /* another rank did not come in time, hangs, or is gone */
};

typedef struct Error {
    char text[512]; /* one line without a newline; empty while nothing is wrong */
} Error;

#if defined(__GNUC__)
#define CHECK_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#define CHECK_NORETURN __attribute__((noreturn))
#else
#define CHECK_PRINTF(format_index, first)
#define CHECK_NORETURN
#endif

/* Writes the message (cut to fit) into *error and returns false, so that a parser can `return error_set(…)`.
 * In all three, control characters, and what is not UTF-8, become '?' in what is printed. */
bool error_set(Error *error, const char *format, ...) CHECK_PRINTF(2, 3);

/* Prints "train_gpt: MESSAGE" as one line to stderr and exits with the code. Of several ranks those behind the first wait a moment
 * before that: what each finds alike is then said once. Thread-safe. */
void fail(int exit_code, const char *format, ...) CHECK_PRINTF(2, 3) CHECK_NORETURN;

/* Prints "train_gpt: MESSAGE" to stderr and goes on. */
void warn(const char *format, ...) CHECK_PRINTF(1, 2);

/* The same of what every rank finds alike: only the one that has no number before its messages says it. */
void warn_for_all(const char *format, ...) CHECK_PRINTF(1, 2);

/* From now on messages begin with "train_gpt, rank 3: ": one of several processes that share a terminal. */
void check_name_rank(int rank);

/* check: what a user or a file can cause (exit 2). require: what the machine can cause (exit 1). */
#define check(condition, ...) ((condition) ? (void)0 : fail(EXIT_USAGE, __VA_ARGS__))
#define require(condition, ...) ((condition) ? (void)0 : fail(EXIT_RUNTIME, __VA_ARGS__))

/* malloc and calloc that never return NULL (exit 1 with the size asked for and the purpose named). */
void *must_malloc(size_t bytes, const char *purpose);
void *must_calloc(size_t count, size_t size, const char *purpose);

#ifdef __cplusplus
}
#endif
#endif
