"""Does what was claimed hold here? A claim is an order of two points, `post+sdd < post`: the first has the lower loss.

It is judged as each variant is beside the baseline (compare.py): each of the two at its own best value, seed by seed; once for
every point of the other axes. The claims are one family: Holm's correction is for their number, not for the variants'.
"""
from sweeps import compare
from sweeps.grid import Failure, counted

WORDS = {"better": "holds", "worse": "the reverse holds"}


class Entry:
    """A claim at one point of the other axes, `labels` {axis: label}: the rows (tuned_table.py) of its two points, and `found`,
    their Comparison."""

    def __init__(self, claim, labels, lower, higher):
        self.claim, self.labels = claim, labels
        self.sides = {claim.lower: lower, claim.higher: higher}
        self.found = compare.compare(lower.losses, higher.losses)

    def order(self):
        return "%s < %s" % (self.claim.lower, self.claim.higher)

    def state(self):
        """In words, what is missing on either side; "" if nothing is. The variants' table says how much."""
        if self.lost():
            return "diverged at every value: " + ", ".join(self.lost())
        unfinished = [point for point, row in self.sides.items() if row.is_open()]
        return "unfinished: " + ", ".join(unfinished) if unfinished else ""

    def lost(self):
        return [point for point, row in self.sides.items() if row.study.diverged_everywhere()]

    def is_open(self):
        return bool(self.state()) and not self.lost()

    def verdict(self):
        said = self.state() or self.found.verdict
        return WORDS.get(said, said.replace("the baseline", self.claim.higher))

    def record(self):
        return {"claim": self.claim.words, "order": self.order(), "labels": self.labels, **self.found.record(),
                "verdict": self.verdict()}  # fmt: skip


class Claims:
    """entries, in the grid's order; judged: how many their p are adjusted for; axes: the names that their labels have."""

    def __init__(self, tuning, rows):
        self.entries = [entry for claim in tuning.grid.claims for entry in entries_of(claim, tuning.axes, rows)]
        self.judged = compare.judge([entry.found for entry in self.entries if not entry.state()],
                                    sum(entry.is_open() for entry in self.entries))  # fmt: skip
        self.axes = list(dict.fromkeys(name for entry in self.entries for name in entry.labels))

    def header(self):
        return ["claim", "order of losses", *self.axes, "difference", "95 % interval", "p (Holm)", "verdict"]

    def cells(self):
        return [
            [entry.claim.words, entry.order(), *(entry.labels.get(axis, "–") for axis in self.axes), *entry.found.cells(),
             entry.verdict()] for entry in self.entries
        ]  # fmt: skip

    def notes(self):
        """What the numbers are, a sentence a line."""
        return [
            "difference: the first less the second, seed by seed, each at its own best; below 0 the claim's way.",
            "Interval and p as above, but p adjusted by Holm for %s. " % counted(self.judged, "claim")
            + "holds, the reverse holds: p < %g." % compare.LEVEL,
        ]

    def record(self):
        return [entry.record() for entry in self.entries]


def axis_of(claim, axes):
    """The name of the axis that both points of a claim are of; a Failure if there is none."""
    for axis in axes:
        if claim.lower in axis.points and claim.higher in axis.points:
            return axis.name
    known = [label for axis in axes for label in axis.points]
    raise Failure("[claims] %s: %s and %s are not points of one axis; there are %s"
                  % (claim.words, claim.lower, claim.higher, ", ".join(known) or "none"))  # fmt: skip


def entries_of(claim, axes, rows):
    axis, by_labels = axis_of(claim, axes), {tuple(row.labels.items()): row for row in rows}
    for row in rows:
        if row.labels[axis] == claim.lower:
            others = {name: label for name, label in row.labels.items() if name != axis}
            yield Entry(claim, others, row, by_labels[tuple({**row.labels, axis: claim.higher}.items())])
