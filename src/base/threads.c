/* threads.c: see threads.h. */
#define _GNU_SOURCE
#include "threads.h"
#include "check.h"
#include "limits.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <unistd.h>

/* Of a thread, thread-local variables (70 to 90 kB) included: with 20 kB beside them OpenBLAS crashed, with 12 oneDNN. */
enum { STACK_LEAST = 192 << 10 };

/* As for --threads. OMP_NUM_THREADS may say a million; the machine would then be busy with nothing else. */
enum { THREADS_MOST = 4096 };

/* ------------------------------------------------------------------------------------------------------
 * Waiting
 * ---------------------------------------------------------------------------------------------------- */

/* 80 µs on Zen 3, some times what waking a thread takes, so that where a wait is longer little is added to it. Two threads on
 * two cores that 19 others wanted: 60 steps of `micro` took 95 s with libgomp's own 300,000, 33 s with 30,000, 30 s with
 * 10,000, 6 s with this. On an idle machine it costs nothing: gpt2-124m's step, B=1, T=256, twelve interleaved pairs of this
 * over 300,000 from 0.98 to 1.02, the middle 0.99 (Zen 3, two cores). */
static const char SPINS[] = "3000";

void threads_wait_briefly(char **argv) {
    static const char *const CHOSEN[] = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"};
    char name[16] = "";
    prctl(PR_GET_NAME, name);
    /* The second start: what the kernel calls a program after its file's name in /proc would hide it from pgrep. */
    if (strcmp(name, "exe") == 0) prctl(PR_SET_NAME, program_invocation_short_name);
    for (size_t i = 0; i < sizeof CHOSEN / sizeof *CHOSEN; i++)
        if (getenv(CHOSEN[i])) return;
    /* Started as the loader's argument ("ld.so train_gpt"): then /proc/self/exe is the loader. */
    if (!getauxval(AT_BASE) || setenv("GOMP_SPINCOUNT", SPINS, 1)) return;
    execv("/proc/self/exe", argv);
}

/* ------------------------------------------------------------------------------------------------------
 * How many there may be
 * ---------------------------------------------------------------------------------------------------- */

static int cpus_of_quota(void) {
    double quota = limits_cpu_quota("");
    return quota < INT_MAX ? (int)fmax(ceil(quota), 1) : INT_MAX;
}

int threads_cpus(void) {
    int quota = cpus_of_quota(), mask = omp_get_num_procs();
    return quota < mask ? quota : mask;
}

/* OMP_NUM_THREADS may be a list, of which the first number counts here. */
bool threads_environment_asks(void) {
    const char *text = getenv("OMP_NUM_THREADS");
    return text && strtol(text, NULL, 10) > 0;
}

int threads_default(void) {
    int most = omp_get_max_threads(), quota = cpus_of_quota();
    return threads_environment_asks() || most < quota ? most : quota;
}

/* libgomp may have bound this thread to a place; then its own mask is not the process's. */
void threads_mask(uint64_t *words, int count) {
    int numbers[CPU_SETSIZE];
    cpu_set_t own;
    CPU_ZERO(&own);
    if (sched_getaffinity(0, sizeof own, &own)) CPU_ZERO(&own);
    for (int place = 0; place < omp_get_num_places(); place++) {
        const int size = omp_get_place_num_procs(place);
        if (size > CPU_SETSIZE) continue;
        omp_get_place_proc_ids(place, numbers);
        for (int i = 0; i < size; i++)
            if (numbers[i] >= 0 && numbers[i] < CPU_SETSIZE) CPU_SET((size_t)numbers[i], &own);
    }
    for (int cpu = 0; cpu < 64 * count && cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((size_t)cpu, &own)) words[cpu / 64] |= UINT64_C(1) << cpu % 64;
}

/* The stack that libgomp will want for a thread: a number of kB, or with a unit; 0: the system's default. */
static size_t asked_stack(void) {
    const char *text = getenv("OMP_STACKSIZE");
    if (!text) text = getenv("GOMP_STACKSIZE");
    if (!text) return 0;
    char *unit;
    double size = strtod(text, &unit);
    switch (unit[strspn(unit, " \t")] | 0x20) { /* in lower case */
    case 'b': break;
    case 'm': size *= 1 << 20; break;
    case 'g': size *= 1 << 30; break;
    default: size *= 1 << 10;
    }
    return size > 0 && size < 0x1p62 ? (size_t)size : 0;
}

static void *wait_for_the_gate(void *gate) {
    pthread_mutex_lock(gate);
    pthread_mutex_unlock(gate);
    return NULL;
}

/* How many threads, up to `count`, can be there at once; libgomp ends the process where one cannot be started.
 * *reason is the errno of the one that could not. */
static int startable(int count, int *reason) {
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_t *threads = must_calloc((size_t)count, sizeof *threads, "a trial of threads");
    pthread_attr_t attributes;
    int started = 0;
    *reason = pthread_attr_init(&attributes);
    if (asked_stack()) pthread_attr_setstacksize(&attributes, asked_stack());
    pthread_mutex_lock(&gate);
    while (started < count && !*reason) {
        *reason = pthread_create(&threads[started], &attributes, wait_for_the_gate, &gate);
        started += !*reason;
    }
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
    pthread_attr_destroy(&attributes);
    free(threads);
    return started;
}

/* ------------------------------------------------------------------------------------------------------
 * How many come together
 * ---------------------------------------------------------------------------------------------------- */

typedef struct Team {
    int size;
    int cpus;     /* that its threads are bound to, together; INT_MAX where that cannot be told */
    size_t stack; /* the smallest of a thread */
} Team;

static size_t own_stack(void) {
    pthread_attr_t attributes;
    void *address;
    size_t size = SIZE_MAX;
    if (pthread_getattr_np(pthread_self(), &attributes)) return size;
    if (pthread_attr_getstack(&attributes, &address, &size)) size = SIZE_MAX;
    pthread_attr_destroy(&attributes);
    return size;
}

static Team gather(int count) {
    Team team = {.stack = SIZE_MAX};
    cpu_set_t together;
    bool known = true;
    CPU_ZERO(&together);
    (void)count; /* where the compiler has no OpenMP, as under the fuzzer, this thread is the team */
#pragma omp parallel num_threads(count)
    {
        cpu_set_t own;
        bool told = sched_getaffinity(0, sizeof own, &own) == 0;
        size_t stack = own_stack();
#pragma omp critical
        {
            team.size = omp_get_num_threads();
            if (stack < team.stack) team.stack = stack;
            if (told) CPU_OR(&together, &together, &own);
            else known = false;
        }
    }
    team.cpus = known ? CPU_COUNT(&together) : INT_MAX;
    return team;
}

/* ------------------------------------------------------------------------------------------------------
 * Settling it
 * ---------------------------------------------------------------------------------------------------- */

static int settled; /* 0: not yet */

/* One line at most, for who asked for `wanted` threads ("--threads 4") and has `team`. */
static void say(const char *who, int wanted, const Team *team, int reason) {
    double quota = limits_cpu_quota("");
    int mask = omp_get_num_procs();
    if (team->size < wanted && reason)
        warn("%s: the system starts only %d (%s%s); this run has %d", who, team->size, strerror(reason),
             asked_stack() ? ", with OMP_STACKSIZE" : "", team->size);
    else if (team->size < wanted)
        warn("%s: only %d can be had (OMP_THREAD_LIMIT is %d); this run has %d", who, team->size, omp_get_thread_limit(),
             team->size);
    else if (quota < mask && wanted > ceil(quota))
        warn("%s: a quota of its control group gives this process %.3g CPU%s; threads beyond that wait for each other", who,
             quota, quota == 1 ? "" : "s");
    else if (wanted > mask)
        warn("%s: this process may use %d CPU%s; threads beyond that wait for each other", who, mask, mask == 1 ? "" : "s");
    else if (team->cpus < wanted)
        warn("%s: OMP_PLACES, OMP_PROC_BIND or GOMP_CPU_AFFINITY binds them to %d CPU%s, where they wait for each other", who,
             team->cpus, team->cpus == 1 ? "" : "s");
}

int threads_settle(int asked) {
    omp_set_dynamic(0);
    if (omp_get_max_active_levels() < 1) omp_set_max_active_levels(1);
    bool explicit = asked > 0 || threads_environment_asks();
    int wanted = asked > 0 ? asked : threads_default(), reason = 0;
    check(wanted <= THREADS_MOST, "OMP_NUM_THREADS is %d: %d is the most", wanted, THREADS_MOST);
    int count = wanted < omp_get_thread_limit() ? wanted : omp_get_thread_limit();
    if (count > 1) { /* as many as the team needs beside this one, and the loader's */
        int most = startable(count, &reason);
        if (most < count) count = most > 1 ? most : 1;
    }
    Team team = gather(count);
    if (!explicit && team.cpus < team.size) team = gather(team.cpus > 1 ? team.cpus : 1);
    omp_set_num_threads(team.size);
    check(team.stack >= STACK_LEAST,
          "a thread has %zu kB of stack, and needs %d: OMP_STACKSIZE=1M is enough (or ulimit -s, if that is not set)",
          team.stack >> 10, STACK_LEAST >> 10);
    char who[64];
    snprintf(who, sizeof who, asked > 0 ? "--threads %d" : explicit ? "OMP_NUM_THREADS is %d" : "%d threads", wanted);
    if (explicit || reason) say(who, wanted, &team, reason);
    return settled = team.size;
}

int threads_team(void) { return settled ? settled : threads_settle(0); }
