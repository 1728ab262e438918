/* device.c: see device.h. */
#include "device.h"
#include "../base/limits.h"
#include "../base/threads.h"
#include "../settings/command_line.h"

#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const Kernels *const IMPLEMENTATIONS[] = {
    &kernels_cpu_f32, /* the first of a device has its default type */
    &kernels_cpu_f64,
    &kernels_cpu_bf16,
#ifdef WITH_CUDA
    &kernels_cuda_bf16,
    &kernels_cuda_f32,
#endif
};
enum { COUNT = sizeof IMPLEMENTATIONS / sizeof *IMPLEMENTATIONS };

static bool has_type(const Kernels *k, int64_t dtype) {
    return dtype == DTYPE_FLAG_AUTO || (dtype == DTYPE_FLAG_FP32 && k->storage == DTYPE_F32) ||
           (dtype == DTYPE_FLAG_FP64 && k->storage == DTYPE_F64) ||
           (dtype == DTYPE_FLAG_BF16 && k->storage == DTYPE_BF16);
}

static const Kernels *find(const char *device, int64_t dtype) {
    for (int i = 0; i < COUNT; i++)
        if (strcmp(IMPLEMENTATIONS[i]->device, device) == 0 && has_type(IMPLEMENTATIONS[i], dtype))
            return IMPLEMENTATIONS[i];
    return NULL;
}

static bool is_there(const char *device) { return find(device, DTYPE_FLAG_AUTO) != NULL; }

/* The first operation that the model needs and this implementation does not have, or NULL. */
static const char *missing_operation(const Kernels *k) {
    const struct {
        const char *name;
        bool there;
    } needed[] = {
        {"embedding_forward", k->embedding_forward},     {"embedding_backward", k->embedding_backward},
        {"linear_forward", k->linear_forward},           {"linear_backward_input", k->linear_backward_input},
        {"linear_backward_weight", k->linear_backward_weight},
        {"qkv_forward", k->qkv_forward},                 {"qkv_backward", k->qkv_backward},
        {"attention_forward", k->attention_forward},     {"attention_backward", k->attention_backward},
        {"attention_decode", k->attention_decode},       {"activation_forward", k->activation_forward},
        {"activation_backward", k->activation_backward}, {"junction_forward", k->junction_forward},
        {"junction_backward", k->junction_backward},     {"cross_entropy", k->cross_entropy},
        {"step_begin", k->step_begin},                   {"loss_reduce", k->loss_reduce},
        {"sum_squares", k->sum_squares},                 {"step_decide", k->step_decide},
        {"adamw", k->adamw},                             {"muon_momentum", k->muon_momentum},
        {"scaled_copy", k->scaled_copy},                 {"axpby", k->axpby},
        {"muon_update", k->muon_update},                 {"tensor_stats", k->tensor_stats},
        {"cast", k->cast},                               {"halves", k->halves},
    };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].there) return needed[i].name;
    return NULL;
}

static char notice[320]; /* why --device auto took the CPU, or "" */

const char *device_notice(void) { return notice[0] ? notice : NULL; }

/* Each rank of a machine has a GPU of its own, that of its number there. */
static void check_count(const Kernels *k, int ranks) {
    DeviceInfo info = {0};
    k->describe(&info);
    check(!info.devices || ranks <= info.devices,
          "%d ranks were started on this machine, and this one sees %d GPU%s: at most one a GPU (mpirun -n, --nproc_per_node, "
          "--ntasks-per-node); srun --gpu-bind=none shows a task all of them", ranks, info.devices, info.devices == 1 ? "" : "s");
}

/* Whether a plan is asked for that only a GPU could carry out. */
static bool plans_for_gpu(const Config *config) {
    if (!config->dry_run || config->dtype == DTYPE_FLAG_FP64 || config->device == DEVICE_CPU) return false;
    return config->device == DEVICE_CUDA || config->dtype == DTYPE_FLAG_BF16;
}

static const Kernels *open_cuda(Config *config) {
    bool must = config->device == DEVICE_CUDA && !plans_for_gpu(config);
    if (!is_there("cuda")) {
        check(!must, "--device cuda: this build has no CUDA backend; --device cpu runs anywhere");
        return NULL;
    }
    const Kernels *k = find("cuda", config->dtype);
    check(k || !must, "--dtype %s does not exist on --device cuda; fp32 and bf16 do",
          config_choice("dtype", config->dtype));
    if (!k) return NULL;
    const char *missing = missing_operation(k);
    check(!missing || !must, "--device cuda: %s has no %s yet; --device cpu does", k->name, missing);
    if (missing) return NULL;
    char text[256] = "", other[256];
    if (k->open((int)config->local_rank, text, sizeof text)) {
        check_count(k, (int)config->local_ranks);
        return k;
    }
    /* The other ranks have their GPUs: going on without one would be another run than theirs. */
    const bool too_many = config->local_rank > 0 && k->open(0, other, sizeof other);
    if (too_many) check_count(k, (int)config->local_rank + 1);
    check(!must && !too_many, "--device cuda: %s", text);
    snprintf(notice, sizeof notice, "no usable GPU (%s): running on the CPU", text);
    return NULL;
}

static bool no_memory_known(int index, char *text, size_t size) { return (void)index, (void)text, (void)size, true; }

static void describe_planned(DeviceInfo *info) { *info = (DeviceInfo){.name = "a GPU"}; }

static void close_planned(void) {}

/* --dry-run counts bytes, for which no GPU need be there. Scratch is the CUDA backend's where this build has it, else about
 * what a CPU takes. */
static const Kernels *plan_cuda(const Config *config) {
    static Kernels planned;
    const Kernels *k = find("cuda", config->dtype);
    planned = k ? *k : kernels_cpu_f32;
    planned.device = "cuda";
    planned.storage = config->dtype == DTYPE_FLAG_FP32 ? DTYPE_F32 : DTYPE_BF16;
    planned.name = planned.storage == DTYPE_F32 ? "cuda/f32" : "cuda/bf16";
    planned.open = no_memory_known, planned.describe = describe_planned, planned.close = close_planned;
    snprintf(notice, sizeof notice, "no usable GPU here: the plan is for one%s", k ? "" : ", its scratch as on a CPU");
    return &planned;
}

static const Kernels *open_cpu(Config *config) {
    const Kernels *k = find("cpu", config->dtype);
    char text[256] = "";
    if (k->open(0, text, sizeof text)) return k;
    const bool asked_too_much = k->storage == DTYPE_BF16;
    fail(asked_too_much ? EXIT_USAGE : EXIT_RUNTIME, "%s: %s", asked_too_much ? "--dtype bf16 on the CPU" : "--device cpu", text);
}

void device_print_types(void) {
    char text[256] = "";
    const bool bf16 = kernels_cpu_bf16.open(0, text, sizeof text);
    printf("types on this machine's CPU:\n"
           "  fp32          taken where --dtype is not given\n"
           "  bf16          %s%s%s\n"
           "  fp64          for checking\n",
           bf16 ? "the processor multiplies it faster than fp32 (" : "refused: ", text, bf16 ? ")" : "");
    if (bf16) kernels_cpu_bf16.close();
}

static bool inherits_threads;

void device_inherit_threads(Config *c, int argc, char **argv) {
    Config given;
    config_parse(&given, argc, argv, NULL);
    if (given.threads || !c->threads) return;
    bool trains = !(c->eval_only || c->eval || config_generates(c) || c->probe || c->dry_run);
    inherits_threads = trains && c->threads <= threads_cpus();
    if (!inherits_threads) c->threads = 0;
}

static int asked_threads; /* of --threads; 0: nobody's */

/* What is said of threads that a checkpoint asks for. */
static void say_inherited(int threads, int otherwise) {
    if (inherits_threads && threads != otherwise)
        warn("%d thread%s, as the checkpoint was trained with, for the same bits; without that it would be %d: --threads says "
             "otherwise", threads, threads == 1 ? "" : "s", otherwise);
}

static int settle_threads(const Config *c) {
    const int wanted = (int)c->threads, otherwise = inherits_threads ? threads_default() : wanted;
    const int threads = threads_settle(wanted);
    asked_threads = inherits_threads ? 0 : wanted;
    if (c->ranks == 1 && threads == wanted) say_inherited(threads, otherwise); /* several: when they know of each other */
    return threads;
}

/* This rank's part of what its machine's ranks may keep busy together; 0: not known. */
static int fair_share(const Neighbours *n) {
    const double quota = limits_cpu_quota("") / n->count;
    if (quota >= (n->cpus ? n->cpus : INT_MAX)) return n->cpus;
    return quota < 1 ? 1 : (int)quota;
}

void device_share_cpus(Config *c, const Neighbours *n) {
    const int share = fair_share(n), fallback = threads_default();
    const bool speaks = c->rank == n->first, given = asked_threads || threads_environment_asks();
    if (n->count == 1 || !share || c->threads <= share) {
        if (speaks && !threads_environment_asks()) say_inherited((int)c->threads, share && share < fallback ? share : fallback);
        return;
    }
    if (!given) {
        c->threads = threads_settle(share);
        return;
    }
    char who[64];
    snprintf(who, sizeof who, asked_threads ? "--threads %lld" : "OMP_NUM_THREADS is %lld", (long long)c->threads);
    if (speaks)
        warn("%s: this machine's %d ranks have %d CPU%s each; threads beyond that wait for each other", who, n->count, share,
             share == 1 ? "" : "s");
}

const Kernels *device_open(Config *config) {
    config->threads = settle_threads(config);
    const Kernels *k = config->device == DEVICE_CPU ? NULL : open_cuda(config);
    if (!k && plans_for_gpu(config)) k = plan_cuda(config);
    if (!k) k = open_cpu(config);
    config->device = strcmp(k->device, "cpu") ? DEVICE_CUDA : DEVICE_CPU;
    config->dtype = k->storage == DTYPE_BF16  ? DTYPE_FLAG_BF16
                    : k->storage == DTYPE_F64 ? DTYPE_FLAG_FP64
                                              : DTYPE_FLAG_FP32;
    return k;
}
