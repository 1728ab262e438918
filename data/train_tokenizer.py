#!/usr/bin/env python3
"""Trains a byte-level BPE tokenizer on text files, by the Python package tokenizers.

The files are read as prepare.py reads them, as a stream. DIR becomes a folder that `prepare.py --tokenizer DIR` and
transformers' AutoTokenizer take: tokenizer.json, tokenizer_config.json, token_bytes.safetensors. The same text, in the
same order, gives the same tokenizer. The last id is <|endoftext|>, which ends a document.
"""
import argparse
import codecs
import os
import sys
from collections import namedtuple

from console import CONTROLS, Arguments, Failure, Progress, os_failure, run_tool, say, uninterrupted
from encoders import HuggingFaceEncoder, library_errors
from pretrained_tokenizer import Pretrained
from records import Skipped
from sources import Source
from tokenizer_files import tokenizer_files

END = "<|endoftext|>"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")  # fmt: skip
SPLITS = {  # how text falls into words, across which nothing is merged
    "gpt2": None,  # built into the library's ByteLevel
    "llama3": LLAMA3,  # numbers by three digits, punctuation with the line ends after it, contractions in any case
}
SAMPLE_CHARACTERS = 1 << 20  # to say how many bytes a token has
EXAMPLES = """example:
  data/train_tokenizer.py books.jsonl.xz --vocab-size 8192 --out out/books-8k
  data/prepare.py books.jsonl.xz --tokenizer out/books-8k --out out/data
"""

Trained = namedtuple("Trained", "encoder n_documents n_bytes sample")


class Texts:
    """The documents of sources as texts of moderate length, cut where a word ends."""

    def __init__(self, sources):
        self.sources, self.n_documents, self.n_bytes, self.sample = sources, 0, 0, ""
        self.total = sum(source.size for source in sources)

    def __iter__(self):
        progress, finished = Progress("train_tokenizer"), 0
        for source in self.sources:
            decoder, text = codecs.getincrementaldecoder("utf-8")(), ""
            for piece, starts_document in source.documents():
                if starts_document:
                    yield from self._pass(text)
                    text = ""
                    self.n_documents += 1
                self.n_bytes += len(piece)
                text += decoder.decode(piece)
                whole, text = self._cut(text)
                yield from self._pass(whole)
                done = finished + source.raw_position()
                progress.update(self.n_bytes, done / self.total if self.total else 0)
            yield from self._pass(text)
            finished += source.size
        progress.clear()

    def _pass(self, text):
        if len(self.sample) < SAMPLE_CHARACTERS:
            self.sample += text[: SAMPLE_CHARACTERS - len(self.sample)]
        if text:
            yield text

    @staticmethod
    def _cut(text):
        """What comes before the last line end, or else the last space; all of it where there is neither."""
        at = max(text.rfind("\n"), 0) or max(text.rfind(" "), 0)
        return (text[:at], text[at:]) if at else (text, "")


def build(split):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=SPLITS[split] is None)
    words = [pre_tokenizers.Split(Regex(SPLITS[split]), behavior="isolated")] if SPLITS[split] else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, level]) if words else level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train(chosen):
    try:
        from tokenizers import AddedToken, pre_tokenizers, trainers
    except ImportError:
        raise Failure("this needs the Python package tokenizers (pip install tokenizers)") from None
    texts = Texts([Source(path, chosen.format, chosen.field, chosen.skip_bad, chosen.skipped) for path in chosen.files])
    tokenizer = build(chosen.split)
    trainer = trainers.BpeTrainer(
        vocab_size=chosen.vocab_size - 1, min_frequency=chosen.min_frequency, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    failure = []

    def watched():
        """The library would tell of a Failure in words of its own."""
        try:
            yield from texts
        except BaseException as error:
            failure.append(error)
            raise

    try:
        with library_errors("cannot train"):
            tokenizer.train_from_iterator(watched(), trainer)
    except Failure:
        if failure:
            raise failure[0] from None
        raise
    if not texts.n_bytes:
        raise Failure("the input holds no text")
    tokenizer.add_special_tokens([AddedToken(END, normalized=False)])
    data = tokenizer.to_str(pretty=False).encode() + b"\n"
    found = Pretrained(os.path.join(chosen.out, "tokenizer.json"), "", data)
    return Trained(HuggingFaceEncoder(found, END), texts.n_documents, texts.n_bytes, texts.sample)


def write(folder, files):
    """All files of the folder in place of earlier ones, or none."""
    made = not os.path.isdir(folder)
    partials = [os.path.join(folder, name + ".partial") for name in files]
    try:
        os.makedirs(folder, exist_ok=True)
        for path, data in zip(partials, files.values()):
            with open(path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        with uninterrupted():
            for path, name in zip(partials, files):
                os.replace(path, os.path.join(folder, name))
    except OSError as error:
        raise os_failure("--out: " + (error.filename or folder), error) from None
    finally:
        for path in filter(os.path.exists, partials):
            os.remove(path)
        if made and os.path.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)


def parse_arguments(arguments):
    parser = Arguments("train_tokenizer.py", description=__doc__, epilog=EXAMPLES,
                       formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="text, or JSON (*.jsonl, *.ndjson, *.json); plain or packed; or Parquet")
    add("--out", metavar="DIR", required=True, help="folder of the tokenizer, made if missing")
    add("--vocab-size", type=int, default=8192, metavar="V",
        help="ids, with the 256 bytes and %s (default 8192)" % END.replace("%", "%%"))  # fmt: skip
    add("--split", choices=sorted(SPLITS), default="gpt2", help="how text falls into words first (default gpt2)")
    add("--min-frequency", type=int, default=2, metavar="N", help="merge what stands together so often (default 2)")
    add("--format", choices=("auto", "text", "jsonl", "json", "parquet"), default="auto",
        help="of the files (default: by name and content)")  # fmt: skip
    add("--field", default="text", help="the field of a JSON record, or the column, that holds the text (default text)")
    add("--skip-bad", action="store_true", help="leave out, and count, lines that are no JSON or no text")
    chosen = parser.parse_args(arguments)
    chosen.skipped = Skipped()
    if not 258 <= chosen.vocab_size <= 1 << 24:
        raise Failure("--vocab-size %d: 258 to %d are allowed" % (chosen.vocab_size, 1 << 24))
    if chosen.min_frequency < 1:
        raise Failure("--min-frequency %d: 1 or more is allowed" % chosen.min_frequency)
    return chosen


def work(arguments):
    chosen = parse_arguments(arguments)
    trained = train(chosen)
    encoder = trained.encoder
    files, no_table = tokenizer_files(encoder)
    if no_table:
        raise Failure("the tokenizer that came of it decodes otherwise than it should: %s" % no_table)
    write(chosen.out, files)
    if encoder.vocab_size < chosen.vocab_size:
        say("train_tokenizer.py: note: the text has no more than %d tokens to merge (--vocab-size %d, --min-frequency %d)"
            % (encoder.vocab_size, chosen.vocab_size, chosen.min_frequency))  # fmt: skip
    left_out = "; left out: %s" % CONTROLS.sub("?", str(chosen.skipped)) if chosen.skipped.kinds else ""
    n_sample = len(encoder.encode([trained.sample])[0].ids)
    return "%s: %d ids, of %d documents, %d bytes; %.2f bytes a token%s" % (
        chosen.out, encoder.vocab_size, trained.n_documents, trained.n_bytes,
        len(trained.sample.encode()) / max(n_sample, 1), left_out)  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_tool("train_tokenizer.py", work, sys.argv[1:]))
