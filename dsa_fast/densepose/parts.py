"""DensePose's 24 body parts: names, left/right partners, the paper's merging, and colors to draw them.

Part ids are those of DensePose (Güler et al., 2018, https://arxiv.org/abs/1802.00434): 1..24, and 0 for background.
"Left" and "right" are the person's own. The limbs are cut into two charts each, lengthwise. For legs these are back
and front; for arms, "front" names the chart that meets the chest and "back" the one that meets the back.

The merging is section 3.2 of the paper, "Densely Semantically Aligned Person Re-Identification" (Zhang et al., 2019,
https://arxiv.org/abs/1812.08967): first left with right (24 to 13), then back with front (13 to 8).
"""

from __future__ import annotations

__all__ = [
    *("MERGED_NAMES", "MERGE_13_TO_8", "MERGE_24_TO_13"),
    *("MIRROR", "NUM_PARTS", "PART_COLORS", "PART_NAMES", "UPRIGHT"),
]

#: Number of parts, without the background.
NUM_PARTS = 24

#: Name of each label, 0 (background) to 24.
PART_NAMES: tuple[str, ...] = (
    *("background", "torso back", "torso front", "right hand", "left hand", "left foot", "right foot"),
    *("right upper leg back", "left upper leg back", "right upper leg front", "left upper leg front"),
    *("right lower leg back", "left lower leg back", "right lower leg front", "left lower leg front"),
    *("left upper arm front", "right upper arm front", "left upper arm back", "right upper arm back"),
    *("left lower arm front", "right lower arm front", "left lower arm back", "right lower arm back"),
    *("right head", "left head"),
)

#: New label of each label in a mirrored picture: that of the other side. 0, 1 and 2 stay.
MIRROR: tuple[int, ...] = (
    *(0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11),
    *(14, 13, 16, 15, 18, 17, 20, 19, 22, 21, 24, 23),
)

#: The 13 left/right-merged parts, each a tuple of part ids (1..24).
MERGE_24_TO_13: tuple[tuple[int, ...], ...] = (
    *((1,), (2,), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16), (17, 18)),
    *((19, 20), (21, 22), (23, 24)),
)

#: The 8 back/front-merged parts, each a tuple of 0-based indices into MERGE_24_TO_13.
MERGE_13_TO_8: tuple[tuple[int, ...], ...] = ((0, 1), (2,), (3,), (4, 5), (6, 7), (8, 9), (10, 11), (12,))

#: Names of the 8 merged parts, in the order of MERGE_13_TO_8.
MERGED_NAMES: tuple[str, ...] = (
    *("torso", "hand", "foot", "upper leg"),
    *("lower leg", "upper arm", "lower arm", "head"),
)

#: 8-bit R, G, B of each label, 0 to 24. All differ. Left and right have the same hue: right is vivid, left is dark.
PART_COLORS: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    *((130, 130, 140), (225, 225, 235), (255, 105, 180), (165, 40, 105)),
    *((120, 80, 40), (205, 145, 85), (255, 85, 70), (160, 35, 30)),
    *((255, 150, 40), (175, 90, 5), (255, 215, 50), (165, 130, 0)),
    *((190, 235, 60), (105, 140, 10), (20, 130, 50), (80, 215, 110)),
    *((0, 125, 115), (55, 215, 200), (15, 105, 155), (80, 190, 250)),
    *((30, 60, 165), (95, 135, 255), (190, 125, 255), (110, 50, 175)),
)

#: How to rotate each part (1..24, at index part-1) for viewing: the direction that points down in the picture, and the
#: one that points right. As stored, u points down and v right: ("u", "v"). These directions were measured on real maps
#: of upright people with the part facing the camera, so no part is upside down or mirrored.
UPRIGHT: tuple[tuple[str, str], ...] = (
    *(("u", "v"), ("u", "-v")),  # torso: back, front
    *(("v", "-u"), ("v", "-u")),  # hands, hanging: fingers down
    *(("u", "v"), ("-u", "-v")),  # feet, seen from in front: toes down
    *(("u", "v"), ("u", "-v"), ("-u", "v"), ("-u", "-v")),  # upper legs: back, front
    *(("-u", "v"), ("-u", "-v"), ("u", "-v"), ("u", "v")),  # lower legs: back, front
    *(("u", "v"), ("u", "-v"), ("u", "-v"), ("u", "v")),  # upper arms: front, back
    *(("-u", "-v"), ("-u", "v"), ("u", "-v"), ("u", "v")),  # lower arms: front, back
    *(("-v", "u"), ("-v", "u")),  # the head's halves: 23's right edge meets 24's left edge in the middle of the face
)
