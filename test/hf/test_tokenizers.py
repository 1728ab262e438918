"""Does transformers take a tokenizer's folder, and a checkpoint with a tokenizer, as they are? (data/tokenizer_files.py)"""
import json
import os
import sys

import pytest

from program import ROOT, run, run_script, step_directory
from test_tokenizer_files import SAMPLES, TABLED, folder_of, made, text

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("torch", reason="torch is not installed")

sys.path.insert(0, os.path.join(ROOT, "data"))

import encoders  # noqa: E402

NO_PRESET = ["--n-layer", 1, "--n-embd", 32, "--n-head", 2, "--batch-size", 2, "--warmup-steps", 0]


@pytest.mark.parametrize("kind", ["bytes", *TABLED])
def test_autotokenizer_takes_the_folder_as_it_is(kind, tmp_path):
    (tmp_path / "a.txt").write_text(text(1))
    given = ["--tokenizer", folder_of(made(kind), tmp_path / "t")] if kind != "bytes" else []
    done = run_script("data/prepare.py", tmp_path / "a.txt", *given, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "a.json").read_text())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "a.tokenizer")
    assert theirs.eos_token_id == facts["end_of_document"] == facts["eot_token"] and len(theirs) == facts["vocab_size"]
    encoder = encoders.make_encoder("bytes" if kind == "bytes" else str(tmp_path / "t"), None)
    for sample in SAMPLES:
        ours = list(sample.encode()) if kind == "bytes" else encoder.encode([sample])[0].ids
        assert theirs(sample, add_special_tokens=False).input_ids == ours
    if kind in ("bytes", "gpt2", "llama3"):
        assert theirs.decode(theirs(SAMPLES[2]).input_ids) == SAMPLES[2]


def test_a_run_of_prepared_text_is_a_model_for_transformers_pipelines(tmp_path):
    (tmp_path / "a.txt").write_text("to be or not to be, that is the question. " * 200)
    for tokenizer in ("bytes", "own"):
        given = []
        if tokenizer == "own":
            assert run_script("data/train_tokenizer.py", tmp_path / "a.txt", "--out", tmp_path / "own", "--vocab-size", 300).returncode == 0
            given = ["--tokenizer", tmp_path / "own"]
        assert run_script("data/prepare.py", tmp_path / "a.txt", *given, "--out", tmp_path / tokenizer).returncode == 0
        out = tmp_path / (tokenizer + "-run")
        run(*NO_PRESET, "--steps", 1, "--train-data", tmp_path / tokenizer / "a_train_*.bin", "--out", out, "--temperature", 0,
            "--seq-len", 64)  # fmt: skip
        folder = step_directory(out, 1)
        ours = transformers.AutoTokenizer.from_pretrained(folder)
        facts = json.loads((tmp_path / tokenizer / "a.json").read_text())
        assert ours.eos_token_id == facts["end_of_document"]
        writer = transformers.pipeline("text-generation", folder, tokenizer=ours)
        assert writer.model.generation_config.eos_token_id == facts["end_of_document"]
        written = writer("to be", max_new_tokens=8)[0]["generated_text"]
        assert written.startswith("to be")
