"""Your own people: text ids, no cameras, a folder per person, and splits by identity."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dsa_fast.cli import main
from dsa_fast.configs.training import DataConfig
from dsa_fast.data.people import PeopleSplits, Person
from dsa_fast.data.registry import holds_dataset, read_dataset
from dsa_fast.data.split import matchable, split_people, split_test
from dsa_fast.data.text_ids import number_ids, whole
from dsa_fast.training.data import ReIDData, hold_out, read_people
from tests.data.test_datasets import error_of, make_table, who
from tests.data.trees import touch_images

NAMES = ("alice", "bob", "carol", "dora", "emil")


def make_folders(
    root: Path, people: tuple[str, ...] = NAMES, images: int = 3, cameras: tuple[str, ...] = ("",)
) -> Path:
    return touch_images(
        root, [f"{name}/{camera}/{k}.jpg" for name in people for camera in cameras for k in range(images)]
    )


# Ids


def test_numbers_stay_and_text_is_numbered() -> None:
    assert number_ids(["7", "-1", "0", "007"]) == ({"7": 7, "-1": -1, "0": 0, "007": 7}, {})
    numbers, names = number_ids(["bob", "alice", "0", "-1", "7", "07", "bob"])
    assert numbers == {"07": 1, "7": 2, "alice": 3, "bob": 4, "0": 0, "-1": -1}
    assert names == {1: "07", 2: "7", 3: "alice", 4: "bob"}
    assert number_ids([]) == ({}, {})
    assert [whole(text) for text in ("12", "-3", "+4", "1.0", "²", "", "-", "1_0", "9" * 5000)] == [
        *(12, -3, 4),
        *[None] * 6,
    ]


# CSV files


def test_a_table_of_names(tmp_path: Path) -> None:
    rows = [
        ["a.jpg", "bob", "yard", "train"],
        ["b.jpg", " alice ", "door", "query"],
        ["c.jpg", "alice", "yard", "gallery"],
    ]
    path = make_table(
        touch_images(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]), [*rows, ["d.jpg", -1, "door", "gallery"]]
    )
    data = read_dataset(path)
    assert who(data.train) == [("a.jpg", 2, 2)] and who(data.query) == [("b.jpg", 1, 1)]
    assert who(data.gallery) == [("c.jpg", 1, 2), ("d.jpg", -1, 1)]
    assert data.pid_names == {1: "alice", 2: "bob"} and data.camera_names == {1: "door", 2: "yard"}
    assert data.has_cameras and data.is_split and data.notes() == []


def test_a_table_without_cameras_leaves_out_only_the_query(tmp_path: Path) -> None:
    root = touch_images(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    rows: list[list[object]] = [["a.jpg", "x", "query"], ["b.jpg", "x", "gallery"], ["a.jpg", "x", "gallery"]]
    data = read_dataset(make_table(root, [*rows, ["c.jpg", "y", "gallery"]], ("path", "pid", "split")))
    assert who(data.query) == [("a.jpg", 1, 1)]
    assert who(data.gallery) == [("b.jpg", 1, 2), ("a.jpg", 1, 1), ("c.jpg", 2, 3)]
    assert not data.has_cameras and data.summary()[2][3] == 0
    assert "only the query itself is left out" in data.notes()[0]


def test_a_table_without_splits_has_all_images_in_all(tmp_path: Path) -> None:
    root = touch_images(tmp_path, ["a.jpg", "b.jpg"])
    data = read_dataset(make_table(root, [["a.jpg", 4, 1], ["b.jpg", 0, 2]], ("path", "pid", "camid")))
    assert who(data.train) == who(data.query) == [("a.jpg", 4, 1)]
    assert who(data.gallery) == [("a.jpg", 4, 1), ("b.jpg", 0, 2)]
    assert not data.is_split and "dsa-fast split" in data.notes()[0]


def test_all_broken_rows_are_listed_at_once(tmp_path: Path) -> None:
    touch_images(tmp_path, ["a.jpg"])
    rows: list[list[object]] = [["a.jpg", 1, 1, "train"], ["", 1, 1, "train"], ["a.jpg", 2, 1, "train"]]
    path = make_table(tmp_path, [*rows, ["none.jpg", 1, 1, "gallery"], ["a.jpg", 1, 1, "test"]])
    assert error_of(path).splitlines() == [
        f"{path} has 4 broken rows of 5:",
        "  line 3: path must not be empty",
        "  line 4: a.jpg is '2', but in line 2 '1'",
        f"  line 5: {tmp_path / 'none.jpg'} does not exist",
        "  line 6: split must be one of train, query, gallery, multi_query, got 'test'",
    ]
    make_table(tmp_path, [[f"{k}.jpg", 1, 1, "train"] for k in range(30)])
    lines = error_of(path).splitlines()
    assert len(lines) == 22 and "30 broken rows of 30" in lines[0] and lines[-1] == "  and 10 more"
    with pytest.raises(FileNotFoundError):
        read_dataset(path)


# A folder per person


def test_folders_without_cameras(tmp_path: Path) -> None:
    root = make_folders(tmp_path / "photos", ("bob", "alice"), 2)
    data = read_dataset(root)
    assert data.name == "photos" and data.root == root and not data.has_cameras and not data.is_split
    assert who(data.train) == [("0.jpg", 1, 1), ("1.jpg", 1, 2), ("0.jpg", 2, 3), ("1.jpg", 2, 4)]
    assert data.train == data.query == data.gallery and data.pid_names == {1: "alice", 2: "bob"}
    assert data.train[0].iuv_place == root / "iuv" / "alice" / "0.png"
    # A folder of images stays a folder for `prepare`, which gives the same maps.
    assert not holds_dataset(root)
    # Deeper, it must be named: any folders of images look like this.
    assert "no known data set" in error_of(tmp_path / "photos" / "..")


def test_folders_with_cameras_and_numbers(tmp_path: Path) -> None:
    data = read_dataset(make_folders(tmp_path, ("0002", "10"), 1, ("door", "yard")), "folders")
    assert [(person.pid, person.camid) for person in data.train] == [(2, 1), (2, 2), (10, 1), (10, 2)]
    assert data.has_cameras and data.camera_names == {1: "door", 2: "yard"} and data.pid_names == {}
    touch_images(tmp_path, ["11/0.jpg"])
    assert "all people or none must have folders of cameras" in error_of(tmp_path)


def test_folders_of_numbers_that_would_collide_are_text(tmp_path: Path) -> None:
    assert read_dataset(make_folders(tmp_path / "a", ("2", "02"))).pid_names == {1: "02", 2: "2"}
    assert read_dataset(make_folders(tmp_path / "b", ("0", "5"))).pid_names == {1: "0", 2: "5"}
    assert read_dataset(make_folders(tmp_path / "c", ("-1", "eve"))).pid_names == {1: "-1", 2: "eve"}


def test_folders_that_are_split(tmp_path: Path) -> None:
    names = ["train/alice/0.jpg", "train/alice/1.jpg", "query/bob/0.jpg", "gallery/bob/1.jpg"]
    data = read_dataset(touch_images(tmp_path, names))
    assert who(data.train) == [("0.jpg", 1, 1), ("1.jpg", 1, 2)] and data.is_split
    assert who(data.query) == [("0.jpg", 2, 3)] and who(data.gallery) == [("1.jpg", 2, 4)]
    assert data.query[0].iuv_place == tmp_path / "iuv" / "query" / "bob" / "0.png"


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["a.jpg", "alice/0.jpg"], "images must be in the folders of people, got {}/a.jpg next to them"),
        (["alice/0.jpg", "bob/0.jpg", "notes/text.txt"], "each must have images, got {}/notes without"),
        (["alice/0.jpg", "notes/text.txt"], ""),
        (["bounding_box_train/0.jpg", "query/0.jpg"], ""),  # a part of another data set
        (["market/query/0.jpg", "market/bounding_box_test/0.jpg"], ""),
    ],
)
def test_what_is_no_folder_per_person(tmp_path: Path, names: list[str], why: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert "no known data set" in error_of(tmp_path) and "no folder per person in" in error_of(tmp_path, "folders")
    for name in ("auto", "folders"):
        assert ("It looks like a folder per person, but" in error_of(tmp_path, name)) == bool(why)
        assert why.format(tmp_path) in error_of(tmp_path, name)


def test_a_folder_that_holds_a_table_is_read_by_it(tmp_path: Path) -> None:
    root = make_folders(tmp_path, ("alice", "bob"))
    make_table(root, [["alice/0.jpg", "eve"]], ("path", "pid"))
    assert read_dataset(root).pid_names == {1: "eve"}


# Splits


def people_of(*images: tuple[int, int]) -> list[Person]:
    return [Person(Path(f"{number}.jpg"), None, pid, camid) for number, (pid, camid) in enumerate(images)]


def test_split_test_by_cameras() -> None:
    people = people_of((1, 1), (1, 1), (1, 2), (1, 2), (2, 1), (2, 2), (3, 1))
    query, gallery = split_test(people)
    assert [people.index(person) for person in query] == [0, 2, 4, 5, 6]
    # Person 2 has one image by each camera, so both are also in the gallery; person 3 is only a stranger there.
    assert [people.index(person) for person in gallery] == [1, 3, 4, 5, 6]
    assert matchable([*people, *people_of((0, 1), (0, 2), (-1, 1))]) == [1, 2]


def test_split_people_is_by_identity_and_by_seed() -> None:
    rng = np.random.default_rng(0)
    images = [
        (int(pid), int(camid)) for pid, camid in zip(rng.integers(-1, 40, 400), rng.integers(1, 4, 400), strict=True)
    ]
    everyone = people_of(*images)
    whole_set = PeopleSplits("own", Path(), [it for it in everyone if it.pid > 0], [], everyone, is_split=False)
    parts = split_people(whole_set, 0.3, seed=1)
    again, other = split_people(whole_set, 0.3, seed=1), split_people(whole_set, 0.3, seed=2)
    assert (parts.train, parts.query, parts.gallery) == (again.train, again.query, again.gallery)
    assert parts.query != other.query and parts.is_split
    tested = {person.pid for person in parts.query}
    assert tested and tested.isdisjoint(person.pid for person in parts.train)
    assert {person.pid for person in parts.gallery} == tested | {0, -1}
    assert len(tested) == round(0.3 * len(matchable(everyone)))
    assert {id(person) for part in (parts.train, parts.query, parts.gallery) for person in part} == set(
        map(id, everyone)
    )
    with pytest.raises(ValueError, match="must have no splits"):
        split_people(parts)
    one_camera = [replace(person, camid=1) for person in everyone]
    with pytest.raises(ValueError, match="two people seen by two cameras each, got 0 in .*no column camid"):
        split_people(replace(whole_set, train=one_camera, gallery=one_camera))
    with pytest.raises(ValueError, match="test must be above 0"):
        split_people(whole_set, 1.0)


def test_hold_out_of_people_without_cameras(tmp_path: Path) -> None:
    root = make_folders(tmp_path)
    touch_images(root, ["frank/only.jpg"])
    held = read_people(DataConfig(str(root), validation_ids=2))
    assert held.is_split and len(held.query) == 6 and held.query == held.gallery and len(held.train) == 10
    assert {person.pid for person in held.query}.isdisjoint(person.pid for person in held.train)
    ReIDData(DataConfig(str(root), validation_ids=2, workers=0), (32, 16)).check_testable()
    with pytest.raises(ValueError, match=r"from 1 to 4, one less than the identities with two images .* got 5"):
        hold_out(read_dataset(root), 5)


# The command


def test_split_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folders(tmp_path / "photos")
    touch_images(root, ["frank/only.jpg"])
    assert main(["split", str(root), "--test", "0.4"]) == 0
    shown = capsys.readouterr().out
    assert "No cameras are known" in shown and "have a single image" in shown and "frank" in shown
    table = root / "split.csv"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "pid", "split"] and {row["pid"] for row in rows} == {*NAMES, "frank"}
    data = read_dataset(table)
    assert read_dataset(root).train == data.train  # the folder now holds the table
    assert len(data.query) == 6 and data.query == data.gallery and len(data.train) == 10
    assert not data.has_cameras and data.train[0].iuv_place is not None
    assert data.train[0].iuv_place.is_relative_to(root / "iuv")
    first = table.read_bytes()
    assert main(["split", str(root), "--overwrite"]) == 1
    assert "is split already, by" in capsys.readouterr().err
    for wrong in (["--test", "1.5"], ["--out", str(tmp_path / "x.txt")]):  # said first
        assert main(["split", str(root), *wrong]) == 1
        assert f"{wrong[0]} must be " in capsys.readouterr().err
    assert main(["split", str(root), "--name", "folders", "--test", "0.4"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["split", str(root), "--name", "folders", "--test", "0.4", "--overwrite"]) == 0
    assert table.read_bytes() == first
    assert main(["split", str(table), "--out", str(tmp_path / "again.csv")]) == 1
    assert "must have no splits" in capsys.readouterr().err
    assert main(["split", str(root), "--name", "folders", "--out", str(tmp_path / "x.txt")]) == 1
    assert "out must be a CSV file" in capsys.readouterr().err


def test_split_command_keeps_cameras_maps_and_names(tmp_path: Path) -> None:
    names = [f"{k}.png" for k in range(8)]
    root = touch_images(tmp_path / "own", [*names, *(f"maps/{name}" for name in names)])
    rows: list[list[object]] = [
        [name, f"p{k // 4}", ("door", "yard")[k % 2], f"maps/{name}"] for k, name in enumerate(names)
    ]
    table = make_table(root, rows, ("path", "pid", "camid", "iuv"))
    assert main(["split", str(table), "--out", str(tmp_path / "far" / "half.csv")]) == 0
    data = read_dataset(tmp_path / "far" / "half.csv")
    assert [len(data.train), len(data.query), len(data.gallery)] == [4, 2, 2] and data.camera_names == {
        1: "door",
        2: "yard",
    }
    assert {person.iuv_path for person in data.train} <= {root / "maps" / name for name in names}


def test_eval_says_that_no_cameras_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dsa_fast.training import TrainerConfig, fit
    from tests.training.small import AUGMENT, MODEL

    root = make_folders(tmp_path / "photos", images=4)
    assert main(["split", str(root)]) == 0
    capsys.readouterr()
    run = fit(
        DataConfig(str(root), p=2, k=2, workers=0),
        replace(MODEL, dsag=False),
        augment=AUGMENT,
        trainer=TrainerConfig(max_epochs=1, accelerator="cpu", progress=True),
        out=tmp_path / "run",
    )
    assert "No cameras are known" in capsys.readouterr().out
    scores = tmp_path / "scores.json"
    assert main(["eval", str(run.checkpoint), str(root), "--workers", "0", "--json_out", str(scores)]) == 0
    shown = capsys.readouterr().out
    assert "8 queries, 8 gallery images" in shown and "only the query itself is left out" in shown
    assert "No cameras" in json.loads(scores.read_text())["notes"][0]
