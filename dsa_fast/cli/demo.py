"""`dsa-fast demo`."""

from __future__ import annotations

import csv
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsa_fast.cli.fit import print_scores
from dsa_fast.cli.synth import render_people
from dsa_fast.configs.augment import AugmentConfig
from dsa_fast.configs.model import ModelConfig
from dsa_fast.configs.synth import SynthConfig
from dsa_fast.configs.training import DataConfig, OptimConfig, TrainerConfig
from dsa_fast.files import is_free, read_json, write_json
from dsa_fast.terminal import console as open_console
from dsa_fast.version import __version__

if TYPE_CHECKING:
    from dsa_fast.data.people import PeopleSplits, Person
    from dsa_fast.evaluation import EvaluationResult
    from dsa_fast.evaluation.embedding import Embedded
    from dsa_fast.models import LoadedModel

MODEL = ModelConfig(backbone="resnet18", pretrained=None, width=0.25, classifier_dim=128)
AUGMENT = AugmentConfig(size=(128, 64), dsap_size=16, pad=5)

#: Terms of the loss in the log, and their names for people. f: MF-Stream, z: fused features.
_TERMS = {
    "id_f_global": "identity, MF-Stream, global",
    "id_f_local": "identity, MF-Stream, local",
    "id_z_global": "identity, fused, global",
    "id_z_local": "identity, fused, local",
    "triplet_global": "triplet, fused, global",
    "triplet_local": "triplet, fused, local",
}


def demo(
    *,
    out: Path = Path("runs/demo"),
    identities: int = 160,
    cameras: int = 4,
    epochs: int = 14,
    device: str = "auto",
    seed: int = 0,
) -> None:
    """Render people, train a small DSA-reID, evaluate it and draw results, in minutes on two CPU cores.

    An interrupted demo resumes. A finished demo, or one with other options, starts over.

    Args:
        out: folder for the people, the run, metrics.json and the pictures; new, empty, or from an earlier demo.
        identities: number of people to render; half of them are for training, the other half for testing.
        cameras: number of cameras.
        epochs: number of training epochs.
        device: `auto`, `cpu` or `cuda`.
        seed: random seed of people, weights and batches.

    Examples:
        dsa-fast demo
        dsa-fast demo --identities 40 --epochs 4 --out runs/short_demo
    """
    import lightning
    import torch

    from dsa_fast.data.registry import read_dataset
    from dsa_fast.device import pick_device
    from dsa_fast.evaluation.embedding import ModelEmbedder, embed_people
    from dsa_fast.models import LoadedModel, build_model, load_model
    from dsa_fast.training import fit

    console, start, place = open_console(), time.perf_counter(), pick_device(device)
    config = SynthConfig(identities=identities, cameras=cameras, seed=seed)
    people, run = out / "people", out / "run"
    resumed = _claim(out, {"synth": asdict(config), "epochs": epochs, "seed": seed, "version": __version__})
    if not (people / "synth.json").exists():
        render_people(people, config, console, overwrite=True)
    data = read_dataset(people)
    num_ids = len({person.pid for person in data.train})
    console.print(
        f"1/4  {len(data.train)} images of {num_ids} people to train on; of others, {len(data.query)} queries and "
        f"{len(data.gallery)} gallery images: {people}",
        soft_wrap=True,
    )

    def embed(model: LoadedModel, fused: bool = False) -> list[Embedded]:
        embedder = ModelEmbedder(model, fused=fused, device=place)
        return [embed_people(embedder, part) for part in (data.query, data.gallery)]

    lightning.seed_everything(seed, verbose=False)
    untrained = LoadedModel(build_model(num_ids, MODEL).eval().to(place), AUGMENT.size, AUGMENT.dsap_size)
    results = {
        "histogram": _score(_histograms(data.query), _histograms(data.gallery)),
        "untrained": _score(*embed(untrained)),
    }
    console.print("2/4  scored color histograms and the untrained network; training")

    warm = max(epochs // 8, 1)
    result = fit(
        DataConfig(str(people), p=min(8, num_ids), k=4, workers=0),
        MODEL,
        optim=OptimConfig(lr=2e-3, warmup_lr=2e-4, warmup_epochs=warm, schedule="cosine"),
        augment=AUGMENT,
        trainer=TrainerConfig(
            max_epochs=epochs,
            eval_every=max(epochs // 4, 1),
            accelerator="gpu" if place.type == "cuda" else "cpu",
            log_every=min(10, max(1, len(data.train) // (4 * min(8, num_ids)))),  # at least once per epoch
        ),
        out=run,
        resume=(run / "checkpoints" / "last.ckpt").exists(),
        seed=seed,
    )
    trained = load_model(result.checkpoint)
    trained.model.to(place)
    query, gallery = embed(trained)
    results["trained"] = _score(query, gallery)
    results["trained, two streams fused"] = _score(*embed(trained, fused=True))
    console.print("3/4  trained and scored; drawing")

    _draw_curves(out, result.log, results)
    _draw_ranked(out, data, query, gallery, results["trained"])
    _draw_parts(out / "parts.png", data.query, seed)
    about = {
        "scores": {name: each.summary() for name, each in results.items()},
        "train_images": len(data.train),
        "queries": len(data.query),
        "gallery": len(data.gallery),
        "epochs": epochs,
        "seconds": None if resumed else round(time.perf_counter() - start, 1),
        "synth": asdict(config),
        "model": asdict(MODEL),
        "torch": torch.__version__,
    }
    write_json(out / "metrics.json", about)
    console.print(f"4/4  done in {time.perf_counter() - start:.0f} s\n")
    titles = {
        "histogram": "colour histograms",
        "untrained": "MF-Stream before training",
        "trained": "MF-Stream after training",
        "trained, two streams fused": "both streams after training",
    }
    print_scores({titles[name]: each.summary() for name, each in results.items()})
    gain = 100 * (results["trained"].mAP - max(results["untrained"].mAP, results["histogram"].mAP))
    console.print(f"Training gained {gain:.1f} points of mAP over the better of the first two.\n")
    console.print(
        f"Look at these in {out}:\n"
        "  ranked.png                 queries and their ten nearest images, marked right or wrong\n"
        "  parts.png                  people, their part maps and 24 part images\n"
        "  loss.png, map.png          losses and scores during the training\n"
        "  metrics.json               all scores\n"
        "  run/checkpoints/last.ckpt  the model, for dsa-fast eval\n"
        "  people/                    the data set in Market-1501's layout, for dsa-fast fit",
        soft_wrap=True,
    )


def _claim(out: Path, options: dict[str, Any]) -> bool:
    """Prepares the folder; returns whether it holds an interrupted run of this demo.

    Raises:
        FileExistsError: the folder contains something else. It is not changed.
    """
    mark = out / "demo.json"
    if mark.is_file():
        if read_json(mark) == options and not (out / "metrics.json").exists():
            return True
        for folder in (out / "people", out / "run"):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("metrics.json", "demo.json"):
            (out / name).unlink(missing_ok=True)
    elif not is_free(out):
        raise FileExistsError(f"out must be new, empty, or an earlier demo's folder, got {out}")
    write_json(mark, options)
    return False


def _score(query: Embedded, gallery: Embedded) -> EvaluationResult:
    from dsa_fast.evaluation import evaluate

    return evaluate(*query, *gallery)


def _histograms(people: list[Person]) -> Embedded:
    from dsa_fast.data.dataset import Collate, PeopleDataset
    from dsa_fast.evaluation import histogram_features
    from dsa_fast.evaluation.embedding import Embedded

    items = Collate(AUGMENT.size)([PeopleDataset(people, with_iuv=False)[i] for i in range(len(people))])
    return Embedded(histogram_features(items["image"]), items["label"], items["camid"])


def _draw_curves(out: Path, log: Path, results: dict[str, EvaluationResult]) -> None:
    from dsa_fast.visual.charts import curve_panels, curves
    from dsa_fast.visual.layout import save_picture

    with log.open() as file:
        rows = list(csv.DictReader(file))

    def points(name: str) -> list[tuple[float, float]]:
        return [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]

    terms = {title: points(f"loss/{name}") for name, title in _TERMS.items() if f"loss/{name}" in rows[0]}
    panels = {"total: the weighted sum of the terms": {"total": points("loss")}, "terms, without their weights": terms}
    save_picture(curve_panels(panels, title="Losses of the training batches", x_label="step"), out / "loss.png")
    scores = {"mAP": [(0.0, results["untrained"].mAP)], "rank 1": [(0.0, results["untrained"].rank(1))]}
    for row in rows:
        if row.get("mAP"):
            scores["mAP"].append((float(row["epoch"]) + 1, float(row["mAP"])))
            scores["rank 1"].append((float(row["epoch"]) + 1, float(row["R1"])))
    levels = {"mAP of color histograms": results["histogram"].mAP}
    picture = curves(
        scores,
        title="MF-Stream on people it was not trained on",
        x_label="epoch",
        y_label="score",
        percent=True,
        levels=levels,
    )
    save_picture(picture, out / "map.png")


def _draw_ranked(out: Path, data: PeopleSplits, query: Embedded, gallery: Embedded, result: EvaluationResult) -> None:
    """Queries from the best to the worst."""
    import numpy as np

    from dsa_fast.evaluation import rank_list
    from dsa_fast.visual.layout import save_picture
    from dsa_fast.visual.ranked_lists import ranked_lists

    precision = result.average_precision
    ranking = np.argsort(-precision, kind="stable")[: result.num_valid_queries]  # uncounted ones are NaN and come last
    chosen = ranking[np.linspace(0, len(ranking) - 1, min(8, len(ranking))).round().astype(int)]
    features, pids, camids = (column[chosen] for column in query)
    lists = rank_list(features, pids, camids, *gallery, k=10)
    notes = [f"AP {precision[i]:.0%}" for i in chosen]
    queries = [data.query[i] for i in chosen]
    title = "Queries from the best average precision to the worst, evenly spaced"
    picture = ranked_lists(queries, data.gallery, lists, notes=notes, title=title, distance="cosine distance")
    save_picture(picture, out / "ranked.png")


def _draw_parts(path: Path, people: list[Person], seed: int) -> None:
    """Draws the photo, part map and parts of four people."""
    import numpy as np

    from dsa_fast.densepose.iuv import read_iuv
    from dsa_fast.image import read_image
    from dsa_fast.ops.warp import warp
    from dsa_fast.visual.atlas import photo_and_parts
    from dsa_fast.visual.layout import save_picture, tile_table

    with_map = [person for person in people if person.iuv_path is not None]
    rows = []
    for i in np.random.default_rng(seed).permutation(len(with_map))[:4]:
        person = with_map[i]
        assert person.iuv_path is not None
        photo, iuv = read_image(person.path), read_iuv(person.iuv_path)
        dsap, count = warp(photo, iuv, size=AUGMENT.dsap_size, return_count=True)
        rows.append(photo_and_parts(photo, iuv, dsap, count, f"pid {person.pid}, camera {person.camid}"))
    save_picture(tile_table([[row] for row in rows], gap=0), path)
