"""DensePose in a TorchScript file: a tiny network of random weights with the interface of DensePose-TorchScript."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from dsa_fast.cli import main
from dsa_fast.densepose.iuv import read_iuv
from dsa_fast.densepose.person_choice import choose_person
from dsa_fast.densepose.prepare import MAKER_KEY, SCORE_KEY
from dsa_fast.densepose.results import iuv_from_result
from dsa_fast.densepose.torchscript import ScriptedDensePose

SIZE = (64, 32)


class Tiny(nn.Module):
    """Finds three people in an image, none in a dark one. Reads B, G, R: the score of the last is that of blue."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Conv2d(3, 2 + 25 + 25 + 25, 1)
        nn.init.normal_(self.heads.weight, std=8.0)
        with torch.no_grad():
            self.heads.weight[:2] = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[..., None, None]  # about half is a person
            self.heads.bias[:2] = torch.tensor([0.0, -0.2])

    def forward(self, original_image: Tensor, bgr: bool = True) -> dict[str, Tensor]:
        assert original_image.dtype == torch.uint8 and original_image.shape[0] == 3
        image = original_image.to(self.heads.weight.dtype) / 255
        height, width = float(image.shape[1]), float(image.shape[2])
        boxes = torch.tensor(
            [
                [0.0, 0.0, 0.3 * width, height],
                [0.15 * width + 0.7, 1.4, 0.95 * width, height - 0.2],
                [0.2 * width, 0.1 * height, width, 0.6 * height],
            ]
        )
        scores = torch.stack([torch.tensor(0.9), torch.tensor(0.7), 2.6 * image[0].float().mean()])
        if bool(image.max() < 0.1):
            boxes, scores = boxes[:0], scores[:0]
        views = [F.adaptive_avg_pool2d(image.float() * (1 + i), [14, 14]) for i in range(3)]
        outputs = self.heads(torch.stack(views)[: len(boxes)].to(self.heads.weight.dtype))
        return {
            "image_size": torch.tensor([int(height), int(width)]),
            "pred_boxes": boxes,
            "scores": scores,
            "pred_classes": torch.zeros(len(boxes), dtype=torch.int64),
            "pred_densepose_coarse_segm": outputs[:, :2],
            "pred_densepose_fine_segm": outputs[:, 2:27],
            "pred_densepose_u": outputs[:, 27:52],
            "pred_densepose_v": outputs[:, 52:],
        }


def save(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module.eval()), path)
    return path


def photo(path: Path, seed: int, bright: int = 256) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, bright, (*SIZE, 3), dtype=np.uint8)
    pixels[..., 2] //= 2  # blue: the third person must not win
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    torch.manual_seed(0)
    return Tiny()


@pytest.fixture(scope="module")
def weights(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny, tmp_path_factory.mktemp("weights") / "tiny.ts")


def expected(tiny: Tiny, image: Path) -> tuple[Tensor, float]:
    """detectron2's converter, written plainly, for the chosen person."""
    with Image.open(image) as file:
        pixels = torch.from_numpy(np.array(file)[:, :, ::-1].transpose(2, 0, 1).copy())
    with torch.no_grad():
        found = tiny(pixels)
    best = choose_person(found["pred_boxes"], found["scores"], SIZE)
    assert best is not None
    box = found["pred_boxes"][best].tolist()
    width, height = int(box[2] - box[0]), int(box[3] - box[1])
    coarse, fine, u, v = (
        F.interpolate(found[f"pred_densepose_{name}"][best][None], (height, width), mode="bilinear")[0]
        for name in ("coarse_segm", "fine_segm", "u", "v")
    )
    labels = fine.argmax(0) * (coarse.argmax(0) > 0)
    uv = torch.stack([u.gather(0, labels[None])[0], v.gather(0, labels[None])[0]])
    return iuv_from_result(labels, uv, box, SIZE), float(found["scores"][best])


def test_maps_are_those_of_the_converter_for_the_chosen_person(tiny: Tiny, weights: Path, tmp_path: Path) -> None:
    images = [photo(tmp_path / f"{i}.png", i) for i in range(4)]
    densepose = ScriptedDensePose(weights)
    found = densepose.estimate([densepose.load(image) for image in images])
    for image, result in zip(images, found, strict=True):
        want, score = expected(tiny, image)
        assert result is not None and score == pytest.approx(0.7) and result.score == pytest.approx(0.7)
        assert int((want[0] > 0).sum()) > 100
        same = (result.iuv[0] == want[0]).double().mean()
        assert same > 0.99, "a tie may round differently"
        difference = (result.iuv[1:].int() - want[1:].int()).abs()[:, result.iuv[0] == want[0]]
        assert int(difference.max()) <= 1


def test_the_command_makes_resumes_and_reports(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    for i in range(3):
        photo(images / f"{i}.png", i)
    photo(images / "dark.png", 9, bright=10)
    arguments = ["prepare", str(images), "--method", "torchscript", "--torchscript.weights", str(weights)]
    arguments += ["--device", "cpu", "--batch", "2"]
    assert main(arguments) == 0
    report = json.loads((images / "iuv" / "prepare.json").read_text())
    assert report["maker"] == "DensePose" and report["detected"] == 3 and report["undetected"] == ["dark.png"]
    assert report["settings"]["method"] == "torchscript" and len(report["settings"]["weights_sha256"]) == 64
    with Image.open(images / "iuv" / "1.png") as file:
        assert file.info[MAKER_KEY] == "DensePose" and file.info[SCORE_KEY] == "0.7"
    before = read_iuv(images / "iuv" / "1.png")
    (images / "iuv" / "1.png").unlink()
    assert main(arguments) == 0 and "made 1 maps" in capsys.readouterr().out
    assert torch.equal(read_iuv(images / "iuv" / "1.png"), before), "a resumed run makes the same map"
    assert main([*arguments, "--torchscript.min_score", "0.5"]) == 1
    assert "min_score was 0.3, is 0.5" in capsys.readouterr().err


def test_people_below_the_score_are_ignored(weights: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png", 1)
    densepose = ScriptedDensePose(weights, min_score=0.8)
    (found,) = densepose.estimate([densepose.load(image)])
    assert found is not None and found.score == pytest.approx(0.9), "the person at the edge is the only one left"
    densepose = ScriptedDensePose(weights, min_score=0.95)
    assert densepose.estimate([densepose.load(image)]) == [None]


def test_a_module_in_half_precision_runs_on_a_cpu(tiny: Tiny, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = save(Tiny().half(), tmp_path / "half.ts")
    image = photo(tmp_path / "a.png", 1)
    densepose = ScriptedDensePose(path)
    (found,) = densepose.estimate([densepose.load(image)])
    assert found is not None and (found.iuv[0] == expected(tiny, image)[0][0]).double().mean() > 0.9


class Tuple(nn.Module):
    """As exports that return a tuple: boxes and heads, no scores."""

    def __init__(self, tiny: Tiny) -> None:
        super().__init__()
        self.tiny = tiny

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        found = self.tiny(image)
        return (
            found["pred_boxes"],
            found["pred_densepose_coarse_segm"],
            found["pred_densepose_fine_segm"],
            found["pred_densepose_u"],
            found["pred_densepose_v"],
        )


def test_a_tuple_without_scores_is_read_too(tiny: Tiny, tmp_path: Path) -> None:
    path = save(Tuple(tiny), tmp_path / "tuple.ts")
    image = photo(tmp_path / "a.png", 1)
    densepose = ScriptedDensePose(path)
    (found,) = densepose.estimate([densepose.load(image)])
    want, _ = expected(tiny, image)
    assert found is not None and found.score == 1 and (found.iuv[0] == want[0]).double().mean() > 0.99
    dark = photo(tmp_path / "dark.png", 9, bright=10)
    assert densepose.estimate([densepose.load(dark)]) == [None]


def test_images_are_resized_and_boxes_scaled_back(weights: Path, tmp_path: Path) -> None:
    image = photo(tmp_path / "a.png", 1)
    large, small = ScriptedDensePose(weights, min_size=64), ScriptedDensePose(weights, min_size=16)
    for densepose, shape in ((large, (3, 128, 64)), (small, (3, 32, 16))):
        loaded = densepose.load(image)
        assert loaded.pixels.shape == shape and loaded.pixels.dtype == torch.uint8
        (found,) = densepose.estimate([loaded])
        assert found is not None and found.iuv.shape == (3, *SIZE)
        columns = (found.iuv[0] > 0).any(0).nonzero()
        assert int(columns.min()) >= 4 and int(columns.max()) <= 31
    rgb = ScriptedDensePose(weights, channels="RGB")
    assert torch.equal(rgb.load(image).pixels, ScriptedDensePose(weights).load(image).pixels.flip(0))
    with pytest.raises(ValueError, match="min_size must be at least 1, got 0"):
        ScriptedDensePose(weights, min_size=0)


class Other(nn.Module):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"boxes": image}


class Tall(nn.Module):
    def forward(self, image: Tensor, scale: Tensor) -> Tensor:
        return image * scale


def test_files_that_are_no_such_module(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.ts"):
        ScriptedDensePose(tmp_path / "nothing.ts")
    with pytest.raises(ValueError, match=r"min_score must be in 0..1"):
        ScriptedDensePose(weights, min_score=3)
    (tmp_path / "text.ts").write_text("no archive")
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.ts")
    (tmp_path / "cut.ts").write_bytes(weights.read_bytes()[:2000])
    with zipfile.ZipFile(tmp_path / "empty.ts", "w") as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/code/__torch__.py", b"")
    for name, message in (
        ("text.ts", "must be a TorchScript archive"),
        ("state.ts", "without code; use --method detectron2"),
        ("cut.ts", "must be a TorchScript archive"),
        ("empty.ts", "that this PyTorch loads"),
    ):
        with pytest.raises(ValueError, match=message):
            ScriptedDensePose(tmp_path / name)
    image = photo(tmp_path / "a.png", 1)
    for module, message in ((Other(), "got .*, which returns boxes"), (Tall(), "must be a DensePose module")):
        densepose = ScriptedDensePose(save(module, tmp_path / "other.ts"))
        with pytest.raises(ValueError, match=message):
            densepose.estimate([densepose.load(image)])


def test_the_command_says_which_option_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo(tmp_path / "images" / "a.png", 1)
    assert main(["prepare", str(tmp_path / "images"), "--method", "torchscript"]) == 1
    assert "needs --torchscript.weights" in capsys.readouterr().err
