"""train_gpt's gpt2 and llama (its defaults: pre-norm) in PyTorch, as one would write them there to be fast.

Query, key and value are one product, and gate and up are one. Files have Hugging Face's names
(`file_tensors`).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Shape:
    """A model's sizes, from a preset's settings as `train_gpt --help` prints them."""

    def __init__(self, settings):
        value = lambda name, other: int(settings.get(name, other))
        self.llama = settings.get("arch", "gpt2") == "llama"
        self.L, self.H, self.C = value("n-layer", 12), value("n-head", 12), value("n-embd", 768)
        self.Hkv = value("n-kv-head", self.H)
        swiglu = math.ceil(8 * self.C / 3 / 64) * 64
        self.F = value("n-ffn", swiglu if self.llama else 4 * self.C)
        self.T, self.V = value("seq-len", 1024), value("vocab-size", 32000 if self.llama else 50257)
        self.tied = settings.get("tie-embeddings", "off" if self.llama else "on") == "on"
        self.rope_base = float(settings.get("rope-base", 10000))
        self.D = self.C // self.H


def up_to_64s(n):
    return (n + 63) // 64 * 64


class Norm(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.C))
        self.bias = None if shape.llama else nn.Parameter(torch.zeros(shape.C))

    def forward(self, x):
        if self.bias is not None:
            return F.layer_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.bias.to(x.dtype), 1e-5)
        wide = x.float() if x.dtype == torch.bfloat16 else x
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * self.weight).to(x.dtype)


class Block(nn.Module):
    def __init__(self, shape, width):
        super().__init__()
        bias = not shape.llama
        self.shape = shape
        self.norm_1, self.norm_2 = Norm(shape), Norm(shape)
        self.qkv = nn.Linear(shape.C, (shape.H + 2 * shape.Hkv) * shape.D, bias=bias)
        self.attention_out = nn.Linear(shape.C, shape.C, bias=bias)
        self.mlp_in = nn.Linear(shape.C, 2 * width if shape.llama else width, bias=bias)
        self.mlp_out = nn.Linear(width, shape.C, bias=bias)

    def attention(self, x, cos, sin):
        s = self.shape
        B, T, _ = x.shape
        q, k, v = self.qkv(x).split([s.H * s.D, s.Hkv * s.D, s.Hkv * s.D], dim=-1)
        q, k, v = (t.view(B, T, -1, s.D).transpose(1, 2) for t in (q, k, v))
        if s.llama:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if s.Hkv != s.H:
            k, v = (t.repeat_interleave(s.H // s.Hkv, dim=1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attention_out(out.transpose(1, 2).reshape(B, T, s.H * s.D))

    def mlp(self, x):
        h = self.mlp_in(x)
        if not self.shape.llama:
            return self.mlp_out(F.gelu(h, approximate="tanh"))
        gate, up = h.chunk(2, dim=-1)
        return self.mlp_out(F.silu(gate) * up)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.norm_1(x), cos, sin)
        return x + self.mlp(self.norm_2(x))


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Model(nn.Module):
    """padded: the vocabulary and the MLP's width are rounded up to 64s, with numbers that no token and no
    loss sees."""

    def __init__(self, shape, padded=False):
        super().__init__()
        self.shape = shape
        self.width = up_to_64s(shape.F) if padded else shape.F
        self.vocabulary = up_to_64s(shape.V) if padded else shape.V
        self.tokens = nn.Embedding(self.vocabulary, shape.C)
        self.positions = None if shape.llama else nn.Embedding(shape.T, shape.C)
        self.blocks = nn.ModuleList(Block(shape, self.width) for _ in range(shape.L))
        self.norm = Norm(shape)
        self.head = nn.Linear(shape.C, self.vocabulary, bias=False)
        if shape.tied:
            self.head.weight = self.tokens.weight
        angles = torch.arange(shape.T, dtype=torch.float64)[:, None] * shape.rope_base ** (
            -torch.arange(0, shape.D, 2, dtype=torch.float64) / shape.D
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens, targets, stream=None):
        """The mean loss; the residual stream in the type `stream` (that of the embeddings)."""
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        x = x.to(stream) if stream else x
        T = tokens.shape[1]
        for block in self.blocks:
            x = block(x, self.cos[:T], self.sin[:T])
        return self.loss(self.norm(x), targets)

    def loss(self, x, targets):
        logits = self.head(x)[..., : self.shape.V].flatten(0, 1)
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        return F.cross_entropy(logits, targets.flatten())

    @torch.no_grad()
    def randomize(self, seed, std=0.02):
        """Every parameter, norms and biases too: what is zero or one hides mistakes. Padding is zero."""
        generator = torch.Generator(self.tokens.weight.device).manual_seed(seed)
        for name, p in self.named_parameters():
            p.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, std, generator=generator)
        self.tokens.weight[self.shape.V :] = 0
        self.head.weight[self.shape.V :] = 0
        real, width = self.shape.F, self.width
        for block in self.blocks:
            block.mlp_out.weight[:, real:] = 0
            for first in range(0, block.mlp_in.weight.shape[0], width):
                block.mlp_in.weight[first + real : first + width] = 0
                if block.mlp_in.bias is not None:
                    block.mlp_in.bias[first + real : first + width] = 0

    def file_tensors(self, of=lambda parameter: parameter.detach()):
        """Hugging Face's name → of(parameter) in the file's shape."""
        s = self.shape
        found = {}
        if not s.llama:
            found["transformer.wte.weight"], found["transformer.wpe.weight"] = of(self.tokens.weight)[
                : s.V
            ], of(self.positions.weight)
            for i, block in enumerate(self.blocks):
                h = f"transformer.h.{i}."
                for name, norm in (("ln_1", block.norm_1), ("ln_2", block.norm_2)):
                    found[h + name + ".weight"], found[h + name + ".bias"] = of(norm.weight), of(norm.bias)
                for name, linear in (
                    ("attn.c_attn", block.qkv),
                    ("attn.c_proj", block.attention_out),
                    ("mlp.c_fc", block.mlp_in),
                    ("mlp.c_proj", block.mlp_out),
                ):
                    found[h + name + ".weight"], found[h + name + ".bias"] = of(linear.weight).t(), of(
                        linear.bias
                    )
            found["transformer.ln_f.weight"], found["transformer.ln_f.bias"] = of(self.norm.weight), of(
                self.norm.bias
            )
        else:
            found["model.embed_tokens.weight"] = of(self.tokens.weight)[: s.V]
            for i, block in enumerate(self.blocks):
                h = f"model.layers.{i}."
                q, k, v = of(block.qkv.weight).split([s.H * s.D, s.Hkv * s.D, s.Hkv * s.D])
                gate, up = of(block.mlp_in.weight).chunk(2)
                found.update(
                    {
                        h + "input_layernorm.weight": of(block.norm_1.weight),
                        h + "post_attention_layernorm.weight": of(block.norm_2.weight),
                        h + "self_attn.q_proj.weight": q,
                        h + "self_attn.k_proj.weight": k,
                        h + "self_attn.v_proj.weight": v,
                        h + "self_attn.o_proj.weight": of(block.attention_out.weight),
                        h + "mlp.gate_proj.weight": gate[: s.F],
                        h + "mlp.up_proj.weight": up[: s.F],
                        h + "mlp.down_proj.weight": of(block.mlp_out.weight)[:, : s.F],
                    }
                )
            found["model.norm.weight"] = of(self.norm.weight)
        if not s.tied:
            found["lm_head.weight"] = of(self.head.weight)[: s.V]
        return found
