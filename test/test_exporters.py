"""Does what a run says arrive in TensorBoard and in W&B, once, as it stood in the end, while the run goes on and after it was cut?
Each with the real package, where that is installed."""

import glob
import json
import os
import re
import struct
import subprocess
import sys
from collections import defaultdict

import pytest

from program import ROOT, run_script
from running import LAYERS, falling, lines_of, text_of, write

sys.path.insert(0, os.path.join(ROOT, "scripts"))

from watching import records  # noqa: E402

RESUME = {"type": "event", "event": "resume", "step": 20, "flags": {"steps": 40, "lr": 0.5}}


def train(step, loss):
    return {"type": "train", "step": step, "loss": loss, "lr": 1e-3, "ms": 1.0}


def cut_and_resumed():
    """40 steps were planned; it was cut after 30, and resumed from 20."""
    lines = list(
        lines_of(falling(5.5, 3.0, 30), [(20, 3.6), (30, 9.0)], steps=40, stats=[(10, LAYERS)], flags={"lr": 0.001})
    )
    return lines, [RESUME, *(train(step, 1.0) for step in range(21, 25))]


# -------------------------------------------------------------------------------------------------------- the records


def collect(reader):
    return [
        (batch.back, batch.anew, [line["step"] for line in batch.records if line["type"] == "train"])
        for batch in reader.batches()
    ]


def test_records_come_once_and_what_a_resume_has_overtaken_does_not(tmp_path):
    before, after = cut_and_resumed()
    path = tmp_path / "metrics.jsonl"
    path.write_text(text_of([*before, *after]))
    assert collect(records.Records(str(path), {})) == [(None, True, list(range(1, 25)))]  # nobody had seen what is void
    path.write_text(text_of(before)[:-30])
    reader = records.Records(str(path), {})
    assert collect(reader) == [(None, True, list(range(1, 31)))] and collect(reader) == []
    path.write_text(text_of([*before, *after]))
    again = records.Records(str(path), json.loads(json.dumps(reader.cursor())))
    assert collect(again) == [(20, False, [21, 22, 23, 24])]  # the validation of step 30 is void before it is seen
    path.write_text(text_of([*before, *after, train(23, 2.0)]))  # the line that would say so was lost
    assert collect(again) == [(22, False, [23])]
    path.write_text(text_of([*before, *after, train(23, 2.0), *lines_of([4.0], steps=2)]))  # it begins again
    assert collect(again) == [(0, True, [1])] and not again.ended
    path.write_text(text_of(lines_of([7.0, 6.0], steps=2)))  # another file under its name
    assert collect(again) == [(None, True, [1, 2])] and again.ended


def test_lines_that_are_none_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"type":"train"}\nnull\n\xff\n[[[\n{"type":"train","step":1e400}\n{"type":"x","step":1}\n{"type":"val","step":1,"loss":2}\n'
    )
    reader = records.Records(str(path), {})
    (batch,) = reader.batches()
    assert batch.records == [{"type": "val", "step": 1, "loss": 2}] and reader.broken == 5


def test_layers_are_grouped_by_what_was_measured(tmp_path):
    found = records.scalars({"type": "stats", "step": 1, "layers": [{"layer": 3, "gate": [0.5, 0.25], "lambda": [2.0], "residual_rms": 1.5,
                                                                   "cosine": None, "attn_rms": "x"}, "no layer", {"layer": "4"}]})  # fmt: skip
    assert found == {
        "gate/layer_03_attention": 0.5,
        "gate/layer_03_MLP": 0.25,
        "lambda/layer_03": 2.0,
        "residual_rms/layer_03": 1.5,
    }


# -------------------------------------------------------------------------------------------------------- TensorBoard


def events_of(folder, size=0):
    """{tag: {step: value}} as TensorBoard itself reads it, and the text."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    one = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": size, "tensors": size})
    one.Reload()
    scalars = {tag: [(event.step, event.value) for event in one.Scalars(tag)] for tag in one.Tags()["scalars"]}
    texts = {tag: one.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in one.Tags()["tensors"]}
    return scalars, texts


@pytest.mark.parametrize("package", ["tensorboard", "tensorboardX"])
def test_tensorboard_has_the_curves_as_the_run_ended(tmp_path, package):
    pytest.importorskip("tensorboard")
    pytest.importorskip(package)
    before, after = cut_and_resumed()
    run = tmp_path / "run"
    run.mkdir()
    for text in (text_of(before)[:-9], text_of([*before, *after]), text_of([*before, *after])):
        (run / "metrics.jsonl").write_text(text)
        done = run_script("scripts/to_tensorboard.py", run, "--package", package)
        assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.startswith("0 records ")
    scalars, texts = events_of(run / "tensorboard")
    assert [step for step, _ in scalars["train/loss"]] == list(range(1, 25))
    assert [value for _, value in scalars["train/loss"]][20:] == [1.0] * 4 and scalars["train/loss"][0][1] == 5.5
    assert [step for step, _ in scalars["val/loss"]] == [20]
    assert scalars["residual_rms/layer_02"] == [(10, 3.0)] and "gate/layer_01_MLP" in scalars
    assert any("| lr | 0.5 |" in text for text in texts.values())


def test_lines_that_were_passed_over_are_told(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "metrics.jsonl").write_text(text_of(lines_of([3.0, 2.0], steps=2)) + "[[[\nnull\n")
    done = run_script("scripts/to_tensorboard.py", tmp_path)
    assert done.returncode == 0 and re.fullmatch(r"to_tensorboard\.py: [^\n]*passed over 2 of its lines[^\n]*\n", done.stderr)


def test_a_run_is_followed_until_it_ends(tmp_path):
    pytest.importorskip("tensorboard")
    run, lines = tmp_path / "run", list(lines_of(falling(5.5, 3.0, 60)))
    run.mkdir()
    command = [sys.executable, os.path.join(ROOT, "scripts/to_tensorboard.py"), str(run), "--follow", "--every", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for part in (lines[:1], lines[:30], lines):
            (run / "metrics.jsonl").write_text(text_of(part)[: None if part is lines else -5])
            try:
                process.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                continue
        assert process.wait(timeout=30) == 0, process.stderr.read()
    assert len(events_of(run / "tensorboard")[0]["train/loss"]) == 60


def test_without_a_package_or_a_file_it_is_one_line(tmp_path):
    write(tmp_path / "run", [3.0])
    for name in ("tensorboard", "tensorboardX", "wandb"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    hidden = dict(os.environ, PYTHONPATH=str(tmp_path))
    for script, run, says in (
        ("to_tensorboard", "run", "pip install tensorboard"),
        ("to_wandb", "run", "pip install wandb"),
        ("to_tensorboard", "none", "No such file"),
        ("to_wandb", "none", "No such file"),
    ):
        done = run_script(f"scripts/{script}.py", tmp_path / run, env=hidden)
        assert done.returncode == 2 and re.fullmatch(rf"{script}\.py: [^\n]*{says}[^\n]*\n", done.stderr), done.stderr
    (tmp_path / "run/tensorboard/cursor.json").write_text("[]")
    done = run_script("scripts/to_tensorboard.py", tmp_path / "run", env=dict(os.environ, PYTHONPATH=""))
    assert done.returncode == 2 and "cursor.json" in done.stderr and done.stderr.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------- W&B


def wandb_records(path):
    """The records of an offline run's file: LevelDB's log format, blocks of 32 KiB after seven bytes of W&B's own."""
    data, at, whole = open(path, "rb").read(), 7, b""
    while at + 7 <= len(data):
        if at % 32768 > 32768 - 7:  # no room for a head: the rest of the block is empty
            at += -at % 32768
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or its last piece
            yield whole
            whole = b""


def wandb_of(path):
    """(history as {key: {step: value}}, config) in a file of an offline run."""
    from wandb.proto import wandb_internal_pb2

    history, config = defaultdict(dict), {}
    for data in wandb_records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for name, value in items.items():
            history[name][items.get("step")] = value
        for source in (record.run.config, record.config):
            config.update({item.key: json.loads(item.value_json) for item in source.update})
    return history, config


def test_wandb_has_the_curves_offline_and_another_run_where_it_went_back(tmp_path):
    pytest.importorskip("wandb")
    before, after = cut_and_resumed()
    run = tmp_path / "run"
    run.mkdir()
    quiet = dict(os.environ, WANDB_SILENT="true", WANDB_ERROR_REPORTING="false", HOME=str(tmp_path))
    for part in (before, [*before, *after]):
        (run / "metrics.jsonl").write_text(text_of(part))
        done = run_script("scripts/to_wandb.py", run, "--offline", env=quiet)
        assert done.returncode == 0, done.stderr
    files = sorted(glob.glob(str(run / "wandb/offline-run-*/*.wandb")), key=os.path.getmtime)
    (first, config), (second, later) = map(wandb_of, files)
    assert sorted(first["train/loss"]) == list(range(1, 31)) and first["train/loss"][1] == 5.5 and config["lr"] == 0.001
    assert first["residual_rms/layer_02"] == {10: 3.0} and first["val/loss"] == {20: 3.6, 30: 9.0}
    assert second["train/loss"] == {step: 1.0 for step in range(21, 25)} and later["lr"] == 0.5
