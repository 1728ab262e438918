#!/usr/bin/env python3
"""Runs a command as one of several ranks, and leaves its peak resident memory in a file.

    mpirun -n 2 test/peak.py FILE COMMAND…      bytes of each rank, in FILE.RANK; ends as the command does

A launcher stands between, so that nobody else sees what a rank took.
"""
import os
import sys


def main():
    file, command = sys.argv[1], sys.argv[2:]
    pid = os.fork()
    if pid == 0:
        os.execvp(command[0], command)
    _, status, usage = os.wait4(pid, 0)
    with open(f"{file}.{os.environ.get('OMPI_COMM_WORLD_RANK', '0')}", "w", encoding="ascii") as out:
        out.write(str(usage.ru_maxrss * 1024))
    sys.exit(os.waitstatus_to_exitcode(status) & 255)


if __name__ == "__main__":
    main()
