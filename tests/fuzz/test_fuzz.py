"""A short, fixed part of the fuzz room."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import TARGETS

SLOW = ("checkpoints", "checkpoints, crafted")


@pytest.mark.parametrize("name", TARGETS)
def test_every_case_holds(name: str) -> None:
    tried, failed = fuzz(name, 10 if name in SLOW else 50, 18)
    assert tried >= 8, tried
    assert not failed, "\n".join(failed[:3])
