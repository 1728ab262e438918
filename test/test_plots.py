"""What do the pictures of plot.py and of a sweep show? Judged by the figures' data, never by their pixels: every point within
the axes, panels alike, no name over another, what diverged at the edge and named. Skipped where matplotlib is missing."""
import itertools
import json
import os
import re
import sys
from pathlib import Path

import pytest

from program import run_script

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import plot  # noqa: E402
from sweeps import grid as grids  # noqa: E402
from sweeps import metrics, table  # noqa: E402


@pytest.fixture
def figures(monkeypatch):
    """{file name: figure}, laid out as it would be saved, of what is drawn in this test."""
    pytest.importorskip("matplotlib")
    import picture

    kept = {}

    def save(figure, path):
        for axis in figure.axes:
            picture.place_labels(figure, axis)
        figure.canvas.draw()
        kept[os.path.basename(path)] = figure
        return path

    monkeypatch.setattr(picture, "save", save)
    yield kept
    picture.plt.close("all")


def lines_of(train, val=(), steps=None, diverged=None, stats=()):
    """metrics.jsonl of a run: losses by step from 1, [(step, loss)], [(step, [layer's fields])]."""
    steps = steps or len(train)
    yield {"type": "event", "event": "start", "step": 0, "flags": {"steps": steps}}
    for step, loss in enumerate(train, 1):
        yield {"type": "train", "step": step, "loss": loss, "lr": 1e-3, "ms": 1.0, "tokens_per_s": 1.0}
        yield from ({"type": "val", "step": at, "loss": value} for at, value in val if at == step)
        for at, layers in stats:
            if at == step:
                yield {"type": "stats", "step": at, "layers": [{"layer": i, **layer} for i, layer in enumerate(layers)]}
    if diverged:
        yield {"type": "event", "event": "diverged", "step": diverged}
    elif len(train) == steps:
        yield {"type": "event", "event": "end", "step": steps, "reason": "all steps done"}


def write(folder, *lines, tail="", **more):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines_of(*lines, **more)) + tail
    (folder / "metrics.jsonl").write_text(text)
    return folder


def falling(first, last, steps=120):
    return [last + (first - last) * 0.95**step for step in range(steps)]


def names(axis):
    return [text for text in axis.texts if text.get_gid() == "end"]


def panels(figure):
    return [axis for axis in figure.axes if axis.axison and axis.get_label() != "<colorbar>"]


def assert_readable(figure):
    """No name over another or over a title, in the whole figure; none outside it."""
    import picture

    texts = [text for axis in panels(figure) for text in [*names(axis), axis.title] if text.get_text()]
    boxes = [(text.get_text(), picture.box_of(text)) for text in texts]
    for (a, box), (b, other) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other), f"{a!r} over {b!r}"
    width, height = figure.canvas.get_width_height()
    for text, box in boxes:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    for axis in panels(figure):
        for text in names(axis):
            assert picture.box_of(text).x0 >= axis.get_window_extent().x1, "a name over the lines"


def triangles(axis):
    return [line for line in axis.lines if line.get_marker() == "^"]


# ------------------------------------------------------------------------------------------------- a sweep's

VARIANTS = ["pre", "pre+gpas", "post", "sandwich"]


@pytest.fixture
def a_sweep(tmp_path, figures):
    """draw(runs): {(variant, lr): how its metrics are written} → the figures."""
    from sweeps import plots

    def draw(runs):
        variants, rates = [list(dict.fromkeys(key[i] for key in runs)) for i in (0, 1)]
        text = "[flags]\nsteps = 120\n[grid]\nlr = %s\n" % ", ".join(rates)
        text += "".join("[variant %s]\nn-layer = %d\n" % (name, i + 1) for i, name in enumerate(variants))
        (tmp_path / "g.ini").write_text(text)
        plan = grids.expand(grids.read(str(tmp_path / "g.ini")))
        for one in plan.runs:
            write(tmp_path / one.name, **runs[one.labels["variant"], one.labels["lr"]])
        results = {one.name: metrics.read(str(tmp_path / one.name)) for one in plan.runs}
        plots.draw(plan, table.rows_of(plan, results, {}), str(tmp_path))
        return figures

    return draw


def write_val(first, last):
    return {"train": falling(5.5, last), "val": [(40, first), (80, (first + 2 * last) / 3), (120, last)]}


def test_a_sweep_shows_every_validation_point_in_panels_alike(a_sweep):
    runs = {(name, lr): write_val(3.1 - 0.2 * i, 2.6 - 0.1 * i - 0.3 * j)
            for i, name in enumerate(VARIANTS) for j, lr in enumerate(("0.001", "0.003"))}  # fmt: skip
    figure = a_sweep(runs)["loss.png"]
    assert len(panels(figure)) == 2
    low, high = panels(figure)[0].get_ylim()
    for axis in panels(figure):
        assert axis.get_ylim() == (low, high) and axis.get_xlim() == panels(figure)[0].get_xlim()
        assert axis.get_yscale() == "linear" and len(axis.lines) == len(VARIANTS)
        for line in axis.lines:
            assert list(line.get_xdata()) == [40, 80, 120] and all(low < loss < high for loss in line.get_ydata())
    assert panels(figure)[0].get_ylabel() == "validation loss (nats per token, linear scale)"
    assert {text.get_text().split()[0] for text in names(panels(figure)[0])} == set(VARIANTS)
    assert_readable(figure)


def test_a_run_that_diverges_sets_no_scale_and_is_named_at_the_edge(a_sweep):
    runs = {(name, lr): write_val(3.1, 2.6) for name in ("pre", "post") for lr in ("0.001", "0.003")}
    wild = {"train": [5.5] + [10.0**n for n in range(1, 12)], "steps": 120, "diverged": 12,
            "stats": [(10, [{"residual_rms": 1e30}, {"residual_rms": 1e31}])]}  # fmt: skip
    runs |= {("pre", "50"): wild, ("post", "50"): wild}
    calm = [(120, [{"residual_rms": 1.0}, {"residual_rms": 2.0}])]
    runs["pre", "0.001"]["stats"] = runs["post", "0.001"]["stats"] = calm
    found = a_sweep(runs)
    for name in ("loss.png", "final-by-lr.png", "residual.png", "residual-over-time.png"):
        figure = found[name]
        assert len({axis.get_ylim() for axis in panels(figure)}) == 1 and panels(figure)[0].get_ylim()[1] < 4, name
        marked = [axis for axis in panels(figure) if triangles(axis)]
        assert marked, name
        for axis in marked:
            for mark in triangles(axis):  # at the upper edge, whatever the scale
                assert mark.get_ydata()[0] == 1 and mark.get_transform() == axis.get_xaxis_transform()
        assert_readable(figure)
    edge = [text.get_text() for axis in panels(found["loss.png"]) if triangles(axis) for text in names(axis)]
    assert sorted(edge) == ["▲ post diverged (step 12)", "▲ pre diverged (step 12)"]


def test_runs_that_diverged_before_a_validation_hide_none_of_the_others(a_sweep):
    runs = {(name, "0.001"): write_val(3.1, 2.6) for name in ("pre", "post")}
    wild = {"train": [5.5] + [10.0**n for n in range(1, 12)], "steps": 120, "diverged": 12}
    runs |= {(name, lr): wild for name in ("pre", "post") for lr in ("50", "60")}
    found = panels(a_sweep(runs)["loss.png"])
    assert found[0].get_ylabel().startswith("validation loss")
    assert [list(line.get_xdata()) for line in found[0].lines] == [[40, 80, 120]] * 2


def test_a_run_that_diverges_within_the_picture_ends_at_a_cross(a_sweep):
    figure = a_sweep({("pre", "0.001"): write_val(3.1, 2.6), ("post", "0.001"): {
        "train": falling(5.5, 3.0, 60), "val": [(40, 2.9), (60, 3.0)], "steps": 120, "diverged": 60}})["loss.png"]  # fmt: skip
    (axis,) = panels(figure)
    assert not triangles(axis) and any(line.get_marker() == "x" for line in axis.lines)  # it ends within the picture
    assert any("post diverged (step 60)" in text.get_text() for text in names(axis))


def test_names_of_lines_that_end_together_are_moved_apart(a_sweep):
    ends = [2.902, 2.899, 2.901, 2.9, 2.9, 2.898]
    runs = {("v%d" % i, "0.001"): write_val(3.5, end) for i, end in enumerate(ends)}
    assert_readable(a_sweep(runs)["loss.png"])


def test_names_keep_their_order_and_stay_within_the_panel():
    pytest.importorskip("matplotlib")
    from picture import spread

    for wanted in ([0, 0, 0], [0, 5, 100], [95, 96, 97, 100], [50] * 8):
        middles = spread(wanted, [10] * len(wanted), 0, 100)
        assert all(b - a >= 10 - 1e-9 for a, b in zip(middles, middles[1:])) and 5 <= middles[0] and middles[-1] <= 95
    assert spread([20, 60], [10, 10], 0, 100) == [20, 60]


# --------------------------------------------------------------------------------------------------- plot.py's

LAYERS = [{"residual_rms": 1.0 + layer, "gate": [0.1, 0.2], "lambda": [2.0], "cosine": None if layer == 2 else 0.5} for layer in range(3)]


def draw(*arguments):
    return plot.draw(plot.parse_arguments([str(argument) for argument in arguments]))


def test_losses_that_end_together_have_names_apart_and_a_scale_that_is_said(tmp_path, figures):
    draw(write(tmp_path / "a", falling(5.5, 2.899), [(40, 3.3), (80, 3.0), (120, 2.902)]))
    (axis,) = panels(figures["loss.png"])
    assert {text.get_text().split()[0] for text in names(axis)} == {"train", "validation"}
    assert axis.get_ylabel() == "loss (nats per token, linear scale)" and axis.get_xlabel() == "step"
    assert_readable(figures["loss.png"])
    draw(write(tmp_path / "b", falling(5.5, 0.5)), "--floor", 0.48)
    (axis,) = panels(figures["loss.png"])
    assert axis.get_ylabel() == "loss (nats per token, log scale)" and axis.get_ylim()[0] < 0.48
    assert_readable(figures["loss.png"])


def test_a_run_that_blows_up_beside_others_is_cut_at_the_edge(tmp_path, figures):
    calm = write(tmp_path / "calm", falling(5.5, 2.9), [(120, 2.9)])
    wild = write(tmp_path / "wild", [5.5] + [10.0**n for n in range(1, 12)], steps=120, diverged=12)
    draw(calm, wild)
    (axis,) = panels(figures["loss.png"])
    assert axis.get_ylim()[1] < 6 and triangles(axis)
    assert any(text.get_text() == "▲ wild train diverged at step 12" for text in names(axis))
    assert_readable(figures["loss.png"])


def test_a_file_that_is_growing_with_skips_and_numbers_that_are_none_is_drawn_as_far_as_it_goes(tmp_path, figures, capsys):
    losses = falling(5.5, 3.0, 50)
    losses[20] = None
    folder = write(tmp_path / "run", losses, [(40, 3.4)], steps=100,
                   tail='{"type":"event","event":"skip","step":21,"reason":"x"}\n{"type":"tra')  # fmt: skip
    draw(folder)
    figure = figures["loss.png"]
    (axis,) = panels(figure)
    assert sum(line.get_marker() == "v" for line in axis.lines) == 1
    assert "step 50 of 100" in figure._supxlabel.get_text() and capsys.readouterr().err == ""
    broken = (folder / "metrics.jsonl").read_text().replace('"type": "val"', '"type" "val"')
    (folder / "metrics.jsonl").write_text(broken)
    draw(folder)
    assert re.fullmatch(r"plot\.py: [^\n]*passed over 1 of its lines[^\n]*line 42\)\n", capsys.readouterr().err)


def test_statistics_of_a_run_are_drawn_over_the_steps_and_of_several_by_layer(tmp_path, figures):
    stats = [(10, LAYERS), (20, LAYERS)]
    first = write(tmp_path / "first", falling(5.5, 3.0, 30), stats=stats)
    assert [os.path.basename(path) for path in draw(first)] == ["loss.png", "layers.png"]
    found = {axis.get_title(): axis for axis in panels(figures["layers.png"])}
    assert list(found) == ["residual rms", "GPAS gate g", "BHyT λ", "cosine of the stream before and after"]
    assert [len(axis.lines) for axis in found.values()] == [3, 6, 3, 2]
    assert all(axis.get_xlabel() == "step" and axis.get_ylabel() in ("log scale", "linear scale") for axis in found.values())
    second = write(tmp_path / "second", falling(5.5, 3.0, 30), stats=[(10, LAYERS)])
    draw(first, second)
    residual = panels(figures["layers.png"])[0]
    assert [list(line.get_xdata()) for line in residual.lines] == [[0, 1, 2]] * 2 and residual.get_xlabel() == "layer"
    assert_readable(figures["layers.png"])


def test_pictures_lie_next_to_the_run_or_where_out_says_and_that_is_said(tmp_path):
    pytest.importorskip("matplotlib")
    run = write(tmp_path / "runs/a", falling(5.5, 3.0, 30), stats=[(10, LAYERS)])
    done = run_script("scripts/plot.py", "runs/a", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "wrote runs/a/loss.png\nwrote runs/a/layers.png\n"), done.stderr
    for name in ("loss.png", "layers.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    done = run_script("scripts/plot.py", run / "metrics.jsonl", "--out", tmp_path / "b.svg")
    assert done.stdout == f"wrote {tmp_path}/b.svg\nwrote {tmp_path}/b-layers.svg\n" and "<svg" in (tmp_path / "b.svg").read_text()


@pytest.mark.parametrize("out, says", [("none/x.png", "No such file"), ("/dev/null/x.png", "Not a directory"), ("x.nonsense", "nonsense")])
def test_a_picture_that_cannot_be_written_is_one_line(tmp_path, out, says):
    pytest.importorskip("matplotlib")
    write(tmp_path / "a", falling(5.5, 3.0, 30))
    done = run_script("scripts/plot.py", "a", "--out", out, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and re.fullmatch(r"plot\.py: [^\n]+\n", done.stderr), done.stderr
    assert says in done.stderr


def test_what_holds_no_losses_and_a_missing_matplotlib_are_one_line(tmp_path):
    write(tmp_path / "a", falling(5.5, 3.0, 30))
    (tmp_path / "empty.jsonl").write_text('{"type":"event"}\n')
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    for name, says in (("empty.jsonl", "holds no losses (line 1"), ("none.jsonl", "No such file"), ("a", "matplotlib is missing: apt install")):
        done = run_script("scripts/plot.py", name, cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(tmp_path)))
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
