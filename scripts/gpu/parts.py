"""What does a check of a GPU consist of? One function a part: it measures, and puts rows and marks into its
Part.

A part raises Unavailable where it cannot run, and stops by itself at its deadline.
"""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

from gpu import data, marks, pairs, steps
from gpu.machine import ROOT, Unavailable
from gpu.pairs import Run, RunFailed

TAP = re.compile(r"^(ok|not ok) (\d+) - (.*?)(# SKIP.*)?$")


class Lines:
    """The lines of a program until it ends or the deadline kills it."""

    def __init__(self, command, env, deadline):
        self.child = subprocess.Popen(
            [str(word) for word in command],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=pairs.die_with_parent,
        )
        self.cut = False
        self.timer = threading.Timer(max(deadline - time.monotonic(), 0.1), self._kill)

    def _kill(self):
        self.cut = True
        os.killpg(self.child.pid, signal.SIGKILL)

    def __iter__(self):
        self.timer.start()
        for line in self.child.stdout:
            yield line.decode(errors="replace").rstrip("\n")
        self.child.wait()
        self.timer.cancel()

    @property
    def status(self):
        return "cut" if self.cut else self.child.returncode


def json_rows(name, command, env, deadline):
    """The JSON objects that a program prints, as they come. RunFailed, with its last other lines, if it fails."""
    lines, others = Lines(command, env, deadline), []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            others = (others + [line])[-8:]
            continue
        yield row
    if lines.status != 0:
        raise RunFailed(f"{name} ended with status {lines.status}: {' | '.join(others)}")


# ------------------------------------------------------------------------------------------------- suite


CANNOT_RUN = 2  # the exit code of a test program that tests nothing here; its last line says why


def run_tap(machine, part, deadline, command, refusal=None, **env):
    """A program that speaks TAP, or several that speak at once. What did not come to its end counts as failed, but for one
    that ended before its tests with a line like `refusal`: that is Unavailable."""
    passed = failed = skipped = planned = seen = 0
    lines = Lines(command, dict(machine.env, CMOCKA_MESSAGE_OUTPUT="TAP", **env), deadline)
    tail = []
    for line in lines:
        tail = (tail + [line])[-6:]
        plan, result = re.match(r"^1\.\.(\d+)$", line), TAP.match(line)
        if plan:
            planned += int(plan.group(1))
        if not result:
            continue
        seen += 1
        if result.group(4):
            skipped += 1
        elif result.group(1) == "ok":
            passed += 1
        else:
            failed += 1
            part.row(test=result.group(3).strip(), result="failed")
        part.set(passed=passed, failed=failed, skipped=skipped)
    if planned == 0 and lines.status == CANNOT_RUN and tail:
        raise Unavailable(tail[-1])
    refused = [line for line in tail if refusal and re.search(refusal, line)]
    if planned == 0 and refused:
        raise Unavailable(refused[0])
    if lines.status != 0 and seen < planned or planned == 0:
        failed += max(planned - seen, 1)
        part.row(
            result=f"{planned - seen} of {planned} tests did not run: status {lines.status}", output=tail
        )
    part.set(passed=passed, failed=failed, skipped=skipped)
    if passed == 0 and failed == 0:
        del part.data["passed"], part.data["failed"]  # nothing ran: nothing counts
        raise Unavailable(f"every test was skipped ({' | '.join(tail[-2:])})")


def suite(machine, part, deadline, implementation):
    """The operation suite on the device."""
    command = [machine.program("test_ops_cuda"), "test", "--implementation", implementation]
    run_tap(machine, part, deadline, command + ["--operation", "sum_squares"] * machine.rehearsal)


# ------------------------------------------------------------------------------------------- collectives

# One process a rank, with what torchrun would tell it and, where HOSTS is set, as if it were on a host of its own; their end
# is good if each one's is.
START_RANKS = """
export WORLD_SIZE=$RANKS LOCAL_WORLD_SIZE=${GPUS:-$RANKS}
for rank in $(seq 0 $(($RANKS - 1))); do
    RANK=$rank LOCAL_RANK=$(($rank % $LOCAL_WORLD_SIZE)) ${HOSTS:+env NCCL_HOSTID=$rank} "$@" & ranks="$ranks $!"
done
status=0
for rank in $ranks; do wait $rank || status=$?; done
exit $status
"""


def collectives(machine, part, deadline):
    """The collectives, a rank on each GPU: with one GPU it shows that NCCL opens, captures and copies."""
    ranks = 1 if machine.rehearsal else machine.gpu_count()
    elements = 1 << (10 if machine.rehearsal else 23)
    part.set(ranks=ranks)
    run_tap(
        machine,
        part,
        deadline,
        [*machine.start_ranks(ranks, START_RANKS), machine.program("test_collective_cuda"), elements],
        RANKS=str(ranks),
        RANKS_ID_FILE=os.path.join(machine.scratch, "nccl-id"),
        RANKS_TIMEOUT="60",
    )


# ------------------------------------------------------------------------------------------------- ranks

# How two ranks share a GPU, if at all: NCCL 2.30 lets them when it is told to; an older one takes two on two hosts for two
# GPUs, and goes by sockets.
SHARED = {
    "NCCL_MULTI_RANK_GPU_ENABLE=1": {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "GPUS": "1"},
    "NCCL_HOSTID of each rank's own": {"HOSTS": "1", "GPUS": "1", "NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1"},
}
REFUSED = r"NCCL: opening rank"


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def two_ranks(machine, part, deadline):
    """Two ranks, each on a GPU of its own or both on the only one: the collectives, and a short training at --zero 0 and 1.
    Where NCCL lets no two share, it is said in which words."""
    ways = {"a GPU each": {}} if machine.rehearsal or machine.gpu_count() > 1 else SHARED
    for way, settings in ways.items():
        id_file = os.path.join(machine.scratch, f"nccl-id-{time.monotonic_ns()}")
        env = dict(RANKS="2", RANKS_TIMEOUT="60", RANKS_ID_FILE=id_file, **settings)
        elements = 1 << (10 if machine.rehearsal else 20)
        command = [*machine.start_ranks(2, START_RANKS), machine.program("test_collective_cuda"), elements]
        try:
            run_tap(machine, part, deadline, command, REFUSED, **env)
        except Unavailable as error:
            part.row(way=way, refused=str(error))
            continue
        part.set(way=way)
        return train_as_two(machine, part, deadline, settings)
    raise Unavailable("; ".join(f"{row['way']}: {row['refused']}" for row in part.data["rows"]))


def train_as_two(machine, part, deadline, settings):
    """In fp32, half a batch a rank: each step's loss is one rank's, to what rounding may take both apart; --zero 1 gives the bits
    of --zero 0, and a second run those of the first."""
    program, shape = machine.program("train_gpt_emu" if machine.rehearsal else "train_gpt"), training_shape(machine)
    whole, threads = int(shape[shape.index("--batch-size") + 1]), 1 if machine.rehearsal else min(os.cpu_count() or 1, 16)
    total = ["--total-batch-tokens", whole * (5 if machine.rehearsal else 128)]
    losses = lambda name, flags, starts=(), **env: training_losses(
        machine, program, shape, name, [*TRAINED["pre"], *total, *flags], "cuda", "fp32", 1, deadline, starts, **env
    )
    both = lambda zero, name: losses(
        name, ["--batch-size", whole // 2, "--zero", zero, "--timeout", "60"], machine.start_ranks(2, START_RANKS),
        RANKS="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()), **settings,
    )
    on_cpu = lambda dtype: training_losses(
        machine, program, shape, "cpu", [*TRAINED["pre"], *total], "cpu", dtype, threads, deadline
    )
    limit = 2 * fp32_limit(on_cpu("fp64"), on_cpu("fp32"))
    one, plain, shared, again = losses("one", []), both("0", "two"), both("1", "two-zero"), both("1", "two-again")
    worst = max(abs(a - b) for a, b in zip(one, plain))
    found = {
        "losses_of_one": len(plain) == len(one) and worst <= limit and one[-1] < one[0],
        "zero_1_is_zero_0": shared == plain,
        "same_bits_again": again == shared,
    }
    part.row(case="training", worst=worst, limit=limit, first=one[0], last=one[-1], **found)
    part.set(passed=part.data["passed"] + sum(found.values()), failed=part.data["failed"] + len(found) - sum(found.values()))


# --------------------------------------------------------------------------------------------- sanitizer

# First what has barriers, shared memory and odd ends; a cut run has then seen the most important ones.
SANITIZED = [
    "junction_backward",
    "attention_backward",
    "attention_forward",
    "junction_forward",
    "embedding_backward",
    "cross_entropy",
    "qkv_backward",
    "activation_backward",
    "sum_squares",
    "adamw",
    "muon_momentum",
    "scaled_copy",
    "axpby",
    "muon_update",
    "linear_backward_weight",
    "linear_forward",
    "attention_decode",
    "tensor_stats",
    "qkv_forward",
    "activation_forward",
    "gpas_scales",
    "embedding_forward",
    "product_norm",
    "cast",
    "halves",
    "hash",
]


def sanitizer_errors(text):
    """The sum of a tool's summaries, or None where there is none: then nothing was checked."""
    counts = [int(n) for n in re.findall(r"^=+ ERROR SUMMARY: (\d+) error", text, re.MULTILINE)]
    counts += [int(n) for n in re.findall(r"^=+ RACECHECK SUMMARY: (\d+) hazard", text, re.MULTILINE)]
    return sum(counts) if counts else None


def sanitizer(machine, part, deadline, tool):
    if not machine.sanitizer:
        raise Unavailable("there is no compute-sanitizer")
    errors, clean, unchecked = 0, [], []
    part.set(errors=None)
    operations = ["sum_squares"] if machine.rehearsal else SANITIZED
    for operation in operations:
        if time.monotonic() > deadline - 10:
            unchecked.append(f"{operation}: no time left")
            continue
        command = [
            machine.sanitizer,
            "--tool",
            tool,
            machine.program("test_ops_cuda"),
            "test",
            "--implementation",
            "cuda/bf16",
            "--operation",
            operation,
        ]
        lines = Lines(command, dict(machine.env, CMOCKA_MESSAGE_OUTPUT="TAP", OPS_SAMPLE="1"), deadline)
        text = "\n".join(lines)
        found = sanitizer_errors(text)
        if found is None or lines.status == "cut":
            unchecked.append(
                f"{operation}: {'cut' if lines.status == 'cut' else 'no summary: ' + text[-200:]}"
            )
        if found:
            part.row(
                operation=operation,
                errors=found,
                output=[x for x in text.splitlines() if x.startswith("=")][:40],
            )
        errors += found or 0
        if found == 0 and lines.status != "cut":
            clean.append(operation)
        part.set(clean=clean, unchecked=unchecked)
    if not clean and not errors:
        raise Unavailable(f"nothing could be checked: {unchecked[0]}")
    part.set(errors=errors)


# ---------------------------------------------------------------------------------------------- training

TRAINED = {
    "pre": ["--norm", "rmsnorm"],
    "gpt2": ["--arch", "gpt2"],
    "post-gpas": ["--placement", "post", "--gpas", "layer"],
    "bhyt": ["--norm", "bhyt"],
    "sdd-sandwich": ["--sdd", "paper", "--placement", "sandwich"],
    "residual-fp32": ["--placement", "post", "--residual-dtype", "fp32"],
}
TRAINING_STEPS = 20
LR = 3e-3
CASE_S = 15  # a case is not begun with less time than this


def training_losses(machine, program, shape, name, flags, device, dtype, threads, deadline, starts=(), **env):
    out = os.path.join(machine.scratch, f"train-{name}-{device}-{dtype}-{time.monotonic_ns()}")
    command = [
        *starts,
        program,
        *shape,
        *flags,
        "--device",
        device,
        "--dtype",
        dtype,
        "--lr",
        LR,
        "--warmup-steps",
        2,
        "--out",
        out,
    ]
    done = subprocess.run(
        [str(word) for word in command],
        env=dict(machine.env, OMP_NUM_THREADS=str(threads), **env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=max(deadline - time.monotonic(), 1),
    )
    if done.returncode:
        raise RunFailed(steps.refusal(done.stdout.decode(errors="replace")))
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
        return [line["loss"] for line in map(json.loads, file) if line["type"] == "train"]


def training_shape(machine):
    """tiny on a GPU; a few emulated steps of next to nothing in a rehearsal."""
    shard = os.path.join(ROOT, "test", "reference", "fixtures", "llama", "train.bin")
    if machine.rehearsal:
        shape = "--arch llama --n-layer 2 --n-embd 32 --n-head 4 --vocab-size 61 --seq-len 5 --batch-size 2 --steps 3"
    else:
        shape = f"--preset tiny --arch llama --batch-size 8 --steps {TRAINING_STEPS}"
        shard = data.shard(machine.scratch, 256, 1 << 20)
    return [*shape.split(), "--val-every", "0", "--train-data", shard]


def fp32_limit(truth, single):
    """How far losses in fp32 may be from those in fp64, of which the CPU's own are `single` and `truth`."""
    return max(3 * max(abs(a - b) for a, b in zip(single, truth)), 16 * 4 * 2.0**-24)


def training(machine, part, deadline):
    """A short training against the CPU's in fp64. In fp32 rounding differs with the order of sums and
    training multiplies it; the CPU's own fp32 run says by how much: three times that, and never less than
    16 roundings of a loss that is about 4. bf16 keeps 8 bits: a logit of order 1 behind four roundings of
    2^-9 is off by 2^-7, a cross-entropy by at most twice that; AdamW then moves a weight by at most lr a
    step, which carries it on: lr times the number of steps more."""
    program = machine.program("train_gpt_emu" if machine.rehearsal else "train_gpt")
    shape, passed, failed = training_shape(machine), 0, 0
    threads = 1 if machine.rehearsal else min(os.cpu_count() or 1, 16)
    cases = dict(list(TRAINED.items())[:1]) if machine.rehearsal else TRAINED
    for name, flags in cases.items():
        if time.monotonic() > deadline - CASE_S:
            failed += 1
            part.row(case=name, result="not run: no time left")
            part.set(passed=passed, failed=failed)
            continue
        losses = lambda device, dtype: training_losses(
            machine, program, shape, name, flags, device, dtype, threads, deadline
        )
        try:
            truth, single = losses("cpu", "fp64"), losses("cpu", "fp32")
            limits = {"fp32": fp32_limit(truth, single), "bf16": 2 * 2.0**-7 + LR * len(truth)}
            for dtype, limit in limits.items():
                found = losses("cuda", dtype)
                worst = max(abs(a - b) for a, b in zip(found, truth))
                good = len(found) == len(truth) and worst <= limit and truth[-1] < truth[0]
                passed, failed = passed + good, failed + (not good)
                part.row(
                    case=name,
                    dtype=dtype,
                    worst=worst,
                    limit=limit,
                    first=truth[0],
                    last=truth[-1],
                    good=good,
                )
            same = losses("cuda", "bf16") == found  # a promise: the same bits on every run
            passed, failed = passed + same, failed + (not same)
            part.row(case=name, dtype="bf16", same_bits_again=same)
        except (RunFailed, subprocess.TimeoutExpired) as error:
            failed += 1
            part.row(case=name, result=f"failed: {error}")
        part.set(passed=passed, failed=failed)


# -------------------------------------------------------------------------------------------- operations

# mark → how its row of gpu_probe is called, and the number there.
PROBED = {
    "attention.fwd_tflops": (r"attention_forward B=16 T=1024 H=12/12 D=64", "tflops"),
    "attention.bwd_tflops": (r"attention_backward B=16 T=1024 H=12/12 D=64", "tflops"),
    "junction.fwd_bandwidth_share": (
        r"junction_forward layernorm C=1600 N=\d+ residual bf16",
        "share_of_copy",
    ),
    "junction.bwd_bandwidth_share": (
        r"junction_backward layernorm C=1600 N=\d+ residual bf16",
        "share_of_copy",
    ),
    "adamw.bandwidth_share": (r"adamw \d+ parameters", "share_of_copy"),
}


def operations(machine, part, deadline):
    command = [machine.program("gpu_probe")] + ["--tiny"] * machine.rehearsal
    for row in json_rows("gpu_probe", command, machine.env, deadline):
        part.row(**row)
        for mark, (name, key) in PROBED.items():
            if re.fullmatch(name, str(row.get("name"))):
                part.mark(mark, row[key])


# -------------------------------------------------------------------------------------- steps and variants


def whole_steps(machine, part, deadline, model):
    preset = machine.preset or model
    best = steps.search(machine, preset, part, deadline)
    if not best:
        raise RunFailed("no batch size could be measured")
    batch_size, mode, seconds = best
    tokens = marks.SIZES[preset]["tokens"]
    part.mark(f"{model}.tokens_per_s", round(tokens / seconds, 1))
    flops, peak = steps.flops_per_token(machine, preset)
    part.set(best_batch_size=batch_size, best_mode=mode, flops_per_token=flops, peak_flops=peak)
    part.mark(f"{model}.mfu", round(tokens / seconds * flops / peak, 5) if peak else None)


def variants(machine, part, deadline, names):
    """Each variant's step over the baseline's; first the baseline over itself: how far two equal things
    seem apart."""
    preset = machine.preset or "llama-350m"
    size = marks.SIZES[preset]
    batch_size, llama = size["batch_sizes"][-1], ["--arch", "llama"]
    command = lambda flags: steps.train_command(
        machine, preset, batch_size, batch_size * size["T"], llama + flags
    )
    env = steps.environment(machine)
    names = names[:1] if machine.rehearsal else names
    turn, rounds = (0.03, 6) if machine.rehearsal else (0.4, 60)
    with Run(command([]), env) as base:
        base.wait_steps(steps.WARMUP_STEPS, deadline)
        base.pause()
        for i, name in enumerate(["A/A"] + names):
            left = deadline - time.monotonic()
            share = time.monotonic() + left / (len(names) + 1 - i)
            try:
                with Run(command(marks.VARIANTS.get(name, [])), env) as other:
                    other.wait_steps(steps.WARMUP_STEPS, share)
                    found = pairs.ratios(base, other, rounds, turn, share)
            except RunFailed as error:
                part.row(variant=name, error=steps.refusal(str(error)))
                if base.ended:
                    raise
                continue
            result = pairs.summary(found)
            part.row(
                variant=name,
                flags=marks.VARIANTS.get(name, []),
                preset=preset,
                batch_size=batch_size,
                **result,
            )
            if name == "A/A":
                part.set(a_a=result)
            elif result["pairs"] >= pairs.FEWEST:
                part.mark(f"variant.{name}.overhead", result["ratio"])


# ------------------------------------------------------------------------------------------------ PyTorch


def pytorch(machine, part, deadline, model):
    """scripts/compare_pytorch.py, whose rows and marks are taken over as they come."""
    preset = machine.preset or model
    probe = subprocess.run(
        [machine.python, "-c", "import torch._dynamo"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if probe.returncode:
        raise Unavailable(f"{machine.python} has no PyTorch, or one before 2.0")
    command = [
        machine.python,
        os.path.join(ROOT, "scripts", "compare_pytorch.py"),
        "--preset",
        preset,
        "--device",
        machine.device,
        "--train-gpt",
        machine.program("train_gpt"),
        "--scratch",
        machine.scratch,
        "--seconds",
        int(deadline - time.monotonic() - 5),
        "--json",
    ]
    if machine.rehearsal:
        command += ["--modes", "eager", "--pairs", 6, "--turn", 0.05]
    known = part.results.data["parts"].get(f"steps-{model}", {})
    if "best_batch_size" in known:
        command += ["--our-batch-size", known["best_batch_size"], "--our-mode", known["best_mode"]]
    for row in json_rows("compare_pytorch.py", command, steps.environment(machine), deadline):
        part.row(**row)
        if row.get("row") == "ratio":
            part.mark(f"{model}.vs_pytorch", row["ratio"])


def table():
    """name → function(machine, part, deadline), in the order in which they run."""
    parts = {}
    for short in ("bf16", "f32"):
        parts[f"suite-{short}"] = lambda m, p, d, short=short: suite(m, p, d, f"cuda/{short}")
    parts["collectives"] = collectives
    parts["two-ranks"] = two_ranks
    parts["training"] = training
    parts["operations"] = operations
    for model in marks.MODELS:
        parts[f"steps-{model}"] = lambda m, p, d, model=model: whole_steps(m, p, d, model)
    for model in marks.MODELS:
        parts[f"pytorch-{model}"] = lambda m, p, d, model=model: pytorch(m, p, d, model)
    for name, group in marks.VARIANT_PARTS.items():
        parts[name] = lambda m, p, d, group=group: variants(m, p, d, group)
    for tool in ("memcheck", "racecheck", "initcheck"):
        parts[f"sanitizer-{tool}"] = lambda m, p, d, tool=tool: sanitizer(m, p, d, tool)
    return parts


PARTS = table()


def chosen(names):
    """The parts that some words mean: a part, or the beginning of several ("steps"). KeyError names what is
    none."""
    if not names:
        return list(PARTS)
    found = []
    for name in names:
        matching = [part for part in PARTS if part == name or part.startswith(name + "-")]
        if not matching:
            raise KeyError(name)
        found += [part for part in matching if part not in found]
    return found
