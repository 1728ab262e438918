/* ops_image.c: a case in an implementation's memory: layout, guard zones, running, what changed
 * (ops_harness.h). */
#include "ops_harness.h"

#include <stdio.h>

#if defined __SANITIZE_ADDRESS__
#define WATCHED 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define WATCHED 1
#endif
#endif
#ifdef WATCHED
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)   ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

/* Every byte of a guard zone is 0xff: a NaN in all types, so that what reads it shows it too. */
enum { GUARD = IMAGE_GUARD, GUARD_BYTE = 0xff };
#define UNWRITTEN_COUNT (UINT64_C(1) << 50) /* of an integer output: no count comes near it */

static const char *const operation_names[] = {
#define OP_STRING(name, Arguments) #name,
    OPERATIONS(OP_STRING)
#undef OP_STRING
};

const char *operation_name(Operation operation) {
    return operation_names[operation];
}

bool operation_present(const Kernels *k, Operation operation) {
    switch (operation) {
#define OP_PRESENT(name, Arguments)                                                                          \
    case OP_##name:                                                                                          \
        return k->name != NULL;
        OPERATIONS(OP_PRESENT)
#undef OP_PRESENT
    default:
        return false;
    }
}

void operation_run(const Kernels *k, Queue *queue, Call call_) {
    switch (call_.operation) {
#define OP_RUN(name, Arguments)                                                                              \
    case OP_##name:                                                                                          \
        k->name(queue, (const Arguments *)call_.arguments);                                                  \
        break;
        OPERATIONS(OP_RUN)
#undef OP_RUN
    default:
        abort();
    }
}

DType type_in(const Kernels *k, const Case *c, TypeClass type) {
    switch (type) {
    case STORAGE:
        return k->storage;
    case ACCUM:
    case HALVES:
        return k->accum;
    case RESIDUAL:
        return c->residual_is_accum ? k->accum : k->storage;
    case FIXED_F64:
        return DTYPE_F64;
    case FIXED_BF16:
        return DTYPE_BF16;
    default:
        return DTYPE_F32;
    }
}

static int64_t stored_at(const Tensor *t, int64_t i) {
    int64_t width = t->parts * t->cols;
    return i / width * t->parts * t->part_ld + i % width / t->cols * t->part_ld + i % t->cols;
}

static int index_of(const Case *c, const Tensor *t) {
    return (int)(t - c->tensor);
}

static bool in_halves(const Image *image, const Tensor *t) {
    return t && t->type == HALVES && image->k->storage != image->k->accum;
}

/* Of a tensor that was downloaded. */
static double load(const Image *image, const Tensor *t, const unsigned char *bytes, int64_t i) {
    if (t->type == U32) return ((const uint32_t *)bytes)[i];
    if (in_halves(image, t)) {
        const unsigned char *upper = image->after[index_of(image->c, t->upper)] + GUARD;
        return joined_halves(((const uint16_t *)upper)[i], ((const uint16_t *)bytes)[i]);
    }
    switch (type_in(image->k, image->c, t->type)) {
    case DTYPE_F64:
        return ((const double *)bytes)[i];
    case DTYPE_BF16:
        return bf16_to_float(((const uint16_t *)bytes)[i]);
    default:
        return ((const float *)bytes)[i];
    }
}

static void store(const Image *image, const Tensor *t, unsigned char *bytes, int64_t i, double value) {
    if (t->type == U32) {
        ((uint32_t *)bytes)[i] = (uint32_t)value;
        return;
    }
    if (in_halves(image, t) || in_halves(image, t->copy_of)) {
        ((uint16_t *)bytes)[i] = t->type == HALVES ? lower_half((float)value) : upper_half((float)value);
        return;
    }
    switch (type_in(image->k, image->c, t->type)) {
    case DTYPE_F64:
        ((double *)bytes)[i] = value;
        break;
    case DTYPE_BF16:
        ((uint16_t *)bytes)[i] = float_to_bf16((float)value);
        break;
    default:
        ((float *)bytes)[i] = (float)value;
        break;
    }
}

static bool owns_memory(const Tensor *t) {
    return !t->parent && t->n_fields > 0;
}
/* Which role a tensor has in the prepare call and in the one under test. */
static Role role_now(const Tensor *t, bool preparing) {
    if (preparing) return t->role == MADE ? OUT : IN;
    return t->role == MADE ? IN : t->role;
}

static void image_points(const Image *image);

void image_open(Image *image, const Implementation *implementation, const Kernels *k, const Case *c) {
    memset(image, 0, sizeof *image);
    image->implementation = implementation;
    image->k = k;
    image->c = c;
    image->queue = k->queue_create(k->scratch_bytes(&c->limits));
    if (!image->queue) abort();
    for (int i = 0; i < c->n_tensors; i++) {
        const Tensor *t = &c->tensor[i];
        if (!owns_memory(t) || (t->copy_of && k->storage == k->accum)) continue;
        size_t element = t->type == U32 ? 4 : in_halves(image, t) ? 2 : dtype_size(type_in(k, c, t->type));
        image->bytes[i] =
            t->type == BYTES ? t->n_bytes : (size_t)(t->stored_rows * t->parts * t->part_ld) * element;
        size_t all = image->bytes[i] + 2 * GUARD;
        image->block[i] = k->alloc(all);
        image->before[i] = malloc(all);
        image->after[i] = malloc(all);
        if (!image->block[i] || !image->before[i] || !image->after[i]) abort();
    }
}

static bool host_memory(const Image *image) {
    return image->implementation->host_memory || strcmp(image->k->device, "cpu") == 0;
}

static void guard(const Image *image, bool on) {
    if (!host_memory(image)) return;
    for (int i = 0; i < image->c->n_tensors; i++) {
        if (!image->block[i]) continue;
        char *start = image->block[i], *end = start + GUARD + image->bytes[i];
        if (on) {
            ASAN_POISON_MEMORY_REGION(start, GUARD);
            ASAN_POISON_MEMORY_REGION(end, GUARD);
        } else {
            ASAN_UNPOISON_MEMORY_REGION(start, image->bytes[i] + 2 * GUARD);
        }
    }
}

void image_close(Image *image) {
    guard(image, false);
    image->k->queue_wait(image->queue);
    for (int i = 0; i < image->c->n_tensors; i++) {
        if (!image->block[i]) continue;
        image->k->release(image->block[i]);
        free(image->before[i]);
        free(image->after[i]);
    }
    image->k->queue_destroy(image->queue);
}

/* Host bytes of a tensor as the call shall find it; padding is zero. */
static void lay_out(const Image *image, const Tensor *t, bool preparing, unsigned char *bytes) {
    Role role = role_now(t, preparing);
    if (t->type == BYTES) {
        memcpy(bytes, t->bytes, t->n_bytes);
        for (int i = 0; i < image->c->n_tensors; i++) {
            const Tensor *member = &image->c->tensor[i];
            if (member->parent != t) continue;
            for (int64_t k = 0; k < tensor_count(member); k++) {
                bool unwritten = role_now(member, preparing) == OUT;
                double value = unwritten ? NAN : member->value[k];
                uint64_t count = unwritten ? UNWRITTEN_COUNT : (uint64_t)member->value[k];
                memcpy(bytes + member->offset + (size_t)k * sizeof value,
                       member->integer ? (void *)&count : (void *)&value, sizeof value);
            }
        }
        return;
    }
    memset(bytes, 0, image->bytes[index_of(image->c, t)]);
    bool hidden = role == OUT || (t->unread && !preparing);
    const double *value = t->value;
    for (int64_t part = 0; part < t->rows * t->parts; part++)
        for (int64_t at = part * t->part_ld, end = at + t->cols; at < end; at++, value++)
            store(image, t, bytes, at, hidden ? (double)NAN : *value);
}

void image_upload(Image *image, bool preparing) {
    const Case *c = image->c;
    guard(image, false);
    for (int i = 0; i < c->n_tensors; i++) {
        if (!image->block[i]) continue;
        memset(image->before[i], GUARD_BYTE, image->bytes[i] + 2 * GUARD);
        lay_out(image, &c->tensor[i], preparing, image->before[i] + GUARD);
        image->k->copy(image->queue, image->block[i], image->before[i], image->bytes[i] + 2 * GUARD,
                       COPY_TO_DEVICE);
    }
    image->k->queue_wait(image->queue);
    guard(image, true);
    image_points(image);
}

void image_update(Image *image, const Tensor *t) {
    int i = index_of(image->c, t);
    lay_out(image, t, true, image->before[i] + GUARD);
    image->k->copy(image->queue, (char *)image->block[i] + GUARD, image->before[i] + GUARD, image->bytes[i],
                   COPY_TO_DEVICE);
}

static void image_points(const Image *image) {
    const Case *c = image->c;
    void *none = NULL;
    for (int i = 0; i < c->n_tensors; i++)
        if (c->tensor[i].whole) memcpy(c->tensor[i].whole, &none, sizeof none);
    for (int i = 0; i < c->n_tensors; i++) {
        const Tensor *t = &c->tensor[i];
        void *memory = image->block[i] ? (char *)image->block[i] + GUARD : NULL;
        if (t->whole && !in_halves(image, t)) {
            memcpy(t->whole, &memory, sizeof memory);
            memory = NULL;
        }
        for (int f = 0; f < c->tensor[i].n_fields; f++) memcpy(c->tensor[i].field[f], &memory, sizeof memory);
    }
    for (int i = 0; i < c->n_dtype_fields; i++) {
        DType type = type_in(image->k, c, c->dtype_field[i].type);
        memcpy(c->dtype_field[i].field, &type, sizeof type);
    }
}

void image_run(Image *image, Call call_) {
    operation_run(image->k, image->queue, call_);
    image->k->queue_wait(image->queue);
}

void image_download(Image *image) {
    guard(image, false);
    for (int i = 0; i < image->c->n_tensors; i++)
        if (image->block[i])
            image->k->copy(image->queue, image->after[i], image->block[i], image->bytes[i] + 2 * GUARD,
                           COPY_TO_HOST);
    image->k->queue_wait(image->queue);
    guard(image, true);
}

void image_fetch(Image *image, const Tensor *t) {
    int i = index_of(image->c, t);
    image->k->copy(image->queue, image->after[i] + GUARD, (char *)image->block[i] + GUARD, image->bytes[i],
                   COPY_TO_HOST);
    image->k->queue_wait(image->queue);
}

void image_values(const Image *image, const Tensor *t, double *value) {
    const Tensor *owner = t->parent ? t->parent : t;
    const unsigned char *bytes = image->after[index_of(image->c, owner)] + GUARD;
    for (int64_t i = 0; i < tensor_count(t); i++) {
        uint64_t count;
        if (t->parent) {
            const void *at = bytes + t->offset + (size_t)i * sizeof count;
            memcpy(&count, at, sizeof count);
            memcpy(&value[i], at, sizeof value[i]);
            if (t->integer) value[i] = (double)count;
        } else
            value[i] = load(image, t, bytes, stored_at(t, i));
    }
}

/* A BYTES tensor may change only where its members that are outputs lie. */
static bool members_intact(const Image *image, const Tensor *t, bool preparing) {
    int i = index_of(image->c, t);
    unsigned char *expected = malloc(t->n_bytes);
    if (!expected) abort();
    memcpy(expected, image->before[i] + GUARD, t->n_bytes);
    for (int m = 0; m < image->c->n_tensors; m++) {
        const Tensor *member = &image->c->tensor[m];
        size_t size = (size_t)tensor_count(member) * sizeof(double);
        if (member->parent == t && role_now(member, preparing) != IN)
            memcpy(expected + member->offset, image->after[i] + GUARD + member->offset, size);
    }
    bool same = memcmp(expected, image->after[i] + GUARD, t->n_bytes) == 0;
    free(expected);
    return same;
}

static bool padding_zero(const Image *image, const Tensor *t) {
    const unsigned char *bytes = image->after[index_of(image->c, t)] + GUARD;
    for (int64_t part = 0; part < t->stored_rows * t->parts; part++) {
        int64_t true_cols = part < t->rows * t->parts ? t->cols : 0;
        for (int64_t i = part * t->part_ld + true_cols; i < (part + 1) * t->part_ld; i++)
            if (!(load(image, t, bytes, i) == 0)) return false;
    }
    return true;
}

bool image_intact(const Image *image, bool preparing, char *text, size_t size) {
    for (int i = 0; i < image->c->n_tensors; i++) {
        const Tensor *t = &image->c->tensor[i];
        if (!image->block[i]) continue;
        size_t end = GUARD + image->bytes[i];
        if (memcmp(image->before[i], image->after[i], GUARD) != 0) {
            snprintf(text, size, "%s: wrote before its start", t->name);
            return false;
        }
        if (memcmp(image->before[i] + end, image->after[i] + end, GUARD) != 0) {
            snprintf(text, size, "%s: wrote past its end", t->name);
            return false;
        }
        if (t->type == BYTES) {
            if (members_intact(image, t, preparing)) continue;
            snprintf(text, size, "%s: changed members that it should not", t->name);
            return false;
        }
        if (role_now(t, preparing) == IN && memcmp(image->before[i], image->after[i], end) != 0) {
            snprintf(text, size, "%s: changed an input", t->name);
            return false;
        }
        if (!padding_zero(image, t)) {
            snprintf(text, size, "%s: padding is not zero", t->name);
            return false;
        }
    }
    return true;
}

static void round_to(const Image *image, Tensor *t) {
    if (t->type == BYTES || t->type == U32 || in_halves(image, t->copy_of)) return;
    unsigned char element[8];
    for (int64_t i = 0; i < tensor_count(t); i++) {
        if (in_halves(image, t)) {
            t->value[i] = (double)(float)t->value[i];
            continue;
        }
        store(image, t, element, 0, t->value[i]);
        t->value[i] = load(image, t, element, 0);
    }
}

const Kernels *truth_for(const Kernels *k, const Case *c, Operation operation) {
    if (c->measured) return k;
    return k->storage == DTYPE_F64 || !operation_present(&kernels_cpu_f64, operation) ? &kernels_plain_long
                                                                                      : &kernels_cpu_f64;
}

void case_prepare(Case *c, const Implementation *implementation) {
    Image types = {.k = implementation->kernels, .c = c};
    for (int i = 0; i < c->n_tensors; i++)
        if (c->tensor[i].role != MADE) round_to(&types, &c->tensor[i]);
    if (!c->prepare.arguments) return;
    Image image;
    image_open(&image, implementation, truth_for(implementation->kernels, c, c->prepare.operation), c);
    image_upload(&image, true);
    image_run(&image, c->prepare);
    image_download(&image);
    for (int i = 0; i < c->n_tensors; i++) {
        if (c->tensor[i].role != MADE) continue;
        image_values(&image, &c->tensor[i], c->tensor[i].value);
        round_to(&types, &c->tensor[i]);
    }
    image_close(&image);
}
