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
