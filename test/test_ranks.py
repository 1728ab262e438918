"""Do several processes train as one: the same batches and losses, a checkpoint that goes on, one end for all?

Over MPI on the CPU; needs Open MPI's mpirun, and a build that found MPI. The collectives themselves: test_collective.py.
"""

import errno
import math
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from mpi import LIMIT_S, MPIRUN, flags, has_mpi, ranks
from program import MODEL, PROGRAM, checkpoints, environment, events, file_bytes, losses, metrics, refused, run
from program import sentences, step_directory, write_shard
from faults import fault, leftovers
from faults import checkpoints as complete
from tensors import read_moments, read_tensors, write_tensors

if not has_mpi():
    pytest.skip("no mpirun, or a build without MPI", allow_module_level=True)


def near(a, b):
    """What another order of sums does to losses of some nats in fp32."""
    assert len(a) == len(b) and len(a) > 0
    assert max(abs(x - y) for x, y in zip(a, b)) < 2e-5, (a, b)


def files(out, step):
    """Weights, and moments however they are shared out."""
    place = step_directory(out, step)
    return file_bytes(place, MODEL), {name: value.tobytes() for name, value in read_moments(place).items()}


def test_any_number_of_ranks_takes_the_same_steps(shard, tmp_path):
    run(*flags(shard, tmp_path / "1", "--batch-size", "8", "--steps", "6", "--val-every", "3"))
    alone = losses(tmp_path / "1")
    for count in 2, 4:
        out = tmp_path / str(count)
        ranks(count, *flags(shard, out, "--batch-size", 8 if count == 2 else 4, "--steps", "6", "--val-every", "3"))
        near(losses(out), alone)
        near([line["grad_norm"] for line in metrics(out)], [line["grad_norm"] for line in metrics(tmp_path / "1")])
        assert [line["tokens"] for line in metrics(out)] == [512] * 6
    near([line["loss"] for line in metrics(tmp_path / "2", "val")], [line["loss"] for line in metrics(tmp_path / "1", "val")])


MUON = ["--optimizer", "muon"]


@pytest.mark.parametrize("optimizer", [[], MUON, [*MUON, "--muon-split", "heads", "--bucket-mb", "0"]], ids=["adamw", "muon", "heads"])
def test_sharing_the_update_changes_no_bit_and_neither_does_a_second_run(shard, tmp_path, optimizer):
    more = ["--batch-size", "8", "--steps", "4", "--gpas", "layer", "--sdd", "paper", "--norm", "bhyt", *optimizer]
    for name, zero in ("a", "1"), ("b", "1"), ("c", "0"):
        ranks(2, *flags(shard, tmp_path / name, "--zero", zero, *more))
    assert losses(tmp_path / "a") == losses(tmp_path / "b") == losses(tmp_path / "c")
    assert files(tmp_path / "a", 4) == files(tmp_path / "b", 4) == files(tmp_path / "c", 4)


# Each rank orthogonalizes some of the matrices: the same ones as alone, but for the sums of their gradients.
def test_any_number_of_ranks_takes_the_same_steps_of_muon(shard, tmp_path):
    run(*flags(shard, tmp_path / "1", "--batch-size", "8", "--steps", "6", *MUON))
    for count in 2, 4:
        ranks(count, *flags(shard, tmp_path / str(count), "--batch-size", 8 if count == 2 else 4, "--steps", "6", *MUON))
        near(losses(tmp_path / str(count)), losses(tmp_path / "1"))
    run(*flags(shard, tmp_path / "adamw", "--batch-size", "8", "--steps", "6"))
    assert abs(losses(tmp_path / "adamw")[-1] - losses(tmp_path / "1")[-1]) > 1e-3, "what would be AdamW's is not tested"


# A bucket a layer: pieces begin and end within tensors.
@pytest.mark.parametrize("written,optimizer", [(1, []), (2, []), (4, []), (1, MUON), (4, MUON)])
def test_a_checkpoint_goes_on_bit_for_bit_on_as_many_ranks_and_to_rounding_on_others(shard, tmp_path, written, optimizer):
    def train(count, out, *more):
        arguments = flags(shard, out, "--batch-size", 24 // count, "--bucket-mb", "0", "--steps", "8", "--save-every", "4", "--keep", "9",
                          *optimizer, *more, tokens=24 * 16)
        return run(*arguments) if count == 1 else ranks(count, *arguments)

    train(written, tmp_path / "whole")
    whole = tmp_path / "whole"
    moments = [name for name in os.listdir(step_directory(whole, 4)) if name.startswith("optimizer")]
    assert sorted(moments) == [f"optimizer-{rank}-of-{written}.safetensors" for rank in range(written)]
    for count in 1, 2, 3, 4, 8:
        out = tmp_path / f"on{count}"
        shutil.copytree(step_directory(whole, 4), step_directory(out, 4))
        said = train(count, out, "--resume", "auto").stderr
        assert "resume" in events(out) and complete(str(out)) == [4, 8]
        if count == written:
            assert losses(out) == losses(whole)[4:] and files(out, 8) == files(whole, 8) and said == ""
        else:
            near(losses(out), losses(whole)[4:])
            words = f"{written} rank{'s' * (written > 1)}, here {count}"
            assert re.search(rf"train_gpt: [^\n]*step_00000004 was written with {words}[;:][^\n]* the bits will differ\n", said), said


def test_who_updates_what_may_change_with_a_resume_and_changes_no_bit(shard, tmp_path):
    more = ["--batch-size", "8", "--bucket-mb", "0", "--steps", "4", "--save-every", "2", "--keep", "9"]
    for zero in "0", "1":
        ranks(2, *flags(shard, tmp_path / zero, "--zero", zero, *more))
        shutil.copytree(step_directory(tmp_path / zero, 2), step_directory(tmp_path / f"from{zero}", 2))
        ranks(2, *flags(shard, tmp_path / f"from{zero}", "--zero", "10"[int(zero)], *more, "--resume", "auto"))
        assert files(tmp_path / f"from{zero}", 4) == files(tmp_path / zero, 4)
    assert not os.path.exists(step_directory(tmp_path / "0", 2) + "/optimizer-1-of-2.safetensors")


FAILING = [("open", errno.EMFILE), ("pwrite", errno.ENOSPC), ("fsync", errno.EIO), ("rename", errno.EIO), ("pread", errno.EIO)]


@pytest.mark.parametrize("call,reason", FAILING)
@pytest.mark.parametrize("odd", [0, 1])
def test_a_save_that_fails_on_one_rank_fails_on_all_and_is_said_once_with_its_number(shard, tmp_path, fault, call, reason, odd):
    """In the save of step 4: in a file of moments, as each rank writes one."""
    out = tmp_path / "run"
    failing = fault(CALLS=call, PATH=f"/.step_00000004.partial/optimizer-{odd}", AT=1, DO=f"fail:{reason}")
    done = ranks(2, *flags(shard, out, "--batch-size", "8", "--steps", "6", "--save-every", "2", "--keep", "9"), env_of={odd: failing})
    says = re.findall(r"^checkpoint failed: (.*); the run goes on; last good checkpoint: (.*)$", done.stdout, re.MULTILINE)
    assert len(says) == 1 and done.stderr == "", (done.stdout, done.stderr)
    assert says[0][0].startswith(f"rank {odd}: ") and os.strerror(reason) in says[0][0] and f"optimizer-{odd}-of-2" in says[0][0]
    assert says[0][1] == step_directory(out, 2)
    assert complete(str(out)) == [2, 6] and leftovers(out) == []
    assert events(out) == ["start", "checkpoint", "checkpoint failed", "checkpoint", "end"]


# A file is read twice, for its checksum and from the disk.
@pytest.mark.parametrize("at", [1, 2])
def test_moments_that_read_back_otherwise_on_their_rank_make_no_checkpoint(shard, tmp_path, fault, at):
    out = tmp_path / "run"
    flipping = fault(CALLS="pread", PATH="/.step_00000004.partial/optimizer-1", AT=at, DO="flip")
    done = ranks(2, *flags(shard, out, "--batch-size", "8", "--steps", "6", "--save-every", "2", "--keep", "9"), env_of={1: flipping})
    assert re.search(r"^checkpoint failed: rank 1: [^\n]*/optimizer-1-of-2.safetensors: damaged", done.stdout, re.MULTILINE), done.stdout
    assert complete(str(out)) == [2, 6] and leftovers(out) == []


def test_a_last_save_that_fails_on_one_rank_ends_all_and_the_last_good_one_stays(shard, tmp_path, fault):
    out = tmp_path / "run"
    full = fault(CALLS="pwrite", PATH="/.step_00000004.partial", AT=2, TIMES=0, DO=f"fail:{errno.ENOSPC}")
    arguments = flags(shard, out, "--batch-size", "8", "--save-every", "2", "--keep", "1")
    done = ranks(2, *arguments, "--steps", "4", env_of={1: full}, code=1)
    assert done.returncode == 1 and complete(str(out)) == [2] and leftovers(out) == []
    assert re.fullmatch(rf"train_gpt: the last checkpoint could not be written: rank 1: [^\n]*{os.strerror(errno.ENOSPC)}; last good "
                        rf"checkpoint: {step_directory(out, 2)}\n", done.stderr), done.stderr
    ranks(2, *arguments, "--steps", "6", "--resume", "auto")
    assert complete(str(out)) == [6]


def test_a_rank_that_dies_while_it_writes_its_moments_costs_nothing_but_the_steps_since(shard, tmp_path, fault):
    out = tmp_path / "run"
    killing = fault(CALLS="pwrite", PATH="/.step_00000004.partial/optimizer-1", AT=1, DO="tear")
    arguments = flags(shard, out, "--batch-size", "8", "--save-every", "2", "--keep", "9", "--lr-schedule", "constant")
    ranks(2, *arguments, "--steps", "6", env_of={1: killing}, code=137)
    assert complete(str(out)) == [2]
    ranks(2, *arguments, "--steps", "6", "--resume", "auto")
    assert complete(str(out)) == [2, 4, 6] and leftovers(out) == []


# A relative --out in two working directories is what two machines without a common file system are.
@pytest.mark.parametrize("there", [False, True])
def test_ranks_that_do_not_see_the_same_directory_say_so(shard, tmp_path, there):
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
    if there:  # what a save in another place has left
        (places[1] / "run" / ".step_00000002.partial").mkdir(parents=True)
    done = ranks(2, *flags(shard, "run", "--batch-size", "8", "--steps", "2"), place_of=places, code=1)
    lines = [line for line in done.stderr.splitlines() if line.startswith("train_gpt")]
    assert len(lines) == 1 and "--out must be on a file system that all ranks share" in lines[0], done.stderr
    assert ("rank 0: rank 1 has written its moments, but rank 0 does not see them" if there else "rank 1: run/.step_00000002.partial, "
            "which rank 0 has made, is not there") in lines[0]
    assert checkpoints(places[0] / "run") == [] and leftovers(places[0] / "run") == []


def test_telemetry_of_several_ranks_sees_all_gradients_and_changes_no_bit(shard, tmp_path):
    more = ["--batch-size", "8", "--steps", "2"]
    run(*flags(shard, tmp_path / "1", "--stats-every", "1", *more))
    ranks(2, *flags(shard, tmp_path / "2", "--stats-every", "1", *more))
    ranks(2, *flags(shard, tmp_path / "plain", *more))
    for one, two in zip(metrics(tmp_path / "1", "stats"), metrics(tmp_path / "2", "stats")):
        near([layer["grad_norm"] for layer in one["layers"]], [layer["grad_norm"] for layer in two["layers"]])
        near([layer["update_ratio"] for layer in one["layers"]], [layer["update_ratio"] for layer in two["layers"]])
    assert files(tmp_path / "2", 2) == files(tmp_path / "plain", 2)


def test_rank_0_alone_speaks_and_writes(shard, tmp_path):
    done = ranks(2, *flags(shard, tmp_path / "run", "--batch-size", "8", "--steps", "2"))
    assert done.stdout.count("checkpoint ") == 1 and done.stderr == ""
    assert len(metrics(tmp_path / "run")) == 2 and checkpoints(tmp_path / "run") == ["step_00000002"]


@pytest.mark.parametrize("flag,value", [("--seed", "2"), ("--lr", "1e-3"), ("--norm", "rmsnorm"), ("--steps", "1")])
def test_ranks_that_were_given_different_flags_are_refused_by_their_names(shard, tmp_path, flag, value):
    done = ranks(2, *flags(shard, tmp_path / "run", "--batch-size", "8", "--steps", "2"), per_rank={1: [flag, value]}, code=2)
    assert f"train_gpt: rank 1 has another {flag} than rank 0\n" in done.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("which", ["train-data", "val-data"])
def test_ranks_whose_data_of_one_name_differ_are_refused(shard, tmp_path, which):
    """As on two machines, of which one has an older file."""
    for place, seed in ("a", 1), ("b", 2):
        (tmp_path / place).mkdir()
        write_shard(tmp_path / place / "own.bin", sentences(20000, seed))
    same = flags(shard, tmp_path / "run", "--batch-size", "8", "--steps", "2", f"--{which}", "own.bin")
    done = ranks(2, *same, place_of=[tmp_path / "a", tmp_path / "b"], code=2)
    what = {"train-data": "training data", "val-data": "validation data"}[which]
    assert f"train_gpt: rank 1 has another {what} than rank 0\n" in done.stderr


@pytest.mark.parametrize("row", [5, 200])
def test_numbers_that_one_rank_loses_are_every_ranks(shard, tmp_path, row):
    llama = ["--arch", "llama", "--batch-size", "8", "--bucket-mb", "0", "--zero", "1", "--save-every", "1"]
    run(*flags(shard, tmp_path / "start", *llama, "--batch-size", "16", "--steps", "2"))
    tensors = {name: value.copy() for name, value in read_tensors(step_directory(tmp_path / "start", 2) + "/" + MODEL).items()}
    tensors["model.embed_tokens.weight"][row, 5] = math.inf  # a byte that no text holds
    write_tensors(tmp_path / "bad.safetensors", tensors)
    done = ranks(2, *flags(shard, tmp_path / "run", *llama, "--steps", "9", "--init-from", tmp_path / "bad.safetensors"), code=3)
    assert done.returncode == 3
    assert re.fullmatch(r"train_gpt: training diverged: weights or moments are no longer finite after step 1 \(1 of them; first: "
                        r"weights of model.embed_tokens.weight\); last good checkpoint: none\n", done.stderr), done.stderr
    assert events(tmp_path / "run") == ["start", "diverged"]


@pytest.mark.parametrize("count,odd,other", [(2, 1, 0), (3, 0, 1)])
def test_a_bit_of_one_ranks_weights_that_flips_is_found_and_named(shard, tmp_path, fault, count, odd, other):
    sizes = ["--batch-size", "8", "--total-batch-tokens", str(count * 128), "--zero", "0", "--check-sync", "2", "--save-every", "2"]
    said = ranks(count, *flags(shard, tmp_path / "run", *sizes, "--steps", "9"), env_of={odd: fault(FLIP_AT=1)}, code=1)
    assert said.returncode == 1
    assert said.stderr == (f"train_gpt: the ranks' weights differ: after step 2 rank {odd} holds another transformer.h.0.attn."
                           f"c_attn.weight than rank {other} (1 of 28 tensors differ); last good checkpoint: none\n")
    assert events(tmp_path / "run") == ["start", "ranks differ"] and checkpoints(tmp_path / "run") == []


def started_twice(mode, count=2):
    """test/ranks/training.c, once a rank."""
    program = os.path.join(os.path.dirname(os.path.abspath(os.environ.get("TEST_COLLECTIVE", "build/test_collective"))), "training_cpu")
    if not os.path.exists(program):
        pytest.skip(f"{program} is not built")
    done = subprocess.run([*MPIRUN, "-n", str(count), program, mode], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=LIMIT_S, check=False, env=environment())
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_variants_train_on_two_ranks_as_on_one():
    """A cover by pairs of norm, placement, GPAS and SDD, in fp64: 26 pairs of the first two alone are legal."""
    assert int(re.match(r"(\d+) variants, ", started_twice("variants"))[1]) >= 26


@pytest.mark.parametrize("count", [2, 3])
def test_a_bit_that_flips_in_any_tensor_of_any_rank_is_found_and_named(count):
    assert started_twice("sync", count) == "28 tensors\n"


@pytest.mark.parametrize("count", [2, 3])
def test_gradients_that_travel_in_a_narrower_type_are_rounded_sums_on_every_rank(count):
    """To the bit, infinities and NaN too; norms' and gates' are not narrowed; the gradient's norm is that of the sums."""
    assert started_twice("reduce", count) == "24 reductions\n"


def test_a_gradient_beyond_bf16s_largest_number_skips_the_step_and_is_not_cut():
    assert started_twice("beyond") == "5 gradients\n"


def test_gradients_in_bf16_train_nearly_as_in_fp32_and_sharing_changes_no_bit(shard, tmp_path):
    sizes = ["--batch-size", "8", "--steps", "6", "--save-every", "3", "--keep", "9"]
    for name, *more in [("wide",), ("0", "--zero", "0"), ("1", "--zero", "1"), ("again", "--zero", "1")]:
        words = more + ["--reduce-dtype", "bf16"] * (name != "wide")
        ranks(2, *flags(shard, tmp_path / name, *sizes, *words))
    assert files(tmp_path / "0", 6) == files(tmp_path / "1", 6) == files(tmp_path / "again", 6)
    assert losses(tmp_path / "0") == losses(tmp_path / "1") == losses(tmp_path / "again") != losses(tmp_path / "wide")
    apart = [abs(a - b) for a, b in zip(losses(tmp_path / "1"), losses(tmp_path / "wide"))]
    # A gradient is off by 2^-9 of itself on each rank, and once more in the sum: so is, at most, what it makes a loss fall by.
    fallen = losses(tmp_path / "wide")[0] - losses(tmp_path / "wide")[-1]
    assert apart[0] == 0 and max(apart) < 2**-8 * fallen, (apart, fallen)
    shutil.rmtree(step_directory(tmp_path / "1", 6))
    said = ranks(2, *flags(shard, tmp_path / "1", *sizes, "--zero", "1", "--resume", "auto", "--reduce-dtype", "fp32")).stdout
    assert "--reduce-dtype bf16 → fp32" in said, said
    shutil.rmtree(step_directory(tmp_path / "0", 6))
    ranks(2, "--resume", "auto", "--out", tmp_path / "0")
    assert files(tmp_path / "0", 6) == files(tmp_path / "again", 6)


def test_what_gradients_travel_in_is_in_the_plan_and_nothing_to_one_rank():
    def plan(*more):
        text = run("--preset", "gpt2-124m", "--dtype", "fp32", "--device", "cpu", "--ranks", 2, *more, "--dry-run").stdout
        return float(re.search(r"workspace +([0-9.]+) MB", text)[1])

    # The largest bucket, in bf16: 50,257 rows of 768, padded, and 1,024 positions.
    assert plan("--reduce-dtype", "bf16") - plan() == pytest.approx((50304 + 1024) * 768 * 2 / 1e6, rel=0.02)
    assert plan("--reduce-dtype", "fp32") == plan()
    said = run("--preset", "micro", "--reduce-dtype", "bf16", "--dry-run").stderr
    assert "--reduce-dtype has no effect with one rank" in said


def children_of(pid):
    said = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], stdout=subprocess.PIPE, check=False).stdout
    return [int(word) for word in said.split()]


def started(shard, out, count=2):
    """mpirun's process and its ranks' once they train."""
    child = subprocess.Popen([*MPIRUN, "-n", str(count), PROGRAM, *map(str, flags(shard, out, "--batch-size", "4", "--steps",
                             "100000", "--save-every", "5", "--timeout", "20"))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             stdin=subprocess.DEVNULL, env=environment())
    begun = time.monotonic()
    while not (os.path.isdir(out) and checkpoints(out)):
        assert child.poll() is None and time.monotonic() - begun < LIMIT_S, child.communicate()[0]
        time.sleep(0.05)
    return child, children_of(child.pid)


def test_a_signal_to_any_rank_ends_all_after_the_same_step_with_a_checkpoint(shard, tmp_path):
    out = tmp_path / "run"
    child, pids = started(shard, out)
    os.kill(pids[-1], signal.SIGTERM)
    said = child.communicate(timeout=LIMIT_S)[0].decode()
    assert child.returncode == 0, said
    last = metrics(out)[-1]["step"]
    assert re.search(rf"stopping after step {last}: ", said) and checkpoints(out)[-1] == f"step_{last:08d}"
    assert events(out)[-1] == "end"


def test_a_rank_that_is_killed_ends_the_others_and_the_run_goes_on_from_its_checkpoint(shard, tmp_path):
    out = tmp_path / "run"
    child, pids = started(shard, out)
    os.kill(pids[-1], signal.SIGKILL)
    child.communicate(timeout=LIMIT_S)
    assert child.returncode != 0
    step = int(checkpoints(out)[-1][5:])
    done = ranks(2, *flags(shard, out, "--batch-size", "4", "--steps", step + 2, "--resume", "auto", "--lr-schedule", "constant"))
    assert "resumed from" in done.stdout and metrics(out)[-1]["step"] == step + 2


def test_what_is_no_training_and_what_does_not_speak_mpi_is_refused(shard, tmp_path):
    done = ranks(2, *flags(shard, tmp_path / "run", "--dry-run"), code=2)
    assert "only training runs on several; start --dry-run as one" in done.stderr and "--ranks N plans" in done.stderr
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    refused(*flags(shard, tmp_path / "run", "--steps", "2"), env=torchrun, says=["torchrun started 2 ranks", "mpirun -n 2"])
    refused(*flags(shard, tmp_path / "run", "--steps", "2"), env={"WORLD_SIZE": "2"}, says="RANK is not")
