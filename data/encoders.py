"""How does text become tokens? Bytes (built in), a Hugging Face tokenizer.json, tiktoken's GPT-2.

An encoder has name, vocab_size, eot (the id that ends a document, or None) and newline_ids() or None. Bytes have
needs_text False and encode bytes; the others take windows of text (seams.py): encode(texts) → an Encoded for each,
measure(text) → its length in the unit of their spans; specials: the literals of control tokens, None if none.
unknown_becomes: the literal of its unknown token, or None (unknown.py).
To travel with the tokens (tokenizer_files.py) it has tokenizer_json(), token_table() (which may raise NoTable), end (eot's
literal, if that is a control token) and settings (of a tokenizer_config.json).

Text is text: what reads like a control token, `<|endoftext|>` or `</s>`, is encoded as any other words, unless
control is asked for. To add an encoder: write such a class, and a case in make_encoder().
"""
import contextlib
import json
import os
import re
import secrets

from console import Failure
from pretrained_tokenizer import as_written, cached_gpt2, find_tokenizer, from_ranks, hub_cache
from seams import Encoded
from shards import pack_bytes
from token_bytes import NoTable, token_table, verify
from tokenizer_files import bytes_json, literal_of
from unknown import Gaps

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
    except (KeyboardInterrupt, SystemExit, MemoryError, NoTable):
        raise
    except BaseException as error:
        raise Failure("%s: %s" % (what, error)) from None
    finally:
        if stderr is not None:
            os.dup2(stderr, 2)
            os.close(stderr)


class ByteEncoder:
    """Each byte is its own token. Byte 0, which text does not use, ends a document."""

    name, vocab_size, eot, needs_text, specials, unknown_becomes = "bytes", 256, 0, False, None, None
    end, settings = "\0", {}
    tokenizer_json = staticmethod(bytes_json)

    @staticmethod
    def token_table():
        return [b"", *(bytes([byte]) for byte in range(1, 256))], False

    def encode(self, pieces):
        return [pack_bytes(piece) for piece in pieces]

    def newline_ids(self):
        return [10]


class SubwordEncoder:
    """What the tokenizers of both libraries share."""

    needs_text, unknown_becomes = True, None

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

    def __init__(self, found, eot_token, control=False):
        """found: a Pretrained; eot_token: the literal that ends a document, or None for its own."""
        try:
            import tokenizers
        except ImportError:
            message = "%s needs the Python package tokenizers (pip install tokenizers)" % found.shown
            raise Failure(message) from None
        self._shown, self._found = found.shown, found
        self.name, self.settings = found.name, found.settings
        with library_errors("%s: not a tokenizer.json" % found.shown):
            self._tokenizer = self._whole = tokenizers.Tokenizer.from_str(found.data.decode("utf-8"))
        self._vocabulary = vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        # ids need not be dense: the model's vocabulary must reach the largest
        self.vocab_size = 1 + max(vocabulary.values(), default=-1)
        if not self.vocab_size:
            raise Failure("%s: its vocabulary is empty" % found.shown)
        if self.vocab_size > MAX_VOCAB_SIZE:
            raise Failure("%s: its largest id is %d; train_gpt takes ids up to %d"
                          % (found.shown, self.vocab_size - 1, MAX_VOCAB_SIZE - 1))  # fmt: skip
        usual = (literal_of(found.settings.get("eos_token")), *self.ENDS)
        end = next((token for token in ([eot_token] if eot_token else usual) if token in vocabulary), None)
        self.eot = vocabulary.get(end)
        if eot_token and self.eot is None:
            raise Failure("--eot-token %s: %s has no such token" % (eot_token, found.path))
        with library_errors("%s: cannot be taken apart" % found.shown):
            self._definition = definition = json.loads(self._tokenizer.to_str())
        literals = special_tokens(definition, end)
        self.end = end if end in literals else None
        self._know_specials(literals)
        ordinary = {vocabulary[token]: token for token in vocabulary.keys() - literals}
        twice = next((literal for literal in sorted(literals) if vocabulary.get(literal) in ordinary), None)
        if twice is not None:  # the library gives such ids where a vocabulary has holes
            raise Failure("%s: its special token %s has the id of the token %s, %d"
                          % (found.shown, twice, ordinary[vocabulary[twice]], vocabulary[twice]))  # fmt: skip
        if literals and not control:
            with library_errors("%s: cannot keep its special tokens out of text (--special-tokens "
                                "control leaves them in)" % found.shown):  # fmt: skip
                self._tokenizer = text_only(tokenizers, json.loads(self._whole.to_str()), literals, vocabulary)
        for one in (self._tokenizer, self._whole):
            as_written(one)
        with library_errors("%s: cannot be taken apart" % found.shown):
            self._gaps = Gaps(self._tokenizer)
        self.unknown_becomes = None if self._gaps.id is None else self._whole.id_to_token(self._gaps.id)

    def tokenizer_json(self):
        return self._found.data

    def token_table(self):
        """Whatever the library calls special stands for no text, and neither does what ends a document."""
        special = {token["content"] for token in self._definition["added_tokens"] if token["special"]}
        control = {self._vocabulary[token] for token in special.union([self.end]) if token in self._vocabulary}
        with library_errors("%s: cannot decode" % self._shown):
            tokens = [self._whole.id_to_token(i) for i in range(self.vocab_size)]
            table, strip = token_table(self._definition["decoder"], tokens, control)
            verify(self._whole, table, strip, control)
        return table, strip

    def encode(self, texts):
        with library_errors("%s: cannot encode this text" % self._shown):
            found = self._tokenizer.encode_batch(texts, add_special_tokens=False)
            return [Encoded(one.ids, one.offsets, len(text), self._gaps.spans(text, one)) for one, text in zip(found, texts)]

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
    name, settings = "gpt2", {}

    def __init__(self, encoding=None, control=False):
        if encoding is None:
            try:
                import tiktoken
            except ImportError:
                raise Failure("--tokenizer gpt2 needs the Python package tiktoken (pip install it)") from None
            try:
                encoding = tiktoken.get_encoding("gpt2")
            except Exception as error:  # it fetches its tables the first time: whatever the network raises
                first_line = (str(error).splitlines() or [""])[0][:120]
                raise Failure("--tokenizer gpt2: tiktoken cannot get its tables: %s" % first_line) from None
        self._encoding, self._control = encoding, control
        self.vocab_size, self.eot = encoding.n_vocab, encoding.eot_token
        self._know_specials(encoding.special_tokens_set)
        self.end = encoding.decode([self.eot])
        self._bytes = {}  # of each token seen so far, how many

    def encode(self, texts):
        if self._control:
            found = self._encoding.encode_batch(texts, allowed_special="all")
        else:
            found = self._encoding.encode_ordinary_batch(texts)
        return [Encoded(ids, self._spans(ids), self.measure(text)) for ids, text in zip(found, texts)]

    def tokenizer_json(self):
        special = {literal: self._encoding.encode_single_token(literal) for literal in self._encoding.special_tokens_set}
        table, _ = self.token_table()
        return from_ranks({token: i for i, token in enumerate(table) if token}, special)

    def token_table(self):
        special = {self._encoding.encode_single_token(literal) for literal in self._encoding.special_tokens_set}
        ordinary = (i for i in range(self.vocab_size) if i not in special)
        table = [b""] * self.vocab_size
        for i in ordinary:
            table[i] = self._encoding.decode_single_token_bytes(i)
        return table, False

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


def gpt2_encoder(control):
    """By tiktoken, or by the tokenizer.json, or its older form, that Hugging Face's cache holds."""
    try:
        return TiktokenEncoder(control=control)
    except Failure as failure:
        folder = cached_gpt2()
        if folder:
            return HuggingFaceEncoder(find_tokenizer(folder, name="gpt2"), None, control)
        raise Failure("%s; nor is openai-community/gpt2 in Hugging Face's cache, %s: where there is a network, pip install "
                      "tiktoken, or hf download openai-community/gpt2 tokenizer.json; or bring that file, or vocab.json and "
                      "merges.txt, and give their folder to --tokenizer" % (failure, hub_cache())) from None  # fmt: skip


def make_encoder(tokenizer, eot_token, control=False):
    if tokenizer == "bytes":
        return ByteEncoder()
    if tokenizer == "gpt2":
        return gpt2_encoder(control)
    return HuggingFaceEncoder(find_tokenizer(tokenizer), eot_token, control)
