/* inventory.c: see inventory.h. */
#define _GNU_SOURCE
#include "inventory.h"
#include "../base/checksum.h"
#include "../base/file.h"
#include "sidecar.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* ------------------------------------------------------------------------------------------------------
 * Equal files
 * ---------------------------------------------------------------------------------------------------- */

/* A shard as one that may equal others. */
typedef struct Face {
    const Shard *shard;
    size_t index;
    bool of_val, looked, readable;
    dev_t device;
    ino_t inode;
    uint64_t digest; /* of its first block; where looked */
} Face;

enum { BLOCK = 4096, SAMPLES = 16 };

/* Equal shards have equal lengths: sorted by those, they stand together, in the order of their sets. */
static int by_length(const void *a, const void *b) {
    const Face *x = a, *y = b;
    const uint64_t m = x->shard->header.n_tokens, n = y->shard->header.n_tokens;
    if (m != n) return m < n ? -1 : 1;
    if (x->of_val != y->of_val) return x->of_val ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

static uint64_t content_bytes(const Shard *shard) { return shard->header.n_tokens * shard->header.token_bytes; }

/* The block that begins at this share of the content, in SAMPLES − 1; its size, or −1. */
static ssize_t read_block(const Shard *shard, uint64_t sample, unsigned char block[BLOCK]) {
    uint64_t size;
    Error ignored;
    const int fd = file_open(shard->path, &size, &ignored);
    if (fd < 0) return -1;
    const uint64_t bytes = content_bytes(shard), last = bytes > BLOCK ? bytes - BLOCK : 0;
    const ssize_t n = file_read(fd, block, BLOCK, shard->header.first_byte + last / (SAMPLES - 1) * sample);
    close(fd);
    return n;
}

static void look(Face *face) {
    unsigned char block[BLOCK];
    struct stat status;
    if (face->looked) return;
    face->looked = true;
    const ssize_t n = read_block(face->shard, 0, block);
    face->readable = n > 0 && stat(face->shard->path, &status) == 0;
    if (!face->readable) return;
    face->device = status.st_dev, face->inode = status.st_ino;
    face->digest = checksum(0, block, (size_t)n);
}

static bool are_equal(Face *a, Face *b) {
    unsigned char left[BLOCK], right[BLOCK];
    look(a), look(b);
    if (!a->readable || !b->readable) return false;
    if (a->device == b->device && a->inode == b->inode) return true;
    if (a->digest != b->digest || a->shard->header.token_bytes != b->shard->header.token_bytes) return false;
    for (uint64_t sample = 1; sample < SAMPLES; sample++) {
        const ssize_t n = read_block(a->shard, sample, left);
        if (n < 0 || read_block(b->shard, sample, right) != n || memcmp(left, right, (size_t)n)) return false;
    }
    return true;
}

static size_t add_faces(Face *faces, size_t count, const ShardSet *set, bool of_val) {
    for (size_t i = 0; set && i < set->n_shards; i++)
        if (set->shards[i].header.n_tokens)
            faces[count++] = (Face){.shard = &set->shards[i], .index = i, .of_val = of_val};
    return count;
}

/* Calls meet(context, earlier, later) for each shard that equals an earlier one, once. Where there are two sets, for
 * those of the second that equal one of the first. A front of equal bytes is compared further, so runs of shards that
 * all begin alike and are of one length would cost their number squared: each is held to at most MOST others. */
static void find_equal(const ShardSet *set, const ShardSet *val,
                       void (*meet)(void *context, const Face *earlier, const Face *later), void *context) {
    enum { MOST = 4096 };
    Face *faces = must_calloc(set->n_shards + (val ? val->n_shards : 0) + 1, sizeof *faces, "the inventory");
    const size_t count = add_faces(faces, add_faces(faces, 0, set, false), val, true);
    qsort(faces, count, sizeof *faces, by_length);
    for (size_t i = 0; i < count; i++) {
        if (val && !faces[i].of_val) continue;
        for (size_t k = i, tries = 0; k-- > 0 && tries < MOST; tries++) {
            if (faces[k].shard->header.n_tokens != faces[i].shard->header.n_tokens) break;
            if ((val && faces[k].of_val) || !are_equal(&faces[k], &faces[i])) continue;
            meet(context, &faces[k], &faces[i]);
            break;
        }
    }
    free(faces);
}

static void meet_twin(void *context, const Face *earlier, const Face *later) {
    Inventory *inventory = context;
    if (inventory->twice++) return;
    inventory->twice_first = earlier->index, inventory->twice_second = later->index;
}

static void meet_shared(void *context, const Face *train, const Face *val) {
    Overlap *overlap = context;
    if (overlap->shared++) return;
    overlap->train = train->index, overlap->val = val->index;
}

/* ------------------------------------------------------------------------------------------------------
 * NAME.json
 * ---------------------------------------------------------------------------------------------------- */

/* Whether a listed shard is where the list is. */
static bool is_there(const SetPart *part, const char *name, char path[PATH_SIZE]) {
    const char *slash = strrchr(part->stem, '/');
    const int directory = slash ? (int)(slash - part->stem) + 1 : 0;
    if (snprintf(path, PATH_SIZE, "%.*s%s", directory, part->stem, name) >= PATH_SIZE) return false;
    return access(path, F_OK) == 0;
}

/* Holds the `count` shards of one part, which have `tokens`, to what the set's list says of it. */
static void compare_list(Inventory *inventory, const SetPart *part, size_t count, uint64_t tokens) {
    char path[PATH_SIZE], field[16], shard[PATH_SIZE];
    bool there;
    Error error = {0};
    if (!sidecar_path(part, path)) return;
    cJSON *list = sidecar_json(path, &there, &error);
    if (there && !list) snprintf(inventory->list_trouble, sizeof inventory->list_trouble, "cannot be read: %.150s", error.text);
    if (there) memcpy(inventory->list_path, path, sizeof path);
    const cJSON *names = cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(list, "shards"), part->split);
    const cJSON *name;
    size_t listed = 0, missing = 0;
    cJSON_ArrayForEach(name, names) {
        const char *text = cJSON_GetStringValue(name);
        if (!text || !*text || strchr(text, '/')) continue; /* not what data/shards.py writes: no shard of this set */
        listed++;
        if (is_there(part, text, shard)) continue;
        missing++;
        if (!inventory->missing++) memcpy(inventory->missing_path, shard, sizeof shard);
    }
    inventory->listed += listed;
    snprintf(field, sizeof field, "%s_tokens", part->split);
    const cJSON *said = cJSON_GetObjectItemCaseSensitive(list, field);
    if (listed == count && !missing && cJSON_IsNumber(said) && said->valuedouble != (double)tokens)
        snprintf(inventory->list_trouble, sizeof inventory->list_trouble,
                 "counts %.0f %s tokens, its shards hold %" PRIu64, said->valuedouble, part->split, tokens);
    cJSON_Delete(list);
}

/* Shards are sorted by path: those of one part stand together. */
static void compare_lists(Inventory *inventory, const ShardSet *set) {
    SetPart part, now;
    size_t count = 0;
    uint64_t tokens = 0;
    for (size_t i = 0; i <= set->n_shards; i++) {
        const bool has_part = i < set->n_shards && sidecar_part(set->shards[i].path, &now);
        if (count && (!has_part || strcmp(now.stem, part.stem) || strcmp(now.split, part.split))) {
            compare_list(inventory, &part, count, tokens);
            count = 0, tokens = 0;
        }
        if (!has_part) continue;
        part = now;
        count++;
        tokens += set->shards[i].header.n_tokens;
    }
}

/* ------------------------------------------------------------------------------------------------------ */

void inventory_take(Inventory *inventory, const ShardSet *set, size_t T) {
    *inventory = (Inventory){.shards = set->n_shards, .tokens = set->n_tokens};
    for (size_t i = 0; i < set->n_shards; i++) {
        const uint64_t n = set->shards[i].header.n_tokens, windows = n ? (n - 1) / T : 0;
        inventory->windows += windows;
        if (windows) inventory->leftover_tokens += n - (windows * T + 1);
        else inventory->short_shards++, inventory->short_tokens += n;
    }
    find_equal(set, NULL, meet_twin, inventory);
    compare_lists(inventory, set);
}

void inventory_overlap(Overlap *overlap, const ShardSet *train, const ShardSet *val) {
    *overlap = (Overlap){0};
    if (val) find_equal(train, val, meet_shared, overlap);
    for (size_t i = 0; i < train->n_shards; i++) {
        const char *slash = strrchr(train->shards[i].path, '/');
        if (!strstr(slash ? slash : train->shards[i].path, "_val_")) continue;
        if (!overlap->named++) overlap->named_first = i;
    }
}
