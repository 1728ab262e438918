"""Does any kernel of kernels/cuda race? Runs the operation suite under the race checker (test/emu/race.h), both types.

Which kernels ran, and which of their instantiations did not, is written to race_kernels.txt beside the program; a kernel that no
case launches is a failure. TEST_OPS_RACE names the program (default build/test_ops_race, of `make race`); without it
these tests are skipped. The checker itself is held to its planted races by build/test_race.
"""
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = pathlib.Path(os.environ.get("TEST_OPS_RACE", ROOT / "build" / "test_ops_race"))
TYPES = ["f32", "bf16"]
NEVER_LAUNCHED = {"nothing"}  # backend.cu asks the driver about it, no more

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="no test_ops_race: `make race` builds it")


def kernel_names():
    """The kernels of kernels/cuda, by their sources."""
    names = set()
    for path in sorted((ROOT / "kernels" / "cuda").glob("*.cu*")):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        found = re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(", text)
        assert len(found) == text.count("__global__"), f"{path}: a kernel whose name this test cannot read"
        names.update(found)
    assert NEVER_LAUNCHED < names
    return names - NEVER_LAUNCHED


def instantiations(names):
    """{address: (kernel, how nm writes it)} of all kernels in the program."""
    listing = subprocess.run(["nm", "-C", str(PROGRAM)], stdout=subprocess.PIPE, check=True).stdout.decode()
    found = {}
    for line in listing.splitlines():
        address, _, symbol = line.partition(" ")[0], *line.partition(" ")[1:]
        match = re.match(r"[tTwW] (?:void )?(?:\w+::|\(anonymous namespace\)::)*(\w+)[<(]", symbol)
        if match and match.group(1) in names and "[clone" not in symbol:
            found[int(address, 16)] = (match.group(1), symbol[2:].partition("(anonymous namespace)::")[2] or symbol[2:])
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{type: (exit status, output, addresses of the kernels that ran)}; both types at once, one core each."""
    folder = tmp_path_factory.mktemp("races")
    started = {}
    for kind in TYPES:
        environment = dict(os.environ, OMP_NUM_THREADS="1", EMU_KERNELS=str(folder / kind))
        output = open(folder / f"{kind}.txt", "wb")
        started[kind] = subprocess.Popen([str(PROGRAM), "bits", "--implementation", f"cuda/{kind}"], env=environment,
                                         stdout=output, stderr=subprocess.STDOUT)
    done = {}
    for kind, process in started.items():
        status = process.wait()
        text = (folder / f"{kind}.txt").read_text(errors="replace")
        launched = (folder / kind).read_text() if (folder / kind).exists() else ""
        done[kind] = status, text, {int(line.split("\t")[0], 16) for line in launched.splitlines()}
    return done


@pytest.mark.parametrize("kind", TYPES)
def test_no_operation_races(runs, kind):
    status, output, _ = runs[kind]
    assert status == 0, output[-3000:]
    assert len(re.findall(r"\[ +OK \]", output)) >= 20, output[-3000:]


def test_every_kernel_was_launched(runs):
    names = kernel_names()
    known = instantiations(names)
    launched = set().union(*(addresses for _, _, addresses in runs.values()))
    assert launched <= set(known), "a kernel ran that kernels/cuda does not have, or nm names otherwise"
    ran = {known[address][0] for address in launched}
    report = [f"{len(ran)} of {len(names)} kernels of kernels/cuda ran under the race checker, "
              f"{len(launched)} of their {len(known)} instantiations; none is left out for its block size"]
    report += [f"ran      {name}" for name in sorted(ran)]
    report += [f"NOT RUN  {name}" for name in sorted(names - ran)]
    report += [f"not run  {symbol}" for address, (_, symbol) in sorted(known.items()) if address not in launched]
    (PROGRAM.parent / "race_kernels.txt").write_text("\n".join(report) + "\n", encoding="utf-8")
    assert ran == names, f"never launched: {sorted(names - ran)}"
