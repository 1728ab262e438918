"""What the data tools say on stderr: one-line errors with an exit code, and progress for long work."""
import re
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


class Progress:
    """A line that says how far work of over two seconds is: redrawn on a terminal, else every ten."""

    def __init__(self, what, stream=None, quiet_seconds=2.0):
        self.what = what
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
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
            self.stream.write("\r" + line.ljust(self.width))
            self.width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def clear(self):
        """Takes the line away, so that what is printed next begins a line of its own."""
        if self.width:
            self.stream.write("\r" + " " * self.width + "\r")
            self.stream.flush()
            self.width = 0
