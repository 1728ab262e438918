/*
 * cJSON.h: the part of cJSON's interface that this project uses, for machines without that library (README.md).
 * Implemented in ../../json.c. Numbers are doubles; nesting is at most 1000 deep; \u0000 in a text is refused.
 */
#ifndef STANDALONE_CJSON_H
#define STANDALONE_CJSON_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { cJSON_False = 1, cJSON_True = 2, cJSON_NULL = 4, cJSON_Number = 8, cJSON_String = 16, cJSON_Array = 32,
       cJSON_Object = 64, cJSON_Raw = 128 };

typedef int cJSON_bool;

typedef struct cJSON {
    struct cJSON *next, *prev, *child; /* the first child's prev is the last one */
    int type;
    char *valuestring;
    double valuedouble;
    char *string; /* the name, of an object's member */
} cJSON;

/* The rest of the text begins at *end; on failure NULL, and *end is near the place. */
cJSON *cJSON_ParseWithLengthOpts(const char *text, size_t size, const char **end, cJSON_bool whole);
char *cJSON_Print(const cJSON *item);
char *cJSON_PrintUnformatted(const cJSON *item);
void cJSON_Delete(cJSON *item);
void cJSON_free(void *memory);

cJSON *cJSON_CreateObject(void);
cJSON *cJSON_CreateArray(void);
cJSON *cJSON_CreateNumber(double number);
cJSON *cJSON_CreateString(const char *text);
cJSON *cJSON_CreateRaw(const char *text);
cJSON *cJSON_CreateStringArray(const char *const *texts, int count);

cJSON_bool cJSON_AddItemToArray(cJSON *array, cJSON *item);
cJSON_bool cJSON_AddItemToObject(cJSON *object, const char *name, cJSON *item);
cJSON *cJSON_AddNumberToObject(cJSON *object, const char *name, double number);
cJSON *cJSON_AddStringToObject(cJSON *object, const char *name, const char *text);
cJSON *cJSON_AddBoolToObject(cJSON *object, const char *name, cJSON_bool value);
cJSON *cJSON_AddNullToObject(cJSON *object, const char *name);
cJSON *cJSON_AddRawToObject(cJSON *object, const char *name, const char *text);
cJSON *cJSON_AddObjectToObject(cJSON *object, const char *name);
cJSON *cJSON_AddArrayToObject(cJSON *object, const char *name);
cJSON *cJSON_Duplicate(const cJSON *item, cJSON_bool recurse);
cJSON *cJSON_DetachItemViaPointer(cJSON *parent, cJSON *item);

int cJSON_GetArraySize(const cJSON *array);
cJSON *cJSON_GetArrayItem(const cJSON *array, int index);
char *cJSON_GetStringValue(const cJSON *item); /* NULL where it is no text */
cJSON_bool cJSON_Compare(const cJSON *a, const cJSON *b, cJSON_bool case_sensitive);
cJSON *cJSON_GetObjectItemCaseSensitive(const cJSON *object, const char *name);
cJSON_bool cJSON_IsObject(const cJSON *item);
cJSON_bool cJSON_IsArray(const cJSON *item);
cJSON_bool cJSON_IsNumber(const cJSON *item);
cJSON_bool cJSON_IsString(const cJSON *item);
cJSON_bool cJSON_IsNull(const cJSON *item);
cJSON_bool cJSON_IsBool(const cJSON *item);
cJSON_bool cJSON_IsTrue(const cJSON *item);

#define cJSON_ArrayForEach(item, array) \
    for (item = (array) != NULL ? (array)->child : NULL; item != NULL; item = item->next)

#ifdef __cplusplus
}
#endif

#endif
