/* deadline.c: see deadline.h. */
#define _GNU_SOURCE
#include "deadline.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double MOMENT_S = 2, LETTING_GO_S = 10;

static pthread_t watcher;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t lifted;
static bool is_lifted;
static struct timespec end;
static char line[sizeof((Error *)0)->text];

double deadline_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void *watch(void *unused) {
    (void)unused;
    int status = 0;
    pthread_mutex_lock(&mutex);
    while (!is_lifted && status != ETIMEDOUT) status = pthread_cond_timedwait(&lifted, &mutex, &end);
    if (!is_lifted) {
        if (line[0]) {
            warn("%s", line);
            usleep((useconds_t)(MOMENT_S * 1e6));
        }
        fflush(NULL);
        _exit(EXIT_RANKS);
    }
    pthread_mutex_unlock(&mutex);
    return NULL;
}

static int start_watching(double seconds) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&lifted, &attributes);
    pthread_condattr_destroy(&attributes);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double whole = floor(seconds);
    end.tv_sec += (time_t)whole;
    end.tv_nsec += (long)((seconds - whole) * 1e9);
    if (end.tv_nsec >= 1000000000) end.tv_sec++, end.tv_nsec -= 1000000000;
    is_lifted = false;
    return pthread_create(&watcher, NULL, watch, NULL);
}

void deadline_set(double seconds, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    int status = start_watching(seconds);
    require(status == 0, "no thread to watch over a wait: %s", strerror(status));
}

void deadline_lift(void) {
    pthread_mutex_lock(&mutex);
    is_lifted = true;
    pthread_cond_signal(&lifted);
    pthread_mutex_unlock(&mutex);
    pthread_join(watcher, NULL);
    pthread_cond_destroy(&lifted);
}

void deadline_end(bool others_wait, void (*let_go)(void), const char *format, ...) {
    char said[sizeof line];
    va_list args;
    va_start(args, format);
    vsnprintf(said, sizeof said, format, args);
    va_end(args);
    warn("%s", said);
    if (others_wait) usleep((useconds_t)(MOMENT_S * 1e6));
    line[0] = '\0';
    if (let_go && start_watching(LETTING_GO_S) == 0) let_go();
    fflush(NULL);
    _exit(EXIT_RANKS);
}
