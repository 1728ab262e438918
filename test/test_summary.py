"""What a run says when it has ended: is it what the run did, and do the commands that it names go on with it?"""

import json
import os
import re
import shlex
import signal
import subprocess

import pytest

from mpi import has_mpi, mpirun
from test_tokenizers_travel import NO_PRESET, make_set
from program import (
    PROGRAM,
    ROOT,
    SMALL,
    checkpoints,
    environment,
    file_bytes,
    metrics,
    run,
    sentences,
    step_directory,
    write_shard,
)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summary")
    write_shard(folder / "a.bin", sentences(4000, 1))
    return str(folder / "a.bin")


def summary(stdout):
    """From the line "done: …" or "stopped: …" on."""
    lines = stdout.splitlines()
    (at,) = [i for i, line in enumerate(lines) if re.match(r"(done|stopped): step", line)]
    return lines[at:]


def command(lines, word):
    (line,) = [line for line in lines if word in line]
    return shlex.split(line.replace("next:", "").replace(" goes on", ""))


def end_event(out):
    """The last one; before it stand, in one test, lines that are none."""
    lines = [line for line in file_bytes(out, "metrics.jsonl").decode().splitlines() if '"event":"end"' in line]
    return json.loads(lines[-1])


def test_a_run_ends_with_what_came_of_it(shard, tmp_path):
    out = tmp_path / "run"
    flags = [*SMALL, "--train-data", shard, "--val-data", shard, "--steps", 12, "--out", out]
    done = run(*flags, "--val-every", 4, "--save-every", 4, "--keep", 9, "--lr", 0.01)
    lines, event = summary(done.stdout), end_event(out)
    vals = {line["step"]: line["loss"] for line in metrics(out, "val")}
    best = min(vals, key=vals.get)
    assert lines[0] == "done: step 12 of 12, all steps done"
    assert lines[1] == f"  loss {metrics(out)[-1]['loss']:.4f}; best validation {vals[best]:.4f}, at step {best}"
    assert re.fullmatch(r"  768 tokens in [\d.]+ s, [\d.]+( [kM])? tokens/s", lines[2]), lines[2]
    assert lines[3] == f"  last checkpoint: {step_directory(out, 12)}"
    assert (
        event["best_val"] == vals[best]
        and event["best_val_step"] == best
        and event["tokens"] == 768
        and event["skipped"] == 0
    )
    assert event["best_checkpoint"] == step_directory(out, best) and event["loss"] == metrics(out)[-1]["loss"]
    assert 0 < sum(line["ms"] for line in metrics(out)) < 1000 * event["seconds"] + 1
    for line in lines:
        assert len(line) <= 80 or str(out) in line, line
    generate = command(lines, "--generate")
    assert generate[0] == PROGRAM
    assert subprocess.run(
        [*generate, "--max-new-tokens", "3"], capture_output=True, env=environment(), check=True
    ).stdout.startswith(b"The ")
    plot = command(lines, "plot.py")
    assert plot == ["scripts/plot.py", str(out)] and os.access(os.path.join(ROOT, plot[0]), os.X_OK)


def test_a_run_that_was_stopped_says_why_and_its_command_goes_on_with_it(shard, tmp_path):
    out = tmp_path / "a run's"  # as a shell must quote it
    process = subprocess.Popen(
        [PROGRAM, *map(str, [*SMALL, "--train-data", shard, "--steps", 400, "--out", out])],
        text=True,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    for line in process.stdout:
        if line.startswith("step 10/"):
            process.send_signal(signal.SIGTERM)
            break
    lines = summary(process.stdout.read())
    assert process.wait() == 0
    step = end_event(out)["step"]
    assert lines[0] == f"stopped: step {step} of 400, SIGTERM" and "no validation" in lines[1]
    assert "best_val" not in end_event(out) and not [line for line in lines if "--generate" in line]
    on = subprocess.run(command(lines, "--resume"), capture_output=True, text=True, env=environment(), check=True)
    lines = summary(on.stdout)
    assert lines[0] == "done: step 400 of 400, all steps done" and f"since step {step}," in lines[2]
    assert end_event(out)["from_step"] == step and end_event(out)["tokens"] == (400 - step) * 64


def test_a_run_that_goes_on_knows_what_was_best_before_and_what_became_void(shard, tmp_path):
    out = tmp_path / "run"
    flags = [
        *SMALL,
        "--train-data",
        shard,
        "--val-data",
        shard,
        "--val-every",
        2,
        "--save-every",
        2,
        "--keep",
        9,
        "--out",
        out,
    ]
    run(*flags, "--steps", 6)
    file = out / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line["type"] == "val":
            line["loss"] = {2: 0.5, 4: 0.25, 6: 0.125}[line["step"]]
    lines.insert(3, {"type": "event", "event": "skip", "step": 3, "reason": "x"})
    lines.insert(-2, {"type": "event", "event": "skip", "step": 6, "reason": "x"})
    hostile = ['{"type":"val","step":3,"loss":"x"}', '{"type":"val","step":-3,"loss":0}', '{"type":"val"', '{"type":"event","step":1,"event":7}',
               '{"type":"val","step":3,"loss":0,"x":"' + "y" * 70000 + '"}', '{"type":"val","step":1e300,"loss":0}']  # fmt: skip
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines[:-1])
    file.write_text(text + "\n".join(hostile) + "\n" + json.dumps(lines[-1], separators=(",", ":")) + "\n")
    os.rename(out / "step_00000006", tmp_path / "lost")  # what came after step 4 is void
    said = summary(run("--resume", out, "--steps", 8).stdout)
    assert "best validation 0.2500, at step 4" in said[1] and said[2].endswith("skipped steps: 1"), said
    assert f"  best checkpoint: {step_directory(out, 4)}" in said
    assert end_event(out)["best_val_step"] == 4 and end_event(out)["skipped"] == 1
    # Losses of other data are no measure for these.
    other = tmp_path / "b.bin"
    write_shard(other, sentences(3000, 5))
    said = summary(run("--resume", out, "--steps", 10, "--val-data", other).stdout)
    assert "best validation 0.25" not in said[1] and "at step 10" in said[1]


def test_the_best_checkpoint_is_named_only_where_it_is(shard, tmp_path):
    out = tmp_path / "run"
    write_shard(tmp_path / "v.bin", sentences(2000, 3))
    run(*SMALL, "--train-data", shard, "--val-data", tmp_path / "v.bin", "--val-every", 2, "--save-every", 2, "--keep", 1, "--steps", 4,
        "--out", out)  # fmt: skip
    file = out / "metrics.jsonl"
    file.write_text(re.sub(r'("type":"val","step":2,"loss":)[\d.]+', r"\g<1>0.5", file.read_text()))
    said = summary(run("--resume", out, "--steps", 6).stdout)
    assert checkpoints(out) == ["step_00000006"] and "  no checkpoint of step 2 is there (--save-every, --keep)" in said
    assert "best_checkpoint" not in end_event(out)


def test_text_is_given_to_a_model_by_what_understands_it(tmp_path):
    """scripts/generate.py where the checkpoint carries a tokenizer; nothing where there is none."""
    data = make_set(tmp_path / "data")
    lines = summary(run(*NO_PRESET, *data, "--steps", 1, "--out", tmp_path / "run").stdout)
    assert lines[-2:] == [
        f"  next: scripts/generate.py {tmp_path}/run 'The '",
        f"        scripts/plot.py {tmp_path}/run",
    ]
    write_shard(tmp_path / "bare.bin", [i % 300 for i in range(400)])
    lines = summary(
        run(
            *NO_PRESET,
            "--vocab-size",
            300,
            "--train-data",
            tmp_path / "bare.bin",
            "--steps",
            1,
            "--out",
            tmp_path / "b",
        ).stdout
    )
    assert lines[-1] == f"  next: scripts/plot.py {tmp_path}/b" and not [line for line in lines if "generate" in line]


def test_a_run_that_keeps_nothing_a_smoke_and_modes_name_nothing(shard, tmp_path):
    lines = summary(run(*SMALL, "--train-data", shard, "--steps", 2).stdout)
    assert lines[-1] == "  kept: nothing (no --out)" and not any("next:" in line for line in lines)
    assert "done: step" not in run("--smoke").stdout
    run(*SMALL, "--train-data", shard, "--steps", 2, "--out", tmp_path / "run")
    assert "done:" not in run("--resume", tmp_path / "run", "--eval-only", "--val-data", shard).stdout
    assert summary(run("--resume", tmp_path / "run").stdout)[1:3] == [  # at its end already
        "  no step was left to do; no validation",
        f"  last checkpoint: {step_directory(tmp_path / 'run', 2)}",
    ]


def test_of_several_ranks_the_first_says_it_once(shard, tmp_path):
    if not has_mpi():
        pytest.skip("no MPI")
    done = mpirun(
        2,
        PROGRAM,
        *map(str, [*SMALL, "--train-data", shard, "--val-data", shard, "--steps", 4, "--out", tmp_path / "run"]),
    )
    assert len(summary(done.stdout)) >= 5 and end_event(tmp_path / "run")["tokens"] == 512
