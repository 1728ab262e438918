"""limits.py: what tests of threads and memory share: a program started as by a user who has set nothing, and containers."""
import contextlib
import os
import time

import pytest

BOUNDS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_THREAD_LIMIT", "OMP_DYNAMIC")


def bare(**more):
    """An environment that says nothing about threads but what is given."""
    return dict({name: value for name, value in os.environ.items() if name not in BOUNDS}, **more)


@contextlib.contextmanager
def group_of_v1(controller, **files):
    """A control group with these settings, as a list of what to call in a process that shall be in it."""
    path = f"/sys/fs/cgroup/{controller}/train_gpt_test_{os.getpid()}"
    try:
        os.mkdir(path)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        for name, value in files.items():
            with open(f"{path}/{controller}.{name}", "w", encoding="ascii") as file:
                file.write(str(value))

        def enter():
            with open(f"{path}/cgroup.procs", "w", encoding="ascii") as file:
                file.write(str(os.getpid()))

        yield enter
    except FileNotFoundError as error:
        pytest.skip(f"{error}")
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                os.rmdir(path)
                break
            time.sleep(0.1)
