/* needs.c: see needs.h. */
#include "needs.h"
#include "command_line.h"

#include <stdio.h>
#include <string.h>

/*
 * A row: a flag, and what gives it an effect: one of the terms. A term is a flag that is set (a text, a mode, a number
 * that is not 0, a choice other than off), `flag=word|word` for some of its choices, `!flag` for one that is not set, or
 * `several-ranks`.
 */
typedef struct Need {
    const char *flag, *terms;
} Need;

/* Of these something is expected that would not be there. */
static const Need REFUSED[] = {
    {"save-every", "out"},     {"keep", "out"},           {"stats-every", "out"},
    {"val-every", "val-data"}, {"val-batches", "val-data"}, {"val-tokens", "val-data"},
};

/* These do nothing. */
static const Need IDLE[] = {
    {"rope-base", "positions=rope"},
    {"rope-scaling", "positions=rope"},
    {"rope-factor", "rope-scaling=linear|llama3"},
    {"rope-low-freq-factor", "rope-scaling=llama3"},
    {"rope-high-freq-factor", "rope-scaling=llama3"},
    {"rope-original-seq-len", "rope-scaling=llama3"},
    {"init-std", "!init-from"},
    {"init-std-embed", "!init-from"},
    {"pack-long", "pack=documents"},
    {"end-of-document", "doc-mask pack=documents"},
    {"final-norm-eps", "final-norm"},
    {"mix-post-layers", "placement=mix"},
    {"lns-init", "placement=lns"},
    {"deepnorm-init", "placement=deepnorm"},
    {"gpas-act", "gpas"},
    {"gpas-init", "gpas"},
    {"gpas-clip", "gpas"},
    {"clip-eps", "grad-clip gpas-clip"},
    {"sdd-eps", "sdd"},
    {"sdd-init-scale", "sdd"},
    {"dyt-alpha-attn", "norm=dyt"},
    {"dyt-alpha-other", "norm=dyt"},
    {"derf-alpha-attn", "norm=derf"},
    {"derf-alpha-other", "norm=derf"},
    {"bhyt-lambda-attn", "norm=bhyt|bhyt-exact"},
    {"bhyt-lambda-mlp", "norm=bhyt|bhyt-exact"},
    {"bhyt-lambda-final", "norm=bhyt|bhyt-exact"},
    {"bhyt-kappa", "norm=bhyt|bhyt-exact"},
    {"bhyt-gamma-var", "norm=bhyt"},
    {"bhyt-refresh", "norm=bhyt"},
    {"lr-final-frac", "lr-schedule=cosine|linear|wsd|cosine-restarts|inverse-sqrt"},
    {"wsd-decay-frac", "lr-schedule=wsd"},
    {"wsd-decay-steps", "lr-schedule=wsd"},
    {"restart-steps", "lr-schedule=cosine-restarts"},
    {"lr-from-zero", "warmup-steps"},
    {"decay-on", "weight-decay"},
    {"muon-momentum", "optimizer=muon"},
    {"muon-split", "optimizer=muon"},
    {"residual-dtype", "dtype=bf16"},
    {"gemm-tune", "device=cuda"},
    {"zero", "several-ranks"},
    {"bucket-mb", "several-ranks"},
    {"reduce-dtype", "several-ranks"},
    {"check-sync", "several-ranks"},
    {"eval-out", "eval"},
    {"max-new-tokens", "generate generate-tokens generate-file sample-every"},
    {"temperature", "generate generate-tokens generate-file sample-every"},
    {"top-k", "generate generate-tokens generate-file sample-every"},
    {"top-p", "generate generate-tokens generate-file sample-every"},
    {"stop-at-end", "generate generate-tokens generate-file sample-every"},
    {"top-k", "temperature"},
    {"top-p", "temperature"},
};

static bool is_set(const Config *config, const Flag *flag) {
    const void *field = (const char *)config + flag->offset;
    switch (flag->type) {
    case FLAG_TEXT: return *(const char *const *)field != NULL;
    case FLAG_REAL: return *(const double *)field != 0; /* auto is NaN */
    case FLAG_CHOICE: return strcmp(config_choice(flag->name, *(const int64_t *)field), "off") != 0;
    default: return *(const int64_t *)field != 0;
    }
}

static bool is_one_of(const char *word, const char *words) {
    const size_t length = strlen(word);
    for (const char *at = words;; at++) {
        const size_t span = strcspn(at, "|");
        if (span == length && memcmp(at, word, span) == 0) return true;
        at += span;
        if (!*at) return false;
    }
}

/* One term, as long as it is. */
static bool holds(const Config *config, const char *term) {
    if (strcmp(term, "several-ranks") == 0) return config->ranks > 1; /* as started, or as --dry-run plans */
    const bool negated = *term == '!';
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(term + negated, "="), term + negated);
    const Flag *flag = flag_find(name);
    const char *words = strchr(term, '=');
    if (!words) return is_set(config, flag) != negated;
    return is_one_of(config_choice(name, *(const int64_t *)((const char *)config + flag->offset)), words + 1);
}

/* Whether one of the terms holds. If not, `lacks` is what a person would have to change, "without --a or --b". */
static bool is_met(const Config *config, const char *terms, char lacks[256]) {
    char copy[128], *state = NULL, *end = lacks;
    snprintf(copy, sizeof copy, "%s", terms);
    for (char *term = strtok_r(copy, " ", &state); term; term = strtok_r(NULL, " ", &state)) {
        if (holds(config, term)) return true;
        const size_t room = (size_t)(lacks + 256 - end);
        if (strcmp(term, "several-ranks") == 0) end += snprintf(end, room, "with one rank");
        else if (*term == '!') end += snprintf(end, room, "with --%s", term + 1);
        else end += snprintf(end, room, "%s--%s", end == lacks ? "without " : " or ", term);
    }
    for (char *at = lacks; *at; at++)
        if (*at == '=') *at = ' ';
    return false;
}

/* Whether a flag's value is that of another config: of the defaults, one that nobody would miss. */
static bool same_value(const Config *a, const Config *b, const Flag *flag) {
    return memcmp((const char *)a + flag->offset, (const char *)b + flag->offset, sizeof(int64_t)) == 0;
}

/* Weights come from one place. (--resume auto beside --init-from is the first start and every later one.) */
static void check_one_origin(const Config *c, int argc, char **argv) {
    check(!c->resume || strcmp(c->resume, "auto") == 0 || !config_asks(argc, argv, "resume") ||
              !config_asks(argc, argv, "init-from"),
          "--resume %s and --init-from %s are two places to take the weights from; give one of them", c->resume,
          c->init_from);
}

void needs_check(const Config *c, int argc, char **argv) {
    char lacks[256];
    check_one_origin(c, argc, argv);
    if (c->eval_only || c->eval || config_generates(c) || c->probe) return; /* none of those keeps anything, or goes by steps */
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++) {
        const Need *need = &REFUSED[i];
        if (!config_asks(argc, argv, need->flag) || !is_set(c, flag_find(need->flag))) continue;
        check(is_met(c, need->terms, lacks), "--%s: nothing would come of it %s", need->flag, lacks);
    }
}

void needs_report(const Config *c, int argc, char **argv, void (*say)(void *, const char *), void *context) {
    Config defaults;
    char lacks[256], line[320];
    config_defaults(&defaults);
    for (size_t i = 0; i < sizeof IDLE / sizeof *IDLE; i++) {
        const Need *need = &IDLE[i];
        if (!config_asks(argc, argv, need->flag) || same_value(c, &defaults, flag_find(need->flag)) ||
            is_met(c, need->terms, lacks))
            continue;
        snprintf(line, sizeof line, "--%s has no effect %s", need->flag, lacks);
        say(context, line);
    }
}
