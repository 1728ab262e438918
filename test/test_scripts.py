"""What do the newcomer's scripts promise: the demo's verdict, shell scripts that refuse what they do not know?"""
import json
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
