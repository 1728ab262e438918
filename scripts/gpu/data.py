"""Tokens to measure with: a shard of a vocabulary's ids, some frequent, most rare, as in text."""

import array
import os
import random

TOKENS = 1 << 21


def shard(folder, vocabulary, tokens=TOKENS):
    """The path of a shard in a folder; written once."""
    path = os.path.join(folder, f"tokens-{vocabulary}-{tokens}.bin")
    if os.path.exists(path):
        return path
    draw = random.Random(vocabulary)
    ids = array.array("H", (int(vocabulary * draw.random() ** 3) for _ in range(tokens)))
    header = array.array("i", [20240520, 1, tokens] + [0] * 253)
    with open(path + ".tmp", "wb") as file:
        header.tofile(file)
        ids.tofile(file)
    os.replace(path + ".tmp", path)
    return path


def read(path):
    """The ids of a shard, as an array of unsigned 16-bit numbers."""
    header, ids = array.array("i"), array.array("H")
    with open(path, "rb") as file:
        header.fromfile(file, 256)
        if header[:2].tolist() != [20240520, 1]:
            raise ValueError(f"{path} is no shard of 16-bit tokens")
        ids.fromfile(file, header[2])
    return ids
