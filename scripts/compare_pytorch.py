#!/usr/bin/env python3
"""How much faster than PyTorch is train_gpt, for the same model, tokens per update and optimizer?

    scripts/compare_pytorch.py --preset gpt2-124m
    scripts/compare_pytorch.py --preset micro --device cpu --modes eager

1. The check: both compute the same loss and gradient from the same weights in fp32, as near to fp64 as
   rounding allows.
2. Each side's best: seconds a step for each listed batch size, then for each listed mode at the best
   (torch.compile of the blocks or of the whole, padded or not; scaled_dot_product_attention, fused AdamW;
   bf16: autocast over fp32 parameters, as train_gpt keeps fp32 masters). A mode that is another optimizer
   (bf16 parameters) is listed, not compared.
3. The bests in turns, one stopped while the other runs. The ratio is train_gpt's tokens per second over
   PyTorch's: the median over all turns, with an interval of 95 %. If both do not fit into memory at once,
   the ratio is of 2., and has no interval.

All rows are printed, the ratio last; --json: as JSON lines. Needs PyTorch, and nothing else. Exit status:
0, 1 if a side failed or the check found a difference, 2 for bad usage.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from gpu import machine as machines  # noqa: E402
from gpu import data, marks, pairs, steps  # noqa: E402
from gpu.machine import ROOT  # noqa: E402
from gpu.pairs import Run, RunFailed  # noqa: E402

CHECK_LAYERS = 2
SEARCH_SHARE = 0.5  # of the time, at most, for PyTorch's search: what is begun by then is finished


def listed(text):
    return text.split(",")


def arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="gpt2-124m", choices=sorted(marks.SIZES))
    parser.add_argument("--train-gpt", default=os.path.join(ROOT, "train_gpt"), metavar="FILE")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--dtype", choices=["bf16", "fp32"], help="default: bf16 on cuda, fp32 on cpu")
    parser.add_argument("--batch-sizes", type=listed, metavar="N,N", help="of both sides")
    parser.add_argument("--our-mode", default="default", choices=sorted(marks.OUR_MODES))
    parser.add_argument(
        "--our-batch-size", type=int, metavar="N", help="found before: train_gpt's is not searched"
    )
    parser.add_argument("--modes", type=listed, metavar="MODE,MODE", help="of PyTorch")
    parser.add_argument("--tokens", type=int, help="of an update")
    parser.add_argument("--pairs", type=int, default=40, help="turns of each side (40)")
    parser.add_argument(
        "--turn", type=float, default=0.5, metavar="SECONDS", help="at least (0.5), and two steps"
    )
    parser.add_argument("--seconds", type=float, default=900, help="for everything (900)")
    parser.add_argument("--scratch", metavar="DIR")
    parser.add_argument("--python", default=sys.executable, help="one with PyTorch (this one)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    size = marks.SIZES[options.preset]
    try:
        options.batch_sizes = [int(n) for n in options.batch_sizes or size["batch_sizes"]]
    except ValueError:
        parser.error("--batch-sizes: whole numbers with commas between them")
    options.tokens = options.tokens or size["tokens"]
    for n in options.batch_sizes + [options.our_batch_size] * bool(options.our_batch_size):
        if n < 1 or options.tokens % (n * size["T"]):
            parser.error(
                f"a batch size of {n} does not divide {options.tokens} tokens an update, {size['T']} each"
            )
    options.modes = options.modes or marks.TORCH_MODES.get(options.preset, ["compile-blocks"])
    strange = [mode for mode in options.modes if mode not in marks.ALL_TORCH_MODES]
    if strange:
        parser.error(f"--modes: '{strange[0]}' is not one of {', '.join(marks.ALL_TORCH_MODES)}")
    options.dtype = options.dtype or ("bf16" if options.device == "cuda" else "fp32")
    return options


def preset_settings(program, preset):
    """A preset's settings, as --help lists them below its name."""
    text = machines.output([program, "--help"])
    found = re.search(rf"^  {re.escape(preset)} .*\n +(.*)$", text, re.MULTILINE)
    if not found:
        raise RunFailed(f"{program} --help does not list the preset {preset}")
    return dict(word.split("=", 1) for word in found.group(1).split())


class Printer:
    def __init__(self, as_json):
        self.as_json, self.rows = as_json, []

    def row(self, **fields):
        if fields.get("side") == "train_gpt":
            fields.setdefault("row", "side")
        self.rows.append(fields)
        print(json.dumps(fields) if self.as_json else self.sentence(fields), flush=True)

    @staticmethod
    def sentence(f):
        if f.get("row") == "side":
            what = f"{f['side']:10} {f.get('mode', ''):15} batch {f['batch_size']:4}: "
            aside = "" if f.get("compared", True) else "  (another optimizer: not compared)"
            return what + (
                f["error"] if "error" in f else f"{f['ms']:10.2f} ms  {f['tokens_per_s']:10,} tokens/s{aside}"
            )
        if f.get("row") == "ratio" and f["pairs"]:
            spread = f", 95 %: {f['low']:.4f} to {f['high']:.4f}" if f["low"] else ""
            return f"train_gpt / PyTorch: {f['ratio']:.4f} (median of {f['pairs']} turns{spread})"
        if f.get("row") == "ratio":
            return f"train_gpt / PyTorch: {f['ratio']:.4f} (not interleaved: {f['why']})"
        return json.dumps(f)


def side_of_pytorch(options, machine, settings, deadline):
    """Starts PyTorch's side; its rows are printed by `listen`."""
    size = marks.SIZES[options.preset]
    shard = data.shard(machine.scratch, size["V"], 1 << 16 if machine.rehearsal else data.TOKENS)
    probe = [
        options.train_gpt,
        "--preset",
        options.preset,
        "--n-layer",
        CHECK_LAYERS,
        "--train-data",
        shard,
        "--batch-size",
        1,
        "--device",
        options.device,
        "--dtype",
        "fp32",
    ]
    job = {
        "settings": settings,
        "device": options.device,
        "dtype": options.dtype,
        "tokens": options.tokens,
        "batch_sizes": options.batch_sizes,
        "modes": options.modes,
        "shard": shard,
        "scratch": machine.scratch,
        "check_layers": CHECK_LAYERS,
        "probe_command": [str(word) for word in probe],
        "search_seconds": max((deadline - time.monotonic()) * SEARCH_SHARE, 1),
    }
    path = os.path.join(machine.scratch, f"job-{options.preset}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(job, file)
    command = [options.python, os.path.join(ROOT, "scripts", "gpu", "torch_side.py"), path]
    cache = os.path.join(machine.scratch, "inductor")
    return Run(
        command, dict(steps.environment(machine), TORCHINDUCTOR_CACHE_DIR=cache), stdin=subprocess.PIPE
    )


def listen(side, printer, deadline):
    """PyTorch's rows until it is ready."""
    heard = 0
    while True:
        side.wait(lambda: len(side.lines) > heard, deadline)
        while heard < len(side.lines):
            line = side.lines[heard]
            heard += 1
            if not line.startswith("{"):
                continue  # a library's warning
            row = json.loads(line)
            printer.row(**row)
            if row["row"] == "ready":
                return row


def interleave(options, machine, ours, theirs, side, printer, deadline):
    """The ratio's row, from both sides at their best; from the searches alone, where they do not run beside
    each other."""
    row = {
        "row": "ratio",
        "preset": options.preset,
        "train_gpt": {"mode": ours[1], "batch_size": ours[0]},
        "pytorch": {"mode": theirs["mode"], "batch_size": theirs["batch_size"]},
    }
    command = steps.train_command(machine, options.preset, ours[0], options.tokens, marks.OUR_MODES[ours[1]])
    alone, found, why = ours[2], [], "no time was left"
    try:
        with Run(command, steps.environment(machine)) as run:
            run.wait_steps(steps.WARMUP_STEPS, deadline)
            alone = alone or steps.measure(run, machine, deadline, turns=2)
            run.pause()
            side.child.stdin.write(b"go\n")
            side.child.stdin.flush()
            side.wait_steps(2, deadline)
            found = pairs.ratios(run, side, options.pairs, options.turn, deadline)
    except RunFailed as error:
        why = steps.refusal(str(error))
    if found:
        printer.row(**row, **pairs.summary(found))
        return
    if alone is None:
        raise RunFailed(why)
    printer.row(**row, ratio=round(theirs["seconds"] / alone, 5), low=None, high=None, pairs=0, why=why)


def main(argv):
    options = arguments(argv)
    deadline = time.monotonic() + options.seconds
    printer = Printer(options.json)
    with tempfile.TemporaryDirectory(prefix="compare-") as scratch:
        machine = machines.Machine(
            os.path.dirname(os.path.abspath(options.train_gpt)), machines.environment(), options.device
        )
        machine.named, machine.scratch = {
            "train_gpt": os.path.abspath(options.train_gpt)
        }, options.scratch or scratch
        machine.rehearsal, machine.dtype = options.preset == "micro", options.dtype
        try:
            settings = preset_settings(machine.program("train_gpt"), options.preset)
            if options.our_batch_size:
                ours = (options.our_batch_size, options.our_mode, None)
            else:
                found = steps.search(
                    machine,
                    options.preset,
                    printer,
                    deadline,
                    batch_sizes=options.batch_sizes,
                    tokens=options.tokens,
                )
                if not found:
                    raise RunFailed("train_gpt could not be measured")
                ours = found
            with side_of_pytorch(options, machine, settings, deadline) as side:
                theirs = listen(side, printer, deadline)
                interleave(options, machine, ours, theirs, side, printer, deadline)
        except (RunFailed, machines.Unavailable) as error:
            print(f"compare_pytorch.py: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
