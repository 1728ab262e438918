"""Does a run go on in the same bits, stop when asked, and skip what would spoil it?

Runs the executable named by TRAIN_GPT (default: ./train_gpt) with faults.py's harness.
"""
import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import time

import pytest

# (Fixtures are asked for by name.)
from faults import (
    SMALL, base, begun, calls_of, checkpoints, data, fault, leftovers, out, picture, run, same_bits, start, tmp_path,
    wait_for)
from program import MODEL, PROGRAM, environment, events, file_bytes, metrics, sentences, step_directory, write_shard

# -------------------------------------------------------------------------------------------------- bit-exact resume


EPOCHS = ["--batch-size", 2, "--total-batch-tokens", 80]  # 10 of 28 windows a step: epochs end in steps 3, 6, 9


@pytest.mark.parametrize("case", ["none", "act", "block", "llama", "fp64", "bhyt", "bhyt once", "qwen3", "olmo2", "muon"])
def test_a_resume_at_any_step_ends_in_the_same_bits(case, data, tmp_path):
    """Accumulation, shard and epoch boundaries, every recompute mode, a skip window that counts."""
    more = {"llama": ["--arch", "llama", "--vocab-size", 256, "--n-kv-head", 1, "--recompute", "block"],
            "bhyt": ["--norm", "bhyt", "--gpas", "layer", "--bhyt-refresh", 4],
            "qwen3": ["--arch", "llama", "--qk-norm", "head", "--head-dim", 24, "--bias", "qkv", "--rope-scaling", "linear"],
            "olmo2": ["--arch", "llama", "--qk-norm", "projection", "--placement", "res-post", "--activation", "gelu-exact"],
            "bhyt once": ["--norm", "bhyt", "--placement", "lns", "--bhyt-refresh", 0],
            "muon": ["--optimizer", "muon", "--muon-split", "heads", "--recompute", "block"],
            "fp64": ["--dtype", "fp64"]}.get(case, ["--recompute", case])
    arguments = [*SMALL, *data, *EPOCHS, *more, "--steps", 10, "--skip-sigma", 4, "--lr-schedule", "cosine",
                 "--warmup-steps", 3]
    straight = str(tmp_path / "straight")
    run(*arguments, "--out", straight, "--save-every", 1, "--keep", 99)
    for step in range(1, 10):
        out = str(tmp_path / f"from{step}")
        os.makedirs(out)
        shutil.copytree(step_directory(straight, step), step_directory(out, step))
        run(*arguments, "--out", out, "--resume", "auto")
        same_bits(out, straight, 10)
        assert [line["loss"] for line in metrics(out)] == [line["loss"] for line in metrics(straight)][step:]


@pytest.mark.parametrize("recompute", ["act", "block"])
def test_a_resume_with_another_recompute_mode_ends_in_the_same_bits(recompute, base, out):
    begun(base, out, 2)
    run(*base[0], "--recompute", recompute, "--out", out, "--resume", "auto")
    same_bits(out, base[1], 6)


# ------------------------------------------------------------------------------------------------- signals and time


@pytest.mark.parametrize("number, recompute", [(signal.SIGTERM, "none"), (signal.SIGINT, "act"),
                                               (signal.SIGUSR1, "block")])
def test_a_signal_saves_the_bits_of_a_run_that_ends_there(number, recompute, data, out):
    arguments = [*SMALL, *data, *EPOCHS, "--recompute", recompute]
    with start(*arguments, "--steps", 10 ** 7, "--out", out) as process:
        wait_for(process, "^step 3/")
        process.send_signal(number)
        text = process.stdout.read()
        assert process.wait(timeout=60) == 0 and process.stderr.read() == ""
    last = metrics(out)[-1]["step"]
    assert f"stopping after step {last}: {signal.Signals(number).name}" in text and checkpoints(out) == [last]
    run(*arguments, "--steps", last + 3, "--out", out, "--resume", "auto")
    run(*arguments, "--steps", last + 3, "--out", out + ".straight", "--save-every", last)
    same_bits(out, out + ".straight", last)
    same_bits(out, out + ".straight", last + 3)


@contextlib.contextmanager
def stopped_in_save(arguments, fault, out, at):
    """A run that was interrupted once and stands still within its last save."""
    with start(*arguments, "--steps", 10 ** 7, "--save-every", 10 ** 6, "--out", out,
               env=fault(PATH=".partial", AT=at, DO="stop")) as process:
        wait_for(process, "^step [3-9]/")
        process.send_signal(signal.SIGINT)
        wait_for(process, "^stopping after step")
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        yield process


@pytest.mark.parametrize("at", [1, 2, 20, 40, 60])
def test_a_second_interrupt_ends_at_once_and_harms_nothing(at, base, fault, out):
    """Even if the disk hangs: in the last save, which the first interrupt brought about."""
    begun(base, out, 2)
    trace = out + ".trace"
    with start(*base[0], "--steps", 10 ** 7, "--save-every", 10 ** 6, "--out", out, "--resume", "auto",
               env=fault(PATH=".step_", AT=at, TIMES=0, DO="hang", TRACE=trace)) as process:
        wait_for(process, "^step [3-9]/")
        process.send_signal(signal.SIGINT)
        wait_for(process, "^stopping after step")
        while not os.path.exists(trace) or len(calls_of(trace)) < at:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert checkpoints(out) == [2]
    run(*base[0], "--out", out, "--resume", "auto")
    same_bits(out, base[1], 6)
    assert leftovers(out) == []


def test_a_second_interrupt_ends_a_step_that_waits_for_its_data_for_ever(base, data, fault, out):
    """The first can only wait for the step, which a dead disk never ends; no other signal shortens that."""
    begun(base, out, 2)
    before, trace = picture(step_directory(out, 2)), out + ".trace"
    with start(*base[0], "--steps", 10 ** 7, "--save-every", 0, "--out", out, "--resume", "auto",
               env=fault(CALLS="pread", PATH=os.path.dirname(data[1]), AT=40, TIMES=0, DO="hang", TRACE=trace)) as process:
        wait_for(process, "^step 3/")
        while not os.path.exists(trace) or len(calls_of(trace)) < 40:
            time.sleep(0.01)
        steps = -1
        while steps != (steps := len(metrics(out))):  # until what was read ahead is used up
            time.sleep(1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            process.send_signal(number)
            time.sleep(0.1)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert picture(step_directory(out, 2)) == before and checkpoints(out) == [2]
    run(*base[0], "--steps", 60, "--out", out, "--resume", "auto")
    run(*base[0], "--steps", 60, "--out", out + ".straight")
    same_bits(out, out + ".straight", 60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_other_signals_within_the_last_save_do_not_disturb_it(number, base, fault, out):
    with stopped_in_save(base[0], fault, out, 20) as process:
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0 and len(checkpoints(out)) == 1 and leftovers(out) == []


def test_a_reader_that_goes_away_does_not_end_the_run(base, out):
    with start(*base[0], "--steps", 2000, "--save-every", 0, "--out", out) as process:
        wait_for(process, "^step 3/")
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    assert checkpoints(out) == [2000]


def test_an_output_that_cannot_be_written_does_not_end_the_run(base, out):
    """A job's log on a full disk."""
    with open("/dev/full", "w", encoding="ascii") as full:
        subprocess.run([PROGRAM, *map(str, base[0]), "--out", out], stdout=full, check=True, env=environment())
    same_bits(out, base[1], 6)


def test_time_is_measured_by_a_clock_that_does_not_jump(base, fault, out):
    run(*base[0], "--out", out, "--max-minutes", 5, env=fault(CLOCK=10 ** 8))
    same_bits(out, base[1], 6)
    assert all(0 < line["ms"] < 6e4 for line in metrics(out))
    text = run(*base[0], "--steps", 10 ** 8, "--max-minutes", 0.005, "--out", out, "--resume", "auto",
               env=fault(CLOCK=-10 ** 8)).stdout
    last = metrics(out)[-1]["step"]
    assert "--max-minutes" in text and checkpoints(out)[-1] == last > 6
    run(*base[0], "--steps", last, "--out", out + ".straight")
    same_bits(out, out + ".straight", last)


def test_a_run_that_time_ended_goes_on_in_the_same_bits(data, out):
    arguments = [*SMALL, *data, *EPOCHS, "--recompute", "block"]
    run(*arguments, "--steps", 10 ** 8, "--max-minutes", 0.003, "--out", out)
    last = metrics(out)[-1]["step"]
    assert checkpoints(out) == [last] and metrics(out, "event")[-1]["reason"] == "--max-minutes"
    run(*arguments, "--steps", last + 4, "--max-minutes", 0, "--out", out, "--resume", "auto")
    run(*arguments, "--steps", last + 4, "--out", out + ".straight")
    same_bits(out, out + ".straight", last + 4)


@pytest.mark.parametrize("clock", [{"MONOTONIC": 10 ** 6}, {"MONOTONIC": 10 ** 6, "CLOCK": 10 ** 8}, {"STILL": 1}])
def test_a_clock_that_lies_spoils_neither_weights_nor_metrics(clock, base, fault, out):
    """As under a library that fakes the time: even the clock that never goes back does, or it stands still."""
    run(*base[0], "--out", out, env=fault(**clock))
    same_bits(out, base[1], 6)
    for line in metrics(out):
        assert (line["tokens_per_s"] is None) == (line["ms"] <= 0) and math.isfinite(line["loss"])
    assert "STILL" not in clock or all(line["ms"] == 0 for line in metrics(out))


# --------------------------------------------------------------------------------------------------------- skipping


def window_of(out, step):
    state = json.loads(file_bytes(step_directory(out, step), "state.json"))
    values = state["window"]["loss"] + state["window"]["norm"]
    assert all(isinstance(value, float) and math.isfinite(value) for value in values)
    return state


def products_in_a_step(base, fault, out):
    """How many dnnl_sgemm calls a step has: the first call that spoils step 2 and not step 1, less one."""
    low, high = 1, 4096  # the call `low` is in step 1, `high` in a later one
    while high - low > 1:
        middle = (low + high) // 2
        run(*base[0], "--steps", 3, "--out", out, env=fault(NAN_AT=middle))
        skipped = [line["step"] for line in metrics(out, "event") if line["event"] == "skip"]
        low, high = (middle, high) if skipped == [1] else (low, middle)
        shutil.rmtree(out)
    return low


def test_steps_that_are_not_finite_are_skipped_and_the_third_in_a_row_ends_the_run(base, fault, data, out):
    products = products_in_a_step(base, fault, out)
    arguments = [*SMALL, *data, "--steps", 12, "--save-every", 1, "--keep", 99]

    def spoiled(*steps, code=0, **more):
        """NaN in one product of each of some consecutive steps."""
        first, count = (steps[0] - 1) * products + 3, (len(steps) - 1) * products + 1
        return run(*arguments, "--out", out, code=code, env=fault(NAN_AT=first, NAN_TIMES=count), **more)

    for steps in ([5], [5, 6]):
        text = spoiled(*steps).stdout
        skips = [(line["step"], line["reason"]) for line in metrics(out, "event") if line["event"] == "skip"]
        assert skips == [(step, "non-finite loss or gradient") for step in steps]
        assert text.count("skipped: non-finite") == len(steps)
        assert file_bytes(step_directory(out, 4), MODEL) != file_bytes(step_directory(out, 12), MODEL)
        assert not set(steps) & set(checkpoints(out))  # nothing is saved while it is not known to be good
        state = window_of(out, 12)
        assert state["applied"] == 12 - len(steps) == len(state["window"]["loss"]) and state["skips_in_a_row"] == 0
        # A resume after the skip goes on in the same bits.
        other = out + ".other"
        os.makedirs(other)
        shutil.copytree(step_directory(out, steps[-1] + 1), step_directory(other, steps[-1] + 1))
        run(*arguments, "--out", other, "--resume", "auto")
        same_bits(other, out, 12)
        shutil.rmtree(other)
        shutil.rmtree(out)

    error = spoiled(5, 6, 7, code=3).stderr
    assert "3 steps in a row" in error and step_directory(out, 4) in error
    assert checkpoints(out) == [1, 2, 3, 4] and events(out)[-4:] == ["skip"] * 3 + ["diverged"]
    window_of(out, 4)
    run(*arguments, "--out", out, "--resume", "auto")  # the machine is well again
    shutil.rmtree(out)
    error = run(*arguments, "--save-every", 0, "--out", out, code=3, env=fault(NAN_AT=1, NAN_TIMES=0)).stderr
    assert error.endswith("last good checkpoint: none\n") and checkpoints(out) == []
    shutil.rmtree(out)
    # A run that was stopped within such a row goes on counting: two before the stop, one after it.
    run(*arguments, "--steps", 6, "--out", out, env=fault(NAN_AT=4 * products + 3, NAN_TIMES=0))
    assert checkpoints(out) == [1, 2, 3, 4, 6] and window_of(out, 6)["skips_in_a_row"] == 2
    run(*arguments, "--out", out, "--resume", "auto", code=3, env=fault(NAN_AT=1, NAN_TIMES=0))
    assert [line["step"] for line in metrics(out, "event") if line["event"] == "skip"] == [5, 6, 7]
    assert checkpoints(out) == [1, 2, 3, 4, 6]


def test_a_spike_in_the_data_is_skipped_and_enters_no_window(tmp_path, out):
    """Sentences, and in the middle of them a stretch of bytes that the model has never seen."""
    text = sentences(1601, 1)
    text[800:832] = [200 + i for i in range(32)]
    write_shard(tmp_path / "spiked.bin", text)
    arguments = [*SMALL, "--train-data", tmp_path / "spiked.bin", "--steps", 300, "--skip-sigma", 6,
                 "--save-every", 100, "--keep", 99, "--total-batch-tokens", 32]
    run(*arguments, "--out", out)
    skips = [line for line in metrics(out, "event") if line["event"] == "skip"]
    assert skips and {line["reason"] for line in skips} <= {"loss spike", "gradient norm spike"}
    assert all(line["step"] > 128 for line in skips)  # only a full window judges
    losses = {line["step"]: line["loss"] for line in metrics(out)}
    state = window_of(out, 300)
    assert state["applied"] == 300 - len(skips) and len(state["window"]["loss"]) == 128
    for line in skips:
        assert losses[line["step"]] not in state["window"]["loss"] and losses[line["step"]] > losses[line["step"] - 1]
    for step in (100, 200):
        other = out + f".{step}"
        os.makedirs(other)
        shutil.copytree(step_directory(out, step), step_directory(other, step))
        run(*arguments, "--out", other, "--resume", "auto")
        same_bits(other, out, 300)
    # Without the flag the same steps reach the weights.
    run(*arguments, "--skip-sigma", 0, "--out", out + ".all")
    assert window_of(out + ".all", 300)["applied"] == 300
