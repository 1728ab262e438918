/*
 * checksum.c: see checksum.h.
 *
 * Eight bytes at a time from eight tables ("slicing-by-8": Kounavis and Berry, IEEE ToC 2008), so that a
 * checkpoint of gigabytes is checked in seconds without a special instruction.
 */
#include "checksum.h"

#include <pthread.h>
#include <string.h>

enum { SLICES = 8 };

static uint64_t table[SLICES][256]; /* [s][b]: what byte b does when s more bytes follow it */

static void make_table(void) {
    const uint64_t polynomial = UINT64_C(0xc96c5795d7870f42);
    for (uint64_t b = 0; b < 256; b++) {
        uint64_t crc = b;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? polynomial : 0);
        table[0][b] = crc;
    }
    for (int s = 1; s < SLICES; s++)
        for (int b = 0; b < 256; b++) table[s][b] = table[s - 1][b] >> 8 ^ table[0][table[s - 1][b] & 255];
}

uint64_t checksum(uint64_t before, const void *bytes, size_t size) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_table);
    const unsigned char *at = bytes;
    uint64_t crc = ~before;
    for (; size >= SLICES; size -= SLICES, at += SLICES) {
        uint64_t word, next = 0;
        memcpy(&word, at, SLICES); /* little-endian, as file.h asserts */
        word ^= crc;
        for (int s = 0; s < SLICES; s++) next ^= table[SLICES - 1 - s][word >> 8 * s & 255];
        crc = next;
    }
    for (; size; size--, at++) crc = crc >> 8 ^ table[0][(crc ^ *at) & 255];
    return ~crc;
}
