/* safetensors_rules.c: see safetensors_rules.h. */
#include "safetensors_rules.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

void safetensors_check_rules(const SafetensorsHeader *header, const uint8_t *bytes, uint64_t file_size) {
    uint64_t length, end = 0, sum = 0, in_text = 0;
    memcpy(&length, bytes, 8);
    PROMISE(length <= 100000000 && bytes[8] == '{' && header->data_start == 8 + length);
    PROMISE(fuzz_is_json(bytes + 8, length, &in_text));
    for (size_t i = 0; i < header->n_tensors; i++) {
        const SafetensorsTensor *tensor = &header->tensors[i];
        unsigned __int128 size = safetensors_dtype_bytes(tensor->dtype);
        PROMISE(tensor->n_dims <= SAFETENSORS_MAX_DIMS);
        for (size_t d = 0; d < tensor->n_dims; d++) {
            size *= tensor->shape[d];
            PROMISE(size >> 64 == 0);
            sum += tensor->shape[d];
        }
        PROMISE(tensor->begin == end && tensor->end >= end && size == tensor->end - end);
        PROMISE(tensor->n_elements == size / safetensors_dtype_bytes(tensor->dtype));
        end = tensor->end;
        sum += tensor->begin + tensor->end;
        PROMISE(strcmp(tensor->name, "__metadata__") && safetensors_find(header, tensor->name) == tensor);
        for (size_t j = 0; j < i && i < 200; j++) PROMISE(strcmp(tensor->name, header->tensors[j].name));
    }
    PROMISE(file_size == header->data_start + end && sum == in_text);
}

void safetensors_check_conversion(const SafetensorsFile *file, const SafetensorsTensor *tensor) {
    static const SafetensorsDtype AS[] = {SAFETENSORS_F64, SAFETENSORS_F32, SAFETENSORS_BF16, SAFETENSORS_U32};
    const uint64_t n = tensor->n_elements, cut = n / 3;
    for (size_t a = 0; a < sizeof AS / sizeof *AS; a++) {
        const size_t width = safetensors_dtype_bytes(AS[a]);
        char *whole = malloc(n * width + 1), *part = malloc((n - cut) * width + 1);
        Error error = {0};
        const bool good = safetensors_read(file, tensor, 0, n, AS[a], whole, &error);
        if (!good) fuzz_check_error(&error);
        if (good) PROMISE(safetensors_read(file, tensor, cut, n - cut, AS[a], part, &error));
        if (good) PROMISE(memcmp(part, whole + cut * width, (n - cut) * width) == 0);
        PROMISE(!safetensors_read(file, tensor, cut + 1, n, AS[a], part, &error));
        free(whole);
        free(part);
    }
}

void safetensors_check_same(const SafetensorsFile *a, const SafetensorsFile *b) {
    PROMISE(a->header.n_tensors == b->header.n_tensors && a->header.n_metadata == b->header.n_metadata);
    for (size_t i = 0; i < a->header.n_metadata; i++) {
        const char *value = safetensors_metadata(&b->header, a->header.metadata[i].key);
        PROMISE(value && strcmp(value, a->header.metadata[i].value) == 0);
    }
    for (size_t i = 0; i < a->header.n_tensors; i++) {
        const SafetensorsTensor *t = &a->header.tensors[i], *u = safetensors_find(&b->header, t->name);
        PROMISE(u && t->dtype == u->dtype && t->n_dims == u->n_dims && t->n_elements == u->n_elements);
        PROMISE(memcmp(t->shape, u->shape, sizeof t->shape) == 0);
        const size_t bytes = (size_t)(t->end - t->begin);
        char *x = malloc(bytes + 1), *y = malloc(bytes + 1);
        Error error;
        PROMISE(safetensors_read(a, t, 0, t->n_elements, t->dtype, x, &error));
        PROMISE(safetensors_read(b, u, 0, u->n_elements, u->dtype, y, &error));
        PROMISE(memcmp(x, y, bytes) == 0);
        free(x);
        free(y);
    }
}
