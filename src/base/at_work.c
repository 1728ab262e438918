/* at_work.c: see at_work.h. */
#define _GNU_SOURCE
#include "at_work.h"
#include "deadline.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

static const double LOOK_S = 0.02; /* how often a call is asked whether it is done, once it has taken long */

static _Thread_local struct {
    void (*tell)(void *);
    void *context;
    double every_s, told; /* when, by deadline_clock() */
} here;

void at_work_tell(double every_s, void (*tell)(void *), void *context) {
    here.tell = tell;
    here.context = context;
    here.every_s = every_s;
    here.told = deadline_clock();
}

void at_work(void) {
    if (!here.tell || deadline_clock() - here.told < here.every_s) return;
    here.tell(here.context);
    here.told = deadline_clock();
}

typedef struct Call {
    void (*call)(void *);
    void *context;
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    bool done;
} Call;

static void *make(void *call) {
    Call *c = call;
    c->call(c->context);
    pthread_mutex_lock(&c->mutex);
    c->done = true;
    pthread_cond_signal(&c->ended);
    pthread_mutex_unlock(&c->mutex);
    return NULL;
}

/* Until it is done, or for a moment. */
static bool wait_a_moment(Call *c) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_nsec += (long)(LOOK_S * 1e9);
    if (end.tv_nsec >= 1000000000) end.tv_sec++, end.tv_nsec -= 1000000000;
    pthread_mutex_lock(&c->mutex);
    for (int status = 0; !c->done && status != ETIMEDOUT;) status = pthread_cond_timedwait(&c->ended, &c->mutex, &end);
    const bool done = c->done;
    pthread_mutex_unlock(&c->mutex);
    return done;
}

void at_work_during(void (*call)(void *), void *context) {
    Call c = {.call = call, .context = context, .mutex = PTHREAD_MUTEX_INITIALIZER};
    pthread_condattr_t attributes;
    pthread_t thread;
    at_work();
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&c.ended, &attributes);
    pthread_condattr_destroy(&attributes);
    if (!here.tell || pthread_create(&thread, NULL, make, &c)) { /* no thread to be had: then nobody is told */
        call(context);
    } else {
        while (!wait_a_moment(&c)) at_work();
        pthread_join(thread, NULL);
    }
    pthread_cond_destroy(&c.ended);
    at_work();
}
