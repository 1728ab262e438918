"""Does Slurm itself start the ranks, and run scripts/slurm.sbatch as it says of itself?

A Slurm of one machine, of the test's own: munged, slurmctld, slurmd, its files in a folder, its ports free ones. Needs root and
Debian's slurm-wlm. What the script does in every case, beside stand-ins: test_launching.py.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

from mpi import LIMIT_S, free_port, has_mpi, small_training
from program import PROGRAM, ROOT, checkpoints, environment, events, metrics

DAEMONS = ["munged", "slurmctld", "slurmd"]
SBATCH = os.path.join(ROOT, "scripts", "slurm.sbatch")
HOST = socket.gethostname().split(".")[0]
missing = [name for name in [*DAEMONS, "srun"] if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
pytestmark = [pytest.mark.skipif(bool(missing), reason=f"there is no {' and no '.join(missing)} (Debian: slurm-wlm)"),
              pytest.mark.skipif(os.getuid() != 0, reason="a Slurm of one's own needs root"),
              pytest.mark.skipif(not has_mpi(), reason="a build without MPI")]
takes_long = pytest.mark.skipif(os.environ.get("TEST_ALL") != "1", reason="waits for a time limit: TEST_ALL=1")

# cred_expire: a job that is requeued waits until its credentials have, else two minutes. KillWait: when one rank has died
# srun asks the others to end, who wait for it, and kills them half a minute later. FirstJobId: MPI names its shared memory by the
# job, and another Slurm may run on this machine.
CONFIG = """ClusterName=test
FirstJobId={job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_interval=2
KillWait=5
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=100
PartitionName=main Nodes={host} Default=YES
"""


def until(happened, what):
    begun = time.monotonic()
    while not (found := happened()):
        assert time.monotonic() - begun < LIMIT_S, what() if callable(what) else what
        time.sleep(0.1)
    return found


class Slurm:
    def __init__(self, folder):
        self.folder, self.daemons = pathlib.Path(folder), []
        self.env = environment(SLURM_CONF=self.folder / "slurm.conf", PATH=f"{os.environ['PATH']}:/usr/sbin")

    def begin(self):
        """False where it does not come up."""
        controller = free_port()
        node = controller + 1
        (self.folder / "slurm.conf").write_text(CONFIG.format(host=HOST, folder=self.folder, controller=controller, node=node,
                                                                   job=os.getpid() % 60000 + 1))
        (self.folder / "key").write_bytes(os.urandom(128))
        (self.folder / "key").chmod(0o400)
        munge = [f"--{name}={self.folder / file}" for name, file in (("key-file", "key"), ("socket", "munge"), ("pid-file", "munged.pid"),
                                                                     ("log-file", "munged.log"), ("seed-file", "seed"))]
        for words in ["munged", "-F", "-f", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]:
            with open(self.folder / f"{words[0]}.txt", "wb") as log:
                self.daemons.append(subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.env))
            time.sleep(0.3)
        begun = time.monotonic()
        while time.monotonic() - begun < 30 and all(daemon.poll() is None for daemon in self.daemons):
            if "idle" in self.ask("sinfo", "-h", "-o", "%T"):
                return True
            time.sleep(0.2)
        return False

    def end(self):
        if len(self.daemons) == len(DAEMONS) and self.daemons[1].poll() is None:
            self.ask("scancel", "--signal=KILL", "--full", "--user=root")
        for daemon in reversed(self.daemons):
            daemon.terminate()
            daemon.wait(timeout=60)

    def logs(self):
        return "\n".join((self.folder / f"{name}.txt").read_text(errors="replace")[-1500:] for name in DAEMONS)

    def ask(self, *words):
        return subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S,
                              check=False, stdin=subprocess.DEVNULL, env=self.env).stdout

    def submit(self, tmp_path, *words):
        """The job's number. Its output: said()."""
        said = self.ask("sbatch", "--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0", f"--chdir={tmp_path}", *words)
        return re.fullmatch(r"Submitted batch job (\d+)\n", said)[1]

    def state(self, job):
        """COMPLETED, CANCELLED, RUNNING, PENDING, … and how often it was started again."""
        said = self.ask("scontrol", "show", "job", job)
        return re.search(r"JobState=(\w+)", said)[1], int(re.search(r"Restarts=(\d+)", said)[1])

    def is_over(self, job):
        return self.state(job)[0] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.fixture(scope="module")
def slurm():
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:  # a socket's path is short
        one = Slurm(folder)
        try:
            if not one.begin():
                pytest.skip(f"Slurm does not come up on this machine: {one.logs()}")
            yield one
        finally:
            one.end()


def training(shard, out, steps, save_every=50):
    return [PROGRAM, *small_training(shard, out, steps, "--batch-size", 2, "--save-every", save_every, "--log-every", 1000)]


def said(tmp_path, job):
    file = tmp_path / f"train_gpt-{job}.txt"
    return file.read_text() if file.exists() else "nothing yet"


def ranks_of(out):
    """Process → rank, of the run with this --out."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[0] == os.fsencode(PROGRAM) and os.fsencode(out) in words:
                found[int(folder.name)] = int(re.search(rb"SLURM_PROCID=(\d+)", (folder / "environ").read_bytes())[1])
    return found


def test_srun_starts_ranks_that_train_as_one_by_pmix(slurm, shard, tmp_path):
    told = slurm.ask("srun", "--mpi=pmix", "-n", 2, *training(shard, tmp_path / "run", 5))
    assert "2 ranks, started by Slurm + PMIx (SLURM_PROCID, SLURM_STEP_NUM_TASKS)" in told, told
    assert len(metrics(tmp_path / "run")) == 5 and checkpoints(tmp_path / "run") == ["step_00000005"], told


def test_without_pmix_every_rank_is_told_what_would_start_it(slurm, shard, tmp_path):
    told = slurm.ask("srun", "--mpi=none", "-n", 2, *training(shard, tmp_path / "run", 5))
    found = re.findall(r"Slurm started 2 ranks \(this is rank (\d), the machine's \d, to meet at (\S+)\), but on CPUs they talk by MPI: "
                       r"start them with srun --mpi=pmix -n 2, or one alone", told)
    assert sorted(rank for rank, _ in found) == ["0", "1"] and len({address for _, address in found}) == 1, told
    assert found[0][1].startswith(f"{HOST}:") and not (tmp_path / "run").exists()


def test_a_job_whose_rank_was_killed_goes_back_into_the_queue_and_on(slurm, shard, tmp_path):
    out, steps = tmp_path / "run", 4000
    job = slurm.submit(tmp_path, SBATCH, *training(shard, out, steps))
    until(lambda: out.is_dir() and checkpoints(out), lambda: said(tmp_path, job) + slurm.logs())
    os.kill(next(process for process, rank in ranks_of(out).items() if rank == 1), signal.SIGKILL)
    until(lambda: slurm.is_over(job), lambda: said(tmp_path, job) + slurm.logs())
    told = said(tmp_path, job)
    assert slurm.state(job) == ("COMPLETED", 1), told
    assert re.search(rf"the step ended with \d+: job {job} goes back into the queue", told) and "resumed from" in told, told
    assert metrics(out)[-1]["step"] == steps and events(out).count("resume") == 1, told


@takes_long
def test_a_job_at_its_limit_saves_and_goes_on_and_one_that_is_cancelled_saves_for_good(slurm, shard, tmp_path):
    out = tmp_path / "run"
    # Of its minute it has a few seconds until it is told that the limit is near.
    job = slurm.submit(tmp_path, "--time=1", "--signal=B:USR1@50", SBATCH, *training(shard, out, 10**8, 10**7))
    until(lambda: "resumed from" in said(tmp_path, job) or slurm.is_over(job), lambda: said(tmp_path, job) + slurm.logs())
    told = said(tmp_path, job)
    step = int(re.search(r"stopping after step (\d+): SIGUSR1", told)[1])
    assert f"the time limit is near: job {job} goes back into the queue" in told and f"step_{step:08d}" in told, told
    assert slurm.state(job) == ("RUNNING", 1), told
    slurm.ask("scancel", job)
    until(lambda: slurm.is_over(job), lambda: said(tmp_path, job) + slurm.logs())
    last = int(re.findall(r"stopping after step (\d+): SIG(?:USR1|TERM)", said(tmp_path, job))[-1])  # the script's, or Slurm's own
    assert slurm.state(job) == ("CANCELLED", 1) and last > step and not ranks_of(out), said(tmp_path, job)
    assert checkpoints(out)[-1] == f"step_{last:08d}", said(tmp_path, job)
