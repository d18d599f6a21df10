"""Runs DensePose exported to TorchScript: needs torch and torchvision, not detectron2.

The interface is that of the files that https://github.com/dajes/DensePose-TorchScript exports (its `run.py` and
`DefaultPredictor`): a module that takes one image, uint8 [3, H, W] or [H, W, 3] in the order B, G, R and on the CPU,
and resizes and normalizes it itself. It returns a dict of tensors with one row per person:

- `pred_boxes` [N, 4]: x0, y0, x1, y1 in the image's pixels; `scores` [N];
- `pred_densepose_coarse_segm` [N, 2 or 15, h, w]; `pred_densepose_fine_segm`, `pred_densepose_u` and
  `pred_densepose_v` [N, 25, h, w]: detectron2's chart heads.

Other exports take [3, H, W] and return a tuple of the boxes and the four heads, without scores.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dsa_fast.densepose.person_choice import choose_person
from dsa_fast.densepose.prepare import PersonMap
from dsa_fast.densepose.results import ChartHeads
from dsa_fast.files import checksum, utf8_name
from dsa_fast.image import read_image
from dsa_fast.ops.warp_densepose import to_iuv

__all__ = ["ScriptedDensePose"]

_HEADS = tuple(f"pred_densepose_{name}" for name in ("coarse_segm", "fine_segm", "u", "v"))
_KEYS = ("pred_boxes", "scores", *_HEADS)


class _Loaded(NamedTuple):
    """An image as the module's input, uint8 [3, h, w], and its original (height, width)."""

    pixels: Tensor
    size: tuple[int, int]


class ScriptedDensePose:
    """Makes IUV maps of images with a DensePose model in a TorchScript file.

    The module takes one image at a time, so a batch runs image by image and its size does not change the result. The
    map shows the person chosen by `choose_person`. On a CPU, a module in half precision is converted to float32.

    A TorchScript file is a program. PyTorch's loader runs no Python of it, but its operators run with your rights, and
    some of them read and write files. Use files that you trust.

    Args:
        weights: the file, as `torch.jit.save` writes it.
        device: device of the network.
        min_score: people with a lower score are ignored, 0..1. The file has a limit of its own (0.3 by default).
            Without scores, everybody has 1.
        min_size: short edge to which images are enlarged or reduced before, for modules that do not resize.
        channels: the order of the module's input.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TorchScript archive, or this PyTorch can't load it.
    """

    maker = "DensePose"

    def __init__(
        self,
        weights: Path,
        *,
        device: torch.device | str = "cpu",
        min_score: float = 0.3,
        min_size: int | None = None,
        channels: Literal["BGR", "RGB"] = "BGR",
    ) -> None:
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be in 0..1, got {min_score}")
        if min_size is not None and min_size < 1:
            raise ValueError(f"min_size must be at least 1, got {min_size}")
        self.device, self.min_score, self.min_size, self.bgr = (
            torch.device(device),
            min_score,
            min_size,
            channels == "BGR",
        )
        self._source = weights
        self.module = _load(weights, self.device)
        #: The options that change the result, to compare runs.
        self.settings = {
            "weights_sha256": checksum(weights),
            "min_score": min_score,
            "min_size": min_size,
            "channels": channels,
        }

    def group(self, size: tuple[int, int]) -> Hashable:
        """Images of all sizes can share a batch."""
        return None

    def load(self, image: Path) -> _Loaded:
        """Reads an image."""
        pixels = read_image(image)
        height, width = pixels.shape[1:]
        pixels = pixels.flip(0) if self.bgr else pixels
        if self.min_size is not None:
            scale = self.min_size / min(height, width)
            size = [max(1, round(height * scale)), max(1, round(width * scale))]
            resized = interpolate(pixels[None].float(), size, mode="bilinear", antialias=scale < 1)[0]
            pixels = resized.round().clamp(0, 255).to(torch.uint8)
        return _Loaded(pixels.contiguous(), (height, width))

    @torch.inference_mode()
    def estimate(self, batch: Sequence[_Loaded]) -> list[PersonMap | None]:
        """Returns the person in each image.

        Raises:
            ValueError: the module does not have the interface above.
        """
        return [self._person(each) for each in batch]

    def _person(self, image: _Loaded) -> PersonMap | None:
        try:
            found = self.module(image.pixels)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # all errors of a script
            last = str(error).strip().split("\n")[-1]
            raise ValueError(
                f"weights must be a DensePose module for images uint8 [3, H, W], got {self._source}: {last}"
            ) from error
        boxes, scores, heads = self._checked(found)
        if self.min_size is not None:
            height, width = (own / seen for own, seen in zip(image.size, image.pixels.shape[1:], strict=True))
            boxes = boxes * torch.tensor([width, height, width, height], device=boxes.device)
        scores = torch.where(scores >= self.min_score, scores, 0.0)
        best = choose_person(boxes, scores, image.size)
        if best is None:
            return None
        chosen = ChartHeads(*(head[best : best + 1] for head in heads))
        iuv = to_iuv(chosen, boxes[best : best + 1], image.size, dtype=torch.uint8)[0].cpu()
        return PersonMap(iuv, float(scores[best]))

    def _checked(self, found: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Returns boxes and scores, float32, and the heads."""
        if isinstance(found, (tuple, list)) and len(found) == 5 and all(isinstance(each, Tensor) for each in found):
            scores = torch.ones(found[0].shape[:1], device=found[0].device)
            found = dict(zip(("pred_boxes", *_HEADS), found, strict=True)) | {"scores": scores}
        missing = [key for key in _KEYS if not (isinstance(found, dict) and isinstance(found.get(key), Tensor))]
        if missing:
            got = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
            raise ValueError(
                f"weights must be a DensePose module that returns a dict of tensors with {', '.join(_KEYS)}, or a "
                f"tuple of boxes and the four heads, got {self._source}, which returns {got}"
            )
        boxes, scores, heads = found["pred_boxes"].float(), found["scores"].float(), [found[key] for key in _HEADS]
        people = boxes.shape[:1]
        fit = boxes.dim() == 2 and boxes.shape[1] == 4 and scores.shape == people
        if not fit or any(
            head.dim() != 4 or head.shape[:1] != people or not head.is_floating_point() for head in heads
        ):
            got = ", ".join(f"{each.dtype} {list(each.shape)}" for each in (found["pred_boxes"], scores, *heads))
            raise ValueError(
                "weights must give boxes [N, 4], scores [N] and the heads of N people, floating point, got "
                f"{self._source}: {got}"
            )
        return boxes, scores, heads


def _load(path: Path, device: torch.device) -> Any:
    import torchvision  # noqa: F401  (registers the operators of detectors, such as nms)

    if not path.is_file():
        raise FileNotFoundError(f"weights must be a file, got {path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"weights must be a TorchScript archive (torch.jit.save), got {path}: {error}") from error
    if "constants.pkl" not in names or not any(name.startswith("code/") for name in names):
        hint = "; use --method detectron2 for a model's weights" if "data.pkl" in names else ""
        raise ValueError(f"weights must be a TorchScript archive (torch.jit.save), got {path} without code{hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated in newer versions of PyTorch
            with utf8_name(path) as name:
                module = torch.jit.load(name, map_location=device).eval()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        last = str(error).strip().split("\n")[0]
        raise ValueError(
            f"weights must be a TorchScript archive that this PyTorch loads, got {path}: {last}"
        ) from error
    return module.float() if device.type == "cpu" else module
