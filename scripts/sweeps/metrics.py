"""How far did a run come, and what did it measure? Read from its metrics.jsonl.

A run that was cut and resumed has one file: what stands there from steps after the checkpoint that it went on
from is dropped, and a fresh start drops everything before it.
"""
import json
import math
import os
import sys

ALL_DONE = "all steps done"  # the reason in the `end` event of a complete run
TRAIN_FIELDS = ("loss", "ms", "tokens_per_s", "lr", "grad_norm")  # what Result.train holds of a step
WARM_STEPS = 2  # not timed: first touches of memory


class Result:
    """state: new | cut | done | diverged. `step`: finished updates; `steps`: all of them, if known."""

    def __init__(self):
        self.state, self.reason = "new", ""
        self.version, self.device, self.kernels = None, None, None  # kernels: device and type, cpu/bf16
        self.flags, self.parameters = {}, None
        self.step, self.steps, self.skipped, self.broken_lines = 0, None, {}, []
        self.train = {}  # step → (loss, milliseconds, tokens per second, learning rate, gradient norm), each maybe NaN
        self.val = {}  # step → loss
        self.stats = {}  # step → list of layers' dictionaries

    # ------------------------------------------------------------------------------------------ reading

    def take(self, record):
        kind, step = record["type"], int(record["step"])
        if not 0 <= step < 2**53:
            raise ValueError("no step")
        if kind == "train":
            if "loss" not in record:
                raise ValueError("no loss")
            if step <= self.step:  # the line that said that the run went back was lost
                self.forget_after(step - 1)
            self.train[step] = tuple(map(real, map(record.get, TRAIN_FIELDS)))
            self.step = step
        elif kind == "val":
            self.val[step] = real(record["loss"])
        elif kind == "stats":
            self.stats[step] = [dict(layer) for layer in record["layers"]]
        elif kind == "event":
            self.take_event(record["event"], step, record)

    def take_event(self, event, step, record):
        if event in ("start", "resume"):
            self.forget_after(0 if event == "start" else step)
            self.state, self.reason, self.step = "cut", "", step
            self.version, self.device, self.kernels = map(record.get, ("version", "device", "kernels"))
            self.flags, self.steps = dict(record["flags"]), int(record["flags"]["steps"])
            self.parameters = record["parameters"] if usable(record.get("parameters")) else None
        elif event == "skip":
            self.skipped[step] = str(record.get("reason"))
        elif event == "diverged":
            self.state, self.reason, self.step = "diverged", "not finite at step %d" % step, step
        elif event == "end":
            complete = record["reason"] == ALL_DONE and step == self.steps
            self.state, self.reason, self.step = "done" if complete else "cut", str(record["reason"]), step

    def forget_after(self, step):
        for points in (self.train, self.val, self.stats, self.skipped):
            for later in [key for key in points if key > step or step == 0]:
                del points[later]

    # ------------------------------------------------------------------------------------------- layers

    def fields(self):
        """What the layers' statistics hold, in the order of the file."""
        found = {name: True for layers in self.stats.values() for layer in layers for name in layer}
        return [name for name in found if name != "layer" and self.layers(name)]

    def layer_numbers(self):
        found = {layer.get("layer") for layers in self.stats.values() for layer in layers}
        return sorted(number for number in found if usable(number))

    def layers(self, field):
        """{(layer, i): {step: value}}; i counts the values of a layer that has several. What is not finite is not there."""
        curves = {}
        for step, layers in self.stats.items():
            for layer in layers:
                values = layer.get(field)
                for i, value in enumerate(values if isinstance(values, list) else [values]):
                    if usable(value) and usable(layer.get("layer")):
                        curves.setdefault((layer["layer"], i), {})[step] = value
        return curves

    def by_layer(self, field, i=0):
        """{layer: value} of the last statistics."""
        last = max(self.stats, default=0)
        curves = self.layers(field).items()
        return {layer: points[last] for (layer, which), points in curves if which == i and last in points}

    # ---------------------------------------------------------------------------------------- measuring

    def first_loss(self):
        return self.train[min(self.train)][0] if self.train else math.nan

    def train_loss(self):
        """Mean over the last tenth of the steps: one batch's loss is noise."""
        steps = sorted(self.train)
        return mean([self.train[step][0] for step in steps[-max(1, len(steps) // 10) :]])

    def final_val(self):
        return self.val[max(self.val)] if self.val else math.nan

    def best_val(self):
        losses = [loss for loss in self.val.values() if math.isfinite(loss)]
        return min(losses) if losses else math.nan

    def timed(self):
        steps = sorted(self.train)
        return steps[WARM_STEPS:] if len(steps) > WARM_STEPS else steps

    def step_ms(self):
        return median([self.train[step][1] for step in self.timed()])

    def quiet_ms(self):
        """A step's time when nothing disturbed it: of all, sorted by time, the one after the first tenth.
        What else runs on the machine only ever adds, and moves the median of one run and not of another."""
        times = sorted(time for time in (self.train[step][1] for step in self.timed()) if math.isfinite(time))
        return times[len(times) // 10] if times else math.nan

    def tokens_per_s(self):
        return median([self.train[step][2] for step in self.timed()])

    def divergence(self, above=None):
        """Why this run counts as diverged, or "". Not only what is not finite: also a complete run that ends
        over the loss `above` or, without that, a tenth over the loss of its own first step."""
        if self.state == "diverged":
            return self.reason
        if self.state != "done":
            return ""
        loss = self.final_val() if self.val else self.train_loss()
        if not math.isfinite(loss):
            return "the final loss is not finite" if self.val or self.train else ""
        limit = 1.1 * self.first_loss() if above is None else above
        return "ends at %.3f, over %.3f" % (loss, limit) if loss > limit else ""


def usable(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def real(value):
    """A JSON number; null is how a loss that is not finite is written."""
    if type(value) is float:  # nearly always, and there may be millions
        return value
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("not a number")
    return float(value)


def mean(values):
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else math.nan


def median(values):
    values = sorted(value for value in values if math.isfinite(value))
    if not values:
        return math.nan
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def deviation(values):
    """Sample standard deviation; NaN for fewer than two."""
    center = mean(values)
    if len(values) < 2 or math.isnan(center):
        return math.nan
    return math.sqrt(math.fsum((value - center) ** 2 for value in values) / (len(values) - 1))


def read(directory):
    """The Result in directory/metrics.jsonl; where there is none, a new one."""
    try:
        return read_file(os.path.join(directory, "metrics.jsonl"))
    except FileNotFoundError:
        return Result()


def read_file(path):
    """The Result in a file. Lines that are none, cut off for example, are passed over; `broken_lines` has their numbers,
    but not the last line's where it has no end yet: it is being written. OSError if it cannot be read."""
    reader = Reader(path)
    reader.look()
    return reader.result


class Reader:
    """The Result in a file that may be growing; each look() reads what is new. A file that has become shorter, or is
    another one, is read anew."""

    def __init__(self, path):
        self.path = path
        self.begin()

    def begin(self):
        self.result, self.offset, self.lines, self.file_id = Result(), 0, 0, None

    def look(self):
        """Whether there was something new. OSError if it cannot be read."""
        with open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size < self.offset or self.file_id not in (None, (status.st_dev, status.st_ino)):
                self.begin()
            self.file_id, before = (status.st_dev, status.st_ino), self.offset
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n") and not self.is_whole(line):
                    break
                self.lines += 1
                self.offset += len(line)
                self.take(line)
        return self.offset > before

    @staticmethod
    def is_whole(line):
        """A last line without its end may lack no more than that: a file that was edited by hand."""
        try:
            return isinstance(json.loads(line), dict)
        except (ValueError, RecursionError):
            return False

    def take(self, line):
        try:
            if line.strip():
                self.result.take(json.loads(line.decode()))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            self.result.broken_lines.append(self.lines)


class Tail:
    """The last training step in a file that is still being written; looks only at what is new."""

    def __init__(self, directory):
        self.path, self.step, self.loss = os.path.join(directory, "metrics.jsonl"), 0, math.nan
        self.offset = os.path.getsize(self.path) if os.path.exists(self.path) else 0

    def look(self):
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                text = file.read()
        except OSError:
            return
        whole = text.rfind(b"\n") + 1
        self.offset += whole
        for line in reversed(text[:whole].splitlines()):
            if line.startswith(b'{"type":"train"'):
                try:
                    record = json.loads(line)
                    self.step, self.loss = int(record["step"]), real(record["loss"])
                except (ValueError, KeyError, TypeError):
                    pass
                return
