/*
 * backend.c: the CPU as a device: its memory, its queues, its name, and the table of its operations.
 *
 * A queue runs its work at once, so waiting is nothing and an event is a time. Memory of a megabyte and more
 * comes from mmap: zero without being touched, so that what is never used is never resident, and the threads
 * that first use a page place it.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "product.h"
#include "../../src/base/threads.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct Event {
    double seconds;
};

/* --- Device ------------------------------------------------------------------------------------------ */

/* Whether this processor has what the compiler was told to use; else the first operation would be a crash. */
static const char *missing_instructions(void) {
#if defined(__x86_64__) && defined(__AVX512F__)
    if (!__builtin_cpu_supports("avx512f")) return "AVX-512";
#elif defined(__x86_64__) && defined(__AVX2__)
    if (!__builtin_cpu_supports("avx2")) return "AVX2";
#endif
    return NULL;
}

static bool cpu_open(int index, char *text, size_t size) {
    (void)index; /* ranks on one machine share its processors */
    const char *missing = missing_instructions();
    if (missing)
        snprintf(text, size,
                 "this program was built for a processor with %s, which this one lacks: build with "
                 "make ARCH=x86-64",
                 missing);
    if (missing) return false;
    const char *lacks = NAME(multiply_lacks)();
    if (lacks)
        snprintf(text, size, "without %s it would be slower than fp32", lacks);
    if (lacks) return false;
    threads_team(); /* before anything asks how many there are */
    if (!NAME(canary)(text, size)) return false;
    snprintf(text, size, "%s", NAME(multiply_with)());
    return true;
}

static void cpu_close(void) {
#ifdef WITH_MPI
    NAME(collective_close)();
#endif
}

/* The value behind "key …:" in a file of /proc; false where there is none. */
static bool proc_value(const char *path, const char *key, char *value, size_t size) {
    FILE *file = fopen(path, "r");
    if (!file) return false;
    char line[512];
    bool found = false;
    while (!found && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        const char *colon = strchr(line, ':');
        if (!colon) continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(value, size, "%.*s", (int)strcspn(colon, "\n"), colon);
        found = true;
    }
    fclose(file);
    return found;
}

static void cpu_describe(DeviceInfo *info) {
    memset(info, 0, sizeof *info);
    if (!proc_value("/proc/cpuinfo", "model name", info->name, sizeof info->name))
        snprintf(info->name, sizeof info->name, "CPU");
    info->memory_total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    char available[64];
    if (proc_value("/proc/meminfo", "MemAvailable", available, sizeof available))
        info->memory_free = strtoull(available, NULL, 10) * 1024;
    info->units = omp_get_max_threads();
}

static size_t cpu_scratch_bytes(const Limits *limits) {
    size_t need[] = {NAME(attention_scratch)(limits),  NAME(linear_scratch)(limits),
                     NAME(junction_scratch)(limits),   NAME(qkv_scratch)(limits),
                     NAME(activation_scratch)(limits), NAME(embedding_scratch)(limits),
                     NAME(cross_entropy_scratch)(limits),
                     NAME(step_scratch)(limits),       NAME(variant_scratch)(limits)};
    size_t most = 0;
    for (size_t i = 0; i < sizeof need / sizeof *need; i++) most = need[i] > most ? need[i] : most;
    return most;
}

/* --- Memory ------------------------------------------------------------------------------------------ */

/* Huge pages, measured on one Zen 4 core of a virtual machine: reading 12 %, AdamW 8 %, copying 45 % faster,
 * GEMMs the same; but 1.4 s a GiB instead of 0.55 s when first touched. So only the large arenas have them.
 */
enum { ALIGNMENT = 256, HUGE_PAGE = 2 << 20, HUGE_FROM = 64 << 20 };
#ifdef __SANITIZE_ADDRESS__ /* it guards what malloc gives, to the byte */
#define MAP_FROM SIZE_MAX
#else
#define MAP_FROM ((size_t)1 << 20)
#endif

/* Stands in the 256 bytes before what the caller gets. */
typedef struct Block {
    void *base;    /* of the mapping, or the block itself */
    size_t mapped; /* bytes of the mapping; 0: from malloc */
} Block;

_Static_assert(sizeof(Block) <= ALIGNMENT, "a Block stands in front of the memory");

static void *block_start(Block *block, void *base, size_t mapped) {
    *block = (Block){.base = base, .mapped = mapped};
    return (char *)block + ALIGNMENT;
}

static void *small_alloc(size_t bytes) {
    void *base;
    if (posix_memalign(&base, ALIGNMENT, bytes + ALIGNMENT) != 0) return NULL;
    memset(base, 0, bytes + ALIGNMENT);
    return block_start(base, base, 0);
}

/* The caller's first byte is the start of a huge page, the Block ends the page before it. */
static void *large_alloc(size_t bytes) {
    size_t mapped = bytes + 2 * (size_t)HUGE_PAGE;
    char *base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return NULL;
    char *start = (char *)(((uintptr_t)base + HUGE_PAGE) / HUGE_PAGE * HUGE_PAGE);
    if (bytes >= HUGE_FROM) madvise(start, bytes, MADV_HUGEPAGE); /* a wish: small pages are correct too */
    return block_start((Block *)(start - ALIGNMENT), base, mapped);
}

static void *cpu_alloc(size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    return bytes < MAP_FROM ? small_alloc(bytes) : large_alloc(bytes);
}

static void cpu_release(void *memory) {
    if (!memory) return;
    Block block = *(Block *)((char *)memory - ALIGNMENT);
    if (block.mapped)
        munmap(block.base, block.mapped);
    else
        free(block.base);
}

/* --- Queues and events ------------------------------------------------------------------------------- */

static Queue *cpu_queue_create(size_t scratch_bytes) {
    Queue *queue = calloc(1, sizeof *queue);
    if (!queue) return NULL;
    queue->scratch = cpu_alloc(scratch_bytes);
    queue->scratch_bytes = scratch_bytes;
    if (!queue->scratch) {
        free(queue);
        return NULL;
    }
    return queue;
}

static void cpu_queue_destroy(Queue *queue) {
    if (!queue) return;
    cpu_release(queue->scratch);
    free(queue);
}

static void cpu_queue_wait(Queue *queue) {
    (void)queue;
}

void *NAME(cpu_scratch)(Queue *queue, size_t bytes, const char *operation) {
    require(bytes <= queue->scratch_bytes,
            "%s needs %zu bytes of scratch and the queue has %zu: its shapes exceed the limits it was "
            "created for",
            operation, bytes, queue->scratch_bytes);
    return queue->scratch;
}

/* Big copies and fills by all threads, in stretches: one core alone does not reach the memory's rate. */
enum { STRETCH = 1 << 20 };

static void cpu_copy(Queue *queue, void *dst, const void *src, size_t bytes, CopyKind kind) {
    (void)queue;
    (void)kind;
#pragma omp parallel for schedule(static) if (bytes > 4 * (size_t)STRETCH)
    for (size_t at = 0; at < bytes; at += STRETCH)
        memcpy((char *)dst + at, (const char *)src + at, bytes - at < STRETCH ? bytes - at : STRETCH);
}

static void cpu_zero(Queue *queue, void *dst, size_t bytes) {
    (void)queue;
#pragma omp parallel for schedule(static) if (bytes > 4 * (size_t)STRETCH)
    for (size_t at = 0; at < bytes; at += STRETCH)
        memset((char *)dst + at, 0, bytes - at < STRETCH ? bytes - at : STRETCH);
}

static Event *cpu_event_create(EventScope scope) {
    (void)scope;
    return calloc(1, sizeof(Event));
}

static void cpu_event_destroy(Event *event) {
    free(event);
}

static void cpu_event_record(Queue *queue, Event *event) {
    (void)queue;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void cpu_event_wait(Queue *queue, Event *event) {
    (void)queue;
    (void)event;
}

static void cpu_event_host_wait(Event *event) {
    (void)event;
}

static double cpu_event_elapsed(Event *from, Event *to) {
    return to->seconds - from->seconds;
}

/* --- The table: no graphs, no choice of GEMM algorithms ------------------------------------------------ */

const Kernels NAME(kernels_cpu) = {
    .name = "cpu/" TYPE_NAME,
    .device = "cpu",
    .storage = STORED_DTYPE,
    .accum = REAL_DTYPE,

    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .scratch_bytes = cpu_scratch_bytes,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .host_alloc = cpu_alloc,
    .host_release = cpu_release,
    .queue_create = cpu_queue_create,
    .queue_destroy = cpu_queue_destroy,
    .queue_wait = cpu_queue_wait,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .event_create = cpu_event_create,
    .event_destroy = cpu_event_destroy,
    .event_record = cpu_event_record,
    .event_wait = cpu_event_wait,
    .event_host_wait = cpu_event_host_wait,
    .event_elapsed = cpu_event_elapsed,

    .embedding_forward = NAME(embedding_forward),
    .embedding_backward = NAME(embedding_backward),
    .linear_forward = NAME(linear_forward),
    .linear_backward_input = NAME(linear_backward_input),
    .linear_backward_weight = NAME(linear_backward_weight),
    .qkv_forward = NAME(qkv_forward),
    .qkv_backward = NAME(qkv_backward),
    .attention_forward = NAME(attention_forward),
    .attention_backward = NAME(attention_backward),
    .attention_decode = NAME(attention_decode),
    .activation_forward = NAME(activation_forward),
    .activation_backward = NAME(activation_backward),
    .junction_forward = NAME(junction_forward),
    .junction_backward = NAME(junction_backward),
    .gpas_scales = NAME(gpas_scales),
    .product_norm = NAME(product_norm),
    .bhyt_terms = NAME(bhyt_terms),
    .cross_entropy = NAME(cross_entropy),
    .step_begin = NAME(step_begin),
    .loss_reduce = NAME(loss_reduce),
    .sum_squares = NAME(sum_squares),
    .step_decide = NAME(step_decide),
    .adamw = NAME(adamw),
    .muon_momentum = NAME(muon_momentum),
    .scaled_copy = NAME(scaled_copy),
    .axpby = NAME(axpby),
    .muon_update = NAME(muon_update),
    .tensor_stats = NAME(tensor_stats),
    .cast = NAME(cast),
    .halves = NAME(halves),
    .hash = NAME(hash),

#ifdef WITH_MPI
    .collective_open = NAME(collective_open),
    .collective_unique_id = NAME(collective_unique_id),
    .all_reduce_sum = NAME(all_reduce_sum),
    .reduce_scatter_sum = NAME(reduce_scatter_sum),
    .all_gather = NAME(all_gather),
    .broadcast = NAME(broadcast),
#endif
};
