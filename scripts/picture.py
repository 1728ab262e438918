"""How do our pictures look? What plot.py and sweeps/plots.py share; needs matplotlib.

Lines carry their names at their ends, moved apart until none overlaps another; every axis says its unit, and whether its
scale is linear or logarithmic; all panels of a picture have one y axis; what lies above it is marked at its edge and
named, and sets no scale.
"""
import math
import os
import textwrap

import matplotlib
import matplotlib.backend_bases

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib import ticker  # noqa: E402
from matplotlib.text import Text  # noqa: E402

# Okabe and Ito's: told apart by all eyes. Its yellow is left out: too pale for a line.
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
DASHES = ["-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5))]
GRAY, DARK = "#dddddd", "#555555"
DPI = 130
plt.rcParams["text.parse_math"] = False  # a run may be called $x$
LABEL_GAP = 1.08  # lines of labels, in heights of one


def layer_color(layer, last):
    """From dark (first) to light (last); the palest yellow is left out."""
    return plt.get_cmap("viridis")(0.92 * layer / max(last, 1))


# --------------------------------------------------------------------------------------------------- figures


def new_figure(count, title, note="", share_y=True, share_x=False):
    """A figure of `count` panels with room for names at the ends of lines, and their axes. No wider than a README
    shows without making letters too small: two columns, three from seven panels on."""
    columns = 1 if count == 1 else 2 if count < 7 else 3
    lines = -(-count // columns)
    width, height = (7.6, 4.4) if count == 1 else (5.1, 3.3)
    figure, axes = plt.subplots(lines, columns, figsize=(columns * width, lines * height + 0.5), dpi=DPI, squeeze=False,
                                layout="constrained", sharey=share_y, sharex=share_x)  # fmt: skip
    flat = list(axes.flat)
    for axis in flat[count:]:
        axis.set_axis_off()
    return dress(figure, flat[:count], title, note, columns)


def new_figure_over(below, title, note=""):
    """A figure of one large panel, and under it `below` small ones beside each other; their axes, the large one first."""
    if not below:
        return new_figure(1, title, note)
    figure = plt.figure(figsize=(9.2, 6.4), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, below, height_ratios=[2.3, 1])
    axes = [figure.add_subplot(grid[0, :]), *(figure.add_subplot(grid[1, i]) for i in range(below))]
    return dress(figure, axes, title, note, 2)


def dress(figure, axes, title, note, columns):
    """Title, note, grid: what all our figures have."""
    figure.suptitle("\n".join(textwrap.wrap(title, 30 + 50 * columns)), fontsize=12)
    if note:
        figure.supxlabel("\n".join(textwrap.wrap(note, 50 + 60 * columns)), fontsize=8.5, color=DARK)
    for axis in axes:
        axis.grid(True, which="major", color=GRAY, linewidth=0.7)
        axis.set_axisbelow(True)
        axis.tick_params(labelleft=True, labelbottom=True)  # a panel that is looked at alone says its numbers
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def partial_of(path):
    return os.path.join(os.path.dirname(path), ".%s.partial" % os.path.basename(path))


def check_place(path):
    """Whether save() could write there, before seconds of drawing: an OSError, or a ValueError for a kind of file that matplotlib
    does not know."""
    kind, known = os.path.splitext(path)[1][1:].lower() or "png", matplotlib.backend_bases.FigureCanvasBase.get_supported_filetypes()
    if kind not in known:
        raise ValueError("no kind of picture: .%s (there are %s)" % (kind, ", ".join(sorted(known))))
    with open(partial_of(path), "wb"):
        pass
    os.unlink(partial_of(path))


def save(figure, path):
    """Writes it, whole or not at all. A place that cannot be written is an OSError, another kind of file than matplotlib
    knows a ValueError."""
    place_labels(figure)
    partial = partial_of(path)
    try:
        figure.savefig(partial, format=os.path.splitext(path)[1][1:] or "png")
        os.replace(partial, path)
    finally:
        plt.close(figure)
        if os.path.lexists(partial):
            os.unlink(partial)
    return path


# ------------------------------------------------------------------------------------------------------ axes


def finite(values):
    return [value for value in values if value is not None and math.isfinite(value)]


def scale_y(axes, values, label, ratio, low=None, high=None):
    """One y axis for all of `axes`, which holds `values` (or low to high): logarithmic with plain numbers where they
    are positive and spread over more than `ratio`. The first axis of each line says `label`, its unit and scale:
    label("log") is the text. Returns whether it is logarithmic."""
    values = finite(values)
    low = min(values, default=0) if low is None else low
    high = max(values, default=1) if high is None else high
    logarithmic = low > 0 and high > ratio * low
    if logarithmic:
        reach = (high / low) ** 0.04
        limits = low / reach, high * reach
    else:
        reach = 0.04 * (high - low) or 0.04 * abs(high) or 0.1
        limits = low - reach, high + reach
    for axis in axes:
        if logarithmic:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(ticker.FixedLocator(log_ticks(*limits)))
            axis.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: "%g" % value))
            axis.yaxis.set_minor_locator(ticker.NullLocator())
        axis.set_ylim(*limits)
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel(label("log" if logarithmic else "linear"))
    return logarithmic


def log_ticks(low, high):
    """Plain numbers between them: as many as make six to ten marks."""
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [float("%.3g" % (step * 10.0**decade)) for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 5:
            break
    return ticks[:: max(1, len(ticks) // 8)]


def integers(axis):
    axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=7, steps=[1, 2, 5, 10]))


# ---------------------------------------------------------------------------------- names at the ends of lines


def name_end(axis, point, text, color):
    """A name right of the panel, tied by a dotted line to `point`, the end of a line. save() moves names apart."""
    top, bottom = max(axis.get_ylim()), min(axis.get_ylim())
    point = point[0], min(max(point[1], bottom), top)
    tie = {"arrowstyle": "-", "color": color, "linewidth": 0.8, "linestyle": ":", "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
    note = axis.annotate(text, xy=point, xytext=(1.04, point[1]), textcoords=("axes fraction", "data"), va="center", ha="left",
                         fontsize=9, color=color, annotation_clip=False, arrowprops=tie)  # fmt: skip
    note.set_gid("end")
    return note


def name_beyond(axis, text, color):
    """The name of a line that left the picture at a triangle: beside the upper edge."""
    top = max(axis.get_ylim())
    note = axis.annotate("▲ " + text, xy=(0, top), xytext=(1.04, top), textcoords=("axes fraction", "data"), va="center",
                         ha="left", fontsize=9, color=color, annotation_clip=False)  # fmt: skip
    note.set_gid("end")
    return note


def leaves_at(axis, points):
    """The x from which all of a line is above the axis, or None."""
    top = max(axis.get_ylim())
    return next((points[i][0] for i in range(len(points)) if all(y > top for _, y in points[i:])), None)


def mark_beyond(axis, step, color):
    """A triangle at the upper edge: here a line leaves the picture."""
    axis.plot([step], [1], transform=axis.get_xaxis_transform(), marker="^", markersize=8, color=color, clip_on=False,
              linestyle="none", markeredgecolor="white", markeredgewidth=0.8, zorder=5)  # fmt: skip


def mark_end(axis, point, color):
    """A cross: here a line ends within the picture for want of numbers."""
    axis.plot(*zip(point), marker="x", markersize=8, markeredgewidth=2, color=color, clip_on=False, linestyle="none", zorder=5)


def box_of(note, renderer=None):
    """Of its letters alone: an annotation's own box holds the tie to its point as well."""
    return Text.get_window_extent(note, renderer)


def place_labels(figure):
    """Moves the names at the ends of lines apart, within the height of their panel and a little beyond."""
    named = [(axis, [text for text in axis.texts if text.get_gid() == "end"]) for axis in figure.axes]
    if any(notes for _, notes in named):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # found: finding it again takes as long
    for axis, notes in named:
        if notes:
            place_labels_of(axis, notes, figure.canvas.get_renderer())


def place_labels_of(axis, notes, renderer):
    box = axis.get_window_extent()
    notes.sort(key=lambda note: axis.transData.transform(note.xy)[1])
    heights = [box_of(note, renderer).height * LABEL_GAP for note in notes]
    wanted = [axis.transData.transform(note.xy)[1] for note in notes]
    for note, middle in zip(notes, spread(wanted, heights, box.y0, box.y1)):
        note.anncoords = ("axes fraction", "axes fraction")
        note.set_position((1.04, (middle - box.y0) / box.height))


def spread(wanted, heights, low, high):
    """Middles as near to `wanted` (rising) as intervals of these heights can be without overlapping, between low and
    high where they fit there."""
    groups = []  # [first, count, height, sum of where the group's bottom wants to be]
    for i, (middle, height) in enumerate(zip(wanted, heights)):
        groups.append([i, 1, height, middle - height / 2])
        while len(groups) > 1 and bottom(groups[-2], low, high) + groups[-2][2] > bottom(groups[-1], low, high):
            first, later = groups[-2], groups.pop()
            first[3] += later[3] - later[1] * first[2]
            first[1] += later[1]
            first[2] += later[2]
    middles = []
    for first, count, height, total in groups:
        at = bottom([first, count, height, total], low, high)
        for i in range(first, first + count):
            middles.append(at + heights[i] / 2)
            at += heights[i]
    return middles


def bottom(group, low, high):
    _, count, height, total = group
    return max(min(total / count, high - height), low)


# ------------------------------------------------------------------------------------------------- two helpers


def smooth(points, window):
    """{step: the mean over `window` values around it}. At the beginning, where curves are steep, over fewer, never
    lopsided; at the end over those that are there: a single step's loss is noise, and the eye rests there."""
    steps = sorted(points)
    values = [points[step] for step in steps]
    result = {}
    for i, step in enumerate(steps):
        reach = min(window // 2, i)
        near = finite(values[i - reach : i + reach + 1])
        result[step] = math.fsum(near) / len(near) if near else math.nan
    return result


def layers_bar(figure, axes, lasts):
    """The key to lines from dark to light; `lasts` are the panels' last layers."""
    shades = [layer_color(i, 20) for i in range(21)]
    scale = matplotlib.colors.LinearSegmentedColormap.from_list("layers", shades)
    bar = figure.colorbar(plt.cm.ScalarMappable(plt.Normalize(0, 1), scale), ax=axes, shrink=0.6, pad=0.02, aspect=30)
    bar.set_ticks([0, 1])
    bar.set_ticklabels(["layer 0", "layer %d" % lasts[0] if len(set(lasts)) == 1 else "last layer"])
    bar.outline.set_visible(False)
