/* ops_case.c: how a case is written down (ops_harness.h): tensors, their numbers, the calls. */
#include "ops_harness.h"

#include <stdarg.h>
#include <stdio.h>

static void *take(Case *c, size_t bytes) {
    void *memory = calloc(1, bytes ? bytes : 1);
    if (!memory || c->n_memory == (int)(sizeof c->memory / sizeof c->memory[0])) abort();
    return c->memory[c->n_memory++] = memory;
}

/* splitmix64. */
static uint64_t next_random(Case *c) {
    uint64_t z = c->rng += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double uniform(Case *c) {
    return ((double)(next_random(c) >> 11) + 0.5) * 0x1p-53;
}
double centred(Case *c) {
    return 3.4641016151377544 * (uniform(c) - 0.5);
}
int64_t below(Case *c, int64_t n) {
    return (int64_t)(next_random(c) % (uint64_t)n);
}

void describe(Case *c, const char *format, ...) {
    size_t used = strlen(c->title);
    va_list list;
    va_start(list, format);
    vsnprintf(c->title + used, sizeof c->title - used, format, list);
    va_end(list);
}

void *arguments(Case *c, size_t size) {
    return take(c, size);
}

int64_t tensor_count(const Tensor *t) {
    return t->rows * t->parts * t->cols;
}

static Tensor *tensor(Case *c, void *field, const char *name, TypeClass type, Role role) {
    if (c->n_tensors == MAX_TENSORS) abort();
    Tensor *t = &c->tensor[c->n_tensors++];
    const char *arrow = strstr(name, "->");
    *t = (Tensor){.name = arrow ? arrow + 2 : name, .type = type, .role = role, .factor = 1};
    return also(t, field);
}

static Tensor *shaped(Case *c, Tensor *t, int64_t rows, int64_t stored_rows, int64_t parts, int64_t cols,
                      int64_t part_ld) {
    t->rows = rows, t->stored_rows = stored_rows, t->parts = parts, t->cols = cols, t->part_ld = part_ld;
    t->value = take(c, (size_t)tensor_count(t) * sizeof(double));
    if (t->role != OUT && t->role != MADE && t->type != U32) spread(c, t, 0, 1);
    return t;
}

Tensor *matrix(Case *c, void *field, const char *name, TypeClass type, Role role, int64_t rows,
               int64_t cols) {
    return shaped(c, tensor(c, field, name, type, role), rows, rows, 1, cols, padded(cols));
}

Tensor *parted(Case *c, void *field, const char *name, TypeClass type, Role role, int64_t rows, int64_t parts,
               int64_t cols) {
    return shaped(c, tensor(c, field, name, type, role), rows, rows, parts, cols, padded(cols));
}

Tensor *weight(Case *c, void *field, const char *name, TypeClass type, Role role, int64_t rows,
               int64_t cols) {
    return shaped(c, tensor(c, field, name, type, role), rows, padded(rows), 1, cols, padded(cols));
}

Tensor *vector(Case *c, void *field, const char *name, TypeClass type, Role role, int64_t n) {
    return shaped(c, tensor(c, field, name, type, role), 1, 1, 1, n, padded(n));
}

Tensor *flat(Case *c, void *field, const char *name, TypeClass type, Role role, int64_t rows, int64_t cols) {
    return shaped(c, tensor(c, field, name, type, role), rows, rows, 1, cols, cols);
}

Tensor *halves(Case *c, void *upper, const char *upper_name, void *lower, void *whole, const char *name, Role role, int64_t n) {
    Tensor *copy = flat(c, upper, upper_name, STORAGE, role, 1, n), *t = flat(c, lower, name, HALVES, role, 1, n);
    copy->copy_of = t;
    copy->value = t->value;
    t->upper = copy;
    t->whole = whole;
    return t;
}

Tensor *indices(Case *c, void *field, const char *name, int64_t n, int64_t limit) {
    Tensor *t = shaped(c, tensor(c, field, name, U32, IN), 1, 1, 1, n, n);
    for (int64_t i = 0; i < n; i++) t->value[i] = (double)below(c, limit);
    return t;
}

Tensor *structure(Case *c, void *field, const char *name, Role role, const void *contents, size_t size) {
    Tensor *t = tensor(c, field, name, BYTES, role);
    t->bytes = take(c, size);
    t->n_bytes = size;
    memcpy(t->bytes, contents, size);
    return t;
}

Tensor *inside(Case *c, Tensor *parent, const char *name, Role role, size_t offset, int64_t n) {
    Tensor *t = tensor(c, NULL, name, FIXED_F64, role);
    t->parent = parent;
    t->offset = offset;
    return shaped(c, t, 1, 1, 1, n, n);
}

Tensor *also(Tensor *t, void *field) {
    if (!field) return t;
    if (t->n_fields == MAX_FIELDS) abort();
    t->field[t->n_fields++] = field;
    return t;
}

Tensor *spread(Case *c, Tensor *t, double mean, double deviation) {
    for (int64_t i = 0; i < tensor_count(t); i++) t->value[i] = mean + deviation * centred(c);
    return t;
}

Tensor *constant(Tensor *t, double value) {
    for (int64_t i = 0; i < tensor_count(t); i++) t->value[i] = value;
    return t;
}

void extreme_rows(Tensor *t) {
    static const double factor[] = {0, 1e4, 1e-20, 1};
    int64_t width = t->parts * t->cols;
    for (int64_t i = 0; i < t->rows * width; i++) t->value[i] *= factor[i / width % 4];
}

void prepare(Case *c, Operation operation, const void *args) {
    c->prepare = (Call){operation, args};
}
void call(Case *c, Operation operation, const void *args) {
    c->main = (Call){operation, args};
}

void upstream(Case *c, const Tensor *of, const Tensor *gradient, const Tensor *scale) {
    if (c->n_upstream == (int)(sizeof c->upstream / sizeof c->upstream[0])) abort();
    c->upstream[c->n_upstream++] = (Upstream){of, gradient, scale};
}

void derivative(Tensor *gradient, Tensor *of, double factor) {
    gradient->derivative_of = of;
    gradient->factor = factor;
}

void dtype_of(Case *c, DType *field, TypeClass type) {
    c->dtype_field[c->n_dtype_fields].field = field;
    c->dtype_field[c->n_dtype_fields++].type = type;
}

const Family *family_at(int index) {
    const Family *tables[] = {families_block, families_attention, families_junction, families_step, families_update};
    const int counts[] = {n_families_block, n_families_attention, n_families_junction, n_families_step, n_families_update};
    for (int i = 0; i < (int)(sizeof counts / sizeof *counts); index -= counts[i++])
        if (index < counts[i]) return &tables[i][index];
    return NULL;
}

void case_open(Case *c, const Family *family, int shape, int variant, uint64_t seed, int draw) {
    memset(c, 0, sizeof *c);
    c->rng = seed * 0x2545f4914f6cdd1du + (uint64_t)family->operation * 1000003 + (uint64_t)shape * 10007 +
             (uint64_t)variant * 101 + (uint64_t)draw;
    next_random(c);
    c->measured = family->perf;
    family->declare(c, (const char *)family->shapes + (size_t)shape * family->shape_size,
                    (const char *)family->variants + (size_t)variant * family->variant_size);
    if (!c->main.arguments && !c->impossible) abort();
    int64_t *large[] = {&c->limits.N, &c->limits.head_chunk, &c->limits.parameters};
    int *small[] = {&c->limits.B, &c->limits.T, &c->limits.C, &c->limits.H,    &c->limits.Hkv,
                    &c->limits.D, &c->limits.F, &c->limits.V, &c->limits.slots};
    for (int i = 0; i < 3; i++) *large[i] = *large[i] ? *large[i] : 1;
    for (int i = 0; i < 9; i++) *small[i] = *small[i] ? *small[i] : 1;
    c->limits.residual_is_accum = c->residual_is_accum;
}

void case_close(Case *c) {
    for (int i = 0; i < c->n_memory; i++) free(c->memory[i]);
    c->n_memory = 0;
}
