"""What the tests of scripts/sweep.py share: calling it, finished sweeps, and a script that stands in for the program
where that must misbehave on cue. Micro models of a few steps.
"""

import csv
import json
import os
import subprocess
import sys

import pytest

from program import PROGRAM, ROOT, environment

SWEEP = os.path.join(ROOT, "scripts", "sweep.py")
MICRO = ["preset=micro", "seq-len=16", "n-embd=16", "batch-size=4", "warmup-steps=0"]
MICRO = [word for flag in MICRO for word in ("--flag", flag)]
TWO = ["--variant", "pre: placement=pre", "--variant", "pre+gpas: placement=pre gpas=sublayer"]


def sweep_environment(**more):
    return environment(TRAIN_GPT=PROGRAM, **more)


def sweep(*arguments, code=0, cwd=None, plots=False, **env):
    arguments = arguments if plots else ("--no-plots", *arguments)
    done = subprocess.run(
        [sys.executable, SWEEP, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=sweep_environment(**env),
        cwd=cwd,
        timeout=120,
        check=False,
    )
    done.out, done.err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code, f"exit {done.returncode}, not {code}\n{done.out}\n{done.err}"
    return done


def run_directories(out):
    return sorted(
        name for name in os.listdir(out) if os.path.isdir(os.path.join(out, name)) and name[0] != "."
    )


def read_csv(out, name):
    with open(os.path.join(out, name), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stand_in(tmp_path, body):
    """A program that answers --dry-run and for a run does `body`, a shell script that knows $OUT."""
    path = tmp_path / "stand-in"
    path.write_text(
        '#!/bin/bash\nfor word; do case $word in --dry-run) exit 0;; --out=*) OUT="${word#--out=}";; esac; '
        "done\n" + body
    )
    path.chmod(0o755)
    return path


def a_run(steps, *, end=True, ms=10.0, start=0, loss=2.0):
    """Lines of metrics.jsonl as the program writes them."""
    lines = [
        {
            "type": "event",
            "event": "resume" if start else "start",
            "step": start,
            "version": "v",
            "device": "d",
            "flags": {"steps": steps},
        }
    ]
    last = steps if end else steps - 1
    for step in range(start + 1, last + 1):
        lines.append({"type": "train", "step": step, "loss": loss, "ms": ms, "tokens_per_s": 1e3 / ms})
    if end:
        lines.append({"type": "val", "step": steps, "loss": loss})
        lines.append({"type": "event", "event": "end", "step": steps, "reason": "all steps done"})
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, data):
    """A finished sweep: two variants, two seeds, two learning rates, with statistics."""
    out = str(tmp_path_factory.mktemp("swept") / "out")
    done = sweep(
        "--out",
        out,
        *data,
        *MICRO,
        *TWO,
        "--grid",
        "seed=1,2",
        "--grid",
        "lr=1e-3,3e-3",
        "--flag",
        "steps=12",
        "--flag",
        "val-every=4",
        "--flag",
        "stats-every=4",
        "--baseline",
        "pre",
        "--jobs",
        2,
        plots=True,
    )
    return out, done


def answering(tmp_path, loss, dry_run="pass", first="pass", steps=4):
    """A program that at once has the final validation loss that `loss`, an expression of Python over `flags` (a dictionary of
    texts), `lr` and `seed`, says: infinite is a run that diverged, None one that fails. `dry_run`, `first`: a line of Python
    before it answers a --dry-run, and before it runs."""
    path = tmp_path / "answering"
    path.write_text(
        f"""#!{sys.executable} -S
import json, math, os, sys
flags = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
lr, seed = float(flags.get("lr", "nan")), int(flags.get("seed", "0"))
def refuse(why):
    print("train_gpt: " + why, file=sys.stderr)
    sys.exit(2)
if "dry-run" in flags:
    {dry_run}
    print("batch: 512 tokens an update = 1; {steps} updates, 1 M tokens\\nparameters: 1000")
    sys.exit(0)
{first}
loss = {loss}
lines = [dict(type="event", event="start", step=0, version="v", device="d", flags=dict(steps={steps}))]
lines += [dict(type="train", step=step, loss=9.0, ms=1.0, tokens_per_s=1e3) for step in range(1, {steps} + 1)]
if loss is None:
    refuse("the disk is on fire")
if math.isinf(loss):
    lines.append(dict(type="event", event="diverged", step={steps}))
else:
    lines.append(dict(type="val", step={steps}, loss=loss))
    lines.append(dict(type="event", event="end", step={steps}, reason="all steps done"))
with open(os.path.join(flags["out"], "metrics.jsonl"), "w") as file:
    file.writelines(json.dumps(line) + "\\n" for line in lines)
sys.exit(3 if math.isinf(loss) else 0)
"""
    )
    path.chmod(0o755)
    return path
