#!/usr/bin/env python3
"""Draws training runs from their metrics.jsonl: the loss, and where a run kept statistics of its layers (--stats-every),
those. Needs matplotlib.

    scripts/plot.py out/run                       → out/run/loss.png, out/run/layers.png
    scripts/plot.py out/a out/b --labels pre,post → out/loss.png, out/layers.png: runs over each other
    scripts/plot.py out/run --out picture.svg     → picture.svg, picture-layers.svg
    scripts/plot.py build/demo/run --floor build/demo/language.json

One run's layers are drawn over the steps, from dark (first) to light (last); several runs' by layer, as they were last.
A run that is still going on, was cut or resumed, or skipped steps, is drawn as far as it came.
"""
import argparse
import json
import math
import os
import sys

from sweeps import metrics

# What layers.png has a panel for, of what the statistics hold: field, name, whether small and large values both count.
FIELDS = [
    ("residual_rms", "residual rms", True),
    ("gate", "GPAS gate g", False),
    ("lambda", "BHyT λ", False),
    ("alpha", "DyT α", False),
    ("saturated", "share of |tanh| > 0.99", False),
    ("vhat_ratio", "BHyT: estimate / exact mean square", False),
    ("cosine", "cosine of the stream before and after", False),
    ("attn_share", "attention's share of the stream's rms", False),
    ("mlp_share", "MLP's share of the stream's rms", False),
    ("grad_norm", "gradient norm", True),
    ("update_ratio", "update / weights", True),
]


class Failure(Exception):
    pass


class Drawn:
    """A run: its Result, the name it is drawn under, its folder."""

    def __init__(self, path, label=None):
        self.path = os.path.join(path, "metrics.jsonl") if os.path.isdir(path) else path
        self.folder = os.path.dirname(os.path.abspath(self.path))
        self.label = label if label is not None else os.path.basename(self.folder) or path
        try:
            self.result = metrics.read_file(self.path)
        except OSError as error:
            raise Failure("%s: %s" % (self.path, error.strerror or error)) from None
        broken = self.result.broken_lines
        if not any(map(math.isfinite, [*self.train().values(), *self.result.val.values()])):
            where = " (line %d is no line of metrics)" % broken[0] if broken else ""
            raise Failure("%s: holds no losses%s" % (self.path, where))
        if broken:
            print("plot.py: %s: passed over %d of its lines, which are none of metrics (the first is line %d)"
                  % (self.path, len(broken), broken[0]), file=sys.stderr)  # fmt: skip

    def train(self):
        return {step: record[0] for step, record in self.result.train.items()}

    def state(self):
        """What is to be said of it beside its name."""
        result = self.result
        if result.state == "diverged":
            return "diverged at step %d" % result.step
        if result.state == "cut" and result.steps:
            return "step %d of %d" % (result.step, result.steps)
        return ""


def read_floor(text):
    """A number, or the language.json that holds it."""
    try:
        number = float(text)
    except ValueError:
        try:
            with open(text, encoding="utf-8") as file:
                number = float(json.load(file)["floor_nats_per_token"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failure("--floor %s: neither a number nor a language.json: %s" % (text, error)) from None
    if not math.isfinite(number):
        raise Failure("--floor %s: not a finite number" % text)
    return number


# ------------------------------------------------------------------------------------------------------ loss


def loss_limits(runs, floor):
    """(lowest, highest) that the axis holds. What is over the losses that training begins with, as those of a run that
    blows up, sets no scale."""
    first = [run.result.first_loss() for run in runs if run.result.train]
    values = [value for run in runs for value in [*run.train().values(), *run.result.val.values()] if math.isfinite(value)]
    top = 1.05 * max(filter(math.isfinite, first), default=max(values))
    values = [value for value in values if value <= top] + ([floor] if floor is not None else [])
    return min(values), max(values)


def draw_loss(picture, runs, floor, title, out):
    states = [(run.label + ": " if len(runs) > 1 else "") + run.state() for run in runs if run.state()]
    skipped = sum(len(run.result.skipped) for run in runs)
    notes = ["Pale: each step; line: its running mean."] + (["%s." % "; ".join(states)] if states else [])
    notes += ["▾ skipped steps: %d." % skipped] if skipped else []
    figure, (axis,) = picture.new_figure(1, title, " ".join(notes))
    low, high = loss_limits(runs, floor)
    picture.scale_y([axis], [], lambda scale: "loss (nats per token, %s scale)" % scale, 3, low, high)
    for i, run in enumerate(runs):
        color = picture.COLORS[i % len(picture.COLORS)]
        draw_run(picture, axis, run, color, color if len(runs) > 1 else picture.COLORS[1], run.label + " " if len(runs) > 1 else "")
    if floor is not None:
        axis.axhline(floor, color=picture.DARK, linewidth=1.2, linestyle=":")
        picture.name_end(axis, (max(axis.get_xlim()), floor), "floor %.3f" % floor, picture.DARK)
    axis.set_xlabel("step")
    picture.integers(axis)
    picture.save(figure, out)


def draw_run(picture, axis, run, color, val_color, prefix):
    train, val = run.train(), {step: loss for step, loss in run.result.val.items() if math.isfinite(loss)}
    top = max(axis.get_ylim())
    if train:
        averaged = picture.smooth(train, max(1, len(train) // 50))
        axis.plot(*zip(*sorted(train.items())), color=color, alpha=0.25, linewidth=0.8)
        axis.plot(*zip(*sorted(averaged.items())), color=color, linewidth=1.6)
        ends = [(step, loss) for step, loss in sorted(averaged.items()) if math.isfinite(loss)]
        name_curve(picture, axis, run, ends, "%strain" % prefix, color)
    if val:
        axis.plot(*zip(*sorted(val.items())), color=val_color, linestyle="--", linewidth=1.2, marker="o", markersize=5,
                  markerfacecolor="white", markeredgewidth=1.4)  # fmt: skip
        for step, loss in val.items():
            if loss > top:
                picture.mark_beyond(axis, step, val_color)
        last = max(val)
        picture.name_end(axis, (last, val[last]), "%svalidation %.3f" % (prefix, val[last]), val_color)
    for step in run.result.skipped:
        axis.plot([step], [0], transform=axis.get_xaxis_transform(), marker="v", markersize=6, color=color, clip_on=False,
                  linestyle="none")  # fmt: skip


def name_curve(picture, axis, run, points, text, color):
    """The name at a training curve's end; where it left the picture, or stopped for want of numbers, a mark."""
    if not points:
        return
    beyond, diverged = picture.leaves_at(axis, points), run.result.state == "diverged"
    if beyond is not None:
        picture.mark_beyond(axis, beyond, color)
        picture.name_beyond(axis, "%s %s" % (text, run.state() or "%.3g" % points[-1][1]), color)
        return
    if diverged:
        picture.mark_end(axis, points[-1], color)
    picture.name_end(axis, points[-1], "%s %s" % (text, run.state() if diverged else "%.3f" % points[-1][1]), color)


# ---------------------------------------------------------------------------------------------------- layers


def draw_layers(picture, runs, title, out):
    """One run over the steps, a line a layer; several by layer, a line a run."""
    fields = [field for field in FIELDS if any(run.result.layers(field[0]) for run in runs)]
    dashed = any(i > 0 for run in runs for field in fields for _, i in run.result.layers(field[0]))
    notes = ["Solid: the attention's, dashed: the MLP's."] if dashed else []
    notes += ["The last statistics of each run: %s." % ", ".join("%s at step %d" % (run.label, max(run.result.stats))
                                                              for run in runs)] if len(runs) > 1 else []  # fmt: skip
    figure, axes = picture.new_figure(len(fields), title, " ".join(notes), share_y=False)
    for axis, (field, name, spreads) in zip(axes, fields):
        draw = draw_field_over_steps if len(runs) == 1 else draw_field_by_layer
        values, lines = draw(picture, axis, runs, field)
        picture.scale_y([axis], values, lambda scale: "%s scale" % scale, 4 if spreads else math.inf)
        axis.set_ylabel("%s scale" % axis.get_yscale())
        axis.set_title(name, fontsize=10)
        for points, name, color in lines:
            beyond = picture.leaves_at(axis, points)
            if beyond is None and name:
                picture.name_end(axis, points[-1], name, color)
            elif beyond is not None:
                picture.mark_beyond(axis, beyond, color)
                picture.name_beyond(axis, name, color)
        axis.set_xlabel("step" if len(runs) == 1 else "layer")
        picture.integers(axis)
    if len(runs) == 1:
        layers = [layer for field in fields for layer, _ in runs[0].result.layers(field[0])]
        picture.layers_bar(figure, axes, [max(layers)])
    picture.save(figure, out)


def draw_field_over_steps(picture, axis, runs, field):
    curves = runs[0].result.layers(field)
    last = max(layer for layer, _ in curves)
    for (layer, i), points in sorted(curves.items()):
        axis.plot(*zip(*sorted(points.items())), color=picture.layer_color(layer, last), linestyle=picture.DASHES[i % 2],
                  linewidth=1.4, marker="." if len(points) < 3 else None)  # fmt: skip
    return [value for points in curves.values() for value in points.values()], []


def draw_field_by_layer(picture, axis, runs, field):
    """(values that set the scale: of runs that did not diverge, if there is one; [(points, name, color)])."""
    values, lines = [], []
    for number, run in enumerate(runs):
        color = picture.COLORS[number % len(picture.COLORS)]
        for i in (0, 1):
            points = sorted(run.result.by_layer(field, i).items())
            if not points:
                continue
            axis.plot(*zip(*points), color=color, linestyle=picture.DASHES[i], linewidth=1.6, marker="o", markersize=4,
                      markerfacecolor="white", markeredgewidth=1.2)  # fmt: skip
            values += [(run, value) for _, value in points]
            diverged = " (diverged)" if run.result.state == "diverged" else ""
            lines += [(points, run.label + diverged, color)] if i == 0 else []
    sound = [value for run, value in values if run.result.state != "diverged"]
    return sound or [value for _, value in values], lines


# ------------------------------------------------------------------------------------------------------- all


def outputs(runs, out):
    """(the loss's path, the layers'): `out` and beside it, or next to the run, or in the folder that all runs are in."""
    if out:
        if os.path.isdir(out):
            return os.path.join(out, "loss.png"), os.path.join(out, "layers.png")
        stem, extension = os.path.splitext(out)
        return (out, stem + "-layers" + extension) if extension else (out + ".png", out + "-layers.png")
    folders = [run.folder for run in runs]
    folder = folders[0] if len(set(folders)) == 1 else os.path.commonpath([os.path.dirname(folder) for folder in folders])
    return tuple(os.path.relpath(os.path.join(folder, name)) for name in ("loss.png", "layers.png"))


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="plot.py", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory, or its metrics.jsonl")
    parser.add_argument("--out", metavar="FILE", help="the loss's picture: .png, .svg, .pdf; the layers' is FILE-layers")
    parser.add_argument("--floor", metavar="X", help="draw a line at this loss: a number, or a language.json")
    parser.add_argument("--labels", metavar="A,B,…", help="names of the runs (default: their folders)")
    parser.add_argument("--title", metavar="TEXT", help="what the picture says above (default: the runs' names)")
    return parser.parse_args(arguments)


def load_picture():
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise Failure("matplotlib is missing: apt install python3-matplotlib, or pip install matplotlib") from None
    import picture

    return picture


def draw(chosen):
    """The paths it wrote."""
    labels = chosen.labels.split(",") if chosen.labels else [None] * len(chosen.runs)
    if len(labels) != len(chosen.runs):
        raise Failure("--labels: %d names for %d runs" % (len(labels), len(chosen.runs)))
    runs = [Drawn(path, label) for path, label in zip(chosen.runs, labels)]
    floor = read_floor(chosen.floor) if chosen.floor else None
    picture, paths = load_picture(), outputs(runs, chosen.out)
    names = runs[0].label if len(runs) == 1 else "%d runs" % len(runs)
    title = chosen.title or "Training of %s" % names
    watched = [run for run in runs if run.result.fields()]
    try:
        path = paths[0]
        draw_loss(picture, runs, floor, title, path)
        if not watched:
            return paths[:1]
        path = paths[1]
        draw_layers(picture, watched, "%s: layers" % title, path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise Failure("%s: %s%s" % (path, why, "" if chosen.out else "; --out FILE says another place")) from None
    return paths


def main(arguments):
    try:
        for path in draw(parse_arguments(arguments)):
            print("wrote %s" % path)
    except Failure as failure:
        print("plot.py: %s" % failure, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
