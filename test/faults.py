"""faults.py: what the tests of checkpoints share: running the program on a model of a few thousand parameters, with
fault.c between it and the C library, and looking at what it leaves. Standard library and pytest only.
"""
import contextlib
import json
import os
import pathlib
import shlex
import re
import shutil
import stat
import subprocess
import tempfile

import pytest

import program
from program import MODEL, PROGRAM, ROOT, environment, file_bytes, sentences, step_directory, write_shard

ALL = os.environ.get("TEST_ALL", "") not in ("", "0")
MANIFEST = "manifest.json"
SMALL = ["--n-layer", 1, "--n-embd", 16, "--n-head", 2, "--vocab-size", 256, "--seq-len", 8, "--batch-size", 2,
         "--lr", "1e-2", "--lr-schedule", "constant", "--warmup-steps", 0, "--val-every", 0]


@contextlib.contextmanager
def start(*arguments, env=None, **more):
    """The program, running; killed if it still does at the end."""
    with subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          env=environment(**(env or {})), text=True, **more) as process:
        try:
            yield process
        finally:
            process.kill()


def run(*arguments, **more):
    """The same, but where the disk fails metrics.jsonl may have said so before."""
    return program.run(*arguments, before=r"(train_gpt: metrics\.jsonl: [^\n]*\n)*", **more)


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


def latest_is_whole(out):
    """OUT/latest, if it is there, is a link to one of the checkpoints."""
    link = os.path.join(out, "latest")
    return not os.path.lexists(link) or os.readlink(link) in [f"step_{step:08d}" for step in checkpoints(out)]


def leftovers(out):
    return [name for name in os.listdir(out) if name.startswith(".")]


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


def moment_files(out, step):
    """One, or one a rank that wrote some."""
    return sorted(name for name in os.listdir(step_directory(out, step)) if name.startswith("optimizer-"))


def same_bits(first, second, step):
    assert moment_files(first, step) == moment_files(second, step) != []
    for name in (MODEL, *moment_files(first, step), "state.json"):
        assert file_bytes(step_directory(first, step), name) == file_bytes(step_directory(second, step), name), name


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
    subprocess.run([*shlex.split(os.environ.get("CC", "gcc")), "-std=gnu11", "-O1", "-shared", "-fPIC",
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


def wait_for(process, pattern):
    """Reads lines of output until one matches."""
    for line in process.stdout:
        if re.search(pattern, line):
            return line
    raise AssertionError(f"no line like {pattern}; {process.stderr.read()}")


def flip(path, position, bit):
    data = bytearray(file_bytes(path))
    data[position] ^= 1 << bit
    with open(path, "wb") as file:
        file.write(data)
