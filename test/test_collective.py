"""Do the collectives of both backends work over several ranks, and end with one line where a rank or a caller is wrong?

CUDA's over the emulated NCCL (test/emu/nccl.cpp), the CPU's over MPI. Needs TEST_COLLECTIVE (build/test_collective) with
collective_faults and test_collective_cpu beside it, and Open MPI's mpirun.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import pytest
from mpi import without_notice_of_orte

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUITE = pathlib.Path(os.environ.get("TEST_COLLECTIVE", ROOT / "build" / "test_collective")).resolve()
FAULTS, CPU_SUITE = SUITE.parent / "collective_faults", SUITE.parent / "test_collective_cpu"
MPIRUN = "mpirun --quiet --allow-run-as-root --oversubscribe -n".split()
# mpirun would end the others before they notice that a rank died; a shell around each lives on, and tells how it ended.
SHELL = ["sh", "-c", '"$0" "$@"; echo "rank $OMPI_COMM_WORLD_RANK ended with $?"']
LIMIT_S = 120  # on busy cores; every wait inside ends long before

if not SUITE.exists():
    pytest.skip(f"{SUITE} is not built", allow_module_level=True)
if not shutil.which("mpirun"):
    pytest.skip("there is no mpirun", allow_module_level=True)


def run(ranks, *words, **env):
    """Each rank's exit code, the output of all, seconds. One rank runs without mpirun, and so without MPI."""
    command = [*MPIRUN, str(ranks), *SHELL, *words] if ranks > 1 else words
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(
            [str(word) for word in command],
            env=dict(os.environ, OMP_NUM_THREADS="1", RANKS_ID_FILE=os.path.join(folder, "id"), **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            text = without_notice_of_orte(child.communicate(timeout=LIMIT_S)[0].decode(errors="replace"))
        except subprocess.TimeoutExpired:
            child.terminate()  # mpirun ends its ranks then
            pytest.fail(f"still running after {LIMIT_S} s: {child.communicate()[0].decode(errors='replace')}")
    codes = [child.returncode]
    if ranks > 1:
        ended = dict(re.findall(r"rank (\d+) ended with (\d+)", text))
        codes = [int(ended[str(rank)]) if str(rank) in ended else None for rank in range(ranks)]
    return codes, text, time.monotonic() - begun


@pytest.mark.parametrize("suite,ranks", [(SUITE, 1), (SUITE, 2), (SUITE, 4), (CPU_SUITE, 2), (CPU_SUITE, 3), (CPU_SUITE, 4)])
def test_every_collective_is_right_on_every_rank_and_has_the_same_bits_in_every_run(suite, ranks):
    if not suite.exists():
        pytest.skip(f"{suite} is not built")
    digests = []
    for seed in ("0", "3"):  # the emulation's streams run in another order
        codes, text, _ = run(ranks, suite, EMU_SEED=seed, CMOCKA_MESSAGE_OUTPUT="TAP")
        verdicts = re.findall(r"^(ok|not ok) \d+(.*)$", text, re.MULTILINE)
        planned = re.findall(r"^1\.\.(\d+)$", text, re.MULTILINE)
        assert codes == [0] * ranks and verdicts, text
        run_of_them = [verdict for verdict, rest in verdicts if "SKIP" not in rest]
        assert set(run_of_them) == {"ok"} and len(planned) == ranks and sum(map(int, planned)) == len(verdicts), text
        found = dict(re.findall(r"# rank (\d+) of \d+: digest ([0-9a-f]{16})", text))
        assert sorted(found) == [str(rank) for rank in range(ranks)], text
        digests.append(found)
    assert digests[0] == digests[1]


EMU, PROGRAM, RANKS = 70, 1, 4  # how a fault of the emulation ends, the program's own check, a wait for other ranks


def meets(a, b):
    """Rank 0 is at a, rank 1 at b: one finds out, and the other then either that or that the first is gone."""
    return f"emu: ({a} on rank 0 meets {b} on rank 1|{b} on rank 1 meets {a} on rank 0)"


ENDS = {  # name → ranks, a rank's exit code, what one line says, environment
    "not_opened": (1, PROGRAM, "train_gpt: all_reduce_sum: collective_open has opened no communicator"),
    "negative_count": (1, PROGRAM, "train_gpt: all_reduce_sum: a count of -4"),
    "null_buffer": (1, PROGRAM, "train_gpt: broadcast: 4 elements at NULL"),
    "no_type": (1, PROGRAM, "train_gpt: all_reduce_sum: 3 is no type"),
    "uneven_pieces": (2, PROGRAM, "train_gpt: reduce_scatter_sum: 7 elements cannot be cut into pieces for 2 ranks"),
    "id_of_another_size": (1, PROGRAM, "train_gpt: collective_unique_id: an id has 128 bytes, not 100"),
    "foreign_id": (1, PROGRAM, r"opening rank 0 of 1: invalid argument \(the unique id is not from ncclGetUniqueId\)"),
    "function_missing": (1, PROGRAM, "libm.so.6 has no ncclAllReduce"),
    "host_memory": (1, EMU, r"ncclAllReduce of 4 ncclFloat32: 0x[0-9a-f]+ is no device memory"),
    "past_the_end": (1, EMU, "ncclAllReduce of 1025 ncclFloat32: 4100 bytes from byte 0 of a device allocation of 4096"),
    "off_an_element": (1, EMU, "ncclAllReduce of 4 ncclFloat32: .*aligned"),
    "unwritten": (1, EMU, "ncclAllReduce of 4 ncclFloat32: element 0 was never written"),
    "unwritten_bf16": (1, EMU, "ncclAllReduce of 4 ncclBfloat16: element 0 was never written"),
    "streams_out_of_order": (
        1,
        EMU,
        "ncclAllReduce of 4 ncclFloat32 was queued before ncclAllReduce of 5 ncclFloat32 .* nothing orders their",
    ),
    "graph_outlives_communicator": (1, EMU, "ncclCommFinalize: a stream or a graph still holds a call"),
    "call_outlives_communicator": (1, EMU, "ncclCommFinalize: a stream or a graph still holds a call"),
    "id_used_twice": (1, EMU, "ncclCommInitRank: a second communicator with one unique id"),
    "ranges_overlap": (1, EMU, "ncclAllReduce of 8 ncclFloat32: the ranges overlap"),
    "counts_differ": (2, EMU, meets("ncclAllReduce of 5 ncclFloat32", "ncclAllReduce of 6 ncclFloat32")),
    "types_differ": (2, EMU, meets("ncclAllGather of 2 ncclFloat32", "ncclAllGather of 2 ncclBfloat16")),
    "operations_differ": (
        2,
        EMU,
        meets("ncclAllReduce of 4 ncclFloat32", "ncclBroadcast of 4 ncclFloat32 from rank 0"),
    ),
    "ids_differ": (2, EMU, r"ranks \d and \d have different unique ids"),
    "ranks_miscounted": (2, PROGRAM, r"opening rank 0 of 3: invalid usage \(MPI calls this rank 0 of 2\)"),
    "busy_communicator": (1, EMU, "ncclCommFinalize: the communicator is still at what it was asked before"),
    "address_comes_too_late": (1, EMU, 'NCCL_COMM_ID was "" at NCCL\'s first call and is "127.0.0.1:28417" now'),
    "address_on_one_rank_alone": (
        2,
        RANKS,
        "rank 0 of 2, after step 17, waited 3 s in ncclCommInitRankConfig for rank 1 at 127.0.0.1:28417",
        {"NCCL_COMM_ID": "127.0.0.1:28417", "RANKS_TIMEOUT": "3"},
    ),
    "rank_stays_away": (
        2,
        RANKS,
        "train_gpt: rank 0 of 2, after step 17, waited 2 s in all_reduce_sum of 8 fp32, longer than --timeout: another rank",
        {"RANKS_TIMEOUT": "2"},
    ),
    "rank_dies": (
        2,
        RANKS,
        r"train_gpt: rank 0 of 2, after step 17, in .*: NCCL: remote process exited .* \(the process of rank 1 is gone\)",
    ),
    "rank_dies_before_an_event": (
        2,
        RANKS,
        r"train_gpt: rank 0 of 2, after step 17, in .*: NCCL: remote process exited .* \(the process of rank 1 is gone\)",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_is_wrong_ends_with_one_line_that_names_it(name):
    ranks, wanted, line, env = (*ENDS[name], {})[:4]
    codes, text, seconds = run(ranks, FAULTS, name, **env)
    assert re.search(line, text) and wanted in codes, text
    assert ranks > 1 or text.count("\n") == 1, text
    assert seconds < 60, text


def test_the_emulation_ends_a_wait_that_the_program_does_not():
    codes, text, seconds = run(2, FAULTS, "rank_stays_away", EMU_NCCL_TIMEOUT="2")
    assert "emu: ncclAllReduce of 8 ncclFloat32 on rank 0: rank 1 did not come within 2 s" in text
    assert codes[0] == EMU and seconds < 60


def test_every_misuse_is_expected_to_end_somehow():
    listed = subprocess.run([str(FAULTS)], stdout=subprocess.PIPE, check=True).stdout.decode().split()
    assert sorted(listed) == sorted(ENDS)


def test_a_machine_without_nccl_says_what_is_missing(tmp_path):
    """A copy of the program does not find the emulated library, which lies beside the original."""
    alone = shutil.copy(SUITE, tmp_path / "alone")
    loader = sorted(pathlib.Path("/lib64").glob("ld-linux-*"))
    if not loader:
        pytest.skip("there is no /lib64/ld-linux-*, by which an NCCL in the loader's cache is passed over")
    codes, text, _ = run(1, loader[0], "--inhibit-cache", alone, LD_LIBRARY_PATH="")
    assert codes == [1], text
    assert re.fullmatch(
        r"train_gpt: collective_unique_id: libnccl\.so\.2 cannot be loaded \(.*\): LD_LIBRARY_PATH must name the "
        r"folder that holds it\n",
        text,
    ), text
