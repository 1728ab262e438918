"""How does text become tokens? Bytes (built in), a Hugging Face tokenizer.json, tiktoken's GPT-2.

An encoder has name, vocab_size, eot (the id that ends a document, or None), needs_text (whether it wants
whole UTF-8 characters), newline(): a line end's packed tokens, and encode(pieces): a list of byte strings →
a list of packed tokens, one for each. To add one: write such a class, and a case in make_encoder().
"""
import contextlib
import os
import re

from console import Failure
from shards import pack_bytes, pack_ids, token_bytes_for


MAX_VOCAB_SIZE = 2147483584  # src/settings/flags.c


@contextlib.contextmanager
def library_errors(what):
    """Whatever tokenizers raises becomes a Failure. It is Rust: plain Exceptions, and panics, which are
    BaseExceptions of a class that it does not export and come with a backtrace on stderr, kept away here."""
    with open(os.devnull, "wb") as devnull:
        stderr = os.dup(2)
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise Failure("%s: %s" % (what, error)) from None
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


class ByteEncoder:
    """Each byte is its own token. Byte 0, which text does not use, ends a document."""

    name, vocab_size, eot, needs_text = "bytes", 256, 0, False

    def encode(self, pieces):
        return [pack_bytes(piece) for piece in pieces]

    def newline(self):
        return pack_bytes(b"\n")


class SubwordEncoder:
    """What the tokenizers of both libraries share: ids from a batch of texts."""

    needs_text = True

    def encode(self, pieces):
        width = token_bytes_for(self.vocab_size)
        return [pack_ids(ids, width) for ids in self._ids([piece.decode("utf-8") for piece in pieces])]

    def newline(self):
        return self.encode([b"\n"])[0]


class HuggingFaceEncoder(SubwordEncoder):
    ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot|>", "[SEP]")

    def __init__(self, path, eot_token):
        if not os.path.isfile(path):
            raise Failure("--tokenizer %s: neither bytes nor gpt2, nor a tokenizer.json that is there" % path)
        try:
            import tokenizers
        except ImportError:
            message = "--tokenizer %s needs the Python package tokenizers (pip install tokenizers)" % path
            raise Failure(message) from None
        self._path = path
        with library_errors("--tokenizer %s: not a tokenizer.json" % path):
            self._tokenizer = tokenizers.Tokenizer.from_file(path)
        if getattr(self._tokenizer.model, "dropout", None):
            self._tokenizer.model.dropout = None  # the same text gives the same tokens
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.name = os.path.basename(path)
        # ids need not be dense: the model's vocabulary must reach the largest
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if not self.vocab_size:
            raise Failure("--tokenizer %s: its vocabulary is empty" % path)
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise Failure("--tokenizer %s: its largest id is %d; train_gpt takes ids up to %d"
                          % (path, self.vocab_size - 1, MAX_VOCAB_SIZE - 1))  # fmt: skip
        known = [self._tokenizer.token_to_id(token) for token in ([eot_token] if eot_token else self.ENDS)]
        self.eot = next((i for i in known if i is not None), None)
        if eot_token and self.eot is None:
            raise Failure("--eot-token %s: %s has no such token" % (eot_token, path))

    def _ids(self, texts):
        with library_errors("--tokenizer %s: cannot encode this text" % self._path):
            return [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]


class TiktokenEncoder(SubwordEncoder):
    name = "gpt2"

    def __init__(self):
        try:
            import tiktoken
        except ImportError:
            raise Failure("--tokenizer gpt2 needs the Python package tiktoken (pip install it)") from None
        try:
            self._encoding = tiktoken.get_encoding("gpt2")
        except Exception as error:  # it fetches its tables the first time: whatever the network raises
            first_line = (str(error).splitlines() or [""])[0]
            raise Failure("--tokenizer gpt2: tiktoken cannot get its tables: %s" % first_line) from None
        self.vocab_size, self.eot = self._encoding.n_vocab, self._encoding.eot_token

    def _ids(self, texts):
        return self._encoding.encode_ordinary_batch(texts)


def make_encoder(tokenizer, eot_token):
    if tokenizer == "bytes":
        return ByteEncoder()
    if tokenizer == "gpt2":
        return TiktokenEncoder()
    return HuggingFaceEncoder(tokenizer, eot_token)


CUTS = (re.compile(rb"(?<=\S)\n(?=\S)"), re.compile(rb"(?<=\S) (?=\S)"))


class TextPieces:
    """Re-cuts pieces of bytes in front of a single newline or space between words, so that a tokenizer that
    splits text there anyway, as GPT-2's does, makes of the pieces what it would make of the whole."""

    def __init__(self, path):
        self.path, self.rest, self.offset = path, b"", 0

    def cut(self, piece, last):
        """The part of everything fed so far that can be encoded now; all of it if last."""
        data = self.rest + piece
        end = len(data) if last else self._cut_at(data)
        ready, self.rest = data[:end], data[end:]
        try:
            ready.decode("utf-8")
        except UnicodeDecodeError as error:
            where = self.offset + error.start
            message = "%s: not UTF-8 at byte %d, and this tokenizer needs UTF-8"
            raise Failure(message % (self.path, where)) from None
        self.offset += end
        return ready

    @staticmethod
    def _cut_at(data):
        for cut in CUTS:
            found = [match.start() for match in cut.finditer(data, max(0, len(data) - 65536))]
            if found:
                return found[-1]
        end = len(data)  # nowhere: between characters, at least
        while end > 0 and len(data) - end < 4 and data[end - 1] & 0xC0 == 0x80:
            end -= 1
        return end - 1 if end > 0 and data[end - 1] >= 0xC0 else end
