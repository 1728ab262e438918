#!/usr/bin/env python3
"""Writes the fixtures that test_reference.py compares train_gpt with, from model.py.  Needs JAX.

    make_fixtures.py            writes fixtures/, fixtures_families/, fixtures_variants/ and fixtures_newer/ anew; NAME …: those folders alone
    make_fixtures.py --check    writes nothing: the committed files must be what model.py gives, and
                                model.py's gradients must agree with differences of its forward
"""
import argparse
import pathlib
import shutil
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

import model

HERE = pathlib.Path(__file__).resolve().parent

# A folder → its fixtures → the flags that differ from the folder's.  Widths that no vector or block
# divides: n_embd 24 and 40, head size 8 and 24, ffn 37, vocab 61; two sequences longer than a block of 64.
SMALL = {
    "n-layer": 2, "n-head": 3, "n-embd": 24, "n-ffn": 37, "seq-len": 7, "vocab-size": 61, "batch-size": 2,
}  # fmt: skip
TINY = {**SMALL, "n-head": 2, "n-embd": 16, "n-ffn": 19, "seq-len": 6, "vocab-size": 23}
ONE_LAYER = {"n-layer": 1}
GPT2, LLAMA = {"arch": "gpt2"}, {"arch": "llama", "n-kv-head": 1}

FOLDERS = {
    "fixtures": (SMALL, {
        "gpt2": GPT2,
        "gpt2-long": {**GPT2, **TINY, **ONE_LAYER, "seq-len": 97, "n-embd": 24, "n-head": 1},
        "gpt2-rmsnorm-nobias-untied": {
            **GPT2, **ONE_LAYER, "norm": "rmsnorm", "bias": "off", "tie-embeddings": "off", "batch-size": 3,
        },
        "gpt2-rope-swiglu-grouped": {
            **GPT2, "positions": "rope", "activation": "swiglu", "n-embd": 32, "n-head": 4, "n-kv-head": 2,
            **ONE_LAYER,
        },
        "llama": LLAMA,
        "llama-long-eps": {
            **LLAMA, **TINY, "n-kv-head": 2, "seq-len": 67, "rope-base": 500, "norm-eps": 0.01,
        },
        "llama-layernorm-biases-tied": {
            **LLAMA, **ONE_LAYER, "n-embd": 40, "n-head": 5, "n-kv-head": 5, "norm": "layernorm",
            "bias": "on", "tie-embeddings": "on",
        },
        "llama-learned-gelu": {
            **LLAMA, **ONE_LAYER, "positions": "learned", "activation": "gelu", "batch-size": 3,
        },
    }),
    # The parts of other families (Qwen2, Qwen3, OLMo 2, LLaMA 3.1, …), and each with what it meets elsewhere.
    "fixtures_families": ({**TINY, **ONE_LAYER}, {
        "qwen2": {**LLAMA, "bias": "qkv", "rope-base": 1000},
        "qwen3": {**LLAMA, "qk-norm": "head", "head-dim": 12, "tie-embeddings": "on"},
        "olmo2": {**LLAMA, "n-kv-head": 2, "qk-norm": "projection", "placement": "res-post", "norm-eps": 0.01, "n-layer": 2},
        "llama-rope-llama3": {
            **LLAMA, "head-dim": 16, "seq-len": 33, "rope-scaling": "llama3", "rope-factor": 4, "rope-original-seq-len": 24,
        },
        "llama-rope-linear": {**LLAMA, "seq-len": 21, "rope-scaling": "linear", "rope-factor": 2.5},
        "gpt2-gelu-exact": {**GPT2, "activation": "gelu-exact"},
        "gpt2-qk-norm-heads-biases": {**GPT2, "qk-norm": "head", "head-dim": 10, "bias": "qkv"},
        "res-post-gpas-embed-norm": {**GPT2, "placement": "res-post", "gpas": "sublayer", "embed-norm": "on", "n-layer": 2},
        "res-post-dyt-sdd": {**LLAMA, "placement": "res-post", "norm": "dyt", "sdd": "paper", "head-dim": 6},
        "sdd-released-heads": {**LLAMA, "sdd": "released", "head-dim": 12},
        "bhyt-heads": {**LLAMA, "norm": "bhyt", "head-dim": 6, "qk-norm": "projection"},
    }),
    # Every norm, placement, GPAS and SDD form, and the pairs that MATH.md treats apart.
    "fixtures_variants": (TINY, {
        "post-gpas-layer": {**LLAMA, "placement": "post", "gpas": "layer"},
        "post-dyt": {**GPT2, "placement": "post", "norm": "dyt"},
        "post-sdd-released": {**LLAMA, "placement": "post", "sdd": "released"},
        "sandwich-gpas-sublayer": {**LLAMA, "placement": "sandwich", "gpas": "sublayer"},
        "sandwich-layernorm-sdd-paper": {**GPT2, "placement": "sandwich", "sdd": "paper"},
        "deepnorm": {**GPT2, "placement": "deepnorm"},
        "deepnorm-gpas-sdd-released": {
            **LLAMA, "placement": "deepnorm", "gpas": "layer", "sdd": "released", "activation": "gelu",
        },
        "mix-gpas-sublayer": {
            **LLAMA, "placement": "mix", "n-layer": 3, "mix-post-layers": 1, "gpas": "sublayer",
            "gpas-act": "tanh",
        },
        "lns-gpas-layer": {**LLAMA, "placement": "lns", "gpas": "layer", "gpas-act": "leaky-relu"},
        "lns-sdd-paper": {**LLAMA, "placement": "lns", "sdd": "paper"},
        "pre-gpas-layer": {**GPT2, "gpas": "layer", "gpas-act": "identity"},
        "pre-sdd-released-gpas": {**LLAMA, "sdd": "released", "gpas": "sublayer", "gpas-act": "relu"},
        "pre-dyt": {**LLAMA, "norm": "dyt", "embed-scale": "on"},
        "pre-bhyt-exact": {**LLAMA, "norm": "bhyt-exact", "bhyt-lambda-final": 1},
        "sandwich-bhyt-exact": {**LLAMA, "norm": "bhyt-exact", "placement": "sandwich"},
        "pre-bhyt": {**LLAMA, "norm": "bhyt"},
        "pre-bhyt-kappa": {**LLAMA, "norm": "bhyt", "bhyt-kappa": 4, "bhyt-lambda-final": 1, "final-norm-eps": 0.02},
        "pre-bhyt-gamma-var": {**GPT2, "norm": "bhyt", "bhyt-gamma-var": "on"},
        "pre-bhyt-sdd": {**LLAMA, "norm": "bhyt", "sdd": "paper", "gpas": "layer"},
        "lns-bhyt-gpas": {**LLAMA, "norm": "bhyt", "placement": "lns", "gpas": "sublayer"},
        "lns-init-bhyt": {**LLAMA, "norm": "bhyt", "placement": "lns", "lns-init": "on"},
        "pre-embed-norm": {**LLAMA, "embed-norm": "on", "final-norm": "off"},
    }),
    # Rows that are newer than the three papers.
    "fixtures_newer": (TINY, {
        "pre-derf": {**GPT2, "norm": "derf", "embed-scale": "on"},
        "post-derf-gpas": {**LLAMA, "norm": "derf", "placement": "post", "gpas": "sublayer"},
        "sandwich-derf-sdd": {**LLAMA, "norm": "derf", "placement": "sandwich", "sdd": "paper", "embed-norm": "on"},
        "keel": {**LLAMA, "placement": "keel", "n-layer": 3},
        "keel-gpas-layer": {**GPT2, "placement": "keel", "gpas": "layer", "gpas-act": "tanh", "final-norm": "on"},
        "keel-gpas-sublayer-dyt-sdd": {
            **LLAMA, "placement": "keel", "gpas": "sublayer", "norm": "dyt", "sdd": "released", "embed-norm": "on",
        },
        "hybrid": {**LLAMA, "placement": "hybrid", "n-layer": 3, "head-dim": 6},
        "hybrid-gpas-sublayer": {**GPT2, "placement": "hybrid", "n-layer": 3, "gpas": "sublayer", "gpas-act": "identity"},
        "hybrid-first-gpas-layer-derf": {
            **LLAMA, "placement": "hybrid-first", "n-layer": 3, "gpas": "layer", "norm": "derf", "embed-norm": "on",
        },
    }),
}  # fmt: skip

SHARD_MAGIC, SHARD_VERSION = 20240520, 1  # llm.c's, with uint16 tokens


def random_value(rng, shape, kind, n_in):
    """Far from init: no γ is 1, no softmax is flat, no gate is shut, every bias matters."""
    z = rng.standard_normal(shape)
    if kind == "matrix":
        return 1.5 * z / np.sqrt(n_in)
    if kind == "gate":  # positive: off the kink of relu and leaky-relu; under 1: no stream is shut
        return 0.2 + 0.3 * np.tanh(np.abs(z))
    return {
        "bias": 0.3 * z,
        "beta": 0.3 * z,
        "gamma": 1 + 0.3 * z,
        "alpha": 0.5 + 0.1 * z,
        "shift": 0.2 * z,
        "lambda": 8 + 2 * z,
    }[kind]


def make_inputs(name, s):
    """→ weights, shard of B·T+1 tokens, windows (B, T+1); the same on every machine."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    weights = {}
    for tensor, (shape, kind) in model.shapes(s).items():
        lookup = "embed" in tensor or "wte" in tensor or "wpe" in tensor
        conv1d = model.LAYOUTS[s.arch].conv1d and tensor != "lm_head.weight"
        n_in = 1 if len(shape) < 2 else 4 if lookup else shape[0] if conv1d else shape[1]
        weights[tensor] = random_value(rng, shape, kind, n_in)
    shard = rng.integers(0, s.vocab_size, s.batch_size * s.seq_len + 1)
    windows = np.stack([shard[b * s.seq_len : (b + 1) * s.seq_len + 1] for b in range(s.batch_size)])
    return weights, shard, windows


def make_expected(s, weights, windows):
    tokens, targets = windows[:, :-1], windows[:, 1:]
    loss, outputs, gradients = model.loss_and_gradients(s, weights, tokens, targets)
    tensors = {"tokens": tokens, "targets": targets}
    tensors.update({"loss": jnp.reshape(loss, (1,)), "logits": outputs.logits})
    tensors.update({f"residual.{i}": x for i, x in enumerate(outputs.residual)})
    tensors.update({f"grad.{tensor}": g for tensor, g in gradients.items()})
    return {tensor: np.ascontiguousarray(x) for tensor, x in tensors.items()}


def float32_error(s, weights, windows, expected):
    """Largest error of any tensor, over the tensor's largest value, when this model runs in float32.

    The worst of eight runs. In each the weights move by at most half a unit in float32's last place before
    they are rounded: no more than rounding does itself, but every later rounding falls anew.
    """
    rng, worst = np.random.default_rng(2), 0.0
    floor = gradient_floor(expected)
    for _ in range(8):
        moved = {tensor: x * (1 + 2.0**-24 * rng.uniform(-1, 1, x.shape)) for tensor, x in weights.items()}
        rounded = {tensor: jnp.asarray(x, jnp.float32) for tensor, x in moved.items()}
        for tensor, x in make_expected(s, rounded, windows).items():
            scale = max(np.abs(expected[tensor]).max(), floor if tensor.startswith("grad.") else 0)
            worst = max(worst, np.abs(x - expected[tensor]).max() / scale)
    return worst


def gradient_floor(expected):
    """MATH.md 7: some true gradients are zero, so none is measured against less than this."""
    return 1e-6 * np.sqrt(sum(np.sum(x**2) for tensor, x in expected.items() if tensor.startswith("grad.")))


def write_fixture(folder, flags, s, name):
    folder.mkdir(parents=True)
    (folder / "flags.txt").write_text("".join(f"{flag} = {value}\n" for flag, value in flags.items()))
    weights, shard, windows = make_inputs(name, s)
    save_file(weights, folder / "weights.safetensors")
    header = np.zeros(256, "<i4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, len(shard)
    (folder / "train.bin").write_bytes(header.tobytes() + shard.astype("<u2").tobytes())
    expected = make_expected(s, weights, windows)
    save_file(expected, folder / "expected.safetensors")
    (folder / "float32_error.txt").write_text(f"{float32_error(s, weights, windows, expected):.1e}\n")
    return expected


class Frozen:
    """A stop-gradient that records its operands in the base forward and gives them back afterwards."""

    def __init__(self):
        self.values, self.recording, self.next = [], True, 0

    def __call__(self, x):
        if self.recording:
            self.values.append(x)
        self.next += 1
        return self.values[self.next - 1]

    def replay(self):
        self.recording, self.next = False, 0


def difference_error(s, weights, windows, gradients):
    """Worst relative error of the gradient along two random directions per tensor (MATH.md 7)."""
    tokens, targets = windows[:, :-1], windows[:, 1:]
    sg = Frozen()
    model.mean_loss(s, {tensor: jnp.asarray(x) for tensor, x in weights.items()}, tokens, targets, sg)

    @jax.jit
    def loss(weights):
        sg.replay()
        return model.mean_loss(s, weights, tokens, targets, sg)[0]

    rng, h, worst = np.random.default_rng(1), 1e-5, 0.0
    total = np.sqrt(sum(np.sum(np.square(g)) for g in gradients.values()))
    for tensor, w in weights.items():
        for _ in range(2):
            d = rng.standard_normal(w.shape)
            d /= np.linalg.norm(d)
            f = {k: float(loss({**weights, tensor: w + k * h * d})) for k in (-2, -1, 1, 2)}
            numeric = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
            scale = max(np.linalg.norm(gradients[tensor]), 1e-6 * total)
            worst = max(worst, abs(numeric - np.sum(d * gradients[tensor])) / scale)
    return worst


def check_fixture(folder, flags, s, name):
    weights, shard, windows = make_inputs(name, s)
    expected = make_expected(s, weights, windows)
    stored_weights = load_file(folder / "weights.safetensors")
    stored = load_file(folder / "expected.safetensors")
    assert (folder / "flags.txt").read_text() == "".join(f"{f} = {v}\n" for f, v in flags.items())
    assert (folder / "train.bin").read_bytes()[1024:] == shard.astype("<u2").tobytes()
    assert stored_weights.keys() == weights.keys() and stored.keys() == expected.keys()
    assert all(np.array_equal(stored_weights[tensor], x) for tensor, x in weights.items())
    scale = {tensor: max(np.abs(x).max(), gradient_floor(expected)) for tensor, x in expected.items()}
    drift = max(np.abs(stored[tensor] - x).max() / scale[tensor] for tensor, x in expected.items())
    assert drift <= 1e-11, f"{name}: stored values differ from model.py's by {drift:.1e}"
    gradients = {tensor[5:]: x for tensor, x in expected.items() if tensor.startswith("grad.")}
    error = difference_error(s, weights, windows, gradients)
    # Truncation is h⁴ of the fifth derivative, cancellation 1e-16/h; both under 1e-6 of the gradient.
    assert error <= 1e-6, f"{name}: gradients differ from differences by {error:.1e}"
    return expected, f"stored {drift:.1e}  differences {error:.1e}"


def describe(expected, remark):
    logits = expected["logits"]
    return f"loss {expected['loss'][0]:.4f}  logits rms {logits.std():.2f}  {remark}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("folders", nargs="*", metavar="NAME", help="of fixtures (default: all)")
    arguments = parser.parse_args()
    check = arguments.check
    for folder in arguments.folders or FOLDERS:
        base, fixtures = FOLDERS[folder]
        if not check:
            shutil.rmtree(HERE / folder, ignore_errors=True)
        for name, own in fixtures.items():
            flags = {**base, **own}
            s = model.Settings.from_flags({flag: str(value) for flag, value in flags.items()})
            path = HERE / folder / name
            if check:
                expected, remark = check_fixture(path, flags, s, name)
            else:
                expected = write_fixture(path, flags, s, name)
                remark = "float32 error " + (path / "float32_error.txt").read_text().strip()
            print(f"{folder}/{name}: {describe(expected, remark)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
