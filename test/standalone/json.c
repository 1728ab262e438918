/* json.c: cJSON's interface, as far as include/cjson/cJSON.h declares it. Memory that cannot be had ends the program. */
#include <cjson/cJSON.h>

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 1000 };

static void *must(void *memory) {
    if (!memory) {
        fprintf(stderr, "out of memory for JSON\n");
        exit(1);
    }
    return memory;
}

static char *copy_text(const char *text, size_t size) {
    char *copy = must(malloc(size + 1));
    memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

/* ------------------------------------------------------------------------------------------------------
 * Items
 * ---------------------------------------------------------------------------------------------------- */

static cJSON *create(int type) {
    cJSON *item = must(calloc(1, sizeof *item));
    item->type = type;
    return item;
}

static cJSON *create_text(int type, const char *text) {
    cJSON *item = create(type);
    item->valuestring = copy_text(text, strlen(text));
    return item;
}

cJSON *cJSON_CreateObject(void) { return create(cJSON_Object); }
cJSON *cJSON_CreateArray(void) { return create(cJSON_Array); }
cJSON *cJSON_CreateString(const char *text) { return create_text(cJSON_String, text); }
cJSON *cJSON_CreateRaw(const char *text) { return create_text(cJSON_Raw, text); }
cJSON *cJSON_CreateNumber(double number) {
    cJSON *item = create(cJSON_Number);
    item->valuedouble = number;
    return item;
}

void cJSON_free(void *memory) { free(memory); }

void cJSON_Delete(cJSON *item) {
    while (item) {
        cJSON *next = item->next;
        cJSON_Delete(item->child);
        free(item->valuestring);
        free(item->string);
        free(item);
        item = next;
    }
}

cJSON_bool cJSON_AddItemToArray(cJSON *array, cJSON *item) {
    item->next = NULL;
    if (array->child) {
        item->prev = array->child->prev;
        item->prev->next = item;
        array->child->prev = item;
    } else {
        array->child = item;
        item->prev = item;
    }
    return 1;
}

cJSON_bool cJSON_AddItemToObject(cJSON *object, const char *name, cJSON *item) {
    char *copy = copy_text(name, strlen(name)); /* first: it may be the item's own */
    free(item->string);
    item->string = copy;
    return cJSON_AddItemToArray(object, item);
}

static cJSON *add(cJSON *object, const char *name, cJSON *item) {
    cJSON_AddItemToObject(object, name, item);
    return item;
}

cJSON *cJSON_AddNumberToObject(cJSON *object, const char *name, double number) {
    return add(object, name, cJSON_CreateNumber(number));
}
cJSON *cJSON_AddStringToObject(cJSON *object, const char *name, const char *text) {
    return add(object, name, cJSON_CreateString(text));
}
cJSON *cJSON_AddBoolToObject(cJSON *object, const char *name, cJSON_bool value) {
    return add(object, name, create(value ? cJSON_True : cJSON_False));
}
cJSON *cJSON_AddNullToObject(cJSON *object, const char *name) { return add(object, name, create(cJSON_NULL)); }
cJSON *cJSON_AddRawToObject(cJSON *object, const char *name, const char *text) {
    return add(object, name, cJSON_CreateRaw(text));
}
cJSON *cJSON_AddObjectToObject(cJSON *object, const char *name) { return add(object, name, cJSON_CreateObject()); }
cJSON *cJSON_AddArrayToObject(cJSON *object, const char *name) { return add(object, name, cJSON_CreateArray()); }

cJSON *cJSON_DetachItemViaPointer(cJSON *parent, cJSON *item) {
    cJSON *last = parent->child->prev;
    if (item == parent->child) parent->child = item->next;
    else item->prev->next = item->next;
    if (item->next) item->next->prev = item->prev;
    else if (parent->child) parent->child->prev = item->prev;
    if (parent->child && item != last) parent->child->prev = last;
    item->next = item->prev = NULL;
    return item;
}

cJSON *cJSON_Duplicate(const cJSON *item, cJSON_bool recurse) {
    cJSON *copy = create(item->type), *child;
    copy->valuedouble = item->valuedouble;
    if (item->valuestring) copy->valuestring = copy_text(item->valuestring, strlen(item->valuestring));
    if (item->string) copy->string = copy_text(item->string, strlen(item->string));
    if (recurse)
        cJSON_ArrayForEach(child, item) cJSON_AddItemToArray(copy, cJSON_Duplicate(child, recurse));
    return copy;
}

cJSON *cJSON_CreateStringArray(const char *const *texts, int count) {
    cJSON *array = cJSON_CreateArray();
    for (int i = 0; i < count; i++) cJSON_AddItemToArray(array, cJSON_CreateString(texts[i]));
    return array;
}

cJSON *cJSON_GetArrayItem(const cJSON *array, int index) {
    cJSON *item;
    cJSON_ArrayForEach(item, array) if (index-- == 0) return item;
    return NULL;
}

char *cJSON_GetStringValue(const cJSON *item) { return cJSON_IsString(item) ? item->valuestring : NULL; }

int cJSON_GetArraySize(const cJSON *array) {
    int size = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, array) size++;
    return size;
}

cJSON *cJSON_GetObjectItemCaseSensitive(const cJSON *object, const char *name) {
    cJSON *item;
    cJSON_ArrayForEach(item, object) if (item->string && strcmp(item->string, name) == 0) return item;
    return NULL;
}

static cJSON_bool is(const cJSON *item, int type) { return item && item->type == type; }
cJSON_bool cJSON_IsObject(const cJSON *item) { return is(item, cJSON_Object); }
cJSON_bool cJSON_IsArray(const cJSON *item) { return is(item, cJSON_Array); }
cJSON_bool cJSON_IsNumber(const cJSON *item) { return is(item, cJSON_Number); }
cJSON_bool cJSON_IsString(const cJSON *item) { return is(item, cJSON_String); }
cJSON_bool cJSON_IsNull(const cJSON *item) { return is(item, cJSON_NULL); }
cJSON_bool cJSON_IsTrue(const cJSON *item) { return is(item, cJSON_True); }
cJSON_bool cJSON_IsBool(const cJSON *item) { return is(item, cJSON_True) || is(item, cJSON_False); }

/* Members of an object in any order; names, of which none comes twice, by their case. */
cJSON_bool cJSON_Compare(const cJSON *a, const cJSON *b, cJSON_bool case_sensitive) {
    if (!a || !b || a->type != b->type) return 0;
    if (cJSON_IsNumber(a)) return a->valuedouble == b->valuedouble;
    if (a->type == cJSON_String || a->type == cJSON_Raw) return strcmp(a->valuestring, b->valuestring) == 0;
    if (cJSON_GetArraySize(a) != cJSON_GetArraySize(b)) return 0;
    const cJSON *item;
    int index = 0;
    cJSON_ArrayForEach(item, a) {
        const cJSON *other = item->string ? cJSON_GetObjectItemCaseSensitive(b, item->string) : cJSON_GetArrayItem(b, index);
        if (!cJSON_Compare(item, other, case_sensitive)) return 0;
        index++;
    }
    return 1;
}

/* ------------------------------------------------------------------------------------------------------
 * Reading
 * ---------------------------------------------------------------------------------------------------- */

typedef struct Reader {
    const char *at, *end;
    int depth;
} Reader;

static void skip_blanks(Reader *r) {
    while (r->at < r->end && *r->at && strchr(" \t\r\n", *r->at)) r->at++;
}

static bool take(Reader *r, const char *word) {
    size_t size = strlen(word);
    if ((size_t)(r->end - r->at) < size || memcmp(r->at, word, size)) return false;
    r->at += size;
    return true;
}

static bool hex4(Reader *r, unsigned *value) {
    *value = 0;
    for (int i = 0; i < 4; i++, r->at++) {
        static const char digits[] = "0123456789abcdefABCDEF";
        const char *digit = r->at < r->end && *r->at ? strchr(digits, *r->at) : NULL;
        if (!digit) return false;
        int d = (int)(digit - digits);
        *value = *value * 16 + (unsigned)(d < 16 ? d : d - 6);
    }
    return true;
}

/* What follows \u, as UTF-8 at *out. */
static bool read_code_point(Reader *r, char **out) {
    unsigned c, low;
    if (!hex4(r, &c) || c == 0 || (c >= 0xdc00 && c < 0xe000)) return false;
    if (c >= 0xd800 && c < 0xdc00) {
        if (!take(r, "\\u") || !hex4(r, &low) || low < 0xdc00 || low >= 0xe000) return false;
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
    }
    int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const unsigned char FIRST[] = {0, 0xc0, 0xe0, 0xf0};
    *(*out)++ = (char)(FIRST[more] | c >> 6 * more);
    while (more-- > 0) *(*out)++ = (char)(0x80 | (c >> 6 * more & 0x3f));
    return true;
}

static char *read_text(Reader *r) {
    if (!take(r, "\"")) return NULL;
    size_t most = 0; /* what is written is never longer than what is read */
    for (const char *p = r->at; p < r->end && *p != '"'; p++, most++)
        if (*p == '\\' && p + 1 < r->end) p++, most++;
    char *text = must(malloc(most + 1)), *out = text;
    while (r->at < r->end && *r->at != '"') {
        static const char NAMES[] = "\"\\/bfnrt", MEANS[] = "\"\\/\b\f\n\r\t";
        if (*r->at != '\\') {
            *out++ = *r->at++;
            continue;
        }
        if (++r->at == r->end || !*r->at) break;
        char c = *r->at++;
        const char *name = strchr(NAMES, c);
        if (name) *out++ = MEANS[name - NAMES];
        else if (c != 'u' || !read_code_point(r, &out)) break;
    }
    *out = '\0';
    if (take(r, "\"")) return text;
    free(text);
    return NULL;
}

static cJSON *read_number(Reader *r) {
    char digits[64];
    size_t n = 0;
    while (r->at + n < r->end && n < sizeof digits - 1 && r->at[n] && strchr("0123456789+-.eE", r->at[n])) n++;
    memcpy(digits, r->at, n);
    digits[n] = '\0';
    char *stop;
    double value = strtod(digits, &stop);
    if (n == 0 || stop == digits) return NULL;
    r->at += stop - digits;
    return cJSON_CreateNumber(value);
}

static cJSON *read_value(Reader *r);

/* The members behind a bracket; an object's have names. */
static bool read_members(Reader *r, cJSON *list, const char *close) {
    bool named = list->type == cJSON_Object;
    skip_blanks(r);
    if (take(r, close)) return true;
    do {
        skip_blanks(r);
        char *name = named ? read_text(r) : NULL;
        bool good = !named || name;
        skip_blanks(r);
        cJSON *item = good && (!named || take(r, ":")) ? read_value(r) : NULL;
        if (!item) {
            free(name);
            return false;
        }
        item->string = name;
        cJSON_AddItemToArray(list, item);
        skip_blanks(r);
    } while (take(r, ","));
    return take(r, close);
}

static cJSON *read_list(Reader *r, int type, const char *close) {
    cJSON *list = create(type);
    bool good = ++r->depth <= DEEPEST && read_members(r, list, close);
    r->depth--;
    if (good) return list;
    cJSON_Delete(list);
    return NULL;
}

static cJSON *read_value(Reader *r) {
    skip_blanks(r);
    if (take(r, "{")) return read_list(r, cJSON_Object, "}");
    if (take(r, "[")) return read_list(r, cJSON_Array, "]");
    if (take(r, "null")) return create(cJSON_NULL);
    if (take(r, "true")) return create(cJSON_True);
    if (take(r, "false")) return create(cJSON_False);
    if (r->at == r->end || *r->at != '"') return read_number(r);
    char *text = read_text(r);
    if (!text) return NULL;
    cJSON *item = create(cJSON_String);
    item->valuestring = text;
    return item;
}

cJSON *cJSON_ParseWithLengthOpts(const char *text, size_t size, const char **end, cJSON_bool whole) {
    Reader r = {.at = text, .end = text + size};
    cJSON *item = read_value(&r);
    if (item && whole) {
        skip_blanks(&r);
        if (r.at < r.end && *r.at) {
            cJSON_Delete(item);
            item = NULL;
        }
    }
    if (end) *end = r.at;
    return item;
}

/* ------------------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------------------- */

static void write_text(FILE *out, const char *text) {
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\') fprintf(out, "\\%c", *c);
        else if (*c < 0x20) fprintf(out, "\\u%04x", *c);
        else fputc(*c, out);
    }
    fputc('"', out);
}

static void write_number(FILE *out, double number) {
    char text[32];
    if (!isfinite(number)) {
        fputs("null", out);
        return;
    }
    snprintf(text, sizeof text, "%.15g", number);
    if (strtod(text, NULL) != number) snprintf(text, sizeof text, "%.17g", number);
    fputs(text, out);
}

static void write_item(FILE *out, const cJSON *item) {
    const cJSON *child;
    const char *comma = "";
    switch (item->type) {
    case cJSON_NULL: fputs("null", out); break;
    case cJSON_False: fputs("false", out); break;
    case cJSON_True: fputs("true", out); break;
    case cJSON_Number: write_number(out, item->valuedouble); break;
    case cJSON_String: write_text(out, item->valuestring); break;
    case cJSON_Raw: fputs(item->valuestring, out); break;
    default:
        fputc(item->type == cJSON_Array ? '[' : '{', out);
        cJSON_ArrayForEach(child, item) {
            fputs(comma, out);
            comma = ",";
            if (item->type == cJSON_Object) {
                write_text(out, child->string);
                fputc(':', out);
            }
            write_item(out, child);
        }
        fputc(item->type == cJSON_Array ? ']' : '}', out);
    }
}

char *cJSON_PrintUnformatted(const cJSON *item) {
    char *text = NULL;
    size_t size;
    FILE *out = must(open_memstream(&text, &size));
    write_item(out, item);
    fclose(out);
    return must(text);
}

char *cJSON_Print(const cJSON *item) { return cJSON_PrintUnformatted(item); }
