/*
 * fuzz_mixture.c: does a text that names sources give each of them a pattern and a share, and every other a reason why not?
 * (src/data/mixture.h)
 */
#include "fuzz.h"
#include "../../src/data/mixture.h"

#include <stdlib.h>
#include <string.h>

/* The patterns stand in the text, in their order, each with a colon behind it; nothing but numbers and commas is between them. */
static void check_text(const MixtureText *mixture, const char *text) {
    const char *at = text;
    uint64_t parts = 0;
    for (size_t i = 0; i < mixture->sources; i++) {
        const size_t length = strlen(mixture->pattern[i]);
        PROMISE(length && strncmp(at, mixture->pattern[i], length) == 0 && at[length] == ':');
        at += length + 1;
        const size_t number = strspn(at, "0123456789.");
        PROMISE(number && strpbrk(at, "123456789") && strpbrk(at, "123456789") < at + number);
        at += number;
        PROMISE(*at == (i + 1 < mixture->sources ? ',' : '\0'));
        at += *at == ',';
        PROMISE(mixture->parts[i] >= 1);
        parts += mixture->parts[i];
    }
    PROMISE(parts <= TURNS_MOST);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    MixtureText mixture;
    Error error = {0};
    if (memchr(data, 0, size)) return 0;
    char *text = calloc(size + 1, 1);
    memcpy(text, data, size);
    if (!mixture_parse(text, &mixture, &error)) {
        fuzz_check_error(&error);
        PROMISE(mixture.sources == 0);
    } else {
        if (mixture.sources) check_text(&mixture, text);
        mixture_text_free(&mixture);
    }
    free(text);
    return 0;
}
