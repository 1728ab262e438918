#!/usr/bin/env python3
"""Is the machine code of a usual step's kernels as good as table.txt says? (README.md)

    gate.py OBJECTS                            compares; exit 1 names each row that is worse
    gate.py OBJECTS --write [--accept ROW]…    writes back rows that are nowhere worse, and those accepted
    gate.py OBJECTS --write --anew             writes every row: for another nvcc
    gate.py --ready                            whether it can compare here; exit 1 says why not

OBJECTS is a folder of kernels/cuda's objects with code for sm_90 (`make sass`). Exit 2: the tools, or that code, are not
there.
"""

import argparse
import functools
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction

import machine_code
import occupancy
from kernels import ROWS, SHAPES

TABLE = pathlib.Path(__file__).resolve().parent / "table.txt"
GPU = "sm_90"


class Missing(Exception):
    """What is needed is not here; the text says what."""


# ------------------------------------------------------------------------------------------------------------------ tools


def _folders():
    """Where CUDA's programs may lie that are not on the path: beside nvcc, and where PyPI's packages put them."""
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    nvcc = os.environ.get("NVCC") or shutil.which("nvcc") or f"{home}/bin/nvcc"
    folders = [pathlib.Path(shutil.which(nvcc) or nvcc).resolve().parent]
    nvidia = importlib.util.find_spec("nvidia")
    for place in (nvidia and nvidia.submodule_search_locations) or []:
        folders += sorted(pathlib.Path(place).glob("*/bin"))
    return folders


def find(program, package):
    named = os.environ.get(program.upper())
    found = shutil.which(named or program) or next(
        (str(folder / program) for folder in _folders() if os.access(folder / program, os.X_OK)), None
    )
    if not found:
        where = f" ({program.upper()}={named})" if named else ""
        raise Missing(f"there is no {program}{where}: CUDA's toolkit has it, and PyPI's {package}")
    return found


def output(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise Missing(f"{command[0]} failed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return done.stdout


def nvcc_version():
    text = output(find("nvcc", "nvidia-cuda-nvcc"), "--version")
    return re.search(r"\bV(\d+\.\d+\.\d+)", text)[1]


def disassembler():
    """cuobjdump, and an environment in which it finds nvdisasm, which does the work."""
    program = find("cuobjdump", "nvidia-cuda-cuobjdump")
    folder = os.path.dirname(find("nvdisasm", "nvidia-cuda-nvdisasm"))
    return program, {**os.environ, "PATH": folder + os.pathsep + os.environ.get("PATH", "")}


def plain_names(mangled):
    """Names as they are written in C++, without the anonymous namespace and the result's type."""
    text = output(find("c++filt", "binutils"), input="\n".join(mangled))
    return [re.sub(r"^void ", "", line.replace("(anonymous namespace)::", "")) for line in text.splitlines()]


# ----------------------------------------------------------------------------------------------------------- measurements


@dataclass(frozen=True)
class Kernel:
    code: list
    registers: int
    shared: int  # static


def kernels_of(path, starts):
    """Of an object's kernels for sm_90 those whose plain names start so: start → Kernel."""
    if not path.exists():
        raise Missing(f"there is no {path}: make sass builds it")
    program, environment = disassembler()
    usage = output(program, "-arch", GPU, "-res-usage", str(path), env=environment)
    resources = dict(re.findall(r"Function (\S+):\s*\n\s*(REG:.*)", usage))
    names = dict(zip(plain_names(resources), resources))
    chosen = {}
    for start in starts:
        fitting = [mangled for plain, mangled in names.items() if plain.startswith(start + "(")]
        if len(fitting) != 1:
            what = f"no code for {GPU}" if not resources else f"{len(fitting)} kernels called {start}"
            raise Missing(f"{path} has {what}")
        chosen[start] = fitting[0]
    text = output(program, "-arch", GPU, "-sass", "-fun", ",".join(chosen.values()), str(path), env=environment)
    code = machine_code.functions(text)
    found = {}
    for start, mangled in chosen.items():
        numbers = dict(re.findall(r"(\w+):(\d+)", resources[mangled]))
        shared = max(int(numbers["SHARED"]) - occupancy.RESERVED, 0)  # cuobjdump counts CUDA's own too
        found[start] = Kernel(code[mangled], int(numbers["REG"]), shared)
    return found


def measure(row, kernel):
    """The row's numbers, column → text."""
    flow = machine_code.Flow(kernel.code)
    head = None if row.whole else flow.hot_loop(row.hot, row.needs, row.without)
    if not row.whole and head is None:
        raise Missing(f"{row.name}: no loop of {row.kernel} has {row.hot}: kernels.py says where its work is")
    way = flow.way(head, row.hot)
    units = row.units if isinstance(row.units, int) else machine_code.count(way, row.units[0]) * row.units[1]
    if not units:
        raise Missing(f"{row.name}: a round of {row.kernel} has no {row.units[0]}: kernels.py says what is counted")
    scopes = [way] if row.whole else [flow.way(outer, row.hot) for outer in flow.around(head)]
    loading = next((scope for scope in scopes if machine_code.count(scope, r"LDG(STS)?\b")), [])
    flying = machine_code.bytes_in_flight(loading, is_loop=not row.whole)

    held, resident, waves = [], [], {}
    for preset, shape in row.shapes.items():
        held.append(occupancy.blocks_held(row.threads, kernel.registers, kernel.shared + row.shared(shape)))
        resident.append(min(held[-1], row.grid(shape) / occupancy.MULTIPROCESSORS))
        waves[preset] = f"{occupancy.waves(row.grid(shape), held[-1]):.2f}"
    return {
        "kernel": row.name,
        "unit": row.unit,
        "units": str(units),
        "instr": str(len(way)),
        "moves": str(machine_code.moves(way)),
        "guarded": str(machine_code.guarded(way)),
        "branches": str(machine_code.branches(way)),
        "spills": str(machine_code.spills(kernel.code)),
        "bytes": str(flying),
        "regs": str(kernel.registers),
        "shared": str(max(kernel.shared + row.shared(shape) for shape in row.shapes.values())),
        "threads": str(row.threads),
        "blocks": str(min(held)),
        "warps": str(min(held) * row.threads // occupancy.WARP),
        "flight": f"{flying * row.threads * min(resident) / 1024:.1f}",
        **{preset: waves.get(preset, "-") for preset in SHAPES},
    }


@functools.lru_cache
def measure_all(folder):
    files = {}
    for row in ROWS:
        files.setdefault(row.file, set()).add(row.kernel)
    found = {file: kernels_of(folder / f"{file}.o", sorted(starts)) for file, starts in files.items()}
    return {row.name: measure(row, found[row.file][row.kernel]) for row in ROWS}


# --------------------------------------------------------------------------------------------------------------- the table

# What a change may not make worse: counts of a round by the unit, and what a multiprocessor holds.
LESS_IS_BETTER = ("instr", "moves", "guarded", "branches")
MORE_IS_BETTER = ("warps", "flight")


def render(version, rows):
    columns = list(next(iter(rows.values())))
    lines = [columns] + [list(row.values()) for row in rows.values()]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = [f"nvcc {version}, {GPU}"]
    for line in lines:
        cells = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text) + "\n"


def parse(text):
    """A table's nvcc and its rows."""
    first, names, *lines = text.splitlines()
    columns = names.split()
    rows = [dict(zip(columns, line.split())) for line in lines]
    return re.match(r"nvcc (\S+),", first)[1], {row["kernel"]: row for row in rows}


def worse(new, old):
    """What of a row is worse, in words; empty where nothing is."""
    found = []
    for column in LESS_IS_BETTER:
        now, before = (Fraction(int(row[column]), int(row["units"])) for row in (new, old))
        if now > before:
            a, b = (f"{row[column]} for {row['units']}" if int(row["units"]) > 1 else row[column] for row in (new, old))
            found.append(f"{column} {a}, was {b}")
    if int(new["spills"]) > int(old["spills"]):
        found.append(f"spills {new['spills']}, was {old['spills']}")
    found += [f"{c} {new[c]}, was {old[c]}" for c in MORE_IS_BETTER if float(new[c]) < float(old[c])]
    return found


def compare(new, old):
    """Lines on what is worse, and names of rows that are other and not worse."""
    bad, other = [], []
    for name, row in new.items():
        if name not in old:
            bad.append(f"{name}: not in the table: make sass-write puts it there")
        elif problems := worse(row, old[name]):
            bad.append(f"{name}: worse: {'; '.join(problems)}")
        elif row != old[name]:
            other.append(name)
    bad += [f"{name}: in the table, not in kernels.py: make sass-write takes it out" for name in old if name not in new]
    return bad, other


def merged(new, old, accepted):
    """What is written back: new rows, but those that are worse as they were; and lines on these."""
    rows, refused = {}, []
    for name, row in new.items():
        problems = worse(row, old[name]) if name in old and name not in accepted else []
        rows[name] = old[name] if problems else row
        if problems:
            refused.append(f"{name}: left as it was: {'; '.join(problems)}; SASS_ACCEPT={name} takes it")
    return rows, refused


# -------------------------------------------------------------------------------------------------------------------- main


def ready(table):
    """Why nothing can be compared here; empty where it can."""
    version, wanted = nvcc_version(), parse(table.read_text())[0]
    disassembler()
    plain_names([])
    if version != wanted:
        return f"the table is nvcc {wanted}'s, and this is {version}: nothing is compared (make sass-write SASS_ANEW=1)"
    return ""


def check(folder, table):
    if why := ready(table):
        print(f"sass: {why}")
        return 0
    _, old = parse(table.read_text())
    bad, other = compare(measure_all(folder), old)
    for line in bad:
        print(f"sass: {line}", file=sys.stderr)
    if not bad:
        note = f"; other, and not worse: {', '.join(other)} (make sass-write)" if other else ""
        print(f"sass: {len(old)} rows, none is worse{note}")
    return 1 if bad else 0


def write(folder, table, accepted, anew):
    version = nvcc_version()
    wanted, old = parse(table.read_text()) if table.exists() else (version, {})
    if version != wanted and not anew:
        print(f"sass: the table is nvcc {wanted}'s, and this is {version}: SASS_ANEW=1 writes it anew", file=sys.stderr)
        return 1
    new = measure_all(folder)
    if unknown := [name for name in accepted if name not in new]:
        print(f"sass: SASS_ACCEPT: no row is called {unknown[0]}", file=sys.stderr)
        return 2
    rows, refused = merged(new, {} if anew else old, accepted)
    table.write_text(render(version, rows))
    for line in refused:
        print(f"sass: {line}", file=sys.stderr)
    return 1 if refused else 0


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("objects", nargs="?", type=pathlib.Path, metavar="OBJECTS")
    parser.add_argument("--ready", action="store_true")
    parser.add_argument("--table", type=pathlib.Path, default=TABLE)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--accept", action="append", default=[], metavar="ROW")
    parser.add_argument("--anew", action="store_true")
    args = parser.parse_args(arguments)
    try:
        if args.ready:
            why = ready(args.table)
            print(f"sass: {why}" if why else "", end="\n" if why else "")
            return 1 if why else 0
        if not args.objects:
            parser.error("which folder of objects?")
        if args.write:
            return write(args.objects, args.table, args.accept, args.anew)
        return check(args.objects, args.table)
    except Missing as missing:
        print(f"sass: {missing}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
