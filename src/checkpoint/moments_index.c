/* moments_index.c: which elements of which tensor do the files of moments hold, and each of them once? See moments.h. */
#include "moments.h"
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t elements_of(const FileTensor *t) { return t->rows * (int64_t)t->param->cols; }

/* Plain digits below 2^53, and what follows them. */
static bool parse_number(const char *text, int64_t *value, const char **rest) {
    const size_t digits = strspn(text, "0123456789");
    *rest = text + digits;
    if (digits < 1 || digits > 15 || (text[0] == '0' && digits > 1)) return false;
    *value = strtoll(text, NULL, 10);
    return true;
}

/* "[BEGIN:END]" and nothing more. */
static bool parse_range(const char *text, int64_t *begin, int64_t *end) {
    const char *rest;
    return *text == '[' && parse_number(text + 1, begin, &rest) && *rest == ':' && parse_number(rest + 1, end, &rest) &&
           strcmp(rest, "]") == 0 && *begin < *end;
}

static const FileTensor *find_tensor(const MomentIndex *index, const char *name, size_t length) {
    for (int i = 0; i < index->tensor_count; i++)
        if (strncmp(index->tensors[i].name, name, length) == 0 && !index->tensors[i].name[length]) return &index->tensors[i];
    return NULL;
}

/* What a name means; false where it is none of this model's. */
static bool parse_name(const MomentIndex *index, const char *name, MomentPiece *piece) {
    if ((name[0] != 'm' && name[0] != 'v') || name[1] != '.') return false;
    const char *bare = name + 2, *range = strchr(bare, '[');
    size_t length = strlen(bare);
    *piece = (MomentPiece){.which = name[0] == 'v'};
    const FileTensor *tensor = find_tensor(index, bare, length);
    if (tensor) {
        piece->end = elements_of(tensor);
        piece->transposed = tensor->param->transposed;
    } else {
        if (!range || !parse_range(range, &piece->begin, &piece->end)) return false;
        length = (size_t)(range - bare);
        const bool turned = length > 2 && strncmp(range - 2, ".T", 2) == 0;
        tensor = find_tensor(index, bare, turned ? length - 2 : length);
        if (!tensor || tensor->param->transposed != turned) return false;
    }
    piece->tensor = (int)(tensor - index->tensors);
    return moments_there(tensor, piece->which);
}

static bool check_shape(const MomentIndex *index, const MomentPiece *piece, const SafetensorsTensor *have, Error *error) {
    const FileTensor *t = &index->tensors[piece->tensor];
    const bool part = strchr(have->name, '[') != NULL;
    const size_t dims = part ? 1 : (size_t)t->dims;
    const uint64_t shape[2] = {(uint64_t)(part ? piece->end - piece->begin : t->shape[0]), (uint64_t)t->shape[1]};
    char a[96], b[96];
    if (piece->end > elements_of(t))
        return error_set(error, "tensor %s: this model's has %lld elements", have->name, (long long)elements_of(t));
    if (have->n_dims != dims || memcmp(have->shape, shape, dims * sizeof *shape))
        return error_set(error, "tensor %s is %s; %s is %s", have->name,
                         weights_shape_text(a, sizeof a, have->n_dims, have->shape), part ? "what its name says" : "this model's",
                         weights_shape_text(b, sizeof b, dims, shape));
    return weights_are_numbers(have, error);
}

bool moments_index_add(MomentIndex *index, int file, const SafetensorsHeader *header, Error *error) {
    for (size_t i = 0; i < header->n_tensors; i++) {
        const SafetensorsTensor *have = &header->tensors[i];
        MomentPiece piece;
        if (!parse_name(index, have->name, &piece)) return error_set(error, "tensor %s, which this model does not have", have->name);
        if (!check_shape(index, &piece, have, error)) return false;
        if (index->count == index->room) {
            index->room = 2 * index->room + 64;
            MomentPiece *more = realloc(index->list, index->room * sizeof *more);
            require(more, "out of memory for a checkpoint's moments");
            index->list = more;
        }
        piece.file = file;
        piece.name = strcpy(must_malloc(strlen(have->name) + 1, "a tensor's name"), have->name);
        index->list[index->count++] = piece;
    }
    return true;
}

static int64_t difference(const MomentPiece *a, const MomentPiece *b) {
    if (a->which != b->which) return a->which - b->which;
    if (a->tensor != b->tensor) return a->tensor - b->tensor;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    return a->end != b->end ? (a->end < b->end ? -1 : 1) : a->file - b->file;
}

static int by_place(const void *a, const void *b) {
    const int64_t d = difference(a, b);
    return (d > 0) - (d < 0);
}

/* That nothing stands from `begin` to `end`. */
static bool say_gap(const MomentIndex *index, int which, int tensor, int64_t begin, int64_t end, Error *error) {
    const FileTensor *t = &index->tensors[tensor];
    char files[NAME_SIZE], what[64] = "";
    if (index->files == 1) moments_name(files, 0, 1);
    else snprintf(files, sizeof files, "its %d files of moments", index->files);
    if (begin || end != elements_of(t)) snprintf(what, sizeof what, "elements %lld to %lld of ", (long long)begin, (long long)end - 1);
    return error_set(error, "%s: no %stensor %c.%s, which this model has", files, what, which ? 'v' : 'm', t->name);
}

static bool say_overlap(const MomentIndex *index, const MomentPiece *first, const MomentPiece *second, Error *error) {
    char a[NAME_SIZE], b[NAME_SIZE];
    moments_name(a, first->file, index->files);
    moments_name(b, second->file, index->files);
    return error_set(error, "%s: tensor %s: %s has some of it, too, in %s", b, second->name, a, first->name);
}

bool moments_index_check(MomentIndex *index, Error *error) {
    if (index->count) qsort(index->list, index->count, sizeof *index->list, by_place);
    size_t next = 0;
    for (int i = 0; i < 2 * index->tensor_count; i++) {
        const int which = i / index->tensor_count, tensor = i % index->tensor_count;
        if (!moments_there(&index->tensors[tensor], which)) continue;
        int64_t covered = 0;
        for (; next < index->count && index->list[next].which == which && index->list[next].tensor == tensor; next++) {
            const MomentPiece *piece = &index->list[next];
            if (piece->begin < covered) return say_overlap(index, piece - 1, piece, error);
            if (piece->begin > covered) return say_gap(index, which, tensor, covered, piece->begin, error);
            covered = piece->end;
        }
        const int64_t all = elements_of(&index->tensors[tensor]);
        if (covered < all) return say_gap(index, which, tensor, covered, all, error);
    }
    return true;
}

void moments_index_free(MomentIndex *index) {
    for (size_t i = 0; i < index->count; i++) free(index->list[i].name);
    free(index->list);
    index->list = NULL, index->count = index->room = 0;
}
