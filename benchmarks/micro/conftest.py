"""Settings and inputs of the CPU microbenchmarks; CONTRIBUTING.md shows how to save and compare their times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the inputs of benchmarks/warp.py and chart.py

# One thread: times then depend less on what else the machine does.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each benchmark about a second after a warm-up."""
    for item in items:
        item.add_marker(pytest.mark.benchmark(max_time=1.0, min_rounds=10, warmup=True, warmup_iterations=2))


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers that are the same in every run."""
    return torch.Generator().manual_seed(0)
