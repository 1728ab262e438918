"""What does train_gpt compute?  The whole model in JAX and fp64, to be read beside MATH.md.

Nothing here is tuned, fused or hand-differentiated: the forward is written from MATH.md (its section
is named at each part), GPT-2 and LLaMA as published; the backward is jax.grad through it, and every
`sg` of MATH.md is a stop_gradient.  Matrices are [out, in] and y = x·Wᵀ + b, whatever a file's layout;
B, T, C, H, D, V, F, L are batch, time, channels, heads, head size, vocabulary, MLP width, layers.

    settings = Settings.from_flags({"arch": "gpt2", "n-layer": "2", …})
    shapes(settings)                            name in the file → (shape, kind)
    forward(settings, weights, tokens)          → Outputs(logits, residual streams)
    loss_and_gradients(settings, weights, tokens, targets)
"""
import dataclasses
import functools
import math
from typing import NamedTuple, Optional

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)


# ---------------------------------------------------------------------------------------------------
# Settings: the flags of the command line that change the mathematics.

ARCHITECTURES = {
    "gpt2": dict(norm="layernorm", positions="learned", activation="gelu", bias="on", tie_embeddings="on"),
    "llama": dict(norm="rmsnorm", positions="rope", activation="swiglu", bias="off", tie_embeddings="off"),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    arch: str
    n_layer: int
    n_head: int
    n_embd: int
    seq_len: int
    vocab_size: int
    n_ffn: int
    batch_size: int
    norm: str
    positions: str
    activation: str
    bias: str
    tie_embeddings: str
    n_kv_head: int = 0  # 0: as many as n_head
    head_dim: int = 0  # 0: n_embd / n_head
    rope_base: float = 10000.0
    rope_scaling: str = "none"
    rope_factor: float = 8.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_seq_len: int = 8192
    final_norm_eps: float = 0.0  # 0: norm_eps
    norm_eps: float = 0.0  # 0: 1e-5 for layernorm and with released SDD, 1e-6 for the others
    placement: str = "pre"
    mix_post_layers: int = -1  # -1: a quarter of the layers, rounded down
    lns_init: str = "off"
    final_norm: str = "auto"
    embed_norm: str = "off"
    embed_scale: str = "off"
    qk_norm: str = "off"
    bhyt_lambda_final: float = 0.0
    bhyt_gamma_var: str = "off"
    bhyt_kappa: float = 10.0
    gpas: str = "off"
    gpas_act: str = "silu"
    sdd: str = "off"
    sdd_eps: float = 0.0  # 0: 1e-6 for paper, 1e-5 for released

    @classmethod
    def from_flags(cls, flags):
        """flags: {"n-layer": "2", …}, as in flags.txt; what is absent takes the architecture's default."""
        values = dict(ARCHITECTURES[flags["arch"]])
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        for name, text in flags.items():
            key = name.replace("-", "_")
            values[key] = types[key](text)
        settings = cls(**values)
        derived = {}
        if not settings.n_kv_head:
            derived["n_kv_head"] = settings.n_head
        if not settings.norm_eps:
            derived["norm_eps"] = 1e-5 if settings.norm == "layernorm" or settings.sdd == "released" else 1e-6
        if not settings.final_norm_eps:
            derived["final_norm_eps"] = settings.norm_eps or derived["norm_eps"]
        if settings.mix_post_layers < 0:
            derived["mix_post_layers"] = settings.n_layer // 4
        if settings.final_norm == "auto":
            derived["final_norm"] = "off" if settings.placement in ("post", "deepnorm", "keel") else "on"
        if not settings.sdd_eps:
            derived["sdd_eps"] = 1e-5 if settings.sdd == "released" else 1e-6
        if settings.sdd == "released" and settings.placement == "post":
            derived["embed_norm"] = "on"
        return dataclasses.replace(settings, **derived)

    @property
    def head_size(self):
        return self.head_dim or self.n_embd // self.n_head

    @property
    def q_width(self):
        return self.n_head * self.head_size

    @property
    def kv_width(self):
        return self.n_kv_head * self.head_size

    @property
    def final_norm_kind(self):
        """MATH.md 1.2: with bhyt the final norm is an rmsnorm, unless it is given a λ."""
        if self.norm.startswith("bhyt"):
            return "bhyt-exact" if self.bhyt_lambda_final > 0 else "rmsnorm"
        return self.norm


# ---------------------------------------------------------------------------------------------------
# MATH.md 1: norms.  norm(x, p, eps, v): p holds the norm's own parameters; v, where given, takes the
# place of mean(x²), which only bhyt allows.



def mean_square(x):
    return jnp.mean(x * x, axis=-1, keepdims=True)


def layernorm(x, p, eps, v=None, kappa=None):
    mu = jnp.mean(x, axis=-1, keepdims=True)
    var = jnp.mean((x - mu) ** 2, axis=-1, keepdims=True)
    return p["gamma"] * (x - mu) / jnp.sqrt(var + eps) + p["beta"]


def rmsnorm(x, p, eps, v=None, kappa=None):
    return p["gamma"] * x / jnp.sqrt(mean_square(x) + eps)


def dyt(x, p, eps, v=None, kappa=None):
    return p["gamma"] * jnp.tanh(p["alpha"] * x) + p.get("beta", 0.0)


def bhyt(x, p, eps, v=None, kappa=None):
    v = mean_square(x) if v is None else v
    return p["gamma"] * jnp.tanh(p["lambda"] * x / (kappa * jnp.sqrt(v + eps)))


def derf(x, p, eps, v=None, kappa=None):
    return p["gamma"] * jax.scipy.special.erf(p["alpha"] * x + p["shift"]) + p.get("beta", 0.0)


NORMS = {"layernorm": layernorm, "rmsnorm": rmsnorm, "dyt": dyt, "bhyt-exact": bhyt, "bhyt": bhyt, "derf": derf}


def norm_parameters(kind, arch):
    """The parameters of a norm: vectors of C, except dyt's and derf's α, derf's shift and bhyt's λ."""
    return {
        "layernorm": ["gamma", "beta"],
        "rmsnorm": ["gamma"],
        "dyt": ["alpha", "gamma"] + (["beta"] if arch == "gpt2" else []),
        "bhyt-exact": ["lambda", "gamma"],
        "bhyt": ["lambda", "gamma"],
        "derf": ["alpha", "shift", "gamma"] + (["beta"] if arch == "gpt2" else []),
    }[kind]


def bhyt_second_mean_square(s, layer_index, w, v, gate, sg):
    """MATH.md 1.2: v̂ for the second norm of a block, from v, the exact mean(x²) of the block's input."""
    if s.sdd != "off":
        added = sg(jnp.mean(w.alpha["o"] ** 2))
    else:
        n_rep = s.n_head // s.n_kv_head
        w_v = jnp.repeat(w.v.weight.reshape(s.n_kv_head, s.head_size, s.n_embd), n_rep, axis=0)
        product = w.o.weight @ w_v.reshape(s.n_head * s.head_size, s.n_embd)
        c = sg(jnp.sum(product**2) / (s.seq_len * s.n_embd))
        added = c * sg(w.norm_attn["lambda"]) ** 2 / s.bhyt_kappa**2
        if s.placement == "lns" or s.bhyt_gamma_var == "on":
            added = added * sg(jnp.mean(w.norm_attn["gamma"] ** 2))
        if s.placement == "lns" and s.lns_init == "off":
            added = added / layer_index
    scale = 1.0 if gate is None else sg(1.0 - GPAS_ACTS[s.gpas_act](gate))
    return scale**2 * (v + added)


# ---------------------------------------------------------------------------------------------------
# MATH.md 2, 9: placements.  One sublayer: F the sublayer, N its norm, N2 its second norm, G the GPAS
# function (identity when off), alpha deepnorm's or keel's constant.

PLACEMENTS = {
    "pre": lambda x, F, N, N2, G, alpha: G(x + F(N(x))),
    "post": lambda x, F, N, N2, G, alpha: N(G(x) + F(x)),
    "sandwich": lambda x, F, N, N2, G, alpha: G(x + N2(F(N(x)))),
    "deepnorm": lambda x, F, N, N2, G, alpha: N(alpha * G(x) + F(x)),
    "res-post": lambda x, F, N, N2, G, alpha: G(x + N2(F(x))),
    "keel": lambda x, F, N, N2, G, alpha: N2(alpha * G(x) + F(N(x))),
    "bare": lambda x, F, N, N2, G, alpha: G(x + F(x)),  # hybrid's MLP, on what attention's norm gave
}


def placement_of(s, layer_index):
    """mix is post below and pre above; lns is pre, its 1/√l is in norm_of."""
    if s.placement == "mix":
        return "post" if layer_index <= s.mix_post_layers else "pre"
    if s.placement.startswith("hybrid"):
        return "hybrid" if is_hybrid(s, layer_index) else "pre"
    return "pre" if s.placement == "lns" else s.placement


def is_hybrid(s, layer_index):
    """MATH.md 9: hybrid-first has a pre block first."""
    return s.placement == "hybrid" or (s.placement == "hybrid-first" and layer_index > 1)


def norm_of(s, layer_index, p, v=None):
    """N of one site: the chosen norm, times 1/√l with lns."""
    scale = 1 / math.sqrt(layer_index) if s.placement == "lns" and s.lns_init == "off" else 1.0
    return lambda x: scale * NORMS[s.norm](x, p, s.norm_eps, v, kappa=s.bhyt_kappa)


# ---------------------------------------------------------------------------------------------------
# MATH.md 3: GPAS.

GPAS_ACTS = {
    "silu": jax.nn.silu,
    "identity": lambda g: g,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "leaky-relu": lambda g: jnp.where(g > 0, g, 0.01 * g),
}


def gpas(s, gate, sg):
    """x ↦ x − act(g)·sg(x)."""
    if gate is None:
        return lambda x: x
    return lambda x: x - GPAS_ACTS[s.gpas_act](gate) * sg(x)


# ---------------------------------------------------------------------------------------------------
# MATH.md 4: SDD.  α ⊙ rms(z) where the layer has an α, z itself where it has none.


def sdd_rms(s, z, alpha):
    return z if alpha is None else alpha * z / jnp.sqrt(mean_square(z) + s.sdd_eps)


def sdd_sites(s):
    """Which α a layer has, and how wide each is."""
    C, D, F = s.n_embd, s.head_size, s.n_ffn
    if s.sdd == "off":
        return {}
    if s.sdd == "paper":
        attention = {"q": s.q_width, "k": s.kv_width, "v": s.kv_width, "o": C}
        mlp_in = {"gate": F, "up": F} if s.activation == "swiglu" else {"up": F}
    else:
        attention = {"q": D, "k": D, "context": s.q_width, "o": C}
        mlp_in = {"gate_up": 2 * F} if s.activation == "swiglu" else {"up": F}
    return {**attention, **mlp_in, "down": C}


# ---------------------------------------------------------------------------------------------------
# MATH.md 6: the sublayers.


def gelu(x):
    """The tanh approximation, as GPT-2 has it."""
    return 0.5 * x * (1.0 + jnp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    """x·Φ(x), as it is defined."""
    return 0.5 * x * jax.scipy.special.erfc(-x / math.sqrt(2.0))


def linear(x, matrix):
    y = x @ matrix.weight.T
    return y if matrix.bias is None else y + matrix.bias


def rope_frequency(s, D):
    """base^(−2j/D); --rope-scaling divides all of it (linear), or what turns slowly (LLaMA 3.1's)."""
    frequency = s.rope_base ** (-2.0 * jnp.arange(D // 2) / D)
    if s.rope_scaling == "none":
        return frequency
    if s.rope_scaling == "linear":
        return frequency / s.rope_factor
    wavelength = 2 * math.pi / frequency
    longest, shortest = s.rope_original_seq_len / s.rope_low_freq_factor, s.rope_original_seq_len / s.rope_high_freq_factor
    smooth = (s.rope_original_seq_len / wavelength - s.rope_low_freq_factor) / (s.rope_high_freq_factor - s.rope_low_freq_factor)
    between = (1 - smooth) * frequency / s.rope_factor + smooth * frequency
    slowed = jnp.where(wavelength > longest, frequency / s.rope_factor, between)
    return jnp.where(wavelength < shortest, frequency, slowed)


def rope(s, x):
    """x: (B, T, heads, D).  Half-split: channel j pairs with j + D/2, both turned by t·frequency(j)."""
    T, D = x.shape[1], x.shape[3]
    frequency = rope_frequency(s, D)
    angle = jnp.arange(T)[:, None, None] * frequency
    cos, sin = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    low, high = x[..., : D // 2], x[..., D // 2 :]
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)


def qk_norm(s, x, gamma):
    """MATH.md 9: x, (B, T, heads, D), normed head by head, or over all heads as one row."""
    if gamma is None:
        return x
    rows = x.reshape(*x.shape[:2], -1) if s.qk_norm == "projection" else x
    return rmsnorm(rows, {"gamma": gamma}, s.norm_eps).reshape(x.shape)


def attention(s, w, x):
    B, T, _ = x.shape
    H, Hkv, D = s.n_head, s.n_kv_head, s.head_size
    q = linear(x, w.q)
    k = linear(x, w.k)
    v = sdd_rms(s, linear(x, w.v), w.alpha.get("v"))
    if s.sdd == "released":  # per head
        q, k = q.reshape(B, T, H, D), k.reshape(B, T, Hkv, D)
    q = sdd_rms(s, q, w.alpha.get("q")).reshape(B, T, H, D)
    k = sdd_rms(s, k, w.alpha.get("k")).reshape(B, T, Hkv, D)
    v = v.reshape(B, T, Hkv, D)
    q, k, v = qk_norm(s, q, w.q_norm), qk_norm(s, k, w.k_norm), qk_norm(s, v, w.v_norm)
    if s.positions == "rope":
        q, k = rope(s, q), rope(s, k)
    k, v = jnp.repeat(k, H // Hkv, axis=2), jnp.repeat(v, H // Hkv, axis=2)
    scores = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(D)
    scores = jnp.where(jnp.tril(jnp.ones((T, T), bool)), scores, -jnp.inf)
    context = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), v).reshape(B, T, H * D)
    context = sdd_rms(s, context, w.alpha.get("context"))
    return sdd_rms(s, linear(context, w.o), w.alpha.get("o"))


def mlp(s, w, x):
    if s.activation != "swiglu":
        function = gelu if s.activation == "gelu" else gelu_exact
        hidden = function(sdd_rms(s, linear(x, w.up), w.alpha.get("up")))
    else:
        gate, up = linear(x, w.gate), linear(x, w.up)
        if s.sdd == "released":
            gate_up = sdd_rms(s, jnp.concatenate([gate, up], axis=-1), w.alpha["gate_up"])
            gate, up = jnp.split(gate_up, 2, axis=-1)
        else:
            gate, up = sdd_rms(s, gate, w.alpha.get("gate")), sdd_rms(s, up, w.alpha.get("up"))
        hidden = jax.nn.silu(gate) * up
    return sdd_rms(s, linear(hidden, w.down), w.alpha.get("down"))


# ---------------------------------------------------------------------------------------------------
# The model.


def layer(s, layer_index, w, x, sg):
    """Layer number layer_index, counted from 1: attention, then the MLP."""
    placement = placement_of(s, layer_index)
    alpha = 2 * s.n_layer if s.placement == "keel" else (2 * s.n_layer) ** 0.25
    v = mean_square(x)
    v_hat = bhyt_second_mean_square(s, layer_index, w, v, w.gate_attn, sg) if s.norm == "bhyt" else None
    sites = (
        (placement, attention, w.norm_attn, None, w.inner_attn, w.gate_attn),
        (placement, mlp, w.norm_mlp, v_hat, w.inner_mlp, w.gate_mlp),
    )
    if placement == "hybrid":  # the one norm is after attention's addition
        sites = ("post", attention, w.norm_mlp, None, None, w.gate_attn), ("bare", mlp, None, None, None, w.gate_mlp)
    for how, F, p, v_given, p_inner, gate in sites:
        N = norm_of(s, layer_index, p, v_given)
        N2 = norm_of(s, layer_index, p_inner)
        x = PLACEMENTS[how](x, functools.partial(F, s, w), N, N2, gpas(s, gate, sg), alpha)
    return x


class Outputs(NamedTuple):
    logits: jax.Array  # (B, T, V)
    residual: list  # L + 1 of (B, T, C): into layer 1, then after each layer; before the final norm


def forward(s, weights, tokens, sg=jax.lax.stop_gradient):
    w = read_outer(s, weights)
    x = w.embedding[tokens]
    if s.embed_scale == "on":
        x = w.embed_scale * x
    if s.positions == "learned":
        x = x + w.positions[: tokens.shape[1]]
    if s.embed_norm == "on":
        x = NORMS[s.norm](x, w.embed_norm, s.norm_eps, kappa=s.bhyt_kappa)
    residual = [x]
    for layer_index in range(1, s.n_layer + 1):
        x = layer(s, layer_index, read_layer(s, weights, layer_index), x, sg)
        residual.append(x)
    if s.final_norm == "on":
        x = NORMS[s.final_norm_kind](x, w.final_norm, s.final_norm_eps, kappa=s.bhyt_kappa)
    return Outputs(x @ w.head.T, residual)


def mean_loss(s, weights, tokens, targets, sg=jax.lax.stop_gradient):
    """Cross-entropy in nats, mean over all tokens; and the Outputs."""
    outputs = forward(s, weights, tokens, sg)
    log_probability = jax.nn.log_softmax(outputs.logits, axis=-1)
    return -jnp.mean(jnp.take_along_axis(log_probability, targets[..., None], axis=-1)), outputs


def loss_and_gradients(s, weights, tokens, targets):
    """→ loss, Outputs, {name in the file: gradient}."""
    function = lambda weights: mean_loss(s, weights, tokens, targets)
    (loss, outputs), gradients = jax.value_and_grad(function, has_aux=True)(weights)
    return loss, outputs, gradients


# ---------------------------------------------------------------------------------------------------
# Names and layouts in the file: Hugging Face's, and ours for what those lack.


class Layout(NamedTuple):
    embedding: str
    positions: str
    outer: str  # prefix of what stands beside the layers
    final_norm: str
    layer: str
    norm_attn: str
    norm_mlp: str
    after_attn: str  # res-post's norms
    after_mlp: str
    attn: str  # the two sublayers' prefixes
    mlp: str
    matrix: dict  # site → name, in the layer
    conv1d: bool  # weights stand [in, out], and q, k, v in one matrix


LAYOUTS = {
    "gpt2": Layout(
        embedding="transformer.wte.weight",
        positions="transformer.wpe.weight",
        outer="transformer.",
        final_norm="transformer.ln_f",
        layer="transformer.h.{}.",
        norm_attn="ln_1",
        norm_mlp="ln_2",
        after_attn="attn.output_norm",
        after_mlp="mlp.output_norm",
        attn="attn.",
        mlp="mlp.",
        matrix=dict(qkv="attn.c_attn", o="attn.c_proj", gate="mlp.c_gate", up="mlp.c_fc", down="mlp.c_proj"),
        conv1d=True,
    ),
    "llama": Layout(
        embedding="model.embed_tokens.weight",
        positions="model.embed_positions.weight",
        outer="model.",
        final_norm="model.norm",
        layer="model.layers.{}.",
        norm_attn="input_layernorm",
        norm_mlp="post_attention_layernorm",
        after_attn="post_attention_layernorm",  # OLMo 2's names
        after_mlp="post_feedforward_layernorm",
        attn="self_attn.",
        mlp="mlp.",
        matrix=dict(
            q="self_attn.q_proj", k="self_attn.k_proj", v="self_attn.v_proj", o="self_attn.o_proj",
            gate="mlp.gate_proj", up="mlp.up_proj", down="mlp.down_proj",
        ),
        conv1d=False,
    ),
}  # fmt: skip

NORM_SUFFIX = {"gamma": ".weight", "beta": ".bias", "alpha": ".alpha", "shift": ".shift", "lambda": ".lambda"}


def layer_norm_sites(s, layout, layer_index):
    """Attribute of LayerWeights → name of the norm in the layer."""
    if s.placement == "res-post":
        return {"inner_attn": layout.after_attn, "inner_mlp": layout.after_mlp}
    sites = {"norm_attn": layout.norm_attn, "norm_mlp": layout.norm_mlp}
    if is_hybrid(s, layer_index):
        del sites["norm_attn"]
    if s.placement == "sandwich":
        sites["inner_attn"] = layout.attn + "output_norm"
        sites["inner_mlp"] = layout.mlp + "output_norm"
    if s.placement == "keel":
        sites["inner_attn"], sites["inner_mlp"] = "attn_residual_norm", "mlp_residual_norm"
    return sites


def alpha_name(layout, site):
    return (layout.attn if site in ("q", "k", "v", "context", "o") else layout.mlp) + "sdd.alpha_" + site


def matrix_shapes(s):
    """Site → (out, in)."""
    C, F, Q = s.n_embd, s.n_ffn, s.q_width
    attention = {"q": (Q, C), "k": (s.kv_width, C), "v": (s.kv_width, C), "o": (C, Q)}
    if LAYOUTS[s.arch].conv1d:
        attention = {"qkv": (Q + 2 * s.kv_width, C), "o": (C, Q)}
    mlp_in = {"gate": (F, C), "up": (F, C)} if s.activation == "swiglu" else {"up": (F, C)}
    return {**attention, **mlp_in, "down": (C, F)}


def has_bias(s, site):
    """MATH.md 4: no bias in an SDD layer (and released's V, which is none, goes with its neighbours)."""
    return s.sdd == "off" and (s.bias == "on" or (s.bias == "qkv" and site in ("q", "k", "v", "qkv")))


def shapes(s):
    """Name in the file → (shape, kind), kind being matrix, bias, gamma, beta, alpha, shift, lambda or gate."""
    layout, table = LAYOUTS[s.arch], {}

    def add_norm(name, kind):
        for parameter in norm_parameters(kind, s.arch):
            shape = (s.n_embd,) if parameter in ("gamma", "beta") else (1,)
            table[name + NORM_SUFFIX[parameter]] = (shape, parameter)

    table[layout.embedding] = ((s.vocab_size, s.n_embd), "matrix")
    if s.positions == "learned":
        table[layout.positions] = ((s.seq_len, s.n_embd), "matrix")
    if s.embed_scale == "on":
        table[layout.outer + "embed_scale"] = ((1,), "gamma")
    if s.embed_norm == "on":
        add_norm(layout.outer + "embed_norm", s.norm)
    for i in range(s.n_layer):
        prefix = layout.layer.format(i)
        for name in layer_norm_sites(s, layout, i + 1).values():
            add_norm(prefix + name, s.norm)
        for site, (n_out, n_in) in matrix_shapes(s).items():
            shape = (n_in, n_out) if layout.conv1d else (n_out, n_in)
            table[prefix + layout.matrix[site] + ".weight"] = (shape, "matrix")
            if has_bias(s, site):
                table[prefix + layout.matrix[site] + ".bias"] = ((n_out,), "bias")
        hybrid = s.placement.startswith("hybrid")
        if s.qk_norm != "off" or hybrid:
            for site, width in (("q", s.q_width), ("k", s.kv_width), ("v", s.kv_width))[: 3 if hybrid else 2]:
                width = width if s.qk_norm == "projection" else s.head_size
                table[prefix + layout.attn + site + "_norm.weight"] = ((width,), "gamma")
        for site, width in sdd_sites(s).items():
            table[prefix + alpha_name(layout, site)] = ((width,), "gamma")
        if s.gpas != "off":
            table[prefix + "gpas.gate"] = ((2 if s.gpas == "sublayer" else 1,), "gate")
    if s.final_norm == "on":
        add_norm(layout.final_norm, s.final_norm_kind)
    if s.tie_embeddings == "off":
        table["lm_head.weight"] = ((s.vocab_size, s.n_embd), "matrix")
    return table


class Matrix(NamedTuple):
    weight: jax.Array  # (out, in)
    bias: Optional[jax.Array]


def read_norm(weights, name):
    """{"gamma": …, …}, whatever of it the file has."""
    return {p: weights[name + suffix] for p, suffix in NORM_SUFFIX.items() if name + suffix in weights}


class OuterWeights(NamedTuple):
    embedding: jax.Array
    positions: Optional[jax.Array]
    embed_scale: Optional[jax.Array]
    embed_norm: dict
    final_norm: dict
    head: jax.Array


def read_outer(s, weights):
    layout = LAYOUTS[s.arch]
    return OuterWeights(
        embedding=weights[layout.embedding],
        positions=weights.get(layout.positions),
        embed_scale=weights.get(layout.outer + "embed_scale"),
        embed_norm=read_norm(weights, layout.outer + "embed_norm"),
        final_norm=read_norm(weights, layout.final_norm),
        head=weights[layout.embedding] if s.tie_embeddings == "on" else weights["lm_head.weight"],
    )


class LayerWeights(NamedTuple):
    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    gate: Optional[Matrix]  # SwiGLU's
    up: Matrix
    down: Matrix
    alpha: dict  # SDD's
    q_norm: Optional[jax.Array]  # --qk-norm's, hybrid's
    k_norm: Optional[jax.Array]
    v_norm: Optional[jax.Array]  # hybrid's
    norm_attn: Optional[dict]
    norm_mlp: Optional[dict]
    inner_attn: Optional[dict]  # sandwich's, res-post's, keel's
    inner_mlp: Optional[dict]
    gate_attn: Optional[jax.Array]  # GPAS's
    gate_mlp: Optional[jax.Array]


def read_layer(s, weights, layer_index):
    layout = LAYOUTS[s.arch]
    prefix = layout.layer.format(layer_index - 1)
    matrices = {"gate": None}
    for site in matrix_shapes(s):
        name = prefix + layout.matrix[site]
        weight, bias = weights[name + ".weight"], weights.get(name + ".bias")
        matrices[site] = Matrix(weight.T if layout.conv1d else weight, bias)
    if layout.conv1d:  # the rows of the fused matrix are q, then k, then v
        fused = matrices.pop("qkv")
        borders = [s.q_width, s.q_width + s.kv_width]
        rows = jnp.split(fused.weight, borders)
        biases = [None] * 3 if fused.bias is None else jnp.split(fused.bias, borders)
        matrices.update({site: Matrix(*pair) for site, pair in zip("qkv", zip(rows, biases))})
    gates = weights.get(prefix + "gpas.gate")  # one for both sites, or one each
    norms = {at: read_norm(weights, prefix + name) for at, name in layer_norm_sites(s, layout, layer_index).items()}
    return LayerWeights(
        **matrices,
        alpha={site: weights[prefix + alpha_name(layout, site)] for site in sdd_sites(s)},
        q_norm=weights.get(prefix + layout.attn + "q_norm.weight"),
        k_norm=weights.get(prefix + layout.attn + "k_norm.weight"),
        v_norm=weights.get(prefix + layout.attn + "v_norm.weight"),
        norm_attn=norms.get("norm_attn"),
        norm_mlp=norms.get("norm_mlp"),
        inner_attn=norms.get("inner_attn"),
        inner_mlp=norms.get("inner_mlp"),
        gate_attn=None if gates is None else gates[0],
        gate_mlp=None if gates is None else gates[-1],
    )
