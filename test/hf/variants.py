"""What tests of variants in transformers share: which there are, a checkpoint of each, and its model in PyTorch."""

import itertools
import json
import os
import pathlib
import sys
import zlib

import numpy

from program import MODEL, file_bytes, run, step_directory, write_shard
from tensors import read_tensors, write_tensors

SHAPE = {
    "n-layer": 3,
    "n-head": 4,
    "n-embd": 32,
    "n-ffn": 40,
    "seq-len": 12,
    "vocab-size": 256,
    "batch-size": 2,
    "init-std": 0.3,
}
# The parts that a variant is made of, the usual one first.
PARTS = {
    "arch": ["llama", "gpt2"],
    "norm": ["rmsnorm", "layernorm", "dyt", "bhyt-exact", "bhyt", "derf"],
    "placement": ["pre", "post", "sandwich", "deepnorm", "mix", "lns", "res-post", "keel", "hybrid", "hybrid-first"],
    "gpas": ["off", "layer", "sublayer"],
    "sdd": ["off", "paper", "released"],
    "gpas-act": ["silu", "identity", "relu", "tanh", "leaky-relu"],
    "positions": ["rope", "learned"],
    "rope-scaling": ["none", "linear", "llama3"],
    "activation": ["swiglu", "gelu", "gelu-exact"],
    "bias": ["off", "on", "qkv"],
    "qk-norm": ["off", "head", "projection"],
    "head-dim": ["8", "6"],
    "tie-embeddings": ["off", "on"],
    "n-kv-head": ["4", "2", "1"],
    "final-norm": ["auto", "on", "off"],
    "embed-norm": ["off", "on"],
    "embed-scale": ["off", "on"],
    "lns-init": ["off", "on"],
    "bhyt-lambda-final": ["0", "1.5"],
    "bhyt-kappa": ["10", "3"],
    "final-norm-eps": ["auto", "1e-3"],
    "bhyt-gamma-var": ["off", "on"],
}
MAIN = ["norm", "placement", "gpas", "sdd", "arch"]


def is_refused(variant):
    if variant.get("qk-norm", "off") != "off" and variant.get("sdd", "off") != "off":
        return True
    norms_qkv = variant.get("placement", "pre").startswith("hybrid")
    if norms_qkv and (variant.get("qk-norm", "off") != "off" or variant.get("sdd", "off") != "off"):
        return True
    return variant.get("norm") == "bhyt" and variant.get("placement", "pre") not in ("pre", "lns")


def pairs_of(variant):
    return set(itertools.combinations(sorted(variant.items()), 2))


def by_pairs(seed=1):
    """Few variants that hold every pair of values of any two parts: each time the best of some random ones."""
    draw = numpy.random.default_rng(seed)
    left = {
        pair
        for (a, these), (b, those) in itertools.combinations(sorted(PARTS.items()), 2)
        for pair in itertools.product(((a, x) for x in these), ((b, y) for y in those))
    }
    left = {pair for pair in left if not is_refused(dict(pair))}
    while left:
        wanted = dict(sorted(left)[draw.integers(len(left))])
        candidates = [{part: str(draw.choice(values)) for part, values in PARTS.items()} | wanted for _ in range(60)]
        candidates = [one for one in candidates if not is_refused(one)]
        if candidates:
            best = max(candidates, key=lambda one: len(pairs_of(one) & left))
            left -= pairs_of(best)
            yield best


def every():
    """The product of norm, placement, GPAS, SDD and architecture, the other parts drawn."""
    draw = numpy.random.default_rng(2)
    for values in itertools.product(*(PARTS[part] for part in MAIN)):
        variant = {part: str(draw.choice(values)) for part, values in PARTS.items()} | dict(zip(MAIN, values))
        if not is_refused(variant):
            yield variant


def name_of(variant):
    usual = {part: values[0] for part, values in PARTS.items()}
    return " ".join(
        [
            *(variant[part] for part in MAIN),
            *(f"{part}={x}" for part, x in variant.items() if part not in MAIN and x != usual[part]),
        ]
    )


def flags_of(variant):
    """A gate that relu shuts would never open."""
    settings = {**SHAPE, **variant, **({"gpas-init": 0.3} if variant["gpas"] != "off" else {})}
    settings |= {"mix-post-layers": 1} if variant["placement"] == "mix" else {}
    return [word for flag, value in settings.items() for word in ("--" + flag, str(value))]


def write_text(folder):
    """A shard of as many tokens as one batch needs, and some more."""
    path = pathlib.Path(folder) / "train.bin"
    write_shard(path, [(7 * i * i + i // 3) % 256 for i in range(200)])
    return ["--train-data", str(path)]


def checkpoint(folder, data, flags, steps=1, dtype="fp64"):
    """The directory of a checkpoint of a run of that many steps."""
    out = os.path.join(folder, "run")
    run(
        *flags,
        *data,
        "--steps",
        steps,
        "--lr",
        "1e-2",
        "--warmup-steps",
        0,
        "--val-every",
        0,
        "--dtype",
        dtype,
        "--out",
        out,
    )
    return step_directory(out, steps)


def perturb(tensors, name):
    """Weights far from initial ones: no γ is 1, no gate is shut, every bias matters, no softmax is flat."""
    draw = numpy.random.default_rng(zlib.crc32(name.encode()))
    for key, x in tensors.items():
        z = draw.standard_normal(x.shape)
        if key.endswith("gpas.gate"):  # positive: off relu's kink; under 1: no stream is shut
            x = 0.2 + 0.3 * numpy.tanh(numpy.abs(z))
        elif key.endswith(".lambda"):
            x = 8 + 2 * z
        elif x.ndim == 1:
            x = x + 0.3 * z * numpy.sqrt(numpy.mean(x * x) if x.any() else 1)
        else:
            x = x + 0.2 * x.std() * z
        yield key, x


def perturbed(folder, source, name):
    """A directory of the same model with other weights. BHyT's c is then of those: null in config.json."""
    os.mkdir(folder)
    tensors = read_tensors(os.path.join(source, MODEL))
    write_tensors(os.path.join(folder, MODEL), dict(perturb(tensors, name)))
    config = json.loads(file_bytes(source, "config.json"))
    if "bhyt_c" in config:
        config["bhyt_c"] = None
    pathlib.Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
    for file in pathlib.Path(source).glob("*.py"):
        pathlib.Path(folder, file.name).write_bytes(file.read_bytes())
    return folder


def probe(path, *arguments):
    run(*arguments, "--dtype", "fp64", "--probe", path)
    return read_tensors(path)


def load(folder, **more):
    import torch
    from transformers import AutoModelForCausalLM

    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, **{"torch_dtype": torch.float64, **more}
    )
    assert not any(loading.values()), loading
    return model


def gradients(model):
    return {name: x.grad.numpy() for name, x in model.named_parameters() if x.grad is not None}


def worst(have, want):
    """→ {tensor: its largest difference over its largest value}. A gradient is measured against at least 1e-6 of all
    gradients' norm: some true ones are zero."""
    assert have.keys() == want.keys(), have.keys() ^ want.keys()
    floor = 1e-6 * numpy.sqrt(sum(float(numpy.sum(x * x)) for x in want.values()))
    return {name: float(numpy.abs(have[name] - x).max() / max(numpy.abs(x).max(), floor)) for name, x in want.items()}


if __name__ == "__main__":
    found = list(by_pairs())
    print(len(found), "by pairs;", len(list(every())), "in all", file=sys.stderr)
    print(*map(name_of, found), sep="\n")
