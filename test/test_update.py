"""Is what a run writes after a step what AdamW, with this run's flags, makes of the gradient?

Over the models of reference/: the gradient is the program's own (--probe, which test_reference.py compares with
another's), the update is written out here from the paper (arXiv 1711.05101, algorithm 2, with the clips of kernels.h).
"""

import math
import os

import numpy
import pytest

from program import MODEL, MOMENTS, metrics, run, step_directory
from tensors import read_tensors
from test_reference import FIXTURES

LR, BETA1, BETA2, EPS, DECAY = 1e-2, 0.8, 0.95, 1e-3, 0.3
# Gradients of the same batch in another order of its rows differ by rounding, some 1e-15 of the largest. ε is 1e-3:
# AdamW makes of a difference d in a gradient at most LR·d/EPS = 10·d in a weight.
TOLERANCE = 1e-12


def flags_of(fixture, *more):
    return ["--config", fixture / "flags.txt", "--train-data", fixture / "train.bin", "--dtype", "fp64", "--device", "cpu", *more]


def gradient(fixture, weights, path):
    run(*flags_of(fixture, "--init-from", weights, "--probe", path))
    return {name[5:]: x for name, x in read_tensors(path).items() if name.startswith("grad.")}


def norm(tensors):
    return math.sqrt(sum(float((x**2).sum()) for x in tensors))


def clipped(gradients, clip, gate_clip):
    """→ (gradients, the norm before): all by their norm, then the gates again by theirs."""
    gates = [name for name in gradients if name.endswith("gpas.gate")]
    before = norm(gradients.values())
    scaled = {name: x * min(1, clip / before) for name, x in gradients.items()}
    gate_norm = norm(scaled[name] for name in gates)
    assert before > clip and (gate_norm > gate_clip or not gates), "a clip that is not at work is not tested"
    for name in gates:
        scaled[name] = scaled[name] * min(1, gate_clip / gate_norm)
    return scaled, before


def adamw(weights, m, v, gradients, t):
    """Decay is of matrices, which are what has two dimensions."""
    for name, g in gradients.items():
        m[name] = BETA1 * m.get(name, 0) + (1 - BETA1) * g
        v[name] = BETA2 * v.get(name, 0) + (1 - BETA2) * g**2
        step = m[name] / (1 - BETA1**t) / (numpy.sqrt(v[name] / (1 - BETA2**t)) + EPS)
        weights[name] = weights[name] - LR * (step + (DECAY * weights[name] if g.ndim == 2 else 0))


def assert_close(actual, expected, what):
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        worst = numpy.abs(actual[name] - x).max()
        assert worst <= TOLERANCE * max(1, numpy.abs(x).max()), f"{what} of {name}: {worst:.1e}"


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_two_steps_are_adamw(fixture, out, tmp_path):
    weights, m, v = read_tensors(fixture / "weights.safetensors"), {}, {}
    first = gradient(fixture, fixture / "weights.safetensors", tmp_path / "probe")
    clip = norm(first.values()) / 4
    gate_clip = norm(x for name, x in first.items() if name.endswith("gpas.gate")) / 16 or 1
    update = ["--lr", LR, "--lr-schedule", "constant", "--warmup-steps", 0, "--beta1", BETA1, "--beta2", BETA2, "--adam-eps", EPS]
    update += ["--weight-decay", DECAY, "--grad-clip", repr(clip), "--gpas-clip", repr(gate_clip)]
    start = ["--init-from", fixture / "weights.safetensors", "--steps", 2, "--save-every", 1, "--out", out]
    run(*flags_of(fixture, *start, *update))
    for t in (1, 2):
        here = step_directory(out, t)
        raw = first if t == 1 else gradient(fixture, os.path.join(step_directory(out, 1), MODEL), tmp_path / "probe")
        scaled, before = clipped(raw, clip, gate_clip)
        adamw(weights, m, v, scaled, t)
        assert metrics(out)[t - 1]["grad_norm"] == pytest.approx(before, rel=TOLERANCE)
        assert_close(read_tensors(os.path.join(here, MODEL)), weights, f"step {t}, weights")
        moments = {f"m.{name}": x for name, x in m.items()} | {f"v.{name}": x for name, x in v.items()}
        assert_close(read_tensors(os.path.join(here, MOMENTS)), moments, f"step {t}, moments")
