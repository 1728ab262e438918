/*
 * changes.h: what does a resume make of the flags of the run that it goes on with?
 *
 * A checkpoint's config.ini lies below the command line: a flag given there changes the run from here on. What was
 * "auto" stays auto: it keeps the number that it came to, so that a run goes on in the same bits under a version whose
 * "auto" means something else, unless what it follows from has changed: --batch-size 8 takes --total-batch-tokens
 * with it where nobody set that, --steps the warmup. Device and type are worked out for this machine.
 */
#ifndef CHANGES_H
#define CHANGES_H

#include "config.h"

/* Before config_resolve(): gives the flags of `config` at "auto" what they came to in the checkpoint's config.ini
 * (config_read_base()), where they would still come to the same; and the checkpoint's that an older build left open what
 * they are. Exits as config_resolve() does. */
void config_follow(Config *config, Config *theirs);

enum { CHANGE_TEXT = 64 };

typedef struct Change {
    const Flag *flag;
    char from[CHANGE_TEXT], to[CHANGE_TEXT]; /* for people: numbers of at most nine digits */
    bool follows;                            /* nobody set it: it is auto, and comes to something else now */
} Change;

/* The numbers and words that differ and say something about the run: not how often it tells, nor how long it may take.
 * Returns how many. To be asked after config_resolve() and device_open(). */
int changes_find(const Config *theirs, const Config *ours, Change changes[FLAGS_MOST]);

/* Whether the flag can hardly have been meant: --allow-change says that it was. */
bool change_needs_consent(const Change *change);

#endif
