/* eval_items.c: see eval_items.h. */
#include "eval_items.h"
#include "../base/directory.h"
#include "eval_out.h"
#include "likelihood.h"
#include "stop.h"
#include "../base/output.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BY_LIKELIHOOD, BY_CHARACTER, BY_BYTE, WAYS };
static const char *const WAY_NAMES[WAYS] = {"acc", "acc_norm", "acc_bytes"};

/* Answers that are sorted and asked together. */
enum { POOL_ITEMS = 8192, POOL_TOKENS = 1 << 22 };
enum { SURVEY_ROWS = 256 }; /* between two looks at the clock */

typedef struct Tally {
    const char *path;
    int64_t items, tokens;         /* found when it was opened */
    bool last_words, known[WAYS];  /* which lengths its items have */
    int64_t right[WAYS], continuations, cropped;
    double chance;                 /* Σ 1 / choices */
    double mean, squares;          /* of last words' likelihoods: Σ (x − mean)², by Welford */
} Tally;

struct Evaluation {
    const Config *config;
    const char *tokenizer; /* sha256 of the model's; "": not known */
    ItemRules rules;
    char *paths;
    int files;
    Tally *tally;
    EvalOut *out;
    const Tally *now; /* what it is at */
    int64_t read;     /* tokens of it */
    double begun, told;
    bool terminal;
};

/* ------------------------------------------------------------------------------------------------------
 * How far it is
 * ---------------------------------------------------------------------------------------------------- */

static void clear_line(Evaluation *e) {
    if (e->terminal && e->told > 0) fputs("\r\033[K", stderr);
    e->told = 0;
}

/* Says of a file what share of it is done, if it takes long. */
static void tell_how_far(Evaluation *e, double done, const char *of_what) {
    enum { SILENT = 3 };
    const double now = log_seconds(), every = e->terminal ? 0.2 : 30;
    if (now - e->begun < SILENT || now - e->told < every || done >= 1 || done <= 0) return;
    const long left = lround((now - e->begun) * (1 - done) / done);
    Error line; /* without what a path may hold */
    error_set(&line, "%.300s: %.0f %% %s, %ld:%02ld left", e->now->path, 100 * done, of_what, left / 60, left % 60);
    fprintf(stderr, e->terminal ? "\r%s\033[K" : "%s\n", line.text);
    fflush(stderr);
    e->told = now;
}

/* After a pass; whether to go on. */
static bool go_on(void *evaluation, int64_t read) {
    Evaluation *e = evaluation;
    char of_what[48];
    snprintf(of_what, sizeof of_what, "of %lld items", (long long)e->now->items);
    e->read += read;
    if (stop_requested()) return false;
    tell_how_far(e, (double)e->read / (double)e->now->tokens, of_what);
    return true;
}

/* ------------------------------------------------------------------------------------------------------
 * Before anything is asked
 * ---------------------------------------------------------------------------------------------------- */

static void check_lengths(Evaluation *e, const Tally *tally, const bool known[WAYS], int64_t row) {
    for (int way = 0; way < WAYS; way++) {
        if (known[way] == tally->known[way]) continue;
        clear_line(e);
        fail(EXIT_USAGE, "--eval: %s, row %lld: '%s' must be given in all rows or in none", tally->path, (long long)row,
             way == BY_CHARACTER ? "choice_chars" : "choice_bytes");
    }
}

/* Ids of another tokenizer are other words. */
static void check_tokenizer(const Evaluation *e, const Tally *tally, const char *theirs) {
    check(!theirs[0] || !e->tokenizer[0] || strcmp(theirs, e->tokenizer) == 0 || e->config->allow_change,
          "--eval: %s holds ids of another tokenizer (sha256 %.8s…) than the weights' (%.8s…); --allow-change says that this "
          "is meant", tally->path, theirs, e->tokenizer);
}

static void survey(Evaluation *e, Tally *tally) {
    Error error = {0};
    Item item;
    int64_t row;
    e->now = tally, e->begun = log_seconds();
    ItemReader *reader = item_reader_open(tally->path, &e->rules, &error);
    check(reader, "--eval: %s", error.text);
    for (; item_next(reader, &item, &row, &error); tally->items++) {
        const bool known[WAYS] = {true, item.chars != NULL, item.bytes != NULL};
        if (!tally->items) {
            memcpy(tally->known, known, sizeof known);
            check_tokenizer(e, tally, item_reader_tokenizer(reader));
        }
        check_lengths(e, tally, known, row);
        tally->last_words = item.last_word;
        tally->tokens += likelihood_tokens(&item, (int)e->config->seq_len);
        item_free(&item);
        if (tally->items % SURVEY_ROWS == 0) tell_how_far(e, item_reader_share(reader), "of the file checked");
    }
    item_reader_close(reader);
    clear_line(e);
    check(!error.text[0], "--eval: %s", error.text);
    check(tally->items, "--eval: %s holds no items", tally->path);
}

Evaluation *evaluation_open(const Config *config, const TokenBytes *table, const char *tokenizer) {
    Evaluation *e = must_calloc(1, sizeof *e, "an evaluation");
    e->config = config, e->tokenizer = tokenizer;
    e->terminal = isatty(STDERR_FILENO);
    e->rules = (ItemRules){.vocab = (uint32_t)config->vocab_size, .longest = (int)config->seq_len,
                           .id_of_byte = table->count && table->is_bytes ? table->id_of : NULL,
                           .prefix = table->end_of_document >= 0 ? (uint32_t)table->end_of_document : 0};
    const size_t size = strlen(config->eval) + 1;
    e->paths = must_malloc(size, "an evaluation");
    memcpy(e->paths, config->eval, size);
    e->tally = must_calloc(size, sizeof *e->tally, "an evaluation");
    for (char *at = e->paths; at;) {
        char *comma = strchr(at, ',');
        if (comma) *comma = '\0';
        check(*at, "--eval %s: the name of a file is empty", config->eval);
        e->tally[e->files++].path = at;
        at = comma ? comma + 1 : NULL;
    }
    for (int i = 0; i < e->files; i++) {
        check(!config->eval_out || !paths_are_one(config->eval_out, e->tally[i].path),
              "--eval-out %s: these are the questions themselves", config->eval_out);
        survey(e, &e->tally[i]);
    }
    e->out = eval_out_open(config->eval_out);
    return e;
}

static void close_evaluation(Evaluation *e) {
    free(e->paths), free(e->tally);
    free(e);
}

static CHECK_NORETURN void end_early(Evaluation *e, int64_t done) {
    clear_line(e);
    eval_out_drop(e->out);
    fail(EXIT_RUNTIME, "--eval: %s after %lld of %lld items of %s", stop_requested(), (long long)done,
         (long long)e->now->items, e->now->path);
}

/* ------------------------------------------------------------------------------------------------------
 * Answers
 * ---------------------------------------------------------------------------------------------------- */

static int pick(const Answer *answer, const int *lengths) {
    double most = -INFINITY;
    int best = 0;
    for (int i = 0; i < answer->item.choices; i++) {
        const double value = answer->likelihood[i] / (lengths ? lengths[i] : 1);
        if (value > most) most = value, best = i;
    }
    return best;
}

static void count_answer(Evaluation *e, Tally *tally, const Answer *answer, int64_t number) {
    const Item *item = &answer->item;
    const int *lengths[WAYS] = {NULL, item->chars, item->bytes};
    int picks[WAYS];
    for (int i = 0; i < item->choices; i++) {
        if (isfinite(answer->likelihood[i])) continue;
        clear_line(e);
        eval_out_drop(e->out);
        fail(EXIT_DIVERGED, "--eval: %s, row %lld: the likelihood is not finite: these weights have diverged",
             tally->path, (long long)answer->row);
    }
    for (int way = 0; way < WAYS; way++) {
        picks[way] = tally->known[way] ? pick(answer, lengths[way]) : -1;
        if (!item->last_word) tally->right[way] += picks[way] == item->answer;
    }
    if (item->last_word) {
        const double x = answer->likelihood[0], away = x - tally->mean;
        tally->right[BY_LIKELIHOOD] += answer->likeliest;
        tally->mean += away / (double)number;
        tally->squares += away * (x - tally->mean);
    }
    tally->chance += 1 / (double)item->choices;
    tally->continuations += item->choices;
    tally->cropped += answer->cropped;
    eval_out_item(e->out, tally->path, answer, picks);
}

/* The next answers to be given; none at the end of the file. */
static int fill_pool(ItemReader *reader, Answer *pool, const char *path) {
    int count = 0;
    Error error = {0};
    for (int64_t tokens = 0; count < POOL_ITEMS && tokens < POOL_TOKENS; count++) {
        Answer *next = &pool[count];
        if (!item_next(reader, &next->item, &next->row, &error)) break;
        for (int i = 0; i < next->item.choices; i++) tokens += next->item.length[i];
        tokens += next->item.context;
    }
    check(!error.text[0], "--eval: %s; %s changed while it was read", error.text, path);
    return count;
}

static void ask(Evaluation *e, Tally *tally, Likelihood *likelihood, Answer *pool) {
    Error error = {0};
    ItemReader *reader = item_reader_open(tally->path, &e->rules, &error);
    check(reader, "--eval: %s", error.text);
    e->now = tally, e->read = 0, e->begun = log_seconds();
    int64_t done = 0;
    for (int count; (count = fill_pool(reader, pool, tally->path)) > 0;) {
        if (!likelihood_of(likelihood, pool, count, go_on, e)) end_early(e, done);
        for (int i = 0; i < count; i++) {
            count_answer(e, tally, &pool[i], ++done);
            item_free(&pool[i].item);
            free(pool[i].likelihood);
        }
    }
    item_reader_close(reader);
    clear_line(e);
    check(done == tally->items, "--eval: %s changed while it was read", tally->path);
}

/* ------------------------------------------------------------------------------------------------------
 * What came of it
 * ---------------------------------------------------------------------------------------------------- */

/* Of a mean of zeros and ones: sample deviation / √n. NaN for one item. */
static double share_error(double share, int64_t n) { return n > 1 ? sqrt(share * (1 - share) / (double)(n - 1)) : NAN; }

/* A value with its error, for people and for programs. */
static void say(FILE *line, cJSON *result, const char *name, int digits, double value, double error) {
    char key[64];
    if (isnan(error)) fprintf(line, " %s %.*f", name, digits, value);
    else fprintf(line, " %s %.*f ± %.*f", name, digits, value, digits, error);
    cJSON_AddNumberToObject(result, name, value);
    snprintf(key, sizeof key, "%s_stderr", name);
    cJSON_AddNumberToObject(result, key, error); /* NaN: null */
}

static cJSON *result_of(const Tally *tally, int64_t step, FILE *line) {
    const double n = (double)tally->items;
    Error clean;
    error_set(&clean, "%s", tally->path);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddStringToObject(result, "type", "eval");
    cJSON_AddNumberToObject(result, "step", (double)step);
    cJSON_AddStringToObject(result, "file", clean.text);
    cJSON_AddStringToObject(result, "kind", tally->last_words ? "last word" : "choices");
    cJSON_AddNumberToObject(result, "items", n);
    fprintf(line, "%s: %lld %s%s:", clean.text, (long long)tally->items, tally->last_words ? "last word" : "item",
            tally->items == 1 ? "" : "s");
    for (int way = 0; way < (tally->last_words ? 1 : WAYS); way++) {
        const double share = (double)tally->right[way] / n;
        if (tally->known[way]) say(line, result, WAY_NAMES[way], 4, share, share_error(share, tally->items));
    }
    if (tally->last_words) {
        const double perplexity = exp(-tally->mean), spread = n > 1 ? sqrt(tally->squares / (n - 1) / n) : NAN;
        say(line, result, "perplexity", 3, perplexity, perplexity * spread);
    } else {
        fprintf(line, " (chance %.4f)", tally->chance / n);
        cJSON_AddNumberToObject(result, "chance", tally->chance / n);
    }
    cJSON_AddNumberToObject(result, "continuations", (double)tally->continuations);
    cJSON_AddNumberToObject(result, "cropped", (double)tally->cropped);
    return result;
}

static void tell(Evaluation *e, const Tally *tally, Log *log, int64_t step) {
    char *text = NULL;
    size_t size;
    FILE *line = open_memstream(&text, &size);
    require(line, "out of memory for a result");
    cJSON *result = result_of(tally, step, line);
    require(fclose(line) == 0, "out of memory for a result");
    if (tally->cropped)
        warn("--eval: %lld of %lld continuations of %s are longer than --seq-len %lld with their contexts, which lost "
             "their beginnings", (long long)tally->cropped, (long long)tally->continuations, tally->path,
             (long long)e->config->seq_len);
    puts(text);
    free(text);
    eval_out_result(e->out, result);
    log_result(log, result);
    Error gone; /* said at the end */
    output_flush(&gone);
}

void evaluation_run(Evaluation *e, Model *model, Log *log, int64_t step) {
    Likelihood *likelihood = likelihood_create(model);
    Answer *pool = must_calloc(POOL_ITEMS, sizeof *pool, "answers");
    stop_as_request();
    for (int i = 0; i < e->files; i++) {
        ask(e, &e->tally[i], likelihood, pool);
        tell(e, &e->tally[i], log, step);
    }
    eval_out_finish(e->out);
    free(pool);
    likelihood_destroy(likelihood);
    close_evaluation(e);
}
