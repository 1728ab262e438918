"""loss.png: the loss of training and validation, large; under it learning rate, gradient norm and throughput. Needs
matplotlib."""

import math

import picture
from watching.runs import thin

BELOW = [  # the small panels: series, name, whether small and large values both count
    ("lr", "learning rate", True),
    ("grad_norm", "gradient norm", True),
    ("tokens_per_s", "tokens a second", False),
]
MOST_VALIDATIONS = 400
WARM_STEPS = 2  # whose throughput is that of first touches


def style(number):
    """Color and dashes of a run: as many as there are colors, then dashed."""
    count = len(picture.COLORS)
    return picture.COLORS[number % count], picture.DASHES[number // count % len(picture.DASHES)]


def loss_limits(runs, floor):
    """(lowest, highest) that the axis holds. What is over the losses that training begins with, as those of a run that
    blows up, sets no scale."""
    tops = [run.highest() for run in runs if run.result.train]
    values = [
        value
        for run in runs
        for value in [*run.series("loss").values(), *run.result.val.values()]
        if math.isfinite(value)
    ]
    top = max(filter(math.isfinite, tops), default=max(values))
    values = [value for value in values if value <= top] + ([floor] if floor is not None else [])
    return min(values), max(values)


def draw(runs, floor, title, out):
    states = [(run.label + ": " if len(runs) > 1 else "") + run.state() for run in runs if run.state()]
    skipped = sum(len(run.result.skipped) for run in runs)
    notes = ["Pale: each step; line: its running mean."] + (["%s." % "; ".join(states)] if states else [])
    notes += ["Dashed, ○: validation."] if len(runs) > 1 and any(run.result.val for run in runs) else []
    notes += ["▾ skipped steps: %d." % skipped] if skipped else []
    below = [
        row
        for row in BELOW
        if any(map(math.isfinite, (value for run in runs for value in run.series(row[0]).values())))
    ]
    figure, axes = picture.new_figure_over(len(below), title, " ".join(notes))
    axis = axes[0]
    picture.scale_y([axis], [], lambda scale: "loss (nats per token, %s scale)" % scale, 3, *loss_limits(runs, floor))
    for i, run in enumerate(runs):
        color = style(i)[0]
        draw_run(
            axis, run, style(i), color if len(runs) > 1 else picture.COLORS[1], run.label + " " if len(runs) > 1 else ""
        )
    if floor is not None:
        axis.axhline(floor, color=picture.DARK, linewidth=1.2, linestyle=":")
        picture.name_end(axis, (max(axis.get_xlim()), floor), "floor %.3f" % floor, picture.DARK)
    axis.set_xlabel("step")
    picture.integers(axis)
    for small, row in zip(axes[1:], below):
        draw_series(small, runs, *row)
        small.set_xlim(axis.get_xlim())
    picture.save(figure, out)


def draw_run(axis, run, look, val_color, prefix):
    color, dashes = look
    curve, val = thin(run.series("loss")), {step: loss for step, loss in run.result.val.items() if math.isfinite(loss)}
    top = max(axis.get_ylim())
    if curve.steps:
        averaged = picture.smooth(dict(curve.points()), max(1, len(curve.steps) // 50))
        draw_pale(axis, curve, color)
        axis.plot(*zip(*sorted(averaged.items())), color=color, linestyle=dashes, linewidth=1.6)
        ends = [(step, loss) for step, loss in sorted(averaged.items()) if math.isfinite(loss)]
        name_curve(axis, run, ends, "%strain" % prefix, color)
    if val:
        points = thin(val, MOST_VALIDATIONS).points()
        axis.plot(*zip(*points), color=val_color, linestyle="--", linewidth=1.2, marker="o", markersize=5,
                  markerfacecolor="white", markeredgewidth=1.4, markevery=-(-len(points) // 40))  # fmt: skip
        for step, loss in points:
            if loss > top:
                picture.mark_beyond(axis, step, val_color)
        picture.name_end(axis, points[-1], "%svalidation %.3f" % (prefix, points[-1][1]), val_color)
    for step in run.result.skipped:
        axis.plot([step], [0], transform=axis.get_xaxis_transform(), marker="v", markersize=6, color=color, clip_on=False,
                  linestyle="none")  # fmt: skip


def draw_pale(axis, curve, color):
    """What each step had: a line, or, where a point stands for several of them, all that lies between their extremes."""
    if curve.thinned:
        axis.fill_between(curve.steps, curve.low, curve.high, color=color, alpha=0.25, linewidth=0)
    else:
        axis.plot(curve.steps, curve.mean, color=color, alpha=0.25, linewidth=0.8)


def name_curve(axis, run, points, text, color):
    """The name at a training curve's end; where it left the picture, or stopped for want of numbers, a mark."""
    if not points:
        return
    beyond, diverged = picture.leaves_at(axis, points), run.result.state == "diverged"
    if beyond is not None:
        picture.mark_beyond(axis, beyond, color)
        picture.name_beyond(axis, "%s %s" % (text, run.state() or "%.3g" % points[-1][1]), color)
        return
    if diverged:
        picture.mark_end(axis, points[-1], color)
    picture.name_end(axis, points[-1], "%s %s" % (text, run.state() if diverged else "%.3f" % points[-1][1]), color)


def draw_series(axis, runs, name, title, spreads):
    shown = []
    for i, run in enumerate(runs):
        series, sound = run.series(name), run.sound_steps()
        first = sorted(series)[: WARM_STEPS if name == "tokens_per_s" and len(series) > 10 else 0]
        series = {step: value for step, value in series.items() if step not in first}
        color, dashes = style(i)
        curve = thin(series, 600)
        draw_pale(axis, curve, color)
        averaged = picture.smooth(dict(curve.points()), 1 if name == "lr" else max(1, len(curve.steps) // 50))
        axis.plot(*zip(*sorted(averaged.items())), color=color, linestyle=dashes, linewidth=1.2)
        shown += most_of([value for step, value in series.items() if step in sound and math.isfinite(value)], spreads)
    if name == "tokens_per_s":
        shown.append(0)
    picture.scale_y([axis], shown, lambda scale: "", 10 if spreads and min(shown, default=0) > 0 else math.inf)
    axis.set_title(title, fontsize=10)
    axis.set_ylabel("%s scale" % axis.get_yscale())
    axis.set_xlabel("step")
    axis.tick_params(labelsize=8)
    picture.integers(axis)


def most_of(values, spreads):
    """Without a linear scale's few extremes: a machine that slept a minute, or a clock that jumped."""
    values = sorted(values)
    cut = 0 if spreads else len(values) // 200
    return values[cut : len(values) - cut]
