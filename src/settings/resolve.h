/*
 * resolve.h: what flags at "auto" are in this run, and whether the whole fits together.
 */
#ifndef RESOLVE_H
#define RESOLVE_H

#include "config.h"

/* Works out "auto" values for a run on so many ranks and checks that the whole fits together (exit 2). */
void config_resolve(Config *config, int ranks);

/* The flag, without its dashes, that asks for something other than training; NULL: none. */
const char *config_mode(const Config *config);

#endif
