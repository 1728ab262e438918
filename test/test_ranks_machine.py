"""Do the ranks of a machine share it, and does what is wrong with one of them reach all: its memory, its program, its stdout, its
disk, its checkpoint?

Over MPI on the CPU; needs Open MPI's mpirun, and a build that found MPI.
"""

import os
import re
import shutil
import time

import pytest

from faults import checkpoints, fault, flip, leftovers  # noqa: F401 # pylint: disable=unused-import
from limits import bare, group_of_v1
from mpi import flags, has_mpi, ranks
from program import PROGRAM, events, file_bytes, losses, run, step_directory, without_notice

if not has_mpi():
    pytest.skip("no mpirun, or a build without MPI", allow_module_level=True)

ALL = os.environ.get("TEST_ALL", "") not in ("", "0")
CPUS = len(os.sched_getaffinity(0))
SMALL = ["--batch-size", "8", "--steps", "2"]


def lines(done):
    """What the program has said on stderr."""
    return [line for line in without_notice(done.stderr).splitlines() if line.startswith("train_gpt")]


def threads_of(done):
    return int(re.search(r"^device: .* (\d+) threads?;", done.stdout, re.MULTILINE)[1])


# ---- processors

@pytest.mark.parametrize("count", [2] + [4] * ALL)
def test_ranks_that_may_use_all_cpus_have_their_share_of_threads_each(shard, tmp_path, count):
    sizes = ["--batch-size", 16 // count, "--steps", 2]
    done = ranks(count, *flags(shard, tmp_path / "run", *sizes, tokens=256), env=bare())
    assert threads_of(done) == max(CPUS // count, 1) and lines(done) == []
    again = ranks(count, *flags(shard, tmp_path / "run", *sizes, "--resume", "auto", tokens=256), "--steps", 3, env=bare())
    assert threads_of(again) == max(CPUS // count, 1) and lines(again) == []


def test_more_threads_than_a_ranks_share_are_one_line(shard, tmp_path):
    done = ranks(2, *flags(shard, tmp_path / "run", *SMALL), "--threads", CPUS, env=bare())
    share = max(CPUS // 2, 1)
    assert threads_of(done) == CPUS
    assert lines(done) == [f"train_gpt: --threads {CPUS}: this machine's 2 ranks have {share} CPU{'s' * (share > 1)} each; threads "
                           "beyond that wait for each other"] * (CPUS > share)


# ---- memory

def of_memory(share):
    """A model of which a rank takes this share of the machine's memory: 16 bytes of each of 12 · 2048² weights a layer."""
    with open("/proc/meminfo", encoding="ascii") as file:
        total = int(re.search(r"MemTotal: +(\d+) kB", file.read())[1]) * 1024
    return ["--preset", "gpt2-124m", "--n-embd", 2048, "--n-head", 16, "--zero", 0, "--device", "cpu",
            "--n-layer", max(int(share * total / (16 * 12 * 2048**2)), 1)]


def test_ranks_that_a_machine_cannot_hold_together_end_before_they_take_any(shard, tmp_path):
    model = of_memory(0.6)
    says = r"the 2 ranks of this machine take [\d.]+ GB, [^,]* has [\d.]+ GB[,;]"
    done = ranks(2, *model, "--batch-size", 1, "--seq-len", 16, "--steps", 1, "--train-data", shard, code=1)
    assert done.returncode == 1 and len(lines(done)) == 1
    assert re.fullmatch(rf"train_gpt: (rank 0: )?out of memory: {says}.*", lines(done)[0]), done.stderr
    plan = run(*model, "--batch-size", 1, "--seq-len", 16, "--ranks", 2, "--dry-run").stdout
    assert re.search(r"^all 2 ranks do not fit on this machine together, with [\d.]+ GB: .* has", plan, re.MULTILINE), plan


def test_a_containers_limit_is_its_ranks_together(shard, tmp_path):
    wide = ["--n-embd", 512, "--n-head", 8, "--batch-size", 4, "--steps", 1, "--val-every", 0, "--zero", 0]
    with group_of_v1("memory", limit_in_bytes=300 << 20) as enter:
        ranks(1, *flags(shard, tmp_path / "1", *wide), preexec_fn=enter)
        done = ranks(4, *flags(shard, tmp_path / "4", *wide), preexec_fn=enter, code=1)
    assert len(lines(done)) == 1
    assert re.search(r"out of memory: the 4 ranks of this machine take [\d.]+ GB, the control group's memory.limit_in_bytes has "
                     r"0.3146 GB, of which 0.\d+ are left", lines(done)[0])


def test_a_rank_that_may_take_less_than_the_others_ends_all_with_its_number(shard, tmp_path):
    little = {1: 'ulimit -v 1000000; exec "$0" "$@"'}
    wide = ["--n-embd", 1536, "--n-head", 8, "--n-layer", 4, "--batch-size", 1]
    done = ranks(2, *flags(shard, tmp_path / "run", *SMALL, *wide, tokens=32), shell_of=little, code=1)
    assert done.returncode == 1 and len(lines(done)) == 1, done.stderr
    assert re.match(r"train_gpt: rank 1: out of memory: this run takes [\d.]+ GB, ulimit -v \(address space\) has 1.024 GB", lines(done)[0])
    assert not os.path.exists(tmp_path / "run")


# ---- programs and pipes

def test_a_rank_of_another_version_is_refused_by_that(shard, tmp_path):
    version = run("--version").stdout.split()[1].encode()
    binary = file_bytes(PROGRAM)
    assert len(version) > 3 and version in binary
    other = tmp_path / "other"
    other.write_bytes(binary.replace(version, (b"8" if version.startswith(b"9") else b"9") + version[1:]))
    other.chmod(0o755)
    done = ranks(2, *flags(shard, tmp_path / "run", *SMALL), program_of={1: other}, code=2)
    assert lines(done) == ["train_gpt: rank 1 has another version of the program than rank 0"] and done.returncode == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_without_a_stdout_trains_on(shard, tmp_path, rank):
    out = tmp_path / "run"
    ranks(2, *flags(shard, out, *SMALL), shell_of={rank: 'exec "$0" "$@" >&-'})
    assert events(out)[-1] == "end" and checkpoints(str(out)) == [2]


@pytest.mark.parametrize("words,says", [(["--norm", "none"], "--norm: 'none' is not one of "), ([], "--out .* holds step_00000002 already")])
def test_what_all_ranks_find_wrong_is_said_once(shard, tmp_path, words, says):
    if not words:
        ranks(2, *flags(shard, tmp_path / "run", *SMALL))
    done = ranks(2, *flags(shard, tmp_path / "run", *SMALL, *words), code=2)
    assert done.returncode == 2 and len(lines(done)) == 1 and re.match("train_gpt: " + says, lines(done)[0]), done.stderr


# ---- checkpoints

def test_a_rank_that_alone_has_come_to_the_end_is_found_before_anybody_waits_for_it(shard, tmp_path):
    places = [tmp_path / "a", tmp_path / "b"]
    arguments = flags(shard, "run", "--batch-size", "8", "--save-every", "2", "--keep", "9", "--timeout", "60")
    for steps, place in zip((2, 4), places):
        place.mkdir()
        ranks(2, *arguments, "--steps", 4, place_of=[place, place])
        if steps == 2:
            shutil.rmtree(place / "run" / "step_00000004")
    done = ranks(2, *arguments, "--steps", 4, "--resume", "auto", place_of=places, code=2)
    assert lines(done) == ["train_gpt: rank 1 has another checkpoint to go on from than rank 0"], done.stderr


# Its files are larger than what each rank reads by itself; bytes of several ranks' parts.
@pytest.mark.parametrize("name,at", [("model.safetensors", 0.5), ("optimizer-1-of-2.safetensors", 0.9)]
                         + [(name, at) for name in ("model.safetensors", "optimizer-0-of-2.safetensors") for at in (0.01, 0.34, 0.99)] * ALL)
@pytest.mark.parametrize("count", [3] + [2] * ALL)
def test_a_damaged_checkpoint_of_which_each_rank_reads_a_part_is_passed_over_by_all(shard, tmp_path, name, at, count):
    out = tmp_path / "run"
    arguments = ["--preset", "tiny", "--seq-len", 8, "--lr-schedule", "constant", "--total-batch-tokens", 48, "--val-every", 0,
                 "--save-every", 1, "--keep", 9, "--train-data", shard, "--out", out]
    ranks(2, *arguments, "--batch-size", 3, "--steps", 2)
    damaged = os.path.join(step_directory(out, 2), name)
    flip(damaged, int(at * os.path.getsize(damaged)), 3)
    assert os.path.getsize(damaged) > 1 << 20
    before = losses(out)
    done = ranks(count, *arguments, "--batch-size", 6 // count, "--steps", 2, "--resume", "auto")
    assert len([line for line in lines(done) if re.match(rf"train_gpt: passing over an incomplete checkpoint: .*/{name}: damaged: ", line)]) == 1
    assert len(lines(done)) == 1 + (count != 2)  # another number of ranks is a line
    assert f"resumed from {step_directory(out, 1)}\n" in done.stdout
    assert abs(losses(out)[-1] - before[-1]) < 2e-5
    shutil.rmtree(step_directory(out, 1))
    flip(damaged if os.path.exists(damaged) else os.path.join(step_directory(out, 2), "model.safetensors"), 100000, 3)
    done = ranks(count, *arguments, "--batch-size", 6 // count, "--steps", 2, "--resume", "auto", code=2)
    assert len(lines(done)) == 1 and "there is no complete checkpoint before it to go on from" in lines(done)[0], done.stderr


# ---- slow disks

@pytest.mark.parametrize("slow", [0] + [1] * ALL)
def test_a_save_may_take_longer_than_ranks_wait_for_each_other(shard, tmp_path, fault, slow):  # noqa: F811
    """Each write, and one fsync, of one rank."""
    out = tmp_path / "run"
    each = 250 if slow else 50  # rank 1 writes its moments alone
    env = fault(CALLS="pwrite,fsync", PATH=".partial/", AT=1, TIMES=0, DO=f"slow:{each}")
    hung = fault(CALLS="fsync", PATH=f"optimizer-{slow}", AT=1, DO="slow:4000")
    for settings in env, hung:
        begun = time.monotonic()
        done = ranks(2, *flags(shard, out, *SMALL, "--timeout", "2"), env_of={slow: settings})
        assert lines(done) == [] and checkpoints(str(out)) == [2] and leftovers(out) == []
        assert time.monotonic() - begun > 4, "it was not slow"
        shutil.rmtree(out)


def test_a_rank_that_is_stopped_in_a_save_is_missed_in_time(shard, tmp_path, fault):  # noqa: F811
    env = fault(CALLS="pwrite", PATH=".partial/optimizer-1", AT=1, DO="stop")
    done = ranks(2, *flags(shard, tmp_path / "run", *SMALL, "--timeout", "2"), env_of={1: env}, code=4)
    assert done.returncode == 4 and any("rank 1 says nothing" in line for line in lines(done)), done.stderr
