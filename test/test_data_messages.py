"""What does a run say of its data: files that are no shards, files it does not use, files that are not there?"""
import gzip
import os
import struct

import pytest

from program import SMALL, refused, sentences, write_shard

# What people hand over in place of a shard: its content, and what the refusal calls it and advises.
NO_SHARDS = {
    "shakespeare.txt": (b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 40,
                        ("text", "data/prepare.py FILE makes shards")),
    "short.txt": (b"hello\n", ("text", "data/prepare.py FILE makes shards")),
    "lines.jsonl": (b'{"text": "hello"}\n' * 100, ("JSON", "data/prepare.py FILE makes shards")),
    "books.txt.gz": (gzip.compress(os.urandom(3000)), ("gzip", "data/prepare.py FILE makes shards")),
    "train.bin": (struct.pack("<2000H", *(i * 7919 % 50257 for i in range(2000))),
                  ("token ids without a header", "nanoGPT", "data/prepare.py")),
    "model.bin": (struct.pack("<256i", 20240326, 3, *[0] * 254) + bytes(4096), ("GPT-2 model of llm.c", "--init-from")),
    "index.idx": (b"MMIDIDX\0\0" + bytes(2000), ("Megatron",)),
}


@pytest.mark.parametrize("name", NO_SHARDS)
def test_what_is_no_shard_is_called_what_it_is(tmp_path, name):
    content, says = NO_SHARDS[name]
    (tmp_path / name).write_bytes(content)
    message = refused(*SMALL, "--train-data", tmp_path / name, says=("--train-data", name, *says))
    assert "magic" not in message


def test_a_wrong_magic_that_looks_like_nothing_else_is_told(tmp_path):
    write_shard(tmp_path / "a.bin", sentences(100, 1), magic=20240521)
    refused(*SMALL, "--train-data", tmp_path / "a.bin", says="magic 20240521")
