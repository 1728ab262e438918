/* limits.c: see limits.h. */
#define _GNU_SOURCE
#include "limits.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Of a root, a mount and a group below it; what is longer is not looked at. */
enum { PATH_ROOM = 3 * PATH_MAX };

/* ------------------------------------------------------------------------------------------------------
 * Where the groups are
 * ---------------------------------------------------------------------------------------------------- */

/* Whether a list "cpu,cpuacct" has the word. */
static bool list_has(const char *list, const char *word) {
    size_t length = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, word, length) == 0 && (at[length] == ',' || !at[length])) return true;
    return false;
}

/* A blank in a path of mountinfo is written \040. */
static void decode_octal(char *text) {
    char *to = text;
    for (const char *from = text; *from; to++) {
        unsigned value;
        if (*from == '\\' && sscanf(from + 1, "%3o", &value) == 1 && value && value < 256) {
            *to = (char)value;
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = '\0';
}

/* The group of this process in the hierarchy of a controller (NULL: the one hierarchy of v2), as /proc/self/cgroup
 * tells it: "4:cpu,cpuacct:/path", in v2 "0::/path". */
static bool own_group(const char *root, const char *controller, char *group, size_t size) {
    char path[PATH_ROOM], *line = NULL;
    size_t room = 0;
    bool found = false;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    while (file && !found && getline(&line, &room, file) > 0) {
        char *controllers = strchr(line, ':'), *at = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!at) continue;
        *at++ = '\0';
        controllers++;
        at[strcspn(at, "\n")] = '\0';
        found = controller ? list_has(controllers, controller) : !*controllers;
        if (found) snprintf(group, size, "%s", at);
    }
    if (file) fclose(file);
    free(line);
    return found;
}

/* A line of mountinfo: "31 23 0:28 ROOT MOUNTPOINT options … - TYPE source SUPEROPTIONS". */
typedef struct Mount {
    char root[PATH_MAX], point[PATH_MAX];
} Mount;

static bool parse_mount(char *line, const char *controller, Mount *mount) {
    char type[32] = "", options[256] = "", *rest = strstr(line, " - ");
    if (!rest || sscanf(rest, " - %31s %*s %255s", type, options) != 2) return false;
    if (strcmp(type, controller ? "cgroup" : "cgroup2") || (controller && !list_has(options, controller))) return false;
    if (sscanf(line, "%*s %*s %*s %4095s %4095s", mount->root, mount->point) != 2) return false;
    if (mount->root[0] != '/' || mount->point[0] != '/') return false;
    decode_octal(mount->root);
    decode_octal(mount->point);
    return true;
}

static bool find_mount(const char *root, const char *controller, Mount *mount) {
    char path[PATH_ROOM], *line = NULL;
    size_t room = 0;
    bool found = false;
    snprintf(path, sizeof path, "%s/proc/self/mountinfo", root);
    FILE *file = fopen(path, "r");
    while (file && !found && getline(&line, &room, file) > 0) found = parse_mount(line, controller, mount);
    if (file) fclose(file);
    free(line);
    return found;
}

/* The part of a group's path that lies below what is mounted. A container sees its own group as the root of the mount
 * while /proc names it from the top of the machine, or from a root that lies elsewhere ("/../other"). */
static const char *below_mount(const char *group, const char *mounted) {
    size_t length = strlen(mounted);
    if (strstr(group, "/..")) return "";
    if (strcmp(mounted, "/") == 0) return strcmp(group, "/") ? group : "";
    if (strncmp(group, mounted, length) || (group[length] && group[length] != '/')) return "";
    return group + length;
}

/* Calls visit() with the directory of the process's own group, and with each above it up to the mount. */
typedef void GroupVisitor(const char *directory, void *context);

static void visit_groups(const char *root, const char *controller, GroupVisitor *visit, void *context) {
    char group[PATH_MAX], directory[PATH_ROOM];
    Mount mount;
    if (!own_group(root, controller, group, sizeof group) || !find_mount(root, controller, &mount)) return;
    size_t top = strlen(root) + strlen(mount.point);
    const char *below = below_mount(group, mount.root);
    if (snprintf(directory, sizeof directory, "%s%s%s", root, mount.point, below) >= (int)sizeof directory) return;
    for (;;) {
        visit(directory, context);
        char *slash = strrchr(directory + top, '/');
        if (!slash) return;
        *slash = '\0';
    }
}

/* Up to two numbers of a group's file; "max" is INFINITY. Returns how many there were. */
static int read_numbers(const char *directory, const char *name, double numbers[2]) {
    char path[PATH_ROOM + 64], text[128], *at = text;
    int count = 0;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    while (count < 2) {
        char *end;
        at += strspn(at, " \t\n");
        if (strncmp(at, "max", 3) == 0) {
            numbers[count++] = INFINITY;
            at += 3;
            continue;
        }
        double value = strtod(at, &end);
        if (end == at || !isfinite(value)) break;
        numbers[count++] = value;
        at = end;
    }
    return count;
}

/* ------------------------------------------------------------------------------------------------------
 * Processors
 * ---------------------------------------------------------------------------------------------------- */

static void take_quota(double quota, double period, double *least) {
    if (quota > 0 && isfinite(quota) && period > 0 && isfinite(period) && quota / period < *least) *least = quota / period;
}

static void quota_v1(const char *directory, void *context) {
    double quota[2], period[2];
    if (read_numbers(directory, "cpu.cfs_quota_us", quota) && read_numbers(directory, "cpu.cfs_period_us", period))
        take_quota(quota[0], period[0], context); /* −1: none */
}

static void quota_v2(const char *directory, void *context) {
    double numbers[2];
    if (read_numbers(directory, "cpu.max", numbers) == 2) take_quota(numbers[0], numbers[1], context);
}

double limits_cpu_quota(const char *root) {
    double least = INFINITY;
    visit_groups(root, "cpu", quota_v1, &least);
    visit_groups(root, NULL, quota_v2, &least);
    return least;
}

/* ------------------------------------------------------------------------------------------------------
 * Memory
 * ---------------------------------------------------------------------------------------------------- */

typedef struct Search {
    bool hard;
    int processes;
    MemoryLimit *tightest;
} Search;

static void take_limit(const Search *search, bool hard, int sharers, double limit, double used, const char *name) {
    MemoryLimit *t = search->tightest;
    double left = limit > used ? limit - used : 0;
    if (hard != search->hard || !isfinite(limit) || limit < 0 || left / sharers >= t->free / t->sharers) return;
    *t = (MemoryLimit){.free = left, .limit = limit, .hard = hard, .sharers = sharers};
    snprintf(t->name, sizeof t->name, "%s", name);
}

/* The value behind "key …" in a file of lines; 0 where there is none. `scale` is its unit in bytes. */
static double value_of(const char *path, const char *key, double scale) {
    char *line = NULL;
    size_t room = 0, length = strlen(key);
    double value = 0;
    FILE *file = fopen(path, "r");
    while (file && getline(&line, &room, file) > 0)
        if (strncmp(line, key, length) == 0 && strchr(" \t:", line[length])) {
            value = strtod(line + length + 1, NULL) * scale;
            break;
        }
    if (file) fclose(file);
    free(line);
    return value > 0 ? value : 0;
}

/* Files that are only cached. (v1 counts a group's own beside "total_", which holds those of the groups below.) */
static double cached(const char *directory, const char *prefix) {
    char path[PATH_ROOM + 64], active[64], inactive[64];
    snprintf(path, sizeof path, "%s/memory.stat", directory);
    snprintf(active, sizeof active, "%sactive_file", prefix);
    snprintf(inactive, sizeof inactive, "%sinactive_file", prefix);
    return value_of(path, active, 1) + value_of(path, inactive, 1);
}

static int all_of(const Search *search) { return search->processes; }

static void memory_v1(const char *directory, void *context) {
    enum { NONE_FROM_BITS = 60 }; /* "no limit" is the largest number of pages that the kernel can count */
    double limit[2], used[2] = {0};
    if (!read_numbers(directory, "memory.limit_in_bytes", limit) || !(limit[0] < ldexp(1, NONE_FROM_BITS))) return;
    read_numbers(directory, "memory.usage_in_bytes", used);
    take_limit(context, true, all_of(context), limit[0], used[0] - cached(directory, "total_"),
               "the control group's memory.limit_in_bytes");
}

static void memory_v2(const char *directory, void *context) {
    double most[2] = {INFINITY}, high[2] = {INFINITY}, used[2] = {0};
    read_numbers(directory, "memory.max", most);
    read_numbers(directory, "memory.high", high);
    read_numbers(directory, "memory.current", used);
    double taken = used[0] - cached(directory, "");
    take_limit(context, true, all_of(context), most[0], taken, "the control group's memory.max");
    take_limit(context, false, all_of(context), high[0], taken, "the control group's memory.high");
}

/* ulimit: of this process, whatever the root; what it has mapped is counted by /proc. */
static void memory_ulimit(const char *root, const Search *search) {
    static const struct {
        int resource;
        const char *key, *name;
    } ROWS[] = {{RLIMIT_AS, "VmSize", "ulimit -v (address space)"}, {RLIMIT_DATA, "VmData", "ulimit -d (data)"}};
    char path[PATH_ROOM];
    snprintf(path, sizeof path, "%s/proc/self/status", root);
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        struct rlimit limit;
        if (getrlimit((__typeof__(RLIMIT_AS))ROWS[i].resource, &limit) || limit.rlim_cur == RLIM_INFINITY) continue;
        take_limit(search, true, 1, (double)limit.rlim_cur, value_of(path, ROWS[i].key, 1024), ROWS[i].name);
    }
}

static void memory_machine(const char *root, const Search *search) {
    char path[PATH_ROOM];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    double total = value_of(path, "MemTotal", 1024), available = value_of(path, "MemAvailable", 1024);
    if (total <= 0) return;
    take_limit(search, true, search->processes, total, 0, "this machine");
    if (available > 0) take_limit(search, false, search->processes, total, total - available, "this machine");
}

void limits_memory(const char *root, bool hard, int processes, MemoryLimit *tightest) {
    *tightest = (MemoryLimit){.free = INFINITY, .limit = INFINITY, .sharers = 1};
    Search search = {hard, processes, tightest};
    visit_groups(root, "memory", memory_v1, &search);
    visit_groups(root, NULL, memory_v2, &search);
    memory_ulimit(root, &search);
    memory_machine(root, &search);
}
