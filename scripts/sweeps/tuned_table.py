"""What came of a sweep that tunes: a row for each setting at its best value, and how it differs from the baseline.

tuned.md is for people, tuned.csv has a line for each setting, tuned.json all of it: every value tried, every seed. In these two
an empty field or null is a number that is not there, and "diverged" a loss that is not. tuned.md and tuned.json hold the grid's
claims too (claims.py).
"""
import json
import math
import os

from sweeps import compare, metrics, table
from sweeps import grid as grids


class Row:
    """study: of tuning.py; losses {seed: at the best value}; `found`: the Comparison with the baseline, None for that itself
    or where there is none."""

    def __init__(self, study, loss):
        self.study, self.labels = study, study.labels
        self.losses = {seed: loss(run) for seed, run in study.repeats.items()}
        self.found = None

    def sound(self):
        return [loss for loss in self.losses.values() if loss is not None and math.isfinite(loss)]

    def state(self):
        """In words, what stands between this row and a number for each seed; "" if nothing does."""
        if self.study.diverged_everywhere():
            return "diverged at every value"
        if not self.study.settled:
            done = sum(loss is not None for loss in self.study.losses.values())
            return "not tuned yet: %d of %d runs" % (done, len(self.study.losses))
        left = sum(loss is None for loss in self.losses.values())
        return "%d of %d seeds to come" % (left, len(self.losses)) if left else ""

    def is_open(self):
        """Whether there will be a number for each seed where there is none yet."""
        return bool(self.state()) and not self.study.diverged_everywhere()

    def verdict(self):
        """The word that the table ends with."""
        state = self.state()
        if self.found is None:
            lost = [seed for seed, loss in self.losses.items() if loss is not None and math.isinf(loss)]
            return state or ("diverged on %s" % compare.seeds_in_words(lost) if lost else "baseline")
        return state or self.found.verdict


def rows_of(tuning, plan, studies, loss):
    """(rows in the grid's order, how many were judged together)."""
    rows = [Row(study, loss) for study in studies]
    base = baseline_of(plan)
    by_labels = {tuple(row.labels.items()): row for row in rows}
    for row in rows if base else ():
        partner = by_labels[tuple({**row.labels, base[0]: base[1]}.items())]
        if partner is row:
            continue
        if row.losses and partner.losses:
            row.found = compare.compare(row.losses, partner.losses)
        else:
            row.found = compare.Comparison({}, partner.state() and "the baseline: " + partner.state())
    compared = [row for row in rows if row.found]
    return rows, compare.judge([row.found for row in compared if not row.state()], sum(row.is_open() for row in compared))


def baseline_of(plan):
    """(axis, point) that the others are compared with; None if all is one setting."""
    return grids.baseline_of(plan.baseline, plan.points()) if plan.baseline else None


def in_words(axis, label):
    """A point, by its name; a number needs its axis."""
    return label if grids.number(label) is None else "%s = %s" % (axis, label)


def title_of(row):
    return ", ".join(in_words(*point) for point in row.labels.items())


# ------------------------------------------------------------------------------------------------------ cells


def tried(row):
    """`0.001 … 0.008, 1 diverged`."""
    values, losses = list(row.study.losses), row.study.losses.values()
    text = "%s … %s" % (values[0], values[-1]) if len(values) > 2 else ", ".join(values)
    lost = sum(loss is not None and math.isinf(loss) for loss in losses)
    return text + (", %d diverged" % lost if lost else "")


def cells(row):
    best = "–" if row.study.best is None else row.study.best + ("*" if row.study.edge else "")
    loss = table.with_deviation(row.sound())
    if 0 < len(row.sound()) < len(row.losses):
        loss += " (%d of %d seeds)" % (len(row.sound()), len(row.losses))
    return [*row.labels.values(), best, tried(row), loss, *(row.found or compare.Comparison({})).cells(), row.verdict()]


def header(tuning):
    names = [axis.name for axis in tuning.axes]
    return [*names, tuning.flag, "tried", "final val", "difference", "95 % interval", "p (Holm)", "verdict"]


def notes(tuning, plan, rows, judged):
    """What the numbers are, a sentence a line."""
    base, seeds = baseline_of(plan), tuning.seeds
    lines = [
        "Each at its best %s of those tried, by the final validation loss on seed %s; a run that diverged is the worst."
        % (tuning.flag, tuning.tune_seed)
    ]
    if tuning.margin:
        lines.append("The values end where the loss is more than %g above the best's, or there is no next one." % tuning.margin)
    edges = sorted({row.study.edge for row in rows if row.study.edge})
    if edges:
        near = ", or no more than %g from one's loss" % tuning.margin if tuning.margin else ""
        lines.append("*: the best of those tried lies at their edge%s: %s." % (near, "; ".join(edges)))
    lines.append("final val: nats per token, mean ± sample standard deviation over seeds %s." % ", ".join(seeds))
    if tuning.tune_seed in seeds:
        lines.append("Seed %s is among them and has chosen the value too: it flatters each best." % tuning.tune_seed)
    if base:
        lines.append("difference: from %s, seed by seed, the mean d; below 0 is a lower loss." % in_words(*base))
        if len(seeds) > 1:
            t = compare.t_quantile(len(seeds) - 1)
            lines.append("95 %% interval: d ± %.3f·s/√%d, s the sample standard deviation of the differences (Student's t, %s"
                         " of freedom)." % (t, len(seeds), grids.counted(len(seeds) - 1, "degree")))  # fmt: skip
            lines.append("p: two-sided, adjusted by Holm for %s; " % grids.counted(judged, "comparison")
                         + "better or worse: p < %g." % compare.LEVEL)  # fmt: skip
            if any(row.found and row.found.adjusted >= compare.LEVEL and not row.found.low <= 0 <= row.found.high for row in rows):
                lines.append("An interval is of one comparison by itself: it can leave out 0 where p, which is of all, tells nothing apart.")
            lines.append("Not told apart is not equal: with few seeds only large differences are told apart. What another seed would have"
                         " chosen is not in the intervals.")  # fmt: skip
        else:
            lines.append("One seed: no interval, and no verdict.")
    return lines


def lines_of(head, lines):
    """A table for a terminal: columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *lines)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in [head, *lines]]


def say(tuning, plan, rows, judged, claimed):
    """Prints the table, and that of the claims if there are any."""
    print("\n".join(["", *lines_of(header(tuning), [cells(row) for row in rows]), "", *notes(tuning, plan, rows, judged)]))
    if claimed.entries:
        print("\n".join(["", *lines_of(claimed.header(), claimed.cells()), "", *claimed.notes()]))


# ------------------------------------------------------------------------------------------------------ files


def markdown_table(head, lines):
    marked = ["| %s |" % " | ".join(head), "|%s|" % "|".join(["---"] * len(head))]
    return marked + ["| %s |" % " | ".join(map(table.markdown_cell, line)) for line in lines]


def markdown(tuning, plan, rows, judged, claimed, results):
    lines = ["# %s" % plan.name, ""] + ([plan.about, ""] if plan.about else [])
    lines += [*markdown_table(header(tuning), map(cells, rows)), "", *notes(tuning, plan, rows, judged), ""]
    if claimed.entries:
        lines += ["## Claims", "", *markdown_table(claimed.header(), claimed.cells()), "", *claimed.notes(), ""]
    lines += ["## What was tried", ""]
    for row in rows:
        losses = ("%s %s" % (value, loss_in_words(loss)) for value, loss in row.study.losses.items())
        lines.append("- %s: %s" % (title_of(row) or tuning.flag, ", ".join(losses)))
    return "\n".join(lines + size(results) + table.sources(results) + [""])


def size(results):
    """What was trained, as the runs say: flags of the command line may have made it another than the grid's."""
    trained = [result for result in results.values() if result.parameters]
    if not trained:
        return []
    steps, counts = sorted({result.steps for result in trained}), sorted(result.parameters for result in trained)
    ends = dict.fromkeys("%.3g M" % (count / 1e6) for count in (counts[0], counts[-1]))  # gates alone do not show
    return ["", "Models of %s parameters, %s steps." % (" to ".join(ends), " or ".join(map(str, steps)))]


def loss_in_words(loss):
    return "–" if loss is None else "diverged" if math.isinf(loss) else "%.4f" % loss


def record_of_loss(loss):
    return "diverged" if loss is not None and math.isinf(loss) else loss


def record(tuning, plan, rows, judged, claimed):
    """What tuned.json holds."""
    base = baseline_of(plan)
    settings = []
    for row in rows:
        study = row.study
        entry = {
            "labels": row.labels,
            "tried": {value: record_of_loss(loss) for value, loss in study.losses.items()},
            "best": study.best,
            "at_edge": study.edge or None,
            "final_val": {seed: record_of_loss(loss) for seed, loss in row.losses.items()},
            "verdict": row.verdict(),
            "runs": {
                "tried": {value: run.name for value, run in study.runs.items()},
                "seeds": {seed: run.name for seed, run in study.repeats.items()},
            },
        }
        if row.found is not None:
            entry["difference"] = row.found.record()
        settings.append(entry)
    return {
        "name": plan.name,
        "about": plan.about,
        "tuned": tuning.flag,
        "tune_seed": tuning.tune_seed,
        "seeds": tuning.seeds,
        "widen": tuning.widen,
        "margin": tuning.margin,
        "baseline": base and {base[0]: base[1]},
        "level": compare.LEVEL,
        "comparisons": judged,
        "settings": settings,
        "claims_compared": claimed.judged,
        "claims": claimed.record(),
    }


def table_csv(tuning, rows):
    head = [axis.name for axis in tuning.axes]
    head += [tuning.flag, "at_edge", "tried", "diverged", "final_val_mean", "final_val_std", "seeds", "difference", "low", "high"]
    lines = []
    for row in rows:
        losses, found = row.study.losses.values(), row.found or compare.Comparison({})
        line = [*row.labels.values(), row.study.best or "", row.study.edge, len(losses)]
        line.append(sum(loss is not None and math.isinf(loss) for loss in [*losses, *row.losses.values()]))
        line += [table.plain(metrics.mean(row.sound()), 8), table.plain(metrics.deviation(row.sound()), 8), len(row.sound())]
        line += [table.plain(value, 8) for value in (found.mean, found.low, found.high, found.p, found.adjusted)]
        lines.append(line + [row.verdict()])
    return head + ["p", "p_holm", "verdict"], lines


def write(tuning, plan, rows, judged, claimed, results, out):
    """Writes the three files; returns their paths."""
    paths = [os.path.join(out, "tuned." + kind) for kind in ("md", "csv", "json")]
    with open(paths[0], "w", encoding="utf-8") as file:
        file.write(markdown(tuning, plan, rows, judged, claimed, results))
    table.write_csv(paths[1], *table_csv(tuning, rows))
    with open(paths[2], "w", encoding="utf-8") as file:
        json.dump(record(tuning, plan, rows, judged, claimed), file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    return paths
