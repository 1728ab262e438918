#!/usr/bin/env python3
"""Turns text files into token shards that train_gpt reads.

Reads plain text (a file is a document), JSON lines and JSON lists (a record is a document, its text in --field),
also packed by gzip, xz, bzip2 or zstd, and Parquet (a row is a document). Writes NAME_train_000000.bin, NAME_val_000000.bin, …, NAME.json, which says what
they hold, and NAME.tokenizer/, which checkpoints take along.
"""
import argparse
import os
import sys
from collections import Counter

from console import CONTROLS, Arguments, Failure, Progress, run_tool, say
from encoders import make_encoder
from formats import packing_of_name
from records import Skipped
from seams import Joiner, Windows
from shards import ShardSet, check_name, pack_ids, token_bytes_for, train_command
from sources import Source
from tokenizer_files import tokenizer_facts, tokenizer_files
from unknown import Unknown, describe

EXAMPLES = """examples:
  data/prepare.py shakespeare.txt --out out/data
      bytes; the last tenth is for validation; writes out/data/shakespeare_train_000000.bin, …

  data/prepare.py books.jsonl.xz --val-files books-val.jsonl.xz --out out/data --name books
      one document a line; validates on another file

  data/prepare.py *.txt --name corpus --tokenizer gpt2 --out out/data
      GPT-2's tokens, where tiktoken or Hugging Face's cache has them

  data/prepare.py web.jsonl.gz --field content --tokenizer tokenizer.json --shard-tokens 50000000
      a Hugging Face tokenizer, where the Python package tokenizers is installed

then:
  ./train_gpt --preset tiny --train-data 'out/data/shakespeare_train_*.bin' \\
              --val-data 'out/data/shakespeare_val_*.bin'

Between two documents stands a separator: with --separator eot (the default) the tokenizer's end-of-text
token, which for bytes is byte 0; with newline, a line end; with none, nothing. Nothing stands before the
first document or after the last, so one text file becomes just its own bytes. --val-fraction cuts the stream
at a token, as nanoGPT does, not at a document.
"""

TEXT_EXTENSIONS = (".jsonl", ".ndjson", ".jsonlines", ".json", ".parquet", ".txt", ".text", ".md")
BATCH_BYTES = 1 << 20  # of text, encoded at a time: enough for tokenizers that work in parallel


class Writer:
    """Feeds documents from sources through the encoder into a stream of shards, with separators between."""

    def __init__(self, encoder, separator, progress, total_size):
        self.encoder, self.progress, self.total_size = encoder, progress, total_size
        self.width = token_bytes_for(encoder.vocab_size)
        if separator == "none":
            self.separator = b""
        elif separator == "newline":
            self.separator = bytes(pack_ids(encoder.newline_ids(), self.width))
        elif encoder.eot is None:
            raise Failure("--tokenizer %s has no end-of-text token known here: name it with --eot-token, "
                          "or choose --separator newline or none" % encoder.name)  # fmt: skip
        else:
            self.separator = bytes(pack_ids([encoder.eot], self.width))
        self.text_bytes, self.n_documents, self.finished_size = 0, 0, 0
        self.n_eot_in_text, self.literals, self.n_seams = 0, Counter(), 0
        self.unknown = Unknown(encoder.unknown_becomes)
        self.no_table = None  # why there is no table of the tokenizer's bytes

    def write(self, sources, stream):
        """All documents of the sources, in order, to the stream. Returns how many there were."""
        before, batch, batch_bytes = self.n_documents, [], 0
        encode = self._encode_windows if self.encoder.needs_text else self._encode_bytes
        self._joiner = Joiner(lambda text: self.encoder.encode([text])[0], getattr(self.encoder, "measure", len))
        for source in sources:
            for piece, n_bytes, starts_document in self._pieces(source):
                if starts_document:
                    self.n_documents += 1
                batch.append((piece, starts_document and self.n_documents > before + 1))
                batch_bytes += n_bytes
                if batch_bytes >= BATCH_BYTES:
                    encode(batch, stream)
                    batch, batch_bytes = [], 0
                    done = self.finished_size + source.raw_position()
                    self.progress.update(self.text_bytes, done / self.total_size if self.total_size else 0)
            self.finished_size += source.size
        encode(batch, stream)
        self._write_ids(self._joiner.finish(), stream)
        self.n_seams += self._joiner.n_seams
        return self.n_documents - before

    def _pieces(self, source):
        """(what the encoder takes, its bytes, whether a document starts with it): bytes, or windows of text."""
        if not self.encoder.needs_text:
            for piece, starts_document in source.documents():
                self.text_bytes += len(piece)
                yield piece, len(piece), starts_document
            return
        windows = None
        for piece, starts_document in source.documents():
            self.text_bytes += len(piece)
            if starts_document:
                if windows:
                    yield from self._sized(windows.feed(b"", last=True))
                windows = Windows(source.path, source.row)
            yield from self._sized(windows.feed(piece))
        if windows:
            yield from self._sized(windows.feed(b"", last=True))

    @staticmethod
    def _sized(windows):
        for window in windows:
            yield window, len(window.text), not window.overlap

    def _encode_bytes(self, batch, stream):
        for (piece, separated), packed in zip(batch, self.encoder.encode([piece for piece, _ in batch])):
            if separated and self.separator:
                stream.write(self.separator)
            stream.write(packed)
            self.n_eot_in_text += piece.count(0)

    def _encode_windows(self, batch, stream):
        encoded = self.encoder.encode([window.text for window, _ in batch])
        for (window, separated), one in zip(batch, encoded):
            text, overlap = window.text, window.overlap
            if not overlap:
                self._write_ids(self._joiner.finish(), stream)
            if separated and self.separator:
                stream.write(self.separator)
            self._write_ids(self._joiner.add(text, overlap, one), stream)
            if self.encoder.specials:
                found = self.encoder.specials.finditer(text)
                self.literals.update(match[0] for match in found if match.end() > overlap)
            self.unknown.add(text, one.gaps, window.where, *window.own())

    def _write_ids(self, parts, stream):
        for ids in parts:
            stream.write(pack_ids(ids, self.width))
            self.n_eot_in_text += ids.count(self.encoder.eot)

    def facts(self):
        """What NAME.json tells of the text."""
        return {"text_bytes": self.text_bytes, "special_tokens_in_text": dict(self.literals), "uncertain_seams": self.n_seams,
                "unknown": self.unknown.facts()}  # fmt: skip


def prepare(chosen):
    """(shards, writer, skipped) of the set that is on disk now."""
    encoder = make_encoder(chosen.tokenizer, chosen.eot_token, chosen.special_tokens == "control")
    files, no_table = tokenizer_files(encoder)
    skipped = Skipped()
    train, val = (
        [Source(path, chosen.format, chosen.field, chosen.skip_bad, skipped) for path in paths]
        for paths in (chosen.files, chosen.val_files or [])
    )
    progress = Progress("prepare")
    writer = Writer(encoder, chosen.separator, progress, sum(source.size for source in train + val))
    writer.no_table = no_table
    with ShardSet(chosen.out, chosen.name, encoder.vocab_size, chosen.shard_tokens) as shards:
        facts = tokenizer_facts(encoder, files, separated=chosen.separator == "eot")
        facts.update(separator=chosen.separator, eot_token=encoder.eot)
        try:
            facts["train_documents"] = writer.write(train, shards.train)
            if val:
                facts["val_documents"] = writer.write(val, shards.val)
            elif chosen.val_fraction > 0:
                shards.split_tail(chosen.val_fraction)
        finally:
            progress.clear()
        for split, stream in (("training", shards.train), ("validation", shards.val)):
            if not stream.n_tokens and (split == "training" or val or chosen.val_fraction > 0):
                raise Failure("no tokens for %s: %s" % (split, describe_emptiness(writer, chosen, skipped)))
        facts.update(skipped=skipped.facts(), special_tokens=chosen.special_tokens)
        facts.update(writer.facts())
        shards.commit(facts, files)
    return shards, writer, skipped


def text_notes(facts, special_tokens, no_table):
    """What somebody should know about the text, by a Writer's facts, and its tokenizer, a line each."""
    if no_table:
        yield "train_gpt will write ids in place of text, for there is no table of this tokenizer's bytes: " + no_table
    literals = Counter(facts["special_tokens_in_text"]).most_common()
    if literals:
        some = ", ".join("%s (%d times)" % pair for pair in literals[:5]) + (", …" if len(literals) > 5 else "")
        yield "the text itself holds %s: %s" % (some, (
            "made control tokens" if special_tokens == "control"
            else "encoded as text; --special-tokens control makes control tokens of it"))
    unknown = describe(facts["unknown"])
    if unknown:
        yield unknown
    if facts["uncertain_seams"]:
        yield ("a long text without a place to cut it was cut %d times; its tokens may differ there from those of the "
               "whole" % facts["uncertain_seams"])  # fmt: skip


def notes(writer, chosen):
    """The same, and what somebody should know about the set."""
    yield from text_notes(writer.facts(), chosen.special_tokens, writer.no_table)
    if writer.n_eot_in_text and chosen.separator == "eot":
        name = "byte 0" if writer.encoder.eot == 0 and not writer.encoder.needs_text else "the end-of-text token"
        yield "the text itself holds %s, which also separates documents, %d times" % (name, writer.n_eot_in_text)
    train = {os.path.realpath(path) for path in chosen.files}
    both = [path for path in chosen.val_files or [] if os.path.realpath(path) in train]
    if both:
        yield "%s is among the training files and the validation files" % both[0]


def describe_emptiness(writer, chosen, skipped):
    if not writer.text_bytes:
        left_out = "; left out: %s" % skipped if skipped.kinds else ""
        return "the input holds no text" + left_out
    if chosen.val_files:
        return "one side's files hold no text"
    return "%d bytes of text are too few for --val-fraction %g" % (writer.text_bytes, chosen.val_fraction)


def default_name(path):
    """books.jsonl.xz → books"""
    stem, extension = os.path.splitext(packing_of_name(os.path.basename(path))[0])
    return stem if extension.lower() in TEXT_EXTENSIONS else stem + extension


def parse_arguments(arguments):
    layout = argparse.RawDescriptionHelpFormatter
    parser = Arguments(
        "prepare.py", description=__doc__, epilog=EXAMPLES, formatter_class=layout
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="text, or JSON (*.jsonl, *.ndjson, *.json); plain or packed; or Parquet")
    add("--out", metavar="DIR", default=".", help="folder to write into, made if missing (default: this one)")
    add("--name", help="the set's name (default: the first file's, without extensions)")
    add("--tokenizer", default="bytes", metavar="T", 
        help="bytes (default), gpt2, or a tokenizer.json or its folder, or one with vocab.json and merges.txt")  # fmt: skip
    add("--eot-token", metavar="TOKEN", 
        help="a tokenizer.json's end-of-text token (default: the eos_token of its tokenizer_config.json, "
             "or one of the usual)")  # fmt: skip
    add("--separator", choices=("eot", "newline", "none"), default="eot",
        help="between documents (default eot)")  # fmt: skip
    add("--special-tokens", choices=("text", "control"), default="text",
        help="what <|endoftext|> and the like in the text become: text, as other words (default), "
             "or control tokens")  # fmt: skip
    add("--format", choices=("auto", "text", "jsonl", "json", "parquet", "binary"), default="auto",
        help="of the files (default: by name and content); binary: any bytes, as they are")  # fmt: skip
    add("--field", default="text", help="the field of a JSON record, or the column, that holds the text (default text)")
    add("--skip-bad", action="store_true",
        help="leave out, and count, lines that are no JSON or no text, instead of stopping at the first")  # fmt: skip
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--val-fraction", type=float, default=0.1, metavar="F",
                       help="validate on this share, from the end (default 0.1; 0: none)")  # fmt: skip
    split.add_argument("--val-files", nargs="+", metavar="FILE", help="validate on these files instead")
    add("--shard-tokens", type=int, default=100_000_000, metavar="N",
        help="tokens a shard (default 100000000)")  # fmt: skip
    chosen = parser.parse_args(arguments)
    if chosen.name is None:
        chosen.name = default_name(chosen.files[0])
        if not chosen.name or chosen.name.startswith("."):
            Source(chosen.files[0])  # a folder, or nothing, says so itself
            raise Failure("%s: gives the set no name; --name NAME does" % chosen.files[0])
    check_name(chosen.name)
    if not 0 <= chosen.val_fraction < 1:
        raise Failure("--val-fraction %g: 0 or more, and less than 1, is allowed" % chosen.val_fraction)
    if not 1 <= chosen.shard_tokens <= 2**31 - 1:
        raise Failure("--shard-tokens %d: 1 to %d are allowed" % (chosen.shard_tokens, 2**31 - 1))
    if chosen.eot_token and chosen.tokenizer in ("bytes", "gpt2"):
        raise Failure("--eot-token is for a tokenizer.json; %s has its own" % chosen.tokenizer)
    if chosen.format == "binary" and chosen.tokenizer != "bytes":
        raise Failure("--format binary is for --tokenizer bytes; %s needs text" % chosen.tokenizer)
    return chosen


def work(arguments):
    chosen = parse_arguments(arguments)
    shards, writer, skipped = prepare(chosen)
    for note in notes(writer, chosen):
        say("prepare.py: note: " + note)
    left_out = "; left out: %s" % CONTROLS.sub("?", str(skipped)) if skipped.kinds else ""
    return "%s: %d train, %d validation tokens in %d shards (%d documents, %d bytes, vocabulary %d)%s\n%s" % (
        os.path.join(chosen.out, chosen.name), shards.train.n_tokens, shards.val.n_tokens,
        shards.train.n_shards + shards.val.n_shards, writer.n_documents, writer.text_bytes,
        writer.encoder.vocab_size, left_out,
        train_command(chosen.out, chosen.name, shards.val.n_tokens > 0, writer.encoder.vocab_size))  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_tool("prepare.py", work, sys.argv[1:]))
