"""Which tokenizer does a name, file or folder mean, and what if it is none? GPT-2's, where this machine has it.

find_tokenizer() gives a Pretrained: the bytes of a tokenizer.json and what the tokenizer_config.json beside it says. The
older form of GPT-2's tokenizer, vocab.json and merges.txt, becomes a tokenizer.json here. Nothing is fetched.
"""
import json
import os
import re

from console import Failure
from token_bytes import byte_letters

LARGEST = 1 << 28  # bytes of a tokenizer.json; the largest that are known have about 2^25
SETTINGS_LARGEST = 1 << 24

NOT_A_TOKENIZER = {  # what lies beside a tokenizer.json, or came before it
    "tokenizer.model": "is a SentencePiece model",
    "spiece.model": "is a SentencePiece model",
    "sentencepiece.bpe.model": "is a SentencePiece model",
    "vocab.json": "is half of GPT-2's older form (vocab.json and merges.txt)",
    "merges.txt": "is half of GPT-2's older form (vocab.json and merges.txt)",
    "vocab.txt": "is the vocabulary of a WordPiece tokenizer",
    "tokenizer_config.json": "holds a tokenizer's settings, not the tokenizer",
    "special_tokens_map.json": "holds a tokenizer's special tokens, not the tokenizer",
    "config.json": "describes a model, not its tokenizer",
}
CONVERT = ("; a tokenizer.json is needed: transformers writes one, AutoTokenizer.from_pretrained(FOLDER)"
           ".save_pretrained(ANOTHER)")  # fmt: skip
HALVES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))  # Hugging Face's names, OpenAI's


class Pretrained:
    """A tokenizer.json that has been found: its bytes, a name for people, and what lies beside it."""

    def __init__(self, path, flag, data, name=None, settings=None):
        self.path, self.shown, self.data = path, flag + path, data
        self.name, self.settings = name or name_of(path), settings or {}


def as_written(tokenizer):
    """A tokenizers.Tokenizer, from which a text gets all its tokens and no other, the same each time: a tokenizer.json may
    also hold what somebody's batches needed: cut at 512 tokens, padded to that, or pieces left out by chance."""
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def name_of(path):
    """A tokenizer is called as its folder, if the file is only called what all are."""
    folder, file = os.path.split(os.path.abspath(path))
    return os.path.basename(folder) or file if file == "tokenizer.json" else file


def read(path, shown, largest=LARGEST):
    try:
        if os.path.getsize(path) > largest:
            raise Failure("%s: %d bytes; the most is %d" % (shown, os.path.getsize(path), largest))
        with open(path, "rb") as file:
            return file.read(largest + 1)
    except OSError as error:
        raise Failure("%s: %s" % (shown, error.strerror or error)) from None


def settings_beside(path, flag):
    """What the tokenizer_config.json in a file's folder says; {} where there is none."""
    beside = os.path.join(os.path.dirname(path), "tokenizer_config.json")
    if not os.path.isfile(beside):
        return {}
    try:
        settings = json.loads(read(beside, flag + beside, SETTINGS_LARGEST))
    except (ValueError, RecursionError) as error:
        raise Failure("%s%s: not JSON: %s" % (flag, beside, error)) from None
    if not isinstance(settings, dict):
        raise Failure("%s%s: not a JSON object" % (flag, beside))
    return settings


# ---------------------------------------------------------------------------------------------------------
# GPT-2's older form, and where its newer one may lie


def gpt2_definition(vocabulary, merges, special):
    """The tokenizer.json of a byte-level BPE with GPT-2's split: token → id and pairs in order, in GPT-2's letters."""
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [dict({"id": vocabulary[token], "content": token}, **flags) for token in special],
        "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": dict(level),
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocabulary, "merges": [list(pair) for pair in merges]},
    }  # fmt: skip


def as_json(definition):
    """One text for one definition, on every Python, so that its hash tells tokenizers apart."""
    return json.dumps(definition, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def merges_of_ranks(ranks):
    """The merges of a BPE that is given as bytes → rank: a token is made of what its own bytes become before it."""
    merges = []
    for token in sorted(ranks, key=ranks.get):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            ways = [ranks.get(left + right, ranks[token]) for left, right in zip(parts, parts[1:])]
            at = min(range(len(ways)), key=ways.__getitem__)
            if ways[at] >= ranks[token]:
                raise Failure("of its ranks no merges make token %d: this is no byte pair encoding" % ranks[token])
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            merges.append(tuple(parts))
    return merges


def from_ranks(ranks, special):
    """The tokenizer.json of bytes → id, and of special tokens → id, as tiktoken has them."""
    letters = byte_letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    vocabulary = {spelled[token]: ranks[token] for token in sorted(ranks, key=ranks.get)}
    vocabulary.update(special)
    merges = [(spelled[left], spelled[right]) for left, right in merges_of_ranks(ranks)]
    return as_json(gpt2_definition(vocabulary, merges, special))


def from_halves(folder, names, flag):
    """The tokenizer.json of vocab.json and merges.txt."""
    paths = [os.path.join(folder, name) for name in names]
    try:
        vocabulary = json.loads(read(paths[0], flag + paths[0]))
        lines = read(paths[1], flag + paths[1]).decode("utf-8").split("\n")
    except (ValueError, RecursionError) as error:
        raise Failure("%s%s: %s and %s: not as GPT-2's are: %s" % (flag, folder, *names, error)) from None
    if not isinstance(vocabulary, dict) or not all(type(i) is int and 0 <= i < 1 << 31 for i in vocabulary.values()):
        raise Failure("%s%s: not tokens and their ids" % (flag, paths[0]))
    absent = [letter for letter in byte_letters().values() if letter not in vocabulary]
    if absent:
        raise Failure("%s%s: not a vocabulary of GPT-2's kind: %d of the 256 bytes are not in it" % (flag, paths[0], len(absent)))
    merges = [tuple(line.rstrip("\r").split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    for pair in merges:
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise Failure("%s%s: %.60r is no merge of two tokens of %s" % (flag, paths[1], " ".join(pair), names[0]))
    made = {"".join(pair) for pair in merges}
    vocabulary = dict(sorted(vocabulary.items(), key=lambda item: item[1]))  # the same hash, in whatever order the file is
    special = [token for token in vocabulary if re.fullmatch(r"<.+>", token) and token not in made]
    return as_json(gpt2_definition(vocabulary, merges, special))


def hub_cache():
    """The folder in which Hugging Face's tools keep what they have fetched."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface")  # fmt: skip
    return os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")


def cached_gpt2():
    """The folder of GPT-2's tokenizer in that cache, or None."""
    for model in ("models--openai-community--gpt2", "models--gpt2"):
        snapshots = os.path.join(hub_cache(), model, "snapshots")
        for snapshot in sorted(os.listdir(snapshots)) if os.path.isdir(snapshots) else []:
            folder = os.path.join(snapshots, snapshot)
            if any(all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in (("tokenizer.json",), *HALVES)):
                return folder
    return None


# ---------------------------------------------------------------------------------------------------------
# What is meant, and what it is instead


def explain_file(path):
    """A Failure's words for a file that is certainly no tokenizer.json; None where it may be one."""
    name = os.path.basename(path)
    if name in NOT_A_TOKENIZER:
        return NOT_A_TOKENIZER[name] + CONVERT
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        return error.strerror
    if name.endswith(".tiktoken"):
        return "holds tiktoken's ranks" + CONVERT
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself: fetch it with git lfs pull"
    if name.endswith((".model", ".spm", ".vocab")) or (head[:1] == b"\n" and b"\0" in head):
        return "seems to be SentencePiece's" + CONVERT
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "is no tokenizer.json: it does not begin with {"
    return None


def explain_name(name):
    """A Failure's words for a --tokenizer that is no file."""
    if re.fullmatch(r"(openai-community/|openai/)?(distil)?gpt-?2([-_].*)?", name):
        return "GPT-2's tokenizer is called gpt2 here, whatever the model's size"
    if name in ("byte", "char", "ascii", "utf8", "utf-8"):
        return "is the one called bytes meant?"
    if re.fullmatch(r"(cl100k|o200k|p50k|r50k)_\w+", name):
        return "of tiktoken's encodings only gpt2 is known here"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.endswith(".json"):
        return ("no such file; if it is a model on the Hugging Face Hub, nothing is fetched here: "
                "hf download %s tokenizer.json, and give that file" % name)  # fmt: skip
    return "neither bytes nor gpt2, nor a tokenizer.json that is there"


def find_halves(path):
    """(folder, names) where a folder, or one of the two files, is GPT-2's older form; else None."""
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    for names in HALVES:
        both = all(os.path.isfile(os.path.join(folder, name)) for name in names)
        if both and (os.path.isdir(path) or os.path.basename(path) in names):
            return folder, names
    return None


def find_tokenizer(path, flag="--tokenizer ", name=None):
    """The Pretrained that is meant by a file or folder; Failure says what it is instead. flag: for messages."""
    inside = os.path.join(path, "tokenizer.json")
    if os.path.isfile(inside):
        return Pretrained(inside, flag, read(inside, flag + inside), name, settings_beside(inside, flag))
    halves = find_halves(path)
    if halves:
        file = os.path.join(halves[0], halves[1][0])
        name = name or os.path.basename(os.path.abspath(halves[0]))
        return Pretrained(file, flag, from_halves(*halves, flag), name, settings_beside(file, flag))
    if os.path.isdir(path):
        found = [one for one in NOT_A_TOKENIZER if os.path.exists(os.path.join(path, one))]
        why = "; its %s %s%s" % (found[0], NOT_A_TOKENIZER[found[0]], CONVERT) if found else ""
        raise Failure("%s%s: a folder without a tokenizer.json%s" % (flag, path, why))
    if not os.path.exists(path):
        raise Failure("%s%s: %s" % (flag, path, explain_name(path)))
    why = explain_file(path)
    if why:
        raise Failure("%s%s: %s" % (flag, path, why))
    return Pretrained(path, flag, read(path, flag + path), name, settings_beside(path, flag))
