"""Does ./train_gpt compute the same loss, logits, residual streams and gradients as the JAX model?

Each folder of reference/fixtures holds a model's flags, weights, one batch and what reference/model.py
makes of it in fp64; the program runs on it through --probe.  Needs numpy and the program (TRAIN_GPT, else
./train_gpt in the repository's root); no JAX.
"""
import pathlib

import numpy as np
import pytest

from program import run
from tensors import read_tensors

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ["fixtures", "fixtures_families", "fixtures_variants", "fixtures_newer"]
FIXTURES = sorted(
    path.parent for folder in FOLDERS for path in (ROOT / "test/reference" / folder).glob("*/flags.txt")
)
assert FIXTURES, "no fixtures: test/reference/make_fixtures.py writes them"

# fp64: sums of at most a few thousand terms, through at most three layers: some 1e-14 (two such models,
# this one and transformers', agree to that); 1e-9 leaves room for ill-conditioned sums and none for a
# constant rounded to fp32.
FP64_TOLERANCE = 1e-9
# fp32: the reference itself, run eight times in fp32, errs by at most what float32_error.txt says.  Other
# orders of summation draw the same rounding errors anew; DESIGN.md allows gradients three times the plain
# loop's error; the program has 0.7 to 1.4 times the reference's.
FP32_FACTOR = 3

def per_token(name):
    return name in ("tokens", "targets", "logits") or name.startswith("residual.")


def rows_in_order(tensors):
    """The same batch with its rows sorted by their tokens: the program's window order is its own."""
    order = np.lexsort(tensors["tokens"].T[::-1])
    return {name: x[order] if per_token(name) else x for name, x in tensors.items()}


def differences(actual, expected):
    """→ {tensor: its largest difference over its largest expected value}; inf if it does not fit.

    A gradient is measured against at least 1e-6 of all gradients' norm (MATH.md 7): some are zero.
    """
    if "tokens" not in actual or actual["tokens"].shape != expected["tokens"].shape:
        return {"tokens": np.inf}
    actual, expected = rows_in_order(actual), rows_in_order(expected)
    norm = np.sqrt(sum(np.sum(x**2) for name, x in expected.items() if name.startswith("grad.")))
    found = {name: np.inf for name in actual.keys() ^ expected.keys()}
    for name in actual.keys() & expected.keys():
        a, e = actual[name].astype("f8"), expected[name].astype("f8")
        scale = max(np.abs(e).max(), 1e-6 * norm if name.startswith("grad.") else 0)
        worst = np.abs(a - e).max() / scale if a.shape == e.shape else np.inf
        found[name] = worst if worst <= np.inf else np.inf  # a NaN is no agreement
    return found


def too_far(found, tolerance):
    return {name: f"{d:.1e}" for name, d in sorted(found.items()) if d > tolerance}


def probe(fixture, dtype, out):
    """Runs the program on a fixture; → what it wrote."""
    inputs = ["--config", fixture / "flags.txt", "--init-from", fixture / "weights.safetensors"]
    run(*inputs, "--train-data", fixture / "train.bin", "--probe", out, "--dtype", dtype, "--device", "cpu")
    return read_tensors(out)


def float_types(tensors):
    return {x.dtype.name for name, x in tensors.items() if name not in ("tokens", "targets")}


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_fp64_is_the_reference(fixture, tmp_path):
    actual = probe(fixture, "fp64", tmp_path / "probe.safetensors")
    found = differences(actual, read_tensors(fixture / "expected.safetensors"))
    assert not too_far(found, FP64_TOLERANCE)
    assert float_types(actual) == {"float64"}


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_fp32_errs_no_more_than_fp32_must(fixture, tmp_path):
    actual = probe(fixture, "fp32", tmp_path / "probe.safetensors")
    found = differences(actual, read_tensors(fixture / "expected.safetensors"))
    assert not too_far(found, FP32_FACTOR * float((fixture / "float32_error.txt").read_text()))
    assert float_types(actual) == {"float32"}
    assert max(found.values()) > FP64_TOLERANCE, "that was not computed in fp32"


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_the_comparison_notices_one_changed_value(fixture):
    expected = read_tensors(fixture / "expected.safetensors")
    assert not too_far(differences(expected, expected), 0)
    for name, x in expected.items():
        changed = x.copy()
        at = np.unravel_index(np.abs(x).argmax(), x.shape)
        changed[at] += 1 if x.dtype.kind == "i" else 2 * FP64_TOLERANCE * changed[at]
        found = too_far(differences({**expected, name: changed}, expected), FP64_TOLERANCE)
        assert name in found and (name == "tokens" or len(found) == 1)
        without = {other: y for other, y in expected.items() if other != name}
        assert too_far(differences(without, expected), FP64_TOLERANCE) == {name: "inf"}
    changed = expected["logits"].copy()
    changed[0, 0, 0] = np.nan
    assert "logits" in too_far(differences({**expected, "logits": changed}, expected), FP64_TOLERANCE)
    assert "more" in too_far(differences({**expected, "more": changed}, expected), FP64_TOLERANCE)


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_rows_are_matched_by_their_tokens(fixture):
    expected = read_tensors(fixture / "expected.safetensors")
    turned = {name: np.roll(x, 1, axis=0) if per_token(name) else x for name, x in expected.items()}
    assert not too_far(differences(turned, expected), 0)
    torn = {**turned, "logits": expected["logits"]}
    assert set(too_far(differences(torn, expected), FP64_TOLERANCE)) == {"logits"}
