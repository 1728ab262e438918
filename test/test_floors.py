"""Do the floors of the tests (test/floors.mk) hold what they say: in `make test` every test that is here, in
`make test-quick` one of each promise of README.md, which all name tests that exist? And is what kernels/cuda/README.md
quotes and names there?"""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {"quick": "test-quick", "test": "test", "all": "test-all", "hf": "test-hf"}


@pytest.fixture(scope="module")
def floors():
    """{floor: its runs}"""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "BUILD"}
    done = subprocess.run(["make", "-s", "CUDA=0", "floors"], cwd=ROOT, env=quiet, capture_output=True, text=True, check=True)
    found = {floor: [] for floor in FLOORS}
    for line in done.stdout.splitlines():
        floor, run = line.split("\t")
        found[floor].append(run)
    return found


def every_test():
    """The files whose names say that they are tests. test_emu's are linked into one program."""
    patterns = ("test/test_*.c", "test/test_*.py", "test/fuzz/test_*.py", "test/emu/test_*.cpp", "test/emu/host/test_*.c")
    return {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}


def sources(run):
    """The test files that a run runs, and with each its folder."""
    found = set()
    for word in run.split():
        path = ROOT / word.split("::")[0]
        if path.suffix == ".py" and path.exists():
            found.add(path.relative_to(ROOT).as_posix())
        elif word.startswith("build/"):
            name = re.sub(r"^test_ops_(emu|race)$", "test_ops", path.name)
            of_name = [here for here in every_test() if re.fullmatch(rf"{name}(_.*)?\.(c|cpp)", os.path.basename(here))]
            found |= {here for here in of_name if os.path.basename(here).split(".")[0] == name or name == "test_emu"}
            found |= {"test/emu/"} if "_emu" in path.name else set()
    return found


def promises(text):
    """[(promise, the tests named for it, as paths)] of the table; a name without a folder is in test/, after one with
    a folder."""
    table = text.split("## What it promises, and where that is tested")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*) \| (.*) \|$", table, re.MULTILINE)
    for promise, cell in rows[1:]:
        if not promise.startswith("---"):
            names = re.findall(r"`([^`]+)`", cell)
            yield promise, [name if "/" in name else "test/" + name for name in names if not name.startswith("make ")]


def unkept(text, runs):
    """What is wrong with the table's promises, given the runs of test-quick."""
    quick = set().union(*map(sources, runs))
    for promise, names in promises(text):
        missing = [name for name in names if not (ROOT / name).exists()]
        if missing or not names:
            yield "%s: no such test: %s" % (promise, ", ".join(missing) or "none is named")
        elif not any(name in quick or any(run.startswith(name) for run in quick if name.endswith("/")) for name in names):
            yield "%s: make test-quick runs none of %s" % (promise, ", ".join(names))


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_promise_names_tests_that_exist_and_has_one_in_the_quick_floor(floors):
    assert len(list(promises(README))) >= 13
    assert list(unkept(README, floors["quick"])) == []


def test_a_promise_without_a_test_is_seen(floors):
    row = "| gradients of every parameter"
    assert row in README
    for new, says in (
        ("| it flies | `test/test_flight.py` |\n", "no such test: test/test_flight.py"),
        ("| it flies | a test |\n", "none is named"),
        ("| it flies | `test/test_gpu_check.py` |\n", "runs none of test/test_gpu_check.py"),
    ):
        found = list(unkept(README.replace(row, new + row), floors["quick"]))
        assert len(found) == 1 and found[0].startswith("it flies") and says in found[0]
    fewer = [run for run in floors["quick"] if "test_race" not in run]
    assert len(list(unkept(README, fewer))) == 1


def test_every_test_that_is_here_is_in_make_test(floors):
    run = set().union(*map(sources, floors["test"]))
    assert every_test() - run == set()
    assert len(every_test()) > 50


def test_what_needs_other_packages_is_a_floor_of_its_own(floors):
    """In none of the others, and all of it."""
    here = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("test/hf/test_*.py")}
    assert set(floors["hf"]) == here and len(here) >= 3
    assert not here & set().union(*(map(sources, floors["test"] + floors["all"])), set())


def test_a_floor_holds_what_the_one_above_it_does(floors):
    """Not the same runs: the same files, and no run twice."""
    files = {floor: set().union(*map(sources, runs)) for floor, runs in floors.items()}
    assert files["quick"] < files["test"] <= files["all"]
    for floor, runs in floors.items():
        assert sorted(set(runs)) == sorted(runs), floor


def test_each_floor_is_a_goal_of_make_that_its_readme_explains():
    readme, makefile = (ROOT / "test" / "README.md").read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    for goal in FLOORS.values():
        assert f"`make {goal}`" in readme and re.search(rf"^{goal}:", makefile, re.MULTILINE), goal


# ---------------------------------------------------------------------------------------------------------
# kernels/cuda/README.md

CUDA = ROOT / "kernels" / "cuda"
CUDA_README = (CUDA / "README.md").read_text(encoding="utf-8")
TO_BE_ADDED = {"NORM_L1", "row_mean_abs"}  # its example


def text_of(*patterns):
    return "\n".join(path.read_text(encoding="utf-8") for pattern in patterns for path in sorted(ROOT.glob(pattern)))


def not_there(text):
    """What a page about kernels/cuda quotes (`// FILE`, then its lines, `…` for a cut), names, or calls a goal of make, and is not so."""
    for file, excerpt in re.findall(r"^```cpp\n// (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        source = (CUDA / file).read_text(encoding="utf-8") if (CUDA / file).exists() else ""
        for piece in re.split(r"^…\n", excerpt, flags=re.MULTILINE):
            if piece not in source:
                yield f"{file} has no {piece}"
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    code, makefiles = text_of("kernels/cuda/*.cu*", "kernels/kernels.h"), text_of("Makefile", "kernels/cuda/*.mk", "test/*/*.mk")
    for name in re.findall(r"`([^`\n]+)`", prose):
        if "/" in name or re.search(r"\.(cuh?|md|mk)$", name):
            if not (CUDA / name).exists() and not (ROOT / name).exists() and f'"{name}"' not in code:
                yield f"there is no file {name}"
            continue
        for word in re.findall(r"[A-Za-z_]\w{2,}", name.replace("make ", "")):
            if word not in TO_BE_ADDED and not re.search(rf"\b{word}" + ("" if word.endswith("_") else r"\b"), code + makefiles):
                yield f"there is no {word}"
    for goals in re.findall(r"^    make ((?:\S+ )+)", prose, re.MULTILINE):
        for goal in goals.split():
            if goal.startswith("build/"):
                goal = goal.replace("build", "$(BUILD)", 1)
            if not re.match(r'[A-Z_]+=|\d+"?$', goal) and not re.search(rf"^(\S+ )*{re.escape(goal)}( \S+)*:", makefiles, re.MULTILINE):
                yield f"make has no goal {goal}"


def test_what_the_page_about_cuda_kernels_quotes_and_names_is_there():
    assert len(re.findall("^```cpp", CUDA_README, re.MULTILINE)) >= 6
    assert list(not_there(CUDA_README)) == []
    unnamed = [path.name for path in CUDA.glob("*.cu*") if f"`{path.name}`" not in CUDA_README]
    assert unnamed == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cp_async_wait<0>();", "cp_async_wait<1>();", "attention_mma.cuh has no"),
        ("// attention_mma.cu\n", "// attention_gone.cu\n", "attention_gone.cu has no"),
        ("`columns.cuh`", "`rows.cuh`", "no file rows.cuh"),
        ("`block_sum`", "`block_total`", "no block_total"),
        ("make race ", "make races ", "no goal races"),
        ("make build/test_ops_emu ", "make build/test_ops_emus ", "no goal $(BUILD)/test_ops_emus"),
    ],
)
def test_what_that_page_has_wrong_is_seen(old, new, says):
    assert old in CUDA_README
    found = list(not_there(CUDA_README.replace(old, new, 1)))
    assert len(found) == 1 and says in found[0]
