/*
 * address.h: where do ranks meet that nobody has introduced to each other?
 *
 * NCCL takes an address, HOST:PORT: rank 0 listens there, the others come. Every rank has to find the same one by itself:
 *   --rendezvous HOST:PORT, where it is given; else NCCL_COMM_ID, where the environment has it; else
 *   host: MASTER_ADDR, or under Slurm the first of `scontrol show hostnames $SLURM_STEP_NODELIST`;
 *   port: MASTER_PORT + 1 (on MASTER_PORT torchrun itself listens), or one between 10000 and 29999 that follows from the
 *         job's id (SLURM_JOB_ID and SLURM_STEP_ID, or TORCHELASTIC_RUN_ID), so that two jobs of a machine do not meet.
 */
#ifndef ADDRESS_H
#define ADDRESS_H

#include "../base/check.h"

enum { ADDRESS_SIZE = 320 };

/* flag: --rendezvous, or NULL. False with *error set where an address cannot be had; it names what would give one. */
bool address_find(const char *flag, char address[ADDRESS_SIZE], Error *error);

#endif
