"""A file of tensors in another type: read and written a piece at a time, as large as it may be.

safetensors: 8 bytes, the length of the header; the header, JSON; the tensors' bytes, without gaps.
"""

import json
import os
import struct

from console import Failure, os_failure

NAMES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
TORCH = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8}
HEADER_MOST = 100_000_000  # as the format's own library has it
PIECE = 1 << 22


def read_header(path):
    """→ (the tensors' entries in the order of their bytes, where the bytes begin, the metadata)."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
            if length > min(HEADER_MOST, size - 8):
                raise Failure("%s: not a safetensors file, or cut off" % path)
            header = json.loads(file.read(length))
    except OSError as error:
        raise os_failure(path, error) from None
    except (ValueError, RecursionError):
        raise Failure("%s: its header is no JSON" % path) from None
    try:
        metadata, end = header.pop("__metadata__", {}), 0
        entries = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        for name, entry in entries:
            first, last = entry["data_offsets"]
            count = 1
            for extent in entry["shape"]:
                count *= extent
            if entry["dtype"] not in BYTES:
                raise Failure("%s: tensor %s is of type %s" % (path, name, entry["dtype"]))
            if first != end or last - first != count * BYTES[entry["dtype"]] or last > size - 8 - length:
                raise Failure("%s: tensor %s does not lie where it should" % (path, name))
            end = last
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Failure("%s: its header is none of safetensors" % path) from None
    if not entries or end != size - 8 - length:
        raise Failure("%s: %s" % (path, "holds no tensor" if not entries else "bytes after the last tensor"))
    return entries, 8 + length, metadata


def count(path):
    """Numbers in all tensors."""
    return sum(
        (entry["data_offsets"][1] - entry["data_offsets"][0]) // BYTES[entry["dtype"]]
        for _, entry in read_header(path)[0]
    )


def to_type(raw, have, want, numpy):
    """Bytes of numbers of one type as bytes of another, rounded to the nearest, ties to even; whether all are finite."""
    if have == "BF16":
        x = (numpy.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        x = numpy.frombuffer(raw, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[have])
    with numpy.errstate(over="ignore"):
        y = x.astype({"F16": "<f2", "F32": "<f4", "BF16": "<f4"}[want])
    finite = bool(numpy.isfinite(y).all())
    if want != "BF16":
        return y.tobytes(), finite
    bits = y.view("<u4")
    bits = bits + 0x7FFF + ((bits >> 16) & 1)
    finite = finite and bool(((bits & 0x7F800000) != 0x7F800000).all())
    return (bits >> 16).astype("<u2").tobytes(), finite


def convert(source, target, dtype):
    """Writes `target`; → the type of its tensors. dtype None: as they are."""
    entries, begin, metadata = read_header(source)
    types = {entry["dtype"] for _, entry in entries}
    if dtype is None and len(types) > 1:
        raise Failure("%s: tensors of types %s: --dtype makes them one" % (source, ", ".join(sorted(types))))
    want = NAMES[dtype] if dtype else types.pop()
    numpy = load_numpy() if types - {want} else None
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for name, entry in entries:
        size = (entry["data_offsets"][1] - entry["data_offsets"][0]) // BYTES[entry["dtype"]] * BYTES[want]
        header[name] = {"dtype": want, "shape": entry["shape"], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with open(source, "rb") as file, open(target, "wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            file.seek(begin)
            for name, entry in entries:
                write_tensor(file, out, source, name, entry, want, numpy)
    except OSError as error:
        raise os_failure(error.filename or target, error) from None
    return want


def write_tensor(file, out, source, name, entry, want, numpy):
    left = entry["data_offsets"][1] - entry["data_offsets"][0]
    while left:
        raw = file.read(min(left, PIECE))
        if not raw:
            raise Failure("%s: the file ends within tensor %s" % (source, name))
        left -= len(raw)
        if entry["dtype"] != want:
            raw, finite = to_type(raw, entry["dtype"], want, numpy)
            if not finite:
                raise Failure("%s: tensor %s holds a number that is not finite in %s" % (source, name, TORCH[want]))
        out.write(raw)


def load_numpy():
    try:
        import numpy
    except ImportError:
        raise Failure("--dtype needs the package numpy (pip install numpy)") from None
    return numpy
