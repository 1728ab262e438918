/*
 * stop.h: SIGTERM, SIGINT, SIGUSR1 and SIGHUP (a terminal that was closed; not under nohup) as requests.
 *
 * A thread of its own waits for them; in every other thread they are blocked. A handler would run on the stack of
 * whichever thread was hit, and a GEMM library's generated code may have its stack pointer in a buffer of its own, where
 * the kernel's signal frame overwrites what lies below (seen with oneDNN: a corrupted heap).
 */
#ifndef STOP_H
#define STOP_H

/* Blocks the signals and starts the watcher. To be called before any other thread starts. Until stop_as_request() they
 * end the process, as they do by default. */
void stop_watch(void);

/* From now on the first signal only asks: stop_requested() names it. A second SIGINT ends the process at once (130). */
void stop_as_request(void);

/* "SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP", or NULL. */
const char *stop_requested(void);

#endif
