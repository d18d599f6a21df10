"""Checkpoints: training writes a description of the network next to its weights, and `load_model` reads it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from dsa_fast.configs.model import ModelConfig
from dsa_fast.models.baselines import Baseline
from dsa_fast.models.build import build_model
from dsa_fast.models.dsa_reid import DSAReID

_FORMAT = 2  # format 1 called the backbone "trunk"
_KEY = "dsa_fast"


def describe_network(
    checkpoint: dict[str, Any],
    num_ids: int,
    model: ModelConfig,
    *,
    size: tuple[int, int],
    dsap_size: int,
    reduce: Literal["last", "mean"],
    parts: Literal["warp", "crop"],
) -> None:
    """Adds to a checkpoint everything that `load_model` needs next to the weights, in types that load without pickle.

    Args:
        checkpoint: a Lightning checkpoint, about to be written.
        num_ids: number of identities for the classifiers.
        model: the network's options.
        size: height and width of the input image.
        dsap_size: S, height and width of a part image.
        reduce: selects the pixel of a texel.
        parts: how part images are made.
    """
    checkpoint[_KEY] = {
        "format": _FORMAT,
        "num_ids": num_ids,
        "model": asdict(model),
        "size": list(size),
        "dsap_size": dsap_size,
        "reduce": reduce,
        "parts": parts,
    }


class LoadedModel(NamedTuple):
    """A model from a checkpoint, and the format of its training inputs.

    Attributes:
        model: the network, in eval mode, on the CPU.
        size: height and width of the input image.
        dsap_size: S, height and width of a part image.
        reduce: selects the pixel of a texel.
        parts: how part images are made.
    """

    model: DSAReID | Baseline
    size: tuple[int, int]
    dsap_size: int
    reduce: Literal["last", "mean"] = "last"
    parts: Literal["warp", "crop"] = "warp"


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Reads the model of a training checkpoint. Runs no pickled code.

    Args:
        path: a `.ckpt` file written by `dsa-fast fit` or `dsa-fast demo`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be a .ckpt file of dsa-fast fit, got {path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        about = checkpoint[_KEY]
    except Exception as error:  # torch raises many types of error, with advice that does not apply here
        kind = "" if isinstance(error, KeyError) else f" ({type(error).__name__} while reading it)"
        raise ValueError(f"checkpoint must be a file written by dsa-fast fit, got {path}{kind}") from error
    prefix = "model."
    state = {name[len(prefix) :]: value for name, value in checkpoint["state_dict"].items() if name.startswith(prefix)}
    if about["format"] == 1:
        about["model"]["backbone"] = about["model"].pop("trunk")
        state = {name.replace("mf_stream.trunk.", "mf_stream.backbone."): value for name, value in state.items()}
    elif about["format"] != _FORMAT:
        raise ValueError(f"checkpoint must have format 1 or {_FORMAT}, got {about['format']} in {path}")
    config = ModelConfig(**{**about["model"], "pretrained": None})
    model = build_model(about["num_ids"], config)
    model.load_state_dict(state)
    height, width = about["size"]
    return LoadedModel(model.eval(), (height, width), about["dsap_size"], about["reduce"], about.get("parts", "warp"))
