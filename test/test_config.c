/*
 * test_config.c: flags and config files: is every wrong value refused with one line that names it, does a
 * written config read back as the same one, and does config_resolve() let nothing through that does not fit
 * together?
 */
#include "../src/settings/flags.h"
#include "../src/base/philox.h"
#include "../src/settings/command_line.h"
#include "../src/settings/resolve.h"
#include "settings.h"

#include <math.h>
#include <stdlib.h>

/* ------------------------------------------------------------------------------------------------------
 * Helpers
 * ---------------------------------------------------------------------------------------------------- */

typedef void FlagVisitor(const Flag *flag);

static void for_each_flag(FlagVisitor *visit) {
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) visit(&FLAG_GROUPS[g].flags[i]);
}

static bool is_auto(const Flag *flag) {
    return flag->fallback && strcmp(flag->fallback, "auto") == 0;
}

/* The value is refused in one line that names the flag, and the config is as it was. */
static void assert_refused(const Flag *flag, const char *value) {
    Config before, config;
    Error error = {0};
    config_defaults(&before);
    memcpy(&config, &before, sizeof config);
    if (config_set(&config, flag->name, value, &error)) fail_msg("--%s took '%.40s'", flag->name, value);
    assert_non_null(strstr(error.text, flag->name));
    assert_null(strchr(error.text, '\n'));
    assert_memory_equal(&config, &before, sizeof config);
}

static void assert_taken(const Flag *flag, const char *value) {
    Config config;
    Error error = {0};
    config_defaults(&config);
    if (!config_set(&config, flag->name, value, &error)) fail_msg("%s", error.text);
}

static bool parse(Config *config, const char *lines, Error *error) {
    *error = (Error){0};
    return config_parse_lines(config, lines, strlen(lines), error);
}

/* ------------------------------------------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------------------------------------- */

static void refuse_wrong_numbers(const Flag *flag) {
    static const char *const WRONG[] = {
        "",     " ",        " 1",    "1 ",     "nan",  "NaN",   "-nan", "inf",
        "-inf", "infinity", "1e999", "-1e999", "0x10", "0x1p3", "1,5",  "12abc",
        "--5",  "+",        "-",     ".",      "e",    "1e",    "1e+",  "99999999999999999999999999",
        "1\n",  "٣",        "none"};
    if (flag->type != FLAG_INT && flag->type != FLAG_REAL) return;
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) assert_refused(flag, WRONG[i]);
    if (!is_auto(flag)) assert_refused(flag, "auto");
    char text[64];
    if (flag->type == FLAG_INT) {
        const char *const FRACTIONS[] = {
            "1.5", "1.0", "1e0", "2e1", "9223372036854775808", "-9223372036854775809"};
        for (size_t i = 0; i < sizeof FRACTIONS / sizeof *FRACTIONS; i++) assert_refused(flag, FRACTIONS[i]);
        snprintf(text, sizeof text, "%.0f", flag->min - 1);
        assert_refused(flag, text);
        snprintf(text, sizeof text, "%lld", (long long)flag->max + 1);
        assert_refused(flag, text);
        assert_refused(flag, "-9223372036854775808"); /* AUTO_INT's value is no way to say auto */
        return;
    }
    snprintf(text, sizeof text, "%.17g", nextafter(flag->max, INFINITY));
    assert_refused(flag, text);
    snprintf(text, sizeof text, "%.17g", nextafter(flag->min, -INFINITY));
    if (flag->min == 0) snprintf(text, sizeof text, "-1e-300");
    assert_refused(flag, text);
}

static void every_number_refuses_what_is_none_or_out_of_range(void **state) {
    (void)state;
    for_each_flag(refuse_wrong_numbers);
}

static void take_bounds(const Flag *flag) {
    char text[64];
    if (flag->fallback) assert_taken(flag, flag->fallback);
    if (flag->type != FLAG_INT && flag->type != FLAG_REAL) return;
    const double bounds[] = {flag->min, flag->max};
    for (int i = 0; i < 2; i++) {
        Config config;
        Error error = {0};
        config_defaults(&config);
        snprintf(text, sizeof text, flag->type == FLAG_INT ? "%.0f" : "%.17g", bounds[i]);
        if (!config_set(&config, flag->name, text, &error)) fail_msg("%s", error.text);
        const void *field = (const char *)&config + flag->offset;
        double got = flag->type == FLAG_INT ? (double)*(const int64_t *)field : *(const double *)field;
        assert_true(got == bounds[i]);
    }
    if (flag->type == FLAG_REAL && flag->min == 0) assert_taken(flag, "1e-999"); /* too small is zero */
}

static void every_number_takes_its_bounds_and_its_default(void **state) {
    (void)state;
    for_each_flag(take_bounds);
}

static void refuse_wrong_choices(const Flag *flag) {
    if (flag->type != FLAG_CHOICE) return;
    char text[64];
    const char *const WRONG[] = {"", "|", "nonsense", "AUTO", "9", " "};
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) assert_refused(flag, WRONG[i]);
    if (strchr(flag->choices, '|')) assert_refused(flag, flag->choices);
    int first = (int)strcspn(flag->choices, "|");
    snprintf(text, sizeof text, "%.*s", first - 1, flag->choices);
    assert_refused(flag, text); /* the start of a word is not the word */
    snprintf(text, sizeof text, "%.*s ", first, flag->choices);
    assert_refused(flag, text);
    snprintf(text, sizeof text, "%.*s|", first, flag->choices);
    assert_refused(flag, text);
}

static void every_choice_refuses_other_words(void **state) {
    (void)state;
    for_each_flag(refuse_wrong_choices);
}

static void take_every_word(const Flag *flag) {
    if (flag->type != FLAG_CHOICE) return;
    int64_t index = 0;
    for (const char *at = flag->choices;; index++) {
        char word[64];
        Config config;
        Error error = {0};
        size_t span = strcspn(at, "|");
        snprintf(word, sizeof word, "%.*s", (int)span, at);
        config_defaults(&config);
        assert_true(config_set(&config, flag->name, word, &error));
        assert_true(*(int64_t *)((char *)&config + flag->offset) == index);
        assert_string_equal(config_choice(flag->name, index), word);
        if (!at[span]) return;
        at += span + 1;
    }
}

static void every_choice_is_the_position_of_its_word(void **state) {
    (void)state;
    for_each_flag(take_every_word);
}

static void refuse_wrong_texts(const Flag *flag) {
    static char long_text[2000000];
    if (flag->type != FLAG_TEXT) return;
    memset(long_text, 'x', sizeof long_text - 1);
    assert_refused(flag, long_text);
    if (flag->min > 0)
        assert_refused(flag, "");
    else
        assert_taken(flag, "");
}

static void a_text_is_neither_empty_nor_endless_but_a_prompt_may_be_empty(void **state) {
    (void)state;
    for_each_flag(refuse_wrong_texts);
}

static void a_name_of_any_length_is_refused_without_harm(void **state) {
    (void)state;
    char name[4096];
    for (size_t length = 1; length < sizeof name; length = length * 3 / 2 + 1) {
        Config config;
        Error error = {0};
        memset(name, 'a', length);
        name[length] = '\0';
        config_defaults(&config);
        assert_false(config_set(&config, name, "1", &error));
        assert_true(strlen(error.text) < sizeof error.text);
    }
}

/* ------------------------------------------------------------------------------------------------------
 * Config files
 * ---------------------------------------------------------------------------------------------------- */

static void a_file_may_hold_comments_blanks_carriage_returns_and_no_last_newline(void **state) {
    (void)state;
    Config config;
    Error error;
    config_defaults(&config);
    const char *lines =
        "# a comment = with an equals sign\n\n   \t\r\n  n-layer=3\r\nlr = 1e-3 # peak\n"
        "train-data\t=\tdata/x y.bin\nout = a=b\nval-data = \" # \\\"\\\\\\x0a\" # rest\nsteps = 7";
    if (!parse(&config, lines, &error)) fail_msg("%s", error.text);
    assert_int_equal(config.n_layer, 3);
    assert_true(config.lr == 1e-3);
    assert_string_equal(config.train_data, "data/x y.bin");
    assert_string_equal(config.out, "a=b");
    assert_string_equal(config.val_data, " # \"\\\n");
    assert_int_equal(config.steps, 7);
}

static void a_wrong_line_is_refused_by_its_number(void **state) {
    (void)state;
    static const char *const WRONG[] = {"n-layer",         "= 3",
                                        "n-layer =",       "n-layer = 3 4",
                                        "n-layer = three", "n-layers = 3",
                                        "--n-layer = 3",   "lr = nan",
                                        "lr = 1e999",      "seed = 0x10",
                                        "out =",           "out = # nothing",
                                        "smoke = 1",       "help =",
                                        "dry-run = yes",   "config = other.ini",
                                        "out = \"",        "out = \"x",
                                        "out = \"x\" y",   "out = \"x\\",
                                        "out = \"\\x\"",   "out = \"\\x0g\"",
                                        "out = \"\\x00\"", "out = \"\"",
                                        "[model]",         "\x01\x02 = 3",
                                        "n-layer = \"3",   "preset: tiny"};
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        Config config;
        Error error;
        char lines[256];
        config_defaults(&config);
        snprintf(lines, sizeof lines, "steps = 5\n\n%s\nlr = 1\n", WRONG[i]);
        if (parse(&config, lines, &error)) fail_msg("taken: %s", WRONG[i]);
        if (!strstr(error.text, "line 3")) fail_msg("'%s' does not name line 3", error.text);
        for (const char *at = error.text; *at; at++) assert_true((unsigned char)*at >= ' ');
    }
}

static void zero_bytes_and_endless_lines_are_refused(void **state) {
    (void)state;
    static char lines[100000];
    Config config;
    Error error = {0};
    config_defaults(&config);
    assert_false(config_parse_lines(&config, "lr = 1\0\n", 8, &error));
    const char *const STARTS[] = {"out = ", "out = \"", "", "="};
    for (size_t i = 0; i < sizeof STARTS / sizeof *STARTS; i++) {
        memset(lines, 'y', sizeof lines);
        memcpy(lines, STARTS[i], strlen(STARTS[i]));
        error = (Error){0};
        assert_false(config_parse_lines(&config, lines, sizeof lines, &error));
        assert_true(error.text[0] != '\0');
    }
    error = (Error){0};
    assert_true(config_parse_lines(&config, "", 0, &error));
}

/* Any bytes: no crash (the sanitizers watch), and a refusal always says why. */
static void random_bytes_are_taken_or_refused_with_a_reason(void **state) {
    (void)state;
    const char alphabet[] = "\"\\x0a#= \t\r\nlrsteponu-1.e5";
    uint64_t stream = philox_name_hash("random bytes");
    int taken = 0;
    for (uint64_t round = 0; round < 20000; round++) {
        char bytes[24];
        for (size_t i = 0; i < sizeof bytes; i++) {
            double u = philox_uniform(3, stream, round * sizeof bytes + i);
            bytes[i] = alphabet[(size_t)(u * (double)(sizeof alphabet - 1))];
        }
        memcpy(bytes, round % 2 ? "out=\"" : "lr =1", 5);
        Config config;
        Error error = {0};
        config_defaults(&config);
        if (config_parse_lines(&config, bytes, sizeof bytes, &error))
            taken++;
        else
            assert_true(error.text[0] != '\0');
    }
    assert_true(taken > 10 && taken < 19000); /* both ways were walked */
}

/* ------------------------------------------------------------------------------------------------------
 * Round trip
 * ---------------------------------------------------------------------------------------------------- */

static uint64_t draws;
static double uniform(void) {
    return philox_uniform(11, philox_name_hash("round trip"), draws++);
}

static void random_text(char *text, size_t size) {
    static const char *const PIECES[] = {"a",  " ", "#",   "\"", "\\",   "\n",   "\t",  "=",
                                         "\r", "ü", "x41", "*",  "auto", "\x7f", "\x1b"};
    text[0] = '\0';
    int pieces = 1 + (int)(uniform() * 8);
    for (int i = 0; i < pieces; i++)
        strncat(text, PIECES[(size_t)(uniform() * (sizeof PIECES / sizeof *PIECES))],
                size - strlen(text) - 1);
}

static Config drawn; /* what draw() fills */

static void draw(const Flag *flag) {
    char text[128] = "";
    Error error = {0};
    int words = 1;
    switch (flag->type) {
    case FLAG_INT:
        if (is_auto(flag) && uniform() < 0.2)
            snprintf(text, sizeof text, "auto");
        else
            snprintf(text, sizeof text, "%.0f",
                     flag->min + floor(uniform() * uniform() * (flag->max - flag->min)));
        break;
    case FLAG_REAL:
        if (is_auto(flag) && uniform() < 0.2)
            snprintf(text, sizeof text, "auto");
        else
            snprintf(text, sizeof text, "%.17g", flag->min + uniform() * uniform() * (flag->max - flag->min));
        break;
    case FLAG_CHOICE:
        for (const char *at = flag->choices; *at; at++) words += *at == '|';
        snprintf(text, sizeof text, "%s", config_choice(flag->name, (int64_t)(uniform() * words)));
        break;
    case FLAG_SET:
        for (const char *at = flag->choices; *at; at++) words += *at == '|';
        snprintf(text, sizeof text, "%s", config_choice(flag->name, (int64_t)(uniform() * words)));
        snprintf(text + strlen(text), sizeof text - strlen(text), ",%s", config_choice(flag->name, (int64_t)(uniform() * words)));
        break;
    case FLAG_TEXT:
        if (uniform() < 0.3) return;
        random_text(text, sizeof text);
        break;
    case FLAG_MODE:
        return;
    }
    if (!config_set(&drawn, flag->name, text, &error)) fail_msg("%s", error.text);
}

typedef struct Seen {
    char text[8192]; /* every flag's name and value, one after the other */
    size_t used;
} Seen;

static void note(const char *name, const char *value, bool is_number, void *context) {
    Seen *seen = context;
    seen->used += (size_t)snprintf(seen->text + seen->used, sizeof seen->text - seen->used, "%s\1%s\1%d\2",
                                   name, value, is_number);
    assert_true(seen->used < sizeof seen->text);
}

static void what_is_written_reads_back_as_the_same(void **state) {
    (void)state;
    for (int round = 0; round < 500; round++) {
        static Seen before, after;
        Config read;
        Error error = {0};
        char *bytes = NULL;
        size_t size = 0;
        config_defaults(&drawn);
        for_each_flag(draw);
        FILE *file = open_memstream(&bytes, &size);
        config_write(&drawn, file);
        fclose(file);
        config_defaults(&read);
        if (!config_parse_lines(&read, bytes, size, &error)) fail_msg("%s in\n%s", error.text, bytes);
        before.used = after.used = 0;
        config_visit(&drawn, note, &before);
        config_visit(&read, note, &after);
        if (strcmp(before.text, after.text)) fail_msg("not the same after reading\n%s", bytes);
        /* Not only as text: reals keep every bit. */
        assert_memory_equal(&read.lr, &drawn.lr, sizeof read.lr);
        assert_memory_equal(&read.rope_base, &drawn.rope_base, sizeof read.rope_base);
        free(bytes);
    }
}

static void find_lr(const char *name, const char *value, bool is_number, void *context) {
    if (is_number && strcmp(name, "lr") == 0) snprintf(context, 64, "%s", value);
}

static void a_number_is_written_as_short_as_it_reads_back(void **state) {
    (void)state;
    static const char *const SAME[] = {"0.1",   "0.0006", "0.3",     "0.95", "1e-08",  "0.333333333333333",
                                       "3e-05", "99.99",  "1e-200",  "0",    "1e-05",  "0.30000000000000004",
                                       "0.7",   "7",      "1.1e-05", "100",  "2.2e-16", "0.1234567890123456"};
    for (size_t i = 0; i < sizeof SAME / sizeof *SAME; i++) {
        Config config;
        Error error = {0};
        char written[64] = "";
        config_defaults(&config);
        if (!config_set(&config, "lr", SAME[i], &error)) fail_msg("%s", error.text);
        config_visit(&config, find_lr, written);
        assert_string_equal(written, SAME[i]);
    }
}

static void what_auto_came_to_is_written_beside_it_and_reads_back_so(void **state) {
    (void)state;
    Config config, read;
    Error error = {0};
    char *bytes = NULL;
    size_t size = 0;
    configure_raw(&config, "n-embd=64 n-head=2 steps=1000 batch-size=2 seq-len=16 bias=off");
    config_resolve(&config, 1);
    FILE *file = open_memstream(&bytes, &size);
    config_write(&config, file);
    fclose(file);
    static const char *const LINES[] = {"\nwarmup-steps = auto (10)\n", "\ntotal-batch-tokens = auto (32)\n",
                                        "\nnorm = auto (layernorm)\n", "\nnorm-eps = auto (1e-05)\n", "\nbias = off\n",
                                        "\nval-batches = auto\n"};
    for (size_t i = 0; i < sizeof LINES / sizeof *LINES; i++)
        if (!strstr(bytes, LINES[i])) fail_msg("no line %s in\n%s", LINES[i], bytes);
    config_defaults(&read);
    if (!config_parse_lines(&read, bytes, size, &error)) fail_msg("%s", error.text);
    assert_true(read.warmup_steps == 10 && read.total_batch_tokens == 32 && read.norm_eps == 1e-5);
    assert_memory_equal(read.automatic, config.automatic, sizeof read.automatic);
    config_reopen(&read);
    assert_true(read.warmup_steps == AUTO_INT && isnan(read.norm_eps) && read.norm == 0);
    assert_int_equal(read.bias, SWITCH_OFF); /* what was given stays */
    free(bytes);
    static const char *const WRONG[][2] = {{"steps", "auto (3)"}, {"warmup-steps", "auto (x)"}, {"warmup-steps", "auto ()"},
                                           {"warmup-steps", "auto (3"}, {"warmup-steps", "auto(3)"}, {"norm", "auto (none)"},
                                           {"norm", "auto (auto|layernorm)"}, {"norm-eps", "auto (7)"}, {"norm-eps", "auto ("}};
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        Config before = read;
        assert_false(config_set(&read, WRONG[i][0], WRONG[i][1], &error));
        assert_memory_equal(&before, &read, sizeof read);
    }
}

static void deeds_are_no_part_of_what_is_written(void **state) {
    (void)state;
    Config config;
    char *bytes = NULL;
    size_t size = 0;
    configure_raw(&config, "resume=auto generate=x probe=y config=z preset=tiny out=here smoke=");
    FILE *file = open_memstream(&bytes, &size);
    config_write(&config, file);
    fclose(file);
    assert_non_null(strstr(bytes, "out = here\n"));
    const char *const DEEDS[] = {"resume", "generate", "probe", "config",
                                 "preset", "smoke",    "help",  "dry-run", "ranks"};
    for (size_t i = 0; i < sizeof DEEDS / sizeof *DEEDS; i++) {
        char line[64];
        snprintf(line, sizeof line, "\n%s =", DEEDS[i]);
        assert_null(strstr(bytes, line));
    }
    free(bytes);
}

/* ------------------------------------------------------------------------------------------------------
 * What fits together
 * ---------------------------------------------------------------------------------------------------- */

static void what_does_not_fit_together_is_refused_in_one_line(void **state) {
    (void)state;
    static const char *const WRONG[][2] = {
        {"n-embd=100 n-head=3", "--n-embd 100 is not a multiple of --n-head 3"},
        {"n-embd=2 n-head=3", "--n-head"},
        {"n-embd=64 n-head=4 n-kv-head=3", "--n-kv-head 3"},
        {"n-embd=64 n-head=4 n-kv-head=8", "--n-kv-head 8"},
        {"arch=llama n-embd=63 n-head=3", "rope"},
        {"positions=rope n-embd=9 n-head=3", "rope"},
        {"n-embd=1024 n-head=2", "256 is the largest"},
        {"n-embd=65536 n-head=1", "256 is the largest"},
        {"batch-size=8 seq-len=64 total-batch-tokens=1000", "--total-batch-tokens 1000"},
        {"batch-size=8 seq-len=64 total-batch-tokens=256", "--total-batch-tokens 256"},
        {"steps=10 warmup-steps=11", "--warmup-steps 11"},
        {"batch-size=1000000 seq-len=1000000", "--batch-size 1000000"},
        {"batch-size=1048576 seq-len=1048576", "1099511627776"},
        {"batch-size=2048 seq-len=1048576", "2147483648"},
        {"resume=auto", "--out"},
    };
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        const char *const says[] = {WRONG[i][1], NULL};
        assert_resolve_refuses(WRONG[i][0], says);
    }
}

static void what_fits_at_the_border_is_taken(void **state) {
    (void)state;
    static const char *const RIGHT[] = {
        "n-embd=1 n-head=1 n-layer=1 seq-len=1 vocab-size=2 batch-size=1 steps=1",
        "n-embd=256 n-head=1",
        "n-embd=2 n-head=1 positions=rope",
        "steps=10 warmup-steps=10",
        "steps=10 warmup-steps=0",
        "batch-size=2047 seq-len=1048576",
        "n-embd=65536 n-head=1024 n-layer=1000 n-ffn=262144",
        "n-embd=64 n-head=4 n-kv-head=1",
        "batch-size=2 seq-len=64 total-batch-tokens=128",
        "batch-size=2 seq-len=64 total-batch-tokens=1280",
    };
    for (size_t i = 0; i < sizeof RIGHT / sizeof *RIGHT; i++) assert_resolves(RIGHT[i]);
}

static void settings_in_one_text_are_set_or_refused_by_word(void **state) {
    (void)state;
    Config config;
    Error error = {0};
    config_defaults(&config);
    assert_true(config_set_all(&config, " steps=7  out=a=b ", &error));
    assert_int_equal(config.steps, 7);
    assert_string_equal(config.out, "a=b");
    assert_false(config_set_all(&config, "steps=8 quickly", &error));
    assert_string_equal(error.text, "'quickly' is not name=value");
    assert_false(config_set_all(&config, "steps=many lr=1", &error));
    assert_non_null(strstr(error.text, "--steps"));
}

static void auto_follows_the_architecture(void **state) {
    (void)state;
    Config config;
    configure_raw(&config, "arch=gpt2 n-embd=96 n-head=3 init-std=0.01 steps=250");
    config_resolve(&config, 1);
    assert_int_equal(config.positions, POSITIONS_LEARNED);
    assert_int_equal(config.activation, ACTIVATION_FLAG_GELU);
    assert_int_equal(config.bias, SWITCH_ON);
    assert_int_equal(config.tie_embeddings, SWITCH_ON);
    assert_int_equal(config.n_ffn, 4 * 96);
    assert_int_equal(config.vocab_size, 50257);
    assert_int_equal(config.n_kv_head, 3);
    assert_int_equal(config.head_size, 32);
    assert_true(config.norm_eps == 1e-5 && config.init_std_embed == 0.01);
    assert_int_equal(config.warmup_steps, 2);
    configure_raw(&config, "arch=llama n-embd=768 n-head=12 n-kv-head=4 steps=100000 batch-size=2 seq-len=8 "
                       "total-batch-tokens=96");
    config_resolve(&config, 1);
    assert_int_equal(config.positions, POSITIONS_ROPE);
    assert_int_equal(config.activation, ACTIVATION_FLAG_SWIGLU);
    assert_int_equal(config.bias, SWITCH_OFF);
    assert_int_equal(config.tie_embeddings, SWITCH_OFF);
    assert_int_equal(config.n_ffn, 2048); /* 8/3 · 768 */
    assert_int_equal(config.vocab_size, 32000);
    assert_true(config.norm_eps == 1e-6);
    assert_int_equal(config.warmup_steps, 700); /* at most */
    assert_int_equal(config.micro_steps, 6);
}

/* What the program resumes from is a resolved config, written and read. */
static void resolving_twice_changes_nothing(void **state) {
    (void)state;
    for (int i = 0; i < PRESET_COUNT; i++) {
        static Seen once, twice;
        Config config;
        configure_raw(&config, PRESETS[i].settings);
        config_resolve(&config, 1);
        once.used = twice.used = 0;
        config_visit(&config, note, &once);
        config_resolve(&config, 1);
        config_visit(&config, note, &twice);
        assert_string_equal(once.text, twice.text);
    }
}

static void the_table_of_flags_is_sound(void **state) {
    (void)state;
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            assert_true(flag_number(flag) < FLAGS_MOST);
            assert_true(flag->offset % 8 == 0 && flag->offset < sizeof(Config));
            assert_true(flag->help && *flag->help &&
                        strspn(flag->name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(flag->name));
            for (int h = 0; h <= g; h++)
                for (int j = 0; j < (h == g ? i : FLAG_GROUPS[h].count); j++) {
                    assert_string_not_equal(FLAG_GROUPS[h].flags[j].name, flag->name);
                    assert_true(FLAG_GROUPS[h].flags[j].offset != flag->offset);
                }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_of_flags_is_sound),
        cmocka_unit_test(every_number_refuses_what_is_none_or_out_of_range),
        cmocka_unit_test(every_number_takes_its_bounds_and_its_default),
        cmocka_unit_test(every_choice_refuses_other_words),
        cmocka_unit_test(every_choice_is_the_position_of_its_word),
        cmocka_unit_test(a_text_is_neither_empty_nor_endless_but_a_prompt_may_be_empty),
        cmocka_unit_test(a_name_of_any_length_is_refused_without_harm),
        cmocka_unit_test(a_file_may_hold_comments_blanks_carriage_returns_and_no_last_newline),
        cmocka_unit_test(a_wrong_line_is_refused_by_its_number),
        cmocka_unit_test(zero_bytes_and_endless_lines_are_refused),
        cmocka_unit_test(random_bytes_are_taken_or_refused_with_a_reason),
        cmocka_unit_test(what_is_written_reads_back_as_the_same),
        cmocka_unit_test(a_number_is_written_as_short_as_it_reads_back),
        cmocka_unit_test(what_auto_came_to_is_written_beside_it_and_reads_back_so),
        cmocka_unit_test(deeds_are_no_part_of_what_is_written),
        cmocka_unit_test(what_does_not_fit_together_is_refused_in_one_line),
        cmocka_unit_test(what_fits_at_the_border_is_taken),
        cmocka_unit_test(settings_in_one_text_are_set_or_refused_by_word),
        cmocka_unit_test(auto_follows_the_architecture),
        cmocka_unit_test(resolving_twice_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
