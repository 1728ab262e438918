"""Does the CUDA path train the preset `micro` as the CPU does, with every norm, placement, GPAS and SDD, in both architectures?

Runs `train_gpt_emu --device cuda` for ten steps and compares losses, validation loss and gradient norms with the CPU's in fp64.
How far may they be off? As test_ops asks of each operation, so here of the whole: at most twice as far as rounding alone takes
a plain implementation, give or take luck. In fp32 that is the CPU backend. Not every CPU has bf16: there it is the loops of
ops_plain.h, which round where the contract stores and nowhere else, in place of every kernel (build/plain/train_gpt). How far
rounding takes one run is luck, above all where training multiplies it, so it is the largest of four runs, which differ in
weights and data.

TRAIN_GPT_EMU names the one program (default ./train_gpt_emu), TRAIN_GPT_PLAIN the other, both of `make emu`; without them these
tests are skipped. TEST_ALL=1 takes norm × placement × GPAS × SDD whole; otherwise each norm meets each placement and each method, and
each placement each method. Architectures and types take turns, so that each of them meets all four.
TEST_QUICK=1 takes one of twenty, and one mistake.
"""
import itertools
import json
import os
import pathlib
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
EMULATED = pathlib.Path(os.environ.get("TRAIN_GPT_EMU", ROOT / "train_gpt_emu")).resolve()
PLAIN = pathlib.Path(os.environ.get("TRAIN_GPT_PLAIN", ROOT / "build" / "plain" / "train_gpt")).resolve()

pytestmark = pytest.mark.skipif(not (EMULATED.exists() and PLAIN.exists()), reason="`make emu` builds what this runs")

# Errors of bf16 runs spread from seed to seed by a factor of about e^0.4 (standard deviation of logarithms, ten seeds). If they
# are log-normal, one such draw is over F times the largest of four others with odds of ∫ φ(z) Φ(z − ln F / 0.4)⁴ dz: 1 in 90 for
# F = 2, 1 in 12,000 for 4. So 2 for what a kernel may be worse, and 2 for luck.
STEPS, SEEDS, FACTOR = 10, (1, 2, 3, 4), 2 * 2
REFERENCE = {"fp32": EMULATED, "bf16": PLAIN}
# Relative: 4 ulp, as in test_ops; and of a norm what 512 additions of squares in fp32 may cost, which step.cu leaves to one
# thread: 512 roundings of at most 2^-24, of which the root halves the sum.
FLOOR = {"loss": 4 * 2.0**-23, "norm": 512 * 2.0**-24 / 2}
# With its usual ε AdamW divides a gradient by its own size: one that is wrong by a factor would go unseen. With ε = 0.1,
# above most elements of these gradients, a step is proportional to them. Weights of 0.1 (√64 · 0.1 is near 1) let
# sublayers count beside the embedding.
TRAINING = ["--preset", "micro", "--batch-size", "1", "--steps", str(STEPS), "--warmup-steps", "2", "--val-batches", "1",
            "--init-std", "0.1", "--lr", "0.03", "--adam-eps", "0.1"]
ALL = os.environ.get("TEST_ALL", "") not in ("", "0")
POOL = ThreadPoolExecutor(os.cpu_count())
TRUTH = {}  # {arguments: the runs in fp64}, of the last variant: the same for both types

ARCHITECTURES, TYPES = ["gpt2", "llama"], ["fp32", "bf16"]
NORMS = ["layernorm", "rmsnorm", "dyt", "bhyt-exact", "bhyt", "derf"]
# Keel multiplies the stream by 2L at every junction: at 0.03 ten steps make of rounding 2e-5 to 3e-3 of the loss, by the seed, on the CPU too.
PLACEMENTS = ["pre", "post", "sandwich", "deepnorm", "mix --mix-post-layers 1", "lns", "keel --lr 0.001", "hybrid", "hybrid-first"]
GPAS = ["", "--gpas layer --gpas-init 0.3", "--gpas sublayer --gpas-init 0.3"]
SDD = ["", "--sdd paper", "--sdd released"]
METHODS = ["--gpas sublayer --gpas-init 0.3", "--sdd paper", "--sdd released", "--gpas layer --gpas-act tanh --gpas-init 0.3 --sdd paper"]
OPTIONS = ["--norm bhyt --bhyt-refresh 3 --bhyt-gamma-var on --bhyt-lambda-attn 3 --bhyt-lambda-mlp 3",
           "--norm bhyt --sdd paper --gpas layer --gpas-init 0.3",
           "--norm bhyt-exact --bhyt-lambda-final 1 --embed-norm on --final-norm on",
           "--norm dyt --dyt-alpha-attn 0.8 --dyt-alpha-other 0.2 --embed-scale on", "--norm derf --derf-alpha-attn 0.7 --embed-scale on",
           "--placement lns --lns-init on",
           "--placement sandwich --gpas layer --gpas-act identity --gpas-clip 0.01",
           "--placement deepnorm --gpas sublayer --gpas-act leaky-relu --gpas-init -0.5",
           "--sdd released --placement post --sdd-init-scale 0.1",
           "--residual-dtype fp32 --placement post", "--residual-dtype fp32 --placement keel --lr 0.001 --gpas layer --gpas-init 0.3 --recompute block",
           "--residual-dtype fp32 --placement hybrid-first --gpas sublayer --gpas-init 0.3 --recompute block",
           "--residual-dtype fp32 --norm layernorm --recompute block",
           "--n-head 4 --n-kv-head 2 --sdd paper", "--n-head 4 --n-kv-head 1 --norm bhyt",
           "--n-embd 48 --n-ffn 50 --vocab-size 251 --seq-len 37 --norm bhyt-exact", "--total-batch-tokens 128 --recompute act",
           "--doc-mask on --end-of-document 32 --norm bhyt --recompute block",
           "--pack documents --end-of-document 32 --norm dyt --total-batch-tokens 128",
           "--qk-norm head --head-dim 48 --n-kv-head 1 --bias qkv --rope-scaling linear --recompute block",
           "--qk-norm projection --placement res-post --activation gelu-exact", "--head-dim 40 --sdd released --placement res-post",
           "--z-loss 1e-3 --tie-embeddings on --decay-on all", "--init-std 0.02 --lr 1e-3 --adam-eps 1e-8"]


def legal(norm, placement):
    return norm != "bhyt" or placement in ("pre", "lns")


def goes(placement, method):
    """hybrid norms q, k and v already."""
    return "--sdd" not in method or not placement.startswith("hybrid")


def may_meet(a, b):
    """Are these two of --norm, --placement and METHODS, in this order, ever legal together?"""
    if "--norm" in a and "--placement" in b:
        return legal(*(flag.split()[1] for flag in (a, b)))
    return "--norm" in a or goes(a.split()[1], b)


def short_form():
    """Each norm with each placement, as many of them as there are methods: a Latin square. bhyt has few placements: all there."""
    for (i, placement), (j, norm) in itertools.product(enumerate(PLACEMENTS), enumerate(n for n in NORMS if n != "bhyt")):
        methods = [method for method in ["", *METHODS] if goes(placement, method)]
        yield f"--norm {norm} --placement {placement} {methods[(i + j) % len(methods)]}"
    for placement, method in itertools.product(("pre", "lns"), ["", *METHODS]):
        yield f"--norm bhyt --placement {placement} {method}"


def whole():
    for norm, placement, gpas, sdd in itertools.product(NORMS, PLACEMENTS, GPAS, SDD):
        if legal(norm, placement) and goes(placement, sdd):
            yield f"--norm {norm} --placement {placement} {gpas} {sdd}"


def combinations():
    """(type, flags) of each run: of a variant in one architecture and type, which take turns; of OPTIONS, in the long form, in all."""
    variants = [*short_form(), *OPTIONS, *(whole() if ALL else ())]
    variants = list(dict.fromkeys(" ".join(variant.split()) for variant in variants))
    options = [" ".join(option.split()) for option in OPTIONS] if ALL else []
    for i, variant in enumerate(variants):
        types = ["bf16"] if "--residual-dtype" in variant else TYPES  # elsewhere fp32 is the stream's type already
        kinds = list(itertools.product(ARCHITECTURES, types))
        for arch, dtype in kinds if variant in options else [kinds[(i + i // 10) % len(kinds)]]:
            yield dtype, f"--arch {arch} {variant}"


def test_no_pair_is_left_out():
    seen, norms, placements = set(combinations()), [f"--norm {n} " for n in NORMS], [f"--placement {p} " for p in PLACEMENTS]
    for arch, dtype, choice in itertools.product(ARCHITECTURES, TYPES, norms + placements + METHODS):
        assert any(t == dtype and f"--arch {arch} " in flags and choice in flags + " " for t, flags in seen), (arch, dtype, choice)
    pairs = [*itertools.product(norms, placements), *itertools.product(norms, METHODS), *itertools.product(placements, METHODS)]
    missing = [pair for pair in pairs if not any(pair[0] in flags and pair[1] in flags + " " for _, flags in seen)]
    assert missing == [pair for pair in pairs if not may_meet(*pair)]


def history(program, arguments, out):
    """{what: its values, step by step} of a run."""
    done = subprocess.run([str(program), *TRAINING, *arguments, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False, env=dict(os.environ, OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr.decode()
    lines = [json.loads(line) for line in open(out / "metrics.jsonl", encoding="utf-8")]
    train = [line for line in lines if line["type"] == "train"]
    losses = [line["loss"] for line in train] + [line["loss"] for line in lines if line["type"] == "val"]
    assert len(train) == STEPS and len(losses) == STEPS + 1
    return {"loss": losses, "norm": [line["grad_norm"] for line in train]}


def distance(a, b):
    """{what: the largest relative difference of two histories}."""
    return {what: max(abs(x - y) / abs(y) for x, y in zip(a[what], b[what])) for what in b}


class Runs:
    """Runs of one variant, as many at once as there are cores."""

    def __init__(self, folder, data, flags):
        self.folder, self.arguments, self.count = folder, [*data, *flags.split()], 0

    def start(self, program, device, dtype, seed, more=""):
        self.count += 1
        arguments = [*self.arguments, "--device", device, "--dtype", dtype, "--seed", str(seed), *more.split()]
        return POOL.submit(history, program, arguments, self.folder / str(self.count))

    def truth(self):
        key = tuple(self.arguments)
        if key not in TRUTH:
            TRUTH.clear()
            TRUTH[key] = [self.start(EMULATED, "cpu", "fp64", seed) for seed in SEEDS]
        return TRUTH[key]

    def errors(self, dtype, program, device, more=""):
        """(errors of that program in the first seed's run, what is allowed)."""
        found = self.start(program, device, dtype, SEEDS[0], more)
        truth = self.truth()
        rounded = [self.start(REFERENCE[dtype], "cpu", dtype, seed) for seed in SEEDS]
        draws = [distance(a.result(), b.result()) for a, b in zip(rounded, truth)]
        allowed = {what: FACTOR * max(draw[what] for draw in draws) + FLOOR[what] for what in FLOOR}
        return distance(found.result(), truth[0].result()), allowed


QUICK = 20 if os.environ.get("TEST_QUICK") else 1


@pytest.mark.parametrize("dtype, flags", list(combinations())[::QUICK])
def test_cuda_trains_as_the_cpu_does(tmp_path, data, dtype, flags):
    found, allowed = Runs(tmp_path, data, flags).errors(dtype, EMULATED, "cuda")
    assert all(found[what] <= allowed[what] for what in allowed), (found, allowed)


# What a flag can get slightly wrong: the CPU does in fp32, the plain loops in bf16.
@pytest.mark.parametrize("dtype, flags, mistake", [
    ("fp32", "--arch llama", "--lr 0.030003"),
    ("fp32", "--arch llama", "--norm-eps 1.1e-6"),
    ("fp32", "--arch gpt2", "--beta2 0.9501"),
    ("fp32", "--arch gpt2 --gpas layer --gpas-init 0.3", "--gpas-init 0.3001"),
    ("fp32", "--arch llama --norm bhyt", "--bhyt-refresh 3"),
    ("fp32", "--arch llama --norm bhyt --gpas layer --gpas-init 0.3", "--bhyt-lambda-mlp 1.0001"),
    ("bf16", "--arch llama", "--lr 0.0306"),
    ("bf16", "--arch llama --norm rmsnorm", "--norm-eps 1e-3"),
    ("bf16", "--arch gpt2 --gpas layer --gpas-init 0.3", "--gpas-init 0.32"),
][::QUICK])
def test_a_small_mistake_is_seen(tmp_path, data, dtype, flags, mistake):
    found, allowed = Runs(tmp_path, data, flags).errors(dtype, REFERENCE[dtype], "cpu", mistake)
    assert any(found[what] > allowed[what] for what in allowed), (found, allowed)
