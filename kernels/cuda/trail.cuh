/*
 * trail.cuh: which operations the host has put into queues last, so that a message about the device can name them and
 * their shapes.
 *
 * What a kernel did wrong while it ran is told by whoever waits later, on any queue: CUDA's errors belong to the process,
 * not to a stream. So there is one trail, of the process, and host code of the backend runs on one thread. Noting is a
 * copy of some 100 bytes; only a message formats.
 */
#ifndef TRAIL_CUH
#define TRAIL_CUH

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

struct Trail {
    static constexpr int LENGTH = 4;

    struct Note {
        const char *operation; /* a literal */
        Shape shape;
    } note[LENGTH];
    int64_t noted;  /* all so far; the last lie in note[(noted − 1) % LENGTH] and before */
    bool under_way; /* the last has not returned yet */

    void begin(const char *operation, const Shape &shape) {
        note[noted++ % LENGTH] = {operation, shape};
        under_way = true;
    }
    void end() { under_way = false; }

    /* "; in NAME (N=…, C=…)" while one is under way, and "; queued before: NAME (…), …", the last first. Cut to fit. */
    void describe(char *text, size_t size) const;
};

inline Trail cuda_trail = {};

inline void Trail::describe(char *text, size_t size) const {
    size_t at = 0;
    auto add = [&](const char *format, auto... values) {
        const int length = snprintf(text + at, size - at, format, values...);
        at = std::min(size - 1, at + (size_t)std::max(length, 0));
    };
    text[0] = '\0';
    for (int64_t back = 1; back <= std::min<int64_t>(noted, LENGTH); back++) {
        const Note &it = note[(noted - back) % LENGTH];
        const bool first_before = back == (under_way ? 2 : 1);
        add("%s%s",
            under_way && back == 1 ? "; in "
            : first_before         ? "; queued before: "
                                   : ", ",
            it.operation);
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
