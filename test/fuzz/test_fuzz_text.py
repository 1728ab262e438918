"""A short form of fuzz_text.py: the same few hundred inputs each time, and those that once went wrong."""
import os
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
REGRESSIONS = os.path.join(HERE, "regressions")
LONG = os.environ.get("TEST_ALL") == "1"


def fuzz_text(*arguments):
    command = [sys.executable, os.path.join(HERE, "fuzz_text.py"), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, check=False)
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, output[-4000:]
    return output


@pytest.mark.parametrize("target", ["tokenizer", "jsonl", "json", "packed", "pieces", "shard"])
def test_broken_text_gives_right_tokens_or_one_line(target, tmp_path):
    if target == "tokenizer":
        pytest.importorskip("tokenizers")
    fuzz_text(target, "--runs", 5000 if LONG else 300, "--seed", 1, "--keep", tmp_path)


def test_tokenizers_that_once_went_wrong_are_refused_in_one_line():
    pytest.importorskip("tokenizers")
    folder = os.path.join(REGRESSIONS, "text_tokenizer")
    output = fuzz_text("tokenizer", "--replay", *(os.path.join(folder, name) for name in sorted(os.listdir(folder))))
    refused = [line for line in output.splitlines() if line.endswith(": refused")]
    assert len(refused) == len([name for name in os.listdir(folder) if not name.startswith("accepted")]) > 3
