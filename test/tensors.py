"""Files of tensors as numpy arrays, read and written without the library and without the program."""

import json
import pathlib
import re
import struct

import numpy

TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "U64": "<u8", "I32": "<i4", "U32": "<u4", "U8": "|u1"}


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


def write_tensors(path, tensors, dtype=None, metadata=None):
    """With `dtype` the header says so, whatever the arrays hold."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, value in tensors.items():
        raw = numpy.ascontiguousarray(value).tobytes()
        header[name] = {
            "dtype": dtype or {kind[1:]: name for name, kind in TYPES.items()}[value.dtype.str[1:]],
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_token_bytes(path, tokens, end_of_document=None, strip_leading_space=False):
    """token_bytes.safetensors of these bytes objects: src/checkpoint/token_bytes.h."""
    offsets = numpy.cumsum([0, *map(len, tokens)], dtype="<i8")
    metadata = {"format": "token_bytes", "strip_leading_space": str(strip_leading_space).lower()}
    if end_of_document is not None:
        metadata["end_of_document"] = str(end_of_document)
    write_tensors(path, {"offsets": offsets, "bytes": numpy.frombuffer(b"".join(tokens), "u1")}, metadata=metadata)


def read_moments(directory):
    """→ {"m.NAME": array, "v.NAME": …} from all files of a checkpoint's moments, whoever wrote them: src/checkpoint/moments.h.
    The matrices of blocks have no second ones where they are Muon's."""
    shapes = {name: value.shape for name, value in read_tensors(pathlib.Path(directory) / "model.safetensors").items()}
    files = sorted(pathlib.Path(directory).glob("optimizer-*-of-*.safetensors"))
    assert {file.name for file in files} == {f"optimizer-{rank}-of-{len(files)}.safetensors" for rank in range(len(files))}
    moments, seen = {}, {}
    for file in files:
        for name, value in read_tensors(file).items():
            part = re.fullmatch(r"(.*?)(\.T)?\[(\d+):(\d+)\]", name)
            whole, shape = (part[1] if part else name), shapes[(part[1] if part else name)[2:]]
            turned = part and part[2]
            begin, end = (int(part[3]), int(part[4])) if part else (0, numpy.prod(shape, dtype=int))
            flat = moments.setdefault(whole, (numpy.zeros(numpy.prod(shape, dtype=int), value.dtype), turned))
            assert (value.size, turned) == (end - begin, flat[1]), f"{file}: {name}"
            flat[0][begin:end] = value.reshape(-1)
            seen.setdefault(whole, numpy.zeros(flat[0].size, int))[begin:end] += 1
    matrices = {f"v.{name}" for name, shape in shapes.items() if len(shape) == 2 and (".h." in name or ".layers." in name)}
    assert set(moments) in [every := {f"{which}.{name}" for which in "mv" for name in shapes}, every - matrices]
    assert all((count == 1).all() for count in seen.values())
    shape_of = {name: shapes[name[2:]] for name in moments}
    return {name: flat.reshape(shape_of[name][::-1]).T if turned else flat.reshape(shape_of[name])
            for name, (flat, turned) in moments.items()}


def same_moments(first, second):
    """Whether two checkpoints hold the same bits, in however many files."""
    a, b = read_moments(first), read_moments(second)
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)
