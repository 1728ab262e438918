/* changes.c: see changes.h. */
#include "changes.h"
#include "resolve.h"

#include <math.h>
#include <string.h>

/* What a flag's change is worth on a resume. Every flag without a row is SAID. Texts are none of this: they name files,
 * and what lies there is compared, not where (data/fingerprint.h). */
typedef enum ChangeClass {
    SAID,    /* the run goes on otherwise from here: one line says how */
    MACHINE, /* SAID, and "auto" is worked out for the machine that it goes on on */
    CONSENT, /* SAID, once --allow-change says that it was meant, which it hardly ever is */
    FREE,    /* no property of the run: what it computes, and what its numbers mean, stay */
} ChangeClass;

static const struct {
    const char *name;
    ChangeClass class;
} CLASSES[] = {
    {"seed", CONSENT}, /* in a run that has begun it changes the order of the data, in the middle of an epoch */
    {"pack", CONSENT},
    {"pack-long", CONSENT},
    {"device", MACHINE},
    {"dtype", MACHINE},
    {"threads", FREE}, /* checkpoint_load() says what they mean for the bits */
    {"save-every", FREE}, /* how often it writes and tells */
    {"keep", FREE},
    {"val-every", FREE},
    {"sample-every", FREE},
    {"stats-every", FREE},
    {"log-every", FREE},
    {"max-minutes", FREE}, /* when it stops, and saves what it has learned */
    {"recompute", FREE},   /* how a step is computed: neither changes a bit */
    {"cuda-graph", FREE},
    {"zero", FREE},
    {"check-sync", FREE},
    {"timeout", FREE},
};

static ChangeClass class_of(const char *name) {
    for (size_t i = 0; i < sizeof CLASSES / sizeof *CLASSES; i++)
        if (strcmp(CLASSES[i].name, name) == 0) return CLASSES[i].class;
    return SAID;
}

static void *field_of(const Config *config, const Flag *flag) { return (char *)config + flag->offset; }

/* Whether two configs hold the same number or word. */
static bool same_field(const Config *a, const Config *b, const Flag *flag) {
    return memcmp(field_of(a, flag), field_of(b, flag), sizeof(int64_t)) == 0;
}

static bool is_open(const Config *config, const Flag *flag) {
    if (flag->type == FLAG_INT) return *(int64_t *)field_of(config, flag) == AUTO_INT;
    if (flag->type == FLAG_REAL) return isnan(*(double *)field_of(config, flag));
    return flag->type == FLAG_CHOICE && strcmp(config_choice(flag->name, *(int64_t *)field_of(config, flag)), "auto") == 0;
}

void config_follow(Config *config, Config *theirs) {
    Config was = *theirs, now = *config;
    config_reopen(&was);
    config_resolve(&was, 1);
    config_resolve(&now, 1);
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            const int n = flag_number(flag);
            if (theirs->automatic[n] && config->automatic[n] && class_of(flag->name) != MACHINE &&
                same_field(&was, &now, flag))
                memcpy(field_of(config, flag), field_of(theirs, flag), sizeof(int64_t));
            if (is_open(theirs, flag)) memcpy(field_of(theirs, flag), field_of(&was, flag), sizeof(int64_t));
        }
}

static void describe(const Config *config, const Flag *flag, char text[CHANGE_TEXT]) {
    const void *field = field_of(config, flag);
    switch (flag->type) {
    case FLAG_INT:
        if (is_open(config, flag)) snprintf(text, CHANGE_TEXT, "auto");
        else snprintf(text, CHANGE_TEXT, "%lld", (long long)*(const int64_t *)field);
        return;
    case FLAG_REAL:
        if (is_open(config, flag)) snprintf(text, CHANGE_TEXT, "auto");
        else snprintf(text, CHANGE_TEXT, "%.9g", *(const double *)field);
        return;
    case FLAG_CHOICE: snprintf(text, CHANGE_TEXT, "%s", config_choice(flag->name, *(const int64_t *)field)); return;
    case FLAG_SET: snprintf(text, CHANGE_TEXT, "%s", config_value(config, flag, text, CHANGE_TEXT)); return;
    case FLAG_TEXT:
    case FLAG_MODE: return;
    }
}

int changes_find(const Config *theirs, const Config *ours, Change changes[FLAGS_MOST]) {
    int count = 0;
    for (int g = 0; g < FLAG_GROUP_COUNT; g++) {
        if (strcmp(FLAG_GROUPS[g].title, "modes") == 0) continue; /* what to do now */
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            if (flag->type == FLAG_TEXT || flag->type == FLAG_MODE || class_of(flag->name) == FREE ||
                same_field(theirs, ours, flag))
                continue;
            Change *change = &changes[count++];
            *change = (Change){.flag = flag, .follows = ours->automatic[flag_number(flag)]};
            describe(theirs, flag, change->from);
            describe(ours, flag, change->to);
        }
    }
    return count;
}

bool change_needs_consent(const Change *change) { return class_of(change->flag->name) == CONSENT; }
