"""The smallest run of each command, on inputs made by code: for tests of kills, full disks and odd surroundings."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from dsa_fast.cli import COMMANDS, commands_of
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.models import ModelConfig

__all__ = ["CASES", "FIT", "MODEL", "Case", "make_inputs"]

MODEL = ["--model.backbone=resnet18", "--model.pretrained=null", "--model.width=0.125", "--model.classifier_dim=16"]
FIT = [
    *("--data.p=2", "--data.k=2", "--data.workers=0", "--data.cache=off", "--augment.size=[32,16]"),
    *("--augment.dsap_size=8", "--augment.pad=2", "--trainer.accelerator=cpu", "--trainer.progress=false"),
]
_SYNTH = ["--identities=4", "--cameras=2", "--images_per_camera=2", "--height=32", "--width=16"]


@dataclass
class Case:
    """A command.

    Attributes:
        arguments: the inputs and the folder to write into -> the command's arguments, the first time and again.
        before: prepares the folder.
        needs: modules without which it can't run.
        costly: a run takes seconds, so few tries are affordable.
        only_long: killed only with --kills: it takes long, or writes one file at its end.
        reads_only: writes nothing.
    """

    arguments: Callable[[Path, Path], list[str]]
    before: Callable[[Path, Path], None] = lambda inputs, out: None
    needs: tuple[str, ...] = ()
    costly: bool = False
    only_long: bool = False
    reads_only: bool = False

    @property
    def can_run(self) -> bool:
        return all(importlib.util.find_spec(name) for name in self.needs)


def make_inputs(folder: Path) -> Path:
    """A data set, joints, bodies, a module of DensePose, vectors, an index, a checkpoint, an ONNX file and a video."""
    from dsa_fast.deploy.vector_files import Vectors, write_vectors
    from dsa_fast.models import build_model
    from dsa_fast.models.checkpoint import describe_network
    from tests.fuzz import corpus

    config = SynthConfig(identities=4, cameras=2, images_per_camera=2, height=32, width=16, distractors=0, junk=0)
    make_dataset(folder / "people", config)
    images = sorted((folder / "people" / "bounding_box_train").iterdir())
    joints = np.random.default_rng(0).uniform(2, 14, (len(images), 17, 3)).astype(np.float32)
    joints[..., 1] *= 2
    joints[..., 2] = 1
    np.savez(folder / "joints.npz", names=[image.name for image in images], keypoints=joints)
    random = np.random.default_rng(1)
    for name, count in (("first", 300), ("more", 50)):
        paths = np.array([f"{name}/{i}.jpg" for i in range(count)])
        boxes, frames = np.zeros((count, 4), np.int64), np.full(count, -1, np.int64)
        vectors = random.standard_normal((count, 16)).astype(np.float32)
        write_vectors(folder / f"{name}.npz", [Vectors(vectors, paths, frames, boxes, "e")])
    torch.manual_seed(0)
    model = ModelConfig(backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)
    net = build_model(2, model)
    checkpoint: dict[str, Any] = {"state_dict": {f"model.{name}": value for name, value in net.state_dict().items()}}
    describe_network(checkpoint, 2, model, size=(32, 16), dsap_size=8, reduce="last", parts="warp")
    torch.save(checkpoint, folder / "model.ckpt")
    base = {"data": {"p": 2, "k": 2, "workers": 0, "cache": "off"}, "trainer": {"max_epochs": 2, "accelerator": "cpu"}}
    base |= {"model": {"backbone": "resnet18", "pretrained": None, "width": 0.125, "classifier_dim": 16}}
    base |= {"augment": {"size": [32, 16], "dsap_size": 8, "pad": 2}}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    for number in range(72):
        for image in range(2):
            place = folder / "crowd" / f"{number:03}" / f"{image}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (16, 8, 3), dtype=np.uint8)).save(place)
    (folder / "bodies").mkdir()
    for image in images:
        (folder / "bodies" / f"{image.stem}.npz").write_bytes(corpus.bodies()[0])
    if CASES["prepare --method=smpl"].can_run:
        (folder / "uv.mat").write_bytes(corpus.charts()[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(_DensePose()), folder / "densepose.pt")
    if importlib.util.find_spec("onnx"):
        from tests.deploy.built_runtime import make_engine, write_sidecar

        verification = corpus.VERIFICATIONS[0] | {"thresholds": {"0.001": 0.5}}
        write_sidecar(make_engine(folder / "x.onnx"), verification=verification)
        (folder / "detector.onnx").write_bytes(corpus.detectors()[0])
    if importlib.util.find_spec("av"):
        (folder / "video.mp4").write_bytes(dict(corpus.videos())[".mp4"])
    return folder


class _DensePose(torch.nn.Module):
    """Finds one person, of one part, in every image."""

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        coarse, fine = torch.ones(1, 2, 4, 4), torch.ones(1, 25, 4, 4)
        coarse[:, 1], fine[:, 3] = 2, 2
        return torch.tensor([[0.0, 0.0, 9.0, 9.0]]), coarse, fine, fine, fine


def _fit(inputs: Path, out: Path) -> list[str]:
    again = ["--resume"] if list((out / "run" / "checkpoints").glob("*.ckpt")) else []
    train = ["--trainer.max_epochs=3", "--trainer.eval_every=3", f"--data.root={inputs / 'people'}"]
    return ["fit", *FIT, *MODEL, *train, "--out", str(out / "run"), *again]


def _index(inputs: Path, out: Path) -> None:
    from dsa_fast.deploy.index import VectorIndex
    from dsa_fast.deploy.vector_files import read_vectors

    VectorIndex.build(out / "index", read_vectors(inputs / "first.npz"))


def _engine(inputs: Path, out: Path) -> None:
    for name in ("x.onnx", "x.onnx.json"):
        (out / name).write_bytes((inputs / name).read_bytes())


def _prepare(method: str, *more: str) -> Callable[[Path, Path], list[str]]:
    def arguments(inputs: Path, out: Path) -> list[str]:
        filled = [each.format(inputs) for each in more]
        images = str(inputs / "people" / "bounding_box_train")
        common = ["--out", str(out / "maps"), "--batch=2", "--workers=1", "--device=cpu"]
        return ["prepare", images, f"--method={method}", "--name=folder", *filled, *common]

    return arguments


#: By the command's name, and for `prepare` the method.
CASES = {
    "demo": Case(
        lambda inputs, out: ["demo", "--out", str(out / "demo"), "--identities=6", "--epochs=2", "--device=cpu"],
        costly=True,
        only_long=True,
    ),
    "synth": Case(lambda inputs, out: ["synth", *_SYNTH, "--out", str(out / "people")]),
    "crops": Case(
        lambda inputs, out: [
            *("crops", str(inputs / "video.mp4"), "--out", str(out / "crops"), "--detector"),
            *(str(inputs / "detector.onnx"), "--every=1", "--min_images=1", "--min_height=1"),
        ],
        needs=("av", "onnx", "onnxruntime"),
        costly=True,
    ),
    "split": Case(
        lambda inputs, out: ["split", str(inputs / "crowd"), "--out", str(out / "split.csv"), "--overwrite"],
        costly=True,
    ),
    "prepare": Case(_prepare("keypoints", "--keypoints.file={0}/joints.npz")),
    "prepare --method=smpl": Case(
        _prepare("smpl", "--smpl.folder={0}/bodies", "--smpl.uv={0}/uv.mat"), needs=("scipy",), only_long=True
    ),
    "prepare --method=torchscript": Case(
        _prepare("torchscript", "--torchscript.weights={0}/densepose.pt"), only_long=True
    ),
    "fit": Case(_fit),
    "eval": Case(
        lambda inputs, out: [
            *("eval", str(inputs / "model.ckpt"), str(inputs / "people"), "--workers=0", "--device=cpu"),
            *("--json_out", str(out / "scores.json")),
        ],
        only_long=True,
    ),
    "inspect": Case(
        lambda inputs, out: ["inspect", str(inputs / "people"), "--out", str(out / "inspected")], only_long=True
    ),
    "pack": Case(lambda inputs, out: ["pack", str(inputs / "people"), "--out", str(out / "maps.dsaiuv")]),
    "tables": Case(
        lambda inputs, out: [
            *("tables", "--rows=two_branches", "--seeds=0", "--base", str(inputs / "base.yaml")),
            *("--out", str(out / "tables"), f"--data.root={inputs / 'people'}"),
        ],
        costly=True,
    ),
    "rank": Case(
        lambda inputs, out: [
            *("rank", str(inputs / "model.ckpt"), str(inputs / "people"), "--out", str(out / "report")),
            *("--images=folder", "--workers=0", "--device=cpu"),
        ],
        costly=True,
    ),
    "export": Case(
        lambda inputs, out: [
            *("export", str(inputs / "model.ckpt"), "--out", str(out / "mf.onnx")),
            *("--images", str(inputs / "people" / "query")),
        ],
        needs=("onnx", "onnxruntime"),
        costly=True,
        only_long=True,
    ),
    "calibrate": Case(
        lambda inputs, out: ["calibrate", str(out / "x.onnx"), str(inputs / "crowd"), "--workers=0", "--device=cpu"],
        before=_engine,
        needs=("onnx", "onnxruntime", "sklearn"),
        costly=True,
    ),
    "verify": Case(
        lambda inputs, out: [
            *("verify", str(inputs / "crowd" / "000" / "0.png"), str(inputs / "crowd" / "000" / "1.png")),
            *("--encoder", str(inputs / "x.onnx"), "--device=cpu"),
        ],
        needs=("onnx", "onnxruntime"),
        reads_only=True,
    ),
    "embed": Case(
        lambda inputs, out: [
            *("embed", str(inputs / "model.ckpt"), str(inputs / "people"), str(out / "vectors.parquet")),
            *("--part=4", "--batch=4", "--workers=1", "--device=cpu"),
        ],
        needs=("pyarrow",),
    ),
    "search build": Case(
        lambda inputs, out: ["search", "build", str(out / "index"), str(inputs / "first.npz"), "--kind=HNSW8"],
        needs=("faiss",),
    ),
    "search add": Case(
        lambda inputs, out: ["search", "add", str(out / "index"), str(inputs / "more.npz")],
        before=_index,
        needs=("faiss",),
    ),
    "search query": Case(
        lambda inputs, out: [
            *("search", "query", str(out / "index"), str(inputs / "more.npz"), "--json_out", str(out / "found.json")),
        ],
        before=_index,
        needs=("faiss",),
        only_long=True,
    ),
    "warp": Case(
        lambda inputs, out: [
            *("warp", str(next((inputs / "people" / "query").iterdir()))),
            *(str(next((inputs / "people" / "iuv" / "query").iterdir())), "--out", str(out / "warped.png")),
        ],
        only_long=True,
    ),
    "info": Case(lambda inputs, out: ["info"], reads_only=True),
    "completion": Case(lambda inputs, out: ["completion", "bash"], needs=("shtab",), reads_only=True),
}


def all_names() -> set[str]:
    """The names of all commands, as in `CASES`."""
    names = set()
    for name in COMMANDS:
        found = commands_of(name)
        names |= {name} if callable(found) else {f"{name} {action}" for action in found}
    return names
