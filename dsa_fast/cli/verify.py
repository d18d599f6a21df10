"""`dsa-fast verify`."""

from __future__ import annotations

from pathlib import Path

from dsa_fast.terminal import say


def verify(a: Path, b: Path, *, encoder: Path, fmr: float = 1e-3, device: str = "auto") -> None:
    """Tell whether two images show the same person: `dsa-fast verify A.jpg B.jpg --encoder mf.onnx`.

    Args:
        a: an image.
        b: another image.
        encoder: file written by `dsa-fast export` and calibrated by `dsa-fast calibrate`.
        fmr: false match rate whose threshold decides: 1e-2, 1e-3 or 1e-4. It is the share of pairs of strangers that
            are taken for one person.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.

    Examples:
        dsa-fast verify a.jpg b.jpg --encoder mf.onnx
        dsa-fast verify a.jpg b.jpg --encoder mf.onnx --fmr 1e-4
    """
    from dsa_fast.deploy.encoder import Encoder

    with Encoder.load(encoder, device=device) as model:
        verdict = model.verify(a, b, fmr=fmr)
    relation = "reaches" if verdict.same else "is below"
    say(
        f"{'same person' if verdict.same else 'different people'}: the cosine {verdict.cosine:.4f} {relation} "
        f"{verdict.threshold:.4f}, the threshold for a false match rate of {verdict.fmr:g}\n"
        f"probability of one person: {verdict.probability:.3f}, if that is as likely as not beforehand\n"
        f"calibrated on {verdict.data}: for other people, cameras or crops the rates differ"
    )
