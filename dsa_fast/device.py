"""Which device a user means."""

from __future__ import annotations

import torch


def pick_device(name: str) -> torch.device:
    """The device called `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:1`.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index = name.removeprefix("cuda").removeprefix(":")
    if name != "cpu" and not (name.startswith("cuda") and (index == "" or index.isdigit())):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:NUMBER, got {name!r}")
    if name != "cpu" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device must be there, got {name} with {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)
