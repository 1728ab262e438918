/*
 * test_names.c: wrong names and values: does another program's word lead to ours, does a slip of the hand lead to what
 * was meant, and is nothing suggested where nothing is near?
 */
#include "../src/settings/aliases.h"
#include "../src/settings/flags.h"
#include "../src/settings/suggest.h"
#include "settings.h"

#include <stdlib.h>

static const char *refusal(const char *name, const char *value) {
    static Error error;
    Config config;
    error = (Error){0};
    config_defaults(&config);
    if (config_set(&config, name, value, &error)) fail_msg("--%s %s is taken", name, value);
    return error.text;
}

/* The message about a name ends with this, or holds no suggestion at all where it is NULL. */
static void assert_suggests(const char *name, const char *says) {
    const char *text = refusal(name, "1");
    const char *ending = says ? says : "no such flag; --help lists all";
    size_t length = strlen(text), tail = strlen(ending);
    if (length < tail || strcmp(text + length - tail, ending)) fail_msg("'%s' does not end with '%s'", text, ending);
}

static void names_of_other_programs_lead_to_ours(void **state) {
    (void)state;
    static const char *const FOREIGN[][2] = {
        /* nanoGPT */
        {"learning_rate", "--lr"}, {"max_iters", "--steps"}, {"block_size", "--seq-len"}, {"warmup_iters", "--warmup-steps"},
        {"lr_decay_iters", "--schedule-steps"}, {"min_lr", "--lr-final-frac"}, {"decay_lr", "--lr-schedule"},
        {"gradient_accumulation_steps", "--total-batch-tokens"}, {"eval_interval", "--val-every"},
        {"eval_iters", "--val-batches"}, {"log_interval", "--log-every"}, {"out_dir", "--out"}, {"dataset", "--train-data"},
        {"always_save_checkpoint", "--save-every"}, {"num_samples", "--seed"}, {"start", "--generate"},
        /* transformers */
        {"max-steps", "--steps"}, {"per_device_train_batch_size", "--batch-size"}, {"num_train_epochs", "--steps"},
        {"warmup_ratio", "--warmup-steps"}, {"lr_scheduler_type", "--lr-schedule"}, {"max_grad_norm", "--grad-clip"},
        {"adam_beta1", "--beta1"}, {"adam_beta2", "--beta2"}, {"adam_epsilon", "--adam-eps"}, {"output_dir", "--out"},
        {"bf16", "--dtype"}, {"hidden_size", "--n-embd"}, {"num_hidden_layers", "--n-layer"},
        {"num_attention_heads", "--n-head"}, {"num_key_value_heads", "--n-kv-head"}, {"intermediate_size", "--n-ffn"},
        {"max_position_embeddings", "--seq-len"}, {"rope_theta", "--rope-base"}, {"rms_norm_eps", "--norm-eps"},
        {"tie_word_embeddings", "--tie-embeddings"}, {"save_steps", "--save-every"}, {"save_total_limit", "--keep"},
        {"eval_steps", "--val-every"}, {"logging_steps", "--log-every"}, {"resume_from_checkpoint", "--resume"},
        {"gradient_checkpointing", "--recompute"}, {"report_to", "OUT/metrics.jsonl"}, {"dropout", "no dropout"},
        /* torchtitan, LitGPT, Megatron */
        {"training.seq_len", "--seq-len"}, {"local_batch_size", "--batch-size"}, {"global_batch_size", "--total-batch-tokens"},
        {"micro-batch-size", "--batch-size"}, {"train-iters", "--steps"}, {"dump_folder", "--out"}, {"ffn-hidden-size", "--n-ffn"},
        {"num-query-groups", "--n-kv-head"}, {"clip-grad", "--grad-clip"}, {"n_query_groups", "--n-kv-head"},
    };
    for (size_t i = 0; i < sizeof FOREIGN / sizeof *FOREIGN; i++) {
        const char *text = refusal(FOREIGN[i][0], "1");
        if (!strstr(text, FOREIGN[i][1])) fail_msg("'%s' does not say %s", text, FOREIGN[i][1]);
    }
    assert_suggests("learning-rate", "--learning-rate: no such flag; here it is --lr");
    assert_suggests("LearningRate", "here it is --lr");
}

static void slips_of_the_hand_lead_to_what_was_meant(void **state) {
    (void)state;
    assert_suggests("n-layers", "the nearest is --n-layer");
    assert_suggests("n_layers", "the nearest is --n-layer");
    assert_suggests("batchsize", "the nearest is --batch-size");
    assert_suggests("size-batch", "the nearest is --batch-size");
    assert_suggests("every-save", "the nearest is --save-every");
    assert_suggests("stepz", "the nearest is --steps");
    assert_suggests("setps", "the nearest is --steps");
    assert_suggests("N-HEAD", "the nearest is --n-head");
    assert_suggests("lrs", "the nearest is --lr");
    assert_suggests("warmup", "the nearest is --warmup-steps");
    assert_suggests("val-data-path", "the nearest is --val-data");
    assert_suggests("beta3", "the nearest are --beta1, --beta2");
    assert_suggests("no-bias", "here it is --bias off");
}

static void nothing_is_suggested_where_nothing_is_near(void **state) {
    (void)state;
    static const char *const FAR[] = {"", "x", "ab", "zzz", "foo-bar", "wombat", "l", "-", "--", "bhyt", "number-of-things",
                                      "colour", "horovod", "nodes", "fsdp"};
    for (size_t i = 0; i < sizeof FAR / sizeof *FAR; i++) assert_suggests(FAR[i], NULL);
    assert_null(strstr(refusal("ema", "1"), "here it is"));
    assert_null(strstr(refusal("ema", "1"), "nearest"));
}

static void every_row_leads_to_a_flag_that_there_is_and_never_hides_one(void **state) {
    (void)state;
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const char *name = FLAG_GROUPS[g].flags[i].name;
            char shorter[64], with_underscores[64];
            if (alias_find(name)) fail_msg("%s is ours, and a foreign name too", name);
            snprintf(with_underscores, sizeof with_underscores, "%s", name);
            for (char *at = with_underscores; *at; at++) *at = *at == '-' ? '_' : *at;
            assert_ptr_equal(flag_find(with_underscores), &FLAG_GROUPS[g].flags[i]);
            snprintf(shorter, sizeof shorter, "%.*s", (int)strlen(name) - 1, name);
            assert_true(!flag_find(shorter) || strcmp(flag_find(shorter)->name, shorter) == 0);
        }
    for (int i = 0; i < ALIAS_COUNT; i++) {
        const Alias *row = &ALIASES[i];
        if (row->flag && !flag_find(row->flag)) fail_msg("%s leads to --%s, which there is not", row->name, row->flag);
        if (!row->flag) assert_non_null(row->note);
        if (alias_find(row->name) != row) fail_msg("%s stands twice", row->name);
        assert_true(row->name[0] == '-' ||
                    strspn(row->name, "abcdefghijklmnopqrstuvwxyz0123456789") == strlen(row->name));
        for (const char *at = row->note ? row->note : ""; (at = strstr(at, "--")); at += 2) {
            char name[64];
            snprintf(name, sizeof name, "%.*s", (int)strspn(at + 2, "abcdefghijklmnopqrstuvwxyz0123456789-"), at + 2);
            if (!flag_find(name) && strcmp(name, "tokenizer")) fail_msg("%s: there is no --%s", row->name, name);
        }
    }
}

static void every_foreign_value_leads_to_one_of_ours(void **state) {
    (void)state;
    for (int i = 0; i < WORD_ALIAS_COUNT; i++) {
        Config config;
        Error error = {0};
        char first[64], ours[64];
        const WordAlias *row = &WORD_ALIASES[i];
        snprintf(first, sizeof first, "%.*s", (int)strcspn(row->words, "|"), row->words);
        snprintf(ours, sizeof ours, "%.*s", (int)strcspn(row->word, ";"), row->word);
        config_defaults(&config);
        if (word_alias_find(row->flag, first) != row) fail_msg("--%s %s stands twice", row->flag, first);
        if (strcmp(row->flag, "preset") == 0) continue; /* any text, to config_set() */
        if (!config_set(&config, row->flag, ours, &error)) fail_msg("%s", error.text);
        if (!strstr(refusal(row->flag, first), "here it is")) fail_msg("%s", refusal(row->flag, first));
    }
}

static void values_lead_to_what_was_meant(void **state) {
    (void)state;
    static const char *const WRONG[][3] = {
        {"norm", "rms", "; here it is rmsnorm"},       {"norm", "RMSNorm", "; the nearest is rmsnorm"},
        {"norm", "rmsnrom", "; the nearest is rmsnorm"}, {"dtype", "bfloat16", "; here it is bf16"},
        {"dtype", "float32", "; here it is fp32"},     {"dtype", "float16", "there is no fp16 here"},
        {"bias", "False", "; here it is off"},         {"tie-embeddings", "true", "; here it is on"},
        {"lr-schedule", "cosin", "; the nearest is cosine"}, {"device", "gpu", "; here it is cuda; CUDA_VISIBLE_DEVICES chooses among several"},
        {"placement", "wombat", "pre|post|sandwich|deepnorm|mix|lns|res-post|keel|hybrid|hybrid-first"},
        {"dtype", "0", "auto|fp32|bf16|fp64"},
    };
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        const char *text = refusal(WRONG[i][0], WRONG[i][1]), *says = WRONG[i][2];
        if (strcmp(text + strlen(text) - strlen(says), says)) fail_msg("'%s' does not end with '%s'", text, says);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_other_programs_lead_to_ours),
        cmocka_unit_test(slips_of_the_hand_lead_to_what_was_meant),
        cmocka_unit_test(nothing_is_suggested_where_nothing_is_near),
        cmocka_unit_test(every_row_leads_to_a_flag_that_there_is_and_never_hides_one),
        cmocka_unit_test(every_foreign_value_leads_to_one_of_ours),
        cmocka_unit_test(values_lead_to_what_was_meant),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
