"""Is the machine code of the usual step's kernels as good as its table says, and does the gate count right?

sass/README.md says what is counted. Without nvcc, cuobjdump and nvdisasm only what needs no compiler is tested. The
objects with code for sm_90 are in SASS_OBJECTS (`make sass`).
"""

import os
import pathlib
import random
import re
import shutil
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).resolve().parent / "sass"
sys.path.insert(0, str(FOLDER))

import gate  # noqa: E402
import machine_code  # noqa: E402
import occupancy  # noqa: E402
from kernels import ROWS, SHAPES  # noqa: E402


def code_of(*lines):
    """Instructions at 0x0, 0x10, … as cuobjdump prints them."""
    body = "\n".join(f"        /*{16 * i:04x}*/  {line} ;   /* 0x0 */" for i, line in enumerate(lines))
    (code,) = machine_code.functions(f"\t\tFunction : f\n{body}\n").values()
    return code


# ------------------------------------------------------------------------------------------------------- reading the code


def test_an_instruction_is_its_guard_opcode_and_operands():
    load, branch = code_of("@!P0 LDG.E.128 R4, desc[UR6][R2.64+0x10]", "BRA 0x10")
    assert (load.guard, load.opcode, load.name) == ("@!P0", "LDG.E.128", "LDG")
    assert load.operands == ("R4", "desc[UR6][R2.64+0x10]") and load.conditional
    assert (branch.address, branch.name, branch.conditional) == (0x10, "BRA", False)


@pytest.mark.parametrize(
    "line, moves",
    [
        ("MOV R1, R2", 1),
        ("IMAD.MOV.U32 R0, RZ, RZ, R7", 1),
        ("IMAD.U32 R0, RZ, RZ, UR20", 1),
        ("HFMA2.MMA R16, -RZ, RZ, 0, 0", 1),
        ("CS2R R4, SRZ", 1),
        ("UMOV UR4, 0x400", 1),
        ("R2UR UR4, R3", 1),
        ("IMAD.U32 R0, R3, 0x10000, RZ", 0),
        ("IMAD R0, R3, R4, RZ", 0),
        ("HFMA2.MMA.BF16_V2 R16, R1, R2, R3", 0),
        ("CS2R R4, SR_CLOCKLO", 0),
        ("MOVM.16.MT88 R1, R2", 0),
        ("FADD R1, R2, R3", 0),
    ],
)
def test_a_move_only_moves(line, moves):
    assert machine_code.moves(code_of(line)) == moves


def test_loads_are_complete_where_they_are_named_again():
    code = code_of(
        "LDG.E.128 R4, desc[UR6][R2.64]",
        "LDG.E.64 R8, desc[UR6][R2.64+0x10]",
        "LDG.E.U16 R10, desc[UR6][R2.64+0x20]",
        "FADD R20, R7, R7",  # of the first load's last register
        "LDG.E R11, desc[UR6][R2.64+0x30]",
        "FADD R21, R9, R10",
        "FADD R22, R11, R11",
    )
    assert machine_code.bytes_in_flight(code, is_loop=False) == 16 + 8 + 2
    assert machine_code.bytes_in_flight(code[:2], is_loop=True) == 16 + 8


def test_a_load_for_the_next_round_is_in_flight_beside_this_rounds():
    code = code_of(
        "FADD R20, R4, R4",
        "LDG.E R4, desc[UR6][R2.64]",  # for the next round
        "LDG.E R8, desc[UR6][R2.64+0x10]",
        "FADD R21, R8, R20",
    )
    assert machine_code.bytes_in_flight(code, is_loop=True) == 8
    waiting = code_of("LDGSTS.E.BYPASS.128 [R3], desc[UR6][R2.64]", "LDGDEPBAR", "DEPBAR.LE SB0, 0x0")
    assert machine_code.bytes_in_flight(waiting, is_loop=True) == 16


def test_the_way_through_a_loop_takes_what_is_hot_and_leaves_what_is_not():
    code = code_of(
        "MOV R0, RZ",  # 0x00
        "ISETP.GE.AND P0, PT, R0, R1, PT",  # 0x10: the loop
        "@P0 BRA 0x60",  # 0x20: seldom
        "STG.E desc[UR4][R2.64], R0",  # 0x30
        "@!P1 BRA 0x10",  # 0x40
        "EXIT",  # 0x50
        "MUFU.RCP R3, R3",  # 0x60
        "@P2 FADD R3, R3, R3",  # 0x70
        "BRA 0x30",  # 0x80: back, and no loop
        "BRA 0x90",  # nothing leads here
    )
    flow = machine_code.Flow(code)
    assert len(flow.loops) == 1
    head = flow.hot_loop("STG")
    assert [i.address for i in flow.instructions(flow.loops[head])] == [0x10, 0x20, 0x30, 0x40, 0x60, 0x70, 0x80]
    assert [i.address for i in flow.way(head, "STG")] == [0x10, 0x20, 0x30, 0x40]
    assert [i.address for i in flow.way(head, "MUFU")] == [0x10, 0x20, 0x60, 0x70, 0x80, 0x30, 0x40]
    assert machine_code.branches(flow.way(head, "STG")) == 1
    assert machine_code.guarded(flow.way(head, "MUFU")) == 1
    assert flow.hot_loop("STG", without="MUFU") is None and flow.hot_loop("HMMA") is None
    assert flow.hot_loop("STG", needs="MUFU") == head


def test_lanes_that_wait_at_a_barrier_go_on_where_it_says():
    code = code_of(
        "BSSY B0, 0x60",  # 0x00
        "@P0 BRA 0x30",  # 0x10
        "BSYNC B0",  # 0x20: goes on at 0x60
        "FADD R1, R1, R1",  # 0x30
        "BSYNC B0",  # 0x40
        "BRA 0x50",  # 0x50: never
        "EXIT",  # 0x60
    )
    flow = machine_code.Flow(code)
    assert [i.address for i in flow.way(None, "FADD")] == [0x00, 0x10, 0x30, 0x40, 0x60]
    assert not flow.loops


def test_an_indirect_branch_is_refused():
    with pytest.raises(ValueError, match="indirect branch at 0x10"):
        machine_code.Flow(code_of("MOV R0, RZ", "BRX R2 -0x20", "EXIT"))


# --------------------------------------------------------------------------------------------------------------- the table

GOOD = {
    "kernel": "copy", "unit": "element", "units": "8", "instr": "40", "moves": "4", "guarded": "2", "branches": "1",
    "spills": "0", "bytes": "32", "regs": "40", "shared": "0", "threads": "128", "blocks": "12", "warps": "48",
    "flight": "48", "gpt2-124m": "15.52", "gpt2-1558m": "-", "llama-1b": "-",
}  # fmt: skip


def other(**changes):
    return {**GOOD, **{key: str(value) for key, value in changes.items()}}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"instr": 41}, "instr 41 for 8, was 40 for 8"),
        ({"moves": 5}, "moves 5"),
        ({"guarded": 3}, "guarded 3"),
        ({"branches": 2}, "branches 2"),
        ({"spills": 1}, "spills 1, was 0"),
        ({"warps": 47}, "warps 47, was 48"),
        ({"flight": 47}, "flight 47, was 48"),
        ({"units": 4}, "instr 40 for 4, was 40 for 8"),
    ],
)
def test_a_row_that_is_worse_is_named_with_what_is_worse(changes, words):
    bad, same = gate.compare({"copy": other(**changes)}, {"copy": GOOD})
    assert len(bad) == 1 and bad[0].startswith("copy: worse: ") and words in bad[0] and not same
    rows, refused = gate.merged({"copy": other(**changes)}, {"copy": GOOD}, [])
    assert rows["copy"] == GOOD and words in refused[0] and "SASS_ACCEPT=copy" in refused[0]
    assert gate.merged({"copy": other(**changes)}, {"copy": GOOD}, ["copy"]) == ({"copy": other(**changes)}, [])


@pytest.mark.parametrize("changes", [{"instr": 39}, {"regs": 41}, {"units": 16, "instr": 79, "moves": 8}, {"bytes": 48}])
def test_a_row_that_is_other_and_not_worse_passes_and_is_written_back(changes):
    new = {"copy": other(**changes)}
    assert gate.compare(new, {"copy": GOOD}) == ([], ["copy"])
    assert gate.merged(new, {"copy": GOOD}, []) == (new, [])


def test_rows_and_kernels_are_the_same():
    assert "not in the table" in gate.compare({"copy": GOOD}, {})[0][0]
    assert "not in kernels.py" in gate.compare({}, {"copy": GOOD})[0][0]
    assert gate.merged({"copy": GOOD}, {"gone": GOOD}, []) == ({"copy": GOOD}, [])


def test_a_table_is_read_as_it_was_written():
    rows = {"copy": GOOD, "a": other(kernel="a", units=128)}
    assert gate.parse(gate.render("13.0.88", rows)) == ("13.0.88", rows)


def test_the_committed_table_has_a_row_for_each_kernel():
    _, rows = gate.parse(gate.TABLE.read_text())
    assert list(rows) == [row.name for row in ROWS]
    assert all(list(row)[-3:] == list(SHAPES) for row in rows.values())


# ----------------------------------------------------------------------------------------------------------- with the tools


@pytest.fixture(scope="module")
def tools():
    try:
        gate.nvcc_version(), gate.disassembler(), gate.plain_names([])
    except gate.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def known(tools, tmp_path_factory):
    """known.cu's kernels, and what ptxas says of each: registers, shared memory, bytes spilled."""
    path = tmp_path_factory.mktemp("sass") / "known.o"
    nvcc = gate.find("nvcc", "nvidia-cuda-nvcc")
    flags = ["-std=c++17", "-O3", "-gencode", "arch=compute_90,code=sm_90", "-Xptxas", "-v"]
    done = subprocess.run(
        [nvcc, *flags, "-c", str(FOLDER / "known.cu"), "-o", str(path)], capture_output=True, text=True, check=True
    )
    said = {}
    for part in done.stderr.split("Compiling entry function")[1:]:
        name = re.search(r"'_Z\d+([a-z_]+?)P", part)[1]
        registers, *shared = re.search(r"Used (\d+) registers.*?(?:(\d+) bytes smem|\n|$)", part).groups()
        said[name] = int(registers), int(shared[0] or 0), int(re.search(r"(\d+) bytes spill stores", part)[1])
    return gate.kernels_of(path, sorted(said)), said


def loop_of(known, name, hot, **more):
    flow = machine_code.Flow(known[0][name].code)
    return flow.way(flow.hot_loop(hot, **more), hot)


def test_resources_are_what_ptxas_says(known):
    kernels, said = known
    assert said["copies"][1] == 4096 and said["spilling"][2] > 0
    for name, kernel in kernels.items():
        stored = sum(machine_code.width(i) for i in kernel.code if i.name == "STL")
        assert (kernel.registers, kernel.shared, stored) == said[name], name
        assert (machine_code.spills(kernel.code) > 0) == (said[name][2] > 0), name


@pytest.mark.parametrize(
    "name, loads, stores, flying",
    [
        ("one_load", 1, 1, 4),
        ("four_loads", 4, 1, 64),
        ("two_rounds_aliased", 2, 2, 4),
        ("two_rounds", 2, 2, 8),
        ("copies", 0, 1, 32),
    ],
)
def test_loads_in_flight_are_those_of_the_source(known, name, loads, stores, flying):
    way = loop_of(known, name, "STG")
    assert machine_code.count(way, r"LDG\b") == loads and machine_code.count(way, "STG") == stores
    assert machine_code.count(way, "LDGSTS") == (2 if name == "copies" else 0)
    assert machine_code.bytes_in_flight(way, is_loop=True) == flying


def test_the_hot_loop_is_the_inner_one(known):
    flow = machine_code.Flow(known[0]["nested"].code)
    inner, outer = flow.around(flow.hot_loop("HMMA"))
    assert machine_code.count(flow.way(inner, "HMMA"), "HMMA") == 6
    assert machine_code.count(flow.way(outer, "HMMA"), "HMMA") == 2 + 6
    assert machine_code.count(flow.code, "HMMA") == 2 + 6


def test_what_is_done_seldom_is_not_on_the_way(known):
    flow = machine_code.Flow(known[0]["seldom"].code)
    head = flow.hot_loop(r"STG\.E$")
    assert machine_code.count(flow.instructions(flow.loops[head]), "MUFU") >= 40
    way = flow.way(head, r"STG\.E$")
    assert machine_code.count(way, "STG") == machine_code.count(way, r"LDG\b") == 1
    assert machine_code.count(way, "MUFU|DADD|DFMA") == 0 and len(way) < 20


def test_a_kernel_without_a_loop_is_taken_whole(known):
    flow = machine_code.Flow(known[0]["straight"].code)
    way = flow.way(None, "STG")
    assert not flow.loops
    assert machine_code.count(way, r"LDG\.E\.128") == machine_code.count(way, r"STG\.E\.128") == 2
    assert machine_code.bytes_in_flight(way, is_loop=False) == 32


def test_occupancy_is_what_cudas_own_header_says(tools, tmp_path):
    include = pathlib.Path(gate.find("nvcc", "nvidia-cuda-nvcc")).resolve().parent.parent / "include"
    compiler = shutil.which(os.environ.get("CXX", "g++").split()[-1])
    if not compiler or not (include / "cuda_occupancy.h").exists():
        pytest.skip("there is no C++ compiler, or no cuda_occupancy.h beside nvcc")
    program = str(tmp_path / "occupancy")
    subprocess.run([compiler, "-isystem", str(include), str(FOLDER / "occupancy.cpp"), "-o", program], check=True)
    drawn = random.Random(1)
    sizes = [0, 48 * 1024, 113 * 1024, 114 * 1024, 227 * 1024]
    shapes = [
        (32 * drawn.randint(1, 32), drawn.randint(1, 255), drawn.choice([*sizes, drawn.randint(0, 227 * 1024)]))
        for _ in range(5000)
    ]
    asked = "\n".join(f"{threads} {registers} {shared}" for threads, registers, shared in shapes)
    told = subprocess.run([program], input=asked, capture_output=True, text=True, check=True).stdout
    for shape, line in zip(shapes, told.splitlines()):
        assert occupancy.blocks_held(*shape) == int(line.split()[3]), shape


def test_another_nvcc_compares_nothing_and_says_so(tools, tmp_path, capsys):
    table = tmp_path / "table.txt"
    table.write_text(gate.render("1.2.3", {"copy": GOOD}))
    assert gate.main([str(tmp_path / "nothing"), "--table", str(table)]) == 0
    assert "the table is nvcc 1.2.3's" in capsys.readouterr().out


@pytest.fixture(scope="module")
def objects(tools):
    folder = os.environ.get("SASS_OBJECTS")
    if not folder or not os.path.isdir(folder):
        pytest.skip("no objects with code for sm_90: `make sass` builds them (SASS_OBJECTS)")
    if gate.parse(gate.TABLE.read_text())[0] != gate.nvcc_version():
        pytest.skip(f"the table is another nvcc's than {gate.nvcc_version()}")
    return folder


def test_no_kernel_is_worse_than_the_table_and_a_better_table_fails(objects, tmp_path, capsys):
    assert gate.main([objects]) == 0, capsys.readouterr().err
    version, rows = gate.parse(gate.TABLE.read_text())
    name = ROWS[0].name
    rows[name] = {**rows[name], "instr": str(int(rows[name]["instr"]) - 1)}
    table = tmp_path / "table.txt"
    table.write_text(gate.render(version, rows))
    assert gate.main([objects, "--table", str(table)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith(f"sass: {name}: worse: instr")
