"""Each command is killed at random moments. The same command again ends with the same files as one run.

`pytest tests/kills --kills 10` kills each command ten times with each signal; by default it is a few times in all.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import CASES
from tests.kills.tools import Zygote, contents, difference

pytestmark = pytest.mark.xdist_group("kills")

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.reads_only])
def test_a_killed_command_can_be_given_again(
    name: str, zygote: Zygote, inputs: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case = CASES[name]
    if not case.can_run:
        pytest.skip(f"needs {', '.join(case.needs)}")
    kills = request.config.getoption("--kills")
    if case.only_long and not kills:
        pytest.skip("takes too long: pytest tests/kills --kills 10")
    out = tmp_path / "out"

    def begin() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        case.before(inputs, out)

    begin()
    end, seconds = zygote.run(case.arguments(inputs, out))
    assert end == "exit 0", zygote.log.read_text()
    expected = contents(out)
    assert expected and not any(".lock" in each or "/." in each or each.startswith(".") for each in expected)
    chosen = random.Random(f"kills of {name}")
    signals = [each for each in SIGNALS for _ in range(kills)] if kills else [chosen.choice(SIGNALS)]
    if not kills and not case.costly:
        signals = list(SIGNALS)
    for number in signals:
        begin()
        after = chosen.uniform(0, 1.05 * seconds)
        end, _ = zygote.run(case.arguments(inputs, out), number, after)
        about = f"{name}: {number.name} after {after:.2f} of {seconds:.2f} s, then {end}"
        assert end in ("exit 0", f"signal {number}", f"exit {128 + number}"), f"{about}: {zygote.log.read_text()}"
        is_whole = contents(out) == expected
        again, _ = zygote.run(case.arguments(inputs, out))
        assert again == "exit 0" or is_whole, f"{about}: again {again}: {zygote.log.read_text()}"
        found = contents(out)
        assert found == expected, f"{about}: {difference(found, expected)}\n{zygote.log.read_text()}"


def test_workers_of_a_killed_synth_end(tmp_path: Path) -> None:
    program = "import sys; from dsa_fast.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "synth", "--out", str(tmp_path / "people"), "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--identities=200"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".people.*/new/*/*.jpg")):
        assert time.monotonic() < deadline and process.poll() is None, "no image was made"
        time.sleep(0.1)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (left := _members(process.pid)):
        time.sleep(0.1)
    assert not left
    assert not (tmp_path / "people").exists()


def _members(session: int) -> list[int]:
    """Returns the processes of a session that still run."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(place.name))
    return found
