"""Masks: a second opinion on maps, in `prepare` and `inspect`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsa_fast.cli import main
from dsa_fast.densepose import iuv_from_keypoints, read_iuv, write_iuv
from dsa_fast.densepose.masks import PERSON_CLASSES, find_masks, outside, person_mask, read_mask

# COCO's joints of somebody who stands and faces us, in a picture of 48 x 96 (width x height).
STANDING = np.ones((17, 3), np.float32)
STANDING[:, 0] = [24, 26, 22, 28, 20, 33, 15, 36, 12, 37, 11, 30, 18, 31, 17, 31, 17]
STANDING[:, 1] = [10, 8, 8, 9, 9, 22, 22, 36, 36, 48, 48, 50, 50, 68, 68, 86, 86]
SIZE = (96, 48)


def save_mask(path: Path, classes: np.ndarray, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(classes.astype(np.uint8))
    if palette:  # as SCHP writes it: the class is the index, whatever its color
        image.putpalette([7 * i % 256 for i in range(768)])
        assert image.mode == "P"
    image.save(path)
    return path


@pytest.fixture
def people(tmp_path: Path) -> tuple[Path, list[str]]:
    """Three images, their joints, and the options that draw them."""
    images = tmp_path / "images"
    images.mkdir()
    names = [f"{i}.jpg" for i in range(3)]
    for name in names:
        Image.new("RGB", SIZE[::-1], "gray").save(images / name)
    np.savez(tmp_path / "joints.npz", names=np.array(names), keypoints=np.stack([STANDING] * 3))
    return images, ["--method", "keypoints", "--keypoints.file", str(tmp_path / "joints.npz")]


def test_classes_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    classes = np.arange(12).reshape(3, 4)
    for path in (
        save_mask(tmp_path / "gray.png", classes),
        save_mask(tmp_path / "palette.png", classes, palette=True),
    ):
        assert np.array_equal(read_mask(path), classes)
    Image.fromarray(classes.astype(np.uint16)).save(tmp_path / "wide.png")
    assert np.array_equal(read_mask(tmp_path / "wide.png"), classes)
    Image.fromarray(classes > 5).save(tmp_path / "bits.png")
    assert np.array_equal(read_mask(tmp_path / "bits.png"), classes > 5)
    for values in (classes, classes > 5):
        np.save(tmp_path / "a.npy", values)
        assert np.array_equal(read_mask(tmp_path / "a.npy"), values)
    Image.new("RGB", (4, 3)).save(tmp_path / "color.png")
    np.save(tmp_path / "float.npy", classes / 2)
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.png").write_text("no image")
    for name, message in (
        ("color.png", "one class per pixel .* got mode RGB"),
        ("float.npy", r"must be integers \[H, W\], got float64"),
        ("object.npy", "object.npy must be an array"),
        ("text.png", "text.png"),
    ):
        with pytest.raises(ValueError, match=message):
            read_mask(tmp_path / name)


def test_tables_say_which_classes_are_the_person() -> None:
    classes = np.arange(28).reshape(4, 7)
    assert person_mask(classes, "foreground").sum() == 27 and not person_mask(classes, "foreground")[0, 0]
    assert person_mask(classes, "sapiens").sum() == 27
    assert person_mask(classes, [1, 5, 300]).flatten().nonzero().flatten().tolist() == [1, 5]
    atr = person_mask(np.arange(18)[None], "schp-atr")[0]
    assert atr.tolist() == [i not in (0, 16) for i in range(18)], "a bag is not the person"
    for name, table in PERSON_CLASSES.items():
        assert table is None or 0 not in table, name
    with pytest.raises(ValueError, match=r"schp-lip's, 0..19, got 27"):
        person_mask(classes, "schp-lip")


def test_masks_are_found_by_name_and_folder(tmp_path: Path) -> None:
    images = [tmp_path / "images" / split / "a.jpg" for split in ("query", "gallery")]
    for split in ("query", "gallery"):
        save_mask(tmp_path / "masks" / split / "a.png", np.ones((2, 2)))
    assert find_masks(tmp_path / "masks", images) == {
        image: tmp_path / "masks" / image.parent.name / "a.png" for image in images
    }
    np.save(tmp_path / "masks" / "query" / "a_seg.npy", np.ones((2, 2), int))
    np.save(tmp_path / "masks" / "query" / "a.npy", np.ones((2, 2), bool))
    save_mask(tmp_path / "masks" / "gallery" / "b.jpg.png", np.ones((2, 2)))
    assert find_masks(tmp_path / "masks", images)[images[0]].name == "a_seg.npy", "Sapiens' classes come first"
    other = tmp_path / "images" / "gallery" / "b.jpg"
    assert find_masks(tmp_path / "masks", [*images, other])[other].name == "b.jpg.png"
    with pytest.raises(FileNotFoundError, match="masks must be a folder"):
        find_masks(tmp_path / "nothing", images)
    (tmp_path / "images").mkdir()
    with pytest.raises(ValueError, match="outside that of the images"):
        find_masks(tmp_path / "images", images)
    with pytest.raises(ValueError, match="must name some of the images"):
        find_masks(tmp_path / "masks", [tmp_path / "images" / "c.jpg"])


def test_prepare_keeps_the_pixels_of_the_person(
    people: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, options = people
    classes = np.zeros(SIZE)
    classes[:50, :30] = 5
    classes[20:30, 25:35] = 16  # a bag in front of the person
    for name in ("0", "1"):
        save_mask(tmp_path / "masks" / f"{name}.png", classes, palette=True)
    save_mask(tmp_path / "masks" / "2.png", np.zeros(SIZE))
    arguments = ["prepare", str(images), *options, "--masks.folder", str(tmp_path / "masks")]
    assert main([*arguments, "--masks.classes", "schp-atr"]) == 0
    whole = iuv_from_keypoints(STANDING[None], SIZE)[0]
    expected = whole * torch.from_numpy(classes == 5)
    assert 0 < int((expected[0] > 0).sum()) < int((whole[0] > 0).sum())
    for name in ("0", "1"):
        assert torch.equal(read_iuv(images / "iuv" / f"{name}.png"), expected)
    report = json.loads((images / "iuv" / "prepare.json").read_text())
    assert report["undetected"] == ["2.jpg"] and report["settings"]["mask_classes"] == "schp-atr"
    assert main([*arguments, "--masks.classes", "[5, 16]"]) == 1
    assert "mask_classes was schp-atr, is [5, 16]" in capsys.readouterr().err
    save_mask(tmp_path / "masks" / "2.png", np.ones(SIZE))
    assert main([*arguments, "--masks.classes", "schp-atr"]) == 1
    assert "masks_sha256 was" in capsys.readouterr().err


def test_images_without_a_fitting_mask_fail(
    people: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, options = people
    save_mask(tmp_path / "masks" / "0.png", np.ones((4, 4)))
    save_mask(tmp_path / "masks" / "1.png", np.full(SIZE, 40))
    arguments = [*options, "--masks.folder", str(tmp_path / "masks"), "--masks.classes", "sapiens"]
    assert main(["prepare", str(images), *arguments]) == 1
    error = capsys.readouterr().err
    assert "3 of 3 images have no map" in error and "2.jpg has no mask" in error
    assert "must have the size of" in error and "got [4, 4]" in error and "classes must be sapiens's" in error


def test_inspect_finds_maps_that_are_not_on_the_mask(
    people: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = people
    iuv = iuv_from_keypoints(STANDING[None], SIZE)[0]
    for name in ("0", "1", "2"):
        write_iuv(images / "iuv" / f"{name}.png", iuv)
    silhouette = (iuv[0] > 0).numpy()
    save_mask(tmp_path / "masks" / "0.png", silhouette * 255)
    save_mask(tmp_path / "masks" / "1.png", np.where(np.arange(SIZE[0])[:, None] < 40, silhouette, 0))
    save_mask(tmp_path / "masks" / "2.png", np.ones((3, 3)))
    arguments = ["inspect", str(images), "--out", str(tmp_path / "out"), "--masks.folder", str(tmp_path / "masks")]
    assert main(arguments) == 1
    report = json.loads((tmp_path / "out" / "inspect.json").read_text())
    share = float((iuv[0, 40:] > 0).sum() / (iuv[0] > 0).sum())
    assert share > 0.3 and report["counts"]["outside mask"] == 1 and report["counts"]["mask"] == 1
    assert report["masks"] == 3 and report["outside_mask"]["p95"] == pytest.approx(share, rel=0.1)
    named = {Path(file["image"]).name: file["found"] for file in report["files"]}
    assert set(named) == {"1.jpg", "2.jpg"} and f"{share:.0%} of the map's pixels" in named["1.jpg"]["outside mask"]
    assert "3 images have a mask" in capsys.readouterr().out.replace("\n", " ")
    (tmp_path / "masks" / "2.png").unlink()
    assert main([*arguments, "--outside", "0.9"]) == 0
    assert main([*arguments, "--outside", "2"]) == 2


def test_an_empty_map_is_not_outside() -> None:
    assert outside(torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.bool)) == 0
