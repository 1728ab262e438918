/*
 * sha256.h: is a file the one that somebody else has named by its hash?
 *
 * FIPS 180-4's SHA-256, for what other programs wrote; files of ours have checksum.h, which is faster.
 */
#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>

/* The hash of some bytes, as 64 hexadecimal digits and a zero. */
void sha256_hex(const void *bytes, size_t size, char hex[65]);

#endif
