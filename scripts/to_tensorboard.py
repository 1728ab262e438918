#!/usr/bin/env python3
"""Passes a run's metrics.jsonl on to TensorBoard's files: curves, the layers' statistics, the flags as text.

    scripts/to_tensorboard.py out/run             → out/run/tensorboard/, then: tensorboard --logdir out/run/tensorboard
    scripts/to_tensorboard.py out/run --follow    goes along with the run until it ends

Called again it goes on where it left off (cursor.json beside the files). What a resumed run does over takes the place of what
was there. Needs the package tensorboard (PyTorch's writer is made of it) or tensorboardX.
"""

import argparse
import os
import sys

from watching.records import Cursor, Failure, Records, add_arguments, file_of, pass_on, scalars, tell


class Tensorboard:
    """Events by the package tensorboard itself."""

    def __init__(self, folder):
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2, types_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.event, self.summary = event_pb2, summary_pb2
        self.tensor, self.shape, self.types = tensor_pb2, tensor_shape_pb2, types_pb2
        self.writer = EventFileWriter(folder, max_queue_size=1000)

    def add(self, step, wall_time, values):
        values = [self.summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self.writer.add_event(
            self.event.Event(wall_time=wall_time, step=step, summary=self.summary.Summary(value=values))
        )

    def text(self, step, wall_time, name, text):
        kind = self.summary.SummaryMetadata(plugin_data=self.summary.SummaryMetadata.PluginData(plugin_name="text"))
        shape = self.shape.TensorShapeProto(dim=[self.shape.TensorShapeProto.Dim(size=1)])
        tensor = self.tensor.TensorProto(
            dtype=self.types.DT_STRING, string_val=[text.encode("utf-8", "replace")], tensor_shape=shape
        )
        value = self.summary.Summary.Value(tag=name, metadata=kind, tensor=tensor)
        self.writer.add_event(
            self.event.Event(wall_time=wall_time, step=step, summary=self.summary.Summary(value=[value]))
        )

    def back(self, step, wall_time):
        """All steps from here on are void."""
        start = self.event.SessionLog(status=self.event.SessionLog.START)
        self.writer.add_event(self.event.Event(wall_time=wall_time, step=step, session_log=start))

    def flush(self):
        self.writer.flush()

    def close(self):
        self.writer.close()


class TensorboardX:
    """The same by tensorboardX, which makes a file for each going back."""

    def __init__(self, folder, **more):
        from tensorboardX import SummaryWriter

        self.folder, self.make = folder, SummaryWriter
        self.writer = SummaryWriter(folder, **more)

    def add(self, step, wall_time, values):
        for name, value in values.items():
            self.writer.add_scalar(name, value, step, walltime=wall_time)

    def text(self, step, wall_time, name, text):
        self.writer.add_text(name, text, step, walltime=wall_time)

    def back(self, step, wall_time):
        self.writer.close()
        self.writer = self.make(self.folder, purge_step=step)

    def flush(self):
        self.writer.flush()

    def close(self):
        self.writer.close()


WRITERS = {"tensorboard": Tensorboard, "tensorboardX": TensorboardX}


def open_writer(folder, package):
    for name in [package] if package else WRITERS:
        try:
            return WRITERS[name](folder)
        except ImportError:
            pass
    raise Failure("no package that writes TensorBoard's files: pip install tensorboard (or tensorboardX)")


def table_of(flags):
    rows = ["| %s | %s |" % (name, str(value).replace("|", "\\|").replace("\n", " ")) for name, value in flags.items()]
    return "\n".join(["| flag | value |", "|---|---|", *rows])


class Wall:
    """When was a record written? The file says how long each step took, and its own last change is the last one's time."""

    def __init__(self, path):
        self.path = path

    def times(self, records):
        left = [record.get("ms") if record["type"] == "train" else 0 for record in records]
        left = [value * 1e-3 if isinstance(value, (int, float)) and 0 < value < 1e12 else 0.0 for value in left]
        time = os.path.getmtime(self.path) - sum(left)
        for record, seconds in zip(records, left):
            time += seconds
            yield record, time


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="to_tensorboard.py", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    add_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="the folder for TensorBoard's files (RUN/tensorboard)")
    parser.add_argument("--package", choices=list(WRITERS), help="which one writes (the first that is installed)")
    return parser.parse_args()


def main():
    chosen = parse_arguments()
    path = file_of(chosen.run)
    folder = chosen.out or os.path.join(os.path.dirname(path), "tensorboard")
    if not chosen.follow and not os.path.exists(path):
        raise Failure("%s: No such file or directory" % path)
    os.makedirs(folder, exist_ok=True)
    cursor, wall = Cursor(os.path.join(folder, "cursor.json")), Wall(path)
    before = cursor.read()
    records, writer = Records(path, before), open_writer(folder, chosen.package)
    given = bool(before)

    def give(batch):
        nonlocal given
        if given and (batch.anew or batch.back is not None):
            writer.back(0 if batch.anew else batch.back + 1, os.path.getmtime(path))
        given = True
        for record, time in wall.times(batch.records):
            values = scalars(record)
            if values:
                writer.add(record["step"], time, values)
            if isinstance(record.get("flags"), dict):
                writer.text(record["step"], time, "flags", table_of(record["flags"]))
        writer.flush()

    count = pass_on(records, cursor, give, chosen.follow, chosen.every)
    writer.close()
    print("%d records into %s; look at them with: tensorboard --logdir %s" % (count, folder, folder))


if __name__ == "__main__":
    sys.exit(tell("to_tensorboard.py", main))
