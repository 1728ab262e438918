"""Files of tensors as numpy arrays, read and written without the library and without the program."""

import json
import pathlib
import struct

import numpy

TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4"}


def read_tensors(path):
    """→ {name: array}.  8 bytes: length n of the header; n bytes of JSON; the tensors, without gaps."""
    data = pathlib.Path(path).read_bytes()
    n = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + n]), data[8 + n :]
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        assert first == end and last <= len(body), f"{path}: {name} lies at {first}:{last}, expected {end}"
        tensors[name] = numpy.frombuffer(body[first:last], TYPES[entry["dtype"]]).reshape(entry["shape"])
        end = last
    assert end == len(body), f"{path}: {len(body) - end} bytes after the last tensor"
    return tensors


def write_tensors(path, tensors, dtype=None):
    """With `dtype` the header says so, whatever the arrays hold."""
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
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)
