"""Do ranks on two machines train as one over a network? The machines are two network namespaces with a cable between them.

Needs root, iproute2, unshare, and Open MPI; skipped where a namespace cannot be made.
"""

import os
import shutil
import subprocess

import pytest

from mpi import LIMIT_S, MPIRUN, has_mpi, mpirun
from program import PROGRAM, environment, file_bytes, losses, sentences, step_directory, write_shard

ADDRESSES = "10.77.93.1", "10.77.93.2"
# mpirun starts the other machine's ranks by what is ssh elsewhere: words before the host are options.
AGENT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
shift
exec ip netns exec %s unshare --uts sh -c 'hostname %s && exec sh -c "$0"' "$*"
"""
if not has_mpi():
    pytest.skip("no mpirun, or a build without MPI", allow_module_level=True)


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def machines():
    """Names of two namespaces that see each other, and nothing else."""
    names = [f"tg{os.getpid()}{end}" for end in "ab"]
    if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("network namespaces want root, iproute2 and unshare")
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
            for name, address in zip(names, ADDRESSES):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
                for device in "lo", "cable":
                    ip("-n", name, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)


def bytes_sent(machine):
    read = ["ip", "netns", "exec", machine, "cat", "/sys/class/net/cable/statistics/tx_bytes"]
    return int(subprocess.run(read, capture_output=True, text=True, check=True).stdout)


def test_two_machines_train_as_two_ranks_of_one_do(machines, tmp_path):
    shard, agent = tmp_path / "text.bin", tmp_path / "agent"
    write_shard(shard, sentences(20000, 1))
    agent.write_text(AGENT % (machines[1], machines[1]))
    agent.chmod(0o755)
    steps = 4

    def training(out):
        return [PROGRAM, *"--preset tiny --seq-len 16 --batch-size 4 --bucket-mb 1 --device cpu --threads 1".split(), "--train-data",
                str(shard), "--steps", str(steps), "--out", str(out)]

    mpirun(2, *training(tmp_path / "near"))
    network = f"{ADDRESSES[0]}/24"
    command = ["ip", "netns", "exec", machines[0], "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', machines[0],
               *MPIRUN, "--host", ",".join(f"{address}:1" for address in ADDRESSES), "-n", "2", "--mca", "plm_rsh_agent", str(agent),
               "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", network, "--mca", "oob_tcp_if_include", network,
               *training(tmp_path / "far")]
    before = [bytes_sent(machine) for machine in machines]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL,
                          env=environment())
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert losses(tmp_path / "far") == losses(tmp_path / "near") and len(losses(tmp_path / "far")) == steps
    name = "model.safetensors"
    weights = file_bytes(step_directory(tmp_path / "near", steps), name)
    assert file_bytes(step_directory(tmp_path / "far", steps), name) == weights
    for machine, start in zip(machines, before):  # half of a sum and half of a gather of every fp32 element, each step
        assert bytes_sent(machine) - start > 0.9 * steps * len(weights)
