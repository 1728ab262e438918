/*
 * checksum.h: are a file's bytes still those that were written?
 *
 * CRC-64/XZ (ECMA-182's polynomial, reflected; the check of .xz files): every burst of up to 64 flipped bits
 * is seen, anything else goes unseen once in 2^64. Against accidents, not against forgery.
 */
#ifndef CHECKSUM_H
#define CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of everything so far, `before` being that of what came before these bytes (0: nothing).
 * checksum(0, "123456789", 9) is 0x995dc9bbdf1939fa. Thread-safe. */
uint64_t checksum(uint64_t before, const void *bytes, size_t size);

#endif
