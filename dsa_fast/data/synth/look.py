"""Looks of identities: body shape, clothes, hair, skin and accessories, painted onto the charts.

An identity's look is one texture per chart. It is consistent from all sides, and the camera sees only the side that
faces it. Clothes have a few muted colors that many identities share. People differ in cut, pattern, print, hair, shoes
and bags, and much less in color.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa_fast.densepose.body import JOINTS, Body, Shape, attach, build_body, chart_coordinates

__all__ = ["TEXTURE_SIZE", "Accessory", "Identity", "make_identity"]

Array = NDArray[np.floating[Any]]
Color = tuple[int, int, int]

#: Height and width of a chart, in texels.
TEXTURE_SIZE = 48

_PAGES = 24 + 4  # charts, then accessories

_CLOTH: dict[str, Color] = {
    "black": (36, 36, 40),
    "charcoal": (70, 71, 76),
    "grey": (126, 127, 130),
    "white": (222, 220, 214),
    "navy": (40, 50, 84),
    "denim": (78, 98, 134),
    "wine": (116, 46, 52),
    "brown": (98, 74, 56),
    "beige": (186, 168, 136),
    "olive": (92, 98, 66),
}
_TOPS = ("black", "charcoal", "grey", "white", "navy", "denim", "wine", "beige", "olive")
_BOTTOMS = ("black", "charcoal", "navy", "denim", "beige", "brown", "grey")
_ACCENTS: tuple[Color, ...] = (
    *((228, 226, 220), (30, 30, 34), (176, 52, 48), (206, 176, 70)),
    *((58, 92, 160), (196, 116, 58), (70, 126, 86)),
)
_SKIN: tuple[Color, ...] = ((236, 200, 178), (222, 180, 150), (198, 152, 118), (160, 112, 82), (112, 76, 56))
_HAIR: tuple[Color, ...] = ((26, 22, 22), (52, 38, 30), (96, 66, 42), (176, 142, 86), (140, 138, 136), (110, 52, 32))
_SHOES: tuple[Color, ...] = ((32, 32, 34), (224, 222, 218), (92, 64, 46), (150, 46, 44), (60, 84, 140), (120, 120, 122))

_TORSO_BACK, _TORSO = (0,), (0, 1)
_UPPER_ARMS, _LOWER_ARMS, _HANDS = (14, 15, 16, 17), (18, 19, 20, 21), (2, 3)
_ARMS = _UPPER_ARMS + _LOWER_ARMS
_LEGS, _FEET, _HEAD = tuple(range(6, 14)), (4, 5), (22, 23)


@dataclass(frozen=True)
class Accessory:
    """A rounded box that moves with a bone. Its pixels are background in the IUV map, as in DensePose.

    Attributes:
        bone: name of the joint.
        centre: center in the bone's frame, meters.
        radii: half sizes, meters.
        page: page of the texture, 24 or more.
        power: 2 is an ellipsoid, larger values are more like a box.
    """

    bone: str
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    page: int
    power: float = 4.0

    def grid(self, scale: float) -> tuple[Array, Array, Array]:
        """Returns vertices, normals and uv, [R, K, .] each."""
        latitude = np.linspace(-np.pi / 2, np.pi / 2, 8)[:, None]
        longitude = np.linspace(-np.pi, np.pi, 13)[None]
        direction = np.stack(
            [
                np.cos(latitude) * np.sin(longitude),
                np.sin(latitude) + 0 * longitude,
                np.cos(latitude) * np.cos(longitude),
            ],
            -1,
        )
        norm = (np.abs(direction) ** self.power).sum(-1, keepdims=True) ** (-1 / self.power)
        unit = direction * norm
        radii = np.array(self.radii)
        normal = np.sign(unit) * np.abs(unit) ** (self.power - 1) / radii
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        u, v = np.broadcast_arrays(0.5 - latitude / np.pi, (longitude + np.pi) / (2 * np.pi))
        points = (np.array(self.centre) + unit * radii) * scale
        return points.astype(np.float32), normal.astype(np.float32), np.stack([u, v], -1).astype(np.float32)


@dataclass(frozen=True)
class Identity:
    """A person's look, the same in every picture.

    Attributes:
        shape: proportions of the body and its clothes.
        texture: uint8 [28, S, S, 3], RGB: the charts 1..24 at 0..23 (rows along u, columns along v), then accessories.
        accessories: things worn or carried.
        about: the random choices, in words.
    """

    shape: Shape
    texture: NDArray[np.uint8]
    accessories: tuple[Accessory, ...] = ()
    about: dict[str, str] = field(default_factory=dict)

    @cached_property
    def body(self) -> Body:
        """The surface, with accessories."""
        scale = self.shape.height / 1.72
        extras = []
        for item in self.accessories:
            points, normals, uv = item.grid(scale)
            extras.append((points, normals, uv, JOINTS.index(item.bone), item.page))
        return attach(build_body(self.shape), extras)


@lru_cache(maxsize=2)
def _coordinates(size: int) -> dict[str, Array]:
    return chart_coordinates(size)


class _Painter:
    """Paints parts of the texture where a condition in body coordinates holds."""

    def __init__(self, size: int) -> None:
        self.at = _coordinates(size)
        self.texture = np.zeros((_PAGES, size, size, 3), np.float32)

    def get(self, name: str, charts: tuple[int, ...]) -> Array:
        return self.at[name][list(charts)]

    def fill(self, charts: tuple[int, ...], color: Color | Array, where: NDArray[np.bool_] | None = None) -> None:
        value = np.asarray(color, np.float32)
        if where is None:
            self.texture[list(charts)] = value
            return
        pages = self.texture[list(charts)]
        pages[where] = value
        self.texture[list(charts)] = pages


def _tint(color: Color, by: float) -> Color:
    return int(color[0] * by), int(color[1] * by), int(color[2] * by)


def _choose(rng: np.random.Generator, weights: dict[str, float]) -> str:
    names = list(weights)
    p = np.array([weights[name] for name in names])
    return names[int(rng.choice(len(names), p=p / p.sum()))]


def _other(rng: np.random.Generator, colors: tuple[Color, ...], than: Color) -> Color:
    """Draws a color that clearly differs from another."""
    options = [c for c in colors if sum(abs(a - b) for a, b in zip(c, than, strict=True)) > 110]
    return options[int(rng.integers(len(options)))]


def _pattern(name: str, gx: Array, gy: Array, period: float, phase: float) -> NDArray[np.bool_]:
    """Returns where a pattern has its second color, from positions on the cloth, meters."""
    across, up = (gx / period + phase) % 1, (gy / period + phase) % 1
    if name == "stripes":
        return up < 0.42
    if name == "pinstripes":
        return across < 0.35
    if name == "checks":
        return (across < 0.5) ^ (up < 0.5)
    if name == "lattice":
        return (across < 0.22) | (up < 0.22)
    if name == "dots":
        row = np.floor(gy / period + phase)
        across = (gx / period + phase + 0.5 * (row % 2)) % 1
        return np.asarray(np.hypot(across - 0.5, up - 0.5) < 0.3)
    return np.zeros(gx.shape, bool)


def _print(shape: str, x: Array, y: Array) -> NDArray[np.bool_]:
    """Returns where a print is, from coordinates in -1..1."""
    box = (np.abs(x) < 1) & (np.abs(y) < 1)
    if shape == "disc":
        return np.hypot(x, y) < 1
    if shape == "ring":
        radius = np.hypot(x, y)
        return (radius < 1) & (radius > 0.5)
    if shape == "cross":
        return box & ((np.abs(x) < 0.36) | (np.abs(y) < 0.36))
    if shape == "triangle":
        return box & (np.abs(x) < 0.5 * (1 - y))
    if shape == "bars":
        return box & ((y * 1.5) % 1 < 0.55)
    if shape == "slash":
        return box & (np.abs(x - y) < 0.6)
    return box


def make_identity(
    seed: int | np.random.SeedSequence,
    *,
    size: int = TEXTURE_SIZE,
    clothes: int | np.random.SeedSequence | None = None,
) -> Identity:
    """Draws a random person. The same seeds give the same person.

    Args:
        seed: random seed.
        size: height and width of a chart, in texels.
        clothes: random seed of other clothes, shoes, hats and bags for the same person; None for the first ones.

    Returns:
        The identity.
    """
    rng = np.random.default_rng(seed)
    wardrobe = rng if clothes is None else np.random.default_rng(clothes)
    paint = _Painter(size)
    about: dict[str, str] = {}
    accessories: list[Accessory] = []
    skin = _SKIN[int(rng.choice(len(_SKIN), p=(0.28, 0.28, 0.2, 0.14, 0.1)))]
    hair = _HAIR[int(rng.choice(len(_HAIR), p=(0.34, 0.26, 0.16, 0.1, 0.08, 0.06)))]
    paint.fill(tuple(range(24)), skin)

    if clothes is not None:  # brings `rng` to where the head begins
        spare = _Painter(size)
        _paint_bottom(rng, spare, {})
        _paint_top(rng, spare, {}, skin)
        _paint_feet(rng, spare, {})
    legs = _paint_bottom(wardrobe, paint, about)
    top = _paint_top(wardrobe, paint, about, skin)
    _paint_feet(wardrobe, paint, about)
    hair_depth = _paint_head(rng, wardrobe, paint, about, accessories, skin, hair)
    _carry(wardrobe, paint, about, accessories)

    worn = {
        "sleeves": top["sleeves"],
        "trousers": legs["trousers"],
        "skirt": legs["skirt"],
        "coat": top["coat"],
        "hair": hair_depth,
    }
    shape = _body_shape(rng, worn) if clothes is None else replace(make_identity(seed, size=16).shape, **worn)
    # Folds and weave are part of the cloth, so they are the same in every picture.
    shade = 1 + 0.045 * wardrobe.standard_normal((_PAGES, size // 4, size // 4)).astype(np.float32)
    shade = shade.repeat(4, 1).repeat(4, 2)[:, :size, :size]
    texture = np.clip(paint.texture * shade[..., None], 0, 255).round().astype(np.uint8)
    return Identity(shape, texture, tuple(accessories), about)


def _body_shape(rng: np.random.Generator, worn: dict[str, float]) -> Shape:
    """Draws the proportions of a body in given clothes."""
    child = rng.random() < 0.06
    height = float(rng.uniform(1.3, 1.5) if child else np.clip(rng.normal(1.71, 0.085), 1.52, 1.95))
    girth = float(np.clip(rng.normal(1.03, 0.11), 0.82, 1.38))
    return Shape(
        height=height,
        girth=girth,
        belly=float(max(0.0, rng.normal(0, 0.03)) + max(0.0, (girth - 1.1) * 0.2)),
        shoulders=float(np.clip(rng.normal(1.04, 0.06), 0.9, 1.2)),
        legs=float(np.clip(rng.normal(1.0, 0.03), 0.92, 1.07)),
        arms=float(np.clip(rng.normal(1.0, 0.03), 0.92, 1.07)),
        limbs=float(np.clip(0.45 + 0.6 * girth + rng.normal(0, 0.05), 0.85, 1.3)),
        head=1.12 if child else float(np.clip(rng.normal(1.02, 0.025), 0.95, 1.08)),
        **worn,
    )


def _paint_bottom(rng: np.random.Generator, paint: _Painter, about: dict[str, str]) -> dict[str, float]:
    """Paints trousers, shorts or a skirt over the whole trunk (the top is painted over it)."""
    kind = _choose(rng, {"trousers": 0.52, "shorts": 0.2, "skirt": 0.16, "cropped": 0.12})
    name = _BOTTOMS[int(rng.integers(len(_BOTTOMS)))]
    color = _CLOTH[name]
    second = _other(rng, _ACCENTS, color)
    length = {
        "trousers": 2.1,
        "cropped": float(rng.uniform(1.45, 1.65)),
        "shorts": float(rng.uniform(0.55, 1.08)),
        "skirt": float(rng.uniform(0.55, 1.3)),
    }[kind]
    along, around = paint.get("along", _LEGS), paint.get("around", _LEGS)
    cloth = along < length
    paint.fill(_TORSO, color)
    paint.fill(_LEGS, color, cloth)
    pattern = _choose(
        rng,
        {
            "plain": 0.5,
            "side stripe": 0.14,
            "two tones": 0.1,
            "checks": 0.08,
            "lattice": 0.06,
            "stripes": 0.06,
            "knees": 0.06,
        },
    )
    if pattern == "side stripe":
        paint.fill(_LEGS, second, cloth & (np.abs(np.abs(around) - np.pi / 2) < 0.5) & (around > 0))
    elif pattern == "two tones":
        paint.fill(_LEGS, second, cloth & (along > length * rng.uniform(0.45, 0.7)))
    elif pattern == "knees":
        paint.fill(_LEGS, second, cloth & (np.abs(along - 0.98) < 0.16) & (np.cos(around) > 0.1))
    elif pattern != "plain":
        period = float(rng.choice((0.07, 0.11)))
        for charts in (_LEGS, _TORSO):
            where = _pattern(pattern, 0.075 * paint.get("around", charts), paint.get("y", charts), period, 0.0)
            paint.fill(charts, second, where & (cloth if charts == _LEGS else True))
    elif kind == "trousers" and name == "denim":  # worn thighs
        paint.fill(_LEGS, _tint(color, 1.2), (np.cos(around) > 0.75) & (along < 0.95) & (along > 0.15))
    if length < 1.7 and rng.random() < 0.45:
        sock = _other(rng, _ACCENTS, color)
        high = 1.25 if rng.random() < 0.3 else 1.75
        paint.fill(_LEGS, sock, along > high)
        about["socks"] = "high" if high < 1.5 else "low"
    about["bottom"] = f"{name} {kind}, {pattern}"
    wide = {"trousers": rng.uniform(0.98, 1.35), "cropped": rng.uniform(0.98, 1.2), "shorts": 1.0, "skirt": 1.0}[kind]
    return {"trousers": float(wide), "skirt": length if kind == "skirt" else 0.0}


def _paint_top(rng: np.random.Generator, paint: _Painter, about: dict[str, str], skin: Color) -> dict[str, float]:
    """Paints a shirt, coat or jacket, its pattern and prints."""
    name = _TOPS[int(rng.integers(len(_TOPS)))]
    color = _CLOTH[name]
    second = _CLOTH[_TOPS[int(rng.integers(len(_TOPS)))]]
    if sum(abs(a - b) for a, b in zip(color, second, strict=True)) < 110:
        second = _other(rng, _ACCENTS, color)
    sleeve = {"none": -1.0, "short": 0.62, "half": 1.1, "long": 2.1}[
        _choose(rng, {"none": 0.08, "short": 0.36, "half": 0.08, "long": 0.48})
    ]
    long_coat = sleeve > 2 and rng.random() < 0.22
    hem = float(rng.uniform(-0.3, -0.15) if long_coat else rng.uniform(0.0, 0.3))
    t, x = paint.get("along", _TORSO), paint.get("x", _TORSO)
    front = np.array([False, True])[:, None, None]
    worn = t > hem
    arm = paint.get("along", _ARMS)
    covered = arm < sleeve
    paint.fill(_TORSO, color, worn)
    paint.fill(_ARMS, color, covered)
    if long_coat:
        leg = paint.get("along", _LEGS)
        reach = float(rng.uniform(0.35, 0.8))
        paint.fill(_LEGS, color, leg < reach)
    style = _choose(
        rng,
        {
            **{"plain": 0.2, "stripes": 0.12, "pinstripes": 0.06, "checks": 0.08, "lattice": 0.06, "dots": 0.06},
            **{"block": 0.12, "band": 0.08, "sleeves": 0.12, "halves": 0.06, "sash": 0.04},
        },
    )
    if style in ("stripes", "pinstripes", "checks", "lattice", "dots"):
        period = float(rng.choice((0.075, 0.12, 0.17)))
        phase = float(rng.random())
        for charts, where in ((_TORSO, worn), (_ARMS, covered)):
            wide = 0.16 if charts == _TORSO else 0.055
            marks = _pattern(style, wide * paint.get("around", charts), paint.get("y", charts), period, phase)
            paint.fill(charts, second, where & marks)
    elif style == "block":
        edge = float(rng.uniform(0.5, 0.72))
        upper = bool(rng.random() < 0.5)
        paint.fill(_TORSO, second, worn & ((t > edge) == upper))
        if upper and rng.random() < 0.5:
            paint.fill(_ARMS, second, covered & (arm < 0.5))
    elif style == "band":
        middle, half = float(rng.uniform(0.35, 0.75)), float(rng.uniform(0.06, 0.12))
        paint.fill(_TORSO, second, worn & (np.abs(t - middle) < half))
    elif style == "sleeves":
        paint.fill(_ARMS, second, covered)
    elif style == "halves":
        paint.fill(_TORSO, second, worn & (x > 0))
        paint.fill(_ARMS, second, covered & (paint.get("x", _ARMS) > 0))
    elif style == "sash":
        sign = 1 if rng.random() < 0.5 else -1
        paint.fill(_TORSO, second, worn & (np.abs(sign * x / 0.17 - (t - 0.5) / 0.45) < 0.3))
    if rng.random() < 0.24 and sleeve > 1:  # an open jacket
        inner = _other(rng, _ACCENTS, color)
        paint.fill(_TORSO, inner, front & worn & (np.abs(x) < rng.uniform(0.03, 0.07)))
        about["jacket"] = "open"
    for place, chance, on_front in (("chest", 0.5, True), ("back", 0.45, False)):
        if rng.random() > chance:
            continue
        mark = _choose(rng, dict.fromkeys(("disc", "ring", "cross", "triangle", "bars", "slash", "box"), 1.0))
        ink = _other(rng, _ACCENTS, color)
        large = rng.random() < 0.6
        wide = float(rng.uniform(0.075, 0.105) if large else rng.uniform(0.035, 0.05))
        cx = 0.0 if large else float(rng.choice((-0.075, 0.075)))
        cy = float(rng.uniform(0.5, 0.66) if large else rng.uniform(0.62, 0.76))
        where = _print(mark, (x - cx) / wide, (t - cy) * 0.55 / wide)
        paint.fill(_TORSO, ink, where & worn & (front if on_front else ~front))
        about[f"{place} print"] = f"{'large' if large else 'small'} {mark}"
    neck = float(rng.choice((0.9, 0.95, 0.99)))
    paint.fill(_TORSO, skin, front & (t > neck) & (np.abs(x) < 0.07))
    if rng.random() < 0.12:
        belt = _ACCENTS[int(rng.integers(len(_ACCENTS)))]
        paint.fill(_TORSO, belt, np.abs(t - max(hem, 0.2)) < 0.03)
    about["top"] = f"{name}, {style}, sleeves to {max(sleeve, 0):.1f}" + (", long coat" if long_coat else "")
    loose = 1.05 + 0.2 * float(rng.random()) if sleeve > 1 else 1.0
    return {"sleeves": loose, "coat": 0.12 if long_coat else 0.0}


def _paint_feet(rng: np.random.Generator, paint: _Painter, about: dict[str, str]) -> None:
    """Paints shoes with soles, or boots."""
    shoe = _SHOES[int(rng.integers(len(_SHOES)))]
    paint.fill(_FEET, shoe)
    sole = _other(rng, _ACCENTS, shoe) if rng.random() < 0.5 else _tint(shoe, 0.6)
    paint.fill(_FEET, sole, np.abs(paint.get("around", _FEET)) > 2.0)
    if rng.random() < 0.14:
        paint.fill(_LEGS, shoe, paint.get("along", _LEGS) > 1.4)
        about["shoes"] = "boots"


def _paint_head(
    rng: np.random.Generator,
    wardrobe: np.random.Generator,
    paint: _Painter,
    about: dict[str, str],
    accessories: list[Accessory],
    skin: Color,
    hair: Color,
) -> float:
    """Paints face, hair and hats. Returns the hair's thickness, meters."""
    y, around = paint.get("along", _HEAD), np.abs(paint.get("around", _HEAD))
    paint.fill(_HEAD, (30, 26, 26), (np.abs(y - 0.083) < 0.008) & (np.abs(around - 0.36) < 0.15))
    paint.fill(_HEAD, _tint(skin, 0.55), (np.abs(y - 0.105) < 0.006) & (np.abs(around - 0.36) < 0.22))
    paint.fill(_HEAD, (150, 74, 70), (np.abs(y - 0.018) < 0.007) & (around < 0.28))
    style = _choose(rng, {"bald": 0.07, "short": 0.4, "medium": 0.2, "long": 0.22, "tail": 0.11})
    thick = {"bald": 0.0, "short": 0.012, "medium": 0.025, "long": 0.02, "tail": 0.01}[style]
    if style != "bald":
        low = {"short": 0.03, "medium": -0.03, "long": -0.13, "tail": 0.0}[style]
        line = 0.135 - 0.07 * np.clip((around - 0.7) / 0.5, 0, 1)  # hairline, lower at the temples
        line = np.where(around > (1.75 if style == "short" else 1.25), low, line)
        paint.fill(_HEAD, hair, y > line)
    if style == "long":
        drop = float(rng.uniform(0.1, 0.2))
        accessories.append(Accessory("head", (0, 0.07 - drop, -0.062), (0.085, drop + 0.03, 0.06), 24, 2.6))
        paint.texture[24] = hair
    elif style == "tail":
        accessories.append(Accessory("head", (0, 0.0, -0.145), (0.032, 0.12, 0.035), 24, 2.0))
        paint.texture[24] = hair
    if style in ("bald", "short") and rng.random() < 0.22:
        paint.fill(_HEAD, hair, (y < 0.03) & (y > -0.03) & (around < 1.3))
        about["beard"] = "yes"
    elif rng.random() < 0.1:
        mask = ((196, 208, 216), (34, 34, 38))[int(rng.integers(2))]
        paint.fill(_HEAD, mask, (y < 0.062) & (y > -0.03) & (around < 1.15))
        about["mask"] = "yes"
    hat = _choose(wardrobe, {"none": 0.72, "cap": 0.16, "beanie": 0.12})
    if hat != "none":
        color = _ACCENTS[int(wardrobe.integers(len(_ACCENTS)))]
        paint.fill(_HEAD, color, y > (0.11 if hat == "cap" else 0.095 - 0.04 * np.clip((around - 1) / 1, 0, 1)))
        thick = max(thick, 0.014)
        if hat == "cap":
            accessories.append(Accessory("head", (0, 0.115, 0.125), (0.07, 0.012, 0.07), 25, 2.5))
            paint.texture[25] = color
        elif wardrobe.random() < 0.5:
            paint.fill(_HEAD, _other(wardrobe, _ACCENTS, color), (y > 0.1) & (y < 0.125))
    if wardrobe.random() < 0.1:
        scarf = _ACCENTS[int(wardrobe.integers(len(_ACCENTS)))]
        paint.fill(_HEAD, scarf, y < -0.03)
        t = paint.get("along", _TORSO)
        paint.fill(_TORSO, scarf, t > 0.93)
        paint.fill((1,), scarf, (t[1:] > 0.5) & (np.abs(paint.get("x", (1,)) - 0.05) < 0.035))
        about["scarf"] = "yes"
    about["head"] = f"{style} hair, hat: {hat}"
    return thick


def _carry(rng: np.random.Generator, paint: _Painter, about: dict[str, str], accessories: list[Accessory]) -> None:
    """Adds backpacks and bags as separate boxes, with straps painted on the clothes."""
    kind = _choose(rng, {"none": 0.42, "backpack": 0.24, "shoulder bag": 0.2, "hand bag": 0.14})
    if kind == "none":
        return
    color = (*_ACCENTS, *_CLOTH.values())[int(rng.integers(len(_ACCENTS) + len(_CLOTH)))]
    paint.texture[26] = color
    second = _other(rng, _ACCENTS, color)
    if rng.random() < 0.5:  # a flap or a pocket
        size = paint.texture.shape[1]
        paint.texture[26, int(size * rng.uniform(0.4, 0.65)) :] = second
    t, x = paint.get("along", _TORSO), paint.get("x", _TORSO)
    if kind == "backpack":
        tall = float(rng.uniform(0.16, 0.23))
        accessories.append(Accessory("chest", (0, 0.06, -0.175), (0.14, tall, 0.075), 26))
        front = np.array([False, True])[:, None, None]
        strap = (np.abs(np.abs(x) - 0.1) < 0.02) & (t > 0.45)
        paint.fill(_TORSO, color, strap & front | (np.abs(np.abs(x) - 0.1) < 0.02) & (t > 0.85))
    elif kind == "shoulder bag":
        side = 1 if rng.random() < 0.5 else -1
        accessories.append(Accessory("pelvis", (side * 0.205, -0.02, 0.02), (0.05, 0.1, 0.14), 26))
        paint.fill(_TORSO, color, np.abs(-side * x / 0.16 - (t - 0.55) / 0.42) < 0.16)
    else:
        hand = "left" if rng.random() < 0.5 else "right"
        tall = float(rng.uniform(0.1, 0.19))
        accessories.append(Accessory(f"{hand}_wrist", (0, -0.16 - tall, 0), (0.05, tall, 0.15), 26))
    about["carries"] = kind
