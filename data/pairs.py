"""Which tokens are a context's, and which are those of what follows? As lm_eval 0.4.13 has it for transformers' models.

Context and continuation are encoded together, and what is longer than the context alone is the continuation; blanks at
the context's end belong to what follows; in place of an empty context stands the token that begins or ends texts. Unlike
in training's data, literals of control tokens are control tokens, and what tokenizer.json adds to a text (<s>) is added.
"""
import hashlib
import os

from console import Failure
from pretrained_tokenizer import as_written, find_tokenizer
from tokenizer_files import bytes_json
from unknown import Gaps


class Bytes:
    """Every byte is a token; byte 0 ends documents."""

    prefix, sha256, becomes = 0, hashlib.sha256(bytes_json()).hexdigest(), None

    @staticmethod
    def encode(text):
        return list(text.encode("utf-8"))

    @staticmethod
    def gaps(text):
        return []


class HuggingFace:
    """A tokenizer.json, with what the tokenizer_config.json beside it says of the beginning of texts."""

    def __init__(self, found):
        try:
            import tokenizers
        except ImportError:
            raise Failure("%s needs the Python package tokenizers (pip install it)" % found.shown) from None
        try:
            self._tokenizer = as_written(tokenizers.Tokenizer.from_str(found.data.decode("utf-8")))
            self._gaps = Gaps(self._tokenizer)
        except Exception as error:  # it raises plain Exceptions
            raise Failure("%s: %s" % (found.shown, str(error).splitlines()[0])) from None
        self.becomes = self._gaps.becomes
        settings, self.sha256 = found.settings, hashlib.sha256(found.data).hexdigest()
        bos, eos = self._literal(settings, "bos_token"), self._literal(settings, "eos_token")
        self._bos, self._adds_bos = self._id(bos), settings.get("add_bos_token")
        self._prefix_text, self.prefix = (eos, self._id(eos)) if self._bos is None else (bos, self._bos)

    @staticmethod
    def _literal(settings, name):
        token = settings.get(name)
        return token.get("content") if isinstance(token, dict) else token

    def _id(self, literal):
        return self._tokenizer.token_to_id(literal) if isinstance(literal, str) else None

    def encode(self, text):
        begins = self.prefix is not None and text.startswith(self._prefix_text)
        ids = self._tokenizer.encode(text, add_special_tokens=not begins).ids
        if begins or self._bos is None:
            return ids
        if self._adds_bos is True and ids[:1] != [self._bos]:
            return [self._bos] + ids
        return ids[1:] if self._adds_bos is False and ids[:1] == [self._bos] else ids

    def encode_alone(self, text):
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def gaps(self, text):
        """(begin, end) of what there is no token for (unknown.py)."""
        return [] if self._gaps.is_whole else self._gaps.spans(text, self._tokenizer.encode(text, add_special_tokens=False))


def find(name):
    """bytes, or the tokenizer.json that a file, a folder or a run means."""
    if name == "bytes":
        return Bytes()
    newest = os.path.join(name, "latest")
    return HuggingFace(find_tokenizer(newest if os.path.isfile(os.path.join(newest, "tokenizer.json")) else name))


def pair(tokenizer, context, continuation):
    """(ids of the context, ids of the continuation)."""
    if not context:
        if tokenizer.prefix is None:
            raise ValueError("an empty context, and tokenizer_config.json names no bos_token or eos_token in its place")
        ids = getattr(tokenizer, "encode_alone", tokenizer.encode)(continuation)
        return ([tokenizer.prefix], ids) if ids[:1] != [tokenizer.prefix] else (ids[:1], ids[1:])
    kept = context.rstrip()
    if not kept:
        raise ValueError("a context of blanks alone")
    continuation, context = context[len(kept):] + continuation, kept
    before = tokenizer.encode(context)
    return before, tokenizer.encode(context + continuation)[len(before):]


def ids_of(tokenizer, item):
    """The row of an item as train_gpt reads it; ValueError where there is none."""
    try:
        if "target" in item:
            context, target = pair(tokenizer, item["context"], item.get("delimiter", "") + item["target"])
            if not context or not target:
                raise ValueError("no tokens")
            return {"context_ids": context, "target_ids": target}
        between = item.get("delimiter", " ")
        pairs = [pair(tokenizer, item["context"], between + choice) for choice in item["choices"]]
        if any(context != pairs[0][0] for context, _ in pairs):
            raise ValueError("choices that begin with the token that stands in place of an empty context")
        if not all(context and choice for context, choice in pairs):
            raise ValueError("a choice of no tokens")
        return {"context_ids": pairs[0][0], "choice_ids": [choice for _, choice in pairs], "answer": item["answer"],
                "choice_chars": [len(choice) for choice in item["choices"]],
                "choice_bytes": [len(choice.encode("utf-8")) for choice in item["choices"]]}
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair, which is no text") from None
