"""How tests run train_gpt and read and write its files.

The executable is the one that TRAIN_GPT names (default: ./train_gpt). Standard library only; tensors: tensors.py.
"""

import json
import os
import random
import re
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.abspath(os.environ.get("TRAIN_GPT", os.path.join(ROOT, "train_gpt")))
SMALL = ["--preset", "micro", "--seq-len", "16", "--batch-size", "4", "--lr", "1e-3", "--warmup-steps", "0"]
MODEL, MOMENTS = "model.safetensors", "optimizer-0-of-1.safetensors"


def environment(**more):
    return dict(os.environ, OMP_NUM_THREADS="1", **{name: str(value) for name, value in more.items()})


def without_notice(stderr):
    """What a run said but that it found no GPU, as a build with CUDA does first on a machine that has none."""
    return re.sub(r"train_gpt: no usable GPU [^\n]*\n", "", stderr)


def cpu_bf16(**more):
    """What --version says of bf16 on this machine's CPU: "refused: …", or with which instructions it is faster."""
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True, env=environment(**more))
    return next(line[16:] for line in done.stdout.splitlines() if line.startswith("  bf16 "))


def run(*arguments, code=0, before="", env=None, **more):
    """Runs the program to its end, with this exit code or one of these. A refusal or failure is one line on stderr, maybe after
    lines like `before`."""
    done = subprocess.run([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120,
                          check=False, text=True, errors="replace", env=environment(**(env or {})), **more)
    done.stderr = without_notice(done.stderr)
    said = f"exit {done.returncode}, not {code}: {arguments}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode in (code if isinstance(code, tuple) else (code,)), said
    if done.returncode > 0:
        assert re.fullmatch(rf"{before}train_gpt(, rank \d+)?: [^\n]*\n", done.stderr), f"not one line: {done.stderr!r}"
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stderr), repr(done.stderr)
    return done


def run_script(path, *arguments, **options):
    """Runs a Python script of the repository to its end."""
    command = [sys.executable, os.path.join(ROOT, path), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def refused(*arguments, says=(), **more):
    """The message of a run that ends with exit 2."""
    message = run(*arguments, code=2, **more).stderr
    for word in [says] if isinstance(says, str) else says:
        assert word in message, f"'{word}' is not in: {message}"
    return message


def write_shard(path, tokens, wide=False, magic=None, version=None, count=None):
    header = [
        magic or (20240801 if wide else 20240520),
        version or (7 if wide else 1),
        len(tokens) if count is None else count,
    ]
    with open(path, "wb") as file:
        file.write(struct.pack("<256i", *header, *[0] * 253))
        file.write(struct.pack(f"<{len(tokens)}{'I' if wide else 'H'}", *tokens))


def sentences(count, seed):
    """Printable bytes that can be learned a little."""
    draw = random.Random(seed)
    words = ["the ", "cat ", "sat ", "on ", "a ", "mat. ", "dog ", "ran "]
    text = ""
    while len(text) < count:
        text += draw.choice(words)
    return list(text[:count].encode())


def metrics(out, kind="train"):
    lines = [json.loads(line) for line in file_bytes(out, "metrics.jsonl").decode().splitlines()]
    return [line for line in lines if line["type"] == kind]


def losses(out):
    return [line["loss"] for line in metrics(out)]


def events(out):
    return [line["event"] for line in metrics(out, "event")]


def file_bytes(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def checkpoints(out):
    return sorted(name for name in os.listdir(out) if name.startswith("step_"))


def step_directory(out, step):
    return os.path.join(out, f"step_{step:08d}")


def flags_of_the_table():
    """(kind, name) of every row in src/settings/flags.c."""
    with open(os.path.join(ROOT, "src", "settings", "flags.c"), encoding="utf-8") as file:
        rows = re.findall(r'^ +(INT|REAL|TEXT|PROMPT|CHOICE|SET|MODE)\("([a-z0-9-]+)"', file.read(), re.MULTILINE)
    assert len(rows) > 50
    return rows
