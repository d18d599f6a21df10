"""Synthetic people with exact dense semantics: part, u and v of each pixel are known exactly.

`make_dataset` writes a data set in Market-1501's layout. `render_person` renders one person. The body is in
`dsa_fast.densepose.body`. The modules of this package are:

- `look`: clothes, hair, skin and accessories of an identity;
- `render`: camera and rasterizer;
- `scene`: poses, views, boxes, backgrounds, occluders, light, cameras, damage to maps;
- `person`: rendered pictures;
- `dataset`: files on disk.

May import `dsa_fast.densepose`.
"""

from __future__ import annotations

from dsa_fast.configs.synth import STRENGTHS, SynthConfig

from .dataset import VERSION, entries, make_dataset
from .look import Identity, make_identity
from .person import identity_of, person_keypoints, render_person, render_picture
from .render import Camera, Window
from .scene import Light, damage_iuv, random_pose

__all__ = [
    "STRENGTHS",
    "VERSION",
    "Camera",
    "Identity",
    "Light",
    "SynthConfig",
    "Window",
    "damage_iuv",
    "entries",
    "identity_of",
    "make_dataset",
    "make_identity",
    "person_keypoints",
    "random_pose",
    "render_person",
    "render_picture",
]
