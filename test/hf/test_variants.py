"""Does scripts/hf/modeling_train_gpt.py compute what the program computes: in fp64 the same logits, loss and gradients, and
the same likeliest tokens, for every norm, placement, GPAS and SDD, both architectures and all their parts?

By pairs: each value of a part meets each of every other part once. TEST_ALL=1: the whole product of norm, placement, GPAS,
SDD and architecture.
"""

import os

import numpy
import pytest
import torch

import variants
from program import PROGRAM, environment
import subprocess

# Sums of some hundred terms in another order, through three layers.
TOLERANCE = 1e-9

CASES = {
    variants.name_of(one): one for one in (variants.every() if os.environ.get("TEST_ALL") else variants.by_pairs())
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return variants.write_text(tmp_path_factory.mktemp("data"))


def generated(folder, data, prompt, count):
    """The bytes that the program goes on with, the likeliest each time."""
    command = [
        PROGRAM,
        "--init-from",
        folder,
        "--dtype",
        "fp64",
        "--generate",
        prompt,
        "--temperature",
        "0",
        "--max-new-tokens",
        str(count),
    ]
    done = subprocess.run(command, capture_output=True, check=True, env=environment())
    assert done.stdout.startswith(prompt.encode())
    return list(done.stdout[len(prompt) :][:count])


@pytest.mark.parametrize("case", CASES)
def test_logits_loss_gradients_and_tokens_are_the_program_s(case, data, tmp_path):
    flags = variants.flags_of(CASES[case])
    folder = variants.perturbed(str(tmp_path / "other"), variants.checkpoint(tmp_path, data, flags), case)
    want = variants.probe(tmp_path / "probe", *data, "--batch-size", 2, "--init-from", folder)
    model = variants.load(folder)
    tokens, targets = (torch.from_numpy(want[name].astype("i8")) for name in ("tokens", "targets"))
    outputs = model(tokens, output_hidden_states=True)
    # transformers' labels are the tokens themselves: the last target of a row is of no position
    torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), targets.flatten()).backward()

    expected = {name: x for name, x in want.items() if name == "logits" or name.startswith("grad.")}
    have = {
        "logits": outputs.logits.detach().numpy(),
        **{"grad." + name: x for name, x in variants.gradients(model).items()},
    }
    assert expected["logits"].std() > 0.01
    apart = variants.worst(have, expected)
    assert max(apart.values()) < TOLERANCE, {name: x for name, x in apart.items() if not x < TOLERANCE}
    for i, stream in enumerate(outputs.hidden_states[:-1]):
        x = want[f"residual.{i}"]
        assert numpy.abs(stream.detach().numpy() - x).max() < TOLERANCE * numpy.abs(x).max()

    prompt = "ab"
    ids = torch.tensor([list(prompt.encode())])
    ours = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8, min_new_tokens=8, pad_token_id=0
    )
    assert ours[0, 2:].tolist() == generated(folder, data, prompt, 8)
