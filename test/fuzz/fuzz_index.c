/*
 * fuzz_index.c: does an accepted index of sharded weights name files of its own directory, and each tensor once?
 * (src/checkpoint/pretrained.h)
 */
#include "fuzz.h"
#include "../../src/checkpoint/pretrained.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char PLAIN[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    ShardedTensor *list;
    int count;
    Error error = {0};
    if (!pretrained_index_parse(fuzz_edge(data, size), size, &list, &count, &error)) {
        fuzz_check_error(&error);
        return 0;
    }
    PROMISE(fuzz_is_json(data, size, NULL) && count > 0);
    for (int i = 0; i < count; i++) {
        const char *file = list[i].file;
        PROMISE(file[0] && file[0] != '.' && strspn(file, PLAIN) == strlen(file) && strlen(file) < 256);
        for (int j = 0; j < i && i < 200; j++) PROMISE(strcmp(list[i].name, list[j].name));
    }
    pretrained_index_free(list, count);
    return 0;
}
