"""Is a model that has lost its numbers told as that: exit 3, one line, the last good checkpoint named and kept?

Numbers are lost in more ways than by a loss that is NaN: a moment overflows and its updates are 0 from then on, a weight
that no batch reads is infinite, a validation meets what training does not.
"""

import json
import math
import os
import re

import numpy
import pytest

from program import MODEL, MOMENTS, SMALL, checkpoints, events, file_bytes, metrics, run, step_directory, write_shard
from tensors import read_tensors, write_tensors

# A gradient over 1.8e19 has a square that fp32 does not hold; this comes to it after a dozen steps of finite losses.
WILD = ["--lr", 50, "--grad-clip", 0, "--steps", 30, "--save-every", 1, "--lr-schedule", "constant"]


def strict(line):
    """A line of metrics.jsonl as JSON has it: neither NaN nor Infinity."""

    def refuse(word):
        raise ValueError(word)

    return json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_moments_that_overflow_are_divergence_and_the_last_good_checkpoint_goes_on(norm, data, out):
    said = run(*SMALL, *data, *WILD, "--norm", norm, "--out", out, "--keep", 1, code=3).stderr
    found = re.search(r"^train_gpt: training diverged: weights or moments are no longer finite after step (\d+) "
                      r"\(\d+ of them; first: second moments of [a-z0-9_.]+\); last good checkpoint: (.*)\n$", said)
    assert found, said
    step, good = int(found.group(1)), found.group(2)
    assert good == step_directory(out, step - 1) and checkpoints(out) == [os.path.basename(good)]
    assert os.readlink(os.path.join(out, "latest")) == os.path.basename(good)
    for name in (MODEL, MOMENTS):
        assert all(numpy.isfinite(tensor).all() for tensor in read_tensors(os.path.join(good, name)).values())
    lines = [strict(line) for line in file_bytes(out, "metrics.jsonl").splitlines()]
    assert all(math.isfinite(line["loss"]) for line in lines if line["type"] == "train")
    assert [line["event"] for line in lines if line["type"] == "event"][-2:] == ["checkpoint", "diverged"]
    assert (lines[-1]["step"], lines[-1]["last_good"]) == (step, good) and "moments" in lines[-1]["reason"]
    done = run(*SMALL, *data, "--resume", "auto", "--out", out, "--lr", 1e-3, "--grad-clip", 1, "--steps", step)
    assert f"resumed from {good}\n" in done.stdout
    assert events(out)[-1] == "end" and checkpoints(out) == [f"step_{step:08d}"]


def test_gradients_beyond_the_root_of_fp32_are_clipped(data, tmp_path, out):
    """Their norm is finite where its square is not: a step to be clipped, not one to be skipped."""
    plain = run(*SMALL, *data, *WILD, "--out", out, code=3)
    assert max(line["grad_norm"] for line in metrics(out)) > 2e19, plain.stdout[-500:]
    clipped = str(tmp_path / "clipped")
    # On some processors the gradients themselves overflow within these steps.
    run(*SMALL, *data, *WILD, "--grad-clip", 1, "--steps", 20, "--save-every", 0, "--out", clipped, code=(0, 3))
    skipped = {line["step"] for line in metrics(clipped, "event") if line["event"] == "skip"}
    norms = {line["step"]: line["grad_norm"] for line in metrics(clipped)}
    assert all(norms.get(step) is None for step in skipped), norms  # the last one has no record
    assert max(norm for step, norm in norms.items() if step not in skipped) > 2e19, norms


def spoiled(trained, path, name, index, value):
    tensors = dict(read_tensors(os.path.join(step_directory(trained, 6), MODEL)))
    tensors[name] = tensors[name].copy()
    tensors[name][index] = value
    write_tensors(path, tensors)
    return path


BIAS = "transformer.h.1.mlp.c_proj.bias"


def test_a_run_too_short_for_three_skips_has_diverged_all_the_same(trained, data, tmp_path, out):
    bad = spoiled(trained, tmp_path / "bad.safetensors", BIAS, 3, math.nan)
    train = [*SMALL, *data[:2], "--init-from", bad, "--out", out, "--steps", 2]
    said = run(*train, code=3).stderr
    assert f"training diverged: weights of {BIAS} are not finite after step 2; last good checkpoint: none\n" in said
    assert events(out) == ["start", "skip", "skip", "diverged"] and checkpoints(out) == []
    assert [line["loss"] for line in map(strict, file_bytes(out, "metrics.jsonl").splitlines())
            if line["type"] == "train"] == [None, None]


def test_a_weight_that_no_batch_reads_is_found_by_the_first_update(tmp_path, data, out):
    """The embedding of a byte that does not occur, in a model whose output is another matrix."""
    llama = [*SMALL, "--arch", "llama", *data]
    run(*llama, "--steps", 6, "--out", tmp_path / "trained")
    bad = spoiled(tmp_path / "trained", tmp_path / "bad.safetensors", "model.embed_tokens.weight", (200, 5), math.inf)
    said = run(*llama, "--init-from", bad, "--out", out, "--steps", 50, code=3).stderr
    assert "after step 1 (1 of them; first: weights of model.embed_tokens.weight)" in said


def test_a_validation_that_is_not_finite_ends_the_run(tmp_path, data, out):
    """3e38 is a weight, and its square is none: a byte that only the validation holds."""
    llama = [*SMALL, "--arch", "llama", "--placement", "post", "--weight-decay", 0, *data[:2]]
    write_shard(tmp_path / "val.bin", [200] * 100)
    run(*llama, "--steps", 6, "--out", tmp_path / "trained")
    bad = spoiled(tmp_path / "trained", tmp_path / "bad.safetensors", "model.embed_tokens.weight", 200, 3e38)
    validate = ["--val-data", tmp_path / "val.bin", "--val-every", 2]
    said = run(*llama, *validate, "--init-from", bad, "--out", out, "--steps", 9, "--save-every", 1, code=3).stderr
    good = step_directory(out, 1)
    assert said.endswith(f"diverged: the validation loss after step 2 is not finite; last good checkpoint: {good}\n")
    assert [line["loss"] for line in map(strict, file_bytes(out, "metrics.jsonl").splitlines())
            if line["type"] == "val"] == [None]
    assert checkpoints(out) == ["step_00000001"]


def test_modes_that_read_weights_say_that_they_are_not_finite(trained, data, tmp_path):
    bad = spoiled(trained, tmp_path / "bad.safetensors", BIAS, 3, math.nan)
    model, notes = [*SMALL, "--init-from", bad], r"(?:train_gpt: [^\n]*\n)*"
    done = run(*model, *data, "--eval-only", code=3, before=notes)
    assert done.stdout.startswith("val loss ") and "--eval-only: the loss is not finite" in done.stderr
    assert "--generate: the model's logits are not finite" in run(*model, "--generate", "a", code=3, before=notes).stderr
    # A probe is how one looks at such a model.
    run(*model, *data, "--probe", tmp_path / "probe.safetensors")
    probed = read_tensors(tmp_path / "probe.safetensors")
    assert numpy.isnan(probed["loss"]).all() and numpy.isfinite(probed["residual.1"]).all()


def test_telemetry_of_what_is_not_finite_is_json(trained, data, tmp_path, out):
    bad = spoiled(trained, tmp_path / "bad.safetensors", BIAS, 3, math.inf)
    run(*SMALL, *data, "--init-from", bad, "--out", out, "--steps", 2, "--stats-every", 1, code=3)
    stats = [line for line in map(strict, file_bytes(out, "metrics.jsonl").splitlines()) if line["type"] == "stats"]
    assert len(stats) == 2 and stats[0]["layers"][1]["residual_rms"] is None
