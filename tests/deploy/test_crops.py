"""Crops of people from a video: detectors in all their forms, tracks, and the folder that is labeled."""

from __future__ import annotations

import csv
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from dsa_fast.cli import main
from dsa_fast.data.registry import read_dataset
from dsa_fast.deploy import detectors
from dsa_fast.deploy.detectors import OnnxDetector, TorchvisionDetector, load_detector
from dsa_fast.deploy.tracks import Tracker, write_crops
from dsa_fast.deploy.video import count_frames, read_frames

RED, BLUE = (200, 30, 30), (30, 30, 200)


def make_video(path: Path, frames: int = 12) -> Path:
    """A red person walks to the right, and a blue one stands, hides for two frames and is back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 96, "yuv420p", 4_000_000
        for number in range(frames):
            picture = np.full((96, 160, 3), 128, np.uint8)
            picture[10:80, 8 + 3 * number : 32 + 3 * number] = RED
            if number not in (4, 5):
                picture[16:88, 120:144] = BLUE
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


class ByColor:
    """Finds the red and the blue person."""

    def __call__(self, picture: Tensor) -> Tensor:
        found = []
        for score, (high, low) in ((0.9, (0, 2)), (0.8, (2, 0))):
            mask = (picture[high] > 150) & (picture[low] < 90)
            if mask.sum() > 100:
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                found.append([*map(float, box), score])
        return torch.tensor(found).reshape(-1, 5)


# Videos and tracks


def test_frames_of_a_video(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4")
    frames = list(read_frames(video, lambda number: number % 5 == 0))
    assert [number for number, _ in frames] == [0, 5, 10] and count_frames(video) == 12
    assert all(picture.shape == (3, 96, 160) and picture.dtype == torch.uint8 for _, picture in frames)
    (tmp_path / "no.mp4").write_bytes(b"no video")
    for read in (lambda path: list(read_frames(path, lambda _: True)), count_frames):
        with pytest.raises(ValueError, match=r"no\.mp4 must be a video"):
            read(tmp_path / "no.mp4")


def boxes(*corners: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)


def test_tracker_joins_the_largest_overlaps_first() -> None:
    tracker = Tracker(min_iou=0.3, patience=2)
    a, b = (0.0, 0.0, 10.0, 20.0), (6.0, 0.0, 16.0, 20.0)
    assert [track.number for track in tracker(boxes(a, b))] == [1, 2]
    # The new box overlaps both tracks, and the second more; the order of the boxes does not matter.
    assert [track.number for track in tracker(boxes((5.0, 0.0, 15.0, 20.0), (1.0, 0.0, 11.0, 20.0)))] == [2, 1]
    assert [track.number for track in tracker(boxes((100.0, 0.0, 110.0, 20.0)))] == [3]
    assert tracker(boxes()) == []
    # Tracks 1 and 2 were not seen for two steps, and end with the third.
    assert [track.number for track in tracker(boxes((1.0, 0.0, 11.0, 20.0)))] == [4]
    assert [track.number for track in tracker(boxes((100.0, 0.0, 110.0, 20.0)))] == [5]
    with pytest.raises(ValueError, match="min_iou must be above 0"):
        Tracker(0)
    with pytest.raises(ValueError, match="patience must be at least 1"):
        Tracker(patience=0)


def test_tracker_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    tracker = Tracker(min_iou=0.2, patience=3)
    last: dict[int, tuple[list[float], int]] = {}
    for step in range(1, 40):
        corner = rng.uniform(0, 40, (rng.integers(0, 6), 2))
        new = np.concatenate((corner, corner + rng.uniform(5, 20, corner.shape)), 1)
        found = [track.number for track in tracker(torch.from_numpy(new).float())]
        pairs = []
        for number, (box, seen) in last.items():
            for place, other in enumerate(new.tolist()):
                both = [max(0, min(box[k + 2], other[k + 2]) - max(box[k], other[k])) for k in (0, 1)]
                area = [(each[2] - each[0]) * (each[3] - each[1]) for each in (box, other)]
                iou = both[0] * both[1] / (sum(area) - both[0] * both[1])
                if step - seen <= 3 and iou >= 0.2:
                    pairs.append((iou, number, place))
        expected: dict[int, int] = {}
        for _, number, place in sorted(pairs, reverse=True):
            if number not in expected.values() and place not in expected:
                expected[place] = number
        for place, number in enumerate(found):
            assert expected.get(place, number) == number and (place in expected or number > max(last, default=0))
            last[number] = (new[place].tolist(), step)


def test_crops_are_what_the_boxes_show(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4")
    tracks = write_crops(read_frames(video, lambda _: True), ByColor(), tmp_path, min_height=32)
    assert [(track.number, len(track.sights)) for track in tracks] == [
        (1, 12),
        (2, 10),
    ]  # blue is back after two frames
    for track, color in zip(tracks, (RED, BLUE), strict=True):
        names = sorted(path.name for path in (tmp_path / track.name).iterdir())
        assert names == [f"{sight.frame:06d}.jpg" for sight in track.sights]
        from dsa_fast.image import read_image

        image = read_image(tmp_path / track.name / names[-1])
        sight = track.sights[-1]
        assert image.shape == (3, sight.h, sight.w)
        assert (image[:, 8:-8, 8:-8].float().mean((1, 2)) - torch.tensor(color)).abs().max() < 25
    # Short tracks are removed with their folders.
    (tmp_path / "b").mkdir()
    some = write_crops(read_frames(video, lambda _: True), ByColor(), tmp_path / "b", min_height=32, min_images=11)
    assert [track.number for track in some] == [1] and [path.name for path in (tmp_path / "b").iterdir()] == [
        "track_0001"
    ]


# Detectors


def constant_onnx(path: Path, outputs: dict[str, np.ndarray], shape: list[int | str]) -> Path:
    """A file that gives the same outputs for any picture."""
    nodes = [
        helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value, name))
        for name, value in outputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in outputs.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return path


TORCHVISION = {
    "boxes": np.array([[10, 20, 30, 60], [1, 1, 5, 5]], np.float32),
    "labels": np.array([1, 3], np.int64),
    "scores": np.array([0.9, 0.8], np.float32),
}


def test_onnx_as_torchvision_exports_it(tmp_path: Path) -> None:
    path = constant_onnx(tmp_path / "a.onnx", TORCHVISION, [3, "H", "W"])
    found = load_detector(str(path), device=torch.device("cpu"))(torch.zeros(3, 100, 50, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.tensor([[10, 20, 30, 60, 0.9]]))
    # Of a fixed size, the boxes are those of the scaled picture: 200 x 100 to 100 x 50 in 100 x 100.
    path = constant_onnx(tmp_path / "b.onnx", TORCHVISION, [3, 100, 100])
    found = OnnxDetector(path)(torch.zeros(3, 200, 100, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.tensor([[20, 40, 60, 120, 0.9]]))


def test_onnx_as_yolo_exports_it(tmp_path: Path) -> None:
    table = np.zeros((1, 6, 9), np.float32)  # two classes, nine boxes
    table[0, :, 0] = [20, 40, 20, 40, 0.9, 0.1]
    table[0, :, 1] = [21, 41, 20, 40, 0.8, 0.1]  # the same person
    table[0, :, 2] = [60, 40, 10, 40, 0.7, 0.1]
    table[0, :, 3] = [60, 80, 10, 40, 0.2, 0.6]  # another class
    path = constant_onnx(tmp_path / "a.onnx", {"output0": table}, [1, 3, 64, 64])
    found = OnnxDetector(path)(torch.zeros(3, 128, 128, dtype=torch.uint8))  # boxes twice as large
    torch.testing.assert_close(found, torch.tensor([[20, 40, 60, 120, 0.9], [110, 40, 128, 120, 0.7]]))
    merged = np.zeros((1, 300, 6), np.float32)
    merged[0, 0], merged[0, 1] = [10, 20, 30, 60, 0.9, 0], [1, 1, 5, 5, 0.8, 2]
    path = constant_onnx(tmp_path / "b.onnx", {"output0": merged}, [1, 3, "h", "w"])
    found = OnnxDetector(path, size=64)(torch.zeros(3, 64, 64, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.tensor([[10, 20, 30, 60, 0.9]]))


def test_onnx_gets_the_picture_it_expects(tmp_path: Path) -> None:
    """The scaled picture is at the top left, in 0..1, and the border is gray: the file gives it back as a box."""
    nodes = [
        helper.make_node("Constant", [], ["axes"], value=onnx.numpy_helper.from_array(np.array([2, 3]))),
        helper.make_node("ReduceMax", ["image", "axes"], ["most"], keepdims=0),  # [1, 3]
        helper.make_node("ReduceMin", ["image", "axes"], ["least"], keepdims=0),
        helper.make_node("Concat", ["most", "least"], ["six"], axis=1),
        helper.make_node("Constant", [], ["shape"], value=onnx.numpy_helper.from_array(np.array([1, 1, 6]))),
        helper.make_node("Reshape", ["six", "shape"], ["raw"]),
        helper.make_node("Constant", [], ["keep"], value=onnx.numpy_helper.from_array(np.float32([1, 1, 1, 1, 1, 0]))),
        helper.make_node("Mul", ["raw", "keep"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1, 6])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "a.onnx")
    picture = torch.tensor([255, 51, 0], dtype=torch.uint8)[:, None, None].expand(3, 32, 16)
    (found,) = OnnxDetector(tmp_path / "a.onnx")(picture).tolist()
    # Largest red, green and blue, then the least red and green; boxes are divided by the scale, 2.
    np.testing.assert_allclose(found, [1 / 2, 114 / 255 / 2, 114 / 255 / 2, 114 / 255 / 2, 51 / 255], atol=1e-6)


def test_wrong_detectors_are_refused(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match=r"detector must be torchvision or an \.onnx file, got yolo"):
        load_detector("yolo", device=cpu)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_detector(str(tmp_path / "none.onnx"), device=cpu)
    (tmp_path / "bad.onnx").write_bytes(b"no")
    with pytest.raises(ValueError, match="that ONNX Runtime reads"):
        OnnxDetector(tmp_path / "bad.onnx")
    with pytest.raises(ValueError, match="size must be at least 32"):
        OnnxDetector(tmp_path / "bad.onnx", size=8)
    with pytest.raises(ValueError, match="weights must not be given with an ONNX file"):
        load_detector(str(tmp_path / "bad.onnx"), weights=tmp_path / "w.pth", device=cpu)
    path = constant_onnx(tmp_path / "input.onnx", TORCHVISION, [1, 64, 64, 3])
    with pytest.raises(ValueError, match=r"must have one input, .* got image: tensor\(float\) \[1, 64, 64, 3\]"):
        OnnxDetector(path)
    path = constant_onnx(tmp_path / "output.onnx", {"a": np.zeros((2, 3), np.float32)}, [1, 3, 64, 64])
    with pytest.raises(ValueError, match=r"must give boxes .* got float32 \[2, 3\]"):
        OnnxDetector(path)(torch.zeros(3, 64, 64, dtype=torch.uint8))


def test_torchvision_with_weights_of_a_file(tmp_path: Path) -> None:
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn

    torch.manual_seed(0)
    torch.save(fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None).state_dict(), tmp_path / "w.pth")
    found = TorchvisionDetector(tmp_path / "w.pth", device=torch.device("cpu"))(
        torch.zeros(3, 64, 48, dtype=torch.uint8)
    )
    assert found.dtype == torch.float32 and found.dim() == 2 and found.shape[1] == 5
    torch.save({"a": torch.zeros(1)}, tmp_path / "no.pth")
    with pytest.raises(ValueError, match="does not fit this network"):
        TorchvisionDetector(tmp_path / "no.pth", device=torch.device("cpu"))


# The command


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(detectors, "load_detector", lambda *_, **__: ByColor())
    door, yard = make_video(tmp_path / "door.mp4"), make_video(tmp_path / "yard one.mp4")
    out = tmp_path / "crops"
    every = ["--out", str(out), "--every", "2", "--min_height", "32"]
    assert main(["crops", str(door), *every]) == 0
    assert "2 tracks with 11 images" in capsys.readouterr().out
    rows = rows_of(out / "people.csv")
    assert [(row["path"], row["pid"], row["camid"], row["images"]) for row in rows] == [
        ("door/track_0001", "door-0001", "door", "6"),
        ("door/track_0002", "door-0002", "door", "5"),
    ]
    assert (rows[0]["first_frame"], rows[0]["last_frame"]) == ("0", "10")
    # The same camera again is refused. A second one is added, and what was labeled stays.
    assert main(["crops", str(door), *every]) == 1
    assert "--overwrite replaces them" in capsys.readouterr().err
    table = out / "people.csv"
    table.write_text(table.read_text().replace("door-0001", "alice").replace("door-0002", "bob"))
    assert main(["crops", str(yard), *every, "--camera", "yard"]) == 0
    assert [row["pid"] for row in rows_of(table)] == ["alice", "bob", "yard-0001", "yard-0002"]
    table.write_text(table.read_text().replace("yard-0001", "alice").replace("yard-0002", "bob"))
    # The folder is a data set, and can be split.
    data = read_dataset(out)
    assert len(data.train) == 22 and data.pid_names == {1: "alice", 2: "bob"}
    assert data.camera_names == {1: "door", 2: "yard"} and not data.is_split
    assert main(["split", str(out)]) == 0
    halves = read_dataset(out / "split.csv")
    assert len(halves.train) == 11 or len(halves.train) == 10 or len(halves.train) == 12
    assert {person.camid for person in halves.query} == {1, 2}
    # A camera can be made anew.
    assert main(["crops", str(door), *every, "--overwrite"]) == 0
    assert [row["pid"] for row in rows_of(table)] == ["alice", "bob", "door-0001", "door-0002"]
    assert sorted(path.name for path in out.iterdir()) == ["door", "people.csv", "split.csv", "yard"]


def test_command_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(detectors, "load_detector", lambda *_, **__: lambda picture: torch.zeros(0, 5))
    video, out = make_video(tmp_path / "a.mp4", 3), str(tmp_path / "out")
    for arguments, message in (
        ([str(tmp_path / "none.mp4")], "VIDEO must be a file"),
        ([str(video), "--every", "0"], "every must be at least 1"),
        ([str(video), "--min_score", "2"], "min_score must be in 0..1"),
        ([str(video), "--camera", "a/b"], "camera must be a name for a folder"),
        ([str(video), "--camera", "iuv"], "camera must not be iuv"),
        ([str(video)], "must show people whom the detector finds, got no track"),
    ):
        assert main(["crops", *arguments, "--out", out]) == 1
        assert message in " ".join(capsys.readouterr().err.split()), message
    assert not (tmp_path / "out").exists()


def test_a_row_of_a_folder_stands_for_its_images(tmp_path: Path) -> None:
    from tests.data.trees import touch_images

    touch_images(tmp_path, ["t1/0.jpg", "t1/1.jpg", "t2/0.jpg", "maps/0.png"])
    (tmp_path / "empty").mkdir()
    table = tmp_path / "people.csv"
    table.write_text("path,pid,iuv\nt1,alice,\nt2/0.jpg,bob,\n")
    data = read_dataset(table)
    assert [(person.path.name, person.pid) for person in data.train] == [("0.jpg", 1), ("1.jpg", 1), ("0.jpg", 2)]
    assert data.train[0].iuv_place == tmp_path / "iuv" / "t1" / "0.png"
    table.write_text("path,pid,iuv\nempty,alice,\nt1,bob,maps/0.png\nt1,,\n")
    with pytest.raises(
        ValueError, match=r"(?s)3 broken rows of 3.*empty must hold.*iuv must be empty.*line 4: pid must"
    ):
        read_dataset(table)
