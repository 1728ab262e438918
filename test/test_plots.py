"""What do the pictures of plot.py and of a sweep show? Judged by the figures' data, never by their pixels: every point within
the axes, panels alike, no name over another, what diverged at the edge and named. Skipped where matplotlib is missing."""
import itertools
import math
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from program import run_script
from running import LAYERS, falling, lines_of, text_of, write

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
        picture.place_labels(figure)
        figure.canvas.draw()
        kept[os.path.basename(path)] = figure
        return path

    monkeypatch.setattr(picture, "save", save)
    yield kept
    picture.plt.close("all")


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


@pytest.mark.parametrize("layers, marked", [(3, 3), (12, 12), (13, 7), (48, 12)])
def test_a_line_of_many_layers_shows_between_its_marks_whether_it_is_dashed(a_sweep, layers, marked):
    stats = [(120, LAYERS[:1] * layers)]
    runs = {(name, "0.001"): {"train": falling(5.5, 3.0), "stats": stats} for name in ("pre", "pre+gpas")}
    lines = panels(a_sweep(runs)["residual.png"])[0].lines
    assert [len(line.get_xdata()) for line in lines] == [layers] * 2
    assert [len(range(0, layers, line.get_markevery())) for line in lines] == [marked] * 2


@pytest.mark.parametrize("more, said", [(1, "1 row is left out: --only narrows"), (2, "2 rows are left out: --only narrows")])
def test_how_many_are_left_out_is_said_in_grammar(a_sweep, monkeypatch, more, said):
    from sweeps import plots

    monkeypatch.setattr(plots, "MOST_PANELS", 3 - more)
    draw_all, notes = plots.draw, []
    monkeypatch.setattr(plots, "draw", lambda *what: notes.extend(draw_all(*what)[1]))
    a_sweep({(name, "0.001"): {"train": falling(5.5, 3.0), "stats": [(120, LAYERS)]} for name in VARIANTS[:3]})
    assert "residual-over-time.png: " + said in notes


# --------------------------------------------------------------------------------------------------- plot.py's

def draw(*arguments):
    return plot.draw(plot.parse_arguments([str(argument) for argument in arguments]))


def test_losses_that_end_together_have_names_apart_and_a_scale_that_is_said(tmp_path, figures):
    draw(write(tmp_path / "a", falling(5.5, 2.899), [(40, 3.3), (80, 3.0), (120, 2.902)]))
    axis = panels(figures["loss.png"])[0]
    assert {text.get_text().split()[0] for text in names(axis)} == {"train", "validation"}
    assert axis.get_ylabel() == "loss (nats per token, linear scale)" and axis.get_xlabel() == "step"
    assert_readable(figures["loss.png"])
    draw(write(tmp_path / "b", falling(5.5, 0.5)), "--floor", 0.48)
    axis = panels(figures["loss.png"])[0]
    assert axis.get_ylabel() == "loss (nats per token, log scale)" and axis.get_ylim()[0] < 0.48
    assert_readable(figures["loss.png"])


def test_a_run_that_blows_up_beside_others_is_cut_at_the_edge(tmp_path, figures):
    calm = write(tmp_path / "calm", falling(5.5, 2.9), [(120, 2.9)])
    wild = write(tmp_path / "wild", [5.5] + [10.0**n for n in range(1, 12)], steps=120, diverged=12)
    draw(calm, wild)
    axis = panels(figures["loss.png"])[0]
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
    axis = panels(figure)[0]
    assert sum(line.get_marker() == "v" for line in axis.lines) == 1
    assert "step 50 of 100" in figure._supxlabel.get_text() and capsys.readouterr().err == ""
    broken = (folder / "metrics.jsonl").read_text().replace('"type": "val"', '"type" "val"')
    (folder / "metrics.jsonl").write_text(broken)
    draw(folder)
    assert re.fullmatch(r"plot\.py: [^\n]*passed over 1 of its lines[^\n]*line 42\)\n", capsys.readouterr().err)


def test_statistics_of_a_run_are_drawn_over_the_steps_and_of_several_by_layer(tmp_path, figures):
    stats = [(10, LAYERS), (20, LAYERS)]
    first = write(tmp_path / "first", falling(5.5, 3.0, 30), stats=stats)
    assert [os.path.basename(path) for path in draw(first, "--only", "layers")] == ["layers.png"]
    found = {axis.get_title(): axis for axis in panels(figures["layers.png"])}
    assert list(found) == ["residual rms", "GPAS gate g", "BHyT λ", "cosine of the stream before and after"]
    assert [len(axis.lines) for axis in found.values()] == [3, 6, 3, 2]
    assert all(axis.get_xlabel() == "step" and axis.get_ylabel() in ("log scale", "linear scale") for axis in found.values())
    second = write(tmp_path / "second", falling(5.5, 3.0, 30), stats=[(10, LAYERS)])
    draw(first, second, "--only", "layers")
    residual = panels(figures["layers.png"])[0]
    assert [list(line.get_xdata()) for line in residual.lines] == [[0, 1, 2]] * 2 and residual.get_xlabel() == "layer"
    assert_readable(figures["layers.png"])


def test_a_picture_of_some_of_the_runs_says_so(tmp_path, figures, capsys):
    kept = write(tmp_path / "kept", falling(5.5, 3.0, 30), stats=[(10, LAYERS), (20, LAYERS)])
    plain = [write(tmp_path / name, falling(5.5, 3.0, 30)) for name in ("plain", "other")]
    draw(kept, *plain)
    titles = {name: figure._suptitle.get_text() for name, figure in figures.items()}
    assert titles == {"loss.png": "Training of 3 runs", "layers.png": "Training of kept: layers", "heat.png": "Training of kept: layers"}
    assert re.fullmatch(r"plot\.py: [^\n]*--stats-every\): plain, other\n", capsys.readouterr().err)
    draw(kept, *plain, "--only", "loss")
    draw(*plain)
    assert capsys.readouterr().err == ""


def test_pictures_lie_next_to_the_run_or_where_out_says_and_that_is_said(tmp_path):
    pytest.importorskip("matplotlib")
    run = write(tmp_path / "runs/a", falling(5.5, 3.0, 30), stats=[(10, LAYERS)])
    done = run_script("scripts/plot.py", "runs/a", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "".join(f"wrote runs/a/{name}.png\n" for name in plot.PICTURES)), done.stderr
    for name in ("loss.png", "layers.png", "heat.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    done = run_script("scripts/plot.py", run / "metrics.jsonl", "--out", tmp_path / "b.svg", "--only", "loss,heat", "--fields", "gate")
    assert done.stdout == "".join(f"wrote {tmp_path}/b{name}.svg\n" for name in ("", "-heat"))
    assert "<svg" in (tmp_path / "b.svg").read_text()
    assert not [path for path in [*tmp_path.iterdir(), *run.iterdir()] if path.name.startswith(".")]


def heat_of(figure, title):
    (axis,) = [axis for axis in panels(figure) if axis.get_title() == title]
    (mesh,) = axis.collections
    return axis, mesh, mesh.get_array().filled(math.nan)


def test_the_loss_stands_over_learning_rate_gradient_norm_and_throughput(tmp_path, figures):
    draw(write(tmp_path / "a", falling(5.5, 2.9)), write(tmp_path / "b", falling(5.5, 2.8, 60), steps=120))
    first, *below = panels(figures["loss.png"])
    assert first.get_ylabel().startswith("loss") and [axis.get_title() for axis in below] == ["learning rate", "gradient norm", "tokens a second"]
    assert below[0].get_yscale() == "log" and "log scale" == below[0].get_ylabel()
    for axis in below:
        assert axis.get_xlim() == first.get_xlim() and len({line.get_color() for line in axis.lines}) == 2
    assert below[2].get_ylim()[0] <= 0 and max(below[0].lines[0].get_ydata()) == 1e-3
    assert_readable(figures["loss.png"])


def test_a_map_has_the_layers_upward_and_the_steps_to_the_right(tmp_path, figures):
    stats = [(step, [{"residual_rms": float(step + layer), "gate": [layer, layer + 0.5], "cosine": None if layer else 0.5}
                     for layer in range(3)]) for step in (10, 20, 40)]  # fmt: skip
    draw(write(tmp_path / "a", falling(5.5, 3.0, 40), stats=stats), "--only", "heat")
    figure = figures["heat.png"]
    axis, mesh, values = heat_of(figure, "residual rms")
    assert values.tolist() == [[10, 20, 40], [11, 21, 41], [12, 22, 42]]
    assert mesh.norm.vmin == 10 and mesh.norm.vmax == 42 and type(mesh.norm).__name__ == "LogNorm"
    x = mesh.get_coordinates()[0, :, 0]
    assert list(x) == [5, 15, 30, 50] and axis.get_xlabel() == "step" and axis.get_ylabel() == "layer"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["0", "1", "2"] and axis.get_ylim() == (0, 3)
    for title, first in (("GPAS gate g, attention", 0), ("GPAS gate g, MLP", 0.5)):
        assert heat_of(figure, title)[2][:, 0].tolist() == [first, first + 1, first + 2]
        assert (heat_of(figure, title)[1].norm.vmin, heat_of(figure, title)[1].norm.vmax) == (0, 2.5)  # of both
    assert np.isnan(heat_of(figure, "cosine of the stream before and after")[2]).sum() == 6
    assert "Gray" in figure._supxlabel.get_text() and "Red" not in figure._supxlabel.get_text()


def test_maps_of_several_runs_have_one_scale_which_what_blew_up_does_not_set(tmp_path, figures):
    calm = write(tmp_path / "calm", falling(5.5, 2.9), stats=[(step, [{"residual_rms": 1.0}, {"residual_rms": 2.0}]) for step in (10, 20)])
    wild = write(tmp_path / "wild", [5.5, 5.0, 50.0, 1e30], steps=120, diverged=4,
                 stats=[(2, [{"residual_rms": 1.5}] * 2), (4, [{"residual_rms": 1e30}] * 2)])  # fmt: skip
    draw(calm, wild, "--only", "heat", "--fields", "residual_rms,gate")  # one of them is there
    maps = [heat_of(figures["heat.png"], title)[1] for title in ("calm", "wild")]
    assert {(one.norm.vmin, one.norm.vmax) for one in maps} == {(1.0, 2.0)}
    assert maps[1].get_array()[0][1] > maps[1].norm.vmax and "Red" in figures["heat.png"]._supxlabel.get_text()
    (ends,) = [axis for axis in panels(figures["heat.png"]) if axis.get_title() == "at the last statistics"]
    assert list(ends.lines[0].get_xdata()) == [1, 2] and list(ends.lines[0].get_ydata()) == [0.5, 1.5] and max(ends.get_xlim()) < 3


def test_a_step_that_was_done_twice_counts_as_it_was_done_last(tmp_path):
    """With the line that says so, and where that line was lost."""
    lines = [*lines_of(falling(5.5, 3.0, 30), [(30, 9.0)], steps=40)]
    for event in ([], [{"type": "event", "event": "resume", "step": 20, "flags": {"steps": 40}}]):
        more = [{"type": "train", "step": step, "loss": 1.0} for step in (21, 22)]
        (tmp_path / "metrics.jsonl").write_text(text_of([*lines, *event, *more]))
        result = metrics.read(str(tmp_path))
        assert sorted(result.train) == list(range(1, 23)) and result.train[21][0] == result.train[22][0] == 1.0 != result.train[20][0]
        assert result.val == {} and result.step == 22


def test_a_reader_takes_a_line_when_it_is_whole_and_a_file_that_is_another_anew(tmp_path):
    path, text = tmp_path / "metrics.jsonl", text_of(lines_of(falling(5.5, 3.0, 20), steps=40))
    reader, half = metrics.Reader(str(path)), len(text) // 2
    path.write_text(text[:half])
    assert reader.look() and 0 < len(reader.result.train) < 20 and not reader.look()
    path.write_text(text)  # the same file, longer
    assert reader.look() and len(reader.result.train) == 20 and reader.result.broken_lines == []
    path.write_text(text_of(lines_of([7.0], steps=40)))
    assert reader.look() and {step: record[0] for step, record in reader.result.train.items()} == {1: 7.0}


def test_what_is_hostile_in_a_file_is_passed_over(tmp_path, capsys):
    run = write(tmp_path / "a", falling(5.5, 3.0, 30), stats=[(10, LAYERS)])
    bad = ['{"type":"train","step":1e400,"loss":1}', '{"type":"train","step":-3,"loss":1}', '{"type":"train","step":%s,"loss":1}' % ("9" * 400),
           '{"type":"stats","step":20,"layers":[{"layer":0,"residual_rms":%s}]}' % ("9" * 400), "[" * 100000, "null", "\xff"]
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes() + "".join(line + "\n" for line in bad).encode("latin-1"))
    result = metrics.read(str(run))
    assert len(result.broken_lines) == len(bad) - 1 and len(result.train) == 30  # the statistics are a line, with no number in it
    assert plot.write_page(plot.parse_arguments([str(run), "--html", "--out", str(tmp_path / "x.html")]))
    assert "passed over" in capsys.readouterr().err


def test_a_run_of_days_is_drawn_in_seconds(tmp_path, figures):
    """A sixteenth of the million steps that TEST_ALL=1 has; a point then stands for many steps, with their extremes."""
    count = 1_000_000 if os.environ.get("TEST_ALL") else 62_500
    line = '{"type":"train","step":%d,"loss":%.4f,"lr":0.001,"grad_norm":1.0,"tokens":8192,"tokens_per_s":1e5,"ms":80.0}\n'
    with open(tmp_path / "metrics.jsonl", "w") as file:
        file.write(text_of([{"type": "event", "event": "start", "step": 0, "flags": {"steps": 2 * count}}]))
        file.writelines(line % (step, 9.0 if step == count // 2 else 2 + 3 / step) for step in range(1, count + 1))
    begun = time.process_time()
    draw(tmp_path / "metrics.jsonl")
    plot.write_page(plot.parse_arguments([str(tmp_path), "--html"]))
    assert time.process_time() - begun < (90 if count == 1_000_000 else 20)
    (band,) = panels(figures["loss.png"])[0].collections
    assert len(panels(figures["loss.png"])[0].lines[0].get_xdata()) <= 2000
    assert max(y for _, y in band.get_paths()[0].vertices) == 9.0, "a single step's peak is lost"
    assert (tmp_path / "plot.html").stat().st_size < 600_000


def test_runs_of_one_name_are_told_apart_and_names_are_text(tmp_path, figures):
    first, second = (write(tmp_path / name, falling(5.5, 3.0, 30)) for name in ("x/run", "y/run"))
    draw(first, second, "--only", "loss")
    assert {text.get_text().split()[0] for text in names(panels(figures["loss.png"])[0])} == {"x/run", "y/run"}
    draw(write(tmp_path / "$a_{$b\nc", falling(5.5, 3.0, 30)))
    assert figures["loss.png"]._suptitle.get_text() == "Training of $a_{$b?c"


@pytest.mark.parametrize("arguments, says", [
    (["--only", "loss,hat"], "'hat' is none of: loss, layers, heat"), (["--fields", "rms"], "'rms' is none of: residual_rms"),
    (["--labels", "a,b"], "2 names for 1 runs"), (["--only", "heat"], "holds statistics"), (["--follow"], "goes with --html"),
    (["--html", "--every", "5"], "with --follow"), (["--floor", "nan"], "not a finite number"), (["--html", "--only", "loss"], "has them all")])
def test_what_cannot_be_drawn_as_asked_is_one_line(tmp_path, arguments, says):
    pytest.importorskip("matplotlib")
    write(tmp_path / "a", falling(5.5, 3.0, 30))
    done = run_script("scripts/plot.py", "a", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1 and says in done.stderr, done.stderr


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
