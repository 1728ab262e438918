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

/* What the checksum of some bytes adds, by exclusive or, to that of a file in which so many bytes follow them: the
 * checksum of the whole is that of all its pieces put together so. */
uint64_t checksum_ahead(uint64_t of_piece, uint64_t bytes_behind);

#endif
