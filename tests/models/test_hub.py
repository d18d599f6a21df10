"""Models as folders of the hub, from a local folder and from a stub of the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dsa_fast import Encoder
from dsa_fast.deploy import BatchRange, NamedImages, export
from dsa_fast.models import from_pretrained, load_model, save_pretrained
from dsa_fast.models.hub import download
from tests.deploy.deployed import SIZE, as_arrays, save_checkpoint, smooth_images

pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("hub") / "x.ckpt")


def test_a_folder_holds_the_model(checkpoint: Path, tmp_path: Path) -> None:
    folder = save_pretrained(checkpoint, tmp_path / "reid-small", figures={"mAP on patches": 0.51234, "people": 7})
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    expected, got = load_model(checkpoint), from_pretrained(folder)
    assert got.size == SIZE and got[1:] == expected[1:]
    for name, value in expected.model.state_dict().items():
        assert torch.equal(got.model.state_dict()[name], value), name
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: dsa_fast\n") and "# reid-small" in card
    assert "| mAP on patches | 0.5123 |" in card and "| people | 7 |" in card
    images = as_arrays(smooth_images(3))
    expected_vectors = Encoder.load(checkpoint, device="cpu")(images)
    np.testing.assert_array_equal(Encoder.load(folder, device="cpu")(images), expected_vectors)


@pytest.mark.parametrize("damage", ["no config", "no weights", "other weights", "another format", "no JSON"])
def test_other_folders_are_refused(checkpoint: Path, damage: str, tmp_path: Path) -> None:
    folder = save_pretrained(checkpoint, tmp_path / "model")
    config, weights = folder / "config.json", folder / "model.safetensors"
    if damage == "no config":
        config.unlink()
    elif damage == "no weights":
        weights.unlink()
    elif damage == "other weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "another format":
        config.write_text(json.dumps({"dsa_fast": json.loads(config.read_text())["dsa_fast"] | {"format": 7}}))
    else:
        config.write_text("{")
    with pytest.raises(ValueError, match="source must "):
        from_pretrained(folder)


def test_the_hub_is_asked_for_files(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    store, cache = tmp_path / "store", tmp_path / "cache"
    save_pretrained(checkpoint, store)
    export(checkpoint, store / "mf.onnx", images=NamedImages(smooth_images(2), "patches"), batch=BatchRange(1, 1, 4))
    asked = []

    def hf_hub_download(repo_id: str, filename: str, *, revision: str | None = None) -> str:
        asked.append((repo_id, filename, revision))
        if not (store / filename).exists():
            raise FileNotFoundError("404: no such file")
        cache.mkdir(exist_ok=True)
        return str(shutil.copy(store / filename, cache / filename))

    monkeypatch.setattr(hub, "hf_hub_download", hf_hub_download)
    images = as_arrays(smooth_images(2))
    expected = np.asarray(Encoder.load(checkpoint, device="cpu")(images))
    np.testing.assert_array_equal(Encoder.load("hf://someone/reid", device="cpu")(images), expected)
    assert set(asked) == {("someone/reid", "config.json", None), ("someone/reid", "model.safetensors", None)}
    asked.clear()
    exported = Encoder.load("hf://someone/reid@v2/mf.onnx", device="cpu")
    np.testing.assert_allclose(np.asarray(exported(images)), expected, atol=2e-5)
    assert asked == [("someone/reid", "mf.onnx.json", "v2"), ("someone/reid", "mf.onnx", "v2")]
    assert from_pretrained("someone/reid").size == SIZE
    with pytest.raises(ValueError, match=r"hf://someone/reid/none.onnx.json can't be downloaded: 404"):
        Encoder.load("hf://someone/reid/none.onnx")
    with pytest.raises(ValueError, match=r"source must be hf://user/repo/FILE, got hf://reid"):
        download("hf://reid")
