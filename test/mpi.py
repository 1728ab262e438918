"""How tests start the program as several ranks, on CPUs by Open MPI."""

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess

from program import PROGRAM, ROOT, environment

MPIRUN = "mpirun --quiet --allow-run-as-root --oversubscribe".split()
LIMIT_S = 240  # on busy cores


def has_mpi():
    """Whether there is an mpirun, and a build that found MPI."""
    said = subprocess.run(["ldd", PROGRAM], stdout=subprocess.PIPE, check=False).stdout
    return b"libmpi" in said and shutil.which("mpirun") is not None


def without_notice_of_orte(text):
    """What was said but what Open MPI's own daemon says on a busy machine when a rank is gone before it."""
    return re.sub(r"^\[[^\n]*ORTE_ERROR_LOG[^\n]*\n", "", text, flags=re.MULTILINE)


def mpirun(count, *command, code=0, **env):
    """Some command as so many ranks, to its end."""
    done = subprocess.run([*MPIRUN, "-n", str(count), *map(str, command)], capture_output=True, text=True, timeout=LIMIT_S,
                          check=False, stdin=subprocess.DEVNULL, env=environment(**env))
    assert done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def flags(shard, out, *more, tokens=512):
    """Of a training that validates, whose ranks and steps are quick."""
    return [*f"--preset micro --seq-len 16 --lr 2e-3 --warmup-steps 0 --total-batch-tokens {tokens} --bucket-mb 1 "
            "--val-batches 3 --log-every 1000".split(), "--train-data", shard, "--val-data", shard, "--out", out, *more]


def ranks(count, *arguments, per_rank=None, env_of=None, place_of=None, shell_of=None, program_of=None, code=0, env=None,
          preexec_fn=None):
    """A run on so many ranks; per_rank: arguments, env_of: variables, place_of: working directories, shell_of: a shell's words that end
    with the program, program_of: programs, that only some have."""
    command = [*MPIRUN, "--bind-to", "none"]
    for rank in range(count):
        own, variables = (per_rank or {}).get(rank, ()), (env_of or {}).get(rank, {})
        command += [":"] * (rank > 0) + ["-n", "1"] + (["-wdir", str(place_of[rank])] if place_of else [])
        command += [word for name, value in variables.items() for word in ("-x", f"{name}={value}")]
        shell = ["sh", "-c", shell_of[rank]] if rank in (shell_of or {}) else []
        command += [*shell, str((program_of or {}).get(rank, PROGRAM)), *map(str, arguments), *map(str, own)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False, text=True,
                          stdin=subprocess.DEVNULL, env=env or environment(), preexec_fn=preexec_fn)
    done.stderr = without_notice_of_orte(done.stderr)
    assert (done.returncode == code) or (code > 0 and done.returncode > 0), f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def small_training(shard, out, steps, *more):
    """Flags of a training on the CPU whose ranks and steps are quick."""
    return [*"--preset micro --seq-len 16 --lr-schedule constant --device cpu".split(), "--train-data", str(shard), "--out", str(out),
            "--steps", str(steps), *map(str, more)]


def by_one_and_by_two(folder, shard, steps, *more):
    """Where the same training by one rank and by two left its files."""
    mpirun(1, PROGRAM, *small_training(shard, folder / "1", steps, "--batch-size", "8", "--val-batches", "3", *more))
    mpirun(2, PROGRAM, *small_training(shard, folder / "2", steps, "--batch-size", "4", "--val-batches", "6", *more))
    return folder / "1", folder / "2"


def peaks(folder, count, *arguments):
    """Peak resident bytes of every rank of a run."""
    file = os.path.join(folder, "peak")
    mpirun(count, os.path.join(ROOT, "test", "peak.py"), file, PROGRAM, *arguments)
    return [int(open(f"{file}.{rank}", encoding="ascii").read()) for rank in range(count)]


def sent(folder, count, *arguments):
    """Bytes that every rank of a run handed to MPI for the others (ranks/wire.c)."""
    library, file = os.path.join(folder, "wire.so"), os.path.join(folder, "sent")
    if not os.path.exists(library):
        source = os.path.join(ROOT, "test", "ranks", "wire.c")
        subprocess.run(["mpicc", "-DWITH_MPI", "-shared", "-fPIC", "-O1", source, "-o", library], check=True)
    mpirun(count, "env", f"LD_PRELOAD={library}", PROGRAM, *arguments, WIRE_FILE=file)
    return [int(open(f"{file}.{rank}", encoding="ascii").read()) for rank in range(count)]


def free_port(neighbours=2):
    """A port of this machine that nobody listens on, and so many behind it: below those that the system gives to who asks for any,
    which a program beside this test may get at any moment."""
    for _ in range(1000):
        port = random.randrange(15000, 32000)
        with contextlib.ExitStack() as held:
            try:
                for number in range(port, port + 1 + neighbours):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
                return port
            except OSError:
                continue
    raise AssertionError("no port is free")
