"""Renders pictures of people with exact IUV maps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsa_fast.configs.synth import SynthConfig
from dsa_fast.densepose.body import JOINTS, Pose, joints3d, landmarks3d

from . import scene
from .look import Identity, make_identity
from .render import Camera, Window, downsample, rasterize, sample_shape, to_samples

__all__ = ["person_keypoints", "render_person", "render_picture"]

Array = NDArray[np.floating[Any]]
Picture = tuple[NDArray[np.uint8], NDArray[np.uint8]]

# Streams of random numbers: the second element of the seeds.
_IDENTITY, _CAMERA, _HEADING, _IMAGE, _OBJECT = range(1, 6)
_UPRIGHT, _FRONT, _PLAIN = Pose(), Camera(), scene.Light()
_FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_PASSERS = 24  # passers-by, in front and behind


@dataclass(frozen=True)
class _Figure:
    """A rendered person: the covered samples and their colors."""

    index: NDArray[np.int64]  # [N], flat, of the sample grid
    colors: Array  # [N, 3]
    part: NDArray[np.int16]  # [N], 0 on accessories
    u: Array  # [N]
    v: Array  # [N]


def _draw(
    identity: Identity, pose: Pose, camera: Camera, window: Window, light: scene.Light | None, height: int, width: int
) -> _Figure:
    body = identity.body
    vertices, normals = body.posed(pose)
    return _shade(identity, camera.project(vertices), normals, camera, window, light, height, width)


def _shade(
    identity: Identity,
    projected: Array,
    normals: Array,
    camera: Camera,
    window: Window,
    light: scene.Light | None,
    height: int,
    width: int,
) -> _Figure:
    body = identity.body
    rows, columns = sample_shape(height, width)
    fragments = rasterize(to_samples(projected, window, height, width), body.faces, rows, columns)
    u, v = (fragments.interpolate(np.ascontiguousarray(body.uv[:, k])) for k in (0, 1))
    size = identity.texture.shape[1]
    row, column = (np.minimum((x * size).astype(np.int64), size - 1) for x in (u, v))
    owner = fragments.vertices[0]
    texel = (body.texture.take(owner).astype(np.int64) * size + row) * size + column
    colors = identity.texture.reshape(-1, 3).take(texel, axis=0).astype(np.float32)
    if light is not None:
        facing = normals @ (np.array(light.direction, np.float32) @ camera.rotation())
        shade = light.ambient + light.direct * np.maximum(facing, 0)
        colors *= fragments.interpolate(shade.astype(np.float32))[:, None]
    return _Figure(fragments.index, colors, body.part.take(owner), u, v)


def _iuv(figure: _Figure, hidden: NDArray[np.bool_] | None, height: int, width: int) -> NDArray[np.uint8]:
    """Returns the map at the pixel centers, uint8 [H, W, 3]. Hidden samples are background."""
    rows, columns = sample_shape(height, width)
    iuv = np.zeros((rows * columns, 3), np.uint8)
    iuv[figure.index, 0] = figure.part
    iuv[figure.index, 1] = np.clip(figure.u * 255 + 0.5, 0, 255)
    iuv[figure.index, 2] = np.clip(figure.v * 255 + 0.5, 0, 255)
    if hidden is not None:
        iuv[hidden.ravel()] = 0
    iuv = iuv.reshape(rows, columns, 3)[1::2, 1::2]
    return iuv * (iuv[..., :1] > 0)


def render_person(
    identity: Identity,
    pose: Pose = _UPRIGHT,
    camera: Camera = _FRONT,
    window: Window | None = None,
    *,
    height: int = 128,
    width: int = 64,
    light: scene.Light | None = _PLAIN,
    background: float | Array = 118.0,
    antialias: bool = True,
) -> Picture:
    """Renders one person, with nothing in front.

    Args:
        identity: the person.
        pose: pose of the person.
        camera: camera position.
        window: part of the projection plane that is shown; by default a tight box around the person.
        height: height of the picture, pixels.
        width: width of the picture, pixels.
        light: light on the person; None shows the texture's colors unchanged.
        background: a gray level in 0..255, or colors on the sample grid, float32 [2H+1, 2W+1, 3].
        antialias: whether colors are filtered over a pixel; otherwise they are sampled at the pixel centers.

    Returns:
        The picture, uint8 [H, W, 3], RGB, and its IUV map, uint8 [H, W, 3], channels I, U, V: part, u and v of the
        surface at each pixel's center, with u and v rounded to 1/255. Accessories are background in the map.

    Raises:
        ValueError: a size is not positive or `background` has another shape.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be positive, got {height} and {width}")
    rows, columns = sample_shape(height, width)
    vertices, normals = identity.body.posed(pose)
    projected = camera.project(vertices)
    if window is None:
        window = scene.tight_box(projected[identity.body.part > 0], width / height)
    canvas = np.empty((rows, columns, 3), np.float32)
    given = np.asarray(background, np.float32)
    if given.ndim and given.shape != canvas.shape:
        raise ValueError(f"background must be a number or have shape {list(canvas.shape)}, got {list(given.shape)}")
    canvas[:] = given
    figure = _shade(identity, projected, normals, camera, window, light, height, width)
    canvas.reshape(-1, 3)[figure.index] = figure.colors
    pixels = downsample(canvas) if antialias else canvas[1::2, 1::2]
    picture = np.clip(pixels, 0, 255).round().astype(np.uint8)
    return picture, _iuv(figure, None, height, width)


def person_keypoints(
    identity: Identity,
    pose: Pose = _UPRIGHT,
    camera: Camera = _FRONT,
    window: Window | None = None,
    *,
    height: int = 128,
    width: int = 64,
) -> Array:
    """Returns a person's joints in the picture that `render_person` makes from the same arguments.

    Returns:
        float32 [17, 3] in COCO's order (nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; left before
        right): x and y in pixels, where pixel (r, c) has its center at x = c + 0.5, y = r + 0.5; and a visibility of
        1, or 0 for a point of the face on the far side of the head. Joints outside the picture keep their coordinates.
    """
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be positive, got {height} and {width}")
    if window is None:
        projected = camera.project(identity.body.posed(pose)[0])
        window = scene.tight_box(projected[identity.body.part > 0], width / height)
    joints, marks = joints3d(pose, identity.body.shape), landmarks3d(pose, identity.body.shape)
    face = [marks[name] for name in _FACE]
    limbs = [joints[JOINTS.index(f"{side}_{name}")] for name in _LIMBS for side in ("left", "right")]
    seen = camera.project(np.stack([*face, *limbs]))
    # The normal of a point of the face points away from the head's center.
    middle = camera.project(((marks["left_ear"] + marks["right_ear"]) / 2)[None])[0]
    points = to_samples(seen, window, height, width)
    points[:, :2] /= 2
    points[:, 2] = 1
    points[: len(face), 2] = seen[: len(face), 2] > middle[2]
    return points


@lru_cache(maxsize=_PASSERS + 8)
def identity_of(seed: int, number: int, outfit: int = 1) -> Identity:
    """Returns identity `number` of a data set: from 1, negative for passers-by, above all others for distractors."""
    words = [seed, _IDENTITY, int(number < 0), abs(number)]
    clothes = np.random.SeedSequence([*words, outfit]) if outfit > 1 else None
    return make_identity(np.random.SeedSequence(words), clothes=clothes)


def outfit_of(config: SynthConfig, number: int, camid: int) -> int:
    """Returns the outfit, from 1, in which a camera sees an identity. Neighboring people begin with other ones."""
    return 1 + (number + camid) % config.clothes


@lru_cache(maxsize=64)
def camera_of(seed: int, camera: int) -> scene.CameraStyle:
    """Returns camera `camera` (from 1) of a data set."""
    return scene.make_camera_style(np.random.default_rng(np.random.SeedSequence([seed, _CAMERA, camera])))


def render_picture(config: SynthConfig, number: int, camid: int, index: int, *, kind: str = "person") -> Picture:
    """Renders a picture of a data set. It depends only on the arguments.

    Args:
        config: the settings.
        number: number of the identity, from 1.
        camid: camera, from 1.
        index: index of the picture for this identity and camera.
        kind: "person"; "query", with the object that `query_occlusion` asks for; "junk", a box with very little of the
            person; or "empty", a box without a person.

    Returns:
        The picture, uint8 [H, W, 3], RGB, and its IUV map, uint8 [H, W, 3], channels I, U, V, with the errors of
        the settings.
    """
    seed, height, width = config.seed, config.height, config.width
    rng = np.random.default_rng(np.random.SeedSequence([seed, _IMAGE, number, camid, index]))
    # A person walks in the same direction in all pictures of a camera, so the views are similar.
    heading = np.random.default_rng(np.random.SeedSequence([seed, _HEADING, number, camid])).uniform(-1, 1)
    style, identity = camera_of(seed, camid), identity_of(seed, number, outfit_of(config, number, camid))
    pose = scene.random_pose(config.pose, rng)
    camera = scene.random_camera(style, config.view, float(heading), rng)
    light = scene.random_light(style, config.lighting, rng)
    vertices, normals = identity.body.posed(pose)
    projected = camera.project(vertices)
    tight = scene.tight_box(projected[identity.body.part > 0], width / height)
    window = scene.random_box(tight, config.box, rng, extreme=kind == "junk")
    rows, columns = sample_shape(height, width)
    canvas = scene.background(style, config.clutter, rng, rows, columns)
    flat = canvas.reshape(-1, 3)
    if rng.random() < 0.35 * config.clutter:  # a passer-by farther away
        figure = _passer(config, camera, light, window, rng, behind=True)
        flat[figure.index] = figure.colors
    if kind == "empty":
        iuv = np.zeros((height, width, 3), np.uint8)
    else:
        _shadow(canvas, projected, window)
        figure = _shade(identity, projected, normals, camera, window, light, height, width)
        flat[figure.index] = figure.colors
        hidden = None
        if rng.random() < 0.75 * config.occlusion:
            hidden = np.zeros((rows, columns), bool)
            before = canvas.copy()
            if rng.random() < 0.4:
                front = _passer(config, camera, light, window, rng, behind=False)
                flat[front.index] = front.colors
                hidden.ravel()[front.index] = True
            else:
                hidden[scene.random_occluder(rng).draw(canvas)] = True
            if hidden.ravel()[figure.index].mean() > 0.6:  # too little would be visible
                canvas, hidden = before, None
        if kind == "query" and config.query_occlusion > 0:
            stream = np.random.default_rng(np.random.SeedSequence([seed, _OBJECT, number, camid, index]))
            hidden = np.zeros((rows, columns), bool) if hidden is None else hidden
            seen = figure.index[(figure.part > 0) & ~hidden.ravel()[figure.index]]
            if len(seen):
                thing = scene.covering_object(
                    seen // columns / rows, seen % columns / columns, config.query_occlusion, stream
                )
                hidden[thing.draw(canvas)] = True
        iuv = _iuv(figure, hidden, height, width)
    picture = scene.develop(downsample(canvas), style, light, config.camera_color, config.blur, rng)
    iuv = scene.damage_iuv(
        iuv,
        miss_person=config.iuv_miss_person,
        miss_part=config.iuv_miss_part,
        noise=config.iuv_noise,
        rng=rng,
    )
    return picture, iuv


def _passer(
    config: SynthConfig,
    camera: Camera,
    light: scene.Light,
    window: Window,
    rng: np.random.Generator,
    *,
    behind: bool,
) -> _Figure:
    """Renders a passer-by, behind or in front of the person."""
    identity = identity_of(config.seed, -1 - int(rng.integers(_PASSERS)))
    pose = scene.random_pose(1.0, rng)
    camera = Camera(float(rng.uniform(-np.pi, np.pi)), camera.pitch, camera.distance)
    size = rng.uniform(0.55, 0.9) if behind else rng.uniform(1.0, 1.25)
    side = 1 if rng.random() < 0.5 else -1
    shift = side * rng.uniform(0.2, 0.5) if behind else side * rng.uniform(0.28, 0.55)
    drop = rng.uniform(-0.1, 0.05) if behind else rng.uniform(0.0, 0.15)
    height, width = window.height / size, window.height / size * config.width / config.height
    moved = Window(-shift * width, drop * height, width, height)
    return _draw(identity, pose, camera, moved, light, config.height, config.width)


def _shadow(canvas: Array, projected: Array, window: Window) -> None:
    """Darkens the ground below a person's feet."""
    rows, columns = canvas.shape[:2]
    lowest = projected[:, 1].min()
    x = float(projected[projected[:, 1] < lowest + 0.12, 0].mean())
    cx = ((x - window.x) / window.width + 0.5) * columns
    cy = (0.5 - (lowest + 0.03 - window.y) / window.height) * rows
    rx, ry = 0.3 / window.width * columns, 0.07 / window.height * rows
    y0, y1 = max(int(cy - ry), 0), min(int(cy + ry) + 1, rows)
    x0, x1 = max(int(cx - rx), 0), min(int(cx + rx) + 1, columns)
    if y0 >= y1 or x0 >= x1:
        return
    y = (np.arange(y0, y1, dtype=np.float32)[:, None] - cy) / ry
    x_ = (np.arange(x0, x1, dtype=np.float32)[None] - cx) / rx
    canvas[y0:y1, x0:x1] *= (1 - 0.5 * np.clip(1 - y * y - x_ * x_, 0, 1))[..., None]
