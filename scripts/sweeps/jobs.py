"""How are the runs run: several at a time, each once, and what is left when someone stops it?

Every run is a train_gpt process of its own with --resume auto. While it lives it holds a lock on .locks/NAME
(the descriptor is inherited), so that no second sweep starts it again, even if this one was killed.
"""
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from sweeps import metrics
from sweeps.grid import counted

TICK_S = 0.1
HEARTBEAT_S = 60  # between progress lines where there is no terminal
OUTPUT = "output.txt"  # stdout and stderr of a run, in its directory
EXIT_DIVERGED = 3


def usable_cores():
    return len(os.sched_getaffinity(0))


def command_of(run, program, out):
    words = [program]
    for flag, value in run.flags.items():
        words.append("--%s=%s" % (flag, value))
    return words + ["--out=%s" % os.path.join(out, run.name), "--resume=auto"]


def lock(out, name):
    """A descriptor that holds the run's lock, or None if another process does."""
    folder = os.path.join(out, ".locks")
    os.makedirs(folder, exist_ok=True)
    descriptor = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor
    except BlockingIOError:
        os.close(descriptor)
        return None


class Job:
    """A run that is running. `cost`: work of one of its steps, in any unit that all share."""

    def __init__(self, run, runner, descriptor):
        directory = os.path.join(runner.out, run.name)
        os.makedirs(directory, exist_ok=True)
        self.run, self.cost, self.total = run, runner.costs.get(run.name, 1.0), run.steps()
        self.before = metrics.read(directory).step
        self.tail = metrics.Tail(directory)
        self.output = os.path.join(directory, OUTPUT)
        with open(self.output, "ab") as output:
            self.output_from = output.tell()
            # A session of its own: Ctrl-C reaches the sweep alone, which then asks each run to stop, once.
            self.process = subprocess.Popen(
                command_of(run, runner.program, runner.out),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=runner.environment,
                pass_fds=(descriptor,),
                start_new_session=True,
            )

    def work_done(self):
        """Of this call."""
        return self.cost * max(0, self.tail.step - self.before)

    def last_words(self):
        """What it said in the end: the program's own message if there is one."""
        code = self.process.returncode
        with open(self.output, "rb") as output:
            output.seek(max(self.output_from, os.path.getsize(self.output) - 8192))
            lines = [line for line in output.read().decode(errors="replace").splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("train_gpt: ")] or lines
        if code < 0:
            return "killed by %s" % signal.Signals(-code).name
        return re.sub(r"[\x00-\x1f\x7f]", " ", said[-1])[:400] if said else "exit %d without a word" % code


class Runner:
    """Runs what is not done. After run(): `results` by name, `failed` {name: why}, `elsewhere` [name]."""

    def __init__(self, runs, program, out, jobs=1, threads=1, costs=None):
        self.runs, self.program, self.out, self.jobs = runs, program, out, jobs
        self.costs = costs or {}
        self.environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        if jobs * threads > usable_cores():
            self.environment.setdefault(
                "OMP_WAIT_POLICY", "passive"
            )  # spinning threads would starve each other
        self.results = {run.name: metrics.read(os.path.join(out, run.name)) for run in runs}
        self.failed, self.elsewhere = {}, []
        self.signals, self.obeyed = [], 0
        self.running, self.stopped_by, self.work_done, self.started = [], None, 0.0, time.monotonic()
        self.terminal, self.said = sys.stdout.isatty(), time.monotonic()

    # -------------------------------------------------------------------------------------------- the loop

    def run(self):
        waiting = [run for run in self.runs if not self.is_result(run)]
        handlers = {
            number: signal.signal(number, self.on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            while self.running or (waiting and not self.stopped_by):
                while waiting and len(self.running) < self.jobs and not self.stopped_by:
                    self.start(waiting.pop(0))
                time.sleep(TICK_S)
                self.obey_signals()
                for job in list(self.running):
                    job.tail.look()
                    if job.process.poll() is not None:
                        self.running.remove(job)
                        self.finish(job, waiting)
                self.show_progress(waiting)
        finally:
            for job in self.running:
                job.process.terminate()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def is_result(self, run):
        return run.name not in self.failed and self.results[run.name].state in ("done", "diverged")

    def on_signal(self, number, _frame):
        self.signals.append(number)

    def obey_signals(self):
        """The first asks the runs to stop after their step; the second kills them."""
        if len(self.signals) == self.obeyed:
            return
        if self.running and not self.stopped_by:
            self.say("Stopping after the checkpoints of %s (once more: at once, without)" % counted(len(self.running), "run"))
        self.obeyed, self.stopped_by = len(self.signals), self.signals[0]
        for job in self.running:
            (job.process.terminate if self.obeyed == 1 else job.process.kill)()

    def start(self, run):
        descriptor = lock(self.out, run.name)
        if descriptor is None:
            self.elsewhere.append(run.name)
            self.say("elsewhere %s: another process runs it" % run.name)
            return
        try:
            # Another sweep may have run it meanwhile.
            self.results[run.name] = metrics.read(os.path.join(self.out, run.name))
            if not self.is_result(run):
                self.running.append(Job(run, self, descriptor))
        finally:
            os.close(descriptor)

    def finish(self, job, waiting):
        run, code = job.run, job.process.returncode
        self.work_done += job.work_done()
        result = self.results[run.name] = metrics.read(os.path.join(self.out, run.name))
        if code == EXIT_DIVERGED and result.state != "diverged":
            result.state, result.reason = "diverged", "not finite at step %d" % result.step
        asked = self.stopped_by and code in (-signal.SIGTERM, -signal.SIGKILL)
        if code not in (0, EXIT_DIVERGED) and not asked and result.state != "diverged":
            result.state = "cut" if result.state == "done" else result.state
            self.failed[run.name] = job.last_words()
            self.say("FAILED    %s: %s" % (run.name, self.failed[run.name]))
            return
        text = {
            "done": "val %.4f" % result.final_val() if result.val else "train %.4f" % result.train_loss(),
            "diverged": result.reason,
        }.get(result.state, "at step %d of %s" % (result.step, result.steps))
        self.say("%-9s %s  %s  (%s)" % (result.state, run.name, text, self.summary(waiting)))

    # -------------------------------------------------------------------------------------------- progress

    def remaining(self, waiting):
        """Work that is left, or None if some run does not say how many steps it has."""
        work = 0.0
        for run in waiting:
            if run.steps() is None:
                return None
            work += self.costs.get(run.name, 1.0) * max(0, run.steps() - self.results[run.name].step)
        for job in self.running:
            if job.total is None:
                return None
            work += job.cost * (job.total - max(job.before, job.tail.step))
        return work

    def eta(self, waiting):
        work, done = self.remaining(waiting), self.work_done + sum(job.work_done() for job in self.running)
        if not work or done <= 0:
            return ""
        seconds = round((time.monotonic() - self.started) * work / done)
        clock = "%d:%02d" % (seconds // 60, seconds % 60)
        if seconds >= 3600:
            clock = "%d:%02d:%02d" % (seconds // 3600, seconds // 60 % 60, seconds % 60)
        return ", ETA " + clock

    def summary(self, waiting):
        states = [
            "failed" if run.name in self.failed else self.results[run.name].state for run in self.runs
        ]
        text = "%d/%d done" % (states.count("done") + states.count("diverged"), len(states))
        for word, count in (("diverged", states.count("diverged")), ("failed", len(self.failed))):
            text += ", %d %s" % (count, word) if count else ""
        return text + self.eta(waiting)

    def show_progress(self, waiting):
        if not (self.terminal or time.monotonic() - self.said > HEARTBEAT_S):
            return
        parts = [self.summary(waiting)]
        for job in self.running:
            parts.append(
                "%s %d/%s %.3f" % (job.run.name[:-9], job.tail.step, job.total or "?", job.tail.loss)
            )
        line = " | ".join(parts)
        if self.terminal:
            print("\r%s\033[K" % line[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        else:
            self.say(line)

    def say(self, line):
        self.said = time.monotonic()
        print(("\r\033[K" if self.terminal else "") + line, flush=True)
