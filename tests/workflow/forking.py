"""Runs Snakemake for whoever writes to its standard input, in a process forked from this one: to import it takes more than a second.

A line is a JSON list: folder, arguments, file for all that is said, interpreter beside which the `metabench` of jobs lies. Each is answered
with a line: the exit status.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys

from snakemake.cli import main

SECONDS = 300
"""After which a run is ended by SIGALRM."""


def become(folder: str, arguments: list[str], out: str, python: str) -> None:
    """Make this process what `python -m snakemake` would be in `folder`."""
    os.chdir(folder)
    said = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for old, new in ((os.open(os.devnull, os.O_RDONLY), 0), (said, 1), (said, 2)):
        os.dup2(old, new)
    sys.path[0] = folder
    sys.executable = python
    signal.alarm(SECONDS)
    main(arguments)


if __name__ == "__main__":
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            become(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
