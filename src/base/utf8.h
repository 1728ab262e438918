/* utf8.h: is this UTF-8, and does it look like what it is? */
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

/* Of bytes that begin no sequence, how many one U+FFFD stands for: those of a sequence that was cut, else one. (So do Unicode's
 * recommendation, Python and Rust.) */
static inline size_t utf8_broken_length(const unsigned char *text, size_t left) {
    for (size_t count = left < 3 ? left : 3; count > 1; count--) {
        unsigned char whole[4] = {0x80, 0x80, 0x80, 0x80};
        for (size_t i = 0; i < count; i++) whole[i] = text[i];
        if (utf8_length(whole, 4) > count) return count;
    }
    return 1;
}

/* The code point of a sequence of this length, as utf8_length() gave it. */
static inline unsigned utf8_code(const unsigned char *text, size_t length) {
    unsigned code = length == 1 ? text[0] : text[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) code = code << 6 | (text[i] & 0x3fu);
    return code;
}

/* Blanks that look like a space, or like nothing, and are no ASCII: what word processors and web pages leave in text. */
static inline int utf8_is_odd_blank(unsigned code) {
    return code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200b) || code == 0x2028 || code == 0x2029 ||
           code == 0x202f || code == 0x205f || code == 0x2060 || code == 0x3000 || code == 0xfeff;
}

/* The first of them in [from, to), or 0. */
static inline unsigned utf8_odd_blank(const char *from, const char *to) {
    for (size_t length; from < to; from += length ? length : 1) {
        length = utf8_length((const unsigned char *)from, (size_t)(to - from));
        const unsigned code = length ? utf8_code((const unsigned char *)from, length) : 0;
        if (utf8_is_odd_blank(code)) return code;
    }
    return 0;
}

#endif
