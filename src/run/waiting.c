/* waiting.c: see waiting.h. */
#define _GNU_SOURCE
#include "waiting.h"
#include "log.h"

#include <dirent.h>
#include <stdio.h>
#include <time.h>

enum { STEPS_LEAST = 3 };
static const double WINDOW_FIRST = 2, WINDOW_LONGEST = 60;

/* Seconds that all threads together were ready to run without a CPU; 0 where the kernel does not say. */
static double seconds_queued(void) {
    double total = 0;
    DIR *tasks = opendir("/proc/self/task");
    for (struct dirent *entry; tasks && (entry = readdir(tasks));) {
        char path[300];
        unsigned long long queued;
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!file) continue;
        if (fscanf(file, "%*u %llu", &queued) == 1) total += (double)queued * 1e-9;
        fclose(file);
    }
    if (tasks) closedir(tasks);
    return total;
}

static double seconds_worked(void) {
    struct timespec used;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used)) return 0;
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

void waiting_begin(Waiting *waiting, int threads) { *waiting = (Waiting){.threads = threads}; }

bool waiting_is_too_much(double seconds, int threads, double worked, double queued) {
    double all = seconds * threads;
    return worked < 0.5 * all && queued > 0.25 * all;
}

bool waiting_look(Waiting *w, char *text, size_t size) {
    double now = w->threads > 1 ? log_seconds() : 0;
    if (w->threads < 2 || (w->window > 0 && (++w->steps < STEPS_LEAST || now - w->since < w->window))) return false;
    double seconds = now - w->since, worked = seconds_worked(), queued = seconds_queued();
    bool too_much = w->window > 0 &&
                    waiting_is_too_much(seconds, w->threads, worked - w->worked, queued - w->queued);
    if (too_much) {
        double percent = 100 / (seconds * w->threads);
        snprintf(text, size,
                 "the %d threads wait longer than they work: in the last %.0f s they computed for %.0f %% of their time, and for "
                 "%.0f %% were ready without a CPU; where others use this machine, a lower --threads may be faster", w->threads,
                 seconds, (worked - w->worked) * percent, (queued - w->queued) * percent);
        w->threads = 0;
    }
    double window = w->window > 0 ? 2 * w->window : WINDOW_FIRST;
    *w = (Waiting){.threads = w->threads, .since = now, .worked = worked, .queued = queued,
                   .window = window < WINDOW_LONGEST ? window : WINDOW_LONGEST};
    return too_much;
}
