"""How tests run train_gpt and read and write its files.

The executable is the one that TRAIN_GPT names (default: ./train_gpt).
"""

import json
import os
import random
import re
import struct
import subprocess

import numpy

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM = os.path.abspath(os.environ.get("TRAIN_GPT", os.path.join(ROOT, "train_gpt")))
SMALL = ["--preset", "micro", "--seq-len", "16", "--batch-size", "4", "--lr", "1e-3", "--warmup-steps", "0"]
MODEL, MOMENTS = "model.safetensors", "optimizer-0-of-1.safetensors"


def environment(**more):
    return dict(os.environ, OMP_NUM_THREADS="1", **more)


def run(*arguments, code=0, cwd=None, **more):
    """Runs the program to its end. A refusal or failure is one line on stderr, and what is not asked for is quiet."""
    done = subprocess.run(
        [PROGRAM, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
        cwd=cwd,
        env=environment(**more.pop("env", {})),
        **more,
    )
    done.out, done.err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    assert (
        done.returncode == code
    ), f"exit {done.returncode}, not {code}: {arguments}\n{done.out[-2000:]}\n{done.err[-2000:]}"
    if code:
        assert re.fullmatch(r"train_gpt: [^\n]*\n", done.err), f"not one line: {done.err!r}"
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.err), repr(done.err)
    return done


def refused(*arguments, says=(), **more):
    """The message of a run that ends with exit 2."""
    message = run(*arguments, code=2, **more).err
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
        file.write(numpy.asarray(tokens, dtype="<u4" if wide else "<u2").tobytes())


def sentences(count, seed):
    """Printable bytes that can be learned a little."""
    draw = random.Random(seed)
    words = ["the ", "cat ", "sat ", "on ", "a ", "mat. ", "dog ", "ran "]
    text = ""
    while len(text) < count:
        text += draw.choice(words)
    return list(text[:count].encode())


def read_tensors(path):
    """Name → numpy array, of a safetensors file."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    header.pop("__metadata__", None)
    types = {"F32": "<f4", "F64": "<f8", "U32": "<u4"}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = numpy.frombuffer(data[begin:end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_tensors(path, tensors, dtype=None):
    header, data = {}, b""
    for name, value in tensors.items():
        raw = numpy.ascontiguousarray(value).tobytes()
        header[name] = {
            "dtype": dtype or {"f4": "F32", "f8": "F64"}[value.dtype.str[1:]],
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def metrics(out, kind="train"):
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return [line for line in lines if line["type"] == kind]


def losses(out):
    return [line["loss"] for line in metrics(out)]


def file_bytes(*path):
    with open(os.path.join(*path), "rb") as file:
        return file.read()


def checkpoints(out):
    return sorted(name for name in os.listdir(out) if name.startswith("step_"))


def step_directory(out, step):
    return os.path.join(out, f"step_{step:08d}")


def flags_of_the_table():
    """(kind, name) of every row in src/flags.c."""
    with open(os.path.join(ROOT, "src", "flags.c"), encoding="utf-8") as file:
        rows = re.findall(r'^ +(INT|REAL|TEXT|PROMPT|CHOICE|MODE)\("([a-z0-9-]+)"', file.read(), re.MULTILINE)
    assert len(rows) > 50
    return rows
