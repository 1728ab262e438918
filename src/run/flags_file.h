/*
 * flags_file.h: OUT/config.ini: every flag of a run, from its first moment on, for `--config OUT/config.ini --out OTHER`.
 *
 * What --resume goes by is the config.ini inside a checkpoint, not this one.
 */
#ifndef FLAGS_FILE_H
#define FLAGS_FILE_H

#include "../settings/config.h"

#include <stddef.h>

/* Writes it, or replaces in one moment what an earlier run has written there. A file by that name which somebody else
 * has written stays. Where this fails the run goes on: a line on stderr says why. */
void flags_file_write(const Config *config);

#endif
