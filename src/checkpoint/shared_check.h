/*
 * shared_check.h: is a checkpoint what its manifest says, when its bytes are read once for all ranks, and not by each?
 *
 * All files' bytes in one row, in the manifest's order, are cut into as many parts as there are ranks. A rank takes the
 * checksums of its part; those of a file that lies in several parts are put together (checksum.h).
 */
#ifndef SHARED_CHECK_H
#define SHARED_CHECK_H

#include "../ranks/rendezvous.h"
#include "manifest.h"

/* All ranks ask, of a checkpoint whose manifest is the same on all, and hear the same. What its disk takes counts for
 * nothing of timeout_s. */
bool shared_check(const char *path, const Ranks *ranks, const Kernels *k, double timeout_s, Error *error);

/* ---- the parts: pure functions, for tests ---- */

/* Of a row of `total` bytes, where a rank's part begins. */
uint64_t shared_part(uint64_t total, int rank, int ranks);

#endif
