"""Each command where something is missing: a clear word, nothing half-written, and what was there stays.

A disk that gets full, and then the same command again finishes; no permission to write; inputs that can only be read;
little memory; no new threads. `pytest tests/kills --kills 10` tries ten sizes of disk for each command, and everything
else; by default it is a part. The disk is a tmpfs, which only root can mount, and only root can become another user.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsa_fast.cli import ERROR_STATUS
from tests.commands import CASES
from tests.kills.tools import Zygote, contents, difference

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


# ------------------------------------------------------------------- permissions, memory and threads

NOBODY = 65534
MIB = 1 << 20
LIMITS = {
    "no permission": {"user": NOBODY},
    "read-only inputs": {"user": NOBODY},
    "no new thread": {"user": NOBODY - 1, "threads": 1},
    "64 MiB": {"memory": 64 * MIB},
    "256 MiB": {"memory": 256 * MIB},
}
#: Fails as the first file is written, so it costs little; of the others, one by default.
ALWAYS = {("no permission", name) for name in WRITING if name not in ("demo", "tables")}
ALWAYS |= {("read-only inputs", "embed"), ("no new thread", "fit"), ("64 MiB", "fit"), ("64 MiB", "embed")}


@pytest.fixture(scope="module")
def public(inputs: Path, zygote: Zygote) -> Iterator[Path]:
    """A folder that every user can enter, with the inputs, which only root can write."""
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        place.chmod(0o755)
        shutil.copytree(inputs, place / "in")
        for path in place.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if os.geteuid() or zygote.run(["info"], user=NOBODY)[0] != "exit 0":
            pytest.skip("only root can become another user")
        yield place


@pytest.mark.parametrize("name", [*CASES])
@pytest.mark.parametrize("what", LIMITS)
def test_what_is_missing_is_a_word(
    what: str, name: str, public: Path, zygote: Zygote, request: pytest.FixtureRequest
) -> None:
    case, limits = CASES[name], LIMITS[what]
    if not case.can_run:
        pytest.skip(f"needs {', '.join(case.needs)}")
    if (what, name) not in ALWAYS and not request.config.getoption("--kills"):
        pytest.skip("takes too long: pytest tests/kills --kills 1")
    out = public / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    case.before(public / "in", out)
    if "user" in limits and what != "no permission":
        for path in (out, *out.rglob("*")):
            os.chown(path, limits["user"], limits["user"])
    before = contents(out)
    for _ in range(3):
        end, _ = zygote.run(case.arguments(public / "in", out), **limits)
        # Where memory ends inside PyTorch's backward pass, PyTorch itself may crash: in about a fifth of fit's tries. A
        # crash anywhere else fails.
        if end != "signal 11" or "memory" not in limits or "in _engine_run_backward" not in zygote.log.read_text():
            break
        shutil.rmtree(out)
        out.mkdir()
        case.before(public / "in", out)
    said = zygote.log.read_text()
    about = f"{name}, {what}: {end}: {said[-2000:]}"
    failed = f"exit {ERROR_STATUS.get(name, 1)}"
    assert "Traceback" not in said, about
    if what == "no permission" and not case.reads_only:
        assert end == failed and "ermission denied" in said, about
    elif what == "read-only inputs":
        assert end == "exit 0" or (end == failed and "can't read Python's files" in said), about
    else:
        assert end == "exit 0" or (end == failed and said.strip()), about
    found = contents(out)
    assert not [each for each in found if each.rpartition("/")[2].startswith(".")], f"{about}: {[*found]}"
    if end != "exit 0":
        assert not [each for each in before if found.get(each) != before[each]], f"{about}: {difference(found, before)}"
