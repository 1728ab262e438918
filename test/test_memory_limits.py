"""A run that cannot fit into the memory it may take is one line with the numbers and the limit's name, not a kill."""
import re
import resource
import subprocess

import pytest

from limits import bare, group_of_v1
from program import PROGRAM, run

BIG = ["--preset", "gpt2-124m", "--threads", 1]


def limited(what, size):
    return lambda: resource.setrlimit(what, (size, size))


@pytest.mark.parametrize("what, name", [(resource.RLIMIT_AS, "ulimit -v"), (resource.RLIMIT_DATA, "ulimit -d")])
def test_ulimit_is_named(what, name, data):
    error = run(*BIG, *data[:2], code=1, preexec_fn=limited(what, 2 * 10**9)).stderr
    assert re.search(rf"out of memory: this run takes [\d.]+ GB, {name}[^,]* has 2 GB, of which [\d.]+ are left;", error), error
    plan = run(*BIG, "--dry-run", preexec_fn=limited(what, 2 * 10**9)).stdout
    assert re.search(rf"^this does not fit: {name}.* has 2 GB, of which", plan, re.MULTILINE), plan
    assert "fit" not in run("--preset", "micro", "--dry-run", preexec_fn=limited(what, 2 * 10**9)).stdout


@pytest.mark.parametrize("what, megabytes, flags", [
    (resource.RLIMIT_AS, 180, []),
    (resource.RLIMIT_DATA, 100, []),
    (resource.RLIMIT_AS, 1000, ["--dtype", "fp64", "--threads", 16]),
    (resource.RLIMIT_DATA, 1000, ["--dtype", "fp64", "--threads", 16]),
])
def test_less_than_openblas_wants_is_a_line_and_not_a_loop_for_ever(what, megabytes, flags, data):
    done = subprocess.run([PROGRAM, "--preset", "micro", *map(str, [*data[:2], "--steps", 1, *flags])], capture_output=True,
                          text=True, timeout=20, check=False, env=bare(OMP_NUM_THREADS="1"),
                          preexec_fn=limited(what, megabytes << 20))
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert re.search(r"^train_gpt: out of memory: .*OpenBLAS.* 128 MB of address space.*\n\Z", done.stderr, re.MULTILINE), done.stderr


def test_a_containers_limit_is_a_line_and_not_a_kill(data):
    with group_of_v1("memory", limit_in_bytes=300 << 20) as enter:
        done = subprocess.run([PROGRAM, *map(str, [*BIG, *data[:2], "--steps", 1])], capture_output=True, text=True,
                              timeout=60, check=False, env=bare(), preexec_fn=enter)
        assert done.returncode == 1, (done.returncode, done.stderr)
        assert re.fullmatch(r"train_gpt: out of memory: this run takes [\d.]+ GB, the control group's memory.limit_in_bytes "
                            r"has 0.3146 GB, of which 0.[\d]+ are left; [^\n]*\n", done.stderr), done.stderr
        small = subprocess.run([PROGRAM, "--preset", "micro", *map(str, data[:2]), "--steps", "1"], capture_output=True,
                               text=True, timeout=60, check=False, env=bare(), preexec_fn=enter)
        assert small.returncode == 0, small.stderr
