#!/usr/bin/env python3
"""Makes token shards of a known data set: from the Hugging Face Hub, or from a folder that is laid out like it there.

A recipe (data/recipes/, or a JSON file of your own) says which files of a repository train, which validate, and which
column or field holds the text. Several processes take the files in turn; a file from the Hub is there only while it is
read. What was killed goes on with the same command: no document is lost, none is there twice. What comes of it is a set
as data/prepare.py makes it of the same files in the same order, token for token.
"""
import argparse
import contextlib
import fnmatch
import json
import os
import re
import shutil
import sys

from console import CONTROLS, EXIT_RUNTIME, Arguments, Failure, run_tool, say
from encoders import make_encoder
from parts import Parts, Quiet
from prepare import Writer, text_notes
from records import Skipped
from shards import ShardSet, check_name, check_replaces_a_set, token_bytes_for, train_command
from tokenizer_files import tokenizer_facts, tokenizer_files

RECIPES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recipes")
EXAMPLES = """examples:
  data/fetch.py --list
  data/fetch.py tinystories --tokenizer gpt2 --out out/data
  data/fetch.py fineweb-edu --files 2 --workers 8 --out out/data            the first two files of it
  data/fetch.py c4 --from /mnt/c4 --out out/data                            a copy of the repository: /mnt/c4/en/c4-train.…
  data/fetch.py mine.json --from . --out out/data
      mine.json: {"train": ["a/*.parquet"], "val": ["b/*.parquet"], "field": "text"}
"""
KEYS = {  # of a recipe: type, default
    "about": (str, ""), "repository": (str, None), "revision": (str, "main"), "url": (str, None), "train": (list, None),
    "val": (list, []), "val_fraction": (float, 0.0), "format": (str, "auto"), "field": (str, "text"),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------
# Recipes


def recipe_names():
    return sorted(name[:-5] for name in os.listdir(RECIPES) if name.endswith(".json"))


def read_recipe(name):
    path = name if name.endswith(".json") else os.path.join(RECIPES, name + ".json")
    if not os.path.isfile(path):
        raise Failure("%s: no such recipe; there are %s, or a JSON file of your own" % (name, ", ".join(recipe_names())))
    try:
        with open(path, "rb") as file:
            recipe = json.loads(file.read(1 << 20))
    except OSError as error:
        raise Failure("%s: %s" % (path, error.strerror or error)) from None
    except (ValueError, RecursionError) as error:
        raise Failure("%s: not JSON: %s" % (path, error)) from None
    if not isinstance(recipe, dict):
        raise Failure("%s: not a JSON object" % path)
    for key, value in recipe.items():
        kind = KEYS.get(key, (None,))[0]
        if kind is None:
            raise Failure("%s: %r is no key of a recipe (%s)" % (path, key, ", ".join(KEYS)))
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool):
            raise Failure("%s: %r must be a %s" % (path, key, {str: "text", list: "list of patterns", float: "number"}[kind]))
        if kind is list and not all(isinstance(pattern, str) for pattern in value):
            raise Failure("%s: %r must be a list of patterns" % (path, key))
    recipe = dict({key: default for key, (_, default) in KEYS.items()}, **recipe)
    if not recipe["train"]:
        raise Failure("%s: 'train' names no files" % path)
    if not 0 <= recipe["val_fraction"] < 1:
        raise Failure("%s: 'val_fraction' %g: 0 or more, and less than 1, is allowed" % (path, recipe["val_fraction"]))
    return recipe


# ---------------------------------------------------------------------------------------------------------
# Where the files are: each can list() {path: bytes} and, in a worker, bring one


class Folder:
    """A folder that is laid out like the repository."""

    def __init__(self, path):
        self.path = path
        if not os.path.isdir(path):
            raise Failure("--from %s: no such folder" % path)

    def list(self):
        found = {}
        for folder, _, names in os.walk(self.path, followlinks=True):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    found[os.path.relpath(path, self.path)] = os.path.getsize(path)
        return found

    @contextlib.contextmanager
    def __call__(self, task):
        yield os.path.join(self.path, task["file"])


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


class Hub:
    """A data set's repository on the Hugging Face Hub, at one commit; a file is fetched into a folder for as long as it is
    read. What was fetched in part before goes on where it stood."""

    def __init__(self, repository, revision, scratch):
        self.repository, self.revision, self.scratch = repository, revision, scratch

    def list(self):
        hub = self._package()
        try:
            info = hub.HfApi().repo_info(self.repository, repo_type="dataset", revision=self.revision, files_metadata=True)
        except Exception as error:  # whatever the network and the Hub raise
            raise self._failure(error) from None
        self.revision = info.sha
        return {one.rfilename: one.size for one in info.siblings}

    @contextlib.contextmanager
    def __call__(self, task):
        hub = self._package()
        folder = os.path.join(self.scratch, task["part"])
        try:
            path = hub.hf_hub_download(self.repository, task["file"], repo_type="dataset", revision=self.revision, local_dir=folder)
        except Exception as error:
            raise self._failure(error) from None
        yield path
        shutil.rmtree(folder, ignore_errors=True)

    def _package(self):
        try:
            import huggingface_hub
        except ImportError:
            raise Failure("to fetch %s needs the Python package huggingface_hub (pip install huggingface_hub); --from DIR reads "
                          "a copy" % self.repository) from None  # fmt: skip
        return huggingface_hub

    def _failure(self, error):
        return Failure("%s: the Hub does not give it: %s; --from DIR reads a copy of the repository" % (
            self.repository, first_line(error)), EXIT_RUNTIME)  # fmt: skip


class Url:
    """A single file."""

    def __init__(self, url, scratch):
        self.url, self.scratch = url, scratch

    def list(self):
        return {self.url.rsplit("/", 1)[-1]: None}

    @contextlib.contextmanager
    def __call__(self, task):
        import urllib.request

        os.makedirs(self.scratch, exist_ok=True)
        path = os.path.join(self.scratch, task["file"])
        try:
            with urllib.request.urlopen(self.url, timeout=60) as answer, open(path, "wb") as file:
                shutil.copyfileobj(answer, file)
        except (OSError, ValueError) as error:
            raise Failure("%s: cannot be fetched: %s; --from DIR reads a copy" % (self.url, first_line(error)), EXIT_RUNTIME) from None
        yield path
        os.remove(path)


def place_of(recipe, chosen, scratch):
    if chosen.source:
        return Folder(chosen.source)
    if recipe["url"]:
        return Url(recipe["url"], scratch)
    if recipe["repository"]:
        return Hub(recipe["repository"], recipe["revision"], scratch)
    raise Failure("%s: its recipe names no repository: --from DIR says where its files are" % chosen.recipe)


def by_number(path):
    """part-2 before part-10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", path)]


def tasks_of(recipe, files, chosen):
    """Which files, in which order, as which parts."""
    tasks = []
    for split in ("train", "val"):
        found = sorted({path for pattern in recipe[split] for path in fnmatch.filter(files, pattern)}, key=by_number)
        if recipe[split] and not found:
            some = ", ".join(sorted(files)[:8]) + (", …" if len(files) > 8 else "")
            raise Failure("%s: no file matches %s; there are %s" % (chosen.recipe, " or ".join(recipe[split]), some or "none"))
        if split == "train" and chosen.files:
            found = found[: chosen.files]
        tasks += [{"part": "%s_%05d" % (split, i), "split": split, "file": path} for i, path in enumerate(found)]
    return tasks


# ---------------------------------------------------------------------------------------------------------


def is_there(chosen, plan):
    """Whether the set is there already, of this very plan."""
    try:
        with open(os.path.join(chosen.out, chosen.name + ".json"), "rb") as file:
            return json.loads(file.read(1 << 28)).get("plan") == plan
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def fetch(chosen):
    """The set on disk, as a line."""
    recipe = read_recipe(chosen.recipe)
    folder = os.path.join(chosen.out, chosen.name + ".parts")
    place = place_of(recipe, chosen, os.path.join(folder, "fetched"))
    files = place.list()
    tasks = tasks_of(recipe, files, chosen)
    check_replaces_a_set(chosen.out, chosen.name)
    options = {"tokenizer": chosen.tokenizer, "eot_token": chosen.eot_token, "special_tokens": chosen.special_tokens,
               "separator": chosen.separator, "format": recipe["format"], "field": chosen.field or recipe["field"],
               "skip_bad": chosen.skip_bad}  # fmt: skip
    encoder = make_encoder(chosen.tokenizer, chosen.eot_token, chosen.special_tokens == "control")
    tokenizer, no_table = tokenizer_files(encoder)
    separator = Writer(encoder, chosen.separator, Quiet(), 0).separator
    facts = tokenizer_facts(encoder, tokenizer, separated=chosen.separator == "eot")
    fraction = (recipe["val_fraction"] if chosen.val_fraction is None else chosen.val_fraction) if not recipe["val"] else 0.0
    plan = {"recipe": {key: recipe[key] for key in ("repository", "url", "format")}, "revision": getattr(place, "revision", None),
            "files": [[task["part"], task["file"], files[task["file"]]] for task in tasks],
            "tokenizer_sha256": facts["tokenizer_sha256"], "token_bytes": token_bytes_for(encoder.vocab_size),
            "options": {key: options[key] for key in options if key != "tokenizer"}, "val_fraction": fraction,
            "shard_tokens": chosen.shard_tokens}  # fmt: skip
    if is_there(chosen, plan):
        shutil.rmtree(folder, ignore_errors=True)
        return "%s: is there already, of these files" % os.path.join(chosen.out, chosen.name)
    with Parts(folder, plan) as parts:
        n_before = parts.make(tasks, options, place, chosen.workers)
        with ShardSet(chosen.out, chosen.name, encoder.vocab_size, chosen.shard_tokens) as shards:
            facts.update(separator=chosen.separator, eot_token=encoder.eot, special_tokens=chosen.special_tokens)
            facts.update(parts.assemble(shards, separator, tasks))
            if fraction:
                shards.split_tail(fraction)
            if not shards.train.n_tokens:
                raise Failure("%s: its files hold no text" % chosen.recipe)
            shards.commit(dict(facts, plan=plan), tokenizer)
        parts.remove()
    for note in text_notes(facts, chosen.special_tokens, no_table):
        say("fetch.py: note: " + note)
    left_out = "; left out: %s" % CONTROLS.sub("?", str(Skipped(facts["skipped"]))) if facts["skipped"] else ""
    return "%s: %d train, %d validation tokens of %d files (%d documents, %d bytes, vocabulary %d%s)%s\n%s" % (
        os.path.join(chosen.out, chosen.name), shards.train.n_tokens, shards.val.n_tokens, len(tasks),
        facts["train_documents"] + facts["val_documents"], facts["text_bytes"], encoder.vocab_size,
        "; %d files were done before" % n_before if n_before else "", left_out,
        train_command(chosen.out, chosen.name, shards.val.n_tokens > 0, encoder.vocab_size))  # fmt: skip


def parse_arguments(arguments):
    parser = Arguments("fetch.py", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("recipe", nargs="?", metavar="RECIPE", help="a name in data/recipes/ (--list), or a JSON file")
    add("--list", action="store_true", help="what recipes there are")
    add("--from", dest="source", metavar="DIR", help="read the files from this copy of the repository; no network is used")
    add("--out", metavar="DIR", default=".", help="folder to write into, made if missing (default: this one)")
    add("--name", help="the set's name (default: the recipe's)")
    add("--files", type=int, default=0, metavar="N", help="the first N files to train on (default: all)")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)")
    add("--tokenizer", default="gpt2", metavar="T", help="as prepare.py has it (default gpt2)")
    add("--eot-token", metavar="TOKEN", help="as prepare.py has it")
    add("--separator", choices=("eot", "newline", "none"), default="eot", help="between documents (default eot)")
    add("--special-tokens", choices=("text", "control"), default="text", help="as prepare.py has it")
    add("--field", help="the column or field that holds the text (default: the recipe's)")
    add("--skip-bad", action="store_true", help="leave out, and count, what is no text")
    add("--val-fraction", type=float, metavar="F", help="where nothing else validates: this share, from the end")
    add("--shard-tokens", type=int, default=100_000_000, metavar="N", help="tokens a shard (default 100000000)")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        return chosen
    if not chosen.recipe:
        raise Failure("which recipe? There are %s; --list says more" % ", ".join(recipe_names()))
    chosen.name = chosen.name or os.path.splitext(os.path.basename(chosen.recipe))[0]
    check_name(chosen.name)
    for flag, value, least, most in (("--files", chosen.files, 0, 1 << 31), ("--workers", chosen.workers, 1, 4096),
                                     ("--shard-tokens", chosen.shard_tokens, 1, 2**31 - 1)):  # fmt: skip
        if not least <= value <= most:
            raise Failure("%s %d: %d to %d are allowed" % (flag, value, least, most))
    if chosen.val_fraction is not None and not 0 <= chosen.val_fraction < 1:
        raise Failure("--val-fraction %g: 0 or more, and less than 1, is allowed" % chosen.val_fraction)
    if chosen.eot_token and chosen.tokenizer in ("bytes", "gpt2"):
        raise Failure("--eot-token is for a tokenizer.json; %s has its own" % chosen.tokenizer)
    return chosen


def work(arguments):
    chosen = parse_arguments(arguments)
    if chosen.list:
        return "\n".join("%-16s %s" % (name, read_recipe(name)["about"]) for name in recipe_names())
    return fetch(chosen)


if __name__ == "__main__":
    sys.exit(run_tool("fetch.py", work, sys.argv[1:]))
