/* json.c: see json.h. */
#include "json.h"
#include "directory.h"
#include "json_scan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int compare_texts(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Fields are unique in the object and in all that it holds. (cJSON nests at most 1000 deep.) */
static bool fields_are_unique(const cJSON *value, Error *error) {
    int count = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, value) {
        count++;
        if ((cJSON_IsObject(item) || cJSON_IsArray(item)) && !fields_are_unique(item, error)) return false;
    }
    if (!cJSON_IsObject(value)) return true;
    const char **names = must_calloc((size_t)count, sizeof *names, "the fields of a JSON object");
    int n = 0;
    cJSON_ArrayForEach(item, value) names[n++] = item->string;
    qsort(names, (size_t)n, sizeof *names, compare_texts);
    bool good = true;
    for (int i = 1; good && i < n; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            good = error_set(error, "field '%.100s' stands there twice", names[i]);
    free(names);
    return good;
}

cJSON *json_parse(const char *bytes, size_t size, Error *error) {
    const char *end = NULL;
    size_t at;
    const char *wrong = json_scan((const unsigned char *)bytes, size, &at);
    if (wrong) {
        error_set(error, "no valid JSON at byte %zu: %s", at, wrong);
        return NULL;
    }
    char *copy = must_malloc(size + 1, "a JSON text"); /* with an end: some cJSONs read one byte beyond it */
    memcpy(copy, bytes, size);
    copy[size] = '\0';
    cJSON *object = cJSON_ParseWithLengthOpts(copy, size + 1, &end, 0);
    size_t parsed = (size_t)(end - copy);
    bool good = object || error_set(error, "no valid JSON at byte %zu", parsed);
    parsed += good ? strspn(end, " \t\r\n") : 0;
    good = good && (parsed == size || error_set(error, "more than one JSON value: byte %zu", parsed));
    free(copy);
    good = good && (cJSON_IsObject(object) || error_set(error, "not a JSON object"));
    if (good && fields_are_unique(object, error)) return object;
    cJSON_Delete(object);
    return NULL;
}

cJSON *json_read(const char *path, size_t most, Error *error) {
    size_t size;
    char *bytes = inner_file_read(path, most, &size, error);
    if (!bytes) return NULL;
    Error reason = {0};
    cJSON *object = json_parse(bytes, size, &reason);
    if (!object) error_set(error, "%s: %s", path, reason.text);
    free(bytes);
    return object;
}

bool json_number(const cJSON *object, const char *name, double least, double most, double *value,
                 Error *error) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= least && item->valuedouble <= most))
        return error_set(error, "field '%s' must be a number from %.15g to %.15g", name, least, most);
    *value = item->valuedouble;
    return true;
}

bool json_integer(const cJSON *object, const char *name, int64_t least, int64_t most, int64_t *value,
                  Error *error) {
    double number = 0;
    if (!json_number(object, name, (double)least, (double)most, &number, error)) return false;
    if (number != floor(number))
        return error_set(error, "field '%s' is %.17g, which is not whole", name, number);
    *value = (int64_t)number;
    return true;
}

const char *json_text(const cJSON *object, const char *name, Error *error) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (cJSON_IsString(item)) return item->valuestring;
    error_set(error, "field '%s' must be a text", name);
    return NULL;
}
