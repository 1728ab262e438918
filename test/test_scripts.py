"""What do the newcomer's scripts promise: the demo's verdict, shell scripts that refuse what they do not know?"""
import json
import os
import subprocess
from pathlib import Path

import pytest

from program import run_script

ROOT = Path(__file__).resolve().parent.parent

@pytest.mark.parametrize(
    "loss, counts, code", [(0.54, 1.2, 0), (0.56, 1.2, 1), (0.47, 1.2, 1), (0.54, 0.7, 1), (None, 1.2, 1)]
)
def test_the_demo_fails_unless_the_loss_is_near_the_floor(tmp_path, loss, counts, code):
    facts = {"floor_nats_per_token": 0.5, "order2_nats_per_token": counts}
    (tmp_path / "l.json").write_text(json.dumps(facts))
    lines = [{"type": "val", "step": 1, "loss": 3.0}, {"type": "val", "step": 2, "loss": loss}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run_script("scripts/demo_verdict.py", tmp_path / "m.jsonl", tmp_path / "l.json")
    shown = "nan" if loss is None else "%.3f" % loss
    assert done.returncode == code
    assert done.stdout.splitlines()[-2:] == [
        "demo: order-2 count model %.3f nats/token" % counts,
        "demo: val loss %s nats/token, floor 0.500" % shown,
    ]


@pytest.mark.parametrize("script", ["quickstart.sh", "check.sh", "demo.sh", "packages.sh"])
def test_shell_scripts_parse_and_refuse_what_they_do_not_know(script):
    path = str(ROOT / "scripts" / script)
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    if script in ("quickstart.sh", "check.sh"):
        done = subprocess.run(["bash", path, "--nonsense"], capture_output=True, text=True)
        assert done.returncode == 2 and "only -y is understood" in done.stderr


@pytest.mark.parametrize("steps", ["0", "-5", "many", ""])
def test_the_demo_refuses_what_is_no_number_of_steps(steps):
    run = dict(os.environ, DEMO_STEPS=steps or " ")
    done = subprocess.run(["bash", str(ROOT / "scripts/demo.sh")], env=run, capture_output=True, text=True)
    assert done.returncode == 2 and "a number of steps is needed" in done.stderr


@pytest.mark.parametrize("steps", [1, 20, 1600])
def test_a_short_demo_is_the_long_one_in_small(tmp_path, steps):
    """The flags that the demo gives the program: of a program that only writes them down, and fails."""
    for folder in ("scripts", "data", "build/demo"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "scripts/demo.sh").write_bytes((ROOT / "scripts/demo.sh").read_bytes())
    (tmp_path / "build/demo/language.json").write_text("{}")
    (tmp_path / "train_gpt").write_text('#!/bin/sh\necho "$@" > flags\nexit 9\n')
    (tmp_path / "train_gpt").chmod(0o755)
    run = dict(os.environ, DEMO_STEPS=str(steps))
    done = subprocess.run(["bash", str(tmp_path / "scripts/demo.sh")], env=run, capture_output=True, text=True)
    flags = (tmp_path / "flags").read_text().split()
    assert done.returncode == 9, done.stderr
    value = lambda name: int(flags[flags.index(name) + 1])  # noqa: E731
    expected = {1: (1, 1, 1), 20: (1, 5, 1), 1600: (80, 400, 100)}[steps]
    assert (value("--warmup-steps"), value("--val-every"), value("--log-every")) == expected
