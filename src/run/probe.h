/*
 * probe.h: one forward and backward, laid open: how one compares this program with any other.
 *
 * Writes a safetensors file with, in fp32 (fp64 for --dtype fp64):
 *   tokens, targets [B, T]      the first batch (uint32)
 *   loss [1]                    mean nats per target (an ignored one, of padding, is 4294967295)
 *   logits [B, T, V]
 *   residual.0 … residual.L     [B, T, C] the embedding's output, and the stream after each block
 *   grad.NAME                   of every parameter, in files' names and layout
 */
#ifndef PROBE_H
#define PROBE_H

#include "../data/feed.h"
#include "../model/optim.h"

/* Whether a file can be made under that name: asked before any work. Leaves nothing behind. */
bool probe_can_write(const char *path, Error *error);

/* Runs the batch and writes the file. */
bool probe_write(Optimizer *optimizer, const struct FeedSlot *batch, const char *path, Error *error);

#endif
