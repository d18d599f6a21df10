"""Proportions of a body and its clothes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AVERAGE", "AVERAGE_HEIGHT", "Shape", "check_shape"]

#: Reference height of the lengths in this package, meters.
AVERAGE_HEIGHT = 1.72


@dataclass(frozen=True)
class Shape:
    """Proportions of a body and the thickness of its clothes. Lengths are multiples of an average adult's.

    Attributes:
        height: height of the person, meters.
        girth: width and depth of the trunk.
        belly: how far the belly stands out, meters.
        shoulders: width between the shoulders.
        legs: length of the legs; the trunk makes up for it.
        arms: length of the arms.
        limbs: thickness of arms and legs.
        head: size of the head.
        sleeves: thickness of the arms' clothes, a multiple.
        trousers: thickness of the legs' clothes, a multiple.
        skirt: how far down a skirt widens the legs: 0 is none, 1 the knee, 2 the ankle.
        coat: how much wider hips and thighs are below a long jacket, as a fraction.
        hair: thickness of the hair, meters.
    """

    height: float = AVERAGE_HEIGHT
    girth: float = 1.0
    belly: float = 0.0
    shoulders: float = 1.0
    legs: float = 1.0
    arms: float = 1.0
    limbs: float = 1.0
    head: float = 1.0
    sleeves: float = 1.0
    trousers: float = 1.0
    skirt: float = 0.0
    coat: float = 0.0
    hair: float = 0.0


#: The average adult in tight clothes.
AVERAGE = Shape()


def check_shape(shape: Shape) -> None:
    """Raises ValueError if a measure is out of range."""
    if not 0.5 <= shape.height <= 2.5:
        raise ValueError(f"height must be in 0.5..2.5 meters, got {shape.height}")
    for name in ("girth", "shoulders", "legs", "arms", "limbs", "head", "sleeves", "trousers"):
        value = getattr(shape, name)
        if not 0.5 <= value <= 2:
            raise ValueError(f"{name} must be in 0.5..2 times an average adult's, got {value}")
    for name, limit in (("belly", 0.3), ("skirt", 2.0), ("coat", 1.0), ("hair", 0.1)):
        value = getattr(shape, name)
        if not 0 <= value <= limit:
            raise ValueError(f"{name} must be in 0..{limit}, got {value}")
