/* variant_cases.c: see variant_cases.h. */
#include "variant_cases.h"
#include "../src/base/check.h"
#include "../src/base/philox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS(...)                                                                                           \
    (const char *const[]) {                                                                                  \
        __VA_ARGS__                                                                                          \
    }
#define FACTOR(name, ...)                                                                                    \
    { name, sizeof(WORDS(__VA_ARGS__)) / sizeof(char *), WORDS(__VA_ARGS__) }

#define SDD_WORDS  "sdd=off", "sdd=paper", "sdd=released"
#define NORM_WORDS "norm=layernorm", "norm=rmsnorm", "norm=dyt", "norm=bhyt-exact", "norm=bhyt", "norm=derf"

const Factor METHODS[] = {
    FACTOR("norm", NORM_WORDS),
    FACTOR("placement", "placement=pre", "placement=post", "placement=sandwich", "placement=deepnorm",
           "placement=mix mix-post-layers=1", "placement=lns", "placement=res-post", "placement=keel",
           "placement=hybrid", "placement=hybrid-first"),
    FACTOR("gpas", "gpas=off", "gpas=layer", "gpas=sublayer"),
    FACTOR("sdd", SDD_WORDS),
};
const int METHOD_COUNT = sizeof METHODS / sizeof *METHODS;

/* With two layers, mix has post-type ones in the lower half or everywhere. */
const Factor EVERYTHING[] = {
    FACTOR("norm", NORM_WORDS, "norm=bhyt bhyt-gamma-var=on"),
    FACTOR("placement", "placement=pre", "placement=post", "placement=sandwich", "placement=deepnorm",
           "placement=mix mix-post-layers=0", "placement=mix mix-post-layers=1",
           "placement=mix mix-post-layers=2", "placement=lns", "placement=lns lns-init=on", "placement=res-post",
           /* 2L·x would saturate them */
           "placement=keel dyt-alpha-attn=0.2 dyt-alpha-other=0.2 derf-alpha-attn=0.2 derf-alpha-other=0.2",
           "placement=hybrid", "placement=hybrid-first"),
    FACTOR("gpas", "gpas=off", "gpas=layer gpas-act=silu", "gpas=layer gpas-act=identity",
           "gpas=layer gpas-act=relu", "gpas=layer gpas-act=tanh", "gpas=layer gpas-act=leaky-relu",
           "gpas=sublayer gpas-act=silu", "gpas=sublayer gpas-act=identity", "gpas=sublayer gpas-act=relu",
           "gpas=sublayer gpas-act=tanh", "gpas=sublayer gpas-act=leaky-relu"),
    FACTOR("sdd", SDD_WORDS, "qk-norm=head", "qk-norm=projection"), /* which norms q and k, too: one or the other */
    FACTOR("arch", "arch=gpt2", "arch=llama n-kv-head=1", "arch=llama head-dim=6 bias=qkv activation=gelu-exact"),
    FACTOR("layers", "n-layer=2", "n-layer=5"),
    FACTOR("embed-norm", "embed-norm=off", "embed-norm=on"),
    FACTOR("embed-scale", "embed-scale=off", "embed-scale=on"),
    FACTOR("final-norm", "final-norm=off", "final-norm=on"),
    FACTOR("lambda-final", "bhyt-lambda-final=0", "bhyt-lambda-final=4 bhyt-kappa=7 final-norm-eps=1e-3"),
};
const int EVERYTHING_COUNT = sizeof EVERYTHING / sizeof *EVERYTHING;

long variant_count(const Factor *factors, int count) {
    long n = 1;
    for (int f = 0; f < count; f++) n *= factors[f].count;
    return n;
}

VariantCase variant_case(const Factor *factors, int count, long i) {
    VariantCase c = {{0}};
    for (int f = count - 1; f >= 0; i /= factors[f].count, f--) c.word[f] = (int)(i % factors[f].count);
    return c;
}

void variant_settings(const Factor *factors, int count, const VariantCase *c, char *text, size_t size) {
    size_t n = 0;
    text[0] = '\0';
    for (int f = 0; f < count && n < size; f++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", f ? " " : "", factors[f].words[c->word[f]]);
    require(n < size, "settings of %zu bytes are too long", n);
}

bool variant_is_legal(const char *settings) {
    bool norms_qkv = strstr(settings, "placement=hybrid"), elsewhere = strstr(settings, "qk-norm=") ||
                     strstr(settings, "sdd=paper") || strstr(settings, "sdd=released");
    if (norms_qkv && elsewhere) return false;
    bool approximates =
        strstr(settings, "norm=bhyt ") || strcmp(settings + strlen(settings) - 9, "norm=bhyt") == 0;
    return !approximates || strstr(settings, "placement=pre") || strstr(settings, "placement=lns");
}

int variants_every(void) {
    const char *text = getenv("VARIANTS_EVERY");
    int every = text ? atoi(text) : 1;
    require(every >= 1 && every <= 100, "VARIANTS_EVERY=%s: a number from 1 to 100", text);
    return every;
}

int variant_for_each(const char *shape, void (*test)(const char *settings)) {
    int legal = 0, every = variants_every();
    for (long i = 0; i < variant_count(METHODS, METHOD_COUNT); i++) {
        char methods[256], settings[640];
        VariantCase c = variant_case(METHODS, METHOD_COUNT, i);
        variant_settings(METHODS, METHOD_COUNT, &c, methods, sizeof methods);
        if (!variant_is_legal(methods)) continue;
        bool gpt2 = (c.word[0] + c.word[1] + c.word[2] + c.word[3]) % 2;
        snprintf(settings, sizeof settings, "%s %s %s", shape, gpt2 ? "arch=gpt2" : "arch=llama n-kv-head=1",
                 methods);
        if (i % every == 0) test(settings);
        legal++;
    }
    return legal;
}

static bool is_legal(const Factor *factors, int count, const VariantCase *c) {
    char settings[512];
    variant_settings(factors, count, c, settings, sizeof settings);
    return variant_is_legal(settings);
}

bool variant_covers(const VariantCase *cases, int n, int f, int a, int g, int b) {
    for (int i = 0; i < n; i++)
        if (cases[i].word[f] == a && cases[i].word[g] == b) return true;
    return false;
}

bool variant_may_meet(const Factor *factors, int count, int f, int a, int g, int b) {
    for (int norm = 0; norm < factors[0].count; norm++)
        for (int placement = 0; placement < factors[1].count; placement++) {
            VariantCase c = {{norm, placement}}; /* the rules are theirs, and off is what others begin with */
            c.word[f] = a;
            c.word[g] = b;
            if (is_legal(factors, count, &c)) return true;
        }
    return false;
}

static int new_pairs(const VariantCase *cases, int n, const VariantCase *c, int count) {
    int new = 0;
    for (int f = 0; f < count; f++)
        for (int g = f + 1; g < count; g++) new += !variant_covers(cases, n, f, c->word[f], g, c->word[g]);
    return new;
}

/* A case with both words, the others drawn; the best of some drawings. */
static VariantCase best_with(const Factor *factors, int count, const VariantCase *cases, int n, int f, int a,
                             int g, int b) {
    enum { DRAWINGS = 60 };
    VariantCase best = {{0}};
    int most = -1;
    uint64_t drawing = 0;
    for (int legal = 0; legal < DRAWINGS; drawing++) {
        VariantCase c = {{0}};
        for (int h = 0; h < count; h++)
            c.word[h] = (int)(philox_uniform((uint64_t)n, drawing, (uint64_t)h) * factors[h].count);
        c.word[f] = a;
        c.word[g] = b;
        if (!is_legal(factors, count, &c)) continue;
        legal++;
        int new = new_pairs(cases, n, &c, count);
        if (new > most) best = c, most = new;
    }
    return best;
}

int variant_cover(const Factor *factors, int count, VariantCase **cases) {
    int n = 0, most = 0;
    for (int f = 0; f < count; f++)
        for (int g = f + 1; g < count; g++) most += factors[f].count * factors[g].count;
    *cases = must_calloc((size_t)most, sizeof **cases, "cases");
    for (int f = 0; f < count; f++)
        for (int g = f + 1; g < count; g++)
            for (int a = 0; a < factors[f].count; a++)
                for (int b = 0; b < factors[g].count; b++) {
                    if (variant_covers(*cases, n, f, a, g, b) ||
                        !variant_may_meet(factors, count, f, a, g, b))
                        continue;
                    (*cases)[n] = best_with(factors, count, *cases, n, f, a, g, b);
                    n++;
                }
    return n;
}
