"""Is what several ranks take what is said beforehand: a rank's memory, the bytes on the wire?"""

import os
import re
import shutil

import pytest

from mpi import has_mpi, peaks, sent
from program import refused, run

MODEL = "--preset gpt2-124m --batch-size 1 --seq-len 64 --dtype fp32 --device cpu --threads 1".split()


def plan(*arguments):
    """MB by the rows' names."""
    text = run(*arguments, "--dry-run").stdout
    return {name: float(size) for name, size in re.findall(r"^  (\w+) +([0-9.]+) MB", text, re.MULTILINE)}


@pytest.mark.skipif(not has_mpi(), reason="no mpirun, or a build without MPI")
@pytest.mark.parametrize("zero", ["1", "0"] if os.environ.get("TEST_ALL") else ["1"])
def test_a_rank_takes_what_the_plan_of_its_run_says_while_it_saves_and_resumes_too(shard, tmp_path, zero):
    predicted = plan(*MODEL, "--zero", zero, "--ranks", 2)["total"] * 1e6
    arguments = [*MODEL, "--zero", zero, "--train-data", shard, "--out", tmp_path / "run"]
    for steps, more in [(1, []), (2, ["--resume", "auto"])][: 2 if os.environ.get("TEST_ALL") else 1]:
        for peak in peaks(tmp_path, 2, *arguments, "--steps", steps, *more):
            assert abs(peak / predicted - 1) < 0.05, (peak, predicted)  # what --dry-run promises
    shutil.rmtree(tmp_path / "run")


@pytest.mark.skipif(not has_mpi() or not shutil.which("mpicc"), reason="no mpirun and mpicc, or a build without MPI")
@pytest.mark.parametrize("count,zero,travels,share", [(2, "0", "fp32", 1), (2, "1", "fp32", 1), (3, "1", "fp32", 1),
                                                      (2, "0", "bf16", 0.5), (2, "1", "bf16", 0.75)])
def test_a_step_sends_what_the_theory_says(shard, tmp_path, count, zero, travels, share):
    """A sum and a gather of every element, whoever updates it, in fp32; in bf16 a sum is half of that, and with it the gather where
    gradients are gathered (--zero 0), not weights."""
    model = ["--preset", "tiny", "--batch-size", 1, "--seq-len", 16, "--bucket-mb", 1, "--zero", zero, "--reduce-dtype", travels,
             "--train-data", shard]
    few, many = (sent(tmp_path, count, *model, "--steps", steps) for steps in (1, 4))
    elements = plan(*model[:-2], "--ranks", count)["gradients"] * 1e6 / 4
    theory = share * 2 * (count - 1) / count * 4 * elements
    for rank in range(count):
        assert (many[rank] - few[rank]) / 3 == pytest.approx(theory, rel=0.02), (few, many, theory)  # the plan has a digit


def test_the_plan_of_a_rank_shares_the_moments_and_nothing_else():
    alone, whole = plan(*MODEL), plan(*MODEL, "--ranks", 8, "--zero", 0)
    shared = plan(*MODEL, "--ranks", 8)
    for row in "weights", "gradients", "activations", "workspace":
        assert shared[row] == whole[row] == pytest.approx(alone[row], rel=1e-3), row  # padding of the pieces
    assert whole["moments"] == pytest.approx(alone["moments"], rel=1e-3)
    assert shared["moments"] == pytest.approx(alone["moments"] / 8, rel=0.01)  # the vectors' are on every rank


def test_a_plan_counts_the_tokens_of_all_ranks_and_only_a_plan_takes_a_number_of_ranks(tmp_path):
    said = run("--preset", "micro", "--batch-size", 2, "--total-batch-tokens", 1024, "--ranks", 4, "--dry-run").stdout
    assert "1024 tokens an update = 2 sequences × 64 tokens × 2 micro-steps × 4 ranks" in said
    assert "of each of 4 ranks, zero 1" in said
    refused("--preset", "micro", "--batch-size", 2, "--total-batch-tokens", 256, "--ranks", 3, "--dry-run", says="3 ranks")
    for mode in ([], ["--eval-only"], ["--eval", "x"], ["--smoke"], ["--generate", "x"], ["--probe", tmp_path / "p"]):
        refused(*mode, "--ranks", 4, says=["--ranks 4 is for --dry-run", "mpirun -n 4"])
