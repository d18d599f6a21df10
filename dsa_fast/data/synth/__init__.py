"""Synthetic people with exact dense semantics: who, where and how each pixel's surface lies is known, not guessed.

`make_dataset` writes a data set in Market-1501's layout; `render_person` renders one person. The parts:

- `body`: skeleton, pose, shape, and the surface with DensePose's 24 charts;
- `look`: clothes, hair, skin and accessories of an identity;
- `render`: camera and rasteriser;
- `scene`: poses, views, boxes, backgrounds, occluders, light, cameras, damage to maps;
- `person`: pictures;
- `dataset`: files.
"""

from __future__ import annotations

from .body import JOINTS, LANDMARKS, PARENTS, Body, Pose, Shape, build_body, forward_kinematics, joints3d, landmarks3d
from .config import STRENGTHS, SynthConfig
from .dataset import VERSION, entries, make_dataset
from .look import Identity, make_identity
from .person import identity_of, person_keypoints, render_person, render_picture
from .render import Camera, Window
from .scene import Light, damage_iuv, random_pose

__all__ = [
    "JOINTS",
    "LANDMARKS",
    "PARENTS",
    "STRENGTHS",
    "VERSION",
    "Body",
    "Camera",
    "Identity",
    "Light",
    "Pose",
    "Shape",
    "SynthConfig",
    "Window",
    "build_body",
    "damage_iuv",
    "entries",
    "forward_kinematics",
    "identity_of",
    "joints3d",
    "landmarks3d",
    "make_dataset",
    "make_identity",
    "person_keypoints",
    "random_pose",
    "render_person",
    "render_picture",
]
