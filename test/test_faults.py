"""Does a run survive what machines do to it, and does a checkpoint that was damaged say so?

Runs the executable named by TRAIN_GPT (default: ./train_gpt) on a model of a few thousand parameters, with
test/fault.c between it and the C library where a system call is to fail. Standard library and pytest only.
TEST_ALL=1: every system call of a save, every byte of a manifest, 200 kills; else a choice of them, below five minutes.
"""
import contextlib
import errno
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import time

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.abspath(os.environ.get("TRAIN_GPT", os.path.join(ROOT, "train_gpt")))
ALL = os.environ.get("TEST_ALL", "") not in ("", "0")
MODEL, MOMENTS, MANIFEST = "model.safetensors", "optimizer-0-of-1.safetensors", "manifest.json"
SMALL = ["--n-layer", 1, "--n-embd", 16, "--n-head", 2, "--vocab-size", 256, "--seq-len", 8, "--batch-size", 2,
         "--lr", "1e-2", "--lr-schedule", "constant", "--warmup-steps", 0, "--val-every", 0]

# ------------------------------------------------------------------------------------------------------ helpers


def environment(**more):
    return dict(os.environ, OMP_NUM_THREADS="1", **{name: str(value) for name, value in more.items()})


@contextlib.contextmanager
def start(*arguments, env=None, **more):
    """The program, running; killed if it still does at the end."""
    with subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment(**(env or {})), text=True, **more) as process:
        try:
            yield process
        finally:
            process.kill()


def run(*arguments, code=0, env=None, **more):
    """Runs the program to its end. What it refuses or fails with is one line on stderr."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
                          check=False, text=True, env=environment(**(env or {})), **more)
    assert done.returncode == code, f"exit {done.returncode}, not {code}: {arguments}\n{done.stdout[-2000:]}\n{done.stderr}"
    if code > 0:
        assert re.fullmatch(r"(train_gpt: metrics\.jsonl: [^\n]*\n)*train_gpt: [^\n]*\n", done.stderr), done.stderr
    return done


def write_shard(path, tokens):
    with open(path, "wb") as file:
        file.write(struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253) + struct.pack(f"<{len(tokens)}H", *tokens))


def sentences(count, seed):
    draw = random.Random(seed)
    text = ""
    while len(text) < count:
        text += draw.choice(["the ", "cat ", "sat ", "on ", "a ", "mat. ", "dog ", "ran "])
    return list(text[:count].encode())


def table_of_crc64():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0xC96C5795D7870F42 if value & 1 else 0)
        table.append(value)
    return table


CRC64 = table_of_crc64()


def crc64(data):
    value = 2 ** 64 - 1
    for byte in data:
        value = value >> 8 ^ CRC64[value & 255 ^ byte]
    return value ^ 2 ** 64 - 1


def file_bytes(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def step_directory(out, step):
    return os.path.join(out, f"step_{step:08d}")


def checkpoints(out):
    """Steps of the checkpoints, each of which must be complete, by this file's own arithmetic."""
    steps = sorted(int(name[5:]) for name in os.listdir(out) if name.startswith("step_"))
    for step in steps:
        manifest = json.loads(file_bytes(step_directory(out, step), MANIFEST))
        assert manifest["step"] == step
        assert {entry["name"] for entry in manifest["files"]} == set(os.listdir(step_directory(out, step))) - {MANIFEST}
        for entry in manifest["files"]:
            data = file_bytes(step_directory(out, step), entry["name"])
            assert (len(data), f"{crc64(data):016x}") == (entry["bytes"], entry["crc64"]), (step, entry)
    return steps


def leftovers(out):
    return [name for name in os.listdir(out) if name.startswith(".")]


def same_bits(first, second, step):
    for name in (MODEL, MOMENTS, "state.json"):
        assert file_bytes(step_directory(first, step), name) == file_bytes(step_directory(second, step), name), name


def metrics(out, kind="train"):
    lines = [json.loads(line) for line in file_bytes(out, "metrics.jsonl").decode().splitlines()]
    return [line for line in lines if line["type"] == kind]


def events(out):
    return [line["event"] for line in metrics(out, "event")]


def picture(folder):
    """All that is below a folder, for seeing that nothing changed."""
    result = {}
    for where, folders, names in os.walk(folder):
        for name in folders + names:
            path = os.path.join(where, name)
            status = os.lstat(path)
            content = file_bytes(path) if stat.S_ISREG(status.st_mode) else b""
            result[path] = (status.st_mode, status.st_size if name in names else 0, status.st_mtime_ns, content)
    return result


@pytest.fixture(scope="session")
def fault(tmp_path_factory):
    """The environment for a run with faults: fault(AT=3, DO="kill", …)."""
    library = str(tmp_path_factory.mktemp("fault") / "fault.so")
    subprocess.run([os.environ.get("CC", "gcc"), "-std=gnu11", "-O1", "-shared", "-fPIC",
                    os.path.join(ROOT, "test", "fault.c"), "-o", library], check=True)
    return lambda **settings: {"LD_PRELOAD": library, **{f"FAULT_{name}": value for name, value in settings.items()}}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Three shards of 12, 9 and 7 windows of 8."""
    folder = tmp_path_factory.mktemp("data")
    for i, count in enumerate((100, 80, 60)):
        write_shard(folder / f"{i}.bin", sentences(count, i))
    return ["--train-data", str(folder / "*.bin")]


@pytest.fixture(scope="session")
def base(tmp_path_factory, data):
    """Arguments of a run of 6 steps that saves at 2, 4 and 6, and where it did so undisturbed."""
    out = str(tmp_path_factory.mktemp("straight") / "run")
    arguments = [*SMALL, *data, "--steps", 6, "--save-every", 2, "--keep", 9]
    run(*arguments, "--out", out)
    assert checkpoints(out) == [2, 4, 6]
    return arguments, out


@pytest.fixture
def tmp_path():
    """In memory where there is such a place: thousands of fsyncs are what takes the time here."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="train_gpt-", dir=place) as folder:
        yield pathlib.Path(folder)


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "run")


def begun(base, out, *steps):
    """A run's directory with some of the straight run's checkpoints."""
    os.makedirs(out)
    for step in steps:
        shutil.copytree(step_directory(base[1], step), step_directory(out, step))


def calls_of(trace):
    """(number, call, path) of each traced call."""
    lines = [line.split(" ", 2) for line in file_bytes(trace).decode().splitlines()]
    return [(int(number), call, path) for number, call, path in lines]


def chosen(calls, leave_out=()):
    """All of them, or of each run of equal ones the first and the last."""
    if ALL:
        return calls
    kept = []
    for i, (number, call, path) in enumerate(calls):
        neighbours = [calls[j][1:] if 0 <= j < len(calls) else None for j in (i - 1, i + 1)]
        if call not in leave_out and neighbours != [(call, path)] * 2:
            kept.append((number, call, path))
    return kept


# ------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize("deed", ["kill", "tear"])
def test_a_kill_at_any_system_call_of_a_save_loses_nothing(deed, base, fault, tmp_path):
    """Saving step 4 and removing step 2 after it (--keep 1), from the first look at --out to the last."""
    arguments = [*base[0][:-2], "--keep", 1, "--save-every", 4, "--resume", "auto"]
    before, trace = str(tmp_path / "before"), str(tmp_path / "trace")
    begun(base, before, 2)

    def killed(at):
        out = str(tmp_path / f"{deed}{at}")
        shutil.copytree(before, out)
        run(*arguments, "--steps", 4, "--out", out, code=-9, env=fault(PATH=out, AT=at, DO=deed))
        there = checkpoints(out)
        assert there in ([2], [4], [2, 4]), at
        done = run(*arguments, "--steps", 6, "--out", out)
        assert "passing over" not in done.stderr and f"resumed from {step_directory(out, there[-1])}" in done.stdout
        assert checkpoints(out) == [6] and leftovers(out) == [], at
        same_bits(out, base[1], 6)
        shutil.rmtree(out)
        return there

    out = str(tmp_path / "traced")
    shutil.copytree(before, out)
    run(*arguments, "--steps", 4, "--out", out, env=fault(PATH=out, TRACE=trace))
    calls = calls_of(trace)
    assert {call for _, call, _ in calls} >= {"mkdir", "open", "pwrite", "fsync", "close", "rename", "unlink", "rmdir", "pread"}
    if deed == "tear":
        points = chosen([entry for entry in calls if entry[1] in ("pwrite", "write")])
    else:
        points = chosen(calls, leave_out=("close", "pread"))
    outcomes = [killed(number) for number, _, _ in points]
    assert [2] in outcomes and (deed == "tear" or [4] in outcomes and [2, 4] in outcomes)
    print(f"{len(points)} of {len(calls)} calls: {deed}")


def test_kills_at_random_instants_end_in_the_same_bits(data, tmp_path):
    """Each life is cut short at a random time or ends well; what the last one leaves equals an undisturbed run."""
    draw, kills, finished = random.Random(1), 0, 0
    arguments = [*SMALL, *data, "--steps", 800, "--save-every", 11, "--keep", 2, "--total-batch-tokens", 32]
    straight = str(tmp_path / "straight")
    began = time.monotonic()
    run(*arguments, "--out", straight)
    longest = (time.monotonic() - began) / 2
    while kills < (200 if ALL else 40):
        out, there = str(tmp_path / f"run{finished}"), []
        while True:
            with start(*arguments, "--out", out, "--resume", "auto") as process:
                time.sleep(draw.uniform(0, longest))
                process.kill()
                errors = process.communicate(timeout=60)[1]
            assert "passing over" not in errors and process.returncode in (0, -9), errors
            before, there = there, checkpoints(out) if os.path.exists(out) else []
            longest *= 1.2 if there == before else 0.97  # lives long enough to get on, short enough to be cut
            if os.path.exists(os.path.join(out, "metrics.jsonl")):
                said = [line["step"] for line in metrics(out, "event") if line["event"] == "checkpoint"]
                assert not said or there[-1] >= said[-1]  # what was reported as saved is there
            if process.returncode == 0:
                break
            kills += 1
        assert there == [792, 800] and leftovers(out) == []
        same_bits(out, straight, 800)
        finished += 1
    assert finished > 0
    print(f"{kills} kills over {finished} runs")


# --------------------------------------------------------------------------------------------- failing system calls


FAILURES = {"mkdir": errno.ENOSPC, "open": errno.EMFILE, "pwrite": errno.ENOSPC, "fsync": errno.EIO, "close": errno.EIO,
            "rename": errno.EIO, "pread": errno.EIO}


def test_a_save_that_fails_in_any_call_is_reported_and_tried_again(base, fault, tmp_path):
    trace = str(tmp_path / "trace")
    run(*base[0], "--out", tmp_path / "traced", env=fault(PATH="/.step_00000004.partial", TRACE=trace))
    points = chosen(calls_of(trace))
    assert {call for _, call, _ in points} == set(FAILURES)
    for at, call, path in points:
        out = str(tmp_path / f"{at}")
        text = run(*base[0], "--out", out, env=fault(PATH="/.step_00000004.partial", AT=at, DO=f"fail:{FAILURES[call]}")).stdout
        says = re.search(r"^checkpoint failed: (.*); the run goes on; last good checkpoint: (.*)$", text, re.MULTILINE)
        # A close after reading cannot lose anything: it may fail unseen.
        if not says and call == "close":
            assert checkpoints(out) == [2, 4, 6]
            continue
        assert says, (at, call, path)
        assert os.strerror(FAILURES[call]) in says[1] and ".step_00000004.partial" in says[1] or "step_00000004" in says[1]
        assert says[2] == step_directory(out, 2)
        assert checkpoints(out) == [2, 6] and leftovers(out) == []
        assert events(out) == ["start", "checkpoint", "checkpoint failed", "checkpoint", "end"]
        same_bits(out, base[1], 6)
        shutil.rmtree(out)
    print(f"{len(points)} calls failed")


def test_a_directory_that_cannot_be_synced_costs_no_older_checkpoint(base, fault, out):
    """fsync of --out after the rename: the first after step 2, the second after step 4."""
    text = run(*base[0][:-2], "--keep", 1, "--out", out, env=fault(CALLS="fsync", PATH=out + "/run", DO="none")).stdout
    assert "failed" not in text and checkpoints(out) == [6]
    shutil.rmtree(out)
    trace = out + ".trace"
    run(*base[0], "--out", out, env=fault(CALLS="fsync", PATH=out, TRACE=trace))
    at = [number for number, _, path in calls_of(trace) if path == out][1]
    shutil.rmtree(out)
    text = run(*base[0][:-2], "--keep", 1, "--save-every", 2, "--steps", 4, "--out", out, code=1,
               env=fault(CALLS="fsync", PATH=out, AT=at, DO=f"fail:{errno.EIO}"))
    assert f"{out}: cannot fsync" in text.stderr and step_directory(out, 2) in text.stderr
    assert checkpoints(out) == [2, 4]
    run(*base[0][:-2], "--keep", 1, "--out", out, "--resume", "auto")
    assert checkpoints(out) == [6]


@pytest.mark.parametrize("call", ["rename", "open", "unlink", "rmdir"])
def test_an_old_checkpoint_that_cannot_be_removed_hurts_nothing(call, base, fault, out):
    part = "/step_00000002" if call == "rename" else "/.step_00000002.old"
    run(*base[0][:-2], "--keep", 1, "--steps", 4, "--out", out, env=fault(CALLS=call, PATH=part, AT=1, TIMES=0, DO="fail:5"))
    assert 4 in checkpoints(out)
    run(*base[0][:-2], "--keep", 1, "--out", out, "--resume", "auto")
    assert checkpoints(out) == [6] and leftovers(out) == []
    same_bits(out, base[1], 6)


def test_short_writes_and_reads_change_nothing(base, fault, out):
    everywhere = fault(CALLS="write,pwrite,read,pread", PATH=os.path.dirname(out), AT=1, TIMES=0, DO="short")
    run(*base[0], "--steps", 4, "--out", out, env=fault(CALLS="pwrite,pread", PATH="step_", AT=1, TIMES=0, DO="short"))
    assert checkpoints(out) == [2, 4]
    run(*base[0], "--out", out, "--resume", "auto", env={**everywhere, "FAULT_CALLS": "pwrite,read,pread"})
    assert checkpoints(out) == [2, 4, 6]
    same_bits(out, base[1], 6)


def test_short_reads_of_the_data_change_nothing(base, fault, data, out):
    folder = os.path.dirname(data[1])
    run(*base[0], "--out", out, env=fault(CALLS="pread", PATH=folder, AT=1, TIMES=0, DO="short"))
    same_bits(out, base[1], 6)


def test_a_checkpoint_that_reads_back_otherwise_is_none(base, fault, tmp_path):
    """A disk that returns other bits than were written to it, once, at each read of a save in turn."""
    trace = str(tmp_path / "trace")
    setting = {"CALLS": "pread", "PATH": "/.step_00000004.partial"}
    run(*base[0], "--out", tmp_path / "traced", env=fault(**setting, TRACE=trace))
    reads = calls_of(trace)
    seen = 0
    for at, _, path in reads:
        out = str(tmp_path / f"{at}")
        text = run(*base[0][:-2], "--keep", 1, "--out", out, env=fault(**setting, AT=at, DO="flip")).stdout
        says = re.search(r"^checkpoint failed: (.*); the run goes on", text, re.MULTILINE)
        assert not says or f"/.step_00000004.partial/{os.path.basename(path)}: " in says[1], says[1]
        seen += says is not None
        assert checkpoints(out) == [6]
        same_bits(out, base[1], 6)
    # Five files are read twice, the manifest once; the other reads find the end of a file, and nothing to flip.
    assert seen == 11 and len(reads) == 21, [path for _, _, path in reads]


@pytest.mark.parametrize("name", [MODEL, MOMENTS, "state.json", "config.ini", MANIFEST])
@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_checkpoint_that_cannot_be_read_is_refused_by_file(name, call, base, fault, out):
    begun(base, out, 2)
    before = picture(out)
    setting = {"CALLS": call, "PATH": f"/step_00000002/{name}", "AT": 1, "TIMES": 0}
    message = run(*base[0], "--out", out, "--resume", "auto", code=2, env=fault(**setting, DO=f"fail:{errno.EIO}")).stderr
    assert f"{step_directory(out, 2)}/{name}" in message and os.strerror(errno.EIO) in message
    if call == "pread":
        message = run(*base[0], "--out", out, "--resume", "auto", code=2, env=fault(**setting, DO="flip")).stderr
        assert f"{step_directory(out, 2)}/{name}" in message
    assert picture(out) == before


# -------------------------------------------------------------------------------------------------- disk and places


def can_mount():
    return os.geteuid() == 0 and shutil.which("mount")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if not can_mount() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False,
                                         stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mounting a small file system needs root")
    yield str(place)
    subprocess.run(["umount", "-l", place], check=True)


def wait_for(process, pattern):
    """Reads lines of output until one matches."""
    for line in process.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(f"no line like {pattern}; {process.stderr.read()}")


def test_a_full_disk_stops_checkpoints_and_nothing_else(data, small_disk):
    out, filler = os.path.join(small_disk, "run"), os.path.join(small_disk, "filler")
    arguments = [*SMALL, *data, "--save-every", 20, "--keep", 2]
    with start(*arguments, "--steps", 10 ** 7, "--out", out) as process:
        wait_for(process, "^checkpoint /")
        wait_for(process, "^checkpoint /")
        with open(filler, "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC
        failed = wait_for(process, "^checkpoint failed")
        good = re.search("last good checkpoint: (.*)$", failed)[1]
        assert os.strerror(errno.ENOSPC) in failed and int(good[-8:]) in checkpoints(out)
        wait_for(process, "^checkpoint failed")
        assert int(good[-8:]) in checkpoints(out)
        os.unlink(filler)
        step = int(wait_for(process, "^checkpoint /")[-9:])
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 0
    last = metrics(out)[-1]["step"]  # every line is whole
    assert checkpoints(out)[-1] == last >= step and leftovers(out) == []
    lost = re.search(r"metrics\.jsonl: written again; (\d+) lines were lost", errors)
    assert not lost or os.strerror(errno.ENOSPC) in errors
    straight = small_disk + ".straight"
    run(*arguments, "--steps", last, "--out", straight)
    same_bits(out, straight, last)


def test_a_disk_that_is_full_for_a_while(base, fault, out):
    """Without a file system of its own: every write into --out fails from the save of step 4 on, for some calls."""
    text = run(*base[0], "--out", out, env=fault(CALLS="mkdir,pwrite", PATH="step_00000004", AT=3, TIMES=0,
                                                 DO=f"fail:{errno.ENOSPC}")).stdout
    assert text.count("checkpoint failed") == 1 and checkpoints(out) == [2, 6]
    same_bits(out, base[1], 6)
    shutil.rmtree(out)
    error = run(*base[0], "--out", out, code=1, env=fault(CALLS="pwrite", PATH="step_0000000", AT=30, TIMES=0,
                                                          DO=f"fail:{errno.ENOSPC}")).stderr
    last = checkpoints(out)
    assert os.strerror(errno.ENOSPC) in error and (step_directory(out, last[-1]) if last else "none") in error


def test_metrics_that_cannot_be_written_are_said_once_and_leave_no_torn_line(base, fault, out):
    setting = {"CALLS": "write", "PATH": "metrics.jsonl", "AT": 3, "TIMES": 2}
    done = run(*base[0], "--out", out, env=fault(**setting, DO=f"fail:{errno.ENOSPC}"))
    assert [line.split(": ", 1)[1] for line in done.stderr.splitlines()] == [
        f"metrics.jsonl: {os.strerror(errno.ENOSPC)}; the run goes on, its lines are lost",
        "metrics.jsonl: written again; 2 lines were lost"]
    assert len(metrics(out)) + len(metrics(out, "event")) == 11 - 2
    same_bits(out, base[1], 6)
    shutil.rmtree(out)
    run(*base[0], "--out", out, env=fault(**setting, DO="short"))
    assert len(metrics(out)) + len(metrics(out, "event")) == 11 - 2


def test_an_out_that_cannot_be_written_is_refused_at_the_start(base, fault, tmp_path, small_disk):
    os.makedirs(os.path.join(small_disk, "run"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for out in (os.path.join(small_disk, "run"), os.path.join(small_disk, "new")):
        done = run(*base[0], "--out", out, code=2)
        assert f"--out {out}" in done.stderr and os.strerror(errno.EROFS) in done.stderr and "step 1/" not in done.stdout


def test_an_out_without_permission_is_refused_at_the_start(base, fault, out):
    os.makedirs(out)
    done = run(*base[0], "--out", out, code=2, env=fault(CALLS="mkdir", PATH=out + "/", AT=1, DO=f"fail:{errno.EACCES}"))
    assert f"--out {out}" in done.stderr and "step 1/" not in done.stdout and os.listdir(out) == []


def test_two_runs_do_not_write_into_one_directory(base, out):
    with start(*base[0], "--steps", 10 ** 7, "--save-every", 10 ** 6, "--out", out) as process:
        wait_for(process, "^step 3/")
        assert "another run" in run(*base[0], "--steps", 10 ** 7, "--out", out, "--resume", "auto", code=2).stderr
    run(*base[0], "--out", out, "--resume", "auto", "--steps", 10 ** 6, "--max-minutes", 1e-3)  # the lock died with it


# ------------------------------------------------------------------------------------------------------------ data


@pytest.fixture
def shards(tmp_path):
    """Many shards, so that not all are open at once under a low limit."""
    for i in range(20):
        write_shard(tmp_path / f"shard{i:02d}.bin", sentences(60, i))
    return [str(tmp_path / f"shard{i:02d}.bin") for i in range(20)]


def few_files():
    import resource  # in the child, before the program starts
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))


@pytest.mark.parametrize("damage", ["truncate", "shorten", "remove", "replace"])
def test_a_shard_that_changes_during_training_ends_the_run_with_a_checkpoint(damage, shards, out):
    arguments = [*SMALL, "--train-data", os.path.join(os.path.dirname(shards[0]), "*.bin"), "--save-every", 10 ** 6]
    whole = file_bytes(shards[7])
    with start(*arguments, "--steps", 10 ** 8, "--out", out, preexec_fn=few_files) as process:
        wait_for(process, "^step 5/")
        if damage == "remove":
            os.unlink(shards[7])
        elif damage == "replace":
            os.unlink(shards[7])
            write_shard(shards[7], sentences(61, 7))
        else:
            os.truncate(shards[7], 1024 + 20 if damage == "truncate" else len(whole) - 2)
        process.stdout.read()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == 2
    assert re.fullmatch(r"train_gpt: --train-data: [^\n]*\n", errors) and shards[7] in errors
    last = metrics(out)[-1]["step"]
    assert checkpoints(out) == [last] and step_directory(out, last) in errors
    if damage in ("truncate", "shorten"):
        assert re.search("byte|bytes", errors)
    with open(shards[7], "wb") as file:
        file.write(whole)
    run(*arguments, "--steps", last + 5, "--out", out, "--resume", "auto")
    run(*arguments, "--steps", last + 5, "--out", out + ".straight")
    same_bits(out, out + ".straight", last + 5)


def test_a_shard_that_cannot_be_read_is_named_with_the_byte(base, fault, data, out):
    folder = os.path.dirname(data[1])
    error = run(*base[0], "--out", out, code=2, env=fault(CALLS="pread", PATH=folder, AT=9, TIMES=0, DO="fail:5")).stderr
    assert re.search(rf"{folder}/\d\.bin: byte \d+: cannot read: {os.strerror(5)}", error)
    assert len(checkpoints(out)) <= 4 and (not checkpoints(out) or step_directory(out, checkpoints(out)[-1]) in error)


def test_other_data_on_resume_are_said(base, out, tmp_path):
    begun(base, out, 2)
    write_shard(tmp_path / "other.bin", sentences(500, 9))
    error = run(*base[0], "--train-data", tmp_path / "other.bin", "--out", out, "--resume", "auto").stderr
    assert re.fullmatch(r"train_gpt: [^\n]*4 windows of data with 28 in an epoch[^\n]*window 4 with 62 in an epoch\n", error)
    shutil.rmtree(out)
    begun(base, out, 2)
    error = run(*base[0], "--total-batch-tokens", 32, "--out", out, "--resume", "auto").stderr
    assert re.fullmatch(r"train_gpt: [^\n]*4 windows of data with 28[^\n]*window 8 with 28 in an epoch\n", error)


# -------------------------------------------------------------------------------------------------- bit-exact resume


EPOCHS = ["--batch-size", 2, "--total-batch-tokens", 80]  # 10 of 28 windows a step, 5 micro-steps: epochs end in steps 3, 6, 9


@pytest.mark.parametrize("case", ["none", "act", "block", "llama", "fp64", "bhyt"])
def test_a_resume_at_any_step_ends_in_the_same_bits(case, data, tmp_path):
    """Accumulation, shard and epoch boundaries, every recompute mode, a skip window that counts."""
    more = {"llama": ["--arch", "llama", "--vocab-size", 256, "--n-kv-head", 1, "--recompute", "block"],
            "fp64": ["--dtype", "fp64"], "bhyt": ["--norm", "bhyt", "--gpas", "layer", "--bhyt-refresh", 4]}.get(case, ["--recompute", case])
    arguments = [*SMALL, *data, *EPOCHS, *more, "--steps", 10, "--skip-sigma", 4, "--lr-schedule", "cosine",
                 "--warmup-steps", 3]
    straight = str(tmp_path / "straight")
    run(*arguments, "--out", straight, "--save-every", 1, "--keep", 99)
    for step in range(1, 10):
        out = str(tmp_path / f"from{step}")
        os.makedirs(out)
        shutil.copytree(step_directory(straight, step), step_directory(out, step))
        run(*arguments, "--out", out, "--resume", "auto")
        same_bits(out, straight, 10)
        assert [line["loss"] for line in metrics(out)] == [line["loss"] for line in metrics(straight)][step:]


@pytest.mark.parametrize("recompute", ["act", "block"])
def test_a_resume_with_another_recompute_mode_ends_in_the_same_bits(recompute, base, out):
    begun(base, out, 2)
    run(*base[0], "--recompute", recompute, "--out", out, "--resume", "auto")
    same_bits(out, base[1], 6)


# ------------------------------------------------------------------------------------------------- signals and time


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_the_bits_of_a_run_that_ends_there(number, data, out):
    arguments = [*SMALL, *data, *EPOCHS]
    with start(*arguments, "--steps", 10 ** 7, "--out", out) as process:
        wait_for(process, "^step 3/")
        process.send_signal(number)
        text = process.stdout.read()
        assert process.wait(timeout=60) == 0 and process.stderr.read() == ""
    last = metrics(out)[-1]["step"]
    assert f"stopping after step {last}: {signal.Signals(number).name}" in text and checkpoints(out) == [last]
    run(*arguments, "--steps", last + 3, "--out", out, "--resume", "auto")
    run(*arguments, "--steps", last + 3, "--out", out + ".straight", "--save-every", last)
    same_bits(out, out + ".straight", last)
    same_bits(out, out + ".straight", last + 3)


@contextlib.contextmanager
def stopped_in_save(arguments, fault, out, at):
    """A run that was interrupted once and stands still within its last save."""
    with start(*arguments, "--steps", 10 ** 7, "--save-every", 10 ** 6, "--out", out,
               env=fault(PATH=".partial", AT=at, DO="stop")) as process:
        wait_for(process, "^step [3-9]/")
        process.send_signal(signal.SIGINT)
        wait_for(process, "^stopping after step")
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        yield process


@pytest.mark.parametrize("at", [1, 2, 20, 40, 60])
def test_a_second_interrupt_ends_at_once_and_harms_nothing(at, base, fault, out):
    begun(base, out, 2)
    before = checkpoints(out)
    with stopped_in_save([*base[0], "--resume", "auto"], fault, out, at) as process:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    # The thread that takes signals and the one that saves go on side by side: the save may win, and is whole then.
    assert process.returncode in (128 + signal.SIGINT, 0)
    assert checkpoints(out)[: len(before)] == before
    if checkpoints(out) == before:
        run(*base[0], "--out", out, "--resume", "auto")
        same_bits(out, base[1], 6)
        assert leftovers(out) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_other_signals_within_the_last_save_do_not_disturb_it(number, base, fault, out):
    with stopped_in_save(base[0], fault, out, 20) as process:
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0 and len(checkpoints(out)) == 1 and leftovers(out) == []


def test_a_reader_that_goes_away_does_not_end_the_run(base, out):
    with start(*base[0], "--steps", 2000, "--save-every", 0, "--out", out) as process:
        wait_for(process, "^step 3/")
        process.stdout.close()
        assert process.wait(timeout=60) == 0
    assert checkpoints(out) == [2000]


def test_time_is_measured_by_a_clock_that_does_not_jump(base, fault, out):
    run(*base[0], "--out", out, "--max-minutes", 5, env=fault(CLOCK=10 ** 8))
    same_bits(out, base[1], 6)
    assert all(0 < line["ms"] < 6e4 for line in metrics(out))
    text = run(*base[0], "--steps", 10 ** 8, "--max-minutes", 0.005, "--out", out, "--resume", "auto",
               env=fault(CLOCK=-10 ** 8)).stdout
    last = metrics(out)[-1]["step"]
    assert "--max-minutes" in text and checkpoints(out)[-1] == last > 6
    run(*base[0], "--steps", last, "--out", out + ".straight")
    same_bits(out, out + ".straight", last)


# --------------------------------------------------------------------------------------------------------- skipping


def window_of(out, step):
    state = json.loads(file_bytes(step_directory(out, step), "state.json"))
    values = state["window"]["loss"] + state["window"]["norm"]
    assert all(isinstance(value, float) and math.isfinite(value) for value in values)
    return state


def products_in_a_step(base, fault, out):
    """How many dnnl_sgemm calls a step has: the first call that spoils step 2 and not step 1, less one."""
    low, high = 1, 4096  # the call `low` is in step 1, `high` in a later one
    while high - low > 1:
        middle = (low + high) // 2
        run(*base[0], "--steps", 3, "--out", out, env=fault(NAN_AT=middle))
        skipped = [line["step"] for line in metrics(out, "event") if line["event"] == "skip"]
        low, high = (middle, high) if skipped == [1] else (low, middle)
        shutil.rmtree(out)
    return low


def test_steps_that_are_not_finite_are_skipped_and_the_third_in_a_row_ends_the_run(base, fault, data, out):
    products = products_in_a_step(base, fault, out)
    arguments = [*SMALL, *data, "--steps", 12, "--save-every", 1, "--keep", 99]

    def spoiled(*steps, code=0, **more):
        """NaN in one product of each of some consecutive steps."""
        first, count = (steps[0] - 1) * products + 3, (len(steps) - 1) * products + 1
        return run(*arguments, "--out", out, code=code, env=fault(NAN_AT=first, NAN_TIMES=count), **more)

    for steps in ([5], [5, 6]):
        text = spoiled(*steps).stdout
        skips = [(line["step"], line["reason"]) for line in metrics(out, "event") if line["event"] == "skip"]
        assert skips == [(step, "non-finite loss or gradient") for step in steps]
        assert text.count("skipped: non-finite") == len(steps)
        assert file_bytes(step_directory(out, 4), MODEL) != file_bytes(step_directory(out, 12), MODEL)
        assert not set(steps) & set(checkpoints(out))  # nothing is saved while it is not known to be good
        state = window_of(out, 12)
        assert state["applied"] == 12 - len(steps) == len(state["window"]["loss"]) and state["skips_in_a_row"] == 0
        # A resume after the skip goes on in the same bits.
        other = out + ".other"
        os.makedirs(other)
        shutil.copytree(step_directory(out, steps[-1] + 1), step_directory(other, steps[-1] + 1))
        run(*arguments, "--out", other, "--resume", "auto")
        same_bits(other, out, 12)
        shutil.rmtree(other)
        shutil.rmtree(out)

    error = spoiled(5, 6, 7, code=3).stderr
    assert "3 steps in a row" in error and step_directory(out, 4) in error
    assert checkpoints(out) == [1, 2, 3, 4] and events(out)[-4:] == ["skip"] * 3 + ["diverged"]
    window_of(out, 4)
    run(*arguments, "--out", out, "--resume", "auto")  # the machine is well again
    shutil.rmtree(out)
    error = run(*arguments, "--save-every", 0, "--out", out, code=3, env=fault(NAN_AT=1, NAN_TIMES=0)).stderr
    assert error.endswith("last checkpoint: none\n") and checkpoints(out) == []


def test_a_spike_in_the_data_is_skipped_and_enters_no_window(tmp_path, out):
    """Sentences, and in the middle of them a stretch of bytes that the model has never seen."""
    text = sentences(1601, 1)
    text[800:832] = [200 + i for i in range(32)]
    write_shard(tmp_path / "spiked.bin", text)
    arguments = [*SMALL, "--train-data", tmp_path / "spiked.bin", "--steps", 300, "--skip-sigma", 6, "--save-every", 100,
                 "--keep", 99, "--total-batch-tokens", 32]
    run(*arguments, "--out", out)
    skips = [line for line in metrics(out, "event") if line["event"] == "skip"]
    assert skips and {line["reason"] for line in skips} <= {"loss spike", "gradient norm spike"}
    assert all(line["step"] > 128 for line in skips)  # only a full window judges
    losses = {line["step"]: line["loss"] for line in metrics(out)}
    state = window_of(out, 300)
    assert state["applied"] == 300 - len(skips) and len(state["window"]["loss"]) == 128
    for line in skips:
        assert losses[line["step"]] not in state["window"]["loss"] and losses[line["step"]] > losses[line["step"] - 1]
    for step in (100, 200):
        other = out + f".{step}"
        os.makedirs(other)
        shutil.copytree(step_directory(out, step), step_directory(other, step))
        run(*arguments, "--out", other, "--resume", "auto")
        same_bits(other, out, 300)
    # Without the flag the same steps reach the weights.
    run(*arguments, "--skip-sigma", 0, "--out", out + ".all")
    assert window_of(out + ".all", 300)["applied"] == 300


# -------------------------------------------------------------------------------------------------------- bad input


def refused(base, out, *more, says=()):
    """A resume that ends with exit 2 and one line, and changes nothing on disk."""
    before = picture(out)
    message = run(*base[0], "--out", out, *(more or ["--resume", "auto"]), code=2).stderr
    for word in says:
        assert word in message, f"'{word}' is not in: {message}"
    assert picture(out) == before
    return message


def flip(path, position, bit):
    data = bytearray(file_bytes(path))
    data[position] ^= 1 << bit
    with open(path, "wb") as file:
        file.write(data)


def test_no_flipped_bit_of_a_checkpoint_goes_unseen(base, out):
    """All of test_checkpoint.c's positions, here through the program: a choice, or every byte of the manifest."""
    draw = random.Random(3)
    begun(base, out, 2)
    place = step_directory(out, 2)
    size = os.path.getsize(os.path.join(place, MANIFEST))
    positions = [(MANIFEST, i) for i in (range(size) if ALL else draw.sample(range(size), 25))]
    for name in sorted(os.listdir(place)):
        size = os.path.getsize(os.path.join(place, name))
        positions += [(name, draw.randrange(size)) for _ in range(200 if ALL else 5) if name != MANIFEST]
    for name, position in positions:
        bit = draw.randrange(8)
        flip(os.path.join(place, name), position, bit)
        refused(base, out, says=(f"{place}/{name}",))
        flip(os.path.join(place, name), position, bit)
    run(*base[0], "--out", out, "--resume", "auto")
    same_bits(out, base[1], 6)
    print(f"{len(positions)} flips")


def test_truncated_missing_and_linked_files_are_refused(base, out):
    begun(base, out, 2)
    place = step_directory(out, 2)
    for name in sorted(os.listdir(place)):
        path, whole = os.path.join(place, name), file_bytes(place, name)
        for size in {0, 1, len(whole) // 2, len(whole) - 1}:
            os.truncate(path, size)
            refused(base, out, says=(f"{place}/{name}",))
        with open(path, "wb") as file:
            file.write(whole + b"\0")
        refused(base, out, says=(f"{place}/{name}",))
        os.unlink(path)
        refused(base, out, says=(place, name))
        os.symlink(step_directory(base[1], 2) + "/" + name, path)
        refused(base, out, says=(f"{place}/{name}", "symbolic link"))
        os.unlink(path)
        os.mkdir(path)
        refused(base, out, says=(f"{place}/{name}",))
        os.rmdir(path)
        os.mkfifo(path)
        refused(base, out, says=(f"{place}/{name}",))
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(whole)
    run(*base[0], "--out", out, "--resume", "auto")


def rewrite_manifest(place, change):
    """A manifest with right checksums over whatever the files are now."""
    manifest = json.loads(file_bytes(place, MANIFEST))
    for entry in manifest["files"]:
        if os.path.exists(os.path.join(place, entry["name"])):
            data = file_bytes(place, entry["name"])
            entry["bytes"], entry["crc64"] = len(data), f"{crc64(data):016x}"
    change(manifest)
    lines = ",\n".join(f'  {{"name": "{entry["name"]}", "bytes": {entry["bytes"]}, "crc64": "{entry["crc64"]}"}}'
                       for entry in manifest["files"])
    text = f'{{\n "format": {manifest["format"]},\n "step": {manifest["step"]},\n "files": [\n{lines}\n ],\n'
    with open(os.path.join(place, MANIFEST), "w", encoding="ascii") as file:
        file.write(text + f' "crc64": "{crc64(text.encode()):016x}"\n}}\n')


def test_foreign_older_and_crafted_checkpoints_are_refused(base, out):
    begun(base, out, 2)
    place = step_directory(out, 2)
    os.mkdir(out + ".keep")
    shutil.copytree(place, out + ".keep/step")

    def fresh():
        shutil.rmtree(place)
        shutil.copytree(out + ".keep/step", place)

    rewrite_manifest(place, lambda manifest: None)
    assert file_bytes(place, MANIFEST) == file_bytes(base[1], "step_00000002", MANIFEST)  # the function above is right
    rewrite_manifest(place, lambda manifest: manifest.update(format=1))
    refused(base, out, says=(place, "format 1", "format 2"))
    rewrite_manifest(place, lambda manifest: manifest.update(format=2, step=3))
    refused(base, out, says=(place, "step 3"))
    for name in ("../step_00000002/state.json", "/etc/passwd", ".hidden", "a b", ""):
        fresh()
        rewrite_manifest(place, lambda manifest: manifest["files"][0].update(name=name))
        refused(base, out, says=(f"{place}/{MANIFEST}", f"'{name}'"))
    fresh()
    rewrite_manifest(place, lambda manifest: manifest["files"].pop(1))
    refused(base, out, says=(f"{place}/{MANIFEST}", MOMENTS))

    for name, field, value in (("state.json", "applied", -1), ("state.json", "applied", 3), ("state.json", "step", 1.5),
                               ("state.json", "window", None), ("state.json", "windows", "4"), ("state.json", "threads", 0),
                               ("state.json", "variant", "post layernorm"), ("state.json", "kernels", "x" * 100)):
        fresh()
        state = json.loads(file_bytes(place, name))
        state[field] = value
        with open(os.path.join(place, name), "w", encoding="ascii") as file:
            json.dump(state, file)
        rewrite_manifest(place, lambda manifest: None)
        refused(base, out, says=(place, "variant" if field == "variant" else f"'{field}" if value is not None else "window"))
    for text in ("{", "[]", "{} {}", '{"step": 1, "step": 2}', "", "\0"):
        fresh()
        with open(os.path.join(place, "state.json"), "w", encoding="ascii") as file:
            file.write(text)
        rewrite_manifest(place, lambda manifest: None)
        refused(base, out, says=(f"{place}/state.json",))
    fresh()
    with open(os.path.join(place, "config.ini"), "a", encoding="ascii") as file:
        file.write("no-such-flag = 1\n")
    rewrite_manifest(place, lambda manifest: None)
    refused(base, out, says=(f"{place}/config.ini", "no-such-flag"))
    fresh()
    os.unlink(os.path.join(place, MANIFEST))
    refused(base, out, says=(place, "older version"))
    refused(base, out, "--resume", place, says=(place, "older version"))


def test_a_checkpoint_of_another_model_is_refused_by_tensor_or_flag(base, out):
    begun(base, out, 2)
    place = step_directory(out, 2)
    for change, says in ((["--norm", "rmsnorm"], "rmsnorm"), (["--n-head", 4, "--n-kv-head", 4], "--n-head is 2 there and 4 here"),
                         (["--n-layer", 2], "transformer.h.1."), (["--n-embd", 32], "transformer.wte.weight"),
                         (["--seq-len", 16, "--total-batch-tokens", 32], "transformer.wpe.weight"), (["--n-ffn", 32], "mlp.c_fc.weight"),
                         (["--vocab-size", 257], "transformer.wte.weight"), (["--tie-embeddings", "off"], "lm_head.weight"),
                         (["--norm-eps", "1e-3"], "--norm-eps"), (["--arch", "llama", "--norm", "layernorm"], "tensor"),
                         (["--bias", "off"], "bias")):
        refused(base, out, "--resume", "auto", *change, says=(place, says))


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(base, out):
    begun(base, out, 2, 4, 6)
    flip(os.path.join(step_directory(out, 6), MODEL), 5000, 1)
    os.truncate(os.path.join(step_directory(out, 4), "state.json"), 10)
    done = run(*base[0], "--out", out, "--resume", "auto")
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert f"{step_directory(out, 6)}/{MODEL}" in lines[0] and "damaged" in lines[0]
    assert f"{step_directory(out, 4)}/state.json" in lines[1] and "10 bytes" in lines[1]
    assert f"resumed from {step_directory(out, 2)}" in done.stdout
    assert checkpoints(out) == [2, 4, 6] and leftovers(out) == []  # the damaged ones were replaced
    same_bits(out, base[1], 6)


def test_saving_a_step_that_is_there_is_no_error(base, out):
    begun(base, out, 2, 4, 6)
    before = picture(step_directory(out, 6)), picture(step_directory(out, 4))
    run(*base[0], "--out", out, "--resume", "auto")
    assert (picture(step_directory(out, 6)), picture(step_directory(out, 4))) == before


def test_names_in_the_directory_that_are_no_checkpoints_are_let_be(base, out):
    begun(base, out, 2)
    for name in ("step_3", "step_00000009x", "step_-0000001", "other", ".step_notes"):
        os.mkdir(os.path.join(out, name))
    os.mkdir(os.path.join(out, ".step_00000003.partial"))
    run(*base[0][:-2], "--keep", 1, "--out", out, "--resume", "auto")
    assert sorted(os.listdir(out)) == [".step_notes", "metrics.jsonl", "other", "step_-0000001", "step_00000006",
                                       "step_00000009x", "step_3"]
