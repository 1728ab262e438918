#!/usr/bin/env python3
"""The bundled synthetic language: text whose entropy is known, so that a training run can be judged.

Short English-like sentences from a fixed grammar: subjects and verbs agree, across brackets that must close
in the right order; names are copied; small sums come out right. grammar.py computes from the weights below
what the best possible reader loses per byte (the floor): never fitted, and reached only by a model that has
learned every rule. A count model that sees the two bytes before stays far above it.
"""
import argparse
import math
import sys
from collections import Counter

from console import Arguments, Failure, Progress, run_tool
from encoders import ByteEncoder
from grammar import Grammar, Reader, check_unambiguous, line_entropy_and_length, sample_bytes
from shards import ShardSet, check_name, pack_bytes
from tokenizer_files import tokenizer_facts, tokenizer_files

LANGUAGE = {
    "line": [
        (4, "{:one} {:noun}{:one aside} {:verb}s {:object}."),
        (4, "{:many} {:noun}s{:many aside} {:verb} {:object}."),
        (3, "{:name} {:act}s {:how}."),
        (3, "{:name} and {:name} {:act} {:how}."),
        (2, "{:name} has {a:term} {what:fruit}s and {b:term} more: {a+b} {what}s."),
        (2, "{a:term} + {b:term} = {a+b}."),
        (2, "where is {who:name}? {who} is {:place}."),
    ],
    "object": [(2, "{:one} {:noun}"), (2, "{:many} {:noun}s"), (1, "{:name}")],
    "one aside": [(3, "{:aside}"), (1, " (who {:act}s {:how})")],
    "many aside": [(3, "{:aside}"), (1, " (who {:act} {:how})")],
    "aside": [(4, ""), " [of {:name}]", " (near {:object})", " (near {:one} {:noun} [of {:name}])"],
    "one": ["a", "each", "her", "one", "the", "this"],
    "many": ["few", "her", "some", "the", "these", "two"],
    "name": "ada bo cleo dan eve finn gus ivy jo kim leo mira nora otto pia tom".split(),
    "noun": "ant bear cat cow crab dog duck eel frog goat hen king lamb mole newt owl pig rat seal toad wasp "
            "yak".split(),  # fmt: skip
    "verb": "admire follow greet help like meet need paint see thank visit want".split(),
    "act": "bake dance eat hum jump read rest sing sleep wait work".split(),
    "how": ["{:place}", "alone", "well", "with {:name}", "for {:digit} days"],
    "place": ["at home", "by the sea", "in bed", "near the mill", "on a hill", "under a tree"],
    "fruit": "apple bean fig lemon melon pear plum".split(),
    "digit": list("23456789"),
    "term": list("2345"),  # sixteen sums: with more, a small model has not learned them after two minutes
}

ADD_K = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def order2_loss(train, val, ks=ADD_K):
    """(nats per byte, k) of the best add-k count model that sees the two bytes before.

    Counted on the training split; k is chosen on the validation split, which can only flatter the model.
    """
    triples = Counter(zip(train, train[1:], train[2:]))
    pairs = Counter()
    for (first, second, _), count in triples.items():
        pairs[first, second] += count
    seen = [(n, triples[t], pairs[t[:2]]) for t, n in Counter(zip(val, val[1:], val[2:])).items()]
    total = sum(n for n, _, _ in seen)
    return min((-sum(n * math.log((t + k) / (p + 256 * k)) for n, t, p in seen) / total, k) for k in ks)


def describe(window):
    """(grammar, its facts for language.json): everything that follows from the weights alone."""
    grammar = Grammar(LANGUAGE)
    reader = Reader(grammar)
    check_unambiguous(grammar, reader)
    nats, length = line_entropy_and_length(grammar)
    return grammar, {
        "window": window,
        "floor_nats_per_token": round(reader.window_floor(window), 9),
        "entropy_rate_nats_per_token": round(nats / length, 9),
        "line_entropy_nats": round(nats, 9),
        "line_bytes_expected": round(length, 9),
    }


def write_language(folder, name, train_bytes, val_bytes, seed, window):
    grammar, facts = describe(window)
    total = train_bytes + val_bytes
    progress = Progress("language")
    text = sample_bytes(grammar, total, seed, lambda n: progress.update(n, n / total))
    progress.clear()
    train, val = text[:train_bytes], text[train_bytes:]
    loss, k = order2_loss(train, val)
    facts.update(order2_nats_per_token=round(loss, 9), order2_add_k=k)
    files, _ = tokenizer_files(ByteEncoder())
    facts.update(tokenizer_facts(ByteEncoder(), files, separated=False), seed=seed)
    with ShardSet(folder, name, vocab_size=256, shard_tokens=100_000_000) as shards:
        shards.train.write(pack_bytes(train))
        shards.val.write(pack_bytes(val))
        shards.commit(facts, files)
    return facts, text[:400]


def parse_arguments(arguments):
    parser = Arguments(
        prog="language.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="Writes NAME_train_000000.bin, NAME_val_000000.bin and NAME.json into DIR. Example:\n\n"
        "  data/language.py --out out/demo\n"
        "  ./train_gpt --preset tiny --train-data 'out/demo/language_train_*.bin' \\\n"
        "              --val-data 'out/demo/language_val_*.bin'\n",
    )
    parser.add_argument("--out", metavar="DIR", default=".", help="folder to write into (default: this one)")
    parser.add_argument("--name", default="language", help="the set's name (default: language)")
    parser.add_argument("--train-bytes", type=int, default=6_000_000, metavar="N", help="default 6000000")
    parser.add_argument("--val-bytes", type=int, default=400_000, metavar="N", help="default 400000")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same bytes (default 1)")
    parser.add_argument("--window", type=int, default=128, metavar="T",
                        help="the sequence length that the floor is computed for (default 128)")  # fmt: skip
    chosen = parser.parse_args(arguments)
    for flag, value in (("--train-bytes", chosen.train_bytes), ("--val-bytes", chosen.val_bytes)):
        if not 1000 <= value <= 100_000_000:
            raise Failure("%s %d: 1000 to 100000000 are allowed" % (flag, value))
    if not 1 <= chosen.window <= 8192:
        raise Failure("--window %d: 1 to 8192 are allowed" % chosen.window)
    check_name(chosen.name)
    return chosen


def work(arguments):
    chosen = parse_arguments(arguments)
    facts, opening = write_language(
        chosen.out, chosen.name, chosen.train_bytes, chosen.val_bytes, chosen.seed, chosen.window
    )
    return "%s\n…\nfloor over windows of %d: %.4f nats/byte (entropy rate %.4f); order-2 count model: %.4f" % (
        opening[: opening.rfind(b"\n")].decode("ascii"), chosen.window, facts["floor_nats_per_token"],
        facts["entropy_rate_nats_per_token"], facts["order2_nats_per_token"])  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_tool("language.py", work, sys.argv[1:]))
