#!/usr/bin/env python3
"""Writes fixtures_muon/, what torch.optim.Muon and torch.optim.AdamW make of given gradients, for test_muon.c.  Needs PyTorch 2.9.

    make_muon.py            writes the files anew
    make_muon.py --check    writes nothing: the committed files must be what PyTorch gives

A file: w0.NAME the weights, g1.NAME, g2.NAME, … gradients of steps (F32, but exact), w1.NAME, w2.NAME, … the weights after each
(F64).  Nothing of a model is computed: gradients are drawn, of any rank and none.
"""
import argparse
import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from tensors import read_tensors, write_tensors

STEPS = 3
# As test_muon.c has them.  The rate changes from step to step; the clip is at work in some.
LR, BETAS, EPS, DECAY, MOMENTUM, CLIP = [1e-2, 2e-2, 5e-3], (0.8, 0.95), 1e-3, 0.3, 0.9, 9.0
C, H, HKV, D, F, V, T = 16, 2, 1, 8, 19, 23, 6

GPT2 = {
    "transformer.wte.weight": (V, C), "transformer.wpe.weight": (T, C),
    "transformer.h.0.ln_1.weight": (C,), "transformer.h.0.ln_1.bias": (C,),
    "transformer.h.0.attn.c_attn.weight": (C, 3 * C), "transformer.h.0.attn.c_attn.bias": (3 * C,),
    "transformer.h.0.attn.c_proj.weight": (C, C), "transformer.h.0.attn.c_proj.bias": (C,),
    "transformer.h.0.ln_2.weight": (C,), "transformer.h.0.ln_2.bias": (C,),
    "transformer.h.0.mlp.c_fc.weight": (C, F), "transformer.h.0.mlp.c_fc.bias": (F,),
    "transformer.h.0.mlp.c_proj.weight": (F, C), "transformer.h.0.mlp.c_proj.bias": (C,),
    "transformer.ln_f.weight": (C,), "transformer.ln_f.bias": (C,),
}  # fmt: skip
LLAMA = {
    "model.embed_tokens.weight": (V, C), "model.layers.0.input_layernorm.weight": (C,),
    "model.layers.0.self_attn.q_proj.weight": (H * D, C), "model.layers.0.self_attn.k_proj.weight": (HKV * D, C),
    "model.layers.0.self_attn.v_proj.weight": (HKV * D, C), "model.layers.0.self_attn.o_proj.weight": (C, H * D),
    "model.layers.0.post_attention_layernorm.weight": (C,), "model.layers.0.mlp.gate_proj.weight": (F, C),
    "model.layers.0.mlp.up_proj.weight": (F, C), "model.layers.0.mlp.down_proj.weight": (C, F),
    "model.norm.weight": (C,), "lm_head.weight": (V, C),
}  # fmt: skip

# What one product computes: tensors whose rows, [out, in], stand above each other.
QKV, GATE_UP = ["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]


def is_of_a_block(name, shape):
    return len(shape) == 2 and (".h." in name or ".layers." in name)


def matrices(shapes, split):
    """The matrices of Muon: each a list of (tensor, first row, rows), [out, in]."""
    found = []
    for name, shape in shapes.items():
        if not is_of_a_block(name, shape):
            continue
        rows = shape[1] if name.startswith("transformer.") else shape[0]
        part = name.split(".")[-2]
        if split == "off" and (part in QKV[1:] or part in GATE_UP[1:]):
            found[-1].append((name, 0, rows))
        elif split == "parts" and part == "c_attn":
            found += [[(name, i * C, C)] for i in range(3)]
        elif split == "heads" and part in [*QKV, "c_attn"]:
            found += [[(name, row, D)] for row in range(0, rows, D)]
        else:
            found.append([(name, 0, rows)])
    return found


def rows_of(tensor, name, row0, rows):
    """Rows of the [out, in] matrix that a file may hold transposed (gpt2)."""
    return (tensor.T if name.startswith("transformer.") else tensor)[row0 : row0 + rows]


def gradient(rng, name, shape, step):
    g = rng.standard_normal(shape)
    if "o_proj" in name:
        g *= step == 2  # a gradient and a momentum of zero; then not; then a momentum alone
    if "down_proj" in name or "c_fc.weight" in name:
        g = np.outer(g[:, 0], g[0])  # of rank one
    if "v_proj" in name:
        g *= 1e-9  # a norm beneath what is divided by
    return g.astype(np.float32)


def optimizers(weights, split):
    """→ (parameters of PyTorch, the two optimizers, what copies gradients in and weights out)."""
    groups = matrices({name: w.shape for name, w in weights.items()}, split)
    of_muon = [torch.nn.Parameter(torch.cat([rows_of(weights[n], n, r, k) for n, r, k in group]).clone()) for group in groups]
    rest = {name: torch.nn.Parameter(w.clone()) for name, w in weights.items() if not is_of_a_block(name, w.shape)}
    decaying = [p for p in rest.values() if p.ndim == 2]
    muon = torch.optim.Muon(of_muon, lr=LR[0], weight_decay=DECAY, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([{"params": decaying, "weight_decay": DECAY},
                               {"params": [p for p in rest.values() if p.ndim < 2], "weight_decay": 0}], LR[0], BETAS, EPS)
    return groups, of_muon, rest, [muon, adamw]


def after(step, split, weights, gradients, made):
    groups, of_muon, rest, both = made
    norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
    gradients = {name: g * min(1, CLIP / norm) for name, g in gradients.items()}
    for group, p in zip(groups, of_muon):
        p.grad = torch.cat([rows_of(gradients[n], n, r, k) for n, r, k in group])
    for name, p in rest.items():
        p.grad = gradients[name]
    for optimizer in both:
        for group in optimizer.param_groups:
            group["lr"] = LR[step]
        optimizer.step()
    result = {name: p.detach().clone() for name, p in rest.items()}
    for group, p in zip(groups, of_muon):
        at = 0
        for n, r, k in group:
            whole = result.setdefault(n, torch.empty_like(weights[n]))
            rows_of(whole, n, r, k).copy_(p.detach()[at : at + k])
            at += k
    return {name: result[name] for name in weights}


def make(shapes, split, seed):
    rng = np.random.default_rng(seed)
    start = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    tensors = {f"w0.{name}": w for name, w in start.items()}
    weights = {name: torch.tensor(w, dtype=torch.float64) for name, w in start.items()}
    made = optimizers(weights, split)
    for step in range(STEPS):
        drawn = {name: gradient(rng, name, shape, step + 1) for name, shape in shapes.items()}
        tensors |= {f"g{step + 1}.{name}": g for name, g in drawn.items()}
        now = after(step, split, weights, {name: torch.tensor(g, dtype=torch.float64) for name, g in drawn.items()}, made)
        tensors |= {f"w{step + 1}.{name}": w.numpy() for name, w in now.items()}
    return tensors


FILES = {"gpt2-parts": (GPT2, "parts", 1), "gpt2-off": (GPT2, "off", 2), "llama-parts": (LLAMA, "parts", 3),
         "llama-heads": (LLAMA, "heads", 4), "llama-off": (LLAMA, "off", 5)}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files to 1e-12")
    check = parser.parse_args().check
    # PyTorch's Newton–Schulz is in bfloat16, whatever the parameter's type; here that word means another.
    torch.bfloat16, torch.Tensor.bfloat16 = torch.float64, torch.Tensor.clone
    for name, case in FILES.items():
        tensors, path = make(*case), HERE / "fixtures_muon" / f"{name}.safetensors"
        if not check:
            write_tensors(path, tensors)
            continue
        stored = read_tensors(path)
        assert stored.keys() == tensors.keys(), path
        worst = max(np.abs(stored[key] - value).max() for key, value in tensors.items())
        print(f"{name}: {worst:.1e}")
        assert worst <= 1e-12, path


if __name__ == "__main__":
    main()
