"""Same person or not: calibration, its check on other people, and the commands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dsa_fast.cli import main
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.deploy import Encoder, calibrate, read_sidecar
from dsa_fast.deploy.sidecar import sidecar_path
from dsa_fast.deploy.verification import judge, probability_at
from tests.deploy.built_runtime import DIM, make_engine, photo, write_sidecar
from tests.evaluation.test_same_person import people


@pytest.mark.parametrize("kind", ["isotonic", "logistic"])
def test_promised_rates_hold_for_other_people(kind: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = make_engine(tmp_path / "x.onnx")
    query, gallery = people(160, 8)
    sidecar = calibrate(path, query, gallery, "patches", probability=kind)
    assert read_sidecar(path) == sidecar and sidecar.verification is not None
    found = sidecar.verification
    assert found["people"] == found["checked"]["people"] == 80 and found["data"] == "patches"
    assert list(found["thresholds"]) == ["0.01", "0.001", "0.0001"]
    assert 0.005 < found["checked"]["fmr"]["0.01"] < 0.02 and 0.0003 < found["checked"]["fmr"]["0.001"] < 0.003
    values = list(found["thresholds"].values())
    assert values == sorted(values)
    # The probability rises from 0 to 1, and is one half where both kinds of pairs are as frequent.
    chances = [probability_at(found["probability"], cosine) for cosine in np.linspace(-1, 1, 50)]
    assert chances == sorted(chances) and 0 <= chances[0] < 0.05 and 0.9 < chances[-1] <= 1
    assert 0.15 < probability_at(found["probability"], found["eer_threshold"]) < 0.85
    verdict = judge(found, path, values[1] + 0.01, 1e-3)
    assert verdict.same and verdict.data == "patches" and verdict.threshold == values[1]
    assert not judge(found, path, values[1] - 0.01, 1e-3).same
    with pytest.raises(ValueError, match="fmr must be one of the calibrated rates, 0.01, 0.001, 0.0001, got 0.5"):
        judge(found, path, 0.5, 0.5)


def test_few_pairs_give_few_thresholds(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    path = make_engine(tmp_path / "x.onnx")
    found = calibrate(path, *people(30, 6), "patches").verification
    assert found is not None and list(found["thresholds"]) == ["0.01"] and found["probability"]["kind"] == "logistic"
    with pytest.raises(ValueError, match="must have 1,000 pairs of different people, a query"):
        calibrate(path, *people(6, 4), "patches")
    with pytest.raises(ValueError, match="must have queries of at least 4 people, got 3"):
        calibrate(path, *people(3, 4), "patches")
    with pytest.raises(ValueError, match="probability must be one of auto, isotonic, logistic, got 'x'"):
        calibrate(path, *people(30, 6), "patches", probability="x")  # type: ignore[arg-type]


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    path = make_engine(tmp_path / "x.onnx")
    data = tmp_path / "people"
    make_dataset(data, SynthConfig(identities=72, cameras=2, images_per_camera=2, height=48, width=24), workers=1)
    photos = sorted((data / "query").glob("*.jpg")) or sorted(data.rglob("*.jpg"))
    two = [str(photos[0]), str(photos[-1])]
    assert main(["verify", *two, "--encoder", str(path)]) == 1
    assert "must be calibrated before it can tell people apart: run dsa-fast calibrate" in capsys.readouterr().err
    assert main(["calibrate", str(path), str(data), "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "Equal error rate" in text and "Too few pairs" in text and sidecar_path(path).name in "".join(text.split())
    assert main(["verify", *two, "--encoder", str(path), "--fmr", "0.01"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(("same person", "different people")) and "calibrated on" in text and "probability" in text
    assert main(["verify", two[0], two[0], "--encoder", str(path), "--fmr", "0.01"]) == 0
    assert capsys.readouterr().out.startswith("same person: the cosine 1.0000 reaches ")
    assert main(["verify", *two, "--encoder", str(path), "--fmr", "0.0001"]) == 1
    assert "fmr must be one of the calibrated rates" in capsys.readouterr().err
    verdict = Encoder.load(path).verify(two[0], two[0], fmr=0.01)
    assert verdict.same and math.isclose(verdict.cosine, 1, abs_tol=1e-5) and 0.5 < verdict.probability <= 1
    checkpoint = tmp_path / "x.ckpt"
    checkpoint.touch()
    assert main(["calibrate", str(checkpoint), str(data)]) == 1
    assert "ENCODER must be a file of dsa-fast export" in capsys.readouterr().err
    assert json.loads(sidecar_path(path).read_text())["output"]["dim"] == DIM


def test_search_marks_one_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    path = make_engine(tmp_path / "x.onnx")
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(4):
        photo(60, 30, seed=i).save(photos / f"{i}.png")
    index, vectors, out = tmp_path / "index", tmp_path / "v.npz", tmp_path / "found.json"
    assert main(["embed", str(path), str(photos), str(vectors)]) == 0
    assert main(["search", "build", str(index), str(vectors)]) == 0
    query = ["search", "query", str(index), str(photos / "2.png"), "--encoder", str(path), "--json_out", str(out)]
    logistic = {"kind": "logistic", "slope": 9.0, "offset": -4.0}
    for thresholds, same in (({"0.001": 0.99999}, [True, False, False, False]), ({"0.01": 0.5}, [None] * 4)):
        verification = {"data": "patches", "thresholds": thresholds, "probability": logistic}
        write_sidecar(path, verification=verification)
        capsys.readouterr()
        assert main(query) == 0
        text = capsys.readouterr().out
        assert text.count("  = ") == same.count(True) and ("= one person" in text) == (None not in same)
        (found,) = json.loads(out.read_text())
        assert [each["same"] for each in found["found"]] == same
