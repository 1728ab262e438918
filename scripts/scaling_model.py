#!/usr/bin/env python3
"""What would more GPUs bring? A model, not a measurement: nothing here has run on a GPU.

    scripts/scaling_model.py                        the page, on the screen
    scripts/scaling_model.py --write                scripts/results/scaling.md and scaling.png (needs matplotlib)
    scripts/scaling_model.py --set nic=25 mfu=0.5   with other numbers than those that it assumes

A step is: compute; each bucket of gradients reduce-scattered, on a queue of its own, once backward of its layers is done;
the update of a rank's share; each bucket of weights gathered, after the update or under the next forward. Efficiency is
the tokens/s of N GPUs over N times those of one.
"""
import argparse
import math
import os
import statistics
import sys

from assumptions import Assumptions, read_changes

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, "scripts", "results", "scaling.md")

# name → value, unit, why it is believed. All of it is assumed.
ASSUMED = {
    "peak": (989.0, "TFLOP/s", "H100 SXM, dense bf16"),
    "mfu": (0.40, "", "of a rank's compute alone; torchtitan reports 0.33 to 0.39 for 8B"),
    "memory": (2.4, "TB/s", "what AdamW's reading and writing gets (H100)"),
    "node": (8, "GPUs", "that NVLink joins"),
    "nvlink": (360.0, "GB/s", "NCCL's bus bandwidth inside a node; 450 is the link's"),
    "nic": (42.0, "GB/s", "of each GPU's 400 Gb/s port, one a GPU; the rings of a node use all of them"),
    "hop": (2.0, "µs", "latency of a ring's step inside a node"),
    "far-hop": (8.0, "µs", "between two nodes"),
    "call": (15.0, "µs", "start of a collective"),
    "lone": (68.0, "µs", "what a call costs besides where each tensor has one, and nothing hides it: the host, and ranks that wait for "
             "each other. **Fitted** to the middle of llm.c's point; buckets have none of it"),
    "bucket": (25.0, "MB", "--bucket-mb, of fp32 gradients; a bucket holds whole layers"),
    "spread": (2.35, "%", "standard deviation of a GPU's compute time; a step takes as long as the slowest. **Fitted** to torchtitan's point"),
}

# Parameters, layers, width, vocabulary, tied head; tokens an update of the whole job, as such models are trained.
MODELS = {
    "124M": (12, 768, 50257, 4.0, True, 0.5e6),
    "1.5B": (48, 1600, 50257, 4.0, True, 1.0e6),
    "7B": (32, 4096, 32000, 4.0, False, 4.0e6),
}
SEQUENCE, TOKENS_A_GPU = 1024, 32768
GPUS = [8, 64, 512, 1024]


class Cluster(Assumptions):
    """Of GPUs, nodes and what joins them."""

    def __init__(self, changes=(), **more):
        super().__init__(ASSUMED, [*changes, *more.items()])

    def collective(self, size, ranks):
        """Seconds of a reduce-scatter or an all-gather of so many bytes: a ring."""
        if ranks == 1:
            return 0.0
        nodes = math.ceil(ranks / self["node"])
        bandwidth = self["nvlink"] if nodes == 1 else min(self["nvlink"], self["node"] * self["nic"])
        hops = (ranks - 1) * self["hop"] if nodes == 1 else (ranks - nodes) * self["hop"] + nodes * self["far-hop"]
        return self["call"] + hops + (ranks - 1) / ranks * size / bandwidth

    def slowest(self, ranks):
        """By what the slowest of so many takes longer than the middle one (Elfving's estimate of a normal's maximum)."""
        return 1 + self["spread"] * statistics.NormalDist().inv_cdf(0.5264 ** (1 / ranks))


def layers_of(model):
    """Parameters of the embedding, of each block, of a head of its own: in the order of forward."""
    layers, width, vocabulary, ffn, tied, _ = model
    block = (4 + 2 * ffn if tied else 4 + 3 * 2.6875) * width * width  # 7B: SwiGLU of 11008
    return [vocabulary * width, *[block] * layers, *([] if tied else [vocabulary * width])]


def buckets_of(parts, least):
    """(parameters, last layer in it, first layer in it), in the order of forward; each of at least so many bytes of fp32."""
    buckets, size, first = [], 0.0, 0
    for i, part in enumerate(parts):
        size += part
        if 4 * size >= least or i + 1 == len(parts):
            buckets.append((size, first, i))
            size, first = 0.0, i + 1
    return buckets


def tensors_of(parts, blocks):
    """Parameters of each tensor: a block of GPT-2 has 12, four of them matrices; what else there is, one each."""
    matrices = (3 / 12, 1 / 12, 4 / 12, 4 / 12)
    return [size for i, part in enumerate(parts) for size in
            ([part * share for share in matrices] + [part * 1e-4] * 8 if 1 <= i <= blocks else [part])]


def step(cluster, parts, tokens, ranks, hidden=False, storage=2, tensors=None):
    """Seconds of a step with so many tokens a GPU, and how much of them compute does not hide. With tensors: a gather for each
    of them, after the update, instead of one for each bucket."""
    micro = max(tokens / 8192, 1)  # micro-steps; the reduction is under the backward of the last one
    compute = 6 * sum(parts) * tokens / (cluster["peak"] * cluster["mfu"]) * cluster.slowest(ranks)
    forward, backward = compute / micro / 3, compute / micro * 2 / 3
    buckets, whole = buckets_of(parts, cluster["bucket"]), sum(parts)
    before = [sum(parts[:i]) / whole for i in range(len(parts) + 1)]
    done = 0.0  # of the reductions, from the start of the last backward
    for size, first, _ in reversed(buckets):
        done = max(done, backward * (1 - before[first])) + cluster.collective(4 * size, ranks)
    reduce = max(done - backward, 0.0)
    update = 28 * whole / ranks / cluster["memory"]
    gathers = [cluster.collective(storage * size, ranks) for size, _, _ in buckets]
    if hidden:
        there = at = 0.0  # a bucket's gather is done; forward has come so far
        for (_, first, last), gather in zip(buckets, gathers):
            there += gather
            at = max(at, there) + forward * (before[last + 1] - before[first])
        gather = max(at - forward, 0.0)
    elif tensors and ranks > 1:
        gather = sum(cluster.collective(storage * size, ranks) + cluster["lone"] for size in tensors)
    else:
        gather = sum(gathers)
    return compute + reduce + update + gather, {"reduce": reduce, "update": update, "gather": gather}


def efficiency(cluster, parts, tokens, ranks, tokens_alone=None, hidden=False, tensors=None):
    alone, _ = step(cluster, parts, tokens_alone or tokens, 1)
    together, _ = step(cluster, parts, tokens, ranks, hidden, tensors=tensors)
    return tokens / together / ((tokens_alone or tokens) / alone)


# ------------------------------------------------------------------------------------------------------ published


def torchtitan(cluster):
    """FSDP2, 8B, two sequences of 8192 a GPU: each layer gathered twice in bf16 and reduced in fp32, beside compute."""
    parts = [128256 * 4096, *[218e6] * 32, 128256 * 4096]
    compute = 8192 * 2 / 5762  # seconds: its own step on 8 GPUs

    def seconds(ranks):
        ends = cluster.collective(2 * parts[0], ranks) + cluster.collective(4 * parts[0], ranks)  # nothing hides these
        inside = sum(2 * cluster.collective(2 * p, ranks) + cluster.collective(4 * p, ranks) for p in parts[1:])
        return max(compute * cluster.slowest(ranks), inside) + ends

    return seconds(8) / seconds(128)


def llmc(cluster, lone=None):
    """llm.c's 124M on 8 A100. Seconds of: its weights' gather in one call; with the gradients' all-reduce, hidden by nothing
    either; the gather a tensor at a time, by as many calls."""
    a100 = Cluster(cluster.values.items(), nvlink=230, peak=312, **({} if lone is None else {"lone": lone}))
    tensors = [*tensors_of(layers_of(MODELS["124M"]), 12), 1024 * 768, 768, 768]  # positions, the last norm
    whole = a100.collective(2 * sum(tensors), 8)
    return whole, 3 * whole, sum(a100.collective(2 * size, 8) + a100["lone"] for size in tensors), len(tensors)


def published(cluster):
    """What was measured, in words, the least and the most of it; what the model says."""
    sizes = {"1.5B": 1.5e9 / 28, "0.5B": 0.5e9 / 24}
    llmq = {(name, hidden): efficiency(cluster, [part] * round((1.5e9 if name == "1.5B" else 0.5e9) / part), 65536, 8, hidden=hidden) * 100
            for name, part in sizes.items() for hidden in (False, True)}
    return [
        ("torchtitan, 8B, FSDP2: 128 H100 over 8 (its docs/performance.md)", "97.3 %", 97.2, 97.4,
         torchtitan(cluster) * 100, "%", "fitted: `spread` is chosen so"),
        ("LLMQ, 1.5B: 8 H100 over one", "97 %", 96.0, 98.0, llmq["1.5B", False], "%",
         f"assumed: 65 536 tokens a GPU and step, weights gathered after the update (else {llmq['1.5B', True]:.1f} %)"),
        ("LLMQ, 0.5B: 8 H100 over one", "95 to 100 %", 95.0, 100.0, llmq["0.5B", False], "%",
         f"the same (else {llmq['0.5B', True]:.1f} %)"),
        ("llm.c, 124M, ZeRO-1 on 8 A100 (pull request 309): what a step takes longer than on one", "10 to 20 ms", 10.0, 20.0,
         llmc(cluster)[2] * 1e3, "ms", "fitted: `lone` is chosen so; NVLink at 230 GB/s"),
    ]


# ----------------------------------------------------------------------------------------------------------- page


def rows_of(cluster):
    """(model, GPUs, kind) → efficiency, or None where there is less than a sequence a GPU."""
    rows = {}
    for name, model in MODELS.items():
        parts, batch = layers_of(model), model[5]
        for gpus in GPUS:
            rows[name, gpus, "weak"] = efficiency(cluster, parts, TOKENS_A_GPU, gpus, hidden=True)
            large = Cluster(cluster.values.items(), bucket=200)
            rows[name, gpus, "large"] = efficiency(large, parts, TOKENS_A_GPU, gpus, hidden=True)
            rows[name, gpus, "lone"] = efficiency(cluster, parts, TOKENS_A_GPU, gpus, tensors=tensors_of(parts, model[0]))
            rows[name, gpus, "after"] = efficiency(cluster, parts, TOKENS_A_GPU, gpus)
            share = batch / gpus
            rows[name, gpus, "strong"] = efficiency(cluster, parts, share, gpus, batch, hidden=True) if share >= SEQUENCE else None
    return rows


def page(cluster):
    rows, lines = rows_of(cluster), []
    lines += ["# What more GPUs would bring: a model", "",
              "**Predicted by `scripts/scaling_model.py`, not measured: this program has not run on several GPUs yet.** Efficiency is the",
              "tokens/s of N GPUs over N times those of one, --zero 1, bf16 weights, fp32 gradients.", "",
              "![efficiency over GPUs](scaling.png)", "",
              "| model | " + " | ".join(f"{gpus} GPUs" for gpus in GPUS) + " |", "|---|" + "---|" * len(GPUS)]
    for kind, words in (("weak", f"{TOKENS_A_GPU} tokens a GPU and step"), ("large", "the same, --bucket-mb 200"),
                        ("after", "the same as first, weights gathered after the update"),
                        ("lone", "the same as first, after the update a tensor at a time"), ("strong", "one batch for all")):
        for name, model in MODELS.items():
            cells = [rows[name, gpus, kind] for gpus in GPUS]
            what = words + (f": {model[5] / 1e6:g} M tokens" if kind == "strong" else "")
            lines.append(f"| {name}, {what} | " + " | ".join("–" if e is None else f"{e * 100:.0f} %" for e in cells) + " |")
    lines += ["", "A ring's latency grows with its GPUs, so that small models on many of them want larger buckets than 25 MB.", "",
              "“–”: less than a sequence a GPU. Weights are gathered under the next forward, a bucket at a time, as this program does, but in",
              "the rows that say otherwise: after the update nothing hides that. What one GPU would do alone counts as if its memory sufficed.", "",
              "What compute does not hide, of a step of " + f"{TOKENS_A_GPU} tokens a GPU on {GPUS[-1]} GPUs:", "",
              "| model | step | reductions | update | gathers |", "|---|---|---|---|---|"]
    for name, model in MODELS.items():
        seconds, parts = step(cluster, layers_of(model), TOKENS_A_GPU, GPUS[-1], hidden=True)
        lines.append(f"| {name} | {seconds * 1e3:.0f} ms | " + " | ".join(f"{parts[k] * 1e3:.1f} ms" for k in ("reduce", "update", "gather")) + " |")
    lines += ["", "## Beside what others measured", "", "| point | measured | model | |", "|---|---|---|---|"]
    for what, said, least, most, value, unit, note in published(cluster):
        verdict = "agrees" if least <= value <= most else f"**misses**, {'above' if value > most else 'below'}"
        lines.append(f"| {what} | {said} | {value:.1f} {unit} | {verdict}; {note} |")
    whole, reduced, split, calls = (number * scale for number, scale in zip(llmc(cluster, lone=0), (1e3, 1e3, 1e3, 1)))
    least, most = ((asked - split) / calls * 1e3 for asked in (10, 20))
    lines += ["", "Two numbers are fitted, so that the first and the last point check nothing; two are left. The last is no measurement of a",
              "gather, but by how much a step became longer, in a sentence. llm.c then summed whole gradients on every GPU (until pull",
              "request 421), after backward (361 would hide that), and gathered after the update: nothing was hidden. Without `lone` the",
              f"model gives {whole:.1f} ms to one gather of 249 MB, {reduced:.1f} ms with the gradients' sum, {split:.1f} ms to a gather of each of {calls} tensors. So NVLink's",
              f"rate does not explain 10 ms; {least:.0f} to {most:.0f} µs more a call would, or ranks that are not ready at the same time: which of them, only",
              "a trace could tell. (llm.c of today groups a kind of tensor's gathers: 16 launches, each behind its AdamW.) This program",
              "gathers buckets: few calls, one behind another.", "",
              "## What it assumes", "", *cluster.rows()]
    lines += ["", "Rings of all GPUs; no trees, no in-network sums. Links do not slow compute down, nor other jobs the links. Micro-steps of",
              "8192 tokens; FLOPs are 6 a parameter and token. AdamW moves 28 bytes a parameter of the rank's share. Blocks have 12 width²",
              "parameters, of the 7B 12.06 (SwiGLU). `--set name=value` changes a number, `--write` makes this page and the picture.", ""]
    return "\n".join(lines)


def draw(cluster, path):
    import picture

    figure, axes = picture.new_figure(2, "Efficiency over GPUs, predicted by scripts/scaling_model.py: nothing is measured",
                                      share_x=True)
    rows = rows_of(cluster)
    for axis, kind, title in zip(axes, ("weak", "strong"), (f"{TOKENS_A_GPU} tokens a GPU and step",
                                                            "one batch: 0.5 M, 1 M and 4 M tokens")):
        for (name, _), color in zip(MODELS.items(), picture.COLORS):
            points = [(gpus, rows[name, gpus, kind] * 100) for gpus in GPUS if rows[name, gpus, kind] is not None]
            axis.plot(*zip(*points), color=color, marker="o", markersize=4)
            picture.name_end(axis, points[-1], name, color)
        axis.set_title(title, fontsize=10)
        axis.set_xscale("log", base=2)
        axis.set_xticks(GPUS, [str(gpus) for gpus in GPUS])
        axis.set_xlim(6, 2300)
        axis.set_ylim(0, 105)
        axis.set_xlabel("GPUs (logarithmic)")
        axis.set_ylabel("efficiency, %")
    picture.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="scripts/results/scaling.md and scaling.png")
    parser.add_argument("--set", nargs="+", default=[], metavar="name=value", help="another assumption")
    options = parser.parse_args()
    try:
        cluster = Cluster(read_changes(options.set))
    except ValueError as error:
        print(f"scaling_model.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    text = page(cluster)
    if not options.write:
        print(text)
        return
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(text)
    draw(cluster, PAGE.replace(".md", ".png"))
    print(f"{PAGE} and scaling.png beside it", file=sys.stderr)


if __name__ == "__main__":
    main()
