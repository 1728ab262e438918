/*
 * fuzz_huggingface.c: is the model of an accepted config.json one that flags can say, and does it agree with itself?
 * (src/checkpoint/huggingface.h)
 */
#include "fuzz.h"
#include "../../src/checkpoint/huggingface.h"
#include "../../src/settings/resolve.h"

#include <string.h>

typedef struct Case {
    HuggingfaceModel model;
    Config config;
} Case;

static void apply(void *context) {
    Case *c = context;
    config_defaults(&c->config);
    huggingface_apply(&c->model, &c->config);
}

static void resolve(void *context) { config_resolve(&((Case *)context)->config, 1); }

/* What it would be written as is read as the same. */
static void check_written(Case *c) {
    static HuggingfaceModel again;
    Error error = {0};
    cJSON *o = huggingface_config(&c->config);
    char *text = cJSON_PrintUnformatted(o);
    PROMISE(huggingface_parse(text, strlen(text), &again, &error));
    bool as_another = c->model.class == CLASS_OWN || c->model.class == CLASS_MISTRAL || c->model.class == CLASS_LLAMA;
    PROMISE(again.class == c->model.class || as_another); /* Mistral's are LLaMA's, and the other way round */
    PROMISE(huggingface_agrees(&again, "config.json", &c->config, &error) || again.class != c->model.class);
    cJSON_free(text);
    cJSON_Delete(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static Case c;
    Error error = {0};
    if (!huggingface_parse(fuzz_edge(data, size), size, &c.model, &error)) {
        fuzz_check_error(&error);
        return 0;
    }
    PROMISE(fuzz_is_json(data, size, NULL));
    PROMISE(c.model.count > 0 && c.model.count < HUGGINGFACE_SETTINGS_MOST);
    PROMISE(memchr(c.model.unknown, 0, sizeof c.model.unknown));
    for (int i = 0; i < c.model.count; i++) {
        const HuggingfaceSetting *s = &c.model.settings[i];
        PROMISE(memchr(s->value, 0, sizeof s->value) && memchr(s->said, 0, sizeof s->said) && s->said[0]);
        for (int j = 0; j < i; j++) PROMISE(strcmp(s->flag, c.model.settings[j].flag));
    }
    PROMISE(!fuzz_refuses(apply, &c, &error));
    PROMISE(huggingface_agrees(&c.model, "config.json", &c.config, &error));
    PROMISE(c.config.head_size <= 256 && c.config.n_head % c.config.n_kv_head == 0);
    c.config.batch_size = 1;
    bool variant_is_refused = fuzz_refuses(resolve, &c, &error); /* bhyt with post, as the command line would */
    PROMISE(!variant_is_refused || c.model.class == CLASS_OWN);
    if (!variant_is_refused) check_written(&c);
    config_forget_texts();
    return 0;
}
