"""Stores of IUV maps: lossless, checked, atomic, and taken by data sets in place of a folder; the pack command."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from dsa_fast.cli import main
from dsa_fast.data.dataset import PeopleDataset
from dsa_fast.data.registry import read_dataset
from dsa_fast.data.verify import verify_files
from dsa_fast.densepose import IUVStore, read_iuv, write_iuv
from tests.densepose.maps import random_iuv


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6), st.booleans()), max_size=5))
def test_maps_come_back(tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, int, int, bool]]) -> None:
    path = tmp_path_factory.mktemp("store") / "deep" / "iuv.dsaiuv"
    maps = {}
    for number, (height, width, seed, stray) in enumerate(drawn):
        iuv = random_iuv(height, width, seed)
        if stray:  # u and v on the background are kept too
            iuv[1:] = random_iuv(height, width, seed + 1)[1:]
        maps[f"folder/{9 - number} ü"] = iuv
    store = IUVStore.create(path, maps.items())
    assert list(store) == sorted(maps) and len(store) == len(maps)
    for opened in (store, IUVStore(path), pickle.loads(pickle.dumps(store))):
        for name, iuv in maps.items():
            assert torch.equal(opened[name], iuv) and opened[name].is_contiguous()
            assert opened.size(name) == iuv.shape[1:] and name in opened
            assert torch.equal(read_iuv(path / name), iuv)
    assert [each.name for each in path.parent.iterdir()] == ["iuv.dsaiuv"]
    assert path.read_bytes() == IUVStore.create(path.with_name("again.dsaiuv"), maps.items()).path.read_bytes()


def test_empty_and_full_maps(tmp_path: Path) -> None:
    maps = {"empty": torch.zeros(3, 7, 5, dtype=torch.uint8), "full": torch.full((3, 7, 5), 24, dtype=torch.uint8)}
    store = IUVStore.create(tmp_path / "iuv.dsaiuv", maps.items())
    assert all(torch.equal(store[name], iuv) for name, iuv in maps.items())


def test_a_store_is_smaller_than_the_png_files(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "iuv"
    maps = {path.stem: read_iuv(path) for path in sorted(folder.glob("*/*_[iI][uU][vV].png"))}
    store = IUVStore.create(tmp_path / "iuv.dsaiuv", maps.items())
    for name, iuv in maps.items():
        assert torch.equal(store[name], iuv)
        write_iuv(tmp_path / "map.png", iuv)
        assert store.stored_bytes(name) < 0.85 * (tmp_path / "map.png").stat().st_size


def test_threads_read_the_same(tmp_path: Path) -> None:
    maps = {str(i): random_iuv(20, 10, i) for i in range(30)}
    store = IUVStore.create(tmp_path / "iuv.dsaiuv", maps.items())
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(store.__getitem__, list(maps) * 4))
    assert all(torch.equal(a, b) for a, b in zip(read, list(maps.values()) * 4, strict=True))


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "iuv.dsaiuv"
    IUVStore.create(path, [("old", random_iuv())])

    def broken() -> Iterator[tuple[str, Tensor]]:
        yield "new", random_iuv()
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        IUVStore.create(path, broken())
    assert list(IUVStore(path)) == ["old"] and list(tmp_path.iterdir()) == [path]


def test_bad_maps_and_names_are_refused(tmp_path: Path) -> None:
    path, iuv = tmp_path / "iuv.dsaiuv", random_iuv()
    for items, error, message in (
        ([("a", iuv), ("a", iuv)], ValueError, "names must be lines of text, each once, got 'a'"),
        ([("", iuv)], ValueError, "each once, got ''"),
        ([("a\nb", iuv)], ValueError, "names must be lines"),
        ([("a", iuv.float())], TypeError, "a must be a uint8 tensor, got torch.float32"),
        ([("a", iuv[:2])], ValueError, r"a must have shape \[3, H, W\]"),
        ([("a", torch.full((3, 2, 2), 25, dtype=torch.uint8))], ValueError, "a must hold part ids 0..24 .* got 25"),
    ):
        with pytest.raises(error, match=message):
            IUVStore.create(path, items)
    with pytest.raises(ValueError, match='path must end in ".dsaiuv"'):
        IUVStore.create(tmp_path / "iuv.bin", [])
    assert not list(tmp_path.iterdir())


def test_missing_maps_and_stores_are_named(tmp_path: Path) -> None:
    path = IUVStore.create(tmp_path / "iuv.dsaiuv", [("query/a", random_iuv())]).path
    with pytest.raises(FileNotFoundError, match=r"IUV map not found: query/b in .*iuv\.dsaiuv"):
        read_iuv(path / "query/b")
    with pytest.raises(ValueError, match=r"query/a must be 3 x 4 \(width x height\), got 10 x 12"):
        read_iuv(path / "query/a", size=(4, 3))
    with pytest.raises(FileNotFoundError, match=r"IUV store not found: .*no\.dsaiuv"):
        IUVStore(tmp_path / "no.dsaiuv")
    with pytest.raises(KeyError):
        IUVStore(path)["query/b"]


def test_a_store_written_anew_is_read_anew(tmp_path: Path) -> None:
    for seed in (1, 2):
        path = IUVStore.create(tmp_path / "iuv.dsaiuv", [("a", random_iuv(12 + seed, 10, seed))]).path
        assert torch.equal(read_iuv(path / "a"), random_iuv(12 + seed, 10, seed))


def test_cut_and_damaged_stores_are_refused(tmp_path: Path) -> None:
    maps = {str(i): random_iuv(9, 8, i) for i in range(3)}
    path = IUVStore.create(tmp_path / "iuv.dsaiuv", maps.items()).path
    whole, bad = path.read_bytes(), tmp_path / "bad.dsaiuv"
    for length in range(0, len(whole), 7):
        bad.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"bad\.dsaiuv"):
            IUVStore(bad)
    for at in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[at] ^= 16
        bad.write_bytes(damaged)
        try:
            store = IUVStore(bad)
        except ValueError as error:
            assert "bad.dsaiuv" in str(error)  # noqa: PT017 - it may also open
        else:
            wrong = [name for name in maps if not _reads(store, name, maps[name])]
            assert len(wrong) == 1 or _in_padding(whole, at)


def _reads(store: IUVStore, name: str, expected: Tensor) -> bool:
    try:
        iuv = store[name]
    except ValueError as error:
        assert "another checksum" in str(error)  # noqa: PT017 - one of them may be read
        return False
    assert torch.equal(iuv, expected)
    return True


def _in_padding(whole: bytes, at: int) -> bool:
    start = len(whole) - struct.calcsize("<QQI4x8s") + struct.calcsize("<QQI")
    return start <= at < start + 4


# ------------------------------------------------------------------------------------------------ data sets and pack


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A data set of nine images with maps, in Market-1501's layout."""
    root = tmp_path / "people"
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        (root / split).mkdir(parents=True)
        for i in range(3):
            name = f"{i + 1:04d}_c{'231'[i] if split == 'query' else i + 1}s1_{i:06d}_00"
            Image.new("RGB", (10, 12), (i * 50, 90, 10)).save(root / split / f"{name}.jpg")
            write_iuv(root / "iuv" / split / f"{name}.png", random_iuv(12, 10, hash((split, i)) % 1000))
    return root


def maps_of(root: Path, iuv: Path | None = None) -> list[Tensor]:
    data = read_dataset(root, iuv=iuv)
    return [item["iuv"] for part in (data.train, data.query, data.gallery) for item in PeopleDataset(part)]


def test_a_packed_data_set_reads_the_same(people: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = maps_of(people)
    assert main(["pack", str(people)]) == 0
    told = capsys.readouterr().out
    assert "9 maps of 9 images" in told and "takes precedence" in told
    assert main(["pack", str(people)]) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert main(["pack", str(people), "--overwrite"]) == 0
    store = people / "iuv.dsaiuv"
    for got in (maps_of(people, store), maps_of(people)):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    (people / "iuv").rename(people.parent / "away")
    assert all(torch.equal(a, b) for a, b in zip(maps_of(people), expected, strict=True))
    data = read_dataset(people)
    assert data.train[0].iuv_path == store / "bounding_box_train" / data.train[0].path.stem
    batches = list(DataLoader(PeopleDataset(data.train), batch_size=3, num_workers=1))
    assert torch.equal(batches[0]["iuv"], torch.stack(expected[:3]))


def test_files_in_a_store_are_verified(people: Path, tmp_path: Path) -> None:
    assert main(["pack", str(people)]) == 0
    data = read_dataset(people, iuv=people / "iuv.dsaiuv")
    stamp = tmp_path / "stamp"
    assert verify_files(data.train, stamp=stamp)
    assert not verify_files(data.train, stamp=stamp)
    Image.new("RGB", (4, 4)).save(data.train[0].path)
    with pytest.raises(ValueError, match=r"iuv\.dsaiuv/bounding_box_train/.* must be 4 x 4"):
        verify_files(data.train, stamp=stamp)
    with pytest.raises(FileNotFoundError, match="iuv must be the folder of the IUV maps, or a store"):
        read_dataset(people, iuv=people / "none.dsaiuv")


def test_a_plain_folder_is_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "photos"
    iuv = torch.zeros(3, 8, 4, dtype=torch.uint8)
    iuv[:, 2:6, 1:3] = torch.tensor([2, 9, 7], dtype=torch.uint8)[:, None, None]
    for place in ("a", "deep/b", "c"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8)).save(root / f"{place}.png")
    write_iuv(root / "iuv" / "a.png", iuv)
    write_iuv(root / "iuv" / "deep" / "b.png", iuv)
    assert main(["pack", str(root)]) == 0
    assert "2 maps of 3 images" in capsys.readouterr().out
    store = IUVStore(root / "iuv.dsaiuv")
    assert sorted(store) == ["a", "deep/b"] and torch.equal(store["deep/b"], iuv)
    shutil.rmtree(root / "iuv")
    assert main(["inspect", str(root), "--out", str(tmp_path / "out")]) in (0, 1)
    assert json.loads((tmp_path / "out" / "inspect.json").read_text())["with_map"] == 2


def test_a_dump_is_packed(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images are told by the ends of their paths; who is in the middle is taken; others have no map."""

    data = read_dataset(people)

    def entry(path: str, **more: object) -> dict[str, object]:
        return {"file_name": path, "scores": torch.ones(0), "pred_boxes_XYXY": torch.empty(0, 4), **more}

    train, query = data.train[0].path.name, data.query[0].path.name
    listed = [entry(f"C:\\there\\bounding_box_train\\{train}"), entry(f"/there/query/{query}"), entry("/other.jpg")]
    torch.save(listed, tmp_path / "dump.pkl")
    out = tmp_path / "out.dsaiuv"
    assert main(["pack", str(people), "--out", str(out), "--dump", str(tmp_path / "dump.pkl")]) == 0
    store = IUVStore(out)
    assert list(store) == sorted(f"{p.path.parent.name}/{p.path.stem}" for p in (data.train[0], data.query[0]))
    assert not any(store[name].any() for name in store)
    torch.save([entry(f"/a/query/{query}"), entry(f"/b/query/{query}")], tmp_path / "twice.pkl")
    options = ["--out", str(tmp_path / "twice.dsaiuv"), "--dump", str(tmp_path / "twice.pkl")]
    assert main(["pack", str(people), *options]) == 1
    assert "must name an image once" in capsys.readouterr().err
    torch.save([entry(f"./{train}")], tmp_path / "vague.pkl")
    options = ["--out", str(tmp_path / "twice.dsaiuv"), "--dump", str(tmp_path / "vague.pkl")]
    assert main(["pack", str(people), *options]) == 1
    assert "must identify images uniquely" in capsys.readouterr().err
    torch.save([entry("/other.jpg")], tmp_path / "none.pkl")
    assert main(["pack", str(people), "--out", str(tmp_path / "n.dsaiuv"), "--dump", str(tmp_path / "none.pkl")]) == 1
    assert "must name some of the images" in capsys.readouterr().err
    assert not list(tmp_path.glob("[nt]*.dsaiuv"))
