/*
 * usage.h: what the program says of itself without running: --help, --version, --list-variants.
 */
#ifndef USAGE_H
#define USAGE_H

/* Prints what the command line asks for and exits 0, or returns. Exits 2 on a command line that cannot be read, or
 * holds nothing. add_to_version prints what --version says beside that. */
void usage_answer(int argc, char **argv, void (*add_to_version)(void));

/* The version that this build was made from, as git describes it. */
const char *program_version(void);

#endif
