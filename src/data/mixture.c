/* mixture.c: see mixture.h. */
#include "mixture.h"
#include "sidecar.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ------------------------------------------------------------------------------------------------------
 * The text
 * ---------------------------------------------------------------------------------------------------- */

enum { DECIMALS_MOST = 9, DIGITS_MOST = 15 };

/* A weight: digits × 10^−decimals. */
typedef struct Weight {
    uint64_t digits;
    int decimals;
} Weight;

/* How many characters of text are a number that a comma or the end follows; 0: none. A sign or an exponent is let in, to be
 * refused as a weight and not taken for a part of a name. */
static size_t number_length(const char *text) {
    const size_t sign = *text == '-' || *text == '+', length = sign + strspn(text + sign, "0123456789.eE");
    const bool has_digit = strpbrk(text, "0123456789") && strpbrk(text, "0123456789") < text + length;
    return has_digit && (text[length] == ',' || !text[length]) ? length : 0;
}

/* What stands in a weight's place and is none: the first colon's word, up to a comma or the end. A / makes it a part of a path,
 * but for 1/3. */
static const char *find_wrong_weight(const char *text, int *length) {
    for (const char *at = text; (at = strchr(at, ':')); at++) {
        const size_t word = strcspn(at + 1, ",");
        *length = (int)word;
        if (!memchr(at + 1, '/', word) || strspn(at + 1, "0123456789./") == word) return at + 1;
    }
    return NULL;
}

static bool read_weight(const char *text, size_t length, Weight *weight, Error *error) {
    int seen = 0;
    bool point = false;
    *weight = (Weight){0};
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '.' && !point) {
            point = true;
            continue;
        }
        if (text[i] < '0' || text[i] > '9') return error_set(error, "weight '%.*s' is no positive decimal number", (int)length, text);
        if (++seen > DIGITS_MOST || (weight->decimals += point) > DECIMALS_MOST)
            return error_set(error, "weight '%.*s' has more than %d digits, or %d behind the point", (int)length, text, DIGITS_MOST,
                             DECIMALS_MOST);
        weight->digits = weight->digits * 10 + (uint64_t)(text[i] - '0');
    }
    if (!weight->digits) return error_set(error, "weight '%.*s' is not above 0", (int)length, text);
    return true;
}

/* All weights as whole numbers without a common divisor. */
static bool make_whole(const Weight *weights, size_t n, uint64_t *whole, Error *error) {
    int decimals = 0;
    uint64_t divisor = 0, sum = 0;
    for (size_t i = 0; i < n; i++) decimals = weights[i].decimals > decimals ? weights[i].decimals : decimals;
    for (size_t i = 0; i < n; i++) {
        whole[i] = weights[i].digits;
        for (int d = weights[i].decimals; d < decimals; d++)
            if (__builtin_mul_overflow(whole[i], 10, &whole[i])) return error_set(error, "the weights differ too much in size");
        if (__builtin_add_overflow(sum, whole[i], &sum)) return error_set(error, "the weights are too large");
        uint64_t a = whole[i], b = divisor;
        while (b) {
            const uint64_t rest = a % b;
            a = b, b = rest;
        }
        divisor = a;
    }
    for (size_t i = 0; i < n; i++) whole[i] /= divisor;
    return true;
}

/* The nearest shares of 2^20 parts, none 0: what rounding down leaves goes to the largest remainders. */
static void round_shares(const uint64_t *whole, size_t n, double sum, uint32_t *parts) {
    double rest[TURNS_SOURCES_MOST];
    int64_t left = TURNS_MOST;
    size_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        const double exact = (double)whole[i] / sum * TURNS_MOST;
        parts[i] = exact < 1 ? 1 : (uint32_t)exact;
        rest[i] = exact - parts[i];
        left -= parts[i];
        if (whole[i] > whole[largest]) largest = i;
    }
    for (; left > 0; left--) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            if (rest[i] > rest[best]) best = i;
        parts[best]++;
        rest[best] -= 1;
    }
    parts[largest] = (uint32_t)((int64_t)parts[largest] + left); /* what tiny shares were given beyond theirs */
}

static bool make_parts(const Weight *weights, size_t n, uint32_t *parts, Error *error) {
    uint64_t whole[TURNS_SOURCES_MOST], sum = 0;
    if (!make_whole(weights, n, whole, error)) return false;
    for (size_t i = 0; i < n; i++) sum += whole[i];
    if (sum > TURNS_MOST) round_shares(whole, n, (double)sum, parts);
    for (size_t i = 0; i < n && sum <= TURNS_MOST; i++) parts[i] = (uint32_t)whole[i];
    return true;
}

/* The last source ends without a number. */
static bool refuse_unweighted(const char *source, Error *error) {
    int length;
    const char *wrong = find_wrong_weight(source, &length);
    if (!wrong) return error_set(error, "'%.60s' has no weight; each source of a mixture has one, PATTERN:WEIGHT", source);
    return error_set(error, "weight '%.*s' of '%.60s' is no positive decimal number", length < 60 ? length : 60, wrong, source);
}

static bool refuse(MixtureText *mixture) {
    mixture_text_free(mixture);
    return false;
}

bool mixture_parse(const char *text, MixtureText *mixture, Error *error) {
    Weight weights[TURNS_SOURCES_MOST];
    const char *begin = text;
    *mixture = (MixtureText){0};
    for (const char *at = text; *at; at++) {
        const size_t length = *at == ':' ? number_length(at + 1) : 0;
        if (!length) continue;
        if (mixture->sources == TURNS_SOURCES_MOST)
            return error_set(error, "more than %d sources", TURNS_SOURCES_MOST), refuse(mixture);
        if (at == begin) return error_set(error, "'%.60s': a weight without a source before it", begin), refuse(mixture);
        if (!read_weight(at + 1, length, &weights[mixture->sources], error)) return refuse(mixture);
        const size_t bytes = (size_t)(at - begin);
        char *pattern = must_malloc(bytes + 1, "a source of a mixture");
        memcpy(pattern, begin, bytes);
        pattern[bytes] = '\0';
        mixture->pattern[mixture->sources++] = pattern;
        at += length;
        if (at[1] == ',') at++;
        begin = at + 1;
    }
    if (!mixture->sources) return true;
    if (*begin) return refuse_unweighted(begin, error), refuse(mixture);
    if (begin[-1] == ',') return error_set(error, "the mixture ends with a comma"), refuse(mixture);
    return make_parts(weights, mixture->sources, mixture->parts, error) || refuse(mixture);
}

void mixture_text_free(MixtureText *mixture) {
    for (size_t i = 0; i < mixture->sources; i++) free(mixture->pattern[i]);
    *mixture = (MixtureText){0};
}

/* ------------------------------------------------------------------------------------------------------
 * The set
 * ---------------------------------------------------------------------------------------------------- */

/* Puts the shards of `more` behind those of set; they are its own then. */
static void append(ShardSet *set, ShardSet *more, char *pattern, uint32_t parts) {
    Shard *all = realloc(set->shards, (set->n_shards + more->n_shards) * sizeof *all);
    require(all, "out of memory for the list of shards");
    memcpy(all + set->n_shards, more->shards, more->n_shards * sizeof *all);
    set->shards = all;
    set->sources[set->n_sources++] = (ShardSource){.pattern = pattern, .first_shard = set->n_shards, .n_shards = more->n_shards,
                                                   .n_tokens = more->n_tokens, .parts = parts};
    set->n_shards += more->n_shards;
    set->n_tokens += more->n_tokens;
    free(more->shards);
}

/* One source; where it matches nothing, a word in a weight's place may be why (a:nan,b). */
static bool open_source(ShardSet *set, const char *pattern, Error *error) {
    int length;
    if (shard_set_open(set, pattern, error)) return true;
    const char *wrong = shard_set_matches(pattern) ? NULL : find_wrong_weight(pattern, &length);
    if (!wrong) return false;
    return error_set(error, "no file matches '%.300s', and '%.*s' is no weight: in PATTERN:WEIGHT that is a positive decimal number", pattern,
                     length < 60 ? length : 60, wrong);
}

static bool open_sources(ShardSet *set, MixtureText *mixture, Error *error) {
    set->sources = must_calloc(mixture->sources, sizeof *set->sources, "the sources of a mixture");
    for (size_t i = 0; i < mixture->sources; i++) {
        ShardSet one;
        if (!open_source(&one, mixture->pattern[i], error)) return false;
        append(set, &one, mixture->pattern[i], mixture->parts[i]);
        mixture->pattern[i] = NULL; /* the set's now */
    }
    SetFacts facts;
    return sidecar_facts(set, &facts, error); /* one tokenizer */
}

bool mixture_is_meant(const char *text) {
    MixtureText mixture;
    struct stat status;
    Error ignored;
    if (lstat(text, &status) == 0) return false;
    const bool is = !mixture_parse(text, &mixture, &ignored) || mixture.sources;
    mixture_text_free(&mixture);
    return is;
}

bool mixture_open(ShardSet *set, const char *text, Error *error) {
    MixtureText mixture;
    struct stat status;
    *set = (ShardSet){0};
    if (lstat(text, &status) == 0) return shard_set_open(set, text, error);
    if (!mixture_parse(text, &mixture, error)) return false;
    if (!mixture.sources) return open_source(set, text, error);
    const bool good = open_sources(set, &mixture, error);
    mixture_text_free(&mixture);
    if (!good) shard_set_close(set);
    return good;
}
