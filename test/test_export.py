"""scripts/export.py: a directory for others, whole or not at all; and the files for transformers in checkpoints. What
transformers makes of them is hf/'s."""

import json
import os
import re
import shutil
import sys

import numpy
import pytest

from program import MODEL, ROOT, SMALL, file_bytes, metrics, run, run_script, step_directory
from tensors import read_tensors, write_tensors

sys.path[:0] = [os.path.join(ROOT, "scripts"), os.path.join(ROOT, "data")]
from hf import card, weights  # noqa: E402

CODE = ["configuration_train_gpt.py", "modeling_train_gpt.py"]


# A variant that transformers has no class for.
OF_NONE = [*SMALL, *"--placement lns --norm bhyt --gpas layer".split()]


@pytest.fixture(scope="module")
def variant(tmp_path_factory, data):
    """A finished run of a model that is none of transformers' own, with two checkpoints."""
    out = str(tmp_path_factory.mktemp("variant") / "run")
    run(*OF_NONE, *data, *"--steps 4 --save-every 2 --val-every 2".split(), "--out", out)
    return out


def export(*arguments, code=0, says=(), **more):
    done = run_script("scripts/export.py", *arguments, **more)
    assert done.returncode == code, done.stderr
    if code:
        assert re.fullmatch(r"export\.py: [^\n]*\n", done.stderr), done.stderr
    for word in [says] if isinstance(says, str) else says:
        assert word in done.stderr, done.stderr
    return done


def test_only_a_variant_s_checkpoint_holds_code_and_the_code_is_that_of_the_build(variant, trained):
    for checkpoint in (step_directory(variant, 4), step_directory(variant, 2)):
        assert all(file_bytes(checkpoint, name) == file_bytes(ROOT, "scripts", "hf", name) for name in CODE)
    assert not set(CODE) & set(os.listdir(step_directory(trained, 6)))


def test_code_that_has_changed_makes_a_checkpoint_incomplete(variant, data, tmp_path):
    shutil.copytree(variant, tmp_path / "run", symlinks=True)
    with open(tmp_path / "run" / "step_00000004" / CODE[1], "ab") as file:
        file.write(b"import os\n")
    done = run("--resume", tmp_path / "run", "--eval-only", *OF_NONE, *data)
    assert "passing over" in done.stderr and CODE[1] in done.stderr


def test_an_export_is_the_newest_checkpoint_without_what_only_a_resume_needs(variant, tmp_path):
    target = tmp_path / "into" / "model"
    export(variant, target)
    here, there = step_directory(variant, 4), str(target)
    files = set(os.listdir(there))
    assert {MODEL, "config.json", "README.md", *CODE} <= files <= {MODEL, "config.json", "README.md", *CODE, "loss.png"}
    assert all(file_bytes(there, name) == file_bytes(here, name) for name in CODE)
    old, new = json.loads(file_bytes(here, "config.json")), json.loads(file_bytes(there, "config.json"))
    assert old == new and "bhyt_c" in new
    before, after = read_tensors(os.path.join(here, MODEL)), read_tensors(os.path.join(there, MODEL))
    assert before.keys() == after.keys() and all(numpy.array_equal(before[key], after[key]) for key in before)
    assert os.listdir(tmp_path / "into") == ["model"]
    again = run("--init-from", target, "--seq-len", 16, "--generate", "the ", "--max-new-tokens", 4)
    assert again.stdout.startswith("the ")


def test_the_card_tells_of_the_run_and_nothing_of_the_machine(variant, tmp_path):
    export(variant, tmp_path / "model")
    text = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    head, body = re.fullmatch(r"---\n(.*?)\n---\n\n(.*)", text, re.DOTALL).groups()
    yaml = pytest.importorskip("yaml").safe_load(head)
    loss = metrics(variant, "val")[-1]["loss"]
    assert (
        yaml["library_name"] == "transformers" and "custom_code" in yaml["tags"] and "arxiv:2506.22049" in yaml["tags"]
    )
    assert yaml["model-index"][0]["results"][0]["metrics"][0]["value"] == round(loss, 4)
    for word in (
        "placement lns; norm bhyt; GPAS layer, silu",
        "| step | 4 of 4 |",
        "%.4f" % loss,
        "trust_remote_code=True",
        "text_train_*.bin",
        "placement = lns",
    ):
        assert word in body, word
    assert ("loss.png" in body) == (tmp_path / "model" / "loss.png").exists()
    assert os.path.dirname(variant) not in text and ROOT not in text


def test_a_plain_model_s_card_wants_no_code(trained, tmp_path):
    export(trained, tmp_path / "model", "--no-curve")
    assert not set(CODE) & set(os.listdir(tmp_path / "model"))
    assert "trust_remote_code" not in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def as_bf16(x):
    """The nearest bf16 number of each, by looking at both neighbours."""
    x = x.astype("f8")
    below = (x.astype("f4").view("u4") & 0xFFFF0000).view("f4").astype("f8")
    above = ((below.astype("f4").view("u4") + 0x10000) & 0xFFFF0000).view("f4").astype("f8")
    even = (below.astype("f4").view("u4") >> 16) % 2 == 0
    nearer = abs(x - below) < abs(above - x)
    return numpy.where(nearer | ((abs(x - below) == abs(above - x)) & even), below, above)


def test_a_type_is_the_nearest_number_of_it(variant, tmp_path):
    for dtype, name in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32")):
        export(variant, tmp_path / dtype, "--dtype", dtype, "--no-curve")
        assert json.loads(file_bytes(tmp_path / dtype, "config.json"))["torch_dtype"] == name
        entries, begin, _ = weights.read_header(tmp_path / dtype / MODEL)
        raw, exact = file_bytes(tmp_path / dtype, MODEL), read_tensors(os.path.join(step_directory(variant, 4), MODEL))
        assert {key for key, _ in entries} == exact.keys() and {entry["dtype"] for _, entry in entries} == {
            weights.NAMES[dtype]
        }
        for key, entry in entries:
            data = raw[begin + entry["data_offsets"][0] : begin + entry["data_offsets"][1]]
            want = exact[key].astype("f8")
            if dtype == "bf16":
                have = (numpy.frombuffer(data, "<u2").astype("u4") << 16).view("f4").reshape(want.shape)
                assert numpy.array_equal(have, as_bf16(want)), key
            else:
                have = numpy.frombuffer(data, {"fp16": "<f2", "fp32": "<f4"}[dtype]).reshape(want.shape)
                assert numpy.array_equal(have, want.astype(have.dtype)), key


def test_halves_of_two_even_neighbours_are_rounded_to_even():
    x = numpy.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 0.0, -0.0, 2.0**-130], "f4")
    raw, finite = weights.to_type(x.tobytes(), "F32", "BF16", numpy)
    assert finite and (numpy.frombuffer(raw, "<u2").astype("u4") << 16).view("f4").tolist() == [
        1.0,
        1 + 2**-6,
        -1.0,
        0.0,
        -0.0,
        2.0**-130,
    ]
    assert not weights.to_type(numpy.array([3.4e38], "f4").tobytes(), "F32", "BF16", numpy)[1]
    assert not weights.to_type(numpy.array([7e4], "f4").tobytes(), "F32", "F16", numpy)[1]


def copied(run_directory, tmp_path):
    shutil.copytree(run_directory, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def test_what_is_no_checkpoint_is_said_in_one_line_and_leaves_nothing(variant, tmp_path):
    target = tmp_path / "model"
    export(tmp_path / "nowhere", target, code=2, says="nowhere: no directory")
    export(tmp_path, target, code=2, says="no checkpoint there")
    export(variant, tmp_path, code=2, says="something already")
    export(variant, target, "--dtype", "int8", code=2, says="int8")
    export(variant, target, "--private", code=2, says="--push")
    broken = copied(variant, tmp_path)
    for step in (4, 2):
        with open(broken / f"step_{step:08d}" / MODEL, "r+b") as file:
            file.truncate(5000)
    export(broken, target, code=2, says=("none of the 2 checkpoints", MODEL))
    export(broken / "step_00000002", target, code=2, says=MODEL)
    assert not target.exists() and not list(tmp_path.glob(".*"))


def test_an_incomplete_newest_checkpoint_is_passed_over_and_named(variant, tmp_path):
    broken = copied(variant, tmp_path)
    os.remove(broken / "step_00000004" / "state.json")
    done = export(broken, tmp_path / "model", "--no-curve")
    assert re.search(r"passing over an incomplete checkpoint: .*state\.json", done.stderr)
    assert "| step | 2 of 4 |" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


LIES = [
    b"{", b"[]", b"{}", b"\xff" * 9, b'{"a": 3}',
    b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
    b'{"a": {"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}}',
]  # fmt: skip


@pytest.mark.parametrize("header", LIES)
def test_weights_that_lie_are_refused(header, tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(weights.Failure, match="weights"):
        weights.convert(path, tmp_path / "out", None)
    path.write_bytes((1 << 62).to_bytes(8, "little") + header)
    with pytest.raises(weights.Failure, match="cut off"):
        weights.read_header(path)


def test_what_a_type_cannot_hold_is_refused_by_the_tensor(tmp_path):
    write_tensors(tmp_path / "a", {"good": numpy.ones(3, "f4"), "large": numpy.array([1, 7e4], "f4")})
    with pytest.raises(weights.Failure, match="tensor large"):
        weights.convert(tmp_path / "a", tmp_path / "b", "fp16")


def test_names_from_files_make_no_markup():
    assert card.plain("a|b`c\nd<e>\x1b") == "a b c d e  "
    assert card.data_name("/home/somebody/data/books_train_*.bin") == "books_train_*.bin"


HUB = """
import json, os
class HfApi:
    def create_repo(self, repo, private, exist_ok):
        self.private = private
    def upload_folder(self, repo_id, folder_path, commit_message):
        if repo_id == "a/broken":
            raise RuntimeError("401: no\\nlogin")
        with open(os.environ["PUSHED"], "w") as file:
            json.dump([repo_id, self.private, sorted(os.listdir(folder_path))], file)
        return "https://hub/" + repo_id
"""


def test_push_uploads_what_was_written_by_the_hub_s_library(variant, tmp_path):
    (tmp_path / "huggingface_hub.py").write_text(HUB)
    env = dict(os.environ, PYTHONPATH=str(tmp_path), PUSHED=str(tmp_path / "pushed"))
    done = export(variant, tmp_path / "model", "--no-curve", "--push", "a/model", "--private", env=env)
    assert "pushed to https://hub/a/model" in done.stdout
    repo, private, files = json.loads((tmp_path / "pushed").read_text())
    assert (repo, private, files) == ("a/model", True, sorted(os.listdir(tmp_path / "model")))
    assert 'from_pretrained("a/model"' in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    broken = ["--no-curve", "--push", "a/broken"]
    export(variant, tmp_path / "other", *broken, code=1, says="not pushed to a/broken: 401: no login", env=env)
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError")
    export(variant, tmp_path / "third", "--push", "a/model", code=2, says="huggingface_hub", env=env)
    assert not (tmp_path / "third").exists()
