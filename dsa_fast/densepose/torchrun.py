"""Shares a list of work among processes started by `torchrun`, on one or several machines."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from torch.distributed import Store  # type: ignore[attr-defined]

__all__ = ["Processes"]

_PREFIX = "dsa_fast.prepare"
_PIECE = 1 << 20  # bytes of a message; the store takes values of a few MiB at most
_POLL = 0.2  # seconds
_TIMEOUT = timedelta(minutes=30)  # for one answer from another process


class Processes:
    """The processes that share the work, from the view of one of them.

    A free process takes the next piece of work by adding 1 to a counter in `torchrun`'s key-value store. So exactly one
    process does each piece, and a slow GPU takes fewer.

    Attributes:
        rank: rank of this process, 0..world-1.
        world: number of processes.
        local: rank of this process on its machine.
    """

    def __init__(self, store: Store | None = None, rank: int = 0, world: int = 1, local: int = 0) -> None:
        self._store, self.rank, self.world, self.local = store, rank, world, local
        self._done = 0

    @classmethod
    def from_environment(cls) -> Processes:
        """Reads RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which `torchrun` sets. Without them, it is one process.

        Raises:
            ValueError: only some of these variables are set, or the processes do not find each other.
        """
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        there = [name for name in names if name in os.environ]
        if "RANK" not in there or os.environ.get("WORLD_SIZE") == "1":
            return cls()
        if len(there) < len(names):
            raise ValueError(f"{', '.join(names)} must be set together, as torchrun does, got only {', '.join(there)}")
        from torch.distributed.rendezvous import rendezvous

        try:
            store, rank, world = next(iter(rendezvous("env://", timeout=_TIMEOUT)))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"the other processes of this run were not found: {error}") from error
        return cls(store, rank, world, int(os.environ.get("LOCAL_RANK", rank)))

    def claim(self, count: int) -> Iterator[int]:
        """Yields this process's pieces of work, out of 0..count-1. Claims one at a time."""
        if self._store is None:
            yield from range(count)
            return
        while (number := self._store.add(f"{_PREFIX}/next", 1) - 1) < count:
            yield number

    def agree(self, digest: str) -> None:
        """Checks that all processes have the same work. Waits for rank 0.

        Raises:
            ValueError: rank 0 has another digest.
        """
        if self._store is None:
            return
        if self.rank == 0:
            self._store.set(f"{_PREFIX}/digest", digest)
        elif self._store.get(f"{_PREFIX}/digest").decode() != digest:
            raise ValueError(
                f"all processes must see the same images and options, got different ones on ranks {self.rank} and 0: "
                "the folder must be shared by all machines"
            )

    def advance(self, count: int) -> int:
        """Adds `count` to the number of finished images. Returns the total over all processes."""
        if self._store is None:
            self._done += count
            return self._done
        return int(self._store.add(f"{_PREFIX}/done", count))

    def gather(self, value: Any, waiting: Callable[[int], None] | None = None) -> list[Any] | None:
        """Sends a value that JSON can hold to rank 0.

        Args:
            value: the value of this process.
            waiting: called by rank 0, while it waits for the others, with the number of images finished by all.

        Returns:
            On rank 0, the values of all processes, ordered by rank; None on the other ranks.
        """
        if self._store is None:
            return [value]
        if self.rank > 0:
            data = zlib.compress(json.dumps(value).encode())
            pieces = [data[i : i + _PIECE] for i in range(0, len(data), _PIECE)]
            for i, piece in enumerate(pieces):
                self._store.set(f"{_PREFIX}/value/{self.rank}/{i}", piece)  # type: ignore[arg-type]  # bytes will do
            self._store.set(f"{_PREFIX}/value/{self.rank}", str(len(pieces)))
            return None
        values = [value]
        for rank in range(1, self.world):
            key = f"{_PREFIX}/value/{rank}"
            while not self._store.check([key]):
                time.sleep(_POLL)
                if waiting is not None:
                    waiting(self.advance(0))
            pieces = [self._store.get(f"{key}/{i}") for i in range(int(self._store.get(key)))]
            values.append(json.loads(zlib.decompress(b"".join(pieces))))
        return values
