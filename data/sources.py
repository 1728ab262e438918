"""Which documents do these files hold? Text and JSONL, plain or .xz or .gz, read as a stream.

documents() yields (piece, starts_document): a document is one or more pieces, so that a text file of any size
passes through in constant memory. Everything that a file can have wrong ends in a Failure that names the
file, and the line where there is one.
"""
import contextlib
import gzip
import json
import lzma
import os
import zlib

from console import Failure

PIECE_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 30  # a "JSONL" file without newlines must not fill the memory


class Source:
    """One input file. raw_position() and size are in bytes on disk, for progress."""

    def __init__(self, path, form="auto", field="text"):
        self.path, self.field = path, field
        if os.path.isdir(path):
            raise Failure("%s: is a folder; name the files in it" % path)
        try:
            self.size = os.path.getsize(path)
        except OSError as error:
            raise Failure("%s: %s" % (path, error.strerror)) from None
        if not os.access(path, os.R_OK):
            raise Failure("%s: Permission denied" % path)
        stem, extension = os.path.splitext(path)
        self.packing = extension if extension in (".xz", ".gz") else ""
        inner = os.path.splitext(stem)[1] if self.packing else extension
        self.is_jsonl = form == "jsonl" or (form == "auto" and inner in (".jsonl", ".ndjson"))
        self._raw = None
        self.consumed = 0

    def raw_position(self):
        return self._raw.tell() if self._raw and self._raw.seekable() else self.consumed

    def documents(self):
        """Yields (bytes, starts_document); the pieces of a JSONL document are whole documents in UTF-8."""
        with contextlib.ExitStack() as stack:
            try:
                self._raw = stack.enter_context(open(self.path, "rb"))
                file = self._raw
                if self.packing == ".xz":
                    file = stack.enter_context(lzma.open(self._raw))
                elif self.packing == ".gz":
                    file = stack.enter_context(gzip.open(self._raw))
                yield from self._jsonl(file) if self.is_jsonl else self._text(file)
            except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
                raise Failure("%s: damaged %s data: %s" % (self.path, self.packing, error)) from None
            except OSError as error:
                raise Failure("%s: %s" % (self.path, error.strerror or error)) from None
            finally:
                self.consumed, self._raw = self.size, None

    @staticmethod
    def _text(file):
        yield file.read(PIECE_BYTES), True  # an empty file is an empty document
        while True:
            piece = file.read(PIECE_BYTES)
            if not piece:
                return
            yield piece, False

    def _jsonl(self, file):
        number = 0
        while True:
            line = file.readline(MAX_LINE_BYTES)
            number += 1
            if not line:
                return
            if len(line) == MAX_LINE_BYTES:
                raise Failure("%s:%d: a line of over %d bytes" % (self.path, number, MAX_LINE_BYTES))
            if line.strip():
                yield self._document(line, number), True

    def _document(self, line, number):
        where = "%s:%d" % (self.path, number)
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise Failure("%s: not UTF-8 at byte %d of the line" % (where, error.start)) from None
        except (ValueError, RecursionError) as error:
            raise Failure("%s: not JSON: %s" % (where, error)) from None
        if not isinstance(record, dict):
            raise Failure("%s: a JSON object is needed, with a field %r" % (where, self.field))
        if self.field not in record:
            has = ", ".join(sorted(record)[:8]) or "none"
            raise Failure("%s: no field %r (fields here: %s); see --field" % (where, self.field, has))
        text = record[self.field]
        if not isinstance(text, str):
            raise Failure("%s: field %r is no string" % (where, self.field))
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError:
            message = "%s: field %r holds half a surrogate pair, which is no character"
            raise Failure(message % (where, self.field)) from None
