"""Does compare_cpu.py ask its sides in turns, count right, and say of each mode what became of it?

Needs no PyTorch: in its place stands a program that answers times. train_gpt's stand-in writes metrics as it does, so
the numbers of a table are known; the last two tests run the built one (train_gpt, or TRAIN_GPT).
"""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest

from program import PROGRAM, ROOT

COMPARE = os.path.join(ROOT, "scripts", "compare_cpu.py")

# --dtype bf16 takes half of fp32's time, one thread twice of two threads' time.
TRAIN_GPT = """
    import json, sys, time
    if "--help" in sys.argv:
        print("presets\\n  micro        for tests\\n               n-layer=2 n-embd=64 n-head=2 seq-len=64 vocab-size=256")
        sys.exit()
    if "--version" in sys.argv:
        sys.exit(print("train_gpt 1.2.3 (cpu)"))
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    log("train_gpt-" + flags["--dtype"], flags["--threads"], flags["--seq-len"])
    refuse(flags)
    ms = 800 / int(flags["--threads"]) / (2 if flags["--dtype"] == "bf16" else 1)
    with open(flags["--out"] + "/metrics.jsonl", "w") as file:
        for step in range(1, 10000):
            warm = 50 if step <= 2 else 1
            print(json.dumps({"type": "train", "step": step, "ms": ms * warm}), file=file, flush=True)
            print(f"step {step}/100000000  loss 1.0", flush=True)
            time.sleep(0.001)
"""

# Eager takes 1200 ms with two threads in fp32, compiled half of it; bf16 twice as long.
PYTHON = """
    import json, sys
    job = json.load(open(sys.argv[2]))
    name = {"eager": "eager-", "compile": "compiled-", "check": "check-"}[job["mode"]] + job["dtype"]
    refuse(name)
    print("some library warns", flush=True)
    if job["mode"] == "check":
        print(json.dumps({"row": "pytorch", "version": "9.9"}))
        sys.exit(print(json.dumps({"row": "check", "good": GOOD})))
    for line in sys.stdin:
        request = json.loads(line)
        log(name, request["threads"], job["settings"]["seq-len"])
        turn(name)
        s = 2.4 / request["threads"] / (2 if job["mode"] == "compile" else 1) * (2 if job["dtype"] == "bf16" else 1)
        print(json.dumps({"steps": [s, s, 9 * s][: request["fewest"]]}), flush=True)
"""

DOES_ALL = """
GOOD = True
def refuse(name): pass
def turn(name): pass
"""

LLMC = """
    import os, time
    assert os.getcwd() == FOLDER, os.getcwd()
    log("llm.c", os.environ["OMP_NUM_THREADS"], 64)
    print("[GPT-2]")
    print("num_activations:", ACTIVATIONS)
    print("val loss 5.0")
    for step in range(40):
        print(f"step {step}: train loss 5.1 (took {9000 if step < 2 else 1600}.5 ms)", flush=True)
    time.sleep(60)
"""


class Stand:
    """Stand-ins in a folder, what they were asked, and a comparison of them."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "scratch").mkdir()
        self.train_gpt = self.program("train_gpt", "def refuse(flags): pass", TRAIN_GPT)
        self.python = self.program("python", DOES_ALL, PYTHON)

    def program(self, name, before, text, folder="."):
        path = self.folder / folder / name
        path.parent.mkdir(exist_ok=True)
        log = f"def log(*words): open({str(self.folder / 'asked')!r}, 'a').write(' '.join(map(str, words)) + chr(10))"
        path.write_text(f"#!{sys.executable}\n{log}\n{before}\n{textwrap.dedent(text)}")
        path.chmod(0o755)
        return str(path)

    def python_that(self, before):
        self.python = self.program("python", DOES_ALL + before, PYTHON)

    def train_gpt_that(self, before):
        self.train_gpt = self.program("train_gpt", before, TRAIN_GPT)

    def run(self, *words, code=0, env=None):
        command = [sys.executable, COMPARE, "--model", "micro", "--train-gpt", self.train_gpt, "--python", self.python,
                   "--turn", "0", "--threads", "2,1", "--seq", "64", "--json", str(self.folder / "rows"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
        assert done.returncode == code, done.stderr
        return done

    def rows(self):
        machine, *rows = [json.loads(line) for line in (self.folder / "rows").read_text().splitlines()]
        assert machine["row"] == "machine"
        return machine, {(row["mode"], row["T"]): row for row in rows}

    def asked(self):
        return [tuple(line.split()) for line in (self.folder / "asked").read_text().splitlines()]


@pytest.fixture
def stand(tmp_path):
    return Stand(tmp_path)


ALL = ["train_gpt-fp32", "train_gpt-bf16", "eager-fp32", "eager-bf16", "compiled-fp32", "compiled-bf16"]


def test_times_and_ratios_are_those_of_the_steps_behind_the_warmup(stand):
    stand.run("--batch", "2", "--rounds", "3")
    machine, rows = stand.rows()
    assert machine["torch"] == "9.9" and machine["train_gpt"] == "train_gpt 1.2.3 (cpu)" and machine["cpus"] >= 1
    assert {name: rows[name, 64]["ms"] for name in ALL} == dict(zip(ALL, [400, 200, 1200, 2400, 600, 1200]))
    for name in ALL:
        row, ms = rows[name, 64], rows[name, 64]["ms"]
        assert (row["B"], row["model"], row["threads"], row["rounds"]) == (2, "micro", 2, [ms] * 3)
        assert row["tokens_per_s"] == pytest.approx(2 * 64 / ms * 1e3, abs=0.1)
        for ours, own in (("train_gpt-fp32", 400), ("train_gpt-bf16", 200)):
            ratio = row.get("over " + ours)
            assert (ratio is None) if ours == name else (ratio["least"] == ratio["ratio"] == ratio["largest"] == ms / own)


def test_the_table_says_the_same_a_line_a_mode(stand):
    lines = stand.run("--batch", "2", "--rounds", "1", "--seq", "32,64").stdout.splitlines()
    assert lines[0].startswith("micro, 2 × 32 tokens") and lines[9].startswith("micro, 2 × 64 tokens")
    assert [line.split()[0] for line in lines[2:8]] == ALL
    assert re.search(r"^eager-bf16 +2 +2400.0 +26.7 +[\d.]+ +6.00 \(6.00 to 6.00\) +12.00 \(12.00 to 12.00\)$", lines[5])
    assert re.search(r"^train_gpt-fp32 .* 1 +2.00 \(2.00 to 2.00\)$", lines[2])


def test_rounds_go_around_and_begin_with_another_mode_each(stand):
    names = ["train_gpt-fp32", "eager-fp32", "compiled-fp32"]
    said = stand.run("--rounds", "3", "--modes", ",".join(names), "--threads", "2").stderr
    turns = [name for name, threads, _ in stand.asked()]
    a, b, c = names
    assert turns == [a, b, c] + [a, b, c] + [b, c, a] + [c, a, b]
    assert "compiled-fp32: compiling, by g++" in said and "round 3 of 3, eager-fp32, 2 threads: 1200.0 ms a step" in said


def test_each_mode_keeps_the_threads_that_were_best_and_a_length_is_a_comparison_of_its_own(stand):
    stand.run("--rounds", "1", "--modes", "train_gpt-fp32,eager-fp32", "--threads", "1,2", "--seq", "32,64")
    _, rows = stand.rows()
    assert rows["eager-fp32", 64]["tried"] == {"1": 2400, "2": 1200} and rows["eager-fp32", 64]["threads"] == 2
    assert stand.asked().count(("train_gpt-fp32", "1", "32")) == 1
    assert stand.asked().count(("train_gpt-fp32", "2", "32")) == 2


def test_once_fewer_threads_are_far_worse_still_fewer_are_not_tried(stand):
    stand.run("--rounds", "1", "--modes", "train_gpt-fp32", "--threads", "4,2,1")
    assert [threads for _, threads, _ in stand.asked()] == ["4", "2", "4"]


def test_a_dtype_that_is_refused_is_a_row_with_the_reason_and_the_rest_goes_on(stand):
    stand.train_gpt_that("""
def refuse(flags):
    if flags["--dtype"] == "bf16":
        sys.exit("train_gpt: --dtype bf16: not on this device")
""")
    done = stand.run("--rounds", "1")
    _, rows = stand.rows()
    assert rows["train_gpt-bf16", 64]["error"] == "train_gpt: --dtype bf16: not on this device (exit 1)"
    assert "train_gpt-bf16   train_gpt: --dtype bf16: not on this device (exit 1)\n" in done.stdout
    assert all("ms" in rows[name, 64] and "over train_gpt-bf16" not in rows[name, 64] for name in ALL if name != ALL[1])
    assert "over train_gpt-fp32" in rows["eager-fp32", 64]


def test_a_worker_that_dies_between_rounds_or_says_it_cannot_is_a_row(stand):
    stand.python_that(f"""
import os
turns = 0
def turn(name):
    global turns
    turns += 1
    if name == "eager-bf16" and turns == 4:
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    if name == "compiled-bf16":
        print(json.dumps({{"error": "RuntimeError: no memory"}}), flush=True)
        sys.stdin.readline()
""")
    stand.run("--rounds", "3")
    _, rows = stand.rows()
    assert rows["eager-bf16", 64]["error"].endswith("(killed by signal 9, as where memory is short)")
    assert rows["compiled-bf16", 64]["error"] == "RuntimeError: no memory"
    assert len(rows["eager-fp32", 64]["rounds"]) == 3 and rows["compiled-fp32", 64]["ms"] == 600


def test_a_mode_that_says_nothing_in_time_is_given_up(stand):
    stand.python_that("import time\ndef turn(name): time.sleep(60 if name == 'eager-fp32' else 0)")
    stand.run("--rounds", "1", "--timeout", "2")
    _, rows = stand.rows()
    assert "no time left" in rows["eager-fp32", 64]["error"] and rows["compiled-fp32", 64]["ms"] == 600


def test_without_pytorch_ours_are_timed_and_each_other_mode_says_why_not(stand):
    stand.python_that("""def refuse(name): raise SystemExit("ModuleNotFoundError: No module named 'torch'")""")
    done = stand.run("--rounds", "1")
    machine, rows = stand.rows()
    assert machine["torch"] is None and done.stdout.count("No module named 'torch' (exit 1)") == 4
    assert rows["train_gpt-fp32", 64]["ms"] == 400
    stand.run("--rounds", "1", "--modes", "train_gpt-fp32,eager-fp32", code=1)


def test_a_comparison_that_is_ended_leaves_nothing_behind(stand):
    stand.python_that(f"import os, time\ndef turn(name):\n    os.kill(os.getppid(), {int(signal.SIGTERM)})\n    time.sleep(60)")
    stand.run("--modes", "eager-fp32", code=143, env=dict(os.environ, TMPDIR=str(stand.folder / "scratch")))
    assert os.listdir(stand.folder / "scratch") == []


def test_two_sides_that_are_not_the_same_model_are_not_timed(stand):
    stand.python_that("GOOD = False")
    done = stand.run(code=1)
    assert "not the same model" in done.stderr and done.stdout == "" and not (stand.folder / "asked").exists()


def llmc(stand, folder, activations):
    where = str(stand.folder / folder)
    return stand.program("train_gpt2", f"FOLDER, ACTIVATIONS = {where!r}, {activations}", LLMC, folder)


def test_llmc_is_timed_by_what_it_prints_where_it_was_built_for_this_length(stand):
    """73347840 is what llm.c says of 4 × 64; 350014464 is 4 × 256."""
    stand.train_gpt_that("""
import sys
if "--help" in sys.argv:
    sys.exit(print("presets\\n  gpt2-124m    small\\n               vocab-size=50257"))
def refuse(flags): pass
""")
    builds = ["--llmc", llmc(stand, "short", 73347840), "--llmc", llmc(stand, "long", 350014464)]
    words = ["--model", "gpt2-124m", "--modes", "train_gpt-fp32,llm.c", "--rounds", "1", "--threads", "2", "--seq", "64"]
    stand.run(*words, *builds)
    assert stand.rows()[1]["llm.c", 64]["ms"] == 1600.5
    stand.run(*words, *builds[2:], code=1)
    error = stand.rows()[1]["llm.c", 64]["error"]
    assert "built for another batch or sequence length (num_activations: 350014464)" in error


@pytest.mark.parametrize("words, says", [
    (["--modes", "eager"], "'eager' is not one of train_gpt-fp32"),
    (["--modes", "llm.c"], "it wants --llmc FILE"),
    (["--model", "gpt3"], "invalid choice: 'gpt3'"),
    (["--seq", "64,x"], "--seq: invalid N,N value: '64,x'"),
    (["--seq", "0"], "--seq: invalid"),
    (["--threads", ""], "--threads: invalid"),
    (["--batch", "0"], "--batch: invalid"),
    (["--rounds", "-1"], "--rounds: invalid"),
    (["--train-gpt", "nowhere/train_gpt"], "nowhere/train_gpt is no program"),
    (["--llmc", "nowhere/train_gpt2"], "nowhere/train_gpt2 is no program"),
    (["--llmc", sys.executable], "trains gpt2-124m, not micro"),
    (["--json", "nowhere/rows"], "nowhere/rows: No such file or directory"),
])  # fmt: skip
def test_bad_usage_is_exit_2_and_says_what(stand, words, says):
    assert says in stand.run(*words, code=2).stderr


def test_help_says_what_is_counted():
    done = subprocess.run([sys.executable, COMPARE, "--help"], capture_output=True, text=True, check=True)
    for words in (*ALL, "llm.c", "A step is the same work in all", "fused AdamW", "--llmc FILE", "Exit status"):
        assert words in done.stdout


def test_train_gpt_itself_is_timed_with_a_stand_in_beside_it(stand):
    if not os.path.exists(PROGRAM):
        pytest.skip("train_gpt is not built")
    stand.train_gpt = PROGRAM
    stand.run("--rounds", "2", "--modes", "train_gpt-fp32,eager-fp32", "--threads", "1")
    row = stand.rows()[1]["train_gpt-fp32", 64]
    assert 0 < row["ms"] < 10000 and 0.001 < row["peak_gb"] < 1


def test_pytorch_itself_takes_steps_and_computes_the_same(stand):
    pytest.importorskip("torch", minversion="2.0", reason="torch is not installed, or older than 2.0")
    if not os.path.exists(PROGRAM):
        pytest.skip("train_gpt is not built")
    stand.train_gpt, stand.python = PROGRAM, sys.executable
    done = stand.run("--rounds", "2", "--modes", "train_gpt-fp32,eager-fp32,eager-bf16", "--threads", "1")
    assert "the same loss and gradient" in done.stderr
    rows = stand.rows()[1]
    assert all(len(rows[name, 64]["rounds"]) == 2 for name in ("train_gpt-fp32", "eager-fp32", "eager-bf16"))
