#!/usr/bin/env python3
"""Runs test programs and says how it went.

    test/run.py [--jobs N] RUN...

A run is a cmocka program (it speaks TAP), with its arguments if it has any ("build/test_ops test"), or a .py file,
which goes to pytest. Each gets one line with its counts and time; a failing one also shows its output. With --jobs
(default 1) up to N run at once, each with one thread; their lines come in the order of the command line all the same.
The last line is the sum: "N passed, M failed" (", K skipped"). Exit
status 1 if anything failed, or if nothing ran.
"""
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
import xml.etree.ElementTree as ElementTree

LIMIT_S = 1800  # a program that takes longer hangs


def run(command, environment):
    """Returns (exit status, output); a program over the time limit has status 'timeout'."""
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=LIMIT_S, check=False)
        return done.returncode, done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        return "timeout", (error.stdout or b"").decode(errors="replace")


def run_cmocka(path, environment):
    """(passed, failed, skipped, output) of one cmocka program."""
    status, output = run(path.split(), dict(environment, CMOCKA_MESSAGE_OUTPUT="TAP"))
    results = re.findall(r"^(ok|not ok) \d+(.*)$", output, re.MULTILINE)
    planned = sum(int(n) for n in re.findall(r"^1\.\.(\d+)$", output, re.MULTILINE))
    ran = [verdict for verdict, rest in results if "# SKIP" not in rest.upper()]  # cmocka skips with "not ok"
    passed, failed, skipped = ran.count("ok"), ran.count("not ok"), len(results) - len(ran)
    missing = planned - len(results)  # it died on the way
    if missing > 0:
        failed += missing
    if status != 0 and failed == 0 or planned == 0:
        failed += 1
        output += f"\n(exit status {status}, {planned} tests planned, {len(results)} reported)\n"
    return passed, failed, skipped, output


def run_pytest(path, environment):
    """(passed, failed, skipped, output) of one pytest file."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml", report.name, path]
        status, output = run(command, environment)
        try:
            suites = list(ElementTree.parse(report.name).getroot().iter("testsuite"))
        except ElementTree.ParseError:
            return 0, 1, 0, output + f"\n(exit status {status})\n"
    count = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    if status not in (0, 5) and failed == 0 or status == 5:
        failed += 1
    return count["tests"] - count["failures"] - count["errors"] - count["skipped"], failed, count["skipped"], output


def run_one(path, environment):
    begin = time.monotonic()
    counts = (run_pytest if path.endswith(".py") else run_cmocka)(path, environment)
    return (*counts, time.monotonic() - begin)


def main(paths, jobs):
    # OpenMP threads that spin while they wait starve each other when more programs run than cores are there.
    environment = dict({"OMP_WAIT_POLICY": "passive"}, **os.environ)
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = "1"
    totals = [0, 0, 0]
    pool = ThreadPoolExecutor(max_workers=jobs)
    for path, run_of_path in [(path, pool.submit(run_one, path, environment)) for path in paths]:
        passed, failed, skipped, output, seconds = run_of_path.result()
        for i, value in enumerate((passed, failed, skipped)):
            totals[i] += value
        verdict = "FAILED" if failed else "ok"
        print(f"{verdict:7}{path:56}{passed:5} passed {failed:3} failed {skipped:3} skipped {seconds:7.1f} s",
              flush=True)
        if failed:
            print("\n".join("    " + line for line in output.splitlines()[-200:]), flush=True)
    tail = f", {totals[2]} skipped" if totals[2] else ""
    print(f"{totals[0]} passed, {totals[1]} failed{tail}")
    return 1 if totals[1] or not totals[0] else 0


if __name__ == "__main__":
    arguments = sys.argv[1:]
    at_once = 1
    if arguments[:1] == ["--jobs"] and arguments[1:2] and arguments[1].isdigit():
        at_once, arguments = int(arguments[1]), arguments[2:]
    if not arguments or arguments[0].startswith("-") or at_once < 1:
        sys.exit(__doc__)
    sys.exit(main(arguments, at_once))
