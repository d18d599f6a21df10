"""Losses of the joint training (paper, sections 3.2.4 and 4.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from dsa_fast.densepose.parts import MERGE_13_TO_8, MERGE_24_TO_13
from dsa_fast.models.dsa_reid import DSAOutput


def id_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, weight: Tensor | None = None) -> Tensor:
    """Computes the cross entropy of identity logits, averaged over the batch and summed over parts.

    Args:
        logits: [B, num_ids], or [B, parts, num_ids]; computed in float32 at least.
        labels: int64 [B], 0 to num_ids - 1.
        label_smoothing: share of the target that is spread evenly over all identities (Szegedy et al.,
            https://arxiv.org/abs/1512.00567).
        weight: [B, parts], weight of each part of each image; 1 by default.

    Returns:
        A scalar.

    Raises:
        ValueError: wrong shapes.
    """
    if logits.ndim not in (2, 3) or labels.shape != logits.shape[:1]:
        raise ValueError(
            "logits must have shape [B, num_ids] or [B, parts, num_ids] and labels [B], "
            f"got {list(logits.shape)} and {list(labels.shape)}"
        )
    parts = logits.shape[1] if logits.ndim == 3 else 1
    if weight is not None and weight.shape != (len(labels), parts):
        raise ValueError(f"weight must have shape {[len(labels), parts]}, got {list(weight.shape)}")
    with torch.autocast(logits.device.type, enabled=False):
        losses = functional.cross_entropy(
            _at_least_float32(logits).reshape(-1, logits.shape[-1]),
            labels.repeat_interleave(parts),
            label_smoothing=label_smoothing,
            reduction="mean" if weight is None else "none",
        )
        if weight is not None:
            losses = (losses * weight.flatten()).mean()
    return losses * parts


def part_weights(dsap: Tensor, full: float) -> Tensor:
    """Computes the weight of each merged part of each image from its visible share.

    A texel is filled if it is not 0, the mean color. If at least a share `full` of a merged part's texels is filled in
    an image, the part has weight 1, otherwise a proportionally smaller weight. Then all weights are scaled to a mean
    of 1.

    Args:
        dsap: normalized part images [B, 24, 3, S, S].
        full: share of filled texels for the full weight, above 0.

    Returns:
        float32 [B, 8], without gradient; 1 everywhere if no texel of the batch is filled.
    """
    touched = (dsap.detach() != 0).any(dim=2).flatten(2).float().mean(dim=2)  # [B, 24]
    merged = touched
    for groups in (MERGE_24_TO_13, MERGE_13_TO_8):
        first = groups[0][0]  # the 24 parts are numbered from 1
        merged = torch.stack([merged[:, [i - first for i in group]].mean(dim=1) for group in groups], dim=1)
    seen = (merged / full).clamp(max=1)
    mean = seen.mean()
    return torch.where(mean > 0, seen / mean.clamp(min=1e-12), torch.ones_like(seen))


def batch_hard_triplet_loss(features: Tensor, labels: Tensor, *, margin: float = 0.3) -> Tensor:
    """Computes the triplet loss with each anchor's hardest positive and hardest negative in the batch.

    Hermans et al., "In Defense of the Triplet Loss" (https://arxiv.org/abs/1703.07737): the mean over anchors of
    max(0, d(anchor, farthest of its identity) - d(anchor, nearest of another) + margin). d is the Euclidean distance,
    computed without the cancellation of the |x|^2 + |y|^2 - 2xy form. If two features are equal, the gradient of their
    distance is 0, so gradients are always finite. The mean skips an anchor if the batch has no other image of its
    identity or no image of another identity. If no anchor remains, the loss is 0.

    Args:
        features: [B, D]; computed in float32 at least.
        labels: int [B], the identities.
        margin: margin between the two distances.

    Returns:
        A scalar.

    Raises:
        ValueError: wrong shapes.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features must have shape [B, D] and labels [B], got {list(features.shape)} and {list(labels.shape)}"
        )
    with torch.autocast(features.device.type, enabled=False):
        x = _at_least_float32(features)
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        same = labels[:, None] == labels[None, :]
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        furthest = distances.masked_fill(~positive, -torch.inf).max(dim=1).values
        nearest = distances.masked_fill(same, torch.inf).min(dim=1).values
        # An anchor without a positive or a negative has -inf here. The ReLU turns it into 0.
        losses = functional.relu(furthest - nearest + margin)
        anchors = (positive.any(dim=1) & ~same.all(dim=1)).sum()
        return losses.sum() / anchors.clamp(min=1)


# torch.distributed.nn.functional.all_gather has the same scale, but PyTorch 2.14 deprecated it for a private function.
class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # All processes compute the same loss from the same features, so no gradient has to be sent. Each process has
        # the gradient of its own share only. The factor cancels the later division by the number of processes.
        return grads[0].chunk(distributed.get_world_size())[distributed.get_rank()] * distributed.get_world_size()


def gather(x: Tensor) -> Tensor:
    """Gathers the rows of all processes, in rank order: [B, ...] on each -> [processes * B, ...], the same on each.

    Gradients flow back to each process's own rows. They are correct if every process computes the same scalar from the
    result, and the parameters' gradients are then averaged over processes, as DistributedDataParallel does. The average
    is then the gradient of that scalar. With one process, or without torch.distributed, the result is `x`.

    Args:
        x: [B, ...], with the same shape on each process.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return x
    out: Tensor = _Gather.apply(x)
    return out


class DSALoss(nn.Module):
    """The weighted sum of all ID and triplet losses of a `DSAOutput`.

    ID losses apply to fG and each fL,i (weight `id_mf`), and to zG and each zL,i (weight `id_fused`). The local ID
    losses are sums over the 8 parts. Triplet losses apply to zG and the concatenated zL (weight `triplet`).

    Without a DSAG-Stream (the baselines), z is f. Triplet losses then apply to f. The ID losses on f are the only ones
    and have the weight `id_fused`. A branch that was not built has no terms.

    Args:
        id_mf: weight of the ID losses on the MF-Stream's features.
        triplet: weight of the triplet losses.
        id_fused: weight of the ID losses on the fused features.
        margin: margin of the triplet losses.
        label_smoothing: label smoothing of the ID losses, from 0 to 1.
        triplet_mf: weight of additional triplet losses on f, with a DSAG-Stream only; not in the paper.
        gather: computes the triplet losses from the features of all processes together (see `gather`), with the same
            result on each. ID losses stay local: their mean over processes already equals that of the whole batch.

    Raises:
        ValueError: a weight or margin is negative, or label_smoothing is outside [0, 1].
    """

    #: Names of the arguments, which `LossConfig` has too.
    WEIGHTS = ("id_mf", "triplet", "id_fused", "margin", "label_smoothing", "triplet_mf", "gather")

    def __init__(
        self,
        *,
        id_mf: float = 0.5,
        triplet: float = 1.5,
        id_fused: float = 1.0,
        margin: float = 0.3,
        label_smoothing: float = 0.1,
        triplet_mf: float = 0.0,
        gather: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            ("id_mf", id_mf),
            ("triplet", triplet),
            ("id_fused", id_fused),
            ("margin", margin),
            ("triplet_mf", triplet_mf),
        ):
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing}")
        self.id_mf = id_mf
        self.triplet = triplet
        self.id_fused = id_fused
        self.margin = margin
        self.label_smoothing = label_smoothing
        self.triplet_mf = triplet_mf
        self.gather = gather

    def forward(
        self, output: DSAOutput, labels: Tensor, part_weight: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the loss of a batch.

        Args:
            output: the model's output.
            labels: int64 [B], 0 to num_ids - 1.
            part_weight: [B, 8], weight of each part of each image in the local ID losses (see `part_weights`).

        Returns:
            The weighted sum (a scalar, float32; 0 if there are no features), and each term by name, unweighted and
            without gradient: some of id_f_global, id_f_local, triplet_global, triplet_local, id_z_global, id_z_local,
            triplet_f_global, triplet_f_local.
        """
        fused = output.logits_z_global is not None or output.logits_z_local is not None
        id_f = self.id_mf if fused else self.id_fused
        terms: list[tuple[str, float, Tensor]] = []
        for name, weight, logits in (
            ("id_f_global", id_f, output.logits_f_global),
            ("id_f_local", id_f, output.logits_f_local),
            ("id_z_global", self.id_fused, output.logits_z_global),
            ("id_z_local", self.id_fused, output.logits_z_local),
        ):
            if logits is not None:
                seen = part_weight if logits.ndim == 3 else None
                value = id_loss(logits, labels, label_smoothing=self.label_smoothing, weight=seen)
                terms.append((name, weight, value))
        triplets = [("triplet_global", self.triplet, output.z_global), ("triplet_local", self.triplet, output.z_local)]
        if fused and self.triplet_mf:
            triplets.append(("triplet_f_global", self.triplet_mf, output.f_global))
            triplets.append(("triplet_f_local", self.triplet_mf, output.f_local))
        everyone = gather(labels) if self.gather else labels
        for name, weight, features in triplets:
            if features is not None:
                flat = gather(features.flatten(1)) if self.gather else features.flatten(1)
                terms.append((name, weight, batch_hard_triplet_loss(flat, everyone, margin=self.margin)))
        if not terms:  # a backbone alone
            return torch.zeros((), device=labels.device), {}
        total = torch.stack([weight * value for _, weight, value in terms]).sum()
        return total, {name: value.detach() for name, _, value in terms}


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
