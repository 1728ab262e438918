"""Do the safetensors library and this program read each other's files?

Runs test_safetensors_file: $TEST_SAFETENSORS_FILE if that is set, else one built here from the sources.
"""

import json
import os
import pathlib
import shlex
import struct
import subprocess

import pytest

try:
    import numpy as np
    import safetensors
    import safetensors.numpy
except ImportError:
    np = None

pytestmark = pytest.mark.skipif(np is None, reason="needs numpy and safetensors")

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ["test/test_safetensors_file.c", "src/checkpoint/safetensors.c", "src/checkpoint/safetensors_write.c", "src/base/philox.c",
           "src/base/json_scan.c", "src/base/check.c"]
I8_NAME = 'i8 "quoted"\n\u00e9'


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    given = os.environ.get("TEST_SAFETENSORS_FILE")
    if given:
        return given
    path = tmp_path_factory.mktemp("build") / "test_safetensors_file"
    compiler = [*shlex.split(os.environ.get("CC", "cc")), "-std=gnu11", "-O1"]
    subprocess.run([*compiler, *SOURCES, "-o", str(path), "-lcmocka", "-lcjson", "-lm"], cwd=ROOT, check=True)
    return str(path)


def expected_sample():
    i = np.arange(15).reshape(3, 5)
    quarters, signed, unsigned = (i - 4) * 0.25, i - 4, i * 3
    return {
        "f64": quarters.astype("<f8"), "f32": quarters.astype("<f4"), "f16": quarters.astype("<f2"),
        "bf16": (quarters.astype("<f4").view("<u4") >> 16).astype("<u2"),  # exact: a quarter has few digits
        "i64": signed.astype("<i8"), "i32": signed.astype("<i4"), I8_NAME: signed.astype("i1"),
        "u32": unsigned.astype("<u4"), "u16": unsigned.astype("<u2"), "u8": unsigned.astype("u1"),
        "scalar": np.array(-1.0), "empty": np.zeros((0, 7), "<f4"),
    }


def test_library_reads_what_we_write(binary, tmp_path):
    path = tmp_path / "ours.safetensors"
    subprocess.run([binary, "write", str(path)], check=True)
    tensors = dict(safetensors.deserialize(path.read_bytes()))
    expected = expected_sample()
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name]["dtype"] == name.split()[0].upper() or name in ("scalar", "empty")
        assert tensors[name]["shape"] == list(array.shape)
        assert bytes(tensors[name]["data"]) == array.tobytes(), name
    with safetensors.safe_open(str(path), framework="np") as opened:
        assert opened.metadata() == {"format": "pt", "quote": 'a "b" \u00e9\n'}
        assert (opened.get_tensor("f32") == expected["f32"]).all()


def printed(binary, path):
    return subprocess.run([binary, "print", str(path)], check=True, stdout=subprocess.PIPE).stdout.decode()


def test_we_read_what_the_library_writes(binary, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "theirs.safetensors"
    every_half = np.arange(65536, dtype="<u2").view("<f2")
    arrays = {
        "every_half": every_half,
        "f64": rng.standard_normal((7, 11)), "f32": rng.standard_normal(9000).astype("<f4"),
        "i64": rng.integers(-2**53, 2**53, 50), "i32": rng.integers(-2**31, 2**31, 50).astype("<i4"),
        "i16": rng.integers(-2**15, 2**15, 50).astype("<i2"), "i8": rng.integers(-128, 128, 50).astype("i1"),
        "u64": rng.integers(0, 2**53, 50).astype("<u8"), "u32": rng.integers(0, 2**32, 50).astype("<u4"),
        "u16": rng.integers(0, 2**16, 50).astype("<u2"), "u8": rng.integers(0, 256, 50).astype("u1"),
        "scalar": np.array(2.5, "<f4"), "empty": np.zeros((3, 0), "<f8"),
        "h.0.attn.c_proj.weight": np.ones((2, 2), "<f4"),
    }
    safetensors.numpy.save_file(arrays, str(path), metadata={"format": "np"})
    *lines, last = printed(binary, path).splitlines()
    assert last == "format=np"
    assert len(lines) == len(arrays)
    for line in lines:
        name, dtype, *values = line.split(" ")
        wanted = arrays[name].astype("<f8").ravel()
        assert np.array_equal(np.array(values, dtype="<f8"), wanted, equal_nan=True), name


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("header", [
    {"a": entry("F32", [2], 0, 8)},
    {"a": entry("F32", [1], 0, 4)},
    {"a": entry("F32", [1], 4, 8)},
    {"a": entry("F32", [1], 0, 8)},
    {"a": entry("F32", [-2], 0, 8)},
    {"a": entry("F32", [2.0], 0, 8)},
    {"a": entry("F99", [2], 0, 8)},
    {"a": {"dtype": "F32", "shape": [2]}},
    {"a": entry("F32", [1], 0, 4), "b": entry("U8", [4], 4, 8)},
    {"a": entry("F32", [1], 0, 4), "b": entry("U8", [5], 3, 8)},
    {"a": entry("F32", [1], 0, 4), "b": entry("U8", [0], 4, 4), "c": entry("BF16", [2, 1], 4, 8)},
    {"__metadata__": {"x": 1}, "a": entry("F32", [2], 0, 8)},
    {"__metadata__": {"x": "1"}, "a": entry("F32", [2], 0, 8)},
], ids=json.dumps)
def test_we_accept_exactly_what_the_library_accepts(binary, tmp_path, header):
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(8)
    path = tmp_path / "case.safetensors"
    path.write_bytes(data)
    try:
        safetensors.deserialize(data)
        accepted = True
    except safetensors.SafetensorError:
        accepted = False
    run = subprocess.run([binary, "print", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (run.returncode == 0) == accepted, run.stderr
