"""How do the runs of scripts/sweep.py survive being stopped, killed, resumed, and a Slurm array?"""

import itertools
import os
import signal
import subprocess
import sys
import time


from program import events, file_bytes, losses, metrics
from sweeping import MICRO, TWO, SWEEP, a_run, read_csv, run_directories, stand_in, sweep, sweep_environment, swept

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


# Adam's second moments overflow after some ten steps, without one step whose loss or gradient is not finite.
def test_a_run_whose_moments_overflow_has_diverged_and_not_failed(tmp_path, data):
    out = str(tmp_path / "out")
    wild = ["--flag", "lr=50", "--flag", "grad-clip=0", "--flag", "steps=40", "--flag", "save-every=1"]
    done = sweep("--out", out, *data, *MICRO, *wild, "--grid", "seed=1,2")
    assert "FAILED" not in done.out and "failed" not in done.out
    row = read_csv(out, "table.csv")[0]
    assert (row["runs"], row["diverged"], row["done"]) == ("2", "2", "0")
    assert [run["failure"] for run in read_csv(out, "runs.csv")] == ["", ""]
    assert "2 diverged |" in file_bytes(out, "table.md").decode()


def test_a_run_counts_as_one_thing(tmp_path, data):
    # Over its first loss in the end, and then it failed: that is a failure, to be tried again.
    lines = a_run(5).splitlines(keepends=True)
    lines[-2] = lines[-2].replace('"loss":2.0', '"loss":3.0')
    (tmp_path / "end.jsonl").write_text("".join(lines))
    program = stand_in(
        tmp_path,
        f'cat {tmp_path}/end.jsonl > "$OUT/metrics.jsonl"\necho "train_gpt: the disk is full" >&2; exit 1\n',
    )
    done = sweep("--out", tmp_path / "out", "--program", program, *data, "--flag", "steps=5", code=1)
    assert "0 of 1 runs have a result" in done.out
    row = read_csv(tmp_path / "out", "runs.csv")[0]
    assert (row["state"], row["diverged"], row["failure"]) == ("cut", "", "train_gpt: the disk is full")
    assert (tmp_path / "out" / "table.md").read_text().count("| 1 failed |") == 1


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
