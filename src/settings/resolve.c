/* resolve.c: see resolve.h. */
#include "resolve.h"
#include "schedule.h"
#include "variant.h"

#include <math.h>
#include <string.h>

static void resolve_head_size(Config *c) {
    bool derived = c->head_size == AUTO_INT;
    check(!derived || c->n_embd % c->n_head == 0,
          "--n-embd %lld is not a multiple of --n-head %lld, and no --head-dim says how large a head is", (long long)c->n_embd,
          (long long)c->n_head);
    if (derived) c->head_size = c->n_embd / c->n_head;
    check(c->head_size <= 256, "--n-embd %lld / --n-head %lld makes heads of %lld; 256 is the largest",
          (long long)c->n_embd, (long long)c->n_head, (long long)c->head_size);
    if (c->positions != POSITIONS_ROPE || c->head_size % 2 == 0) return;
    check(!derived, "--positions rope needs an even head size; --n-embd %lld / --n-head %lld is %lld", (long long)c->n_embd,
          (long long)c->n_head, (long long)c->head_size);
    check(false, "--positions rope needs an even head size; --head-dim is %lld", (long long)c->head_size);
}

static void resolve_model(Config *c) {
    bool llama = c->arch == ARCH_LLAMA;
    if (c->positions == POSITIONS_AUTO) c->positions = llama ? POSITIONS_ROPE : POSITIONS_LEARNED;
    if (c->activation == ACTIVATION_FLAG_AUTO)
        c->activation = llama ? ACTIVATION_FLAG_SWIGLU : ACTIVATION_FLAG_GELU;
    if (c->bias == SWITCH_AUTO) c->bias = llama ? SWITCH_OFF : SWITCH_ON;
    if (c->tie_embeddings == SWITCH_AUTO) c->tie_embeddings = llama ? SWITCH_OFF : SWITCH_ON;
    if (c->norm == 0) c->norm = llama ? 2 : 1; /* rows of NORMS, counted from 1 */
    variant_resolve(c);
    if (c->n_kv_head == AUTO_INT) c->n_kv_head = c->n_head;
    if (c->n_ffn == AUTO_INT)
        c->n_ffn = c->activation == ACTIVATION_FLAG_SWIGLU ? padded(c->n_embd * 8 / 3) : 4 * c->n_embd;
    if (c->vocab_size == AUTO_INT) c->vocab_size = llama ? 32000 : 50257;

    check(c->n_head % c->n_kv_head == 0, "--n-head %lld is not a multiple of --n-kv-head %lld",
          (long long)c->n_head, (long long)c->n_kv_head);
    resolve_head_size(c);
    check(c->rope_scaling != ROPE_LLAMA3 || c->rope_low_freq_factor < c->rope_high_freq_factor,
          "--rope-low-freq-factor %.9g is not below --rope-high-freq-factor %.9g", c->rope_low_freq_factor,
          c->rope_high_freq_factor);
}

/* The mode that is given behind so many others; NULL: none. */
static const char *mode_behind(const Config *c, int others) {
    const struct {
        const char *name;
        bool given;
    } modes[] = {{"dry-run", c->dry_run},
                 {"smoke", c->smoke},
                 {"eval-only", c->eval_only},
                 {"eval", c->eval != NULL},
                 {"generate", c->generate != NULL},
                 {"generate-tokens", c->generate_tokens != NULL},
                 {"generate-file", c->generate_file != NULL},
                 {"probe", c->probe != NULL}};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (modes[i].given && others-- == 0) return modes[i].name;
    return NULL;
}

const char *config_mode(const Config *c) { return mode_behind(c, 0); }

/* Each says what to do and then stops: two of them would leave one undone, unsaid. */
static void check_one_mode(const Config *c) {
    const char *second = mode_behind(c, 1);
    check(!second, "--%s and --%s are two things to do; give one of them", config_mode(c), second);
}

static void resolve_schedule(Config *c) {
    const int64_t end = schedule_end(c);
    if (c->warmup_steps == AUTO_INT) c->warmup_steps = end / 100 < 700 ? end / 100 : 700;
    check(c->warmup_steps <= end, "--warmup-steps %lld is more than --%s %lld", (long long)c->warmup_steps,
          c->schedule_steps == AUTO_INT ? "steps" : "schedule-steps", (long long)end);
    check(c->wsd_decay_steps == AUTO_INT || c->wsd_decay_steps <= end - c->warmup_steps,
          "--wsd-decay-steps %lld is more than the %lld steps after the warmup", (long long)c->wsd_decay_steps,
          (long long)(end - c->warmup_steps));
    check(c->lr_schedule != SCHEDULE_COSINE_RESTARTS || c->restart_steps == AUTO_INT || c->restart_steps <= end - c->warmup_steps,
          "--restart-steps %lld is more than the %lld steps after the warmup; one fall to the end is --lr-schedule cosine",
          (long long)c->restart_steps, (long long)(end - c->warmup_steps));
}

void config_resolve(Config *c, int ranks) {
    check_one_mode(c);
    check(c->dry_run || !c->plan_ranks,
          "--ranks %lld is for --dry-run: a run has as many ranks as its launcher starts, as in mpirun -n %lld ./train_gpt …",
          (long long)c->plan_ranks, (long long)c->plan_ranks);
    check(!c->val_tokens || c->val_batches == AUTO_INT, "--val-tokens and --val-batches both say how much is validated; give one");
    resolve_model(c);
    c->ranks = ranks;
    if (c->zero == ZERO_AUTO) c->zero = ZERO_1;
    int64_t micro = c->batch_size * c->seq_len * ranks;
    check(micro <= INT32_MAX, "--batch-size %lld × --seq-len %lld × %d ranks is %lld tokens; the most is %d",
          (long long)c->batch_size, (long long)c->seq_len, ranks, (long long)micro, INT32_MAX);
    if (c->total_batch_tokens == AUTO_INT) c->total_batch_tokens = micro;
    check(c->total_batch_tokens % micro == 0,
          "--total-batch-tokens %lld is not a multiple of --batch-size %lld × --seq-len %lld × %d ranks = %lld",
          (long long)c->total_batch_tokens, (long long)c->batch_size, (long long)c->seq_len, ranks,
          (long long)micro);
    c->micro_steps = c->total_batch_tokens / micro;
    resolve_schedule(c);
    check(!c->resume || strcmp(c->resume, "auto") || c->out, "--resume auto looks into --out, which is not given");
}
