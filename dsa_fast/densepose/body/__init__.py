"""A parametric human body: joints, proportions, a pose, and a surface divided into DensePose's 24 charts.

Limbs, trunk, hands, feet and head are generalized cylinders. Each chart is a grid of vertices on one of them, moved by
linear blend skinning. Posing it takes well under a millisecond and needs only NumPy. Synthetic people
(`dsa_fast.data.synth`) and keypoint IUV (`posing`) use this body.

- `shape`: proportions of a body and its clothes;
- `skeleton`: joints, landmarks and poses;
- `charts`: charts, and the functions that shape a surface;
- `limbs`: the surface of each limb;
- `surface`: all charts together, as a body that can be posed;
- `trunk`, `posing`: pose the body so that its joints match points of a picture.

May import `dsa_fast.densepose.parts` and `dsa_fast.ops`.

Units are meters and radians. An upright person faces +z, up is +y, and +x is the person's *left* (the right
side of a picture taken from the front). The ground is y = 0.

**Charts.** Part ids are DensePose's (`dsa_fast.densepose.parts`). Directions of u and v were measured on real DensePose
maps, by regressing u and v of each part on the pixels of upright people seen from the front, the back and the side:

====== ====================== =======================================================================================
parts  u from 0 to 1          v from 0 to 1
====== ====================== =======================================================================================
1, 2   neck to crotch         person's left side to right side (on the back as on the front)
3      once around: from the  wrist to fingertips
       palm side over the
       front, back of the hand
       and behind, to the palm
4      as 3, reversed         wrist to fingertips
5      heel to toes           around, from the middle of the sole over the inner side, the instep, the outer side
6      toes to heel           as 5
7, 8   hip to knee            inner seam to outer seam
9, 10  knee to hip            outer seam to inner seam
11, 12 ankle to knee          inner seam to outer seam
13, 14 knee to ankle          inner seam to outer seam
15, 16 shoulder to elbow      rear seam, over the side that faces the trunk, to the front seam
17, 18 shoulder to elbow      rear seam, over the outer side, to the front seam
19, 20 wrist to elbow         front seam, over the side that faces the trunk, to the rear seam
21, 22 elbow to wrist         rear seam, over the outer side, to the front seam
23     nape to face's middle  neck to crown
24     face's middle to nape  neck to crown
====== ====================== =======================================================================================

The body is exactly symmetric, and its right side is made from the left one by DensePose's flip law: parts swap with
their partner; (u, v) becomes (u, 1-v) on 1, 2; (1-u, v) on 3..6, 23, 24; and stays on 7..22.
"""

from __future__ import annotations

from .shape import Shape
from .skeleton import BONES, JOINTS, LANDMARKS, PARENTS, Pose, forward_kinematics, joints3d, landmarks3d
from .surface import Body, attach, build_body, chart_coordinates

__all__ = [
    "BONES",
    "JOINTS",
    "LANDMARKS",
    "PARENTS",
    "Body",
    "Pose",
    "Shape",
    "attach",
    "build_body",
    "chart_coordinates",
    "forward_kinematics",
    "joints3d",
    "landmarks3d",
]
