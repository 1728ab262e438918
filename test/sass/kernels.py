"""Which kernels does a usual step of gpt2-124m, gpt2-1558m and llama-1b run, and how are they launched?

ROWS: one a kernel, or a loop of it. Their launches are those of kernels/cuda/*.cu, which this file repeats: who changes
a grid or a block there changes it here.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shape:
    """A preset, and the micro-step that marks.py measures it with."""

    B: int
    T: int
    L: int
    C: int
    H: int
    F: int
    V: int
    swiglu: bool = False
    D: int = 64

    @property
    def N(self):
        return self.B * self.T

    @property
    def parameters(self):
        a_layer = (4 * self.C + (3 if self.swiglu else 2) * self.F) * self.C
        return self.L * a_layer + (2 if self.swiglu else 1) * self.V * self.C


SHAPES = {
    "gpt2-124m": Shape(B=64, T=1024, L=12, C=768, H=12, F=3072, V=50257),
    "gpt2-1558m": Shape(B=32, T=1024, L=48, C=1600, H=25, F=6400, V=50257),
    "llama-1b": Shape(B=256, T=256, L=24, C=2048, H=32, F=5461, V=32000, swiglu=True),
}
GPT2, LLAMA = ("gpt2-124m", "gpt2-1558m"), ("llama-1b",)
ALL = GPT2 + LLAMA

LOGITS = 8192  # rows of logits at a time: CHUNK_GPU in src/model/model_memory.c


def ceil_div(a, b):
    return -(-a // b)


def padded(n):
    return ceil_div(n, 64) * 64


def chunks(N, unit=1, most=512):
    """split_rows of columns.cuh."""
    return ceil_div(N, ceil_div(ceil_div(N, most), unit) * unit)


@dataclass(frozen=True)
class Row:
    name: str
    file: str  # kernels/cuda/FILE.cu
    kernel: str  # how the compiler's name for it starts, without its namespace
    hot: str  # instructions (a regular expression) that the loop that does the work has most of
    unit: str  # what is counted by
    units: object  # of them in a round: a number, or instructions (a regular expression) and how many each makes
    grid: object  # Shape → blocks
    presets: tuple = ALL
    threads: int = 128
    shared: object = field(default=lambda shape: 0)  # Shape → dynamic shared memory, bytes
    needs: str = None  # instructions that the loop has too
    without: str = None  # and those that it has none of
    whole: bool = False  # no loop: the whole kernel, once

    @property
    def shapes(self):
        return {preset: SHAPES[preset] for preset in self.presets}


# ------------------------------------------------------------------------------------------------------------ the kernels

STORE, LOAD = r"STG\.E\.(EF\.)?128", r"LDG\.E\.(\w+\.)*128"
BF16 = "__nv_bfloat16"
KINDS = {"layernorm": "(NormKind)1", "rmsnorm": "(NormKind)2"}
STAGES = 4 * 64 * (64 + 8) * 2  # bytes of an attention block's two stages at D = 64


def attention(name, kernel, hot_file, rows, unit):
    return Row(name, hot_file, f"{kernel}<64, 2>", "HMMA|LDGSTS", unit, 1,
               lambda s: ceil_div(s.T, rows) * s.H * s.B, shared=lambda s: STAGES)


def junction_forward(norm, width, presets):
    """A warp to a row up to 1,024 channels, four packs a thread; a block beyond, two packs a thread."""
    warps = width <= 1024
    return Row(f"junction_forward/{norm}-{width}", "junction",
               f"junction_forward_kernel<{BF16}, {BF16}, false, {KINDS[norm]}, {'WarpRow' if warps else 'BlockRow'}>",
               f"{LOAD}|{STORE}", "element", 32 if warps else 16,
               lambda s: ceil_div(s.N, 4) if warps else s.N, presets,
               threads=128 if warps else ceil_div(padded(width) // 8, 64) * 32, whole=True)


def junction_backward(norm, width, presets):
    """The usual one; whole where every thread of the block has a pack of the row."""
    packs, threads = width // 8, ceil_div(width // 8, 32) * 32
    whole = str(packs == threads).lower()
    return Row(f"junction_backward/{norm}-{width}", "junction_backward",
               f"junction_backward_usual_kernel<{BF16}, {KINDS[norm]}, {whole}>",
               f"{LOAD}|{STORE}", "element", 16, lambda s: chunks(s.N, 2), presets, threads=threads)


def activation(direction, kind, number, presets):
    backward = direction == "backward"
    return Row(f"activation_{direction}/{kind}", "activation",
               f"activation_{direction}_kernel<{BF16}, (ActivationKind){number}, false>",
               STORE, "element", (STORE, 4 if backward and kind == "swiglu" else 8),
               lambda s: ceil_div(padded(s.F) // 8, 128) * (chunks(s.N) if backward else chunks(s.N, 8, 65535)),
               presets)


def cross_entropy(name, hot, units, **loop):
    return Row(f"cross_entropy/{name}", "cross_entropy", f"cross_entropy_kernel<{BF16}, true>", hot, "element", units,
               lambda s: LOGITS, threads=512, shared=lambda s: padded(s.V) * 2, **loop)


def qkv(name, kernel, hot, presets):
    """Without a norm; with `hot` loads the way is that of heads that turn."""
    return Row(name, "qkv", f"{kernel}<{BF16}, (QkvNorm)0>", hot, "element", (r"STG\.E\.64", 4),
               lambda s: ceil_div(3 * s.H * s.D // 8, 128) * chunks(s.N), presets)


ROWS = [
    Row("embedding_forward", "embedding", f"embedding_forward_kernel<{BF16}, {BF16}>", STORE, "element", (STORE, 8),
        lambda s: s.N),
    Row("embedding_backward", "embedding", f"add_sorted_rows_kernel<{BF16}>", LOAD, "element", (LOAD, 8), lambda s: s.N),
    junction_forward("layernorm", 768, GPT2[:1]),
    junction_forward("layernorm", 1600, GPT2[1:]),
    junction_forward("rmsnorm", 2048, LLAMA),
    qkv("qkv_forward/rope", "forward_kernel", "LDG", LLAMA),
    attention("attention_forward", "attention_forward_mma_kernel", "attention_mma", 128, "tile"),
    activation("forward", "gelu", 0, GPT2),
    activation("forward", "swiglu", 1, LLAMA),
    cross_entropy("stage", "LDGSTS", ("LDGSTS", 8)),
    cross_entropy("softmax", "MUFU", (r"LDS\.128", 8), without="STG"),
    cross_entropy("gradient", "MUFU", (STORE, 8), needs="STG"),
    Row("loss_reduce", "step", "loss_reduce_kernel", "LDG", "element", ("LDG", 1), lambda s: 1, threads=1024),
    junction_backward("layernorm", 768, GPT2[:1]),
    junction_backward("layernorm", 1600, GPT2[1:]),
    junction_backward("rmsnorm", 2048, LLAMA),
    activation("backward", "gelu", 0, GPT2),
    activation("backward", "swiglu", 1, LLAMA),
    Row("attention_terms", "attention_mma_backward", "attention_terms_kernel<64>", LOAD, "element", 8,
        lambda s: ceil_div(padded(s.T), 16) * s.H * s.B, whole=True),
    attention("attention_dkv", "attention_dkv_mma_kernel", "attention_mma_backward", 128, "16-queries"),
    attention("attention_dq", "attention_dq_mma_kernel", "attention_mma_backward", 128, "16-keys"),
    qkv("qkv_backward/rope", "backward_kernel", "LDG", LLAMA),
    Row("add_columns", "columns", "add_columns_kernel<false>", "LDG", "element", ("LDG", 1), lambda s: ceil_div(s.C, 8)),
    Row("sum_squares", "step", "sum_squares_chunks", LOAD, "element", (LOAD, 4),
        lambda s: ceil_div(s.parameters, 65536)),
    Row("adamw", "step", "adamw_kernel<true>", STORE, "element", 8, lambda s: ceil_div(s.parameters, 4096)),
]
