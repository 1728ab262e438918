"""Where does a sweep that tunes stand, and what does it run next?

A round is every run that the results so far ask for: first the grid of each setting, then the values beyond it and the other
seeds of those that have chosen, until nothing new is asked for.
"""
import os

from sweeps import metrics, tuning
from sweeps.grid import Failure


class Rounds:
    """After look(): `studies`, `plan` (all runs known so far), `results` {name: Result}. `failed` {name: why} and `tried`, a set
    of names, are of this process: what failed has no result, and is not tried twice."""

    def __init__(self, tuned, out):
        self.tuning, self.out = tuned, out
        self.results, self.failed, self.tried = {}, {}, set()
        self.look()

    def look(self):
        self.results = {name: found for name, found in self.results.items() if found.state in ("done", "diverged")}
        self.studies = self.tuning.studies(self.loss)
        self.plan = self.tuning.plan(self.studies)
        for run in self.plan.runs:
            self.result(run)

    def result(self, run):
        if run.name not in self.results:
            self.results[run.name] = metrics.read(os.path.join(self.out, run.name))
        return self.results[run.name]

    def loss(self, run):
        if run.name in self.failed:
            return None
        return tuning.loss_of(run, self.result(run), self.tuning.grid.diverged_above)

    def missing(self):
        """The runs known so far that have no result."""
        return [run for run in self.plan.in_turn() if self.loss(run) is None]

    def next_round(self, try_flags):
        """The runs to start now. try_flags(runs) raises a Failure if the program does not take them: for a value beyond the grid
        that is where the grid ends."""
        while True:
            self.look()
            runs = [run for run in self.missing() if run.name not in self.tried]
            if not any([self.is_refused(run, try_flags) for run in runs if self.is_beyond(run)]):
                return runs

    def is_beyond(self, run):
        return run.labels[self.tuning.flag] not in self.tuning.values and run.labels["seed"] == self.tuning.tune_seed

    def is_refused(self, run, try_flags):
        try:
            try_flags([run])
        except Failure as failure:
            self.tuning.refused[run.name] = str(failure)
            print("The grid ends here: %s" % failure, flush=True)
            return True
        return False

    def take(self, runner):
        """What a round came to."""
        self.tried.update(run.name for run in runner.runs)
        self.failed.update(runner.failed)

    def in_words(self, runs):
        """What a round is made of."""
        seed, values = self.tuning.tune_seed, self.tuning.values
        grid = [run for run in runs if run.labels["seed"] == seed]
        beyond = [run for run in grid if run.labels[self.tuning.flag] not in values]
        parts = {"of the grid": len(grid) - len(beyond), "beyond it": len(beyond), "at the best, other seeds": len(runs) - len(grid)}
        return ", ".join("%d %s" % (count, what) for what, count in parts.items() if count)
