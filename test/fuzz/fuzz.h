/*
 * fuzz.h: what the fuzz targets share.
 *
 * A target is one function, LLVMFuzzerTestOneInput. It feeds its bytes to one parser of src/ and demands with
 * PROMISE what the parser's header promises of everything that it accepts, checked by other means than the
 * parser's own. libFuzzer drives it with bytes of its making, replay.c with the files of corpus/ and regressions/.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include "../../src/base/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the process with a line that names what was promised, unless it holds. */
#define PROMISE(condition) ((condition) ? (void)0 : fuzz_broken(#condition, __FILE__, __LINE__))
void fuzz_broken(const char *promise, const char *file, int line) CHECK_NORETURN;

/* A copy of the bytes, for reading, that ends where readable memory ends: reading beyond it is a fault, in
 * libraries built without sanitizers too. There is one: the next call takes it back. */
const void *fuzz_edge(const void *bytes, size_t size);

/* The path of a file in memory with these bytes; and, if `size` is larger than `held`, zeros up to it. There is
 * one: the next call changes it. The path is a symbolic link, as /proc has them. */
const char *fuzz_file(const void *bytes, size_t held, uint64_t size);

/* A path, in memory, of a file that a target may write. */
const char *fuzz_output(void);

/* What a refusal must be: one line, not empty, that moves no terminal's cursor. */
void fuzz_check_error(const Error *error);

/* Calls a function; true if it ended in fail(EXIT_USAGE, …), with that message. For what can refuse in no other
 * way; whatever it had allocated by then is lost. (The linker puts fuzz.c's fail() in the place of check.c's.) */
bool fuzz_refuses(void (*call)(void *), void *context, Error *error);

/* Whether the bytes are one value of JSON as RFC 8259 has it, in UTF-8 and without a NUL in its texts, and, if
 * `numbers` is not NULL, the sum of its numbers, which then must be plain digits. json_rules.c */
bool fuzz_is_json(const uint8_t *bytes, size_t size, uint64_t *numbers);

#endif
