"""The options of each way to make IUV maps; `dsa-fast prepare` and its YAML files mirror these classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

__all__ = [
    "Detectron2Config",
    "DumpConfig",
    "KeypointsConfig",
    "Layout",
    "MaskClasses",
    "MasksConfig",
    "PoseConfig",
    "SmplConfig",
    "TorchScriptConfig",
]

#: Layouts: which joint each row of a person's keypoints is. "auto" selects the layout by their number.
Layout = Literal["auto", "coco17", "openpose18", "market14"]

#: The classes of a mask that are the person: the name of a table, or a list. "foreground" is all except 0.
MaskClasses = Literal["foreground", "schp-lip", "schp-atr", "schp-pascal", "sapiens"] | list[int]


@dataclass(frozen=True)
class MasksConfig:
    """Masks of the people.

    Attributes:
        folder: a folder of PNG or `.npy` class maps with the images' names.
        classes: the classes that are the person: `foreground` is all except 0; `schp-lip`, `schp-atr`, `schp-pascal`
            and `sapiens` are the classes of these networks; or a list such as `[1, 2, 5]`.
    """

    folder: Path | None = None
    classes: MaskClasses = "foreground"


@dataclass(frozen=True)
class Detectron2Config:
    """A chart-based DensePose model, run by detectron2.

    Attributes:
        config: its config file, such as densepose_rcnn_R_50_FPN_s1x.yaml.
        weights: its weights, .pkl or .pth.
        min_size: short edge of the network's input, pixels; by default the config's.
        max_size: longest edge of the network's input, pixels; by default the config's.
        min_score: people with a lower score are ignored.
        overrides: additional config keys, such as `{MODEL.RPN.POST_NMS_TOPK_TEST: 100}`.
    """

    required: ClassVar[tuple[str, ...]] = ("config", "weights")
    config: Path | None = None
    weights: Path | None = None
    min_size: int | None = None
    max_size: int | None = None
    min_score: float = 0.3
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TorchScriptConfig:
    """A DensePose model exported to TorchScript; needs torch and torchvision only.

    Attributes:
        weights: the file, as https://github.com/dajes/DensePose-TorchScript exports it. It is a program: use files that
            you trust.
        min_score: people with a lower score are ignored.
        min_size: short edge, pixels, to which images are resized before, for a module that does not resize.
        channels: the order of the module's input.
    """

    required: ClassVar[tuple[str, ...]] = ("weights",)
    weights: Path | None = None
    min_score: float = 0.3
    min_size: int | None = None
    channels: Literal["BGR", "RGB"] = "BGR"


@dataclass(frozen=True)
class KeypointsConfig:
    """Known keypoints.

    Attributes:
        file: a .json file of COCO's annotations or results; a folder with OpenPose's, PifPaf's or KPR's .json file per
            image; the folder of market1501_body_point or one of its .mat files; or a .npz file.
        names: if `file` has no image names: the COCO annotations or the folder of images that it belongs to.
        layout: which joint each row is; `auto` selects it by the number of joints.
        min_confidence: joints with a lower confidence are missing.
    """

    required: ClassVar[tuple[str, ...]] = ("file",)
    file: Path | None = None
    names: Path | None = None
    layout: Layout = "auto"
    min_confidence: float = 0.3


@dataclass(frozen=True)
class PoseConfig:
    """Keypoints that torchvision's Keypoint R-CNN finds.

    Attributes:
        weights: a file of its weights; by default torchvision's, downloaded.
        min_score: people with a lower score are ignored.
        min_confidence: joints with a lower confidence are missing.
    """

    required: ClassVar[tuple[str, ...]] = ()
    weights: Path | None = None
    min_score: float = 0.3
    min_confidence: float = 0.3


@dataclass(frozen=True)
class SmplConfig:
    """Fitted SMPL bodies.

    Attributes:
        folder: the folder of their files, NAME.npz for each image.
        uv: DensePose's UV_Processed.mat.
        model: an SMPL model as .npz, for files that have a body's parameters instead of its vertices.
    """

    required: ClassVar[tuple[str, ...]] = ("folder", "uv")
    folder: Path | None = None
    uv: Path | None = None
    model: Path | None = None


@dataclass(frozen=True)
class DumpConfig:
    """Existing DensePose results.

    Attributes:
        file: the file that detectron2's `apply_net.py dump` wrote.
    """

    required: ClassVar[tuple[str, ...]] = ("file",)
    file: Path | None = None
