"""heat.png: the statistics of the layers as colors over layer and step: a line of panels a field, a column a run, one scale
of colors a field. A single field is laid out in lines of three, and beside several runs stands what they ended with, layer
by layer. Needs matplotlib."""

import math

import matplotlib
import numpy

import picture
from watching.curves import style
from watching.fields import edges, held, maps_of

plt = picture.plt
MOST_RUNS = 6
LACKING, BEYOND = "#9a9a9a", "#d55e00"  # where there is no number; what is over the scale


def draw(runs, names, title, out):
    fields, left_out = held(runs, names), len(runs) - MOST_RUNS
    runs = runs[:MOST_RUNS]
    rows = []  # (title, field, maps, colors)
    for field in fields:
        if any(run.result.layers(field.name) for run in runs):
            titles_and_maps, limits = maps_of(runs, field)
            rows += [(name, field, maps, color_scale(maps, limits)) for name, maps in titles_and_maps]
    notes = ["Each square: a layer at a step, the first layer at the bottom."]
    notes += ["Gray: no number there."] if any(lacks(one) for _, _, maps, _ in rows for one in maps) else []
    notes += (
        ["Red: over the scale, after the loss was lost."] if any(colors.extend == "max" for *_, colors in rows) else []
    )
    notes += ["The first %d runs of %d." % (MOST_RUNS, MOST_RUNS + left_out)] if left_out > 0 else []
    draw_all = draw_one_field if len(rows) == 1 and len(runs) > 1 else draw_table
    figure, axes = draw_all(runs, rows, title, " ".join(notes))
    for axis in axes:
        axis.grid(False)
    picture.save(figure, out)


def lacks(one):
    return one is not None and any(value is None for row in one.rows for value in row)


def draw_table(runs, rows, title, note):
    """A line a field and a column a run; of one run, the fields in columns of two or three."""
    count = len(rows) * len(runs)
    columns = len(runs) if len(runs) > 1 else 1 if count == 1 else 2 if count < 7 else 3
    lines = -(-count // columns)
    width = 4.6 if columns < 3 else 3.7
    figure, axes = plt.subplots(lines, columns, figsize=(columns * width, lines * 2.4 + 0.7), dpi=picture.DPI, squeeze=False,
                                layout="constrained")  # fmt: skip
    flat = list(axes.flat)
    shown = flat[:count]
    for axis in flat[count:]:
        axis.set_axis_off()
    picture.dress(figure, shown, title, note, columns)
    for i, (name, _, maps, colors) in enumerate(rows):
        line = shown[i * len(runs) : (i + 1) * len(runs)]
        for axis, run, one in zip(line, runs, maps):
            fill(axis, one, colors)
            axis.set_title("%s\n%s" % (name, run.label) if len(runs) > 1 else name, fontsize=9.5)
        add_bar(figure, line if len(runs) > 1 else line[0], colors)
    return figure, shown


def draw_one_field(runs, rows, title, note):
    ((name, field, maps, colors),) = rows
    count, columns = len(runs) + 1, 3 if len(runs) != 3 else 2
    lines = -(-count // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(columns * 3.7, lines * 2.8 + 0.7), dpi=picture.DPI, squeeze=False,
                                layout="constrained")  # fmt: skip
    flat = list(axes.flat)
    for axis in flat[count:]:
        axis.set_axis_off()
    picture.dress(figure, flat[:count], title, note, columns)
    for i, (axis, run, one) in enumerate(zip(flat, runs, maps)):
        fill(axis, one, colors)
        axis.set_title(run.label, fontsize=10, color=style(i)[0], fontweight="bold")
    add_bar(figure, flat[: len(runs)], colors, name)
    draw_ends(flat[count - 1], runs, field, maps, colors)
    return figure, flat[:count]


def color_scale(maps, limits):
    """How numbers become colors. What a lost loss has left in the statistics is over its end."""
    low, high, logarithmic = limits
    norm = (matplotlib.colors.LogNorm if logarithmic else plt.Normalize)(low, high)
    above = any(value is not None and value > high for one in maps if one for line in one.rows for value in line)
    colors = plt.get_cmap("viridis").with_extremes(bad=LACKING, over=BEYOND)
    mappable = plt.cm.ScalarMappable(norm, colors)
    mappable.extend = "max" if above else "neither"
    return mappable


def fill(axis, one, colors):
    if one is None:
        axis.text(
            0.5,
            0.5,
            "not in this run",
            transform=axis.transAxes,
            ha="center",
            va="center",
            color=picture.DARK,
            fontsize=9,
        )
        axis.set_xticks([])
        axis.set_yticks([])
        return
    values = numpy.array([[math.nan if value is None else value for value in row] for row in one.rows], dtype=float)
    axis.pcolormesh(edges(one.steps), numpy.arange(len(one.rows) + 1), numpy.ma.masked_invalid(values), norm=colors.norm,
                    cmap=colors.cmap, rasterized=True)  # fmt: skip
    axis.set_xlabel("step", fontsize=9)
    axis.set_ylabel("layer", fontsize=9)
    axis.tick_params(labelsize=8)
    picture.integers(axis)
    number_layers(axis, one.layers)


def number_layers(axis, layers):
    every = -(-len(layers) // 8)
    at = range(0, len(layers), every)
    axis.set_ylim(0, len(layers))
    axis.set_yticks([i + 0.5 for i in at], [str(layers[i]) for i in at])


def add_bar(figure, axes, colors, title=""):
    bar = figure.colorbar(colors, ax=axes, extend=colors.extend, pad=0.015, aspect=22)
    bar.outline.set_visible(False)
    if isinstance(colors.norm, matplotlib.colors.LogNorm):
        bar.ax.yaxis.set_major_locator(
            picture.ticker.FixedLocator(picture.log_ticks(colors.norm.vmin, colors.norm.vmax))
        )
        bar.ax.yaxis.set_minor_locator(picture.ticker.NullLocator())
        bar.ax.yaxis.set_major_formatter(picture.ticker.FuncFormatter(lambda value, _: "%g" % value))
        title = "%s (log scale)" % title if title else "log scale"
    bar.ax.tick_params(labelsize=8)
    bar.set_label(title, fontsize=8.5)


def draw_ends(axis, runs, field, maps, colors):
    """What each run ended with, layers upward as in the maps beside it."""
    norm, logarithmic = colors.norm, isinstance(colors.norm, matplotlib.colors.LogNorm)
    for i, (run, one) in enumerate(zip(runs, maps)):
        points = sorted(run.result.by_layer(field.name).items())
        if one is None or not points:
            continue
        layers, values = zip(*points)
        color, dashes = style(i)
        axis.plot(values, [one.layers.index(layer) + 0.5 for layer in layers], color=color, linestyle=dashes, linewidth=1.6,
                  marker="os^Dvp"[i % 6], markersize=4, markerfacecolor="white", markeredgewidth=1.2, label=run.label)  # fmt: skip
    if logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(picture.ticker.FixedLocator(picture.log_ticks(norm.vmin, norm.vmax)))
        axis.xaxis.set_minor_locator(picture.ticker.NullLocator())
        axis.xaxis.set_major_formatter(picture.ticker.FuncFormatter(lambda value, _: "%g" % value))
        reach = (norm.vmax / norm.vmin) ** 0.04
        axis.set_xlim(norm.vmin / reach, norm.vmax * reach)
    else:
        reach = 0.04 * (norm.vmax - norm.vmin)
        axis.set_xlim(norm.vmin - reach, norm.vmax + reach)
    number_layers(axis, next(one.layers for one in maps if one))
    axis.set_xlabel("%s (%s scale)" % (field.title, axis.get_xscale()), fontsize=9)
    axis.set_ylabel("layer", fontsize=9)
    axis.set_title("at the last statistics", fontsize=10)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, frameon=False)
