/* json_scan.c: see json_scan.h. */
#include "json_scan.h"
#include "utf8.h"

#include <stdbool.h>
#include <string.h>

static bool is_digit(unsigned char c) {
    return c >= '0' && c <= '9';
}

static bool is_hexadecimal(unsigned char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* From a backslash to the last byte of what it stands for. (Surrogates are cJSON's business.) */
static const char *scan_escape(const unsigned char *text, size_t size, size_t *at) {
    const unsigned char *c = text + *at;
    const size_t left = size - *at;
    if (left < 2) return "a string without an end";
    if (!c[1] || !strchr("\"\\/bfnrtu", c[1])) return "an escape that is not valid JSON";
    if (c[1] == 'u') {
        if (left < 6) return "a string without an end";
        for (int i = 2; i < 6; i++)
            if (!is_hexadecimal(c[i])) return "an escape that is not valid JSON";
        if (memcmp(c + 2, "0000", 4) == 0) return "a NUL in a string";
    }
    *at += c[1] == 'u' ? 5 : 1;
    return NULL;
}

const char *json_scan_string(const unsigned char *text, size_t size, size_t *at) {
    const size_t first = *at;
    for (++*at; *at < size && text[*at] != '"'; ++*at) {
        const size_t length = utf8_length(text + *at, size - *at);
        const char *wrong = length == 0          ? "a string that is not UTF-8"
                            : text[*at] < ' '    ? "a control character in a string"
                            : text[*at] == '\\' ? scan_escape(text, size, at)
                                                 : NULL;
        if (wrong) return wrong;
        *at += length - 1;
    }
    if (*at < size) return NULL;
    *at = first;
    return "a string without an end";
}

const char *json_scan_number(const unsigned char *text, size_t size, size_t *at) {
    size_t i = *at + (text[*at] == '-');
    bool good = i < size && is_digit(text[i]);
    const bool zero = good && text[i] == '0';
    for (i += good; i < size && !zero && is_digit(text[i]);) i++;
    if (good && i < size && text[i] == '.') {
        good = i + 1 < size && is_digit(text[i + 1]);
        for (i += 1; i < size && is_digit(text[i]);) i++;
    }
    if (good && i < size && (text[i] == 'e' || text[i] == 'E')) {
        i += 1 + (i + 1 < size && (text[i + 1] == '-' || text[i + 1] == '+'));
        good = i < size && is_digit(text[i]);
        while (i < size && is_digit(text[i])) i++;
    }
    if (!good || (i < size && text[i] && strchr("0123456789+-.eE", text[i]))) return "not a number that JSON has";
    *at = i - 1;
    return NULL;
}

const char *json_scan(const unsigned char *text, size_t size, size_t *at) {
    for (*at = 0; *at < size; ++*at) {
        const unsigned char c = text[*at];
        const char *wrong = c == '"'                    ? json_scan_string(text, size, at)
                            : is_digit(c) || c == '-' ? json_scan_number(text, size, at)
                            : c && strchr(" \t\r\n{}[]:,truefalsn", c)
                                ? NULL
                                : "a character that has no place in JSON";
        if (wrong) return wrong;
    }
    return NULL;
}
