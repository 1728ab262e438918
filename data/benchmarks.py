"""What do benchmarks ask? Their own published files, in the words of lm_eval's tasks (lm_eval 0.4.13).

A reader takes one record of a file and makes an item of it: {"context", "choices", "answer"} or {"context", "target"};
between context and choice stands a space. To add a benchmark: a reader, and a row in READERS.
"""
import json
import re

from console import Failure, os_failure


class BadRow(Exception):
    """What is wrong with one record, without its file and row."""


def field(record, name, kind=str):
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise BadRow("%r must be a %s" % (name, {str: "text", dict: "object", list: "list"}.get(kind, "number")))
    return value


def whole(value, name):
    """A label, as a number or in digits."""
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", str(value)):
        raise BadRow("%r must be the number of a choice; it is %.40r%s" % (
            name, value, " (the benchmark's test files have none)" if value in ("", None) else ""))  # fmt: skip
    return int(value)


def choose(context, choices, answer):
    if not choices:
        raise BadRow("no choices")
    for choice in choices:
        if not isinstance(choice, str):
            raise BadRow("a choice must be a text")
        if not choice:
            raise BadRow("a choice is empty")
    if not 0 <= answer < len(choices):
        raise BadRow("the right choice is number %d of %d, counted from 0" % (answer, len(choices)))
    return {"context": context, "choices": choices, "answer": answer}


def clean(text):
    """HellaSwag's texts come from WikiHow and bring its brackets."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub("\\[.*?\\]", "", text).replace("  ", " ")


def hellaswag(record):
    context = field(record, "ctx_a") + " " + field(record, "ctx_b").capitalize()
    endings = [clean(ending) if isinstance(ending, str) else ending for ending in field(record, "endings", list)]
    context = clean(field(record, "activity_label") + ": " + context)
    return choose(context, endings, whole(record.get("label"), "label"))


def arc(record):
    """AI2's file, whose question holds its choices, or the Hub's."""
    question = record.get("question")
    if isinstance(question, dict):
        found = field(question, "choices", list)
        if not all(isinstance(one, dict) for one in found):
            raise BadRow("'choices' must be a list of objects")
        texts, labels = ([one.get(name) for one in found] for name in ("text", "label"))
        question = field(question, "stem")
    else:
        question, found = field(record, "question"), field(record, "choices", dict)
        texts, labels = field(found, "text", list), field(found, "label", list)
    if record.get("answerKey") not in labels or len(labels) != len(texts):
        raise BadRow("'answerKey' is %.40r, the choices are %.80r" % (record.get("answerKey"), labels))
    return choose("Question: %s\nAnswer:" % question, texts, labels.index(record["answerKey"]))


def piqa(record):
    context = "Question: %s\nAnswer:" % field(record, "goal")
    return choose(context, [field(record, "sol1"), field(record, "sol2")], whole(record.get("label"), "label"))


def lambada(record):
    words = field(record, "text").split(" ")
    if not words[-1]:
        raise BadRow("the text ends with a space, so it has no last word")
    return {"context": " ".join(words[:-1]), "target": " " + words[-1]}


def plain(record):
    """The text form that train_gpt reads itself (README.md)."""
    known = {"context", "delimiter", "id"} | ({"choices", "answer"} if "choices" in record else {"target"})
    if set(record) - known:
        raise BadRow("field %.100r has no meaning here" % sorted(set(record) - known)[0])
    if "choices" in record:
        item = choose(field(record, "context"), field(record, "choices", list), whole(record.get("answer"), "answer"))
    else:
        item = {"context": field(record, "context"), "target": field(record, "target")}
        if not item["target"]:
            raise BadRow("'target' is empty")
    if "delimiter" in record:
        item["delimiter"] = field(record, "delimiter")
    return item


READERS = {"hellaswag": hellaswag, "arc": arc, "piqa": piqa, "lambada": lambada, "jsonl": plain}


def lines(path):
    """(row from 1, line) of those that are not blank."""
    try:
        with open(path, "rb") as file:
            for row, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if row == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    raise Failure("%s, row %d: not UTF-8" % (path, row)) from None
                if text.strip():
                    yield row, text
    except OSError as error:
        raise os_failure(path, error, exit_code=2) from None


def records(kind, path, labels=None):
    """(row, record): JSON lines; LAMBADA's may be plain text, PIQA's labels in a file of their own."""
    label_of = [text.strip() for _, text in lines(labels)] if labels else None
    count = 0
    for row, text in lines(path):
        if kind == "lambada" and not text.lstrip().startswith("{"):
            record = {"text": text}
        else:
            try:
                record = json.loads(text)
            except (ValueError, RecursionError):
                raise Failure("%s, row %d: not valid JSON" % (path, row)) from None
        if not isinstance(record, dict):
            raise Failure("%s, row %d: not an object" % (path, row))
        if label_of is not None:
            if count >= len(label_of):
                raise Failure("%s holds %d labels, %s has more rows" % (labels, len(label_of), path))
            record["label"] = label_of[count]
        count += 1
        yield row, record
    if label_of is not None and count != len(label_of):
        raise Failure("%s holds %d labels, %s has %d rows" % (labels, len(label_of), path, count))


def items(kind, path, labels=None):
    """(row, item) of a benchmark's file; Failure names file and row."""
    for row, record in records(kind, path, labels):
        try:
            yield row, READERS[kind](record)
        except BadRow as bad:
            raise Failure("%s, row %d: %s" % (path, row, bad)) from None
