"""disturbing.py: what the tests share that kill or stop a rank of a run at some instant: README's loop around launch.sh, its
processes, and what it was at when. Linux's /proc and the standard library only.
"""

import json
import os
import re
import signal
import subprocess
import tempfile
import time

from program import PROGRAM, ROOT, environment, file_bytes

# A loaded machine's seconds beside what the program itself takes, which README says: from the end of --timeout on, ranks ask
# each other who is there (3), let the others speak (2) and let go of the library (10); mpirun then ends what is left.
GRACE_S = 45
START_S = 120  # until something is seen of a run
TIMEOUT_S = 3
STEPS, SAVE_EVERY, VAL_EVERY = 40, 3, 2
PHASES = "start", "steps", "validation", "saving", "end"

# What ends, and with what, is told between the attempts.
LOOP = """
launch() {{ {launch} "$@"; local code=$?; echo "attempt ended with $code"; return $code; }}
{loop}
"""


def loop_of_readme(count, command):
    """As it stands there, for this command."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        line, = re.findall(r"^ +(until scripts/launch\.sh .*)$", file.read(), re.MULTILINE)
    words = line.replace("scripts/launch.sh 8 ./train_gpt …", f"launch {count} " + '"$@"')
    assert words != line
    return ["bash", "-c", LOOP.format(launch=os.path.join(ROOT, "scripts", "launch.sh"), loop=words), "loop", *map(str, command)]


class Disturbed:
    """The loop, running: started by `with`; every process of it is gone behind that."""

    numbers = iter(range(10**9))

    def __init__(self, count, command, out, program=PROGRAM, **env):
        self.count, self.out, self.program = count, str(out), os.path.realpath(program)
        self.mark = f"DISTURBED={os.getpid()}.{next(self.numbers)}"
        self.log = tempfile.TemporaryFile()
        name, value = self.mark.split("=")
        self.child = subprocess.Popen(loop_of_readme(count, [program, *command]), stdout=self.log, stderr=subprocess.STDOUT,
                                      stdin=subprocess.DEVNULL, env=environment(**{name: value}, **env))
        self.seen = 0  # lines of metrics.jsonl before this attempt

    def __enter__(self):
        return self

    def __exit__(self, *what):
        for _ in range(100):
            for pid in self.processes():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if self.child.poll() is not None and not self.processes():
                break
            time.sleep(0.05)
        self.log.close()

    def processes(self):
        """{pid: rank, or None} of all that the loop has started, whose child it may be by now."""
        found = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    words = file.read().split(b"\0")
                if self.mark.encode() not in words:
                    continue
                runs = os.readlink(f"/proc/{name}/exe")
            except OSError:  # gone, or another's
                continue
            ranks = [int(word[21:]) for word in words if word.startswith(b"OMPI_COMM_WORLD_RANK=")]
            found[int(name)] = ranks[0] if ranks and runs == self.program else None
        return found

    def ranks(self):
        return {rank: pid for pid, rank in self.processes().items() if rank is not None}

    def said(self):
        """What each attempt has said, and its code; the last one's is None while it runs."""
        text = os.pread(self.log.fileno(), 1 << 24, 0).decode(errors="replace")
        parts = re.split(r"^attempt ended with (\d+)\n", text, flags=re.MULTILINE)
        return [(parts[i], int(parts[i + 1]) if i + 1 < len(parts) else None) for i in range(0, len(parts), 2)]

    def ended(self):
        return len(self.said()) - 1

    def lines(self):
        """The whole lines that metrics.jsonl has got in this attempt."""
        try:
            return [json.loads(line) for line in file_bytes(self.out, "metrics.jsonl").split(b"\n")[self.seen:-1]]
        except FileNotFoundError:
            return []

    def wait(self, what, condition, seconds):
        """When it was true; None if the attempt ended before."""
        begun, attempt = time.monotonic(), self.ended()
        while time.monotonic() - begun < seconds:
            if condition():
                return time.monotonic()
            if self.ended() > attempt or self.child.poll() is not None:
                return None
            time.sleep(0.001)
        raise AssertionError(f"{what}: not within {seconds} s: {self.processes()}\n{self.said()}")

    def is_at(self, phase, steps):
        """Whether this attempt is in the phase, for all that its files say, after so many steps of its own."""
        if phase == "start":
            return len(self.ranks()) == self.count
        lines = self.lines()
        trained = [line["step"] for line in lines if line["type"] == "train"]
        if phase == "end":
            return STEPS in trained
        if len(trained) < steps:
            return False
        if phase == "validation":
            return lines[-1]["type"] == "train" and trained[-1] % VAL_EVERY == 0
        if phase == "saving":
            return any(name.endswith(".partial") for name in os.listdir(self.out))
        return True

    def disturb(self, phase, number, victim, draw):
        """Sends the signal at an instant of the phase. What the attempt then said, its code, and how long its end took; None
        if it had ended before."""
        attempt, steps = self.ended(), draw.randint(1, 5)
        if self.wait(phase, lambda: self.is_at(phase, steps), START_S) is None:
            return None
        time.sleep(draw.uniform(0, 0.4 if phase == "start" else 0.15 if phase == "end" else 0.02))
        ranks, all_of_it = self.ranks(), set(self.processes()) - {self.child.pid}
        try:
            os.kill(ranks[victim], number)
        except (KeyError, ProcessLookupError):  # it ended meanwhile
            return None
        begun = time.monotonic()
        self.wait(f"the end after {phase}", lambda: self.ended() > attempt, TIMEOUT_S + GRACE_S)
        took = time.monotonic() - begun
        while all_of_it & set(self.processes()):
            assert time.monotonic() - begun < TIMEOUT_S + GRACE_S, f"left behind: {all_of_it & set(self.processes())}"
            time.sleep(0.01)
        said, code = self.said()[attempt]
        self.seen = file_bytes(self.out, "metrics.jsonl").count(b"\n") if os.path.exists(f"{self.out}/metrics.jsonl") else 0
        return said, code, took


def names_it(said, victim, count, number):
    """Whether what was said tells which rank is gone, or silent: in words; or all others have spoken."""
    if number == signal.SIGKILL and re.search(rf"process rank {victim} .* exited on signal 9", said):
        return True
    waiting = {int(rank) for rank in re.findall(r"rank (\d+) of \d+,? .*waited", said)}
    others = set(range(count)) - {victim}
    if "MPI_Init" in said:  # where nobody can ask who is there, and the first that has waited too long ends all
        return bool(others & waiting)
    return f"rank {victim} says nothing" in said or waiting == others


def outlive(count, command, out, phases, draw, program=PROGRAM, **env):
    """A run of which a rank is killed or stopped in each of these phases. A row for each: (phase, signal, victim, code, seconds)."""
    rows = []
    with Disturbed(count, command, out, program, **env) as run:
        for phase in phases:
            number, victim = draw.choice([signal.SIGKILL, signal.SIGSTOP]), draw.randrange(count)
            met = run.disturb(phase, number, victim, draw)
            if met is None:
                rows.append((phase, number, victim, None, 0))
                continue
            said, code, took = met
            rows.append((phase, number, victim, code, took))
            # One that was stopped when the others had ended is killed by launch.sh.
            killed = number == signal.SIGKILL or (phase == "end" and "the other ranks have ended" in said)
            assert code == (128 + 9 if killed else 4) or (code == 0 and phase == "end"), (rows, run.said())
            assert code == 0 or names_it(said, victim, count, signal.SIGKILL if killed else number), (rows, said)
        assert run.child.wait(START_S) == 0, (rows, run.said())
    return rows
