"""Densely semantically aligned person re-identification (Zhang et al., CVPR 2019, https://arxiv.org/abs/1812.08967).

``dsa_fast.warp`` copies a photo's pixels to the 24 part images of DensePose. ``dsa_fast.warp_densepose`` does the same
directly from the outputs of DensePose's heads. ``dsa_fast.Encoder`` runs a trained or exported model. The subpackages
have the rest. Everything is imported on first use, so ``import dsa_fast`` takes no time. ``import dsa_fast.ops``
registers the operators ``torch.ops.dsa_fast``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dsa_fast.version import __version__

if TYPE_CHECKING:
    from dsa_fast.deploy.encoder import Encoder
    from dsa_fast.ops import crop_parts, warp, warp_densepose
    from dsa_fast.visual.atlas import atlas

__all__ = ["Encoder", "__version__", "atlas", "crop_parts", "warp", "warp_densepose"]

_SUBMODULES = frozenset(
    {"cli", "configs", "data", "densepose", "deploy", "evaluation", "models", "ops", "tables", "training", "visual"}
)
_MODULES = {
    "Encoder": "dsa_fast.deploy.encoder",
    "atlas": "dsa_fast.visual.atlas",
    **dict.fromkeys(("crop_parts", "warp", "warp_densepose"), "dsa_fast.ops"),
}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value  # the next access is direct
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
