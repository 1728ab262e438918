/* config.c: how flags become a Config. The rows are in flags.c; config.h is the manual. */
#include "config.h"
#include "flags.h"
#include "variant.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AUTO_TEXT "auto"

static const Flag *find_flag(const char *name) {
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++)
            if (strcmp(FLAG_GROUPS[g].flags[i].name, name) == 0) return &FLAG_GROUPS[g].flags[i];
    return NULL;
}

/* Edits between two words (Levenshtein), for "did you mean". Words longer than the row are never near. */
static int edit_distance(const char *a, const char *b) {
    enum { LONGEST = 64 };
    int n = (int)strlen(a), m = (int)strlen(b), row[LONGEST + 1];
    if (n > LONGEST || m > LONGEST) return LONGEST;
    for (int j = 0; j <= m; j++) row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            int above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (above + 1 < best) best = above + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = above;
            row[j] = best;
        }
    }
    return row[m];
}

static const char *nearest_flag(const char *name) {
    const char *best = FLAG_GROUPS[0].flags[0].name;
    int best_distance = edit_distance(name, best);
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            int distance = edit_distance(name, FLAG_GROUPS[g].flags[i].name);
            if (distance < best_distance) best = FLAG_GROUPS[g].flags[i].name, best_distance = distance;
        }
    return best;
}

/* Position of a word among words separated by '|', or −1. */
static int choice_index(const char *choices, const char *word) {
    size_t length = strlen(word);
    int index = 0;
    for (const char *at = choices;; index++) {
        size_t span = strcspn(at, "|");
        if (span == length && memcmp(at, word, span) == 0) return index;
        if (at[span] == '\0') return -1;
        at += span + 1;
    }
}

const char *config_choice(const char *flag, int64_t value) {
    static _Thread_local char word[32];
    const char *at = find_flag(flag)->choices;
    while (value-- > 0) at += strcspn(at, "|") + 1;
    snprintf(word, sizeof word, "%.*s", (int)strcspn(at, "|"), at);
    return word;
}

static bool refuse_number(const Flag *flag, const char *value, const char *why, Error *error) {
    if (flag->type == FLAG_INT)
        return error_set(error, "--%s: '%s' is %s; allowed is %.0f to %.0f", flag->name, value, why, flag->min,
                         flag->max);
    return error_set(error, "--%s: '%s' is %s; allowed is %.15g to %.15g", flag->name, value, why, flag->min,
                     flag->max);
}

static bool set_number(Config *config, const Flag *flag, const char *value, Error *error) {
    void *field = (char *)config + flag->offset;
    bool whole = flag->type == FLAG_INT;
    const char *no_number = whole ? "not a whole number" : "not a number";
    if (flag->fallback && strcmp(flag->fallback, AUTO_TEXT) == 0 && strcmp(value, AUTO_TEXT) == 0) {
        if (whole) *(int64_t *)field = AUTO_INT;
        else *(double *)field = NAN;
        return true;
    }
    char *end = NULL;
    /* strtod also reads spaces, hexadecimal, "nan" and "inf": a number here is of these characters only. */
    bool plain = value[0] && strspn(value, "0123456789+-.eE") == strlen(value);
    double real = plain ? strtod(value, &end) : NAN; /* too large: infinite, out of every range */
    if (!plain || *end) return refuse_number(flag, value, no_number, error);
    if (!whole) {
        if (!(real >= flag->min && real <= flag->max)) return refuse_number(flag, value, "out of range", error);
        *(double *)field = real;
        return true;
    }
    errno = 0;
    long long integer = strtoll(value, &end, 10);
    if (*end) return refuse_number(flag, value, no_number, error);
    if (errno || !((double)integer >= flag->min && (double)integer <= flag->max))
        return refuse_number(flag, value, "out of range", error);
    *(int64_t *)field = integer;
    return true;
}

static bool text_fits(const Flag *flag, const char *value, Error *error) {
    size_t length = strlen(value);
    if (length < flag->min) return error_set(error, "--%s: the value is empty", flag->name);
    return length <= flag->max ||
           error_set(error, "--%s: %zu bytes are too long; the most is %.0f", flag->name, length, flag->max);
}

/* Texts live as long as the program; the list keeps them reachable, for leak checkers. */
typedef struct Text {
    struct Text *next;
    char bytes[];
} Text;
static Text *texts;

static bool set_text(const char **field, const Flag *flag, const char *value, Error *error) {
    if (!text_fits(flag, value, error)) return false;
    Text *text = must_malloc(sizeof *text + strlen(value) + 1, "a flag's value");
    strcpy(text->bytes, value);
    text->next = texts;
    texts = text;
    *field = text->bytes;
    return true;
}

void config_forget_texts(void) {
    for (Text *next; texts; texts = next) {
        next = texts->next;
        free(texts);
    }
}

static bool set_flag(Config *config, const Flag *flag, const char *value, Error *error) {
    void *field = (char *)config + flag->offset;
    switch (flag->type) {
    case FLAG_INT:
    case FLAG_REAL: return set_number(config, flag, value, error);
    case FLAG_TEXT: return set_text(field, flag, value, error);
    case FLAG_MODE: *(int64_t *)field = 1; return true;
    case FLAG_CHOICE: {
        int index = choice_index(flag->choices, value);
        if (index < 0 || strchr(value, '|'))
            return error_set(error, "--%s: '%s' is not one of %s", flag->name, value, flag->choices);
        *(int64_t *)field = index;
        return true;
    }
    }
    return false;
}

bool config_set(Config *config, const char *name, const char *value, Error *error) {
    const Flag *flag = find_flag(name);
    if (!flag) return error_set(error, "--%s: no such flag; the nearest is --%s", name, nearest_flag(name));
    return set_flag(config, flag, value, error);
}

bool config_set_all(Config *config, const char *settings, Error *error) {
    char *copy = must_malloc(strlen(settings) + 1, "settings"), *state = NULL;
    bool good = true;
    strcpy(copy, settings);
    for (char *word = strtok_r(copy, " ", &state); good && word; word = strtok_r(NULL, " ", &state)) {
        char *equals = strchr(word, '=');
        if (equals) *equals = '\0';
        good = equals ? config_set(config, word, equals + 1, error) : error_set(error, "'%s' is not name=value", word);
    }
    free(copy);
    return good;
}

void config_defaults(Config *config) {
    *config = (Config){0};
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            Error error = {0};
            if (flag->fallback && !set_flag(config, flag, flag->fallback, &error))
                fail(EXIT_RUNTIME, "default of %s", error.text);
        }
}

static void trim(const char **from, const char **to) {
    while (*from < *to && strchr(" \t\r", **from)) ++*from;
    while (*to > *from && strchr(" \t\r", (*to)[-1])) --*to;
}

enum { VALUE_SIZE = 8192 };

static int hex_digit(char c) {
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* The character that stands after a backslash, or −1; *at moves to its last byte. */
static int escaped(const char **at, const char *to) {
    if (to - *at < 2) return -1;
    char c = *++*at;
    if (c != 'x') return (unsigned char)c;
    if (to - *at < 3) return -1;
    int high = hex_digit((*at)[1]), low = hex_digit((*at)[2]);
    *at += 2;
    return high < 0 || low < 0 || high + low == 0 ? -1 : high * 16 + low;
}

/* "…" with \" \\ and \xHH: how config_write says what a plain value cannot. */
static bool read_quoted(const char *from, const char *to, char value[VALUE_SIZE], Error *error) {
    size_t length = 0;
    const char *at = from + 1;
    for (; at < to && *at != '"'; at++) {
        int c = *at == '\\' ? escaped(&at, to) : (unsigned char)*at;
        if (c < 0) return error_set(error, "a backslash takes one character, or x and two digits, 01 to ff");
        if (length + 1 >= VALUE_SIZE) return error_set(error, "a value is too long");
        value[length++] = (char)c;
    }
    value[length] = '\0';
    if (at >= to) return error_set(error, "a quoted value has no end");
    at++;
    trim(&at, &to);
    return at == to || *at == '#' || error_set(error, "found '%.*s' after a quoted value", (int)(to - at), at);
}

static bool read_value(const char *from, const char *to, char value[VALUE_SIZE], Error *error) {
    trim(&from, &to);
    if (from < to && *from == '"') return read_quoted(from, to, value, error);
    const char *comment = memchr(from, '#', (size_t)(to - from));
    if (comment) to = comment;
    trim(&from, &to);
    if (to - from >= VALUE_SIZE) return error_set(error, "a value is too long");
    snprintf(value, VALUE_SIZE, "%.*s", (int)(to - from), from);
    return true;
}

static bool parse_line(Config *config, const char *from, const char *to, Error *error) {
    trim(&from, &to);
    if (from == to || *from == '#') return true;
    const char *equals = memchr(from, '=', (size_t)(to - from));
    if (!equals) return error_set(error, "expected `name = value`, found '%.*s'", (int)(to - from), from);
    const char *name_end = equals;
    trim(&from, &name_end);
    char name[128], value[VALUE_SIZE];
    if (name_end - from >= (long)sizeof name) return error_set(error, "a name is too long");
    snprintf(name, sizeof name, "%.*s", (int)(name_end - from), from);
    const Flag *flag = find_flag(name);
    if (flag && (flag->type == FLAG_MODE || strcmp(name, "config") == 0))
        return error_set(error, "%s belongs on the command line", name);
    return read_value(equals + 1, to, value, error) && config_set(config, name, value, error);
}

bool config_parse_lines(Config *config, const char *bytes, size_t size, Error *error) {
    if (memchr(bytes, '\0', size)) return error_set(error, "not a text file: it holds a zero byte");
    int line = 1;
    for (const char *at = bytes, *end = bytes + size; at < end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        if (!stop) stop = end;
        Error inner = {0};
        if (!parse_line(config, at, stop, &inner)) return error_set(error, "line %d: %.440s", line, inner.text);
        at = stop + 1;
    }
    return true;
}

static bool read_config_file(Config *config, const char *path, Error *error) {
    enum { LARGEST = 1 << 20 };
    FILE *file = fopen(path, "rb");
    if (!file) return error_set(error, "%s: %s", path, strerror(errno));
    char *bytes = must_malloc(LARGEST + 1, "a config file");
    size_t size = fread(bytes, 1, LARGEST + 1, file);
    Error reason = {0};
    bool good = !ferror(file) || error_set(error, "%s: %s", path, strerror(errno));
    fclose(file);
    if (good && size > LARGEST) good = error_set(error, "%s: over %d bytes; that is no config file", path, LARGEST);
    good = good && (config_parse_lines(config, bytes, size, &reason) || error_set(error, "%s: %s", path, reason.text));
    free(bytes);
    return good;
}

static bool apply_preset(Config *config, const char *name, Error *error) {
    char names[512] = "";
    for (int i = 0; i < PRESET_COUNT; i++) {
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "", PRESETS[i].name);
        if (strcmp(PRESETS[i].name, name)) continue;
        Error reason = {0};
        require(config_set_all(config, PRESETS[i].settings, &reason), "preset %s: %s", name, reason.text);
        return true;
    }
    return error_set(error, "--preset: '%s' is not one of %s", name, names);
}

static void print_help(void) {
    printf("train_gpt: pretrains GPT- and LLaMA-style language models.\n\n"
           "  train_gpt --preset tiny --train-data 'DIR/x_train_*.bin' --val-data 'DIR/x_val_*.bin' --out RUN\n"
           "  train_gpt --resume RUN --generate \"Once\"\n\n"
           "Flags are --name value or --name=value. A --config FILE holds them as `name = value` lines.\n");
    for (int g = 0; g < FLAG_GROUP_COUNT; g++) {
        printf("\n%s\n", FLAG_GROUPS[g].title);
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            const char *value = flag->type == FLAG_MODE     ? ""
                                : flag->type == FLAG_CHOICE ? flag->choices
                                : flag->type == FLAG_TEXT   ? "TEXT"
                                                            : "N";
            char left[128];
            snprintf(left, sizeof left, "--%s %s", flag->name, value);
            printf("  %-40s %s", left, flag->help);
            if (flag->fallback) printf(" [%s]", flag->fallback);
            printf("\n");
        }
    }
    printf("\npresets\n");
    for (int i = 0; i < PRESET_COUNT; i++)
        printf("  %-12s %s\n               %s\n", PRESETS[i].name, PRESETS[i].help, PRESETS[i].settings);
    printf("\nexit codes: 0 done, 1 the machine failed, 2 bad usage or input, 3 training diverged\n");
}

/* The value of argument i, which names a flag; *i moves past what was used. */
static const char *argument_value(const Flag *flag, const char *inline_value, int argc, char **argv, int *i,
                                  Error *error) {
    if (flag->type == FLAG_MODE) {
        if (!inline_value) return "";
        error_set(error, "--%s takes no value", flag->name);
        return NULL;
    }
    if (inline_value) return inline_value;
    if (*i + 1 < argc) return argv[++*i];
    error_set(error, "--%s needs a value", flag->name);
    return NULL;
}

typedef struct Argument {
    const Flag *flag;
    const char *value;
} Argument;

/* Splits argv into flags and values; numbers and choices are not looked at yet. Returns how many, or −1. */
static int split_arguments(int argc, char **argv, Argument *arguments, Error *error) {
    int count = 0;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) != 0 || !argv[i][2])
            return error_set(error, "'%s' is not a flag; flags are --name value (see --help)", argv[i]), -1;
        char name[128];
        size_t span = strcspn(argv[i] + 2, "=");
        snprintf(name, sizeof name, "%.*s", (int)span, argv[i] + 2);
        const char *inline_value = argv[i][2 + span] == '=' ? argv[i] + 2 + span + 1 : NULL;
        const Flag *flag = find_flag(name);
        if (!flag)
            return error_set(error, "--%s: no such flag; the nearest is --%s (see --help)", name,
                             nearest_flag(name)), -1;
        const char *value = argument_value(flag, inline_value, argc, argv, &i, error);
        if (!value || (flag->type == FLAG_TEXT && !text_fits(flag, value, error))) return -1;
        arguments[count++] = (Argument){flag, value};
    }
    return count;
}

static const char *given(const Argument *arguments, int count, const char *name) {
    const char *value = NULL;
    for (int i = 0; i < count; i++)
        if (strcmp(arguments[i].flag->name, name) == 0) value = arguments[i].value;
    return value;
}

#ifndef VERSION
#define VERSION "unversioned"
#endif

const char *config_version(void) { return VERSION; }

static void print_version(void) {
    printf("train_gpt %s (%s, built with gcc %s)\n", config_version(),
#ifdef WITH_CUDA
           "cpu + cuda",
#else
           "cpu",
#endif
           __VERSION__);
}

/* split_arguments(), and what only asks for a text is answered. */
static int read_arguments(int argc, char **argv, Argument *arguments) {
    Error error = {0};
    int count = split_arguments(argc, argv, arguments, &error);
    check(count >= 0, "%s", error.text);
    if (given(arguments, count, "help")) print_help(), exit(EXIT_DONE);
    if (given(arguments, count, "version")) print_version(), exit(EXIT_DONE);
    if (given(arguments, count, "list-variants")) variant_print_table(), exit(EXIT_DONE);
    return count;
}

const char *config_peek(int argc, char **argv, const char *name) {
    Argument *arguments = must_calloc((size_t)argc, sizeof *arguments, "the command line");
    int count = read_arguments(argc, argv, arguments);
    const char *value = given(arguments, count, name), *file = given(arguments, count, "config");
    if (!value && file) {
        Config config;
        Error error = {0};
        config_defaults(&config);
        check(read_config_file(&config, file, &error), "%s", error.text);
        value = *(const char **)((char *)&config + find_flag(name)->offset);
    }
    free(arguments);
    return value;
}

static bool apply(Config *config, const Argument *arguments, int count, const char *base, Error *error) {
    config_defaults(config);
    if (base && !read_config_file(config, base, error)) return false;
    /* The preset of the command line wins over the file's, but both lie below every other setting of either. */
    Config from_file = *config;
    const char *file = given(arguments, count, "config");
    if (file && !read_config_file(&from_file, file, error)) return false;
    const char *preset = given(arguments, count, "preset");
    if (!preset) preset = from_file.preset;
    if (preset && !apply_preset(config, preset, error)) return false;
    if (file && !read_config_file(config, file, error)) return false;
    for (int i = 0; i < count; i++)
        if (!set_flag(config, arguments[i].flag, arguments[i].value, error)) return false;
    return true;
}

bool config_parse_arguments(Config *config, int argc, char **argv, const char *base, Error *error) {
    Argument *arguments = must_calloc((size_t)argc, sizeof *arguments, "the command line");
    int count = split_arguments(argc, argv, arguments, error);
    bool good = count >= 0 && apply(config, arguments, count, base, error);
    free(arguments);
    return good;
}

void config_parse(Config *config, int argc, char **argv, const char *base) {
    Argument *arguments = must_calloc((size_t)argc, sizeof *arguments, "the command line");
    int count = read_arguments(argc, argv, arguments);
    Error error = {0};
    check(apply(config, arguments, count, base, &error), "%s", error.text);
    free(arguments);
}

/* The text of a flag's present value; the field decides how. Returns text, or NULL for "not given". */
static const char *flag_value(const Config *config, const Flag *flag, char *text, size_t size) {
    const void *field = (const char *)config + flag->offset;
    switch (flag->type) {
    case FLAG_INT:
        if (*(const int64_t *)field == AUTO_INT) snprintf(text, size, AUTO_TEXT);
        else snprintf(text, size, "%lld", (long long)*(const int64_t *)field);
        return text;
    case FLAG_REAL:
        if (isnan(*(const double *)field)) snprintf(text, size, AUTO_TEXT);
        else snprintf(text, size, "%.17g", *(const double *)field);
        return text;
    case FLAG_TEXT: return *(const char *const *)field;
    case FLAG_CHOICE: return config_choice(flag->name, *(const int64_t *)field);
    case FLAG_MODE: return NULL;
    }
    return NULL;
}

/* Flags that say what to do now, not what the run is, are no part of config.ini. */
static bool is_setting(const char *name) {
    static const char *const DEEDS[] = {"config", "resume", "generate", "probe", "preset"};
    for (size_t i = 0; i < sizeof DEEDS / sizeof *DEEDS; i++)
        if (strcmp(DEEDS[i], name) == 0) return false;
    return true;
}

void config_visit(const Config *config, ConfigVisitor *visit, void *context) {
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            char text[64];
            const char *value = flag_value(config, flag, text, sizeof text);
            if (!value || !is_setting(flag->name)) continue;
            bool number = (flag->type == FLAG_INT || flag->type == FLAG_REAL) && strcmp(value, AUTO_TEXT);
            visit(flag->name, value, number, context);
        }
}

/* Whether parse_line would read the bare value as something else. */
static bool needs_quotes(const char *value) {
    size_t length = strlen(value);
    if (length == 0 || value[0] == '"' || strchr(" \t", value[0]) || strchr(" \t", value[length - 1])) return true;
    for (const char *at = value; *at; at++)
        if (*at == '#' || (unsigned char)*at < ' ') return true;
    return false;
}

static void write_line(const char *name, const char *value, bool is_number, void *context) {
    FILE *file = context;
    if (is_number || !needs_quotes(value)) {
        fprintf(file, "%s = %s\n", name, value);
        return;
    }
    fprintf(file, "%s = \"", name);
    for (const char *at = value; *at; at++) {
        if ((unsigned char)*at < ' ') fprintf(file, "\\x%02x", (unsigned)*at);
        else fprintf(file, *at == '"' || *at == '\\' ? "\\%c" : "%c", *at);
    }
    fprintf(file, "\"\n");
}

void config_write(const Config *config, FILE *file) { config_visit(config, write_line, file); }

/* ------------------------------------------------------------------------------------------------------ */

static void resolve_model(Config *c) {
    bool llama = c->arch == ARCH_LLAMA;
    if (c->positions == POSITIONS_AUTO) c->positions = llama ? POSITIONS_ROPE : POSITIONS_LEARNED;
    if (c->activation == ACTIVATION_FLAG_AUTO)
        c->activation = llama ? ACTIVATION_FLAG_SWIGLU : ACTIVATION_FLAG_GELU;
    if (c->bias == SWITCH_AUTO) c->bias = llama ? SWITCH_OFF : SWITCH_ON;
    if (c->tie_embeddings == SWITCH_AUTO) c->tie_embeddings = llama ? SWITCH_OFF : SWITCH_ON;
    if (c->norm == 0) c->norm = llama ? 2 : 1; /* rows of NORMS, counted from 1 */
    variant_resolve(c);
    if (isnan(c->init_std_embed)) c->init_std_embed = c->init_std;
    if (c->n_kv_head == AUTO_INT) c->n_kv_head = c->n_head;
    if (c->n_ffn == AUTO_INT)
        c->n_ffn = c->activation == ACTIVATION_FLAG_SWIGLU ? padded(c->n_embd * 8 / 3) : 4 * c->n_embd;
    if (c->vocab_size == AUTO_INT) c->vocab_size = llama ? 32000 : 50257;

    check(c->n_embd % c->n_head == 0, "--n-embd %lld is not a multiple of --n-head %lld", (long long)c->n_embd,
          (long long)c->n_head);
    check(c->n_head % c->n_kv_head == 0, "--n-head %lld is not a multiple of --n-kv-head %lld",
          (long long)c->n_head, (long long)c->n_kv_head);
    c->head_size = c->n_embd / c->n_head;
    check(c->head_size <= 256, "--n-embd %lld / --n-head %lld makes heads of %lld; 256 is the largest",
          (long long)c->n_embd, (long long)c->n_head, (long long)c->head_size);
    check(c->positions != POSITIONS_ROPE || c->head_size % 2 == 0,
          "--positions rope needs an even head size; --n-embd %lld / --n-head %lld is %lld", (long long)c->n_embd,
          (long long)c->n_head, (long long)c->head_size);
}

/* Each says what to do and then stops: two of them would leave one undone, unsaid. */
static void check_one_mode(const Config *c) {
    const struct {
        const char *name;
        bool given;
    } modes[] = {{"dry-run", c->dry_run},
                 {"smoke", c->smoke},
                 {"eval-only", c->eval_only},
                 {"generate", c->generate != NULL},
                 {"probe", c->probe != NULL}};
    const char *first = NULL;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (!modes[i].given) continue;
        check(!first, "--%s and --%s are two things to do; give one of them", first, modes[i].name);
        first = modes[i].name;
    }
}

void config_resolve(Config *c, int ranks) {
    check_one_mode(c);
    resolve_model(c);
    int64_t micro = c->batch_size * c->seq_len * ranks;
    check(micro <= INT32_MAX, "--batch-size %lld × --seq-len %lld × %d ranks is %lld tokens; the most is %d",
          (long long)c->batch_size, (long long)c->seq_len, ranks, (long long)micro, INT32_MAX);
    if (c->total_batch_tokens == AUTO_INT) c->total_batch_tokens = micro;
    check(c->total_batch_tokens % micro == 0,
          "--total-batch-tokens %lld is not a multiple of --batch-size %lld × --seq-len %lld × %d ranks = %lld",
          (long long)c->total_batch_tokens, (long long)c->batch_size, (long long)c->seq_len, ranks,
          (long long)micro);
    c->micro_steps = c->total_batch_tokens / micro;
    if (c->warmup_steps == AUTO_INT) {
        c->warmup_steps = c->steps / 100;
        if (c->warmup_steps > 700) c->warmup_steps = 700;
    }
    check(c->warmup_steps <= c->steps, "--warmup-steps %lld is more than --steps %lld", (long long)c->warmup_steps,
          (long long)c->steps);
    check(!c->resume || strcmp(c->resume, "auto") || c->out, "--resume auto looks into --out, which is not given");
}
