"""How does a long text pass through a tokenizer in windows, and come out with the tokens of the whole?

Windows overlap. Two neighbours are joined inside their overlap, where both have the same tokens at the same places,
far from either edge: what an edge does (a prefix space in front, half a word, half a run of spaces) stays outside.
For byte pair encoding one shared token is enough: a sequence of tokens is the encoding of its text if and only if
each pair of neighbours is that of its own, and each pair lies in one of the two windows. Where a tokenizer splits
text into words first, a shared word boundary does it; for the best path of a unigram model the distance does.

Where two windows nowhere agree they become one and are encoded again, up to MERGED characters; beyond that the text
is cut as it comes, and n_seams counts it.
"""
import codecs
from typing import NamedTuple

from console import Failure

# In characters. Their difference is a multiple of 1024, so that in a long run of one character tokens whose length
# is a power of two begin at the same places in both windows.
WINDOW = 1 << 17
OVERLAP = 1 << 11
MERGED = 1 << 22
AGREEING = 8  # tokens on either side of a join


class Window(NamedTuple):
    """A piece of a document; `overlap` of its characters the window before had as well, another one follows where it is_cut."""

    text: str
    overlap: int
    is_cut: bool
    path: str
    row: int  # of the record that the document is; None: it is a text file
    line: int  # of that file, where the window begins

    def where(self, at):
        """The place of a character, for messages."""
        return "%s:%d" % (self.path, self.row or self.line + self.text.count("\n", 0, at))

    def own(self):
        """(begin, end) of the characters that count as this window's: those far from its edges, so that a word which one cuts is
        the other window's."""
        return self.overlap // 2, len(self.text) - (OVERLAP - OVERLAP // 2) * self.is_cut


class Windows:
    """Cuts one document, fed as bytes, into windows."""

    def __init__(self, path, row=None):
        self.path, self._row, self._line = path, row, 1
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._overlap, self._n_fed, self._none_yet = "", 0, 0, True

    def feed(self, piece, last=False):
        held = len(self._decoder.getstate()[0])  # bytes of a character that is not whole yet
        try:
            self._text += self._decoder.decode(piece, last)
        except UnicodeDecodeError as error:
            where = self._n_fed - held + error.start
            raise Failure("%s: not UTF-8 at byte %d, and this tokenizer needs UTF-8" % (self.path, where)) from None
        self._n_fed += len(piece)
        at = 0
        while len(self._text) - at > WINDOW:
            yield Window(self._text[at : at + WINDOW], self._overlap, True, self.path, self._row, self._line)
            self._line += self._text.count("\n", at, at + WINDOW - OVERLAP)
            at += WINDOW - OVERLAP
            self._overlap, self._none_yet = OVERLAP, False
        self._text = self._text[at:]
        if last and (self._none_yet or len(self._text) > self._overlap):
            yield Window(self._text, self._overlap, False, self.path, self._row, self._line)


class Encoded:
    """A window's tokens. spans: where each begins and ends, in the encoder's unit; may overlap, for a character that
    is several tokens. gaps: where there is no token for what stands there."""

    def __init__(self, ids, spans, length, gaps=()):
        self.ids, self.spans, self.length, self.gaps = ids, spans, length, gaps

    def begins_clean(self, i):
        """Does no token before token i reach into it or begin where it does?"""
        return self.spans[i - 1][1] <= self.spans[i][0] > self.spans[i - 1][0]


def meeting(left, right, overlap):
    """(i, j): left's tokens up to i, then right's from j on; None where the two do not agree."""
    shift = left.length - overlap
    first = len(left.ids)
    while first > 0 and left.spans[first - 1][1] > shift:
        first -= 1
    places = {left.spans[i][0] - shift: i for i in range(max(first, 1), len(left.ids)) if left.begins_clean(i)}
    found, j = [], 1
    while j < len(right.ids) and right.spans[j][0] < overlap:
        if right.begins_clean(j) and right.spans[j][0] in places:
            found.append((abs(right.spans[j][0] - overlap // 2), places[right.spans[j][0]], j))
        j += 1
    if first == len(left.ids) and (not right.ids or right.spans[0][0] >= overlap):
        return first, 0  # a tokenizer that drops spaces, and nothing else here
    for _, i, j in sorted(found):
        if min(i, j, len(left.ids) - i, len(right.ids) - j) >= AGREEING and all(
            left.ids[i + k] == right.ids[j + k]
            and left.spans[i + k] == (right.spans[j + k][0] + shift, right.spans[j + k][1] + shift)
            for k in range(-AGREEING, AGREEING)
        ):
            return i, j
    return None


class Joiner:
    """Makes one stream of ids of windows that overlap, in the order of the text.

        for ids in joiner.add(text, overlap, encoded): …
        for ids in joiner.finish(): …

    encode(text) → Encoded, to encode again what was cut badly; measure(text): its length in the encoder's unit.
    """

    def __init__(self, encode, measure):
        self._encode, self._measure = encode, measure
        self._text, self._encoded, self._start = "", None, 0
        self.n_seams = 0

    def add(self, text, overlap, encoded):
        if not overlap:
            yield from self.finish()
            self._text, self._encoded, self._start = text, encoded, 0
            return
        met = meeting(self._encoded, encoded, self._measure(text[:overlap]))
        if met and met[0] >= self._start:
            yield self._encoded.ids[self._start : met[0]]
            self._text, self._encoded, self._start = text, encoded, met[1]
        elif not self._merge(text[overlap:]):
            self.n_seams += 1
            yield from self.finish()
            self._text, self._start = text[overlap:], 0
            self._encoded = self._encode(self._text)

    def _merge(self, more):
        """Takes more text into the open window; False where that would be too much, or move what is written."""
        if len(self._text) + len(more) > MERGED:
            return False
        longer = self._encode(self._text + more)
        settled = self._start + AGREEING if self._start else 0
        if longer.ids[:settled] != self._encoded.ids[:settled]:
            return False
        self._text, self._encoded = self._text + more, longer
        return True

    def finish(self):
        if self._encoded is not None:
            yield self._encoded.ids[self._start :]
            self._encoded = None
