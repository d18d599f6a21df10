"""Models as folders of the Hugging Face hub: config.json, model.safetensors and a model card."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dsa_fast.extras import require
from dsa_fast.files import atomic_path, check_regular, read_json
from dsa_fast.models.checkpoint import LoadedModel, load_model

__all__ = ["SCHEME", "download", "from_pretrained", "save_pretrained"]

#: `hf://user/repo` names a model, `hf://user/repo/FILE` a file of it, `hf://user/repo@REVISION` one of its versions.
SCHEME = "hf://"

_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"
_KEY = "dsa_fast"


def save_pretrained(
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    name: str = "",
    figures: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the model of a training checkpoint as a folder for the hub: `huggingface-cli upload user/repo FOLDER`.

    Args:
        checkpoint: a `.ckpt` file written by `dsa-fast fit`.
        folder: the folder to write; files of these names are replaced.
        name: the model's name for its card; by default the folder's.
        figures: measured numbers for the card, such as {"mAP on Market-1501": 0.871}.

    Returns:
        The folder.

    Raises:
        FileNotFoundError, ValueError: see `load_model`; or safetensors is not installed.
    """
    safetensors = require("safetensors.torch", "saving a model for the hub")
    loaded = load_model(checkpoint)  # checks it
    about = torch.load(checkpoint, map_location="cpu", weights_only=True)[_KEY]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().clone().contiguous() for name, value in loaded.model.state_dict().items()}
    described = {**about, "format": 2}
    described["model"] = {key: value for key, value in about["model"].items() if key != "trunk"}
    if "trunk" in about["model"]:  # format 1
        described["model"]["backbone"] = about["model"]["trunk"]
    # config.json is written last: without it, the folder is no model.
    with atomic_path(folder / _WEIGHTS) as temporary:
        safetensors.save_file(weights, str(temporary), metadata={"format": "pt"})
    with atomic_path(folder / _CARD) as temporary:
        temporary.write_text(_card(name or folder.name, loaded, described, figures or {}), encoding="utf-8")
    with atomic_path(folder / _CONFIG) as temporary:
        temporary.write_text(json.dumps({_KEY: described}, indent=2) + "\n", encoding="utf-8")
    return folder


def from_pretrained(source: str | os.PathLike[str], *, revision: str | None = None) -> LoadedModel:
    """Reads a model from a folder of `save_pretrained`, or from the hub. Runs no pickled code.

    Args:
        source: the folder, or `user/repo` with or without `hf://`.
        revision: branch, tag or commit on the hub.

    Raises:
        ValueError: the files are not a model of this package, the download fails, or a library is missing.
    """
    folder = Path(source)
    if folder.is_dir():
        config, weights = folder / _CONFIG, folder / _WEIGHTS
    else:
        repo = os.fspath(source).removeprefix(SCHEME)
        config, weights = (download(f"{SCHEME}{repo}/{name}", revision=revision) for name in (_CONFIG, _WEIGHTS))
    safetensors = require("safetensors.torch", "reading a model of the hub")
    try:
        check_regular(weights)
        about = read_json(config)[_KEY]
        state = safetensors.load_file(str(weights))
    except Exception as error:  # safetensors raises its own kinds
        raise ValueError(f"source must have {_CONFIG} and {_WEIGHTS} of dsa_fast, got {source}: {error}") from error
    with tempfile.TemporaryDirectory() as work:
        # As a checkpoint, so that one function checks and builds all models.
        path = Path(work) / "model.ckpt"
        torch.save({_KEY: about, "state_dict": {f"model.{name}": value for name, value in state.items()}}, path)
        try:
            return load_model(path)
        except Exception as error:
            reason = str(error).replace(str(path), str(source))
            raise ValueError(f"source must be a model of dsa_fast, got {source}: {reason}") from error


def download(source: str, *, revision: str | None = None) -> Path:
    """Downloads a file of the hub, or finds it in the cache.

    Args:
        source: `hf://user/repo/FILE` or `hf://user/repo@REVISION/FILE`.
        revision: overrides the one in `source`.

    Raises:
        ValueError: `source` has another form, huggingface_hub is not installed, or the download fails.
    """
    user, _, rest = source.removeprefix(SCHEME).partition("/")
    repo, _, file = rest.partition("/")
    repo, _, named = repo.partition("@")
    if not source.startswith(SCHEME) or not user or not repo or not file:
        raise ValueError(f"source must be hf://user/repo/FILE, got {source}")
    hub = require("huggingface_hub", "downloading a model")
    try:
        return Path(hub.hf_hub_download(f"{user}/{repo}", file, revision=revision or named or None))
    except Exception as error:  # network, permission and missing files raise many kinds
        raise ValueError(f"{source} can't be downloaded: {error}") from error


def _card(name: str, loaded: LoadedModel, about: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    height, width = loaded.size
    rows = "\n".join(
        f"| {key} | {value:.4g} |" if isinstance(value, float) else f"| {key} | {value} |"
        for key, value in figures.items()
    )
    measured = f"| measure | value |\n|---|---|\n{rows}" if rows else "Nothing was measured."
    return f"""---
library_name: dsa_fast
license: apache-2.0
pipeline_tag: image-feature-extraction
tags:
- person-re-identification
---

# {name}

{type(loaded.model).__name__} of dsa_fast (densely semantically aligned person re-identification, Zhang et al., 2019):
backbone {about["model"]["backbone"]}, images of {height} x {width} pixels.

```python
from dsa_fast import Encoder

encoder = Encoder.load("hf://USER/REPO")
vectors = encoder(["a.jpg", "b.jpg"])  # unit vectors: their inner product is the cosine
```

## Measured

{measured}

## Limits

Vectors of people differ by clothes and light as much as by person. Measure the error rates on people and cameras like
those of the application before use (`dsa-fast calibrate`).
"""
