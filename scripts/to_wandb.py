#!/usr/bin/env python3
"""Passes a run's metrics.jsonl on to Weights & Biases: curves, the layers' statistics, all flags as its config.

    scripts/to_wandb.py out/run --offline         → out/run/wandb/, then: wandb sync out/run/wandb/offline-run-*
    scripts/to_wandb.py out/run --follow          goes along with the run until it ends, to the account of `wandb login`

Called again it goes on where it left off (wandb/cursor.json in the run). W&B takes nothing back: where a resumed run goes
behind what was passed on, a second W&B run begins there, in the same group. Needs the package wandb.
"""

import argparse
import os
import secrets
import sys

from watching.records import Cursor, Failure, Records, add_arguments, file_of, pass_on, scalars, tell


def load_wandb():
    try:
        import wandb
    except ImportError:
        raise Failure("wandb is missing: pip install wandb") from None
    return wandb


class Account:
    """The W&B run that is written into; another one where the run goes back, or is another."""

    def __init__(self, wandb, chosen, folder, before):
        self.wandb, self.chosen, self.folder = wandb, chosen, folder
        self.id, self.part = before.get("id"), before.get("part", 0)
        self.run, self.config = None, {}
        self.name = chosen.name or os.path.basename(os.path.abspath(folder))

    def open(self):
        if self.run:
            return
        name = self.name if self.part < 2 else "%s (part %d)" % (self.name, self.part)
        try:
            self.run = self.wandb.init(project=self.chosen.project, name=name, id=self.id, group=self.name, dir=self.folder, resume="allow",
                                       mode="offline" if self.chosen.offline else "online", config=self.config,
                                       settings=self.wandb.Settings(console="off", silent=True))  # fmt: skip
        except (self.wandb.Error, OSError) as error:
            said = str(error).splitlines() or [type(error).__name__]
            raise Failure(
                "wandb: %s%s" % (said[0], "" if self.chosen.offline else "; --offline needs no account")
            ) from None
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def begin(self):
        """A W&B run of its own from here on."""
        self.close()
        self.part += 1
        self.id = secrets.token_hex(4)

    def give(self, batch):
        if self.id is None or batch.anew or batch.back is not None:
            self.begin()
        for record in batch.records:
            if isinstance(record.get("flags"), dict):
                self.config = {**record["flags"], **{name: record[name] for name in ("version", "kernels", "device", "parameters", "from")
                                                     if name in record}}  # fmt: skip
                if self.run:
                    self.run.config.update(self.config, allow_val_change=True)
            values = scalars(record)
            if values:
                self.open()
                self.run.log({**values, "step": record["step"]})
            if record.get("event") in ("end", "diverged"):
                self.open()
                self.run.summary.update(
                    {name: value for name, value in record.items() if name not in ("type", "event")}
                )
        return {"id": self.id, "part": self.part}

    def close(self):
        if self.run:
            self.run.finish()
        self.run = None


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="to_wandb.py", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    add_arguments(parser)
    parser.add_argument("--offline", action="store_true", help="into files alone, for `wandb sync` later")
    parser.add_argument("--project", default="train_gpt", help="W&B's project (train_gpt)")
    parser.add_argument("--name", help="the run's name there (its folder)")
    return parser.parse_args()


def main():
    chosen = parse_arguments()
    path = file_of(chosen.run)
    folder = os.path.dirname(path) or "."
    if not chosen.follow and not os.path.exists(path):
        raise Failure("%s: No such file or directory" % path)
    wandb = load_wandb()
    os.makedirs(os.path.join(folder, "wandb"), exist_ok=True)
    cursor = Cursor(os.path.join(folder, "wandb", "cursor.json"))
    before = cursor.read()
    account = Account(wandb, chosen, folder, before)
    try:
        count = pass_on(Records(path, before), cursor, account.give, chosen.follow, chosen.every)
    finally:
        account.close()
    where = "; send them with: wandb sync %s/wandb/offline-run-*" % folder if chosen.offline else ""
    print("%d records to W&B%s" % (count, where))


if __name__ == "__main__":
    sys.exit(tell("to_wandb.py", main))
