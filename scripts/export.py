#!/usr/bin/env python3
"""Makes a directory that others can use of a run's checkpoint: weights in one type, what transformers needs, a model card.

    scripts/export.py out/run DIR                          the newest complete checkpoint, as it is
    scripts/export.py out/run/step_00001000 DIR --dtype bf16
    scripts/export.py out/run DIR --push NAME/MODEL        and uploads it (needs huggingface_hub, and its login)

DIR holds model.safetensors, config.json, generation_config.json and the tokenizer's files where the checkpoint has them,
modeling_train_gpt.py and configuration_train_gpt.py where no class of transformers computes the model, and README.md: what
the model is, how to load it, data, losses with their curve (loss.png, needs matplotlib), flags. It must not be there
yet, and appears whole or not at all. Optimizer, state and paths of the machine stay behind. --dtype needs numpy.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "data")]

from console import Arguments, Failure, os_failure, run_tool, say  # noqa: E402
from hf import card, weights  # noqa: E402
from sweeps import metrics  # noqa: E402

CODE = ("configuration_train_gpt.py", "modeling_train_gpt.py")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "token_bytes.safetensors")
CONFIG_MOST = 1 << 24
AUTO_MAP = {
    "AutoConfig": "configuration_train_gpt.TrainGptConfig",
    "AutoModel": "modeling_train_gpt.TrainGptModel",
    "AutoModelForCausalLM": "modeling_train_gpt.TrainGptForCausalLM",
}


def parse(arguments):
    first, _, rest = __doc__.partition("\n\n")
    parser = Arguments(prog="export.py", description=first, epilog=rest.split("\n\n", 1)[1])
    parser.add_argument("run", help="a run's directory, or a checkpoint's")
    parser.add_argument("directory", help="where it goes; must not be there yet")
    parser.add_argument("--dtype", choices=sorted(weights.NAMES), help="of all weights (default: as they are)")
    parser.add_argument("--no-curve", action="store_true", help="no loss.png, which takes matplotlib seconds")
    parser.add_argument(
        "--push", metavar="REPO", help="uploads the directory to this repository of the Hugging Face Hub"
    )
    parser.add_argument("--private", action="store_true", help="--push: a repository that is made is private")
    options = parser.parse_args(arguments)
    if options.private and not options.push:
        raise Failure("--private says what --push makes; there is no --push")
    return options


# ------------------------------------------------------------------------------------------------- what is there


def read_json(path):
    try:
        with open(path, "rb") as file:
            text = file.read(CONFIG_MOST + 1)
        value = json.loads(text.decode("utf-8"))
    except OSError as error:
        raise os_failure(path, error, 2) from None
    except (ValueError, RecursionError) as error:
        raise Failure("%s: no JSON: %s" % (path, error)) from None
    if not isinstance(value, dict):
        raise Failure("%s: a JSON object is expected" % path)
    return value


def complaint(checkpoint):
    """Why a directory is no complete checkpoint, by its manifest and the sizes of its files; or ""."""
    try:
        manifest = read_json(os.path.join(checkpoint, "manifest.json"))
        for entry in manifest["files"]:
            path = os.path.join(checkpoint, entry["name"])
            if os.path.basename(entry["name"]) != entry["name"] or os.path.getsize(path) != entry["bytes"]:
                return "%s is not as its manifest says" % path
        if not {"model.safetensors", "config.json"} <= {entry["name"] for entry in manifest["files"]}:
            return "%s lists no weights" % os.path.join(checkpoint, "manifest.json")
    except Failure as failure:
        return str(failure)
    except OSError as error:
        return "%s: %s" % (error.filename, error.strerror)
    except (KeyError, TypeError, ValueError):
        return "%s: not as train_gpt writes it" % os.path.join(checkpoint, "manifest.json")
    return ""


def find(path):
    """→ (the run's directory, the checkpoint's)."""
    if not os.path.isdir(path):
        raise Failure("%s: no directory of a run or a checkpoint" % path)
    if os.path.exists(os.path.join(path, "manifest.json")) or os.path.exists(os.path.join(path, "model.safetensors")):
        why = complaint(path)
        if why:
            raise Failure(why)
        return os.path.dirname(os.path.realpath(path)), path
    names = sorted(
        (name for name in os.listdir(path) if re.fullmatch(r"step_\d{8,}", name)), key=lambda name: int(name[5:])
    )
    if not names:
        raise Failure("%s: no checkpoint there" % path)
    reasons = []
    for name in reversed(names):
        why = complaint(os.path.join(path, name))
        if not why:
            for reason in reasons:
                say("export.py: passing over an incomplete checkpoint: %s" % reason)
            return path, os.path.join(path, name)
        reasons.append(why)
    raise Failure("none of the %d checkpoints in %s is complete; the newest: %s" % (len(names), path, reasons[0]))


def flags_of(checkpoint):
    """{flag: value} of a checkpoint's config.ini."""
    flags = {}
    try:
        with open(os.path.join(checkpoint, "config.ini"), encoding="utf-8", errors="replace") as file:
            for line in file:
                name, separator, value = line.partition("=")
                if separator and not line.startswith("#"):
                    flags[name.strip()] = value.strip()
    except OSError:
        pass  # a card without flags
    return flags


# ------------------------------------------------------------------------------------------------------- writing


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def copy(name, source, into):
    """Whether there was one to copy."""
    path = os.path.join(source, name)
    if not os.path.isfile(path) or os.path.islink(path):
        return False
    shutil.copyfile(path, os.path.join(into, name))
    return True


def draw_curve(run, into):
    """Whether loss.png could be drawn; a run without losses, or a machine without matplotlib, has none."""
    if not os.path.exists(os.path.join(run, "metrics.jsonl")):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        picture = os.path.join(scratch, "loss.png")
        command = [sys.executable, os.path.join(HERE, "plot.py"), run, "--out", picture]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if os.path.exists(picture):
            shutil.copyfile(picture, os.path.join(into, "loss.png"))
            return True
    say("export.py: no curve: %s" % (done.stderr.strip().splitlines() or ["plot.py drew none"])[-1])
    return False


def fill(into, run, checkpoint, options):
    config = read_json(os.path.join(checkpoint, "config.json"))
    stored = weights.convert(
        os.path.join(checkpoint, "model.safetensors"), os.path.join(into, "model.safetensors"), options.dtype
    )
    config["torch_dtype"] = weights.TORCH[stored]
    config.pop("dtype", None)
    if config.get("model_type") == "train_gpt":
        config.setdefault("auto_map", AUTO_MAP)
        for name in CODE:
            # a checkpoint of a build that did not put them there
            if not copy(name, checkpoint, into) and not copy(name, os.path.join(HERE, "hf"), into):
                raise Failure("%s: neither in %s nor in %s" % (name, checkpoint, os.path.join(HERE, "hf")))
    write(os.path.join(into, "config.json"), json.dumps(config, indent=2) + "\n")
    tokenizer = [name for name in TOKENIZER if copy(name, checkpoint, into)]
    copy("generation_config.json", checkpoint, into)
    state = (
        read_json(os.path.join(checkpoint, "state.json"))
        if os.path.exists(os.path.join(checkpoint, "state.json"))
        else {}
    )
    facts = card.Facts(
        name=card.plain(options.push or os.path.basename(os.path.abspath(options.directory))),
        config=config,
        flags=flags_of(checkpoint),
        state=state,
        result=metrics.read(run),
        parameters=weights.count(os.path.join(into, "model.safetensors")),
        dtype=weights.TORCH[stored],
        curve=not options.no_curve and draw_curve(run, into),
        tokenizer="tokenizer.json" in tokenizer,
    )
    write(os.path.join(into, "README.md"), card.text(facts))


def sync(directory):
    for name in [*os.listdir(directory), "."]:
        descriptor = os.open(os.path.join(directory, name), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def export(options):
    run, checkpoint = find(options.run)
    target = os.path.abspath(options.directory)
    if os.path.lexists(target):
        raise Failure("%s: there is something already" % options.directory)
    hub = load_hub() if options.push else None
    os.makedirs(os.path.dirname(target), exist_ok=True)
    partial = tempfile.mkdtemp(prefix=".%s." % os.path.basename(target), suffix=".partial", dir=os.path.dirname(target))
    try:
        fill(partial, run, checkpoint, options)
        os.chmod(partial, 0o777 & ~umask())
        sync(partial)
        os.rename(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    lines = ["%s: %s" % (options.directory, ", ".join(sorted(os.listdir(target))))]
    if hub:
        lines.append("pushed to %s" % push(hub, target, options))
    return "\n".join(lines)


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ------------------------------------------------------------------------------------------------------- the Hub


def load_hub():
    """Asked for before any work."""
    try:
        import huggingface_hub
    except ImportError:
        raise Failure("--push needs the package huggingface_hub (pip install huggingface_hub; hf auth login)") from None
    return huggingface_hub


def push(hub, directory, options):
    try:
        api = hub.HfApi()
        api.create_repo(options.push, private=options.private, exist_ok=True)
        return api.upload_folder(repo_id=options.push, folder_path=directory, commit_message="train_gpt export")
    except Exception as error:  # the library's own, the network's, the login's: what it says is all there is to say
        line = " ".join(str(error).split()) or type(error).__name__
        raise Failure("%s is written, but not pushed to %s: %s" % (options.directory, options.push, line), 1) from None


def work(arguments):
    options = parse(arguments)
    try:
        return export(options)
    except OSError as error:
        raise os_failure(error.filename or options.directory, error) from None


if __name__ == "__main__":
    sys.exit(run_tool("export.py", work, sys.argv[1:]))
