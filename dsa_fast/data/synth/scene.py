"""What varies between pictures of an identity: pose, view, box, background, occluders, light, camera, map errors.

Each function takes a strength in 0..1 and a generator; a strength of 0 leaves everything aligned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from dsa_fast.densepose.body import JOINTS, Pose

from .render import Camera, Window

__all__ = [
    "CameraStyle",
    "Light",
    "damage_iuv",
    "develop",
    "make_camera_style",
    "random_box",
    "random_light",
    "random_pose",
    "tight_box",
]

Array = NDArray[np.floating[Any]]

_WARM = np.array([1.08, 1.0, 0.9], np.float32)  # tint of stone
_GREY = 118 * _WARM


@dataclass(frozen=True)
class Light:
    """Light on a person: intensity is ambient + direct * max(0, normal . direction), times gain.

    Attributes:
        direction: unit vector in the camera's frame (x right, y up, z toward the camera).
        ambient: share of ambient light.
        direct: share of light from the direction.
        gain: gain of person and background.
        slope: change of the gain from one side of the picture to the other, (right, down).
    """

    direction: tuple[float, float, float] = (0.3, 0.6, 0.74)
    ambient: float = 0.62
    direct: float = 0.45
    gain: float = 1.0
    slope: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class CameraStyle:
    """Properties common to all pictures of a camera.

    Attributes:
        street: uint8 [h, w, 3], the background; its pictures show pieces of it.
        pitch: angle by which it looks down, radians.
        distance: approximate distance to people, meters.
        light: azimuth of the light, radians, and its height.
        gains: gains of R, G and B.
        gamma: exponent of the tone curve.
        saturation: 1 keeps the colors.
        haze: value added to all channels, in 0..255.
        softness: its share of the blur, 0..1.
    """

    street: NDArray[np.uint8]
    pitch: float
    distance: float
    light: tuple[float, float]
    gains: tuple[float, float, float]
    gamma: float
    saturation: float
    haze: float
    softness: float


def make_camera_style(rng: np.random.Generator) -> CameraStyle:
    """Draws a random camera."""
    return CameraStyle(
        street=_street(rng),
        pitch=float(rng.uniform(0.03, 0.36)),
        distance=float(rng.uniform(4.5, 12)),
        light=(float(rng.uniform(-2.4, 2.4)), float(rng.uniform(0.4, 1.2))),
        gains=_three(np.exp(rng.normal(0, 0.1, 3))),
        gamma=float(np.exp(rng.normal(0, 0.22))),
        saturation=float(rng.uniform(0.5, 1.1)),
        haze=float(rng.uniform(0, 30)),
        softness=float(rng.uniform(0, 1)),
    )


def _three(values: Array) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _street(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draws a background: wall, ground, and objects on it."""
    width, height = 640, 320
    horizon = int(height * rng.uniform(0.36, 0.5))

    def mute(low: int, high: int, colour: float = 0.35) -> tuple[int, int, int]:
        # All streets are gray and brown: the hue of a picture should not reveal the camera.
        hue = (
            _WARM
            - 1
            + 0.4 * colour * rng.uniform(-1, 1) * np.array([1.0, 0.1, -1.0])
            + 0.2 * colour * rng.uniform(-1, 1, 3)
        )
        red, green, blue = np.clip(rng.uniform(low, high) * (1 + hue), 0, 255)
        return int(red), int(green), int(blue)

    picture = Image.new("RGB", (width, height), mute(90, 200, 0.2))
    draw = ImageDraw.Draw(picture)
    left = 0
    while left < width:  # houses
        step = int(rng.uniform(60, 190))
        color = mute(60, 210, 0.3)
        draw.rectangle((left, int(rng.uniform(-80, horizon * 0.35)), left + step, horizon), fill=color)
        if rng.random() < 0.75:
            pane, sx, sy = mute(25, 230, 0.3), int(rng.uniform(12, 36)), int(rng.uniform(14, 44))
            for wx in range(left + 6, left + step - sx // 2, sx):
                for wy in range(int(horizon * 0.1), horizon - 6, sy):
                    draw.rectangle((wx, wy, wx + sx * 0.55, wy + sy * 0.6), fill=pane)
        left += step
    draw.rectangle((0, horizon, width, height), fill=mute(70, 180, 0.15))
    line = mute(60, 210, 0.15)
    if rng.random() < 0.6:  # slabs that meet at the horizon
        for target in range(-3 * width, 4 * width, int(rng.uniform(60, 140))):
            draw.line((width / 2 + 0.2 * (target - width / 2), horizon, target, height), fill=line, width=1)
        for k in range(1, 9):
            y = horizon + (height - horizon) * (k / 9) ** 2
            draw.line((0, y, width, y), fill=line, width=1)
    else:  # kerb and markings
        y = horizon + int((height - horizon) * rng.uniform(0.1, 0.5))
        draw.rectangle((0, y, width, height), fill=mute(60, 140, 0.1))
        draw.line((0, y, width, y), fill=mute(150, 230, 0.1), width=3)
        for dash in range(0, width, 90):
            draw.line((dash, y + 40, dash + 45, y + 40), fill=mute(170, 235, 0.05), width=4)
    for _ in range(int(rng.integers(8, 16))):
        kind, x = int(rng.integers(4)), rng.uniform(0, width)
        foot = horizon + (height - horizon) * rng.uniform(0.02, 0.45)
        if kind == 0:  # a pole
            draw.rectangle((x, -1, x + rng.uniform(3, 9), foot), fill=mute(30, 170, 0.25))
        elif kind == 1:  # a car, a kiosk
            wide, tall, color = rng.uniform(60, 120), rng.uniform(25, 60), mute(40, 220, 0.7)
            draw.rounded_rectangle((x, foot - tall, x + wide, foot), 8, fill=color)
            draw.rectangle((x + 10, foot - tall + 5, x + wide - 10, foot - tall * 0.6), fill=mute(30, 90, 0.2))
        elif kind == 2:  # a bush or a tree
            for _ in range(14):
                cx, cy, r = x + rng.normal(0, 22), foot - rng.uniform(10, 90), rng.uniform(8, 24)
                tone = rng.uniform(0.5, 1.3)
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=(int(62 * tone), int(88 * tone), int(48 * tone)))
        else:  # a sign
            y, wide, tall = rng.uniform(0, horizon), rng.uniform(14, 60), rng.uniform(14, 40)
            draw.rectangle((x, y, x + wide, y + tall), fill=mute(40, 230, 0.8))
            draw.rectangle((x + 4, y + 4, x + wide * 0.8, y + tall * 0.45), fill=mute(40, 230, 0.5))
    pixels: Array = np.asarray(picture.filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    coarse = rng.normal(0, 7, (height // 8, width // 8, 1)).repeat(8, 0).repeat(8, 1)
    pixels = pixels + coarse + rng.normal(0, 5, (height, width, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def background(style: CameraStyle, strength: float, rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Cuts a piece of a camera's street, float32 [rows, columns, 3]; flat gray at strength 0."""
    height, width = style.street.shape[:2]
    tall = height * rng.uniform(0.62, 0.95)
    wide = min(tall * columns / rows, width)
    x, y = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
    more = int(rng.poisson(2.5 * strength))
    things = rng.uniform(0, 1, (more, 4))
    colors = rng.uniform(25, 235, (more, 3))
    if strength == 0:
        return np.broadcast_to(_GREY, (rows, columns, 3)).astype(np.float32)
    box = (x, y, x + wide, y + tall)
    picture = Image.fromarray(style.street).resize((columns, rows), Image.Resampling.BILINEAR, box=box)
    if more:
        draw = ImageDraw.Draw(picture)
        for (left, top, w, h), color in zip(things, colors, strict=True):
            left, top = (left * 1.2 - 0.2) * columns, (top * 1.2 - 0.2) * rows
            grey = color.mean()
            fill = tuple(int(c) for c in grey + 0.5 * (color - grey))
            draw.rectangle((left, top, left + (0.08 + 0.4 * w * w) * columns, top + (0.05 + 0.5 * h) * rows), fill=fill)
    share = min(1.0, 1.25 * strength)
    return np.asarray(picture, np.float32) * np.float32(share) + np.float32(1 - share) * _GREY


def random_pose(strength: float, rng: np.random.Generator) -> Pose:
    """Draws a pose: stand, walk, or move the arms. All angles scale with the strength."""
    angles = {name: np.zeros(3) for name in JOINTS}
    kind = rng.choice(
        ("walk", "stand", "phone", "carry", "raise", "bend", "cross"), p=(0.5, 0.2, 0.08, 0.08, 0.05, 0.04, 0.05)
    )
    jitter = rng.normal(0, 1, (len(JOINTS), 3))
    small = np.array([0.06, 0.05, 0.04])
    for index, name in enumerate(JOINTS):
        angles[name] += jitter[index] * small
    for side, sign in (("left", 1), ("right", -1)):
        angles[f"{side}_shoulder"] += (0.0, 0.0, sign * (0.12 + 0.1 * rng.random()))
        angles[f"{side}_elbow"] += (-0.1 - 0.25 * rng.random(), 0, 0)
        angles[f"{side}_hip"] += (0, 0, sign * 0.04)
        knee = f"{side}_knee"
        angles[knee][:] = (abs(angles[knee][0]), 0, 0)
        angles[f"{side}_wrist"] *= 3
    phase, size = rng.uniform(0, 2 * np.pi), rng.uniform(0.55, 1.15)
    if kind in ("walk", "phone", "carry"):
        swing, bend = np.sin(phase), np.cos(phase)
        for side, sign in (("left", 1), ("right", -1)):
            angles[f"{side}_hip"][0] += -0.46 * size * sign * swing - 0.05
            # The knee bends while its leg moves forward.
            angles[f"{side}_knee"][0] += 0.12 + 0.75 * size * max(0.0, sign * bend) * (0.6 - 0.4 * sign * swing)
            angles[f"{side}_ankle"][0] += 0.25 * size * sign * swing
            angles[f"{side}_shoulder"][0] += 0.5 * size * sign * swing
            angles[f"{side}_elbow"][0] += -0.3 * size * max(0.0, -sign * swing)
        angles["spine"][1] += -0.1 * size * swing
        angles["chest"][1] += 0.1 * size * swing
    side, sign = ("left", 1) if rng.random() < 0.5 else ("right", -1)
    other = "right" if side == "left" else "left"
    if kind == "phone":
        angles[f"{side}_shoulder"][:] = (-0.45, 0.3 * sign, 0.35 * sign)
        angles[f"{side}_elbow"][:] = (-2.3, 0, 0)
    elif kind == "carry":
        for name, s in ((side, sign), (other, -sign)):
            angles[f"{name}_shoulder"][:] = (-0.25, -0.35 * s, 0.12 * s)
            angles[f"{name}_elbow"][:] = (-1.5, 0, 0)
    elif kind == "raise":
        angles[f"{side}_shoulder"][:] = (-rng.uniform(0.2, 2.6), 0, sign * rng.uniform(0.4, 1.4))
        angles[f"{side}_elbow"][0] = -rng.uniform(0.1, 1.6)
    elif kind == "bend":
        lean = rng.uniform(0.3, 0.8)
        angles["pelvis"][0] += 0.3 * lean
        angles["spine"][0] += 0.5 * lean
        angles["chest"][0] += 0.4 * lean
        for name in (side, other):
            angles[f"{name}_hip"][0] -= 0.5 * lean
            angles[f"{name}_knee"][0] += 0.3 * lean
    elif kind == "cross":
        for name, s in ((side, sign), (other, -sign)):
            angles[f"{name}_shoulder"][:] = (-0.55, -0.6 * s, 0.1 * s)
            angles[f"{name}_elbow"][:] = (-1.75, 0, 0)
    angles["head"] += rng.normal(0, 1, 3) * (0.12, 0.3, 0.05)
    return Pose((np.stack([angles[name] for name in JOINTS]) * strength).astype(np.float32))


def random_camera(style: CameraStyle, strength: float, heading: float, rng: np.random.Generator) -> Camera:
    """Draws a view of a person who crosses the camera's field with a heading in -1..1 (times pi)."""
    yaw = np.pi * heading * strength + rng.normal(0, 0.35) * strength
    pitch = (style.pitch + rng.normal(0, 0.04)) * strength
    distance = 8 + (style.distance * np.exp(rng.normal(0, 0.15)) - 8) * strength
    return Camera(float(yaw), float(max(pitch, 0.0)), float(distance), float(rng.normal(0, 0.035) * strength))


def tight_box(points: Array, aspect: float) -> Window:
    """Returns the box around projected points, with a margin.

    Args:
        points: [N, 2 or more], meters.
        aspect: smallest width over height of the box; it is wider if the points are.
    """
    (x0, y0), (x1, y1) = points[:, :2].min(0), points[:, :2].max(0)
    height = (y1 - y0) * 1.06
    width = max(height * aspect, (x1 - x0) * 1.06)
    return Window(float(x0 + x1) / 2, float(y0 + y1) / 2, float(width), float(height))


def random_box(window: Window, strength: float, rng: np.random.Generator, *, extreme: bool = False) -> Window:
    """Turns the tight box of a person into a detector's box. With `extreme`, it shows very little of the person."""
    grow = np.exp(rng.normal(0.05, 0.16) * strength)
    aspect = np.exp(rng.normal(0, 0.1) * strength)
    x = window.x + window.width * rng.normal(0, 0.09) * strength
    y = window.y + window.height * rng.normal(0, 0.05) * strength
    box = Window(float(x), float(y), float(window.width * grow * aspect), float(window.height * grow))
    kind, amount = rng.random(), rng.uniform(0.35, 1.0)
    side = 1 if rng.random() < 0.5 else -1
    if extreme:
        return replace(box, x=box.x + side * box.width * 0.55 * amount, y=box.y + box.height * 0.3 * (amount - 0.6))
    if kind < 0.22 * strength:  # legs are cut off
        cut = 0.42 * amount * strength
        box = replace(box, y=box.y + box.height * cut / 2, height=box.height * (1 - cut))
    elif kind < 0.32 * strength:  # the head is
        cut = 0.16 * amount * strength
        box = replace(box, y=box.y - box.height * cut / 2, height=box.height * (1 - cut))
    elif kind < 0.42 * strength:  # one side is
        box = replace(box, x=box.x + side * box.width * 0.3 * amount * strength)
    return box


def random_light(style: CameraStyle, strength: float, rng: np.random.Generator) -> Light:
    """Draws a camera's light at some time of day."""
    plain = Light()
    azimuth = style.light[0] * strength + rng.normal(0, 0.4) * strength
    up = np.sin(style.light[1])
    level = np.sqrt(max(1 - up * up, 0.0))
    aimed = np.array([np.sin(azimuth) * level, up, np.cos(azimuth) * level])
    direction = np.array(plain.direction) * (1 - strength) + aimed * strength
    direction /= np.linalg.norm(direction)
    hard = rng.uniform(0, 0.35) * strength
    return Light(
        direction=_three(direction),
        ambient=float(plain.ambient - 0.8 * hard),
        direct=float(plain.direct + hard),
        gain=float(np.exp(rng.normal(0, 0.24) * strength)),
        slope=(float(rng.normal(0, 0.22) * strength), float(rng.normal(0, 0.15) * strength)),
    )


@dataclass(frozen=True)
class Occluder:
    """A colored box in front of a person, in fractions of the picture.

    Attributes:
        box: left, top, right, bottom.
        color: color of its face.
        second: color of its stripes.
        stripe: width of its stripes, 0 for none.
    """

    box: tuple[float, float, float, float]
    color: tuple[float, float, float]
    second: tuple[float, float, float]
    stripe: float

    def draw(self, canvas: Array) -> tuple[slice, slice]:
        """Paints the box on samples [R, C, 3] and returns the slices that it covers."""
        rows, columns = canvas.shape[:2]
        left, top, right, bottom = self.box
        y = slice(max(round(top * rows), 0), min(round(bottom * rows), rows))
        x = slice(max(round(left * columns), 0), min(round(right * columns), columns))
        face = canvas[y, x]
        face[:] = self.color
        if self.stripe > 0:
            across = np.arange(face.shape[0])[:, None] + np.arange(face.shape[1])[None]
            face[(across // max(2, round(self.stripe * columns))) % 2 == 0] = self.second
        face *= np.linspace(1.08, 0.82, face.shape[1], dtype=np.float32)[None, :, None]
        return y, x


def random_occluder(rng: np.random.Generator) -> Occluder:
    """Draws a pole, a low wall or a post at one side."""
    kind = rng.random()
    if kind < 0.35:
        left, wide = rng.uniform(0.05, 0.8), rng.uniform(0.1, 0.2)
        box = (left, -0.1, left + wide, 1.1)
    elif kind < 0.7:
        left, wide = rng.uniform(-0.3, 0.5), rng.uniform(0.6, 1.3)
        box = (left, 1 - rng.uniform(0.18, 0.45), left + wide, 1.1)
    else:
        wide, top = rng.uniform(0.25, 0.48), rng.uniform(0.0, 0.5)
        box = (-0.1, top, wide, 1.1) if rng.random() < 0.5 else (1 - wide, top, 1.1, 1.1)
    return _painted((float(box[0]), float(box[1]), float(box[2]), float(box[3])), rng)


def _painted(box: tuple[float, float, float, float], rng: np.random.Generator) -> Occluder:
    """Draws the colors of a box."""
    grey, hue = rng.uniform(35, 200), rng.uniform(-0.3, 0.3, 3)
    color = grey * (1 + hue)
    other = np.clip(color * rng.uniform(0.6, 1.4), 0, 255)
    stripe = float(rng.uniform(0.06, 0.2)) if rng.random() < 0.3 else 0.0
    return Occluder(box, _three(color), _three(other), stripe)


def covering_object(down: Array, across: Array, strength: float, rng: np.random.Generator) -> Occluder:
    """Draws an object that hides 25 to 75 % of a person, times `strength`.

    It stands in front of the legs, to one side, in front of the middle, or hangs from above.

    Args:
        down: [N] where what is seen of the person is, from 0 at the top of the picture to 1.
        across: [N] the same from left to right.
        strength: 0..1.
        rng: random numbers.
    """
    share = strength * float(rng.uniform(0.25, 0.75))
    kind = rng.choice(5, p=(0.4, 0.2, 0.2, 0.1, 0.1))
    left, top, right, bottom = -0.1, -0.1, 1.1, 1.1
    if kind == 0:  # a car, a counter
        top = float(np.quantile(down, 1 - share))
    elif kind == 1:  # a door, a column at the left
        right = float(np.quantile(across, share))
    elif kind == 2:
        left = float(np.quantile(across, 1 - share))
    elif kind == 3:  # a post
        start = float(rng.uniform(0, 1 - share))
        left, right = (float(each) for each in np.quantile(across, (start, start + share)))
    else:  # a sign, an umbrella
        bottom = float(np.quantile(down, share))
    return _painted((left, top, right, bottom), rng)


def develop(
    pixels: Array, style: CameraStyle, light: Light, camera_color: float, blur: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Simulates the camera: exposure, colors, blur, resolution and noise.

    Args:
        pixels: float32 [H, W, 3] in 0..255.
        style: the camera's properties.
        light: its gain and slope are used.
        camera_color: strength of the camera's colors.
        blur: strength of blur, loss of resolution, and noise.
        rng: random generator.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = pixels.shape[:2]
    right, down = light.slope
    gain = light.gain * (
        1
        + right * np.linspace(-1, 1, width, dtype=np.float32)[None]
        + down * np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    )
    pixels = pixels * np.clip(gain, 0.2, 3)[..., None]
    sigma, size, noise = rng.uniform(0, 0.8), rng.uniform(0, 1), rng.uniform(1, 8)
    if camera_color > 0:
        saturation = 1 + (style.saturation - 1) * camera_color
        mix = saturation * np.eye(3) + (1 - saturation) / 3  # toward gray
        gains = np.array(style.gains) ** camera_color
        pixels = pixels @ (gains[:, None] * mix).astype(np.float32)
        pixels = 255 * (np.clip(pixels, 0, 255) / 255) ** np.float32(style.gamma**camera_color)
        haze = style.haze * camera_color
        pixels = haze + pixels * np.float32(1 - haze / 255)
    pixels = np.clip(pixels, 0, 255)
    if blur > 0:
        factor = 1 + blur * (0.8 * style.softness + 0.9 * size)
        picture = Image.fromarray((pixels + 0.5).astype(np.uint8))
        if sigma * blur > 0.15:
            picture = picture.filter(ImageFilter.GaussianBlur(sigma * blur * height / 128))
        small = (max(8, round(width / factor)), max(8, round(height / factor)))
        if small != (width, height):
            picture = picture.resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.standard_normal((height, width, 3), dtype=np.float32)
        pixels = np.clip(np.asarray(picture, np.float32) + grain * np.float32(noise * blur), 0, 254.4)
    return (pixels + 0.5).astype(np.uint8)


def damage_iuv(
    iuv: NDArray[np.uint8], *, miss_person: float, miss_part: float, noise: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Damages an IUV map as a detector does.

    Args:
        iuv: uint8 [H, W, 3], channels I, U, V.
        miss_person: probability that the whole map is empty.
        miss_part: probability that a part is missing.
        noise: standard deviation of the error of u and v; half of its variance is common to a part.
        rng: random generator. The number of draws does not depend on the rates.

    Returns:
        A new map. The remaining labels do not change.
    """
    missed, lots = rng.random(), rng.random(25)
    if missed < miss_person:
        return np.zeros_like(iuv)
    result = iuv.copy()
    if miss_part > 0:
        result[(lots < miss_part)[iuv[..., 0]]] = 0
    if noise > 0:
        part = result[..., 0]
        common = rng.normal(0, noise * np.sqrt(0.5), (25, 2)).astype(np.float32)
        own = rng.standard_normal((*part.shape, 2), dtype=np.float32) * np.float32(noise * np.sqrt(0.5))
        moved = np.clip(result[..., 1:] + 255 * (common[part] + own), 0, 255).round().astype(np.uint8)
        result[..., 1:] = np.where(part[..., None] > 0, moved, 0)
    return result
