"""Do the scripts and manifests that start several ranks do what they say: launch.sh, Slurm's job, Kubernetes' operators?

Slurm's srun and scontrol are stand-ins here, that run the command as one rank and note what they were asked; Slurm itself is
in test_slurm.py, torchrun in test_torchrun.py.
"""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from mpi import LIMIT_S, has_mpi, mpirun, small_training
from program import PROGRAM, ROOT, checkpoints, environment, events, metrics

LAUNCH, SBATCH = (os.path.join(ROOT, "scripts", name) for name in ("launch.sh", "slurm.sbatch"))
needs_mpi = pytest.mark.skipif(not has_mpi(), reason="no mpirun, or a build without MPI")


def training(shard, out, steps):
    return [PROGRAM, *small_training(shard, out, steps, "--batch-size", 4, "--save-every", 20)]


def start(*command, **env):
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            stdin=subprocess.DEVNULL, env=environment(**env))


def end(child):
    """Exit code, stdout, stderr."""
    out, err = child.communicate(timeout=LIMIT_S)
    return child.returncode, out, err


def until_saved(child, out):
    begun = time.monotonic()
    while not (os.path.isdir(out) and checkpoints(out)):
        assert child.poll() is None and time.monotonic() - begun < LIMIT_S, child.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize("script", [LAUNCH, SBATCH])
def test_the_scripts_are_plain_bash(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    if shutil.which("shellcheck"):
        done = subprocess.run(["shellcheck", "--shell=bash", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


# ----------------------------------------------------------------------------------------------------- one machine


@pytest.mark.parametrize("words", [[], ["2"], ["0", "true"], ["-1", "true"], ["two", "true"], ["true", "2"], ["2", "no-such-command"]])
def test_launch_says_what_it_wants(words):
    code, out, err = end(start(LAUNCH, *words))
    assert code == 2 and out == "" and re.fullmatch(r"launch\.sh: [^\n]+\n", err), err


@needs_mpi
def test_launch_tells_each_line_with_its_rank_and_ends_as_the_rank_that_failed():
    code, out, err = end(start(LAUNCH, 3, "sh", "-c", "echo $OMPI_COMM_WORLD_SIZE $OMP_NUM_THREADS $TERM; echo oops >&2"))
    assert code == 0 and sorted(out.splitlines()) == [f"{rank}: 3 1 dumb" for rank in range(3)]
    assert sorted(err.splitlines()) == [f"{rank}: oops" for rank in range(3)]
    assert end(start(LAUNCH, 3, "sh", "-c", "test $OMPI_COMM_WORLD_RANK != 1 || exit 7; exec sleep 200"))[0] == 7


@pytest.mark.skipif(not os.environ.get("TEST_ALL"), reason="half a minute: TEST_ALL=1")
@pytest.mark.parametrize("asks", ["wait", ":"])  # whether it asks how they have ended: else the system keeps them as zombies
def test_launch_ends_an_mpirun_that_outlives_its_ranks(asks, tmp_path):
    fake = tmp_path / "mpirun"
    fake.write_text(f"#!/bin/sh\nsleep 3 &\n{asks}\nexec sleep 600\n")
    fake.chmod(0o755)
    begun = time.monotonic()
    done = subprocess.run([LAUNCH, "2", "true"], env=environment(PATH=f"{tmp_path}:{os.environ['PATH']}"), capture_output=True, text=True,
                          timeout=LIMIT_S, check=False)  # fmt: skip
    assert done.returncode == 137 and "the ranks have ended, and mpirun has not in 20 s: killed" in done.stderr, done
    assert 20 < time.monotonic() - begun < 40


CLEANUP = "mpirun ended with 139 in its own clean-up; the rank that failed, with %d"


@pytest.mark.parametrize("says, code, told", [
    ("  Exit code:    4", 4, CLEANUP % 4),
    ("mpirun noticed that process rank 2 with PID 0 on node vm exited on signal 9 (Killed).", 137, CLEANUP % 137),
    ("mpirun noticed that process rank 2 with PID 0 on node vm exited on signal 11 (Segmentation fault).", 139, ""),
    ("[1,0]<stderr>:  Exit code:    4", 139, ""),
    ("", 139, "")])  # fmt: skip
def test_launch_has_the_ranks_code_where_mpirun_dies_of_its_own_clean_up(says, code, told, tmp_path):
    fake = tmp_path / "mpirun"
    fake.write_text(f"#!/bin/sh\necho '{says}' >&2\nkill -SEGV $$\n")
    fake.chmod(0o755)
    done = subprocess.run([LAUNCH, "2", "true"], env=environment(PATH=f"{tmp_path}:{os.environ['PATH']}"), capture_output=True, text=True,
                          timeout=LIMIT_S, check=False)  # fmt: skip
    assert done.returncode == code and (told in done.stderr if told else "clean-up" not in done.stderr), done


@needs_mpi
def test_launch_passes_a_signal_on_and_the_ranks_save(shard, tmp_path):
    out = tmp_path / "run"
    child = start(LAUNCH, 2, *training(shard, out, 10**6))
    until_saved(child, out)
    child.send_signal(signal.SIGTERM)
    code, said, err = end(child)
    last = metrics(out)[-1]["step"]
    assert code == 0, (said, err)
    assert f"0: stopping after step {last}: " in said and checkpoints(out)[-1] == f"step_{last:08d}" and events(out)[-1] == "end"


@needs_mpi
def test_launch_ends_all_when_one_dies():
    begun = time.monotonic()
    code, _, err = end(start(LAUNCH, 2, "sh", "-c", 'sleep 2; test $OMPI_COMM_WORLD_RANK = 0 && kill -9 $$; exec sleep 200'))
    assert code == 128 + 9 and time.monotonic() - begun < 60
    assert re.search(r"process rank 0 .* exited on signal 9", err), err


@needs_mpi
def test_what_mpirun_passes_on_to_a_file_is_lines(shard, tmp_path):
    """Its ranks are on a terminal of mpirun's, wherever that writes to."""
    said = mpirun(2, *training(shard, tmp_path / "run", 12), "--log-every", 5, TERM="xterm").stdout
    assert "\x1b" not in said and "\r" not in said
    assert re.findall(r"^step (\d+)/12 ", said, re.MULTILINE) == ["1", "5", "10", "12"]


# ----------------------------------------------------------------------------------------------------------- Slurm


@pytest.fixture
def slurm(tmp_path):
    """Starts the job's script as Slurm would, with srun and scontrol that note their words."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/bash\necho "$*" >>"$0.said"\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (tools / "scontrol").write_text('#!/bin/bash\necho "$*" >>"$0.said"\n')
    for tool in "srun", "scontrol":
        (tools / tool).chmod(0o755)

    class Slurm:
        @staticmethod
        def start(*command, **env):
            return start("bash", SBATCH, *command, PATH=f"{tools}:{os.environ['PATH']}", SLURM_JOB_ID="77", **env)

        @staticmethod
        def said(tool):
            file = tools / f"{tool}.said"
            return file.read_text().splitlines() if file.exists() else []

    return Slurm


def test_the_job_asks_for_a_signal_to_its_shell_and_to_be_requeued():
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", open(SBATCH, encoding="utf-8").read(), re.MULTILINE))
    assert re.fullmatch(r"B:USR1@[0-9]+", asked["signal"]) and asked["open-mode"] == "append" and "requeue" in asked
    assert "gpus-per-task" not in asked  # it would hide the other GPUs of a machine from a rank


def test_a_job_at_its_limit_saves_goes_back_into_the_queue_and_ends_there(slurm, shard, tmp_path):
    out = tmp_path / "run"
    child = slurm.start(*training(shard, out, 10**6))
    until_saved(child, out)
    child.send_signal(signal.SIGUSR1)
    code, said, err = end(child)
    last = metrics(out)[-1]["step"]
    assert code == 0 and f"stopping after step {last}" in said and "the time limit is near: job 77" in err
    assert slurm.said("scontrol") == ["requeue 77"]
    code, said, _ = end(slurm.start(*training(shard, out, last + 3), SLURM_RESTART_COUNT=1))
    assert code == 0 and f"step_{last:08d}" in said and metrics(out)[-1]["step"] == last + 3
    assert slurm.said("scontrol") == ["requeue 77"]  # not again
    assert all(line.startswith("--mpi=pmix --kill-on-bad-exit=1 ") and line.endswith(" --resume auto") for line in slurm.said("srun"))


def test_a_job_that_is_cancelled_saves_and_is_not_started_again(slurm, shard, tmp_path):
    out = tmp_path / "run"
    child = slurm.start(*training(shard, out, 10**6))
    until_saved(child, out)
    child.send_signal(signal.SIGTERM)
    assert end(child)[0] == 0 and slurm.said("scontrol") == []
    assert checkpoints(out)[-1] == f"step_{metrics(out)[-1]['step']:08d}"


@pytest.mark.parametrize("code,restarts,again", [(0, 0, False), (1, 0, True), (137, 2, True), (1, 3, False), (2, 0, False), (3, 0, False)])
def test_a_job_is_tried_again_when_a_machine_failed_and_not_for_ever(slurm, code, restarts, again):
    child = slurm.start("sh", "-c", f"exit {code}", "sh", "--out", "x", SLURM_RESTART_COUNT=restarts)
    assert end(child)[0] == code
    assert slurm.said("scontrol") == ["requeue 77"] * again


def test_a_job_without_a_command_or_an_out_is_refused(slurm):
    for words, says in ([], "a command is wanted"), ([PROGRAM, "--preset", "micro"], "--out is wanted"):
        code, _, err = end(slurm.start(*words))
        assert code == 2 and says in err and err.count("\n") == 1 and slurm.said("srun") == []


# ------------------------------------------------------------------------------------------------------ Kubernetes

# What the operators take, as their types say it: mpi-operator, pkg/apis/kubeflow/v2beta1/types.go; training-operator,
# pkg/apis/kubeflow.org/v1/pytorch_types.go and common_types.go; a pod as Kubernetes' core/v1 has it (what is used of it).
# A type, a set of words, a list of one, or a mapping of names; a name with ! must be there, * is any name.
POLICY = {"cleanPodPolicy": {"All", "Running", "None"}, "ttlSecondsAfterFinished": int, "activeDeadlineSeconds": int,
          "backoffLimit": int, "suspend": bool, "schedulingPolicy": {"*": object}}
CONTAINER = {"name!": str, "image!": str, "command": [str], "args": [str], "env": [{"name!": str, "value": str}],
             "resources": {"limits": {"*": (str, int)}, "requests": {"*": (str, int)}},
             "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool}]}
VOLUME = {"name!": str, "persistentVolumeClaim": {"claimName!": str}, "emptyDir": {"medium": {"", "Memory"}, "sizeLimit": str}}
REPLICAS = {"replicas": int, "restartPolicy": {"Always", "OnFailure", "Never", "ExitCode"},
            "template": {"spec!": {"containers!": [CONTAINER], "volumes": [VOLUME]}}}


def job(version, kind, spec):
    return {"apiVersion!": {version}, "kind!": {kind}, "metadata!": {"name!": str}, "spec!": spec}


SCHEMAS = {
    "mpijob.yaml": job("kubeflow.org/v2beta1", "MPIJob", {
        "slotsPerWorker": int, "runPolicy": POLICY, "sshAuthMountPath": str, "mpiImplementation": {"OpenMPI", "Intel", "MPICH"},
        "mpiReplicaSpecs!": {"Launcher!": REPLICAS, "Worker": REPLICAS}}),
    "pytorchjob.yaml": job("kubeflow.org/v1", "PyTorchJob", {
        "runPolicy": POLICY, "nprocPerNode": str, "pytorchReplicaSpecs!": {"Master": REPLICAS, "Worker": REPLICAS}}),
}


def faults(value, schema, where=""):
    """What of a document the schema does not have."""
    if isinstance(schema, set):
        return [] if value in tuple(schema) else [f"{where}: {value!r} is none of {sorted(schema)}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: no list"]
        return [fault for i, item in enumerate(value) for fault in faults(item, schema[0], f"{where}[{i}]")]
    if not isinstance(schema, dict):
        good = isinstance(value, schema) and (schema is bool or schema is object or not isinstance(value, bool))
        return [] if good else [f"{where}: {value!r}"]
    if not isinstance(value, dict):
        return [f"{where}: no mapping"]
    known = {name.rstrip("!"): kind for name, kind in schema.items()}
    said = [f"{where}: no {name[:-1]}" for name in schema if name.endswith("!") and name[:-1] not in value]
    for name, item in value.items():
        kind = known.get(name, known.get("*"))
        said += faults(item, kind, f"{where}.{name}") if kind is not None else [f"{where}.{name}: no such name"]
    return said


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_manifest_is_what_its_operator_takes_and_starts_what_this_program_takes(name, shard, tmp_path):
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load(open(os.path.join(ROOT, "scripts", "kubernetes", name), encoding="utf-8"))
    assert faults(document, SCHEMAS[name]) == []
    spec = document["spec"]
    roles = spec.get("mpiReplicaSpecs") or spec["pytorchReplicaSpecs"]
    workers = roles["Worker"]
    for role in roles.values():
        pod = role["template"]["spec"]
        mounted = {mount["name"] for each in pod["containers"] for mount in each.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod.get("volumes", [])}
    first = (roles.get("Launcher") or roles["Master"])["template"]["spec"]["containers"][0]
    words = first["command"] + first["args"]
    if name == "mpijob.yaml":
        assert int(words[words.index("-n") + 1]) == workers["replicas"] * spec["slotsPerWorker"]
        assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == spec["slotsPerWorker"]
    else:
        assert first["name"] == "pytorch" and first["resources"]["limits"]["nvidia.com/gpu"] == 1
    # The program's own words, with paths that exist here.
    (tmp_path / "run.ini").write_text(f"preset = micro\ntrain-data = {shard}\ndevice = cpu\n")
    mine = [word.replace("/data/", f"{tmp_path}/").replace("/out/", f"{tmp_path}/") for word in words[words.index("train_gpt") + 1:]]
    code, said, err = end(start(PROGRAM, *mine, "--dry-run"))
    assert code == 0 and "parameters: " in said, err


def spoiled(value):
    """(where, the document with one thing in it wrong): a name misspelt, a value of another type."""
    if not isinstance(value, (dict, list)):
        yield "", {"no": "scalar"}
        return
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        if isinstance(value, dict):
            yield f".{key}?", {(f"{name}X" if name == key else name): item for name, item in value.items()}
        for where, item in spoiled(value[key]):
            copy = dict(value) if isinstance(value, dict) else list(value)
            copy[key] = item
            yield f".{key}{where}", copy


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_wrong_in_a_manifest_is_seen(name):
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load(open(os.path.join(ROOT, "scripts", "kubernetes", name), encoding="utf-8"))
    unseen = [where for where, changed in spoiled(document) if not faults(changed, SCHEMAS[name])]
    assert all(re.search(r"\.limits\.[^.?]+(\.[^.?]+)?\?$", where) for where in unseen), unseen  # resources have any name: nvidia.com/gpu
    assert len(list(spoiled(document))) > 70


def test_the_schema_sees_what_is_wrong():
    right = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "x"}, "spec": {"pytorchReplicaSpecs": {}}}
    schema = SCHEMAS["pytorchjob.yaml"]
    assert faults(right, schema) == []
    for change in ({"kind": "MPIJob"}, {"metadata": {}}, {"spec": {}}, {"spec": {"pytorchReplicaSpecs": {"Wroker": {}}}},
                   {"spec": {"pytorchReplicaSpecs": {"Master": {"replicas": "1"}}}}, {"extra": 1},
                   {"spec": {"pytorchReplicaSpecs": {"Master": {"restartPolicy": "Sometimes"}}}}):
        assert faults({**right, **change}, schema), change
