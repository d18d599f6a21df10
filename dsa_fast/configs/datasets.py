"""Options of data sets."""

from __future__ import annotations

from typing import Literal, TypedDict


class DatasetOptions(TypedDict, total=False):
    """The options of all data sets. Each data set has some of them.

    Attributes:
        distractors_500k: market1501: adds the 500,000 distractors to the gallery.
        kind: cuhk03 and cuhk03-np: boxes drawn by hand (`labeled`) or found by a detector (`detected`).
        protocol: cuhk03: `767/700`, or `all` to train on all people. synth, ltcc: `standard`, or `cloth-changing`,
            which leaves out matches in the query's clothes. prcc: `cloth-changing` or `same-clothes`.
        gallery: prcc: `all` images of camera A, or `single-shot`: one of each person, drawn ten times.
        frames: mars: images of each test tracklet, evenly spaced, or 0 for all.
        images: cuhk03: folder for the unpacked images.
        split: cuhk01: number of the random split, or `all` to train on all people.
        query_camera: cuhk01: the camera of the queries, 1 or 2.
        with_val: msmt17, prcc: trains on the validation images too.
        table: csv: name of the CSV file, if a folder has several.
    """

    distractors_500k: bool
    kind: Literal["labeled", "detected"]
    protocol: Literal["767/700", "all", "standard", "cloth-changing", "same-clothes"]
    images: str
    split: int | Literal["all"]
    query_camera: int
    with_val: bool
    gallery: Literal["all", "single-shot"]
    frames: int
    table: str
