"""Operators under PyTorch's function transforms, tracing and odd inputs: as eager, or a clear error."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import dsa_fast
from dsa_fast.ops import rank
from dsa_fast.ops.crop import crop_parts
from dsa_fast.ops.warp_densepose import warp_densepose

IMG = torch.rand(2, 3, 20, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
IUV = torch.zeros(2, 3, 20, 16, dtype=torch.uint8)
IUV[:, 0, 2:15, 3:12] = 3
IUV[:, 1:, 2:15, 3:12] = torch.randint(0, 256, (2, 2, 13, 9), generator=torch.Generator().manual_seed(1)).byte()
BOXES = torch.tensor([[0.0, 0, 16, 20], [2, 2, 14, 18]])


def heads() -> Any:
    make = torch.Generator().manual_seed(2)
    shapes = {"coarse_segm": 2, "fine_segm": 25, "u": 25, "v": 25}
    return SimpleNamespace(**{name: torch.rand(2, n, 8, 8, generator=make) for name, n in shapes.items()})


HEADS = heads()


def densepose(img: Tensor) -> Tensor:
    return warp_densepose(img, HEADS, BOXES, size=4)


def crop(img: Tensor) -> Tensor:
    return crop_parts(img, IUV, size=4)


def warp(img: Tensor) -> Tensor:
    return dsa_fast.warp(img, IUV, size=4)


OPS = {"warp_densepose": densepose, "crop_parts": crop, "warp": warp}


def dual(f: Any) -> Tensor | None:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(IMG, torch.ones_like(IMG)))).tangent


TRANSFORMS = {
    "jvp": lambda f: torch.func.jvp(f, (IMG,), (torch.ones_like(IMG),))[1],
    "jvp of vmap": lambda f: torch.func.jvp(torch.func.vmap(f), (IMG[None],), (torch.ones_like(IMG)[None],))[1],
    "grad": lambda f: torch.func.grad(lambda x: f(x).sum())(IMG),
    "vjp": lambda f: torch.func.vjp(f, IMG)[1](torch.ones_like(f(IMG)))[0],
    "jacrev": lambda f: torch.func.jacrev(lambda x: f(x).sum())(IMG),
    "forward mode": dual,
}


def expected(f: Any, transform: str) -> Tensor:
    """The warps are linear up to the constant fill, which is 0 here."""
    if transform in ("jvp", "jvp of vmap", "forward mode"):
        out: Tensor = f(torch.ones_like(IMG))
        return out[None] if transform == "jvp of vmap" else out
    given = IMG.clone().requires_grad_()
    return torch.autograd.grad(f(given).sum(), given)[0]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("op", OPS)
def test_transforms_are_right_or_refused(op: str, transform: str) -> None:
    f = OPS[op]
    try:
        found = TRANSFORMS[transform](f)
    except (NotImplementedError, RuntimeError):
        return
    assert found is not None
    torch.testing.assert_close(found, expected(f, transform))


@pytest.mark.parametrize("op", ["warp_densepose", "crop_parts"])
def test_the_refusal_names_the_operator(op: str) -> None:
    for transform in TRANSFORMS.values():
        with pytest.raises(NotImplementedError, match=f"{op} must not be called"):
            transform(OPS[op])


@pytest.mark.parametrize("op", OPS)
def test_vmap_and_inference_mode_are_as_eager(op: str) -> None:
    f = OPS[op]
    plain = f(IMG)
    assert torch.equal(torch.func.vmap(f)(IMG[None])[0], plain)
    with torch.inference_mode():
        assert torch.equal(f(IMG), plain)


@pytest.mark.parametrize("op", OPS)
def test_export_and_fake_tensors_have_the_shape(op: str) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    f = OPS[op]

    class Module(torch.nn.Module):
        def forward(self, img: Tensor, iuv: Tensor) -> Tensor:
            if op == "warp":
                return dsa_fast.warp(img, iuv, size=4)
            return crop_parts(img, iuv, size=4)

    if op != "warp_densepose":
        program = torch.export.export(Module(), (IMG, IUV))
        assert torch.equal(program.module()(IMG, IUV), f(IMG))
        with FakeTensorMode() as mode:
            fake = Module()(mode.from_tensor(IMG), mode.from_tensor(IUV))
        assert fake.shape == f(IMG).shape and fake.dtype == IMG.dtype


@pytest.mark.parametrize("op", OPS)
def test_strides_subclasses_and_threads_are_as_plain(op: str) -> None:
    class Mine(torch.Tensor):
        pass

    f = OPS[op]
    plain = f(IMG)
    wide = torch.empty(2, 20, 16, 6, dtype=IMG.dtype)[..., ::2].permute(0, 3, 1, 2).copy_(IMG)
    for given in (IMG.contiguous(memory_format=torch.channels_last), wide, IMG.as_subclass(Mine)):
        assert torch.equal(f(given).as_subclass(torch.Tensor), plain)
    assert torch.equal(f(IMG[:1].expand(2, -1, -1, -1)), f(IMG[:1].repeat(2, 1, 1, 1)))
    found: list[Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(f(IMG))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and all(torch.equal(each, plain) for each in found)


def test_an_image_index_of_fractions_is_refused() -> None:
    for wrong in ([0.9, 1.2], [0.0, 1.0], [True, False], ["0", "1"], [None, 1]):
        with pytest.raises(TypeError, match="image_index must hold whole numbers"):
            warp_densepose(IMG, HEADS, BOXES, image_index=wrong, size=4)
    for right in ([0, 1], (np.int64(0), np.int32(1)), torch.tensor([0, 1], dtype=torch.int32)):
        assert torch.equal(warp_densepose(IMG, HEADS, BOXES, image_index=right, size=4), densepose(IMG))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("where", ["query", "gallery", "both"])
def test_raw_nearest_of_values_that_are_not_finite_ends(value: float, cosine: bool, where: str) -> None:
    make = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(5, 8, generator=make), torch.randn(300, 8, generator=make)
    if where != "gallery":
        query[2, 3] = value
    if where != "query":
        gallery[::3, 1] = value
    for k in (1, 7, 300):
        found = torch.ops.dsa_fast.nearest(query, gallery, k, cosine, rank.MAX_BLOCK)
        assert found.shape == (5, k + 1) and int(found.min()) >= 0 and int(found.max()) < 300
        assert all(len(set(row[:k].tolist())) == k for row in found)
    if where == "gallery":  # the others come first
        found = torch.ops.dsa_fast.nearest(query, gallery, 200, cosine, rank.MAX_BLOCK)
        if value != value:
            assert all(item % 3 for item in found[:, :200].flatten().tolist())


@pytest.mark.parametrize("scale", [2.0**997, 2.0**-997, 2.0**-1074, 2.0**500, 1.0])
def test_reranking_of_extreme_numbers(scale: float) -> None:
    from dsa_fast.evaluation import expand_queries, k_reciprocal

    make = torch.Generator().manual_seed(0)
    query, gallery = (torch.randint(1, 9, (n, 6), generator=make).double() for n in (4, 30))
    plain = expand_queries(query, gallery, k=3)
    found = expand_queries(query * scale, gallery * scale, k=3)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
    metrics = ("cosine", "euclidean") if scale > 1e-302 else ("cosine",)
    for metric in metrics:
        one, other = (
            k_reciprocal(query * by, gallery * by, k1=5, k2=2, metric=metric)(0, 4)  # type: ignore[arg-type]
            for by in (1.0, scale)
        )
        torch.testing.assert_close(one, other)
