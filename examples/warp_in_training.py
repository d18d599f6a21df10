"""Adds part images to your own training loop: the warp is one differentiable call on a batch.

    python examples/warp_in_training.py          # seconds on a CPU

Your network gets the 24 part images of each photo next to the photo. Here a small convolution looks at each part, and
the parts that an image does not show are left out of the mean. Replace the loss and the photos with yours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dsa_fast
from dsa_fast.data.synth import SynthConfig, render_picture


class PartNetwork(nn.Module):
    """Photos [B, 3, H, W] and their IUV maps -> identity scores [B, identities]."""

    def __init__(self, identities: int) -> None:
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classify = nn.Linear(16, identities)

    def forward(self, photos: Tensor, iuv: Tensor) -> Tensor:
        parts, count = dsa_fast.warp(photos, iuv, size=16, return_count=True)  # [B, 24, 3, 16, 16], [B, 24, 16, 16]
        seen = (count > 0).flatten(2).any(2).float()  # [B, 24]: which parts an image shows
        features = self.look(parts.flatten(0, 1)).view(*seen.shape, 16)
        mean = (features * seen[..., None]).sum(1) / seen.sum(1, keepdim=True).clamp(min=1)
        scores: Tensor = self.classify(mean)
        return scores


def main() -> None:
    """Trains on eight synthetic people, seen twice by each of two cameras."""
    config = SynthConfig(identities=8)
    shots = [(person, camera, index) for person in range(1, 9) for camera in (1, 2) for index in (0, 1)]
    drawn = [render_picture(config, person, camera, index) for person, camera, index in shots]
    photos = torch.stack([torch.from_numpy(photo).permute(2, 0, 1) for photo, _ in drawn]).float() / 255
    maps = torch.stack([torch.from_numpy(iuv).permute(2, 0, 1) for _, iuv in drawn]).contiguous()
    labels = torch.tensor([person - 1 for person, _, _ in shots])

    torch.manual_seed(0)
    network = PartNetwork(8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(60):
        loss = nn.functional.cross_entropy(network(photos, maps), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == 59:
            print(f"step {step}: loss {loss.item():.2f}")


if __name__ == "__main__":
    main()
