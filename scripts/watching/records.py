"""What has a run said since we last looked? Its metrics.jsonl line by line, for programs that pass it on: from where they left
off, without what a resume has overtaken. Standard library only.
"""

import hashlib
import json
import os
import sys
import time

from watching.fields import FIELDS, SUBLAYERS
from watching.runs import Failure

MOST = 200_000  # records at a time
TRAIN = {"loss": "train/loss", "lr": "train/lr", "grad_norm": "train/grad_norm", "tokens_per_s": "speed/tokens_per_s",
         "ms": "speed/ms", "mfu": "speed/mfu"}  # fmt: skip


class Batch:
    """Records in the order of the file. `back`: None, or the step after which all that was given before, up to step `given`, is
    void, as the run went on from there; `anew`: it is another run, or one that began again."""

    def __init__(self, given):
        self.given, self.records, self.back, self.anew = given, [], None, False


class Records:
    """Reads whole lines from where `cursor` says, a dictionary that is kept between processes as JSON: {} at first."""

    def __init__(self, path, cursor):
        self.path, self.broken = path, 0
        self.offset, self.mark = cursor.get("offset", 0), cursor.get("mark", "")
        self.step, self.ended = cursor.get("step", 0), cursor.get("ended", False)
        self.anew = not cursor

    def cursor(self):
        return {"offset": self.offset, "mark": self.mark, "step": self.step, "ended": self.ended}

    @staticmethod
    def mark_of(file, offset):
        """What stands before an offset: if that has changed, the file is another one, whatever its name and its inode."""
        file.seek(max(0, offset - 4096))
        return hashlib.sha256(file.read(min(offset, 4096))).hexdigest()

    def batches(self):
        """Batches of what is new; none if nothing is. OSError."""
        with open(self.path, "rb") as file:
            if self.offset and self.mark_of(file, self.offset) != self.mark:
                self.offset, self.step, self.ended, self.anew = 0, 0, False, True
            file.seek(self.offset)
            while True:
                batch, at = Batch(self.step), self.offset
                batch.anew, self.anew = self.anew, False
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self.offset += len(line)
                    self.take(batch, line)
                    if len(batch.records) >= MOST:
                        break
                if self.offset == at:
                    self.anew = batch.anew
                    return
                self.mark = self.mark_of(file, self.offset)
                file.seek(self.offset)
                yield batch

    def take(self, batch, line):
        try:
            record = json.loads(line)
            kind, step = record["type"], int(record["step"])
            event = record["event"] if kind == "event" else None
            if kind not in ("train", "val", "stats", "event") or not 0 <= step < 2**53:
                return
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            self.broken += 1
            return
        if event == "start":
            self.forget(batch, 0)
        elif event == "resume":
            self.forget(batch, step)
        elif kind == "train" and step <= self.step:
            self.forget(batch, step - 1)
        self.step = step if kind == "train" or event in ("start", "resume") else self.step
        self.ended = event in ("end", "diverged") if event else self.ended and kind != "train"
        batch.records.append(record)

    def forget(self, batch, step):
        """The run goes on after `step`: what came of later ones is void. After 0 it begins again."""
        if step < self.step:
            batch.records = [record for record in batch.records if record["step"] <= step and step > 0]
        if step < batch.given:
            batch.back = step if batch.back is None else min(batch.back, step)
            batch.anew = batch.anew or step == 0


def scalars(record):
    """{name: number} of a record; null, as a loss that is none is written, is NaN."""
    found = {}
    if record["type"] == "train":
        found = {
            TRAIN[name]: record[name]
            for name in TRAIN
            if name in record and (record[name] is not None or name == "loss")
        }
    elif record["type"] == "val":
        found = {"val/loss": record.get("loss")}
    elif record["type"] == "stats":
        found = layer_scalars(record.get("layers"))
    elif record.get("event") == "skip":
        found = {"train/skipped": 1}
    return {name: number(value) for name, value in found.items() if value is None or is_number(value)}


def layer_scalars(layers):
    """residual_rms/layer_03, gate/layer_03_attention, gate/layer_03_MLP: a group a field, which is what one compares."""
    found = {}
    for layer in layers if isinstance(layers, list) else []:
        if not isinstance(layer, dict) or not isinstance(layer.get("layer"), int):
            continue
        for field in FIELDS:
            value, name = layer.get(field.name), "%s/layer_%02d" % (field.name, layer["layer"])
            if isinstance(value, list) and len(value) > 1:
                found.update({"%s_%s" % (name, part): one for part, one in zip(SUBLAYERS, value)})
            elif value is not None:
                found[name] = value[0] if isinstance(value, list) and value else value
    return found


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(value):
    try:
        return float("nan") if value is None else float(value)
    except OverflowError:
        return float("inf")


class Cursor:
    """A small JSON file beside what was passed on, replaced whole."""

    def __init__(self, path):
        self.path = path

    def read(self):
        try:
            with open(self.path, encoding="utf-8") as file:
                value = json.load(file)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise Failure("%s: %s; without this file all is passed on anew" % (self.path, error)) from None
        if not isinstance(value, dict) or not all(isinstance(value.get(name), kind) for name, kind in
                                                  (("offset", int), ("mark", str), ("step", int))):  # fmt: skip
            raise Failure("%s: not written by this script; without this file all is passed on anew" % self.path)
        return value

    def write(self, value):
        partial = self.path + ".partial"
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(value, file)
        os.replace(partial, self.path)


def pass_on(records, cursor, give, follow, every):
    """Gives each batch to give(batch), which returns what the cursor is to hold beside the place; with `follow` until the
    run has ended. Returns how many records there were."""
    count = 0
    while True:
        try:
            for batch in records.batches():
                more = give(batch)
                cursor.write({**records.cursor(), **(more or {})})
                count += len(batch.records)
        except FileNotFoundError:
            if not follow:
                raise Failure("%s: No such file or directory" % records.path) from None
        if not follow or records.ended:
            if records.broken:
                program = os.path.basename(sys.argv[0])
                print("%s: %s: passed over %d of its lines, which are none of metrics" % (program, records.path, records.broken),
                      file=sys.stderr)  # fmt: skip
            return count
        time.sleep(every)


def file_of(run):
    return run if run.endswith(".jsonl") else os.path.join(run, "metrics.jsonl")


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN", help="a run's directory, or its metrics.jsonl")
    parser.add_argument("--follow", action="store_true", help="go along with the run until it ends")
    parser.add_argument("--every", metavar="SECONDS", type=float, default=5, help="with --follow: look that often (5)")


def tell(program, main):
    """Runs main(); what it cannot do is one line, and exit 2 (1 for the machine)."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except Failure as failure:
        print("%s: %s" % (program, failure), file=sys.stderr)
        return 2
    except OSError as error:
        print("%s: %s: %s" % (program, error.filename, error.strerror or error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
