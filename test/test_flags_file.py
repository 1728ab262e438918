"""OUT/config.ini, where --help says it lies: a run's flags from its start, for --config; never in the way of --resume."""

import os

from program import SMALL, events, file_bytes, losses, refused, run, step_directory

NAME = "config.ini"


def settings(text):
    return [line for line in text.decode().splitlines() if not line.startswith("#")]


def test_a_run_can_be_repeated_from_what_it_left(data, tmp_path):
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    run(*SMALL, *data, "--steps", 4, "--lr", "0.1", "--beta2", "0.95", "--norm", "rmsnorm", "--seed", 5, "--out", first)
    text = file_bytes(first, NAME)
    assert b"\nlr = 0.1\n" in text and b"\nbeta2 = 0.95\n" in text and b"\nseed = 5\n" in text
    assert settings(text) == settings(file_bytes(step_directory(first, 4), NAME))
    run("--config", os.path.join(first, NAME), "--out", second)
    assert losses(second) == losses(first) and len(losses(first)) == 4
    assert [line for line in settings(file_bytes(second, NAME)) if not line.startswith("out =")] == [
        line for line in settings(text) if not line.startswith("out =")]


def test_it_is_there_from_the_start_and_replaced_in_one_moment(data, out):
    run(*SMALL, *data, "--steps", 2, "--save-every", 1, "--out", out)
    run(*data, "--resume", out, "--steps", 3)
    assert b"\nsteps = 3\n" in file_bytes(out, NAME)
    assert not [name for name in os.listdir(out) if "partial" in name]


def test_a_file_that_a_person_wrote_stays(data, out):
    os.mkdir(out)
    mine = os.path.join(out, NAME)
    with open(mine, "w", encoding="utf-8") as file:
        file.write("# mine\nsteps = 2\n")
    done = run("--config", mine, *SMALL, *data, "--out", out)
    assert file_bytes(mine) == b"# mine\nsteps = 2\n" and mine in done.stderr
    assert len(losses(out)) == 2 and events(out)[-1] == "end"


def test_it_is_never_in_the_way_of_a_run(data, out, tmp_path):
    run(*SMALL, *data, "--steps", 2, "--save-every", 1, "--out", out)
    place = os.path.join(out, NAME)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("other\n")
    for steps, spoil in enumerate((
        lambda: os.mkdir(place),
        lambda: os.symlink(elsewhere, place),
        lambda: os.mkfifo(place),
        lambda: open(place, "wb").write(b"\0\xff = not flags at all\n"),
        lambda: None,
    ), 3):
        if os.path.isdir(place):
            os.rmdir(place)
        else:
            os.unlink(place)
        spoil()
        run(*data, "--resume", out, "--steps", steps)
        assert len(losses(out)) == steps
    assert elsewhere.read_text() == "other\n"
    assert f"steps = {steps}".encode() in file_bytes(place)  # the last time nothing was there


def test_a_directory_that_cannot_be_written_is_refused_as_before(data, out):
    with open(out, "wb"):
        refused(*SMALL, *data, "--steps", 1, "--out", out, says="--out")
