#!/usr/bin/env python3
"""Runs test programs and says how it went.

    test/run.py [--jobs N] RUN... [--alone RUN...]

A run is a cmocka program (it speaks TAP) or a .py file, which goes to pytest, or parts of one (test/test_x.py::test_y
test/test_x.py::test_z), with arguments if it has any ("build/test_ops test"), and before it what it finds in its
environment ("OPS_SAMPLE=1 build/test_ops"). Each gets one line, when it ends, with its counts, its time, and the
processors' time that it took; a failing one also shows its output.

With --jobs (default 1) up to N run at once, each with one thread. After --alone come those that need every core, or
measure time: one after the other, at the end.

The last line is the sum: "N passed, M failed" (", K skipped"); before it stand the time and the names of what failed.
Exit status 1 if anything failed, or if nothing ran.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree

LIMIT_S = 5400 if os.environ.get("TEST_ALL") else 1800  # a program that takes longer hangs
QUIET_S = 60  # nothing was printed for so long: say what is running
SHOWN_LINES = 200  # of a failing run's output, at most


class Run:
    """One program on its way. `ended`: (passed, failed, skipped) when it has."""

    def __init__(self, text):
        words = shlex.split(text)
        self.variables = {}
        while words and re.match(r"[A-Z_]+=", words[0]):
            name, self.variables[name] = words.pop(0).split("=", 1)
        if not words:
            raise ValueError("no program in %r" % text)
        self.words, self.failures, self.report = words, [], None
        self.scripted = words[0].split("::")[0].endswith(".py")
        self.name = " ".join(words)
        if "::" in self.name:
            self.name = "%s (%d of its tests)" % (words[0].split("::")[0], len(words))

    def start(self, environment):
        self.begin, self.file = time.monotonic(), tempfile.TemporaryFile()
        command = self.words
        environment = dict(environment, **self.variables)
        if not self.scripted:
            environment["CMOCKA_MESSAGE_OUTPUT"] = "TAP"
        else:
            self.report = tempfile.NamedTemporaryFile(suffix=".xml")
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml", self.report.name]
            command += self.words
        try:
            self.process = subprocess.Popen(command, env=environment, stdout=self.file, stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            self.process = None
            self.end("%s: %s" % (command[0], error.strerror), 0.0)
        return self

    def has_ended(self):
        if self.process:
            late = time.monotonic() - self.begin > LIMIT_S
            if late:
                self.kill()
            pid, status, used = os.wait4(self.process.pid, 0 if late else os.WNOHANG)
            if pid == 0:
                return False
            self.process.returncode = os.waitstatus_to_exitcode(status)
            self.end("timeout" if late else self.process.returncode, used.ru_utime + used.ru_stime)
        return True

    def kill(self):
        """With its process group: what stays behind takes the processors from the others."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):  # a signal's end may come just behind wait4
                os.killpg(self.process.pid, signal.SIGKILL)

    def end(self, status, processor_s):
        self.process, self.seconds, self.processor_s = None, time.monotonic() - self.begin, processor_s
        self.file.seek(0)
        self.output = self.file.read().decode(errors="replace")
        self.file.close()
        self.ended = self.count_pytest(status) if self.scripted else self.count_tap(status)

    def count_tap(self, status):
        results = re.findall(r"^(ok|not ok) \d+(.*)$", self.output, re.MULTILINE)
        planned = sum(int(n) for n in re.findall(r"^1\.\.(\d+)$", self.output, re.MULTILINE))
        ran = [(verdict, rest) for verdict, rest in results if "# SKIP" not in rest.upper()]  # cmocka skips with "not ok"
        self.failures = [rest.strip(" -") for verdict, rest in ran if verdict == "not ok"]
        missing = planned - len(results)  # it died on the way
        failed = len(self.failures) + max(0, missing)
        if status != 0 and failed == 0 or planned == 0:
            failed += 1
            self.output += f"\n(exit status {status}, {planned} tests planned, {len(results)} reported)\n"
        return len(ran) - len(self.failures), failed, len(results) - len(ran)

    def count_pytest(self, status):
        try:
            suites = list(ElementTree.parse(self.report.name).getroot().iter("testsuite"))
        except ElementTree.ParseError:
            self.output += f"\n(exit status {status})\n"
            return 0, 1, 0
        finally:
            self.report.close()
        keys = ("tests", "failures", "errors", "skipped")
        tests, failures, errors, skipped = (sum(int(suite.get(key, 0)) for suite in suites) for key in keys)
        self.failures = [case.get("name") for suite in suites for case in suite.iter("testcase")
                         if case.find("failure") is not None or case.find("error") is not None]  # fmt: skip
        failed = failures + errors
        if status not in (0, 5) and failed == 0 or status == 5:
            failed += 1
        return tests - failures - errors - skipped, failed, skipped

    def say(self):
        passed, failed, skipped = self.ended
        print(f"{'FAILED' if failed else 'ok':7}{self.name:56}{passed:5} passed {failed:3} failed {skipped:3} skipped"
              f" {self.seconds:7.1f} s {self.processor_s:7.1f} cpu s", flush=True)  # fmt: skip
        if failed:
            print("\n".join("    " + line for line in self.of_interest()[-SHOWN_LINES:]), flush=True)

    def of_interest(self):
        """A failing run's output, less what TAP says of the tests that are not to blame."""
        return [line for line in self.output.splitlines() if self.scripted or not re.match(r"ok \d+|not ok \d+ # SKIP", line)]


def run_all(runs, jobs, environment, done):
    """Runs them, at most `jobs` at once, and appends each to `done` as it ends."""
    waiting, running, printed = list(runs), [], time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(waiting.pop(0).start(environment))
            for run in [run for run in running if run.has_ended()]:
                running.remove(run)
                run.say()
                done.append(run)
                printed = time.monotonic()
            if time.monotonic() - printed > QUIET_S:
                printed = time.monotonic()
                still = ", ".join(f"{run.name} ({printed - run.begin:.0f} s)" for run in running)
                print(f"       still running: {still}; {len(waiting)} to come", flush=True)
            time.sleep(0.02)
    finally:  # interrupted
        for run in running:
            run.kill()


def main(runs, alone, jobs):
    # OpenMP threads that spin while they wait starve each other when more programs run than cores are there.
    environment = dict({"OMP_WAIT_POLICY": "passive"}, **os.environ)
    begin, done = time.monotonic(), []
    run_all(runs, jobs, dict(environment, OMP_NUM_THREADS="1") if jobs > 1 else environment, done)
    run_all(alone, 1, environment, done)
    passed, failed, skipped = (sum(run.ended[i] for run in done) for i in range(3))
    for run in done:
        if run.ended[1]:
            print(f"failed: {run.name}" + "".join(f"\n    {name}" for name in run.failures[:20]))
    seconds, processor_s = time.monotonic() - begin, sum(run.processor_s for run in done)
    print(f"{len(done)} runs in {seconds / 60:.1f} minutes, {processor_s / 60:.1f} minutes of processors")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


def parse(arguments):
    """(runs, those that run alone, jobs), or None."""
    jobs = 1
    if arguments[:1] == ["--jobs"] and arguments[1:2] and arguments[1].isdigit():
        jobs, arguments = int(arguments[1]), arguments[2:]
    cut = arguments.index("--alone") if "--alone" in arguments else len(arguments)
    runs, alone = arguments[:cut], arguments[cut + 1 :]
    if jobs < 1 or not runs + alone or any(run.startswith("-") for run in runs + alone):
        return None
    return [Run(run) for run in runs], [Run(run) for run in alone], jobs


if __name__ == "__main__":
    try:
        parsed = parse(sys.argv[1:])
    except ValueError as error:
        sys.exit("run.py: %s" % error)
    if not parsed:
        sys.exit(__doc__)
    for ending in signal.SIGTERM, signal.SIGHUP:  # which the runs, in sessions of their own, do not get: by way of run_all's end
        if signal.getsignal(ending) != signal.SIG_IGN:  # nohup
            signal.signal(ending, lambda number, frame: sys.exit(128 + number))
    try:
        sys.exit(main(*parsed))
    except KeyboardInterrupt:
        sys.exit("run.py: interrupted")
