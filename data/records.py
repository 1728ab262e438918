"""Which documents does JSON hold? Lines, a list, or objects one after the other; the text of each in a field.

A record whose field is missing, null or empty is left out and counted; where most of a file's records lack it, the
field is the wrong one, and a Failure names those that are there. A record that is wrong otherwise is a Failure with
file and line, or, with skip_bad, left out and counted as well.
"""
import codecs
import contextlib
import json
import re

import formats
from console import Failure

MAX_LINE_BYTES = 1 << 30  # a "JSONL" file without newlines must not fill the memory
MAX_VALUE_CHARACTERS = 1 << 28  # of one element of a list
READ_BYTES = 1 << 20
BOM = codecs.BOM_UTF8
FEW, MANY = 100, 10_000  # records, after which a field that all lack, or nine of ten, is the wrong one
SPACE = re.compile("[ \t\r\n]*")


class Skipped:
    """What was left out, by kind: how many, and where the first was."""

    def __init__(self, facts=None):
        self.kinds = {kind: (one["count"], one["first"]) for kind, one in (facts or {}).items()}

    def add(self, kind, where):
        count, first = self.kinds.get(kind, (0, where))
        self.kinds[kind] = (count + 1, first)

    def __str__(self):
        return ", ".join("%d %s (first: %s)" % (n, kind, first) for kind, (n, first) in self.kinds.items())

    def facts(self):
        return {kind: {"count": n, "first": first} for kind, (n, first) in self.kinds.items()}


class BadRecord(Failure):
    """One record that is no document."""


class Records:
    """The documents of one file, as UTF-8, in order."""

    def __init__(self, path, field, skip_bad, skipped):
        self.path, self.field, self.skip_bad, self.skipped = path, field, skip_bad, skipped
        self._n_seen, self._n_lacking, self._lacks = 0, 0, ""
        self.row = 0  # the line of the document that came last

    def of_lines(self, file):
        number = 0
        while True:
            line = file.readline(MAX_LINE_BYTES)
            number += 1
            if not line:
                break
            if len(line) == MAX_LINE_BYTES:
                raise Failure("%s:%d: a line of over %d bytes" % (self.path, number, MAX_LINE_BYTES))
            if line.startswith(BOM):
                line = line[len(BOM) :]
                self.skipped.add("byte order mark", self._where(number))
            if line.strip():
                yield from self._document(number, line)
        self._judge_field(final=True)

    def of_json(self, file):
        """A .json file: JSON lines, as C4 and Dolma call them, if its first line is a value; else a list or objects."""
        head, file = formats.with_head(file)
        if not head.removeprefix(BOM).lstrip().startswith(b"["):
            line = file.readline(MAX_LINE_BYTES)
            is_value = False
            with contextlib.suppress(ValueError, RecursionError):
                json.loads(line.removeprefix(BOM).decode("utf-8"))
                is_value = True
            file = formats.before(line, file)
            if is_value:
                yield from self.of_lines(file)
                return
        for value, number in self._values(file):
            yield from self._document(number, value=value)
        self._judge_field(final=True)

    def _where(self, number):
        return "%s:%d" % (self.path, number)

    def _document(self, number, line=None, value=None):
        """The text in one record as a list of one, or of none."""
        self._n_seen += 1
        try:
            text = self._text(number, value) if line is None else self._text(number, self._parse(number, line))
        except BadRecord as error:
            if not self.skip_bad:
                raise BadRecord("%s; --skip-bad leaves such records out and counts them" % error) from None
            self.skipped.add("bad", self._where(number))
            return []
        if not text:
            return []
        self.row = number
        return [text]

    def _parse(self, number, line):
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise BadRecord("%s: not UTF-8 at byte %d of the line" % (self._where(number), error.start)) from None
        except (ValueError, RecursionError) as error:
            raise BadRecord("%s: not JSON: %s" % (self._where(number), error)) from None
        if not isinstance(record, dict):
            hint = "; --format json reads a list" if isinstance(record, list) else ""
            raise BadRecord("%s: a JSON object is needed, with a field %r%s" % (self._where(number), self.field, hint))
        return record

    def _text(self, number, record):
        if isinstance(record, dict):
            if record.get(self.field) is None:
                self._lacking(number, record)
                return None
            text = record[self.field]
        else:
            text = record  # of a list: a string is a document
            if text is None:
                self._lacking(number, {})
                return None
            if not isinstance(text, str):
                message = "%s: an object with a field %r is needed, or a string"
                raise BadRecord(message % (self._where(number), self.field))
        if not isinstance(text, str):
            raise BadRecord("%s: field %r is no string" % (self._where(number), self.field))
        if not text:
            self.skipped.add("empty", self._where(number))
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError:
            message = "%s: field %r holds half a surrogate pair, which is no character"
            raise BadRecord(message % (self._where(number), self.field)) from None

    def _lacking(self, number, record):
        is_null = self.field in record or not record
        self.skipped.add("null" if is_null else "without field %r" % self.field, self._where(number))
        if not self._n_lacking:
            fields = sorted(record, key=lambda name: (not isinstance(record[name], str), name))
            self._lacks = "%s: %s field %r%%s (fields here: %s); see --field" % (
                self._where(number).replace("%", "%%"), "null in" if is_null else "no", self.field.replace("%", "%%"),
                ", ".join(fields[:8]).replace("%", "%%") or "none")  # fmt: skip
        self._n_lacking += 1
        self._judge_field(final=False)

    def _judge_field(self, final):
        """More than half at the end of a file; sooner only where there is no doubt."""
        lacking, seen = self._n_lacking, self._n_seen
        hopeless = (seen >= FEW and lacking == seen) or (seen >= MANY and lacking * 10 > seen * 9)
        if lacking * 2 > seen if final else hopeless:
            raise Failure(self._lacks % (", nor in %d of %d records" % (lacking, seen)))

    def _values(self, file):
        """(value, line) of each element of a list, or of values one after the other; a value at a time in memory."""
        text = _Text(self.path, file)
        is_list = text.next_character() == "["
        if is_list:
            text.position += 1
        ends = "]" if is_list else None
        character = text.next_character()
        while character != ends:
            yield text.value()
            character = text.next_character()
            if is_list and character == ",":
                text.position += 1
                if text.next_character() == "]":
                    raise text.failure("not JSON: a comma at the end of the list")
            elif is_list and character != "]":
                raise text.failure("not JSON: ',' or ']' is needed here" if character else "the list does not end")
        if is_list:
            text.position += 1
            if text.next_character() is not None:
                raise text.failure("not JSON: something follows the list")


class _Text:
    """The text of a file, some of it at a time."""

    def __init__(self, path, file):
        self.path, self._file = path, file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self.position, self._line = "", 0, 1

    def failure(self, message, at=None):
        line = self._line + self._text.count("\n", self.position, at or self.position)
        return Failure("%s:%d: %s" % (self.path, line, message))

    def _fill(self):
        """More text; False at the end. Twice as much as there is, so that a long value is not read again and again."""
        left = self._text[self.position :]
        piece = self._file.read(max(READ_BYTES, len(left)))
        try:
            more = self._decoder.decode(piece, not piece)
        except UnicodeDecodeError:
            raise self.failure("not UTF-8 somewhere behind this line") from None
        self._text, self.position = left + more, 0
        return bool(piece)

    def next_character(self):
        """The next one that is no space, at position; None at the end."""
        while True:
            end = SPACE.match(self._text, self.position).end()
            self._line += self._text.count("\n", self.position, end)
            self.position = end
            if end < len(self._text):
                return self._text[end]
            if not self._fill():
                return None

    def value(self):
        """(the value that begins at position, its line)"""
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self.position)
                if end == len(self._text) and isinstance(value, (int, float)) and self._fill():
                    continue
            except json.JSONDecodeError as error:
                # cut off by the end of what was read, or wrong?
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 16
                if not cut or len(self._text) - self.position > MAX_VALUE_CHARACTERS:
                    raise self.failure("not JSON: " + error.msg, error.pos) from None
                failure = self.failure("not JSON: " + error.msg, error.pos)
                if not self._fill():
                    raise failure from None
            except (ValueError, RecursionError) as error:
                raise self.failure("not JSON: %s" % error) from None
            else:
                line = self._line
                self._line += self._text.count("\n", self.position, end)
                self.position = end
                return value, line
