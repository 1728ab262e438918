#!/usr/bin/env python3
"""Continues texts with a model: encodes prompts by its tokenizer.json, and has train_gpt do the rest.

    scripts/generate.py out/run "Once upon a time"        one text, as it grows
    scripts/generate.py out/run                           asks for prompts; Ctrl-C ends a text, Ctrl-D the talk
    scripts/generate.py out/run --file prompts.txt        many at once: a prompt a line, or .jsonl with "prompt" (and "seed");
                                                          prints a line of JSON for each: prompt, text, ids, end

RUN is a run's directory, a checkpoint's, or one of Hugging Face's form with model.safetensors and tokenizer.json. Models of
bytes need no tokenizer; others need the Python package tokenizers. A prompt is encoded with the special tokens that its
tokenizer puts around a text, as transformers does. The program is train_gpt beside scripts/, or what TRAIN_GPT names.
"""
import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "data"))
from pretrained_tokenizer import as_written  # noqa: E402
from tokenizer_files import bytes_json  # noqa: E402
from unknown import Gaps, Unknown, describe  # noqa: E402

LONGEST_ARGUMENT = 100_000  # bytes; Linux takes no argument of more than 128 KiB
LARGEST_SEED = 1 << 53  # train_gpt's
# What goes to train_gpt as it is.
PASSED = ("max-new-tokens", "temperature", "top-k", "top-p", "seed", "stop-at-end", "batch-size", "device", "dtype", "threads")


class Failure(Exception):
    """What was wrong, in one line."""


class Model:
    """Where a model is, how train_gpt is told of it, and its tokenizer."""

    def __init__(self, path, program):
        self.program = program
        if not os.path.isdir(path):
            raise Failure("%s: no directory of a run or a model" % path)
        steps = sorted(name for name in os.listdir(path) if name.startswith("step_"))
        self.folder = os.path.join(path, steps[-1]) if steps else path
        is_ours = steps or os.path.exists(os.path.join(path, "manifest.json"))
        self.flags = ["--resume" if is_ours else "--init-from", path]
        self.config = self.read("config.json")
        vocabulary = self.config.get("vocab_size")
        if not isinstance(vocabulary, int):
            raise Failure("%s: no config.json there says the vocab_size" % self.folder)
        self.vocabulary = vocabulary
        self.is_bytes = vocabulary <= 256 and self.reads_bytes()
        self.has_table = self.is_bytes or self.holds("token_bytes.safetensors")
        self.tokenizer = None if self.is_bytes else self.read_tokenizer()

    def holds(self, name):
        return os.path.exists(os.path.join(self.folder, name))

    def read(self, name):
        path = os.path.join(self.folder, name)
        if not self.holds(name):
            return {}
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError) as error:
            raise Failure("%s: %s" % (path, getattr(error, "strerror", None) or error)) from None
        if not isinstance(content, dict):
            raise Failure("%s: not a JSON object" % path)
        return content

    def reads_bytes(self):
        """Whether its tokens are bytes: no tokenizer.json says that they are anything else."""
        try:
            with open(os.path.join(self.folder, "tokenizer.json"), "rb") as file:
                return file.read() == bytes_json()
        except OSError:
            return True

    def read_tokenizer(self):
        path = os.path.join(self.folder, "tokenizer.json")
        if not self.holds("tokenizer.json"):
            raise Failure("%s is not there: train_gpt --generate-tokens takes ids without a tokenizer" % path)
        try:
            import tokenizers
        except ImportError:
            raise Failure("tokenizer.json needs the Python package tokenizers: pip install tokenizers") from None
        try:
            tokenizer = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # the package raises nothing narrower
            raise Failure("%s: %s" % (path, error)) from None
        self.gaps = Gaps(as_written(tokenizer))
        self.unknown = Unknown(self.gaps.becomes)
        return tokenizer

    def encode(self, text, place="the prompt"):
        """ValueError for text that is no UTF-8."""
        text.encode("utf-8")
        encoded = self.tokenizer.encode(text)
        self.unknown.add(text, self.gaps.spans(text, encoded), lambda at: place)
        return encoded.ids

    def tell_unknown(self):
        """What of the prompts since the last time the model will not see."""
        said = describe(self.unknown.facts())
        if said:
            print("generate.py: note: " + said, file=sys.stderr)
        self.unknown = Unknown(self.gaps.becomes)

    def check_ids(self, ids):
        """Those of a file's line."""
        if not isinstance(ids, list) or not all(type(token) is int and 0 <= token < self.vocabulary for token in ids):
            raise ValueError("'ids' must be a list of numbers from 0 to %d" % (self.vocabulary - 1))

    def ends(self):
        """Ids that end a document, where no table tells train_gpt of them."""
        end = {**self.config, **self.read("generation_config.json")}.get("eos_token_id")
        return set(end if isinstance(end, list) else [end])


# ---------------------------------------------------------------------------------------------------------
# Decoding here: of a model that has a tokenizer.json and no token_bytes.safetensors


def numbers(stream):
    """The ids in "1,2,3\\n", each as soon as it is whole."""
    digits = ""
    while True:
        character = stream.read(1)
        if digits and not character.isdigit():
            yield int(digits)
            digits = ""
        if not character:
            return
        digits += character if character.isdigit() else ""


def show(model, stream, prompt_ids, stops):
    """Prints the text of ids that come one by one: all but a character that is not whole yet. Whether it ended it."""
    ids, shown, ends, ended = [], 0, model.ends() if stops else (), False
    for token in numbers(stream):
        ended = len(ids) >= len(prompt_ids) and token in ends
        if ended:
            break
        ids.append(token)
        text = model.tokenizer.decode(ids)
        whole = text.rstrip("\ufffd")
        if len(ids) >= len(prompt_ids) and len(whole) > shown:
            print(whole[shown:], end="", flush=True)
            shown = len(whole)
    print(model.tokenizer.decode(ids)[shown:], flush=True)
    return ended


def with_texts(model, line, stops):
    """A line of ids as train_gpt writes it where it knows no texts, with them, and cut at the end of a document."""
    result = json.loads(line)
    ids, end = result["ids"], result["end"]
    at = next((i for i, token in enumerate(ids) if stops and token in model.ends()), None)
    if at is not None:
        ids, end = ids[:at], "document"
    prompt = model.tokenizer.decode(result["prompt_ids"])
    text = model.tokenizer.decode(result["prompt_ids"] + ids)
    text = text[len(prompt):] if text.startswith(prompt) else model.tokenizer.decode(ids)
    return json.dumps({"prompt": prompt, "text": text, "ids": ids, "end": end}, ensure_ascii=False)


# ---------------------------------------------------------------------------------------------------------


def call(model, arguments, read=None):
    """Runs train_gpt, whose stdout is ours, or goes through read(stream), which is true if it needs no more. The exit code."""
    command = [model.program, *model.flags, *arguments]
    with contextlib.ExitStack() as stack:
        try:
            process = stack.enter_context(subprocess.Popen(command, text=True, stdout=subprocess.PIPE if read else None))
        except OSError as error:
            raise Failure("%s: %s (make builds it)" % (model.program, error.strerror)) from None
        try:
            if read and read(process.stdout):
                process.terminate()
                return 0
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise


def continue_text(model, text, flags, stops):
    if model.is_bytes:
        return call(model, ["--generate", text, *flags])
    try:
        ids = model.encode(text)
    except UnicodeError:
        raise Failure("the prompt is not UTF-8") from None
    model.tell_unknown()
    listed = ",".join(map(str, ids))
    if len(listed) > LONGEST_ARGUMENT:
        raise Failure("the prompt has %d tokens, too many for a command line: --file takes it" % len(ids))
    read = None if model.has_table else lambda stream: show(model, stream, ids, stops)
    return call(model, ["--generate-tokens", listed, *flags], read)


def prompts_of(path, model):
    """What train_gpt reads, ids and maybe a seed, for each line: an object of a .jsonl, or a prompt."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure("%s: %s" % (path, getattr(error, "strerror", None) or error)) from None
    lines = lines[:-1] if lines[-1] == "" else lines
    if not lines:
        raise Failure("%s holds no prompt: one a line" % path)
    for number, line in enumerate(lines, 1):
        try:
            prompt = json.loads(line) if path.endswith(".jsonl") else {"prompt": line.rstrip("\r")}
            if not isinstance(prompt, dict) or not (isinstance(prompt.get("prompt"), str) or "ids" in prompt):
                raise ValueError("neither a text 'prompt' nor a list 'ids'")
            ids = prompt["ids"] if "ids" in prompt else model.encode(prompt["prompt"], "%s:%d" % (path, number))
            model.check_ids(ids)
            seed = prompt.get("seed", 0)
            if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
                raise ValueError("'seed' must be a number from 0 to %d" % LARGEST_SEED)
        except (ValueError, RecursionError) as error:
            raise Failure("%s, line %d: %s" % (path, number, error)) from None
        yield {"ids": ids} | ({"seed": seed} if "seed" in prompt else {})


def continue_file(model, path, flags, stops):
    if model.is_bytes:
        return call(model, ["--generate-file", path, *flags])
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for prompt in prompts_of(path, model):
            file.write(json.dumps(prompt) + "\n")
        file.flush()
        model.tell_unknown()

        def read(stream):
            for line in stream:
                print(with_texts(model, line, stops), flush=True)

        return call(model, ["--generate-file", file.name, *flags], None if model.has_table else read)


def talk(model, flags, stops):
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - lines can be edited then
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return 0
        except UnicodeError:
            raise Failure("the prompt is not UTF-8") from None
        except KeyboardInterrupt:
            print()
            continue
        try:
            code = continue_text(model, text, flags, stops)
        except KeyboardInterrupt:
            print()
            continue
        if code:
            return code


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.error = lambda message: (_ for _ in ()).throw(Failure("%s (--help says more)" % message))
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("prompt", nargs="?", metavar="PROMPT")
    parser.add_argument("--file", metavar="FILE", help="a prompt a line")
    for name in PASSED:
        parser.add_argument("--" + name, metavar="X", help="train_gpt's own flag (train_gpt --help)")
    return parser.parse_intermixed_args()  # flags may stand before the prompt, too


def main():
    try:
        chosen = read_arguments()
        program = os.path.abspath(os.environ.get("TRAIN_GPT") or os.path.join(ROOT, "train_gpt"))
        model = Model(chosen.run, program)
        given = {name: getattr(chosen, name.replace("-", "_")) for name in PASSED}
        flags = [part for name, value in given.items() if value is not None for part in ("--" + name, value)]
        stops = chosen.stop_at_end != "off"
        if chosen.file and chosen.prompt is not None:
            raise Failure("a prompt and --file %s: give one of them" % chosen.file)
        if chosen.file:
            return continue_file(model, chosen.file, flags, stops)
        if chosen.prompt is not None:
            return continue_text(model, chosen.prompt, flags, stops)
        return talk(model, flags, stops)
    except Failure as failure:
        print("generate.py: %s" % failure, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


if __name__ == "__main__":
    sys.exit(main())
