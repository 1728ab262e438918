"""What does scripts/sweep.py promise: which runs, how they survive being stopped, and is its table right?

Micro models of a few steps. Where the program must misbehave on cue, a script stands in for it.
"""

import csv
import hashlib
import itertools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import pytest

from program import PROGRAM, ROOT, environment, events, file_bytes, losses, metrics

SWEEP = os.path.join(ROOT, "scripts", "sweep.py")
MICRO = [
    "--flag",
    "preset=micro",
    "--flag",
    "seq-len=16",
    "--flag",
    "n-embd=16",
    "--flag",
    "batch-size=4",
    "--flag",
    "warmup-steps=0",
]
TWO = ["--variant", "pre: placement=pre", "--variant", "pre+gpas: placement=pre gpas=sublayer"]

sys.path.insert(0, os.path.join(ROOT, "scripts"))
from sweeps import grid as grids  # noqa: E402
from sweeps import metrics as measures  # noqa: E402


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


# ------------------------------------------------------------------------------------------------- which runs


def grid_of(text, tmp_path):
    path = tmp_path / "g.ini"
    path.write_text(text)
    return grids.read(str(path))


def test_a_grid_is_every_combination_and_x5_multiplies(tmp_path):
    plan = grids.expand(
        grid_of(
            "[grid]\nseed = 1, 2\n[flags]\nlr = 1e-3\ninit-std = 0.02\n"
            "[variant a]\nnorm = dyt\n[variant b]\n"
            "[stress none]\n[stress lr-x5]\nlr = x5\ninit-std = x0.1\n",
            tmp_path,
        )
    )
    found = {(run.labels["variant"], run.labels["stress"], run.labels["seed"]) for run in plan.runs}
    assert found == set(itertools.product("ab", ["none", "lr-x5"], "12")) and len(plan.runs) == 8
    for run in plan.runs:
        stressed = run.labels["stress"] == "lr-x5"
        assert run.flags["lr"] == ("0.005" if stressed else "1e-3")
        assert float(run.flags["init-std"]) == (0.002 if stressed else 0.02)
        assert run.flags.get("norm") == ("dyt" if run.labels["variant"] == "a" else None)


def test_a_name_is_readable_and_depends_on_the_flags_alone(tmp_path):
    first = grids.expand(
        grid_of("[flags]\nsteps = 10\nlr = 0.001\n[grid]\nseed = 1\n[variant p]\nplacement = pre\n", tmp_path)
    )
    again = grids.expand(
        grid_of(
            "[variant p]\nplacement = pre\n[grid]\nseed = 1\n[flags]\nsave-every = 5\nlr = 1.0e-3\n"
            "steps = 10\n",
            tmp_path,
        )
    )
    other = grids.expand(
        grid_of("[flags]\nsteps = 11\nlr = 0.001\n[grid]\nseed = 1\n[variant p]\nplacement = pre\n", tmp_path)
    )
    assert first.runs[0].name == again.runs[0].name != other.runs[0].name
    # Written out: a name of today is the name of next year.
    digits = hashlib.sha256(b"lr=0.001\nplacement=pre\nseed=1\nsteps=10").hexdigest()[:8]
    assert first.runs[0].name == "p_seed=1_" + digits


def test_the_command_line_wins_over_the_file(tmp_path):
    grid = grid_of("[flags]\nsteps = 10\nstats-every = 5\n[grid]\nseed = 1, 2, 3\nlr = x1, x2\n", tmp_path)
    grids.set_flag(grid, "seed", "7", "test")
    grids.set_flag(grid, "lr", "1e-4", "test")
    grids.set_flag(grid, "stats-every", "", "test")
    grids.set_axis(grid, "steps", "10,20", "test")
    plan = grids.expand(grid)
    assert [(run.flags["steps"], run.flags["seed"], run.flags["lr"]) for run in plan.runs] == [
        ("10", "7", "1e-4"),
        ("20", "7", "1e-4"),
    ]
    assert all("stats-every" not in run.flags for run in plan.runs)


def test_every_ready_made_grid_is_accepted_by_the_program():
    counts = {"gpas": 12 * 2, "sdd-robust": 4 * 4, "bhyt": 7 * 2, "depth": 4 * 4}
    assert set(grids.ready_made()) == set(counts)
    for name, count in counts.items():
        plan = grids.expand(grids.read(name))
        plan.check_baseline()
        assert len(plan.runs) == count and plan.baseline
        for run in plan.runs:
            if run.flags["seed"] == "1":
                flags = ["--%s=%s" % item for item in run.flags.items()]
                done = subprocess.run(
                    [PROGRAM, "--dry-run", *flags],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment(),
                    check=False,
                )
                assert done.returncode == 0, f"{name}: {run.name}: {done.stderr.decode()}"


def test_each_placement_of_the_gpas_grid_differs_from_its_twin_by_gpas_alone():
    runs = {
        run.labels["variant"]: run.flags
        for run in grids.expand(grids.read("gpas")).runs
        if run.flags["seed"] == "1"
    }
    for name in ("pre", "post", "sandwich", "deepnorm", "mix", "lns"):
        assert runs[name]["placement"] == name and "gpas" not in runs[name]
        assert dict(runs[name], gpas="layer") == runs[name + "+gpas"]


# -------------------------------------------------------------------------------------------------- the table


def test_the_table_holds_what_the_runs_measured(swept):
    out, _ = swept
    rows = read_csv(out, "table.csv")
    assert [(row["variant"], row["lr"]) for row in rows] == list(
        itertools.product(["pre", "pre+gpas"], ["0.001", "0.003"])
    )
    for row in rows:
        names = [
            name
            for name in run_directories(out)
            if name.startswith("%s_lr=%s_" % (row["variant"], row["lr"]))
        ]
        assert len(names) == 2
        finals = [[record["loss"] for record in metrics(os.path.join(out, name), "val")] for name in names]
        last, best = [losses[-1] for losses in finals], [min(losses) for losses in finals]
        # The table's eight digits.
        assert float(row["final_val_mean"]) == pytest.approx(statistics.mean(last), rel=1e-7)
        assert float(row["final_val_std"]) == pytest.approx(statistics.stdev(last), rel=1e-6)
        assert float(row["best_val_mean"]) == pytest.approx(statistics.mean(best), rel=1e-7)
        speeds = [
            statistics.median(record["tokens_per_s"] for record in metrics(os.path.join(out, name))[2:])
            for name in names
        ]
        assert float(row["tokens_per_s"]) == pytest.approx(statistics.median(speeds), rel=1e-5)
        assert (row["runs"], row["done"], row["diverged"]) == ("2", "2", "0")
    markdown = file_bytes(out, "table.md").decode()
    first = "%.4f ± %.4f" % (float(rows[0]["final_val_mean"]), float(rows[0]["final_val_std"]))
    assert "| pre | 0.001 | %s |" % first in markdown and "over pre" in markdown
    assert len(read_csv(out, "runs.csv")) == 8


def test_overhead_is_the_step_time_over_the_baseline_of_the_same_row(tmp_path):
    out = tmp_path / "out"
    plan = grids.expand(
        grid_of(
            "[sweep]\nbaseline = a\n[grid]\nlr = 1e-3, 2e-3\n[variant a]\n[variant b]\ngpas = layer\n",
            tmp_path,
        )
    )
    times = {("a", "0.001"): 10.0, ("b", "0.001"): 11.0, ("a", "0.002"): 20.0, ("b", "0.002"): 25.0}
    for run in plan.runs:
        (out / run.name).mkdir(parents=True)
        text = a_run(40, ms=times[run.labels["variant"], run.labels["lr"]])
        # More than half of the steps were disturbed by something else: the comparison must not see it.
        lines = text.splitlines()
        if run.labels["variant"] == "b":
            lines[12:36] = [line.replace('"ms":', '"ms":9') for line in lines[12:36]]
        (out / run.name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    plan.write(str(out))
    sweep("--out", out, "--report")
    overheads = [float(row["overhead"]) for row in read_csv(out, "table.csv")]
    assert overheads == pytest.approx([0, 0, 0.1, 0.25], abs=1e-6)


def test_plots_are_pictures_with_something_in_them(swept):
    matplotlib = pytest.importorskip("matplotlib.image")
    out, done = swept
    for name in ("loss.png", "residual.png", "residual-over-time.png", "gates.png"):
        assert name in done.out
        picture = matplotlib.imread(os.path.join(out, name))[:, :, :3]
        assert picture.shape[0] > 300 and picture.shape[1] > 400
        colorful = (picture.max(axis=2) - picture.min(axis=2) > 0.3).mean()
        assert colorful > 5e-4, f"{name} holds no lines"
    assert not os.path.exists(os.path.join(out, "lambda.png"))  # nobody has a λ here


def test_without_matplotlib_there_is_a_table_and_a_word_about_it(swept, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    out = tmp_path / "out"
    out.mkdir()
    for name in run_directories(swept[0]):
        os.symlink(os.path.join(swept[0], name), out / name)
    (out / "sweep.json").write_bytes(file_bytes(swept[0], "sweep.json"))
    done = sweep("--out", out, "--report", plots=True, PYTHONPATH=str(tmp_path))
    assert "matplotlib is not installed" in done.out
    assert file_bytes(out, "table.csv") == file_bytes(swept[0], "table.csv")


# ----------------------------------------------------------------------------- stopped, resumed, done, failed


def test_a_second_call_runs_nothing(swept):
    out, _ = swept
    before = {name: file_bytes(out, name, "metrics.jsonl") for name in run_directories(out)}
    done = sweep("--out", out)
    assert "8 runs, 0 of them to do" in done.out
    assert before == {name: file_bytes(out, name, "metrics.jsonl") for name in run_directories(out)}


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def trained_some(out):
    if not os.path.exists(os.path.join(out, "sweep.json")):
        return 0
    files = [os.path.join(out, name, "metrics.jsonl") for name in run_directories(out)]
    return sum(os.path.exists(path) and b'"train"' in file_bytes(path) for path in files)


def test_ctrl_c_saves_the_runs_and_the_next_call_ends_with_the_same_bits(tmp_path, data):
    arguments = [
        *data,
        *MICRO,
        *TWO,
        "--flag",
        "steps=2500",
        "--flag",
        "lr=1e-3",
        "--flag",
        "val-every=1000",
        "--jobs",
        "2",
    ]
    out, whole = str(tmp_path / "cut"), str(tmp_path / "whole")
    child = subprocess.Popen(
        [sys.executable, SWEEP, "--no-plots", "--out", out, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=sweep_environment(),
    )
    wait_for(lambda: trained_some(out) == 2)
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=60)[0].decode()
    assert child.returncode == 128 + signal.SIGINT, said
    assert "0 of 2 runs have a result. To go on: " in said and out in said.split("To go on: ")[1]
    assert all(row["state"] == "cut" for row in read_csv(out, "runs.csv"))
    for name in run_directories(out):
        assert any(
            entry.startswith("step_") for entry in os.listdir(os.path.join(out, name))
        ), "no checkpoint"
        assert metrics(os.path.join(out, name), "event")[-1]["reason"] == "SIGTERM"
    sweep("--out", out)
    sweep("--out", whole, *arguments)
    assert run_directories(out) == run_directories(whole)
    for name in run_directories(out):
        assert (
            "resume" in events(os.path.join(out, name))
            and events(os.path.join(out, name)).count("start") == 1
        )
        assert losses(os.path.join(out, name)) == losses(os.path.join(whole, name))
    assert [row["final_val_mean"] for row in read_csv(out, "table.csv")] == [
        row["final_val_mean"] for row in read_csv(whole, "table.csv")
    ]


def test_a_diverged_run_is_a_result_and_not_tried_again(tmp_path, data):
    out = str(tmp_path / "out")
    arguments = [
        "--out",
        out,
        *data,
        *MICRO,
        "--flag",
        "steps=40",
        "--flag",
        "grad-clip=0",
        "--variant",
        "good: lr=1e-3",
        "--variant",
        "bad: lr=100 gpas=layer gpas-act=identity",
    ]
    sweep(*arguments)
    good, bad = read_csv(out, "table.csv")
    assert (good["diverged"], good["done"], bad["diverged"], bad["done"]) == ("0", "1", "1", "0")
    assert bad["final_val_mean"] == "" and bad["why_diverged"].startswith("not finite at step ")
    assert "| bad | – | – | – |" in file_bytes(out, "table.md").decode()
    assert "2 runs, 0 of them to do" in sweep("--out", out).out


def test_a_run_that_ends_over_the_limit_has_diverged(tmp_path, data):
    out = str(tmp_path / "out")
    sweep("--out", out, *data, *MICRO, "--flag", "steps=3", "--grid", "lr=1e-4,1e-3")
    final = [float(row["final_val_mean"]) for row in read_csv(out, "table.csv")]
    assert final[0] > final[1] and not any(int(row["diverged"]) for row in read_csv(out, "table.csv"))
    sweep("--out", out, "--report", "--diverged-above", "%.6f" % (sum(final) / 2))
    assert [row["diverged"] for row in read_csv(out, "table.csv")] == ["1", "0"]


def test_a_run_that_failed_is_reported_and_tried_again(tmp_path, data):
    (tmp_path / "good.jsonl").write_text(a_run(5))
    program = stand_in(
        tmp_path,
        f'[ -e {tmp_path}/works ] || {{ echo "train_gpt: the disk is on fire" >&2; exit 1; }}\n'
        f'cat {tmp_path}/good.jsonl > "$OUT/metrics.jsonl"\n',
    )
    arguments = ["--out", tmp_path / "out", "--program", program, *data, "--flag", "steps=5"]
    done = sweep(*arguments, code=1)
    assert "failed: " in done.out and "train_gpt: the disk is on fire" in done.out
    assert "the disk is on fire" in read_csv(tmp_path / "out", "runs.csv")[0]["failure"]
    (tmp_path / "works").touch()
    sweep(*arguments)
    assert read_csv(tmp_path / "out", "runs.csv")[0]["state"] == "done"


def test_a_run_that_was_killed_is_told_by_its_signal(tmp_path, data):
    program = stand_in(tmp_path, "kill -SEGV $$\n")
    done = sweep("--out", tmp_path / "out", "--program", program, *data, "--flag", "steps=5", code=1)
    assert "killed by SIGSEGV" in done.out


def test_a_run_whose_sweep_was_killed_is_left_alone_while_it_lives(tmp_path, data):
    (tmp_path / "good.jsonl").write_text(a_run(5))
    program = stand_in(
        tmp_path,
        f"echo once >> {tmp_path}/starts\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.05; done\n"
        f'cat {tmp_path}/good.jsonl > "$OUT/metrics.jsonl"\n',
    )
    arguments = ["--out", str(tmp_path / "out"), "--program", str(program), *data, "--flag", "steps=5"]
    child = subprocess.Popen(
        [sys.executable, SWEEP, *arguments], stdout=subprocess.DEVNULL, env=sweep_environment()
    )
    wait_for((tmp_path / "starts").exists)
    child.kill()
    child.wait()
    try:
        assert "another process runs it" in sweep(*arguments, code=1).out
    finally:
        (tmp_path / "go").touch()
    metrics_file = tmp_path / "out" / run_directories(tmp_path / "out")[0] / "metrics.jsonl"
    wait_for(lambda: metrics_file.exists() and b'"end"' in file_bytes(metrics_file))
    assert "0 of them to do" in sweep(*arguments).out
    assert (tmp_path / "starts").read_text() == "once\n"


def test_no_more_runs_at_a_time_than_jobs(tmp_path, data):
    (tmp_path / "good.jsonl").write_text(a_run(5))
    program = stand_in(
        tmp_path,
        f"echo + >> {tmp_path}/trace; sleep 0.2; echo - >> {tmp_path}/trace\n"
        f'cat {tmp_path}/good.jsonl > "$OUT/metrics.jsonl"\n',
    )
    sweep(
        "--out",
        tmp_path / "out",
        "--program",
        program,
        *data,
        "--flag",
        "steps=5",
        "--grid",
        "seed=1,2,3,4,5",
        "--jobs",
        2,
    )
    alive = list(
        itertools.accumulate(1 if mark == "+" else -1 for mark in (tmp_path / "trace").read_text().split())
    )
    assert max(alive) == 2 and len(alive) == 10


# ---------------------------------------------------------------------------------------------------- reading


def read_metrics(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    return measures.read(str(tmp_path))


def test_what_came_after_the_checkpoint_of_a_resume_is_dropped(tmp_path):
    result = read_metrics(tmp_path, a_run(10, end=False, loss=9.0) + a_run(10, start=6, loss=1.0))
    assert [result.train[step][0] for step in range(1, 11)] == [9.0] * 6 + [1.0] * 4
    assert result.state == "done" and result.final_val() == 1.0
    result = read_metrics(tmp_path, a_run(10, end=False, loss=9.0) + a_run(10, start=6).splitlines()[0])
    assert sorted(result.train) == list(range(1, 7)) and result.step == 6
    result = read_metrics(
        tmp_path, a_run(10, end=False, loss=9.0) + a_run(8, loss=1.0)
    )  # from the beginning again
    assert sorted(result.train) == list(range(1, 9)) and result.state == "done"


def test_only_a_complete_run_is_done(tmp_path):
    assert measures.read(str(tmp_path)).state == "new"
    assert read_metrics(tmp_path, a_run(10, end=False)).state == "cut"
    assert read_metrics(tmp_path, a_run(10).replace("all steps done", "--max-minutes")).state == "cut"
    assert read_metrics(tmp_path, a_run(10)).state == "done"
    # Resumed after its end, with nothing in the file yet but the resume.
    assert read_metrics(tmp_path, a_run(10) + a_run(10, start=6).splitlines()[0] + "\n").state == "cut"


def test_a_broken_line_costs_that_line_only(tmp_path):
    text = a_run(10)
    for junk in (
        '{"type":"train","step":3,"lo',
        "[]",
        '{"type":"train","step":"x"}',
        '{"type":"stats","step":1,"layers":7}',
        '{"type":"val","step":1e999,"loss":1}',
        "\x00\xff",
        "[" * 100000,
    ):
        lines = text.splitlines()
        lines.insert(4, junk)
        result = read_metrics(tmp_path, "\n".join(lines))
        assert result.state == "done" and result.broken_lines == 1 and len(result.train) == 10


def test_a_loss_that_is_not_finite_stays_out_of_means_and_is_not_zero(tmp_path):
    result = read_metrics(
        tmp_path, a_run(10).replace('"type":"val","step":10,"loss":2.0', '"type":"val","step":10,"loss":null')
    )
    assert math.isnan(result.final_val()) and math.isnan(result.best_val())
    assert result.divergence() == "the final loss is not finite"


def test_without_a_limit_a_run_has_diverged_a_tenth_above_its_first_loss(tmp_path):
    for last, diverged in ((2.0, False), (2.19, False), (2.21, True)):
        result = read_metrics(
            tmp_path,
            a_run(10).replace('"type":"val","step":10,"loss":2.0', '"type":"val","step":10,"loss":%f' % last),
        )
        assert bool(result.divergence()) == diverged


# ------------------------------------------------------------------------------------------------------ Slurm


def test_a_slurm_array_task_trains_its_run_and_the_report_follows(tmp_path, data):
    out, script = str(tmp_path / "the out"), str(tmp_path / "array.sh")
    arguments = ["--out", out, *data, *MICRO, *TWO, "--flag", "steps=3"]
    sweep(*arguments, "--slurm", script, "--sbatch=--time=1:00:00", "--jobs", 3)
    text = file_bytes(script).decode()
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    for line in ("--array=0-1%3", "--time=1:00:00", "--cpus-per-task=1", "--signal=B:TERM@120"):
        assert "\n#SBATCH %s\n" % line in text
    assert run_directories(out) == []
    for task in (1, 0):
        done = subprocess.run(
            ["bash", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            env=sweep_environment(SLURM_ARRAY_TASK_ID=str(task)),
            timeout=60,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert len(run_directories(out)) == 2 - task
    sweep("--out", out, "--report")
    assert [row["done"] for row in read_csv(out, "table.csv")] == ["1", "1"]
    assert "nothing to submit" in sweep(*arguments, "--slurm", script, code=2).err


# -------------------------------------------------------------------------------------------------- bad input

FLAGS = "[flags]\nsteps = 1\n"


@pytest.mark.parametrize(
    "text, says",
    [
        ("steps = 1\n", "before the first [section]"),
        ("[flags]\nsteps\n", "g.ini:2"),
        ("[flags]\nsteps = 1\nsteps = 2\n", "g.ini:3: 'steps' stands there twice"),
        ("[flags\n", "g.ini:1"),
        ("[flag]\nsteps = 1\n", "[flag] is none of"),
        ("[sweep]\nbase = pre\n", "not 'base'"),
        ("[sweep]\ndiverged-above = nan\n", "'nan' is not a number"),
        ("[sweep]\nbaseline = nobody\n" + FLAGS, "baseline nobody: no such point"),
        ("[flags]\nout = /tmp\n", "--out cannot be in a grid"),
        ("[flags]\nn_layer = 3\n", "'n_layer' is not the name of a flag"),
        ("[grid]\nlr = 1e-3, 0.001\n", "lr has the value 0.001 twice"),
        ("[grid]\nlr = 1e-3,, 2e-3\n", "empty value"),
        ("[grid]\nlr = x5\n", "multiplies nothing"),
        ("[variant a]\nnorm = dyt\n[variant b]\nnorm = dyt\n", "have the same flags"),
        ("[variant ../a]\nnorm = dyt\n", "names of points"),
        ("[variant a]\n[variant a]\n", "stands there twice"),
        (
            "[grid]\n" + "".join("f%d = %s\n" % (i, ",".join(map(str, range(10)))) for i in range(5)),
            "more than 10000 runs",
        ),
        ("[flags]\nno-such-flag = 1\n", "--no-such-flag: no such flag"),
        ("[grid]\nplacement = pre, post\n[flags]\nnorm = bhyt\n", "--placement must be pre or lns"),
    ],
)
def test_a_bad_grid_is_refused_in_one_line(tmp_path, data, text, says):
    (tmp_path / "g.ini").write_text(text)
    done = sweep(tmp_path / "g.ini", "--out", tmp_path / "out", *data, code=2)
    assert says in done.err and re.fullmatch(r"sweep\.py: [^\n]*\n", done.err), done.err
    assert done.out == ""


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--out", "out"], "holds no sweep.json"),
        (["nothing", "--out", "out"], "no ready-made grid of that name (bhyt, depth, gpas, sdd-robust)"),
        (["gpas", "--out", "out"], "--train-data GLOB"),
        (["gpas", "--out", "out", "--train-data", "nowhere*.bin"], "--train-data nowhere*.bin: no such file"),
        (
            ["gpas", "--out", "out", "--train-data", SWEEP, "--program", "/nowhere"],
            "/nowhere: no such program",
        ),
        (["gpas", "--out", "out", "--train-data", SWEEP, "--only", "xyz"], "no run fits"),
        (["gpas", "--out", "out", "--flag", "lr"], "expected NAME=VALUE"),
        (["gpas", "--out", "out", "--variant", "a b"], "expected 'NAME: FLAG=VALUE"),
        (["gpas", "--out", "out", "--jobs", "0"], "--jobs"),
        (["gpas", "--out", "/proc/nowhere", "--train-data", SWEEP], "/proc/nowhere"),
        (["gpas", "--oot", "out"], "--out"),
        (
            ["gpas", "--out", "out", "--train-data", SWEEP, "--slurm", "x.sh", "--sbatch", "time"],
            "--sbatch time",
        ),
        (["--out", "damaged"], "not a sweep's plan"),
        (["--out", "hostile"], "not a sweep's plan"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(tmp_path, arguments, says):
    for name, text in (
        ("damaged", '{"name":'),
        (
            "hostile",
            json.dumps(
                {
                    "name": "x",
                    "about": "",
                    "baseline": None,
                    "diverged_above": None,
                    "axes": [],
                    "runs": [{"name": "../../etc", "labels": {}, "flags": {}}],
                }
            ),
        ),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").write_text(text)
    done = sweep(*arguments, code=2, cwd=tmp_path)
    assert says in done.err and re.fullmatch(r"sweep\.py: [^\n]*\n", done.err), done.err
