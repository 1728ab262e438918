/*
 * manifest.h: which files make up a checkpoint, and are they whole?
 *
 * manifest.json is the last file that is written into a checkpoint: where it is there and every file has the
 * size and the checksum (checksum.h) that it says, the checkpoint is complete; otherwise it is none.
 *
 *     {
 *      "format": 2,
 *      "step": 100,
 *      "files": [
 *       {"name": "model.safetensors", "bytes": 472656, "crc64": "0f0e…"},
 *       …
 *      ],
 *      "crc64": "…"            of all bytes before this line
 *     }
 *
 * There is exactly one text for what a manifest says, and any other is refused: no byte of it can change
 * unseen.
 */
#ifndef MANIFEST_H
#define MANIFEST_H

#include "../base/directory.h"

#define MANIFEST_NAME "manifest.json"
enum { MANIFEST_FORMAT = 2, MANIFEST_LARGEST = 1 << 20, MANIFEST_FILES_MOST = 4096 };

typedef struct ManifestFile {
    char name[NAME_SIZE]; /* plain */
    uint64_t bytes, checksum;
} ManifestFile;

typedef struct Manifest {
    int64_t step;
    ManifestFile *files;
    int count;
} Manifest;

/* What a text says; a pure function. On success manifest_free(), else there is nothing to free. */
bool manifest_parse(const char *bytes, size_t size, Manifest *manifest, Error *error);
void manifest_free(Manifest *manifest);

/* The text of a manifest; the caller frees. */
char *manifest_text(const Manifest *manifest);

/* Takes size and checksum of a file in a directory, as its manifest is to say. */
bool manifest_measure(const char *directory, const char *name, ManifestFile *file, Error *error);

/* The checksum of bytes [begin, end) of a file in a directory, as far as it has them. */
bool manifest_measure_part(const char *directory, const char *name, uint64_t begin, uint64_t end, uint64_t *sum, Error *error);

/* Whether that is the checksum of a file. */
bool manifest_has_checksum(const char *directory, const ManifestFile *want, uint64_t sum, Error *error);

/* Writes a directory's manifest, of at most MANIFEST_FILES_MOST files, fsynced. */
bool manifest_write(const char *directory, const Manifest *manifest, Error *error);

/* Reads a directory's manifest. */
bool manifest_read(const char *directory, Manifest *manifest, Error *error);

typedef enum ManifestCheck {
    MANIFEST_SIZES,    /* every file is there with its size: quick */
    MANIFEST_CONTENTS, /* and with its checksum */
    MANIFEST_SMALL,    /* those of at most MANIFEST_LARGEST bytes with their checksums, the others with their sizes */
    MANIFEST_MEDIUM,   /* all with their checksums, when read back from the disk, not from what the kernel still has of it */
} ManifestCheck;

/* Whether a file is what it was when it was measured. */
bool manifest_check_file(const char *directory, const ManifestFile *want, ManifestCheck how, Error *error);

/* Whether the files are what the manifest says; the error names the first that is not. */
bool manifest_check(const char *directory, const Manifest *manifest, ManifestCheck how, Error *error);

/* Whether a file belongs to it. */
bool manifest_lists(const Manifest *manifest, const char *name);

#endif
