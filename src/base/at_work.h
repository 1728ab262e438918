/*
 * at_work.h: how do others learn that a process which they wait for is at work, and not gone?
 *
 * A disk may take longer than others are ready to wait (deadline.h). So whoever does what others wait for says between the
 * pieces of it that it lives, and lets a call that may hang be made by another thread, to be free to say so meanwhile. A
 * process that is stopped says nothing.
 *
 * What is set here is the calling thread's own: other threads, which use the same files, have nobody who waits for them.
 */
#ifndef AT_WORK_H
#define AT_WORK_H

/* From now on tell(context) is called every so many seconds, from at_work() and at_work_during(). NULL: no more. */
void at_work_tell(double every_s, void (*tell)(void *), void *context);

/* Between two pieces of work, however short: says so to the others if it is time. */
void at_work(void);

/* Makes a call, and tells the others while it lasts; it is made by another thread then, and hands its errno over in what it
 * is given. Simply a call where nobody is to be told. */
void at_work_during(void (*call)(void *), void *context);

#endif
