"""Embedding files, storing vectors and searching them."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from dsa_fast.cli import main
from dsa_fast.deploy.encoder import Encoder
from dsa_fast.deploy.index import VectorIndex
from dsa_fast.deploy.inputs import Item, crop, find_items, read_items
from dsa_fast.deploy.vector_files import PartWriter, Vectors, columns, read_vectors, write_vectors
from dsa_fast.evaluation import PartVisibility, visible_distances
from dsa_fast.models import GuideConfig
from tests.deploy.deployed import as_arrays, save_checkpoint, smooth_images
from tests.fresh import run_fresh


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("search") / "small.ckpt")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten images in two folders, of different sizes."""
    folder = tmp_path / "photos"
    for i, size in enumerate([(64, 32), (80, 40)] * 5):
        path = folder / ("a" if i < 6 else "b") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(as_arrays(smooth_images(1, size, seed=i))[0]).save(path)
    (folder / "notes.txt").write_text("no image")
    return folder


def unit(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def some(count: int, seed: int = 0, encoder: str = "e") -> Vectors:
    items = [
        Item(Path(f"{seed}-{i}.jpg"), i if i % 2 else None, (1, 2, 3, i + 1) if i % 3 else None) for i in range(count)
    ]
    return Vectors(unit(count, seed=seed), encoder=encoder, **columns(items))


# Sources


def test_folders_lists_and_files(photos: Path, tmp_path: Path) -> None:
    items = find_items(photos)
    assert [item.path.name for item in items] == [f"{i}.png" for i in range(10)]
    listed = tmp_path / "list.txt"
    listed.write_text("photos/b/7.png\n\nphotos/a/0.png\n")
    assert [item.path for item in find_items(listed)] == [photos / "b" / "7.png", photos / "a" / "0.png"]
    assert find_items(photos / "a" / "1.png") == [Item(photos / "a" / "1.png")]
    twice = photos / "twice.csv"  # without cameras, queries are in the gallery too
    twice.write_text("path,pid,split\na/1.png,1,query\nb/7.png,2,query\na/1.png,1,gallery\n")
    assert find_items(twice) == [Item(photos / "a" / "1.png"), Item(photos / "b" / "7.png")]
    (tmp_path / "empty").mkdir()
    for wrong, error in ((tmp_path / "none", FileNotFoundError), (tmp_path / "empty", ValueError)):
        with pytest.raises(error, match="images must"):
            find_items(wrong)


def test_tables_with_boxes(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("path,x,y,w,h\nphotos/a/0.png,2,3,10,20\nphotos/a/1.png,-5,-5,10,10\n")
    items = find_items(table)
    assert items[0] == Item(photos / "a" / "0.png", None, (2, 3, 10, 20))
    first, second = read_items(items)
    assert isinstance(first, Tensor) and isinstance(second, Tensor)
    assert torch.equal(first, smooth_images(1, (64, 32), seed=0)[0][:, 3:23, 2:12]) and second.shape == (3, 5, 5)
    for text, message in [
        ("name\nx.png\n", "must have the columns"),
        ("path,x\nx.png,1\n", "must have the columns"),
        ("path,x,y,w,h\nx.png,1,2,3\n", "line 2"),
        ("path,x,y,w,h\nx.png,1,2,0,4\n", "line 2"),
        ("video,frame\nx.mp4,-1\n", "line 2"),
        ("path\n", "at least one image"),
    ]:
        table.write_text(text)
        with pytest.raises(ValueError, match=message):
            find_items(table)


def test_what_cannot_be_read_is_told_in_its_place(photos: Path) -> None:
    items = [*find_items(photos)[:2], Item(photos / "missing.png"), Item(photos / "a" / "0.png", None, (900, 0, 4, 4))]
    got = list(read_items(items))
    assert isinstance(got[0], Tensor) and isinstance(got[1], Tensor)
    assert isinstance(got[2], ValueError) and "missing.png" in str(got[2])
    assert isinstance(got[3], ValueError) and "0.png" in str(got[3]) and "must touch the image" in str(got[3])


@settings(deadline=None)
@given(st.tuples(st.integers(-20, 40), st.integers(-20, 40), st.integers(1, 30), st.integers(1, 30)))
def test_crops_are_what_lies_inside(box: tuple[int, int, int, int]) -> None:
    image = torch.arange(3 * 20 * 15, dtype=torch.int32).view(3, 20, 15)
    x, y, w, h = box
    inside = [(r, c) for r in range(y, y + h) for c in range(x, x + w) if 0 <= r < 20 and 0 <= c < 15]
    if not inside:
        with pytest.raises(ValueError, match="must touch"):
            crop(image, box)
        return
    got = crop(image, box)
    assert got[0].flatten().tolist() == [int(image[0, r, c]) for r, c in inside]


def make_video(path: Path, frames: int = 12) -> list[np.ndarray]:
    """A lossless video; its frames as they should be read."""
    pictures = [as_arrays(smooth_images(1, (48, 64), seed=i))[0] for i in range(frames)]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return pictures


def test_people_are_cut_out_of_a_videos_frames(tmp_path: Path) -> None:
    pictures = make_video(tmp_path / "v.mkv")
    table = tmp_path / "v.csv"
    rows = [(5, 1, 2, 20, 30), (0, 0, 0, 64, 48), (5, 10, 10, 4, 4), (11, 3, 3, 8, 8), (12, 0, 0, 5, 5)]
    table.write_text("video,frame,x,y,w,h\n" + "".join(f"v.mkv,{','.join(map(str, row))}\n" for row in rows))
    items = find_items(table)
    assert [item.frame for item in items] == [0, 5, 5, 11, 12]
    *got, last = read_items(items)
    for item, image in zip(items, got, strict=False):
        assert item.frame is not None and item.box is not None and isinstance(image, Tensor)
        x, y, w, h = item.box
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pictures[item.frame][y : y + h, x : x + w])
    assert isinstance(last, ValueError) and "frame 12" in str(last)
    (tmp_path / "v.mkv").write_bytes(b"no video")
    assert all(isinstance(image, ValueError) for image in read_items(items))


# Files of vectors


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_vectors_come_back_as_they_were(suffix: str, tmp_path: Path) -> None:
    parts = [some(5, seed=1), some(3, seed=2)]
    path = tmp_path / f"v{suffix}"
    write_vectors(path, parts)
    got = read_vectors(path)
    for name in ("vectors", "paths", "frames", "boxes"):
        np.testing.assert_array_equal(getattr(got, name), np.concatenate([getattr(part, name) for part in parts]))
    assert got.encoder == "e" and got.item(1) == parts[0].item(1) and got.item(5) == Item(Path("2-0.jpg"))
    assert got.item(4) == Item(Path("1-4.jpg"), None, (1, 2, 3, 5))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="vectors must be"):
        read_vectors(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_vectors(tmp_path / "none.npz")


def test_the_parts_of_another_run_are_left_alone(tmp_path: Path) -> None:
    items = find_items_of(6)
    writer = PartWriter(tmp_path / "v.npz", items, "e", part=2)
    writer.write(0, items[:2], unit(2))
    assert PartWriter(tmp_path / "v.npz", items, "e", part=2).done == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "v.npz.parts"]
    PartWriter(tmp_path / "w.npz", items, "an encoder that does not load")
    assert PartWriter(tmp_path / "w.npz", items, "e").done == 0
    for others, encoder, part in ((items[1:], "e", 2), (items, "f", 2), (items, "e", 3)):
        with pytest.raises(FileExistsError, match="another's"):
            PartWriter(tmp_path / "v.npz", others, encoder, part=part)
    with pytest.raises(ValueError, match="out must end in"):
        PartWriter(tmp_path / "v.csv", items, "e")
    for number, wanted in list(writer.missing()):
        writer.write(number, wanted, unit(2))
    assert writer.finish() == 6 and [path.name for path in tmp_path.iterdir()] == ["v.npz"]
    with pytest.raises(FileExistsError, match="out must be free"):
        PartWriter(tmp_path / "v.npz", items, "e")


def find_items_of(count: int) -> list[Item]:
    return [Item(Path(f"{i}.png")) for i in range(count)]


#: Runs a command that the kernel ends when it has been given more than seven images; with one thread, as the tests.
KILLED = """
import os, signal, sys
import torch
from dsa_fast.cli import main
from dsa_fast.deploy.encoder import Encoder
seen, real = [], Encoder.__call__
def killed(self, images):
    seen.append(len(images))
    if sum(seen) > 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, images)
Encoder.__call__ = killed
torch.set_num_threads(1)
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_where_it_was(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, straight = tmp_path / "v.parquet", tmp_path / "straight.parquet"
    options = ["--part", "3", "--batch", "2", "--device", "cpu"]
    assert main(["embed", str(checkpoint), str(photos), str(straight), *options]) == 0
    seen: list[int] = []
    real = Encoder.__call__
    done = run_fresh(KILLED, "embed", checkpoint, photos, out, *options)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    monkeypatch.setattr(Encoder, "__call__", lambda self, images: seen.append(len(images)) or real(self, images))
    seen.clear()
    assert main(["embed", str(checkpoint), str(photos), str(out), *options]) == 0
    assert sum(seen) == 4  # two parts of three were done
    one, other = read_vectors(out), read_vectors(straight)
    np.testing.assert_array_equal(one.vectors, other.vectors)
    np.testing.assert_array_equal(one.paths, other.paths)
    expected = Encoder.load(checkpoint, device="cpu")([item.path for item in find_items(photos)])
    np.testing.assert_allclose(one.vectors, expected, atol=1e-5)


def test_unreadable_images_stop_or_are_left_out(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "a" / "3.png").write_bytes(b"no image")
    out = tmp_path / "v.npz"
    arguments = ["embed", str(checkpoint), str(photos), str(out), "--device", "cpu"]
    assert main(arguments) == 1
    assert "3.png" in capsys.readouterr().err
    assert main([*arguments, "--skip_unreadable"]) == 0
    assert "left out" in capsys.readouterr().out and len(read_vectors(out)) == 9


# The index


@pytest.mark.parametrize("kind", ["Flat", "HNSW16", "IVF4,Flat"])
def test_an_index_finds_the_nearest(kind: str, tmp_path: Path) -> None:
    all_of_it, queries = some(300), unit(20, seed=9)
    first = Vectors(*(getattr(all_of_it, name)[:200] for name in ("vectors", "paths", "frames", "boxes")), "e")
    rest = Vectors(*(getattr(all_of_it, name)[200:] for name in ("vectors", "paths", "frames", "boxes")), "e")
    VectorIndex.build(tmp_path / "index", first, kind=kind)
    opened = VectorIndex.open(tmp_path / "index")
    opened.add(rest)
    opened = VectorIndex.open(tmp_path / "index")
    assert len(opened) == 300 and len(list((tmp_path / "index").iterdir())) == 3
    hits = opened.search(queries, 5)
    cosines = queries @ all_of_it.vectors.T
    best = np.argsort(-cosines, axis=1)[:, :5]
    if kind == "Flat":
        np.testing.assert_array_equal(hits.rows, best)
    assert (hits.rows[:, 0] == best[:, 0]).mean() >= (1 if kind == "Flat" else 0.3)
    shown = hits.rows >= 0
    np.testing.assert_allclose(hits.cosines[shown], np.take_along_axis(cosines, hits.rows, 1)[shown], atol=1e-5)
    assert opened.item(250) == all_of_it.item(250)


def test_what_an_index_refuses(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    made = VectorIndex.build(folder, some(10))
    assert len(VectorIndex.build(folder, some(10))) == 10  # the same call again opens what it made
    with pytest.raises(FileExistsError, match="new or empty"):
        VectorIndex.build(folder, some(11))
    with pytest.raises(ValueError, match="another's"):
        made.add(some(3, encoder="other"))
    with pytest.raises(ValueError, match="length 16, got 8"):
        made.add(Vectors(unit(2, 8), **columns(find_items_of(2))))
    with pytest.raises(ValueError, match="kind must be"):
        VectorIndex.build(tmp_path / "x", some(10), kind="Nonsense")
    with pytest.raises(ValueError, match="k must be"):
        made.search(unit(1), 0)
    assert made.search(unit(2), 99).rows.shape == (2, 10)
    with pytest.raises(FileNotFoundError, match=r"no current\.json"):
        VectorIndex.open(tmp_path)
    file = next(folder.glob("*.faiss"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="index is damaged"):
        VectorIndex.open(folder)


def test_an_add_that_was_killed_at_its_end_is_cleared_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new index is complete, but the files of the one before are still there."""
    opened = VectorIndex.build(tmp_path / "index", some(20))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        opened.add(some(5, seed=3))
    assert (tmp_path / "index" / "table-000000.npz").is_file()
    again = VectorIndex.open(tmp_path / "index")
    again.add(some(5, seed=3))
    assert len(again) == 25
    assert not list((tmp_path / "index").glob("*-000000.*")) and len(VectorIndex.open(tmp_path / "index")) == 25


def test_a_killed_add_leaves_the_index_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    VectorIndex.build(folder, some(10))
    opened = VectorIndex.open(folder)
    with monkeypatch.context() as patch:
        patch.setattr("dsa_fast.deploy.index.checksum", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            opened.add(some(5, seed=3))
    again = VectorIndex.open(folder)
    assert len(again) == 10
    again.add(some(5, seed=3))
    assert len(VectorIndex.open(folder)) == 15


def test_the_commands_from_photos_to_a_picture(
    checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, index = tmp_path / "v.parquet", tmp_path / "index"
    assert main(["embed", str(checkpoint), str(photos), str(vectors), "--device", "cpu"]) == 0
    assert main(["search", "build", str(index), str(vectors)]) == 0
    picture, answer = tmp_path / "found.png", tmp_path / "found.json"
    query = ["search", "query", str(index), str(photos / "b"), "--encoder", str(checkpoint), "--k", "3"]
    assert main([*query, "--picture", str(picture), "--json_out", str(answer), "--device", "cpu"]) == 0
    found = json.loads(answer.read_text())
    assert [Path(each["query"]["path"]).name for each in found] == ["6.png", "7.png", "8.png", "9.png"]
    for each in found:
        assert each["found"][0]["path"] == each["query"]["path"] and each["found"][0]["cosine"] > 0.9999
        assert len(each["found"]) == 3
    with Image.open(picture) as image:
        assert image.width > 3 * 76 and image.height > 4 * 160
    assert main(["search", "add", str(index), str(vectors)]) == 0
    assert main(["search", "query", str(index), str(vectors)]) == 0
    capsys.readouterr()
    other = save_checkpoint(tmp_path / "other.ckpt", size=(96, 48))
    assert main([*query[:5], str(other)]) == 1 and "give the encoder of the index" in capsys.readouterr().err
    assert main(query[:4]) == 1 and "encoder must be given" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # only a query draws
        main(["search", "build", str(index), str(vectors), "--picture", "x.png"])


# Matching by visible parts


def seen_vectors(count: int, seed: int = 0) -> Vectors:
    """Unit vectors [global 4 | 3 parts of 4] with visibilities."""
    made = some(count, seed=seed)
    seen = np.random.default_rng(seed).random((count, 3), np.float32)
    return replace(made, visibility=seen * (seen > 0.3), part_dim=4)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_visibilities_come_back_as_they_were(suffix: str, tmp_path: Path) -> None:
    made, file = seen_vectors(6), tmp_path / f"v{suffix}"
    write_vectors(file, [made])
    found = read_vectors(file)
    np.testing.assert_array_equal(found.visibility, made.visibility)
    assert found.part_dim == 4
    write_vectors(file, [some(6)])
    assert read_vectors(file).visibility is None
    for wrong in (replace(made, part_dim=9), replace(made, visibility=made.visibility + 1)):
        write_vectors(file, [wrong])
        with pytest.raises(ValueError, match="part_dim must be|visibility must be in"):
            read_vectors(file)


@pytest.mark.parametrize("kind", ["Flat", "HNSW16", "IVF4,Flat"])
def test_rescoring_sorts_the_found_by_visible_parts(kind: str, tmp_path: Path) -> None:
    first, rest, queries = seen_vectors(100), seen_vectors(60, seed=1), seen_vectors(5, seed=2)
    VectorIndex.build(tmp_path / "index", first, kind=kind).add(rest)
    opened = VectorIndex.open(tmp_path / "index")
    hits, found = (
        opened.rescore(queries.vectors, queries.visibility, 4, candidates=20),
        opened.search(queries.vectors, 20),
    )
    vectors = np.concatenate([first.vectors, rest.vectors])
    seen = np.concatenate([first.visibility, rest.visibility])
    distances = visible_distances(queries.vectors, vectors, PartVisibility(queries.visibility, seen, 4)).numpy()
    for number in range(5):
        near = found.rows[number][found.rows[number] >= 0]
        best = near[np.argsort(distances[number, near], kind="stable")][:4]
        np.testing.assert_array_equal(hits.rows[number, : len(best)], best)
        np.testing.assert_allclose(hits.cosines[number, : len(best)], 1 - distances[number, best], atol=1e-5)
    with pytest.raises(ValueError, match="candidates must be at least k, 4, got 3"):
        opened.rescore(queries.vectors, queries.visibility, 4, candidates=3)
    with pytest.raises(ValueError, match="must have visibilities of body parts if the index has them"):
        opened.add(some(3))


def test_an_index_without_visibilities_does_not_rescore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = VectorIndex.build(tmp_path / "index", some(10))
    with pytest.raises(ValueError, match="index must be made of vectors with visibility"):
        made.rescore(unit(1), np.ones((1, 3), np.float32))
    packed = VectorIndex.build(tmp_path / "packed", seen_vectors(10))

    def refuse(rows: np.ndarray) -> None:
        raise RuntimeError("reconstruct not implemented for this type of index")

    monkeypatch.setattr(packed._index, "reconstruct_batch", refuse)
    with pytest.raises(ValueError, match="of a kind that gives back its vectors, got Flat: reconstruct not"):
        packed.rescore(unit(1), np.ones((1, 3), np.float32))


def test_the_commands_with_visibility(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = save_checkpoint(tmp_path / "dense.ckpt", guide=GuideConfig(dense=0.5, dense_channels=8))
    vectors, index, answer = tmp_path / "v.parquet", tmp_path / "index", tmp_path / "found.json"
    embed = ["embed", str(encoder), str(photos), "--device", "cpu"]
    assert main([*embed, str(vectors), "--visibility", "head", "--part", "4"]) == 0
    assert main([*embed, str(tmp_path / "plain.npz")]) == 0
    made, plain = read_vectors(vectors), read_vectors(tmp_path / "plain.npz")
    np.testing.assert_allclose(made.vectors, plain.vectors, atol=1e-5)
    assert made.visibility is not None and made.visibility.shape == (len(made), 8)
    assert main(["search", "build", str(index), str(vectors)]) == 0
    for source in (photos / "b", vectors):
        query = ["search", "query", str(index), str(source), "--encoder", str(encoder), "--visibility"]
        assert main([*query, "--k", "3", "--json_out", str(answer), "--device", "cpu"]) == 0
        for each in json.loads(answer.read_text()):
            assert each["found"][0]["path"] == each["query"]["path"] and each["found"][0]["cosine"] > 0.9999
    capsys.readouterr()
    assert main(["search", "query", str(index), str(tmp_path / "plain.npz"), "--visibility"]) == 1
    assert "visibility needs queries of dsa-fast embed --visibility head" in capsys.readouterr().err
    bare = save_checkpoint(tmp_path / "bare.ckpt")
    assert main(["embed", str(bare), str(photos), str(tmp_path / "x.npz"), "--visibility", "head"]) == 1
    assert "trained with the dense guide" in capsys.readouterr().err
