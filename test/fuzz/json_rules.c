/*
 * json_rules.c: what is JSON? RFC 8259 letter by letter, knowing nothing of cJSON or src/. See fuzz_is_json().
 */
#include "fuzz.h"

#include <string.h>

typedef struct Text {
    const uint8_t *at, *end;
    uint64_t *numbers;
} Text;

static bool value(Text *t, int depth);

static bool take(Text *t, char c) {
    return t->at < t->end && *t->at == (uint8_t)c && (t->at++, true);
}

static void skip_space(Text *t) {
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\t' || *t->at == '\r' || *t->at == '\n')) t->at++;
}

static int digits(Text *t, uint64_t *value) {
    int n = 0;
    for (; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++, n++)
        if (value) *value = *value * 10 + (uint64_t)(*t->at - '0');
    return n;
}

static bool number(Text *t) {
    if (t->numbers) {
        uint64_t plain = 0;
        const bool good = digits(t, &plain) > 0;
        *t->numbers += plain;
        return good;
    }
    take(t, '-');
    if (!take(t, '0') && !digits(t, NULL)) return false;
    if (take(t, '.') && !digits(t, NULL)) return false;
    if (!take(t, 'e') && !take(t, 'E')) return true;
    if (!take(t, '-')) take(t, '+');
    return digits(t, NULL) > 0;
}

/* Four hexadecimal digits, or −1. */
static long code_unit(Text *t) {
    long unit = 0;
    if (t->end - t->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        const char *all = "0123456789abcdefABCDEF", *digit = *t->at ? strchr(all, *t->at++) : NULL;
        if (!digit) return -1;
        unit = unit * 16 + (digit - all < 16 ? digit - all : digit - all - 6);
    }
    return unit;
}

static bool escape(Text *t) {
    if (!take(t, 'u')) return t->at < t->end && *t->at && strchr("\"\\/bfnrt", *t->at++);
    const long unit = code_unit(t);
    if (unit < 0xd800 || unit > 0xdfff) return unit > 0;
    if (unit > 0xdbff || !take(t, '\\') || !take(t, 'u')) return false;
    const long low = code_unit(t);
    return low >= 0xdc00 && low <= 0xdfff;
}

/* One character beyond ASCII: decoded, then judged by its value. */
static bool wide_character(Text *t) {
    static const uint32_t LEAST[] = {0x80, 0x800, 0x10000};
    const uint8_t first = *t->at++;
    const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    uint32_t code = first & (0x3fu >> more);
    if (first < 0xc0 || first > 0xf7) return false;
    for (int i = 0; i < more; i++) {
        if (t->at == t->end || (*t->at & 0xc0) != 0x80) return false;
        code = code << 6 | (*t->at++ & 0x3f);
    }
    return code >= LEAST[more - 1] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
}

static bool string(Text *t) {
    if (!take(t, '"')) return false;
    while (t->at < t->end && *t->at != '"') {
        if (*t->at < ' ') return false;
        if (take(t, '\\') ? !escape(t) : *t->at < 0x80 ? (t->at++, false) : !wide_character(t)) return false;
    }
    return take(t, '"');
}

/* Members or elements up to the closing bracket; the opening one is taken. */
static bool list(Text *t, char close, bool named, int depth) {
    skip_space(t);
    if (take(t, close)) return true;
    do {
        skip_space(t);
        if (named && (!string(t) || (skip_space(t), !take(t, ':')))) return false;
        if (!value(t, depth + 1)) return false;
    } while (take(t, ','));
    return take(t, close);
}

static bool word(Text *t, const char *word) {
    const size_t n = strlen(word);
    return (size_t)(t->end - t->at) >= n && memcmp(t->at, word, n) == 0 && (t->at += n, true);
}

/* With the blanks around it. */
static bool value(Text *t, int depth) {
    if (depth > 2000) return false; /* twice what anything here accepts */
    skip_space(t);
    if (t->at == t->end) return false;
    const bool good = take(t, '{')     ? list(t, '}', true, depth)
                      : take(t, '[')   ? list(t, ']', false, depth)
                      : *t->at == '"'  ? string(t)
                      : *t->at >= 'a'  ? word(t, "true") || word(t, "false") || word(t, "null")
                                       : number(t);
    skip_space(t);
    return good;
}

bool fuzz_is_json(const uint8_t *bytes, size_t size, uint64_t *numbers) {
    Text t = {bytes, bytes + size, numbers};
    return value(&t, 0) && t.at == t.end;
}
