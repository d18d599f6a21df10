"""One reader of images: a photo with an EXIF orientation is the same as the upright photo, wherever it goes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dsa_fast.data import PeopleDataset, Person, PersonStore, verify_files
from dsa_fast.densepose import write_iuv
from dsa_fast.deploy import Encoder, Item, read_items
from dsa_fast.image import image_size, read_image, read_picture, save_image, upright
from tests.deploy.deployed import save_checkpoint, smooth_images
from tests.fresh import run_fresh

HEIGHT, WIDTH = 48, 20
# What is done to the upright picture so that a viewer that follows the orientation undoes it.
STORED: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """uint8 [3, H, W], with no symmetry."""
    return smooth_images(1, (HEIGHT, WIDTH), seed=4)[0]


@pytest.fixture(scope="module")
def photos(pixels: Tensor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The upright photo, and one that EXIF orientation 6 turns to the same pixels."""
    folder = tmp_path_factory.mktemp("photos")
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.save(folder / "upright.png")
    picture.transpose(STORED[6]).save(folder / "turned.png", exif=exif(6))
    return folder / "upright.png", folder / "turned.png"


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_every_orientation_is_applied_once(pixels: Tensor, tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.transpose(STORED[orientation]).save(path, exif=exif(orientation), quality=100, subsampling=0)
    got = read_image(path)
    assert got.shape == pixels.shape and got.is_contiguous() and got.dtype == torch.uint8
    assert (got.int() - pixels.int()).abs().max() <= (0 if suffix == ".png" else 4)
    assert image_size(path) == (HEIGHT, WIDTH)
    again = upright(read_picture(path))  # nothing is left to turn
    assert np.array_equal(np.array(again), np.array(read_picture(path)))


@pytest.mark.parametrize("block", [b"Exif\0\0no TIFF", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0"])
def test_damaged_exif_is_ignored(pixels: Tensor, tmp_path: Path, block: bytes) -> None:
    plain, damaged = tmp_path / "a.jpg", tmp_path / "b.jpg"
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.save(plain)
    picture.save(damaged, exif=block)
    assert torch.equal(read_image(damaged), read_image(plain))
    assert image_size(damaged) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("read", [read_image, read_picture, image_size])
def test_what_is_no_image_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no image")
    for name in ("x.jpg", "none.jpg"):
        with pytest.raises(ValueError, match=f"{name} must be a readable image"):
            read(tmp_path / name)


def test_a_truncated_image_is_named(photos: tuple[Path, Path], tmp_path: Path) -> None:
    for photo in photos:
        cut = tmp_path / photo.name
        cut.write_bytes(photo.read_bytes()[:-200])
        with pytest.raises(ValueError, match=f"{photo.name} must be a readable image"):
            read_image(cut)


def test_training_reads_a_turned_photo_as_the_upright_one(photos: tuple[Path, Path], tmp_path: Path) -> None:
    iuv = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    iuv[0, 5:20, 3:10], iuv[1, 5:20], iuv[2, :, 3:10] = 2, 77, 200
    write_iuv(tmp_path / "map.png", iuv)
    people = [[Person(photo, tmp_path / "map.png", 1, 1)] for photo in photos]
    plain, turned = (PeopleDataset(each)[0] for each in people)
    assert torch.equal(plain["image"], turned["image"]) and torch.equal(plain["iuv"], turned["iuv"])
    for group in (*people, people[0] + people[1]):
        assert verify_files(group)
        store = PersonStore.open(group, (64, 32))
        for image, found in zip(store.images, store.iuv, strict=True):
            assert torch.equal(image, plain["image"]) and torch.equal(found, iuv)


def test_embedding_reads_a_turned_photo_as_the_upright_one(photos: tuple[Path, Path], tmp_path: Path) -> None:
    encoder = Encoder.load(save_checkpoint(tmp_path / "x.ckpt"), device="cpu")
    expected = encoder(photos[0])
    assert np.array_equal(encoder(photos[1]), expected)
    for photo in photos:
        with Image.open(photo) as picture:
            assert np.array_equal(encoder(picture), expected)
            assert np.array_equal(encoder([picture, photo]), encoder([photos[0]] * 2))
    box = (2, 6, 12, 30)
    (plain, turned), (cut, turned_cut) = (
        list(read_items([Item(photo, None, each) for photo in photos])) for each in (None, box)
    )
    assert isinstance(plain, Tensor) and isinstance(turned, Tensor) and torch.equal(plain, turned)
    assert isinstance(cut, Tensor) and isinstance(turned_cut, Tensor) and torch.equal(cut, turned_cut)
    assert cut.shape == (3, 30, 12)


def test_an_odd_tag_does_not_hide_the_orientation(pixels: Tensor, tmp_path: Path) -> None:
    """A camera's model as a fraction, which Pillow cannot write again after it turned a photo."""
    entries = struct.pack("<HHII", 0x0110, 5, 1, 38) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    block = b"Exif\x00\x00II*\x00" + struct.pack("<IH", 8, 2) + entries + struct.pack("<III", 0, 3, 2)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    picture.transpose(STORED[6]).save(tmp_path / "x.png")
    expected = read_image(tmp_path / "x.png").flip(1).transpose(1, 2)
    picture.transpose(STORED[6]).save(tmp_path / "x.png", exif=block)
    assert torch.equal(read_image(tmp_path / "x.png"), expected) and torch.equal(expected, pixels)
    once = read_picture(tmp_path / "x.png")
    assert np.array_equal(np.asarray(upright(once)), np.asarray(once))


def test_a_picture_that_is_cut_is_an_error(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    save_image(noise, tmp_path / "whole.jpg")
    size = (tmp_path / "whole.jpg").stat().st_size
    program = (
        "import resource, signal, sys\nfrom PIL import Image\nfrom dsa_fast.image import save_image\n"
        "picture = Image.open(sys.argv[1]).copy()\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))\n"
        "try:\n    save_image(picture, sys.argv[2])\nexcept OSError:\n    print('a word')\n"
    )
    done = run_fresh(program, tmp_path / "whole.jpg", tmp_path / "cut.jpg")
    assert done.stdout == "a word\n", done.stderr


@pytest.mark.parametrize("options", [{"quality": 90, "subsampling": 0}, {}])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_pictures_are_those_of_pillow(suffix: str, options: dict[str, int], tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8))
    noise.save(tmp_path / f"a{suffix}", **options)
    save_image(noise, tmp_path / f"b{suffix}", **options)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    with pytest.raises(ValueError, match="path must end in a picture's suffix"):
        save_image(noise, tmp_path / "a.txt")
