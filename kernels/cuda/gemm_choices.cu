/*
 * gemm_choices.cu: the algorithms that were measured, as JSON. cuBLASLt promises that its 64 opaque bytes mean the
 * same to the same version of the library, so the file names that and the GPU, and is refused elsewhere. An
 * algorithm that a file gives is checked by the library before it runs (linear.cu).
 */
#include "gemm.cuh"

#include <string.h>
#include <vector>

extern "C" {
#include "../../src/base/json.h"
}

namespace {

struct Choice {
    Product product;
    cublasLtMatmulAlgo_t algorithm;
};

std::vector<Choice> choices;

/* Written only where it is less than a tensor's start has. */
const char *const ALIGNMENTS[3] = {"align_a", "align_b", "align_d"};

const int MOST_CHOICES = 10000, HEX = 2 * sizeof(cublasLtMatmulAlgo_t);

const char *type_name(cudaDataType_t type) {
    return type == CUDA_R_16BF ? "bf16" : "fp32";
}

bool type_of(const char *name, cudaDataType_t *type) {
    *type = strcmp(name, "bf16") ? CUDA_R_32F : CUDA_R_16BF;
    return strcmp(name, type_name(*type)) == 0;
}

void gpu_name(char *name, size_t size) {
    int index = 0;
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDevice(&index), "naming the GPU");
    CUDA_CHECK(cudaGetDeviceProperties(&properties, index), "naming the GPU");
    snprintf(name, size, "%s", properties.name);
}

void write_hex(const cublasLtMatmulAlgo_t &algorithm, char text[HEX + 1]) {
    unsigned char bytes[sizeof algorithm];
    memcpy(bytes, &algorithm, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) snprintf(text + 2 * i, 3, "%02x", bytes[i]);
}

bool read_hex(const char *text, cublasLtMatmulAlgo_t *algorithm) {
    unsigned char bytes[sizeof *algorithm];
    if (strlen(text) != (size_t)HEX || strspn(text, "0123456789abcdef") != (size_t)HEX) return false;
    for (size_t i = 0; i < sizeof bytes; i++) {
        unsigned byte = 0;
        sscanf(text + 2 * i, "%2x", &byte);
        bytes[i] = (unsigned char)byte;
    }
    memcpy(algorithm, bytes, sizeof bytes);
    return true;
}

cJSON *object_of(const Choice &choice) {
    const Product &p = choice.product;
    char transposes[3] = {p.transpose_a ? 't' : 'n', p.transpose_b ? 't' : 'n', '\0'}, hex[HEX + 1];
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "m", (double)p.m);
    cJSON_AddNumberToObject(o, "n", (double)p.n);
    cJSON_AddNumberToObject(o, "k", (double)p.k);
    cJSON_AddStringToObject(o, "in", type_name(p.type));
    cJSON_AddStringToObject(o, "out", type_name(p.out_type));
    cJSON_AddStringToObject(o, "transpose", transposes);
    cJSON_AddNumberToObject(o, "bias", p.bias);
    cJSON_AddNumberToObject(o, "accumulate", p.accumulate);
    for (int i = 0; i < 3; i++)
        if (p.align[i] < GEMM_ALIGNMENT) cJSON_AddNumberToObject(o, ALIGNMENTS[i], p.align[i]);
    write_hex(choice.algorithm, hex);
    cJSON_AddStringToObject(o, "algorithm", hex);
    return o;
}

bool parse_choice(const cJSON *o, Choice *choice, Error *error) {
    const int64_t most = (int64_t)1 << 40;
    Product *p = &choice->product;
    int64_t bias = 0, accumulate = 0;
    if (!json_integer(o, "m", 1, most, &p->m, error) || !json_integer(o, "n", 1, most, &p->n, error) ||
        !json_integer(o, "k", 1, most, &p->k, error) || !json_integer(o, "bias", 0, 1, &bias, error) ||
        !json_integer(o, "accumulate", 0, 1, &accumulate, error))
        return false;
    for (int i = 0; i < 3; i++) {
        int64_t bytes = GEMM_ALIGNMENT;
        if (cJSON_GetObjectItemCaseSensitive(o, ALIGNMENTS[i]) &&
            !json_integer(o, ALIGNMENTS[i], 1, GEMM_ALIGNMENT, &bytes, error))
            return false;
        p->align[i] = (uint32_t)bytes;
    }
    const char *in = json_text(o, "in", error), *out = in ? json_text(o, "out", error) : NULL;
    const char *transposes = out ? json_text(o, "transpose", error) : NULL;
    const char *hex = transposes ? json_text(o, "algorithm", error) : NULL;
    if (!hex) return false;
    p->bias = bias, p->accumulate = accumulate;
    p->transpose_a = transposes[0] == 't', p->transpose_b = transposes[0] && transposes[1] == 't';
    if (!type_of(in, &p->type) || !type_of(out, &p->out_type))
        return error_set(error, "fields 'in' and 'out' must be bf16 or fp32");
    if (strlen(transposes) != 2 || strspn(transposes, "nt") != 2)
        return error_set(error, "field 'transpose' must be two of n and t");
    return read_hex(hex, &choice->algorithm) ||
           error_set(error, "field 'algorithm' must be %d hexadecimal digits", HEX);
}

bool parse_products(const cJSON *root, std::vector<Choice> *parsed, Error *error) {
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "products"), *item;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) > MOST_CHOICES)
        return error_set(error, "field 'products' must be a list of at most %d", MOST_CHOICES);
    cJSON_ArrayForEach(item, list) {
        Choice choice = {};
        if (!cJSON_IsObject(item)) return error_set(error, "field 'products' holds something else than objects");
        if (!parse_choice(item, &choice, error)) return false;
        parsed->push_back(choice);
    }
    return true;
}

bool check_place(const cJSON *root, Error *error) {
    char here[256];
    int64_t version = 0;
    const char *gpu = json_text(root, "gpu", error);
    if (!gpu || !json_integer(root, "cublaslt", 0, INT32_MAX, &version, error)) return false;
    gpu_name(here, sizeof here);
    return (strcmp(gpu, here) == 0 && version == (int64_t)cublaslt.GetVersion()) ||
           error_set(error, "measured on %.80s with cuBLASLt %lld, here are %s and %lld", gpu,
                     (long long)version, here, (long long)cublaslt.GetVersion());
}

} // namespace

const cublasLtMatmulAlgo_t *gemm_choice(const Product &product) {
    for (const Choice &choice : choices)
        if (choice.product == product) return &choice.algorithm;
    return NULL;
}

void gemm_choose(const Product &product, const cublasLtMatmulAlgo_t *algorithm) {
    for (size_t i = 0; i < choices.size(); i++)
        if (choices[i].product == product) choices.erase(choices.begin() + (long)i--);
    if (algorithm) choices.push_back({product, *algorithm});
}

void gemm_forget_all(void) {
    choices.clear();
}

bool gemm_choices_load(const char *json, char *text, size_t size) {
    Error error = {};
    std::vector<Choice> parsed;
    cJSON *root = json_parse(json, strlen(json), &error);
    bool good = root && check_place(root, &error) && parse_products(root, &parsed, &error);
    cJSON_Delete(root);
    if (!good) {
        snprintf(text, size, "%s", error.text);
        return false;
    }
    linear_forget_plans();
    gemm_forget_all();
    for (const Choice &choice : parsed) gemm_choose(choice.product, &choice.algorithm);
    return true;
}

char *gemm_choices_save(void) {
    if (choices.empty()) return NULL;
    char gpu[256];
    gpu_name(gpu, sizeof gpu);
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "gpu", gpu);
    cJSON_AddNumberToObject(root, "cublaslt", (double)cublaslt.GetVersion());
    cJSON *list = cJSON_AddArrayToObject(root, "products");
    for (const Choice &choice : choices) cJSON_AddItemToArray(list, object_of(choice));
    char *text = cJSON_Print(root), *copy = text ? strdup(text) : NULL;
    cJSON_free(text);
    cJSON_Delete(root);
    require(copy, "out of memory for the choice of GEMM algorithms");
    return copy;
}
