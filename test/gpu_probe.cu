/*
 * gpu_probe.cu: what does this GPU do with our kernels? A program for the day a GPU is at hand.
 *
 *     gpu_probe [--tiny]
 *
 * Prints JSON objects, one a line, told apart by "row":
 *   device     what it is
 *   copy       bandwidth of a copy on the device, bytes read and written, 0.5 GiB each way
 *   kernel     the time of a kernel here, as bandwidth and share of a copy measured just before it, or as TFLOP/s
 *   product    cuBLASLt's rate on random data for the products of gpt2-124m and gpt2-1558m
 *   epilogue   whether cuBLASLt accepts a pair of types and epilogue
 * Times are medians of 11 samples after a warm-up, between two events: "us", with cold caches, of single calls, each
 * behind a write of more than the second-level cache; "us_warm", of calls one after the other, enough to fill two
 * milliseconds. Rates are those of cold caches unless they are called warm. --tiny shrinks all shapes: it checks this
 * program, and its numbers mean nothing.
 *
 * Exit codes: 0 done, 1 the device failed, 2 no device that can serve, or bad usage. How to build: see
 * kernels/cuda/README.md.
 */
#include "../kernels/cuda/cublaslt.cuh"
#include "../kernels/cuda/types.cuh"

#include <algorithm>
#include <stdlib.h>
#include <string.h>
#include <vector>

namespace {

const Kernels *k;
Queue *queue;
enum { SAMPLES = 11 };
Event *start[SAMPLES], *stop[SAMPLES];
bool tiny = false;
void *copied, *copied_to; /* of the copies between measurements; overwriting one empties the caches */
size_t copied_bytes;

/* --------------------------------------------------------------------------------------------------------
 * Memory with random numbers in it: products of zeros run faster than products of numbers.
 * ------------------------------------------------------------------------------------------------------ */

template <typename T>
__global__ void fill_random(T *out, int64_t rows, int64_t cols, int64_t stride, uint32_t seed) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * stride; i += step) {
        uint64_t bits = (uint64_t)i * 0x9e3779b97f4a7c15ull + seed; /* splitmix64 */
        bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9ull;
        bits = (bits ^ bits >> 27) * 0x94d049bb133111ebull;
        const float value = (float)(bits >> 40) * (2.0f / (1 << 24)) - 1.0f;
        out[i] = from_float<T>(i % stride < cols ? value : 0.0f);
    }
}

std::vector<void *> taken;

void *take(size_t bytes) {
    void *memory = k->alloc(bytes);
    require(memory, "gpu_probe: not enough device memory for %zu bytes", bytes);
    taken.push_back(memory);
    return memory;
}

void release_all() {
    k->queue_wait(queue);
    for (void *memory : taken) k->release(memory);
    taken.clear();
}

/* A matrix [rows, cols] with padded rows, uniform in [-1, 1). */
template <typename T> T *random_matrix(int64_t rows, int64_t cols) {
    static uint32_t seed = 0;
    T *memory = static_cast<T *>(take(rows * row_stride(cols) * sizeof(T)));
    LAUNCH((fill_random<T>), tiny ? 8 : 1024, 128, 0, queue->stream, memory, rows, cols, row_stride(cols),
           ++seed);
    return memory;
}

bf16 *random_weight(int64_t out, int64_t in) {
    bf16 *weight = random_matrix<bf16>(row_stride(out), in);
    k->zero(queue, weight + out * row_stride(in), (row_stride(out) - out) * row_stride(in) * sizeof(bf16));
    return weight;
}

/* --------------------------------------------------------------------------------------------------------
 * Time
 * ------------------------------------------------------------------------------------------------------ */

struct Times {
    double cold, warm; /* seconds of one call */
};

double median(double *values, int count) {
    std::nth_element(values, values + count / 2, values + count);
    return values[count / 2];
}

template <typename Call> double seconds_of(int calls, Call call) {
    k->event_record(queue, start[0]);
    for (int i = 0; i < calls; i++) call();
    k->event_record(queue, stop[0]);
    k->event_host_wait(stop[0]);
    return k->event_elapsed(start[0], stop[0]) / calls;
}

/* Everything is queued before anything is waited for: so no launch is waited for between two events. */
template <typename Call> double cold_seconds(int samples, Call call) {
    double times[SAMPLES];
    for (int i = 0; i < samples; i++) {
        k->zero(queue, copied_to, copied_bytes);
        k->event_record(queue, start[i]);
        call();
        k->event_record(queue, stop[i]);
    }
    k->event_host_wait(stop[samples - 1]);
    for (int i = 0; i < samples; i++) times[i] = k->event_elapsed(start[i], stop[i]);
    return median(times, samples);
}

template <typename Call> Times measure(Call call) {
    const int samples = tiny ? 1 : SAMPLES;
    double times[SAMPLES];
    seconds_of(tiny ? 1 : 3, call);
    const double cold = cold_seconds(samples, call), once = tiny ? 1 : seconds_of(3, call);
    const int calls = std::max(1, std::min(1000, (int)(2e-3 / (once > 0 ? once : 1e-6))));
    for (int i = 0; i < samples; i++) times[i] = seconds_of(calls, call);
    return {cold, median(times, samples)};
}

/* Bytes a second, read and written. */
double copy_bandwidth() {
    const double seconds =
        cold_seconds(tiny ? 1 : SAMPLES, [] { k->copy(queue, copied_to, copied, copied_bytes, COPY_ON_DEVICE); });
    return 2.0 * copied_bytes / seconds;
}

template <typename Call> void print_bandwidth(const char *name, double bytes, Call call) {
    const double copy = copy_bandwidth();
    const Times time = measure(call);
    printf("{\"row\": \"kernel\", \"name\": \"%s\", \"us\": %.2f, \"us_warm\": %.2f, \"bytes\": %.0f, "
           "\"bytes_per_s\": %.4g, \"copy_bytes_per_s\": %.4g, \"share_of_copy\": %.4f, "
           "\"share_of_copy_warm\": %.4f}\n",
           name, time.cold * 1e6, time.warm * 1e6, bytes, bytes / time.cold, copy, bytes / time.cold / copy,
           bytes / time.warm / copy);
    fflush(stdout);
}

template <typename Call> void print_rate(const char *row, const char *name, double flops, Call call) {
    const Times time = measure(call);
    printf("{\"row\": \"%s\", \"name\": \"%s\", \"us\": %.2f, \"us_warm\": %.2f, \"tflops\": %.3f, "
           "\"tflops_warm\": %.3f}\n",
           row, name, time.cold * 1e6, time.warm * 1e6, flops / time.cold * 1e-12, flops / time.warm * 1e-12);
    fflush(stdout);
}

/* --------------------------------------------------------------------------------------------------------
 * What is measured
 * ------------------------------------------------------------------------------------------------------ */

void measure_copy() {
    printf("{\"row\": \"copy\", \"bytes_per_s\": %.4g}\n", copy_bandwidth());
    fflush(stdout);
}

/* Forward with a bias, and both gradients, of one matrix. */
void measure_linear(const char *model, const char *matrix, int64_t N, int in, int out,
                    bool bias) {
    Linear forward = {};
    forward.N = N, forward.in = in, forward.out = out;
    LinearBackward backward = {};
    backward.N = N, backward.in = in, backward.out = out;
    forward.x = backward.x = random_matrix<bf16>(N, in);
    forward.w = backward.w = random_weight(out, in);
    forward.bias = bias ? random_matrix<bf16>(1, out) : NULL;
    forward.y = take(N * row_stride(out) * sizeof(bf16));
    backward.dy = random_matrix<bf16>(N, out);
    backward.dx = take(N * row_stride(in) * sizeof(bf16));
    backward.dw = take(row_stride(out) * row_stride(in) * sizeof(float));
    const double flops = 2.0 * (double)N * in * out;
    char name[128];
    snprintf(name, sizeof name, "%s %s %d->%d N=%lld forward%s", model, matrix, in, out, (long long)N,
             bias ? " bias" : "");
    print_rate("product", name, flops, [&] { k->linear_forward(queue, &forward); });
    snprintf(name, sizeof name, "%s %s %d->%d N=%lld dx", model, matrix, in, out, (long long)N);
    print_rate("product", name, flops, [&] { k->linear_backward_input(queue, &backward); });
    snprintf(name, sizeof name, "%s %s %d->%d N=%lld dw fp32 +=", model, matrix, in, out, (long long)N);
    print_rate("product", name, flops, [&] { k->linear_backward_weight(queue, &backward); });
    release_all();
}

void measure_products() {
    struct Model {
        const char *name;
        int C;
    };
    const Model models[] = {{"gpt2-124m", tiny ? 64 : 768}, {"gpt2-1558m", tiny ? 128 : 1600}};
    const int64_t N = tiny ? 32 : 16384, head = tiny ? 16 : 8192;
    for (const Model &model : models) {
        measure_linear(model.name, "qkv", N, model.C, 3 * model.C, true);
        measure_linear(model.name, "o", N, model.C, model.C, true);
        measure_linear(model.name, "mlp-in", N, model.C, 4 * model.C, true);
        measure_linear(model.name, "mlp-out", N, 4 * model.C, model.C, true);
        measure_linear(model.name, "head", head, model.C, tiny ? 257 : 50257, false);
    }
}

void measure_junction(int64_t N, int C, NormKind kind, bool residual_is_accum) {
    const size_t residual_size = residual_is_accum ? sizeof(float) : sizeof(bf16), row = N * row_stride(C);
    Junction forward = {};
    forward.N = N, forward.C = C, forward.residual_is_accum = residual_is_accum;
    forward.x = residual_is_accum ? (void *)random_matrix<float>(N, C) : (void *)random_matrix<bf16>(N, C);
    forward.f = random_matrix<bf16>(N, C);
    forward.bias = random_matrix<bf16>(1, C);
    forward.u = take(row * residual_size);
    forward.y = take(row * sizeof(bf16));
    forward.norm.kind = kind, forward.norm.eps = 1e-5;
    forward.norm.gamma = random_matrix<float>(1, C);
    forward.norm.beta = kind == NORM_LAYERNORM ? random_matrix<float>(1, C) : NULL;
    forward.norm.mean = static_cast<float *>(take(N * sizeof(float)));
    forward.norm.rstd = static_cast<float *>(take(N * sizeof(float)));
    JunctionBackward backward = {};
    backward.forward = &forward;
    backward.dy = random_matrix<bf16>(N, C);
    backward.dresidual_in = backward.dresidual_out = take(row * residual_size);
    backward.df = residual_is_accum ? take(row * sizeof(bf16)) : NULL;
    backward.dbias = take(row_stride(C) * sizeof(float));
    backward.norm.dgamma = take(row_stride(C) * sizeof(float));
    backward.norm.dbeta = kind == NORM_LAYERNORM ? take(row_stride(C) * sizeof(float)) : NULL;

    const double elements = (double)N * C;
    const double forward_bytes = elements * (2 * residual_size + 2 * sizeof(bf16));
    const double backward_bytes =
        elements * (3 * residual_size + sizeof(bf16) + (backward.df ? sizeof(bf16) : 0));
    const char *norm = kind == NORM_LAYERNORM ? "layernorm" : "rmsnorm";
    char name[128];
    snprintf(name, sizeof name, "junction_forward %s C=%d N=%lld residual %s", norm, C, (long long)N,
             residual_is_accum ? "fp32" : "bf16");
    print_bandwidth(name, forward_bytes, [&] { k->junction_forward(queue, &forward); });
    snprintf(name, sizeof name, "junction_backward %s C=%d N=%lld residual %s", norm, C, (long long)N,
             residual_is_accum ? "fp32" : "bf16");
    print_bandwidth(name, backward_bytes, [&] { k->junction_backward(queue, &backward); });
    release_all();
}

void measure_activation(int64_t N, int F, ActivationKind kind) {
    const int parts = kind == ACTIVATION_SWIGLU ? 2 : 1;
    const int64_t width = parts * row_stride(F);
    Activation forward = {};
    forward.N = N, forward.F = F, forward.kind = kind;
    forward.h = random_matrix<bf16>(N, width);
    forward.y = take(N * row_stride(F) * sizeof(bf16));
    ActivationBackward backward = {};
    backward.forward = &forward;
    backward.dy = random_matrix<bf16>(N, F);
    backward.dh = take(N * width * sizeof(bf16));
    backward.dbias = take(width * sizeof(float));
    const char *kind_name = kind == ACTIVATION_SWIGLU ? "swiglu" : "gelu";
    const double elements = (double)N * F;
    char name[128];
    snprintf(name, sizeof name, "activation_forward %s F=%d N=%lld", kind_name, F, (long long)N);
    print_bandwidth(name, elements * (parts + 1) * sizeof(bf16), [&] { k->activation_forward(queue, &forward); });
    snprintf(name, sizeof name, "activation_backward %s F=%d N=%lld", kind_name, F, (long long)N);
    print_bandwidth(name, elements * (2 * parts + 1) * sizeof(bf16), [&] { k->activation_backward(queue, &backward); });
    release_all();
}

/* The embedding's gradient at the tokens of a small vocabulary (many of each) and of GPT-2's; the loss. */
void measure_ends(int64_t N, int C, int V) {
    std::vector<uint32_t> ids(N);
    for (int64_t n = 0; n < N; n++) ids[n] = (uint32_t)((uint64_t)n * 2654435761u % (uint32_t)V);
    uint32_t *tokens = static_cast<uint32_t *>(take(N * sizeof(uint32_t)));
    k->copy(queue, tokens, ids.data(), N * sizeof(uint32_t), COPY_TO_DEVICE);
    k->queue_wait(queue);
    Embedding forward = {};
    forward.B = 1, forward.T = (int)N, forward.C = C, forward.V = V, forward.tokens = tokens;
    EmbeddingBackward backward = {};
    backward.forward = &forward;
    backward.dx = random_matrix<bf16>(N, C);
    backward.dtoken_table = take(row_stride(V) * row_stride(C) * sizeof(float));
    StepState *device_state =
        static_cast<StepState *>(take(sizeof(StepState))); /* zero: so is the gradient */
    const int64_t chunk = std::min<int64_t>(N, 8192);
    CrossEntropy loss = {};
    loss.N = chunk, loss.V = V, loss.gradient = true, loss.targets = tokens, loss.state = device_state;
    loss.logits = random_matrix<bf16>(chunk, V);
    loss.losses = take(chunk * sizeof(float));
    char name[128];
    snprintf(name, sizeof name, "embedding_backward C=%d V=%d N=%lld", C, V, (long long)N);
    print_bandwidth(name, (double)N * C * sizeof(bf16), [&] { k->embedding_backward(queue, &backward); });
    snprintf(name, sizeof name, "cross_entropy V=%d N=%lld", V, (long long)chunk);
    print_bandwidth(name, (double)chunk * V * 2 * sizeof(bf16), [&] { k->cross_entropy(queue, &loss); });
    release_all();
}

void measure_optimizer(int64_t elements) {
    ParamSlot slot = {};
    slot.count = elements, slot.lr_scale = 1, slot.rows = 1, slot.cols = (int)elements;
    StepState state = {};
    state.in.lr = 1e-6, state.clip_scale[0] = state.clip_scale[1] = 1;
    state.bias_correction[0] = state.bias_correction[1] = 1;
    ParamSlot *slots = static_cast<ParamSlot *>(take(sizeof slot));
    StepState *device_state = static_cast<StepState *>(take(sizeof state));
    k->copy(queue, slots, &slot, sizeof slot, COPY_TO_DEVICE);
    k->copy(queue, device_state, &state, sizeof state, COPY_TO_DEVICE);
    k->queue_wait(queue);
    AdamW step = {};
    step.storage = random_matrix<bf16>(1, elements);
    step.lower = static_cast<uint16_t *>(take(elements * sizeof(uint16_t)));
    step.grad = random_matrix<float>(1, elements);
    step.m = take(elements * sizeof(float));
    step.v = take(elements * sizeof(float));
    step.end = elements, step.slots = slots, step.n_slots = 1, step.state = device_state;
    step.beta1 = 0.9, step.beta2 = 0.95, step.eps = 1e-8;
    SumSquares squares = {};
    squares.grad = step.grad, squares.end = elements, squares.slots = slots, squares.n_slots = 1;
    squares.state = device_state;
    char name[128];
    snprintf(name, sizeof name, "adamw %lld parameters", (long long)elements);
    print_bandwidth(name, 28.0 * elements, [&] { k->adamw(queue, &step); });
    slot.optimizer = OPTIMIZER_MUON;
    k->copy(queue, slots, &slot, sizeof slot, COPY_TO_DEVICE);
    k->queue_wait(queue);
    MuonMomentum momentum = {};
    momentum.grad = step.grad, momentum.m = step.m, momentum.out = step.v, momentum.momentum = 0.95;
    momentum.end = elements, momentum.slots = slots, momentum.n_slots = 1, momentum.state = device_state;
    snprintf(name, sizeof name, "muon_momentum %lld parameters", (long long)elements);
    print_bandwidth(name, 20.0 * elements, [&] { k->muon_momentum(queue, &momentum); });
    MuonUpdate update = {};
    update.storage = step.storage, update.lower = step.lower, update.direction = step.v;
    update.end = elements, update.slots = slots, update.n_slots = 1, update.state = device_state;
    snprintf(name, sizeof name, "muon_update %lld parameters", (long long)elements);
    print_bandwidth(name, 12.0 * elements, [&] { k->muon_update(queue, &update); });
    snprintf(name, sizeof name, "sum_squares %lld parameters", (long long)elements);
    print_bandwidth(name, 4.0 * elements, [&] { k->sum_squares(queue, &squares); });
    release_all();
}

void measure_attention(int B, int T, int H, int Hkv, int D) {
    const int64_t N = (int64_t)B * T, width = (int64_t)(H + 2 * Hkv) * D;
    Attention forward = {};
    forward.B = B, forward.T = T, forward.H = H, forward.Hkv = Hkv, forward.D = D;
    forward.qkv = random_matrix<bf16>(N, width);
    forward.out = take(N * row_stride((int64_t)H * D) * sizeof(bf16));
    forward.lse = take(N * H * sizeof(float));
    AttentionBackward backward = {};
    backward.forward = &forward;
    backward.dout = random_matrix<bf16>(N, (int64_t)H * D);
    backward.dqkv = take(N * row_stride(width) * sizeof(bf16));
    const double flops = 2.0 * B * H * (double)T * T * D; /* half of the square, two products */
    char name[128];
    snprintf(name, sizeof name, "attention_forward B=%d T=%d H=%d/%d D=%d", B, T, H, Hkv, D);
    print_rate("kernel", name, flops, [&] { k->attention_forward(queue, &forward); });
    snprintf(name, sizeof name, "attention_backward B=%d T=%d H=%d/%d D=%d", B, T, H, Hkv, D);
    print_rate("kernel", name, 2.5 * flops, [&] { k->attention_backward(queue, &backward); });
    release_all();
}

void measure_kernels() {
    const int64_t N = tiny ? 24 : 65536;
    for (int C : {768, 1600, 2048, 4096}) {
        measure_junction(tiny ? N : N * 768 / C, tiny ? C / 8 : C, NORM_LAYERNORM, false);
        measure_junction(tiny ? N : N * 768 / C, tiny ? C / 8 : C, NORM_RMSNORM, true);
    }
    measure_activation(N, tiny ? 96 : 3072, ACTIVATION_GELU);
    measure_activation(N, tiny ? 70 : 2048, ACTIVATION_SWIGLU);
    measure_ends(N, tiny ? 64 : 768, tiny ? 17 : 256);
    measure_ends(N, tiny ? 64 : 768, tiny ? 257 : 50257);
    measure_optimizer(tiny ? 64 * 100 : 64 * 1944000);
    const int B = tiny ? 1 : 16, T = tiny ? 80 : 1024;
    measure_attention(B, T, tiny ? 2 : 12, tiny ? 2 : 12, 64);
    measure_attention(B, T, tiny ? 2 : 25, tiny ? 2 : 25, 64);
    measure_attention(B, T, tiny ? 2 : 16, tiny ? 1 : 4, 128);
    measure_attention(tiny ? 1 : 4, tiny ? 80 : 4096, tiny ? 1 : 16, tiny ? 1 : 16, 64);
}

/* --------------------------------------------------------------------------------------------------------
 * What cuBLASLt accepts
 * ------------------------------------------------------------------------------------------------------ */

struct Types {
    const char *name;
    cudaDataType_t in, out;
};

struct Epilogue {
    const char *name;
    cublasLtEpilogue_t value;
    bool bias, aux;
};

/* D [m,n] = Aᵀ·B (+ D) by columns, as linear_forward asks for it; tried for real, since a heuristic may
 * promise what the call refuses. Returns the status that stopped it. */
cublasStatus_t try_product(cublasLtHandle_t handle, const Types &types, const Epilogue &epilogue,
                           cudaDataType_t bias_type, float beta) {
    const int64_t n = 256;
    const size_t bytes = n * n * sizeof(float);
    void *a = take(bytes), *b = take(bytes), *d = take(bytes), *bias = take(bytes), *aux = take(bytes);
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t in, out;
    cublasLtMatmulPreference_t preference;
    CUBLASLT_CHECK(cublaslt.MatmulDescCreate(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "probing");
    CUBLASLT_CHECK(cublaslt.MatrixLayoutCreate(&in, types.in, n, n, n), "probing");
    CUBLASLT_CHECK(cublaslt.MatrixLayoutCreate(&out, types.out, n, n, n), "probing");
    CUBLASLT_CHECK(cublaslt.MatmulPreferenceCreate(&preference), "probing");
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    const auto attribute = [&](cublasLtMatmulDescAttributes_t which, const void *value, size_t size) {
        if (status == CUBLAS_STATUS_SUCCESS)
            status = cublaslt.MatmulDescSetAttribute(operation, which, value, size);
    };
    const cublasOperation_t transpose = CUBLAS_OP_T;
    attribute(CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose);
    attribute(CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue.value, sizeof epilogue.value);
    if (epilogue.bias) {
        attribute(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type, sizeof bias_type);
        attribute(CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    }
    if (epilogue.aux) {
        attribute(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux);
        attribute(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &n, sizeof n);
    }
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublaslt.MatmulAlgoGetHeuristic(handle, operation, in, in, out, out, preference, 1, &result,
                                                 &found);
    if (status == CUBLAS_STATUS_SUCCESS && found == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (status == CUBLAS_STATUS_SUCCESS) {
        const float alpha = 1;
        status = cublaslt.Matmul(handle, operation, &alpha, a, in, b, in, &beta, d, out, d, out, &result.algo,
                                 NULL, 0, queue->stream);
        k->queue_wait(queue);
    }
    CUBLASLT_CHECK(cublaslt.MatmulPreferenceDestroy(preference), "probing");
    CUBLASLT_CHECK(cublaslt.MatrixLayoutDestroy(out), "probing");
    CUBLASLT_CHECK(cublaslt.MatrixLayoutDestroy(in), "probing");
    CUBLASLT_CHECK(cublaslt.MatmulDescDestroy(operation), "probing");
    release_all();
    return status;
}

void probe_epilogues() {
    const Types all_types[] = {{"bf16->bf16", CUDA_R_16BF, CUDA_R_16BF},
                               {"bf16->fp32", CUDA_R_16BF, CUDA_R_32F},
                               {"fp32->fp32", CUDA_R_32F, CUDA_R_32F}};
    const Epilogue epilogues[] = {{"none", CUBLASLT_EPILOGUE_DEFAULT, false, false},
                                  {"bias", CUBLASLT_EPILOGUE_BIAS, true, false},
                                  {"gelu", CUBLASLT_EPILOGUE_GELU, false, false},
                                  {"gelu_bias", CUBLASLT_EPILOGUE_GELU_BIAS, true, false},
                                  {"gelu_aux", CUBLASLT_EPILOGUE_GELU_AUX, false, true},
                                  {"gelu_aux_bias", CUBLASLT_EPILOGUE_GELU_AUX_BIAS, true, true},
                                  {"dgelu", CUBLASLT_EPILOGUE_DGELU, false, true},
                                  {"dgelu_bgrad", CUBLASLT_EPILOGUE_DGELU_BGRAD, true, true},
                                  {"bgrad_a", CUBLASLT_EPILOGUE_BGRADA, true, false},
                                  {"bgrad_b", CUBLASLT_EPILOGUE_BGRADB, true, false}};
    cublasLtHandle_t handle;
    CUBLASLT_CHECK(cublaslt.Create(&handle), "probing");
    for (const Types &types : all_types)
        for (const Epilogue &epilogue : epilogues)
            for (cudaDataType_t bias_type : {CUDA_R_16BF, CUDA_R_32F})
                for (float beta : {0.0f, 1.0f}) {
                    if (!epilogue.bias && bias_type == CUDA_R_32F) continue;
                    const cublasStatus_t status = try_product(handle, types, epilogue, bias_type, beta);
                    printf("{\"row\": \"epilogue\", \"types\": \"%s\", \"epilogue\": \"%s\", \"bias\": %s, "
                           "\"beta\": %d, "
                           "\"accepted\": %s, \"status\": \"%s\"}\n",
                           types.name, epilogue.name,
                           !epilogue.bias             ? "null"
                           : bias_type == CUDA_R_16BF ? "\"bf16\""
                                                      : "\"fp32\"",
                           (int)beta, status == CUBLAS_STATUS_SUCCESS ? "true" : "false",
                           cublaslt.GetStatusName(status));
                }
    CUBLASLT_CHECK(cublaslt.Destroy(handle), "probing");
}

void print_device() {
    DeviceInfo info;
    k->describe(&info);
    int driver = 0, runtime = 0;
    CUDA_CHECK(cudaDriverGetVersion(&driver), "probing");
    CUDA_CHECK(cudaRuntimeGetVersion(&runtime), "probing");
    printf("{\"row\": \"device\", \"device\": \"%s\", \"memory_bytes\": %llu, \"multiprocessors\": %d, "
           "\"peak_bf16_flops\": %.4g, \"driver\": %d, \"runtime\": %d, \"cublaslt\": %zu, \"tiny\": %s}\n",
           info.name, (unsigned long long)info.memory_total, info.units, info.peak_flops, driver, runtime,
           cublaslt.GetVersion(), tiny ? "true" : "false");
}

} // namespace

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--tiny") == 0) {
            tiny = true;
        } else {
            fprintf(stderr, "gpu_probe: unknown argument \"%s\"; usage: gpu_probe [--tiny]\n", argv[i]);
            return EXIT_USAGE;
        }
    }
    k = &kernels_cuda_bf16;
    char text[256];
    if (!k->open(0, text, sizeof text)) {
        fprintf(stderr, "gpu_probe: %s\n", text);
        return EXIT_USAGE;
    }
    Limits limits = {};
    limits.N = 65536, limits.H = 25, limits.C = 4096, limits.F = 4096, limits.parameters = 64 * 1944000;
    queue = k->queue_create(k->scratch_bytes(&limits));
    require(queue, "gpu_probe: not enough device memory for a queue");
    for (int i = 0; i < SAMPLES; i++) start[i] = k->event_create(EVENT_INTERNAL), stop[i] = k->event_create(EVENT_INTERNAL);
    copied_bytes = tiny ? 1 << 16 : (size_t)1 << 29;
    copied = k->alloc(copied_bytes), copied_to = k->alloc(copied_bytes);
    require(copied && copied_to, "gpu_probe: not enough device memory for two times %zu bytes", copied_bytes);
    LAUNCH((fill_random<float>), tiny ? 8 : 1024, 128, 0, queue->stream, static_cast<float *>(copied), 1,
           (int64_t)(copied_bytes / sizeof(float)), (int64_t)(copied_bytes / sizeof(float)), 0u);

    print_device();
    measure_copy();
    measure_kernels();
    measure_products();
    probe_epilogues();

    k->queue_wait(queue);
    k->release(copied), k->release(copied_to);
    for (int i = 0; i < SAMPLES; i++) k->event_destroy(start[i]), k->event_destroy(stop[i]);
    k->queue_destroy(queue);
    k->close();
    return EXIT_DONE;
}
