/* progress.c: see progress.h. */
#include "progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { FIELD_SIZE = 48, COLUMNS_USUAL = 80, COLUMNS_MOST = 10000 };

static void write_step(const ProgressStep *s, char *text) {
    snprintf(text, FIELD_SIZE, "step %lld/%lld", (long long)s->step, (long long)s->steps);
}

static void write_loss(const ProgressStep *s, char *text) { snprintf(text, FIELD_SIZE, "loss %.4f", s->loss); }

static void write_val(const ProgressStep *s, char *text) {
    if (!isnan(s->val)) snprintf(text, FIELD_SIZE, "val %.4f", s->val);
}

static void write_lr(const ProgressStep *s, char *text) { snprintf(text, FIELD_SIZE, "lr %.2e", s->lr); }

static void write_norm(const ProgressStep *s, char *text) { snprintf(text, FIELD_SIZE, "norm %.2f", s->grad_norm); }

static void write_ms(const ProgressStep *s, char *text) { snprintf(text, FIELD_SIZE, "%.1f ms", s->ms); }

static void write_tokens(const ProgressStep *s, char *text) { snprintf(text, FIELD_SIZE, "%.0f tok/s", s->tokens_per_s); }

static void write_rate(const ProgressStep *s, char *text) {
    if (s->peak_flops > 0) snprintf(text, FIELD_SIZE, "MFU %.1f%%", 100 * s->flops / s->peak_flops);
    else snprintf(text, FIELD_SIZE, "%.0f GFLOP/s", s->flops * 1e-9);
}

static void write_left(const ProgressStep *s, char *text) {
    long left = s->seconds_left < 0 || s->seconds_left > 1e9 || isnan(s->seconds_left) ? 0 : lround(s->seconds_left);
    if (left >= 3600) snprintf(text, FIELD_SIZE, "ETA %ld:%02ld:%02ld", left / 3600, left / 60 % 60, left % 60);
    else snprintf(text, FIELD_SIZE, "ETA %ld:%02ld", left / 60, left % 60);
}

/* From left to right; where there is no room for all, those of the highest rank go first. */
static const struct {
    void (*write)(const ProgressStep *s, char *text);
    int rank;
} FIELDS[] = {{write_step, 0}, {write_loss, 1}, {write_val, 4},  {write_lr, 6},  {write_norm, 7},
              {write_ms, 5},   {write_tokens, 2}, {write_rate, 8}, {write_left, 3}};
enum { FIELD_COUNT = sizeof FIELDS / sizeof *FIELDS };

/* The fields up to a rank; returns the columns. */
static int write_fields(const ProgressStep *s, int highest, char text[PROGRESS_SIZE]) {
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < FIELD_COUNT; i++) {
        char field[FIELD_SIZE] = "";
        if (FIELDS[i].rank <= highest) FIELDS[i].write(s, field);
        if (!field[0] || used + strlen(field) + 3 > PROGRESS_SIZE) continue;
        used += (size_t)snprintf(text + used, PROGRESS_SIZE - used, "%s%s", used ? "  " : "", field);
    }
    return (int)used;
}

void progress_whole(const ProgressStep *s, char text[PROGRESS_SIZE]) { write_fields(s, FIELD_COUNT, text); }

void progress_fit(const ProgressStep *s, int columns, char text[PROGRESS_SIZE]) {
    /* A row that is full makes some terminals begin the next one. */
    int most = columns - 1, highest = FIELD_COUNT;
    while (highest > 0 && write_fields(s, highest, text) > most) highest--;
    if (highest > 0) return;
    /* Less than step and loss: without their names, then without what stands behind the number of the step. */
    if (snprintf(text, PROGRESS_SIZE, "%lld/%lld %.4f", (long long)s->step, (long long)s->steps, s->loss) <= most) return;
    if (snprintf(text, PROGRESS_SIZE, "%lld %.4f", (long long)s->step, s->loss) <= most) return;
    text[most > 0 ? most : 0] = '\0';
}

bool terminal_rewrites(void) {
    const char *kind = getenv("TERM");
    if (getenv("OMPI_COMM_WORLD_RANK")) return false;
    return isatty(STDOUT_FILENO) && kind && kind[0] && strcmp(kind, "dumb") != 0;
}

int terminal_columns(void) {
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col < COLUMNS_MOST ? size.ws_col : COLUMNS_MOST;
    const char *said = getenv("COLUMNS");
    long columns = said ? strtol(said, NULL, 10) : 0;
    return columns > 0 && columns <= COLUMNS_MOST ? (int)columns : COLUMNS_USUAL;
}
