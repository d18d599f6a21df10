"""Your own photos: from a folder and a CSV file to a trained network, vectors and a search. All steps are commands too.

    python examples/own_folder.py               # a small made-up folder: a minute on a CPU
    python examples/own_folder.py --csv people.csv --out run --epochs 40

The CSV file has the columns path, pid, camid and split (docs/datasets.md). This network trains without IUV maps
(`dsag=False`). With maps from `dsa-fast prepare`, drop that option.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from dsa_fast import Encoder
from dsa_fast.data import AugmentConfig, read_dataset
from dsa_fast.data.synth import SynthConfig, render_picture
from dsa_fast.deploy import Item, VectorIndex, Vectors
from dsa_fast.models import ModelConfig
from dsa_fast.training import DataConfig, TrainerConfig, fit
from dsa_fast.visual.layout import save_picture


def make_folder(folder: Path) -> Path:
    """Writes photos as a user may have them, and the CSV file that describes them."""
    folder.mkdir(parents=True)
    config = SynthConfig(identities=8)
    rows = []
    for pid in range(1, 9):
        for camid in (1, 2):
            for index in (0, 1):
                name = f"visitor{pid}_door{camid}_{index}.png"
                save_picture(Image.fromarray(render_picture(config, pid, camid, index)[0]), folder / name)
                split = "train" if pid <= 4 else "query" if index == 0 and camid == 1 else "gallery"
                rows.append({"path": name, "pid": pid, "camid": camid, "split": split})
    table = folder / "people.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "pid", "camid", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return table


def run(table: Path, out: Path, epochs: int) -> None:
    """Trains, embeds the gallery, and searches it for the first query."""
    result = fit(
        DataConfig(str(table), p=2, k=2, workers=0),
        ModelConfig(backbone="resnet18", pretrained=None, width=0.25, dsag=False, classifier_dim=64),
        augment=AugmentConfig(size=(128, 64), pad=5),
        trainer=TrainerConfig(max_epochs=epochs, eval_every=0, progress=False),
        out=out / "fit",
    )
    people = read_dataset(table)
    with Encoder.load(result.checkpoint, device="cpu") as encoder:
        paths = [person.path for person in people.gallery]
        index = VectorIndex.build(
            out / "index", Vectors.from_items(np.asarray(encoder(paths)), [Item(path) for path in paths])
        )
        hits = index.search(np.asarray(encoder([people.query[0].path])), 5)
    print(f"nearest to {people.query[0].path.name}:")
    for row, cosine in zip(hits.rows[0], hits.cosines[0], strict=True):
        print(f"  {cosine:.3f}  {index.item(int(row)).path.name}")


def main() -> None:
    """Reads the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="your CSV file; by default a small folder is made")
    parser.add_argument("--out", type=Path, help="folder of the run; by default a temporary one")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = options.csv or make_folder(Path(folder) / "photos")
        run(table, options.out or Path(folder) / "run", options.epochs)


if __name__ == "__main__":
    main()
