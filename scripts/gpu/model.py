#!/usr/bin/env python3
"""How long does a step take on a GPU, and what takes it? A model, not a measurement: see what it assumes, at its end.

    scripts/gpu/model.py                          the page, on the screen (`make gpu-model`)
    scripts/gpu/model.py --write                  scripts/results/gpu-model.md and gpu-model.png (needs matplotlib)
    scripts/gpu/model.py --set issue=0.9          with other numbers than those that it assumes
    scripts/gpu/model.py --results FILE           beside what `make gpu-check` has measured, and with rates fitted to that
                                                  (by itself: the one of test/results/*.json that has a GPU's marks)

An operation takes as long as what it needs most of: memory, instructions or tensor cores. Bytes and FLOPs are counted from
shapes (step_costs.py), instructions in the machine code (test/sass).
"""

import argparse
import glob
import json
import math
import os
import re
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from assumptions import Assumptions, read_changes  # noqa: E402
from gpu import step_costs  # noqa: E402
from gpu.step_costs import PARTS, ROOT, Step  # noqa: E402

PAGE = os.path.join(ROOT, "scripts", "results", "gpu-model.md")

# name → value, unit, why it is believed. One H200; all of it is assumed.
ASSUMED = {
    "peak": (989.0, "TFLOP/s", "H200, dense bf16: its data sheet"),
    "gemm": (0.70, "", "of the peak, what cuBLASLt's product of large sizes reaches; on H100 some 0.6 to 0.75 is reported, by power"),
    "ramp": (128.0, "terms", "of a sum, as long as a product's first loads and last stores take: short sums have a lower rate"),
    "mma": (0.62, "", "of the peak, what `mma.sync` can reach, which attention is made of; the rest is `wgmma`'s alone"),
    "attention": (0.50, "", "of the slots for instructions, and of `mma`, that attention uses: two warps a scheduler wait for each other. "
                  "FlashAttention-2, of the same instructions, reaches 0.35 to 0.4 of the peak at D = 128"),
    "memory": (4.8, "TB/s", "H200: its data sheet"),
    "share": (0.85, "", "of that, what a copy reaches; on H100 0.9 is common"),
    "latency": (700.0, "ns", "from a load to its data, when memory is busy: what is asked for at once over this is the most that is read"),
    "sms": (132.0, "", "multiprocessors; four schedulers each, one instruction a clock"),
    "clock": (1.70, "GHz", "of 1.98 at most: what power leaves in long runs"),
    "issue": (0.70, "", "of the slots for instructions that an elementwise kernel uses while its warps wait for memory in turns"),
    "gap": (2.0, "µs", "from a kernel's last block to the next one's first, with the queue full"),
}  # fmt: skip
PRESETS = list(step_costs.SHAPES)
FITTED = {"gemm": "products", "share": "bandwidth", "attention": "attention"}


class Rates(Assumptions):
    """Of a GPU."""

    def __init__(self, changes=()):
        super().__init__(ASSUMED, changes)

    def seconds(self, operation):
        """(of one launch, what it waits for)."""
        moved = (operation.reads + operation.writes) / (self["memory"] * self["share"])
        needs = {"memory": moved}
        if operation.flight:
            needs["loads in flight"] = operation.reads / (operation.flight * 1e3 * self["sms"] / self["latency"])
        slots = self["sms"] * 4 * self["clock"]
        in_attention = operation.part == "attention" and operation.flops
        if operation.instructions:
            needs["instructions"] = operation.instructions / (slots * self["attention" if in_attention else "issue"])
        if operation.depth:
            rate = self["peak"] * self["gemm"] * operation.depth / (operation.depth + self["ramp"])
            needs["tensor cores"] = operation.flops / rate
        elif operation.flops:
            needs["tensor cores"] = operation.flops / (self["peak"] * self["mma"] * self["attention"])
        limit = max(needs, key=needs.get)
        return needs[limit] * tail(operation.waves) + self["gap"], limit


def tail(waves):
    """By what a launch takes longer because its last blocks leave multiprocessors idle: half of the last wave's empty part, as
    blocks do not end together."""
    return 1 + (math.ceil(waves) / waves - 1) / 2 if waves > 1 else 1


class Prediction:
    """Of a preset: seconds a step, by part and by operation; tokens a second."""

    def __init__(self, preset, table, rates, micro=None):
        self.step = Step(preset, table, micro)
        self.parts, self.operations = dict.fromkeys(PARTS, 0.0), {}
        for operation in self.step.operations:
            seconds, limit = rates.seconds(operation)
            self.parts[operation.part] += operation.count * seconds
            name = operation.name if operation.part != "products" else "products: " + operation.name
            self.operations[name] = (operation.count * seconds, limit, operation)
        self.seconds = sum(self.parts.values())
        self.tokens_per_s = self.step.tokens / self.seconds


# ------------------------------------------------------------------------------------------------- what was measured


def committed_results():
    """The GPU's file among the committed ones, or None."""
    files = [path for path in sorted(glob.glob(os.path.join(ROOT, "test", "results", "*.json"))) if "marks" in read_results(path)]
    if len(files) > 1:
        raise ValueError(f"--results says which: there are {', '.join(map(os.path.basename, files))}")
    return files[0] if files else None


def read_results(path):
    with open(path, encoding="utf-8") as file:
        try:
            results = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return results if isinstance(results, dict) else {}


def fit(results, rates):
    """{name: the rate that the probe's rows say}, the middle one of each kind."""
    rows = [row for part in (results.get("parts") or {}).values() for row in part.get("rows", []) if isinstance(row, dict)]
    found = {name: [] for name in FITTED}
    for row in rows:
        name = str(row.get("name", ""))
        if row.get("row") == "product":
            sums = re.search(r" (\d+)->(\d+) N=(\d+) (forward|dx|dw)", name)
            depth = int(sums[{"forward": 1, "dx": 2, "dw": 3}[sums[4]]]) if sums else math.inf
            found["gemm"].append(row["tflops"] * 1e12 / rates["peak"] * (1 + rates["ramp"] / depth))
        elif row.get("row") == "copy":
            found["share"].append(row["bytes_per_s"] / rates["memory"])
        elif name.startswith("attention_forward") and "tflops" in row:
            found["attention"].append(row["tflops"] * 1e12 / (rates["peak"] * rates["mma"]))
    return {name: statistics.median(values) for name, values in found.items() if values}


# ------------------------------------------------------------------------------------------------------------- the page


def table_of_presets(predictions, marks):
    lines = ["| preset | predicted | a step | tokens a step | measured | wanted |", "|---|---|---|---|---|---|"]
    for preset, found in predictions.items():
        measured, wanted = (marks.get(f"{preset}.tokens_per_s", {}).get(key) for key in ("value", "target"))
        cells = [f"{found.tokens_per_s / 1e3:.0f} k tokens/s", f"{found.seconds * 1e3:.0f} ms", f"{found.step.tokens:,}",
                 f"{measured / 1e3:.0f} k" if measured else "–", f"{wanted / 1e3:.0f} k" if wanted else "–"]  # fmt: skip
        lines.append(f"| `{preset}` | " + " | ".join(cells) + " |")
    return lines


def table_of_updates(table, rates):
    """What is done once an update weighs less in a larger one."""
    counts = (1, 2, 4, 16)
    lines = ["| micro-steps an update | tokens each | " + " | ".join(map(str, counts)) + " |", "|---" * (len(counts) + 2) + "|"]
    for preset in PRESETS:
        found = [Prediction(preset, table, rates, count) for count in counts]
        lines.append(f"| `{preset}` | {found[0].step.tokens:,} | " + " | ".join(f"{one.tokens_per_s / 1e3:.1f} k tokens/s" for one in found) + " |")
    return lines


def table_of_parts(predictions):
    lines = ["| part | " + " | ".join(predictions) + " |", "|---|" + "---|" * len(predictions)]
    for part in PARTS:
        cells = [f"{found.parts[part] * 1e3:.1f} ms, {found.parts[part] / found.seconds:.0%}" for found in predictions.values()]
        lines.append(f"| {part} | " + " | ".join(cells) + " |")
    return lines


def table_of_losses(found, rates, most=8):
    """What takes longest beside products, and how long its bytes alone would."""
    lines = ["| operation | launches | a step | waits for | its bytes alone |", "|---|---|---|---|---|"]
    rows = [(name, *row) for name, row in found.operations.items() if row[2].part != "products"]
    for name, seconds, limit, operation in sorted(rows, key=lambda row: -row[1])[:most]:
        bytes_alone = operation.count * (operation.reads + operation.writes) / (rates["memory"] * rates["share"])
        lines.append(f"| `{name}` | {operation.count:.0f} | {seconds * 1e3:.2f} ms | {limit} | {bytes_alone * 1e3:.2f} ms |")
    return lines


def marks_of(results):
    """{mark: {"value", "target"}} of a results file, targets also without one."""
    from gpu import marks

    values = results.get("marks", {})
    return {name: {"value": values.get(name), "target": wanted} for name, _, _, wanted in marks.MARKS}


def page(compiler, table, rates, results, source):
    predictions = {preset: Prediction(preset, table, rates) for preset in PRESETS}
    lines = ["# What a GPU's step takes: a model", "",
             "**Predicted by `make gpu-model`, not measured" + (", but where it says so" if source else ": no GPU has run this program yet") +
             ".** One H200, bf16, `--cuda-graph auto`.", "", "![share of a step, by part](gpu-model.png)", "",
             *table_of_presets(predictions, marks_of(results)), "", *table_of_updates(table, rates), "", *table_of_parts(predictions)]  # fmt: skip
    for preset, found in predictions.items():
        lines += ["", f"## {preset}: what takes longest, beside products", "", *table_of_losses(found, rates)]
    lines += ["", "## What it assumes", "", *rates.rows()]
    lines += ["", f"Instructions are those of `test/sass/table.txt` ({compiler}). Nothing overlaps with anything; caches keep nothing between",
              "kernels; of the embedding's gradient the adding of rows is counted, not the search for equal tokens. A number is changed by",
              "`--set name=value`; `--write` makes this page and its picture."]  # fmt: skip
    fitted = fit(results, rates)
    if fitted:
        better = Rates([*rates.values.items(), *fitted.items()])
        lines += ["", f"## With rates fitted to {os.path.basename(source)}", "",
                  ", ".join(f"`{name}` {value:.3g}" for name, value in fitted.items()) + ":", "",
                  *table_of_presets({preset: Prediction(preset, table, better) for preset in PRESETS}, marks_of(results))]  # fmt: skip
    return "\n".join(lines) + "\n", predictions


def draw(predictions, path):
    import picture

    figure, (axis,) = picture.new_figure(1, "Where a step's time goes on one H200, predicted by scripts/gpu/model.py")
    names = list(predictions)[::-1]
    left = [0.0] * len(names)
    for part, color in zip(PARTS, [*picture.COLORS, picture.DARK]):
        widths = [100 * predictions[name].parts[part] / predictions[name].seconds for name in names]
        axis.barh(names, widths, left=left, height=0.6, color=color, label=part)
        left = [a + b for a, b in zip(left, widths)]
    for i, name in enumerate(names):
        found = predictions[name]
        axis.text(0, i + 0.33, f"{found.seconds * 1e3:.0f} ms for {found.step.tokens:,} tokens: {found.tokens_per_s / 1e3:.0f} k tokens/s", fontsize=9)
    axis.set_xlim(0, 100)
    axis.set_ylim(-0.5, len(names) - 0.3)
    axis.set_xlabel("% of the step (linear)")
    figure.legend(fontsize=8, ncols=4, loc="outside lower center", frameon=False)
    picture.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="scripts/results/gpu-model.md and gpu-model.png")
    parser.add_argument("--set", nargs="+", default=[], metavar="name=value", help="another assumption")
    parser.add_argument("--results", metavar="FILE", help="of gpu_check.py")
    options = parser.parse_args()
    try:
        source = options.results or committed_results()
        results = read_results(source) if source else {}
        text, predictions = page(*step_costs.read_table(), Rates(read_changes(options.set)), results, source)
    except (OSError, ValueError) as error:  # BadTable is one
        print(f"model.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    if not options.write:
        sys.stdout.write(text)
        return
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(text)
    draw(predictions, PAGE.replace(".md", ".png"))
    print(f"{PAGE} and gpu-model.png beside it", file=sys.stderr)


if __name__ == "__main__":
    main()
