"""What does a file seem to be, by its first bytes? Packed data is opened; what is no text gets its name.

open_packed() gives the bytes inside a .gz, .xz, .bz2 or .zst, whatever the file is called: its content decides.
foreign() says of the first bytes of something else what it is and what to do about it.
"""
import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import shutil
import subprocess
import zlib

from console import Failure

HEAD_BYTES = 4096
PACKINGS = (  # how it begins, what its files are called, its name
    (b"\x1f\x8b", (".gz", ".gzip"), "gzip"),
    (b"\xfd7zXZ\0", (".xz",), "xz"),
    (b"BZh", (".bz2",), "bzip2"),
    (b"\x28\xb5\x2f\xfd", (".zst", ".zstd"), "zstd"),
)
DAMAGED = (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError)

UNPACK = "unpack it first"
NOT_YET = "not read here; turn it into JSONL first"
NO_TEXT = "it holds no plain text"
MAGICS = (  # offset, bytes, what it is, what to do; if they are letters alone, only where a zero byte is near
    (0, b"ARROW1\0\0", "an Arrow file", NOT_YET + ": datasets.Dataset.from_file(A).to_json(B)"),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", NOT_YET + ": datasets.Dataset.from_file(A).to_json(B)"),
    (0, b"Obj\x01", "an Avro file", NOT_YET),
    (0, b"ORC", "an ORC file", NOT_YET),
    (0, b"SQLite format 3\0", "an SQLite database", NOT_YET),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", NOT_YET),
    (0, b"\x93NUMPY", "a NumPy array", "tokens in it are no text; documents belong into JSONL"),
    (0, b"PK\x03\x04", "a zip archive (or .docx, .epub, .npz, a PyTorch file)", UNPACK),
    (0, b"PK\x05\x06", "an empty zip archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (0, b"\x04\x22\x4d\x18", "lz4 data", UNPACK + ", or pack it with zstd"),
    (0, b"\x1f\x9d", "data of compress (.Z)", UNPACK),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", "save it as plain text first"),
    (0, b"\x7fELF", "a program", NO_TEXT),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", NO_TEXT),
    (0, b"\xff\xd8\xff", "a JPEG image", NO_TEXT),
    (0, b"GIF87a", "a GIF image", NO_TEXT),
    (0, b"GIF89a", "a GIF image", NO_TEXT),
    (0, b"OggS\0", "an Ogg file", NO_TEXT),
    (0, b"fLaC\0", "a FLAC file", NO_TEXT),
    (0, b"GGUF", "a model (GGUF)", NO_TEXT),
    (0, b"MMIDIDX\0\0", "an index of Megatron's tokens", "tokens are no text; start from the text they were made of"),
    (0, b"\x88\xd8\x34\x01", "a token shard (uint16)", "it is prepared already: give it to --train-data"),
    (0, b"\xa1\xd9\x34\x01", "a token shard (uint32)", "it is prepared already: give it to --train-data"),
    (0, b"\xff\xfe\0\0", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (0, b"\0\0\xfe\xff", "UTF-32 text", "convert it: iconv -f UTF-32 -t UTF-8"),
    (0, b"\xff\xfe", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
    (0, b"\xfe\xff", "UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8"),
)
PATTERNS = (
    (rb"WARC/\d", "a WARC file of web pages", "extract their text first, into JSONL"),
    (rb"%PDF-\d", "a PDF", "extract its text first (pdftotext)"),
    (rb"\{\\rtf\d", "an RTF document", "save it as plain text first"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with git lfs pull"),
    (rb"\x80[\2-\5][\x80-\x95}\]cK(X]", "a Python pickle", NO_TEXT + "; documents belong into JSONL"),
    (rb"(?s).{5}\0\0\0\{\s*\"", "a safetensors file", NO_TEXT),
    (rb"(?s)\0\0\0.ftyp", "a video or audio file", NO_TEXT),
    (rb"(?s)RIFF.{4}(WAVE|AVI |WEBP)", "a picture, sound or film (RIFF)", NO_TEXT),
    (rb"[\xc6-\xc8]\xd7\x34\x01|[\x8a\x8f]\xd8\x34\x01", "a file of llm.c's", NO_TEXT),
)


def packing_of_name(path):
    """(name without the extension of a packing, that extension or "")."""
    stem, extension = os.path.splitext(path)
    known = any(extension.lower() in extensions for _, extensions, _ in PACKINGS)
    return (stem, extension) if known else (path, "")


def packing_of(head):
    """gzip, xz, bzip2 or zstd, if that is how it begins; else None."""
    for magic, _, name in PACKINGS:
        if head.startswith(magic) and (name != "bzip2" or head[4:10] in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")):
            return name
    return None


def foreign(head):
    """(what it is, what to do), for what certainly is no text; else None."""
    for offset, magic, what, advice in MAGICS:
        if head.startswith(magic, offset) and (b"\0" in head or re.search(rb"[^ -~]", magic)):
            return what, advice
    for pattern, what, advice in PATTERNS:
        if re.match(pattern, head):
            return what, advice
    packing = packing_of(head)
    return (packing + " data", UNPACK) if packing else None


def binary(path, at, data):
    """The Failure for a zero byte among text. data: around it."""
    pairs = data[:512]
    if len(pairs) > 8 and (pairs[1::2].count(0) > len(pairs) // 4) != (pairs[::2].count(0) > len(pairs) // 4):
        kind = "UTF-16LE" if pairs[1::2].count(0) > pairs[::2].count(0) else "UTF-16BE"
        hint = "; numbers of two bytes, as in nanoGPT's .bin, or %s text (iconv -f %s -t UTF-8)" % (kind, kind)
    else:
        hint = "; --format binary takes bytes as they are"
    return Failure("%s: a zero byte at %d: this is no text%s" % (path, at, hint))


class Rest(io.RawIOBase):
    """A file with some bytes in front of it again."""

    def __init__(self, head, file):
        self._head, self._file = head, file

    def readable(self):
        return True

    def readinto(self, buffer):
        data = self._head[: len(buffer)] or self._file.read(len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def before(head, file):
    """A file that begins with what was read of it already."""
    return io.BufferedReader(Rest(head, file)) if head else file


def with_head(file):
    """(its first bytes, a file that still begins with them)."""
    head = file.read(HEAD_BYTES)
    if file.seekable():
        file.seek(0)
        return head, file
    return head, before(head, file)


@contextlib.contextmanager
def open_packed(path, name, file):
    """The bytes inside a packed file. name: packing_of()'s; None passes the file through."""
    if name == "zstd":
        with open_zstd(path, file) as inside:
            yield inside
        return
    openers = {"gzip": gzip.open, "xz": lzma.open, "bzip2": bz2.open, None: contextlib.nullcontext}
    with openers[name](file) as inside:
        yield inside


def damaged(path, packing, error):
    return Failure("%s: damaged %s data: %s" % (path, packing, error))


class ByPackage(io.RawIOBase):
    """zstd data by the package zstandard, whose own reader takes the end of a file for the end of its data."""

    def __init__(self, path, file, zstandard):
        self._path, self._file, self._zstandard = path, file, zstandard
        self._frame, self._packed, self._ready = None, b"", b""

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self._ready:
            self._packed = self._packed or self._file.read(1 << 16)
            if not self._packed:
                if self._frame:
                    raise damaged(self._path, "zstd", "it ends too early")
                return 0
            try:
                if not self._frame:
                    self._frame = self._zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj()
                self._ready = self._frame.decompress(self._packed)
            except self._zstandard.ZstdError as error:
                raise damaged(self._path, "zstd", error) from None
            self._packed = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame
        part, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


class ByProgram(io.RawIOBase):
    """What the program zstd writes; its error, if that is how it ends."""

    def __init__(self, path, process):
        self._path, self._process = path, process

    def readable(self):
        return True

    def readinto(self, buffer):
        n = self._process.stdout.readinto(buffer)
        if not n and self._process.wait():
            said = self._process.stderr.read().decode("utf-8", "replace").strip().split(": ")[-1]
            raise damaged(self._path, "zstd", said)
        return n


@contextlib.contextmanager
def open_zstd(path, file):
    """By whatever this machine has: Python's own from 3.14 on, the package zstandard, the program zstd."""
    try:
        from compression import zstd
    except ImportError:
        zstd = None
    try:
        import zstandard
    except ImportError:
        zstandard = None
    if zstd:
        try:
            with zstd.open(file) as inside:
                yield inside
        except zstd.ZstdError as error:
            raise damaged(path, "zstd", error) from None
    elif zstandard:
        yield io.BufferedReader(ByPackage(path, file, zstandard))
    elif not shutil.which("zstd"):
        raise Failure("%s: zstd data: install the Python package zstandard, or the program zstd" % path)
    elif not file.seekable():
        raise Failure("%s: zstd data from a pipe needs the Python package zstandard" % path)
    else:
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        command = ["zstd", "-dc", "--long=31"]
        with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                yield io.BufferedReader(ByProgram(path, process))
            finally:
                process.kill()
