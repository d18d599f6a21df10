"""Two processes with one output: the second says who has it, and the first ends as if alone.

`pytest tests/kills --kills 1` tries every command; by default it is training and preparing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from dsa_fast.cli import ERROR_STATUS
from tests.commands import CASES
from tests.kills.tools import Zygote, contents, difference

pytestmark = pytest.mark.xdist_group("kills")

QUICK = ("fit", "tables", "prepare")
#: Options with which the second would write something else.
OTHER = {
    "fit": ["--seed=1"], "tables": ["--seeds=1"], "prepare": ["--keypoints.min_confidence=0.5"], "synth": ["--seed=1"],
    "demo": ["--seed=1"],
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.reads_only])
def test_a_second_process_is_told_who_has_the_output(
    name: str, zygote: Zygote, inputs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case, out = CASES[name], tmp_path / "out"
    if not case.can_run:
        pytest.skip(f"needs {', '.join(case.needs)}")
    if name not in QUICK and not request.config.getoption("--kills"):
        pytest.skip("takes too long: pytest tests/kills --kills 1")

    def begin() -> list[str]:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        case.before(inputs, out)
        return case.arguments(inputs, out)

    end, _ = zygote.run(begin())
    assert end == "exit 0", zygote.log.read_text()
    expected = contents(out)
    arguments = begin()
    first = zygote.start(arguments, tmp_path / "first.txt")
    try:
        has_lock = _stopped_with_a_lock(first, out)
        if has_lock:
            second, _ = zygote.run([*arguments, *OTHER.get(name, [])])
            said = zygote.log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGCONT)
        end = zygote.wait(first)
    assert has_lock, f"{name} ended without a lock"
    assert second == f"exit {ERROR_STATUS.get(name, 1)}" and f" is in use by process {first} on " in said, (
        f"{second}: {said}"
    )
    assert end == "exit 0", (tmp_path / "first.txt").read_text()
    found = contents(out)
    assert found == expected, difference(found, expected)


def _stopped_with_a_lock(process: int, out: Path) -> bool:
    """Stops a process as soon as it has a lock in a folder. Returns whether it had one before it ended."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            if any(path.stat().st_size for path in out.rglob("*.lock")):
                os.kill(process, signal.SIGSTOP)
                return any(out.rglob("*.lock"))
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        time.sleep(0.002)
    return False
