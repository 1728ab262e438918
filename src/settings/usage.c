/* usage.c: see usage.h. */
#include "usage.h"
#include "command_line.h"
#include "flags.h"
#include "variant.h"
#include "../base/output.h"

#include <stdlib.h>

static void print_help(void) {
    printf("train_gpt: pretrains GPT- and LLaMA-style language models.\n\n"
           "  train_gpt --preset tiny --train-data 'DIR/x_train_*.bin' --val-data 'DIR/x_val_*.bin' --out RUN\n"
           "  train_gpt --resume RUN --generate \"Once\"\n\n"
           "Flags are --name value or --name=value. A --config FILE holds them as `name = value` lines.\n"
           "-h is --help, -V is --version; _ in a name is read as -.\n");
    for (int g = 0; g < FLAG_GROUP_COUNT; g++) {
        printf("\n%s\n", FLAG_GROUPS[g].title);
        for (int i = 0; i < FLAG_GROUPS[g].count; i++) {
            const Flag *flag = &FLAG_GROUPS[g].flags[i];
            const char *value = flag->type == FLAG_MODE     ? ""
                                : flag->type == FLAG_CHOICE ? flag->choices
                                : flag->type == FLAG_SET    ? "WORD,WORD…"
                                : flag->type == FLAG_TEXT   ? "TEXT"
                                                            : "N";
            char left[128];
            snprintf(left, sizeof left, "--%s %s", flag->name, value);
            printf("  %-40s %s", left, flag->help);
            if (flag->fallback) printf(" [%s]", flag->fallback);
            printf("\n");
        }
    }
    printf("\npresets\n");
    for (int i = 0; i < PRESET_COUNT; i++)
        printf("  %-12s %s\n               %s\n", PRESETS[i].name, PRESETS[i].help, PRESETS[i].settings);
    printf("\nexit codes: 0 done, 1 the machine failed, 2 bad usage or input, 3 training diverged, "
           "4 another rank is gone or hangs\n");
}

#ifndef VERSION
#define VERSION "unversioned"
#endif

const char *program_version(void) { return VERSION; }

static void print_version(void) {
    printf("train_gpt %s (%s, built with gcc %s)\n", program_version(),
#ifdef WITH_CUDA
           "cpu + cuda",
#else
           "cpu",
#endif
           __VERSION__);
}

void usage_answer(int argc, char **argv, void (*add_to_version)(void)) {
    static const struct {
        const char *mode;
        void (*print)(void);
    } ANSWERS[] = {{"help", print_help}, {"version", print_version}, {"list-variants", variant_print_table}};
    for (size_t i = 0; i < sizeof ANSWERS / sizeof *ANSWERS; i++)
        if (config_asks(argc, argv, ANSWERS[i].mode)) {
            ANSWERS[i].print();
            if (ANSWERS[i].print == print_version) add_to_version();
            output_end();
            exit(EXIT_DONE);
        }
    check(argc > 1, "nothing to do: scripts/quickstart.sh trains a demo in two minutes, --smoke tries this build on "
                    "built-in data, --train-data SHARDS trains, --help lists all");
}
