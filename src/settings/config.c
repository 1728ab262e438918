/* config.c: how flags become a Config. The rows are in flags.c; config.h is the manual. */
#include "config.h"
#include "../base/utf8.h"
#include "flags.h"
#include "suggest.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AUTO_TEXT "auto"

/* Position of a word among words separated by '|', or −1. */
static int choice_index(const char *choices, const char *word) {
    size_t length = strlen(word);
    int index = 0;
    for (const char *at = choices;; index++) {
        size_t span = strcspn(at, "|");
        if (span == length && memcmp(at, word, span) == 0) return index;
        if (at[span] == '\0') return -1;
        at += span + 1;
    }
}

/* The words of a set, in the order of its row. */
static const char *set_words(const Flag *flag, int64_t bits) {
    static _Thread_local char words[256];
    size_t length = 0;
    for (int i = 0; bits >> i; i++)
        if (bits >> i & 1)
            length += (size_t)snprintf(words + length, sizeof words - length, "%s%s", length ? "," : "",
                                       config_choice(flag->name, i));
    return words;
}

const char *config_choice(const char *flag, int64_t value) {
    static _Thread_local char word[32];
    const char *at = flag_find(flag)->choices;
    while (value-- > 0) at += strcspn(at, "|") + 1;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(at, "|"), at);
    return word;
}

static bool refuse_number(const Flag *flag, const char *value, const char *why, Error *error) {
    unsigned blank = utf8_odd_blank(value, value + strlen(value));
    if (blank)
        return error_set(error, "--%s: '%.100s' holds U+%04X, a blank that is no space", flag->name, value, blank);
    if (flag->type == FLAG_INT)
        return error_set(error, "--%s: '%s' is %s; allowed is %.0f to %.0f", flag->name, value, why, flag->min,
                         flag->max);
    return error_set(error, "--%s: '%s' is %s; allowed is %.15g to %.15g", flag->name, value, why, flag->min,
                     flag->max);
}

static bool may_be_auto(const Flag *flag) { return flag->fallback && strcmp(flag->fallback, AUTO_TEXT) == 0; }

static bool set_number(Config *config, const Flag *flag, const char *value, Error *error) {
    void *field = (char *)config + flag->offset;
    bool whole = flag->type == FLAG_INT;
    const char *no_number = whole ? "not a whole number" : "not a number";
    if (may_be_auto(flag) && strcmp(value, AUTO_TEXT) == 0) {
        if (whole) *(int64_t *)field = AUTO_INT;
        else *(double *)field = NAN;
        return true;
    }
    char *end = NULL;
    /* strtod also reads spaces, hexadecimal, "nan" and "inf": a number here is of these characters only. */
    bool plain = value[0] && strspn(value, "0123456789+-.eE") == strlen(value);
    double real = plain ? strtod(value, &end) : NAN; /* too large: infinite, out of every range */
    if (!plain || *end) return refuse_number(flag, value, no_number, error);
    if (!whole) {
        if (!(real >= flag->min && real <= flag->max)) return refuse_number(flag, value, "out of range", error);
        *(double *)field = real;
        return true;
    }
    errno = 0;
    long long integer = strtoll(value, &end, 10);
    if (*end) return refuse_number(flag, value, no_number, error);
    if (errno || !((double)integer >= flag->min && (double)integer <= flag->max))
        return refuse_number(flag, value, "out of range", error);
    *(int64_t *)field = integer;
    return true;
}

/* Texts live as long as the program; the list keeps them reachable, for leak checkers. */
typedef struct Text {
    struct Text *next;
    char bytes[];
} Text;
static Text *texts;

static bool set_text(const char **field, const Flag *flag, const char *value, Error *error) {
    if (!flag_text_fits(flag, value, error)) return false;
    Text *text = must_malloc(sizeof *text + strlen(value) + 1, "a flag's value");
    strcpy(text->bytes, value);
    text->next = texts;
    texts = text;
    *field = text->bytes;
    return true;
}

void config_forget_texts(void) {
    for (Text *next; texts; texts = next) {
        next = texts->next;
        free(texts);
    }
}

static bool set_choice(int64_t *field, const Flag *flag, const char *value, Error *error) {
    int index = choice_index(flag->choices, value);
    if (index < 0 || strchr(value, '|')) return refuse_choice(flag->name, value, flag->choices, '|', error);
    *field = index;
    return true;
}

static bool set_set(int64_t *field, const Flag *flag, const char *value, Error *error) {
    int64_t bits = 0, index;
    for (const char *at = value;; at++) {
        char word[64];
        size_t span = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)span, at);
        if (!set_choice(&index, flag, span < sizeof word ? word : value, error)) return false;
        bits |= (int64_t)1 << index;
        at += span;
        if (!*at) break;
    }
    *field = bits;
    return true;
}

static bool set_value(Config *config, const Flag *flag, const char *value, Error *error) {
    void *field = (char *)config + flag->offset;
    switch (flag->type) {
    case FLAG_INT:
    case FLAG_REAL: return set_number(config, flag, value, error);
    case FLAG_TEXT: return set_text(field, flag, value, error);
    case FLAG_MODE: *(int64_t *)field = 1; return true;
    case FLAG_CHOICE: return set_choice(field, flag, value, error);
    case FLAG_SET: return set_set(field, flag, value, error);
    }
    return false;
}

/* "auto (12)": 12 into value; false for any other text. */
static bool read_worked_out(const char *text, char value[32]) {
    static const char BEFORE[] = AUTO_TEXT " (";
    size_t before = sizeof BEFORE - 1, length = strlen(text);
    if (strncmp(text, BEFORE, before) || text[length - 1] != ')' || length - before > 32) return false;
    snprintf(value, 32, "%.*s", (int)(length - before - 1), text + before);
    return true;
}

static bool set_flag(Config *config, const Flag *flag, const char *value, Error *error) {
    char came_to[32];
    bool may = may_be_auto(flag), worked_out = may && read_worked_out(value, came_to);
    if (!set_value(config, flag, worked_out ? came_to : value, error)) return false;
    if (may) config->automatic[flag_number(flag)] = worked_out || strcmp(value, AUTO_TEXT) == 0;
    return true;
}

void config_reopen(Config *config) {
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            Error error = {0};
            if (config->automatic[flag_number(flag)] && !set_flag(config, flag, AUTO_TEXT, &error))
                fail(EXIT_RUNTIME, "reopening of %s", error.text);
        }
}

bool config_set(Config *config, const char *name, const char *value, Error *error) {
    const Flag *flag = flag_find(name);
    return flag ? set_flag(config, flag, value, error) : refuse_name(name, error);
}

bool config_set_all(Config *config, const char *settings, Error *error) {
    char *copy = must_malloc(strlen(settings) + 1, "settings"), *state = NULL;
    bool good = true;
    strcpy(copy, settings);
    for (char *word = strtok_r(copy, " ", &state); good && word; word = strtok_r(NULL, " ", &state)) {
        char *equals = strchr(word, '=');
        if (equals) *equals = '\0';
        good = equals ? config_set(config, word, equals + 1, error) : error_set(error, "'%s' is not name=value", word);
    }
    free(copy);
    return good;
}

void config_defaults(Config *config) {
    *config = (Config){0};
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            Error error = {0};
            if (flag->fallback && !set_flag(config, flag, flag->fallback, &error))
                fail(EXIT_RUNTIME, "default of %s", error.text);
        }
}

static void trim(const char **from, const char **to) {
    while (*from < *to && strchr(" \t\r", **from)) ++*from;
    while (*to > *from && strchr(" \t\r", (*to)[-1])) --*to;
}

enum { VALUE_SIZE = 8192 };

static int hex_digit(char c) {
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* The character that stands after a backslash, or −1; *at moves to its last byte. */
static int escaped(const char **at, const char *to) {
    if (to - *at < 2) return -1;
    char c = *++*at;
    if (c != 'x') return (unsigned char)c;
    if (to - *at < 3) return -1;
    int high = hex_digit((*at)[1]), low = hex_digit((*at)[2]);
    *at += 2;
    return high < 0 || low < 0 || high + low == 0 ? -1 : high * 16 + low;
}

/* "…" with \" \\ and \xHH: how config_write says what a plain value cannot. */
static bool read_quoted(const char *from, const char *to, char value[VALUE_SIZE], Error *error) {
    size_t length = 0;
    const char *at = from + 1;
    for (; at < to && *at != '"'; at++) {
        int c = *at == '\\' ? escaped(&at, to) : (unsigned char)*at;
        if (c < 0) return error_set(error, "a backslash takes one character, or x and two digits, 01 to ff");
        if (length + 1 >= VALUE_SIZE) return error_set(error, "a value is too long");
        value[length++] = (char)c;
    }
    value[length] = '\0';
    if (at >= to) return error_set(error, "a quoted value has no end");
    at++;
    trim(&at, &to);
    return at == to || *at == '#' || error_set(error, "found '%.*s' after a quoted value", (int)(to - at), at);
}

/* A blank that is no space at the beginning or the end, or 0. */
static unsigned odd_blank_at_end(const char *from, const char *to) {
    unsigned first = 0, code = 0;
    for (const char *at = from; at < to;) {
        size_t length = utf8_length((const unsigned char *)at, (size_t)(to - at));
        code = length ? utf8_code((const unsigned char *)at, length) : 0;
        if (at == from) first = code;
        at += length ? length : 1;
    }
    return utf8_is_odd_blank(first) ? first : utf8_is_odd_blank(code) ? code : 0;
}

static bool read_value(const char *from, const char *to, char value[VALUE_SIZE], Error *error) {
    trim(&from, &to);
    if (from < to && *from == '"') return read_quoted(from, to, value, error);
    const char *comment = memchr(from, '#', (size_t)(to - from));
    if (comment) to = comment;
    trim(&from, &to);
    unsigned blank = odd_blank_at_end(from, to);
    if (blank)
        return error_set(error, "'%.*s' begins or ends with U+%04X, a blank that is no space; if it is meant, it stands in "
                         "double quotes", (int)(to - from < 200 ? to - from : 200), from, blank);
    if (to - from >= VALUE_SIZE) return error_set(error, "a value is too long");
    snprintf(value, VALUE_SIZE, "%.*s", (int)(to - from), from);
    return true;
}

/* A flag has one line of a file: of two, one would be lost unsaid. */
static bool is_first(const Flag *flag, int line, int lines[FLAGS_MOST], Error *error) {
    int *before = &lines[flag_number(flag)];
    if (*before) return error_set(error, "%s stands in line %d already; keep one of them", flag->name, *before);
    *before = line;
    return true;
}

/* `lines`: of each flag_number(), where it stood before, or 0. */
static bool parse_line(Config *config, const char *from, const char *to, int line, int lines[FLAGS_MOST], Error *error) {
    trim(&from, &to);
    if (from == to || *from == '#') return true;
    const char *equals = memchr(from, '=', (size_t)(to - from));
    unsigned blank = utf8_odd_blank(from, equals ? equals : to);
    if (blank) return error_set(error, "the name holds U+%04X, a blank that is no space", blank);
    if (!equals) return error_set(error, "expected `name = value`, found '%.*s'", (int)(to - from), from);
    const char *name_end = equals;
    trim(&from, &name_end);
    char name[128], value[VALUE_SIZE];
    if (name_end - from >= (long)sizeof name) return error_set(error, "a name is too long");
    snprintf(name, sizeof name, "%.*s", (int)(name_end - from), from);
    const Flag *flag = flag_find(name);
    if (flag && (flag->type == FLAG_MODE || strcmp(name, "config") == 0))
        return error_set(error, "%s belongs on the command line", name);
    return read_value(equals + 1, to, value, error) && config_set(config, name, value, error) &&
           is_first(flag, line, lines, error);
}

bool config_parse_lines(Config *config, const char *bytes, size_t size, Error *error) {
    if (size >= 2 && (!memcmp(bytes, "\xff\xfe", 2) || !memcmp(bytes, "\xfe\xff", 2)))
        return error_set(error, "this is UTF-16 text; a config file is UTF-8: save it as that");
    const size_t mark = size >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0 ? 3 : 0; /* what some editors put first */
    bytes += mark, size -= mark;
    if (memchr(bytes, '\0', size)) return error_set(error, "not a text file: it holds a zero byte");
    int line = 1, lines[FLAGS_MOST] = {0};
    for (const char *at = bytes, *end = bytes + size; at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        Error inner = {0};
        if (!parse_line(config, at, stop, line, lines, &inner)) return error_set(error, "line %d: %.440s", line, inner.text);
        at = stop + 1;
    }
    return true;
}

/* The shortest text that reads back as the same number: 0.1, not 0.10000000000000001. */
static void write_real(double value, char *text, size_t size) {
    char shortest[32] = "";
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(shortest, sizeof shortest, "%.*g", digits, value);
        if (strtod(shortest, NULL) == value) break;
    }
    snprintf(text, size, "%s", shortest);
}

/* The field decides how. */
const char *config_value(const Config *config, const Flag *flag, char *text, size_t size) {
    const void *field = (const char *)config + flag->offset;
    switch (flag->type) {
    case FLAG_INT:
        if (*(const int64_t *)field == AUTO_INT) snprintf(text, size, AUTO_TEXT);
        else snprintf(text, size, "%lld", (long long)*(const int64_t *)field);
        return text;
    case FLAG_REAL:
        if (isnan(*(const double *)field)) snprintf(text, size, AUTO_TEXT);
        else write_real(*(const double *)field, text, size);
        return text;
    case FLAG_TEXT: return *(const char *const *)field;
    case FLAG_CHOICE: return config_choice(flag->name, *(const int64_t *)field);
    case FLAG_SET: return set_words(flag, *(const int64_t *)field);
    case FLAG_MODE: return NULL;
    }
    return NULL;
}

bool config_generates(const Config *config) { return config->generate || config->generate_tokens || config->generate_file; }

/* Flags that say what to do now, not what the run is, are no part of config.ini. */
static bool is_setting(const char *name) {
    static const char *const DEEDS[] = {"config", "resume", "generate", "generate-tokens", "generate-file", "probe", "preset", "ranks", "rendezvous"};
    for (size_t i = 0; i < sizeof DEEDS / sizeof *DEEDS; i++)
        if (strcmp(DEEDS[i], name) == 0) return false;
    return true;
}

void config_visit(const Config *config, ConfigVisitor *visit, void *context) {
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            char text[64];
            const char *value = config_value(config, flag, text, sizeof text);
            if (!value || !is_setting(flag->name)) continue;
            bool number = (flag->type == FLAG_INT || flag->type == FLAG_REAL) && strcmp(value, AUTO_TEXT);
            visit(flag->name, value, number, context);
        }
}

/* Whether parse_line would read the bare value as something else. */
static bool needs_quotes(const char *value) {
    size_t length = strlen(value);
    if (length == 0 || value[0] == '"' || strchr(" \t", value[0]) || strchr(" \t", value[length - 1])) return true;
    if (odd_blank_at_end(value, value + length)) return true;
    for (const char *at = value; *at; at++)
        if (*at == '#' || (unsigned char)*at < ' ') return true;
    return false;
}

typedef struct Writing {
    const Config *config;
    FILE *file;
} Writing;

static void write_line(const char *name, const char *value, bool is_number, void *context) {
    const Writing *writing = context;
    FILE *file = writing->file;
    if (writing->config->automatic[flag_number(flag_find(name))] && strcmp(value, AUTO_TEXT)) {
        fprintf(file, "%s = " AUTO_TEXT " (%s)\n", name, value);
        return;
    }
    if (is_number || !needs_quotes(value)) {
        fprintf(file, "%s = %s\n", name, value);
        return;
    }
    fprintf(file, "%s = \"", name);
    for (const char *at = value; *at; at++) {
        if ((unsigned char)*at < ' ') fprintf(file, "\\x%02x", (unsigned)*at);
        else fprintf(file, *at == '"' || *at == '\\' ? "\\%c" : "%c", *at);
    }
    fprintf(file, "\"\n");
}

void config_write(const Config *config, FILE *file) {
    config_visit(config, write_line, &(Writing){config, file});
}
