"""Refuses those of PyTorch's function transforms that an operator does not support and would do wrong in silence."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["refuse_transforms"]

_transforms = getattr(torch._C._functorch, "get_interpreter_stack", lambda: None)


def refuse_transforms(name: str, img: Tensor) -> None:
    """Raises NotImplementedError if `img` carries a forward-mode tangent, or is differentiated by `torch.func`.

    `torch.func.vmap` and `torch.autograd.grad` are fine.

    Args:
        name: the operator's name, for the message.
        img: its differentiable input.
    """
    if torch.compiler.is_compiling():
        return
    stack = _transforms() or []
    if not stack and forward_ad._current_level < 0:
        return
    kinds = {str(interpreter.key()).rpartition(".")[2] for interpreter in stack} & {"Grad", "Jvp"}
    # Under vmap a tangent can't be seen.
    forward = forward_ad._current_level >= 0 and (bool(stack) or forward_ad.unpack_dual(img).tangent is not None)
    if forward or kinds:
        raise NotImplementedError(
            f"{name} must not be called under forward-mode differentiation or torch.func's grad, vjp, jvp, jacrev and "
            f"jacfwd, got {', '.join(sorted(kinds)) or 'a tangent'}: use torch.autograd.grad"
        )
