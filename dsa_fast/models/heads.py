"""Training heads on the features: identity classifiers and the fusion of the two streams."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsa_fast.models.branches import BranchLinear

# With this small standard deviation, all identities start with nearly the same probability. Otherwise the first steps
# would have to undo a random classification.
_LOGIT_STD = 0.001


class Classifier(nn.Module):
    """Identity classifier of one feature: FC, batch norm, ReLU, FC: [B, in_features] -> logits [B, num_ids].

    The paper (section 3.2.4) specifies two FC layers and softmax. We chose the batch norm and ReLU between them.

    Args:
        in_features: length of the feature.
        num_ids: number of identities.
        hidden: width of the first FC layer.
    """

    def __init__(self, in_features: int, num_ids: int, hidden: int = 512) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden, bias=False)
        self.bn = nn.BatchNorm1d(hidden)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(hidden, num_ids)
        nn.init.kaiming_normal_(self.fc1.weight, nonlinearity="relu")
        nn.init.normal_(self.fc2.weight, std=_LOGIT_STD)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.relu(self.bn(self.fc1(features))))
        return out


class BranchClassifier(nn.Module):
    """A `Classifier` for each of G features, with stacked weights: [B, G, in_features] -> logits [B, G, num_ids].

    Args:
        branches: G.
        in_features: length of each feature.
        num_ids: number of identities.
        hidden: width of each first FC layer.
    """

    def __init__(self, branches: int, in_features: int, num_ids: int, hidden: int = 512) -> None:
        super().__init__()
        self.fc1 = BranchLinear(branches, in_features, hidden, bias=False)
        self.bn = nn.BatchNorm1d(branches * hidden)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = BranchLinear(branches, hidden, num_ids)
        nn.init.normal_(self.fc2.weight, std=_LOGIT_STD)

    def forward(self, features: Tensor) -> Tensor:
        hidden: Tensor = self.fc1(features)
        hidden = self.relu(self.bn(hidden.flatten(1))).view_as(hidden)
        out: Tensor = self.fc2(hidden)
        return out


class BNNeck(nn.Module):
    """A batch norm without shift on a stream's global and local features. It returns None for None.

    It is between the features, to which the triplet loss applies, and the classifiers, as in Luo et al., "Bag of
    Tricks" (https://arxiv.org/abs/1903.07071).

    Args:
        global_dim: length of the global feature; 0 if there is none.
        local_dim: length of each local feature; 0 if there are none.
        branches: number of local features.
    """

    def __init__(self, global_dim: int, local_dim: int, branches: int) -> None:
        super().__init__()
        self.whole = nn.BatchNorm1d(global_dim) if global_dim else None
        self.local = nn.BatchNorm1d(branches * local_dim) if local_dim else None
        for norm in (self.whole, self.local):
            if norm is not None:
                norm.bias.requires_grad_(False)

    def forward(self, whole: Tensor | None, local: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Features [B, global_dim] and [B, branches, local_dim] -> same shapes."""
        if whole is not None and self.whole is not None:
            whole = self.whole(whole)
        if local is not None and self.local is not None:
            local = self.local(local.flatten(1)).view_as(local)
        return whole, local


class AddFusion(nn.Module):
    """z = f + d, element by element: the paper's fusion."""

    def forward(self, f: Tensor, d: Tensor) -> Tensor:
        return f + d


class ConcatFusion(nn.Module):
    """z = FC([f, d]), with a separate FC layer for each of G features: the variant in the paper's table 5.

    Args:
        branches: G; 1 takes [B, dim], more take [B, G, dim].
        dim: length of each feature.
    """

    def __init__(self, branches: int, dim: int) -> None:
        super().__init__()
        self.fc: nn.Module = nn.Linear(2 * dim, dim) if branches == 1 else BranchLinear(branches, 2 * dim, dim)

    def forward(self, f: Tensor, d: Tensor) -> Tensor:
        out: Tensor = self.fc(torch.cat([f, d], dim=-1))
        return out
