"""Export, sidecars and encoders. Code that only a GPU can run is tested with stand-ins of its API."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import dsa_fast
from dsa_fast.cli import main
from dsa_fast.data.registry import read_dataset
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.data.transforms import normalize, resize
from dsa_fast.deploy import cuda as cuda_module
from dsa_fast.deploy import tensorrt as trt_module
from dsa_fast.deploy.cuda import GRAPH_SIZES, CudaRunner, Enqueue, graph_size
from dsa_fast.deploy.embedding_network import EmbeddingNetwork, fold_batch_norms
from dsa_fast.deploy.encoder import Encoder, openvino_precision
from dsa_fast.deploy.export import NamedImages, export
from dsa_fast.deploy.image_batch import chunks
from dsa_fast.deploy.parity import cosines
from dsa_fast.deploy.sidecar import BatchRange, InputSpec, Sidecar, parse_sidecar, read_sidecar, sidecar_path
from dsa_fast.deploy.tensorrt import Engine, build_engine, check_fits
from dsa_fast.deploy.triton import write_repository
from dsa_fast.files import checksum
from dsa_fast.models import ModelConfig, load_model
from tests.deploy.deployed import SIZE, SMALL, as_arrays, save_checkpoint, smooth_images

pytestmark = pytest.mark.xdist_group("deploy")

BATCH = BatchRange(1, 4, 8)
IMAGES = NamedImages(smooth_images(12), "patches")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("deploy")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return save_checkpoint(folder / "small.ckpt")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, folder: Path) -> Callable[..., Path]:
    """Exports once for each kind, and gives the file; an engine is in bf16, the full-size ones are in the others."""
    made: dict[tuple[str, str], Path] = {}

    def get(precision: str = "", format: str = "onnx") -> Path:
        precision = precision or ("fp32" if format == "onnx" else "bf16")
        key = precision, format
        if key not in made:
            out = folder / f"{precision}-{format}{'.onnx' if format == 'onnx' else '.engine'}"
            options: Any = {"precision": precision, "format": format, "batch": BATCH}
            if precision == "int8":
                options["calibration"] = NamedImages(smooth_images(16, seed=3), "patches")
            export(checkpoint, out, images=IMAGES, **options)
            made[key] = out
        return made[key]

    return get


def reference(checkpoint: Path, images: Tensor) -> Tensor:
    """The checkpoint's vectors, scaled to length 1."""
    loaded = load_model(checkpoint)
    return nn.functional.normalize(loaded.model.embed(normalize(resize(images, loaded.size))), dim=1)


# The network


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, branches="global"),
        replace(SMALL, branches="local", dsag=False),
        replace(SMALL, kind="baseline"),
        replace(SMALL, backbone="resnet50"),
        replace(SMALL, pooling="parts", bnneck=True),
    ],
)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_the_network_gives_the_models_vectors_at_length_1(config: ModelConfig, layout: Any, tmp_path: Path) -> None:
    model = load_model(save_checkpoint(tmp_path / "x.ckpt", config)).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = EmbeddingNetwork(model, layout=layout)
    images = smooth_images(3)
    got = network(images.permute(0, 2, 3, 1) if layout == "NHWC" else images)
    expected = model.embed(images)
    halves = sum(dim > 0 for dim in model.embed_dims)
    torch.testing.assert_close(got, expected / halves**0.5, atol=2e-5, rtol=1e-3)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(3))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_batch_norm_without_a_convolution_is_refused() -> None:
    with pytest.raises(ValueError, match="convolution before each batch norm"):
        fold_batch_norms(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4)))


# Sidecars


def test_batch_ranges() -> None:
    assert BatchRange.parse("1,8,64") == BatchRange(1, 8, 64)
    assert BatchRange.parse("16") == BatchRange(16, 16, 16)
    for text in ("8,1,64", "0,1,2", "a,b,c", "1,2", ""):
        with pytest.raises(ValueError, match="batch must be"):
            BatchRange.parse(text)


def test_the_sidecar_holds_the_contract(exported: Callable[..., Path], checkpoint: Path) -> None:
    path = exported("fp32")
    data = json.loads(sidecar_path(path).read_text())
    assert data["format"] == "dsa_fast.artifact" and data["format_version"] == 1
    assert data["kind"] == "onnx" and data["file"] == path.name and data["bytes"] == path.stat().st_size
    assert data["input"]["dtype"] == "uint8" and data["input"]["layout"] == "NHWC"
    assert (data["input"]["height"], data["input"]["width"]) == SIZE and data["input"]["channels"] == "RGB"
    assert data["output"] == {"dim": 128, "name": "embeddings", "dtype": "float32", "normalized": True}
    assert data["batch"] == {"min": 1, "opt": 4, "max": 8} and data["precision"] == "fp32"
    assert data["model"]["class"] == "DSAReID" and len(data["model"]["checkpoint_sha256"]) == 64
    assert data["versions"]["torch"] == torch.__version__ and data["gpu"] is None
    assert set(data["parity"]["batches"]) == {"1", "4", "8"}
    assert read_sidecar(path).batch == BATCH


def damage(path: Path, what: str) -> None:
    """Damages an exported file, or its sidecar, as named by `what`."""
    description = sidecar_path(path)
    if what == "a byte":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif what == "cut short":
        path.write_bytes(path.read_bytes()[:-7])
    elif what == "no sidecar":
        description.unlink()
    elif what == "no JSON":
        description.write_text("{")
    else:
        data = json.loads(description.read_text())
        if what == "newer":
            data["format_version"] = 2
        elif what == "another format":
            data["format"] = "something"
        elif what == "incomplete":
            del data["output"]
        elif what == "float input":
            data["input"] |= {"dtype": "float32", "layout": "NHWC"}
        elif what == "other numbers":
            data["input"]["dtype"] = "float16"
        elif what == "wrong size":
            data["input"]["height"] = 96
        elif what == "wrong width":
            data["output"]["dim"] = 64
        description.write_text(json.dumps(data))


@pytest.mark.parametrize("format", ["onnx", "tensorrt-rtx"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("a byte", "must have the SHA-256"),
        ("cut short", "it is damaged"),
        ("no sidecar", "must have its sidecar"),
        ("no JSON", "must be the JSON sidecar"),
        ("newer", "format version 1, got 2"),
        ("another format", "format 'dsa_fast.artifact', got 'something'"),
        ("incomplete", "complete sidecar"),
        ("float input", "input.layout is 'NHWC'"),
        ("other numbers", "input.dtype is 'float16'"),
    ],
)
def test_what_does_not_fit_is_refused(
    exported: Callable[..., Path], format: str, what: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / exported(format=format).name
    for source in (exported(format=format), sidecar_path(exported(format=format))):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    damage(path, what)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Encoder.load(path)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("what", "name"), [("wrong size", "images"), ("wrong width", "embeddings")])
def test_a_file_that_is_not_its_sidecars_is_refused(
    exported: Callable[..., Path], backend: Any, what: str, name: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(exported().read_bytes())
    sidecar_path(path).write_bytes(sidecar_path(exported()).read_bytes())
    damage(path, what)
    with pytest.raises(ValueError, match=f"must have the tensor {name}"):
        Encoder.load(path, backend=backend)


def test_engines_say_what_differs_from_this_machine(exported: Callable[..., Path]) -> None:
    rtx = read_sidecar(exported(format="tensorrt-rtx"))
    version = rtx.versions["tensorrt_rtx"]
    gpu = {"name": "NVIDIA A", "compute_capability": "8.9"}
    check_fits(rtx, version, gpu)
    check_fits(replace(rtx, compute_capabilities=["8.6", "8.9"]), version, gpu)
    with pytest.raises(ValueError, match=f"built by tensorrt-rtx {version}, and 1.0 is installed"):
        check_fits(rtx, "1.0", gpu)
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        check_fits(rtx, version, None)
    with pytest.raises(ValueError, match="built for compute capability 8.6, and this GPU .* has 8.9"):
        check_fits(replace(rtx, compute_capabilities=["8.6"]), version, gpu)
    full = replace(rtx, kind="tensorrt", versions={"tensorrt": "10.1"}, gpu=gpu)
    check_fits(full, "10.1", gpu)
    with pytest.raises(ValueError, match="built on GPU NVIDIA A, and this one is NVIDIA B"):
        check_fits(full, "10.1", {"name": "NVIDIA B", "compute_capability": "8.9"})
    with pytest.raises(ValueError, match=r"compute capability 8\.9, and this one is 9\.0.*GPU NVIDIA A"):
        check_fits(full, "10.1", {"name": "NVIDIA H", "compute_capability": "9.0"})


# Export


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99999), ("fp16", 0.9999), ("bf16", 0.999), ("int8", 0.98)])
def test_onnx_agrees_with_the_checkpoint(
    exported: Callable[..., Path], checkpoint: Path, precision: str, least: float
) -> None:
    path = exported(precision)
    for figures in read_sidecar(path).parity["batches"].values():
        assert least <= figures["cosine_min"] <= figures["cosine_mean"] <= 1 + 1e-9
    images = smooth_images(20, seed=5)
    encoder = Encoder.load(path)
    vectors = torch.from_numpy(np.asarray(encoder(as_arrays(images))))
    assert vectors.dtype == torch.float32 and vectors.shape == (20, 128)
    assert cosines(vectors, reference(checkpoint, images)).min() >= least
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(20), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("precision", "capabilities", "expected"),
    [
        ("fp16", ["FP32", "BF16", "INT8"], "fp32"),
        ("fp16", ["FP32", "BF16", "FP16"], "fp16"),
        ("bf16", ["FP32", "BF16"], "bf16"),
        ("int8", ["FP32", "BF16"], "bf16"),
        ("int8", ["FP32"], "fp32"),
        ("fp32", ["FP32", "BF16", "FP16"], "fp32"),
    ],
)
def test_openvino_never_replaces_fp16_by_bf16(precision: str, capabilities: list[str], expected: str) -> None:
    assert openvino_precision(precision, capabilities) == expected


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_encoder_says_which_precision_openvino_computes_in(exported: Callable[..., Path], precision: str) -> None:
    encoder = Encoder.load(exported(precision), backend="openvino")
    assert encoder.precision in (precision, "fp32")
    nodes = [node.get_rt_info() for node in encoder._run._model.get_runtime_model().get_ops()]  # type: ignore[union-attr]
    kinds = {node["runtimePrecision"].astype(str) for node in nodes if node["layerType"].astype(str) == "Convolution"}
    assert kinds == {{"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[encoder.precision]}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_the_graph_is_typed_folded_and_dynamic(exported: Callable[..., Path], precision: str) -> None:
    model = onnx.load(str(exported(precision)))
    ops = Counter(node.op_type for node in model.graph.node)
    assert "BatchNormalization" not in ops and ops["Conv"] == 25
    (image,), (vector,) = model.graph.input, model.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert image.type.tensor_type.shape.dim[0].dim_param and vector.type.tensor_type.shape.dim[0].dim_param
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim[1:]] == [*SIZE, 3]
    assert vector.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    wanted = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}.get(
        precision, onnx.TensorProto.FLOAT
    )
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    biases = {weights[node.input[2]].data_type for node in convolutions}
    assert biases == {wanted}  # also in int8: TensorRT-RTX refuses quantized biases
    text = exported(precision).read_bytes()
    assert str(Path.cwd()).encode() not in text and b"site-packages" not in text
    if precision != "int8":
        assert {weights[node.input[1]].data_type for node in convolutions} == {wanted}
        return
    # OpenVINO computes a 1x1 convolution with a stride wrongly, now and then, unless its channels are multiples of 16.
    floats = [node for node in convolutions if node.input[1] in weights]
    assert [list(weights[node.input[1]].dims) for node in floats] == [[16, 8, 1, 1]]
    pairs = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(pairs) >= 2 * 24 - 4  # a weight and an input each; some share their input
    for node in pairs:
        assert weights[node.input[2]].data_type == onnx.TensorProto.INT8
        assert not onnx.numpy_helper.to_array(weights[node.input[2]]).any()


def test_a_failing_export_leaves_what_was_there(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "mf.onnx"
    with pytest.raises(ValueError, match="agree with the checkpoint to a cosine of 1.1"):
        export(checkpoint, out, images=IMAGES, batch=BATCH, least_cosine=1.1)
    assert list(tmp_path.iterdir()) == []
    export(checkpoint, out, images=IMAGES, batch=BATCH)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["mf.onnx", "mf.onnx.json"]
    with pytest.raises(ValueError, match="agree with the checkpoint"):
        export(checkpoint, out, images=IMAGES, batch=BATCH, least_cosine=1.1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "precision int8 needs calibration"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"format": "coreml"}, "format must be one of"),
        ({"out": "mf.bin"}, "out must end in .onnx"),
        ({"images": NamedImages(smooth_images(2, (32, 32)), "x")}, "must have the input's size"),
        ({"format": "tensorrt-rtx", "out": "x.engine", "compute_capabilities": ["3.0"]}, "must be among 7.5"),
    ],
)
def test_bad_options_of_an_export(checkpoint: Path, tmp_path: Path, options: Any, message: str) -> None:
    out = tmp_path / options.pop("out", "mf.onnx")
    with pytest.raises(ValueError, match=message):
        export(checkpoint, out, **{"images": IMAGES, "batch": BATCH, **options})
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_needs_its_library_or_its_gpu(checkpoint: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=r"pip install tensorrt|needs the GPU"):
        export(checkpoint, tmp_path / "x.engine", images=IMAGES, format="tensorrt")


# Engines, really built by TensorRT-RTX, which needs no GPU for it


def test_tensorrt_rtx_builds_engines(exported: Callable[..., Path]) -> None:
    path = exported(format="tensorrt-rtx")
    sidecar = read_sidecar(path)
    assert sidecar.kind == "tensorrt-rtx" and sidecar.precision == "bf16" and sidecar.batch == BATCH
    import tensorrt_rtx

    assert sidecar.versions["tensorrt_rtx"] == tensorrt_rtx.__version__ and sidecar.gpu is None
    assert path.stat().st_size > 10_000
    if not torch.cuda.is_available():
        assert "no GPU" in sidecar.parity["reason"] and sidecar.parity["batches"]
        with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
            Encoder.load(path)


@pytest.mark.xdist_group("full size")
def test_a_full_size_network_becomes_engines(folder: Path) -> None:
    size = (256, 128)
    path = save_checkpoint(folder / "full.ckpt", ModelConfig(pretrained=None, dsag=False), size)
    images, sizes = NamedImages(smooth_images(2, size), "patches"), {}
    for precision in ("fp16", "int8"):
        # Random weights give all images almost the same vector, so the limit between them would be very strict.
        extra = {"calibration": images, "least_cosine": 0.95} if precision == "int8" else {}
        options: Any = {"precision": precision, "format": "tensorrt-rtx", "batch": BatchRange(1, 1, 2), **extra}
        sidecar = export(path, folder / f"full-{precision}.engine", images=images, **options)
        assert sidecar.output.dim == 4096 and sidecar.model["parameters"] > 27e6
        assert sidecar.parity["batches"]["1"]["cosine_min"] > {"fp16": 0.999, "int8": 0.95}[precision]
        assert read_sidecar(folder / f"full-{precision}.engine") == sidecar
        sizes[precision] = sidecar.bytes
    assert sizes["int8"] < 0.7 * sizes["fp16"] < 0.4 * 4 * sidecar.model["parameters"]  # weights in that precision


@pytest.mark.xdist_group("demo")
def test_the_demos_checkpoint_is_exported(tmp_path: Path) -> None:
    """DSA_FAST_DEMO names the folder of a finished `dsa-fast demo`."""
    demo = os.environ.get("DSA_FAST_DEMO")
    if not demo:
        pytest.skip("DSA_FAST_DEMO names no folder of a finished demo")
    trained, people = Path(demo) / "run" / "checkpoints" / "last.ckpt", Path(demo) / "people"
    for precision, least in {"fp32": 0.99999, "int8": 0.99}.items():
        out = tmp_path / f"{precision}.engine"
        options = ["--format", "tensorrt-rtx", "--precision", precision, "--out", str(out), "--batch", "1,2,16"]
        options += ["--root", str(people), "--workers", "0"] if precision == "int8" else []
        options += ["--images", str(people / "query")] if precision != "int8" else []
        assert main(["export", str(trained), *options]) == 0
        sidecar = read_sidecar(out)
        assert (sidecar.kind, sidecar.precision, sidecar.output.dim) == ("tensorrt-rtx", precision, 256)
        assert sidecar.model["checkpoint_sha256"] == checksum(trained)
        assert set(sidecar.parity["batches"]) == {"1", "2", "16"}
        assert all(figures["cosine_min"] >= least for figures in sidecar.parity["batches"].values())
    assert abs(sidecar.parity["scores"]["mAP_change"]) <= 0.005  # in int8


def test_the_path_of_tensorrt_itself_is_the_shared_one(
    exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tensorrt` has the same API; here TensorRT-RTX takes its place, timing cache and all."""
    monkeypatch.setitem(trt_module._MODULES, "tensorrt", "tensorrt_rtx")
    sidecar = read_sidecar(exported("fp16"))
    kept = tmp_path / "x.timing"
    for _ in range(2):
        with pytest.warns(DeprecationWarning, match="no-ops"):  # TensorRT-RTX keeps no timings
            plan = build_engine(exported("fp16"), sidecar.input, BATCH, kind="tensorrt", timing_cache=kept)
        assert len(plan) > 10_000 and kept.is_file()
    with pytest.raises(ValueError, match="only for tensorrt-rtx"):
        build_engine(exported("fp16"), sidecar.input, BATCH, kind="tensorrt", compute_capabilities=["8.9"])


def test_tensorrt_rtx_says_why_an_engine_is_not_valid() -> None:
    import tensorrt_rtx

    runtime = tensorrt_rtx.Runtime(trt_module.make_logger(tensorrt_rtx))
    assert "MALFORMED_ENGINE" in trt_module.diagnose(tensorrt_rtx, runtime, b"no engine" * 100)


def test_what_tensorrt_cannot_read_is_told(exported: Callable[..., Path], tmp_path: Path) -> None:
    broken = tmp_path / "x.onnx"
    broken.write_bytes(b"no network")
    with pytest.raises(ValueError, match="must be able to read x.onnx, got: "):
        build_engine(broken, read_sidecar(exported()).input, BATCH, kind="tensorrt-rtx")


# Encoders


@pytest.fixture(scope="module")
def encoders(exported: Callable[..., Path], checkpoint: Path) -> dict[str, Encoder]:
    return {
        "torch": Encoder.load(checkpoint, device="cpu"),
        "onnxruntime": Encoder.load(exported(), device="cpu", backend="onnxruntime"),
        "openvino": Encoder.load(exported(), device="cpu", backend="openvino"),
    }


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_every_form_of_images_gives_the_same_vectors(
    encoders: dict[str, Encoder], checkpoint: Path, backend: str, tmp_path: Path
) -> None:
    encoder = encoders[backend]
    images = smooth_images(5, (80, 44))
    arrays = as_arrays(images)
    expected = reference(checkpoint, images).numpy()
    close: Any = {"atol": 2e-5, "rtol": 1e-3}
    got = encoder(arrays)
    assert isinstance(got, np.ndarray) and got.dtype == np.float32
    np.testing.assert_allclose(got, expected, **close)
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path, array in zip(paths, arrays, strict=True):
        Image.fromarray(array).save(path)
    for many in (list(arrays), [Image.fromarray(array) for array in arrays], paths, [str(path) for path in paths]):
        np.testing.assert_array_equal(encoder(many), got)
    for tensors in (images, list(images), images.contiguous(memory_format=torch.channels_last)):
        vectors = encoder(tensors)
        assert isinstance(vectors, Tensor)
        np.testing.assert_array_equal(vectors.numpy(), got)
    for one in (arrays[2], Image.fromarray(arrays[2]), paths[2]):
        vector = encoder(one)
        assert vector.shape == (encoder.dim,)
        np.testing.assert_allclose(vector, expected[2], **close)
    assert encoder(images[2]).shape == (encoder.dim,)
    read_only = arrays.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(encoder(read_only), got)
    np.testing.assert_array_equal(encoder(np.ascontiguousarray(arrays[..., ::-1])[..., ::-1]), got)
    for bgr in (arrays[..., ::-1], list(arrays[..., ::-1]), [Image.fromarray(arrays[0]), *arrays[1:, :, :, ::-1]]):
        np.testing.assert_array_equal(encoder(bgr, channels="BGR"), got)
    np.testing.assert_array_equal(encoder(images.flip(1), channels="BGR").numpy(), got)
    with pytest.raises(ValueError, match="channels must be RGB or BGR, got 'GBR'"):
        encoder(arrays, channels="GBR")  # type: ignore[arg-type]
    for empty in ([], (), arrays[:0], images[:0]):  # a frame without people
        nothing = encoder(empty)
        assert nothing.shape == (0, encoder.dim)
        assert isinstance(nothing, Tensor if isinstance(empty, Tensor) else np.ndarray)
    gray, clear = Image.fromarray(arrays[0]).convert("L"), Image.fromarray(arrays[0]).convert("RGBA")
    np.testing.assert_array_equal(encoder([gray, clear]), encoder([gray.convert("RGB"), clear.convert("RGB")]))


@pytest.mark.parametrize(("precision", "input"), [("fp32", "float"), ("int8", "float"), ("fp32", "float01")])
def test_a_float_input_is_what_trackers_pass(
    exported: Callable[..., Path], checkpoint: Path, precision: Any, input: Any, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    path = tmp_path / "float.onnx"
    images = NamedImages(smooth_images(8), "patches")
    sidecar = export(checkpoint, path, images=images, precision=precision, input=input, calibration=images)
    assert (sidecar.input.dtype, sidecar.input.layout) == ("float32", "NCHW") and sidecar.output.normalized
    # The file says by itself what it takes.
    about = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert about["input.height"] == "64" and about["input.width"] == "32" and about["input.channels"] == "RGB"
    normalization = ("(value / 255 - mean) / std", "0.485, 0.456, 0.406")
    if input == "float01":
        normalization = ("value / 255", "0.0, 0.0, 0.0")
    assert (about["input.normalization"], about["input.mean"]) == normalization
    assert about["output.normalized"].startswith("true") and about["output.dim"] == str(sidecar.output.dim)
    # As a tracker does it, in its own words.
    blobs = as_arrays(images.images).astype(np.float32) / 255
    if input == "float":
        blobs = (blobs - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    blobs = blobs.transpose(0, 3, 1, 2).astype(np.float32)
    (theirs,) = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"images": blobs})
    assert isinstance(theirs, np.ndarray)
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-5)
    least = {"fp32": 0.99999, "int8": 0.98}[precision]
    for backend in ("onnxruntime", "openvino"):
        ours = np.asarray(Encoder.load(path, device="cpu", backend=backend)(as_arrays(images.images)))
        assert (ours * theirs).sum(axis=1).min() > {"fp32": 0.999999, "int8": 0.98}[precision]
        assert (ours * reference(checkpoint, images.images).numpy()).sum(axis=1).min() > least
    plain = {item.key: item.value for item in onnx.load(exported()).metadata_props}
    assert plain["input.dtype"] == "uint8" and plain["input.layout"] == "NHWC"
    with pytest.raises(ValueError, match="layout must be NCHW for a float input, got NHWC"):
        export(checkpoint, path, images=images, input=input, layout="NHWC")


def test_images_of_all_sizes_go_together(encoders: dict[str, Encoder], checkpoint: Path) -> None:
    images = [smooth_images(1, size, seed=i)[0] for i, size in enumerate([(64, 32), (100, 50), (31, 77), SIZE])]
    got = encoders["onnxruntime"]([as_arrays(image[None])[0] for image in images])
    expected = torch.cat([reference(checkpoint, image[None]) for image in images])
    np.testing.assert_allclose(got, expected.numpy(), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_large_batches_are_split(encoders: dict[str, Encoder], checkpoint: Path, backend: str) -> None:
    images = smooth_images(35)
    got = encoders[backend](images)
    torch.testing.assert_close(got, reference(checkpoint, images), atol=2e-5, rtol=1e-3)


def test_batches_below_the_least_are_padded(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "mf.onnx"
    sidecar = export(checkpoint, out, images=IMAGES, batch=BatchRange(4, 4, 6), layout="NCHW")
    assert set(sidecar.parity["batches"]) == {"4", "6"}
    encoder = Encoder.load(out)
    for count in (1, 6, 7, 13):
        images = smooth_images(count)
        torch.testing.assert_close(encoder(images), reference(checkpoint, images), atol=2e-5, rtol=1e-3)
    with pytest.raises(ValueError, match="with B in 4..6"):
        encoder.embed_batch(smooth_images(3))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), TypeError, "images must be uint8"),
        (torch.zeros(3, 4, 4), TypeError, "images must be uint8"),
        (np.zeros((3, 4, 4), np.uint8), ValueError, r"\[H, W, 3\]"),
        (np.zeros((1, 0, 4, 3), np.uint8), ValueError, r"\[B, H, W, 3\]"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), ValueError, r"\[3, H, W\]"),
        (7, TypeError, "got int"),
        ([np.zeros((4, 4, 3), np.uint8), 7], TypeError, r"images\[1\]"),
        ([np.zeros((4, 4), np.uint8)], TypeError, r"images\[0\]"),
        (["missing.png"], ValueError, r"images\[0\]: missing.png"),
    ],
)
def test_bad_images(encoders: dict[str, Encoder], images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        encoders["onnxruntime"](images)


def test_bad_options_of_an_encoder(exported: Callable[..., Path], checkpoint: Path, tmp_path: Path) -> None:
    path = exported()
    for options, message in [
        ({"backend": "caffe"}, "backend must be one of"),
        ({"backend": "tensorrt"}, "backend must be onnxruntime or openvino"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"precision": "bf16", "backend": "onnxruntime"}, "precision must be the file's own"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"compile": True}, "compile is for checkpoints"),
        ({"device": "tpu"}, "device must be auto"),
    ]:
        with pytest.raises(ValueError, match=message):
            Encoder.load(path, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="run dsa-fast export first"):
        Encoder.load(checkpoint, backend="openvino")
    with pytest.raises(ValueError, match="ONNX Runtime can't run on a CPU"):
        Encoder.load(exported("bf16"), backend="onnxruntime", device="cpu")
    with pytest.raises(FileNotFoundError, match="no such file"):
        Encoder.load(tmp_path / "none.onnx")
    assert "backend='torch'" in repr(Encoder.load(checkpoint, device="cpu"))
    assert dsa_fast.Encoder is Encoder


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_threads_share_an_encoder(encoders: dict[str, Encoder], backend: str) -> None:
    encoder, images = encoders[backend], [smooth_images(3, seed=seed) for seed in range(6)]
    expected = [encoder(each) for each in images]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            if not torch.allclose(encoder(images[number]), expected[number], atol=1e-6):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# A GPU's part, with stand-ins for torch.cuda and TensorRT


@settings(deadline=None)
@given(st.integers(0, 500), st.integers(1, 64))
def test_chunks_cover_all_in_order(count: int, most: int) -> None:
    pieces = chunks(count, most)
    assert [i for start, stop in pieces for i in range(start, stop)] == list(range(count))
    assert all(0 < stop - start <= most for start, stop in pieces)


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 64), st.integers(0, 100))
def test_graph_sizes_hold_the_batch_and_fit_the_profile(count: int, least: int, more: int) -> None:
    batch = BatchRange(least, least, least + more)
    size = graph_size(count, batch)
    if size is None:
        assert all(other < max(count, least) or other > batch.max for other in GRAPH_SIZES)
    else:
        assert max(count, least) <= size <= batch.max
        assert size < 2 * max(count, least) or size == 1


class FakeCuda:
    """Stands in for torch.cuda on the CPU: enqueued work runs at once, captured work at each replay."""

    def __init__(self) -> None:
        self.recording: list[Callable[[], None]] | None = None
        self.captures = self.replays = self.waits = 0
        cuda = self

        class Stream:
            cuda_stream = 7

            def __init__(self, device: object = None) -> None: ...

            def wait_stream(self, other: object) -> None:
                cuda.waits += 1

            def wait_event(self, event: Any) -> None:
                assert event.recorded

            def synchronize(self) -> None: ...

        class Event:
            recorded = False

            def record(self, stream: object) -> None:
                self.recorded = True

            def synchronize(self) -> None:
                assert self.recorded

        class CUDAGraph:
            def __init__(self) -> None:
                self.work: list[Callable[[], None]] = []

            def replay(self) -> None:
                cuda.replays += 1
                for each in self.work:
                    each()

        self.Stream, self.Event, self.CUDAGraph = Stream, Event, CUDAGraph
        self.device = self.stream = lambda which: contextlib.nullcontext()
        self.caller = Stream()

    def current_stream(self, device: object) -> Any:
        return self.caller

    @contextlib.contextmanager
    def graph(self, graph: Any, *, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert self.recording is None and capture_error_mode == "thread_local"
        self.captures += 1
        self.recording = graph.work
        yield
        self.recording = None

    def enqueue(self, work: Callable[[], None]) -> None:
        if self.recording is None:
            work()
        else:
            self.recording.append(work)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None)
    return FakeCuda()


def make_runner(cuda: FakeCuda, batch: BatchRange, graphs: bool, seen: list[int], dim: int = 6) -> CudaRunner:
    """Its vectors are sums over rows of pixels, so that each belongs to its image."""

    def session() -> Enqueue:
        def enqueue(images: Tensor, out: Tensor, stream: int) -> None:
            assert stream == 7 and batch.min <= len(images) <= batch.max and images.is_contiguous()
            seen.append(len(images))

            def work() -> None:
                out.copy_(vectors_of(images, dim))

            cuda.enqueue(work)

        return enqueue

    return CudaRunner(session, InputSpec(4, dim), dim, batch, torch.device("cpu"), graphs=graphs, cuda=cuda, pin=False)


def vectors_of(images: Tensor, dim: int = 6) -> Tensor:
    """uint8 [B, 4, dim, 3] -> [B, dim]."""
    return images.float().sum(dim=(1, 3)) @ torch.diag(torch.arange(1.0, dim + 1))


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (count, 4, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("batch", [BatchRange(1, 4, 16), BatchRange(5, 8, 20), BatchRange(1, 64, 300)])
def test_a_gpus_batches_from_the_device_and_the_host(cuda: FakeCuda, batch: BatchRange, graphs: bool) -> None:
    seen: list[int] = []
    runner = make_runner(cuda, batch, graphs, seen)
    for count in (1, 2, 5, 16, 17, 64, 65, 150, 301, 3):
        images = noise(count, count)
        torch.testing.assert_close(runner.from_device(images), vectors_of(images))

        def fill(start: int, stop: int, buffer: Tensor, images: Tensor = images) -> None:
            assert len(buffer) == stop - start
            buffer.copy_(images[start:stop])

        torch.testing.assert_close(runner.from_host(count, fill), vectors_of(images))
    assert max(seen) <= batch.max and min(seen) >= batch.min
    assert (cuda.captures > 0) == graphs and cuda.waits == 2 * 10


def test_a_graph_is_captured_once_and_replayed(cuda: FakeCuda) -> None:
    seen: list[int] = []
    runner = make_runner(cuda, BatchRange(1, 8, 16), True, seen)
    for count in (8, 8, 7, 8, 7):
        images = noise(count, count)
        torch.testing.assert_close(runner.from_device(images), vectors_of(images))
    assert (cuda.captures, cuda.replays) == (1, 5) and set(seen) == {8}
    runner.from_device(noise(3))
    assert (cuda.captures, cuda.replays) == (2, 6)


def test_large_batches_are_read_where_they_lie(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_module, "_ALIGNMENT", 64)  # as memory on the CPU is
    addresses: list[int] = []

    def session() -> Enqueue:
        def enqueue(images: Tensor, out: Tensor, stream: int) -> None:
            addresses.append(images.data_ptr())
            out.copy_(images.flatten(1)[:, :64])

        return enqueue

    spec, batch = InputSpec(8, 32), BatchRange(1, 8, 100)
    runner = CudaRunner(session, spec, 64, batch, torch.device("cpu"), cuda=cuda, pin=False)
    storage = torch.randint(0, 256, (200 * 8 * 32 * 3 + 1,), dtype=torch.uint8)
    images = storage[:-1].view(200, 8, 32, 3)
    torch.testing.assert_close(runner.from_device(images), images.flatten(1)[:, :64].float())
    assert addresses == [images.data_ptr(), images[100:].data_ptr()]
    addresses.clear()
    shifted = storage[1:].view(200, 8, 32, 3)  # where TensorRT must not read
    torch.testing.assert_close(runner.from_device(shifted), shifted.flatten(1)[:, :64].float())
    assert len(addresses) == 2 and not {shifted.data_ptr(), shifted[100:].data_ptr()} & set(addresses)


def test_an_image_that_cannot_be_read_leaves_the_runner_usable(cuda: FakeCuda) -> None:
    runner = make_runner(cuda, BatchRange(1, 8, 16), True, [])
    images = noise(150)

    def fill(start: int, stop: int, buffer: Tensor) -> None:
        if start >= 48:
            raise ValueError("images[48] is bad")
        buffer.copy_(images[start:stop])

    with pytest.raises(ValueError, match="is bad"):
        runner.from_host(150, fill)

    def good(start: int, stop: int, buffer: Tensor) -> None:
        buffer.copy_(images[start:stop])

    got = runner.from_host(20, good)
    torch.testing.assert_close(got, vectors_of(images[:20]))


def test_threads_take_turns_on_a_gpu(cuda: FakeCuda) -> None:
    inside: list[int] = []

    def session() -> Enqueue:
        def enqueue(images: Tensor, out: Tensor, stream: int) -> None:
            inside.append(1)
            assert len(inside) == 1, "two threads at once"
            out.copy_(vectors_of(images))
            inside.pop()

        return enqueue

    runner = CudaRunner(
        session, InputSpec(4, 6), 6, BatchRange(1, 8, 8), torch.device("cpu"), graphs=False, cuda=cuda, pin=False
    )
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(20):
            images = noise(11, seed)
            if not torch.equal(runner.from_device(images), vectors_of(images)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class FakeTensorRT:
    """A `tensorrt` whose engines are means of pixels; it keeps the rules of the API and notes broken ones."""

    uint8, float32 = "uint8", "float32"

    def __init__(self, sidecar: Sidecar, version: str = "10.9") -> None:
        self.__version__, self.sidecar = version, sidecar
        self.contexts: list[Any] = []
        self.ILogger = type("ILogger", (), {"Severity": SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, INFO=2)})
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
        self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
        self.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=self.deserialize)

    def deserialize(self, plan: bytes) -> Any:
        return None if plan == b"of another version" else self

    # The engine
    num_io_tensors = 2
    device_memory_size_v2 = 1000

    def get_tensor_name(self, index: int) -> str:
        return (self.sidecar.input.name, self.sidecar.output.name)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.sidecar.input.shape(-1) if name == "images" else (-1, self.sidecar.output.dim)

    def get_tensor_dtype(self, name: str) -> str:
        return self.uint8 if name == "images" else self.float32

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        batch = self.sidecar.batch
        return [self.sidecar.input.shape(size) for size in (batch.min, batch.opt, batch.max)]

    def create_runtime_config(self) -> Any:
        def create_runtime_cache() -> Any:
            return SimpleNamespace(deserialize=lambda blob: True, serialize=lambda: b"kernels")

        return SimpleNamespace(
            set_execution_context_allocation_strategy=lambda strategy: None,
            create_runtime_cache=create_runtime_cache,
            set_runtime_cache=lambda cache: None,
        )

    def create_execution_context(self, strategy: Any) -> Any:
        context = FakeContext(self.sidecar)
        self.contexts.append((context, strategy))
        return context


class FakeContext:
    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar, self.shape, self.addresses, self.memory = sidecar, (0,), {}, 0

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= 1000
        self.memory = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        batch = self.sidecar.batch
        self.shape = shape
        return batch.min <= shape[0] <= batch.max and shape[1:] == self.sidecar.input.shape(1)[1:]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert self.memory
        pixels = int(np.prod(self.shape))
        source = np.frombuffer((ctypes.c_uint8 * pixels).from_address(self.addresses["images"]), np.uint8)
        count, dim = self.shape[0], self.sidecar.output.dim
        target = (ctypes.c_float * (count * dim)).from_address(self.addresses["embeddings"])
        vectors = np.frombuffer(target, np.float32).reshape(count, dim)
        vectors[:] = source.reshape(count, -1)[:, :dim]
        return True


@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt-rtx"])
def test_an_engine_runs_through_the_shared_api(
    exported: Callable[..., Path], cuda: FakeCuda, kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = {"name": "NVIDIA A", "compute_capability": "8.9"}
    key = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}[kind]
    sidecar = replace(read_sidecar(exported()), kind=kind, gpu=gpu, versions={key: "10.9"})
    fake = FakeTensorRT(sidecar)
    monkeypatch.setitem(sys.modules, key, fake)  # type: ignore[arg-type]
    monkeypatch.setattr(trt_module, "describe_gpu", lambda device=None: gpu)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    plan, cpu = tmp_path / "x.engine", torch.device("cpu")
    plan.write_bytes(b"plan")
    engine = Engine(plan, sidecar, cpu, runtime_cache=tmp_path / "x.engine.cache")
    dim = sidecar.output.dim
    runner = CudaRunner(engine.session, sidecar.input, dim, BATCH, cpu, graphs=False, cuda=cuda, pin=False)
    images = smooth_images(21).permute(0, 2, 3, 1).contiguous()
    torch.testing.assert_close(runner.from_device(images), images.view(21, -1)[:, :dim].float())
    engine.session()
    assert len({context.memory for context, _ in fake.contexts}) == 1, "contexts share one workspace"
    engine.save_runtime_cache()
    assert (tmp_path / "x.engine.cache").exists() == (kind == "tensorrt-rtx")
    with pytest.raises(ValueError, match="must fit the engine's profile"):
        engine.session()(images[:9], torch.empty(9, dim), 0)
    # What does not fit
    plan.write_bytes(b"of another version")
    with pytest.raises(ValueError, match="must load in"):
        Engine(plan, sidecar, cpu)
    plan.write_bytes(b"plan")
    for wrong, message in [
        (replace(sidecar, batch=BatchRange(1, 2, 8)), "batch profile 1,2,8, got 1,4,8"),
        (replace(sidecar, output=replace(sidecar.output, dim=7)), "embeddings must have shape"),
        (replace(sidecar, input=replace(sidecar.input, name="x")), "must have the tensors x, embeddings"),
        (replace(sidecar, versions={key: "9.0"}), "9.0, and 10.9 is installed"),
    ]:
        with pytest.raises(ValueError, match=message):
            Engine(plan, wrong, cpu)


# Triton


def test_a_triton_repository(exported: Callable[..., Path], tmp_path: Path) -> None:
    path = exported("fp16")
    folder = write_repository(path, tmp_path / "models", name="mf")
    assert (folder / "1" / "model.onnx").read_bytes() == path.read_bytes()
    assert parse_sidecar(folder / "1" / f"{path.name}.json").sha256 == read_sidecar(path).sha256
    text = (folder / "config.pbtxt").read_text()
    for line in (
        'name: "mf"',
        'backend: "onnxruntime"',
        "max_batch_size: 8",
        "dims: [ 64, 32, 3 ]",
        "data_type: TYPE_UINT8",
        "dims: [ 128 ]",
        "preferred_batch_size: [ 4, 8 ]",
    ):
        assert line in text
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")
    write_repository(path, tmp_path / "models", name="mf")  # once more, over the old one
    assert [each.name for each in (tmp_path / "models").iterdir()] == ["mf"]
    with pytest.raises(ValueError, match="for Triton, got tensorrt-rtx"):
        write_repository(exported(format="tensorrt-rtx"), tmp_path / "models")
    with pytest.raises(ValueError, match="name of a folder"):
        write_repository(path, tmp_path / "models", name="../mf")
    (tmp_path / "models" / "mine").mkdir()
    with pytest.raises(ValueError, match="model's folder or free"):
        write_repository(path, tmp_path / "models", name="mine")


def test_tritons_own_description_of_the_format_reads_it(exported: Callable[..., Path], tmp_path: Path) -> None:
    model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    folder = write_repository(exported(), tmp_path, name="mf")
    config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config.ModelConfig())
    assert config.max_batch_size == 8 and list(config.input[0].dims) == [*SIZE, 3]
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]


# The commands


@pytest.fixture(scope="module")
def people(folder: Path) -> Path:
    make_dataset(folder / "people", SynthConfig(identities=6, cameras=2, images_per_camera=2, height=64, width=32))
    return folder / "people"


def test_the_command_exports_checks_and_scores(
    checkpoint: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mf.onnx"
    options = ["--precision", "int8", "--batch", "1,2,4", "--out", str(out), "--root", str(people), "--workers", "0"]
    assert main(["export", str(checkpoint), *options, "--triton", str(tmp_path / "models")]) == 0
    text = capsys.readouterr().out
    assert "Cosine with the checkpoint" in text and "points" in text
    sidecar = read_sidecar(out)
    data = read_dataset(people)
    assert sidecar.calibration is not None and sidecar.calibration["images"] == len(data.train) // 4 * 4
    assert sidecar.parity["scores"]["queries"] == len(data.query)
    assert (tmp_path / "models" / "mf" / "config.pbtxt").is_file()
    assert main(["eval", str(out), str(people), "--workers", "0", "--json_out", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["mAP"] == pytest.approx(sidecar.parity["scores"]["mAP"])
    assert main(["eval", str(out), str(people), "--fused"]) == 1
    assert "fused needs a checkpoint" in capsys.readouterr().err


def test_the_command_says_what_was_not_checked(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mf.engine"
    options = ["--format", "tensorrt-rtx", "--precision", "fp16", "--batch", "1,2,4", "--out", str(out)]
    assert main(["export", str(checkpoint), *options, "--compute_capabilities", "8.9"]) == 0
    assert read_sidecar(out).compute_capabilities == ["8.9"]
    if not torch.cuda.is_available():
        assert "Not checked: the file itself" in capsys.readouterr().out
    for bad, message in [
        (["--precision", "int8"], "needs images like those of your application"),
        (["--calibrate", "x"], "are for precision int8"),
        (["--format", "tensorrt-rtx", "--triton", "x"], "Triton has no TensorRT-RTX"),
        (["--batch", "4,2,1"], "batch must be 1 <= min"),
    ]:
        assert main(["export", str(checkpoint), *bad]) == 1
        assert message in capsys.readouterr().err


def test_int8_may_be_tried_on_rendered_people(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "mf.onnx"
    options = ["--precision", "int8", "--synthetic_calibration", "--calibration_method", "percentile"]
    options += ["--calibration_images", "8", "--batch", "1,2,2", "--out", str(out)]
    assert main(["export", str(checkpoint), *options]) == 0
    assert read_sidecar(out).calibration == {"images": 8, "source": "rendered people", "method": "percentile"}
