"""Runs commands in forks of one process, and compares what they wrote."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
# What a resumed run does not know or measures anew. TensorBoard's files hold times in their names.
TIMES = ("seconds", "images_per_second", "estimating_share", "made_now", "parity", "flops", "costs")


class Zygote:
    """Runs commands in forks of a process that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.txt"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.kills.zygote"],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, arguments: list[str], log: Path | None = None, **limits: int) -> int:
        """Starts a command; returns its process."""
        return int(self._answer([arguments, str(log or self.log), limits]))

    def wait(self, process: int) -> str:
        """Returns the end of a process."""
        return self._answer(process)

    def _answer(self, given: object) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        return self._line()

    def run(
        self, arguments: list[str], kill: int | None = None, after: float = 0.0, **limits: int
    ) -> tuple[str, float]:
        """Runs a command, and sends it a signal after some seconds. Returns its end, and the seconds it took."""
        start = time.perf_counter()
        child = self.start(arguments, **limits)
        if kill is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, kill)
        end = self.wait(child)
        return end, time.perf_counter() - start

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in TIMES}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, str]:
    """Returns each file's name and checksum, without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if ".dsa_fast" in path.parts:  # the documented cache next to a data set
            continue
        if path.name.startswith("events.out.tfevents") or path.is_dir():
            found |= {f"{name}/": "folder"} if path.is_dir() else {}
        elif path.name.startswith("."):
            found[name] = "hidden"
        elif path.name in ("table.md", "verified.json"):
            found[name] = "text"  # these tell the seconds, or when the images were made
        elif path.suffix == ".json":
            try:
                found[name] = json.dumps(_plain(json.loads(path.read_text())), sort_keys=True)
            except ValueError:  # cut off, also within a character
                if not any(part.startswith(".") for part in Path(name).parts[:-1]):
                    raise
                found[name] = "broken"  # in the temporary folder of a killed process
        elif path.suffix == ".ckpt":
            state = torch.load(path, weights_only=True)
            weights = sorted(state["state_dict"].items())
            digest = hashlib.sha256(b"".join(value.numpy().tobytes() for _, value in weights))
            found[name] = f"{state['epoch']} {state['global_step']} {digest.hexdigest()}"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def difference(found: dict[str, str], expected: dict[str, str]) -> str:
    more, fewer = sorted(found.keys() - expected.keys()), sorted(expected.keys() - found.keys())
    other = sorted(name for name in found.keys() & expected.keys() if found[name] != expected[name])
    return f"more: {more}, missing: {fewer}, different: {other}"
