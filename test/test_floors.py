"""Do the floors of the tests (test/floors.mk) hold what they say: in `make test` every test that is here, in
`make test-quick` one of each promise of README.md, which all name tests that exist?"""
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
