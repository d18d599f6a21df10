"""Every loader on a miniature of each layout as its authors and other libraries have it on disk."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsa_fast.cli import main
from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.data.registry import DATASETS, read_dataset
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.data.verify import verify_files
from dsa_fast.densepose.iuv import write_iuv
from dsa_fast.evaluation.embedding import Embedded, pool_multi_query
from dsa_fast.training import DataConfig, TrainerConfig, fit
from dsa_fast.training.data import ReIDData
from tests.data.trees import TREE, make_tree, touch_images
from tests.training.small import AUGMENT, MODEL

DUKE = {
    "bounding_box_train": ["0001_c2_f0046182.jpg", "0005_c8_f0028902.jpg"],
    "query": ["0005_c2_f0046985.jpg"],
    "bounding_box_test": ["0002_c1_f0044158.jpg", "0005_c5_f0051606.jpg"],
}
NP = {
    "bounding_box_train": ["0003_c1_21.png", "0003_c2_26.png"],
    "query": ["0001_c1_1.png", "0001_c2_6.png"],
    "bounding_box_test": ["0001_c1_2.png", "0001_c2_7.png"],
}


def who(people: list[Person]) -> list[tuple[str, int, int]]:
    return [(person.path.name, person.pid, person.camid) for person in people]


def error_of(root: Path, name: str = "auto", **options: object) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_dataset(root, name, **options)  # type: ignore[arg-type]
    return str(caught.value)


# Market-1501 and others in its layout

MARKET_PLACES = [
    "Market-1501-v15.09.15",  # fast-reid, and as unpacked
    "market1501/Market-1501-v15.09.15",  # torchreid
    "market1501",  # reid-strong-baseline
    "data/reid/market1501",
]
DUKE_PLACES = ["DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID", "dukemtmcreid"]


@pytest.mark.parametrize("place", MARKET_PLACES)
@pytest.mark.parametrize("name", ["auto", "market1501"])
def test_market1501_is_found_and_counted(tmp_path: Path, place: str, name: str) -> None:
    make_tree(tmp_path / place, TREE, iuv=False)
    data = read_dataset(tmp_path, name, check_counts=False)
    assert data.name == "market1501" and data.root == tmp_path / place
    assert [len(data.train), len(data.query), len(data.gallery)] == [3, 1, 3]
    message = error_of(tmp_path, name)
    assert "12936 train, 3368 query, 19732 gallery" in message and "got 3 train, 1 query, 3 gallery" in message
    assert "check_counts=False" in message


@pytest.mark.parametrize("place", DUKE_PLACES)
def test_duke_is_found_and_counted(tmp_path: Path, place: str) -> None:
    make_tree(tmp_path / place, DUKE, iuv=False)
    data = read_dataset(tmp_path, check_counts=False)
    assert data.name == "dukemtmc-reid" and who(data.train)[1] == ("0005_c8_f0028902.jpg", 5, 8)
    assert "16522 train, 2228 query, 17661 gallery" in error_of(tmp_path)
    # It is never taken for another data set of the same layout.
    assert "no Market-1501 in" in error_of(tmp_path, "market1501", check_counts=False)


def test_any_name_will_do_when_the_data_set_is_named(tmp_path: Path) -> None:
    make_tree(tmp_path / "copy", TREE)
    assert read_dataset(tmp_path).name == "market-layout"  # an unknown name has no numbers to compare
    assert read_dataset(tmp_path, "market1501", check_counts=False).root == tmp_path / "copy"
    assert "12936" in error_of(tmp_path, "market1501")


def test_multi_query_is_gt_bbox_of_the_queries(tmp_path: Path) -> None:
    boxes = ["0003_c1s1_000001_00.jpg", "0003_c1s1_000026_00.jpg", "0003_c2s1_000001_00.jpg", "0002_c1s1_000451_00.jpg"]
    make_tree(tmp_path, {**TREE, "gt_bbox": boxes}, iuv=False)
    data = read_dataset(tmp_path)
    assert who(data.multi_query) == [(name, 3, 1) for name in boxes[:2]]
    single = Embedded(torch.tensor([[1.0, 0.0], [7.0, 7.0]]), torch.tensor([3, 4]), torch.tensor([1, 1]))
    shots = Embedded(torch.tensor([[2.0, 4.0], [4.0, 0.0]]), torch.tensor([3, 3]), torch.tensor([1, 1]))
    assert pool_multi_query(single, shots).features.tolist() == [[3.0, 2.0], [7.0, 7.0]]
    assert pool_multi_query(single, shots, "max").features.tolist() == [[4.0, 4.0], [7.0, 7.0]]
    assert single.features.tolist() == [[1.0, 0.0], [7.0, 7.0]]
    with pytest.raises(ValueError, match="reduce"):
        pool_multi_query(single, shots, "median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shots"):
        pool_multi_query(single, Embedded(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0)))


@pytest.mark.parametrize("place", ["images", "distractors_500k", "distractors_500k/images"])
def test_distractors_500k_join_the_gallery(tmp_path: Path, place: str) -> None:
    root = make_tree(tmp_path / "Market-1501-v15.09.15", TREE, iuv=False)
    assert "distractors_500k.zip" in error_of(tmp_path, check_counts=False, distractors_500k=True)
    touch_images(root / place, ["0000_c3s1_000001_00.jpg", "strange.jpg"])
    data = read_dataset(tmp_path, check_counts=False, distractors_500k=True)
    assert who(data.gallery[3:]) == [("0000_c3s1_000001_00.jpg", 0, 3), ("strange.jpg", 0, 0)]
    assert len(read_dataset(tmp_path, check_counts=False).gallery) == 3


def test_files_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    make_tree(tmp_path, TREE, iuv=False)
    for name in ("Thumbs.db", "._0002_c1s1_000451_03.jpg", ".DS_Store"):
        (tmp_path / "bounding_box_train" / name).write_bytes(b"x")
    assert len(read_dataset(tmp_path).train) == 3


def test_a_query_without_identity_is_named(tmp_path: Path) -> None:
    make_tree(tmp_path, {**TREE, "query": ["0000_c1s1_000001_00.jpg"]}, iuv=False)
    assert "above 0" in error_of(tmp_path)


def test_synthetic_people_are_not_counted_whatever_their_folder(tmp_path: Path) -> None:
    folder = tmp_path / "market1501"
    make_dataset(folder, SynthConfig(identities=2, cameras=2, images_per_camera=2, height=32, width=16), workers=1)
    data = read_dataset(tmp_path)
    assert data.name == "synth" and all(person.iuv_path for person in data.train)


# CUHK03


@pytest.mark.parametrize("folder", ["cuhk03-np", "CUHK03-NP"])
@pytest.mark.parametrize("kind", ["labeled", "detected"])
def test_cuhk03_np(tmp_path: Path, folder: str, kind: str) -> None:
    for each in ("labeled", "detected"):
        make_tree(tmp_path / folder / each, NP, iuv=False)
    maps = torch.zeros(3, 32, 16, dtype=torch.uint8)
    write_iuv(tmp_path / folder / "iuv" / kind / "query" / "0001_c1_1.png", maps)
    data = read_dataset(tmp_path, check_counts=False, kind=kind)
    assert data.name == f"cuhk03-np-{kind}" and data.root == tmp_path / folder / kind
    assert who(data.query) == [("0001_c1_1.png", 1, 1), ("0001_c2_6.png", 1, 2)]
    assert [bool(person.iuv_path) for person in data.query] == [True, False]
    train, gallery = (7368, 5328) if kind == "labeled" else (7365, 5332)
    assert f"{train} train, 1400 query, {gallery} gallery" in error_of(tmp_path, kind=kind)
    assert "kind must be" in error_of(tmp_path, kind="both")


def test_cuhk03_np_needs_its_kind(tmp_path: Path) -> None:
    make_tree(tmp_path / "cuhk03-np" / "labeled", NP, iuv=False)
    assert "kind=detected needs" in error_of(tmp_path)
    assert read_dataset(tmp_path, kind="labeled", check_counts=False).train


CUHK03_FILES = [
    "1_001_1_01.png",
    "1_001_2_06.png",
    "1_002_1_01.png",
    "1_002_1_02.png",
    "1_002_2_10.png",
    "2_001_2_07.png",
]
CUHK03_SPLIT = {"labels": [1, 1, 2, 2, 2, 844], "train_idx": [1, 2], "query_idx": [3, 5], "gallery_idx": [4, 6]}


def make_cuhk03(root: Path, protocol: str = "5") -> Path:
    """The release and the protocol's files, as MATLAB 7.3 and 5 write them."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'dsa-fast[cuhk03]'")
    (root / "cuhk03_release").mkdir(parents=True)
    with h5py.File(root / "cuhk03_release" / "cuhk-03.mat", "w") as mat:
        for kind in ("labeled", "detected"):
            pairs = []
            for pair, people in ((1, 2), (2, 1)):
                cells = np.empty((10, people), h5py.ref_dtype)
                for person in range(people):
                    for number in range(10):
                        name = f"{pair}_{person + 1:03d}_{1 + number // 5}_{number + 1:02d}.png"
                        place = f"#refs#/{kind}_{name}"
                        if name in CUHK03_FILES:
                            # [H, W, 3] lies as [3, W, H]; rows grow downwards, columns to the right.
                            rows, columns = np.mgrid[:8, :4]
                            image = np.stack([rows, columns, np.full_like(rows, number)], 2).astype(np.uint8)
                            mat[place] = image.transpose(2, 1, 0)
                        else:
                            mat[place] = np.zeros(2, np.uint64)  # MATLAB's empty array
                        cells[number, person] = mat[place].ref
                mat[f"#refs#/{kind}_{pair}"] = cells
                pairs.append(mat[f"#refs#/{kind}_{pair}"].ref)
            mat[kind] = np.array([pairs], h5py.ref_dtype)
    for kind in ("labeled", "detected"):
        path = root / f"cuhk03_new_protocol_config_{kind}.mat"
        if protocol == "5":
            scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed: pip install 'dsa-fast[cuhk03]'")
            columns = {name: np.array(values, np.float64)[:, None] for name, values in CUHK03_SPLIT.items()}
            scipy_io.savemat(path, {"filelist": np.array(CUHK03_FILES, object)[:, None], **columns})
            continue
        with h5py.File(path, "w", userblock_size=512) as mat:
            for name, values in CUHK03_SPLIT.items():
                mat[name] = np.array([values], np.float64)
            cells = np.empty((1, len(CUHK03_FILES)), h5py.ref_dtype)
            for i, name in enumerate(CUHK03_FILES):
                mat[f"#refs#/{i}"] = np.array([[ord(letter)] for letter in name], np.uint16)
                cells[0, i] = mat[f"#refs#/{i}"].ref
            mat["filelist"] = cells
        with path.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file".ljust(128))
    return root


@pytest.mark.parametrize("protocol", ["5", "7.3"])
@pytest.mark.parametrize("given", ["", "cuhk03", "cuhk03/cuhk03_release"])
def test_cuhk03_release(tmp_path: Path, protocol: str, given: str) -> None:
    root = make_cuhk03(tmp_path / "cuhk03", protocol)
    data = read_dataset(tmp_path / given, check_counts=False, kind="labeled")
    assert data.name == "cuhk03-labeled"
    assert who(data.train) == [("1_001_1_01.png", 1, 1), ("1_001_2_06.png", 1, 2)]
    assert who(data.query) == [("1_002_1_01.png", 2, 1), ("1_002_2_10.png", 2, 2)]
    assert who(data.gallery) == [("1_002_1_02.png", 2, 1), ("2_001_2_07.png", 844, 2)]
    # Pixels stand where MATLAB had them.
    with Image.open(data.gallery[1].path) as image:
        assert image.size == (4, 8) and image.getpixel((3, 7)) == (7, 3, 6)
    assert data.train[0].path.parent == root / "images_labeled" and not (root / "images_detected").exists()
    assert "7368 train" in error_of(tmp_path / given, kind="labeled")
    assert "7365 train" in error_of(tmp_path / given)


def test_cuhk03_all_and_unpacked_elsewhere(tmp_path: Path) -> None:
    make_cuhk03(tmp_path / "cuhk03")
    out = tmp_path / "unpacked"
    data = read_dataset(tmp_path / "cuhk03", protocol="all", images=out)
    assert [person.pid for person in data.train] == CUHK03_SPLIT["labels"] and not data.query
    assert sorted(path.name for path in (out / "images_detected").iterdir()) == CUHK03_FILES
    # What is unpacked is used: the release is not needed any more.
    (tmp_path / "cuhk03" / "cuhk03_release" / "cuhk-03.mat").unlink()
    assert read_dataset(tmp_path / "cuhk03", images=out, check_counts=False).query
    (out / "images_detected" / CUHK03_FILES[0]).unlink()
    assert "cuhk-03.mat" in error_of(tmp_path / "cuhk03", images=out, check_counts=False)


def test_cuhk03_images_need_a_place(tmp_path: Path) -> None:
    make_cuhk03(tmp_path / "cuhk03")
    (tmp_path / "file").touch()
    message = error_of(tmp_path / "cuhk03", images=tmp_path / "file", check_counts=False)
    assert "images must be a folder that can be written to" in message and str(tmp_path / "file") in message


def test_cuhk03_tells_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_cuhk03(tmp_path / "cuhk03")
    assert "kind" in error_of(root, kind="boxes") and "protocol" in error_of(root, protocol="1367/100")
    import h5py

    with h5py.File(root / "cuhk03_release" / "cuhk-03.mat", "r+") as mat:
        del mat["labeled"]
    assert "cells 'labeled'" in error_of(root, kind="labeled")
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "h5py", None)
        message = error_of(root, kind="detected")
        assert "cuhk-03.mat needs h5py: pip install h5py" in message
    config = root / "cuhk03_new_protocol_config_detected.mat"
    config.write_bytes(config.read_bytes()[:200])
    assert config.name in error_of(root)
    config.unlink()
    assert config.name in error_of(root) and "person-re-ranking" in error_of(root)


# CUHK01


def make_cuhk01(root: Path, people: int = 9) -> Path:
    touch_images(root / "campus", [f"{pid:04d}{n:03d}.png" for pid in range(1, people + 1) for n in range(1, 5)])
    return root


def test_cuhk01_splits_are_seeded(tmp_path: Path) -> None:
    make_cuhk01(tmp_path / "cuhk01")
    data = read_dataset(tmp_path, check_counts=False)
    train, test = {person.pid for person in data.train}, {person.pid for person in data.query}
    assert data.name == "cuhk01" and len(train) == 4 and len(test) == 5 and not train & test
    assert {person.pid for person in data.gallery} == test
    assert len(data.train) == 16 and len(data.query) == len(data.gallery) == 10
    assert {person.camid for person in data.query} == {1} and {person.camid for person in data.gallery} == {2}
    assert {person.path.stem[4:] for person in data.query} == {"001", "002"}
    # The draw is fixed for good: results of different years and machines can be compared.
    assert sorted(train) == [1, 5, 6, 7]
    assert read_dataset(tmp_path, check_counts=False).train == data.train
    others = {
        tuple(person.pid for person in read_dataset(tmp_path, check_counts=False, split=i).train) for i in range(8)
    }
    assert len(others) > 4
    turned = read_dataset(tmp_path, check_counts=False, query_camera=2)
    assert turned.query == data.gallery and turned.gallery == data.query
    everybody = read_dataset(tmp_path, check_counts=False, split="all")
    assert len(everybody.train) == 36 and len(everybody.query) == len(everybody.gallery) == 18


def test_cuhk01_of_full_size(tmp_path: Path) -> None:
    campus = tmp_path / "CUHK01" / "campus"
    campus.mkdir(parents=True)
    for pid in range(1, 972):
        for number in range(1, 5):
            (campus / f"{pid:04d}{number:03d}.png").touch()
    data = read_dataset(tmp_path)
    assert [row[1:3] for row in data.summary()] == [(1940, 485), (972, 486), (972, 486)]
    (campus / "0971004.png").unlink()
    assert "3884 images of 971 people as published, got 3883 of 971" in error_of(tmp_path)


def test_cuhk01_tells_what_is_wrong(tmp_path: Path) -> None:
    root = make_cuhk01(tmp_path / "cuhk01", people=2)
    for options in ({"split": -1}, {"split": "half"}, {"split": 1.5}, {"query_camera": 3}):
        assert next(iter(options)) in error_of(root, check_counts=False, **options)
    assert read_dataset(root / "campus", check_counts=False).root == root
    touch_images(root / "campus", ["0001005.png"])
    assert "0001005.png" in error_of(root, check_counts=False)


# MSMT17


def make_msmt17(root: Path, version: int = 1) -> Path:
    train, test = ("train", "test") if version == 1 else ("mask_train_v2", "mask_test_v2")
    lists = {
        "train": ["0000/0000_000_01_0303morning_0008_0.jpg 0", "0001/0001_000_15_0303noon_0008_0_ex.jpg 1"],
        "val": ["0000/0000_001_02_0303morning_0009_0.jpg 0"],
        "query": ["0000/0000_000_01_0303morning_0015_0.jpg 0"],
        "gallery": ["0000/0000_002_14_0303morning_0016_2.jpg 0", "0003/0003_002_09_0303morning_0016_2.jpg 3"],
    }
    for split, lines in lists.items():
        touch_images(root / (train if split in ("train", "val") else test), [line.split()[0] for line in lines])
        (root / f"list_{split}.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    ("place", "version"),
    [
        ("MSMT17_V1", 1),
        ("msmt17/MSMT17_V1", 1),
        ("msmt17/MSMT17_V2", 2),
        ("msmt17/MSMT17_V2/MSMT17_V2", 2),
        ("MSMT17_V2", 2),
    ],
)
def test_msmt17(tmp_path: Path, place: str, version: int) -> None:
    make_msmt17(tmp_path / place, version)
    (tmp_path / "__MACOSX" / "MSMT17_V2").mkdir(parents=True)
    data = read_dataset(tmp_path, check_counts=False)
    assert data.name == "msmt17" and data.root == tmp_path / place
    # The lists count people from 0, where a pid of 0 would be a distractor.
    assert [(person.pid, person.camid) for person in data.train] == [(1, 1), (2, 15)]
    assert [(person.pid, person.camid) for person in data.query] == [(1, 1)]
    assert [(person.pid, person.camid) for person in data.gallery] == [(1, 14), (4, 9)]
    assert all(person.path.is_file() for person in data.train + data.query + data.gallery)
    assert len(read_dataset(tmp_path, check_counts=False, with_val=True).train) == 3
    for with_val in (False, True):
        message = error_of(tmp_path, with_val=with_val)
        assert "32621 train, 11659 query, 82161 gallery" in message and "got 3 train" in message


def test_msmt17_tells_what_is_wrong(tmp_path: Path) -> None:
    root = make_msmt17(tmp_path / "MSMT17_V1")
    gone = root / "test" / "0003" / "0003_002_09_0303morning_0016_2.jpg"
    gone.unlink()
    message = error_of(root, check_counts=False)
    assert "list_gallery.txt names 2 images, of which 1 are missing" in message and gone.name in message
    (root / "list_query.txt").write_text("0000/photo.jpg\n")
    assert "list_query.txt, line 1" in error_of(root, check_counts=False)
    (root / "list_query.txt").write_text("\n")
    assert "list_query.txt must name images" in error_of(root, check_counts=False)
    (root / "list_gallery.txt").unlink()
    touch_images(root / "test", ["0000/0000_000_01_0303morning_0015_0.jpg"])
    (root / "list_query.txt").write_text("0000/0000_000_01_0303morning_0015_0.jpg 0\n")
    assert "list_gallery.txt" in error_of(root, check_counts=False)


# A folder with a CSV file


def make_table(
    root: Path, rows: list[list[object]], header: tuple[str, ...] = ("path", "pid", "camid", "split")
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "people.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


ROWS: list[list[object]] = [
    ["photos/a.png", 5, 1, "train"],
    ["photos/b.png", 7, 1, "query"],
    ["photos/c.png", 7, 2, "gallery"],
    ["photos/c2.png", -1, 2, "gallery"],
    ["d.png", 7, 1, "multi_query"],
]


def test_table(tmp_path: Path) -> None:
    path = make_table(tmp_path / "own", ROWS)
    touch_images(path.parent, [str(row[0]) for row in ROWS])
    (path.parent / "scores.csv").write_text("query,score\n1,0.5\n")
    maps = torch.zeros(3, 12, 6, dtype=torch.uint8)
    write_iuv(path.parent / "iuv" / "photos" / "a.png", maps)
    for root in (tmp_path, path.parent, path):
        data = read_dataset(root)
        assert who(data.train) == [("a.png", 5, 1)] and who(data.query) == [("b.png", 7, 1)]
        assert who(data.gallery) == [("c.png", 7, 2), ("c2.png", -1, 2)] and who(data.multi_query) == [("d.png", 7, 1)]
        assert data.train[0].iuv_path == path.parent / "iuv" / "photos" / "a.png" and data.query[0].iuv_path is None
    write_iuv(path.parent / "maps" / "any.png", maps)
    make_table(path.parent, [[*ROWS[1], "maps/any.png"]], ("path", "pid", "camid", "split", "iuv"))
    assert read_dataset(path).query[0].iuv_path == path.parent / "maps" / "any.png"
    (path.parent / "other.csv").write_text(path.read_text())
    assert "people.csv" in error_of(path.parent) and "table" in error_of(path.parent)
    assert read_dataset(path.parent, table="other.csv").name == "other"
    assert "third.csv" in error_of(path.parent, table="third.csv")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (["photos/none.png", 1, 1, "train"], "line 3: .*none.png does not exist"),
        (["photos/b.png", "", 1, "train"], "line 3: pid must not be empty"),
        (["photos/b.png", 1, " ", "train"], "line 3: camid must not be empty; without the column"),
        (["photos/b.png", 1 << 31, 1, "train"], "line 3: pid must be below 2.31, got 2147483648"),
        (["photos/a.png", 6, 1, "train"], "line 3: photos/a.png is '6', but in line 2 '5'"),
        (["photos/b.png", 1, 1, "test"], "line 3: split must be one of train"),
        (["photos/b.png", 0, 1, "query"], "line 3: the pid of a query image must be at least 1, got 0"),
        (["photos/b.png", -2, 1, "gallery"], "line 3: the pid of a gallery image must be at least -1"),
        (["", 1, 1, "train"], "line 3: path must not be empty"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: list[object], says: str) -> None:
    path = make_table(tmp_path, [ROWS[0], row])
    touch_images(tmp_path, ["photos/a.png", "photos/b.png"])
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        read_dataset(path)


def test_a_table_without_its_columns(tmp_path: Path) -> None:
    path = make_table(tmp_path, [["a.png", 1]], ("path", "camid"))
    assert "must have the columns path, pid, got path, camid" in error_of(path)
    path.write_text("path;pid;camid\na.jpg;1;2\n")
    assert "got path;pid;camid: columns must be separated by commas, not by semicolons" in error_of(path)
    assert "no known data set" in error_of(tmp_path)
    make_table(tmp_path, [])
    assert "must list images" in error_of(path)


# What all have in common


def test_every_name_and_option_is_checked(tmp_path: Path) -> None:
    make_tree(tmp_path / "a", TREE, iuv=False)
    message = error_of(tmp_path, "market1502")
    assert all(name in message for name in DATASETS)
    assert "options of market-layout must be among (it has none), got kind" in error_of(tmp_path, kind="labeled")
    assert "among distractors_500k, got kin" in error_of(tmp_path, "market1501", kin=1, check_counts=False)
    assert "no such folder" in error_of(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="iuv must be the folder"):
        read_dataset(tmp_path, iuv=tmp_path / "none")
    (tmp_path / "file.txt").touch()
    assert "got the file" in error_of(tmp_path / "file.txt")


@pytest.mark.parametrize("name", ["auto", *DATASETS])
def test_the_expected_tree_is_shown_next_to_the_one_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "reid" / "Market-1501" / "images").mkdir(parents=True)
    lines = error_of(tmp_path / "reid", name).splitlines()
    assert "reid" in lines[0] and lines[1].startswith("Expected") and "| Found:" in lines[1]
    assert any("|   Market-1501/" in line for line in lines) and any("|     images/" in line for line in lines)
    marks = {"cuhk03": "cuhk-03.mat", "cuhk01": "campus/", "msmt17": "list_train.txt", "csv": "people.csv"}
    marks |= {"folders": "alice/", "ltcc": "LTCC_ReID/", "prcc": "rgb/", "mars": "bbox_train/"}
    marks |= dict.fromkeys(("occluded-reid", "p-dukemtmc-reid", "partial-reid", "partial-ilids"), "whole_body_images/")
    wanted = marks.get(name, "bounding_box_train/")
    assert any(wanted in line.split("|")[0] for line in lines)


def test_several_data_sets_in_one_folder(tmp_path: Path) -> None:
    """Torchreid's root: all is there, and a name tells which."""
    make_tree(tmp_path / "market1501" / "Market-1501-v15.09.15", TREE)
    make_tree(tmp_path / "dukemtmc-reid" / "DukeMTMC-reID", DUKE, iuv=False)
    make_msmt17(tmp_path / "msmt17" / "MSMT17_V1")
    make_cuhk01(tmp_path / "cuhk01")
    message = error_of(tmp_path)
    assert "got 4 in" in message and "name one of them" in message and "Market-1501-v15.09.15" in message
    for name in ("market1501", "dukemtmc-reid", "msmt17", "cuhk01"):
        assert read_dataset(tmp_path, name, check_counts=False).name == name
    assert read_dataset(tmp_path, "dukemtmcreid", check_counts=False).name == "dukemtmc-reid"
    make_tree(tmp_path / "old" / "market1501", TREE, iuv=False)
    assert "give its own folder" in error_of(tmp_path, "market1501", check_counts=False)


def test_iuv_maps_mirror_the_images(tmp_path: Path) -> None:
    make_msmt17(tmp_path / "MSMT17_V2", version=2)
    make_cuhk01(tmp_path / "cuhk01")
    make_cuhk03(tmp_path / "cuhk03")
    for name, folder, image in (
        ("msmt17", "MSMT17_V2/iuv/mask_train_v2/0001", "0001_000_15_0303noon_0008_0_ex"),
        ("cuhk01", "cuhk01/iuv/campus", "0001003"),
        ("cuhk03", "cuhk03/iuv/images_detected", "1_001_2_06"),
    ):
        path = tmp_path / folder / f"{image}.png"
        write_iuv(path, torch.zeros(3, 12, 6, dtype=torch.uint8))
        everybody = {"cuhk01": {"split": "all"}, "cuhk03": {"protocol": "all"}}.get(name, {})
        options = {"check_counts": False, **everybody}
        top = tmp_path / folder.split("/")[0] / "iuv"
        for iuv in (None, tmp_path / "maps" / name):  # the default place, and any other
            if iuv is not None:
                iuv.parent.mkdir(exist_ok=True)
                top.rename(iuv)
            data = read_dataset(tmp_path, name, iuv=iuv, **options)
            with_map = {person.path.stem: person.iuv_path for person in data.train if person.iuv_path is not None}
            assert list(with_map) == [image] and with_map[image] is not None


# Broken files are named before anything else


def broken(tmp_path: Path) -> tuple[PeopleSplits, list[Person]]:
    data = read_dataset(make_tree(tmp_path / "people", TREE))
    return data, [*data.train, *data.query, *data.gallery]


def test_broken_files_are_named(tmp_path: Path) -> None:
    data, people = broken(tmp_path)
    stamp = tmp_path / "verified.json"
    assert verify_files(people, stamp=stamp) and not verify_files(people, stamp=stamp)
    for path in (data.train[1].path, data.gallery[0].path):
        path.write_bytes(path.read_bytes()[:-200])  # the header is good, the pixels are cut off
    assert data.query[0].iuv_path is not None
    write_iuv(data.query[0].iuv_path, torch.zeros(3, 8, 8, dtype=torch.uint8))
    for _ in range(2):
        with pytest.raises(ValueError, match="3 of 7 files") as caught:
            verify_files(people, stamp=stamp)
        for path in (data.train[1].path, data.gallery[0].path, data.query[0].iuv_path):
            assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match="2 of 7 files"):
        verify_files(people, with_iuv=False)
    data.train[0].path.unlink()
    with pytest.raises(ValueError, match=f"1 of 7 files(.|\n)*{data.train[0].path.name}"):
        verify_files(people)


def test_a_changed_file_is_checked_again(tmp_path: Path) -> None:
    data, people = broken(tmp_path)
    stamp = tmp_path / "verified.json"
    verify_files(people, stamp=stamp)
    content, about = data.train[0].path.read_bytes(), data.train[0].path.stat()
    # As long as before, but later.
    data.train[0].path.write_bytes(content[:100] + bytes(len(content) - 100))
    os.utime(data.train[0].path, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    with pytest.raises(ValueError, match=data.train[0].path.name):
        verify_files(people, stamp=stamp)
    stamp.write_text("nonsense")
    data.train[0].path.write_bytes(content)
    assert verify_files(people, stamp=stamp) and not verify_files(people, stamp=stamp)


def trainable(root: Path, first: int) -> Path:
    train = [f"{pid:04}_c{cam}s1_{i:06}_00.png" for pid in (first, first + 1) for cam in (1, 2) for i in range(2)]
    test = [f"{pid:04}_c{cam}s1_000000_00.png" for pid in (first + 2, first + 3) for cam in (1, 2)]
    tree = {"bounding_box_train": train, "query": test[::2], "bounding_box_test": test[1::2], "gt_bbox": test}
    return make_tree(root, tree)


def test_fit_names_a_broken_image_before_training(tmp_path: Path) -> None:
    root = trainable(tmp_path / "people", 2)
    victim = sorted((root / "bounding_box_test").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:-100])
    trainer = TrainerConfig(max_epochs=1, eval_every=0, accelerator="cpu", progress=False)
    config = DataConfig(str(root), p=2, k=2, workers=0)
    with pytest.raises(ValueError, match=victim.name):
        fit(config, MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


# Train on one, test on another


def test_fit_on_one_and_test_on_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both use the pids 2 to 5 for other people."""
    train_root, test_root = trainable(tmp_path / "a", 2), make_msmt17(tmp_path / "MSMT17_V1")
    config = DataConfig(
        str(train_root), test_root=str(test_root), test_name="msmt17", check_counts=False, p=2, k=2, workers=0
    )
    people = ReIDData(config, AUGMENT.size).people
    assert people.train == read_dataset(train_root).train
    test = read_dataset(test_root, check_counts=False)
    assert (people.query, people.gallery) == (test.query, test.gallery)
    trainer = TrainerConfig(max_epochs=1, eval_every=1, accelerator="cpu", progress=False)
    result = fit(config, MODEL, augment=AUGMENT, trainer=trainer, out=tmp_path / "run")
    assert 0 <= result.scores["mAP"] <= 1 and (tmp_path / "run" / "verified.json").is_file()
    # The same from the shell: on B, and on A with single and multiple query.
    checkpoint = str(result.checkpoint)
    arguments = ["eval", checkpoint, str(test_root), "--name", "msmt17", "--options", "{with_val: true}"]
    assert main([*arguments, "--check_counts", "false", "--device", "cpu", "--workers", "0"]) == 0
    assert main([*arguments, "--device", "cpu"]) == 1
    assert "82161 gallery" in capsys.readouterr().err
    for multi_query in ("false", "true"):
        options = ["--multi_query", multi_query, "--device", "cpu", "--workers", "0"]
        assert main(["eval", checkpoint, str(train_root), *options]) == 0
    assert main(["eval", checkpoint, str(test_root), "--check_counts", "false", "--multi_query", "true"]) == 1
    assert "gt_bbox" in capsys.readouterr().err


def test_command_line_options_of_data_sets(tmp_path: Path) -> None:
    for kind in ("labeled", "detected"):
        tree = {"bounding_box_train": [f"{pid:04d}_c{cam}_1.png" for pid in (1, 2) for cam in (1, 2)]}
        make_tree(tmp_path / "data" / "cuhk03-np" / kind, {**NP, **tree}, iuv=False)
    model = ["--model.backbone=resnet18", "--model.pretrained=null", "--model.width=0.125", "--model.kind=baseline"]
    data = [f"--data.root={tmp_path / 'data'}", "--data.options={kind: labeled}", "--data.check_counts=false"]
    rest = ["--data.p=2", "--data.k=2", "--data.workers=0", "--augment.size=[32,16]", "--trainer.progress=false"]
    run = ["--trainer.max_epochs=1", "--trainer.eval_every=1", "--trainer.accelerator=cpu", f"--out={tmp_path / 'run'}"]
    assert main(["fit", *model, *data, *rest, *run]) == 0
    assert "kind: labeled" in (tmp_path / "run" / "config.yaml").read_text()


def test_nobody_to_train_or_test_on(tmp_path: Path) -> None:
    path = make_table(tmp_path, ROWS[1:4])
    touch_images(tmp_path, [str(row[0]) for row in ROWS])
    with pytest.raises(ValueError, match="people to train on"):
        ReIDData(DataConfig(str(path)), (32, 16))
    make_table(tmp_path, ROWS[:1])
    with pytest.raises(ValueError, match="test_root"):
        ReIDData(DataConfig(str(path)), (32, 16)).check_testable()


def test_the_real_market1501() -> None:
    """The published numbers, on the real images: DSA_FAST_MARKET1501 names their folder."""
    root = os.environ.get("DSA_FAST_MARKET1501")
    if not root:
        pytest.skip("DSA_FAST_MARKET1501 names no folder with the real Market-1501")
    data = read_dataset(root, "market1501")
    assert [row[1:4] for row in data.summary()] == [(12936, 751, 6), (3368, 750, 6), (19732, 750, 6)]
    assert sum(person.pid == -1 for person in data.gallery) == 3819
    asked = {(person.pid, person.camid) for person in data.query}
    assert {(person.pid, person.camid) for person in data.multi_query} == asked
