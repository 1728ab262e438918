"""Does --eval give the likelihoods that a model has, and count answers as lm_eval does?

The numbers come from the logits that an independent model (reference/, JAX, fp64) has for its fixtures: a context is the
beginning of a fixture's row, a choice what follows there, or that with another last token. test/hf/test_lm_eval.py asks
lm_eval itself where it is installed.
"""
import hashlib
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest

from program import PROGRAM, ROOT, SMALL, environment, file_bytes, metrics, refused, run, run_script, write_shard
from tensors import read_tensors, write_tensors

REFERENCE = os.path.join(ROOT, "test", "reference")
FIXTURES = ["fixtures/gpt2", "fixtures/gpt2-long", "fixtures/llama", "fixtures_variants/pre-bhyt-sdd",
            "fixtures_variants/deepnorm-gpas-sdd-released"]
TOLERANCE = 1e-9  # fp64, as in test_reference.py


class Fixture:
    def __init__(self, name):
        folder = os.path.join(REFERENCE, name)
        self.arguments = ["--config", os.path.join(folder, "flags.txt"), "--device", "cpu", "--dtype", "fp64",
                          "--init-from", os.path.join(folder, "weights.safetensors")]
        expected = read_tensors(os.path.join(folder, "expected.safetensors"))
        self.rows = np.concatenate([expected["tokens"], expected["targets"][:, -1:]], 1)
        logits = expected["logits"].astype("f8")
        most = logits.max(-1, keepdims=True)
        self.logp = logits - most - np.log(np.exp(logits - most).sum(-1, keepdims=True))
        self.T, self.V = logits.shape[1:]

    def likelihood(self, row, context, choice):
        places = range(context - 1, context - 1 + len(choice))
        return sum(self.logp[row, place, token] for place, token in zip(places, choice))

    def cut(self, draw):
        """(row, context, what follows): up to the row's end, where it fits exactly."""
        context = draw.choice((self.T, draw.randint(1, self.T)))
        row, length = draw.randrange(len(self.rows)), draw.randint(1, min(3, self.T + 1 - context))
        return row, context, self.rows[row, context : context + length].tolist()

    def questions(self, count):
        """(items, likelihoods of their choices)"""
        draw, items, expected = random.Random(1), [], []
        for number in range(count):
            row, context, right = self.cut(draw)
            choices = [right[:n] for n in range(1, len(right))]
            choices += [right] + [right[:-1] + [token] for token in draw.sample(range(self.V), draw.randint(1, 4))]
            draw.shuffle(choices)
            expected.append([self.likelihood(row, context, choice) for choice in choices])
            full = context == self.T  # then what stands before it has no room
            before = [draw.randrange(self.V) for _ in range(draw.choice((1, 40)))] if full else []
            items.append({"context_ids": before + self.rows[row, :context].tolist(), "choice_ids": choices,
                          "answer": draw.randrange(len(choices)), "id": f"number {number}",
                          "choice_chars": [draw.randint(1, 9) for _ in choices],
                          "choice_bytes": [draw.randint(1, 9) for _ in choices]})
        return items, expected


def write_rows(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def ask(arguments, path, tmp_path, *more):
    """(stdout, answers, result)"""
    done = run(*arguments, "--eval", path, "--eval-out", tmp_path / "answers.jsonl", *more)
    *answers, result = map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())
    assert os.listdir(tmp_path).count("answers.jsonl.partial") == 0
    return done, answers, result


def share(hits):
    """Mean, and lm_eval's standard error of it: sample deviation / √n."""
    return np.mean(hits), np.std(hits, ddof=1) / math.sqrt(len(hits))


def first_best(values):
    return int(np.argmax(values))


@pytest.mark.parametrize("name", FIXTURES, ids=os.path.basename)
def test_likelihoods_and_answers_are_the_references(name, tmp_path):
    fixture = Fixture(name)
    items, expected = fixture.questions(60)
    path = write_rows(tmp_path / "items.jsonl", items)
    done, answers, result = ask(fixture.arguments, path, tmp_path)
    assert [one["row"] for one in answers] == list(range(1, 61)) and {one["file"] for one in answers} == {str(path)}
    for item, answer, want in zip(items, answers, expected):
        assert answer["loglikelihoods"] == pytest.approx(want, rel=TOLERANCE, abs=TOLERANCE)
        assert answer["answer"] == item["answer"] and answer["acc"] == first_best(want)
        assert answer["acc_norm"] == first_best(np.divide(want, item["choice_chars"]))
        assert answer["acc_bytes"] == first_best(np.divide(want, item["choice_bytes"]))
    for way in ("acc", "acc_norm", "acc_bytes"):
        mean, error = share([answer[way] == answer["answer"] for answer in answers])
        assert result[way] == pytest.approx(mean) and result[way + "_stderr"] == pytest.approx(error)
        assert f" {way} {mean:.4f} ± {error:.4f}" in done.stdout
    assert done.stdout.startswith(f"{path}: 60 items: acc ") and done.stdout.count("\n") == 1
    assert result["chance"] == pytest.approx(np.mean([1 / len(item["choice_ids"]) for item in items]))


@pytest.mark.parametrize("name", FIXTURES[1:3], ids=os.path.basename)
def test_last_words_are_matched_by_the_likeliest_tokens(name, tmp_path):
    fixture, draw, rows, want, greedy = Fixture(name), random.Random(2), [], [], []
    for _ in range(40):
        row, context, target = fixture.cut(draw)
        best = fixture.logp[row].argmax(-1)
        if draw.random() < 0.5:
            target[-1] = int(best[context + len(target) - 2])
        rows.append({"context_ids": fixture.rows[row, :context].tolist(), "target_ids": target})
        want.append(fixture.likelihood(row, context, target))
        greedy.append(all(best[context - 1 + i] == token for i, token in enumerate(target)))
    assert 3 < sum(greedy) < 37
    done, answers, result = ask(fixture.arguments, write_rows(tmp_path / "words.jsonl", rows), tmp_path)
    assert [answer["loglikelihoods"][0] for answer in answers] == pytest.approx(want, rel=TOLERANCE, abs=TOLERANCE)
    assert [answer["greedy"] for answer in answers] == greedy
    assert (result["acc"], result["acc_stderr"]) == pytest.approx(share(greedy))
    perplexity = math.exp(-np.mean(want))
    assert result["perplexity"] == pytest.approx(perplexity, rel=1e-9)
    assert result["perplexity_stderr"] == pytest.approx(perplexity * share(want)[1], rel=1e-6)
    assert f"40 last words: acc {np.mean(greedy):.4f} ± " in done.stdout


def test_a_context_that_does_not_fit_loses_its_beginning_and_it_is_said(tmp_path):
    fixture = Fixture("fixtures/gpt2")
    T, row = fixture.T, fixture.rows[0].tolist()
    items = [{"context_ids": [5] * extra + row[:-1], "choice_ids": [row[-1:], [7]], "answer": 0} for extra in (0, 1, 50)]
    path = write_rows(tmp_path / "items.jsonl", items)
    done, answers, result = ask(fixture.arguments, path, tmp_path)
    want = [fixture.likelihood(0, T, choice) for choice in items[0]["choice_ids"]]
    assert all(answer["loglikelihoods"] == pytest.approx(want, rel=TOLERANCE) for answer in answers)
    assert f"4 of 6 continuations of {path} are longer than --seq-len {T}" in done.stderr
    assert (result["continuations"], result["cropped"]) == (6, 4)
    # where a token less fits, another likelihood comes out
    short = write_rows(tmp_path / "short.jsonl", [dict(items[0], context_ids=row[1:-1])])
    assert ask(fixture.arguments, short, tmp_path)[1][0]["loglikelihoods"] != pytest.approx(want, rel=TOLERANCE)


def test_the_same_flags_give_the_same_bits_and_other_batches_the_same_numbers(tmp_path):
    fixture = Fixture("fixtures/gpt2-long")
    path = write_rows(tmp_path / "items.jsonl", fixture.questions(50)[0])
    first = ask(fixture.arguments, path, tmp_path)[1]
    assert ask(fixture.arguments, path, tmp_path)[1] == first
    for more in (["--batch-size", 1], ["--batch-size", 7], ["--threads", 2]):
        for one, other in zip(first, ask(fixture.arguments, path, tmp_path, *more)[1]):
            assert one["loglikelihoods"] == pytest.approx(other["loglikelihoods"], rel=1e-11)


def test_of_what_is_alike_the_first_counts(trained, tmp_path):
    weights = read_tensors(os.path.join(trained, "latest", "model.safetensors"))
    write_tensors(tmp_path / "zero.safetensors", {name: 0 * value for name, value in weights.items()})
    model = [*SMALL, "--init-from", tmp_path / "zero.safetensors"]
    words = [{"context_ids": [5], "target_ids": [token]} for token in (0, 1, 255)]
    choices = [{"context_ids": [5], "choice_ids": [[token], [9], [token]], "answer": 0} for token in (3, 200)]
    _, answers, _ = ask(model, write_rows(tmp_path / "words.jsonl", words), tmp_path)
    assert [answer["greedy"] for answer in answers] == [True, False, False]
    assert {round(answer["loglikelihoods"][0], 5) for answer in answers} == {round(-math.log(256), 5)}
    _, answers, _ = ask(model, write_rows(tmp_path / "choices.jsonl", choices), tmp_path)
    assert [answer["acc"] for answer in answers] == [0, 0]


# ---------------------------------------------------------------------------------------------------------
# Text

QUESTIONS = [
    {"context": "the cat sat on ", "choices": ["a mat.", "the dög", "ran"], "answer": 0},
    {"context": "where? \u3000\n", "choices": ["\u00e4\u00f6\u00fc", "x"], "answer": 1},
    {"context": "", "choices": ["the", "cat"], "answer": 1, "delimiter": ""},
    {"context": "a:", "choices": ["dog", "dog ran"], "answer": 0, "delimiter": " -> "},
]
WORDS = [{"context": "the cat sat on a", "target": " mat."}, {"context": "the dog ", "target": "ran"},
         {"context": "", "target": "the"}]


def as_bytes(context, continuation):
    """lm_eval's _encode_pair and loglikelihood, where every byte is a token."""
    kept = context.rstrip()
    return list(kept.encode()) or [0], list((context[len(kept):] + continuation).encode())


@pytest.mark.parametrize("kind", ["choices", "words"])
def test_text_is_the_bytes_that_lm_eval_makes_of_it(trained, kind, tmp_path):
    ids = []
    for one in QUESTIONS if kind == "choices" else WORDS:
        if kind == "words":
            context, target = as_bytes(one["context"], one["target"])
            ids.append({"context_ids": context, "target_ids": target})
            continue
        pairs = [as_bytes(one["context"], one.get("delimiter", " ") + choice) for choice in one["choices"]]
        ids.append({"context_ids": pairs[0][0], "choice_ids": [choice for _, choice in pairs], "answer": one["answer"],
                    "choice_chars": [len(choice) for choice in one["choices"]],
                    "choice_bytes": [len(choice.encode()) for choice in one["choices"]]})
    model = ["--resume", trained, "--seq-len", 16]
    texts = write_rows(tmp_path / "texts.jsonl", QUESTIONS if kind == "choices" else WORDS)
    of_text = ask(model, texts, tmp_path)[1]
    made = run_script("data/prepare_eval.py", "jsonl", texts, "--tokenizer", "bytes", "--out", tmp_path / "made.jsonl")
    assert made.returncode == 0 and made.stdout.startswith(f"{tmp_path}/made.jsonl: {len(ids)} items, "), made.stderr
    assert list(map(json.loads, (tmp_path / "made.jsonl").read_text().splitlines()))[1:] == ids
    of_ids = ask(model, tmp_path / "made.jsonl", tmp_path)[1]
    assert [dict(one, file=0, row=one["row"] + 1) for one in of_text] == [dict(one, file=0) for one in of_ids]


def test_several_files_are_asked_one_after_the_other_and_kept_where_out_is_named(trained, tmp_path):
    first = write_rows(tmp_path / "a.jsonl", QUESTIONS)
    second = write_rows(tmp_path / "b.jsonl", ["", *map(json.dumps, WORDS), " "])
    text = run("--resume", trained, "--eval", f"{first},{second}").stdout
    assert [line.split(":")[0] for line in text.splitlines()] == [str(first), str(second)] and metrics(trained, "eval") == []
    run("--resume", trained, "--eval", second, "--out", trained)
    line = metrics(trained, "eval")
    assert len(line) == 1 and line[0]["step"] == 6 and line[0]["items"] == 3 and line[0]["kind"] == "last word"
    one = write_rows(tmp_path / "one.jsonl", QUESTIONS[:1])
    assert "±" not in run("--resume", trained, "--eval", one).stdout  # of one there is no deviation


# ---------------------------------------------------------------------------------------------------------
# What cannot be asked

GOOD = {"context_ids": [1, 2], "choice_ids": [[3], [4]], "answer": 0}
BAD = {
    "no choices": ({"context_ids": [1]}, "no choices"),
    "an empty list of choices": (dict(GOOD, choice_ids=[]), "there are none"),
    "no answer": ({"context_ids": [1], "choice_ids": [[3], [4]]}, "no 'answer'"),
    "an answer beyond": (dict(GOOD, answer=2), "'answer'"),
    "half an answer": (dict(GOOD, answer=0.5), "whole"),
    "a choice of no tokens": (dict(GOOD, choice_ids=[[3], []]), "choice 1 of 'choice_ids' holds no tokens"),
    "no context": (dict(GOOD, context_ids=[]), "'context_ids' holds no tokens"),
    "a context of text": (dict(GOOD, context_ids="a"), "must be a list of token ids"),
    "a token beyond": (dict(GOOD, choice_ids=[[3], [256]]), "token 256; --vocab-size is 256"),
    "a token below": (dict(GOOD, choice_ids=[[3], [-1]]), "no token id"),
    "a huge token": (dict(GOOD, choice_ids=[[3], [1e300]]), "no token id"),
    "a token of text": (dict(GOOD, choice_ids=[[3], ["x"]]), "no token id"),
    "a choice that does not fit": (dict(GOOD, choice_ids=[[3], [4] * 17]), "17 tokens; --seq-len 16"),
    "too few lengths": (dict(GOOD, choice_chars=[1]), "2 lengths"),
    "a length of nothing": (dict(GOOD, choice_bytes=[1, 0]), "above 0"),
    "lengths in some rows": (dict(GOOD, choice_bytes=[1, 1]), "in all rows or in none"),
    "an unknown field": (dict(GOOD, choice_words=[1, 1]), "'choice_words' has no meaning here"),
    "another kind": ({"context_ids": [1], "target_ids": [1]}, "a last word in a file of choices"),
    "an empty choice": ({"context": "a", "choices": ["", "b"], "answer": 0}, "choice 0 is empty"),
    "an empty word": ({"context": "a", "target": ""}, "'target' is empty"),
    "a choice of no text": ({"context": "a", "choices": ["b", 1], "answer": 0}, "choice 1 of 'choices' must be a text"),
    "no JSON": ('{"context_ids": [1', "no valid JSON"),
    "no object": ("[1]", "not a JSON object"),
    "a field twice": ('{"answer": 0, "answer": 0}', "twice"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_row_that_cannot_be_asked_is_refused_by_file_and_row(trained, what, tmp_path):
    row, says = BAD[what]
    path = write_rows(tmp_path / "items.jsonl", [GOOD] * 6 + [row, GOOD])
    refused("--resume", trained, "--eval", path, "--eval-out", tmp_path / "out", says=(f"{path}, row 7: ", says))
    assert os.listdir(tmp_path) == ["items.jsonl"]


def test_ids_of_another_tokenizer_are_refused(trained, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(file_bytes(trained, "latest", name))
    mine = hashlib.sha256(b"{}").hexdigest()
    rows = [{"tokenizer_sha256": mine}, GOOD, GOOD]
    path, model = write_rows(tmp_path / "items.jsonl", rows), ["--init-from", tmp_path, "--batch-size", 4]
    assert "2 items" in run(*model, "--eval", path).stdout  # nothing says that it is another
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "2 items" in run(*model, "--eval", path).stdout
    (tmp_path / "tokenizer.json").write_text("{ }")
    refused(*model, "--eval", path, says=("ids of another tokenizer", mine[:8], "--allow-change"))
    assert "2 items" in run(*model, "--eval", path, "--allow-change").stdout
    for wrong in ({"tokenizer_sha256": "x"}, {"tokenizer_sha256": 1}, dict(GOOD, tokenizer_sha256=mine)):
        refused(*model, "--eval", write_rows(path, [wrong, GOOD]), says=("row 1", "'tokenizer_sha256'"))
    refused(*model, "--eval", write_rows(path, [GOOD, rows[0]]), says="row 2")


@pytest.mark.skipif(not shutil.which("mpirun"), reason="no mpirun")
def test_several_processes_are_refused(trained, data, tmp_path):
    path = write_rows(tmp_path / "items.jsonl", [GOOD])
    for mode in (["--eval", path], ["--eval-only", *data[2:]]):
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", PROGRAM, "--resume", trained, *mode]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment(), timeout=120, check=False)
        says = f"started 2 processes: only training runs on several; start {mode[0]} as one, ./train_gpt by itself\n"
        assert done.returncode == 2 and says in done.stderr


def test_files_that_hold_no_items_are_refused(trained, tmp_path):
    empty, model = write_rows(tmp_path / "empty.jsonl", []), ["--resume", trained]
    refused(*model, "--eval", empty, says=(str(empty), "no items"))
    refused(*model, "--eval", tmp_path / "none", says="none")
    refused(*model, "--eval", tmp_path, says="not a regular file")
    refused(*model, "--eval", f"{empty},", says="empty")
    refused(*model, "--eval", os.path.join(trained, "latest", "model.safetensors"), says="row 1")
    write_rows(tmp_path / "long.jsonl", [GOOD, '{"id": "' + "x" * (17 << 20)])
    refused(*model, "--eval", tmp_path / "long.jsonl", says="row 2: longer than 16 MiB")
    good = write_rows(tmp_path / "good.jsonl", [GOOD])
    refused(*SMALL, "--eval", good, says="--resume RUN or --init-from FILE")
    refused(*model, "--eval", good, "--eval-out", tmp_path, says="no file")
    before = good.read_bytes()
    os.symlink(good.name, tmp_path / "same.jsonl")
    refused(*model, "--eval", tmp_path / "same.jsonl", "--eval-out", good, says="the questions themselves")
    assert good.read_bytes() == before
    refused(*model, "--eval", good, "--eval-out", tmp_path / "none" / "x", says="cannot create")
    text = write_rows(tmp_path / "text.jsonl", QUESTIONS)
    fixture = Fixture("fixtures/gpt2")
    refused(*fixture.arguments, "--vocab-size", fixture.V, "--eval", text, says="holds byte")


def test_text_is_refused_by_models_of_other_tokens(tmp_path):
    shard = tmp_path / "a.bin"
    write_shard(shard, [i * i % 300 for i in range(400)])
    run(*SMALL, "--vocab-size", 300, "--train-data", shard, "--steps", 1, "--out", tmp_path / "run")
    text = write_rows(tmp_path / "text.jsonl", QUESTIONS)
    refused("--resume", tmp_path / "run", "--eval", text, says=("row 1", "data/prepare_eval.py"))


def test_weights_that_are_no_numbers_end_with_3_and_name_the_row(trained, tmp_path):
    weights = read_tensors(os.path.join(trained, "latest", "model.safetensors"))
    tensors = {name: value.copy() for name, value in weights.items()}
    next(value for name, value in tensors.items() if name.endswith("ln_f.bias"))[0] = math.nan
    write_tensors(tmp_path / "bad.safetensors", tensors)
    path = write_rows(tmp_path / "a.jsonl", QUESTIONS)
    said = run(*SMALL, "--init-from", tmp_path / "bad.safetensors", "--eval", path, "--eval-out", tmp_path / "out", code=3,
               before=r"(?:train_gpt: [^\n]*\n)*").stderr
    assert f"{path}, row 1: the likelihood is not finite" in said
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "bad.safetensors"]


def test_how_far_it_is_is_said_and_an_interrupt_leaves_nothing(trained, tmp_path):
    path = write_rows(tmp_path / "a.jsonl", QUESTIONS * 20000)
    command = [PROGRAM, "--resume", trained, "--eval", path, "--eval-out", tmp_path / "out", "--batch-size", 1,
               "--device", "cpu"]  # fmt: skip
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
                          text=True) as process:
        first = process.stderr.readline()  # after three seconds
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert re.fullmatch(rf"{path}: \d+ % of 80000 items, \d+:\d\d left\n", first)
    assert process.returncode == 1 and out == ""
    assert re.fullmatch(rf"train_gpt: --eval: SIGINT after \d+ of 80000 items of {path}\n", said), said
    assert os.listdir(tmp_path) == ["a.jsonl"]


# ---------------------------------------------------------------------------------------------------------
# Validation

def bits(line):
    return line["loss"] * line["tokens"] / line["bytes"] / math.log(2)


def test_a_validation_tells_perplexity_and_bits_per_byte(trained, data):
    for line in metrics(trained, "val"):
        assert line["perplexity"] == pytest.approx(math.exp(line["loss"]))
        assert line["bytes"] == line["tokens"] and line["bits_per_byte"] == pytest.approx(bits(line))
    said = run("--resume", trained, "--eval-only", *data[2:]).stdout.splitlines()[1]
    last = metrics(trained, "val")[-1]
    assert said == f"perplexity {last['perplexity']:.6g}, {last['bits_per_byte']:.6f} bits/byte over {last['bytes']} bytes"


def write_table(folder, lengths, end=None):
    folder.mkdir()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("i8")
    header = {"__metadata__": {"format": "token_bytes", **({"end_of_document": str(end)} if end is not None else {})},
              "offsets": {"dtype": "I64", "shape": [len(offsets)], "data_offsets": [0, offsets.nbytes]},
              "bytes": {"dtype": "U8", "shape": [int(offsets[-1])],
                        "data_offsets": [offsets.nbytes, offsets.nbytes + int(offsets[-1])]}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "token_bytes.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + offsets.tobytes() + b"x" * int(offsets[-1]))


def test_bytes_are_those_of_the_very_tokens_that_were_validated(tmp_path):
    draw, T = random.Random(3), 16
    tokens = [draw.randrange(300) for _ in range(10 * T + 1)]  # ten windows, each validated once
    lengths = [draw.randrange(6) for _ in range(299)] + [0]
    write_shard(tmp_path / "set_train_000000.bin", tokens)
    write_shard(tmp_path / "set_val_000000.bin", tokens)
    files = ["--train-data", tmp_path / "set_train_*.bin", "--val-data", tmp_path / "set_val_*.bin"]
    short = [*SMALL, "--vocab-size", 300, *files, "--steps", 1]
    run(*short, "--out", tmp_path / "unknown")
    (line,) = metrics(tmp_path / "unknown", "val")
    assert line["bytes"] == 0 and line["bits_per_byte"] is None
    write_table(tmp_path / "set.tokenizer", lengths, end=299)
    run(*short, "--out", tmp_path / "known")
    (line,) = metrics(tmp_path / "known", "val")
    assert line["bytes"] == sum(lengths[token] for token in tokens[1:]) and line["tokens"] == 10 * T
    assert line["bits_per_byte"] == pytest.approx(bits(line))


def test_a_model_of_bytes_with_ids_of_its_own_is_asked_text(tmp_path):
    """Where the table says that tokens are bytes, in whatever order, with one more for the end of documents."""
    write_shard(tmp_path / "set_train_000000.bin", [draw % 257 for draw in range(400)])
    write_table(tmp_path / "set.tokenizer", [1] * 256 + [0], end=256)
    path = tmp_path / "set.tokenizer" / "token_bytes.safetensors"
    order = bytes((5 * byte + 3) % 256 for byte in range(256))  # of each id, its byte
    path.write_bytes(path.read_bytes()[:-256] + order)
    run(*SMALL, "--vocab-size", 257, "--train-data", tmp_path / "set_train_*.bin", "--steps", 1, "--out", tmp_path / "run")
    (tmp_path / "run" / "latest" / "token_bytes.safetensors").write_bytes(path.read_bytes())
    ids = [{"context_ids": [order.index(byte) for byte in context] if context != [0] else [256],
            "target_ids": [order.index(byte) for byte in target]}
           for context, target in (as_bytes(one["context"], one["target"]) for one in WORDS)]
    answers = [ask(["--resume", tmp_path / "run"], write_rows(tmp_path / "items.jsonl", rows), tmp_path)[1]
               for rows in (WORDS, ids)]
    assert answers[0] == answers[1]
