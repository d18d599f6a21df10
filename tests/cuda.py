"""Whether there is a GPU, and whether there must be one."""

from __future__ import annotations

import os

import pytest
import torch

HAS_CUDA = torch.cuda.is_available()


# Where a GPU must be, its tests are run and fail without one.
NEEDS_CUDA = os.environ.get("DSA_FAST_REQUIRE_CUDA") == "1"


def require_cuda() -> None:
    if not HAS_CUDA:
        (pytest.fail if NEEDS_CUDA else pytest.skip)("PyTorch sees no CUDA device")
