/*
 * test_limits.c: what may this process use? Made-up trees of control groups, of both versions, as machines and containers
 * show them; then a plan of threads for what they say.
 */
#include "../src/base/limits.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

static char root[64];

/* Writes a file below the root, and the directories that it needs. */
static void put(const char *path, const char *text) {
    char full[1024];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = strchr(full + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int new_root(void **state) {
    (void)state;
    strcpy(root, "/tmp/test_limits.XXXXXX");
    return mkdtemp(root) ? 0 : 1;
}

static int remove_root(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

#define V1_MOUNTS \
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n" \
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n" \
    "33 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n" \
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
#define V2_MOUNT "41 31 0:38 / /sys/fs/cgroup rw,nosuid master:4 - cgroup2 cgroup2 rw,nsdelegate\n"

static void assert_quota(double expected) {
    double quota = limits_cpu_quota(root);
    if (quota != expected) fail_msg("quota %g, not %g", quota, expected);
}

static void assert_memory(bool hard, double free, double limit, const char *name) {
    MemoryLimit found;
    limits_memory(root, hard, 1, &found);
    if (found.free != free || (isfinite(free) && (found.limit != limit || !strstr(found.name, name))))
        fail_msg("%g free of %g by %s; not %g of %g by %s", found.free, found.limit, found.name, free, limit, name);
}

static void nothing_there_is_no_limit(void **state) {
    (void)state;
    assert_quota(INFINITY);
    assert_memory(true, INFINITY, 0, "");
    assert_memory(false, INFINITY, 0, "");
}

static void v2_own_group(void **state) {
    (void)state;
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/proc/self/cgroup", "0::/system.slice/run.scope\n");
    put("/sys/fs/cgroup/system.slice/run.scope/cpu.max", "150000 100000\n");
    put("/sys/fs/cgroup/system.slice/run.scope/memory.max", "1000000000\n");
    put("/sys/fs/cgroup/system.slice/run.scope/memory.high", "800000000\n");
    put("/sys/fs/cgroup/system.slice/run.scope/memory.current", "300000000\n");
    put("/sys/fs/cgroup/system.slice/run.scope/memory.stat",
        "anon 100000000\nfile 200000000\ninactive_file 150000000\nactive_file 50000000\nshmem 0\n");
    assert_quota(1.5);
    assert_memory(true, 900e6, 1e9, "memory.max");
    assert_memory(false, 700e6, 800e6, "memory.high");
}

/* The tightest of the own group and all above it, in what is left there, not in what it was given. */
static void v2_ancestors(void **state) {
    (void)state;
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/proc/self/cgroup", "0::/a/b/c\n");
    put("/sys/fs/cgroup/a/cpu.max", "50000 100000\n");
    put("/sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
    put("/sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/a/memory.max", "2000000000\n");
    put("/sys/fs/cgroup/a/memory.current", "1900000000\n");
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/b/c/memory.max", "500000000\n");
    assert_quota(0.5);
    assert_memory(true, 100e6, 2e9, "memory.max");
}

/* In a container with a namespace of its own the group is "/", and its files lie at the mount. */
static void v2_container(void **state) {
    (void)state;
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/proc/self/cgroup", "0::/\n");
    put("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    put("/sys/fs/cgroup/memory.max", "4096\n");
    assert_quota(2);
    assert_memory(true, 4096, 4096, "memory.max");
}

/* Without one, /proc names the group from the machine's top, and the mount shows that group as its root. */
static void container_without_a_namespace(void **state) {
    (void)state;
    put("/proc/self/mountinfo", "41 31 0:38 /docker/f00 /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
    put("/proc/self/cgroup", "0::/docker/f00/inner\n");
    put("/sys/fs/cgroup/cpu.max", "300000 100000\n");
    put("/sys/fs/cgroup/inner/cpu.max", "250000 100000\n");
    assert_quota(2.5);
    put("/proc/self/cgroup", "0::/docker/f00\n");
    assert_quota(3);
    put("/proc/self/cgroup", "0::/docker/f00d\n"); /* not below it, though it begins alike */
    assert_quota(3);
    put("/proc/self/cgroup", "0::/../../elsewhere\n");
    assert_quota(3);
}

static void v1(void **state) {
    (void)state;
    put("/proc/self/mountinfo", V1_MOUNTS);
    put("/proc/self/cgroup", "12:cpuset:/not/this\n4:memory:/m/mine\n3:cpu,cpuacct:/c/mine\n1:name=systemd:/\n0::/\n");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/c/mine/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/c/mine/cpu.cfs_period_us", "100000\n");
    put("/sys/fs/cgroup/memory/m/mine/memory.limit_in_bytes", "9223372036854771712\n");
    assert_quota(INFINITY);
    assert_memory(true, INFINITY, 0, "");
    put("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "25000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "50000\n");
    put("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "314572800\n");
    put("/sys/fs/cgroup/memory/m/memory.usage_in_bytes", "214572800\n");
    put("/sys/fs/cgroup/memory/m/memory.stat", "active_file 1\ntotal_active_file 100000000\ntotal_inactive_file 4572800\n");
    assert_quota(0.5);
    assert_memory(true, 314572800 - 110e6, 314572800, "memory.limit_in_bytes");
}

/* Both at once: v1's controllers beside v2's empty hierarchy, and the other way round. */
static void hybrid(void **state) {
    (void)state;
    put("/proc/self/mountinfo", V1_MOUNTS "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("/proc/self/cgroup", "3:cpu,cpuacct:/c\n0::/u\n");
    put("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "300000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
    assert_quota(3);
    put("/sys/fs/cgroup/unified/u/cpu.max", "100000 100000\n");
    assert_quota(1);
}

static void a_blank_in_a_path(void **state) {
    (void)state;
    put("/proc/self/mountinfo", "41 31 0:38 / /sys/fs/my\\040groups rw - cgroup2 cgroup2 rw\n");
    put("/proc/self/cgroup", "0::/a b:c\n");
    put("/sys/fs/my groups/a b:c/cpu.max", "100000 50000\n");
    assert_quota(2);
}

static void garbage_is_no_limit(void **state) {
    (void)state;
    static const char *const GARBAGE[] = {"", "\n", "max", "max 100000\n", "nonsense\n", "100000", "-5 100000\n", "0 100000\n",
                                          "100000 0\n", "nan nan\n", "100000 -1\n", "1e999 1\n", "inf 100000\n"};
    put("/proc/self/mountinfo", "garbage\n - cgroup2\n1 2 - cgroup2 x y\n" V2_MOUNT);
    put("/proc/self/cgroup", "no colon\n:\n0::/a\n");
    for (size_t i = 0; i < sizeof GARBAGE / sizeof *GARBAGE; i++) {
        put("/sys/fs/cgroup/a/cpu.max", GARBAGE[i]);
        put("/sys/fs/cgroup/a/memory.max", GARBAGE[i][0] == '1' || GARBAGE[i][0] == '0' ? "x" : GARBAGE[i]);
        assert_quota(INFINITY);
        assert_memory(true, INFINITY, 0, "");
    }
    put("/sys/fs/cgroup/cpu.max", "100000 100000\n"); /* what lies beside garbage is read all the same */
    assert_quota(1);
}

static void the_machine(void **state) {
    (void)state;
    put("/proc/meminfo", "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:    5000000 kB\n");
    assert_memory(true, 24000000. * 1024, 24000000. * 1024, "this machine");
    assert_memory(false, 5000000. * 1024, 24000000. * 1024, "this machine");
}

/* A group's memory is all processes'; an ulimit is each one's. */
static void what_several_processes_share(void **state) {
    (void)state;
    static const struct {
        bool hard;
        int processes, sharers;
        double free;
        const char *name;
    } CASES[] = {{true, 1, 1, 700e6, "memory.max"}, {true, 3, 3, 700e6, "memory.max"}, {false, 2, 2, 5000000. * 1024, "this machine"}};
    MemoryLimit found;
    put("/proc/self/mountinfo", V2_MOUNT);
    put("/proc/self/cgroup", "0::/a\n");
    put("/sys/fs/cgroup/a/memory.max", "1000000000\n");
    put("/sys/fs/cgroup/a/memory.current", "300000000\n");
    put("/proc/meminfo", "MemTotal:       24000000 kB\nMemAvailable:    5000000 kB\n");
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        limits_memory(root, CASES[i].hard, CASES[i].processes, &found);
        if (found.free != CASES[i].free || found.sharers != CASES[i].sharers || !strstr(found.name, CASES[i].name))
            fail_msg("case %zu: %g free by %s for %d", i, found.free, found.name, found.sharers);
    }
}

/* What the process has mapped already counts. (In a process of its own, as a lowered limit stays.) */
static void ulimits(void **state) {
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* its own memory is beyond any such limit */
#endif
    put("/proc/self/status", "Name:\tx\nVmSize:\t  100000 kB\nVmData:\t   50000 kB\n");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        MemoryLimit found;
        struct rlimit address_space = {1 << 30, RLIM_INFINITY}, data = {900 << 20, RLIM_INFINITY};
        if (setrlimit(RLIMIT_AS, &address_space)) _exit(2);
        limits_memory(root, true, 1, &found);
        if (found.free != (1 << 30) - 100000. * 1024 || !strstr(found.name, "ulimit -v")) _exit(3);
        limits_memory(root, true, 8, &found); /* there is nothing that they share */
        if (found.sharers != 1 || found.free != (1 << 30) - 100000. * 1024) _exit(6);
        if (setrlimit(RLIMIT_DATA, &data)) _exit(4);
        limits_memory(root, true, 1, &found);
        _exit(found.free != (900 << 20) - 50000. * 1024 || !strstr(found.name, "ulimit -d") ? 5 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, new_root, remove_root)

int main(void) {
    const struct CMUnitTest tests[] = {
        CASE(nothing_there_is_no_limit), CASE(v2_own_group), CASE(v2_ancestors), CASE(v2_container),
        CASE(container_without_a_namespace), CASE(v1), CASE(hybrid), CASE(a_blank_in_a_path),
        CASE(garbage_is_no_limit), CASE(the_machine), CASE(what_several_processes_share), CASE(ulimits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
