"""Runs batches on a GPU: CUDA graphs, overlapping copies, and order with the caller's stream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dsa_fast.deploy.image_batch import chunks
from dsa_fast.deploy.sidecar import BatchRange, InputSpec

#: Enqueues one batch: (images, out, handle of the stream).
Enqueue = Callable[[Tensor, Tensor, int], None]

#: Batch sizes with a CUDA graph, captured at first use. In larger batches, launching takes less time than the kernels,
#: and the caller's own memory is read without a copy.
GRAPH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_ALIGNMENT = 256  # bytes, of the tensors given to TensorRT
_HOST_CHUNK = 64  # images copied at once


def graph_size(count: int, batch: BatchRange) -> int | None:
    """Returns the smallest graph size for `count` images that the network accepts, or None."""
    return next((size for size in GRAPH_SIZES if size >= max(count, batch.min) and size <= batch.max), None)


class _Graph:
    def __init__(self, graph: Any, images: Tensor, out: Tensor, enqueue: Enqueue) -> None:
        self.graph, self.images, self.out = graph, images, out
        self.enqueue = enqueue  # owns the captured memory, so it must live as long as the graph


class _Slot:
    """Buffers for a batch from the host and its results."""

    def __init__(self, runner: CudaRunner, size: int) -> None:
        shape, pin = runner.spec.shape(size), runner.pin
        self.host = torch.empty(shape, dtype=runner.dtype, pin_memory=pin)
        self.device = torch.empty(shape, dtype=runner.dtype, device=runner.device)
        self.out = torch.empty(size, runner.dim, device=runner.device)
        self.host_out = torch.empty(size, runner.dim, pin_memory=pin)
        self.copied, self.done = runner.cuda.Event(), runner.cuda.Event()
        self.pending: tuple[int, int] | None = None


class CudaRunner:
    """Runs a network on one GPU for any thread and any number of images.

    Args:
        session: makes a function that enqueues one batch. It is called once for plain runs and once for each graph,
            because a captured TensorRT context must not run anything else.
        spec: the input.
        dim: length of a vector.
        batch: batch sizes that the network accepts. Larger batches are split, smaller ones padded.
        device: the GPU.
        graphs: whether batches up to 64 run as CUDA graphs.
        cuda: `torch.cuda`, or a stand-in for tests.
        pin: whether buffers on the host are page-locked.
    """

    def __init__(
        self,
        session: Callable[[], Enqueue],
        spec: InputSpec,
        dim: int,
        batch: BatchRange,
        device: torch.device,
        *,
        graphs: bool = True,
        cuda: Any = torch.cuda,
        pin: bool = True,
        stream: Any = None,
    ) -> None:
        self.spec, self.dim, self.batch, self.device = spec, dim, batch, device
        self.dtype = getattr(torch, spec.dtype)
        self.cuda, self.pin, self.graphs = cuda, pin, graphs
        self._session, self._plain = session, session()
        self._compute = cuda.Stream(device) if stream is None else stream
        self._copy = cuda.Stream(device)
        self._captured: dict[int, _Graph] = {}
        self._slots: list[_Slot] = []
        self._lock = threading.Lock()

    def from_device(self, images: Tensor) -> Tensor:
        """Embeds images on the GPU.

        The host does not wait. This work starts after earlier work on the caller's current stream, and later work on
        that stream waits for it.

        Args:
            images: contiguous, [N, ...] in the input's layout and type.

        Returns:
            float32 [N, dim], on the GPU.
        """
        with self._lock, self.cuda.device(self.device):
            caller = self.cuda.current_stream(self.device)
            out = torch.empty(len(images), self.dim, device=self.device)
            self._compute.wait_stream(caller)
            with self.cuda.stream(self._compute):
                for start, stop in chunks(len(images), self.batch.max):
                    self._run(images[start:stop], out[start:stop])
            for tensor in (images, out):  # keeps their memory until the work is done
                tensor.record_stream(self._compute)
            caller.wait_stream(self._compute)
        return out

    def from_host(self, count: int, fill: Callable[[int, int, Tensor], None]) -> Tensor:
        """Embeds images from the host. While the GPU computes one batch, the next is filled and copied.

        Args:
            count: N, the number of images.
            fill: fill(start, stop, buffer) writes images start..stop-1 into a buffer, [B, ...] in the layout and type.

        Returns:
            float32 [N, dim], on the host.
        """
        result = torch.empty(count, self.dim)
        size = min(self.batch.max, max(_HOST_CHUNK, self.batch.min))
        with self._lock, self.cuda.device(self.device):
            if not self._slots:
                self._slots = [_Slot(self, size), _Slot(self, size)]
            try:
                for number, (start, stop) in enumerate(chunks(count, size)):
                    slot = self._slots[number % 2]
                    self._collect(slot, result)
                    fill(start, stop, slot.host[: stop - start])
                    self._send(slot, start, stop)
            finally:  # also if `fill` raises: no work may be pending at the next use of the buffers
                for slot in self._slots:
                    self._collect(slot, result)
        return result

    def _send(self, slot: _Slot, start: int, stop: int) -> None:
        count = stop - start
        with self.cuda.stream(self._copy):
            slot.device[:count].copy_(slot.host[:count], non_blocking=True)
            slot.copied.record(self._copy)
        with self.cuda.stream(self._compute):
            self._compute.wait_event(slot.copied)
            self._run(slot.device[:count], slot.out[:count])
            slot.host_out[:count].copy_(slot.out[:count], non_blocking=True)
            slot.done.record(self._compute)
        slot.pending = start, stop

    def _collect(self, slot: _Slot, result: Tensor) -> None:
        if slot.pending is None:
            return
        start, stop = slot.pending
        slot.pending = None
        slot.done.synchronize()
        result[start:stop] = slot.host_out[: stop - start]

    def _run(self, images: Tensor, out: Tensor) -> None:
        """Enqueues at most `batch.max` images on the compute stream, which is the current stream."""
        count = len(images)
        size = graph_size(count, self.batch) if self.graphs else None
        if size is not None:
            captured = self._captured.get(size) or self._capture(size)
            captured.images[:count].copy_(images)
            captured.graph.replay()
            out.copy_(captured.out[:count])
            return
        aligned = images.data_ptr() % _ALIGNMENT == 0 and out.data_ptr() % _ALIGNMENT == 0
        if count >= self.batch.min and aligned:
            self._plain(images, out, self._compute.cuda_stream)
            return
        padded = torch.zeros(self.spec.shape(max(count, self.batch.min)), dtype=self.dtype, device=self.device)
        padded[:count] = images
        vectors = torch.empty(len(padded), self.dim, device=self.device)
        self._plain(padded, vectors, self._compute.cuda_stream)
        out.copy_(vectors[:count])

    def _capture(self, size: int) -> _Graph:
        images = torch.zeros(self.spec.shape(size), dtype=self.dtype, device=self.device)
        out = torch.zeros(size, self.dim, device=self.device)
        enqueue, handle = self._session(), self._compute.cuda_stream
        for _ in range(3):  # the first runs allocate, compile and choose kernels, which a graph must not capture
            enqueue(images, out, handle)
        self._compute.synchronize()
        graph = self.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with self.cuda.graph(graph, stream=self._compute, capture_error_mode="thread_local"):
            enqueue(images, out, handle)
        captured = _Graph(graph, images, out, enqueue)
        self._captured[size] = captured
        return captured
