/*
 * fuzz_json.c: is what the reader of JSON accepts JSON, one object of unique fields, and read as what it says?
 * (src/base/json.h) And as the NAME.json of a set, facts of a tokenizer that there can be? (src/data/sidecar.h)
 */
#include "fuzz.h"
#include "../../src/base/json.h"
#include "../../src/data/sidecar.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FIELDS_MOST = 50 }; /* looking a field up passes over those before it */

static void check_fields(const cJSON *object) {
    const cJSON *item;
    int left = FIELDS_MOST;
    cJSON_ArrayForEach(item, object) {
        if (left-- == 0) break;
        const char *name = item->string;
        Error error = {0};
        double number;
        int64_t integer;
        PROMISE(cJSON_GetObjectItemCaseSensitive(object, name) == item); /* the first of its name */
        if (!json_number(object, name, -1e3, 1e300, &number, &error)) {
            fuzz_check_error(&error);
            PROMISE(!cJSON_IsNumber(item) || !(item->valuedouble >= -1e3 && item->valuedouble <= 1e300));
        } else
            PROMISE(number >= -1e3 && number <= 1e300);
        if (json_integer(object, name, -9, INT64_C(1) << 53, &integer, &error))
            PROMISE(integer >= -9 && integer <= INT64_C(1) << 53 && (double)integer == item->valuedouble);
        const char *text = json_text(object, name, &error);
        PROMISE((text != NULL) == (cJSON_IsString(item) != 0));
    }
}

static bool is_finite(const cJSON *value) {
    const cJSON *item;
    if (cJSON_IsNumber(value) && !isfinite(value->valuedouble)) return false;
    cJSON_ArrayForEach(item, value) if (!is_finite(item)) return false;
    return true;
}

static bool same_text(const char *a, const char *b) {
    return a && b ? strcmp(a, b) == 0 : a == b;
}

/* Within what cJSON's 15 digits leave of a number. (cJSON_Compare looks up every field of an object among all.) */
static bool same(const cJSON *a, const cJSON *b) {
    const double x = a->valuedouble, y = b->valuedouble;
    if (a->type != b->type || !same_text(a->string, b->string) || !same_text(a->valuestring, b->valuestring) ||
        fabs(x - y) > DBL_EPSILON * fmax(fabs(x), fabs(y)))
        return false;
    for (a = a->child, b = b->child; a && b; a = a->next, b = b->next)
        if (!same(a, b)) return false;
    return a == b;
}

/* Printed and read again it is the same; but cJSON prints an infinity, as of 1e999, as null. */
static void check_printed(const cJSON *object) {
    char *text = cJSON_Print(object);
    Error error;
    PROMISE(text);
    cJSON *again = json_parse(text, strlen(text), &error);
    PROMISE(again && (!is_finite(object) || same(object, again)));
    cJSON_Delete(again);
    cJSON_free(text);
}

static void check_facts(const cJSON *object) {
    SetFacts *facts = calloc(1, sizeof *facts);
    Error error = {0};
    if (sidecar_parse(object, facts, &error)) {
        const int64_t most = INT64_C(2147483584), V = facts->vocab_size;
        PROMISE(V >= 0 && V <= most && facts->end_of_document >= -1 && facts->end_of_document < (V ? V : most));
        PROMISE(facts->tokenizer[0] && memchr(facts->tokenizer, 0, TOKENIZER_NAME) && !strpbrk(facts->tokenizer, " \n\x1b"));
        PROMISE(!facts->tokenizer_sha256[0] || strspn(facts->tokenizer_sha256, "0123456789abcdef") == SHA256_HEX - 1);
    } else
        fuzz_check_error(&error);
    free(facts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error error = {0};
    cJSON *object = json_parse(fuzz_edge(data, size), size, &error);
    if (!object) {
        fuzz_check_error(&error);
        return 0;
    }
    PROMISE(fuzz_is_json(data, size, NULL) && cJSON_IsObject(object));
    check_fields(object);
    check_printed(object);
    check_facts(object);
    cJSON_Delete(object);
    return 0;
}
