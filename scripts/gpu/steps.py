"""How fast does train_gpt take steps? Runs of it as the parts of a check need them."""

import json
import os
import re
import time

from gpu import data, marks
from gpu.pairs import Run, RunFailed, median

ENDLESS = 100_000_000
WARMUP_STEPS = 5  # first: libraries choose algorithms; graphs are captured; clocks rise


def shard_of(machine, preset):
    return data.shard(machine.scratch, marks.SIZES[preset]["V"], 1 << 16 if machine.rehearsal else data.TOKENS)


def train_command(machine, preset, batch_size, tokens, flags=()):
    shard = shard_of(machine, preset)
    return [
        machine.program("train_gpt"),
        "--preset",
        preset,
        "--train-data",
        shard,
        "--batch-size",
        batch_size,
        "--total-batch-tokens",
        tokens,
        "--steps",
        ENDLESS,
        "--lr",
        "1e-4",
        "--lr-schedule",
        "constant",
        "--warmup-steps",
        0,
        "--val-every",
        0,
        "--device",
        machine.device,
        "--dtype",
        machine.dtype,
        *flags,
    ]


def environment(machine):
    return dict(machine.env, OMP_NUM_THREADS="1") if machine.rehearsal else machine.env


def flops_per_token(machine, preset):
    """(FLOPs a token, the device's peak FLOP/s or None), as the program counts and prints them, from a
    first step."""
    size = marks.SIZES[preset]
    out = os.path.join(machine.scratch, f"count-{preset}-{os.getpid()}")
    tokens = size["batch_sizes"][0] * size["T"]
    command = train_command(machine, preset, size["batch_sizes"][0], tokens, ["--out", out])
    # The counts stand in the first step's line; the run ends there, before it writes a checkpoint of
    # gigabytes.
    with Run(command, environment(machine)) as run:
        run.wait_steps(1, time.monotonic() + 120)
        run.pause()
        with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
            line = next(found for found in map(json.loads, file) if found["type"] == "train")
    count = line["flops"] / line["tokens_per_s"]
    return count, line["flops"] / line["mfu"] if line.get("mfu") else None


def measure(run, machine, deadline, turns=5):
    """Seconds a step, the median of some turns."""
    run.wait_steps(WARMUP_STEPS, deadline)
    seconds = 0.05 if machine.rehearsal else 1.5
    return median([run.turn(seconds, deadline) for _ in range(turns)])


def refusal(text):
    """What a program said on its last line, short."""
    return re.sub(r"\s+", " ", text)[-300:]


def search(machine, preset, part, deadline, batch_sizes=None, tokens=None):
    """Measures each listed batch size, then each other mode at the best; returns (batch size, mode, seconds a
    step) of the fastest, or None."""
    tokens = tokens or marks.SIZES[preset]["tokens"]
    batch_sizes = batch_sizes or marks.SIZES[preset]["batch_sizes"]
    best = None
    for mode, flags in marks.OUR_MODES.items():
        for batch_size in batch_sizes if best is None else [best[0]]:
            row = {"side": "train_gpt", "mode": mode, "batch_size": batch_size}
            if best and time.monotonic() > deadline:
                part.row(**row, error="not tried: no time left")
                continue
            try:
                command = train_command(machine, preset, batch_size, tokens, flags)
                with Run(command, environment(machine)) as run:
                    seconds = measure(run, machine, deadline)
            except RunFailed as error:
                part.row(**row, error=refusal(str(error)))
                continue
            rate = round(tokens / seconds)
            part.row(**row, tokens_per_update=tokens, ms=round(seconds * 1e3, 4), tokens_per_s=rate)
            if best is None or seconds < best[2]:
                best = (batch_size, mode, seconds)
    return best
