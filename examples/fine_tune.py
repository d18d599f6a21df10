"""Fine-tunes a trained network on other people: start from the weights of a checkpoint, with a small learning rate.

    python examples/fine_tune.py                                   # trains a first network too: a minute on a CPU
    python examples/fine_tune.py --weights last.ckpt --root DIR    # your file of weights, your people

The network's options must be those of the file. The classifiers of the old identities are replaced. The command is
`dsa-fast fit --init last.ckpt --data.root DIR --optim.lr 1e-4`, with the options of the first run (`--config`).
A file of ImageNet weights is no checkpoint: pass it as `ModelConfig(pretrained="resnet50.pth")`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from dsa_fast.data import AugmentConfig
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.models import ModelConfig, load_model
from dsa_fast.training import DataConfig, OptimConfig, TrainerConfig, fit

MODEL = ModelConfig(backbone="resnet18", pretrained=None, width=0.125, classifier_dim=64)
AUGMENT = AugmentConfig(size=(128, 64), dsap_size=16, pad=5)


def train(root: str, out: Path, epochs: int, optim: OptimConfig, weights: Path | None = None) -> Path:
    """Trains on a data set, from random weights or from those of a checkpoint. Returns the new checkpoint."""
    data, trainer = (
        DataConfig(root, p=4, k=2, workers=0),
        TrainerConfig(max_epochs=epochs, eval_every=1, progress=False),
    )
    result = fit(data, MODEL, optim=optim, augment=AUGMENT, trainer=trainer, out=out, init=weights)
    print(f"{out.name}: mAP {result.scores['mAP']:.1%}")
    return result.checkpoint


def main() -> None:
    """Trains on one set of people, then fine-tunes on another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a checkpoint of this network; by default one is trained")
    parser.add_argument("--root", help="a data set with IUV maps; by default synthetic people are made")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.weights is None:
            make_dataset(Path(folder) / "first", SynthConfig(identities=16, cameras=2, images_per_camera=2, seed=1))
            first = OptimConfig(lr=2e-3, warmup_lr=2e-4, warmup_epochs=1)
            options.weights = train(f"{folder}/first", Path(folder) / "first run", options.epochs, first)
        if options.root is None:
            options.root = f"{folder}/others"
            make_dataset(options.root, SynthConfig(identities=16, cameras=2, images_per_camera=2, seed=2))
        gentle = OptimConfig(lr=1e-4, warmup_lr=1e-5, warmup_epochs=1)
        tuned = train(options.root, Path(folder) / "fine-tuned", options.epochs, gentle, options.weights)
        print(f"the network has {load_model(tuned).model.num_ids} identities")


if __name__ == "__main__":
    main()
