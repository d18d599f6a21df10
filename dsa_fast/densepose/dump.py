"""Files of detectron2's `apply_net.py dump`: DensePose results of many images, read without detectron2.

Such a file is a `torch.save` (before 2020 a `pickle.dump`) of a list with a dict for each image: `file_name`, `scores`
[N], `pred_boxes_XYXY` [N, 4] and `pred_densepose`, which holds objects of DensePose's own classes. `unpickle` reads it
without running code from it. The classes may come from any module, so copies of the project also work.
"""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dsa_fast.densepose.parts import NUM_PARTS
from dsa_fast.densepose.person_choice import choose_person
from dsa_fast.densepose.results import iuv_from_result, place_in_image
from dsa_fast.densepose.unpickle import Call, read_values

__all__ = ["DumpEntry", "DumpPerson", "read_dump"]

_CHART = frozenset({"DensePoseChartResult", "DensePoseChartResultWithConfidences"})
_QUANTIZED, _COMPRESSED, _OLD = "DensePoseChartResultQuantized", "DensePoseChartResultCompressed", "DensePoseResult"
# Listed for clear error messages.
_EMBEDDINGS = frozenset({"DensePoseEmbeddingPredictorOutput", "DensePoseEmbeddingPredictorOutputWithConfidences"})
_HEADS = frozenset(
    {
        "DensePoseChartPredictorOutput",
        "DensePoseChartPredictorOutputWithConfidences",
        "DensePoseOutput",
        *("Instances", "Boxes"),
    }
)
_CLASSES = _CHART | _EMBEDDINGS | _HEADS | {_QUANTIZED, _COMPRESSED, _OLD}


@dataclass(frozen=True, eq=False)
class DumpPerson:
    """One detected person of an image.

    Attributes:
        score: score of the detection, in [0, 1]; 1 if the file has none.
        box: x0, y0, x1, y1 in the image's pixels.
        labels: [h, w], part ids 0..24 in the box.
        uv: float32 [2, h, w].
    """

    score: float
    box: tuple[float, float, float, float]
    labels: Tensor
    uv: Tensor

    def iuv(self, size: tuple[int, int] | None = None) -> Tensor:
        """Returns the IUV map, uint8 [3, height, width], of the image if its `size` is given, otherwise of the box.

        Raises:
            ValueError: see `iuv_from_result`.
        """
        return iuv_from_result(self.labels, self.uv, None if size is None else self.box, size)


@dataclass(frozen=True, eq=False)
class DumpEntry:
    """One image of a dump.

    Attributes:
        file_name: the image's path on the machine that made the dump.
        people: the detected people in the file's order, highest score first.
    """

    file_name: str
    people: tuple[DumpPerson, ...]

    def choose(self, size: tuple[int, int]) -> int | None:
        """Returns the index in `people` of the person that the crop shows, or None; see `choose_person`."""
        boxes = torch.tensor([person.box for person in self.people]).view(-1, 4)
        return choose_person(boxes, torch.tensor([person.score for person in self.people]), size)

    def iuv(self, size: tuple[int, int], person: int | None = None) -> Tensor:
        """Returns a person's IUV map, placed in the image.

        Args:
            size: (height, width) of the image.
            person: index into `people`; by default the choice of `choose`. If that is None, the map is all background.

        Returns:
            uint8 [3, height, width].

        Raises:
            IndexError: there is no such person.
            ValueError: see `iuv_from_result`.
        """
        chosen = self.choose(size) if person is None else person
        if chosen is None:
            return torch.zeros((3, *size), dtype=torch.uint8)
        if not 0 <= chosen < len(self.people):
            raise IndexError(f"person must be in 0..{len(self.people) - 1}, got {person}: {self.file_name}")
        return self.people[chosen].iuv(size)


def read_dump(path: str | os.PathLike[str]) -> list[DumpEntry]:
    """Reads a file of `apply_net.py dump`. Nothing in it is executed, and detectron2 is not needed.

    It reads results of chart models: `DensePoseChartResult`, with or without confidences (which are dropped), its
    quantized and compressed forms, and the `DensePoseResult` of DensePose before August 2020.

    Args:
        path: the file, in either format of `torch.save`, or a pickle.

    Returns:
        One entry for each image, in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a dump, is truncated or damaged, refers to anything but tensors and these classes,
            or contains results without parts and (u, v): CSE embeddings, or raw network outputs. The message names the
            file.
    """
    images = read_values(path, _CLASSES)
    if isinstance(images, Call):
        raise ValueError(f"{path} must be a list of images as apply_net.py dump writes it, {_what(images)}")
    if isinstance(images, dict):
        images = [images]
    if not isinstance(images, list):
        raise ValueError(f"{path} must be a list of images as apply_net.py dump writes it, got {_kind(images)}")
    entries = []
    for number, image in enumerate(images):
        try:
            entries.append(_entry(image))
        except Exception as error:  # values of other types and sizes fail in many ways
            name = image.get("file_name") if isinstance(image, dict) else None
            about = f" ({name[:300]})" if isinstance(name, str) else ""
            raise ValueError(f"{path}, image {number}{about}: {error}") from error
    return entries


def _entry(image: Any) -> DumpEntry:
    if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
        raise ValueError(f"an image must be a dict with a file_name, got {_kind(image)}")
    boxes, scores, found = (image.get(key) for key in ("pred_boxes_XYXY", "scores", "pred_densepose"))
    results = _results(found)
    if boxes is None:
        boxes = torch.empty(0, 4)
    if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"pred_boxes_XYXY must be a tensor [N, 4], got {_kind(boxes)}")
    if found is None and len(boxes):
        raise ValueError("it has boxes, but no pred_densepose: was it a DensePose model?")
    if len(results) != len(boxes):
        raise ValueError(f"pred_densepose must hold a result for each of {len(boxes)} boxes, got {len(results)}")
    if scores is None:
        scores = torch.ones(len(boxes))
    if not isinstance(scores, Tensor) or scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores must be a tensor [{len(boxes)}], one for each box, got {_kind(scores)}")
    people = []
    for score, box, (labels, uv) in zip(scores.tolist(), boxes.tolist(), results, strict=True):
        # Checked here, so the error for a wrong result names the file.
        place_in_image(labels.expand(3, *labels.shape), box, (1, 1))
        people.append(DumpPerson(float(score), (box[0], box[1], box[2], box[3]), labels, uv))
    return DumpEntry(image["file_name"], tuple(people))


def _results(found: Any) -> list[tuple[Tensor, Tensor]]:
    """Returns labels [h, w] and uv [2, h, w] of each person."""
    if found is None:
        return []
    if isinstance(found, Call) and _class(found) == _OLD:
        encoded = found.state.get("results")
        if not isinstance(encoded, list) or not all(isinstance(it, tuple) and len(it) == 2 for it in encoded):
            raise ValueError("DensePoseResult must hold results, each a shape and an encoded image")
        return [_from_bytes(_decoded(*it)) for it in encoded]
    if isinstance(found, Call):
        raise ValueError(_what(found))
    # The extractor's own result is a pair of the results and their boxes.
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], list):
        found = found[0]
    if not isinstance(found, (list, tuple)):
        raise ValueError(f"pred_densepose must be a list of results, got {_kind(found)}")
    return [_result(each) for each in found]


def _result(result: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(result, Call):
        raise ValueError(f"a result must be a DensePoseChartResult, got {_kind(result)}")
    kind, state = _class(result), result.state
    if kind in _CHART:
        labels, uv = state.get("labels"), state.get("uv")
        if not isinstance(labels, Tensor) or not isinstance(uv, Tensor):
            raise ValueError(f"{kind} must hold the tensors labels and uv, got {_kind(labels)} and {_kind(uv)}")
        if labels.dim() != 2 or labels.numel() == 0 or uv.shape != (2, *labels.shape) or not uv.is_floating_point():
            raise ValueError(
                f"{kind} must hold labels [h, w] and uv, floating point [2, h, w], got {_kind(labels)} and {_kind(uv)}"
            )
        if labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(f"labels must be whole numbers, got {labels.dtype}")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > NUM_PARTS:
            raise ValueError(f"labels must be part ids 0..{NUM_PARTS}, got {low}..{high}")
        return labels, uv
    if kind == _QUANTIZED:
        return _from_bytes(state.get("labels_uv_uint8"))
    if kind == _COMPRESSED:
        return _from_bytes(_decoded(state.get("shape_chw"), state.get("labels_uv_str")))
    raise ValueError(_what(result))


def _from_bytes(iuv: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(iuv, Tensor) or iuv.dtype != torch.uint8 or iuv.dim() != 3 or len(iuv) != 3 or not iuv.numel():
        raise ValueError(f"a quantised result must be a uint8 tensor [3, h, w], got {_kind(iuv)}")
    if int(iuv[0].max()) > NUM_PARTS:
        raise ValueError(f"labels must be part ids 0..{NUM_PARTS}, got {int(iuv[0].max())}")
    return iuv[0], iuv[1:].float() / 255


def _decoded(shape: Any, text: Any) -> Tensor:
    """Decodes a PNG in base64 to uint8 [3, h, w]."""
    if not isinstance(text, (str, bytes)) or not isinstance(shape, (tuple, list)):
        raise ValueError(f"a compressed result must be a shape and a text, got {_kind(shape)} and {_kind(text)}")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as image:
            pixels = np.array(image)
    except Exception as error:  # Pillow raises many kinds of errors
        raise ValueError(f"a compressed result must be a PNG image in base64: {error}") from error
    if pixels.ndim != 3 or [type(n) is int and n for n in shape] != [pixels.shape[2], *pixels.shape[:2]]:
        raise ValueError(f"a compressed result must be an image of its shape [3, h, w], got {list(pixels.shape)}")
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _class(call: Call) -> str:
    return call.path.rpartition(".")[2]


def _what(call: Call) -> str:
    """Returns the reason why an object is not a result."""
    kind = _class(call)
    if kind in _EMBEDDINGS:
        return (
            f"got {kind}: embeddings of a CSE model, which have no parts and no (u, v); "
            "run apply_net.py with a chart model, such as densepose_rcnn_R_50_FPN_s1x"
        )
    if kind in _HEADS:
        return f"got {kind}: raw network outputs, not results; write the file with apply_net.py dump"
    return f"got {kind}"


def _kind(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
