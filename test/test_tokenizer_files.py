"""The promises of a tokenizer's files: a table of bytes that decodes as the tokenizer does, a folder that AutoTokenizer
takes, one JSON for bytes, GPT-2 by its older form; and what is none of these is one line."""
import functools
import hashlib
import json
import os
import random
import sys

import pytest

from program import ROOT, run_script

sys.path.insert(0, os.path.join(ROOT, "data"))

import encoders  # noqa: E402
import pretrained_tokenizer  # noqa: E402
import sources  # noqa: E402
import token_bytes  # noqa: E402
import tokenizer_files  # noqa: E402
import train_tokenizer  # noqa: E402
from console import Failure  # noqa: E402

SAMPLES = ["Hello, world!", " two  spaces\n\tand a tab\r\n", "naïve Übergröße Ж 中文 🙂👍🏽", "x = 3.14159;  # ½", "Ā\u0120▁<0x41>", ""]


def text(seed, n_words=600):
    draw = random.Random(seed)
    words = ["".join(draw.choice("aeiou stnr lé中Ж🙂0123.,'\n") for _ in range(draw.randint(1, 9))) for _ in range(200)]
    return " ".join(draw.choice(words) for _ in range(n_words))


def made(kind):
    """A tokenizer of each kind whose tokens stand for bytes, and of some whose do not."""
    tokenizers = pytest.importorskip("tokenizers")
    return tokenizers.Tokenizer.from_str(made_json(kind))


@functools.lru_cache(maxsize=None)
def made_json(kind, vocab_size=500):
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    options = {"vocab_size": vocab_size, "show_progress": False, "special_tokens": ["<unk>", "<s>", "</s>"]}
    if kind in ("gpt2", "llama3"):
        tokenizer = train_tokenizer.build(kind)
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    elif kind.startswith("llama2"):
        tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        if kind == "llama2":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind.split("-")[1], split=False)
        strip = [] if kind == "llama2-never" else [decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
        options["special_tokens"] += ["<0x%02X>" % byte for byte in range(256)]
        trainer = trainers.BpeTrainer(max_token_length=16, **options)
    elif kind == "unigram":
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **options)
    else:
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece() if kind == "wordpiece" else None
        trainer = trainers.WordPieceTrainer(**options)
    tokenizer.train_from_iterator([text(seed) for seed in range(3)], trainer)
    if kind.startswith("llama2"):  # trained as special so that they are there; in Llama's own file they are ordinary
        definition = json.loads(tokenizer.to_str())
        definition["added_tokens"] = [one for one in definition["added_tokens"] if not one["content"].startswith("<0x")]
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition))
    tokenizer.add_tokens([" two words "])
    return tokenizer.to_str()


def folder_of(tokenizer, path):
    path.mkdir()
    tokenizer.save(str(path / "tokenizer.json"))
    return path


TABLED = {"gpt2": False, "llama3": False, "llama2": True, "llama2-first": True, "llama2-never": False, "unigram": True}


@pytest.mark.parametrize("kind", TABLED)
def test_the_table_decodes_as_the_tokenizer_does(kind, tmp_path):
    tokenizer = made(kind)
    done = run_script("data/token_bytes.py", folder_of(tokenizer, tmp_path / "t"))
    assert done.returncode == 0, done.stderr
    table, metadata = token_bytes.read_container(tmp_path / "t" / "token_bytes.safetensors")
    end = tokenizer.token_to_id("</s>")
    assert metadata == {"format": "token_bytes", "strip_leading_space": str(TABLED[kind]).lower(), "end_of_document": str(end)}
    assert len(table) == tokenizer.get_vocab_size() and table[end] == b"" and table[-1].strip() == b"two words"
    unknown = tokenizer.token_to_id("<unk>")
    for sample in [*SAMPLES, text(9)]:
        ids = tokenizer.encode(sample, add_special_tokens=False).ids
        assert token_bytes.text_of(ids, table, TABLED[kind]).strip() == tokenizer.decode(ids).strip()
        assert unknown in ids or token_bytes.text_of(ids, table, TABLED[kind]).strip() == (
            sample if kind in ("gpt2", "llama3") else sample.replace("▁", " ")).strip()


def test_the_table_is_a_safetensors_file(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    table = [b"", b"a", b"\xff" * 300, b""]
    (tmp_path / "t").write_bytes(token_bytes.container(table, True, 3))
    tensors = numpy.load_file(tmp_path / "t")
    assert tensors["offsets"].dtype == "int64" and tensors["bytes"].dtype == "uint8"
    assert bytes(tensors["bytes"]) == b"".join(table) and list(tensors["offsets"]) == [0, 0, 1, 301, 301]
    assert token_bytes.read_container(tmp_path / "t") == (table, {
        "format": "token_bytes", "strip_leading_space": "true", "end_of_document": "3"})  # fmt: skip


@pytest.mark.parametrize("kind, why", [("wordpiece", "decoder WordPiece"), ("none", "it has no decoder")])
def test_a_tokenizer_whose_tokens_are_no_fixed_bytes_has_no_table_and_says_so(kind, why, tmp_path):
    folder = folder_of(made(kind), tmp_path / "t")
    done = run_script("data/token_bytes.py", folder)
    assert done.returncode == 2 and why in done.stderr and done.stderr.count("\n") == 1
    assert os.listdir(folder) == ["tokenizer.json"]
    (tmp_path / "a.txt").write_text(text(1))
    done = run_script("data/prepare.py", tmp_path / "a.txt", "--tokenizer", folder, "--out", tmp_path)
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and why in done.stderr
    assert sorted(os.listdir(tmp_path / "a.tokenizer")) == ["tokenizer.json", "tokenizer_config.json"]


def names(tokenizer):
    return [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]


def test_a_table_that_is_not_what_the_tokenizer_says_is_refused():
    tokenizer = made("gpt2")
    definition = json.loads(tokenizer.to_str())
    table, strip = token_bytes.token_table(definition["decoder"], names(tokenizer), {0, 1, 2})
    token_bytes.verify(tokenizer, table, strip, {0, 1, 2})
    for wrong in (300, len(table) - 1):
        broken = [*table[:wrong], table[wrong] + b"x", *table[wrong + 1 :]]
        with pytest.raises(token_bytes.NoTable, match="id %d is" % wrong):
            token_bytes.verify(tokenizer, broken, strip, {0, 1, 2})
    other = made("llama2-never")
    wrong_space = {"type": "Replace", "pattern": {"String": "▁"}, "content": "_"}
    table, strip = token_bytes.token_table(wrong_space, names(other), {0, 1, 2})
    with pytest.raises(token_bytes.NoTable, match="is .* to its own decoder"):
        token_bytes.verify(other, table, strip, {0, 1, 2})


# ---------------------------------------------------------------------------------------------------------
# Bytes


def test_bytes_have_a_tokenizer_json_in_which_byte_b_is_id_b():
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_files.bytes_json().decode())
    assert tokenizer.get_vocab_size() == 256
    for sample in [*SAMPLES, "".join(map(chr, range(1, 0x800))), "a\0b Ā\0"]:
        ids = tokenizer.encode(sample).ids
        assert bytes(ids) == sample.encode() and tokenizer.decode(ids, skip_special_tokens=False) == sample
        assert tokenizer.decode(ids) == sample.replace("\0", "")
    # one text for ever: sets are told apart by it
    digest = hashlib.sha256(tokenizer_files.bytes_json()).hexdigest()
    assert digest == "234173b0b7af70e40ada46240d463f2d11a944bdee2cf430b57de7f74d04fce4"


def test_a_set_of_bytes_brings_its_tokenizer_without_any_package(tmp_path):
    (tmp_path / "a.txt").write_text("some text " * 50)
    (tmp_path / "tokenizers.py").write_text("raise ImportError")
    environment = dict(os.environ, PYTHONPATH=str(tmp_path))
    for script, name in ((["data/prepare.py", tmp_path / "a.txt"], "a"),
                         (["data/language.py", "--train-bytes", 2000, "--val-bytes", 1000], "language")):  # fmt: skip
        done = run_script(*script, "--out", tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / (name + ".tokenizer")
        assert sorted(os.listdir(folder)) == ["token_bytes.safetensors", "tokenizer.json", "tokenizer_config.json"]
        facts = json.loads((tmp_path / (name + ".json")).read_text())
        assert facts["tokenizer_sha256"] == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
        assert (facts["tokenizer"], facts["vocab_size"]) == ("bytes", 256)
        assert facts["end_of_document"] == (0 if name == "a" else None)
        table, metadata = token_bytes.read_container(folder / "token_bytes.safetensors")
        assert table == [b"", *(bytes([byte]) for byte in range(1, 256))] and metadata["end_of_document"] == "0"
    assert not list(tmp_path.glob("*.partial"))


# ---------------------------------------------------------------------------------------------------------
# A folder for everybody


def test_what_lay_beside_the_tokenizer_is_carried_and_names_its_end(tmp_path):
    folder = folder_of(made("gpt2"), tmp_path / "smollm")
    beside = {"eos_token": {"content": "<s>", "special": True}, "pad_token": "</s>", "chat_template": "{{ messages }}",
              "tokenizer_class": "GPT2Tokenizer", "auto_map": {"AutoTokenizer": ["evil.py", None]}, "bos_token": 5}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(beside))
    (tmp_path / "a.txt").write_text(text(1))
    command = ["data/prepare.py", tmp_path / "a.txt", "--tokenizer", folder, "--out", tmp_path]
    assert run_script(*command).returncode == 0
    config = json.loads((tmp_path / "a.tokenizer" / "tokenizer_config.json").read_text())
    assert config == {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, "eos_token": "<s>",
                      "pad_token": "</s>", "chat_template": "{{ messages }}"}  # fmt: skip
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["tokenizer"] == "smollm" and facts["end_of_document"] == 1
    assert (tmp_path / "a.tokenizer" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert run_script(*command, "--eot-token", "</s>", "--separator", "newline").returncode == 0
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["end_of_document"] is None and facts["eot_token"] == 2
    for wrong in ("[]", "{", "\0"):
        (folder / "tokenizer_config.json").write_text(wrong)
        done = run_script(*command)
        assert done.returncode == 2 and "tokenizer_config.json: not" in done.stderr and done.stderr.count("\n") == 1


def wrong_tokenizer(path, case):
    """Makes a tokenizer.json wrong."""
    data = path.read_bytes()
    if case == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif case == "huge":
        os.truncate(path, (1 << 28) + 1)
    elif case == "no UTF-8":
        path.write_bytes(data.replace(b"two words", b"two\xffword"))
    elif case == "unknown":
        path.write_text(json.dumps(dict(json.loads(data), model={"type": "Morphemes", "vocab": {}})))
    elif case == "empty":
        path.write_text(json.dumps(dict(json.loads(data), added_tokens=[], model={"type": "BPE", "vocab": {}, "merges": []})))
    elif case == "far":
        path.write_text(json.dumps(dict(json.loads(data), model={"type": "BPE", "vocab": {"a": 4_000_000_000}, "merges": []})))
    elif case == "nested":
        path.write_text('{"a": ' + "[" * 100_000)


@pytest.mark.parametrize("case, says", [
    ("cut", "not a tokenizer.json"), ("huge", "268435457 bytes; the most is"), ("no UTF-8", "not a tokenizer.json"),
    ("unknown", "not a tokenizer.json"), ("empty", "its vocabulary is empty"), ("far", "its largest id is 4000000000"),
    ("nested", "not a tokenizer.json"),
])  # fmt: skip
def test_a_tokenizer_json_that_is_wrong_is_one_line_and_leaves_nothing(case, says, tmp_path):
    folder = folder_of(made("gpt2"), tmp_path / "t")
    wrong_tokenizer(folder / "tokenizer.json", case)
    (tmp_path / "a.txt").write_text("text " * 50)
    for script in (["data/prepare.py", tmp_path / "a.txt", "--tokenizer", folder, "--out", tmp_path / "o"], ["data/token_bytes.py", folder]):
        done = run_script(*script)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "o").exists() and os.listdir(folder) == ["tokenizer.json"]


# ---------------------------------------------------------------------------------------------------------
# GPT-2 by its older form


@pytest.fixture
def halves(tmp_path):
    """(a folder with vocab.json and merges.txt, the tokenizer that they are of)"""
    tokenizer = made("gpt2")
    definition = json.loads(tokenizer.to_str())
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if token != " two words "}
    folder = tmp_path / "gpt2-small"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "".join("%s %s\n" % tuple(pair) for pair in definition["model"]["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    return folder, tokenizer


def same_tokens(encoder, tokenizer):
    for sample in [*SAMPLES, text(4)]:
        assert encoder.encode([sample])[0].ids == tokenizer.encode(sample, add_special_tokens=False).ids


def test_vocab_json_and_merges_txt_are_a_tokenizer(halves):
    folder, tokenizer = halves
    for given in (folder, folder / "vocab.json", folder / "merges.txt"):
        encoder = encoders.make_encoder(str(given), None)
        assert (encoder.name, encoder.end) == ("gpt2-small", "</s>")
        same_tokens(encoder, tokenizer)
    files, no_table = tokenizer_files.tokenizer_files(encoder)
    assert no_table is None and json.loads(files["tokenizer.json"])["added_tokens"][0]["content"] == "<unk>"
    os.rename(folder / "vocab.json", folder / "encoder.json")
    os.rename(folder / "merges.txt", folder / "vocab.bpe")
    same_tokens(encoders.make_encoder(str(folder), None), tokenizer)


@pytest.mark.parametrize("name, content, says", [
    ("merges.txt", "a b c\n", "'a b c' is no merge of two tokens"), ("merges.txt", "a zzzz\n", "is no merge of two tokens"),
    ("merges.txt", "\udcff", "not as GPT-2's are"), ("vocab.json", "[]", "not tokens and their ids"), ("vocab.json", "{", "not as"),
    ("vocab.json", '{"a": 0}', "255 of the 256 bytes are not in it"), ("vocab.json", '{"a": -1}', "not tokens"),
])  # fmt: skip
def test_halves_that_do_not_fit_are_one_line(halves, name, content, says):
    (halves[0] / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(Failure, match=says):
        encoders.make_encoder(str(halves[0]), None)


def test_gpt2_comes_from_hugging_faces_cache_or_says_what_to_bring(halves, tmp_path, monkeypatch):
    folder, tokenizer = halves

    def no_tiktoken(*arguments, **more):
        raise Failure("--tokenizer gpt2 needs the Python package tiktoken (pip install it)")

    monkeypatch.setattr(encoders, "TiktokenEncoder", no_tiktoken)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(Failure, match="nor is openai-community/gpt2 in .*hub: where there is a network.* or vocab.json and merges.txt"):
        encoders.make_encoder("gpt2", None)
    snapshot = tmp_path / "hub" / "models--openai-community--gpt2" / "snapshots" / "607a30d"
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    encoder = encoders.make_encoder("gpt2", None)
    assert encoder.name == "gpt2"
    same_tokens(encoder, tokenizer)


def test_a_bpe_by_ranks_becomes_a_tokenizer_json_with_the_same_tokens():
    """As tiktoken has GPT-2: bytes → rank, from which the merges follow."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = made("gpt2")
    definition = json.loads(tokenizer.to_str())
    special = {token: tokenizer.token_to_id(token) for token in ("<unk>", "<s>", "</s>")}
    model = definition["model"]["vocab"]
    ranks = {token_bytes.byte_level(token): i for token, i in model.items() if token not in special}
    again = tokenizers.Tokenizer.from_str(pretrained_tokenizer.from_ranks(ranks, special).decode())
    assert json.loads(again.to_str())["model"]["merges"] == definition["model"]["merges"]
    for sample in [*SAMPLES, text(4)]:
        assert again.encode(sample).ids == tokenizer.encode(sample, add_special_tokens=False).ids


def test_tiktokens_gpt2_travels_too():
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    ranks = {bytes([i]): i for i in range(256)}
    ranks.update({b"th": 256, b"the": 257, b" the": 258, "é".encode(): 259})
    split = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    encoding = tiktoken.Encoding("toy", pat_str=split, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 260})
    files, no_table = tokenizer_files.tokenizer_files(encoders.TiktokenEncoder(encoding))
    again = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    for sample in [*SAMPLES, "the other thé they'll  the\n\n the", text(2)]:
        assert again.encode(sample).ids == encoding.encode_ordinary(sample)
    assert no_table is None and again.token_to_id("<|endoftext|>") == 260
    assert json.loads(files["tokenizer_config.json"])["eos_token"] == "<|endoftext|>"
    assert b'"end_of_document":"260"' in files["token_bytes.safetensors"]


# ---------------------------------------------------------------------------------------------------------
# A tokenizer of one's own


@pytest.mark.parametrize("split", ["gpt2", "llama3"])
def test_a_trained_tokenizer_is_the_same_each_time_and_prepares(split, tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "a.txt").write_text(text(1) * 10)
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text(seed, 300)}) + "\n" for seed in range(9)))
    digests = set()
    for threads, out in ((1, "one"), (3, "three")):
        done = run_script("data/train_tokenizer.py", tmp_path / "a.txt", tmp_path / "b.jsonl", "--vocab-size", 600, "--split", split,
                          "--out", tmp_path / out, env=dict(os.environ, RAYON_NUM_THREADS=str(threads)))  # fmt: skip
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert ": 600 ids, of 10 documents, " in done.stdout
        assert sorted(os.listdir(tmp_path / out)) == ["token_bytes.safetensors", "tokenizer.json", "tokenizer_config.json"]
        digests.add(hashlib.sha256((tmp_path / out / "tokenizer.json").read_bytes()).hexdigest())
    assert len(digests) == 1
    done = run_script("data/prepare.py", tmp_path / "b.jsonl", "--tokenizer", tmp_path / "one", "--val-fraction", 0, "--out", tmp_path)
    facts = json.loads((tmp_path / "b.json").read_text())
    assert done.returncode == 0 and (facts["vocab_size"], facts["end_of_document"]) == (600, 599)
    table, _ = token_bytes.read_container(tmp_path / "one" / "token_bytes.safetensors")
    from shards import read_shard

    ids = list(read_shard(tmp_path / "b_train_000000.bin")[1])
    documents = [list(map(int, part.split())) for part in " ".join(map(str, ids)).split(" 599 ")]
    assert [b"".join(table[i] for i in one).decode() for one in documents] == [text(seed, 300) for seed in range(9)]
    if split == "llama3":
        assert not any(len(token.strip()) > 3 and token.strip().isdigit() for token in table)


def test_texts_to_train_on_are_the_documents_cut_between_words(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE_BYTES", 50)
    for content in (text(5), "é" * 200, ""):
        (tmp_path / "a.txt").write_text(content)
        texts = train_tokenizer.Texts([sources.Source(str(tmp_path / "a.txt"))])
        parts = list(texts)
        assert "".join(parts) == content and texts.n_bytes == len(content.encode()) and texts.n_documents == bool(content)
        assert "é" in content[:2] or all(part[0] in " \n" for part in parts[1:]) and (len(parts) > 9 or not content)


def test_a_tokenizer_that_cannot_be_trained_is_one_line_and_leaves_nothing(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{')
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "a.txt").write_text("abc " * 20)
    for arguments, code, says in (
        (["bad.jsonl"], 2, "bad.jsonl:2: not JSON"), (["empty.txt"], 2, "the input holds no text"), (["none.txt"], 2, "No such file"),
        (["a.txt", "--vocab-size", 200], 2, "--vocab-size 200: 258 to"), (["a.txt", "--min-frequency", 0], 2, "--min-frequency 0"),
    ):  # fmt: skip
        done = run_script("data/train_tokenizer.py", *arguments, "--out", "o", cwd=tmp_path)
        assert done.returncode == code and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "o").exists()
    done = run_script("data/train_tokenizer.py", "a.txt", "--out", "o", cwd=tmp_path)
    assert done.returncode == 0 and "the text has no more than 2" in done.stderr and done.stderr.count("\n") == 1
    done = run_script("data/train_tokenizer.py", "a.txt", "--out", "a.txt/o", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("train_tokenizer.py: --out: ")
