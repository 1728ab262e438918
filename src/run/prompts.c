/* prompts.c: see prompts.h. */
#define _GNU_SOURCE
#include "prompts.h"
#include "../base/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MOST = 1 << 24, PROMPTS_MOST = 1 << 20 };

#define ENCODE "scripts/generate.py RUN \"TEXT\" encodes text by the run's tokenizer.json, --generate-tokens takes ids"

/* What turns one prompt into tokens. */
typedef struct Reader {
    const Config *config;
    const TokenBytes *table;
    Prompts *prompts;
} Reader;

static Prompt *next_prompt(Reader *r, int64_t room) {
    Prompts *p = r->prompts;
    if ((p->count & (p->count + 1)) == 0) { /* 0, 1, 3, 7, …: room for as many again and one */
        Prompt *list = realloc(p->list, (2 * p->count + 1) * sizeof *list);
        require(list, "out of memory for %zu prompts", p->count);
        p->list = list;
    }
    Prompt *prompt = &p->list[p->count++];
    *prompt = (Prompt){.seed = (uint64_t)r->config->seed};
    prompt->tokens = must_malloc((size_t)(room + 1) * sizeof *prompt->tokens, "a prompt");
    return prompt;
}

/* Something to start from. */
static void begin_if_empty(const Reader *r, Prompt *prompt) {
    const int64_t vocab = r->config->vocab_size;
    if (prompt->count) return;
    const int64_t newline = r->table->is_bytes ? r->table->id_of['\n'] : vocab;
    const int64_t first = newline < vocab ? newline : r->table->end_of_document >= 0 ? r->table->end_of_document : 0;
    prompt->tokens[prompt->count++] = (uint32_t)first;
    prompt->begins = true;
}

static bool add_text(Reader *r, const char *text, size_t size, Error *error) {
    const long long vocab = (long long)r->config->vocab_size;
    if (!r->table->is_bytes) return error_set(error, "--vocab-size %lld is no byte model: " ENCODE, vocab);
    Prompt *prompt = next_prompt(r, (int64_t)size);
    for (size_t i = 0; i < size; i++) {
        const uint32_t id = r->table->id_of[(unsigned char)text[i]];
        if (id == UINT32_MAX)
            return error_set(error, "the prompt's byte %u ends documents, and is no text", (unsigned)(unsigned char)text[i]);
        if (id >= vocab)
            return error_set(error, "the prompt's byte %u is not below --vocab-size %lld", (unsigned)(unsigned char)text[i], vocab);
        prompt->tokens[prompt->count++] = id;
    }
    begin_if_empty(r, prompt);
    return true;
}

static bool add_ids(Reader *r, const char *text, Error *error) {
    const char *const between = ", \t\r\n";
    Prompt *prompt = next_prompt(r, (int64_t)strlen(text) / 2 + 1);
    for (const char *at = text + strspn(text, between); *at; at += strspn(at, between)) {
        const size_t digits = strspn(at, "0123456789");
        const unsigned long long id = strtoull(at, NULL, 10);
        if (!digits || !strchr(between, at[digits]))
            return error_set(error, "'%.20s' is no token id: numbers between commas", at);
        if (digits > 10 || id >= (unsigned long long)r->config->vocab_size)
            return error_set(error, "token %.*s is not below --vocab-size %lld", (int)(digits < 20 ? digits : 20), at,
                             (long long)r->config->vocab_size);
        prompt->tokens[prompt->count++] = (uint32_t)id;
        at += digits;
    }
    begin_if_empty(r, prompt);
    return true;
}

static bool add_id_list(Reader *r, const cJSON *ids, Error *error) {
    if (!cJSON_IsArray(ids)) return error_set(error, "field 'ids' must be a list of token ids");
    Prompt *prompt = next_prompt(r, cJSON_GetArraySize(ids));
    const cJSON *item;
    cJSON_ArrayForEach(item, ids) {
        const double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(id >= 0 && id < (double)r->config->vocab_size && id == (double)(uint32_t)id))
            return error_set(error, "field 'ids': entry %lld is no token id below --vocab-size %lld", (long long)prompt->count,
                             (long long)r->config->vocab_size);
        prompt->tokens[prompt->count++] = (uint32_t)id;
    }
    begin_if_empty(r, prompt);
    return true;
}

static bool add_object(Reader *r, const cJSON *object, Error *error) {
    const cJSON *ids = cJSON_GetObjectItemCaseSensitive(object, "ids");
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(object, "prompt");
    const cJSON *has_seed = cJSON_GetObjectItemCaseSensitive(object, "seed");
    int64_t seed = r->config->seed;
    if (has_seed && !json_integer(object, "seed", 0, (int64_t)1 << 53, &seed, error)) return false;
    const bool good = ids                    ? add_id_list(r, ids, error)
                      : cJSON_IsString(text) ? add_text(r, text->valuestring, strlen(text->valuestring), error)
                                             : error_set(error, "neither a list 'ids' nor a text 'prompt'");
    if (good) r->prompts->list[r->prompts->count - 1].seed = (uint64_t)seed;
    return good;
}

static bool add_line(Reader *r, const char *line, size_t size, bool json, Error *error) {
    if (size > LINE_MOST) return error_set(error, "longer than %d bytes", LINE_MOST);
    if (r->prompts->count >= PROMPTS_MOST) return error_set(error, "more than %d prompts", PROMPTS_MOST);
    if (!json) return add_text(r, line, size, error);
    cJSON *object = json_parse(line, size, error);
    const bool good = object && add_object(r, object, error);
    cJSON_Delete(object);
    return good;
}

/* The next line without its end, and of one that is too long the beginning; false at the end of the file. */
static bool read_line(FILE *file, char *line, size_t *size) {
    int byte = getc(file);
    if (byte == EOF) return false;
    for (*size = 0; byte != EOF && byte != '\n' && *size <= LINE_MOST; byte = getc(file)) line[(*size)++] = (char)byte;
    if (*size && line[*size - 1] == '\r') --*size;
    return true;
}

static bool read_file(Reader *r, const char *path, Error *error) {
    const size_t length = strlen(path);
    const bool json = length >= 6 && strcmp(path + length - 6, ".jsonl") == 0;
    FILE *file = fopen(path, "re");
    if (!file) return error_set(error, "--generate-file %s: cannot open: %s", path, strerror(errno));
    char *line = must_malloc(LINE_MOST + 1, "a line of prompts");
    size_t size;
    bool good = true;
    errno = 0;
    for (long long number = 1; good && read_line(file, line, &size); number++) {
        Error reason = {0};
        good = add_line(r, line, size, json, &reason) ||
               error_set(error, "--generate-file %s, line %lld: %s", path, number, reason.text);
    }
    if (good && ferror(file)) good = error_set(error, "--generate-file %s: cannot read: %s", path, strerror(errno));
    free(line);
    fclose(file);
    return good && (r->prompts->count || error_set(error, "--generate-file %s: holds no prompt: one a line", path));
}

bool prompts_read(Prompts *prompts, const Config *c, const TokenBytes *table, Error *error) {
    Reader reader = {c, table, prompts};
    Error reason = {0};
    *prompts = (Prompts){0};
    if (c->generate_file) return read_file(&reader, c->generate_file, error);
    if (c->generate)
        return add_text(&reader, c->generate, strlen(c->generate), &reason) || error_set(error, "--generate: %s", reason.text);
    return add_ids(&reader, c->generate_tokens, &reason) || error_set(error, "--generate-tokens: %s", reason.text);
}

void prompts_empty(Prompts *prompts, const Config *c, const TokenBytes *table) {
    Reader reader = {c, table, prompts};
    *prompts = (Prompts){0};
    begin_if_empty(&reader, next_prompt(&reader, 0));
}

void prompts_free(Prompts *prompts) {
    for (size_t i = 0; i < prompts->count; i++) free(prompts->list[i].tokens);
    free(prompts->list);
    *prompts = (Prompts){0};
}
