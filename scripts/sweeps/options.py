"""What can be said to sweep.py?"""
import argparse
import re

from sweeps import grid as grids
from sweeps import tuning
from sweeps.grid import Failure


def filled(text):
    """Any text but an empty one, which a script's unset variable leaves: as an option's value it would count as not given."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the value is empty")
    return text


class Parser(argparse.ArgumentParser):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.register("type", None, filled)  # wherever no other type is asked for

    def error(self, message):
        raise Failure("%s (see --help)" % " ".join(message.split()))


def positive(text):
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text):
        raise argparse.ArgumentTypeError("'%s' is not a number from 1 to 99999" % text)
    return int(text)


def describe_grids():
    lines = ["ready-made grids (a file of your own: scripts/sweeps/README.md):"]
    for name, path in grids.ready_made().items():
        grid = grids.read(path)
        count = "%3d runs" % len(grids.expand(grid).runs) if not grid.tune else fewest_runs(grid)
        lines.append("  %-11s %s: %s" % (name, count, grid.about))
    lines += [
        "",
        "exit codes: 0 every run has a result, 1 some have none yet, 2 bad usage or input, 130 Ctrl-C",
    ]
    return "\n".join(lines)


def fewest_runs(grid):
    tuned = tuning.Tuning(grid)
    return "%3d runs or more" % (len(tuned.settings()) * (len(tuned.values) + len(set(tuned.seeds) - {tuned.tune_seed})))


def parse(arguments, description):
    """What was said, by argparse's names; a Failure if it is wrong. --help prints and ends."""
    parser = Parser(
        prog="sweep.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        description=description,
        epilog="",
    )
    parser.add_argument("grid", nargs="?", help="a grid's file, or the name of a ready-made one")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the sweep's directory: a directory a run, table, plots"
    )
    what = parser.add_argument_group("what is run")
    what.add_argument("--train-data", metavar="GLOB", help="the same as --flag train-data=GLOB")
    what.add_argument("--val-data", metavar="GLOB", help="the same as --flag val-data=GLOB")
    what.add_argument(
        "--flag",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a flag of train_gpt for every run; x5 multiplies the grid's value, nothing takes it away",
    )
    what.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=A,B",
        dest="axes",
        help="a flag with several values",
    )
    what.add_argument("--seeds", metavar="A,B", help="the same as --grid seed=A,B; with --tune those that are compared")
    what.add_argument(
        "--tune",
        metavar="NAME=A,B",
        help="each variant takes the best of several values of a flag, by the validation loss on one seed; is then repeated "
        "on --seeds (default %s) and compared there with the baseline: differences with their intervals" % ",".join(tuning.SEEDS),
    )
    what.add_argument(
        "--tune-seed", metavar="N", help="the seed that --tune chooses on, best none of --seeds (default %s)" % tuning.TUNE_SEED
    )
    what.add_argument(
        "--widen",
        metavar="N",
        help="values that --tune may add for each variant where the best lies at the grid's edge (default %d)" % tuning.WIDEN,
    )
    what.add_argument(
        "--margin",
        metavar="X",
        help="an edge counts as worse only if its loss is by more than this: --tune goes on beyond one that is as good, up to "
        "the seeds' scatter (default %g)" % tuning.MARGIN,
    )
    what.add_argument(
        "--variant", action="append", default=[], metavar="'NAME: FLAG=VALUE …'", help="one more variant"
    )
    what.add_argument(
        "--baseline",
        metavar="NAME",
        help="the point that the others' time, with --tune their loss too, is compared with (--tune: else the first)",
    )
    what.add_argument(
        "--diverged-above",
        metavar="X",
        help="a run that ends over this loss has diverged (default: 1.1 times its own first loss)",
    )
    what.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only runs whose name, or one of whose points, fits: --only 'pre*' --only lr=0.001",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="runs at a time (default: cores / threads; on a GPU give 1)",
    )
    how.add_argument("--threads", type=positive, default=1, metavar="N", help="threads a run (default 1)")
    how.add_argument(
        "--program", metavar="PATH", help="default: train_gpt beside scripts/, or what TRAIN_GPT names"
    )
    instead = parser.add_argument_group("instead of running").add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="the runs and where each one stands")
    instead.add_argument("--report", action="store_true", help="table and plots of what is there")
    instead.add_argument(
        "--slurm", metavar="FILE", help="write a Slurm array script of what is not done; --jobs limits it"
    )
    instead.add_argument(
        "--run", metavar="NAME", help="this run only, no table: what a task of the array calls"
    )
    how.add_argument("--no-plots", action="store_true", help="only the table")
    parser.add_argument(
        "--tokens-per-s",
        metavar="X",
        help="for --list, to say how long it takes if each run trains so many tokens a second",
    )
    parser.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="a line for the script: --sbatch=--time=4:00:00 --sbatch=--gres=gpu:1",
    )
    if {"-h", "--help"} & set(arguments):
        parser.epilog = describe_grids()
    return parser.parse_args(arguments)
