#!/usr/bin/env python3
"""Draws the loss of one or more training runs from their metrics.jsonl. Needs matplotlib.

    scripts/plot.py out/run/metrics.jsonl                       → loss.png
    scripts/plot.py out/a/metrics.jsonl out/b/metrics.jsonl --out compare.png --labels "pre,post"
    scripts/plot.py build/demo/run/metrics.jsonl --floor build/demo/language.json
"""
import argparse
import json
import os
import sys

# Okabe and Ito's: told apart by all eyes.
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]


class Failure(Exception):
    pass


def read_losses(path):
    """{"train": (steps, losses), "val": …}. Of a step written twice, after a resume, the later counts."""
    losses = {"train": {}, "val": {}}
    try:
        with open(path) as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure("%s: %s" % (path, getattr(error, "strerror", None) or error)) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            kind = record.get("type")
            if kind in losses and record["loss"] is not None:
                losses[kind][int(record["step"])] = float(record["loss"])
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # a line that is being written right now
            raise Failure("%s:%d: no line of metrics: %s" % (path, number, error)) from None
    if not losses["train"] and not losses["val"]:
        raise Failure("%s: holds no losses" % path)
    return {kind: tuple(zip(*sorted(points.items()))) or ((), ()) for kind, points in losses.items()}


def smooth(values, window):
    """At each value the mean over `window` values around it. At the beginning, where curves are steep, over fewer,
    never lopsided; at the end over those that are there: a single step's loss is noise."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    result = []
    for i in range(len(values)):
        reach = min(window // 2, i)
        end = min(i + reach + 1, len(values))
        result.append((sums[end] - sums[i - reach]) / (end - (i - reach)))
    return result


def read_floor(text):
    """A number, or the language.json that holds it."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        with open(text) as file:
            return float(json.load(file)["floor_nats_per_token"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure("--floor %s: neither a number nor a language.json: %s" % (text, error)) from None


def label_of(path):
    """out/run/metrics.jsonl → run"""
    return os.path.basename(os.path.dirname(os.path.abspath(path))) or path


def draw(plt, runs, labels, floor, title, out):
    figure, axes = plt.subplots(figsize=(8, 5), dpi=150)
    lowest, highest = floor if floor is not None else float("inf"), 0.0
    for i, (run, label) in enumerate(zip(runs, labels)):
        color = COLORS[i % len(COLORS)]
        prefix = label + ": " if len(runs) > 1 else ""
        steps, losses = run["train"]
        if steps:
            axes.plot(steps, losses, color=color, alpha=0.25, linewidth=0.8)
            averaged = smooth(losses, max(1, len(losses) // 50))
            axes.plot(steps, averaged, color=color, linewidth=1.6, label=prefix + "train")
            lowest, highest = min(lowest, min(losses)), max(highest, losses[0])
        steps, losses = run["val"]
        color = color if len(runs) > 1 else COLORS[1]
        if steps:
            axes.plot(steps, losses, color=color, linestyle="--", linewidth=1.2, marker="o", markersize=5,
                      markerfacecolor="white", markeredgewidth=1.4, label=prefix + "validation")  # fmt: skip
            axes.annotate("%.3f" % losses[-1], (steps[-1], losses[-1]), xytext=(0, 9),
                          textcoords="offset points", ha="center", color=color, fontsize=9)  # fmt: skip
            lowest, highest = min(lowest, min(losses)), max(highest, losses[0])
    if floor is not None:
        axes.axhline(floor, color="#555555", linewidth=1.2, linestyle=":", label="floor %.3f" % floor)
    if lowest > 0 and highest > 3 * lowest:
        log_scale(plt, axes, lowest, highest)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(title)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out)


def log_scale(plt, axes, lowest, highest):
    """A logarithmic axis with plain numbers on it: a loss that falls tenfold would hide its end otherwise."""
    axes.set_yscale("log")
    nice = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10)
    ticks = [tick for tick in nice if lowest / 1.3 <= tick <= highest * 1.2]
    axes.yaxis.set_major_locator(plt.matplotlib.ticker.FixedLocator(ticks))
    axes.yaxis.set_major_formatter(plt.matplotlib.ticker.FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(plt.matplotlib.ticker.NullLocator())
    axes.set_ylim(lowest / 1.15, highest * 1.1)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="plot.py", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("metrics", nargs="+", metavar="METRICS", help="metrics.jsonl of a run")
    parser.add_argument("--out", default="loss.png", metavar="FILE", help="default loss.png; also .svg, .pdf")
    parser.add_argument("--floor", metavar="X", help="draw a line at this loss: a number, or a language.json")
    parser.add_argument("--labels", metavar="A,B,…", help="names of the runs (default: their folders)")
    parser.add_argument("--title", default="Training loss")
    return parser.parse_args(arguments)


def main(arguments):
    chosen = parse_arguments(arguments)
    try:
        runs = [read_losses(path) for path in chosen.metrics]
        labels = chosen.labels.split(",") if chosen.labels else [label_of(path) for path in chosen.metrics]
        if len(labels) != len(runs):
            raise Failure("--labels: %d names for %d runs" % (len(labels), len(runs)))
        floor = read_floor(chosen.floor) if chosen.floor else None
        try:
            import matplotlib
        except ImportError:
            message = "matplotlib is missing: apt install python3-matplotlib, or pip install matplotlib"
            raise Failure(message) from None
        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
        import matplotlib.ticker  # noqa: F401 (used as plt.matplotlib.ticker)

        try:
            draw(plt, runs, labels, floor, chosen.title, chosen.out)
        except (OSError, ValueError) as error:
            raise Failure("%s: %s" % (chosen.out, error)) from None
    except Failure as failure:
        print("plot.py: %s" % failure, file=sys.stderr)
        return 2
    print("wrote %s" % chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
