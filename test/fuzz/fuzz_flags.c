/*
 * fuzz_flags.c: does an accepted command line make a config in which everything is worked out and fits together?
 * (src/settings/config.h)
 *
 * Input: texts with a zero byte behind each: a config file, then the arguments. "@" as an argument is the config
 * file's path; --config takes no other, as it would open any file of the machine.
 */
#include "fuzz.h"
#include "../../src/settings/command_line.h"
#include "../../src/settings/resolve.h"
#include "config_rules.h"

#include <math.h>
#include <string.h>

enum { ARGUMENTS_MOST = 64 };

static void resolve(void *config) {
    config_resolve(config, 3);
}

static void check_resolved(const Config *c) {
    PROMISE(c->head_size >= 1 && c->head_size <= 256 && !(c->qk_norm && c->sdd));
    PROMISE(c->n_kv_head >= 1 && c->n_head % c->n_kv_head == 0 && c->n_ffn >= 1 && c->vocab_size >= 2);
    PROMISE(c->micro_steps >= 1 && c->micro_steps <= c->total_batch_tokens);
    PROMISE(c->micro_steps * c->batch_size * c->seq_len * 3 == c->total_batch_tokens);
    PROMISE(c->warmup_steps >= 0 && c->warmup_steps <= c->steps);
    PROMISE(c->norm > 0 && c->norm_eps >= 0 && c->norm_eps <= 1 && c->init_std_embed >= 0);
    PROMISE(c->positions && c->activation && c->bias && c->tie_embeddings && c->final_norm);
}

static void run(int argc, char **argv, const char *base) {
    Config config;
    Error error = {0};
    if (!config_parse_arguments(&config, argc, argv, base, &error)) {
        fuzz_check_error(&error);
        return;
    }
    fuzz_check_config(&config, true);
    if (fuzz_refuses(resolve, &config, &error)) {
        fuzz_check_error(&error);
        return;
    }
    check_resolved(&config);
    fuzz_check_config(&config, true); /* what a checkpoint keeps must read back */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *argv[ARGUMENTS_MOST] = {"train_gpt"}, *path = (char *)"";
    int argc = 1;
    const char *at = fuzz_edge(data, size), *end = at + size;
    for (int i = 0; at < end && argc < ARGUMENTS_MOST - 2; i++) {
        const char *stop = memchr(at, 0, (size_t)(end - at));
        if (!stop) break; /* an argument has an end */
        if (i == 0) path = (char *)fuzz_file(at, (size_t)(stop - at), 0);
        else if (strncmp(at, "--config", 8) == 0) argv[argc++] = "--config", argv[argc++] = path;
        else argv[argc++] = strcmp(at, "@") ? (char *)at : path;
        at = stop + 1;
    }
    run(argc, argv, size && data[0] == '#' ? path : NULL);
    config_forget_texts();
    return 0;
}
