"""bf16 on a CPU: refused where fp32 is faster, and else every promise that fp32 has, at a loss as good."""

import os
import subprocess

import pytest
from mpi import flags, has_mpi, ranks
from program import MODEL, MOMENTS, ROOT, SMALL, cpu_bf16, file_bytes, losses, metrics, refused, run, step_directory
from tensors import read_tensors

WITHOUT = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "DNNL_MAX_CPU_ISA": "AVX512_CORE"}
CLOSE = 2.0**-6  # half of what the last bit of a bf16 is worth at these runs' losses, from 4 to 8
VARIANTS = {
    "plain": [],
    "llama": ["--arch", "llama", "--n-head", "4", "--n-kv-head", "2"],
    "bhyt-gpas": ["--norm", "bhyt", "--gpas", "sublayer"],
    "sdd": ["--arch", "llama", "--sdd", "released", "--placement", "sandwich"],
    "fp32-residual": ["--placement", "keel", "--residual-dtype", "fp32"],
}
FASTER = "the processor multiplies it faster than fp32 (AVX512-BF16"
PAIRS = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "DNNL_MAX_CPU_ISA": "AVX512_CORE_BF16"}  # without AMX
needs_bf16 = pytest.mark.skipif(not cpu_bf16().startswith(FASTER), reason="--version: this machine's CPU has no bf16")
needs_amx = pytest.mark.skipif(cpu_bf16() != FASTER + ", AMX)", reason="--version: this machine's CPU has no AMX, or was not built for it")


def train(data, out, *more, steps=6, **how):
    run(*SMALL, *data, "--device", "cpu", "--dtype", "bf16", "--steps", steps, "--out", out, *more, **how)
    return out


def same_bits(first, second, step=6):
    assert losses(first)[-1] == losses(second)[-1]
    for name in (MODEL, MOMENTS):
        assert file_bytes(step_directory(first, step), name) == file_bytes(step_directory(second, step), name), name


# ------------------------------------------------------------------------------------------------ where it is not


def test_a_processor_without_it_is_told_by_name(data, tmp_path):
    asked = [*SMALL, *data, "--device", "cpu", "--dtype", "bf16", "--steps", 1, "--out", tmp_path / "run"]
    message = refused(*asked, env=WITHOUT)
    assert "--dtype bf16 on the CPU: without " in message and "slower than fp32" in message
    if cpu_bf16().startswith(FASTER):
        assert "without AVX512-BF16, which ONEDNN_MAX_CPU_ISA keeps from use, it would be" in message
    assert not (tmp_path / "run").exists()
    assert cpu_bf16(**WITHOUT).startswith("refused: without ")


def test_auto_stays_fp32(data, tmp_path):
    run(*SMALL, *data, "--device", "cpu", "--steps", 1, "--out", tmp_path / "run")
    assert metrics(tmp_path / "run", "event")[0]["flags"]["dtype"] == "fp32"


# A GPU's run is planned on any machine.
PLAN = ["--device", "cuda", "--dtype", "bf16", "--preset", "micro", "--dry-run"]


@pytest.mark.parametrize("layers, bits", [(1, 7), (2, 6), (12, 3), (200, 0)])
def test_keel_says_how_few_bits_of_a_sublayer_a_narrow_residual_keeps(layers, bits):
    lines = run(*PLAN, "--placement", "keel", "--n-layer", layers).stdout.splitlines()
    assert f"residual: beside keel's {2 * layers}·x bf16 keeps about {bits} of F(x)'s 8 bits; --residual-dtype fp32 keeps them all" in lines
    for given in (["--residual-dtype", "fp32"], ["--dtype", "fp32"]):
        assert "residual:" not in run(*PLAN, "--placement", "keel", "--n-layer", layers, *given).stdout


@pytest.mark.parametrize("placement", ["pre", "post", "deepnorm", "mix", "lns", "hybrid"])
def test_other_placements_have_no_such_line_at_any_depth(placement):
    for layers in (1, 2, 500):
        assert "residual:" not in run(*PLAN, "--placement", placement, "--n-layer", layers).stdout


# ---------------------------------------------------------------------------------------------------- where it is


@needs_bf16
def test_a_run_says_it_too(data):
    keel = [*SMALL, *data, "--device", "cpu", "--dtype", "bf16", "--steps", 1, "--placement", "keel"]
    assert "residual: beside keel's " in run(*keel).stdout.split("step 1/")[0]
    assert "residual:" not in run(*keel, "--residual-dtype", "fp32").stdout


@needs_bf16
@pytest.mark.parametrize("name", VARIANTS)
def test_it_trains_like_fp32_and_repeats_itself_bit_for_bit(data, tmp_path, name):
    a, b = train(data, tmp_path / "a", *VARIANTS[name]), train(data, tmp_path / "b", *VARIANTS[name])
    same_bits(a, b)
    run(*SMALL, *data, "--device", "cpu", "--dtype", "fp32", "--steps", 6, *VARIANTS[name], "--out", tmp_path / "wide")
    wide = losses(tmp_path / "wide")
    assert losses(a) != wide
    for narrow, exact in zip(losses(a), wide, strict=True):
        assert abs(narrow - exact) < CLOSE, (losses(a), wide)


@needs_amx
@pytest.mark.parametrize("name", ["plain", "llama"])
def test_amx_changes_the_last_bits_alone(data, tmp_path, name):
    tiles = losses(train(data, tmp_path / "tiles", *VARIANTS[name]))
    pairs = losses(train(data, tmp_path / "pairs", *VARIANTS[name], env=PAIRS))
    assert tiles != pairs
    assert all(abs(one - other) < CLOSE for one, other in zip(tiles, pairs, strict=True)), (tiles, pairs)


@needs_bf16
def test_it_learns_what_is_built_in():
    assert run("--smoke", "--device", "cpu", "--dtype", "bf16").stdout.endswith("steps: good\n")


@needs_bf16
@pytest.mark.skipif(not os.environ.get("TEST_ALL"), reason="two minutes: TEST_ALL=1")
def test_the_demo_ends_as_near_to_the_floor():
    done = subprocess.run([f"{ROOT}/scripts/demo.sh"], env=dict(os.environ, DEMO_DTYPE="bf16"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@needs_bf16
@pytest.mark.parametrize("name", ["plain", "sdd", "fp32-residual"])
def test_recomputing_statistics_and_a_resume_change_no_bit(data, tmp_path, name):
    whole = train(data, tmp_path / "whole", *VARIANTS[name])
    same_bits(whole, train(data, tmp_path / "again", *VARIANTS[name], "--recompute", "block", "--stats-every", 2))
    part = train(data, tmp_path / "part", *VARIANTS[name], "--save-every", 3, "--keep", 9)
    run("--resume", step_directory(part, 3), "--out", tmp_path / "rest", "--steps", 6)
    same_bits(whole, tmp_path / "rest")


@needs_bf16
def test_checkpoints_hold_what_the_optimizer_updates_in_fp32(data, tmp_path):
    out = train(data, tmp_path / "run", steps=2)
    tensors = read_tensors(f"{step_directory(out, 2)}/{MODEL}")
    assert all(value.dtype == "float32" for value in tensors.values())
    assert any((value.view("uint32") & 0xFFFF).any() for value in tensors.values()), "all are bf16 in disguise"


@needs_bf16
def test_it_generates_validates_and_probes(data, tmp_path):
    out = train(data, tmp_path / "run", steps=40)
    text = run("--resume", out, "--generate", "the cat", "--max-new-tokens", 12, "--temperature", 0).stdout
    assert text == run("--resume", out, "--generate", "the cat", "--max-new-tokens", 12, "--temperature", 0).stdout
    narrow = run("--resume", out, "--eval-only", "--val-data", data[3]).stdout
    assert "val loss" in narrow


@needs_bf16
@pytest.mark.skipif(not has_mpi(), reason="no MPI")
def test_ranks_train_as_one(shard, tmp_path):
    outs = {}
    for name, count, more in [("one", 1, []), ("two", 2, []), ("plain", 2, ["--zero", 0])]:
        outs[name] = tmp_path / name
        ranks(count, *flags(shard, outs[name], "--steps", 4, "--dtype", "bf16", "--device", "cpu", *more))
    assert losses(outs["two"]) == losses(outs["plain"])
    assert file_bytes(step_directory(outs["two"], 4), MODEL) == file_bytes(step_directory(outs["plain"], 4), MODEL)
    for one, two in zip(losses(outs["one"]), losses(outs["two"]), strict=True):
        assert abs(one - two) < CLOSE
