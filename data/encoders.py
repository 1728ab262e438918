"""How does text become tokens? Bytes (built in), a Hugging Face tokenizer.json, tiktoken's GPT-2.

An encoder has name, vocab_size, eot (the id that ends a document, or None) and newline_ids() or None. Bytes have
needs_text False and encode bytes; the others take windows of text (seams.py): encode(texts) → an Encoded for each,
measure(text) → its length in the unit of their spans; specials: the literals of control tokens, None if none.

Text is text: what reads like a control token, `<|endoftext|>` or `</s>`, is encoded as any other words, unless
control is asked for. To add an encoder: write such a class, and a case in make_encoder().
"""
import contextlib
import json
import os
import re
import secrets

from console import Failure
from seams import Encoded
from shards import pack_bytes

MAX_VOCAB_SIZE = 2147483584  # src/settings/flags.c


@contextlib.contextmanager
def library_errors(what):
    """Whatever tokenizers raises becomes a Failure. It is Rust: plain Exceptions, and panics, which are
    BaseExceptions of a class that it does not export and come with a backtrace on stderr, kept away here."""
    stderr = None
    with contextlib.suppress(OSError), open(os.devnull, "wb") as devnull:  # a closed stderr stays as it is
        stderr = os.dup(2)
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise Failure("%s: %s" % (what, error)) from None
    finally:
        if stderr is not None:
            os.dup2(stderr, 2)
            os.close(stderr)


class ByteEncoder:
    """Each byte is its own token. Byte 0, which text does not use, ends a document."""

    name, vocab_size, eot, needs_text, specials = "bytes", 256, 0, False, None

    def encode(self, pieces):
        return [pack_bytes(piece) for piece in pieces]

    def newline_ids(self):
        return [10]


class SubwordEncoder:
    """What the tokenizers of both libraries share."""

    needs_text = True

    def newline_ids(self):
        """The tokens of a line end inside a text; by itself it may get a prefix that is for a text's beginning."""
        word, line, alone = (encoded.ids for encoded in self.encode(["a", "a\n", "\n"]))
        ids = line[len(word) :] if line[: len(word)] == word else alone
        if not ids:
            raise Failure("--separator newline: --tokenizer %s makes no token of a line end" % self.name)
        return ids

    def _know_specials(self, literals):
        """For counting them in text; the longest first, as a tokenizer would match them."""
        ordered = sorted(filter(None, literals), key=lambda literal: (-len(literal), literal))
        self.specials = re.compile("|".join(map(re.escape, ordered))) if ordered else None


class HuggingFaceEncoder(SubwordEncoder):
    ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eot|>", "[SEP]")

    def __init__(self, path, eot_token, control=False):
        try:
            import tokenizers
        except ImportError:
            message = "--tokenizer %s needs the Python package tokenizers (pip install tokenizers)" % path
            raise Failure(message) from None
        self._path = path
        with library_errors("--tokenizer %s: not a tokenizer.json" % path):
            self._tokenizer = tokenizers.Tokenizer.from_file(path)
        self.name = os.path.basename(path)
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        # ids need not be dense: the model's vocabulary must reach the largest
        self.vocab_size = 1 + max(vocabulary.values(), default=-1)
        if not self.vocab_size:
            raise Failure("--tokenizer %s: its vocabulary is empty" % path)
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise Failure("--tokenizer %s: its largest id is %d; train_gpt takes ids up to %d"
                          % (path, self.vocab_size - 1, MAX_VOCAB_SIZE - 1))  # fmt: skip
        end = next((token for token in ([eot_token] if eot_token else self.ENDS) if token in vocabulary), None)
        self.eot = vocabulary.get(end)
        if eot_token and self.eot is None:
            raise Failure("--eot-token %s: %s has no such token" % (eot_token, path))
        with library_errors("--tokenizer %s: cannot be taken apart" % path):
            definition = json.loads(self._tokenizer.to_str())
        literals = special_tokens(definition, end)
        self._know_specials(literals)
        ordinary = {vocabulary[token]: token for token in vocabulary.keys() - literals}
        twice = next((literal for literal in sorted(literals) if vocabulary.get(literal) in ordinary), None)
        if twice is not None:  # the library gives such ids where a vocabulary has holes
            raise Failure("--tokenizer %s: its special token %s has the id of the token %s, %d"
                          % (path, twice, ordinary[vocabulary[twice]], vocabulary[twice]))  # fmt: skip
        if literals and not control:
            with library_errors("--tokenizer %s: cannot keep its special tokens out of text (--special-tokens "
                                "control leaves them in)" % path):  # fmt: skip
                self._tokenizer = text_only(tokenizers, definition, literals, vocabulary)
        if getattr(self._tokenizer.model, "dropout", None):
            self._tokenizer.model.dropout = None  # the same text gives the same tokens
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts):
        with library_errors("--tokenizer %s: cannot encode this text" % self._path):
            found = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            return [Encoded(one.ids, one.offsets, len(text)) for one, text in zip(found, texts)]

    measure = staticmethod(len)


def special_tokens(definition, end):
    """The literals that stand for control tokens: those that the file calls special, and the one that ends a document,
    unless that is an ordinary piece of text (a line end, say), which stays one in text as well."""
    added = {token["content"]: token["special"] for token in definition["added_tokens"]}
    literals = {content for content, special in added.items() if special}
    if end is not None and (end in added or re.fullmatch(r"[<\[].*[>\]]", end)):
        literals.add(end)
    return {literal for literal in literals if not re.fullmatch("<0x[0-9A-F]{2}>", literal)}  # byte fallback needs its names


def text_only(tokenizers, definition, literals, vocabulary):
    """The same tokenizer, with the same ids, in which no text becomes one of the special tokens.

    They get names that no text holds, in the list of added tokens and in the model's own vocabulary: there a unigram
    model, or a model of whole words, would still find them after encode_special_tokens = True.
    """
    secret = secrets.token_hex(16)
    names = {literal: "\ufdd0%s %d\ufdd1" % (secret, i) for i, literal in enumerate(sorted(literals))}
    model = definition["model"]
    for token in definition["added_tokens"]:
        if token["content"] in names:
            token.update(content=names[token["content"]], normalized=False, lstrip=False, rstrip=False,
                         single_word=False)  # fmt: skip
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):
        prefix = len(model.get("continuing_subword_prefix") or "")

        def makes_none(pair):
            left, right = pair.split(" ") if isinstance(pair, str) else pair  # older releases write "a b"
            return names.keys().isdisjoint((left, right, left + right[prefix:]))

        model["merges"] = list(filter(makes_none, model["merges"]))
    made = tokenizers.Tokenizer.from_str(json.dumps(definition))
    if made.get_vocab(with_added_tokens=True) != {names.get(token, token): i for token, i in vocabulary.items()}:
        raise ValueError("its ids would change")
    with contextlib.suppress(AttributeError):  # for names that had to stay
        made.encode_special_tokens = True
    return made


class TiktokenEncoder(SubwordEncoder):
    name = "gpt2"

    def __init__(self, encoding=None, control=False):
        if encoding is None:
            try:
                import tiktoken
            except ImportError:
                raise Failure("--tokenizer gpt2 needs the Python package tiktoken (pip install it)") from None
            try:
                encoding = tiktoken.get_encoding("gpt2")
            except Exception as error:  # it fetches its tables the first time: whatever the network raises
                first_line = (str(error).splitlines() or [""])[0]
                raise Failure("--tokenizer gpt2: tiktoken cannot get its tables: %s" % first_line) from None
        self._encoding, self._control = encoding, control
        self.vocab_size, self.eot = encoding.n_vocab, encoding.eot_token
        self._know_specials(encoding.special_tokens_set)
        self._bytes = {}  # of each token seen so far, how many

    def encode(self, texts):
        if self._control:
            found = self._encoding.encode_batch(texts, allowed_special="all")
        else:
            found = self._encoding.encode_ordinary_batch(texts)
        return [Encoded(ids, self._spans(ids), self.measure(text)) for ids, text in zip(found, texts)]

    def _spans(self, ids):
        for token in set(ids).difference(self._bytes):
            self._bytes[token] = len(self._encoding.decode_single_token_bytes(token))
        spans, end = [], 0
        for token in ids:
            start, end = end, end + self._bytes[token]
            spans.append((start, end))
        return spans

    @staticmethod
    def measure(text):
        return len(text.encode("utf-8"))


NOT_A_TOKENIZER = {  # what lies beside a tokenizer.json, or came before it
    "tokenizer.model": "is a SentencePiece model",
    "spiece.model": "is a SentencePiece model",
    "sentencepiece.bpe.model": "is a SentencePiece model",
    "vocab.json": "is half of GPT-2's older form (vocab.json and merges.txt)",
    "merges.txt": "is half of GPT-2's older form (vocab.json and merges.txt)",
    "vocab.txt": "is the vocabulary of a WordPiece tokenizer",
    "tokenizer_config.json": "holds a tokenizer's settings, not the tokenizer",
    "special_tokens_map.json": "holds a tokenizer's special tokens, not the tokenizer",
    "config.json": "describes a model, not its tokenizer",
}
CONVERT = ("; a tokenizer.json is needed: transformers writes one, AutoTokenizer.from_pretrained(FOLDER)"
           ".save_pretrained(ANOTHER)")  # fmt: skip


def explain_file(path):
    """A Failure's words for a file that is certainly no tokenizer.json; None where it may be one."""
    name = os.path.basename(path)
    if name in NOT_A_TOKENIZER:
        return NOT_A_TOKENIZER[name] + CONVERT
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        return error.strerror
    if name.endswith(".tiktoken"):
        return "holds tiktoken's ranks" + CONVERT
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: fetch it with git lfs pull"
    if name.endswith((".model", ".spm", ".vocab")) or (head[:1] == b"\n" and b"\0" in head):
        return "seems to be SentencePiece's" + CONVERT
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "is no tokenizer.json: it does not begin with {"
    return None


def explain_name(name):
    """A Failure's words for a --tokenizer that is no file."""
    if re.fullmatch(r"(openai-community/|openai/)?(distil)?gpt-?2([-_].*)?", name):
        return "GPT-2's tokenizer is called gpt2 here, whatever the model's size"
    if name in ("byte", "char", "ascii", "utf8", "utf-8"):
        return "is the one called bytes meant?"
    if re.fullmatch(r"(cl100k|o200k|p50k|r50k)_\w+", name):
        return "of tiktoken's encodings only gpt2 is known here"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.endswith(".json"):
        return ("no such file; if it is a model on the Hugging Face Hub, nothing is fetched here: "
                "hf download %s tokenizer.json, and give that file" % name)  # fmt: skip
    return "neither bytes nor gpt2, nor a tokenizer.json that is there"


def find_tokenizer(path):
    """The tokenizer.json that is meant by a file or folder; Failure says what it is instead."""
    if os.path.isdir(path):
        inside = os.path.join(path, "tokenizer.json")
        if os.path.isfile(inside):
            return inside
        found = [name for name in NOT_A_TOKENIZER if os.path.exists(os.path.join(path, name))]
        why = "; its %s %s%s" % (found[0], NOT_A_TOKENIZER[found[0]], CONVERT) if found else ""
        raise Failure("--tokenizer %s: a folder without a tokenizer.json%s" % (path, why))
    if not os.path.exists(path):
        raise Failure("--tokenizer %s: %s" % (path, explain_name(path)))
    why = explain_file(path)
    if why:
        raise Failure("--tokenizer %s: %s" % (path, why))
    return path


def make_encoder(tokenizer, eot_token, control=False):
    if tokenizer == "bytes":
        return ByteEncoder()
    if tokenizer == "gpt2":
        return TiktokenEncoder(control=control)
    return HuggingFaceEncoder(find_tokenizer(tokenizer), eot_token, control)
