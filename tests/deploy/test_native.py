"""The Python package dsa_fast_runtime: the same vectors and refusals as `dsa_fast.Encoder`, which uses it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dsa_fast.deploy import BatchRange, Encoder, NamedImages, export
from dsa_fast.deploy import encoder as encoder_module
from dsa_fast.deploy.encoder import unit
from dsa_fast.deploy.sidecar import sidecar_path
from tests.deploy.built_runtime import SOURCE, Built, built, make_engine, photo, write_sidecar
from tests.deploy.deployed import SIZE, as_arrays, save_checkpoint, smooth_images

__all__ = ["built"]  # a fixture

pytestmark = [
    pytest.mark.skipif(not (SOURCE / "csrc").exists(), reason="the sources are not here"),
    pytest.mark.xdist_group("runtime"),
]


@pytest.fixture(scope="module")
def runtime(built: Built) -> Iterator[ModuleType]:
    """The package, on the path only during these tests: all others run without it."""
    sys.path.insert(0, str(built.packages))
    import dsa_fast_runtime

    yield dsa_fast_runtime
    sys.path.remove(str(built.packages))
    for name in [name for name in sys.modules if name.startswith("dsa_fast_runtime")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Exports the small network: fp32, int8, NCHW or float."""
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = save_checkpoint(folder / "x.ckpt")
    options: dict[str, dict[str, Any]] = {
        "fp32": {},
        "int8": {"precision": "int8", "calibration": NamedImages(smooth_images(8), "patches")},
        "NCHW": {"layout": "NCHW"},
        "float": {"input": "float"},
        "float01": {"input": "float01"},
        "large batches": {"batch": BatchRange(4, 8, 80)},
    }

    def make(what: str) -> Path:
        path = folder / f"{what}.onnx"
        if not path.exists():
            export(checkpoint, path, images=NamedImages(smooth_images(8), "patches"), **options[what])
        return path

    return make


def without_runtime(path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Encoder:
    with monkeypatch.context() as context:
        context.setattr(encoder_module, "find_runtime", lambda: None)
        encoder = Encoder.load(path, device="cpu", backend="openvino", **options)
    assert not encoder.native
    return encoder


@pytest.mark.parametrize("what", ["fp32", "int8", "NCHW", "float", "float01", "large batches"])
def test_the_vectors_are_the_encoders_bit_for_bit(
    runtime: ModuleType, exported: Callable[[str], Path], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported(what)
    plain = without_runtime(path, monkeypatch, threads=1)
    native = runtime.Encoder(path, threads=1)
    using = Encoder.load(path, device="cpu", threads=1)
    assert using.native and using.backend == native.backend == plain.backend == "openvino"
    assert native.precision == using.precision == plain.precision
    assert (native.size, native.dim, native.run_batch) == (SIZE, plain.dim, 32)
    assert native.sidecar["sha256"] == using.sidecar.sha256  # type: ignore[union-attr]
    arrays = as_arrays(smooth_images(70))
    for images in (arrays, arrays[:1], arrays[:33], list(arrays[:3]), arrays[5], arrays[:0]):
        expected = plain(images)
        np.testing.assert_array_equal(native(images), expected)
        np.testing.assert_array_equal(using(images), expected)
    np.testing.assert_array_equal(native([]), plain([]))
    # Of other sizes, too, the two that resize with the same code agree.
    odd = as_arrays(smooth_images(5, (90, 41)))
    np.testing.assert_array_equal(using(odd), native(odd))
    assert np.asarray(using(odd) * plain(odd)).sum(axis=1).min() > 0.9999


def test_every_form_of_images_gives_the_same_vectors(
    runtime: ModuleType, exported: Callable[[str], Path], tmp_path: Path
) -> None:
    native, using = runtime.Encoder(exported("fp32"), threads=1), Encoder.load(exported("fp32"), threads=1)
    sizes = [(64, 32), (80, 44), (30, 70), (64, 33)]
    images = [np.asarray(photo(*size, seed=i)) for i, size in enumerate(sizes)]
    expected = native(images)
    files, orientation = [], Image.Exif()
    for i, image in enumerate(images):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image).save(files[-1])
    turned = Image.fromarray(images[0]).transpose(Image.Transpose.ROTATE_90)
    orientation[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=orientation)
    forms: list[Any] = [tuple(images), files, [str(path) for path in files], [path.read_bytes() for path in files]]
    forms.append([memoryview(path.read_bytes()) for path in files])
    forms.append([images[0], files[1], bytearray(files[2].read_bytes()), memoryview(images[3])])
    forms.append([np.asfortranarray(image) for image in images])
    for form in forms:
        np.testing.assert_array_equal(native(form), expected)
    bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    np.testing.assert_array_equal(native(bgr, channels="BGR"), expected)
    np.testing.assert_array_equal(native([bgr[0], *files[1:]], channels="BGR"), expected)
    assert np.abs(native(bgr) - expected).max() > 0.01
    np.testing.assert_array_equal(native([image[..., ::-1] for image in bgr]), expected)
    np.testing.assert_array_equal(native(files[0]), native(images[0]))
    assert native(tmp_path / "turned.png") @ expected[0] > 0.9999
    tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images]
    pictures = [Image.fromarray(image) for image in images]
    for form in (images, files, pictures, tensors):
        got = using(form)
        assert isinstance(got, torch.Tensor if form is tensors else np.ndarray)
        np.testing.assert_array_equal(np.asarray(got), expected)
    np.testing.assert_array_equal(
        np.asarray(using(torch.stack([tensors[0]] * 40)))[7], native(np.stack([images[0]] * 8))[7]
    )


def test_a_fresh_process_needs_no_torch(built: Built, exported: Callable[[str], Path]) -> None:
    code = (
        "import json, sys\n"
        "sys.modules['torch'] = sys.modules['dsa_fast'] = None\n"
        "from dsa_fast_runtime import Encoder\n"
        f"encoder = Encoder({str(exported('fp32'))!r})\n"
        "import numpy\n"
        f"vectors = encoder(numpy.full((3, {SIZE[0]}, {SIZE[1]}, 3), 9, numpy.uint8))\n"
        "assert 'OpenVINO' in repr(encoder) and vectors.dtype == numpy.float32\n"
        "print(json.dumps([vectors.tolist(), sorted({name.partition('.')[0] for name in sys.modules})]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=built.packages, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    vectors, modules = json.loads(done.stdout)
    assert set(modules) & {"PIL", "openvino", "onnx", "pybind11", "setuptools"} == set()
    expected = Encoder.load(exported("fp32"), backend="onnxruntime")(np.full((3, *SIZE, 3), 9, np.uint8))
    np.testing.assert_allclose(vectors, np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize("kinds", [["native"] * 2, ["python"] * 2, ["native", "python"]])
def test_signals_are_survived(kinds: list[str], built: Built, exported: Callable[[str], Path]) -> None:
    """OpenVINO frees the signal stack that it gave a thread, see `_openvino_core`."""
    code = (
        "import faulthandler, gc, os, signal, sys\n"
        "import dsa_fast.deploy.encoder as module\n"
        "import dsa_fast_runtime\n"
        "module.find_runtime = lambda: None\n"
        "faulthandler.enable()\n"
        "signal.signal(signal.SIGUSR1, lambda number, frame: print('a signal', flush=True))\n"
        f"path = {str(exported('fp32'))!r}\n"
        "load = {'native': dsa_fast_runtime.Encoder, 'python': lambda path: module.Encoder.load(path, "
        "device='cpu', backend='openvino')}\n"
        "encoders = [load[kind](path) for kind in sys.argv[1:]]\n"
        "while encoders:\n"
        "    encoders.pop(0)\n"
        "    gc.collect()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
        "print('done')"
    )
    paths = os.pathsep.join([str(built.packages), os.environ.get("PYTHONPATH", ""), str(SOURCE)])
    command = [sys.executable, "-c", code, *kinds]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "a signal\ndone\n", done.stderr


def test_threads_share_an_encoder(runtime: ModuleType, exported: Callable[[str], Path]) -> None:
    images = as_arrays(smooth_images(24, (70, 50)))
    parts = [images[i : i + 1 + i % 5] for i in range(20)]
    for threads in (1, 2, 8):
        encoder = runtime.Encoder(exported("fp32"), threads=threads)
        expected = [encoder(part) for part in parts]
        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(encoder, parts))
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_other_threads_run_meanwhile(runtime: ModuleType, exported: Callable[[str], Path]) -> None:
    encoder = runtime.Encoder(exported("fp32"), threads=1)
    images = [np.zeros((3000, 2000, 3), np.uint8)] * 6
    count, stop = 0, threading.Event()

    def work() -> None:
        nonlocal count
        while not stop.wait(0.001):
            count += 1

    other = threading.Thread(target=work)
    other.start()
    steps = []  # of each call: between calls, other threads always run
    while len(steps) < 5 and max(steps, default=0) <= 5:  # a loaded machine may wake the thread late
        before = count
        encoder(images)
        steps.append(count - before)
    stop.set()
    other.join()
    assert max(steps) > 5, steps


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    [
        *("a byte", "cut short", "no sidecar", "no file", "no JSON", "newer", "another format", "incomplete"),
        *("float NHWC", "another size", "another width", "another name", "no network", "int8 input", "BGR", "no batch"),
    ],
)
def test_both_refuse_the_same_files(runtime: ModuleType, what: str, tmp_path: Path) -> None:
    path = make_engine(tmp_path / "x.onnx")
    description = sidecar_path(path)
    data, sidecar = path.read_bytes(), json.loads(description.read_text())
    changes: dict[str, Any] = {
        "newer": {"format_version": 2},
        "another format": {"format": "x"},
        "incomplete": {"output": {}},
        "float NHWC": {"input": sidecar["input"] | {"dtype": "float32"}},
        "another size": {"input": sidecar["input"] | {"height": 96}},
        "another width": {"output": sidecar["output"] | {"dim": 31}},
        "another name": {"input": sidecar["input"] | {"name": "x"}},
        "int8 input": {"input": sidecar["input"] | {"dtype": "int8"}},
        "BGR": {"input": sidecar["input"] | {"channels": "BGR"}},
        "no batch": {"batch": {"min": 8, "opt": 4, "max": 2}},
    }
    if what == "a byte":
        path.write_bytes(data[:2000] + bytes([data[2000] ^ 1]) + data[2001:])
    elif what == "cut short":
        path.write_bytes(data[:-7])
    elif what == "no sidecar":
        description.unlink()
    elif what == "no file":
        path.unlink()
    elif what == "no JSON":
        description.write_text("{")
    elif what == "no network":
        path.write_bytes(b"no network at all")
        write_sidecar(path)
    else:
        description.write_text(json.dumps(sidecar | changes[what]))
    errors = []
    for load in (runtime.Encoder, Encoder.load):
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            load(path)
        errors.append(caught.type)
        assert "x.onnx" in str(caught.value)
    assert errors[0] is errors[1]


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), TypeError, "images must be uint8, in 0..255, got float32"),
        (np.zeros((3, 4, 4), np.uint8), ValueError, r"shape \[H, W, 3\] or \[B, H, W, 3\] as arrays, got \[3, 4, 4\]"),
        (np.zeros((4, 4), np.uint8), ValueError, r"got \[4, 4\]"),
        (np.zeros((1, 0, 4, 3), np.uint8), ValueError, r"got \[1, 0, 4, 3\]"),
        (7, TypeError, "got int"),
        (None, TypeError, "got NoneType"),
        ({}, TypeError, "got dict"),
        ([np.zeros((4, 4, 3), np.uint8), 7], TypeError, r"images\[1\]: .*got int"),
        ([np.zeros((4, 4), np.uint8)], (TypeError, ValueError), r"images\[0\]: "),
        ([np.zeros((2, 4, 4, 3), np.uint8)], (TypeError, ValueError), r"images\[0\]: "),
        (["missing.png"], ValueError, r"images\[0\]: .*missing.png"),
        ("missing.png", ValueError, "missing.png"),
    ],
    ids=range(12),
)
def test_both_refuse_the_same_images(
    runtime: ModuleType, exported: Callable[[str], Path], images: Any, error: Any, message: str
) -> None:
    for encoder in (runtime.Encoder(exported("fp32"), threads=1), Encoder.load(exported("fp32"))):
        with pytest.raises(error, match=message):
            encoder(images)


def test_files_in_memory_and_options(runtime: ModuleType, exported: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = runtime.Encoder(exported("fp32"))
    for data, reason in ((b"", "an empty file"), (b"GIF89a", "another format"), (b"\xff\xd8\xff\xe0", "")):
        with pytest.raises(ValueError, match=f"the buffer must be a readable JPEG or PNG image, got: {reason}"):
            encoder(data)
    buffer = io.BytesIO()
    photo(40, 30, 1).save(buffer, "JPEG")
    assert encoder(buffer.getvalue()).shape == (encoder.dim,)
    with pytest.raises(ValueError, match=r"images\[1\]: the buffer"):
        encoder([buffer.getvalue(), b"x"])
    with pytest.raises(ValueError, match="channels must be RGB or BGR, got 'GBR'"):
        encoder(buffer.getvalue(), channels="GBR")
    options: list[tuple[dict[str, Any], str]] = [
        ({"device": "cuda"}, "device must be cpu for an exported file of the kind onnx"),
        ({"device": "gpu"}, "device must be cpu, cuda or cuda:N, got gpu"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 65}, "batch must be in 1..64"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"precision": "int8"}, "precision must be fp32, fp16 or bf16, got int8"),
    ]
    for option, message in options:
        with pytest.raises(ValueError, match=message):
            runtime.Encoder(exported("fp32"), **option)
    engine = make_engine(tmp_path / "x.engine", kind="tensorrt")
    with pytest.raises(ValueError, match="this dsa_runtime was built without it"):
        runtime.Encoder(engine)
    assert runtime.available("onnx") and not runtime.available("tensorrt")


def test_verify_is_the_encoders(runtime: ModuleType, tmp_path: Path) -> None:
    path = make_engine(tmp_path / "x.onnx")
    a, b = as_arrays(smooth_images(2, (60, 30)))
    for encoder in (runtime.Encoder(path), Encoder.load(path)):
        with pytest.raises(ValueError, match=r"x.onnx must be calibrated .*: run dsa-fast calibrate"):
            encoder.verify(a, b)
    fitted = ({"kind": "isotonic", "cosine": [-1, 0.5, 1], "value": [0.01, 0.2, 0.99]},)
    for probability in (*fitted, {"kind": "logistic", "slope": 9.0, "offset": -5.0}):
        verification = {"data": "patches", "thresholds": {"0.01": 0.2, "0.001": 0.99999}, "probability": probability}
        write_sidecar(path, verification=verification)
        native, using = runtime.Encoder(path, threads=1), Encoder.load(path, threads=1)
        for fmr in (1e-2, 1e-3):
            one, other = native.verify(a, b, fmr=fmr), using.verify(a, b, fmr=fmr)
            assert vars(one) == pytest.approx(vars(other)) and one.data == "patches" and 0 < one.probability < 1
        assert native.verify(a, a, fmr=1e-2).same and not native.verify(a, b, fmr=1e-3).same
        for encoder in (native, using):
            with pytest.raises(ValueError, match=r"fmr must be one of the calibrated rates, 0.01, 0.001, got 0.5"):
                encoder.verify(a, b, fmr=0.5)
    for left_out in ("data", "thresholds", "probability"):
        damaged = {name: value for name, value in verification.items() if name != left_out}
        write_sidecar(path, verification=damaged)
        with pytest.raises(ValueError, match=rf"x.onnx.json must hold a calibration .*{left_out}"):
            runtime.Encoder(path).verify(a, b)
        with pytest.raises(ValueError, match=rf"x.onnx.json .*{left_out}"):
            Encoder.load(path)


class OnGpu:
    """An array that says it is on a GPU."""

    def __init__(self, shape: tuple[int, ...], typestr: str, **more: Any) -> None:
        self.__cuda_array_interface__ = {"shape": shape, "typestr": typestr, "data": (256, False), "version": 3, **more}


def test_arrays_on_a_gpu_are_checked(runtime: ModuleType, exported: Callable[[str], Path]) -> None:
    encoder = runtime.Encoder(exported("fp32"))
    shape, dim = (2, *SIZE, 3), encoder.dim
    good, out = OnGpu(shape, "|u1"), OnGpu((2, dim), "<f4")
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (np.zeros(shape, np.uint8), out, TypeError, "images must be an array on a GPU"),
        (OnGpu(shape, "<f4"), out, TypeError, r"images must be of the type \|u1, got <f4"),
        (OnGpu((2, 3, *SIZE), "|u1"), out, ValueError, "images must have shape"),
        (good, OnGpu((3, dim), "<f4"), ValueError, "out must have shape"),
        (good, OnGpu((2, dim), "<f4", data=(256, True)), ValueError, "out must be writable"),
        (good, OnGpu((2, dim), "<f4", strides=(8 * dim, 4)), ValueError, "out must be contiguous"),
        (good, out, ValueError, "enqueue needs an exported file that runs on a CUDA device"),
    ]
    for images, to, error, message in cases:
        with pytest.raises(error, match=message):
            encoder.enqueue(images, to)


def test_tensors_are_read_in_place(runtime: ModuleType, exported: Callable[[str], Path]) -> None:
    encoder = runtime.Encoder(exported("fp32"), threads=1)
    images = as_arrays(smooth_images(3)).copy()
    tensors = torch.from_numpy(images)
    expected = encoder(images)
    for form, bgr in ((tensors, False), (list(tensors), False), (tensors.flip(-1), True), (tensors.clone(), False)):
        np.testing.assert_array_equal(encoder(form, channels="BGR" if bgr else "RGB"), expected)
    # The way from PyTorch's [3, H, W], without a copy, and back.
    planes = tensors.permute(0, 3, 1, 2).contiguous()
    vectors = torch.from_dlpack(encoder(planes.permute(0, 2, 3, 1)))
    np.testing.assert_array_equal(vectors.numpy(), expected)
    assert encoder(tensors[1]).shape == (encoder.dim,)
    before = sys.getrefcount(tensors)
    for _ in range(50):
        encoder(tensors)
    assert sys.getrefcount(tensors) == before
    cases: list[tuple[Any, type[Exception], str]] = [
        (tensors.float(), TypeError, "images must be uint8, in 0..255, got float32"),
        (tensors.bfloat16(), TypeError, "images must be uint8, in 0..255, got Tensor"),
        (planes, ValueError, r"images must have shape \[H, W, 3\] or \[B, H, W, 3\] as arrays, got \[3, 3, 64, 32\]"),
        ([tensors[0], tensors], ValueError, r"images\[1\]: .*got \[3, 64, 32, 3\]"),
        (Capsule(tensors, 2), TypeError, "images must be in the host's memory, got Capsule on another device"),
    ]
    for wrong, error, message in cases:
        with pytest.raises(error, match=message):
            encoder(wrong)


class Capsule:
    """A tensor that says it is on another device. Notes the stream that it is asked for."""

    def __init__(self, tensor: torch.Tensor, device: int = 2) -> None:
        self.tensor, self.device = tensor, device
        self.streams: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, *, stream: int) -> Any:
        self.streams.append(stream)
        return self.tensor.__dlpack__()


def test_dlpack_arrays_on_a_gpu_are_checked(runtime: ModuleType, exported: Callable[[str], Path]) -> None:
    encoder = runtime.Encoder(exported("fp32"))
    shape, dim = (2, *SIZE, 3), encoder.dim
    good, out = Capsule(torch.zeros(shape, dtype=torch.uint8)), Capsule(torch.zeros(2, dim))
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (Capsule(good.tensor, 1), out, TypeError, "images must be an array on a GPU"),
        (Capsule(torch.zeros(shape)), out, TypeError, r"images must be of the type \|u1, got <f4"),
        (Capsule(good.tensor[:, :, 1:]), out, ValueError, "images must have shape"),
        (Capsule(good.tensor.flip(1).transpose(1, 2).contiguous().transpose(1, 2)), out, ValueError, "contiguous"),
        (good, Capsule(torch.zeros(2, dim, dtype=torch.int32)), TypeError, "out must be of the type <f4, got <i4"),
        (good, Capsule(torch.zeros(2, 2 * dim)[:, ::2]), ValueError, "out must be contiguous"),
        (good, out, ValueError, "enqueue needs an exported file that runs on a CUDA device"),
    ]
    for images, to, error, message in cases:
        with pytest.raises(error, match=message):
            encoder.enqueue(images, to)
    with pytest.raises(ValueError, match="runs on a CUDA device"):
        encoder.enqueue(good, out, stream=7)
    assert good.streams[-2:] == [1, 7] and out.streams[-1] == 7


def test_lengths_are_summed_in_order() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((3, 500)).astype(np.float32)
    for row, got in zip(vectors, unit(vectors), strict=True):
        squares = 0.0
        for value in row.tolist():
            squares += value * value
        np.testing.assert_array_equal(got, (row.astype(np.float64) / np.sqrt(squares)).astype(np.float32))
    np.testing.assert_array_equal(unit(vectors[1:2])[0], unit(vectors)[1])
