"""Losses of other works on the features: circle, multi-similarity and center loss. The paper has none of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dsa_fast.configs.training import LossConfig
from dsa_fast.extras import require
from dsa_fast.models.dsa_reid import DSAOutput
from dsa_fast.models.losses import gather

__all__ = ["CenterLoss", "MetricLosses"]


class CenterLoss(nn.Module):
    """Half the squared distance of each feature to the center of its identity, averaged over the batch.

    Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016. The centers are
    parameters, which the optimizer moves.

    Args:
        num_ids: number of identities.
        dim: length of a feature.

    Attributes:
        centers: [num_ids, dim], 0 at the start.
    """

    def __init__(self, num_ids: int, dim: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(num_ids, dim))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features float [B, dim] and labels int64 [B] -> a scalar."""
        return (features - self.centers[labels]).square().sum(dim=1).mean() / 2


class MetricLosses(nn.Module):
    """The losses of `LossConfig` that are not the paper's, on z or f: global and concatenated local features.

    Circle and multi-similarity loss are those of pytorch-metric-learning, which compare features by their cosine. With
    `LossConfig.gather` they see the features of all processes, like the triplet losses.

    Args:
        config: weights and options; a loss of weight 0 is left out.
        num_ids: number of identities.
        dims: lengths of the global and of all local features together; 0 for a branch that was not built.

    Raises:
        ValueError: a loss needs pytorch-metric-learning, which is not installed.
    """

    def __init__(self, config: LossConfig, num_ids: int, dims: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        self.pairs: dict[str, tuple[float, nn.Module]] = {}
        if config.circle or config.multi_similarity:
            name = "loss.circle" if config.circle else "loss.multi_similarity"
            losses = require("pytorch_metric_learning.losses", name)
            if config.circle:
                circle = losses.CircleLoss(m=config.circle_margin, gamma=config.circle_scale)
                self.pairs["circle"] = config.circle, circle
            if config.multi_similarity:
                options = (config.multi_similarity_alpha, config.multi_similarity_beta, config.multi_similarity_base)
                multi = losses.MultiSimilarityLoss(**dict(zip(("alpha", "beta", "base"), options, strict=True)))
                self.pairs["multi_similarity"] = config.multi_similarity, multi
        self.center = nn.ModuleDict()
        for branch, dim in zip(("global", "local"), dims, strict=True):
            if config.center and dim:
                self.center[branch] = CenterLoss(num_ids, dim)

    def forward(self, output: DSAOutput, labels: Tensor) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Computes the losses of a batch.

        Args:
            output: the network's output.
            labels: int64 [B], 0 to num_ids - 1.

        Returns:
            The weighted sum, or None if there is no such loss; and each term by name, unweighted and without gradient.
        """
        if not self.pairs and not self.center:
            return None, {}
        config, terms = self.config, []
        branches = {
            "global": output.z_global if config.metric_on == "z" else output.f_global,
            "local": output.z_local if config.metric_on == "z" else output.f_local,
        }
        everyone = gather(labels) if config.gather and self.pairs else labels
        with torch.autocast(labels.device.type, enabled=False):
            for branch, features in branches.items():
                if features is None:
                    continue
                own = features.flatten(1).float()
                whole = gather(own) if config.gather and self.pairs else own
                for name, (weight, loss) in self.pairs.items():
                    terms.append((f"{name}_{branch}", weight, loss(whole, everyone)))
                if branch in self.center:
                    terms.append((f"center_{branch}", config.center, self.center[branch](own, labels)))
        total = torch.stack([weight * value for _, weight, value in terms]).sum()
        return total, {name: value.detach() for name, _, value in terms}
