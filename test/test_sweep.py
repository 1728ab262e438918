"""What do the parts of scripts/sweep.py promise: which runs a grid means, what a run came to, is the table right?"""

import hashlib
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys

import pytest

from program import PROGRAM, ROOT, environment, file_bytes, losses, metrics
from sweeping import SWEEP, a_run, read_csv, run_directories, sweep, swept

sys.path.insert(0, os.path.join(ROOT, "scripts"))
from sweeps import grid as grids  # noqa: E402
from sweeps import metrics as measures  # noqa: E402
from sweeps import tuning  # noqa: E402

# ------------------------------------------------------------------------------------------------- which runs


def grid_of(text, tmp_path):
    path = tmp_path / "g.ini"
    path.write_text(text)
    return grids.read(str(path))


def test_a_grid_is_every_combination_and_x5_multiplies(tmp_path):
    plan = grids.expand(
        grid_of(
            "[grid]\nseed = 1, 2\n[flags]\nlr = 1e-3\ninit-std = 0.02\n"
            "[variant a]\nnorm = dyt\n[variant b]\n"
            "[stress none]\n[stress lr-x5]\nlr = x5\ninit-std = x0.1\n",
            tmp_path,
        )
    )
    found = {(run.labels["variant"], run.labels["stress"], run.labels["seed"]) for run in plan.runs}
    assert found == set(itertools.product("ab", ["none", "lr-x5"], "12")) and len(plan.runs) == 8
    for run in plan.runs:
        stressed = run.labels["stress"] == "lr-x5"
        assert run.flags["lr"] == ("0.005" if stressed else "1e-3")
        assert float(run.flags["init-std"]) == (0.002 if stressed else 0.02)
        assert run.flags.get("norm") == ("dyt" if run.labels["variant"] == "a" else None)


def test_a_name_is_readable_and_depends_on_the_flags_alone(tmp_path):
    first = grids.expand(
        grid_of("[flags]\nsteps = 10\nlr = 0.001\n[grid]\nseed = 1\n[variant p]\nplacement = pre\n", tmp_path)
    )
    again = grids.expand(
        grid_of(
            "[variant p]\nplacement = pre\n[grid]\nseed = 1\n[flags]\nsave-every = 5\nlr = 1.0e-3\n"
            "steps = 10\n",
            tmp_path,
        )
    )
    other = grids.expand(
        grid_of("[flags]\nsteps = 11\nlr = 0.001\n[grid]\nseed = 1\n[variant p]\nplacement = pre\n", tmp_path)
    )
    assert first.runs[0].name == again.runs[0].name != other.runs[0].name
    # Written out: a name of today is the name of next year.
    digits = hashlib.sha256(b"lr=0.001\nplacement=pre\nseed=1\nsteps=10").hexdigest()[:8]
    assert first.runs[0].name == "p_seed=1_" + digits


def test_the_command_line_wins_over_the_file(tmp_path):
    grid = grid_of("[flags]\nsteps = 10\nstats-every = 5\n[grid]\nseed = 1, 2, 3\nlr = x1, x2\n", tmp_path)
    grids.set_flag(grid, "seed", "7", "test")
    grids.set_flag(grid, "lr", "1e-4", "test")
    grids.set_flag(grid, "stats-every", "", "test")
    grids.set_axis(grid, "steps", "10,20", "test")
    plan = grids.expand(grid)
    assert [(run.flags["steps"], run.flags["seed"], run.flags["lr"]) for run in plan.runs] == [
        ("10", "7", "1e-4"),
        ("20", "7", "1e-4"),
    ]
    assert all("stats-every" not in run.flags for run in plan.runs)


def test_every_ready_made_grid_is_accepted_by_the_program():
    counts = {"gpas": 12 * 2, "sdd-robust": 4 * 4, "bhyt": 7 * 2, "depth": 4 * 4, "tuned": 17 * 4, "tuned-depth": 4 * 2 * 4, "tuned-muon": 10 * 4}
    assert set(grids.ready_made()) == set(counts)
    for name, count in counts.items():
        grid = grids.read(name)
        if grid.tune:  # what is known before anything ran: each setting at each value, on the seed that chooses
            tuned = tuning.Tuning(grid)
            plan = tuned.plan(tuned.studies(lambda run: None))
            assert len(tuned.values) >= 4 and tuned.seeds == ["1", "2", "3"] and tuned.tune_seed == "0"
        else:
            plan = grids.expand(grid)
        plan.check_baseline()
        assert len(plan.runs) == count and plan.baseline
        for run in plan.runs:
            if run.flags["seed"] == "1" or grid.tune and run.labels["lr"] == tuned.values[0]:
                flags = ["--%s=%s" % item for item in run.flags.items()]
                done = subprocess.run(
                    [PROGRAM, "--dry-run", "--out=none", "--val-data=none", *flags],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment(),
                    check=False,
                )
                assert done.returncode == 0, f"{name}: {run.name}: {done.stderr.decode()}"


def test_each_placement_of_the_gpas_grid_differs_from_its_twin_by_gpas_alone():
    runs = {
        run.labels["variant"]: run.flags
        for run in grids.expand(grids.read("gpas")).runs
        if run.flags["seed"] == "1"
    }
    for name in ("pre", "post", "sandwich", "deepnorm", "mix", "lns"):
        assert runs[name]["placement"] == name and "gpas" not in runs[name]
        assert dict(runs[name], gpas="layer") == runs[name + "+gpas"]


# -------------------------------------------------------------------------------------------------- the table


def test_the_table_holds_what_the_runs_measured(swept):
    out, _ = swept
    rows = read_csv(out, "table.csv")
    assert [(row["variant"], row["lr"]) for row in rows] == list(
        itertools.product(["pre", "pre+gpas"], ["0.001", "0.003"])
    )
    for row in rows:
        names = [
            name
            for name in run_directories(out)
            if name.startswith("%s_lr=%s_" % (row["variant"], row["lr"]))
        ]
        assert len(names) == 2
        finals = [[record["loss"] for record in metrics(os.path.join(out, name), "val")] for name in names]
        last, best = [losses[-1] for losses in finals], [min(losses) for losses in finals]
        # The table's eight digits.
        assert float(row["final_val_mean"]) == pytest.approx(statistics.mean(last), rel=1e-7)
        assert float(row["final_val_std"]) == pytest.approx(statistics.stdev(last), rel=1e-6)
        assert float(row["best_val_mean"]) == pytest.approx(statistics.mean(best), rel=1e-7)
        speeds = [
            statistics.median(record["tokens_per_s"] for record in metrics(os.path.join(out, name))[2:])
            for name in names
        ]
        assert float(row["tokens_per_s"]) == pytest.approx(statistics.median(speeds), rel=1e-5)
        assert (row["runs"], row["done"], row["diverged"]) == ("2", "2", "0")
    markdown = file_bytes(out, "table.md").decode()
    first = "%.4f ± %.4f" % (float(rows[0]["final_val_mean"]), float(rows[0]["final_val_std"]))
    assert "| pre | 0.001 | %s |" % first in markdown and "over pre" in markdown
    assert len(read_csv(out, "runs.csv")) == 8


def test_overhead_is_the_step_time_over_the_baseline_of_the_same_row(tmp_path):
    out = tmp_path / "out"
    plan = grids.expand(
        grid_of(
            "[sweep]\nbaseline = a\n[grid]\nlr = 1e-3, 2e-3\n[variant a]\n[variant b]\ngpas = layer\n",
            tmp_path,
        )
    )
    times = {("a", "0.001"): 10.0, ("b", "0.001"): 11.0, ("a", "0.002"): 20.0, ("b", "0.002"): 25.0}
    for run in plan.runs:
        (out / run.name).mkdir(parents=True)
        text = a_run(40, ms=times[run.labels["variant"], run.labels["lr"]])
        # More than half of the steps were disturbed by something else: the comparison must not see it.
        lines = text.splitlines()
        if run.labels["variant"] == "b":
            lines[12:36] = [line.replace('"ms":', '"ms":9') for line in lines[12:36]]
        (out / run.name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    plan.write(str(out))
    sweep("--out", out, "--report")
    overheads = [float(row["overhead"]) for row in read_csv(out, "table.csv")]
    assert overheads == pytest.approx([0, 0, 0.1, 0.25], abs=1e-6)


def test_plots_are_pictures_with_something_in_them(swept):
    matplotlib = pytest.importorskip("matplotlib.image")
    out, done = swept
    for name in ("loss.png", "residual.png", "residual-over-time.png", "gates.png"):
        assert name in done.out
        picture = matplotlib.imread(os.path.join(out, name))[:, :, :3]
        assert picture.shape[0] > 300 and picture.shape[1] > 400
        colorful = (picture.max(axis=2) - picture.min(axis=2) > 0.3).mean()
        assert colorful > 5e-4, f"{name} holds no lines"
    assert not os.path.exists(os.path.join(out, "lambda.png"))  # nobody has a λ here


def test_no_two_of_a_ready_made_grids_lines_look_alike():
    pytest.importorskip("matplotlib")
    from sweeps import plots

    for name in grids.ready_made():
        labels = list(grids.read(name).axes["variant"].points)
        looks = plots.styles(labels)
        assert len(set(looks.values())) == len(labels), name
        for label in labels:
            first = label.split("+")[0]
            assert first not in looks or looks[label][0] == looks[first][0], "X+Y has X's color"


def test_without_matplotlib_there_is_a_table_and_a_word_about_it(swept, tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    out = tmp_path / "out"
    out.mkdir()
    for name in run_directories(swept[0]):
        os.symlink(os.path.join(swept[0], name), out / name)
    (out / "sweep.json").write_bytes(file_bytes(swept[0], "sweep.json"))
    done = sweep("--out", out, "--report", plots=True, PYTHONPATH=str(tmp_path))
    assert "matplotlib is not installed" in done.out
    assert file_bytes(out, "table.csv") == file_bytes(swept[0], "table.csv")


# ---------------------------------------------------------------------------------------------------- reading


def read_metrics(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    return measures.read(str(tmp_path))


def test_what_came_after_the_checkpoint_of_a_resume_is_dropped(tmp_path):
    result = read_metrics(tmp_path, a_run(10, end=False, loss=9.0) + a_run(10, start=6, loss=1.0))
    assert [result.train[step][0] for step in range(1, 11)] == [9.0] * 6 + [1.0] * 4
    assert result.state == "done" and result.final_val() == 1.0
    result = read_metrics(tmp_path, a_run(10, end=False, loss=9.0) + a_run(10, start=6).splitlines()[0])
    assert sorted(result.train) == list(range(1, 7)) and result.step == 6
    result = read_metrics(
        tmp_path, a_run(10, end=False, loss=9.0) + a_run(8, loss=1.0)
    )  # from the beginning again
    assert sorted(result.train) == list(range(1, 9)) and result.state == "done"


def test_only_a_complete_run_is_done(tmp_path):
    assert measures.read(str(tmp_path)).state == "new"
    assert read_metrics(tmp_path, a_run(10, end=False)).state == "cut"
    assert read_metrics(tmp_path, a_run(10).replace("all steps done", "--max-minutes")).state == "cut"
    assert read_metrics(tmp_path, a_run(10)).state == "done"
    # Resumed after its end, with nothing in the file yet but the resume.
    assert read_metrics(tmp_path, a_run(10) + a_run(10, start=6).splitlines()[0] + "\n").state == "cut"


def test_a_broken_line_costs_that_line_only(tmp_path):
    text = a_run(10)
    for junk in (
        '{"type":"train","step":3,"lo',
        "[]",
        '{"type":"train","step":"x"}',
        '{"type":"stats","step":1,"layers":7}',
        '{"type":"val","step":1e999,"loss":1}',
        "\x00\xff",
        "[" * 100000,
    ):
        lines = text.splitlines()
        lines.insert(4, junk)
        result = read_metrics(tmp_path, "\n".join(lines))
        assert result.state == "done" and len(result.broken_lines) == 1 and len(result.train) == 10


def test_a_loss_that_is_not_finite_stays_out_of_means_and_is_not_zero(tmp_path):
    result = read_metrics(
        tmp_path, a_run(10).replace('"type":"val","step":10,"loss":2.0', '"type":"val","step":10,"loss":null')
    )
    assert math.isnan(result.final_val()) and math.isnan(result.best_val())
    assert result.divergence() == "the final loss is not finite"


def test_without_a_limit_a_run_has_diverged_a_tenth_above_its_first_loss(tmp_path):
    for last, diverged in ((2.0, False), (2.19, False), (2.21, True)):
        result = read_metrics(
            tmp_path,
            a_run(10).replace('"type":"val","step":10,"loss":2.0', '"type":"val","step":10,"loss":%f' % last),
        )
        assert bool(result.divergence()) == diverged


# -------------------------------------------------------------------------------------------------- bad input

FLAGS = "[flags]\nsteps = 1\n"


@pytest.mark.parametrize(
    "text, says",
    [
        ("steps = 1\n", "before the first [section]"),
        ("[flags]\nsteps\n", "g.ini:2"),
        ("[flags]\nsteps = 1\nsteps = 2\n", "g.ini:3: 'steps' stands there twice"),
        ("[flags\n", "g.ini:1"),
        ("[flag]\nsteps = 1\n", "[flag] is none of"),
        ("[sweep]\nbase = pre\n", "not 'base'"),
        ("[sweep]\nmargin = -1\n", "margin: '-1' is not a number from 0 up"),
        ("[claims]\nwords = pre\n", "[claims] words = pre: expected POINT < POINT"),
        ("[claims]\nwords = pre < pre\n", "expected POINT < POINT"),
        ("[claims]\nwords = pre < post < mix\n", "expected POINT < POINT"),
        (
            "[claims]\nwords = a < b\n[tune]\nlr = 1, 2\n[variant a]\nnorm = dyt\n",
            "[claims] words: a and b are not points of one axis; there are a",
        ),
        ("[sweep]\ndiverged-above = nan\n", "'nan' is not a number"),
        ("[sweep]\nbaseline = nobody\n" + FLAGS, "baseline nobody: no such point"),
        ("[flags]\nout = /tmp\n", "--out cannot be in a grid"),
        ("[flags]\nn_layer = 3\n", "'n_layer' is not the name of a flag"),
        ("[grid]\nlr = 1e-3, 0.001\n", "lr has the value 0.001 twice"),
        ("[grid]\nlr = 1e-3,, 2e-3\n", "empty value"),
        ("[grid]\nlr = x5\n", "multiplies nothing"),
        ("[variant a]\nnorm = dyt\n[variant b]\nnorm = dyt\n", "have the same flags"),
        ("[variant ../a]\nnorm = dyt\n", "names of points"),
        ("[variant a]\n[variant a]\n", "stands there twice"),
        (
            "[grid]\n" + "".join("f%d = %s\n" % (i, ",".join(map(str, range(10)))) for i in range(5)),
            "more than 10000 runs",
        ),
        ("[flags]\nno-such-flag = 1\n", "--no-such-flag: no such flag"),
        ("[grid]\nplacement = pre, post\n[flags]\nnorm = bhyt\n", "--placement must be pre or lns"),
    ],
)
def test_a_bad_grid_is_refused_in_one_line(tmp_path, data, text, says):
    (tmp_path / "g.ini").write_text(text)
    done = sweep(tmp_path / "g.ini", "--out", tmp_path / "out", *data, code=2)
    assert says in done.err and re.fullmatch(r"sweep\.py: [^\n]*\n", done.err), done.err
    assert done.out == ""


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--out", "out"], "holds no sweep.json"),
        (["nothing", "--out", "out"], "no ready-made grid of that name (bhyt, depth, gpas, sdd-robust, tuned-depth, tuned-muon, tuned)"),
        (["gpas", "--out", "out"], "--train-data GLOB"),
        (["gpas", "--out", "out", "--train-data", "nowhere*.bin"], "--train-data nowhere*.bin: no such file"),
        (
            ["gpas", "--out", "out", "--train-data", SWEEP, "--program", "/nowhere"],
            "/nowhere: no such program",
        ),
        (["gpas", "--out", "out", "--train-data", SWEEP, "--only", "xyz"], "no run fits"),
        (["gpas", "--out", "out", "--flag", "lr"], "expected NAME=VALUE"),
        (["gpas", "--out", "out", "--variant", "a b"], "expected 'NAME: FLAG=VALUE"),
        (["gpas", "--out", "out", "--jobs", "0"], "--jobs"),
        (["gpas", "--out", "/proc/nowhere", "--train-data", SWEEP], "/proc/nowhere"),
        (["gpas", "--oot", "out"], "--out"),
        (
            ["gpas", "--out", "out", "--train-data", SWEEP, "--slurm", "x.sh", "--sbatch", "time"],
            "--sbatch time",
        ),
        (["--out", "damaged"], "not a sweep's plan"),
        (["--out", "hostile"], "not a sweep's plan"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(tmp_path, arguments, says):
    for name, text in (
        ("damaged", '{"name":'),
        (
            "hostile",
            json.dumps(
                {
                    "name": "x",
                    "about": "",
                    "baseline": None,
                    "diverged_above": None,
                    "axes": [],
                    "runs": [{"name": "../../etc", "labels": {}, "flags": {}}],
                }
            ),
        ),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").write_text(text)
    done = sweep(*arguments, code=2, cwd=tmp_path)
    assert says in done.err and re.fullmatch(r"sweep\.py: [^\n]*\n", done.err), done.err
