"""What do the statistics of a run's layers (--stats-every) hold, and how is each of them shown?"""

import math
from collections import namedtuple

# `name` is the field's in metrics.jsonl. `spreads`: small and large values both count, so that its scale is soon logarithmic.
# A layer has one value, or two: attention's, then the MLP's.
Field = namedtuple("Field", "name title spreads")

FIELDS = [
    Field("residual_rms", "residual rms", True),
    Field("residual_max", "largest |residual|", True),
    Field("attn_rms", "rms of what attention adds", True),
    Field("mlp_rms", "rms of what the MLP adds", True),
    Field("gate", "GPAS gate g", False),
    Field("lambda", "BHyT λ", False),
    Field("alpha", "DyT's or Derf's α", False),
    Field("shift", "Derf's shift s", False),
    Field("saturated", "share of |tanh| or |erf| > 0.99", False),
    Field("vhat_ratio", "BHyT: estimate / exact mean square", False),
    Field("cosine", "cosine of the stream before and after", False),
    Field("attn_share", "attention's share of the stream's rms", False),
    Field("mlp_share", "MLP's share of the stream's rms", False),
    Field("grad_norm", "gradient norm", True),
    Field("update_ratio", "update / weights", True),
]
SUBLAYERS = "attention", "MLP"
MOST_COLUMNS = 300  # of a heat map


def held(runs, names=()):
    """Those that one of the runs holds, and of these the named ones where any are named."""
    return [
        field
        for field in FIELDS
        if (not names or field.name in names) and any(run.result.layers(field.name) for run in runs)
    ]


def maps_of(runs, field):
    """[(title, [a Map or None of each run])], one for each value that a layer has of this field; and the scale of all."""
    parts = 1 + max(i for run in runs for _, i in run.result.layers(field.name))
    rows = []
    for part in range(parts):
        there = [any(i == part for _, i in run.result.layers(field.name)) for run in runs]
        maps = [Map(run, field, part) if one else None for run, one in zip(runs, there)]
        rows.append(("%s, %s" % (field.title, SUBLAYERS[part % 2]) if parts > 1 else field.title, maps))
    values = [value for _, maps in rows for one in maps if one for value in one.values()]
    return rows, scale(values, field.spreads)


class Map:
    """A field over layers and steps, of layers with two values one of these. rows[r][c], of layer layers[r] at
    steps[c], is None where there is no number; sound[c]: no number of this column comes of a loss that is lost."""

    def __init__(self, run, field, part=0):
        curves = run.result.layers(field.name)
        self.layers = run.result.layer_numbers()
        steps = sorted(set().union(*curves.values()))
        size = -(-len(steps) // MOST_COLUMNS) or 1
        groups = [steps[i : i + size] for i in range(0, len(steps), size)]
        self.steps = [group[-1] for group in groups]
        self.rows = [[average(curves.get((layer, part), {}), group) for group in groups] for layer in self.layers]
        sound = run.sound_steps()
        self.sound = [all(step in sound or step not in run.result.train for step in group) for group in groups]

    def values(self):
        """Those that set a scale."""
        some = [value for row in self.rows for value, sound in zip(row, self.sound) if sound and value is not None]
        return some or [value for row in self.rows for value in row if value is not None]


def average(points, steps):
    values = [points[step] for step in steps if step in points]
    return math.fsum(values) / len(values) if values else None


def edges(steps):
    """Where columns begin and end: halfway between their steps."""
    if len(steps) == 1:
        return [steps[0] - 0.5, steps[0] + 0.5]
    halves = [(a + b) / 2 for a, b in zip(steps, steps[1:])]
    return [1.5 * steps[0] - 0.5 * steps[1], *halves, 1.5 * steps[-1] - 0.5 * steps[-2]]


def scale(values, spreads):
    """(lowest, highest, whether logarithmic) of a scale for finite values."""
    low, high = min(values), max(values)
    logarithmic = spreads and low > 0 and high > 4 * low
    if low == high:
        reach = 0.05 * abs(low) or 0.1
        return low - reach, high + reach, False
    return low, high, logarithmic
