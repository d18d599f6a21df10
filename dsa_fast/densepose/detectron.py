"""Runs DensePose's chart-based models with detectron2, in batches.

Güler et al., "DensePose: Dense Human Pose Estimation in the Wild", CVPR 2018 (https://arxiv.org/abs/1802.00434);
detectron2's `projects/DensePose`. This module can be imported without either.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dsa_fast.densepose.person_choice import choose_person
from dsa_fast.densepose.prepare import PersonMap
from dsa_fast.densepose.results import ChartHeads
from dsa_fast.files import checksum
from dsa_fast.image import read_image
from dsa_fast.ops.warp_densepose import to_iuv
from dsa_fast.weights import load_named, read_arrays

__all__ = ["DensePose", "read_weights"]

_INSTALL = """\
detectron2 and its project DensePose must be installed to run DensePose, got: {error}
  python -m pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'
  python -m pip install --no-build-isolation \
'git+https://github.com/facebookresearch/detectron2.git#subdirectory=projects/DensePose'
or, from a clone, put its folder projects/DensePose on PYTHONPATH"""


class _Loaded(NamedTuple):
    """An image as the network's input (uint8 [3, h, w], in its channel order), and its original (height, width)."""

    pixels: Tensor
    size: tuple[int, int]


class DensePose:
    """Makes IUV maps of images with one of detectron2's chart-based DensePose models.

    It extends `DefaultPredictor` to batches: it resizes bilinearly so that the short edge is `min_size` unless the long
    edge would exceed `max_size`, runs the network, and scales the boxes back. Images share a batch only
    if their padded inputs have the same shape, so no image gets more padding than it would alone. The DensePose head
    runs for one person per image, chosen by `choose_person`. People below `min_score` are ignored.

    Args:
        config: a detectron2 YAML file, such as `densepose_rcnn_R_50_FPN_s1x.yaml`; the file in its `_BASE_` must be
            next to it.
        weights: its weights, .pkl as in DensePose's model zoo or .pth. No code in them is run.
        device: device of the network.
        min_size: short edge of the network's input, pixels; by default the config's INPUT.MIN_SIZE_TEST.
        max_size: longest edge; by default INPUT.MAX_SIZE_TEST.
        min_score: lowest score of a person, 0..1.
        overrides: additional config keys and their values, such as {"MODEL.RPN.POST_NMS_TOPK_TEST": 100}.

    Raises:
        FileNotFoundError: `config` or `weights` does not exist.
        ValueError: detectron2 or DensePose is not installed, the config is not for a chart-based DensePose model, or
            the weights are for another model.
    """

    maker = "DensePose"

    def __init__(
        self,
        config: Path,
        weights: Path,
        *,
        device: torch.device | str = "cpu",
        min_size: int | None = None,
        max_size: int | None = None,
        min_score: float = 0.3,
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        for name, path in (("config", config), ("weights", weights)):
            if not path.is_file():
                raise FileNotFoundError(f"{name} must be a file, got {path}: no such file")
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be in 0..1, got {min_score}")
        cfg = _read_config(config)
        changes = {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": min_score, **(overrides or {})}
        changes |= {"MODEL.DEVICE": str(device), "MODEL.WEIGHTS": ""}
        if min_size is not None:
            changes["INPUT.MIN_SIZE_TEST"] = min_size
        if max_size is not None:
            changes["INPUT.MAX_SIZE_TEST"] = max_size
        try:
            cfg.merge_from_list([part for pair in changes.items() for part in pair])
        except (KeyError, ValueError, AssertionError) as error:
            raise ValueError(f"overrides must be keys of {config} with values of their types, got: {error}") from error
        _check_chart_model(cfg, config)
        self._min, self._max, self._bgr = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT == "BGR"
        if self._min < 1 or self._max < 1:
            raise ValueError(f"min_size and max_size must be at least 1, got {self._min} and {self._max}")
        self.device = torch.device(device)
        self.model = _build(cfg, config)
        load_named(self.model, read_weights(weights), source=f"weights {str(weights)!r}")
        self._keep_one_person()
        self._sizes: list[tuple[int, int]] = []
        #: The options that change the result, to compare runs.
        self.settings = {
            "config_sha256": hashlib.sha256(cfg.dump().encode()).hexdigest(),
            "weights_sha256": checksum(weights),
            "min_size": self._min,
            "max_size": self._max,
            "min_score": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        }

    def group(self, size: tuple[int, int]) -> Hashable:
        """Returns the input's shape after resizing and padding."""
        unit = max(1, self.model.backbone.size_divisibility)
        return tuple(-(-length // unit) * unit for length in self._input_size(size))

    def load(self, image: Path) -> _Loaded:
        """Reads and resizes an image."""
        from detectron2.data.transforms import ResizeTransform

        pixels = read_image(image)
        size = pixels.shape[1], pixels.shape[2]
        if self._bgr:
            pixels = pixels.flip(0)
        array = pixels.permute(1, 2, 0).contiguous().numpy()
        resized = ResizeTransform(*size, *self._input_size(size)).apply_image(array)
        return _Loaded(torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))), size)

    @torch.inference_mode()
    def estimate(self, batch: Sequence[_Loaded]) -> list[PersonMap | None]:
        """Returns the person in each image."""
        inputs = [{"image": each.pixels, "height": each.size[0], "width": each.size[1]} for each in batch]
        people = [result["instances"] for result in self.model.inference(inputs)]
        # A batch without people has no DensePose outputs at all.
        there = [i for i, person in enumerate(people) if len(person) and person.has("pred_densepose")]
        found: list[PersonMap | None] = [None] * len(batch)
        if there:
            maps = _chart_maps([people[i] for i in there], [batch[i].size for i in there])
            scores = torch.cat([people[i].scores for i in there]).tolist()
            for i, iuv, score in zip(there, maps, scores, strict=True):
                found[i] = PersonMap(iuv, score)
        return found

    def _input_size(self, size: tuple[int, int]) -> tuple[int, int]:
        from detectron2.data.transforms import ResizeShortestEdge

        height, width = ResizeShortestEdge.get_output_shape(*size, self._min, self._max)
        return height, width

    def _keep_one_person(self) -> None:
        """Reduces the detections to one person before the heads that follow the box head."""
        heads = self.model.roi_heads
        with_boxes = heads.forward_with_given_boxes

        def chosen_only(features: Any, instances: list[Any]) -> Any:
            return with_boxes(features, [_chosen(each) for each in instances])

        heads.forward_with_given_boxes = chosen_only


def _chosen(instances: Any) -> Any:
    """Reduces the detections in one image to the person that it shows, if there is one."""
    best = choose_person(instances.pred_boxes.tensor, instances.scores, instances.image_size)
    return instances[:0] if best is None else instances[best]


def _chart_maps(people: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Returns the map of each one-person result in its image, uint8 [3, H, W], on the CPU."""
    maps: dict[int, Tensor] = {}
    for size in set(sizes):
        numbers = [i for i, each in enumerate(sizes) if each == size]
        outputs = [people[i].pred_densepose for i in numbers]
        names = (field.name for field in fields(ChartHeads))
        heads = ChartHeads(*(torch.cat([getattr(output, name) for output in outputs]) for name in names))
        boxes = torch.cat([people[i].pred_boxes.tensor for i in numbers])
        maps.update(zip(numbers, to_iuv(heads, boxes, size, dtype=torch.uint8).cpu(), strict=True))
    return [maps[i] for i in range(len(people))]


def _read_config(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # detectron2's warnings about torch
            from densepose import add_densepose_config
            from detectron2.config import get_cfg
    except ImportError as error:
        raise ValueError(_INSTALL.format(error=error)) from error
    import yaml

    cfg = get_cfg()
    add_densepose_config(cfg)
    try:
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError, OSError, yaml.YAMLError) as error:
        raise ValueError(f"config must be a detectron2 config of a DensePose model, got {path}: {error}") from error
    return cfg


def _check_chart_model(cfg: Any, path: Path) -> None:
    if not cfg.MODEL.DENSEPOSE_ON or cfg.MODEL.ROI_HEADS.NAME != "DensePoseROIHeads":
        raise ValueError(
            f"config must be for a DensePose model, got {path}, whose heads are {cfg.MODEL.ROI_HEADS.NAME}"
        )
    head = cfg.MODEL.ROI_DENSEPOSE_HEAD
    if "Embedding" in head.PREDICTOR_NAME or head.CSE.EMBEDDERS:
        raise ValueError(
            f"config must be for a model that predicts charts (part, u, v), got {path}, whose "
            f"{head.PREDICTOR_NAME} predicts continuous surface embeddings (CSE); use a chart-based config, such as "
            "densepose_rcnn_R_50_FPN_s1x.yaml"
        )


def _build(cfg: Any, path: Path) -> Any:
    from detectron2.modeling import build_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = build_model(cfg).eval()
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(f"no model can be built from {path}: {error}") from error
    if not hasattr(model, "roi_heads"):
        raise ValueError(f"config must be for a GeneralizedRCNN, got {path} with {type(model).__name__}")
    return model


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads a model's weights from detectron2's .pkl or .pth, without running code in the file.

    Raises:
        ValueError: the file is neither, contains anything other than arrays, or has Caffe2's names.
    """
    try:
        content = read_arrays(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"weights must be a file of detectron2's (.pkl or .pth), got {path}: {error}") from error
    if isinstance(content, dict) and "blobs" in content:
        raise ValueError(f"weights must be in detectron2's naming, got {path} in Caffe2's (from DensePose of 2018)")
    named = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named:
        raise ValueError(f"weights must hold a model's parameters by name, got {path} with {type(content).__name__}")
    weights = {}
    for name, value in named.items():
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub":
            value = torch.from_numpy(np.array(value))
        if not isinstance(value, Tensor):
            raise ValueError(f"weights must hold arrays only, got {type(value).__name__} as {name} in {path}")
        weights[str(name)] = value
    return weights
