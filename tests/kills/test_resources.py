"""Each command on a disk that gets full: a clear word, nothing half-written, and the same command again finishes.

`pytest tests/kills --kills 10` tries ten sizes of disk for each command; by default it is one for the quick ones. The
disk is a tmpfs, which only root can mount; without it, the size of each file is limited.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsa_fast.cli import ERROR_STATUS
from tests.commands import CASES
from tests.kills.test_kills import contents, difference
from tests.kills.zygote import Zygote

pytestmark = pytest.mark.xdist_group("kills")

WRITING = [name for name, case in CASES.items() if not case.reads_only]
QUICK = ("fit", "synth", "pack", "embed", "search add")


class Disk:
    """A small file system."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir()

    def make(self, size: int) -> None:
        """Starts anew with a size."""
        self.remove()
        options = f"size={max(size, 4096)},mode=755"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(self.place)], capture_output=True)
        if done.returncode:
            pytest.skip("only root can mount a file system")

    def grow(self) -> None:
        subprocess.run(["mount", "-o", "remount,size=1g", str(self.place)], check=True)

    def used(self) -> int:
        return shutil.disk_usage(self.place).used

    def remove(self) -> None:
        subprocess.run(["umount", "-l", str(self.place)], capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    made = Disk(tmp_path / "disk")
    yield made
    made.remove()


@pytest.mark.parametrize("name", WRITING)
def test_a_full_disk_is_a_word_and_the_same_command_finishes(
    name: str, disk: Disk, zygote: Zygote, inputs: Path, request: pytest.FixtureRequest
) -> None:
    case, kills = CASES[name], request.config.getoption("--kills")
    if not case.can_run:
        pytest.skip(f"needs {', '.join(case.needs)}")
    if not kills and name not in QUICK:
        pytest.skip("takes too long: pytest tests/kills --kills 10")
    out = disk.place
    disk.make(1 << 30)
    case.before(inputs, out)
    before, least = contents(out), disk.used()
    end, _ = zygote.run(case.arguments(inputs, out))
    assert end == "exit 0", zygote.log.read_text()
    expected, most = contents(out), disk.used()
    failed = f"exit {ERROR_STATUS.get(name, 1)}"
    chosen = random.Random(f"disk of {name}")
    for _ in range(kills or 1):
        size = least + int(chosen.uniform(0, 1) * (most - least))
        disk.make(size)
        case.before(inputs, out)
        end, _ = zygote.run(case.arguments(inputs, out))
        said = zygote.log.read_text()
        about = f"{name} with {size:,} of {most:,} bytes: {end}: {said}"
        # Some pages of the file system hold more than one file, so a disk may be large enough after all.
        assert end == failed or (end == "exit 0" and contents(out) == expected), about
        assert "Traceback" not in said, about
        if end == failed:
            assert "o space left" in said or "could not be written" in said, about
            found = contents(out)
            changed = [each for each in before if found.get(each) != before[each]]
            assert not changed, f"{about}: {changed} changed"
            half = [each for each in found if each in expected and found[each] != expected[each]]
            # A resumed run replaces these.
            half = [each for each in half if not each.endswith((".json", ".ckpt", "metrics.csv"))]
            assert not half, f"{about}: {half} are half-written"
        disk.grow()
        again, _ = zygote.run(case.arguments(inputs, out))
        assert again == "exit 0" or end == "exit 0", f"{about}: again {again}: {zygote.log.read_text()}"
        found = contents(out)
        assert found == expected, f"{about}: {difference(found, expected)}"
