"""Runs a command on a terminal of its own and talks to it.

Usage: terminal.py SCRIPT COMMAND...; SCRIPT is JSON: a list of [what to wait for, what to type then], or of
[what to wait for, what to type then, seconds in which nothing may come before that]. "SIGTERM" is not typed but sent.
Prints everything that the command printed, and ends as it ends. Waits for text, and for time only where nothing may come.
A command that leaves the terminal without its echo has failed.
"""

import json
import os
import pty
import select
import signal
import sys
import termios

PATIENCE = 20


def main():
    script, command = json.loads(sys.argv[1]), sys.argv[2:]
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm"
        os.execv(command[0], command)
    seen, start = b"", 0

    def more():
        nonlocal seen
        ready, _, _ = select.select([terminal], [], [], PATIENCE)
        if not ready:
            sys.stdout.buffer.write(seen)
            sys.exit("nothing more comes")
        try:
            read = os.read(terminal, 65536)
        except OSError:  # The other side is closed.
            read = b""
        seen += read
        return bool(read)

    for expected, typed, *quiet in script:
        while (found := seen.find(expected.encode(), start)) < 0:
            if not more():
                sys.stdout.buffer.write(seen)
                sys.exit(f"it ended before it said {expected!r}")
        start = found + len(expected.encode())
        for seconds in filter(None, quiet):
            if select.select([terminal], [], [], seconds)[0] and more():
                sys.stdout.buffer.write(seen)
                sys.exit(f"something came after {expected!r}")
        if typed == "SIGTERM":
            os.kill(child, signal.SIGTERM)
        else:
            os.write(terminal, typed.encode())
    while more():
        pass
    sys.stdout.buffer.write(seen)
    sys.stdout.flush()
    if not termios.tcgetattr(terminal)[3] & termios.ECHO:
        sys.exit("the terminal is left without its echo")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


main()
