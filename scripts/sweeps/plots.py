"""What does the sweep look like? PNG files from the metrics of its runs; needs matplotlib.

One panel for each combination of the points that are not compared, one line for each point that is: `pre` and
`pre+gpas` share a color, the second dashed. A band is the range over seeds. Runs that diverged set no scale: a triangle
at the upper edge says where one left the picture, its name says when.
"""
import math
import os

import picture
from picture import DASHES, finite
from sweeps import metrics
from sweeps.grid import left_out, number

MOST_PANELS = 16
MOST_NAMES = 18  # at the ends of a panel's lines
MOST_MARKERS = 12  # on a line: more would hide whether it is dashed
# Per layer over the steps: the field of a layer's statistics, the file, and what the axis says.
OVER_TIME = [
    ("residual_rms", "residual-over-time.png", "residual rms after each block"),
    ("gate", "gates.png", "GPAS gate g"),
    ("lambda", "lambda.png", "BHyT λ"),
    ("alpha", "alpha.png", "DyT's or Derf's α"),
]


def styles(labels):
    """label → (color, dashes). A label X+Y looks like X, dashed. No two look alike while colors and dashes last."""
    chosen, used = {}, 0

    def unused(color, dashes):
        return next(((color, dash) for dash in dashes if (color, dash) not in chosen.values()), (color, dashes[0]))

    for label in sorted(labels, key=lambda label: (label.count("+"), labels.index(label))):
        parents = [label.rsplit("+", cut)[0] for cut in range(1, label.count("+") + 1)]
        parent = next((name for name in parents if name in chosen), None)
        if parent is None:
            chosen[label] = unused(picture.COLORS[used % len(picture.COLORS)], [DASHES[0], *DASHES[2:], DASHES[1]])
            used += 1
            continue
        root = parent.split("+")[0] if parent.split("+")[0] in chosen else parent
        chosen[label] = unused(chosen[root][0], DASHES[1:])
    return chosen


def title_of(row, axes):
    """lr = 0.01, but a word says what it is."""
    labels = [(axis, row.labels[axis]) for axis in axes]
    return ", ".join(label if number(label) is None else "%s = %s" % (axis, label) for axis, label in labels)


class Layout:
    """Which row goes into which panel, as which line."""

    def __init__(self, plan, rows):
        self.name, self.about = plan.name, plan.about
        self.series = plan.series()
        self.others = [axis for axis in plan.axes if axis not in ("seed", self.series)]
        self.labels = plan.points()[self.series] if self.series else [""]
        self.styles = styles(self.labels)
        self.panels = {}
        for row in rows:
            self.panels.setdefault(title_of(row, self.others), []).append(row)

    def line_of(self, row):
        return row.labels[self.series] if self.series else ""

    def style_of(self, row):
        return self.styles[self.line_of(row)]

    def note(self, rows, *more):
        """What stands under a picture."""
        seeds = max((len(row.results) for row in rows), default=1)
        lines = ["Lines: means of %d seeds, bands: their range." % seeds] if seeds > 1 else []
        return " ".join([*([self.about + "."] if self.about else []), *lines, *more])


def over_seeds(curves):
    """[(x, mean, lowest, highest)] where at least one of the {x: y} has a finite value."""
    points = []
    for x in sorted(set().union(*curves)):
        values = finite([curve.get(x) for curve in curves])
        if values:
            points.append((x, metrics.mean(values), min(values), max(values)))
    return points


def draw_line(axis, curves, style, marker=None, band=True):
    """The mean of curves as a line, their range as a band. Returns the points of the line, [(x, y)]."""
    points = over_seeds(curves) if curves else []
    if not points:
        return []
    x, center, low, high = zip(*points)
    axis.plot(x, center, color=style[0], linestyle=style[1], linewidth=1.6, marker=marker, markersize=4,
              markerfacecolor="white", markeredgewidth=1.2, markevery=math.ceil(len(x) / MOST_MARKERS))  # fmt: skip
    if band and any(top > bottom for bottom, top in zip(low, high)):
        axis.fill_between(x, low, high, color=style[0], alpha=0.15, linewidth=0)
    return list(zip(x, center))


def name_lines(axis, ends):
    """[((x, y) of a line's end or None where it left the picture, its name, color)]: at the ends; where they are too many
    the lowest."""
    ends = sorted((end for end in ends if end[1]), key=lambda end: end[0][1] if end[0] else math.inf)
    for point, text, color in ends[:MOST_NAMES]:
        if point:
            picture.name_end(axis, point, text, color)
        else:
            picture.name_beyond(axis, text, color)
    if len(ends) > MOST_NAMES:
        picture.name_end(axis, ends[MOST_NAMES][0] or (max(axis.get_xlim()), math.inf), "… %d more" % (len(ends) - MOST_NAMES),
                         picture.DARK)  # fmt: skip


def split(row):
    """(results of runs that did not diverge, of those that did), where there is something of them."""
    pairs = [(result, why) for result, why in zip(row.results, row.divergences) if result.train]
    return [result for result, why in pairs if not why], [result for result, why in pairs if why]


def name_of_diverged(row, name):
    when = min((result.step for result in split(row)[1]), default=0)
    share = "%d of %d seeds, " % (row.diverged, len(row.runs)) if row.diverged < len(row.runs) else ""
    return "%s diverged (%sstep %d)" % (name, share, when)


# ------------------------------------------------------------------------------------------------------ loss


class Losses:
    """What loss.png shows of each run: the validation if most sound runs have two of it, else the smoothed training loss."""

    def __init__(self, rows):
        trained = [result for row in rows for result in row.results if result.train]
        sound = [result for row in rows for result in split(row)[0]]
        drawn = sound or trained  # what diverged early has no validation, and no say in what the others show
        self.validation = 2 * sum(len(finite(result.val.values())) > 1 for result in drawn) > len(drawn)
        curves = [self.curve(result) for result in drawn]
        first = max(finite([result.first_loss() for result in trained]), default=math.inf)
        # Where training begins sets the scale of no validation; of training it would flatten everything else, so
        # the axis holds what comes after the first fifth.
        shown = [value for curve in curves for value in (curve.values() if self.validation else late(curve))]
        shown = [value for value in finite(shown) if sound or value <= 1.05 * first]
        self.low, self.high = (min(shown), max(shown)) if shown else (0.0, min(first, 1e3))

    def curve(self, result):
        """{step: loss}"""
        if self.validation:
            return result.val
        training = {step: record[0] for step, record in result.train.items()}
        return picture.smooth(training, max(1, len(training) // 30))

    def whole(self, result):
        """The curve of a run that diverged: of its training where it did not come to a validation."""
        curve = self.curve(result)
        return curve if len(finite(curve.values())) > 1 else {step: record[0] for step, record in result.train.items()}


def late(curve):
    steps = sorted(curve)
    return [curve[step] for step in steps if step >= steps[0] + 0.2 * (steps[-1] - steps[0])]


def draw_loss(layout, panels, out):
    rows = [row for _, rows in panels for row in rows]
    if not any(result.train for row in rows for result in row.results):
        return None
    losses = Losses(rows)
    what = "validation" if losses.validation else "training"
    notes = ["▲: ran out of the picture, diverged."] if any(row.diverged for row in rows) else []
    notes += [] if losses.validation else ["Smoothed; the first steps are above."]
    figure, axes = picture.new_figure(len(panels), "%s: %s loss" % (layout.name, what), layout.note(rows, *notes), share_x=True)
    label = "%s loss (nats per token, %%s scale)" % what
    picture.scale_y(axes, [], lambda scale: label % scale, 3, losses.low, losses.high)
    for axis, (title, rows) in zip(axes, panels):
        ends = []
        for row in rows:
            style, name = layout.style_of(row), layout.line_of(row)
            sound, diverged = split(row)
            points = draw_line(axis, [losses.curve(result) for result in sound], style, "o" if losses.validation else None)
            if points:
                ends.append((points[-1], ("%s %.3f" % (name, points[-1][1])).strip(), style[0]))
            found = [draw_diverged(axis, losses.whole(result), result, style) for result in diverged]
            if found:
                inside = [point for point in found if point]
                ends.append((inside[-1] if inside else None, name_of_diverged(row, name).strip(), style[0]))
        name_lines(axis, ends)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        picture.integers(axis)
    return save(figure, out, "loss.png")


def draw_diverged(axis, curve, result, style):
    """A thin line with a triangle where it leaves the picture, or a cross where its numbers end within. Its end, or None."""
    points = sorted((step, loss) for step, loss in curve.items() if math.isfinite(loss))
    if not points:
        return None
    axis.plot(*zip(*points), color=style[0], linestyle=style[1], linewidth=1.0)
    beyond = picture.leaves_at(axis, points)
    if beyond is not None:
        picture.mark_beyond(axis, beyond, style[0])
        return None
    if result.state == "diverged":
        picture.mark_end(axis, points[-1], style[0])
    return points[-1]


# -------------------------------------------------------------------------------------- final loss over an axis


def draw_final(layout, rows, out):
    """Final loss against each axis of three numbers or more (learning rate, layers)."""
    paths = []
    for name in layout.others:
        numbers = {row.labels[name]: number(row.labels[name]) for row in rows}
        if len(numbers) < 3 or None in numbers.values():
            continue
        at = {label: float(value) for label, value in numbers.items()}
        rest = [other for other in layout.others if other != name]
        figure, (axis,) = picture.new_figure(1, "%s: final loss by %s" % (layout.name, name), layout.note(rows))
        values = sorted(at.values())
        if values[0] > 0 and values[-1] >= 4 * values[0]:
            axis.set_xscale("log")
            axis.xaxis.set_minor_locator(picture.ticker.NullLocator())
        axis.xaxis.set_major_locator(picture.ticker.FixedLocator(values))
        axis.xaxis.set_major_formatter(picture.ticker.FormatStrFormatter("%g"))
        axis.set_xlabel("%s (%s scale)" % (name, axis.get_xscale()))
        kinds = ["validation" if row.final_val else "training" for row in rows if row.final_val or row.train]
        what = "final %s loss (nats per token, %%s scale)" % max(kinds, key=kinds.count, default="validation")
        groups = {}
        for row in rows:
            groups.setdefault((layout.line_of(row), *(row.labels[other] for other in rest)), []).append(row)
        shown = [loss for row in rows for loss in row.final_val or row.train]
        picture.scale_y([axis], shown, lambda scale: what % scale, 3)
        ends = []
        for key, members in groups.items():
            style, label = layout.styles[key[0]], ", ".join(filter(None, key))
            curves = [{} for _ in range(max(len(row.results) for row in members))]
            for row in members:
                for curve, loss in zip(curves, row.final_val or row.train):
                    curve[at[row.labels[name]]] = loss
            points = draw_line(axis, curves, style, "o")
            ends += [(points[-1], label, style[0])] if points else []
            for row in members:
                if row.diverged:
                    x, every = at[row.labels[name]], row.diverged == len(row.runs)
                    picture.mark_beyond(axis, x, style[0])
                    share = "" if every else " (%d of %d seeds)" % (row.diverged, len(row.runs))
                    ends.append((None, "%s diverged at %g%s" % (label, x, share), style[0]))
        name_lines(axis, ends)
        if ends:
            paths.append(save(figure, out, "final-by-%s.png" % name))
        else:
            picture.plt.close(figure)
    return paths


# ------------------------------------------------------------------------------------------------- statistics


def draw_residual(layout, panels, out):
    """The residual's rms by layer at the end of training."""
    found = []
    for title, rows in panels:
        curves = [(row, [curve for curve in (result.by_layer("residual_rms") for result in row.results) if curve]) for row in rows]
        found.append((title, [(row, curves) for row, curves in curves if curves]))
    if not any(lines for _, lines in found):
        return None
    rows = [row for _, lines in found for row, _ in lines]
    figure, axes = picture.new_figure(len(found), "%s: residual after each block, last statistics" % layout.name,
                                      layout.note(rows, *beyond_note(rows)))  # fmt: skip
    values = [(row, value) for _, lines in found for row, curves in lines for curve in curves for value in curve.values()]
    picture.scale_y(axes, sound_values(values), lambda scale: "residual rms (%s scale)" % scale, 4)
    for axis, (title, lines) in zip(axes, found):
        ends = []
        for row, curves in lines:
            color, name = layout.style_of(row)[0], layout.line_of(row)
            points = draw_line(axis, curves, layout.style_of(row), "o")
            name += " (diverged)" if row.diverged == len(row.runs) else ""
            beyond = picture.leaves_at(axis, points)
            if beyond is not None:
                picture.mark_beyond(axis, beyond, color)
            ends.append((points[-1] if beyond is None else None, name, color))
        name_lines(axis, ends)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("layer")
        picture.integers(axis)
    return save(figure, out, "residual.png")


def sound_values(values):
    """Of [(row, value)] those that set a scale: of rows that did not diverge, if there is one."""
    return [value for row, value in values if not row.diverged] or [value for _, value in values]


def beyond_note(rows):
    return ["▲: out of the picture, diverged."] if any(row.diverged for row in rows) else []


def layers_over_time(row, field):
    """{(layer, i): [{step: value} of each run]}; i counts the values of a layer that has several."""
    curves = {}
    for number_of_run, result in enumerate(row.results):
        for key, points in result.layers(field).items():
            curves.setdefault(key, [{} for _ in row.results])[number_of_run] = points
    return curves


def draw_over_time(layout, rows, field, name, ylabel, out):
    """A panel a row, a line a layer, from dark (first) to light (last): the mean over the seeds.

    A layer's second value is dashed."""
    found = [(row, curves) for row, curves in ((row, layers_over_time(row, field)) for row in rows) if curves]
    if not found:
        return None, 0
    shown = found[:MOST_PANELS]
    several = any(i > 0 for _, curves in shown for _, i in curves)
    figure, axes = picture.new_figure(
        len(shown), "%s: %s over training" % (layout.name, ylabel),
        " ".join([*(["Solid: the attention's, dashed: the MLP's."] if several else []), *seeds_note(rows), *beyond_note(rows)]),
        share_x=True)  # fmt: skip
    values = [(row, value) for row, curves in shown for runs in curves.values() for _, value, _, _ in over_seeds(runs)]
    picture.scale_y(axes, sound_values(values), lambda scale: "%s (%s scale)" % (ylabel, scale), 4 if field == "residual_rms" else math.inf)
    for axis, (row, curves) in zip(axes, shown):
        last = max(layer for layer, _ in curves)
        for (layer, i), runs in sorted(curves.items()):
            color = picture.layer_color(layer, last)
            points = draw_line(axis, runs, (color, DASHES[i % len(DASHES)]), "." if len(over_seeds(runs)) == 1 else None, band=False)
            beyond = picture.leaves_at(axis, points) if row.diverged else None
            if beyond is not None:
                picture.mark_beyond(axis, beyond, color)
        axis.set_title(title_of(row, row.labels) or "each layer", fontsize=10)
        axis.set_xlabel("step")
        picture.integers(axis)
    picture.layers_bar(figure, axes, [max(layer for layer, _ in curves) for _, curves in shown])
    return save(figure, out, name), len(found) - len(shown)


def seeds_note(rows):
    seeds = max(len(row.results) for row in rows)
    return ["Means of %d seeds." % seeds] if seeds > 1 else []


# ------------------------------------------------------------------------------------------------------- all


def save(figure, out, name):
    return picture.save(figure, os.path.join(out, name))


def draw(plan, rows, out):
    """Writes what there is data for. Returns the paths, and a note for each figure that left panels out."""
    layout = Layout(plan, rows)
    panels = list(layout.panels.items())
    notes = []
    if len(panels) > MOST_PANELS:
        notes.append("plots: %s of %d: --only narrows" % (left_out(len(panels) - MOST_PANELS, "panel"), len(panels)))
        panels = panels[:MOST_PANELS]
    paths = [
        draw_loss(layout, panels, out),
        draw_residual(layout, panels, out),
        *draw_final(layout, rows, out),
    ]
    for field, name, ylabel in OVER_TIME:
        path, more = draw_over_time(layout, rows, field, name, ylabel, out)
        paths.append(path)
        if more:
            notes.append("%s: %s: --only narrows" % (name, left_out(more, "row")))
    return [path for path in paths if path], notes
