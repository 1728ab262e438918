/*
 * launch_log.cuh: which operations the host has queued last, so that a message about the device can name them and their
 * shapes.
 *
 * What a kernel did wrong while it ran is told by whoever waits later, on any queue: CUDA's errors belong to the process,
 * not to a stream. So there is one log, of the process, and host code of the backend runs on one thread. An entry
 * is a copy of some 100 bytes; only a message formats.
 */
#ifndef LAUNCH_LOG_CUH
#define LAUNCH_LOG_CUH

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <algorithm>

/* A size of a call, by the name that kernels.h gives it. */
struct Dimension {
    const char *name; /* a literal */
    int64_t size;
};

/* The sizes that say what a call works on; the rest is {NULL, 0}. */
struct Shape {
    Dimension dimension[6];
};

struct LaunchLog {
    static constexpr int LENGTH = 4;

    struct Entry {
        const char *operation; /* a literal */
        Shape shape;
    } entry[LENGTH];
    int64_t count; /* all so far; the last are in entry[(count − 1) % LENGTH] and before */
    bool in_call;  /* the last has not returned yet */

    void begin(const char *operation, const Shape &shape) {
        entry[count++ % LENGTH] = {operation, shape};
        in_call = true;
    }
    void end() { in_call = false; }

    /* "; in NAME (N=…, C=…)" while one is being queued, and "; queued before: NAME (…), …", the last first. Cut to fit. */
    void describe(char *text, size_t size) const;
};

inline LaunchLog launch_log = {};

inline void LaunchLog::describe(char *text, size_t size) const {
    size_t at = 0;
    auto add = [&](const char *format, auto... values) {
        const int length = snprintf(text + at, size - at, format, values...);
        at = std::min(size - 1, at + (size_t)std::max(length, 0));
    };
    text[0] = '\0';
    for (int64_t back = 1; back <= std::min<int64_t>(count, LENGTH); back++) {
        const Entry &it = entry[(count - back) % LENGTH];
        const bool first_before = back == (in_call ? 2 : 1);
        add("%s%s", in_call && back == 1 ? "; in " : first_before ? "; queued before: " : ", ", it.operation);
        const char *separator = " (";
        for (const Dimension &d : it.shape.dimension) {
            if (!d.name) break;
            add("%s%s=%lld", separator, d.name, (long long)d.size);
            separator = ", ";
        }
        if (it.shape.dimension[0].name) add("%s", ")");
    }
}

#endif
