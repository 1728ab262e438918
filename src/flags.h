/*
 * flags.h: the table behind config.h. Adding a flag: a field in struct Config, a row in src/flags.c.
 */
#ifndef FLAGS_H
#define FLAGS_H

#include "config.h"

typedef enum FlagType {
    FLAG_INT,    /* int64_t in [min, max] */
    FLAG_REAL,   /* double in [min, max]; never NaN or infinite */
    FLAG_TEXT,   /* const char *, NULL while not given */
    FLAG_CHOICE, /* int64_t: position in `choices` */
    FLAG_MODE,   /* int64_t: 1 if given; takes no value */
} FlagType;

typedef struct Flag {
    const char *name;     /* without the dashes */
    FlagType type;
    size_t offset;        /* of the field in Config */
    const char *fallback; /* default as text; "auto" for a number that is worked out; NULL for no text */
    double min, max;      /* of numbers; of a text's length in bytes */
    const char *choices;  /* words separated by '|' */
    const char *help;
} Flag;

typedef struct Preset {
    const char *name;
    const char *settings; /* "n-layer=12 n-embd=768 …" */
    const char *help;
} Preset;

typedef struct FlagGroup {
    const char *title;
    const Flag *flags;
    int count;
} FlagGroup;

extern const FlagGroup FLAG_GROUPS[];
extern const int FLAG_GROUP_COUNT;
extern const Preset PRESETS[];
extern const int PRESET_COUNT;

#endif
