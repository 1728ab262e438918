/* huggingface_flags.c: how the model of a config.json lies under the flags of a run. See huggingface.h. */
#include "huggingface.h"

#include <stdio.h>
#include <string.h>

void huggingface_apply(const HuggingfaceModel *model, Config *config) {
    for (int i = 0; i < model->count; i++) {
        Error error = {0};
        const HuggingfaceSetting *s = &model->settings[i];
        check(config_set(config, s->flag, s->value, &error), "config.json: %s", error.text);
    }
}

/* Where a flag's value is from, for a message: "--n-layer 2", or "--preset micro's --n-layer 2". */
static void say_given(const Config *config, const char *flag, const char *value, char *text, size_t size) {
    char word[256], settings[512] = "";
    for (int i = 0; config->preset && i < PRESET_COUNT; i++)
        if (strcmp(PRESETS[i].name, config->preset) == 0)
            snprintf(settings, sizeof settings, " %s ", PRESETS[i].settings);
    snprintf(word, sizeof word, " %s=%s ", flag, value);
    if (strstr(settings, word)) snprintf(text, size, "--preset %s's --%s %s", config->preset, flag, value);
    else snprintf(text, size, "--%s %s", flag, value);
}

static bool agrees(const HuggingfaceSetting *s, const char *file, Config *config, const Config *theirs, Error *error) {
    const Flag *flag = flag_find(s->flag);
    char a[32], b[32], given[128];
    const char *ours = config_value(config, flag, a, sizeof a), *want;
    if (strcmp(ours, "auto") == 0) return config_set(config, s->flag, s->value, error);
    snprintf(given, sizeof given, "%s", ours); /* both may stand in config_choice()'s one room */
    want = config_value(theirs, flag, b, sizeof b);
    if (strcmp(given, want) == 0) return true;
    bool holds_T = strcmp(config_choice("norm", theirs->norm), "bhyt") == 0;
    if (strcmp(s->flag, "seq-len") == 0 && config->seq_len < theirs->seq_len && !holds_T) return true;
    char text[224];
    say_given(config, s->flag, given, text, sizeof text);
    return error_set(error, "%s contradicts %.200s's %s", text, file, s->said);
}

bool huggingface_agrees(const HuggingfaceModel *model, const char *file, Config *config, Error *error) {
    Config theirs;
    config_defaults(&theirs);
    huggingface_apply(model, &theirs);
    for (int i = 0; i < model->count; i++)
        if (!agrees(&model->settings[i], file, config, &theirs, error)) return false;
    return true;
}
