"""The settings of a model of train_gpt, for transformers: its command line's flags, under the same names and values.

Every key of the model's config.json is a parameter below; what is left to None follows from the others as the program
has it. A value that modeling_train_gpt.py does not compute is refused by its key.
"""

import math

from transformers import PretrainedConfig

# What depends on --arch.
ARCHITECTURES = {
    "gpt2": {"norm": "layernorm", "positions": "learned", "activation": "gelu", "bias": "on", "tie_embeddings": "on"},
    "llama": {"norm": "rmsnorm", "positions": "rope", "activation": "swiglu", "bias": "off", "tie_embeddings": "off"},
}

# What modeling_train_gpt.py computes.
SWITCH = ("off", "on")
CHOICES = {
    "arch": tuple(ARCHITECTURES),
    "positions": ("learned", "rope"),
    "rope_type": ("none", "linear", "llama3"),
    "activation": ("gelu", "swiglu", "gelu-exact"),
    "bias": (*SWITCH, "qkv"),
    "tie_embeddings": SWITCH,
    "norm": ("layernorm", "rmsnorm", "dyt", "bhyt-exact", "bhyt", "derf"),
    "placement": ("pre", "post", "sandwich", "deepnorm", "mix", "lns", "res-post", "keel", "hybrid", "hybrid-first"),
    "final_norm": SWITCH,
    "embed_norm": SWITCH,
    "embed_scale": SWITCH,
    "qk_norm": ("off", "head", "projection"),
    "lns_init": SWITCH,
    "deepnorm_init": SWITCH,
    "gpas": ("off", "layer", "sublayer"),
    "gpas_act": ("silu", "identity", "relu", "tanh", "leaky-relu"),
    "sdd": ("off", "paper", "released"),
    "bhyt_gamma_var": SWITCH,
}


class TrainGptConfig(PretrainedConfig):
    model_type = "train_gpt"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]
    attribute_map = {
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_kv_head",
        "hidden_size": "n_embd",
        "intermediate_size": "n_ffn",
        "max_position_embeddings": "seq_len",
        "initializer_range": "init_std",
    }

    def __init__(
        self,
        # the shape
        arch="gpt2",
        n_layer=12,
        n_head=12,
        n_kv_head=None,
        n_embd=768,
        head_dim=None,
        n_ffn=None,
        seq_len=1024,
        vocab_size=None,
        positions=None,
        rope_base=10000.0,
        rope_type="none",
        rope_factor=8.0,
        rope_low_freq_factor=1.0,
        rope_high_freq_factor=4.0,
        rope_original_seq_len=8192,
        activation=None,
        bias=None,
        tie_embeddings=None,
        # the variant
        norm=None,
        placement="pre",
        norm_eps=None,
        final_norm=None,
        embed_norm="off",
        embed_scale="off",
        qk_norm="off",
        mix_post_layers=None,
        lns_init="off",
        gpas="off",
        gpas_act="silu",
        sdd="off",
        sdd_eps=None,
        bhyt_lambda_final=0.0,
        bhyt_gamma_var="off",
        bhyt_kappa=10.0,
        final_norm_eps=None,
        # ‖W_O·W_V‖² / (T·C) of each layer, as the checkpoint was last trained with; None: of the weights as they are
        bhyt_c=None,
        # only of initial values
        init_std=0.02,
        init_std_embed=None,
        deepnorm_init="on",
        gpas_init=0.0,
        sdd_init_scale=1.0,
        dyt_alpha_attn=0.5,
        dyt_alpha_other=0.5,
        derf_alpha_attn=None,
        derf_alpha_other=None,
        bhyt_lambda_attn=2.0,
        bhyt_lambda_mlp=1.0,
        use_cache=True,
        **kwargs,
    ):
        if arch not in ARCHITECTURES:
            raise NotImplementedError(f"arch {arch}: modeling_train_gpt.py computes {', '.join(ARCHITECTURES)}")
        of_arch = ARCHITECTURES[arch]
        self.arch = arch
        self.n_layer, self.n_head, self.n_embd, self.seq_len = n_layer, n_head, n_embd, seq_len
        self.n_kv_head = n_head if n_kv_head is None else n_kv_head
        self.positions = positions or of_arch["positions"]
        self.head_dim = n_embd // n_head if head_dim is None else head_dim
        self.rope_base, self.rope_type, self.rope_factor = rope_base, rope_type, rope_factor
        self.rope_low_freq_factor, self.rope_high_freq_factor = rope_low_freq_factor, rope_high_freq_factor
        self.rope_original_seq_len = rope_original_seq_len
        self.activation = activation or of_arch["activation"]
        self.n_ffn = n_ffn or (-(-(8 * n_embd // 3) // 64) * 64 if self.activation == "swiglu" else 4 * n_embd)
        self.vocab_size = vocab_size or {"gpt2": 50257, "llama": 32000}[arch]
        self.bias = bias or of_arch["bias"]
        self.norm = norm or of_arch["norm"]
        self.placement = placement
        released = sdd == "released"  # its authors' in the rest too
        self.norm_eps = norm_eps if norm_eps is not None else 1e-5 if self.norm == "layernorm" or released else 1e-6
        self.final_norm_eps = self.norm_eps if final_norm_eps is None else final_norm_eps
        self.final_norm = final_norm or ("off" if placement in ("post", "deepnorm", "keel") else "on")
        self.embed_norm = "on" if released and placement == "post" else embed_norm
        self.embed_scale, self.qk_norm = embed_scale, qk_norm
        self.mix_post_layers = n_layer // 4 if mix_post_layers is None else mix_post_layers
        self.lns_init, self.deepnorm_init = lns_init, deepnorm_init
        self.gpas, self.gpas_act, self.gpas_init = gpas, gpas_act, gpas_init
        self.sdd, self.sdd_init_scale = sdd, sdd_init_scale
        self.sdd_eps = sdd_eps if sdd_eps is not None else 1e-5 if released else 1e-6
        self.dyt_alpha_attn, self.dyt_alpha_other = dyt_alpha_attn, dyt_alpha_other
        of_derf = 1.0 if arch == "gpt2" else 0.5
        self.derf_alpha_attn = of_derf if derf_alpha_attn is None else derf_alpha_attn
        self.derf_alpha_other = of_derf if derf_alpha_other is None else derf_alpha_other
        self.bhyt_lambda_attn, self.bhyt_lambda_mlp = bhyt_lambda_attn, bhyt_lambda_mlp
        self.bhyt_lambda_final, self.bhyt_gamma_var, self.bhyt_c = bhyt_lambda_final, bhyt_gamma_var, bhyt_c
        self.bhyt_kappa, self.init_std = bhyt_kappa, init_std
        of_embed = sdd_init_scale / math.sqrt(2.5 * n_embd) if released else init_std
        self.init_std_embed = of_embed if init_std_embed is None else init_std_embed
        self.use_cache = use_cache

        tied = kwargs.pop("tie_word_embeddings", None)
        if tied is None or tie_embeddings is not None:
            tied = (tie_embeddings or of_arch["tie_embeddings"]) == "on"
        self.tie_embeddings = "on" if tied else "off"
        self.check()
        super().__init__(tie_word_embeddings=tied, **kwargs)

    def check(self):
        for key, values in CHOICES.items():
            if getattr(self, key) not in values:
                raise NotImplementedError(
                    f"{key} {getattr(self, key)}: modeling_train_gpt.py computes {', '.join(values)}"
                )
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} is not a multiple of n_kv_head {self.n_kv_head}")
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd: RoPE turns pairs of channels")
        if self.norm == "bhyt" and self.placement not in ("pre", "lns"):
            raise ValueError(f"norm bhyt goes with placement pre or lns, not {self.placement}; bhyt-exact with all")
        if self.qk_norm != "off" and self.sdd != "off":
            raise ValueError(f"qk_norm {self.qk_norm} with sdd {self.sdd}: SDD norms q and k already")
        if self.placement.startswith("hybrid") and (self.qk_norm != "off" or self.sdd != "off"):
            raise ValueError(f"placement {self.placement} norms q, k and v already: qk_norm and sdd must be off")
        if self.bhyt_c is not None and len(self.bhyt_c) != self.n_layer:
            raise ValueError(f"bhyt_c has {len(self.bhyt_c)} numbers for {self.n_layer} layers")
