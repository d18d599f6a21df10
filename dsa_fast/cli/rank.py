"""`dsa-fast rank`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from dsa_fast.cli.fit import print_scores
from dsa_fast.cli.progress import image_progress
from dsa_fast.configs.datasets import DatasetOptions
from dsa_fast.files import write_json
from dsa_fast.terminal import console as open_console
from dsa_fast.terminal import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from dsa_fast.data.people import PeopleSplits, Person
    from dsa_fast.evaluation import Embedded, EvaluationResult, UnfilteredLists

KIND_NAMES = ("wrong", "right", "left out: same camera", "left out: junk")
_ITSELF = "left out: the query itself"  # where each image counts as a camera of its own
_ROWS = 12  # queries in ranked.png
_PAIRS = 12  # queries in activations.png


def rank(
    checkpoint: Path,
    root: Path,
    *,
    out: Path,
    queries: str = "random",
    count: int = 20,
    k: int = 10,
    html: bool = True,
    activation: Literal["backbone", "global", "local", "none"] = "backbone",
    name: str = "auto",
    options: DatasetOptions | None = None,
    check_counts: bool = True,
    multi_query: bool = False,
    fused: bool = False,
    iuv: Path | None = None,
    metric: Literal["cosine", "euclidean"] = "cosine",
    images: Literal["auto", "embed", "folder"] = "auto",
    height: int | None = None,
    title: str | None = None,
    device: str = "auto",
    batch: int = 64,
    workers: int = 2,
    seed: int = 0,
) -> None:
    """Draw ranked lists, curves and activation maps.

    Writes report.html, ranked.png, cmc.png, distances.png, activations.png and ranks.json. Scores, curves and distances
    cover all queries. Lists show the selected ones.

    Args:
        checkpoint: file written by `dsa-fast fit`.
        root: folder of a data set or one up to three levels above it, or a CSV file.
        out: folder to write to.
        queries: `random`, `worst` (lowest average precision first), `all`, or names of query files separated by commas.
        count: number of random or worst queries.
        k: number of ranked images in each list; images that the protocol leaves out are shown in gray between them.
        html: write report.html, a web page of all results that opens from disk.
        activation: layer of the activation maps: `backbone` (F, which all heads read), `global`, `local`, or `none`.
        name: the data set's name; `auto` detects it from the folder.
        options: options of the data set, such as `{kind: labeled}` for CUHK03.
        check_counts: whether the image counts must match the published ones.
        multi_query: pool each query over all images of its person by its camera (Market-1501's gt_bbox).
        fused: use the fused features of both streams, which need IUV maps; otherwise use the MF-Stream alone.
        iuv: folder of the IUV maps; by default `iuv` inside root.
        metric: distance between two test vectors.
        images: `embed` stores the images in report.html, `folder` in a folder next to it, `auto` embeds up to 64 MiB.
        height: height of the report's images in pixels; by default 160, or 112 for 2,000 or more images.
        title: heading of the report.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        batch: number of images per batch.
        workers: number of processes that read images.
        seed: random seed of the selection.

    Examples:
        dsa-fast rank runs/quick/checkpoints/last.ckpt people --out runs/rank
        dsa-fast rank last.ckpt DIR --out runs/worst --queries worst --count 40
    """
    import torch

    from dsa_fast.data.registry import read_dataset
    from dsa_fast.device import pick_device
    from dsa_fast.evaluation import (
        Embedded,
        ModelEmbedder,
        as_tested,
        distance_histogram,
        draw_galleries,
        embed_people,
        evaluate,
        pool_multi_query,
        unfiltered_lists,
    )
    from dsa_fast.evaluation.activation import record_activations
    from dsa_fast.models import load_model
    from dsa_fast.visual.charts import cmc_curves, distance_distributions
    from dsa_fast.visual.layout import save_picture
    from dsa_fast.visual.report import write_report

    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    start, console = time.perf_counter(), open_console()
    place = pick_device(device)
    loaded = load_model(checkpoint)
    loaded.model.to(place)
    data = read_dataset(root, name, iuv=iuv, check_counts=check_counts, **(options or {}))
    drawn = data.gallery_draws
    if drawn:
        first = draw_galleries([person.pid for person in data.gallery], drawn)[0].tolist()
        data = replace(data, gallery=[data.gallery[place] for place in first], gallery_draws=0)
    data = replace(data, pool_tracklets=False)  # it shows images
    if multi_query and not data.multi_query:
        raise ValueError(f"multi_query needs additional images of the queries (gt_bbox), got none in {data.root}")
    if queries not in ("random", "worst", "all"):
        _find_by_name(queries, data.query)  # report a wrong name before the work starts

    embedder = ModelEmbedder(loaded, fused=fused, device=place)

    def embed(part: str, people: list[Person]) -> Embedded:
        return embed_people(embedder, people, batch=batch, workers=workers, progress=f"embedding {part}")

    embedded, heat = [], []
    for part, people in (("query", data.query), ("gallery", data.gallery)):
        if activation == "none":
            embedded.append(embed(part, people))
        else:
            with record_activations(loaded.model.mf_stream, activation) as maps:
                embedded.append(embed(part, people))
            heat.append(torch.cat(maps))
    query, gallery = (
        as_tested(part, people, data) for part, people in zip(embedded, (data.query, data.gallery), strict=True)
    )
    if multi_query:
        query = pool_multi_query(query, embed("multi_query", data.multi_query))
    result = evaluate(*query, *gallery, metric=metric)
    chosen = pick_queries(queries, data.query, result, count, seed)
    some = Embedded(*(column[torch.from_numpy(chosen)] for column in query))
    lists = unfiltered_lists(*some, *gallery, k=k, metric=metric)
    histogram = distance_histogram(*query, *gallery, metric=metric)

    method = ("both streams fused" if fused else "MF-Stream") + (", multi-query" if multi_query else "")
    how = {"worst": "the worst {}", "random": "{} at random", "all": "all {}"}.get(queries, "{} by name")
    how = how.format(f"{len(chosen):,}")
    save_picture(cmc_curves({method: result.cmc}), out / "cmc.png")
    save_picture(distance_distributions(histogram, x_label=f"{metric} distance"), out / "distances.png")
    save_picture(_draw_lists(data, lists, result, chosen, f"{metric} distance"), out / "ranked.png")
    written = ["cmc.png", "distances.png", "ranked.png"]
    if heat:
        save_picture(_draw_activations(data, lists, chosen, heat[0], heat[1], activation), out / "activations.png")
        written.append("activations.png")
    about = {"checkpoint": str(checkpoint), "root": str(root), "features": method, "metric": metric}
    rows = _json_rows(data, lists, result, chosen)
    write_json(out / "ranks.json", {**about, **result.summary(), "queries": rows})
    written.append("ranks.json")
    print_scores({method: result.summary()})
    for line in data.notes():
        say(line)
    if drawn:
        say(f"Single-shot: the gallery is the first of {drawn} draws of one image of each person")
    if html:
        facts = {
            "checkpoint": str(checkpoint),
            "data": str(data.root),
            "features": f"{method}, {query.features.shape[1]} dimensions, {metric} distance",
            "listed": f"{how} of {len(data.query):,} queries, {k} images each, and the left-out images between them",
        }
        if heat:
            facts["activation"] = f"{activation}: length of the feature vector at each position, scaled per image"
        with image_progress("report") as show:
            report = write_report(
                out / "report.html",
                data.query,
                data.gallery,
                lists,
                result,
                chosen=chosen,
                histogram=histogram,
                query_heat=heat[0] if heat else None,
                gallery_heat=heat[1] if heat else None,
                title=title or f"Ranked lists: {data.root.resolve().name}",
                facts=facts,
                height=height,
                images=images,
                progress=show,
                names=data.names,
            )
        place_of_images = "" if report.embedded else " in a folder next to it"
        written.insert(0, f"report.html ({report.size / 1e6:.1f} MB, {report.images} images{place_of_images})")
    seconds = time.perf_counter() - start
    console.print(f"{out}: {', '.join(written)}; {seconds:.1f} s", soft_wrap=True)


def pick_queries(
    queries: str, people: list[Person], result: EvaluationResult, count: int, seed: int
) -> NDArray[np.int64]:
    """Returns the indices of the selected queries: `random`, `worst`, `all`, or file names separated by commas.

    Raises:
        ValueError: no query has such a name.
    """
    import numpy as np

    if queries == "all":
        return np.arange(len(people))
    if queries == "worst":
        order = np.argsort(result.average_precision, kind="stable")  # uncounted ones are NaN and come last
        return order[: min(count, result.num_valid_queries)].astype(np.int64)
    if queries == "random":
        return np.sort(np.random.default_rng(seed).permutation(len(people))[:count]).astype(np.int64)
    return _find_by_name(queries, people)


def _find_by_name(names: str, people: list[Person]) -> NDArray[np.int64]:
    import numpy as np

    places: dict[str, list[int]] = {}
    for i, person in enumerate(people):
        for key in {person.path.name, person.path.stem}:
            places.setdefault(key, []).append(i)
    found = []
    for name in (part.strip() for part in names.split(",")):
        if name not in places:
            raise ValueError(
                "queries must be random, worst, all, or names of query files separated by commas "
                f"(such as {people[0].path.name}), got {name!r}"
            )
        found += places[name]
    return np.array(list(dict.fromkeys(found)), np.int64)


def _draw_lists(
    data: PeopleSplits, lists: UnfilteredLists, result: EvaluationResult, chosen: NDArray[np.int64], distance: str
) -> Image.Image:
    import numpy as np

    from dsa_fast.evaluation import RankedLists
    from dsa_fast.evaluation.ranked_lists import NONE, RIGHT, SAME_CAMERA
    from dsa_fast.visual.ranked_lists import ranked_lists

    rows = min(_ROWS, len(chosen))
    length = int((lists.kinds[:rows] != NONE).sum(1).max())
    indices, far, kinds = (column[:rows, :length] for column in lists[:3])
    precision = result.average_precision[chosen[:rows]]
    notes = ["not counted" if np.isnan(value) else f"AP {value:.1%}" for value in precision]
    listed = f"the first {rows} of {len(chosen)} queries" if rows < len(chosen) else f"{rows} queries"
    return ranked_lists(
        [data.query[i] for i in chosen[:rows]],
        data.gallery,
        RankedLists(indices, far, kinds == RIGHT),
        notes=notes,
        title=f"Ranked lists: {listed}",
        left_out=kinds >= SAME_CAMERA,
        distance=distance,
        names=data.names,
    )


def _draw_activations(
    data: PeopleSplits,
    lists: UnfilteredLists,
    chosen: NDArray[np.int64],
    query_heat: Tensor,
    gallery_heat: Tensor,
    layer: str,
) -> Image.Image:
    """Draws queries, each with its best-ranked image that counts, and their maps."""
    import torch

    from dsa_fast.evaluation.ranked_lists import RIGHT, SAME_CAMERA
    from dsa_fast.image import read_picture
    from dsa_fast.visual.activation import activation_grid

    rows = []
    for row, i in enumerate(chosen[:_PAIRS]):
        shown = [(data.query[i], query_heat[i], "query")]
        counts = torch.nonzero(lists.kinds[row] < SAME_CAMERA).flatten()
        if len(counts):
            top = int(lists.indices[row, counts[0]])
            right = "right" if int(lists.kinds[row, counts[0]]) == RIGHT else "wrong"
            shown.append((data.gallery[top], gallery_heat[top], f"rank 1, {right}"))
        group = []
        for person, heat, text in shown:
            about = f"{text}: {', '.join(data.names.lines(person.pid, person.camid))}"
            group.append((read_picture(person.path), heat, about))
        rows.append(group)
    where = "the backbone" if layer == "backbone" else f"the {layer} branch"
    title = f"Activation of {where}: queries, each with its best-ranked image that counts"
    return activation_grid(rows, columns=3, title=title)


def _json_rows(
    data: PeopleSplits, lists: UnfilteredLists, result: EvaluationResult, chosen: NDArray[np.int64]
) -> list[dict[str, object]]:
    import numpy as np

    from dsa_fast.evaluation.ranked_lists import NONE, SAME_CAMERA

    rows: list[dict[str, object]] = []
    for row, i in enumerate(chosen):
        items, rank_ = [], 0
        for index, distance, kind in zip(*(column[row].tolist() for column in lists[:3]), strict=True):
            if kind == NONE:
                break
            rank_ += kind < SAME_CAMERA
            items.append(
                {
                    "file": data.gallery[index].path.name,
                    "pid": data.pid_names.get(data.gallery[index].pid, data.gallery[index].pid),
                    "rank": rank_ if kind < SAME_CAMERA else None,
                    "distance": distance,
                    "is": KIND_NAMES[kind] if data.has_cameras or kind != SAME_CAMERA else _ITSELF,
                }
            )
        precision = float(result.average_precision[i])
        person = data.query[i]
        rows.append(
            {
                "file": person.path.name,
                "pid": data.pid_names.get(person.pid, person.pid),
                "camera": data.camera_names.get(person.camid, person.camid) if data.has_cameras else None,
                "average_precision": None if np.isnan(precision) else precision,
                "first_right_rank": int(result.first_hit_rank[i]) or None,
                "list": items,
            }
        )
    return rows
