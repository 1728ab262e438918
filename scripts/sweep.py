#!/usr/bin/env python3
"""Trains every combination of a grid, several at a time, and compares them in a table and plots.

    scripts/sweep.py gpas --out out/gpas --train-data 'data/b_train_*.bin' --val-data 'data/b_val_*.bin'
    scripts/sweep.py my.ini --out out/my --grid seed=1,2,3 --grid lr=1e-3,3e-3 --flag steps=500
    scripts/sweep.py --out out/my --variant 'pre: placement=pre' --variant 'lns: placement=lns' \\
        --baseline pre --flag preset=tiny --flag steps=500 --train-data 'data/b_train_*.bin'
    scripts/sweep.py --out out/my                go on with the sweep that is there

Called again, it skips the runs that are done, resumes those that were cut, and tries again those that failed.
A run that diverged is a result. Ctrl-C lets the runs write their checkpoints first.
"""
import argparse
import fnmatch
import glob
import os
import re
import shlex
import subprocess
import sys

from sweeps import grid as grids
from sweeps import jobs, metrics, slurm, table
from sweeps.grid import Failure

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Parser(argparse.ArgumentParser):
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
        lines.append("  %-11s %3d runs: %s" % (name, len(grids.expand(grid).runs), grid.about))
    lines += [
        "",
        "exit codes: 0 every run has a result, 1 some have none yet, 2 bad usage or input, 130 Ctrl-C",
    ]
    return "\n".join(lines)


def parse_arguments(arguments):
    parser = Parser(
        prog="sweep.py",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        description=__doc__,
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
    what.add_argument(
        "--variant", action="append", default=[], metavar="'NAME: FLAG=VALUE …'", help="one more variant"
    )
    what.add_argument("--baseline", metavar="NAME", help="the point that the others' time is compared with")
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
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="a line for the script: --sbatch=--time=4:00:00 --sbatch=--gres=gpu:1",
    )
    if {"-h", "--help"} & set(arguments):
        parser.epilog = describe_grids()
    return parser.parse_args(arguments)


# --------------------------------------------------------------------------------------------------- the plan


def pair(text, option):
    name, equals, value = text.partition("=")
    if not equals:
        raise Failure("%s %s: expected NAME=VALUE" % (option, text))
    return name, value


def make_plan(chosen):
    """From a grid and the command line, or, if that says nothing of what to run, from the directory."""
    if chosen.grid or chosen.flag or chosen.axes or chosen.variant or chosen.train_data or chosen.val_data:
        plan = grids.expand(make_grid(chosen))
    else:
        plan = grids.read_plan(chosen.out)
    plan.baseline = chosen.baseline or plan.baseline
    plan.check_baseline()
    if chosen.diverged_above is not None:
        plan.diverged_above = grids.read_number(chosen.diverged_above, "--diverged-above")
    return plan


def make_grid(chosen):
    grid = (
        grids.read(chosen.grid) if chosen.grid else grids.Grid(os.path.basename(os.path.abspath(chosen.out)))
    )
    for option in ("train-data", "val-data"):
        value = getattr(chosen, option.replace("-", "_"))
        if value:
            grids.set_flag(grid, option, value, "--" + option)
    for text in chosen.flag:
        grids.set_flag(grid, *pair(text, "--flag"), "--flag")
    for text in chosen.axes:
        grids.set_axis(grid, *pair(text, "--grid"), "--grid")
    for text in chosen.variant:
        grids.add_variant(grid, text)
    return grid


def narrow(plan, patterns):
    """The plan of those runs that a pattern fits."""

    def fits(run):
        names = [run.name, *run.labels.values(), *("%s=%s" % item for item in run.labels.items())]
        return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)

    kept = [run for run in plan.runs if fits(run)]
    if not kept:
        raise Failure("--only %s: no run fits; there is %s" % (" ".join(patterns), plan.runs[0].name))
    return grids.Plan(plan.name, plan.about, plan.baseline, plan.diverged_above, plan.axes, kept)


def check_data(runs):
    """Before anything starts: every glob finds something."""
    for run in runs:
        if "train-data" not in run.flags:
            raise Failure("there is no training data: give --train-data GLOB (data/prepare.py makes shards)")
        for flag in ("train-data", "val-data"):
            if flag in run.flags and not glob.glob(run.flags[flag]):
                raise Failure("--%s %s: no such file" % (flag, run.flags[flag]))


def find_program(chosen):
    path = os.path.abspath(chosen.program or os.environ.get("TRAIN_GPT") or os.path.join(ROOT, "train_gpt"))
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise Failure("%s: no such program: run make first, or give --program" % path)
    return path


def try_flags(runs, program):
    """Asks the program about each run's flags.

    Returns {name: cost of a step}, parameters times tokens, for the ETA.
    """
    costs, known = {}, {}
    for run in runs:
        flags = tuple("--%s=%s" % item for item in run.flags.items() if item[0] != "seed")
        if flags not in known:
            done = subprocess.run(
                [program, "--dry-run", "--out=" + run.name, *flags],  # which makes nothing there
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            if done.returncode:
                said = done.stderr.decode(errors="replace").splitlines() or ["exit %d" % done.returncode]
                raise Failure("%s: %s" % (run.name, said[-1]))
            text = done.stdout.decode(errors="replace")
            numbers = [
                re.search(pattern, text, re.MULTILINE)
                for pattern in (r"^parameters: (\d+)$", r"^batch: (\d+) tokens")
            ]
            known[flags] = float(numbers[0].group(1)) * float(numbers[1].group(1)) if all(numbers) else 1.0
        costs[run.name] = known[flags]
    return costs


# ----------------------------------------------------------------------------------------------- what is done


def read_results(plan, out):
    return {run.name: metrics.read(os.path.join(out, run.name)) for run in plan.runs}


def report(plan, results, failed, chosen):
    """Table and plots; says where they are."""
    paths, rows = table.write(plan, results, failed, chosen.out)
    if any(result.train for result in results.values()) and not chosen.no_plots:
        try:
            from sweeps import plots
        except ImportError:
            print("No plots: matplotlib is not installed (python3-matplotlib).")
        else:
            drawn, notes = plots.draw(plan, rows, chosen.out)
            paths += drawn
            print("".join(note + "\n" for note in notes), end="")
    print("Wrote %s" % " ".join(paths))
    broken = sum(len(result.broken_lines) for result in results.values())
    if broken:
        print("%d lines of metrics could not be read and are left out" % broken)


def list_runs(plan, results):
    for run in plan.runs:
        result = results[run.name]
        place = "%d/%s" % (result.step, result.steps) if result.state != "new" else ""
        print("%-9s %-12s %s" % (result.state, place, run.name))


def write_slurm(plan, results, program, chosen):
    names = [run.name for run in plan.in_turn() if results[run.name].state in ("new", "cut")]
    if not names:
        raise Failure("every run is done: there is nothing to submit")
    slurm.check_options(chosen.sbatch)
    text = slurm.script(
        plan,
        names,
        os.path.abspath(chosen.out),
        program,
        os.path.abspath(__file__),
        chosen.threads,
        chosen.jobs,
        chosen.sbatch,
    )
    with open(chosen.slurm, "w", encoding="utf-8") as file:
        file.write(text)
    print(
        "Wrote %s: %d tasks; start them with: sbatch %s"
        % (chosen.slurm, len(names), shlex.quote(chosen.slurm))
    )


def run_one(plan, program, chosen):
    runs = [run for run in plan.runs if run.name == chosen.run]
    if not runs:
        raise Failure("--run %s: the plan in %s has no such run" % (chosen.run, chosen.out))
    runner = jobs.Runner(runs, program, chosen.out, 1, chosen.threads)
    runner.run()
    print(
        "%s: %s at step %d" % (chosen.run, runner.results[chosen.run].state, runner.results[chosen.run].step)
    )
    return 0 if runner.is_result(runs[0]) else 1


def run_all(plan, program, chosen):
    every = jobs.usable_cores() // chosen.threads
    pending = [
        run for run in plan.runs if metrics.read(os.path.join(chosen.out, run.name)).state in ("new", "cut")
    ]
    runner = jobs.Runner(
        plan.in_turn(),
        program,
        chosen.out,
        chosen.jobs or max(1, every),
        chosen.threads,
        try_flags(pending, program),
    )
    print("%d runs, %d of them to do, %d at a time" % (len(plan.runs), len(pending), runner.jobs), flush=True)
    runner.run()
    report(plan, runner.results, runner.failed, chosen)
    missing = [run for run in plan.runs if not runner.is_result(run)]
    for name, why in runner.failed.items():
        print("failed: %s: %s (%s)" % (name, why, os.path.join(chosen.out, name, jobs.OUTPUT)))
    if missing:
        print(
            "%d of %d runs have a result. To go on: %s"
            % (len(plan.runs) - len(missing), len(plan.runs), shlex.join(sys.argv))
        )
    if runner.stopped_by:
        return 128 + runner.stopped_by
    return 1 if missing else 0


def sweep(arguments):
    chosen = parse_arguments(arguments)
    complete = make_plan(chosen)
    plan = narrow(complete, chosen.only) if chosen.only else complete
    if chosen.list:
        return list_runs(plan, read_results(plan, chosen.out)) or 0
    if chosen.report:
        return report(plan, read_results(plan, chosen.out), {}, chosen) or 0
    check_data(plan.runs)
    program = find_program(chosen)
    if chosen.run:
        return run_one(plan, program, chosen)
    os.makedirs(chosen.out, exist_ok=True)
    complete.write(chosen.out)
    if chosen.slurm:
        return write_slurm(plan, read_results(plan, chosen.out), program, chosen) or 0
    return run_all(plan, program, chosen)


def main(arguments):
    try:
        return sweep(arguments)
    except Failure as failure:
        message = str(failure)
    except BrokenPipeError:  # whoever read along has gone: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        message = "%s: %s" % (error.filename or "sweep", error.strerror)
    except KeyboardInterrupt:
        print("sweep.py: stopped; the same command goes on", file=sys.stderr)
        return 130
    print("sweep.py: %s" % re.sub(r"[\x00-\x1f\x7f]", "?", message), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
