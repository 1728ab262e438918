"""On a terminal the progress line is one row, whatever its width, while that changes, and where lines cannot be rewritten."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

import pytest

from program import PROGRAM, SMALL, environment

STEPS = 12


def set_width(terminal, columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def on_terminal(columns, arguments, env, steps=STEPS, resize=None):
    """What a run writes to a terminal of this width; resize: (what is seen then, new width)."""
    mine, theirs = pty.openpty()
    set_width(theirs, columns)
    text = b""
    command = [PROGRAM, *SMALL, *arguments, "--steps", str(steps), "--val-every", "5"]
    with subprocess.Popen(command, stdout=theirs, env=environment(**env)) as process:
        os.close(theirs)
        while True:
            try:
                piece = os.read(mine, 65536)
            except OSError:  # the other side is closed
                piece = b""
            if not piece:
                break
            text += piece
            if resize and resize[0] in text:
                set_width(mine, resize[1])
                resize = None
        assert process.wait(timeout=60) == 0
    os.close(mine)
    return text.decode()


def progress(text):
    """The progress lines, without what clears a row."""
    pieces = re.findall(r"\r([^\r\n\x1b]*)\x1b\[K", text)
    return [piece for piece in pieces if piece]


def rows_left(text):
    """Progress lines that were not written over."""
    return [row for row in text.split("\r\n") if row.endswith("\x1b[K")]


@pytest.mark.parametrize("columns", [1, 12, 20, 40, 80, 200, 65535])
def test_no_progress_line_is_longer_than_the_terminal_is_wide(columns, data):
    text = on_terminal(columns, data, {"TERM": "xterm", "COLUMNS": 300})
    lines = progress(text)
    assert all(len(line) < columns for line in lines)
    if columns == 1:
        assert not lines
        return
    assert len(lines) == STEPS  # and none is missing
    for step, line in enumerate(lines, 1):
        assert re.match(rf"step {step}/{STEPS}  loss |{step}/{STEPS} \d|{step} \d", line)
    assert ("tok/s" in lines[0]) == (columns >= 40)
    assert ("GFLOP/s" in lines[0]) == (columns > 80)
    assert not rows_left(text)


@pytest.mark.parametrize("env, width", [({"COLUMNS": 50}, 50), ({"COLUMNS": "none"}, 80), ({"COLUMNS": -3}, 80),
                                        ({"COLUMNS": "9" * 30}, 80)])
def test_a_terminal_that_does_not_say_its_width_has_that_of_columns_or_80(env, width, data):
    lengths = [len(line) for line in progress(on_terminal(0, data, dict(env, TERM="xterm"), steps=6))]
    assert width - 30 < max(lengths) < width


def test_a_resize_is_followed(data):
    """Wide, then narrow: one line stays, as nobody knows where the terminal has put it; from there on all fit."""
    text = on_terminal(120, data, {"TERM": "xterm"}, steps=400, resize=(b"step 20/400 ", 30))
    lines = [piece for piece in re.findall(r"[\r\n]([^\r\n\x1b]*)\x1b\[K", text) if piece.startswith(("step", "2", "3", "4"))]
    widths = [len(line) for line in lines if "val loss" not in line]
    narrow = next(i for i, width in enumerate(widths) if width < 30)
    assert 80 < max(widths[:narrow]) < 120 and max(widths[narrow:]) < 30 and len(widths) - narrow > 50
    assert len(rows_left(text)) == 1


@pytest.mark.parametrize("kind", ["dumb", "", None])
def test_where_lines_cannot_be_rewritten_they_are_plain(kind, data, monkeypatch):
    monkeypatch.delenv("TERM", raising=False)
    text = on_terminal(60, [*data, "--log-every", "4"], {} if kind is None else {"TERM": kind})
    assert "\x1b" not in text and "\r" not in text.replace("\r\n", "\n")
    assert re.findall(r"^step (\d+)/12  loss .*ETA", text, re.MULTILINE) == ["1", "4", "8", "12"]
