"""The code of the two processes in test_processes.py: `python -m tests.training.processes FOLDER`.

The first command is `dsa-fast fit`, in which Lightning starts the second process, with the same program.
"""

from __future__ import annotations

import copy
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from dsa_fast.cli import main as run_command
from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.models import DSALoss, DSAReID, GuideConfig, ModelConfig
from dsa_fast.models.dsa_reid import DSAOutput
from dsa_fast.models.losses import gather
from dsa_fast.training import DataConfig, LossConfig, OptimConfig, TrainerConfig, fit

MODEL = ModelConfig(backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)
AUGMENT = AugmentConfig(size=(32, 16), dsap_size=16, pad=2)
#: All guides but the moving average, whose running statistics of batch norms are those of each process.
GUIDE = GuideConfig(
    fade=0.6,
    drop=0.5,
    dense=0.5,
    focus=0.5,
    parts=0.5,
    stripes=0.5,
    distil=1.0,
    distil_features=1.0,
    distil_ramp=2.0,
)
OPTIM = OptimConfig(lr=1e-3, warmup_lr=1e-4, warmup_epochs=1)
ONE = TrainerConfig(max_epochs=2, eval_every=2, accelerator="cpu", devices=1, log_every=1, progress=False)
TWO = replace(ONE, devices=2, strategy="ddp")


def data(folder: Path) -> DataConfig:
    return DataConfig(str(folder / "people"), p=2, k=2, workers=0)


def train(
    folder: Path,
    name: str,
    trainer: TrainerConfig,
    resume: bool = False,
    gather: bool = False,
    guide: GuideConfig | None = None,
) -> None:
    loss = LossConfig(gather=gather)
    result = fit(data(folder), MODEL, loss, OPTIM, AUGMENT, trainer, out=folder / name, resume=resume, guide=guide)
    if int(os.environ.get("LOCAL_RANK", 0)) == 0 and result.scores:
        (folder / name / "mAP.txt").write_text(repr(result.scores["mAP"]))


def share(folder: Path) -> None:
    """Trains with `dsa-fast fit`; without LOCAL_RANK, this starts the other process."""
    options = {
        **{f"model.{name}": value for name, value in asdict(MODEL).items() if value is not None},
        **{"model.pretrained": "null", "augment.size": "[32, 16]", "augment.dsap_size": 16, "augment.pad": 2},
        **{"data.root": folder / "people", "data.p": 2, "data.k": 2, "data.workers": 0, "data.cache": folder / "cache"},
        **{"trainer.max_epochs": 1, "trainer.eval_every": 1, "trainer.accelerator": "cpu", "trainer.log_every": 1},
        **{"trainer.devices": 2, "trainer.strategy": "ddp", "trainer.progress": "false", "out": folder / "shared"},
    }
    status = run_command(["fit", *(str(word) for name, value in options.items() for word in (f"--{name}", value))])
    assert status == 0, status


def check_gather(rank: int) -> None:
    """With gather, two processes have the same loss and gradients as one process with all features."""
    torch.manual_seed(0)
    model = DSAReID(5, backbone="resnet18", pretrained=None, width=0.125, classifier_dim=16)
    images, dsap = torch.randn(2, 4, 3, 32, 16), torch.randn(2, 4, 24, 3, 8, 8)
    labels = torch.tensor([[0, 0, 1, 1], [1, 1, 2, 2]])  # identity 1 is on both
    whole = copy.deepcopy(model)
    outputs = [whole(*each) for each in zip(images, dsap, strict=True)]  # batch norms see one process's images
    joined = DSAOutput(*(torch.cat(field) for field in zip(*(output[:8] for output in outputs), strict=True)))
    expected, terms = DSALoss()(joined, labels.flatten())
    expected.backward()

    wrapped = DistributedDataParallel(model)
    total, own = DSALoss(gather=True)(wrapped(images[rank], dsap[rank]), labels[rank])
    total.backward()
    mean = torch.stack([total.detach(), *own.values()])
    distributed.all_reduce(mean)
    torch.testing.assert_close(mean / 2, torch.stack([expected.detach(), *terms.values()]))
    torch.testing.assert_close(own["triplet_global"], terms["triplet_global"])
    actual, wanted = ({name: p.grad for name, p in each.named_parameters()} for each in (model, whole))
    torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)
    # Mining within the process's batch finds other triplets.
    _, alone = DSALoss()(model(images[rank], dsap[rank]), labels[rank])
    assert not torch.allclose(alone["triplet_global"], terms["triplet_global"])
    assert gather(torch.tensor([rank])).tolist() == [0, 1]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    share(folder)
    train(folder, "two", TWO)
    train(folder, "two_then_one", replace(TWO, max_epochs=1, eval_every=0))
    train(folder, "one_then_two", TWO, resume=True)
    train(folder, "gathered", replace(TWO, max_epochs=1, eval_every=0), gather=True)
    train(folder, "guided_two", replace(TWO, eval_every=0), guide=GUIDE)
    check_gather(distributed.get_rank())
    (folder / f"done{distributed.get_rank()}").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
