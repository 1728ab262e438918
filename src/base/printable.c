/* printable.c: see printable.h. */
#include "printable.h"
#include "utf8.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Whether a UTF-8 sequence of this length (0: none) may go to a terminal as it is. */
static bool is_harmless(const unsigned char *at, size_t length) {
    if (length == 1) return *at >= ' ' && *at != 0x7f;
    return length > 1 && !(at[0] == 0xc2 && at[1] < 0xa0);
}

static void make_printable(char *text) {
    size_t length;
    for (unsigned char *at = (unsigned char *)text; *at; at += length) {
        length = utf8_length(at, 4); /* the zero at the end ends it, too */
        if (is_harmless(at, length)) continue;
        length = length ? length : 1;
        memset(at, '?', length);
    }
}

void printable_message(char *text, size_t size, const char *format, va_list args) {
    vsnprintf(text, size, format, args);
    make_printable(text);
}

/* Whether bytes that are no whole sequence are the beginning of one: whether continuation bytes would make it whole. Of
 * those only the second is bound further, so one that is not there yet hinders nothing. */
static bool is_beginning(const unsigned char *bytes, size_t count) {
    if (count == 1) return bytes[0] >= 0xc2 && bytes[0] <= 0xf4;
    unsigned char whole[4] = {0x80, 0x80, 0x80, 0x80};
    memcpy(whole, bytes, count);
    return count < 4 && utf8_length(whole, 4) > count;
}

/* Shows the first `length` of the held bytes and forgets them. */
static void show(Printable *stream, size_t length, bool as_they_are, char shown[PRINTABLE_SIZE]) {
    char *end = shown + strlen(shown);
    for (size_t i = 0; i < length; i++)
        end += snprintf(end, (size_t)(shown + PRINTABLE_SIZE - end), as_they_are ? "%c" : "\\x%02x", stream->held[i]);
    stream->count -= length;
    memmove(stream->held, stream->held + length, stream->count);
}

void printable_push(Printable *stream, unsigned char byte, char shown[PRINTABLE_SIZE]) {
    shown[0] = '\0';
    stream->held[stream->count++] = byte;
    while (stream->count && !is_beginning(stream->held, stream->count)) {
        const size_t length = utf8_length(stream->held, stream->count);
        const bool plain = length == 1 && (stream->held[0] == '\n' || stream->held[0] == '\t');
        show(stream, length ? length : 1, plain || is_harmless(stream->held, length), shown);
    }
}

void printable_end(Printable *stream, char shown[PRINTABLE_SIZE]) {
    shown[0] = '\0';
    show(stream, stream->count, false, shown);
}
