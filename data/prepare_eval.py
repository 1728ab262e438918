#!/usr/bin/env python3
"""Turns a benchmark's own file into the questions that `train_gpt --eval` asks, asked as lm_eval asks them."""
import argparse
import contextlib
import json
import os
import shlex
import sys

import pairs
from benchmarks import READERS, items
from console import Arguments, Failure, os_failure, run_tool, say
from unknown import Unknown, describe

EXAMPLES = """examples:
  data/prepare_eval.py hellaswag hellaswag_val.jsonl --tokenizer out/run --out hellaswag.jsonl
  data/prepare_eval.py arc ARC-Easy-Test.jsonl --tokenizer out/data/books.tokenizer --out arc_easy.jsonl
  data/prepare_eval.py piqa valid.jsonl --labels valid-labels.lst --tokenizer out/run --out piqa.jsonl
  data/prepare_eval.py lambada lambada_test.jsonl --tokenizer out/run --out lambada.jsonl
  data/prepare_eval.py jsonl questions.jsonl --tokenizer bytes --out questions_ids.jsonl

then:
  ./train_gpt --resume out/run --eval hellaswag.jsonl,arc_easy.jsonl

Nothing is fetched: the files are the benchmarks' own (HellaSwag's and PIQA's .jsonl, ARC's .jsonl of AI2 or of the
Hub, LAMBADA's .jsonl or plain text), or, as `jsonl`, your own: {"context", "choices", "answer"} or {"context", "target"}
a line.
"""


def parse_arguments(arguments):
    parser = Arguments("prepare_eval.py", description=__doc__, epilog=EXAMPLES,
                       formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("kind", choices=sorted(READERS), help="whose file it is")
    add("file", metavar="FILE")
    add("--tokenizer", required=True, metavar="T",
        help="bytes; a tokenizer.json or its folder; a run or checkpoint that holds one")  # fmt: skip
    add("--out", required=True, metavar="FILE")
    add("--labels", metavar="FILE", help="piqa: the right answers, a line each, where they are in a file of their own")
    add("--limit", type=int, metavar="N", help="the first N items only")
    chosen = parser.parse_args(arguments)
    if chosen.labels and chosen.kind != "piqa":
        raise Failure("--labels is for piqa")
    if chosen.limit is not None and chosen.limit < 1:
        raise Failure("--limit %d: 1 or more is allowed" % chosen.limit)
    return chosen


def write_items(chosen, tokenizer, file):
    """(items, tokens that a model will read, what of the texts is Unknown)."""
    count, tokens, unknown = 0, 0, Unknown(tokenizer.becomes)
    json.dump({"tokenizer_sha256": tokenizer.sha256}, file)
    file.write("\n")
    for row, item in items(chosen.kind, chosen.file, chosen.labels):
        try:
            ids = pairs.ids_of(tokenizer, item)
        except ValueError as wrong:
            raise Failure("%s, row %d: %s" % (chosen.file, row, wrong)) from None
        for text in (item["context"], *item.get("choices", ()), item.get("target", "")):
            unknown.add(text, tokenizer.gaps(text), lambda at, row=row: "%s:%d" % (chosen.file, row))
        json.dump(ids, file, separators=(",", ":"))
        file.write("\n")
        count += 1
        tokens += sum(len(ids["context_ids"]) + len(one) - 1 for one in ids.get("choice_ids") or [ids["target_ids"]])
        if count == chosen.limit:
            break
    if not count:
        raise Failure("%s holds no items" % chosen.file)
    return count, tokens, unknown


def work(arguments):
    chosen = parse_arguments(arguments)
    tokenizer = pairs.find(chosen.tokenizer)
    partial = chosen.out + ".partial"
    for read in filter(None, (chosen.file, chosen.labels)):
        with contextlib.suppress(OSError):
            if os.path.samefile(read, chosen.out):
                raise Failure("--out %s: these are the questions themselves" % chosen.out)
    try:
        with open(partial, "w", encoding="utf-8") as file:
            count, tokens, unknown = write_items(chosen, tokenizer, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, chosen.out)
    except OSError as error:
        raise os_failure(error.filename or chosen.out, error) from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)
    note = describe(unknown.facts())
    if note:
        say("prepare_eval.py: note: " + note)
    return "%s: %d items, %d tokens to read\n./train_gpt --resume RUN --eval %s" % (
        chosen.out, count, tokens, shlex.quote(chosen.out))  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_tool("prepare_eval.py", work, sys.argv[1:]))
