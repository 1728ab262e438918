#!/usr/bin/env python3
"""The PyTorch side of scripts/compare_pytorch.py, a process of its own: torch_side.py JOB.json

First the check: the model of the job (few layers of it) computes the same loss and gradient as train_gpt
from the same weights. Then the search: seconds a step for each batch size, then for each mode at the best
of those. Prints one JSON object a line, the last one {"row": "ready"}; then, after a line on stdin, steps
of the best without end, each with a line `step N/0` when it is finished.

Modes: compile-blocks (torch.compile of each block and of the head), compile (of the whole), padded (as
compile-blocks; vocabulary and MLP width rounded up to 64s), bf16 (as compile-blocks; parameters and moments
in bf16 without fp32 masters: another optimizer than train_gpt's, listed and not compared), eager.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import torch  # noqa: E402
import torch._dynamo  # noqa: E402

from gpu import data, tensors  # noqa: E402
from gpu.torch_model import Model, Shape  # noqa: E402

OTHER_OPTIMIZER = ["bf16"]
MEASURED_STEPS = 5


def say(**row):
    print(json.dumps(row), flush=True)


# ------------------------------------------------------------------------------------------------- check


def loss_and_gradients(model, probe, device, dtype):
    model = model.to(device, dtype)
    model.zero_grad(set_to_none=True)
    loss = model(probe["tokens"].long().to(device), probe["targets"].long().to(device))
    loss.backward()
    gradients = model.file_tensors(lambda p: p.grad)
    return loss.item(), {name: tensor.double().cpu().clone() for name, tensor in gradients.items()}


def distance(a, b):
    return sum((a[name] - b[name]).square().sum().item() for name in b) ** 0.5


def check(job, device):
    """Both in fp32 against PyTorch in fp64: at most three times as far from it as PyTorch in fp32 is, and
    never asked to be nearer than 16 roundings (sums of thousands of terms in some other order)."""
    shape = Shape(dict(job["settings"], **{"n-layer": job["check_layers"]}))
    model = Model(shape)
    model.randomize(seed=7)
    weights, out = os.path.join(job["scratch"], "check.safetensors"), os.path.join(
        job["scratch"], "probe.safetensors"
    )
    tensors.write(weights, model.file_tensors())
    command = [*job["probe_command"], "--init-from", weights, "--probe", out]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(f"check: {' '.join(command)}: {done.stdout.decode(errors='replace').strip()[-300:]}")
    probe = tensors.read(out, lambda name: name in ("tokens", "targets", "loss") or name.startswith("grad."))
    os.remove(weights), os.remove(out)
    ours = {name[len("grad.") :]: value.double() for name, value in probe.items() if name.startswith("grad.")}
    truth, truth_gradients = loss_and_gradients(model, probe, device, torch.float64)
    single, single_gradients = loss_and_gradients(model, probe, device, torch.float32)
    if set(ours) != set(truth_gradients):
        raise SystemExit(f"check: other tensors: {sorted(set(ours) ^ set(truth_gradients))[:4]}")
    norm = sum(g.square().sum().item() for g in truth_gradients.values()) ** 0.5
    row = {
        "loss": truth,
        "train_gpt": abs(probe["loss"].item() - truth),
        "pytorch": abs(single - truth),
        "gradient_norm": norm,
        "train_gpt_gradient": distance(ours, truth_gradients),
        "pytorch_gradient": distance(single_gradients, truth_gradients),
    }
    floor = 16 * 2.0**-24
    good = row["train_gpt"] <= max(3 * row["pytorch"], floor * truth) and row["train_gpt_gradient"] <= max(
        3 * row["pytorch_gradient"], floor * norm
    )
    say(row="check", good=good, layers=job["check_layers"], **row)
    if not good:
        raise SystemExit("check: the two sides are not the same model")


# ----------------------------------------------------------------------------------------------- training


class Trainer:
    """One model in one mode; steps of any batch size."""

    def __init__(self, job, mode, device):
        self.job, self.mode, self.device = job, mode, device
        shape = Shape(job["settings"])
        with torch.device(device):
            model = Model(shape, padded=mode == "padded")
        model.cos, model.sin = model.cos.float(), model.sin.float()
        model.randomize(seed=1)
        self.bf16 = job["dtype"] == "bf16"
        if mode in OTHER_OPTIMIZER:
            model.to(torch.bfloat16)
        self.model = model
        self.forward = torch.compile(model, dynamic=False) if mode == "compile" else model
        if mode in ("compile-blocks", "padded", "bf16"):
            for block in model.blocks:
                block.compile(dynamic=False)
            model.loss = torch.compile(model.loss, dynamic=False)
        groups = [
            {"params": [p for p in model.parameters() if (p.dim() > 1) == matrix], "weight_decay": decay}
            for matrix, decay in ((True, 0.1), (False, 0.0))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
        ids = data.read(job["shard"])
        self.ids = torch.frombuffer(ids, dtype=torch.int16).to(torch.int32) & 0xFFFF
        self.window = torch.arange(shape.T + 1)
        self.draw = torch.Generator().manual_seed(1)

    def batch(self, batch_size):
        first = torch.randint(len(self.ids) - len(self.window), (batch_size, 1), generator=self.draw)
        rows = self.ids[first + self.window].long()
        if self.device.type == "cuda":
            rows = rows.pin_memory().to(self.device, non_blocking=True)
        return rows[:, :-1], rows[:, 1:]

    def step(self, batch_size):
        micro_steps = self.job["tokens"] // (batch_size * (len(self.window) - 1))
        autocast = self.bf16 and self.mode not in OTHER_OPTIMIZER
        for _ in range(micro_steps):
            tokens, targets = self.batch(batch_size)
            with torch.autocast(self.device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
                loss = self.forward(tokens, targets, torch.bfloat16 if self.bf16 else None)
            (loss / micro_steps).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss


def compile_as_often_as_asked():
    """Beyond PyTorch's own limit blocks would silently run uncompiled."""
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(torch._dynamo.config, limit, 256)


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(trainer, batch_size):
    """Seconds a step over some, behind two that compile and warm up."""
    for _ in range(2):
        loss = trainer.step(batch_size)
    if not torch.isfinite(loss):
        raise RuntimeError(f"the loss is {loss.item()}")
    synchronize(trainer.device)
    begin = time.monotonic()
    for _ in range(MEASURED_STEPS):
        trainer.step(batch_size)
    synchronize(trainer.device)
    return (time.monotonic() - begin) / MEASURED_STEPS


def release():
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Search:
    """The fastest of batch sizes and modes. Keeps the fastest trainer, and no other."""

    def __init__(self, job, device):
        self.job, self.device, self.best, self.trainer = job, device, None, None
        self.end = time.monotonic() + job["search_seconds"]

    def try_one(self, mode, batch_size):
        """Its row; what fails is a row too: out of memory, or what a compiler cannot do. Another may."""
        begin = time.monotonic()
        row = {"row": "side", "side": "pytorch", "mode": mode, "batch_size": batch_size}
        if self.best and begin > self.end:
            say(**row, error="not tried: no time left")
            return
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        kept = self.trainer is not None and self.best[0] == mode
        try:
            trainer = self.trainer if kept else Trainer(self.job, mode, self.device)
            seconds = measure(trainer, batch_size)
        except Exception as error:
            if kept:
                trainer.optimizer.zero_grad(set_to_none=True)
            say(**row, error=f"{type(error).__name__}: {str(error)[:200]}")
            return
        say(
            **row,
            tokens_per_update=self.job["tokens"],
            ms=round(seconds * 1e3, 4),
            tokens_per_s=round(self.job["tokens"] / seconds),
            peak_bytes=torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None,
            preparing_s=round(time.monotonic() - begin - MEASURED_STEPS * seconds, 1),
            compared=mode not in OTHER_OPTIMIZER,
        )
        if mode not in OTHER_OPTIMIZER and (self.best is None or seconds < self.best[2]):
            self.best, self.trainer = (mode, batch_size, seconds), trainer

    def run(self):
        for mode in self.job["modes"]:
            for batch_size in self.job["batch_sizes"] if self.best is None else [self.best[1]]:
                self.try_one(mode, batch_size)
                release()  # here, where no frame of an error holds memory any more
        if not self.best:
            raise SystemExit("no batch size and mode could be measured")


def step_without_end(trainer, batch_size):
    """A step's line comes when the GPU has finished it, while the next one is queued already."""
    done = None
    number = 0
    while True:
        trainer.step(batch_size)
        if trainer.device.type != "cuda":
            number += 1
            print(f"step {number}/0", flush=True)
            continue
        event = torch.cuda.Event()
        event.record()
        if done:
            done.synchronize()
            number += 1
            print(f"step {number}/0", flush=True)
        done = event


def main(path):
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    device = torch.device(job["device"])
    compile_as_often_as_asked()
    say(
        row="pytorch",
        version=torch.__version__,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    )
    check(job, device)
    release()
    search = Search(job, device)
    search.run()
    mode, batch_size, seconds = search.best
    say(row="ready", mode=mode, batch_size=batch_size, seconds=seconds)
    sys.stdin.readline()
    step_without_end(search.trainer, batch_size)


if __name__ == "__main__":
    main(sys.argv[1])
