"""What do the newcomer's scripts promise: the demo's verdict, plots, shell scripts that refuse what they do not know?"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from program import run_script

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import plot  # noqa: E402


def write_metrics(path, losses):
    lines = [{"type": "event", "what": "start"}]
    lines += [{"type": "train", "step": i, "loss": loss + 0.1, "lr": 1e-3} for i, loss in enumerate(losses)]
    lines += [{"type": "val", "step": i, "loss": loss} for i, loss in enumerate(losses)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"type":"tra')
    return path


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


def test_plot_reads_a_file_that_is_still_being_written_and_names_a_broken_one(tmp_path):
    losses = plot.read_losses(str(write_metrics(tmp_path / "m.jsonl", [3.0, 2.0, 1.0])))
    assert losses["val"] == ((0, 1, 2), (3.0, 2.0, 1.0))
    (tmp_path / "broken.jsonl").write_text('{"type":"train","step":1,"loss":2}\nnonsense\n\n')
    (tmp_path / "empty.jsonl").write_text('{"type":"event"}\n')
    for name, message in (
        ("broken.jsonl", "broken.jsonl:2: no line of metrics"),
        ("empty.jsonl", "holds no losses"),
        ("none.jsonl", "No such file"),
    ):
        done = run_script("scripts/plot.py", tmp_path / name)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_plot_draws_or_says_that_matplotlib_is_missing(tmp_path):
    metrics = write_metrics(tmp_path / "m.jsonl", [5.0, 3.0, 2.0, 1.0, 0.6])
    hidden = tmp_path / "hidden/matplotlib"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError")
    environment = dict(os.environ, PYTHONPATH=str(hidden.parent))
    done = run_script("scripts/plot.py", metrics, "--out", tmp_path / "loss.png", env=environment)
    assert done.returncode == 2 and "matplotlib is missing: apt install" in done.stderr
    pytest.importorskip("matplotlib")
    done = run_script("scripts/plot.py", metrics, metrics, "--out", tmp_path / "loss.png", "--floor", "0.5")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", ["quickstart.sh", "check.sh", "demo.sh", "packages.sh"])
def test_shell_scripts_parse_and_refuse_what_they_do_not_know(script):
    path = str(ROOT / "scripts" / script)
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    if script in ("quickstart.sh", "check.sh"):
        done = subprocess.run(["bash", path, "--nonsense"], capture_output=True, text=True)
        assert done.returncode == 2 and "only -y is understood" in done.stderr
