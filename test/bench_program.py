#!/usr/bin/env python3
"""What the whole program needs: memory beside what --dry-run predicts, and the time to the first step.

    test/bench_program.py [TRAIN_GPT]

Prints JSON lines:
    {"bench":"memory", … "peak_gb", "predicted_gb", "ratio"}    gpt2-124m, fp32, B=4, T=1024, two steps
    {"bench":"start", … "seconds"}                              process start to the end of the first step of tiny
"""
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time

from program import write_shard


def write_tokens(path, count, vocabulary):
    write_shard(path, [i * 7919 % vocabulary for i in range(count)])


def peak_bytes(command):
    """Peak resident memory of a child process."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.execv(command[0], command)
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"bench_program.py: {' '.join(command)} ended with status {status}")
    return usage.ru_maxrss * 1024


def predicted_bytes(command):
    text = subprocess.run(command + ["--dry-run"], stdout=subprocess.PIPE, check=True).stdout.decode()
    return float(re.search(r"^ *total +([0-9.]+) MB", text, re.MULTILINE).group(1)) * 1e6


def bench_memory(program, shard):
    command = [program, "--preset", "gpt2-124m", "--batch-size", "4", "--seq-len", "1024", "--steps", "2",
               "--train-data", shard, "--dtype", "fp32", "--device", "cpu"]
    predicted, peak = predicted_bytes(command), peak_bytes(command)
    print(json.dumps({"bench": "memory", "model": "gpt2-124m", "B": 4, "T": 1024, "peak_gb": round(peak / 1e9, 3),
                      "predicted_gb": round(predicted / 1e9, 3), "ratio": round(peak / predicted, 3)}), flush=True)


def bench_start(program, shard):
    times = []
    for _ in range(5):
        begin = time.monotonic()
        child = subprocess.Popen([program, "--preset", "tiny", "--steps", "2", "--train-data", shard],
                                 stdout=subprocess.PIPE)
        for line in child.stdout:
            if line.startswith(b"step 1/"):
                times.append(time.monotonic() - begin)
                break
        child.stdout.read()
        child.wait()
    print(json.dumps({"bench": "start", "model": "tiny", "seconds": round(sorted(times)[len(times) // 2], 3)}), flush=True)


def main():
    program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "train_gpt")
    with tempfile.TemporaryDirectory() as folder:
        wide, narrow = os.path.join(folder, "wide.bin"), os.path.join(folder, "bytes.bin")
        write_tokens(wide, 20_000, 50257)
        write_tokens(narrow, 200_000, 256)
        bench_start(program, narrow)
        bench_memory(program, wide)


if __name__ == "__main__":
    main()
