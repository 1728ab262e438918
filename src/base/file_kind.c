/* file_kind.c: see file_kind.h. */
#define _GNU_SOURCE
#include "file_kind.h"
#include "file.h"
#include "utf8.h"

#include <ctype.h>
#include <stdbool.h>

typedef struct Bytes {
    const unsigned char *at;
    size_t size;
    uint64_t file_size;
} Bytes;

static bool has(const Bytes *b, size_t offset, const void *magic, size_t length) {
    return b->size >= offset + length && memcmp(b->at + offset, magic, length) == 0;
}

/* What begins with bytes of its own. */
static FileKind by_magic(const Bytes *b) {
#define MAGIC(offset, text, name, holds) { offset, text, sizeof text - 1, { name, FILE_HOLDS_##holds } }
    static const struct {
        size_t offset;
        const char *magic;
        size_t length;
        FileKind kind;
    } ROWS[] = {
        MAGIC(0, "\x1f\x8b", "a gzip file", TEXT),
        MAGIC(0, "\xfd" "7zXZ\0", "an xz file", TEXT),
        MAGIC(0, "BZh", "a bzip2 file", TEXT),
        MAGIC(0, "\x28\xb5\x2f\xfd", "a zstd file", TEXT),
        MAGIC(0, "\x04\x22\x4d\x18", "an lz4 file", OTHER),
        MAGIC(0, "7z\xbc\xaf\x27\x1c", "a 7z archive", OTHER),
        MAGIC(257, "ustar", "a tar archive", OTHER),
        MAGIC(0, "PAR1", "a Parquet file", OTHER),
        MAGIC(0, "ARROW1", "an Arrow file", OTHER),
        MAGIC(0, "\xff\xff\xff\xff", "an Arrow stream (a Hugging Face dataset's file)", OTHER),
        MAGIC(0, "\x93NUMPY", "a numpy array (.npy)", OTHER),
        MAGIC(0, "\x89HDF\r\n", "an HDF5 file", OTHER),
        MAGIC(0, "GGUF", "a GGUF model", WEIGHTS),
        MAGIC(0, "MMIDIDX\0\0", "the index (.idx) of a Megatron data set", OTHER),
        MAGIC(0, "TNTIDX\0\0", "the index (.idx) of a fairseq or Megatron data set", OTHER),
        MAGIC(0, "SQLite format 3\0", "an SQLite database", OTHER),
        MAGIC(0, "%PDF", "a PDF", OTHER),
        MAGIC(0, "\x7f" "ELF", "an executable or library", OTHER),
        MAGIC(0, "\x89PNG", "a picture", OTHER),
        MAGIC(0, "\xff\xd8\xff", "a picture", OTHER),
        MAGIC(0, "version https://git-lfs", "a Git LFS pointer: the file itself was not downloaded", OTHER),
        MAGIC(0, "\xff\xfe", "text in UTF-16", OTHER),
        MAGIC(0, "\xfe\xff", "text in UTF-16", OTHER),
    };
#undef MAGIC
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (has(b, ROWS[i].offset, ROWS[i].magic, ROWS[i].length)) return ROWS[i].kind;
    return (FileKind){0};
}

/* llm.c's files begin with a number: so do shards, which are one kind of them. */
static FileKind by_number(const Bytes *b) {
    static const struct {
        uint32_t number;
        FileKind kind;
    } ROWS[] = {
        {20240520, {"a token shard (uint16)", FILE_HOLDS_SHARD}},
        {20240801, {"a token shard (uint32)", FILE_HOLDS_SHARD}},
        {__builtin_bswap32(20240520), {"a token shard in the other byte order", FILE_HOLDS_TOKENS}},
        {__builtin_bswap32(20240801), {"a token shard in the other byte order", FILE_HOLDS_TOKENS}},
        {20240326, {"a GPT-2 model of llm.c", FILE_HOLDS_WEIGHTS}},
        {20240803, {"a LLaMA model of llm.c", FILE_HOLDS_WEIGHTS}},
        {20240327, {"a debug state of llm.c", FILE_HOLDS_WEIGHTS}},
        {20240527, {"a training state of llm.c", FILE_HOLDS_WEIGHTS}},
        {20240328, {"a tokenizer of llm.c", FILE_HOLDS_OTHER}},
        {20240522, {"an evaluation set of llm.c", FILE_HOLDS_OTHER}},
    };
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++)
        if (has(b, 0, &ROWS[i].number, sizeof ROWS[i].number)) return ROWS[i].kind;
    return (FileKind){0};
}

/* PyTorch's files since 1.6, numpy's .npz and much else are zip archives: the first member's name tells. */
static FileKind by_zip(const Bytes *b) {
    if (!has(b, 0, "PK\3\4", 4)) return (FileKind){0};
    size_t length = b->size >= 30 ? (size_t)b->at[26] + 256 * (size_t)b->at[27] : 0;
    if (length && length > b->size - 30) length = 0;
    const char *name = (const char *)b->at + 30;
    if (length && memmem(name, length, "data.pkl", 8)) return (FileKind){"a PyTorch file (a pickle)", FILE_HOLDS_WEIGHTS};
    if (length > 4 && memcmp(name + length - 4, ".npy", 4) == 0)
        return (FileKind){"numpy arrays (.npz)", FILE_HOLDS_OTHER};
    return (FileKind){"a zip archive", FILE_HOLDS_OTHER};
}

/* A safetensors file: the header's length, then JSON. A pickle: protocol 2 to 5 and an opcode that begins one. */
static FileKind by_structure(const Bytes *b) {
    uint64_t length = 0;
    if (b->size > 8) memcpy(&length, b->at, sizeof length);
    if (length >= 2 && length < b->file_size && b->file_size - length >= 8 && has(b, 8, "{", 1) &&
        (has(b, 9, "\"", 1) || has(b, 9, "}", 1)))
        return (FileKind){"a safetensors file", FILE_HOLDS_WEIGHTS};
    if (b->size > 2 && b->at[0] == 0x80 && b->at[1] >= 2 && b->at[1] <= 5) {
        if (has(b, 2, "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 12))
            return (FileKind){"a PyTorch file (a pickle)", FILE_HOLDS_WEIGHTS};
        if (strchr("}](cX\x95\x8a", b->at[2]) && b->at[2]) return (FileKind){"a Python pickle", FILE_HOLDS_OTHER};
    }
    return (FileKind){0};
}

/* Whether the bytes read as text: UTF-8 (a sequence cut at the end counts), or some other extension of ASCII. */
static bool is_text(const Bytes *b, bool *utf8) {
    *utf8 = true;
    for (size_t i = 0, length; i < b->size; i += length) {
        if ((b->at[i] < ' ' && !strchr("\t\n\f\r\x1b\b", b->at[i])) || b->at[i] == 0 || b->at[i] == 0x7f) return false;
        length = utf8_length(b->at + i, b->size - i);
        if (!length && b->size - i >= 4) *utf8 = false;
        length = length ? length : 1;
    }
    return true;
}

static bool begins_html(const Bytes *b) {
    static const char *const WORDS[] = {"<!doctype html", "<html"};
    for (size_t w = 0; w < sizeof WORDS / sizeof *WORDS; w++)
        if (b->size >= strlen(WORDS[w]) && strncasecmp((const char *)b->at, WORDS[w], strlen(WORDS[w])) == 0) return true;
    return false;
}

static FileKind by_text(const Bytes *b) {
    bool utf8;
    if (!is_text(b, &utf8)) return (FileKind){0};
    if (begins_html(b)) return (FileKind){"an HTML page, maybe a failed download", FILE_HOLDS_TEXT};
    size_t at = has(b, 0, "\xef\xbb\xbf", 3) ? 3 : 0;
    while (at < b->size && isspace(b->at[at])) at++;
    size_t next = at + 1;
    while (next < b->size && isspace(b->at[next])) next++;
    if (has(b, at, "{", 1) && (has(b, next, "\"", 1) || has(b, next, "}", 1)))
        return (FileKind){"JSON", FILE_HOLDS_TEXT};
    if (has(b, at, "[", 1) && (has(b, next, "{", 1) || has(b, next, "\"", 1))) return (FileKind){"JSON", FILE_HOLDS_TEXT};
    return (FileKind){utf8 ? "text" : "text that is not UTF-8", FILE_HOLDS_TEXT};
}

/* Token ids without a header have no mark but their size: every uint16 is below the largest vocabulary of that width
 * in use (GPT-2's, padded), or every uint32 has nothing in its upper part. Of random bytes 16 words pass in 1.4 %. */
static FileKind by_words(const Bytes *b) {
    enum { LEAST = 16, LARGEST_16 = 50304, LARGEST_32 = 1 << 20 };
    size_t zeros = 0;
    bool narrow = b->size >= 2 * LEAST && b->file_size % 2 == 0, wide = b->size >= 4 * LEAST && b->file_size % 4 == 0;
    for (size_t i = 0; i < b->size; i++) zeros += b->at[i] == 0;
    if (zeros == b->size) return (FileKind){"nothing but zeros where it begins", FILE_HOLDS_OTHER};
    for (size_t i = 0; i + 2 <= b->size; i += 2)
        narrow = narrow && (b->at[i] | b->at[i + 1] << 8) < LARGEST_16;
    for (size_t i = 0; i + 4 <= b->size; i += 4)
        wide = wide && b->at[i + 3] == 0 && (b->at[i] | b->at[i + 1] << 8 | b->at[i + 2] << 16) < LARGEST_32;
    if (wide) return (FileKind){"token ids without a header (uint32 or int32, as of Megatron)", FILE_HOLDS_TOKENS};
    if (narrow) return (FileKind){"token ids without a header (uint16, as of nanoGPT or Megatron)", FILE_HOLDS_TOKENS};
    return (FileKind){0};
}

FileKind file_kind(const void *bytes, size_t size, uint64_t file_size) {
    static FileKind (*const GUESSES[])(const Bytes *) = {by_magic, by_number, by_zip, by_structure, by_text, by_words};
    const Bytes b = {bytes, size < FILE_KIND_BYTES ? size : FILE_KIND_BYTES, file_size};
    if (file_size == 0 || size == 0) return (FileKind){"an empty file", FILE_HOLDS_OTHER};
    FileKind kind = {0};
    for (size_t i = 0; !kind.name && i < sizeof GUESSES / sizeof *GUESSES; i++) kind = GUESSES[i](&b);
    return kind;
}

FileKind file_kind_at(const char *path) {
    struct stat status;
    unsigned char bytes[FILE_KIND_BYTES];
    uint64_t file_size;
    Error ignored;
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) return (FileKind){"a directory", FILE_HOLDS_OTHER};
    const int fd = file_open(path, &file_size, &ignored);
    if (fd < 0) return (FileKind){0};
    const ssize_t n = file_read(fd, bytes, sizeof bytes, 0);
    close(fd);
    return n < 0 ? (FileKind){0} : file_kind(bytes, (size_t)n, file_size);
}
