/* smoke.c: see smoke.h. */
#include "smoke.h"
#include "../base/philox.h"
#include "../settings/command_line.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void write_shard(int fd, const char *path) {
    enum { TOKENS = 20000, PERIOD = 37, NOISE_IN = 20 };
    int32_t header[256] = {20240520, 1, TOKENS};
    static uint16_t tokens[TOKENS];
    uint64_t noise = philox_name_hash("smoke");
    for (int i = 0; i < TOKENS; i++) {
        bool noisy = philox_uniform(1, noise, (uint64_t)i) * NOISE_IN < 1;
        tokens[i] = (uint16_t)(noisy ? 'A' + i % 7 : 'a' + i % PERIOD * 5 % 26);
    }
    bool good = write(fd, header, sizeof header) == (ssize_t)sizeof header &&
                write(fd, tokens, sizeof tokens) == (ssize_t)sizeof tokens && close(fd) == 0;
    require(good, "%s: %s", path, strerror(errno));
}

static char *shard_path;

/* At exit, however the run ends. */
static void remove_shard(void) { unlink(shard_path); }

static const char SETTINGS[] = "n-layer=2 n-embd=64 n-head=2 seq-len=64 vocab-size=256 batch-size=8 steps=30 lr=3e-3 "
                               "warmup-steps=2 log-every=10";

void smoke_check(int argc, char **argv) {
    static const char *const MODES[] = {"dry-run", "eval-only", "eval", "generate", "generate-tokens", "generate-file", "probe"};
    static const char *const OTHERS[] = {"preset", "train-data", "val-data", "resume", "init-from"};
    char copy[sizeof SETTINGS], *state = NULL;
    const char *refused = NULL;
    if (!config_asks(argc, argv, "smoke")) return;
    for (size_t i = 0; i < sizeof MODES / sizeof *MODES; i++)
        if (config_asks(argc, argv, MODES[i])) return;
    memcpy(copy, SETTINGS, sizeof copy);
    for (char *word = strtok_r(copy, " ", &state); word && !refused; word = strtok_r(NULL, " ", &state)) {
        *strchr(word, '=') = '\0';
        if (config_asks(argc, argv, word)) refused = word;
    }
    for (size_t i = 0; i < sizeof OTHERS / sizeof *OTHERS && !refused; i++)
        if (config_asks(argc, argv, OTHERS[i])) refused = OTHERS[i];
    check(!refused, "--smoke trains from the start on data of its own, with %s; --%s would have no effect", SETTINGS, refused);
}

void smoke_prepare(Config *config) {
    const char *directory = getenv("TMPDIR");
    size_t size = strlen(directory ? directory : "/tmp") + 32;
    char *path = must_malloc(size, "a path");
    snprintf(path, size, "%s/train_gpt_smoke_XXXXXX", directory ? directory : "/tmp");
    int fd = mkstemp(path);
    require(fd >= 0, "%s: %s", path, strerror(errno));
    shard_path = path;
    atexit(remove_shard);
    write_shard(fd, path);
    Error error = {0};
    bool good = config_set_all(config, SETTINGS, &error);
    require(good, "--smoke: %s", error.text);
    config->train_data = config->val_data = path;
}

void smoke_finish(const Config *config, double first_loss, double last_loss) {
    require(last_loss < 0.5 * first_loss, "smoke: the loss went from %.4f to %.4f; it must halve", first_loss,
            last_loss);
    printf("smoke: loss %.4f → %.4f in %lld steps: good\n", first_loss, last_loss, (long long)config->steps);
}
