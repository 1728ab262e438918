"""Do ranks find each other, whoever started them, and does every wait for another rank end in time, with a line that says
who waits for whom?

On the CPU over MPI (needs Open MPI's mpirun, and a build that found MPI); CUDA over the emulated NCCL where
build/emu/train_gpt (TRAIN_GPT_EMU) is built. The environments of the launchers: test_launcher.c.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from mpi import LIMIT_S, MPIRUN, free_port, has_mpi
from program import PROGRAM, ROOT, checkpoints, environment, metrics, refused, run

EMULATED = pathlib.Path(os.environ.get("TRAIN_GPT_EMU", pathlib.Path(ROOT) / "build" / "emu" / "train_gpt")).resolve()
WAITED_TOO_LONG = 4  # the exit code

over_mpi = pytest.mark.skipif(not has_mpi(), reason="no mpirun, or a build without MPI")
over_nccl = pytest.mark.skipif(not (shutil.which("mpirun") and EMULATED.exists()), reason="the emulation is not built, or no mpirun")

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


def flags(shard, out, *more):
    return [*"--preset micro --seq-len 16 --batch-size 2 --lr 1e-3 --warmup-steps 0 --log-every 1000".split(), "--train-data", shard,
            "--out", out, *more]


# ---- who am I, and where do we meet ---------------------------------------------------------------------------------


def test_version_tells_the_launchers_in_the_order_in_which_they_are_asked():
    said = run("--version").stdout
    names = ["Open MPI", "MPICH", "torchrun", "Kubernetes", "Slurm + PMIx", "Slurm  "]
    places = [said.index(name) for name in names]
    assert places == sorted(places) and "OMPI_COMM_WORLD_RANK" in said and "SLURM_STEP_NUM_TASKS" in said


def test_what_a_launcher_said_is_told_where_the_cpu_cannot_go_on_with_it(shard, tmp_path):
    def told(env, *says, more=()):
        refused(*flags(shard, tmp_path / "run", "--steps", "2", "--device", "cpu", *more), env=env, says=list(says))

    told(TORCHRUN, "torchrun started 4 ranks (this is rank 1, the machine's 1, to meet at node0:29501)", "mpirun -n 4")
    told(TORCHRUN, "to meet at [fd00::1]:77", more=["--rendezvous", "[fd00::1]:77"])
    told({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"},
         "Kubernetes started 2 ranks (this is rank 1", "to meet at job-master-0:23457")
    slurm = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0"}
    told({**slurm, "SLURM_STEP_NODELIST": "node7"}, "Slurm started 4 ranks (this is rank 3, the machine's 1, to meet at node7:")
    told({**TORCHRUN, "WORLD_SIZE": "1"}, 'RANK is "1" (torchrun sets it): a whole number from 0 to 0')
    told({"RANK": "1"}, "RANK is set, as Kubernetes does, but WORLD_SIZE is not")


def test_slurm_s_list_of_hosts_is_read_by_slurm_itself(shard, tmp_path):
    """A scontrol of the test's own answers, and keeps what it was asked."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/asked\nprintf "gpu03\\ngpu04\\n"\n')
    scontrol.chmod(0o755)
    slurm = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "gpu[03-04]; exit",
             "MASTER_PORT": "700", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    refused(*flags(shard, tmp_path / "run", "--steps", "2"), env=slurm, says="to meet at gpu03:701")
    assert (tmp_path / "asked").read_text().splitlines() == ["show", "hostnames", "gpu[03-04]; exit"]


def test_an_address_is_of_the_job_that_it_was_given_to(shard, tmp_path):
    """A run that goes on asks again: an address in config.ini would be an old job's."""
    run(*flags(shard, tmp_path / "run", "--steps", "2", "--rendezvous", "node0:1", "--timeout", "77"))
    kept = (tmp_path / "run" / "config.ini").read_text()
    assert "rendezvous" not in kept and re.search(r"^timeout = 77$", kept, re.MULTILINE)


# ---- GPUs without MPI, over the emulated NCCL -----------------------------------------------------------------------


# The emulated NCCL goes by MPI, but the program is told by torchrun's variables alone.
AS_TORCHRUN = ["sh", "-c", 'export RANK=$OMPI_COMM_WORLD_RANK WORLD_SIZE=$OMPI_COMM_WORLD_SIZE LOCAL_RANK=$OMPI_COMM_WORLD_LOCAL_RANK; '
               'export LOCAL_WORLD_SIZE=$OMPI_COMM_WORLD_SIZE; '
               'unset OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_LOCAL_RANK OMPI_COMM_WORLD_LOCAL_SIZE; '
               'eval "$BEFORE"; "$0" "$@"; echo "rank $RANK ended with $?" >&2']


def nccl_ranks(count, arguments, before="", starts=AS_TORCHRUN, **env):
    """The emulated program's ranks. Each one's exit code, and the output of all."""
    done = subprocess.run([*MPIRUN, "-n", str(count), *starts, str(EMULATED), "--device", "cuda", *map(str, arguments)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S, check=False,
                          stdin=subprocess.DEVNULL, env=environment(BEFORE=before, **env))
    return {int(rank): int(code) for rank, code in re.findall(r"rank (\d+) ended with (\d+)", done.stdout)}, done.stdout


@over_nccl
def test_gpus_meet_at_the_address_and_train_as_one(shard, tmp_path):
    codes, said = nccl_ranks(2, flags(shard, tmp_path / "run", "--steps", "2"), MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    assert codes == {0: 0, 1: 0}, said
    assert "2 ranks, started by torchrun (RANK, WORLD_SIZE)" in said and len(metrics(tmp_path / "run")) == 2


@over_nccl
@pytest.mark.parametrize("what,before", [
    ("never comes", '[ $RANK = 0 ] || { sleep 8; exit 9; }'),
    ("goes elsewhere", '[ $RANK = 0 ] || MASTER_PORT=$((MASTER_PORT + 1))'),
])
def test_a_rank_that_is_not_met_in_time_is_said_by_those_who_wait(shard, tmp_path, what, before):
    port = free_port()
    codes, said = nccl_ranks(2, flags(shard, tmp_path / "run", "--steps", "2", "--timeout", "3"), before,
                             MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert codes[0] == WAITED_TOO_LONG, said
    assert re.search(rf"rank 0 of 2, after step 0, waited 3 s in ncclCommInitRankConfig for rank 1 at 127.0.0.1:{port + 1}", said), said
    if what == "goes elsewhere":
        assert f"for rank 0 to listen, and for all others at 127.0.0.1:{port + 2}" in said, said


@over_nccl
def test_an_address_that_cannot_be_had_is_an_error_of_nccl_s(shard, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        codes, said = nccl_ranks(2, flags(shard, tmp_path / "run", "--steps", "2", "--rendezvous", f"127.0.0.1:{port}", "--timeout", "4"))
    assert codes[0] == 2 and "opening rank 0 of 2: unhandled system error (listening: Address already in use)" in said, said
    no_host = 70 * "x"  # a name's part has at most 63 letters: refused without asking any server
    codes, said = nccl_ranks(1, flags(shard, tmp_path / "run", "--steps", "2", "--rendezvous", f"{no_host}:7"),
                             "WORLD_SIZE=2")
    assert codes == {0: 2} and f"the ranks cannot meet at {no_host}:7: NCCL says: invalid argument" in said, said


@over_nccl
def test_a_rank_has_the_gpu_of_its_number_and_more_ranks_than_gpus_are_refused(shard, tmp_path):
    for device in "cuda", "auto":
        codes, said = nccl_ranks(3, flags(shard, tmp_path / "run", "--steps", "2", "--device", device, "--rendezvous",
                                          f"127.0.0.1:{free_port()}"), EMU_DEVICES=2)
        assert 2 in codes.values() and set(codes.values()) <= {2}, said
        assert "3 ranks were started on this machine, and this one sees 2 GPUs: at most one a GPU" in said, said


@over_nccl
def test_under_mpirun_mpi_passes_the_id_on(shard, tmp_path):
    codes, said = nccl_ranks(2, flags(shard, tmp_path / "run", "--steps", "2"), starts=[])
    assert "2 ranks, started by Open MPI" in said and len(metrics(tmp_path / "run")) == 2 and codes == {}, said


# ---- a rank that hangs ------------------------------------------------------------------------------------------------


def children_of(pid):
    said = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], stdout=subprocess.PIPE, check=False).stdout
    return [int(word) for word in said.split()]


@over_mpi
def test_a_rank_that_hangs_ends_all_in_time_and_is_named(shard, tmp_path):
    out, count = tmp_path / "run", 3
    child = subprocess.Popen([*MPIRUN, "-n", str(count), PROGRAM, *map(str, flags(shard, out, "--steps", "1000000", "--save-every", "5",
                             "--timeout", "3"))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                             env=environment())
    begun = time.monotonic()
    while not (out.is_dir() and checkpoints(out)):
        assert child.poll() is None and time.monotonic() - begun < LIMIT_S, child.communicate()[0]
        time.sleep(0.05)
    os.kill(children_of(child.pid)[-1], signal.SIGSTOP)
    stopped = time.monotonic()
    said = child.communicate(timeout=LIMIT_S)[0]
    assert child.returncode == WAITED_TOO_LONG and time.monotonic() - stopped < 60, said
    last = count - 1
    for rank in range(last):
        assert re.search(rf"rank {rank} of {count} waited 3 s in [a-z_]+, after step \d+, longer than --timeout", said), said
        assert f"rank {rank} of {count}: rank {last} says nothing: it hangs, is slow, or is gone" in said, said


@over_mpi
def test_a_rank_that_never_starts_ends_the_others_in_time(shard, tmp_path):
    done = subprocess.run([*MPIRUN, "-n", "1", PROGRAM, *map(str, flags(shard, tmp_path / "run", "--steps", "2", "--timeout", "3")),
                           ":", "-n", "1", "sleep", "40"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                          timeout=LIMIT_S, stdin=subprocess.DEVNULL, env=environment())
    assert done.returncode == WAITED_TOO_LONG, done.stdout
    assert "rank 0 of 2 waited 3 s in MPI_Init: another rank did not come" in done.stdout, done.stdout


def test_a_timeout_that_is_no_length_of_time_is_refused(shard, tmp_path):
    for asked in "soon", "0", "-1", "nan", "1e999":
        refused(*flags(shard, tmp_path / "run", "--steps", "2", "--timeout", asked), says="timeout")
