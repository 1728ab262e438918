/* generate.c: see generate.h. */
#include "generate.h"
#include "../base/output.h"
#include "../base/printable.h"
#include "../base/utf8.h"
#include "../checkpoint/companions.h"
#include "../data/sidecar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------------
 * The table
 * ---------------------------------------------------------------------------------------------------- */

/* DIR/NAME.tokenizer of the set that a shard is of. */
static bool directory_of_set(const ShardSet *train, char path[PATH_SIZE]) {
    SetPart part;
    return train && train->n_shards && sidecar_part(train->shards[0].path, &part) &&
           snprintf(path, PATH_SIZE, "%s.tokenizer", part.stem) < PATH_SIZE;
}

/* The weights' own directory, or that of a file of weights. */
static bool directory_of_weights(const char *weights, char path[PATH_SIZE]) {
    struct stat status;
    if (!weights[0]) return false;
    snprintf(path, PATH_SIZE, "%s", weights);
    if (stat(weights, &status) == 0 && S_ISDIR(status.st_mode)) return true;
    char *slash = strrchr(path, '/');
    if (slash) slash[slash == path] = '\0';
    else strcpy(path, ".");
    return true;
}

/* The table that a directory has, if none is known yet. *other: a tokenizer lies there, whose ids are what it makes of text. */
static bool look_into(const char *directory, TokenBytes *table, int64_t vocab, bool *other, Error *error) {
    char path[PATH_SIZE];
    Error too_long;
    if (table->count) return true;
    *other |= path_join(path, directory, COMPANION_NAMES[COMPANION_TOKENIZER], &too_long) && access(path, F_OK) == 0;
    return token_bytes_find(table, directory, vocab, error);
}

bool generate_table(TokenBytes *table, const Start *start, const ShardSet *train, Error *error) {
    const int64_t vocab = start->config.vocab_size;
    bool other = false;
    char path[PATH_SIZE];
    *table = (TokenBytes){.end_of_document = -1};
    if (directory_of_set(train, path) && !look_into(path, table, vocab, &other, error)) return false;
    if (start->resume_from[0] && !look_into(start->resume_from, table, vocab, &other, error)) return false;
    if (directory_of_weights(start->init_from.weights, path) && !look_into(path, table, vocab, &other, error)) return false;
    if (!table->count && !other && vocab <= 256) token_bytes_identity(table, vocab);
    return true;
}

bool generate_takes_bytes(const Start *start, const ShardSet *train) {
    TokenBytes table;
    Error error;
    if (!generate_table(&table, start, train, &error)) return false;
    const bool bytes = table.is_bytes;
    token_bytes_free(&table);
    return bytes;
}

/* ------------------------------------------------------------------------------------------------------
 * A text that is streamed
 * ---------------------------------------------------------------------------------------------------- */

typedef struct Page {
    const TokenBytes *table;
    bool terminal, begun, numbers;
    Printable shown;
} Page;

static void put_byte(Page *page, unsigned char byte) {
    char text[PRINTABLE_SIZE];
    if (!page->terminal) {
        putchar(byte);
        return;
    }
    printable_push(&page->shown, byte, text);
    fputs(text, stdout);
}

static void put_token(Page *page, uint32_t token) {
    uint64_t length;
    if (!page->table->count) {
        printf("%s%u", page->begun ? "," : "", (unsigned)token);
        page->begun = true;
        return;
    }
    const unsigned char *bytes = token_bytes_of(page->table, token, &length);
    const bool strip = length && !page->begun && page->table->strip_leading_space && bytes[0] == ' ';
    for (uint64_t i = strip; i < length; i++) put_byte(page, bytes[i]);
    page->begun |= length > 0;
}

static void end_page(Page *page) {
    char text[PRINTABLE_SIZE];
    printable_end(&page->shown, text);
    puts(text);
}

static bool take_token(void *context, size_t i, uint32_t token, TextEnd end) {
    Error gone;
    (void)i;
    if (end != TEXT_GOES_ON) return true;
    put_token(context, token);
    return output_flush(&gone);
}

static Decoding decoding(Model *model, const TokenBytes *table, int batch) {
    const Config *c = model->config;
    return (Decoding){.model = model,
                      .sampler = {.temperature = c->temperature, .top_p = c->top_p, .top_k = c->top_k},
                      .batch = batch,
                      .most = c->max_new_tokens,
                      .end_token = c->stop_at_end ? table->end_of_document : -1};
}

/* What the model will not see of its prompts. */
static void say_cut(const Model *model, const Prompts *prompts) {
    size_t longer = 0;
    int64_t most = 0;
    for (size_t i = 0; i < prompts->count; i++) {
        longer += prompts->list[i].count > model->T;
        most = prompts->list[i].count > most ? prompts->list[i].count : most;
    }
    if (longer && prompts->count == 1)
        warn("the prompt's %lld tokens are more than --seq-len %d: the model sees the last %d", (long long)most, model->T, model->T);
    else if (longer)
        warn("%zu of %zu prompts, of up to %lld tokens, are longer than --seq-len %d: the model sees the last %d of each", longer,
             prompts->count, (long long)most, model->T, model->T);
}

bool generate_text(Model *model, const TokenBytes *table, const Prompts *prompts, Error *error) {
    say_cut(model, prompts);
    const Prompt *prompt = &prompts->list[0];
    Page page = {.table = table, .terminal = isatty(STDOUT_FILENO)};
    DecodeCost ignored;
    Decoding d = decoding(model, table, 1);
    d.take = take_token;
    d.context = &page;
    for (int64_t i = 0; i < prompt->count && !prompt->begins; i++) put_token(&page, prompt->tokens[i]);
    const bool good = decode_all(&d, prompts, &ignored, error);
    end_page(&page);
    return good;
}

bool generate_sample(Model *model, const TokenBytes *table, Error *error) {
    Prompts prompts;
    prompts_empty(&prompts, model->config, table);
    const bool good = generate_text(model, table, &prompts, error);
    prompts_free(&prompts);
    return good;
}

/* ------------------------------------------------------------------------------------------------------
 * Lines of JSON
 * ---------------------------------------------------------------------------------------------------- */

/* What has come of a prompt. */
typedef struct Result {
    uint32_t *tokens;
    size_t count, room;
    TextEnd end;
} Result;

typedef struct Lines {
    const TokenBytes *table;
    const Prompts *prompts;
    Result *results; /* [prompts->count] */
    size_t printed;
} Lines;

/* The bytes of tokens as a text of JSON. */
static void put_text(const TokenBytes *table, const uint32_t *tokens, size_t count, bool begins) {
    char *bytes = NULL;
    size_t size = 0;
    FILE *all = open_memstream(&bytes, &size);
    require(all, "out of memory for a text");
    for (size_t i = 0; i < count; i++) {
        uint64_t length;
        const unsigned char *token = token_bytes_of(table, tokens[i], &length);
        fwrite(token, 1, length, all);
    }
    require(fclose(all) == 0, "out of memory for a text");
    const unsigned char *at = (unsigned char *)bytes, *end = at + size;
    if (begins && table->strip_leading_space && at < end && *at == ' ') at++;
    putchar('"');
    for (size_t length; at < end; at += length) {
        length = utf8_length(at, (size_t)(end - at));
        const unsigned code = length ? utf8_code(at, length) : 0xfffd;
        if (!length) fputs("\xef\xbf\xbd", stdout), length = utf8_broken_length(at, (size_t)(end - at));
        else if (code == '"' || code == '\\') printf("\\%c", (char)code);
        else if (code == '\n') fputs("\\n", stdout);
        else if (code < ' ' || (code >= 0x7f && code < 0xa0)) printf("\\u%04x", code);
        else fwrite(at, 1, length, stdout);
    }
    putchar('"');
    free(bytes);
}

static void put_ids(const uint32_t *tokens, size_t count) {
    putchar('[');
    for (size_t i = 0; i < count; i++) printf("%s%u", i ? "," : "", (unsigned)tokens[i]);
    putchar(']');
}

static void put_line(const Lines *lines, size_t i) {
    const Prompt *prompt = &lines->prompts->list[i];
    const Result *result = &lines->results[i];
    const size_t count = prompt->begins ? 0 : (size_t)prompt->count;
    if (lines->table->count) {
        printf("{\"prompt\":");
        put_text(lines->table, prompt->tokens, count, true);
        printf(",\"text\":");
        put_text(lines->table, result->tokens, result->count, count == 0);
    } else {
        printf("{\"prompt_ids\":");
        put_ids(prompt->tokens, count);
    }
    printf(",\"ids\":");
    put_ids(result->tokens, result->count);
    printf(",\"end\":\"%s\"}\n", result->end == TEXT_DOCUMENT ? "document" : "length");
}

/* Prints what is whole as soon as all before it is. */
static bool take_line(void *context, size_t i, uint32_t token, TextEnd end) {
    Lines *lines = context;
    Result *result = &lines->results[i];
    Error gone;
    if (end == TEXT_GOES_ON) {
        if (result->count == result->room) {
            result->room = 2 * result->room + 64;
            result->tokens = realloc(result->tokens, result->room * sizeof *result->tokens);
            require(result->tokens, "out of memory for a text of %zu tokens", result->count);
        }
        result->tokens[result->count++] = token;
        return true;
    }
    result->end = end;
    for (; lines->printed < lines->prompts->count && lines->results[lines->printed].end; lines->printed++) {
        put_line(lines, lines->printed);
        free(lines->results[lines->printed].tokens);
        lines->results[lines->printed].tokens = NULL;
    }
    return output_flush(&gone);
}

bool generate_lines(Model *model, const TokenBytes *table, const Prompts *prompts, DecodeCost *cost, Error *error) {
    Lines lines = {.table = table, .prompts = prompts};
    say_cut(model, prompts);
    lines.results = must_calloc(prompts->count, sizeof *lines.results, "texts");
    Decoding d = decoding(model, table, model->B);
    d.take = take_line;
    d.context = &lines;
    const bool good = decode_all(&d, prompts, cost, error);
    for (size_t i = 0; i < prompts->count; i++) free(lines.results[i].tokens);
    free(lines.results);
    return good;
}
