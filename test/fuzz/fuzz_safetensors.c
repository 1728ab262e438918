/*
 * fuzz_safetensors.c: does an accepted safetensors file keep the format's rules, and read back what was written?
 * (src/checkpoint/safetensors.h)
 *
 * Input: 8 bytes that say how much longer than what follows the file is (the rest is zeros that need no storage,
 * so that any size in a header can be right), then the file.
 */
#include "fuzz.h"
#include "safetensors_rules.h"

#include <stdlib.h>
#include <string.h>

enum { REWRITTEN_MOST = 1 << 20 };

static void append(SafetensorsWriter *writer, const SafetensorsFile *file) {
    for (size_t i = 0; i < file->header.n_tensors; i++) {
        const SafetensorsTensor *tensor = &file->header.tensors[i];
        const size_t bytes = (size_t)(tensor->end - tensor->begin);
        char *raw = malloc(bytes + 1);
        Error error;
        PROMISE(safetensors_read(file, tensor, 0, tensor->n_elements, tensor->dtype, raw, &error));
        PROMISE(safetensors_writer_append(writer, i, raw, bytes / 2, &error));
        PROMISE(safetensors_writer_append(writer, i, raw + bytes / 2, bytes - bytes / 2, &error));
        free(raw);
        safetensors_check_conversion(file, tensor);
    }
}

/* A writer for what a header says. It has no reason to refuse. */
static SafetensorsWriter *begin(const SafetensorsHeader *header) {
    SafetensorsEntry *entries = calloc(header->n_tensors + 1, sizeof *entries);
    Error error;
    for (size_t i = 0; i < header->n_tensors; i++) {
        const SafetensorsTensor *tensor = &header->tensors[i];
        entries[i] = (SafetensorsEntry){.name = tensor->name, .dtype = tensor->dtype, .n_dims = tensor->n_dims};
        memcpy(entries[i].shape, tensor->shape, sizeof tensor->shape);
    }
    SafetensorsWriter *writer = safetensors_writer_begin(fuzz_output(), entries, header->n_tensors,
                                                         header->metadata, header->n_metadata, &error);
    PROMISE(writer);
    free(entries);
    return writer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    SafetensorsHeader header;
    SafetensorsFile file, again;
    Error error = {0};
    uint64_t more;
    if (size < 8) return 0;
    memcpy(&more, data, 8);
    data += 8, size -= 8;
    if (more > INT64_MAX - size) more = 0;
    if (!safetensors_parse(fuzz_edge(data, size), size, size + more, &header, &error)) {
        fuzz_check_error(&error);
        PROMISE(more > REWRITTEN_MOST || !safetensors_open(&file, fuzz_file(data, size, size + more), &error));
        return 0;
    }
    safetensors_check_rules(&header, data, size + more);
    SafetensorsWriter *writer = begin(&header);
    safetensors_header_free(&header);
    if (more > REWRITTEN_MOST) {
        safetensors_writer_abort(writer);
        return 0;
    }
    PROMISE(safetensors_open(&file, fuzz_file(data, size, size + more), &error));
    append(writer, &file);
    PROMISE(safetensors_writer_finish(writer, &error));
    PROMISE(safetensors_open(&again, fuzz_output(), &error));
    safetensors_check_same(&file, &again);
    safetensors_close(&again);
    safetensors_close(&file);
    return 0;
}
