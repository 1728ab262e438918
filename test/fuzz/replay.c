/*
 * replay.c: do the inputs that fuzzing has kept still pass? A main() for one target, without libFuzzer.
 *
 *     replay_TARGET DIRECTORY|FILE...        TAP: one test for each argument
 *
 * A failure is the end of the process: the last "# FILE" is the input to blame.
 */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SECONDS_EACH = 10 }; /* make fuzz's -timeout; sanitizers and slow machines included */

static bool run_file(const char *path) {
    printf("# %s\n", path);
    fflush(stdout);
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) return false;
    const long size = ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(size > 0 ? (size_t)size : 1); /* exact: the sanitizer knows its end */
    if (!bytes || size < 0 || fread(bytes, 1, (size_t)size, file) != (size_t)size) return false;
    fclose(file);
    const clock_t begin = clock(); /* of this process: another may hold the machine */
    LLVMFuzzerTestOneInput(bytes, (size_t)size);
    free(bytes);
    return (clock() - begin) / CLOCKS_PER_SEC <= SECONDS_EACH;
}

/* How many files were run; −1 after a failure. */
static int run(const char *path) {
    struct dirent **names;
    const int count = scandir(path, &names, NULL, alphasort);
    int files = 0;
    if (count < 0) return run_file(path) ? 1 : -1;
    for (int i = 0; i < count; i++) {
        char inner[4096];
        snprintf(inner, sizeof inner, "%s/%s", path, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && files >= 0) files = run_file(inner) ? files + 1 : -1;
        free(names[i]);
    }
    free(names);
    return files;
}

int main(int argc, char **argv) {
    bool good = true;
    printf("1..%d\n", argc - 1);
    for (int i = 1; i < argc; i++) {
        const int files = run(argv[i]);
        good = good && files > 0;
        printf("%s %d - %s: %d inputs\n", files > 0 ? "ok" : "not ok", i, argv[i], files);
    }
    return good && argc > 1 ? 0 : 1;
}
