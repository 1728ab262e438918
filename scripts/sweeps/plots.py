"""What does the sweep look like? PNG files from the metrics of its runs; needs matplotlib.

One panel for each combination of the points that are not compared, one line for each point that is: `pre` and
`pre+gpas` share a color, the second dashed. A band is the range over seeds.
"""
import math
import os

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib import ticker  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

from sweeps import metrics  # noqa: E402
from sweeps.grid import number  # noqa: E402

# Okabe and Ito's: told apart by all eyes.
COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
DASHES = ["-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5))]
MARKERS = "osD^v"
MOST_PANELS = 16
# Per layer over the steps: the field of a layer's statistics, the file, and what the axis says.
OVER_TIME = [
    ("residual_rms", "residual-over-time.png", "residual rms"),
    ("gate", "gates.png", "GPAS gate g"),
    ("lambda", "lambda.png", "BHyT λ"),
]


def styles(labels):
    """label → (color, dashes, marker). A label X+Y looks like X, dashed."""
    chosen, used, variations = {}, 0, {}
    for label in sorted(labels, key=lambda label: (label.count("+"), labels.index(label))):
        parents = [label.rsplit("+", cut)[0] for cut in range(1, label.count("+") + 1)]
        parent = next((name for name in parents if name in chosen), None)
        if parent is None:
            dash = used // len(COLORS) % len(DASHES)
            chosen[label] = (COLORS[used % len(COLORS)], DASHES[dash], MARKERS[dash])
            used += 1
            continue
        root = parent.split("+")[0] if parent.split("+")[0] in chosen else parent
        variations[root] = variations.get(root, 0) + 1
        dash = variations[root] % len(DASHES)
        chosen[label] = (chosen[root][0], DASHES[dash], MARKERS[dash])
    return chosen


def title_of(row, axes):
    """lr = 0.01, but a word says what it is."""
    labels = [(axis, row.labels[axis]) for axis in axes]
    return ", ".join(label if number(label) is None else "%s = %s" % (axis, label) for axis, label in labels)


class Layout:
    """Which row goes into which panel, as which line."""

    def __init__(self, plan, rows):
        self.series = plan.series()
        self.others = [axis for axis in plan.axes if axis not in ("seed", self.series)]
        self.labels = plan.points()[self.series] if self.series else [""]
        self.styles = styles(self.labels)
        self.panels = {}
        for row in rows:
            self.panels.setdefault(title_of(row, self.others), []).append(row)

    def line_of(self, row):
        return row.labels[self.series] if self.series else ""


def new_figure(count, width=5.2, height=3.6):
    """A figure of `count` panels, and their axes."""
    columns = 1 if count == 1 else 2 if count in (2, 4) else 3 if count < 10 else 4
    lines = -(-count // columns)
    if count == 1:
        width, height = 7.0, 4.6
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(columns * width * 0.8 + 1.6, lines * height * 0.85 + 0.6),
        dpi=130,
        squeeze=False,
        layout="constrained",
    )
    flat = list(axes.flat)
    for axis in flat[count:]:
        axis.set_axis_off()
    for axis in flat[:count]:
        axis.grid(True, which="major", color="#dddddd", linewidth=0.7)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, flat[:count]


def legend(figure, layout, shown):
    """To the right of everything; only the lines that are there."""
    handles = []
    for label in layout.labels:
        if label in shown and label:
            color, dashes, _ = layout.styles[label]
            handles.append(Line2D([], [], color=color, linestyle=dashes, linewidth=1.8, label=label))
    if len(handles) > 1:
        figure.legend(handles=handles, handlelength=3, loc="outside right upper", frameon=False, fontsize=9)


def log_axis(axis, values):
    """Logarithmic where the values spread over more than a factor of 4, with plain numbers."""
    values = [value for value in values if math.isfinite(value)]
    if not values or min(values) <= 0 or max(values) < 4 * min(values):
        return
    axis.set_yscale("log")
    decades = math.log10(max(values) / min(values))
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if decades < 3 else (1,), numticks=12))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_locator(ticker.NullLocator())


def over_seeds(curves):
    """[(x, mean, lowest, highest)] where at least one of the {x: y} has a finite value."""
    points = []
    for x in sorted(set().union(*curves)):
        values = [curve[x] for curve in curves if math.isfinite(curve.get(x, math.nan))]
        if values:
            points.append((x, metrics.mean(values), min(values), max(values)))
    return points


def draw_line(axis, curves, style, marker=None, band=True):
    """The mean of curves as a line, their range as a band. Returns the points of the line, [(x, y)]."""
    points = over_seeds(curves) if curves else []
    if not points:
        return []
    x, center, low, high = zip(*points)
    axis.plot(x, center, color=style[0], linestyle=style[1], linewidth=1.6, marker=marker, markersize=3.5)
    if band and any(top > bottom for bottom, top in zip(low, high)):
        axis.fill_between(x, low, high, color=style[0], alpha=0.15, linewidth=0)
    return list(zip(x, center))


def save(figure, out, name):
    path = os.path.join(out, name)
    figure.savefig(path)
    plt.close(figure)
    return path


# ---------------------------------------------------------------------------------------------------- figures


def smooth(points, window):
    """At each step the mean over `window` steps around it. At the beginning, where curves are steep, over fewer,
    never lopsided; at the end over those that are there: a single step's loss is noise, and the eye rests there."""
    steps = sorted(points)
    values = [points[step] for step in steps]
    result = {}
    for i, step in enumerate(steps):
        reach = min(window // 2, i)
        near = [value for value in values[i - reach : i + reach + 1] if math.isfinite(value)]
        result[step] = math.fsum(near) / len(near) if near else math.nan
    return result


def loss_curve(result):
    """Validation where there are three or more, else the smoothed training loss."""
    if len(result.val) >= 3:
        return result.val
    return smooth({step: record[0] for step, record in result.train.items()}, max(1, len(result.train) // 30))


def draw_loss(layout, panels, out):
    figure, axes = new_figure(len(panels))
    validated = shown = False
    lines = set()
    for axis, (title, rows) in zip(axes, panels):
        drawn = []
        for row in rows:
            style = layout.styles[layout.line_of(row)]
            curves = [loss_curve(result) for result in row.results if result.train]
            validated |= any(len(result.val) >= 3 for result in row.results)
            points = draw_line(axis, curves, style)
            drawn += [points] if points else []
            lines |= {layout.line_of(row)} if points else set()
        shown |= bool(drawn)
        limit_losses(
            axis,
            drawn,
            max([result.first_loss() for row in rows for result in row.results if result.train], default=0),
        )
        for row in rows:
            for result in row.results:
                draw_end(axis, result, layout.styles[layout.line_of(row)])
        axis.set_title(title or "loss", fontsize=10)
        axis.set_xlabel("step")
    axes[0].set_ylabel(("validation" if validated else "training") + " loss (nats per token)")
    legend(figure, layout, lines)
    if not shown:
        plt.close(figure)
        return None
    return save(figure, out, "loss.png")


def draw_end(axis, result, style):
    """A cross where a run ended with losses that are not finite: at the top if that loss is higher."""
    curve = (
        [(step, loss) for step, loss in loss_curve(result).items() if math.isfinite(loss)]
        if result.train
        else []
    )
    if result.state == "diverged" and curve:
        step, loss = max(curve)
        axis.plot(
            step,
            min(loss, axis.get_ylim()[1]),
            marker="x",
            color=style[0],
            markersize=8,
            markeredgewidth=2,
            clip_on=False,
        )


def limit_losses(axis, curves, first):
    """The first steps' losses would flatten everything else, as would those of a run that blows up: the axis
    holds what comes after the first fifth, up to the loss that training begins with."""
    late = []
    for points in curves:
        late += [loss for step, loss in points if step >= points[0][0] + 0.2 * (points[-1][0] - points[0][0])]
    top = min(max(late, default=0), 1.05 * first if first > 0 else math.inf)
    if len(late) > 3 and top > min(late):
        axis.set_ylim(min(late) - 0.04 * (top - min(late)), top + 0.04 * (top - min(late)))


def draw_final(layout, rows, out):
    """Final loss against each axis of three numbers or more (learning rate, layers)."""
    paths = []
    for name in layout.others:
        numbers = {row.labels[name]: number(row.labels[name]) for row in rows}
        if len(numbers) < 3 or None in numbers.values():
            continue
        figure, (axis,) = new_figure(1)
        lines = set()
        rest = [other for other in layout.others if other != name]
        for key in dict.fromkeys(
            (layout.line_of(row), *(row.labels[other] for other in rest)) for row in rows
        ):
            curves = [{}]
            for row in rows:
                if (layout.line_of(row), *(row.labels[other] for other in rest)) == key:
                    for i, loss in enumerate(row.final_val or row.train):
                        curves += [{}] * (i + 1 - len(curves))
                        curves[i] = dict(curves[i], **{row.labels[name]: loss})
            curves = [{float(numbers[label]): loss for label, loss in curve.items()} for curve in curves]
            if draw_line(axis, curves, layout.styles[key[0]], MARKERS[0]):
                lines.add(key[0])
        values = sorted(float(value) for value in numbers.values())
        if values[0] > 0 and values[-1] >= 4 * values[0]:
            axis.set_xscale("log")
            axis.xaxis.set_minor_locator(ticker.NullLocator())
        axis.xaxis.set_major_locator(ticker.FixedLocator(values))
        axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.set_xlabel(name)
        axis.set_ylabel("final loss (nats per token)")
        legend(figure, layout, lines)
        if lines:
            paths.append(save(figure, out, "final-by-%s.png" % name))
        else:
            plt.close(figure)
    return paths


def by_layer(result, field):
    """{layer: value} of the last statistics."""
    if not result.stats:
        return {}
    layers = result.stats[max(result.stats)]
    return {
        layer["layer"]: layer[field]
        for layer in layers
        if usable(layer.get(field)) and usable(layer.get("layer"))
    }


def usable(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def draw_residual(layout, panels, out):
    """The residual's rms by layer at the end of training."""
    figure, axes = new_figure(len(panels))
    lines = set()
    for axis, (title, rows) in zip(axes, panels):
        drawn = []
        for row in rows:
            curves = [
                curve for curve in (by_layer(result, "residual_rms") for result in row.results) if curve
            ]
            points = draw_line(axis, curves, layout.styles[layout.line_of(row)], MARKERS[0])
            drawn += [value for _, value in points]
            lines |= {layout.line_of(row)} if points else set()
        log_axis(axis, drawn)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axis.set_title(title or "residual after each block, last statistics", fontsize=10)
        axis.set_xlabel("layer")
    axes[0].set_ylabel("residual rms")
    legend(figure, layout, lines)
    if not lines:
        plt.close(figure)
        return None
    return save(figure, out, "residual.png")


def layers_over_time(row, field):
    """{(layer, i): [{step: value} of each run]}; i counts the values of a layer that has several."""
    curves = {}
    for number_of_run, result in enumerate(row.results):
        for step, layers in result.stats.items():
            for layer in layers:
                values = layer.get(field)
                for i, value in enumerate(values if isinstance(values, list) else [values]):
                    if usable(value) and usable(layer.get("layer")):
                        runs = curves.setdefault((layer["layer"], i), [{} for _ in row.results])
                        runs[number_of_run][step] = value
    return curves


def draw_over_time(layout, rows, field, name, ylabel, out):
    """A panel a row, a line a layer, from dark (first) to light (last): the mean over the seeds.

    A layer's second value is dashed."""
    found = [(row, curves) for row, curves in ((row, layers_over_time(row, field)) for row in rows) if curves]
    if not found:
        return None, 0
    figure, axes = new_figure(min(len(found), MOST_PANELS))
    for axis, (row, curves) in zip(axes, found):
        last, drawn = max(layer for layer, _ in curves) or 1, []
        for (layer, i), runs in sorted(curves.items()):
            color = plt.get_cmap("viridis")(0.92 * layer / last)
            points = draw_line(axis, runs, (color, DASHES[i % len(DASHES)]), band=False)
            drawn += [value for _, value in points]
        if field == "residual_rms":
            log_axis(axis, drawn)
        axis.set_title(title_of(row, row.labels) or "each layer", fontsize=10)
        axis.set_xlabel("step")
    several = any(i > 0 for _, curves in found for _, i in curves)
    axes[0].set_ylabel(ylabel + (" (dashed: the MLP's)" if several else ""))
    color_bar(figure, axes, max(max(layer for layer, _ in curves) for _, curves in found))
    return save(figure, out, name), len(found) - len(axes)


def color_bar(figure, axes, last):
    scale = matplotlib.colors.LinearSegmentedColormap.from_list(
        "layers", [plt.get_cmap("viridis")(0.92 * i / 20) for i in range(21)]
    )
    bar = figure.colorbar(
        plt.cm.ScalarMappable(plt.Normalize(0, 1), scale), ax=axes, shrink=0.6, pad=0.02, aspect=30
    )
    bar.set_ticks([0, 1], labels=["first", "last layer" if last else "layer"])
    bar.outline.set_visible(False)


def draw(plan, rows, out):
    """Writes what there is data for. Returns the paths, and a note for each figure that left panels out."""
    layout = Layout(plan, rows)
    panels = list(layout.panels.items())
    notes = []
    if len(panels) > MOST_PANELS:
        notes.append(
            "%d of %d panels are left out of the plots: --only narrows"
            % (len(panels) - MOST_PANELS, len(panels))
        )
        panels = panels[:MOST_PANELS]
    paths = [
        draw_loss(layout, panels, out),
        draw_residual(layout, panels, out),
        *draw_final(layout, rows, out),
    ]
    for field, name, ylabel in OVER_TIME:
        path, left_out = draw_over_time(layout, rows, field, name, ylabel, out)
        paths.append(path)
        if left_out:
            notes.append("%s: %d rows are left out: --only narrows" % (name, left_out))
    return [path for path in paths if path], notes
