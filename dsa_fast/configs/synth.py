"""Settings of a synthetic data set."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

__all__ = ["STRENGTHS", "SynthConfig"]


@dataclass(frozen=True)
class SynthConfig:
    """Settings of a synthetic data set. Together with `VERSION`, they determine every byte of it.

    Attributes:
        identities: number of identities, at least 2. The first half (rounded up) is for training, the rest for testing.
        cameras: number of cameras, at least 2; each sees every identity.
        images_per_camera: images per identity and camera, at least 2. The first one of a test identity is the query.
        distractors: distractors (pid 0) in the gallery, as a share of its other images.
        junk: junk (pid -1: boxes with very little of a person) in the gallery, as a share of its other images.
        height: height of an image, pixels.
        width: width of an image, pixels.
        seed: random seed of the data set.
        pose: 0..1; 0: all stand upright; 1: people stand, walk, bend, raise and cross their arms.
        view: 0..1; 0: all face the camera; 1: they are seen from all sides and from above.
        box: 0..1; 0: the box is tight; 1: it is shifted, too large or too small, and often cuts off a part.
        occlusion: 0..1; 0: nothing is in front of the person; 1: often poles, boxes, walls or passers-by.
        query_occlusion: 0..1; 0: queries are like other images; 1: an object in front of each query hides 25 to 75 % of
            what would be seen of the person; between: as much less. Other images stay as they are.
        clothes: outfits of each identity, 1 to `cameras`. With several, each camera sees a person in one of them, and
            the number after `s` in an image's name is the outfit.
        clutter: 0..1; 0: the background is gray; 1: it is a street with objects and people.
        lighting: 0..1; 0: soft and always the same; 1: from varying directions, bright or dark, with shade.
        camera_color: 0..1; 0: cameras show the same colors; 1: each has its own white balance, gamma, saturation, haze.
        blur: 0..1; 0: sharp; 1: out of focus, of low resolution, and noisy.
        iuv_miss_person: share (0 to 1) of images whose IUV map is empty.
        iuv_miss_part: share (0 to 1) of the parts that are missing from an IUV map.
        iuv_noise: standard deviation (0 to 1) of an error of u and v. Half of its variance is common to a part.
        jpeg_quality: JPEG quality of the images, 1..100.
    """

    identities: int = 100
    cameras: int = 4
    images_per_camera: int = 4
    distractors: float = 0.15
    junk: float = 0.05
    height: int = 128
    width: int = 64
    seed: int = 0
    pose: float = 1.0
    view: float = 1.0
    box: float = 0.5
    occlusion: float = 0.4
    query_occlusion: float = 0.0
    clothes: int = 1
    clutter: float = 0.4
    lighting: float = 0.4
    camera_color: float = 0.25
    blur: float = 0.4
    iuv_miss_person: float = 0.0
    iuv_miss_part: float = 0.0
    iuv_noise: float = 0.0
    jpeg_quality: int = 95

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            TypeError: a setting is not a number, or not an integer where it must be.
            ValueError: a setting is out of its range.
        """
        for item in fields(self):
            value = getattr(self, item.name)
            whole = isinstance(item.default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise TypeError(f"{item.name} must be {'a whole number' if whole else 'a number'}, got {value!r}")
        for name, low in (("identities", 2), ("cameras", 2), ("images_per_camera", 2), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        for name in ("height", "width"):
            if not 16 <= getattr(self, name) <= 2048:
                raise ValueError(f"{name} must be in 16..2048 pixels, got {getattr(self, name)}")
        if not 1 <= self.clothes <= self.cameras:
            raise ValueError(f"clothes must be in 1..cameras ({self.cameras}), got {self.clothes}")
        for name in (*STRENGTHS, "query_occlusion", "iuv_miss_person", "iuv_miss_part", "iuv_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        for name in ("distractors", "junk"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(
                    f"{name} must be in 0..100 times the gallery's other images, got {getattr(self, name)}"
                )
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be in 1..100, got {self.jpeg_quality}")

    def as_dict(self) -> dict[str, int | float]:
        """Returns the settings by name."""
        return asdict(self)


#: Names of the strengths of misalignment, each 0 (none) to 1 (strong).
STRENGTHS: tuple[str, ...] = ("pose", "view", "box", "occlusion", "clutter", "lighting", "camera_color", "blur")
