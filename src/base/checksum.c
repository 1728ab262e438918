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

static const uint64_t POLYNOMIAL = UINT64_C(0xc96c5795d7870f42);
static uint64_t table[SLICES][256]; /* [s][b]: what byte b does when s more bytes follow it */

static void make_table(void) {
    for (uint64_t b = 0; b < 256; b++) {
        uint64_t crc = b;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
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

/* Modulo the polynomial; bit 63 is the coefficient of x^0. */
static uint64_t multiply(uint64_t a, uint64_t b) {
    uint64_t product = 0;
    for (; a; a <<= 1) {
        if (a >> 63) product ^= b;
        b = b >> 1 ^ (b & 1 ? POLYNOMIAL : 0);
    }
    return product;
}

/* A byte behind is a factor of x^8; what both ends of checksum() invert cancels out between the pieces. */
uint64_t checksum_ahead(uint64_t of_piece, uint64_t bytes_behind) {
    uint64_t power = UINT64_C(1) << 55; /* x^8, squared again and again */
    for (; bytes_behind; bytes_behind >>= 1) {
        if (bytes_behind & 1) of_piece = multiply(power, of_piece);
        power = multiply(power, power);
    }
    return of_piece;
}
