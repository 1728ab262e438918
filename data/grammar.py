"""What does a random grammar say, and how surprising is it? Sampling, and entropy computed exactly.

A grammar is a dictionary of weighted lists of templates. A text in it is a sequence of lines, each drawn
independently from the list "line" and ended by a newline. In a template:

    {:noun}     draws a template from the list "noun" and writes it
    {x:noun}    the same, and remembers what was drawn as x (it must be plain text)
    {x}         writes x again
    {a+b}       writes the sum of the two numbers a and b

A list's entry is a template, or (weight, template); a plain template weighs 1.

Entropy is in nats. Three different numbers matter, and all three are computed from the weights alone:

  line entropy    what one line tells: the sum over its choices of the entropy of each, by the chain rule.
                  It is the entropy of the *text* only if no text can be drawn in two ways;
                  check_unambiguous() makes sure of that.
  entropy rate    line entropy / expected length of a line: no reader, however long its memory, can predict
                  the text with a smaller loss per byte.
  window floor    what the best possible reader loses per byte when it sees the text through windows of T+1
                  bytes that begin anywhere, often in the middle of a line, and has to predict bytes 2 … T+1.
                  It is a little above the entropy rate, because of what happened before the window. It is
                  the loss of Bayes' rule, so a lower bound, and one that is reached by a model that has
                  learned the grammar.

For the floor one follows the reader's belief: the probability of each place in the grammar, given the bytes
seen. Two readers who hold the same belief are the same from there on, so equal beliefs are merged, and
their number stays small (about ten thousand for the bundled language). A newline ends all doubt: the belief
is then always the same, and what follows depends only on how many bytes of the window are left.
"""
import bisect
import math
import random


class GrammarError(Exception):
    """The grammar itself is wrong: an unknown list or name, a malformed template, an ambiguity."""


# ---------------------------------------------------------------------------------------------------------
# From templates to nodes: a node is a choice, and remembers only what the rest of the line still needs.


class Node:
    """A choice: option i has probability[i], writes text[i] (maybe "") and leads to next[i] (None: end)."""

    __slots__ = ("serial", "probability", "cumulative", "text", "next")

    def __init__(self, serial, options):
        self.serial = serial
        self.probability = [p for p, _, _ in options]
        self.text = [text for _, text, _ in options]
        self.next = [node for _, _, node in options]
        total, self.cumulative = 0.0, []
        for p in self.probability:
            total += p
            self.cumulative.append(total)
        self.cumulative[-1] = 1.0  # so that rounding never leaves a gap at the end


def parse_template(template):
    """"the {x:noun}" → (("text", "the "), ("draw", "x", "noun"))"""
    elements, rest = [], template
    while rest:
        text, brace, rest = rest.partition("{")
        if text:
            elements.append(("text", text))
        if not brace:
            break
        slot, brace, rest = rest.partition("}")
        if not brace:
            raise GrammarError("template %r: a { without a }" % template)
        if ":" in slot:
            name, _, source = slot.partition(":")
            elements.append(("draw", name, source))
        elif "+" in slot:
            elements.append(("sum",) + tuple(slot.split("+")))
        else:
            elements.append(("recall", slot))
    return tuple(elements)


class Grammar:
    """The compiled grammar: .start is the node of a line's first choice."""

    def __init__(self, lists):
        self.lists = {}
        for name, entries in lists.items():
            weighted = [entry if isinstance(entry, tuple) else (1, entry) for entry in entries]
            total = sum(weight for weight, _ in weighted)
            self.lists[name] = [(weight / total, parse_template(text)) for weight, text in weighted]
        self._nodes = {}
        self.start = self._node((("draw", "", "line"), ("text", "\n")), {})

    def _node(self, elements, memory):
        """The node for the rest of a line, shared by all lines whose rest is the same."""
        if not elements:
            return None
        live = self._names_used(elements)
        key = (elements, tuple(sorted((k, v) for k, v in memory.items() if k in live)))
        if key not in self._nodes:
            options = self._options(elements[0], elements[1:], dict(key[1]))
            self._nodes[key] = Node(len(self._nodes), options)
        return self._nodes[key]

    def _names_used(self, elements):
        """The remembered names that these elements, and the lists they may draw from, mention."""
        names = set()
        for kind, *arguments in elements:
            if kind == "draw":
                for _, template in self._entries(arguments[1]):
                    names |= self._names_used(template)
            elif kind != "text":
                names.update(arguments)
        return names

    def _entries(self, source):
        if source not in self.lists:
            raise GrammarError("there is no list named %r" % source)
        return self.lists[source]

    def _options(self, element, rest, memory):
        kind, *arguments = element
        if kind == "draw":
            name, source = arguments
            options = []
            for p, template in self._entries(source):
                if all(element[0] == "text" for element in template):
                    text = "".join(element[1] for element in template)
                    remembered = dict(memory, **{name: text}) if name else memory
                    options.append((p, text, self._node(rest, remembered)))
                elif name:
                    raise GrammarError("{%s:%s}: only plain text can be remembered" % (name, source))
                else:
                    options.append((p, "", self._node(template + rest, memory)))
            return options
        try:
            if kind == "text":
                text = arguments[0]
            elif kind == "recall":
                text = memory[arguments[0]]
            else:
                text = str(sum(int(memory[name]) for name in arguments))
        except (KeyError, ValueError) as error:
            raise GrammarError("{%s} cannot be written: %s" % ("+".join(arguments), error)) from None
        return [(1.0, text, self._node(rest, memory))]


# ---------------------------------------------------------------------------------------------------------
# Sampling


def sample_bytes(grammar, n_bytes, seed, progress=None):
    """n_bytes of text. The same seed gives the same bytes with every Python: only random() is drawn from.

    progress, if given, is called with the number of bytes written so far, every hundred kilobytes or so.
    """
    draw = random.Random(seed).random
    pieces, written, reported = [], 0, 0
    while written < n_bytes:
        node = grammar.start
        while node is not None:
            i = bisect.bisect_right(node.cumulative, draw()) if len(node.text) > 1 else 0
            text = node.text[i]
            pieces.append(text)
            written += len(text)
            node = node.next[i]
        if progress and written - reported >= 100_000:
            reported = written
            progress(min(written, n_bytes))
    return "".join(pieces).encode("ascii")[:n_bytes]


# ---------------------------------------------------------------------------------------------------------
# Entropy


def entropy(probabilities):
    return -sum(p * math.log(p) for p in probabilities if p > 0)


def line_entropy_and_length(grammar):
    """(nats, expected bytes) of one line, newline included."""
    known = {None: (0.0, 0.0)}

    def walk(node):
        if node not in known:
            nats, length = entropy(node.probability), 0.0
            for p, text, following in zip(node.probability, node.text, node.next):
                rest_nats, rest_length = walk(following)
                nats += p * rest_nats
                length += p * (len(text) + rest_length)
            known[node] = (nats, length)
        return known[node]

    return walk(grammar.start)


FRESH = -1  # a belief's number just after a newline


def serial(node):
    return -1 if node is None else node.serial


class Reader:
    """The ideal reader: its beliefs, numbered, and what each expects of the next byte.

    A place is (text still to be written, node that follows); a belief is a set of places with
    probabilities, rounded to twelve digits so that equal ones are found equal. successors(b) lists
    (byte, probability, belief after that byte).
    """

    def __init__(self, grammar):
        self.grammar = grammar
        self._openings = {}
        self._beliefs, self._numbers, self._successors, self._entropies = [], {}, {}, {}
        self.line_start = self._number(self._open(grammar.start))
        self.anywhere = self._number(self._stationary())

    def _open(self, node):
        """The places where one may be, with probabilities, on arriving at a node: empty texts are passed."""
        if node not in self._openings:
            places = {}
            for p, text, following in zip(node.probability, node.text, node.next):
                if text:
                    places[text, following] = places.get((text, following), 0.0) + p
                else:
                    for place, q in self._open(following).items():
                        places[place] = places.get(place, 0.0) + p * q
            self._openings[node] = places
        return self._openings[node]

    def _stationary(self):
        """Where one is at a byte picked at random from an endless text: each place by how often it occurs."""
        order, seen = [], set()

        def visit(node):
            if node is not None and node not in seen:
                seen.add(node)
                for following in node.next:
                    visit(following)
                order.append(node)

        visit(self.grammar.start)
        reached, places = {self.grammar.start: 1.0}, {}
        for node in reversed(order):
            for p, text, following in zip(node.probability, node.text, node.next):
                share = reached[node] * p
                for i in range(len(text)):
                    places[text[i:], following] = places.get((text[i:], following), 0.0) + share
                if following is not None:
                    reached[following] = reached.get(following, 0.0) + share
        return places

    def _number(self, places):
        total = sum(places.values())
        if len(places) == 1:
            key = ((next(iter(places)), 1.0),)
        else:
            rounded = [(place, float("%.12g" % (p / total))) for place, p in places.items()]
            key = tuple(sorted(rounded, key=lambda entry: (entry[0][0], serial(entry[0][1]))))
        if key not in self._numbers:
            self._numbers[key] = len(self._beliefs)
            self._beliefs.append(key)
        return self._numbers[key]

    def successors(self, belief):
        if belief == FRESH:
            belief = self.line_start
        if belief not in self._successors:
            by_byte = {}
            for (text, following), p in self._beliefs[belief]:
                after = by_byte.setdefault(text[0], {})
                if len(text) > 1:
                    after[text[1:], following] = after.get((text[1:], following), 0.0) + p
                elif following is not None:
                    for place, q in self._open(following).items():
                        after[place] = after.get(place, 0.0) + p * q
            total = sum(p for _, p in self._beliefs[belief])
            result = []
            for byte, after in sorted(by_byte.items()):
                here = sum(p for (text, _), p in self._beliefs[belief] if text[0] == byte)
                if byte == "\n" and after:
                    raise GrammarError("a newline inside a line")
                result.append((ord(byte), here / total, self._number(after) if after else FRESH))
            self._successors[belief] = result
            self._entropies[belief] = entropy(p for _, p, _ in result)
        return self._successors[belief]

    def next_byte_entropy(self, belief):
        self.successors(belief)
        return self._entropies[self.line_start if belief == FRESH else belief]

    def _until_newline(self, belief, n_bytes):
        """(expected nats of byte t, probability that byte t is the first newline), t = 0 … n_bytes−1."""
        nats, newline = [0.0] * n_bytes, [0.0] * n_bytes
        masses = {belief: 1.0}
        for t in range(n_bytes):
            following = {}
            for b, mass in masses.items():
                nats[t] += mass * self.next_byte_entropy(b)
                for _, p, after in self.successors(b):
                    if after == FRESH:
                        newline[t] += mass * p
                    else:
                        following[after] = following.get(after, 0.0) + mass * p
            masses = following
        return nats, newline

    def text_entropy_of_line(self):
        """A line's entropy, byte by byte; that of its choices too, if the grammar is unambiguous."""
        total, masses = 0.0, {self.line_start: 1.0}
        while masses:
            following = {}
            for b, mass in masses.items():
                total += mass * self.next_byte_entropy(b)
                for _, p, after in self.successors(b):
                    if after != FRESH:
                        following[after] = following.get(after, 0.0) + mass * p
            masses = following
        return total

    def window_floor(self, T):
        """Nats per predicted byte of the ideal reader over windows of T+1 bytes that begin anywhere."""
        from_start = fresh_losses(*self._until_newline(self.line_start, T), T)
        nats, newline = self._until_newline(self.anywhere, T + 1)
        total = sum(nats[1:])  # the first byte is given, not predicted
        for t in range(T + 1):
            total += newline[t] * from_start[T - t]
        return total / T


def fresh_losses(nats, newline, n):
    """G[k]: expected nats of the first k bytes after a newline; the renewal equation, for k = 0 … n."""
    losses, own = [0.0], 0.0
    for k in range(1, n + 1):
        own += nats[k - 1]
        losses.append(own + sum(newline[t] * losses[k - 1 - t] for t in range(k)))
    return losses


def check_unambiguous(grammar, reader):
    """Raises GrammarError if a line can be drawn in two ways: its choices then tell more than its text."""
    choices, _ = line_entropy_and_length(grammar)
    text = reader.text_entropy_of_line()
    if abs(choices - text) > 1e-8 * choices:
        raise GrammarError("ambiguous: a line's choices hold %.9f nats, its text %.9f" % (choices, text))
