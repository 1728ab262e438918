/*
 * printable.h: bytes that anybody could have written, for a person's eyes: nothing in them moves a terminal's cursor.
 *
 * What does: C0 and DEL, U+0080 to U+009F (C1), and bytes that are not UTF-8, which some terminals take for C1.
 */
#ifndef PRINTABLE_H
#define PRINTABLE_H

#include <stdarg.h>
#include <stddef.h>

/* A message as vsnprintf makes it, in which such bytes become '?'; newlines and tabs as well: a message is one line. */
void printable_message(char *text, size_t size, const char *format, va_list args);

/* A stream of bytes, one at a time, as text for a terminal: newline and tab stay, other such bytes become \x1b. A UTF-8
 * sequence is held until it is whole. Zero-initialised. */
typedef struct Printable {
    unsigned char held[4];
    size_t count;
} Printable;

enum { PRINTABLE_SIZE = 20 }; /* what one byte can bring forth at most, with the terminating zero */

/* Takes one byte and writes what can be shown now, maybe nothing. */
void printable_push(Printable *stream, unsigned char byte, char shown[PRINTABLE_SIZE]);

/* At the end: what is left of a sequence that did not become whole. */
void printable_end(Printable *stream, char shown[PRINTABLE_SIZE]);

#endif
