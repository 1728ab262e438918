"""What does a run say of its data: files that are no shards, files it does not use, files that are not there?"""
import gzip
import json
import os
import re
import shutil
import struct
import tempfile

import pytest

from program import SMALL, metrics, refused, run, sentences, write_shard

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


# ------------------------------------------------------------------------------- what is used, and what is not


def said(*arguments, T=16, steps=1):
    """The lines on the data among a run's first, and the same as numbers."""
    with tempfile.TemporaryDirectory() as folder:
        done = run("--preset", "micro", "--batch-size", 2, "--seq-len", T, "--steps", steps, "--out", folder, *arguments)
        lines = [line for line in done.stdout.splitlines() if line.startswith(("data:", "--train-data:", "--val-data:"))]
        return lines, metrics(folder, "event")[0]["data"]


def test_shards_without_a_window_and_leftovers_are_counted(tmp_path):
    for i in range(51):
        write_shard(tmp_path / f"x_{i:02d}.bin", sentences(100 if i else 3000, i))
    lines, data = said("--train-data", tmp_path / "x_*.bin", T=128)
    assert lines == ["data: 51 shards, 8,000 tokens: 23 windows of 128; 0.087 epochs",
                     "--train-data: 50 of 51 shards hold fewer than 129 tokens and are not used (5,000 of 8,000 tokens)"]
    assert data["train"] == {"shards": 51, "tokens": 8000, "windows": 23, "shards_unused": 50, "tokens_unused": 5055,
                             "shards_missing": 0, "shards_twice": 0, "shards_validated_on": 0}
    lines, data = said("--train-data", tmp_path / "x_01.bin", "--val-data", tmp_path / "x_00.bin", T=64)
    assert lines[0] == "data: 1 shard, 100 tokens: 1 windows of 64; 2 epochs"
    assert lines[1] == ("--train-data: 35.0 % of the tokens, behind the last whole window of 64 in each shard, are not used "
                        "(35 of 100)")
    assert len(lines) == 3 and data["val"]["tokens_unused"] == 55  # 55 of 3,000 of val are 1.8 %
    assert len(said("--train-data", tmp_path / "x_00.bin", T=16)[0]) == 1  # 7 of 3,000 are what any set has


def test_a_missing_shard_of_the_sets_own_list_is_said(tmp_path):
    names = [f"x_train_{i:06d}.bin" for i in range(4)]
    for i, name in enumerate(names):
        write_shard(tmp_path / name, sentences(161, i))
    facts = {"train_tokens": 4 * 161, "shards": {"train": names, "val": []}}
    (tmp_path / "x.json").write_text(json.dumps(facts))
    pattern = ["--train-data", tmp_path / "x_train_*.bin"]
    assert len(said(*pattern)[0]) == 1
    assert len(said("--train-data", tmp_path / names[2])[0]) == 1, "a part of a set is nobody's mistake"
    (tmp_path / "x.json").write_text(json.dumps(dict(facts, train_tokens=700)))
    assert said(*pattern)[0][1] == f"--train-data: {tmp_path}/x.json counts 700 train tokens, its shards hold 644"
    os.remove(tmp_path / names[1])
    lines, data = said(*pattern)
    assert lines[1:] == [f"--train-data: 1 of 4 shards that {tmp_path}/x.json lists is missing: {tmp_path}/{names[1]}"]
    assert data["train"]["shards_missing"] == 1
    for hostile in ("[]", "{", '{"shards": 3}', '{"shards": {"train": [1, "../../etc/passwd", ""]}}', "\0" * 100):
        (tmp_path / "x.json").write_text(hostile)
        assert len(said(*pattern)[0]) == (2 if hostile in ("[]", "{", "\0" * 100) else 1), hostile


def test_validation_shards_among_those_to_train_on_are_said(tmp_path):
    train, val = tmp_path / "x_train_000000.bin", tmp_path / "x_val_000000.bin"
    write_shard(train, sentences(161, 1))
    write_shard(val, sentences(161, 2))
    told = "--train-data: 1 of 1 shards to validate on is trained on as well, the validation loss will be too low: "
    assert len(said("--train-data", tmp_path / "*_train_*", "--val-data", val)[0]) == 1
    lines, data = said("--train-data", tmp_path / "x_*.bin", "--val-data", val)
    assert lines[1] == f"{told}{val} holds the same as {val}" and data["train"]["shards_validated_on"] == 1
    lines, _ = said("--train-data", tmp_path / "x_*.bin")
    assert lines[1] == f"--train-data: 1 of 2 shards is called _val_: {val}; '…_train_*.bin' leaves it out"
    os.symlink(val, tmp_path / "link.bin")
    shutil.copy(val, tmp_path / "copy.bin")
    for other in ("link.bin", "copy.bin"):
        lines, _ = said("--train-data", tmp_path / other, "--val-data", val)
        assert lines[1] == f"{told}{tmp_path / other} holds the same as {val}"
    tokens = sentences(161, 2)
    for at in (0, 80, 160):  # other content of the same length
        write_shard(tmp_path / "near.bin", [*tokens[:at], 0, *tokens[at + 1:]])
        assert len(said("--train-data", tmp_path / "near.bin", "--val-data", val)[0]) == 1
    lines, data = said("--train-data", tmp_path / "*.bin")
    assert f"--train-data: 2 of 5 shards are there twice, and used twice: {tmp_path}/link.bin holds the same as " \
           f"{tmp_path}/copy.bin" in lines and data["train"]["shards_twice"] == 2


def test_a_validation_of_a_part_says_which(tmp_path):
    write_shard(tmp_path / "t.bin", sentences(161, 1))
    write_shard(tmp_path / "v.bin", sentences(16 * 99 + 1, 2))
    write_shard(tmp_path / "short.bin", sentences(10, 2))
    out, val = tmp_path / "run", ["--val-data", tmp_path / "v.bin"]
    said_of = "--val-data: a validation reads %d of 50 batches (%d of 99 windows of 16); --val-batches says how many"
    lines, data = said("--train-data", tmp_path / "t.bin", *val)
    assert lines[1:] == [said_of % (40, 80)] and data["val"]["batches"] == 40 and data["val"]["batches_of"] == 50
    assert said("--train-data", tmp_path / "t.bin", *val, "--val-batches", 49)[0][1:] == [said_of % (49, 98)]
    assert said("--train-data", tmp_path / "t.bin", *val, "--val-batches", 50)[0][1:] == []
    run("--preset", "micro", "--batch-size", 2, "--seq-len", 16, "--steps", 1, "--train-data", tmp_path / "t.bin", "--out", out)
    done = run("--resume", out, "--eval-only", "--val-data", tmp_path / "[vs]*.bin")  # stdout: the result alone
    assert re.fullmatch(r"val loss [\d.]+ nats/token over 1280 tokens\nperplexity [\d.]+, [\d.]+ bits/byte over 1280 bytes\n", done.stdout)
    assert done.stderr.splitlines() == [
        "train_gpt: " + said_of % (40, 80),
        "train_gpt: --val-data: 1 of 2 shards holds fewer than 17 tokens and is not used (10 of 1,595 tokens)"]


# ------------------------------------------------------------------------------------------- a path, or a pattern


def test_a_path_that_is_there_is_that_path(tmp_path):
    folder = tmp_path / "run [1]*"
    folder.mkdir()
    for name in ("t.bin", "u?[a].bin", "v[2]_train_000000.bin", "{a,b}.bin"):
        write_shard(folder / name, sentences(161, 1))
        assert said("--train-data", folder / name, "--val-data", folder / name)[0][0].startswith("data: 1 shard,"), name
    assert said("--train-data", folder / "*.bin")[0][0].startswith("data: 4 shards,")
    assert said("--train-data", folder / "v[[]*.bin")[0][0].startswith("data: 1 shard,")
    refused(*SMALL, "--train-data", folder / "v[2]*.bin", says=("no file matches", "a bracket that is part of a name"))
    refused(*SMALL, "--train-data", folder / "{t,u}*.bin", says=("no file matches", "braces are the shell's"))
    refused(*SMALL, "--train-data", tmp_path / "absent.bin", says=f"{tmp_path}/absent.bin: no such file")
    for given in (folder, f"{folder}/", tmp_path / "*"):
        refused(*SMALL, "--train-data", given, says=("a directory; name the shards in it", "/*_train_*.bin'"))
