#!/usr/bin/env python3
"""How fast does this program train on this CPU, beside PyTorch on the same CPU?

    scripts/compare_cpu.py                                     gpt2-124m, batch 4, sequences of 64, 256 and 1024
    scripts/compare_cpu.py --seq 64 --rounds 1                 a look, in a few minutes
    scripts/compare_cpu.py --python venv/bin/python --json rows.jsonl --llmc ~/llm.c/train_gpt2

The modes:

    train_gpt-fp32, train_gpt-bf16     the executable, --dtype fp32 and bf16
    eager-fp32, eager-bf16             PyTorch as it is; bf16: autocast, over fp32 parameters, with a bf16 residual
    compiled-fp32, compiled-bf16       the same model through torch.compile
    blocks-fp32, blocks-bf16           each block through torch.compile: sooner ready; only where --modes asks
    llm.c                              a build of its train_gpt2, where --llmc names one (fp32)

1. The check: train_gpt and PyTorch compute the same loss and gradient from the same weights.
2. Each mode alone: at all CPUs, at half as many, and so on down to one thread, as long as that does not get far
   worse (--threads: at these); the best is kept.
3. Rounds: in each, every mode in turn takes some steps, two of which warm up; whose turn is first changes.

A step is the same work in all: a batch of the data, forward, backward, the gradient's norm clipped to 1, fused AdamW
with weight decay; the model is the preset's, in PyTorch with scaled_dot_product_attention(is_causal=True) and, where
the preset ties it, a tied head. llm.c has neither clipping nor decay, and its batch and sequence length are compiled
in: a build for others is told from what it says of its activations, and is a row without times. It runs in its own
folder, on the data that it finds there. What is before the first step counts for nobody.

Printed, a table a sequence length: threads, milliseconds a step (the median over rounds, of each round's median),
tokens a second, peak memory, and how many times as long as a step of train_gpt's it takes (the median over rounds of
both in the same round, with the least and the largest). Above 1 train_gpt is faster. --json FILE: the same as JSON
lines, with every round. A mode that is refused, dies or does not fit into memory is a row that says so.

PyTorch's processes live through all rounds, idle but for their turns, so compiling, which needs g++ and minutes,
happens once; train_gpt and llm.c are started anew for each turn and leave the memory to the others.
Needs PyTorch in the Python that --python names, and nothing else. Exit status: 0; 1 if there was nothing to compare,
or the check found a difference; 2 for bad usage.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from compare_pytorch import CHECK_LAYERS, listed, preset_settings  # noqa: E402
from cpu import sides  # noqa: E402
from gpu import machine as machines  # noqa: E402
from gpu import marks, steps  # noqa: E402
from gpu.machine import ROOT  # noqa: E402
from gpu.pairs import RunFailed, median  # noqa: E402

OURS = ["train_gpt-fp32", "train_gpt-bf16"]
UNASKED = ["blocks-fp32", "blocks-bf16"]
FAR_WORSE = 1.3  # times the best step so far: the settings behind this one are not tried


def numbers(text):
    found = [int(word) for word in listed(text)]
    if not found or min(found) < 1:
        raise ValueError(text)
    return found


numbers.__name__ = "N,N"  # as argparse names it


def positive(text):
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


positive.__name__ = "N"


def executable(text):
    path = shutil.which(text) or text
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{text} is no program")
    return os.path.abspath(path)


def arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2-124m", choices=sorted(marks.SIZES), help="a preset (gpt2-124m)")
    parser.add_argument("--batch", type=positive, default=4, metavar="N", help="sequences a step (4)")
    parser.add_argument("--seq", type=numbers, default=[64, 256, 1024], metavar="N,N", help="tokens of each (64,256,1024)")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="(5)")
    parser.add_argument("--steps", type=positive, default=3, metavar="N", help="of a turn, at least (3)")
    parser.add_argument("--turn", type=float, default=3, metavar="SECONDS", help="at least (3)")
    parser.add_argument("--modes", type=listed, metavar="MODE,MODE", help="of those above")
    parser.add_argument("--threads", type=numbers, metavar="N,N", help="numbers of threads to try")
    parser.add_argument("--timeout", type=float, default=1200, metavar="SECONDS",
                        help="for a turn, with what is compiled in it (1200)")  # fmt: skip
    parser.add_argument("--train-gpt", type=executable, default=os.path.join(ROOT, "train_gpt"), metavar="FILE")
    parser.add_argument("--llmc", type=executable, action="append", default=[], metavar="FILE",
                        help="llm.c's train_gpt2; once for each length it was built for")  # fmt: skip
    parser.add_argument("--python", type=executable, default=sys.executable, metavar="FILE",
                        help="one with PyTorch (this one)")  # fmt: skip
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args(argv)
    known = OURS + list(sides.TORCH_MODES) + ["llm.c"] * bool(options.llmc)
    options.modes = options.modes or [mode for mode in known if mode not in UNASKED]
    for mode in options.modes:
        if mode not in known:
            aside = " (it wants --llmc FILE)" if mode == "llm.c" else ""
            parser.error(f"--modes: '{mode}' is not one of {', '.join(known)}{aside}")
    if options.llmc and options.model != "gpt2-124m":
        parser.error(f"--llmc: llm.c's train_gpt2 trains gpt2-124m, not {options.model}")
    options.threads = options.threads or halves(len(os.sched_getaffinity(0)))
    return options


def halves(cpus):
    """All, half as many, …, one: among them the number of cores, where a core is two CPUs."""
    found = [cpus]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found


def progress(text):
    print(f"compare_cpu.py: {text}", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------- measuring


class Mode:
    """A side with what was measured of it; `error` once it has failed."""

    def __init__(self, name, side):
        self.name, self.side = name, side
        self.threads, self.tried, self.rounds, self.error = None, {}, [], None

    def turn(self, threads, what):
        """Milliseconds a step, the turn's median; None when it fails."""
        try:
            ms = median(self.side.turn(threads)) * 1e3
        except RunFailed as failed:
            self.error = steps.refusal(str(failed))
            self.side.close()
            progress(f"{what}, {self.name}: {self.error}")
            return None
        progress(f"{what}, {self.name}, {threads} thread{'s' * (threads > 1)}: {ms:.1f} ms a step")
        return ms

    def prepare(self, settings, what):
        """The first turns, and the number of threads that was best in them."""
        if self.side.slow_to_start:
            progress(f"{what}, {self.name}: {self.side.slow_to_start} …")
        for threads in settings:
            ms = self.turn(threads, what)
            if ms is None:
                return
            self.tried[threads] = round(ms, 3)
            if ms > FAR_WORSE * min(self.tried.values()):
                break
        self.threads = min(self.tried, key=self.tried.get)

    def row(self, about, by_name):
        row = dict(about, mode=self.name, threads=self.threads)
        if self.error:
            return dict(row, error=self.error)
        ms = median(self.rounds)
        row.update(ms=round(ms, 3), tokens_per_s=round(about["B"] * about["T"] / ms * 1e3, 1),
                   peak_gb=round(self.side.peak_bytes / 1e9, 2), tried=self.tried,
                   rounds=[round(each, 3) for each in self.rounds])  # fmt: skip
        for name in OURS:
            ours = by_name.get(name)
            if ours and ours is not self and not ours.error:
                ratios = [mine / other for mine, other in zip(self.rounds, ours.rounds)]
                row["over " + name] = {"ratio": round(median(ratios), 4), "least": round(min(ratios), 4),
                                       "largest": round(max(ratios), 4)}  # fmt: skip
        return row


def side_of(name, context):
    if name in OURS:
        return sides.TrainGpt(context, name.rpartition("-")[2])
    return sides.LlmC(context) if name == "llm.c" else sides.PyTorch(context, name)


def measure(options, context):
    """All modes at one sequence length, as rows."""
    what = f"T = {context.T}"
    about = {"bench": "compare_cpu", "model": options.model, "B": context.B, "T": context.T}
    with contextlib.ExitStack() as stack:
        modes = [Mode(name, stack.enter_context(side_of(name, context))) for name in options.modes]
        for mode in modes:
            mode.prepare(options.threads, what)
        for number in range(options.rounds):
            first = number % len(modes)
            for mode in modes[first:] + modes[:first]:
                ms = None if mode.error else mode.turn(mode.threads, f"{what}, round {number + 1} of {options.rounds}")
                if ms is not None:
                    mode.rounds.append(ms)
    by_name = {mode.name: mode for mode in modes}
    return [mode.row(about, by_name) for mode in modes]


# ---------------------------------------------------------------------------------------------- printing


def spread(ratio):
    return f"{ratio['ratio']:.2f} ({ratio['least']:.2f} to {ratio['largest']:.2f})" if ratio else "–"


def table(options, rows):
    """Text of one sequence length's rows."""
    T = rows[0]["T"]
    against = [name for name in OURS if any("over " + name in row for row in rows)]
    lines = [f"{options.model}, {options.batch} × {T} tokens a step, {options.rounds} round{'s' * (options.rounds > 1)}; "
             "× as long as train_gpt's step"]  # fmt: skip
    lines.append(f"{'mode':15}{'threads':>8}{'ms':>11}{'tokens/s':>10}{'peak GB':>9}"
                 + "".join(f"{'× ' + name:>25}" for name in against))  # fmt: skip
    for row in rows:
        if "error" in row:
            lines.append(f"{row['mode']:15}  {row['error']}")
            continue
        ratios = ["1" if name == row["mode"] else spread(row.get("over " + name)) for name in against]
        columns = f"{row['threads']:8}{row['ms']:11.1f}{row['tokens_per_s']:10.1f}{row['peak_gb']:9.2f}"
        lines.append(f"{row['mode']:15}{columns}" + "".join(f"{text:>25}" for text in ratios))
    return "\n".join(lines)


def of_the_machine(options, torch):
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return {"bench": "compare_cpu", "row": "machine", "processor": names[0] if names else None,
            "cpus": len(os.sched_getaffinity(0)), "torch": torch,
            "train_gpt": machines.output([options.train_gpt, "--version"]).partition("\n")[0]}  # fmt: skip


# --------------------------------------------------------------------------------------------------- all


def check(options, context):
    """PyTorch's version, or None where there is none."""
    if not any(mode in sides.TORCH_MODES for mode in options.modes):
        return None
    progress("the check: do train_gpt and PyTorch compute the same? …")
    version, why = sides.check(context, CHECK_LAYERS)
    progress(f"the check: {why or 'the same loss and gradient, as near as rounding allows'}")
    return version


def compare(options, settings, scratch, out):
    """Whether there was something to compare."""
    machine = machines.Machine(os.path.dirname(options.train_gpt), dict(os.environ), "cpu", options.python)
    machine.named, machine.scratch = {"train_gpt": options.train_gpt}, scratch
    machine.rehearsal = options.model == "micro"
    contexts = [sides.Context(machine, options, settings, T) for T in options.seq]
    print(json.dumps(of_the_machine(options, check(options, contexts[0]))), file=out, flush=True)
    most = 0
    for context in contexts:
        rows = measure(options, context)
        print(table(options, rows), end="\n\n" if context is not contexts[-1] else "\n", flush=True)
        for row in rows:
            print(json.dumps(row), file=out, flush=True)
        most = max(most, sum("ms" in row for row in rows))
    return most >= min(2, len(options.modes))


def main(argv):
    options = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as for Ctrl-C: what was started and written goes
    try:
        settings = preset_settings(options.train_gpt, options.model)
        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-cpu-"))
            out = stack.enter_context(open(options.json or os.devnull, "w", encoding="utf-8"))
            return 0 if compare(options, settings, scratch, out) else 1
    except OSError as error:
        progress(f"{error.filename}: {error.strerror}")
        return 2
    except RunFailed as error:
        progress(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
