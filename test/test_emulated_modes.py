"""Does every mode of the program run on CUDA, in both types, at widths whose rows are not aligned as a tensor's start is?

Runs `train_gpt_emu` (TRAIN_GPT_EMU), whose device refuses a misaligned access and a product whose operands are less
aligned than was promised. A row of 64 bf16 numbers is 128 bytes: every other row of a tensor of such rows is aligned to 128
only, and so it is with 192 and 320. TEST_ALL=1: more shapes, all prompt lengths, orders of blocks.
"""
import json
import os
import pathlib
import random
import re
import subprocess

import pytest

from program import metrics, write_shard
from tensors import read_tensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
EMULATED = pathlib.Path(os.environ.get("TRAIN_GPT_EMU", ROOT / "train_gpt_emu"))
ALL = os.environ.get("TEST_ALL", "") not in ("", "0")
pytestmark = pytest.mark.skipif(not EMULATED.exists(), reason="no train_gpt_emu: `make emu` builds it")

# Rows of 64 in the whole model; of 192 in two of its products; head sizes with tensor cores and without; vocabularies, MLPs
# and heads that end within a row; odd numbers of tokens a call.
SHAPES = {
    "gpt2-64": "--arch gpt2 --n-embd 64 --n-head 2 --vocab-size 61 --seq-len 5 --norm bhyt --gpas sublayer --n-ffn 64",
    "llama-72": "--arch llama --n-embd 72 --n-head 3 --n-kv-head 1 --n-ffn 33 --vocab-size 130 --seq-len 7 --norm rmsnorm "
                "--gpas layer --residual-dtype fp32",
    "llama-192": "--arch llama --n-embd 192 --n-head 4 --n-kv-head 2 --n-ffn 65 --vocab-size 65 --seq-len 5 "
                 "--placement post --recompute block",
    "gpt2-320": "--arch gpt2 --n-embd 320 --n-head 5 --n-ffn 191 --vocab-size 59 --seq-len 5 --norm layernorm",
}
MORE = {
    "llama-64-sdd": "--arch llama --n-embd 64 --n-head 2 --n-kv-head 1 --n-ffn 63 --vocab-size 60 --seq-len 6 --sdd paper",
    "llama-136": "--arch llama --n-embd 136 --n-head 17 --n-kv-head 1 --n-ffn 129 --vocab-size 193 --seq-len 9 --norm dyt "
                 "--placement sandwich",
    "llama-320": "--arch llama --n-embd 320 --n-head 8 --n-kv-head 4 --n-ffn 65 --vocab-size 62 --seq-len 5 --placement lns "
                 "--tie-embeddings on --residual-dtype fp32",
    "gpt2-192": "--arch gpt2 --n-embd 192 --n-head 2 --n-ffn 70 --vocab-size 256 --seq-len 8 --norm rmsnorm --recompute act",
}
BOTH = ["fp32", "bf16"]
TRIED = [("gpt2-64", "fp32"), ("gpt2-64", "bf16"), ("llama-72", "fp32"), ("llama-192", "bf16"), ("gpt2-320", "bf16")]
if ALL:
    SHAPES.update(MORE)
    TRIED = [(name, dtype) for name in SHAPES for dtype in BOTH]
PROMPTS = ["0", "01", "012", "0123", "01234", "012345"] if ALL else ["01", "012"]


def run(device, dtype, *flags, seed=0):
    done = subprocess.run(
        [str(EMULATED), "--device", device, "--dtype", dtype, *map(str, flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
        env=dict(os.environ, OMP_NUM_THREADS="1", EMU_SEED=str(seed)),
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(errors="replace")


def data(folder, shape):
    draw = random.Random(7)
    vocab = min(59, int(re.search(r"--vocab-size (\d+)", shape).group(1)))
    write_shard(folder / "train.bin", [draw.randrange(vocab) for _ in range(90)])
    return ["--train-data", folder / "train.bin", "--val-data", folder / "train.bin", "--val-batches", 2]


def val_loss(text):
    return float(re.search(r"^val loss ([0-9.]+) ", text, re.MULTILINE).group(1))


def likelihoods(folder, *arguments):
    """Of questions with contexts and choices of all lengths, some too long for the model."""
    rows = [{"context_ids": [1, 2, 3, 4, 5, 6][:n], "choice_ids": [[7], [8, 9], [10, 11, 12, 13][: 1 + n % 4]], "answer": 0}
            for n in (1, 2, 4, 5, 6)]
    (folder / "items.jsonl").write_text("".join(map("{}\n".format, map(json.dumps, rows))))
    run(*arguments, "--eval", folder / "items.jsonl", "--eval-out", folder / "answers.jsonl")
    answers = map(json.loads, (folder / "answers.jsonl").read_text().splitlines()[:-1])
    return [likelihood for answer in answers for likelihood in answer["loglikelihoods"]]


# fp32: sums of some hundred terms in another order. bf16: numbers of 8 bits, a few dozen roundings deep in one layer, of
# which a loss is the mean over 20 tokens.
CLOSE = {"fp32": 1e-5, "bf16": 0.02}


@pytest.mark.parametrize("name, dtype", TRIED)
def test_every_mode_runs(name, dtype, tmp_path):
    shape, files, out = SHAPES[name].split(), data(tmp_path, SHAPES[name]), tmp_path / "run"
    batch = ["--n-layer", 1, "--batch-size", 3, "--total-batch-tokens", 6 * int(shape[shape.index("--seq-len") + 1])]
    model = [*shape, *batch, "--init-std", "0.1", "--lr", "1e-3"]
    quiet = ["--max-new-tokens", 3, "--temperature", 0]
    assert "parameters: " in run("cuda", dtype, *model, "--dry-run")
    run("cuda", dtype, *model, *files, *quiet, "--steps", 2, "--stats-every", 1, "--sample-every", 1, "--val-every", 1,
        "--save-every", 1, "--lr-schedule", "constant", "--warmup-steps", 0, "--out", out)
    run("cuda", dtype, *files, *quiet, "--resume", "auto", "--steps", 3, "--stats-every", 3, "--out", out)
    assert [line["step"] for line in metrics(out)] == [1, 2, 3]
    assert [line["step"] for line in metrics(out, "stats")] == [1, 2, 3]

    losses = [val_loss(run(*kind, *files, "--resume", out, "--eval-only")) for kind in (("cuda", dtype), ("cpu", "fp32"))]
    assert losses[0] == pytest.approx(losses[1], rel=CLOSE[dtype])
    cuda, cpu = (likelihoods(tmp_path, *kind, "--resume", out) for kind in (("cuda", dtype), ("cpu", "fp32")))
    assert len(cuda) == 15 and cuda == pytest.approx(cpu, rel=5 * CLOSE[dtype])  # sums of one to four losses, no means
    probe = tmp_path / "probe.safetensors"
    run("cuda", dtype, *files, "--resume", out, "--probe", probe)
    assert "logits" in read_tensors(probe)
    for prompt in PROMPTS:
        text = run("cuda", dtype, *quiet, "--resume", out, "--generate", prompt)
        assert text.startswith(prompt)
        if dtype == "fp32":  # greedy: the same bytes, unless two logits are alike to the last bits
            assert text == run("cpu", "fp32", *quiet, "--resume", out, "--generate", prompt)
    many = tmp_path / "many.jsonl"
    many.write_text('{"ids":[1,2,3]}\n{"ids":[7]}\n{"ids":[9,8,7,6,5,4,3,2,1]}\n')
    lines = run("cuda", dtype, *quiet, "--resume", out, "--generate-file", many, "--batch-size", 2)
    if dtype == "fp32":
        assert lines == run("cpu", "fp32", *quiet, "--resume", out, "--generate-file", many)


@pytest.mark.skipif(not ALL, reason="some ten seconds each")
@pytest.mark.parametrize("dtype", BOTH)
def test_the_smoke_run_runs(dtype):
    assert "smoke" in run("cuda", dtype, "--smoke")
