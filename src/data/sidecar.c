/* sidecar.c: see sidecar.h. */
#include "sidecar.h"

#include <stdio.h>
#include <string.h>

bool sidecar_part(const char *shard, SetPart *part) {
    static const char *const SPLITS[] = {"_train", "_val"};
    const char *slash = strrchr(shard, '/'), *name = slash ? slash + 1 : shard;
    const size_t length = strlen(shard), tail = strlen("_000000.bin"), directory = (size_t)(name - shard);
    if (length >= PATH_SIZE || length - directory <= tail || strcmp(shard + length - 4, ".bin")) return false;
    const size_t end = length - tail;
    if (shard[end] != '_' || strspn(shard + end + 1, "0123456789") != 6) return false;
    for (size_t s = 0; s < 2; s++) {
        const size_t word = strlen(SPLITS[s]);
        if (end - directory <= word || memcmp(shard + end - word, SPLITS[s], word)) continue;
        snprintf(part->stem, sizeof part->stem, "%.*s", (int)(end - word), shard);
        snprintf(part->split, sizeof part->split, "%s", SPLITS[s] + 1);
        return true;
    }
    return false;
}

bool sidecar_path(const SetPart *part, char path[PATH_SIZE]) {
    return snprintf(path, PATH_SIZE, "%s.json", part->stem) < PATH_SIZE;
}
