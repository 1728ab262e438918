"""Does text come out of models of any vocabulary: by ids and by text, one or many at once, streamed, stopped where it ends?

Ids are what the model says; texts are held to the table of the tokens' bytes, batches to the same prompts alone.
"""
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys

import pytest

from program import PROGRAM, ROOT, SMALL, environment, refused, run, sentences, without_notice, write_shard
from tensors import write_token_bytes
from test_output import on_terminal

VOCAB, WINDOW = 300, 16
TABLE = "token_bytes.safetensors"
GREEDY = ["--temperature", 0]


def tokens_of(seed=1, empty=(0,)):
    """Bytes of each id: some alone no UTF-8, one longer than the others, control tokens empty."""
    draw = random.Random(seed)
    pieces = [" the", "a", "é"[:1], "🙂", "\n", ' "x"', "日本"]
    table = [(draw.choice(pieces) + str(i)).encode() for i in range(VOCAB)]
    table[7], table[8], table[9], table[10] = "é".encode()[:1], "é".encode()[1:], b"\x1b[2J", b" "
    return [b"" if i in empty else piece for i, piece in enumerate(table)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A run of a few steps of a model of 300 tokens, and its checkpoint's directory."""
    folder = tmp_path_factory.mktemp("generate")
    draw = random.Random(3)
    write_shard(folder / "x_train_000000.bin", [(7 * i + draw.randrange(9)) % VOCAB for i in range(3000)])
    run(*SMALL, "--vocab-size", VOCAB, "--init-std", 0.3, "--train-data", folder / "x_train_000000.bin", "--steps", 8, "--out",
        folder / "run")
    return folder


@pytest.fixture
def model(weights, tmp_path):
    """A directory of its weights alone, for a table of the test's own."""
    for name in ("model.safetensors", "config.json"):
        shutil.copy(weights / "run" / "latest" / name, tmp_path)
    return tmp_path


def generate(model, *arguments, raw=False):
    """What it prints, and what it says beside that."""
    done = subprocess.run([PROGRAM, "--init-from", str(model), *map(str, arguments)], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=environment(), check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout if raw else done.stdout.decode(), without_notice(done.stderr.decode())


def without_cut(said):
    """What was said but of prompts that are longer than the model sees."""
    return re.sub(r"train_gpt: [^\n]*--seq-len \d+: the model sees the last \d+[^\n]*\n", "", said)


def ids_of(model, prompt, *arguments):
    """The new ids of a model that has no table."""
    text, said = generate(model, "--generate-tokens", ",".join(map(str, prompt)), *arguments)
    said = without_cut(said)
    assert re.fullmatch(r"train_gpt: no token_bytes.safetensors [^\n]*: ids, not text\n", said), said
    ids = [int(part) for part in text.split(",")]
    assert text == ",".join(map(str, ids)) + "\n" and ids[:len(prompt)] == list(prompt)
    return ids[len(prompt):]


def test_ids_become_text_by_the_table_and_stay_ids_without(model):
    table = tokens_of()
    prompt = [5, 7, 8, 9, 299, 0, 31]
    ids = ids_of(model, prompt, "--max-new-tokens", 60)  # over the window's end
    assert len(ids) == 60 and len(set(ids)) > 20
    write_token_bytes(model / TABLE, table)
    text, said = generate(model, "--generate-tokens", " 5, 7,8 9,\n299,0,31 ", "--max-new-tokens", 60, raw=True)
    assert text == b"".join(table[i] for i in prompt + ids) + b"\n" and said == ""
    # A vocabulary that is padded beyond its tokenizer's.
    write_token_bytes(model / TABLE, table[:200])
    text, said = generate(model, "--generate-tokens", "5,7,8,9,299,0,31", "--max-new-tokens", 60)
    assert text == b"".join(table[i] if i < 200 else "\ufffd".encode() for i in prompt + ids).decode(errors="strict") + "\n"


def test_a_terminal_gets_whole_characters_and_no_control_bytes(model):
    write_token_bytes(model / TABLE, tokens_of())
    shown = on_terminal("--init-from", str(model), "--generate-tokens", "7,8,9,8,7", "--max-new-tokens", "40").decode()
    assert shown.startswith("é\\x1b[2J\\xa9") and not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


def test_a_space_that_begins_a_text_is_dropped_where_the_tokenizer_does(model):
    for strip, begin in ((True, "  "), (False, "   ")):
        write_token_bytes(model / TABLE, tokens_of(), strip_leading_space=strip)
        text, _ = generate(model, "--generate-tokens", "0,10,10,10", "--max-new-tokens", 1, raw=True)
        assert text.startswith(begin.encode() + b"") and not text.startswith(b" " * (len(begin) + 1) + b" ")
        path = model / "p.jsonl"
        path.write_text('{"ids":[0,10,10]}\n')
        line = json.loads(generate(model, "--generate-file", path, "--max-new-tokens", 1)[0])
        assert line["prompt"] == begin[1:]


def test_a_text_ends_where_its_document_does(model, tmp_path):
    ids = ids_of(model, [3], *GREEDY, "--max-new-tokens", 40)
    end = next(token for i, token in enumerate(ids) if i > 3 and token not in ids[:i])
    before, table = ids[:ids.index(end)], tokens_of()
    table[end] = b""
    write_token_bytes(model / TABLE, table, end_of_document=end)
    text, _ = generate(model, "--generate-tokens", 3, *GREEDY, "--max-new-tokens", 40, raw=True)
    assert text == b"".join(table[i] for i in [3] + before) + b"\n"
    on, _ = generate(model, "--generate-tokens", 3, *GREEDY, "--max-new-tokens", 40, "--stop-at-end", "off", raw=True)
    assert on == b"".join(table[i] for i in [3] + ids) + b"\n"
    (tmp_path / "p.jsonl").write_text('{"ids":[3]}\n{"ids":[%d]}\n{"ids":[]}\n' % end)
    lines = [json.loads(line) for line in generate(model, "--generate-file", tmp_path / "p.jsonl", *GREEDY,
                                                   "--max-new-tokens", 40)[0].splitlines()]
    assert lines[0]["ids"] == before and lines[0]["end"] == "document"
    assert lines[1]["text"] == lines[2]["text"] and lines[2]["prompt"] == ""  # an empty one begins behind a document's end


def prompts_file(path, count=11, longest=40):
    draw = random.Random(5)
    prompts = [[draw.randrange(VOCAB) for _ in range(draw.choice([1, 2, 7, 8, 9, 15, 16, longest]))] for _ in range(count)]
    seeds = [1337 if i % 3 else 100 + i for i in range(count)]
    lines = [json.dumps({"ids": ids, **({} if seed == 1337 else {"seed": seed}), "more": [{}]})
             for ids, seed in zip(prompts, seeds)]
    path.write_text("\n".join(lines) + "\n")
    return list(zip(prompts, seeds))


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
def test_a_prompt_alone_has_the_ids_of_one_in_a_batch(model, tmp_path, dtype):
    """Places come free at different times, as texts end at different lengths; windows slide at different steps."""
    asked = prompts_file(tmp_path / "p.jsonl")
    flags = ["--dtype", dtype, "--max-new-tokens", 30, "--temperature", 0.9]
    alone = [ids_of(model, ids, *flags, "--seed", seed) for ids, seed in asked]
    end = alone[0][6]
    alone = [ids[:ids.index(end)] if end in ids else ids for ids in alone]
    assert len({len(ids) for ids in alone}) > 2
    table = tokens_of()
    table[end] = b""
    write_token_bytes(model / TABLE, table, end_of_document=end)
    for batch in ([], ["--batch-size", 1], ["--batch-size", 3], ["--batch-size", 8, "--threads", 2]):
        text, said = generate(model, "--generate-file", tmp_path / "p.jsonl", *flags, *batch)
        said = without_cut(said)
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["ids"] for line in lines] == alone
        assert re.fullmatch(r"train_gpt: \d+ tokens of prompts at [\d.]+ tokens/s; then \d+ tokens at [\d.]+ tokens/s\n", said)
    for line, (ids, _) in zip(lines, asked):
        assert line["prompt"] == b"".join(table[i] for i in ids).decode(errors="replace")
        assert line["text"] == b"".join(table[i] for i in line["ids"]).decode(errors="replace")
        assert line["end"] == ("length" if len(line["ids"]) == 30 else "document")


def test_a_prompt_that_is_longer_than_the_model_sees_is_said(model, tmp_path):
    def told(*arguments):
        return [line for line in generate(model, *arguments, "--max-new-tokens", 2)[1].splitlines() if "--seq-len" in line]

    sees = json.loads((model / "config.json").read_text())["n_positions"]
    row = lambda count: ",".join(["5"] * count)  # noqa: E731
    assert told("--generate-tokens", row(sees)) == []
    assert told("--generate-tokens", row(sees + 1)) == [
        f"train_gpt: the prompt's {sees + 1} tokens are more than --seq-len {sees}: the model sees the last {sees}"]
    (tmp_path / "p.jsonl").write_text("".join(f'{{"ids": [{row(count)}]}}\n' for count in (3, sees + 9, sees + 1)))
    assert told("--generate-file", tmp_path / "p.jsonl") == [
        f"train_gpt: 2 of 3 prompts, of up to {sees + 9} tokens, are longer than --seq-len {sees}: the model sees the last {sees} of each"]


def test_lines_of_text_are_prompts_of_byte_models(tmp_path):
    write_shard(tmp_path / "a.bin", sentences(2000, 1))
    run(*SMALL, "--train-data", tmp_path / "a.bin", "--steps", 3, "--out", tmp_path / "run")
    (tmp_path / "p.txt").write_bytes("the cat\r\n\ndog {ß}".encode())
    (tmp_path / "p.jsonl").write_text('{"prompt":"the cat"}\n{"prompt":""}\n{"prompt":"dog {\\u00df}"}')
    resume = ["--resume", tmp_path / "run", "--max-new-tokens", 20, "--top-p", 0.9]
    text = run(*resume, "--generate-file", tmp_path / "p.txt").stdout
    assert text == run(*resume, "--generate-file", tmp_path / "p.jsonl").stdout
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["prompt"] for line in lines] == ["the cat", "", "dog {ß}"]
    alone = run(*resume, "--generate", "the cat").stdout
    assert alone == "the cat" + bytes(lines[0]["ids"]).decode(errors="replace") + "\n"


def test_a_byte_model_with_an_end_of_its_own_takes_text(tmp_path):
    write_shard(tmp_path / "b_train_000000.bin", sentences(2000, 1) + [256])
    os.mkdir(tmp_path / "b.tokenizer")
    write_token_bytes(tmp_path / "b.tokenizer" / TABLE, [bytes([i]) for i in range(256)] + [b""], end_of_document=256)
    done = run(*SMALL, "--vocab-size", 257, "--train-data", tmp_path / "b_train_000000.bin", "--steps", 3, "--sample-every", 3,
               "--max-new-tokens", 9, "--out", tmp_path / "run")
    assert "sample after 3 steps:\n" in done.stdout and "ids, not text" not in done.stdout
    shutil.copy(tmp_path / "b.tokenizer" / TABLE, tmp_path / "run" / "latest")
    assert run("--resume", tmp_path / "run", "--generate", "the ", "--max-new-tokens", 5).stdout.startswith("the ")


def test_samples_on_the_way_are_text_where_the_set_has_a_table(weights, tmp_path):
    shard = tmp_path / "x_train_000000.bin"
    shutil.copy(weights / shard.name, shard)
    flags = [*SMALL, "--vocab-size", VOCAB, "--train-data", shard, "--steps", 2, "--sample-every", 2, "--max-new-tokens", 9]
    ids = run(*flags).stdout
    assert "no token_bytes.safetensors says" in ids and re.search(r"^sample after 2 steps:\n\d+(,\d+){8}$", ids, re.MULTILINE)
    os.mkdir(tmp_path / "x.tokenizer")
    table = [b"<%d>" % i for i in range(VOCAB)]
    write_token_bytes(tmp_path / "x.tokenizer" / TABLE, table)
    text = run(*flags).stdout
    listed = re.search(r"^sample after 2 steps:\n(\S+)$", ids, re.MULTILINE)[1].split(",")
    assert "sample after 2 steps:\n" + "".join("<%s>" % i for i in listed) + "\n" in text and "ids, not text" not in text
    (tmp_path / "x.tokenizer" / TABLE).write_bytes(b"nonsense" * 9)
    refused(*flags, says=("--sample-every", TABLE))


def broken_tables(path):
    """(what is wrong with it, what is said), the file each time there."""
    good = tokens_of()

    def rewritten(change):
        write_token_bytes(path, good, end_of_document=0)
        data = path.read_bytes()
        n = struct.unpack("<Q", data[:8])[0]
        header, body = change(data[8:8 + n], bytearray(data[8 + n:]))
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(body))

    def offset(i, value):
        def change(header, body):
            body[8 * i:8 * i + 8] = struct.pack("<q", value)
            return header, body
        return change

    yield "a file of text", lambda: path.write_text("not this" * 20), TABLE
    yield "cut", lambda: (write_token_bytes(path, good), path.write_bytes(path.read_bytes()[:-1])), TABLE
    yield "empty", lambda: path.write_bytes(b""), TABLE
    yield "too many tokens", lambda: write_token_bytes(path, good + [b"x"]), "301 tokens, and the model has 300"
    yield "backwards", lambda: rewritten(offset(5, 10 ** 6)), "token 4 ends at byte 1000000"
    yield "negative", lambda: rewritten(offset(9, -8)), "token 8 ends at byte -8"
    yield "a later start", lambda: rewritten(offset(0, 1)), "begin with 1"
    yield "bytes left over", lambda: rewritten(offset(VOCAB, sum(map(len, good[:-1])))), "of which the tokens have"
    yield "no end", lambda: write_token_bytes(path, good, end_of_document=VOCAB), "end_of_document is '300'"
    yield "a strange end", lambda: write_token_bytes(path, good, end_of_document="-1"), "end_of_document is '-1'"
    yield "a strange end", lambda: write_token_bytes(path, good, end_of_document=""), "end_of_document is ''"
    yield "another format", lambda: rewritten(lambda h, b: (h.replace(b'"token_bytes"', b'"token_bites"'), b)), "format"
    yield "another type", lambda: rewritten(lambda h, b: (h.replace(b'"U8"', b'"I8"'), b)), "'bytes' must be a vector of U8"
    yield "another name", lambda: rewritten(lambda h, b: (h.replace(b'"bytes"', b'"bites"'), b)), "no tensor 'bytes'"
    yield "a link", lambda: (path.unlink(), path.symlink_to("/dev/zero")), "symbolic link"


def test_a_table_that_does_not_hold_together_is_refused(model):
    for what, make, says in broken_tables(model / TABLE):
        make()
        message = refused("--init-from", model, "--generate-tokens", "1", "--max-new-tokens", 1, says=(TABLE, says))
        assert "--generate-tokens" in message, what


@pytest.mark.parametrize("ids, says", [("1,300", "token 300 is not below --vocab-size 300"), ("1,-2", "'-2' is no token id"),
                                       ("1.5", "'1.5' is no token id"), ("1;2", "'1;2' is no token id"), ("a", "'a' is no"),
                                       ("99999999999999999999", "is not below"), ("0x1", "'0x1' is no")])
def test_ids_that_are_none_are_refused(model, ids, says):
    refused("--init-from", model, "--generate-tokens", ids, says=("--generate-tokens", says))


@pytest.mark.parametrize("name, content, says", [
    ("p.jsonl", '{"ids":[1]}\n{"ids":[300]}\n', "line 2: field 'ids': entry 0 is no token id below --vocab-size 300"),
    ("p.jsonl", '{"ids":[1,2.5]}', "line 1: field 'ids': entry 1"), ("p.jsonl", '{"ids":["1"]}', "line 1: field 'ids'"),
    ("p.jsonl", '{"ids":7}', "must be a list"), ("p.jsonl", '{"ids":[-1]}', "entry 0"), ("p.jsonl", "[1]", "line 1: not a JSON"),
    ("p.jsonl", '{"ids":[1]}\n\n{"ids":[1]}', "line 2: no valid JSON"), ("p.jsonl", '{"ids":[1],"seed":-1}', "'seed'"),
    ("p.jsonl", '{"ids":[1],"seed":"x"}', "'seed'"), ("p.jsonl", '{"text":"a"}', "neither a list 'ids' nor a text 'prompt'"),
    ("p.jsonl", '{"prompt":"a"}', "line 1: --vocab-size 300 is no byte model: scripts/generate.py"), ("p.jsonl", "", "no prompt"),
    ("p.jsonl", '{"ids":[1]', "line 1: no valid JSON"), ("p.txt", "Once\n", "line 1: --vocab-size 300 is no byte model"),
])
def test_a_file_of_prompts_is_refused_by_line(model, name, content, says):
    (model / name).write_text(content)
    refused("--init-from", model, "--generate-file", model / name, says=(name, says))


def test_what_cannot_be_encoded_here_names_what_can(model):
    refused("--init-from", model, "--generate", "Once", says=("--vocab-size 300", "scripts/generate.py", "--generate-tokens"))
    refused("--init-from", model, "--generate-file", model / "none", says="No such file")
    refused("--init-from", model, "--generate-file", model, says="directory")
    refused("--generate-file", "x", *SMALL, says="--resume")
    refused("--init-from", model, "--generate-tokens", "1", "--generate", "x", says="two things to do")
    refused("--init-from", model, "--generate-tokens", "1", "--top-p", "1.5", says="--top-p")
    assert "--top-p has no effect" in run("--init-from", model, "--generate-tokens", "1", *GREEDY, "--top-p", 0.5,
                                          "--max-new-tokens", 1).stderr


# ---------------------------------------------------------------------------------------------------------
# scripts/generate.py


@pytest.fixture(scope="module")
def spoken(weights, tmp_path_factory):
    """The run with a tokenizer of its own: BPE over bytes, of 300 tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("spoken")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<|endoftext|>"], show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([bytes(sentences(5000, 2)).decode() + " naïve 🙂 ganz größer, 🙂 naïve größer, und noch mehr Wörter"], trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    tokenizer.save(str(folder / "tokenizer.json"))
    for name in ("model.safetensors", "config.json"):
        shutil.copy(weights / "run" / "latest" / name, folder)
    return folder, tokenizer


def script(*arguments, code=0, text=None, **more):
    done = subprocess.run([sys.executable, os.path.join(ROOT, "scripts", "generate.py"), *map(str, arguments)], input=text,
                          capture_output=True, text=True, errors="replace", check=False, timeout=60,
                          env=environment(TRAIN_GPT=PROGRAM, **more))
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def with_table(folder, tokenizer, to):
    """The same model beside its table: ids of bytes by the letters that byte-level BPE has for them."""
    letters = {letter: byte for letter, byte in zip(*byte_letters())}
    shutil.copytree(folder, to)
    names = [tokenizer.id_to_token(i) for i in range(VOCAB)]
    write_token_bytes(to / TABLE, [b"" if name == "<|endoftext|>" else bytes(letters[c] for c in name) for name in names],
                      end_of_document=0)
    return to


def byte_letters():
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in seen]
    return [chr(byte) for byte in seen] + [chr(256 + i) for i in range(len(others))], seen + others


def test_the_script_encodes_what_the_program_continues(spoken, tmp_path):
    folder, tokenizer = spoken
    prompt = "the cat: 🙂 größer"
    flags = ["--max-new-tokens", "50", "--temperature", "1.5", "--seed", "4"]
    ids = tokenizer.encode(prompt).ids
    new = ids_of(folder, ids, *flags)
    new = new[:new.index(0)] if 0 in new else new
    wanted = tokenizer.decode(ids + new) + "\n"
    spoken_text = script(folder, prompt, *flags).stdout
    assert spoken_text == wanted
    told = with_table(folder, tokenizer, tmp_path / "told")
    assert script(told, prompt, *flags).stdout == wanted
    # Many at once, and a talk.
    (tmp_path / "p.txt").write_text("%s\nthe dog\n" % prompt)
    for place in (folder, told):
        first, second = (json.loads(line) for line in script(place, "--file", tmp_path / "p.txt", *flags).stdout.splitlines())
        assert first["ids"] == new and first["prompt"] == prompt and first["prompt"] + first["text"] + "\n" == wanted
        assert second["prompt"] == "the dog"
    (tmp_path / "p.jsonl").write_text('{"prompt":"the dog","seed":4}\n{"ids":[5,6]}\n')
    other, _ = (json.loads(line) for line in script(told, "--file", tmp_path / "p.jsonl", *flags[:4]).stdout.splitlines())
    assert other["ids"] == second["ids"]
    talk = script(told, *flags, text="%s\nthe dog\n" % prompt).stdout
    assert talk == wanted + "the dog" + tokenizer.decode(second["ids"]) + "\n"


def test_the_script_gives_all_of_a_prompt_and_no_padding(spoken, tmp_path):
    folder, _ = spoken
    shutil.copytree(folder, tmp_path / "batched")
    made = json.loads((folder / "tokenizer.json").read_text())
    made["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    made["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 5, "pad_type_id": 0,
                       "pad_token": "%"}
    made["model"]["dropout"] = 0.9
    (tmp_path / "batched" / "tokenizer.json").write_text(json.dumps(made))
    said = [script(place, "the cat sees the dog", "--max-new-tokens", 9).stdout for place in (folder, tmp_path / "batched")]
    assert said[0] == said[1] and said[0].startswith("the cat sees the dog")


def test_flags_stand_before_a_prompt_and_after_it(spoken):
    folder, _ = spoken
    flags = ["--max-new-tokens", 9, "--seed", 3]
    wanted = script(folder, "the cat", *flags).stdout
    assert wanted == script(folder, *flags, "the cat").stdout == script(*flags, folder, "the cat").stdout
    assert script(folder, *flags, "").stdout == script(folder, "", *flags).stdout != ""
    assert script(folder, *flags, "--", "-the cat").stdout.startswith("-the cat")


@pytest.mark.parametrize("decoder", [{"type": "Fuse"}, None])  # with a table of the tokens' bytes; and such that there is none
def test_a_small_vocabulary_of_a_tokenizers_own_is_not_bytes(tmp_path, decoder):
    pytest.importorskip("tokenizers")
    characters = {character: i for i, character in enumerate(["<unk>", *"zé the catsBA"])}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "decoder": decoder, "model": {
        "type": "BPE", "vocab": characters, "merges": [], "unk_token": "<unk>"}}))
    (tmp_path / "c.txt").write_text("the cat eats tea at best " * 99)
    subprocess.run([sys.executable, os.path.join(ROOT, "data", "prepare.py"), tmp_path / "c.txt", "--tokenizer", tmp_path,
                    "--separator", "none", "--out", tmp_path], check=True, timeout=60)
    shard = tmp_path / "c_train_000000.bin"
    done = run(*SMALL, "--vocab-size", "auto", "--train-data", shard, "--steps", 2, "--out", tmp_path / "run")
    assert "next: scripts/generate.py %s " % (tmp_path / "run") in done.stdout, done.stdout
    refused("--resume", tmp_path / "run", "--generate", "A", says=("no byte model", "scripts/generate.py"))
    assert script(tmp_path / "run", "AzB", "--max-new-tokens", 5).stdout.replace(" ", "").startswith("AzB")
    listed = run("--resume", tmp_path / "run", "--generate-tokens", "1,2", "--max-new-tokens", 3, *GREEDY)
    assert listed.stdout.startswith("zé" if decoder else "1,2,") and ("ids, not text" in listed.stderr) == (not decoder)
    told = run("--resume", tmp_path / "run", "--eval-only", "--val-data", shard).stdout
    assert "perplexity" in told and ("bits/byte" in told) == bool(decoder)


def test_the_script_takes_bytes_without_a_tokenizer(tmp_path):
    write_shard(tmp_path / "a.bin", sentences(2000, 1))
    run(*SMALL, "--train-data", tmp_path / "a.bin", "--steps", 3, "--out", tmp_path / "run")
    said = script(tmp_path / "run", "the cat", "--max-new-tokens", 5, "--temperature", 0).stdout
    assert said == run("--resume", tmp_path / "run", "--generate", "the cat", "--max-new-tokens", 5, *GREEDY).stdout
    (tmp_path / "p.txt").write_text("a\nb\n")
    assert len(script(tmp_path / "run", "--file", tmp_path / "p.txt", "--max-new-tokens", 2).stdout.splitlines()) == 2


def test_the_scripts_complaints_are_one_line(model, tmp_path):
    def complains(*arguments, says, **more):
        message = script(*arguments, code=2, **more).stderr
        assert re.fullmatch(r"generate\.py: [^\n]*\n", message) and says in message, message

    complains(tmp_path / "none", "x", says="no directory")
    complains(model, "x", says="tokenizer.json is not there")
    (model / "tokenizer.json").write_text("{")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "tokenizers.py").write_text("raise ImportError\n")
    complains(model, "x", says="pip install tokenizers", PYTHONPATH=hidden)
    complains(model, "x", "--file", "y", says="tokenizer" if "tokenizers" not in sys.modules else "")
    complains(model, "--nonsense", says="--help")
    complains(model, "x", "y", says="y")
    if pathlib.Path(PROGRAM).exists():
        (tmp_path / "config.json").write_text("[]")
        complains(tmp_path, "x", says="config.json")


@pytest.mark.parametrize("name, content, says", [
    ("p.jsonl", '{"prompt":"a"}\n{"prompt":"\\ud800"}\n', "line 2: "), ("p.jsonl", '{"a":' + "[" * 100000, "line 1: "),
    ("p.jsonl", '{"ids":[1]}\n{"ids":[300]}\n', "line 2: 'ids' must be a list of numbers from 0 to 299"),
    ("p.jsonl", '{"ids":[true]}', "line 1: 'ids'"), ("p.jsonl", '{"ids":[1],"seed":-1}', "line 1: 'seed' must be"),
    ("p.jsonl", '{"ids":[1],"seed":"x"}', "line 1: 'seed' must be"), ("p.txt", "", "no prompt")])
def test_the_script_complains_of_a_file_by_its_name_and_line(spoken, tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    message = script(spoken[0], "--file", tmp_path / name, code=2).stderr
    assert re.fullmatch(r"generate\.py: [^\n]*\n", message) and str(tmp_path / name) in message and says in message, message


def test_a_prompt_that_is_no_text_is_refused(spoken, tmp_path):
    done = subprocess.run([sys.executable, os.path.join(ROOT, "scripts", "generate.py"), str(spoken[0]), b"a\xff"],
                          capture_output=True, check=False, timeout=60, env=environment(TRAIN_GPT=PROGRAM))
    assert (done.returncode, done.stderr) == (2, b"generate.py: the prompt is not UTF-8\n")
    write_shard(tmp_path / "b_train_000000.bin", sentences(2000, 1))
    os.mkdir(tmp_path / "b.tokenizer")
    write_token_bytes(tmp_path / "b.tokenizer" / TABLE, [b""] + [bytes([i]) for i in range(1, 256)], end_of_document=0)
    run(*SMALL, "--train-data", tmp_path / "b_train_000000.bin", "--steps", 2, "--out", tmp_path / "run")
    shutil.copy(tmp_path / "b.tokenizer" / TABLE, tmp_path / "run" / "latest")
    (tmp_path / "p.txt").write_bytes(b"a\0b\n")
    refused("--resume", tmp_path / "run", "--generate-file", tmp_path / "p.txt", says="line 1: the prompt's byte 0 ends documents")
