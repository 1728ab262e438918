"""Who takes steps in a comparison on a CPU, and how are they asked for a turn? Parts of scripts/compare_cpu.py.

A side's turn(threads) returns the seconds of some steps, behind WARMUP of them; RunFailed says why there are none.
peak_bytes is the most memory that the side's process has had. close() ends it, and may come twice.
"""

import json
import os
import re
import subprocess
import tempfile
import time

from gpu import steps
from gpu.machine import ROOT
from gpu.pairs import Run, RunFailed

WARMUP = 2  # steps of each turn: pages, caches, clocks and branches are another's at first
WORKER = os.path.join(ROOT, "scripts", "cpu", "torch_worker.py")

# name → (dtype, the mode of gpu/torch_side.py's Trainer)
TORCH_MODES = {
    "eager-fp32": ("fp32", "eager"),
    "eager-bf16": ("bf16", "eager"),
    "compiled-fp32": ("fp32", "compile"),
    "compiled-bf16": ("bf16", "compile"),
    "blocks-fp32": ("fp32", "compile-blocks"),
    "blocks-bf16": ("bf16", "compile-blocks"),
}


class Context:
    """What all sides of one sequence length share."""

    def __init__(self, machine, options, settings, T):
        self.machine, self.options, self.T = machine, options, T
        self.settings = dict(settings, **{"seq-len": str(T)})
        self.B, self.fewest, self.seconds = options.batch, options.steps, options.turn

    def deadline(self):
        return time.monotonic() + self.options.timeout


def peak_bytes(run):
    """Of a process that lives."""
    try:
        with open(f"/proc/{run.child.pid}/status", encoding="utf-8") as file:
            return 1024 * int(re.search(r"^VmHWM:\s+(\d+)", file.read(), re.MULTILINE)[1])
    except (OSError, TypeError):
        return 0


def ending(run, error):
    """RunFailed, with what a program that has ended said last, and how it ended."""
    if not run.ended:
        return error
    code = run.child.wait()
    said = next((line for line in reversed(run.last) if line.strip()), "ended without a word")
    how = f"killed by signal {-code}" + ", as where memory is short" * (code == -9) if code < 0 else f"exit {code}"
    return RunFailed(f"{said} ({how})")


class Side:
    slow_to_start = None  # what takes long before the first step

    def __init__(self, context):
        self.context, self.peak_bytes = context, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        pass

    def remember(self, run):
        self.peak_bytes = max(self.peak_bytes, peak_bytes(run))


# --------------------------------------------------------------------------------- started anew each turn


class TrainGpt(Side):
    """By its metrics, where a step's time is from the end of the one before: all that happens between them counts."""

    def __init__(self, context, dtype):
        super().__init__(context)
        self.dtype = dtype

    def turn(self, threads):
        c, deadline = self.context, self.context.deadline()
        with tempfile.TemporaryDirectory(dir=c.machine.scratch) as out:
            more = ["--seq-len", c.T, "--dtype", self.dtype, "--threads", threads, "--out", out]
            command = steps.train_command(c.machine, c.options.model, c.B, c.B * c.T, more)
            with Run(command, c.machine.env) as run:
                try:
                    run.wait_steps(WARMUP + c.fewest, deadline)
                    taken = seconds_of_steps(out)
                    while len(taken) < c.fewest or sum(taken) < c.seconds:
                        run.wait_steps(len(run.times) + 1, deadline)
                        taken = seconds_of_steps(out)
                except RunFailed as error:
                    raise ending(run, error) from None
                self.remember(run)
        return taken


def seconds_of_steps(out):
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.endswith("\n")]
    return [line["ms"] / 1e3 for line in lines if line["type"] == "train"][WARMUP:]


class LlmC(Side):
    """llm.c's train_gpt2, by the times that it prints; of several builds the one for this batch and length."""

    TOOK = re.compile(r"^step \d+: train loss .*\(took ([\d.]+) ms\)")

    def turn(self, threads):
        other = []
        for build in self.context.options.llmc:
            found = self.turn_of(build, threads)
            if isinstance(found, list):
                return found
            other.append(found)
        raise RunFailed(f"built for another batch or sequence length ({', '.join(other)})")

    def turn_of(self, build, threads):
        """Seconds of steps, or what it said that shows it to be another's."""
        c, deadline = self.context, self.context.deadline()
        unbuffered = ["env", "-C", os.path.dirname(build), "stdbuf", "-oL", build]
        with Run(unbuffered, dict(c.machine.env, OMP_NUM_THREADS=str(threads))) as run:
            times = lambda: [float(found[1]) / 1e3 for found in map(self.TOOK.match, list(run.lines)) if found]
            said = lambda: [line for line in list(run.lines) if line.startswith("num_activations:")]
            try:
                run.wait(said, deadline)
                if int(said()[0].split()[1]) not in (llmc_activations(c.B, c.T, V) for V in (50257, 50304)):
                    return said()[0]
                run.wait(lambda: len(times()) >= WARMUP + c.fewest, deadline)
            except RunFailed as error:
                raise ending(run, error) from None
            self.remember(run)
            return times()[WARMUP:]


def llmc_activations(B, T, V):
    """Numbers in llm.c's activations of a GPT-2 of 124M: they tell B and T from each other by the attention's T²."""
    C, L, H = 768, 12, 12
    a_layer = 18 * C + 4 + 2 * H * T
    return B * T * (2 * C + L * a_layer + 3 + 2 * V)


# ------------------------------------------------------------------------------------------ lives on


def worker(context, mode, dtype, **more):
    """PyTorch's process for a mode."""
    c = context
    job = {"settings": c.settings, "dtype": dtype, "mode": mode, "batch_size": c.B, "tokens": c.B * c.T,
           "shard": steps.shard_of(c.machine, c.options.model), "scratch": c.machine.scratch, **more}  # fmt: skip
    path = os.path.join(c.machine.scratch, f"job-{mode}-{dtype}-{c.T}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(job, file)
    return Run([c.machine.python, WORKER, path], c.machine.env, stdin=subprocess.PIPE)


class Listener:
    """The JSON lines of a worker, one after the other."""

    def __init__(self, run):
        self.run, self.heard = run, 0

    def next(self, deadline):
        while True:
            try:
                self.run.wait(lambda: len(self.run.lines) > self.heard, deadline)
            except RunFailed as error:
                raise ending(self.run, error) from None
            line = self.run.lines[self.heard]
            self.heard += 1
            if line.startswith("{"):  # others are a library's warnings
                return json.loads(line)


class PyTorch(Side):
    """A process that is told how many steps to take, and between that holds weights and moments alone: one that was
    stopped within a step would hold its activations too, and four of them are more memory than most have."""

    def __init__(self, context, name):
        super().__init__(context)
        self.dtype, self.mode = TORCH_MODES[name]
        if self.mode != "eager":
            self.slow_to_start = "compiling, by g++, a minute or more for each number of threads"
        self.run = self.listener = None

    def turn(self, threads):
        c = self.context
        if not self.run:
            self.run = worker(c, self.mode, self.dtype)
            self.listener = Listener(self.run)
        request = {"threads": threads, "warmup": WARMUP, "fewest": c.fewest, "seconds": c.seconds}
        try:
            self.run.child.stdin.write(json.dumps(request).encode() + b"\n")
            self.run.child.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: the listener says how
        answer = self.listener.next(c.deadline())
        self.remember(self.run)
        if "error" in answer:
            raise RunFailed(answer["error"])
        return answer["steps"]

    def close(self):
        if self.run:
            self.run.kill()


def check(context, layers):
    """(PyTorch's version or None, what is against the check or None). RunFailed if the two are not the same model."""
    c = context
    flags = ["--n-layer", layers, "--seq-len", c.T, "--dtype", "fp32"]
    command = [str(word) for word in steps.train_command(c.machine, c.options.model, 1, c.T, flags)]
    with worker(c, "check", "fp32", check_layers=layers, probe_command=command) as run:
        listener, version = Listener(run), None
        try:
            while True:
                row = listener.next(c.deadline())
                version = row.get("version", version)
                if row["row"] == "check":
                    if not row["good"]:
                        raise RunFailed(f"the two sides are not the same model: {json.dumps(row)}")
                    return version, None
        except RunFailed as error:
            if version:
                raise
            return None, str(error)  # no PyTorch: each of its modes will say so
