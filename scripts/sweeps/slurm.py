"""How does a sweep become a Slurm array? One task a run, through sweep.py: it skips and resumes."""
import os
import shlex

from sweeps.grid import Failure, counted

SECONDS_TO_STOP = 120  # Slurm's warning before the time limit: long enough for a step and a checkpoint


def check_options(options):
    for option in options:
        if not option.startswith("-") or not option.isprintable():
            raise Failure("--sbatch %s: expected an option of sbatch, as --sbatch=--time=2:00:00" % option)


def script(plan, names, out, program, sweep, threads, at_once, options):
    """The text of the array script for the runs `names`."""
    limit = "%%%d" % at_once if at_once else ""
    header = [
        "--job-name=sweep-%s" % plan.name,
        "--array=0-%d%s" % (len(names) - 1, limit),
        "--cpus-per-task=%d" % threads,
        "--signal=B:TERM@%d" % SECONDS_TO_STOP,
        *options,
    ]
    again = "%s --out %s --report" % (shlex.quote(sweep), shlex.quote(out))
    lines = ["#!/bin/bash"] + ["#SBATCH %s" % option for option in header]
    lines += [
        "# %s. Submitted again, it skips what is done and resumes what was cut." % counted(len(names), "run"),
        "# The table and the plots, any time: %s" % again.replace("\n", " "),
        "names=(",
    ]
    lines += ["    %s" % shlex.quote(name) for name in names]
    lines += [
        ")",
        "cd %s || exit 1" % shlex.quote(os.getcwd()),
        # exec: Slurm's signal reaches sweep.py itself, which asks the run for a checkpoint.
        'exec python3 %s --out %s --program %s --threads "${SLURM_CPUS_PER_TASK:-%d}" \\'
        % (shlex.quote(sweep), shlex.quote(out), shlex.quote(program), threads),
        '    --run "${names[$SLURM_ARRAY_TASK_ID]}"',
        "",
    ]
    return "\n".join(lines)
