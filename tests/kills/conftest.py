"""One process to fork from, for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kills.tools import Zygote


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    made = Zygote(tmp_path_factory.mktemp("zygote"))
    yield made
    made.close()
