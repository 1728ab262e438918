/* items_file.c: a file of questions, row by row. See items.h. */
#define _GNU_SOURCE
#include "items.h"
#include "../base/file.h"
#include "../base/file_kind.h"
#include "../base/json.h"

#include <stdlib.h>

enum { PIECE = 1 << 20 }; /* bytes a read */

struct ItemReader {
    const char *path;
    const ItemRules *rules;
    int file;
    uint64_t size, offset; /* of the file; of the next read */
    char *text;         /* what was read and not used yet: [begin, end) */
    size_t begin, end, room;
    int64_t row;        /* of the row that comes */
    int kind;           /* of the first item; −1 before it */
    bool at_end;
    char tokenizer[65];
};

ItemReader *item_reader_open(const char *path, const ItemRules *rules, Error *error) {
    uint64_t size;
    int file = file_open(path, &size, error);
    if (file < 0) return NULL;
    ItemReader *reader = must_calloc(1, sizeof *reader, "a file of items");
    *reader = (ItemReader){.path = path, .rules = rules, .file = file, .size = size, .row = 1, .kind = -1};
    return reader;
}

void item_reader_close(ItemReader *reader) {
    if (!reader) return;
    close(reader->file);
    free(reader->text);
    free(reader);
}

const char *item_reader_tokenizer(const ItemReader *reader) { return reader->tokenizer; }

double item_reader_share(const ItemReader *reader) {
    return reader->offset < reader->size ? (double)reader->offset / (double)reader->size : 1;
}

/* More of the file behind what is there; false with *error set where it cannot be read. */
static bool read_more(ItemReader *r, Error *error) {
    if (r->begin > 0) memmove(r->text, r->text + r->begin, r->end - r->begin);
    r->end -= r->begin, r->begin = 0;
    if (r->room - r->end < PIECE) {
        char *text = realloc(r->text, r->room = r->end + 2 * PIECE);
        require(text, "out of memory: a row of %zu bytes", r->end);
        r->text = text;
    }
    ssize_t got = file_read(r->file, r->text + r->end, PIECE, r->offset);
    if (got < 0) return error_set(error, "%s: cannot read: %s", r->path, strerror(errno));
    r->at_end = got < PIECE;
    r->end += (size_t)got, r->offset += (uint64_t)got;
    return true;
}

/* The next line, without its end; false at the end of the file. */
static bool next_line(ItemReader *r, const char **line, size_t *size, Error *error) {
    for (size_t seen = 0;;) {
        const char *from = r->text + r->begin;
        const char *newline = r->text ? memchr(from + seen, '\n', r->end - r->begin - seen) : NULL;
        const bool whole = newline || (r->at_end && r->end > r->begin);
        seen = newline ? (size_t)(newline - from) : r->end - r->begin;
        if (seen > ITEM_ROW_MOST)
            return error_set(error, "%s, row %lld: longer than %d MiB", r->path, (long long)r->row,
                             ITEM_ROW_MOST >> 20);
        if (whole) {
            *line = from, *size = seen;
            r->begin += seen + (newline ? 1 : 0);
            return true;
        }
        if (r->at_end || !read_more(r, error)) return false;
    }
}

static bool is_empty(const char *line, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') return false;
    return true;
}

/* What was wrong with a row, and, of a first one, what the file seems to be instead. */
static bool refuse(const ItemReader *r, const Error *why, Error *error) {
    FileKind kind = r->kind < 0 ? file_kind_at(r->path) : (FileKind){0};
    if (kind.name && kind.holds != FILE_HOLDS_TEXT)
        return error_set(error, "%s, row %lld: %s; the file seems to be %s", r->path, (long long)r->row, why->text,
                         kind.name);
    return error_set(error, "%s, row %lld: %s", r->path, (long long)r->row, why->text);
}

/* A first row that is no item. */
static bool is_header(const ItemReader *r, const char *line, size_t size) {
    static const char NAME[] = "\"tokenizer_sha256\"";
    return r->kind < 0 && !r->tokenizer[0] && memmem(line, size, NAME, sizeof NAME - 1);
}

static bool read_header(ItemReader *r, const char *line, size_t size, Error *why) {
    cJSON *row = json_parse(line, size, why);
    const char *hash = row ? json_text(row, "tokenizer_sha256", why) : NULL;
    bool good = hash && cJSON_GetArraySize(row) == 1 && strlen(hash) == sizeof r->tokenizer - 1 &&
                strspn(hash, "0123456789abcdef") == sizeof r->tokenizer - 1;
    if (good) memcpy(r->tokenizer, hash, sizeof r->tokenizer);
    else if (hash) error_set(why, "'tokenizer_sha256' stands alone in its row, and is 64 hexadecimal digits");
    cJSON_Delete(row);
    return good;
}

bool item_next(ItemReader *r, Item *item, int64_t *row, Error *error) {
    const char *line = NULL;
    size_t size = 0;
    Error why = {0};
    for (; next_line(r, &line, &size, error); r->row++) {
        if (is_empty(line, size)) continue;
        if (is_header(r, line, size)) {
            if (!read_header(r, line, size, &why)) return refuse(r, &why, error);
            continue;
        }
        if (!item_parse(line, size, r->rules, item, &why)) return refuse(r, &why, error);
        if (r->kind >= 0 && r->kind != item->last_word) {
            item_free(item);
            error_set(&why, "%s in a file of %s", r->kind ? "choices" : "a last word",
                      r->kind ? "last words" : "choices");
            return refuse(r, &why, error);
        }
        r->kind = item->last_word;
        *row = r->row++;
        return true;
    }
    return false;
}
