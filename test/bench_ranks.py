#!/usr/bin/env python3
"""What several ranks cost on a CPU beside one process with as many threads.

    test/bench_ranks.py [TRAIN_GPT] [--ranks 2] [--micro-steps 8] [--rounds 2] [--steps 3] [--model '--preset gpt2-124m …']

Prints JSON lines:
    {"bench":"ranks", … "alone_ms", "ranks_ms", "efficiency"}   a step of one process with R threads, and of R ranks with a
                                                                thread each, in turns, at the same tokens an update
    {"bench":"wire", "zero", "reduce_dtype", … "bytes", "theory", "ratio"}   what a rank hands to MPI in a step, counted at the
                                                                call; theory: 2·(R − 1)/R of the gradients in fp32
    {"bench":"rank_memory", … "peak_gb", "predicted_gb", "ratio"}   of a rank at --zero 1, beside --dry-run --ranks R

On a CPU a queue runs its work at once, so nothing overlaps there, and there is no overlap to switch off.
"""
import argparse
import json
import os
import re
import subprocess
import tempfile


def step_ms(command, env):
    """Of each step but the first, which also warms up."""
    text = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True, env=env, text=True).stdout
    return [float(ms) for ms in re.findall(r"^step .* ([0-9.]+) ms ", text, re.MULTILINE)][1:]


def middle(values):
    return sorted(values)[len(values) // 2]


def bench_time(mpi, program, options, model):
    """Either way the tokens of micro_steps micro-steps: of one process, or shared among the ranks."""
    ranks, env = options.ranks, dict(os.environ, TERM="dumb")
    del env["OMP_NUM_THREADS"]
    batch = [*model, "--total-batch-tokens", str(options.micro_steps * options.batch_size * options.seq_len),
             "--steps", str(options.steps)]
    alone = [program, *batch, "--threads", str(ranks)]
    together = [*mpi.MPIRUN, "--bind-to", "none", "-n", str(ranks), program, *batch, "--threads", "1"]
    times = {"alone": [], "ranks": []}
    for _ in range(options.rounds):
        times["alone"] += step_ms(alone, env)
        times["ranks"] += step_ms(together, env)
    alone_ms, ranks_ms = middle(times["alone"]), middle(times["ranks"])
    tell("ranks", options, micro_steps=options.micro_steps, alone_ms=round(alone_ms, 1), ranks_ms=round(ranks_ms, 1),
         efficiency=round(alone_ms / ranks_ms, 3), steps=len(times["ranks"]))


def plan(program, model, options, zero):
    text = subprocess.run([program, *model, "--ranks", str(options.ranks), "--zero", zero, "--threads", "1", "--dry-run"],
                          stdout=subprocess.PIPE, check=True, text=True).stdout
    return {name: float(size) * 1e6 for name, size in re.findall(r"^  (\w+) +([0-9.]+) MB", text, re.MULTILINE)}


def bench_wire(mpi, folder, program, options, model):
    for zero, travels in ("0", "fp32"), ("1", "fp32"), ("0", "bf16"), ("1", "bf16"):
        words = ["--zero", zero, "--reduce-dtype", travels, "--threads", "1"]
        few, many = (mpi.sent(folder, options.ranks, *model, *words, "--steps", steps)[0] for steps in (1, 2))
        theory = 2 * (options.ranks - 1) / options.ranks * plan(program, model, options, zero)["gradients"]
        tell("wire", options, zero=int(zero), reduce_dtype=travels, bytes=many - few, theory=round(theory),
             ratio=round((many - few) / theory, 4))


def bench_memory(mpi, folder, program, options, model):
    peak = max(mpi.peaks(folder, options.ranks, *model, "--zero", "1", "--threads", "1", "--steps", "1"))
    predicted = plan(program, model, options, "1")["total"]
    tell("rank_memory", options, peak_gb=round(peak / 1e9, 3), predicted_gb=round(predicted / 1e9, 3),
         ratio=round(peak / predicted, 3))


def tell(bench, options, **values):
    print(json.dumps({"bench": bench, "model": options.model, "B": options.batch_size, "T": options.seq_len,
                      "ranks": options.ranks, **values}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?", default="train_gpt")
    parser.add_argument("--model", default="--preset gpt2-124m", help="flags of its shape")
    for name, value in ("ranks", 2), ("batch-size", 2), ("seq-len", 256), ("micro-steps", 8), ("rounds", 2), ("steps", 3):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    if options.micro_steps % options.ranks or options.steps < 2:
        parser.error("--micro-steps is a multiple of --ranks, --steps is 2 at least")
    os.environ["TRAIN_GPT"] = os.path.abspath(options.program)
    import mpi  # both know the program from the environment
    from program import write_shard

    if not mpi.has_mpi():
        print(json.dumps({"bench": "ranks", "skipped": "no mpirun, or a build without MPI"}))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        shard = os.path.join(folder, "text.bin")
        write_shard(shard, [i * 7919 % 256 for i in range(100_000)])
        model = [*options.model.split(), "--batch-size", str(options.batch_size), "--seq-len", str(options.seq_len),
                 "--dtype", "fp32", "--device", "cpu", "--train-data", shard]
        bench_time(mpi, os.environ["TRAIN_GPT"], options, model)
        bench_wire(mpi, folder, os.environ["TRAIN_GPT"], options, model)
        bench_memory(mpi, folder, os.environ["TRAIN_GPT"], options, model)


if __name__ == "__main__":
    main()
