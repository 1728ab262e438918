/* stop.c: see stop.h. */
#include "stop.h"
#include "../base/check.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

static atomic_int requested; /* the last signal, 0 for none */
static atomic_bool as_request;
static bool watches_hangup; /* nohup has it ignored, and blocked it would be delivered to us all the same */

static sigset_t watched_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    if (watches_hangup) sigaddset(&set, SIGHUP);
    return set;
}

/* As if it had never been blocked: the parent sees which signal it was. */
static void die_of(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    signal(number, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    raise(number);
}

static void *watch(void *unused) {
    (void)unused;
    sigset_t set = watched_signals();
    bool interrupted = false;
    for (int number; sigwait(&set, &number) == 0;) {
        if (!atomic_load(&as_request)) die_of(number);
        if (number == SIGINT && interrupted) _exit(128 + SIGINT);
        interrupted = interrupted || number == SIGINT;
        atomic_store(&requested, number);
    }
    return NULL;
}

void stop_watch(void) {
    struct sigaction hangup;
    watches_hangup = sigaction(SIGHUP, NULL, &hangup) == 0 && hangup.sa_handler != SIG_IGN;
    sigset_t set = watched_signals();
    pthread_t watcher;
    int reason = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (!reason) reason = pthread_create(&watcher, NULL, watch, NULL);
    require(!reason, "no thread to watch for signals: %s", strerror(reason));
    pthread_detach(watcher);
}

void stop_as_request(void) { atomic_store(&as_request, true); }

const char *stop_requested(void) {
    switch (atomic_load(&requested)) {
    case SIGTERM: return "SIGTERM";
    case SIGINT: return "SIGINT";
    case SIGUSR1: return "SIGUSR1";
    case SIGHUP: return "SIGHUP";
    default: return NULL;
    }
}
