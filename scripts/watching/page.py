"""One page of HTML that shows runs: their curves, and the maps of their layers. It holds all that it needs, and opens
without a network; while a run goes on it reads itself anew. Standard library only.
"""

import html
import json
import math
import os
import time

from sweeps import metrics
from watching.fields import edges, held, maps_of
from watching.runs import thin

HERE = os.path.dirname(os.path.abspath(__file__))
MOST = 1500  # points of a curve
SERIES = "loss", "lr", "grad_norm", "tokens_per_s"


def rounded(value, digits=6):
    """For JSON: what is no number is null; digits that nobody sees are left out."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float("%.*g" % (digits, value))


def curve_of(run, name):
    """A series of a run, or None if it has none."""
    series = run.series(name)
    curve = thin(series, MOST)
    if not any(map(math.isfinite, curve.mean)):
        return None
    sound = run.sound_steps()
    values = [value for step, value in series.items() if math.isfinite(value) and step in sound]
    one = {
        "x": curve.steps,
        "y": list(map(rounded, curve.mean)),
        "cap": rounded(max(values, default=max(filter(math.isfinite, series.values())))),
    }
    one["cap"] = rounded(run.highest()) if name == "loss" and math.isfinite(run.highest()) else one["cap"]
    if curve.thinned:
        one.update(lo=list(map(rounded, curve.low)), hi=list(map(rounded, curve.high)))
    return one


def time_left(run):
    """Of a run that goes on, by its last steps: "3 h 20 min"."""
    result = run.result
    steps = sorted(result.train)[-50:]
    each = metrics.median([result.train[step][1] for step in steps])
    if run.ended() or not result.steps or not math.isfinite(each):
        return ""
    seconds = each * 1e-3 * max(0, result.steps - result.step)
    if seconds < 60:
        return "%d s" % seconds
    return "%d min" % (seconds / 60) if seconds < 3600 else "%d h %d min" % divmod(int(seconds / 60), 60)


def state_of(run):
    result = run.result
    if result.state in ("done", "diverged"):
        return result.state
    return "ended: %s" % result.reason if result.reason else "goes on, or was cut"


def map_of(one):
    """A Map as the page's script takes it."""
    rows = [[rounded(value, 5) for value in row] for row in one.rows]
    return {"x": one.steps, "edges": list(map(rounded, edges(one.steps))), "layers": one.layers, "rows": rows}


def data_of_run(run):
    result = run.result
    val = thin(result.val, MOST)
    best = [(loss, step) for step, loss in result.val.items() if math.isfinite(loss)]
    curves = {name: curve_of(run, name) for name in SERIES}
    return {
        "name": run.label, "state": state_of(run), "step": result.step, "steps": result.steps, "left": time_left(run),
        "loss": rounded(result.train_loss() if len(result.train) > 10 else metrics.mean(list(run.series("loss").values())[-1:])),
        "best": {"loss": rounded(min(best)[0]), "step": min(best)[1]} if best else None,
        "tokens_per_s": rounded(result.tokens_per_s()), "parameters": result.parameters,
        "flags": {str(name): str(value) for name, value in result.flags.items()},
        "skipped": sorted(result.skipped)[:1000], "val": {"x": val.steps, "y": list(map(rounded, val.mean))},
        "series": {name: curve for name, curve in curves.items() if curve}, "maps": {},
    }  # fmt: skip


def data_of(runs, floor, fields, every):
    rows, shown = [data_of_run(run) for run in runs], []
    for field in held(runs, fields):
        titles_and_maps, (low, high, log) = maps_of(runs, field)
        for part, (title, maps) in enumerate(titles_and_maps):
            name = "%s %d" % (field.name, part)
            for row, one in zip(rows, maps):
                if one:
                    row["maps"][name] = map_of(one)
            shown.append({"name": name, "title": title, "scale": {"low": low, "high": high, "log": log}})
    note = "As of %s. Pale: each step; line: its running mean; dashed, ○: validation." % time.strftime(
        "%Y-%m-%d %H:%M:%S"
    )
    skipped = sum(len(run.result.skipped) for run in runs)
    note += " ▾ skipped steps: %d." % skipped if skipped else ""
    note += " Maps: gray: no number; red: over the scale, after the loss was lost." if shown else ""
    return {"runs": rows, "fields": shown, "floor": floor, "every": every, "note": note}


def embed(value):
    """JSON that ends no script element, whatever names hold."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def make(runs, title, floor=None, fields=(), every=0):
    """The page's text. every: seconds after which it reads itself anew; 0: never."""
    parts = {
        "REFRESH": '<noscript><meta http-equiv="refresh" content="%d"></noscript>\n' % every if every else "",
        "TITLE": html.escape(title), "DATA": embed(data_of(runs, floor, fields, every)),
    }  # fmt: skip
    for name, file in (("STYLE", "page.css"), ("SCRIPT", "page.js")):
        with open(os.path.join(HERE, file), encoding="utf-8") as source:
            parts[name] = source.read()
    with open(os.path.join(HERE, "page.html"), encoding="utf-8") as source:
        pieces = source.read().split("@")
    # A name stands between two marks; what goes in there is never looked at again.
    return "".join(parts.get(piece, piece if i % 2 == 0 else "@%s@" % piece) for i, piece in enumerate(pieces))


def write(path, text):
    """Whole or not at all: a browser may be reading it. OSError."""
    partial = os.path.join(os.path.dirname(path), ".%s.partial" % os.path.basename(path))
    try:
        with open(partial, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        os.replace(partial, path)
    finally:
        if os.path.lexists(partial):
            os.unlink(partial)
