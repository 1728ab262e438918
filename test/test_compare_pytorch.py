"""Does compare_pytorch.py compare the same model on both sides, and refuse what it cannot compare?

Needs no GPU: it runs on the CPU, with the preset micro and train_gpt (or TRAIN_GPT). All but the first test need PyTorch,
and are skipped without it.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

COMPARE = str(ROOT / "scripts" / "compare_pytorch.py")
PROGRAM = pathlib.Path(os.environ.get("TRAIN_GPT", ROOT / "train_gpt"))


def test_batch_sizes_and_modes_that_cannot_be_are_refused():
    for words, says in (
        (["--batch-sizes", "3"], b"does not divide"),
        (["--batch-sizes", "x"], b"whole numbers"),
        (["--modes", "fast"], b"'fast' is not one of compile-blocks"),
    ):
        command = [sys.executable, COMPARE, "--preset", "micro", "--device", "cpu", *words]
        done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
        assert done.returncode == 2 and says in done.stderr, done.stderr


@pytest.fixture(scope="module")
def compared():
    pytest.importorskip("torch", minversion="2.0", reason="torch is not installed, or older than 2.0")
    if not PROGRAM.exists():
        pytest.skip("train_gpt is not built")


def compare(*words, program=PROGRAM):
    return subprocess.run(
        [
            sys.executable,
            COMPARE,
            "--preset",
            "micro",
            "--device",
            "cpu",
            "--modes",
            "eager",
            "--train-gpt",
            str(program),
            "--json",
            "--pairs",
            "6",
            "--turn",
            "0.05",
            "--batch-sizes",
            "2,4",
            *words,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        check=False,
    )


def test_pytorch_computes_the_same_and_both_sides_are_listed(compared):
    done = compare()
    assert done.returncode == 0, done.stderr.decode()
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    (check,) = [row for row in rows if row["row"] == "check"]
    assert check["good"] and check["train_gpt"] < 1e-5 * check["loss"]
    listed = {(row["side"], row["batch_size"]) for row in rows if row["row"] == "side"}
    assert listed == {(side, n) for side in ("train_gpt", "pytorch") for n in (2, 4)}
    assert rows[-1]["row"] == "ratio" and rows[-1]["pairs"] == 6 and rows[-1]["ratio"] > 0


def test_another_model_is_noticed_before_anything_is_timed(compared, tmp_path):
    """A wrapper that gives train_gpt another epsilon than PyTorch's side has."""
    wrong = tmp_path / "train_gpt"
    wrong.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *--probe*) exec {PROGRAM.resolve()} "$@" --norm-eps 1e-3 ;; esac\n'
        f'exec {PROGRAM.resolve()} "$@"\n'
    )
    wrong.chmod(0o755)
    done = compare(program=wrong)
    assert done.returncode == 1 and b"not the same model" in done.stderr
    assert not [line for line in done.stdout.splitlines() if json.loads(line)["row"] == "ratio"]


def test_the_llama_of_the_other_side_is_ours(compared, tmp_path):
    """The check alone, on a small llama with grouped queries and a width that is padded."""
    from gpu import data

    settings = {
        "arch": "llama",
        "n-layer": 2,
        "n-embd": 64,
        "n-head": 4,
        "n-kv-head": 2,
        "n-ffn": 85,
        "seq-len": 32,
        "vocab-size": 97,
    }
    shard = data.shard(str(tmp_path), 97, 1 << 12)
    flags = [word for name, value in settings.items() for word in ("--" + name, str(value))]
    job = {
        "settings": settings,
        "check_layers": 2,
        "scratch": str(tmp_path),
        "probe_command": [
            str(PROGRAM),
            *flags,
            "--train-data",
            shard,
            "--batch-size",
            "2",
            "--device",
            "cpu",
            "--dtype",
            "fp32",
        ],
    }
    code = (
        "import sys, json; sys.path.insert(0, sys.argv[1]); from gpu import torch_side; "
        "torch_side.check(json.loads(sys.argv[2]), torch_side.torch.device('cpu'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "scripts"), json.dumps(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["good"]


def test_padding_changes_no_loss(compared):
    import torch
    from gpu.torch_model import Model, Shape

    shape = Shape(
        {
            "arch": "llama",
            "n-layer": 2,
            "n-embd": 64,
            "n-head": 4,
            "n-ffn": 85,
            "seq-len": 16,
            "vocab-size": 97,
        }
    )
    models = [Model(shape, padded) for padded in (False, True)]
    models[1].randomize(seed=5)
    with torch.no_grad():
        for name, tensor in models[1].file_tensors().items():
            models[0].file_tensors()[name].copy_(tensor)  # views of the other's parameters
    ids = torch.randint(97, (2, 17), generator=torch.Generator().manual_seed(1))
    losses = [model.double()(ids[:, :-1], ids[:, 1:]).item() for model in models]
    assert abs(losses[0] - losses[1]) < 1e-12 and models[1].vocabulary == 128 and models[1].width == 128
