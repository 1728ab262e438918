/* suggest.c: see suggest.h. */
#define _GNU_SOURCE
#include "suggest.h"
#include "../base/utf8.h"
#include "aliases.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { LONGEST = 64, NAMES_MOST = 256, NEAR_MOST = 3 };

static int least(int a, int b) { return a < b ? a : b; }

/* Letters without case, and one mark between words. */
static char folded(char c) { return c == '_' ? '-' : (char)tolower((unsigned char)c); }

/* Edits between two words: a letter more, less or another, or two neighbours exchanged. Words longer than the rows are
 * never near. */
static int edit_distance(const char *a, const char *b) {
    int n = (int)strlen(a), m = (int)strlen(b), rows[3][LONGEST + 1];
    if (n > LONGEST || m > LONGEST) return LONGEST;
    for (int j = 0; j <= m; j++) rows[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *row = rows[i % 3], *above = rows[(i + 2) % 3], *two_above = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            bool same = folded(a[i - 1]) == folded(b[j - 1]);
            row[j] = least(above[j - 1] + !same, least(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && folded(a[i - 1]) == folded(b[j - 2]) && folded(a[i - 2]) == folded(b[j - 1]))
                row[j] = least(row[j], two_above[j - 2] + 1);
        }
    }
    return rows[n % 3][m];
}

static bool is_near(const char *a, const char *b, int distance) {
    size_t n = strlen(a), m = strlen(b);
    return distance <= (int)(n > m ? n : m) / 3;
}

static int count_words(const char *name) {
    int count = 1;
    for (; *name; name++) count += folded(*name) == '-';
    return count;
}

/* Whether each word of `part` is one of `whole`. */
static bool holds_words(const char *whole, const char *part) {
    while (*part) {
        size_t length = strcspn(part, "-_");
        const char *at = whole;
        for (; *at; at += strcspn(at, "-_"), at += *at != '\0')
            if (strcspn(at, "-_") == length && strncasecmp(at, part, length) == 0) break;
        if (length == 0 || !*at) return false;
        part += length + (part[length] != '\0');
    }
    return true;
}

/* --size-batch, --val-data-path: our words in another order, or two of them and one more. */
static bool has_its_words(const char *wrong, const char *name) {
    int more = count_words(wrong) - count_words(name);
    return (more == 0 || (more == 1 && count_words(name) > 1)) && holds_words(wrong, name);
}

static bool begins_with(const char *name, const char *start) {
    return strlen(start) >= 3 && strncasecmp(name, start, strlen(start)) == 0;
}

/* The names that a wrong one may stand for, at most NEAR_MOST; 0 if there is none or too many. */
static int find_near(const char *wrong, const char *const *names, int count, const char *near[NEAR_MOST]) {
    int found = 0, best = LONGEST;
    for (int i = 0; i < count; i++)
        if (has_its_words(wrong, names[i])) return near[0] = names[i], 1;
    for (int i = 0; i < count; i++) {
        int distance = edit_distance(wrong, names[i]);
        if (!is_near(wrong, names[i], distance) || distance > best) continue;
        if (distance < best) found = 0;
        best = distance;
        if (found < NEAR_MOST) near[found++] = names[i];
    }
    if (found) return found;
    for (int i = 0; i < count; i++) {
        if (!begins_with(names[i], wrong)) continue;
        if (found == NEAR_MOST) return 0;
        near[found++] = names[i];
    }
    return found;
}

/* "; the nearest is --lr"; "" where nothing is near. */
static void write_near(const char *wrong, const char *const *names, int count, const char *dashes, char text[256]) {
    const char *near[NEAR_MOST];
    int found = find_near(wrong, names, count, near);
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < found; i++)
        used += (size_t)snprintf(text + used, 256 - used, "%s%s%s",
                                 i ? ", " : found == 1 ? "; the nearest is " : "; the nearest are ", dashes, near[i]);
}

/* ------------------------------------------------------------------------------------------------------
 * Names
 * ---------------------------------------------------------------------------------------------------- */

static int flag_names(const char *names[NAMES_MOST]) {
    int count = 0;
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count && count < NAMES_MOST; i++)
            names[count++] = FLAG_GROUPS[g].flags[i].name;
    return count;
}

static bool refuse_alias(const char *dashes, const char *name, const Alias *alias, Error *error) {
    if (!alias->flag) return error_set(error, "%s%s: no such flag; %s", dashes, name, alias->note);
    return error_set(error, "%s%s: no such flag; here it is --%s%s%s", dashes, name, alias->flag,
                     alias->note ? ": " : "", alias->note ? alias->note : "");
}

static bool is_switch(const Flag *flag) {
    return flag && flag->type == FLAG_CHOICE && strstr(flag->choices, "off") && strstr(flag->choices, "on");
}

bool refuse_name(const char *name, Error *error) {
    const char *names[NAMES_MOST];
    char near[256];
    unsigned blank = utf8_odd_blank(name, name + strlen(name));
    if (blank)
        return error_set(error, "--%.100s: no such flag: its name holds U+%04X, a blank that is no space", name, blank);
    if (strncmp(name, "--", 2) == 0 && flag_find(name + 2))
        return error_set(error, "%s: no such flag; it is %s", name, flag_find(name + 2)->name);
    const Alias *alias = alias_find(name);
    if (alias) return refuse_alias("--", name, alias, error);
    const char *point = strrchr(name, '.'); /* torchtitan's section.name */
    if (point && flag_find(point + 1))
        return error_set(error, "--%s: no such flag; here it is --%s", name, flag_find(point + 1)->name);
    if (strncasecmp(name, "no-", 3) == 0 && is_switch(flag_find(name + 3)))
        return error_set(error, "--%s: no such flag; here it is --%s off", name, flag_find(name + 3)->name);
    write_near(name, names, flag_names(names), "--", near);
    return error_set(error, "--%.128s: no such flag%s", name, near[0] ? near : "; --help lists all");
}

/* ------------------------------------------------------------------------------------------------------
 * Words without dashes
 * ---------------------------------------------------------------------------------------------------- */

static bool is_file(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && !S_ISDIR(status.st_mode);
}

/* The glob that a shell may have made these two of: what begins and ends them, and a * between. */
static void guess_glob(const char *a, const char *b, char glob[256]) {
    size_t n = strlen(a), m = strlen(b), most = n < m ? n : m, head = 0, tail = 0;
    while (head < most && a[head] == b[head]) head++;
    while (tail < most - head && a[n - 1 - tail] == b[m - 1 - tail]) tail++;
    /* A * stands for digits from their first one on: x_0009 and x_0010 are x_*, not x_00*. */
    while (head && isdigit((unsigned char)a[head - 1])) head--;
    while (tail && isdigit((unsigned char)a[n - tail])) tail--;
    /* No half of a character, and none of a directory that they do not share. */
    while (head && ((unsigned char)a[head] & 0xc0) == 0x80) head--;
    while (tail && ((unsigned char)a[n - tail] & 0xc0) == 0x80) tail--;
    snprintf(glob, 256, "%.*s*%s", (int)head, a, a + n - tail);
}

/* A long dash of a word processor in the place of the hyphens: U+2010 to U+2015, U+2212. */
static bool begins_with_long_dash(const char *word) {
    const unsigned char *at = (const unsigned char *)word;
    return at[0] == 0xe2 && ((at[1] == 0x80 && at[2] >= 0x90 && at[2] <= 0x95) || (at[1] == 0x88 && at[2] == 0x92));
}

static bool refuse_dash(const char *word, Error *error) {
    char name[128];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 1, "="), word + 1);
    const Alias *alias = alias_find(word);
    if (alias) return refuse_alias("", word, alias, error);
    if (flag_find(name)) return error_set(error, "'%s': flags begin with two dashes: -%s", word, word);
    return error_set(error, "'%s' is not a flag; flags are --name value (see --help)", word);
}

bool refuse_word(const char *word, const Flag *before, const char *value, Error *error) {
    char name[128], glob[256];
    if (begins_with_long_dash(word))
        return error_set(error, "'%s' begins with a long dash, as copied text may; flags begin with two hyphens: --%s", word,
                         word + 3 + 3 * begins_with_long_dash(word + 3));
    if (word[0] == '-') return refuse_dash(word, error);
    if (is_file(word) && before && before->type == FLAG_TEXT && is_file(value)) {
        guess_glob(value, word, glob);
        return error_set(error, "'%.128s' is a second file behind --%s: a pattern that names several is quoted: --%s '%.160s'", word,
                         before->name, before->name, glob);
    }
    size_t span = strcspn(word, "=");
    snprintf(name, sizeof name, "%.*s", (int)span, word);
    const Flag *flag = word[span] ? flag_find(name) : NULL;
    if (flag) return error_set(error, "'%s' is not a flag; two dashes make it one: --%s", word, word);
    size_t length = strlen(word);
    const char *ending = length > 4 ? word + length - 4 : "";
    if (is_file(word) && (!strcmp(ending, ".ini") || !strcmp(ending, ".cfg") || !strcmp(ending, ".txt")))
        return error_set(error, "'%s' is not a flag; a file of flags is --config %s", word, word);
    return error_set(error, "'%s' is not a flag; flags are --name value (see --help)", word);
}

/* ------------------------------------------------------------------------------------------------------
 * Choices
 * ---------------------------------------------------------------------------------------------------- */

bool refuse_choice(const char *flag, const char *value, const char *choices, char separator, Error *error) {
    const char *names[NAMES_MOST];
    char copy[1024], hint[256] = "", marks[2] = {separator, '\0'}, *state = NULL;
    int count = 0;
    snprintf(copy, sizeof copy, "%s", choices);
    for (char *word = strtok_r(copy, marks, &state); word && count < NAMES_MOST; word = strtok_r(NULL, marks, &state))
        names[count++] = word + strspn(word, " ");
    const WordAlias *alias = word_alias_find(flag, value);
    size_t length = alias ? strcspn(alias->word, ";") : 0;
    unsigned blank = utf8_odd_blank(value, value + strlen(value));
    for (int i = 0; alias && i < count; i++)
        if (strlen(names[i]) == length && strncmp(names[i], alias->word, length) == 0)
            snprintf(hint, sizeof hint, "; here it is %s", alias->word);
    if (blank) snprintf(hint, sizeof hint, "; it holds U+%04X, a blank that is no space", blank);
    if (!hint[0]) write_near(value, names, count, "", hint);
    return error_set(error, "--%s: '%.100s' is not one of %s%s", flag, value, choices, hint);
}
