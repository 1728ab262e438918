/* utf8.h: is this UTF-8? */
#ifndef UTF8_H
#define UTF8_H

#include <stddef.h>

/* The length of the UTF-8 sequence at text (1 to 4), or 0 if it is none: overlong, a surrogate, cut, too large.
   Reads at most `left` bytes, and none behind the first that does not belong there. */
static inline size_t utf8_length(const unsigned char *text, size_t left) {
    if (text[0] < 0x80) return 1;
    const size_t length = text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
    if (text[0] < 0xc2 || text[0] > 0xf4 || left < length) return 0;
    for (size_t i = 1; i < length; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    if (text[0] == 0xe0 && text[1] < 0xa0) return 0;
    if (text[0] == 0xed && text[1] > 0x9f) return 0;
    if (text[0] == 0xf0 && text[1] < 0x90) return 0;
    if (text[0] == 0xf4 && text[1] > 0x8f) return 0;
    return length;
}

#endif
