/* tokenizer.c: see tokenizer.h. */
#include "tokenizer.h"
#include "../base/sha256.h"
#include "../data/fingerprint.h"
#include "../data/mixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void read_facts(const ShardSet *set, const char *flag, SetFacts *facts) {
    Error error = {0};
    check(sidecar_facts(set, facts, &error), "--%s: %s", flag, error.text);
}

void tokenizer_settle_vocabulary(Config *c) {
    const char *flag = c->train_data ? "train-data" : "val-data", *pattern = c->train_data ? c->train_data : c->val_data;
    ShardSet set;
    SetFacts facts;
    Error ignored = {0};
    if (c->vocab_size != AUTO_INT || c->smoke || !pattern || !mixture_open(&set, pattern, &ignored)) return;
    read_facts(&set, flag, &facts);
    shard_set_close(&set);
    check(facts.vocab_size != 1, "--%s: %s: a vocabulary of one id is nothing to learn", flag, facts.path);
    if (facts.vocab_size) c->vocab_size = facts.vocab_size;
}

/* ------------------------------------------------------------------------------------------------------
 * Do they fit?
 * ---------------------------------------------------------------------------------------------------- */

static const char *way_out(const Config *c, bool resumes) {
    if (resumes) return "a checkpoint's vocabulary does not grow";
    if (c->init_from) return "the weights of --init-from are of another tokenizer";
    return "--vocab-size auto follows the data";
}

static void check_vocabulary(const Config *c, bool resumes, const char *flag, const SetFacts *facts) {
    check(facts->vocab_size <= c->vocab_size, "--%s: %s: its tokenizer, %s, has %lld ids, and the model %lld: %s", flag,
          facts->path, facts->tokenizer, (long long)facts->vocab_size, (long long)c->vocab_size, way_out(c, resumes));
}

/* How one tokenizer is told from others in a line. */
static const char *describe(const SetFacts *facts, char text[128]) {
    snprintf(text, 128, "%s with %lld ids%s%.8s", facts->tokenizer, (long long)facts->vocab_size,
             facts->tokenizer_sha256[0] ? ", sha256 " : "", facts->tokenizer_sha256);
    return text;
}

void tokenizer_check_vocabulary(const Config *c, bool resumes, bool trains) {
    const struct {
        const char *flag, *pattern;
    } both[] = {{"train-data", trains ? c->train_data : NULL}, {"val-data", c->val_data}};
    for (int i = 0; i < 2; i++) {
        ShardSet set;
        SetFacts facts;
        Error ignored = {0};
        if (!both[i].pattern || c->smoke || !mixture_open(&set, both[i].pattern, &ignored)) continue;
        read_facts(&set, both[i].flag, &facts);
        shard_set_close(&set);
        check_vocabulary(c, resumes, both[i].flag, &facts);
    }
}

static void check_pair(const SetFacts *train, const SetFacts *val) {
    char ours[128], theirs[128];
    check(!sidecar_differ(train, val), "--val-data: %s is of another tokenizer (%s) than %s (%s)", val->path,
          describe(val, theirs), train->path, describe(train, ours));
}

/* Room for as many rows as a GPU likes to multiply is no mistake: 50,304 for GPT-2's 50,257. */
static bool is_far_larger(int64_t model, int64_t data) { return data && model >= (data / 128 + 2) * 128; }

void tokenizer_check_validation(const Config *c, const ShardSet *val, const char *trained) {
    SetFacts facts, before = {0};
    Fingerprint print;
    Error ignored = {0};
    read_facts(val, "val-data", &facts);
    if (!trained || !fingerprint_parse(trained, &print, &ignored)) return;
    memcpy(before.tokenizer_sha256, print.tokenizer_sha256, sizeof before.tokenizer_sha256);
    fingerprint_free(&print);
    check(c->allow_change || !sidecar_differ(&before, &facts),
          "--val-data: %s is of another tokenizer (%s, sha256 %.8s…) than what these weights were trained on (%s, sha256 %.8s…); "
          "--allow-change says that this is meant", facts.path, facts.tokenizer, facts.tokenizer_sha256, print.tokenizer,
          before.tokenizer_sha256);
}

/* ------------------------------------------------------------------------------------------------------
 * Which files?
 * ---------------------------------------------------------------------------------------------------- */

/* Those beside the training data: the ones that NAME.json knows, and no others of that name. */
static void read_of_data(const SetFacts *facts, Companions *files) {
    char sha256[SHA256_HEX];
    Error error = {0};
    *files = (Companions){0};
    if (!facts->tokenizer_directory[0]) return;
    check(companions_read(files, facts->tokenizer_directory, true, &error), "--train-data: %s", error.text);
    const Companion *file = &files->files[COMPANION_TOKENIZER];
    if (!file->bytes || !facts->tokenizer_sha256[0]) return;
    sha256_hex(file->bytes, file->size, sha256);
    check(strcmp(sha256, facts->tokenizer_sha256) == 0,
          "--train-data: %s/%s is not the tokenizer of these tokens: its sha256 is %.16s…, %s says %.16s…",
          facts->tokenizer_directory, COMPANION_NAMES[COMPANION_TOKENIZER], sha256, facts->path, facts->tokenizer_sha256);
}

/* Those of the weights that the run begins with. What a user names may be a link, and then what lies beside it. */
static void read_of_weights(const Origin *origin, Companions *files) {
    char directory[PATH_SIZE];
    struct stat status;
    Error error = {0};
    *files = (Companions){0};
    if (origin->resume_from && origin->resume_from[0]) {
        check(companions_read(files, origin->resume_from, false, &error), "--resume %s", error.text);
        return;
    }
    if (!origin->weights || !origin->weights[0]) return;
    const bool is_directory = stat(origin->weights, &status) == 0 && S_ISDIR(status.st_mode);
    snprintf(directory, sizeof directory, "%s", origin->weights);
    char *slash = strrchr(directory, '/');
    if (!is_directory && slash) slash[slash == directory] = '\0';
    check(companions_read(files, is_directory || slash ? directory : ".", !is_directory, &error), "--init-from %s", error.text);
}

void tokenizer_of_weights(const Origin *origin, char sha256[SHA256_HEX]) {
    Companions files;
    read_of_weights(origin, &files);
    const Companion *file = &files.files[COMPANION_TOKENIZER];
    sha256[0] = '\0';
    if (file->bytes) sha256_hex(file->bytes, file->size, sha256);
    companions_free(&files);
}

static bool same_tokenizer(const Companions *a, const Companions *b) {
    const Companion *x = &a->files[COMPANION_TOKENIZER], *y = &b->files[COMPANION_TOKENIZER];
    return x->bytes && y->bytes && x->size == y->size && memcmp(x->bytes, y->bytes, x->size) == 0;
}

static void choose_files(Tokenizer *t, const Config *c, const Origin *origin) {
    Companions data, weights;
    Error error = {0};
    read_of_data(&t->train, &data);
    read_of_weights(origin, &weights);
    const bool has_data = data.files[COMPANION_TOKENIZER].bytes, has_weights = weights.files[COMPANION_TOKENIZER].bytes;
    const bool takes_weights = !has_data || same_tokenizer(&data, &weights);
    if (has_data && has_weights && !takes_weights)
        snprintf(t->notice, sizeof t->notice,
                 "the tokenizer of %.400s is another than that of the weights; checkpoints carry it", t->train.path);
    if (!has_data && !has_weights && t->train.tokenizer_sha256[0])
        snprintf(t->notice, sizeof t->notice,
                 "%.400s, which %.400s tells of, is not there: checkpoints carry no tokenizer",
                 t->train.tokenizer_directory, t->train.path);
    if (takes_weights && has_data && !weights.files[COMPANION_TOKEN_BYTES].bytes) { /* nobody made it for these weights yet */
        weights.files[COMPANION_TOKEN_BYTES] = data.files[COMPANION_TOKEN_BYTES];
        data.files[COMPANION_TOKEN_BYTES] = (Companion){0};
    }
    t->files = takes_weights ? weights : data;
    companions_free(takes_weights ? &data : &weights);
    check(companions_set_generation(&t->files, c, t->train.end_of_document, &error), "--%s: %s", c->resume ? "resume" : "init-from",
          error.text);
}

void tokenizer_open(Tokenizer *t, const Config *c, const Origin *origin, const ShardSet *train, const ShardSet *val, bool keeps) {
    *t = (Tokenizer){0};
    read_facts(train, "train-data", &t->train);
    if (val) read_facts(val, "val-data", &t->val);
    if (val) check_pair(&t->train, &t->val);
    if (keeps) choose_files(t, c, origin);
    if (!t->notice[0] && is_far_larger(c->vocab_size, t->train.vocab_size))
        snprintf(t->notice, sizeof t->notice,
                 "--vocab-size %lld is more than the %lld ids of %.400s's tokenizer, %s: the others are never trained",
                 (long long)c->vocab_size, (long long)t->train.vocab_size, t->train.path, t->train.tokenizer);
}

void tokenizer_close(Tokenizer *t) { companions_free(&t->files); }
