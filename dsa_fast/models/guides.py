"""Guides: what trains the MF-Stream with dense semantics, costs nothing at inference and is in no export.

They compose. `fusion` is the network's own (z = f + d); here are how it fades or drops out, and what reaches the
MF-Stream past it: dense prediction on its own map, focus of its local branches, distillation from the fused features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsa_fast.densepose.parts import MERGE_13_TO_8, MERGE_24_TO_13, NUM_PARTS
from dsa_fast.models.dsa_reid import DSAOutput
from dsa_fast.models.mf_stream import NUM_LOCAL

#: What `GuideConfig.distil_teacher` calls the running network, and its moving average.
SELF, AVERAGE = "self", "ema"

# Which merged part each value of a map is of; -1 for what is no part.
_MERGED = [-1] * 256
for _merged, _group in enumerate(MERGE_13_TO_8):
    for _middle in _group:
        for _part in MERGE_24_TO_13[_middle]:
            _MERGED[_part] = _merged


@dataclass(frozen=True)
class GuideConfig:
    """How dense semantics guide the MF-Stream, next to the fusion of the streams.

    Attributes:
        fade: share of the training, at its end, in which the DSAG-Stream's part in the fused features falls to 0.
        drop: share of each batch's images whose fused features are the MF-Stream's alone.
        detach: keeps the losses on the fused features from the MF-Stream, which then learns from its own losses
            (`loss.id_mf`, `loss.triplet_mf`) and from the guides.
        dense: weight of the dense prediction: a small decoder reads part and (u, v) off the MF-Stream's map F. It needs
            IUV maps but no DSAG-Stream.
        dense_uv: weight of (u, v)'s error against the part's cross entropy.
        dense_background: weight of a background place against a person's, in the cross entropy.
        dense_scale: places of the predicted map for one of F, along each side: 1, 2, 4, 8 or 16.
        dense_channels: width of the decoder.
        focus: weight of the focus: the share of a local branch's activation that lies outside its part. It needs IUV
            maps but no DSAG-Stream.
        distil: weight of the distillation: f learns from a teacher's fused features, which get no gradient from it.
        distil_teacher: `self`, the running network; `ema`, its moving average; or the path of a checkpoint that was
            trained on the same people, whose fused features are the teacher (those of its MF-Stream if it has no
            other). The last two see the images without random erasing. In `dsa-fast tables`, `row:NAME` is the
            checkpoint of that row and the same seed.
        distil_logits: weight of the identities' Kullback-Leibler divergence.
        distil_relations: weight of the divergence of each image's likeness to the batch's others.
        distil_features: weight of the features' own distance (1 - cosine, about the batch's mean); their lengths must
            be the teacher's.
        distil_temperature: of the identities' probabilities.
        distil_ramp: epochs over which the distillation's weight grows from 0.
        distil_decay: of the moving average.
    """

    fade: float = 0.0
    drop: float = 0.0
    detach: bool = False
    dense: float = 0.0
    dense_uv: float = 1.0
    dense_background: float = 0.3
    dense_scale: int = 4
    dense_channels: int = 128
    focus: float = 0.0
    distil: float = 0.0
    distil_teacher: str = SELF
    distil_logits: float = 1.0
    distil_relations: float = 1.0
    distil_features: float = 0.0
    distil_temperature: float = 4.0
    distil_ramp: float = 1.0
    distil_decay: float = 0.99

    def __post_init__(self) -> None:
        for name in ("fade", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"guide.{name} must be a share in [0, 1], got {getattr(self, name)}")
        weights = (
            "dense", "dense_uv", "dense_background", "focus",
            "distil", "distil_logits", "distil_relations", "distil_features", "distil_ramp",
        )  # fmt: skip
        for name in weights:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"guide.{name} must be finite and at least 0, got {getattr(self, name)}")
        if self.dense_scale not in (1, 2, 4, 8, 16):
            raise ValueError(f"guide.dense_scale must be 1, 2, 4, 8 or 16, got {self.dense_scale}")
        if self.dense_channels < 1:
            raise ValueError(f"guide.dense_channels must be at least 1, got {self.dense_channels}")
        if not self.distil_temperature > 0:
            raise ValueError(f"guide.distil_temperature must be above 0, got {self.distil_temperature}")
        if not 0 <= self.distil_decay < 1:
            raise ValueError(f"guide.distil_decay must be in [0, 1), got {self.distil_decay}")

    @property
    def reads_maps(self) -> bool:
        """Whether a guide needs the IUV map at F's places."""
        return self.dense > 0 or self.focus > 0


class DenseDecoder(nn.Module):
    """F -> part logits and (u, v) of each part: [B, C, h, w] -> [B, 25, h*s, w*s] and [B, 24, 2, h*s, w*s].

    A 3x3 convolution, batch norm and ReLU, then a 1x1 convolution that writes the s x s places of each of F's. As in
    DensePose, every part has (u, v) of its own.

    Args:
        in_channels: C.
        channels: width of the first layer.
        scale: s.
    """

    def __init__(self, in_channels: int, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.predict = nn.Conv2d(channels, (1 + 3 * NUM_PARTS) * scale**2, 1)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.predict.weight, std=0.01)
        assert self.predict.bias is not None
        nn.init.zeros_(self.predict.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = functional.relu(self.bn(self.conv(features)))
        x = functional.pixel_shuffle(self.predict(x), self.scale)
        parts, uv = x.split([1 + NUM_PARTS, 2 * NUM_PARTS], dim=1)
        return parts, uv.unflatten(1, (NUM_PARTS, 2))


def dense_losses(parts: Tensor, uv: Tensor, iuv: Tensor, *, background: float = 1.0) -> tuple[Tensor, Tensor]:
    """Errors of a predicted part and (u, v) map.

    An image whose map is all background has no map as far as anyone knows, and is left out.

    Args:
        parts: [B, 25, H, W], logits; 0 is the background.
        uv: [B, 24, 2, H, W], each part's (u, v).
        iuv: uint8 [B, 3, H, W], the map.
        background: what a background place counts in the cross entropy, a person's being 1.

    Returns:
        The weighted mean of the parts' cross entropy, and the mean absolute error of u and v over a person's places;
        scalars, float32, 0 where nothing counts.

    Raises:
        ValueError: the maps are of different sizes.
    """
    if iuv.shape != (len(parts), 3, *parts.shape[2:]):
        raise ValueError(f"iuv must have shape {[len(parts), 3, *parts.shape[2:]]}, got {list(iuv.shape)}")
    label = iuv[:, 0].long()
    label = label * (label <= NUM_PARTS)
    person = label > 0
    known = person.flatten(1).any(dim=1)[:, None, None]
    with torch.autocast(parts.device.type, enabled=False):
        weight = torch.where(person, 1.0, background) * known
        entropy = functional.cross_entropy(parts.float(), label, reduction="none")
        part_loss = (weight * entropy).sum() / weight.sum().clamp(min=1e-6)
        index = (label - 1).clamp(min=0)[:, None, None].expand(-1, 1, 2, -1, -1)
        own = uv.float().gather(1, index).squeeze(1)  # [B, 2, H, W]
        error = (own - iuv[:, 1:].float() / 255).abs().mean(dim=1)
        uv_loss = (error * person).sum() / person.sum().clamp(min=1)
    return part_loss, uv_loss


def merged_masks(iuv: Tensor) -> Tensor:
    """Which of the 8 merged parts each place is of: uint8 [B, 3, H, W] -> float32 [B, 8, H, W]."""
    merged = torch.tensor(_MERGED).to(iuv.device, non_blocking=True)[iuv[:, 0].long()]
    return (merged[:, None] == torch.arange(NUM_LOCAL, device=iuv.device)[:, None, None]).float()


def focus_loss(maps: Tensor, iuv: Tensor) -> Tensor:
    """The share of each local branch's activation that lies outside its part's places, and next to none of them.

    A place of the branch's map is inside where any of its pixels, or of its 8 neighbors', is of the part. Images
    count for the parts that they show.

    Args:
        maps: [B, 8 * C, h, w], at least 0: the local branches' maps before their average.
        iuv: uint8 [B, 3, H, W], the map, H and W multiples of h and w.

    Returns:
        The mean over shown parts, a scalar from 0 to 1, float32; 0 where no part is shown.
    """
    energy = maps.float().unflatten(1, (NUM_LOCAL, -1)).mean(dim=2)
    inside = functional.adaptive_max_pool2d(merged_masks(iuv), energy.shape[2:])
    shown = inside.flatten(2).amax(dim=2)  # [B, 8]
    inside = functional.max_pool2d(inside, 3, stride=1, padding=1)
    outside = (energy * (1 - inside)).sum(dim=(2, 3)) / energy.sum(dim=(2, 3)).clamp(min=1e-6)
    share: Tensor = (outside * shown).sum() / shown.sum().clamp(min=1)
    return share


def logits_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton et al., "Distilling the Knowledge in a Neural Network" (https://arxiv.org/abs/1503.02531).

    T^2 KL(teacher || student) of the softmax at temperature T, mean over the batch, and over parts if there are any.

    Args:
        student: [B, num_ids] or [B, parts, num_ids].
        teacher: the same; no gradient flows to it.
        temperature: T.
    """
    log_student = functional.log_softmax(student.float() / temperature, dim=-1).flatten(0, -2)
    log_teacher = functional.log_softmax(teacher.detach().float() / temperature, dim=-1).flatten(0, -2)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def relations_divergence(student: Tensor, teacher: Tensor, temperature: float = 0.1) -> Tensor:
    """KL of the likeness of each image to the others of the batch: softmax of cosines about the batch's mean.

    In the manner of Park et al., "Relational Knowledge Distillation" (https://arxiv.org/abs/1904.05068), with
    probabilities instead of distances, so that an image's nearest count most. Lengths may differ.

    Args:
        student: [B, D] or [B, parts, D]; parts are compared part by part, and averaged.
        teacher: [B, D'] or [B, parts, D']; no gradient flows to it.
        temperature: of the softmax.
    """

    def likeness(x: Tensor) -> Tensor:
        x = _centered(x.unsqueeze(1) if x.ndim == 2 else x).transpose(0, 1)
        cosines = x @ x.transpose(1, 2) / temperature  # [parts, B, B]
        own = torch.eye(len(cosines[0]), dtype=torch.bool, device=x.device)
        return functional.log_softmax(cosines.masked_fill(own, -1e4), dim=-1).flatten(0, 1)

    if len(student) < 3:
        return student.sum() * 0.0
    return functional.kl_div(likeness(student), likeness(teacher.detach()), reduction="batchmean", log_target=True)


def features_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of each feature and the teacher's, both about the batch's mean; mean over the batch and parts.

    Args:
        student: [B, D] or [B, parts, D].
        teacher: the same; no gradient flows to it.
    """
    return (1 - (_centered(student) * _centered(teacher.detach())).sum(dim=-1)).mean()


def _centered(x: Tensor) -> Tensor:
    x = x.float()
    return functional.normalize(x - x.mean(dim=0, keepdim=True), dim=-1)


class Guides(nn.Module):
    """What a training keeps next to its network: the dense decoder; and the guides' losses.

    Args:
        config: weights and options.
        channels: of F.
    """

    def __init__(self, config: GuideConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.decoder: DenseDecoder | None = None
        if config.dense:
            self.decoder = DenseDecoder(channels, config.dense_channels, config.dense_scale)

    def share(self, batch: int, progress: float, generator: torch.Generator) -> Tensor | None:
        """What the DSAG-Stream's features count, float32 [B] on the CPU; None where all of them count fully.

        Args:
            batch: B.
            progress: share of the training that is done.
            generator: for the images that are left out.
        """
        fade, drop = self.config.fade, self.config.drop
        if not (fade or drop):
            return None
        left = min(1.0, max(0.0, (1 - progress) / fade)) if fade else 1.0
        kept = torch.rand(batch, generator=generator, dtype=torch.float64) >= drop
        return (left * kept).float()

    def forward(
        self, output: DSAOutput, *, iuv: Tensor | None = None, teacher: DSAOutput | None = None, epoch: float = 0.0
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The guides' losses of a batch.

        Args:
            output: the network's.
            iuv: uint8 [B, 3, h * s, w * s], the map at F's places (s is `dense_scale`), where a guide reads it.
            teacher: the teacher's output; the network's own for `self`.
            epoch: epochs done.

        Returns:
            The weighted sum, None without a guide that has a loss; and each term by name, unweighted, without gradient.
        """
        config = self.config
        terms: list[tuple[str, float, Tensor]] = []
        if self.decoder is not None:
            assert output.maps is not None and iuv is not None
            logits, predicted = self.decoder(output.maps.shared)
            part, uv = dense_losses(logits, predicted, iuv, background=config.dense_background)
            terms += [("dense_part", config.dense, part), ("dense_uv", config.dense * config.dense_uv, uv)]
        if config.focus and output.maps is not None and output.maps.local is not None:
            assert iuv is not None
            terms.append(("focus", config.focus, focus_loss(output.maps.local, iuv)))
        if config.distil:
            assert teacher is not None
            ramp = min(1.0, epoch / config.distil_ramp) if config.distil_ramp else 1.0
            weight = ramp * config.distil
            terms += [(name, weight * factor, value) for name, factor, value in self._distil(output, teacher)]
        if not terms:
            return None, {}
        total = torch.stack([weight * value for _, weight, value in terms]).sum()
        return total, {name: value.detach() for name, _, value in terms}

    def _distil(self, output: DSAOutput, teacher: DSAOutput) -> list[tuple[str, float, Tensor]]:
        config = self.config
        fused = teacher.logits_z_global is not None or teacher.logits_z_local is not None
        logits = (
            ("global", 1, output.logits_f_global, teacher.logits_z_global if fused else teacher.logits_f_global),
            ("local", NUM_LOCAL, output.logits_f_local, teacher.logits_z_local if fused else teacher.logits_f_local),
        )
        features = (("global", output.f_global, teacher.z_global), ("local", output.f_local, teacher.z_local))
        terms: list[tuple[str, float, Tensor]] = []
        for branch, parts, student, aim in logits:
            if config.distil_logits and student is not None and aim is not None:
                value = logits_divergence(student, aim, config.distil_temperature)
                terms.append((f"distil_logits_{branch}", config.distil_logits * parts, value))
        for branch, student, aim in features:
            if student is None or aim is None:
                continue
            if config.distil_relations:
                value = relations_divergence(student, aim)
                terms.append((f"distil_relations_{branch}", config.distil_relations, value))
            if config.distil_features:
                value = features_distance(student, aim)
                terms.append((f"distil_features_{branch}", config.distil_features, value))
        return terms
