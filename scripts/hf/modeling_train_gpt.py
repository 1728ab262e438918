"""The models of train_gpt in PyTorch, for transformers: one file, to be read from top to bottom.

    model = AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=True)

Norms, GPAS, SDD, the two sublayers, the block with its placements, the model. Written from the papers' formulas, not from
the program's kernels; in fp64 both give the same logits and gradients. l counts layers from 1, L is their number; B, T,
H, D, C, F, V are batch, time, heads, head size, channels, width of the MLP, vocabulary. sg is stop-gradient: .detach().

Whatever the type of the weights, row statistics, norms and softmax are taken in fp32 (fp64 in fp64).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_train_gpt import TrainGptConfig

# The two families' names for the same parts: GPT-2's and LLaMA's, so that their tools find them.
NAMES = {
    "gpt2": {
        "model": "transformer", "tokens": "wte", "positions": "wpe", "layers": "h", "final_norm": "ln_f",
        "norm1": "ln_1", "attention": "attn", "norm2": "ln_2", "mlp": "mlp",
        "qkv": "c_attn", "o": "c_proj", "gate": "c_gate", "up": "c_fc", "down": "c_proj",
    },
    "llama": {
        "model": "model", "tokens": "embed_tokens", "positions": "embed_positions", "layers": "layers",
        "final_norm": "norm", "norm1": "input_layernorm", "attention": "self_attn",
        "norm2": "post_attention_layernorm", "mlp": "mlp",
        "after1": "post_attention_layernorm", "after2": "post_feedforward_layernorm",
        "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj",
        "gate": "gate_proj", "up": "up_proj", "down": "down_proj",
    },
}  # fmt: skip

CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"  # of transformers


def wide(x):
    return x if x.dtype == torch.float64 else x.float()


def mean_square(x):
    return x.pow(2).mean(-1, keepdim=True)


class Named(nn.Module):
    """A module whose parts have the family's names: self.part("norm1") is self.ln_1 or self.input_layernorm."""

    def __init__(self, config):
        super().__init__()
        self.names = NAMES[config.arch]

    def part(self, role):
        return getattr(self, self.names[role])

    def add(self, role, module):
        self.add_module(self.names[role], module)


# ------------------------------------------------------------------------------------------------ linear layers


def draw(weight, std, cut=0.0):
    """Normal numbers; those beyond `cut` standard deviations are drawn again."""
    if cut and std:
        nn.init.trunc_normal_(weight, 0.0, std, -cut * std, cut * std)
    else:
        nn.init.normal_(weight, 0.0, std)


def weight_std(config, role, n_in, n_out):
    """The standard deviation that a matrix begins with. role: "qk", "value" (V, the MLP's input), "out" (O, the MLP's
    output)."""
    if config.sdd != "off":
        return config.sdd_init_scale / math.sqrt(2.5 * config.n_embd)
    if config.placement == "deepnorm" and config.deepnorm_init == "on":
        gain = 1.0 if role == "qk" else (8 * config.n_layer) ** -0.25
        return gain * math.sqrt(2 / (n_in + n_out))
    if role == "out" and config.arch == "gpt2" and config.placement != "lns":
        return config.init_std / math.sqrt(2 * config.n_layer)
    return config.init_std


class Linear(nn.Linear):
    """y = Wx + b."""

    def __init__(self, n_in, n_out, bias, std, cut=0.0):
        super().__init__(n_in, n_out, bias=bias)
        self.pieces, self.cut = [(n_out, std)], cut

    def rows(self):
        """W as [out, in]."""
        return self.weight

    def initialize(self):
        for piece, (_, std) in zip(self.rows().split([rows for rows, _ in self.pieces]), self.pieces):
            draw(piece, std, self.cut)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Conv1D(nn.Module):
    """The same with W kept as [in, out], as GPT-2's files have it; maybe several matrices of one input in a row."""

    initialize = Linear.initialize

    def __init__(self, n_in, pieces, bias, cut=0.0):
        super().__init__()
        n_out = sum(rows for rows, _ in pieces)
        self.pieces, self.cut = pieces, cut
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        self.register_parameter("bias", nn.Parameter(torch.empty(n_out)) if bias else None)

    def rows(self):
        return self.weight.t()

    def forward(self, x):
        return F.linear(x, self.weight.t(), self.bias)


def linear(config, n_in, *pieces, qkv=False):
    """A linear layer of a block; pieces: (number of outputs, role). qkv: it makes q, k or v."""
    bias = config.sdd == "off" and (config.bias == "on" or (config.bias == "qkv" and qkv))
    cut = 3.0 if config.sdd == "released" else 0.0
    pieces = [(rows, weight_std(config, role, n_in, rows)) for rows, role in pieces]
    if config.arch == "gpt2":
        return Conv1D(n_in, pieces, bias, cut)
    rows, std = pieces[0]
    return Linear(n_in, rows, bias, std, cut)


class Embedding(nn.Embedding):
    def __init__(self, count, width, std, cut=0.0):
        super().__init__(count, width)
        self.std, self.cut = std, cut

    def initialize(self):
        draw(self.weight, self.std, self.cut)


# -------------------------------------------------------------------------------------------------------- norms


class Norm(nn.Module):
    """layernorm    γ ⊙ (x−μ)/√(var+ε) + β                     arXiv 1607.06450
    rmsnorm         γ ⊙ x/√(mean(x²)+ε)                        arXiv 1910.07467
    dyt             γ ⊙ tanh(α·x) + β (no β in llama)          arXiv 2503.10622
    bhyt-exact      γ ⊙ tanh(λ·x / (κ·√(mean(x²)+ε)))          arXiv 2601.09719
    bhyt            the same; a block's second norm is given an estimate of mean(x²)
    derf            γ ⊙ erf(α·x + s) + β (no β in llama)       arXiv 2512.10938

    times `scale`, which is LayerNorm scaling's 1/√l (arXiv 2502.05795) or 1."""

    def __init__(self, config, kind, scalar=0.0, layer=None, eps=None, width=None):
        super().__init__()
        self.kind, self.eps, self.scale, self.gamma = kind, config.norm_eps if eps is None else eps, 1.0, 1.0
        self.kappa = config.bhyt_kappa
        if layer is not None and config.placement == "lns":
            self.scale, self.gamma = (
                (1 / math.sqrt(layer), 1.0) if config.lns_init == "off" else (1.0, 1 / math.sqrt(layer))
            )
        self.scalar = scalar  # what α or λ begins with
        self.weight = nn.Parameter(torch.empty(width or config.n_embd))
        if kind == "layernorm" or (kind in ("dyt", "derf") and config.arch == "gpt2"):
            self.bias = nn.Parameter(torch.empty(config.n_embd))
        if kind in ("dyt", "derf"):
            self.alpha = nn.Parameter(torch.empty(1))
        if kind == "derf":
            self.shift = nn.Parameter(torch.empty(1))
        if kind in ("bhyt", "bhyt-exact"):
            self.register_parameter("lambda", nn.Parameter(torch.empty(1)))

    def initialize(self):
        values = {"weight": self.gamma, "bias": 0.0, "alpha": self.scalar, "lambda": self.scalar, "shift": 0.0}
        for name, parameter in self.named_parameters():
            nn.init.constant_(parameter, values[name])

    def forward(self, x, v=None):
        """v: takes the place of mean(x²)."""
        kind, z, p = self.kind, wide(x), {name: wide(parameter) for name, parameter in self.named_parameters()}
        if kind == "layernorm":
            z = z - z.mean(-1, keepdim=True)
            y = p["weight"] * z / torch.sqrt(mean_square(z) + self.eps) + p["bias"]
        elif kind == "rmsnorm":
            y = p["weight"] * z / torch.sqrt(mean_square(z) + self.eps)
        elif kind == "dyt":
            y = p["weight"] * torch.tanh(p["alpha"] * z) + p.get("bias", 0.0)
        elif kind == "derf":
            y = p["weight"] * torch.erf(p["alpha"] * z + p["shift"]) + p.get("bias", 0.0)
        else:
            v = mean_square(z) if v is None else v
            y = p["weight"] * torch.tanh(p["lambda"] * z / (self.kappa * torch.sqrt(v + self.eps)))
        return (self.scale * y).to(x.dtype)


# --------------------------------------------------------------------------------------------------------- GPAS

GPAS_ACTS = {
    "silu": F.silu,
    "identity": lambda g: g,
    "relu": F.relu,
    "tanh": torch.tanh,
    "leaky-relu": lambda g: F.leaky_relu(g, 0.01),
}


class Gpas(nn.Module):
    """x − act(g)·sg(x) (arXiv 2506.22049): the stream shrinks by 1 − act(g), its gradient does not. `site` 0 is after
    attention, 1 after the MLP; with gpas layer both have the same gate."""

    def __init__(self, config):
        super().__init__()
        self.act, self.value = GPAS_ACTS[config.gpas_act], config.gpas_init
        self.gate = nn.Parameter(torch.empty(2 if config.gpas == "sublayer" else 1))

    def initialize(self):
        nn.init.constant_(self.gate, self.value)

    def activation(self, site):
        return self.act(wide(self.gate[site % self.gate.numel()]))

    def forward(self, x, site):
        return x - self.activation(site) * x.detach()


# ---------------------------------------------------------------------------------------------------------- SDD


class Sdd(nn.Module):
    """α ⊙ rms(z) in the place of z = Wx (arXiv 2502.15499), at those sites that have an α."""

    def __init__(self, config, widths):
        super().__init__()
        self.eps, self.out = config.sdd_eps, 1 / math.sqrt(config.n_layer * (2 if config.sdd == "released" else 1))
        for site, width in widths.items():
            self.register_parameter("alpha_" + site, nn.Parameter(torch.empty(width)))

    def initialize(self):
        for name, alpha in self.named_parameters():
            nn.init.constant_(alpha, self.out if name in ("alpha_o", "alpha_down") else 1.0)

    def forward(self, site, z):
        alpha = getattr(self, "alpha_" + site, None)
        if alpha is None:
            return z
        x = wide(z)
        return (wide(alpha) * x / torch.sqrt(mean_square(x) + self.eps)).to(z.dtype)


# ---------------------------------------------------------------------------------------------------- attention


def scaled(config, frequency):
    """linear: all turn more slowly, by rope_factor (arXiv 2306.15595); llama3: those that turn less than low_freq_factor
    times within the original length do, those that turn more than high_freq_factor times do not, and between them a
    mixture, as LLaMA 3.1's released code has it."""
    slow = frequency / config.rope_factor
    if config.rope_type != "llama3":
        return slow if config.rope_type == "linear" else frequency
    turns = config.rope_original_seq_len * frequency / (2 * math.pi)
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - share) * slow + share * frequency


def rope_table(config, positions, x):
    """cos and sin of t·base^(−2j/D) for positions t [B or 1, T], as [B or 1, 1, T, D/2]. Angles in fp64 where there is:
    in fp32 they are wrong by 0.01 at t = 100,000."""
    real = torch.float32 if x.device.type == "mps" else torch.float64
    D = config.head_dim
    frequency = scaled(config, config.rope_base ** (-2.0 * torch.arange(D // 2, device=x.device, dtype=real) / D))
    angle = positions[:, None, :, None].to(real) * frequency
    return angle.cos().to(wide(x).dtype), angle.sin().to(wide(x).dtype)


def rotate(x, table):
    """RoPE, half-split: channel j turns with j + D/2. x: [B, heads, T, D]."""
    cos, sin = table
    low, high = wide(x).chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1).to(x.dtype)


def visible(slots, padding, keys):
    """Which of `keys` keys each query sees, [B or 1, 1, T, keys]: those up to its own, without padding; itself always.
    slots [T]: where the queries stand among the keys; padding [B, ≤ keys]: 0 where a key is none."""
    at = torch.arange(keys, device=slots.device)
    seen = (at <= slots[:, None])[None, None]
    if padding is not None:
        there = F.pad(padding.bool(), (0, keys - padding.shape[-1]))[:, None, None, :]
        seen = seen & (there | (at == slots[:, None]))
    return seen


class Attention(Named):
    def __init__(self, config, index):
        super().__init__(config)
        self.config, self.index = config, index
        C, self.heads, self.kv_heads = config.n_embd, config.n_head, config.n_kv_head
        D = self.head_size = config.head_dim
        self.widths = [self.heads * D, self.kv_heads * D, self.kv_heads * D]
        if config.arch == "gpt2":
            self.add("qkv", linear(config, C, *zip(self.widths, ("qk", "qk", "value")), qkv=True))
        else:
            for role, width, kind in zip("qkv", self.widths, ("qk", "qk", "value")):
                self.add(role, linear(config, C, (width, kind), qkv=True))
        self.add("o", linear(config, self.heads * D, (C, "out")))
        sites = {
            "off": {},
            "paper": {"q": self.widths[0], "k": self.widths[1], "v": self.widths[2], "o": C},
            "released": {"q": D, "k": D, "context": self.heads * D, "o": C},  # q and k: each head by itself
        }
        self.sdd = Sdd(config, sites[config.sdd])
        hybrid = config.placement.startswith("hybrid")  # arXiv 2503.04598
        self.by_head = hybrid or config.sdd == "released" or config.qk_norm == "head"
        if hybrid or config.qk_norm != "off":  # the latter: arXiv 2302.05442
            q, k = (D, D) if self.by_head else self.widths[:2]
            self.q_norm, self.k_norm = Norm(config, "rmsnorm", width=q), Norm(config, "rmsnorm", width=k)
        if hybrid:
            self.v_norm = Norm(config, "rmsnorm", width=D)
        self.output_norm = output_norm(config, 0, index)

    def project(self, x):
        if "qkv" in self.names:
            return self.part("qkv")(x).split(self.widths, -1)
        return [self.part(role)(x) for role in "qkv"]

    def value_rows(self):
        """W_V for each query head, [H·D, C]."""
        rows = self.part("qkv").rows().split(self.widths)[2] if "qkv" in self.names else self.part("v").rows()
        rows = rows.view(self.kv_heads, self.head_size, -1)
        return rows.repeat_interleave(self.heads // self.kv_heads, 0).flatten(0, 1)

    def forward(self, x, table, slots, padding, alone, cache):
        q, k, v = self.project(x)
        heads = lambda z: z.unflatten(-1, (-1, self.head_size))  # [B, T, heads, D]
        q, k = (heads(q), heads(k)) if self.by_head else (q, k)
        q, k, v = self.sdd("q", q), self.sdd("k", k), self.sdd("v", v)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (q, k, heads(v)) if self.by_head else (heads(q), heads(k), heads(v))
        if hasattr(self, "v_norm"):
            v = self.v_norm(v)
        q, k, v = (z.transpose(1, 2) for z in (q, k, v))
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        if cache is not None:
            k, v = cache.update(k, v, self.index, {"cache_position": slots})
        k, v = (z.repeat_interleave(self.heads // self.kv_heads, 1) for z in (k, v))
        context = self.attend(q, k, v, slots, padding, alone).transpose(1, 2).flatten(2)
        return self.output_norm(self.sdd("o", self.part("o")(self.sdd("context", context))))

    def attend(self, q, k, v, slots, padding, alone):
        """softmax(q·kᵀ/√D)·v over what each query sees; alone: all keys are its own sequence's, from the first on."""
        if padding is not None and padding.dim() == 4:
            mask = padding[..., : k.shape[2]]  # transformers' own, for caches of a fixed size
        else:
            mask = None if alone else visible(slots, padding, k.shape[2])
        if self.config._attn_implementation != "eager":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)
        mask = visible(slots, None, k.shape[2]) if mask is None else mask
        scores = wide(q @ k.transpose(2, 3)) / math.sqrt(self.head_size)
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1).to(v.dtype) @ v


# ---------------------------------------------------------------------------------------------------------- MLP


class Mlp(Named):
    """W₂·gelu(W₁x), with GPT-2's tanh form of GELU or GELU itself; or SwiGLU, W₂(silu(W_g·x) ⊙ W_u·x)."""

    def __init__(self, config, index):
        super().__init__(config)
        self.config = config
        C, width = config.n_embd, config.n_ffn
        self.swiglu = config.activation == "swiglu"
        for role in ("gate", "up") if self.swiglu else ("up",):
            self.add(role, linear(config, C, (width, "value")))
        self.add("down", linear(config, width, (C, "out")))
        sites = {
            "off": {},
            "paper": {"gate": width, "up": width, "down": C},
            "released": {"gate_up": 2 * width, "down": C},
        }
        if not self.swiglu and config.sdd != "off":
            sites[config.sdd] = {"up": width, "down": C}
        self.sdd = Sdd(config, sites[config.sdd])
        self.output_norm = output_norm(config, 1, index)

    def forward(self, x):
        if not self.swiglu:
            form = "tanh" if self.config.activation == "gelu" else "none"
            hidden = F.gelu(self.sdd("up", self.part("up")(x)), approximate=form)
        else:
            gate, up = self.part("gate")(x), self.part("up")(x)
            if self.config.sdd == "released":  # one row of both
                gate, up = self.sdd("gate_up", torch.cat((gate, up), -1)).chunk(2, -1)
            hidden = F.silu(self.sdd("gate", gate)) * self.sdd("up", up)
        return self.output_norm(self.sdd("down", self.part("down")(hidden)))


# ---------------------------------------------------------------------------------------------------- the block


def block_norm(config, site, index):
    """A norm of a block; site 0: attention's, 1: the MLP's."""
    scalar = {
        "dyt": (config.dyt_alpha_attn, config.dyt_alpha_other),
        "derf": (config.derf_alpha_attn, config.derf_alpha_other),
        "bhyt": (config.bhyt_lambda_attn, config.bhyt_lambda_mlp),
    }.get(config.norm.split("-")[0], (0.0, 0.0))[site]
    return Norm(config, config.norm, scalar, layer=index + 1)


def output_norm(config, site, index):
    """What norms a sublayer's output before the stream takes it up. LLaMA's names have res-post's beside the sublayer."""
    inside = config.placement == "sandwich" or (config.placement == "res-post" and config.arch == "gpt2")
    return block_norm(config, site, index) if inside else nn.Identity()


class Block(Named):
    """Two sublayers F, each met by the residual stream as the placement says; G is GPAS, or nothing:

    pre, lns     x ← G(x + F(N(x)))
    sandwich     x ← G(x + N₂(F(N₁(x))))            N₂ is the sublayer's output_norm; arXiv 2502.02732
    post         x ← N(G(x) + F(x))
    deepnorm     x ← N(α·G(x) + F(x)), α = (2L)^¼   arXiv 2203.00555
    mix          post in the first mix_post_layers layers, pre above: arXiv 2412.13795
    res-post     x ← G(x + N(F(x)))                 arXiv 2111.09883
    keel         x ← N₂(2L·G(x) + F(N₁(x)))         N₂ is attn_residual_norm, mlp_residual_norm; arXiv 2601.19895
    hybrid       z ← N(G(x) + A(x)), x ← G(z + M(z))   A norms its q, k and v by head; N is norm2; arXiv 2503.04598
    hybrid-first the same, and the first layer is pre"""

    def __init__(self, config, index):
        super().__init__(config)
        self.config, self.index = config, index
        self.post = config.placement in ("post", "deepnorm", "keel") or (
            config.placement == "mix" and index < config.mix_post_layers
        )
        self.alpha = (2 * config.n_layer) ** {"deepnorm": 0.25, "keel": 1}.get(config.placement, 0)
        self.add("attention", Attention(config, index))
        self.add("mlp", Mlp(config, index))
        self.hybrid = config.placement == "hybrid" or (config.placement == "hybrid-first" and index > 0)
        self.before = ("norm1", "norm2") if config.placement != "res-post" else None
        self.after = ("after1", "after2") if not self.before and config.arch == "llama" else None  # OLMo 2's names
        for site, role in enumerate(self.before or self.after or ()):
            if not (self.hybrid and role == "norm1"):
                self.add(role, block_norm(config, site, index))
        if config.placement == "keel":
            self.attn_residual_norm, self.mlp_residual_norm = (block_norm(config, site, index) for site in (0, 1))
        if config.gpas != "off":
            self.gpas = Gpas(config)

    def forward(self, x, table, slots, padding, alone, cache):
        v = self.estimate(x) if self.config.norm == "bhyt" else None
        attention = self.part("attention")
        x = self.meet(x, 0, lambda y: attention(y, table, slots, padding, alone, cache))
        return self.meet(x, 1, self.part("mlp"), v)

    def meet(self, x, site, sublayer, v=None):
        gpas = (lambda y: self.gpas(y, site)) if self.config.gpas != "off" else lambda y: y
        if self.config.placement == "keel":
            after = (self.attn_residual_norm, self.mlp_residual_norm)[site]
            return after(self.alpha * gpas(x) + sublayer(self.part(self.before[site])(x)))
        if self.hybrid:
            return self.part("norm2")(gpas(x) + sublayer(x)) if site == 0 else gpas(x + sublayer(x))
        if self.post:
            return self.part(self.before[site])(self.alpha * gpas(x) + sublayer(x))
        y = sublayer(self.part(self.before[site])(x, v) if self.before else x)
        return gpas(x + (self.part(self.after[site])(y) if self.after else y))

    def estimate(self, x):
        """bhyt: v̂ = s²·(mean(x²) + what attention adds), in the place of the second norm's mean square; gradient flows
        through mean(x²) alone. s is GPAS's scale after attention."""
        with torch.no_grad():
            added, s = self.added(), 1.0
            if self.config.gpas != "off":
                s = 1 - self.gpas.activation(0)
        return s * s * (mean_square(wide(x)) + added)

    def added(self):
        """c·λ₁²/κ², c = ‖W_O·W_V‖² / (T·C) with T the length that it was trained on; with SDD, mean α_O²."""
        config, norm1, attention = self.config, self.part("norm1"), self.part("attention")
        if config.sdd != "off":
            return mean_square(wide(attention.sdd.alpha_o))
        if config.bhyt_c is not None:
            c = config.bhyt_c[self.index]
        else:
            product = wide(attention.part("o").rows()) @ wide(attention.value_rows())
            c = product.pow(2).sum() / (config.seq_len * config.n_embd)
        added = c * wide(getattr(norm1, "lambda")).pow(2) / config.bhyt_kappa**2
        if config.placement == "lns" or config.bhyt_gamma_var == "on":
            added = added * mean_square(wide(norm1.weight))
        return added * norm1.scale**2


# ---------------------------------------------------------------------------------------------------- the model


class TrainGptPreTrainedModel(PreTrainedModel):
    config_class = TrainGptConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_sdpa = True
    _supports_cache_class = True
    _supports_static_cache = True
    _can_compile_fullgraph = True

    def __init__(self, config, *arguments, **more):
        super().__init__(config, *arguments, **more)
        self.names = NAMES[config.arch]
        self.base_model_prefix = self.names["model"]

    part, add = Named.part, Named.add

    def _init_weights(self, module):
        """As the program's own: the flags' standard deviations, and what a variant says of its own."""
        if hasattr(module, "initialize"):
            module.initialize()

    def train(self, mode=True):
        """Training changes the weights: from now on BHyT's c is of the weights as they are, in every forward, as with
        --bhyt-refresh 1."""
        if mode and self.config.bhyt_c is not None:
            self.config.bhyt_c = None
        return super().train(mode)


class TrainGptModel(TrainGptPreTrainedModel):
    """Embedding, blocks, final norm."""

    def __init__(self, config):
        super().__init__(config)
        self.gradient_checkpointing = False
        cut = 3.0 if config.sdd == "released" else 0.0
        self.add("tokens", Embedding(config.vocab_size, config.n_embd, config.init_std_embed, cut))
        if config.positions == "learned":
            self.add("positions", Embedding(config.seq_len, config.n_embd, config.init_std))
        if config.embed_scale == "on":  # DyT's; at first √C
            self.embed_scale = nn.Parameter(torch.empty(1))
        alphas = {"dyt": config.dyt_alpha_other, "derf": config.derf_alpha_other}
        scalar = alphas.get(config.norm, config.bhyt_lambda_attn)
        if config.embed_norm == "on":
            self.embed_norm = Norm(config, config.norm, scalar)
        self.add("layers", nn.ModuleList(Block(config, index) for index in range(config.n_layer)))
        if config.final_norm == "on":
            kind, scalar = config.norm, scalar
            if kind.startswith("bhyt"):
                kind, scalar = ("bhyt-exact" if config.bhyt_lambda_final > 0 else "rmsnorm"), config.bhyt_lambda_final
            self.add("final_norm", Norm(config, kind, scalar, eps=config.final_norm_eps))
        self.post_init()

    def initialize(self):
        if self.config.embed_scale == "on":
            nn.init.constant_(self.embed_scale, math.sqrt(self.config.n_embd))

    def get_input_embeddings(self):
        return self.part("tokens")

    def set_input_embeddings(self, value):
        self.add("tokens", value)

    def embed(self, input_ids, inputs_embeds, positions):
        x = self.part("tokens")(input_ids) if inputs_embeds is None else inputs_embeds
        if self.config.embed_scale == "on":
            x = self.embed_scale * x
        if self.config.positions == "learned":
            x = x + self.part("positions")(positions)
        return self.embed_norm(x) if self.config.embed_norm == "on" else x

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        cache=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_hidden_states=None,
        return_dict=None,
        **kwargs,
    ):
        """attention_mask [B, keys]: 0 where a token is padding, on either side; positions count what is none, unless
        position_ids says otherwise. hidden_states: into the first block, after each, the last one normed."""
        config = self.config
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("one of input_ids and inputs_embeds is needed, and one only")
        T, device = (input_ids if inputs_embeds is None else inputs_embeds).shape[1], self.part("tokens").weight.device
        cache = past_key_values if cache is None else cache
        checkpointing = self.gradient_checkpointing and self.training
        if use_cache is None:
            use_cache = config.use_cache and not self.training
        if cache is None and use_cache and not checkpointing:
            cache = DynamicCache()
        past = 0 if cache is None else cache.get_seq_length()
        if isinstance(past, int) and config.positions == "learned" and past + T > config.seq_len:
            raise ValueError(f"{past + T} tokens, and learned positions for seq_len {config.seq_len}")
        slots = past + torch.arange(T, device=device)
        if position_ids is None:
            position_ids = slots[None]
            if attention_mask is not None and attention_mask.dim() == 2:
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -T:]
        # Sequences from their start, and nothing else in the cache: attention needs no mask.
        fixed = getattr(cache, "is_compileable", False) or not isinstance(past, int)
        alone = attention_mask is None and not fixed and past == 0

        x = self.embed(input_ids, inputs_embeds, position_ids)
        table = rope_table(config, position_ids, x) if config.positions == "rope" else None
        wanted = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        streams = [x] if wanted else []
        for block in self.part("layers"):
            call = block.__call__
            if checkpointing:
                x = self._gradient_checkpointing_func(call, x, table, slots, attention_mask, alone, None)
            else:
                x = call(x, table, slots, attention_mask, alone, cache)
            streams += [x] if wanted else []
        if config.final_norm == "on":
            x = self.part("final_norm")(x)
        streams[-1:] = [x] if wanted else []
        output = BaseModelOutputWithPast(
            last_hidden_state=x, hidden_states=tuple(streams) if wanted else None, **{CACHE: cache}
        )
        return output.to_tuple() if return_dict is False else output


class TrainGptForCausalLM(TrainGptPreTrainedModel, GenerationMixin):
    """The same with the head, tied to the embedding or not."""

    def __init__(self, config):
        super().__init__(config)
        self._tied_weights_keys = {"lm_head.weight": f"{self.names['model']}.{self.names['tokens']}.weight"}
        self.add("model", TrainGptModel(config))
        self.lm_head = Linear(config.n_embd, config.vocab_size, False, config.init_std)
        self.post_init()

    def get_input_embeddings(self):
        return self.part("model").get_input_embeddings()

    def set_input_embeddings(self, value):
        self.part("model").set_input_embeddings(value)

    def get_output_embeddings(self):
        return self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        cache=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_hidden_states=None,
        return_dict=None,
        logits_to_keep=0,
        num_items_in_batch=None,
        **kwargs,
    ):
        """labels [B, T]: each position's own token, as in all of transformers; −100 where none is to be predicted. The
        loss is their mean in nats, or their sum over num_items_in_batch."""
        outputs = self.part("model")(
            input_ids,
            attention_mask,
            position_ids,
            cache,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_hidden_states,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep  # 0: all
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            scores, targets = wide(logits[:, :-1]).flatten(0, 1), labels[:, 1:].flatten().to(logits.device)
            how = "mean" if num_items_in_batch is None else "sum"
            loss = F.cross_entropy(scores, targets, ignore_index=-100, reduction=how) / (num_items_in_batch or 1)
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, **{CACHE: outputs.get(CACHE)}
        )
        return output.to_tuple() if return_dict is False else output
