/*
 * huggingface_rope.c: how fast does RoPE turn, as a config.json says it? See huggingface.h.
 *
 * transformers 4 has rope_theta and rope_scaling (its type under rope_type, before that under type), 5 has rope_parameters
 * with all of it. Both may be there, and then they must say the same.
 */
#include "huggingface.h"

#include <stdio.h>
#include <string.h>

enum { LINEAR = 1 << ROPE_LINEAR, LLAMA3 = 1 << ROPE_LLAMA3 };

static const struct {
    const char *name, *scaling; /* theirs, ours */
} TYPES[] = {{"default", "none"}, {"linear", "linear"}, {"llama3", "llama3"}}; /* as ROPE_… */
enum { TYPE_COUNT = sizeof TYPES / sizeof *TYPES };

/* The numbers that a type of scaling has. */
static const struct {
    const char *key, *flag;
    int types;
} NUMBERS[] = {
    {"factor", "rope-factor", LINEAR | LLAMA3},
    {"low_freq_factor", "rope-low-freq-factor", LLAMA3},
    {"high_freq_factor", "rope-high-freq-factor", LLAMA3},
    {"original_max_position_embeddings", "rope-original-seq-len", LLAMA3},
};
enum { NUMBER_COUNT = sizeof NUMBERS / sizeof *NUMBERS };

/* ------------------------------------------------------------------------------------------------------
 * Reading
 * ---------------------------------------------------------------------------------------------------- */

/* A setting that a second place may repeat, and not contradict. */
static bool set_once(HuggingfaceModel *m, const HuggingfaceSetting *s, Error *error) {
    const HuggingfaceSetting *before = hf_setting(m, s->flag);
    if (!before) *hf_add(m, s->flag) = *s;
    return !before || strcmp(before->value, s->value) == 0 ||
           error_set(error, "%s contradicts %s", s->said, before->said);
}

static bool read_number(const char *flag, const char *name, const cJSON *item, HuggingfaceModel *m, Error *error) {
    HuggingfaceSetting s = {.flag = flag};
    hf_say(s.said, sizeof s.said, name, item);
    return hf_read_value(flag_find(flag), name, item, s.value, error) && set_once(m, &s, error);
}

static bool read_type(const cJSON *object, const char *name, int *type, HuggingfaceModel *m, Error *error) {
    const cJSON *item = hf_field(object, "rope_type") ? hf_field(object, "rope_type") : hf_field(object, "type");
    HuggingfaceSetting s = {.flag = "rope-scaling"};
    *type = item ? -1 : ROPE_UNSCALED;
    for (int i = 0; item && i < TYPE_COUNT; i++)
        if (cJSON_IsString(item) && strcmp(item->valuestring, TYPES[i].name) == 0) *type = i;
    if (*type < 0) return hf_refuse(name, item, ", which this program does not compute", error);
    snprintf(s.value, sizeof s.value, "%s", TYPES[*type].scaling);
    snprintf(s.said, sizeof s.said, "%s %s", name, TYPES[*type].name);
    return set_once(m, &s, error);
}

static bool read_item(const cJSON *item, const char *name, int type, HuggingfaceModel *m, Error *error) {
    char inner[64];
    snprintf(inner, sizeof inner, "%s.%.40s", name, item->string);
    if (cJSON_IsNull(item) || hf_listed("rope_type|type", item->string)) return true;
    if (strcmp(item->string, "rope_theta") == 0) return read_number("rope-base", inner, item, m, error);
    for (int i = 0; i < NUMBER_COUNT; i++)
        if (strcmp(item->string, NUMBERS[i].key) == 0 && NUMBERS[i].types >> type & 1)
            return read_number(NUMBERS[i].flag, inner, item, m, error);
    bool whole_head = strcmp(item->string, "partial_rotary_factor") == 0 && cJSON_IsNumber(item) && item->valuedouble == 1;
    return whole_head || hf_refuse(inner, item, ", which this program does not compute", error);
}

/* What a type needs and its object has not: transformers has a default for one of them. */
static bool fill_in(const char *name, int type, HuggingfaceModel *m, Error *error) {
    for (int i = 0; i < NUMBER_COUNT; i++) {
        if (!(NUMBERS[i].types >> type & 1) || hf_setting(m, NUMBERS[i].flag)) continue;
        if (strcmp(NUMBERS[i].flag, "rope-original-seq-len"))
            return error_set(error, "%s %s has no %s", name, TYPES[type].name, NUMBERS[i].key);
        HuggingfaceSetting s = *hf_setting(m, "seq-len");
        s.flag = NUMBERS[i].flag;
        *hf_add(m, s.flag) = s;
    }
    return true;
}

static bool read_object(const cJSON *o, const char *name, HuggingfaceModel *m, Error *error) {
    const cJSON *object = hf_field(o, name), *item;
    int type;
    if (!object) return true;
    if (!cJSON_IsObject(object)) return hf_refuse(name, object, " is no object", error);
    if (!read_type(object, name, &type, m, error)) return false;
    cJSON_ArrayForEach(item, object)
        if (!read_item(item, name, type, m, error)) return false;
    return fill_in(name, type, m, error);
}

static void set_default(HuggingfaceModel *m, const char *flag, const char *key) {
    HuggingfaceSetting s = {.flag = flag};
    if (hf_setting(m, flag)) return;
    snprintf(s.value, sizeof s.value, "%s", flag_find(flag)->fallback);
    snprintf(s.said, sizeof s.said, "%s, by default %s", key, s.value);
    *hf_add(m, flag) = s;
}

bool hf_read_rope(const cJSON *o, HuggingfaceModel *m, Error *error) {
    const cJSON *theta = hf_field(o, "rope_theta");
    if ((theta && !read_number("rope-base", "rope_theta", theta, m, error)) || !read_object(o, "rope_scaling", m, error) ||
        !read_object(o, "rope_parameters", m, error))
        return false;
    set_default(m, "rope-base", "rope_theta");
    set_default(m, "rope-scaling", "rope_scaling");
    return true;
}

/* ------------------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------------------- */

void hf_write_rope(cJSON *o, const Config *c) {
    hf_write_real(o, "rope_theta", c, "rope-base");
    if (c->rope_scaling == ROPE_UNSCALED) return;
    cJSON *object = cJSON_AddObjectToObject(o, "rope_scaling");
    cJSON_AddStringToObject(object, "rope_type", TYPES[c->rope_scaling].name);
    for (int i = 0; i < NUMBER_COUNT; i++) {
        const Flag *flag = flag_find(NUMBERS[i].flag);
        if (!(NUMBERS[i].types >> c->rope_scaling & 1)) continue;
        if (flag->type == FLAG_REAL) hf_write_real(object, NUMBERS[i].key, c, flag->name);
        else cJSON_AddNumberToObject(object, NUMBERS[i].key, (double)c->rope_original_seq_len);
    }
}
