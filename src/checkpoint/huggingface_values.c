/* huggingface_values.c: what does a value of a config.json say, as a flag has it? See huggingface.h. */
#include "huggingface.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Whether a text stands among others, separated by '|'. */
bool hf_listed(const char *list, const char *text) {
    size_t length = strlen(text);
    for (const char *at = list; length && *at; at += strcspn(at, "|"), at += *at == '|')
        if (strcspn(at, "|") == length && memcmp(at, text, length) == 0) return true;
    return false;
}

const cJSON *hf_field(const cJSON *o, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNull(item) ? NULL : item;
}

/* A value for messages: a text without its quotes, anything else as JSON, cut. */
void hf_say(char *text, size_t size, const char *name, const cJSON *item) {
    char *json = cJSON_IsString(item) ? NULL : cJSON_PrintUnformatted(item);
    snprintf(text, size, "%.40s %.60s", name, cJSON_IsString(item) ? item->valuestring : json ? json : "");
    cJSON_free(json);
}

bool hf_refuse(const char *name, const cJSON *item, const char *why, Error *error) {
    char said[112];
    hf_say(said, sizeof said, name, item);
    return error_set(error, "%s%s", said, why);
}

HuggingfaceSetting *hf_add(HuggingfaceModel *m, const char *flag) {
    HuggingfaceSetting *s = &m->settings[m->count];
    if (m->count < HUGGINGFACE_SETTINGS_MOST - 1) m->count++; /* more than the tables hold there are not */
    *s = (HuggingfaceSetting){.flag = flag};
    return s;
}

const HuggingfaceSetting *hf_setting(const HuggingfaceModel *m, const char *flag) {
    for (int i = 0; i < m->count; i++)
        if (strcmp(m->settings[i].flag, flag) == 0) return &m->settings[i];
    return NULL;
}

const char *hf_value(const HuggingfaceModel *m, const char *flag) {
    const HuggingfaceSetting *s = hf_setting(m, flag);
    return s ? s->value : "";
}

const char *hf_said(const HuggingfaceModel *m, const char *flag) {
    const HuggingfaceSetting *s = hf_setting(m, flag);
    return s ? s->said : flag;
}

int64_t hf_whole(const HuggingfaceModel *m, const char *flag) { return strtoll(hf_value(m, flag), NULL, 10); }

bool hf_is(const HuggingfaceModel *m, const char *flag, const char *value) {
    return strcmp(hf_value(m, flag), value) == 0;
}

/* A value of JSON as the flag has it on the command line. */
bool hf_read_value(const Flag *flag, const char *name, const cJSON *item, char value[48], Error *error) {
    if (flag->type == FLAG_CHOICE) {
        const char *word = cJSON_IsBool(item) ? (cJSON_IsTrue(item) ? "on" : "off") : cJSON_GetStringValue(item);
        if (!word || strlen(word) >= 48 || strcmp(word, "auto") == 0 || !hf_listed(flag->choices, word))
            return hf_refuse(name, item, " is nothing that it can be", error);
        strcpy(value, word);
        return true;
    }
    double number = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    if (!(number >= flag->min && number <= flag->max) || (flag->type == FLAG_INT && number != floor(number))) {
        char why[96];
        snprintf(why, sizeof why, ": it is a %s from %.15g to %.15g here",
                 flag->type == FLAG_INT ? "whole number" : "number", flag->min, flag->max);
        return hf_refuse(name, item, why, error);
    }
    snprintf(value, 48, flag->type == FLAG_INT ? "%.0f" : "%.17g", number);
    return true;
}
