"""The promises of data/: formats, exact entropy, errors, nothing half-written."""
import gzip
import hashlib
import itertools
import json
import lzma
import math
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from program import run_script

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data"))

import language  # noqa: E402
import shards  # noqa: E402
from grammar import FRESH, Grammar, GrammarError, Reader, check_unambiguous  # noqa: E402
from grammar import line_entropy_and_length, sample_bytes  # noqa: E402


def prepare(*arguments, **options):
    return run_script("data/prepare.py", *arguments, **options)


def tokens(path):
    """Read without the tools' own reader."""
    data = Path(path).read_bytes()
    head = struct.unpack("<256i", data[:1024])
    assert head[:2] in ((20240520, 1), (20240801, 7)) and not any(head[3:])
    values = struct.unpack("<%d%s" % (head[2], "H" if head[1] == 1 else "I"), data[1024:])
    return list(values)


def train_bytes(folder, name):
    return b"".join(bytes(tokens(path)) for path in sorted(Path(folder).glob(name + "_train_*.bin")))


# ---------------------------------------------------------------------------------------------------------
# Entropy

TOY = {
    "line": [(3, "{x:letter}{:middle}{x}"), (2, "{a:digit}+{b:digit}={a+b}"), "b({:middle})"],
    "letter": [(2, "a"), "b", "ca"],
    "middle": [(2, ""), "-", "-{:letter}."],
    "digit": ["1", "2"],
}


def toy_lines():
    """The same language written out by hand."""
    letter = {"a": 0.5, "b": 0.25, "ca": 0.25}
    middle = {"": 0.5, "-": 0.25, **{"-%s." % text: 0.25 * p for text, p in letter.items()}}
    lines = Counter()
    for (x, p), (m, q) in itertools.product(letter.items(), middle.items()):
        lines[x + m + x + "\n"] += p * q * 3 / 6
    for a, b in itertools.product((1, 2), (1, 2)):
        lines["%d+%d=%d\n" % (a, b, a + b)] += 2 / 6 / 4
    for m, q in middle.items():
        lines["b(%s)\n" % m] += q / 6
    return lines


def block_entropy(lines, n_bytes):
    """The entropy of n bytes cut anywhere from endless text, from the probability of every such block."""
    expected_length = sum(p * len(line) for line, p in lines.items())
    unfinished = Counter()
    for line, p in lines.items():
        for offset in range(len(line)):
            unfinished[line[offset:]] += p / expected_length
    blocks = Counter()
    while unfinished:
        longer = Counter()
        for text, p in unfinished.items():
            if len(text) >= n_bytes:
                blocks[text[:n_bytes]] += p
            else:
                for line, q in lines.items():
                    longer[(text + line)[:n_bytes]] += p * q
        unfinished = longer
    assert abs(sum(blocks.values()) - 1) < 1e-12
    return -sum(p * math.log(p) for p in blocks.values())


@pytest.mark.parametrize("window", [1, 2, 3, 7, 12])
def test_floor_equals_brute_force_over_all_windows_of_a_small_language(window):
    lines = toy_lines()
    expected = (block_entropy(lines, window + 1) - block_entropy(lines, 1)) / window
    reader = Reader(Grammar(TOY))
    # both sum some thousand rounded probabilities, and beliefs are kept to twelve digits
    assert reader.window_floor(window) == pytest.approx(expected, rel=1e-10)


def test_line_entropy_of_a_small_language_is_that_of_its_lines():
    lines = toy_lines()
    nats, length = line_entropy_and_length(Grammar(TOY))
    assert nats == pytest.approx(-sum(p * math.log(p) for p in lines.values()), rel=1e-12)
    assert length == pytest.approx(sum(p * len(line) for line, p in lines.items()), rel=1e-12)


def test_an_ambiguous_grammar_is_refused():
    grammar = Grammar({"line": ["{:x}{:x}"], "x": ["a", "aa"]})
    with pytest.raises(GrammarError, match="ambiguous"):
        check_unambiguous(grammar, Reader(grammar))


@pytest.mark.parametrize(
    "line, complaint",
    [("{:nothing}", "no list"), ("{x", "without a }"), ("{x}", "cannot"), ("{x:a}{x+x}", "cannot")],
)
def test_a_malformed_grammar_is_named(line, complaint):
    with pytest.raises(GrammarError, match=complaint):
        Grammar({"line": [line], "a": ["q"]})


@pytest.fixture(scope="module")
def bundled():
    grammar = Grammar(language.LANGUAGE)
    reader = Reader(grammar)
    text = sample_bytes(grammar, 1_500_000, seed=5)
    return grammar, reader, text


def losses_of_windows(reader, text, starts, window):
    """What the ideal reader really loses on windows of real text, nats per predicted byte."""
    losses = []
    for start in starts:
        belief, nats = reader.anywhere, 0.0
        for t in range(window + 1):
            for byte, p, after in reader.successors(belief):
                if byte == text[start + t]:
                    nats -= math.log(p) if t else 0.0
                    belief = after
                    break
            else:
                raise AssertionError("the text at %d is impossible in its own grammar" % (start + t))
        losses.append(nats / window)
    return losses


def test_floor_is_what_the_ideal_reader_loses_on_generated_text(bundled):
    _, reader, text = bundled
    draw = random.Random(7)
    for window, n_windows in ((128, 1500), (16, 4000)):
        starts = [draw.randrange(len(text) - window - 1) for _ in range(n_windows)]
        losses = losses_of_windows(reader, text, starts, window)
        mean = sum(losses) / n_windows
        error = math.sqrt(sum((x - mean) ** 2 for x in losses) / (n_windows - 1) / n_windows)
        assert error < 0.01 * mean  # so that the check below can fail
        assert abs(mean - reader.window_floor(window)) < 4 * error


def test_floor_falls_towards_the_entropy_rate_as_windows_grow(bundled):
    grammar, reader, _ = bundled
    nats, length = line_entropy_and_length(grammar)
    floors = [reader.window_floor(window) for window in (8, 32, 128, 512, 2048)]
    assert floors == sorted(floors, reverse=True) and floors[-1] > nats / length
    # the excess is what windows lose at their start, once each: it falls as 1/T
    excess = [(floor - nats / length) * window for floor, window in zip(floors, (8, 32, 128, 512, 2048))]
    assert excess[3] == pytest.approx(excess[4], rel=1e-3)


def test_the_bundled_language_is_unambiguous_and_its_newline_ends_all_doubt(bundled):
    grammar, reader, _ = bundled
    check_unambiguous(grammar, reader)
    for belief in range(len(reader._beliefs)):
        for byte, _, after in reader.successors(belief):
            assert (byte == ord("\n")) == (after == FRESH)


def test_the_order2_count_model_stays_far_above_the_floor(bundled):
    _, reader, text = bundled
    loss, _ = language.order2_loss(text[:1_300_000], text[1_300_000:])
    assert loss > 1.5 * reader.window_floor(128)


def test_the_order2_count_model_is_what_the_plainest_loop_computes(bundled):
    train, val, nats = bundled[2][:4000], bundled[2][-120:], 0.0
    for i in range(2, len(val)):
        pair, triple = val[i - 2 : i], val[i - 2 : i + 1]
        n_triple = sum(train.startswith(triple, j) for j in range(len(train) - 2))
        n_pair = sum(train.startswith(pair, j) for j in range(len(train) - 2))
        nats -= math.log((n_triple + 0.01) / (n_pair + 2.56))
    assert language.order2_loss(train, val, ks=(0.01,))[0] == pytest.approx(nats / (len(val) - 2), rel=1e-12)


# ---------------------------------------------------------------------------------------------------------
# The language's text


def test_the_same_seed_gives_the_same_bytes_on_every_python(bundled):
    grammar = bundled[0]
    text = sample_bytes(grammar, 50_000, seed=1)
    assert text == sample_bytes(grammar, 50_000, seed=1) != sample_bytes(grammar, 50_000, seed=2)
    assert sample_bytes(grammar, 100, seed=1) == text[:100]
    # changes with the grammar, and then the floor changes too; on no account with the Python
    digest = hashlib.sha256(text).hexdigest()
    assert digest == "331b1a984fcdcfa9cd861db27228494d423c3edf262fbf1bf3c0ec5b64a90e46"


def test_sentences_keep_the_rules_that_a_model_is_to_learn(bundled):
    lines = bundled[2].decode("ascii").split("\n")[:-1]
    sums = plurals = questions = 0
    for line in lines[:20000]:
        assert re.fullmatch(r"[a-z0-9 ()\[\]+=:?.]+[.]", line)
        for opening, closing in ("()", "[]"):
            assert line.count(opening) == line.count(closing) <= 1
        if match := re.search(r"^(\d) \+ (\d) = (\d+)\.", line):
            sums += 1
            assert int(match[1]) + int(match[2]) == int(match[3])
        if match := re.search(r"has (\d) (\w+) and (\d) more: (\d+) (\w+)\.", line):
            sums += 1
            assert int(match[1]) + int(match[3]) == int(match[4]) and match[2] == match[5]
        if match := re.search(r"^where is (\w+)\? (\w+) is", line):
            questions += 1
            assert match[1] == match[2]
        if match := re.fullmatch(r"(?:one|a|each) (\w+) \(who \w+s [^()]*\) (\w+) .*", line):
            plurals += 1
            assert match[2].endswith("s")
        if match := re.fullmatch(r"(?:few|some|two|these) (\w+s) \(near [^()]*\) (\w+) .*", line):
            plurals += 1
            assert not match[2].endswith("s")
    assert min(sums, plurals, questions) > 100


def test_language_py_writes_shards_and_their_facts(tmp_path):
    sizes = ("--train-bytes", 30000, "--val-bytes", 5000)
    done = run_script("data/language.py", "--out", tmp_path, *sizes, "--seed", 3)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "language.json").read_text())
    grammar = Grammar(language.LANGUAGE)
    val = bytes(tokens(tmp_path / "language_val_000000.bin"))
    assert train_bytes(tmp_path, "language") + val == sample_bytes(grammar, 35000, seed=3)
    assert (facts["train_tokens"], facts["val_tokens"]) == (30000, 5000)
    assert (facts["seed"], facts["vocab_size"], facts["window"]) == (3, 256, 128)
    assert facts["floor_nats_per_token"] == pytest.approx(Reader(grammar).window_floor(128), abs=1e-9)
    assert facts["order2_nats_per_token"] > facts["floor_nats_per_token"]


# ---------------------------------------------------------------------------------------------------------
# Shards and prepare.py

DOCUMENTS = ["to be, or not\n", "ünï©ødé ✓", "", "x" * 300]


def write_jsonl(path, documents=DOCUMENTS, field="text"):
    records = [{"title": "t", field: text} for text in documents]
    lines = [json.dumps(record, ensure_ascii=bool(i % 2)) for i, record in enumerate(records)]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("vocab_size, width", [(256, 2), (65536, 2), (65537, 4)])
def test_shards_round_trip_in_both_widths(tmp_path, vocab_size, width):
    ids = [0, 1, 255, vocab_size - 1] + list(range(200))
    with shards.ShardSet(str(tmp_path), "n", vocab_size, shard_tokens=50) as written:
        written.train.write(shards.pack_ids(ids, width))
        written.commit({})
    paths = sorted(tmp_path.glob("n_train_*.bin"))
    assert [len(tokens(path)) for path in paths] == [50, 50, 50, 50, 4]
    assert sum((tokens(path) for path in paths), []) == ids
    assert shards.read_shard(paths[0])[0] == width and list(shards.read_shard(paths[0])[1]) == ids[:50]


def test_a_text_file_becomes_its_own_bytes_split_as_nanogpt_does(tmp_path):
    text = bytes(range(256)) * 41 + b"tail"
    (tmp_path / "a.txt").write_bytes(text)
    done = prepare(tmp_path / "a.txt", "--out", tmp_path / "o", "--format", "binary")
    assert done.returncode == 0, done.stderr
    cut = int(len(text) * 0.9)
    assert bytes(tokens(tmp_path / "o/a_train_000000.bin")) == text[:cut]
    assert bytes(tokens(tmp_path / "o/a_val_000000.bin")) == text[cut:]
    assert "note: the text itself holds byte 0" in done.stderr


@pytest.mark.parametrize("shard_tokens", [1, 7, 90, 99, 100, 101, 1000])
@pytest.mark.parametrize("fraction", ["0", "0.1", "0.5", "0.99"])
def test_no_token_is_lost_whatever_the_shard_size(tmp_path, shard_tokens, fraction):
    text = random.Random(1).randbytes(100)
    with shards.ShardSet(str(tmp_path), "s", 256, shard_tokens) as written:
        written.train.write(shards.pack_bytes(text))
        written.split_tail(float(fraction))
        written.commit({})
    train, val = (
        [tokens(path) for path in sorted(tmp_path.glob("s_%s_*.bin" % split))] for split in ("train", "val")
    )
    assert bytes(sum(train + val, [])) == text
    assert len(sum(train, [])) == int(100 * (1 - float(fraction)))
    for side in (train, val):
        assert all(len(shard) == shard_tokens for shard in side[:-1]) and all(side)


@pytest.mark.parametrize("packing", ["", ".xz", ".gz"])
@pytest.mark.parametrize("separator, between", [("eot", b"\0"), ("newline", b"\n"), ("none", b"")])
def test_jsonl_gives_documents_with_separators_between(tmp_path, packing, separator, between):
    plain = write_jsonl(tmp_path / "d.jsonl").read_bytes()
    path = tmp_path / ("d.jsonl" + packing)
    path.write_bytes({"": bytes, ".xz": lzma.compress, ".gz": gzip.compress}[packing](plain))
    done = prepare(path, "--separator", separator, "--val-fraction", 0, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert train_bytes(tmp_path, "d") == between.join(text.encode() for text in DOCUMENTS if text)
    facts = json.loads((tmp_path / "d.json").read_text())
    assert facts["train_documents"] == 3 and facts["vocab_size"] == 256 and facts["separator"] == separator
    assert facts["eot_token"] == 0 and facts["shards"] == {"train": ["d_train_000000.bin"], "val": []}


def test_several_files_and_validation_files_of_their_own(tmp_path):
    for name in "abv":
        (tmp_path / (name + ".txt")).write_text(name * 5)
    write_jsonl(tmp_path / "w.jsonl", ["one", "two"], field="content")
    done = prepare(
        *[tmp_path / "a.txt", tmp_path / "b.txt", "--field", "content", "--name", "all", "--out", tmp_path],
        *["--val-files", tmp_path / "v.txt", tmp_path / "w.jsonl"],
    )
    assert done.returncode == 0, done.stderr
    assert train_bytes(tmp_path, "all") == b"aaaaa\0bbbbb"
    assert bytes(tokens(tmp_path / "all_val_000000.bin")) == b"vvvvv\0one\0two"


def test_an_earlier_set_of_the_same_name_is_replaced_whole(tmp_path):
    (tmp_path / "a.txt").write_text("0123456789" * 10)
    (tmp_path / "a_train_notes.bin").write_text("mine")
    for shard_tokens in (10, 1000):
        assert prepare(tmp_path / "a.txt", "--out", tmp_path, "--shard-tokens", shard_tokens).returncode == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"a.txt", "a_train_notes.bin", "a_train_000000.bin", "a_val_000000.bin", "a.json", "a.tokenizer"}


@pytest.mark.parametrize("mine", ['[{"text": "a story of mine, and no set"}]', '{"text": "the same, by itself"}\n', "[" * 100000, ""])
def test_a_file_that_tells_of_no_set_is_not_replaced_least_of_all_the_text_itself(tmp_path, mine):
    (tmp_path / "a.json").write_text(mine)
    (tmp_path / "a.txt").write_text("0123456789" * 10)
    for text in ("a.json", "a.txt"):
        done = prepare(tmp_path / text, "--out", tmp_path)
        assert done.returncode == 2 and re.fullmatch(r"prepare\.py: [^\n]*a\.json is there[^\n]*\n", done.stderr), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.txt"] and (tmp_path / "a.json").read_text() == mine
    assert prepare(tmp_path / "a.txt", "--out", tmp_path, "--name", "b").returncode == 0


ERRORS = {
    "no such file": (["{}/none.txt"], "none.txt: No such file or directory"),
    "a folder": (["{}"], ": is a folder"),
    "a folder with its slash": (["{}/"], ": is a folder"),
    "an empty name": ([""], ": No such file or directory"),
    "a file without a name": (["{}/.txt"], ".txt: gives the set no name; --name NAME does"),
    "what a bad line needs": (["{}/bad.jsonl"], "; --skip-bad leaves such records out and counts them"),
    "empty": (["{}/empty.txt"], "the input holds no text"),
    "too small to split": (["{}/one.txt"], "no tokens for training: 1 bytes of text are too few"),
    "not JSON": (["{}/bad.jsonl"], "bad.jsonl:2: not JSON: "),
    "no object": (["{}/list.jsonl"], "list.jsonl:1: a JSON object is needed"),
    "no field": (["{}/good.jsonl", "--field", "b"], "good.jsonl:1: no field 'b', nor in 1 of 1 records (fields here: text, title)"),
    "no string": (["{}/number.jsonl"], "number.jsonl:1: field 'text' is no string"),
    "not UTF-8": (["{}/latin.jsonl"], "latin.jsonl:1: not UTF-8 at byte 11 of the line"),
    "half a character": (["{}/half.jsonl"], "half.jsonl:1: field 'text' holds half a surrogate pair"),
    "deeply nested": (["{}/deep.jsonl"], "deep.jsonl:1: not JSON: "),
    "truncated xz": (["{}/cut.txt.xz"], "cut.txt.xz: damaged .xz data"),
    "no gzip": (["{}/fake.gz"], "fake.gz: damaged .gz data"),
    "truncated gzip": (["{}/cut.txt.gz"], "cut.txt.gz: damaged .gz data"),
    "fraction": (["{}/one.txt", "--val-fraction", "1"], "--val-fraction 1: "),
    "not a number": (["{}/one.txt", "--val-fraction", "nan"], "--val-fraction nan: "),
    "shard size": (["{}/one.txt", "--shard-tokens", "0"], "--shard-tokens 0: "),
    "name": (["{}/one.txt", "--name", "../x"], "--name '../x'"),
    "tokenizer": (["{}/one.txt", "--tokenizer", "{}/none.json"], "nor a tokenizer.json that is there"),
    "eot": (["{}/one.txt", "--eot-token", "</s>"], "--eot-token is for a tokenizer.json"),
    "bad val file": (["{}/good.jsonl", "--val-files", "{}/bad.jsonl"], "bad.jsonl:2: not JSON: "),
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    noise = random.Random(0).randbytes(5000)
    contents = {
        "empty.txt": b"",
        ".txt": b"abc",
        "one.txt": b"x",
        "bad.jsonl": b'{"text": "a"}\n{"text": "b"\n',
        "list.jsonl": b'["a"]\n',
        "good.jsonl": b'{"title": "t", "text": "abcdefghijkl"}\n',
        "number.jsonl": b'{"text": 5}\n',
        "latin.jsonl": b'{"text": "a\xe9"}\n',
        "half.jsonl": b'{"text": "\\ud800"}\n',
        "deep.jsonl": b"[" * 200_000 + b"\n",
        "cut.txt.xz": lzma.compress(noise)[:3000],
        "fake.gz": b"this is no gzip",
        "cut.txt.gz": gzip.compress(noise)[:3000],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_clear_line_and_exit_2_and_leaves_nothing(bad_files, tmp_path, case):
    arguments, message = ERRORS[case]
    done = prepare(*[a.replace("{}", str(bad_files)) for a in arguments], "--out", tmp_path / "o")
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith("prepare.py: ")
    assert not (tmp_path / "o").exists() or not list((tmp_path / "o").iterdir())


def test_a_full_disk_is_one_clear_line_and_exit_1_and_leaves_nothing(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abcd" * 100_000)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # noqa: E731
    done = prepare(tmp_path / "a.txt", "--out", tmp_path / "o", preexec_fn=limit)
    assert done.returncode == 1
    assert re.fullmatch(r"prepare.py: .*/o/a.partial: File too large\n", done.stderr)
    assert not list((tmp_path / "o").iterdir())


def start_endless(folder):
    """prepare.py on a pipe that gives some text and then no end; returns once its first bytes are on disk."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    program, out = str(ROOT / "data/prepare.py"), str(folder / "o")
    command = [sys.executable, program, str(pipe), "--name", "p", "--out", out]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    feed = open(pipe, "wb")
    feed.write(b"text" * 1_000_000)
    feed.flush()
    shard = folder / "o/p.partial/p_train_000000.bin"
    for _ in range(500):
        if shard.exists() and shard.stat().st_size > 1_000_000:
            return process, feed
        time.sleep(0.02)
    process.kill()
    raise AssertionError("prepare.py wrote nothing in ten seconds")


@pytest.mark.parametrize("kill", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_no_shard(tmp_path, kill):
    (tmp_path / "a.txt").write_text("0123456789")
    process, feed = start_endless(tmp_path)
    other = prepare(tmp_path / "a.txt", "--name", "p", "--out", tmp_path / "o")
    assert other.returncode == 2 and "another run is writing it" in other.stderr
    process.send_signal(kill)
    _, stderr = process.communicate(timeout=10)
    feed.close()
    left = [path.name for path in (tmp_path / "o").iterdir()]
    if kill == signal.SIGKILL:
        assert left == ["p.partial"]  # which no glob for .bin meets, and the next run removes
    else:
        assert process.returncode == 1 and "interrupted" in stderr and left == []
    assert prepare(tmp_path / "a.txt", "--name", "p", "--out", tmp_path / "o").returncode == 0
    assert {path.suffix for path in (tmp_path / "o").iterdir()} == {".bin", ".json", ".tokenizer"}


def test_memory_stays_constant_over_much_packed_text(tmp_path):
    line = json.dumps({"text": "all work and no play " * 500}).encode() + b"\n"
    path = tmp_path / "much.jsonl.xz"
    path.write_bytes(lzma.compress(line * 6000, preset=0))  # 63 MB
    program = "import prepare, sys; code = prepare.run_tool('prepare.py', prepare.work, sys.argv[1:])"
    program += "; print(open('/proc/self/status').read()); sys.exit(code)"
    command = [sys.executable, "-c", program, str(path), "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT / "data", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # the text is 63 MB, its tokens 126 MB, the interpreter about 20
    assert int(re.search(r"VmHWM:\s*(\d+) kB", done.stdout)[1]) < 60_000


# ---------------------------------------------------------------------------------------------------------
# Tokenizers


def word_tokenizer(path, words):
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("n_words, width", [(1000, 2), (70_000, 4)])
def test_a_hugging_face_tokenizer_gives_its_ids_in_the_right_width(tmp_path, n_words, width):
    words = ["?", "<|endoftext|>"] + ["w%d" % i for i in range(2, n_words)]
    path = word_tokenizer(tmp_path / "tokenizer.json", words)
    write_jsonl(tmp_path / "d.jsonl", ["w7 w999", "w%d nonsense w3" % (n_words - 1)])
    done = prepare(tmp_path / "d.jsonl", "--tokenizer", path, "--val-fraction", 0, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    shard = tmp_path / "d_train_000000.bin"
    assert tokens(shard) == [7, 999, 1, n_words - 1, 0, 3]
    assert shard.stat().st_size == 1024 + 6 * width
    facts = json.loads((tmp_path / "d.json").read_text())
    assert (facts["vocab_size"], facts["eot_token"]) == (n_words, 1)


def test_a_tokenizer_without_a_known_end_asks_for_it(tmp_path):
    path = word_tokenizer(tmp_path / "t.json", ["?", "a", "stop"])
    (tmp_path / "a.txt").write_text("a a a a\n" * 100)
    done = prepare(tmp_path / "a.txt", "--tokenizer", path, "--out", tmp_path)
    assert done.returncode == 2 and "--eot-token" in done.stderr
    done = prepare(tmp_path / "a.txt", "--tokenizer", path, "--out", tmp_path, "--eot-token", "stop")
    assert done.returncode == 0, done.stderr
    (tmp_path / "latin.txt").write_bytes(b"a \xe9")
    done = prepare(tmp_path / "latin.txt", "--tokenizer", path, "--separator", "none")
    assert done.returncode == 2 and "latin.txt: not UTF-8 at byte 2" in done.stderr
