/* config_rules.c: see config_rules.h. */
#define _GNU_SOURCE
#include "config_rules.h"
#include "fuzz.h"
#include "../../src/settings/flags.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *written(const Config *config, size_t *size) {
    char *text = NULL;
    FILE *file = open_memstream(&text, size);
    PROMISE(file);
    config_write(config, file);
    PROMISE(fclose(file) == 0);
    return text;
}

/* Inside the range of its row, or "auto" where that is allowed. */
static void check_range(const Config *config, const Flag *flag, bool modes) {
    const void *field = (const char *)config + flag->offset;
    const bool may_be_auto = flag->fallback && strcmp(flag->fallback, "auto") == 0;
    int64_t integer, choices = 1;
    double real;
    const char *text;
    memcpy(&integer, field, 8), memcpy(&real, field, 8), memcpy(&text, field, sizeof text);
    switch (flag->type) {
    case FLAG_INT:
        PROMISE((may_be_auto && integer == AUTO_INT) ||
                ((double)integer >= flag->min && (double)integer <= flag->max));
        break;
    case FLAG_REAL: PROMISE((may_be_auto && isnan(real)) || (real >= flag->min && real <= flag->max)); break;
    case FLAG_TEXT:
        PROMISE(!text || (strlen(text) >= flag->min && strlen(text) <= flag->max));
        break;
    case FLAG_CHOICE:
        for (const char *at = flag->choices; *at; at++) choices += *at == '|';
        PROMISE(integer >= 0 && integer < choices);
        break;
    case FLAG_SET:
        for (const char *at = flag->choices; *at; at++) choices += *at == '|';
        PROMISE(integer > 0 && integer >> choices == 0);
        break;
    case FLAG_MODE: PROMISE(integer == 0 || (modes && integer == 1)); break;
    }
}

void fuzz_check_config(const Config *config, bool modes) {
    Config again;
    Error error = {0};
    size_t size, size_again;
    char *text = written(config, &size);
    config_defaults(&again);
    PROMISE(config_parse_lines(&again, text, size, &error));
    char *text_again = written(&again, &size_again);
    PROMISE(size == size_again && memcmp(text, text_again, size) == 0);
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            const size_t at = flag->offset;
            check_range(config, flag, modes);
            if (flag->type != FLAG_TEXT && flag->type != FLAG_MODE)
                PROMISE(memcmp((char *)config + at, (char *)&again + at, 8) == 0);
        }
    free(text);
    free(text_again);
}

/* Parses, and writes as config.ini. */
static char *read_and_written(const char *bytes, size_t length, size_t *size) {
    Config config;
    Error error = {0};
    config_defaults(&config);
    PROMISE(config_parse_lines(&config, bytes, length, &error));
    return written(&config, size);
}

void fuzz_check_spellings(const Config *config, const uint8_t *data, size_t size) {
    size_t wanted_size, got_size, mark = size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    char *wanted = written(config, &wanted_size), *other = malloc(3 + size), *got;
    PROMISE(other);
    memcpy(other, "\xef\xbb\xbf", 3);
    if (size > mark) memcpy(other + 3, data + mark, size - mark);
    bool in_name = true;
    for (size_t i = 3; i < 3 + size - mark; i++) {
        if (other[i] == '\n') in_name = true;
        else if (other[i] == '=' || other[i] == '#') in_name = false;
        else if (in_name && other[i] == '-') other[i] = '_';
        else if (in_name && other[i] == '_') other[i] = '-';
    }
    got = read_and_written(other, 3 + size - mark, &got_size);
    PROMISE(got_size == wanted_size && memcmp(got, wanted, got_size) == 0);
    free(got);
    got = read_and_written(other + 3, size - mark, &got_size);
    PROMISE(got_size == wanted_size && memcmp(got, wanted, got_size) == 0);
    free(got);
    free(other);
    free(wanted);
}
