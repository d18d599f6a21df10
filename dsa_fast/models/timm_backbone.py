"""Backbones from timm: any network with a feature map at stride 16 (`pip install timm`)."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsa_fast.imagenet import MEAN, STD

STRIDE = 16


class TimmBackbone(nn.Module):
    """A timm network up to its last feature map at stride 16: images [B, 3, H, W] -> F [B, out_channels, H/16, W/16].

    Images are normalized with ImageNet's usual mean and standard deviation. If timm's weights need other values, the
    backbone converts the images first.

    Args:
        name: the network's name in `timm.list_models()`, without `timm/`.
        pretrained: `"imagenet"` for timm's own weights (downloaded by timm), the path of a state dict with timm's
            names, or None for random weights.
        frozen: layers up to this stride (2, 4 or 8) are not trained, nor are their norms updated; 0: none.

    Attributes:
        name: the name with `timm/`.
        width: 1; timm's networks are not scaled.
        out_channels: channels of F.

    Raises:
        FileNotFoundError: `pretrained` is a path and there is no file.
        ModuleNotFoundError: timm is not installed.
        ValueError: timm has no such network, the network has no feature map at stride 16, or its weights can't be
            downloaded, can't be read or don't fit.
    """

    #: timm's batch norms include activations.
    keeps_batch_norms = True

    in_scale: Tensor | None
    in_shift: Tensor | None

    def __init__(self, name: str, *, pretrained: str | os.PathLike[str] | None = None, frozen: int = 0) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ModuleNotFoundError(f"backbone 'timm/{name}' needs timm: pip install timm ({error})") from error
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.split('_')[0]}*")[:6]
            hint = f"; similar names: {', '.join(near)}" if near else ""
            raise ValueError(f"backbone must name one of timm's networks, got 'timm/{name}'{hint}")
        self.name, self.width = f"timm/{name}", 1.0
        options, index, self._channels_last = _open(name)
        loading: dict[str, Any] = {}
        if pretrained == "imagenet":
            loading = {"pretrained": True}
        elif pretrained is not None:
            loading = {
                "pretrained": True,
                "pretrained_cfg_overlay": {"state_dict": _read(name, Path(pretrained), options)},
            }
        logger = logging.getLogger("timm.models._builder")
        level = logger.level
        logger.setLevel(logging.ERROR)  # timm warns about each unused layer after F
        try:
            self.net: Any = timm.create_model(name, features_only=True, out_indices=(index,), **options, **loading)
        except Exception as error:  # timm's downloads fail in many ways
            if pretrained != "imagenet":
                raise
            raise ValueError(
                f"pretrained='imagenet': timm can't get the weights of {name} ({type(error).__name__}: {error}). "
                f"Pass the path of a state dict with timm's names, or None for random weights"
            ) from error
        finally:
            logger.setLevel(level)
        info: Any = self.net.feature_info
        family, _, number = info.get_dicts()[-1]["module"].partition(".")
        blocks = getattr(self.net, "blocks", None)
        if family == "blocks" and isinstance(blocks, nn.Sequential):
            self.net.blocks = blocks[: int(number) + 1]  # otherwise timm runs the later blocks needlessly
        self.out_channels: int = info.channels()[-1]
        config = timm.get_pretrained_cfg(name)
        mean, std = (MEAN, STD) if config is None else (config.mean, config.std)
        scale = shift = None
        if (tuple(mean), tuple(std)) != (tuple(MEAN), tuple(STD)):
            ours, theirs = ([torch.tensor(x).view(3, 1, 1) for x in pair] for pair in ((MEAN, STD), (mean, std)))
            scale, shift = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
        self.register_buffer("in_scale", scale, persistent=False)
        self.register_buffer("in_shift", shift, persistent=False)
        self._frozen = self._up_to(frozen) if frozen else []
        for module in self._frozen:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], normalized float -> F [B, out_channels, H/16, W/16]."""
        if self.in_scale is not None and self.in_shift is not None:
            images = images * self.in_scale + self.in_shift
        out: Tensor = self.net(images)[-1]
        return out.permute(0, 3, 1, 2) if self._channels_last else out

    def train(self, mode: bool = True) -> TimmBackbone:
        """Sets the mode. Frozen layers stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.training = False
        return self

    def _up_to(self, stride: int) -> list[nn.Module]:
        """Lists all modules up to the end of the stage with this stride, in timm's order of creation."""
        places = {info["reduction"]: info["module"].replace(".", "_") for info in self.net.feature_info.info}
        if stride not in (2, 4, 8) or stride not in places:
            known = ", ".join(str(place) for place in places if place < STRIDE) or "none"
            raise ValueError(f"frozen must be 0 or the stride of a feature map ({known} in {self.name}), got {stride}")
        modules = list(self.net.named_modules())
        names = [name.replace(".", "_") for name, _ in modules]
        last = max(i for i, name in enumerate(names) if f"{name}_".startswith(f"{places[stride]}_"))
        # Only modules with parameters of their own. A container that also holds later stages has none.
        return [
            module for _, module in modules[1 : last + 1] if next(module.parameters(recurse=False), None) is not None
        ]


def _open(name: str) -> tuple[dict[str, Any], int, bool]:
    """Finds the options for images of any size, the index of the map at stride 16, and whether channels come last.

    Raises:
        ValueError: the network has no such map.
    """
    import timm

    net: Any = None
    options: dict[str, Any] = {}
    candidates: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
    for options in candidates:
        try:
            net = timm.create_model(name, features_only=True, **options)
        except TypeError:  # the network has no such option
            continue
        except (RuntimeError, AttributeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"backbone: timm's {name} has no feature maps ({error})") from error
        break
    assert net is not None
    strides = net.feature_info.reduction()
    if STRIDE not in strides:
        raise ValueError(
            f"backbone must have a feature map at stride {STRIDE}, got timm/{name}, whose maps have {strides}"
        )
    place = max(number for number, stride in enumerate(strides) if stride == STRIDE)
    channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
    with torch.no_grad():
        shape = list(net.eval()(torch.zeros(1, 3, 128, 64))[place].shape)
    if channels_last:
        shape = [shape[0], shape[3], *shape[1:3]]
    if shape != [1, net.feature_info.channels()[place], 128 // STRIDE, 64 // STRIDE]:
        raise ValueError(f"backbone timm/{name} must map 128 x 64 pixels to 8 x 4 positions, got {shape}")
    index = net.feature_info.out_indices[place] if hasattr(net.feature_info, "out_indices") else place
    return options, index, channels_last


def _read(name: str, path: Path, options: dict[str, Any]) -> dict[str, Tensor]:
    """Reads a state dict and checks its names and shapes against the network's. The classifier may be missing."""
    import timm

    if not path.is_file():
        raise FileNotFoundError(f"pretrained must be 'imagenet', None or a file; there is no file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, pickle.UnpicklingError) as error:
        first = str(error).strip().split("\n")[0]
        raise ValueError(f"pretrained: {str(path)!r} is not a file of tensors ({first})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(
            f"pretrained: {str(path)!r} must hold a state dict (names to tensors), got {type(state).__name__}"
        )
    with torch.device("meta"):
        whole = timm.create_model(name, **options).state_dict()
    config = timm.get_pretrained_cfg(name)
    head = (config.classifier if config is not None else None) or ()
    heads = tuple(f"{part}." for part in ((head,) if isinstance(head, str) else head))
    needed = {key: value.shape for key, value in whole.items() if not key.startswith(heads)}
    missing = [key for key in needed if key not in state and not key.endswith("num_batches_tracked")]
    wrong = [
        f"{key} {list(state[key].shape)} instead of {list(shape)}"
        for key, shape in needed.items()
        if key in state and state[key].shape != shape and "pos_embed" not in key
    ]
    if missing or wrong:
        lists = [
            f"{len(items)} {what}: {', '.join(items[:4])}{', ...' if len(items) > 4 else ''}"
            for what, items in (("names are missing", missing), ("shapes differ", wrong))
            if items
        ]
        raise ValueError(f"pretrained={str(path)!r} does not fit timm's {name}: {'; '.join(lists)}")
    return state
