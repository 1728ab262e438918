"""Does --doc-mask reach everything that trains and validates: the CPU, CUDA (emulated, both types), captured steps, several ranks,
a resume, the probe; and is it refused where nobody knows what ends a document? The mathematics: test_doc_mask.c.

CUDA needs train_gpt_emu (`make emu`; TRAIN_GPT_EMU names it), ranks need mpirun; without them those tests are skipped.
"""
import json
import os
import pathlib
import shutil
import subprocess

import numpy
import pytest

from mpi import by_one_and_by_two, has_mpi
from program import MODEL, ROOT, file_bytes, losses, metrics, refused, run, step_directory, write_shard
from tensors import read_tensors

EMULATED = pathlib.Path(os.environ.get("TRAIN_GPT_EMU", os.path.join(ROOT, "train_gpt_emu")))
emulated = pytest.mark.skipif(not EMULATED.exists(), reason="no train_gpt_emu: `make emu` builds it")
END = 3


def draw(count, seed):
    """Tokens below 61, of which one in nine ends a document."""
    drawn = numpy.random.default_rng(seed)
    tokens = drawn.integers(4, 61, count)
    tokens[drawn.random(count) < 1 / 9] = END
    return [int(token) for token in tokens]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("documents")
    write_shard(place / "set_train_000000.bin", draw(4000, 1))
    write_shard(place / "set_val_000000.bin", draw(900, 2))
    (place / "set.json").write_text(json.dumps({"end_of_document": END}))
    return place


def flags(folder, *more):
    return ["--train-data", folder / "set_train_*.bin", "--val-data", folder / "set_val_*.bin", "--doc-mask", "on", *more]


SMALL = "--preset micro --seq-len 16 --batch-size 4 --lr 1e-3 --warmup-steps 0 --lr-schedule constant --device cpu".split()


def bits(out, step):
    return file_bytes(step_directory(out, step), MODEL), losses(out), [line["loss"] for line in metrics(out, "val")]


def test_a_run_with_documents_is_another_and_goes_on_bit_for_bit(folder, tmp_path):
    run(*SMALL, *flags(folder, "--out", tmp_path / "a", "--steps", "6"))
    run(*SMALL, *flags(folder, "--out", tmp_path / "b", "--steps", "3"))
    run(*SMALL, *flags(folder, "--out", tmp_path / "b", "--steps", "6", "--resume", "auto"))
    assert file_bytes(step_directory(tmp_path / "a", 6), MODEL) == file_bytes(step_directory(tmp_path / "b", 6), MODEL)
    run(*SMALL, *flags(folder, "--doc-mask", "off", "--out", tmp_path / "c", "--steps", "6"))
    assert all(a != c for a, c in zip(losses(tmp_path / "a"), losses(tmp_path / "c")))
    assert bits(tmp_path / "a", 6)[2] != bits(tmp_path / "c", 6)[2]
    run(*SMALL, *flags(folder, "--recompute", "block", "--out", tmp_path / "d", "--steps", "6"))
    assert bits(tmp_path / "a", 6) == bits(tmp_path / "d", 6)
    said = run("--resume", tmp_path / "a", "--doc-mask", "off", "--steps", "7").stdout
    assert "resume changes: --doc-mask on → off" in said


def test_what_generates_and_validates_goes_by_the_runs_own_flags(folder, tmp_path):
    run(*SMALL, *flags(folder, "--out", tmp_path / "a", "--steps", "2"))
    found = run("--resume", tmp_path / "a", "--eval-only").stdout
    assert f"val loss {metrics(tmp_path / 'a', 'val')[-1]['loss']:.6f}" in found
    assert f"val loss {metrics(tmp_path / 'a', 'val')[-1]['loss']:.6f}" not in run("--resume", tmp_path / "a", "--eval-only", "--doc-mask", "off").stdout
    assert run("--resume", tmp_path / "a", "--generate", "a", "--max-new-tokens", "40").stdout  # longer than a row: 16


def test_a_set_that_names_no_end_of_documents_wants_one(folder, tmp_path):
    shutil.copy(folder / "set_train_000000.bin", tmp_path / "bare.bin")
    data = ["--train-data", tmp_path / "bare.bin", *SMALL, "--steps", "1", "--doc-mask", "on"]
    refused(*data, says=["--train-data: --doc-mask on: no NAME.json beside", "bare.bin", "--end-of-document ID"])
    refused(*data, "--end-of-document", "256", says=["token 256 ends documents, the vocabulary has 256"])
    refused(*data, "--end-of-document", "3", "--val-data", tmp_path / "bare.bin", "--doc-mask", "yes", says="--doc-mask")
    assert "step 1/1" in run(*data, "--end-of-document", "3").stdout


@pytest.mark.skipif(not has_mpi(), reason="no mpirun, or a build without MPI")
def test_ranks_see_the_documents_that_one_does(folder, tmp_path):
    outs = by_one_and_by_two(tmp_path, folder / "set_train_000000.bin", 4, *flags(folder), "--total-batch-tokens", "256")
    for kind in "train", "val":
        one, two = ([line["loss"] for line in metrics(out, kind)] for out in outs)
        assert len(one) == len(two) > 0 and max(abs(a - b) for a, b in zip(one, two)) < 2e-5, (one, two)


# ------------------------------------------------------------------------------------------------- CUDA on the host

# Heads of 32 and rows of 80: two tiles of the tensor-core kernels, documents that begin anywhere in them.
SHAPE = ("--arch llama --n-layer 1 --n-embd 64 --n-head 2 --n-kv-head 1 --n-ffn 48 --vocab-size 61 --seq-len 80 --batch-size 2 "
         "--init-std 0.1").split()


def probed(folder, out, program, *more):
    command = [str(program), *SHAPE, "--train-data", str(folder / "set_train_000000.bin"), "--probe", str(out), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ, OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr
    return read_tensors(out)


def distance(found, truth):
    """The largest difference of any tensor, relative to its norm, or, where sums cancel (gates), to a hundredth of the largest gradient's."""
    norms = {name: numpy.linalg.norm(value) for name, value in truth.items() if name not in ("tokens", "targets")}
    least = 0.01 * max(norm for name, norm in norms.items() if name.startswith("grad."))
    return max(float(numpy.linalg.norm(found[name] - truth[name]) / max(norm, least)) for name, norm in norms.items())


@emulated
@pytest.mark.parametrize("more", [[], ["--arch", "gpt2", "--norm", "bhyt", "--gpas", "layer"]])
def test_cuda_computes_what_the_cpu_does_of_the_same_documents(folder, tmp_path, more):
    def probe(device, dtype, mask="on"):
        return probed(folder, tmp_path / f"{device}-{dtype}-{mask}", EMULATED, "--device", device, "--dtype", dtype, "--doc-mask", mask, *more)

    truth, other = probe("cpu", "fp64"), probe("cpu", "fp64", "off")
    # Some hundred roundings of 2^-24, and some of 2^-9; test_ops and test_emulated_losses hold kernels and trainings closer.
    assert distance(probe("cuda", "fp32"), truth) < 1e-5
    assert distance(probe("cuda", "bf16"), truth) < 0.05
    assert distance(truth, other) > 0.3  # another computation altogether


@emulated
@pytest.mark.parametrize("more", [[], ["--pack", "documents"]])  # of which each step has another number of targets
def test_captured_steps_see_new_documents_each_time(folder, tmp_path, more):
    for graphs in "on", "off":
        command = [str(EMULATED), *SHAPE, "--seq-len", "9", *map(str, flags(folder)), "--device", "cuda", "--dtype", "bf16", "--val-every", "2",
                   "--total-batch-tokens", "36", "--steps", "4", "--cuda-graph", graphs, "--out", str(tmp_path / graphs), *more]
        subprocess.run(command, check=True, capture_output=True, env=dict(os.environ, OMP_NUM_THREADS="1"))
    assert bits(tmp_path / "on", 4) == bits(tmp_path / "off", 4)
