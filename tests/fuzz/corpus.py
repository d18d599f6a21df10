"""Small valid files of each kind, made by code. The targets break them."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dsa_fast.densepose.iuv import write_iuv
from dsa_fast.densepose.iuv_store import IUVStore


def _saved(write: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


def _iuv() -> torch.Tensor:
    iuv = torch.zeros(3, 8, 6, dtype=torch.uint8)
    iuv[0, 2:6, 1:5] = 3
    iuv[1:, 2:6, 1:5] = torch.arange(32, dtype=torch.uint8).view(2, 4, 4) * 7
    return iuv


@cache
def images() -> tuple[bytes, ...]:
    """One of each format: also turned, of 16 bits, of a palette, and some that are refused."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (7, 5, 3), dtype=np.uint8))
    found = []
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "TGA", "ICO"):
        buffer = io.BytesIO()
        rgb.save(buffer, kind)
        found.append(buffer.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    for picture, options in (
        (rgb, {"format": "JPEG", "exif": exif}),
        (Image.fromarray(rng.integers(0, 65536, (7, 5), dtype=np.uint16)), {"format": "PNG"}),
        (Image.fromarray(rng.integers(0, 65536, (7, 5), dtype=np.uint16)), {"format": "TIFF"}),
        (Image.fromarray(rng.random((7, 5), dtype=np.float32)), {"format": "TIFF"}),
        (rgb.convert("P"), {"format": "PNG", "transparency": 3}),
        (rgb.convert("1"), {"format": "PNG"}),
        (rgb.convert("CMYK"), {"format": "JPEG"}),
        (rgb.convert("LA"), {"format": "PNG"}),
        (rgb, {"format": "TIFF", "compression": "tiff_lzw"}),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, **options)
        found.append(buffer.getvalue())
    found.append(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n")
    return tuple(found)


@cache
def maps() -> tuple[tuple[str, bytes], ...]:
    """IUV maps by suffix."""
    iuv = _iuv()
    array = iuv.permute(1, 2, 0).numpy()
    found = [(".png", _saved(lambda path: write_iuv(path, iuv), "a.png"))]
    for suffix, save in ((".npy", np.save), (".npz", np.savez), (".npz", np.savez_compressed)):
        for value in (array, array.astype(np.float32) / 255, array.astype(np.int64)):
            found.append((suffix, _saved(lambda path, save=save, value=value: save(path, value), f"a{suffix}")))
    labels, uv = array[..., 0], np.random.default_rng(0).random((2, 8, 6))
    found.append((".npz", _saved(lambda path: np.savez(path, labels=labels, uv=uv), "a.npz")))
    return tuple(found)


@cache
def stores() -> tuple[bytes, ...]:
    one = _saved(lambda path: IUVStore.create(path, [("query/a", _iuv()), ("b", _iuv()[:, :3])]), "a.dsaiuv")
    return (one, _saved(lambda path: IUVStore.create(path, []), "a.dsaiuv"))


@cache
def vectors() -> tuple[tuple[str, bytes], ...]:
    from dsa_fast.deploy.vector_files import Vectors, write_vectors

    rng = np.random.default_rng(0)
    paths = np.array([f"{i}.jpg" for i in range(5)])
    made = Vectors(
        rng.random((5, 4), dtype=np.float32), paths, np.full(5, -1, np.int64), np.zeros((5, 4), np.int64), "e"
    )
    found = [(".npz", _saved(lambda path: write_vectors(path, [made]), "a.npz"))]
    with contextlib.suppress(ImportError, ValueError):  # pyarrow is not installed
        found.append((".parquet", _saved(lambda path: write_vectors(path, [made]), "a.parquet")))
    return tuple(found)


@cache
def keypoints() -> tuple[tuple[str, bytes], ...]:
    points = [float(n % 9) for n in range(51)]
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "keypoints": [2.0 if n % 3 == 2 else v for n, v in enumerate(points)]}],
    }
    results = [{"image_id": "a.jpg", "keypoints": points, "score": 0.5}]
    found = [(".json", json.dumps(each).encode()) for each in (coco, results, {"people": []}, [], {})]
    arrays = {"names": np.array(["a.jpg", "b.jpg"]), "keypoints": np.zeros((2, 17, 3), np.float32)}
    found.append((".npz", _saved(lambda path: np.savez(path, **arrays), "a.npz")))
    return (*found, *((".mat", each) for each in matlab()))


@cache
def masks() -> tuple[tuple[str, bytes], ...]:
    """Class maps."""
    classes = np.arange(48, dtype=np.uint8).reshape(8, 6)
    picture = Image.fromarray(classes)
    palette = picture.copy()
    palette.putpalette([7 * i % 256 for i in range(768)])
    found = [(".png", _saved(lambda path, it=it: it.save(path), "a.png")) for it in (picture, palette)]
    return (*found, (".npy", _saved(lambda path: np.save(path, classes), "a.npy")))


@cache
def bodies() -> tuple[bytes, ...]:
    """Fitted bodies of three vertices."""
    triangle = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1]], np.float32)
    hmr2 = {"pred_vertices": triangle[None], "pred_cam_t": np.zeros((1, 3)), "focal_length": np.full((1, 2), 5e3)}
    kinds = ({"vertices": triangle, "focal_length": 5}, hmr2 | {"box_center": [[3, 4]], "box_size": [6]})
    turned = {"global_orient": np.eye(3)[None, None], "body_pose": np.eye(3)[None, None], "betas": np.ones((1, 2))}
    kinds = (*kinds, turned | {"pred_cam_t_full": [[0, 0, 3]], "scaled_focal_length": 5})
    return tuple(_saved(lambda path, kind=kind: np.savez(path, **kind), "a.npz") for kind in kinds)


@cache
def smpl_models() -> tuple[bytes, ...]:
    """A model of three vertices and two joints."""
    arrays = {"v_template": np.eye(3), "shapedirs": np.ones((3, 3, 2)), "posedirs": np.ones((3, 3, 9))}
    arrays |= {"J_regressor": np.full((2, 3), 1 / 3), "weights": np.full((3, 2), 0.5)}
    arrays["kintree_table"] = np.array([[2**32 - 1, 0], [0, 1]], np.uint32)
    return (_saved(lambda path: np.savez(path, **arrays), "a.npz"),)


@cache
def charts() -> tuple[bytes, ...]:
    """DensePose's charts of one triangle, where scipy is installed."""
    try:
        from scipy.io import savemat
    except ImportError:
        return ()
    content = {"All_vertices": [[1, 2, 3]], "All_Faces": [[1, 2, 3]], "All_FaceIndices": [[2]]}
    content |= {"All_U_norm": [[0.0], [0.5], [1.0]], "All_V_norm": [[0.0], [1.0], [0.5]]}
    return tuple(_saved(lambda path, on=on: savemat(path, content, do_compression=on), "a.mat") for on in (False, True))


@cache
def matlab() -> tuple[bytes, ...]:
    """MATLAB files of both formats, where scipy and h5py are installed."""
    found = []
    cells = np.empty(3, object)
    cells[:] = [f"1_001_1_0{i}.png" for i in (1, 2, 3)]
    content: dict[str, Any] = {"filelist": cells, "labels": [1, 1, 2], "train_idx": [1], "query_idx": [2]}
    content |= {"gallery_idx": [3], "U_transforms": np.zeros((1, 2)), "V_transforms": np.zeros((1, 2))}
    try:
        from scipy.io import savemat

        found += [_saved(lambda path, on=on: savemat(path, content, do_compression=on), "a.mat") for on in (0, 1)]
    except ImportError:
        pass
    try:
        import h5py
    except ImportError:
        return tuple(found)

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file["pp"] = np.zeros((2, 28))
            for name in ("labels", "train_idx", "query_idx", "gallery_idx"):
                file[name] = np.array([[1, 1]])
            file["text"] = np.array([ord(letter) for letter in "1_001_1_01.png"])
            file.create_dataset("filelist", data=np.array([[file["text"].ref] * 2], dtype=h5py.ref_dtype))

    return (*found, _saved(write, "a.mat"))


@cache
def dumps() -> tuple[bytes, ...]:
    """Dumps of dicts and tensors, as torch.save and pickle write them. The classes of DensePose are not needed."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    result = ((3, 4, 4), base64.b64encode(buffer.getvalue()).decode())
    entry = {"file_name": "a.jpg", "scores": torch.ones(1), "pred_boxes_XYXY": torch.tensor([[0.0, 0, 4, 4]])}
    found = []
    for value in ([entry], [{**entry, "pred_densepose": [result]}], [{"file_name": "a.jpg"}], entry):
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
            found.append(buffer.getvalue())
    found.append(pickle.dumps([{"file_name": "a.jpg"}]))
    return tuple(found)


@cache
def detectors() -> tuple[bytes, ...]:
    """Detectors in ONNX files, where onnx is installed: each of the forms of outputs."""
    try:
        from onnx import TensorProto, helper
    except ImportError:
        return ()
    shaped = (
        (
            ("boxes", "labels", "scores"),
            ((1, 4), (1,), (1,)),
            (TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT),
        ),
        (("yolo",), ((1, 5, 7),), (TensorProto.FLOAT,)),
        (("merged",), ((1, 3, 6),), (TensorProto.FLOAT,)),
    )
    found = []
    for names, shapes, kinds in shaped:
        nodes, outputs = [], []
        for name, shape, kind in zip(names, shapes, kinds, strict=True):
            count = int(np.prod(shape))
            values = [1] * count if kind == TensorProto.INT64 else [1.0 + n % 8 for n in range(count)]
            nodes.append(helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, shape, values)))
            outputs.append(helper.make_tensor_value_info(name, kind, shape))
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])
        graph = helper.make_graph(nodes, "detector", [image], outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        found.append(model.SerializeToString())
    return tuple(found)


@cache
def videos() -> tuple[tuple[str, bytes], ...]:
    """Videos of three frames, where PyAV is installed."""
    try:
        import av
    except ImportError:
        return ()

    def write(path: Path) -> None:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
            for number in range(3):
                picture = np.full((16, 32, 3), 60 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))

    return tuple((suffix, _saved(write, f"a{suffix}")) for suffix in (".mp4", ".mkv", ".avi", ".ts"))


@cache
def mars() -> dict[str, bytes]:
    """The files of MARS's folder `info`, where scipy is installed."""
    try:
        from scipy.io import savemat
    except ImportError:
        return {}
    names = b"0001C1T0001F001.jpg\n0001C1T0001F002.jpg\n0002C1T0001F001.jpg\n0002C2T0001F001.jpg\n"
    tables = {
        "tracks_train_info": {"track_train_info": [[1, 2, 1, 1], [3, 3, 2, 1]]},
        "tracks_test_info": {"track_test_info": [[3, 3, 2, 1], [4, 4, 2, 2]]},
        "query_IDX": {"query_IDX": [[1]]},
    }
    made = {"train_name.txt": names, "test_name.txt": names}
    for name, table in tables.items():
        made[f"{name}.mat"] = _saved(lambda path, table=table: savemat(path, table), "a.mat")
    return made


@cache
def hub() -> dict[str, bytes]:
    """A folder of the Hugging Face hub, where safetensors is installed."""
    try:
        from safetensors.torch import save
    except ImportError:
        return {}
    whole = checkpoint()
    state = {name.removeprefix("model."): value.contiguous() for name, value in whole["state_dict"].items()}
    config = json.dumps({"dsa_fast": whole["dsa_fast"]}).encode()
    return {"config.json": config, "model.safetensors": save(state)}


@cache
def checkpoint() -> dict[str, Any]:
    """A whole checkpoint of the smallest network."""
    from dsa_fast.models import ModelConfig, build_model
    from dsa_fast.models.checkpoint import describe_network

    torch.manual_seed(0)
    model = ModelConfig(backbone="resnet18", pretrained=None, width=0.05, classifier_dim=8, dsag=False)
    state = {f"model.{name}": value for name, value in build_model(2, model).state_dict().items()}
    made: dict[str, Any] = {"state_dict": state, "epoch": 0, "global_step": 1}
    describe_network(made, 2, model, size=(32, 16), dsap_size=8, reduce="last", parts="warp")
    return made


@cache
def checkpoint_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save(checkpoint(), buffer)
    return buffer.getvalue()


@cache
def sidecar() -> dict[str, Any]:
    from dsa_fast.deploy.sidecar import BatchRange, InputSpec, OutputSpec, Sidecar

    made = Sidecar(
        kind="onnx", file="mf.onnx", bytes=5, sha256="0" * 64, model={}, input=InputSpec(32, 16), output=OutputSpec(8),
        precision="fp32", batch=BatchRange(), versions={},
    )  # fmt: skip
    loaded: dict[str, Any] = json.loads(made.to_json())
    return loaded


VERIFICATIONS = tuple(
    {"data": "people", "thresholds": {"0.01": 0.5, "0.001": 0.7}, "probability": probability}
    for probability in (
        {"kind": "logistic", "slope": 9.0, "offset": -4.0},
        {"kind": "isotonic", "cosine": [0.0, 0.5, 1.0], "value": [0.1, 0.5, 0.9]},
    )
)


TABLES = (
    b"path,pid,camid,split\na.jpg,1,1,train\nb.jpg,2,1,query\nb.jpg,2,2,gallery\n",
    b"path,pid,camid,split,iuv\na.jpg,1,1,train,\n",
    b"\xef\xbb\xbfpath\r\na.jpg\r\n",
    b"path,x,y,w,h\na.jpg,0,0,2,2\n",
    b"video,frame\nv.mp4,3\n",
    b'path\n"a\nb.jpg"\n',
    b"a.jpg\nb.jpg\n",
    "path,pid,camid\na.jpg,anna,door\nb.jpg,07,yard\nc.jpg,7,door\nd.jpg,ü,\n".encode(),
    b"path,pid,camid,images,first_frame,last_frame\ndoor/track_0001,door-0001,door,3,0,10\n",
    b"path,pid,camid\na.jpg,0,1\na.jpg,-1,1\na.jpg,1000000000000,2147483648\n",
)
YAML = (
    b"data: {root: x, options: {kind: labeled}}\ntrainer: {max_epochs: 3, extra: {a: [1, 2.5, null, true]}}\n",
    b"a: &a {x: 1}\nb: *a\nc: [*a, *a]\n",
    b"optim: {lr: 1e-3}\nmodel:\n  backbone: resnet18\n",
    b"x: !!python/object/apply:os.getcwd []\n",
    b"options: {x: {class_path: os.system, init_args: {command: 'true'}}}\n",
)


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()
