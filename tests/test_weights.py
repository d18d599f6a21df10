"""Files of weights: what is read, what is refused, and what the errors say."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import ResNet18_Weights

from dsa_fast.weights import download_state, load_named, read_state

ASKED: dict[str, Any] = {"name": "pretrained", "known": "'imagenet', None or a file", "model": "resnet18"}


def small() -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), bn=nn.BatchNorm2d(4)))


def filled() -> nn.Sequential:
    """A network whose every tensor is nonzero and unlike the others."""
    network = small()
    with torch.no_grad():
        for number, value in enumerate(network.state_dict().values(), 1):
            value.copy_(torch.arange(value.numel()).view(value.shape) + 10 * number)
    return network


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_a_state_dict_is_read_as_it_was_saved(tmp_path: Path, kind: type) -> None:
    state = kind(filled().state_dict())
    torch.save(state, tmp_path / "x.pth")
    for source in (tmp_path / "x.pth", str(tmp_path / "x.pth")):
        got = read_state(source, **ASKED)
        assert list(got) == list(state) and all(torch.equal(got[name], state[name]) for name in state)


def test_a_missing_file_says_what_the_argument_may_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pretrained must be 'imagenet', None or a file; .*none\.pth"):
        read_state(tmp_path / "none.pth", **ASKED)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_state(tmp_path, **ASKED)


@pytest.mark.parametrize(
    ("saved", "got"),
    [
        ([torch.zeros(1)], "got list"),
        (torch.zeros(1), "got Tensor"),
        ({"epoch": 3, "state_dict": {}}, "got a dict with epoch, state_dict"),
        (dict.fromkeys("abcdef", 1), r"got a dict with a, b, c, d, \.\.\."),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, saved: object, got: str) -> None:
    torch.save(saved, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"pretrained: .*x\.pth' must hold a state dict .* resnet18 gives, {got}"):
        read_state(tmp_path / "x.pth", **ASKED)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(filled().state_dict(), whole)
    for name, content in (("cut", whole.read_bytes()[:-300]), ("text", b"no weights"), ("empty", b"")):
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"pretrained: .*{name}\.pth' is not a file of tensors"):
            read_state(path, **ASKED)


def test_no_pickled_code_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"a": Evil()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="is not a file of tensors"):
        read_state(tmp_path / "x.pth", **ASKED)
    assert not (tmp_path / "ran").exists()


DOWNLOAD: dict[str, Any] = {"name": "weights=None", "what": "the weights", "argument": "weights"}


def test_downloads_are_checked_and_loaded_without_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def download(url: str, **options: object) -> dict[str, torch.Tensor]:
        asked.update(options, url=url)
        return filled().state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    assert list(download_state(ResNet18_Weights.IMAGENET1K_V1, **DOWNLOAD)) == list(small().state_dict())
    assert asked["url"] == ResNet18_Weights.IMAGENET1K_V1.url
    assert asked["check_hash"] is True and asked["weights_only"] is True and asked["map_location"] == "cpu"


@pytest.mark.parametrize("error", [OSError("unreachable"), RuntimeError("invalid hash value"), EOFError("cut")])
def test_a_failing_download_says_how_to_bring_the_file(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(url: str, **_: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    with pytest.raises(ValueError, match="weights=None: the weights can't be downloaded from https://") as caught:
        download_state(ResNet18_Weights.IMAGENET1K_V1, **DOWNLOAD, otherwise="; or go without")
    file = ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    for words in (str(error), f"weights='/path/to/{file}'", str(Path(torch.hub.get_dir()) / "checkpoints")):
        assert words in str(caught.value)
    assert str(caught.value).endswith("; or go without")


@pytest.mark.parametrize("prefix", ["", "layer4."])
def test_entries_are_loaded_by_name(prefix: str) -> None:
    wanted, network = filled().state_dict(), small()
    state = {prefix + name: value for name, value in wanted.items()}
    load_named(network, {**state, "fc.weight": torch.zeros(2)}, prefix=prefix)
    assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    load_named(network, old, prefix=prefix)


def test_what_does_not_fit_is_listed_and_changes_nothing() -> None:
    network = filled()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = {**small().state_dict(), "conv.bias": torch.zeros(5)}
    del state["bn.weight"], state["bn.bias"]
    with pytest.raises(ValueError, match="the file does not fit this network: 2 missing: bn.weight, bn.bias; ") as e:
        load_named(network, state, source="the file")
    assert str(e.value).endswith("1 of another shape: conv.bias [5] instead of [4]")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
