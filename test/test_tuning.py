"""What do the parts of a sweep that tunes promise (scripts/sweeps/tuning.py, compare.py): which value is a variant's best, when
does its grid grow, and are intervals, p-values and verdicts right?"""

import math
import os
import sys

import pytest

from program import ROOT
from sweeping import a_run

sys.path.insert(0, os.path.join(ROOT, "scripts"))
from sweeps import compare, rounds, tuning  # noqa: E402
from sweeps import grid as grids  # noqa: E402

INFINITE = math.inf


def tuned(values, flag="lr", seeds=("1", "2", "3"), **settings):
    """A Tuning of two variants."""
    grid = grids.Grid("test")
    grids.add_variant(grid, "pre: placement=pre")
    grids.add_variant(grid, "lns: placement=lns")
    grids.set_axis(grid, "seed", ",".join(seeds), "test")
    grids.set_tune(grid, flag, values, "test")
    for name, value in settings.items():
        setattr(grid, name, value)
    return tuning.Tuning(grid)


def study(tuned, loss):
    """The Study of its first setting, where loss(value) is that of every seed."""
    return tuned.study(tuned.settings()[0], lambda run: loss(run.labels[tuned.flag]))


def bowl(best):
    """A loss that is lowest at one learning rate."""
    return lambda value: 2 + abs(math.log2(float(value) / best))


# --------------------------------------------------------------------------------------------- which value is best


def test_a_best_within_the_grid_is_taken_and_repeated_on_the_seeds():
    found = study(tuned("4e-3,1e-3,2e-3"), bowl(0.002))
    assert (found.best, found.edge, found.settled, found.widened) == ("0.002", "", True, 0)
    assert list(found.losses) == ["0.001", "0.002", "0.004"]
    assert {seed: (run.flags["lr"], run.flags["seed"]) for seed, run in found.repeats.items()} == {
        seed: ("2e-3", seed) for seed in "123"
    }
    assert {run.flags["seed"] for run in found.runs.values()} == {"0"}, "the seed that chooses is none of those compared"


@pytest.mark.parametrize(
    "values, best_at, added",
    [
        ("1e-3,2e-3", 0.008, ["0.004", "0.008", "0.016"]),
        ("1e-3,2e-3", 0.00025, ["0.000125", "0.00025", "0.0005"]),
        ("1e-3,3e-3,1e-2", 0.03, ["0.03333", "0.1111"]),
        ("1e-3,2e-3,1e-2", 0.0005, ["0.00025", "0.0005"]),  # the ratio of the two at that edge
        ("100,200", 400, ["400", "800"]),
        ("10,15", 22, ["22", "32"]),  # whole numbers stay whole
    ],
)
def test_the_grid_grows_in_its_own_ratio_until_the_best_has_worse_on_both_sides(values, best_at, added):
    found = study(tuned(values), bowl(best_at))
    assert sorted(set(found.losses) - set(tuned(values).values), key=float) == added
    order = list(found.losses)
    assert order == sorted(order, key=float)
    assert found.edge == "" and 0 < order.index(found.best) < len(order) - 1
    assert found.losses[found.best] == min(found.losses.values())


def test_with_a_margin_an_end_that_is_hardly_worse_is_gone_beyond():
    two_valleys = {"0.0005": 2.03, "0.001": 2.02, "0.002": 2.0, "0.004": 2.004, "0.008": 1.9, "0.016": 2.1, "0.032": 2.2}
    assert study(tuned("1e-3,2e-3,4e-3"), two_valleys.get).best == "0.002"
    found = study(tuned("1e-3,2e-3,4e-3", margin=0.005), two_valleys.get)
    assert (found.best, found.edge, list(found.losses)[-1]) == ("0.008", "", "0.016")
    # Both ends, the better first; a limit or a refusal on one side is told, and the other goes on.
    flat = {"0.00025": 9, "0.0005": 2.3, "0.001": 2.2, "0.002": 2.0, "0.004": 2.1, "0.008": 2.4}
    assert list(study(tuned("1e-3,2e-3,4e-3", margin=0.25), flat.get).losses) == ["0.0005", "0.001", "0.002", "0.004", "0.008"]
    found = study(tuned("1e-3,2e-3,4e-3", margin=0.25, widen=1), flat.get)
    assert list(found.losses)[-1] == "0.008" and found.best == "0.002" and "limit of 1 value beyond" in found.edge
    both = tuned("1e-3,2e-3,4e-3", margin=0.25)
    both.refused[both.run(both.settings()[0], "0.008", "0").name] = "why"
    found = study(both, flat.get)
    assert list(found.losses) == ["0.0005", "0.001", "0.002", "0.004"] and found.edge == "0.008 is refused"
    # One that diverged is no near one, however wide the margin.
    assert study(tuned("1e-3,2e-3,4e-3", margin=9), {"0.001": 99, "0.002": 2.0, "0.004": INFINITE}.get).edge == ""


def test_what_is_to_come_counts_in_the_correction():
    assert compare.holm([0.01, 0.03]) == pytest.approx([0.02, 0.03])
    assert compare.holm([0.01, 0.03], 3) == pytest.approx([0.05, 0.12])
    assert compare.holm([0.01, 0.03], 3) == compare.holm([0.01, 0.03, 1, 1, 1])[:2]
    early = compare.Comparison({"1": 0.10, "2": 0.11, "3": 0.12})  # p 0.0027
    assert compare.judge([early], 5) == 6 and early.verdict == "worse"
    early = compare.Comparison({"1": 0.10, "2": 0.11, "3": 0.12})
    assert compare.judge([early], 19) == 20 and early.verdict == "not told apart"


def test_the_grid_stops_growing_at_its_limit_and_says_so():
    for widen, count in ((3, 5), (1, 3), (0, 2)):
        found = study(tuned("1e-3,2e-3", widen=widen), lambda value: 1 / float(value))
        assert len(found.losses) == count and found.best == list(found.losses)[-1] and found.settled
        assert "limit of %s beyond" % grids.counted(widen, "value") in found.edge


def test_a_grid_that_cannot_grow_says_so():
    assert "no next value beyond 0" in study(tuned("0,0.1", flag="weight-decay"), float).edge
    assert "no next value beyond 1" in study(tuned("1,1000000", flag="warmup-steps"), float).edge  # 1e-6 is no whole number
    assert study(tuned("1,10", flag="grad-clip", whole=False), bowl(0.1)).best == "0.1"  # asked, the program takes others too
    found = study(tuned("adamw,lion", flag="optimizer"), {"adamw": 2.0, "lion": 1.0}.get)
    assert (found.best, found.edge, found.widened) == ("lion", "", 0), "words have no edges"


def test_of_equal_losses_the_smaller_value_is_taken():
    assert study(tuned("4e-3,2e-3,1e-3", widen=0), lambda value: 2.0).best == "0.001"
    flat = {"0.001": 2.5, "0.002": 2.0, "0.004": 2.0, "0.008": 2.1}
    assert study(tuned("1e-3,2e-3,4e-3,8e-3"), flat.get).best == "0.002"


def test_a_run_that_diverged_is_the_worst():
    found = study(tuned("1e-3,2e-3,4e-3"), {"0.001": 9.0, "0.002": 8.0, "0.004": INFINITE}.get)
    assert (found.best, found.edge) == ("0.002", "")
    found = study(tuned("1e-3,2e-3"), {"0.0005": 9.5, "0.001": 9.0, "0.002": INFINITE}.get)
    assert found.best == "0.001"


def test_where_all_diverged_the_grid_grows_downward_and_then_nothing_is_chosen():
    found = study(tuned("1e-3,2e-3"), lambda value: 2.0 if float(value) <= 0.00026 else INFINITE)
    assert found.best == "0.000125" and found.widened == 3
    found = study(tuned("1e-3,2e-3"), lambda value: INFINITE)
    assert (found.best, found.settled, found.repeats) == (None, True, {}) and found.diverged_everywhere()
    assert list(found.losses) == ["0.000125", "0.00025", "0.0005", "0.001", "0.002"]


def test_nothing_is_chosen_while_a_run_is_missing():
    for missing in ("0.001", "0.002", "0.004"):
        found = study(tuned("1e-3,2e-3"), lambda value: None if value == missing else 1 / float(value))
        assert (found.best, found.settled, found.repeats) == (None, False, {})


def test_each_variant_has_a_grid_of_its_own_and_values_multiply_what_is_there():
    both = tuned("1e-3,2e-3,4e-3")
    best = {"pre": 0.002, "lns": 0.008}
    found = both.studies(lambda run: bowl(best[run.labels["variant"]])(run.labels["lr"]))
    assert [(each.labels["variant"], each.best) for each in found] == [("pre", "0.002"), ("lns", "0.008")]
    grid = grids.Grid("test")
    grids.set_flag(grid, "lr", "1e-3", "test")
    grids.set_tune(grid, "lr", "x1,x4", "test")
    assert tuning.Tuning(grid).values == ["0.001", "0.004"]


def test_a_record_of_the_plan_makes_the_same_runs_again():
    before = tuned("1e-3,2e-3", widen=2, tune_seed="7", margin=0.25)
    before.refused["some run"] = "why"
    plan = before.plan(before.studies(lambda run: bowl(0.004)(run.labels["lr"])))
    grid, refused = tuning.from_record(plan, "sweep.json")
    again = tuning.Tuning(grid, refused)
    assert again.refused == {"some run": "why"} and (again.widen, again.margin) == (2, 0.25)
    runs = again.plan(again.studies(lambda run: bowl(0.004)(run.labels["lr"]))).runs
    assert [run.name for run in runs] == [run.name for run in plan.runs] and len(runs) > 10


def test_a_run_that_failed_after_its_last_line_has_no_result_and_is_not_tried_twice(tmp_path):
    both = tuned("1e-3,2e-3")
    for setting in both.settings():
        for value in both.values:
            folder = tmp_path / both.run(setting, value, "0").name
            folder.mkdir()
            (folder / "metrics.jsonl").write_text(a_run(3))
    here = rounds.Rounds(both, str(tmp_path))
    assert len(here.missing()) == 2 and here.studies[0].widened == 1, "equal losses: both grids grow downward"
    name = here.studies[0].runs["0.001"].name
    here.failed[name] = "the disk was full at the end"
    here.tried.add(name)
    assert [run.labels for run in here.next_round(lambda runs: None)] == [{"variant": "lns", "lr": "0.0005", "seed": "0"}]
    assert not here.studies[0].settled and here.studies[0].widened == 0


# ---------------------------------------------------------------------------------------------- intervals and words

# Two-sided 95 % points of Student's t, from the printed tables.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 19: 2.093, 30: 2.042, 60: 2.000, 120: 1.980}


def test_quantiles_are_those_of_the_printed_tables():
    for degrees, t in TABLE.items():
        assert compare.t_quantile(degrees) == pytest.approx(t, abs=5.1e-4)
    assert compare.t_quantile(9, 0.01) == pytest.approx(3.250, abs=5.1e-4)


def test_probabilities_are_the_integral_of_the_density():
    for degrees in (*range(1, 13), 31):
        scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)

        def density(t, degrees=degrees, scale=scale):
            return scale * (1 + t * t / degrees) ** (-(degrees + 1) / 2)

        for t in (0.3, 1.0, 4.3):
            n, h = 2000, t / 2000  # Simpson: its error here is far below the bound
            inner = sum((4 if i % 2 else 2) * density(i * h) for i in range(1, n))
            integral = 2 * h / 3 * (density(0) + inner + density(t))
            assert compare.t_within(t, degrees) == pytest.approx(integral, abs=1e-10)


def test_the_interval_of_students_own_example():
    """Additional sleep of ten patients by two drugs (Student 1908; R's `sleep`, whose t.test says these numbers)."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    seeds = [str(i) for i in range(10)]
    found = compare.compare(dict(zip(seeds, first)), dict(zip(seeds, second)))
    assert found.mean == pytest.approx(-1.58)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert compare.judge([found]) == 1 and found.verdict == "better" and found.adjusted == found.p


def test_holm_as_in_a_worked_example():
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([0.6, 0.5]) == [1.0, 1.0] and compare.holm([]) == []


def of(differences, base=2.0):
    seeds = [str(i) for i in range(len(differences))]
    return compare.compare({s: base + d for s, d in zip(seeds, differences)}, {s: base for s in seeds})


def test_what_is_told_apart_alone_may_not_be_among_many():
    alone, among = of([0.010, 0.012, 0.017]), of([0.010, 0.012, 0.017])
    assert compare.judge([alone]) == 1 and alone.verdict == "worse"
    noise = [of([0.01 * i, -0.02, 0.015]) for i in range(1, 5)]
    assert compare.judge([among, *noise]) == 5
    assert among.low > 0, "its own interval does not hold 0"
    assert [each.verdict for each in [among, *noise]] == ["not told apart"] * 5 and among.adjusted == 5 * among.p


def test_equal_variants_are_not_told_apart_and_a_constant_difference_is():
    equal, constant = of([0.0, 0.0, 0.0]), of([-0.25, -0.25, -0.25])
    compare.judge([equal, constant])
    assert (equal.mean, equal.p, equal.verdict) == (0.0, 1.0, "not told apart")
    assert (constant.p, constant.verdict) == (0.0, "better")


@pytest.mark.parametrize(
    "losses, baseline, verdict",
    [
        ({"1": 2.0}, {"1": 2.5}, "one seed: no interval"),
        ({"1": 2.0, "2": 2.1, "3": None}, {"1": 2.5, "2": 2.4, "3": 2.4}, "unfinished: 2 of 3 seeds"),
        ({"1": 2.0, "2": INFINITE, "3": INFINITE}, {"1": 2.5, "2": 2.4, "3": 2.4}, "diverged on seeds 2, 3"),
        ({"1": 2.0, "2": 2.0}, {"1": 2.5, "2": INFINITE}, "the baseline diverged on seed 2"),
    ],
)
def test_what_has_no_interval_says_why_and_is_not_judged(losses, baseline, verdict):
    found = compare.compare(losses, baseline)
    assert compare.judge([found]) == 0 and found.verdict == verdict
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.adjusted)
