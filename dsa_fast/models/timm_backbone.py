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
from dsa_fast.weights import misfits

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
        self.net: Any = _create(name, pretrained, options, features_only=True, out_indices=(index,))
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

    def head(self, stride: int, *, pretrained: str | os.PathLike[str] | None = None) -> TimmHead:
        """Makes the network's own layers between F and the spatial average, with their weights.

        Args:
            stride: 2, or 1 to leave out the stage's downsampling.
            pretrained: as for the backbone.

        Raises:
            ValueError: no stage follows F, its layers can't be separated, or they can't run at stride 1.
        """
        name = self.name.partition("/")[2]
        options = _open(name)[0]
        net = _create(name, pretrained, options, num_classes=0)
        path = self.net.feature_info.get_dicts()[-1]["module"]
        return TimmHead(self.name, net.eval(), path, stride, self._channels_last)

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


class TimmHead(nn.Sequential):
    """The layers of a timm network after F, up to the spatial average: F -> [B, out_channels, h, w].

    Args:
        name: the network's name, for messages.
        net: the whole network, in evaluation mode. Its layers are used, not copied.
        path: name of the module that computes F.
        stride: 2 or 1.
        channels_last: the layers read and write [B, h, w, C].

    Attributes:
        out_channels: number of channels of the result.

    Raises:
        ValueError: see `TimmBackbone.head`.
    """

    #: timm's batch norms include activations.
    keeps_batch_norms = True

    def __init__(self, name: str, net: nn.Module, path: str, stride: int, channels_last: bool) -> None:
        layers = _after(net, path)
        super().__init__(*layers)
        self._channels_last = channels_last
        options = f"model.pretrained_heads must be false with the backbone {name}"
        # The layers are called in the order of their registration. Compare with timm's own forward pass.
        probe = torch.randn(1, 3, 128, 64, generator=torch.Generator().manual_seed(0))
        seen: list[Tensor] = []
        hook = net.get_submodule(path).register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            with torch.no_grad():
                expected = net.forward_features(probe)  # type: ignore[operator]
                features = seen[0].permute(0, 3, 1, 2) if channels_last else seen[0]
                out = self(features)
        except Exception as error:  # layers that need more than one input, or another shape
            raise ValueError(f"{options}: its layers after stride {STRIDE} can't be separated ({error})") from error
        finally:
            hook.remove()
        if channels_last:
            expected = expected.permute(0, 3, 1, 2)
        half = [128 // (2 * STRIDE), 64 // (2 * STRIDE)]
        if not layers or list(out.shape[2:]) != half:
            raise ValueError(f"{options}: it has no stage after stride {STRIDE}")
        if out.shape != expected.shape or (out - expected).abs().max() > 1e-3 * expected.abs().max():
            raise ValueError(f"{options}: its layers after stride {STRIDE} can't be separated")
        self.out_channels: int = out.shape[1]
        if stride == 1:
            _without_stride(self)
            try:
                with torch.no_grad():
                    size = list(self(features).shape[2:])
            except Exception as error:
                raise ValueError(f"{options} and model.last_stride 1 ({error}); try model.last_stride 2") from error
            if size != [2 * side for side in half]:
                raise ValueError(
                    f"{options} and model.last_stride 1: its last stage maps 8 x 4 positions to "
                    f"{size[0]} x {size[1]}; try model.last_stride 2"
                )
        self.train()

    def forward(self, input: Tensor) -> Tensor:
        """F [B, C, H/16, W/16] -> [B, out_channels, h, w]."""
        x = input.permute(0, 2, 3, 1) if self._channels_last else input
        for layer in self:
            x = layer(x)
        return x.permute(0, 3, 1, 2) if self._channels_last else x


def _after(net: nn.Module, path: str) -> list[nn.Module]:
    """Lists the modules after the one at `path`, up to the spatial average, in the order of registration."""
    container, _, number = path.partition(".")
    layers: list[nn.Module] = []
    found = False
    for name, child in net.named_children():
        if found and name in ("global_pool", "head", "head_drop", "classifier", "fc", "fc_norm"):
            break
        if found:
            layers.append(child)
        elif name == container:
            found = True
            names = [inner for inner, _ in child.named_children()]
            if number in names:
                layers += list(child.children())[names.index(number) + 1 :]
    return layers


def _without_stride(module: nn.Module) -> None:
    """Sets stride 2 to stride 1, in place. An average pool of 2 x 2 is left out, as timm does at stride 1."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and child.stride == (2, 2):
            child.stride = (1, 1)
        elif isinstance(child, nn.AvgPool2d) and child.stride in (2, (2, 2)) and child.kernel_size in (2, (2, 2)):
            module.add_module(name, nn.Identity())
        else:
            _without_stride(child)


def _create(name: str, pretrained: str | os.PathLike[str] | None, options: dict[str, Any], **more: Any) -> Any:
    """Makes a timm network with its weights.

    Raises:
        FileNotFoundError, ValueError: see `TimmBackbone`.
    """
    import timm

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
    logger.setLevel(logging.ERROR)  # timm warns about each unused layer
    try:
        return timm.create_model(name, **options, **loading, **more)
    except Exception as error:  # timm's downloads fail in many ways
        if pretrained != "imagenet":
            raise
        raise ValueError(
            f"pretrained='imagenet': timm can't get the weights of {name} ({type(error).__name__}: {error}). "
            f"Pass the path of a state dict with timm's names, or None for random weights"
        ) from error
    finally:
        logger.setLevel(level)


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
    # timm resizes position embeddings, so only their names count.
    needed |= {key: state[key].shape for key in needed if "pos_embed" in key and key in state}
    found = misfits(needed, state)
    if found:
        raise ValueError(f"pretrained={str(path)!r} does not fit timm's {name}: {found}")
    return state
