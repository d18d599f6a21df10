"""Same person or not: calibrates an exported file on a data set, and judges pairs of images by it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsa_fast.deploy.sidecar import Sidecar, read_sidecar, write_sidecar
from dsa_fast.evaluation import Embedded, MatchRates, match_rates
from dsa_fast.extras import require

ProbabilityKind = Literal["auto", "isotonic", "logistic"]

_ENOUGH_FOR_ISOTONIC = 1000  # pairs of one person, as scikit-learn's guide advises
_PROBABILITY_BINS = 400


@dataclass(frozen=True)
class Verdict:
    """Whether two images show the same person.

    Attributes:
        cosine: of the two vectors.
        probability: that both images show one person, if that is as likely as not beforehand.
        same: whether the cosine reaches the threshold.
        threshold: for the false match rate.
        fmr: the false match rate: the share of pairs of strangers that reach the threshold.
        data: the data set of the calibration.
    """

    cosine: float
    probability: float
    same: bool
    threshold: float
    fmr: float
    data: str


def calibrate(
    path: str | os.PathLike[str],
    query: Embedded,
    gallery: Embedded,
    data: str,
    *,
    probability: ProbabilityKind = "auto",
    seed: int = 0,
) -> Sidecar:
    """Measures thresholds and probabilities, and writes them into an exported file's sidecar.

    Half of the people, chosen at random, sets them. They are then checked on the other half.

    Args:
        path: the exported file that made the vectors.
        query: vectors of people that the network was not trained on.
        gallery: vectors of the same people.
        data: the data set's name.
        probability: how the probability follows from the cosine: `isotonic`, a rising line through points; `logistic`;
            `auto`, isotonic from 1,000 pairs of one person on.
        seed: chooses the half.

    Returns:
        The new sidecar, with `verification`.

    Raises:
        FileNotFoundError, ValueError: see `read_sidecar`; or there are too few people or pairs, or scikit-learn is not
            installed.
    """
    if probability not in get_args(ProbabilityKind):
        raise ValueError(f"probability must be one of {', '.join(get_args(ProbabilityKind))}, got {probability!r}")
    path = Path(path)
    sidecar = read_sidecar(path)
    people = torch.unique(query.pids).numpy()
    if len(people) < 4:
        raise ValueError(f"{data} must have queries of at least 4 people, got {len(people)}")
    chosen = np.random.default_rng(seed).permutation(people)[: len(people) // 2]
    fit, check = (
        match_rates(_part(query, people, chosen, first), _part(gallery, people, chosen, first))
        for first in (True, False)
    )
    thresholds = fit.summary()["thresholds"]
    if not thresholds:
        raise ValueError(
            f"{data} must have 1,000 pairs of different people, a query and a gallery image each, for a false match "
            f"rate of 0.01 among half of its people, got {fit.different.sum()}: with queries of {len(people)} people, "
            f"give about {math.ceil(1.1 * len(people) * math.sqrt(1000 / max(int(fit.different.sum()), 1)))} with as "
            "many images each"
        )
    eer, eer_threshold = fit.equal_error()
    verification = {
        "data": data,
        "people": len(chosen),
        "same_pairs": int(fit.same.sum()),
        "different_pairs": int(fit.different.sum()),
        "thresholds": thresholds,
        "eer": eer,
        "eer_threshold": eer_threshold,
        "probability": _fit_probability(fit, probability),
        "checked": {
            "people": len(people) - len(chosen),
            "same_pairs": int(check.same.sum()),
            "different_pairs": int(check.different.sum()),
            "fmr": {rate: check.at(value)[0] for rate, value in thresholds.items()},
            "tpr": {rate: check.at(value)[1] for rate, value in thresholds.items()},
        },
    }
    sidecar = replace(sidecar, verification=verification)
    write_sidecar(path, sidecar)
    return sidecar


def judge(verification: dict[str, Any] | None, path: str | os.PathLike[str], cosine: float, fmr: float) -> Verdict:
    """Judges a cosine by a sidecar's calibration.

    Args:
        verification: that of the sidecar.
        path: the exported file, for the message.
        cosine: of two vectors.
        fmr: one of the calibrated false match rates.

    Raises:
        ValueError: there is no calibration, or none for this rate.
    """
    if verification is None:
        if Path(path).suffix == ".ckpt":
            raise ValueError(f"{path} must be exported and calibrated first: dsa-fast export, then dsa-fast calibrate")
        raise ValueError(
            f"{path} must be calibrated before it can tell people apart: run dsa-fast calibrate {path} DATA"
        )
    threshold = threshold_at(verification, fmr)
    chance = probability_at(verification["probability"], cosine)
    return Verdict(cosine, chance, cosine >= threshold, threshold, fmr, str(verification["data"]))


def threshold_at(verification: dict[str, Any], fmr: float) -> float:
    """Returns the calibrated threshold of a false match rate.

    Raises:
        ValueError: it was not calibrated for this rate.
    """
    thresholds = {float(rate): float(value) for rate, value in verification["thresholds"].items()}
    if fmr not in thresholds:
        rates = ", ".join(f"{rate:g}" for rate in thresholds)
        raise ValueError(f"fmr must be one of the calibrated rates, {rates}, got {fmr:g}: more data give lower rates")
    return thresholds[fmr]


def probability_at(fitted: dict[str, Any], cosine: float) -> float:
    """Evaluates a fitted probability: a line through points, or a logistic curve."""
    if fitted["kind"] == "isotonic":
        return float(np.interp(cosine, fitted["cosine"], fitted["value"]))
    return 1 / (1 + math.exp(min(-(fitted["slope"] * cosine + fitted["offset"]), 700)))  # exp(710) is an error


def _part(people: Embedded, known: NDArray[np.int64], chosen: NDArray[np.int64], first: bool) -> Embedded:
    """The images of the chosen people, or of the others. People without a query are split by image."""
    pids = people.pids.numpy()
    odd = np.arange(len(pids)) % 2 == 1
    mask = torch.from_numpy(np.where(np.isin(pids, known), np.isin(pids, chosen), odd) == first)
    parts: list[Tensor] = [values[mask] for values in people]
    return Embedded(*parts)


def _fit_probability(rates: MatchRates, kind: str) -> dict[str, Any]:
    """Fits the probability of one person by the cosine, with equal weight for pairs of one person and of strangers."""
    if kind == "auto":
        kind = "isotonic" if rates.same.sum() >= _ENOUGH_FOR_ISOTONIC else "logistic"
    occupied = np.flatnonzero(rates.same + rates.different)
    first, last = int(occupied[0]), int(occupied[-1]) + 1
    edges = np.unique(np.linspace(first, last, _PROBABILITY_BINS + 1).round().astype(int))
    same, different = (
        np.add.reduceat(counts, edges[:-1])[: len(edges) - 1] for counts in (rates.same, rates.different)
    )
    middle = (rates.edges[edges[:-1]] + rates.edges[edges[1:]]) / 2
    cosine = np.tile(middle, 2)
    label = np.repeat([1.0, 0.0], len(middle))
    weight = np.concatenate([same / same.sum(), different / different.sum()])
    cosine, label, weight = cosine[weight > 0], label[weight > 0], weight[weight > 0]
    purpose = "calibrating"
    if kind == "isotonic":
        # No more certain than the number of pairs allows.
        low, high = 1 / (different.sum() + 1), 1 - 1 / (same.sum() + 1)
        model = require("sklearn.isotonic", purpose).IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip")
        model.fit(cosine, label, sample_weight=weight)
        points = [[round(float(each), 7) for each in values] for values in (model.X_thresholds_, model.y_thresholds_)]
        return {"kind": kind, "cosine": points[0], "value": points[1]}
    center, spread = float(np.average(cosine, weights=weight)), float(cosine.std()) or 1.0
    model = require("sklearn.linear_model", purpose).LogisticRegression(C=1e4)
    model.fit(((cosine - center) / spread)[:, None], label, sample_weight=weight * len(weight))
    slope = float(model.coef_[0, 0]) / spread
    return {"kind": kind, "slope": slope, "offset": float(model.intercept_[0]) - slope * center}
