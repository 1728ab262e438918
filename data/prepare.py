#!/usr/bin/env python3
"""Turns text files into token shards that train_gpt reads.

Reads plain text (a file is a document) and JSONL (a line is a document, its text in --field), also packed
as .xz or .gz. Writes NAME_train_000000.bin, NAME_val_000000.bin, … and NAME.json, which says what they hold.
"""
import argparse
import os
import signal
import sys

from console import Failure, Progress
from encoders import TextPieces, make_encoder
from shards import ShardSet, pack_ids, token_bytes_for
from sources import Source

EXAMPLES = """examples:
  data/prepare.py shakespeare.txt --out out/data
      bytes; the last tenth is for validation; writes out/data/shakespeare_train_000000.bin, …

  data/prepare.py books.jsonl.xz --val-files books-val.jsonl.xz --out out/data --name books
      one document a line; validates on another file

  data/prepare.py *.txt --name corpus --tokenizer gpt2 --out out/data
      GPT-2's tokens, where the Python package tiktoken is installed

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

BATCH_BYTES = 1 << 20  # of text, encoded at a time: enough for tokenizers that work in parallel


class Writer:
    """Feeds documents from sources through the encoder into a stream of shards, with separators between."""

    def __init__(self, encoder, separator, progress, total_size):
        self.encoder, self.progress, self.total_size = encoder, progress, total_size
        if separator == "none":
            self.separator = b""
        elif separator == "newline":
            self.separator = encoder.newline()
        elif encoder.eot is None:
            raise Failure("--tokenizer %s has no end-of-text token known here: name it with --eot-token, "
                          "or choose --separator newline or none" % encoder.name)  # fmt: skip
        else:
            self.separator = bytes(pack_ids([encoder.eot], token_bytes_for(encoder.vocab_size)))
        self.text_bytes, self.n_documents, self.finished_size = 0, 0, 0
        self.n_eot_in_text = 0

    def write(self, sources, stream):
        """All documents of the sources, in order, to the stream. Returns how many there were."""
        before, batch, batch_bytes = self.n_documents, [], 0
        for source in sources:
            for piece, starts_document in self._pieces(source):
                if starts_document:
                    self.n_documents += 1
                batch.append((piece, starts_document and self.n_documents > before + 1))
                batch_bytes += len(piece) + 1  # so that empty documents, too, come to an end
                if batch_bytes >= BATCH_BYTES:
                    self._encode(batch, stream)
                    batch, batch_bytes = [], 0
                    done = self.finished_size + source.raw_position()
                    self.progress.update(self.text_bytes, done / self.total_size if self.total_size else 0)
            self.finished_size += source.size
        self._encode(batch, stream)
        return self.n_documents - before

    def _pieces(self, source):
        if source.is_jsonl or not self.encoder.needs_text:
            yield from source.documents()
            return
        pieces, starts_document = TextPieces(source.path), True
        for piece, _ in source.documents():
            yield pieces.cut(piece, last=False), starts_document
            starts_document = False
        yield pieces.cut(b"", last=True), starts_document

    def _encode(self, batch, stream):
        encoded = self.encoder.encode([piece for piece, _ in batch])
        for (piece, separated), packed in zip(batch, encoded):
            if separated and self.separator:
                stream.write(self.separator)
            stream.write(packed)
            self.text_bytes += len(piece)
            if self.encoder.eot == 0 and not self.encoder.needs_text:
                self.n_eot_in_text += piece.count(0)


def prepare(chosen):
    encoder = make_encoder(chosen.tokenizer, chosen.eot_token)
    train = [Source(path, chosen.format, chosen.field) for path in chosen.files]
    val = [Source(path, chosen.format, chosen.field) for path in chosen.val_files or []]
    progress = Progress("prepare")
    writer = Writer(encoder, chosen.separator, progress, sum(source.size for source in train + val))
    with ShardSet(chosen.out, chosen.name, encoder.vocab_size, chosen.shard_tokens) as shards:
        facts = {"tokenizer": encoder.name, "separator": chosen.separator, "eot_token": encoder.eot}
        facts["train_documents"] = writer.write(train, shards.train)
        if val:
            facts["val_documents"] = writer.write(val, shards.val)
        elif chosen.val_fraction > 0:
            shards.split_tail(chosen.val_fraction)
        if not shards.train.n_tokens:
            raise Failure("no tokens for training: %s" % describe_emptiness(writer, chosen))
        if not shards.val.n_tokens and (val or chosen.val_fraction > 0):
            raise Failure("no tokens for validation: %s" % describe_emptiness(writer, chosen))
        facts["text_bytes"] = writer.text_bytes
        shards.commit(facts)
        progress.clear()
        if writer.n_eot_in_text and chosen.separator == "eot":
            print("prepare.py: note: the text itself holds byte 0, which also separates documents, %d times"
                  % writer.n_eot_in_text, file=sys.stderr)  # fmt: skip
        return shards, writer, encoder


def describe_emptiness(writer, chosen):
    if not writer.text_bytes:
        return "the input holds no text"
    if chosen.val_files:
        return "one side's files hold no text"
    return "%d bytes of text are too few for --val-fraction %g" % (writer.text_bytes, chosen.val_fraction)


def default_name(path):
    """books.jsonl.xz → books"""
    name = os.path.basename(path)
    for extension in (".xz", ".gz", ".jsonl", ".ndjson", ".txt", ".text", ".md"):
        if name.endswith(extension) and name != extension:
            name = name[: -len(extension)]
    return name


def parse_arguments(arguments):
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "prepare.py", description=__doc__, epilog=EXAMPLES, formatter_class=layout
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="text, or JSONL (*.jsonl, *.ndjson); plain, .xz or .gz")
    add("--out", metavar="DIR", default=".", help="folder to write into, made if missing (default: this one)")
    add("--name", help="the set's name (default: the first file's, without extensions)")
    add("--tokenizer", default="bytes", metavar="T", help="bytes (default), gpt2, or a tokenizer.json")
    add("--eot-token", metavar="TOKEN", help="a tokenizer.json's end-of-text token, if not one of the usual")
    add("--separator", choices=("eot", "newline", "none"), default="eot",
        help="between documents (default eot)")  # fmt: skip
    add("--format", choices=("auto", "text", "jsonl"), default="auto",
        help="of the files (default: by their names)")  # fmt: skip
    add("--field", default="text", help="the JSONL field that holds the text (default text)")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--val-fraction", type=float, default=0.1, metavar="F",
                       help="validate on this share, from the end (default 0.1; 0: none)")  # fmt: skip
    split.add_argument("--val-files", nargs="+", metavar="FILE", help="validate on these files instead")
    add("--shard-tokens", type=int, default=100_000_000, metavar="N",
        help="tokens a shard (default 100000000)")  # fmt: skip
    chosen = parser.parse_args(arguments)
    if chosen.name is None:
        chosen.name = default_name(chosen.files[0])
    if not chosen.name or os.sep in chosen.name or chosen.name.startswith("."):
        raise Failure("--name %r: a plain file name is needed" % chosen.name)
    if not 0 <= chosen.val_fraction < 1:
        raise Failure("--val-fraction %g: 0 or more, and less than 1, is allowed" % chosen.val_fraction)
    if not 1 <= chosen.shard_tokens <= 2**31 - 1:
        raise Failure("--shard-tokens %d: 1 to %d are allowed" % (chosen.shard_tokens, 2**31 - 1))
    if chosen.eot_token and chosen.tokenizer in ("bytes", "gpt2"):
        raise Failure("--eot-token is for a tokenizer.json; %s has its own" % chosen.tokenizer)
    return chosen


def stop(signum, frame):
    raise KeyboardInterrupt


def main(arguments):
    signal.signal(signal.SIGTERM, stop)
    try:
        chosen = parse_arguments(arguments)
        shards, writer, encoder = prepare(chosen)
    except Failure as failure:
        print("prepare.py: %s" % failure, file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        print("prepare.py: interrupted; nothing half-written was left", file=sys.stderr)
        return 1
    print("%s: %d train, %d validation tokens in %d shards (%d documents, %d bytes, vocabulary %d)" % (
        os.path.join(chosen.out, chosen.name), shards.train.n_tokens, shards.val.n_tokens,
        shards.train.n_shards + shards.val.n_shards, writer.n_documents, writer.text_bytes,
        encoder.vocab_size))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
