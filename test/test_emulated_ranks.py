"""Does the CUDA path train on several ranks as it does on one: the same bits with shared updates and without, captured or not,
whatever the order of streams? Runs `train_gpt_emu --device cuda` over the emulated NCCL.

TRAIN_GPT_EMU names the executable, with libnccl.so.2 beside it; needs Open MPI's mpirun. TEST_ALL=1: more variants, orders and
numbers of ranks; and under the race checker, if TRAIN_GPT_RACE is built. What a missing wait
does: test/ranks/training.c, as training_emu.
"""
import errno
import os
import pathlib
import random
import re
import shutil
import subprocess

import pytest

from disturbing import PHASES, SAVE_EVERY, TIMEOUT_S, VAL_EVERY, outlive
from disturbing import STEPS as DISTURBED_STEPS
from faults import checkpoints, fault, leftovers
from mpi import mpirun
from program import MODEL, events, file_bytes, losses, metrics, sentences, step_directory, write_shard
from tensors import read_moments

ROOT = pathlib.Path(__file__).resolve().parent.parent
EMULATED = pathlib.Path(os.environ.get("TRAIN_GPT_EMU", ROOT / "build" / "emu" / "train_gpt"))
RACE = pathlib.Path(os.environ.get("TRAIN_GPT_RACE", ROOT / "build" / "race" / "train_gpt"))
ALL = os.environ.get("TEST_ALL", "") not in ("", "0")
MPIRUN = "mpirun --quiet --allow-run-as-root --oversubscribe -n".split()
LIMIT_S = 600
STEPS = 4

if not EMULATED.exists() or not (EMULATED.parent / "libnccl.so.2").exists():
    pytest.skip(f"{EMULATED} and libnccl.so.2 are not built", allow_module_level=True)
if not shutil.which("mpirun"):
    pytest.skip("there is no mpirun", allow_module_level=True)

# A bucket a layer; two micro-steps on two ranks. Statistics are of a step whose graphs are of one without.
SHAPE = ("--arch llama --n-layer 2 --n-embd 32 --n-head 4 --n-kv-head 2 --n-ffn 40 --vocab-size 128 --seq-len 5 --init-std 0.1 "
         "--lr 3e-3 --lr-schedule constant --warmup-steps 0 --bucket-mb 0 --total-batch-tokens 40 --val-every 2 --val-batches 3 "
         "--save-every 2 --check-sync 2 --stats-every 3")
VARIANT = "--norm bhyt --gpas layer --sdd paper"


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text.bin"
    write_shard(path, sentences(4000, 1))
    return path


def train(out, shard, count, words, program=EMULATED, seed=0, code=0, **more):
    """A run on so many ranks."""
    size = {1: 4, 2: 2, 4: 2}[count]
    command = [*(MPIRUN + [str(count)] if count > 1 else []), str(program), *SHAPE.split(), "--steps", str(STEPS), "--batch-size",
               str(size), *words.split(), "--train-data", str(shard), "--val-data", str(shard), "--out", str(out)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=LIMIT_S, text=True,
                          env=dict(os.environ, OMP_NUM_THREADS="1", EMU_SEED=str(seed), **more))
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def files(out, step):
    """Weights, and moments however they are shared out."""
    place = step_directory(out, step)
    return file_bytes(place, MODEL), {name: value.tobytes() for name, value in read_moments(place).items()}


def bits(out):
    """What a run leaves: weights, moments, losses, and what it says of itself."""
    stats = [line["layers"] for line in metrics(out, "stats")]
    assert len(stats) == STEPS // 3 and events(out)[-1] == "end"
    return [*files(out, STEPS), losses(out),
            [line["loss"] for line in metrics(out, "val")], [line["grad_norm"] for line in metrics(out)], stats]


def near(a, b, most):
    assert len(a) == len(b) == STEPS
    assert max(abs(x - y) for x, y in zip(a, b)) < most, (a, b)


# fp32: sums in another order, as between ranks of the CPU.
@pytest.mark.parametrize("count", [2, 4])
def test_ranks_on_cuda_take_the_steps_of_one_on_the_cpu(shard, tmp_path, count):
    train(tmp_path / "cpu", shard, 1, "--device cpu --dtype fp32 " + VARIANT)
    train(tmp_path / "cuda", shard, count, "--device cuda --dtype fp32 " + VARIANT)
    near(losses(tmp_path / "cuda"), losses(tmp_path / "cpu"), 2e-5)


# What each pair of these does not share is who updates what, whether steps are captured, and the order of streams and blocks.
WAYS = [("--zero 1 --cuda-graph off", 0), ("--zero 0 --cuda-graph on", 3), ("--zero 1 --cuda-graph on", 5)]
MORE = [("--zero 0 --cuda-graph off", 1), ("--zero 1 --cuda-graph off", 2), ("--zero 1 --cuda-graph on", 7)]


@pytest.mark.parametrize("count,dtype", [(2, "fp32"), (2, "bf16")] + [(4, "fp32"), (4, "bf16")] * ALL)
def test_who_updates_what_and_in_which_order_the_device_works_changes_no_bit(shard, tmp_path, count, dtype):
    found = []
    for i, (words, seed) in enumerate(WAYS + MORE * ALL):
        train(tmp_path / str(i), shard, count, f"--device cuda --dtype {dtype} {VARIANT} {words}", seed=seed)
        found.append(bits(tmp_path / str(i)))
        assert found[i] == found[0], words


# Muon's matrices are gathered, orthogonalized by one rank each and summed, between the reductions and the gathers of weights.
@pytest.mark.parametrize("dtype", ["bf16"] + ["fp32"] * ALL)
def test_nor_does_it_with_muon(shard, tmp_path, dtype):
    for i, (words, seed) in enumerate(WAYS + MORE * ALL):
        train(tmp_path / str(i), shard, 2, f"--device cuda --dtype {dtype} {VARIANT} --optimizer muon {words}", seed=seed)
        assert bits(tmp_path / str(i)) == bits(tmp_path / "0"), words


@pytest.mark.parametrize("variant", ["--arch gpt2 --norm layernorm --placement post --residual-dtype fp32",
                                     "--norm rmsnorm --recompute block", "--norm dyt --placement sandwich"])
@pytest.mark.skipif(not ALL, reason="test-all")
def test_other_variants_too(shard, tmp_path, variant):
    for i, (words, seed) in enumerate(WAYS):
        train(tmp_path / str(i), shard, 2, f"--device cuda --dtype bf16 {variant} {words}", seed=seed)
        assert bits(tmp_path / str(i)) == bits(tmp_path / "0"), words


# Masters that only their ranks hold come together in the checkpoint, and go apart again; moments stay apart in it, and are read
# from whichever ranks wrote them.
@pytest.mark.parametrize("written", [2] + [4] * ALL)
def test_a_resumed_run_in_bf16_ends_with_the_same_bits_and_goes_on_on_other_numbers_of_ranks(shard, tmp_path, written):
    words = f"--device cuda --dtype bf16 {VARIANT} --keep 9 --stats-every 0"
    train(tmp_path / "whole", shard, written, words)
    for count in 1, 2, 4:
        out = tmp_path / str(count)
        shutil.copytree(step_directory(tmp_path / "whole", 2), step_directory(out, 2))
        said = train(out, shard, count, words + " --resume auto --cuda-graph on", seed=count).stderr
        assert (f"was written with {written} ranks, here {count}" in said) == (count != written), said
    assert files(tmp_path / str(written), STEPS) == files(tmp_path / "whole", STEPS)
    assert losses(tmp_path / str(written)) == losses(tmp_path / "whole")[2:]
    # Sums of other ranks have another order, and bf16 rounds what depends on them: some of its epsilons, 2^-8, of losses of 4.
    for count in {1, 2, 4} - {written}:
        for a, b in zip(losses(tmp_path / str(count)), losses(tmp_path / "whole")[2:]):
            assert abs(a - b) < 4 * 2.0**-8


# The path says whose file it is: no other rank writes it.
def test_a_full_disk_of_one_rank_is_every_ranks_and_costs_a_checkpoint(shard, tmp_path, fault):
    full = fault(CALLS="pwrite", PATH="/.step_00000002.partial/optimizer-1", AT="2", TIMES="0", DO=f"fail:{errno.ENOSPC}")
    said = train(tmp_path / "run", shard, 2, f"--device cuda --dtype bf16 {VARIANT} --cuda-graph on", **full).stdout
    assert re.search(rf"^checkpoint failed: rank 1: [^\n]*{os.strerror(errno.ENOSPC)}; the run goes on", said, re.MULTILINE), said
    assert checkpoints(str(tmp_path / "run")) == [STEPS] and leftovers(tmp_path / "run") == []


# Each phase once a run, by another rank and signal each time.
@pytest.mark.parametrize("seed", [1] + [2, 3, 4] * ALL)
def test_a_rank_that_is_killed_or_stopped_ends_all_in_time_and_the_loop_goes_on(shard, tmp_path, seed):
    def training(out):
        return [*SHAPE.split(), "--stats-every", 0, "--save-every", SAVE_EVERY, "--val-every", VAL_EVERY, "--steps", DISTURBED_STEPS,
                "--timeout", TIMEOUT_S, "--batch-size", 2, "--device", "cuda", "--dtype", "bf16", "--train-data", shard, "--val-data", shard,
                "--out", out]

    phases = list(PHASES) if ALL else ["steps", "saving"]
    rows = outlive(2, training(tmp_path / "run"), tmp_path / "run", phases, random.Random(seed), EMULATED)
    mpirun(2, EMULATED, *training(tmp_path / "whole"))
    assert files(tmp_path / "run", DISTURBED_STEPS) == files(tmp_path / "whole", DISTURBED_STEPS), rows


# Masters in shares are read whole, and taken from there.
def test_a_run_from_given_weights_starts_alike_with_masters_in_shares(shard, tmp_path):
    train(tmp_path / "given", shard, 1, f"--device cuda --dtype bf16 {VARIANT} --keep 9")
    words = f"--device cuda --dtype bf16 {VARIANT} --init-from {step_directory(tmp_path / 'given', STEPS)} --bhyt-refresh 3"
    for zero in "1", "0":
        train(tmp_path / zero, shard, 2, f"{words} --zero {zero}", seed=int(zero))
    assert bits(tmp_path / "1") == bits(tmp_path / "0")
    assert losses(tmp_path / "1")[0] < losses(tmp_path / "given")[0]


LARGER = "--preset tiny --device cuda --dtype bf16 --batch-size 1 --seq-len 16".split()


def plan(*words):
    """MB by the rows' names, of what is taken on the device."""
    said = subprocess.run([str(EMULATED), *LARGER, "--dry-run", *words], stdout=subprocess.PIPE, check=True, text=True).stdout
    rows = {name: float(size) for name, size in re.findall(r"^  (\w+) +([0-9.]+) MB", said, re.MULTILINE)}
    return {name: size for name, size in rows.items() if name not in ("process", "total")}


# bf16: what forward reads is whole on every rank, two bytes a weight; lower halves and moments are a rank's share, 10 bytes.
def test_the_plan_of_a_rank_in_bf16_shares_lower_halves_and_moments():
    alone, whole, shared = plan(), plan("--ranks", "8", "--zero", "0"), plan("--ranks", "8")
    assert whole == pytest.approx(alone, rel=0.01)  # padding of the pieces; the plan has a digit
    assert shared["gradients"] == whole["gradients"]
    room = 4 * 65536e-6  # through which weights come
    halves = alone["weights"] - room
    assert shared["weights"] - room == pytest.approx(halves * (2 + 2 / 8) / (2 + 2), rel=0.05)  # a digit, and vectors are on every rank
    assert shared["moments"] == pytest.approx(alone["moments"] / 8, rel=0.1)


# A device on which others leave so much: what the plan says and no more suffices, 3 % less does not.
@pytest.mark.parametrize("zero", ["1", "0"])
def test_a_rank_takes_what_the_plan_says_of_the_device(shard, tmp_path, zero):
    planned, total = 1e6 * sum(plan("--ranks", "2", "--zero", zero).values()), 1 << 30
    for share, code in (1.01, 0), (0.97, 1):
        done = subprocess.run([*MPIRUN, "2", str(EMULATED), *LARGER, "--zero", zero, "--steps", "2", "--train-data", str(shard),
                               "--val-data", str(shard), "--val-batches", "1", "--out", str(tmp_path / str(code))],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=LIMIT_S, text=True,
                              env=dict(os.environ, OMP_NUM_THREADS="1", EMU_MEMORY=str(total),
                                       EMU_MEMORY_TAKEN=str(total - int(share * planned))))
        assert done.returncode == code, (share, planned, done.stdout, done.stderr)
        assert code == 0 or "out of memory" in done.stderr


def training(seed, *words, may_fail=False):
    """What test/ranks/training.c says; None where the device, or the program, noticed that something is wrong."""
    program = EMULATED.parent.parent / "training_emu"
    if not program.exists():
        pytest.skip(f"{program} is not built")
    done = subprocess.run([*MPIRUN, "2", str(program), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False, timeout=LIMIT_S, text=True, env=dict(os.environ, OMP_NUM_THREADS="1", EMU_SEED=str(seed)))
    assert may_fail or done.returncode == 0, done.stderr
    return done.stdout.strip() if done.returncode == 0 else None


WAITS = ["backward", "reduction", "update", "weights", "gathers", "rest"]


# Each wait between the queue of the model and the exchange is needed. (Out of a graph the exchange is in order by itself.)
@pytest.mark.parametrize("graphs", ["off", "on"])
def test_a_missing_wait_around_the_exchange_shows_under_some_order_of_streams(graphs):
    seeds = range(8 if ALL else 2)
    right = {training(seed, "steps", graphs) for seed in seeds}
    assert len(right) == 1 and right == {training(0, "steps", "off")}
    for wait in WAITS:
        needed = graphs == "on" or wait != "gathers"
        shows = any(training(seed, "steps", graphs, wait, may_fail=True) not in right for seed in (range(8) if needed else seeds))
        assert shows == needed, wait


# Two layers, a bucket for each, for the embedding and for the head: w waits for weights, v and ^ layers forward and backward,
# - reductions, + gathers (the vectors' gradients'; four buckets of weights, and what was lost), all in the exchange. Every
# reduction but the last layer's, the embedding's and the vectors' has a layer of backward beside it.
def test_reductions_go_beside_backward_and_weights_are_waited_for_where_they_are_read():
    step = "wwvwvw-^-^--+-" "++++" "+"
    assert training(0, "order", "off") == 2 * step
    assert training(0, "order", "on") == step  # as captured


# A sum and a gather: of gradients, with --zero 1 of bf16's weights. Exact numbers are checked there.
def test_a_step_sends_what_the_types_of_gradients_and_weights_say():
    assert training(0, "wire").split() == ["1.000", "0.500", "0.750", "0.500"]


def test_gradients_that_travel_in_bf16_are_rounded_sums_on_every_rank():
    assert training(0, "reduce") == "24 reductions"


def test_a_gradient_beyond_bf16s_largest_number_skips_the_step_and_is_not_cut():
    assert training(0, "beyond") == "5 gradients"


@pytest.mark.parametrize("dtype", ["bf16"] + ["fp32"] * ALL)
def test_gradients_in_bf16_train_nearly_as_in_fp32_and_no_way_changes_a_bit(shard, tmp_path, dtype):
    words = f"--device cuda --dtype {dtype} {VARIANT}"
    train(tmp_path / "wide", shard, 2, words)
    for i, (way, seed) in enumerate(WAYS):
        train(tmp_path / str(i), shard, 2, f"{words} --reduce-dtype bf16 {way}", seed=seed)
        assert bits(tmp_path / str(i)) == bits(tmp_path / "0"), way
    assert losses(tmp_path / "0") != losses(tmp_path / "wide")
    near(losses(tmp_path / "0"), losses(tmp_path / "wide"), 4 * 2.0**-8)


@pytest.mark.skipif(not ALL or not RACE.exists(), reason="test-all, with `make race`")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_no_ranks_race(shard, tmp_path, dtype):
    for words in "--zero 1 --cuda-graph off", "--zero 1 --cuda-graph on", "--zero 0 --cuda-graph off":
        train(tmp_path / words.replace(" ", ""), shard, 2, f"--device cuda --dtype {dtype} {VARIANT} {words}", program=RACE)


# The emulated algorithms differ in their last bits; the one that EMU_FAST_ALGORITHM names is the fastest.
def test_all_ranks_take_the_algorithms_that_rank_0_has_measured(shard, tmp_path):
    def tuned(out, fast, *more):
        each = [[*MPIRUN[1:], "1", "-x", f"EMU_FAST_ALGORITHM={name}", str(EMULATED), *SHAPE.split(), "--batch-size", "2", "--device",
                 "cuda", "--dtype", "fp32", "--gemm-tune", "on", *more, "--train-data", str(shard), "--val-data", str(shard), "--out",
                 str(out)] for name in fast]
        done = subprocess.run(["mpirun", *each[0], ":", *[word for word in each[1] if word not in MPIRUN[1:-1]]], capture_output=True,
                              text=True, check=False, timeout=LIMIT_S, env=dict(os.environ, OMP_NUM_THREADS="1"))
        assert done.returncode == 0, done.stdout + done.stderr

    steps = ["--steps", str(STEPS)]
    tuned(tmp_path / "once", "52", *steps)
    tuned(tmp_path / "equal", "55", *steps)
    tuned(tmp_path / "other", "22", *steps)
    tuned(tmp_path / "parts", "52", "--steps", "2")
    tuned(tmp_path / "parts", "25", *steps, "--resume", "auto")
    once = files(tmp_path / "once", STEPS)
    assert once == files(tmp_path / "equal", STEPS) == files(tmp_path / "parts", STEPS) != files(tmp_path / "other", STEPS)
