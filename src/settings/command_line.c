/* command_line.c: see command_line.h. */
#include "command_line.h"
#include "flags.h"
#include "suggest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A pipe (`--config <(…)`, /dev/stdin) tells what it holds once, and flags are read more than once: to find the checkpoint,
 * then over it. Kept as long as the program. */
typedef struct Told {
    const char *path; /* of argv */
    char *bytes;
    size_t size;
    struct Told *next;
} Told;

static Told *told;

static bool read_bytes(FILE *file, const char *path, char **bytes, size_t *size, Error *error) {
    enum { LARGEST = 1 << 20 };
    *bytes = must_malloc(LARGEST + 1, "a config file");
    *size = fread(*bytes, 1, LARGEST + 1, file);
    bool good = !ferror(file) || error_set(error, "%s: %s", path, strerror(errno));
    if (good && *size > LARGEST) good = error_set(error, "%s: over %d bytes; that is no config file", path, LARGEST);
    if (!good) free(*bytes);
    return good;
}

static bool parse_bytes(Config *config, const char *path, const char *bytes, size_t size, Error *error) {
    Error reason = {0};
    return config_parse_lines(config, bytes, size, &reason) || error_set(error, "%s: %s", path, reason.text);
}

static bool read_config_file(Config *config, const char *path, Error *error) {
    struct stat status;
    for (const Told *one = told; one; one = one->next)
        if (strcmp(one->path, path) == 0) return parse_bytes(config, path, one->bytes, one->size, error);
    FILE *file = fopen(path, "rb");
    if (!file) return error_set(error, "%s: %s", path, strerror(errno));
    char *bytes;
    size_t size;
    const bool again = fstat(fileno(file), &status) == 0 && S_ISREG(status.st_mode);
    bool good = read_bytes(file, path, &bytes, &size, error);
    fclose(file);
    if (!good) return false;
    good = parse_bytes(config, path, bytes, size, error);
    if (again) {
        free(bytes);
        return good;
    }
    Told *one = must_malloc(sizeof *one, "a config file");
    *one = (Told){path, bytes, size, told};
    told = one;
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
    return refuse_choice("preset", name, names, ',', error);
}

/* Whether an argument is one of our flags, rather than the value that the flag before it wants. */
static bool names_a_flag(const char *word) {
    char name[128];
    if (strncmp(word, "--", 2) != 0) return false;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    return flag_find(name) != NULL;
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
    if (*i + 1 < argc && !names_a_flag(argv[*i + 1])) return argv[++*i];
    if (*i + 1 < argc)
        error_set(error, "--%s needs a value, and %s is a flag; --%s=%s would take it for one", flag->name, argv[*i + 1],
                  flag->name, argv[*i + 1]);
    else error_set(error, "--%s needs a value", flag->name);
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
        const char *word = strcmp(argv[i], "-h") == 0 ? "--help" : strcmp(argv[i], "-V") == 0 ? "--version" : argv[i];
        const Argument *last = count ? &arguments[count - 1] : NULL;
        if (strncmp(word, "--", 2) != 0 || !word[2])
            return refuse_word(word, last ? last->flag : NULL, last ? last->value : NULL, error), -1;
        char name[128];
        size_t span = strcspn(word + 2, "=");
        snprintf(name, sizeof name, "%.*s", (int)span, word + 2);
        const char *inline_value = word[2 + span] == '=' ? word + 2 + span + 1 : NULL;
        const Flag *flag = flag_find(name);
        if (!flag) return refuse_name(name, error), -1;
        const char *value = argument_value(flag, inline_value, argc, argv, &i, error);
        if (!value || (flag->type == FLAG_TEXT && !flag_text_fits(flag, value, error))) return -1;
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

/* Every --config, in their order: as with all flags the later one wins. */
static bool read_config_files(Config *config, const Argument *arguments, int count, Error *error) {
    for (int i = 0; i < count; i++)
        if (strcmp(arguments[i].flag->name, "config") == 0 && !read_config_file(config, arguments[i].value, error)) return false;
    return true;
}

static int read_arguments(int argc, char **argv, Argument *arguments) {
    Error error = {0};
    int count = split_arguments(argc, argv, arguments, &error);
    check(count >= 0, "%s", error.text);
    return count;
}

const char *config_peek(int argc, char **argv, const char *name) {
    Argument *arguments = must_calloc((size_t)argc, sizeof *arguments, "the command line");
    int count = read_arguments(argc, argv, arguments);
    const char *value = given(arguments, count, name);
    if (!value) {
        Config config;
        Error error = {0};
        config_defaults(&config);
        check(read_config_files(&config, arguments, count, &error), "%s", error.text);
        value = *(const char **)((char *)&config + flag_find(name)->offset);
    }
    free(arguments);
    return value;
}

/* Onto what *config holds. */
static bool apply_over(Config *config, const Argument *arguments, int count, Error *error) {
    /* The preset of the command line wins over the files', but all lie below every other setting of any. */
    Config from_files = *config;
    if (!read_config_files(&from_files, arguments, count, error)) return false;
    const char *preset = given(arguments, count, "preset");
    if (!preset) preset = from_files.preset;
    if (preset && !apply_preset(config, preset, error)) return false;
    if (!read_config_files(config, arguments, count, error)) return false;
    for (int i = 0; i < count; i++)
        if (!config_set(config, arguments[i].flag->name, arguments[i].value, error)) return false;
    config_reopen(config); /* `auto (10)` in a config file tells of another run */
    return true;
}

static bool apply(Config *config, const Argument *arguments, int count, const char *base, Error *error) {
    config_defaults(config);
    if (base && !read_config_file(config, base, error)) return false;
    config_reopen(config);
    return apply_over(config, arguments, count, error);
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

void config_parse_over(Config *config, int argc, char **argv) {
    Argument *arguments = must_calloc((size_t)argc, sizeof *arguments, "the command line");
    int count = read_arguments(argc, argv, arguments);
    Error error = {0};
    check(apply_over(config, arguments, count, &error), "%s", error.text);
    free(arguments);
}

void config_read_base(Config *config, const char *base) {
    Error error = {0};
    config_defaults(config);
    check(read_config_file(config, base, &error), "%s", error.text);
}

bool config_asks(int argc, char **argv, const char *name) {
    Argument *arguments = must_calloc((size_t)argc, sizeof *arguments, "the command line");
    int count = read_arguments(argc, argv, arguments);
    bool asks = given(arguments, count, name) != NULL;
    free(arguments);
    return asks;
}
