"""Does a run repeat, resume, stop, save and report as promised, and does it survive what diverges?"""

import math
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import time

import numpy
import pytest

from program import (
    MODEL,
    MOMENTS,
    PROGRAM,
    SMALL,
    checkpoints,
    environment,
    file_bytes,
    flags_of_the_table,
    losses,
    metrics,
    refused,
    run,
    step_directory,
)
from tensors import read_tensors, write_tensors

# --------------------------------------------------------------------------------------------------------- runs


def trains_the_same(first, second, step):
    assert losses(first) == losses(second)
    for name in (MODEL, MOMENTS):
        assert file_bytes(step_directory(first, step), name) == file_bytes(
            step_directory(second, step), name
        ), name


def test_the_same_command_gives_the_same_bits(data, trained, out):
    run(*SMALL, *data, "--steps", 6, "--save-every", 3, "--val-every", 2, "--out", out)
    trains_the_same(trained, out, 6)
    assert [line["loss"] for line in metrics(out, "val")] == [
        line["loss"] for line in metrics(trained, "val")
    ]


def test_two_threads_give_the_same_bits_run_after_run(data, tmp_path):
    for name in ("a", "b"):
        run(*SMALL, *data, "--steps", 3, "--threads", 2, "--out", tmp_path / name)
    trains_the_same(tmp_path / "a", tmp_path / "b", 3)


def test_validating_sampling_and_saving_change_nothing_in_training(data, tmp_path):
    run(*SMALL, *data, "--steps", 4, "--val-every", 0, "--out", tmp_path / "a")
    run(
        *SMALL,
        *data,
        "--steps",
        4,
        "--val-every",
        1,
        "--sample-every",
        1,
        "--save-every",
        1,
        "--max-new-tokens",
        20,
        "--out",
        tmp_path / "b",
    )
    trains_the_same(tmp_path / "a", tmp_path / "b", 4)


def test_another_seed_gives_another_run(data, tmp_path, trained):
    run(*SMALL, *data, "--steps", 6, "--seed", 2, "--out", tmp_path / "a")
    assert losses(tmp_path / "a") != losses(trained)


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_recomputing_changes_no_bit(arch, data, tmp_path):
    for mode in ("none", "act", "block"):
        run(
            *SMALL,
            *data,
            "--arch",
            arch,
            "--vocab-size",
            256,
            "--steps",
            3,
            "--recompute",
            mode,
            "--out",
            tmp_path / mode,
        )
    trains_the_same(tmp_path / "none", tmp_path / "act", 3)
    trains_the_same(tmp_path / "none", tmp_path / "block", 3)


def test_accumulating_gradients_is_a_larger_batch_in_the_same_order(data, tmp_path):
    # In fp64, the sums of a step differ by rounding, 1e-16 of a gradient's size; AdamW passes on at most
    # lr · 1e-16 / eps = 1e-11 of that to a weight in a step, and the loss is less sensitive than the weights' sum.
    for batch in (4, 2, 1):
        run(
            *SMALL,
            *data,
            "--dtype",
            "fp64",
            "--steps",
            4,
            "--batch-size",
            batch,
            "--total-batch-tokens",
            64,
            "--out",
            tmp_path / str(batch),
        )
    for batch in ("2", "1"):
        assert losses(tmp_path / batch) == pytest.approx(losses(tmp_path / "4"), rel=1e-9)
        assert losses(tmp_path / batch)[0] == pytest.approx(losses(tmp_path / "4")[0], rel=1e-14)
    assert len(set(losses(tmp_path / "4"))) == 4


RESUMES = {
    "plain": [],
    "accumulation": ["--batch-size", 2, "--total-batch-tokens", 128],
    "llama": ["--arch", "llama", "--vocab-size", 256, "--n-kv-head", 1],
    "window": ["--skip-sigma", 3],
    "fp64": ["--dtype", "fp64"],
    # 187 windows of 16 tokens: an epoch ends in step 3 of 80 windows each
    "epoch": ["--batch-size", 8, "--total-batch-tokens", 1280],
}


@pytest.mark.parametrize("case", RESUMES)
def test_a_resumed_run_ends_with_the_same_bits(case, data, tmp_path):
    straight, broken = str(tmp_path / "straight"), str(tmp_path / "broken")
    arguments = [*SMALL, *data, *RESUMES[case], "--steps", 5, "--save-every", 2]
    run(*arguments, "--out", straight, "--keep", 3)
    os.makedirs(broken)
    shutil.copytree(step_directory(straight, 2), step_directory(broken, 2))
    text = run(*arguments, "--out", broken, "--resume", "auto").stdout
    assert step_directory(broken, 2) in text
    assert [line["step"] for line in metrics(broken)] == [3, 4, 5]
    assert losses(broken) == losses(straight)[2:]
    for name in (MODEL, MOMENTS, "state.json"):
        assert file_bytes(step_directory(broken, 5), name) == file_bytes(
            step_directory(straight, 5), name
        ), name
    assert metrics(broken, "event")[0]["event"] == "resume"


def test_resume_needs_nothing_but_the_checkpoint(data, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(step_directory(tmp_path / "run", 6))
    run("--resume", step_directory(tmp_path / "run", 3), "--out", tmp_path / "other")
    trains_after = losses(tmp_path / "other")
    assert trains_after == losses(trained)[3:]
    run("--resume", tmp_path / "run", "--out", tmp_path / "third")
    assert losses(tmp_path / "third") == trains_after


def test_resume_and_out_may_stand_in_a_config_file(data, trained, tmp_path):
    shutil.copytree(step_directory(trained, 3), step_directory(tmp_path / "run #1", 3))
    path = tmp_path / "run.ini"
    path.write_text(f'resume = auto\nout = "{tmp_path}/run #1"\n')
    run("--config", path)
    assert losses(tmp_path / "run #1") == losses(trained)[3:]
    run("--config", path, "--resume", "auto")  # and the directory's name came through config.ini
    path.write_text("resume = auto\n")
    refused("--config", path, *SMALL, *data, says="--out")


def test_resume_auto_without_a_checkpoint_starts(data, trained, out):
    run(*SMALL, *data, "--steps", 6, "--out", out, "--resume", "auto", "--save-every", 3)
    assert losses(out) == losses(trained)
    run(
        *SMALL, *data, "--steps", 6, "--out", out, "--resume", "auto", "--save-every", 3
    )  # nothing left to do
    assert len(losses(out)) == 6 and checkpoints(out) == ["step_00000003", "step_00000006"]


def test_resume_refuses_another_model(trained, data, tmp_path):
    refused("--resume", trained, "--norm", "rmsnorm", says=("layernorm", "rmsnorm"))
    refused("--resume", trained, "--n-layer", 3, says="transformer.h.2.")
    refused("--resume", trained, "--n-layer", 1, says="transformer.h.1.")
    refused("--resume", trained, "--n-embd", 128, says="transformer.wte.weight")
    refused("--resume", tmp_path, says=str(tmp_path))
    refused("--resume", tmp_path / "nowhere", says="nowhere")
    refused("--resume", "auto", *SMALL, *data, says="--out")


def test_resume_with_other_threads_says_so(trained, tmp_path):
    done = run("--resume", step_directory(trained, 3), "--threads", 2, "--out", tmp_path / "run")
    assert re.fullmatch(r"train_gpt: .*1 threads.*2.*\n", done.stderr)
    micro = ["--batch-size", 2, "--total-batch-tokens", 64]
    done = run("--resume", step_directory(trained, 3), *micro, "--out", tmp_path / "halves")
    assert re.fullmatch(r"train_gpt: .*written with a head in chunks of 64 tokens, here 32: the bits .*\n", done.stderr)


def test_a_directory_with_later_checkpoints_is_not_written_over(trained, data, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    before = file_bytes(step_directory(tmp_path / "run", 6), MODEL)
    for arguments in (["--seed", 2], ["--resume", step_directory(tmp_path / "run", 3), "--lr", "1e-4"]):
        refused(
            *SMALL,
            *data,
            "--steps",
            6,
            *arguments,
            "--out",
            tmp_path / "run",
            says=("step_00000006", "--resume auto"),
        )
    assert file_bytes(step_directory(tmp_path / "run", 6), MODEL) == before


@pytest.mark.parametrize("keep", [1, 2, 9])
def test_as_many_checkpoints_are_kept_as_asked(keep, data, out):
    run(*SMALL, *data, "--steps", 5, "--save-every", 2, "--keep", keep, "--out", out)
    assert checkpoints(out) == ["step_00000002", "step_00000004", "step_00000005"][-keep:]
    assert not [name for name in os.listdir(out) if "partial" in name]
    assert [line["path"] for line in metrics(out, "event") if line["event"] == "checkpoint"] == [
        step_directory(out, step) for step in (2, 4, 5)
    ]


def test_without_out_nothing_is_written(data, tmp_path):
    run(*SMALL, *data, "--steps", 1, cwd=tmp_path)
    assert os.listdir(tmp_path) == []


def test_max_minutes_ends_with_a_checkpoint(data, out):
    text = run(*SMALL, *data, "--steps", 10000000, "--max-minutes", 0.01, "--out", out).stdout
    last = metrics(out)[-1]["step"]
    assert checkpoints(out) == [f"step_{last:08d}"] and "--max-minutes" in text
    assert metrics(out, "event")[-1]["reason"] == "--max-minutes"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_finishes_the_step_and_writes_a_checkpoint(number, data, out):
    with subprocess.Popen(
        [PROGRAM, *SMALL, *data, "--steps", "10000000", "--out", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        while not process.stdout.readline().startswith(b"step 3/"):
            assert process.poll() is None
        process.send_signal(number)
        text, errors = process.communicate(timeout=60)
        assert process.returncode == 0 and errors == b""
    assert number.name.encode() in text
    last = metrics(out)[-1]["step"]
    assert checkpoints(out) == [f"step_{last:08d}"]
    # What it wrote is what a run of so many steps would have at that point: it goes on from there.
    run("--resume", "auto", "--out", out, "--steps", last + 1, "--warmup-steps", 0)
    assert metrics(out)[-1]["step"] == last + 1


def test_a_checkpoint_that_cannot_be_written_is_a_failure(data, out):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))

    # Python ignores SIGXFSZ: so will the program, and see EFBIG.
    error = run(
        *SMALL,
        *data,
        "--steps",
        3,
        "--save-every",
        2,
        "--out",
        out,
        code=1,
        preexec_fn=limit,
        restore_signals=False,
    ).stderr
    assert MODEL in error
    assert checkpoints(out) == [] and len(losses(out)) == 3
    assert not [name for name in os.listdir(out) if "partial" in name]


@pytest.mark.parametrize("place", ["/dev/null/run", "/proc/run"])
def test_an_out_that_cannot_be_made_is_refused(place, data, tmp_path):
    refused(*SMALL, *data, "--steps", 1, "--out", place, cwd=tmp_path, says=("--out", place))


def test_an_out_that_is_a_file_is_refused(data, tmp_path):
    (tmp_path / "file").write_text("")
    refused(*SMALL, *data, "--steps", 1, "--out", tmp_path / "file", says="file")


# ------------------------------------------------------------------------------------------------------ metrics


def test_a_steps_time_is_its_own(data, out):
    """Samples between the steps take many times as long as a step: what one takes is written into it."""
    begin = time.monotonic()
    run(*SMALL, *data, "--steps", 6, "--sample-every", 1, "--max-new-tokens", 1000, "--val-every", 0, "--out", out)
    sample = (time.monotonic() - begin) / 6
    assert min(line["ms"] for line in metrics(out)[1:]) * 1e-3 < sample / 2


def test_metrics_have_the_documented_fields(trained):
    train, val, events = (metrics(trained, kind) for kind in ("train", "val", "event"))
    assert [line["step"] for line in train] == [1, 2, 3, 4, 5, 6]
    for line in train:
        assert set(line) == {
            "type",
            "step",
            "loss",
            "lr",
            "grad_norm",
            "tokens",
            "tokens_per_s",
            "flops",
            "mfu",
            "ms",
        }
        assert (
            line["tokens"] == 64 and line["ms"] > 0 and line["grad_norm"] > 0 and math.isfinite(line["loss"])
        )
        assert line["tokens_per_s"] == pytest.approx(64 / (line["ms"] * 1e-3))
        assert line["mfu"] is None  # the peak of a CPU is not known
    assert train[0]["loss"] == pytest.approx(math.log(256), abs=0.1)  # nats per token, of uniform guesses
    assert [line["step"] for line in val] == [2, 4, 6]
    told = {"type", "step", "loss", "tokens", "perplexity", "bits_per_byte", "bytes"}
    assert all(set(line) == told and line["tokens"] == line["bytes"] == 43 * 16 for line in val)
    assert [line["event"] for line in events] == ["start", "checkpoint", "checkpoint", "end"]
    start = events[0]
    assert {"version", "kernels", "device", "parameters", "flags"} <= set(start)
    settings = {name for kind, name in flags_of_the_table() if kind not in ("MODE", "PROMPT")}
    unset = {"preset", "init-from", "config", "resume", "probe", "ranks", "rendezvous", "eval", "eval-out", "generate-file",
             "generate-tokens"}
    assert set(start["flags"]) == settings - unset
    assert (
        start["flags"]["n-layer"] == 2 and start["flags"]["lr"] == 1e-3 and start["flags"]["dtype"] == "fp32"
    )


def shape_of(schedule, step, steps, warmup, final, decay):
    """The formulas of schedule.h, with a peak of 1."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / (steps - 1 - warmup)
    into = 1 - (steps - 1 - step) / (decay * steps)
    factor = {
        "cosine": 0.5 + 0.5 * math.cos(math.pi * done),
        "linear": 1 - done,
        "constant": 1,
        "wsd": 1 if into <= 0 else 1 - math.sqrt(into),
    }[schedule]
    return final + (1 - final) * factor


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_the_learning_rate_follows_its_schedule(schedule, data, out):
    run(
        "--preset",
        "micro",
        "--seq-len",
        4,
        "--batch-size",
        1,
        *data[:2],
        "--steps",
        12,
        "--warmup-steps",
        3,
        "--lr",
        0.003,
        "--lr-final-frac",
        0.05,
        "--lr-schedule",
        schedule,
        "--wsd-decay-frac",
        0.5,
        "--out",
        out,
    )
    rates = [line["lr"] for line in metrics(out)]
    assert rates == pytest.approx(
        [0.003 * shape_of(schedule, step, 12, 3, 0.05, 0.5) for step in range(12)], rel=1e-12
    )


def test_elsewhere_than_on_a_terminal_progress_is_plain_lines(data):
    text = run(*SMALL, *data, "--steps", 7, "--log-every", 3, "--val-every", 0).stdout
    assert "\r" not in text and "\x1b" not in text
    assert re.findall(r"^step (\d+)/7  loss", text, re.MULTILINE) == ["1", "3", "6", "7"]
    assert "GFLOP a token (6" in text  # the formula behind the rate, in words
    assert len(re.findall(r"^step 7/7  val loss", text, re.MULTILINE)) == 1


def test_on_a_terminal_progress_rewrites_one_line(data, out):
    mine, theirs = pty.openpty()
    with subprocess.Popen(
        [PROGRAM, *SMALL, *data, "--steps", "7", "--val-every", "4", "--out", out],
        stdout=theirs,
        env=environment(TERM="xterm", COLUMNS=200),
    ) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(mine, 65536)
            except OSError:  # the other side is closed
                piece = b""
            if not piece:
                break
            text += piece
        assert process.wait(timeout=60) == 0
    os.close(mine)
    lines = text.decode().split("\r\n")
    assert lines[-1] == ""
    # All steps up to the validation stand in one line, which the validation's own line then takes the place of.
    first = [line for line in lines if "step 1/7" in line]
    assert len(first) == 1 and [f"\rstep {i}/7 " in first[0] for i in range(1, 8)] == [True] * 4 + [False] * 3
    assert first[0].split("\r")[-1].startswith("\x1b[Kstep 4/7  val loss")
    assert "ETA" in first[0] and "tok/s" in first[0] and "GFLOP/s" in first[0]


# ------------------------------------------------------------------------------------------------ what AdamW does


def random_weights(trained, path, seed=1):
    draw = numpy.random.default_rng(seed)
    tensors = {
        name: (draw.normal(1 if value.ndim == 1 and ".weight" in name else 0, 0.05, value.shape)).astype(
            "<f4"
        )
        for name, value in read_tensors(os.path.join(step_directory(trained, 6), MODEL)).items()
    }
    write_tensors(path, tensors)
    return tensors


@pytest.mark.parametrize("where", ["matrices", "no-embeddings", "all"])
def test_weights_decay_only_where_decay_on_says(where, trained, data, tmp_path):
    path = tmp_path / "random.safetensors"
    start = random_weights(trained, path)
    arguments = [*SMALL, *data, "--init-from", path, "--steps", 1, "--lr", 0.01, "--lr-schedule", "constant"]
    ends = []
    for decay in (0, 10):
        out = tmp_path / str(decay)
        run(*arguments, "--weight-decay", decay, "--decay-on", where, "--out", out)
        ends.append(read_tensors(os.path.join(step_directory(out, 1), MODEL)))
    for name, value in start.items():
        embedding = name in ("transformer.wte.weight", "transformer.wpe.weight")
        decays = {
            "matrices": value.ndim == 2,
            "no-embeddings": value.ndim == 2 and not embedding,
            "all": True,
        }[where]
        lost = ends[0][name].astype(float) - ends[1][name]
        # lr · decay · w, rounded where each run's update was: half an ulp of fp32 at twice the weight's size, thrice
        assert numpy.abs(lost - (0.1 * value if decays else 0)).max() <= (
            3 * 2**-23 * 2 if decays else 0
        ), name


def test_a_run_that_diverges_ends_with_3_and_keeps_finite_checkpoints(trained, data, out):
    os.makedirs(out)
    shutil.copytree(step_directory(trained, 3), step_directory(out, 3))
    # Decay of lr · 10 = 1000 times the weight in a step: beyond fp32 after a dozen.
    error = run(
        *SMALL,
        *data,
        "--out",
        out,
        "--resume",
        "auto",
        "--steps",
        60,
        "--save-every",
        1,
        "--keep",
        100,
        "--lr",
        100,
        "--weight-decay",
        10,
        "--decay-on",
        "all",
        "--lr-schedule",
        "constant",
        "--warmup-steps",
        0,
        code=3,
    ).stderr
    events = metrics(out, "event")
    assert events[-1]["event"] == "diverged"
    assert f"last good checkpoint: {step_directory(out, int(checkpoints(out)[-1][5:]))}\n" in error and len(checkpoints(out)) > 1
    for step in checkpoints(out):
        for name in (MODEL, MOMENTS):
            assert all(
                numpy.isfinite(value).all() for value in read_tensors(os.path.join(out, step, name)).values()
            ), step


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_weights_that_are_no_numbers_end_with_3_and_no_checkpoint(value, trained, data, tmp_path, out):
    path = tmp_path / "bad.safetensors"
    tensors = random_weights(trained, path)
    tensors["transformer.h.0.attn.c_attn.weight"][3, :] = value
    write_tensors(path, tensors)
    done = run(*SMALL, *data, "--init-from", path, "--out", out, "--steps", 50, "--save-every", 1, code=3)
    assert "3 steps in a row" in done.stderr
    events = metrics(out, "event")
    assert [event["event"] for event in events] == ["start", "skip", "skip", "skip", "diverged"]
    assert checkpoints(out) == [] and done.stderr.endswith("last good checkpoint: none\n")
