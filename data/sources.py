"""Which documents do these files hold? Text and JSON, plain or packed, and Parquet, read as a stream.

documents() yields (piece, starts_document): a document is one or more pieces, so that a text file of any size
passes through in constant memory. Everything that a file can have wrong ends in a Failure that names the
file, and the line where there is one; what may be missing here and there is counted in `skipped`.
"""
import codecs
import contextlib
import json
import os
import stat

import formats
import parquet
from console import Failure
from records import BOM, Records, Skipped

PIECE_BYTES = 1 << 20
JSON_LINES = (".jsonl", ".ndjson", ".jsonlines")


class Utf8:
    """Is what is fed UTF-8 without zero bytes? A Failure says where it is not."""

    def __init__(self, path, n_before):
        self.path, self._n_fed = path, n_before
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, piece, last=False):
        at = piece.find(0)
        if at >= 0:
            raise formats.binary(self.path, self._n_fed + at, piece[max(0, at - 256) // 2 * 2 :])
        held = len(self._decoder.getstate()[0])  # bytes of a character that is not whole yet
        try:
            self._decoder.decode(piece, last)
        except UnicodeDecodeError as error:
            raise Failure("%s: not UTF-8 at byte %d: convert it (iconv -f LATIN1 -t UTF-8, say), or take its bytes "
                          "as they are by --format binary" % (self.path, self._n_fed - held + error.start)) from None  # fmt: skip
        self._n_fed += len(piece)


class Source:
    """One input file. raw_position() and size are in bytes on disk, for progress; row: the line or row of the document that came
    last, None where the file is the document.

    form: auto (by name and content), text, jsonl, json, parquet, or binary (bytes, whatever they are).
    """

    def __init__(self, path, form="auto", field="text", skip_bad=False, skipped=None):
        self.path, self.form, self.field, self.skip_bad = path, form, field, skip_bad
        self.skipped = Skipped() if skipped is None else skipped
        if os.path.isdir(path):
            raise Failure("%s: is a folder; name the files in it" % path)
        try:
            found = os.stat(path)
        except (OSError, ValueError) as error:
            raise Failure("%s: %s" % (path, getattr(error, "strerror", None) or error)) from None
        if not os.access(path, os.R_OK):
            raise Failure("%s: Permission denied" % path)
        self.size = found.st_size
        self._plain_name, self.packing = formats.packing_of_name(path)
        self._raw = None
        self.consumed, self.row = 0, None
        if stat.S_ISREG(found.st_mode):  # so that the last of many files is refused before hours of work, not after
            with self._opened() as file:
                self._recognise(formats.with_head(file)[0])

    def raw_position(self):
        with contextlib.suppress(OSError, ValueError):
            if self._raw and not self.consumed:
                return os.lseek(self._raw.fileno(), 0, os.SEEK_CUR)
        return self.consumed

    def documents(self):
        """Yields (bytes, starts_document); the pieces of a JSON document are whole documents in UTF-8."""
        with self._opened() as file:
            head, file = formats.with_head(file)
            form = self._recognise(head)
            if form in ("text", "binary"):
                yield from self._text(file, form)
            elif form == "parquet":
                for text, self.row in parquet.documents(self.path, self.field, self.skip_bad, self.skipped, self._moved):
                    yield text, True
            else:
                records = Records(self.path, self.field, self.skip_bad, self.skipped)
                for text in records.of_lines(file) if form == "jsonl" else records.of_json(file):
                    self.row = records.row
                    yield text, True
        self.consumed = self.size

    def _moved(self, share):
        self.consumed = int(self.size * share)

    @contextlib.contextmanager
    def _opened(self):
        """The bytes inside the file; errors of reading become Failures."""
        packing = None
        with contextlib.ExitStack() as stack:
            try:
                self._raw = stack.enter_context(open(self.path, "rb"))
                head, file = formats.with_head(self._raw)
                packing = None if self.form == "binary" and not self.packing else formats.packing_of(head)
                if self.packing and not packing:
                    raise Failure("%s: damaged %s data: %s" % (self.path, self.packing, (
                        "it does not begin as such data does; if it is plain, call it %s"
                        % os.path.basename(self._plain_name)) if head else "the file is empty"))  # fmt: skip
                yield stack.enter_context(formats.open_packed(self.path, packing, file))
            except formats.DAMAGED as error:
                raise formats.damaged(self.path, self.packing or packing, error) from None
            except OSError as error:
                if error.errno is None and packing:  # so says bz2 that data are damaged
                    raise formats.damaged(self.path, self.packing or packing, error) from None
                raise Failure("%s: %s" % (self.path, error.strerror or error)) from None
            finally:
                self._raw = None

    def _recognise(self, head):
        """text, jsonl, json or binary; a Failure for what is none of them."""
        if self.form == "binary":
            return "binary"
        if self.form == "parquet" or parquet.is_parquet(head):
            return self._recognise_parquet(head)
        found = formats.foreign(head)
        if found:
            raise Failure("%s: seems to be %s: %s" % (self.path, *found))
        if b"\0" in head:
            raise formats.binary(self.path, head.index(0), head)
        if self.form != "auto":
            return self.form
        extension = os.path.splitext(self._plain_name)[1].lower()
        if extension == ".json":
            return "json"
        if extension in JSON_LINES:
            return "jsonl"
        if self._begins_as_json(head.removeprefix(BOM).lstrip()):
            raise Failure("%s: its first line is a JSON object with a field %r: --format jsonl takes its lines for "
                          "documents, --format text takes the JSON itself for text" % (self.path, self.field))  # fmt: skip
        return "text"

    def _recognise_parquet(self, head):
        """Its end says what it holds, so it is a file by itself; what can be known of it, is said at once."""
        if self.form not in ("auto", "parquet"):
            raise Failure("%s: a Parquet file, where --format says %s" % (self.path, self.form))
        if not head.startswith(parquet.MAGIC):
            raise Failure("%s: no Parquet file: it does not begin with PAR1" % self.path)
        if formats.packing_of_name(self.path)[1] or not self._raw or not self._raw.seekable():
            raise Failure("%s: a Parquet file inside packed data or a pipe: unpack it into a file first" % self.path)
        pyarrow, file = parquet.open_file(self.path)
        with file:
            parquet.check_column(pyarrow, self.path, file.schema_arrow, self.field)
        return "parquet"

    def _begins_as_json(self, head):
        """Does a file that is not called so hold JSON lines? The first may be longer than what is known of it."""
        if not head.startswith(b"{"):
            return False
        line, end, _ = head.partition(b"\n")
        with contextlib.suppress(ValueError, RecursionError):
            return self.field in json.loads(line)
        return not end and json.dumps(self.field).encode() + b":" in line.replace(b" ", b"")

    def _text(self, file, form):
        piece = file.read(PIECE_BYTES)
        checked = Utf8(self.path, 0) if form == "text" else None
        if checked and piece.startswith(BOM):
            self.skipped.add("byte order mark", self.path)
            piece, checked = piece[len(BOM) :], Utf8(self.path, len(BOM))
        if not piece:
            self.skipped.add("empty", self.path)
        starts = True
        while piece:
            if checked:
                checked.feed(piece)
            yield piece, starts
            piece, starts = file.read(PIECE_BYTES), False
        if checked:
            checked.feed(b"", last=True)
