#!/usr/bin/env python3
"""PyTorch's side of scripts/compare_cpu.py, a process a mode: torch_worker.py JOB.json

The job's mode is one of gpu/torch_side.py's, or check: then that, and no more. Each line on stdin asks for a turn,

    {"threads": 2, "warmup": 2, "fewest": 3, "seconds": 3.0}

that is, so many steps that are not counted, then at least so many and for at least so long; the answer is a line on
stdout, {"steps": [seconds, …]} or {"error": "…"}. Between turns it waits, and holds weights and moments alone.
"""

import ctypes
import gc
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch  # noqa: E402

from gpu import torch_side  # noqa: E402
from gpu.torch_side import say  # noqa: E402


def turn(trainer, batch_size, request):
    torch.set_num_threads(request["threads"])  # a compiled step is compiled again for another number
    for _ in range(request["warmup"]):
        loss = trainer.step(batch_size)
    if not torch.isfinite(loss):
        raise RuntimeError(f"the loss is {loss.item()}")
    taken, begin = [], time.monotonic()
    while len(taken) < request["fewest"] or sum(taken) < request["seconds"]:
        trainer.step(batch_size)
        end = time.monotonic()
        taken.append(end - begin)
        begin = end
    return taken


def give_back():
    """The activations' memory, which PyTorch has freed and glibc keeps."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def main(path):
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    device = torch.device("cpu")
    torch_side.compile_as_often_as_asked()
    if job["mode"] == "check":
        say(row="pytorch", version=torch.__version__)
        torch_side.check(job, device)
        return
    trainer = torch_side.Trainer(job, job["mode"], device)
    for line in sys.stdin:
        try:
            answer = {"steps": turn(trainer, job["batch_size"], json.loads(line))}
        except Exception as error:  # out of memory, or what a compiler cannot do: the others go on
            answer = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        give_back()
        say(**answer)


if __name__ == "__main__":
    main(sys.argv[1])
