"""CUHK03 as its authors release it, with all images in one MATLAB file, `cuhk-03.mat`.

Li et al., "DeepReID: Deep Filter Pairing Neural Network for Person Re-identification", CVPR 2014; the 767/700 protocol
of Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017, is in two further files.

```
cuhk03/
  cuhk03_release/cuhk-03.mat
  cuhk03_new_protocol_config_labeled.mat
  cuhk03_new_protocol_config_detected.mat
  images_labeled/1_001_1_01.png       made from cuhk-03.mat: camera pair, person, view, image
  images_detected/...
  iuv/images_labeled/1_001_1_01.png   (optional) IUV maps, with the images' names
```

The images are unpacked once, with torchreid's names. Images that torchreid unpacked are used as they are. Cameras 1 and
2 are the two views of a pair. Each person is seen by one pair only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsa_fast.data.folders import DatasetFormat, IuvMaps, child, image_names, plain_name
from dsa_fast.data.market import CUHK03_COUNTS
from dsa_fast.data.people import PeopleSplits
from dsa_fast.data.progress import progress_bar
from dsa_fast.extras import require
from dsa_fast.files import atomic_path
from dsa_fast.image import save_image
from dsa_fast.mat_files import check_mat

__all__ = ["FORMAT"]

_MAT = ("cuhk03_release/cuhk-03.mat", "cuhk-03.mat")
_VIEW = 5  # images of a person by the first camera of a pair; five more by the second


def _read(
    folder: Path,
    *,
    iuv: Path | str | None = None,
    check_counts: bool = True,
    kind: Literal["labeled", "detected"] = "detected",
    protocol: Literal["767/700", "all"] = "767/700",
    images: Path | str | None = None,
) -> PeopleSplits:
    """Reads CUHK03 from its MATLAB files.

    Args:
        folder: the folder with `cuhk03_release` and the protocol's files.
        iuv: folder of the IUV maps.
        check_counts: compare the image counts with the published ones.
        kind: boxes drawn by hand (`labeled`) or found by a detector (`detected`).
        protocol: `767/700`, or `all` to train on all people without a test set, as before fine-tuning on CUHK01.
        images: folder for the unpacked `images_labeled` and `images_detected`; by default `folder`.

    Raises:
        ValueError: a file differs from the published one, or the package that reads it is missing.
    """
    if kind not in CUHK03_COUNTS:
        raise ValueError(f"kind must be labeled or detected, got {kind!r}")
    if protocol not in ("767/700", "all"):
        raise ValueError(f"protocol must be 767/700 or all, got {protocol!r}")
    name = f"cuhk03_new_protocol_config_{kind}.mat"
    if child(folder, name) is None and child(folder.parent, name) is not None:
        folder = folder.parent  # `cuhk03_release` itself was given
    config_path = child(folder, name)
    if config_path is None:
        raise FileNotFoundError(
            f"the 767/700 protocol needs {folder / name}, got no such file; "
            "it is in github.com/zhunzhong07/person-re-ranking, evaluation/data/CUHK03"
        )
    config = _read_config(config_path)
    unpacked = (folder if images is None else Path(images)) / f"images_{kind}"
    _unpack(folder, kind, unpacked, config["filelist"])
    maps = IuvMaps(folder, iuv)
    people = [
        maps.person(unpacked / file, unpacked.name, pid, int(file.split("_")[2]))
        for file, pid in zip(config["filelist"], config["labels"], strict=True)
    ]
    if protocol == "all":
        return PeopleSplits(f"cuhk03-{kind}-all", folder, people, [], [])
    train, query, gallery = ([people[i - 1] for i in config[f"{split}_idx"]] for split in ("train", "query", "gallery"))
    splits = PeopleSplits(f"cuhk03-{kind}", folder, train, query, gallery)
    if check_counts:
        splits.check_counts(f"CUHK03 ({kind}, 767/700)", CUHK03_COUNTS[kind])
    return splits


def _read_config(path: Path) -> dict[str, Any]:
    """Reads `filelist` (names), `labels` (pids) and the 1-based `train_idx`, `query_idx` and `gallery_idx`."""
    names = ("labels", "train_idx", "query_idx", "gallery_idx")
    with path.open("rb") as file:
        head = file.read(10)
    try:
        if head.startswith((b"MATLAB 7.3", b"\x89HDF")):
            with require("h5py", f"reading {path}").File(path, "r") as mat:
                config = {name: np.asarray(mat[name]) for name in names}
                files = ["".join(map(chr, np.ravel(mat[cell]))) for cell in np.ravel(mat["filelist"])]
        else:
            scipy_io = require("scipy.io", f"reading {path}")
            check_mat(path, (*names, "filelist"))
            mat = scipy_io.loadmat(path, variable_names=(*names, "filelist"))
            config = {name: np.asarray(mat[name]) for name in names}
            files = [str(np.ravel(cell)[0]) for cell in np.ravel(mat["filelist"])]
        result: dict[str, Any] = {name: np.ravel(value).astype(np.int64).tolist() for name, value in config.items()}
    except Exception as error:  # scipy and h5py raise many kinds of errors
        if "pip install" in str(error):
            raise
        raise ValueError(
            f"{path} must hold filelist, {', '.join(names)} of the 767/700 protocol, got: {error}"
        ) from error
    if len(files) != len(result["labels"]):
        raise ValueError(
            f"{path} must have a label for each file, got {len(files)} files, {len(result['labels'])} labels"
        )
    for name in names[1:]:
        if any(not 1 <= i <= len(files) for i in result[name]):
            raise ValueError(f"{path}: {name} must number its files, 1..{len(files)}")
    odd = [name for name in files if not re.fullmatch(r"\d_\d{3}_[12]_\d{2}\.png", name)]
    if odd:
        raise ValueError(f"{path}: filelist must hold names such as 1_001_1_01.png, got {odd[0]!r}")
    least = min(result["labels"], default=1)
    if least < 0:
        raise ValueError(f"{path}: labels must not be negative, got {least}")
    if least == 0:  # pid 0 means a distractor
        result["labels"] = [pid + 1 for pid in result["labels"]]
    return {"filelist": files, **result}


def _unpack(folder: Path, kind: str, out: Path, wanted: list[str]) -> None:
    """Writes the requested images that are not in `out` yet."""
    missing = set(wanted) - (set(image_names(out)) if out.is_dir() else set())
    if not missing:
        return
    mat_path = child(folder, *_MAT)
    if mat_path is None:
        raise FileNotFoundError(f"CUHK03 needs {folder / _MAT[0]} to make {len(missing)} images from, got no such file")
    h5py = require("h5py", f"reading {mat_path}")
    try:
        with h5py.File(mat_path, "r") as mat, progress_bar(f"unpacking {kind} images", len(missing)) as advance:
            for name, picture in _pictures(mat, kind, missing):
                _write(out / name, picture)
                missing.discard(name)
                advance(1)
    except ValueError:
        raise
    except Exception as error:  # h5py raises many kinds of errors
        raise ValueError(f"{mat_path} must be CUHK03's cuhk-03.mat with the cells '{kind}', got: {error}") from error
    if missing:
        raise ValueError(f"{mat_path} must hold {sorted(missing)[0]} and {len(missing) - 1} more, got no such images")


def _write(path: Path, picture: NDArray[np.uint8]) -> None:
    try:
        with atomic_path(path) as temporary:
            save_image(Image.fromarray(picture), temporary)
    except OSError as error:
        raise ValueError(
            f"images must be a folder that can be written to, got {path.parent.parent}: {error}"
        ) from error


def _pictures(mat: Any, kind: str, wanted: set[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yields the names of the requested images and their pixels, uint8 [H, W, 3].

    MATLAB's arrays are transposed in the file: a cell of camera pairs holds cells [10, people] of images [3, W, H]. A
    cell without an image has an array of another shape.
    """
    wanted = set(wanted)
    for pair, people in enumerate(np.ravel(mat[kind]), 1):
        cells = mat[people]
        for person in range(cells.shape[1]):
            for number in range(cells.shape[0]):
                name = f"{pair}_{person + 1:03d}_{1 + number // _VIEW}_{number + 1:02d}.png"
                if name in wanted:
                    picture = mat[cells[number, person]]
                    if picture.ndim == 3:
                        yield name, np.ascontiguousarray(np.asarray(picture, np.uint8).transpose(2, 1, 0))


def _holds(folder: Path) -> bool:
    protocol = any((folder / f"cuhk03_new_protocol_config_{kind}.mat").is_file() for kind in CUHK03_COUNTS)
    return protocol or (plain_name(folder).startswith("cuhk") and child(folder, *_MAT) is not None)


FORMAT = DatasetFormat(
    "cuhk03",
    "CUHK03",
    "cuhk03/\n  cuhk03_release/\n    cuhk-03.mat\n  cuhk03_new_protocol_config_labeled.mat\n"
    "  cuhk03_new_protocol_config_detected.mat\n  iuv/                  (optional) IUV maps",
    _holds,
    lambda folder: True,
    _read,
)
