"""What is there to draw of a run? Its name, how far it came, its curves, thinned to what a picture can show; from a
metrics.jsonl that may be growing. Standard library only.
"""

import json
import math
import os
import sys

from sweeps import metrics

MOST = 2000  # points of a curve that a picture shows
SERIES = {name: i for i, name in enumerate(metrics.TRAIN_FIELDS)}


class Failure(Exception):
    """One line for people; exit 2."""


class Run:
    """A run under the name that it is drawn with. look() reads what is new of it. `patient`: it may have no losses yet,
    nor even a file."""

    def __init__(self, path, label, patient=False, program="plot.py"):
        self.path = (
            os.path.join(path, "metrics.jsonl")
            if os.path.isdir(path) or patient and not path.endswith(".jsonl")
            else path
        )
        self.folder = os.path.dirname(os.path.abspath(self.path))
        self.label, self.patient = label, patient
        self.reader, self.program, self.told, self.known = metrics.Reader(self.path), program, 0, {}
        self.look()
        if patient:
            return
        broken = self.result.broken_lines
        if not any(map(math.isfinite, [*self.series("loss").values(), *self.result.val.values()])):
            where = " (line %d is no line of metrics)" % broken[0] if broken else ""
            raise Failure("%s: holds no losses%s" % (self.path, where))

    @property
    def result(self):
        return self.reader.result

    def look(self):
        """Whether there was something new."""
        try:
            news = self.reader.look()
        except FileNotFoundError:
            if self.patient:
                return False
            raise Failure("%s: No such file or directory" % self.path) from None
        except OSError as error:
            raise Failure("%s: %s" % (self.path, error.strerror or error)) from None
        self.known = {} if news else self.known
        broken = self.result.broken_lines
        if len(broken) > self.told and len(broken) < self.reader.lines:
            print("%s: %s: passed over %d of its lines, which are none of metrics (the first is line %d)"
                  % (self.program, self.path, len(broken), broken[0]), file=sys.stderr)  # fmt: skip
        self.told = len(broken)
        return news

    def series(self, name):
        """{step: value} of one of metrics.TRAIN_FIELDS; not to be changed."""
        if name not in self.known:
            which = SERIES[name]
            self.known[name] = {step: record[which] for step, record in self.result.train.items()}
        return self.known[name]

    def state(self):
        """What is to be said of it beside its name."""
        result = self.result
        if result.state == "diverged":
            return "diverged at step %d" % result.step
        if result.state == "cut" and result.steps:
            return "step %d of %d" % (result.step, result.steps)
        return ""

    def ended(self):
        """Whether nothing more will come: done, diverged, or stopped with a word."""
        return self.result.state in ("done", "diverged") or bool(self.result.reason)

    def highest(self):
        """What its training began with, and a little: losses over it set no scale."""
        return 1.05 * self.result.first_loss()

    def sound_steps(self):
        """The steps whose loss is a number and no higher than that; all of them where there are none."""
        if "sound" not in self.known:
            top, losses = self.highest(), self.series("loss")
            self.known["sound"] = {step for step, loss in losses.items() if loss <= top} or set(losses)
        return self.known["sound"]


class Curve:
    """Points in the order of their steps: `mean` is what is drawn, `low` and `high` what it stands for."""

    def __init__(self, steps, mean, low, high):
        self.steps, self.mean, self.low, self.high = steps, mean, low, high
        self.thinned = any(high > low for low, high in zip(low, high))

    def points(self):
        return list(zip(self.steps, self.mean))


def thin(points, most=MOST):
    """The Curve of {step: value}. More than `most` are taken together by as many as need be; a point then stands at the
    last of its steps. What is not finite counts only where nothing else is."""
    steps = sorted(points)
    size = -(-len(steps) // most) or 1
    curve = [], [], [], []
    for i in range(0, len(steps), size):
        near = steps[i : i + size]
        values = [value for value in (points[step] for step in near) if math.isfinite(value)]
        some = (sum(values) / len(values), min(values), max(values)) if values else (math.nan,) * 3
        for row, value in zip(curve, (near[-1], *some)):
            row.append(value)
    return Curve(*curve)


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
