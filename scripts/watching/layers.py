"""layers.png: the statistics of the layers as lines: one run's over the steps, a line a layer; several runs' by layer, a
line a run, as they were last. Needs matplotlib."""

import math

import picture
from watching.curves import style
from watching.fields import held


def draw(runs, names, title, out):
    fields = held(runs, names)
    dashed = any(i > 0 for run in runs for field in fields for _, i in run.result.layers(field.name))
    notes = ["Solid: the attention's, dashed: the MLP's."] if dashed else []
    notes += ["The last statistics of each run: %s." % ", ".join("%s at step %d" % (run.label, max(run.result.stats))
                                                              for run in runs)] if len(runs) > 1 else []  # fmt: skip
    figure, axes = picture.new_figure(len(fields), title, " ".join(notes), share_y=False)
    for axis, field in zip(axes, fields):
        draw_one = draw_over_steps if len(runs) == 1 else draw_by_layer
        values, lines = draw_one(axis, runs, field.name)
        picture.scale_y([axis], values, lambda scale: "%s scale" % scale, 4 if field.spreads else math.inf)
        axis.set_ylabel("%s scale" % axis.get_yscale())
        axis.set_title(field.title, fontsize=10)
        for points, name, color in lines:
            beyond = picture.leaves_at(axis, points)
            if beyond is None and name:
                picture.name_end(axis, points[-1], name, color)
            elif beyond is not None:
                picture.mark_beyond(axis, beyond, color)
                picture.name_beyond(axis, name, color)
        axis.set_xlabel("step" if len(runs) == 1 else "layer")
        picture.integers(axis)
    if len(runs) == 1:
        layers = [layer for field in fields for layer, _ in runs[0].result.layers(field.name)]
        picture.layers_bar(figure, axes, [max(layers)])
    picture.save(figure, out)


def draw_over_steps(axis, runs, field):
    """(values that set the scale: of steps whose loss is none that is lost; no names)."""
    curves, sound = runs[0].result.layers(field), runs[0].sound_steps()
    last = max(layer for layer, _ in curves)
    for (layer, i), points in sorted(curves.items()):
        axis.plot(*zip(*sorted(points.items())), color=picture.layer_color(layer, last), linestyle=picture.DASHES[i % 2],
                  linewidth=1.4, marker="." if len(points) < 3 else None)  # fmt: skip
    values = [(step, value) for points in curves.values() for step, value in points.items()]
    return [value for step, value in values if step in sound] or [value for _, value in values], []


def draw_by_layer(axis, runs, field):
    """(values that set the scale: of runs that did not diverge, if there is one; [(points, name, color)])."""
    values, lines = [], []
    for number, run in enumerate(runs):
        color = style(number)[0]
        for i in (0, 1):
            points = sorted(run.result.by_layer(field, i).items())
            if not points:
                continue
            axis.plot(*zip(*points), color=color, linestyle=picture.DASHES[i], linewidth=1.6, marker="o", markersize=4,
                      markerfacecolor="white", markeredgewidth=1.2)  # fmt: skip
            values += [(run, value) for _, value in points]
            diverged = " (diverged)" if run.result.state == "diverged" else ""
            lines += [(points, run.label + diverged, color)] if i == 0 else []
    sound = [value for run, value in values if run.result.state != "diverged"]
    return sound or [value for _, value in values], lines
