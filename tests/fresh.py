"""Runs code as `python -c` does, in a fork of an interpreter that has imported PyTorch and nothing else of weight.

Importing PyTorch takes seconds. What reads the environment as the interpreter starts needs a new one instead.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_SERVER = """
import json, os, signal, socket, sys, traceback
import torch
channel = socket.socket(fileno=int(sys.argv[1]))
while True:
    text, streams, _, _ = socket.recv_fds(channel, 1 << 20, 2)
    if not text:
        break
    child = os.fork()
    if child == 0:
        status = 1
        signal.alarm(300)  # ends a child that hangs, by SIGALRM
        try:
            for place, stream in enumerate(streams, 1):
                os.dup2(stream, place)
            sys.stdout, sys.stderr = (open(place, "w", closefd=False) for place in (1, 2))
            channel.close()
            os.closerange(3, 64)
            code, sys.argv[1:], folder, environment = json.loads(text)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            exec(code, globals())
            status = 0
        except SystemExit as end:
            status = 0 if end.code is None else int(end.code) if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    for stream in streams:
        os.close(stream)
    channel.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
"""


@functools.cache
def _server(_process: int) -> socket.socket:
    """Starts the interpreter to fork from, once in each test process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-W", "ignore", "-c", _SERVER, str(theirs.fileno())]
    server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    theirs.close()

    def end() -> None:
        ours.close()
        server.wait(60)

    atexit.register(end)
    return ours


def run_fresh(
    code: str, *arguments: str | Path, cwd: Path = ROOT, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs code with arguments, in a folder, and with an environment; by default with this one."""
    channel, pipes = _server(os.getpid()), [os.pipe(), os.pipe()]
    variables = dict(os.environ if environment is None else environment)
    request = json.dumps([code, list(map(str, arguments)), str(cwd), variables]).encode()
    socket.send_fds(channel, [request], [write for _, write in pipes])
    for _, write in pipes:
        os.close(write)

    def read(place: int) -> str:
        with os.fdopen(place, errors="replace") as stream:
            return stream.read()

    with ThreadPoolExecutor(2) as pool:
        out, err = pool.map(read, [place for place, _ in pipes])
    return subprocess.CompletedProcess([code, *arguments], int(channel.recv(100)), out, err)
