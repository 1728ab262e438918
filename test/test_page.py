"""Does the page of plot.py --html hold what the runs hold, open without a network, and go along with a run? What it does in a
browser is asked of a headless Chromium, where there is one."""

import html.parser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import browser
from program import ROOT, run_script
from running import LAYERS, falling, lines_of, text_of, write

NASTY = "<script>document.title='owned'<%2fscript>&\"'--><!-- @DATA@ \u2028"


def page_of(*arguments, **more):
    done = run_script("scripts/plot.py", *arguments, "--html", **more)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.split("wrote ")[-1].rstrip("\n"))


def data_of(path):
    text = path.read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.fixture
def two(tmp_path):
    stats = [
        (step, [{"residual_rms": step / 9.4 + layer, "gate": [0.1 * layer, 0.2]} for layer in range(4)])
        for step in range(10, 121, 10)
    ]
    first = write(
        tmp_path / "runs/pre", falling(5.5, 2.9), [(40, 3.3), (80, 3.0), (120, 2.902)], stats=stats, flags={"lr": 0.001}
    )
    second = write(
        tmp_path / "runs/wild", [5.5] + [10.0**n for n in range(1, 12)], steps=120, diverged=12, flags={"lr": 5}
    )
    return first, second


def test_the_page_is_one_file_that_holds_what_the_runs_hold(two):
    path = page_of(*two)
    assert path == two[0].parent / "plot.html" or path.resolve() == (two[0].parent / "plot.html").resolve()
    tags = Tags(path.read_text()).found
    assert not [attributes for _, attributes in tags if {"src", "href", "srcset", "action"} & set(attributes)], (
        "it asks for a file"
    )
    assert 'http-equiv="refresh"' not in path.read_text()
    data = data_of(path)
    pre, wild = data["runs"]
    assert (pre["name"], pre["state"], wild["state"]) == ("pre", "done", "diverged") and pre["best"] == {
        "loss": 2.902,
        "step": 120,
    }
    assert pre["series"]["loss"]["x"] == list(range(1, 121)) and pre["series"]["loss"]["y"][0] == 5.5
    assert pre["val"] == {"x": [40, 80, 120], "y": [3.3, 3.0, 2.902]} and pre["flags"]["lr"] == "0.001"
    assert wild["series"]["loss"]["cap"] == pytest.approx(5.775), "what blew up sets the scale"
    rms = pre["maps"]["residual_rms 0"]
    assert rms["x"] == list(range(10, 121, 10)) and rms["layers"] == [0, 1, 2, 3] and rms["rows"][3][0] == 4.0638
    titles = [field["title"] for field in data["fields"]]
    assert titles == ["residual rms", "GPAS gate g, attention", "GPAS gate g, MLP"]


def test_a_name_is_text_whatever_it_holds(tmp_path):
    path = page_of(
        write(tmp_path / NASTY, falling(5.5, 3.0, 30), flags={"x": "</script><b>"}), "--out", tmp_path / "page.html"
    )
    tags = Tags(path.read_text()).found
    assert [tag for tag, _ in tags].count("script") == 2 and not [tag for tag, _ in tags if tag == "b"]
    (run,) = data_of(path)["runs"]
    assert run["name"] == NASTY.replace("\u2028", "?") and run["flags"]["x"] == "</script><b>"


def test_a_page_that_follows_is_whole_at_every_moment_and_ends_with_its_run(tmp_path):
    folder, lines = tmp_path / "run", list(lines_of(falling(5.5, 3.0, 60), [(30, 3.5)]))
    command = [sys.executable, os.path.join(ROOT, "scripts/plot.py"), str(folder), "--html", "--follow", "--every", "1"]
    folder.mkdir()  # it has not begun yet
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("following into ")
        path, seen = folder / "plot.html", set()
        assert data_of(path)["runs"][0]["series"] == {}
        (folder / "metrics.jsonl").write_text(text_of(lines[:20]) + '{"type":"tra')
        while len(seen) < 2:
            text = path.read_text()
            assert text.endswith("</html>\n"), "half a page"
            seen.add(len(data_of(path)["runs"][0]["series"].get("loss", {"x": []})["x"]))
        assert data_of(path)["every"] == 1 and 'http-equiv="refresh" content="1"' in path.read_text()
        (folder / "metrics.jsonl").write_text(text_of(lines))
        assert process.wait(timeout=20) == 0, process.stderr.read()
    data = data_of(path)
    assert (
        data["every"] == 0 and data["runs"][0]["state"] == "done" and len(data["runs"][0]["series"]["loss"]["x"]) == 60
    )
    assert sorted(os.listdir(folder)) == ["metrics.jsonl", "plot.html"]


# -------------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if not browser.find():
        pytest.skip("no Chromium")
    page = browser.Browser(tmp_path_factory.mktemp("chromium"))
    yield page
    page.close()


@pytest.fixture
def at(chromium):
    """The browser, which in this test complains of nothing and asks for nothing but the page."""
    chromium.requests.clear(), chromium.errors.clear()
    yield chromium
    assert chromium.errors == [] and {url.split(":")[0] for url in chromium.requests} <= {"file"}, chromium.requests


# The share of a panel's pixels that are of about a color.
INK = """((panel, color) => { const c = document.querySelectorAll('.stage')[panel].children[0];
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;
    for (let i = 0; i < d.length; i += 4) if (d[i+3] > 200 && Math.hypot(d[i]-color[0], d[i+1]-color[1], d[i+2]-color[2]) < 30) n++;
    return n; })"""
BLUE, VERMILION = [0, 114, 178], [213, 94, 0]


def box(at, panel):
    return at.run(
        f"(b => [b.left, b.top, b.width, b.height])(document.querySelectorAll('.stage')[{panel}].getBoundingClientRect())"
    )


def tip(at):
    return at.run("document.getElementById('tip').hidden ? '' : document.getElementById('tip').innerText")


@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
def test_a_browser_draws_it_and_says_what_is_under_the_pointer(at, two, tmp_path, width, dark):
    at.open(page_of(*two), width=width, dark=dark)
    assert at.run("document.documentElement.scrollWidth") <= width, "wider than the window"
    assert at.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 28)" if dark else "rgb(255, 255, 255)"
    )
    assert at.run(f"{INK}(0, {BLUE if not dark else [86, 180, 233]})") > 100, "no curve of the first run"
    left, top, w, h = box(at, 0)
    at.mouse("mouseMoved", left + 58 + (w - 70) * 79 / 119, top + h / 2)  # over step 80, between 1 and 120
    said = tip(at)
    assert "loss, step 80" in said and "pre" in said and "validation 3 at step 80" in said, said
    at.run("document.querySelector('.map .stage').scrollIntoView({block: 'center'})")
    left, top, w, h = at.run(
        "(b => [b.left, b.top, b.width, b.height])(document.querySelector('.map .stage').getBoundingClientRect())"
    )
    at.mouse("mouseMoved", left + 58 + (w - 64 - 70) * 0.99, top + 12)  # the last step, the uppermost layer
    assert "layer 3, step 120" in tip(at) and "15.766" in tip(at), tip(at)
    count = at.run("document.querySelectorAll('.panel:not(.map)').length")
    assert at.run(f"{INK}({count}, {VERMILION})") == 0, "a calm run's map is over its scale"
    assert at.run("[...document.querySelectorAll('#runs td')].some(cell => cell.innerText === 'diverged')")


def test_a_name_that_is_markup_does_nothing_in_a_browser(at, tmp_path):
    folder = write(tmp_path / NASTY, falling(5.5, 3.0, 30), stats=[(10, LAYERS)])
    at.open(page_of(folder, "--out", tmp_path / "page.html"))
    assert at.run("document.title") == "Training of " + NASTY.replace("\u2028", "?")
    assert at.run("document.querySelectorAll('script').length") == 2


def test_runs_can_be_hidden_steps_chosen_and_scales_changed(at, two):
    at.open(page_of(*two))
    assert at.run(f"{INK}(0, {VERMILION})") > 0
    at.run("document.querySelectorAll('#runs input')[1].click()")
    assert at.run(f"{INK}(0, {VERMILION})") == 0 and at.run(f"{INK}(0, {BLUE})") > 100
    scale = "document.querySelectorAll('.panel button')[0]"
    before = at.run(f"{scale}.textContent")
    at.run(f"{scale}.click()")
    assert {before, at.run(f"{scale}.textContent")} == {"log", "linear"}
    left, top, w, h = box(at, 0)
    at.drag(left + 58 + (w - 70) / 2, left + 58 + (w - 70), top + h / 2)
    at.mouse("mouseMoved", left + 60, top + h / 2)
    assert re.search(r"step 6[01]\b", tip(at)), tip(at)  # the left edge is now the middle
    at.run("document.getElementById('all').click()")
    at.mouse("mouseMoved", left + 61, top + h / 2)
    assert "step 1\n" in tip(at) + "\n", tip(at)


def test_a_page_that_reads_itself_anew_stays_where_its_reader_is(at, tmp_path):
    lines = list(lines_of(falling(5.5, 3.0, 60), [(30, 3.5)], stats=[(10 * n, LAYERS) for n in range(1, 7)]))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(text_of(lines[:50]))
    command = [sys.executable, os.path.join(ROOT, "scripts/plot.py"), str(folder), "--html", "--follow", "--every", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        at.open(folder / "plot.html", width=500, height=700)
        step = "document.querySelector('#runs tr:nth-child(2) td:nth-child(3)').innerText"
        at.wait("document.getElementById('hold') && (document.getElementById('hold').click(), true)")
        at.wait("document.getElementById('hold').checked && document.body.dataset.ready === 'yes'")
        first, mark = at.run(step), at.run("window.mark = 1")
        left, top, w, h = box(at, 0)
        at.drag(left + 100, left + 200, top + h / 2)
        at.run("window.scrollTo(0, 300)")
        (folder / "metrics.jsonl").write_text(text_of(lines))
        assert process.wait(timeout=20) == 0
        assert at.run("window.mark") == mark and at.run(step) == first, "it was to hold still"
        at.run("document.getElementById('hold').click()")
        at.wait(f"{step} !== {json.dumps(first)}")
    assert (
        at.run(step) == "60 of 60"
        and at.run("window.scrollY") == 300
        and not at.run("document.getElementById('all').disabled")
    )
