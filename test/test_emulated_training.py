"""Does the CUDA path train as the CPU does, for every norm, placement and method? Runs `train_gpt_emu --device cuda`.

The executable is named by TRAIN_GPT_EMU (default ./train_gpt_emu, of `make emu`); without it these tests are skipped.
"""
import itertools
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
EMULATED = pathlib.Path(os.environ.get("TRAIN_GPT_EMU", ROOT / "train_gpt_emu"))
SHARD = ROOT / "test" / "reference" / "fixtures" / "llama" / "train.bin"
STEPS = 10
# Small enough that ten emulated steps take about a second; two rows of padding, two heads a key-value head.
SHAPE = ["--arch", "llama", "--n-layer", "2", "--n-embd", "32", "--n-head", "4", "--n-kv-head", "2", "--n-ffn", "40",
         "--vocab-size", "61", "--seq-len", "5", "--batch-size", "2", "--init-std", "0.1"]
TRAINING = ["--steps", str(STEPS), "--lr", "3e-3", "--warmup-steps", "2"]

pytestmark = pytest.mark.skipif(not EMULATED.exists(), reason="no train_gpt_emu: `make emu` builds it")

PLACEMENTS = ["pre", "post", "sandwich", "deepnorm", "mix", "lns"]
NORMS = ["layernorm", "rmsnorm", "dyt", "bhyt-exact", "bhyt"]
PLAIN = [f"--norm {norm} --placement {placement}" for norm, placement in itertools.product(NORMS, PLACEMENTS)
         if norm != "bhyt" or placement in ("pre", "lns")]
METHODS = [f"--placement {placement} {method}" for placement, method in itertools.product(PLACEMENTS, [
    "--gpas sublayer --gpas-init 0.3", "--sdd paper", "--sdd released --gpas layer --gpas-act tanh --gpas-init 0.3"])]
PLAIN = [flags.replace("mix", "mix --mix-post-layers 1") for flags in PLAIN]
METHODS = [flags.replace("mix", "mix --mix-post-layers 1") for flags in METHODS]


def losses(folder, flags):
    """Train and validation losses of a run."""
    command = [str(EMULATED), *SHAPE, *TRAINING, *flags, "--train-data", str(SHARD), "--val-data", str(SHARD),
               "--out", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                          env=dict(os.environ, OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr.decode()
    lines = [json.loads(line) for line in open(folder / "metrics.jsonl", encoding="utf-8")]
    found = [line["loss"] for line in lines if line["type"] in ("train", "val")]
    assert len(found) == STEPS + 1
    return found


def worst(a, b):
    return max(abs(x - y) for x, y in zip(a, b))


def compare(tmp_path, flags, dtype="fp32"):
    """(how far CUDA's losses are from the CPU's in fp64, how far the CPU's own in fp32 are)."""
    truth = losses(tmp_path / "truth", flags + ["--device", "cpu", "--dtype", "fp64"])
    single = losses(tmp_path / "single", flags + ["--device", "cpu", "--dtype", "fp32"])
    cuda = losses(tmp_path / "cuda", flags + ["--device", "cuda", "--dtype", dtype])
    return worst(cuda, truth), worst(single, truth)


# Rounding differs with the order of sums, and training multiplies it: the CPU's own fp32 run says by how much. Three
# times that (DESIGN's factor for gradients), and never less than 16 roundings of a loss of order 4.
def limit(own):
    return max(3 * own, 16 * 4 * 2.0**-24)


@pytest.mark.parametrize("flags", PLAIN + METHODS)
def test_cuda_follows_the_cpu(tmp_path, flags):
    found, own = compare(tmp_path, flags.split())
    assert found <= limit(own), (found, own)


# bf16 keeps 8 bits: a logit of order 1 behind some four roundings of 2^-9 is off by 2^-7, and a cross-entropy moves by
# at most twice what its logits do; AdamW's steps then carry that on for ten steps of at most lr = 3e-3 a weight.
@pytest.mark.parametrize("flags", ["--norm rmsnorm", "--norm layernorm --placement post --gpas layer",
                                   "--norm bhyt", "--sdd paper --placement sandwich",
                                   "--placement post --residual-dtype fp32"])
def test_bf16_stays_near(tmp_path, flags):
    found, _ = compare(tmp_path, flags.split(), dtype="bf16")
    assert found <= 2 * 2.0**-7 + 0.03, found


def test_a_learning_rate_that_is_one_percent_off_is_seen(tmp_path):
    flags = ["--norm", "rmsnorm", "--device", "cpu"]
    truth = losses(tmp_path / "truth", flags + ["--dtype", "fp64"])
    single = losses(tmp_path / "single", flags + ["--dtype", "fp32"])
    off = losses(tmp_path / "off", flags + ["--dtype", "fp32", "--lr", "3.03e-3"])
    assert worst(off, truth) > limit(worst(single, truth))


def run_on(machine, *flags):
    """A short run on a machine whose GPU cannot serve, as EMU_DEVICE says."""
    return subprocess.run([str(EMULATED), "--smoke", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False, env=dict(os.environ, OMP_NUM_THREADS="1", EMU_DEVICE=machine))


@pytest.mark.parametrize("machine, why", [
    ("no-driver", "no NVIDIA driver on this machine"),
    ("old-driver", "the NVIDIA driver is too old: it serves CUDA 11.8, this program needs 13.0"),
    ("none", "the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES may hide it)"),
    ("no-code", "this build has no code for CUDA on the host (emulation) (compute capability 9.0); "
                "make CUDA_ARCHS=90 builds it"),
])
def test_without_a_gpu_that_can_serve_auto_takes_the_cpu_and_cuda_is_refused(machine, why):
    refused = run_on(machine, "--device", "cuda")
    assert (refused.returncode, refused.stderr.decode()) == (2, f"train_gpt: --device cuda: {why}\n")
    fallen_back = run_on(machine)
    assert fallen_back.returncode == 0 and not fallen_back.stderr
    assert f"no usable GPU ({why}): running on the CPU" in fallen_back.stdout.decode().splitlines()


def test_two_emulated_runs_have_the_same_bits_under_another_order_of_blocks(tmp_path):
    flags = ["--norm", "rmsnorm", "--gpas", "layer", "--device", "cuda", "--dtype", "bf16"]
    first = losses(tmp_path / "a", flags)
    os.environ["EMU_SEED"] = "5"
    try:
        second = losses(tmp_path / "b", flags)
    finally:
        del os.environ["EMU_SEED"]
    assert first == second
