"""`dsa-fast prepare`: interrupted and shared runs, what is listed and where maps go, detectron2's adapter, reports."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import dsa_fast.cli.prepare as command
from dsa_fast.cli import main
from dsa_fast.data.image_list import list_images
from dsa_fast.data.registry import read_dataset
from dsa_fast.densepose.iuv import read_iuv, write_iuv
from dsa_fast.densepose.iuv_store import IUVStore
from dsa_fast.densepose.prepare import MAKER_KEY, SCORE_KEY, PersonMap, _batches, make_maps
from dsa_fast.densepose.torchrun import Processes
from dsa_fast.files import atomic_path, remove_left_over
from dsa_fast.image import read_image

ROOT = Path(__file__).resolve().parents[2]


#: The command refuses its default method without these options. `Fake` stands for the estimator that reads them.
NEEDED = ["--detectron2.config", "a.yaml", "--detectron2.weights", "b.pkl"]


class Fake:
    """Maps that are a function of the image; nobody is found where the first pixel is dark."""

    maker = "Fake"
    settings: ClassVar[dict[str, Any]] = {"by": "fake"}

    def __init__(self, pause: float = 0.0) -> None:
        self.pause, self.batches = pause, []

    def group(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def load(self, image: Path) -> torch.Tensor:
        return read_image(image)

    def estimate(self, batch: Sequence[torch.Tensor]) -> list[PersonMap | None]:
        time.sleep(self.pause)
        self.batches.append(len(batch))
        found: list[PersonMap | None] = []
        for image in batch:
            iuv = image.flip(0).contiguous()
            iuv[0] %= 25
            found.append(None if int(image[0, 0, 0]) < 32 else PersonMap(iuv, int(image[1, 0, 0]) / 255))
        return found


def picture(path: Path, seed: int, size: tuple[int, int] = (16, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pictures(folder: Path, count: int) -> list[tuple[Path, Path]]:
    """Images of two sizes, and where their maps go."""
    return [
        (
            picture(folder / f"{i:03}.png", i, (16, 8) if i % 3 else (12, 8)),
            folder / "iuv" / f"{i:03}.png",
        )
        for i in range(count)
    ]


def contents(folder: Path) -> dict[str, str]:
    """Everything in a folder of maps but the report and its pictures."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.stem != "prepare")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """The command with a fake in the place of DensePose."""
    estimator = Fake()
    monkeypatch.setattr(command, "_estimator", lambda listing, *_, **__: (listing, estimator, dict(estimator.settings)))
    return estimator


# --- the run --------------------------------------------------------------------------------------------------------


def test_every_image_gets_its_map(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 20)
    seen: list[int] = []
    made = make_maps(pairs, Fake(), batch=4, workers=2, progress=seen.append)
    assert made is not None and not made.failed and made.new == 20 and sorted(made.facts) == list(range(20))
    assert seen[-1] == 20 and seen == sorted(seen)
    for number, (image, place) in enumerate(pairs):
        (expected,) = Fake().estimate([read_image(image)])
        iuv, facts = read_iuv(place), made.facts[number]
        with Image.open(place) as file:
            assert file.info[MAKER_KEY] == "Fake"
            assert (SCORE_KEY in file.info) == (expected is not None)
        if expected is None:
            assert not iuv.any() and facts.labelled == 0 and facts.parts == 0 and facts.score is None
        else:
            assert torch.equal(iuv, expected.iuv) and facts.score == pytest.approx(expected.score, abs=1e-4)
            assert facts.labelled == pytest.approx(float((iuv[0] > 0).float().mean()))
            pixels = [tuple(pixel) for pixel in iuv.flatten(1).T.tolist() if pixel[0] > 0]
            texels = {(part, min(u * 32 // 255, 31), min(v * 32 // 255, 31)) for part, u, v in pixels}
            assert facts.texels == pytest.approx(len(texels) / (24 * 32 * 32))
            assert facts.parts == len({part for part, _, _ in texels})
    assert {made.facts[n].labelled > 0 for n in range(20)} == {True, False}


def test_a_second_run_makes_nothing_and_says_the_same(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 12)
    first = make_maps(pairs, Fake(), batch=4)
    before = {place: place.stat().st_mtime_ns for _, place in pairs}
    again = Fake()
    second = make_maps(pairs, again, batch=4)
    assert first is not None and second is not None
    assert again.batches == [] and second.new == 0 and second.facts == first.facts
    assert before == {place: place.stat().st_mtime_ns for _, place in pairs}


def test_what_is_missing_or_broken_is_made_again_with_the_same_batches(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 12)
    first = Fake()
    make_maps(pairs, first, batch=4)
    want = contents(tmp_path / "iuv")
    pairs[2][1].unlink()
    pairs[5][1].write_bytes(pairs[5][1].read_bytes()[:60])
    write_iuv(pairs[7][1], torch.zeros(3, 4, 4, dtype=torch.uint8))
    again = Fake()
    made = make_maps(pairs, again, batch=4)
    assert made is not None and made.new == 3 and len(made.facts) == 12
    assert contents(tmp_path / "iuv") == want
    assert set(again.batches) <= set(first.batches), "batches do not depend on what is there"


def test_a_map_whose_channel_order_cannot_be_told_is_left_as_it_is(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 1)
    pixels = np.zeros((12, 8, 3), np.uint8)
    pixels[0, :4], pixels[1, :4] = (5, 0, 0), (0, 0, 5)
    pairs[0][1].parent.mkdir()
    Image.fromarray(pixels).save(pairs[0][1])
    with pytest.raises(ValueError, match="order is ambiguous"):
        read_iuv(pairs[0][1])
    made = make_maps(pairs, Fake())
    assert made is not None and made.new == 0 and made.facts[0].labelled > 0


def test_unusable_images_are_listed_and_the_others_go_on(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 10)
    pairs[1][0].write_bytes(b"no image")
    pairs[4][0].write_bytes(pairs[4][0].read_bytes()[:100])  # its header is whole
    (tmp_path / "009.png").unlink()
    made = make_maps(pairs, Fake(), batch=4)
    assert made is not None and sorted(made.failed) == [1, 4, 9] and sorted(made.facts) == [0, 2, 3, 5, 6, 7, 8]
    assert all(pairs[n][0].name in made.failed[n] for n in made.failed)
    assert not any(pairs[n][1].exists() for n in made.failed)
    picture(pairs[1][0], 1)
    again = make_maps(pairs, Fake(), batch=4)
    assert again is not None and again.new == 1 and sorted(again.failed) == [4, 9]


def test_a_map_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 4)
    (tmp_path / "iuv").write_text("in the way")
    with pytest.raises(OSError, match="iuv"):
        make_maps(pairs, Fake())


def test_an_error_of_the_estimator_ends_the_run(tmp_path: Path) -> None:
    class Broken(Fake):
        def estimate(self, batch: Sequence[torch.Tensor]) -> list[PersonMap | None]:
            raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        make_maps(pictures(tmp_path, 4), Broken())


@pytest.mark.parametrize("option", ["batch", "workers"])
def test_counts_must_be_positive(option: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        make_maps(pictures(tmp_path, 1), Fake(), **{option: 0})


@given(
    sizes=st.lists(st.one_of(st.tuples(st.integers(1, 3), st.integers(1, 3)), st.just("broken")), max_size=40),
    batch=st.integers(1, 6),
)
@settings(deadline=None, max_examples=50)
def test_batches_hold_each_usable_image_once(sizes: list[Any], batch: int) -> None:
    batches = _batches(sizes, lambda size: size[0], batch)
    assert sorted(n for numbers in batches for n in numbers) == [n for n, s in enumerate(sizes) if s != "broken"]
    assert all(len({sizes[n][0] for n in numbers}) == 1 and len(numbers) <= batch for numbers in batches)
    assert [numbers[0] for numbers in batches] == sorted(numbers[0] for numbers in batches)


# --- killed runs ----------------------------------------------------------------------------------------------------


class _Sticking(Fake):
    """Makes up to 24 maps and then waits, so that its process is there to be killed however busy the machine is."""

    left = 24

    def estimate(self, batch: Sequence[torch.Tensor]) -> list[PersonMap | None]:
        self.left -= len(batch)
        if self.left < 0:
            time.sleep(600)
        return super().estimate(batch)


def _slow_run(pairs: list[tuple[Path, Path]]) -> None:
    torch.set_num_threads(1)
    make_maps(pairs, _Sticking(pause=0.01), batch=4, workers=2)


def test_ten_kills_end_with_the_same_files_as_one_run(tmp_path: Path) -> None:
    pairs = pictures(tmp_path / "images", 250)
    whole, killed = ([(image, tmp_path / name / place.name) for image, place in pairs] for name in ("whole", "killed"))
    make_maps(whole, Fake(), batch=4)
    # Processes that are forked from one that has loaded all of this start at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    rng = random.Random(0)
    counts = []
    for _ in range(10):
        there = len(list((tmp_path / "killed").glob("[!.]*.png")))
        process = context.Process(target=_slow_run, args=(killed,))
        process.start()
        enough = there + rng.randint(2, 12)
        while process.is_alive() and len(list((tmp_path / "killed").glob("[!.]*.png"))) < enough:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.01)
        assert process.is_alive(), "it must be killed before it is done"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        counts.append(len(list((tmp_path / "killed").glob("[!.]*.png"))))
    assert counts == sorted(set(counts)) and counts[-1] < 250, "each run went on where the one before was"
    (tmp_path / "killed" / ".042.123-0123abcd.png").write_bytes(b"half a map")
    os.utime(tmp_path / "killed" / ".042.123-0123abcd.png", (0, 0))
    made = make_maps(killed, Fake(), batch=4)
    assert made is not None and made.new == 250 - counts[-1]
    remove_left_over(tmp_path / "killed")  # of folders in which the last run wrote nothing
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_only_dead_writers_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    old, hidden, plain = tmp_path / "a" / ".x.1-00ff00ff.png", tmp_path / ".hidden.png", tmp_path / "x.1-00ff00ff.png"
    for path in (old, hidden, plain):
        path.touch()
        os.utime(path, (0, 0))
    with atomic_path(tmp_path / "new.png") as temporary:
        temporary.touch()
        assert remove_left_over(tmp_path) == 1
        assert temporary.exists()
    assert not old.exists() and hidden.exists() and plain.exists() and (tmp_path / "new.png").exists()


# --- shared runs ----------------------------------------------------------------------------------------------------


def _two(store: Any) -> list[Processes]:
    return [Processes(store, rank, 2, rank) for rank in range(2)]


def test_ranks_share_all_pieces_and_rank_0_hears_of_them() -> None:
    ranks = _two(torch.distributed.HashStore())
    first, second = ranks[0].claim(5), ranks[1].claim(5)
    assert [next(first), next(second), next(second), next(first), next(second)] == [0, 1, 2, 3, 4]
    assert list(first) == [] and list(second) == []
    ranks[0].agree("the same")
    ranks[1].agree("the same")
    with pytest.raises(ValueError, match="must see the same images"):
        ranks[1].agree("another")
    assert ranks[0].advance(3) == 3 and ranks[1].advance(4) == 7
    large = [random.Random(0).randbytes(3_000_000).hex()]
    assert ranks[1].gather(large) is None
    assert ranks[0].gather("own") == ["own", large]
    assert ranks[0].world == 2 and Processes().gather(1) == [1] and list(Processes().claim(3)) == [0, 1, 2]


def test_a_slow_process_takes_less(tmp_path: Path) -> None:
    pairs = pictures(tmp_path, 60)
    estimators = Fake(pause=0.001), Fake(pause=0.1)
    results: list[Any] = [None, None]

    def run(rank: Processes) -> None:
        results[rank.rank] = make_maps(pairs, estimators[rank.rank], batch=2, workers=1, processes=rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in _two(torch.distributed.HashStore())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results[1] is None and len(results[0].facts) == 60 and results[0].new == 60
    assert sum(estimators[0].batches) + sum(estimators[1].batches) == 60, "each image once"
    assert 0 < sum(estimators[1].batches) < sum(estimators[0].batches)


_RANK_PROGRAM = """
import os, pathlib, sys, time
import tests.densepose.test_prepare as it
import dsa_fast.cli.prepare as command
from dsa_fast.cli import main
fake = it.Fake(pause=0.02)
command._estimator = lambda listing, *_, **__: (listing, fake, dict(fake.settings))
here, estimate = pathlib.Path(__file__).parent, fake.estimate
def both(batch):
    (here / f"begun{os.environ['RANK']}").touch()
    deadline = time.monotonic() + 300
    while len(list(here.glob("begun*"))) < 2 and time.monotonic() < deadline:  # however long the other takes to begin
        time.sleep(0.01)
    return estimate(batch)
fake.estimate = both
status = main(["prepare", *sys.argv[1:], *it.NEEDED])
print(f"images {sum(fake.batches)}", flush=True)
sys.exit(status)
"""


def test_two_processes_of_torchrun(tmp_path: Path) -> None:
    pairs = pictures(tmp_path / "images", 60)
    pairs[7][0].write_bytes(b"no image")
    make_maps([(image, tmp_path / "alone" / place.name) for image, place in pairs], Fake(), batch=4)
    program = tmp_path / "program.py"
    program.write_text(_RANK_PROGRAM)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)),
            *(str(tmp_path / "images"), "--out", str(tmp_path / "shared"), "--batch", "4", "--device", "cpu"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode != 0, "one image failed"
    assert "1 of 60 images have no map" in run.stderr and "007.png" in run.stderr
    shares = [int(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("images ")]
    assert len(shares) == 2 and sum(shares) == 59 and min(shares) > 0, run.stdout + run.stderr
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
    report = json.loads((tmp_path / "shared" / "prepare.json").read_text())
    assert report["finished"] and report["images"] == 60 and report["made_now"] == 59 and len(report["failed"]) == 1


def test_half_a_launcher_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Processes.from_environment().world == 1
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="must be set together.*got only RANK, WORLD_SIZE"):
        Processes.from_environment()


# --- what is listed -------------------------------------------------------------------------------------------------


def test_the_loader_finds_the_maps_of_every_layout(tmp_path: Path) -> None:
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        for kind in ("own", "np/labeled", "np/detected"):
            picture(tmp_path / kind / split / "0001_c1s1_000001_00.jpg", 1)
            picture(tmp_path / kind / split / "0002_c2s1_000001_00.png", 2)
    picture(tmp_path / "own" / "gt_bbox" / "0001_c1s1_000001_01.jpg", 1)
    for name in ("0001001", "0001003", "0002001", "0002003"):
        picture(tmp_path / "cuhk01" / "campus" / f"{name}.png", 1)
    for split in ("train", "test"):
        picture(tmp_path / "msmt" / split / "0000" / "0000_000_01_0303morning_0008_0.jpg", 1)
    for split in ("train", "val", "query", "gallery"):
        (tmp_path / "msmt" / f"list_{split}.txt").write_text("0000/0000_000_01_0303morning_0008_0.jpg 0\n")
    picture(tmp_path / "table" / "photos" / "a.jpg", 1)
    picture(tmp_path / "table" / "b.jpg", 1)
    (tmp_path / "table" / "people.csv").write_text(
        "path,pid,camid,split\nphotos/a.jpg,1,1,train\nb.jpg,1,1,query\nb.jpg,1,1,gallery\n"
    )
    for folder, options in (
        ("own", {}),
        ("np", {"kind": "labeled"}),
        ("np", {"kind": "detected"}),
        ("cuhk01", {}),
        ("msmt", {}),
        ("table", {}),
    ):
        for out in (None, tmp_path / "elsewhere" / folder):
            listing = list_images(tmp_path / folder, out=out, check_counts=False, options=options)
            assert listing.name != "folder" and out in (None, listing.out)
            make_maps(listing.pairs, Fake())
            data = read_dataset(tmp_path / folder, iuv=out, check_counts=False, **options)
            people = [*data.train, *data.query, *data.gallery, *data.multi_query]
            assert all(person.iuv_path is not None for person in people), (folder, out)
            assert {(person.path, person.iuv_path) for person in people} == set(listing.pairs)
            again = list_images(tmp_path / folder, out=out, check_counts=False, options=options)
            assert again.pairs == listing.pairs and again.out == listing.out


def test_maps_in_a_store_are_not_added_to(tmp_path: Path) -> None:
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        picture(tmp_path / split / "0001_c1s1_000001_00.jpg", 1)
    iuv = torch.zeros(3, 16, 8, dtype=torch.uint8)
    IUVStore.create(tmp_path / "iuv.dsaiuv", [("query/0001_c1s1_000001_00", iuv)])
    with pytest.raises(ValueError, match=r"the store .*iuv\.dsaiuv, which has those of 1 of 3 .*give --out FOLDER"):
        list_images(tmp_path)
    assert not (tmp_path / "iuv").exists()
    assert len(list_images(tmp_path, out=tmp_path / "new").pairs) == 3


def test_training_images_alone(tmp_path: Path) -> None:
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        picture(tmp_path / split / "0001_c1s1_000001_00.jpg", 1)
    (pair,) = list_images(tmp_path, splits="train").pairs
    assert pair[0].parent.name == "bounding_box_train"
    assert len(list_images(tmp_path).pairs) == 3


def test_a_plain_folder_is_listed_at_any_depth_without_its_maps(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", 1)
    picture(tmp_path / "deep" / "er" / "b.PNG", 1)
    picture(tmp_path / ".hidden" / "c.png", 1)
    picture(tmp_path / "iuv" / "old.png", 1)
    listing = list_images(tmp_path)
    assert listing.name == "folder" and listing.out == tmp_path / "iuv"
    assert listing.pairs == [
        (tmp_path / "a.jpg", tmp_path / "iuv" / "a.png"),
        (tmp_path / "deep" / "er" / "b.PNG", tmp_path / "iuv" / "deep" / "er" / "b.png"),
    ]


def test_maps_that_a_table_names_are_left_alone(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", 1)
    picture(tmp_path / "b.jpg", 1)
    own = picture(tmp_path / "maps" / "mine.png", 1)
    (tmp_path / "people.csv").write_text(
        "path,pid,camid,split,iuv\na.jpg,1,1,train,maps/mine.png\nb.jpg,1,1,query,\nb.jpg,1,1,gallery,\n"
    )
    before = own.read_bytes()
    assert list_images(tmp_path).pairs == [(tmp_path / "b.jpg", tmp_path / "iuv" / "b.png")]
    assert own.read_bytes() == before


def test_no_map_is_written_over_an_image(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png", 1)
    (tmp_path / "set").mkdir()
    for path in (tmp_path / "elsewhere" / "a.png", Path("../elsewhere/a.png")):
        (tmp_path / "set" / "people.csv").write_text(
            f"path,pid,camid,split\n{path},1,1,train\n{path},1,1,query\n{path},1,1,gallery\n"
        )
        with pytest.raises(ValueError, match="maps must lie in"):
            list_images(tmp_path / "set")


def test_sources_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        list_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="source must hold images.*got none"):
        list_images(tmp_path / "empty")
    picture(tmp_path / "twins" / "a.jpg", 1)
    picture(tmp_path / "twins" / "a.png", 1)
    with pytest.raises(ValueError, match="a map of its own.*a.jpg and .*a.png"):
        list_images(tmp_path / "twins")
    picture(tmp_path / "plain" / "a.png", 1)
    with pytest.raises(ValueError, match="splits must be all for a plain folder"):
        list_images(tmp_path / "plain", splits="train")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="out must be a folder that can be written to"):
        list_images(tmp_path / "plain", out=tmp_path / "file" / "maps")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="out must be a folder that can be written to"):
        list_images(tmp_path / "plain")


# --- the command ----------------------------------------------------------------------------------------------------


def test_report_and_contact_sheet(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = pictures(tmp_path / "images", 20)
    assert main(["prepare", str(tmp_path / "images"), "--batch", "8", *NEEDED]) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "images" / "iuv" / "prepare.json").read_text())
    undetected = [image.name for image, place in pairs if not read_iuv(place).any()]
    assert 0 < len(undetected) < 20
    assert report["images"] == 20 and report["undetected"] == undetected and report["failed"] == []
    assert report["detected"] == 20 - len(undetected) and report["detected_share"] == report["detected"] / 20
    assert report["settings"] == {"method": "detectron2", **fake.settings} and report["made_now"] == 20
    assert 0 < report["texel_fill"]["p10"] <= report["texel_fill"]["median"] <= report["texel_fill"]["p90"] < 1
    assert f"Fake: 20 images, {20 - len(undetected)} with a person" in out and "prepare.jpg" in out
    with Image.open(tmp_path / "images" / "iuv" / "prepare.jpg") as sheet:
        assert sheet.width > 600 and sheet.height > 300
    assert main(["prepare", str(tmp_path / "images"), "--batch", "8", *NEEDED]) == 0
    assert "all maps existed already" in capsys.readouterr().out
    monkeypatch.setattr(fake, "settings", {"by": "another fake"}, raising=False)
    assert main(["prepare", str(tmp_path / "images"), *NEEDED]) == 1
    assert "with other options (by was fake, is another fake)" in capsys.readouterr().err


def test_failed_images_are_named_and_change_the_status(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = pictures(tmp_path, 5)
    pairs[3][0].write_bytes(b"no image")
    assert main(["prepare", str(tmp_path), *NEEDED]) == 1
    error = capsys.readouterr().err
    assert "1 of 5 images have no map" in error and "003.png" in error and "Traceback" not in error
    report = json.loads((tmp_path / "iuv" / "prepare.json").read_text())
    assert [each["image"] for each in report["failed"]] == ["003.png"]
    picture(pairs[3][0], 3)
    assert main(["prepare", str(tmp_path), *NEEDED]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "(the default) needs --detectron2.config and --detectron2.weights. Other ways"),
        (["--detectron2.config", "a.yaml"], "(the default) needs --detectron2.weights. Other ways"),
        (
            ["--detectron2.config", "a.yaml", "--detectron2.weights", "b.pkl"],
            "--detectron2.config must be a file, got a.yaml",
        ),
        (["--method", "keypoints"], "--method keypoints needs --keypoints.file. Other ways"),
        (["--method=dump"], "  --method keypoints --keypoints.file FILE\n"),
        (["--method", "pose", "--dump.file", "x"], "--dump.* are for --method dump, got --method pose"),
        (["--keypoints.file", "x"], "--keypoints.* are for --method keypoints, got --method detectron2"),
        (["--method", "keypoints", "--keypoints.file", "none.json"], "--keypoints.file not found: none.json"),
        (["--method", "pose", "--device", "gpu"], "device must be auto"),
    ],
)
def test_options_that_do_not_fit(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "a.png", 1)
    assert main(["prepare", str(tmp_path), *options]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "iuv" / "prepare.json").exists()


@pytest.mark.parametrize(
    ("name", "processes", "expected", "chosen"),
    [
        ("auto", Processes(), "cuda", []),  # the current GPU, which PyTorch does not set without a number
        ("cuda:1", Processes(), "cuda:1", ["cuda:1"]),
        ("auto", Processes(rank=3, world=4, local=1), "cuda:1", ["cuda:1"]),
        ("cpu", Processes(), "cpu", []),
    ],
)
def test_the_gpu_of_a_process(
    name: str, processes: Processes, expected: str, chosen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: found.append(str(device)))
    assert str(command._device(name, processes)) == expected
    assert found == chosen


# --- other sources --------------------------------------------------------------------------------------------------


def test_names_of_other_programs_find_their_images(tmp_path: Path) -> None:
    match_names = pytest.importorskip("dsa_fast.densepose.map_sources").match_names
    images = [tmp_path / "query" / "a.jpg", tmp_path / "gallery" / "a.jpg", tmp_path / "gallery" / "b.png"]
    names = ["/else/where/query/a.jpg", "C:\\data\\gallery\\a.jpg", "b", "unknown.jpg"]
    assert match_names(images, names, "FILE") == dict(zip(images, names, strict=False))
    with pytest.raises(ValueError, match="must identify images uniquely, got 'a.jpg'"):
        match_names(images, ["a.jpg"], "FILE")
    with pytest.raises(ValueError, match="name an image once"):
        match_names(images, ["b.png", "b"], "FILE")
    with pytest.raises(ValueError, match="must name some of the images"):
        match_names(images, ["c.png"], "FILE")


# COCO's joints of somebody who stands and faces us, in a picture of 48 x 96 (width x height).
STANDING = np.ones((17, 3), np.float32)
STANDING[:, 0] = [24, 26, 22, 28, 20, 33, 15, 36, 12, 37, 11, 30, 18, 31, 17, 31, 17]
STANDING[:, 1] = [10, 8, 8, 9, 9, 22, 22, 36, 36, 48, 48, 50, 50, 68, 68, 86, 86]


def test_keypoints_are_drawn_by_the_same_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [picture(tmp_path / "images" / f"{i}.png", i, (96, 48)) for i in range(3)]
    joints = np.zeros((2, 17, 3), np.float32)  # the second: no joint is sure
    joints[0] = STANDING
    np.savez(tmp_path / "joints.npz", names=np.array(["0.png", "1.png"]), keypoints=joints)
    options = ["--method", "keypoints", "--keypoints.file", str(tmp_path / "joints.npz")]
    arguments = ["prepare", str(tmp_path / "images"), *options]
    assert main(arguments) == 0
    out = tmp_path / "images" / "iuv"
    report = json.loads((out / "prepare.json").read_text())
    assert report["detected"] == 1 and report["undetected"] == ["1.png", "2.png"]
    assert report["settings"]["method"] == "keypoints" and report["maker"] == "keypoint IUV"
    iuv = read_iuv(out / "0.png", size=(96, 48))
    assert int(iuv[0, 36, 24]) == 2, "the middle of the chest is the torso's front"
    with Image.open(out / "0.png") as file:
        assert file.info[MAKER_KEY] == "keypoint IUV"
    assert len(images) == 3 and main(arguments) == 0 and "existed already" in capsys.readouterr().out


def test_photos_with_an_exif_turn_are_taken_upright(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A photo stored lying down, 96 x 48, and the joints of its upright view, 48 x 96 (width x height)."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    photo = tmp_path / "images" / "turned.jpg"
    photo.parent.mkdir()
    Image.new("RGB", (96, 48), "red").save(photo, exif=exif)
    np.savez(tmp_path / "joints.npz", names=np.array(["turned.jpg"]), keypoints=STANDING[None])
    options = ["--method", "keypoints", "--keypoints.file", str(tmp_path / "joints.npz")]
    assert main(["prepare", str(photo.parent), *options]) == 0
    place = photo.parent / "iuv" / "turned.png"
    assert read_iuv(place).shape == (3, 96, 48) == read_image(photo).shape
    assert int(read_iuv(place)[0, 36, 24]) == 2
    assert main(["prepare", str(photo.parent), *options]) == 0 and "existed already" in capsys.readouterr().out
    assert main(["warp", str(photo), str(place), "--out", str(tmp_path / "warp.png")]) == 0
    assert main(["inspect", str(photo.parent), "--out", str(tmp_path / "inspect")]) in (0, 1)
    report = json.loads((tmp_path / "inspect" / "inspect.json").read_text())
    assert report["detected"] == 1 and report["counts"]["size"] == 0


def test_a_file_about_one_split_makes_maps_of_that_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("bounding_box_train", "query", "bounding_box_test", "gt_bbox"):
        for name in ("0001_c1s1_000001_00.jpg", "0002_c1s1_000001_00.jpg"):
            picture(tmp_path / "data" / split / name, 1, (96, 48))
    names, joints = np.array(["query/0001_c1s1_000001_00.jpg"]), np.zeros((1, 17, 3), np.float32)
    joints[0, 5:] = STANDING[5:]
    np.savez(tmp_path / "joints.npz", names=names, keypoints=joints)
    options = ["--method", "keypoints", "--keypoints.file", str(tmp_path / "joints.npz")]
    assert main(["prepare", str(tmp_path / "data"), *options, "--keypoints.layout", "market14"]) == 1
    assert "has 14 joints" in capsys.readouterr().err
    assert main(["prepare", str(tmp_path / "data"), *options]) == 0, "nothing was made by the other options"
    out = tmp_path / "data" / "iuv"
    report = json.loads((out / "prepare.json").read_text())
    assert report["images"] == 2 and report["detected"] == 1
    assert report["undetected"] == ["query/0002_c1s1_000001_00.jpg"]
    assert report["not_covered"] == {"bounding_box_train": 2, "bounding_box_test": 2, "gt_bbox": 2}
    assert "no maps of the 2 images in gt_bbox" in capsys.readouterr().out
    assert [path.name for path in sorted(out.rglob("*.png"))] == [
        "0001_c1s1_000001_00.png",
        "0002_c1s1_000001_00.png",
    ]
    joints[0, 5, 0] += 3
    np.savez(tmp_path / "joints.npz", names=names, keypoints=joints)
    assert main(["prepare", str(tmp_path / "data"), *options]) == 1
    assert "keypoints_sha256 was" in capsys.readouterr().err


def test_a_pose_estimator_is_asked_in_batches(tmp_path: Path) -> None:
    from dsa_fast.densepose.map_sources import FromPose

    asked = []

    def pose(images: Sequence[torch.Tensor]) -> list[Any]:
        asked.append([tuple(image.shape) for image in images])
        return [None for _ in images]

    made = make_maps(pictures(tmp_path, 6), FromPose(pose), batch=4)
    assert made is not None and all(facts.labelled == 0 for facts in made.facts.values())
    assert asked == [[(3, 12, 8)] * 2, [(3, 16, 8)] * 4]


def test_a_dump_gives_the_person_in_the_middle(tmp_path: Path) -> None:
    from dsa_fast.densepose.dump import DumpEntry, DumpPerson
    from dsa_fast.densepose.map_sources import FromDump

    (image, place), (other, _) = pairs = pictures(tmp_path, 2)
    part = torch.full((4, 4), 2, dtype=torch.int64)
    edge = DumpPerson(0.9, (0.0, 0.0, 2.0, 2.0), part[:2, :2], torch.zeros(2, 2, 2))
    middle = DumpPerson(0.8, (2.0, 4.0, 6.0, 8.0), part, torch.full((2, 4, 4), 0.5))
    made = make_maps(pairs, FromDump({image: DumpEntry("a/000.png", (edge, middle)), other: DumpEntry("b", ())}))
    assert made is not None and made.facts[0].score == 0.8 and made.facts[1].labelled == 0
    expected = torch.zeros(12, 8, dtype=torch.uint8)
    expected[4:8, 2:6] = 2
    assert torch.equal(read_iuv(place)[0], expected)


# --- detectron2 -----------------------------------------------------------------------------------------------------


def test_without_detectron2_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("detectron2", "densepose"):
        monkeypatch.setitem(sys.modules, name, None)
    picture(tmp_path / "images" / "a.png", 1)
    (tmp_path / "a.yaml").touch()
    (tmp_path / "a.pkl").touch()
    options = ["--detectron2.config", str(tmp_path / "a.yaml"), "--detectron2.weights", str(tmp_path / "a.pkl")]
    assert main(["prepare", str(tmp_path / "images"), *options]) == 1
    error = capsys.readouterr().err
    assert "pip install" in error and "projects/DensePose" in error and "PYTHONPATH" in error


def test_weights_are_read_without_running_them(tmp_path: Path) -> None:
    from dsa_fast.densepose.detectron import read_weights

    arrays = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int64(3)}
    with (tmp_path / "zoo.pkl").open("wb") as file:
        pickle.dump({"model": arrays, "__author__": "somebody"}, file, protocol=2)
    torch.save({"model": {"a.weight": torch.arange(6.0).view(2, 3)}, "iteration": 3}, tmp_path / "own.pth")
    for name in ("zoo.pkl", "own.pth"):
        weights = read_weights(tmp_path / name)
        assert torch.equal(weights["a.weight"], torch.arange(6.0).view(2, 3))

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    for suffix, save in ((".pkl", lambda value, path: path.write_bytes(pickle.dumps(value))), (".pth", torch.save)):
        save({"model": {"a": Evil()}}, tmp_path / f"evil{suffix}")
        with pytest.raises(ValueError, match="weights must be a file of detectron2's"):
            read_weights(tmp_path / f"evil{suffix}")
    assert not (tmp_path / "ran").exists()
    for content, message in (
        ({"blobs": {}}, "Caffe2"),
        ({"model": {"a": "text"}}, "arrays only, got str as a"),
        ([1], "parameters by name"),
    ):
        (tmp_path / "odd.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=message):
            read_weights(tmp_path / "odd.pkl")
    (tmp_path / "cut.pkl").write_bytes((tmp_path / "zoo.pkl").read_bytes()[:50])
    with pytest.raises(ValueError, match="cut.pkl"):
        read_weights(tmp_path / "cut.pkl")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Config and random weights of a small DensePose model of the real detectron2's."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed")
    pytest.importorskip("densepose", reason="detectron2's project DensePose is not installed")
    from densepose import add_densepose_config
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    folder = tmp_path_factory.mktemp("model")
    cfg = get_cfg()
    add_densepose_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.RESNETS.DEPTH", 50),
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]]),
            *("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"], "MODEL.RPN.PRE_NMS_TOPK_TEST", 50),
            *("MODEL.RPN.POST_NMS_TOPK_TEST", 10, "MODEL.DENSEPOSE_ON", True),
            *("MODEL.ROI_HEADS.NAME", "DensePoseROIHeads", "MODEL.ROI_HEADS.NUM_CLASSES", 1),
            *("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"]),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1),
            *("MODEL.ROI_DENSEPOSE_HEAD.NAME", "DensePoseV1ConvXHead"),
            *("MODEL.ROI_DENSEPOSE_HEAD.CONV_HEAD_DIM", 16, "MODEL.ROI_DENSEPOSE_HEAD.NUM_STACKED_CONVS", 1),
            *("MODEL.ROI_DENSEPOSE_HEAD.NUM_COARSE_SEGM_CHANNELS", 2),
            *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 160, "MODEL.DEVICE", "cpu"),
        ]
    )
    (folder / "tiny.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    model = build_model(cfg)
    state = model.state_dict()
    for name, value in state.items():  # keeps activations small through untrained layers
        if name.endswith("conv3.norm.weight"):
            value.fill_(0.2)
        if name.endswith(("conv1.norm.weight", "conv2.norm.weight", "shortcut.norm.weight")):
            value.mul_(0.7)
    state["roi_heads.densepose_predictor.ann_index_lowres.bias"][1] += 6
    torch.save({"model": state}, folder / "tiny.pth")
    return folder / "tiny.yaml", folder / "tiny.pth"


def test_the_real_detectron2_by_batches_gives_what_its_predictor_gives(
    tiny_model: tuple[Path, Path], tmp_path: Path
) -> None:
    from densepose import add_densepose_config
    from densepose.converters import ToChartResultConverter
    from detectron2.config import get_cfg
    from detectron2.engine.defaults import DefaultPredictor

    from dsa_fast.densepose.detectron import DensePose
    from dsa_fast.densepose.person_choice import choose_person

    config, weights = tiny_model
    images = [picture(tmp_path / f"{i}.png", i, (96, 48) if i % 2 else (90, 47)) for i in range(6)]
    cfg = get_cfg()
    add_densepose_config(cfg)
    cfg.merge_from_file(str(config))
    cfg.MODEL.WEIGHTS, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = str(weights), 0.0
    predictor = DefaultPredictor(cfg)
    densepose = DensePose(config, weights, min_score=0.0)
    assert len({densepose.group(read_image(image).shape[1:]) for image in images}) == 1
    results = densepose.estimate([densepose.load(image) for image in images])
    found = 0
    for image, result in zip(images, results, strict=True):
        with Image.open(image) as file:
            pixels = np.asarray(file)[:, :, ::-1]
        people = predictor(pixels)["instances"]
        best = choose_person(people.pred_boxes.tensor, people.scores, pixels.shape[:2])
        assert (best is None) == (result is None)
        if best is None or result is None:
            continue
        found += 1
        assert result.score == pytest.approx(float(people.scores[best]), abs=1e-4)
        chart = ToChartResultConverter.convert(people.pred_densepose[best : best + 1], people.pred_boxes[[best]])
        left, top = (int(edge) for edge in people.pred_boxes.tensor[best, :2])
        own = result.iuv[:, top : top + chart.labels.shape[0], left : left + chart.labels.shape[1]]
        labels = chart.labels[: own.shape[1], : own.shape[2]]
        assert (own[0] == labels).double().mean() > 0.98
        uv = (chart.uv[:, : own.shape[1], : own.shape[2]].clamp(0, 1) * 255)[:, own[0] == labels]
        assert ((own[1:, own[0] == labels] - uv).abs() <= 1.01).double().mean() > 0.98
        assert int((result.iuv[0] > 0).sum()) == int((own[0] > 0).sum())
    assert found > 0


def test_configs_and_weights_that_do_not_fit(tiny_model: tuple[Path, Path], tmp_path: Path) -> None:
    from dsa_fast.densepose.detectron import DensePose

    config, weights = tiny_model
    text = config.read_text()
    for name, content, message in (
        ("none.yaml", "MODEL: [", "must be a detectron2 config"),
        ("key.yaml", "MODEL: {NO_SUCH: 1}", "must be a detectron2 config"),
        ("code.yaml", "MODEL: !!python/object/apply:os.getcwd []", "must be a detectron2 config"),
        ("plain.yaml", "MODEL: {META_ARCHITECTURE: GeneralizedRCNN}", "must be for a DensePose model"),
        ("cse.yaml", text.replace("ChartWithConfidencePredictor", "EmbeddingPredictor"), r"\(CSE\)"),
        (
            "wide.yaml",
            text.replace("CONV_HEAD_DIM: 16", "CONV_HEAD_DIM: 24"),
            "weights .* does not fit this network: .* of another shape",
        ),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=message):
            DensePose(tmp_path / name, weights)
    part = dict(list(torch.load(weights, weights_only=True)["model"].items())[1:])
    torch.save(part, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="1 missing"):
        DensePose(config, tmp_path / "part.pth")
    with pytest.raises(ValueError, match="overrides must be keys"):
        DensePose(config, weights, overrides={"MODEL.NO_SUCH": 1})
    with pytest.raises(ValueError, match="min_score must be in 0..1"):
        DensePose(config, weights, min_score=2)
