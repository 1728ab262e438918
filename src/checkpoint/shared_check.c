/* shared_check.c: see shared_check.h. */
#include "shared_check.h"
#include "../base/checksum.h"

#include <stdlib.h>

enum { PIECES = 2 }; /* a part begins within a file at most, and ends within one */

/* What a rank has found out of a file that others have parts of as well; words of 64 bits. */
typedef struct Piece {
    uint64_t there, file;
    uint64_t sum; /* what it adds to the file's checksum */
} Piece;

typedef struct Part {
    Piece piece[PIECES];
} Part;

uint64_t shared_part(uint64_t total, int rank, int ranks) {
    return (uint64_t)((unsigned __int128)total * (unsigned)rank / (unsigned)ranks);
}

static uint64_t later(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t sooner(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* Every file's size, and the checksums of bytes [begin, end) of the row. */
static bool check_part(const char *path, const Manifest *manifest, uint64_t begin, uint64_t end, Part *part, Error *error) {
    int pieces = 0;
    uint64_t at = 0;
    for (int i = 0; i < manifest->count; i++) {
        const ManifestFile *file = &manifest->files[i];
        const uint64_t first = later(begin, at), last = sooner(end, at + file->bytes), start = at;
        at += file->bytes;
        if (!manifest_check_file(path, file, MANIFEST_SIZES, error)) return false;
        if (first >= last) continue;
        Piece piece = {.there = 1, .file = (uint64_t)i};
        if (!manifest_measure_part(path, file->name, first - start, last - start, &piece.sum, error)) return false;
        piece.sum = checksum_ahead(piece.sum, at - last);
        if (first == start && last == at) {
            if (!manifest_has_checksum(path, file, piece.sum, error)) return false;
        } else {
            part->piece[pieces++] = piece;
        }
    }
    return true;
}

static bool put_together(const char *path, const Manifest *manifest, const Part *parts, int count, Error *error) {
    uint64_t *sums = must_calloc((size_t)manifest->count, sizeof *sums, "checksums");
    bool *parted = must_calloc((size_t)manifest->count, sizeof *parted, "checksums");
    bool good = true;
    for (int p = 0; p < count * PIECES; p++) {
        const Piece *piece = &parts[p / PIECES].piece[p % PIECES];
        if (!piece->there) continue;
        sums[piece->file] ^= piece->sum;
        parted[piece->file] = true;
    }
    for (int i = 0; good && i < manifest->count; i++)
        good = !parted[i] || manifest_has_checksum(path, &manifest->files[i], sums[i], error);
    free(parted);
    free(sums);
    return good;
}

bool shared_check(const char *path, const Ranks *ranks, const Kernels *k, double timeout_s, Error *error) {
    Manifest manifest = {0};
    Part *parts = must_calloc((size_t)ranks->count, sizeof *parts, "checksums");
    uint64_t total = 0;
    ranks_work_begin(ranks, k, timeout_s);
    bool good = manifest_read(path, &manifest, error);
    for (int i = 0; good && i < manifest.count; i++) total += manifest.files[i].bytes;
    good = good && check_part(path, &manifest, shared_part(total, ranks->rank, ranks->count),
                              shared_part(total, ranks->rank + 1, ranks->count), &parts[ranks->rank], error);
    ranks_work_end();
    ranks_gather(ranks, k, parts, sizeof *parts);
    good = ranks_well(ranks, k, good, error) && put_together(path, &manifest, parts, ranks->count, error);
    manifest_free(&manifest);
    free(parts);
    return good;
}
