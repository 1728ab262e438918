"""How tokens are kept on disk: llm.c's shards, written so that no half shard is ever seen under its name.

A shard is a header of 256 little-endian int32, then the tokens, and nothing after them:

    word 0   magic     20240520: uint16 tokens, version 1      20240801: uint32 tokens, version 7
    word 1   version
    word 2   number of tokens
    the rest is zero

A set called NAME is NAME_train_000000.bin, NAME_train_000001.bin …, NAME_val_000000.bin …, the folder NAME.tokenizer
(tokenizer_files.py), and NAME.json, which says what they hold. All is written into the folder NAME.partial first and
moved out of it at the end, NAME.json last: an interrupted run leaves nothing, or, if it was killed outright, a
NAME.partial that nobody reads and the next run removes.
"""
import array
import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import struct
import sys

from console import CONTROLS, EXIT_RUNTIME, EXIT_USAGE, Failure, os_failure, uninterrupted

HEADER_BYTES = 1024
FORMATS = {2: (20240520, 1), 4: (20240801, 7)}  # bytes per token: magic, version
COPY_BYTES = 1 << 22
LARGEST_FACTS = 1 << 28  # bytes of a NAME.json


def token_bytes_for(vocab_size):
    """2 where every id fits into 16 bits, else 4."""
    return 2 if vocab_size <= 65536 else 4


def header(token_bytes, n_tokens):
    magic, version = FORMATS[token_bytes]
    return struct.pack("<3i", magic, version, n_tokens).ljust(HEADER_BYTES, b"\0")


def pack_bytes(text, token_bytes=2):
    """Every byte of the text as a token."""
    packed = bytearray(len(text) * token_bytes)
    packed[::token_bytes] = text
    return packed


def pack_ids(ids, token_bytes):
    """A list of token ids, packed little-endian."""
    packed = array.array("H" if token_bytes == 2 else "I", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def crc64_table():
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0xC96C5795D7870F42 if crc & 1 else 0)
        table.append(crc)
    return table


CRC64 = crc64_table()
WHOLE_BYTES, SAMPLES, SAMPLE_BYTES = 1 << 16, 4, 512  # src/data/fingerprint.c


def shard_print(path, token_bytes):
    """What train_gpt knows a shard again by: tokens, their width, and a CRC-64/XZ of all of it or of samples."""
    size, crc = os.path.getsize(path) - HEADER_BYTES, 0xFFFFFFFFFFFFFFFF
    pieces = [(0, size)]
    if size > WHOLE_BYTES:
        pieces = [((size - SAMPLE_BYTES) * i // (SAMPLES - 1), SAMPLE_BYTES) for i in range(SAMPLES)]
    with open(path, "rb") as file:
        for offset, count in pieces:
            file.seek(HEADER_BYTES + offset)
            for byte in file.read(count):
                crc = crc >> 8 ^ CRC64[(crc ^ byte) & 255]
    return "%dx%d:%016x" % (size // token_bytes, token_bytes, crc ^ 0xFFFFFFFFFFFFFFFF)


def file_sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(COPY_BYTES), b""):
            digest.update(piece)
    return digest.hexdigest()


def read_shard(path):
    """(token_bytes, array of tokens) of one shard; Failure if it is none. For tests and scripts."""
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < HEADER_BYTES:
        raise Failure("%s: %d bytes are too few for a shard" % (path, len(data)))
    magic, version, n_tokens = struct.unpack_from("<3i", data)
    for token_bytes, expected in FORMATS.items():
        if (magic, version) == expected:
            break
    else:
        raise Failure("%s: magic %d, version %d is no shard" % (path, magic, version))
    if len(data) != HEADER_BYTES + n_tokens * token_bytes:
        raise Failure("%s: %d bytes, but %d tokens are announced" % (path, len(data), n_tokens))
    tokens = array.array("H" if token_bytes == 2 else "I", data[HEADER_BYTES:])
    if sys.byteorder == "big":
        tokens.byteswap()
    return token_bytes, tokens


def check_name(name):
    """A set's name is the beginning of file names, and of a glob that train_gpt is given."""
    complaint = None
    if not name or os.sep in name or name.startswith("."):
        complaint = "a plain file name is needed"
    elif CONTROLS.search(name) or "\\" in name:
        complaint = "control characters and backslashes are not allowed"
    elif any("\ud800" <= character <= "\udfff" for character in name):
        complaint = "it is not UTF-8"
    elif len((name + "_train_000000.bin").encode()) > 255:
        complaint = "too long for a file's name: at most 238 bytes are allowed"
    if complaint:
        raise Failure("--name %.300r: %s" % (name, complaint))


def train_command(folder, name, with_val, vocab_size):
    """The shell command that trains on a set: globs in which only the * is one, quoted for a shell."""

    def argument(split):
        path = os.path.join(folder, name)
        path = os.path.join(".", path) if path.startswith("~") else path  # which train_gpt takes for a home
        path = glob.escape(path.replace("\\", "\\\\"))
        return shlex.quote("%s_%s_*.bin" % (path, split))

    words = ["./train_gpt --preset tiny", "--train-data " + argument("train")]
    words += ["--val-data " + argument("val")] if with_val else []
    words += ["--vocab-size %d" % vocab_size] if vocab_size != 256 else []
    return " ".join(words)


class ShardStream:
    """Writes a stream of packed tokens into FOLDER/PREFIX_000000.bin, …, each of shard_tokens."""

    def __init__(self, folder, prefix, token_bytes, shard_tokens):
        self.folder, self.prefix = folder, prefix
        self.token_bytes, self.shard_tokens = token_bytes, shard_tokens
        self.n_tokens, self.n_shards = 0, 0
        self._file, self._room = None, 0  # room: bytes that still fit into the open shard

    def path(self, index):
        return os.path.join(self.folder, "%s_%06d.bin" % (self.prefix, index))

    def write(self, packed):
        view = memoryview(packed)
        while len(view):
            if not self._room:
                self._finish_shard()
                self._file = open(self.path(self.n_shards), "w+b")
                self._file.write(bytes(HEADER_BYTES))
                self.n_shards += 1
                self._room = self.shard_tokens * self.token_bytes
            part = view[: self._room]
            self._file.write(part)
            self._room -= len(part)
            self.n_tokens += len(part) // self.token_bytes
            view = view[len(part) :]

    def _finish_shard(self):
        if self._file:
            n_tokens = self.shard_tokens - self._room // self.token_bytes
            self._file.seek(0)
            self._file.write(header(self.token_bytes, n_tokens))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def close(self):
        self._finish_shard()

    def abandon(self):
        """Closes the open shard as it is; whatever it cannot write no longer matters."""
        if self._file:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def move_tail(self, n_keep, other):
        """Moves all tokens from n_keep on to another stream; both streams are closed afterwards."""
        self.close()
        first = n_keep // self.shard_tokens
        for index in range(first, self.n_shards):
            keep = n_keep - index * self.shard_tokens if index == first else 0
            with open(self.path(index), "r+b") as file:
                file.seek(HEADER_BYTES + keep * self.token_bytes)
                while True:
                    packed = file.read(COPY_BYTES)
                    if not packed:
                        break
                    other.write(packed)
                if keep:
                    file.truncate(HEADER_BYTES + keep * self.token_bytes)
                    file.seek(0)
                    file.write(header(self.token_bytes, keep))
            if not keep:
                os.remove(self.path(index))
        other.close()
        self.n_tokens, self.n_shards = n_keep, -(-n_keep // self.shard_tokens)


def check_replaces_a_set(folder, name):
    """An earlier set of this name may be replaced; a NAME.json that tells of none is somebody's, perhaps the very text."""
    path = os.path.join(folder, name + ".json")
    if not os.path.lexists(path):
        return
    try:
        with open(path, "rb") as file:
            is_ours = "train_tokens" in dict(json.loads(file.read(LARGEST_FACTS)))
    except OSError as error:
        raise os_failure("--out: " + path, error, EXIT_USAGE) from None
    except (ValueError, TypeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise Failure("--out: %s is there, and tells of no set: it would be replaced; another --name, or --out" % path)


class ShardSet:
    """The set called NAME in a folder, while it is written. Use as a context manager:

        with ShardSet("out", "books", vocab_size=256, shard_tokens=100_000_000) as shards:
            shards.train.write(pack_bytes(b"..."))
            shards.split_tail(0.1)                    # or write shards.val
            shards.commit({"tokenizer": "bytes"}, {"tokenizer.json": b"{…}"})     # the facts for books.json, the tokenizer

    Without commit(), or on any exception, nothing stays. Failure if the disk is full or the folder cannot be
    written.
    """

    def __init__(self, folder, name, vocab_size, shard_tokens):
        self.folder, self.name = folder, name
        self.vocab_size, self.shard_tokens = vocab_size, shard_tokens
        self.partial = os.path.join(folder, name + ".partial")
        token_bytes = token_bytes_for(vocab_size)
        self.train = ShardStream(self.partial, name + "_train", token_bytes, shard_tokens)
        self.val = ShardStream(self.partial, name + "_val", token_bytes, shard_tokens)

    def __enter__(self):
        check_replaces_a_set(self.folder, self.name)
        try:
            os.makedirs(self.partial, exist_ok=True)
            self._lock = os.open(self.partial, os.O_RDONLY)
        except OSError as error:
            wrong_path = error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS,
                                         errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT)  # fmt: skip
            code = EXIT_USAGE if wrong_path else EXIT_RUNTIME
            raise os_failure("--out: " + (error.filename or self.partial), error, code) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for leftover in os.listdir(self.partial):  # of a run that was killed
                path = os.path.join(self.partial, leftover)
                shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        except BlockingIOError:
            os.close(self._lock)
            raise Failure("%s: another run is writing it" % self.partial) from None
        except OSError as error:
            os.close(self._lock)
            raise os_failure(error.filename or self.partial, error) from None
        return self

    def __exit__(self, kind, error, trace):
        self.train.abandon()
        self.val.abandon()
        with uninterrupted():
            shutil.rmtree(self.partial, ignore_errors=True)
            os.close(self._lock)
        if isinstance(error, OSError) and not isinstance(error, Failure):
            raise os_failure(self.partial, error) from None

    def split_tail(self, fraction):
        """Makes the last tokens, a fraction of all, the validation split (nanoGPT's 90/10 for 0.1)."""
        self.train.move_tail(int(self.train.n_tokens * (1 - fraction)), self.val)

    def commit(self, facts, tokenizer=None):
        """Moves the shards to their names, in place of an earlier set of this name; writes NAME.json, and the files of
        its tokenizer, {name: bytes}."""
        self.train.close()
        self.val.close()
        shards = {"train": self._names(self.train), "val": self._names(self.val)}
        everything = dict(facts, vocab_size=self.vocab_size, train_tokens=self.train.n_tokens)
        everything.update(val_tokens=self.val.n_tokens, shards=shards)
        paths = {name: os.path.join(self.partial, name) for name in shards["train"] + shards["val"]}
        width = self.train.token_bytes
        everything["shard_prints"] = {name: shard_print(path, width) for name, path in paths.items()}
        everything["shard_sha256"] = {name: file_sha256(path) for name, path in paths.items()}
        self._write(self.name + ".json", (json.dumps(everything, indent=2) + "\n").encode())
        names = shards["train"] + shards["val"]
        if tokenizer:
            names.append(self.name + ".tokenizer")
            os.mkdir(os.path.join(self.partial, names[-1]))
            for file, data in tokenizer.items():
                self._write(os.path.join(names[-1], file), data)
        names.append(self.name + ".json")
        with uninterrupted():
            self._move(names)

    def _write(self, name, data):
        with open(os.path.join(self.partial, name), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _move(self, names):
        """Puts an earlier set of this name away and this one into its place, or, where that fails, all back."""
        moved, away = [], os.path.join(self.partial, "earlier")
        pattern = re.compile(re.escape(self.name) + r"(_(train|val)_\d{6}\.bin|\.json|\.tokenizer)")

        def move(source, target):
            os.rename(source, target)
            moved.append((source, target))

        try:
            os.mkdir(away)
            for old in sorted(filter(pattern.fullmatch, os.listdir(self.folder))):  # .json before the rest
                move(os.path.join(self.folder, old), os.path.join(away, old))
            for name in names:
                move(os.path.join(self.partial, name), os.path.join(self.folder, name))
        except OSError:
            for source, target in reversed(moved):
                with contextlib.suppress(OSError):
                    os.rename(target, source)
            raise

    @staticmethod
    def _names(stream):
        return [os.path.basename(stream.path(i)) for i in range(stream.n_shards)]
