"""Guides: they help to train the MF-Stream, cost nothing at inference, and are not exported.

You can combine them. The network itself has the fusion (z = f + d). This module adds its fading and dropping, and
guides that reach the MF-Stream without it: dense prediction from the map F, focus of the local branches, ID losses on
regions of F, and distillation from the fused features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsa_fast.configs.model import GuideConfig
from dsa_fast.densepose.parts import MERGE_13_TO_8, MERGE_24_TO_13, NUM_PARTS
from dsa_fast.models.backbone import pool
from dsa_fast.models.dsa_reid import DSAOutput
from dsa_fast.models.heads import BranchClassifier
from dsa_fast.models.losses import id_loss
from dsa_fast.models.mf_stream import NUM_LOCAL

# The merged part of each value of a map; -1 if the value is not a part.
_MERGED = [-1] * 256
for _merged, _group in enumerate(MERGE_13_TO_8):
    for _middle in _group:
        for _part in MERGE_24_TO_13[_middle]:
            _MERGED[_part] = _merged


class DenseDecoder(nn.Module):
    """F -> part logits and (u, v) of each part: [B, C, h, w] -> [B, 25, h*s, w*s] and [B, 24, 2, h*s, w*s].

    A 3x3 convolution, batch norm and ReLU, then a 1x1 convolution that predicts s x s positions per position of F. As
    in DensePose, every part has its own (u, v).

    Args:
        in_channels: C.
        channels: width of the first layer.
        scale: s.
    """

    #: Predicted values of a position: background and parts, and u and v of each part.
    VALUES = 1 + 3 * NUM_PARTS

    def __init__(self, in_channels: int, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.predict = nn.Conv2d(channels, self.VALUES * scale**2, 1)
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
    """Computes the errors of a predicted part and (u, v) map.

    Ignores an image if its map is all background, because the map is then probably missing.

    Args:
        parts: [B, 25, H, W], logits; 0 is the background.
        uv: [B, 24, 2, H, W], each part's (u, v).
        iuv: uint8 [B, 3, H, W], the map.
        background: weight of a background position in the cross entropy; positions on the person have weight 1.

    Returns:
        The weighted mean cross entropy of the parts, and the mean absolute error of u and v over positions on the
        person. Both are float32 scalars, 0 if no position counts.

    Raises:
        ValueError: the maps have different sizes.
    """
    if iuv.shape != (len(parts), 3, *parts.shape[2:]):
        raise ValueError(f"iuv must have shape {[len(parts), 3, *parts.shape[2:]]}, got {list(iuv.shape)}")
    label = iuv[:, 0].long()
    label = label * (label <= NUM_PARTS)
    person = label > 0
    known = person.flatten(1).any(dim=1)[:, None, None]
    with torch.autocast(parts.device.type, enabled=False):
        weight = torch.where(person, 1.0, background) * known
        # One row a position: the form for maps has no deterministic kernel on CUDA.
        rows = parts.float().movedim(1, -1).flatten(0, -2)
        entropy = functional.cross_entropy(rows, label.flatten(), reduction="none").view_as(label)
        part_loss = (weight * entropy).sum() / weight.sum().clamp(min=1e-6)
        index = (label - 1).clamp(min=0)[:, None, None].expand(-1, 1, 2, -1, -1)
        own = uv.float().gather(1, index).squeeze(1)  # [B, 2, H, W]
        error = (own - iuv[:, 1:].float() / 255).abs().mean(dim=1)
        uv_loss = (error * person).sum() / person.sum().clamp(min=1)
    return part_loss, uv_loss


def merged_masks(iuv: Tensor) -> Tensor:
    """Masks of the 8 merged parts: uint8 [B, 3, H, W] -> float32 [B, 8, H, W], 1 on the part and 0 elsewhere."""
    merged = torch.tensor(_MERGED).to(iuv.device, non_blocking=True)[iuv[:, 0].long()]
    return (merged[:, None] == torch.arange(NUM_LOCAL, device=iuv.device)[:, None, None]).float()


def focus_loss(maps: Tensor, iuv: Tensor) -> Tensor:
    """Computes the share of each local branch's activation that is outside its part and its part's neighborhood.

    A position of the branch's map is inside if any of its pixels, or of its 8 neighbors' pixels, belongs to the part.
    An image counts only for the parts that are visible in it.

    Args:
        maps: [B, 8 * C, h, w], at least 0: the local branches' maps before spatial averaging.
        iuv: uint8 [B, 3, H, W], the map, H and W multiples of h and w.

    Returns:
        The mean over visible parts, a float32 scalar from 0 to 1; 0 if no part is visible.
    """
    energy = maps.float().unflatten(1, (NUM_LOCAL, -1)).mean(dim=2)
    inside = functional.adaptive_max_pool2d(merged_masks(iuv), energy.shape[2:])
    shown = inside.flatten(2).amax(dim=2)  # [B, 8]
    inside = functional.max_pool2d(inside, 3, stride=1, padding=1)
    outside = (energy * (1 - inside)).sum(dim=(2, 3)) / energy.sum(dim=(2, 3)).clamp(min=1e-6)
    share: Tensor = (outside * shown).sum() / shown.sum().clamp(min=1)
    return share


def part_shares(iuv: Tensor, grid: tuple[int, int]) -> Tensor:
    """Computes the share of each merged part in each position of F: uint8 [B, 3, H, W] -> float32 [B, 8, h, w].

    Args:
        iuv: the map, H and W multiples of h and w.
        grid: (h, w).
    """
    height, width = grid
    return functional.avg_pool2d(merged_masks(iuv), (iuv.shape[2] // height, iuv.shape[3] // width))


def part_share_loss(logits: Tensor, iuv: Tensor, *, background: float = 1.0) -> Tensor:
    """Computes the cross entropy of predicted merged parts with the parts' shares in each position.

    Ignores an image if its map is all background, because the map is then probably missing.

    Args:
        logits: [B, 9, h, w]; 0 is the background.
        iuv: uint8 [B, 3, H, W], the map, H and W multiples of h and w.
        background: weight of the background relative to a part.

    Returns:
        The weighted mean, a float32 scalar; 0 if no position counts.
    """
    height, width = logits.shape[2:]
    shares = part_shares(iuv, (height, width))
    aim = torch.cat([background * (1 - shares.sum(dim=1, keepdim=True)), shares], dim=1)
    aim = aim * (shares.flatten(1).amax(dim=1) > 0)[:, None, None, None]
    return -(aim * functional.log_softmax(logits.float(), dim=1)).sum() / aim.sum().clamp(min=1e-6)


def stripe_shares(grid: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Computes the share of 8 horizontal stripes of equal height in each position of F: float32 [8, h, w].

    Args:
        grid: (h, w).
        device: device of the result.
    """
    height, width = grid
    # Each row is cut into 8, so that a stripe has a whole number of pieces.
    stripe = torch.arange(NUM_LOCAL * height, device=device) // height
    own = stripe == torch.arange(NUM_LOCAL, device=device)[:, None]
    return own.float().view(NUM_LOCAL, height, NUM_LOCAL).mean(dim=2)[..., None].expand(-1, -1, width)


def region_features(features: Tensor, shares: Tensor, *, least: float = 0.1) -> tuple[Tensor, Tensor]:
    """Averages F over regions.

    Args:
        features: [B, C, h, w], the map F.
        shares: [B, G, h, w], the share of each region in each position, from 0 to 1.
        least: a region counts if its shares add up to more than this.

    Returns:
        float32 [B, G, C], the weighted average of each region, or the average of the whole image if the region does not
        count, so that batch norms see usual values; and float32 [B, G], 1 where a region counts and 0 elsewhere.
    """
    mass = shares.sum(dim=(2, 3))
    seen = (mass > least).float()
    with torch.autocast(features.device.type, enabled=False):
        average = shares.float().flatten(2) @ features.float().flatten(2).transpose(1, 2)
        average = average / mass.clamp(min=least)[..., None]
        return torch.where(seen[..., None] > 0, average, pool(features)[:, None]), seen


def logits_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Hinton et al., "Distilling the Knowledge in a Neural Network" (https://arxiv.org/abs/1503.02531).

    Computes T^2 KL(teacher || student) of the softmax at temperature T, averaged over the batch and any parts.

    Args:
        student: [B, num_ids] or [B, parts, num_ids].
        teacher: same shape; gets no gradient.
        temperature: T.
    """
    log_student = functional.log_softmax(student.float() / temperature, dim=-1).flatten(0, -2)
    log_teacher = functional.log_softmax(teacher.detach().float() / temperature, dim=-1).flatten(0, -2)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def relations_divergence(student: Tensor, teacher: Tensor, temperature: float = 0.1) -> Tensor:
    """Computes the KL divergence of each image's similarities to the other images of the batch.

    The similarities are a softmax of cosines, after the batch mean is subtracted. Modeled on Park et al., "Relational
    Knowledge Distillation" (https://arxiv.org/abs/1904.05068), but with probabilities instead of distances, so that the
    nearest images count most. Student and teacher may have different feature lengths.

    Args:
        student: [B, D] or [B, parts, D]; each part is compared separately, and the parts are averaged.
        teacher: [B, D'] or [B, parts, D']; gets no gradient.
        temperature: temperature of the softmax.
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
    """Computes 1 - cosine between student and teacher features, averaged over the batch and parts.

    The batch mean is subtracted from both first.

    Args:
        student: [B, D] or [B, parts, D].
        teacher: same shape; gets no gradient.
    """
    return (1 - (_centered(student) * _centered(teacher.detach())).sum(dim=-1)).mean()


def _centered(x: Tensor) -> Tensor:
    x = x.float()
    return functional.normalize(x - x.mean(dim=0, keepdim=True), dim=-1)


class Guides(nn.Module):
    """The guides of a training run: their layers, which are not part of the network, and their losses.

    Args:
        config: weights and options.
        channels: number of channels of F.
        num_ids: number of identities; needed by the classifiers of parts and stripes.
        classifier_dim: width of their first layer.
        label_smoothing: label smoothing of their ID losses.

    Raises:
        ValueError: parts or stripes without `num_ids`.
    """

    def __init__(
        self,
        config: GuideConfig,
        channels: int,
        num_ids: int | None = None,
        *,
        classifier_dim: int = 512,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.label_smoothing = label_smoothing
        self.decoder: DenseDecoder | None = None
        if config.dense:
            self.decoder = DenseDecoder(channels, config.dense_channels, config.dense_scale)
        #: The classifiers of the 8 parts and of the 8 stripes.
        self.classifiers = nn.ModuleDict()
        for name in ("parts", "stripes"):
            if getattr(config, name):
                if num_ids is None:
                    raise ValueError(f"num_ids must be given for guide.{name}, got None")
                self.classifiers[name] = BranchClassifier(NUM_LOCAL, channels, num_ids, classifier_dim)

    def share(self, batch: int, progress: float, generator: torch.Generator) -> Tensor | None:
        """Returns the weight of the DSAG-Stream's features, float32 [B] on the CPU, or None without fade and drop.

        Args:
            batch: B.
            progress: finished share of training, from 0 to 1.
            generator: draws the images to drop.
        """
        fade, drop = self.config.fade, self.config.drop
        if not (fade or drop):
            return None
        left = min(1.0, max(0.0, (1 - progress) / fade)) if fade else 1.0
        kept = torch.rand(batch, generator=generator, dtype=torch.float64) >= drop
        return (left * kept).float()

    def forward(
        self,
        output: DSAOutput,
        labels: Tensor | None = None,
        *,
        iuv: Tensor | None = None,
        teacher: DSAOutput | None = None,
        epoch: float = 0.0,
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Computes the guides' losses of a batch.

        Args:
            output: the network's output.
            labels: int64 [B], the identities, 0 to num_ids - 1; needed by parts and stripes.
            iuv: uint8 [B, 3, h * s, w * s], the map at F's positions (s is `dense_scale`); needed if a guide reads it.
            teacher: the teacher's output; the network's own output for `self`.
            epoch: number of finished epochs; may be fractional.

        Returns:
            The weighted sum, or None if no guide has a loss; and each term by name, unweighted and without gradient.
        """
        config = self.config
        terms: list[tuple[str, float, Tensor]] = []
        if self.decoder is not None:
            assert output.maps is not None and iuv is not None
            logits, predicted = self.decoder(output.maps.shared)
            part, uv = dense_losses(logits, predicted, iuv, background=config.dense_background)
            terms += [("dense_part", config.dense, part), ("dense_uv", config.dense * config.dense_uv, uv)]
        if config.pooling and output.maps is not None and output.maps.parts is not None:
            assert iuv is not None
            found = part_share_loss(output.maps.parts, iuv, background=config.dense_background)
            terms.append(("pooling", config.pooling, found))
        if config.focus and output.maps is not None and output.maps.local is not None:
            assert iuv is not None
            terms.append(("focus", config.focus, focus_loss(output.maps.local, iuv)))
        for name, classifier in self.classifiers.items():
            assert output.maps is not None and labels is not None
            value = self._regions_id(name, classifier, output.maps.shared, labels, iuv)
            terms.append((f"id_{name}", getattr(config, name), value))
        if config.distil:
            assert teacher is not None
            ramp = min(1.0, epoch / config.distil_ramp) if config.distil_ramp else 1.0
            weight = ramp * config.distil
            terms += [(name, weight * factor, value) for name, factor, value in self._distil(output, teacher)]
        if not terms:
            return None, {}
        total = torch.stack([weight * value for _, weight, value in terms]).sum()
        return total, {name: value.detach() for name, _, value in terms}

    def _regions_id(
        self, name: str, classifier: nn.Module, features: Tensor, labels: Tensor, iuv: Tensor | None
    ) -> Tensor:
        height, width = features.shape[2:]
        if name == "parts":
            assert iuv is not None
            shares = part_shares(iuv, (height, width))
        else:
            shares = stripe_shares((height, width), features.device).expand(len(features), -1, -1, -1)
        averages, seen = region_features(features, shares)
        # As if each part were visible: otherwise images without a map would make the loss smaller. A few parts in a
        # batch of hardly any maps do not get the weight of all.
        weight = seen / seen.mean().clamp(min=0.05)
        return id_loss(classifier(averages), labels, label_smoothing=self.label_smoothing, weight=weight)

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
