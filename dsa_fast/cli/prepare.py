"""`dsa-fast prepare`."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dsa_fast.configs.datasets import DatasetOptions
from dsa_fast.configs.prepare import (
    Detectron2Config,
    DumpConfig,
    KeypointsConfig,
    MasksConfig,
    PoseConfig,
    SmplConfig,
    TorchScriptConfig,
)
from dsa_fast.files import checksum, locked, read_json, remove_left_over, write_json
from dsa_fast.terminal import console as open_console

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from dsa_fast.data.image_list import ImageList
    from dsa_fast.densepose.prepare import Estimator, MapSummary, Outcome
    from dsa_fast.densepose.torchrun import Processes
    from dsa_fast.visual.contact_sheet import Cell

_REPORT, _SHEET = "prepare.json", "prepare.jpg"  # not PNG: an image in the folder might have that name
_SHOWN = 10  # failed images in the message
_PICTURES = 48  # on the sheet


def prepare(
    source: Path,
    *,
    method: Literal["detectron2", "torchscript", "keypoints", "pose", "smpl", "dump"] = "detectron2",
    detectron2: Detectron2Config = Detectron2Config(),
    torchscript: TorchScriptConfig = TorchScriptConfig(),
    keypoints: KeypointsConfig = KeypointsConfig(),
    pose: PoseConfig = PoseConfig(),
    smpl: SmplConfig = SmplConfig(),
    dump: DumpConfig = DumpConfig(),
    masks: MasksConfig = MasksConfig(),
    out: Path | None = None,
    name: str = "auto",
    options: DatasetOptions | None = None,
    check_counts: bool = True,
    splits: Literal["all", "train"] = "all",
    device: str = "auto",
    batch: int = 16,
    workers: int = 4,
) -> None:
    """Make the IUV maps of a folder of images or a data set.

    Args:
        source: folder of images, or a data set.
        method: how to make the maps: run DensePose with `detectron2`, or exported to `torchscript`; draw known
            `keypoints`; draw the keypoints that a `pose` estimator finds; draw fitted bodies of `smpl`; or take
            DensePose results from a `dump`. Pass only the options of this method.
        detectron2: options of DensePose, run by detectron2.
        torchscript: options of DensePose in a TorchScript file.
        keypoints: options of known keypoints.
        pose: options of torchvision's Keypoint R-CNN, which finds keypoints.
        smpl: options of fitted SMPL bodies.
        dump: options of a file written by detectron2's apply_net.py dump.
        masks: options of masks of the people; a map becomes background where its mask does not show the person.
        out: folder of the maps; by default where the data set's loader looks, or `iuv` inside a plain folder.
        name: the kind of data set; `folder` takes all images in a folder; `auto` detects it.
        options: options of the data set, such as `{kind: labeled}` for CUHK03.
        check_counts: whether the image counts of a data set must match the published ones.
        splits: `all` images, or only the `train` images (testing needs no maps).
        device: `auto`, `cpu`, `cuda`, `cuda:1`; under torchrun `auto` gives each process its own GPU.
        batch: number of images per batch.
        workers: number of threads that read images, in each process.

    Examples:
        dsa-fast prepare DIR --detectron2.config CFG.yaml --detectron2.weights FILE.pkl
        dsa-fast prepare DIR --method keypoints --keypoints.file joints.json
    """
    from dsa_fast.data.image_list import list_images
    from dsa_fast.densepose.prepare import make_maps
    from dsa_fast.densepose.torchrun import Processes
    from dsa_fast.visual.layout import save_picture

    configs = {
        "detectron2": detectron2,
        "torchscript": torchscript,
        "keypoints": keypoints,
        "pose": pose,
        "smpl": smpl,
        "dump": dump,
    }
    _check_options(method, configs)
    console = open_console(stderr=True)
    processes = Processes.from_environment()
    listing = list_images(source, name=name, out=out, splits=splits, check_counts=check_counts, options=options)
    listed = listing.pairs
    listing, estimator, settings = _estimator(listing, method, configs, _device(device, processes), batch)
    settings = {"method": method, **settings}
    if masks.folder is not None:
        estimator, about = _gated(listing, estimator, masks)
        settings |= about
    report_path = listing.out / _REPORT
    with locked(listing.out, folder=True) if processes.rank == 0 else contextlib.nullcontext():
        if processes.rank == 0:
            _begin(report_path, settings, listing.pairs)
        with _progress_bar(console, len(listing.pairs), processes.rank == 0) as show:
            made = make_maps(listing.pairs, estimator, batch=batch, workers=workers, processes=processes, progress=show)
        if made is None:
            return
        remove_left_over(listing.out)
        report = summary(listing, made, settings, estimator.maker)
        report["not_covered"] = _not_covered(listing, listed)
        write_json(report_path, report)
        save_picture(_sheet(listing, made, estimator.maker), listing.out / _SHEET)
    _print(open_console(), listing, report, made)
    if made.failed:
        shown = "\n".join(f"  {made.failed[number]}" for number in sorted(made.failed)[:_SHOWN])
        more = f"\n  ... and {len(made.failed) - _SHOWN} more in {report_path}" if len(made.failed) > _SHOWN else ""
        raise ValueError(f"{len(made.failed)} of {len(listing.pairs)} images have no map:\n{shown}{more}")


def _check_options(method: str, configs: Mapping[str, Any]) -> None:
    """Checks that a method has its options, and that no other method has any."""
    for other, config in configs.items():
        if other != method and config != type(config)():
            raise ValueError(f"options --{other}.* are for --method {other}, got --method {method}")
    missing = [option for option in configs[method].required if getattr(configs[method], option) is None]
    if missing:
        wanted = " and ".join(f"--{method}.{option}" for option in missing)
        usual = " (the default)" if method == "detectron2" else ""
        others = [
            " ".join([f"  --method {name}", *(f"--{name}.{option} {option.upper()}" for option in other.required)])
            for name, other in configs.items()
            if name != method
        ]
        listed = "\n".join(others)
        raise ValueError(f"--method {method}{usual} needs {wanted}. Other ways to make maps:\n{listed}")


def _estimator(
    listing: ImageList, method: str, configs: Mapping[str, Any], device: torch.device, batch: int
) -> tuple[ImageList, Estimator, dict[str, Any]]:
    """Returns the images that can get a map, the estimator, and the settings that determine the result."""
    config = configs[method]
    if method == "detectron2":
        return _detectron2(listing, config, device)
    if method == "torchscript":
        return _torchscript(listing, config, device)
    if method == "keypoints":
        return _keypoints(listing, config)
    if method == "smpl":
        return _smpl(listing, config)
    return _pose(listing, config, device, batch) if method == "pose" else _dump(listing, config)


def _detectron2(
    listing: ImageList, config: Detectron2Config, device: torch.device
) -> tuple[ImageList, Estimator, dict[str, Any]]:
    from dsa_fast.densepose.detectron import DensePose

    densepose = DensePose(**asdict(config), device=device)
    return listing, densepose, densepose.settings


def _torchscript(
    listing: ImageList, config: TorchScriptConfig, device: torch.device
) -> tuple[ImageList, Estimator, dict[str, Any]]:
    from dsa_fast.densepose.torchscript import ScriptedDensePose

    densepose = ScriptedDensePose(**asdict(config), device=device)
    return listing, densepose, densepose.settings


def _keypoints(listing: ImageList, config: KeypointsConfig) -> tuple[ImageList, Estimator, dict[str, Any]]:
    from dsa_fast.densepose.map_sources import FromKeypoints, match_names

    assert config.file is not None
    joints = _joints(config.file, config.names, listing.root)
    images = [image for image, _ in listing.pairs]
    known = {image: joints[each] for image, each in match_names(images, joints, str(config.file)).items()}
    digest = hashlib.sha256()
    for image in sorted(known):
        digest.update(_within(listing.root, image).encode(errors="surrogateescape"))
        digest.update(known[image].tobytes())
    drawing: dict[str, Any] = {"layout": config.layout, "min_confidence": config.min_confidence}
    settings = {"keypoints_sha256": digest.hexdigest(), **drawing}
    return _covered(listing, known), FromKeypoints(known, **drawing), settings


def _pose(
    listing: ImageList, config: PoseConfig, device: torch.device, batch: int
) -> tuple[ImageList, Estimator, dict[str, Any]]:
    from dsa_fast.densepose.keypoint_rcnn import PoseEstimator
    from dsa_fast.densepose.map_sources import FromPose

    estimator = PoseEstimator(config.weights, device=device, batch_size=batch, min_score=config.min_score)
    settings = {**asdict(config), "weights": None if config.weights is None else str(config.weights)}
    return listing, FromPose(estimator, min_confidence=config.min_confidence), settings


def _smpl(listing: ImageList, config: SmplConfig) -> tuple[ImageList, Estimator, dict[str, Any]]:
    from dsa_fast.densepose.map_sources import match_names
    from dsa_fast.densepose.smpl import FromSmpl, read_uv_surface
    from dsa_fast.densepose.smpl_model import read_smpl_model

    assert config.folder is not None and config.uv is not None
    surface = read_uv_surface(config.uv)
    model = None if config.model is None else read_smpl_model(config.model)
    if not config.folder.is_dir():
        raise FileNotFoundError(f"smpl.folder must be a folder, got {config.folder}: no such folder")
    files = {
        path.relative_to(config.folder).with_suffix("").as_posix(): path
        for path in sorted(config.folder.rglob("*.npz"))
    }
    matched = match_names([image for image, _ in listing.pairs], files, str(config.folder))
    bodies = {image: files[name] for image, name in matched.items()}
    settings = {"bodies_sha256": _digest(listing.root, bodies), "uv_sha256": checksum(config.uv)}
    if config.model is not None:
        settings["model_sha256"] = checksum(config.model)
    return _covered(listing, bodies), FromSmpl(bodies, surface, model), settings


def _dump(listing: ImageList, config: DumpConfig) -> tuple[ImageList, Estimator, dict[str, Any]]:
    from dsa_fast.densepose.dump import read_dump
    from dsa_fast.densepose.map_sources import FromDump, match_names

    assert config.file is not None
    entries = {entry.file_name: entry for entry in read_dump(config.file)}
    matched = match_names([image for image, _ in listing.pairs], entries, str(config.file))
    found = {image: entries[name] for image, name in matched.items()}
    return _covered(listing, found), FromDump(found), {"file": str(config.file)}


def _gated(listing: ImageList, estimator: Estimator, masks: MasksConfig) -> tuple[Estimator, dict[str, Any]]:
    from dsa_fast.densepose.masks import Gated, find_masks

    assert masks.folder is not None
    found = find_masks(masks.folder, [image for image, _ in listing.pairs])
    settings = {"masks_sha256": _digest(listing.root, found), "mask_classes": masks.classes}
    return Gated(estimator, found, masks.classes), settings


def _digest(root: Path, files: Mapping[Path, Path]) -> str:
    """Returns a SHA-256 of the content of the files of images."""
    digest = hashlib.sha256()
    for image in sorted(files):
        digest.update(_within(root, image).encode(errors="surrogateescape"))
        digest.update(checksum(files[image]).encode())
    return digest.hexdigest()


def _joints(keypoints: Path, names: Path | None, root: Path) -> dict[str, NDArray[np.float32]]:
    """Returns the joints of each image, by its name, or by its path if that is known."""
    from dsa_fast.densepose.keypoints import read_keypoints

    try:
        if keypoints.is_dir():
            return read_keypoints(keypoints, names=root if names is None else names)
        joints = read_keypoints(keypoints, names=names)
    except ImportError as error:
        raise ValueError(str(error)) from error
    return {str(names / each): joints[each] for each in joints} if names is not None and names.is_dir() else joints


def _covered(listing: ImageList, known: Collection[Path]) -> ImageList:
    """Returns the images in folders that have at least one known image: a file may cover only one split."""
    folders = {image.parent for image, _ in listing.pairs if image in known}
    return replace(listing, pairs=[pair for pair in listing.pairs if pair[0].parent in folders])


def _device(name: str, processes: Processes) -> torch.device:
    import torch

    from dsa_fast.device import pick_device

    device = pick_device(name)
    if device.type == "cuda" and name in ("auto", "cuda") and processes.world > 1:
        device = pick_device(f"cuda:{processes.local % torch.cuda.device_count()}")
    if device.index is not None:  # else it is the current GPU already
        torch.cuda.set_device(device)
    return device


def _begin(report_path: Path, settings: dict[str, Any], pairs: Sequence[tuple[Path, Path]]) -> None:
    """Writes the settings. Refuses other settings if maps exist."""
    if report_path.is_file():
        try:
            before = read_json(report_path)["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{report_path} must be a report of dsa-fast prepare, got: {error}") from error
        other = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
        if other and any(place.exists() for _, place in pairs):
            shown = "; ".join(f"{key} was {before.get(key)}, is {settings.get(key)}" for key in other)
            raise ValueError(
                f"maps in {report_path.parent} were made with other options ({shown}): use the same options "
                "or another --out, or remove the maps"
            )
        if not other:
            return
    write_json(report_path, {"format": "dsa_fast.prepare", "settings": settings, "finished": False})


def summary(listing: ImageList, made: Outcome, settings: dict[str, Any], maker: str) -> dict[str, Any]:
    """Returns the report for JSON. Shares are in [0, 1]. Image names are paths relative to the source's folder."""
    import numpy as np

    names = [_within(listing.root, image) for image, _ in listing.pairs]
    there = {number: facts for number, facts in made.facts.items() if facts.labelled > 0}

    def spread(values: Sequence[float]) -> dict[str, float] | None:
        if not values:
            return None
        p10, median, p90 = (float(q) for q in np.percentile(values, (10, 50, 90)))
        return {"mean": float(np.mean(values)), "p10": p10, "median": median, "p90": p90}

    return {
        "format": "dsa_fast.prepare",
        "settings": settings,
        "finished": True,
        "maker": maker,
        "source": str(listing.root),
        "data_set": listing.name,
        "images": len(names),
        "detected": len(there),
        "detected_share": len(there) / max(1, len(made.facts)),
        "labelled": spread([facts.labelled for facts in there.values()]),
        "parts": spread([facts.parts for facts in there.values()]),
        "texel_fill": spread([facts.texels for facts in there.values()]),
        "undetected": [names[number] for number in sorted(set(made.facts) - set(there))],
        "failed": [{"image": names[number], "error": made.failed[number]} for number in sorted(made.failed)],
        "made_now": made.new,
        "seconds": made.seconds,
        "images_per_second": made.new / made.seconds,
        "estimating_share": made.estimating / made.seconds,
    }


def _not_covered(listing: ImageList, listed: Sequence[tuple[Path, Path]]) -> dict[str, int]:
    """Returns folder -> number of its images that were dropped from the listing."""
    left = Counter(image.parent for image, _ in listed) - Counter(image.parent for image, _ in listing.pairs)
    return {_within(listing.root, folder): count for folder, count in left.items()}


def _sheet(listing: ImageList, made: Outcome, maker: str) -> Image.Image:
    """Draws images next to their maps, evenly spaced over all that have one; if there is none, images alone."""
    from dsa_fast.visual.contact_sheet import contact_sheet

    numbers = sorted(made.facts) or sorted(made.failed)
    shown = [numbers[i * len(numbers) // _PICTURES] for i in range(_PICTURES)] if len(numbers) > _PICTURES else numbers
    title = f"{maker}: {len(shown) if made.facts else 0} of {len(made.facts)} maps"
    return contact_sheet([_cell(*listing.pairs[number], made.facts.get(number)) for number in shown], title=title)


def _cell(image: Path, place: Path, facts: MapSummary | None) -> Cell:
    from dsa_fast.densepose.iuv import read_iuv
    from dsa_fast.image import read_image
    from dsa_fast.visual.contact_sheet import Cell

    if facts is None:
        return Cell(None, None, (image.name,), "no map")
    try:
        iuv = read_iuv(place)
    except ValueError:
        iuv = read_iuv(place, order="IUV")
    if not facts.labelled:
        return Cell(read_image(image), iuv, (image.name,), "no person found")
    score = "" if facts.score is None else f", score {facts.score:.2f}"
    return Cell(read_image(image), iuv, (image.name, f"{facts.parts} parts, fill {facts.texels:.1%}{score}"))


def _within(root: Path, path: Path) -> str:
    with contextlib.suppress(ValueError):
        return path.relative_to(root).as_posix()
    return str(path)


def _print(console: Console, listing: ImageList, report: dict[str, Any], made: Outcome) -> None:
    undetected, fill = len(report["undetected"]), report["texel_fill"]
    share = f"{report['detected']} with a person ({report['detected_share']:.1%})"
    lines = [
        f"{report['maker']}: {report['images']} images, {share}, {undetected} without, {len(report['failed'])} failed"
    ]
    if fill is not None:
        lines.append(
            f"{report['labelled']['mean']:.1%} of the pixels labelled, {report['parts']['mean']:.1f} of 24 parts, "
            f"{fill['mean']:.1%} of the texels filled (80 % of the maps: {fill['p10']:.1%} to {fill['p90']:.1%})"
        )
    if made.new:
        lines.append(
            f"made {made.new} maps in {made.seconds:.1f} s, {report['images_per_second']:.1f} per second; "
            f"{report['estimating_share']:.0%} of the time was spent estimating, the rest waiting for images"
        )
    else:
        lines.append("all maps existed already")
    for folder, count in report["not_covered"].items():
        lines.append(f"no maps of the {count} images in {folder}: the source of the maps has none of them")
    lines.append(f"maps in {listing.out}; report {listing.out / _REPORT}; look at {listing.out / _SHEET}")
    console.print("\n".join(lines), soft_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


@contextlib.contextmanager
def _progress_bar(console: Console, total: int, visible: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("maps"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal)) as bar:
        task = bar.add_task("maps", total=total)
        yield lambda done: bar.update(task, completed=done)
