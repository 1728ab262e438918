/* fingerprint.c: see fingerprint.h. */
#define _GNU_SOURCE
#include "fingerprint.h"
#include "../base/checksum.h"
#include "../base/file.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { WHOLE_BYTES = 1 << 16, SAMPLES = 4, SAMPLE_BYTES = 512 };

/* ------------------------------------------------------------------------------------------------------
 * Taking
 * ---------------------------------------------------------------------------------------------------- */

static bool add_piece(int fd, const Shard *shard, uint64_t offset, size_t size, uint64_t *sum, Error *error) {
    static _Thread_local unsigned char bytes[WHOLE_BYTES];
    const ssize_t n = file_read(fd, bytes, size, shard->header.first_byte + offset);
    if (n != (ssize_t)size)
        return error_set(error, "%s: byte %" PRIu64 ": cannot read: %s", shard->path, shard->header.first_byte + offset,
                         n < 0 ? strerror(errno) : "the file ends here");
    *sum = checksum(*sum, bytes, size);
    return true;
}

static bool take_shard(const Shard *shard, ShardPrint *print, Error *error) {
    const uint64_t size = shard->header.n_tokens * shard->header.token_bytes;
    uint64_t ignored;
    *print = (ShardPrint){.n_tokens = shard->header.n_tokens, .token_bytes = shard->header.token_bytes};
    const int fd = file_open(shard->path, &ignored, error);
    if (fd < 0) return false;
    bool good = true;
    if (size <= WHOLE_BYTES) good = add_piece(fd, shard, 0, (size_t)size, &print->checksum, error);
    else
        for (uint64_t i = 0; good && i < SAMPLES; i++)
            good = add_piece(fd, shard, (size - SAMPLE_BYTES) * i / (SAMPLES - 1), SAMPLE_BYTES,
                             &print->checksum, error);
    close(fd);
    return good;
}

/* The list of the set whose shards are being read. */
typedef struct Listing {
    char path[PATH_SIZE];
    cJSON *object; /* NULL: none that can be read */
} Listing;

/* A shard as one word; the same in a fingerprint's text and in data/shards.py's NAME.json. */
static void describe_print(const ShardPrint *print, char text[80]) {
    snprintf(text, 80, "%" PRIu64 "x%" PRIu64 ":%016" PRIx64, print->n_tokens, print->token_bytes, print->checksum);
}

/* Whether a shard is the one that its set's list tells of, where that has such words. */
static bool is_listed_so(const Shard *shard, const ShardPrint *print, Listing *listing, Error *error) {
    char path[PATH_SIZE], text[80];
    const char *slash = strrchr(shard->path, '/'), *name = slash ? slash + 1 : shard->path;
    SetPart part;
    bool there;
    Error ignored = {0};
    if (!sidecar_part(shard->path, &part) || !sidecar_path(&part, path)) return true;
    if (strcmp(path, listing->path)) { /* sorted by path, those of one set stand together */
        memcpy(listing->path, path, sizeof path);
        cJSON_Delete(listing->object);
        listing->object = sidecar_json(path, &there, &ignored);
    }
    const cJSON *prints = cJSON_GetObjectItemCaseSensitive(listing->object, "shard_prints");
    const cJSON *said = cJSON_GetObjectItemCaseSensitive(prints, name);
    if (!said) return true;
    describe_print(print, text);
    return (cJSON_IsString(said) && strcmp(said->valuestring, text) == 0) ||
           error_set(error, "%s: not the shard that %s lists (%s, and there %.60s): damaged, or another of that name", shard->path,
                     path, text, cJSON_IsString(said) ? said->valuestring : "no text");
}

/* A set without such a file, or with a wrong one, is none the worse here. */
static void name_tokenizer(const ShardSet *set, Fingerprint *f) {
    SetFacts facts;
    Error ignored = {0};
    const bool known = sidecar_facts(set, &facts, &ignored);
    snprintf(f->tokenizer, sizeof f->tokenizer, "%s", known ? facts.tokenizer : "?");
    if (known) memcpy(f->tokenizer_sha256, facts.tokenizer_sha256, sizeof f->tokenizer_sha256);
}

bool fingerprint_take(const ShardSet *set, Fingerprint *f, Error *error) {
    ShardPrint *prints = must_calloc(set->n_shards, sizeof *prints, "a fingerprint");
    Listing listing = {0};
    bool good = true;
    *f = (Fingerprint){.n_shards = set->n_shards, .n_tokens = set->n_tokens};
    for (size_t i = 0; good && i < set->n_shards; i++) {
        good = take_shard(&set->shards[i], &prints[i], error) && is_listed_so(&set->shards[i], &prints[i], &listing, error);
        f->checksum = checksum(f->checksum, &prints[i], sizeof prints[i]);
    }
    cJSON_Delete(listing.object);
    if (!good) {
        free(prints);
        return false;
    }
    name_tokenizer(set, f);
    f->shards = prints;
    if (set->n_shards > FINGERPRINT_LISTED) free(f->shards), f->shards = NULL;
    f->n_sources = set->n_sources;
    if (f->n_sources) f->sources = must_calloc(f->n_sources, sizeof *f->sources, "a fingerprint");
    for (size_t i = 0; i < f->n_sources; i++) f->sources[i] = (SourcePrint){set->sources[i].parts, set->sources[i].n_shards};
    return true;
}

void fingerprint_free(Fingerprint *f) {
    free(f->shards);
    free(f->sources);
    f->shards = NULL;
    f->sources = NULL;
    f->n_sources = 0;
}

/* ------------------------------------------------------------------------------------------------------
 * As text
 * ---------------------------------------------------------------------------------------------------- */

char *fingerprint_text(const Fingerprint *f) {
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    require(out, "out of memory for a fingerprint");
    fprintf(out, "tokenizer=%s%s%s shards=%" PRIu64 " tokens=%" PRIu64 " crc64=%016" PRIx64, f->tokenizer,
            f->tokenizer_sha256[0] ? " sha256=" : "", f->tokenizer_sha256, f->n_shards, f->n_tokens, f->checksum);
    for (size_t i = 0; i < f->n_sources; i++)
        fprintf(out, "%s%" PRIu64 "x%" PRIu64, i ? "," : " mixture=", f->sources[i].parts, f->sources[i].n_shards);
    for (uint64_t i = 0; f->shards && i < f->n_shards; i++) {
        char word[80];
        describe_print(&f->shards[i], word);
        fprintf(out, " %s", word);
    }
    require(fclose(out) == 0, "out of memory for a fingerprint");
    return text;
}

/* The sources, where there are some, up to what follows them. */
static bool parse_sources(const char **at, Fingerprint *f) {
    static const char NAME[] = " mixture=";
    uint64_t shards = 0;
    if (strncmp(*at, NAME, strlen(NAME))) return true;
    *at += strlen(NAME);
    f->sources = must_calloc(TURNS_SOURCES_MOST, sizeof *f->sources, "a fingerprint");
    for (bool more = true; more; *at += more) {
        int used = 0;
        if (f->n_sources == TURNS_SOURCES_MOST) return false;
        SourcePrint *source = &f->sources[f->n_sources++];
        if (sscanf(*at, "%7" SCNu64 "x%10" SCNu64 "%n", &source->parts, &source->n_shards, &used) != 2 || !used ||
            !source->parts || !source->n_shards)
            return false;
        *at += used;
        shards += source->n_shards;
        more = **at == ',';
    }
    return shards == f->n_shards;
}

static bool parse_shards(const char *at, Fingerprint *f) {
    uint64_t tokens = 0, sum = 0;
    if (f->n_shards == 0 || f->n_shards > FINGERPRINT_LISTED) return f->n_shards && !*at;
    f->shards = must_calloc(f->n_shards, sizeof *f->shards, "a fingerprint");
    for (uint64_t i = 0; i < f->n_shards; i++) {
        ShardPrint *print = &f->shards[i];
        int used = 0;
        if (sscanf(at, " %19" SCNu64 "x%1" SCNu64 ":%16" SCNx64 "%n", &print->n_tokens, &print->token_bytes,
                   &print->checksum, &used) != 3 || !used || print->n_tokens > INT64_MAX / FINGERPRINT_LISTED ||
            !print->token_bytes || print->token_bytes > 8 || (print->token_bytes & (print->token_bytes - 1)))
            return false;
        at += used;
        tokens += print->n_tokens;
        sum = checksum(sum, print, sizeof *print);
    }
    return !*at && tokens == f->n_tokens && sum == f->checksum;
}

/* Moves *at behind what is there of the tokenizer. */
static bool parse_tokenizer(const char **at, Fingerprint *f) {
    int used = 0;
    if (sscanf(*at, "tokenizer=%63[A-Za-z0-9?._+/:-]%n", f->tokenizer, &used) != 1 || !used) return false;
    *at += used;
    if (strncmp(*at, " sha256=", 8)) return true;
    used = 0;
    if (sscanf(*at, " sha256=%64[0-9a-f]%n", f->tokenizer_sha256, &used) != 1) return false;
    *at += used;
    return used && strlen(f->tokenizer_sha256) == SHA256_HEX - 1;
}

bool fingerprint_parse(const char *text, Fingerprint *f, Error *error) {
    int used = 0;
    const char *at = text;
    *f = (Fingerprint){0};
    bool good = parse_tokenizer(&at, f) &&
                sscanf(at, " shards=%10" SCNu64 " tokens=%19" SCNu64 " crc64=%16" SCNx64 "%n", &f->n_shards, &f->n_tokens,
                       &f->checksum, &used) == 3 &&
                used && (at += used, parse_sources(&at, f)) && parse_shards(at, f);
    if (good) { /* scanf takes blanks, zeros and signs of many kinds: one text alone is right */
        char *again = fingerprint_text(f);
        good = strcmp(text, again) == 0;
        free(again);
    }
    if (good) return true;
    fingerprint_free(f);
    return error_set(error, "'%.60s…' is no fingerprint of a set of shards", text);
}

/* ------------------------------------------------------------------------------------------------------
 * Comparing
 * ---------------------------------------------------------------------------------------------------- */

static bool same_shard(const ShardPrint *a, const ShardPrint *b) { return memcmp(a, b, sizeof *a) == 0; }

/* Whether the longer list is the shorter one with some more among it; *first is where the first of those stands. */
static bool holds_all(const Fingerprint *longer, const Fingerprint *shorter, uint64_t *first) {
    uint64_t found = 0;
    *first = longer->n_shards;
    for (uint64_t i = 0; i < longer->n_shards; i++)
        if (found < shorter->n_shards && same_shard(&longer->shards[i], &shorter->shards[found])) found++;
        else if (*first == longer->n_shards) *first = i;
    return found == shorter->n_shards;
}

static bool describe_lists(const Fingerprint *then, const Fingerprint *now, const ShardSet *set, char *text, size_t size) {
    uint64_t first = 0;
    if (now->n_shards > then->n_shards && holds_all(now, then, &first))
        return snprintf(text, size, "%" PRIu64 " of %" PRIu64 " shards are new%s, the first of them %s",
                        now->n_shards - then->n_shards, now->n_shards, first == then->n_shards ? ", at the end" : "",
                        set->shards[first].path) > 0;
    if (now->n_shards < then->n_shards && holds_all(then, now, &first))
        return snprintf(text, size, "%" PRIu64 " of %" PRIu64 " shards are missing, the first of them number %" PRIu64
                        ", of %" PRIu64 " tokens", then->n_shards - now->n_shards, then->n_shards, first + 1,
                        then->shards[first].n_tokens) > 0;
    for (first = 0; first < now->n_shards && first < then->n_shards; first++)
        if (!same_shard(&now->shards[first], &then->shards[first])) break;
    if (first == now->n_shards || first == then->n_shards) return false;
    const ShardPrint *before = &then->shards[first], *after = &now->shards[first];
    if (before->n_tokens == after->n_tokens && before->token_bytes == after->token_bytes)
        return snprintf(text, size, "shard %" PRIu64 " of %" PRIu64 ", %s, holds other tokens", first + 1, now->n_shards,
                        set->shards[first].path) > 0;
    return snprintf(text, size, "shard %" PRIu64 " of %" PRIu64 ", %s, has %" PRIu64 " tokens of %" PRIu64
                    " bytes; it had %" PRIu64 " of %" PRIu64, first + 1, now->n_shards, set->shards[first].path,
                    after->n_tokens, after->token_bytes, before->n_tokens, before->token_bytes) > 0;
}

static bool same_sources(const Fingerprint *a, const Fingerprint *b) {
    return a->n_sources == b->n_sources && (!a->n_sources || memcmp(a->sources, b->sources, a->n_sources * sizeof *a->sources) == 0);
}

/* Writes behind the `used` bytes of a text, as far as there is room; returns what is used then. */
static size_t append(char *text, size_t size, size_t used, const char *format, ...) CHECK_PRINTF(4, 5);

static size_t append(char *text, size_t size, size_t used, const char *format, ...) {
    va_list args;
    va_start(args, format);
    used += (size_t)vsnprintf(text + used, size - used, format, args);
    va_end(args);
    return used < size ? used : size - 1;
}

/* "0.7 of 12 shards, 0.3 of 4 shards". */
static size_t describe_sources(const Fingerprint *f, char *text, size_t size, size_t used) {
    enum { LISTED = 8 };
    double parts = 0;
    if (!f->n_sources) return append(text, size, used, "no mixture");
    for (size_t i = 0; i < f->n_sources; i++) parts += (double)f->sources[i].parts;
    for (size_t i = 0; i < f->n_sources && i < LISTED; i++)
        used = append(text, size, used, "%s%.6g of %" PRIu64 " shard%s", i ? ", " : "", (double)f->sources[i].parts / parts,
                      f->sources[i].n_shards, f->sources[i].n_shards == 1 ? "" : "s");
    return f->n_sources > LISTED ? append(text, size, used, ", …") : used;
}

static size_t describe_shares(const Fingerprint *then, const Fingerprint *now, char *text, size_t size) {
    size_t used = append(text, size, 0, "the shares are ");
    used = describe_sources(now, text, size, used);
    return describe_sources(then, text, size, append(text, size, used, "; they were "));
}

bool fingerprint_differs(const Fingerprint *then, const Fingerprint *now, const ShardSet *set, char *text, size_t size) {
    size_t used = 0;
    const bool other = then->tokenizer_sha256[0] && now->tokenizer_sha256[0] &&
                       strcmp(then->tokenizer_sha256, now->tokenizer_sha256);
    const bool same = then->n_shards == now->n_shards && then->n_tokens == now->n_tokens && then->checksum == now->checksum;
    const bool shares = !same_sources(then, now);
    if (same && !other && !shares) return false;
    if (shares) used = describe_shares(then, now, text, size);
    if (shares && (other || !same)) used = append(text, size, used, "; ");
    if (other)
        used += (size_t)snprintf(text + used, size - used, "tokenizer %s (sha256 %.8s…) there, %s (%.8s…) here%s", then->tokenizer,
                                 then->tokenizer_sha256, now->tokenizer, now->tokenizer_sha256, same ? "" : "; ");
    else if (strcmp(then->tokenizer, now->tokenizer) && !same)
        used += (size_t)snprintf(text + used, size - used, "tokenizer %s there, %s here; ", then->tokenizer, now->tokenizer);
    if (same) return true;
    if (used >= size) used = size - 1;
    if (!then->shards || !now->shards || !describe_lists(then, now, set, text + used, size - used))
        snprintf(text + used, size - used, "%" PRIu64 " shards of %" PRIu64 " tokens there, %" PRIu64 " of %" PRIu64
                 " here, and the tokens are others", then->n_shards, then->n_tokens, now->n_shards, now->n_tokens);
    return true;
}
