"""Which numbers does the project want from a GPU, and how much is enough?

MARKS: one row a mark: its name, the part of scripts/gpu_check.py that measures it, the least or the most
that is wanted (None: it is only recorded).
"""

MODELS = ["gpt2-124m", "gpt2-350m", "gpt2-1558m", "llama-1b"]

# How many sequences a micro-step may have, and how many tokens an update has: the same for every side of a
# comparison. Each batch size times the sequence length divides the tokens.
SIZES = {
    "gpt2-124m": {"batch_sizes": [16, 32, 64, 128], "tokens": 128 * 1024, "T": 1024, "V": 50257},
    "gpt2-350m": {"batch_sizes": [16, 32, 64], "tokens": 64 * 1024, "T": 1024, "V": 50257},
    "gpt2-1558m": {"batch_sizes": [8, 16, 32], "tokens": 32 * 1024, "T": 1024, "V": 50257},
    "llama-1b": {"batch_sizes": [64, 128, 256], "tokens": 256 * 256, "T": 256, "V": 32000},
    "llama-350m": {"batch_sizes": [64], "tokens": 64 * 256, "T": 256, "V": 32000},
    "micro": {"batch_sizes": [2, 4], "tokens": 4 * 64, "T": 64, "V": 256},
}

# train_gpt's: all batch sizes are tried in the first, the others at the best of them.
OUR_MODES = {"default": [], "gemm-tune": ["--gemm-tune", "on"]}

# PyTorch's modes (scripts/gpu/torch_side.py), the quickest to prepare first: all batch sizes are tried in
# that one. Compiling 48 layers as a whole takes longer than a part may.
ALL_TORCH_MODES = ["compile-blocks", "compile", "padded", "bf16", "eager"]
TORCH_MODES = {
    "gpt2-124m": ["compile-blocks", "padded", "compile", "bf16"],
    "gpt2-350m": ["compile-blocks", "padded", "compile"],
    "gpt2-1558m": ["compile-blocks", "padded"],
    "llama-1b": ["compile-blocks", "padded", "compile"],
}

# name → flags over the baseline, which is llama's default: pre + rmsnorm.
VARIANTS = {
    "gpas": ["--gpas", "layer"],
    "bhyt": ["--norm", "bhyt"],
    "gpas-sublayer": ["--gpas", "sublayer"],
    "bhyt-exact": ["--norm", "bhyt-exact"],
    "dyt": ["--norm", "dyt"],
    "layernorm": ["--norm", "layernorm"],
    "post": ["--placement", "post"],
    "sandwich": ["--placement", "sandwich"],
    "deepnorm": ["--placement", "deepnorm"],
    "mix": ["--placement", "mix"],
    "lns": ["--placement", "lns"],
    "sdd-paper": ["--sdd", "paper"],
    "sdd-released": ["--sdd", "released", "--placement", "post", "--sdd-init-scale", "0.1"],
}
VARIANT_PARTS = {
    "variants-norms": ["gpas", "bhyt", "gpas-sublayer", "bhyt-exact", "dyt", "layernorm"],
    "variants-placements": ["post", "sandwich", "deepnorm", "mix", "lns", "sdd-paper", "sdd-released"],
}


def _marks():
    wanted = {
        "gpt2-124m.tokens_per_s": 500e3,
        "gpt2-1558m.tokens_per_s": 48e3,
        "gpt2-124m.vs_pytorch": 1.05,
        "gpt2-1558m.vs_pytorch": 1.05,
    }
    rows = []
    for model in MODELS:
        for what, part in (("tokens_per_s", "steps"), ("mfu", "steps"), ("vs_pytorch", "pytorch")):
            name = f"{model}.{what}"
            rows.append((name, f"{part}-{model}", ">=" if name in wanted else None, wanted.get(name)))
    rows += [
        ("attention.fwd_tflops", "operations", ">=", 200),
        ("attention.bwd_tflops", "operations", ">=", 120),
        ("junction.fwd_bandwidth_share", "operations", ">=", 0.80),
        ("junction.bwd_bandwidth_share", "operations", ">=", 0.75),
        ("adamw.bandwidth_share", "operations", ">=", 0.80),
    ]
    for part, names in VARIANT_PARTS.items():
        for name in names:
            most = 1.005 if name in ("gpas", "bhyt") else None
            rows.append((f"variant.{name}.overhead", part, "<=" if most else None, most))
    rows += [
        ("tests.passed", "suite collectives two-ranks training", None, None),
        ("tests.failed", "suite collectives two-ranks training", "<=", 0),
        ("sanitizer.errors", "sanitizer", "<=", 0),
    ]
    return rows


MARKS = _marks()


def command(part):
    return f"scripts/gpu_check.py {part}"


def met(relation, target, value):
    """True, False, or None where nothing was measured or nothing is asked."""
    if value is None or relation is None:
        return None
    return value >= target if relation == ">=" else value <= target
