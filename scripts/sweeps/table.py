"""What came of the sweep, in one table? A row for each combination of points, over its seeds.

table.csv has plain numbers (an empty field is a number that is not there), table.md the same for people,
runs.csv one line a run.
"""
import csv
import math
import os

from sweeps import grid as grids
from sweeps import metrics

RUN_COLUMNS = [
    "name",
    "state",
    "step",
    "final_val",
    "best_val",
    "train",
    "tokens_per_s",
    "step_ms",
    "quiet_ms",
    "diverged",
    "skipped_steps",
    "failure",
]


class Row:
    """labels: of all axes but the seed; the results of its runs, by what became of them: one thing of each."""

    def __init__(self, labels, runs, results, failed, above):
        self.labels, self.runs = labels, runs
        self.results = [results[run.name] for run in runs]
        self.divergences = [divergence(run, results[run.name], failed, above) for run in runs]
        self.states = [
            "failed" if run.name in failed else "diverged" if why else results[run.name].state
            for run, why in zip(runs, self.divergences)
        ]
        self.diverged = self.states.count("diverged")
        self.done = [result for result, state in zip(self.results, self.states) if state == "done"]
        # With none complete, what the cut ones have come to stands in; the column `runs` says so.
        self.measured = self.done or [result for result in self.results if result.state == "cut"]
        self.final_val = self.collect(metrics.Result.final_val)
        self.best_val = self.collect(metrics.Result.best_val)
        self.train = self.collect(metrics.Result.train_loss)
        self.step_ms = metrics.median([result.step_ms() for result in self.results])
        self.tokens_per_s = metrics.median([result.tokens_per_s() for result in self.results])
        self.quiet_ms = metrics.median([result.quiet_ms() for result in self.results])
        self.overhead = math.nan  # quiet_ms over the baseline's, minus 1

    def collect(self, measure):
        values = [measure(result) for result in self.measured]
        return [value for value in values if math.isfinite(value)]

    def state(self):
        words = {"done": "done", "diverged": "diverged", "failed": "failed", "cut": "cut", "new": "not run"}
        counts = {word: self.states.count(state) for state, word in words.items()}
        return ", ".join("%d %s" % (count, word) for word, count in counts.items() if count)


def divergence(run, result, failed, above):
    """Why a run has diverged, or "". One that failed has no result yet, and will be tried again."""
    return "" if run.name in failed else result.divergence(above)


def rows_of(plan, results, failed):
    """The rows in the grid's order, each with its overhead over the baseline's row of the same points."""
    axes, groups = [axis for axis in plan.axes if axis != "seed"], {}
    for run in plan.runs:
        groups.setdefault(tuple(run.labels[axis] for axis in axes), []).append(run)
    order = [list(labels).index for axis, labels in plan.points().items() if axis != "seed"]
    groups = dict(
        sorted(groups.items(), key=lambda item: [place(label) for place, label in zip(order, item[0])])
    )
    rows = {
        key: Row(dict(zip(axes, key)), runs, results, failed, plan.diverged_above)
        for key, runs in groups.items()
    }
    found = grids.baseline_of(plan.baseline, plan.points()) if plan.baseline else None
    for row in rows.values() if found else ():
        axis, label = found
        base = rows.get(tuple(label if name == axis else row.labels[name] for name in axes))
        if base is not None and base.quiet_ms > 0:
            row.overhead = row.quiet_ms / base.quiet_ms - 1
    return list(rows.values())


# ------------------------------------------------------------------------------------------------------ files


def plain(value, digits=6):
    return "" if math.isnan(value) else "%.*g" % (digits, value)


def with_deviation(values):
    if not values:
        return "–"
    spread = metrics.deviation(values)
    return "%.4f" % metrics.mean(values) + ("" if math.isnan(spread) else " ± %.4f" % spread)


def write_csv(path, header, lines):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


def table_csv(rows, axes):
    header = list(axes)
    for name in ("final_val", "best_val", "train"):
        header += [name + "_mean", name + "_std"]
    header += ["tokens_per_s", "step_ms", "quiet_ms", "overhead", "runs", "done", "diverged", "why_diverged"]
    lines = []
    for row in rows:
        line = [row.labels[axis] for axis in axes]
        for values in (row.final_val, row.best_val, row.train):
            line += [plain(metrics.mean(values), 8), plain(metrics.deviation(values), 8)]
        line += [
            plain(row.tokens_per_s),
            plain(row.step_ms),
            plain(row.quiet_ms),
            plain(row.overhead),
            len(row.runs),
            len(row.done),
            row.diverged,
            "; ".join(sorted(set(row.divergences) - {""})),
        ]
        lines.append(line)
    return header, lines


def runs_csv(plan, results, failed):
    lines = []
    for run in plan.runs:
        result = results[run.name]
        lines.append(
            [run.labels[axis] for axis in plan.axes]
            + [
                run.name,
                result.state,
                result.step,
                plain(result.final_val(), 8),
                plain(result.best_val(), 8),
                plain(result.train_loss(), 8),
                plain(result.tokens_per_s()),
                plain(result.step_ms()),
                plain(result.quiet_ms()),
                divergence(run, result, failed, plan.diverged_above),
                len(result.skipped),
                failed.get(run.name, ""),
            ]
        )
    return plan.axes + RUN_COLUMNS, lines


def markdown_cell(text):
    return str(text).replace("|", "\\|")


def markdown(plan, rows, results, axes):
    baseline = plan.baseline if any(math.isfinite(row.overhead) for row in rows) else None
    header = axes + ["final val", "best val", "train", "tokens/s"]
    header += ["over %s" % baseline] if baseline else []
    header += ["diverged", "runs"]
    lines = ["# %s" % plan.name, ""]
    lines += [plan.about, ""] if plan.about else []
    lines.append("| %s |" % " | ".join(map(markdown_cell, header)))
    lines.append(
        "|%s|" % "|".join(["---"] * len(axes) + ["--:"] * (len(header) - len(axes) - 2) + ["---"] * 2)
    )
    for row in rows:
        cells = [row.labels[axis] for axis in axes]
        cells += [with_deviation(row.final_val), with_deviation(row.best_val), with_deviation(row.train)]
        cells.append("–" if math.isnan(row.tokens_per_s) else "%.0f" % row.tokens_per_s)
        if baseline:
            cells.append("–" if math.isnan(row.overhead) else "%+.1f %%" % (100 * row.overhead))
        reasons = sorted(set(row.divergences) - {""})
        cells += [
            "%d of %d: %s" % (row.diverged, len(row.runs), "; ".join(reasons)) if reasons else "no",
            row.state(),
        ]
        lines.append("| %s |" % " | ".join(map(markdown_cell, cells)))
    return "\n".join(lines + [""] + notes(results, baseline) + [""])


def notes(results, baseline):
    lines = [
        "Losses in nats per token, mean ± sample standard deviation over the seeds that did not diverge;",
        "train is the mean of a run's last tenth of steps, best val its lowest validation. Tokens/s is",
        "the median step's%s. What ran on the machine at the same time blurs timings."
        % (
            "; the time over %s compares the undisturbed steps (the fastest tenth ends there)" % baseline
            if baseline
            else ""
        ),
    ]
    return lines + sources(results)


def sources(results):
    """Which program, device and type the numbers are from."""
    lines = []
    for what, attribute in (("Program", "version"), ("Device", "device"), ("Computed in", "kernels")):
        names = sorted(
            {str(getattr(result, attribute)) for result in results.values() if getattr(result, attribute)}
        )
        lines += ["", "%s: %s." % (what, ", ".join(names))] if names else []
        if attribute != "device" and len(names) > 1:
            lines[-1] += " Not all runs are of one %s." % ("version" if attribute == "version" else "type")
    return lines


def write(plan, results, failed, out, every=None):
    """Writes the three files; returns their paths, and the rows. `every`: the Plan of runs.csv, if that is another."""
    rows = rows_of(plan, results, failed)
    axes = [axis for axis in plan.axes if axis != "seed"]
    paths = [os.path.join(out, name) for name in ("table.md", "table.csv", "runs.csv")]
    with open(paths[0], "w", encoding="utf-8") as file:
        file.write(markdown(plan, rows, results, axes))
    write_csv(paths[1], *table_csv(rows, axes))
    write_csv(paths[2], *runs_csv(every or plan, results, failed))
    return paths, rows
