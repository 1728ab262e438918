"""Reads and writes safetensors files as PyTorch tensors, with nothing but PyTorch."""

import ctypes
import json
import struct

import torch

TYPES = {"F32": torch.float32, "F64": torch.float64, "U32": torch.int32}  # token ids fit into 31 bits


def write(path, tensors):
    header, offset = {}, 0
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()
    }
    for name, tensor in tensors.items():
        size = 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(ctypes.string_at(tensor.data_ptr(), 4 * tensor.numel()))


def read(path, wanted=lambda name: True):
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        found = {}
        for name, entry in header.items():
            if name == "__metadata__" or not wanted(name):
                continue
            begin, end = entry["data_offsets"]
            file.seek(8 + size + begin)
            data = bytearray(file.read(end - begin))
            found[name] = torch.frombuffer(data, dtype=TYPES[entry["dtype"]]).reshape(entry["shape"])
    return found
