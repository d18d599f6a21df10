"""Finds people in pictures, with a network of torchvision or an ONNX file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.data.transforms import resize
from dsa_fast.extras import require
from dsa_fast.files import check_regular, utf8_name
from dsa_fast.weights import download_state, load_named, read_state

__all__ = ["Detector", "OnnxDetector", "TorchvisionDetector", "load_detector"]

_PAD = 114  # gray of the border around a picture, as YOLO's authors have it
_LARGEST = 8192  # height and width of an input
_SAME = 0.65  # boxes of a YOLO network that overlap more are one person


class Detector(Protocol):
    """Finds people."""

    def __call__(self, picture: Tensor) -> Tensor:
        """uint8 [3, H, W], RGB -> float32 [N, 5] on the CPU: left, top, right, bottom in pixels, score in 0..1."""
        ...


def load_detector(
    name: str, *, weights: str | os.PathLike[str] | None = None, device: torch.device, size: int = 640
) -> Detector:
    """Loads a detector.

    Args:
        name: `torchvision`, or an ONNX file.
        weights: torchvision: a file of weights; None downloads torchvision's.
        device: device of torchvision's network. ONNX files run on the CPU.
        size: height and width of the input of an ONNX file that takes any size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `name` is neither, or the network can't be loaded.
    """
    if name == "torchvision":
        return TorchvisionDetector(weights, device=device)
    if Path(name).suffix.lower() != ".onnx":
        raise ValueError(f"detector must be torchvision or an .onnx file, got {name}")
    if weights is not None:
        raise ValueError(f"weights must not be given with an ONNX file, which contains them, got {weights}")
    return OnnxDetector(name, size=size)


class TorchvisionDetector:
    """Torchvision's Faster R-CNN with MobileNetV3-Large and FPN.

    Args:
        weights: a file with a state dict of `torchvision.models.detection.fasterrcnn_mobilenet_v3_large_fpn` (read
            with `weights_only=True`); None takes torchvision's, downloaded once into torch.hub's cache.
        device: device of the network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the weights can't be downloaded or don't fit.
    """

    def __init__(self, weights: str | os.PathLike[str] | None = None, *, device: torch.device) -> None:
        from torchvision.models.detection import (
            FasterRCNN_MobileNet_V3_Large_FPN_Weights,
            fasterrcnn_mobilenet_v3_large_fpn,
        )

        model = "fasterrcnn_mobilenet_v3_large_fpn"
        if weights is None:
            source = FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1
            state = download_state(source, name="weights=None", what="Faster R-CNN's weights", argument="weights")
        else:
            state = read_state(weights, name="weights", known="a file or None", model=model)
        network = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None)
        load_named(network, state, source="weights" if weights is None else f"weights {os.fspath(weights)!r}")
        self.network, self.device = network.eval().to(device), device

    @torch.inference_mode()
    def __call__(self, picture: Tensor) -> Tensor:
        """See `Detector`."""
        (found,) = self.network([picture.to(self.device, torch.float32) / 255])
        people = found["labels"] == 1
        return torch.cat((found["boxes"][people], found["scores"][people, None]), 1).float().cpu()


class OnnxDetector:
    """A detector in an ONNX file, on the CPU.

    The file has one input, float32 RGB in 0..1, [1, 3, H, W] or [3, H, W], and gives one of

    - three outputs as torchvision exports its detectors: boxes [N, 4] (left, top, right, bottom in pixels of the
      input), whole labels [N] in which 1 is a person, and scores [N];
    - [1, 4 + C, A] as Ultralytics exports YOLOv8 and later: center x, center y, width, height in pixels of the input,
      and a score for each of C classes, of which the first is a person. Overlapping boxes are merged here;
    - [1, N, 6], YOLO with its own merging: left, top, right, bottom, score, class, in which 0 is a person.

    An input of fixed size gets the picture scaled to fit, with a gray border at the right and the bottom.

    Args:
        path: the file.
        size: height and width of the input if the file takes any size. A [3, H, W] input gets the picture's own size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: ONNX Runtime is not installed or can't read the file, or its input has another form.
    """

    def __init__(self, path: str | os.PathLike[str], *, size: int = 640) -> None:
        if size < 32:
            raise ValueError(f"size must be at least 32 pixels, got {size}")
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"detector must be torchvision or an .onnx file; there is no file {path}")
        check_regular(self.path)
        runtime = require("onnxruntime")
        try:
            with utf8_name(self.path) as name:
                self._session = runtime.InferenceSession(name, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many kinds of errors
            raise ValueError(f"detector {path} must be an ONNX file that ONNX Runtime reads, got: {error}") from error
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if inputs else []
        if (
            len(inputs) != 1
            or inputs[0].type != "tensor(float)"
            or len(shape) not in (3, 4)
            or shape[-3]
            not in (
                3,
                *(each for each in shape[-3:-2] if not isinstance(each, int)),
            )
        ):
            raise ValueError(
                f"detector {path} must have one input, float32 [1, 3, H, W] or [3, H, W], got "
                f"{', '.join(f'{each.name}: {each.type} {each.shape}' for each in inputs) or 'none'}"
            )
        self._input, self._batched = inputs[0].name, len(shape) == 4
        fixed = [each if isinstance(each, int) else None for each in shape[-2:]]
        if any(each is not None and not 1 <= each <= _LARGEST for each in fixed):
            raise ValueError(f"detector {path} must have an input of 1 to {_LARGEST} pixels, got {shape}")
        if None not in fixed:
            self._size: tuple[int, int] | None = (fixed[0] or 0, fixed[1] or 0)
        else:
            self._size = (size, size) if self._batched else None

    def __call__(self, picture: Tensor) -> Tensor:
        """See `Detector`."""
        scale, shown = 1.0, picture
        height, width = int(picture.shape[1]), int(picture.shape[2])
        if self._size is not None:
            scale = min(self._size[0] / height, self._size[1] / width)
            inner = max(1, round(height * scale)), max(1, round(width * scale))
            shown = torch.full((3, *self._size), _PAD, dtype=torch.uint8)
            shown[:, : inner[0], : inner[1]] = resize(picture[None], inner)[0]
        values = (shown.float() / 255).numpy()
        try:
            found = self._session.run(None, {self._input: values[None] if self._batched else values})
        except Exception as error:  # ONNX Runtime raises many kinds of errors
            raise ValueError(
                f"detector {self.path} must run on float32 {list(values.shape)}, got: {str(error)[:300]}"
            ) from error
        people = self._people([np.asarray(each) for each in found])
        people[:, :4] /= scale
        people[:, 0:4:2] = people[:, 0:4:2].clip(0, width)
        people[:, 1:4:2] = people[:, 1:4:2].clip(0, height)
        return torch.from_numpy(people)

    def _people(self, outputs: list[NDArray[Any]]) -> NDArray[np.float32]:
        """Returns the people in the outputs, [N, 5], in pixels of the input."""
        numbers = [each for each in outputs if each.dtype.kind == "f"]
        boxes = next((each for each in numbers if each.ndim == 2 and each.shape[1] == 4), None)
        labels = next((each for each in outputs if each.ndim == 1 and each.dtype.kind in "iu"), None)
        scores = next((each for each in numbers if each.ndim == 1), None)
        if (
            len(outputs) == 3
            and boxes is not None
            and labels is not None
            and scores is not None
            and len(boxes) == len(labels) == len(scores)
        ):
            kept = labels == 1
            people: NDArray[np.float32] = np.concatenate((boxes[kept], scores[kept, None]), 1).astype(np.float32)
            return people
        if len(outputs) == len(numbers) == 1 and outputs[0].ndim == 3 and outputs[0].shape[0] == 1:
            table: NDArray[np.float32] = outputs[0][0].astype(np.float32)
            if table.shape[1] == 6:
                return table[(table[:, 5] == 0) & (table[:, 4] > 0), :5].copy()
            if 5 <= table.shape[0] < table.shape[1]:
                return _merged(table)
        raise ValueError(
            f"detector {self.path} must give boxes [N, 4], labels [N] and scores [N], or [1, 4 + C, A], or [1, N, 6], "
            f"got {', '.join(f'{each.dtype} {list(each.shape)}' for each in outputs)}"
        )


def _merged(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turns [4 + C, A] of YOLO into people [N, 5], and drops all but the best of boxes that overlap."""
    from torchvision.ops import nms

    best = table[4:].argmax(0)
    kept = table[:, (best == 0) & (table[4] > 0.05)]
    middle, half = kept[:2].T, kept[2:4].T / 2
    people = np.concatenate((middle - half, middle + half, kept[4:5].T), 1)
    chosen = nms(torch.from_numpy(people[:, :4].copy()), torch.from_numpy(people[:, 4].copy()), _SAME)
    return np.ascontiguousarray(people[chosen.numpy()])
