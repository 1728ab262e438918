"""Is what a run writes after a step what AdamW or Muon, with this run's flags, makes of the gradient?

Over the models of reference/: the gradient is the program's own (--probe, which test_reference.py compares with
another's), the update is written out here from the papers (AdamW: arXiv 1711.05101, algorithm 2, with the clips of kernels.h;
Muon: MATH.md §10, and test_muon.c holds it to PyTorch's).
"""

import math
import os
import re

import numpy
import pytest

from program import MODEL, MOMENTS, metrics, run, step_directory
from tensors import read_tensors
from test_reference import FIXTURES

LR, BETA1, BETA2, EPS, DECAY = 1e-2, 0.8, 0.95, 1e-3, 0.3
# Gradients of the same batch in another order of its rows differ by rounding, some 1e-15 of the largest. ε is 1e-3:
# AdamW makes of a difference d in a gradient at most LR·d/EPS = 10·d in a weight.
TOLERANCE = 1e-12
# Newton–Schulz makes small singular values, and rounding among them, up to 3.4445⁵ = 485 times as large.
MUON_TOLERANCE, MOMENTUM = 500 * TOLERANCE, 0.9


def flags_of(fixture, *more):
    return ["--config", fixture / "flags.txt", "--train-data", fixture / "train.bin", "--dtype", "fp64", "--device", "cpu", *more]


def gradient(fixture, weights, path):
    run(*flags_of(fixture, "--init-from", weights, "--probe", path))
    return {name[5:]: x for name, x in read_tensors(path).items() if name.startswith("grad.")}


def norm(tensors):
    return math.sqrt(sum(float((x**2).sum()) for x in tensors))


def clipped(gradients, clip, gate_clip, eps):
    """→ (gradients, the norm before): all by their norm, then the gates again by theirs."""
    gates = [name for name in gradients if name.endswith("gpas.gate")]
    before = norm(gradients.values())
    scaled = {name: x * min(1, clip / (before + eps)) for name, x in gradients.items()}
    gate_norm = norm(scaled[name] for name in gates)
    assert before > clip and (gate_norm > gate_clip or not gates), "a clip that is not at work is not tested"
    for name in gates:
        scaled[name] = scaled[name] * min(1, gate_clip / (gate_norm + eps))
    return scaled, before


def adamw(weights, m, v, gradients, t):
    """Decay is of matrices, which are what has two dimensions."""
    for name, g in gradients.items():
        m[name] = BETA1 * m.get(name, 0) + (1 - BETA1) * g
        v[name] = BETA2 * v.get(name, 0) + (1 - BETA2) * g**2
        step = m[name] / (1 - BETA1**t) / (numpy.sqrt(v[name] / (1 - BETA2**t)) + EPS)
        weights[name] = weights[name] - LR * (step + (DECAY * weights[name] if g.ndim == 2 else 0))


def is_of_muon(name, gradient):
    return gradient.ndim == 2 and (".h." in name or ".layers." in name)


def half_orthogonal(g):
    """Newton and Schulz's way to UVᵀ of g = USVᵀ, five steps of it."""
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / max(numpy.sqrt((x**2).sum()), 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def parts_of(name, rows, flags):
    """The rows of a matrix [out, in] that are one of Muon's."""
    if "c_attn" not in name:
        return [rows]
    head = int(flags.get("head-dim", int(flags["n-embd"]) // int(flags["n-head"])))
    queries, keys = head * int(flags["n-head"]), head * int(flags.get("n-kv-head", flags["n-head"]))
    return [queries, keys, keys]


def muon(weights, m, v, gradients, t, flags):
    """Matrices of blocks; the rest is AdamW's."""
    adamw(weights, m, v, {name: g for name, g in gradients.items() if not is_of_muon(name, g)}, t)
    for name, g in gradients.items():
        if not is_of_muon(name, g):
            continue
        m[name] = MOMENTUM * m.get(name, 0) + (1 - MOMENTUM) * g
        nesterov = MOMENTUM * m[name] + (1 - MOMENTUM) * g
        turned = name.startswith("transformer.")  # gpt2's [in, out]
        nesterov = nesterov.T if turned else nesterov
        ends = numpy.cumsum(parts_of(name, len(nesterov), flags))
        parts = numpy.split(nesterov, ends[:-1])
        step = numpy.concatenate([0.2 * math.sqrt(max(part.shape)) * half_orthogonal(part) for part in parts])
        weights[name] = weights[name] - LR * ((step.T if turned else step) + DECAY * weights[name])


def assert_close(actual, expected, what, tolerance=TOLERANCE):
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        worst = numpy.abs(actual[name] - x).max()
        assert worst <= tolerance * max(1, numpy.abs(x).max()), f"{what} of {name}: {worst:.1e}"


def two_steps(fixture, out, tmp_path, update_by, tolerance, *more, clip_eps=0):
    """Two steps of the program beside two of update_by(weights, m, v, gradients, t)."""
    weights, m, v = read_tensors(fixture / "weights.safetensors"), {}, {}
    first = gradient(fixture, fixture / "weights.safetensors", tmp_path / "probe")
    clip = norm(first.values()) / 4
    gate_clip = norm(x for name, x in first.items() if name.endswith("gpas.gate")) / 16 or 1
    update = ["--lr", LR, "--lr-schedule", "constant", "--warmup-steps", 0, "--beta1", BETA1, "--beta2", BETA2, "--adam-eps", EPS]
    update += ["--weight-decay", DECAY, "--grad-clip", repr(clip), "--gpas-clip", repr(gate_clip), "--clip-eps", clip_eps, *more]
    start = ["--init-from", fixture / "weights.safetensors", "--steps", 2, "--save-every", 1, "--out", out]
    run(*flags_of(fixture, *start, *update))
    for t in (1, 2):
        here = step_directory(out, t)
        raw = first if t == 1 else gradient(fixture, os.path.join(step_directory(out, 1), MODEL), tmp_path / "probe")
        scaled, before = clipped(raw, clip, gate_clip, clip_eps)
        update_by(weights, m, v, scaled, t)
        assert metrics(out)[t - 1]["grad_norm"] == pytest.approx(before, rel=tolerance)
        assert_close(read_tensors(os.path.join(here, MODEL)), weights, f"step {t}, weights", tolerance)
        moments = {f"m.{name}": x for name, x in m.items()} | {f"v.{name}": x for name, x in v.items()}
        assert_close(read_tensors(os.path.join(here, MOMENTS)), moments, f"step {t}, moments", tolerance)


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_two_steps_are_adamw(fixture, out, tmp_path):
    two_steps(fixture, out, tmp_path, adamw, TOLERANCE)


@pytest.mark.parametrize("fixture", [path for path in FIXTURES if path.name in ("gpt2", "pre-gpas-layer")], ids=lambda path: path.name)
def test_a_clip_is_pytorch_s(fixture, out, tmp_path):
    """torch.nn.utils.clip_grad_norm_'s factor. Its 1e-6 moves a moment by 1e-6 of itself, a million times the tolerance."""
    two_steps(fixture, out, tmp_path, adamw, TOLERANCE, clip_eps=1e-6)


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_two_steps_are_muon_and_adamw(fixture, out, tmp_path):
    flags = dict(re.findall(r"^([a-z0-9-]+) *= *(\S+)", (fixture / "flags.txt").read_text(), re.MULTILINE))

    def update_by(*arguments):
        muon(*arguments, flags)

    two_steps(fixture, out, tmp_path, update_by, MUON_TOLERANCE, "--optimizer", "muon", "--muon-momentum", MOMENTUM)
