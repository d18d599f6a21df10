"""The training step does not wait for values. The compiled network trains like the plain network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from dsa_fast.models import DSALoss, DSAReID, GuideConfig, Guides
from dsa_fast.training import fit
from tests.data.trees import make_tree
from tests.training.processes import AUGMENT, GUIDE, MODEL, ONE, OPTIM, data


def test_nothing_in_the_step_waits_for_a_value() -> None:
    """Creates tensors without data. Reading one, such as by item() or nonzero(), fails."""
    with FakeTensorMode():
        model = DSAReID(5, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        labels = torch.randint(0, 5, (8,))
        output = model(torch.randn(8, 3, 32, 16), torch.randn(8, 24, 3, 8, 8), torch.rand(8))
        total, _ = DSALoss()(output, labels)
        config = GuideConfig(dense=1.0, focus=1.0, parts=1.0, stripes=1.0, distil=1.0, distil_features=1.0)
        guides = Guides(config, 32, 5)
        iuv = torch.randint(0, 25, (8, 3, 8, 4), dtype=torch.uint8)
        guided, _ = guides(output, labels, iuv=iuv, teacher=output, epoch=1.0)
        total = total + guided
        total.backward()
        optimizer.step()
        with pytest.raises(DataDependentOutputException):
            total.item()


def test_compiled_network_trains_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def compile_quickly(self: nn.Module, mode: str) -> None:
        asked.append(mode)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)  # compiling CPU code takes a minute
    names = [f"{pid:04}_c{cam}s1_{i:06}_00.png" for pid in (2, 5) for cam in (1, 2) for i in range(2)]
    make_tree(tmp_path / "people", {"bounding_box_train": names, "query": names[:1], "bounding_box_test": names[4:5]})
    states = []
    for mode in ("off", "default"):
        trainer = replace(ONE, max_epochs=1, eval_every=0, compile=mode)
        run = fit(
            data(tmp_path), MODEL, optim=OPTIM, augment=AUGMENT, trainer=trainer, out=tmp_path / mode, guide=GUIDE
        )
        states.append(torch.load(run.checkpoint, weights_only=True)["state_dict"])
    assert asked == ["default"]
    # Adam's first steps have the same length for any gradient, even 1e-9. So rounding errors reach a step of 1e-4.
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=3e-4)
