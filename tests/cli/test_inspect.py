"""What is suspicious about a map, and the inspect command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dsa_fast.cli import main
from dsa_fast.data.registry import read_dataset
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.densepose import IUVStore, flip_iuv, read_iuv, resize_iuv, write_iuv
from dsa_fast.densepose.map_checks import examine, suspicions
from dsa_fast.densepose.parts import MIRROR
from dsa_fast.image import read_image
from dsa_fast.visual.charts import bars
from dsa_fast.visual.contact_sheet import contact_sheet


def mirrored(iuv: Tensor) -> Tensor:
    return iuv.flip(-1)


def exchanged(iuv: Tensor) -> Tensor:
    """Left and right labels exchanged."""
    other = iuv.clone()
    other[0] = torch.tensor(MIRROR, dtype=torch.uint8)[iuv[0].long()]
    return other


def turned(iuv: Tensor) -> Tensor:
    """u and v exchanged."""
    return iuv[[0, 2, 1]].contiguous()


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "people"
    make_dataset(
        out, SynthConfig(identities=4, cameras=2, images_per_camera=2, distractors=0, junk=0, seed=3), workers=1
    )
    return out


CHANGES: list[tuple[Callable[[Tensor], Tensor], list[str]]] = [
    (flip_iuv, []),
    (mirrored, ["mirrored"]),
    (exchanged, ["left-right"]),
    (turned, ["u-v"]),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_mirrored_maps_of_synthetic_people_are_told(
    synthetic: Path, change: Callable[[Tensor], Tensor], expected: list[str]
) -> None:
    data = read_dataset(synthetic)
    maps = [read_iuv(p.iuv_path) for p in (*data.train, *data.gallery) if p.iuv_path is not None]
    assert len(maps) >= 12
    for iuv in maps:
        assert list(suspicions(examine(iuv))) == []
        assert list(suspicions(examine(change(iuv)))) == expected


def test_mirrored_maps_of_real_people_are_told(real_data: Path) -> None:
    paths = sorted((real_data / "iuv").glob("*/*_[iI][uU][vV].png"))
    assert len(paths) == 6
    for path in paths:
        whole = read_iuv(path)
        small = resize_iuv(whole, (128, 128 * whole.shape[2] // whole.shape[1]))
        for iuv in (whole,) if "demo_im" in path.name else (whole, small):
            for change, expected in (
                (flip_iuv, []),
                (mirrored, ["mirrored"]),
                (exchanged, ["left-right"]),
                (turned, ["u-v"]),
            ):
                assert list(suspicions(examine(iuv))) == [], path
                assert list(suspicions(examine(change(iuv)))) == expected, path


def test_facts_are_counted() -> None:
    iuv = torch.zeros(3, 10, 8, dtype=torch.uint8)
    iuv[:, 2, 3] = torch.tensor([5, 255, 0], dtype=torch.uint8)
    iuv[:, 2, 4] = torch.tensor([5, 254, 7], dtype=torch.uint8)
    iuv[:, 6, 4] = torch.tensor([9, 254, 0], dtype=torch.uint8)
    facts = examine(iuv)
    assert facts.size == (10, 8) and facts.labelled == 3 / 80 and facts.parts == 2
    assert facts.pixels[0] == 77 and facts.pixels[5] == 2 and facts.pixels[9] == 1
    # 255 * 32 // 255 = 32 is the last texel, 31, as 254's is; 7 falls on the first column.
    assert facts.texels == 2 / (24 * 32 * 32)
    assert np.isnan([facts.limbs, facts.body, facts.upright]).all()
    assert list(suspicions(facts)) == ["few parts"]
    iuv[1, 0] = 9
    assert list(suspicions(examine(iuv))) == ["few parts", "background"]
    assert list(suspicions(examine(torch.zeros(3, 1, 1, dtype=torch.uint8)))) == ["empty"]
    with pytest.raises(TypeError, match="iuv must be a uint8 tensor"):
        examine(iuv.float())
    with pytest.raises(ValueError, match=r"iuv must have shape \[3, H, W\]"):
        examine(iuv[0])
    with pytest.raises(ValueError, match="part ids 0..24 in channel 0, got 25"):
        examine(torch.full((3, 2, 2), 25, dtype=torch.uint8))


def inspected(root: Path, *options: str) -> tuple[int, dict[str, Any]]:
    out = root.parent / f"{root.name}-inspect"
    status = main(["inspect", str(root), "--out", str(out), *options])
    report = json.loads((out / "inspect.json").read_text(encoding="utf-8"))
    for name in ("sheet.png", *(["histograms.png"] if report["with_map"] else [])):
        with Image.open(out / name) as picture:
            assert np.asarray(picture).std() > 5
    assert status == report["status"]
    return status, report


def test_a_sound_data_set_is_fine(synthetic: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = inspected(synthetic)
    data = read_dataset(synthetic)
    assert status == 0 and report["data_set"] == "synth"
    assert report["images"] == report["with_map"] == report["detected"] == sum(row[1] for row in data.summary())
    assert {name: part["images"] for name, part in report["splits"].items()} == {r[0]: r[1] for r in data.summary()}
    assert 0 < report["texels"]["mean"] < 0.2 and report["parts"]["median"] > 10 and not report["files"]
    assert "Nothing is suspicious" in capsys.readouterr().out


@pytest.fixture
def folder(synthetic: Path, tmp_path: Path) -> Path:
    """Twelve images with maps in a folder that is no data set."""
    root = tmp_path / "folder"
    root.mkdir()
    for number, person in enumerate(read_dataset(synthetic).train[:8]):
        assert person.iuv_path is not None
        Image.fromarray(read_image(person.path).permute(1, 2, 0).numpy()).save(root / f"{number}.png")
        write_iuv(root / "iuv" / f"{number}.png", read_iuv(person.iuv_path))
    return root


def spoil(folder: Path, change: Callable[[Tensor], Tensor]) -> None:
    write_iuv(folder / "iuv/3.png", change(read_iuv(folder / "iuv/3.png")))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("mirrored", mirrored),
        ("left-right", exchanged),
        ("u-v", turned),
        ("size", lambda iuv: iuv[:, 1:].contiguous()),
        ("empty", torch.zeros_like),
        (
            "background",
            lambda iuv: torch.stack((iuv[0], iuv[1].clamp(min=1), iuv[2])),
        ),
    ],
)
def test_suspicious_maps_are_found(folder: Path, kind: str, change: Callable[[Tensor], Tensor]) -> None:
    spoil(folder, change)
    status, report = inspected(folder)
    assert status == 1 and report["counts"][kind] == 1
    assert [Path(each["map"]).name for each in report["files"]] == ["3.png"]
    assert kind in report["files"][0]["found"]


def test_some_empty_maps_are_accepted(folder: Path) -> None:
    spoil(folder, torch.zeros_like)
    status, report = inspected(folder, "--empty", "0.2")
    assert status == 0 and report["counts"]["empty"] == 1 and report["detected"] == 7
    assert inspected(folder, "--empty", "0")[0] == 1


def test_unreadable_files_have_their_status(folder: Path) -> None:
    whole = (folder / "iuv/2.png").read_bytes()
    (folder / "iuv/2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "5.png").write_bytes(b"no image")
    (folder / "iuv/1.png").unlink()
    spoil(folder, mirrored)
    status, report = inspected(folder)
    assert status == 2
    assert (report["images"], report["with_map"], report["detected"]) == (8, 7, 6)
    assert [(Path(each["image"]).name, *each["found"]) for each in report["files"]] == [
        ("5.png", "image unreadable"),
        ("2.png", "map unreadable"),
        ("3.png", "mirrored"),
    ]


def test_a_wrong_order_is_named(folder: Path) -> None:
    status, report = inspected(folder, "--iuv_order", "VUI")
    assert status == 1 and report["counts"]["channel order"] == 8
    assert "can be read with --iuv_order auto" in report["files"][0]["found"]["channel order"]


def test_maps_beside_images_and_in_stores(folder: Path) -> None:
    IUVStore.create(folder / "iuv.dsaiuv", [(str(i), read_iuv(folder / f"iuv/{i}.png")) for i in range(4)])
    for i in range(4, 7):
        (folder / f"iuv/{i}.png").rename(folder / f"{i}_IUV.png")
    write_iuv(folder / "lonely_iuv.png", read_iuv(folder / "iuv/7.png"))
    for path in (folder / "iuv").iterdir():
        path.unlink()
    (folder / "iuv").rmdir()
    status, report = inspected(folder)
    assert status == 0
    assert (report["images"], report["with_map"], report["detected"]) == (8, 8, 8)


def test_a_data_set_without_maps_is_a_failure(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(synthetic, bare, ignore=shutil.ignore_patterns("iuv"))
    status, report = inspected(bare)
    text = capsys.readouterr().out
    assert status == 1 and report["with_map"] == 0
    assert f"None of the {report['images']} images has a map" in text and f"dsa-fast prepare {bare}" in text
    assert "Nothing is suspicious" not in text and "histograms.png" not in text


def test_junk_is_not_suspicious(tmp_path: Path) -> None:
    people = tmp_path / "people"
    config = SynthConfig(identities=4, cameras=2, images_per_camera=2, distractors=1, junk=1, seed=1)
    make_dataset(people, config, workers=1)
    assert inspected(people)[0] == 0
    for kept in ("left-right", "mirrored"):  # junk may show little, but not that
        change = {"left-right": exchanged, "mirrored": mirrored}[kept]
        junk = sorted((people / "iuv" / "bounding_box_test").glob("0000_*.png"), key=lambda path: path.stat().st_size)
        iuv = read_iuv(junk[-1])
        write_iuv(junk[-1], change(iuv))
        assert kept in inspected(people)[1]["files"][0]["found"]
        write_iuv(junk[-1], iuv)


def test_no_kind_fills_the_sheet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        write_iuv(folder / f"iuv/{number}.png", torch.zeros_like(read_iuv(folder / f"iuv/{number}.png")))
    write_iuv(folder / "iuv/5.png", mirrored(read_iuv(folder / "iuv/5.png")))
    drawn: list[tuple[str, str]] = []

    def sheet(cells: list[Any], *, title: str = "", columns: int = 8) -> Image.Image:
        drawn.extend((cell.lines[0], cell.bad) for cell in cells)
        drawn.append(("title", title))
        return contact_sheet(cells, title=title, columns=columns)

    monkeypatch.setattr("dsa_fast.visual.contact_sheet.contact_sheet", sheet)
    inspected(folder, "--pictures", "4")
    assert [bad for _, bad in drawn[:4]] == ["mirrored", "empty", "empty", ""]
    assert drawn[4][1] == "folder: 4 of 8 images; 8 have a map, 6 have findings"


def test_errors_have_their_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "none")]) == 2
    assert main(["inspect", str(tmp_path)]) == 2
    assert "ROOT must hold images" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path), "--empty", "2"]) == 2
    assert main(["inspect", str(tmp_path), "--name", "market1501"]) == 2
    capsys.readouterr()
    assert main(["inspect", str(tmp_path), "--workers", "0"]) == 2
    assert "workers must be at least 1, got 0" in capsys.readouterr().err


def test_bars_need_names_or_edges() -> None:
    assert bars({"a": 1.0, "b": 2.0}, title="t").size == bars([1.0, 2.0], [0, 1, 2], percent=True).size
    for heights, edges in (({"a": 1.0}, [0.0, 1.0]), ([1.0], None), ([1.0], [0.0])):
        with pytest.raises(ValueError, match="edges must be one more than the 1 heights"):
            bars(heights, edges)  # type: ignore[arg-type]
