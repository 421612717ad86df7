"""Runs `metabench` for the jobs of a workflow, each in a process forked from this one, which has imported the libraries.

A job takes seconds to import torch, pandas and matplotlib, and a workflow has many. The package itself is imported by each job, from the
source that the job's environment names. `metabench`, for these jobs, is a small client: it sends its standard streams, arguments, folder
and environment over a socket, and ends as the process does that was forked for it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import venv
from pathlib import Path
from typing import NoReturn

LIBRARIES = ("torch.fx.experimental.symbolic_shapes", "pandas", "pyarrow.parquet", "matplotlib.pyplot", "seaborn", "omegaconf", "typer")

CLIENT = """\
#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ), os.getpgrp()]).encode()
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
status = int(server.recv(16))
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def serve() -> Path:
    """Start the server, which ends with this process. Return an interpreter beside which there is a `metabench` that asks it."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    address, environment = folder / "jobs", folder / "environment"
    server = subprocess.Popen([sys.executable, __file__, str(address)], stdin=subprocess.PIPE)
    assert server.stdin is not None
    atexit.register(server.stdin.close)
    venv.create(environment, symlinks=True)
    (packages,) = (environment / "lib").glob("python*/site-packages")
    known = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
    (packages / "known.pth").write_text("".join(known), encoding="utf-8")
    client = environment / "bin" / "metabench"
    client.write_text(CLIENT.format(python=os.path.realpath(sys.executable), address=str(address)), encoding="utf-8")
    client.chmod(0o755)
    while not address.exists():
        time.sleep(0.01)
    return environment / "bin" / "python"


def main(address: str) -> None:
    """Serve until the other end of standard input closes."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who answer
    while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
        asked, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(asked)
        asked.close()


def answer(asked: socket.socket) -> NoReturn:
    """Fork the process that is asked for, wait for its end and say how it ended."""
    length, streams, _, _ = socket.recv_fds(asked, 8, 3)
    request = b""
    while len(request) < int.from_bytes(length, "big"):
        request += asked.recv(1 << 16)
    pid = os.fork()
    if pid == 0:
        asked.close()
        become(streams, *json.loads(request))
    asked.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def become(streams: list[int], arguments: list[str], folder: str, environment: dict[str, str], group: int) -> NoReturn:
    """Be what `metabench` with these arguments would be."""
    os.setpgid(0, group)  # a signal to the job reaches this process, too
    os.chdir(folder)
    for new, old in enumerate(streams):
        os.dup2(old, new)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:1] = environment["PYTHONPATH"].split(os.pathsep)
    sys.argv = ["metabench", *arguments]
    code = 1
    try:
        importlib.import_module("metabench.cli").main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
