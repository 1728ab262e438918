"""Does the check of a GPU measure, keep and judge as it says? Its arithmetic, its programs in turns, its
rehearsal.

Needs no GPU. The rehearsal runs what is built (train_gpt, or TRAIN_GPT; the emulation of `make emu`).
"""

import json
import math
import os
import pathlib
import random
import re
import stat
import subprocess
import sys
import textwrap
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from gpu import machine as machines  # noqa: E402
from gpu import marks, pairs, parts, results  # noqa: E402

CHECK = str(ROOT / "scripts" / "gpu_check.py")


def script(path, text):
    path.write_text(textwrap.dedent(text))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def rehearsed(tmp_path, *words, code, **env):
    done = subprocess.run(
        [sys.executable, CHECK, "--rehearse", "--out", str(tmp_path), "--commit", "here", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ, **env),
        check=False,
    )
    text = done.stdout.decode()
    assert done.returncode == code, text
    return json.loads((tmp_path / "rehearsal-here.json").read_text()), text


# -------------------------------------------------------------------------------------------- the numbers


def test_the_marks_are_those_that_were_asked_for():
    asked = {
        f"{model}.{what}"
        for model in ("gpt2-124m", "gpt2-350m", "gpt2-1558m", "llama-1b")
        for what in ("tokens_per_s", "mfu", "vs_pytorch")
    }
    asked |= {
        "attention.fwd_tflops",
        "attention.bwd_tflops",
        "junction.fwd_bandwidth_share",
        "junction.bwd_bandwidth_share",
        "adamw.bandwidth_share",
        "tests.passed",
        "tests.failed",
        "sanitizer.errors",
    }
    names = [name for name, *_ in marks.MARKS]
    assert len(names) == len(set(names))
    assert {name for name in names if not name.startswith("variant.")} == asked
    assert {"variant.gpas.overhead", "variant.bhyt.overhead"} <= set(names)
    assert all(re.fullmatch(r"variant\.[a-z-]+\.overhead", name) for name in set(names) - asked)


def test_the_readme_of_the_results_lists_every_mark_with_its_target_and_a_command_that_exists():
    text = (ROOT / "test" / "results" / "README.md").read_text()
    for name, part, relation, target in marks.MARKS:
        wanted = f"{relation} {target:,g}" if relation else "none set"
        assert re.search(
            rf"^\| `{re.escape(name)}` \| [^|]+ \| {re.escape(wanted)} \| `scripts/gpu_check.py {part}` \|$",
            text,
            re.MULTILINE,
        ), name
        assert parts.chosen(part.split())


def test_every_listed_batch_size_divides_an_update_and_every_variant_has_its_part():
    for size in marks.SIZES.values():
        assert all(size["tokens"] % (n * size["T"]) == 0 for n in size["batch_sizes"])
    assert sorted(sum(marks.VARIANT_PARTS.values(), [])) == sorted(marks.VARIANTS)


def test_an_interval_holds_the_true_median_as_often_as_it_says():
    draw = random.Random(3)
    held = 0
    for _ in range(400):
        low, high = pairs.interval([draw.expovariate(1) for _ in range(15)])
        held += low <= math.log(2) <= high
    assert 0.93 <= held / 400 <= 1  # 95 % or somewhat more: order statistics are coarse
    assert pairs.interval([1, 2, 3, 4, 5]) is None  # 2 · 2⁻⁵ is over 5 %
    assert pairs.interval([6, 1, 5, 2, 4, 3]) == (1, 6)
    assert pairs.median([3, 1, 2, 10]) == 2.5


def test_targets_are_met_from_the_right_side():
    assert marks.met(">=", 1.05, 1.05) and not marks.met(">=", 1.05, 1.04)
    assert marks.met("<=", 1.005, 1.005) and not marks.met("<=", 1.005, 1.006)
    assert marks.met("<=", 0, None) is None and marks.met(None, None, 3) is None


# --------------------------------------------------------------------------------------- programs in turns

STEPS = """\
    #!{python}
    import sys, time
    n = 0
    while True:
        time.sleep({seconds})
        n += 1
        print(f"step {{n}}/0  loss", flush=True)
        if n == {last}: sys.exit("out of memory: it said so")
    """


def steps_of(tmp_path, name, seconds, last=-1):
    return [script(tmp_path / name, STEPS.format(python=sys.executable, seconds=seconds, last=last))]


def test_turns_find_by_how_much_one_program_is_slower(tmp_path):
    with pairs.Run(steps_of(tmp_path, "a", 0.01)) as a, pairs.Run(steps_of(tmp_path, "b", 0.02)) as b:
        found = pairs.summary(pairs.ratios(a, b, rounds=8, seconds=0.1, deadline=time.monotonic() + 60))
    assert found["pairs"] == 8 and found["low"] <= found["ratio"] <= found["high"]
    assert 1.3 < found["ratio"] < 2.3  # 2, less what waking up costs both on a busy machine


def test_a_stopped_program_takes_no_steps_and_a_killed_one_is_gone(tmp_path):
    with pairs.Run(steps_of(tmp_path, "a", 0.01)) as run:
        run.wait_steps(3, time.monotonic() + 30)
        run.pause()
        time.sleep(0.1)
        before = len(run.times)
        time.sleep(0.3)
        assert len(run.times) == before
    assert run.child.returncode == -9


def test_a_program_does_not_outlive_who_started_it(tmp_path):
    starter = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "scripts")!r})
from gpu.pairs import Run
run = Run({steps_of(tmp_path, "a", 0.01)!r})
run.wait_steps(2, time.monotonic() + 30)
run.pause()
print(run.child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    end = time.monotonic() + 10
    while time.monotonic() < end and state_of(pid) not in (None, "Z"):
        time.sleep(0.05)
    assert state_of(pid) in (None, "Z")


def state_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return None


def test_a_program_that_ends_is_a_failure_with_its_last_words(tmp_path):
    with pairs.Run(steps_of(tmp_path, "a", 0.001, last=3)) as run, pytest.raises(
        pairs.RunFailed, match="it said so"
    ):
        run.wait_steps(10, time.monotonic() + 30)
    with pairs.Run(["sleep", "60"]) as run, pytest.raises(pairs.RunFailed, match="no time left"):
        run.wait_steps(1, time.monotonic() + 0.2)


# --------------------------------------------------------------------------------------------- the results


def test_a_cut_check_keeps_what_was_measured_and_a_later_call_adds_to_it(tmp_path):
    path = str(tmp_path / "r.json")
    first = results.Results(path, "GPU", "abc", {})
    part = first.begin("operations")
    part.row(name="adamw", us=1)
    part.mark("adamw.bandwidth_share", 0.85)  # and here the process dies
    kept = json.loads(open(path, encoding="utf-8").read())
    assert kept["parts"]["operations"]["status"] == "running"
    assert (
        kept["marks"]["adamw.bandwidth_share"] == 0.85
        and kept["targets"]["adamw.bandwidth_share"]["met"] is True
    )
    later = results.Results(path, "GPU", "abc", {})
    later.begin("suite-bf16").set(passed=3, failed=1)
    assert later.marks()["adamw.bandwidth_share"] == 0.85 and later.marks()["tests.failed"] == 1
    assert results.Results(path, "GPU", "other", {}).marks()["adamw.bandwidth_share"] is None
    assert set(kept["marks"]) == {name for name, *_ in marks.MARKS}


def test_sanitizer_errors_count_only_when_all_three_tools_have_checked(tmp_path):
    found = results.Results(str(tmp_path / "r.json"), "GPU", "abc", {})
    for i, tool in enumerate(("memcheck", "racecheck", "initcheck")):
        assert found.marks()["sanitizer.errors"] is None
        found.begin(f"sanitizer-{tool}").set(errors=i)
    assert found.marks()["sanitizer.errors"] == 3


# ------------------------------------------------------------------------------------------------ the parts


class Fake(machines.Machine):
    def __init__(self, tmp_path, **programs):
        super().__init__(str(tmp_path), dict(os.environ), "cuda")
        self.named, self.scratch = programs, str(tmp_path)


def run_part(tmp_path, machine, name, seconds=20):
    found = results.Results(str(tmp_path / "r.json"), "GPU", "abc", {})
    from gpu_check import run_part as run

    run(name, machine, found, seconds)
    return found.data["parts"][name], found.marks()


def test_a_suite_that_dies_has_failed_in_what_it_did_not_run(tmp_path):
    suite = script(
        tmp_path / "t",
        """\
        #!/bin/sh
        echo 1..5; echo 'ok 1 - a'; echo 'not ok 2 - b'; echo 'ok 3 - c # SKIP'; exit 139
        """,
    )
    part, found = run_part(tmp_path, Fake(tmp_path, test_ops_cuda=suite), "suite-bf16")
    assert (part["passed"], part["failed"], part["skipped"]) == (1, 3, 1)
    assert (found["tests.passed"], found["tests.failed"]) == (1, 3)
    assert part["rows"][0] == {"test": "b", "result": "failed"} and "2 of 5" in part["rows"][1]["result"]


def test_a_part_that_hangs_is_cut_at_its_limit_and_counts_as_failed(tmp_path):
    hangs = script(tmp_path / "t", "#!/bin/sh\necho 1..2; echo 'ok 1 - a'; sleep 60\n")
    begin = time.monotonic()
    part, _ = run_part(tmp_path, Fake(tmp_path, test_ops_cuda=hangs), "suite-f32", seconds=1)
    assert time.monotonic() - begin < 20 and (part["passed"], part["failed"]) == (1, 1)


RANK = """\
    #!/bin/sh
    echo "1..2"
    echo "ok 1 - rank $RANK of $RANKS with $(basename $RANKS_ID_FILE), $1 elements"
    [ $RANK = 1 ] || exec echo "ok 2 - the other"
    {second}
    """


def test_the_collectives_run_on_as_many_ranks_as_there_are_gpus_and_each_counts(tmp_path):
    for second, counts, rows in (
        ("echo 'not ok 2 - the other'; exit 1", (5, 1), [{"test": "the other", "result": "failed"}]),
        ("kill -9 $$", (5, 1), None),
        ("echo 'ok 2 - the other'", (6, 0), []),
    ):
        rank = script(tmp_path / "rank", RANK.format(second=second))
        machine = Fake(tmp_path, test_collective_cuda=rank)
        machine.env["CUDA_VISIBLE_DEVICES"] = "0,1,2"
        part, found = run_part(tmp_path, machine, "collectives")
        assert part["ranks"] == 3 and (part["passed"], part["failed"]) == counts
        assert rows is None or part["rows"] == rows
        assert rows is not None or "1 of 6 tests did not run: status 137" in part["rows"][0]["result"]
        assert (found["tests.passed"], found["tests.failed"]) == counts


def test_collectives_that_were_not_built_are_skipped_with_their_reason(tmp_path):
    none = script(tmp_path / "none", "#!/bin/sh\necho 'this build has no collectives' >&2; exit 2\n")
    machine = Fake(tmp_path, test_collective_cuda=none)
    machine.env["CUDA_VISIBLE_DEVICES"] = "0"
    part, found = run_part(tmp_path, machine, "collectives")
    assert part["status"] == "skipped" and part["reason"] == "this build has no collectives"
    assert found["tests.passed"] is None


# A collectives' test whose NCCL wants of ranks on one GPU what {wants} says, and a train_gpt whose ranks lose {two} of a loss.
SHARING = """\
    #!/bin/sh
    echo "$RANK $LOCAL_RANK $LOCAL_WORLD_SIZE $WORLD_SIZE $NCCL_HOSTID" >>{told}
    {wants} || {{ echo "NCCL: opening rank $RANK of 2: invalid usage (Duplicate GPU)"; exit 1; }}
    echo 1..1; echo 'ok 1 - a'
    """
TRAINED_AS_TWO = """\
    #!/bin/sh
    zero=none
    while [ $# -gt 0 ]; do case $1 in --out) out=$2 ;; --zero) zero=$2 ;; esac; shift; done
    [ "${{RANK:-0}}" = 0 ] || exit 0
    mkdir -p $out
    case $zero in none) last=3.5 ;; 0) last={two} ;; 1) last={shared} ;; esac
    for loss in 4.0 $last; do echo '{{"type": "train", "loss": '$loss'}}'; done >$out/metrics.jsonl
    """


@pytest.mark.parametrize(
    "wants, two, shared, gpus, way, status, counts",
    [
        ('[ "$NCCL_MULTI_RANK_GPU_ENABLE" = 1 ]', 3.5, 3.5, 1, "NCCL_MULTI_RANK_GPU_ENABLE=1", "done", (5, 0)),
        ('[ "$NCCL_HOSTID" = $RANK ]', 3.5, 3.5, 1, "NCCL_HOSTID of each rank's own", "done", (5, 0)),
        ("true", 3.5, 3.5, 2, "a GPU each", "done", (5, 0)),
        ("true", 3.51, 3.51, 2, "a GPU each", "done", (4, 1)),
        ("true", 3.5, 3.5000001, 2, "a GPU each", "done", (4, 1)),
        ("false", 3.5, 3.5, 1, None, "skipped", None),
    ],
)
def test_two_ranks_share_a_gpu_where_nccl_lets_them_and_train_as_one(
    tmp_path, wants, two, shared, gpus, way, status, counts
):
    test = script(tmp_path / "test", SHARING.format(wants=wants, told=tmp_path / "told"))
    trains = script(tmp_path / "trains", TRAINED_AS_TWO.format(two=two, shared=shared))
    machine = Fake(tmp_path, test_collective_cuda=test, train_gpt=trains)
    machine.env["CUDA_VISIBLE_DEVICES"] = "0,1"[: 2 * gpus - 1]
    part, _ = run_part(tmp_path, machine, "two-ranks")
    assert part["status"] == status and part.get("way") == way, part
    if counts:
        assert (part["passed"], part["failed"]) == counts, part
    else:
        assert "NCCL_MULTI_RANK_GPU_ENABLE=1: NCCL: opening rank" in part["reason"]
        assert "NCCL_HOSTID of each rank's own: NCCL: opening rank" in part["reason"]
    told = sorted((tmp_path / "told").read_text().splitlines()[-2:])
    hosts = ["0", "1"] if way is None or "HOSTID" in way else ["", ""]
    assert told == [f"{r} {r % gpus} {gpus} 2 {hosts[r]}" for r in range(2)]


SANITIZER = """\
    #!/bin/sh
    # compute-sanitizer --tool T PROGRAM …
    echo '========= COMPUTE-SANITIZER'
    case "$2:$*" in
    racecheck:*) echo '========= RACECHECK SUMMARY: {races} hazards displayed ({races} errors, 0 warnings)' ;;
    *attention_backward*) {memory} ;;
    *) echo '========= ERROR SUMMARY: 0 errors' ;;
    esac
    """


@pytest.mark.parametrize(
    "races, memory, expected",
    [
        (0, "echo '========= ERROR SUMMARY: 0 errors'", 0),
        (2, "echo '========= ERROR SUMMARY: 0 errors'", 2 * len(parts.SANITIZED)),
        (
            0,
            "echo '========= Invalid __global__ write'; echo '========= ERROR SUMMARY: 3 errors'",
            6,
        ),
    ],
)
def test_the_sanitizers_findings_are_added_up(tmp_path, races, memory, expected):
    machine = Fake(tmp_path, test_ops_cuda="/bin/true")
    machine.sanitizer = script(tmp_path / "compute-sanitizer", SANITIZER.format(races=races, memory=memory))
    for tool in ("memcheck", "racecheck", "initcheck"):
        part, found = run_part(tmp_path, machine, f"sanitizer-{tool}")
        assert part["status"] == "done" and part["unchecked"] == []
    assert found["sanitizer.errors"] == expected


def test_a_sanitizer_that_cannot_use_the_device_has_checked_nothing(tmp_path):
    machine = Fake(tmp_path, test_ops_cuda="/bin/true")
    machine.sanitizer = script(
        tmp_path / "compute-sanitizer", "#!/bin/sh\necho '========= Error: Device not supported'\nexit 1\n"
    )
    part, found = run_part(tmp_path, machine, "sanitizer-memcheck")
    assert part["status"] == "skipped" and "Device not supported" in part["reason"] and part["errors"] is None
    assert found["sanitizer.errors"] is None


def test_the_probes_rows_become_marks(tmp_path):
    rows = [
        ("attention_forward B=16 T=1024 H=12/12 D=64", "tflops", 210.0),
        ("attention_forward B=16 T=1024 H=25/25 D=64", "tflops", 1.0),
        ("attention_backward B=16 T=1024 H=12/12 D=64", "tflops", 130.0),
        ("junction_forward layernorm C=1600 N=31457 residual bf16", "share_of_copy", 0.81),
        ("junction_forward layernorm C=768 N=65536 residual bf16", "share_of_copy", 0.1),
        ("junction_backward layernorm C=1600 N=31457 residual bf16", "share_of_copy", 0.74),
        ("adamw 124416000 parameters", "share_of_copy", 0.9),
    ]
    text = "\n".join(json.dumps({"row": "kernel", "name": name, key: value}) for name, key, value in rows)
    probe = script(tmp_path / "probe", f"#!/bin/sh\ncat <<'X'\n{text}\nX\n")
    part, found = run_part(tmp_path, Fake(tmp_path, gpu_probe=probe), "operations")
    assert part["status"] == "done"
    assert [found[name] for name in parts.PROBED] == [210.0, 130.0, 0.81, 0.74, 0.9]


def test_gpu_probe_still_names_its_rows_as_the_marks_expect():
    text = (ROOT / "test" / "gpu_probe.cu").read_text()
    for name in (
        '"attention_forward B=%d T=%d H=%d/%d D=%d"',
        '"attention_backward B=%d T=%d H=%d/%d D=%d"',
        '"junction_forward %s C=%d N=%lld residual %s"',
        '"junction_backward %s C=%d N=%lld residual %s"',
        '"adamw %lld parameters"',
        "{768, 1600, 2048, 4096}",
    ):
        assert name in text, name


# -------------------------------------------------------------------------------------------- the rehearsal

REHEARSED = [
    "suite-bf16",
    "collectives",
    "two-ranks",
    "training",
    "operations",
    "steps-gpt2-124m",
    "variants-norms",
    "sanitizer-memcheck",
    "pytorch-gpt2-124m",
]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    rehearsal = machines.Rehearsal(dict(os.environ))
    for name in rehearsal.PLACES:
        try:
            rehearsal.program(name)
        except machines.Unavailable as error:
            pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("rehearsal")
    sanitizer = script(
        folder / "sanitizer", "#!/bin/sh\nshift 2\n\"$@\"\necho '========= ERROR SUMMARY: 0 errors'\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            CHECK,
            "--rehearse",
            "--out",
            str(folder),
            "--commit",
            "here",
            "--sanitizer",
            sanitizer,
            *REHEARSED,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    text = done.stdout.decode()
    return json.loads((folder / "rehearsal-here.json").read_text()), text


@pytest.mark.parametrize("name", REHEARSED)
def test_a_rehearsal_runs_the_part(rehearsal, name):
    data, text = rehearsal
    part = data["parts"][name]
    if name.startswith("pytorch") and part["status"] == "skipped":
        pytest.skip(part["reason"])
    assert part["status"] == "done", text
    assert part.get("failed", 0) == 0, part


def test_a_rehearsal_measures_what_it_should_and_says_that_it_means_nothing(rehearsal):
    data, text = rehearsal
    found = data["marks"]
    assert found["tests.passed"] >= 5 and found["tests.failed"] == 0
    assert found["gpt2-124m.tokens_per_s"] > 0 and found["variant.gpas.overhead"] > 0
    assert data["parts"]["variants-norms"]["a_a"]["pairs"] == 6
    assert "the numbers mean nothing" in text and text.splitlines()[-1].startswith("results: ")
    for name, *_ in marks.MARKS:
        assert re.search(rf"^{re.escape(name)} ", text, re.MULTILINE), name


def test_a_part_that_fails_does_not_stop_the_others(tmp_path):
    data, text = rehearsed(tmp_path, "steps-gpt2-124m", "sanitizer-memcheck", code=1, TRAIN_GPT="/bin/false")
    assert data["parts"]["steps-gpt2-124m"]["status"] == "failed"
    assert data["parts"]["sanitizer-memcheck"]["status"] == "skipped"
    assert "gpt2-124m.tokens_per_s" in text and data["marks"]["gpt2-124m.tokens_per_s"] is None


def test_without_a_gpu_one_line_says_so(tmp_path):
    script(
        tmp_path / "train_gpt",
        "#!/bin/sh\necho 'train_gpt: --device cuda: no NVIDIA driver on this machine' >&2; exit 2\n",
    )
    done = subprocess.run(
        [sys.executable, CHECK, "--binaries", str(tmp_path), "--out", str(tmp_path / "r")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.returncode == 1 and not done.stdout and not (tmp_path / "r").exists()
    assert re.fullmatch(
        r"gpu_check.py: no GPU that can be checked \(.*no NVIDIA driver.*\n", done.stderr.decode()
    )


@pytest.mark.skipif(machines.has_gpu(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_built_to_find_that_out(tmp_path):
    done = subprocess.run([sys.executable, CHECK, "--build", str(tmp_path / "b")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and not done.stdout and not (tmp_path / "b").exists()
    assert re.fullmatch(r"gpu_check.py: no GPU on this machine [^\n]*; --rehearse needs none\n", done.stderr)


def test_a_training_that_hangs_ends_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "CASE_S", 0)
    monkeypatch.setattr(parts, "training_shape", lambda machine: [])
    hangs = script(tmp_path / "t", "#!/bin/sh\nexec sleep 60\n")
    begin = time.monotonic()
    part, _ = run_part(tmp_path, Fake(tmp_path, train_gpt=hangs), "training", seconds=2)
    assert time.monotonic() - begin < 30 and part["failed"] == len(parts.TRAINED) and part["passed"] == 0


def test_a_part_that_is_none_is_refused(tmp_path):
    done = subprocess.run([sys.executable, CHECK, "nonsense"], stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2 and b"'nonsense' is no part; there are: suite-bf16" in done.stderr
