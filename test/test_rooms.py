"""Do the includes of src/ go where the plan of the house (src/README.md) lets them: downward, and never in a circle?"""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


def plan():
    """{room: rooms that it may look into}, from the table in src/README.md."""
    rows = re.findall(r"^\| `(\w+)/` \|[^|]*\|([^|]*)\|$", (SRC / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", below)) for room, below in rows}


def includes():
    """(file, file it includes), both relative to the project."""
    for path in sorted(SRC.glob("*/*.[ch]")):
        for name in INCLUDE.findall(path.read_text(encoding="utf-8")):
            yield path.relative_to(ROOT), (path.parent / name).resolve().relative_to(ROOT)


def refused(edges, rooms):
    """The edges that the plan does not allow."""
    for source, target in edges:
        into = target.parts[1] if target.parts[0] == "src" else target.as_posix()
        allowed = rooms[source.parts[1]] | {source.parts[1], "kernels/kernels.h"}
        if into not in allowed:
            yield f"{source} includes {target}"


def circle(edges):
    """Units (a header with its .c) on a way back to themselves, or None."""
    below = {}
    for source, target in edges:
        if source.with_suffix("") != target.with_suffix(""):
            below.setdefault(source.with_suffix(""), set()).add(target.with_suffix(""))
    done, way = set(), []

    def walk(unit):
        if unit in way:
            return [str(each) for each in way[way.index(unit):] + [unit]]
        if unit in done:
            return None
        way.append(unit)
        found = next(filter(None, map(walk, sorted(below.get(unit, ())))), None)
        way.pop()
        done.add(unit)
        return found

    return next(filter(None, map(walk, sorted(below))), None)


def test_the_plan_names_every_room():
    assert set(plan()) == {path.name for path in SRC.iterdir() if path.is_dir()}
    assert not list(SRC.glob("*.[ch]")), "a file without a room"


def test_rooms_look_only_where_the_plan_lets_them():
    assert list(refused(includes(), plan())) == []


def test_no_two_units_stand_on_each_other():
    assert circle(includes()) is None


def test_a_wrong_include_is_seen():
    base, run = Path("src/base/check.c"), Path("src/run/log.h")
    assert list(refused([(base, run)], plan())) == ["src/base/check.c includes src/run/log.h"]
    assert list(refused([(run, Path("kernels/cpu/cpu.h"))], plan())), "a backend's own header"
    assert circle([(base, run), (run, Path("src/base/check.h"))])
