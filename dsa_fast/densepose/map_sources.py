"""Maps without running DensePose: from keypoints, from a pose estimator, from DensePose results made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.densepose.dump import DumpEntry
from dsa_fast.densepose.keypoints import Layout, iuv_from_keypoints
from dsa_fast.densepose.prepare import PersonMap
from dsa_fast.image import read_image

__all__ = ["FromDump", "FromKeypoints", "FromPose", "match_names"]

KEYPOINT_IUV = "keypoint IUV"


class _Joints(NamedTuple):
    joints: NDArray[np.float32] | None
    size: tuple[int, int]


class FromKeypoints:
    """Draws keypoint IUV from known joints.

    Args:
        keypoints: image -> float32 [K, 3], x, y and confidence; other images get an empty map.
        layout: which joint each row is, see `iuv_from_keypoints`.
        min_confidence: joints below it are missing.
    """

    maker = KEYPOINT_IUV

    def __init__(
        self, keypoints: Mapping[Path, NDArray[np.float32]], *, layout: Layout = "auto", min_confidence: float = 0.3
    ) -> None:
        self.keypoints, self.layout, self.min_confidence = keypoints, layout, min_confidence

    def group(self, size: tuple[int, int]) -> Hashable:
        return size

    def load(self, image: Path) -> _Joints:
        return _Joints(self.keypoints.get(image), _image_size(image))

    def estimate(self, batch: Sequence[_Joints]) -> list[PersonMap | None]:
        joints, size = [each.joints for each in batch], batch[0].size
        return _drawn(joints, size, layout=self.layout, min_confidence=self.min_confidence)


class FromPose:
    """Draws keypoint IUV from the joints that a pose estimator finds.

    Args:
        pose: images, uint8 [3, H, W] each -> [17, 3], x, y and confidence, for each; None if no person is found.
        min_confidence: joints below it are missing.
    """

    maker = KEYPOINT_IUV

    def __init__(
        self,
        pose: Callable[[Sequence[Tensor]], Sequence[NDArray[np.float32] | None]],
        *,
        min_confidence: float = 0.3,
    ) -> None:
        self.pose, self.min_confidence = pose, min_confidence

    def group(self, size: tuple[int, int]) -> Hashable:
        return size

    def load(self, image: Path) -> Tensor:
        return read_image(image)

    def estimate(self, batch: Sequence[Tensor]) -> list[PersonMap | None]:
        size = batch[0].shape[1], batch[0].shape[2]
        return _drawn(self.pose(batch), size, layout="coco17", min_confidence=self.min_confidence)


class FromDump:
    """Takes the maps from a file of detectron2's `apply_net.py dump`.

    Args:
        entries: image -> its entry; other images get an empty map.
    """

    maker = "DensePose"

    def __init__(self, entries: Mapping[Path, DumpEntry]) -> None:
        self.entries = entries

    def group(self, size: tuple[int, int]) -> Hashable:
        return None

    def load(self, image: Path) -> PersonMap | None:
        entry, size = self.entries.get(image), _image_size(image)
        chosen = None if entry is None else entry.choose(size)
        if entry is None or chosen is None:
            return None
        return PersonMap(entry.iuv(size, chosen), entry.people[chosen].score)

    def estimate(self, batch: Sequence[PersonMap | None]) -> Sequence[PersonMap | None]:
        return batch


def match_names(images: Iterable[Path], names: Iterable[str], where: str) -> dict[Path, str]:
    """Matches file names written by another program to images.

    A name matches the image with the same file name, or with the same stem if the name has no suffix. If there are
    several, the image with the most folders in common wins, counted upward from the file.

    Args:
        images: paths.
        names: file names or paths, from any machine.
        where: the file with the names, for error messages.

    Returns:
        image -> name. Names without an image are left out.

    Raises:
        ValueError: a name matches several images, several names match one image, or no name matches an image.
    """
    called: dict[str, list[Path]] = {}
    for image in images:
        called.setdefault(image.name, []).append(image)
        called.setdefault(image.stem, []).append(image)
    matched: dict[Path, str] = {}
    example = None
    for name in names:
        example = name if example is None else example
        steps = name.replace("\\", "/").split("/")
        alike = [(_same_end(image, steps), image) for image in called.get(steps[-1], ())]
        if not alike:
            continue
        most = max(count for count, _ in alike)
        best = [image for count, image in alike if count == most]
        if len(best) > 1:
            raise ValueError(
                f"names in {where} must identify images uniquely, got {name!r}, which could be {best[0]} or {best[1]}"
            )
        if best[0] in matched:
            raise ValueError(f"{where} must name an image once, got {matched[best[0]]!r} and {name!r}, both {best[0]}")
        matched[best[0]] = name
    if not matched:
        first = next((str(paths[0]) for paths in called.values()), "none")
        raise ValueError(f"{where} must name some of the images, such as {first}, got {example!r}")
    return matched


def _same_end(image: Path, steps: list[str]) -> int:
    """Returns the number of folders above the file that have the same name."""
    count = 0
    for own, other in zip(reversed(image.absolute().parts[:-1]), reversed(steps[:-1]), strict=False):
        if own != other:
            break
        count += 1
    return count


def _drawn(
    joints: Sequence[NDArray[np.float32] | None], size: tuple[int, int], *, layout: Layout, min_confidence: float
) -> list[PersonMap | None]:
    found: list[PersonMap | None] = [None] * len(joints)
    # A file may contain several layouts. The number of joints identifies them.
    for rows in {len(each) for each in joints if each is not None}:
        numbers = [i for i, each in enumerate(joints) if each is not None and len(each) == rows]
        people = np.stack([each for each in joints if each is not None and len(each) == rows])
        maps = iuv_from_keypoints(people, size, layout=layout, min_confidence=min_confidence).cpu()
        for i, iuv in zip(numbers, maps, strict=True):
            found[i] = PersonMap(iuv, None) if bool(iuv[0].any()) else None
    return found


def _image_size(image: Path) -> tuple[int, int]:
    """Returns (height, width). Reads the whole image, so a broken one is an error and not an empty map."""
    pixels = read_image(image)
    return pixels.shape[1], pixels.shape[2]
