/*
 * limits.h: how much of the machine may this process use?
 *
 * A container or a batch system gives a process a part of the machine: of the processors by a quota of their time, of
 * the memory by a limit, both of control groups (cgroup v1 or v2, the process's own group and all above it that can be
 * seen from here); a shell by ulimit. What is free in a group is what its other members have left.
 *
 * Pure functions over the files below `root`: "" on a real machine, a made-up tree in tests. What is not there, cannot
 * be read or makes no sense is no limit.
 */
#ifndef LIMITS_H
#define LIMITS_H

#include <stdbool.h>
#include <stddef.h>

/* Processors' worth of time that the tightest quota gives: 0.5 is half of one. INFINITY: there is no quota. */
double limits_cpu_quota(const char *root);

/* The memory that a process could still take. */
typedef struct MemoryLimit {
    double free;    /* bytes; INFINITY where nothing limits it */
    double limit;   /* bytes, what is in use included */
    bool hard;      /* beyond it memory is refused or the process killed; else slowed down, or others suffer */
    int sharers;    /* processes that have this together: 1, or all of them */
    char name[128]; /* "the control group's memory.max", "ulimit -v" */
} MemoryLimit;

/* The limit that leaves least to each of so many processes of this machine, this one among them, of the limits that are hard or
 * of the others: control groups and (soft) what the machine has left, which they share; ulimit -v and -d, which each of them has.
 * Cached files count as free, as they are dropped for whoever needs memory. */
void limits_memory(const char *root, bool hard, int processes, MemoryLimit *tightest);

#endif
