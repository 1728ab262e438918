"""Does data/prepare_eval.py ask a benchmark's questions in lm_eval's words and tokens?

The records are made up, in the forms of the published files; what is expected of them was read off lm_eval's tasks
(test/hf/test_lm_eval.py asks lm_eval itself where it is installed).
"""
import json
import os
import re
import sys

import pytest

from program import ROOT, run_script

sys.path.insert(0, os.path.join(ROOT, "data"))

import benchmarks  # noqa: E402
import pairs  # noqa: E402

SWAG = {"ind": 1, "activity_label": "Baking", "ctx_a": "A man [title] stirs.", "ctx_b": "he Then", "ctx": "unused", "label": 1,
        "endings": ["eats  it [substeps] all.", " walks away. ", "x", "sings [a [b] c"], "split": "val"}
ARC = {"id": "a", "question": {"stem": "Why?", "choices": [{"text": "one", "label": "A"}, {"text": "two", "label": "B"}]},
       "answerKey": "B"}
ARC_HUB = {"question": "Why?", "choices": {"text": ["one", "two"], "label": ["1", "2"]}, "answerKey": "1"}
PIQA = {"goal": "To open it", "sol1": "push", "sol2": "pull"}
READ = [
    ("hellaswag", SWAG, {"context": "Baking: A man. stirs. He then", "answer": 1,
                         "choices": ["eats it all.", "walks away.", "x", "sings c"]}),
    ("arc", ARC, {"context": "Question: Why?\nAnswer:", "choices": ["one", "two"], "answer": 1}),
    ("arc", ARC_HUB, {"context": "Question: Why?\nAnswer:", "choices": ["one", "two"], "answer": 0}),
    ("piqa", dict(PIQA, label=1), {"context": "Question: To open it\nAnswer:", "choices": ["push", "pull"], "answer": 1}),
    ("lambada", {"text": "He said  it was red"}, {"context": "He said  it was", "target": " red"}),
    ("jsonl", {"context": "a", "choices": ["b", "c"], "answer": 1, "delimiter": ""},
     {"context": "a", "choices": ["b", "c"], "answer": 1, "delimiter": ""}),
]


@pytest.mark.parametrize("kind, record, item", READ)
def test_a_record_is_asked_as_lm_evals_task_asks_it(kind, record, item, tmp_path):
    (tmp_path / "f").write_text("\n" + json.dumps(record) + "\n", encoding="utf-8")
    assert list(benchmarks.items(kind, str(tmp_path / "f"))) == [(2, item)]


def prepare(tmp_path, kind, lines, *more, tokenizer="bytes", code=0):
    (tmp_path / "f").write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines),
                                encoding="utf-8", errors="surrogatepass")  # fmt: skip
    done = run_script("data/prepare_eval.py", kind, tmp_path / "f", "--tokenizer", tokenizer, "--out", tmp_path / "out", *more)
    assert done.returncode == code, done.stderr
    assert not (tmp_path / "out.partial").exists() and (code == 0) == (tmp_path / "out").exists()
    if code:
        return done.stderr
    first, *rows = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert re.fullmatch("[0-9a-f]{64}", first.pop("tokenizer_sha256")) and not first
    return rows


def test_labels_may_be_in_a_file_of_their_own_and_words_in_plain_text(tmp_path):
    (tmp_path / "labels").write_text("1\n0\n")
    rows = prepare(tmp_path, "piqa", [PIQA, PIQA], "--labels", tmp_path / "labels")
    assert [row["answer"] for row in rows] == [1, 0] and rows[0]["choice_ids"][0] == list(b" push")
    (tmp_path / "out").unlink()
    assert "holds 2 labels" in prepare(tmp_path, "piqa", [PIQA], "--labels", tmp_path / "labels", code=2)
    rows = prepare(tmp_path, "lambada", ["it was red", "she is here"], "--limit", 1)
    assert rows == [{"context_ids": list(b"it was"), "target_ids": list(b" red")}]


BAD = [
    ("hellaswag", dict(SWAG, label=""), "the benchmark's test files have none"),
    ("hellaswag", dict(SWAG, label=4), "number 4 of 4"),
    ("hellaswag", dict(SWAG, endings=[]), "no choices"),
    ("hellaswag", {"ctx": "x"}, "'ctx_a' must be a text"),
    ("arc", dict(ARC, answerKey="E"), "'answerKey'"),
    ("arc", dict(ARC, question={"stem": "a", "choices": ["b"]}), "list of objects"),
    ("piqa", PIQA, "'label'"),
    ("lambada", {"text": "ends with "}, "no last word"),
    ("jsonl", {"context": "a", "choices": ["b", ""], "answer": 0}, "a choice is empty"),
    ("jsonl", {"context": " ", "choices": ["b"], "answer": 0}, "blanks alone"),
    ("jsonl", {"context": "a", "choice": ["b"], "answer": 0}, "has no meaning here"),
    ("jsonl", {"context": "a", "target": "\ud800"}, "no text"),
    ("jsonl", "{", "not valid JSON"),
    ("jsonl", "[]", "not an object"),
]


@pytest.mark.parametrize("kind, record, says", BAD)
def test_a_record_that_cannot_be_asked_is_refused_by_file_and_row(kind, record, says, tmp_path):
    good = next(one for which, one, _ in READ if which == kind)
    said = prepare(tmp_path, kind, [good, record], code=2)
    assert said.startswith(f"prepare_eval.py: {tmp_path}/f, row 2: ") and says in said and said.count("\n") == 1


def test_questions_are_not_replaced_by_their_ids(tmp_path):
    text = json.dumps(READ[-1][1]) + "\n"
    (tmp_path / "out").write_text(text)
    os.symlink("out", tmp_path / "f")
    done = run_script("data/prepare_eval.py", "jsonl", tmp_path / "f", "--tokenizer", "bytes", "--out", tmp_path / "out")
    assert done.returncode == 2 and "these are the questions themselves" in done.stderr
    assert (tmp_path / "out").read_text() == text and sorted(os.listdir(tmp_path)) == ["f", "out"]


def test_files_without_items_or_tokenizer_are_refused(tmp_path):
    assert "holds no items" in prepare(tmp_path, "jsonl", ["", " "], code=2)
    assert "tokenizer" in prepare(tmp_path, "jsonl", [READ[-1][1]], tokenizer=tmp_path, code=2)


# ---------------------------------------------------------------------------------------------------------
# Tokenizers

TEXT = ["the cat sat on the mat", "where is the dog? the dog ran", "Question: what?\nAnswer: a dog"] * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A byte-level tokenizer with merges over spaces' borders, as GPT-2's, whose texts begin with <s>."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(TEXT, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)])
    path = tmp_path_factory.mktemp("run") / "run"
    (path / "latest").mkdir(parents=True)
    made.save(str(path / "latest" / "tokenizer.json"))
    return path


def settings(folder, **values):
    (folder / "latest" / "tokenizer_config.json").write_text(json.dumps(values))
    return pairs.find(str(folder))


def test_context_and_continuation_are_encoded_together_and_blanks_move(folder):
    made = settings(folder, bos_token="<s>", eos_token={"content": "</s>"})
    plain = made._tokenizer
    for context, continuation in [("the cat", " sat"), ("the cat ", "sat"), ("Answer:", " a dog"), ("where \n ", "is")]:
        before, after = pairs.pair(made, context, continuation)
        kept = context.rstrip()
        assert before == plain.encode(kept).ids and before[0] == 0
        assert before + after == before + plain.encode(context + continuation).ids[len(before):] and after
    # "the cat" has fewer tokens than "the c" and "at": what lm_eval takes then is what is left behind as many as "the c" has
    assert pairs.pair(made, "the c", "at")[1] == [] and plain.encode("at", add_special_tokens=False).ids
    with pytest.raises(ValueError, match="no tokens"):
        pairs.ids_of(made, {"context": "the c", "target": "at"})


def test_what_stands_in_place_of_an_empty_context(folder):
    made = settings(folder, bos_token="<s>", eos_token="</s>")
    ids = made._tokenizer.encode("the", add_special_tokens=False).ids
    assert pairs.pair(made, "", "the") == ([0], ids)
    assert pairs.pair(made, "", "<s>the") == ([0], ids)  # it is there already
    assert pairs.pair(settings(folder, eos_token="</s>"), "", "the") == ([1], ids)
    with pytest.raises(ValueError, match="no bos_token or eos_token"):
        pairs.pair(settings(folder), "", "the")


def test_whether_texts_begin_with_a_token_is_the_tokenizers_word(folder):
    assert settings(folder, bos_token="<s>").encode("the")[0] == 0
    assert settings(folder, bos_token="<s>", add_bos_token=False).encode("the")[0] != 0
    assert settings(folder, bos_token="</s>", add_bos_token=True).encode("the")[:2] == [1, 0]
    assert settings(folder, bos_token="<s>").encode("<s>the").count(0) == 1


def test_what_a_tokenizer_has_for_batches_cuts_and_pads_no_question(folder, tmp_path):
    plain = pairs.pair(settings(folder, bos_token="<s>"), "the cat sat on", " the mat")
    made = json.loads((folder / "latest" / "tokenizer.json").read_text())
    made["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    made["padding"] = {"strategy": {"Fixed": 40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
                       "pad_type_id": 0, "pad_token": "</s>"}
    made["model"]["dropout"] = 0.9
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "tokenizer.json").write_text(json.dumps(made))
    assert pairs.pair(settings(tmp_path, bos_token="<s>"), "the cat sat on", " the mat") == plain


def test_a_run_with_a_tokenizer_is_enough(folder, tmp_path):
    settings(folder, bos_token="<s>")
    rows = prepare(tmp_path, "arc", [ARC], tokenizer=folder)
    assert rows[0]["context_ids"][0] == 0 and rows[0]["choice_chars"] == [3, 3] == rows[0]["choice_bytes"]
