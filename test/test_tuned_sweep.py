"""What does scripts/sweep.py --tune promise as a whole: the runs it starts, the table it ends with, and going on after a kill?

A program that answers at once, with a loss that the test knows, stands in for train_gpt; the last test trains."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
from types import SimpleNamespace

import pytest

from program import ROOT, file_bytes, metrics
from sweeping import MICRO, SWEEP, TWO, answering, read_csv, run_directories, sweep, sweep_environment
from test_bf16 import needs_bf16

sys.path.insert(0, os.path.join(ROOT, "scripts"))

EVERY = bool(os.environ.get("TEST_ALL"))
# Lowest at a learning rate of 2e-3, for lns at 8e-3 and 0.1 lower; above 0.02 it diverges; seeds differ, lns's otherwise.
LOSS = """math.inf if lr > 0.02 else (
    1.9 + abs(math.log2(lr / 0.008)) + 0.01 * math.sin(seed * seed) if flags["placement"] == "lns" else
    2.0 + abs(math.log2(lr / 0.002)) + 0.01 * math.sin(seed))"""
VARIANTS = ["--variant", "pre: placement=pre", "--variant", "lns: placement=lns"]


def tuned(out):
    return json.loads(file_bytes(out, "tuned.json"))


def by_variant(out):
    return {setting["labels"]["variant"]: setting for setting in tuned(out)["settings"]}


@pytest.fixture
def tune(tmp_path, data):
    """tune(loss, …): a sweep of two variants with a stand-in whose losses those are; its directory is tmp_path/out."""

    def call(loss, *arguments, variants=VARIANTS, dry_run="pass", first="pass", values="lr=1e-3,2e-3,4e-3", **how):
        program = answering(tmp_path, loss, dry_run, first)
        tune = ["--tune", values] if values else []
        common = ["--out", tmp_path / "out", "--program", program, *data, "--flag", "steps=4", "--jobs", 8, *variants]
        return sweep(*common, *tune, *arguments, **how)

    return call


def test_each_variant_is_compared_at_its_own_best_seed_by_seed(tune, tmp_path):
    done = tune(LOSS)
    found = by_variant(tmp_path / "out")
    assert (found["pre"]["best"], found["lns"]["best"]) == ("0.002", "0.008")
    assert list(found["lns"]["tried"]) == ["0.001", "0.002", "0.004", "0.008", "0.016"]
    # The numbers, from what the runs left and by other means than the sweep's own.
    ends = {}
    for variant in found:
        for seed in "123":
            (name,) = [each for each in run_directories(tmp_path / "out")
                       if each.startswith("%s_lr=%s_seed=%s_" % (variant, found[variant]["best"], seed))]  # fmt: skip
            ends[variant, seed] = metrics(tmp_path / "out" / name, "val")[-1]["loss"]
    differences = [ends["lns", seed] - ends["pre", seed] for seed in "123"]
    mean, reach = statistics.mean(differences), 4.302653 * statistics.stdev(differences) / 3**0.5
    row = found["lns"]["difference"]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((mean, mean - reach, mean + reach), rel=1e-6)
    assert row["p"] == row["p_holm"] < 0.05 and found["lns"]["verdict"] == "better"
    assert found["pre"]["verdict"] == "baseline" and "difference" not in found["pre"]
    # The same in the other two, and on the terminal; the formula stands there too.
    line = read_csv(tmp_path / "out", "tuned.csv")[1]
    assert (line["lr"], line["verdict"]) == ("0.008", "better") and float(line["low"]) == pytest.approx(row["low"], rel=1e-6)
    text = "%+.4f to %+.4f" % (row["low"], row["high"])
    assert text in done.out and text in file_bytes(tmp_path / "out", "tuned.md").decode()
    assert "d ± 4.303·s/√3" in done.out and "on seed 0" in done.out
    # Each at its best in the table of all sweeps; every run in runs.csv.
    rows = read_csv(tmp_path / "out", "table.csv")
    assert [(row["variant"], row["runs"]) for row in rows] == [("pre", "3"), ("lns", "3")] and "lr" not in rows[0]
    assert len(read_csv(tmp_path / "out", "runs.csv")) == len(run_directories(tmp_path / "out")) == 3 + 5 + 2 * 3


def test_a_second_call_and_a_report_run_nothing_and_say_the_same(tune, tmp_path):
    tune(LOSS)
    before = {name: file_bytes(tmp_path / "out", name) for name in ("tuned.md", "tuned.csv", "tuned.json", "sweep.json")}
    for done in (tune("None"), sweep("--out", tmp_path / "out", "--report")):  # a stand-in that cannot run any more
        assert "Tuning" not in done.out
        assert before == {name: file_bytes(tmp_path / "out", name) for name in before}


def test_two_variants_that_are_equal_are_not_told_apart(tune, tmp_path):
    done = tune("2.0 + abs(math.log2(lr / 0.002)) + 0.01 * math.sin(seed)")
    row = by_variant(tmp_path / "out")["lns"]
    assert row["verdict"] == "not told apart" and row["difference"]["mean"] == 0 and row["difference"]["p"] == 1
    assert re.search(r"^lns .* \+0\.0000 to \+0\.0000  1\.0000 +not told apart$", done.out, re.MULTILINE)


def test_an_interval_that_seems_to_contradict_the_verdict_is_explained(tune):
    """Its p is 0.044, and 0.088 among two."""
    loss = "2.0 + abs(math.log2(lr / 0.002)) + (flags['placement'] != 'pre') * [0, 0.056, 0.110, 0.125][seed]"
    both = [*VARIANTS, "--variant", "mix: placement=mix"]
    told = "An interval is of one comparison by itself"
    done = tune(loss, variants=both)
    assert done.out.count("not told apart") == 2 and done.out.count(" to +0.18") == 2 and told in done.out
    done = tune(loss, "--seeds", "1,2", variants=both)
    assert done.out.count("not told apart") == 2 and told not in done.out


def test_one_seed_has_no_interval_and_no_verdict(tune, tmp_path):
    done = tune(LOSS, "--seeds", "5")
    row = by_variant(tmp_path / "out")["lns"]
    assert row["verdict"] == "one seed: no interval"
    assert row["difference"]["low"] is None and row["difference"]["mean"] == pytest.approx(
        row["final_val"]["5"] - by_variant(tmp_path / "out")["pre"]["final_val"]["5"])  # fmt: skip
    assert "One seed: no interval, and no verdict." in done.out and "p:" not in done.out


def test_a_variant_that_diverged_everywhere_is_a_row_that_says_so(tune, tmp_path):
    done = tune('math.inf if flags["placement"] == "lns" else 2.0 + abs(math.log2(lr / 0.002))')
    row = by_variant(tmp_path / "out")["lns"]
    assert (row["best"], row["verdict"], set(row["tried"].values())) == (None, "diverged at every value", {"diverged"})
    assert len(row["tried"]) == 3 + 3 and "6 diverged" in done.out
    # And where it is the baseline, nothing is compared.
    tune("None", "--baseline", "lns", values="lr=1e-3,2e-3,4e-3")
    assert by_variant(tmp_path / "out")["pre"]["verdict"] == "the baseline: diverged at every value"


def test_a_seed_that_diverged_at_the_best_leaves_no_mean_of_the_others(tune, tmp_path):
    tune('math.inf if flags["placement"] == "lns" and seed == 2 else 2.0 + abs(math.log2(lr / 0.002))')
    row = by_variant(tmp_path / "out")["lns"]
    assert row["verdict"] == "diverged on seed 2" and row["final_val"]["2"] == "diverged"
    assert [row["difference"][name] for name in ("mean", "low", "high", "p", "p_holm")] == [None] * 5
    assert "(2 of 3 seeds)" in file_bytes(tmp_path / "out", "tuned.md").decode()


def test_a_run_that_failed_leaves_its_variant_open_until_it_is_tried_again(tune, tmp_path):
    broken = 'None if flags["placement"] == "lns" and lr == 0.002 else '
    done = tune(broken + LOSS, code=1)
    assert "the disk is on fire" in done.out and "11 of 12 runs have a result. To go on: " not in done.out
    found = by_variant(tmp_path / "out")
    assert found["lns"]["verdict"] == "not tuned yet: 2 of 3 runs" and found["lns"]["best"] is None
    assert found["pre"]["best"] == "0.002", "the others go on"
    tune(LOSS)
    assert by_variant(tmp_path / "out")["lns"]["verdict"] == "better"


def test_a_run_that_ends_without_a_result_is_not_tried_for_ever(tune, tmp_path):
    done = tune(LOSS, first="lr == 0.002 and sys.exit(0)", code=1)  # as at --max-minutes
    assert done.out.count("Tuning lr: ") == 1 and "To go on: " in done.out
    assert [setting["verdict"] for setting in tuned(tmp_path / "out")["settings"]] == ["not tuned yet: 2 of 3 runs"] * 2
    tune(LOSS)
    assert by_variant(tmp_path / "out")["lns"]["verdict"] == "better"


def test_a_run_without_a_validation_is_named(tune, tmp_path):
    tune(LOSS)
    (name,) = [name for name in run_directories(tmp_path / "out") if name.startswith("pre_lr=0.001_")]
    path = tmp_path / "out" / name / "metrics.jsonl"
    path.write_text("".join(line for line in path.open() if '"val"' not in line))
    assert "%s: the run has no validation loss" % name in sweep("--out", tmp_path / "out", "--report", code=2).err


def test_a_value_beyond_the_grid_that_the_program_refuses_ends_it(tune, tmp_path):
    done = tune(LOSS, dry_run='lr < 0.006 or refuse("--lr must be at most 0.005")')
    row = by_variant(tmp_path / "out")["lns"]
    assert row["best"] == "0.004" and row["at_edge"] == "0.008 is refused"
    assert "The grid ends here: " in done.out and "--lr must be at most 0.005" in done.out and "0.004*" in done.out
    assert "0.004*" in sweep("--out", tmp_path / "out", "--report").out
    # But a value that was asked for is a mistake.
    done = tune(LOSS, "--widen", "0", values="lr=1e-3,9e-3", dry_run='lr < 0.006 or refuse("--lr must be at most 0.005")', code=2)
    assert "--lr must be at most 0.005" in done.err


def test_the_seed_that_chooses_may_be_among_those_compared_and_that_is_said(tune, tmp_path):
    done = tune(LOSS, "--tune-seed", "1", "--seeds", "1,2")
    assert "Seed 1 is among them and has chosen the value too" in done.out
    assert len(run_directories(tmp_path / "out")) == 3 + 5 + 2, "its run at the best is not repeated"


def test_every_point_of_the_other_axes_is_tuned_and_compared_with_its_own_baseline(tune, tmp_path):
    loss = '2.0 + abs(math.log2(lr * int(flags["n-layer"]) / 0.016)) + 0.01 * math.sin(seed) + 0.1 * (flags["placement"] == "lns")'
    tune(loss, "--grid", "n-layer=8,4", "--baseline", "pre")
    found = {tuple(setting["labels"].values()): setting for setting in tuned(tmp_path / "out")["settings"]}
    assert {key: setting["best"] for key, setting in found.items()} == {
        ("pre", "8"): "0.002", ("pre", "4"): "0.004", ("lns", "8"): "0.002", ("lns", "4"): "0.004"}  # fmt: skip
    for layers in "84":
        assert found["lns", layers]["difference"]["mean"] == pytest.approx(0.1) and found["pre", layers]["verdict"] == "baseline"


CLAIMED = """[claims]
lns wins = lns < pre
pre wins = pre < lns
mix wins = mix < pre
[variant pre]
placement = pre
[variant lns]
placement = lns
[variant mix]
placement = mix
"""


def test_a_claim_is_judged_by_itself_among_the_claims_alone(tune, tmp_path):
    (tmp_path / "claimed.ini").write_text(CLAIMED)
    done = tune(LOSS, tmp_path / "claimed.ini", variants=[])
    found = {entry["claim"]: entry for entry in tuned(tmp_path / "out")["claims"]}
    one, other, none = found["lns wins"], found["pre wins"], found["mix wins"]
    assert [entry["verdict"] for entry in (one, other, none)] == ["holds", "the reverse holds", "not told apart"]
    row = by_variant(tmp_path / "out")["lns"]["difference"]
    assert (one["by_seed"], one["mean"], one["low"], one["p"]) == tuple(row[name] for name in ("by_seed", "mean", "low", "p"))
    assert (other["mean"], other["low"], other["high"]) == (-one["mean"], -one["high"], -one["low"])
    assert one["p_holm"] == other["p_holm"] == pytest.approx(3 * one["p"]) and row["p_holm"] == pytest.approx(2 * row["p"])
    for text in (done.out, file_bytes(tmp_path / "out", "tuned.md").decode()):
        assert "mix < pre" in text and "adjusted by Holm for 3 claims" in text
    # What the directory holds tells them again, and a claim with a side that is not done yet has no verdict.
    before = file_bytes(tmp_path / "out", "tuned.json")
    sweep("--out", tmp_path / "out", "--report")
    assert file_bytes(tmp_path / "out", "tuned.json") == before
    (name,) = [name for name in run_directories(tmp_path / "out") if name.startswith("lns_lr=0.008_seed=3_")]
    (tmp_path / "out" / name / "metrics.jsonl").unlink()
    sweep("--out", tmp_path / "out", "--report")
    found = {entry["claim"]: entry for entry in tuned(tmp_path / "out")["claims"]}
    assert found["lns wins"]["verdict"] == "unfinished: lns" and found["lns wins"]["p_holm"] is None
    assert found["mix wins"]["verdict"] == "not told apart" and tuned(tmp_path / "out")["claims_compared"] == 3


def test_a_claim_is_judged_at_every_point_of_the_other_axes(tune, tmp_path):
    (tmp_path / "claimed.ini").write_text(CLAIMED)
    loss = '2.0 + abs(math.log2(lr / 0.002)) + 0.01 * math.sin(seed) - 0.1 * (flags["placement"] == "lns") * (int(flags["n-layer"]) - 6)'
    done = tune(loss + " + 0.001 * math.sin(lr * seed * 1e4)", tmp_path / "claimed.ini", "--grid", "n-layer=8,4", variants=[],
                plots=True)  # fmt: skip
    found = {(entry["claim"], entry["labels"]["n-layer"]): entry for entry in tuned(tmp_path / "out")["claims"]}
    assert len(found) == 6 and found["lns wins", "8"]["mean"] == pytest.approx(-0.2)
    assert found["lns wins", "4"]["mean"] == pytest.approx(0.2) and found["mix wins", "4"]["mean"] == 0
    assert re.search(r"^claim +order of losses +n-layer ", done.out, re.MULTILINE)
    if "matplotlib is not installed" not in done.out:
        assert "claims.png" in done.out and file_bytes(tmp_path / "out", "claims.png")[:4] == b"\x89PNG"


def test_claims_of_a_grid_that_tunes_nothing_are_left_out_in_a_word(tune, tmp_path):
    (tmp_path / "claimed.ini").write_text(CLAIMED)
    assert "The claims are left out" in tune(LOSS, tmp_path / "claimed.ini", "--flag", "lr=2e-3", variants=[], values=None).out


def test_only_narrows_what_is_run_and_not_what_is_told(tune, tmp_path):
    done = tune(LOSS, "--only", "pre*", code=1)
    found = by_variant(tmp_path / "out")
    assert found["pre"]["best"] == "0.002" and found["lns"]["verdict"] == "not tuned yet: 0 of 3 runs"
    assert all(name.startswith("pre") for name in run_directories(tmp_path / "out")) and "To go on" in done.out
    assert "--only" not in done.out.split("To go on: ")[1], "with it nothing more would be done"
    done = tune(LOSS, "--only", "pre*", "--seeds", "1,2,3,4", first="seed == 4 and sys.exit(0)", code=1)
    assert "--only" in done.out.split("To go on: ")[1]


# ----------------------------------------------------------------------------------------------- killed, and resumed


def test_killed_at_any_run_it_ends_with_the_same_table(tune, tmp_path, data):
    """The sweep is killed by the n-th run that it starts; what goes on from there starts none that was done."""
    tune(LOSS)
    whole = {name: file_bytes(tmp_path / "out", name) for name in ("tuned.md", "tuned.csv", "runs.csv", "sweep.json")}
    runs = len(run_directories(tmp_path / "out"))
    for n in range(1, runs + 1) if EVERY else (5, 11):
        folder = tmp_path / ("killed-%d" % n)
        folder.mkdir()
        starts = folder / "starts"
        (folder / "kills").touch()
        kill = ("open({0!r}, 'a').write(flags['out'] + '\\n'); "
                "os.path.exists({1!r}) and len(open({0!r}).readlines()) == {2} and os.kill(os.getppid(), {3})"
                ).format(str(starts), str(folder / "kills"), n, int(signal.SIGKILL))  # fmt: skip
        program = answering(folder, LOSS, first=kill)
        arguments = [*data, "--flag", "steps=4", *VARIANTS, "--tune", "lr=1e-3,2e-3,4e-3", "--jobs", "1", "--no-plots"]
        command = [sys.executable, SWEEP, "--out", str(folder / "out"), "--program", str(program), *arguments]
        first = subprocess.run(command, env=sweep_environment(), stdout=subprocess.DEVNULL, check=False, timeout=60)
        assert first.returncode == -signal.SIGKILL
        (folder / "kills").unlink()
        while sweep_again(folder, program).returncode:  # 1 while the run that outlived its sweep still lives
            pass
        assert whole == {name: file_bytes(folder / "out", name) for name in whole}
        started = starts.read_text().split()
        assert len(set(started)) == runs and len(started) <= runs + 1


def sweep_again(folder, program):
    command = [sys.executable, SWEEP, "--out", str(folder / "out"), "--program", str(program), "--jobs", "1", "--no-plots"]
    done = subprocess.run(command, env=sweep_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode in (0, 1), done.stderr.decode()
    return done


# ------------------------------------------------------------------------------------------------ how many, and where


def test_a_list_says_how_many_runs_and_how_long(tune, tmp_path):
    done = tune(LOSS, "--list", "--tokens-per-s", "16", "--jobs", "2")
    # 4 updates of 512 tokens a run: 128 s at 16 tokens/s. 2 × (3 + 3) runs, and 2 × 3 more if both grids are widened.
    said = done.out.splitlines()
    assert len(said) == 6 + 1 and all(line.startswith("new ") for line in said[:6])
    assert said[6] == ("To do: 12 runs, 0.0246 M tokens, 0 h 12 min to 18 runs, 0.0369 M tokens, 0 h 19 min"
                       " at 16 tokens/s a run, 2 at a time (the most if every grid is widened by 3 values)")  # fmt: skip
    assert not os.path.exists(tmp_path / "out")
    tune(LOSS)
    assert tune(LOSS, "--list", "--tokens-per-s", "16").out.splitlines()[-1].startswith("To do: 0 runs, 0 M tokens, 0 s at")
    done = tune(LOSS, "--seeds", "1,2", "--list", "--tokens-per-s", "1024", "--jobs", 1, values="")
    assert done.out.splitlines()[-1] == "To do: 4 runs, 0.00819 M tokens, 8 s at 1024 tokens/s a run, 1 at a time"


def test_a_slurm_array_is_a_round_and_the_same_command_writes_the_next(tune, tmp_path):
    script = tmp_path / "array.sh"
    for count, what in ((6, "6 of the grid"), (4, "1 beyond it, 3 at the best, other seeds"), (1, "1 beyond it"), (3, "3 at the best")):
        done = tune(LOSS, "--slurm", script)
        assert "%d task%s; " % (count, "s" if count > 1 else "") in done.out and what in done.out
        for task in range(count):
            environment = sweep_environment(SLURM_ARRAY_TASK_ID=str(task))
            subprocess.run(["bash", script], check=True, env=environment, stdout=subprocess.DEVNULL, timeout=60)
    assert "nothing to submit" in tune(LOSS, "--slurm", script, code=2).err
    sweep("--out", tmp_path / "out", "--report")
    assert by_variant(tmp_path / "out")["lns"]["verdict"] == "better"


def test_pictures_of_tuning_have_something_in_them(tune, tmp_path):
    matplotlib = pytest.importorskip("matplotlib.image")
    done = tune(LOSS, plots=True)
    for name in ("tuning.png", "differences.png", "loss.png"):
        assert name in done.out
        picture = matplotlib.imread(tmp_path / "out" / name)[:, :, :3]
        assert picture.shape[0] > 200 and picture.shape[1] > 400
        assert (picture.max(axis=2) - picture.min(axis=2) > 0.3).mean() > 5e-4, f"{name} holds no lines"


@pytest.mark.parametrize("edge, marker", [("", "o"), ("3 values were added", "*")])
def test_a_best_at_the_edge_of_what_was_tried_is_a_star(edge, marker):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    from sweeps import tuned_plots  # which needs matplotlib, too

    study = SimpleNamespace(losses={"0.001": 2.0, "0.002": 1.9}, best="0.002", edge=edge)
    figure, axis = pyplot.subplots()
    axis.set_ylim(1, 3)
    tuned_plots.draw_setting(axis, SimpleNamespace(numeric=lambda: True), SimpleNamespace(study=study), "black", "pre")
    assert [line.get_marker() for line in axis.lines if list(line.get_ydata()) == [1.9]] == [marker]
    pyplot.close(figure)


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--tune", "lr"], "--tune lr: expected NAME=VALUE"),
        (["--tune", "lr=1e-3"], "tuning begins with two values or more"),
        (["--tune", "lr=1e-3,1.0e-3"], "lr has the value 0.001 twice"),
        (["--tune", "seed=1,2"], "the seed is not tuned"),
        (["--tune", "out=a,b"], "--out cannot be in a grid"),
        (["--tune", "lr=1e-3,2e-3", "--widen", "21"], "'21' is not a number from 0 to 20"),
        (["--tune", "lr=1e-3,2e-3", "--widen", "-1"], "'-1' is not a number from 0 to 20"),
        (["--tune", "lr=1e-3,2e-3", "--tune-seed", "x"], "'x' is not a number"),
        (["--tune", "lr=1e-3,2e-3", "--baseline", "lr=0.001"], "lr is what is tuned or repeated, not compared"),
        (["--tune", "lr=1e-3,2e-3", "--baseline", "nobody"], "baseline nobody: no such point"),
        (["--tune", "lr=1e-3,2e-3", "--seeds", "1,1"], "seed has the value 1 twice"),
        (["--tune", "lr=" + ",".join(map(str, range(1, 9999)))], "more than 10000 runs"),
        (["--variant", "a: lr=1e-3", "--tune", "lr=1e-3,2e-3"], "have the same flags"),
        (["--tune", "lr=1e-3,2e-3", "--flag", "val-data="], "tuning goes by the validation loss: give --val-data GLOB"),
        (["--tune", "lr=1e-3,2e-3", "--margin", "-0.1"], "'-0.1' is not a number from 0 up"),
        (["--tune", "lr=1e-3,2e-3", "--seeds", "1,x"], "seed x: train_gpt: --seed: 'x' is not a whole number"),
        (["--tune", "lr=1e-3,2e-3", "--seeds", "1,-2"], "seed -2: train_gpt: --seed: '-2' is out of range"),
        (["--tune", "lr=1e-3,2e-3", "--seeds", "1.5,2"], "seed 1.5: train_gpt: --seed"),
        (["--tune", "lr=1e-3,2e-3", "--tune-seed", "-1"], "seed -1: train_gpt: --seed"),
        (["--seeds", "1,x"], "seed x: train_gpt: --seed"),
        (["--seeds", ""], "--seeds: the value is empty"),
        (["--tune", " "], "--tune: the value is empty"),
        (["--tune", "lr=1e-3,2e-3", "--baseline="], "--baseline: the value is empty"),
        (["--only", "pre*", "--only", ""], "--only: the value is empty"),
        (["--train-data", ""], "--train-data: the value is empty"),
        ([""], "grid: the value is empty"),
        (["--widen", "2"], "--widen: nothing is tuned"),
        (["--margin", "0.1"], "--margin: nothing is tuned"),
        (["--tune-seed", "2"], "--tune-seed: nothing is tuned"),
        (["--tokens-per-s", "5"], "give --list"),
        (["--list", "--tokens-per-s", "0"], "expected a number above 0"),
        (["--list", "--tokens-per-s", "much"], "'much' is not a number"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(tmp_path, data, arguments, says):
    done = sweep("--out", tmp_path / "out", *data, *arguments, code=2)
    assert says in done.err and re.fullmatch(r"sweep\.py: [^\n]*\n", done.err), done.err
    assert done.out == "" and not os.path.exists(tmp_path / "out")


@pytest.mark.parametrize("text, says", [
    ("[tune]\nlr = 1e-3, 2e-3\nbeta2 = 0.9, 0.95\n", "[tune] holds one flag"),
    ("[tune]\nlr = 1e-3\n", "two values or more"),
    ("[variant lr]\n[lr a]\nlr = 1e-3\n[tune]\nlr = 1e-3, 2e-3\n", "lr is a named axis already"),
    ("[sweep]\nwiden = many\n", "'many' is not a number from 0 to 20"),
])  # fmt: skip
def test_a_bad_grid_is_refused_in_one_line(tmp_path, data, text, says):
    (tmp_path / "g.ini").write_text(text)
    done = sweep(tmp_path / "g.ini", "--out", tmp_path / "out", *data, code=2)
    assert says in done.err and re.fullmatch(r"sweep\.py: [^\n]*\n", done.err), done.err


def test_a_grid_may_begin_with_the_mark_of_some_editors(tmp_path, data):
    (tmp_path / "g.ini").write_bytes(b"\xef\xbb\xbf[flags]\npreset = micro\n[tune]\nlr = 1e-3, 2e-3\n")
    assert "lr=0.001" in sweep(tmp_path / "g.ini", "--out", tmp_path / "out", *data, "--list").out


@pytest.mark.parametrize("values, whole", [("grad-clip=1,10", False), ("n-layer=2,3", True), ("lr=1e-3,2e-3", None)])
def test_the_program_says_whether_a_flag_has_whole_numbers_only(tmp_path, data, values, whole):
    sweep("--out", tmp_path / "out", *data, *MICRO, *VARIANTS, "--tune", values, "--slurm", tmp_path / "array.sh")
    assert json.loads(file_bytes(tmp_path / "out", "sweep.json"))["tune"].get("whole") is whole


def test_values_written_whole_of_a_flag_that_takes_others_are_gone_beyond(tune, tmp_path):
    for more in ([], ["--report"]):  # which does not ask the program again
        tune("2 + abs(math.log10(lr / 0.1)) if lr else 9", *more, values="lr=1,10")
        for setting in by_variant(tmp_path / "out").values():
            assert (setting["best"], list(setting["tried"])) == ("0.1", ["0.01", "0.1", "1", "10"])


@pytest.fixture(scope="module")
def planned(tmp_path_factory, data):
    """The plan of a sweep that tunes."""
    out = tmp_path_factory.mktemp("planned") / "out"
    sweep("--out", out, *data, *VARIANTS, "--tune", "lr=1e-3,2e-3", "--slurm", out.parent / "array.sh")
    return file_bytes(out, "sweep.json")


@pytest.mark.parametrize("damage", [
    {"flag": "out"}, {"flag": 7}, {"values": ["1e-3"]}, {"values": 5}, {"widen": 10**9}, {"refused": None}, {"tune_seed": "x\x1b[2J"},
    {"margin": -1}, {"claims": 5}, {"claims": [["x", "y"]]},
    {"axes": [{"name": "variant", "named": True, "points": {"../..": {}}}]}, {"axes": 3}, {"flags": {"out": "/"}},
])  # fmt: skip
def test_a_damaged_plan_is_refused_in_one_line(planned, tmp_path, damage):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "sweep.json"
    path.write_bytes(planned)
    plan = json.loads(path.read_text())
    plan["tune"].update(damage)
    path.write_text(json.dumps(plan))
    done = sweep("--out", tmp_path / "out", code=2)
    assert re.fullmatch(r"sweep\.py: [^\n\x1b]*\n", done.err), done.err
    assert json.loads(path.read_text()) == plan


# --------------------------------------------------------------------------------------------------- the real program


def test_real_runs_are_tuned_and_one_that_diverges_is_the_worst(tmp_path, data):
    out = tmp_path / "out"
    arguments = [*data, *MICRO, *TWO, "--flag", "steps=12", "--flag", "grad-clip=0", "--seeds", "1,2", "--jobs", 2]
    sweep("--out", out, *arguments, "--tune", "lr=1e-3,3e-3,100", plots=True)
    for variant, found in by_variant(out).items():
        assert found["tried"]["100"] == "diverged" or found["tried"]["100"] > found["tried"][found["best"]]
        ends = {}
        for name in run_directories(out):
            label, lr, seed = re.fullmatch(r"(.*)_lr=(.*)_seed=(\d)_\w{8}", name).groups()
            validated = metrics(out / name, "val")
            if label == variant and seed == "0" and validated:
                ends[lr] = validated[-1]["loss"]
        assert found["best"] == min(ends, key=ends.get) and len(found["tried"]) >= 3
        assert set(found["final_val"]) == {"1", "2"} and all(1 < loss < 9 for loss in found["final_val"].values())
    assert by_variant(out)["pre+gpas"]["verdict"] in ("better", "worse", "not told apart")
    text = file_bytes(out, "tuned.md").decode()
    assert re.search(r"Models of 0\.\d+ M parameters, 12 steps\.", text), text  # gates are too few for another number
    assert "\nComputed in: cpu/f32.\n" in text and "\nComputed in: cpu/f32.\n" in file_bytes(out, "table.md").decode()
    before = {name: file_bytes(out, name, "metrics.jsonl") for name in run_directories(out)}
    sweep("--out", out)
    assert before == {name: file_bytes(out, name, "metrics.jsonl") for name in run_directories(out)}


@needs_bf16
def test_a_sweep_in_bf16_says_so_and_one_in_two_types_too(tmp_path, data):
    arguments = [*data, *MICRO, *TWO, "--flag", "steps=4", "--seeds", "1,2", "--jobs", 2, "--widen", 0]
    sweep("--out", tmp_path / "narrow", *arguments, "--flag", "dtype=bf16", "--tune", "lr=1e-3,3e-3")
    for name in ("tuned.md", "table.md"):
        assert "\nComputed in: cpu/bf16.\n" in file_bytes(tmp_path / "narrow", name).decode()
    for name in run_directories(tmp_path / "narrow"):
        assert metrics(tmp_path / "narrow" / name, "event")[0]["kernels"] == "cpu/bf16"
    sweep("--out", tmp_path / "both", *arguments, "--grid", "dtype=fp32,bf16", "--tune", "lr=1e-3,3e-3")
    text = file_bytes(tmp_path / "both", "tuned.md").decode()
    assert "\nComputed in: cpu/bf16, cpu/f32. Not all runs are of one type.\n" in text and "| pre+gpas | bf16 |" in text
