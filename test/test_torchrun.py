"""Does the program do what torchrun itself asks of it: as far as that goes without a GPU, where its ranks would talk by NCCL?

Needs a torchrun: Debian's python3-torch (scripts/check.sh installs it) or PyPI's torch; TORCHRUN may name one.
"""

import os
import re
import shutil
import subprocess

import pytest

from mpi import LIMIT_S, free_port, small_training
from program import PROGRAM, checkpoints, environment, events, file_bytes, metrics, run

TORCHRUN = os.environ.get("TORCHRUN") or shutil.which("torchrun")
pytestmark = pytest.mark.skipif(not TORCHRUN, reason="there is no torchrun (Debian: python3-torch); TORCHRUN may name one")

# -r 1 -t 1: torchrun 1.13 under Python 3.11 starts nothing without them. _ and not -: every version takes that.
START = [TORCHRUN, "-r", "1", "-t", "1", "--no_python", "--monitor_interval", "0.2"]
# A rank that is refused, as on a CPU it must be, ends well: torchrun would end the others before they have spoken.
REFUSED = ["sh", "-c", '[ "$RANK$TORCHELASTIC_RESTART_COUNT" != "$DIES" ] || kill -9 $$; "$0" "$@"; [ $? = 2 ]']


def training(shard, out, steps):
    return small_training(shard, out, steps, "--batch-size", 2, "--save-every", 10)


def start(tmp_path, *words, **env):
    return subprocess.Popen([*START, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
                            stdin=subprocess.DEVNULL, env=environment(TMPDIR=tmp_path, **env))


def end(*agents):
    """What all of them said; each ended well."""
    said = [agent.communicate(timeout=LIMIT_S)[0] for agent in agents]
    assert all(agent.returncode == 0 for agent in agents), "\n".join(said)
    return "\n".join(said)


def told(said, count):
    """(rank, its number on the machine, the address) of each that was refused."""
    return re.findall(rf"torchrun started {count} ranks \(this is rank (\d), the machine's (\d), to meet at ([^)]*)\)", said)


def test_ranks_of_two_machines_find_their_numbers_and_one_address(shard, tmp_path):
    """Two agents that know of each other what torchrun's own rendezvous tells them."""
    meet = ["--nnodes", 2, "--nproc_per_node", 2, "--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{free_port()}", "--rdzv_id", "x"]
    said = end(*[start(tmp_path, *meet, *REFUSED, PROGRAM, *training(shard, tmp_path / "run", 2)) for _ in range(2)])
    found = told(said, 4)
    assert sorted(each[:2] for each in found) == [("0", "0"), ("1", "1"), ("2", "0"), ("3", "1")], said
    assert len({address for *_, address in found}) == 1, said


def test_ranks_that_are_started_again_meet_where_torchrun_says(shard, tmp_path):
    """Rank 1 dies in the first round. MASTER_PORT is torchrun's own: the ranks meet at the next one."""
    port = free_port()
    said = end(start(tmp_path, "--nproc_per_node", 2, "--max_restarts", 1, "--master_addr", "127.0.0.1", "--master_port", port,
                     *REFUSED, PROGRAM, *training(shard, tmp_path / "run", 2), DIES=10))
    found = told(said, 2)
    assert {"0", "1"} == {rank for rank, *_ in found} and {address for *_, address in found} == {f"127.0.0.1:{port + 1}"}, said


def test_a_run_that_died_is_started_again_and_goes_on_bit_for_bit(shard, tmp_path):
    once, out, steps = tmp_path / "once", tmp_path / "run", 400
    run(*training(shard, once, steps))
    killed = 'if [ $TORCHELASTIC_RESTART_COUNT = 0 ]; then "$0" "$@" & until [ -d run/step_00000020 ]; do sleep 0.01; done; ' \
             'kill -9 $! $$; fi; exec "$0" "$@"'
    said = end(start(tmp_path, "--nproc_per_node", 1, "--max_restarts", 1, "sh", "-c", killed, PROGRAM, *training(shard, out, steps),
                     "--resume", "auto"))
    assert "resume" in events(out) and checkpoints(out)[-1] == f"step_{steps:08d}", said
    # Steps after the checkpoint were taken twice.
    assert {(line["step"], line["loss"]) for line in metrics(out)} == {(line["step"], line["loss"]) for line in metrics(once)}
    assert file_bytes(out, "latest", "model.safetensors") == file_bytes(once, "latest", "model.safetensors")
