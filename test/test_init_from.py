"""Whose weights does --init-from take, and as which model? Whole programs over folders as others have left them.

What a config.json says is test_huggingface_config.c's; whether transformers says the same, hf/test_plain.py's.
"""

import json
import os
import pickle
import shutil
import struct
import zipfile

import numpy
import pytest

from program import MODEL, SMALL, losses, refused, run, sentences, step_directory, write_shard
from tensors import read_tensors, write_tensors

LLAMA = ["--arch", "llama", "--rope-base", 500, "--norm-eps", "1e-3", "--n-kv-head", 1, "--tie-embeddings", "on"]
OWN = ["--arch", "llama", "--placement", "mix", "--mix-post-layers", 1, "--gpas", "layer", "--norm", "bhyt-exact"]
# Models of other families, in their own names (the model_type is the key).
FAMILIES = {"qwen2": ["--arch", "llama", "--bias", "qkv", "--n-kv-head", 1, "--rope-scaling", "linear", "--rope-factor", 3],
            "qwen3": ["--arch", "llama", "--qk-norm", "head", "--head-dim", 24, "--n-kv-head", 1, "--tie-embeddings", "on"],
            "olmo2": ["--arch", "llama", "--qk-norm", "projection", "--placement", "res-post", "--rope-scaling", "llama3",
                      "--rope-original-seq-len", 8]}
RUNS = {"gpt2": [], "llama": LLAMA, "own": OWN, **FAMILIES}
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "train.bin", sentences(4000, 1))
    write_shard(folder / "val.bin", sentences(1000, 2))
    return ["--train-data", folder / "train.bin", "--val-data", folder / "val.bin"]


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """{name: directory of a run of two steps}"""
    folder = tmp_path_factory.mktemp("runs")
    for name, flags in RUNS.items():
        run(*SMALL, *flags, *data, "--steps", 2, "--save-every", 1, "--out", folder / name)
    return {name: str(folder / name) for name in RUNS}


def copy(runs, name, to):
    """Weights and config.json alone, as somebody else would have them."""
    os.makedirs(to)
    for file in (MODEL, "config.json"):
        shutil.copy(os.path.join(step_directory(runs[name], 2), file), to)
    return str(to)


def change(folder, **values):
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    for key, value in values.items():
        config[key] = value
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file)


def evaluate(*arguments):
    return run("--eval-only", "--batch-size", 4, *arguments)


# ------------------------------------------------------------------------------------------------ what follows


@pytest.mark.parametrize("name", RUNS)
def test_a_directory_is_enough_to_know_the_model(name, runs, data, tmp_path):
    want = evaluate("--resume", runs[name], *data).stdout
    for path in (copy(runs, name, tmp_path / "w"), tmp_path / "w" / MODEL, runs[name], step_directory(runs[name], 2)):
        done = evaluate("--init-from", path, *data)
        assert done.stdout == want and done.stderr == "", path
    evaluate("--init-from", tmp_path / "w", *SMALL, *RUNS[name], *data)  # the same flags again are no contradiction
    tokens = ["--generate", "the ", "--temperature", 0, "--max-new-tokens", 8]
    assert run("--init-from", tmp_path / "w", *tokens).stdout == run("--resume", runs[name], *tokens).stdout
    assert "16 tokens" in run("--init-from", tmp_path / "w", "--dry-run").stdout
    run("--init-from", tmp_path / "w", *data, "--probe", tmp_path / "probe", "--batch-size", 4)
    shape = [value.shape for key, value in read_tensors(tmp_path / "probe").items() if key == "logits"]
    assert shape == [(4, 16, 256)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_keeps_its_name(name, runs, tmp_path):
    folder = copy(runs, name, tmp_path / "w")
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    assert config["model_type"] == name
    for key, value in (("head_dim", 10**30), ("num_attention_heads", 1e308), ("rope_theta", -1), ("hidden_size", [64]),
                       ("rope_scaling", "linear"), ("num_hidden_layers", None.__class__.__name__), ("use_mrope", 1)):
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump({**config, key: value}, file)
        refused("--init-from", folder, "--dry-run", says=("config.json", key))


def test_a_run_goes_on_from_them_and_is_the_same_model_again(runs, data, tmp_path):
    out = tmp_path / "run"
    done = run("--init-from", runs["own"], *data, "--batch-size", 4, "--lr", 0, "--weight-decay", 0, "--steps", 1, "--out", out)
    assert step_directory(runs["own"], 2) in done.stdout
    for file in ("config.json", MODEL):
        with open(os.path.join(step_directory(out, 1), file), "rb") as a, open(os.path.join(step_directory(runs["own"], 2), file), "rb") as b:
            assert a.read() == b.read(), file
    run("--resume", out, "--steps", 2, *data)  # its config.ini has it all; no config.json is asked
    assert len(losses(out)) == 2


def test_a_shorter_sequence_takes_the_first_positions(runs, data, tmp_path):
    folder, cut = copy(runs, "gpt2", tmp_path / "w"), tmp_path / "cut.safetensors"
    weights = read_tensors(os.path.join(folder, MODEL))
    write_tensors(cut, {**weights, "transformer.wpe.weight": weights["transformer.wpe.weight"][:8]})
    want = evaluate("--init-from", cut, *SMALL, "--seq-len", 8, *data).stdout
    assert evaluate("--init-from", folder, "--seq-len", 8, *data).stdout == want
    refused("--init-from", folder, "--seq-len", 17, "--dry-run", says=("--seq-len 17", "n_positions 16"))


# --------------------------------------------------------------------------------------------- what contradicts


def test_a_flag_that_makes_another_model_is_refused(runs, tmp_path):
    folder = copy(runs, "llama", tmp_path / "w")
    start = ["--dry-run", "--init-from", folder]
    for flags, says in {
        "--rope-base 500000": "rope_theta 500", "--norm-eps 1e-05": "rms_norm_eps 0.001", "--n-head 4": "num_attention_heads 2",
        "--placement post": "model_type llama", "--norm layernorm": "model_type llama", "--gpas layer": "model_type llama",
        "--arch gpt2": "model_type llama", "--preset tiny": "--preset tiny's --n-layer 4",
        "--tie-embeddings off": "tie_word_embeddings true", "--bias on": "attention_bias false",
    }.items():  # fmt: skip
        refused(*start, *flags.split(), says=(folder, "contradicts", says, flags.split()[1]))
    (tmp_path / "flags.txt").write_text("n-ffn = 100\n")
    refused(*start, "--config", tmp_path / "flags.txt", says=("--n-ffn 100", "intermediate_size 192"))
    for flags, says in {"--placement mix --mix-post-layers 2": "mix_post_layers 1", "--placement pre": "placement mix",
                        "--gpas sublayer": "gpas layer", "--norm rmsnorm": "norm bhyt-exact"}.items():  # fmt: skip
        refused("--dry-run", "--init-from", runs["own"], *flags.split(), says=("contradicts", says))


def test_a_constant_that_is_changed_changes_what_is_computed_or_is_refused(runs, data, tmp_path):
    folder = copy(runs, "llama", tmp_path / "w")

    def logits():
        run("--init-from", folder, *data, "--batch-size", 1, "--dtype", "fp64", "--probe", tmp_path / "probe")
        return read_tensors(tmp_path / "probe")["logits"].copy()

    plain = logits()
    for key, value in {"rms_norm_eps": 0.1, "rope_theta": 2.0}.items():
        change(folder, **{key: value})
        other = logits()
        assert numpy.abs(other - plain).max() > 1e-9, key
        plain = other
    change(folder, rope_scaling={"rope_type": "llama3", "factor": 8.0})
    refused("--dry-run", "--init-from", folder, says=(folder, "rope_scaling llama3"))
    change(folder, rope_scaling=None, sliding_window=4096)
    refused("--dry-run", "--init-from", os.path.join(folder, MODEL), says="sliding_window 4096")
    change(folder, sliding_window=None, model_type="gemma")
    refused("--dry-run", "--init-from", folder, says="model_type gemma")
    change(folder, model_type="llama", novel=[1, 2])
    assert "unknown keys" in evaluate("--init-from", folder, *data).stderr
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        file.write('{"model_type": "gpt2"')
    refused("--dry-run", "--init-from", folder, says=("config.json", "JSON"))
    os.remove(os.path.join(folder, "config.json"))
    os.symlink("/etc/passwd", os.path.join(folder, "config.json"))
    refused("--dry-run", "--init-from", folder, says=("config.json", "symbolic link"))


def test_what_an_older_build_called_by_a_wrong_name_is_refused(runs, tmp_path):
    folder = copy(runs, "llama", tmp_path / "w")
    change(folder, train_gpt_variant="mix rmsnorm")
    refused("--dry-run", "--init-from", folder, says=("train_gpt_variant mix rmsnorm", "--resume"))
    change(folder, train_gpt_variant="pre rmsnorm")
    run("--dry-run", "--init-from", folder)


def test_weights_that_nothing_describes_are_told(runs, data, tmp_path):
    folder = copy(runs, "llama", tmp_path / "w")
    os.remove(os.path.join(folder, "config.json"))
    for path in (folder, os.path.join(folder, MODEL)):
        done = evaluate("--init-from", path, *SMALL, *LLAMA, *data)
        assert done.stderr.count("\n") == 1 and "no config.json" in done.stderr
    trained = run(*SMALL, *LLAMA, *data, "--init-from", folder, "--steps", 1)
    assert "no config.json" in trained.stdout and trained.stderr == ""
    assert "no config.json" in run("--init-from", folder, *SMALL, *LLAMA, "--dry-run").stderr


def test_weights_that_do_not_fit_and_that_nothing_describes_say_what_to_do(runs, data, tmp_path):
    folder = copy(runs, "llama", tmp_path / "w")
    flags = ["--eval-only", *data, *SMALL, *LLAMA, "--rope-base", 500]
    refused(*flags, "--init-from", folder, "--n-layer", 1, says="contradicts")  # its config.json says more than a shape
    os.remove(os.path.join(folder, "config.json"))
    for path in (folder, os.path.join(folder, MODEL)):
        for wrong in (["--n-embd", 32], ["--n-layer", 3], ["--arch", "gpt2"], ["--n-layer", 1]):
            refused(*flags, "--init-from", path, *wrong, says=(MODEL, "tensor", "; no config.json beside it says which model this is: "
                                                               "bring it from where the weights come from, or say by flags"))
    with open(os.path.join(folder, MODEL), "r+b") as file:
        file.truncate(1000)
    assert "config.json" not in refused(*flags, "--init-from", folder)  # what is broken has another way on


# ------------------------------------------------------------------------------------------ what else it may be


def test_a_run_is_followed_to_its_latest_checkpoint(runs, data, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(runs["gpt2"], copied, symlinks=True)
    newest = evaluate("--init-from", copied, *data).stdout
    os.remove(copied / "latest")
    os.symlink("step_00000001", copied / "latest")
    older = evaluate("--init-from", copied, *data).stdout
    assert older == evaluate("--resume", step_directory(copied, 1), *data).stdout != newest
    os.remove(copied / "latest")
    assert evaluate("--init-from", copied, *data).stdout == newest
    os.symlink("../../etc", copied / "latest")  # leads out of the run: not followed
    assert evaluate("--init-from", copied, *data).stdout == newest
    for step in (1, 2):
        shutil.rmtree(step_directory(copied, step))
    refused("--dry-run", "--init-from", copied, says=(str(copied), "no complete checkpoint"))


def pytorch(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("pytorch_model/data.pkl", pickle.dumps({"wte.weight": 1}, protocol=2))


def write_others(folder):
    """{name: words of the refusal} of files that are no safetensors."""
    pytorch(folder / "pytorch_model.bin")
    pytorch(folder / "ckpt.pt")
    (folder / "old.bin").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2))
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    (folder / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(60))
    numpy.savez(folder / "w.npz", a=numpy.zeros(3))
    write_shard(folder / "shard.bin", [1, 2, 3])
    (folder / "train.bin").write_bytes(struct.pack("<64H", *range(5000, 5064)))
    (folder / "tokenizer.json").write_text('{"model": 1}')
    (folder / "lfs.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
    return {"pytorch_model.bin": "save_pretrained", "ckpt.pt": "save_pretrained", "old.bin": "save_pretrained", "model.gguf": "GGUF",
            "tf_model.h5": "HDF5", "w.npz": "npz", "shard.bin": "--train-data", "train.bin": "--train-data",
            "tokenizer.json": "directory", "lfs.safetensors": "LFS"}  # fmt: skip


def test_files_that_are_no_safetensors_are_called_by_their_name(tmp_path):
    for name, says in write_others(tmp_path).items():
        refused("--eval-only", "--val-data", "unused", "--init-from", tmp_path / name, says=(name, says))
    refused("--dry-run", "--init-from", "meta-llama/Llama-2-7b", says="nothing is downloaded")


@pytest.mark.parametrize(
    "name, says",
    [("pytorch_model.bin", "save_pretrained"), ("pytorch_model.bin.index.json", "save_pretrained"), ("adapter_config.json", "LoRA"),
     ("adapter_model.safetensors", "LoRA"), ("a.Q4_K_M.gguf", "GGUF"), ("weights.safetensors", "name the file itself"),
     ("metrics.jsonl", "no complete checkpoint"), ("consolidated.00.pth", "Meta"), ("nothing.txt", "neither"),
     ("token_bytes.safetensors", "nor a run's checkpoints"), ("optimizer-0-of-1.safetensors", "nor a run's checkpoints")],
)  # fmt: skip
def test_directories_without_safetensors_say_what_they_hold(name, says, tmp_path):
    (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    message = refused("--dry-run", "--init-from", tmp_path, says=(str(tmp_path), says))
    assert (name in message) == ("nor a run's checkpoints" not in says and name != "nothing.txt")
    if name.endswith("index.json"):
        refused("--dry-run", "--init-from", tmp_path / name, says=says)


def test_tensors_of_something_else_say_of_what(runs, data, tmp_path):
    folder = copy(runs, "llama", tmp_path / "w")
    path = os.path.join(folder, MODEL)
    good = read_tensors(path)
    write_tensors(path, {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": numpy.zeros((2, 2), "<f4")})
    refused("--eval-only", *data, "--init-from", folder, says=("LoRA", "merge"))
    write_tensors(path, {**good, "model.layers.0.mlp.up_proj.qweight": numpy.zeros((2, 2), "<f4")})
    refused("--eval-only", *data, "--init-from", folder, says="quantized")
    write_tensors(path, good)
    bare = shutil.copy(path, tmp_path / "bare.safetensors")
    untied = [*SMALL, *LLAMA[:-1], "off", "--eval-only", *data]
    refused(*untied, "--init-from", bare, says=("lm_head.weight", "--tie-embeddings on"))
    change(folder, tie_word_embeddings=False)
    refused("--eval-only", *data, "--init-from", folder, says=("lm_head.weight", "tie_word_embeddings"))


def test_shards_that_are_missing_are_named(runs, data, tmp_path):
    folder = copy(runs, "llama", tmp_path / "w")
    good = read_tensors(os.path.join(folder, MODEL))
    os.remove(os.path.join(folder, MODEL))
    names = sorted(good)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        write_tensors(os.path.join(folder, file), {name: good[name] for name in names if files[name] == file})
    with open(os.path.join(folder, INDEX), "w", encoding="utf-8") as file:
        json.dump({"weight_map": files}, file)
    assert evaluate("--init-from", folder, *data).stdout == evaluate("--resume", runs["llama"], *data).stdout
    first = "model-00001-of-00002.safetensors"
    refused("--eval-only", *data, "--init-from", os.path.join(folder, first), says=("one file of several", first))
    os.remove(os.path.join(folder, "model-00002-of-00002.safetensors"))
    refused("--eval-only", *data, "--init-from", folder, says=("model-00002-of-00002.safetensors", "not whole"))


def test_a_link_that_the_user_names_has_links_beside_it(runs, data, tmp_path):
    """Hugging Face's cache: snapshots/REVISION/NAME → ../../blobs/HASH."""
    blobs, snapshot = copy(runs, "llama", tmp_path / "blobs"), tmp_path / "snapshot"
    os.makedirs(snapshot)
    for name in (MODEL, "config.json"):
        os.symlink(os.path.join(blobs, name), snapshot / name)
    assert evaluate("--init-from", snapshot / MODEL, *data).stdout == evaluate("--resume", runs["llama"], *data).stdout
    refused("--eval-only", *data, "--init-from", snapshot, says="symbolic link")
