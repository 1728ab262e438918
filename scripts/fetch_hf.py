#!/usr/bin/env python3
"""Fetches a model from Hugging Face's hub, as --init-from takes it. Needs huggingface_hub, and a network.

    scripts/fetch_hf.py HuggingFaceTB/SmolLM2-135M             → SmolLM2-135M/
    scripts/fetch_hf.py Qwen/Qwen3-0.6B --out models/qwen3     → models/qwen3/
    ./train_gpt --init-from SmolLM2-135M --train-data … 

Of the repository: config.json, generation_config.json, the tokenizer, and the weights as safetensors, sharded or not; nothing
else. What is there already and right is not fetched again, what was cut goes on, and in the end every file has the
repository's size and, where that has one, its SHA-256. A token for models that ask for one is taken from the environment
(HF_TOKEN) or from `hf auth login`.
"""
import argparse
import hashlib
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
EXIT_RUNTIME, EXIT_USAGE = 1, 2  # the machine's (no network, no disk); the user's (no such model)

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
WHOLE, SHARD = "model.safetensors", re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
BESIDE = (CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
          "added_tokens.json", "vocab.json", "merges.txt")  # fmt: skip


class Failure(Exception):
    def __init__(self, message, exit_code=EXIT_USAGE):
        super().__init__(re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", str(message)).strip()[:600])
        self.exit_code = exit_code


def hub():
    """The package, imported only when something is to be fetched."""
    try:
        import huggingface_hub
    except ImportError:
        raise Failure("huggingface_hub is not installed (pip install huggingface_hub)", EXIT_RUNTIME) from None
    return huggingface_hub


def wanted(files):
    """{name: size, hash or None} of what to fetch; files: what the repository says of each, by name."""
    weights = {name for name in files if name == WHOLE or name == INDEX or SHARD.fullmatch(name)}
    if not weights:
        others = sorted(name for name in files if name.endswith((".safetensors", ".bin", ".gguf", ".pth", ".pt")))
        raise Failure("there are no weights as %s in it%s" % (WHOLE, ", but " + others[0] if others else ""))
    if CONFIG not in files:
        raise Failure("there is no %s in it, so nothing would say which model its weights are" % CONFIG)
    return {name: files[name] for name in sorted(weights | (set(BESIDE) & set(files)))}


def listing(api, name, revision):
    """→ the commit, and {file: (size, SHA-256 or None)}."""
    info = api.model_info(name, revision=revision, files_metadata=True)
    files = {}
    for file in info.siblings or []:
        lfs = getattr(file, "lfs", None)
        digest = (lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)) if lfs else None
        files[file.rfilename] = (file.size, digest)
    return info.sha, files


def fault(path, size, digest):
    """What is wrong with a file that was fetched, or None."""
    have = os.path.getsize(path)
    if size is not None and have != size:
        return "has %d bytes where the repository's has %d" % (have, size)
    if digest:
        found = hashlib.sha256()
        with open(path, "rb") as file:
            for piece in iter(lambda: file.read(1 << 20), b""):
                found.update(piece)
        if found.hexdigest() != digest:
            return "has another SHA-256 than the repository's: remove it and fetch again"
    return None


def check_index(out, files):
    """Every shard that the index names is among the files."""
    path = os.path.join(out, INDEX)
    if INDEX not in files or WHOLE in files:
        return
    try:
        with open(path, encoding="utf-8") as file:
            shards = set(json.load(file)["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Failure("%s: is no index of safetensors" % path) from None
    missing = sorted(shard for shard in shards if shard not in files)
    if missing:
        raise Failure("%s: names %s, which the repository does not have" % (path, missing[0]))


def explain(name, error):
    """What huggingface_hub raised, as one line with an exit code."""
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "HFValidationError", "RevisionNotFoundError"):
        return Failure("%s: no such model or revision on the hub, or a private one (HF_TOKEN)" % name)
    if kind == "GatedRepoError":
        return Failure("%s: its owners ask for consent: give it on the model's page, then set HF_TOKEN" % name)
    if isinstance(error, OSError) and error.errno:
        return Failure("%s: %s" % (getattr(error, "filename", None) or name, error.strerror), EXIT_RUNTIME)
    first = str(error).strip().splitlines()[:1]
    return Failure("%s: the hub cannot be reached (%s%s)" % (name, kind, ": " + first[0] if first else ""), EXIT_RUNTIME)


def fetch(name, out, revision):
    package = hub()
    try:
        commit, files = listing(package.HfApi(), name, revision)
    except Exception as error:  # of a library that is not here to be asked for its classes
        raise explain(name, error) from None
    try:
        files = wanted(files)
    except Failure as failure:
        raise Failure("%s: %s" % (name, failure)) from None
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as error:
        raise Failure("%s: %s" % (out, error.strerror), EXIT_RUNTIME) from None
    for file, (size, digest) in files.items():
        try:
            path = package.hf_hub_download(name, file, revision=commit, local_dir=out)
        except Exception as error:
            raise explain("%s: %s" % (name, file), error) from None
        wrong = fault(path, size, digest)
        if wrong:
            raise Failure("%s: %s" % (path, wrong), EXIT_RUNTIME)
    check_index(out, files)
    return commit, files


def add_token_bytes(out):
    """Which bytes each token stands for, for a program that reads no tokenizer.json; where this project has the script for it."""
    script = os.path.join(ROOT, "data", "token_bytes.py")
    if not os.path.exists(script) or not os.path.exists(os.path.join(out, "tokenizer.json")):
        return
    done = subprocess.run([sys.executable, script, out], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        print("fetch_hf.py: %s" % (lines[-1] if lines else "data/token_bytes.py failed"), file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="OWNER/MODEL, as the hub has it")
    parser.add_argument("--out", help="the directory (default: MODEL)")
    parser.add_argument("--revision", help="a branch, tag or commit (default: main)")
    arguments = parser.parse_args()
    out = arguments.out or os.path.basename(arguments.name.rstrip("/"))
    try:
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", arguments.name) or out in ("", ".", ".."):
            raise Failure("'%s' is no name of a model: OWNER/MODEL" % arguments.name)
        commit, files = fetch(arguments.name, out, arguments.revision)
    except Failure as failure:
        print("fetch_hf.py: %s" % failure, file=sys.stderr)
        return failure.exit_code
    add_token_bytes(out)
    total = sum(size or 0 for size, _ in files.values())
    print("%s: %d files, %.1f MB, of %s at %s" % (out, len(files), total * 1e-6, arguments.name, commit))
    print("./train_gpt --init-from %s --train-data …" % out)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
