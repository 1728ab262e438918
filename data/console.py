"""What the data tools say on stderr: one-line errors with an exit code, and progress for long work."""
import argparse
import contextlib
import os
import re
import signal
import sys
import time

EXIT_RUNTIME = 1  # the machine failed: the disk is full, say
EXIT_USAGE = 2  # bad usage or bad input


# Names and values in a message come from outside; these would break its line or move a terminal's cursor.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MESSAGE_CHARACTERS = 1000


class Failure(Exception):
    """What a user, a file or the machine did wrong, as one line; the program ends with exit_code."""

    def __init__(self, message, exit_code=EXIT_USAGE):
        super().__init__(CONTROLS.sub("?", message)[:MESSAGE_CHARACTERS])
        self.exit_code = exit_code


def os_failure(path, error, exit_code=EXIT_RUNTIME):
    """The Failure for an OSError: "PATH: No space left on device"."""
    return Failure("%s: %s" % (path, error.strerror or error), exit_code)


class Help(Exception):
    """--help was asked for; the text is its argument."""


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are Failures: one line. Its help is printed by run_tool(), which sees whether it can."""

    def print_help(self, file=None):
        raise Help(self.format_help().rstrip("\n"))

    def error(self, message):
        raise Failure("%s (--help says more)" % message)


def say(line):
    """A line on stderr, which may be closed or full: that stops no work."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(CONTROLS.sub("?", line) + "\n")
        sys.stderr.flush()


def stop(signum, frame):
    raise KeyboardInterrupt


def run_tool(name, work, arguments):
    """work(arguments) → what to print on stdout; returns the exit code. Whatever goes wrong is one line on stderr.

    SIGTERM and a closed terminal end it as Ctrl-C does; a signal that was ignored from the start stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    with contextlib.suppress(AttributeError):  # names that this encoding does not hold must not stop the last line
        sys.stdout.reconfigure(errors="surrogateescape" if sys.stdout.encoding == "utf-8" else "backslashreplace")
    code, text = 0, ""
    try:
        text = work(arguments)
    except Help as asked:
        text = str(asked)
    except Failure as failure:
        say("%s: %s" % (name, failure))
        code = failure.exit_code
    except KeyboardInterrupt:
        say("%s: interrupted; nothing half-written was left" % name)
        code = EXIT_RUNTIME
    except MemoryError:
        say("%s: out of memory" % name)
        code = EXIT_RUNTIME
    except OSError as error:
        say("%s: %s" % (name, os_failure(error.filename or "the system", error)))
        code = EXIT_RUNTIME
    if not code:
        try:
            if sys.stdout is None:
                raise OSError("it is closed")
            print(text, flush=True)
        except (OSError, ValueError) as error:
            say("%s: cannot write to stdout: %s" % (name, getattr(error, "strerror", None) or error))
            code = EXIT_RUNTIME
            leave_stdout_alone()
    return code


def leave_stdout_alone():
    """What could not be written is not tried again at exit, where Python would make a traceback of it."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), sys.stdout.fileno())


@contextlib.contextmanager
def uninterrupted():
    """Signals wait until a short piece of work is whole."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Progress:
    """A line that says how far work of over two seconds is: redrawn on a terminal, else every ten."""

    def __init__(self, what, stream=None, quiet_seconds=2.0):
        self.what = what
        self.stream = stream or sys.stderr
        self.terminal = self.stream is not None and self.stream.isatty()
        self.start = time.monotonic()
        self.next = self.start + quiet_seconds
        self.width = 0

    def update(self, n_bytes, share_done):
        """n_bytes made so far; share_done from 0 to 1, or 0 where it is not known."""
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + (0.2 if self.terminal else 10.0)
        elapsed = now - self.start
        line = "%s: %.1f MB, %.1f MB/s" % (self.what, n_bytes / 1e6, n_bytes / 1e6 / elapsed)
        if share_done > 0:
            left = elapsed * (1 - min(share_done, 1)) / share_done
            line += ", %.0f %%, %d:%02d left" % (100 * min(share_done, 1), left // 60, left % 60)
        if self.terminal:
            self._write("\r" + line.ljust(self.width))
            self.width = len(line)
        else:
            self._write(line + "\n")

    def _write(self, text):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed or full: that stops no work
            self.stream.write(text)
            self.stream.flush()

    def clear(self):
        """Takes the line away, so that what is printed next begins a line of its own."""
        if self.width:
            self._write("\r" + " " * self.width + "\r")
            self.width = 0
