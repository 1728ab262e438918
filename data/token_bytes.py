#!/usr/bin/env python3
"""Which bytes does each token id stand for? Makes token_bytes.safetensors, by which train_gpt writes text.

    data/token_bytes.py DIR         of DIR/tokenizer.json, into the same folder

A tokenizer whose decoder works token by token has such a table: byte-level BPE (GPT-2, Llama 3, Qwen), SentencePiece's
with ▁ for a space and <0xNN> for a byte (Llama 2, Gemma, T5), and bytes. It is made from the tokenizer.json and held to
the tokenizer's own decoding, of every id and of texts, before anything is written. What puts spaces between tokens or
takes them away (WordPiece, word lists) has none: that is said in one line.

The file is safetensors: `offsets` I64 [V+1] and `bytes` U8 [offsets[V]]; token i is bytes[offsets[i] .. offsets[i+1]),
a control token is empty. Its metadata: format token_bytes; end_of_document, an id, where there is one;
strip_leading_space, "true" where one space at the very start of a text is dropped.
"""
import argparse
import array
import json
import os
import re
import sys

from console import Arguments, Failure, os_failure, run_tool

NAME = "token_bytes.safetensors"

TEXTS = (
    "a", " a", "a ", "Hello, world!", "hello  two   spaces", "tab\tand\nline\r\nends\n\n", "  indented\n    more\n",
    "def f(x):\n    return x ** 2  # squared\n", "{\"key\": [1, 2.5e-3, null]}", "3.14159 1000000 0x1F 12:30",
    "It's we'll they've I'd you're don't", "naïve café, Übergröße, smørrebrød", "Привет, мир! Ещё раз.",
    "中文字符,没有空格。", "日本語のテキスト", "한국어 문장", "हिन्दी पाठ", "العربية", "ελληνικά", "עברית",
    "🙂 👍🏽 👩‍👩‍👧 ✓ €", "e\u0301 \u00a0\u2003\u200b\ufeff", "Ā Ġ Ċ ▁ <0x41> </w> ##ing", "\u2581leading", "x" * 300,
    "\U0001d518\U00010348\U000e0041", "ﬁ ① ½ ㎏", "a\x01b\x7fc", "<|endoftext|> <s> [CLS]", "¡¿«»§¶", "a_b-c/d\\e`f",
)  # fmt: skip


class NoTable(Exception):
    """Why a tokenizer's tokens stand for no fixed bytes, as the rest of a sentence."""


# ---------------------------------------------------------------------------------------------------------
# From a tokenizer.json


def byte_letters():
    """GPT-2's letter for each byte: itself where it can be seen, else one from U+0100 on."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in seen)
    letters = {byte: chr(256 + n) for n, byte in enumerate(others)}
    letters.update((byte, chr(byte)) for byte in seen)
    return letters


BYTE_OF = {letter: byte for byte, letter in byte_letters().items()}


def byte_level(token):
    """What is not all letters of bytes is an added token, and stands for itself."""
    try:
        return bytes(BYTE_OF[letter] for letter in token)
    except KeyError:
        return token.encode("utf-8", "replace")


def fallback(token):
    return bytes([int(token[3:5], 16)]) if re.fullmatch("<0x[0-9A-Fa-f]{2}>", token) else token


def replace_step(step):
    old, new = step.get("pattern", {}).get("String"), step.get("content")
    if not isinstance(old, str) or not isinstance(new, str) or not old:
        raise NoTable("its decoder replaces by a pattern")
    return lambda token: token.replace(old, new)


def strip_step(step):
    content, start, stop = step.get("content"), step.get("start"), step.get("stop")
    if content == " " and (start, stop) in ((0, 0), (1, 0)):
        return bool(start)
    raise NoTable("its decoder strips more than one space at the start of a text")


def metaspace_step(step):
    space = step.get("replacement", "▁")
    return lambda token: token.replace(space, " ")


def steps_of(decoder):
    """([token → token or bytes, …], whether a space at the start of a text is dropped)."""
    if decoder is None:
        raise NoTable("it has no decoder: spaces are put between its tokens")
    steps = decoder.get("decoders", []) if decoder.get("type") == "Sequence" else [decoder]
    found, strip, whole = [], False, False
    for step in steps:
        kind = step.get("type")
        if whole and kind not in ("Fuse", "Strip"):
            raise NoTable("its decoder works on the whole text (%s after Fuse)" % kind)
        if kind == "Fuse":
            whole = True
        elif kind == "Strip" and whole:
            strip = strip_step(step) or strip
        elif kind == "Metaspace":
            found.append(metaspace_step(step))
            strip = step.get("prepend_scheme", "always") != "never"
        elif kind in ("ByteLevel", "ByteFallback"):
            found.append(byte_level if kind == "ByteLevel" else fallback)
        elif kind == "Replace":
            found.append(replace_step(step))
        else:
            raise NoTable("the bytes of its tokens hang on their neighbours (decoder %s)" % kind)
    return found, strip


def token_table(decoder, tokens, control):
    """([bytes of each id], strip): tokens are their names by id, as the library's decoder is given them (None: there is
    none), control the ids that stand for no text. NoTable says why not."""
    steps, strip = steps_of(decoder)
    table = [b""] * len(tokens)
    for i, token in enumerate(tokens):
        if i in control or token is None:
            continue
        for step in steps:
            token = step(token) if isinstance(token, str) else token
        table[i] = token.encode("utf-8", "replace") if isinstance(token, str) else token
    return table, strip


def text_of(ids, table, strip):
    """The text of some ids by the table, as a reader would see it."""
    whole = b"".join(table[i] for i in ids)
    return (whole[1:] if strip and whole.startswith(b" ") else whole).decode("utf-8", "replace")


def verify(tokenizer, table, strip, control):
    """NoTable unless the library's tokenizer decodes every id, and texts, as the table does.

    Each id stands behind a word, where nothing is stripped. Where a text begins with several spaces, Metaspace drops
    all of its first token's; the table drops one, as encoding had put one: their beginnings are not compared.
    """

    def compare(ids, what):
        ours, theirs = text_of(ids, table, strip), tokenizer.decode(ids, skip_special_tokens=True)
        if strip:
            ours, theirs = ours.lstrip(" "), theirs.lstrip(" ")
        if ours != theirs:
            raise NoTable("%s is %.40r to its own decoder, not %.40r" % (what, theirs, ours))

    anchor = next((i for i, token in enumerate(table) if token.isalpha() and token.isascii()
                   and isinstance(fallback(tokenizer.id_to_token(i)), str)), None)  # fmt: skip
    others = [i for i in range(len(table)) if i not in control and anchor is not None]
    for first in range(0, len(others), 8192):
        part = others[first : first + 8192]
        theirs = tokenizer.decode_batch([[anchor, i] for i in part], skip_special_tokens=True)
        for i, text in zip(part, theirs):
            if text != (table[anchor] + table[i]).decode("utf-8", "replace"):
                compare([anchor, i], "id %d" % i)
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        compare([i for i in ids if i not in control], "the text %.20r" % text)


# ---------------------------------------------------------------------------------------------------------
# As a file


def container(table, strip, end_of_document):
    """The bytes of token_bytes.safetensors. end_of_document: an id or None."""
    offsets = array.array("q", [0])
    for token in table:
        offsets.append(offsets[-1] + len(token))
    if sys.byteorder == "big":
        offsets.byteswap()
    packed, joined = offsets.tobytes(), b"".join(table)
    metadata = {"format": "token_bytes", "strip_leading_space": "true" if strip else "false"}
    if end_of_document is not None:
        metadata["end_of_document"] = str(end_of_document)
    header = {
        "__metadata__": metadata,
        "offsets": {"dtype": "I64", "shape": [len(offsets)], "data_offsets": [0, len(packed)]},
        "bytes": {"dtype": "U8", "shape": [len(joined)], "data_offsets": [len(packed), len(packed) + len(joined)]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + packed + joined


def read_container(path):
    """(table, metadata) of a token_bytes.safetensors, for tests and scripts."""
    with open(path, "rb") as file:
        data = file.read()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    begin, end = (start + at for at in header["offsets"]["data_offsets"])
    offsets = array.array("q", data[begin:end])
    if sys.byteorder == "big":
        offsets.byteswap()
    joined = data[start + header["bytes"]["data_offsets"][0] :]
    return [joined[a:b] for a, b in zip(offsets, offsets[1:])], header["__metadata__"]


def write_whole(path, data):
    """A file in place of an earlier one in a single moment."""
    partial = path + ".partial"
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if os.path.isfile(partial):
            os.remove(partial)
        raise os_failure(path, error) from None


def work(arguments):
    from encoders import HuggingFaceEncoder
    from pretrained_tokenizer import find_tokenizer

    parser = Arguments("token_bytes.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="a folder with a tokenizer.json")
    parser.add_argument("--eot-token", metavar="TOKEN", help="the token that ends a document (default: its own eos_token)")
    chosen = parser.parse_args(arguments)
    if not os.path.isdir(chosen.folder):
        raise Failure("%s: not a folder with a tokenizer.json" % chosen.folder)
    encoder = HuggingFaceEncoder(find_tokenizer(chosen.folder, ""), chosen.eot_token)
    try:
        table, strip = encoder.token_table()
    except NoTable as reason:
        raise Failure("%s: no table: %s" % (chosen.folder, reason)) from None
    path = os.path.join(chosen.folder, NAME)
    write_whole(path, container(table, strip, encoder.eot))
    ends = "no token ends a document" if encoder.eot is None else "id %d ends a document" % encoder.eot
    return "%s: %d ids, %d bytes; %s" % (path, len(table), sum(map(len, table)), ends)


if __name__ == "__main__":
    from token_bytes import work as work_of_the_module  # whose NoTable is the one that encoders.py raises

    sys.exit(run_tool("token_bytes.py", work_of_the_module, sys.argv[1:]))
