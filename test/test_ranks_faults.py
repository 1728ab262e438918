"""Does a run on several ranks outlive it when any of them is killed or stopped, at any instant: all end in time, a line names that
rank, nothing stays behind, and README's loop goes on to the bits of a run that nobody disturbed?

Over MPI on the CPU; instants are drawn by FAULTS_SEED (1; with TEST_ALL=1, which has hundreds of them, one of the clock).
"""

import concurrent.futures
import os
import random
import re
import resource
import signal
import time

import pytest

from disturbing import GRACE_S, PHASES, SAVE_EVERY, START_S, STEPS, TIMEOUT_S, VAL_EVERY, Disturbed, outlive
from mpi import has_mpi, mpirun
from program import MODEL, PROGRAM, file_bytes, losses, step_directory
from tensors import read_moments

if not has_mpi():
    pytest.skip("no mpirun, or a build without MPI", allow_module_level=True)

ALL = os.environ.get("TEST_ALL", "") not in ("", "0")
SEED = int(os.environ.get("FAULTS_SEED") or (time.time() if ALL else 1))
# Twenty instants: each phase in each run.
RUNS = [(2, 1), (2, 0), (3, 1), (4, 0)] * (15 if ALL else 1)


def training(shard, out, count, zero):
    return [*f"--preset micro --seq-len 16 --lr 2e-3 --warmup-steps 0 --total-batch-tokens 768 --bucket-mb 1 --val-batches 20 "
            f"--val-every {VAL_EVERY} --save-every {SAVE_EVERY} --steps {STEPS} --log-every 1000 --timeout {TIMEOUT_S} "
            f"--device cpu --batch-size {16 // count if count != 3 else 4} --zero {zero}".split(),
            "--train-data", shard, "--val-data", shard, "--out", out]


def bits(out):
    """Weights, state, and moments however they are shared out."""
    last = step_directory(out, STEPS)
    return file_bytes(last, MODEL), file_bytes(last, "state.json"), {name: m.tobytes() for name, m in read_moments(last).items()}


@pytest.fixture(scope="module")
def undisturbed(shard, tmp_path_factory):
    """The bits by the number of ranks; whoever updates what."""
    found = {}
    for count in sorted({count for count, _ in RUNS}):
        out = tmp_path_factory.mktemp("whole") / "run"
        mpirun(count, PROGRAM, *training(shard, out, count, 1))
        found[count] = bits(out)
        assert len(losses(out)) == STEPS
    return found


def test_a_rank_that_is_killed_or_stopped_at_any_instant_ends_all_in_time_and_the_loop_goes_on(shard, tmp_path, undisturbed):
    def one(number):
        count, zero = RUNS[number]
        out, draw = tmp_path / str(number), random.Random(f"{SEED}/{number}")
        middle = list(PHASES[:-1])
        draw.shuffle(middle)
        rows = outlive(count, training(shard, out, count, zero), out, [*middle, PHASES[-1]], draw)
        assert bits(out) == undisturbed[count], (number, rows)
        return rows

    print(f"FAULTS_SEED={SEED}")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        rows = [row for rows in pool.map(one, range(len(RUNS))) for row in rows]
    for row in rows:
        print(*row)
    met = [row for row in rows if row[3] is not None]
    # The others had ended before their instant came, as those of the end may.
    assert len(met) >= 0.7 * len(rows) and {row[1] for row in met} == {signal.SIGKILL, signal.SIGSTOP}, rows


def test_a_rank_whose_memory_ends_in_the_middle_ends_all_with_a_line_and_the_loop_goes_on(shard, tmp_path, undisturbed):
    """No more address space from some step on: whatever it asks for next is refused."""
    out = tmp_path / "run"
    with Disturbed(2, training(shard, out, 2, 1), out) as run:
        run.wait("steps", lambda: run.is_at("steps", 2), START_S)
        for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            resource.prlimit(run.ranks()[1], limit, (4096, 4096))
        begun = time.monotonic()
        run.wait("the end", lambda: run.ended() == 1, TIMEOUT_S + GRACE_S)
        said, code = run.said()[0]
        assert code not in (0, 2) and time.monotonic() - begun < TIMEOUT_S + GRACE_S
        assert re.search(r"^1: train_gpt, rank 1: .*(out of memory|Cannot allocate memory)", said, re.MULTILINE), said
        assert run.child.wait(START_S) == 0, run.said()
    assert bits(out) == undisturbed[2]
