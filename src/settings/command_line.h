/*
 * command_line.h: how argv, a --config file, a preset and a checkpoint's config.ini become a Config.
 */
#ifndef COMMAND_LINE_H
#define COMMAND_LINE_H

#include "config.h"

/* Fills in defaults, `base` (the config.ini of a checkpoint to go on from, or NULL), the preset, the config
 * files in their order and the command line. A file may be a pipe: it is read once. Exits 2 on anything
 * wrong. The texts in it live as long as the program. */
void config_parse(Config *config, int argc, char **argv, const char *base);

/* The same, but false with *error set where that exits 2. */
bool config_parse_arguments(Config *config, int argc, char **argv, const char *base, Error *error);

/* The same onto what *config holds already, in the place of defaults and base. */
void config_parse_over(Config *config, int argc, char **argv);

/* What a checkpoint's config.ini says by itself, numbers that "auto" came to among it. Exits 2 on anything wrong. */
void config_read_base(Config *config, const char *base);

/* The value of one text flag of the command line or else its --config files, the last that has it, or NULL;
 * before config_parse(), to find that checkpoint. Exits as config_parse() does. */
const char *config_peek(int argc, char **argv, const char *name);

/* Whether the command line holds this mode (--help). Exits as config_parse() does. */
bool config_asks(int argc, char **argv, const char *name);

#endif
