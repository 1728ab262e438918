#!/usr/bin/env python3
"""Are the files of a set, to the last byte, those that its NAME.json tells of? Reads all of them.

(train_gpt looks at samples of each shard whenever it begins: this is for what was copied, or lay for long.)
"""
import json
import os
import sys

from console import Arguments, Failure, Progress, run_tool
from shards import file_sha256


def read_list(path):
    try:
        with open(path, "rb") as file:
            facts = json.loads(file.read(1 << 28))
        hashes = facts["shard_sha256"]
        listed = facts["shards"]["train"] + facts["shards"]["val"]
        tokenizer = facts.get("tokenizer_sha256")
        if not all(isinstance(name, str) and os.path.basename(name) == name for name in [*listed, *hashes]):
            raise KeyError("shards")
    except OSError as error:
        raise Failure("%s: %s" % (path, error.strerror or error)) from None
    except (ValueError, RecursionError) as error:
        raise Failure("%s: not JSON: %s" % (path, error)) from None
    except (KeyError, TypeError):
        raise Failure("%s: no list of shards with their hashes; sets of older versions have none" % path) from None
    return listed, hashes, tokenizer


def check(path):
    """(lines that say what is wrong, how many files were read)"""
    folder, stem = os.path.dirname(path), os.path.splitext(path)[0]
    listed, hashes, tokenizer = read_list(path)
    files = [(os.path.join(folder, name), hashes.get(name)) for name in listed]
    if tokenizer:
        files.append((os.path.join(stem + ".tokenizer", "tokenizer.json"), tokenizer))
    wrong, progress, n_bytes = [], Progress("check_set"), 0
    for i, (file, expected) in enumerate(files):
        try:
            n_bytes += os.path.getsize(file)
            found = file_sha256(file)
            if found != expected:
                wrong.append("%s: sha256 %.16s…, listed is %.16s…" % (file, found, expected))
        except OSError as error:
            wrong.append("%s: %s" % (file, error.strerror or error))
        progress.update(n_bytes, (i + 1) / len(files))
    progress.clear()
    return wrong, len(files)


def work(arguments):
    parser = Arguments("check_set.py", description=__doc__)
    parser.add_argument("list", metavar="NAME.json", help="beside its shards")
    chosen = parser.parse_args(arguments)
    wrong, n_files = check(chosen.list)
    if wrong:
        raise Failure("%d of %d files are wrong: %s" % (len(wrong), n_files, "; ".join(wrong[:3]) + ("; …" if wrong[3:] else "")))
    return "%s: all %d files are as they were written" % (chosen.list, n_files)


if __name__ == "__main__":
    sys.exit(run_tool("check_set.py", work, sys.argv[1:]))
