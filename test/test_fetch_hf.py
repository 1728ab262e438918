"""Does fetch_hf.py bring what --init-from takes, whole and nothing else, and say in one line what is in the way?

A package of huggingface_hub's name, made here, stands in for it and the network.
"""
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FETCH = ROOT / "scripts" / "fetch_hf.py"

# The two calls that the script makes, over a folder: HUB/OWNER/MODEL/…; FAULT says what goes wrong.
STAND_IN = '''
import hashlib, os, shutil
HUB, FAULT = os.environ["HUB"], os.environ.get("FAULT", "")

class RepositoryNotFoundError(Exception):
    pass

class GatedRepoError(Exception):
    pass

class File:
    def __init__(self, folder, name):
        bytes = open(os.path.join(folder, name), "rb").read()
        self.rfilename, self.size = name, len(bytes)
        self.lfs = {"sha256": hashlib.sha256(bytes).hexdigest()} if name.endswith(".safetensors") else None

class HfApi:
    def model_info(self, name, revision=None, files_metadata=False):
        folder = os.path.join(HUB, name)
        if FAULT == "network":
            raise ConnectionError("Name or service not known\\nand more")
        if FAULT == "gated":
            raise GatedRepoError("consent")
        if not os.path.isdir(folder):
            raise RepositoryNotFoundError(name)
        files = [os.path.relpath(os.path.join(at, file), folder) for at, _, files in os.walk(folder) for file in files]
        return type("Info", (), {"sha": "c0ffee", "siblings": [File(folder, file) for file in sorted(files)]})()

def hf_hub_download(name, file, revision=None, local_dir=None):
    assert revision == "c0ffee"
    to = os.path.join(local_dir, file)
    with open(os.environ["LOG"], "a") as log:
        log.write(file + "\\n")
    if FAULT == "cut" and file.endswith(".safetensors"):
        raise TimeoutError("timed out")
    shutil.copy(os.path.join(HUB, name, file), to)
    if FAULT == "damaged" and file.endswith(".safetensors"):
        data = bytearray(open(to, "rb").read())
        data[-1] ^= 1
        open(to, "wb").write(data)
    return to
'''

FILES = {"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": "weights", "README.md": "no", "onnx/model.safetensors": "no",
         "consolidated.safetensors": "no", "pytorch_model.bin": "no", "generation_config.json": "{}"}  # fmt: skip


@pytest.fixture
def hub(tmp_path):
    """hub(files) puts a model onto it; hub.run(…) → the process."""
    (tmp_path / "package" / "huggingface_hub").mkdir(parents=True)
    (tmp_path / "package" / "huggingface_hub" / "__init__.py").write_text(STAND_IN)

    def put(files):
        for name, text in files.items():
            path = tmp_path / "hub" / "owner" / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def run(*arguments, fault="", package=True):
        env = {**os.environ, "HUB": str(tmp_path / "hub"), "FAULT": fault, "LOG": str(tmp_path / "log"), "PYTHONNOUSERSITE": "1",
               "PYTHONPATH": str(tmp_path / "package") if package else ""}
        flags = [] if package else ["-S"]  # without site-packages the real one is not there, either
        return subprocess.run([sys.executable, *flags, str(FETCH), *map(str, arguments)], cwd=tmp_path, env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)

    put.run, put.path = run, tmp_path
    return put


def one_line(done, code, *says):
    assert done.returncode == code and done.stdout == "", (done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("fetch_hf.py: "), done.stderr
    assert all(text in done.stderr for text in says), done.stderr


def test_weights_config_and_tokenizer_are_fetched_and_nothing_else(hub):
    hub(FILES)
    done = hub.run("owner/model")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(hub.path / "model")) == ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    assert "4 files" in done.stdout and "c0ffee" in done.stdout and "--init-from model" in done.stdout
    assert hub.run("owner/model", "--out", "a/b").returncode == 0 and (hub.path / "a/b/model.safetensors").read_text() == "weights"


def test_shards_come_with_their_index(hub):
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    files = {"config.json": "{}", "model.safetensors.index.json": json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}),
             shards[0]: "a", shards[1]: "b"}
    hub(files)
    assert hub.run("owner/model").returncode == 0
    assert sorted(os.listdir(hub.path / "model")) == sorted(files)
    os.remove(hub.path / "hub/owner/model" / shards[1])
    one_line(hub.run("owner/model", "--out", "x"), 2, "index.json", shards[1])
    (hub.path / "hub/owner/model/model.safetensors.index.json").write_text("[]")
    one_line(hub.run("owner/model", "--out", "y"), 2, "is no index")


def test_what_arrives_damaged_is_named(hub):
    hub(FILES)
    one_line(hub.run("owner/model", fault="damaged"), 1, "model/model.safetensors", "SHA-256")
    one_line(hub.run("owner/model", fault="cut"), 1, "model.safetensors", "TimeoutError")
    assert hub.run("owner/model").returncode == 0


def test_what_is_in_the_way_is_one_line(hub):
    hub({name: text for name, text in FILES.items() if name != "model.safetensors"})
    one_line(hub.run("owner/model"), 2, "owner/model", "no weights", "consolidated.safetensors")
    hub({"model.safetensors": "w"})
    os.remove(hub.path / "hub/owner/model/config.json")
    one_line(hub.run("owner/model"), 2, "config.json")
    one_line(hub.run("owner/other"), 2, "owner/other", "no such model")
    one_line(hub.run("owner/model", fault="gated"), 2, "HF_TOKEN")
    one_line(hub.run("owner/model", fault="network"), 1, "cannot be reached", "ConnectionError: Name or service not known")
    one_line(hub.run("owner/model", package=False), 1, "pip install huggingface_hub")
    for name in ("../etc", "a/b/c", "", "a\nb/c", "owner/.."):
        one_line(hub.run(name), 2, "no name of a model")
    (hub.path / "file").write_text("")
    hub(FILES)
    one_line(hub.run("owner/model", "--out", "file/x"), 1, "file/x")
