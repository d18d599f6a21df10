"""Trains DSA-reID in a plain PyTorch loop, without Lightning. Start from here to write your own loop.

    python examples/plain_training.py                # synthetic people and a small network: about a minute on a CPU
    python examples/plain_training.py --root DIR     # a data set with IUV maps

The loop keeps the training images and their maps in memory as bytes. One operator makes a step's inputs from them.
`dsa-fast fit` does the same and adds checkpoints, schedules, resuming, logs and several GPUs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from dsa_fast.data import (
    AugmentConfig,
    Collate,
    Draws,
    PeopleDataset,
    PeopleSplits,
    PKSampler,
    augment_batch,
    read_dataset,
)
from dsa_fast.data.synth import SynthConfig, make_dataset
from dsa_fast.evaluation import ModelEmbedder, embed_people, evaluate
from dsa_fast.models import DSALoss, DSAReID, LoadedModel

AUGMENT = AugmentConfig(size=(128, 64), dsap_size=16, pad=5)


def train(data: PeopleSplits, epochs: int, device: torch.device) -> DSAReID:
    """Trains on the training split and returns the model."""
    # The classifiers count identities from 0.
    labels = {pid: number for number, pid in enumerate(sorted({person.pid for person in data.train}))}
    dataset = PeopleDataset(data.train, labels)
    stored = Collate(AUGMENT.size)([dataset[i] for i in range(len(dataset))])
    images, maps = stored["image"].to(device), stored["iuv"].to(device)

    torch.manual_seed(0)
    model = DSAReID(len(labels), backbone="resnet18", pretrained=None, width=0.125, classifier_dim=64).to(device)
    loss, optimizer = DSALoss(), torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=5e-4)
    sampler = PKSampler([person.pid for person in data.train], p=8, k=4)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in sampler:
            draws = Draws.sample(len(batch), AUGMENT, generator)
            # Resizes, flips, crops, erases, normalizes and warps.
            full, dsap, _ = augment_batch(images, maps, draws, AUGMENT, indices=batch)
            total, _ = loss(model(full, dsap), stored["label"][batch].to(device))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss of the last batch {total.item():.2f}")
    return model.eval()


def main() -> None:
    """Trains, then tests the MF-Stream alone on people who were not in the training set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a data set; by default synthetic people are made")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        if options.root is None:
            options.root = Path(folder) / "people"
            make_dataset(options.root, SynthConfig(identities=32, seed=1))
        data = read_dataset(options.root)
        model = train(data, options.epochs, device)
        embedder = ModelEmbedder(LoadedModel(model, AUGMENT.size, AUGMENT.dsap_size), device=device)
        scores = evaluate(*embed_people(embedder, data.query), *embed_people(embedder, data.gallery))
    print(f"mAP {scores.mAP:.1%}, Rank-1 {scores.rank(1):.1%}")


if __name__ == "__main__":
    main()
