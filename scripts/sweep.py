#!/usr/bin/env python3
"""Trains every combination of a grid, several at a time, and compares them in a table and plots.

    scripts/sweep.py gpas --out out/gpas --train-data 'data/b_train_*.bin' --val-data 'data/b_val_*.bin'
    scripts/sweep.py my.ini --out out/my --grid seed=1,2,3 --grid lr=1e-3,3e-3 --flag steps=500
    scripts/sweep.py --out out/my --variant 'pre: placement=pre' --variant 'lns: placement=lns' \\
        --baseline pre --flag preset=tiny --flag steps=500 --train-data 'data/b_train_*.bin'
    scripts/sweep.py --out out/my                go on with the sweep that is there
    scripts/sweep.py gpas --out out/tuned … --tune lr=1e-3,2e-3,4e-3 --seeds 1,2,3
                                                 each variant at its own best learning rate, compared seed by seed

Called again, it skips the runs that are done, resumes those that were cut, and tries again those that failed.
A run that diverged is a result. Ctrl-C lets the runs write their checkpoints first.
"""
import fnmatch
import glob
import math
import os
import re
import shlex
import subprocess
import sys

from sweeps import grid as grids
from sweeps import claims, jobs, metrics, options, slurm, table, tuned_table, tuning
from sweeps.grid import Failure
from sweeps.rounds import Rounds

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


# --------------------------------------------------------------------------------------------------- the plan


def pair(text, option):
    name, equals, value = text.partition("=")
    if not equals:
        raise Failure("%s %s: expected NAME=VALUE" % (option, text))
    return name, value


def says_what(chosen):
    """Whether the command line says what to run; else the directory does."""
    return bool(chosen.grid or chosen.flag or chosen.axes or chosen.variant or chosen.train_data or chosen.val_data
                or chosen.tune or chosen.seeds)  # fmt: skip


def make_plan(chosen):
    """(Plan, Rounds or None), from a grid and the command line, or from what the directory says. Of a sweep that tunes the plan
    is what is known so far."""
    if says_what(chosen):
        grid = make_grid(chosen)
        refused = told_before(grid, chosen.out)
    else:
        plan = grids.read_plan(chosen.out)
        if not plan.tune:
            return finish_plan(plan, chosen), None
        grid, refused = tuning.from_record(plan, os.path.join(chosen.out, grids.PLAN))
    if grid.tune:
        return make_tuned(grid, refused, chosen)
    if grid.claims:
        print("The claims are left out: they are judged where something is tuned (--tune).")
    return finish_plan(grids.expand(grid), chosen), None


def told_before(grid, out):
    """What the program said when this sweep was here last, as --report does not ask it: {name of a run: why it does not take a value
    beyond the grid}, and the grid's `whole`."""
    try:
        plan = grids.read_plan(out)
        if not plan.tune:
            return {}
        before, refused = tuning.from_record(plan, out)
    except Failure:
        return {}
    if grid.tune and grid.tune.name == before.tune.name:
        grid.whole = before.whole
    return refused


def finish_plan(plan, chosen):
    """What the command line says over an ordinary plan."""
    refuse_options_of_tuning(chosen)
    plan.baseline = chosen.baseline or plan.baseline
    plan.check_baseline()
    if chosen.diverged_above is not None:
        plan.diverged_above = grids.read_number(chosen.diverged_above, "--diverged-above")
    return plan


def refuse_options_of_tuning(chosen):
    for option in ("tune_seed", "widen", "margin"):
        if getattr(chosen, option) is not None:
            raise Failure("--%s: nothing is tuned: give --tune" % option.replace("_", "-"))


def make_tuned(grid, refused, chosen):
    """(Plan, Rounds) as make_plan says."""
    grid.baseline = chosen.baseline or grid.baseline
    if chosen.diverged_above is not None:
        grid.diverged_above = grids.read_number(chosen.diverged_above, "--diverged-above")
    if chosen.tune_seed is not None:
        grid.tune_seed = grids.check_value("seed", chosen.tune_seed, "--tune-seed")
    if chosen.widen is not None:
        grid.widen = grids.read_widen(chosen.widen, "--widen")
    if chosen.margin is not None:
        grid.margin = grids.read_margin(chosen.margin, "--margin")
    rounds = Rounds(tuning.Tuning(grid, refused), chosen.out)
    plan = rounds.plan
    plan.check_baseline()
    axis = grids.baseline_of(plan.baseline, plan.points())[0] if plan.baseline else None
    if axis in (rounds.tuning.flag, "seed"):
        raise Failure("baseline %s: %s is what is tuned or repeated, not compared" % (plan.baseline, axis))
    return plan, rounds


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
    if chosen.seeds:
        grids.set_axis(grid, "seed", chosen.seeds, "--seeds")
    if chosen.tune:
        grids.set_tune(grid, *pair(chosen.tune, "--tune"), "--tune")
    for text in chosen.variant:
        grids.add_variant(grid, text)
    return grid


def fits(run, patterns):
    """Whether one of the patterns of --only fits a run, or there is none."""
    names = [run.name, *run.labels.values(), *("%s=%s" % item for item in run.labels.items())]
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def narrow(plan, patterns):
    """The plan of those runs that a pattern fits."""
    kept = [run for run in plan.runs if fits(run, patterns)]
    if not kept:
        raise Failure("--only %s: no run fits; there is %s" % (" ".join(patterns), plan.runs[0].name))
    return grids.Plan(plan.name, plan.about, plan.baseline, plan.diverged_above, plan.axes, kept)


def check_data(runs, tuned):
    """Before anything starts: every glob finds something."""
    for run in runs:
        if "train-data" not in run.flags:
            raise Failure("there is no training data: give --train-data GLOB (data/prepare.py makes shards)")
        if tuned and "val-data" not in run.flags:
            raise Failure("tuning goes by the validation loss: give --val-data GLOB")
        for flag in ("train-data", "val-data"):
            if flag in run.flags and not glob.glob(run.flags[flag]):
                raise Failure("--%s %s: no such file" % (flag, run.flags[flag]))


def find_program(chosen):
    path = os.path.abspath(chosen.program or os.environ.get("TRAIN_GPT") or os.path.join(ROOT, "train_gpt"))
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise Failure("%s: no such program: run make first, or give --program" % path)
    return path


class Asked:
    """What the program's --dry-run says of a run: tokens of an update, updates, parameters; None where it does not say."""

    PATTERNS = {"tokens": r"^batch: (\d+) tokens", "updates": r"; (\d+) updates,", "parameters": r"^parameters: (\d+)$"}

    def __init__(self, text):
        for name, pattern in self.PATTERNS.items():
            found = re.search(pattern, text, re.MULTILINE)
            setattr(self, name, int(found.group(1)) if found else None)

    def cost(self):
        """Work of an update, for the ETA."""
        return float(self.parameters) * self.tokens if self.parameters and self.tokens else 1.0


def dry_run(run, program, *more):
    """(what the program's --dry-run says to a run's flags but its seed, why it does not take them or "")."""
    flags = ["--%s=%s" % item for item in run.flags.items() if item[0] != "seed"]
    done = subprocess.run(
        [program, "--dry-run", "--out=" + run.name, *flags, *more],  # which makes nothing there
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    said = done.stderr.decode(errors="replace").splitlines() or ["exit %d" % done.returncode]
    return done.stdout.decode(errors="replace"), said[-1] if done.returncode else ""


def ask_program(runs, program):
    """{name: Asked} of each run's flags; a Failure if the program does not take them."""
    asked, known = {}, {}
    for run in runs:
        flags = tuple(item for item in run.flags.items() if item[0] != "seed")
        if flags not in known:
            said, refusal = dry_run(run, program)
            if refusal:
                raise Failure("%s: %s" % (run.name, refusal))
            known[flags] = Asked(said)
        asked[run.name] = known[flags]
    return asked


def check_seeds(plan, rounds, program):
    """Before anything starts: the program takes every seed, those too that would come last."""
    seeds = [run.flags["seed"] for run in plan.runs if "seed" in run.flags] + (rounds.tuning.seeds if rounds else [])
    for seed in dict.fromkeys(seeds):
        refusal = dry_run(plan.runs[0], program, "--seed=" + seed)[1]
        if "--seed" in refusal:
            raise Failure("seed %s: %s" % (seed, refusal))


def ask_whole(rounds, program):
    """Values that are written as whole numbers may be those of a flag that takes others too (lr = 10, 100)."""
    tuned = rounds.tuning
    if tuned.grid.whole is None and tuned.written_whole():
        refusal = dry_run(rounds.plan.runs[0], program, "--%s=%s.5" % (tuned.flag, tuned.values[0]))[1]
        tuned.grid.whole = "not a whole number" in refusal
        rounds.look()


# ----------------------------------------------------------------------------------------------- what is done


def read_results(plan, out):
    return {run.name: metrics.read(os.path.join(out, run.name)) for run in plan.runs}


def report(plan, results, failed, chosen):
    """Table and plots; says where they are."""
    paths, rows = table.write(plan, results, failed, chosen.out)
    say_written(paths + draw(plan, rows, results, chosen), results)


def draw(plan, rows, results, chosen, *more):
    """The plots of a plan's rows, and before them those of a comparison, `more` (Tuning, Plan, rows, Claims); says what is left out."""
    if chosen.no_plots or not any(result.train for result in results.values()):
        return []
    try:
        from sweeps import plots, tuned_plots
    except ImportError:
        print("No plots: matplotlib is not installed (python3-matplotlib).")
        return []
    drawn, notes = plots.draw(plan, rows, chosen.out)
    for what in more:
        paths, said = tuned_plots.draw(*what, chosen.out)
        drawn, notes = paths + drawn, said + notes
    print("".join(note + "\n" for note in notes), end="")
    return drawn


def say_written(paths, results):
    print("Wrote %s" % " ".join(paths))
    broken = sum(len(result.broken_lines) for result in results.values())
    if broken:
        print("metrics: %s" % grids.left_out(broken, "unreadable line"))


def report_tuned(rounds, chosen):
    """The comparison, and table and plots of each setting at its best."""
    rounds.look()
    tuned, results = rounds.tuning, rounds.results
    best = tuned.plan_of_best(rounds.studies)
    rows, judged = tuned_table.rows_of(tuned, rounds.plan, rounds.studies, rounds.loss)
    claimed = claims.Claims(tuned, rows)
    tuned_table.say(tuned, rounds.plan, rows, judged, claimed)
    paths = tuned_table.write(tuned, rounds.plan, rows, judged, claimed, results, chosen.out)
    more, rows_of_best = table.write(best, results, rounds.failed, chosen.out, rounds.plan)
    drawn = draw(best, rows_of_best, results, chosen, (tuned, rounds.plan, rows, claimed))
    say_written(paths + more + drawn, results)


def list_runs(plan, results):
    for run in plan.runs:
        result = results[run.name]
        place = "%d/%s" % (result.step, result.steps) if result.state != "new" else ""
        print("%-9s %-12s %s" % (result.state, place, run.name))


def clock(seconds):
    return "%d h %02d min" % (seconds // 3600, seconds // 60 % 60) if seconds >= 60 else "%d s" % seconds


def say_how_long(plan, results, rounds, chosen):
    """How many runs are left, and how long they take at so many tokens a second."""
    speed = float(chosen.tokens_per_s)
    left = [run for run in plan.runs if results[run.name].state in ("new", "cut")]
    studies = [study for study in rounds.studies if any(fits(run, chosen.only) for run in study.every_run())] if rounds else []
    firsts = [next(iter(study.runs.values())) for study in studies]  # as long as those that its study will add
    more = [(run, *rounds.tuning.to_come(study)) for run, study in zip(firsts, studies)]
    tokens = tokens_of(left + firsts, find_program(chosen))
    work = sum(tokens[run.name] * (1 - results[run.name].step / (results[run.name].steps or math.inf)) for run in left)
    jobs_at_once = chosen.jobs or max(1, jobs.usable_cores() // chosen.threads)
    bounds = []
    for which in (1, 2):
        total = work + sum(tokens[entry[0].name] * entry[which] for entry in more)
        bounds.append((len(left) + sum(entry[which] for entry in more), total, clock(total / speed / jobs_at_once)))
    texts = ["%s, %.3g M tokens, %s" % (grids.counted(count, "run"), total / 1e6, time) for count, total, time in bounds]
    print(
        "To do: %s at %g tokens/s a run, %d at a time"
        % (" to ".join(dict.fromkeys(texts)), speed, jobs_at_once)
        + (" (the most if every grid is widened by %s)" % grids.counted(rounds.tuning.widen, "value") if texts[0] != texts[1] else "")
    )


def tokens_of(runs, program):
    """{name: tokens that a run trains on}"""
    found = {}
    planned = [grids.Run(run.name, run.labels, {"val-data": "none", **run.flags}) for run in runs]  # it need not be there yet
    for name, asked in ask_program(planned, program).items():
        if not asked.tokens or asked.updates is None:
            raise Failure("%s: %s --dry-run does not say how many tokens it trains on" % (name, program))
        found[name] = asked.tokens * asked.updates
    return found


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
        "Wrote %s: %s; to start: sbatch %s"
        % (chosen.slurm, grids.counted(len(names), "task"), shlex.quote(chosen.slurm))
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


def make_runner(runs, todo, program, chosen):
    """A Runner of `runs`, of which `todo` have no result."""
    every = jobs.usable_cores() // chosen.threads
    costs = {name: asked.cost() for name, asked in ask_program(todo, program).items()}
    return jobs.Runner(runs, program, chosen.out, chosen.jobs or max(1, every), chosen.threads, costs)


def run_all(plan, program, chosen):
    pending = [
        run for run in plan.runs if metrics.read(os.path.join(chosen.out, run.name)).state in ("new", "cut")
    ]
    runner = make_runner(plan.in_turn(), pending, program, chosen)
    print("%s, %d of them to do, %d at a time" % (grids.counted(len(plan.runs), "run"), len(pending), runner.jobs), flush=True)
    runner.run()
    report(plan, runner.results, runner.failed, chosen)
    missing = [run for run in plan.runs if not runner.is_result(run)]
    return end(missing, len(plan.runs), runner.failed, runner.stopped_by, chosen)


def going_on(missing, chosen):
    """The command that goes on: this one, without --only where that has left nothing to do."""
    words = list(sys.argv)
    while chosen.only and not any(fits(run, chosen.only) for run in missing) and "--only" in words:
        at = words.index("--only")
        del words[at : at + 2]
    return shlex.join(words)


def end(missing, every, failed, stopped_by, chosen):
    """The last lines, and the exit code. `missing`: the runs without a result."""
    for name, why in failed.items():
        print("failed: %s: %s (%s)" % (name, why, os.path.join(chosen.out, name, jobs.OUTPUT)))
    if missing:
        print("%d of %d runs have a result. To go on: %s" % (every - len(missing), every, going_on(missing, chosen)))
    if stopped_by:
        return 128 + stopped_by
    return 1 if missing else 0


def next_round(rounds, program, chosen):
    """The runs to start now; the plan that knows them is written."""
    runs = rounds.next_round(lambda runs: ask_program(runs, program))
    rounds.plan.write(chosen.out)
    return [run for run in runs if fits(run, chosen.only)]


def run_tuned(rounds, program, chosen):
    """Round after round, until the results ask for nothing more."""
    stopped_by = None
    while not stopped_by:
        runs = next_round(rounds, program, chosen)
        if not runs:
            break
        runner = make_runner(runs, runs, program, chosen)
        print("Tuning %s: %s; %d at a time" % (rounds.tuning.flag, rounds.in_words(runs), runner.jobs), flush=True)
        runner.run()
        rounds.take(runner)
        stopped_by = runner.stopped_by
    report_tuned(rounds, chosen)
    return end(rounds.missing(), len(rounds.plan.runs), rounds.failed, stopped_by, chosen)


def slurm_of_round(rounds, program, chosen):
    """An array of what the results so far ask for."""
    runs = next_round(rounds, program, chosen)
    plan = rounds.plan
    plan.runs = runs
    write_slurm(plan, rounds.results, program, chosen)
    print("That is %s. When they are done, the same command writes what comes next." % rounds.in_words(runs))


def check_speed(chosen):
    if chosen.tokens_per_s is None:
        return
    if not chosen.list:
        raise Failure("--tokens-per-s says how long a sweep takes: give --list")
    if not 0 < grids.read_number(chosen.tokens_per_s, "--tokens-per-s") < math.inf:
        raise Failure("--tokens-per-s %s: expected a number above 0" % chosen.tokens_per_s)


def sweep(arguments):
    chosen = options.parse(arguments, __doc__)
    check_speed(chosen)
    complete, rounds = make_plan(chosen)
    plan = narrow(complete, chosen.only) if chosen.only else complete
    if chosen.list:
        results = read_results(plan, chosen.out)
        list_runs(plan, results)
        return say_how_long(plan, results, rounds, chosen) or 0 if chosen.tokens_per_s else 0
    if chosen.report:
        return (report_tuned(rounds, chosen) if rounds else report(plan, read_results(plan, chosen.out), {}, chosen)) or 0
    check_data(plan.runs, bool(rounds))
    program = find_program(chosen)
    if chosen.run:
        return run_one(plan, program, chosen)
    check_seeds(complete, rounds, program)
    if rounds:
        ask_whole(rounds, program)
    os.makedirs(chosen.out, exist_ok=True)
    (rounds.plan if rounds else complete).write(chosen.out)
    if chosen.slurm:
        return (slurm_of_round(rounds, program, chosen) if rounds
                else write_slurm(plan, read_results(plan, chosen.out), program, chosen)) or 0  # fmt: skip
    return run_tuned(rounds, program, chosen) if rounds else run_all(plan, program, chosen)


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
