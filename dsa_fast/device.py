"""Turns the name of a device into a `torch.device`, and counts processor cores."""

from __future__ import annotations

import os

import torch


def pick_device(name: str) -> torch.device:
    """Returns the device called `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:1`.

    Raises:
        ValueError: the name is not one of these, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    index = name.removeprefix("cuda").removeprefix(":")
    if name != "cpu" and not (name.startswith("cuda") and (index == "" or index.isdigit())):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:NUMBER, got {name!r}")
    if name != "cpu" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device must be on this machine, got {name} with {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def usable_cores() -> int:
    """Returns the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
