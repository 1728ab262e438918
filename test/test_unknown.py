"""Is every character for which a tokenizer has no token counted, with its place, whoever encodes; and no other?"""
import collections
import json
import os
import random
import sys

import pytest

from program import ROOT, SMALL, run, run_script, write_shard

tokenizers = pytest.importorskip("tokenizers")
sys.path.insert(0, os.path.join(ROOT, "data"))

import encoders  # noqa: E402
import prepare  # noqa: E402
import seams  # noqa: E402
import unknown  # noqa: E402
from token_bytes import byte_letters  # noqa: E402

LETTERS = "abcdefgh ij\n<|endoftx>"
STRANGE = "éÉß中😀\u0301"
END = "<|endoftext|>"
KINDS = ["leaves-out", "leaves-out-inside", "lacks-a-byte", "lacks-a-fallback", "unknown", "unknown-fused", "unigram"]
WORDS = "a|ab|cab|bad face|head".split("|")


def characters(more=()):
    return {token: i for i, token in enumerate(dict.fromkeys([*LETTERS, *more]))}


def inside(letters):
    """A vocabulary in which a letter that begins a text is spelled otherwise than one inside; é only begins one."""
    return characters([*("##" + letter for letter in letters), "é"])


def make(kind):
    from tokenizers import models, pre_tokenizers

    byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fallback = ["<0x%02X>" % i for i in range(256)]
    model, split = {
        "leaves-out": (models.BPE(characters(["ab", "ba"]), [("a", "b"), ("b", "a")]), None),
        "leaves-out-inside": (models.BPE(inside(LETTERS), [], continuing_subword_prefix="##"), None),
        "lacks-a-byte": (models.BPE(characters(set(byte_letters().values()) - {byte_letters()[0xC3]}), []), byte),
        "lacks-a-fallback": (models.BPE(characters(set(fallback) - {"<0xC3>"}), [], byte_fallback=True), None),
        "unknown": (models.BPE(characters(["<unk>"]), [], unk_token="<unk>"), None),
        "unknown-fused": (models.BPE(characters(["<unk>"]), [], unk_token="<unk>", fuse_unk=True), None),
        "unigram": (models.Unigram([("<unk>", 0.0), *((letter, -3.0) for letter in LETTERS)], 0), None),
        "words": (models.WordLevel({word: i for i, word in enumerate(["<unk>", *WORDS])}, "<unk>"), pre_tokenizers.WhitespaceSplit()),
        "all-bytes": (models.BPE({letter: i for i, letter in enumerate(byte_letters().values())}, []), byte),
        "all-fallbacks": (models.BPE(characters(fallback), [], byte_fallback=True), None),
    }[kind]
    tokenizer = tokenizers.Tokenizer(model)
    if split:
        tokenizer.pre_tokenizer = split
    tokenizer.add_special_tokens([END])
    return tokenizer


def saved(kind, folder):
    make(kind).save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def lost_of(kind, text):
    """The characters for which there is no token, by what the tokenizer was made of."""
    for at, character in enumerate(text):
        bytes_of = character.encode()
        if 0xC3 in bytes_of if kind.startswith("lacks") else character not in LETTERS and (kind, character, at) != ("leaves-out-inside", "é", 0):
            yield at


@pytest.mark.parametrize("kind", KINDS)
def test_every_character_without_a_token_is_counted_and_no_other(kind):
    tokenizer, draw = make(kind), random.Random(kind)
    gaps = unknown.Gaps(tokenizer)
    assert not gaps.is_whole and gaps.becomes == ("<unk>" if kind.startswith("un") else None)
    for _ in range(200):
        text = "".join(draw.choice(draw.choice([LETTERS, LETTERS, STRANGE])) for _ in range(draw.randrange(30)))
        met = unknown.Unknown(gaps.becomes)
        spans = gaps.spans(text, tokenizer.encode(text))
        met.add(text, spans, lambda at: at)
        lost = list(lost_of(kind, text))
        assert met.characters == len(lost), (text, spans)
        if kind == "lacks-a-fallback":
            continue  # the library puts the unknown token behind characters that fall back
        assert [at for span in spans for at in range(*span)] == lost and met.first == (lost[0] if lost else None), (text, spans)
        assert collections.Counter("".join(piece * n for piece, n in met.pieces.items())) == collections.Counter(text[at] for at in lost)


@pytest.mark.parametrize("kind", ["all-bytes", "all-fallbacks"])
def test_a_tokenizer_of_all_bytes_knows_every_text_and_costs_nothing(kind):
    gaps = unknown.Gaps(make(kind))
    assert gaps.is_whole and gaps.spans(STRANGE, None) == []  # no tokens are looked at


def encoded(path, *files, folder, **more):
    return run_script("data/prepare.py", *files, "--tokenizer", path, "--val-fraction", 0, "--out", folder, "--name", "s", **more)


@pytest.mark.parametrize("kind, fate", [("leaves-out", "are left out"), ("unknown", "become <unk>")])
def test_prepare_says_which_and_where_and_the_tokens_are_the_librarys(kind, fate, tmp_path):
    path = saved(kind, tmp_path)
    texts = ["", "abc ", "aéb hé", "é中 a"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "b.txt").write_text("ab\n\ncßé\n")
    done = encoded(path, tmp_path / "a.jsonl", tmp_path / "b.txt", folder=tmp_path)
    (note,) = [line for line in done.stderr.splitlines() if "has no token" in line]
    assert note == (f"prepare.py: note: 6 characters, for which the tokenizer has no token, {fate}: 'é' (4 times), '中' (1 times), "
                    f"'ß' (1 times); the first in {tmp_path}/a.jsonl:3")  # fmt: skip
    facts = json.loads((tmp_path / "s.json").read_text())["unknown"]
    assert facts == {"characters": 6, "become": "<unk>" if kind == "unknown" else None, "first": f"{tmp_path}/a.jsonl:3",
                     "pieces": {"é": 4, "中": 1, "ß": 1}}  # fmt: skip
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    ids = [tokenizer.encode(text).ids for text in (*texts[1:], "ab\n\ncßé\n")]
    wanted = ids[0] + [one for more in ids[1:] for one in [tokenizer.token_to_id(END), *more]]
    assert list(memoryview((tmp_path / "s_train_000000.bin").read_bytes()[1024:]).cast("H")) == wanted
    done = encoded(path, tmp_path / "b.txt", folder=tmp_path)
    assert f"2 characters, for which the tokenizer has no token, {fate}: 'ß' (1 times), 'é' (1 times); the first in {tmp_path}/b.txt:3" in done.stderr
    (tmp_path / "b.txt").write_text("abc\n")
    assert "no token" not in encoded(path, tmp_path / "b.txt", folder=tmp_path).stderr
    assert json.loads((tmp_path / "s.json").read_text())["unknown"] == {"characters": 0, "become": facts["become"], "first": None, "pieces": {}}


def test_a_control_token_in_words_is_no_gap_where_control_tokens_are_meant(tmp_path):
    tokenizer = make("unknown")
    tokenizer.add_special_tokens(["<unk>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (one,) = encoders.make_encoder(str(tmp_path / "tokenizer.json"), None, control=True).encode(["a<unk>é"])
    assert one.gaps == [(6, 7)]


@pytest.mark.parametrize("kind", ["words", "leaves-out"])
def test_a_text_in_windows_has_the_gaps_of_the_whole(kind, tmp_path, monkeypatch):
    """A word that a window's edge cuts is unknown there, and known in the window beside it."""
    path, draw = saved(kind, tmp_path), random.Random(kind)
    text = "".join(draw.choice([*"|".join(WORDS).replace(" ", "|").split("|"), "é", "zé"]) + draw.choice(" \n") for _ in range(3000))
    counts = []
    for window, overlap in ((1 << 17, 1 << 11), (500, 101), (300, 60)):
        monkeypatch.setattr(seams, "WINDOW", window)
        monkeypatch.setattr(seams, "OVERLAP", overlap)
        encoder = encoders.make_encoder(str(path), None)
        writer = prepare.Writer(encoder, "none", type("", (), {"update": lambda *_: None}), 0)
        (tmp_path / "t.txt").write_text(text)
        writer.write([prepare.Source(str(tmp_path / "t.txt"))], type("", (), {"write": lambda *_: None}))
        counts.append(writer.unknown.facts())
    assert counts[0] == counts[1] == counts[2] and counts[0]["characters"] > 100
    first = min(map(text.index, ["é", "z", *["bad", "face"] * (kind == "words")]))
    assert counts[0]["first"] == f"{tmp_path}/t.txt:{1 + text.count(chr(10), 0, first)}"


def test_fetch_says_it_of_all_files(tmp_path):
    path = saved("leaves-out", tmp_path)
    (tmp_path / "repository").mkdir()
    for i, texts in enumerate((["ab", "cd"], ["", "aé", "ß"], ["é é"])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / "repository" / f"{i}.jsonl").write_text(lines)
    (tmp_path / "r.json").write_text(json.dumps({"train": ["*.jsonl"]}))
    done = run_script("data/fetch.py", tmp_path / "r.json", "--from", tmp_path / "repository", "--tokenizer", path, "--workers", 2,
                      "--name", "s", "--out", tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (f"fetch.py: note: 4 characters, for which the tokenizer has no token, are left out: 'é' (3 times), 'ß' (1 times); the first in "
            f"{tmp_path}/repository/1.jsonl:2") in done.stderr  # fmt: skip
    assert f"; left out: 1 empty (first: {tmp_path}/repository/1.jsonl:1)" in done.stdout
    assert json.loads((tmp_path / "s.json").read_text())["unknown"]["pieces"] == {"é": 3, "ß": 1}


def test_prompts_and_questions_say_it_too(tmp_path):
    path = saved("leaves-out", tmp_path)
    size = make("leaves-out").get_vocab_size()
    write_shard(tmp_path / "a.bin", [i % 10 for i in range(200)])
    run(*SMALL, "--vocab-size", size, "--train-data", tmp_path / "a.bin", "--steps", 1, "--out", tmp_path / "run")
    with open(tmp_path / "run" / "latest" / "tokenizer.json", "w") as file:
        file.write(path.read_text())
    script = ["scripts/generate.py", tmp_path / "run", "--max-new-tokens", 2]
    note = "generate.py: note: %s, for which the tokenizer has no token, are left out: %s; the first in %s\n"
    done = run_script(*script, "aéb")
    assert done.returncode == 0 and done.stderr.startswith(note % ("1 characters", "'é' (1 times)", "the prompt")), done.stderr
    assert "note" not in run_script(*script, "ab").stderr
    (tmp_path / "p.txt").write_text("ab\ncé\nßa\n")
    done = run_script(*script, "--file", tmp_path / "p.txt")
    assert note % ("2 characters", "'é' (1 times), 'ß' (1 times)", f"{tmp_path}/p.txt:2") in done.stderr and done.stderr.count("note") == 1
    (tmp_path / "q.jsonl").write_text('{"context": "ab", "choices": ["c", "d"], "answer": 0}\n{"context": "cé", "target": "dß"}\n')
    (tmp_path / "l.jsonl").write_text('{"context": "ab", "choices": ["c", "dé"], "answer": 0}\n')
    for file, says in (("l.jsonl", "1 characters"), ("q.jsonl", "2 characters")):
        done = run_script("data/prepare_eval.py", "jsonl", tmp_path / file, "--tokenizer", path, "--out", tmp_path / "out.jsonl")
        place = f"{tmp_path}/{file}:{2 if file[0] == 'q' else 1}"
        assert done.returncode == 0 and says in done.stderr and done.stderr.endswith(f"the first in {place}\n"), done.stderr
