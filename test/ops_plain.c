/* ops_plain.c: which operations the plain versions have, their memory and their queues (the host's). */
#include "ops_plain.h"

#include <time.h>

struct Queue {
    int unused;
};
struct Event {
    struct timespec at;
};

static bool plain_open(int index, char *text, size_t size) {
    (void)index, (void)text, (void)size;
    return true;
}
static void plain_close(void) {}
static void plain_describe(DeviceInfo *info) {
    memset(info, 0, sizeof *info);
}
static size_t plain_scratch_bytes(const Limits *limits) {
    (void)limits;
    return 0;
}
static void *plain_alloc(size_t bytes) {
    size_t rounded = (bytes + 255) / 256 * 256;
    void *memory = aligned_alloc(256, rounded ? rounded : 256);
    if (memory) memset(memory, 0, rounded ? rounded : 256);
    return memory;
}
static Queue *plain_queue_create(size_t scratch_bytes) {
    (void)scratch_bytes;
    return calloc(1, sizeof(Queue));
}
static void plain_queue_destroy(Queue *queue) {
    free(queue);
}
static void plain_queue_wait(Queue *queue) {
    (void)queue;
}
static void plain_copy(Queue *queue, void *dst, const void *src, size_t bytes, CopyKind kind) {
    (void)queue, (void)kind;
    memcpy(dst, src, bytes);
}
static void plain_zero(Queue *queue, void *dst, size_t bytes) {
    (void)queue;
    memset(dst, 0, bytes);
}
static Event *plain_event_create(EventScope scope) {
    (void)scope;
    return calloc(1, sizeof(Event));
}
static void plain_event_destroy(Event *event) {
    free(event);
}
static void plain_event_record(Queue *queue, Event *event) {
    (void)queue;
    clock_gettime(CLOCK_MONOTONIC, &event->at);
}
static void plain_event_wait(Queue *queue, Event *event) {
    (void)queue, (void)event;
}
static void plain_event_host_wait(Event *event) {
    (void)event;
}
static double plain_event_elapsed(Event *from, Event *to) {
    return (double)(to->at.tv_sec - from->at.tv_sec) + 1e-9 * (double)(to->at.tv_nsec - from->at.tv_nsec);
}

#if defined PLAIN_F32
#define PLAIN_TABLE kernels_plain_f32
#define PLAIN_NAME  "plain/f32"
#elif defined PLAIN_BF16
#define PLAIN_TABLE kernels_plain_bf16
#define PLAIN_NAME  "plain/bf16"
#elif defined PLAIN_F64
#define PLAIN_TABLE kernels_plain_f64
#define PLAIN_NAME  "plain/f64"
#else
#define PLAIN_TABLE kernels_plain_long
#define PLAIN_NAME  "plain/long"
#endif

extern const Kernels PLAIN_TABLE;
const Kernels PLAIN_TABLE = {.name = PLAIN_NAME,
                             .device = "cpu",
                             .storage = PLAIN_STORAGE,
                             .accum = PLAIN_ACCUM,
                             .open = plain_open,
                             .close = plain_close,
                             .describe = plain_describe,
                             .scratch_bytes = plain_scratch_bytes,
                             .alloc = plain_alloc,
                             .release = free,
                             .host_alloc = plain_alloc,
                             .host_release = free,
                             .queue_create = plain_queue_create,
                             .queue_destroy = plain_queue_destroy,
                             .queue_wait = plain_queue_wait,
                             .copy = plain_copy,
                             .zero = plain_zero,
                             .event_create = plain_event_create,
                             .event_destroy = plain_event_destroy,
                             .event_record = plain_event_record,
                             .event_wait = plain_event_wait,
                             .event_host_wait = plain_event_host_wait,
                             .event_elapsed = plain_event_elapsed,
#define PLAIN_MEMBER(name, Arguments) .name = PLAIN(name),
                             OPERATIONS(PLAIN_MEMBER)
#undef PLAIN_MEMBER
};
