/* items.c: one row of a file of questions. See items.h; the file is items_file.c's. */
#include "items.h"
#include "../base/json.h"
#include "../base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void item_free(Item *item) {
    free(item->length), free(item->tokens), free(item->chars), free(item->bytes);
    *item = (Item){0};
}

static const cJSON *field(const cJSON *row, const char *name) { return cJSON_GetObjectItemCaseSensitive(row, name); }

/* A field that this form does not know would be one that somebody counts on. */
static bool fields_are_known(const cJSON *row, const char *const *names, Error *error) {
    const cJSON *each;
    cJSON_ArrayForEach(each, row) {
        bool known = false;
        for (int i = 0; names[i] && !known; i++) known = strcmp(each->string, names[i]) == 0;
        if (!known) return error_set(error, "field '%.100s' has no meaning here", each->string);
    }
    const cJSON *id = field(row, "id");
    return !id || cJSON_IsString(id) || error_set(error, "'id' must be a text");
}

/* ------------------------------------------------------------------------------------------------------
 * Token ids
 * ---------------------------------------------------------------------------------------------------- */

static bool whole(const cJSON *number, double least, double most) {
    return cJSON_IsNumber(number) && number->valuedouble >= least && number->valuedouble <= most &&
           number->valuedouble == (double)(int64_t)number->valuedouble;
}

/* Appends an array of ids; says how many there were. */
static bool take_ids(const cJSON *array, const char *what, const ItemRules *rules, uint32_t **end, int *count,
                     Error *error) {
    const cJSON *each;
    *count = 0;
    if (!cJSON_IsArray(array)) return error_set(error, "%s must be a list of token ids", what);
    cJSON_ArrayForEach(each, array) {
        if (!whole(each, 0, (double)UINT32_MAX)) return error_set(error, "%s holds what is no token id", what);
        if (each->valuedouble >= (double)rules->vocab)
            return error_set(error, "%s holds token %.0f; --vocab-size is %u", what, each->valuedouble, rules->vocab);
        *(*end)++ = (uint32_t)each->valuedouble;
        ++*count;
    }
    return *count > 0 || error_set(error, "%s holds no tokens", what);
}

static bool fits(const char *what, int length, const ItemRules *rules, Error *error) {
    return length <= rules->longest ||
           error_set(error, "%s has %d tokens; --seq-len %d is the most", what, length, rules->longest);
}

/* The lengths of the choices' texts, where they are given. */
static bool take_lengths(const cJSON *row, const char *name, int choices, int **lengths, Error *error) {
    const cJSON *array = field(row, name), *each;
    if (!array) return true;
    if (!cJSON_IsArray(array) || cJSON_GetArraySize(array) != choices)
        return error_set(error, "'%s' must be a list of %d lengths, one a choice", name, choices);
    *lengths = must_malloc((size_t)choices * sizeof **lengths, "an item");
    int i = 0;
    cJSON_ArrayForEach(each, array) {
        if (!whole(each, 1, INT32_MAX)) return error_set(error, "'%s' must hold whole numbers above 0", name);
        (*lengths)[i++] = (int)each->valuedouble;
    }
    return true;
}

static size_t size_of(const cJSON *array) { return cJSON_IsArray(array) ? (size_t)cJSON_GetArraySize(array) : 0; }

static bool ids_item(const cJSON *row, const ItemRules *rules, Item *item, Error *error) {
    static const char *const CHOICES[] = {"context_ids",  "choice_ids",   "answer",
                                          "choice_chars", "choice_bytes", "id", NULL};
    static const char *const LAST[] = {"context_ids", "target_ids", "id", NULL};
    const cJSON *context = field(row, "context_ids"), *choices = field(row, "choice_ids"), *each;
    if (!fields_are_known(row, item->last_word ? LAST : CHOICES, error)) return false;
    size_t count = size_of(context) + size_of(field(row, "target_ids"));
    cJSON_ArrayForEach(each, choices) count += size_of(each);
    item->length = must_calloc((size_t)item->choices, sizeof *item->length, "an item");
    item->tokens = must_malloc((count + 1) * sizeof *item->tokens, "an item");
    uint32_t *end = item->tokens;
    if (!take_ids(context, "'context_ids'", rules, &end, &item->context, error)) return false;
    const cJSON *next = item->last_word ? field(row, "target_ids") : choices->child;
    for (int i = 0; i < item->choices; i++, next = next->next) {
        char what[40];
        if (item->last_word) snprintf(what, sizeof what, "'target_ids'");
        else snprintf(what, sizeof what, "choice %d of 'choice_ids'", i);
        if (!take_ids(next, what, rules, &end, &item->length[i], error) || !fits(what, item->length[i], rules, error))
            return false;
    }
    return take_lengths(row, "choice_chars", item->choices, &item->chars, error) &&
           take_lengths(row, "choice_bytes", item->choices, &item->bytes, error);
}

/* ------------------------------------------------------------------------------------------------------
 * Text, whose bytes are the tokens
 * ---------------------------------------------------------------------------------------------------- */

/* What Python's str.rstrip() takes away. */
static bool is_blank(unsigned code) {
    return (code >= 0x09 && code <= 0x0d) || (code >= 0x1c && code <= 0x20) || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 || code == 0x2029 || code == 0x202f ||
           code == 0x205f || code == 0x3000;
}

/* The length of a text without the blanks at its end. */
static size_t without_blanks(const char *text) {
    const size_t size = strlen(text);
    size_t kept = 0;
    for (size_t at = 0, length; at < size; at += length) {
        length = utf8_length((const unsigned char *)text + at, size - at);
        if (!is_blank(utf8_code((const unsigned char *)text + at, length))) kept = at + length;
    }
    return kept;
}

static int characters(const char *text) {
    int count = 0;
    for (; *text; text++) count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

static bool take_bytes(const char *what, const char *text, size_t size, const ItemRules *rules, uint32_t **end,
                       Error *error) {
    for (size_t i = 0; i < size; i++) {
        const uint32_t id = rules->id_of_byte[(unsigned char)text[i]];
        if (id >= rules->vocab)
            return error_set(error, "%s holds byte %u, which is no token of the model (--vocab-size %u)", what,
                             (unsigned)(unsigned char)text[i], rules->vocab);
        *(*end)++ = id;
    }
    return true;
}

static const char *text_of(const cJSON *row, const char *name, Error *error) {
    const cJSON *item = field(row, name);
    if (cJSON_IsString(item)) return item->valuestring;
    error_set(error, "'%s' must be a text", name);
    return NULL;
}

/* Context and continuations, with what lies between them, in bytes. */
typedef struct Texts {
    const char *context, *delimiter;
    const char **choice;
} Texts;

static bool take_texts(const Texts *texts, const ItemRules *rules, Item *item, Error *error) {
    const size_t whole_context = strlen(texts->context), context = without_blanks(texts->context);
    const size_t moved = whole_context - context, between = strlen(texts->delimiter);
    size_t count = context + 1;
    for (int i = 0; i < item->choices; i++) count += moved + between + strlen(texts->choice[i]);
    item->length = must_calloc((size_t)item->choices, sizeof *item->length, "an item");
    item->tokens = must_malloc(count * sizeof *item->tokens, "an item");
    uint32_t *end = item->tokens;
    if (!take_bytes("'context'", texts->context, context, rules, &end, error)) return false;
    if (context == 0) *end++ = rules->prefix;
    item->context = (int)(end - item->tokens);
    for (int i = 0; i < item->choices; i++) {
        char what[32];
        const uint32_t *begin = end;
        if (item->last_word) snprintf(what, sizeof what, "'target'");
        else snprintf(what, sizeof what, "choice %d", i);
        if (!texts->choice[i][0]) return error_set(error, "%s is empty", what);
        if (!take_bytes("'context'", texts->context + context, moved, rules, &end, error) ||
            !take_bytes("'delimiter'", texts->delimiter, between, rules, &end, error) ||
            !take_bytes(what, texts->choice[i], strlen(texts->choice[i]), rules, &end, error))
            return false;
        item->length[i] = (int)(end - begin);
        if (!fits(what, item->length[i], rules, error)) return false;
    }
    return true;
}

static bool choose_texts(const cJSON *row, Texts *texts, const ItemRules *rules, Item *item, Error *error) {
    const cJSON *each = field(row, "choices")->child;
    item->chars = must_malloc((size_t)item->choices * sizeof *item->chars, "an item");
    item->bytes = must_malloc((size_t)item->choices * sizeof *item->bytes, "an item");
    for (int i = 0; i < item->choices; i++, each = each->next) {
        if (!cJSON_IsString(each)) return error_set(error, "choice %d of 'choices' must be a text", i);
        texts->choice[i] = each->valuestring;
        item->chars[i] = characters(each->valuestring);
        item->bytes[i] = (int)strlen(each->valuestring);
    }
    return take_texts(texts, rules, item, error);
}

static bool text_item(const cJSON *row, const ItemRules *rules, Item *item, Error *error) {
    static const char *const CHOICES[] = {"context", "choices", "answer", "delimiter", "id", NULL};
    static const char *const LAST[] = {"context", "target", "delimiter", "id", NULL};
    if (!fields_are_known(row, item->last_word ? LAST : CHOICES, error)) return false;
    if (!rules->id_of_byte)
        return error_set(error, "text is for models of bytes; data/prepare_eval.py makes token ids of it");
    const bool between = field(row, "delimiter");
    Texts texts = {.context = text_of(row, "context", error), .delimiter = item->last_word ? "" : " "};
    if (between) texts.delimiter = text_of(row, "delimiter", error);
    if (!texts.context || !texts.delimiter) return false;
    const char *target = item->last_word ? text_of(row, "target", error) : NULL;
    if (item->last_word && !target) return false;
    texts.choice = must_calloc((size_t)item->choices, sizeof *texts.choice, "an item");
    texts.choice[0] = target;
    bool good = item->last_word ? take_texts(&texts, rules, item, error)
                                : choose_texts(row, &texts, rules, item, error);
    free(texts.choice);
    return good;
}

/* ------------------------------------------------------------------------------------------------------
 * A row
 * ---------------------------------------------------------------------------------------------------- */

/* How many choices, and which is right. */
static bool take_answer(const cJSON *row, const char *name, Item *item, Error *error) {
    const cJSON *choices = field(row, name);
    int64_t answer = 0;
    if (!cJSON_IsArray(choices) || !choices->child)
        return error_set(error, "'%s' must be a list of choices; there are none", name);
    const int count = cJSON_GetArraySize(choices);
    if (count > ITEM_CHOICES_MOST) return error_set(error, "%d choices; %d are the most", count, ITEM_CHOICES_MOST);
    if (!field(row, "answer")) return error_set(error, "no 'answer', the number of the right choice, from 0");
    if (!json_integer(row, "answer", 0, count - 1, &answer, error)) return false;
    item->choices = count, item->answer = (int)answer;
    return true;
}

static bool read_row(const cJSON *row, const ItemRules *rules, Item *item, Error *error) {
    static const struct {
        const char *name;
        bool ids, last_word;
    } FORMS[] = {
        {"choice_ids", true, false}, {"choices", false, false}, {"target_ids", true, true}, {"target", false, true}};
    for (size_t i = 0; i < sizeof FORMS / sizeof *FORMS; i++) {
        if (!field(row, FORMS[i].name)) continue;
        item->last_word = FORMS[i].last_word;
        item->choices = 1;
        if (!item->last_word && !take_answer(row, FORMS[i].name, item, error)) return false;
        return FORMS[i].ids ? ids_item(row, rules, item, error) : text_item(row, rules, item, error);
    }
    return error_set(error, "no choices: 'choice_ids' or 'choices' is missing, and so are 'target_ids' and 'target'");
}

bool item_parse(const char *json, size_t size, const ItemRules *rules, Item *item, Error *error) {
    *item = (Item){0};
    cJSON *row = json_parse(json, size, error);
    if (!row) return false;
    bool good = read_row(row, rules, item, error);
    cJSON_Delete(row);
    if (!good) item_free(item);
    return good;
}
