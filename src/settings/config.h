/*
 * config.h: the values that a run's flags have, and how they become text and are read from it.
 *
 * The rows in src/settings/flags.c are the parser of the command line and of --config files, --help, and config.ini.
 * Values are set in this order, later ones win: default, the checkpoint that is resumed or the config.json of
 * --init-from, preset, config file, command line (command_line.h). What a flag calls "auto" is worked out from the others
 * by config_resolve() (resolve.h), which also refuses what does not fit together. What it came to is written as
 * `warmup-steps = auto (10)`: still auto where the file is read as --config; a resume keeps the 10 unless what it follows
 * from has changed (changes.h).
 */
#ifndef CONFIG_H
#define CONFIG_H

#include "flags.h"

#include <stdio.h>

/* Parses `name = value` lines (# starts a comment) of a config file into *config: a pure function over the
 * bytes. A value with a # or blanks at its ends stands in double quotes (\" \\ \xHH inside). Lines may end with \r\n,
 * names be written with _ for -, and a byte order mark stand first. A flag has one line, of two the
 * second is refused. Errors name the line. */
bool config_parse_lines(Config *config, const char *bytes, size_t size, Error *error);

/* Every flag with its present value, as `name = value` lines that --config reads back (config.ini). Modes are left out. */
void config_write(const Config *config, FILE *file);

/* Calls visit(name, value-as-text, is_number, context) for every flag that config_write writes. */
typedef void ConfigVisitor(const char *name, const char *value, bool is_number, void *context);
void config_visit(const Config *config, ConfigVisitor *visit, void *context);

/* A flag's present value as the text that sets it, in `text` where that needs room (32 bytes do); NULL: not given. */
const char *config_value(const Config *config, const Flag *flag, char *text, size_t size);

/* The word for a choice: config_choice("dtype", config->dtype) is "fp32". */
const char *config_choice(const char *flag, int64_t value);

/* Every flag that was "auto", and has come to something since, is "auto" again. */
void config_reopen(Config *config);

/* Whether it asks for text in the place of training. */
bool config_generates(const Config *config);

/* Defaults only. */
void config_defaults(Config *config);

/* Frees the texts of every Config there has been: they are undefined afterwards. For tests that parse without end. */
void config_forget_texts(void);

/* Sets one flag from text, as the command line does. */
bool config_set(Config *config, const char *name, const char *value, Error *error);

/* Sets flags from "name=value name=value …", the way presets are written: no blank in a value. */
bool config_set_all(Config *config, const char *settings, Error *error);

#endif
