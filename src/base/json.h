/*
 * json.h: JSON files of moderate size, read strictly.
 *
 * cJSON takes the first value and lets be what follows it, and keeps the first of two fields of one name;
 * here both are errors, as is what cJSON takes and JSON does not have (json_scan.h), and the whole must be one
 * object.
 */
#ifndef JSON_H
#define JSON_H

#include "check.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Parses bytes; a pure function. NULL with *error set; else the caller cJSON_Delete()s. */
cJSON *json_parse(const char *bytes, size_t size, Error *error);

/* The same of a file that is no symbolic link; the error names it. */
cJSON *json_read(const char *path, size_t most, Error *error);

/* A field that is a number in [least, most]; a whole one. The error names the field and says what it must be.
 */
bool json_number(const cJSON *object, const char *name, double least, double most, double *value,
                 Error *error);
bool json_integer(const cJSON *object, const char *name, int64_t least, int64_t most, int64_t *value,
                  Error *error);

/* The text of a field, or NULL with *error set. */
const char *json_text(const cJSON *object, const char *name, Error *error);

#endif
