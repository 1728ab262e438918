"""Does a run with --optimizer muon say what it does, take what it plans, and go on as itself alone?  (What it computes: test_muon.c,
test_update.py; on several ranks: test_ranks.py; on CUDA: test_emulated_training.py.)
"""
import os
import re
import shutil

import pytest

# (Fixtures are asked for by name.)
from faults import SMALL, data, out, run, tmp_path
from program import MODEL, events, losses, refused, step_directory
from tensors import read_moments, read_tensors

MUON = ["--optimizer", "muon"]


def trained(data, out, *more, steps=4):
    run(*SMALL, *data, "--steps", steps, "--lr-schedule", "constant", "--out", out, *more)
    return out


def plan(*more):
    said = run("--preset", "gpt2-124m", "--dtype", "fp32", "--device", "cpu", "--threads", 1, "--dry-run", *more).stdout
    return {name: float(size) for name, size in re.findall(r"^  (\w+) +([0-9.]+) MB", said, re.MULTILINE)}, said


def test_the_plan_has_one_moment_of_a_matrix_and_the_room_of_newton_schulz():
    muon, said = plan(*MUON)
    adamw, _ = plan()
    matrices = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert adamw["moments"] - muon["moments"] == pytest.approx(matrices * 4 / 1e6, abs=0.1)
    # Two matrices of 3072 × 768 and two of 768 × 768, and a bucket of a layer or more: 25 MB at least, 60 at most.
    assert 4 * (2 * 3072 * 768 + 2 * 768 * 768) / 1e6 + 25 <= muon["workspace"] - adamw["workspace"] <= 60
    share = re.search(r"^muon: (\d+) matrices, ([0-9.e+-]+) TFLOP of Newton–Schulz an update: ([0-9.e+-]+) % of", said, re.MULTILINE)
    assert int(share[1]) == 12 * 6


def test_newton_schulz_takes_less_than_a_twentieth_of_a_step_of_half_a_million_tokens():
    _, said = plan(*MUON, "--batch-size", 8, "--total-batch-tokens", 524288)
    assert 0.1 < float(re.search(r"an update: ([0-9.e+-]+) % of forward", said)[1]) < 5


def test_another_optimizer_is_refused_on_a_resume_by_name(data, out):
    trained(data, out, *MUON)
    message = refused(*SMALL, *data, "--steps", 6, "--out", out, "--resume", "auto", "--optimizer", "adamw", "--lr-schedule", "constant")
    assert "has moments of --optimizer muon, and this run's is adamw: --init-from " in message
    shutil.rmtree(out)
    trained(data, out)
    message = refused(*SMALL, *data, "--steps", 6, "--out", out, "--resume", "auto", *MUON, "--lr-schedule", "constant")
    assert "has moments of --optimizer adamw, and this run's is muon" in message


def test_a_resume_keeps_the_optimizer_and_says_another_split(data, out):
    trained(data, out, *MUON)
    said = run(*data, "--steps", 6, "--out", out, "--resume", "auto", "--muon-split", "heads").stdout
    assert "--muon-split parts → heads" in said and "--optimizer" not in said
    moments = read_moments(step_directory(out, 6))
    names = read_tensors(os.path.join(step_directory(out, 6), MODEL))
    assert {name for name in names if f"v.{name}" not in moments} == {
        f"transformer.h.{layer}.{part}.weight" for layer in range(1) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert events(out)[-1] == "end"


def test_what_one_matrix_is_and_the_momentum_matter(data, tmp_path):
    runs = [[], ["--muon-split", "heads"], ["--muon-split", "off"], ["--muon-momentum", 0.5]]
    found = [losses(trained(data, tmp_path / str(i), *MUON, *more)) for i, more in enumerate(runs)]
    assert all(each[0] == found[0][0] and each[-1] < each[0] for each in found)
    assert len({each[-1] for each in found}) == len(runs)


def test_its_flags_do_nothing_without_it(data):
    said = run(*SMALL, *data, "--muon-momentum", 0.9, "--muon-split", "off", "--dry-run").stderr
    for name in "momentum", "split":
        assert f"--muon-{name} has no effect without --optimizer muon" in said
    assert "has no effect" not in run(*SMALL, *data, *MUON, "--muon-momentum", 0.9, "--muon-split", "off", "--dry-run").stderr


@pytest.mark.parametrize("wrong,says", [
    (["--muon-momentum", 1], "--muon-momentum"),
    (["--optimizer", "sgd"], "here it is adamw; or muon: there is no other here"),
    (["--optim", "muon"], "here it is --optimizer"),
    (["--muon-split", "qkv"], "parts"),
])
def test_a_wrong_word_leads_to_the_right_one(wrong, says):
    refused("--preset", "micro", "--dry-run", *wrong, says=says)
