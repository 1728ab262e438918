/*
 * test_model.c: the whole model keeps its promises: recomputing changes no bit, a run repeats itself bit for bit, padding
 * stays zero, and the cache computes what training computes. (Gradients: test_gradients.c; every variant: test_variants.c.)
 */
#include "model_fixture.h"

/* ------------------------------------------------------------------------------------------------------ */

/* Trains a few steps; returns the weights (caller frees) and the losses. */
static void *train(const Kernels *k, const char *settings, double losses[4], size_t *bytes) {
    Fixture f;
    setup(&f, k, settings);
    for (int step = 0; step < 4; step++) {
        begin(&f, step);
        model_forward(&f.model, true);
        model_head(&f.model, f.optimizer.state, true);
        model_backward(&f.model, NULL, NULL);
        optimizer_update(&f.optimizer);
        losses[step] = optimizer_read(&f.optimizer)->loss_sum;
    }
    *bytes = (size_t)f.model.params.elements * dtype_size(k->accum);
    void *weights = malloc(*bytes);
    memcpy(weights, optimizer_masters(&f.optimizer), *bytes);
    teardown(&f);
    return weights;
}

static void assert_same_training(const Kernels *k, const char *a, const char *b) {
    double losses_a[4], losses_b[4];
    size_t bytes;
    void *weights_a = train(k, a, losses_a, &bytes), *weights_b = train(k, b, losses_b, &bytes);
    assert_memory_equal(losses_a, losses_b, sizeof losses_a);
    assert_memory_equal(weights_a, weights_b, bytes);
    assert_true(losses_a[3] != losses_a[0]); /* it trained at all */
    free(weights_a);
    free(weights_b);
}

#define GPT2_RUN  "arch=gpt2 lr=0.01 warmup-steps=1 n-embd=72 seq-len=33 vocab-size=101 "
#define LLAMA_RUN "arch=llama lr=0.01 warmup-steps=1 n-embd=72 n-head=6 n-kv-head=2 n-ffn=101 seq-len=33 vocab-size=101 "

static void a_run_repeats_itself_bit_for_bit(void **state) {
    (void)state;
    const Kernels *types[3];
    for (int i = cpu_types(types) - 1; i >= 0; i--) {
        assert_same_training(types[i], GPT2_RUN, GPT2_RUN);
        assert_same_training(types[i], LLAMA_RUN, LLAMA_RUN);
    }
}

static void recomputing_changes_no_bit(void **state) {
    (void)state;
    const Kernels *types[3];
    for (int i = cpu_types(types) - 1; i >= 0; i--) {
        assert_same_training(types[i], GPT2_RUN, GPT2_RUN "recompute=act");
        assert_same_training(types[i], GPT2_RUN, GPT2_RUN "recompute=block");
        assert_same_training(types[i], LLAMA_RUN, LLAMA_RUN "recompute=act");
        assert_same_training(types[i], LLAMA_RUN, LLAMA_RUN "recompute=block");
    }
}

/* Whatever parts they are put in, masters come back to the bit, forward reads the same weights, and a model that is only read
 * has the same logits from two bytes a number of what is read in bf16. */
static void masters_are_held_whole_whatever_the_type(void **state) {
    (void)state;
    enum { PART = 3001 };
    const Kernels *types[3];
    for (int i = cpu_types(types) - 1; i >= 0; i--) {
        Fixture f;
        Model *m = &f.model, only_read;
        MemoryPlan plan;
        setup(&f, types[i], LLAMA_RUN);
        const int64_t elements = m->params.elements;
        const size_t element = dtype_size(m->k->accum), storage = (size_t)m->params.vectors * dtype_size(m->k->storage);
        char *arena = calloc((size_t)elements, element), *before = malloc(storage);
        params_init(&m->params, &f.config, m->k->accum, arena);
        model_load(m, arena);
        memcpy(before, m->storage, storage);
        assert_memory_equal(optimizer_masters(&f.optimizer), arena, (size_t)elements * element);
        m->k->zero(m->queue, m->storage, storage);
        for (int64_t at = 0; at < elements; at += PART)
            model_put(m, at, arena + (size_t)at * element, elements - at < PART ? elements - at : PART);
        assert_memory_equal(m->storage, before, storage);
        assert_memory_equal(optimizer_masters(&f.optimizer), arena, (size_t)elements * element);

        model_create(&only_read, &f.config, types[i], false);
        model_load(&only_read, arena);
        assert_memory_equal(only_read.storage, before, storage);
        model_feed(m, f.tokens, f.targets), model_feed(&only_read, f.tokens, f.targets);
        model_forward(m, false), model_forward(&only_read, false);
        model_logits(m, 0, 1), model_logits(&only_read, 0, 1);
        assert_memory_equal(m->logits, only_read.logits, (size_t)m->V * dtype_size(m->k->storage));
        model_plan(&f.config, types[i], false, &plan);
        const size_t vectors = (size_t)(elements - m->params.vectors) * element, room = (1 << 18) + 4096;
        assert_in_range(plan.weights, storage + vectors, storage + vectors + (m->in_halves ? room : 4096));
        model_destroy(&only_read);
        free(arena);
        free(before);
        teardown(&f);
    }
}

static void another_seed_is_another_run(void **state) {
    (void)state;
    double a[4], b[4];
    size_t bytes;
    free(train(&kernels_cpu_f32, GPT2_RUN "seed=1", a, &bytes));
    free(train(&kernels_cpu_f32, GPT2_RUN "seed=2", b, &bytes));
    assert_true(a[0] != b[0]);
}

static void padding_stays_zero(void **state) {
    (void)state;
    Fixture f;
    setup(&f, &kernels_cpu_f32, "arch=llama n-ffn=21 lr=0.01 warmup-steps=1");
    for (int step = 0; step < 2; step++) {
        loss_and_gradient(&f, true);
        optimizer_update(&f.optimizer);
    }
    const Params *params = &f.model.params;
    char *real = calloc((size_t)params->elements, 1);
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        for (int j = 0; j < p->pieces; j++)
            for (int64_t r = 0; r < p->piece[j].rows; r++)
                for (int64_t c = 0; c < p->cols; c++)
                    real[p->offset + (p->piece[j].row0 + r) * params_row_stride(p) + c] = 1;
    }
    int64_t padding = 0;
    for (int64_t i = 0; i < params->elements; i++) {
        if (real[i]) continue;
        padding++;
        assert_true(((float *)f.model.master)[i] == 0 && ((float *)f.optimizer.v)[i] == 0);
    }
    assert_true(padding > 0);
    assert_int_equal(params->elements - padding, params->true_elements);
    free(real);
    teardown(&f);
}

/* Whatever lies in the gradients, NaN at worst, an update starts without it; a second micro-step adds as much again. */
static void assert_starts_from_none(const Kernels *k, const char *settings) {
    Fixture f;
    setup(&f, k, settings);
    const Model *m = &f.model;
    assert_true(m->N > m->head_chunk); /* the head's product comes in parts */
    const size_t bytes = (size_t)m->params.elements * dtype_size(k->accum);
    void *once = malloc(bytes);
    loss_and_gradient(&f, true);
    memcpy(once, m->grad, bytes);
    for (int i = 0; i < m->params.count; i++)
        for (Elements e = {.p = &m->params.list[i]}; element_next(&e);) element_set(m, m->grad, e.at, NAN);
    loss_and_gradient(&f, true);
    assert_memory_equal(once, m->grad, bytes);
    model_forward(&f.model, true);
    model_head(&f.model, f.optimizer.state, true);
    model_backward(&f.model, NULL, NULL);
    double off = 0, all = 0;
    for (int64_t at = 0; at < m->params.elements; at++) {
        const double g = element_get(m, once, at), error = element_get(m, m->grad, at) - 2 * g;
        off += error * error, all += g * g;
    }
    assert_true(all > 0 && off <= 1e-10 * all); /* fp32 sums in another order; half a gradient would be 0.25 */
    free(once);
    teardown(&f);
}

static void an_update_starts_from_no_gradients(void **state) {
    (void)state;
    const Kernels *types[3];
    for (int i = cpu_types(types) - 1; i >= 0; i--) {
        assert_starts_from_none(types[i], "arch=gpt2 seq-len=150 batch-size=8");
        assert_starts_from_none(types[i], "arch=llama seq-len=150 batch-size=8");
    }
}

/* Greedy logits with the cache equal those of the whole prefix at once. */
static void the_cache_computes_what_training_computes(void **state) {
    (void)state;
    static const char *const CASES[] = {
        "arch=gpt2 batch-size=1",
        "arch=llama n-head=6 n-kv-head=2 n-ffn=21 batch-size=1",
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Fixture f;
        setup(&f, &kernels_cpu_f64, CASES[i]);
        model_open_cache(&f.model, 1);
        int T = f.model.T, V = f.model.V;
        double *whole = malloc((size_t)(T * V) * sizeof *whole);
        model_feed(&f.model, f.tokens, f.targets);
        model_forward(&f.model, false);
        model_logits(&f.model, 0, T);
        for (int t = 0; t < T; t++)
            memcpy(whole + t * V, (double *)f.model.logits + t * padded(V), (size_t)V * sizeof *whole);
        for (int t = 0; t < T; t += t ? 1 : 3) { /* three tokens first, then one by one */
            int count = t ? 1 : 3;
            model_prefill(&f.model, 0, f.tokens + t, count, (uint32_t)t);
            for (int v = 0; v < V; v++) {
                double expected = whole[(t + count - 1) * V + v], got = ((double *)f.model.logits)[v];
                /* Sums in another order: some hundred roundings of 1e-16 in logits of order 1. */
                assert_true(fabs(got - expected) <= 1e-12 * (1 + fabs(expected)));
            }
        }
        free(whole);
        teardown(&f);
    }
}

/* Sequences of other lengths, in other places, change no bit of one; in every type, up to the eight that decode.h names. */
static void a_sequence_decodes_alone_as_in_a_batch(void **state) {
    (void)state;
    enum { MOST = 8, STEPS = 4 };
    const Kernels *types[3];
    const int count = cpu_types(types);
    for (int batch = 2; batch <= MOST; batch++) {
        Fixture f;
        setup(&f, types[batch % count], "arch=llama n-head=6 n-kv-head=2 n-ffn=21 batch-size=8 seq-len=16");
        Model *m = &f.model;
        size_t row = (size_t)m->V * dtype_size(m->k->storage), stride = (size_t)padded(m->V) * dtype_size(m->k->storage);
        uint32_t tokens[MOST], lengths[MOST];
        char *alone = malloc(MOST * STEPS * row);
        model_open_cache(m, MOST);
        for (int s = 0; s < MOST; s++) { /* sequence s: s + 1 tokens of its own, then four one by one, at place 0 */
            model_prefill(m, 0, f.tokens + s, s + 1, 0);
            for (int i = 0; i < STEPS; i++) {
                const uint32_t length = (uint32_t)(s + 1 + i);
                model_decode(m, 1, f.tokens + 2 * s + i, &length);
                memcpy(alone + (size_t)(s * STEPS + i) * row, m->logits, row);
            }
        }
        for (int s = 0; s < batch; s++) model_prefill(m, s, f.tokens + s, s + 1, 0);
        for (int i = 0; i < STEPS; i++) {
            for (int s = 0; s < batch; s++) tokens[s] = f.tokens[2 * s + i], lengths[s] = (uint32_t)(s + 1 + i);
            model_decode(m, batch, tokens, lengths);
            for (int s = 0; s < batch; s++)
                assert_memory_equal((char *)m->logits + (size_t)s * stride, alone + (size_t)(s * STEPS + i) * row, row);
        }
        free(alone);
        teardown(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_repeats_itself_bit_for_bit),
        cmocka_unit_test(recomputing_changes_no_bit),
        cmocka_unit_test(masters_are_held_whole_whatever_the_type),
        cmocka_unit_test(another_seed_is_another_run),
        cmocka_unit_test(padding_stays_zero),
        cmocka_unit_test(an_update_starts_from_no_gradients),
        cmocka_unit_test(the_cache_computes_what_training_computes),
        cmocka_unit_test(a_sequence_decodes_alone_as_in_a_batch),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
