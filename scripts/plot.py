#!/usr/bin/env python3
"""Draws training runs from their metrics.jsonl, finished, cut or going on: loss, validation, learning rate, gradient norm,
throughput; and where a run kept statistics of its layers (--stats-every), those, as lines and as maps over layer and step.

    scripts/plot.py out/run                       → out/run/loss.png, layers.png, heat.png
    scripts/plot.py out/a out/b --labels pre,post → out/loss.png, out/layers.png, out/heat.png: runs over each other
    scripts/plot.py out/run --html                → out/run/plot.html: the same in one page that opens offline
    scripts/plot.py out/run --html --follow       the page goes along with the run, until that ends
    scripts/plot.py out/run --out picture.svg     → picture.svg, picture-layers.svg, picture-heat.svg
    scripts/plot.py out/a out/b --only heat --fields residual_rms --out residual.png
    scripts/plot.py build/demo/run --floor build/demo/language.json

One run's layers.png is over the steps, from dark (first) to light (last); several runs' by layer, as they were last. Pictures
need matplotlib, the page nothing.
"""

import argparse
import os
import sys
import time

from watching import fields, page
from watching.runs import Failure, Run, read_floor

PICTURES = "loss", "layers", "heat"


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="plot.py", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory, or its metrics.jsonl")
    parser.add_argument("--out", metavar="FILE", help="the loss's picture: .png, .svg, .pdf, beside it FILE-layers and FILE-heat; "
                        "the only one of --only; the page of --html")  # fmt: skip
    parser.add_argument("--only", metavar="A,B", help="of loss, layers, heat")
    parser.add_argument(
        "--fields", metavar="A,B,…", help="of the layers' statistics: %s" % ", ".join(one.name for one in fields.FIELDS)
    )
    parser.add_argument("--floor", metavar="X", help="draw a line at this loss: a number, or a language.json")
    parser.add_argument("--labels", metavar="A,B,…", help="names of the runs (default: their folders)")
    parser.add_argument("--title", metavar="TEXT", help="what the picture says above (default: the runs' names)")
    parser.add_argument("--html", action="store_true", help="one page instead of pictures")
    parser.add_argument(
        "--follow", action="store_true", help="with --html: write the page anew until the runs have ended"
    )
    parser.add_argument("--every", metavar="SECONDS", type=int, help="with --follow: that often (10)")
    return parser.parse_args(arguments)


def words(text, allowed, flag):
    """Those of a list with commas, in the order of `allowed`; all where there is none."""
    chosen = [word.strip() for word in text.split(",")] if text is not None else allowed
    wrong = [word for word in chosen if word not in allowed]
    if wrong:
        raise Failure("%s: '%s' is none of: %s" % (flag, wrong[0], ", ".join(allowed)))
    return [word for word in allowed if word in chosen]


def is_file(path):
    return os.path.isfile(path) or path.endswith(".jsonl")


def names_of(paths):
    """A run's folder; where two are called the same, as much of their paths as tells them apart."""
    folders = [os.path.abspath(os.path.dirname(path) if is_file(path) else path).split(os.sep) for path in paths]
    names = [folder[-1] or path for folder, path in zip(folders, paths)]
    for count in range(2, max(map(len, folders)) + 1):
        names = [
            os.sep.join(folder[-count:]) if names.count(name) > 1 else name for folder, name in zip(folders, names)
        ]
    return names


def printable(text):
    """A name comes from outside: one line, and nothing that no font or encoding has."""
    text = text.encode("utf-8", "replace").decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def load_picture():
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise Failure(
            "matplotlib is missing: apt install python3-matplotlib, or pip install matplotlib; --html needs none"
        ) from None
    import picture
    from watching import curves, heat, layers

    return picture, curves, layers, heat


# ------------------------------------------------------------------------------------------------------- where to


def folder_of(runs):
    """Next to the run, or the folder that all runs are in."""
    folders = [run.folder for run in runs]
    return folders[0] if len(set(folders)) == 1 else os.path.commonpath([os.path.dirname(folder) for folder in folders])


def outputs(runs, out, only=PICTURES):
    """{picture: its path}."""
    if out and not os.path.isdir(out):
        stem, extension = os.path.splitext(out)
        extension = extension or ".png"
        first = only[0] if len(only) == 1 else "loss"
        return {name: stem + ("" if name == first else "-" + name) + extension for name in only}
    folder = out or os.path.relpath(folder_of(runs))
    return {name: os.path.join(folder, name + ".png") for name in only}


# ------------------------------------------------------------------------------------------------------- to do


class Job:
    """What was asked for, read and checked."""

    def __init__(self, chosen):
        labels = chosen.labels.split(",") if chosen.labels else names_of(chosen.runs)
        if len(labels) != len(chosen.runs):
            raise Failure("--labels: %d names for %d runs" % (len(labels), len(chosen.runs)))
        if chosen.follow and not chosen.html:
            raise Failure("--follow writes a page: it goes with --html")
        if chosen.every is not None and not (chosen.follow and 1 <= chosen.every <= 86400):
            raise Failure("--every %d: 1 to 86400 seconds, with --follow" % chosen.every)
        if chosen.html and chosen.only:
            raise Failure("--only chooses pictures: the page of --html has them all")
        self.only = words(chosen.only, list(PICTURES), "--only")
        self.fields = words(chosen.fields, [field.name for field in fields.FIELDS], "--fields")
        self.floor = read_floor(chosen.floor) if chosen.floor else None
        self.runs = [Run(path, printable(label), chosen.follow) for path, label in zip(chosen.runs, labels)]
        self.title = printable(chosen.title or title_of(self.runs))
        self.out, self.every = chosen.out, chosen.every or 10

    def failure(self, path, error):
        why = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        return Failure("%s: %s%s" % (path, why, "" if self.out else "; --out FILE says another place"))


def title_of(runs):
    return "Training of %s" % (runs[0].label if len(runs) == 1 else "%d runs" % len(runs))


def tell_of_absent(runs, watched, names):
    """A picture of some of the runs says so: by its title, and here, which ones it lacks."""
    absent = [run.label for run in runs if run not in watched]
    if watched and absent and {"layers", "heat"}.intersection(names):
        print("plot.py: not among the pictures of layers, as their runs kept no such statistics (--stats-every): %s"
              % ", ".join(absent), file=sys.stderr)  # fmt: skip


def draw(chosen):
    """The paths of the pictures that it wrote."""
    job = Job(chosen)
    picture, curves, layers, heat = load_picture()
    watched = [run for run in job.runs if fields.held([run], job.fields)]
    wanted = {name: path for name, path in outputs(job.runs, job.out, job.only).items() if watched or name == "loss"}
    if not wanted:
        raise Failure("none of the runs holds statistics of its layers%s; --stats-every N keeps them"
                      % (" of these names" if chosen.fields else ""))  # fmt: skip
    tell_of_absent(job.runs, watched, wanted)
    for name, path in wanted.items():
        try:
            picture.check_place(path)
            if name == "loss":
                curves.draw(job.runs, job.floor, job.title, path)
            else:
                (layers if name == "layers" else heat).draw(
                    watched, job.fields, job.title if chosen.title else "%s: layers" % title_of(watched), path
                )
        except (OSError, ValueError) as error:
            raise job.failure(path, error) from None
    return list(wanted.values())


def write_page(chosen):
    """Writes the page; with --follow again whenever there is more, until all runs have ended. Returns its path."""
    job = Job(chosen)
    path = os.path.join(job.out or os.path.relpath(folder_of(job.runs)), "plot.html")
    if job.out and not os.path.isdir(job.out):
        path = job.out if os.path.splitext(job.out)[1] else job.out + ".html"

    def write(every):
        try:
            page.write(path, page.make(job.runs, job.title, job.floor, job.fields, every))
        except OSError as error:
            raise job.failure(path, error) from None

    going = chosen.follow and not all(run.ended() for run in job.runs)
    write(job.every if going else 0)
    if going:
        print("following into %s every %d s; Ctrl-C stops" % (path, job.every), flush=True)
    try:
        while going:
            time.sleep(job.every)
            news = [run.look() for run in job.runs]
            going = not all(run.ended() for run in job.runs)
            if any(news):
                write(job.every if going else 0)
    finally:
        if going:  # stopped: the page that stays is no longer written
            write(0)
    return path


def main(arguments):
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    chosen = parse_arguments(arguments)
    try:
        for path in [write_page(chosen)] if chosen.html else draw(chosen):
            print("wrote %s" % path)
    except Failure as failure:
        print("plot.py: %s" % printable(str(failure)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
