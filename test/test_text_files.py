"""The promises of data/prepare.py about other people's files: what is text, what is not, and what becomes of either."""
import bz2
import gzip
import itertools
import json
import lzma
import os
import pickle
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import zipfile

import pytest

from program import PROGRAM, ROOT, run_script

sys.path.insert(0, os.path.join(ROOT, "data"))

import encoders  # noqa: E402
import prepare  # noqa: E402
import records  # noqa: E402
import seams  # noqa: E402
from console import Failure  # noqa: E402
from sources import Source  # noqa: E402

# ---------------------------------------------------------------------------------------------------------
# What a file holds

TEXTS = ["to be, or not\n", "ünï©ødé ✓", "x" * 300]
RECORDS = [{"id": 1, "text": text} for text in TEXTS]
AS_LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
AS_LIST = json.dumps(RECORDS, indent=1).encode()


def zstd(data):
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


PACKINGS = {"": bytes, ".gz": gzip.compress, ".XZ": lzma.compress, ".bz2": bz2.compress}
if shutil.which("zstd"):
    PACKINGS[".zst"] = zstd


def documents(path, **more):
    """(the documents of a file, what was left out)"""
    source, found = Source(str(path), **more), []
    for piece, starts in source.documents():
        if starts:
            found.append(piece.decode())
        else:
            found[-1] += piece.decode()
    return found, str(source.skipped)


def refused(path, **more):
    with pytest.raises(Failure) as caught:
        list(Source(str(path), **more).documents())
    assert caught.value.exit_code == 2 and str(caught.value).startswith(str(path))
    return str(caught.value)[len(str(path)) :]


def written(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("name, data", [
    ("d.jsonl", AS_LINES), ("d.NDJSON", AS_LINES), ("c4-train.00000-of-01024.json", AS_LINES), ("list.json", AS_LIST),
    ("strings.json", json.dumps(TEXTS).encode()), ("d.JsonL", AS_LINES.replace(b"\n", b"\r\n")),
    ("objects.json", b"\n".join(json.dumps(record, indent=2).encode() for record in RECORDS)),
    ("one-line-list.Json", json.dumps(RECORDS).encode() + b"\n"),
])  # fmt: skip
def test_json_is_read_by_whatever_name_and_packing_it_has(tmp_path, name, data, packing):
    path = written(tmp_path / (name + packing), PACKINGS[packing](data))
    assert documents(path) == (TEXTS, "")
    assert prepare.default_name(str(path)) == name.rsplit(".", 1)[0]


@pytest.mark.parametrize("packing", [p for p in PACKINGS if p])
def test_packed_data_is_known_by_its_content_and_damage_is_named(tmp_path, packing):
    data = PACKINGS[packing]("word wörd\n".encode() * 5000)
    assert documents(written(tmp_path / "a.txt", data))[0] == ["word wörd\n" * 5000]
    for broken in (data[: len(data) // 2], data[:-1], data[: len(data) // 2] + b"xyz" + data[len(data) // 2 + 3 :]):
        assert ": damaged " in refused(written(tmp_path / ("b.txt" + packing), broken))
    assert "does not begin as such data does; if it is plain, call it c.jsonl" in refused(
        written(tmp_path / ("c.jsonl" + packing), AS_LINES))  # fmt: skip
    assert "the file is empty" in refused(written(tmp_path / ("e.txt" + packing), b""))
    assert "seems to be" in refused(written(tmp_path / ("f.txt" + packing), PACKINGS[packing](data)))
    assert documents(written(tmp_path / ("g.txt" + packing), data + data))[0] == ["word wörd\n" * 10000]


def test_zstd_is_read_by_the_package_as_by_the_program(tmp_path, monkeypatch):
    pytest.importorskip("zstandard")
    if ".zst" not in PACKINGS:
        pytest.skip("no program zstd")
    data = random.Random(1).randbytes(300_000).hex().encode()
    path = written(tmp_path / "a.txt.zst", zstd(data) + zstd(b"end"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert documents(path)[0] == [data.decode() + "end"]
    assert "damaged zstd data: it ends too early" in refused(written(tmp_path / "b.zst", zstd(data)[:-9]))


def archive(tmp_path, kind):
    path = tmp_path / ("x." + kind)
    with tarfile.open(path, "w") if kind == "tar" else zipfile.ZipFile(path, "w") as file:
        (file.add if kind == "tar" else file.write)(os.path.join(ROOT, "README.md"), "README.md")
    return path.read_bytes()


OTHERS = {
    "our shard": (struct.pack("<256i", 20240520, 1, 3, *[0] * 253) + b"\1\0\2\0\3\0", "prepared already: give it to --train-data"),
    "our wide shard": (struct.pack("<256i", 20240801, 7, 1, *[0] * 253) + b"\1\0\0\0", "prepared already"),
    "llm.c's model": (struct.pack("<256i", 20240326, 3, *[0] * 254), "a file of llm.c's"),
    "nanoGPT's train.bin": (struct.pack("<900H", *range(3, 48), *range(3, 48), *range(810)), "nanoGPT's .bin"),
    "Parquet": (b"PAR1\x15\x04\x15\x10\0\0PAR1", "Parquet"),
    "Arrow": (b"ARROW1\0\0\xff\xff\xff\xff", "an Arrow file"),
    "Arrow stream": (b"\xff\xff\xff\xff\x80\3\0\0", "an Arrow stream"),
    "SQLite": (b"SQLite format 3\0" + bytes(90), "an SQLite database"),
    "ELF": (b"\x7fELF\2\1\1" + bytes(9), "a program"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
    "JPEG": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
    "PDF": (b"%PDF-1.7\nstream", "a PDF: extract its text"),
    "NumPy": (b"\x93NUMPY\1\0v\0{'descr'", "a NumPy array"),
    "pickle": (pickle.dumps(["a", {"b": 1}]), "a Python pickle"),
    "safetensors": (struct.pack("<Q", 40) + b'{"a":{"dtype":"F32","shape":[1]}}' + bytes(12), "a safetensors file"),
    "WARC": (b"WARC/1.0\r\nWARC-Type: conversion\r\n", "a WARC file"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "a Git LFS pointer"),
    "UTF-16": ("\ufefftext".encode("utf-16-le"), "UTF-16 text: convert it: iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without a mark": (("text and more " * 9).encode("utf-16-le"), "iconv -f UTF-16LE"),
    "UTF-32": ("\ufefftext".encode("utf-32-le"), "UTF-32 text"),
    "Latin-1": ("caf\xe9".encode("latin-1"), "not UTF-8 at byte 3: convert it"),
    "cut inside a character": ("é".encode()[:1], "not UTF-8 at byte 0"),
    "a zero byte": (b"text\0text", "a zero byte at 4: this is no text; --format binary takes bytes as they are"),
    "a late zero byte": (b"text" * 400_000 + b"\0", "a zero byte at 1600000"),
    "late Latin-1": (b"text" * 400_000 + b"\xe9.", "not UTF-8 at byte 1600000"),
    "JSON lines": (AS_LINES, "--format jsonl takes its lines for documents, --format text takes the JSON itself"),
    "a long JSON line": (b'{"id": 1, "text": "' + b"y" * 9000 + b'"}\n', "--format jsonl"),
    "gzip in gzip": (gzip.compress(gzip.compress(b"text")), "gzip data: unpack it first"),
    "tar in gzip": (lambda folder: gzip.compress(archive(folder, "tar")), "a tar archive"),
    "tar": (lambda folder: archive(folder, "tar"), "a tar archive"),
    "zip": (lambda folder: archive(folder, "zip"), "a zip archive"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("name", ["x.txt", "part-00000", "x.jsonl"])
def test_what_is_no_text_is_refused_by_its_name(tmp_path, case, name):
    data, says = OTHERS[case]
    data = data(tmp_path) if callable(data) else data
    if name == "x.jsonl" and ("JSON" in case or "not UTF-8" in says or "late" in case):
        return  # which is JSON after all, or refused with its line
    assert says in refused(written(tmp_path / name, data))


def test_words_that_begin_as_a_magic_are_text(tmp_path):
    for text in ("ORCs are", "PAR1 of 2", "GGUF is a format", "BZhave", "GIF89a is old", "WARC/", "{not json", "{}",
                 '{"title": "no text field"}\nand prose', "%PDF", "\x7f[1m"):  # fmt: skip
        assert documents(written(tmp_path / "a.txt", text.encode())) == ([text], "")
    assert documents(written(tmp_path / "a.txt", AS_LINES), form="text")[0] == [AS_LINES.decode()]
    assert documents(written(tmp_path / "a.txt", AS_LINES), form="jsonl")[0] == TEXTS


def test_any_bytes_are_taken_where_they_are_meant(tmp_path):
    data = bytes(range(256)) * 2
    (tmp_path / "a.bin").write_bytes(data)
    assert b"".join(piece for piece, _ in Source(str(tmp_path / "a.bin"), form="binary").documents()) == data
    with pytest.raises(Failure, match="--format binary is for --tokenizer bytes"):
        prepare.parse_arguments(["a", "--format", "binary", "--tokenizer", "gpt2"])


def test_what_lacks_text_here_and_there_is_left_out_and_counted(tmp_path):
    lines = [b'\xef\xbb\xbf{"text": "a"}', b'{"text": null}', b"", b'{"id": 5}', b'{"text": ""}', b'{"text": "b"}',
             b'\xef\xbb\xbf{"text": "c"}', b'{"text": null}', b'{"text": "d"}', b'{"text": "e"}']  # fmt: skip
    path = written(tmp_path / "a.jsonl", b"\n".join(lines))
    found, skipped = documents(path)
    assert found == ["a", "b", "c", "d", "e"]
    assert skipped == ("2 byte order mark (first: {0}:1), 2 null (first: {0}:2), 1 without field 'text' (first: {0}:4), "
                       "1 empty (first: {0}:5)".format(path))  # fmt: skip
    done = run_script("data/prepare.py", path, "--out", tmp_path / "o", "--val-fraction", 0)
    assert done.returncode == 0 and not done.stderr and "left out: " + skipped in done.stdout.splitlines()[0]
    facts = json.loads((tmp_path / "o/a.json").read_text())
    assert facts["skipped"]["null"] == {"count": 2, "first": "%s:2" % path} and facts["train_documents"] == 5
    assert documents(written(tmp_path / "b.txt", "\ufeffé\ufeff".encode()))[0] == ["é\ufeff"]
    assert documents(written(tmp_path / "e.txt", b"")) == ([], "1 empty (first: %s)" % (tmp_path / "e.txt"))
    assert documents(written(tmp_path / "c.json", '\ufeff[null, "a", {"text": "b"}, "c"]'.encode()))[0] == ["a", "b", "c"]


def test_a_field_that_most_records_lack_is_the_wrong_one(tmp_path):
    path = written(tmp_path / "a.jsonl", b'{"id": 1, "content": "a"}\n{"id": 2, "content": "b", "text": "c"}\n' * 300)
    assert documents(path)[0] == ["c"] * 300
    path = written(tmp_path / "b.jsonl", b'{"text": "c"}\n' * 99 + b'{"id": 1, "content": "a"}\n' * 300)
    assert refused(path) == ":100: no field 'text', nor in 300 of 399 records (fields here: content, id); see --field"
    path = written(tmp_path / "b.json", b'[{"text": null}, {"text": null}, {"text": "a"}]')
    assert "null in field 'text', nor in 2 of 3 records" in refused(path)
    # soon, not at the end of a file of any length
    path = written(tmp_path / "c.jsonl", b'{"body": "a"}\n' * 200_000)
    assert "in 100 of 100 records (fields here: body)" in refused(path)
    path = written(tmp_path / "c.jsonl", b'{"text": "a"}\n' + b'{"body": "a"}\n' * 200_000)
    assert "in 9999 of 10000 records" in refused(path)


BAD_LINES = [b'{"text": "a"', b'["a"]', b"5", b'{"text": 5}', b'{"text": "\xe9"}', b'{"text": "\\ud800"}', b"[" * 99_999]


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda line: line[:20].decode("latin-1"))
def test_a_bad_line_is_refused_with_its_place_or_left_out_if_asked(tmp_path, bad):
    path = written(tmp_path / "a.jsonl", b'{"text": "x"}\n' + bad + b'\n{"text": "y"}\n')
    assert refused(path).startswith(":2: ")
    assert documents(path, skip_bad=True) == (["x", "y"], "1 bad (first: %s:2)" % path)


@pytest.mark.parametrize("data, says", [
    (b'[{"text": "a"},\n {"text": "b"\n', ":3: not JSON: "), (b'[{"text": "a"}\n', ":2: the list does not end"),
    (b'["a"\n"b"]', ":2: not JSON: ',' or ']' is needed here"), (b'["a",\n]', ":2: not JSON: a comma at the end"),
    (b'["a"]\n["b"]', ":2: not JSON: something follows the list"), (b'["a",\n5]', ":2: an object with a field"),
    (b'["a",\n"\xe9"]', ":1: not UTF-8"), (b'[\n{"text": nothing}]', ":2: not JSON: Expecting value"),
    (b'{\n"text": "a"\n}\n}', ":4: not JSON: Expecting value"), (b"[" * 99_999, ":1: not JSON: "),
    (b'["a",\n\n"' + b"b" * 99, ":3: not JSON: Unterminated string"), (b'{"a": {"text": "b"}}', "(fields here: a)"),
])  # fmt: skip
def test_a_json_list_that_is_wrong_is_refused_with_its_line(tmp_path, data, says):
    assert says in refused(written(tmp_path / "a.json", data))


def test_a_json_list_passes_through_in_pieces(tmp_path, monkeypatch):
    texts = ["", "a\nb", "\\", '"', "é" * 30, "]", "},{"] * 3
    path = written(tmp_path / "a.json", json.dumps([{"n": 12345, "text": text} for text in texts], indent=2,
                                                   ensure_ascii=False).encode())  # fmt: skip
    for size in (1, 2, 3, 7, 50):
        monkeypatch.setattr(records, "READ_BYTES", size)
        assert documents(path)[0] == [text for text in texts if text]


# ---------------------------------------------------------------------------------------------------------
# Tokenizers: control tokens stay out of text; windows have the tokens of the whole

KINDS = ["gpt2", "llama-first", "llama-always", "llama-never", "llama-normalizer", "unigram", "wordpiece", "words"]
CONTROL = ["<unk>", "<s>", "</s>"]


def made_up_text(seed, n_words):
    draw = random.Random(seed)
    syllables = random.Random(0)
    words = ["".join(syllables.choice("abcdeéЖ中") for _ in range(syllables.randint(1, 9))) for _ in range(300)]
    glue = [" ", " ", " ", "  ", "\n", "\n\n", ". ", ", ", "'s ", "\t", "   \n   ", "", "<s>", " </s> ", "<|endoftext|>"]
    return "".join(draw.choice(words) + draw.choice(glue) for _ in range(n_words))


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory):
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    folder = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS:
        options = {"vocab_size": 500, "show_progress": False, "special_tokens": CONTROL}
        if kind == "gpt2":
            tokenizer = Tokenizer(models.BPE())
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
        elif kind.startswith("llama"):
            tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
            if kind == "llama-normalizer":  # as in Llama 2's own file: no words at all
                tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            else:
                tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind[6:], split=False)
            trainer = trainers.BpeTrainer(max_token_length=16, **options)
        elif kind == "unigram":
            tokenizer = Tokenizer(models.Unigram())
            tokenizer.normalizer = normalizers.NFKC()
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
            trainer = trainers.UnigramTrainer(unk_token="<unk>", **options)
        elif kind == "wordpiece":
            tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
            tokenizer.normalizer = normalizers.BertNormalizer()
            tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            trainer = trainers.WordPieceTrainer(**options)
        else:
            words = sorted(set(made_up_text(0, 500).split()).difference(CONTROL))
            tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(CONTROL + words)}, unk_token="<unk>"))
            tokenizer.pre_tokenizer, trainer = pre_tokenizers.WhitespaceSplit(), None
            tokenizer.add_special_tokens(CONTROL)
        if trainer:
            tokenizer.train_from_iterator([made_up_text(seed, 50) for seed in range(40)], trainer)
        tokenizer.add_special_tokens([AddedToken("<|endoftext|>", lstrip=True, normalized=True)])
        tokenizer.add_special_tokens([AddedToken("<|pad|>", rstrip=True, normalized=False, single_word=True)])
        tokenizer.add_tokens([AddedToken("<name>", normalized=False), AddedToken("c4", normalized=True)])
        begin = ("<s>", tokenizer.token_to_id("<s>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
        os.mkdir(folder / kind)
        tokenizer.save(str(folder / kind / "tokenizer.json"))
    return folder, tokenizers


LITERALS = "ab <s> c<|endoftext|>\n</s></s> [SEP] <name>d c4 <|pad|> <unk>"


@pytest.mark.parametrize("kind", KINDS)
def test_text_never_becomes_a_control_token(tokenizer_files, kind):
    folder, tokenizers = tokenizer_files
    path = str(folder / kind / "tokenizer.json")
    reference = tokenizers.Tokenizer.from_file(path)
    control = {reference.token_to_id(token) for token in ("<s>", "</s>", "<|endoftext|>", "<|pad|>")}
    (as_text,) = encoders.make_encoder(path, None).encode([LITERALS])
    (as_control,) = encoders.make_encoder(path, None, control=True).encode([LITERALS])
    assert not control.intersection(as_text.ids)
    assert as_control.ids == reference.encode(LITERALS, add_special_tokens=False).ids
    assert control <= set(as_control.ids)
    ordinary = {reference.token_to_id(token) for token in ("<name>", "c4")}  # added, but no control tokens
    assert ordinary <= set(as_text.ids) and ordinary <= set(as_control.ids)
    # where no merge makes it and no vocabulary holds it, the library's own switch does the same
    reference.encode_special_tokens = True
    text = "ab<|pad|>c <|pad|> d<name>"
    (as_text,) = encoders.make_encoder(path, None).encode([text])
    assert as_text.ids == reference.encode(text, add_special_tokens=False).ids
    if kind == "gpt2":
        (as_text,) = encoders.make_encoder(path, None).encode([LITERALS])
        assert reference.decode(as_text.ids, skip_special_tokens=False) == LITERALS
    # text without such words is what it always was
    plain = made_up_text(3, 500).replace("<", "").replace(">", "")
    assert encoders.make_encoder(path, None).encode([plain])[0].ids == reference.encode(plain, add_special_tokens=False).ids


def test_a_control_token_of_the_vocabulary_is_not_merged_from_text_either(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    letters = {c: i for i, c in enumerate("<s>/ab")}
    vocabulary = dict(letters, **{"<s": 6, "<s>": 7, "<s>a": 8, "ab": 9})
    merges = [("<", "s"), ("<s", ">"), ("<s>", "a"), ("a", "b")]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(tmp_path / "t.json"))
    encoder = encoders.make_encoder(str(tmp_path / "t.json"), "<s>")
    assert encoder.eot == 7 and encoder.encode(["ab<s>ab"])[0].ids == [9, 6, 2, 9]


def test_prepare_says_how_often_text_holds_control_tokens(tokenizer_files, tmp_path):
    tokenizer = tokenizer_files[0] / "gpt2"
    text = json.dumps({"text": "a<|endoftext|>b <|endoftext|>"}) + "\n" + json.dumps({"text": "<s>"}) + "\n"
    (tmp_path / "a.jsonl").write_text(text)
    command = ["data/prepare.py", tmp_path / "a.jsonl", "--tokenizer", tokenizer, "--val-fraction", 0, "--out", tmp_path]
    done = run_script(*command)
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert "the text itself holds <|endoftext|> (2 times), <s> (1 times): encoded as text; --special-tokens" in done.stderr
    eot = json.loads((tmp_path / "a.json").read_text())["eot_token"]
    ids = struct.iter_unpack("<H", (tmp_path / "a_train_000000.bin").read_bytes()[1024:])
    assert [i for (i,) in ids].count(eot) == 1  # the separator
    done = run_script(*command, "--special-tokens", "control")
    assert done.returncode == 0 and "(1 times): made control tokens\n" in done.stderr
    assert "end-of-text token, which also separates documents, 2 times" in done.stderr


def test_tiktoken_is_asked_for_ordinary_text_too():
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([i]): i for i in range(256)}
    ranks.update({b"th": 256, b"the": 257, b" the": 258, "é".encode(): 259})
    encoding = tiktoken.Encoding("toy", pat_str=r" ?\w+|\s+|.", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 260})
    text = "the é <|endoftext|> the\n"
    for control in (False, True):
        encoder = encoders.TiktokenEncoder(encoding, control)
        (found,) = encoder.encode([text])
        assert (260 in found.ids) == control and encoding.decode(found.ids) == text
        assert found.spans[-1][1] == found.length == len(text.encode())
        assert encoder.specials.findall(text) == ["<|endoftext|>"] and encoder.newline_ids() == [10]
    long = made_up_text(5, 3000)
    assert joined(encoders.TiktokenEncoder(encoding), long)[0] == encoding.encode_ordinary(long)


def joined(encoder, text, window=1000, overlap=256, merged=10_000):
    """(ids, windows, seams) of a text that passes through in small windows."""
    before = seams.WINDOW, seams.OVERLAP, seams.MERGED
    seams.WINDOW, seams.OVERLAP, seams.MERGED = window, overlap, merged
    try:
        windows, data = seams.Windows("f"), text.encode()
        joiner = seams.Joiner(lambda one: encoder.encode([one])[0], encoder.measure)
        cut = [list(windows.feed(data[at : at + 777])) for at in range(0, len(data), 777)] + [list(windows.feed(b"", True))]
        ids = [part for one in itertools.chain(*cut) for part in joiner.add(one.text, one.overlap, encoder.encode([one.text])[0])]
        ids += joiner.finish()
        return list(itertools.chain(*ids)), sum(map(len, cut)), joiner.n_seams
    finally:
        seams.WINDOW, seams.OVERLAP, seams.MERGED = before


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_windows_has_the_tokens_of_the_whole(tokenizer_files, kind, control):
    encoder = encoders.make_encoder(str(tokenizer_files[0] / kind), None, control)
    for seed in range(30 if os.environ.get("TEST_ALL") == "1" else 3):
        text = made_up_text(seed, 2000)
        ids, n_windows, n_seams = joined(encoder, text)
        assert ids == encoder.encode([text])[0].ids and n_windows > 10 and n_seams == 0


def test_what_cannot_be_cut_is_encoded_whole_or_counted(tokenizer_files):
    encoder = encoders.make_encoder(str(tokenizer_files[0] / "words"), None)
    text = "ab " + "x" * 8000 + " ab cd" * 500  # to this tokenizer one word: no two windows agree inside it
    assert joined(encoder, text)[::2] == (encoder.encode([text])[0].ids, 0)
    ids, _, n_seams = joined(encoder, text, merged=3000)
    assert n_seams > 1 and ids != encoder.encode([text])[0].ids


def test_a_big_text_has_the_tokens_of_the_whole_in_its_shards(tokenizer_files, tmp_path):
    """Windows of their true size; a SentencePiece-like tokenizer used to put a space in front of each piece."""
    folder, tokenizers = tokenizer_files
    text = made_up_text(1, 40_000)
    assert len(text) > 1.5 * seams.WINDOW
    for kind in ("llama-always", "unigram"):
        reference = tokenizers.Tokenizer.from_file(str(folder / kind / "tokenizer.json"))
        plain = text.replace("<", "").replace(">", "")
        (tmp_path / "a.txt").write_text(plain)
        out = str(tmp_path / kind)
        prepare.work([str(tmp_path / "a.txt"), "--tokenizer", str(folder / kind), "--val-fraction", "0", "--out", out])
        with open(os.path.join(out, "a_train_000000.bin"), "rb") as file:
            ids = [i for (i,) in struct.iter_unpack("<H", file.read()[1024:])]
        assert ids == reference.encode(plain, add_special_tokens=False).ids


def test_a_line_end_between_documents_is_the_one_inside_a_text(tokenizer_files):
    for kind in ("gpt2", "llama-always", "llama-normalizer"):
        encoder = encoders.make_encoder(str(tokenizer_files[0] / kind), None)
        whole = encoder.encode(["a\nb"])[0].ids
        assert encoder.newline_ids() == whole[1 : 1 + len(encoder.newline_ids())]
    encoder = encoders.make_encoder(str(tokenizer_files[0] / "wordpiece"), None)
    with pytest.raises(Failure, match="makes no token of a line end"):
        encoder.newline_ids()


@pytest.mark.parametrize("given, says", [
    ("gpt2-medium", "GPT-2's tokenizer is called gpt2 here"), ("openai-community/gpt2", "called gpt2 here"),
    ("meta-llama/Llama-2-7b-hf", "hf download meta-llama/Llama-2-7b-hf tokenizer.json"), ("cl100k_base", "only gpt2"),
    ("byte", "bytes meant?"), ("nothing.json", "nor a tokenizer.json that is there"),
    ("F/tokenizer.model", "is a SentencePiece model; a tokenizer.json is needed"), ("F/other.model", "SentencePiece's"),
    ("F/vocab.json", "half of GPT-2's older form"), ("F/config.json", "describes a model"),
    ("F/tokenizer_config.json", "holds a tokenizer's settings"), ("F", "without a tokenizer.json; its tokenizer.model is"),
    ("F/empty", "a folder without a tokenizer.json"), ("F/lfs.json", "a Git LFS pointer"), ("F/notes.txt", "begin with {"),
    ("F/x.tiktoken", "tiktoken's ranks"),
])  # fmt: skip
def test_what_is_no_tokenizer_is_called_what_it_is(tmp_path, given, says):
    for name in ("tokenizer.model", "other.model"):
        (tmp_path / name).write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    for name in ("vocab.json", "config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    for name, text in {"notes.txt": "hello", "x.tiktoken": "IQ== 0\n",
                       "lfs.json": "version https://git-lfs.github.com/spec/v1\n"}.items():  # fmt: skip
        (tmp_path / name).write_text(text)
    (tmp_path / "empty").mkdir()
    path = given.replace("F", str(tmp_path)) if given.startswith("F") else given
    with pytest.raises(Failure) as caught:
        encoders.find_tokenizer(path)
    assert says in str(caught.value) and str(caught.value).startswith("--tokenizer " + path)


# ---------------------------------------------------------------------------------------------------------
# Names, and output that does not arrive

NAMES = ["v[2]", "it's a; $HOME é", "st*r?", "~x", '-q"q [!a]', "x" * 238]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_that_prepare_prints_trains_on_its_set(tmp_path, name):
    (tmp_path / "a.txt").write_text("some text to read\n" * 90)
    done = run_script("data/prepare.py", tmp_path / "a.txt", "--name=" + name, "--out", "o [1]", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1]
    assert command.startswith("./train_gpt --preset tiny --train-data ")
    (tmp_path / "train_gpt").symlink_to(PROGRAM)
    done = subprocess.run(command + " --steps 1 --val-every 0 --seq-len 16 --batch-size 2 --n-layer 1 --warmup-steps 0",
                          shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name, says", [
    ("", "plain"), ("a/b", "plain"), (".a", "plain"), ("a\nb", "control"), ("a\\b", "backslash"), ("x" * 239, "at most 238"),
    ("\udcff", "not UTF-8"), ("é" * 120, "at most 238"),
])  # fmt: skip
def test_a_name_that_cannot_work_is_refused(name, says):
    for parse in (prepare.parse_arguments, __import__("language").parse_arguments):
        with pytest.raises(Failure, match="^--name .*" + says):
            parse((["a.txt"] if parse is prepare.parse_arguments else []) + ["--name", name])


def shell(line, folder):
    line = line.replace("PREPARE", "%s %s/data/prepare.py" % (sys.executable, ROOT))
    line = line.replace("LANGUAGE", "%s %s/data/language.py --train-bytes 2000 --val-bytes 1000" % (sys.executable, ROOT))
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("line, says", [
    ("PREPARE a.txt --out o >/dev/full", "prepare.py: cannot write to stdout: No space left on device"),
    ("PREPARE a.txt --out o >&-", "prepare.py: cannot write to stdout: it is closed"),
    ("(sleep 0.05; PREPARE a.txt --out o; echo $? >code) | true; exit $(cat code)", "prepare.py: cannot write to stdout: Broken pipe"),
    ("LANGUAGE --out o >/dev/full", "language.py: cannot write to stdout: No space left on device"),
    ("LANGUAGE --out o >&-", "language.py: cannot write to stdout: it is closed"),
    ("PREPARE --help >/dev/full", "prepare.py: cannot write to stdout: No space left on device"),
    ("LANGUAGE --help >/dev/full", "language.py: cannot write to stdout: No space left on device"),
])  # fmt: skip
def test_a_result_that_does_not_arrive_is_one_line_and_exit_1(tmp_path, line, says):
    (tmp_path / "a.txt").write_text("text\n" * 100)
    done = shell(line, tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(says) and done.stderr.count("\n") == 1, done.stderr
    if "help" not in line:  # the set is there all the same
        assert {path.suffix for path in (tmp_path / "o").iterdir()} == {".bin", ".json", ".tokenizer"}


def test_a_stderr_that_is_closed_or_full_stops_no_work(tokenizer_files, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a <|endoftext|>"}\n')
    for where in ("2>&-", "2>/dev/full"):
        line = "PREPARE a.jsonl --val-fraction 0 --tokenizer %s --out o %s" % (tokenizer_files[0] / "gpt2", where)
        done = shell(line, tmp_path)
        assert done.returncode == 0 and "1 documents" in done.stdout and not done.stderr
    assert shell("PREPARE none.txt 2>/dev/full", tmp_path).returncode == 2


@pytest.mark.parametrize("line, says, code", [
    ("PREPARE a.txt --out a.txt", "--out: a.txt: ?.*: Not a directory|--out: a.txt/a.partial: Not a directory", 2),
    ("PREPARE a.txt --out /proc/nothing/here", "--out: /proc/nothing: No such file or directory", 2),
    ("LANGUAGE --out a.txt/b", "--out: a.txt.*: (Not a directory|File exists)", 2),
    ("PREPARE a.txt --shard-tokens many", "argument --shard-tokens: invalid int value: 'many' ", 2),
    ("PREPARE", "the following arguments are required: FILE", 2),
    ("PREPARE a.txt --val-fraction 0.1 --val-files a.txt", "argument --val-files: not allowed with argument", 2),
    ("LANGUAGE --wat", "unrecognized arguments: --wat", 2),
    ("ulimit -f 8; LANGUAGE --train-bytes 90000 --out o", "o/language.partial: File too large", 1),
    ("ulimit -f 1; PREPARE a.txt --out o", "o/a.partial: File too large", 1),
])  # fmt: skip
def test_what_cannot_be_written_or_understood_is_one_line_and_leaves_nothing(tmp_path, line, says, code):
    (tmp_path / "a.txt").write_text("text\n" * 1000)
    done = shell("trap '' XFSZ; " + line, tmp_path)
    assert done.returncode == code and not done.stdout
    assert re.match(r"(prepare|language)\.py: (%s)[^\n]*\n\Z" % says, done.stderr), done.stderr
    assert not os.path.exists(tmp_path / "o") or not os.listdir(tmp_path / "o")


def test_an_earlier_set_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("0123456789" * 10)
    arguments = [str(tmp_path / "a.txt"), "--out", str(tmp_path / "o"), "--shard-tokens", "20"]
    prepare.work(arguments)
    contents = lambda: {str(path): path.read_bytes() for path in (tmp_path / "o").rglob("*.*") if path.is_file()}  # noqa: E731
    before = contents()
    (tmp_path / "a.txt").write_text("abcdefghij" * 10)
    rename, calls = os.rename, itertools.count()

    def failing(source, target):
        if next(calls) == 9:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(Failure, match="No space left on device"):
        prepare.work(arguments)
    assert contents() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_language_interrupted_is_one_line_and_exit_1(tmp_path, number):
    command = [sys.executable, os.path.join(ROOT, "data/language.py"), "--train-bytes", "50000000", "--out", str(tmp_path / "o")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env=dict(os.environ, PYTHONUNBUFFERED="1"))  # fmt: skip
    for line in iter(process.stderr.readline, ""):
        if line.startswith("language: "):  # its first line of progress, after two seconds
            break
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 1 and stdout == ""
    assert stderr.splitlines()[-1] == "language.py: interrupted; nothing half-written was left" and "Trace" not in stderr
    assert not (tmp_path / "o").exists() or not os.listdir(tmp_path / "o")
