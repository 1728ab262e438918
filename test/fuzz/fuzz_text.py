#!/usr/bin/env python3
"""Does whatever reads text and tokenizers end in the right tokens, or in one clean line?

    test/fuzz/fuzz_text.py TARGET [--seconds S | --runs N] [--seed N] [--keep DIR]
    test/fuzz/fuzz_text.py TARGET --replay FILE...

TARGET is tokenizer (a tokenizer.json; needs the package tokenizers), jsonl, json, packed (.gz, .xz, .bz2), pieces or
shard: the parsers of data/. Inputs are real files, broken by a seeded mutator that knows JSON's structure: the same seed, the
same inputs. Prints one line at the end; exit status 1, and the input kept in DIR, after the first that ends in
anything but a right result or a Failure of one line. Standard library only.
"""
import argparse
import bz2
import copy
import faulthandler
import gzip
import importlib.util
import json
import lzma
import os
import random
import sys
import tempfile
import time
import unicodedata

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "data"))

import encoders  # noqa: E402
import records  # noqa: E402
import seams  # noqa: E402
import shards  # noqa: E402
import sources  # noqa: E402
from console import Failure  # noqa: E402

SECONDS_EACH = 10  # an input that takes longer hangs
TEXTS = ["", "a", "ab ba", "ab" * 40, "the cat\n sat  on <|endoftext|> it's", "a</s>b <s>", "\u00e9\u0301 \U0001f600 \ufeff\u4e2d", "\0\x7f\t"]
VALUES = [None, True, False, 0, 1, -1, 2, 255, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**64, 0.5, -0.0, 1e308,
          "", "a", "ab", "\0", "\u00e9", "?", "[UNK]", "</s>", "x\ny", "AAAA", "(", "(a*)*", "\\p{L}", [], {}, [[]]]  # fmt: skip


def tokenizers_of_every_kind():
    letters = {c: i for i, c in enumerate("?abcdefghijklmnopqrstuvwxyz")}
    models = [
        {"type": "WordLevel", "vocab": {"?": 0, "a": 1, "the": 2, "</s>": 3}, "unk_token": "?"},
        {"type": "BPE", "dropout": None, "unk_token": "?", "continuing_subword_prefix": None, "end_of_word_suffix": None,
         "fuse_unk": False, "byte_fallback": False, "vocab": dict(letters, ab=27, th=28, the=29),
         "merges": ["a b", "t h", "th e"]},
        {"type": "Unigram", "unk_id": 0, "vocab": [["?", 0.0], ["a", -1.0], ["b", -2.0], ["</s>", 0.0], ["the", -1.5]],
         "byte_fallback": False},
        {"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##", "max_input_chars_per_word": 20,
         "vocab": dict(letters, **{"##b": 27, "##he": 28})},
    ]  # fmt: skip
    parts = {
        "normalizer": [None, None, {"type": "Lowercase"}, {"type": "NFC"}, {"type": "NFKC"}, {"type": "Strip",
            "strip_left": True, "strip_right": True}, {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "_"}, {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
            {"type": "Precompiled", "precompiled_charsmap": "AAAA"}],
        "pre_tokenizer": [None, {"type": "Whitespace"}, {"type": "ByteLevel", "add_prefix_space": False,
            "trim_offsets": True, "use_regex": True}, {"type": "Split", "pattern": {"Regex": "\\s+"},
            "behavior": "Isolated", "invert": False}, {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"},
            {"type": "Digits", "individual_digits": True}],
        "post_processor": [None, {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {}}, {"type": "BertProcessing", "sep": ["</s>", 3], "cls": ["?", 0]}],
        "decoder": [None, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}],
        "truncation": [None, {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}],
        "padding": [None, {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 70000,
            "pad_type_id": 0, "pad_token": "[PAD]"}],
        "added_tokens": [[], [{"id": 3, "content": "</s>", "single_word": False, "lstrip": True, "rstrip": False,
            "normalized": True, "special": True}], [{"id": 40, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": True}]],
    }  # fmt: skip
    return [dict({"version": "1.0", "model": model}, **{key: random.choice(value) for key, value in parts.items()})
            for model in models for _ in range(4)]  # fmt: skip


def places(value, path=()):
    """Every place in a JSON value, as (container, key)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from places(inner)


def break_json(value, others):
    """One edit somewhere inside: another value, one from elsewhere, one gone, one twice, another name."""
    container, key = random.choice(list(places(value)) or [(value, None)])
    if key is None:
        return
    deed = random.randrange(6)
    if deed == 0:
        del container[key]
    elif deed == 1:
        container[key] = copy.deepcopy(random.choice(VALUES))
    elif deed == 2:
        inner, at = random.choice(list(places(random.choice(others))))
        container[key] = copy.deepcopy(inner[at])
    elif deed == 3 and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif deed == 4 and isinstance(container[key], (int, float)):
        container[key] += random.choice((-1, 1, 1000, 65536, 2**31))
    elif deed == 5 and isinstance(container, dict):
        container[random.choice([str(v) for v in VALUES] + list(container))] = container.pop(key)


def break_bytes(data):
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randrange(len(data) + 1)
        deed = random.randrange(5)
        if deed == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif deed == 1:
            data[at:at] = random.choice((b"\0", b"\xff", b"\xc3", b"\n", b'"', b"\\ud800", b"{", b"[", b"1e999"))
        elif deed == 2:
            del data[at : at + random.choice((1, 4, 64))]
        elif deed == 3:
            del data[at:]
        else:
            data[at:at] = data[at : at + random.choice((1, 16))] * random.choice((1, 2, 2000))
    return bytes(data)


def special_ids(path):
    """The control tokens of a tokenizer.json by the library's own account: literal → id, without what means unknown."""
    import tokenizers

    with encoders.library_errors(path):
        found = tokenizers.Tokenizer.from_file(path)
        model = json.loads(found.to_str())["model"]
    unknown = model.get("unk_token"), model.get("unk_id")
    return {token.content: i for i, token in found.get_added_tokens_decoder().items()
            if token.special and token.content not in unknown and i not in unknown}  # fmt: skip


class Tokenizer:
    """An encoder: every id in the vocabulary, the same from batch to batch; no text becomes a control token."""

    suffix = ".json"

    def __init__(self):
        self.seeds = tokenizers_of_every_kind()

    def make(self):
        value = copy.deepcopy(random.choice(self.seeds))
        for _ in range(random.choice((0, 1, 1, 2, 4))):
            break_json(value, self.seeds)
        data = json.dumps(value).encode()
        return break_bytes(data) if random.randrange(8) == 0 else data

    @staticmethod
    def run(path, data):
        encoder = encoders.make_encoder(path, None)
        assert 0 < encoder.vocab_size <= encoders.MAX_VOCAB_SIZE
        assert encoder.eot is None or 0 <= encoder.eot < encoder.vocab_size
        special = special_ids(path)
        texts = TEXTS + ["a%s %s%s" % (literal, literal, literal) for literal in list(special)[:9]]
        encoded = encoder.encode(texts)
        assert len(encoded) == len(texts)
        for one in encoded:
            assert all(i < encoder.vocab_size for i in one.ids), (max(one.ids), encoder.vocab_size)
            assert len(one.spans) == len(one.ids)
            assert not set(one.ids).intersection(special.values()), (special, one.ids)
        assert [encoder.encode([text])[0].ids for text in texts] == [one.ids for one in encoded]


def jsonl_lines():
    records = [{"text": text, "id": i, "meta": {"a": [1, None]}} for i, text in enumerate(TEXTS)]
    for record in records:
        for _ in range(random.choice((0, 0, 1, 2))):
            break_json(record, records)
    return b"".join(json.dumps(record).encode() + random.choice((b"\n", b"\n", b"\r\n", b"\n \n")) for record in records)


class Jsonl:
    """The documents are the lines' texts, as one reads them line by line."""

    suffix = ".jsonl"

    @staticmethod
    def make():
        data = jsonl_lines()
        return break_bytes(data) if random.randrange(3) == 0 else data

    @staticmethod
    def run(path, data):
        found = list(sources.Source(path).documents())
        lines = [line for line in data.split(b"\n") if line.strip()]
        assert all(starts for _, starts in found)
        assert [piece.decode() for piece, _ in found] == texts_of(json.loads(line.decode()) for line in lines)


def texts_of(found):
    """What documents records hold: a missing, null or empty text is none."""
    return [text for text in (r.get("text") if isinstance(r, dict) else r for r in found) if text not in (None, "")]


class Json:
    """A list, or values one after the other: the documents are what Python's parser makes of the whole."""

    suffix = ".json"

    @staticmethod
    def make():
        found = [{"text": text, "id": i} for i, text in enumerate(TEXTS)] + random.choice(([], ["a", "b c"]))
        for _ in range(random.choice((0, 0, 1, 2))):
            break_json(found, [found])
        indent = random.choice((None, None, 0, 2))
        if random.randrange(4) == 0:
            data = random.choice(("\n", "", " ")).join(json.dumps(r, indent=indent) for r in found).encode()
        else:
            data = json.dumps(found, indent=indent).encode()
        return break_bytes(data) if random.randrange(3) == 0 else data

    @staticmethod
    def run(path, data):
        records.READ_BYTES = 1 + len(data) % 40
        found = [piece.decode() for piece, _ in sources.Source(path).documents()]
        text, at, whole = data.decode(), 0, []
        while text[at:].strip():
            at = len(text) - len(text[at:].lstrip())
            value, at = json.JSONDecoder().raw_decode(text, at)
            whole.append(value)
        if text.lstrip().startswith("["):
            (whole,) = whole
        assert found == texts_of(whole)


class Packed:
    """A packed text is that text: cut or damaged ones are refused, or their checksum would not be worth its bytes."""

    suffix = ""  # by the first byte
    FORMS = {b"x": (".xz", lzma.compress, lzma.decompress), b"g": (".gz", gzip.compress, gzip.decompress),
             b"b": (".bz2", bz2.compress, bz2.decompress)}  # fmt: skip

    @classmethod
    def make(cls):
        text = random.choice((b"", b"a\n", b"the cat sat\n" * 3000))
        form = random.choice(sorted(cls.FORMS))
        data = form + cls.FORMS[form][1](text)
        return data if random.randrange(4) == 0 else data[:1] + break_bytes(data[1:])

    @classmethod
    def run(cls, path, data):
        extension, _, unpack = cls.FORMS.get(data[:1], cls.FORMS[b"g"])
        name = path + extension
        with open(name, "wb") as file:
            file.write(data[1:])
        try:
            found = list(sources.Source(name).documents())
            assert b"".join(piece for piece, _ in found) == unpack(data[1:])
            assert [starts for _, starts in found] == ([True] + [False] * len(found))[: len(found)]
        finally:
            os.remove(name)


class Pieces:
    """However a text is fed and cut, its windows make up the whole; refused is what is not UTF-8."""

    suffix = ".txt"

    @staticmethod
    def make():
        data = " ".join(random.choices(TEXTS, k=random.randrange(1, 9))).encode()
        return bytes([random.randrange(1, 40)]) + (break_bytes(data) if random.randrange(2) else data)

    @staticmethod
    def run(path, data):
        step, text = max(1, data[0]) if data else 1, data[1:]
        seams.WINDOW, seams.OVERLAP = 2 + step, step // 2 + 1
        windows, found = seams.Windows(path), []
        try:
            for at in range(0, len(text), step):
                found += windows.feed(text[at : at + step])
            found += windows.feed(b"", last=True)
        except Failure:
            try:
                text.decode("utf-8")
            except UnicodeDecodeError:
                raise Failure("as it must be") from None
            raise AssertionError("UTF-8 was refused") from None
        assert "".join(window.text[window.overlap:] for window in found).encode() == text
        for left, right in zip(found, found[1:]):
            assert 0 < right.overlap < len(right.text) and left.text.endswith(right.text[:right.overlap])
        assert "".join(window.text[slice(*window.own())] for window in found).encode() == text


class Shard:
    """What is read is what the bytes say, written again it is the same file."""

    suffix = ".bin"

    @staticmethod
    def make():
        width = random.choice((2, 4))
        tokens = [random.randrange(2 ** (8 * width)) for _ in range(random.randrange(20))]
        return break_bytes(shards.header(width, len(tokens)) + shards.pack_ids(tokens, width))

    @staticmethod
    def run(path, data):
        width, tokens = shards.read_shard(path)
        again = shards.header(width, len(tokens)) + shards.pack_ids(tokens, width)
        assert again[:12] == data[:12] and again[1024:] == data[1024:] and len(again) == len(data)


TARGETS = {"tokenizer": Tokenizer, "jsonl": Jsonl, "json": Json, "packed": Packed, "pieces": Pieces, "shard": Shard}


def is_clean(failure):
    text = str(failure)
    moves = any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text)
    return text and len(text) <= 1000 and not moves and failure.exit_code == 2


def run(target, path, data):
    """True if accepted, False if refused; anything else is an exception. A hang ends the process, with PATH left."""
    with open(path, "wb") as file:
        file.write(data)
    faulthandler.dump_traceback_later(SECONDS_EACH, exit=True)
    try:
        target.run(path, data)
        return True
    except Failure as failure:
        assert is_clean(failure), "not one clean line: %r" % str(failure)
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()


def fuzz(name, target, chosen, path):
    counts, deadline, data = [0, 0], time.monotonic() + chosen.seconds, b""
    try:
        while sum(counts) < chosen.runs if chosen.runs else time.monotonic() < deadline:
            data = target.make()
            counts[run(target, path, data)] += 1
    except BaseException:
        os.makedirs(chosen.keep, exist_ok=True)
        kept = os.path.join(chosen.keep, "crash-%s-%d-%d" % (name, chosen.seed, sum(counts)))
        with open(kept, "wb") as file:
            file.write(data)
        print("%s: FAILED after %d inputs; this one is in %s" % (name, sum(counts), kept), flush=True)
        raise
    print("text_%-13s %9d inputs: %d accepted, %d refused" % (name, sum(counts), counts[1], counts[0]))
    return min(counts) > 0


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", default="build/fuzz")
    parser.add_argument("--replay", nargs="+")
    chosen = parser.parse_args(arguments)
    if chosen.target == "tokenizer" and not importlib.util.find_spec("tokenizers"):
        print("the Python package tokenizers is not here")
        return 0
    random.seed(chosen.seed)
    target = TARGETS[chosen.target]()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "input" + target.suffix)
        for name in chosen.replay or []:
            with open(name, "rb") as file:
                print("%s: %s" % (name, "accepted" if run(target, path, file.read()) else "refused"))
        return 0 if chosen.replay or fuzz(chosen.target, target, chosen, path) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
