"""What does a sweep that tunes look like? tuning.png: the loss against the value that is tuned, a panel a setting, beside it the
baseline; differences.png: how far each is from the baseline, with its interval; claims.png: the same of the two points of each
claim. Needs matplotlib.
"""
import math
import os

import picture
from picture import DARK, finite
from sweeps.grid import left_out, number
from sweeps.tuned_table import baseline_of, in_words, title_of

MOST_PANELS = 24
MOST_ROWS = 60  # of differences.png, and of claims.png
GRAY = "#888888"
BETTER, WORSE, NOT_TOLD = picture.COLORS[2], picture.COLORS[1], picture.COLORS[0]


# ---------------------------------------------------------------------------------------------------- tuning.png


def fence(losses):
    """The highest of the losses that is not far out: over the upper quartile by three times the quartiles' distance (Tukey)."""
    losses = sorted(losses)
    low, high = losses[len(losses) // 4], losses[3 * len(losses) // 4]
    return max(loss for loss in losses if loss <= high + 3 * (high - low))


def places(tuning, row):
    """{value: x}: the number that it is, or its place in the order where it is a word."""
    values = list(row.study.losses)
    return {value: float(number(value)) if tuning.numeric() else i for i, value in enumerate(values)}


def draw_setting(axis, tuning, row, color, name):
    """One curve; what diverged or lies above the picture is a triangle at the edge, the chosen one a filled disc; a star
    where it is the last that was tried to that side, so that there may be a better one beyond."""
    x, top = places(tuning, row), max(axis.get_ylim())
    losses = {value: loss for value, loss in row.study.losses.items() if loss is not None}
    sound = [(x[value], loss) for value, loss in losses.items() if math.isfinite(loss)]
    shown = [(at, loss) for at, loss in sound if loss <= top]
    if sound:
        axis.plot(*zip(*sound), color=color, linewidth=1.4)
    if shown:
        axis.plot(*zip(*shown), color=color, linestyle="none", marker="o", markersize=4, markerfacecolor="white", clip_on=False)
    for value, loss in losses.items():
        if loss > top:
            picture.mark_beyond(axis, x[value], color)
    best = row.study.best
    if best is not None and losses[best] <= top:
        look = {"marker": "*", "markersize": 14} if row.study.edge else {"marker": "o", "markersize": 9}
        axis.plot([x[best]], [losses[best]], color=color, linestyle="none", clip_on=False, zorder=6, **look)
    if shown:
        picture.name_end(axis, shown[-1], name, color)
    elif losses:
        picture.name_beyond(axis, beyond_in_words(name, losses), color)


def beyond_in_words(name, losses):
    low = min(losses.values())
    return "%s: %s" % (name, "diverged" if math.isinf(low) else "%.3f at best" % low)


def dress(axis, tuning, rows):
    """The x axis: every value that was tried."""
    every = {}
    for row in rows:
        every.update(places(tuning, row))
    if not every:
        return
    every = dict(sorted(every.items(), key=lambda item: item[1]))
    ends = list(every.values())
    if tuning.numeric() and ends[0] > 0 and ends[-1] >= 4 * ends[0]:
        axis.set_xscale("log")
    scale = " (%s scale)" % axis.get_xscale() if tuning.numeric() else ""
    axis.xaxis.set_minor_locator(picture.ticker.NullLocator())
    axis.xaxis.set_major_locator(picture.ticker.FixedLocator(ends))
    axis.xaxis.set_major_formatter(picture.ticker.FixedFormatter(list(every)))
    axis.tick_params(axis="x", labelsize=8, rotation=30 if len(every) > 4 else 0)
    axis.set_xlabel(tuning.flag + scale)


def draw_tuning(tuning, plan, rows, claimed, out):
    """(path or None, panels left out)"""
    rows = [row for row in rows if any(loss is not None for loss in row.study.losses.values())]
    if not rows:
        return None, 0
    base = baseline_of(plan)
    bases = {tuple(row.labels.items()): row for row in rows}
    partner = {id(row): bases.get(tuple({**row.labels, base[0]: base[1]}.items())) if base else None for row in rows}
    panels = [row for row in rows if partner[id(row)] is not row] or rows
    shown = panels[:MOST_PANELS]
    losses = [finite(row.study.losses.values()) for row in rows]
    note = ["Seed %s. The disc is the value that was chosen." % tuning.tune_seed]
    near = ", or no more than %g from one's loss" % tuning.margin if tuning.margin else ""
    note += ["A star: it lies at the edge of those tried%s." % near] if any(row.study.edge for row in rows) else []
    note += ["Gray: %s." % in_words(*base)] if any(partner[id(row)] not in (None, row) for row in shown) else []
    note += ["▲: diverged, or above the picture."]
    title = "%s: final validation loss by %s" % (plan.name, tuning.flag)
    figure, axes = picture.new_figure(len(shown), title, " ".join(note), share_x=tuning.numeric())
    # What is far from its own best says little: the axis holds each curve's better half.
    shown_losses = [loss for found in losses for loss in sorted(found)[: len(found) // 2 + 1]]
    high = fence(shown_losses) if shown_losses else None
    picture.scale_y(axes, shown_losses, lambda scale: "loss (nats per token, %s scale)" % scale, 3, None, high)
    for axis, row in zip(axes, shown):
        other = partner[id(row)]
        if other is not None and other is not row:
            draw_setting(axis, tuning, other, GRAY, title_of(other))
        draw_setting(axis, tuning, row, picture.COLORS[0], title_of(row) or tuning.flag)
        axis.set_title(title_of(row), fontsize=10)
        dress(axis, tuning, rows)
    return picture.save(figure, os.path.join(out, "tuning.png")), len(panels) - len(shown)


# ---------------------------------------------------------------------------------- differences.png, claims.png
# A row here is anything with a Comparison, `found`, and a verdict().


def color_of(row):
    colors = {"better": BETTER, "holds": BETTER, "worse": WORSE, "the reverse holds": WORSE, "not told apart": NOT_TOLD}
    return colors.get(row.verdict(), DARK)


def limits(rows):
    """Of the x axis: every interval and every seed, but what is so far out that it would flatten the others."""
    reach = [abs(end) for row in rows for end in (row.found.low, row.found.high) if math.isfinite(end)]
    reach += [abs(d) for row in rows for d in row.found.differences.values()]
    return 1.06 * (fence(reach) if reach else 0) or 1.0  # where all are 0 any will do


def draw_differences(tuning, plan, rows, claimed, out):
    """(path or None, rows left out)"""
    rows = [(title_of(row), row) for row in rows if row.found is not None]
    if not rows:
        return None, 0
    base = in_words(*baseline_of(plan))
    title = "%s: final validation loss less that of %s" % (plan.name, base)
    label = "difference from %s (nats per token, linear scale): left of 0 is better" % base
    return draw_comparisons(tuning, rows, title, label, 7.6, os.path.join(out, "differences.png"))


def draw_claims(tuning, plan, rows, claimed, out):
    """(path or None, rows left out)"""
    title = "%s: what was claimed" % plan.name
    label = "first less second (nats per token, linear scale): left of 0 is the claim's way"
    return draw_comparisons(tuning, [(claim_in_words(entry), entry) for entry in claimed.entries], title, label, 9.6,
                            os.path.join(out, "claims.png"))  # fmt: skip


def claim_in_words(entry):
    return ", ".join(["%s: %s" % (entry.claim.words, entry.order()), *(in_words(*point) for point in entry.labels.items())])


def draw_comparisons(tuning, rows, title, label, width, path):
    """A row for each (name, row); width in inches. Returns (path, or None where no row has a difference; rows left out)."""
    if not any(row.found.differences for _, row in rows):
        return None, 0
    more, rows = max(0, len(rows) - MOST_ROWS), rows[:MOST_ROWS]
    names, rows = zip(*rows)
    note = "Dots: the seeds; each at its own best %s. Arrows: beyond the picture." % tuning.flag
    if any(math.isfinite(row.found.low) for row in rows):
        note += " Diamond and bar: mean and 95 % interval (Student's t), each by itself. Verdicts: p\u00a0<\u00a00.05 after Holm's correction for all."
    figure, (axis,) = picture.new_figure(1, title, note)
    figure.set_size_inches(width, 1.8 + 0.3 * len(rows))
    reach = limits(rows)
    axis.set_xlim(-reach, reach)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.axvline(0, color=DARK, linewidth=1)
    for y, row in enumerate(rows):
        draw_difference(axis, y, row, reach)
    axis.set_yticks(range(len(rows)), names)
    axis.grid(False, axis="y")
    axis.set_xlabel(label)
    return picture.save(figure, path), more


def draw_difference(axis, y, row, reach):
    """The seeds as dots, the mean as a diamond with its interval; what lies beyond the picture as an arrow, its number beside it."""
    found, color, words = row.found, color_of(row), row.verdict()
    inside = [difference for difference in found.differences.values() if abs(difference) <= reach]
    axis.plot(inside, [y + 0.25] * len(inside), color=color, linestyle="none", marker="o", markersize=3.5, alpha=0.6)
    for far in {math.copysign(reach, difference) for difference in found.differences.values() if abs(difference) > reach}:
        axis.plot([far], [y + 0.25], color=color, marker="<" if far < 0 else ">", markersize=4.5, clip_on=False)
    if math.isfinite(found.low):
        axis.plot([found.low, found.high], [y, y], color=color, linewidth=1.6, solid_capstyle="butt", marker="|", markersize=8)
        if abs(found.mean) <= reach:
            axis.plot([found.mean], [y], color=color, marker="D", markersize=5.5)
    for far in {math.copysign(reach, d) for d in (found.low, found.mean, found.high) if abs(d) > reach}:
        axis.plot([far], [y], color=color, marker="<" if far < 0 else ">", markersize=8, clip_on=False)
    if abs(found.mean) > reach:
        words = "%+.3f: %s" % (found.mean, words)
    text = axis.annotate(words, xy=(1.02, y), xycoords=("axes fraction", "data"), va="center", ha="left", fontsize=9,
                         color=color, annotation_clip=False)  # fmt: skip
    text.set_in_layout(True)


def draw(tuning, plan, rows, claimed, out):
    """Writes what there is data for. Returns the paths, and a note for each figure that left something out."""
    paths, notes = [], []
    for drawn, what in ((draw_tuning, "panel"), (draw_differences, "row"), (draw_claims, "row")):
        path, more = drawn(tuning, plan, rows, claimed, out)
        paths += [path] if path else []
        if more:
            notes.append("%s: %s" % (os.path.basename(path), left_out(more, what)))
    return paths, notes
