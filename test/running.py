"""The metrics.jsonl of a run that never was: what the tests of pictures, pages and exporters are given."""

import json


def lines_of(train, val=(), steps=None, diverged=None, stats=(), flags=None):
    """Losses by step from 1, [(step, loss)], [(step, [layer's fields])]."""
    steps = steps or len(train)
    yield {"type": "event", "event": "start", "step": 0, "flags": {**(flags or {}), "steps": steps}}
    for step, loss in enumerate(train, 1):
        yield {"type": "train", "step": step, "loss": loss, "lr": 1e-3 / step, "grad_norm": 1.0 + 1 / step, "ms": 1.0,
               "tokens_per_s": 1000.0 + step}  # fmt: skip
        yield from ({"type": "val", "step": at, "loss": value} for at, value in val if at == step)
        for at, layers in stats:
            if at == step:
                yield {"type": "stats", "step": at, "layers": [{"layer": i, **layer} for i, layer in enumerate(layers)]}
    if diverged:
        yield {"type": "event", "event": "diverged", "step": diverged}
    elif len(train) == steps:
        yield {"type": "event", "event": "end", "step": steps, "reason": "all steps done"}


def text_of(lines):
    return "".join(json.dumps(line) + "\n" for line in lines)


def write(folder, *lines, tail="", **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text(text_of(lines_of(*lines, **more)) + tail)
    return folder


def falling(first, last, steps=120):
    return [last + (first - last) * 0.95**step for step in range(steps)]


LAYERS = [
    {"residual_rms": 1.0 + layer, "gate": [0.1, 0.2], "lambda": [2.0], "cosine": None if layer == 2 else 0.5}
    for layer in range(3)
]
