"""Which value of a flag is each variant's best, and which runs does it take to find that out and to judge it?

Every setting (a variant, at one point of every other axis) is trained at each value of the grid on one seed. Where the
lowest final validation loss lies at an edge of the grid, the next value beyond is tried, in the grid's own ratio, until the
best has worse ones on both sides or `widen` values were added. With a `margin`, an end of the grid counts as worse only if it is
by more than that: seeds differ too, and a loss need not fall and rise but once. A run that diverged counts as the worst there is; if all did,
the grid grows downward. Then the best is repeated on other seeds, and those alone are compared (compare.py): the seed
that chose it would flatter it.

Nothing is remembered but the grid: what has been chosen follows from the runs that are there, so a sweep that was killed at
any moment goes on, and a report needs no more than the runs.
"""
import decimal
import itertools
import math

from sweeps import claims
from sweeps import grid as grids
from sweeps.grid import Failure

SEEDS, TUNE_SEED, WIDEN, MARGIN = ["1", "2", "3"], "0", 3, 0.0  # where nobody says
ROUNDED = decimal.Context(prec=4)  # a new value's digits


def loss_of(run, result, above):
    """Final validation loss, infinite for a run that diverged, None where there is no result yet."""
    if result.divergence(above):
        return math.inf
    if result.state != "done":
        return None
    loss = result.final_val()
    if math.isnan(loss):
        raise Failure("%s: the run has no validation loss: remove its directory" % run.name)
    return loss


class Study:
    """What tuning one setting has come to: losses {value: loss, infinite or None as above}, in the order of the values;
    `best` is None where nothing is chosen (yet: not `settled`); `edge` says why a best at an edge, or within the margin of one,
    stays there; runs at its values, and at the best on other seeds {seed: run}."""

    def __init__(self, labels):
        self.labels, self.losses, self.runs, self.repeats = labels, {}, {}, {}
        self.best, self.settled, self.edge, self.widened = None, False, "", 0

    def every_run(self):
        return [*self.runs.values(), *self.repeats.values()]

    def diverged_everywhere(self):
        return self.settled and self.best is None


class Tuning:
    """A grid whose flag `flag` is tuned. `refused`: {name of a run: why the program does not take a value beyond the grid}."""

    def __init__(self, grid, refused=None):
        self.grid, self.refused = grid, dict(refused or {})
        self.flag = grid.tune.name
        if any(axis.named and axis.name in (self.flag, "seed") for axis in grid.axes.values()):
            raise Failure("what is tuned, and the seed, cannot be a named axis")
        self.values = list(grids.resolve(grid, grid.tune).points)
        self.raw = dict(zip(self.values, grid.tune.points))
        self.seeds = self.seeds_of(grid)
        self.tune_seed = grids.canonical(TUNE_SEED if grid.tune_seed is None else grid.tune_seed)
        self.widen = WIDEN if grid.widen is None else grid.widen
        self.margin = MARGIN if grid.margin is None else grid.margin
        # The axes whose points make a setting, then the tuned one and the seed.
        self.axes = [axis for axis in grids.ordered_axes(grid) if axis.name != "seed"]
        if grid.baseline is None and self.axes:
            grid.baseline = next(iter(self.axes[0].points))
        self.check()

    @staticmethod
    def seeds_of(grid):
        """The seeds to compare on: the grid's axis, or its one flag, or three."""
        if "seed" in grid.axes:
            return list(grids.resolve(grid, grid.axes["seed"]).points)
        return [grids.canonical(grid.flags["seed"])] if "seed" in grid.flags else list(SEEDS)

    def check(self):
        if grids.number(self.tune_seed) is None:
            raise Failure("the seed to tune on: '%s' is not a number" % self.tune_seed)
        every = math.prod(len(axis.points) for axis in self.axes) * (len(self.values) + self.widen + len(self.seeds))
        if every > grids.MOST_RUNS:
            raise Failure("the grid has more than %d runs" % grids.MOST_RUNS)
        for claim in self.grid.claims:
            claims.axis_of(claim, self.axes)
        seen = {}
        for setting in self.settings():
            for value in self.values:
                grids.check_new(self.run(setting, value, self.tune_seed), seen)

    # ------------------------------------------------------------------------------------------------ the runs

    def settings(self):
        """[{axis: label}] in the grid's order."""
        names = [axis.name for axis in self.axes]
        return [dict(zip(names, labels)) for labels in itertools.product(*(axis.points for axis in self.axes))]

    def run(self, setting, value, seed):
        points = [(setting[axis.name], axis.points[setting[axis.name]]) for axis in self.axes]
        points += [(value, {self.flag: self.raw.get(value, value)}), (seed, {"seed": seed})]
        axes = [*self.axes, grids.Axis(self.flag, {}, False), grids.Axis("seed", {}, False)]
        return grids.make_run(self.grid, axes, points)

    def study(self, setting, loss):
        """The Study of a setting, as far as the results go; loss(run) is as loss_of says."""
        study, values = Study(setting), list(self.values)
        while True:
            study.runs = {value: self.run(setting, value, self.tune_seed) for value in self.in_order(values)}
            study.losses = {value: loss(run) for value, run in study.runs.items()}
            if None in study.losses.values():
                study.best, study.edge = None, ""
                return study
            study.best = self.best_of(study.losses)
            more, study.edge = self.beyond(setting, study)
            if more is None:
                break
            values.append(more)
            study.widened += 1
        study.settled = True
        if study.best is not None:
            study.repeats = {seed: self.run(setting, study.best, seed) for seed in self.seeds}
        return study

    def studies(self, loss):
        return [self.study(setting, loss) for setting in self.settings()]

    def plan(self, studies):
        """The Plan of all runs known so far."""
        runs = {run.name: run for study in studies for run in study.every_run()}
        return self.plan_of([axis.name for axis in self.axes] + [self.flag, "seed"], list(runs.values()), self.record())

    def plan_of_best(self, studies):
        """The Plan of each setting at its best, on the seeds that are compared: one without the tuned axis."""
        runs, axes = [], [axis.name for axis in self.axes] + ["seed"]
        for run in (run for study in studies for run in study.repeats.values()):
            runs.append(grids.Run(run.name, {axis: run.labels[axis] for axis in axes}, run.flags))
        plan = self.plan_of(axes, runs)
        plan.about = "%seach at its best %s of those tried" % (plan.about and plan.about + "; ", self.flag)
        return plan

    def plan_of(self, axes, runs, record=None):
        grid = self.grid
        return grids.Plan(grid.name, grid.about, grid.baseline, grid.diverged_above, axes, runs, record)

    # ---------------------------------------------------------------------------------------------- the values

    def in_order(self, values):
        """Rising, if they are numbers."""
        return sorted(values, key=grids.number) if self.numeric() else values

    def numeric(self):
        return None not in map(grids.number, self.values)

    @staticmethod
    def best_of(losses):
        """The value of the lowest loss, of equal ones the first; None if all diverged."""
        value = min(losses, key=losses.get)
        return value if math.isfinite(losses[value]) else None

    def beyond(self, setting, study):
        """(the value to try next or None, why a best at an edge is left there or "")."""
        left = ""
        for outer, inner in self.open_edges(study):
            if study.widened >= self.widen:
                return None, "the limit of %s beyond the grid" % grids.counted(self.widen, "value")
            value = self.next_value(outer, inner)
            if value is None or value in study.losses:
                left = "no next value beyond %s" % outer
            elif self.refused.get(self.run(setting, value, self.tune_seed).name):
                left = "%s is refused" % value
            else:
                return value, ""
        return None, left

    def open_edges(self, study):
        """[(value at an edge, its neighbour)] of the edges beyond which the best may lie, the likelier first."""
        if not self.numeric():
            return []
        values = list(study.losses)
        if study.best is None:  # all diverged: downward
            return [(values[0], values[1])]
        edges = {values[0]: values[1], values[-1]: values[-2]}
        behind = {outer: study.losses[outer] - study.losses[study.best] for outer in edges}
        near = [outer for outer in edges if outer == study.best or 0 < self.margin >= behind[outer]]
        return [(outer, edges[outer]) for outer in sorted(near, key=behind.get)]

    def next_value(self, outer, inner):
        """As far beyond `outer` as that is from `inner`, as a ratio; None where there is no ratio."""
        outer, inner = grids.number(outer), grids.number(inner)
        if outer <= 0 or inner <= 0:
            return None
        value = ROUNDED.divide(ROUNDED.multiply(outer, outer), inner)
        if self.written_whole() and self.grid.whole is not False:
            value = value.to_integral_value()
        return grids.canonical(str(value)) if value > 0 else None

    def written_whole(self):
        """Whether the values look like those of a flag that has whole numbers only: the program knows (grid.whole)."""
        return all(text.isdigit() for text in self.values)

    # --------------------------------------------------------------------------------------------- how many

    def to_come(self, study):
        """(least, most) runs that a study will add to those it has: the most if its grid is widened to the limit."""
        if study.settled:
            return 0, 0
        least = len(set(self.seeds) - {self.tune_seed})
        return least, least + (self.widen - study.widened if self.numeric() else 0)

    # -------------------------------------------------------------------------------------------- in sweep.json

    def record(self):
        axes = [{"name": axis.name, "named": axis.named, "points": axis.points} for axis in self.grid.axes.values()]
        return {
            "flag": self.flag,
            "values": list(self.grid.tune.points),
            "tune_seed": self.tune_seed,
            "widen": self.widen,
            "margin": self.margin,
            **({} if self.grid.whole is None else {"whole": self.grid.whole}),
            "flags": self.grid.flags,
            "axes": axes,
            "refused": self.refused,
            "claims": [[claim.words, "%s < %s" % (claim.lower, claim.higher)] for claim in self.grid.claims],
        }


def from_record(plan, path):
    """(Grid, refused) of a Plan that was read from a file: input like any other."""
    record, grid = plan.tune, grids.Grid(plan.name)
    try:
        for flag, value in record["flags"].items():
            grid.flags[grids.check_flag(flag, path)] = grids.check_value(flag, value, path)
        for axis in record["axes"]:
            if axis["named"]:
                for label, flags in axis["points"].items():
                    grids.add_point(grid, axis["name"], label, flags, path)
            else:
                grids.set_axis(grid, axis["name"], ",".join(axis["points"]), path)
        grids.set_tune(grid, record["flag"], ",".join(record["values"]), path)
        grid.tune_seed = grids.check_value("seed", record["tune_seed"], path)
        grid.widen = grids.read_widen(str(record["widen"]), path)
        grid.margin = grids.read_margin(str(record.get("margin", MARGIN)), path)
        grid.whole = record.get("whole") and bool(record["whole"])
        grid.claims = [grids.read_claim(*claim, path) for claim in record.get("claims", ())]
        grid.about, grid.baseline, grid.diverged_above = plan.about, plan.baseline, plan.diverged_above
        return grid, {str(name): str(why) for name, why in record["refused"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure("%s: not a sweep's plan (%s)" % (path, " ".join(str(error).split()))) from None
