/* eval_out.c: see eval_out.h. */
#define _GNU_SOURCE
#include "eval_out.h"
#include "../base/directory.h"
#include "../base/file.h"

#include <stdio.h>
#include <stdlib.h>

struct EvalOut {
    FILE *file;
    const char *path;
    char partial[PATH_SIZE];
};

EvalOut *eval_out_open(const char *path) {
    struct stat status;
    if (!path) return NULL;
    EvalOut *out = must_calloc(1, sizeof *out, "--eval-out");
    out->path = path;
    check(snprintf(out->partial, PATH_SIZE, "%s.partial", path) < PATH_SIZE,
          "--eval-out %.200s…: the path is too long", path);
    check(lstat(path, &status) != 0 || S_ISREG(status.st_mode), "--eval-out %s: there is something that is no file",
          path);
    const int fd = open(out->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
    check(fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode), "--eval-out %s: cannot create: %s",
          out->partial, fd < 0 ? strerror(errno) : "there is something that is no file");
    out->file = fdopen(fd, "w");
    require(out->file, "--eval-out %s: %s", out->partial, strerror(errno));
    return out;
}

/* A text as JSON has it; bytes that are no UTF-8 as '?'. */
static void put_text(EvalOut *out, const char *text) {
    Error clean;
    error_set(&clean, "%s", text);
    cJSON *string = cJSON_CreateString(clean.text);
    char *json = cJSON_PrintUnformatted(string);
    fputs(json ? json : "null", out->file);
    cJSON_free(json);
    cJSON_Delete(string);
}

void eval_out_item(EvalOut *out, const char *file, const Answer *answer, const int picks[3]) {
    static const char *const NAMES[3] = {"acc", "acc_norm", "acc_bytes"};
    const Item *item = &answer->item;
    if (!out) return;
    fputs("{\"file\":", out->file);
    put_text(out, file);
    fprintf(out->file, ",\"row\":%lld", (long long)answer->row);
    if (item->last_word) fprintf(out->file, ",\"greedy\":%s", answer->likeliest ? "true" : "false");
    else fprintf(out->file, ",\"answer\":%d", item->answer);
    for (int i = 0; i < 3 && !item->last_word; i++)
        if (picks[i] >= 0) fprintf(out->file, ",\"%s\":%d", NAMES[i], picks[i]);
    for (int i = 0; i < item->choices; i++)
        fprintf(out->file, "%s%.12g", i ? "," : ",\"loglikelihoods\":[", answer->likelihood[i]);
    fputs("]}\n", out->file);
}

void eval_out_result(EvalOut *out, const cJSON *result) {
    char *text = out ? cJSON_PrintUnformatted(result) : NULL;
    if (text) fprintf(out->file, "%s\n", text);
    cJSON_free(text);
}

void eval_out_drop(EvalOut *out) {
    if (!out) return;
    fclose(out->file);
    unlink(out->partial);
    free(out);
}

void eval_out_finish(EvalOut *out) {
    if (!out) return;
    bool good = fflush(out->file) == 0 && !ferror(out->file) && fsync(fileno(out->file)) == 0;
    good = good && rename(out->partial, out->path) == 0;
    if (good) {
        fclose(out->file);
        free(out);
        return;
    }
    const int reason = errno;
    unlink(out->partial);
    fail(EXIT_RUNTIME, "--eval-out %s: cannot write: %s", out->path, strerror(reason));
}
