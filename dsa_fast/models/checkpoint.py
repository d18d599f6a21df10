"""Checkpoints: training writes a description of the network next to its weights, and `load_model` reads it."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from dsa_fast.configs.model import ModelConfig
from dsa_fast.models.baselines import Baseline
from dsa_fast.models.build import build_model
from dsa_fast.models.dsa_reid import DSAReID
from dsa_fast.models.guides import DenseDecoder

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
        decoder: the decoder of the `dense` guide, in eval mode, which predicts the parts from the map F; None if the
            model was trained without it. Test vectors and exports do not need it.
    """

    model: DSAReID | Baseline
    size: tuple[int, int]
    dsap_size: int
    reduce: Literal["last", "mean"] = "last"
    parts: Literal["warp", "crop"] = "warp"
    decoder: DenseDecoder | None = None


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Reads the model of a training checkpoint. Runs no pickled code.

    Args:
        path: a `.ckpt` file written by `dsa-fast fit` or `dsa-fast demo`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a folder, or not a checkpoint of this package, or its network has no features.
    """
    path = Path(path)
    if not path.is_file():
        if path.exists():
            raise ValueError(f"checkpoint must be a .ckpt file of dsa-fast fit, got the folder {path}")
        raise FileNotFoundError(f"checkpoint must be a .ckpt file of dsa-fast fit, got {path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        about = checkpoint[_KEY]
    except Exception as error:  # torch raises many types of error, with advice that does not apply here
        kind = "" if isinstance(error, KeyError) else f" ({type(error).__name__} while reading it)"
        raise ValueError(f"checkpoint must be a file written by dsa-fast fit, got {path}{kind}") from error
    try:
        loaded = _build(about, checkpoint["state_dict"])
    except Exception as error:  # parts that are missing or of another type fail in many ways
        about = f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise ValueError(f"checkpoint must be a file written by dsa-fast fit, got {path}: {about}") from error
    if loaded.model.branches == "none":
        raise ValueError(
            f"checkpoint must have features, got a backbone that was trained alone (model.branches none): {path}; "
            f"start from it with dsa-fast fit --model.pretrained {path}"
        )
    return loaded


_MOST_IDS, _MOST_PIXELS, _MOST_WIDTH = 10_000_000, 4096, 16.0


def _build(about: dict[str, Any], weights: dict[str, Any]) -> LoadedModel:
    """Builds the network of a description with its weights. Checks both before memory is allocated for the network."""
    kind = about["format"]
    if kind not in (1, _FORMAT):
        raise ValueError(f"it must have format 1 or {_FORMAT}, got {kind}")
    prefix = "model."
    state = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    options = dict(about["model"])
    if kind == 1:
        options["backbone"] = options.pop("trunk")
        state = {name.replace("mf_stream.trunk.", "mf_stream.backbone."): value for name, value in state.items()}
    config = ModelConfig(**{**options, "pretrained": None})
    _check_config(config)
    size = about["size"]
    if not isinstance(size, (list, tuple)) or len(size) != 2:
        raise ValueError(f"its size must be height and width, got {size!r}")
    numbers = {"num_ids": (about["num_ids"], 1, _MOST_IDS), "dsap_size": (about["dsap_size"], 1, _MOST_PIXELS)}
    numbers |= {name: (side, 1, _MOST_PIXELS) for name, side in zip(("height", "width"), size, strict=True)}
    for name, (value, low, high) in numbers.items():
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"its {name} must be a whole number in {low}..{high}, got {value!r}")
    reduce, parts = about["reduce"], about.get("parts", "warp")
    if reduce not in ("last", "mean") or parts not in ("warp", "crop"):
        raise ValueError(f"its reduce and parts must be last or mean, and warp or crop, got {reduce!r} and {parts!r}")
    with torch.device("meta"):
        needed = build_model(about["num_ids"], config).state_dict()
    _check_weights(state, needed)
    model = build_model(about["num_ids"], config)
    model.load_state_dict(state)
    decoder = _build_decoder(weights, model.mf_stream.backbone.out_channels)
    return LoadedModel(model.eval(), (size[0], size[1]), about["dsap_size"], reduce, parts, decoder)


def _build_decoder(weights: dict[str, Any], channels: int) -> DenseDecoder | None:
    """Builds the decoder from its weights, whose shapes say its width and scale; None if there are none."""
    prefix = "guides.decoder."
    state = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    if not state:
        return None
    first, last = state["conv.weight"], state["predict.weight"]
    width, scale = first.shape[0], math.isqrt(last.shape[0] // DenseDecoder.VALUES)
    if not 1 <= width <= _MOST_PIXELS or scale not in (1, 2, 4, 8, 16):
        raise ValueError(f"its decoder has the width {width} and the scale {scale}")
    with torch.device("meta"):
        needed = DenseDecoder(channels, width, scale).state_dict()
    _check_weights(state, needed)
    decoder = DenseDecoder(channels, width, scale)
    decoder.load_state_dict(state)
    return decoder.eval()


def _check_config(config: ModelConfig) -> None:
    hints = get_type_hints(ModelConfig)
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        allowed = get_args(hint)
        if get_origin(hint) is Literal:
            fine = any(value == each and type(value) is type(each) for each in allowed)
        else:
            fine = type(value) in (allowed or ((int, float) if hint is float else (hint,)))
        if not fine:
            raise ValueError(f"its model.{field.name} is {value!r}")
    if not 0 < config.width <= _MOST_WIDTH:
        raise ValueError(f"its model.width must be in 0..{_MOST_WIDTH}, got {config.width}")
    if not 1 <= config.classifier_dim <= 1 << 20:
        raise ValueError(f"its model.classifier_dim must be in 1..{1 << 20}, got {config.classifier_dim}")


def _check_weights(state: dict[str, Any], needed: dict[str, Tensor]) -> None:
    for names, what in ((needed.keys() - state.keys(), "lacks"), (state.keys() - needed.keys(), "has another's")):
        if names:
            few = ", ".join(sorted(map(str, names))[:4])
            raise ValueError(f"it {what} weights: {few}{', ...' if len(names) > 4 else ''}")
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_complex():
            raise ValueError(f"its {name} must be a dense tensor")
        if value.shape != needed[name].shape or value.is_floating_point() != needed[name].is_floating_point():
            raise ValueError(
                f"its {name} must be {needed[name].dtype} {list(needed[name].shape)}, got {value.dtype} "
                f"{list(value.shape)}"
            )
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError(f"its {name} promises more values than it has")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"its {name} must be finite, got NaN or infinity")
