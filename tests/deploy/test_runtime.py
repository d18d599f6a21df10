"""The C++ runtime: its build, its package for CMake, and dsa_embed against ONNX Runtime, PyTorch and Pillow."""

from __future__ import annotations

import json
import shutil
import signal
import struct
import subprocess
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dsa_fast
from dsa_fast.cli import main
from dsa_fast.data.transforms import resize
from dsa_fast.image import read_image
from tests.deploy.built_runtime import (
    DIM,
    HEIGHT,
    SOURCE,
    WIDTH,
    Built,
    built,
    configure,
    make_engine,
    output,
    photo,
    run,
    tool,
    write_sidecar,
)
from tests.deploy.deployed import SIZE, SMALL, save_checkpoint

__all__ = ["built"]  # a fixture

CONSUMER = SOURCE / "tests" / "cpp" / "consumer"
pytestmark = [
    pytest.mark.skipif(not (SOURCE / "csrc").exists(), reason="the sources are not here"),
    pytest.mark.xdist_group("runtime"),
]


# ---- the build -----------------------------------------------------------------------------------------------------


def test_cpp_tests(built: Built) -> None:
    result = run(
        tool("ctest"), "--test-dir", built.build, "-R", "^(runtime|tensorrt|tensorrt_threads)$", "--output-on-failure"
    )
    assert result.returncode == 0 and "100% tests passed" in result.stdout, output(result)


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    without_png = "-DCMAKE_DISABLE_FIND_PACKAGE_PNG=ON"
    result = configure(tmp_path / "auto", without_png)
    assert result.returncode == 0, output(result)
    line = next(line for line in result.stdout.splitlines() if "the runtime is left out" in line)
    assert "libpng-dev" in line
    result = configure(tmp_path / "on", without_png, "-DDSA_FAST_RUNTIME=ON")
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert "the runtime cannot be built, but DSA_FAST_RUNTIME=ON requires it: libraries are missing" in message


@pytest.mark.parametrize("which", ["OPENVINO", "TENSORRT"])
def test_a_back_end_that_is_asked_for_must_be_there(built: Built, which: str, tmp_path: Path) -> None:
    options = {
        "OPENVINO": ["-DCMAKE_DISABLE_FIND_PACKAGE_OpenVINO=ON"],
        "TENSORRT": [f"-DTENSORRT_INCLUDE_DIR={tmp_path}", "-DTENSORRT_LIBRARY=TENSORRT_LIBRARY-NOTFOUND"],
    }[which]
    (tmp_path / "NvInferVersion.h").write_text("#define TRT_MAJOR_RTX 1\n")
    result = configure(tmp_path / "build", f"-DDSA_FAST_{which}=ON", *options)
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert f"cannot be built, but DSA_FAST_{which}=ON requires it: " in message
    if which == "OPENVINO":
        assert "OpenVINO was not found: pip install openvino, or set OpenVINO_DIR" in message
    else:
        assert f"the headers in {tmp_path} are TensorRT-RTX's; set TENSORRT_ROOT" in message


# ---- images --------------------------------------------------------------------------------------------------------


def test_resize_is_pytorch_s(built: Built) -> None:
    random = np.random.default_rng(0)
    cases = [
        (128, 64, 256, 128),
        (900, 400, 256, 128),
        (1, 1, 4, 3),
        (5, 9, 1, 1),
        (40, 30, 40, 30),
        (256, 10, 256, 128),
    ]
    # Not to a width of 1, of which this PyTorch makes something else than of a width of 2 with equal columns.
    cases += [tuple(int(side) for side in random.integers((1, 1, 1, 2), (300, 200, 300, 200))) for _ in range(80)]
    images = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w, _, _ in cases]
    data = b"".join(struct.pack("4i", *case) + image.tobytes() for case, image in zip(cases, images, strict=True))
    done = subprocess.run([built.probe, "resize"], input=data, capture_output=True, check=True)
    offset = different = 0
    for (_, _, height, width), image in zip(cases, images, strict=True):
        ours = np.frombuffer(done.stdout, np.uint8, height * width * 3, offset).reshape(height, width, 3)
        offset += ours.size
        theirs = resize(torch.from_numpy(image).permute(2, 0, 1)[None], (height, width))[0].permute(1, 2, 0).numpy()
        difference = np.abs(ours.astype(int) - theirs)
        assert difference.max() <= 1
        different += np.count_nonzero(difference)
    assert offset == len(done.stdout)
    # A sum that ends near a half may be rounded either way: by the processor's instructions, and by PyTorch's build.
    assert different <= 1e-4 * offset


def decode(built: Built, *paths: Path) -> tuple[list[np.ndarray | None], str]:
    done = subprocess.run([built.probe, "decode", *paths], capture_output=True, check=True)
    images: list[np.ndarray | None] = []
    offset = 0
    for _ in paths:
        height, width = struct.unpack_from("2i", done.stdout, offset)
        pixels = np.frombuffer(done.stdout, np.uint8, height * width * 3, offset + 8).reshape(height, width, 3)
        images.append(pixels if height else None)
        offset += 8 + pixels.size
    assert offset == len(done.stdout)
    return images, done.stderr.decode()


def test_decoding_is_pillow_s(built: Built, tmp_path: Path) -> None:
    image = photo(53, 37, 1)
    mask = Image.fromarray(np.random.default_rng(2).integers(0, 256, (53, 37), dtype=np.uint8))
    image.save(tmp_path / "420.jpg", quality=80)
    image.save(tmp_path / "422.jpg", quality=80, subsampling=1)
    image.save(tmp_path / "444.jpg", quality=95, subsampling=0)
    image.save(tmp_path / "progressive.jpg", progressive=True, quality=60)
    image.convert("L").save(tmp_path / "gray.jpg")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    for mode in ("RGB", "L", "1", "P", "LA", "RGBA"):
        converted = image.convert(mode)
        if mode in ("LA", "RGBA"):
            converted.putalpha(mask)
        converted.save(tmp_path / f"{mode}.png")
    image.quantize(7).save(tmp_path / "few.png", bits=4, transparency=1)
    shutil.copy(tmp_path / "RGB.png", tmp_path / "png.jpg")  # the content tells the format, not the name
    # All levels of 16-bit gray, with and without transparency.
    levels = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    Image.fromarray(levels).save(tmp_path / "deep_clear.png", transparency=77)
    paths = sorted(tmp_path.iterdir())
    images, errors = decode(built, *paths)
    assert errors == "" and len(paths) == 16
    for path, ours in zip(paths, images, strict=True):
        np.testing.assert_array_equal(ours, read_image(path).permute(1, 2, 0).numpy(), err_msg=path.name)


def exif_block(endian: str, orientation: int, kind: str = "H") -> bytes:
    """EXIF data as EXIF writes them: a TIFF header and one directory, here with one tag before the orientation."""
    number = {"H": 3, "I": 4}[kind]
    value = struct.pack(endian + kind, orientation).ljust(4, b"\0")
    tags = struct.pack(endian + "HHII", 0x010F, 2, 6, 38) + struct.pack(endian + "HHI", 0x0112, number, 1) + value
    header = (b"II" if endian == "<" else b"MM") + struct.pack(endian + "HIH", 42, 8, 2)
    return header + tags + bytes(4) + b"maker\0"


def add_exif(path: Path, *blocks: bytes, late: bool = False) -> None:
    """Puts APP1 markers behind a JPEG's start, or eXIf chunks before or behind a PNG's pixels."""
    data = path.read_bytes()
    if path.suffix == ".jpg":
        place, parts = 2, [b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block for block in blocks]
    else:
        place = len(data) - 12 if late else 33
        chunks = [b"eXIf" + block for block in blocks]
        parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    path.write_bytes(data[:place] + b"".join(parts) + data[place:])


def test_orientation_is_pillow_s(built: Built, tmp_path: Path) -> None:
    image = photo(21, 34, 5)
    stored = np.asarray(image)
    turned = 0
    for orientation in range(1, 9):
        for endian, kind in (("<", "H"), (">", "H"), ("<", "I"), (">", "I")):
            block = exif_block(endian, orientation, kind)
            name = f"{orientation}{'little' if endian == '<' else 'big'}{kind}"
            for suffix in (".jpg", "_early.png", "_late.png"):
                path = tmp_path / f"{name}{suffix}"
                image.save(path)
                add_exif(path, b"Exif\0\0" + block if suffix == ".jpg" else block, late=suffix == "_late.png")
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / f"{orientation}.jpg", exif=exif, progressive=True)
        image.convert("P").save(tmp_path / f"{orientation}.png", exif=exif)
        for name, text in (("xmp_attribute", 'tiff:Orientation="%d"'), ("xmp_element", "<tiff:Orientation>%d<")):
            path = tmp_path / f"{orientation}{name}.jpg"
            image.save(path)
            add_exif(path, b"http://ns.adobe.com/xap/1.0/\0" + (text % orientation).encode())
    paths = sorted(tmp_path.iterdir())
    images, errors = decode(built, *paths)
    assert errors == "" and len(paths) == 8 * 16
    for path, ours in zip(paths, images, strict=True):
        theirs = read_image(path).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(ours, theirs, err_msg=path.name)
        assert theirs.shape == ((34, 21, 3) if int(path.name[0]) >= 5 else (21, 34, 3)), path.name
        if path.name.endswith(("early.png", "late.png")):
            turned += not np.array_equal(theirs, stored)
    assert turned == 7 * 8  # all but orientation 1


def test_damaged_exif_is_ignored(built: Built, tmp_path: Path) -> None:
    good = exif_block("<", 6)
    blocks = {
        "empty": b"",
        "no TIFF": b"no TIFF at all",
        "other endian": b"MM" + good[2:],
        "short": good[:7],
        "directory outside": good[:4] + b"\xff\xff\xff\x7f" + good[8:],
        "cut directory": good[:30],
        "cut data": good[:40],
        "text": good[:24] + b"\2" + good[25:],
        "no such type": good[:24] + b"\xff\xff" + good[26:],
        "no values": good[:26] + b"\0" + good[27:],
        "values outside": good[:26] + b"\xff\xff\xff\xff" + good[30:],
        "nine": good[:30] + b"\x09" + good[31:],
    }
    image = photo(21, 34, 5)
    for name, block in blocks.items():
        for path in (tmp_path / f"{name}.jpg", tmp_path / f"{name}.png"):
            image.save(path)
            add_exif(path, b"Exif\0\0" + block if path.suffix == ".jpg" else block)
    paths = sorted(tmp_path.iterdir())
    images, errors = decode(built, *paths)
    assert errors == "" and len(paths) == 2 * len(blocks)
    image.save(tmp_path / "plain.jpg")
    plain = {".jpg": read_image(tmp_path / "plain.jpg").permute(1, 2, 0).numpy(), ".png": np.asarray(image)}
    for path, ours in zip(paths, images, strict=True):
        np.testing.assert_array_equal(ours, plain[path.suffix], err_msg=path.name)
        np.testing.assert_array_equal(ours, read_image(path).permute(1, 2, 0).numpy(), err_msg=path.name)


def test_other_files_are_refused(built: Built, tmp_path: Path) -> None:
    photo(53, 37, 1).save(tmp_path / "whole.jpg")
    photo(53, 37, 1).save(tmp_path / "image.gif")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    (tmp_path / "empty.png").touch()
    names = {
        "half.jpg": "Premature end of JPEG file",
        "image.gif": "another format",
        "empty.png": "an empty file",
        "missing.jpg": "No such file",
    }
    images, errors = decode(built, *(tmp_path / name for name in names))
    assert images == [None] * len(names)
    for line, (name, reason) in zip(errors.splitlines(), names.items(), strict=True):
        assert str(tmp_path / name) in line and reason in line


def test_the_limit_of_pixels_is_python_s(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tmp_path / "wide.png", tmp_path / "wide.jpg"]
    for path in names:
        photo(40, 50, 1).save(path)

    def refusals() -> list[str]:
        """Both readers' reasons."""
        _, errors = decode(built, *names)
        ours = [line.partition(" image, got: ")[2] for line in errors.splitlines()]
        for path, reason in zip(names, ours, strict=True):
            with pytest.raises(ValueError, match="must be a readable image") as caught:
                read_image(path)
            assert str(caught.value).endswith(f"got: {reason}")
        return ours

    monkeypatch.setenv("DSA_FAST_MAX_PIXELS", "1999")
    expected = "it has 50 x 40 pixels, and DSA_FAST_MAX_PIXELS (an environment variable) allows 1,999"
    assert refusals() == [expected] * 2
    for most in ("2000", "9" * 30):
        monkeypatch.setenv("DSA_FAST_MAX_PIXELS", most)
        images, errors = decode(built, *names)
        assert errors == "" and all(image is not None for image in images)
    for wrong in ("", "0", "-5", "1e9"):
        monkeypatch.setenv("DSA_FAST_MAX_PIXELS", wrong)
        _, errors = decode(built, *names)
        assert errors.splitlines() == [f"DSA_FAST_MAX_PIXELS must be a number of pixels, got '{wrong}'"] * 2
        with pytest.raises(ValueError, match="DSA_FAST_MAX_PIXELS must be a number of pixels"):
            read_image(names[0])
    monkeypatch.delenv("DSA_FAST_MAX_PIXELS")
    # The default, with a picture of which only the size is written.
    head = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR" + struct.pack(">IIBBBBB", 8193, 8192, 8, 2, 0, 0, 0))
    names[:] = [tmp_path / "large.png"]
    names[0].write_bytes(head + png_chunk(b"IDAT") + png_chunk(b"IEND"))
    assert refusals()[0].endswith(
        "it has 8193 x 8192 pixels, and DSA_FAST_MAX_PIXELS (an environment variable) allows 67,108,864"
    )


def png_chunk(content: bytes) -> bytes:
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


# ---- the command ---------------------------------------------------------------------------------------------------


def reference(engine: Path, images: list[str], layout: str) -> np.ndarray:
    """The vectors by Pillow, PyTorch's resize and ONNX Runtime."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(engine), options, providers=["CPUExecutionProvider"])
    batch = torch.cat([resize(read_image(path)[None], (HEIGHT, WIDTH)) for path in images])
    if layout == "NHWC":
        batch = batch.permute(0, 2, 3, 1)
    (vectors,) = session.run(None, {"images": np.ascontiguousarray(batch.numpy())})
    assert isinstance(vectors, np.ndarray)
    return vectors


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nineteen images of several sizes, formats and orientations, in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub").mkdir()
    sizes = [(HEIGHT, WIDTH), (128, 64), (33, 70), (200, 90), (20, 10)]
    for i in range(19):
        name = f"{'sub/' if i % 4 == 3 else ''}{i:02}.{['jpg', 'png', 'JPEG'][i % 3]}"
        exif = Image.Exif()
        exif[0x0112] = i % 8 + 1
        photo(*sizes[i % len(sizes)], seed=i).save(folder / name, exif=exif)
    (folder / "notes.txt").write_text("no image")
    return folder


def load(out: Path) -> tuple[np.ndarray, list[str]]:
    vectors = np.load(out)
    assert vectors.dtype == np.float32 and vectors.flags.c_contiguous
    names = out.with_suffix(".txt").read_text().splitlines()
    assert len(names) == len(vectors)
    assert sorted(path.name for path in out.parent.iterdir()) == sorted([out.name, out.with_suffix(".txt").name])
    return vectors, names


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("options", [[], ["--batch", "3", "--threads", "1"], ["--batch", "1"]], ids=["all", "3", "1"])
def test_vectors_are_onnx_runtime_s(
    built: Built, photos: Path, layout: str, options: list[str], tmp_path: Path
) -> None:
    engine = make_engine(tmp_path / "small.onnx", layout)
    out = tmp_path / "out" / "vectors.npy"
    result = run(built.embed, "--engine", engine, "--out", out, *options, photos)
    assert result.returncode == 0, output(result)
    assert result.stdout == "" and f"{out}: 19 vectors of {DIM} numbers" in result.stderr
    vectors, names = load(out)
    assert names == sorted(str(path) for path in photos.rglob("*.*") if path.suffix != ".txt")
    theirs = reference(engine, names, layout)
    cosines = (vectors * theirs).sum(axis=1)
    assert cosines.min() >= 0.99999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    # The images differ, so that a wrong order would show.
    assert (theirs @ theirs.T - np.eye(19)).max() < 0.9999


@pytest.mark.parametrize(
    ("backbone", "precision"),
    [("resnet18", "fp32"), ("resnet18", "int8"), ("resnet18_ibn", "fp32"), ("timm/efficientnet_lite0", "fp32")],
)
def test_vectors_are_the_encoders(built: Built, photos: Path, backbone: str, precision: str, tmp_path: Path) -> None:
    """Of a file that `dsa-fast export` wrote: the command and `dsa_fast.Encoder` give the same."""
    if backbone.startswith("timm/"):
        pytest.importorskip("timm")
    if backbone.startswith("timm/") or precision == "int8":
        # Nothing to resize: deep networks with random weights, and 8 bits, make much of a pixel that is one level off.
        photos = tmp_path / "photos"
        photos.mkdir()
        for i in range(9):
            photo(*SIZE, seed=i).save(photos / f"{i}.png")
    engine, out = tmp_path / "mf.onnx", tmp_path / "out" / "vectors.npy"
    checkpoint = save_checkpoint(tmp_path / "mf.ckpt", replace(SMALL, backbone=backbone))
    command = ["export", str(checkpoint), "--out", str(engine), "--batch", "1,4,8"]
    command += ["--precision", precision, "--images", str(photos)]
    assert main(command + (["--calibrate", str(photos)] if precision == "int8" else [])) == 0
    result = run(built.embed, "--engine", engine, "--out", out, "--batch", "8", photos)
    assert result.returncode == 0, output(result)
    vectors, names = load(out)
    theirs = np.asarray(dsa_fast.Encoder.load(engine, backend="openvino")(names))
    # The same library runs the same graph. A pixel whose resizing ends near a half may be rounded the other way, and
    # the batches are others, and with them the order of sums.
    np.testing.assert_allclose(vectors, theirs, atol={"fp32": 2e-4, "int8": 2e-3}[precision], rtol=0)
    assert (vectors * theirs).sum(axis=1).min() >= {"fp32": 0.999999, "int8": 0.9995}[precision]
    assert (theirs @ theirs.T - np.eye(len(names))).max() < {"fp32": 0.999, "int8": 0.93}[precision]


def test_a_list_and_bfloat16(built: Built, photos: Path, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "small.onnx")
    names = [str(photos / "01.png"), str(photos / "00.jpg"), str(photos / "01.png")]
    out = tmp_path / "out" / "vectors.npy"
    listed = "\n".join(names).replace("\n", "\r\n\n", 1)
    command = (built.embed, "--engine", engine, "--out", out, "--list", "-", "--precision", "bf16", "--quiet")
    result = run(*command, input=listed)
    assert result.returncode == 0 and result.stderr == "", output(result)
    vectors, found = load(out)
    assert found == names
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert (vectors * reference(engine, names, "NHWC")).sum(axis=1).min() >= 0.999


def test_a_network_of_a_fixed_batch(built: Built, photos: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    free = make_engine(tmp_path / "free.onnx")
    model = onnx.load(free)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    fixed = tmp_path / "fixed.onnx"
    fixed.write_bytes(model.SerializeToString())
    write_sidecar(fixed, batch={"min": 4, "opt": 4, "max": 4})
    for engine in (free, fixed):
        out = tmp_path / engine.stem / "x.npy"
        result = run(built.embed, "--engine", engine, "--out", out, photos)
        assert result.returncode == 0, output(result)
    np.testing.assert_allclose(np.load(tmp_path / "fixed" / "x.npy"), np.load(tmp_path / "free" / "x.npy"), atol=1e-5)
    write_sidecar(fixed)
    result = run(built.embed, "--engine", fixed, "--out", tmp_path / "y.npy", photos)
    assert result.returncode == 1
    assert "must take batches of 1..8 images, as the sidecar says, got 4..4" in result.stderr


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncated", "bytes, as its sidecar says, got"),
        ("changed", "must have the SHA-256"),
        ("no sidecar", "small.onnx.json cannot be read: No such file"),
        ("other sidecar", "must have the SHA-256"),
        ("not JSON", "small.onnx.json must be JSON"),
        ({"format_version": 2}, "format_version must be 1"),
        ({"input__dtype": "float16"}, "input.dtype must be uint8 or float32"),
        ({"input__dtype": "float32"}, "input.layout must be NCHW for float32"),
        ({"input__height": HEIGHT + 1}, f"must have the shape [N, {HEIGHT + 1}, {WIDTH}, 3], as the sidecar says, got"),
        ({"input__layout": "NCHW"}, "must have the shape [N, 3, "),
        ({"input__name": "pictures"}, "input must be named pictures, as the sidecar says, got images"),
        ({"output__dim": DIM + 1}, f"output must have the shape [N, {DIM + 1}], as the sidecar says, got [N, {DIM}]"),
        ({"output__normalized": False}, "output.normalized must be true"),
        ({"kind": "tensorrt-rtx"}, "this dsa_runtime was built without it (no libdsa_runtime_tensorrt_rtx.so in "),
        ("no network", "small.onnx: "),
        ("no unit vectors", "the engine must give vectors of length 1, got one of length"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(
    built: Built, photos: Path, damage: str | dict[str, Any], message: str, tmp_path: Path
) -> None:
    engine = make_engine(tmp_path / "small.onnx", **(damage if isinstance(damage, dict) else {}))
    data, sidecar = engine.read_bytes(), Path(f"{engine}.json")
    if damage == "truncated":
        engine.write_bytes(data[:-100])
    elif damage == "changed":
        engine.write_bytes(data[:2000] + bytes([data[2000] ^ 1]) + data[2001:])
    elif damage == "no sidecar":
        sidecar.unlink()
    elif damage == "other sidecar":
        other = make_engine(tmp_path / "other.onnx", seed=1)
        assert len(other.read_bytes()) == len(data)
        sidecar.write_bytes(Path(f"{other}.json").read_bytes())
    elif damage == "not JSON":
        sidecar.write_text("{")
    elif damage == "no network":
        engine.write_bytes(b"no network at all")
        write_sidecar(engine)
    elif damage == "no unit vectors":
        onnx = pytest.importorskip("onnx")
        model = onnx.load(engine)
        model.graph.node[-1].op_type = "Mul"
        engine.write_bytes(model.SerializeToString())
        write_sidecar(engine)
    out = tmp_path / "out" / "vectors.npy"
    result = run(built.embed, "--engine", engine, "--out", out, photos)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1] if isinstance(damage, dict) or damage != "no network" else result.stderr
    assert "dsa_embed: " in last and message in last, output(result)
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def test_unreadable_images_are_named_and_left_out(built: Built, photos: Path, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "small.onnx")
    bad = [tmp_path / "bad.jpg", tmp_path / "missing.png"]
    bad[0].write_bytes(b"\xff\xd8\xff\xe0 nothing")
    good = [str(photos / "00.jpg"), str(photos / "01.png")]
    out = tmp_path / "out" / "x.npy"
    result = run(built.embed, "--engine", engine, "--out", out, bad[0], good[0], bad[1], good[1])
    assert result.returncode == 3, output(result)
    for path in bad:
        assert f"dsa_embed: {path} " in result.stderr
    assert f"2 of 4 images could not be read and are not in {out}" in result.stderr
    vectors, names = load(out)
    assert names == good
    assert (vectors * reference(engine, good, "NHWC")).sum(axis=1).min() >= 0.99999
    # If nothing could be read, the old file stays.
    before = out.read_bytes()
    result = run(built.embed, "--engine", engine, "--out", out, *bad)
    assert result.returncode == 1 and "none of the images could be read" in result.stderr
    assert out.read_bytes() == before
    load(out)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(built: Built, photos: Path, kind: signal.Signals, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "small.onnx", batch={"min": 1, "opt": 1, "max": 1})
    (tmp_path / "list").write_text(f"{photos / '00.jpg'}\n" * 1_000_000)
    (tmp_path / "out").mkdir()
    command = [built.embed, "--engine", engine, "--out", tmp_path / "out" / "x.npy", "--list", tmp_path / "list"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").iterdir()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(kind)
        assert process.wait(60) == 128 + kind
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "x.npy", "a.jpg"], "--engine must name an engine's file"),
        (["--engine", "E", "--out", "x.txt", "a.jpg"], "--out must name a .npy file, got x.txt"),
        (["--engine", "E", "--out", "x.npy"], "images, or --list, must be given, and not both"),
        (["--engine", "E", "--out", "x.npy", "--list", "l", "a.jpg"], "and not both"),
        (["--engine", "E", "--out", "x.npy", "--batch", "0", "a.jpg"], "--batch must be a whole number in 1..999999"),
        (
            ["--engine", "E", "--out", "x.npy", "--batch", "9", "a.jpg"],
            "batch must be in 1..8 for this exported file, got 9",
        ),
        (
            ["--engine", "E", "--out", "x.npy", "--device", "cuda", "a.jpg"],
            "device must be cpu for an exported file of the kind onnx, got cuda",
        ),
        (
            ["--engine", "E", "--out", "x.npy", "--precision", "int8", "a.jpg"],
            "precision must be fp32, fp16 or bf16, got int8",
        ),
        (["--engine", "E", "--out", "x.npy", "--fast", "a.jpg"], "unrecognized option '--fast'"),
    ],
    ids=range(9),
)
def test_wrong_options(built: Built, options: list[str], message: str, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "small.onnx")
    result = run(built.embed, *(str(engine) if part == "E" else part for part in options), cwd=tmp_path)
    assert result.returncode == 2 and message in result.stderr, output(result)
    assert not (tmp_path / "x.npy").exists()


def test_help_and_version(built: Built) -> None:
    result = run(built.embed, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert "--engine FILE" in result.stdout and "exit status" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120
    assert run(built.embed, "--version").stdout == f"dsa_embed {dsa_fast.__version__}\n"


def test_the_benchmark(built: Built, tmp_path: Path) -> None:
    engine = make_engine(tmp_path / "small.onnx")
    result = run(built.embed, "--engine", engine, "--benchmark", "--seconds", "1", "--batch", "3")
    assert result.returncode == 0, output(result)
    (figures,) = map(json.loads, result.stdout.splitlines())
    assert figures["batch"] == 3 and figures["runs"] >= 3
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert figures["images_per_second"] == pytest.approx(3000 / figures["mean_ms"], rel=0.01)
    result = run(built.embed, "--engine", engine, "--benchmark", "--seconds", "1")
    assert [json.loads(line)["batch"] for line in result.stdout.splitlines()] == [1, 8]  # its batch.max is 8
    result = run(built.embed, "--engine", engine, "--benchmark", "a.jpg")
    assert result.returncode == 2 and "--benchmark makes its own images" in result.stderr


# ---- find_package ---------------------------------------------------------------------------------------------------


def test_find_package(built: Built, photos: Path, tmp_path: Path) -> None:
    # The installed folder may be moved: it finds its own files relative to itself.
    prefix = tmp_path / "moved"
    shutil.copytree(built.prefix, prefix, symlinks=True)
    cmake = tool("cmake")
    result = run(cmake, "-S", CONSUMER, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    assert result.returncode == 0, output(result)
    result = run(cmake, "--build", tmp_path / "build")
    assert result.returncode == 0, output(result)
    engine = make_engine(tmp_path / "small.onnx")
    images = [str(photos / "00.jpg"), str(photos / "01.png")]
    result = run(tmp_path / "build" / "consumer", engine, *images)
    assert result.returncode == 0, output(result)
    first, second = reference(engine, images, "NHWC")
    assert abs(float(result.stdout) - float(first @ second)) < 1e-5
    result = run(tmp_path / "build" / "consumer", engine, images[0], tmp_path / "none.jpg")
    assert result.returncode == 1 and "none.jpg cannot be read" in result.stderr


def test_find_package_of_what_is_not_there(built: Built, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(x LANGUAGES CXX)\n"
        'find_package(dsa_fast ${wanted} QUIET COMPONENTS ${part})\nmessage(STATUS "found: ${dsa_fast_FOUND}")\n'
    )
    for number, (wanted, part, found) in enumerate(
        [("0.1", "runtime", "1"), ("0.2", "runtime", "0"), ("0.1", "triton", "0")]
    ):
        build = tmp_path / str(number)
        prefix = f"-DCMAKE_PREFIX_PATH={built.prefix}"
        result = run(tool("cmake"), "-S", tmp_path, "-B", build, prefix, f"-Dwanted={wanted}", f"-Dpart={part}")
        assert result.returncode == 0 and f"found: {found}" in result.stdout, output(result)
