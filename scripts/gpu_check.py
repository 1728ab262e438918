#!/usr/bin/env python3
"""What does this GPU make of this program? Tests, memory checks, timings, PyTorch beside; one JSON file.

    scripts/gpu_check.py [PART…]        all parts, or some: suite, collectives, two-ranks, training, operations,
                                        steps, pytorch, variants, sanitizer, or one of those that --list names
    scripts/gpu_check.py --list
    scripts/gpu_check.py --build-only   leaves in --build what another machine needs as --binaries
    scripts/gpu_check.py --rehearse     every part without a GPU, on emulation and CPU, at tiny sizes

Needs a copy of the tree, CUDA (nvcc), gcc, make and Python 3; PyTorch for `pytorch`, compute-sanitizer for
`sanitizer`. Programs are built into --build unless --binaries names a folder that has them (train_gpt,
test_ops_cuda, test_collective_cuda, gpu_probe, and what libraries they need in its lib/). Each part ends by --limit seconds; one
that fails does not stop the others. After every measurement the results file is written anew; results of an
earlier call at the same commit stay in it. The last lines are a table of all marks. Exit status: 0 if every
part was done, 1 if one failed or was skipped, 2 for bad usage.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from gpu import machine as machines  # noqa: E402
from gpu import marks, parts, results  # noqa: E402
from gpu.machine import ROOT, Unavailable  # noqa: E402


def arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--binaries", metavar="DIR")
    parser.add_argument("--build", default="build/gpu", metavar="DIR", help="where to build (build/gpu)")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--arch", help="of the processor, for gcc (this one's)")
    parser.add_argument(
        "--cuda-archs", metavar="LIST", help='of GPUs, as "90" (this machine\'s, or else all)'
    )
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--limit", type=float, default=225, metavar="SECONDS", help="for each part (225)")
    parser.add_argument(
        "--out", metavar="DIR", help="of the results file (test/results; a rehearsal: a temporary one)"
    )
    parser.add_argument("--into", metavar="FILE", help="an earlier results file of this commit to add to")
    parser.add_argument("--commit", help="the name of what is checked (asked of git)")
    parser.add_argument("--python", default=sys.executable, help="one with PyTorch (this one)")
    parser.add_argument("--sanitizer", metavar="FILE", help="compute-sanitizer (looked for)")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args(argv)
    try:
        options.parts = parts.chosen(options.part)
    except KeyError as error:
        parser.error(f"{error} is no part; there are: {', '.join(parts.PARTS)}")
    return options


def find_machine(options):
    if options.rehearse:
        return machines.Rehearsal(machines.environment(), options.python)
    folder = options.binaries
    if not folder and not options.build_only and not machines.has_gpu():  # known before minutes of building
        raise Unavailable("no GPU on this machine (no /dev/nvidia0, nothing from nvidia-smi); --rehearse needs none")
    if not folder:
        folder = os.path.join(ROOT, options.build)
        os.makedirs(folder, exist_ok=True)
        begin = time.monotonic()
        commit = options.commit or machines.commit(None)
        wanted = {"ARCH": options.arch, "CUDA_ARCHS": options.cuda_archs, "VERSION": commit}
        settings = [f"{name}={value}" for name, value in wanted.items() if value]
        machines.build(options.build, options.jobs, os.path.join(folder, "build.log"), settings)
        with open(os.path.join(folder, "commit"), "w", encoding="utf-8") as file:
            file.write(commit + "\n")
        print(f"built in {time.monotonic() - begin:.0f} s: {folder}", flush=True)
    return machines.Machine(os.path.abspath(folder), machines.environment(folder), "cuda", options.python)


def refuse_without_gpu(machine):
    """One line in the place of a dozen failed parts."""
    done = subprocess.run(
        [machine.program("train_gpt"), "--device", "cuda", "--preset", "micro", "--dry-run"],
        env=machine.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        raise Unavailable(
            f"no GPU that can be checked ({done.stdout.decode(errors='replace').strip()[-300:]}); "
            "--rehearse needs none"
        )


def open_results(options):
    gpu = "rehearsal" if options.rehearse else machines.gpu_name() or "unknown GPU"
    commit = options.commit or machines.commit(options.binaries)
    out = options.out or (
        tempfile.mkdtemp(prefix="gpu-check-") if options.rehearse else os.path.join(ROOT, "test", "results")
    )
    path = os.path.join(out, results.file_name(gpu, commit))
    if options.into and not os.path.exists(path):
        os.makedirs(out, exist_ok=True)
        with open(options.into, encoding="utf-8") as old, open(path, "w", encoding="utf-8") as new:
            new.write(old.read())
    facts = {} if options.rehearse else machines.gpu_facts()
    return results.Results(path, gpu, commit, facts)


def run_part(name, machine, found, limit):
    part = found.begin(name)
    print(f"{name} …", flush=True)
    try:
        parts.PARTS[name](machine, part, time.monotonic() + limit)
        part.end("done")
    except Unavailable as error:
        part.end("skipped", str(error))
    except Exception as error:  # whatever it is, the other parts go on
        part.end("failed", f"{type(error).__name__}: {error}")
        if not isinstance(error, parts.RunFailed):
            traceback.print_exc()
    reason = part.data.get("reason")
    print(
        f"{name}: {part.data['status']} in {part.data['seconds']:.0f} s{': ' + reason if reason else ''}",
        flush=True,
    )


def print_table(found):
    values = found.marks()
    width = max(len(name) for name in values)
    print(f"\n{'mark':{width}}  {'value':>12}  {'target':>12}")
    for name, _, relation, target in marks.MARKS:
        value = values[name]
        verdict = {True: "met", False: "NOT MET", None: "" if value is not None else "unmeasured"}
        shown = "-" if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        wanted = f"{relation} {target:,g}" if relation else ""
        print(f"{name:{width}}  {shown:>12}  {wanted:>12}  {verdict[marks.met(relation, target, value)]}")
    if found.data["gpu"] == "rehearsal":
        print("\na rehearsal: the numbers mean nothing")
    print("\nparts: " + ", ".join(f"{name} {part['status']}" for name, part in found.data["parts"].items()))
    print(f"results: {os.path.relpath(found.path)}")


def main(argv):
    options = arguments(argv)
    if options.list:
        print("\n".join(parts.PARTS))
        return 0
    try:
        machine = find_machine(options)
        if not options.rehearse and not options.build_only:
            refuse_without_gpu(machine)
    except Unavailable as error:
        print(f"gpu_check.py: {error}", file=sys.stderr)
        return 1
    if options.build_only:
        machines.pack(machine.folder)
        return 0
    machine.sanitizer = options.sanitizer or machine.sanitizer
    found = open_results(options)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        machine.scratch = scratch
        for name in options.parts:
            run_part(name, machine, found, options.limit)
    print_table(found)
    status = [found.data["parts"][name]["status"] for name in options.parts]
    return 0 if all(word == "done" for word in status) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
