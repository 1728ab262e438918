"""What of a text does a tokenizer have no token for? It is counted, and said.

The tokenizers library tells nobody: a model with an unknown token puts that in the place of a character, or a word; a
BPE without one leaves characters out. What a tokenizer's normalizer or its split into words drops (accents, spaces) is
what it is made for, and not counted. A tokenizer of all 256 bytes has tokens for every text.
"""
import contextlib
import json
import secrets
from collections import Counter

from token_bytes import byte_letters

PIECES_KEPT = 1000  # different ones; those beyond are counted, not listed
PIECE_CHARACTERS = 40


def steps(definition):
    """The normalizers and pre-tokenizers of a tokenizer.json, one by one."""
    found = [definition.get("normalizer"), definition.get("pre_tokenizer")]
    while found:
        step = found.pop()
        if isinstance(step, dict):
            yield step
            found += step.get("normalizers", []) + step.get("pretokenizers", [])


def knows_all(definition):
    """Whether there is a token for every byte."""
    model = definition["model"]
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return False  # a character is spelled otherwise inside a word
    tokens = model["vocab"] if isinstance(model["vocab"], dict) else {token for token, _ in model["vocab"]}
    if model.get("byte_fallback") and all("<0x%02X>" % byte in tokens for byte in range(256)):
        return True
    in_letters = any(step["type"] == "ByteLevel" for step in steps(definition))
    return in_letters and model["type"] == "BPE" and all(letter in tokens for letter in byte_letters().values())


class Gaps:
    """Where a tokenizers.Tokenizer has no token for a text. becomes: the literal of its unknown token; None: it leaves out.

    What is left out has no trace among the tokens; a twin of the tokenizer that has an unknown token shows it.
    """

    def __init__(self, tokenizer):
        definition = json.loads(tokenizer.to_str())
        model = definition["model"]
        self.becomes, self.id, self._twin = model.get("unk_token"), None, None
        if model["type"] == "Unigram" and model.get("unk_id") is not None:
            self.becomes = model["vocab"][model["unk_id"]][0]
        self.is_whole = knows_all(definition)
        if self.becomes is not None:
            self.id = tokenizer.token_to_id(self.becomes)
        elif model["type"] == "BPE" and not self.is_whole:  # the other models raise an error
            self._make_twin(tokenizer, definition)

    def _make_twin(self, tokenizer, definition):
        name, model = "\ufdd0%s\ufdd1" % secrets.token_hex(16), definition["model"]
        model["vocab"][name] = 1 + max(model["vocab"].values(), default=-1)
        model.update(unk_token=name, fuse_unk=False)
        self._twin = type(tokenizer).from_str(json.dumps(definition))
        self._twin_id = self._twin.token_to_id(name)
        with contextlib.suppress(AttributeError):
            self._twin.encode_special_tokens = tokenizer.encode_special_tokens

    def spans(self, text, encoded):
        """(begin, end) of each gap in a text, whose Encoding is given."""
        if self.is_whole:
            return []
        unknown = self.id
        if self._twin:
            encoded, unknown = self._twin.encode(text, add_special_tokens=False), self._twin_id
        if unknown not in encoded.ids:
            return []
        found = {span for token, span in zip(encoded.ids, encoded.offsets) if token == unknown and span[0] < span[1]}
        return sorted(span for span in found if text[slice(*span)] != self.becomes)  # which may stand there in words


class Unknown:
    """What was met without a token: how many characters, which pieces how often, and where the first was."""

    def __init__(self, becomes=None):
        self.becomes, self.characters, self.first, self.pieces = becomes, 0, None, Counter()

    def add(self, text, spans, where, begin=0, end=None):
        """The characters of the spans that lie in text[begin:end], and the pieces that begin there; where(at) says the place of a
        character."""
        end = len(text) if end is None else end
        for first, last in spans:
            if first >= end or last <= begin:
                continue
            self.characters += min(last, end) - max(first, begin)
            if self.first is None:
                self.first = where(max(first, begin))
            piece = text[first : min(last, first + PIECE_CHARACTERS)]
            if first >= begin and (piece in self.pieces or len(self.pieces) < PIECES_KEPT):
                self.pieces[piece] += 1

    def facts(self):
        return {"characters": self.characters, "become": self.becomes, "first": self.first, "pieces": dict(self.pieces.most_common(100))}


def add_facts(total, more):
    """The facts of two texts, the first and the one behind it."""
    pieces = Counter(total["pieces"]) + Counter(more["pieces"])
    return {"characters": total["characters"] + more["characters"], "become": more["become"], "first": total["first"] or more["first"],
            "pieces": dict(pieces.most_common(100))}  # fmt: skip


def describe(facts):
    """A line; None where there is nothing to say."""
    if not facts["characters"]:
        return None
    pieces = Counter(facts["pieces"]).most_common()
    some = ", ".join("%r (%d times)" % pair for pair in pieces[:5]) + (", …" if len(pieces) > 5 else "")
    fate = "are left out" if facts["become"] is None else "become %s" % facts["become"]
    return "%d characters, for which the tokenizer has no token, %s: %s; the first in %s" % (
        facts["characters"], fate, some, facts["first"])  # fmt: skip
