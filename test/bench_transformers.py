#!/usr/bin/env python3
"""How fast does text come out, beside transformers on the same machine, weights and threads? Greedy, on the CPU: ours in fp32 and, where
this CPU takes it, in bf16; theirs in fp32.

    test/bench_transformers.py [TRAIN_GPT [BATCH…]]         default ./train_gpt 1 8

A GPT-2 of 124M with random weights, written by transformers; all take turns. Prints a JSON line a batch and type of ours:
    {"bench":"transformers","dtype":…,"B":…,"prompt":…,"tokens":…,"prefill_tokens_per_s":…,"their_prefill_tokens_per_s":…,
     "decode_tokens_per_s":…,"their_decode_tokens_per_s":…,"prefill_ratio":…,"decode_ratio":…,"low":…,"high":…,"same_ids":…}
Ratios are medians over the rounds of ours over theirs, with the least and the largest of the rounds' for decoding. Theirs is
the time of generate() for one token (prefill), and for TOKENS more (decode). BENCH_ROUNDS=5, BENCH_LAYERS=12,
BENCH_PROMPT=128, BENCH_TOKENS=32 make it another.
"""
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

PROMPT, TOKENS = int(os.environ.get("BENCH_PROMPT", 128)), int(os.environ.get("BENCH_TOKENS", 32))
ROUNDS, LAYERS = int(os.environ.get("BENCH_ROUNDS", 5)), int(os.environ.get("BENCH_LAYERS", 12))


def types(program):
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return ["fp32"] + ["bf16"] * bool(re.search(r"^  bf16 +the processor", version, re.MULTILINE))


def ours(program, folder, prompts, threads, dtype):
    """(prompt tokens/s, tokens/s, new ids)"""
    path = os.path.join(folder, "prompts.jsonl")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"ids": ids}) + "\n" for ids in prompts)
    done = subprocess.run([program, "--init-from", folder, "--generate-file", path, "--max-new-tokens", str(TOKENS + 1),
                           "--temperature", "0", "--batch-size", str(len(prompts)), "--threads", str(threads), "--dtype", dtype,
                           "--device", "cpu"], capture_output=True, text=True, check=True)
    rates = re.search(r"of prompts at ([\d.]+) tokens/s; then \d+ tokens at ([\d.]+) tokens/s", done.stderr)
    return float(rates[1]), float(rates[2]), [json.loads(line)["ids"] for line in done.stdout.splitlines()]


def theirs(torch, model, prompts):
    ids = torch.tensor(prompts)

    def seconds(count):
        begin = time.monotonic()
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False,
                             use_cache=True, pad_token_id=0)
        return time.monotonic() - begin, out[:, ids.shape[1]:].tolist()

    with torch.inference_mode():
        first, _ = seconds(1)
        whole, new = seconds(TOKENS + 1)
    return ids.numel() / first, len(prompts) * TOKENS / (whole - first), new


def compare(torch, model, program, folder, batch, threads):
    draw = torch.Generator().manual_seed(batch)
    prompts = torch.randint(model.config.vocab_size, (batch, PROMPT), generator=draw).tolist()
    theirs(torch, model, prompts)  # warm
    sides = {dtype: lambda dtype=dtype: ours(program, folder, prompts, threads, dtype) for dtype in types(program)}
    sides["theirs"] = lambda: theirs(torch, model, prompts)
    rounds = [{side: sides[side]() for side in list(sides)[:: 1 if i % 2 else -1]} for i in range(ROUNDS)]
    for dtype in list(sides)[:-1]:
        pairs = [(sides[dtype], sides["theirs"]) for sides in rounds]
        print(json.dumps({"bench": "transformers", "dtype": dtype, "B": batch, "prompt": PROMPT, "tokens": TOKENS,
                          "threads": threads, **ratios(pairs)}), flush=True)


def ratios(pairs):
    """Of (ours, theirs) of each round."""
    fields = {}
    for i, what in enumerate(("prefill", "decode")):
        fields[what + "_tokens_per_s"] = round(statistics.median(mine[i] for mine, _ in pairs), 1)
        fields["their_%s_tokens_per_s" % what] = round(statistics.median(other[i] for _, other in pairs), 1)
        fields[what + "_ratio"] = round(statistics.median(mine[i] / other[i] for mine, other in pairs), 3)
    decode = [mine[1] / other[1] for mine, other in pairs]
    mine, other = pairs[-1]
    same = [a == b for x, y in zip(mine[2], other[2]) for a, b in zip(x, y)]
    return {**fields, "low": round(min(decode), 3), "high": round(max(decode), 3), "same_ids": round(statistics.mean(same), 4)}


def main():
    program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "train_gpt")
    try:
        import torch
        import transformers
    except ImportError as error:
        print(json.dumps({"bench": "transformers", "skipped": str(error)}), flush=True)
        return
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=LAYERS, bos_token_id=None, eos_token_id=None)).eval()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, safe_serialization=True)
        for batch in [int(argument) for argument in sys.argv[2:]] or [1, 8]:
            compare(torch, model, program, folder, batch, threads)


if __name__ == "__main__":
    main()
