"""Which guide helps on your data? Trains one network without and with guides, and tests it on held-out people.

    python examples/which_guide.py                              # tiny people: a minute on a CPU, too short to decide
    python examples/which_guide.py --root DIR --epochs 40 --held-out 100 --size 256 128

The comparison never looks at the test set: it holds training identities out (`validation_ids`). Decide by several
seeds (`--seed`), because the scores of two trainings differ by a point or more. Averages over parts gain with images of
256 x 128; compare them with no guidance at 128 x 64 too, which trains faster. Compare the two rows with maps first
with twice the epochs of no guidance: they take about as long. `dsa-fast tables` does this for many rows.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsa_fast.data import AugmentConfig
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.models import GuideConfig, ModelConfig
from dsa_fast.training import DataConfig, TrainerConfig, fit

MAPS_FIRST = "a backbone trained with maps first"
BOTH = "maps first and found parts"
#: The rows to compare: options of the network, guides, and how many times the epochs.
ROWS: dict[str, tuple[dict[str, Any], GuideConfig, int]] = {
    "no guidance": ({}, GuideConfig(), 1),
    "no guidance, twice the epochs": ({}, GuideConfig(), 2),
    "averages over parts that it finds": ({"pooling": "parts"}, GuideConfig(dense=0.5), 1),
    MAPS_FIRST: ({}, GuideConfig(), 1),
    BOTH: ({"pooling": "parts"}, GuideConfig(dense=0.5), 1),
    "the paper's fusion": ({"dsag": True}, GuideConfig(), 1),
    "ID losses on body parts": ({}, GuideConfig(parts=1.0), 1),
    "their control, stripes": ({}, GuideConfig(stripes=1.0), 1),
}


def main() -> None:
    """Trains each row once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="a data set with IUV maps; by default synthetic people are made")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--held-out", type=int, default=4, help="training identities to test on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--size", type=int, nargs=2, default=(128, 64), metavar=("HEIGHT", "WIDTH"), help="of the images, in pixels"
    )
    parser.add_argument("--width", type=float, default=0.125, help="width of the network; 1 is the full size")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.root is None:
            options.root = f"{folder}/people"
            make_dataset(options.root, SynthConfig(identities=16, cameras=2, images_per_camera=2))
            people, images = 4, 2
        else:
            people, images = 16, 4
        data = DataConfig(options.root, p=people, k=images, workers=0, validation_ids=options.held_out)
        model = ModelConfig("dsa", "resnet18", pretrained=None, width=options.width, dsag=False, classifier_dim=64)
        augment = AugmentConfig(size=tuple(options.size), dsap_size=16, pad=5)
        trainer = TrainerConfig(max_epochs=options.epochs, eval_every=options.epochs, progress=False)
        # The backbone first learns to find body parts, from the images of the people who are not held out.
        alone = fit(
            data,
            replace(model, branches="none"),
            augment=augment,
            trainer=trainer,
            guide=GuideConfig(dense=1.0),
            out=Path(folder) / "backbone",
            seed=options.seed,
        )
        for name, (network, guide, times) in ROWS.items():
            start = str(alone.checkpoint) if name in (MAPS_FIRST, BOTH) else None
            epochs = times * options.epochs
            result = fit(
                data,
                replace(model, pretrained=start, **network),
                augment=augment,
                trainer=replace(trainer, max_epochs=epochs, eval_every=epochs),
                guide=guide,
                out=Path(folder) / name,
                seed=options.seed,
            )
            print(f"{name:36} mAP {result.scores['mAP']:.1%} of {options.held_out} held-out people")


if __name__ == "__main__":
    main()
