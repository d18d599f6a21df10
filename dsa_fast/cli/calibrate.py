"""`dsa-fast calibrate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from dsa_fast.configs.datasets import DatasetOptions
from dsa_fast.files import locked
from dsa_fast.terminal import console as open_console


def calibrate(
    encoder: Path,
    root: Path,
    *,
    name: str = "auto",
    options: DatasetOptions | None = None,
    check_counts: bool = True,
    probability: Literal["auto", "isotonic", "logistic"] = "auto",
    seed: int = 0,
    device: str = "auto",
    batch: int = 64,
    workers: int = 2,
) -> None:
    """Measure the cosines that tell people apart, for `dsa-fast verify`: `dsa-fast calibrate mf.onnx DATA`.

    The test people of a data set give the thresholds for false match rates of 1e-2, 1e-3 and 1e-4, and the probability
    that two images show one person. A random half of the people sets them, and the other half checks them. They are
    written into the encoder's sidecar.

    Args:
        encoder: file written by `dsa-fast export`.
        root: folder of a data set that the network was not trained on. Its people should be like those of your
            application.
        name: the data set's name; `auto` detects it from the folder.
        options: options of the data set, such as `{kind: labeled}` for CUHK03.
        check_counts: whether the image counts must match the published ones.
        probability: how the probability follows from the cosine: `isotonic`, a rising line through points; `logistic`;
            `auto`, isotonic from 1,000 pairs of one person on.
        seed: chooses the half of the people.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        batch: number of images per batch.
        workers: number of processes that read images.

    Examples:
        dsa-fast calibrate mf.onnx people
        dsa-fast calibrate mf.onnx people --probability logistic
    """
    from rich.table import Table

    from dsa_fast.data.registry import read_dataset
    from dsa_fast.deploy.encoder import Encoder
    from dsa_fast.deploy.sidecar import SUFFIXES, sidecar_path
    from dsa_fast.deploy.verification import calibrate as run
    from dsa_fast.evaluation import embed_people

    if encoder.suffix not in SUFFIXES.values():
        raise ValueError(f"encoder must be a file of dsa-fast export, which has a sidecar, got {encoder}")
    data = read_dataset(root, name, check_counts=check_counts, **(options or {}))
    with locked(sidecar_path(encoder)):
        with Encoder.load(encoder, device=device) as model:
            query, gallery = (
                embed_people(model, people, batch=batch, workers=workers, progress=f"embedding {part}")
                for part, people in (("query", data.query), ("gallery", data.gallery))
            )
        sidecar = run(encoder, query, gallery, f"{data.name} ({data.root})", probability=probability, seed=seed)
    found = sidecar.verification
    assert found is not None
    checked = found["checked"]
    table = Table(title=f"Set on {found['people']} people, checked on {checked['people']} others")
    for column in ("false match rate", "threshold", "found", "same person found"):
        table.add_column(column, justify="right")
    for rate, threshold in found["thresholds"].items():
        table.add_row(rate, f"{threshold:.4f}", f"{checked['fmr'][rate]:.2g}", f"{100 * checked['tpr'][rate]:.1f} %")
    console = open_console()
    console.print(table)
    missing = [rate for rate in ("0.01", "0.001", "0.0001") if rate not in found["thresholds"]]
    if missing:
        console.print(f"Too few pairs of different people for {', '.join(missing)}: {found['different_pairs']}")
    console.print(
        f"Equal error rate: {100 * found['eer']:.2f} % at a cosine of {found['eer_threshold']:.4f}\n"
        f"Sidecar: {sidecar_path(encoder)}\n"
        f"Next:    dsa-fast verify A.jpg B.jpg --encoder {shlex.quote(str(encoder))} --fmr "
        f"{min(found['thresholds'], key=float)}",
        soft_wrap=True,
    )
