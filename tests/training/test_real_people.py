"""Trains and tests on real people with real DensePose maps, if the data is available."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.data.transforms import Draws, augment_batch, eval_transform, resize
from dsa_fast.densepose.iuv import read_iuv, resize_iuv
from dsa_fast.image import read_image
from dsa_fast.models import DSALoss, DSAReID, load_model

SIZE = (64, 32)


def people(folder: Path) -> tuple[Tensor, Tensor]:
    """Crops and resizes the people of the demo photo with at least 500 labeled pixels."""
    photo, iuv = read_image(folder / "demo_im.jpg"), read_iuv(folder / "demo_im_IUV.png")
    instances = torch.from_numpy(np.array(Image.open(folder / "demo_im_INDS.png")).astype(np.int64))
    images, maps = [], []
    for number in instances.unique().tolist():
        mine = (instances == number) & (iuv[0] > 0)
        if number == 0 or mine.sum() < 500:
            continue
        y, x = mine.nonzero(as_tuple=True)
        box = slice(None), slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1)
        images.append(resize(photo[box][None], SIZE)[0])
        maps.append(resize_iuv((iuv * mine)[box], SIZE))
    return torch.stack(images), torch.stack(maps)


@pytest.fixture(scope="module")
def crowd(real_data: Path) -> tuple[Tensor, Tensor]:
    return people(real_data / "iuv" / "densepose-demo")


def test_the_demos_model_embeds_real_people(crowd: tuple[Tensor, Tensor]) -> None:
    """DSA_FAST_DEMO names the folder of a finished `dsa-fast demo`."""
    demo = os.environ.get("DSA_FAST_DEMO")
    if not demo:
        pytest.skip("DSA_FAST_DEMO names no folder of a finished demo")
    loaded = load_model(Path(demo) / "run" / "checkpoints" / "last.ckpt")
    vectors = loaded.model.embed(eval_transform(crowd[0], loaded.size))
    assert vectors.shape == (len(crowd[0]), sum(loaded.model.embed_dims)) and torch.isfinite(vectors).all()
    distances = torch.cdist(vectors, vectors) + 9 * torch.eye(len(vectors))
    assert distances.min() > 1e-3


def test_real_maps_train_and_real_people_embed(crowd: tuple[Tensor, Tensor]) -> None:
    images, maps = crowd
    assert len(images) >= 6
    torch.manual_seed(0)
    model, loss = DSAReID(4, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16), DSALoss()
    config = AugmentConfig(size=SIZE, dsap_size=16, pad=2)
    full, dsap, _ = augment_batch(
        images[:6], maps[:6], Draws.sample(6, config, torch.Generator().manual_seed(0)), config
    )
    touched = (dsap != 0).any(dim=2).double().mean()
    assert 0.02 < touched < 0.5
    total, _ = loss(model(full, dsap), torch.tensor([0, 0, 1, 1, 2, 2]))
    total.backward()
    assert torch.isfinite(total)
    dsag = model.dsag_stream
    assert dsag is not None
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in dsag.parameters())
    vectors = model.embed(eval_transform(images, SIZE))
    assert vectors.shape == (len(images), sum(model.embed_dims))
    assert torch.isfinite(vectors).all()
    # Different people have different vectors. The same person has the same vector.
    distances = torch.cdist(vectors, vectors)
    assert (distances + torch.eye(len(images)) > 1e-4).all()
    torch.testing.assert_close(vectors[:1], model.embed(eval_transform(images[:1], SIZE)), atol=1e-5, rtol=1e-4)
