"""Occluded and partial people, changed clothes and tracklets: every loader on a miniature of the published tree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dsa_fast.cli import main
from dsa_fast.data.people import Person
from dsa_fast.data.registry import read_dataset
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.training import DataConfig, TrainerConfig, fit
from tests.data.test_datasets import error_of, who
from tests.data.trees import (
    LTCC,
    OCCLUDED_REID,
    P_DUKE,
    PARTIAL_ILIDS,
    PARTIAL_REID,
    PRCC,
    TREE,
    make_mars,
    make_tree,
    touch_images,
)
from tests.training.small import AUGMENT, MODEL


@pytest.mark.parametrize("place", ["Occluded_Duke", "reid/Occluded-DukeMTMC-reID", "occluded_duke"])
def test_occluded_duke(tmp_path: Path, place: str) -> None:
    make_tree(tmp_path / place, TREE, iuv=False)
    data = read_dataset(tmp_path, check_counts=False)
    assert data.name == "occluded-dukemtmc" and [len(data.train), len(data.query), len(data.gallery)] == [3, 1, 3]
    assert "15618 train, 2210 query, 17661 gallery" in error_of(tmp_path)
    assert read_dataset(tmp_path, "OccludedDuke", check_counts=False).name == "occluded-dukemtmc"
    assert "no DukeMTMC-reID in" in error_of(tmp_path, "dukemtmc-reid", check_counts=False)


PARTIAL = [
    ("occluded-reid", "Occluded_REID", OCCLUDED_REID, "1000 query, 1000 gallery"),
    ("occluded-reid", "ICME2018_Occluded-Person-Reidentification_datasets/Occluded_REID", OCCLUDED_REID, "1000 query"),
    ("occluded-reid", "OccludedREID", ["query/001_1.jpg", "gallery/001_2.jpg"], "1000 gallery"),
    ("partial-reid", "Partial_REID", PARTIAL_REID, "300 query, 300 gallery"),
    ("partial-reid", "Partial-REID_Dataset", PARTIAL_REID, "300 query, 300 gallery"),
    ("partial-ilids", "Partial_iLIDS", PARTIAL_ILIDS, "119 query, 119 gallery"),
    ("partial-ilids", "PartialiLIDS", ["query/001_1.jpg", "gallery/001_2.jpg"], "119 query, 119 gallery"),
]


@pytest.mark.parametrize(("name", "place", "names", "counts"), PARTIAL)
def test_occluded_and_partial(tmp_path: Path, name: str, place: str, names: list[str], counts: str) -> None:
    touch_images(tmp_path / place, names)
    data = read_dataset(tmp_path, check_counts=False)
    assert data.name == name and data.root == tmp_path / place and data.train == []
    assert {person.camid for person in data.query} == {1} and {person.camid for person in data.gallery} == {2}
    assert {person.pid for person in data.query} == {person.pid for person in data.gallery}
    assert counts in error_of(tmp_path)
    for other in {each[0] for each in PARTIAL} - {name}:
        assert "no " in error_of(tmp_path, other, check_counts=False)


def test_occluded_reid_names_and_maps(tmp_path: Path) -> None:
    data = read_dataset(touch_images(tmp_path, OCCLUDED_REID), "occluded-reid", check_counts=False)
    assert who(data.query) == [("001_01.tif", 1, 1), ("002_01.tif", 2, 1)]
    assert data.query[0].iuv_place == tmp_path / "iuv" / "occluded_body_images" / "001" / "001_01.png"
    touch_images(tmp_path, ["whole_body_images/003/name.tif"])
    assert "must begin with the person's number" in error_of(tmp_path, check_counts=False)


def test_p_duke(tmp_path: Path) -> None:
    touch_images(tmp_path / "P-DukeMTMC-reID", P_DUKE)
    data = read_dataset(tmp_path, check_counts=False)
    assert data.name == "p-dukemtmc-reid"
    assert who(data.train) == [("0003_c1_f0044158.jpg", 3, 2), ("0003_c2_f0046182.jpg", 3, 1)]
    assert who(data.query) == [("0001_c2_f0046182.jpg", 1, 1)] and len(data.gallery) == 2
    # The image by the query's own camera counts, as in the published protocol.
    assert data.gallery[0].camid != data.query[0].camid
    assert "24143 images in all as published, got 5" in error_of(tmp_path)


def test_ltcc(tmp_path: Path) -> None:
    touch_images(tmp_path / "LTCC_ReID", LTCC)
    data = read_dataset(tmp_path, check_counts=False)
    assert data.name == "ltcc" and not data.other_clothes
    assert [(it.pid, it.camid, it.clothes) for it in data.train] == [(1, 9, 1), (1, 1, 2), (2, 2, 1)]
    assert [(it.pid, it.camid, it.clothes) for it in data.gallery] == [(6, 1, 1), (6, 2, 1), (6, 2, 2)]
    assert "9576 train, 493 query, 7050 gallery" in error_of(tmp_path)
    assert read_dataset(tmp_path, "ltcc", check_counts=False, protocol="cloth-changing").other_clothes
    assert "standard or cloth-changing, got 'all'" in error_of(tmp_path, check_counts=False, protocol="all")
    touch_images(tmp_path, ["LTCC_ReID/test/odd.png"])
    assert "PID_CLOTHES_cCAM" in error_of(tmp_path, check_counts=False)


@pytest.mark.parametrize("place", ["prcc", "data/PRCC"])
def test_prcc(tmp_path: Path, place: str) -> None:
    touch_images(tmp_path / place, PRCC)
    data = read_dataset(tmp_path, check_counts=False)
    assert data.name == "prcc" and data.root == tmp_path / place

    def where(people: list[Person]) -> list[tuple[int, int, int]]:
        return [(person.pid, person.camid, person.clothes) for person in people]

    assert where(data.train) == [(2, 1, 1), (2, 3, 2)]
    assert where(data.query) == [(1, 3, 2), (4, 3, 2)] and where(data.gallery) == [(1, 1, 1), (1, 1, 1), (4, 1, 1)]
    same = read_dataset(tmp_path, check_counts=False, protocol="same-clothes", with_val=True)
    assert where(same.query) == [(1, 2, 1), (4, 2, 1)] and len(same.train) == 3
    assert data.query[0].iuv_place == tmp_path / place / "iuv" / "test" / "C" / "001" / "cropped_rgb001.png"
    assert "17896 train, 3873 query, 3384 gallery" in error_of(tmp_path)
    assert "22898 train, 3543 query" in error_of(tmp_path, protocol="same-clothes", with_val=True)
    assert "same-clothes or cloth-changing, got 'standard'" in error_of(
        tmp_path, check_counts=False, protocol="standard"
    )
    assert "gallery must be all or single-shot, got 'some'" in error_of(tmp_path, check_counts=False, gallery="some")
    single = read_dataset(tmp_path, check_counts=False, gallery="single-shot")
    assert single.gallery_draws == 10 and single.gallery == data.gallery and "drawn 10 times" in single.notes()[0]


def test_mars(tmp_path: Path) -> None:
    make_mars(tmp_path / "mars")
    data = read_dataset(tmp_path, check_counts=False)
    assert data.name == "mars" and data.pool_tracklets and "pooled" in data.notes()[0]
    assert [(it.pid, it.camid, it.tracklet) for it in data.train] == [(1, 1, 1), (1, 1, 1), (3, 2, 2)]
    assert [(it.pid, it.camid, it.tracklet) for it in data.query] == [(2, 1, 2), (2, 1, 2), (4, 3, 4)]
    # Junk is dropped, and the distractor stays.
    assert [(it.pid, it.camid, it.tracklet) for it in data.gallery] == [(2, 2, 3)] * 3 + [(0, 5, 5)]
    assert "8298 train, 1980 query, 9330 gallery tracklets as published, got 2 train, 2 query, 2 gallery" in error_of(
        tmp_path
    )
    few = read_dataset(tmp_path, check_counts=False, frames=2)
    assert [it.path.name for it in few.gallery][:2] == ["0002C2T0001F001.jpg", "0002C2T0001F003.jpg"]
    assert len(few.train) == 3
    (tmp_path / "mars" / "bbox_test" / "0002" / "0002C1T0001F001.jpg").unlink()
    assert "0002C1T0001F001.jpg, got no such file" in error_of(tmp_path, check_counts=False)


def test_broken_files_of_mars_are_named(tmp_path: Path) -> None:
    from scipy.io import savemat

    info = make_mars(tmp_path) / "info"
    savemat(info / "query_IDX.mat", {"query_IDX": np.array([[9]])})
    assert "must number the 5 test tracklets from 1" in error_of(tmp_path, check_counts=False)
    savemat(info / "tracks_test_info.mat", {"track_test_info": np.array([[1, 99, 2, 1]] * 5)})
    savemat(info / "query_IDX.mat", {"query_IDX": np.array([[1]])})
    assert "must be within test_name.txt, which has 8 lines, got 1 to 99" in error_of(tmp_path, check_counts=False)
    (info / "tracks_train_info.mat").write_bytes(b"no")
    assert "tracks_train_info.mat must be a MATLAB file" in error_of(tmp_path, check_counts=False)
    (info / "query_IDX.mat").unlink()
    assert "needs query_IDX.mat" in error_of(tmp_path, check_counts=False)


def test_fit_and_eval_score_by_the_data_sets_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people = SynthConfig(identities=6, cameras=3, images_per_camera=2, clothes=2, height=32, width=16)
    make_dataset(tmp_path / "people", people)
    scores = {}
    for protocol in ("standard", "cloth-changing"):
        run = fit(
            DataConfig(str(tmp_path / "people"), options={"protocol": protocol}, p=2, k=2, workers=0),
            MODEL,
            augment=AUGMENT,
            trainer=TrainerConfig(max_epochs=1, accelerator="cpu", progress=False),
            out=tmp_path / protocol,
        )
        command = ["eval", str(run.checkpoint), str(tmp_path / "people"), "--options", f"{{protocol: {protocol}}}"]
        assert main([*command, "--workers", "0", "--json_out", str(tmp_path / "scores.json")]) == 0
        assert ("in the same clothes" in capsys.readouterr().out) == (protocol == "cloth-changing")
        scores[protocol] = json.loads((tmp_path / "scores.json").read_text())["mAP"]
        assert run.scores["mAP"] == pytest.approx(scores[protocol], abs=1e-6)
    assert scores["standard"] != scores["cloth-changing"]  # the same network, as both runs have one seed
