/*
 * sidecar.h: which set a shard is a part of, and which file tells of that set?
 *
 * data/shards.py writes DIR/NAME_train_000000.bin and on, DIR/NAME_val_000000.bin and on, and DIR/NAME.json. A shard of
 * another name is of no set.
 */
#ifndef SIDECAR_H
#define SIDECAR_H

#include "../base/directory.h"

typedef struct SetPart {
    char stem[PATH_SIZE]; /* DIR/NAME */
    char split[8];        /* "train" or "val" */
} SetPart;

/* False for a name of another form; *part is then undefined. */
bool sidecar_part(const char *shard, SetPart *part);

/* DIR/NAME.json, whether or not there is one. False where the path is too long. */
bool sidecar_path(const SetPart *part, char path[PATH_SIZE]);

#endif
