"""`dsa-fast rank`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dsa_fast.cli import main
from dsa_fast.cli.rank import pick_queries
from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data.people import Person
from dsa_fast.models import ModelConfig
from dsa_fast.training import ReIDTask
from tests.data.trees import PRCC, make_tree, touch_images
from tests.evaluation.people import result_of


def test_queries_are_picked() -> None:
    people = [Person(Path("a") / f"{i}.jpg", None, i + 1, 1) for i in range(6)]
    result = result_of([0.5, 0.1, np.nan, 0.1, 0.9, 0.3])
    assert pick_queries("all", people, result, 2, 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert pick_queries("worst", people, result, 3, 0).tolist() == [1, 3, 5]
    assert pick_queries("worst", people, result, 9, 0).tolist() == [1, 3, 5, 0, 4]
    random = pick_queries("random", people, result, 4, 7).tolist()
    assert (
        random == sorted(set(random))
        and len(random) == 4
        and random == pick_queries("random", people, result, 4, 7).tolist()
    )
    assert any(pick_queries("random", people, result, 4, seed).tolist() != random for seed in range(5))
    assert pick_queries("4.jpg, 1,4", people, result, 1, 0).tolist() == [4, 1]
    with pytest.raises(ValueError, match=r"names of query files .*\(such as 0.jpg\), got 'nobody'"):
        pick_queries("1.jpg,nobody", people, result, 1, 0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny untrained model."""
    model = ModelConfig(backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)
    torch.manual_seed(0)
    task = ReIDTask(3, model, augment=AugmentConfig(size=(32, 16), dsap_size=16, pad=2))
    path = tmp_path_factory.mktemp("model") / "last.ckpt"
    state: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(state)
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = [f"{pid:04}_c{cam}s1_{i:06}_00.png" for pid in (3, 4, 5) for cam in (1, 2) for i in range(3)]
    tree = {
        "bounding_box_train": ["0001_c1s1_000000_00.png", "0001_c2s1_000000_00.png"],
        "query": names[::3],
        "bounding_box_test": [n for i, n in enumerate(names) if i % 3]
        + ["-1_c1s1_000000_00.png", "0000_c2s1_000000_00.png"],
    }
    return make_tree(tmp_path_factory.mktemp("data") / "people", tree)


def test_command_writes_everything(
    checkpoint: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--workers", "0", "--device", "cpu"]
    out = tmp_path / "a"
    assert (
        main(["rank", str(checkpoint), str(people), "--out", str(out), "--queries", "all", "--k", "4", *options]) == 0
    )
    assert "mAP" in (text := capsys.readouterr().out) and "report.html" in text
    names = {"activations.png", "cmc.png", "distances.png", "ranked.png", "ranks.json", "report.html"}
    assert {p.name for p in out.iterdir()} == names
    ranks = json.loads((out / "ranks.json").read_text())
    assert len(ranks["queries"]) == 6 and 0 <= ranks["mAP"] <= 1
    for query in ranks["queries"]:
        counted = [item for item in query["list"] if item["rank"]]
        assert [item["rank"] for item in counted] == [1, 2, 3, 4]
        first = next((item["rank"] for item in counted if item["is"] == "right"), None)
        assert query["first_right_rank"] == first or (first is None and query["first_right_rank"] > 4)
        for item in query["list"]:
            own = item["file"][:7] == query["file"][:7]
            assert (item["is"] == "left out: same camera") == own and (item["is"] == "left out: junk") == (
                item["file"][0] == "-"
            )
    again = ["rank", str(checkpoint), str(people), "--out", str(tmp_path / "b"), "--queries", "all", "--k", "4"]
    assert main([*again, *options]) == 0
    for name in names:
        assert (tmp_path / "b" / name).read_bytes() == (out / name).read_bytes(), name

    some = ["--queries", "worst", "--count", "2", "--html", "false", "--activation", "none", "--metric", "euclidean"]
    assert main(["rank", str(checkpoint), str(people), "--out", str(tmp_path / "c"), *some, "--fused", *options]) == 0
    assert {p.name for p in (tmp_path / "c").iterdir()} == names - {"activations.png", "report.html"}
    worst = json.loads((tmp_path / "c" / "ranks.json").read_text())["queries"]
    assert len(worst) == 2 and worst[0]["average_precision"] <= worst[1]["average_precision"]
    capsys.readouterr()
    assert (
        main(["rank", str(checkpoint), str(people), "--out", str(tmp_path / "d"), "--queries", "x.png", *options]) == 1
    )
    assert "got 'x.png'" in capsys.readouterr().err and not (tmp_path / "d").exists()


@pytest.mark.parametrize("cameras", [True, False])
def test_people_and_cameras_are_called_by_their_ids(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cameras: bool
) -> None:
    """Of your own data: in the pictures, the page and the JSON file."""
    import dsa_fast.visual.ranked_lists as pictures

    places = [f"{who}/{camera}" if cameras else who for who in ("alice", "bob") for camera in ("door", "yard")]
    for number, place in enumerate(places):
        touch_images(tmp_path / "photos", [f"{place}/{number}.png"], (32, 16))
    said: list[str] = []
    monkeypatch.setattr(pictures, "captioned", lambda tile, lines, **_: said.extend(lines) or tile)
    command = ["rank", str(checkpoint), str(tmp_path / "photos"), "--out", str(tmp_path / "out"), "--queries", "all"]
    assert main([*command, "--workers", "0", "--device", "cpu"]) == 0
    assert {"alice", "bob"} <= set(said) and not any("pid" in line for line in said)
    assert {line for line in said if line.startswith("camera")} == (
        {"camera door", "camera yard"} if cameras else set()
    )
    rows = json.loads((tmp_path / "out" / "ranks.json").read_text())["queries"]
    assert {row["pid"] for row in rows} == {item["pid"] for item in rows[0]["list"]} == {"alice", "bob"}
    assert {row["camera"] for row in rows} == ({"door", "yard"} if cameras else {None})
    page = (tmp_path / "out" / "report.html").read_text()
    assert '"people":{"1":"alice","2":"bob"}' in page
    assert ('"cameras":{"1":"camera door","2":"camera yard"}' if cameras else '"cameras":{}') in page


def test_one_image_of_each_person_is_drawn(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """PRCC's single-shot gallery, in `eval` and `rank`."""
    touch_images(tmp_path / "prcc", PRCC, (32, 16))
    options = ["--options", "{gallery: single-shot}", "--check_counts", "false", "--workers", "0", "--device", "cpu"]
    scores = tmp_path / "scores.json"
    more = ["--json_out", str(scores), "--rerank", "--expand", "1"]
    assert main(["eval", str(checkpoint), str(tmp_path / "prcc"), *options, *more]) == 0
    assert "2 queries, 2 gallery images" in (text := capsys.readouterr().out) and "means over the draws" in text
    written = json.loads(scores.read_text())
    assert len(written["draws"]) == 10
    assert written["mAP"] == pytest.approx(np.mean([draw["mAP"] for draw in written["draws"]]))
    out = ["--out", str(tmp_path / "out"), "--queries", "all", "--html", "false", "--activation", "none"]
    assert main(["rank", str(checkpoint), str(tmp_path / "prcc"), *options, *out]) == 0
    assert "the first of 10 draws" in capsys.readouterr().out
    ranks = json.loads((tmp_path / "out" / "ranks.json").read_text())
    assert [len(row["list"]) for row in ranks["queries"]] == [2, 2]
    assert ranks["mAP"] == written["draws"][0]["mAP"]


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["rank", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "dsa-fast rank" in text and "--queries" in text and "default:" in text
