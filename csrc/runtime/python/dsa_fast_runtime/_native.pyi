from typing import Any

__version__: str

def preload(path: str) -> str: ...

class Encoder:
    kind: str
    size: tuple[int, int]
    dim: int
    run_batch: int
    threads: int
    precision: str
    description: str
    def __init__(self, path: str | bytes, device: str, batch: int, threads: int, precision: str) -> None: ...
    def __call__(self, images: Any, *, channels: Any = "RGB") -> Any: ...
    def enqueue(self, images: Any, out: Any, stream: int = 0) -> None: ...
