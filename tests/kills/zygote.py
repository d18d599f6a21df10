"""A process that has imported everything and forks once for each command, so that a try costs no imports.

It reads lines of JSON: the command's arguments, the file for its output, and limits: `file` and `memory` (of files, and
of the process above what it has, in bytes), `threads`, and `user`. It answers each with the child's number. A line with
that number is answered with the child's end (`exit STATUS` or `signal NUMBER`) when it has ended.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import pkgutil
import resource
import sys
import traceback


def _limit(limits: dict[str, int]) -> None:
    if "file" in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file"], limits["file"]))
    if "memory" in limits:
        with open("/proc/self/statm") as file:  # noqa: PTH123
            most = int(file.read().split()[0]) * resource.getpagesize() + limits["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if "user" in limits:
        os.setgroups([])
        os.setgid(limits["user"])
        os.setuid(limits["user"])
    if "threads" in limits:  # root has no limit
        resource.setrlimit(resource.RLIMIT_NPROC, (limits["threads"], limits["threads"]))


def main() -> None:
    import torch

    import dsa_fast
    from dsa_fast.cli import main as run
    from dsa_fast.extras import require

    torch.set_num_threads(1)  # threads do not survive a fork
    for found in pkgutil.walk_packages(dsa_fast.__path__, "dsa_fast."):
        if not found.name.endswith(("__main__", "._C", "._C_cuda")):
            importlib.import_module(found.name)
    # Another user may not be allowed to read Python's files.
    for name in ("tensorboard", "concurrent.futures.process", "concurrent.futures.thread", "encodings.cp437"):
        importlib.import_module(name)
    for name in ("faiss", "pyarrow.parquet", "onnx", "onnxruntime", "openvino"):
        try:
            require(name)
        except ValueError:
            continue
    print("ready", flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        if isinstance(given, int):
            _, ended = os.waitpid(given, 0)
            found = f"signal {os.WTERMSIG(ended)}" if os.WIFSIGNALED(ended) else f"exit {os.WEXITSTATUS(ended)}"
            print(found, flush=True)
            continue
        arguments, log, limits = given
        child = os.fork()
        if child == 0:
            os.setsid()
            place = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(place, stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            status = 99
            faulthandler.enable()  # a crash says where
            try:
                _limit(limits)
                status = run(arguments)
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else 1
            except BaseException as error:
                in_command = any(frame.name == "guarded" for frame in traceback.extract_tb(error.__traceback__))
                if isinstance(error, KeyboardInterrupt) and not in_command:
                    status = 130  # it came before the command's own handler, or after
                else:
                    traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)


if __name__ == "__main__":
    main()
