"""One target for each reader and operator. A target runs one case; only documented errors may leave it as errors."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from dsa_fast.densepose.iuv import read_iuv
from dsa_fast.densepose.iuv_store import IUVStore
from dsa_fast.image import image_size, read_image
from tests.fuzz import corpus

EXPECTED = (ValueError, OSError)
OPS_EXPECTED = (ValueError, TypeError, RuntimeError, NotImplementedError)


@dataclass(frozen=True)
class Target:
    """A reader or operator.

    Attributes:
        kind: its class, for the counts.
        cases: makes cases.
        run: runs a case.
        expected: the errors that it may raise.
    """

    kind: str
    cases: st.SearchStrategy[Any]
    run: Callable[[Any], object]
    expected: tuple[type[Exception], ...] = EXPECTED


# ---------------------------------------------------------------------------------------------------- broken files

_ODD = [0, 1, -1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, 1 << 62, (1 << 64) - 1, 10**12]


@st.composite
def broken(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A seed that is cut, has changed bytes or numbers, repeats or lacks a part; or bytes of no kind."""
    data = bytearray(draw(st.sampled_from(seeds)))
    kind = draw(st.sampled_from(("whole", "cut", "flip", "flip", "number", "repeat", "lack", "tail", "bytes")))
    if kind == "bytes" or not data:
        return draw(st.binary(max_size=200))
    place = draw(st.integers(0, len(data) - 1))
    if kind == "cut":
        del data[place:]
    elif kind == "flip":
        for _ in range(draw(st.integers(1, 8))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    elif kind == "number":
        size = draw(st.sampled_from((2, 4, 8)))
        value = draw(st.sampled_from(_ODD)) & ((1 << 8 * size) - 1)
        data[place : place + size] = value.to_bytes(size, draw(st.sampled_from(("little", "big"))))
    elif kind == "repeat":
        data[place:place] = data[place : place + draw(st.integers(1, 64))] * draw(st.integers(1, 40))
    elif kind == "lack":
        del data[place : place + draw(st.integers(1, 64))]
    elif kind == "tail":
        data += draw(st.binary(max_size=64))
    return bytes(data)


def named(seeds: tuple[tuple[str, bytes], ...]) -> st.SearchStrategy[tuple[str, bytes]]:
    """Broken files with their suffix, and sometimes with another's."""
    suffixes = sorted({suffix for suffix, _ in seeds})
    own = st.sampled_from(seeds).flatmap(lambda seed: st.tuples(st.just(seed[0]), broken((seed[1],))))
    other = st.tuples(st.sampled_from(suffixes), broken(tuple(content for _, content in seeds)))
    return st.one_of(own, own, other)


@contextlib.contextmanager
def file(content: bytes, suffix: str = "") -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dsa_fast_fuzz_") as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        yield path
        left = [each.name for each in Path(folder).iterdir() if each != path]
        if left:
            raise AssertionError(f"it wrote {left}")


# ------------------------------------------------------------------------------------------------- crafted contents

_NAMES = st.sampled_from(
    ("names", "keypoints", "vectors", "paths", "frames", "boxes", "encoder", "iuv", "labels", "uv")
)
_DTYPES = st.sampled_from(("f4", "f8", "f2", "u1", "i8", "i4", "b1", "c8", "U3", "S4", "M8[s]", ">f4", "V3"))
_SHAPES = st.lists(st.integers(0, 6), max_size=4).map(tuple)


@st.composite
def array(draw: st.DrawFn) -> bytes:
    """An `.npy` file, with a header that may promise anything."""
    kind = np.dtype(draw(_DTYPES))
    shape = draw(_SHAPES)
    values = np.frombuffer(draw(st.binary(min_size=0, max_size=64)) * 300, np.uint8)
    values = values[: int(np.prod(shape)) * kind.itemsize]
    promised = draw(
        st.one_of(st.just(shape), st.lists(st.sampled_from((*range(4), -1, 1 << 31, 1 << 62, 10**20)), max_size=4))
    )
    described = draw(st.sampled_from((kind.str, kind.str, "|O", "<U0", "<U1000000000", "(9,9)f4", "oops", "<f4, <f4")))
    header = repr({"descr": described, "fortran_order": draw(st.booleans()), "shape": tuple(promised)})
    header = draw(st.sampled_from((header, header, header[:-3], "(" * 200, "{}", "'\\", header + "\0")))
    text = header.encode("latin1") + b"\n"
    version = draw(st.sampled_from(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9))))
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + values.tobytes()


@st.composite
def archive(draw: st.DrawFn) -> bytes:
    """An `.npz` file of crafted arrays, with odd methods, flags and sizes."""
    members = {f"{name}.npy": draw(array()) for name in draw(st.lists(_NAMES, max_size=6, unique=True))}
    data = bytearray(corpus.zip_of(members, draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))))
    if draw(st.booleans()) and data:  # versions, methods, flags and sizes of the central directory
        at = data.find(b"PK\x01\x02")
        if at >= 0:
            place = at + draw(st.integers(4, 45))
            if place < len(data):
                data[place] = draw(st.integers(0, 255))
    return bytes(data)


@st.composite
def arrays(draw: st.DrawFn) -> bytes:
    """An `.npz` file that NumPy wrote, with arrays of right names and any shapes and types."""
    found = {}
    for name in draw(st.lists(_NAMES, max_size=6, unique=True)):
        kind = np.dtype(draw(st.sampled_from(("f4", "f8", "u1", "i8", "b1", "c8", "U3", "M8[s]"))))
        shape = draw(_SHAPES)
        raw = draw(st.binary(min_size=1, max_size=32)) * 1000
        size = int(np.prod(shape)) * kind.itemsize
        value = np.zeros(shape, kind) if kind.kind == "U" else np.frombuffer((raw * 20)[:size], kind).reshape(shape)
        found[name] = value
    buffer = io.BytesIO()
    np.savez(buffer, **found)
    return buffer.getvalue()


_KEYS = st.sampled_from(
    (
        *("images", "annotations", "id", "file_name", "image_id", "keypoints", "people", "pose_keypoints_2d", "score"),
        *("format", "format_version", "kind", "file", "bytes", "sha256", "model", "input", "output", "precision"),
        *("batch", "versions", "height", "width", "dim", "generation", "encoder", "settings", "options", "config"),
    )
)
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(_ODD),
    st.floats(),
    st.sampled_from(("", "a.jpg", "onnx", "dsa_fast.index", "\ud800", "1e999", "f" * 64)),
    st.lists(st.integers(-3, 60), max_size=60),
)
_JSON = st.recursive(
    _LEAVES, lambda each: st.one_of(st.lists(each, max_size=5), st.dictionaries(_KEYS, each, max_size=6)), max_leaves=25
)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """A plain value in which some parts are missing, or are others."""
    if isinstance(value, dict):
        return {
            key: draw(_LEAVES) if draw(st.integers(0, 14)) == 0 else draw(changed(each))
            for key, each in value.items()
            if draw(st.integers(0, 29))
        }
    return draw(_LEAVES) if draw(st.integers(0, 29)) == 0 else value


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    """A checkpoint whose description or weights are changed."""
    made = dict(corpus.checkpoint())
    made["dsa_fast"] = draw(changed(made["dsa_fast"]))
    state = dict(made["state_dict"])
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(state)))
        tensor = corpus.checkpoint()["state_dict"][name]
        state[name] = draw(
            st.sampled_from(
                (
                    tensor.double(),
                    tensor[None],
                    tensor.flatten()[:1].expand(10**6),
                    torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0), (10**12,)),
                    torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor,
                    torch.tensor(0.0).expand(tensor.shape),
                    tensor.to(torch.complex64),
                    None,
                    "text",
                )
            )
        )
    if draw(st.integers(0, 9)) == 0:
        state.pop(draw(st.sampled_from(sorted(state))))
    made["state_dict"] = draw(st.sampled_from((state, state, state, state, None, [], {"model.x": 1})))
    if draw(st.integers(0, 19)) == 0:
        made.pop(draw(st.sampled_from(sorted(made))))
    buffer = io.BytesIO()
    torch.save(made, buffer)
    return buffer.getvalue()


# --------------------------------------------------------------------------------------------------------- readers


def _image(content: bytes) -> None:
    with file(content, ".png") as path:
        size = image_size(path)
        picture = read_image(path)
        if tuple(picture.shape[1:]) != size or picture.dtype != torch.uint8:
            raise AssertionError(f"size {size}, got {picture.dtype} {list(picture.shape)}")


def _map(case: tuple[str, bytes]) -> None:
    with file(case[1], case[0]) as path:
        iuv = read_iuv(path)
        if iuv.dtype != torch.uint8 or iuv.dim() != 3 or int(iuv[0].max()) > 24:
            raise AssertionError(f"got {iuv.dtype} {list(iuv.shape)}")


def _store(content: bytes) -> None:
    with file(content, ".dsaiuv") as path:
        store = IUVStore(path)
        for name in store:
            store.size(name)
            if int(store[name][0].max()) > 24:
                raise AssertionError(name)


def _vectors(case: tuple[str, bytes]) -> None:
    from dsa_fast.deploy.vector_files import read_vectors

    with file(case[1], case[0]) as path:
        found = read_vectors(path)
        if not np.isfinite(found.vectors).all():
            raise AssertionError("not finite")
        for row in range(len(found)):
            found.item(row)


def _keypoints(case: tuple[str, bytes]) -> None:
    from dsa_fast.densepose.keypoints import iuv_from_keypoints, read_keypoints

    with file(case[1], case[0]) as path:
        names = ["a.jpg", "b.jpg"] if case[0] == ".mat" else None
        for person in read_keypoints(path, names=names).values():
            if len(person) in (14, 17, 18):
                iuv_from_keypoints(person[None], (8, 6))


def _openpose(value: Any) -> None:
    from dsa_fast.densepose.keypoints import read_keypoints

    with file(_json_bytes(value), "_keypoints.json") as path:
        read_keypoints(path.parent)


def _one_picture(case: tuple[str, Any]) -> None:
    """A file as PifPaf and KPR write it."""
    from dsa_fast.densepose.keypoints import iuv_from_keypoints, read_keypoints

    with file(_json_bytes(case[1]), case[0]) as path:
        for person in read_keypoints(path.parent).values():
            iuv_from_keypoints(person[None], (8, 6))


def _mask(case: tuple[str, bytes]) -> None:
    from dsa_fast.densepose.masks import person_mask, read_mask

    with file(case[1], case[0]) as path:
        person_mask(read_mask(path), "sapiens")


def _bodies(content: bytes) -> None:
    from dsa_fast.densepose.smpl import UVSurface, draw_smpl, read_bodies
    from dsa_fast.densepose.smpl_model import read_smpl_model

    corners = np.arange(3)
    surface = UVSurface(corners, np.zeros((3, 2), np.float32), np.full(3, 2, np.uint8), corners[None].astype(np.int32))
    with file(corpus.smpl_models()[0], ".npz") as path:
        model = read_smpl_model(path)
    with file(content, ".npz") as path:
        found = read_bodies(path, model)
        for vertices, focal in zip(found.vertices, found.focal, strict=True):
            draw_smpl(surface, vertices, focal, (3, 4), (8, 6))


def _smpl_model(content: bytes) -> None:
    from dsa_fast.densepose.smpl_model import pose_bodies, read_smpl_model

    with file(content, ".npz") as path:
        model = read_smpl_model(path)
        turned = np.ones((2, len(model.parents) - 1, 3), np.float32)
        pose_bodies(model, {"global_orient": turned[:, 0], "body_pose": turned, "betas": np.ones(1, np.float32)})


def _charts(content: bytes) -> None:
    from dsa_fast.densepose.smpl import read_uv_surface

    with file(content, ".mat") as path:
        surface = read_uv_surface(path)
        if int(surface.faces.max()) >= len(surface.vertex):
            raise AssertionError("a face has a vertex that is not there")


def _mat(content: bytes) -> None:
    from dsa_fast.data.cuhk03 import _read_config
    from dsa_fast.densepose.symmetry import SymmetryTable

    with file(content, ".mat") as path:
        with contextlib.suppress(*EXPECTED):
            SymmetryTable.load(path)
        _read_config(path)


def _folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        place = root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return root


def _read_people(root: Path) -> None:
    from dsa_fast.data.registry import read_dataset
    from dsa_fast.data.split import split_people

    data = read_dataset(root, check_counts=False)
    for person in (*data.train, *data.query, *data.gallery):
        if not (-1 <= person.pid < 1 << 31 and 0 <= person.camid < 1 << 31):
            raise AssertionError(person)
    with contextlib.suppress(*EXPECTED):
        split_people(data)


def _mars(case: tuple[str, bytes]) -> None:
    with tempfile.TemporaryDirectory(prefix="dsa_fast_fuzz_") as place:
        files = {f"info/{name}": content for name, content in corpus.mars().items()}
        files |= {
            f"bbox_{part}/{name[:4].decode()}/{name.decode()}": b""
            for part in ("train", "test")
            for name in corpus.mars().get(f"{part}_name.txt", b"").split()
        }
        _read_people(_folder(Path(place), files | {f"info/{case[0]}": case[1]}))


def _msmt17(content: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="dsa_fast_fuzz_") as place:
        image = "0000/0000_000_01_0303morning_0008_0.jpg"
        lists = {f"list_{split}.txt": f"{image} 0\n".encode() for split in ("train", "val", "query", "gallery")}
        files = lists | {f"{split}/{image}": b"" for split in ("train", "test")}
        _read_people(_folder(Path(place), files | {"list_query.txt": content}))


def _tree(names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="dsa_fast_fuzz_") as place:
        root = Path(place)
        for name in names:
            with contextlib.suppress(OSError, ValueError):  # a folder is in its way, or it holds a zero
                _folder(root, {name: b""})
        _read_people(root)


def _video(case: tuple[str, bytes]) -> None:
    from dsa_fast.deploy.video import count_frames, read_frames

    with file(case[1], case[0]) as path:
        with contextlib.suppress(*EXPECTED):
            count_frames(path)
        for number, frame in read_frames(path, lambda number: number % 2 == 0):
            if frame.dtype != torch.uint8 or frame.shape[0] != 3:
                raise AssertionError(f"got {frame.dtype} {list(frame.shape)}")
            if number > 100:
                break


def _detector(content: bytes) -> None:
    from dsa_fast.deploy.detectors import OnnxDetector

    with file(content, ".onnx") as path:
        _crops(OnnxDetector(path))


def _crops(detector: Any) -> None:
    from dsa_fast.deploy.tracks import write_crops

    with tempfile.TemporaryDirectory(prefix="dsa_fast_fuzz_") as place:
        frames = [(number, torch.zeros(3, 9, 12, dtype=torch.uint8)) for number in range(3)]
        write_crops(frames, detector, Path(place), min_height=1, min_images=2)


def _outputs(outputs: list[Any]) -> None:
    """What a detector's network gives."""
    from dsa_fast.deploy.detectors import OnnxDetector

    class Network:
        def run(self, names: object, inputs: object) -> list[Any]:
            return outputs

    detector = OnnxDetector.__new__(OnnxDetector)
    detector.path, detector._session, detector._input = Path("a.onnx"), Network(), "image"
    detector._batched, detector._size = True, (16, 16)
    _crops(detector)


def _scripted(found: Any) -> None:
    """What a DensePose module in a TorchScript file gives."""
    from dsa_fast.densepose.torchscript import ScriptedDensePose, _Loaded

    made = ScriptedDensePose.__new__(ScriptedDensePose)
    made.device, made.min_score, made.min_size, made.bgr = torch.device("cpu"), 0.3, None, True
    made._source, made.module = Path("a.pt"), lambda pixels: found
    made.estimate([_Loaded(torch.zeros(3, 6, 5, dtype=torch.uint8), (6, 5))])


def _dump(content: bytes) -> None:
    from dsa_fast.densepose.dump import read_dump

    with file(content, ".pkl") as path:
        for entry in read_dump(path):
            entry.iuv((9, 9))


def _checkpoint(content: bytes) -> None:
    from dsa_fast.models import load_model

    with file(content, ".ckpt") as path:
        loaded = load_model(path)
        loaded.model.embed(torch.zeros(1, 3, 32, 16))


def _hub(case: tuple[str, bytes]) -> None:
    from dsa_fast.models.hub import from_pretrained

    with tempfile.TemporaryDirectory(prefix="dsa_fast_fuzz_") as place:
        from_pretrained(_folder(Path(place), corpus.hub() | {case[0]: case[1]}))


def _sidecar(content: bytes) -> None:
    from dsa_fast.deploy.sidecar import parse_sidecar
    from dsa_fast.deploy.verification import judge

    with file(content, ".json") as path:
        found = parse_sidecar(path).verification
        chance = judge(found, path, 0.5, 0.01).probability
        if not 0 <= chance <= 1:
            raise AssertionError(chance)


def _table(content: bytes) -> None:
    from dsa_fast.data.registry import read_dataset
    from dsa_fast.deploy.inputs import find_items

    with file(content, ".csv") as path:
        with contextlib.suppress(*EXPECTED):
            read_dataset(path)
        with contextlib.suppress(*EXPECTED):
            read_dataset(path.parent)
        find_items(path)


def _list(content: bytes) -> None:
    from dsa_fast.deploy.inputs import find_items, read_items

    with file(content, ".txt") as path:
        for image in read_items(find_items(path), workers=1):
            if not isinstance(image, (ValueError, torch.Tensor)):
                raise AssertionError(type(image))


def _yaml(content: bytes) -> None:
    from dsa_fast.configs import read_yaml

    with file(content, ".yaml") as path:
        read_yaml(path)


def _options(case: tuple[str, str]) -> None:
    from dsa_fast.cli.fit import fit
    from dsa_fast.cli.parser import make_parser
    from dsa_fast.cli.plain import parse_options

    if not _PARSER:
        _PARSER.append(make_parser(fit, "fit"))
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            parse_options(_PARSER[0], ["--data.root=x", f"--{case[0]}={case[1]}"])
    except SystemExit as error:
        if error.code not in (0, 2):
            raise AssertionError(f"exit {error.code}") from error


_PARSER: list[Any] = []


def _index(case: tuple[Any, bytes]) -> None:
    """An index whose description or table is changed, with right checksums."""
    from dsa_fast.deploy.index import VectorIndex
    from dsa_fast.deploy.vector_files import read_vectors

    with tempfile.TemporaryDirectory(prefix="dsa_fast_fuzz_") as place:
        folder = Path(place) / "index"
        if not _INDEX:
            with file(corpus.vectors()[0][1], ".npz") as path:
                VectorIndex.build(Path(tempfile.mkdtemp()) / "i", read_vectors(path))
                made = VectorIndex.build(Path(tempfile.mkdtemp()) / "i", read_vectors(path))
            _INDEX.append(made.folder)
        shutil.copytree(_INDEX[0], folder)
        about, table = case
        mark = folder / "current.json"
        described = json.loads(mark.read_text())
        if table:
            (folder / "table-000000.npz").write_bytes(table)
            described["sha256"]["table"] = hashlib.sha256(table).hexdigest()
        mark.write_text(json.dumps({**described, **about} if isinstance(about, dict) else about))
        opened = VectorIndex.open(folder)
        hits = opened.search(np.ones((1, opened.dim), np.float32), 3)
        for row in hits.rows[0]:
            if row >= 0:
                opened.item(int(row))


_INDEX: list[Path] = []


# ------------------------------------------------------------------------------------------------------- operators

_FLOATS = st.sampled_from((0.0, 0.5, 1.0, -1.0, 255.0, 1e30, float("nan"), float("inf"), 24.0, 25.0, 300.0))
_TYPES = (torch.uint8, torch.float32, torch.float16, torch.float64, torch.int64, torch.bool, torch.bfloat16)


@st.composite
def tensor(draw: st.DrawFn, *shapes: tuple[int, ...], types: tuple[torch.dtype, ...] = _TYPES) -> torch.Tensor:
    """A tensor of one of the shapes (or nearly), any type and strides, with odd values."""
    shape = list(draw(st.sampled_from(shapes)))
    if draw(st.integers(0, 9)) == 0 and shape:
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(0, 4))
    kind = draw(st.sampled_from(types))
    made = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) * draw(
        st.sampled_from((1.0, 24.0, 255.0))
    )
    if made.numel() and draw(st.booleans()):
        made.view(-1)[draw(st.integers(0, made.numel() - 1)) :: 7] = draw(_FLOATS)
    made = made.nan_to_num(0, 1e4, -1e4).to(kind) if not kind.is_floating_point else made.to(kind)
    if made.dim() >= 2 and draw(st.booleans()):
        made = made.transpose(-1, -2).contiguous().transpose(-1, -2)
    return made


def _warp(case: tuple[Any, ...]) -> None:
    import dsa_fast

    img, iuv, size, fill, reduce = case
    out = dsa_fast.warp(img, iuv, size=size, fill=fill, reduce=reduce)
    if out.shape[-1] != size or out.dtype != img.dtype:
        raise AssertionError(f"got {out.dtype} {list(out.shape)}")


def _crop(case: tuple[Any, ...]) -> None:
    from dsa_fast.ops.crop import crop_parts

    img, iuv, size, fill, _ = case
    crop_parts(img, iuv, size=size, fill=fill)


def _densepose(case: tuple[Any, ...]) -> None:
    from types import SimpleNamespace

    from dsa_fast.ops.warp_densepose import to_iuv, warp_densepose

    img, coarse, fine, u, v, boxes, index = case
    output = SimpleNamespace(coarse_segm=coarse, fine_segm=fine, u=u, v=v)
    warp_densepose(img, output, boxes, image_index=index, size=4)
    to_iuv(output, boxes, (6, 5), dtype=torch.uint8)


def _nearest(case: tuple[Any, ...]) -> None:
    query, gallery, k, cosine, block = case
    found = torch.ops.dsa_fast.nearest(query, gallery, k, cosine, block)
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < len(gallery):
        raise AssertionError(found)


def _rank(case: tuple[Any, ...]) -> None:
    query, gallery, ignored, first, items, cosine = case
    offsets = torch.tensor(first, dtype=torch.int64)
    torch.ops.dsa_fast.rank_matches(
        query, gallery, ignored, offsets, torch.tensor(items, dtype=torch.int64),
        torch.zeros(len(query) + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), cosine, 8,
    )  # fmt: skip


def _transform(case: tuple[Any, ...]) -> None:
    from dsa_fast.ops.train_transform import train_transform

    images, iuv, plan, size, pad, dsap = case
    train_transform(images, iuv, plan, size=size, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0), pad=pad, dsap_size=dsap)


def _rerank(case: tuple[Any, ...]) -> None:
    from dsa_fast.evaluation import evaluate, expand_queries, k_reciprocal

    query, gallery, k = case
    expand_queries(query, gallery, k=k)
    k_reciprocal(query, gallery, k1=k, k2=1)(0, len(query))
    ids = torch.ones(len(query), dtype=torch.int64), torch.ones(len(gallery), dtype=torch.int64)
    evaluate(query, ids[0], ids[0], gallery, ids[1], ids[1] + 1)


_VALUES = st.sampled_from((0.0, 0.9, 1.0, 2.0, 5.0, -3.0, 40.0, 1e30, float("nan"), float("inf"), -float("inf")))


@st.composite
def output(draw: st.DrawFn) -> Any:
    """An array of a network: of a right shape or any other, of any type and value."""
    shape = draw(
        st.sampled_from(((3, 4), (3,), (3,), (2, 4), (1, 5, 7), (1, 3, 6), (1, 0, 6), (0, 4), (0,), (), (1, 6)))
    )
    kind = draw(st.sampled_from((np.float32, np.float32, np.int64, np.float64, np.bool_, np.str_, object)))
    values = np.array([draw(_VALUES) for _ in range(min(int(np.prod(shape)), 8))] or [0.0])
    if kind in (np.int64, np.bool_):
        values = np.nan_to_num(values, posinf=9, neginf=0).clip(-9, 9).round() % 2
    return np.resize(values, shape).astype(kind)


_OUTPUTS = st.one_of(
    st.lists(output(), max_size=4),
    st.lists(_VALUES, min_size=15, max_size=15).map(
        lambda flat: [
            np.array(flat[:12], np.float32).reshape(3, 4), np.ones(3, np.int64), np.array(flat[12:], np.float32)
        ]
    ),
    st.lists(_VALUES, min_size=18, max_size=18).map(lambda flat: [np.array(flat, np.float32).reshape(1, 3, 6)]),
)  # fmt: skip
_DENSEPOSE = ("pred_boxes", "scores", *(f"pred_densepose_{name}" for name in ("coarse_segm", "fine_segm", "u", "v")))


@st.composite
def scripted(draw: st.DrawFn) -> Any:
    """What a DensePose module returns."""
    people = draw(st.integers(0, 2))
    heads = [(people, draw(st.sampled_from((2, 15, 1))), 4, 4), *[(people, 25, 4, 4)] * 3]
    found = []
    for shape in ((people, 4), (people,), *heads):
        if draw(st.integers(0, 14)) == 0:
            shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
        values = torch.rand(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) * draw(
            st.sampled_from((1.0, 5.0, 1e30))
        )
        if values.numel() and draw(st.integers(0, 3)) == 0:
            values.view(-1)[draw(st.integers(0, values.numel() - 1))] = draw(_VALUES)
        kind = draw(st.sampled_from((torch.float32, torch.float32, torch.float32, torch.float16, torch.int64)))
        found.append(values.nan_to_num(0, 9, -9).to(kind) if kind == torch.int64 else values.to(kind))
    as_dict: dict[str, Any] = dict(zip(_DENSEPOSE, found, strict=True))
    return draw(st.sampled_from((as_dict, (found[0], *found[2:]), found, found[0], None)))


_FILE_NAMES = st.one_of(
    st.from_regex(r"-?[0-9]{1,12}_c[0-9]{1,12}s1_[0-9]{1,3}_00\.(jpg|png)", fullmatch=True),
    st.sampled_from(
        (
            *(
                "0001_c1s1_000001_00.jpg",
                "001_01.jpg",
                "0010001.png",
                "094_1_c9_015833.png",
                "a.jpg",
                "A_cropped_1.jpg",
            ),
            *("-1_c1_f1.jpg", "0000_c1.jpg", "1" * 240 + ".jpg", "\u0663_c\u0661_1.jpg", "²_c1.jpg", "._a.jpg", ".jpg"),
            *("a.jpg\udcff.jpg", "new\nline.png", "iuv.dsaiuv", "split.csv", "people.csv", "0" * 200 + "1_c1.jpg"),
        )
    ),
    st.text(max_size=9).map(lambda text: text.replace("/", "") + ".jpg"),
)
_FOLDERS = st.sampled_from(
    (
        *(
            "",
            "bounding_box_train",
            "query",
            "bounding_box_test",
            "gt_bbox",
            "images",
            "iuv",
            "train",
            "gallery",
            "test",
        ),
        *(
            "query/alice",
            "gallery/bob",
            "train/1",
            "train/0002",
            "alice",
            "bob/door",
            "12345678901234567890",
            "²",
            "-1",
        ),
        *("campus", "occluded_body_images", "whole_body_images", "rgb/train/001", "rgb/test/A/001", "rgb/test/B/x"),
        *("images_labeled", "images_detected", "bbox_train/0001", "info", "x" * 250, "a\udcffb", "iuv.dsaiuv"),
    )
)
_TREES = st.lists(st.tuples(_FOLDERS, _FILE_NAMES).map("/".join), min_size=1, max_size=14)
_SIZE = st.sampled_from((1, 2, 5, 32, 0, -1, 4097))
_PHOTO = tensor((2, 3, 6, 5), (3, 6, 5), (1, 1, 6, 5))
_MAP = tensor((2, 3, 6, 5), (3, 6, 5), (1, 3, 6, 5), types=(torch.uint8, torch.float32, torch.float16, torch.int64))
_WARP = st.tuples(_PHOTO, _MAP, _SIZE, _FLOATS, st.sampled_from(("last", "mean", "sum")))
_HEAD = tensor((2, 25, 4, 4), types=(torch.float32, torch.float16, torch.int64))
_FEATURES = tensor((3, 4), (5, 4), (30, 4), types=(torch.float32, torch.float64))

TARGETS: dict[str, Target] = {
    "images": Target("images", broken(corpus.images()), _image),
    "maps": Target("arrays", named(corpus.maps()), _map),
    "maps, crafted": Target(
        "arrays",
        st.one_of(
            st.tuples(st.just(".npz"), st.one_of(archive(), arrays())),
            st.tuples(st.sampled_from((".npy", ".npz")), array()),
        ),
        _map,
    ),
    "stores": Target("stores", broken(corpus.stores()), _store),
    "vectors": Target("arrays", named(corpus.vectors()), _vectors),
    "vectors, crafted": Target("arrays", st.tuples(st.just(".npz"), st.one_of(archive(), arrays())), _vectors),
    "keypoints": Target("keypoints", named(corpus.keypoints()), _keypoints),
    "keypoints, crafted": Target(
        "keypoints",
        st.one_of(
            st.tuples(st.just(".json"), _JSON.map(_json_bytes)),
            st.tuples(st.just(".npz"), st.one_of(archive(), arrays())),
        ),
        _keypoints,
    ),
    "OpenPose": Target("keypoints", _JSON, _openpose),
    "PifPaf": Target(
        "keypoints",
        st.tuples(
            st.sampled_from((".jpg.predictions.json", ".jpg_keypoints.json", ".json")),
            st.one_of(
                _JSON,
                changed([{"keypoints": [1.5] * 51, "bbox": [0, 0, 9, 9], "score": 0.5, "is_target": True}] * 2),
                st.lists(st.dictionaries(st.sampled_from(("keypoints", "is_target")), _JSON), max_size=3),
                st.lists(st.lists(_LEAVES, min_size=3, max_size=3), min_size=17, max_size=17).map(
                    lambda rows: [{"keypoints": rows}]
                ),
            ),
        ),
        _one_picture,
    ),
    "masks": Target("images", named(corpus.masks()), _mask),
    "bodies": Target("arrays", st.one_of(broken(corpus.bodies()), archive(), arrays()), _bodies),
    "smpl model": Target("arrays", st.one_of(broken(corpus.smpl_models()), archive(), arrays()), _smpl_model),
    "charts": Target("MATLAB", broken(corpus.charts() or (b"",)), _charts),
    "MATLAB": Target("MATLAB", broken(corpus.matlab() or (b"",)), _mat),
    "MARS": Target(
        "data sets",
        st.sampled_from(sorted(corpus.mars()) or [""]).flatmap(
            lambda name: st.tuples(st.just(name), broken((corpus.mars().get(name, b""),)))
        ),
        _mars,
    ),
    "MSMT17": Target(
        "data sets", broken((b"0000/0000_000_01_0303morning_0008_0.jpg 0\n", b"a/b 1\n", b"\xff 0\n")), _msmt17
    ),
    "trees": Target("data sets", _TREES, _tree),
    "videos": Target("videos", named(corpus.videos() or (("", b""),)), _video),
    "detectors": Target("detectors", broken(corpus.detectors() or (b"",)), _detector),
    "detectors, crafted": Target("detectors", _OUTPUTS, _outputs),
    "TorchScript, crafted": Target("detectors", scripted(), _scripted),
    "hub": Target(
        "checkpoints",
        st.one_of(
            st.tuples(st.just("config.json"), broken((corpus.hub().get("config.json", b""),))),
            st.tuples(st.just("model.safetensors"), broken((corpus.hub().get("model.safetensors", b""),))),
            st.tuples(st.just("config.json"), changed({"dsa_fast": corpus.checkpoint()["dsa_fast"]}).map(_json_bytes)),
        ),
        _hub,
    ),
    "dumps": Target("dumps", broken(corpus.dumps()), _dump),
    "checkpoints": Target("checkpoints", broken((corpus.checkpoint_bytes(),)), _checkpoint),
    "checkpoints, crafted": Target("checkpoints", checkpoints(), _checkpoint),
    "sidecars": Target("sidecars", broken((_json_bytes(corpus.sidecar()),)), _sidecar),
    "sidecars, crafted": Target("sidecars", st.one_of(_JSON, changed(corpus.sidecar())).map(_json_bytes), _sidecar),
    "sidecars, calibrated": Target(
        "sidecars",
        st.sampled_from(corpus.VERIFICATIONS)
        .flatmap(lambda each: st.one_of(changed(each), changed(each), _JSON))
        .map(lambda each: _json_bytes({**corpus.sidecar(), "verification": each})),
        _sidecar,
    ),
    "tables": Target("tables", broken(corpus.TABLES), _table),
    "lists": Target("tables", broken(corpus.TABLES), _list),
    "YAML": Target(
        "YAML", st.one_of(broken(corpus.YAML), st.text().map(lambda text: text.encode(errors="replace"))), _yaml
    ),
    "options": Target(
        "YAML",
        st.tuples(
            st.sampled_from(
                (
                    *("data", "data.options", "trainer.extra", "model", "optim.lr", "augment.size", "out", "seed"),
                    *("trainer.logger", "trainer.project", "guide", "loss", "init", "trainer.devices"),
                )
            ),
            st.one_of(st.text(max_size=40), broken(corpus.YAML).map(lambda data: data.decode(errors="replace"))),
        ),
        _options,
    ),
    "indices": Target(
        "indices",
        st.tuples(
            st.one_of(st.dictionaries(_KEYS, _LEAVES, max_size=3), _LEAVES),
            st.one_of(st.just(b""), archive(), arrays()),
        ),
        _index,
    ),
    "warp": Target("operators", _WARP, _warp, OPS_EXPECTED),
    "crop_parts": Target("operators", _WARP, _crop, OPS_EXPECTED),
    "warp_densepose": Target(
        "operators",
        st.tuples(
            _PHOTO,
            tensor((2, 2, 4, 4), (2, 15, 4, 4), types=(torch.float32, torch.float16)),
            *(_HEAD, _HEAD, _HEAD),
            tensor((2, 4), types=(torch.float32, torch.int64)),
            st.one_of(st.none(), st.lists(st.sampled_from((0, 1, 2, -1, 0.5, True, 1 << 40)), min_size=2, max_size=2)),
        ),
        _densepose,
        OPS_EXPECTED,
    ),
    "nearest": Target(
        "operators",
        st.tuples(_FEATURES, _FEATURES, st.integers(-1, 32), st.booleans(), st.integers(-1, 999)),
        _nearest,
        OPS_EXPECTED,
    ),
    "rank_matches": Target(
        "operators",
        st.tuples(
            *(_FEATURES, _FEATURES, tensor((5,), (30,), types=(torch.bool,))),
            *(st.lists(st.integers(-1, 6), max_size=7), st.lists(st.integers(-1, 31), max_size=6), st.booleans()),
        ),
        _rank,
        OPS_EXPECTED,
    ),
    "train_transform": Target(
        "operators",
        st.tuples(
            *(tensor((2, 3, 6, 5), types=(torch.uint8, torch.float32)), tensor((2, 3, 6, 5), types=(torch.uint8,))),
            st.lists(st.lists(st.sampled_from((0, 1, 2, 5, -1, 1 << 30)), min_size=8, max_size=8), max_size=3).map(
                lambda rows: torch.tensor(rows, dtype=torch.int32).view(-1, 8)
            ),
            *(st.sampled_from(((6, 5), (3, 9), (0, 1), (1, 1))), st.integers(-1, 9), st.sampled_from((1, 4, 0, 4097))),
        ),
        _transform,
        OPS_EXPECTED,
    ),
    "re-ranking": Target("operators", st.tuples(_FEATURES, _FEATURES, st.integers(0, 9)), _rerank, OPS_EXPECTED),
}
