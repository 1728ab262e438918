"""What does a step of a preset ask of a GPU? Each operation of src/model/model.c: how often, with how much work.

Work is what no rate enters: bytes of global memory, instructions that warps issue (test/sass/table.txt counts them), FLOPs.
What time that takes is model.py's question.
"""

import os
import sys
from dataclasses import dataclass

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "test", "sass"))

from kernels import SHAPES, ceil_div, chunks, padded  # noqa: E402  the gate's shapes and launches

from gpu import marks  # noqa: E402

TABLE = os.path.join(ROOT, "test", "sass", "table.txt")
BF16, FP32, WARP, TILE = 2, 4, 32, 64  # bytes; threads; keys of an attention tile


class BadTable(ValueError):
    """The table of the gate has not what is needed; the text says what."""


@dataclass(frozen=True)
class Code:
    """A row of the gate's table: instructions a round for `units`, KB that a multiprocessor has asked for, waves by preset."""

    units: float
    instr: float
    threads: int
    flight: float
    waves: dict


def read_table(path=TABLE):
    """(nvcc and architecture, {row: Code})."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    header, rows = lines[1].split(), {}
    for line in lines[2:]:
        cells = dict(zip(header, line.split()))
        try:
            waves = {name: float(cells[name]) for name in SHAPES if cells[name] != "-"}
            rows[cells["kernel"]] = Code(float(cells["units"]), float(cells["instr"]), int(cells["threads"]),
                                         float(cells["flight"]), waves)  # fmt: skip
        except (KeyError, ValueError) as error:
            raise BadTable(f"{path}: {line.split()[:1]}: {error}") from None
    return lines[0], rows


@dataclass(frozen=True)
class Operation:
    """`count` launches a step, each of: bytes read and written, instructions of warps, FLOPs of tensor cores (and over how
    many terms they sum, of a product); `flight` KB a multiprocessor can ask for at once and `waves` of the launch, where known."""

    part: str
    name: str
    count: float
    reads: float = 0.0
    writes: float = 0.0
    instructions: float = 0.0
    flops: float = 0.0
    depth: int = 0
    flight: float = 0.0
    waves: float = 0.0


PARTS = ["products", "attention", "norms and residuals", "activations", "softmax of the head", "q, k, v", "embedding", "update"]


class Step:
    """The operations of one update of a preset, of so many micro-steps; by default of those that marks.py measures."""

    def __init__(self, preset, table, micro=None):
        self.preset, self.shape, self.table = preset, SHAPES[preset], table
        self.micro = micro or max(marks.SIZES[preset]["tokens"] // self.shape.N, 1)
        self.tokens = self.micro * self.shape.N
        self.operations = []
        self.products()
        self.attention()
        self.elementwise()
        self.head()
        self.update()

    def code(self, row):
        if row not in self.table:
            raise BadTable(f"test/sass/table.txt has no row {row}")
        return self.table[row]

    def add(self, part, row, count, elements, reads, writes, loops=None):
        """A launch over so many elements, of which each reads and writes so many bytes; its instructions are those of `loops`, rows of
        the table one after the other (by itself: `row`)."""
        codes = [self.code(name) for name in loops or [row]]
        instructions = sum(elements / (WARP * code.units) * code.instr for code in codes)
        self.operations.append(Operation(part, row, count * self.micro, elements * reads, elements * writes, instructions,
                                         flight=codes[0].flight, waves=codes[0].waves.get(self.preset, 0)))  # fmt: skip

    def product(self, name, count, inputs, outputs, rows=None, parts=1):
        """Forward and both gradients of y = x·Wᵀ, each weight's in so many parts of the tokens."""
        N = rows or self.shape.N
        flops = 2.0 * N * inputs * outputs
        x, y, w = N * inputs, N * outputs, inputs * outputs
        overwrites = 1 / (parts * self.micro)  # the first of an update; the others add
        for what, depth, reads, writes in (
            ("forward", inputs, BF16 * (x + w), BF16 * y),
            ("dx", outputs, BF16 * (y + w), BF16 * x),
            ("dw", N, BF16 * (x + y) + FP32 * w * (1 - overwrites), FP32 * w),
        ):
            self.operations.append(Operation("products", f"{name} {what}", count * self.micro, reads, writes, flops=flops, depth=depth))

    def products(self):
        s = self.shape
        for name, inputs, outputs in (("qkv", s.C, 3 * s.H * s.D), ("o", s.H * s.D, s.C),
                                      ("mlp-in", s.C, (2 if s.swiglu else 1) * s.F), ("mlp-out", s.F, s.C)):  # fmt: skip
            self.product(name, s.L, inputs, outputs)
        self.product("head", ceil_div(s.N, 8192), s.C, s.V, min(s.N, 8192), parts=ceil_div(s.N, 8192))

    def tiles(self, name, count, rounds, products, size, bytes_read, bytes_written):
        """A kernel of attention: `rounds` of its loop that a warp makes on the average, `products` of [32 × size] · 64 in each."""
        s, code = self.shape, self.code(name)
        warps = ceil_div(s.T, 128) * s.H * s.B * code.threads // WARP
        flops = products * 2.0 * 32 * size * s.D * rounds * warps
        self.operations.append(Operation("attention", name, count * self.micro, bytes_read, bytes_written, warps * rounds * code.instr,
                                         flops, waves=code.waves.get(self.preset, 0)))  # fmt: skip

    def attention(self):
        """Blocks of 128 rows; what lies above the diagonal is skipped a tile at a time."""
        s, heads = self.shape, self.shape.N * self.shape.H * self.shape.D
        keys = (s.T + 128) / 2  # that a block of rows sees
        self.tiles("attention_forward", s.L, keys / TILE, 2, TILE, 3 * BF16 * heads, BF16 * heads)
        if not s.swiglu:  # the bias of q, k and v, of which each block of rows has left the sums
            self.add("attention", "bias", s.L, ceil_div(s.T, 128) * s.B * 3 * s.H * s.D, FP32, 0, ["add_columns"])
        self.add("attention", "attention_terms", s.L, heads, 2 * BF16, 0)
        self.tiles("attention_dkv", s.L, keys / 16, 4, 16, 4 * BF16 * heads, 2 * BF16 * heads)
        self.tiles("attention_dq", s.L, keys / 16, 3, 16, 4 * BF16 * heads, BF16 * heads)

    def elementwise(self):
        s, E = self.shape, self.shape.N * padded(self.shape.C)
        norm = f"{'rmsnorm' if s.swiglu else 'layernorm'}-{s.C}"
        part = "norms and residuals"
        self.add(part, f"junction_forward/{norm}", 2 * s.L + 1, E, 2 * BF16, 2 * BF16)
        self.add(part, f"junction_backward/{norm}", 2 * s.L + 1, E, 3 * BF16, BF16)
        sums = (1 if s.swiglu else 3) * (2 * s.L + 1) + (0 if s.swiglu else 2 * s.L)  # γ; β and biases
        self.add(part, "add_columns", sums, chunks(s.N, 2) * s.C, FP32, 0)
        kind, hidden = ("swiglu", 2) if s.swiglu else ("gelu", 1)
        F = s.N * padded(s.F)
        self.add("activations", f"activation_forward/{kind}", s.L, F, hidden * BF16, BF16)
        self.add("activations", f"activation_backward/{kind}", s.L, F, (hidden + 1) * BF16, hidden * BF16)
        qkv = s.N * 3 * s.H * s.D
        if s.swiglu:
            self.add("q, k, v", "qkv_forward/rope", s.L, qkv, BF16, BF16)
            self.add("q, k, v", "qkv_backward/rope", s.L, qkv, BF16, BF16)
        self.add("embedding", "embedding_forward", 1, E, BF16, BF16)
        self.add("embedding", "embedding_backward", 1 if s.swiglu else 2, E, BF16, 0)  # by token; by position

    def head(self):
        s = self.shape
        rows = min(s.N, 8192)
        self.add("softmax of the head", "cross_entropy", ceil_div(s.N, rows), rows * padded(s.V), BF16, BF16,
                 [f"cross_entropy/{loop}" for loop in ("stage", "softmax", "gradient")])  # fmt: skip

    def update(self):
        """Once: the norm, AdamW (gradient, two moments, the master's halves), zeros where no product overwrites."""
        P, before = self.shape.parameters, self.micro
        self.micro = 1
        self.add("update", "sum_squares", 1, P, FP32, 0)
        self.add("update", "adamw", 1, P, 4 * FP32, 3 * FP32)
        self.operations.append(Operation("update", "zeros", 1, 0, FP32 * self.shape.C * (self.shape.V if self.shape.swiglu else self.shape.T)))
        self.micro = before

    def launches(self):
        return sum(operation.count for operation in self.operations)

