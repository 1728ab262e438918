"""Is a gradient with --clip-eps 1e-6 what PyTorch's own clip_grad_norm_ makes of it, the gates' too?"""

import os

import numpy
import pytest
import torch

from program import MOMENTS, run, step_directory
from tensors import read_tensors
from test_reference import FIXTURES

(FIXTURE,) = (path for path in FIXTURES if path.name == "pre-gpas-layer")
BETA1 = 0.5
# The same batch in another order of its rows; without the 1e-6 they are 1e-6 apart.
TOLERANCE = 1e-12


@pytest.mark.parametrize("share", [0.5, 1, 1 + 1e-9, 2])
def test_a_clipped_gradient_is_pytorch_s(share, out, tmp_path):
    """`share`: the clip, in norms of the gradient. 1 and a bit are clips only because of what is added to the norm."""
    flags = ["--config", FIXTURE / "flags.txt", "--train-data", FIXTURE / "train.bin", "--dtype", "fp64", "--device", "cpu"]
    flags += ["--init-from", FIXTURE / "weights.safetensors"]
    run(*flags, "--probe", tmp_path / "probe")
    leaves = {}
    for name, x in read_tensors(tmp_path / "probe").items():
        if name.startswith("grad."):
            leaves[name[5:]] = torch.zeros(x.shape, dtype=torch.float64, requires_grad=True)
            leaves[name[5:]].grad = torch.from_numpy(x.copy())
    gates = [leaf for name, leaf in leaves.items() if name.endswith("gpas.gate")]
    clip = share * torch.nn.utils.get_total_norm([leaf.grad for leaf in leaves.values()]).item()
    torch.nn.utils.clip_grad_norm_(leaves.values(), clip)
    gate_clip = share * torch.nn.utils.get_total_norm([leaf.grad for leaf in gates]).item()
    torch.nn.utils.clip_grad_norm_(gates, gate_clip)

    run(*flags, "--steps", 1, "--out", out, "--beta1", BETA1, "--grad-clip", repr(clip), "--gpas-clip", repr(gate_clip),
        "--clip-eps", "1e-6")  # fmt: skip
    moments = read_tensors(os.path.join(step_directory(out, 1), MOMENTS))
    for name, leaf in leaves.items():
        want = (1 - BETA1) * leaf.grad.numpy()
        assert numpy.abs(moments["m." + name] - want).max() <= TOLERANCE * numpy.abs(want).max(), name
