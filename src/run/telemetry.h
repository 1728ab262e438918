/*
 * telemetry.h: what goes on inside the model, layer by layer (--stats-every).
 *
 * Every so many steps one more forward pass over that step's last batch is watched, and one line joins metrics.jsonl:
 *
 *   {"type":"stats","step":…,"layers":[{"layer":0,
 *     "residual_rms":…,"residual_max":…,  the stream after the block, GPAS's scale included
 *     "cosine":…,                         mean direction shared with the stream before the block
 *     "attn_rms":…,"attn_share":…,        what the sublayer adds (inner norms included), and over the stream's rms
 *     "mlp_rms":…,"mlp_share":…,
 *     "grad_norm":…,"update_ratio":…,     of the block's parameters: ‖gradient‖, ‖step‖/‖weights‖
 *     "gate":[…],"scale":[…],             GPAS: gates, and 1 − act(gate)
 *     "alpha":[…] or "lambda":[…],        DyT, BHyT: the norms' scalars
 *     "saturated":[…],                    share of |tanh| > 0.99 in each
 *     "vhat_ratio":…                      BHyT: the estimate of mean(x²) over the exact one
 *   }, …]}
 *
 * It reads; on or off, training has the same bits.
 */
#ifndef TELEMETRY_H
#define TELEMETRY_H

#include "log.h"
#include "../model/model.h"

typedef struct Telemetry Telemetry;

/* What telemetry takes on the device in a run of this config, for --dry-run. */
size_t telemetry_bytes(const Config *config, const Kernels *k);

/* Takes memory for a copy of the weights and of the stream. Exit 1 if it is short. */
Telemetry *telemetry_create(Model *model);
void telemetry_destroy(Telemetry *telemetry); /* NULL is fine */

/* Of a step that telemetry_write() will report, with all masters (optim.h): notes the weights before it; measures what
 * backward has left in the arena of gradients; measures what the update has done. */
void telemetry_before(Telemetry *telemetry, const Accum *masters);
void telemetry_gradients(Telemetry *telemetry);
void telemetry_after(Telemetry *telemetry, const Accum *masters);

/* After all that: measures the rest, and writes the line. */
void telemetry_write(Telemetry *telemetry, Log *log, int64_t step);

#endif
