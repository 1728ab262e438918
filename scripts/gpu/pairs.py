"""How much longer does one take than the other? Two programs that train, run in turns, and an interval for
the ratio.

A machine's speed drifts by more than the differences that are looked for. So both programs are started, one
is stopped (SIGSTOP) while the other runs some steps, then they change places; each turn of the second is
compared with the mean of the first's turns before and after it. A stopped program holds memory but no time.
"""

import ctypes
import math
import os
import re
import signal
import subprocess
import threading
import time

STEP = re.compile(rb"^step (\d+)/")
FEWEST = 6  # turns from which the median has an interval of 95 %
SETTLING = (
    2  # steps after a turn begins that are not counted: the first contains the pause, the second its echo
)


LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def die_with_parent():
    """For preexec_fn: a program must not go on, and hold a GPU, when who started it was killed."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class RunFailed(Exception):
    """A program ended, or said nothing in time; the text says what it said last."""


class Run:
    """A program that prints a line `step N/…` as each step ends, and the times when those lines came."""

    def __init__(self, command, env=None, stdin=None):
        self.command = [str(word) for word in command]
        self.times, self.lines, self.last = [], [], []
        self.changed = threading.Condition()
        self.ended = False
        self.child = subprocess.Popen(
            self.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=stdin,
            env=env,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.child.stdout:
            now = time.monotonic()
            with self.changed:
                if STEP.match(line):
                    self.times.append(now)
                else:
                    self.lines.append(line.decode(errors="replace").rstrip())
                self.last = (self.last + [line.decode(errors="replace").rstrip()])[-5:]
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def wait(self, ready, deadline):
        """Until ready() is true; RunFailed if the program ends before, or time is over."""
        with self.changed:
            while not ready():
                left = deadline - time.monotonic()
                if self.ended:
                    raise RunFailed(f"the program ended: {' | '.join(self.last)}")
                if left <= 0:
                    raise RunFailed(f"no time left; last output: {' | '.join(self.last)}")
                self.changed.wait(left)

    def wait_steps(self, count, deadline):
        self.wait(lambda: len(self.times) >= count, deadline)

    def turn(self, seconds, deadline, fewest=2):
        """Runs for some seconds and at least `fewest` steps; seconds a step, without the first SETTLING
        ones."""
        self.resume()
        first = len(self.times) + SETTLING
        self.wait_steps(first + fewest, deadline)
        begin = self.times[first - 1]
        with self.changed:
            while time.monotonic() - begin < seconds and not self.ended and time.monotonic() < deadline:
                self.changed.wait(min(seconds, 0.05))
        count = len(self.times) - first
        return (self.times[first - 1 + count] - begin) / count

    def signal(self, number):
        if self.child.poll() is None:
            os.killpg(self.child.pid, number)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def ratios(a, b, rounds, seconds, deadline):
    """b's seconds a step over a's, one number a round, as many as end before the deadline. A program that
    fails after six rounds (a median then has an interval) ends them; before, RunFailed."""
    found = []
    try:
        b.pause()
        before = a.turn(seconds, deadline)
        for _ in range(rounds):
            a.pause()
            _drain(before)
            own = b.turn(seconds, deadline)
            b.pause()
            _drain(own)
            after = a.turn(seconds, deadline)
            found.append(own / ((before + after) / 2))
            before = after
        a.pause()
    except RunFailed:
        a.pause(), b.pause()
        if len(found) < FEWEST and time.monotonic() < deadline or not found:
            raise
    return found


def _drain(step_seconds):
    """What a stopped program has already queued on the GPU still runs: at most two steps of it."""
    time.sleep(min(2 * step_seconds, 2))


def median(values):
    ordered = sorted(values)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if n else None


def interval(values, confidence=0.95):
    """(low, high) for the median of what the values are drawn from, by order statistics: no distribution is
    assumed. None with fewer than FEWEST values."""
    ordered, n = sorted(values), len(values)
    best = None
    for k in range(
        n // 2
    ):  # the median is below the k-th smallest with probability P(at most k of n coins fall)
        below = sum(math.comb(n, i) for i in range(k + 1)) / 2.0**n
        if 1 - 2 * below >= confidence:
            best = (ordered[k], ordered[n - 1 - k])
    return best


def summary(values):
    low, high = interval(values) or (None, None)
    shorten = lambda x: None if x is None else round(x, 5)
    return {
        "ratio": shorten(median(values)),
        "low": shorten(low),
        "high": shorten(high),
        "pairs": len(values),
    }
